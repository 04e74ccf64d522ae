//! The life of one boot: at first without a policy, then with one, for good. The only file that
//! knows which NSM there is.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use attestation::Document;
use broker::{Epoch, IngressKey};
use identity::{Algorithm, BootId, Digest, PublicKey, Signer, Tee, cbor};
use policy::{Bundle, IdentityPolicy, Mode};
use policy_engine::Rego;
use protocol::{
    Answer, AttestedAuthority, KmsSigned, Phase, RecordEnd, Records, Request, StateStatus, Status,
    Ticket,
};
use record::{Decision, End};
use state::{Attested, Pair};
use upstream::{Secret, SecretKey};
use zeroize::Zeroizing;

use crate::audit::{Trail, dated};
use crate::authority;
use crate::budgets::SealedBudget;
use crate::clock::{Bounds, Clock};
use crate::credentials::{Courier, Credentials, Entrance, FromService, Ingress};
use crate::durable::{Change, Durable, Life, Platform, Then};
use crate::env::Env;
use crate::identities::{BoundTo, Identity, IdentityCard, NextKey};
use crate::keys::{KeyPair, SEED_BYTES, UncheckedSignature, check_all, secret};
use crate::nsm::PeerVerifier;
use crate::operations::{
    annex, approve, attest, call, credential, describe, exchange, overview, rotate, sign,
};
use crate::provisioned::{Committed, Provisioned};
use crate::record::Record;
use crate::service::{self, Outcome, Released, Service, Unreleased};
use crate::sync::{AtomicBool, Mutex, lock};
use crate::{BootClock, Entropy, Error, Kms, Nsm, NsmError};

/// How often the NSM is asked for the time.
pub const CLOCK_INTERVAL: Duration = Duration::from_secs(60);
const POLICY_PCR: u8 = 16;
const ALL_PCRS: u16 = 32;
/// What the hypervisor measures, and locks.
const MEASURED_PCRS: u8 = 16;
/// How often it is looked for calls whose end nobody asked for, at least.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// What the enclave runs on.
pub struct Machine<N> {
    /// The secure module.
    pub nsm: N,
    /// Time since boot.
    pub boot_clock: Box<dyn BootClock>,
    /// The operating system's randomness.
    pub entropy: Box<dyn Entropy>,
    /// Who asks KMS.
    pub kms: Box<dyn Kms>,
    /// Who carries credentials to services: one for each that a bundle may name.
    pub couriers: Vec<Box<dyn Courier>>,
    /// Where agents' TLS ends, if it may.
    pub ingress: Option<Box<dyn Ingress>>,
    /// Called once when the enclave must not go on; the keys are wiped already. A program powers
    /// off here.
    pub power_off: Box<dyn Fn(&Error) + Send + Sync>,
}

/// One boot of an enclave: at first without a policy, then with one, for good.
pub struct Enclave<N> {
    nsm: Mutex<N>,
    boot_clock: Box<dyn BootClock>,
    entropy: Box<dyn Entropy>,
    peers: PeerVerifier,
    power_off: Box<dyn Fn(&Error) + Send + Sync>,
    boot_id: BootId,
    clock: Clock,
    kms: Box<dyn Kms>,
    /// How many couriers there are.
    places: usize,
    couriers: Mutex<Vec<Box<dyn Courier>>>,
    ingress: Mutex<Option<Box<dyn Ingress>>>,
    provisioning: Mutex<()>,
    committed: OnceLock<Committed>,
    durable: Durable,
    provisioned: OnceLock<Provisioned>,
    halted: AtomicBool,
}

impl<N: Nsm> Service for Enclave<N> {
    fn boot_id(&self) -> BootId {
        self.boot_id
    }

    fn challenge(&self) -> Result<[u8; 32], Error> {
        let mut challenge = [0; 32];
        self.entropy.fill(&mut challenge)?;
        Ok(challenge)
    }

    fn proxy_key(&self) -> Option<&PublicKey> {
        self.committed
            .get()
            .map(|committed| &committed.bundle.proxy_key.0)
    }

    fn handle(&self, request: Request, proxy_key: &PublicKey) -> Outcome {
        let (answer, decision) = match self.admit(&request, proxy_key) {
            Ok(()) => self.decide(request, proxy_key),
            Err(error) => (Err(error), None),
        };
        let answer = answer.map_err(|error| {
            if error.is_end() {
                self.halt(error)
            } else {
                error
            }
        });
        Outcome::new(answer, decision)
    }

