//! An IATP sidecar in front of any agent.
//!
//! A request passes these stages, each of which only the one before it makes possible:
//!
//! | stage | takes | refuses |
//! |---|---|---|
//! | [`limits`] | an address, headers | who asks too much |
//! | [`callers`] | what the caller presented | who is not known |
//! | [`read`] | the request as it came | what is malformed, too large, not valid, or cannot be looked through |
//! | [`policy`] | facts | what a rule blocks; what nobody overrode |
//! | [`recorder`] | the request, scrubbed | everything, while nothing can be written down |
//! | [`backend`] | the request | - |
//! | [`answers`] | the agent's answer | what a rule blocks, or cannot be looked through |

pub mod activity;
pub mod answer;
pub mod answers;
pub mod backend;
pub mod body;
pub mod callers;
pub mod certificate;
pub mod config;
pub mod content;
mod drain;
mod error;
pub mod excerpt;
pub mod grpc;
pub mod headers;
pub mod limits;
mod manifest_page;
mod messages;
pub mod metrics;
pub mod operator;
pub mod origins;
pub mod overrides;
pub mod policy;
mod program;
pub mod read;
pub mod reason;
pub mod recorder;
pub mod reloaded;
pub mod room;
pub mod routes;
pub mod sealer;
mod server;
mod service;
mod shared;
pub mod signer;
pub mod spans;
pub mod tls;
pub mod trace;
pub mod unix;
pub mod untaken;
pub mod websocket;

pub use self::config::{Config, Flags};
pub use self::error::Error;
pub use self::program::main;
pub use self::server::run;
