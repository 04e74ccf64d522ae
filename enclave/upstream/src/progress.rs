//! How far a call has come.

use std::sync::{Arc, Mutex};

use broker::Used;
use identity::json::MAX_SAFE_INTEGER;
use protocol::Ticket;

use crate::counted::Counted;
use crate::shared::unsent;
use crate::sync::lock;
use crate::tokens::Token;
use crate::wire::{Ended, Ending};

/// How far a call has come.
pub(crate) struct Progress {
    pub(crate) status: Option<u16>,
    pub(crate) spki: Option<[u8; 32]>,
    /// What was taken of the body, to be sent.
    pub(crate) sent: Arc<Mutex<Counted>>,
    pub(crate) received: Counted,
    /// What the service says was used, where that is counted.
    pub(crate) used: Option<Used>,
    /// What was put in the credential's place, if it was a token.
    pub(crate) token: Option<Token>,
    /// Whether a token was asked for.
    pub(crate) minted: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            status: None,
            spki: None,
            sent: Arc::new(Mutex::new(Counted::new())),
            received: Counted::new(),
            used: None,
            token: None,
            minted: false,
        }
    }

    pub(crate) fn ended(self, ticket: Ticket, ending: Ending) -> Ended {
        let sent = lock(&self.sent);
        let said = self.used.and_then(Used::said);
        let known = |tokens: u64| tokens.min(MAX_SAFE_INTEGER);
        Ended {
            tokens: said.map(|said| [known(said.input), known(said.output)]),
            status: self.status,
            minted: self.minted,
            spki: self.spki,
            sent: sent.bytes,
            sent_digest: sent.digest(),
            received: self.received.bytes,
            received_digest: self.received.digest(),
            ..unsent(ticket, ending)
        }
    }
}
