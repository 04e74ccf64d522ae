//! Connections to the service that are kept for the next call of the same credential.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;

use crate::body::CallBody;
use crate::wire::Revoked;

/// Longer, and services close them.
const IDLE: Duration = Duration::from_secs(60);
const MAX_IDLE: usize = 256;

/// Whose credential, and which version of it.
pub(crate) type Owner = ([u8; 32], u64);

/// A connection on which nothing is under way.
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<CallBody>,
    /// SHA-256 of the key that the service showed.
    pub(crate) spki: Option<[u8; 32]>,
}

/// Those that are idle, the newest last.
#[derive(Default)]
pub(crate) struct Pool {
    idle: BTreeMap<Owner, Vec<(Connection, Instant)>>,
    count: usize,
}

impl Pool {
    /// The newest connection of this credential that is still good.
    pub(crate) fn take(&mut self, owner: &Owner) -> Option<Connection> {
        let of_owner = self.idle.get_mut(owner)?;
        let mut found = None;
        while let Some((connection, since)) = of_owner.pop() {
            self.count -= 1;
            if since.elapsed() < IDLE && connection.sender.is_ready() {
                found = Some(connection);
                break;
            }
        }
        if of_owner.is_empty() {
            self.idle.remove(owner);
        }
        found
    }

    /// Keeps a connection.
    pub(crate) fn put(&mut self, owner: Owner, connection: Connection) {
        // A newer credential is in use: what was opened with the older ones is not used again.
        let older = (owner.0, 0)..owner;
        let replaced: Vec<Owner> = self.idle.range(older).map(|(owner, _)| *owner).collect();
        for owner in replaced {
            self.count -= self.idle.remove(&owner).map_or(0, |all| all.len());
        }
        if self.count < MAX_IDLE {
            self.count += 1;
            let of_owner = self.idle.entry(owner).or_default();
            of_owner.push((connection, Instant::now()));
        }
    }

    /// Closes those of a credential.
    pub(crate) fn close(&mut self, revoked: &Revoked) {
        self.idle
            .retain(|(actor, version), _| !revoked.is(actor, *version));
        self.count = self.idle.values().map(Vec::len).sum();
    }

    /// Closes those that have been idle for long.
    pub(crate) fn sweep(&mut self) {
        for of_owner in self.idle.values_mut() {
            of_owner.retain(|(connection, since)| {
                since.elapsed() < IDLE && !connection.sender.is_closed()
            });
        }
        self.idle.retain(|_, of_owner| !of_owner.is_empty());
        self.count = self.idle.values().map(Vec::len).sum();
    }
}
