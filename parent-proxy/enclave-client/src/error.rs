//! Why the connection, a key or the record could not be set up.

use std::path::PathBuf;

/// Why the connection to the enclave, a key or the record could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
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
    /// A state cannot be kept where it is wanted.
    #[error("state {folder}: {why}")]
    State {
        /// Where.
        folder: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The decision record cannot be kept where it is wanted.
    #[error("record {folder}: {why}")]
    Record {
        /// Where.
        folder: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}
