//! Listening, serving, draining.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use identity::caller::ObservedCaller;
use listenfd::ListenFd;
use policy::{Annex, Bundle};
use protocol::Phase;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;
use tracing::{debug, error, info, warn};

use crate::api::{App, Known, MAX_VERIFYING, Peer, Problem, proxied_request, route, router};
use crate::config::ProxyConfig;
use crate::evidence_store::EvidenceStore;
use crate::exit_reasons::ExitReasons;
use crate::metrics::{Handled, Limited, Metrics};
use crate::relay::{Calls, HeldCalls, Relay, Store, Tunnels};
use crate::{Config, Error, KeyFile};
use callers::{
    Admission, CallerQuotas, Connected, FairQueue, Inspector, Localhost, OneWriter, Operators,
    Socket, TurnedAway, sees_other_users,
};
use enclave_client::Counters;
use enclave_client::Recorder;
use enclave_client::files::read_bounded;
use enclave_client::{EnclaveClient, GATHERED};

/// Connections of callers whom the policy names; more are closed at once.
const MAX_CALLERS: usize = 4096;
/// Connections of others on the Unix socket: they get an answer, and keep nobody out.
const MAX_STRANGERS: usize = 64;
/// Connections on localhost, where nobody is known before the first request.
const MAX_LOCALHOST: usize = 512;
/// For a request's head to arrive, for a caller to take what is written to it, and for a connection
/// to lie idle.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for those who are turned away.
const REFUSED_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections of those who are told that they have too many.
const MAX_TURNED_AWAY: usize = 64;
/// Requests under way that wait for the NSM.
const MAX_ATTESTING: usize = 4;
/// How often the state that is kept is opened for a drill.
const DRILL_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// A sidecar that is restarted every day drills, too.
const DRILL_FIRST: Duration = Duration::from_secs(5 * 60);
/// The head and the buffer of one connection.
const MAX_HEAD: usize = 16 * 1024;

/// Serves until SIGTERM or SIGINT, then drains.
pub async fn run(mut config: Config) -> Result<(), Error> {
    raise_file_limit();
    let key = read_key(&config)?;
    let annex = config
        .annex
        .as_deref()
        .map(|file| read_annex(file, &config.policy))
        .transpose()?;
    let counters = Counters::default();
    let metrics = Arc::new(Metrics::new(&counters));
    let localhost = config.localhost.take();
    let proxy = config.proxy.take();
    let named = annex.as_ref().map(|(_, annex)| annex);
    let mut listeners = Listeners::bind(&config, localhost, named).await?;
    let relay = match proxy {
        Some(proxy) => Some(listeners.bind_proxy(&config, proxy, named).await?),
        None => None,
    };
    let recorder = Recorder::open(config.record.clone(), counters.clone())?;
    tokio::spawn(Arc::clone(&recorder).tend());
    let exit_reasons = ExitReasons::listen(&config.enclave, Arc::clone(&metrics));
    let enclave = EnclaveClient::start(
        config.enclave.clone(),
        key,
        &config.policy,
        config.connections,
        counters,
        Arc::clone(&recorder),
        config.state.clone(),
    )?;
    listeners.announce(&config.policy);
    let admission = Admission::new(config.policy.clone());
    if let Some((signed, annex)) = annex {
        enclave.set_annex(signed);
        admission.set_annex(annex);
    }
    let server = Arc::new(Server::new(app(
        &config,
        enclave,
        admission,
        listeners.localhost.take(),
        metrics,
        relay,
    )));
    if config.state.is_some() {
        tokio::spawn(drill_daily(Arc::clone(&server)));
    }
    let mut signals = listen_for_signals()?;
    // Requests are answered from here on, with 503 until the enclave is there: what waits for this
    // service can start.
    tell_systemd(&NotifyState::Ready);
    let accepting = listeners.accept(&server);
    while hung_up(&mut signals).await {
        server.reload(config.annex.as_deref()).await;
        server.app.enclave.retry_state().await;
    }
    // No new caller from here on.
    for task in accepting {
        task.abort();
        let _ = task.await;
    }
    tell_systemd(&NotifyState::Stopping);
    info!("draining");
    // Who holds a placeholder would hold this up.
    let relay = server.app.relay.as_ref();
    relay.iter().for_each(|relay| relay.placeholders.close());
    if tokio::time::timeout(Duration::from_secs(config.drain_seconds), server.drained())
        .await
        .is_err()
    {
        warn!("requests were still under way when the time to drain was over");
    }
    drop(exit_reasons);
    recorder.close();
    info!("stopped");
    Ok(())
}

