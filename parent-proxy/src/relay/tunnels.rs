//! Tunnels of agents that come as to a proxy: their TLS, and the line over which the enclave's ingress process
//! asks for calls.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use enclave_client::{Stream, open};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use identity::cbor;
use protocol::{CallFrame, CallKind, Endpoint, InsideRequest, LineKind, Ticket, Told};
use tokio::io::{
    AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, WriteHalf, copy_buf, sink, split,
};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::debug;

use super::call::Frames;
use super::{Counts, UnderWay};

/// Of one caller and of all, at a time.
const MAX_TUNNELS: usize = 64;
const MAX_TUNNELS_OF_ALL: usize = 512;
/// For what was answered last.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// For an agent to read what was said last.
pub(super) const LINGER: Duration = Duration::from_secs(2);
const BUFFER: usize = 32 * 1024;

type Line = Box<dyn Stream>;

/// What tunnels need.
pub(crate) struct Tunnels {
    /// The enclave's ingress process, if the bundle has agents come through it.
    endpoint: Option<Endpoint>,
    open: Arc<Counts>,
    /// How many there are, and whether they shall end.
    count: watch::Sender<usize>,
    stopping: watch::Sender<bool>,
}

/// Both lines of an agent to the ingress process.
pub(crate) struct Tunnel {
    agent: Line,
    from: Frames,
    to: WriteHalf<Line>,
    stopping: watch::Receiver<bool>,
    _place: UnderWay,
    _counted: Counted,
}

/// The end of a tunnel that asks for calls.
pub(crate) struct Asking {
    pub(crate) from: Frames,
    pub(crate) to: WriteHalf<Line>,
    pub(crate) stopping: watch::Receiver<bool>,
}

/// One that is waited for at the end, and hears of it.
pub(crate) struct Place {
    stopping: watch::Receiver<bool>,
    _counted: Counted,
}

impl Place {
    /// Waits for the end.
    pub(crate) async fn until_stopped(&mut self) {
        // A sender that is gone is the end as well.
        let stopped = self.stopping.wait_for(|stopping| *stopping);
        let _ = stopped.await.map(drop);
    }
}

/// One of those that are waited for at the end.
struct Counted(watch::Sender<usize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Tunnels {
    pub(crate) fn new(endpoint: Option<Endpoint>) -> Self {
        Self {
            endpoint,
            open: Arc::default(),
            count: watch::Sender::new(0),
            stopping: watch::Sender::new(false),
        }
    }

    /// Whether agents may come so at all.
    pub(crate) fn are_open(&self) -> bool {
        self.endpoint.is_some()
    }

    /// Both lines for an agent of this caller; none if it has as many as it may.
    pub(crate) async fn open(&self, caller: u64) -> io::Result<Option<Tunnel>> {
        let endpoint = self.endpoint.as_ref();
        let endpoint = endpoint.ok_or(io::ErrorKind::Unsupported)?;
        let Some(place) = self.open.begin(caller, MAX_TUNNELS, MAX_TUNNELS_OF_ALL) else {
            return Ok(None);
        };
        let mut number = Ticket([0; 16]);
        number.0[..8].copy_from_slice(&caller.to_be_bytes());
        getrandom::fill(&mut number.0[8..]).map_err(io::Error::other)?;
        let mut agent = open(endpoint).await?;
        agent.write_all(&LineKind::Agent.opening(number)).await?;
        let mut calls = open(endpoint).await?;
        calls.write_all(&LineKind::Calls.opening(number)).await?;
        let (from, to) = split(calls);
        let counted = self.counted();
        Ok(Some(Tunnel {
            agent,
            from: Frames::new(from),
            to,
            stopping: self.stopping.subscribe(),
            _place: place,
            _counted: counted,
        }))
    }

    /// One more that is waited for at the end.
    fn counted(&self) -> Counted {
        self.count.send_modify(|count| *count += 1);
        Counted(self.count.clone())
    }

    /// For something else that ends then.
    pub(crate) fn place(&self) -> Place {
        Place {
            stopping: self.stopping.subscribe(),
            _counted: self.counted(),
        }
    }

    /// Each ends with the call that it is at, and a WebSocket at once.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Waits until the last one has.
    pub(crate) async fn ended(&self) {
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Tunnel {
    /// Passes the agent's bytes on until it ends; meanwhile `serve` has what the ingress process asks.
    pub(crate) async fn run<F: Future<Output = ()>>(
        self,
        upgrading: OnUpgrade,
        serve: impl FnOnce(Asking) -> F,
    ) {
        let Self {
            agent,
            from,
            to,
            stopping,
            _place,
            _counted,
        } = self;
        let upgraded = match upgrading.await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => {
                debug!(%error, "a tunnel did not begin");
                return;
            }
        };
        let passing = pass(upgraded, agent);
        let is_stopping = stopping.clone();
        let asking = Asking { from, to, stopping };
        let serving = async {
            serve(asking).await;
            // What was answered goes out still: the ingress process ends the connection.
            let within = match *is_stopping.borrow() {
                true => LINGER,
                false => ENDS_WITHIN,
            };
            tokio::time::sleep(within).await;
        };
        tokio::select! {
            passed = passing => {
                if let Err(error) = passed {
                    debug!(%error, "a tunnel broke");
                }
            }
            () = serving => {}
        }
    }
}

/// Both ways, until the enclave's side ends: an agent that says no more may still hear.
async fn pass(agent: impl AsyncRead + AsyncWrite, inside: Line) -> io::Result<()> {
    let (from_agent, mut to_agent) = split(agent);
    let (from_inside, mut to_inside) = split(inside);
    let mut from_agent = BufReader::with_capacity(BUFFER, from_agent);
    let mut from_inside = BufReader::with_capacity(BUFFER, from_inside);
    let passed = {
        let there = async {
            copy_buf(&mut from_agent, &mut to_inside).await?;
            to_inside.shutdown().await
        };
        let back = async { copy_buf(&mut from_inside, &mut to_agent).await };
        let (mut there, mut back) = (pin!(there), pin!(back));
        let mut is_said = false;
        loop {
            tokio::select! {
                passed = &mut back => break passed,
                // Nobody inside hears it any more: what is answered counts.
                _ = &mut there, if !is_said => is_said = true,
            }
        }
    };
    let _ = to_agent.shutdown().await;
    // An agent that is still speaking would lose what it has not read, if it were not heard out.
    let mut nowhere = sink();
    let _ = timeout(LINGER, copy_buf(&mut from_agent, &mut nowhere)).await;
    passed.map(|_| ())
}

impl Asking {
    /// What the ingress process asks next; none at the end.
    pub(crate) async fn next(&mut self) -> Option<InsideRequest> {
        let frame = tokio::select! {
            biased;
            _ = self.stopping.wait_for(|stopping| *stopping) => return None,
            frame = self.from.wait() => frame.ok()?,
        };
        match frame {
            (CallKind::Ask, bytes) => cbor::from_slice(&bytes).ok(),
            _ => None,
        }
    }

    /// Tells it what came of that.
    pub(crate) async fn tell(&mut self, told: &Told) -> io::Result<()> {
        let bytes = cbor::to_vec(told);
        let mut out = BytesMut::new();
        CallFrame::write(CallKind::Told, &bytes, &mut out);
        self.to.write_all_buf(&mut out).await
    }
}
