//! Keys that last, on a laptop: a mock of AWS keeps them, and this program plays the operator. On
//! Nitro a person does both (docs/durability.md).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use attestation::MockRoot;
use parent_proxy::operator::{BirthOrder, key_policy, pair_of};
use parent_proxy::{Client, KeyFile};
use policy::Bundle;
use serde_json::Value;
use state::{Certificate, GenesisRecord};

use crate::aws::{ADMIN, DEFAULT_REGION, MockAws, SIDECAR};
use crate::{Child, Error, Program, State};

/// A key in its form, of nobody: with it a bundle is looked at before its own key is made.
const SOME_KEY: &str =
    "arn:aws:kms:eu-central-1:000000000000:key/00000000-0000-0000-0000-000000000000";

/// How long an order of birth may be obeyed, in seconds.
const ORDER_SECONDS: i64 = 300;

/// What keeps the keys of a state directory.
#[derive(Debug)]
pub struct DurableState {
    state: State,
    address: SocketAddr,
}

impl DurableState {
    /// Makes what is missing: the mock of AWS, a key of its KMS, `[state]` in the bundle, and a key
    /// policy for this program under this bundle.
    pub fn prepare(state: &State) -> Result<Self, Error> {
        let aws = MockAws::open(&state.aws(), DEFAULT_REGION)?;
        let arn = match kept_key(state)? {
            Some(arn) => arn,
            None => {
                let arn = new_key(&aws)?;
                state.set_policy(&(policy_text(state)? + &state_table(&arn)))?;
                arn
            }
        };
        let (_, measurements, bundle) = state.verifier_files()?;
        let policy = key_policy(&[(measurements, bundle)], SIDECAR, ADMIN);
        aws.put_key_policy(&arn, &policy.map_err(operator)?.to_string())?;
        Ok(Self {
            state: state.clone(),
            address: free_address()?,
        })
    }

