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
    /// A file could not be used.
    #[error("{file}: {source}")]
    File {
        /// Which one.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key file is not one, or is open to others.
    #[error("{file}: {why}")]
    KeyFile {
        /// Which one.
        file: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The socket cannot be where it is wanted.
    #[error("socket {path}: {why}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The decision record cannot be kept where it is wanted.
    #[error("record {folder}: {why}")]
    Record {
        /// Where.
        folder: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The runtime failed.
    #[error("{0}")]
    Runtime(#[from] std::io::Error),
}

impl Error {
    /// sysexits(3): 64 where the user can mend it in a file or on the command line, 70 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Runtime(_) => 70,
            _ => 64,
        }
    }
}
