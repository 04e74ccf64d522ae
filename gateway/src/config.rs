//! Settings: flags before environment before file. A member of the file that is not known is an
//! error.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderName};
use ipnet::IpNet;
use manifest::Manifest;
use rules::{Action, RuleText};
use serde::Deserialize;

use crate::Error;
use crate::callers::{Callers, Fetch, Introspection, Keys, Place, Tokens};
use crate::limits::Limits;
use crate::origins::Origins;
use crate::policy::Profile;
use crate::routes::{Route, Routes, Schema};
use crate::signer::Signer;
use crate::tls::Tls;

/// An IATP sidecar: it stands in front of an agent, refuses what its rules block, warns where trust is
/// low, and writes down what passes.
#[derive(Debug, clap::Parser)]
#[command(name = "anchorhold-gateway", version)]
pub struct Flags {
    /// The agent behind: `http://HOST:PORT`, or `unix:///PATH`, which only this gateway can reach
    #[arg(long, env = "IATP_BACKEND_URL", value_name = "URL")]
    pub backend_url: Option<String>,
    /// How long the agent may take until its answer begins, such as `30s`
    #[arg(long, env = "IATP_BACKEND_TIMEOUT", value_name = "DURATION")]
    pub backend_timeout: Option<String>,
    /// The port for requests, on this host only
    #[arg(long, env = "IATP_PORT", value_name = "PORT")]
    pub port: Option<u16>,
    /// The address for requests, for others than this host; `authentication` of the file says who may ask
    #[arg(long, env = "IATP_LISTEN", value_name = "IP")]
    pub listen: Option<IpAddr>,
    /// What the agent says of itself, in either form of IATP
    #[arg(long, env = "IATP_MANIFEST", value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Settings in YAML; flags and environment count before it
    #[arg(long, env = "IATP_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The folder of the flight recorder; without one nothing is recorded
    #[arg(long, env = "IATP_LOG_DIR", value_name = "FOLDER")]
    pub log_dir: Option<PathBuf>,
    /// What is logged to standard error: error, warn, info, debug or trace
    #[arg(long, env = "IATP_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// The operator's port: metrics, health, traces; on this host only
    #[arg(long, env = "IATP_METRICS_PORT", value_name = "PORT")]
    pub metrics_port: Option<u16>,
    /// Below this trust score a request that was overridden is quarantined
    #[arg(long, env = "IATP_TRUST_THRESHOLD", value_name = "0-10")]
    pub trust_threshold: Option<u8>,
    /// Whether warnings can be overridden at all
    #[arg(long, env = "IATP_ALLOW_OVERRIDE", value_name = "BOOL")]
    pub allow_override: Option<bool>,
    /// A file with a secret of 16 or more characters: who sends it in X-User-Override overrides warnings
    #[arg(long, env = "IATP_OVERRIDE_SECRET_FILE", value_name = "FILE")]
    pub override_secret_file: Option<PathBuf>,
    /// An OpenTelemetry collector, over OTLP/HTTP, such as `http://localhost:4318`
    #[arg(long, env = "IATP_OTEL_ENDPOINT", value_name = "URL")]
    pub otel_endpoint: Option<String>,
    /// The socket of an enclave's sidecar, which then signs the manifest, seals what is recorded, and has
    /// overrides approved: `unix:///PATH`
    #[arg(long, env = "IATP_ENCLAVE_SIDECAR", value_name = "URL")]
    pub enclave_sidecar: Option<String>,
}

