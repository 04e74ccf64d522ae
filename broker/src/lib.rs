//! Credentials of others, which an agent uses and never sees: what may be asked for in which form,
//! where a credential is put, how it is kept, and how it is looked for in answers. No I/O and no
//! clock.
//!
//! ```text
//! put   desk: Order (HPKE to the enclave's sealing key, signed by the operator)
//!         -> enclave: Envelope (under K3's key of the actor) -> kept outside as bots/<actor>/credentials/<service>.enc
//! keys  desk: EpochOrder (signed by the operator) -> enclave: one more K3, or fewer; Envelopes are made anew under it
//! use   agent: method, path, headers -> Target, Forwarded: the one form that is judged and sent
//!         -> enclave: Envelope opened, placed -> upstream; answers pass a Scrubber
//! proxy the same, but that the agent's TLS ends in the enclave too: what its processes say to each other meanwhile is under
//!       IngressKey and FrameKey
//! ```
#![forbid(unsafe_code)]

mod envelope;
mod epochs;
mod error;
mod field;
mod form;
mod forms;
mod headers;
mod inside;
mod lease;
mod locate;
mod mint;
mod names;
mod place;
mod priced;
mod put;
mod request;
mod roots;
mod scrub;
mod sigv4;
mod target;
#[cfg(test)]
mod testing;
pub mod websocket;

pub use crate::envelope::{Envelope, Epoch, Place};
pub use crate::epochs::{EpochOrder, Epochs};
pub use crate::error::Error;
pub use crate::field::{Field, MAX_PLACED, check_field};
pub use crate::headers::{Header, forwarded, returned};
pub use crate::inside::{CallKey, FrameKey, IngressKey, Way};
pub use crate::lease::Lease;
pub use crate::locate::{is_served, may_be_counted, may_want_approval, service_at};
pub use crate::mint::{MAX_MINTED, MintRequest, Minted, Minting, minted, unplaced};
pub use crate::names::{Omni, object_path};
pub use crate::place::{Injected, Shown, check_secret, inject, take_placeholder};
pub use crate::priced::{Asked, MAX_PRICED, Tokens, Used, check_unpriced, counted};
pub use crate::put::{Order, SealingKey, authority_data, sealing_data};
pub use crate::request::{RequestHead, ShownBody, header_digest};
pub use crate::roots::roots;
pub use crate::scrub::{Needles, Reflected, Scrubber};
pub use crate::sigv4::{Body, Signing, actions, body_of};
pub use crate::target::Target;
