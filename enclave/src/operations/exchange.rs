//! Token exchange (RFC 8693).

use identity::Caller;
use identity::token::EXCHANGE_ACTION;
use protocol::{Exchange, Signed};

use crate::Error;
use crate::audit::Trail;
use crate::env::Env;
use crate::issue;
use crate::service::Unreleased;
use crate::stages::authenticate::authenticate;
use crate::stages::authority::SubjectAuthority;
use crate::stages::parse::ExchangeRequest;
use crate::stages::{authorize, settle};

/// Takes up a delegation: the answer is a token by which the caller's identity acts for the
/// subject.
pub(crate) fn exchange(
    env: &Env<'_>,
    exchange: Exchange,
    trail: &mut Trail,
) -> Result<Unreleased<Signed>, Error> {
    trail.caller(&Caller::Asserted(exchange.requester.caller.clone()));
    trail.action(EXCHANGE_ACTION);
    let request = ExchangeRequest::parse(exchange)?;
    let asked = authenticate(env, request, trail)?;
    let authority = SubjectAuthority::establish(env, asked, trail)?;
    // From here on the key is held: what is decided about it is signed with it, and no other
    // identity is looked at.
    let key = authority.asked.identity.hold()?;
    let permit = authorize::exchange(env, key.card(), authority, trail)?;
    let settled = settle::exchange(env, permit)?;
    issue::exchanged(env, &key, settled, trail)
}
