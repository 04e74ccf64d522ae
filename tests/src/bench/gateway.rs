//! The gateway beside plain proxies (nginx, HAProxy, where they are installed) and beside a bare hyper
//! proxy with the same inspection, all in front of one agent, asked by `wrk`.

use std::convert::Infallible;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::process::{Peer, itself, resident_kib};
use harness::program;

const SECONDS: u32 = 6;

/// What `wrk` saw, and the CPU of one request in microseconds.
struct Seen {
    rate: f64,
    p50: String,
    p99: String,
    cpu: f64,
}

/// How many bytes of a text are looked through in a second.
pub(crate) fn scanner() {
    let words = "some words of a letter to nobody, about nothing that matters, and then again ";
    let numbers = "1763942400 20261129 100234 12 4532015112830367 3.14159 99 ";
    let task = r#"{"task":"book","user":"alice","notes":["from 2026-11-29 to 2026-12-04, two rooms, 4 people, order 100234"],"n":17}"#;
    let many = |text: &str| text.repeat((1 << 20) / text.len());
    let (words, numbers) = (many(words), many(numbers));
    let list = format!("[{}]", vec![task; (1 << 20) / task.len()].join(","));
    let time = |what: &str, bytes: usize, look: &dyn Fn()| {
        let begun = std::time::Instant::now();
        let mut rounds = 0;
        while rounds < 3 || begun.elapsed() < Duration::from_millis(500) {
            look();
            rounds += 1;
        }
        let rate = (bytes * rounds) as f64 / begun.elapsed().as_secs_f64() / 1e6;
        println!("{what}: {rate:.0} MB/s");
    };
    let decide = inspect::Purpose::Decide;
    time("words", words.len(), &|| {
        assert!(inspect::text(&words, decide).is_empty())
    });
    time("numbers", numbers.len(), &|| {
        assert!(inspect::text(&numbers, decide).is_empty())
    });
    time("JSON", list.len(), &|| {
        let found = inspect::json(list.as_bytes(), decide);
        assert!(found.is_ok_and(|found| found.kinds().is_empty()));
    });
}

/// Prints the figures.
pub(crate) fn figures() {
    scanner();
    let folder = tempfile::tempdir().expect("a folder");
    let agent = itself(&["gateway-agent"]);
    let bare = itself(&["gateway-bare", &agent.port.to_string()]);
    let plain = gateway(folder.path(), agent.port, &[]);
    let log = folder.path().join("log");
    let recording = gateway(
        folder.path(),
        agent.port,
        &["--log-dir", log.to_str().expect("UTF-8")],
    );
    let nginx = nginx(folder.path(), agent.port);
    let haproxy = haproxy(folder.path(), agent.port);
    for peer in [&plain, &recording] {
        println!(
            "memory idle: {:.1} MB",
            resident_kib(peer.process.id()) as f64 / 1024.0
        );
    }
    let mut peers: Vec<(&str, &Peer, &str)> = vec![("the agent itself", &agent, "/")];
    peers.extend(nginx.as_ref().map(|peer| ("nginx", peer, "/")));
    peers.extend(haproxy.as_ref().map(|peer| ("HAProxy", peer, "/")));
    peers.push(("bare hyper, the same inspection", &bare, "/"));
    peers.push(("gateway", &plain, "/proxy"));
    peers.push(("gateway that records", &recording, "/proxy"));
    for (size, connections) in [(1024, 1), (1024, 16), (16 * 1024, 16), (1024, 512)] {
        println!("\nPOST of {size} bytes of JSON, {connections} connections, {SECONDS} s each:");
        let script = script(folder.path(), size);
        let mut base = None;
        for (name, peer, path) in &peers {
            let seen = wrk(peer, path, &script, connections);
            if name.starts_with("bare") {
                base = Some((seen.rate, seen.cpu));
            }
            let ratio = base.map_or(String::new(), |(rate, cpu)| {
                format!(
                    "  rate {:.2} x, CPU {:.2} x",
                    seen.rate / rate,
                    seen.cpu / cpu
                )
            });
            println!(
                "{name:32} {:>8.0} /s  p50 {:>8}  p99 {:>8}  CPU {:>6.1} us{ratio}",
                seen.rate, seen.p50, seen.p99, seen.cpu
            );
        }
    }
    let compared = ["the agent itself", "gateway", "gateway that records"];
    peers.retain(|(name, ..)| compared.contains(name));
    rates(folder.path(), &agent, &peers);
    for (name, peer) in [("gateway", &plain), ("gateway that records", &recording)] {
        let peak = fs::read_to_string(format!("/proc/{}/status", peer.process.id()));
        let peak = peak.unwrap_or_default();
        let line = peak.lines().find(|line| line.starts_with("VmHWM"));
        println!("{name}: {}", line.unwrap_or_default());
    }
}

