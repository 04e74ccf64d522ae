//! Credentials of others: what opens them, who carries them to their services, and which calls are
//! under way.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use broker::{
    Envelope, Epoch, Epochs, IngressKey, Lease, Minting, Omni, Place, SealingKey, Tokens,
};
use identity::json::MAX_SAFE_INTEGER;
use identity::{Digest, PublicKey, UnixSeconds, sha256};
use minicbor::bytes::ByteVec;
use policy::{Budget, Bundle, Grant, Price, RevokedCredential, Scrub, Service, ServiceRule};
use policy_engine::{Denied, KeptBudget, Reservation, Taken, Usage};
use protocol::Ticket;
use record::Decision;
use upstream::{Call, Ended, Ending, Revoked, Setup, TokenSetup, Unavailable};
use zeroize::Zeroizing;

use crate::Error;
use crate::authority::Authority;
use crate::budgets::SealedBudget;
use crate::sync::{Mutex, RwLock, lock, read, write};

/// Calls that are under way, or whose end is not known.
const MAX_CALLS: usize = 16 * 1024;
/// What is said and not heard yet.
const MAX_SAID: usize = 256;
/// Whoever made a call asks so soon for its end to be recorded; else it is recorded all the same.
const ASKED_WITHIN: Duration = Duration::from_secs(3);

/// Carries credentials to one service: the way to the process that ends TLS to it.
pub trait Courier: Send + Sync {
    /// Says which service it is for.
    fn begin(&self, setup: Setup) -> Result<(), Unavailable>;
    /// Lets a call be made.
    fn call(&self, call: Call) -> Result<(), Unavailable>;
    /// Ends what is under way with a credential.
    fn revoke(&self, revoked: Revoked) -> Result<(), Unavailable>;
}

impl Courier for upstream::Client {
    fn begin(&self, setup: Setup) -> Result<(), Unavailable> {
        self.begin(setup)
    }

    fn call(&self, call: Call) -> Result<(), Unavailable> {
        self.call(call)
    }

    fn revoke(&self, revoked: Revoked) -> Result<(), Unavailable> {
        self.revoke(revoked)
    }
}

/// The way to the ingress process, which ends with it.
pub trait Ingress: Send + Sync {
    /// Tells it what it is, once.
    fn begin(&self, setup: &ingress::Setup) -> Result<(), Error>;
}

impl Ingress for ingress::Client {
    fn begin(&self, setup: &ingress::Setup) -> Result<(), Error> {
        self.begin(setup).map_err(|_| Error::IngressGone)
    }
}

/// The ingress process, where the bundle has agents come through it.
pub(crate) struct Entrance {
    /// What it shares with this process.
    pub(crate) key: IngressKey,
    /// Under which agents meet it.
    pub(crate) authority: Authority,
    /// It ends when this is dropped.
    pub(crate) _process: Box<dyn Ingress>,
}

/// What the process of a service says, or that it says nothing any more.
#[derive(Debug)]
pub enum FromService {
    /// A call ended, as the process of the service of this place says.
    Ended(usize, Ended),
    /// The process of the service of this place in the bundle has ended, or said nonsense.
    Gone(usize),
}

impl FromService {
    /// Where it is said, and where it is heard. When much waits, the processes wait.
    pub fn channel() -> (SyncSender<Self>, Receiver<Self>) {
        sync_channel(MAX_SAID)
    }
}

/// A JWT of a GitHub App.
struct AppProof {
    version: u64,
    signed: UnixSeconds,
    jwt: Zeroizing<String>,
}

/// A JWT of an App is shown so long, of the nine minutes for which it is good.
const SHOWN_FOR: i64 = 180;

/// The highest versions of one credential in this boot.
#[derive(Debug, Clone, Copy, Default)]
struct Versions {
    /// That the operator ordered to be kept.
    ordered: u64,
    /// That was opened: an older one is not used any more.
    seen: u64,
}

/// Refuses a version that is older than one that is known.
fn refuse_older(known: u64, version: u64) -> Result<(), Error> {
    if version < known {
        return Err(Error::CredentialOutdated { version, known });
    }
    Ok(())
}

