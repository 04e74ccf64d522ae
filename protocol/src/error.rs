//! Why a frame was refused.

/// Why bytes from the window, or an endpoint, were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Error {
    /// A frame of length 0.
    #[error("a frame of length 0")]
    FrameEmpty,
    /// A frame longer than 65536 bytes.
    #[error("a frame of {0} bytes; at most 65536 are allowed")]
    FrameTooLong(usize),
    /// The frame's bytes are not the deterministic encoding of the message expected here.
    #[error("not the expected message: {0}")]
    MessageMalformed(#[from] identity::Error),
    /// The other side speaks another version.
    #[error("version {0} of the window protocol is not spoken here")]
    VersionUnknown(u64),
    /// The proof does not belong to this connection and key.
    #[error("the proxy's key was not proven")]
    ProofInvalid,
    /// No frame of a line for calls.
    #[error("not a frame of a line for calls")]
    CallFrameMalformed,
    /// Not `unix://`, `vsock://` or `hvsock://` with what they need.
    #[error("not an endpoint: {0}")]
    EndpointInvalid(&'static str),
}

impl Error {
    /// The stable snake_case name of this error.
    pub fn code(&self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_its_name() {
        assert_eq!(Error::FrameEmpty.code(), "frame_empty");
        assert_eq!(Error::VersionUnknown(1).code(), "version_unknown");
    }
}
