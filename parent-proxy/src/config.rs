//! Configuration: a TOML file, over it the environment, over it flags. Unknown keys are errors.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use governor::Quota;
use policy::Bundle;
use policy_engine::Rego;
use protocol::Endpoint;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::Error;
use callers::{AgentSocket, Limits, Localhost, LocalhostCaller};
use enclave_client::RecordConfig;
use enclave_client::files::{is_private, read_bounded};

/// What the file may say; every member can also come from the environment or a flag.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) enclave: Option<String>,
    pub(crate) policy: Option<PathBuf>,
    pub(crate) proxy_key: Option<PathBuf>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) connections: Option<usize>,
    pub(crate) drain_seconds: Option<u64>,
    pub(crate) log_format: Option<LogFormat>,
    pub(crate) log_level: Option<String>,
    pub(crate) record: Option<PathBuf>,
    pub(crate) record_sync_ms: Option<u64>,
    pub(crate) record_rotate_bytes: Option<u64>,
    pub(crate) annex: Option<PathBuf>,
    #[serde(default)]
    pub(crate) sockets: Vec<AgentSocket>,
    pub(crate) localhost: Option<LocalhostFile>,
    #[serde(default)]
    pub(crate) operator_uids: Vec<u32>,
    #[serde(default)]
    pub(crate) limits: LimitsFile,
}

/// What each caller may take of the sidecar.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsFile {
    requests_per_second: u32,
    burst: Option<u32>,
    connections: usize,
}

impl Default for LimitsFile {
    fn default() -> Self {
        Self {
            requests_per_second: 1000,
            burst: None,
            connections: 256,
        }
    }
}

