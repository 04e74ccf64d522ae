//! A signature.

use identity::Caller;
use protocol::{Answer, Sign};

use crate::Error;
use crate::audit::Trail;
use crate::env::Env;
use crate::issue;
use crate::service::Unreleased;
use crate::stages::authenticate::authenticate;
use crate::stages::authority::Authority;
use crate::stages::authorize;
use crate::stages::parse::SignRequest;
use crate::stages::settle::{self, Settling};

/// Signs what is asked, or lets it wait for an approval.
pub(crate) fn sign(
    env: &Env<'_>,
    sign: Sign,
    trail: &mut Trail,
) -> Result<Unreleased<Answer>, Error> {
    trail.caller(&Caller::Asserted(sign.requester.caller.clone()));
    let request = SignRequest::parse(sign, trail)?;
    let asked = authenticate(env, request, trail)?;
    let authority = Authority::establish(env, asked, trail)?;
    // From here on the key is held: what is decided about it is signed with it, and no other
    // identity is looked at.
    let key = authority.asked.identity.hold()?;
    let permit = authorize::sign(env, key.card(), authority, trail)?;
    match settle::sign(env, permit, trail)? {
        Settling::Pending(waiting) => Ok(Answer::PendingApproval(waiting).into()),
        Settling::Settled(settled) => {
            issue::sign(env, &key, *settled, trail).map(|signed| signed.map(Answer::Signed))
        }
    }
}
