//! Proxied routes: an agent asks for `/<service>/<path>`, and the enclave asks the service, with a
//! credential that neither the agent nor this process sees.
//!
//! ```text
//! agent ── HTTP ──> handler ── OpenCredential, with the sealed credential ──> enclave: decides, records
//!                      |                                                        | ticket
//!                      |<───────────────────────────────────────────────────────
//!                      └── ticket, body ──> line for calls ──> the enclave's process for the service
//!                              dials the service, lends that line ──────────────┘ TLS ends there
//! ```
//!
//! Agents that come as to a proxy (`CONNECT`) have a tunnel to the enclave's ingress process, where their TLS ends. That asks for calls over a
//! line of its own, and this process passes on what it cannot read.

mod call;
mod dial;
mod held;
mod placeholders;
mod store;
mod tunnels;
mod websocket;

pub(crate) use self::call::{CallError, Calls, Closing};
pub(crate) use self::dial::{Addresses, NoLine};
pub(crate) use self::held::HeldCalls;
pub(crate) use self::placeholders::{Held, Holder, Placeholders, WhileHeld, not_held};
pub(crate) use self::store::{BucketPlace, CredentialPlace};
pub(crate) use self::store::{Kept, Store, StoreError};
pub(crate) use self::tunnels::{Asking, Tunnels};
pub(crate) use self::websocket::Socket;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use callers::Localhost;
use tokio::sync::watch;

/// Calls of one caller at a time.
const MAX_CALLS: usize = 64;
/// Long bodies that are kept in memory at a time, of one caller and of all: 16 MiB each.
const MAX_LARGE: usize = 2;
const MAX_LARGE_OF_ALL: usize = 16;

/// What proxied routes need beside the rest.
pub(crate) struct Relay {
    pub(crate) store: Store,
    pub(crate) calls: Calls,
    /// Who may come to the TCP port, beside those who hold placeholders.
    pub(crate) localhost: Option<Localhost>,
    /// The Unix socket.
    pub(crate) socket: PathBuf,
    pub(crate) placeholders: Placeholders,
    /// Of agents that come as to a proxy.
    pub(crate) tunnels: Tunnels,
    /// While somebody is asked to approve them.
    pub(crate) held: HeldCalls,
    /// Ends of calls that are to be recorded still.
    pub(crate) ends: Ends,
    under_way: Arc<Counts>,
    large: Arc<Counts>,
}

/// What is counted until it is done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ends(Arc<watch::Sender<usize>>);

/// One that is to be done.
#[derive(Debug)]
pub(crate) struct End(Ends);

impl Ends {
    pub(crate) fn begin(&self) -> End {
        self.0.send_modify(|open| *open += 1);
        End(self.clone())
    }

    /// Waits until there is none.
    pub(crate) async fn none(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open == 0).await;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.0.0.send_modify(|open| *open -= 1);
    }
}

/// How many there are, of each caller.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<BTreeMap<u64, usize>>);

/// One that is counted, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    of: u64,
    all: Arc<Counts>,
}

impl Counts {
    /// One more of this caller's; none if it has as many as it may, or if all have.
    fn begin(self: &Arc<Self>, caller: u64, most: usize, most_of_all: usize) -> Option<UnderWay> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = all.values().sum();
        let count = all.entry(caller).or_default();
        if *count >= most || total >= most_of_all {
            return None;
        }
        *count += 1;
        Some(UnderWay {
            of: caller,
            all: Arc::clone(self),
        })
    }
}

impl Relay {
    pub(crate) fn new(
        store: Store,
        calls: Calls,
        localhost: Option<Localhost>,
        socket: PathBuf,
        tunnels: Tunnels,
        held: HeldCalls,
    ) -> Self {
        Self {
            store,
            calls,
            localhost,
            socket,
            placeholders: Placeholders::default(),
            tunnels,
            held,
            ends: Ends::default(),
            under_way: Arc::default(),
            large: Arc::default(),
        }
    }

    /// A place for a long body of this caller's that is kept in memory, if there is one.
    pub(crate) fn large_body(&self, caller: u64) -> Option<UnderWay> {
        self.large.begin(caller, MAX_LARGE, MAX_LARGE_OF_ALL)
    }

    /// Counts a call of this caller; none if it has as many as it may.
    pub(crate) fn begin(&self, caller: u64) -> Option<UnderWay> {
        self.under_way.begin(caller, MAX_CALLS, usize::MAX)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.of);
            }
        }
    }
}