    fn release(&self, batch: Vec<Outcome>) -> Vec<Released> {
        let check = |signatures: &[UncheckedSignature]| {
            check_all(signatures, |weights| self.entropy.fill(weights))
                .map_err(|error| self.halt(error))
        };
        let seal = |decisions: Vec<Decision>| {
            if decisions.is_empty() {
                return Ok(Unreleased::new(None, Vec::new()));
            }
            // Nothing is sealed once the keys were wiped, whenever it was decided.
            if self.halted.load(Ordering::Acquire) {
                return Err(Error::Halted);
            }
            let record = &self.provisioned()?.record;
            let sealed = record.seal(decisions).map_err(|error| self.halt(error))?;
            Ok(sealed.map(|sealed| Some((record, sealed))))
        };
        service::release(batch, seal, check, |sealed| {
            sealed.map_or_else(Vec::new, |(record, sealed)| record.publish(sealed))
        })
    }
}

impl<N: Nsm> Enclave<N> {
    /// Boots: no identity, no key, no time.
    pub fn boot(machine: Machine<N>) -> Result<Self, Error> {
        let mut boot_id = [0; 16];
        machine.entropy.fill(&mut boot_id)?;
        Ok(Self {
            peers: machine.nsm.peers(),
            nsm: Mutex::new(machine.nsm),
            boot_clock: machine.boot_clock,
            entropy: machine.entropy,
            power_off: machine.power_off,
            boot_id: BootId::new(boot_id),
            clock: Clock::new(),
            kms: machine.kms,
            places: machine.couriers.len(),
            couriers: Mutex::new(machine.couriers),
            ingress: Mutex::new(machine.ingress),
            provisioning: Mutex::new(()),
            committed: OnceLock::new(),
            durable: Durable::default(),
            provisioned: OnceLock::new(),
            halted: AtomicBool::new(false),
        })
    }

    /// Asks the NSM for a document and verifies it, before anybody is served: to the root that
    /// belongs to this NSM, not of debug mode, with PCR0 to PCR15 locked. PCR16 must be missing
    /// yet: a register that is open shows in no document.
    pub fn attest_to_itself(&self) -> Result<(), Error> {
        let mut nonce = [0; 16];
        self.entropy.fill(&mut nonce)?;
        let document = self.own_document(None, None, &nonce, true)?.1;
        match (0..MEASURED_PCRS).find(|index| document.pcrs().get(*index).is_none()) {
            Some(open) => Err(Error::RegisterUnlocked(open)),
            None if document.pcrs().get(16).is_some() => Err(NsmError::PcrValue.into()),
            None => Ok(()),
        }
    }

    fn admit(&self, request: &Request, proxy_key: &PublicKey) -> Result<(), Error> {
        if self.halted.load(Ordering::Acquire) {
            return Err(Error::Halted);
        }
        // The window closes on other keys; but a request may have waited in a lane while the policy
        // came.
        let is_proxy = |committed: &Committed| committed.bundle.proxy_key.0 == *proxy_key;
        match self.committed.get() {
            _ if request.traits().before_policy => Ok(()),
            None => Err(Error::NotProvisioned),
            Some(committed) if is_proxy(committed) => Ok(()),
            Some(_) => Err(Error::ProxyKeyMismatch),
        }
    }

