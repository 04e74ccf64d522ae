//! Configuration: a TOML file, over it the environment, over it flags. Unknown keys are errors.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use governor::Quota;
use ipnet::IpNet;
use policy::Bundle;
use policy_engine::Rego;
use protocol::Endpoint;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::Error;
use crate::relay::{Addresses, BucketPlace, CredentialPlace};
use callers::{AgentSocket, Limits, Localhost, LocalhostCaller};
use enclave_client::files::{is_private, read_bounded};
use enclave_client::{RecordConfig, StateConfig};

/// What the file may say. Those that `anchorhold serve --help` lists may also come from the
/// environment or a flag.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) enclave: Option<String>,
    #[serde(alias = "policy")]
    pub(crate) bundle: Option<PathBuf>,
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
    pub(crate) state: Option<PathBuf>,
    pub(crate) state_certificate: Option<PathBuf>,
    #[serde(default)]
    pub(crate) aws: AwsFile,
    #[serde(default)]
    pub(crate) sockets: Vec<AgentSocket>,
    pub(crate) localhost: Option<LocalhostFile>,
    #[serde(default)]
    pub(crate) proxy: ProxyFile,
    #[serde(default)]
    pub(crate) operator_uids: Vec<u32>,
    #[serde(default)]
    pub(crate) limits: LimitsFile,
}

/// How KMS is reached.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AwsFile {
    kms_address: Option<String>,
    credentials: Option<PathBuf>,
}

/// The proxied routes, by which agents get to services.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProxyFile {
    socket: Option<PathBuf>,
    listen: Option<SocketAddr>,
    #[serde(default)]
    callers: Vec<LocalhostCallerFile>,
    credentials: Option<String>,
    #[serde(default)]
    s3: S3File,
    #[serde(default)]
    private: Vec<IpNet>,
    #[serde(default)]
    addresses: BTreeMap<String, String>,
    #[serde(default)]
    wait_seconds: u64,
}

/// Where a bucket is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct S3File {
    region: Option<String>,
    endpoint: Option<String>,
}

/// How agents get to services.
#[derive(Debug)]
pub struct ProxyConfig {
    /// The Unix socket for agents.
    pub socket: PathBuf,
    /// A TCP listener, only where asked for; callers show their tokens as placeholders.
    pub localhost: Option<Localhost>,
    /// Where sealed credentials are kept.
    pub(crate) credentials: CredentialPlace,
    /// Where services are dialled.
    pub(crate) addresses: Addresses,
    /// How long a call is held while somebody is asked to approve it; not at all, if that is nothing.
    pub(crate) wait: Duration,
}

/// Clients wait no longer by themselves, most of them.
const MAX_WAIT: u64 = 600;

/// Whether this is a service, or `NAME.token` of one that has tokens.
fn is_dialled(policy: &Bundle, name: &str) -> bool {
    let with_tokens = || {
        let (_, service) = policy.service(name.strip_suffix(".token")?)?;
        service.token.as_ref()
    };
    policy.service(name).is_some() || with_tokens().is_some()
}

impl ProxyFile {
    fn finish(self, policy: &Bundle, aws: Option<&PathBuf>) -> Result<Option<ProxyConfig>, Error> {
        if policy.services.is_empty() {
            return Ok(None);
        }
        let mut named = self.addresses.keys();
        if let Some(unknown) = named.find(|name| !is_dialled(policy, name)) {
            return Err(Error::Config(format!(
                "proxy.addresses names {unknown:?}, and the bundle has no such service"
            )));
        }
        if self.wait_seconds > MAX_WAIT {
            return Err(Error::Config(format!(
                "proxy.wait_seconds is {}; a call is held for {MAX_WAIT} at most",
                self.wait_seconds
            )));
        }
        let localhost = match self.listen {
            Some(listen) => {
                let callers = self.callers;
                Some(LocalhostFile { listen, callers }.finish("proxy", true)?)
            }
            None if self.callers.is_empty() => None,
            None => {
                return Err(Error::Config(
                    "proxy.callers show tokens at proxy.listen, which is not set".into(),
                ));
            }
        };
        Ok(Some(ProxyConfig {
            socket: self.socket.map_or_else(default_proxy_socket, Ok)?,
            localhost,
            credentials: match self.credentials {
                Some(place) => self.s3.place(place, aws)?,
                None => CredentialPlace::Folder(default_folder("credentials")?),
            },
            addresses: Addresses {
                private: self.private,
                fixed: self.addresses,
            },
            wait: Duration::from_secs(self.wait_seconds),
        }))
    }
}

