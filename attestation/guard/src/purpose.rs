//! What a token must have been made for.

use std::sync::Arc;

use identity::token::Claims;

use crate::Error;

/// What a call wants of its token, beyond a good one: as it is made, a token that was signed for
/// one intent.
#[derive(Debug, Clone, Default)]
pub struct Purpose {
    scope: Option<Arc<str>>,
    delegated: bool,
}

impl Purpose {
    /// Only a token whose agent acts for somebody (`act`), whose `intent.action` is this word, and
    /// whose scope holds it (RFC 8693 section 4.2): the rules of the agent's policy let it sign
    /// exactly this, and the one it acts for delegated it.
    #[must_use]
    pub fn scope(self, word: &str) -> Self {
        Self {
            scope: Some(word.into()),
            ..self
        }
    }

    /// Also a token that `POST /token` issued (RFC 8693), if its scope holds the word that is
    /// wanted.
    ///
    /// Such a token says for whom its agent may act, and within what; it names no action, no target
    /// and no payload. No rule of the agent's policy allowed a deed by it, no approval was given
    /// for one, and limits over amounts do not count it: only `[identities.delegation]` (scopes,
    /// resources, audiences), the identity's limits on the number of requests, and a Rego module
    /// with `exchanges = true` were asked. Opt in only where this service itself decides about each
    /// call within the token's scope and resource. Each token is still good for one call.
    #[must_use]
    pub fn delegated(self) -> Self {
        Self {
            delegated: true,
            ..self
        }
    }

    pub(crate) fn check(&self, claims: &Claims) -> Result<(), Error> {
        if claims.is_exchanged() && !self.delegated {
            return Err(Error::TokenExchanged);
        }
        let Some(wanted) = self.scope.as_deref() else {
            return Ok(());
        };
        let holds = claims.act.is_some()
            && claims
                .scope
                .iter()
                .any(|scope| scope.split(' ').any(|word| word == wanted));
        let is_signed_for = claims.is_exchanged() || claims.vouch.intent.action() == wanted;
        if holds && is_signed_for {
            Ok(())
        } else {
            Err(Error::InsufficientScope)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_scope_is_that_of_a_signed_intent_on_somebodys_behalf() {
        let claims = |action: &str, scope: &str, acts: bool| {
            let did = "did:web:agent.example";
            let mut claims = json!({
                "iss": did, "sub": if acts { "user:a" } else { did }, "aud": "x", "iat": 1, "nbf": 1, "exp": 2,
                "jti": "6f1c5b3e-0b6b-4f7e-9c55-1d0c86d3b1aa", "binding": "00".repeat(32), "tee": "mock",
                "caller": {"strength": "asserted", "uid": 1},
                "vouch": {"version": "1.0", "payload": {}, "intent": {"action": action, "target": "", "resource": ""}}
            });
            if acts {
                (claims["act"], claims["scope"]) = (json!({"sub": did}), json!(scope));
            }
            serde_json::from_value::<Claims>(claims).unwrap()
        };
        let signed = claims("comment", "comment", true);
        let wide = claims("read", "comment read", true);
        let own = claims("comment", "", false);
        let exchanged = claims("act", "comment read", true);
        let plain = Purpose::default;
        for claims in [&signed, &wide, &own] {
            assert_eq!(plain().check(claims), Ok(()));
            assert_eq!(plain().delegated().check(claims), Ok(()));
        }
        assert_eq!(plain().check(&exchanged), Err(Error::TokenExchanged));
        assert_eq!(plain().delegated().check(&exchanged), Ok(()));
        // The scope holds the word, but another action was signed.
        assert_eq!(plain().scope("comment").check(&signed), Ok(()));
        assert_eq!(
            plain().scope("comment").check(&wide),
            Err(Error::InsufficientScope)
        );
        assert_eq!(
            plain().scope("comment").check(&own),
            Err(Error::InsufficientScope)
        );
        assert_eq!(
            plain().scope("comment").check(&exchanged),
            Err(Error::TokenExchanged)
        );
        assert_eq!(
            plain().scope("comment").delegated().check(&exchanged),
            Ok(())
        );
        assert_eq!(
            plain().scope("comment").delegated().check(&wide),
            Err(Error::InsufficientScope)
        );
        assert_eq!(
            plain().scope("deploy").delegated().check(&exchanged),
            Err(Error::InsufficientScope)
        );
    }
}
