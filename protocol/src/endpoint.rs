//! Where an enclave is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::Error;
use crate::exit::{EGRESS_PORT, INGRESS_PORT, SERVICE_PORT};

/// Where an enclave listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `unix:///path`: an enclave process on this machine.
    Unix(PathBuf),
    /// `vsock://cid:port`: a Nitro enclave.
    Vsock {
        /// Context id of the enclave.
        cid: u32,
        /// Port.
        port: u32,
    },
    /// `hvsock:///path:port`: hybrid vsock, as Firecracker and vhost-device-vsock speak it on a
    /// Unix socket.
    HybridVsock {
        /// The socket of the hypervisor.
        path: PathBuf,
        /// Port inside.
        port: u32,
    },
}

/// `sun_path` of a Unix socket address has 108 bytes, with the terminating zero (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

impl Endpoint {
    /// Where lines to the outside are lent to the egress process of the enclave at this endpoint:
    /// port 5008 beside it, or a socket whose name goes on with `.egress`.
    pub fn egress(&self) -> Self {
        self.beside(EGRESS_PORT, ".egress")
    }

    /// Where lines are lent to the process that the enclave at this endpoint has for the service of
    /// this place in its bundle: at port 5016 and those after it, or at sockets whose names go on
    /// with `.service-0` and so on.
    pub fn service(&self, place: u32) -> Self {
        let port = SERVICE_PORT.saturating_add(place);
        self.beside(port, &format!(".service-{place}"))
    }

    /// Where lines of agents are passed to the ingress process of the enclave at this endpoint: port
    /// 5032 beside it, or a socket whose name goes on with `.ingress`.
    pub fn ingress(&self) -> Self {
        self.beside(INGRESS_PORT, ".ingress")
    }

    fn beside(&self, port: u32, suffix: &str) -> Self {
        match self {
            Self::Unix(path) => {
                let mut name = path.clone().into_os_string();
                name.push(suffix);
                Self::Unix(name.into())
            }
            Self::Vsock { cid, .. } => Self::Vsock { cid: *cid, port },
            Self::HybridVsock { path, .. } => Self::HybridVsock {
                path: path.clone(),
                port,
            },
        }
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(path) = text.strip_prefix("unix://") {
            return Ok(Self::Unix(socket_path(path)?));
        }
        let (scheme, rest) = text.split_once("://").ok_or(Error::EndpointInvalid(
            "no scheme; unix:///path, for example",
        ))?;
        let (host, port) = rest
            .rsplit_once(':')
            .ok_or(Error::EndpointInvalid("no port"))?;
        let port = port
            .parse()
            .map_err(|_| Error::EndpointInvalid("the port is not a number"))?;
        match scheme {
            "vsock" => {
                let cid = host
                    .parse()
                    .map_err(|_| Error::EndpointInvalid("the CID is not a number"))?;
                Ok(Self::Vsock { cid, port })
            }
            "hvsock" => Ok(Self::HybridVsock {
                path: socket_path(host)?,
                port,
            }),
            _ => Err(Error::EndpointInvalid(
                "the scheme is none of unix, vsock and hvsock",
            )),
        }
    }
}

fn socket_path(text: &str) -> Result<PathBuf, Error> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(Error::EndpointInvalid("the socket path is not absolute"));
    }
    if text.len() > MAX_SOCKET_PATH {
        return Err(Error::EndpointInvalid(
            "the socket path is longer than 107 bytes",
        ));
    }
    Ok(path.to_owned())
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
            Self::HybridVsock { path, port } => write!(f, "hvsock://{}:{port}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_written() {
        for good in [
            "unix:///run/x.sock",
            "vsock://16:5005",
            "hvsock:///tmp/v.sock:5005",
        ] {
            assert_eq!(good.parse::<Endpoint>().unwrap().to_string(), good);
        }
        let path = format!("/{}", "a".repeat(106));
        let longest = format!("unix://{path}");
        assert_eq!(longest.parse(), Ok(Endpoint::Unix(path.into())));
        let long = format!("{longest}a");
        for bad in [
            "",
            "unix://",
            "unix://relative",
            "vsock://16",
            "vsock://x:1",
            "vsock://1:x",
            "tcp://1:2",
            "hvsock://v:1",
            &long,
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
