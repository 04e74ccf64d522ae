//! `anchorhold-gateway`: an IATP sidecar.

use std::process::ExitCode;

use clap::Parser;
use gateway::{Config, Flags};

/// Bad usage or configuration (sysexits.h).
const EX_USAGE: u8 = 64;
/// The gateway failed.
const EX_SOFTWARE: u8 = 70;

#[expect(clippy::print_stderr, reason = "nothing is logged yet")]
fn main() -> ExitCode {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EX_USAGE } else { 0 });
        }
    };
    let config = match Config::load(flags) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("anchorhold-gateway: {error}");
            return ExitCode::from(EX_USAGE);
        }
    };
    tracing_subscriber::fmt()
        .json()
        .with_max_level(config.log_level)
        .with_writer(std::io::stderr)
        .init();
    match gateway::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ gateway::Error::Rules(_)) => {
            eprintln!("anchorhold-gateway: {error}");
            ExitCode::from(EX_USAGE)
        }
        Err(error) => {
            eprintln!("anchorhold-gateway: {error}");
            ExitCode::from(EX_SOFTWARE)
        }
    }
}