/// What an enclave has to do with credentials, if its bundle names services.
pub(crate) struct Credentials {
    operator: Omni,
    secrets: RwLock<Option<Secrets>>,
    services: Vec<ServiceState>,
    /// Of each identity's credential for a service.
    versions: Mutex<BTreeMap<(String, String), Versions>>,
    /// What GitHub Apps show for themselves, by identity and service: signed once in a while.
    apps: Mutex<BTreeMap<(String, String), AppProof>>,
    calls: Mutex<BTreeMap<Ticket, OpenCall>>,
    /// Revocations of which the processes of services have not been told yet: by place.
    untold: Mutex<Vec<(usize, Revoked)>>,
    entrance: Option<Entrance>,
    /// The last one that was taken in this boot.
    lease: Mutex<Leased>,
}

/// While which lease credentials are used.
#[derive(Default)]
struct Leased {
    lease: Option<Lease>,
    /// Whether what was under way when it ended has been ended.
    is_over: bool,
}

/// What is wiped at the end of the boot.
struct Secrets {
    sealing: SealingKey,
    /// Oldest first; the last one seals.
    epochs: Vec<Epoch>,
}

/// A service: by its place in the bundle.
pub(crate) struct ServiceState {
    courier: Box<dyn Courier>,
    /// What was used of its rules' limits in this boot, by identity.
    usage: BTreeMap<String, Mutex<Usage>>,
}

/// What a call takes of its rule's limits, until it is known what it took.
pub(crate) struct Reserved {
    /// Whose limits.
    pub(crate) identity: String,
    /// Of which rule.
    pub(crate) rule: ServiceRule,
    /// What is counted meanwhile.
    pub(crate) reservation: Reservation,
    /// What the model costs, if that is known.
    pub(crate) price: Option<Price>,
    /// The most that it can take.
    pub(crate) most: Tokens,
}

impl Reserved {
    /// What it took: what the service says, nothing if nothing came of it, and else all that was reserved.
    fn taken(&self, ended: &Ended) -> Tokens {
        let was_sent = ended.sent > 0 || ended.status.is_some();
        let was_refused = ended.status.is_some_and(|status| status / 100 == 4);
        let is_whole = ended.ending == Ending::Complete;
        match ended.tokens {
            // Of an answer that broke off not all was said.
            Some([input, output]) if is_whole => Tokens { input, output },
            None if is_whole && was_refused => Tokens::default(),
            _ if !was_sent => Tokens::default(),
            _ => self.most,
        }
    }
}

/// A call whose end is awaited.
struct OpenCall {
    place: usize,
    /// What it takes of limits, if it is counted by more than being one.
    reserved: Option<Box<Reserved>>,
    /// What the record will learn of its end; how it ended is in it once it has.
    decision: Decision,
    /// When it ended.
    ended: Option<Instant>,
}

impl Credentials {
    /// Tells each courier which service it is for. `k3` are the keys that open credentials, oldest
    /// first; the last one seals.
    pub(crate) fn new(
        bundle: &Bundle,
        couriers: Vec<Box<dyn Courier>>,
        k3: Vec<Epoch>,
    ) -> Result<Self, Error> {
        let services = bundle.services.iter().zip(couriers);
        let services =
            services.map(|(service, courier)| ServiceState::new(bundle, service, courier));
        Ok(Self {
            operator: Omni::of_operator(&bundle.operator_key.0),
            secrets: RwLock::new(Some(Secrets {
                sealing: SealingKey::generate()?,
                epochs: k3,
            })),
            services: services.collect::<Result<_, _>>()?,
            versions: Mutex::default(),
            apps: Mutex::default(),
            calls: Mutex::default(),
            untold: Mutex::default(),
            entrance: None,
            lease: Mutex::default(),
        })
    }

    /// What was used of budgets before this boot counts in it.
    pub(crate) fn restore(&mut self, bundle: &Bundle, kept: &[SealedBudget], now: UnixSeconds) {
        for (service, state) in bundle.services.iter().zip(&mut self.services) {
            if service.budget != Some(Budget::AcrossBoots) {
                continue;
            }
            for (identity, usage) in &mut state.usage {
                let of_it = kept
                    .iter()
                    .filter_map(|one| one.of(identity, &service.name));
                let of_it: Vec<KeptBudget> = of_it.collect();
                *usage = Mutex::new(Usage::restored(&service.rules, &of_it, now));
            }
        }
    }

    /// What a seal says of budgets that outlive the boot.
    pub(crate) fn budgets(&self, bundle: &Bundle, now: UnixSeconds) -> Vec<SealedBudget> {
        let mut all = Vec::new();
        for (service, state) in bundle.services.iter().zip(&self.services) {
            if service.budget != Some(Budget::AcrossBoots) {
                continue;
            }
            for (identity, usage) in &state.usage {
                let kept = lock(usage).keep(now, &service.rules);
                let kept = kept.into_iter();
                all.extend(kept.map(|kept| SealedBudget::new(identity, &service.name, kept)));
            }
        }
        all
    }