    fn decide(
        &self,
        request: Request,
        proxy_key: &PublicKey,
    ) -> (Result<Unreleased<Answer>, Error>, Option<Decision>) {
        let event = request.traits().event.unwrap_or_default();
        let unrecorded = |outcome: Result<Answer, Error>| (outcome.map(Into::into), None);
        match request {
            Request::Status => unrecorded(Ok(Answer::Status(self.status()))),
            // The record has begun already, and no line of it goes with this answer.
            Request::Provision { bundle, before } => unrecorded(
                self.provision(&bundle, before, proxy_key)
                    .map(|()| Answer::Status(self.status())),
            ),
            Request::Records { from } => unrecorded(self.records(from).map(Answer::Records)),
            Request::Describe(of) => unrecorded(
                self.env()
                    .and_then(|env| describe::describe(&env, &of))
                    .map(Answer::Description),
            ),
            Request::Overview { caller, all } => unrecorded(
                self.env()
                    .and_then(|env| overview::overview(&env, &caller, all))
                    .map(Answer::Overview),
            ),
            Request::GetApproval { id } => unrecorded(
                self.env()
                    .and_then(|env| approve::show(&env, id))
                    .map(Answer::PendingApproval),
            ),
            Request::Sign(sign) => {
                self.recorded(event, "default", |env, trail| sign::sign(env, sign, trail))
            }
            Request::Exchange(exchange) => self.recorded(event, "delegation", |env, trail| {
                exchange::exchange(env, exchange, trail).map(|signed| signed.map(Answer::Signed))
            }),
            Request::Approve { jws } => self.recorded(event, "approvers", |env, trail| {
                approve::approve(env, &jws, trail).map(Answer::PendingApproval)
            }),
            Request::Annex { signed } => self.recorded(event, "operator", |env, trail| {
                annex::load(env, &signed, trail)?;
                Ok(Answer::Status(self.status()))
            }),
            Request::Attest { requester, nonce } => {
                self.recorded(event, "callers", |env, trail| {
                    let evidence = attest::attest(
                        env,
                        &requester,
                        &nonce,
                        |card| self.document_of(card, &nonce),
                        trail,
                    );
                    self.note_end(trail);
                    Ok(Answer::Evidence(protocol::Evidence {
                        evidence: evidence?,
                    }))
                })
            }
            Request::Rotate(rotate) => self.recorded(event, "rotation_callers", |env, trail| {
                let check_idle = || self.durable.check_idle();
                let new_key =
                    |algorithm, name: &str, version| self.new_key(algorithm, name, version);
                let now = || self.now().map(|now| now.earliest);
                let next = rotate::rotate(env, &rotate, check_idle, new_key, now, trail);
                self.note_end(trail);
                self.rotated(env, next?)
            }),
            Request::State => unrecorded(Ok(Answer::State(self.state_status()))),
            Request::BirthDocument { nonce } => unrecorded(self.birth_document(&nonce)),
            Request::Birth { order } => unrecorded(
                self.committed()
                    .and_then(|committed| self.durable.birth(committed, self, order))
                    .map(Answer::SignKms),
            ),
            Request::PutPiece(piece) => unrecorded(
                self.durable
                    .put(&piece)
                    .map(|()| Answer::State(self.state_status())),
            ),
            Request::GetPiece { part, offset } => {
                unrecorded(self.durable.get(part, offset).map(Answer::Piece))
            }
            Request::OpenState => unrecorded(
                self.committed()
                    .and_then(|committed| self.durable.open(committed, self))
                    .map(Answer::SignKms),
            ),
            Request::AskKms(signed) => unrecorded(self.ask_kms(signed)),
            Request::Stored => unrecorded(self.stored()),
            Request::SealingKey { nonce } => unrecorded(self.sealing_key(&nonce)),
            Request::PutCredential { order } => self.recorded(event, "operator", |env, trail| {
                credential::put(env, &order, trail)
            }),
            Request::Epochs => unrecorded(self.env().and_then(|env| credential::epochs(&env))),
            Request::SetEpochs { order } => self.recorded(event, "operator", |env, trail| {
                let new_key = || {
                    self.durable.check_idle()?;
                    self.new_secret("k3")
                };
                let epochs = credential::next_epochs(env, &order, new_key, trail);
                self.note_end(trail);
                self.set_epochs(env, epochs?)
            }),
            Request::RewrapCredential(kept) => self.recorded(event, "proxy_key", |env, trail| {
                credential::rewrap(env, &kept, trail)
            }),
            Request::CredentialKept(kept) => {
                unrecorded(self.env().and_then(|env| credential::kept(&env, &kept)))
            }
            Request::CloseCredential { ticket } => self.close(ticket),
            Request::OpenCredential(open) => {
                self.recorded(event, "default", |env, trail| call::open(env, open, trail))
            }
            Request::OpenSealed(open) => self.recorded(event, "default", |env, trail| {
                call::open_sealed(env, &open, trail)
            }),
            Request::KeepBudgets => unrecorded(self.keep_budgets()),
            Request::Authority { nonce } => unrecorded(self.authority(&nonce)),
            Request::Lease { signed } => {
                unrecorded(self.env().and_then(|env| credential::lease(&env, &signed)))
            }
        }
    }

    fn birth_document(&self, nonce: &[u8]) -> Result<Answer, Error> {
        if !attest::NONCE_BYTES.contains(&nonce.len()) {
            return Err(Error::NonceSize);
        }
        let evidence = self
            .durable
            .birth_document(self.committed()?, self, nonce)?;
        Ok(Answer::Document(protocol::Evidence { evidence }))
    }

