//! Listens, deals connections out to one runtime for each core, and drains.

use std::convert::Infallible;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http2;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rules::Rules;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tower::{ServiceBuilder, ServiceExt};

use crate::backend::Backend;
use crate::body;
use crate::certificate::Certificate;
use crate::config::{BackendAddress, Config};
use crate::drain::Drain;
use crate::limits::{Limits, Place};
use crate::manifest_page::ManifestPage;
use crate::metrics::Metrics;
use crate::origins::Origins;
use crate::overrides::Approvals;
use crate::policy::{Policy, Trust};
use crate::recorder::{Recorder, Sealed};
use crate::room::Rooms;
use crate::sealer::{Sealer, Sealing};
use crate::service::{From, handle};
use crate::shared::{HEAD_DEADLINE, Shared};
use crate::spans::{Sending, Spans};
use crate::untaken::{Counted, Untaken};
use crate::{Error, operator, origins};

/// Connections at once.
const CONNECTIONS: usize = 4096;

/// For the handshake of TLS.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// A caller that takes nothing of its answer for so long is left.
const WRITE_DEADLINE: Duration = Duration::from_secs(60);
/// Requests of one connection at once, over HTTP/2.
const STREAMS: u32 = 128;
/// What one of them may send ahead, and the longest head, in bytes.
const WINDOW: u32 = 64 << 10;
/// What one connection reads ahead: the longest head of a request, in bytes.
const MAX_BUFFER: usize = 64 << 10;

/// A connection, from where it comes, and the places that it takes.
struct Accepted {
    stream: TcpStream,
    from: IpAddr,
    places: (OwnedSemaphorePermit, Option<Place>),
}

/// Runs until SIGTERM or SIGINT, and drains.
pub fn run(config: Config) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io("starting"))?;
    runtime.block_on(serve(config))
}

async fn serve(mut config: Config) -> Result<(), Error> {
    raise_open_files();
    let (listener, operators) = listen(&config).await?;
    let sealed = match config.signer {
        Some(_) => Sealed::none_yet(),
        None => Sealed::default(),
    };
    let (shared, sending) = share(&mut config, sealed.clone())?;
    let shared = Arc::new(shared);
    if let Some(sending) = sending {
        tokio::spawn(sending.run());
    }
    let sealing = sealing(&config, &shared, sealed)?;
    let mut told = Signals::new([SIGTERM, SIGINT]).map_err(io("signals"))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = (0..cores).map(|_| Worker::start(&config, &shared));
    let workers: Vec<Worker> = workers.collect::<Result<_, _>>()?;
    let is_open = shared.callers.are_anybody();
    let score = shared.policy.trust.score;
    tell(&config, &listener, &operators, is_open, score);
    tokio::spawn(operator::serve(operators, Arc::clone(&shared)));
    let of_manifest = Arc::clone(&shared);
    tokio::spawn(async move {
        if let Some(signer) = &of_manifest.signer {
            let page = &of_manifest.manifest;
            page.keep_signed(signer, &of_manifest.agent_id).await;
        }
    });
    tokio::select! {
        () = accept(&listener, &workers, &shared.limits) => {}
        _ = told.next() => {}
    }
    drop(listener);
    tracing::info!("draining");
    // All of them end at once, each as long as it needs.
    let threads: Vec<JoinHandle<()>> = workers.into_iter().map(Worker::end).collect();
    let ended = tokio::task::spawn_blocking(|| threads.into_iter().for_each(|it| drop(it.join())));
    let _ = ended.await;
    if let Some(recorder) = &shared.recorder {
        recorder.flush().await;
    }
    if let Some(spans) = &shared.spans {
        spans.flush().await;
    }
    if let Some(sealing) = sealing {
        let _ = tokio::task::spawn_blocking(|| sealing.end()).await;
    }
    tracing::info!("ended");
    Ok(())
}

/// Each connection is one, and one to the agent.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

async fn listen(config: &Config) -> Result<(TcpListener, TcpListener), Error> {
    let address = config.address;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| Error::Port { address, source })?;
    let address = config.operator_address;
    let operators = TcpListener::bind(address).await;
    let operators = operators.map_err(|source| Error::MetricsPort { address, source })?;
    Ok((listener, operators))
}