    /// Whether a budget has room that is to be sealed before it is used.
    pub(crate) fn want_slices(&self) -> bool {
        let mut usages = self.services.iter().flat_map(|state| state.usage.values());
        usages.any(|usage| lock(usage).wants_slices())
    }

    /// The last seal is stored.
    pub(crate) fn budgets_stored(&self) {
        let usages = self.services.iter().flat_map(|state| state.usage.values());
        usages.for_each(|usage| lock(usage).stored());
    }

    /// The same, with an ingress process.
    pub(crate) fn with_entrance(self, entrance: Option<Entrance>) -> Self {
        Self { entrance, ..self }
    }

    /// The ingress process.
    pub(crate) fn entrance(&self) -> Result<&Entrance, Error> {
        self.entrance.as_ref().ok_or(Error::NoAuthority)
    }

    pub(crate) fn operator(&self) -> &Omni {
        &self.operator
    }

    /// The actor that an identity is.
    pub(crate) fn actor(&self, identity: &str) -> Omni {
        self.operator.child(identity)
    }

    /// Public half of the key to which credentials are sealed.
    pub(crate) fn sealing_key(&self) -> Result<Vec<u8>, Error> {
        let secrets = read(&self.secrets);
        let secrets = secrets.as_ref().ok_or(Error::Halted)?;
        Ok(secrets.sealing.public().to_vec())
    }

    /// Which keys K3 there are.
    pub(crate) fn epochs(&self) -> Result<Epochs, Error> {
        let secrets = read(&self.secrets);
        let epochs = &secrets.as_ref().ok_or(Error::Halted)?.epochs;
        match (epochs.first(), epochs.last()) {
            (Some(first), Some(last)) => Ok(Epochs {
                lowest: first.number,
                current: last.number,
            }),
            _ => Err(Error::Halted),
        }
    }

    /// The keys K3 that there shall be; `new_key` makes the one that there is not yet.
    pub(crate) fn next_epochs(
        &self,
        wanted: Epochs,
        new_key: impl FnOnce() -> Result<Zeroizing<[u8; 32]>, Error>,
    ) -> Result<Vec<Epoch>, Error> {
        let now = self.epochs()?;
        now.check_next(wanted)?;
        let mut next = {
            let secrets = read(&self.secrets);
            let secrets = secrets.as_ref().ok_or(Error::Halted)?;
            let kept = secrets.epochs.iter();
            let kept = kept.filter(|epoch| epoch.number >= wanted.lowest);
            // With a place for one more: what grows leaves keys behind.
            let mut next = Vec::with_capacity(secrets.epochs.len() + 1);
            next.extend(kept.map(|epoch| Epoch {
                number: epoch.number,
                key: epoch.key.clone(),
            }));
            next
        };
        if wanted.current > now.current {
            next.push(Epoch {
                number: wanted.current,
                key: new_key()?,
            });
        }
        Ok(next)
    }

    /// These keys K3 open credentials from now on, and no others.
    pub(crate) fn set_epochs(&self, epochs: Vec<Epoch>) -> Result<Epochs, Error> {
        write(&self.secrets).as_mut().ok_or(Error::Halted)?.epochs = epochs;
        self.epochs()
    }

    /// A credential that was opened, under the key K3 of now.
    pub(crate) fn rewrap(
        &self,
        envelope: &Envelope,
        identity: &str,
        service: &Service,
        nonce: [u8; 12],
    ) -> Result<Envelope, Error> {
        let secret = self.open(envelope, identity, service)?;
        let secrets = read(&self.secrets);
        let secrets = secrets.as_ref().ok_or(Error::Halted)?;
        let epoch = secrets.epochs.last().ok_or(Error::Halted)?;
        let actor = self.actor(identity);
        let upstream = bound_to(service);
        let place = self.place(&actor, service, &upstream);
        let version = envelope.version;
        Ok(Envelope::seal(epoch, version, place, &secret, nonce)?)
    }

    /// Where the credential of an actor belongs.
    fn place<'a>(&'a self, actor: &'a Omni, service: &'a Service, upstream: &'a str) -> Place<'a> {
        Place {
            operator: &self.operator,
            actor,
            service: &service.name,
            upstream,
        }
    }

