//! How much one peer may ask: requests by a token bucket, connections by their number.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota};
use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderValue};
use ipnet::IpNet;

use crate::answer::Refusal;
use crate::room::Peer;

/// After so many requests peers that did not come again are forgotten.
const FORGET_AFTER: u64 = 10_000;
/// Calls of gRPC at once, of all and of one peer.
pub const CALLS: u32 = 512;
const CALLS_OF_PEER: usize = 128;
/// In what proxies in front write down who asked them.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// What else they say of that; from others it is not believed.
const OF_PROXIES: [&str; 4] = [
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-real-ip",
];

/// The limits, and where each peer stands.
#[derive(Debug, Default)]
pub struct Limits {
    requests: Option<DefaultKeyedRateLimiter<Peer>>,
    asked: AtomicU64,
    most_connections: Option<usize>,
    connections: Arc<Mutex<BTreeMap<Peer, usize>>>,
    calls: Arc<Mutex<BTreeMap<Peer, usize>>>,
    proxies: Vec<IpNet>,
}

/// A connection that counts.
#[derive(Debug)]
pub struct Place {
    peer: Peer,
    connections: Arc<Mutex<BTreeMap<Peer, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = connections.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.peer);
            }
        }
    }
}

fn place(
    taken: &Arc<Mutex<BTreeMap<Peer, usize>>>,
    peer: Peer,
    most: usize,
    of_all: usize,
) -> Option<Place> {
    let mut counts = taken.lock().unwrap_or_else(PoisonError::into_inner);
    let all: usize = if of_all == usize::MAX {
        0
    } else {
        counts.values().sum()
    };
    let count = counts.get(&peer).copied().unwrap_or_default();
    if count >= most || all >= of_all {
        return None;
    }
    counts.insert(peer, count + 1);
    Some(Place {
        peer,
        connections: Arc::clone(taken),
    })
}

impl Limits {
    /// So many requests a second, and so many at once, of each peer; so many connections of each. What
    /// proxies in these networks say of who asked them is believed.
    pub fn new(
        requests: Option<(NonZeroU32, NonZeroU32)>,
        most_connections: Option<usize>,
        proxies: Vec<IpNet>,
    ) -> Self {
        let quota = |(rate, burst)| Quota::per_second(rate).allow_burst(burst);
        Self {
            requests: requests.map(|requests| DefaultKeyedRateLimiter::hashmap(quota(requests))),
            most_connections,
            proxies,
            ..Self::default()
        }
    }

    /// A place for a connection from there; none if that peer has too many. Proxies have as many as
    /// they like.
    pub fn connect(&self, from: IpAddr) -> Option<Option<Place>> {
        let Some(most) = self.most_connections.filter(|_| !self.is_proxy(from)) else {
            return Some(None);
        };
        place(&self.connections, Peer::of(from), most, usize::MAX).map(Some)
    }

    /// A place for a call of gRPC, of which each may keep something of the agent's waiting.
    pub fn call(&self, peer: Peer) -> Option<Place> {
        place(&self.calls, peer, CALLS_OF_PEER, CALLS as usize)
    }

    /// Who asks: the last address that no proxy of ours has.
    pub fn peer(&self, from: IpAddr, headers: &HeaderMap) -> Peer {
        let from = from.to_canonical();
        let said = self.said(from, headers);
        let mut peer = from;
        for text in said.iter().rev() {
            // What is no address was not written by a proxy of ours.
            let Ok(address) = text.parse::<IpAddr>() else {
                break;
            };
            peer = address.to_canonical();
            if !self.is_proxy(peer) {
                break;
            }
        }
        Peer::of(peer)
    }

    /// Tells the agent who asked, and nothing that is not known.
    pub fn tell(&self, from: IpAddr, headers: &mut HeaderMap) {
        let from = from.to_canonical();
        let mut said = self.said(from, headers);
        if !self.is_proxy(from) {
            headers.remove(FORWARDED);
            for name in OF_PROXIES {
                headers.remove(name);
            }
        }
        said.push(from.to_string());
        match HeaderValue::try_from(said.join(", ")) {
            Ok(value) => drop(headers.insert(FORWARDED_FOR, value)),
            Err(_) => drop(headers.remove(FORWARDED_FOR)),
        }
    }

