//! The connection to an enclave, and the record that it obliges its client to keep: nothing that an
//! enclave decided is handed out before it is written down. The sidecar has one; a gateway of its
//! own can have one too.

mod client;
mod connect;
mod counters;
mod error;
pub mod files;
mod key_file;
mod record;
mod session;

pub use crate::client::{EnclaveClient, GATHERED, RequestError};
pub use crate::connect::{Stream, open};
pub use crate::counters::Counters;
pub use crate::error::Error;
pub use crate::key_file::KeyFile;
pub use crate::record::{RecordConfig, Recorder};
