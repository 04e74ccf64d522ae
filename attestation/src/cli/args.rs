//! The command line of `anchorhold-verify`, and the files it names.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use attestation::archive::{TimeAnchor, TimeStamp};
use attestation::results::{About, VerifierKey};
use attestation::{AppraisalPolicy, Expectations, Measurements, MockRoot, Subject, Verifier};
use clap::{Parser, Subcommand};
use data_encoding::HEXLOWER_PERMISSIVE;
use identity::{UnixSeconds, did, parse_rfc3339};
use policy::Bundle;
use state::StateId;

use super::starter::Starter;

/// Verify, offline, that a document, token or credential comes from a key that only a measured
/// enclave holds.
///
/// Nothing is fetched and nobody is asked. The root of AWS Nitro is built in; you bring what you
/// expect: the measurements of the image that you accept, the policy bundle that must govern the
/// key, and the nonce with which you asked for the evidence.
///
/// Exit code 0: accepted. 1: refused, with the reason. 3: looked at with --inspect, and not
/// accepted, for something was left out. 64: the command line or a file given with it is wrong.
#[derive(Debug, Parser)]
#[command(name = "anchorhold-verify", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Judge an attestation document (raw COSE_Sign1, as the NSM gives it)
    Document {
        /// The document; `-` reads standard input
        file: PathBuf,
        #[command(flatten)]
        expected: Expected,
    },
    /// Judge an evidence file: a document, and the key that it is for
    Evidence {
        /// The evidence, from `anchorhold attest` or `POST /attestation`; `-` reads standard input
        file: PathBuf,
        #[command(flatten)]
        signed: Signed,
        #[command(flatten)]
        expected: Expected,
    },
    /// Judge a Vouch token together with the evidence for its key
    Token {
        /// The token, one compact JWS; `-` reads standard input
        file: PathBuf,
        /// The evidence, from `anchorhold attest` or `POST /attestation`
        #[arg(long, value_name = "FILE")]
        evidence: PathBuf,
        #[command(flatten)]
        signed: Signed,
        #[command(flatten)]
        expected: Expected,
    },
    /// Judge a Vouch credential together with the evidence for its key
    Credential {
        /// The credential, JSON; `-` reads standard input
        file: PathBuf,
        /// The evidence, from `anchorhold attest` or `POST /attestation`
        #[arg(long, value_name = "FILE")]
        evidence: PathBuf,
        #[command(flatten)]
        signed: Signed,
        #[command(flatten)]
        expected: Expected,
    },
    /// Write a verifier policy to begin with (docs/verifier-policy.md)
    Policy(Starter),
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

/// What a verifier expects of something signed.
#[derive(Debug, clap::Args)]
pub(crate) struct Signed {
    /// The audience that you are; without it, only what was signed for nobody in particular is
    /// accepted
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,
    /// The DID that must have signed; without it, any identity of an accepted bundle
    #[arg(long, value_name = "DID")]
    did: Option<String>,
    /// The name of the identity that must have signed; without it, any of an accepted bundle
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// The id of the state that the key must be kept in; without it, any, or none
    #[arg(long, value_name = "HEX", value_parser = |text: &str| StateId::from_hex(text))]
    state: Option<StateId>,
    /// The DID document that you pinned or fetched over TLS; did:web is refused without it
    #[arg(long, value_name = "FILE")]
    did_document: Option<PathBuf>,
}

