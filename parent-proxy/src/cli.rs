//! The command line of `anchorhold`.

use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use attestation::policy::Bundle;
use clap::{Args, CommandFactory, Parser, Subcommand};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use identity::Signer;
use identity::succession::Order;
use serde_json::{Map, Value, json};
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

use crate::client::{Client, ClientError, Target};
pub use crate::config::default_socket;
use crate::config::{File, read_bounded};
use crate::{Config, Error, KeyFile, LogFormat};

/// Signatures for AI agents, from keys that only an enclave holds.
///
/// `anchorhold serve` is the sidecar: it runs beside the agents, talks to the enclave, and answers HTTP on a Unix socket. The
/// other commands talk to a running sidecar, or prepare its files.
///
/// Exit code 0: done. 1: the sidecar refused. 64: the command line, a file or the configuration is wrong. 70: it failed.
#[derive(Debug, Parser)]
#[command(name = "anchorhold", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar for an enclave
    Serve(Box<Serve>),
    /// Ask for a signature; prints the token
    Sign(Sign),
    /// Say who the identity is
    Identity(Named),
    /// Replace the identity's key
    Rotate(Rotate),
    /// Fetch evidence for a verifier's challenge
    Attest(Attest),
    /// Print a line that tells your shell where the sidecar is: eval "$(anchorhold env)"
    Env(Connection),
    /// Make an Ed25519 key for the proxy or the operator; prints its Multikey for the policy
    Keygen {
        /// Where to write it, PKCS#8 PEM, mode 0600; must not exist
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Check a policy bundle; prints its digest, PCR16 and canonical form
    Policy {
        /// The bundle, TOML or canonical
        file: PathBuf,
        /// Print only the canonical bytes
        #[arg(long)]
        canonical: bool,
    },
    /// Print the description of the HTTP API, OpenAPI 3.1
    Openapi,
    /// Print a completion script for your shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Configuration comes from the file, over it from the environment, over it from flags.
#[derive(Debug, Args)]
struct Serve {
    /// Configuration file, TOML; unknown keys in it are errors
    #[arg(long, env = "ANCHORHOLD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The enclave: vsock://CID:PORT, hvsock:///path:PORT or unix:///path
    #[arg(long, env = "ANCHORHOLD_ENCLAVE", value_name = "URI")]
    enclave: Option<String>,
    /// The policy bundle that the enclave is given
    #[arg(long, env = "ANCHORHOLD_POLICY", value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The key that the policy names as proxy_key, from `anchorhold keygen`
    #[arg(long, env = "ANCHORHOLD_PROXY_KEY", value_name = "FILE")]
    proxy_key: Option<PathBuf>,
    /// The socket for agents; its directory is made if missing [default: $XDG_RUNTIME_DIR/anchorhold/sidecar.sock]
    #[arg(long, env = "ANCHORHOLD_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Connections kept to the enclave, 1 to 8 [default: 2]
    #[arg(long, env = "ANCHORHOLD_CONNECTIONS", value_name = "N")]
    connections: Option<usize>,
    /// How long requests under way may take after SIGTERM [default: 10]
    #[arg(long, env = "ANCHORHOLD_DRAIN_SECONDS", value_name = "SECONDS")]
    drain_seconds: Option<u64>,
    /// How logs are written, to standard error [default: json]
    #[arg(long, env = "ANCHORHOLD_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// error, warn, info or debug [default: info]
    #[arg(long, env = "ANCHORHOLD_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
}

/// Where the sidecar is.
#[derive(Debug, Args)]
struct Connection {
    /// The sidecar: unix:///path or http://127.0.0.1:PORT [default: the default socket]
    #[arg(long, env = "ANCHORHOLD_ENDPOINT_SOCKET", value_name = "URI")]
    endpoint: Option<Target>,
    /// The file with this caller's token, for localhost
    #[arg(long, env = "ANCHORHOLD_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Named {
    /// Name of the identity; may be left out if you may use only one
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct Sign {
    /// What is to be done
    #[arg(long)]
    action: String,
    /// What it is done to
    #[arg(long, default_value = "")]
    target: String,
    /// Where
    #[arg(long, default_value = "")]
    resource: String,
    /// A JSON object; `-` reads it from standard input
    #[arg(long, value_name = "JSON")]
    payload: String,
    /// For whom it is made
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,
    /// vouch-jwt or vouch-credential
    #[arg(long, default_value = "vouch-jwt")]
    format: String,
    /// Validity in seconds
    #[arg(long, value_name = "N")]
    validity_seconds: Option<u32>,
    /// Print the whole answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    named: Named,
}

#[derive(Debug, Args)]
struct Rotate {
    /// The operator's key; signs the order that a caller without permission of its own needs. Needs --identity
    #[arg(long, value_name = "FILE")]
    operator_key: Option<PathBuf>,
    #[command(flatten)]
    named: Named,
}

#[derive(Debug, Args)]
struct Attest {
    /// The verifier's challenge, 16 to 64 bytes
    #[arg(long, value_name = "HEX")]
    nonce: String,
    /// Where to write the evidence file; an older one is replaced
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    named: Named,
}

/// Why a command ended.
enum Failure {
    Setup(Error),
    Usage(String),
    Client(ClientError),
    Output(std::io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Setup(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

impl Failure {
    fn exit(self) -> ExitCode {
        let (code, text) = match &self {
            Self::Setup(error) => (error.exit_code(), error.to_string()),
            Self::Usage(text) => (64, text.clone()),
            Self::Client(error @ ClientError::Refused { .. }) => (1, error.to_string()),
            Self::Client(error) => (70, error.to_string()),
            Self::Output(error) => (70, error.to_string()),
        };
        // Part of it may be what a hostile sidecar says; it must not move the cursor.
        let shown: String =
            text.chars().flat_map(|c| if c.is_control() && c != '\n' { c.escape_default().collect() } else { vec![c] }).collect();
        let _ = writeln!(std::io::stderr(), "anchorhold: {shown}");
        ExitCode::from(code)
    }
}

/// Runs the command that `args` names; the first of them is the program's own name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Cli::try_parse_from(args) {
        Ok(cli) => run(cli.command).map_or_else(Failure::exit, |()| ExitCode::SUCCESS),
        Err(error) => {
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { 64 } else { 0 })
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match command {
        Command::Serve(serve) => return Ok(serve_until_stopped(serve.config()?)?),
        Command::Sign(sign) => {
            let (answer, json) = (block_on(sign.send())??, sign.json);
            match answer["vouch_token"].as_str() {
                Some(token) if !json => writeln!(out, "{token}")?,
                _ if json => print_json(&mut out, &answer)?,
                _ => print_json(&mut out, &answer["credential"])?,
            }
        }
        Command::Identity(named) => print_json(&mut out, &block_on(named.describe())??)?,
        Command::Rotate(rotate) => print_json(&mut out, &block_on(rotate.send())??)?,
        Command::Attest(attest) => block_on(attest.fetch())??,
        Command::Env(connection) => writeln!(out, "export ANCHORHOLD_ENDPOINT_SOCKET='{}'", connection.uri()?)?,
        Command::Keygen { output } => writeln!(out, "{}", KeyFile::create(&output)?.public_key().to_multikey())?,
        Command::Policy { file, canonical } => policy(&mut out, &file, canonical)?,
        Command::Openapi => out.write_all(crate::openapi().as_bytes())?,
        Command::Completions { shell } => clap_complete::generate(shell, &mut Cli::command(), "anchorhold", &mut out),
    }
    Ok(())
}

/// Runs the sidecar of a checked configuration until a signal stops it.
pub fn serve_until_stopped(config: Config) -> Result<(), Error> {
    let filter = EnvFilter::try_new(&config.log_level).map_err(|error| Error::Config(format!("log_level: {error}")))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Only an earlier logger of this very process could be in the way.
    let _ = match config.log_format {
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    block_on(crate::run(config))?
}

/// One worker: a second one costs more in waking threads than it gains, for the enclave does all that takes long.
fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Error> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?.block_on(future))
}

impl Serve {
    fn config(self) -> Result<Config, Error> {
        let file = self.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
        let merged = File {
            enclave: self.enclave.or(file.enclave),
            policy: self.policy.or(file.policy),
            proxy_key: self.proxy_key.or(file.proxy_key),
            socket: self.socket.or(file.socket),
            connections: self.connections.or(file.connections),
            drain_seconds: self.drain_seconds.or(file.drain_seconds),
            log_format: self.log_format.or(file.log_format),
            log_level: self.log_level.or(file.log_level),
            localhost: file.localhost,
        };
        merged.finish()
    }
}

impl Config {
    /// Reads a configuration file, without environment and flags.
    pub fn read(file: &Path) -> Result<Self, Error> {
        File::read(file)?.finish()
    }
}

impl Connection {
    fn target(&self) -> Result<Target, Error> {
        self.endpoint.clone().map_or_else(|| default_socket().map(Target::Unix), Ok)
    }

    fn uri(&self) -> Result<String, Error> {
        Ok(match self.target()? {
            Target::Unix(path) => format!("unix://{}", path.display()),
            Target::Localhost(authority) => format!("http://{authority}"),
        })
    }

    fn client(&self) -> Result<Client, Error> {
        let read = |file: &PathBuf| -> Result<_, Error> {
            let bytes = Zeroizing::new(read_bounded(file)?);
            Ok(Zeroizing::new(String::from_utf8_lossy(&bytes).trim().to_owned()))
        };
        Ok(Client::new(self.target()?, self.token_file.as_ref().map(read).transpose()?))
    }
}

impl Named {
    async fn describe(&self) -> Result<Value, Failure> {
        let path = match &self.identity {
            None => "/identity".to_owned(),
            Some(name) if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) => {
                format!("/identity?identity={name}")
            }
            Some(_) => return Err(Failure::Usage("--identity is not a name that a policy can hold".into())),
        };
        answer(&self.connection.client()?.call(&path, None).await?)
    }

    /// A request body that names the identity, where one was given.
    fn body(&self) -> Map<String, Value> {
        self.identity.iter().map(|name| ("identity".to_owned(), json!(name))).collect()
    }
}

impl Sign {
    async fn send(&self) -> Result<Value, Failure> {
        let mut text = self.payload.clone();
        if text == "-" {
            text.clear();
            std::io::stdin().take(1 << 20).read_to_string(&mut text)?;
        }
        let payload = identity::json::parse(text.as_bytes()).map_err(|error| Failure::Usage(format!("--payload: {error}")))?;
        let mut body = self.named.body();
        body.insert("payload".into(), payload);
        body.insert("intent".into(), json!({"action": self.action, "target": self.target, "resource": self.resource}));
        body.insert("format".into(), json!(self.format));
        if let Some(audience) = &self.audience {
            body.insert("audience".into(), json!(audience));
        }
        if let Some(seconds) = self.validity_seconds {
            body.insert("validity_seconds".into(), json!(seconds));
        }
        answer(&self.named.connection.client()?.call("/sign", Some(&Value::Object(body))).await?)
    }
}

impl Rotate {
    async fn send(&self) -> Result<Value, Failure> {
        let mut body = self.named.body();
        if let Some(file) = &self.operator_key {
            let order = self.order(&KeyFile::read(file)?).await?;
            body.insert("order".into(), json!(BASE64URL_NOPAD.encode(&order)));
        }
        answer(&self.named.connection.client()?.call("/rotate", Some(&Value::Object(body))).await?)
    }

    /// An order for the key of now, good for five minutes by this host's clock.
    async fn order(&self, operator: &KeyFile) -> Result<Vec<u8>, Failure> {
        let Some(wanted) = &self.named.identity else {
            return Err(Failure::Usage("--operator-key needs --identity: the sidecar shall not choose what you sign for".into()));
        };
        let now = self.named.describe().await?;
        if now["name"] != wanted.as_str() {
            return Err(Failure::Usage("the sidecar described another identity than the one asked for".into()));
        }
        let odd = || Failure::Usage("the sidecar described its identity in another way than expected".into());
        let boot_id = now["boot_id"].as_str().and_then(|hex| HEXLOWER.decode(hex.as_bytes()).ok());
        let order = Order {
            identity: now["name"].as_str().ok_or_else(odd)?.to_owned(),
            boot_id: boot_id.and_then(|bytes| bytes.try_into().ok()).ok_or_else(odd)?,
            version: now["key_version"].as_u64().and_then(|n| n.try_into().ok()).ok_or_else(odd)?,
            not_after: in_five_minutes(),
        };
        order.sign(operator).map_err(|error| Failure::Usage(error.to_string()))
    }
}

#[expect(clippy::disallowed_methods, reason = "the operator's own clock, for an order that shall not live long")]
fn in_five_minutes() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX).saturating_add(300)
}

