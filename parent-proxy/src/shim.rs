//! `anchorhold-shim`: starts one program with the group by which callers are pinned, and nothing
//! else with it.
//!
//! Installed as a copy of its own for each agent, `root:GROUP` and mode 2755, with `<its
//! path>.toml` beside it, which says what to start. Who calls it chooses neither the program nor,
//! but for what that file lets through, its arguments and environment; the kernel keeps others of
//! the same user from tracing what has another group than they have, and the C library ignores
//! LD_PRELOAD there. So an interpreted agent can be pinned too. docs/callers.md.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::process::{getegid, getgid};
use serde::Deserialize;

/// The configuration, in bytes.
const MAX_CONFIG: u64 = 64 * 1024;
/// What the program finds its own programs by, unless the configuration says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// sysexits(3): the configuration or the installation is wrong; the program could not be started.
const USAGE: u8 = 64;
const SOFTWARE: u8 = 70;

/// What to start.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shim {
    /// Absolute path of the program, and its arguments.
    command: Vec<String>,
    /// Variables: `NAME` is let through, `NAME=value` is set.
    #[serde(default)]
    environment: Vec<String>,
    /// Whether the caller's arguments are appended.
    #[serde(default)]
    arguments: bool,
}

/// Why nothing is started.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(
        "the group was not taken: install this file as root:GROUP, mode 2755, not on a nosuid mount, and start it without no_new_privs"
    )]
    NoGroup,
    #[error("where this program lies: {0}")]
    OwnPath(io::Error),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {why}", path.display())]
    Untrusted { path: PathBuf, why: &'static str },
    #[error("{}: {why}", path.display())]
    Config { path: PathBuf, why: String },
    #[error("{program}: {source}")]
    Start { program: String, source: io::Error },
}

const ABOUT: &str = "anchorhold-shim starts one program with the group by which callers are pinned, and nothing else with it.

Install a copy for each agent, root:GROUP and mode 2755, and beside it <its path>.toml, which says what to start:

    command = [\"/usr/bin/python3\", \"-I\", \"/opt/reviewer/main.py\"]
    environment = [\"HOME\", \"LANG=C.UTF-8\"]   # let through, or set; there is nothing else but a PATH
    arguments = false                        # whether the caller's arguments are appended

Installed so, it takes no options of its own. Exit code 64: file or installation is wrong. 70: the program could not be started.
";

fn main() -> ExitCode {
    // With the group, every argument is the program's.
    let asked = |argument: OsString| argument == "--help" || argument == "-h";
    if getegid() == getgid() && std::env::args_os().nth(1).is_some_and(asked) {
        let _ = io::stdout().write_all(ABOUT.as_bytes());
        return ExitCode::SUCCESS;
    }
    let Err(error) = run();
    let _ = writeln!(io::stderr(), "anchorhold-shim: {error}");
    ExitCode::from(if matches!(error, Error::Start { .. }) {
        SOFTWARE
    } else {
        USAGE
    })
}

fn run() -> Result<std::convert::Infallible, Error> {
    if getegid() == getgid() {
        return Err(Error::NoGroup);
    }
    let own = std::fs::read_link("/proc/self/exe").map_err(Error::OwnPath)?;
    let shim = Shim::beside(&own)?;
    let mut command = Command::new(&shim.command[0]);
    command
        .args(&shim.command[1..])
        .env_clear()
        .env("PATH", PATH);
    for variable in &shim.environment {
        match variable.split_once('=') {
            Some((name, value)) => drop(command.env(name, value)),
            None => drop(std::env::var_os(variable).map(|value| command.env(variable, value))),
        }
    }
    if shim.arguments {
        command.args(std::env::args_os().skip(1));
    }
    let source = command.exec();
    Err(Error::Start {
        program: shim.command[0].clone(),
        source,
    })
}

impl Shim {
    /// Reads `<own>.toml`. Nobody but root may have had a hand in it, nor in where it lies: with a
    /// link to this program in a folder of their own, others would choose what has the group.
    fn beside(own: &Path) -> Result<Self, Error> {
        let folder = own.parent().unwrap_or(Path::new("/"));
        for (depth, ancestor) in folder.ancestors().enumerate() {
            let metadata = std::fs::symlink_metadata(ancestor).map_err(|source| Error::File {
                path: ancestor.into(),
                source,
            })?;
            // Above it a folder like /tmp does, where nobody can replace what is another's.
            let sticky = depth > 0 && metadata.mode() & 0o1000 != 0;
            check(&metadata, sticky).map_err(|why| Error::Untrusted {
                path: ancestor.into(),
                why,
            })?;
        }
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(
            &[own.as_os_str().as_bytes(), b".toml"].concat(),
        ));
        let failed = |source| Error::File {
            path: path.clone(),
            source,
        };
        let mut options = File::options();
        let no_follow = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let file = options
            .read(true)
            .custom_flags(no_follow.bits().cast_signed())
            .open(&path)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(Error::Untrusted {
                path,
                why: "not a file",
            });
        }
        if let Err(why) = check(&metadata, false) {
            return Err(Error::Untrusted { path, why });
        }
        let mut text = String::new();
        file.take(MAX_CONFIG + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        if text.len() as u64 > MAX_CONFIG {
            return Err(Error::Config {
                path,
                why: "larger than 64 KiB".into(),
            });
        }
        Self::parse(&text).map_err(|why| Error::Config { path, why })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let this: Self = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        if !this
            .command
            .first()
            .is_some_and(|program| program.starts_with('/'))
        {
            return Err("command begins with the absolute path of a program".into());
        }
        let named = |variable: &String| {
            !variable.is_empty() && !variable.starts_with('=') && !variable.contains('\0')
        };
        if !this.environment.iter().all(named)
            || this.command.iter().any(|part| part.contains('\0'))
        {
            return Err("environment holds NAME or NAME=value; NUL stands nowhere".into());
        }
        Ok(this)
    }
}

/// Whether only root could have written it.
fn check(metadata: &Metadata, sticky: bool) -> Result<(), &'static str> {
    if metadata.uid() != 0 {
        Err("not root's")
    } else if metadata.mode() & 0o022 != 0 && !sticky {
        Err("others than root could write to it")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_says_what_it_starts_and_nothing_else() {
        let good = "command = [\"/usr/bin/python3\", \"-I\", \"/opt/agent.py\"]\nenvironment = [\"HOME\", \"LANG=C\"]\n";
        let shim = Shim::parse(good).unwrap();
        assert_eq!(
            (shim.command.len(), shim.environment.len(), shim.arguments),
            (3, 2, false)
        );
        for (bad, says) in [
            ("", "missing field"),
            ("command = []\n", "absolute"),
            ("command = [\"python3\"]\n", "absolute"),
            ("command = [\"/a\\u0000b\"]\n", "NUL"),
            ("command = [\"/a\"]\nenvironment = [\"\"]\n", "NAME"),
            ("command = [\"/a\"]\nenvironment = [\"=x\"]\n", "NAME"),
            ("command = [\"/a\"]\nshell = true\n", "unknown field"),
            ("command = \"/a\"\n", "invalid type"),
        ] {
            let why = Shim::parse(bad).unwrap_err();
            assert!(why.contains(says), "{bad}: {why}");
        }
    }
}
