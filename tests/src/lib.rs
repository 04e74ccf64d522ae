//! What the end-to-end tests and the benchmark share: a running Anchorhold, and a small HTTP client that can also misbehave.

mod http;
mod running;

pub use http::{Answer, Connection, get, post, raw};
pub use running::{Running, Verifier, now, private_folder, program, wait_for};