impl Attest {
    async fn fetch(&self) -> Result<(), Failure> {
        HEXLOWER_PERMISSIVE.decode(self.nonce.as_bytes()).map_err(|_| Failure::Usage("--nonce is not hex".into()))?;
        let mut body = self.named.body();
        body.insert("nonce".into(), json!(self.nonce));
        let evidence = self.named.connection.client()?.call("/attestation", Some(&Value::Object(body))).await?;
        let written = std::fs::write(&self.output, evidence);
        Ok(written.map_err(|source| Error::File { file: self.output.clone(), source })?)
    }
}

fn policy(out: &mut impl Write, file: &Path, canonical: bool) -> Result<(), Failure> {
    let text = read_bounded(file)?;
    let bundle = Bundle::from_either(&text).map_err(|source| Error::Policy { file: file.into(), source })?;
    if canonical {
        return Ok(out.write_all(&bundle.canonical())?);
    }
    let digest = bundle.digest();
    let facts = json!({
        "digest": digest.digest(),
        "pcr16": digest.pcr16(),
        "canonical": String::from_utf8_lossy(&bundle.canonical()),
    });
    print_json(out, &facts)
}

fn answer(bytes: &[u8]) -> Result<Value, Failure> {
    identity::json::parse(bytes).map_err(|error| Failure::Usage(format!("the sidecar's answer: {error}")))
}

fn print_json(out: &mut impl Write, value: &Value) -> Result<(), Failure> {
    Ok(writeln!(out, "{}", serde_json::to_string_pretty(value).unwrap_or_default())?)
}
