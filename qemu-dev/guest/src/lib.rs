//! The development enclave in a virtual machine, and the wire between it and the mock NSM of the host.
#![forbid(unsafe_code)]

mod guest;
pub mod wire;

pub use guest::{boot, elsewhere};