    /// A document that attests the key to which credentials are sealed.
    fn sealing_key(&self, nonce: &[u8]) -> Result<Answer, Error> {
        if !attest::NONCE_BYTES.contains(&nonce.len()) {
            return Err(Error::NonceSize);
        }
        let provisioned = self.provisioned()?;
        let credentials = provisioned.credentials.as_ref();
        let key = credentials.ok_or(Error::UnknownService)?.sealing_key()?;
        let data = broker::sealing_data(&provisioned.policy, &key);
        let (evidence, _) = self.own_document(Some(&key), Some(data.as_bytes()), nonce, false)?;
        Ok(Answer::Document(protocol::Evidence { evidence }))
    }

    /// The authority under which agents meet the ingress process, and a document that attests it.
    fn authority(&self, nonce: &[u8]) -> Result<Answer, Error> {
        if !attest::NONCE_BYTES.contains(&nonce.len()) {
            return Err(Error::NonceSize);
        }
        let provisioned = self.provisioned()?;
        let credentials = provisioned.credentials.as_ref();
        let authority = &credentials.ok_or(Error::NoAuthority)?.entrance()?.authority;
        let data = broker::authority_data(&provisioned.policy, &authority.certificate);
        let (document, _) =
            self.own_document(Some(&authority.spki), Some(data.as_bytes()), nonce, false)?;
        Ok(Answer::Authority(AttestedAuthority {
            certificate: authority.certificate.clone(),
            document,
        }))
    }

    fn ask_kms(&self, signed: KmsSigned) -> Result<Answer, Error> {
        let committed = self.committed()?;
        if let Some(life) = self.durable.ask_kms(committed, self, signed)? {
            self.live(committed, *life)
                .map_err(|error| self.halt(error))?;
        }
        Ok(Answer::State(self.state_status()))
    }

    /// A rotation of what ends with the boot is done at once; otherwise once it is sealed and stored.
    fn rotated(&self, env: &Env<'_>, next: NextKey) -> Result<Answer, Error> {
        let committed = self.committed()?;
        if committed.bundle.state.is_none() {
            return rotate::replace(env, next).map(Answer::Rotated);
        }
        let change = Change::Key(Box::new(next));
        self.durable
            .seal_change(committed, self, env.provisioned, change)?;
        Ok(Answer::State(self.state_status()))
    }

    /// The same, for the keys that open credentials.
    fn set_epochs(&self, env: &Env<'_>, epochs: Vec<Epoch>) -> Result<Answer, Error> {
        let committed = self.committed()?;
        if committed.bundle.state.is_none() {
            return credential::set_epochs(env, epochs);
        }
        let change = Change::epochs(epochs);
        self.durable
            .seal_change(committed, self, env.provisioned, change)?;
        Ok(Answer::State(self.state_status()))
    }

    /// Seals how much of budgets may be used, if more is wanted.
    fn keep_budgets(&self) -> Result<Answer, Error> {
        let env = self.env()?;
        let credentials = env.provisioned.credentials.as_ref();
        if !credentials.ok_or(Error::UnknownService)?.want_slices() {
            return Ok(Answer::Kept);
        }
        let committed = self.committed()?;
        self.durable
            .seal_change(committed, self, env.provisioned, Change::Budgets)?;
        Ok(Answer::State(self.state_status()))
    }

    /// The seal that waited is stored: what it holds may be used.
    fn stored(&self) -> Result<Answer, Error> {
        let then = self.durable.stored()?;
        // Whatever it was sealed for, it has the budgets. Nothing is sealed meanwhile: what seals and this come one after the
        // other (`Lane::Control`).
        if let Some(provisioned) = self.provisioned.get() {
            let credentials = provisioned.credentials.iter();
            credentials.for_each(Credentials::budgets_stored);
        }
        match then {
            Then::Budgets => Ok(Answer::Kept),
            Then::Live(life) => {
                let committed = self.committed()?;
                self.live(committed, *life)
                    .map_err(|error| self.halt(error))?;
                Ok(Answer::State(self.state_status()))
            }
            // The old key would be forgotten by a restart: if the new one cannot take its place,
            // nothing may be signed any more.
            Then::Replace(next) => self
                .env()
                .and_then(|env| rotate::replace(&env, *next))
                .map(Answer::Rotated)
                .map_err(|error| self.halt(error)),
            // The next boot opens with these alone.
            Then::Epochs(epochs) => self
                .env()
                .and_then(|env| credential::set_epochs(&env, epochs))
                .map_err(|error| self.halt(error)),
        }
    }

