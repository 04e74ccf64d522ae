//! Commands of the build.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::OFlags;

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

/// Who watches a build: what begins, and a log for everything that the steps say.
pub(crate) struct Watch<'a> {
    begins: &'a dyn Fn(&str),
    log: File,
}

impl<'a> Watch<'a> {
    /// Begins the log anew, in a file that is one: where others can write, a link may stand.
    pub(crate) fn start(begins: &'a dyn Fn(&str), path: &Path) -> Result<Self, Error> {
        let opened = File::options()
            .read(true)
            .append(true)
            .create(true)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)
            .and_then(|log| match log.metadata()?.is_file() {
                true => log.set_len(0).map(|()| log),
                false => Err(io::Error::other("not a file")),
            });
        let log = opened.map_err(Error::io(path))?;
        Ok(Self { begins, log })
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
        const MAX_TAIL: u64 = 64 << 10;
        watch.begins(self.what);
        let mut log = &watch.log;
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
        let end = log.metadata().map_err(failed)?.len();
        let from = from.max(end.saturating_sub(MAX_TAIL));
        log.seek(SeekFrom::Start(from)).map_err(failed)?;
        log.take(MAX_TAIL).read_to_end(&mut said).map_err(failed)?;
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
