//! The link to the enclave: a few connections, each shared by many requests, kept and
//! re-established.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use identity::{BootId, cbor};
use policy::{Annex, Bundle};
use protocol::{
    Answer, Endpoint, FrameBuffer, Lane, Outcome, RecordEnd, Refusal, Request, ResponseFrame,
    StateStatus, Status, write_frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::awaiting::{Awaiting, Command, StateView};
use crate::counters::Counters;
use crate::keeper::{Ask, Keeper, StateConfig, StateError};
use crate::record::{Recorder, Release};
use crate::session::{ConnectError, Reader, Session, Writer};
use crate::{Error, KeyFile};

/// From request to answer; a signature takes a twentieth of a millisecond, an attestation a few.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// For connecting, proving and provisioning.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// An enclave boots in a second or two; callers that wait for it should not wait for us.
const BACKOFF_LAST: Duration = Duration::from_millis(500);
/// A seal that could not be stored is tried again so often.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// Requests under way on one connection.
const MAX_PENDING: usize = 1024;
/// Requests that gather on one connection before the next one is used, and as many as callers have
/// under way together: the enclave answers so many at once.
pub const GATHERED: usize = 8;
/// Bytes that wait to be written to one connection; callers that went away leave theirs here.
const MAX_WAITING_BYTES: usize = 1 << 20;
/// An enclave that takes nothing for so long is not there.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);

/// Why the enclave gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No connection, or it broke before the answer came. A signature that may have been made is
    /// lost, not leaked.
    #[error("the enclave is not reachable; try again")]
    Unavailable,
    /// Too many requests are under way.
    #[error("too many requests are under way; try again")]
    Busy,
    /// What is decided could not be written down, so nothing is.
    #[error("the decision record cannot be written; nothing is signed until it can")]
    Unrecorded,
    /// What was sealed could not be stored, so it does not count yet.
    #[error("{0}; nothing changes until it can")]
    Unstored(String),
    /// The answer took too long.
    #[error("the enclave did not answer in time")]
    Timeout,
    /// The enclave refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The enclave answered something that was not asked.
    #[error("the enclave answered something else than what was asked")]
    Nonsense,
}

/// Sends requests to the enclave.
pub struct EnclaveClient {
    shared: Arc<Shared>,
    next: AtomicUsize,
}

struct Shared {
    endpoint: Endpoint,
    key: KeyFile,
    canonical: Vec<u8>,
    digest: [u8; 48],
    slots: Vec<RwLock<Option<Arc<EnclaveConnection>>>>,
    last_boot: Mutex<Option<BootId>>,
    counters: Counters,
    recorder: Arc<Recorder>,
    annex: RwLock<Option<Arc<Vec<u8>>>>,
    /// The state in which the enclave's keys outlive its boot, if the bundle has one.
    state: Option<Awaiting>,
    /// A seal that could not be stored is tried again.
    storing: AtomicBool,
}

/// A connection that works.
struct EnclaveConnection {
    ids: AtomicU64,
    pending: Mutex<Pending>,
    out: Mutex<Vec<u8>>,
    wake: Notify,
    hangs: Notify,
}

/// An answer, and whether what was decided stands in the record.
struct Arrived {
    outcome: Outcome,
    recorded: bool,
}

struct Pending {
    closed: bool,
    waiting: BTreeMap<u64, oneshot::Sender<Arrived>>,
}

