//! The ingress process: what it is comes over the pipe, agents to its listener.

use std::sync::Arc;
use std::time::Duration;

use broker::IngressKey;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use policy::Bundle;
use protocol::LineKind;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use upstream::{Error, Lines, Pipes, frames};

use crate::call::{Calls, Shared};
use crate::pairs::{Pair, Pairs};
use crate::setup::Setup;
use crate::tls;

const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// For an agent to shake hands.
const SHAKE_WITHIN: Duration = Duration::from_secs(10);
/// For a request's head to arrive, and for a connection to lie idle.
const HEAD_WITHIN: Duration = Duration::from_secs(120);
/// The head and the buffer of one connection.
const MAX_HEAD: usize = 32 * 1024;

/// What every line needs.
struct Server {
    tls: TlsAcceptor,
    pairs: Pairs<OwnedSemaphorePermit>,
    shared: Arc<Shared>,
}

/// Serves until the pipe ends. `confined` is written first: one byte that says that this process has
/// confined itself.
pub fn serve(runtime: &Runtime, pipes: Pipes, lines: Lines, confined: u8) -> Result<(), Error> {
    runtime.block_on(run(pipes, lines, confined))
}

async fn run(mut pipes: Pipes, lines: Lines, confined: u8) -> Result<(), Error> {
    pipes.output.write_all(&[confined]).await?;
    let Some(setup) = pipes.input.next::<Setup>().await? else {
        // Nobody needs it.
        return Ok(());
    };
    let bundle = Bundle::from_canonical(&setup.bundle).map_err(|_| Error::NotBegun)?;
    let server = Arc::new(Server {
        tls: tls::acceptor(&setup)?,
        pairs: Pairs::default(),
        shared: Arc::new(Shared {
            bundle,
            key: IngressKey::new(&setup.ingress.0),
        }),
    });
    drop(setup);
    tokio::spawn(accept(Arc::clone(&server), lines));
    let swept = Arc::clone(&server);
    tokio::spawn(async move {
        loop {
            sleep(SWEEP_EVERY).await;
            swept.pairs.sweep();
        }
    });
    match pipes.input.next::<Setup>().await? {
        None => Ok(()),
        Some(_) => Err(Error::NotBegun),
    }
}

async fn accept(server: Arc<Server>, lines: Lines) {
    // Two for each agent.
    let served = lines.serve(move |line, opened, place| {
        let server = Arc::clone(&server);
        async move {
            let (LineKind::Agent | LineKind::Calls, _) = opened else {
                return;
            };
            if let Some(pair) = server.pairs.meet(opened, line, place) {
                agent(&server, pair).await;
            }
        }
    });
    served.await;
}

/// Serves one agent until its connection ends.
async fn agent(server: &Server, pair: Pair<OwnedSemaphorePermit>) {
    let Pair {
        caller,
        agent,
        calls,
        places,
    } = pair;
    let shaken = timeout(SHAKE_WITHIN, server.tls.accept(agent)).await;
    let Ok(Ok(stream)) = shaken else {
        return;
    };
    let named = stream.get_ref().1.server_name().map(str::to_owned);
    let (from, to) = frames(calls);
    let calls = Arc::new(Calls::new(
        Arc::clone(&server.shared),
        (named, caller),
        from,
        to,
        places,
    ));
    let service = service_fn(|request| {
        let calls = Arc::clone(&calls);
        async move { calls.handle(request).await }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD);
    // Whatever ended it, the agent sees that it ended.
    let _ = builder
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}
