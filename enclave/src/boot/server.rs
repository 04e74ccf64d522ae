//! What a process that serves lines does, whatever it serves.

use std::io;

use tokio::runtime::Runtime;
use upstream::Lines;

use super::child::{self, CONFINED};
use super::egress::Pipes;
use super::lockdown::confine_service;
use crate::Error;

/// Confines this process for good, says so, and serves lines until the other process ends. `listen`
/// makes the listener, before; `step` is what is said to have failed.
pub(super) fn be_server(
    step: &'static str,
    listen: impl FnOnce(&Runtime) -> io::Result<Lines>,
    then: impl FnOnce() -> Result<(), Error>,
    serve: impl FnOnce(&Runtime, upstream::Pipes, Lines, u8) -> Result<(), upstream::Error>,
) -> Result<(), Error> {
    let failed = |error| child::failed(step, error);
    let runtime = upstream::runtime().map_err(failed)?;
    let (input, output) = Pipes::take()?.into_files();
    let pipes = upstream::Pipes::new(&runtime, input, output).map_err(failed)?;
    let lines = listen(&runtime).map_err(failed)?;
    then()?;
    confine_service()?;
    let served = serve(&runtime, pipes, lines, CONFINED);
    served.map_err(|error| failed(io::Error::other(error)))
}
