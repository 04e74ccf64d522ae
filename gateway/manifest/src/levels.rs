use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

/// How far an agent is trusted.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    Display,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum TrustLevel {
    /// Not at all.
    Untrusted,
    /// Nobody knows it.
    Unknown,
    /// As usual.
    Standard,
    /// It is known.
    Trusted,
    /// There is a contract.
    VerifiedPartner,
}

/// How long an agent keeps data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Retention {
    /// For the request.
    Ephemeral,
    /// For a time.
    Temporary,
    /// Until it is deleted.
    Permanent,
    /// It is never deleted.
    Forever,
}

/// How much of what an agent does can be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Reversible {
    /// All of it.
    Full,
    /// Some of it.
    Partial,
    /// Nothing.
    None,
}
