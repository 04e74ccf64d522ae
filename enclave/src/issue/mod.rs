//! Makes what was settled: one file for each format.

mod credential;
mod envelope;
mod token;

use identity::Format;
use protocol::Signed;

pub(crate) use token::exchanged;

use crate::Error;
use crate::audit::Trail;
use crate::env::Env;
use crate::identities::KeyGuard;
use crate::keys::Deferred;
use crate::service::Unreleased;
use crate::stages::authorize::Permitted;
use crate::stages::settle::Settled;

/// What was made, by what it is known, and until when it is valid, in seconds since 1970.
struct Issued {
    signed: String,
    id: String,
    expires_at: i64,
}

/// Signs what was settled with the key that it was permitted for.
pub(crate) fn sign(
    env: &Env<'_>,
    key: &KeyGuard<'_>,
    settled: Settled<Permitted>,
    trail: &mut Trail,
) -> Result<Unreleased<Signed>, Error> {
    let signer = Deferred::new(settled.key(key)?);
    let (card, rule) = (settled.what().card.clone(), settled.what().rule.clone());
    let issued = match settled.what().request.format {
        Format::VouchJwt => token::signed(env, &signer, settled)?,
        Format::VouchCredential => credential::signed(env, &signer, settled)?,
        Format::Envelope => envelope::signed(&signer, settled)?,
    };
    trail.issued(&issued.id, identity::UnixSeconds(issued.expires_at));
    let signed = Signed {
        signed: issued.signed,
        did: card.did.to_string(),
        signature_id: issued.id,
        expires_at: issued.expires_at,
        key_version: card.version(),
        identity: card.name.clone(),
        rule,
        scope: None,
    };
    Ok(Unreleased::new(signed, signer.into_unchecked()))
}