/// Asks soon, and then once a day, whether the state would open again.
async fn drill_daily(server: Arc<Server>) {
    let mut wait = DRILL_FIRST;
    loop {
        tokio::time::sleep(wait).await;
        let state = server.app.enclave.state().await;
        if !matches!(state, Some(Ok(view)) if view.state.phase == Phase::Open) {
            wait = DRILL_FIRST;
            continue;
        }
        wait = DRILL_EVERY;
        match server.app.drill().await {
            Ok(()) => info!("what is kept of the state would open"),
            Err(error) => {
                error!(%error, code = error.code(), "what is kept of the state would not open")
            }
        }
    }
}

/// Reads every file that a configuration names, and starts nothing.
pub fn check(config: &Config) -> Result<(), Error> {
    read_key(config)?;
    let wanted = config.policy.annex_version;
    let Some(file) = &config.annex else {
        return match wanted {
            None => Ok(()),
            Some(lowest) => Err(Error::Config(format!(
                "the bundle wants an annex of version {lowest} or later, and none is named (annex =)"
            ))),
        };
    };
    let (_, annex) = read_annex(file, &config.policy)?;
    if wanted.is_some_and(|lowest| annex.version < lowest) {
        return Err(Error::Config(format!(
            "{}: it has version {}, and the bundle wants {} or later",
            file.display(),
            annex.version,
            wanted.unwrap_or_default()
        )));
    }
    let of_socket = |name: &String| config.sockets.iter().any(|socket| socket.name == *name);
    for caller in &annex.callers {
        if let Some(socket) = caller.socket.as_ref().filter(|name| !of_socket(name)) {
            return Err(Error::Config(format!(
                "{}: the caller {:?} comes through the socket {socket:?}, and there is none in [[sockets]]",
                file.display(),
                caller.name
            )));
        }
    }
    Ok(())
}

/// The key that the bundle names as the proxy's.
fn read_key(config: &Config) -> Result<KeyFile, Error> {
    let key = KeyFile::read(&config.proxy_key)?;
    if *identity::Signer::public_key(&key) == config.policy.proxy_key.0 {
        return Ok(key);
    }
    let (file, why) = (
        config.proxy_key.clone(),
        "not the key that the bundle names as proxy_key",
    );
    Err(enclave_client::Error::KeyFile { file, why }.into())
}

/// What every request needs.
fn app(
    config: &Config,
    enclave: EnclaveClient,
    admission: Admission,
    localhost: Option<Localhost>,
    metrics: Arc<Metrics>,
    relay: Option<Relay>,
) -> App {
    if admission.measures() && !sees_other_users() {
        warn!(
            "without CAP_SYS_PTRACE the executables of other users' processes cannot be seen; callers named by them are refused"
        );
    }
    let names = localhost
        .iter()
        .flat_map(|localhost| &localhost.callers)
        .filter(|caller| caller.operator);
    let operators = Operators {
        uids: config.operator_uids.clone(),
        names: names.map(|caller| caller.name.clone()).collect(),
    };
    let identities = admission
        .policy()
        .identities
        .iter()
        .map(|identity| identity.name.clone())
        .collect();
    // One for each connection, so that who asks too much waits, and costs nothing meanwhile.
    let waiting = config.limits.connections;
    App {
        enclave,
        admission,
        operators,
        quotas: CallerQuotas::new(config.limits, identities),
        signing: FairQueue::new(GATHERED * config.connections, waiting),
        attesting: FairQueue::new(MAX_ATTESTING, waiting),
        unadmitted: FairQueue::new(1, waiting),
        verifying: FairQueue::new(MAX_VERIFYING, waiting),
        issuers: Arc::default(),
        evidence: EvidenceStore::new(config.record.folder.clone()),
        localhost,
        metrics,
        relay,
    }
}

/// What is served at a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Front {
    /// The sidecar's own API.
    Api,
    /// The proxied routes.
    Services,
}

impl Front {
    fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Services => "services",
        }
    }
}

/// Where agents connect.
struct Listeners {
    sockets: Vec<(Socket, Front)>,
    tcp: Vec<(TcpListener, Front)>,
    /// With the address that was bound, where the configuration leaves the port open.
    localhost: Option<Localhost>,
}

