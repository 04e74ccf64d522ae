//! Why the sidecar, or one of its commands, did not start.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the sidecar, or one of its commands, did not start.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong.
    #[error("configuration: {0}")]
    Config(String),
    /// The policy bundle is wrong.
    #[error("{file}: {source}")]
    Policy {
        /// The bundle's file.
        file: PathBuf,
        /// What is wrong.
        source: policy::Error,
    },
    /// A key, a file or the record cannot be used.
    #[error(transparent)]
    Client(#[from] enclave_client::Error),
    /// A socket cannot be had.
    #[error(transparent)]
    Socket(#[from] callers::Error),
    /// A port on localhost cannot be had.
    #[error("localhost.listen {address}: {source}")]
    Listen {
        /// The address that was wanted.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The runtime failed.
    #[error("the operating system failed: {0}")]
    Runtime(#[from] std::io::Error),
}

impl Error {
    /// sysexits(3): 64 where the user can mend it in a file or on the command line, 70 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Runtime(_) | Self::Socket(callers::Error::Io(_)) => 70,
            _ => 64,
        }
    }
}
