//! The command line of `anchorhold`.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use identity::{Signer, printable};
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use crate::client::ClientError;
use crate::config::File;
pub use crate::config::default_socket;
use crate::operator::OperatorError;
use crate::{Config, Error, KeyFile, LogFormat};

mod agent;
mod annex;
mod approve;
mod audit;
mod boots;
mod ca;
mod calls;
mod credential;
mod diff;
mod flight;
mod init;
mod kms;
mod lease;
mod policy;
mod receipt;
mod show;
mod state;
mod status;

use approve::Approve;
use calls::{Attest, ExchangeToken, Named, Rotate, Sign};

/// Signatures for AI agents, from keys that only an enclave holds.
///
/// `anchorhold serve` is the sidecar: it runs beside the agents, talks to the enclave, and answers
/// HTTP on a Unix socket. The other commands talk to a running sidecar, or prepare its files.
///
/// Exit code 0: done. 1: refused, by the sidecar or by what was asked. 3: not everything could be
/// judged. 64: the command line, a file or the configuration is wrong. 70: it failed.
#[derive(Debug, Parser)]
#[command(name = "anchorhold", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a first policy bundle, a table of tests for it, the sidecar's configuration and two keys
    Init(init::Init),
    /// Run the sidecar for an enclave
    Serve(Box<Serve>),
    /// Ask for a signature; prints the token
    Sign(Sign),
    /// Take up what somebody delegated (RFC 8693); prints the token
    Exchange(ExchangeToken),
    /// Look at a request that waits for an approval, and approve it; or see for what calls are held
    Approve(Approve),
    /// Say how things stand: enclave, bundle, identities, limits left. Exit code 1: nothing can be
    /// signed now
    Status(status::Status),
    /// Say who the identity is
    Identity(Named),
    /// Replace the identity's key
    Rotate(Rotate),
    /// Fetch evidence for a verifier's challenge
    Attest(Attest),
    /// Print a line that tells your shell where the sidecar is: eval "$(anchorhold env)"
    Env(agent::Env),
    /// Run a command that gets to services: in its environment stand their base URLs, and a placeholder
    /// that is good while it runs. Its exit code is this one's
    Run(agent::Run),
    /// Make an Ed25519 key for the proxy, the operator, an approver or a caller; prints its Multikey
    /// for the bundle
    Keygen {
        /// Where to write it, PKCS#8 PEM, mode 0600; must not exist
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Check, explain and test a policy bundle
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Sign an annex to a bundle: callers by what is seen of them, and what else changes often
    Annex(annex::Annex),
    #[command(subcommand)]
    State(state::State),
    #[command(subcommand)]
    Credential(credential::Credential),
    Ca(ca::Ca),
    Lease(lease::Lease),
    #[command(subcommand)]
    Receipt(receipt::Receipt),
    KmsPolicy(kms::KmsPolicy),
    /// Compare the policy that a KMS key has with the one that `kms-policy` prints. Exit code 1: it is
    /// another one
    KmsCheck(kms::KmsCheck),
    /// Check a decision record
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Show what a token, evidence, a record and the like say, without a verdict
    Show(show::Show),
    /// Print the description of the HTTP API, OpenAPI 3.1
    Openapi,
    /// Write the manual pages into a folder, which must be there
    Man {
        /// The folder
        folder: PathBuf,
    },
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
    #[arg(long, alias = "policy", env = "ANCHORHOLD_BUNDLE", value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// The key that the bundle names as proxy_key, from `anchorhold keygen`
    #[arg(long, env = "ANCHORHOLD_PROXY_KEY", value_name = "FILE")]
    proxy_key: Option<PathBuf>,
    /// The socket for agents; its directory is made if missing [default:
    /// $XDG_RUNTIME_DIR/anchorhold/sidecar.sock]
    #[arg(long, env = "ANCHORHOLD_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Connections kept to the enclave, 1 to 8 [default: 2]
    #[arg(long, env = "ANCHORHOLD_CONNECTIONS", value_name = "N")]
    connections: Option<usize>,
    /// How long requests under way may take after SIGTERM [default: 10]
    #[arg(long, env = "ANCHORHOLD_DRAIN_SECONDS", value_name = "SECONDS")]
    drain_seconds: Option<u64>,
    /// The folder of the decision record [default: $STATE_DIRECTORY/record, or
    /// ~/.local/state/anchorhold/record]
    #[arg(long, env = "ANCHORHOLD_RECORD", value_name = "FOLDER")]
    record: Option<PathBuf>,
    /// How logs are written, to standard error [default: json]
    #[arg(long, env = "ANCHORHOLD_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// error, warn, info or debug [default: info]
    #[arg(long, env = "ANCHORHOLD_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
    /// Check the configuration, the bundle, the key and the annex that it names, and start nothing.
    /// Whether sockets, ports and the record's folder can be had is seen on starting
    #[arg(long)]
    check: bool,
}