impl EnclaveClient {
    /// Starts to connect, and keeps connected for ever. A bundle with a state needs to be told how it
    /// is kept.
    pub fn start(
        endpoint: Endpoint,
        key: KeyFile,
        policy: &Bundle,
        connections: usize,
        counters: Counters,
        recorder: Arc<Recorder>,
        state: Option<StateConfig>,
    ) -> Result<Self, Error> {
        let keeper = state
            .map(|state| Keeper::open(state, &endpoint))
            .transpose()?;
        let shared = Arc::new(Shared {
            endpoint,
            key,
            canonical: policy.canonical(),
            digest: policy.digest().digest().0,
            slots: (0..connections).map(|_| RwLock::new(None)).collect(),
            last_boot: Mutex::new(None),
            counters,
            recorder,
            annex: RwLock::new(None),
            state: keeper.map(Awaiting::new),
            storing: AtomicBool::new(false),
        });
        for slot in 0..connections {
            tokio::spawn(Arc::clone(&shared).keep(slot));
        }
        tokio::spawn(Arc::clone(&shared).fetch_what_is_missing());
        Ok(Self {
            shared,
            next: AtomicUsize::new(0),
        })
    }

    /// How the state is; none if the bundle has none.
    pub async fn state(&self) -> Option<Result<StateView, StateError>> {
        let awaiting = self.shared.state.as_ref()?;
        if let Some(view) = self.shared.wait_until_known(awaiting).await {
            return Some(Ok(view));
        }
        let asked = async {
            let mut enclave = Serving(&self.shared);
            let state = enclave.ask(Request::State).await?;
            let status = enclave.ask(Request::Status).await?;
            match (state, status) {
                (Answer::State(state), Answer::Status(enclave)) => Ok(StateView {
                    enclave,
                    state,
                    hindrance: None,
                }),
                _ => Err(StateError::Unavailable),
            }
        };
        Some(asked.await)
    }

    /// A document of the enclave for the operator who is to order a birth.
    pub async fn birth_document(&self, nonce: Vec<u8>) -> Result<Vec<u8>, StateError> {
        match self.command(Command::BirthDocument(nonce)).await? {
            Answer::Document(document) => Ok(document.evidence),
            _ => Err(StateError::Unavailable),
        }
    }

    /// Gives birth to a state, and keeps it.
    pub async fn birth(&self, order: Vec<u8>) -> Result<StateStatus, StateError> {
        match self.command(Command::Birth(order)).await? {
            Answer::State(status) => Ok(status),
            _ => Err(StateError::Unavailable),
        }
    }

    /// Whether the state that is open would open again: what is kept of it is read, and KMS asked.
    pub async fn drill(&self) -> Result<StateStatus, StateError> {
        let awaiting = self.shared.state.as_ref().ok_or(StateError::Unavailable)?;
        let keeper = awaiting.keeper.lock().await;
        keeper.drill(&mut Serving(&self.shared)).await
    }

    /// Tries again now to open a state that is not open: the certificate may be another one.
    pub async fn retry_state(&self) {
        if self
            .shared
            .state
            .as_ref()
            .is_some_and(|state| state.view().is_some())
        {
            let _ = self.command(Command::Retry).await;
        }
    }

    async fn command(&self, command: Command) -> Result<Answer, StateError> {
        let Some(awaiting) = &self.shared.state else {
            return Err(Refusal {
                kind: protocol::Kind::Conflict,
                code: "state_not_wanted".into(),
                message: "the bundle has no [state]: its keys end with the boot".into(),
                retry_after: None,
            }
            .into());
        };
        if awaiting.view().is_none() && self.shared.is_serving() {
            return Err(Refusal {
                kind: protocol::Kind::Conflict,
                code: "state_open_already".into(),
                message: "the state is open already; another one needs another boot".into(),
                retry_after: None,
            }
            .into());
        }
        awaiting.command(command).await
    }

    /// A rotation of a key that outlives the boot is not answered before it is stored.
    async fn change(&self, request: Request, first: usize) -> Result<Answer, RequestError> {
        let Some(awaiting) = &self.shared.state else {
            return self.shared.request(request, first).await;
        };
        let keeper = awaiting.keeper.lock().await;
        let mut enclave = Serving(&self.shared);
        let mut answer = self.shared.request(request.clone(), first).await;
        if let Err(RequestError::Refused(refusal)) = &answer
            && refusal.code == "seal_pending"
        {
            // One before this could not be stored.
            answer = match keeper.store(&mut enclave).await {
                Ok(_) => self.shared.request(request, first).await,
                Err(error) => {
                    self.shared.store_soon();
                    return Err(error.into());
                }
            };
        }
        let stored = match answer {
            Ok(Answer::State(_)) => keeper.store(&mut enclave).await.map_err(Into::into),
            // Refused, nothing waits; whose answer was lost may have left a seal.
            refused @ Err(RequestError::Refused(_)) => return refused,
            other => other,
        };
        if stored.is_err() {
            self.shared.store_soon();
        }
        stored
    }

