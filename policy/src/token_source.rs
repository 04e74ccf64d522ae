//! Short tokens for a credential that lasts.

use serde::{Deserialize, Serialize};

use crate::Upstream;

/// Where a credential gets the short tokens that are put in its place. They are asked for inside, and nobody but the
/// service sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSource {
    /// Whom to ask: an `https:` URL without a query, under the service's `roots`.
    pub url: Upstream,
    /// How.
    pub grant: Grant,
    /// As whom: the client's id; of a GitHub App its client id, or that of the App.
    pub client_id: String,
    /// How a client that has a secret shows it.
    #[serde(default, skip_serializing_if = "ClientAuth::is_default")]
    pub client_auth: ClientAuth,
    /// What the token shall be good for: what the client may at most, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// What a credential is, and how tokens are asked for with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// The client's secret (RFC 6749 section 4.4).
    ClientCredentials,
    /// A refresh token, or `{"refresh_token":"...","client_secret":"..."}` (RFC 6749 section 6).
    RefreshToken,
    /// The private key of a GitHub App (RSA, PEM in base64), for the installation that the URL names.
    GithubApp,
}

/// How a client shows its secret (RFC 6749 section 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// `client_secret_basic`.
    #[default]
    Basic,
    /// `client_secret_post`: in the body.
    Body,
}

impl ClientAuth {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl TokenSource {
    pub(crate) fn check(&self) -> Result<(), String> {
        let good = |b: u8| b.is_ascii_graphic();
        let is_id = !self.client_id.is_empty() && self.client_id.len() <= 256;
        if !is_id || !self.client_id.bytes().all(good) {
            return Err("token: client_id is 1 to 256 printable characters".into());
        }
        if let Some(scope) = &self.scope {
            // RFC 6749 section 3.3.
            let good = |b: u8| b == b' ' || (b.is_ascii_graphic() && b != b'"' && b != b'\\');
            if scope.is_empty() || scope.len() > 1024 || !scope.bytes().all(good) {
                return Err("token: scope is 1 to 1024 printable characters".into());
            }
        }
        let is_app = self.grant == Grant::GithubApp;
        if is_app && (self.scope.is_some() || self.client_auth != ClientAuth::default()) {
            return Err("token: a GitHub App has neither scope nor client_auth".into());
        }
        Ok(())
    }
}