/// Why a command ended.
enum Failure {
    Setup(Error),
    Usage(String),
    Refused(String),
    /// Nothing is wrong, and not everything was judged.
    Partial(String),
    Client(ClientError),
    Output(std::io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Setup(error)
    }
}

impl From<enclave_client::Error> for Failure {
    fn from(error: enclave_client::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<OperatorError> for Failure {
    fn from(error: OperatorError) -> Self {
        match error {
            OperatorError::Usage(text) => Self::Usage(text),
            OperatorError::Refused(text) => Self::Refused(text),
            OperatorError::Client(error) => Self::Client(error),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

impl Failure {
    fn exit(self) -> ExitCode {
        // Whoever reads has read enough.
        if let Self::Output(error) = &self
            && error.kind() == std::io::ErrorKind::BrokenPipe
        {
            return ExitCode::SUCCESS;
        }
        let (code, text) = match &self {
            Self::Setup(error) => (error.exit_code(), error.to_string()),
            Self::Usage(text) => (64, text.clone()),
            Self::Refused(text) => (1, text.clone()),
            Self::Partial(text) => (3, text.clone()),
            Self::Client(error @ ClientError::Refused { status: 401, .. }) => {
                (1, format!("{error} (--token-file FILE)"))
            }
            Self::Client(error @ ClientError::Refused { .. }) => (1, error.to_string()),
            Self::Client(error) => (70, error.to_string()),
            Self::Output(error) => (70, format!("reading or writing: {error}")),
        };
        // Part of it may be what a hostile sidecar says.
        let _ = writeln!(std::io::stderr(), "anchorhold: {}", printable(&text));
        ExitCode::from(code)
    }
}

/// Runs the command that `args` names; the first of them is the program's own name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    policy_engine::without_huge_pages();
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
        Command::Init(init) => init.run(&mut out)?,
        Command::Serve(serve) if serve.check => {
            let config = serve.config()?;
            log_filter(&config)?;
            crate::check(&config)?;
            let (socket, digest) = (config.socket.display(), config.policy.digest().digest());
            writeln!(out, "good: {} -> {socket}, bundle {digest}", config.enclave)?;
        }
        Command::Serve(serve) => return Ok(serve_until_stopped(serve.config()?)?),
        Command::Sign(sign) => {
            let (answer, json) = (block_on(sign.send())??, sign.json);
            match answer["vouch_token"]
                .as_str()
                .or(answer["envelope"].as_str())
            {
                Some(token) if !json => writeln!(out, "{}", printable(token))?,
                _ if answer.get("approval").is_some() => {
                    // What reads a token from standard output shall not take this for one.
                    if json {
                        print_json(&mut out, &answer)?;
                    }
                    let endpoint = sign.endpoint()?;
                    return Err(Failure::Refused(waits(&answer["approval"], &endpoint)));
                }
                _ if json => print_json(&mut out, &answer)?,
                _ => print_json(&mut out, &answer["credential"])?,
            }
        }
        Command::Exchange(exchange) => {
            let answer = block_on(exchange.send())??;
            match answer["access_token"].as_str() {
                Some(token) if !exchange.json => writeln!(out, "{}", printable(token))?,
                _ => print_json(&mut out, &answer)?,
            }
        }
        Command::Status(status) => {
            let answer = block_on(status.fetch())??;
            if status.json {
                print_json(&mut out, &answer)?;
            } else {
                let text = status::text(&answer, &status.endpoint()?);
                out.write_all(printable(&text).as_bytes())?;
            }
            if let Some(hindrance) = status::hindrance(&answer) {
                return Err(Failure::Refused(hindrance));
            }
        }
        Command::Approve(approve) => print_json(&mut out, &block_on(approve.send())??)?,
        Command::Identity(named) => print_json(&mut out, &block_on(named.describe())??)?,
        Command::Rotate(rotate) => print_json(&mut out, &block_on(rotate.send())??)?,
        Command::Attest(attest) => block_on(attest.fetch())??,
        Command::Env(env) => env.run(&mut out)?,
        // The only one whose exit code is not ours.
        Command::Run(run) => std::process::exit(run.run()?.into()),
        Command::Keygen { output } => writeln!(
            out,
            "{}",
            KeyFile::create(&output)?.public_key().to_multikey()
        )?,
        Command::Policy(policy) => return policy.run(&mut out),
        Command::Annex(annex) => annex.sign(&mut out)?,
        Command::State(state) => return state.run(&mut out),
        Command::Credential(credential) => credential.run(&mut out)?,
        Command::Ca(ca) => ca.run(&mut out)?,
        Command::Lease(lease) => lease.run(&mut out)?,
        Command::Receipt(receipt) => return receipt.run(&mut out),
        Command::KmsPolicy(policy) => policy.print(&mut out)?,
        Command::KmsCheck(check) => return check.run(&mut out),
        Command::Audit(audit) => return audit.run(&mut out),
        Command::Show(show) => show.run(&mut out)?,
        Command::Man { folder } => {
            let written = clap_mangen::generate_to(Cli::command(), &folder);
            written.map_err(|source| enclave_client::Error::File {
                file: folder,
                source,
            })?;
        }
        Command::Openapi => out.write_all(crate::openapi().as_bytes())?,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "anchorhold", &mut out)
        }
    }
    Ok(())
}

/// Runs the sidecar of a checked configuration until a signal stops it.
pub fn serve_until_stopped(config: Config) -> Result<(), Error> {
    let filter = log_filter(&config)?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // Only an earlier logger of this very process could be in the way.
    let _ = match config.log_format {
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
        LogFormat::Text => logs.with_ansi(false).try_init(),
    };
    block_on(crate::run(config))?
}

fn log_filter(config: &Config) -> Result<EnvFilter, Error> {
    let word = config.log_level.as_str();
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    // A word that is no level would be taken for the name of a module, and silence all others.
    if word.chars().all(char::is_alphanumeric) && !levels.contains(&word) {
        return Err(Error::Config(format!(
            "log_level is error, warn, info or debug, not {word:?}"
        )));
    }
    EnvFilter::try_new(word).map_err(|error| Error::Config(format!("log_level: {error}")))
}

/// One worker: a second one costs more in waking threads than it gains, for the enclave does all
/// that takes long.
fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Error> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(future))
}