/// What a verifier expects of a document.
#[derive(Debug, clap::Args)]
pub(crate) struct Expected {
    /// Time of verification [default: now]
    #[arg(long, value_name = "RFC3339")]
    at: Option<String>,
    /// The challenge that you sent when you asked for the evidence
    #[arg(long, value_name = "HEX")]
    nonce: Option<String>,
    /// Measurements of an image that you accept, as `nitro-cli describe-eif` prints them; may be
    /// repeated
    #[arg(long, value_name = "FILE")]
    measurements: Vec<PathBuf>,
    /// A policy bundle that you accept, TOML or canonical; may be repeated
    #[arg(long, alias = "policy", value_name = "FILE")]
    bundle: Vec<PathBuf>,
    /// Your verifier policy: accepted images, bundles and identities, deny lists
    /// (docs/verifier-policy.md)
    #[arg(long, alias = "appraisal-policy", value_name = "TOML")]
    verifier_policy: Option<PathBuf>,
    /// An RFC 3161 time-stamp over SHA-256(document || token): then something old is judged at its
    /// own time
    #[arg(long, value_name = "FILE", requires = "timestamp_root")]
    timestamp: Option<PathBuf>,
    /// Root certificate of a time-stamping authority that you trust; may be repeated
    #[arg(long, value_name = "PEM", requires = "timestamp")]
    timestamp_root: Vec<PathBuf>,
    /// The greatest age of the document that you accept, such as `10m`
    #[arg(long, value_name = "DURATION")]
    max_age: Option<String>,
    /// Only look, although nonce, measurements or bundle were not given: what was not checked is
    /// listed, and nothing is accepted (exit code 3)
    #[arg(long)]
    inspect: bool,
    /// Accept an enclave in debug mode too; the verdict then says `debug`
    #[arg(long)]
    allow_debug: bool,
    /// Accept a mock too; needs its root. The verdict then says `mock`
    #[arg(long, requires = "root")]
    allow_mock: bool,
    /// Root certificate of the mock
    #[arg(long, value_name = "PEM", requires = "allow_mock")]
    root: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long, group = "form")]
    json: bool,
    /// Print an attestation result for others: the claims of an EAR, accepted or refused
    #[arg(long, group = "form")]
    ear: bool,
    /// Print a TRACE v0.2 trust record of what was accepted; needs evidence
    #[arg(long, group = "form")]
    trace: bool,
    /// Your own Ed25519 key (PKCS#8): makes the EAR a JWT that is signed with it
    #[arg(long, value_name = "PEM", requires = "ear")]
    sign_with: Option<PathBuf>,
}

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Text,
    Json,
    Ear,
    Trace,
}

impl Expected {
    fn output(&self) -> Output {
        match (self.json, self.ear, self.trace) {
            (true, ..) => Output::Json,
            (_, true, _) => Output::Ear,
            (.., true) => Output::Trace,
            _ => Output::Text,
        }
    }
}

/// Everything that the command line named, read and parsed.
pub(crate) struct Inputs {
    kind: Kind,
    subject: Vec<u8>,
    evidence: Vec<u8>,
    pub(crate) verifier: Verifier,
    pub(crate) output: Output,
    pub(crate) key: Option<VerifierKey>,
}

#[derive(Clone, Copy)]
enum Kind {
    Document,
    Evidence,
    Token,
    Credential,
}

pub(crate) type Error = String;

impl Inputs {
    /// Reads the files.
    pub(crate) fn read(command: &Command) -> Result<Self, Error> {
        let (kind, file, evidence, signed, expected) = match command {
            Command::Document { file, expected } => (Kind::Document, file, None, None, expected),
            Command::Evidence {
                file,
                signed,
                expected,
            } => (Kind::Evidence, file, Some(file), Some(signed), expected),
            Command::Token {
                file,
                evidence,
                signed,
                expected,
            } => (Kind::Token, file, Some(evidence), Some(signed), expected),
            Command::Credential {
                file,
                evidence,
                signed,
                expected,
            } => (
                Kind::Credential,
                file,
                Some(evidence),
                Some(signed),
                expected,
            ),
            Command::Policy(_) | Command::Man { .. } | Command::Completions { .. } => {
                return Err("nothing to read".into());
            }
        };
        let subject = read(file)?;
        let evidence = match kind {
            Kind::Evidence => subject.clone(),
            _ => evidence
                .map(|file| read(file))
                .transpose()?
                .unwrap_or_default(),
        };
        Ok(Self {
            kind,
            subject,
            evidence,
            verifier: expected.verifier(signed)?,
            output: expected.output(),
            key: optional(expected.sign_with.as_deref(), VerifierKey::from_pem)?,
        })
    }

    /// What was judged: the evidence, or the document alone.
    pub(crate) fn about(&self) -> About<'_> {
        match self.kind {
            Kind::Document => About::Document(&self.subject),
            _ => About::Evidence(&self.evidence),
        }
    }

    /// What is to be judged.
    pub(crate) fn subject(&self) -> Subject<'_> {
        let evidence = &self.evidence;
        match self.kind {
            Kind::Document => Subject::Document(&self.subject),
            Kind::Evidence => Subject::Evidence(evidence),
            Kind::Token => {
                // What is not UTF-8 is no token either; the empty one is refused as such.
                let token = std::str::from_utf8(&self.subject)
                    .unwrap_or_default()
                    .trim_end();
                Subject::Token { token, evidence }
            }
            Kind::Credential => Subject::Credential {
                credential: &self.subject,
                evidence,
            },
        }
    }
}

