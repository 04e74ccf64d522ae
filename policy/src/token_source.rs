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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), String> {
        let source: TokenSource = toml::from_str(text).map_err(|error| error.to_string())?;
        source.check()
    }

    #[test]
    fn a_source_of_tokens_is_said_whole() {
        let url = "url = 'https://auth.example/token'\n";
        for good in [
            "grant = 'client_credentials'\nclient_id = 'a'",
            "grant = 'client_credentials'\nclient_id = 'a'\nclient_auth = 'body'\nscope = 'a b'",
            "grant = 'refresh_token'\nclient_id = 'a'\nclient_auth = 'basic'",
            "grant = 'github_app'\nclient_id = 'Iv1.1'",
        ] {
            assert_eq!(check(&format!("{url}{good}")), Ok(()), "{good}");
        }
        for bad in [
            "grant = 'client_credentials'",
            "client_id = 'a'",
            "grant = 'password'\nclient_id = 'a'",
            "grant = 'client_credentials'\nclient_id = ''",
            "grant = 'client_credentials'\nclient_id = 'a b'",
            "grant = 'client_credentials'\nclient_id = 'a'\nscope = ''",
            "grant = 'client_credentials'\nclient_id = 'a'\nscope = 'a\"b'",
            "grant = 'client_credentials'\nclient_id = 'a'\nclient_auth = 'jwt'",
            "grant = 'github_app'\nclient_id = 'a'\nscope = 'repo'",
            "grant = 'github_app'\nclient_id = 'a'\nclient_auth = 'body'",
            "grant = 'github_app'\nclient_id = 'a'\nkey = 'b'",
        ] {
            assert!(check(&format!("{url}{bad}")).is_err(), "{bad}");
        }
        let rest = "grant = 'client_credentials'\nclient_id = 'a'";
        for url in [
            "http://auth.example/token",
            "https://auth.example/token?x=1",
            "https://10.0.0.1/token",
        ] {
            assert!(check(&format!("url = '{url}'\n{rest}")).is_err(), "{url}");
        }
    }

    #[test]
    fn a_clients_id_and_a_scope_have_their_length_and_their_characters() {
        let source = |id: &str, scope: Option<&str>| {
            let source = TokenSource {
                url: Upstream::try_from("https://auth.example/token".to_owned()).unwrap(),
                grant: Grant::ClientCredentials,
                client_id: id.into(),
                client_auth: ClientAuth::Basic,
                scope: scope.map(str::to_owned),
            };
            source.check()
        };
        let letters = |count| "a".repeat(count);
        for good in ["!a~", "a\"b\\c", &letters(256)] {
            assert_eq!(source(good, None), Ok(()), "{good}");
        }
        for bad in ["", "a b", "ä", "a\t", &letters(257)] {
            let refused = source(bad, None).unwrap_err();
            assert!(refused.contains("client_id"), "{bad}: {refused}");
        }
        for good in ["!a b~", "https://api.example/read", &letters(1024)] {
            assert_eq!(source("a", Some(good)), Ok(()), "{good}");
        }
        for bad in ["", "a\\b", "a\"b", "a\tb", "ä", &letters(1025)] {
            let refused = source("a", Some(bad)).unwrap_err();
            assert!(refused.contains("scope"), "{bad}: {refused}");
        }
    }
}
