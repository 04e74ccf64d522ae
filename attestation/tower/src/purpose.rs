use std::sync::Arc;

use identity::token::Claims;

use crate::Error;

/// What a call wants of its token, beyond a good one: as it is made, a token that was signed for one intent.
#[derive(Debug, Clone, Default)]
pub struct Purpose {
    scope: Option<Arc<str>>,
    delegated: bool,
}

impl Purpose {
    /// Only a token whose agent acts for somebody (`act`), whose `intent.action` is this word, and whose scope holds it (RFC 8693
    /// section 4.2): the rules of the agent's policy let it sign exactly this, and the one it acts for delegated it.
    #[must_use]
    pub fn scope(self, word: &str) -> Self {
        Self { scope: Some(word.into()), ..self }
    }

    /// Also a token that `POST /token` issued (RFC 8693), if its scope holds the word that is wanted.
    ///
    /// Such a token says for whom its agent may act, and within what; it names no action, no target and no payload. No rule of the
    /// agent's policy allowed a deed by it, no approval was given for one, and limits over amounts do not count it: only
    /// `[identities.delegation]` (scopes, resources, audiences), the identity's limits on the number of requests, and a Rego module
    /// with `exchanges = true` were asked. Opt in only where this service itself decides about each call within the token's scope
    /// and resource. Each token is still good for one call.
    #[must_use]
    pub fn delegated(self) -> Self {
        Self { delegated: true, ..self }
    }

    pub(crate) fn check(&self, claims: &Claims) -> Result<(), Error> {
        if claims.is_exchanged() && !self.delegated {
            return Err(Error::TokenExchanged);
        }
        let Some(wanted) = self.scope.as_deref() else { return Ok(()) };
        let holds = claims.act.is_some() && claims.scope.iter().any(|scope| scope.split(' ').any(|word| word == wanted));
        let is_signed_for = claims.is_exchanged() || claims.vouch.intent.action() == wanted;
        if holds && is_signed_for { Ok(()) } else { Err(Error::InsufficientScope) }
    }
}
