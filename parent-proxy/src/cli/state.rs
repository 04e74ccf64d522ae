//! The operator's part in a state that outlives the enclave's boot.

use std::io::Write;
use std::path::{Path, PathBuf};

use attestation::{Expectations, Measurements, MockRoot, Subject, Verifier, unverified_time};
use clap::{Args, Subcommand};
use identity::{PublicKey, UnixSeconds, parse_rfc3339};
use policy::Bundle;
use serde_json::{Value, json};
use state::{Certificate, GenesisRecord, Pair, Sealed, StateId, Terms};

use super::calls::{Connection, answer, in_seconds};
use super::{Failure, block_on, print_json};
use crate::operator::{BirthOrder, pair_of};
use crate::{Error, KeyFile};
use enclave_client::files::read_bounded;

/// Keys that last: order the birth of a state, certify which images may open it under which
/// bundles, look at it
///
/// A bundle with a [state] keeps its identities' keys in a state that outlives the enclave's boot:
/// sealed under a key of AWS KMS, opened only for images and bundles that you certified. Order:
/// `kms-policy`, `state genesis`, and before an image or a bundle changes, `state certify`.
/// docs/durability.md goes through all of it.
#[derive(Debug, Subcommand)]
pub(super) enum State {
    /// Look at a running enclave's document, and order it to give birth to a state; once
    Genesis(Genesis),
    /// Sign a certificate: which images may open a state under which bundles
    Certify(Certify),
    /// Say how the state of a running enclave is. Exit code 1: it is not open
    Status {
        #[command(flatten)]
        connection: Connection,
    },
    /// Check a state that is kept: offline, that its parts belong together; with --live, that it would
    /// open, by a running enclave and KMS
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(super) struct Genesis {
    /// The key that the bundle names as operator_key, or in its [state]
    #[arg(long, value_name = "FILE")]
    operator_key: PathBuf,
    /// The bundle that the enclave must have
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// Measurements of the image that the enclave must be
    #[arg(long, value_name = "FILE")]
    measurements: PathBuf,
    /// Root certificate of a mock: the enclave may be a mock of this root
    #[arg(long, value_name = "PEM")]
    mock_root: Option<PathBuf>,
    /// For how long the order may be obeyed, in seconds
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(i64).range(1..=86400))]
    valid_seconds: i64,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(super) struct Certify {
    /// The genesis record: genesis.cbor in the sidecar's state folder
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// The operator's key of the state
    #[arg(long, value_name = "FILE")]
    operator_key: PathBuf,
    /// An image under a bundle that may open the state; may be repeated, at most 16 times. What is not
    /// listed cannot open it any more
    #[arg(long = "pair", value_name = "MEASUREMENTS,BUNDLE", required = true)]
    pairs: Vec<String>,
    /// The certificate before this one; this one's version is one higher [default: this is the first,
    /// version 2]
    #[arg(long, value_name = "FILE")]
    after: Option<PathBuf>,
    /// Do not open a seal below this epoch: the version of the certificate that was taken before.
    /// Lower than the version of this one
    #[arg(long, value_name = "N", default_value_t = 0)]
    lowest_epoch: u64,
    /// Open nothing after this time
    #[arg(long, value_name = "RFC3339")]
    not_after: Option<String>,
    /// Your next operator key, as a Multikey: later certificates are signed by it alone
    #[arg(long, value_name = "MULTIKEY")]
    successor: Option<String>,
    /// Where to write the certificate; an older one is replaced
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The folder of the state: `state` in the sidecar's configuration
    #[arg(required_unless_present = "live")]
    folder: Option<PathBuf>,
    /// Have a running enclave open what its sidecar keeps, and compare; nothing changes. The sidecar
    /// does so once a day
    #[arg(long, conflicts_with_all = ["folder", "certificate", "mock_root"])]
    live: bool,
    #[command(flatten)]
    connection: Connection,
    /// A certificate that shall be held against it
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Root certificate of a mock: the document of the birth may be a mock's of this root
    #[arg(long, value_name = "PEM")]
    mock_root: Option<PathBuf>,
}

impl State {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::Genesis(genesis) => print_json(out, &block_on(genesis.order())??),
            Self::Certify(certify) => certify.sign(out),
            Self::Status { connection } => {
                let answer = block_on(fetch(&connection))??;
                print_json(out, &answer)?;
                if answer["phase"] == "open" {
                    return Ok(());
                }
                let why = answer["refused"]["detail"].as_str();
                Err(Failure::Refused(format!(
                    "the state is not open: {}",
                    why.unwrap_or("it waits for an order of birth (anchorhold state genesis)")
                )))
            }
            Self::Verify(verify) => verify.run(out),
        }
    }
}

async fn fetch(connection: &Connection) -> Result<Value, Failure> {
    answer(&connection.client()?.call("/state", None).await?)
}

