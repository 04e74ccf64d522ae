/// Why a development program stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A process, an answer or the state directory is not as it should be.
    #[error("{0}")]
    State(String),
    /// A file or a process could not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The mock or its evidence is not good.
    #[error(transparent)]
    Attestation(#[from] attestation::Error),
    /// The enclave did not come up.
    #[error(transparent)]
    Enclave(#[from] enclave::Error),
}