/// With which the place of a bucket begins.
const BUCKET: &str = "s3://";

impl S3File {
    fn place(self, place: String, aws: Option<&PathBuf>) -> Result<CredentialPlace, Error> {
        let wrong = |why: &str| Err(Error::Config(format!("proxy.credentials: {why}")));
        let Some(named) = place.strip_prefix(BUCKET) else {
            if self.region.is_some() || self.endpoint.is_some() {
                return wrong("proxy.s3 is for a bucket, s3://BUCKET or s3://BUCKET/PREFIX");
            }
            return Ok(CredentialPlace::Folder(PathBuf::from(place)));
        };
        let (bucket, prefix) = named.split_once('/').unwrap_or((named, ""));
        let of_bucket = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        let of_prefix = |b: u8| b.is_ascii_alphanumeric() || b"-._/".contains(&b);
        let prefix = prefix.trim_end_matches('/');
        let steps = prefix
            .split('/')
            .any(|part| ["", ".", ".."].contains(&part));
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(of_bucket) {
            return wrong("a bucket has 3 to 63 lower-case letters, digits, - and .");
        }
        if !prefix.bytes().all(of_prefix) || (!prefix.is_empty() && steps) {
            return wrong("a prefix has letters, digits, -, ., _ and single / between them");
        }
        let Some(region) = self.region else {
            return wrong("proxy.s3.region is missing");
        };
        let is_here = |endpoint: &str| {
            let host = endpoint.strip_prefix("http://").unwrap_or_default();
            ["127.0.0.1", "localhost", "[::1]"].iter().any(|own| {
                host == *own
                    || host
                        .strip_prefix(own)
                        .is_some_and(|rest| rest.starts_with(':'))
            })
        };
        if let Some(endpoint) = &self.endpoint
            && !endpoint.starts_with("https://")
            && !is_here(endpoint)
        {
            return wrong("proxy.s3.endpoint is an https: URL, or http: on this host");
        }
        Ok(CredentialPlace::Bucket(BucketPlace {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            region,
            endpoint: self.endpoint,
            credentials: aws.cloned(),
        }))
    }
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
    /// The policy bundle that the enclave is given.
    pub policy: Bundle,
    /// The key that the bundle names as the proxy's.
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
    /// How the state is kept, if the bundle has one.
    pub state: Option<StateConfig>,
    /// A TCP listener, only where asked for.
    pub localhost: Option<Localhost>,
    /// How agents get to services, if the bundle names any.
    pub proxy: Option<ProxyConfig>,
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
            &mut read.bundle,
            &mut read.proxy_key,
            &mut read.socket,
            &mut read.record,
            &mut read.annex,
            &mut read.state,
            &mut read.state_certificate,
            &mut read.aws.credentials,
            &mut read.proxy.socket,
        ];
        paths
            .into_iter()
            .flatten()
            .for_each(|path| *path = folder.join(&*path));
        if let Some(place) = &mut read.proxy.credentials
            && !place.starts_with(BUCKET)
        {
            *place = folder.join(&*place).display().to_string();
        }
        read.sockets
            .iter_mut()
            .for_each(|socket| socket.path = folder.join(&socket.path));
        let of_localhost = read
            .localhost
            .iter_mut()
            .flat_map(|localhost| &mut localhost.callers);
        for caller in of_localhost.chain(&mut read.proxy.callers) {
            caller.token_file = folder.join(&caller.token_file);
        }
        Ok(read)
    }

    /// Checks everything, and reads the files that it names.
    pub(crate) fn finish(self) -> Result<Config, Error> {
        let missing =
            |what: &str| Error::Config(format!("{what} is not set; see anchorhold serve --help"));
        let bundle = self.bundle.ok_or_else(|| missing("bundle"))?;
        let text = read_bounded(&bundle)?;
        let enclave = self.enclave.ok_or_else(|| missing("enclave"))?;
        let connections = self.connections.unwrap_or(2);
        if !(1..=8).contains(&connections) {
            return Err(Error::Config("connections is 1 to 8".into()));
        }
        let record = RecordConfig {
            folder: self.record.map_or_else(|| default_folder("record"), Ok)?,
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
        let policy = read_bundle(&bundle, &text)?;
        let proxy = self.proxy.finish(&policy, self.aws.credentials.as_ref())?;
        let state = policy.state.is_some().then(|| {
            Ok::<_, Error>(StateConfig {
                folder: self.state.map_or_else(|| default_folder("state"), Ok)?,
                certificate: self.state_certificate,
                kms_address: self.aws.kms_address,
                credentials: self.aws.credentials,
            })
        });
        Ok(Config {
            proxy,
            state: state.transpose()?,
            record,
            operator_uids: self.operator_uids,
            limits: self.limits.finish()?,
            annex: self.annex,
            sockets: self.sockets,
            enclave: enclave
                .parse()
                .map_err(|error| Error::Config(format!("enclave {enclave:?}: {error}")))?,
            policy,
            proxy_key: self.proxy_key.ok_or_else(|| missing("proxy_key"))?,
            socket: self.socket.map_or_else(default_socket, Ok)?,
            connections,
            drain_seconds: self.drain_seconds.unwrap_or(10),
            log_format: self.log_format.unwrap_or(LogFormat::Json),
            log_level: self.log_level.unwrap_or_else(|| "info".into()),
            localhost: self
                .localhost
                .map(|file| file.finish("localhost", false))
                .transpose()?,
        })
    }
}

