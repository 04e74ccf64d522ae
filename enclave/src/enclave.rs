use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use attestation::policy::{Asked, Bundle, Caller, Mode};
use attestation::{Document, Evidence, POSSESSION_TAG, Possession};
use identity::cose::{self, Purpose};
use identity::succession::Order;
use identity::token::{Claims, Vouch};
use identity::{Digest, Intent, Payload, PublicKey, Tee, cbor, credential, token};
use protocol::{Answer, Describe, Description, Format, Request, Rotate, Rotated, Sign, Signed, Status};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::clock::{Bounds, Clock};
use crate::identities::{Identity, Version};
use crate::keys::{KeyPair, SEED_BYTES};
use crate::{BootClock, Entropy, Error, Nsm, NsmError};

/// How often the NSM is asked for the time.
pub const CLOCK_INTERVAL: Duration = Duration::from_secs(60);
const POLICY_PCR: u16 = 16;
const ALL_PCRS: u16 = 32;
/// What the hypervisor measures, and locks.
const MEASURED_PCRS: u8 = 16;
/// Base64url makes four bytes of three, and the rest of a token is far below 8 KiB, so this fits through the window.
const MAX_PAYLOAD: usize = 32 * 1024;
const MAX_AUDIENCE: usize = 1024;
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
    entropy: Box<dyn Entropy>,
    power_off: Box<dyn Fn(&Error) + Send + Sync>,
    boot_id: [u8; 16],
    clock: Clock,
    provisioning: Mutex<()>,
    cell: OnceLock<Cell>,
    halted: AtomicBool,
}

/// What a policy brings to life.
struct Cell {
    bundle: Bundle,
    canonical: Vec<u8>,
    policy: Digest<48>,
    identities: BTreeMap<String, RwLock<Option<Identity>>>,
}

