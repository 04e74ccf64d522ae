//! Calls to a service through the enclave, beside a TLS connection of the client's own and beside a bare
//! reverse proxy with rustls that adds the same header; all in one run, in front of one service.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::services::{PLACEHOLDER, With, bundle, config, free_port, pem, put_at};
use harness::{Running, now, raw};
use http_body_util::channel::Channel;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::load::{self, Load};
use crate::process::{Peer, cpu_seconds, family, itself, proportional_kib, resident_kib};
use crate::{CONNECTIONS, line, micros};

/// What the certificate of the service is for.
const NAME: &str = "api.example";
const ANSWER: usize = 1024;
const BIG: usize = 100_000_000;
const PIECE: usize = 64 * 1024;
const EVENTS: usize = 200;
const AGENTS: usize = 1000;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// They are not all the same, so that a search has something to look at.
fn piece() -> Bytes {
    let piece: Vec<u8> = (0..PIECE).map(|at| b' ' + (at * at % 90) as u8).collect();
    Bytes::from(piece)
}

/// As many bytes, in pieces.
fn many(count: usize) -> Body {
    let piece = piece();
    let (mut sender, body) = Channel::new(4);
    spawn_local(async move {
        for at in (0..count).step_by(PIECE) {
            let length = PIECE.min(count - at);
            if sender.send_data(piece.slice(..length)).await.is_err() {
                return;
            }
        }
    });
    body.boxed_unsync()
}

/// The clock that all processes of this machine share.
fn nanos() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

// The service.

/// Answers over TLS, with the certificate that lies in this folder; says on which port.
pub(crate) fn upstream(folder: &Path) {
    let read = |name: &str| fs::read(folder.join(name)).expect("a file");
    let certificate = CertificateDer::from(read("leaf.der"));
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(read("leaf.key")));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate and its key");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    serve(
        move |stream| {
            let acceptor = acceptor.clone();
            async move { acceptor.accept(stream).await.ok() }
        },
        async |request: Request<Incoming>| {
            let path = request.uri().path().to_owned();
            match path
                .strip_prefix("/v1/files/")
                .and_then(|size| size.parse().ok())
            {
                Some(size) => {
                    let mut response = Response::new(many(size));
                    response
                        .headers_mut()
                        .insert(CONTENT_LENGTH, HeaderValue::from(size));
                    response
                }
                None if path == "/v1/models" => Response::new(events()),
                None => {
                    let mut body = request.into_body();
                    while let Some(Ok(_)) = body.frame().await {}
                    Response::new(full(vec![b'x'; ANSWER]))
                }
            }
        },
    );
}

/// Each event says when it was written.
fn events() -> Body {
    let (mut sender, body) = Channel::new(1);
    spawn_local(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        for _ in 0..EVENTS {
            ticks.tick().await;
            let event = format!("data: {:020}\n\n", nanos());
            if sender.send_data(event.into()).await.is_err() {
                return;
            }
        }
    });
    body.boxed_unsync()
}

// The bare proxy.