    /// The credential of an order whose signature was verified, as it will be kept.
    pub(crate) fn seal(
        &self,
        order: &broker::Order,
        service: &Service,
        nonce: [u8; 12],
    ) -> Result<Envelope, Error> {
        let secrets = read(&self.secrets);
        let secrets = secrets.as_ref().ok_or(Error::Halted)?;
        let secret = order.open(&secrets.sealing)?;
        let upstream = bound_to(service);
        let place = self.place(&order.actor, service, &upstream);
        let epoch = secrets.epochs.last().ok_or(Error::Halted)?;
        let sealed = Envelope::seal(epoch, order.version, place, &secret, nonce)?;
        Ok(sealed)
    }

    /// Opens the credential of an identity for a service.
    pub(crate) fn open(
        &self,
        envelope: &Envelope,
        identity: &str,
        service: &Service,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let secrets = read(&self.secrets);
        let secrets = secrets.as_ref().ok_or(Error::Halted)?;
        let actor = self.actor(identity);
        let upstream = bound_to(service);
        let place = self.place(&actor, service, &upstream);
        let mut epochs = secrets.epochs.iter();
        let epoch = epochs.find(|epoch| epoch.number == envelope.epoch);
        let unknown = broker::Error::EnvelopeUnopened("it is of an epoch that is not known");
        Ok(envelope.open(epoch.ok_or(unknown)?, place)?)
    }

    /// With what a token is asked for, where one is put in the place of this credential.
    pub(crate) fn minting(
        &self,
        service: &Service,
        (identity, version): (&str, u64),
        secret: &[u8],
        now: UnixSeconds,
    ) -> Result<Option<Minting>, Error> {
        let Some(source) = &service.token else {
            return Ok(None);
        };
        if source.grant != Grant::GithubApp {
            return Ok(Some(Minting::new(source, secret, now)?));
        }
        let mut apps = lock(&self.apps);
        let place = (identity.to_owned(), service.name.clone());
        let is_good = |proof: &AppProof| {
            proof.version == version && (0..SHOWN_FOR).contains(&(now.0 - proof.signed.0))
        };
        if let Some(proof) = apps.get(&place).filter(|proof| is_good(proof)) {
            return Ok(Some(Minting::of(source, proof.jwt.clone(), None)));
        }
        let minting = Minting::new(source, secret, now)?;
        let proof = AppProof {
            version,
            signed: now,
            jwt: minting.shown.clone(),
        };
        apps.insert(place, proof);
        Ok(Some(minting))
    }

    /// Remembers a version that was opened; refuses one that is older than another that was.
    pub(crate) fn see(&self, identity: &str, service: &str, version: u64) -> Result<(), Error> {
        self.versions(identity, service, |versions| {
            refuse_older(versions.seen, version)?;
            versions.seen = version;
            Ok(())
        })
    }

    /// Remembers a version that is to be kept; refuses one that is older than what was ordered or opened. Older ones are
    /// used until it is kept: whoever is to keep it may be cut off.
    pub(crate) fn order(&self, identity: &str, service: &str, version: u64) -> Result<(), Error> {
        self.versions(identity, service, |versions| {
            refuse_older(versions.ordered.max(versions.seen), version)?;
            versions.ordered = version;
            Ok(())
        })
    }

    /// What was ordered is kept: it counts as if it had been opened.
    pub(crate) fn keep(&self, identity: &str, service: &str, version: u64) -> Result<(), Error> {
        self.versions(identity, service, |versions| {
            // One that was sealed elsewhere counts when it is used.
            if version <= versions.ordered {
                versions.seen = versions.seen.max(version);
            }
            Ok(())
        })
    }

    fn versions(
        &self,
        identity: &str,
        service: &str,
        change: impl FnOnce(&mut Versions) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut all = lock(&self.versions);
        // As many as there are identities and services: what is remembered was ordered, or opened.
        let versions = all.entry((identity.to_owned(), service.to_owned()));
        change(versions.or_default())
    }

    /// The service of a place.
    pub(crate) fn service(&self, place: usize) -> Result<&ServiceState, Error> {
        self.services.get(place).ok_or(Error::UnknownService)
    }

