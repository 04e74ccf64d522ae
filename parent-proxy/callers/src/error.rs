//! Why a socket cannot be had.

use std::path::PathBuf;

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket cannot be where it is wanted.
    #[error("socket {path}: {why}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A socket that was handed over cannot be used.
    #[error("a socket that was handed over cannot be used: {0}")]
    Io(#[from] std::io::Error),
}
