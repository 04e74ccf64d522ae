//! The policy bundle that PCR16 commits to: who may ask for which signature; and the annex that the operator may change. TOML
//! for people, RFC 8785 JSON for digests. What a policy decides is `policy/engine`'s.

mod annex;
mod bundle;
mod callers;
mod delegation;
mod digest;
mod error;
mod names;
mod pattern;
mod rego;
mod rule;

pub use crate::annex::{Annex, AssertedCaller, ListedStatus};
pub use crate::bundle::{Bundle, IdentityPolicy, MAX_BYTES, Mode, ResourceLabels};
pub use crate::callers::{Approver, Callers, PeerEnclave, ProvenCaller};
pub use crate::delegation::{Delegation, Delegator, Issuer};
pub use crate::digest::PolicyDigest;
pub use crate::error::Error;
pub use crate::names::MultikeyText;
pub use crate::pattern::{Match, Pattern};
pub use crate::rego::Rego;
pub use crate::rule::{ApprovalRule, Constraint, Limit, Period, Rule, Scalar};

#[cfg(test)]
mod tests;