    /// Whether what is decided can be written down.
    pub fn is_recording(&self) -> bool {
        self.shared.recorder.is_good()
    }

    /// This annex is what the enclave shall have, whenever it is there.
    pub fn set_annex(&self, signed: Vec<u8>) {
        *self
            .shared
            .annex
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(signed));
    }

    /// The same, and now; only if the enclave takes it.
    pub async fn bring_annex(&self, signed: Vec<u8>) -> Result<(), RequestError> {
        self.request(Request::Annex {
            signed: signed.clone(),
        })
        .await?;
        self.set_annex(signed);
        Ok(())
    }

    /// Sends a request over the next connection that takes it, and waits for its answer.
    pub async fn request(&self, request: Request) -> Result<Answer, RequestError> {
        if request.traits().event.is_some() && !self.shared.recorder.is_good() {
            return Err(RequestError::Unrecorded);
        }
        let first = self
            .shared
            .gathering()
            .unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed));
        if matches!(
            request,
            Request::Rotate(_) | Request::SetEpochs { .. } | Request::KeepBudgets
        ) {
            return self.change(request, first).await;
        }
        self.shared.request(request, first).await
    }
}

/// The enclave, over connections that serve.
struct Serving<'a>(&'a Shared);

impl Ask for Serving<'_> {
    async fn ask(&mut self, request: Request) -> Result<Answer, StateError> {
        match self.0.request(request, 0).await {
            Ok(answer) => Ok(answer),
            Err(RequestError::Refused(refusal)) => Err(refusal.into()),
            Err(_) => Err(StateError::Unavailable),
        }
    }
}

impl From<StateError> for RequestError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Refused(refusal) => Self::Refused(refusal),
            StateError::Unavailable => Self::Unavailable,
            other => Self::Unstored(other.to_string()),
        }
    }
}

impl Shared {
    /// The first connection on which few requests are under way: those that travel together share a
    /// signature of the record.
    fn gathering(&self) -> Option<usize> {
        let few = |slot: &RwLock<Option<Arc<EnclaveConnection>>>| {
            let live = slot.read().unwrap_or_else(PoisonError::into_inner);
            live.as_ref()
                .is_some_and(|live| lock(&live.pending).waiting.len() < GATHERED)
        };
        self.slots.iter().position(few)
    }

