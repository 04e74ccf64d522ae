//! What every call and line of the process needs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::Needles;
use identity::{Digest, sha256};
use policy::Scrub;
use protocol::Ticket;
use rustls_pki_types::ServerName;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::Error;
use crate::lines::Line;
use crate::pool::Pool;
use crate::sync::lock;
use crate::tls::{self, Clock};
use crate::tokens::{Token, TokenHost, Tokens};
use crate::wire::{Call, Ended, Ending, Revoked, Setup};

/// Calls that wait for their lines.
const MAX_WAITING: usize = 1024;
/// For the line of a call to come.
const CLAIM_WITHIN: Duration = Duration::from_secs(10);
/// For the call of a line: the pipe may be slower than the line.
const OFFER_WITHIN: Duration = Duration::from_secs(2);

/// What is looked for is kept so long after its last call.
const SOUGHT_FOR: Duration = Duration::from_secs(300);

/// What every call and line needs.
pub(crate) struct Shared {
    pub(crate) authority: String,
    pub(crate) scrub: Scrub,
    pub(crate) tls: TlsConnector,
    pub(crate) name: ServerName<'static>,
    pub(crate) pool: Mutex<Pool>,
    /// How tokens are asked for, if credentials get some.
    pub(crate) token_host: Option<TokenHost>,
    pub(crate) tokens: Mutex<Tokens>,
    clock: Arc<Clock>,
    tickets: Mutex<BTreeMap<Ticket, Claim>>,
    /// Lines to the service that a call waits for.
    wanted: Mutex<BTreeMap<Ticket, oneshot::Sender<Line>>>,
    ended: mpsc::Sender<Ended>,
    /// Credentials that are not used any more.
    revoked: broadcast::Sender<Revoked>,
    /// What is looked for in answers, by the digest of its secrets.
    needles: Mutex<BTreeMap<Digest<32>, Sought>>,
}

/// A call and its line find each other.
enum Claim {
    Call(Box<Offered>, Instant),
    Line(oneshot::Sender<Box<Offered>>),
}

/// A call that may be made, and what tells that it may not any more: from when it was offered, so that
/// nothing is missed.
pub(crate) struct Offered {
    pub(crate) call: Call,
    pub(crate) revoked: broadcast::Receiver<Revoked>,
}

/// What is looked for in answers to one credential.
struct Sought {
    actor: [u8; 32],
    version: u64,
    needles: Arc<Needles>,
    used: Instant,
}

/// The end of a call whose ticket nobody shows.
pub fn unclaimed(ticket: Ticket) -> Ended {
    unsent(ticket, Ending::Unclaimed)
}

/// The end of a call of which nothing was sent.
pub(crate) fn unsent(ticket: Ticket, ending: Ending) -> Ended {
    // SHA-256 of nothing.
    let nothing = sha256(&[]).0;
    Ended {
        ticket,
        ending,
        status: None,
        sent: 0,
        sent_digest: nothing,
        received: 0,
        received_digest: nothing,
        spki: None,
        tokens: None,
        minted: false,
    }
}

impl Shared {
    pub(crate) fn new(setup: &Setup, ended: mpsc::Sender<Ended>) -> Result<Self, Error> {
        let clock = Arc::new(Clock::new());
        let (config, name) = tls::config(setup, Arc::clone(&clock))?;
        let token = setup.token.as_ref();
        let token_host = token.map(|token| TokenHost::new(setup, token, &clock));
        Ok(Self {
            authority: setup.authority.clone(),
            scrub: if setup.replace {
                Scrub::Replace
            } else {
                Scrub::Refuse
            },
            tls: TlsConnector::from(config),
            name,
            pool: Mutex::default(),
            token_host: token_host.transpose()?,
            tokens: Mutex::default(),
            clock,
            tickets: Mutex::default(),
            wanted: Mutex::default(),
            ended,
            revoked: broadcast::Sender::new(64),
            needles: Mutex::default(),
        })
    }

    /// A call may be made.
    pub(crate) async fn offer(&self, call: Call) {
        self.clock.set(call.time);
        let ticket = call.ticket;
        let revoked = self.revoked.subscribe();
        let mut offered = Box::new(Offered { call, revoked });
        {
            let mut tickets = lock(&self.tickets);
            if let Some(Claim::Line(line)) = tickets.remove(&ticket) {
                match line.send(offered) {
                    Ok(()) => return,
                    // It waits no more; perhaps another one comes.
                    Err(back) => offered = back,
                }
            }
            if tickets.len() < MAX_WAITING {
                tickets.insert(ticket, Claim::Call(offered, Instant::now()));
                return;
            }
        }
        // The process with the keys hears of it like of any other end.
        self.end(unsent(ticket, Ending::ServiceBusy)).await;
    }

