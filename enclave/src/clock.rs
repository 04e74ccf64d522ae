//! Time from the NSM, never from the host. Between two of its answers CLOCK_BOOTTIME counts.

use std::time::Duration;

use identity::UnixSeconds;

use crate::Error;
use crate::sync::{MutexGuard, RwLock, read, write};

/// An anchor older than this is not trusted any more.
const MAX_ANCHOR_AGE: Duration = Duration::from_secs(600);

/// Time since boot, counted also while suspended.
pub trait BootClock: Send + Sync + 'static {
    /// CLOCK_BOOTTIME, or what a test says.
    fn now(&self) -> Duration;
}

/// CLOCK_BOOTTIME (clock_gettime(2)).
#[derive(Debug, Clone, Copy, Default)]
pub struct BootTime;

impl BootClock for BootTime {
    fn now(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(
            now.tv_sec.unsigned_abs(),
            u32::try_from(now.tv_nsec).unwrap_or(0),
        )
    }
}

/// The NSM said `nsm` at some moment between `asked` and `answered`.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    nsm: Duration,
    asked: Duration,
    answered: Duration,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Unknown,
    Anchored(Anchor),
    Regressed(Anchor),
}

/// What is known of the time.
#[derive(Debug)]
pub(crate) struct Clock {
    state: RwLock<State>,
}

/// The true time lies between these two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// What is dated takes this one.
    pub(crate) earliest: UnixSeconds,
    /// What expires is checked with this one.
    pub(crate) latest: UnixSeconds,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            state: RwLock::new(State::Unknown),
        }
    }

    /// Takes a time of the NSM. One before the last one stops the clock until the NSM is back where
    /// it was. `_nsm` is still held: who asks later must not be here first, or the time would seem
    /// to go backwards.
    pub(crate) fn anchor<N>(
        &self,
        _nsm: &MutexGuard<'_, N>,
        nsm_ms: u64,
        asked: Duration,
        answered: Duration,
    ) -> Result<(), Error> {
        let new = Anchor {
            nsm: Duration::from_millis(nsm_ms),
            asked,
            answered,
        };
        let mut state = write(&self.state);
        match *state {
            State::Anchored(last) | State::Regressed(last) if new.nsm < last.nsm => {
                *state = State::Regressed(last);
                Err(Error::ClockRegressed)
            }
            _ => {
                *state = State::Anchored(new);
                Ok(())
            }
        }
    }

    /// Bounds of the time at `now` of the boot clock, which is read after the anchor, so that it
    /// cannot lie before it.
    pub(crate) fn bounds(&self, now: impl FnOnce() -> Duration) -> Result<Bounds, Error> {
        let state = read(&self.state);
        match *state {
            State::Unknown => Err(Error::ClockNotAnchored),
            State::Regressed(_) => Err(Error::ClockRegressed),
            State::Anchored(anchor) => anchor.bounds(now()),
        }
    }
}

impl Anchor {
    fn bounds(&self, now: Duration) -> Result<Bounds, Error> {
        let since = now
            .checked_sub(self.answered)
            .ok_or(Error::ClockRegressed)?;
        if since > MAX_ANCHOR_AGE {
            return Err(Error::ClockStale);
        }
        let seconds =
            |time: Duration| UnixSeconds(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
        Ok(Bounds {
            earliest: seconds(self.nsm + since),
            latest: seconds(self.nsm + (now - self.asked)),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::sync::Mutex;

    use super::*;

    fn anchor(
        clock: &Clock,
        nsm_ms: u64,
        asked: Duration,
        answered: Duration,
    ) -> Result<(), Error> {
        clock.anchor(&Mutex::new(()).lock().unwrap(), nsm_ms, asked, answered)
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn time_is_bounded_by_what_the_nsm_said_and_when() {
        let clock = Clock::new();
        assert_eq!(clock.bounds(|| s(5)), Err(Error::ClockNotAnchored));
        // Asked at 10, answered at 13: the NSM's second 1000 lies in between.
        anchor(&clock, 1_000_000, s(10), s(13)).unwrap();
        let bounds = |earliest, latest| {
            Ok(Bounds {
                earliest: UnixSeconds(earliest),
                latest: UnixSeconds(latest),
            })
        };
        assert_eq!(clock.bounds(|| s(13)), bounds(1000, 1003));
        assert_eq!(clock.bounds(|| s(23)), bounds(1010, 1013));
        assert_eq!(clock.bounds(|| s(12)), Err(Error::ClockRegressed));
    }

    #[test]
    fn an_anchor_of_more_than_ten_minutes_stops_signing_until_a_new_one() {
        let clock = Clock::new();
        anchor(&clock, 1_000_000, s(10), s(10)).unwrap();
        assert!(clock.bounds(|| s(610)).is_ok());
        assert_eq!(clock.bounds(|| s(611)), Err(Error::ClockStale));
        anchor(&clock, 1_601_000, s(611), s(611)).unwrap();
        assert!(clock.bounds(|| s(611)).is_ok());
    }

    #[test]
    fn a_time_before_the_last_one_stops_signing_until_the_nsm_is_back() {
        let clock = Clock::new();
        anchor(&clock, 1_000_000, s(10), s(10)).unwrap();
        assert_eq!(
            anchor(&clock, 999_999, s(70), s(70)),
            Err(Error::ClockRegressed)
        );
        assert_eq!(clock.bounds(|| s(70)), Err(Error::ClockRegressed));
        assert_eq!(
            anchor(&clock, 999_999, s(80), s(80)),
            Err(Error::ClockRegressed)
        );
        anchor(&clock, 1_000_000, s(90), s(90)).unwrap();
        assert!(clock.bounds(|| s(90)).is_ok());
    }
}
