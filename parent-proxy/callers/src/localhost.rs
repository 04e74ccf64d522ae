//! Callers on localhost: a token says who they are, and browsers are kept out.

use std::net::SocketAddr;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, ORIGIN};
use identity::caller::ObservedCaller;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::turned_away::TurnedAway;

/// A TCP listener on a loopback address.
#[derive(Debug)]
pub struct Localhost {
    /// The address.
    pub listen: SocketAddr,
    /// Who may call.
    pub callers: Vec<LocalhostCaller>,
}

/// A caller on localhost: the one who shows this token.
#[derive(Debug)]
pub struct LocalhostCaller {
    /// The name that the policy knows.
    pub name: String,
    /// At least 32 characters.
    pub token: Zeroizing<String>,
    /// Whether it may read the metrics.
    pub operator: bool,
}

impl Localhost {
    /// A request on localhost: for this host, from no web page, with a token of a caller.
    pub fn caller(&self, headers: &HeaderMap) -> Result<ObservedCaller, TurnedAway> {
        check_host(headers, self.listen)?;
        if headers.contains_key(ORIGIN) {
            return Err(TurnedAway::ForeignOrigin);
        }
        let presented = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let presented = presented.ok_or(TurnedAway::TokenInvalid)?;
        // Every token is compared, whichever matches.
        let mut found = None;
        for caller in &self.callers {
            if bool::from(caller.token.as_bytes().ct_eq(presented.as_bytes())) {
                found = Some(&caller.name);
            }
        }
        let name = found.ok_or(TurnedAway::TokenInvalid)?.clone();
        Ok(ObservedCaller::named(name))
    }
}

/// Exactly one `Host`, and it names this listener: a page that had its name rebound to 127.0.0.1
/// sends its own.
fn check_host(headers: &HeaderMap, listen: SocketAddr) -> Result<(), TurnedAway> {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(TurnedAway::ForeignHost);
    };
    let good = [format!("localhost:{}", listen.port()), listen.to_string()];
    if good.iter().any(|good| host.as_bytes() == good.as_bytes()) {
        Ok(())
    } else {
        Err(TurnedAway::ForeignHost)
    }
}