impl LimitsFile {
    fn finish(self) -> Result<Limits, Error> {
        let rate = NonZeroU32::new(self.requests_per_second);
        let burst = self
            .burst
            .unwrap_or(self.requests_per_second.saturating_mul(2));
        let quota = match (rate, NonZeroU32::new(burst)) {
            (Some(rate), Some(burst)) => Some(Quota::per_second(rate).allow_burst(burst)),
            (None, _) if self.burst.is_none() => None,
            _ => {
                return Err(Error::Config(
                    "limits: burst is 1 or more, and needs requests_per_second".into(),
                ));
            }
        };
        if !(1..=4096).contains(&self.connections) {
            return Err(Error::Config("limits: connections is 1 to 4096".into()));
        }
        Ok(Limits {
            quota,
            connections: self.connections,
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LocalhostFile {
    listen: SocketAddr,
    callers: Vec<LocalhostCallerFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LocalhostCallerFile {
    name: String,
    token_file: PathBuf,
    #[serde(default)]
    operator: bool,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a person.
    Text,
}

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    /// Where the enclave listens.
    pub enclave: Endpoint,
    /// The policy that the enclave is given.
    pub policy: Bundle,
    /// The key that the policy names as the proxy's.
    pub proxy_key: PathBuf,
    /// The Unix socket for agents.
    pub socket: PathBuf,
    /// Connections kept to the enclave.
    pub connections: usize,
    /// How long requests under way may take after SIGTERM, in seconds.
    pub drain_seconds: u64,
    /// How logs are written.
    pub log_format: LogFormat,
    /// `info`, or a filter as tracing-subscriber reads it.
    pub log_level: String,
    /// The annex that the operator signed; read again on SIGHUP.
    pub annex: Option<PathBuf>,
    /// Sockets for one agent each.
    pub sockets: Vec<AgentSocket>,
    /// Users who may read the metrics, beside the sidecar's own and root.
    pub operator_uids: Vec<u32>,
    /// What each caller may take.
    pub limits: Limits,
    /// How the decision record is kept.
    pub record: RecordConfig,
    /// A TCP listener, only where asked for.
    pub localhost: Option<Localhost>,
}

impl File {
    /// Reads a file; paths in it are relative to its folder.
    pub(crate) fn read(file: &Path) -> Result<Self, Error> {
        let text = String::from_utf8(read_bounded(file)?)
            .map_err(|_| Error::Config(format!("{}: not UTF-8", file.display())))?;
        let mut read: Self = toml::from_str(&text)
            .map_err(|error| Error::Config(format!("{}: {error}", file.display())))?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let paths = [
            &mut read.policy,
            &mut read.proxy_key,
            &mut read.socket,
            &mut read.record,
            &mut read.annex,
        ];
        paths
            .into_iter()
            .flatten()
            .for_each(|path| *path = folder.join(&*path));
        read.sockets
            .iter_mut()
            .for_each(|socket| socket.path = folder.join(&socket.path));
        for caller in read
            .localhost
            .iter_mut()
            .flat_map(|localhost| &mut localhost.callers)
        {
            caller.token_file = folder.join(&caller.token_file);
        }
        Ok(read)
    }

    /// Checks everything, and reads the files that it names.
    pub(crate) fn finish(self) -> Result<Config, Error> {
        let missing =
            |what: &str| Error::Config(format!("{what} is not set; see anchorhold serve --help"));
        let policy = self.policy.ok_or_else(|| missing("policy"))?;
        let text = read_bounded(&policy)?;
        let enclave = self.enclave.ok_or_else(|| missing("enclave"))?;
        let connections = self.connections.unwrap_or(2);
        if !(1..=8).contains(&connections) {
            return Err(Error::Config("connections is 1 to 8".into()));
        }
        let record = RecordConfig {
            folder: self.record.map_or_else(default_record, Ok)?,
            sync: Duration::from_millis(self.record_sync_ms.unwrap_or(1000)),
            rotate_bytes: self.record_rotate_bytes.unwrap_or(64 << 20),
        };
        if record.sync > Duration::from_secs(60) || record.rotate_bytes < 4096 {
            return Err(Error::Config(
                "record_sync_ms is 0 to 60000, record_rotate_bytes 4096 or more".into(),
            ));
        }
        for (index, socket) in self.sockets.iter().enumerate() {
            let twin = |other: &AgentSocket| other.name == socket.name || other.path == socket.path;
            if socket.name.is_empty() || self.sockets[..index].iter().any(twin) {
                return Err(Error::Config(format!(
                    "sockets: the name or path of {:?} is empty or given twice",
                    socket.name
                )));
            }
        }
        Ok(Config {
            record,
            operator_uids: self.operator_uids,
            limits: self.limits.finish()?,
            annex: self.annex,
            sockets: self.sockets,
            enclave: enclave
                .parse()
                .map_err(|error| Error::Config(format!("enclave {enclave:?}: {error}")))?,
            policy: read_policy(&policy, &text)?,
            proxy_key: self.proxy_key.ok_or_else(|| missing("proxy_key"))?,
            socket: self.socket.map_or_else(default_socket, Ok)?,
            connections,
            drain_seconds: self.drain_seconds.unwrap_or(10),
            log_format: self.log_format.unwrap_or(LogFormat::Json),
            log_level: self.log_level.unwrap_or_else(|| "info".into()),
            localhost: self.localhost.map(LocalhostFile::finish).transpose()?,
        })
    }
}

impl LocalhostFile {
    fn finish(self) -> Result<Localhost, Error> {
        if !self.listen.ip().is_loopback() {
            return Err(Error::Config(format!(
                "localhost.listen {} is not a loopback address",
                self.listen
            )));
        }
        let callers = self
            .callers
            .into_iter()
            .map(LocalhostCallerFile::finish)
            .collect::<Result<Vec<_>, _>>()?;
        for (index, caller) in callers.iter().enumerate() {
            if callers[..index]
                .iter()
                .any(|other| other.name == caller.name || other.token == caller.token)
            {
                return Err(Error::Config(format!(
                    "two callers on localhost share the name or token of {:?}",
                    caller.name
                )));
            }
        }
        if callers.is_empty() {
            return Err(Error::Config("localhost.callers names nobody".into()));
        }
        Ok(Localhost {
            listen: self.listen,
            callers,
        })
    }
}

impl LocalhostCallerFile {
    fn finish(self) -> Result<LocalhostCaller, Error> {
        let file = self.token_file;
        let io = |source| enclave_client::Error::File {
            file: file.clone(),
            source,
        };
        if !is_private(&file, std::fs::metadata(&file).map_err(io)?.mode()) {
            return Err(enclave_client::Error::KeyFile {
                file,
                why: "readable by group or others; chmod 600",
            }
            .into());
        }
        let text = Zeroizing::new(read_bounded(&file)?);
        let token = Zeroizing::new(String::from_utf8_lossy(&text).trim().to_owned());
        if token.len() < 32 || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(enclave_client::Error::KeyFile {
                file,
                why: "a token has at least 32 printable characters and no spaces",
            }
            .into());
        }
        Ok(LocalhostCaller {
            name: self.name,
            token,
            operator: self.operator,
        })
    }
}

/// A policy that the enclave will take.
fn read_policy(file: &Path, text: &[u8]) -> Result<Bundle, Error> {
    let bundle = Bundle::from_either(text).map_err(|source| Error::Policy {
        file: file.into(),
        source,
    })?;
    load_rego(file, &bundle)?;
    Ok(bundle)
}

/// Compiles the Rego of a bundle, as the enclave will.
pub(crate) fn load_rego(file: &Path, policy: &Bundle) -> Result<Option<Rego>, Error> {
    let wrong = |error: policy_engine::RegoError| policy::Error::Malformed(error.to_string());
    Rego::load(policy).map_err(|error| Error::Policy {
        file: file.into(),
        source: wrong(error),
    })
}

/// `$XDG_RUNTIME_DIR/anchorhold/sidecar.sock`, or `/run/anchorhold/sidecar.sock` for root without
/// one, and for a service to which systemd hands its socket.
pub fn default_socket() -> Result<PathBuf, Error> {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) => Ok(Path::new(&folder).join("anchorhold/sidecar.sock")),
        None if rustix::process::geteuid().is_root() || std::env::var_os("LISTEN_FDS").is_some() => Ok("/run/anchorhold/sidecar.sock".into()),
        None => Err(Error::Config("XDG_RUNTIME_DIR is not set; name the socket: --socket PATH for serve and up, --endpoint unix:///PATH for other commands".into())),
    }
}

/// `$STATE_DIRECTORY/record`, which systemd makes for a service; or
/// `$XDG_STATE_HOME/anchorhold/record`, by default `~/.local/state`; or
/// `/var/lib/anchorhold/record` for root without a home.
fn default_record() -> Result<PathBuf, Error> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(folder) = variable("STATE_DIRECTORY") {
        return Ok(folder.join("record"));
    }
    let state = variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    match state {
        Some(folder) => Ok(folder.join("anchorhold/record")),
        None if rustix::process::geteuid().is_root() => Ok("/var/lib/anchorhold/record".into()),
        None => Err(Error::Config(
            "neither STATE_DIRECTORY, XDG_STATE_HOME nor HOME is set; name the folder: record = \"...\"".into(),
        )),
    }
}