impl Expected {
    /// The verifier that the command line describes.
    fn verifier(&self, signed: Option<&Signed>) -> Result<Verifier, Error> {
        Ok(Verifier {
            at: self.at.as_deref().map_or_else(|| Ok(now()), parse_at)?,
            expectations: self.expectations(signed)?,
            anchor: self.anchor()?,
            allow_debug: self.allow_debug,
            allow_mock: optional(self.root.as_deref(), MockRoot::from_pem)?,
            inspect: self.inspect,
            issuers: None,
        })
    }

    fn expectations(&self, signed: Option<&Signed>) -> Result<Expectations, Error> {
        let digest = |text: &[u8]| Bundle::from_either(text).map(|bundle| bundle.digest());
        let did_document = signed.and_then(|signed| signed.did_document.as_deref());
        Ok(Expectations {
            nonce: self.nonce.as_deref().map(parse_nonce).transpose()?,
            measurements: parse_each(&self.measurements, Measurements::parse)?,
            policies: parse_each(&self.bundle, digest)?,
            max_age_seconds: self.max_age.as_deref().map(parse_age).transpose()?,
            did: signed.and_then(|signed| signed.did.clone()),
            identity: signed.and_then(|signed| signed.identity.clone()),
            did_document: optional(did_document, did::Document::parse)?,
            state: signed.and_then(|signed| signed.state),
            audience: signed.and_then(|signed| signed.audience.clone()),
            appraisal: optional(self.verifier_policy.as_deref(), AppraisalPolicy::from_toml)?,
        })
    }

    fn anchor(&self) -> Result<Option<Arc<dyn TimeAnchor>>, Error> {
        let roots = self
            .timestamp_root
            .iter()
            .map(|file| read(file))
            .collect::<Result<Vec<_>, _>>()?;
        let stamp = optional(self.timestamp.as_deref(), |der| TimeStamp::new(der, &roots))?;
        Ok(stamp.map(|stamp| Arc::new(stamp) as Arc<dyn TimeAnchor>))
    }
}

/// Files larger than this are none of ours: 1 MiB.
const MAX_FILE: u64 = 1 << 20;

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let limit = MAX_FILE + 1;
    let result = if file == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(limit).read_to_end(&mut bytes))
    };
    result.map_err(|error| format!("{}: {error}", file.display()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("{}: larger than 1 MiB", file.display()));
    }
    Ok(bytes)
}

pub(crate) fn parse<T, E: std::fmt::Display>(
    file: &Path,
    parse: impl Fn(&[u8]) -> Result<T, E>,
) -> Result<T, Error> {
    parse(&read(file)?).map_err(|error| format!("{}: {error}", file.display()))
}

fn optional<T, E: std::fmt::Display>(
    file: Option<&Path>,
    with: impl Fn(&[u8]) -> Result<T, E>,
) -> Result<Option<T>, Error> {
    file.map(|file| parse(file, with)).transpose()
}

fn parse_each<T, E: std::fmt::Display>(
    files: &[PathBuf],
    with: impl Fn(&[u8]) -> Result<T, E>,
) -> Result<Vec<T>, Error> {
    files.iter().map(|file| parse(file, &with)).collect()
}

fn parse_at(text: &str) -> Result<UnixSeconds, Error> {
    parse_rfc3339(text).map_err(|error| format!("--at {text:?}: {error}"))
}

fn parse_nonce(text: &str) -> Result<Vec<u8>, Error> {
    if text.is_empty() {
        return Err("--nonce is empty: is the variable set in this terminal?".into());
    }
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| {
        let why = if text.len() % 2 == 1 {
            "not hex: an odd number of digits"
        } else {
            "not hex"
        };
        format!("--nonce {text:?}: {why}")
    })
}

fn parse_age(text: &str) -> Result<i64, Error> {
    let age: jiff::SignedDuration = text
        .parse()
        .map_err(|error| format!("--max-age {text:?}: {error}"))?;
    if age.is_negative() {
        return Err(format!("--max-age {text:?}: negative"));
    }
    Ok(age.as_secs())
}

/// Without `--at`, now: the one place where this program looks at a clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the verifier's own clock, and only where the caller gave no time"
)]
fn now() -> UnixSeconds {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    UnixSeconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
