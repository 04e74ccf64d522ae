//! The process where agents' TLS ends: the same program once more, which holds no credential and is started
//! before the secure module is opened.

use std::io;
use std::path::Path;

use upstream::Lines;

use super::child::{self, confined, spawn};
use super::server::be_server;
use crate::Error;

const STEP: &str = "the ingress process";

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
    be_server(STEP, listen, then, ingress::serve)
}

fn failed(error: io::Error) -> Error {
    child::failed(STEP, error)
}