    fn state_status(&self) -> StateStatus {
        let mut status = self.durable.status();
        if self
            .committed
            .get()
            .is_none_or(|committed| committed.bundle.state.is_none())
        {
            status.phase = Phase::None;
        }
        status
    }

    /// The NSM may have been slow: the event has the time of its end.
    fn note_end(&self, trail: &mut Trail) {
        if let Ok(now) = self.now() {
            trail.ended(now.earliest);
        }
    }

    /// Does something of which the record shall know, whatever comes of it. `rule` is who decides,
    /// unless a rule of the policy does.
    fn recorded<A: Into<Unreleased<Answer>>>(
        &self,
        event: &str,
        rule: &str,
        work: impl FnOnce(&Env<'_>, &mut Trail) -> Result<A, Error>,
    ) -> (Result<Unreleased<Answer>, Error>, Option<Decision>) {
        let env = match self.env() {
            Ok(env) => env,
            Err(error) => return (Err(error), None),
        };
        let mut trail = Trail::new(env.provisioned.policy, event, rule);
        let outcome = work(&env, &mut trail);
        let decision = trail.close(&env, &outcome, self.boot_clock.now());
        (outcome.map(Into::into), decision)
    }

    /// A document of the NSM that names the key of this card, and its binding.
    fn document_of(&self, card: &IdentityCard, nonce: &[u8]) -> Result<(Vec<u8>, Document), Error> {
        self.own_document(
            Some(&card.description.spki),
            Some(card.binding.user_data()),
            nonce,
            false,
        )
    }

    /// What a request sees of this enclave, from now on.
    fn env(&self) -> Result<Env<'_>, Error> {
        Ok(self.env_of(self.provisioned()?))
    }

    fn env_of<'e>(&'e self, provisioned: &'e Provisioned) -> Env<'e> {
        Env::new(
            provisioned,
            self.now(),
            self.boot_id,
            N::TEE,
            &*self.entropy,
            &self.peers,
        )
    }

    fn records(&self, from: u64) -> Result<Records, Error> {
        Ok(self.provisioned()?.record.since(from))
    }

    /// Asks the NSM for the time. Meant for one thread, once in [`CLOCK_INTERVAL`].
    pub fn refresh_clock(&self) -> Result<(), Error> {
        let mut nonce = [0; 16];
        self.entropy.fill(&mut nonce)?;
        self.own_document(None, None, &nonce, true).map(|_| ())
    }

    fn status(&self) -> Status {
        let can_sign = self.provisioned().and_then(|provisioned| {
            let annex = self.env_of(provisioned).check_annex();
            annex.and_then(|()| self.now())
        });
        Status {
            boot_id: self.boot_id,
            policy: self
                .committed
                .get()
                .map(|committed| committed.policy.digest().0),
            cannot_sign: can_sign.err().map(|error| error.code().to_owned()),
            tee: N::TEE,
            annex: self
                .provisioned
                .get()
                .and_then(Provisioned::annex_id)
                .map(|annex| annex.digest.0),
        }
    }

    /// Takes the policy, commits to it, and gives birth to its identities. From the first touch of
    /// PCR16 on, every failure is the end of this boot: a register cannot be extended twice to the
    /// same value.
    fn provision(
        &self,
        canonical: &[u8],
        before: Option<RecordEnd>,
        proxy_key: &PublicKey,
    ) -> Result<(), Error> {
        let _one_at_a_time = lock(&self.provisioning);
        if self.committed.get().is_some() {
            return Err(Error::AlreadyProvisioned);
        }
        let bundle = Bundle::from_canonical(canonical)?;
        if bundle.mode == Mode::Development && N::TEE != Tee::Mock {
            return Err(Error::DevelopmentBundle);
        }
        if bundle.proxy_key.0 != *proxy_key {
            return Err(Error::ProxyKeyMismatch);
        }
        self.check_services(&bundle)?;
        let before = before.map(|before| self.record_end(before)).transpose()?;
        let rego =
            Rego::load(&bundle).map_err(|error| policy::Error::Malformed(error.to_string()))?;
        let committed = self
            .commit(bundle, canonical.to_vec(), rego, before)
            .map_err(|error| self.halt(error))?;
        let is_ephemeral = committed.bundle.state.is_none();
        if is_ephemeral {
            let life = self.life_of_a_boot(&committed);
            let life = life.map_err(|error| self.halt(error))?;
            self.live(&committed, life)
                .map_err(|error| self.halt(error))?;
        }
        // `provisioning` is held and there was no policy, so there still is none.
        self.committed
            .set(committed)
            .map_err(|_| Error::AlreadyProvisioned)
    }

