//! Finds sensitive data in JSON and text, and masks it: card numbers (ISO/IEC 7812: issuer range,
//! length, Luhn), US social security numbers, e-mail addresses, IBANs (ISO 13616), phone numbers,
//! and API keys.
//!
//! [`json`] looks at every token of a JSON text as its reader will see it: keys, strings after their
//! escapes, numbers with their exponents, strings that hold JSON or base64 once more, and digits
//! that are spread over an array. What is forwarded are the original bytes; [`Inspection::mask`]
//! replaces just what was found.
//!
//! ```
//! use inspect::{Kind, Purpose};
//!
//! let body = br#"{"note": "pay with \u0034532-0151-1283-0366"}"#;
//! let found = inspect::json(body, Purpose::Decide)?;
//! assert!(found.kinds().contains(Kind::CreditCard));
//! assert_eq!(found.mask(body), br#"{"note": "pay with [CREDIT_CARD_REDACTED]"}"#);
//! # Ok::<(), inspect::Error>(())
//! ```
//!
//! Pure: no clock, no files, no network.

mod card;
mod channel;
mod deltas;
mod digits;
mod event;
mod fold;
mod json;
mod kind;
mod open;
mod run;
mod secret;
mod stream;
#[cfg(test)]
mod tests;
mod text;
mod words;

pub use self::event::Framing;
pub use self::json::{Inspection, json};
pub use self::kind::{Kind, Kinds};
pub use self::stream::Stream;
pub use self::text::{Found, mask_text, text};

/// Why a text cannot be inspected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is not JSON (RFC 8259), or not in UTF-8.
    #[error("not JSON at byte {at}: {what}")]
    NotJson {
        /// Byte offset.
        at: usize,
        /// What the parser says.
        what: String,
    },
    /// Arrays and objects are nested deeper than [`MAX_DEPTH`].
    #[error("JSON is nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// A text is not UTF-8.
    #[error("a text is not in UTF-8")]
    NotUtf8,
    /// An event has more parts than those of any protocol.
    #[error("an event has too many parts")]
    ManyParts,
    /// An event of a stream is longer than this many bytes.
    #[error("an event is longer than {0} bytes")]
    LongEvent(usize),
}

/// How deep arrays and objects may be nested.
pub const MAX_DEPTH: usize = 128;

/// What is found is used for this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To decide: a card number must pass Luhn, so that other numbers do not block a request.
    Decide,
    /// To decide, and to mask these kinds and no other.
    Mask(Kinds),
    /// To write to a log: what looks like a card number is masked, Luhn or not.
    Log,
}

impl Purpose {
    fn masks(self, kind: Kind) -> bool {
        match self {
            Self::Mask(kinds) => kinds.contains(kind),
            Self::Decide | Self::Log => true,
        }
    }
}
