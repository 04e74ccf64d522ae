//! Where a service is.

use identity::resource;
use serde::{Deserialize, Serialize};

/// An `https:` URL: a host, perhaps a port, and a path that stands before all that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Upstream {
    url: String,
    /// How long scheme and authority are together.
    origin: usize,
    port: u16,
}

impl Upstream {
    /// The URL, without a `/` at its end.
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// Host and, where it is not 443, port, as `Host` names them.
    pub fn authority(&self) -> &str {
        &self.url["https://".len()..self.origin]
    }

    /// The host alone.
    pub fn host(&self) -> &str {
        let authority = self.authority();
        authority.split(':').next().unwrap_or(authority)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path before all that is asked for; empty, or it begins with `/`.
    pub fn path(&self) -> &str {
        &self.url[self.origin..]
    }
}

impl TryFrom<String> for Upstream {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let rest = text
            .strip_prefix("https://")
            .ok_or("upstream is an https: URL: a credential does not travel in the clear")?;
        let with_path = resource::with_path(&text);
        resource::check(&with_path).map_err(|error| format!("upstream {text:?}: {error}"))?;
        if text.ends_with('/') {
            return Err("upstream has no / at its end: what is asked for begins with one".into());
        }
        let authority = rest.split('/').next().unwrap_or_default();
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| "no port")?),
            None => (authority, 443),
        };
        // A name is what a certificate is held against.
        if host.parse::<std::net::Ipv4Addr>().is_ok() || host.starts_with('[') {
            return Err("the host of upstream is a name, and no address".into());
        }
        let origin = "https://".len() + authority.len();
        Ok(Self {
            origin,
            port,
            url: text,
        })
    }
}

impl From<Upstream> for String {
    fn from(upstream: Upstream) -> Self {
        upstream.url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_has_a_host_a_port_and_a_path() {
        for (url, authority, host, port, path) in [
            ("https://api.example", "api.example", "api.example", 443, ""),
            (
                "https://api.example:8443/v1/x",
                "api.example:8443",
                "api.example",
                8443,
                "/v1/x",
            ),
        ] {
            let upstream = Upstream::try_from(url.to_owned()).unwrap();
            assert_eq!(
                (upstream.authority(), upstream.host()),
                (authority, host),
                "{url}"
            );
            assert_eq!((upstream.port(), upstream.path()), (port, path), "{url}");
            assert_eq!(upstream.as_str(), url);
            assert_eq!(String::from(upstream), url);
        }
        for bad in [
            "http://api.example",
            "https://api.example/",
            "https://127.0.0.1/v1",
            "https://[::1]/v1",
            "https://api.example:x/v1",
        ] {
            assert!(Upstream::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
