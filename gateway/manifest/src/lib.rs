//! Capability manifests of IATP: what an agent says of itself, and the trust score that follows.
//!
//! A manifest has two forms in use: that of the JSON Schema (members `identity`, `reversibility`,
//! `privacy`), and the flat one of the Python SDK (members `agent_id`, `privacy_contract`).
//! [`Manifest::parse`] reads both; [`Manifest::document`] is one document that readers of either
//! form accept.
//!
//! ```
//! use manifest::{Manifest, Retention};
//!
//! let flat = br#"{"agent_id": "booking", "trust_level": "trusted",
//!     "capabilities": {"reversibility": "partial"},
//!     "privacy_contract": {"retention": "ephemeral"}}"#;
//! let manifest = Manifest::parse(flat)?;
//! assert_eq!(manifest.privacy.retention, Retention::Ephemeral);
//! assert_eq!(manifest.trust_score(), 10); // 7 + 2 + 1
//! # Ok::<(), manifest::Error>(())
//! ```
//!
//! Pure: no clock, no files, no network.

mod error;
mod flat;
mod levels;
mod parts;
mod schema;
mod score;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

pub use self::error::Error;
pub use self::levels::{Retention, Reversible, TrustLevel};
pub use self::parts::{
    Authentication, Capabilities, Identity, Method, Privacy, RateLimiting, Reversibility,
};
pub use self::schema::SCHEMA;

/// What an agent says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Who it is.
    pub identity: Identity,
    /// How far it is trusted, by who wrote this.
    pub trust_level: TrustLevel,
    /// What it guarantees.
    pub capabilities: Capabilities,
    /// Whether what it does can be undone.
    pub reversibility: Reversibility,
    /// What it does with data.
    pub privacy: Privacy,
    /// How it wants callers to prove who they are.
    pub authentication: Authentication,
    /// How many requests it takes.
    pub rate_limiting: RateLimiting,
    /// As it is served.
    document: Map<String, Value>,
}

impl Manifest {
    /// Reads either form, or the document that is both. A document whose two forms contradict each
    /// other is refused: a reader of one would believe something else than a reader of the other.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let value = identity::json::parse_with_fractions(json)?;
        let Value::Object(given) = value else {
            return Err(Error::NotAnObject);
        };
        let document = flat::both_forms(given)?;
        schema::validate(&document)?;
        parts::read(document)
    }

    /// The document that readers of both forms accept. What this crate does not know stays in it.
    pub fn document(&self) -> &Map<String, Value> {
        &self.document
    }
}
