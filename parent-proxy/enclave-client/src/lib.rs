//! The connection to an enclave, and the record that it obliges its client to keep: nothing that an
//! enclave decided is handed out before it is written down. The sidecar has one; a gateway of its
//! own can have one too.
//!
//! ```text
//! EnclaveClient::request ──> connection: Session (hello, proof, policy, missed events), then frames
//!                                |                                      ^
//!                                v  each answer with its event          | broken: again, with backoff
//!                            Recorder: written, synced ──> only then the answer
//! ```
//!
//! ```
//! use enclave_client::KeyFile;
//!
//! // A key that others could read is none.
//! assert!(KeyFile::read("/dev/null".as_ref()).is_err());
//! ```

mod awaiting;
mod client;
mod connect;
mod counters;
mod error;
pub mod files;
mod keeper;
mod key_file;
mod record;
mod session;
mod sync;

pub use crate::awaiting::StateView;
pub use crate::client::{EnclaveClient, GATHERED, RequestError};
pub use crate::connect::{Stream, open};
pub use crate::counters::Counters;
pub use crate::error::Error;
pub use crate::keeper::{StateConfig, StateError, aws_credentials};
pub use crate::key_file::KeyFile;
pub use crate::record::{RecordConfig, Recorder};
