//! Why a tool for developers failed.

/// Why a development program stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A process, an answer or the state directory is not as it should be.
    #[error("{0}")]
    State(String),
    /// A process did not start, or ended.
    #[error("{0}")]
    Process(String),
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
    /// A policy was refused.
    #[error(transparent)]
    Policy(#[from] policy::Error),
    /// The image is not good.
    #[error("the image: {0}")]
    Image(#[from] eif::Error),
    /// The enclave did not come up.
    #[error(transparent)]
    Enclave(#[from] enclave::Error),
}

impl Error {
    /// sysexits(3): 64 where the user can mend it in a file or on the command line, 70 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::State(_) | Self::Attestation(_) | Self::Image(_) => 64,
            _ => 70,
        }
    }
}
