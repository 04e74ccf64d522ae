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
