//! TLS and HTTP to one service outside, for a process of its own: it is given the credential of each
//! call that the process with the keys has decided on, and knows of no other service.
//!
//! ```text
//! enclave (keys) ── pipe: Ask::Call (ticket, head, credential) ──> upstream ── TLS ── a line that the parent lends ──> service
//!                <── pipe: Answer::Ended (digests, status, key) ──    ^
//!                                                                     | a line for calls: ticket, body; answer
//!                                                                  sidecar
//! ```
//!
//! The process calls [`serve`]; the one that holds the keys has a [`Client`]. What is sent was judged
//! there: method, path and headers come over the pipe, and only the body over the line.
#![forbid(unsafe_code)]

mod body;
mod call;
mod client;
mod connect;
mod counted;
mod download;
mod error;
mod frames;
mod lines;
mod mint;
mod pool;
mod process;
mod progress;
mod shared;
mod sync;
mod tls;
mod tokens;
mod upload;
mod websocket;
mod whole;
mod wire;

pub use crate::client::{Client, Unavailable};
pub use crate::error::Error;
pub use crate::frames::{FramesFrom, FramesTo, frames};
pub use crate::lines::{Line, Lines, Stream, runtime};
pub use crate::process::{Messages, Pipes, serve};
pub use crate::shared::unclaimed;
pub use crate::wire::{
    Answer, Ask, Call, CountedCall, Ended, Ending, MintingSecret, PlacedField, Revoked, Secret,
    SecretKey, Setup, TokenSetup,
};
