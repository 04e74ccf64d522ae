//! What every call and line of the process needs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::Ticket;
use rustls_pki_types::ServerName;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::Error;
use crate::lines::Line;
use crate::pool::Pool;
use crate::tls::{self, Clock};
use crate::wire::{Call, Ended, Ending, Setup};

/// Calls that wait for their lines.
const MAX_WAITING: usize = 1024;
/// For the line of a call to come.
const CLAIM_WITHIN: Duration = Duration::from_secs(10);
/// For the call of a line: the pipe may be slower than the line.
const OFFER_WITHIN: Duration = Duration::from_secs(2);

/// What every call and line needs.
pub(crate) struct Shared {
    pub(crate) authority: String,
    pub(crate) replace: bool,
    pub(crate) tls: TlsConnector,
    pub(crate) name: ServerName<'static>,
    pub(crate) pool: Mutex<Pool>,
    clock: Arc<Clock>,
    tickets: Mutex<BTreeMap<Ticket, Claim>>,
    /// Lines to the service that a call waits for.
    wanted: Mutex<BTreeMap<Ticket, oneshot::Sender<Line>>>,
    ended: mpsc::Sender<Ended>,
    /// Actors whose credentials are not used any more.
    revoked: broadcast::Sender<[u8; 32]>,
}

/// A call and its line find each other.
enum Claim {
    Call(Box<Call>, Instant),
    Line(oneshot::Sender<Box<Call>>),
}

/// The end of a call of which nothing was sent.
pub(crate) fn unsent(ticket: Ticket, ending: Ending) -> Ended {
    // SHA-256 of nothing.
    let nothing = identity::sha256(&[]).0;
    Ended {
        ticket,
        ending,
        status: None,
        sent: 0,
        sent_digest: nothing,
        received: 0,
        received_digest: nothing,
        spki: None,
    }
}

impl Shared {
    pub(crate) fn new(setup: &Setup, ended: mpsc::Sender<Ended>) -> Result<Self, Error> {
        let clock = Arc::new(Clock::new());
        let (config, name) = tls::config(setup, Arc::clone(&clock))?;
        Ok(Self {
            authority: setup.authority.clone(),
            replace: setup.replace,
            tls: TlsConnector::from(config),
            name,
            pool: Mutex::default(),
            clock,
            tickets: Mutex::default(),
            wanted: Mutex::default(),
            ended,
            revoked: broadcast::Sender::new(64),
        })
    }

    /// A call may be made.
    pub(crate) fn offer(&self, call: Box<Call>) {
        self.clock.set(call.time);
        let ticket = call.ticket;
        let mut tickets = lock(&self.tickets);
        if let Some(Claim::Line(line)) = tickets.remove(&ticket) {
            let _ = line.send(call);
        } else if tickets.len() < MAX_WAITING {
            tickets.insert(ticket, Claim::Call(call, Instant::now()));
        } else {
            drop(tickets);
            // The process with the keys hears of it like of any other end.
            let _ = self.ended.try_send(unsent(ticket, Ending::ServiceBusy));
        }
    }

    /// The call of this ticket, once; the pipe may be slower than the line.
    pub(crate) async fn claim(&self, ticket: Ticket) -> Option<Box<Call>> {
        let waiting = {
            let mut tickets = lock(&self.tickets);
            match tickets.remove(&ticket) {
                Some(Claim::Call(call, _)) => return Some(call),
                // Two lines show it: neither gets it a second time.
                Some(Claim::Line(_)) => return None,
                None if tickets.len() >= MAX_WAITING => return None,
                None => {
                    let (sender, receiver) = oneshot::channel();
                    tickets.insert(ticket, Claim::Line(sender));
                    receiver
                }
            }
        };
        let call = timeout(OFFER_WITHIN, waiting).await;
        match call {
            Ok(Ok(call)) => Some(call),
            _ => {
                lock(&self.tickets).remove(&ticket);
                None
            }
        }
    }

    /// Where the line to the service for this call will come.
    pub(crate) fn want(&self, ticket: Ticket) -> oneshot::Receiver<Line> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.wanted).insert(ticket, sender);
        receiver
    }

    /// It is not waited for any more.
    pub(crate) fn unwant(&self, ticket: Ticket) {
        lock(&self.wanted).remove(&ticket);
    }

    pub(crate) fn lend(&self, ticket: Ticket, line: Line) {
        if let Some(call) = lock(&self.wanted).remove(&ticket) {
            let _ = call.send(line);
        }
    }

    /// Ends what is under way with the credential of an actor.
    pub(crate) async fn revoke(&self, actor: [u8; 32]) {
        lock(&self.pool).close(&actor);
        let is_of = |claim: &Claim| matches!(claim, Claim::Call(call, _) if call.actor == actor);
        for ticket in self.forget(is_of) {
            self.end(unsent(ticket, Ending::CredentialRevoked)).await;
        }
        // Nobody listens if no call is under way.
        let _ = self.revoked.send(actor);
    }

    /// Waits until the credential of an actor is revoked.
    pub(crate) fn revocation(&self, actor: [u8; 32]) -> impl Future<Output = ()> + use<> {
        let mut revoked = self.revoked.subscribe();
        async move {
            loop {
                match revoked.recv().await {
                    Ok(other) if other != actor => {}
                    // What was missed may have been this one.
                    Ok(_) | Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        }
    }

    /// Calls that will not be made.
    fn forget(&self, is_gone: impl Fn(&Claim) -> bool) -> Vec<Ticket> {
        let mut tickets = lock(&self.tickets);
        let gone = tickets.iter().filter(|(_, claim)| is_gone(claim));
        let gone: Vec<Ticket> = gone.map(|(ticket, _)| *ticket).collect();
        tickets.retain(|_, claim| !is_gone(claim));
        gone
    }

    /// Ends calls whose lines did not come, and connections that have been idle for long.
    pub(crate) async fn sweep(&self) {
        lock(&self.pool).sweep();
        let late = |claim: &Claim| matches!(claim, Claim::Call(_, since) if since.elapsed() > CLAIM_WITHIN);
        for ticket in self.forget(late) {
            self.end(unsent(ticket, Ending::Unclaimed)).await;
        }
    }

    pub(crate) async fn end(&self, ended: Ended) {
        // The pipe's other end is gone only together with this process.
        let _ = self.ended.send(ended).await;
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
