//! Separate processes: this program starts itself again as enclave or as sidecar.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::{Error, State};

/// Time for a process to end after SIGTERM.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// The program to start: this one, or one that a test names.
#[derive(Debug, Clone)]
pub struct Program(OsString);

impl Program {
    /// This very program.
    pub fn this() -> Result<Self, Error> {
        std::env::current_exe()
            .map(|path| Self(path.into()))
            .map_err(|source| Error::Io {
                what: "this program".into(),
                source,
            })
    }

    /// The `anchorhold-dev` at this path.
    pub fn at(path: &Path) -> Self {
        Self(path.into())
    }

    /// What ends with this process has a group of its own: Ctrl-C is for this program, which then
    /// ends what it started in order.
    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        if more.contains(&"--with-parent") {
            command.process_group(0);
        }
        command
    }

    /// Starts a development enclave. `more` are further arguments.
    pub fn start_enclave(
        &self,
        state: &State,
        log: Option<&Path>,
        more: &[&str],
    ) -> Result<Child, Error> {
        let mut command = self.command(more);
        command
            .arg("enclave")
            .arg("--state")
            .arg(state.folder())
            .arg("--listen")
            .arg(state.enclave_socket())
            .args(more);
        Child::start("mock enclave", command, log)
    }

    /// Starts a development enclave and waits, at most ten seconds, until it listens.
    pub fn start_listening_enclave(
        &self,
        state: &State,
        log: Option<&Path>,
        more: &[&str],
    ) -> Result<Child, Error> {
        // A socket that a dead enclave left there would be taken for this one's.
        let _ = std::fs::remove_file(state.enclave_socket());
        let mut child = self.start_enclave(state, log, more)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !state.enclave_socket().exists() {
            if let Some(status) = child.ended() {
                return Err(Error::Process(format!("the mock enclave ended: {status}")));
            }
            if Instant::now() > deadline {
                return Err(Error::Process("the mock enclave does not listen".into()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(child)
    }

    /// Starts the mock of AWS of a state directory, and waits, at most ten seconds, until it listens.
    pub fn start_aws(
        &self,
        state: &State,
        address: std::net::SocketAddr,
        log: Option<&Path>,
        more: &[&str],
    ) -> Result<Child, Error> {
        let mut command = self.command(more);
        command
            .arg("aws")
            .arg("--state")
            .arg(state.folder())
            .args(["--listen", &address.to_string()])
            .args(more);
        let mut child = Child::start("mock AWS", command, log)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(address).is_err() {
            if let Some(status) = child.ended() {
                return Err(Error::Process(format!("the mock AWS ended: {status}")));
            }
            if Instant::now() > deadline {
                return Err(Error::Process("the mock AWS does not listen".into()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(child)
    }

    /// A command that ends with this process, however that ends: this program, in between, asks for
    /// it.
    pub(crate) fn ending_with_this(&self, command: &Command) -> Command {
        let mut between = Command::new(&self.0);
        between
            .arg("run")
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args());
        between
    }

    /// Starts a gateway with these arguments.
    pub fn start_gateway(&self, log: &Path, arguments: &[&str]) -> Result<Child, Error> {
        let mut command = self.command(&["--with-parent"]);
        command.arg("iatp").arg("--with-parent").args(arguments);
        Child::start("gateway", command, Some(log))
    }

    /// Starts a sidecar with this configuration file. `more` are further arguments.
    pub fn start_sidecar(
        &self,
        config: &Path,
        log: Option<&Path>,
        more: &[&str],
    ) -> Result<Child, Error> {
        let mut command = self.command(more);
        command
            .arg("sidecar")
            .arg("--config")
            .arg(config)
            .args(more);
        Child::start("sidecar", command, log)
    }
}

/// A process that ends with this value at the latest.
#[derive(Debug)]
pub struct Child {
    what: &'static str,
    process: std::process::Child,
}

impl Child {
    /// Starts a command that writes its log to a file, or to this program's standard error.
    pub fn start(what: &'static str, command: Command, log: Option<&Path>) -> Result<Self, Error> {
        let io = |source| Error::Io {
            what: what.into(),
            source,
        };
        let log = match log {
            Some(file) => Stdio::from(
                File::options()
                    .create(true)
                    .append(true)
                    .open(file)
                    .map_err(io)?,
            ),
            None => Stdio::inherit(),
        };
        Self::start_with(what, command, Stdio::null(), Stdio::null(), log)
    }

    /// Starts a command with these streams.
    pub(crate) fn start_with(
        what: &'static str,
        mut command: Command,
        stdin: Stdio,
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<Self, Error> {
        let process = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn();
        let process = process.map_err(|source| Error::Io {
            what: what.into(),
            source,
        })?;
        Ok(Self { what, process })
    }

    /// Its output, if it was asked for.
    pub(crate) fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.process.stdout.take()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw)
        {
            // A process that has just ended needs none.
            let _ = kill_process(pid, signal);
        }
    }

    /// Stops it where it is, as a hang would, and gives back control when its last thread stands
    /// still. SIGCONT wakes it.
    pub fn freeze(&self) -> Result<(), Error> {
        self.signal(Signal::STOP);
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let stopped = waitid(
                WaitId::Pid(pid),
                WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
            );
            stopped.map_err(|error| Error::Io {
                what: format!("stopping process {pid}"),
                source: error.into(),
            })?;
        }
        Ok(())
    }

    /// Ends it with SIGTERM and waits; kills it if it does not listen.
    pub fn stop(&mut self) -> Result<std::process::ExitStatus, Error> {
        if self.ended().is_none() {
            self.signal(Signal::TERM);
        }
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill()
    }

    /// Kills it at once and waits.
    pub fn kill(&mut self) -> Result<std::process::ExitStatus, Error> {
        let io = |source: io::Error| Error::Io {
            what: self.what.into(),
            source,
        };
        self.process
            .kill()
            .and_then(|()| self.process.wait())
            .map_err(io)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.kill();
        }
    }
}
