//! Why the two processes cannot go on with each other.

use std::io;

/// Why the egress process, or its client, ends. A question to KMS that comes to nothing is a
/// [`Failure`](crate::Failure) instead.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Error {
    /// A pipe cannot be read or written.
    #[error("the pipe broke: {0}")]
    Pipe(#[from] io::Error),
    /// A frame of the wrong length, or one whose message is not the one expected.
    #[error("a wrong frame: {0}")]
    Frame(#[from] protocol::Error),
    /// The pipe ended within a frame.
    #[error("the pipe ended within a frame")]
    FrameCut,
    /// The first question was not [`Ask::Begin`](crate::Ask::Begin).
    #[error("the first question was not Begin")]
    NotBegun,
    /// [`Ask::Begin`](crate::Ask::Begin) came twice.
    #[error("Begin came twice")]
    BegunTwice,
    /// [`Ask::Begin`](crate::Ask::Begin) named no root.
    #[error("no root to trust")]
    NoAnchors,
    /// Not a certificate that can be a root.
    #[error("not a root certificate: {0}")]
    AnchorInvalid(webpki::Error),
    /// The egress process was not ready within 10 s.
    #[error("the egress process was not ready in time")]
    NotReady,
    /// The egress process ended.
    #[error("the egress process ended")]
    Ended,
    /// The egress process answered what was not asked.
    #[error("the egress process answered what was not asked")]
    AnswerUnasked,
}

impl Error {
    /// The stable snake_case name of this error.
    pub fn code(&self) -> &'static str {
        self.into()
    }
}
