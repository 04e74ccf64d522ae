//! The window between the parent and the enclave: framing and messages. No I/O.
//!
//! A frame is a big-endian u32 length, 1 to 65536, and that many bytes of deterministic CBOR. On a
//! new connection the enclave says [`Hello`], the proxy answers with a [`ChannelProof`] of its key,
//! the enclave with a [`Welcome`]; then requests and answers go in any order, matched by their ids.
//! Every other byte closes the connection, and nothing else.
//!
//! ```
//! use protocol::{FrameBuffer, Request, RequestFrame, write_frame};
//!
//! let (mut bytes, mut buffer) = (Vec::new(), FrameBuffer::default());
//! write_frame(&RequestFrame { id: 1, request: Request::Status }, &mut bytes)?;
//! buffer.push(&bytes);
//! assert!(buffer.next_frame()?.is_some_and(|frame| bytes.ends_with(frame)));
//! # Ok::<(), protocol::Error>(())
//! ```

mod call_frames;
mod credentials;
mod endpoint;
mod error;
mod exit;
mod frame;
mod hello;
mod keeping;
mod message;
mod refusal;
mod requester;
mod traits;

pub use call_frames::{CallFrame, CallFrames, CallKind, LineTo};
pub use credentials::{
    AttestedAuthority, CountedBody, CredentialEpochs, Failed, FramedHead, InsideRequest,
    KeptCredential, LineKind, OpenCredential, OpenSealed, OpenedSealed, Refused, SealedCredential,
    ServiceRequest, Ticket, Told,
};
pub use endpoint::Endpoint;
pub use error::Error;
pub use exit::{EGRESS_PORT, EXIT_PORT, ExitReason, INGRESS_PORT, SERVICE_PORT, WINDOW_PORT};
pub use frame::{FrameBuffer, MAX_FRAME, frame_length, write_frame};
pub use hello::{ChannelProof, Hello, VERSION, Welcome};
pub use keeping::{KmsSigned, PIECE, Part, Phase, Piece, SignKms, StateStatus};
pub use message::{
    Answer, Description, Evidence, Exchange, IdentityOverview, LimitLeft, LimitsLeft, Outcome,
    Overview, PendingApproval, PresentedProof, RecordEnd, Records, Request, RequestFrame,
    ResponseFrame, Rotate, Rotated, Sign, Signed, Status, VersionFacts,
};
pub use refusal::{Kind, Refusal};
pub use requester::Requester;
pub use traits::{Lane, Traits};
