//! Who is calling. On a Unix socket the kernel says so; on localhost a token does, and browsers are kept out.

use std::net::SocketAddr;

use attestation::policy::{self, Bundle};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use subtle::ConstantTimeEq;
use tokio::net::UnixStream;

use crate::config::Localhost;

/// User and group id that stand for "cannot be named here" (user_namespaces(7)).
const OVERFLOW_ID: u32 = 65534;

/// A caller as this process saw it: its claim towards the enclave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// As the enclave is told.
    pub(crate) claim: protocol::Caller,
    /// Whether any identity of the policy names it.
    pub(crate) admitted: bool,
    /// Whether it is this process' own user, or root.
    pub(crate) own: bool,
}

/// Why a caller is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum TurnedAway {
    /// The kernel could not say who it is.
    CallerUnknown,
    /// No token, or no known one.
    TokenInvalid,
    /// `Host` is not this server.
    ForeignHost,
    /// A browser sent it from some page.
    ForeignOrigin,
}

impl Caller {
    /// The peer of a Unix socket, as SO_PEERCRED showed it at connect(2). A pid of 0 is one that cannot be seen from here.
    pub(crate) fn of_peer(stream: &UnixStream, policy: &Bundle) -> Result<Self, TurnedAway> {
        let peer = stream.peer_cred().map_err(|_| TurnedAway::CallerUnknown)?;
        let (uid, gid) = (peer.uid(), peer.gid());
        if uid == OVERFLOW_ID || peer.pid().is_none_or(|pid| pid <= 0) {
            return Err(TurnedAway::CallerUnknown);
        }
        let admitted = admits(policy, &policy::Caller::Unix { uid, gid });
        let own = uid == 0 || uid == rustix::process::geteuid().as_raw();
        Ok(Self { claim: protocol::Caller::Unix { uid, gid }, admitted, own })
    }

    /// A request on localhost: for this host, from no web page, with a token of a caller.
    pub(crate) fn of_headers(headers: &HeaderMap, localhost: &Localhost, policy: &Bundle) -> Result<Self, TurnedAway> {
        check_host(headers, localhost.listen)?;
        if headers.contains_key(ORIGIN) {
            return Err(TurnedAway::ForeignOrigin);
        }
        let shown =
            headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
        let shown = shown.ok_or(TurnedAway::TokenInvalid)?;
        // Every token is compared, whichever matches.
        let mut found = None;
        for caller in &localhost.callers {
            if bool::from(caller.token.as_bytes().ct_eq(shown.as_bytes())) {
                found = Some(&caller.name);
            }
        }
        let name = found.ok_or(TurnedAway::TokenInvalid)?.clone();
        let admitted = admits(policy, &policy::Caller::Named(name.clone()));
        Ok(Self { claim: protocol::Caller::Named(name), admitted, own: false })
    }
}

fn admits(policy: &Bundle, caller: &policy::Caller) -> bool {
    policy.identities.iter().any(|identity| identity.callers.admit(caller) || identity.may_rotate(caller))
}

/// Exactly one `Host`, and it names this listener: a page that had its name rebound to 127.0.0.1 sends its own.
fn check_host(headers: &HeaderMap, listen: SocketAddr) -> Result<(), TurnedAway> {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(TurnedAway::ForeignHost);
    };
    let good = [format!("localhost:{}", listen.port()), listen.to_string()];
    if good.iter().any(|good| host.as_bytes() == good.as_bytes()) { Ok(()) } else { Err(TurnedAway::ForeignHost) }
}
