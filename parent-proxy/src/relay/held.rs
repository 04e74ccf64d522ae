//! Calls that are held while somebody is asked to approve them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use identity::ApprovalId;
use protocol::PendingApproval;
use tokio::sync::watch;

/// Those that are held now.
#[derive(Debug, Clone, Default)]
pub(crate) struct HeldCalls {
    within: Duration,
    waiting: Arc<Mutex<BTreeMap<ApprovalId, Waiting>>>,
}

#[derive(Debug)]
struct Waiting {
    what: PendingApproval,
    /// Calls that wait for it.
    count: usize,
    approved: watch::Sender<bool>,
}

/// A call that is held, until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldCall {
    id: ApprovalId,
    approved: watch::Receiver<bool>,
    all: HeldCalls,
}

impl HeldCalls {
    /// Each is held so long at most; not at all, if that is nothing.
    pub(crate) fn within(within: Duration) -> Self {
        Self {
            within,
            ..Self::default()
        }
    }

    /// How long one is held at most, if any is.
    pub(crate) fn longest(&self) -> Option<Duration> {
        Some(self.within).filter(|within| !within.is_zero())
    }

    /// Holds a call that waits for this.
    pub(crate) fn hold(&self, what: &PendingApproval) -> HeldCall {
        let mut waiting = self.waiting();
        let waiting = waiting.entry(what.id).or_insert_with(|| Waiting {
            what: what.clone(),
            count: 0,
            approved: watch::Sender::new(false),
        });
        waiting.count += 1;
        HeldCall {
            id: what.id,
            approved: waiting.approved.subscribe(),
            all: self.clone(),
        }
    }

    /// Lets those go on that wait for this.
    pub(crate) fn approved(&self, id: ApprovalId) {
        if let Some(waiting) = self.waiting().get(&id) {
            waiting.approved.send_replace(true);
        }
    }

    /// What they wait for.
    pub(crate) fn all(&self) -> Vec<PendingApproval> {
        let waiting = self.waiting();
        waiting.values().map(|one| one.what.clone()).collect()
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<ApprovalId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldCall {
    /// Waits until it is approved.
    pub(crate) async fn approved(&mut self) {
        if self.approved.wait_for(|approved| *approved).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for HeldCall {
    fn drop(&mut self) {
        let mut waiting = self.all.waiting();
        if let Some(one) = waiting.get_mut(&self.id) {
            one.count -= 1;
            if one.count == 0 {
                waiting.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use identity::BootId;

    use super::*;

    fn waits(id: u8) -> PendingApproval {
        PendingApproval {
            id: ApprovalId::new([id; 16]),
            boot_id: BootId::new([0; 16]),
            request: [0; 32],
            expires_at: 0,
            approved: false,
            canonical: String::new(),
            by: Vec::new(),
        }
    }

    #[tokio::test]
    async fn calls_are_held_until_their_approval_and_listed_while_they_are() {
        let held = HeldCalls::within(Duration::from_secs(1));
        let (mut one, mut same, mut other) = (
            held.hold(&waits(1)),
            held.hold(&waits(1)),
            held.hold(&waits(2)),
        );
        assert_eq!(held.all(), [waits(1), waits(2)]);
        held.approved(ApprovalId::new([3; 16]));
        held.approved(ApprovalId::new([1; 16]));
        one.approved().await;
        same.approved().await;
        let soon = Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, other.approved()).await.is_err());
        drop(one);
        assert_eq!(held.all(), [waits(1), waits(2)]);
        drop(same);
        assert_eq!(held.all(), [waits(2)]);
        // What was approved before does not count for what is held later.
        let mut later = held.hold(&waits(1));
        assert!(tokio::time::timeout(soon, later.approved()).await.is_err());
        drop((other, later));
        assert!(held.all().is_empty());
    }
}
