use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("{}: {source}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder of the flight recorder.
    #[error("{}: {source}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration file is not what it should be.
    #[error("{}: {why}", file.display())]
    Config {
        /// Which.
        file: PathBuf,
        /// Line, member, reason.
        why: String,
    },
    /// A setting that cannot be.
    #[error("{name}: {why}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// Why.
        why: String,
    },
    /// The manifest.
    #[error("{}: {source}", file.display())]
    Manifest {
        /// Which.
        file: PathBuf,
        /// Why.
        source: manifest::Error,
    },
    /// A rule.
    #[error(transparent)]
    Rules(#[from] rules::Error),
    /// The port for requests is taken.
    #[error("{address} is in use by another program: set --port (IATP_PORT): {source}")]
    Port {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The port for metrics is taken.
    #[error(
        "{address} is in use by another program. The metrics of this gateway and the credential proxy of AgentKeys both want port 9090: \
         give this one another with --metrics-port (IATP_METRICS_PORT): {source}"
    )]
    MetricsPort {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The operating system.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}
