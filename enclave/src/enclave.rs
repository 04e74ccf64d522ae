use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use attestation::{Document, Evidence, POSSESSION_TAG, Possession};
use identity::cose::{self, Purpose};
use identity::succession::Order;
use identity::{BootId, Caller, Digest, PublicKey, Tee, cbor};
use policy::{Bundle, Mode};
use policy_engine::Rego;
use protocol::{Answer, Describe, Description, RecordEnd, Records, Request, Rotate, Rotated, Status};
use record::{Decision, End, Verdict};
use zeroize::Zeroizing;

use crate::cell::Cell;
use crate::clock::{Bounds, Clock};
use crate::identities::Identity;
use crate::keys::{KeyPair, SEED_BYTES};
use crate::nsm::PeerVerifier;
use crate::record::Record;
use crate::{BootClock, Entropy, Error, Nsm, NsmError};

/// How often the NSM is asked for the time.
pub const CLOCK_INTERVAL: Duration = Duration::from_secs(60);
const POLICY_PCR: u16 = 16;
const ALL_PCRS: u16 = 32;
/// What the hypervisor measures, and locks.
const MEASURED_PCRS: u8 = 16;
/// The event of an approval.
const APPROVAL_GRANT: &str = "approval.grant";
/// The event of a refusal has at most so many bytes without its place and signature, which are less than 512.
const MAX_REFUSAL: usize = 3584 - 128;
const NONCE_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// What the enclave runs on.
pub struct Machine<N> {
    /// The secure module.
    pub nsm: N,
    /// Time since boot.
    pub boot_clock: Box<dyn BootClock>,
    /// The operating system's randomness.
    pub entropy: Box<dyn Entropy>,
    /// Called once when the enclave must not go on; the keys are wiped already. A program powers off here.
    pub power_off: Box<dyn Fn(&Error) + Send + Sync>,
}

/// One boot of an enclave: at first without a policy, then with one, for good.
pub struct Enclave<N> {
    nsm: Mutex<N>,
    boot_clock: Box<dyn BootClock>,
    pub(crate) entropy: Box<dyn Entropy>,
    pub(crate) peers: PeerVerifier,
    power_off: Box<dyn Fn(&Error) + Send + Sync>,
    boot_id: BootId,
    clock: Clock,
    provisioning: Mutex<()>,
    cell: OnceLock<Cell>,
    halted: AtomicBool,
}