    /// Lets a call be made; `decision` is what the record will learn of its end, but for how it ends.
    ///
    /// `reserved` is what it takes of limits, if that is settled at its end; it comes back with an error.
    pub(crate) fn begin(
        &self,
        place: usize,
        call: Call,
        decision: Decision,
        reserved: Option<Box<Reserved>>,
    ) -> Result<(), (Error, Option<Box<Reserved>>)> {
        let ticket = call.ticket;
        let service = match self.service(place) {
            Ok(service) => service,
            Err(error) => return Err((error, reserved)),
        };
        {
            let mut calls = lock(&self.calls);
            if calls.len() >= MAX_CALLS {
                return Err((Error::Busy, reserved));
            }
            let call = OpenCall {
                place,
                reserved,
                decision,
                ended: None,
            };
            calls.insert(ticket, call);
        }
        let told = service.courier.call(call);
        told.map_err(|error| {
            let call = lock(&self.calls).remove(&ticket);
            let error = match error {
                Unavailable::Busy => Error::Busy,
                Unavailable::Gone => Error::ServiceGone,
                Unavailable::TooLong => broker::Error::HeadersTooLong.into(),
            };
            (error, call.and_then(|call| call.reserved))
        })
    }

    /// Takes a lease whose signature was verified; gives when it ends.
    pub(crate) fn take_lease(&self, bundle: &Bundle, lease: Lease) -> Result<i64, Error> {
        let revoked = lease.revoked.clone();
        let ends = {
            let mut leased = lock(&self.lease);
            match &mut leased.lease {
                Some(before) if lease.not_after < before.not_after && revoked.is_empty() => {
                    let why = "it ends before the one that was taken";
                    return Err(broker::Error::LeaseInvalid(why).into());
                }
                // Whoever has an older one does not take back what the newer one revokes. What it revokes itself counts: it
                // may be of somebody whose clock is behind.
                Some(before) if lease.not_after <= before.not_after => {
                    before.narrow(&revoked)?;
                    before.not_after
                }
                before => {
                    let ends = lease.not_after;
                    *before = Some(lease);
                    leased.is_over = false;
                    ends
                }
            }
        };
        self.revoke(bundle, &revoked);
        Ok(ends)
    }

    /// Refuses to use a credential without a lease, where the bundle wants one, and one that it revokes.
    pub(crate) fn check_lease(
        &self,
        bundle: &Bundle,
        now: UnixSeconds,
        (identity, service, version): (&str, &str, u64),
    ) -> Result<(), Error> {
        if bundle.lease.is_none() {
            return Ok(());
        }
        let leased = lock(&self.lease);
        let lease = leased.lease.as_ref();
        // What was under way when it ended has been ended: nothing begins behind that.
        let lease = lease.filter(|lease| now.0 < lease.not_after && !leased.is_over);
        let lease = lease.ok_or(Error::LeaseExpired)?;
        let last = revoked_until(&lease.revoked, identity, service);
        if last.is_some_and(|last| version <= last) {
            return Err(Denied::CredentialRevoked.into());
        }
        Ok(())
    }

    /// Ends what is under way once the lease is over.
    pub(crate) fn end_lease(&self, bundle: &Bundle, now: Option<UnixSeconds>) {
        {
            let mut leased = lock(&self.lease);
            // Who does not know the time does not know that it lasts.
            let is_past = |lease: &Lease| now.is_none_or(|now| now.0 >= lease.not_after);
            let is_over = leased.lease.as_ref().is_some_and(is_past);
            if !is_over || leased.is_over {
                return;
            }
            leased.is_over = true;
        }
        let everybody = bundle.identities.iter();
        let everybody: Vec<String> = everybody
            .map(|identity| format!("agent:{}", identity.name))
            .collect();
        self.revoke(bundle, &everybody);
    }

    /// Ends what is under way with credentials that are revoked, by an annex or a lease.
    pub(crate) fn revoke(&self, bundle: &Bundle, entries: &[String]) {
        let mut revoked = Vec::new();
        for (place, service) in bundle.services.iter().enumerate() {
            for identity in &bundle.identities {
                if let Some(last) = revoked_until(entries, &identity.name, &service.name) {
                    let actor = *self.actor(&identity.name).as_bytes();
                    revoked.push((place, Revoked { actor, last }));
                }
            }
        }
        lock(&self.untold).extend(revoked);
        self.tell();
    }

    /// Tells the processes of services what was revoked. One that is busy is told later, by whoever
    /// tends the calls; in one that is gone nothing is under way.
    fn tell(&self) {
        lock(&self.untold).retain(|(place, revoked)| {
            let service = self.services.get(*place);
            let told = service.map(|service| service.courier.revoke(*revoked));
            matches!(told, Some(Err(Unavailable::Busy)))
        });
    }

