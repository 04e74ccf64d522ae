//! Which refusals make events of the record. Who asks again and again for what it may not have must
//! not fill the record's disk, since without a record nothing is signed.

use std::collections::BTreeMap;
use std::time::Duration;

use identity::{Caller, json};

/// So many refusals of one caller make events at once,
const BURST: u32 = 256;
/// and then one more after each of these.
const INTERVAL: Duration = Duration::from_secs(6);
/// Callers that are told apart; more than these share one budget.
const MAX_CALLERS: usize = 1024;

/// The budgets of all callers.
#[derive(Default)]
pub(crate) struct Refusals {
    /// By what a caller cannot choose for itself, as JSON.
    known: BTreeMap<Vec<u8>, Budget>,
    others: Budget,
    /// Of what no caller asked, by type of event: as many as there are types.
    of_nobody: BTreeMap<Vec<u8>, Budget>,
    /// Refusals that made no event, of callers that are told apart no more.
    forgotten: u64,
}

struct Budget {
    left: u32,
    /// Up to when `left` has been filled up, on the boot clock.
    filled: Duration,
    /// Refusals that made no event since the last one that did.
    unrecorded: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            left: BURST,
            filled: Duration::ZERO,
            unrecorded: 0,
        }
    }
}

impl Refusals {
    /// Whether a refusal of this caller makes an event: if so, how many made none since the last
    /// one that did. What no caller asked has a budget for each type of event: forged approvals
    /// must not silence refused annexes.
    pub(crate) fn record(
        &mut self,
        event_type: &str,
        caller: Option<&Caller>,
        now: Duration,
    ) -> Option<u64> {
        let key = caller.and_then(|caller| json::canonical(&caller.without_its_choices()).ok());
        let key = key.unwrap_or_else(|| event_type.as_bytes().to_vec());
        if self.known.len() >= MAX_CALLERS && !self.known.contains_key(&key) {
            // What is full is as good as new, but for the count that it owes, which is not lost.
            let forgotten = &mut self.forgotten;
            self.known.retain(|_, budget| {
                let keeps = !budget.is_full(now);
                *forgotten = forgotten.saturating_add(if keeps { 0 } else { budget.unrecorded });
                keeps
            });
        }
        let shared = self.known.len() >= MAX_CALLERS && !self.known.contains_key(&key);
        let budget = match caller {
            None => self.of_nobody.entry(key).or_default(),
            Some(_) if shared => &mut self.others,
            Some(_) => self.known.entry(key).or_default(),
        };
        let own = budget.take(now)?;
        Some(own.saturating_add(std::mem::take(&mut self.forgotten)))
    }
}

impl Budget {
    fn fill(&mut self, now: Duration) {
        let intervals = now.saturating_sub(self.filled).as_secs() / INTERVAL.as_secs();
        self.left = u32::try_from(intervals)
            .unwrap_or(BURST)
            .saturating_add(self.left)
            .min(BURST);
        self.filled += Duration::from_secs(intervals * INTERVAL.as_secs());
    }

    fn take(&mut self, now: Duration) -> Option<u64> {
        self.fill(now);
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.unrecorded))
            }
            None => {
                self.unrecorded = self.unrecorded.saturating_add(1);
                None
            }
        }
    }

    fn is_full(&mut self, now: Duration) -> bool {
        self.fill(now);
        self.left == BURST
    }
}

#[cfg(test)]
mod tests {
    use identity::caller::{ObservedCaller, Proven};

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn uid(uid: u32) -> Caller {
        Caller::Asserted(ObservedCaller::ids(uid, 1))
    }

