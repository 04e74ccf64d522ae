//! Vouch tokens: compact JWS.

use identity::Payload;
use identity::token::{self, Claims, Vouch};
use protocol::Signed;

use super::Issued;
use crate::Error;
use crate::audit::Trail;
use crate::env::Env;
use crate::identities::KeyGuard;
use crate::keys::Deferred;
use crate::service::Unreleased;
use crate::stages::authority::{Basis, principals};
use crate::stages::authorize::{Exchange, Permitted};
use crate::stages::settle::Settled;

const VERSION: &str = "1.0";

/// A token about what was asked.
pub(super) fn signed(
    env: &Env<'_>,
    signer: &Deferred<'_>,
    settled: Settled<Permitted>,
) -> Result<Issued, Error> {
    let (permitted, approved) = settled.into_parts();
    let Permitted {
        request,
        caller,
        digest,
        basis,
        card,
        from,
        validity_seconds,
        ..
    } = permitted;
    let scope = matches!(basis, Basis::Exchanged(_)).then(|| request.intent.action().to_owned());
    let (sub, act, mut delegation_chain) = match basis {
        Basis::Exchanged(behalf) => (behalf.sub, Some(behalf.act), behalf.chain),
        Basis::Own | Basis::Granted(_) => (card.did.to_string(), None, Vec::new()),
    };
    delegation_chain.extend(approved.map(|approved| approved.link(card.did.as_str(), digest)));
    let claims = Claims {
        iss: card.did.clone(),
        sub,
        act,
        scope,
        aud: request.audience,
        iat: from.0,
        nbf: from.0,
        exp: from.0 + i64::from(validity_seconds),
        jti: env.uuid()?,
        binding: card.binding_digest,
        tee: env.tee,
        caller,
        vouch: Vouch {
            version: VERSION.into(),
            payload: request.payload,
            intent: request.intent,
            delegation_chain,
        },
    };
    let signed = token::sign(&claims, &card.kid, signer)?;
    Ok(Issued {
        signed,
        id: claims.jti.to_string(),
        expires_at: claims.exp,
    })
}

/// A token by which the agent acts for a subject (RFC 8693 section 2.2.1).
pub(crate) fn exchanged(
    env: &Env<'_>,
    key: &KeyGuard<'_>,
    settled: Settled<Exchange>,
    trail: &mut Trail,
) -> Result<Unreleased<Signed>, Error> {
    let signer = Deferred::new(settled.key(key)?);
    let (permitted, _) = settled.into_parts();
    let Exchange {
        card,
        caller,
        audience,
        subject,
        act,
        scope,
        intent,
        from,
        exp,
    } = permitted;
    trail.delegated(&subject.sub, principals(&subject.sub, &act));
    let mut delegation_chain = subject.chain;
    delegation_chain.push(subject.link);
    let claims = Claims {
        iss: card.did.clone(),
        sub: subject.sub,
        act: Some(act),
        scope: Some(scope.join(" ")),
        aud: audience,
        iat: from.0,
        nbf: from.0,
        exp,
        jti: env.uuid()?,
        binding: card.binding_digest,
        tee: env.tee,
        caller,
        vouch: Vouch {
            version: VERSION.into(),
            payload: Payload::default(),
            intent,
            delegation_chain,
        },
    };
    let (signed, id) = (
        token::sign(&claims, &card.kid, &signer)?,
        claims.jti.to_string(),
    );
    trail.issued(&id, identity::UnixSeconds(exp));
    let signed = Signed {
        signed,
        did: card.did.to_string(),
        signature_id: id,
        expires_at: exp,
        key_version: card.version(),
        identity: card.name.clone(),
        rule: "delegation".into(),
        scope: claims.scope,
    };
    Ok(Unreleased::new(signed, signer.into_unchecked()))
}
