//! What a handler learns of a call that was let through.

use std::sync::Arc;

use attestation::Verdict;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use identity::token::Claims;

use crate::Error;
use crate::known::Known;

/// A call that was let through, for its handler: what the token says, and what is known of its key.
///
/// As an extractor it refuses, with 401, calls that no [`RequireToken`](crate::RequireToken) has
/// seen.
#[derive(Debug, Clone)]
pub struct Admitted {
    claims: Arc<Claims>,
    known: Arc<Known>,
}

impl Admitted {
    pub(crate) fn new(claims: Claims, known: Arc<Known>) -> Self {
        Self {
            claims: Arc::new(claims),
            known,
        }
    }

    /// What the token says, all of it verified.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The verdict on the evidence for the token's key: kind, image, policy, and every step.
    pub fn verdict(&self) -> &Verdict {
        &self.known.verdict
    }
}

impl<S: Sync> FromRequestParts<S> for Admitted {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or(Error::TokenAbsent)
    }
}
