//! Listening, serving, draining.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tower::ServiceExt;
use tracing::{debug, error, info, warn};

use crate::api::{App, MAX_VERIFYING, Peer, Problem, route, router};
use crate::caller::Caller;
use crate::exit_reasons::ExitReasons;
use crate::link::Link;
use crate::metrics::{Handled, Metrics, Refused};
use crate::socket::Socket;
use crate::{Config, Error, KeyFile};

/// Connections of callers whom the policy names; more are closed at once.
const MAX_CALLERS: usize = 4096;
/// Connections of others on the Unix socket: they get an answer, and keep nobody out.
const MAX_STRANGERS: usize = 64;
/// Connections on localhost, where nobody is known before the first request.
const MAX_LOCALHOST: usize = 512;
/// For a request's head to arrive, and for a connection to lie idle.
const PATIENCE: Duration = Duration::from_secs(30);
/// The head and the buffer of one connection.
const MAX_HEAD: usize = 16 * 1024;

/// Serves until SIGTERM or SIGINT, then drains.
pub async fn run(config: Config) -> Result<(), Error> {
    raise_file_limit();
    let key = KeyFile::read(&config.proxy_key)?;
    let metrics = Arc::new(Metrics::new());
    let socket = match activated()? {
        Some(listener) => Socket::inherited(listener)?,
        None => Socket::bind(&config.socket, &config.policy)?,
    };
    let mut localhost = config.localhost;
    let tcp = match &mut localhost {
        Some(localhost) => {
            let listener = TcpListener::bind(localhost.listen).await?;
            localhost.listen = listener.local_addr()?;
            info!(address = %localhost.listen, "listening on localhost; callers show tokens");
            Some(listener)
        }
        None => None,
    };
    let exit_reasons = ExitReasons::listen(&config.enclave, Arc::clone(&metrics));
    let link = Link::start(config.enclave, key, &config.policy, config.connections, Arc::clone(&metrics));
    if *link.proxy_key() != config.policy.proxy_key.0 {
        return Err(Error::KeyFile { file: config.proxy_key, why: "not the key that the policy names as proxy_key" });
    }
    info!(socket = %socket.path().display(), policy = %config.policy.digest().digest(), "listening");
    let app =
        Arc::new(App { link, policy: config.policy, localhost, metrics, verifying: Arc::new(Semaphore::new(MAX_VERIFYING)) });
    let server = Server {
        router: router(Arc::clone(&app)),
        app,
        graceful: GracefulShutdown::new(),
        callers: Arc::new(Semaphore::new(MAX_CALLERS)),
        strangers: Arc::new(Semaphore::new(MAX_STRANGERS)),
        localhost: Arc::new(Semaphore::new(MAX_LOCALHOST)),
    };
    let mut stop = Stop { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    // Requests are answered from here on, with 503 until the enclave is there: what waits for this service can start.
    tell_systemd(&NotifyState::Ready);
    server.accept_until_told_to_stop(&socket, tcp.as_ref(), &mut stop).await;
    // No new caller from here on.
    drop(socket);
    drop(tcp);
    tell_systemd(&NotifyState::Stopping);
    info!("draining");
    let drained = tokio::time::timeout(Duration::from_secs(config.drain_seconds), server.graceful.shutdown()).await;
    if drained.is_err() {
        warn!("requests were still under way when the time to drain was over");
    }
    drop(exit_reasons);
    info!("stopped");
    Ok(())
}

/// A listening socket that systemd made (sd_listen_fds(3)).
fn activated() -> Result<Option<std::os::unix::net::UnixListener>, Error> {
    let mut given = ListenFd::from_env();
    match given.len() {
        0 => Ok(None),
        1 => given.take_unix_listener(0).map_err(|error| Error::Config(format!("the socket that was handed over: {error}"))),
        more => Err(Error::Config(format!("{more} sockets were handed over; one is needed: the agents' Unix socket"))),
    }
}

/// sd_notify(3). Without systemd there is nobody to tell, and nothing goes wrong.
fn tell_systemd(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        warn!(%error, "systemd could not be told");
    }
}

/// SIGTERM or SIGINT; both are waited for before anybody is told that we are ready.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

struct Server {
    router: Router,
    app: Arc<App>,
    graceful: GracefulShutdown,
    callers: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    localhost: Arc<Semaphore>,
}

impl Server {
    async fn accept_until_told_to_stop(&self, socket: &Socket, tcp: Option<&TcpListener>, stop: &mut Stop) {
        loop {
            tokio::select! {
                accepted = socket.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let caller = Caller::of_peer(&stream, &self.app.policy);
                        let known = caller.as_ref().is_ok_and(|caller| caller.admitted || caller.own);
                        self.serve::<UnixStream>(stream, Peer::Unix(caller), if known { &self.callers } else { &self.strangers });
                    }
                    Err(error) => pause(&error).await,
                },
                accepted = accept_tcp(tcp) => match accepted {
                    Ok(stream) => self.serve(stream, Peer::Localhost, &self.localhost),
                    Err(error) => pause(&error).await,
                },
                _ = stop.terminate.recv() => return,
                _ = stop.interrupt.recv() => return,
            }
        }
    }

    fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S, peer: Peer, places: &Arc<Semaphore>) {
        // No place left: closed, and the others do not wait for it.
        let Ok(place) = Arc::clone(places).try_acquire_owned() else { return };
        let (router, app) = (self.router.clone(), Arc::clone(&self.app));
        app.metrics.connections.inc();
        let counted = Arc::clone(&app.metrics);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            let (router, app) = (router.clone(), Arc::clone(&app));
            let route = route(request.uri().path());
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
        builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(MAX_HEAD).pipeline_flush(true);
        let connection = self.graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "connection ended");
            }
            counted.connections.dec();
            drop(place);
        });
    }
}

fn count(metrics: &Metrics, route: &'static str, response: &Response) {
    let status = response.status().as_u16();
    metrics.requests.get_or_create(&Handled { route, status }).inc();
    if let Some(problem) = response.extensions().get::<Problem>() {
        metrics.refusals.get_or_create(&Refused { code: problem.code().to_owned() }).inc();
        info!(route, status, code = problem.code(), "refused");
    } else {
        debug!(route, status, "answered");
    }
}

async fn accept_tcp(listener: Option<&TcpListener>) -> std::io::Result<tokio::net::TcpStream> {
    match listener {
        Some(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        }
        None => std::future::pending().await,
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
