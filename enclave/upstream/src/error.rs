//! Why the two processes cannot go on with each other.

use std::io;

/// Why the process of a service ends.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A pipe or the listener failed.
    #[error("the pipe broke: {0}")]
    Pipe(#[from] io::Error),
    /// A wrong frame.
    #[error("a wrong frame: {0}")]
    Frame(#[from] protocol::Error),
    /// The pipe ended within a frame.
    #[error("the pipe ended within a frame")]
    FrameCut,
    /// What the process said is no frame, or not whole.
    #[error(transparent)]
    Frames(#[from] egress::Error),
    /// The process said what makes no sense.
    #[error("it said what makes no sense")]
    Nonsense,
    /// The process ended.
    #[error("it ended")]
    Ended,
    /// The first message was not the service, or it came twice.
    #[error("the service is named once, and first")]
    NotBegun,
    /// The service cannot be met so.
    #[error("TLS cannot be prepared: {0}")]
    Tls(String),
}
