//! What the end-to-end tests and the benchmark share: a running Anchorhold, a small HTTP client and
//! a window connection that can also misbehave.

mod http;
mod lasting;
pub mod machine;
mod oidc;
mod running;
pub mod services;
mod tap;
mod terminal;
mod traced;
pub mod window;

pub use http::{Answer, Connection, get, post, raw};
pub use lasting::{Lasting, serve_aws};
pub use oidc::Oidc;
pub use running::{
    Running, VerifierFiles, copy_program, now, peak, private_folder, program, wait_for,
    wait_or_say, write_script,
};
pub use tap::{Moment, Step, Tap};
pub use terminal::{Screen, on_terminal};
pub use traced::{Traced, strace};

use std::io::Write;

/// Says aloud that a test was skipped: the test runner swallows what `eprintln!` prints.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