/// Passes everything on to the service at this port, with another bearer; says on which port.
pub(crate) fn bare(folder: &Path, port: &str) {
    let authority: &'static str = format!("127.0.0.1:{port}").leak();
    let config = client_config(folder);
    let name = ServerName::try_from(NAME).expect("a name");
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.enforce_http(false);
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .with_server_name_resolver(FixedServerNameResolver::new(name))
        .enable_http1()
        .wrap_connector(connector);
    let client: Client<HttpsConnector<HttpConnector>, Incoming> =
        Client::builder(TokioExecutor::new()).build(https);
    serve(
        async |stream| Some(stream),
        move |mut request: Request<Incoming>| {
            let client = client.clone();
            async move {
                let path = request.uri().path().replacen("/api", "/v1", 1);
                let uri = Uri::builder().scheme("https").authority(authority);
                *request.uri_mut() = uri.path_and_query(path).build().expect("a URI");
                let headers = request.headers_mut();
                headers.insert(HOST, HeaderValue::from_static(NAME));
                headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer another"));
                match client.request(request).await {
                    Ok(answer) => answer.map(BodyExt::boxed_unsync),
                    Err(_) => {
                        let mut response = Response::new(full(""));
                        *response.status_mut() = StatusCode::BAD_GATEWAY;
                        response
                    }
                }
            }
        },
    );
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn client_config(folder: &Path) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let root = fs::read(folder.join("root.der")).expect("a file");
    roots.add(root.into()).expect("a root");
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Serves on one thread, as the processes do that it is compared with, and says on which port.
fn serve<S, F>(
    open: impl Fn(TcpStream) -> F,
    answer: impl AsyncFn(Request<Incoming>) -> Response<Body> + Clone + 'static,
) where
    F: Future<Output = Option<S>> + 'static,
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    LocalSet::new().block_on(&runtime(), async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        println!("{}", listener.local_addr().expect("an address").port());
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let (opened, answer) = (open(stream), answer.clone());
            spawn_local(async move {
                let Some(stream) = opened.await else { return };
                let service =
                    service_fn(async |request| Ok::<_, Infallible>(answer(request).await));
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

// The client.

/// How a client comes to the service.
#[derive(Clone)]
enum Way {
    Direct(u16, TlsConnector),
    Bare(u16),
    Port(u16),
    Socket(PathBuf),
}

impl Way {
    async fn connect(&self) -> SendRequest<Body> {
        match self {
            Self::Direct(port, tls) => {
                let name = ServerName::try_from(NAME).expect("a name");
                handshake(tls.connect(name, tcp(*port).await).await.expect("TLS")).await
            }
            Self::Bare(port) | Self::Port(port) => handshake(tcp(*port).await).await,
            Self::Socket(path) => {
                handshake(UnixStream::connect(path).await.expect("a connection")).await
            }
        }
    }

    fn request(&self, method: &str, path: &str, body: Body) -> Request<Body> {
        let (base, host) = match self {
            Self::Direct(..) => ("/v1", NAME.to_owned()),
            Self::Bare(port) | Self::Port(port) => ("/api", format!("127.0.0.1:{port}")),
            Self::Socket(_) => ("/api", "localhost".to_owned()),
        };
        Request::builder()
            .method(method)
            .uri(format!("{base}{path}"))
            .header(HOST, host)
            .header(AUTHORIZATION, format!("Bearer {PLACEHOLDER}"))
            .header("content-type", "application/json")
            .body(body)
            .expect("a request")
    }

    fn chat(&self) -> Request<Body> {
        self.request("POST", "/chat", full(vec![b' '; ANSWER]))
    }
}

async fn tcp(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).await;
    let stream = stream.expect("a connection");
    stream.set_nodelay(true).expect("an option");
    stream
}

async fn handshake(stream: impl AsyncRead + AsyncWrite + Unpin + 'static) -> SendRequest<Body> {
    let made = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = made.expect("HTTP");
    spawn_local(async move {
        let _ = connection.await;
    });
    sender
}

/// One call, whole; gives how many bytes came.
async fn call(sender: &mut SendRequest<Body>, request: Request<Body>) -> usize {
    sender.ready().await.expect("a connection that is kept");
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.expect("a whole answer");
        length += frame.data_ref().map_or(0, Bytes::len);
    }
    length
}

/// One call after another; how long each took.
fn one_by_one(way: &Way, count: usize) -> Vec<Duration> {
    LocalSet::new().block_on(&runtime(), async {
        let mut sender = way.connect().await;
        let mut times = Vec::new();
        for _ in 0..count {
            let begun = Instant::now();
            call(&mut sender, way.chat()).await;
            times.push(begun.elapsed());
        }
        times
    })
}

/// On as many connections for as long: one call after another, or so many in each second.
fn at_once(way: &Way, connections: usize, seconds: f64, rate: Option<f64>) -> Vec<Duration> {
    LocalSet::new().block_on(&runtime(), async {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        let client = |index: usize| {
            let way = way.clone();
            async move {
                let mut sender = way.connect().await;
                let pause = rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
                let part = index as f64 / connections as f64;
                let mut next = Instant::now() + pause.unwrap_or_default().mul_f64(part);
                let mut times = Vec::new();
                while Instant::now() < end {
                    if let Some(pause) = pause {
                        tokio::time::sleep_until(next.into()).await;
                        next += pause;
                    }
                    let begun = Instant::now();
                    call(&mut sender, way.chat()).await;
                    times.push(begun.elapsed());
                }
                times
            }
        };
        let clients: Vec<_> = (0..connections)
            .map(|index| spawn_local(client(index)))
            .collect();
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.await.expect("a client"));
        }
        all
    })
}

/// How long after its writing each event of a stream arrived.
fn delays(way: &Way) -> Vec<Duration> {
    LocalSet::new().block_on(&runtime(), async {
        let mut sender = way.connect().await;
        let request = way.request("GET", "/models", full(""));
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.into_body();
        let mut delays = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.expect("a whole answer");
            let data = frame.data_ref().expect("data");
            let text = std::str::from_utf8(data).expect("text");
            let written: u64 = text[6..26].parse().expect("when it was written");
            delays.push(Duration::from_nanos(nanos() - written));
        }
        assert_eq!(delays.len(), EVENTS);
        delays
    })
}