impl<N: Nsm> Enclave<N> {
    /// Boots: no identity, no key, no time.
    pub fn boot(machine: Machine<N>) -> Result<Self, Error> {
        let mut boot_id = [0; 16];
        machine.entropy.fill(&mut boot_id)?;
        Ok(Self {
            nsm: Mutex::new(machine.nsm),
            boot_clock: machine.boot_clock,
            entropy: machine.entropy,
            power_off: machine.power_off,
            boot_id,
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
    pub fn boot_id(&self) -> [u8; 16] {
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
    pub fn handle(&self, request: Request, proxy_key: &PublicKey) -> Result<Answer, Error> {
        if self.halted.load(Ordering::Acquire) {
            return Err(Error::Halted);
        }
        // The window closes on other keys; but a request may have waited in a lane while the policy came.
        let answered_to_all = matches!(request, Request::Status | Request::Provision { .. });
        if !answered_to_all && self.cell()?.bundle.proxy_key.0 != *proxy_key {
            return Err(Error::ProxyKeyMismatch);
        }
        let outcome = match request {
            Request::Status => Ok(Answer::Status(self.status())),
            Request::Provision { bundle } => self.provision(&bundle, proxy_key).map(|()| Answer::Status(self.status())),
            Request::Sign(sign) => self.sign(sign).map(Answer::Signed),
            Request::Attest { of, nonce } => {
                self.attest(&of, &nonce).map(|evidence| Answer::Evidence(protocol::Evidence { evidence }))
            }
            Request::Describe(of) => self.describe(&of).map(Answer::Description),
            Request::Rotate(rotate) => self.rotate(&rotate).map(Answer::Rotated),
        };
        outcome.map_err(|error| if error == Error::SelfCheckFailed { self.halt(error) } else { error })
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
        }
    }

    /// Takes the policy, commits to it, and gives birth to its identities. From the first touch of PCR16 on, every failure is
    /// the end of this boot: a register cannot be extended twice to the same value.
    fn provision(&self, canonical: &[u8], proxy_key: &PublicKey) -> Result<(), Error> {
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
        let cell = self.commit(bundle, canonical.to_vec()).map_err(|error| self.halt(error))?;
        // `provisioning` is held and the cell was empty, so it still is.
        self.cell.set(cell).map_err(|_| Error::AlreadyProvisioned)
    }

    fn commit(&self, bundle: Bundle, canonical: Vec<u8>) -> Result<Cell, Error> {
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
        let born = |described: &attestation::policy::IdentityPolicy| {
            let key = self.new_key(described.algorithm, &described.name, 1)?;
            let identity = Identity::new(described, &bundle, key)?;
            Ok((described.name.clone(), RwLock::new(Some(identity))))
        };
        let identities = bundle.identities.iter().map(born).collect::<Result<_, Error>>()?;
        Ok(Cell { policy: policy.digest(), bundle, canonical, identities })
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
        drop(nsm);
        let said = [document.public_key.as_deref(), document.user_data.as_deref(), document.nonce.as_deref()];
        if said != [public_key, user_data, Some(nonce)] {
            return Err(NsmError::DocumentContent.into());
        }
        if anchor {
            self.clock.anchor(document.timestamp_ms, asked, answered)?;
        }
        Ok((bytes, document))
    }

    fn now(&self) -> Result<Bounds, Error> {
        self.clock.bounds(|| self.boot_clock.now())
    }

    fn cell(&self) -> Result<&Cell, Error> {
        self.cell.get().ok_or(Error::NotProvisioned)
    }

    fn sign(&self, sign: Sign) -> Result<Signed, Error> {
        let cell = self.cell()?;
        let caller = caller(&sign.of);
        let slot = cell.find(&sign.of, &caller)?;
        let intent = Intent::new(sign.action, sign.target, sign.resource)?;
        if sign.payload.len() > MAX_PAYLOAD {
            return Err(Error::PayloadTooLarge);
        }
        let payload = Payload::parse(sign.payload.as_bytes())?;
        check_audience(sign.audience.as_deref())?;
        if sign.validity_seconds == Some(0) {
            return Err(Error::ValidityInvalid);
        }
        let asked = Asked {
            intent: &intent,
            payload: &payload,
            audience: sign.audience.as_deref(),
            validity_seconds: sign.validity_seconds,
        };
        let slot = read(slot);
        let identity = slot.as_ref().ok_or(Error::Halted)?;
        let allowed = identity.policy.decide(&caller, &asked)?;
        let version = &identity.current;
        let mut id = [0; 16];
        self.entropy.fill(&mut id)?;
        let content = Content {
            id: uuid::Builder::from_random_bytes(id).into_uuid(),
            now: self.now()?.earliest.0,
            validity_seconds: i64::from(allowed.validity_seconds),
            intent,
            payload,
            audience: sign.audience,
            tee: N::TEE,
        };
        let (signature_id, expires_at) = (content.id.to_string(), content.now + content.validity_seconds);
        let signed = match sign.format {
            Format::VouchJwt => content.token(version)?,
            Format::VouchCredential => content.credential(version)?,
        };
        Ok(Signed {
            signed,
            did: version.did.to_string(),
            signature_id,
            expires_at,
            key_version: version.description.version,
            identity: identity.policy.name.clone(),
            rule: allowed.rule.to_owned(),
        })
    }

    fn attest(&self, of: &Describe, nonce: &[u8]) -> Result<Vec<u8>, Error> {
        let cell = self.cell()?;
        let caller = caller(of);
        let slot = cell.find(of, &caller)?;
        if !NONCE_BYTES.contains(&nonce.len()) {
            return Err(Error::NonceSize);
        }
        // The NSM may be slow; nobody else waits for it, so no lock is held while it is asked.
        let (described, binding) = {
            let identity = read(slot);
            let identity = identity.as_ref().ok_or(Error::Halted)?;
            identity.admit(&caller)?;
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
        Ok(Evidence::new(bytes, described, cell.canonical.clone(), possession).to_vec())
    }

    fn describe(&self, of: &Describe) -> Result<Description, Error> {
        let caller = caller(of);
        let slot = read(self.cell()?.find(of, &caller)?);
        let identity = slot.as_ref().ok_or(Error::Halted)?;
        identity.admit(&caller)?;
        Ok(self.description(identity))
    }

    fn description(&self, identity: &Identity) -> Description {
        Description { name: identity.policy.name.clone(), versions: identity.versions(), tee: N::TEE, boot_id: self.boot_id }
    }

    fn rotate(&self, rotate: &Rotate) -> Result<Rotated, Error> {
        let cell = self.cell()?;
        let caller = caller(&rotate.of);
        let slot = cell.find(&rotate.of, &caller)?;
        let (algorithm, name, version) = {
            let identity = read(slot);
            let identity = identity.as_ref().ok_or(Error::Halted)?;
            match &rotate.order {
                Some(order) => self.check_order(order, &cell.bundle, identity, self.now()?)?,
                None if identity.policy.may_rotate(&caller) => {}
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
        let statement = identity.rotate(&cell.bundle, key, self.now()?.earliest)?;
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
            for slot in self.cell.get().into_iter().flat_map(|cell| cell.identities.values()) {
                *slot.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
            (self.power_off)(&error);
        }
        error
    }
}

impl Cell {
    /// The identity that is meant: the one named, or the only one that the caller may use.
    fn find(&self, of: &Describe, caller: &Caller) -> Result<&RwLock<Option<Identity>>, Error> {
        if let Some(name) = &of.identity {
            return self.identities.get(name).ok_or(Error::UnknownIdentity);
        }
        let mut usable = self.bundle.identities.iter().filter(|identity| identity.callers.admit(caller));
        match (usable.next(), usable.count()) {
            (Some(one), 0) => self.identities.get(&one.name).ok_or(Error::UnknownIdentity),
            (None, _) => Err(attestation::policy::Denied::CallerNotAllowed.into()),
            (Some(_), others) => Err(Error::IdentityRequired(others + 1)),
        }
    }
}

/// What is about to be signed.
struct Content {
    id: Uuid,
    now: i64,
    validity_seconds: i64,
    intent: Intent,
    payload: Payload,
    audience: Option<String>,
    tee: Tee,
}

impl Content {
    fn token(self, version: &Version) -> Result<String, Error> {
        let claims = Claims {
            iss: version.did.clone(),
            sub: version.did.clone(),
            aud: self.audience,
            iat: self.now,
            nbf: self.now,
            exp: self.now + self.validity_seconds,
            jti: self.id,
            binding: version.binding_digest,
            tee: self.tee,
            vouch: Vouch { version: "1.0".into(), payload: self.payload, intent: self.intent },
        };
        token::sign(&claims, &version.kid, &version.key)
    }

    fn credential(self, version: &Version) -> Result<String, Error> {
        let content = credential::Content {
            id: self.id,
            issuer: version.did.clone(),
            valid_from: identity::UnixSeconds(self.now),
            valid_until: identity::UnixSeconds(self.now + self.validity_seconds),
            intent: self.intent,
            payload: self.payload,
            audience: self.audience,
            binding: version.binding_digest,
            tee: self.tee,
        };
        Ok(credential::sign(content, &version.kid, &version.key)?.to_string())
    }
}

fn check_audience(audience: Option<&str>) -> Result<(), Error> {
    let good = |text: &str| !text.is_empty() && text.len() <= MAX_AUDIENCE && !text.chars().any(char::is_control);
    if audience.is_none_or(good) { Ok(()) } else { Err(Error::AudienceInvalid) }
}

fn caller(of: &Describe) -> Caller {
    match &of.caller {
        protocol::Caller::Unix { uid, gid } => Caller::Unix { uid: *uid, gid: *gid },
        protocol::Caller::Named(name) => Caller::Named(name.clone()),
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
