//! Vouch credentials: Data Integrity, `eddsa-jcs-2022`.

use identity::{UnixSeconds, credential};

use super::Issued;
use crate::Error;
use crate::env::Env;
use crate::keys::Deferred;
use crate::stages::authority::Basis;
use crate::stages::authorize::Permitted;
use crate::stages::settle::Settled;

/// A credential about what was asked, or a grant.
pub(super) fn signed(
    env: &Env<'_>,
    signer: &Deferred<'_>,
    settled: Settled<Permitted>,
) -> Result<Issued, Error> {
    let (permitted, _) = settled.into_parts();
    let Permitted {
        request,
        caller,
        basis,
        card,
        from,
        validity_seconds,
        ..
    } = permitted;
    let delegation_chain = match &basis {
        Basis::Granted(granted) => granted.grants.links(&request.intent),
        Basis::Own | Basis::Exchanged(_) => Vec::new(),
    };
    let (id, expires_at) = (env.uuid()?, from.0 + i64::from(validity_seconds));
    let content = credential::Content {
        id,
        issuer: card.did.clone(),
        valid_from: from,
        valid_until: UnixSeconds(expires_at),
        intent: request.intent,
        delegation_chain,
        payload: request.payload,
        audience: request.audience,
        binding: card.binding_digest,
        tee: env.tee,
        caller,
    };
    let signed = credential::sign(content, &card.kid, signer)?.to_string();
    Ok(Issued {
        signed,
        id: id.to_string(),
        expires_at,
    })
}