impl Serve {
    fn config(self) -> Result<Config, Error> {
        let file = self
            .config
            .as_deref()
            .map(File::read)
            .transpose()?
            .unwrap_or_default();
        let merged = File {
            enclave: self.enclave.or(file.enclave),
            bundle: self.bundle.or_else(old_bundle_variable).or(file.bundle),
            proxy_key: self.proxy_key.or(file.proxy_key),
            socket: self.socket.or(file.socket),
            connections: self.connections.or(file.connections),
            drain_seconds: self.drain_seconds.or(file.drain_seconds),
            log_format: self.log_format.or(file.log_format),
            log_level: self.log_level.or(file.log_level),
            annex: file.annex,
            state: file.state,
            state_certificate: file.state_certificate,
            aws: file.aws,
            sockets: file.sockets,
            record: self.record.or(file.record),
            record_sync_ms: file.record_sync_ms,
            record_rotate_bytes: file.record_rotate_bytes,
            localhost: file.localhost,
            proxy: file.proxy,
            operator_uids: file.operator_uids,
            limits: file.limits,
        };
        merged.finish()
    }
}

/// What `ANCHORHOLD_BUNDLE` was called before.
fn old_bundle_variable() -> Option<PathBuf> {
    std::env::var_os("ANCHORHOLD_POLICY").map(PathBuf::from)
}

impl Config {
    /// Reads a configuration file, without environment and flags.
    pub fn read(file: &Path) -> Result<Self, Error> {
        File::read(file)?.finish()
    }
}

/// What to do now that a request waits for an approval.
fn waits(approval: &Value, endpoint: &str) -> String {
    let text = |name: &str| approval[name].as_str().unwrap_or("?").to_owned();
    let (id, until) = (text("id"), text("expires_at"));
    let by: Vec<&str> = approval["approvers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    format!(
        "nothing is signed yet: it waits for an approval by {}, until {until}\n\
         the approver:    anchorhold approve {id} --key FILE --endpoint {endpoint}\n\
         then ask again:  the same command, with --approval {id}",
        by.join(" or ")
    )
}

/// Much of it is what callers, policies and other programs wrote: a terminal shall show it, and not
/// do it.
/// One word for a shell (POSIX.1-2017, Shell Command Language, section 2.2.2).
fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A name of the bundle, where it stands in a path of the API.
fn in_path<'n>(option: &str, name: &'n str) -> Result<&'n str, Failure> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if !name.is_empty() && name.bytes().all(good) {
        return Ok(name);
    }
    let why = format!("{option} is not a name that a policy can hold");
    Err(Failure::Usage(why))
}