    /// The call of this ticket, once; the pipe may be slower than the line.
    pub(crate) async fn claim(&self, ticket: Ticket) -> Option<Box<Offered>> {
        let waiting = {
            let mut tickets = lock(&self.tickets);
            match tickets.remove(&ticket) {
                Some(Claim::Call(offered, _)) => return Some(offered),
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
        match timeout(OFFER_WITHIN, waiting).await {
            Ok(Ok(offered)) => Some(offered),
            _ => {
                let mut tickets = lock(&self.tickets);
                // A call that came after another line had shown its ticket ends by itself.
                if matches!(tickets.get(&ticket), Some(Claim::Line(_))) {
                    tickets.remove(&ticket);
                }
                None
            }
        }
    }

    /// What must not come back in the answer to a call. It is made once for a credential: that takes
    /// longer than many a call, and memory.
    pub(crate) fn needles(&self, call: &Call, token: Option<&Token>) -> Arc<Needles> {
        let mut secrets: Vec<&[u8]> = call.secrets.iter().map(AsRef::as_ref).collect();
        let beside = match token {
            Some(_) => lock(&self.tokens).secrets((call.actor, call.version)),
            None => Vec::new(),
        };
        secrets.extend(token.map(|token| token.as_slice()));
        secrets.extend(beside.iter().map(|secret| secret.as_bytes()));
        // By what they are: a version is what somebody says.
        let lengths = secrets.iter().map(|secret| secret.len().to_be_bytes());
        let digest = sha256(&Zeroizing::new(
            [lengths.flatten().collect(), secrets.concat()].concat(),
        ));
        let mut known = lock(&self.needles);
        let sought = known.entry(digest).or_insert_with(|| Sought {
            actor: call.actor,
            version: call.version,
            needles: Arc::new(Needles::new(&secrets)),
            used: Instant::now(),
        });
        sought.used = Instant::now();
        Arc::clone(&sought.needles)
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

    /// Ends what is under way with a credential. A call that waits for its line ends as soon as that comes,
    /// which is told why.
    pub(crate) fn revoke(&self, revoked: Revoked) {
        lock(&self.pool).close(&revoked);
        lock(&self.tokens).revoke(&revoked);
        lock(&self.needles).retain(|_, sought| !revoked.is(&sought.actor, sought.version));
        // Nobody listens if no call is under way.
        let _ = self.revoked.send(revoked);
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
        lock(&self.needles).retain(|_, sought| sought.used.elapsed() < SOUGHT_FOR);
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

/// Waits until a credential is revoked.
pub(crate) async fn revocation(mut told: broadcast::Receiver<Revoked>, call: &Call) {
    loop {
        match told.recv().await {
            Ok(revoked) if !revoked.is(&call.actor, call.version) => {}
            // What was missed may have been this one.
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Secret;

    fn shared() -> Arc<Shared> {
        let setup = Setup {
            host: "api.example".into(),
            authority: "api.example".into(),
            roots: Vec::new(),
            pins: Vec::new(),
            replace: false,
            token: None,
        };
        let (ended, mut endings) = mpsc::channel(64);
        tokio::spawn(async move { while endings.recv().await.is_some() {} });
        Arc::new(Shared::new(&setup, ended).unwrap())
    }

    fn call(ticket: u8, version: u64, secret: &[u8]) -> Call {
        Call {
            ticket: Ticket([ticket; 16]),
            time: 0,
            actor: [7; 32],
            version,
            method: "GET".into(),
            target: Secret(Zeroizing::new(b"/".to_vec())),
            headers: Vec::new(),
            length: Some(0),
            placed: Vec::new(),
            body: None,
            key: None,
            counted: None,
            field: None,
            websocket: false,
            minting: None,
            secrets: vec![Secret(Zeroizing::new(secret.to_vec()))],
        }
    }

    fn until(last: u64) -> Revoked {
        Revoked {
            actor: [7; 32],
            last,
        }
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test);
    }

    #[test]
    fn what_is_revoked_between_offer_and_call_is_not_made() {
        run(async {
            let shared = shared();
            for line_first in [false, true] {
                let claim = |shared: &Arc<Shared>| {
                    let shared = Arc::clone(shared);
                    tokio::spawn(async move { shared.claim(Ticket([1; 16])).await })
                };
                let mut line = None;
                if line_first {
                    line = Some(claim(&shared));
                    tokio::task::yield_now().await;
                }
                shared.offer(call(1, 5, b"12345678")).await;
                shared.revoke(until(4));
                shared.revoke(until(5));
                let claimed = line.unwrap_or_else(|| claim(&shared)).await.unwrap();
                let offered = claimed.unwrap();
                let revoked = revocation(offered.revoked, &offered.call);
                timeout(Duration::from_secs(5), revoked).await.unwrap();
            }
        });
    }

    #[test]
    fn a_version_that_is_not_revoked_goes_on() {
        run(async {
            let shared = shared();
            shared.offer(call(1, 6, b"12345678")).await;
            shared.revoke(until(5));
            let offered = shared.claim(Ticket([1; 16])).await.unwrap();
            let revoked = revocation(offered.revoked, &offered.call);
            assert!(timeout(Duration::from_millis(50), revoked).await.is_err());
        });
    }

    #[test]
    fn a_call_whose_ticket_two_lines_showed_still_ends() {
        run(async {
            let shared = shared();
            let ticket = Ticket([1; 16]);
            let first = tokio::spawn({
                let shared = Arc::clone(&shared);
                async move { shared.claim(ticket).await.is_some() }
            });
            tokio::task::yield_now().await;
            assert!(shared.claim(ticket).await.is_none());
            shared.offer(call(1, 1, b"12345678")).await;
            assert!(!first.await.unwrap());
            assert_eq!(shared.forget(|_| true), [ticket]);
        });
    }

    #[test]
    fn what_is_looked_for_is_made_once_for_a_credential_and_by_what_it_is() {
        run(async {
            let shared = shared();
            let first = shared.needles(&call(1, 1, b"12345678"), None);
            assert!(Arc::ptr_eq(
                &first,
                &shared.needles(&call(2, 1, b"12345678"), None)
            ));
            // Whoever says the same version of another one does not have the other one passed.
            let other = shared.needles(&call(3, 1, b"abcdefgh"), None);
            assert!(other.stand_in(b"x abcdefgh") && !other.stand_in(b"12345678"));
            shared.revoke(until(1));
            assert!(lock(&shared.needles).is_empty());
        });
    }
}
