//! What a policy is asked about.

use identity::{Intent, Payload};
use policy::Delegator;

/// The action as which Rego and the record know the use of a credential. Nothing is signed with it.
pub const CREDENTIAL_ACTION: &str = "credential.use";

/// A request to a service.
#[derive(Debug, Clone, Copy)]
pub struct ServiceInput<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its path in the one form, as rules know it.
    pub path: &'a str,
    /// Its URL without a query: what labels and Rego know.
    pub resource: &'a str,
    /// What it does beyond what these say: each must be named.
    pub actions: &'a [String],
    /// Whether a WebSocket is asked for.
    pub websocket: bool,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct PolicyInput<'a> {
    /// The intent.
    pub intent: &'a Intent,
    /// The payload.
    pub payload: &'a Payload,
    /// The audience, if any.
    pub audience: Option<&'a str>,
    /// The validity, if the caller named one. Positive.
    pub validity_seconds: Option<u32>,
    /// Whether it is asked on somebody's behalf.
    pub delegated: bool,
    /// Whether a plain envelope is asked for.
    pub envelope: bool,
}

/// What a token exchange asks for, once the subject token is verified and its authority narrowed.
#[derive(Debug, Clone, Copy)]
pub struct ExchangeInput<'a> {
    /// Whose token is taken up.
    pub from: &'a Delegator,
    /// `iss` of that token.
    pub issuer: &'a str,
    /// `sub`: on whose behalf.
    pub subject: &'a str,
    /// Who acts already, oldest first: `agent:<name>`, or what its issuer calls it.
    pub actors: &'a [String],
    /// Words that the new token has, each once.
    pub scope: &'a [String],
    /// What the new token is limited to; may be empty.
    pub resource: &'a str,
    /// For whom the new token is made.
    pub audience: Option<&'a str>,
    /// Whether that is an identity of this bundle.
    pub audience_is_ours: bool,
    /// For how long the new token is valid.
    pub validity_seconds: i64,
}
