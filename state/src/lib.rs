//! State that outlives a boot: its formats, and what must be true before one is opened. Pure: no
//! secret is here, no I/O and no clock.
//!
//! ```text
//! operator ── Order ──> birth: GenesisRecord (its SHA-256 is the StateId), first seal
//! operator ── Certificate (which images under which bundles) ──> each later opening
//! Sealed = header (public) + wraps (how the content key is kept) + ciphertext + signature of the
//!          state key, which was born with the state and lives in it
//! ```
//!
//! All of it is deterministic CBOR with one encoding; what would be written otherwise is refused.
#![forbid(unsafe_code)]

mod admit;
mod certificate;
mod custody;
mod error;
mod facts;
mod genesis;
mod kms_key;
mod sealed;
mod terms;
#[cfg(test)]
mod tests;

pub use crate::admit::{Admitted, Attested, Offer, Wanted, first_authority};
pub use crate::certificate::{Certificate, MAX_PAIRS};
pub use crate::custody::{Custody, Rollback};
pub use crate::error::Error;
pub use crate::facts::StateFacts;
pub use crate::genesis::{GenesisRecord, Newborn, Order, StateId, birth_data};
pub use crate::kms_key::KmsKey;
pub use crate::sealed::{
    Authority, Header, MAX_SEALED, SealStatement, Sealed, SealedIdentity, Use, Wrap, wraps_digest,
};
pub use crate::terms::{Pair, Terms};

/// The most identities of one state.
pub const MAX_IDENTITIES: usize = 64;
