//! Commands of the build.

use std::ffi::OsStr;
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

    /// Runs it; shows nothing of it unless it fails.
    pub(crate) fn run(mut self, say: &dyn Fn(&str)) -> Result<(), Error> {
        const TAIL_LINES: usize = 30;
        say(self.what);
        let output = self.command.stdin(Stdio::null()).output();
        let output = output.map_err(|source| Error::Io {
            what: self.what.into(),
            source,
        })?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        Err(Error::Step {
            what: self.what.into(),
            status: output.status.to_string(),
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
