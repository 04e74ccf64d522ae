//! What a policy bundle decides: who may have which signature, and how many of them. Pure: the time
//! comes in, and what was counted stays with the one who asks.
//!
//! The enclave decides by this; the sidecar's `policy` commands explain by it.
//!
//! ```text
//! PolicyInput ──> accept: caller, reserved action, resource, environment, rules in order, Rego ──> Accepted | Denied
//!                                                                                                     |
//!                                         Usage::reserve ──> settle (counted) | release (as before) <─┘
//! ```
//!
//! ```
//! use identity::{Caller, Intent, Payload, caller::ObservedCaller};
//! use policy_engine::{PolicyInput, accept};
//!
//! let bundle = policy::Bundle::from_toml(
//!     "version = 1
//!      mode = 'production'
//!      proxy_key = 'z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK'
//!      operator_key = 'z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp'
//!      [[identities]]
//!      name = 'agent'
//!      environment = 'staging'
//!      did = 'did:key'
//!      algorithm = 'EdDSA'
//!      max_validity_seconds = 600
//!      callers = { uids = [1000] }
//!      rules = [{ name = 'notes', actions = ['note'], targets = ['*'], resources = ['*'] }]",
//! )?;
//! let payload = Payload::parse(b"{}")?;
//! let decide = |uid, action: &str| {
//!     let intent = Intent::new(action.into(), String::new(), String::new()).ok()?;
//!     let asked = PolicyInput {
//!         intent: &intent,
//!         payload: &payload,
//!         audience: None,
//!         validity_seconds: None,
//!         delegated: false,
//!         envelope: false,
//!     };
//!     let caller = Caller::Asserted(ObservedCaller::ids(uid, uid));
//!     let accepted = accept(&bundle, None, &bundle.identities[0], None, &caller, &asked);
//!     Some(accepted.map(|accepted| accepted.rule.name.clone()).map_err(|denied| denied.code()))
//! };
//! assert_eq!(decide(1000, "note"), Some(Ok("notes".into())));
//! assert_eq!(decide(1000, "pay"), Some(Err("intent_action_not_in_allowlist")));
//! assert_eq!(decide(1001, "note"), Some(Err("caller_not_allowed")));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod denied;
mod exchange;
mod input;
mod kept;
mod limits;
mod recursion;
mod rego;
mod rules;
mod service;
#[cfg(test)]
mod tests;

pub use crate::denied::Denied;
pub use crate::exchange::accept_exchange;
pub use crate::input::{CREDENTIAL_ACTION, ExchangeInput, PolicyInput, ServiceInput};
pub use crate::kept::KeptBudget;
pub use crate::limits::{Left, Reservation, Taken, Usage};
pub use crate::rego::{Rego, RegoError, without_huge_pages};
pub use crate::rules::{Accepted, accept, admits, among, among_resources, may_rotate};
pub use crate::service::{AcceptedRequest, accept_request};
