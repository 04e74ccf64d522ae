//! Who judges, of what, and by what.

use std::sync::Arc;

use identity::UnixSeconds;

use super::Expectations;
use crate::archive::TimeAnchor;
use crate::{KnownIssuers, MockRoot};

/// What is to be judged.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// An attestation document alone.
    Document(&'a [u8]),
    /// An evidence file alone.
    Evidence(&'a [u8]),
    /// A Vouch token and the evidence for its key.
    Token {
        /// Compact JWS.
        token: &'a str,
        /// Evidence file.
        evidence: &'a [u8],
    },
    /// A Vouch credential and the evidence for its key.
    Credential {
        /// JSON.
        credential: &'a [u8],
        /// Evidence file.
        evidence: &'a [u8],
    },
}

/// A verifier (RFC 9334 section 4): its time, its expectations, and what it is willing to accept
/// beyond genuine documents. The command line, `POST /verify`, the guard and the demonstration all
/// fill in this one.
#[derive(Debug, Clone)]
pub struct Verifier {
    /// The time of verification.
    pub at: UnixSeconds,
    /// What is expected.
    pub expectations: Expectations,
    /// A witness of the time at which document and token existed. With it, both are verified at
    /// their own times, however long ago, and `at` only says that the witness is not of the future.
    pub anchor: Option<Arc<dyn TimeAnchor>>,
    /// Accept documents of debug mode too.
    pub allow_debug: bool,
    /// Accept documents of this mock too.
    pub allow_mock: Option<MockRoot>,
    /// Accept although something that matters was not asked to be checked.
    pub inspect: bool,
    /// Issuers that were verified before, for those who verify many documents: it changes no
    /// verdict, and spares signature checks.
    pub issuers: Option<Arc<KnownIssuers>>,
}

impl Verifier {
    /// A verifier at this time that expects nothing, and therefore refuses everything as
    /// [`Reason::Unchecked`](crate::Reason::Unchecked).
    pub fn at(at: UnixSeconds) -> Self {
        Self {
            at,
            expectations: Expectations::default(),
            anchor: None,
            allow_debug: false,
            allow_mock: None,
            inspect: false,
            issuers: None,
        }
    }
}