impl Genesis {
    /// Looks at the enclave before anything is signed.
    async fn order(&self) -> Result<Value, Failure> {
        let order = BirthOrder {
            key: &KeyFile::read(&self.operator_key)?,
            bundle: &read_bundle(&self.bundle)?,
            image: &read_measurements(&self.measurements)?,
            mock_root: mock_root(self.mock_root.as_deref())?,
            now: in_seconds(0),
            valid_seconds: self.valid_seconds,
        };
        Ok(order.send(&self.connection.client()?).await?)
    }
}

impl Certify {
    fn sign(&self, out: &mut impl Write) -> Result<(), Failure> {
        let key = KeyFile::read(&self.operator_key)?;
        let record = GenesisRecord::parse(&read_bounded(&self.genesis)?)
            .map_err(|error| named(&self.genesis, &error))?;
        let listed = Listed::read(&self.pairs, &record.name)?;
        let mut certificate = Certificate::new(
            &record.name,
            record.id(),
            self.version(record.id(), &key)?,
            listed.terms,
            listed.identities,
            listed.pairs,
        );
        certificate.lowest_epoch = self.lowest_epoch;
        certificate.not_after = self.not_after.as_deref().map(time).transpose()?;
        certificate.successor = self.successor.as_deref().map(spki).transpose()?;
        let signed = certificate
            .sign(&key)
            .map_err(|error| Failure::Usage(error.to_string()))?;
        std::fs::write(&self.output, &signed).map_err(|source| enclave_client::Error::File {
            file: self.output.clone(),
            source,
        })?;
        print_json(out, &told(&certificate, &signed))
    }

    /// One higher than that of the certificate before, which must be of this state and by this key,
    /// or by one that named this key its successor.
    fn version(&self, state: StateId, key: &KeyFile) -> Result<u64, Failure> {
        let Some(file) = &self.after else {
            return Ok(2);
        };
        let signed = read_bounded(file)?;
        let before = Certificate::unverified(&signed).map_err(|error| named(file, &error))?;
        let own = identity::Signer::public_key(key);
        let is_ours =
            Certificate::verify(&signed, own).is_ok() || before.successor().as_ref() == Some(own);
        if before.state != state || !is_ours {
            return Err(Failure::Usage(format!(
                "{}: of another state, or neither signed by this key nor by one that names it as its successor",
                file.display()
            )));
        }
        if before.successor().is_some_and(|next| next != *own) {
            return Err(Failure::Usage(format!(
                "{}: it names another key as the operator's next; sign with that one",
                file.display()
            )));
        }
        before
            .version
            .checked_add(1)
            .ok_or_else(|| Failure::Usage("no version is left".into()))
    }
}

/// What the pairs of a certificate say together.
struct Listed {
    terms: Terms,
    identities: Vec<String>,
    pairs: Vec<Pair>,
}

impl Listed {
    /// Reads `MEASUREMENTS,BUNDLE`, each; all bundles must keep the state alike.
    fn read(pairs: &[String], name: &str) -> Result<Self, Failure> {
        let mut listed: Option<Self> = None;
        for text in pairs {
            let (image, bundle) = text
                .split_once(',')
                .ok_or_else(|| Failure::Usage(format!("--pair {text}: MEASUREMENTS,BUNDLE")))?;
            let image = read_measurements(Path::new(image))?;
            let file = Path::new(bundle);
            let bundle = read_bundle(file)?;
            let wrong = |why: &str| Failure::Usage(format!("{}: {why}", file.display()));
            let state = bundle
                .state
                .as_ref()
                .ok_or_else(|| wrong("it has no [state]"))?;
            if state.name != name {
                return Err(wrong(
                    "its [state] has another name than the genesis record",
                ));
            }
            let pair = pair_of(&image, &bundle);
            let names = bundle
                .identities
                .iter()
                .map(|identity| identity.name.clone());
            match &mut listed {
                None => {
                    listed = Some(Self {
                        terms: state.terms(),
                        identities: names.collect(),
                        pairs: vec![pair],
                    });
                }
                Some(listed) if listed.terms != state.terms() => {
                    return Err(wrong(
                        "its [state] is kept otherwise than that of another bundle; one certificate has one way",
                    ));
                }
                Some(listed) => {
                    listed.identities.extend(names);
                    listed.pairs.push(pair);
                }
            }
        }
        listed.ok_or_else(|| Failure::Usage("--pair MEASUREMENTS,BUNDLE".into()))
    }
}

impl Verify {
    fn run(&self, out: &mut impl Write) -> Result<(), Failure> {
        match &self.folder {
            Some(folder) => self.look(folder, out),
            None => print_json(out, &block_on(self.drill())??),
        }
    }

    async fn drill(&self) -> Result<Value, Failure> {
        let client = self.connection.client()?;
        answer(&client.call("/state/drill", Some(&json!({}))).await?)
    }

