//! The end of agents' TLS, for a process of its own: agents come as to a proxy (`HTTPS_PROXY`), ask a
//! service's host by its name, and find this process under a certificate of the enclave's own authority.
//!
//! ```text
//! enclave (keys) ── pipe: Setup, once (certificate, its key, the bundle, the ingress key)
//!
//! agent ── CONNECT ──> sidecar ── a line of the agent's TLS ──> ingress
//!                         ^ ────── a line for calls: Ask (sealed request), Told (sealed key), sealed frames
//!                         └──> the process of the service, by the same frames
//! ```
//!
//! It holds no credential and not the authority's key: with what it has, somebody could read and change what
//! agents ask and are answered on this way, and ask what the rules let these agents ask.
#![forbid(unsafe_code)]

mod answer;
mod call;
mod heard;
mod pairs;
mod process;
mod refusal;
mod setup;
mod tls;
mod websocket;
mod whole;

pub use crate::process::serve;
pub use crate::refusal::Refusal;
pub use crate::setup::{Client, Setup};
