//! Identity formats of Anchorhold: DIDs, Vouch tokens and credentials, COSE statements, canonical
//! JSON.
//!
//! Everything here is pure: no I/O, no clock, no randomness. A signer passes a [`Signer`];
//! a verifier passes the time. A key signs nothing but a [`Message`], and only this crate can
//! make one.
//!
//! ```
//! use identity::{Did, PublicKey};
//!
//! let key = PublicKey::from_multikey("z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK")?;
//! assert_eq!(Did::key(&key).as_str(), "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK");
//! # Ok::<(), identity::Error>(())
//! ```

mod act;
pub mod caller;
pub mod cbor;
pub mod cose;
pub mod credential;
pub mod delegation;
pub mod did;
mod digest;
pub mod envelope;
mod error;
mod format;
pub mod grants;
mod ids;
mod intent;
pub mod json;
mod jws;
mod key;
mod message;
mod pcr;
mod printable;
pub mod request;
pub mod resource;
mod signer;
pub mod status;
pub mod succession;
mod time;
pub mod token;

pub use crate::caller::Caller;
pub use crate::did::{Did, KeyId};
pub use crate::digest::{Digest, sha256};
pub use crate::error::Error;
pub use crate::format::Format;
pub use crate::ids::{AnnexId, ApprovalId, BootId, agent_id};
pub use crate::intent::Intent;
pub use crate::json::Payload;
pub use crate::key::{Algorithm, Jwk, PublicKey};
pub use crate::message::{Message, Signature};
pub use crate::pcr::{Pcr, extend};
pub use crate::printable::{hides_nothing, printable};
pub use crate::signer::Signer;
pub use crate::time::{SKEW_SECONDS, TimeInvalid, UnixSeconds, parse_rfc3339};
pub use crate::token::Tee;
