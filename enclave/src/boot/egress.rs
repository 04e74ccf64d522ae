//! The egress process: the same program once more, which holds no key and ends TLS to the outside.
//! It is started before the secure module is opened, and inherits nothing but two pipes and the
//! console.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use egress::Lines;

use super::child::{CONFINED, confined, spawn};
use super::lockdown::confine_egress;
use crate::Error;

/// A started egress process, seen from the one that holds the keys.
#[derive(Debug)]
pub struct EgressProcess {
    from: File,
    to: File,
}

impl EgressProcess {
    /// Starts a program as the egress process, and waits until it has confined itself. Its standard
    /// input and output are the pipes.
    pub fn start(program: &Path, arguments: &[&str]) -> Result<Self, Error> {
        let child = spawn(program, arguments).map_err(failed)?;
        let (from, to) = confined(child).map_err(failed)?;
        Ok(Self { from, to })
    }

    /// Talks to it from now on. `ended` is called when it has ended, or said nonsense.
    pub fn talk(
        self,
        anchors: Vec<egress::Anchor>,
        ended: impl Fn(&Error) + Send + 'static,
    ) -> Result<egress::Client, Error> {
        let ended = move |why: &str| ended(&Error::EgressGone(why.to_owned()));
        egress::Client::start(self.from, self.to, anchors, ended)
            .map_err(|error| Error::EgressGone(error.to_string()))
    }
}

/// The two pipes of this process, away from standard input and output, where libraries could read
/// and write.
pub struct Pipes {
    input: File,
    output: File,
}

impl Pipes {
    /// Takes them, and leaves nothing in their place but a file that is empty.
    pub fn take() -> Result<Self, Error> {
        let own = |fd: io::Result<OwnedFd>| fd.map(File::from).map_err(failed);
        let input = own(io::stdin().as_fd().try_clone_to_owned())?;
        let output = own(io::stdout().as_fd().try_clone_to_owned())?;
        let nowhere = File::open("/dev/null").map_err(failed)?;
        rustix::stdio::dup2_stdin(&nowhere).map_err(|error| failed(error.into()))?;
        super::part_from_console()?;
        Ok(Self { input, output })
    }

    /// Both, to be used otherwise.
    pub(super) fn into_files(self) -> (File, File) {
        (self.input, self.output)
    }

    /// Confines this process for good, says so, and answers questions until the other one has none.
    pub fn serve(mut self, lines: impl Lines) -> Result<(), Error> {
        confine_egress()?;
        self.output.write_all(&[CONFINED]).map_err(failed)?;
        egress::serve(self.input, self.output, lines)
            .map_err(|error| Error::EgressGone(error.to_string()))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form map_err wants")]
fn failed(error: io::Error) -> Error {
    Error::Boot {
        step: "starting the egress process",
        why: error.to_string(),
    }
}
