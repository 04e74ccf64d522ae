//! The boundary at which an agent's call is executed: a [`tower`] layer that lets a call through to
//! its handler only with a fresh token of a key that is known to live in an accepted enclave.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use axum::{Router, routing::post};
//! use guard::{Admitted, Guard, RequireToken, Requirements, evidence_routes};
//!
//! async fn handler(admitted: Admitted) -> String {
//!     format!("done for {}", admitted.claims().iss)
//! }
//!
//! # fn app() -> Result<Router, Box<dyn std::error::Error>> {
//! let policy = attestation::AppraisalPolicy::from_toml(&std::fs::read("verifier.toml")?)?;
//! let guard = Arc::new(Guard::new(Requirements::new("https://tools.example", policy))?);
//! let app = Router::new()
//!     .route("/call", post(handler))
//!     .layer(RequireToken::new(Arc::clone(&guard)))
//!     .merge(evidence_routes(guard));
//! # Ok(app) }
//! ```
//!
//! An agent that is not known yet is answered with 401 `evidence_required` and a challenge. It asks
//! its sidecar for evidence over that challenge, posts it to [`EVIDENCE_PATH`], and calls again.
//! From then on a token is enough, until the evidence is too old. Each token is good for one call,
//! and must be younger than the first evidence for its key: that answered a challenge of this
//! process, so what is younger was not used before it began. Who has just shown evidence may have
//! to sign a second later.
//!
//! A token is for a service, not for a call: the handler compares the token's intent and payload
//! with what it is asked to do, as the example `tool-server` does. Otherwise anybody who catches a
//! token before it is used can use it for another call.
//!
//! What this cannot do: see a replay at another process. Two servers that share an audience each
//! accept a token once, and so do two that overlap in a restart; give each an audience of its own,
//! or stop the old one first.

mod admitted;
mod challenge;
mod error;
mod guard;
mod known;
mod layer;
mod problem;
mod purpose;
mod replay;
mod requirements;
mod routes;

pub use crate::admitted::Admitted;
pub use crate::challenge::CHALLENGE_SECONDS;
pub use crate::error::Error;
pub use crate::guard::{Clock, Guard, Random};
pub use crate::layer::{RequireToken, TokenService};
pub use crate::purpose::Purpose;
pub use crate::requirements::Requirements;
pub use crate::routes::{CHALLENGE_PATH, EVIDENCE_PATH, evidence_routes};
