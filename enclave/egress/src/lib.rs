//! TLS and HTTP to the outside, for a process of its own that holds no identity's key. No byte from
//! the internet is parsed where the keys are.
//!
//! ```text
//! enclave (keys) ── pipe: Ask ──> egress ── TLS ── a line that the parent lends ──> KMS
//!                <── pipe: Answer ──
//! ```
//!
//! The egress process calls [`serve`]; the process that holds the keys has a [`Client`].
#![forbid(unsafe_code)]

mod client;
pub mod cms;
mod deadline;
mod error;
mod failure;
mod frames;
mod http;
pub mod kms;
mod lines;
mod roots;
mod serve;
mod tls;
mod wire;

pub use crate::client::Client;
pub use crate::cms::CmsError;
pub use crate::error::Error;
pub use crate::frames::Frames;
pub use crate::lines::{Line, Lines};
pub use crate::roots::{amazon_roots, anchor};
pub use crate::serve::serve;
pub use crate::tls::provider;
pub use crate::wire::{
    Anchor, Answer, Ask, Envelope, Failure, FailureKind, KmsAnswer, KmsCall, KmsOperation,
};
