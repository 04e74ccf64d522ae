//! What each caller takes of this process: connections, requests in a time, turns at the enclave.
//! One caller's load is its own.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use identity::caller::ObservedCaller;

/// Callers that are told apart; more than these share one quota.
const MAX_QUOTAS: usize = 4096;

/// What each caller may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests that reach the enclave or verify something, for each identity, and new connections;
    /// none: no limit.
    pub quota: Option<Quota>,
    /// Connections at a time.
    pub connections: usize,
}

/// Why a caller has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMuch {
    /// When it may ask again, in whole seconds.
    pub retry_after: u32,
}

/// By what callers are told apart: nothing that a caller can choose for itself, as its executable
/// or its group are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Key {
    uid: Option<u32>,
    name: Option<String>,
    socket: Option<String>,
    unit: Option<String>,
    pod: Option<String>,
    container: Option<String>,
}

impl Key {
    fn of(seen: &ObservedCaller) -> Self {
        Self {
            uid: seen.uid,
            name: seen.name.clone(),
            socket: seen.socket.clone(),
            unit: seen.unit.clone(),
            pod: seen.pod.clone(),
            container: seen.container.clone(),
        }
    }
}

/// All callers.
pub struct CallerQuotas {
    limits: Limits,
    /// Names of the policy's identities, in order.
    identities: Vec<String>,
    known: Mutex<Known>,
    /// Of those for whom there is no quota of their own.
    others: Arc<CallerQuota>,
}

#[derive(Default)]
struct Known {
    quotas: BTreeMap<Key, Arc<CallerQuota>>,
    connecting: BTreeMap<ConnectKey, Buckets>,
    next: u64,
}

/// A user at a socket; none for those for whom there is no bucket of their own.
type ConnectKey = Option<(u32, Option<String>)>;
type Buckets = Option<DefaultDirectRateLimiter>;

/// One caller.
pub struct CallerQuota {
    /// No other has it.
    pub id: u64,
    connections: AtomicUsize,
    /// One for each identity of the policy, and one for requests that name none.
    buckets: Vec<Buckets>,
}