fn share(config: &mut Config, sealed: Sealed) -> Result<(Shared, Option<Sending>), Error> {
    let metrics = Arc::new(Metrics::default());
    let recorder = match &config.log_dir {
        Some(folder) => {
            let agent = &config.manifest.identity.agent_id;
            let opened = Recorder::open(
                folder,
                config.retention,
                agent,
                Arc::clone(&metrics),
                sealed,
            );
            Some(opened.map_err(|source| Error::Folder {
                folder: folder.clone(),
                source,
            })?)
        }
        None => None,
    };
    let spans = match &config.collector {
        Some((endpoint, per_million)) => {
            let agent = &config.manifest.identity.agent_id;
            let (fetch, metrics) = (config.fetch.clone(), Arc::clone(&metrics));
            let made = Spans::new(endpoint, *per_million, agent, fetch, metrics);
            let name = "--otel-endpoint";
            let (spans, sending) = made.map_err(|why| Error::Setting { name, why })?;
            (Some(spans), Some(sending))
        }
        None => (None, None),
    };
    let (spans, sending) = spans;
    let shared = Shared {
        policy: Policy {
            rules: Rules::compile(&config.rules, &config.manifest)?,
            answers: (!config.answer_rules.is_empty())
                .then(|| Rules::compile(&config.answer_rules, &config.manifest))
                .transpose()?,
            trust: Trust::of(&config.manifest, config.profile, config.trust_threshold),
            secret: config.override_secret.clone(),
        },
        recorder,
        metrics,
        max_body: config.max_body,
        rooms: Rooms::new(config.max_body),
        routes: std::mem::take(&mut config.routes),
        callers: std::mem::take(&mut config.callers),
        limits: std::mem::take(&mut config.limits),
        tls: config.tls.take(),
        origins: config.origins.take(),
        reading: Arc::new(Semaphore::new(2)),
        answer_idle: config.answer_idle,
        manifest: ManifestPage::new(config.manifest.document()),
        signer: config.signer.clone(),
        allow_override: config.allow_override,
        approvals: Approvals::default(),
        agent_id: config.manifest.identity.agent_id.clone(),
        spans,
    };
    Ok((shared, sending))
}

/// Lines are sealed in a thread of their own: files are read, and written through to the disk.
fn sealing(config: &Config, shared: &Shared, sealed: Sealed) -> Result<Option<Sealing>, Error> {
    let (Some(folder), Some(signer)) = (&config.log_dir, &config.signer) else {
        return Ok(None);
    };
    let metrics = Arc::clone(&shared.metrics);
    let opened = Sealer::open(folder, signer.clone(), sealed, metrics);
    let sealer = opened.map_err(|source| Error::Folder {
        folder: folder.clone(),
        source,
    })?;
    let sealing = Sealing::start(sealer, config.seal_interval);
    sealing.map(Some).map_err(io("starting the sealer"))
}

fn tell(
    config: &Config,
    listener: &TcpListener,
    operators: &TcpListener,
    is_open: bool,
    score: u8,
) {
    let operator = operators.local_addr().unwrap_or(config.operator_address);
    let address = listener.local_addr().unwrap_or(config.address);
    let backend = match &config.backend {
        BackendAddress::Http { authority, base } => format!("http://{authority}{base}"),
        BackendAddress::Unix(path) => format!("unix://{}", path.display()),
    };
    let agent = &config.manifest.identity.agent_id;
    tracing::info!(%address, %operator, backend, agent, score, "listening");
    match &config.signer {
        Some(signer) => tracing::info!(sidecar = %signer.socket().display(), "an enclave signs"),
        None => tracing::warn!("nothing is signed: this gateway has no enclave"),
    }
    if config.log_dir.is_none() {
        tracing::warn!("nothing is recorded: set --log-dir");
    }
    if !address.ip().is_loopback() && is_open {
        tracing::warn!("anybody who reaches {address} may ask: there is no authentication");
    }
}