/// At rates that are given, whatever is answered, by `h2load`; and as the reference architecture asks,
/// by `ab`.
fn rates(folder: &Path, agent: &Peer, peers: &[(&str, &Peer, &str)]) {
    let body = folder.join("post.json");
    fs::write(&body, task(1024)).expect("a file");
    for (connections, each, seconds) in [(10, 100, 60), (16, 625, 20), (100, 100, 20)] {
        println!(
            "\n{} requests of 1 KiB a second for {seconds} s, open loop, {connections} connections:",
            connections * each
        );
        for (name, peer, path) in peers {
            match h2load(peer, path, &body, [connections, each, seconds]) {
                Some(told) => println!("{name:32} {told}"),
                None => return println!("h2load: apt-get install nghttp2-client"),
            }
        }
    }
    println!("\nab -n 10000 -c 100:");
    for (name, peer, path) in peers {
        match ab(peer, path, &body) {
            Some(told) => println!("{name:32} {told}"),
            None => return println!("ab: apt-get install apache2-utils"),
        }
    }
    println!("\nSpans, 16 connections, {SECONDS} s each:");
    let script = script(folder, 1024);
    let collector = format!("http://127.0.0.1:{}", agent.port);
    let mut base = None;
    for (name, ratio) in [
        ("none", None),
        ("of one request in a hundred", Some("0.01")),
        ("of all", Some("1")),
    ] {
        let settings = folder.join("iatp.yaml");
        let text = ratio.map(|ratio| {
            format!("telemetry: {{otel_endpoint: '{collector}', otel_sample_ratio: {ratio}}}\n")
        });
        fs::write(&settings, text.unwrap_or_default()).expect("a file");
        let peer = gateway(
            folder,
            agent.port,
            &["--config", settings.to_str().expect("UTF-8")],
        );
        let seen = wrk(&peer, "/proxy", &script, 16);
        let base = *base.get_or_insert(seen.cpu);
        println!(
            "{name:32} {:>8.0} /s  CPU {:>6.1} us  {:.2} x",
            seen.rate,
            seen.cpu,
            seen.cpu / base
        );
    }
}

/// What was answered, how late, and the share of two cores that it took.
fn h2load(
    peer: &Peer,
    path: &str,
    body: &Path,
    [connections, each, seconds]: [u32; 3],
) -> Option<String> {
    let log = body.with_extension("log");
    let _ = fs::remove_file(&log);
    let before = peer.cpu();
    let output = Command::new("h2load")
        .args([
            "--h1",
            "--rps",
            &each.to_string(),
            "-c",
            &connections.to_string(),
            "-D",
            &seconds.to_string(),
        ])
        .args(["-H", "content-type: application/json", "-d"])
        .arg(body)
        .arg("--log-file")
        .arg(&log)
        .arg(format!("http://127.0.0.1:{}{path}", peer.port))
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let cpu = peer.cpu() - before;
    // Begin, status and microseconds of each.
    let log = fs::read_to_string(&log).ok()?;
    let mut times: Vec<u64> = log
        .lines()
        .filter_map(|line| {
            let mut parts = line.split_whitespace().skip(1);
            parts.next().filter(|status| *status == "200")?;
            parts.next()?.parse().ok()
        })
        .collect();
    assert!(!times.is_empty(), "{text}");
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    Some(format!(
        "{:>8.0} /s  p50 {:>6.2} ms  p99 {:>6.2} ms  p99.9 {:>6.2} ms  {:>5.1} % of two cores",
        times.len() as f64 / f64::from(seconds),
        at(0.5),
        at(0.99),
        at(0.999),
        cpu / f64::from(seconds) / 2.0 * 100.0
    ))
}