    /// What a proxy of ours says of who asked it; nothing if it is none.
    fn said(&self, from: IpAddr, headers: &HeaderMap) -> Vec<String> {
        let values = headers.get_all(FORWARDED_FOR).iter();
        let texts = values.filter_map(|value| value.to_str().ok());
        let addresses = texts.flat_map(|text| text.split(','));
        let is_proxy = self.is_proxy(from);
        addresses
            .filter(|_| is_proxy)
            .map(|text| text.trim().to_owned())
            .collect()
    }

    /// Whether it may ask now.
    pub fn check(&self, peer: Peer) -> Result<(), Refusal> {
        let Some(requests) = &self.requests else {
            return Ok(());
        };
        if self.asked.fetch_add(1, Ordering::Relaxed) % FORGET_AFTER == FORGET_AFTER - 1 {
            requests.retain_recent();
        }
        requests.check_key(&peer).map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            Refusal::TooMany(wait.max(Duration::from_secs(1)))
        })
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.proxies
            .iter()
            .any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let proxies = vec![
            "10.0.0.0/8".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ];
        Limits::new(None, Some(2), proxies)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_listed_proxies_are_believed_and_from_the_right() {
        for (from, said, peer) in [
            ("192.0.2.1", &["198.51.100.1"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
            (
                "10.0.0.1",
                &["198.51.100.1", "10.1.1.1, 2001:db8::1"],
                "198.51.100.1",
            ),
            ("10.0.0.1", &["198.51.100.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1, unknown, 10.2.2.2"], "10.2.2.2"),
            ("10.0.0.1", &["10.0.0.2"], "10.0.0.2"),
        ] {
            let mut headers = HeaderMap::new();
            for value in said {
                headers.append(FORWARDED_FOR, HeaderValue::from_static(value));
            }
            headers.insert("x-real-ip", HeaderValue::from_static("8.8.8.8"));
            let found = limits().peer(address(from), &headers);
            limits().tell(address(from), &mut headers);
            assert_eq!(found, Peer::of(address(peer)), "{from} {said:?}");
            let told = headers[FORWARDED_FOR].to_str().unwrap();
            let direct = address(from).to_canonical().to_string();
            assert!(told.ends_with(&direct), "{told}");
            let is_proxied = direct.starts_with("10.");
            assert_eq!(headers.contains_key("x-real-ip"), is_proxied);
            assert_eq!(
                told.contains("198.51.100.1"),
                is_proxied && !said.is_empty() && said[0] != "10.0.0.2"
            );
        }
    }

    #[test]
    fn connections_of_one_peer_are_counted_and_those_of_a_proxy_are_not() {
        let limits = limits();
        let one = limits.connect(address("192.0.2.1")).unwrap();
        let _two = limits.connect(address("192.0.2.1")).unwrap();
        assert!(limits.connect(address("192.0.2.1")).is_none());
        assert!(limits.connect(address("192.0.2.2")).is_some());
        drop(one);
        let _again = limits.connect(address("192.0.2.1")).unwrap();
        assert!(limits.connect(address("192.0.2.1")).is_none());
        let proxied: Vec<_> = (0..9)
            .map(|_| limits.connect(address("10.0.0.1")))
            .collect();
        assert!(proxied.iter().all(Option::is_some));
        let of = |at: u8| Peer::of([192, 0, 2, at].into());
        let calls: Vec<_> = (0..CALLS_OF_PEER)
            .map(|_| limits.call(of(1)).unwrap())
            .collect();
        assert!(limits.call(of(1)).is_none());
        let others = (2..5).flat_map(|at| (0..CALLS_OF_PEER).map(move |_| of(at)));
        let others: Vec<_> = others.map(|peer| limits.call(peer).unwrap()).collect();
        assert!(limits.call(of(9)).is_none());
        drop(others);
        assert!(limits.call(of(9)).is_some() && limits.call(of(1)).is_none());
        drop(calls);
        assert!(limits.call(of(1)).is_some());
    }
}