    fn look(&self, folder: &Path, out: &mut impl Write) -> Result<(), Failure> {
        let part = |name: &str| {
            let file = folder.join(name);
            Ok::<_, Failure>((read_bounded(&file)?, file))
        };
        let (genesis, file) = part("genesis.cbor")?;
        let record = GenesisRecord::parse(&genesis).map_err(|error| named(&file, &error))?;
        let (sealed, file) = part("sealed.cbor")?;
        let (sealed, header) = Sealed::parse(&sealed).map_err(|error| named(&file, &error))?;
        let refused = |error: state::Error| Failure::Refused(format!("{}: {error}", error.code()));
        let id = record.id();
        if header.state != id {
            return Err(Failure::Refused(format!(
                "sealed_state_mismatch: the seal is of the state {}, and the record of {id}",
                header.state
            )));
        }
        sealed
            .verify(&header, &record.state_key().map_err(refused)?)
            .map_err(refused)?;
        let (document, _) = part("genesis-document.cbor")?;
        let born = self.look_at_birth(&document, id)?;
        let operator = header.operator().map_err(Failure::Refused)?;
        let certificate = match &self.certificate {
            None => Value::Null,
            Some(file) => {
                let signed = read_bounded(file)?;
                // For the one that was taken the state key vouches: it may be of an operator before.
                let is_taken = identity::sha256(&signed) == header.authority.digest;
                let certificate = if is_taken {
                    Certificate::unverified(&signed)
                } else {
                    Certificate::verify(&signed, &operator)
                };
                let certificate = certificate.map_err(refused)?;
                told(&certificate, &signed)
            }
        };
        let identities = header.identities.iter().map(|identity| {
            json!({"name": identity.name, "did": identity.did, "kid": identity.kid, "key_version": identity.version})
        });
        print_json(
            out,
            &json!({
                "state": id,
                "name": header.name,
                "epoch": header.epoch,
                "sequence": header.sequence,
                "certificate_taken": header.authority.version,
                "operator": operator.to_multikey(),
                "custody": header.terms.custody,
                "rollback": header.terms.rollback,
                "kms_key": header.terms.kms_key,
                "sealed_at": UnixSeconds(header.time),
                "born": born,
                "identities": identities.collect::<Vec<_>>(),
                "certificate": certificate,
            }),
        )
    }

    /// The document of the birth, at its own time: that it is that old is nobody's word but its own.
    fn look_at_birth(&self, document: &[u8], id: StateId) -> Result<Value, Failure> {
        let refused = |code: &str, why: String| {
            Failure::Refused(format!("the document of the birth: {code}: {why}"))
        };
        let at =
            unverified_time(document).map_err(|error| refused(error.code(), error.to_string()))?;
        let verifier = Verifier {
            at,
            expectations: Expectations::default(),
            anchor: None,
            allow_debug: false,
            allow_mock: mock_root(self.mock_root.as_deref())?,
            inspect: true,
            issuers: None,
        };
        let verdict = verifier
            .judge(Subject::Document(document))
            .map_err(|refusal| refused(refusal.code(), refusal.to_string()))?;
        if verdict.user_data.as_deref() != Some(&id.to_string()) {
            return Err(refused(
                "binding_mismatch",
                "it attests another genesis record".into(),
            ));
        }
        Ok(json!({"verdict": verdict.verdict, "at": at, "pcrs": verdict.pcrs}))
    }
}

/// A certificate, for people.
fn told(certificate: &Certificate, signed: &[u8]) -> Value {
    let pairs = certificate.pairs.iter().map(|pair| {
        json!({"PCR0": pair.pcr0, "PCR1": pair.pcr1, "PCR2": pair.pcr2, "bundle": pair.policy})
    });
    json!({
        "state": certificate.state,
        "name": certificate.name,
        "version": certificate.version,
        "digest": identity::sha256(signed),
        "lowest_epoch": certificate.lowest_epoch,
        "custody": certificate.terms.custody,
        "rollback": certificate.terms.rollback,
        "kms_key": certificate.terms.kms_key,
        "not_after": certificate.not_after.map(UnixSeconds),
        "successor": certificate.successor().map(|key| key.to_multikey()),
        "identities": certificate.identities,
        "pairs": pairs.collect::<Vec<_>>(),
    })
}

pub(super) fn read_bundle(file: &Path) -> Result<Bundle, Failure> {
    let text = read_bounded(file)?;
    let bundle = Bundle::from_either(&text).map_err(|source| Error::Policy {
        file: file.into(),
        source,
    });
    Ok(bundle?)
}

pub(super) fn read_measurements(file: &Path) -> Result<Measurements, Failure> {
    Measurements::parse(&read_bounded(file)?).map_err(|error| named(file, &error))
}

pub(super) fn mock_root(file: Option<&Path>) -> Result<Option<MockRoot>, Failure> {
    let Some(file) = file else {
        return Ok(None);
    };
    let root = MockRoot::from_pem(&read_bounded(file)?).map_err(|error| named(file, &error))?;
    Ok(Some(root))
}

fn named(file: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::Usage(format!("{}: {error}", file.display()))
}

fn time(text: &str) -> Result<i64, Failure> {
    let time = parse_rfc3339(text);
    Ok(time
        .map_err(|error| Failure::Usage(format!("--not-after: {error}")))?
        .0)
}

fn spki(multikey: &str) -> Result<Vec<u8>, Failure> {
    let key = PublicKey::from_multikey(multikey);
    Ok(key
        .map_err(|error| Failure::Usage(format!("--successor: {error}")))?
        .to_spki())
}
