//! Why a bundle or an annex was refused.

/// Why a bundle or an annex was refused.
///
/// [`Error::code`] is stable: programs may match on it. The text is for people and may change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value, a format or a signature in it is wrong; its own code counts.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// It is not one.
    #[error("not a policy bundle: {0}")]
    Malformed(String),
    /// It is no annex.
    #[error("not an annex: {0}")]
    AnnexMalformed(String),
}

impl Error {
    /// The stable snake_case name of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Identity(error) => error.code(),
            Self::Malformed(_) | Self::AnnexMalformed(_) => "policy_malformed",
        }
    }
}
