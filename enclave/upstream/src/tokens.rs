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
use crate::wire::{Setup, TokenSetup};

/// A token is not used in its last minutes, or its second half.
const SPARE: Duration = Duration::from_secs(300);
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
pub(crate) struct Held {
    token: Option<(Token, Instant)>,
    /// The refresh token that took the place of the credential's: in this boot only.
    pub(crate) refresh: Option<Zeroizing<String>>,
}

impl Held {
    /// The token, if it is still good.
    pub(crate) fn token(&self) -> Option<Token> {
        let (token, until) = self.token.as_ref()?;
        (Instant::now() < *until).then(|| Arc::clone(token))
    }

    /// Takes what was given.
    pub(crate) fn take(&mut self, minted: Minted) -> Token {
        let good = Duration::from_secs(minted.seconds).min(MAX_GOOD);
        let token = Arc::new(minted.token);
        let until = Instant::now() + good.saturating_sub(SPARE).max(good / 2);
        self.token = Some((Arc::clone(&token), until));
        self.refresh = minted.refresh.or(self.refresh.take());
        token
    }

    /// The service does not take this one.
    pub(crate) fn drop_token(&mut self, refused: &Token) {
        let is_it = |(token, _): &(Token, Instant)| Arc::ptr_eq(token, refused);
        if self.token.as_ref().is_some_and(is_it) {
            self.token = None;
        }
    }
}

/// What each credential has got. Whoever asks for a token holds its lock meanwhile, so that one does.
#[derive(Default)]
pub(crate) struct Tokens(BTreeMap<Owner, Arc<Mutex<Held>>>);

impl Tokens {
    /// Of a credential; what an older version of it has got is not used any more.
    pub(crate) fn of(&mut self, owner: Owner) -> Arc<Mutex<Held>> {
        let (actor, version) = owner;
        self.forget(|(other, older)| *other == actor && older < version);
        Arc::clone(self.0.entry(owner).or_default())
    }

    pub(crate) fn forget(&mut self, is_gone: impl Fn((&[u8; 32], u64)) -> bool) {
        self.0
            .retain(|(actor, version), _| !is_gone((actor, *version)));
    }
}
