//! `anchorhold-gateway`: an IATP sidecar.

use std::process::ExitCode;

use clap::Parser;
use gateway::Flags;

/// Bad usage (sysexits.h).
const EX_USAGE: u8 = 64;

fn main() -> ExitCode {
    match Flags::try_parse() {
        Ok(flags) => gateway::main(flags),
        Err(error) => {
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { EX_USAGE } else { 0 })
        }
    }
}
