//! `anchorhold`: the sidecar, and the commands that talk to one.

use std::process::ExitCode;

fn main() -> ExitCode {
    parent_proxy::cli::main(std::env::args_os())
}
