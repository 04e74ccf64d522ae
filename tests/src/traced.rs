//! A sidecar whose system calls are written down.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::program;

/// A sidecar under strace, which writes its system calls to a file. It ends with this value.
pub struct Traced {
    strace: Child,
    trace: PathBuf,
}

impl Traced {
    /// Starts a sidecar with this configuration; `calls` as `strace -e trace=` takes them. `None`
    /// if strace is not installed.
    pub fn start(config: &Path, trace: &Path, calls: &str) -> Option<Self> {
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-e", &format!("trace={calls}"), "-o"])
            .arg(trace);
        command
            .arg(program("anchorhold"))
            .args(["serve", "--config"])
            .arg(config);
        let strace = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        Some(Self {
            strace,
            trace: trace.to_owned(),
        })
    }

    /// The system calls up to now: a line for each, with the number of its thread before it.
    pub fn calls(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.trace).unwrap_or_default()).into_owned()
    }

    /// Sends the sidecar a signal.
    ///
    /// # Panics
    /// If it has not begun yet, or has ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid().expect("a sidecar"), signal).expect("the sidecar lives");
    }

    fn pid(&self) -> Option<Pid> {
        self.calls()
            .split_whitespace()
            .next()
            .and_then(|pid| Pid::from_raw(pid.parse().ok()?))
    }

    /// Ends the sidecar with SIGTERM.
    ///
    /// # Panics
    /// As [`Traced::signal`].
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until the sidecar has ended.
    ///
    /// # Panics
    /// If strace cannot be waited for.
    pub fn wait(&mut self) -> ExitStatus {
        self.strace.wait().expect("strace ends with the sidecar")
    }
}

impl Drop for Traced {
    /// A sidecar would live on without its strace; strace ends with it.
    fn drop(&mut self) {
        if matches!(self.strace.try_wait(), Ok(Some(_))) {
            return;
        }
        match self.pid() {
            Some(pid) => drop(kill_process(pid, Signal::KILL)),
            None => drop(self.strace.kill()),
        }
        let _ = self.strace.wait();
    }
}

/// strace at a process that runs already, from when it is attached; `None` if it is not installed.
///
/// # Panics
/// If what it says cannot be read.
pub fn strace(pid: u32, arguments: &[&str]) -> Option<Child> {
    let mut strace = Command::new("strace")
        .args(["-f", "-p", &pid.to_string()])
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let mut says = BufReader::new(strace.stderr.take()?);
    let mut line = String::new();
    while !line.contains("attached") {
        line.clear();
        assert!(
            says.read_line(&mut line).expect("a line") > 0,
            "strace ended"
        );
    }
    // It says more later, and ends if nobody listens.
    std::thread::spawn(move || std::io::copy(&mut says, &mut std::io::sink()));
    Some(strace)
}
