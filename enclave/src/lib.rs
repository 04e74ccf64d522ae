//! The enclave: keys, policy decisions, signing, time. The one place where keys are.
//!
//! The program is the same on Nitro and on a laptop; what differs is the [`Machine`] it is given: the NSM, the boot clock,
//! the operating system's randomness. Nothing in here is a mock, and nothing in here asks for the date.
#![forbid(unsafe_code)]

mod audit;
pub mod boot;
mod clock;
mod enclave;
mod entropy;
mod env;
mod error;
mod identities;
mod issue;
mod keys;
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
pub use crate::enclave::{CLOCK_INTERVAL, Enclave, Machine};
pub use crate::entropy::{Entropy, OsEntropy};
pub use crate::error::Error;
pub use crate::nitro::NitroNsm;
pub use crate::nsm::{Nsm, NsmError, PeerVerifier};
pub use crate::service::{Outcome, Released, Service};
pub use crate::transport::{Listener, Parent, serve};