    /// Gives a call up whose ticket nobody knows.
    pub(crate) fn give_up(&self, ticket: Ticket) {
        let call = lock(&self.calls).remove(&ticket);
        let reserved = call.and_then(|call| Some((call.place, call.reserved?)));
        if let Some((place, reserved)) = reserved {
            self.settle(place, *reserved, &upstream::unclaimed(ticket));
        }
    }

    /// Takes what the process of a service says. A call ends once; what it says of others, nobody
    /// hears.
    pub(crate) fn hear(&self, said: &FromService) {
        match said {
            FromService::Ended(place, ended) => {
                let reserved = {
                    let mut calls = lock(&self.calls);
                    let call = calls.get_mut(&ended.ticket);
                    // Whoever lends lines can show any process any ticket.
                    let call = call.filter(|call| call.place == *place && call.ended.is_none());
                    call.and_then(|call| call.reserved.take())
                };
                // Lock order: usage, calls.
                let taken = reserved.map(|reserved| self.settle(*place, *reserved, ended));
                let mut calls = lock(&self.calls);
                let call = calls.get_mut(&ended.ticket);
                let call = call.filter(|call| call.place == *place);
                if let Some(call) = call {
                    call.end(|credential| how(ended, taken, credential));
                }
            }
            FromService::Gone(place) => {
                // What became of those that are under way, nobody knows.
                let gone = |credential| record::Credential {
                    ending: Some("service_gone".to_owned()),
                    ..credential
                };
                let mut calls = lock(&self.calls);
                let of_service = calls.values_mut().filter(|call| call.place == *place);
                of_service.for_each(|call| call.end(gone));
            }
        }
    }

    /// Counts what a call took in place of what was reserved for it; gives tokens and what they cost.
    fn settle(&self, place: usize, reserved: Reserved, ended: &Ended) -> (Tokens, Option<u64>) {
        let tokens = reserved.taken(ended);
        let cost = reserved.price.as_ref().map(|price| tokens.cost(price));
        let taken = Taken {
            cost: cost.unwrap_or_default(),
            tokens: tokens.sum(),
        };
        let usage = self
            .service(place)
            .and_then(|service| service.usage(&reserved.identity));
        if let Ok(usage) = usage {
            lock(usage).settle_request(reserved.reservation, &reserved.rule, taken);
        }
        (tokens, cost)
    }

    /// What the record learns of the end of a call, once.
    pub(crate) fn close(&self, ticket: Ticket) -> Result<Decision, Error> {
        let mut calls = lock(&self.calls);
        match calls.get(&ticket).map(|call| call.ended.is_some()) {
            None => Err(Error::UnknownCall),
            Some(false) => Err(Error::CallUnderWay),
            Some(true) => calls
                .remove(&ticket)
                .map(|call| call.decision)
                .ok_or(Error::UnknownCall),
        }
    }

    /// Does what was left undone, now and then. Gives what the record learns of calls that ended a while
    /// ago, and whose end nobody asked for.
    pub(crate) fn tend(&self) -> Vec<Decision> {
        self.tell();
        let mut calls = lock(&self.calls);
        let forgotten = |call: &OpenCall| {
            call.ended
                .is_some_and(|since| since.elapsed() > ASKED_WITHIN)
        };
        let all = calls.iter().filter(|(_, call)| forgotten(call));
        let tickets: Vec<Ticket> = all.map(|(ticket, _)| *ticket).collect();
        let closed = tickets.iter().filter_map(|ticket| calls.remove(ticket));
        closed.map(|call| call.decision).collect()
    }

    /// Wipes every key.
    pub(crate) fn wipe(&self) {
        *write(&self.secrets) = None;
        lock(&self.apps).clear();
    }
}

/// For what a credential was put: where the service is, and who gives tokens for it, if somebody does.
fn bound_to(service: &Service) -> String {
    let upstream = service.upstream.as_str();
    match &service.token {
        None => upstream.to_owned(),
        Some(source) => format!("{upstream} {}", serde_json::json!(source)),
    }
}

