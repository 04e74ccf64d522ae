//! A new annex.

use crate::Error;
use crate::audit::Trail;
use crate::env::Env;

/// Takes an annex of the operator. The event names the one that is in force then.
pub(crate) fn load(env: &Env<'_>, signed: &[u8], trail: &mut Trail) -> Result<(), Error> {
    trail.loaded(env.provisioned.load_annex(signed)?);
    let provisioned = env.provisioned;
    if let (Some(credentials), Some(annex)) = (&provisioned.credentials, provisioned.annex()) {
        credentials.revoke(&provisioned.bundle, &annex.0.revoked);
    }
    Ok(())
}