/// Accepts, and deals out by turns.
async fn accept(listener: &TcpListener, workers: &[Worker], limits: &Limits) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    for worker in workers.iter().cycle() {
        // Where all places are taken, who comes waits in the kernel's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let accepted = listener.accept().await;
        let accepted = accepted.and_then(|(stream, from)| Ok((stream.into_std()?, from.ip())));
        match accepted {
            Ok((stream, from)) => {
                // Who has too many connections finds this one closed.
                let Some(of_peer) = limits.connect(from) else {
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let _ = worker.connections.send(Accepted {
                    stream,
                    from,
                    places: (place, of_peer),
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// A thread with a runtime and connections of its own.
struct Worker {
    connections: mpsc::UnboundedSender<Accepted>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start(config: &Config, shared: &Arc<Shared>) -> Result<Self, Error> {
        let (connections, accepted) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(io("starting a worker"))?;
        let backend = Arc::new(Backend::new(&config.backend, config.backend_timeout));
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new()
            .name("worker".into())
            .spawn(move || runtime.block_on(work(accepted, shared, backend)))
            .map_err(io("starting a worker"))?;
        Ok(Self {
            connections,
            thread,
        })
    }

    /// No connection comes any more; its thread ends when what is under way has.
    fn end(self) -> JoinHandle<()> {
        self.thread
    }
}

async fn work(
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    shared: Arc<Shared>,
    backend: Arc<Backend>,
) {
    let drain = Drain::default();
    while let Some(accepted) = accepted.recv().await {
        let connection = Connection {
            shared: Arc::clone(&shared),
            backend: Arc::clone(&backend),
            drain: drain.clone(),
        };
        tokio::spawn(async move {
            if let Err(error) = connection.serve(accepted).await {
                tracing::debug!(error, "a connection broke off");
            }
        });
    }
    drain.end().await;
}

/// What one connection is served with.
struct Connection {
    shared: Arc<Shared>,
    backend: Arc<Backend>,
    drain: Drain,
}

impl Connection {
    async fn serve(self, accepted: Accepted) -> Result<(), body::Error> {
        let stream = tokio::net::TcpStream::from_std(accepted.stream)?;
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_DEADLINE));
        let stream = Box::pin(stream);
        let mut from = From {
            address: accepted.from,
            certificate: None,
            _places: accepted.places,
            drain: self.drain.clone(),
        };
        let Some(tls) = &self.shared.tls else {
            let is_http2 = begins_http2(stream.get_ref()).await?;
            return self.http(TokioIo::new(stream), from, is_http2).await;
        };
        let acceptor = TlsAcceptor::from(tls.get());
        let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream));
        let stream = handshake.await??;
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().and_then(<[_]>::first);
        from.certificate = shown.map(|shown| Certificate::of(shown));
        let is_http2 = session.alpn_protocol() == Some(b"h2");
        self.http(TokioIo::new(stream), from, is_http2).await
    }

    async fn http<I>(self, stream: I, from: From, is_http2: bool) -> Result<(), body::Error>
    where
        I: Read + Write + Unpin + Send + 'static,
    {
        match is_http2 {
            true => self.http2(stream, from).await,
            false => self.http1(stream, from).await,
        }
    }

    async fn http1<I>(self, stream: I, from: From) -> Result<(), body::Error>
    where
        I: Read + Write + Unpin + Send + 'static,
    {
        let Some(watcher) = self.drain.watcher() else {
            return Ok(());
        };
        let untaken = Untaken::default();
        let service = service(self.shared, self.backend, from, untaken.clone());
        let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(MAX_BUFFER);
        let connection = builder.serve_connection_with_upgrades(stream, service);
        tokio::select! {
            served = watcher.watch(connection) => served,
            () = untaken.wait() => Err("an answer was not taken".into()),
        }
    }

    async fn http2<I>(self, stream: I, from: From) -> Result<(), body::Error>
    where
        I: Read + Write + Unpin + Send + 'static,
    {
        let Some(watcher) = self.drain.watcher() else {
            return Ok(());
        };
        let untaken = Untaken::of_all();
        let service = service(self.shared, self.backend, from, untaken.clone());
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(WINDOW)
            .initial_stream_window_size(WINDOW)
            .max_send_buf_size(MAX_BUFFER)
            .keep_alive_interval(Some(HEAD_DEADLINE))
            .serve_connection(stream, service);
        tokio::select! {
            served = watcher.watch(connection) => served.map_err(Into::into),
            () = untaken.idle(HEAD_DEADLINE) => Ok(()),
            () = untaken.wait() => Err("an answer was not taken".into()),
        }
    }
}

/// Whether what comes is HTTP/2 without TLS, by prior knowledge (RFC 9113 section 3.3). Takes nothing
/// away from it.
async fn begins_http2(stream: &tokio::net::TcpStream) -> Result<bool, body::Error> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const LONGEST: Duration = Duration::from_millis(500);
    let looked = async {
        let mut again = Duration::from_millis(5);
        let mut begin = [0; PREFACE.len()];
        loop {
            let length = stream.peek(&mut begin).await?;
            let is_so_far = begin[..length] == PREFACE[..length];
            match length {
                0 => return Ok(false),
                _ if !is_so_far => return Ok(false),
                _ if length == PREFACE.len() => return Ok(true),
                // The rest is on its way: nobody is told when there is more than a part to look at.
                _ => {
                    tokio::time::sleep(again).await;
                    again = LONGEST.min(again * 2);
                }
            }
        }
    };
    tokio::time::timeout(HEAD_DEADLINE, looked).await?
}

type Answered = Result<Response<Counted>, Infallible>;

/// Answers the requests of one connection, with what browsers want to know first.
fn service(
    shared: Arc<Shared>,
    backend: Arc<Backend>,
    from: From,
    untaken: Untaken,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response<Counted>,
    Error = Infallible,
    Future: Send,
> {
    let cors = shared.origins.as_ref().map(Origins::layer);
    let from = Arc::new(from);
    let known = Arc::clone(&shared);
    let answer = tower::service_fn(move |request| {
        let (shared, backend) = (Arc::clone(&shared), Arc::clone(&backend));
        let (from, untaken) = (Arc::clone(&from), untaken.clone());
        // It is large, and handed on from layer to layer.
        Box::pin(async move {
            let open = untaken.open();
            let response = handle(&shared, &backend, &from, request).await;
            Answered::Ok(response.map(|body| Counted::new(body, untaken, open)))
        })
    });
    let for_pages = ServiceBuilder::new()
        .option_layer(cors)
        .service(answer.clone());
    TowerToHyperService::new(tower::service_fn(move |request: Request<Incoming>| {
        // Pages of origins that are not listed are told so, by whatever method they ask.
        let may_ask = origins::may_ask(known.origins.as_ref(), request.headers());
        let (for_pages, answer) = (for_pages.clone(), answer.clone());
        async move {
            match may_ask {
                true => for_pages.oneshot(request).await,
                false => answer.oneshot(request).await,
            }
        }
    }))
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { what, source }
}
