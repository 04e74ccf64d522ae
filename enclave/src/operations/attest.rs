//! Evidence for a key.

use std::ops::RangeInclusive;

use attestation::{Document, Evidence, POSSESSION_TAG, Possession};
use identity::cose::{self, Purpose};
use identity::{Caller, cbor};
use protocol::Requester;

use crate::Error;
use crate::audit::Trail;
use crate::env::Env;
use crate::identities::{Crossing, IdentityCard};

/// How long a challenge may be.
pub(crate) const NONCE_BYTES: RangeInclusive<usize> = 16..=64;

/// Gives evidence for a key. `document_of` asks the NSM for a document that names the key of a
/// card; it may be slow, and no key is held meanwhile.
pub(crate) fn attest(
    env: &Env<'_>,
    requester: &Requester,
    nonce: &[u8],
    document_of: impl FnOnce(&IdentityCard) -> Result<(Vec<u8>, Document), Error>,
    trail: &mut Trail,
) -> Result<Vec<u8>, Error> {
    let caller = Caller::Asserted(requester.caller.clone());
    trail.caller(&caller);
    let identity = env.provisioned.find(requester, env.annex())?;
    if !NONCE_BYTES.contains(&nonce.len()) {
        return Err(Error::NonceSize);
    }
    let card = identity.card()?;
    trail.identity(&card);
    env.admit(&identity.policy, &caller)?;
    let (bytes, document) = document_of(&card)?;
    let possession = Possession {
        tag: POSSESSION_TAG.into(),
        nonce: nonce.to_vec(),
        document: document.payload_digest().0,
    };
    let key = identity.hold()?;
    if key.card().description != card.description {
        return Err(Error::RotatedMeanwhile);
    }
    let possession = cose::sign(
        Purpose::POSSESSION,
        &cbor::to_vec(&possession),
        key.key(Crossing::Possession),
    )?;
    let provisioned = env.provisioned;
    let bound = &provisioned.bound;
    Ok(Evidence::new(
        bytes,
        card.description.clone(),
        provisioned.canonical.clone(),
        bound.record_spki.clone(),
        bound.state,
        possession,
    )
    .to_vec())
}