    async fn request(&self, request: Request, first: usize) -> Result<Answer, RequestError> {
        let slots = &self.slots;
        let awaited = self.state.as_ref().and_then(Awaiting::refusal);
        let mut refused = awaited.map_or(RequestError::Unavailable, RequestError::Refused);
        for step in 0..slots.len() {
            let slot = &slots[first.wrapping_add(step) % slots.len()];
            let Some(live) = slot.read().unwrap_or_else(PoisonError::into_inner).clone() else {
                continue;
            };
            match live.send(&request) {
                Ok((id, receiver)) => {
                    // What never waits for the NSM and has no answer in time comes from an enclave
                    // that hangs.
                    let hangs = request.traits().lane == Lane::Connection;
                    let arrived = live.answer(id, receiver, hangs).await?;
                    return match arrived.outcome {
                        // Whatever was decided: who cannot write it down does not hand it out.
                        _ if !arrived.recorded => Err(RequestError::Unrecorded),
                        Outcome::Done(answer) => Ok(answer),
                        Outcome::Refused(refusal) => Err(refusal.into()),
                    };
                }
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// Asks again for events whose connection broke under them.
    async fn fetch_what_is_missing(self: Arc<Self>) {
        loop {
            sleep(Duration::from_millis(50)).await;
            if let Some(from) = self.recorder.missing()
                && let Ok(Answer::Records(records)) =
                    self.request(Request::Records { from }, 0).await
            {
                self.recorder.take_again(from, records);
            }
        }
    }

    async fn keep(self: Arc<Self>, slot: usize) {
        let mut backoff = BACKOFF_FIRST;
        let mut told = String::new();
        loop {
            match self.connect(slot).await {
                Ok((reader, writer, buffer)) => {
                    backoff = BACKOFF_FIRST;
                    told.clear();
                    self.serve(slot, reader, writer, buffer).await;
                    warn!(slot, "connection to the enclave lost");
                }
                // Once for each reason, however long it lasts.
                Err(error) if error.to_string() == told => {
                    debug!(slot, %error, "enclave still not reachable")
                }
                Err(error) => {
                    warn!(slot, endpoint = %self.endpoint, %error, "enclave not reachable");
                    told = error.to_string();
                }
            }
            sleep(jittered(backoff)).await;
            backoff = (backoff * 2).min(BACKOFF_LAST);
        }
    }

    /// Connects, proves the proxy's key, makes sure that the enclave has our policy, and that its
    /// state is open: the first connection sees to that.
    async fn connect(self: &Arc<Self>, slot: usize) -> Result<Connected, ConnectError> {
        let (mut session, status) = in_time(self.introduce()).await?;
        if let Some(awaiting) = &self.state {
            if slot == 0 {
                let opened = awaiting.open(&mut session).await;
                let state = opened.inspect_err(|_| awaiting.lost())?;
                if state.pending.is_some() {
                    self.store_soon();
                }
            } else if in_time(session.status(Request::Status))
                .await?
                .cannot_sign
                .as_deref()
                == Some("state_awaited")
            {
                return Err(ConnectError::StateAwaited);
            }
        }
        in_time(async {
            self.catch_up(&mut session, status.boot_id).await?;
            self.bring_own_annex(&mut session, &status).await
        })
        .await?;
        self.note_boot(status.boot_id);
        Ok((session.reader, session.writer, session.buffer))
    }

    async fn introduce(&self) -> Result<(Session<'_>, Status), ConnectError> {
        let mut session = Session::open(&self.endpoint, &self.key, &self.recorder).await?;
        let status = self.provision(&mut session).await?;
        if status.policy == Some(self.digest) {
            Ok((session, status))
        } else {
            Err(ConnectError::OtherPolicy)
        }
    }

    /// How the state is, unless the enclave serves, which is asked then. What was just opened is
    /// served in a moment.
    async fn wait_until_known(&self, awaiting: &Awaiting) -> Option<StateView> {
        for _ in 0..200 {
            let view = awaiting.view();
            if view.is_some() || self.is_serving() {
                return view;
            }
            sleep(Duration::from_millis(10)).await;
        }
        None
    }

    /// Begins to store a seal that waits, unless that was begun.
    fn store_soon(self: &Arc<Self>) {
        if !self.storing.swap(true, Ordering::SeqCst) {
            tokio::spawn(Arc::clone(self).store_later());
        }
    }

    /// Stores a seal that waits, once the disk takes it. Another enclave has none.
    async fn store_later(self: Arc<Self>) {
        loop {
            sleep(STORE_AGAIN).await;
            let Some(awaiting) = &self.state else { break };
            let keeper = awaiting.keeper.lock().await;
            match keeper.store(&mut Serving(&self)).await {
                // There was none, or it went with its boot.
                Err(StateError::Refused(refusal)) if refusal.code == "seal_not_pending" => break,
                Err(_) => {}
                Ok(_) => break,
            }
        }
        self.storing.store(false, Ordering::SeqCst);
    }

    fn is_serving(&self) -> bool {
        let serves = |slot: &RwLock<Option<Arc<EnclaveConnection>>>| {
            slot.read()
                .unwrap_or_else(PoisonError::into_inner)
                .is_some()
        };
        self.slots.iter().any(serves)
    }

    /// Gives the enclave our policy, if it has none.
    async fn provision(&self, session: &mut Session<'_>) -> Result<Status, ConnectError> {
        let status = session.status(Request::Status).await?;
        if status.policy.is_some() {
            return Ok(status);
        }
        // The boot before has ended, and its record with it; the new one writes down with what.
        let before = self
            .recorder
            .end_before(status.boot_id)
            .map(|end| RecordEnd {
                boot_id: end.boot_id,
                last: end.last,
                leaf: end.leaf.0,
            });
        match session
            .status(Request::Provision {
                bundle: self.canonical.clone(),
                before,
            })
            .await
        {
            // Another connection of ours was faster.
            Err(ConnectError::Refused(refusal)) if refusal.code == "already_provisioned" => {
                session.status(Request::Status).await
            }
            other => other,
        }
    }

    /// Takes what was decided before this connection: the boot itself, and what a broken connection
    /// held.
    async fn catch_up(
        &self,
        session: &mut Session<'_>,
        boot_id: BootId,
    ) -> Result<(), ConnectError> {
        let mut wanted = self.recorder.begin(boot_id);
        loop {
            let Answer::Records(records) = session.ask(Request::Records { from: wanted }).await?
            else {
                return Err(ConnectError::Nonsense);
            };
            let (next, empty) = (records.next, records.lines.is_empty());
            self.recorder.take_again(wanted, records);
            wanted = self.recorder.begin(boot_id);
            if wanted >= next || empty {
                return Ok(());
            }
        }
    }

    /// Brings the annex that we have, if the enclave has another one.
    async fn bring_own_annex(
        &self,
        session: &mut Session<'_>,
        status: &Status,
    ) -> Result<(), ConnectError> {
        let annex = self
            .annex
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let digest = |signed: &[u8]| {
            Annex::unverified_canonical(signed)
                .ok()
                .map(|canonical| identity::sha256(canonical).0)
        };
        let Some(signed) =
            annex.filter(|signed| status.annex.is_none() || status.annex != digest(signed))
        else {
            return Ok(());
        };
        match session
            .ask(Request::Annex {
                signed: signed.to_vec(),
            })
            .await
        {
            Err(ConnectError::Refused(refusal)) => {
                warn!(%refusal, "the enclave does not take the annex")
            }
            other => drop(other?),
        }
        Ok(())
    }

    fn note_boot(&self, boot_id: BootId) {
        let mut last = lock(&self.last_boot);
        if *last != Some(boot_id) {
            let boot = boot_id.to_string();
            let again = last.is_some();
            if self.state.is_some() {
                info!(boot, again, "enclave booted: its identities go on");
            } else {
                info!(boot, again, "enclave booted: its identities have new keys");
            }
            self.counters.boots.inc();
            *last = Some(boot_id);
        }
    }

    async fn serve(&self, slot: usize, reader: Reader, writer: Writer, buffer: FrameBuffer) {
        let live = Arc::new(EnclaveConnection {
            ids: AtomicU64::new(0),
            pending: Mutex::new(Pending {
                closed: false,
                waiting: BTreeMap::new(),
            }),
            out: Mutex::new(Vec::new()),
            wake: Notify::new(),
            hangs: Notify::new(),
        });
        let slot = &self.slots[slot];
        *slot.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&live));
        self.counters.connections.inc();
        // Whichever ends first ends the connection.
        tokio::select! {
            () = live.read(reader, buffer, &self.recorder) => {}
            () = live.write(writer) => {}
            () = live.hangs.notified() => {}
        }
        *slot.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.counters.connections.dec();
        let mut pending = lock(&live.pending);
        pending.closed = true;
        // Dropping a sender tells its request that there will be no answer.
        pending.waiting.clear();
    }
}

type Connected = (Reader, Writer, FrameBuffer);

impl EnclaveConnection {
    /// Queues a request; on an error nothing of it was sent.
    fn send(&self, request: &Request) -> Result<(u64, oneshot::Receiver<Arrived>), RequestError> {
        let mut pending = lock(&self.pending);
        if pending.closed {
            return Err(RequestError::Unavailable);
        }
        let mut out = lock(&self.out);
        if pending.waiting.len() >= MAX_PENDING || out.len() >= MAX_WAITING_BYTES {
            return Err(RequestError::Busy);
        }
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        // As a RequestFrame, without a copy of the request.
        write_frame(&(id, request), &mut out).map_err(|_| too_large())?;
        let (sender, receiver) = oneshot::channel();
        pending.waiting.insert(id, sender);
        self.wake.notify_one();
        Ok((id, receiver))
    }

