//! TLS and HTTP to the outside, for a process of its own that holds no identity's key. No byte from
//! the internet is parsed where the keys are.
//!
//! ```text
//! enclave (keys) ── pipe: Ask ──> egress ── TLS ── a line that the parent lends ──> KMS
//!                <── pipe: Answer ──
//! ```
#![forbid(unsafe_code)]

mod wire;

pub use crate::wire::{
    Anchor, Answer, Ask, Envelope, Failure, FailureKind, KmsAnswer, KmsCall, KmsOperation,
};