impl std::fmt::Debug for CallerQuota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallerQuota")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A connection that is counted, until it is dropped.
#[derive(Debug)]
pub struct Held(Arc<CallerQuota>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

impl CallerQuotas {
    /// With these limits for each caller; requests are counted for each of `identities`.
    pub fn new(limits: Limits, identities: Vec<String>) -> Self {
        let others = Arc::new(CallerQuota::new(0, &limits, identities.len()));
        Self {
            limits,
            identities,
            known: Mutex::new(Known {
                next: 1,
                ..Known::default()
            }),
            others,
        }
    }

    /// The quota of a caller.
    pub fn of(&self, seen: &ObservedCaller) -> Arc<CallerQuota> {
        let key = Key::of(seen);
        let mut known = self.known();
        if let Some(quota) = known.quotas.get(&key) {
            return Arc::clone(quota);
        }
        if known.quotas.len() >= MAX_QUOTAS {
            // Who has nothing open and has not asked for a while is as good as new.
            known
                .quotas
                .retain(|_, quota| !quota.is_as_new(&self.limits));
        }
        if known.quotas.len() >= MAX_QUOTAS {
            return Arc::clone(&self.others);
        }
        let quota = Arc::new(CallerQuota::new(
            known.next,
            &self.limits,
            self.identities.len(),
        ));
        known.next += 1;
        known.quotas.insert(key, Arc::clone(&quota));
        quota
    }

    /// Whether this user may connect to this socket once more now. Asked before anything is found
    /// out about it, which costs more than this.
    pub fn connects(&self, uid: u32, socket: Option<&str>) -> Result<(), TooMuch> {
        let mut known = self.known();
        if known.connecting.len() >= MAX_QUOTAS {
            known
                .connecting
                .retain(|_, bucket| !is_full(bucket, &self.limits));
        }
        let connecting_key = Some((uid, socket.map(str::to_owned)));
        let shared =
            known.connecting.len() >= MAX_QUOTAS && !known.connecting.contains_key(&connecting_key);
        take(
            known
                .connecting
                .entry(if shared { None } else { connecting_key })
                .or_insert_with(|| bucket(&self.limits)),
        )
    }

    /// Counts a connection of this caller; none if it has as many as it may.
    pub fn acquire(&self, quota: &Arc<CallerQuota>) -> Option<Held> {
        let held = Held(Arc::clone(quota));
        // Dropping it gives back also what was one too many.
        (quota.connections.fetch_add(1, Ordering::AcqRel) < self.limits.connections).then_some(held)
    }

    /// Takes one request for this identity out of the quota.
    pub fn take(&self, quota: &CallerQuota, identity: Option<&str>) -> Result<(), TooMuch> {
        let named =
            identity.and_then(|name| self.identities.iter().position(|known| known == name));
        let sole = if self.identities.len() == 1 {
            Some(0)
        } else {
            None
        };
        let place = named.or(sole).unwrap_or(self.identities.len());
        quota.buckets.get(place).map_or(Ok(()), take)
    }

    /// How a metric calls this identity: only by a name that the policy knows.
    pub fn label(&self, identity: Option<&str>) -> &str {
        match identity {
            Some(name) => self
                .identities
                .iter()
                .find(|known| *known == name)
                .map_or("unknown", String::as_str),
            None if self.identities.len() == 1 => &self.identities[0],
            None => "unnamed",
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallerQuota {
    fn new(id: u64, limits: &Limits, identities: usize) -> Self {
        let buckets = (0..=identities).map(|_| bucket(limits)).collect();
        Self {
            id,
            connections: AtomicUsize::new(0),
            buckets,
        }
    }

    fn is_as_new(&self, limits: &Limits) -> bool {
        self.connections.load(Ordering::Acquire) == 0
            && self.buckets.iter().all(|bucket| is_full(bucket, limits))
    }
}

fn bucket(limits: &Limits) -> Buckets {
    limits.quota.map(RateLimiter::direct)
}

fn take(bucket: &Buckets) -> Result<(), TooMuch> {
    let Some(bucket) = bucket else { return Ok(()) };
    bucket.check().map_err(|not_until| {
        let wait = not_until.wait_time_from(DefaultClock::default().now());
        TooMuch {
            retry_after: u32::try_from(wait.as_secs())
                .unwrap_or(u32::MAX)
                .saturating_add(1),
        }
    })
}

/// Whether a whole burst is left. Asking takes it, which only lets its owner wait once more.
fn is_full(bucket: &Buckets, limits: &Limits) -> bool {
    let burst = limits
        .quota
        .map_or(NonZeroU32::MIN, |quota| quota.burst_size());
    bucket
        .as_ref()
        .is_none_or(|bucket| matches!(bucket.check_n(burst), Ok(Ok(()))))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// So many requests at once, and then one in an hour.
    fn hourly(burst: u32) -> Option<Quota> {
        let burst = NonZeroU32::new(burst).unwrap();
        Some(Quota::per_hour(NonZeroU32::MIN).allow_burst(burst))
    }

    fn quotas(quota: Option<Quota>, identities: &[&str]) -> CallerQuotas {
        let limits = Limits {
            quota,
            connections: 2,
        };
        let identities = identities.iter().map(|name| (*name).to_owned());
        CallerQuotas::new(limits, identities.collect())
    }

    fn user(uid: u32) -> ObservedCaller {
        ObservedCaller::ids(uid, 1)
    }

    #[test]
    fn callers_are_told_apart_by_what_they_cannot_choose() {
        let quotas = quotas(None, &["a"]);
        let one = user(1);
        let first = quotas.of(&one).id;
        let some = || Some("x".to_owned());
        let others = [
            user(2),
            ObservedCaller {
                name: some(),
                ..one.clone()
            },
            ObservedCaller {
                socket: some(),
                ..one.clone()
            },
            ObservedCaller {
                unit: some(),
                ..one.clone()
            },
            ObservedCaller {
                pod: some(),
                ..one.clone()
            },
            ObservedCaller {
                container: some(),
                ..one.clone()
            },
        ];
        let mut ids: Vec<u64> = others.iter().map(|seen| quotas.of(seen).id).collect();
        // Their own, each time.
        assert!(
            others
                .iter()
                .zip(&ids)
                .all(|(seen, id)| quotas.of(seen).id == *id)
        );
        ids.push(first);
        ids.sort_unstable();
        ids.dedup();
        assert!(ids.len() == 7 && !ids.contains(&0), "{ids:?}");
        let chosen = ObservedCaller {
            gid: Some(7),
            executable: Some(identity::sha256(b"x")),
            ..one
        };
        let quota = quotas.of(&chosen);
        assert_eq!(quota.id, first);
        assert_eq!(
            format!("{quota:?}"),
            format!("CallerQuota {{ id: {first}, .. }}")
        );
    }

    #[test]
    fn a_caller_has_only_so_many_connections_at_a_time() {
        let quotas = quotas(None, &[]);
        let (one, other) = (quotas.of(&user(1)), quotas.of(&user(2)));
        let held = [quotas.acquire(&one).unwrap(), quotas.acquire(&one).unwrap()];
        for _ in 0..3 {
            assert!(quotas.acquire(&one).is_none());
        }
        assert!(quotas.acquire(&other).is_some());
        drop(held);
        let _again = [quotas.acquire(&one).unwrap(), quotas.acquire(&one).unwrap()];
        assert!(quotas.acquire(&one).is_none());
    }

    #[test]
    fn requests_are_counted_for_each_caller_and_identity() {
        let both = quotas(hourly(2), &["a", "b"]);
        let (one, other) = (both.of(&user(1)), both.of(&user(2)));
        for identity in [Some("a"), Some("b"), None] {
            for _ in 0..2 {
                assert_eq!(both.take(&one, identity), Ok(()), "{identity:?}");
            }
            let wait = both.take(&one, identity).unwrap_err().retry_after;
            assert!((3500..=3601).contains(&wait), "{wait}");
        }
        // What is unknown counts as what names none.
        assert!(both.take(&one, Some("c")).is_err());
        assert_eq!(both.take(&other, Some("a")), Ok(()));
        // Where there is one identity, it is the one that is not named.
        let sole = quotas(hourly(2), &["a"]);
        let one = sole.of(&user(1));
        assert_eq!(sole.take(&one, Some("a")), Ok(()));
        assert_eq!(sole.take(&one, None), Ok(()));
        assert!(sole.take(&one, Some("a")).is_err());
        let none = quotas(None, &["a"]);
        let one = none.of(&user(1));
        assert!((0..1000).all(|_| none.take(&one, None).is_ok() && none.connects(1, None).is_ok()));
    }

    #[test]
    fn a_metric_calls_identities_by_names_that_the_policy_knows() {
        let (both, sole) = (quotas(None, &["a", "b"]), quotas(None, &["a"]));
        for (quotas, identity, label) in [
            (&both, Some("b"), "b"),
            (&both, Some("c"), "unknown"),
            (&both, None, "unnamed"),
            (&sole, Some("a"), "a"),
            (&sole, Some("c"), "unknown"),
            (&sole, None, "a"),
        ] {
            assert_eq!(quotas.label(identity), label);
        }
    }

    #[test]
    fn callers_that_are_too_many_share_a_quota_but_who_is_there_keeps_its_own() {
        let quotas = quotas(hourly(2), &["a"]);
        let (connected, asked, idle) = (
            quotas.of(&user(1)),
            quotas.of(&user(2)),
            quotas.of(&user(3)),
        );
        let _held = quotas.acquire(&connected).unwrap();
        quotas.take(&asked, None).unwrap();
        let rest: Vec<_> = (4..)
            .take(MAX_QUOTAS - 3)
            .map(|uid| quotas.of(&user(uid)))
            .collect();
        // Who has nothing open and asked for nothing makes room.
        let next = u32::try_from(MAX_QUOTAS).unwrap() + 1;
        let new = quotas.of(&user(next));
        let least = rest.last().unwrap().id;
        assert!(new.id > least);
        assert_eq!(quotas.of(&user(1)).id, connected.id);
        assert_eq!(quotas.of(&user(2)).id, asked.id);
        assert!(quotas.of(&user(3)).id > idle.id);
        // Nobody does.
        for uid in next + 1.. {
            let quota = quotas.of(&user(uid));
            if quota.id == 0 {
                break;
            }
            quotas.take(&quota, None).unwrap();
            assert!(uid < 3 * next);
        }
        for uid in [3 * next, 3 * next + 1] {
            assert_eq!(quotas.of(&user(uid)).id, 0);
        }
        assert_eq!(quotas.of(&user(1)).id, connected.id);
    }

    #[test]
    fn a_user_connects_only_so_often_to_a_socket() {
        let quotas = quotas(hourly(2), &[]);
        for (uid, socket) in [(1, None), (2, None), (1, Some("a")), (1, Some("b"))] {
            for _ in 0..2 {
                assert_eq!(quotas.connects(uid, socket), Ok(()));
            }
            assert!(quotas.connects(uid, socket).is_err(), "{uid} {socket:?}");
        }
        // When there are too many, those that are known have their own, and all others one.
        for uid in (10..).take(MAX_QUOTAS - 4) {
            assert_eq!(quotas.connects(uid, None), Ok(()));
        }
        let new = [7001, 7002, 7003].map(|uid| quotas.connects(uid, None).is_ok());
        assert_eq!(new, [true, true, false]);
        assert_eq!(quotas.connects(10, None), Ok(()));
        assert!(quotas.connects(10, None).is_err());
        assert!(quotas.connects(1, Some("a")).is_err());
    }

    #[test]
    fn who_has_not_connected_for_a_while_makes_room() {
        let period = Duration::from_millis(50);
        let burst = NonZeroU32::new(2).unwrap();
        let quota = Quota::with_period(period).unwrap().allow_burst(burst);
        let quotas = quotas(Some(quota), &[]);
        for uid in (10..).take(MAX_QUOTAS) {
            assert_eq!(quotas.connects(uid, None), Ok(()));
        }
        std::thread::sleep(3 * period);
        for uid in 7001..7005 {
            for _ in 0..2 {
                assert_eq!(quotas.connects(uid, None), Ok(()), "{uid}");
            }
        }
    }
}