fn ab(peer: &Peer, path: &str, body: &Path) -> Option<String> {
    let output = Command::new("ab")
        .args(["-n", "10000", "-c", "100", "-T", "application/json", "-p"])
        .arg(body)
        .arg(format!("http://127.0.0.1:{}{path}", peer.port))
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next())
            .unwrap_or("?")
            .to_owned()
    };
    assert!(!text.contains("Non-2xx"), "{text}");
    Some(format!(
        "{:>8} /s  p50 {:>4} ms  p99 {:>4} ms  failed {}",
        line("Requests per second:"),
        line("50%"),
        line("99%"),
        line("Failed requests:")
    ))
}

fn gateway(folder: &Path, agent: u16, more: &[&str]) -> Peer {
    let manifest = folder.join("manifest.json");
    let text = r#"{"identity": {"agent_id": "a", "owner": "o"}, "trust_level": "trusted", "protocol_version": "1.0", "reversibility": {"level": "partial"}, "privacy": {"retention_policy": "ephemeral"}}"#;
    fs::write(&manifest, text).expect("a file");
    let port = free_port();
    let process = Command::new(program("anchorhold-gateway"))
        .args(["--backend-url", &format!("http://127.0.0.1:{agent}")])
        .args([
            "--port",
            &port.to_string(),
            "--metrics-port",
            "0",
            "--manifest",
        ])
        .arg(manifest)
        .args(more)
        .stderr(Stdio::null())
        .spawn()
        .expect("the gateway");
    wait_for_port(port);
    Peer { process, port }
}

fn nginx(folder: &Path, agent: u16) -> Option<Peer> {
    let port = free_port();
    let file = folder.join("nginx.conf");
    let text = format!(
        "daemon off; worker_processes 2; pid {0}/nginx.pid; error_log {0}/nginx.log;\n\
         events {{ worker_connections 2048; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0}; uwsgi_temp_path {0}; scgi_temp_path {0};\n\
         upstream agent {{ server 127.0.0.1:{agent}; keepalive 256; }}\n\
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://agent; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n",
        folder.display()
    );
    fs::write(&file, text).expect("a file");
    let process = Command::new("nginx")
        .arg("-c")
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    wait_for_port(port);
    Some(Peer { process, port })
}

