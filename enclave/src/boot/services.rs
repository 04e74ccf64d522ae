//! The processes that end TLS to services: the same program once more for each that a bundle may
//! name, started before the secure module is opened. Which service one is for it learns later, over its
//! pipe; nothing is forked once there are secrets.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::SyncSender;

use upstream::Lines;

use super::egress::{CONFINED, Pipes};
use super::lockdown::confine_service;
use crate::credentials::FromService;
use crate::{Courier, Error};

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
        let spawn = |place| {
            Command::new(program)
                .args(arguments(place))
                .env_clear()
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()
                .map_err(failed)
        };
        // All at once: each takes a while to be ready.
        let started: Vec<Child> = (0..count).map(spawn).collect::<Result<_, _>>()?;
        started.into_iter().map(Self::confined).collect()
    }

    fn confined(mut child: Child) -> Result<Self, Error> {
        let pipes = (child.stdout.take(), child.stdin.take());
        let (Some(from), Some(to)) = pipes else {
            return Err(failed(io::ErrorKind::BrokenPipe.into()));
        };
        let mut from = File::from(OwnedFd::from(from));
        let mut said = [0];
        from.read_exact(&mut said).map_err(failed)?;
        if said != [CONFINED] {
            return Err(failed(io::ErrorKind::InvalidData.into()));
        }
        Ok(Self {
            from,
            to: File::from(OwnedFd::from(to)),
        })
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
    let runtime = upstream::runtime().map_err(failed)?;
    let (input, output) = Pipes::take()?.into_files();
    let pipes = upstream::Pipes::new(&runtime, input, output).map_err(failed)?;
    let lines = listen(&runtime).map_err(failed)?;
    then()?;
    confine_service()?;
    let served = upstream::serve(&runtime, pipes, lines, CONFINED);
    served.map_err(|error| failed(io::Error::other(error)))
}

#[expect(clippy::needless_pass_by_value, reason = "the form map_err wants")]
fn failed(error: io::Error) -> Error {
    Error::Boot {
        step: "the process of a service",
        why: error.to_string(),
    }
}
