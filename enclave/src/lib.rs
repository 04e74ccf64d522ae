//! The enclave: keys, policy decisions, signing, time. The one place where keys are.
//!
//! The program is the same on Nitro and on a laptop; what differs is the [`Machine`] it is given:
//! the NSM, the boot clock, the operating system's randomness. Nothing in here is a mock, and
//! nothing in here asks for the date.
//!
//! ```text
//! transport   frames, lanes; serves a Service and knows no enclave
//!    |  Request                                              ^  Released, with its event
//!    v                                                       |
//! enclave     one boot: NSM, clock, policy            service::release   records, then opens
//!    |  Env (one time, one annex), Trail (its event)         ^  Outcome
//!    v                                                       |
//! operations  sign  exchange  attest  rotate  approve  annex  describe  credential
//!    |
//!    v        parse -> authenticate -> authority -> authorize -> settle -> issue
//! stages      text     who asks        for whom     Permit       Settled   token, credential, envelope
//!
//! provisioned bundle, Rego, identities (a KeySlot each: the keys), stores, record
//! durable     the state in which keys outlive the boot: born, opened, sealed
//! credentials of others: sealed, opened, carried to their services
//! authority   certificates for the ingress process, where agents' TLS ends
//! ```
#![forbid(unsafe_code)]

mod audit;
mod authority;
pub mod boot;
mod budgets;
mod clock;
mod credentials;
mod durable;
mod enclave;
mod entropy;
mod env;
mod error;
mod identities;
mod issue;
mod keys;
mod lines;
mod nitro;
mod nsm;
mod operations;
mod provisioned;
mod record;
mod service;
mod stages;
mod stores;
mod sync;
mod transport;

pub use crate::clock::{BootClock, BootTime};
pub use crate::credentials::{Courier, FromService, Ingress};
pub use crate::durable::Kms;
pub use crate::enclave::{CLOCK_INTERVAL, Enclave, Machine};
pub use crate::entropy::{Entropy, OsEntropy};
pub use crate::error::{Error, KmsError};
pub use crate::lines::LentLines;
pub use crate::nitro::NitroNsm;
pub use crate::nsm::{Nsm, NsmError, PeerVerifier};
pub use crate::service::{Outcome, Released, Service};
pub use crate::transport::{Listener, Parent, serve};