impl ServiceState {
    fn new(bundle: &Bundle, service: &Service, courier: Box<dyn Courier>) -> Result<Self, Error> {
        let roots = broker::roots(service)?;
        let pins = service
            .pins
            .iter()
            .map(|pin| ByteVec::from(pin.0.0.to_vec()));
        let setup = Setup {
            host: service.upstream.host().to_owned(),
            authority: service.upstream.authority().to_owned(),
            roots: roots.into_iter().map(ByteVec::from).collect(),
            pins: pins.collect(),
            replace: service.scrub == Scrub::Replace,
            token: service.token.as_ref().map(|source| TokenSetup {
                source: serde_json::json!(source).to_string(),
                header: service.inject.header.clone().unwrap_or_default(),
                format: service.inject.format.clone().unwrap_or("{}".into()),
            }),
        };
        courier.begin(setup).map_err(|_| Error::ServiceGone)?;
        let identities = bundle.identities.iter();
        let usage = identities.map(|identity| (identity.name.clone(), Mutex::default()));
        Ok(Self {
            courier,
            usage: usage.collect(),
        })
    }

    /// What an identity used of its limits.
    pub(crate) fn usage(&self, identity: &str) -> Result<&Mutex<Usage>, Error> {
        self.usage.get(identity).ok_or(Error::UnknownIdentity)
    }
}

impl OpenCall {
    /// It ends now, if it has not ended before.
    fn end(&mut self, how: impl FnOnce(record::Credential) -> record::Credential) {
        if self.ended.is_none() {
            self.ended = Some(Instant::now());
            self.decision.credential = self.decision.credential.take().map(how);
        }
    }
}

fn how(
    ended: &Ended,
    taken: Option<(Tokens, Option<u64>)>,
    credential: record::Credential,
) -> record::Credential {
    let known = |number: u64| number.min(MAX_SAFE_INTEGER);
    let (tokens, cost) = taken.unzip();
    record::Credential {
        cost: cost.flatten().map(known).or(credential.cost),
        tokens_in: tokens
            .map(|tokens| known(tokens.input))
            .or(credential.tokens_in),
        tokens_out: tokens
            .map(|tokens| known(tokens.output))
            .or(credential.tokens_out),
        ending: Some(ended.ending.code().to_owned()),
        received: Some(ended.received),
        received_digest: Some(Digest(ended.received_digest)),
        sent: Some(ended.sent),
        sent_digest: Some(Digest(ended.sent_digest)),
        spki: ended.spki.map(Digest),
        minted: ended.minted.then_some(true),
        status: ended.status,
        ..credential
    }
}

/// The last version of an identity's credential for a service that these entries revoke: all, if it
/// is the agent that is revoked; none, if nothing is.
pub(crate) fn revoked_until(entries: &[String], identity: &str, service: &str) -> Option<u64> {
    let last = |entry: &String| {
        if entry.strip_prefix("agent:") == Some(identity) {
            return Some(u64::MAX);
        }
        let revoked = RevokedCredential::parse(entry)?;
        ((revoked.identity, revoked.service) == (identity, service)).then_some(revoked.last)
    };
    entries.iter().filter_map(last).max()
}

/// How the record calls a call: its ticket is nobody's to know.
pub(crate) fn call_id(ticket: Ticket) -> Digest<32> {
    sha256(&ticket.0)
}

