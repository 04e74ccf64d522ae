//! What is public of an identity.

use identity::Caller;
use protocol::{Description, Requester, VersionFacts};

use crate::Error;
use crate::env::Env;

/// Describes an identity to a caller that may use it.
pub(crate) fn describe(env: &Env<'_>, requester: &Requester) -> Result<Description, Error> {
    let identity = env.provisioned.find(requester, env.annex())?;
    // A caller that proves itself may be anybody, and must know for which boot and which version it
    // signs.
    if identity.policy.proven_callers().next().is_none() {
        env.admit(
            &identity.policy,
            &Caller::Asserted(requester.caller.clone()),
        )?;
    }
    let versions = identity.hold()?.versions().to_vec();
    Ok(description(env, &identity.policy.name, versions))
}

/// An identity of this name and these versions.
pub(crate) fn description(env: &Env<'_>, name: &str, versions: Vec<VersionFacts>) -> Description {
    Description {
        name: name.to_owned(),
        versions,
        tee: env.tee,
        boot_id: env.boot_id,
        state: env.provisioned.bound.state,
    }
}
