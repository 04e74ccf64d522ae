//! Dials services, and lends those lines to the enclave. TLS ends there: who answers is not believed
//! here.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use policy::Service;
use protocol::{Endpoint, LineKind, LineTo, Ticket};
use tokio::io::{AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tracing::debug;

use enclave_client::open;

const RESOLVE_WITHIN: Duration = Duration::from_secs(4);
/// For each address.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const BUFFER: usize = 64 * 1024;

/// Where services are dialled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Addresses {
    /// Networks that are dialled though they are not public.
    pub(crate) private: Vec<IpNet>,
    /// Addresses that are dialled in place of what DNS says, by service: `host:port`. Whoever names one
    /// means it.
    pub(crate) fixed: BTreeMap<String, String>,
}

/// Why no line was lent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoLine {
    /// DNS names addresses only that are not dialled.
    #[error("{0} is at {1}, which is not dialled: it is not public")]
    Denied(String, IpAddr),
    /// It cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// The enclave does not take the line.
    #[error("the enclave takes no line: {0}")]
    Enclave(io::Error),
}

impl Addresses {
    /// Dials a service, and lends the line to the enclave's process for it.
    pub(crate) async fn lend(
        &self,
        (service, to): (&Service, LineTo),
        inside: &Endpoint,
        ticket: Ticket,
    ) -> Result<(), NoLine> {
        let mut outside = self.dial(service, to).await?;
        let mut inside = open(inside).await.map_err(NoLine::Enclave)?;
        let opening = LineKind::Upstream.opening(ticket);
        inside.write_all(&opening).await.map_err(NoLine::Enclave)?;
        tokio::spawn(async move {
            let passed = copy_bidirectional_with_sizes(&mut outside, &mut inside, BUFFER, BUFFER);
            if let Err(error) = passed.await {
                debug!(%error, "a line to a service broke");
            }
        });
        Ok(())
    }

    async fn dial(&self, service: &Service, to: LineTo) -> Result<TcpStream, NoLine> {
        let (place, name) = match (to, &service.token) {
            (LineTo::Service, _) => (&service.upstream, service.name.clone()),
            (LineTo::Tokens, Some(token)) => (&token.url, format!("{}.token", service.name)),
            (LineTo::Tokens, None) => {
                return Err(NoLine::Unreachable("the service has no tokens".into()));
            }
        };
        let (host, port) = (place.host(), place.port());
        let fixed = self.fixed.get(&name);
        let target = fixed.cloned().unwrap_or_else(|| format!("{host}:{port}"));
        let unreachable =
            |why: &dyn std::fmt::Display| NoLine::Unreachable(format!("{target}: {why}"));
        let found = timeout(RESOLVE_WITHIN, lookup_host(&target)).await;
        let found = found
            .map_err(|_| unreachable(&"DNS does not answer"))?
            .map_err(|error| unreachable(&error))?;
        let mut refused = unreachable(&"DNS knows no address");
        for address in found {
            // What was looked at is what is dialled.
            let meant = fixed.is_some() && !is_metadata(address.ip());
            if !meant && !self.may_dial(address.ip()) {
                refused = NoLine::Denied(host.to_owned(), address.ip());
                continue;
            }
            match timeout(CONNECT_WITHIN, connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => refused = unreachable(&error),
                Err(_) => refused = unreachable(&"it does not answer"),
            }
        }
        Err(refused)
    }

    fn may_dial(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        !is_metadata(address)
            && (is_public(address) || self.private.iter().any(|net| net.contains(&address)))
    }
}

/// The credentials of the instance are there: IMDS, and what containers have in its place.
fn is_metadata(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let metadata = [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "fd00:ec2::254",
        "fd00:ec2::23",
    ];
    metadata.iter().any(|known| known.parse() == Ok(address))
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether an address is anybody's on the internet (IANA's registries of special-purpose addresses).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_documentation()
                || v4.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (18..20).contains(&b)))
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            // Global unicast, without what embeds IPv4 addresses or is for documents.
            a & 0xe000 == 0x2000
                && a != 0x2002
                && !(a == 0x2001 && b < 0x0200)
                && !(a == 0x2001 && b == 0x0db8)
                && !(a == 0x3fff && b < 0x1000)
                && !(a == 0x2620 && b == 0x4f && c == 0x8000)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_public_are_dialled_only_where_they_are_named() {
        let none = Addresses::default();
        for denied in [
            "127.0.0.1",
            "127.1.2.3",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "169.254.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "203.0.113.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
        ] {
            assert!(!none.may_dial(denied.parse().unwrap()), "{denied}");
        }
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "2606:4700::1",
            "::ffff:1.1.1.1",
        ] {
            assert!(none.may_dial(public.parse().unwrap()), "{public}");
        }
        let named = Addresses {
            private: vec![
                "10.1.0.0/16".parse().unwrap(),
                "169.254.0.0/16".parse().unwrap(),
            ],
            ..Addresses::default()
        };
        assert!(named.may_dial("10.1.2.3".parse().unwrap()));
        assert!(named.may_dial("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!named.may_dial("10.2.0.1".parse().unwrap()));
        // Never, whatever is named.
        assert!(!named.may_dial("169.254.169.254".parse().unwrap()));
        for address in ["169.254.169.254:443", "[::ffff:169.254.170.2]:443"] {
            let fixed = [("api".to_owned(), address.to_owned())].into();
            let named = Addresses {
                fixed,
                ..Addresses::default()
            };
            let service = serde_json::from_value(serde_json::json!({
                "name": "api", "upstream": "https://api.example", "inject": {"basic": "x"}, "rules": [],
            }));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let dialled = runtime.block_on(named.dial(&service.unwrap(), LineTo::Service));
            assert!(matches!(dialled, Err(NoLine::Denied(..))), "{address}");
        }
    }
}