/// Whether a key is that of the operator who may put credentials.
pub(crate) fn operator_key(bundle: &Bundle) -> &PublicKey {
    &bundle.operator_key.0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use policy::Annex;

    use super::*;
    use crate::audit::Trail;

    /// Busy the first two times; then it counts what it is told.
    #[derive(Default)]
    struct Slow(Arc<AtomicUsize>);

    impl Courier for Slow {
        fn begin(&self, _: Setup) -> Result<(), Unavailable> {
            Ok(())
        }

        fn call(&self, _: Call) -> Result<(), Unavailable> {
            Ok(())
        }

        fn revoke(&self, _: Revoked) -> Result<(), Unavailable> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => Err(Unavailable::Busy),
                _ => Ok(()),
            }
        }
    }

    fn credentials(told: &Arc<AtomicUsize>) -> Credentials {
        let service = || ServiceState {
            courier: Box::new(Slow(Arc::clone(told))),
            usage: BTreeMap::new(),
        };
        Credentials {
            operator: Omni::new([1; 32]),
            secrets: RwLock::new(None),
            services: vec![service(), service()],
            versions: Mutex::default(),
            apps: Mutex::default(),
            calls: Mutex::default(),
            untold: Mutex::default(),
            entrance: None,
            lease: Mutex::default(),
        }
    }

    fn ended(ticket: Ticket, status: u16) -> Ended {
        Ended {
            ticket,
            ending: Ending::Complete,
            status: Some(status),
            sent: 0,
            sent_digest: [0; 32],
            received: 0,
            received_digest: [0; 32],
            spki: None,
            tokens: None,
            minted: false,
        }
    }

    #[test]
    fn a_credential_is_put_for_whom_it_is_shown_to() {
        let service = |token: serde_json::Value| -> Service {
            let mut service = serde_json::json!({"name": "api", "upstream": "https://api.example", "inject": {"header": "x-key"}, "rules": []});
            if !token.is_null() {
                service["token"] = token;
            }
            serde_json::from_value(service).unwrap()
        };
        let source = |url: &str, id: &str| serde_json::json!({"url": url, "grant": "refresh_token", "client_id": id});
        let all = [
            service(serde_json::Value::Null),
            service(source("https://auth.example/token", "a")),
            service(source("https://other.example/token", "a")),
            service(source("https://auth.example/token", "b")),
        ];
        let bound: std::collections::BTreeSet<String> = all.iter().map(bound_to).collect();
        assert_eq!(bound.len(), all.len());
        assert_eq!(bound_to(&all[0]), "https://api.example");
    }

    #[test]
    fn the_process_of_one_service_ends_no_call_of_another() {
        let credentials = credentials(&Arc::default());
        let ticket = Ticket([3; 16]);
        let trail = Trail::new(Digest([0; 48]), "credential.open", "rule");
        let mut decision = trail.follow("credential.close", None);
        decision.credential = Some(record::Credential::default());
        let rule: ServiceRule = serde_json::from_value(serde_json::json!({
            "name": "chat", "methods": ["POST"], "paths": ["/chat"], "identities": ["crew"],
            "limits": [{"per": "day", "max": 1000, "amount": "cost"}],
        }))
        .unwrap();
        let taken = Taken {
            cost: 600,
            tokens: 0,
        };
        let mut usage = Usage::default();
        let reservation = usage.reserve_request(UnixSeconds(1), (&rule, None), taken);
        let reserved = Reserved {
            identity: "crew".into(),
            rule,
            reservation: reservation.unwrap(),
            price: None,
            most: Tokens::default(),
        };
        let call = OpenCall {
            place: 1,
            reserved: Some(Box::new(reserved)),
            decision,
            ended: None,
        };
        lock(&credentials.calls).insert(ticket, call);
        credentials.hear(&FromService::Ended(0, ended(ticket, 500)));
        credentials.hear(&FromService::Gone(0));
        // Nor says what it took.
        assert!(lock(&credentials.calls)[&ticket].reserved.is_some());
        assert_eq!(credentials.close(ticket).unwrap_err(), Error::CallUnderWay);
        credentials.hear(&FromService::Ended(1, ended(ticket, 200)));
        // It ends once.
        credentials.hear(&FromService::Ended(1, ended(ticket, 500)));
        let closed = credentials.close(ticket).unwrap().credential.unwrap();
        assert_eq!(closed.status, Some(200));
    }

    #[test]
    fn a_process_that_is_busy_hears_of_a_revocation_later() {
        let told = Arc::default();
        let credentials = credentials(&told);
        let revoked = Revoked {
            actor: [1; 32],
            last: 1,
        };
        *lock(&credentials.untold) = vec![(0, revoked), (1, revoked)];
        credentials.tell();
        assert_eq!(lock(&credentials.untold).len(), 2);
        assert!(credentials.tend().is_empty());
        assert!(lock(&credentials.untold).is_empty());
        credentials.tell();
        assert_eq!(told.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn a_revocation_is_of_an_agent_a_credential_or_its_versions_up_to_one() {
        let until = |revoked: &[&str]| {
            let annex = format!("version = 1\nrevoked = {revoked:?}");
            revoked_until(&Annex::from_toml(&annex).unwrap().revoked, "crew", "api")
        };
        for (revoked, last) in [
            (&["agent:crew"][..], Some(u64::MAX)),
            (&["credential:crew/api"], Some(u64::MAX)),
            (&["credential:crew/api@17"], Some(17)),
            (
                &["credential:crew/api@17", "credential:crew/api@5"],
                Some(17),
            ),
            (&["credential:crew/api@17", "agent:crew"], Some(u64::MAX)),
            (
                &[
                    "credential:crew/other@17",
                    "credential:other/api",
                    "agent:other",
                ],
                None,
            ),
            (
                &[
                    "credential:crew/api@",
                    "credential:crew/api@+1",
                    "credential:crew/api@1x",
                ],
                None,
            ),
            (&[], None),
        ] {
            assert_eq!(until(revoked), last, "{revoked:?}");
        }
    }
}