    async fn answer(
        &self,
        id: u64,
        receiver: oneshot::Receiver<Arrived>,
        hangs: bool,
    ) -> Result<Arrived, RequestError> {
        let _forget = Forget { live: self, id };
        match timeout(REQUEST_DEADLINE, receiver).await {
            Ok(Ok(arrived)) => Ok(arrived),
            Ok(Err(_)) => Err(RequestError::Unavailable),
            Err(_) => {
                if hangs {
                    self.hangs.notify_one();
                }
                Err(RequestError::Timeout)
            }
        }
    }

    async fn write(&self, mut writer: Writer) {
        let mut batch = Vec::new();
        loop {
            std::mem::swap(&mut *lock(&self.out), &mut batch);
            if batch.is_empty() {
                self.wake.notified().await;
                // Another task that is ready adds its request first: one write, and one signature of the
                // record, for all of them.
                tokio::task::yield_now().await;
                continue;
            }
            if !matches!(
                timeout(WRITE_DEADLINE, writer.write_all(&batch)).await,
                Ok(Ok(()))
            ) {
                return;
            }
            batch.clear();
        }
    }

    async fn read(&self, mut reader: Reader, mut buffer: FrameBuffer, recorder: &Recorder) {
        let mut chunk = vec![0; 64 * 1024];
        let mut events = Vec::new();
        loop {
            let good = loop {
                match buffer.next_frame() {
                    Ok(Some(frame)) => {
                        let Ok(response) = cbor::from_slice::<ResponseFrame>(frame) else {
                            break false;
                        };
                        // A request that was given up has nobody waiting; its event is written all
                        // the same.
                        let sender = lock(&self.pending).waiting.remove(&response.id);
                        let release = sender.map(|sender| {
                            move |recorded| {
                                drop(sender.send(Arrived {
                                    outcome: response.outcome,
                                    recorded,
                                }))
                            }
                        });
                        match (response.event, release) {
                            (Some(line), release) => {
                                events.push((line, release.map(|it| Box::new(it) as Release)))
                            }
                            (None, Some(release)) => release(true),
                            (None, None) => {}
                        }
                    }
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            if !events.is_empty() {
                recorder.take(events.drain(..));
            }
            if !good {
                return;
            }
            match reader.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(read) => buffer.push(&chunk[..read]),
            }
        }
    }
}

/// Nobody waits any more for this id, for whatever reason.
struct Forget<'a> {
    live: &'a EnclaveConnection,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.live.pending).waiting.remove(&self.id);
    }
}

async fn in_time<T>(
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    timeout(CONNECT_DEADLINE, work)
        .await
        .unwrap_or(Err(ConnectError::Timeout))
}

fn too_large() -> Refusal {
    Refusal {
        kind: protocol::Kind::Invalid,
        code: "payload_too_large".into(),
        message: "the request is too large for the enclave".into(),
        retry_after: None,
    }
}

/// Half to all of `backoff`, so that many proxies do not come back in step.
fn jittered(backoff: Duration) -> Duration {
    let mut byte = [0];
    let _ = getrandom::fill(&mut byte);
    backoff / 2 + backoff.mul_f64(f64::from(byte[0]) / 512.0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
