//! Sealed ranges of a gateway's flight recorder: what a seal says, and whether lines are those that
//! were sealed.
//!
//! A seal is a token of an attested identity ([`Seal::of_claims`]) over the root of the Merkle tree of
//! a range of lines, where that range begins, and the seal before. It proves that nothing was changed
//! or left out since, not that lines are true: until it is sealed, a line is what the gateway's host
//! makes it.
//!
//! ```
//! use flight::{Check, Seal};
//! # let recorder = uuid::Uuid::nil();
//! let first = Seal::new(recorder, 0, [&b"{\"a\":1}"[..], b"{}"].into_iter(), None);
//! let second = Seal::new(recorder, 2, [&b"[]"[..]].into_iter(), Some(&first));
//! let mut check = Check::new(vec![first, second])?;
//! for (index, line) in [(0, &b"{\"a\":1}"[..]), (1, b"{}"), (2, b"[]")] {
//!     check.line(index, line)?;
//! }
//! assert_eq!(check.finish()?.sealed, 3);
//! # Ok::<(), flight::Error>(())
//! ```
//!
//! Pure: no clock, no files, no network.

mod check;
mod seal;
mod segment;

pub use self::check::{Check, Report};
pub use self::seal::{ACTION, Seal};
pub use self::segment::{first_of, first_sealed, seals_name, segment_name};

/// Why lines or seals are not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A token that seals nothing.
    #[error("the token is no seal: {0}")]
    NotSeal(String),
    /// A seal of another recorder.
    #[error("the seal of lines from {first} is of another recorder")]
    Recorder {
        /// Where its range begins.
        first: u64,
    },
    /// A seal does not follow the one before.
    #[error(
        "the seal of lines from {first} does not follow the one before it: one is missing, or they are in another order"
    )]
    Order {
        /// Where its range begins.
        first: u64,
    },
    /// Lines are missing.
    #[error("lines {from} to {to} are missing")]
    Missing {
        /// The first one.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// A line has no end, and others follow.
    #[error("line {line} has no end, and others follow: it was never written so")]
    Cut {
        /// Which.
        line: u64,
    },
    /// Lines are not those that were sealed.
    #[error("lines {from} to {to} are not those that were sealed: one of them was changed")]
    Changed {
        /// The first one.
        from: u64,
        /// The last one.
        to: u64,
    },
}
