//! The program: flags in, an exit code out.

use std::process::ExitCode;

use crate::{Config, Error, Flags, run};

/// Bad usage or configuration (sysexits.h).
const EX_USAGE: u8 = 64;
/// The gateway failed.
const EX_SOFTWARE: u8 = 70;

/// Runs a gateway in this process until SIGTERM or SIGINT; logs to standard error.
#[expect(clippy::print_stderr, reason = "nothing is logged yet, or any more")]
pub fn main(flags: Flags) -> ExitCode {
    let ended = Config::load(flags).and_then(|config| {
        tracing_subscriber::fmt()
            .json()
            .with_max_level(config.log_level)
            .with_writer(std::io::stderr)
            .init();
        run(config)
    });
    let Err(error) = ended else {
        return ExitCode::SUCCESS;
    };
    eprintln!("anchorhold-gateway: {error}");
    ExitCode::from(match error {
        Error::Port { .. }
        | Error::MetricsPort { .. }
        | Error::Io { .. }
        | Error::Folder { .. } => EX_SOFTWARE,
        _ => EX_USAGE,
    })
}
