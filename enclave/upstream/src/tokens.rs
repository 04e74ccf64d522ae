//! Tokens that credentials get, as long as they are good.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use broker::Minted;
use policy::TokenSource;
use rustls_pki_types::ServerName;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::Error;
use crate::pool::Owner;
use crate::tls::{self, Clock};
use crate::wire::{Revoked, Setup, TokenSetup};

/// A token is not used in its last minutes, or its second half.
const SPARE: Duration = Duration::from_secs(300);
/// Nobody asks again so soon after none was given.
const FAILED_FOR: Duration = Duration::from_secs(1);
/// How often a service is believed that it does not take a token.
const BELIEVED_EVERY: Duration = Duration::from_secs(10);
/// However long it is said to be good.
const MAX_GOOD: Duration = Duration::from_secs(86_400);

/// A token, which is wiped when nobody needs it any more.
pub(crate) type Token = Arc<Zeroizing<Vec<u8>>>;

/// Who gives tokens, and where they are put.
pub(crate) struct TokenHost {
    pub(crate) source: TokenSource,
    pub(crate) tls: TlsConnector,
    pub(crate) name: ServerName<'static>,
    pub(crate) header: String,
    format: String,
}

impl TokenHost {
    pub(crate) fn new(
        setup: &Setup,
        token: &TokenSetup,
        clock: &Arc<Clock>,
    ) -> Result<Self, Error> {
        let source: TokenSource =
            identity::json::parse_as(token.source.as_bytes()).map_err(|_| Error::NotBegun)?;
        let (config, name) = tls::config_of_other(source.url.host(), setup, Arc::clone(clock))?;
        Ok(Self {
            tls: TlsConnector::from(config),
            name,
            header: token.header.clone(),
            format: token.format.clone(),
            source,
        })
    }

    /// What stands in the header.
    pub(crate) fn value(&self, token: &Token) -> Zeroizing<Vec<u8>> {
        let (before, after) = self.format.split_once("{}").unwrap_or_default();
        Zeroizing::new([before.as_bytes(), token, after.as_bytes()].concat())
    }
}

/// What a credential has got.
#[derive(Default)]
struct Held {
    token: Option<(Token, Instant)>,
    /// With what the token was asked for.
    shown: Option<Zeroizing<String>>,
    /// The refresh token that took the place of the credential's: in this boot only.
    refresh: Option<Zeroizing<String>>,
    /// When none was given.
    failed: Option<Instant>,
    /// When one that a service had refused was given up.
    given_up: Option<Instant>,
    /// Whose turn it is to ask.
    turn: Arc<Mutex<()>>,
}

/// What each credential has got.
#[derive(Default)]
pub(crate) struct Tokens(BTreeMap<Owner, Held>);

impl Tokens {
    /// Of a credential; what an older version of it has got is not used any more.
    fn of(&mut self, owner: Owner) -> &mut Held {
        let (actor, version) = owner;
        let is_older = |(other, older): &Owner| *other == actor && *older < version;
        self.0.retain(|other, _| !is_older(other));
        self.0.entry(owner).or_default()
    }

    /// The token of a credential, if it is still good.
    pub(crate) fn good(&mut self, owner: Owner) -> Option<Token> {
        let (token, until) = self.of(owner).token.as_ref()?;
        (Instant::now() < *until).then(|| Arc::clone(token))
    }

    /// Whoever asks for a token holds this meanwhile, so that one does.
    pub(crate) fn turn(&mut self, owner: Owner) -> Arc<Mutex<()>> {
        Arc::clone(&self.of(owner).turn)
    }

    /// Whether none was given a moment ago.
    pub(crate) fn has_failed(&mut self, owner: Owner) -> bool {
        let failed = self.of(owner).failed;
        failed.is_some_and(|since| since.elapsed() < FAILED_FOR)
    }

    /// None was given.
    pub(crate) fn fail(&mut self, owner: Owner) {
        self.of(owner).failed = Some(Instant::now());
    }

    /// The refresh token that took the place of the credential's.
    pub(crate) fn refresh(&mut self, owner: Owner) -> Option<Zeroizing<String>> {
        self.of(owner).refresh.clone()
    }

    /// Takes what was given for what was shown.
    pub(crate) fn take(&mut self, owner: Owner, minted: Minted, shown: Zeroizing<String>) -> Token {
        let good = Duration::from_secs(minted.seconds).min(MAX_GOOD);
        let token = Arc::new(minted.token);
        let until = Instant::now() + good.saturating_sub(SPARE).max(good / 2);
        let held = self.of(owner);
        held.token = Some((Arc::clone(&token), until));
        held.shown = Some(shown);
        held.refresh = minted.refresh.or(held.refresh.take());
        held.failed = None;
        token
    }

    /// The service does not take this one. Some say so whatever the token is: it is believed once in a while.
    pub(crate) fn give_up(&mut self, owner: Owner, refused: &Token) {
        let held = self.of(owner);
        let is_it = |(token, _): &(Token, Instant)| Arc::ptr_eq(token, refused);
        let is_late = held
            .given_up
            .is_none_or(|since| since.elapsed() > BELIEVED_EVERY);
        if is_late && held.token.as_ref().is_some_and(is_it) {
            held.token = None;
            held.given_up = Some(Instant::now());
        }
    }

    /// What must not come back, beside the token.
    pub(crate) fn secrets(&mut self, owner: Owner) -> Vec<Zeroizing<String>> {
        let held = self.of(owner);
        [&held.shown, &held.refresh]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// Tokens of what is not used any more. A refresh token stays: it may be used again, and the one before it is gone.
    pub(crate) fn revoke(&mut self, revoked: &Revoked) {
        for ((actor, version), held) in &mut self.0 {
            if revoked.is(actor, *version) {
                held.token = None;
            }
        }
    }
}