    /// Starts the mock of AWS.
    pub fn start(
        &self,
        program: &Program,
        log: Option<&Path>,
        more: &[&str],
    ) -> Result<Child, Error> {
        program.start_aws(&self.state, self.address, log, more)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the sidecar's configuration says of it.
    pub fn sidecar_lines(&self) -> String {
        format!(
            "state = \"state\"\nstate_certificate = \"certificate.cose\"\n\n[aws]\nkms_address = \"{}\"\ncredentials = \"aws/credentials\"\n",
            self.address
        )
    }

    /// The folder of the sealed state.
    pub fn folder(&self) -> PathBuf {
        self.state.folder().join("state")
    }

    /// The certificate that the sidecar brings.
    pub fn certificate(&self) -> PathBuf {
        self.state.folder().join("certificate.cose")
    }

    /// As the operator: certifies this program under this bundle, if a state is kept that neither
    /// its order nor its certificate lists them for. Whether it did.
    pub fn certify_if_needed(&self) -> Result<bool, Error> {
        let Ok(genesis) = fs::read(self.folder().join("genesis.cbor")) else {
            return Ok(false);
        };
        let record = GenesisRecord::parse(&genesis).map_err(wrong)?;
        let (_, measurements, bundle) = self.state.verifier_files()?;
        let pair = pair_of(&measurements, &bundle);
        let known = fs::read(self.certificate())
            .ok()
            .or_else(|| fs::read(self.folder().join("authority.cose")).ok())
            .unwrap_or_default();
        let before = Certificate::unverified(&known).ok();
        let is_listed = match &before {
            Some(certificate) => certificate.pairs.contains(&pair),
            None => state::Order::unverified(&known).is_ok_and(|order| order.pair == pair),
        };
        if is_listed {
            return Ok(false);
        }
        let terms = bundle.state.as_ref().map(policy::StatePolicy::terms);
        let certificate = Certificate::new(
            &record.name,
            record.id(),
            before.map_or(2, |before| before.version + 1),
            terms.ok_or_else(|| Error::State("the bundle has no [state]".into()))?,
            bundle
                .identities
                .iter()
                .map(|identity| identity.name.clone())
                .collect(),
            vec![pair],
        );
        let signed = certificate.sign(&self.operator()?).map_err(wrong)?;
        fs::write(self.certificate(), signed).map_err(io(&self.certificate()))?;
        Ok(true)
    }

    /// As the operator: orders the birth of a state, if none is kept.
    pub async fn birth_if_needed(&self, client: &Client) -> Result<Option<Value>, Error> {
        if self.folder().join("sealed.cbor").exists() {
            return Ok(None);
        }
        let (root, image, bundle) = self.state.verifier_files()?;
        let order = BirthOrder {
            key: &self.operator()?,
            bundle: &bundle,
            image: &image,
            mock_root: Some(root),
            now: i64::try_from(crate::state::now()).unwrap_or(i64::MAX),
            valid_seconds: ORDER_SECONDS,
        };
        order.send(client).await.map(Some).map_err(operator)
    }

    fn operator(&self) -> Result<KeyFile, Error> {
        KeyFile::read(&self.state.operator_key()).map_err(wrong)
    }

    /// The root under which its documents verify.
    pub fn mock_root(&self) -> Result<MockRoot, Error> {
        Ok(self.state.verifier_files()?.0)
    }
}

/// The key that keeps the state, if the bundle names one.
fn kept_key(state: &State) -> Result<Option<String>, Error> {
    let text = policy_text(state)?;
    // What it says of budgets may want a state, which is added first.
    let with_state = || Bundle::from_toml(&(text.clone() + &state_table(SOME_KEY)));
    if Bundle::from_either(text.as_bytes()).is_err() && with_state().is_ok() {
        return Ok(None);
    }
    let (_, _, bundle) = state.verifier_files()?;
    Ok(bundle.state.map(|kept| kept.kms_key.to_string()))
}

/// A new key.
fn new_key(aws: &MockAws) -> Result<String, Error> {
    // Nobody may use it before the bundle is known.
    let nobody = serde_json::json!({"Version": "2012-10-17", "Statement": [{
        "Sid": "Administration", "Effect": "Allow", "Principal": {"AWS": ADMIN},
        "Action": ["kms:PutKeyPolicy"], "Resource": "*",
    }]});
    aws.create_key(&nobody.to_string())
}

fn policy_text(state: &State) -> Result<String, Error> {
    let file = state.policy();
    fs::read_to_string(&file).map_err(io(&file))
}

/// What a bundle says whose keys are kept.
fn state_table(arn: &str) -> String {
    format!(
        "\n# Keys outlive the enclave's boot. Both are a mock's here; docs/durability.md has it in earnest.\n\
         [state]\nname = \"laptop\"\ncustody = \"kms\"\nkms_key = \"{arn}\"\nrollback = \"accepted\"\n"
    )
}

/// A port that is free now, and which no connection takes by chance while its mock does not run: they
/// take theirs from 32768 on (ip(7), `ip_local_port_range`).
fn free_address() -> Result<SocketAddr, Error> {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    let mut random = [0; 2];
    getrandom::fill(&mut random).map_err(wrong)?;
    let first = u16::from_ne_bytes(random) % (PORTS.end - PORTS.start);
    let ports = PORTS.skip(first.into()).chain(PORTS);
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let free = ports.into_iter().find_map(|port| bind(port).ok());
    let none = || io(Path::new("a port of this host"))(std::io::ErrorKind::AddrInUse.into());
    free.ok_or_else(none)?
        .local_addr()
        .map_err(io(Path::new("a port of this host")))
}

#[expect(clippy::needless_pass_by_value, reason = "the form map_err wants")]
fn operator(error: parent_proxy::operator::OperatorError) -> Error {
    Error::State(format!("as the operator: {error}"))
}

fn wrong(error: impl std::fmt::Display) -> Error {
    Error::State(error.to_string())
}

fn io(file: &Path) -> impl Fn(std::io::Error) -> Error + use<> {
    let what = file.display().to_string();
    move |source| Error::Io {
        what: what.clone(),
        source,
    }
}
