//! The processes that end TLS to services: the same program once more for each that a bundle may
//! name, started before the secure module is opened. Which service one is for it learns later, over its
//! pipe; nothing is forked once there are secrets.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Child;
use std::sync::mpsc::SyncSender;

use upstream::Lines;

use super::child::{self, confined, spawn};
use super::server::be_server;
use crate::credentials::FromService;
use crate::{Courier, Error};

const STEP: &str = "the process of a service";

/// A started process, seen from the one that holds the keys.
#[derive(Debug)]
pub struct ServiceProcess {
    from: File,
    to: File,
}

impl ServiceProcess {
    /// Starts as many, each with these arguments, and waits until all have confined themselves. Their
    /// standard input and output are the pipes.
    pub fn start(
        program: &Path,
        count: usize,
        arguments: impl Fn(usize) -> Vec<String>,
    ) -> Result<Vec<Self>, Error> {
        let start = |place| {
            let arguments = arguments(place);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            spawn(program, &arguments).map_err(failed)
        };
        // All at once: each takes a while to be ready.
        let started: Vec<Child> = (0..count).map(start).collect::<Result<_, _>>()?;
        let ready = started.into_iter().map(|child| {
            let (from, to) = confined(child).map_err(failed)?;
            Ok(Self { from, to })
        });
        ready.collect()
    }

    /// Talks to it from now on. `said` is told how calls end, and when it says nothing any more.
    pub fn talk(
        self,
        place: usize,
        said: &SyncSender<FromService>,
    ) -> Result<Box<dyn Courier>, Error> {
        let (ended, gone) = (said.clone(), said.clone());
        let client = upstream::Client::start(
            self.from,
            self.to,
            // Nobody is there to hear it at the end of the boot.
            move |call| drop(ended.send(FromService::Ended(place, call))),
            move |_| drop(gone.send(FromService::Gone(place))),
        );
        let client = client.map_err(|error| failed(io::Error::other(error)))?;
        Ok(Box::new(client))
    }
}

/// Confines this process for good, says so, and serves one service until the other process ends.
/// `listen` makes the listener, before.
pub fn be_service(
    listen: impl FnOnce(&tokio::runtime::Runtime) -> io::Result<Lines>,
    then: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    be_server(STEP, listen, then, upstream::serve)
}

fn failed(error: io::Error) -> Error {
    child::failed(STEP, error)
}