    #[test]
    fn a_callers_refusals_make_only_so_many_events_and_the_next_one_says_how_many_made_none() {
        let mut refusals = Refusals::default();
        let mut record = |caller: &Caller, at| refusals.record("token.sign", Some(caller), at);
        for _ in 0..BURST {
            assert_eq!(record(&uid(1), s(1000)), Some(0));
        }
        for _ in 0..5 {
            assert_eq!(record(&uid(1), s(1000)), None);
        }
        // Another group, executable or label makes nobody somebody else; another user, socket or
        // key does.
        let same = ObservedCaller {
            executable: Some(identity::sha256(b"x")),
            label: Some("l".into()),
            ..ObservedCaller::ids(1, 2)
        };
        assert_eq!(record(&Caller::Asserted(same), s(1000)), None);
        assert_eq!(record(&uid(2), s(1000)), Some(0));
        assert_eq!(
            record(
                &Caller::Asserted(ObservedCaller {
                    socket: Some("s".into()),
                    ..ObservedCaller::ids(1, 1)
                }),
                s(1000)
            ),
            Some(0)
        );
        let proven = Caller::Proven(Proven {
            key: "k".into(),
            measurement: None,
            name: "n".into(),
        });
        assert_eq!(record(&proven, s(1000)), Some(0));
        assert_eq!(record(&uid(1), s(1000) + INTERVAL - s(5)), None);
        assert_eq!(record(&uid(1), s(1000) + INTERVAL), Some(7));
        assert_eq!(record(&uid(1), s(1000) + INTERVAL), None);
        assert_eq!(record(&uid(1), s(1000) + 2 * INTERVAL), Some(1));
        // What no caller asked is counted by what it is.
        for _ in 0..=BURST {
            refusals.record("approval.grant", None, s(1000));
        }
        assert_eq!(refusals.record("approval.grant", None, s(1000)), None);
        assert_eq!(refusals.record("annex.load", None, s(1000)), Some(0));
        let mut record = |caller: &Caller, at| refusals.record("token.sign", Some(caller), at);
        // After a long time it has a whole burst, and no more.
        let made = (0..2 * BURST)
            .filter(|_| record(&uid(1), s(1_000_000)).is_some())
            .count();
        assert_eq!(made, BURST as usize);
    }

    #[test]
    fn the_table_of_budgets_has_its_bound_and_forgets_no_count() {
        let mut refusals = Refusals::default();
        for _ in 0..=BURST {
            refusals.record("token.sign", Some(&uid(0)), s(1));
        }
        for other in 1..5000 {
            refusals.record("token.sign", Some(&uid(other)), s(1));
            assert!(refusals.known.len() <= MAX_CALLERS);
        }
        // Those that came too late share one budget, and it is used up.
        assert_eq!(refusals.record("token.sign", Some(&uid(9999)), s(1)), None);
        // But not with what no caller asked.
        assert_eq!(refusals.record("approval.grant", None, s(1)), Some(0));
        // Those who used theirs up and left make room later, and the next event has the counts that
        // they owed.
        let owed = 1 + refusals.others.unrecorded;
        for other in 1..5000 {
            assert!(
                refusals
                    .record("token.sign", Some(&uid(other)), s(100_000))
                    .is_some()
                    || other > 1024
            );
        }
        let carried = refusals.forgotten + refusals.others.unrecorded;
        assert!(
            refusals.known.len() <= MAX_CALLERS && carried < owed + 5000,
            "{carried}"
        );
    }

    #[test]
    fn who_is_as_new_makes_room_once_there_is_none_and_leaves_what_it_owes() {
        let mut refusals = Refusals::default();
        let mut record = |caller: u32, at| refusals.record("token.sign", Some(&uid(caller)), s(at));
        for _ in 0..BURST + 3 {
            record(0, 1);
        }
        // Long after, it is as new; while there is room, what it owes is its own.
        let later = 1 + u64::from(BURST) * INTERVAL.as_secs();
        for other in 1..MAX_CALLERS {
            assert_eq!(record(u32::try_from(other).unwrap(), later), Some(0));
        }
        // Who is known needs no room.
        assert_eq!(record(1, later), Some(0));
        // Who is not has it now, and tells what was owed.
        assert_eq!(record(5000, later), Some(3));
        assert_eq!(refusals.known.len(), MAX_CALLERS);
        let one = json::canonical(&uid(1).without_its_choices()).unwrap();
        assert!(refusals.known.contains_key(&one));
        // Nobody makes room who was refused a moment ago: those that come have one budget.
        let mut record = |caller: u32| refusals.record("token.sign", Some(&uid(caller)), s(later));
        for _ in 0..BURST {
            assert_eq!(record(6000), Some(0));
        }
        assert_eq!((record(6001), record(1)), (None, Some(0)));
    }
}