/// What came of a request, and what of it the record takes. The outcome must not leave before the decision is sealed.
#[derive(Debug)]
pub struct Handled {
    /// The answer, or why there is none.
    pub outcome: Result<Answer, Error>,
    /// What was decided, if anything was.
    pub decision: Option<Decision>,
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
            provisioning: Mutex::new(()),
            cell: OnceLock::new(),
            halted: AtomicBool::new(false),
        })
    }

    /// Asks the NSM for a document and verifies it, before anybody is served: to the root that belongs to this NSM, not of debug
    /// mode, with PCR0 to PCR15 locked. PCR16 must be missing yet: a register that is open shows in no document.
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

    /// Random for each boot.
    pub fn boot_id(&self) -> BootId {
        self.boot_id
    }

    /// The key that connections must prove, once there is a policy.
    pub(crate) fn proxy_key(&self) -> Option<&PublicKey> {
        self.cell.get().map(|cell| &cell.bundle.proxy_key.0)
    }

    /// Random bytes for the window.
    pub(crate) fn challenge(&self) -> Result<[u8; 32], Error> {
        let mut challenge = [0; 32];
        self.entropy.fill(&mut challenge)?;
        Ok(challenge)
    }

    /// Does what is asked of it over a connection that proved `proxy_key`.
    pub fn handle(&self, request: Request, proxy_key: &PublicKey) -> Handled {
        let (outcome, decision) = match self.admit(&request, proxy_key) {
            Ok(()) => self.decide(request, proxy_key),
            Err(error) => (Err(error), None),
        };
        let outcome = outcome.map_err(|error| if error == Error::SelfCheckFailed { self.halt(error) } else { error });
        Handled { outcome, decision }
    }

    fn admit(&self, request: &Request, proxy_key: &PublicKey) -> Result<(), Error> {
        if self.halted.load(Ordering::Acquire) {
            return Err(Error::Halted);
        }
        // The window closes on other keys; but a request may have waited in a lane while the policy came.
        if !request.traits().before_policy && self.cell()?.bundle.proxy_key.0 != *proxy_key {
            return Err(Error::ProxyKeyMismatch);
        }
        Ok(())
    }

    fn decide(&self, request: Request, proxy_key: &PublicKey) -> (Result<Answer, Error>, Option<Decision>) {
        let event = request.traits().event.unwrap_or_default();
        match request {
            Request::Status => (Ok(Answer::Status(self.status())), None),
            Request::Describe(of) => (self.describe(&of).map(Answer::Description), None),
            Request::Records { from } => (self.records(from).map(Answer::Records), None),
            Request::Provision { bundle, before } => match self.provision(&bundle, before, proxy_key) {
                Err(error) => (Err(error), None),
                // The record has begun already, and no line of it goes with this answer.
                Ok(()) => (Ok(Answer::Status(self.status())), None),
            },
            Request::Annex { signed } => self.recorded(event, "operator", |cell, _| {
                cell.load_annex(&signed)?;
                Ok(Answer::Status(self.status()))
            }),
            Request::Sign(sign) => self.recorded(event, "default", |cell, decision| self.sign(cell, sign, decision)),
            Request::Waiting { id } => (self.cell().and_then(|cell| self.waiting(cell, id)).map(Answer::Waiting), None),
            Request::Approve { jws } => {
                self.recorded(event, "approvers", |cell, decision| self.approve(cell, &jws, decision).map(Answer::Waiting))
            }
            Request::Exchange(exchange) => {
                self.recorded(event, "delegation", |cell, decision| self.exchange(cell, exchange, decision).map(Answer::Signed))
            }
            Request::Attest { of, nonce } => self.recorded(event, "callers", |cell, decision| {
                let evidence = self.attest(cell, &of, &nonce, decision)?;
                Ok(Answer::Evidence(protocol::Evidence { evidence }))
            }),
            Request::Rotate(rotate) => self
                .recorded(event, "rotation_callers", |cell, decision| self.rotate(cell, &rotate, decision).map(Answer::Rotated)),
        }
    }

    /// Does something of which the record shall know, whatever comes of it.
    fn recorded(
        &self,
        event_type: &str,
        rule: &str,
        work: impl FnOnce(&Cell, &mut Decision) -> Result<Answer, Error>,
    ) -> (Result<Answer, Error>, Option<Decision>) {
        let cell = match self.cell() {
            Ok(cell) => cell,
            Err(error) => return (Err(error), None),
        };
        let mut decision = cell.decision(event_type, rule);
        let outcome = work(cell, &mut decision);
        // Strangers could fill the record's disk with what means nobody, and callers with what they may not have, or with what waits already.
        if outcome.as_ref().is_err_and(|error| is_of_nobody(event_type, error)) {
            return (outcome, None);
        }
        if outcome.is_err() || decision.policy_decision == Verdict::Pending {
            match lock(&cell.refusals).record(event_type, decision.caller.as_ref(), self.boot_clock.now()) {
                None => return (outcome, None),
                Some(unrecorded) => decision.refusals_unrecorded = Some(unrecorded).filter(|unrecorded| *unrecorded > 0),
            }
        }
        if let Err(error) = &outcome {
            decision.shorten(MAX_REFUSAL);
            decision.policy_decision = Verdict::Deny;
            decision.refusal = Some(error.code().to_owned());
            if let Error::Denied(denied) = error {
                decision.policy_id = denied.rule().unwrap_or("default").to_owned();
            }
        }
        (outcome, Some(self.dated(cell, decision)))
    }

    /// Completes a decision with what is true at its end.
    fn dated(&self, cell: &Cell, mut decision: Decision) -> Decision {
        decision.annex = cell.annex_id();
        decision.timestamp = self.now().ok().map(|now| now.earliest);
        decision.policy_id = format!("{}@{}", decision.policy_id, &cell.policy.to_string()[..16]);
        decision
    }

    /// Gives decisions their place in the record, and signs it. If that fails, nothing that was decided may leave.
    pub(crate) fn seal(&self, decisions: Vec<Decision>) -> Result<Vec<Vec<u8>>, Error> {
        if decisions.is_empty() {
            return Ok(Vec::new());
        }
        self.cell()?.record.seal(decisions).map_err(|error| self.halt(error))
    }

    fn records(&self, from: u64) -> Result<Records, Error> {
        Ok(self.cell()?.record.since(from))
    }

    /// Asks the NSM for the time. Meant for one thread, once in [`CLOCK_INTERVAL`].
    pub fn refresh_clock(&self) -> Result<(), Error> {
        let mut nonce = [0; 16];
        self.entropy.fill(&mut nonce)?;
        self.own_document(None, None, &nonce, true).map(|_| ())
    }

    fn status(&self) -> Status {
        let can_sign = match self.cell.get() {
            None => Err(Error::NotProvisioned),
            Some(_) => self.now(),
        };
        Status {
            boot_id: self.boot_id,
            policy: self.cell.get().map(|cell| cell.policy.0),
            cannot_sign: can_sign.err().map(|error| error.code().to_owned()),
            tee: N::TEE,
            annex: self.cell.get().and_then(Cell::annex_id).map(|annex| annex.digest.0),
        }
    }

    /// Takes the policy, commits to it, and gives birth to its identities. From the first touch of PCR16 on, every failure is
    /// the end of this boot: a register cannot be extended twice to the same value.
    fn provision(&self, canonical: &[u8], before: Option<RecordEnd>, proxy_key: &PublicKey) -> Result<(), Error> {
        let _one_at_a_time = lock(&self.provisioning);
        if self.cell.get().is_some() {
            return Err(Error::AlreadyProvisioned);
        }
        let bundle = Bundle::from_canonical(canonical)?;
        if bundle.mode == Mode::Development && N::TEE != Tee::Mock {
            return Err(Error::DevelopmentBundle);
        }
        if bundle.proxy_key.0 != *proxy_key {
            return Err(Error::ProxyKeyMismatch);
        }
        let before = before.map(|before| self.record_end(before)).transpose()?;
        let rego = Rego::load(&bundle).map_err(|error| policy::Error::Malformed(error.to_string()))?;
        let cell = self.commit(bundle, canonical.to_vec(), rego, before).map_err(|error| self.halt(error))?;
        // `provisioning` is held and the cell was empty, so it still is.
        self.cell.set(cell).map_err(|_| Error::AlreadyProvisioned)
    }

    /// With what the proxy says that its record ended before this boot.
    fn record_end(&self, before: RecordEnd) -> Result<End, Error> {
        if before.boot_id == self.boot_id {
            return Err(Error::RecordEndInvalid("it is of this boot"));
        }
        if before.last > identity::json::MAX_SAFE_INTEGER {
            return Err(Error::RecordEndInvalid("its sequence number is beyond 2^53-1"));
        }
        Ok(End { boot_id: before.boot_id, last: before.last, leaf: Digest(before.leaf) })
    }

    fn commit(&self, bundle: Bundle, canonical: Vec<u8>, rego: Option<Rego>, before: Option<End>) -> Result<Cell, Error> {
        let policy = bundle.digest();
        {
            let mut nsm = lock(&self.nsm);
            if nsm.extend_pcr(POLICY_PCR, policy.digest().as_bytes())? != policy.pcr16() {
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
        let record = Record::new(self.new_key(identity::Algorithm::EdDSA, "record", 0)?, self.boot_id);
        let record_spki = record.public_key().to_spki();
        let born = |described: &policy::IdentityPolicy| {
            let key = self.new_key(described.algorithm, &described.name, 1)?;
            Identity::new(described, &bundle, &record_spki, key)
        };
        let identities = bundle.identities.iter().map(born).collect::<Result<Vec<_>, Error>>()?;
        let cell = Cell::new(bundle, canonical, rego, identities, record);
        let born = Decision { before, ..cell.decision("enclave.boot", "bundle") };
        cell.record.seal(vec![self.dated(&cell, born)])?;
        Ok(cell)
    }

    fn new_key(&self, algorithm: identity::Algorithm, name: &str, version: u32) -> Result<KeyPair, Error> {
        let mut nsm = Zeroizing::new([0; SEED_BYTES]);
        let mut os = Zeroizing::new([0; SEED_BYTES]);
        lock(&self.nsm).random(&mut *nsm)?;
        if *nsm == [0; SEED_BYTES] {
            return Err(NsmError::RandomZero.into());
        }
        self.entropy.fill(&mut *os)?;
        Ok(KeyPair::generate(algorithm, &nsm, &os, &cbor::to_vec(&(name, version))))
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
        let said = [document.public_key.as_deref(), document.user_data.as_deref(), document.nonce.as_deref()];
        if said != [public_key, user_data, Some(nonce)] {
            return Err(NsmError::DocumentContent.into());
        }
        if anchor {
            self.clock.anchor(&nsm, document.timestamp_ms, asked, answered)?;
        }
        Ok((bytes, document))
    }

    pub(crate) fn now(&self) -> Result<Bounds, Error> {
        self.clock.bounds(|| self.boot_clock.now())
    }

    fn cell(&self) -> Result<&Cell, Error> {
        self.cell.get().ok_or(Error::NotProvisioned)
    }

    fn attest(&self, cell: &Cell, of: &Describe, nonce: &[u8], decision: &mut Decision) -> Result<Vec<u8>, Error> {
        decision.caller = Some(Caller::Asserted(of.caller.clone()));
        let slot = cell.find(of)?;
        if !NONCE_BYTES.contains(&nonce.len()) {
            return Err(Error::NonceSize);
        }
        // The NSM may be slow; nobody else waits for it, so no lock is held while it is asked.
        let (described, binding) = {
            let identity = read(slot);
            let identity = identity.as_ref().ok_or(Error::Halted)?;
            crate::signing::describe(identity, decision);
            cell.admit(identity, &Caller::Asserted(of.caller.clone()))?;
            (identity.current.description.clone(), identity.current.binding.clone())
        };
        let (bytes, document) = self.own_document(Some(&described.spki), Some(binding.user_data()), nonce, false)?;
        let possession = Possession { tag: POSSESSION_TAG.into(), nonce: nonce.to_vec(), document: document.payload_digest().0 };
        let identity = read(slot);
        let current = &identity.as_ref().ok_or(Error::Halted)?.current;
        if current.description != described {
            return Err(Error::RotatedMeanwhile);
        }
        let possession = cose::sign(Purpose::POSSESSION, &cbor::to_vec(&possession), &current.key)?;
        Ok(Evidence::new(bytes, described, cell.canonical.clone(), cell.record.public_key().to_spki(), possession).to_vec())
    }

    fn describe(&self, of: &Describe) -> Result<Description, Error> {
        let cell = self.cell()?;
        let slot = read(cell.find(of)?);
        let identity = slot.as_ref().ok_or(Error::Halted)?;
        // Whoever proves itself may be anybody, and must know for which boot and which version it signs.
        if identity.policy.callers.proven.is_empty() {
            cell.admit(identity, &Caller::Asserted(of.caller.clone()))?;
        }
        Ok(self.description(identity))
    }

    fn description(&self, identity: &Identity) -> Description {
        Description { name: identity.policy.name.clone(), versions: identity.versions(), tee: N::TEE, boot_id: self.boot_id }
    }

    fn rotate(&self, cell: &Cell, rotate: &Rotate, decision: &mut Decision) -> Result<Rotated, Error> {
        let caller = Caller::Asserted(rotate.of.caller.clone());
        decision.caller = Some(caller.clone());
        let slot = cell.find(&rotate.of)?;
        let (algorithm, name, version) = {
            let identity = read(slot);
            let identity = identity.as_ref().ok_or(Error::Halted)?;
            crate::signing::describe(identity, decision);
            let annex = cell.annex();
            match &rotate.order {
                Some(order) => {
                    decision.policy_id = "operator".into();
                    self.check_order(order, &cell.bundle, identity, self.now()?)?;
                }
                None if policy_engine::may_rotate(&identity.policy, annex.as_ref().map(|annex| &annex.0), &caller) => {}
                None => return Err(Error::RotationNotAllowed),
            }
            (identity.policy.algorithm, identity.policy.name.clone(), identity.current.description.version)
        };
        // The NSM may be slow; signing with the old key goes on meanwhile.
        let next = version.checked_add(1).ok_or(Error::OrderInvalid("no version is left"))?;
        let key = self.new_key(algorithm, &name, next)?;
        let mut slot = slot.write().unwrap_or_else(PoisonError::into_inner);
        let identity = slot.as_mut().ok_or(Error::Halted)?;
        if identity.current.description.version != version {
            return Err(Error::RotatedMeanwhile);
        }
        let statement = identity.rotate(&cell.bundle, &cell.record.public_key().to_spki(), key, self.now()?.earliest)?;
        Ok(Rotated { description: self.description(identity), statement })
    }

    fn check_order(&self, order: &[u8], bundle: &Bundle, identity: &Identity, now: Bounds) -> Result<(), Error> {
        let order =
            Order::verify(order, &bundle.operator_key.0).map_err(|_| Error::OrderInvalid("not signed by the operator"))?;
        if order.identity != identity.policy.name {
            return Err(Error::OrderInvalid("for another identity"));
        }
        if order.boot_id != self.boot_id {
            return Err(Error::OrderInvalid("for another boot"));
        }
        if order.version != identity.current.description.version {
            return Err(Error::OrderInvalid("for another version of the key"));
        }
        if now.latest.0 > order.not_after {
            return Err(Error::OrderInvalid("it came too late"));
        }
        Ok(())
    }

    /// Wipes every key and stops for good.
    fn halt(&self, error: Error) -> Error {
        if !self.halted.swap(true, Ordering::AcqRel) {
            if let Some(cell) = self.cell.get() {
                cell.wipe();
            }
            (self.power_off)(&error);
        }
        error
    }
}

/// Whether a refusal is of a key or an id that names nobody and nothing here.
fn is_of_nobody(event_type: &str, error: &Error) -> bool {
    match error {
        Error::ProofOfNobody(_) | Error::ApprovalOfNobody(_) => true,
        // Who asks for a signature with a wrong id is a caller; who approves nothing may be anybody with an approval of before.
        Error::ApprovalUnknown => event_type == APPROVAL_GRANT,
        _ => false,
    }
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