/// Megabytes in a second, down and up.
fn rates(way: &Way) -> [f64; 2] {
    LocalSet::new().block_on(&runtime(), async {
        let mut sender = way.connect().await;
        let begun = Instant::now();
        let down = way.request("GET", &format!("/files/{BIG}"), full(""));
        assert_eq!(call(&mut sender, down).await, BIG);
        let down = BIG as f64 / 1e6 / begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let mut up = way.request("POST", "/files/new", many(BIG));
        up.headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(BIG));
        call(&mut sender, up).await;
        [down, BIG as f64 / 1e6 / begun.elapsed().as_secs_f64()]
    })
}

fn at(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[times.len() * percent / 100]
}

/// Where a certificate of the service and its root lie, and the root in PEM.
fn certificates(folder: &Path) -> String {
    let root_key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("a certificate");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&root_key).expect("a root");
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec![NAME.to_owned()]).expect("a certificate");
    let leaf = leaf.signed_by(&key, &Issuer::from_params(&params, &root_key));
    let leaf = leaf.expect("a certificate");
    let files = [
        ("root.der", root.der().to_vec()),
        ("leaf.der", leaf.der().to_vec()),
        ("leaf.key", key.serialize_der()),
    ];
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).expect("a file");
    }
    pem(root.der())
}

