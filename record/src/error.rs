//! Why a line of a record was refused.

/// Why a line of a record was refused.
///
/// [`Error::code`] is stable: programs may match on it. The text is for people and may change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value, a format or a signature in it is wrong; its own code counts.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// A line is not what the enclave wrote there.
    #[error("not a good record: {0}")]
    Invalid(&'static str),
    /// Events are missing.
    #[error("not a good record: {}", if from == to { format!("event {from} is missing") } else { format!("events {from} to {to} are missing") })]
    Gap {
        /// The first one that is missing.
        from: u64,
        /// The last one.
        to: u64,
    },
}

impl Error {
    /// The stable snake_case name of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Identity(error) => error.code(),
            Self::Invalid(_) => "record_invalid",
            Self::Gap { .. } => "record_gap",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_its_name() {
        let malformed = identity::Error::JsonShape(String::new());
        assert_eq!(Error::Identity(malformed.clone()).code(), malformed.code());
        assert_eq!(Error::Invalid("x").code(), "record_invalid");
        assert_eq!(Error::Gap { from: 1, to: 2 }.code(), "record_gap");
    }
}
