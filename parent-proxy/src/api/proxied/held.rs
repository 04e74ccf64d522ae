//! A call that is held while somebody is asked to approve it.

use std::sync::Arc;
use std::time::Duration;

use callers::{Caller, TurnedAway};
use protocol::{Answer, PendingApproval, Request};
use tokio::time::sleep;
use tracing::info;

use super::waits;
use crate::api::{App, Problem, now};
use crate::relay::{Relay, WhileHeld, not_held};

/// Returns when it is approved. Refused is it when nobody does in time, when its placeholder is not good any
/// more, and when the sidecar ends.
pub(super) async fn until_approved(
    app: &Arc<App>,
    (relay, caller): (&Relay, &Caller),
    waiting: &PendingApproval,
    while_held: &mut Option<WhileHeld>,
) -> Result<(), Problem> {
    let longest = relay.held.longest().ok_or_else(|| waits(waiting))?;
    let mut held = relay.held.hold(waiting);
    let mut stopped = relay.tunnels.place();
    let (id, by) = (waiting.id, waiting.by.join(", "));
    info!(approval = %id, by, "a call is held until it is approved");
    let is_approved = async || {
        let looked = app.ask(&caller.quota, Request::GetApproval { id });
        matches!(looked.await, Ok(Answer::PendingApproval(now)) if now.approved)
    };
    // Who approved it a moment ago is not heard any more.
    if is_approved().await {
        return Ok(());
    }
    tokio::select! {
        biased;
        () = stopped.until_stopped() => Err(waits(waiting)),
        () = not_held(while_held) => Err(TurnedAway::TokenInvalid.into()),
        () = held.approved() => Ok(()),
        // Nor is an approval that came another way, or of which the answer was lost.
        () = sleep(longest.min(lasts(waiting))) => match is_approved().await {
            true => Ok(()),
            false => Err(waits(waiting)),
        },
    }
}

/// How long it can still be approved.
fn lasts(waiting: &PendingApproval) -> Duration {
    let left = waiting.expires_at.saturating_sub(now().0);
    Duration::from_secs(left.try_into().unwrap_or_default())
}
