//! The sidecar: agents speak HTTP to it, it speaks to the enclave.
//!
//! In the eyes of the enclave and of verifiers this program is hostile. It keeps no key of an
//! identity, decides nothing that the enclave does not decide again, and what it says of a caller
//! is marked as its claim.
//!
//! ```text
//!              callers: who connects, whether it may, what it may take
//!                 |
//! agent ──HTTP──> api ──Request──> enclave-client ──vsock──> enclave
//!                 |                    |
//!              metrics              the record's files
//! ```
//!
//! ```
//! use parent_proxy::Target;
//!
//! assert_eq!("unix:///run/a.sock".parse(), Ok(Target::Unix("/run/a.sock".into())));
//! assert!("https://elsewhere.example".parse::<Target>().is_err(), "a sidecar is on this host");
//! ```

mod api;
pub mod cli;
mod client;
mod config;
mod error;
mod evidence_store;
mod exit_reasons;
mod metrics;
pub mod operator;
pub mod receipt;
mod relay;
mod server;

pub use crate::api::openapi;
pub use crate::client::{Client, ClientError, Target};
pub use crate::config::{Config, LogFormat};
pub use crate::error::Error;
pub use crate::server::{check, run};
pub use callers::{AgentSocket, Limits, Localhost, LocalhostCaller};
pub use enclave_client::{KeyFile, RecordConfig};
