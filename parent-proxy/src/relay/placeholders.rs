//! Tokens that are shown in place of a credential, for as long as somebody holds them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use data_encoding::BASE64URL_NOPAD;
use identity::caller::ObservedCaller;
use identity::{Digest, sha256};
use tokio::sync::{oneshot, watch};
use zeroize::Zeroizing;

/// Tokens at a time; each holds a connection too.
const MAX_ISSUED: usize = 1024;

/// Who shows such a token.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    /// The caller to whom it was given.
    pub(crate) seen: ObservedCaller,
    /// The identity that it was asked for.
    pub(crate) identity: Option<String>,
}

/// Ends when a token is not good any more.
#[derive(Debug, Clone)]
pub(crate) struct WhileHeld(watch::Receiver<()>);

impl WhileHeld {
    /// Waits until nobody holds it.
    pub(crate) async fn ended(&mut self) {
        // Nothing is ever said.
        while self.0.changed().await.is_ok() {}
    }
}

/// Tokens that are held.
#[derive(Debug, Clone, Default)]
pub(crate) struct Placeholders(Arc<Mutex<Issued>>);

#[derive(Debug, Default)]
struct Issued {
    /// By the SHA-256 of the token: looking one up tells nothing of others.
    held: BTreeMap<Digest<32>, Issue>,
    closed: bool,
}

#[derive(Debug)]
struct Issue {
    holder: Holder,
    _ended: oneshot::Sender<()>,
    held: watch::Sender<()>,
}

/// A token, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    /// 43 characters.
    pub(crate) token: Zeroizing<String>,
    /// Ends when no token is good any more.
    pub(crate) ended: oneshot::Receiver<()>,
    all: Placeholders,
}

/// Waits until a placeholder is not held any more, if there is one.
pub(crate) async fn not_held(placeholder: &mut Option<WhileHeld>) {
    match placeholder {
        Some(held) => held.ended().await,
        None => std::future::pending().await,
    }
}

impl Placeholders {
    /// Gives a token to a caller; none if too many are held.
    pub(crate) fn issue(&self, holder: Holder) -> Option<Held> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).ok()?;
        let token = Zeroizing::new(BASE64URL_NOPAD.encode(&*bytes));
        let (sender, ended) = oneshot::channel();
        let issue = Issue {
            holder,
            _ended: sender,
            held: watch::Sender::new(()),
        };
        let mut issued = self.issued();
        if issued.closed || issued.held.len() >= MAX_ISSUED {
            return None;
        }
        issued.held.insert(sha256(token.as_bytes()), issue);
        Some(Held {
            token,
            ended,
            all: self.clone(),
        })
    }

    /// Whose token it is.
    pub(crate) fn holder(&self, token: &str) -> Option<Holder> {
        let issued = self.issued();
        let held = issued.held.get(&sha256(token.as_bytes()));
        held.map(|issue| issue.holder.clone())
    }

    /// What ends with the token of this SHA-256; none if nobody holds it.
    pub(crate) fn while_held(&self, digest: &Digest<32>) -> Option<WhileHeld> {
        let issued = self.issued();
        let issue = issued.held.get(digest)?;
        Some(WhileHeld(issue.held.subscribe()))
    }

    /// Whether somebody still holds the token of this SHA-256.
    pub(crate) fn is_held(&self, digest: &Digest<32>) -> bool {
        self.issued().held.contains_key(digest)
    }

    /// No token is good from here on.
    pub(crate) fn close(&self) {
        let mut issued = self.issued();
        issued.closed = true;
        issued.held.clear();
    }

    fn issued(&self) -> MutexGuard<'_, Issued> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let digest = sha256(self.token.as_bytes());
        self.all.issued().held.remove(&digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_while_it_is_held_and_no_longer() {
        let placeholders = Placeholders::default();
        let holder = || Holder {
            seen: ObservedCaller::ids(1000, 1000),
            identity: Some("crew".into()),
        };
        let held = placeholders.issue(holder()).unwrap();
        let token = held.token.clone();
        assert_eq!(token.len(), 43);
        let found = placeholders.holder(&token).unwrap();
        assert_eq!(
            (found.seen.uid, found.identity.as_deref()),
            (Some(1000), Some("crew"))
        );
        assert!(placeholders.holder(&token[1..]).is_none());
        let other = placeholders.issue(holder()).unwrap();
        assert_ne!(*other.token, *token);
        drop(held);
        assert!(placeholders.holder(&token).is_none());
        assert!(placeholders.holder(&other.token).is_some());
        placeholders.close();
        assert!(placeholders.holder(&other.token).is_none());
        assert!(placeholders.issue(holder()).is_none());
    }

    #[test]
    fn there_are_not_more_than_1024() {
        let placeholders = Placeholders::default();
        let holder = || Holder {
            seen: ObservedCaller::ids(1, 1),
            identity: None,
        };
        let held: Vec<Held> = std::iter::from_fn(|| placeholders.issue(holder())).collect();
        assert_eq!(held.len(), 1024);
        drop(held);
        assert!(placeholders.issue(holder()).is_some());
    }
}
