//! Listens, deals connections out to one runtime for each core, and drains.

use std::convert::Infallible;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use rules::Rules;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::backend::Backend;
use crate::config::{BackendAddress, Config};
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::recorder::Recorder;
use crate::service::{HEAD_DEADLINE, ManifestPage, Shared, handle};
use crate::{Error, operator};

/// What is under way at the end has so long.
const DRAIN: Duration = Duration::from_secs(30);
/// Connections at once.
const CONNECTIONS: usize = 4096;

type Accepted = (TcpStream, OwnedSemaphorePermit);

/// Runs until SIGTERM or SIGINT, and drains.
pub fn run(config: Config) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io("starting"))?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), Error> {
    let (listener, operators) = listen(&config).await?;
    let shared = Arc::new(share(&config)?);
    let mut terminated = signal(SignalKind::terminate()).map_err(io("signals"))?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(io("signals"))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = (0..cores).map(|_| Worker::start(&config, &shared));
    let workers: Vec<Worker> = workers.collect::<Result<_, _>>()?;
    tell(&config, &listener, &operators);
    tokio::spawn(operator::serve(operators, Arc::clone(&shared)));
    tokio::select! {
        () = accept(&listener, &workers) => {}
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    drop(listener);
    tracing::info!("draining");
    let ended = tokio::task::spawn_blocking(|| workers.into_iter().for_each(Worker::end));
    let _ = ended.await;
    tracing::info!("ended");
    Ok(())
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

fn share(config: &Config) -> Result<Shared, Error> {
    let metrics = Arc::new(Metrics::default());
    let recorder = match &config.log_dir {
        Some(folder) => {
            let agent = &config.manifest.identity.agent_id;
            let opened = Recorder::open(folder, config.retention, agent, Arc::clone(&metrics));
            Some(opened.map_err(|source| Error::File {
                file: folder.clone(),
                source,
            })?)
        }
        None => None,
    };
    Ok(Shared {
        policy: Policy {
            rules: Rules::compile(&config.rules, &config.manifest)?,
            score: config.manifest.trust_score(),
            threshold: config.trust_threshold,
            secret: config.override_secret.clone(),
        },
        recorder,
        metrics,
        max_body: config.max_body,
        manifest: ManifestPage::new(config.manifest.document()),
    })
}

fn tell(config: &Config, listener: &TcpListener, operators: &TcpListener) {
    let operator = operators.local_addr().unwrap_or(config.operator_address);
    let address = listener.local_addr().unwrap_or(config.address);
    let backend = match &config.backend {
        BackendAddress::Http { authority, base } => format!("http://{authority}{base}"),
        BackendAddress::Unix(path) => format!("unix://{}", path.display()),
    };
    let agent = &config.manifest.identity.agent_id;
    let score = config.manifest.trust_score();
    tracing::info!(%address, %operator, backend, agent, score, "listening");
    tracing::warn!("nothing is signed: this gateway has no enclave");
    if config.log_dir.is_none() {
        tracing::warn!("nothing is recorded: set --log-dir");
    }
    if !address.ip().is_loopback() {
        tracing::warn!("anybody who reaches {address} may ask: there is no authentication");
    }
}

/// Accepts, and deals out by turns.
async fn accept(listener: &TcpListener, workers: &[Worker]) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    for worker in workers.iter().cycle() {
        // Where all places are taken, who comes waits in the kernel's queue.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener
            .accept()
            .await
            .and_then(|(stream, _)| stream.into_std())
        {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                let _ = worker.connections.send((stream, place));
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

    /// No connection comes any more; waits for what is under way.
    fn end(self) {
        drop(self.connections);
        let _ = self.thread.join();
    }
}

async fn work(
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    shared: Arc<Shared>,
    backend: Arc<Backend>,
) {
    let graceful = GracefulShutdown::new();
    while let Some((stream, place)) = accepted.recv().await {
        let Ok(stream) = tokio::net::TcpStream::from_std(stream) else {
            continue;
        };
        let (shared, backend) = (Arc::clone(&shared), Arc::clone(&backend));
        let service = service_fn(move |request| {
            let (shared, backend) = (Arc::clone(&shared), Arc::clone(&backend));
            async move { Ok::<_, Infallible>(handle(&shared, &backend, request).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .serve_connection(TokioIo::new(stream), service);
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = watched.await {
                tracing::debug!(%error, "a connection broke off");
            }
            drop(place);
        });
    }
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { what, source }
}