    /// Keys that end with this boot.
    fn life_of_a_boot(&self, committed: &Committed) -> Result<Life, Error> {
        let record_key = self.new_key(Algorithm::EdDSA, "record", 0)?;
        let bound = BoundTo {
            policy: committed.policy,
            record_spki: record_key.public_key().to_spki(),
            state: None,
        };
        let born = |described: &IdentityPolicy| {
            let key = self.new_key(described.algorithm, &described.name, 1)?;
            Identity::new(described, &bound, key)
        };
        let identities = committed.bundle.identities.iter().map(born);
        Ok(Life {
            identities: identities.collect::<Result<Vec<_>, _>>()?,
            record_key,
            bound,
            annex: None,
            k3: vec![Epoch {
                number: 1,
                key: self.new_secret("k3")?,
            }],
            authority: self.new_secret("ingress-authority")?,
            budgets: Vec::new(),
        })
    }

    /// From here on there are keys, and a record whose first line says so.
    fn live(&self, committed: &Committed, life: Life) -> Result<(), Error> {
        let record = Record::new(life.record_key, self.boot_id);
        let credentials = self.credentials(committed, life.k3, &life.authority, &life.budgets)?;
        let provisioned = Provisioned::new(
            committed.bundle.clone(),
            committed.canonical.clone(),
            lock(&committed.rego).take(),
            life.identities,
            record,
            life.bound,
            life.annex,
        )
        .with_credentials(credentials);
        let mut trail = Trail::new(provisioned.policy, "enclave.boot", "bundle");
        trail.boot(committed.before);
        let born = trail.done(&self.env_of(&provisioned));
        let born = provisioned.record.seal(vec![born])?.checked()?;
        provisioned.record.publish(born);
        self.provisioned
            .set(provisioned)
            .map_err(|_| Error::AlreadyProvisioned)
    }

    /// Refuses services that it cannot serve, before anything is committed to.
    fn check_services(&self, bundle: &Bundle) -> Result<(), Error> {
        let (wanted, places) = (bundle.services.len(), self.places);
        if wanted > places {
            return Err(Error::TooManyServices(wanted, places));
        }
        if bundle.https_proxy.is_some() && lock(&self.ingress).is_none() {
            return Err(Error::IngressGone);
        }
        let services = &bundle.services;
        services
            .iter()
            .try_for_each(|service| broker::roots(service).map(|_| ()))?;
        Ok(())
    }

    /// What it has to do with credentials of others.
    fn credentials(
        &self,
        committed: &Committed,
        k3: Vec<Epoch>,
        authority: &[u8; 32],
        budgets: &[SealedBudget],
    ) -> Result<Option<Credentials>, Error> {
        let bundle = &committed.bundle;
        if bundle.services.is_empty() {
            return Ok(None);
        }
        let couriers = std::mem::take(&mut *lock(&self.couriers));
        let mut credentials = Credentials::new(bundle, couriers, k3)?;
        if !budgets.is_empty() {
            credentials.restore(bundle, budgets, self.now()?.earliest);
        }
        let entrance = bundle
            .https_proxy
            .map(|_| self.entrance(committed, authority));
        Ok(Some(credentials.with_entrance(entrance.transpose()?)))
    }

    /// Has agents come through the ingress process.
    fn entrance(&self, committed: &Committed, authority: &[u8; 32]) -> Result<Entrance, Error> {
        let process = lock(&self.ingress).take().ok_or(Error::IngressGone)?;
        let (own, shared) = (self.new_secret("ingress")?, self.new_secret("ingress-key")?);
        let mut numbers = [[0; 16]; 2];
        numbers
            .iter_mut()
            .try_for_each(|number| self.entropy.fill(number))?;
        let now = self.now()?.earliest;
        let bundle = &committed.bundle;
        let (authority, issued) =
            authority::issue(bundle, N::TEE, (authority, &own), now, numbers)?;
        process.begin(&ingress::Setup {
            bundle: committed.canonical.clone(),
            certificate: issued.certificate,
            key: Secret(issued.key),
            ingress: SecretKey(shared.clone()),
        })?;
        Ok(Entrance {
            key: IngressKey::new(&shared),
            authority,
            _process: process,
        })
    }

