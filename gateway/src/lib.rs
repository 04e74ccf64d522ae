//! An IATP sidecar in front of any agent.
//!
//! A request passes these stages, each of which only the one before it makes possible:
//!
//! | stage | takes | refuses |
//! |---|---|---|
//! | [`read`] | the request as it came | what is malformed, too large, or cannot be looked through |
//! | [`policy`] | facts | what a rule blocks; what nobody overrode |
//! | [`recorder`] | the request, scrubbed | everything, while nothing can be written down |
//! | [`backend`] | the request | - |

pub mod answer;
pub mod backend;
pub mod config;
mod error;
pub mod headers;
pub mod metrics;
pub mod operator;
pub mod policy;
pub mod read;
pub mod recorder;
mod server;
mod service;
pub mod trace;

pub use self::config::{Config, Flags};
pub use self::error::Error;
pub use self::server::run;