impl Listeners {
    async fn bind(
        config: &Config,
        localhost: Option<Localhost>,
        annex: Option<&Annex>,
    ) -> Result<Self, Error> {
        let first = match activated()? {
            Some(listener) => Socket::inherited(listener)?,
            None => Socket::bind(&config.socket, &config.policy, annex)?,
        };
        let mut sockets = vec![(first, Front::Api)];
        for named in &config.sockets {
            sockets.push((Socket::bind_for(named)?, Front::Api));
        }
        let mut listeners = Self {
            sockets,
            tcp: Vec::new(),
            localhost: None,
        };
        if let Some(mut localhost) = localhost {
            listeners.bind_tcp(&mut localhost, Front::Api).await?;
            listeners.localhost = Some(localhost);
        }
        Ok(listeners)
    }

    async fn bind_tcp(&mut self, localhost: &mut Localhost, front: Front) -> Result<(), Error> {
        let address = localhost.listen;
        let tcp = TcpListener::bind(address).await;
        let tcp = tcp.map_err(|source| Error::Listen { address, source })?;
        localhost.listen = tcp.local_addr()?;
        info!(address = %localhost.listen, front = front.name(), "listening on localhost; callers show tokens");
        self.tcp.push((tcp, front));
        Ok(())
    }

    /// Where agents get to services, and what that needs.
    async fn bind_proxy(
        &mut self,
        config: &Config,
        proxy: ProxyConfig,
        annex: Option<&Annex>,
    ) -> Result<Relay, Error> {
        let socket = Socket::bind(&proxy.socket, &config.policy, annex)?;
        self.sockets.push((socket, Front::Services));
        let mut localhost = proxy.localhost;
        if let Some(localhost) = &mut localhost {
            self.bind_tcp(localhost, Front::Services).await?;
        }
        let calls = Calls::new(&config.policy, &config.enclave, &proxy.addresses);
        let store = Store::open(&proxy.credentials)?;
        let ingress = config.policy.https_proxy.map(|_| config.enclave.ingress());
        let tunnels = Tunnels::new(ingress);
        let held = HeldCalls::within(proxy.wait);
        Ok(Relay::new(
            store,
            calls,
            localhost,
            proxy.socket,
            tunnels,
            held,
        ))
    }

    fn announce(&self, policy: &Bundle) {
        for (socket, front) in &self.sockets {
            info!(socket = %socket.path().display(), name = socket.name, front = front.name(), policy = %policy.digest().digest(), "listening");
        }
    }

    fn accept(self, server: &Arc<Server>) -> Vec<JoinHandle<()>> {
        let sockets = self
            .sockets
            .into_iter()
            .map(|(socket, front)| tokio::spawn(Arc::clone(server).accept(socket, front)));
        let tcp = self
            .tcp
            .into_iter()
            .map(|(tcp, front)| tokio::spawn(Arc::clone(server).accept_tcp(tcp, front)));
        sockets.chain(tcp).collect()
    }
}

/// The annex as it was signed, and what it says.
fn read_annex(file: &Path, policy: &Bundle) -> Result<(Vec<u8>, Annex), Error> {
    let signed = read_bounded(file)?;
    // What is signed begins with a byte with which no text begins.
    if std::str::from_utf8(&signed).is_ok() {
        return Err(Error::Config(format!(
            "{}: this is text; sign it: anchorhold annex FILE --operator-key KEY -o annex.cose",
            file.display()
        )));
    }
    let annex = Annex::verify(&signed, &policy.operator_key.0).map_err(|source| Error::Policy {
        file: file.into(),
        source,
    })?;
    policy.check_annex(&annex).map_err(|source| Error::Policy {
        file: file.into(),
        source,
    })?;
    Ok((signed, annex))
}

/// A listening socket that systemd made (sd_listen_fds(3)).
fn activated() -> Result<Option<std::os::unix::net::UnixListener>, Error> {
    let mut given = ListenFd::from_env();
    match given.len() {
        0 => Ok(None),
        1 => given
            .take_unix_listener(0)
            .map_err(|error| Error::Config(format!("the socket that was handed over: {error}"))),
        more => Err(Error::Config(format!(
            "{more} sockets were handed over; one is needed: the agents' Unix socket"
        ))),
    }
}

/// sd_notify(3). Without systemd there is nobody to tell, and nothing goes wrong.
fn tell_systemd(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        warn!(%error, "systemd could not be told");
    }
}

