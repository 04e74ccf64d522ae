//! Refusals.

use minicbor::{Decode, Encode};

/// Which kind of answer a refusal is; the proxy makes the HTTP status of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Kind {
    /// The request cannot be understood.
    #[n(0)]
    Invalid,
    /// The policy does not allow it.
    #[n(1)]
    Denied,
    /// There is no such identity.
    #[n(2)]
    NotFound,
    /// It contradicts the state that the enclave is in.
    #[n(3)]
    Conflict,
    /// Not now; perhaps later.
    #[n(4)]
    Unavailable,
    /// The enclave is at fault.
    #[n(5)]
    Internal,
    /// A rate or a budget is used up for now.
    #[n(6)]
    Limited,
}

/// A typed refusal.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[error("{code}: {message}")]
#[cbor(array)]
pub struct Refusal {
    /// Which kind.
    #[n(0)]
    pub kind: Kind,
    /// Stable snake_case name.
    #[n(1)]
    pub code: String,
    /// For people.
    #[n(2)]
    pub message: String,
    /// When the same may be asked again, in seconds from now.
    #[n(3)]
    pub retry_after: Option<u32>,
}