/// Everything that is measured, started.
struct Parts {
    _service: Peer,
    bare: Peer,
    running: Running,
    ways: [(&'static str, Way); 3],
    socket: PathBuf,
}

impl Parts {
    fn start(folder: &Path) -> Self {
        let root = certificates(folder);
        let place = folder.to_str().expect("UTF-8");
        let service = itself(&["service", place]);
        let bare = itself(&["service-bare", place, &service.port.to_string()]);
        let port = free_port();
        let address = (std::net::Ipv4Addr::LOCALHOST, service.port).into();
        let lines = config(address, port, "");
        let limits = "[limits]\nrequests_per_second = 0\nconnections = 2000\n";
        let running = Running::prepared(
            |state| bundle(state, &root, &With::default()),
            &lines.replacen("[proxy]", &format!("{limits}[proxy]"), 1),
            &[],
        );
        let socket = running.folder().join("proxy/agentkeys-proxy.sock");
        put_at(&running.state, &running.socket, now().0);
        let tls = TlsConnector::from(Arc::new(client_config(folder)));
        let ways = [
            ("direct", Way::Direct(service.port, tls)),
            ("bare proxy", Way::Bare(bare.port)),
            ("anchorhold", Way::Port(port)),
        ];
        Self {
            _service: service,
            bare,
            running,
            ways,
            socket,
        }
    }

    /// The sidecar, the enclave and the processes that it has started.
    fn own(&self) -> Vec<u32> {
        let mut own = family(self.running.enclave.pid());
        own.push(self.running.sidecar.pid());
        own
    }
}

/// Prints the figures.
pub(crate) fn figures() {
    let folder = tempfile::tempdir().expect("a folder");
    idle(&Parts::start(folder.path()));
    let parts = Parts::start(folder.path());
    let [_, bare, own] = &parts.ways;
    for (_, way) in &parts.ways {
        one_by_one(way, 50);
    }
    let turns = |rounds: usize, measure: &dyn Fn(&Way) -> Vec<Duration>| {
        let mut all: [Vec<Duration>; 3] = Default::default();
        for _ in 0..rounds {
            for (times, (_, way)) in all.iter_mut().zip(&parts.ways) {
                times.extend(measure(way));
            }
        }
        all
    };
    let show = |what: &str, mut times: [Vec<Duration>; 3], wanted: &str| {
        for percent in [50, 99] {
            let all = times.each_mut().map(|times| at(times, percent));
            for ((name, _), time) in parts.ways.iter().zip(all) {
                line(
                    &format!("{what}, {name}, p{percent} (us)"),
                    &micros(time),
                    "",
                );
            }
            let added = micros(all[2].saturating_sub(all[0]));
            let wanted = if percent == 50 { wanted } else { "" };
            line(&format!("  added, p{percent} (us)"), &added, wanted);
        }
    };
    show(
        "1 connection",
        turns(5, &|way| one_by_one(way, 400)),
        "<= 1000",
    );
    show(
        "50 connections, each 20/s",
        turns(2, &|way| at_once(way, 50, 5.0, Some(20.0))),
        "<= 5000",
    );
    show(
        "an event of a stream",
        turns(2, &|way| delays(way)),
        "<= 1000",
    );
    costs(&parts, &bare.1, &own.1);
    large(&parts);
}

/// CPU of one call, beside that of the bare proxy and of one signature.
fn costs(parts: &Parts, bare: &Way, own: &Way) {
    let load = Load {
        connections: CONNECTIONS,
        seconds: 5.0,
        rate: None,
        limit: u64::MAX,
    };
    let body = br#"{"payload":{"action":"transfer","amount":100},"intent":"authorization"}"#;
    let request = raw("/sign", Some(body));
    let pids = parts.own();
    let sign = load::measure(&parts.running.socket, &request, &load, &pids).server_cpu;
    let cost = |way: &Way, pids: &[u32]| {
        let used = || pids.iter().map(|pid| cpu_seconds(*pid));
        let before: Vec<f64> = used().collect();
        let count = at_once(way, 16, 5.0, None).len() as f64;
        let each = used().zip(before);
        let each: Vec<f64> = each
            .map(|(after, before)| (after - before) / count)
            .collect();
        (each, count / 5.0)
    };
    let (of_bare, rate_of_bare) = cost(bare, &parts.bare.processes());
    let (of_each, rate) = cost(own, &pids);
    let (of_bare, of_own) = (of_bare.iter().sum::<f64>(), of_each.iter().sum::<f64>());
    let each = |name: &str, seconds: f64| line(name, &format!("{:.1}", seconds * 1e6), "");
    each("CPU of one call of 1 KiB, bare proxy (us)", of_bare);
    each("CPU of one /sign (us)", sign);
    each("CPU of one call of 1 KiB, anchorhold (us)", of_own);
    each("  of it, the sidecar (us)", of_each[pids.len() - 1]);
    each(
        "  of it, the process with the keys (us)",
        of_each[pids.len() - 2],
    );
    let ratio = format!("{:.2} x", of_own / (of_bare + sign));
    line("  ratio to (bare proxy + one /sign)", &ratio, "<= 1.3 x");
    line(
        "rate, 16 connections, bare proxy (1/s)",
        &format!("{rate_of_bare:.0}"),
        "",
    );
    line(
        "rate, 16 connections, anchorhold (1/s)",
        &format!("{rate:.0}"),
        "",
    );
}

/// How fast a credential is looked for, in megabytes a second.
fn search() -> f64 {
    let needles = broker::Needles::new(&[harness::services::SECRET.as_bytes()]);
    let piece = piece();
    let mut best = 0.0_f64;
    for _ in 0..3 {
        let mut scrubber = broker::Scrubber::new(&needles, policy::Scrub::Refuse);
        let begun = Instant::now();
        for _ in 0..BIG / PIECE {
            // As much as TLS gives at once.
            for at in (0..PIECE).step_by(16 * 1024) {
                let clean = scrubber.push(piece.slice(at..at + 16 * 1024));
                assert!(clean.is_ok());
            }
        }
        best = best.max(BIG as f64 / 1e6 / begun.elapsed().as_secs_f64());
    }
    best
}

fn large(parts: &Parts) {
    let mut best = [[0.0_f64; 2]; 3];
    for _ in 0..3 {
        for (best, (_, way)) in best.iter_mut().zip(&parts.ways) {
            let now = rates(way);
            *best = [best[0].max(now[0]), best[1].max(now[1])];
        }
    }
    for (at, what) in ["down", "up"].into_iter().enumerate() {
        for ((name, _), best) in parts.ways.iter().zip(&best) {
            line(
                &format!("100 MB {what}, {name} (MB/s, best of 3)"),
                &format!("{:.0}", best[at]),
                "",
            );
        }
        let ratio = format!("{:.2} x", best[2][at] / best[1][at]);
        line("  ratio to the bare proxy", &ratio, "");
    }
    let (search, down) = (search(), best[2][0]);
    line(
        "search for a credential alone (MB/s, best of 3)",
        &format!("{search:.0}"),
        "",
    );
    // What it would be if the search took no time.
    let unscanned = 1.0 / (1.0 / down - 1.0 / search);
    let ratio = format!("{:.2} x", down / unscanned);
    line(
        "  100 MB down, ratio to the same without it",
        &ratio,
        ">= 0.7 x",
    );
}

/// As many agents that have each made a call and stay connected, on the Unix socket.
fn idle(parts: &Parts) {
    let way = Way::Socket(parts.socket.clone());
    LocalSet::new().block_on(&runtime(), async {
        let mut held = Vec::new();
        for _ in 0..AGENTS {
            let mut sender = way.connect().await;
            call(&mut sender, way.chat()).await;
            held.push(sender);
        }
        let sidecar = resident_kib(parts.running.sidecar.pid()) / 1024;
        let enclave: u64 = family(parts.running.enclave.pid())
            .iter()
            .map(|pid| proportional_kib(*pid))
            .sum();
        let enclave = enclave / 1024;
        line(
            &format!("{AGENTS} idle agents, sidecar (MiB)"),
            &sidecar.to_string(),
            "",
        );
        line(
            "  enclave and its processes (MiB)",
            &enclave.to_string(),
            "",
        );
        line(
            "  together (MiB)",
            &(sidecar + enclave).to_string(),
            "<= 60",
        );
    });
}