/// All are waited for before anybody is told that we are ready.
fn listen_for_signals() -> std::io::Result<Signals> {
    Signals::new([SIGTERM, SIGINT, SIGHUP])
}

/// Whether it was SIGHUP that came.
async fn hung_up(signals: &mut Signals) -> bool {
    signals.next().await == Some(SIGHUP)
}

struct Server {
    router: Router,
    services: Router,
    app: Arc<App>,
    inspector: Arc<Inspector>,
    callers: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    localhost: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    stopping: watch::Sender<bool>,
    open: watch::Sender<usize>,
}

impl Server {
    fn new(app: App) -> Self {
        let app = Arc::new(app);
        Self {
            router: router(Arc::clone(&app)),
            services: Router::new()
                .fallback(proxied_request)
                .with_state(Arc::clone(&app)),
            app,
            inspector: Arc::default(),
            callers: Arc::new(Semaphore::new(MAX_CALLERS)),
            strangers: Arc::new(Semaphore::new(MAX_STRANGERS)),
            localhost: Arc::new(Semaphore::new(MAX_LOCALHOST)),
            turned_away: Arc::new(Semaphore::new(MAX_TURNED_AWAY)),
            stopping: watch::Sender::new(false),
            open: watch::Sender::new(0),
        }
    }

    async fn accept(self: Arc<Self>, socket: Socket, front: Front) {
        loop {
            match socket.listener.accept().await {
                Ok((stream, _)) => self.meet(stream, socket.name.as_deref(), front),
                Err(error) => pause(&error).await,
            }
        }
    }

