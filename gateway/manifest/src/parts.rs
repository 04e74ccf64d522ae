//! The members of a manifest, each with what it is if it is left out.

use std::num::{NonZeroU32, NonZeroU64};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{Error, Manifest, Retention, Reversible, TrustLevel};

/// Who an agent is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Identity {
    /// Its id, 1 to 255 characters.
    pub agent_id: String,
    /// Who answers for it.
    pub owner: String,
    /// `ed25519:` and a key.
    pub verification_key: Option<String>,
    /// An e-mail address.
    pub contact: Option<String>,
}

/// What it guarantees.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// A request that comes twice is done once.
    pub idempotency: bool,
    /// For how long, in seconds.
    pub idempotency_duration_seconds: Option<u64>,
    /// How many requests it takes at once.
    pub concurrency_limit: Option<NonZeroU32>,
    /// How long it takes, in milliseconds.
    pub sla_latency_ms: Option<u64>,
    /// How often it is there, from 0 to 1.
    pub sla_availability: Option<f64>,
}

/// Whether what it does can be undone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Reversibility {
    /// How much.
    pub level: Reversible,
    /// For how long, in seconds; 0: without limit.
    pub undo_window_seconds: Option<u64>,
    /// How.
    pub compensation_method: Option<String>,
    /// Where.
    pub compensation_endpoint: Option<String>,
}

/// What it does with data.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Privacy {
    /// How long it keeps it.
    #[serde(rename = "retention_policy")]
    pub retention: Retention,
    /// Where.
    pub storage_location: Option<String>,
    /// People may see it.
    pub human_in_loop: bool,
    /// Models are trained with it.
    #[serde(default)]
    pub training_consent: bool,
    /// It is encrypted where it is kept.
    pub encryption_at_rest: bool,
    /// And on the way.
    pub encryption_in_transit: bool,
}

/// A way to prove who one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// None.
    None,
    /// A key in a header.
    ApiKey,
    /// A bearer token (RFC 6750).
    Oauth2,
    /// A certificate (RFC 8705).
    MutualTls,
    /// A signed token (RFC 7519).
    Jwt,
}

/// How callers prove who they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Authentication {
    /// Any of these.
    pub methods: Vec<Method>,
    /// They must.
    pub required: bool,
}

/// How many requests it takes.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct RateLimiting {
    /// In a second.
    pub requests_per_second: Option<f64>,
    /// In a minute.
    pub requests_per_minute: Option<f64>,
    /// In an hour.
    pub requests_per_hour: Option<f64>,
    /// At once.
    pub burst_limit: Option<NonZeroU64>,
}

#[derive(Deserialize)]
struct Parts {
    identity: Identity,
    trust_level: TrustLevel,
    #[serde(default)]
    capabilities: Capabilities,
    reversibility: Reversibility,
    privacy: Privacy,
    #[serde(default)]
    authentication: Authentication,
    #[serde(default)]
    rate_limiting: RateLimiting,
}

/// Reads a document that the schema has accepted, in which both forms are complete.
pub(crate) fn read(document: Map<String, Value>) -> Result<Manifest, Error> {
    let parts: Parts =
        serde_json::from_value(Value::Object(document.clone())).map_err(|error| {
            Error::Invalid {
                place: "/".into(),
                why: error.to_string(),
            }
        })?;
    Ok(Manifest {
        identity: parts.identity,
        trust_level: parts.trust_level,
        capabilities: parts.capabilities,
        reversibility: parts.reversibility,
        privacy: parts.privacy,
        authentication: parts.authentication,
        rate_limiting: parts.rate_limiting,
        document,
    })
}
