//! Commands of the build.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::Error;

/// A command with nothing of the caller's environment but what finds tools, crates and scratch
/// space. Whatever else is set (compiler flags, above all) could change the outcome.
pub(crate) fn clean(mut command: Command) -> Command {
    const NAMES: [&str; 12] = [
        "PATH",
        "HOME",
        "USER",
        "TMPDIR",
        "CARGO_HOME",
        "RUSTUP_HOME",
        "RUSTUP_TOOLCHAIN",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ];
    const PREFIXES: [&str; 4] = [
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTRIES_",
        "CARGO_SOURCE_",
    ];
    let kept = |name: &OsStr| {
        name.to_str().is_some_and(|name| {
            NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
    };
    command
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| kept(name)));
    command.env("LC_ALL", "C").env("TZ", "UTC");
    command
}

/// Who watches a build: what begins, and where everything is written that the steps say.
pub struct Watch<'a> {
    begins: &'a dyn Fn(&str),
    log: PathBuf,
}

impl<'a> Watch<'a> {
    /// Nothing is written before something begins.
    pub fn new(begins: &'a dyn Fn(&str), log: PathBuf) -> Self {
        Self { begins, log }
    }

    /// Begins the log anew.
    pub(crate) fn start(&self) -> Result<(), Error> {
        File::create(&self.log)
            .map(drop)
            .map_err(Error::io(&self.log))
    }

    /// Something else than a command begins.
    pub(crate) fn begins(&self, what: &str) {
        (self.begins)(what);
    }
}

/// One command of the build.
pub(crate) struct Step {
    what: &'static str,
    command: Command,
}

impl Step {
    pub(crate) fn new(what: &'static str, command: Command) -> Self {
        Self {
            what,
            command: clean_keeping_own(command),
        }
    }

    /// Runs it; what it says goes to the log, and its end into the error if it fails.
    pub(crate) fn run(mut self, watch: &Watch<'_>) -> Result<(), Error> {
        const TAIL_LINES: usize = 30;
        watch.begins(self.what);
        let mut log = File::options()
            .read(true)
            .append(true)
            .open(&watch.log)
            .map_err(Error::io(&watch.log))?;
        let failed = |source| Error::Io {
            what: self.what.into(),
            source,
        };
        writeln!(log, "== {}", self.what).map_err(failed)?;
        let from = log.metadata().map_err(failed)?.len();
        let status = self
            .command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log.try_clone().map_err(failed)?)
            .status()
            .map_err(failed)?;
        if status.success() {
            return Ok(());
        }
        let mut said = Vec::new();
        log.seek(SeekFrom::Start(from)).map_err(failed)?;
        log.read_to_end(&mut said).map_err(failed)?;
        let text = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        Err(Error::Step {
            what: self.what.into(),
            status: status.to_string(),
            tail,
        })
    }
}

/// Cleans, and then sets again what the command itself has set.
fn clean_keeping_own(command: Command) -> Command {
    let own: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    let mut command = clean(command);
    command.envs(own);
    command
}
