//! The decision record: one event for each decision of an enclave, chained, and signed by the
//! record key of that boot.
//!
//! An event is one line of RFC 8785 JSON. Its `signature` is base64url of the CBOR array `[path,
//! head]`: `head` is a COSE_Sign1 for [`Purpose::RECORD`] over [`Head`], whose root is that of an
//! RFC 9162 Merkle tree over the events of one batch, and `path` leads there from this event. The
//! leaf is the event without its `signature`. `previous` is the leaf hash of the event before.
//!
//! ```text
//! decisions -> Tail::append -> Batch::sign -> lines -> Reader::next -> events, or why they are not believed
//! ```
//!
//! ```
//! // Without a key nothing is believed.
//! assert!(record::Reader::new(Vec::new()).next(b"{}").is_err());
//! ```

mod error;
mod event;
mod reader;
mod signature;
mod tree;
mod writer;

#[cfg(test)]
mod tests;

pub use crate::error::Error;
pub use crate::event::{Approval, Credential, Decision, End, Event, Verdict};
pub use crate::reader::{Boot, MAX_LINE, Reader, unverified_end, unverified_place};
pub use crate::signature::Head;
pub use crate::tree::{leaf as leaf_hash, root as tree_hash};
pub use crate::writer::{Batch, MAX_BATCH, Tail};