fn haproxy(folder: &Path, agent: u16) -> Option<Peer> {
    let port = free_port();
    let file = folder.join("haproxy.cfg");
    let text = format!(
        "global\n nbthread 2\n maxconn 4096\ndefaults\n mode http\n timeout client 30s\n timeout server 30s\n timeout connect 5s\n http-reuse always\n\
         frontend f\n bind 127.0.0.1:{port}\n default_backend b\nbackend b\n server s 127.0.0.1:{agent}\n"
    );
    fs::write(&file, text).expect("a file");
    let process = Command::new("haproxy")
        .arg("-f")
        .arg(&file)
        .arg("-db")
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .ok()?;
    wait_for_port(port);
    Some(Peer { process, port })
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn wait_for_port(port: u16) {
    harness::wait_for(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
}

/// A task as an agent might get it.
fn task(size: usize) -> String {
    let mut body = String::from(r#"{"task":"book","user":"alice","notes":["#);
    while body.len() < size - 80 {
        body.push_str(r#""from 2026-11-29 to 2026-12-04, two rooms, 4 people, order 100234","#);
    }
    body.push_str("1]}");
    let padding = size.saturating_sub(body.len());
    body.push_str(&" ".repeat(padding));
    body
}

/// A script for `wrk`.
fn script(folder: &Path, size: usize) -> std::path::PathBuf {
    let body = task(size);
    let file = folder.join(format!("post-{size}.lua"));
    let text = format!(
        "wrk.method = \"POST\"\nwrk.headers[\"Content-Type\"] = \"application/json\"\nwrk.body = [==[{body}]==]\n"
    );
    fs::write(&file, text).expect("a file");
    file
}

fn wrk(peer: &Peer, path: &str, script: &Path, connections: u32) -> Seen {
    let before = peer.cpu();
    let output = Command::new("wrk")
        .args([
            "--latency",
            "-t1",
            "-c",
            &connections.to_string(),
            "-d",
            &format!("{SECONDS}s"),
            "-s",
        ])
        .arg(script)
        .arg(format!("http://127.0.0.1:{}{path}", peer.port))
        .output()
        .expect("wrk: apt-get install wrk");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let after = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(name));
        let value = line.and_then(|line| line.split_whitespace().nth(1));
        value.unwrap_or("?").to_owned()
    };
    let count = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in"));
    let count: f64 = count.map_or(1.0, |(count, _)| count.parse().unwrap_or(1.0));
    Seen {
        rate: after("Requests/sec:").parse().unwrap_or_default(),
        p50: after("50%"),
        p99: after("99%"),
        cpu: (peer.cpu() - before) / count * 1e6,
    }
}

/// An agent that reads what it gets, and answers with an empty object.
pub(crate) fn agent() {
    serve(|request: Request<Incoming>| async move {
        let _ = request.into_body().collect().await;
        Response::new(Full::new(Bytes::from_static(b"{}")))
    });
}

/// A proxy that looks through JSON and does nothing else.
pub(crate) fn bare(agent: &str) {
    let authority: &'static str = format!("127.0.0.1:{agent}").leak();
    thread_local! {
        static CLIENT: Client<HttpConnector, Full<Bytes>> = {
            let mut connector = HttpConnector::new();
            connector.set_nodelay(true);
            Client::builder(TokioExecutor::new()).build(connector)
        };
    }
    serve(move |request: Request<Incoming>| async move {
        let (mut parts, body) = request.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        if inspect::json(&body, inspect::Purpose::Decide).is_err() {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::BAD_REQUEST;
            return response;
        }
        let uri = Uri::builder().scheme("http").authority(authority);
        parts.uri = uri.path_and_query(parts.uri.path()).build().expect("a URI");
        let client = CLIENT.with(Client::clone);
        let answer = client
            .request(Request::from_parts(parts, Full::new(body)))
            .await;
        let (parts, body) = answer.expect("an answer").into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Response::from_parts(parts, Full::new(body))
    });
}

/// Serves on two threads with a runtime each, and says on which port.
fn serve<A, F>(answer: A)
where
    A: Fn(Request<Incoming>) -> F + Copy + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("{}", listener.local_addr().expect("an address").port());
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (sender, mut accepted) =
                tokio::sync::mpsc::unbounded_channel::<std::net::TcpStream>();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, async move {
                    while let Some(stream) = accepted.recv().await {
                        let _ = stream.set_nonblocking(true);
                        let _ = stream.set_nodelay(true);
                        let stream = tokio::net::TcpStream::from_std(stream).expect("a stream");
                        let service = service_fn(move |request| async move {
                            Ok::<_, Infallible>(answer(request).await)
                        });
                        tokio::task::spawn_local(
                            http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                        );
                    }
                });
            });
            sender
        })
        .collect();
    let mut turns = threads.iter().cycle();
    for stream in listener.incoming().map_while(Result::ok) {
        if turns
            .next()
            .is_some_and(|thread| thread.send(stream).is_err())
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
