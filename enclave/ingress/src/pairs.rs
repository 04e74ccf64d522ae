//! The two lines of an agent find each other.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::{LineKind, Ticket};
use tokio::time::Instant;
use upstream::Line;

/// One line waits so long for the other.
const WITHIN: Duration = Duration::from_secs(5);
/// Lines that wait.
const MAX_WAITING: usize = 256;

/// Both lines of an agent, and what holds their places.
pub(crate) struct Pair<P> {
    /// Whose it is: the first half of the number.
    pub(crate) caller: u64,
    pub(crate) agent: Line,
    pub(crate) calls: Line,
    pub(crate) places: [P; 2],
}

/// Lines that wait for the other one, by the number that both show.
pub(crate) struct Pairs<P>(Mutex<BTreeMap<Ticket, Waiting<P>>>);

struct Waiting<P> {
    kind: LineKind,
    line: Line,
    place: P,
    since: Instant,
}

impl<P> Default for Pairs<P> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<P> Pairs<P> {
    /// A line came; gives both, if the other one is there. A second one of a kind ends both.
    pub(crate) fn meet(
        &self,
        (kind, number): (LineKind, Ticket),
        line: Line,
        place: P,
    ) -> Option<Pair<P>> {
        let mut waiting = self.waiting();
        waiting.retain(|_, one| one.since.elapsed() < WITHIN);
        let Some(other) = waiting.remove(&number) else {
            if waiting.len() < MAX_WAITING {
                let since = Instant::now();
                let one = Waiting {
                    kind,
                    line,
                    place,
                    since,
                };
                waiting.insert(number, one);
            }
            return None;
        };
        let places = [other.place, place];
        let caller = number.0.first_chunk().copied().map(u64::from_be_bytes);
        let caller = caller.unwrap_or_default();
        match (other.kind, kind) {
            (LineKind::Agent, LineKind::Calls) => Some(Pair {
                caller,
                agent: other.line,
                calls: line,
                places,
            }),
            (LineKind::Calls, LineKind::Agent) => Some(Pair {
                caller,
                agent: line,
                calls: other.line,
                places,
            }),
            _ => None,
        }
    }

    /// Lines that waited too long are closed.
    pub(crate) fn sweep(&self) {
        self.waiting().retain(|_, one| one.since.elapsed() < WITHIN);
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Ticket, Waiting<P>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lines_of_both_kinds_and_one_number_are_a_pair() {
        let pairs = Pairs::default();
        let meet = |kind, number| {
            let line: Line = Box::new(tokio::io::empty());
            pairs.meet((kind, Ticket([number; 16])), line, ()).is_some()
        };
        use LineKind::{Agent, Calls, Upstream};
        assert!(!meet(Agent, 1) && !meet(Calls, 2));
        assert!(meet(Calls, 1) && meet(Agent, 2));
        // Each once.
        assert!(!meet(Calls, 1) && !meet(Calls, 1) && !meet(Agent, 1));
        assert!(!meet(Upstream, 3) && !meet(Agent, 3));
        for number in 0..=255 {
            meet(Calls, number);
        }
        assert!(pairs.waiting().len() <= MAX_WAITING);
    }
}
