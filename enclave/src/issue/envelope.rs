//! Plain envelopes: who did what to what, for whom, and when.

use identity::Signer;
use identity::envelope::Envelope;

use super::Issued;
use crate::Error;
use crate::keys::Deferred;
use crate::stages::authority::Basis;
use crate::stages::authorize::Permitted;
use crate::stages::settle::Settled;

/// An envelope about what was asked. It has no end of validity, and no id: its signature is one.
pub(super) fn signed(signer: &Deferred<'_>, settled: Settled<Permitted>) -> Result<Issued, Error> {
    let (permitted, _) = settled.into_parts();
    let Permitted {
        request,
        basis,
        card,
        from,
        ..
    } = permitted;
    let delegated_by = match basis {
        Basis::Exchanged(behalf) => Some(behalf.sub),
        Basis::Own | Basis::Granted(_) => None,
    };
    let envelope = Envelope {
        action: request.intent.action().to_owned(),
        agent_id: card.agent_id.clone(),
        delegated_by,
        resource: request.intent.resource().to_owned(),
        timestamp: from.0,
    };
    let signed = envelope.sign(&card.kid, signer)?;
    let id = Envelope::id(&signed, signer.public_key())?;
    Ok(Issued {
        signed,
        id,
        expires_at: from.0,
    })
}
