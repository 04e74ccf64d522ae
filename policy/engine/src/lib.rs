//! What a policy bundle decides: who may have which signature, and how many of them. Pure: the time
//! comes in, and what was counted stays with whoever asks.
//!
//! The enclave decides by this; the sidecar's `policy` commands explain by it.
#![forbid(unsafe_code)]

mod denied;
mod exchange;
mod input;
mod limits;
mod recursion;
mod rego;
mod rules;
#[cfg(test)]
mod tests;

pub use crate::denied::Denied;
pub use crate::exchange::accept_exchange;
pub use crate::input::{ExchangeInput, PolicyInput};
pub use crate::limits::{Reservation, Usage};
pub use crate::rego::{Rego, RegoError, without_huge_pages};
pub use crate::rules::{Accepted, accept, admits, among_resources, may_rotate};
