//! The process where agents' TLS ends: the same program once more, which holds no credential and is started
//! before the secure module is opened.

use std::io;
use std::path::Path;

use upstream::Lines;

use super::child::{CONFINED, confined, spawn};
use super::egress::Pipes;
use super::lockdown::confine_service;
use crate::Error;

/// Starts a program as the ingress process, and waits until it has confined itself. Its standard input
/// and output are the pipes.
pub fn start_ingress(program: &Path, arguments: &[&str]) -> Result<ingress::Client, Error> {
    let child = spawn(program, arguments).map_err(failed)?;
    // It says nothing more.
    let (_, to) = confined(child).map_err(failed)?;
    Ok(ingress::Client::new(to))
}

/// Confines this process for good, says so, and serves agents until the other process ends. `listen`
/// makes the listener, before.
pub fn be_ingress(
    listen: impl FnOnce(&tokio::runtime::Runtime) -> io::Result<Lines>,
    then: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let runtime = upstream::runtime().map_err(failed)?;
    let (input, output) = Pipes::take()?.into_files();
    let pipes = upstream::Pipes::new(&runtime, input, output).map_err(failed)?;
    let lines = listen(&runtime).map_err(failed)?;
    then()?;
    confine_service()?;
    let served = ingress::serve(&runtime, pipes, lines, CONFINED);
    served.map_err(|error| failed(io::Error::other(error)))
}

#[expect(clippy::needless_pass_by_value, reason = "the form map_err wants")]
fn failed(error: io::Error) -> Error {
    Error::Boot {
        step: "the ingress process",
        why: error.to_string(),
    }
}
