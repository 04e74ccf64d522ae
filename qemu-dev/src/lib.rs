//! For developers: a Nitro Secure Module without hardware, and the programs around it. Mock code
//! lives in this crate and in no other; what it makes chains to a root of its own and can pass for
//! genuine nowhere.
//!
//! ```text
//! demo, up ──> Child (enclave process, DevEnclave) <──Unix socket── Child (sidecar process)
//!                  |
//!              nsm: the mock ──> authority: a root of its own, new for each state directory
//!
//! qemu ──> vm: QEMU with the image (dev_guest) ──vsock── host: the mock answers
//! ```
//!
//! ```
//! use attestation::{Error, MockRoot, aws_root_g1};
//!
//! // No mock can have the root of genuine documents.
//! assert_eq!(MockRoot::from_der(aws_root_g1()), Err(Error::RootNotMock));
//! ```
#![forbid(unsafe_code)]

pub mod authority;
pub mod aws;
pub mod demo;
mod dev_enclave;
pub mod draft;
mod durable;
mod error;
mod files;
mod host;
mod measure;
pub mod nsm;
mod process;
mod qemu;
mod state;
mod tls;
mod up;
pub mod vectors;
mod vm;

pub use dev_enclave::{DevEgress, DevEnclave, DevIngress, DevService};
pub use durable::DurableState;
pub use error::Error;
pub use measure::measure_program;
pub use process::{Child, Program};
pub use qemu::{Qemu, qemu};
pub use state::State;
pub use up::{Up, up};
pub use vm::VmMachine;
