//! A load of bounded length over Unix sockets, and the bare server of the baseline.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::process::cpu_seconds;

/// How much is sent, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) seconds: f64,
    /// Requests per second; as many as go through if not given.
    pub(crate) rate: Option<f64>,
    /// No more than these.
    pub(crate) limit: u64,
}

/// What came of it. CPU times are per request, in seconds.
pub(crate) struct Measured {
    pub(crate) rate: f64,
    pub(crate) server_cpu: f64,
    pub(crate) each_cpu: Vec<f64>,
    pub(crate) client_cpu: f64,
    pub(crate) times: Vec<Duration>,
}

/// Sends `request` over and over. Every answer must be a 200.
pub(crate) fn measure(socket: &Path, request: &[u8], load: &Load, servers: &[u32]) -> Measured {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let before: Vec<f64> = servers.iter().map(|pid| cpu_seconds(*pid)).collect();
    let own_before = cpu_seconds(std::process::id());
    let begin = Instant::now();
    let times = runtime.block_on(run(socket, request, load));
    let elapsed = begin.elapsed().as_secs_f64();
    let count = times.len() as f64;
    let each_cpu: Vec<f64> = servers
        .iter()
        .zip(before)
        .map(|(pid, before)| (cpu_seconds(*pid) - before) / count)
        .collect();
    Measured {
        rate: count / elapsed,
        server_cpu: each_cpu.iter().sum(),
        each_cpu,
        client_cpu: (cpu_seconds(std::process::id()) - own_before) / count,
        times,
    }
}

async fn run(socket: &Path, request: &[u8], load: &Load) -> Vec<Duration> {
    let left = Arc::new(AtomicU64::new(load.limit));
    let end = Instant::now() + Duration::from_secs_f64(load.seconds);
    let pause = load
        .rate
        .map(|rate| Duration::from_secs_f64(load.connections as f64 / rate));
    let clients: Vec<_> = (0..load.connections)
        .map(|index| {
            let (socket, request, left) =
                (socket.to_owned(), request.to_owned(), Arc::clone(&left));
            let offset = pause.map_or(Duration::ZERO, |pause| {
                pause.mul_f64(index as f64 / load.connections as f64)
            });
            tokio::spawn(async move {
                let mut stream = UnixStream::connect(&socket).await.expect("a connection");
                let mut buffer = vec![0; 8192];
                let mut times = Vec::new();
                let mut next = Instant::now() + offset;
                while Instant::now() < end && left.load(Ordering::Relaxed) > 0 {
                    left.fetch_sub(1, Ordering::Relaxed);
                    if let Some(pause) = pause {
                        tokio::time::sleep_until(next.into()).await;
                        next += pause;
                    }
                    let begin = Instant::now();
                    stream
                        .write_all(&request)
                        .await
                        .expect("a request goes out");
                    let status = exchange(&mut stream, &mut buffer).await;
                    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&buffer));
                    times.push(begin.elapsed());
                }
                times
            })
        })
        .collect();
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await.expect("a client"));
    }
    all
}

/// Sends `request` over and over on all connections; gives how many were done and how many refused.
pub(crate) fn flood(socket: &Path, request: &[u8], connections: usize, seconds: f64) -> (u64, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        let one = |request: Vec<u8>, socket: std::path::PathBuf| async move {
            let mut stream = UnixStream::connect(&socket).await.expect("a connection");
            let mut buffer = vec![0; 8192];
            let (mut done, mut refused) = (0, 0);
            while Instant::now() < end {
                stream
                    .write_all(&request)
                    .await
                    .expect("a request goes out");
                match exchange(&mut stream, &mut buffer).await {
                    200 => done += 1,
                    _ => refused += 1,
                }
            }
            (done, refused)
        };
        let clients: Vec<_> = (0..connections)
            .map(|_| tokio::spawn(one(request.to_owned(), socket.to_owned())))
            .collect();
        let mut all = (0, 0);
        for client in clients {
            let (done, refused) = client.await.expect("a client");
            all = (all.0 + done, all.1 + refused);
        }
        all
    })
}

/// Reads one whole answer, whose length the head says, and gives its status.
async fn exchange(stream: &mut UnixStream, buffer: &mut [u8]) -> u16 {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await.expect("an answer");
        assert!(read > 0, "the server closed the connection");
        filled += read;
        let Some(head) = buffer[..filled]
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
        else {
            continue;
        };
        let text = std::str::from_utf8(&buffer[..head]).expect("a head of text");
        let length = text
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        if filled >= head + 4 + length {
            return text
                .split(' ')
                .nth(1)
                .and_then(|status| status.parse().ok())
                .unwrap_or(0);
        }
    }
}

/// Answers every request with an empty 200: what any server of this kind costs.
pub(crate) fn bare_server(socket: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let listener = UnixListener::bind(socket).expect("a socket");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let service = service_fn(async |_| {
                Ok::<_, Infallible>(hyper::Response::new(Empty::<Bytes>::new()))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
}