fn print_json(out: &mut impl Write, value: &Value) -> Result<(), Failure> {
    Ok(writeln!(
        out,
        "{}",
        printable(&serde_json::to_string_pretty(value).unwrap_or_default())
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that a flag can say too.
    const FILE: &str = "
enclave = 'vsock://1:1'
bundle = 'policy.toml'
proxy_key = 'file.key'
socket = '/file/socket'
connections = 1
drain_seconds = 1
record = '/file/record'
log_format = 'json'
log_level = 'warn'
";
    const POLICY: &str = "
version = 1
mode = 'development'
proxy_key = 'z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK'
operator_key = 'z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp'
[[identities]]
name = 'NAME'
environment = 'test'
did = 'did:key'
algorithm = 'EdDSA'
max_validity_seconds = 600
callers = { uids = [1000] }
rules = [{ name = 'any', actions = ['*'], targets = ['*'], resources = ['*'] }]
";

    fn serve(args: &[&str]) -> Config {
        let all = ["anchorhold", "serve"].iter().chain(args);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Serve(serve) => serve.config().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// What came of the flags, in the order in which the test below gives them.
    fn told(config: &Config) -> Vec<String> {
        vec![
            config.enclave.to_string(),
            config.policy.identities[0].name.clone(),
            config.proxy_key.display().to_string(),
            config.socket.display().to_string(),
            config.connections.to_string(),
            config.drain_seconds.to_string(),
            config.record.folder.display().to_string(),
            format!("{:?}", config.log_format),
            config.log_level.clone(),
        ]
    }

    #[test]
    fn a_flag_stands_over_what_the_file_says_and_leaves_the_rest_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name).display().to_string();
        for (name, text) in [
            ("sidecar.toml", FILE),
            ("policy.toml", &POLICY.replace("NAME", "file")),
            ("flag.toml", &POLICY.replace("NAME", "flag")),
        ] {
            std::fs::write(place(name), text).unwrap();
        }
        let (file, policy) = (place("sidecar.toml"), place("flag.toml"));
        let of_file = [
            "vsock://1:1",
            "file",
            &place("file.key"),
            "/file/socket",
            "1",
            "1",
            "/file/record",
            "Json",
            "warn",
        ]
        .map(str::to_owned);
        assert_eq!(told(&serve(&["--config", &file])), of_file, "no flags");
        let flags = [
            ("--enclave", "vsock://2:2", "vsock://2:2"),
            ("--bundle", &policy, "flag"),
            // What a flag says is not relative to the folder of the file.
            ("--proxy-key", "flag.key", "flag.key"),
            ("--socket", "flag/socket", "flag/socket"),
            ("--connections", "2", "2"),
            ("--drain-seconds", "2", "2"),
            ("--record", "flag/record", "flag/record"),
            ("--log-format", "text", "Text"),
            ("--log-level", "error", "error"),
        ];
        for (index, (flag, value, says)) in flags.into_iter().enumerate() {
            let mut expected = of_file.clone();
            assert_ne!(expected[index], says, "{flag}");
            expected[index] = says.to_owned();
            let config = serve(&["--config", &file, flag, value]);
            assert_eq!(told(&config), expected, "{flag}");
        }
        let given = flags.iter().flat_map(|(flag, value, _)| [*flag, *value]);
        let config = serve(&given.collect::<Vec<_>>());
        let says = flags.map(|(_, _, says)| says.to_owned());
        assert_eq!(told(&config), says, "no file is needed");
    }

    #[test]
    fn every_flag_of_serve_has_a_variable_of_its_name() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        let mut seen = 0;
        let settings = serve
            .get_arguments()
            .filter(|flag| flag.get_id() != "check");
        for flag in settings {
            let name = flag.get_long().unwrap();
            let variable = flag.get_env().unwrap().to_str().unwrap();
            let expected = format!("ANCHORHOLD_{}", name.to_uppercase().replace('-', "_"));
            assert_eq!(variable, expected);
            seen += 1;
        }
        assert_eq!(seen, 10);
    }

    #[test]
    fn a_number_that_is_none_and_a_format_that_there_is_not_are_refused_on_the_command_line() {
        for args in [
            ["--connections", "two"],
            ["--connections", "-1"],
            ["--drain-seconds", "1.5"],
            ["--log-format", "xml"],
            ["--localhost", "127.0.0.1:80"],
        ] {
            let all = ["anchorhold", "serve"].iter().chain(&args);
            assert!(Cli::try_parse_from(all).is_err(), "{args:?}");
        }
    }
}