    async fn accept_tcp(self: Arc<Self>, listener: TcpListener, front: Front) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let _ = stream.set_nodelay(true);
                    // No place left: closed, and the others do not wait for it.
                    if let Ok(place) = Arc::clone(&self.localhost).try_acquire_owned() {
                        let peer = (Peer::Localhost(from), front);
                        tokio::spawn(Arc::clone(&self).serve(stream, peer, place));
                    }
                }
                Err(error) => pause(&error).await,
            }
        }
    }

    /// Finds out who connected, first of all by what costs nothing.
    fn meet(self: &Arc<Self>, stream: UnixStream, socket: Option<&str>, front: Front) {
        let connected = Connected::of(&stream);
        if connected
            .as_ref()
            .is_ok_and(|peer| self.app.quotas.connects(peer.uid, socket).is_err())
        {
            self.turn_away(stream, front);
            return;
        }
        let known = connected
            .as_ref()
            .is_ok_and(|peer| self.app.admission.may_admit(peer.uid, peer.gid));
        let places = if known {
            &self.callers
        } else {
            &self.strangers
        };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            return;
        };
        let (server, socket) = (Arc::clone(self), socket.map(str::to_owned));
        tokio::spawn(async move {
            match connected {
                Ok(peer) => {
                    let measure = known && server.app.admission.measures();
                    let (stream, seen) = server.inspect(stream, peer, socket, measure).await;
                    match seen {
                        Ok(seen) => {
                            let peer = (peer.pid, seen);
                            server.welcome(stream, peer, place, front).await;
                        }
                        Err(why) => {
                            server
                                .serve(stream, (Peer::Nobody(why), front), place)
                                .await
                        }
                    }
                }
                Err(why) => {
                    server
                        .serve(stream, (Peer::Nobody(why), front), place)
                        .await
                }
            }
        });
    }

    async fn welcome(
        self: Arc<Self>,
        stream: UnixStream,
        (pid, seen): (i32, ObservedCaller),
        place: OwnedSemaphorePermit,
        front: Front,
    ) {
        let quota = self.app.quotas.of(&seen);
        match self.app.quotas.acquire(&quota) {
            Some(held) => {
                let peer = Peer::Unix(Arc::new(Known { seen, quota }));
                self.serve(OneWriter::new(stream, pid), (peer, front), (place, held))
                    .await;
            }
            None => self.turn_away(stream, front),
        }
    }

    /// Answers once that it is too much, if a place is left for that.
    fn turn_away(self: &Arc<Self>, stream: UnixStream, front: Front) {
        self.app
            .metrics
            .limited
            .get_or_create(&Limited {
                limit: "connections",
            })
            .inc();
        if let Ok(place) = Arc::clone(&self.turned_away).try_acquire_owned() {
            tokio::spawn(Arc::clone(self).serve(
                stream,
                (Peer::Nobody(TurnedAway::TooManyConnections), front),
                place,
            ));
        }
    }

    /// Reading an executable may take a while; nobody else waits for it.
    async fn inspect(
        &self,
        stream: UnixStream,
        peer: Connected,
        socket: Option<String>,
        measure: bool,
    ) -> (UnixStream, Result<ObservedCaller, TurnedAway>) {
        if !measure {
            let seen = self.inspector.see(&stream, peer, socket.as_deref(), false);
            return (stream, seen);
        }
        let (inspector, shared) = (Arc::clone(&self.inspector), Arc::new(stream));
        let looked_at = Arc::clone(&shared);
        let seen = tokio::task::spawn_blocking(move || {
            inspector.see(&*looked_at, peer, socket.as_deref(), true)
        })
        .await;
        let seen = seen.unwrap_or(Err(TurnedAway::CallerUnknown));
        (
            Arc::try_unwrap(shared).expect("the other holder has ended"),
            seen,
        )
    }

    /// `_places` are given back at the end.
    async fn serve<S: AsyncRead + AsyncWrite + Send + 'static, P: Send>(
        self: Arc<Self>,
        stream: S,
        (peer, front): (Peer, Front),
        _places: P,
    ) {
        // Who is turned away has one answer, and soon.
        let nobody = matches!(peer, Peer::Nobody(_));
        let limit = if nobody {
            REFUSED_TIMEOUT
        } else {
            CONNECTION_TIMEOUT
        };
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(limit));
        self.app.metrics.connections.inc();
        self.open.send_modify(|open| *open += 1);
        let this = &self;
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            let (router, route) = match front {
                Front::Api => (this.router.clone(), route(request.uri().path())),
                Front::Services => (this.services.clone(), "/{service}"),
            };
            let app = Arc::clone(&this.app);
            request.extensions_mut().insert(peer.clone());
            async move {
                let response = router.oneshot(request).await;
                if let Ok(response) = &response {
                    count(&app.metrics, route, response);
                }
                response
            }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limit)
            .max_buf_size(MAX_HEAD);
        builder.keep_alive(!nobody);
        let connection = builder.serve_connection(TokioIo::new(Box::pin(stream)), service);
        let mut connection = pin!(connection.with_upgrades());
        let mut stopping = self.stopping.subscribe();
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = until(&mut stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "connection ended");
        }
        self.app.metrics.connections.dec();
        self.open.send_modify(|open| *open -= 1);
    }

    /// Lets every connection end with the request that it is at.
    async fn drained(&self) {
        self.stopping.send_replace(true);
        let relay = self.app.relay.as_ref();
        relay.iter().for_each(|relay| relay.tunnels.stop());
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
        if let Some(relay) = relay {
            relay.tunnels.ended().await;
            relay.ends.none().await;
        }
    }

    /// Reads the annex again, and brings it to the enclave.
    async fn reload(&self, file: Option<&Path>) {
        let Some(file) = file else {
            info!("SIGHUP: there is no annex to read again");
            return;
        };
        match read_annex(file, self.app.admission.policy()) {
            Ok((signed, annex)) => {
                let version = annex.version;
                match self.app.enclave.bring_annex(signed).await {
                    Ok(()) => {
                        self.app.admission.set_annex(annex);
                        info!(version, "the annex is in force");
                    }
                    Err(error) => error!(%error, version, "the enclave does not take the annex"),
                }
            }
            Err(error) => error!(%error, "the annex stays as it was"),
        }
    }
}

async fn until(stopping: &mut watch::Receiver<bool>) {
    // A sender that is gone is the end as well.
    let _ = stopping.wait_for(|stopping| *stopping).await.map(drop);
}

fn count(metrics: &Metrics, route: &'static str, response: &Response) {
    let status = response.status().as_u16();
    metrics
        .requests
        .get_or_create(&Handled { route, status })
        .inc();
    if let Some(problem) = response.extensions().get::<Problem>() {
        metrics.refused(problem.code());
        info!(route, status, code = problem.code(), "refused");
    } else {
        debug!(route, status, "answered");
    }
}

/// Out of file descriptors, most likely: it passes.
async fn pause(error: &std::io::Error) {
    error!(%error, "a connection could not be accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// As many open files as the hard limit allows: one for each caller.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
