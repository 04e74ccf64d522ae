//! The policy bundle that PCR16 commits to: who may ask for which signature; and the annex that the
//! operator may change. TOML for people, RFC 8785 JSON for digests. What a policy decides is
//! `policy/engine`'s.
//!
//! ```
//! let sidecar = "z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK";
//! let operator = "z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp";
//! let bundle = policy::Bundle::from_toml(&format!(
//!     "version = 1
//!      mode = 'production'
//!      proxy_key = '{sidecar}'
//!      operator_key = '{operator}'
//!      [[identities]]
//!      name = 'agent'
//!      environment = 'staging'
//!      did = 'did:key'
//!      algorithm = 'EdDSA'
//!      max_validity_seconds = 600
//!      callers = {{ uids = [1000] }}
//!      rules = [{{ name = 'notes', actions = ['note'], targets = ['*'], resources = ['*'] }}]"
//! ))?;
//! // Both forms are one bundle, and PCR16 commits to its digest.
//! assert_eq!(policy::Bundle::from_canonical(&bundle.canonical())?.digest().pcr16(), bundle.digest().pcr16());
//! # Ok::<(), policy::Error>(())
//! ```

mod annex;
mod bundle;
mod callers;
mod delegation;
mod digest;
mod error;
mod names;
mod pattern;
mod priced;
mod rego;
mod rule;
mod services;
mod token_source;
mod upstream;

pub use crate::annex::{Annex, AssertedCaller, ListedStatus, RevokedCredential};
pub use crate::bundle::{
    Bundle, IdentityPolicy, LeasePolicy, MAX_BYTES, Mode, ResourceLabels, StatePolicy,
};
pub use crate::callers::{Approver, Callers, PeerEnclave, ProvenCaller};
pub use crate::delegation::{Delegation, Delegator, Issuer};
pub use crate::digest::PolicyDigest;
pub use crate::error::Error;
pub use crate::names::MultikeyText;
pub use crate::pattern::{Match, Pattern};
pub use crate::priced::{Budget, Form, Price, Priced};
pub use crate::rego::Rego;
pub use crate::rule::{ApprovalRule, Constraint, Limit, Period, Rule, Scalar};
pub use crate::services::{
    HttpsProxy, Inject, MAX_SERVICES, Pin, Scrub, Service, ServiceRule, SigV4, Unmatched,
};
pub use crate::token_source::{ClientAuth, Grant, TokenSource};
pub use crate::upstream::Upstream;

#[cfg(test)]
mod tests;