/// The file, as the reference architecture writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileConfig {
    backend: BackendPart,
    server: ServerPart,
    telemetry: TelemetryPart,
    policy: PolicyPart,
    manifest: Option<PathBuf>,
    routes: Vec<RoutePart>,
    authentication: CallersPart,
    limits: LimitsPart,
    tls: Option<TlsPart>,
    cors: CorsPart,
    enclave: EnclavePart,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EnclavePart {
    sidecar: Option<String>,
    identity: Option<String>,
    seal_interval: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BackendPart {
    url: Option<String>,
    timeout: Option<String>,
    idle_timeout: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ServerPart {
    port: Option<u16>,
    listen: Option<IpAddr>,
    log_level: Option<String>,
    max_body_bytes: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TelemetryPart {
    log_dir: Option<PathBuf>,
    metrics_port: Option<u16>,
    retention_bytes: Option<u64>,
    otel_endpoint: Option<String>,
    otel_sample_ratio: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PolicyPart {
    profile: Profile,
    trust_threshold: Option<u8>,
    allow_override: Option<bool>,
    override_secret_file: Option<PathBuf>,
    block_rules: Option<Vec<RulePart>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CallersPart {
    api_keys: Option<KeysPart>,
    jwt: Option<TokensPart>,
    oauth2: Option<IntrospectionPart>,
    mutual_tls: bool,
    forward_credentials: bool,
    /// In PEM; Mozilla's list without it.
    authorities: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysPart {
    file: PathBuf,
    #[serde(default)]
    header: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensPart {
    issuer: String,
    audience: String,
    jwks_url: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IntrospectionPart {
    introspection_url: String,
    client_id: String,
    client_secret_file: PathBuf,
    audience: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsPart {
    requests_per_second: Option<NonZeroU32>,
    burst: Option<NonZeroU32>,
    connections_per_ip: Option<usize>,
    trusted_proxies: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsPart {
    certificate: PathBuf,
    key: PathBuf,
    client_authorities: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CorsPart {
    allowed_origins: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoutePart {
    path: String,
    #[serde(default)]
    exempt: Vec<String>,
    request_schema: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RulePart {
    name: String,
    condition: String,
    action: ActionPart,
    #[serde(default)]
    on: OnPart,
}

/// What a rule speaks of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnPart {
    #[default]
    Request,
    Response,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ActionPart {
    Block,
    Warn,
    Mask,
}

/// Where the agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendAddress {
    /// `http://host:port/path`, the path without a slash at its end.
    Http {
        /// Host and port.
        authority: hyper::http::uri::Authority,
        /// What stands before each path.
        base: String,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// What the gateway does.
#[derive(Debug)]
pub struct Config {
    /// The agent.
    pub backend: BackendAddress,
    /// How long it may take until its answer begins.
    pub backend_timeout: Duration,
    /// How long it may take between two parts of an answer.
    pub answer_idle: Duration,
    /// Where requests come.
    pub address: SocketAddr,
    /// Where the operator asks.
    pub operator_address: SocketAddr,
    /// The agent's manifest.
    pub manifest: Manifest,
    /// The longest body, in bytes.
    pub max_body: usize,
    /// The flight recorder's folder.
    pub log_dir: Option<PathBuf>,
    /// How many bytes of it are kept.
    pub retention: u64,
    /// What is logged.
    pub log_level: tracing::Level,
    /// Whose trust score counts.
    pub profile: Profile,
    /// Below this score a request is quarantined.
    pub trust_threshold: u8,
    /// What overrides a warning; none if nothing does.
    pub override_secret: Option<Vec<u8>>,
    /// The rules for requests.
    pub rules: Vec<RuleText>,
    /// The rules for answers.
    pub answer_rules: Vec<RuleText>,
    /// What is different for some paths.
    pub routes: Routes,
    /// How it is known who calls.
    pub callers: Callers,
    /// How much one peer may ask.
    pub limits: Limits,
    /// TLS for callers.
    pub tls: Option<Tls>,
    /// Pages that may ask.
    pub origins: Option<Origins>,
    /// A collector of spans, and of so many of a million requests without a parent there are some.
    pub collector: Option<(String, u32)>,
    /// Asks others, and trusts these authorities.
    pub fetch: Fetch,
    /// Who signs, if anybody does.
    pub signer: Option<Signer>,
    /// Lines are sealed so often.
    pub seal_interval: Duration,
    /// Whether warnings can be overridden at all.
    pub allow_override: bool,
}

const DEFAULT_KEY_HEADER: &str = "X-API-Key";
const DEFAULT_PORT: u16 = 8001;
const DEFAULT_METRICS_PORT: u16 = 9090;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_IDLE: Duration = Duration::from_secs(300);
const DEFAULT_MAX_BODY: usize = 10 * 1024 * 1024;
const DEFAULT_RETENTION: u64 = 256 * 1024 * 1024;
const DEFAULT_THRESHOLD: u8 = 3;
/// One of a hundred.
const DEFAULT_RATIO: f64 = 0.01;
const DEFAULT_SEAL_INTERVAL: Duration = Duration::from_secs(1);
/// A secret that can be guessed is none.
const SHORTEST_SECRET: usize = 16;

/// The rules of the specification, where the file has none.
const DEFAULT_RULES: [(&str, &str); 3] = [
    (
        "credit_card_to_untrusted",
        "has_credit_card && trust_level == 'untrusted'",
    ),
    (
        "credit_card_to_permanent",
        "has_credit_card && retention in ['permanent', 'forever']",
    ),
    ("ssn_to_kept", "has_ssn && retention != 'ephemeral'"),
];

impl Config {
    /// Reads the file that the flags name, and the files that it names.
    pub fn load(flags: Flags) -> Result<Self, Error> {
        let file = match &flags.config {
            Some(file) => read_file(file)?,
            None => FileConfig::default(),
        };
        let url = flags.backend_url.or(file.backend.url);
        let url = url.ok_or_else(|| missing("--backend-url", "IATP_BACKEND_URL", "backend.url"))?;
        let manifest = flags.manifest.or(file.manifest);
        let manifest =
            manifest.ok_or_else(|| missing("--manifest", "IATP_MANIFEST", "manifest"))?;
        let timeout = flags.backend_timeout.or(file.backend.timeout);
        let listen = flags.listen.or(file.server.listen);
        let port = flags.port.or(file.server.port).unwrap_or(DEFAULT_PORT);
        let metrics_port = flags.metrics_port.or(file.telemetry.metrics_port);
        let metrics_port = metrics_port.unwrap_or(DEFAULT_METRICS_PORT);
        if port == metrics_port && port != 0 {
            return Err(Error::Setting {
                name: "--metrics-port",
                why: format!("{port} is the port for requests (--port) as well"),
            });
        }
        let threshold = flags.trust_threshold.or(file.policy.trust_threshold);
        let profile = file.policy.profile;
        if profile == Profile::Python && threshold.is_some() {
            return Err(Error::Setting {
                name: "--trust-threshold",
                why: "the profile python has rules of its own for quarantine".into(),
            });
        }
        let (rules, answer_rules) = rules(file.policy.block_rules)?;
        let idle = file.backend.idle_timeout;
        let fetch = Fetch::new(file.authentication.authorities.as_deref());
        let fetch = fetch.map_err(|why| Error::Setting {
            name: "authentication",
            why,
        })?;
        let allow_override = flags.allow_override.or(file.policy.allow_override);
        let allow_override = allow_override.unwrap_or(true);
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ok(Self {
            backend: backend(&url)?,
            backend_timeout: match timeout {
                Some(text) => duration("--backend-timeout", &text)?,
                None => DEFAULT_TIMEOUT,
            },
            answer_idle: match idle {
                Some(text) => duration("backend.idle_timeout", &text)?,
                None => DEFAULT_IDLE,
            },
            address: SocketAddr::new(listen.unwrap_or(local), port),
            operator_address: SocketAddr::new(local, metrics_port),
            manifest: read_manifest(&manifest)?,
            max_body: file.server.max_body_bytes.unwrap_or(DEFAULT_MAX_BODY),
            log_dir: flags.log_dir.or(file.telemetry.log_dir),
            retention: file.telemetry.retention_bytes.unwrap_or(DEFAULT_RETENTION),
            log_level: level(flags.log_level.or(file.server.log_level))?,
            profile,
            trust_threshold: threshold.unwrap_or(DEFAULT_THRESHOLD),
            override_secret: secret(
                allow_override,
                flags
                    .override_secret_file
                    .or(file.policy.override_secret_file),
            )?,
            rules,
            answer_rules,
            routes: routes(file.routes)?,
            callers: callers(file.authentication, file.tls.as_ref(), &fetch)?,
            limits: limits(&file.limits)?,
            tls: file.tls.as_ref().map(tls).transpose()?,
            origins: origins(&file.cors.allowed_origins)?,
            collector: collector(
                flags.otel_endpoint.or(file.telemetry.otel_endpoint),
                file.telemetry.otel_sample_ratio,
            )?,
            fetch,
            signer: signer(
                flags.enclave_sidecar.or(file.enclave.sidecar),
                file.enclave.identity,
            )?,
            seal_interval: match file.enclave.seal_interval {
                Some(text) => duration("enclave.seal_interval", &text)?,
                None => DEFAULT_SEAL_INTERVAL,
            },
            allow_override,
        })
    }
}

fn missing(flag: &'static str, variable: &str, member: &str) -> Error {
    Error::Setting {
        name: flag,
        why: format!("it is missing, and so are {variable} and `{member}` of the file"),
    }
}

fn read_file(file: &Path) -> Result<FileConfig, Error> {
    let text = fs::read_to_string(file).map_err(|source| Error::File {
        file: file.to_owned(),
        source,
    })?;
    if text.trim().is_empty() {
        return Ok(FileConfig::default());
    }
    serde_saphyr::from_str(&text).map_err(|error| Error::Config {
        file: file.to_owned(),
        why: error.to_string(),
    })
}

fn read_manifest(file: &Path) -> Result<Manifest, Error> {
    let text = fs::read(file).map_err(|source| Error::File {
        file: file.to_owned(),
        source,
    })?;
    Manifest::parse(&text).map_err(|source| Error::Manifest {
        file: file.to_owned(),
        source,
    })
}

fn backend(url: &str) -> Result<BackendAddress, Error> {
    let refused = |why: &str| Error::Setting {
        name: "--backend-url",
        why: format!("{url}: {why}"),
    };
    if let Some(path) = url.strip_prefix("unix://") {
        let path = Path::new(path);
        return if path.is_absolute() {
            Ok(BackendAddress::Unix(path.to_owned()))
        } else {
            Err(refused("the path must be absolute: unix:///run/agent.sock"))
        };
    }
    let uri: Uri = url.parse().map_err(|_| refused("it is no URL"))?;
    let authority = match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) if !authority.as_str().contains('@') => authority.clone(),
        _ => return Err(refused("it must be http://HOST:PORT or unix:///PATH")),
    };
    if uri.query().is_some() {
        return Err(refused("it has a query"));
    }
    Ok(BackendAddress::Http {
        authority,
        base: uri.path().trim_end_matches('/').to_owned(),
    })
}

fn duration(name: &'static str, text: &str) -> Result<Duration, Error> {
    let refused = || Error::Setting {
        name,
        why: format!("{text} is no duration such as 30s"),
    };
    let duration: jiff::SignedDuration = text.parse().map_err(|_| refused())?;
    let duration = Duration::try_from(duration).map_err(|_| refused())?;
    (!duration.is_zero())
        .then_some(duration)
        .ok_or_else(refused)
}

fn level(text: Option<String>) -> Result<tracing::Level, Error> {
    let text = text.unwrap_or_else(|| "info".into());
    text.parse().map_err(|_| Error::Setting {
        name: "--log-level",
        why: format!("{text} is none of error, warn, info, debug and trace"),
    })
}

fn secret(is_allowed: bool, file: Option<PathBuf>) -> Result<Option<Vec<u8>>, Error> {
    let Some(file) = file.filter(|_| is_allowed) else {
        return Ok(None);
    };
    let text = fs::read(&file).map_err(|source| Error::File {
        file: file.clone(),
        source,
    })?;
    let text = text.trim_ascii();
    if text.len() < SHORTEST_SECRET || !text.iter().all(u8::is_ascii_graphic) {
        return Err(Error::Setting {
            name: "--override-secret-file",
            why: format!(
                "{}: a secret has {SHORTEST_SECRET} or more printable ASCII characters",
                file.display()
            ),
        });
    }
    Ok(Some(text.to_owned()))
}

/// Those for requests and those for answers. Without any, those of the specification count.
fn rules(parts: Option<Vec<RulePart>>) -> Result<(Vec<RuleText>, Vec<RuleText>), Error> {
    let Some(parts) = parts else {
        let rule = |(name, condition): (&str, &str)| RuleText {
            name: name.into(),
            condition: condition.into(),
            action: Action::Block,
        };
        let rules = DEFAULT_RULES.into_iter().map(rule).collect();
        return Ok((rules, Vec::new()));
    };
    let (mut of_requests, mut of_answers): (Vec<RuleText>, Vec<RuleText>) = Default::default();
    for part in parts {
        let refused = |why: &str| Error::Setting {
            name: "policy.block_rules",
            why: format!("{}: {why}", part.name),
        };
        let known = of_requests.iter().chain(&of_answers);
        if known.into_iter().any(|rule| rule.name == part.name) {
            return Err(refused("there are two rules of this name"));
        }
        let action = match (part.action, part.on) {
            (ActionPart::Block, _) => Action::Block,
            (ActionPart::Mask, _) => Action::Mask,
            (ActionPart::Warn, OnPart::Request) => Action::Warn,
            (ActionPart::Warn, OnPart::Response) => {
                return Err(refused(
                    "nobody can override an answer: block it, or mask it",
                ));
            }
        };
        let rules = match part.on {
            OnPart::Request => &mut of_requests,
            OnPart::Response => &mut of_answers,
        };
        rules.push(RuleText {
            name: part.name,
            condition: part.condition,
            action,
        });
    }
    Ok((of_requests, of_answers))
}

fn routes(parts: Vec<RoutePart>) -> Result<Routes, Error> {
    let route = |part: RoutePart| {
        if !part.path.starts_with('/') {
            return Err(Error::Setting {
                name: "routes",
                why: format!("{}: a path begins with a slash", part.path),
            });
        }
        let schema = part
            .request_schema
            .as_deref()
            .map(read_schema)
            .transpose()?;
        Ok(Route::new(part.path, &part.exempt, schema))
    };
    parts
        .into_iter()
        .map(route)
        .collect::<Result<_, _>>()
        .map(Routes::new)
}

fn read_schema(file: &Path) -> Result<Schema, Error> {
    let text = fs::read(file).map_err(|source| Error::File {
        file: file.to_owned(),
        source,
    })?;
    let refused = |why| Error::Config {
        file: file.to_owned(),
        why,
    };
    let schema = serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
    Schema::new(&schema).map_err(refused)
}

fn callers(part: CallersPart, tls: Option<&TlsPart>, fetch: &Fetch) -> Result<Callers, Error> {
    let refused = |why| Error::Setting {
        name: "authentication",
        why,
    };
    let needs_certificates = tls.is_none_or(|tls| tls.client_authorities.is_none());
    if part.mutual_tls && needs_certificates {
        let why = "mutual_tls needs tls.client_authorities, which certify callers";
        return Err(refused(why.into()));
    }
    let keys = part.api_keys.map(|part| {
        let header = part.header.as_deref().unwrap_or(DEFAULT_KEY_HEADER);
        let name = header.parse::<HeaderName>();
        let name = name.ok().filter(|name| *name != AUTHORIZATION);
        let name =
            name.ok_or_else(|| refused(format!("{header} cannot be the header of API keys")))?;
        Ok::<_, Error>((name, Keys::open(&part.file).map_err(refused)?))
    });
    let tokens = part.jwt.map(|part| {
        let place = Place::new(&part.jwks_url).map_err(refused)?;
        Ok::<_, Error>(Tokens::new(
            part.issuer,
            part.audience,
            place,
            fetch.clone(),
        ))
    });
    let introspection = part.oauth2.map(|part| {
        let place = Place::new(&part.introspection_url).map_err(refused)?;
        let file = part.client_secret_file;
        let secret = fs::read_to_string(&file).map_err(|source| Error::File { file, source })?;
        let client = (part.client_id.as_str(), secret.trim());
        Introspection::new(place, client, part.audience, fetch.clone()).map_err(refused)
    });
    Ok(Callers {
        keys: keys.transpose()?,
        tokens: tokens.transpose()?,
        introspection: introspection.transpose()?,
        by_certificate: part.mutual_tls,
        forwards: part.forward_credentials,
    })
}

fn limits(part: &LimitsPart) -> Result<Limits, Error> {
    let network = |text: &String| {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        let network = text.parse::<IpNet>().or_else(|_| address());
        network.map_err(|_| Error::Setting {
            name: "limits.trusted_proxies",
            why: format!("{text} is no address or network such as 10.0.0.0/8"),
        })
    };
    let proxies = part
        .trusted_proxies
        .iter()
        .map(network)
        .collect::<Result<_, _>>()?;
    let rate = part.requests_per_second;
    if rate.is_none() && part.burst.is_some() {
        return Err(Error::Setting {
            name: "limits.burst",
            why: "it means nothing without limits.requests_per_second".into(),
        });
    }
    let requests = rate.map(|rate| (rate, part.burst.unwrap_or(rate)));
    Ok(Limits::new(requests, part.connections_per_ip, proxies))
}

fn tls(part: &TlsPart) -> Result<Tls, Error> {
    let authorities = part.client_authorities.as_deref();
    let opened = crate::tls::open(&part.certificate, &part.key, authorities);
    opened.map_err(|why| Error::Setting { name: "tls", why })
}

fn collector(endpoint: Option<String>, ratio: Option<f64>) -> Result<Option<(String, u32)>, Error> {
    let refused = |why: String| Error::Setting {
        name: "telemetry.otel_sample_ratio",
        why,
    };
    let ratio = match (ratio, &endpoint) {
        (None, _) => DEFAULT_RATIO,
        (Some(_), None) => return Err(refused("it means nothing without otel_endpoint".into())),
        (Some(ratio), Some(_)) if (0.0..=1.0).contains(&ratio) => ratio,
        (Some(ratio), Some(_)) => return Err(refused(format!("{ratio} is not between 0 and 1"))),
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 0 and 1"
    )]
    let per_million = (ratio * 1_000_000.0).round() as u32;
    Ok(endpoint.map(|endpoint| (endpoint, per_million)))
}

fn signer(url: Option<String>, identity: Option<String>) -> Result<Option<Signer>, Error> {
    let Some(url) = url else {
        return match identity {
            Some(_) => Err(Error::Setting {
                name: "enclave.identity",
                why: "it means nothing without enclave.sidecar".into(),
            }),
            None => Ok(None),
        };
    };
    let path = url.strip_prefix("unix://").map(PathBuf::from);
    let path = path.filter(|path| path.is_absolute());
    let path = path.ok_or_else(|| Error::Setting {
        name: "--enclave-sidecar",
        why: format!("{url}: it must be unix:///PATH"),
    })?;
    Ok(Some(Signer::new(path, identity)))
}

fn origins(texts: &[String]) -> Result<Option<Origins>, Error> {
    let origins = Origins::new(texts).map_err(|why| Error::Setting {
        name: "cors.allowed_origins",
        why,
    })?;
    Ok((!texts.is_empty()).then_some(origins))
}