    /// Hears what the processes of services say; ends when nobody says anything any more. Meant for
    /// one thread.
    pub fn hear(&self, said: &Receiver<FromService>) {
        let mut tended = Instant::now();
        loop {
            let heard = said.recv_timeout(HEARD_WITHIN);
            let Ok(env) = self.env() else {
                match heard {
                    Err(RecvTimeoutError::Disconnected) => return,
                    _ => continue,
                }
            };
            let Some(credentials) = &env.provisioned.credentials else {
                return;
            };
            match heard {
                Ok(said) => credentials.hear(&said),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // However much is said meanwhile.
            if tended.elapsed() >= HEARD_WITHIN {
                tended = Instant::now();
                let now = env.now().ok().map(|now| now.latest);
                credentials.end_lease(&env.provisioned.bundle, now);
                let forgotten = credentials.tend().into_iter();
                let noted = forgotten.map(|end| Outcome::noted(dated(&env, end)));
                self.release(noted.collect());
            }
        }
    }

    /// Writes down how a call ended.
    fn close(&self, ticket: Ticket) -> (Result<Unreleased<Answer>, Error>, Option<Decision>) {
        let closed = self.env().and_then(|env| {
            let credentials = env.provisioned.credentials.as_ref();
            let end = credentials.ok_or(Error::UnknownService)?.close(ticket)?;
            Ok(dated(&env, end))
        });
        match closed {
            Ok(decision) => (Ok(Answer::Closed.into()), Some(decision)),
            Err(error) => (Err(error), None),
        }
    }

    /// Makes ready what takes long and is perhaps needed, while the policy is awaited.
    pub fn prepare(&self) {
        self.durable.prepare();
    }

    /// With what the proxy says that its record ended before this boot.
    fn record_end(&self, before: RecordEnd) -> Result<End, Error> {
        if before.boot_id == self.boot_id {
            return Err(Error::RecordEndInvalid("it is of this boot"));
        }
        if before.last > identity::json::MAX_SAFE_INTEGER {
            return Err(Error::RecordEndInvalid(
                "its sequence number is beyond 2^53-1",
            ));
        }
        Ok(End {
            boot_id: before.boot_id,
            last: before.last,
            leaf: Digest(before.leaf),
        })
    }

    fn commit(
        &self,
        bundle: Bundle,
        canonical: Vec<u8>,
        rego: Option<Rego>,
        before: Option<End>,
    ) -> Result<Committed, Error> {
        let policy = bundle.digest();
        {
            let mut nsm = lock(&self.nsm);
            if nsm.extend_pcr(POLICY_PCR.into(), policy.digest().as_bytes())? != policy.pcr16() {
                return Err(NsmError::PcrValue.into());
            }
            nsm.lock_pcrs(ALL_PCRS)?;
        }
        let mut nonce = [0; 16];
        self.entropy.fill(&mut nonce)?;
        let document = self.own_document(None, None, &nonce, true)?.1;
        if document.pcrs().get(16) != Some(&policy.pcr16()) {
            return Err(NsmError::PcrValue.into());
        }
        if let Some(open) = (0..32).find(|index| document.pcrs().get(*index).is_none()) {
            return Err(Error::RegisterUnlocked(open));
        }
        let [pcr0, pcr1, pcr2] = [0, 1, 2].map(|index| {
            let pcr = document.pcrs().get(index).copied();
            pcr.ok_or(Error::RegisterUnlocked(index))
        });
        Ok(Committed {
            pair: Pair {
                pcr0: pcr0?,
                pcr1: pcr1?,
                pcr2: pcr2?,
                policy: policy.digest(),
            },
            policy,
            bundle,
            canonical,
            rego: Mutex::new(rego),
            before,
        })
    }

    /// Randomness of the secure module, and of the operating system.
    fn seeds(&self) -> Result<[Zeroizing<[u8; SEED_BYTES]>; 2], Error> {
        let mut nsm = Zeroizing::new([0; SEED_BYTES]);
        let mut os = Zeroizing::new([0; SEED_BYTES]);
        lock(&self.nsm).random(&mut *nsm)?;
        if *nsm == [0; SEED_BYTES] {
            return Err(NsmError::RandomZero.into());
        }
        self.entropy.fill(&mut *os)?;
        Ok([nsm, os])
    }

    fn new_secret(&self, name: &str) -> Result<Zeroizing<[u8; 32]>, Error> {
        let [nsm, os] = self.seeds()?;
        Ok(secret(&nsm, &os, name.as_bytes()))
    }

    fn new_key(&self, algorithm: Algorithm, name: &str, version: u32) -> Result<KeyPair, Error> {
        let [nsm, os] = self.seeds()?;
        Ok(KeyPair::generate(
            algorithm,
            &nsm,
            &os,
            &cbor::to_vec(&(name, version)),
        ))
    }

    /// Asks for a document and verifies that it is ours and says what it was asked to say.
    fn own_document(
        &self,
        public_key: Option<&[u8]>,
        user_data: Option<&[u8]>,
        nonce: &[u8],
        anchor: bool,
    ) -> Result<(Vec<u8>, Document), Error> {
        let mut nsm = lock(&self.nsm);
        let asked = self.boot_clock.now();
        let bytes = nsm.attest(public_key, user_data, Some(nonce))?;
        let answered = self.boot_clock.now();
        let document = nsm.verify_own(&bytes).map_err(NsmError::Document)?;
        let claims = [
            document.public_key.as_deref(),
            document.user_data.as_deref(),
            document.nonce.as_deref(),
        ];
        if claims != [public_key, user_data, Some(nonce)] {
            return Err(NsmError::DocumentContent.into());
        }
        if anchor {
            self.clock
                .anchor(&nsm, document.timestamp_ms, asked, answered)?;
        }
        Ok((bytes, document))
    }

    fn now(&self) -> Result<Bounds, Error> {
        self.clock.bounds(|| self.boot_clock.now())
    }

    fn committed(&self) -> Result<&Committed, Error> {
        self.committed.get().ok_or(Error::NotProvisioned)
    }

    fn provisioned(&self) -> Result<&Provisioned, Error> {
        self.provisioned
            .get()
            .ok_or_else(|| match self.committed.get() {
                None => Error::NotProvisioned,
                Some(_) => Error::StateAwaited(self.durable.waits_for()),
            })
    }

    /// Wipes every key and stops for good.
    fn halt(&self, error: Error) -> Error {
        if !self.halted.swap(true, Ordering::AcqRel) {
            if let Some(provisioned) = self.provisioned.get() {
                provisioned.wipe();
            }
            self.durable.wipe();
            (self.power_off)(&error);
        }
        error
    }
}

impl<N: Nsm> Platform for Enclave<N> {
    fn boot_id(&self) -> BootId {
        self.boot_id
    }