impl LocalhostFile {
    /// Where others hold placeholders, nobody need be named.
    fn finish(self, section: &str, may_be_empty: bool) -> Result<Localhost, Error> {
        if !self.listen.ip().is_loopback() {
            return Err(Error::Config(format!(
                "{section}.listen {} is not a loopback address",
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
        if callers.is_empty() && !may_be_empty {
            return Err(Error::Config(format!("{section}.callers names nobody")));
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

/// A bundle that the enclave will take.
fn read_bundle(file: &Path, text: &[u8]) -> Result<Bundle, Error> {
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
/// `/run/anchorhold` for root without one.
pub fn default_socket() -> Result<PathBuf, Error> {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) => Ok(Path::new(&folder).join("anchorhold/sidecar.sock")),
        None if rustix::process::geteuid().is_root() || std::env::var_os("LISTEN_FDS").is_some() => Ok("/run/anchorhold/sidecar.sock".into()),
        None => Err(Error::Config("XDG_RUNTIME_DIR is not set; name the socket: --socket PATH for serve and up, --endpoint unix:///PATH for other commands".into())),
    }
}

/// In `$RUNTIME_DIRECTORY`, which systemd makes for a service; or in `$XDG_RUNTIME_DIR`; or in
/// `/run/anchorhold` for root without one.
pub(crate) fn default_proxy_socket() -> Result<PathBuf, Error> {
    const NAME: &str = "agentkeys-proxy.sock";
    let folders = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"];
    let mut named = folders.into_iter().filter_map(std::env::var_os);
    match named.find(|folder| !folder.is_empty()) {
        Some(folder) => Ok(Path::new(&folder).join(NAME)),
        None if rustix::process::geteuid().is_root() => {
            Ok(Path::new("/run/anchorhold").join(NAME))
        }
        None => Err(Error::Config(
            "XDG_RUNTIME_DIR is not set, and the bundle has [[services]]; name the socket: [proxy] socket".into(),
        )),
    }
}

/// A folder of this name: in `$STATE_DIRECTORY`, which systemd makes for a service; or in
/// `$XDG_STATE_HOME/anchorhold`, by default `~/.local/state`; or in `/var/lib/anchorhold` for root
/// without a home.
fn default_folder(name: &str) -> Result<PathBuf, Error> {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(folder) = variable("STATE_DIRECTORY") {
        return Ok(folder.join(name));
    }
    let state = variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    match state {
        Some(folder) => Ok(folder.join("anchorhold").join(name)),
        None if rustix::process::geteuid().is_root() => {
            Ok(Path::new("/var/lib/anchorhold").join(name))
        }
        None => Err(Error::Config(format!(
            "neither STATE_DIRECTORY, XDG_STATE_HOME nor HOME is set; name the folder: {name} = \"...\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const POLICY: &str = "
version = 1
mode = 'development'
proxy_key = 'z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK'
operator_key = 'z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp'
[[identities]]
name = 'agent'
environment = 'test'
did = 'did:key'
algorithm = 'EdDSA'
max_validity_seconds = 600
callers = { uids = [1000] }
rules = [{ name = 'any', actions = ['*'], targets = ['*'], resources = ['*'] }]
";
    /// What every file says, unless it is left out to see what comes of it.
    const NEEDED: &str = "
enclave = 'unix:///run/enclave.sock'
bundle = 'policy.toml'
proxy_key = 'proxy.key'
socket = 'agents.sock'
record = 'record'
";
    const FIRST: &str = "0123456789abcdef0123456789abcdef";
    const SECOND: &str = "fedcba9876543210fedcba9876543210";
    const CREW: &str = "[[localhost.callers]]\nname = 'crew'\ntoken_file = 'first'\n";

    /// A folder with a policy and two tokens, in which files are read.
    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            folder.write("policy.toml", POLICY.as_bytes(), 0o644);
            folder.write("first", FIRST.as_bytes(), 0o600);
            folder.write("second", SECOND.as_bytes(), 0o600);
            folder
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, bytes: &[u8], mode: u32) {
            // One that stands there may be closed to writing.
            let _ = fs::remove_file(self.path(name));
            fs::write(self.path(name), bytes).unwrap();
            fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
        }

        /// A file with exactly this in it.
        fn whole(&self, text: &str) -> Result<Config, Error> {
            self.write("sidecar.toml", text.as_bytes(), 0o644);
            Config::read(&self.path("sidecar.toml"))
        }

        /// A file with what is needed, and this.
        fn with(&self, text: &str) -> Result<Config, Error> {
            self.whole(&format!("{NEEDED}{text}"))
        }

        /// A file that says this instead of what `key` says otherwise.
        fn instead_of(&self, key: &str, text: &str) -> Result<Config, Error> {
            self.whole(&format!("{}{text}", needed_but(key)))
        }
    }

    fn needed_but(key: &str) -> String {
        let other = |line: &&str| !line.starts_with(&format!("{key} = "));
        let lines: Vec<&str> = NEEDED.lines().filter(other).collect();
        lines.join("\n") + "\n"
    }

    /// It is refused in these words, as something that the user can mend.
    #[track_caller]
    fn refused(read: Result<Config, Error>, words: &str, text: &str) {
        let error = read.expect_err(text);
        assert!(error.to_string().contains(words), "{text}: {error}");
        assert_eq!(error.exit_code(), 64, "{text}");
    }

    #[test]
    fn what_is_not_known_is_an_error_that_names_it() {
        let folder = Folder::new();
        let localhost = "[localhost]\nlisten = '127.0.0.1:80'\n";
        for (text, words) in [
            ("sokcet = 'x'", "unknown field `sokcet`"),
            ("[limit]\nburst = 1", "unknown field `limit`"),
            ("[limits]\nbursts = 1", "unknown field `bursts`"),
            (
                "[[sockets]]\nname = 'a'\npath = 'a'\nmode = 1",
                "unknown field `mode`",
            ),
            (
                &format!("{localhost}port = 1\n{CREW}"),
                "unknown field `port`",
            ),
            (
                &format!("{localhost}{CREW}token = 'x'"),
                "unknown field `token`",
            ),
            ("log_format = 'xml'", "unknown variant `xml`"),
            ("log_format = 'Json'", "unknown variant `Json`"),
        ] {
            refused(folder.with(text), words, text);
        }
    }

    #[test]
    fn a_file_is_toml_in_utf_8_whose_values_are_of_the_right_kind() {
        let folder = Folder::new();
        for (text, words) in [
            ("connections = '2'", "invalid type"),
            ("connections = -1", "invalid value"),
            ("connections = 2.0", "invalid type"),
            ("operator_uids = [4294967296]", "invalid value"),
            ("connections = 2\nconnections = 2", "duplicate key"),
            ("connections", "sidecar.toml: TOML parse error"),
            ("[[sockets]]\nname = 'a'", "missing field `path`"),
            ("[[sockets]]\npath = 'a'", "missing field `name`"),
            ("[localhost]\ncallers = []", "missing field `listen`"),
            (
                "[localhost]\nlisten = '127.0.0.1:80'",
                "missing field `callers`",
            ),
        ] {
            refused(folder.with(text), words, text);
        }
        folder.write("latin", b"log_level = '\xe9'", 0o644);
        refused(Config::read(&folder.path("latin")), "not UTF-8", "latin");
        let absent = Config::read(&folder.path("absent"));
        refused(absent, "absent: No such file", "absent");
        let long = format!("#{}", "x".repeat(1 << 20));
        refused(folder.whole(&long), "larger than 1 MiB", "a long file");
    }

    #[test]
    fn what_is_needed_is_missed_by_its_name() {
        let folder = Folder::new();
        for key in ["enclave", "bundle", "proxy_key"] {
            let words = format!("{key} is not set");
            refused(folder.instead_of(key, ""), &words, key);
        }
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let config = Folder::new().with("").unwrap();
        assert_eq!(config.connections, 2);
        assert_eq!(config.drain_seconds, 10);
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(config.log_level, "info");
        assert_eq!(config.record.sync, Duration::from_secs(1));
        assert_eq!(config.record.rotate_bytes, 64 << 20);
        assert_eq!(config.annex, None);
        assert!(config.sockets.is_empty() && config.operator_uids.is_empty());
        assert!(config.localhost.is_none(), "TCP only where asked for");
    }

    #[test]
    fn what_the_file_says_counts() {
        let text = "connections = 3\ndrain_seconds = 4\nlog_format = 'text'\nlog_level = 'debug'\n\
                    record_sync_ms = 5\nrecord_rotate_bytes = 6000\noperator_uids = [7, 8]\n";
        let config = Folder::new().with(text).unwrap();
        assert_eq!(config.connections, 3);
        assert_eq!(config.drain_seconds, 4);
        assert_eq!(config.log_format, LogFormat::Text);
        assert_eq!(config.log_level, "debug");
        assert_eq!(config.record.sync, Duration::from_millis(5));
        assert_eq!(config.record.rotate_bytes, 6000);
        assert_eq!(config.operator_uids, [7, 8]);
    }

    #[test]
    fn numbers_are_taken_up_to_their_bounds_and_not_beyond() {
        let folder = Folder::new();
        for good in [
            "connections = 1",
            "connections = 8",
            "record_sync_ms = 0",
            "record_sync_ms = 60000",
            "record_rotate_bytes = 4096",
            "[limits]\nconnections = 1",
            "[limits]\nconnections = 4096",
        ] {
            assert!(folder.with(good).is_ok(), "{good}");
        }
        for (bad, words) in [
            ("connections = 0", "connections is 1 to 8"),
            ("connections = 9", "connections is 1 to 8"),
            ("record_sync_ms = 60001", "record_sync_ms is 0 to 60000"),
            (
                "record_rotate_bytes = 4095",
                "record_rotate_bytes 4096 or more",
            ),
            (
                "[limits]\nconnections = 0",
                "limits: connections is 1 to 4096",
            ),
            (
                "[limits]\nconnections = 4097",
                "limits: connections is 1 to 4096",
            ),
        ] {
            refused(folder.with(bad), words, bad);
        }
    }

    #[test]
    fn a_rate_has_a_burst_of_twice_as_many_unless_one_is_given_and_zero_is_no_limit() {
        let folder = Folder::new();
        let quota = |rate, burst| {
            let per_second = Quota::per_second(NonZeroU32::new(rate).unwrap());
            Some(per_second.allow_burst(NonZeroU32::new(burst).unwrap()))
        };
        for (text, quota, connections) in [
            ("", quota(1000, 2000), 256),
            ("connections = 7", quota(1000, 2000), 7),
            ("requests_per_second = 10", quota(10, 20), 256),
            ("burst = 3", quota(1000, 3), 256),
            ("requests_per_second = 10\nburst = 1", quota(10, 1), 256),
            (
                "requests_per_second = 4294967295",
                quota(u32::MAX, u32::MAX),
                256,
            ),
            ("requests_per_second = 0", None, 256),
        ] {
            let limits = Limits { quota, connections };
            let read = folder.with(&format!("[limits]\n{text}")).unwrap();
            assert_eq!(read.limits, limits, "{text}");
        }
        for bad in [
            "burst = 0",
            "requests_per_second = 10\nburst = 0",
            "requests_per_second = 0\nburst = 0",
            "requests_per_second = 0\nburst = 1",
        ] {
            let read = folder.with(&format!("[limits]\n{bad}"));
            refused(read, "burst is 1 or more, and needs", bad);
        }
    }

    #[test]
    fn each_agents_socket_has_a_name_and_a_path_of_its_own() {
        let folder = Folder::new();
        let sockets = |named: &[(&str, &str)]| -> String {
            let table = |(name, path)| format!("[[sockets]]\nname = '{name}'\npath = '{path}'\n");
            named.iter().copied().map(table).collect()
        };
        let good = sockets(&[("a", "a.sock"), ("b", "b.sock"), ("A", "sub/a.sock")]);
        let config = folder.with(&good).unwrap();
        let names: Vec<&str> = config.sockets.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "A"]);
        let ids: Vec<_> = config.sockets.iter().map(|s| (s.uid, s.gid)).collect();
        assert_eq!(ids, [(None, None); 3]);
        let here = folder.path("a.sock");
        for (bad, name) in [
            (&[("", "a.sock")][..], "\"\""),
            (&[("a", "a.sock"), ("a", "b.sock")], "\"a\""),
            (&[("a", "a.sock"), ("b", "a.sock")], "\"b\""),
            (&[("a", "a.sock"), ("b", "./a.sock")], "\"b\""),
            (&[("a", "a.sock"), ("b", here.to_str().unwrap())], "\"b\""),
            (&[("a", "1"), ("b", "2"), ("c", "1")], "\"c\""),
            (&[("a", "1"), ("b", "2"), ("a", "3")], "\"a\""),
        ] {
            let words = format!("the name or path of {name} is empty or given twice");
            refused(folder.with(&sockets(bad)), &words, &sockets(bad));
        }
    }

    #[test]
    fn an_enclave_is_at_a_unix_socket_or_at_a_port_of_either_kind_of_vsock() {
        let folder = Folder::new();
        for (text, endpoint) in [
            ("unix:///run/e.sock", Endpoint::Unix("/run/e.sock".into())),
            (
                "vsock://16:5005",
                Endpoint::Vsock {
                    cid: 16,
                    port: 5005,
                },
            ),
            (
                "hvsock:///run/v.sock:5005",
                Endpoint::HybridVsock {
                    path: "/run/v.sock".into(),
                    port: 5005,
                },
            ),
        ] {
            let read = folder.instead_of("enclave", &format!("enclave = '{text}'"));
            assert_eq!(read.unwrap().enclave, endpoint);
        }
        for bad in [
            "",
            "/run/e.sock",
            "unix://e.sock",
            "UNIX:///run/e.sock",
            "vsock://16",
            "vsock://-1:5005",
            "vsock://4294967296:5005",
            "vsock://16:5005/",
            "hvsock://v.sock:5005",
            "http://127.0.0.1:80",
        ] {
            let read = folder.instead_of("enclave", &format!("enclave = '{bad}'"));
            refused(read, &format!("enclave {bad:?}: "), bad);
        }
    }

    #[test]
    fn paths_are_relative_to_the_folder_of_the_file_unless_they_are_absolute() {
        let folder = Folder::new();
        let elsewhere = Folder::new();
        let text = |prefix: &str| {
            format!(
                "enclave = 'vsock://16:5005'\nbundle = '{prefix}policy.toml'\n\
                 proxy_key = '{prefix}proxy.key'\nsocket = '{prefix}agents.sock'\n\
                 record = '{prefix}record'\nannex = '{prefix}annex.cose'\n\
                 [[sockets]]\nname = 'a'\npath = '{prefix}a.sock'\n\
                 [localhost]\nlisten = '127.0.0.1:80'\n\
                 [[localhost.callers]]\nname = 'crew'\ntoken_file = '{prefix}first'\n"
            )
        };
        elsewhere.write("first", SECOND.as_bytes(), 0o600);
        let absolute = format!("{}/", elsewhere.0.path().display());
        for (prefix, of, token) in [("", &folder, FIRST), (&absolute, &elsewhere, SECOND)] {
            let config = folder.whole(&text(prefix)).unwrap();
            assert_eq!(config.proxy_key, of.path("proxy.key"));
            assert_eq!(config.socket, of.path("agents.sock"));
            assert_eq!(config.record.folder, of.path("record"));
            assert_eq!(config.annex, Some(of.path("annex.cose")));
            assert_eq!(config.sockets[0].path, of.path("a.sock"));
            let localhost = config.localhost.unwrap();
            assert_eq!(*localhost.callers[0].token, token);
        }
    }

    #[test]
    fn a_policy_is_one_that_an_enclave_would_take() {
        let folder = Folder::new();
        let with_rego = |module: &str| {
            let rego = format!("rego = {{ module = '{module}', entrypoint = 'data.agent.authz' }}");
            POLICY.replace("[[", &format!("{rego}\n[["))
        };
        let (rego, broken) = (
            with_rego("package agent.authz default allow := true"),
            with_rego("package agent.authz default allow := {"),
        );
        let canonical = Bundle::from_toml(POLICY).unwrap().canonical();
        for (bytes, words) in [
            (POLICY.as_bytes(), None),
            (&canonical, None),
            (b"version = 1", Some("policy.toml: not a policy bundle: ")),
            (b"{}", Some("policy.toml: not a policy bundle: ")),
            (b"\xff", Some("policy.toml: not a policy bundle: not UTF-8")),
            (rego.as_bytes(), None),
            (
                broken.as_bytes(),
                Some("policy.toml: not a policy bundle: rego"),
            ),
        ] {
            folder.write("policy.toml", bytes, 0o644);
            let text = String::from_utf8_lossy(bytes);
            match words {
                None => assert!(folder.with("").is_ok(), "{text}"),
                Some(words) => refused(folder.with(""), words, &text),
            }
        }
    }

    #[test]
    fn a_call_is_held_for_ten_minutes_at_most() {
        let folder = Folder::new();
        let services = "[[services]]\nname = 'api'\nupstream = 'https://api.example'\ninject = { basic = 'x' }\n\
            rules = [{ name = 'read', methods = ['GET'], paths = ['/x'], identities = ['agent'] }]\n";
        folder.write(
            "policy.toml",
            format!("{POLICY}\n{services}").as_bytes(),
            0o644,
        );
        let with = |line: &str| {
            let proxy = format!("[proxy]\nsocket = 'proxy.sock'\ncredentials = 'kept'\n{line}");
            folder.with(&proxy).map(|config| config.proxy.unwrap().wait)
        };
        for (line, wait) in [
            ("", 0),
            ("wait_seconds = 1", 1),
            ("wait_seconds = 600", 600),
        ] {
            assert_eq!(with(line).unwrap(), Duration::from_secs(wait));
        }
        for (line, says) in [
            ("wait_seconds = 601", "is held for 600 at most"),
            ("wait_seconds = -1", "invalid value"),
            ("wait_seconds = '1'", "invalid type"),
        ] {
            let error = with(line).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn localhost_is_a_loopback_address_and_nothing_that_others_reach() {
        let folder = Folder::new();
        let at = |listen: &str| folder.with(&format!("[localhost]\nlisten = '{listen}'\n{CREW}"));
        for good in ["127.0.0.1:80", "127.9.9.9:0", "[::1]:65535"] {
            assert_eq!(
                at(good).unwrap().localhost.unwrap().listen.to_string(),
                good
            );
        }
        for bad in [
            "0.0.0.0:80",
            "[::]:80",
            "192.168.1.1:80",
            "128.0.0.1:80",
            "[::ffff:127.0.0.1]:80",
        ] {
            refused(at(bad), "is not a loopback address", bad);
        }
        for bad in ["localhost:80", "127.0.0.1", "127.0.0.1:65536", "80"] {
            refused(at(bad), "invalid socket address", bad);
        }
    }

    #[test]
    fn a_token_is_long_and_printable_and_in_a_file_that_only_its_owner_reads() {
        let folder = Folder::new();
        let read = |bytes: &[u8], mode| {
            folder.write("first", bytes, mode);
            folder.with(&format!("[localhost]\nlisten = '127.0.0.1:80'\n{CREW}"))
        };
        let every: String = ('!'..='~').collect();
        for (text, mode, token) in [
            (FIRST, 0o600, FIRST),
            (FIRST, 0o400, FIRST),
            ("\n 0123456789abcdef0123456789abcdef\r\n", 0o600, FIRST),
            (&every, 0o600, &every),
        ] {
            let callers = read(text.as_bytes(), mode).unwrap().localhost.unwrap();
            assert_eq!(*callers.callers[0].token, token);
        }
        let (form, open) = ("at least 32 printable characters", "chmod 600");
        for (text, mode, words) in [
            ("", 0o600, form),
            (&FIRST[1..], 0o600, form),
            ("0123456789abcdef 0123456789abcdef", 0o600, form),
            ("0123456789abcdef\n0123456789abcdef", 0o600, form),
            ("0123456789abcdef\x7f0123456789abcdef", 0o600, form),
            ("éééééééééééééééééééééééééééééééé", 0o600, form),
            (FIRST, 0o640, open),
            (FIRST, 0o620, open),
            (FIRST, 0o610, open),
            (FIRST, 0o604, open),
            (FIRST, 0o602, open),
            (FIRST, 0o601, open),
        ] {
            refused(read(text.as_bytes(), mode), words, text);
        }
        let not_text = b"0123456789abcdef0123456789abcdef\xff";
        refused(read(not_text, 0o600), form, "not UTF-8");
        fs::remove_file(folder.path("first")).unwrap();
        let read = folder.with(&format!("[localhost]\nlisten = '127.0.0.1:80'\n{CREW}"));
        refused(read, "first: No such file", "no file");
    }

    #[test]
    fn a_place_for_credentials_is_a_folder_or_a_bucket() {
        let place = |credentials: &str, s3: S3File| {
            let aws = PathBuf::from("/aws");
            let placed = s3.place(credentials.to_owned(), Some(&aws));
            placed.map_err(|error| error.to_string())
        };
        let s3 = |region: &str, endpoint: &str| {
            let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            S3File {
                region: given(region),
                endpoint: given(endpoint),
            }
        };
        let folder = CredentialPlace::Folder("/var/credentials".into());
        assert_eq!(place("/var/credentials", s3("", "")), Ok(folder));
        for (named, bucket, prefix) in [
            ("s3://vault", "vault", ""),
            ("s3://vault/", "vault", ""),
            ("s3://vault.eu/kept/here/", "vault.eu", "kept/here"),
        ] {
            let wanted = CredentialPlace::Bucket(BucketPlace {
                bucket: bucket.into(),
                prefix: prefix.into(),
                region: "eu-central-1".into(),
                endpoint: Some("http://127.0.0.1:8333".into()),
                credentials: Some("/aws".into()),
            });
            let got = place(named, s3("eu-central-1", "http://127.0.0.1:8333"));
            assert_eq!(got, Ok(wanted));
        }
        let one = || s3("eu-central-1", "");
        for (named, s3, says) in [
            ("/var/credentials", one(), "for a bucket"),
            ("s3://vault", s3("", ""), "region is missing"),
            ("s3://", one(), "3 to 63"),
            ("s3://Vault", one(), "3 to 63"),
            ("s3://vault//kept", one(), "a prefix"),
            ("s3://vault/../kept", one(), "a prefix"),
            ("s3://vault/a b", one(), "a prefix"),
            ("s3://vault", s3("r", "http://minio.example"), "https: URL"),
            (
                "s3://vault",
                s3("r", "http://127.0.0.1.example"),
                "https: URL",
            ),
            ("s3://vault", s3("r", "ftp://x"), "https: URL"),
        ] {
            let refused = place(named, s3).unwrap_err();
            assert!(refused.contains(says), "{named}: {refused}");
        }
    }

    #[test]
    fn no_two_callers_on_localhost_share_a_name_or_a_token() {
        let folder = Folder::new();
        folder.write("third", &[b'3'; 40], 0o600);
        folder.write("copy", format!("{FIRST}\n").as_bytes(), 0o600);
        let read = |callers: &[(&str, &str, &str)]| {
            let caller = |(name, file, rest)| {
                format!("[[localhost.callers]]\nname = '{name}'\ntoken_file = '{file}'\n{rest}\n")
            };
            let callers: String = callers.iter().copied().map(caller).collect();
            folder.with(&format!("[localhost]\nlisten = '127.0.0.1:80'\n{callers}"))
        };
        let good = [
            ("crew", "first", ""),
            ("prometheus", "second", "operator = true"),
            ("other", "third", "operator = false"),
        ];
        let callers = read(&good).unwrap().localhost.unwrap().callers;
        let operators = callers.iter().map(|c| (c.name.as_str(), c.operator));
        assert!(operators.eq([("crew", false), ("prometheus", true), ("other", false)]));
        for (bad, name) in [
            (&[("a", "first", ""), ("a", "second", "")][..], "\"a\""),
            (&[("a", "first", ""), ("b", "first", "")], "\"b\""),
            (&[("a", "first", ""), ("b", "copy", "")], "\"b\""),
            (
                &[("a", "first", ""), ("b", "second", ""), ("c", "first", "")],
                "\"c\"",
            ),
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(
                error.contains(&format!("share the name or token of {name}")),
                "{error}"
            );
            assert!(!error.contains(FIRST), "a token is nobody else's to read");
        }
        let nobody = "[localhost]\nlisten = '127.0.0.1:80'\ncallers = []";
        refused(folder.with(nobody), "names nobody", nobody);
    }
}