    fn now(&self) -> Result<Bounds, Error> {
        self.now()
    }

    fn fill(&self, out: &mut [u8]) -> Result<(), Error> {
        self.entropy.fill(out)
    }

    fn new_key(&self, algorithm: Algorithm, name: &str, version: u32) -> Result<KeyPair, Error> {
        self.new_key(algorithm, name, version)
    }

    fn new_secret(&self, name: &str) -> Result<Zeroizing<[u8; 32]>, Error> {
        self.new_secret(name)
    }

    fn document(
        &self,
        public_key: Option<&[u8]>,
        user_data: Option<&[u8]>,
        nonce: Option<&[u8]>,
    ) -> Result<Vec<u8>, Error> {
        let mut own = [0; 16];
        let nonce = match nonce {
            Some(nonce) => nonce,
            None => {
                self.entropy.fill(&mut own)?;
                &own
            }
        };
        self.own_document(public_key, user_data, nonce, true)
            .map(|(bytes, _)| bytes)
    }

    fn attested(&self, document: &[u8]) -> Result<Attested, state::Error> {
        let wrong = |why: String| state::Error::GenesisDocumentInvalid(why);
        let verified = lock(&self.nsm).verify_own(document);
        let document = verified.map_err(|error| wrong(error.to_string()))?;
        let pcr = |index| {
            let pcr = document.pcrs().get(index).copied();
            pcr.ok_or_else(|| wrong(format!("it has no PCR{index}")))
        };
        Ok(Attested {
            image: [pcr(0)?, pcr(1)?, pcr(2)?],
            pcr16: pcr(POLICY_PCR)?,
            user_data: document.user_data,
        })
    }

    fn kms(&self) -> &dyn Kms {
        &*self.kms
    }
}
