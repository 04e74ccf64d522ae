//! Who calls: API keys, JWTs of an issuer, tokens that an authorization server knows, certificates.
//!
//! What a caller presents is checked, all of it: one that is not valid refuses the request, whatever
//! else is.

mod fetch;
mod introspection;
mod keys;
mod tokens;

use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

pub use self::fetch::{Fetch, Place};
pub use self::introspection::Introspection;
pub use self::keys::Keys;
pub use self::tokens::Tokens;
use crate::answer::Refusal;
use crate::certificate::Certificate;
use crate::headers::only;

/// How it is known who calls.
#[derive(Debug, Default)]
pub struct Callers {
    /// By keys of the operator's, and the header in which they come.
    pub keys: Option<(HeaderName, Keys)>,
    /// By tokens that an issuer signed.
    pub tokens: Option<Tokens>,
    /// By tokens that an authorization server is asked about.
    pub introspection: Option<Introspection>,
    /// By certificates. TLS has checked them.
    pub by_certificate: bool,
    /// Whether what was presented reaches the agent.
    pub forwards: bool,
}

/// Who calls, and how that is known: `api_key:ci`, `jwt:alice`, `oauth2_client:app`,
/// `mutual_tls:spiffe://x/y`.
pub type Caller = Arc<str>;

/// A token that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    subject: Subject,
    /// In seconds since 1970; it may be used before.
    expires: u64,
    /// The certificate that it is bound to (RFC 8705 section 3.1).
    certificate: Option<String>,
}

/// Whose token it is. A user and a client may have one name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    User(String),
    Client(String),
}

impl Subject {
    /// The user, if there is one.
    fn of(user: Option<String>, client: Option<String>) -> Option<Self> {
        user.map(Self::User).or(client.map(Self::Client))
    }
}

impl Callers {
    /// Whether nobody is asked who they are.
    pub fn are_anybody(&self) -> bool {
        self.keys.is_none()
            && self.tokens.is_none()
            && self.introspection.is_none()
            && !self.by_certificate
    }

    /// Who calls; none if nobody is asked. What was presented is taken away.
    pub async fn identify(
        &self,
        headers: &mut HeaderMap,
        certificate: Option<&Certificate>,
    ) -> Result<Option<Caller>, Refusal> {
        if self.are_anybody() {
            return Ok(None);
        }
        let mut names = Vec::new();
        if let Some((header, keys)) = &self.keys
            && headers.contains_key(header)
        {
            let key = only(headers, header.as_str());
            let name = key.and_then(|key| keys.name_of(key.as_bytes()));
            let name = name.ok_or(Refusal::Unauthenticated("the API key is not known"))?;
            names.push(name_of("api_key", &name));
            if !self.forwards {
                headers.remove(header);
            }
        }
        if (self.tokens.is_some() || self.introspection.is_some())
            && headers.contains_key(AUTHORIZATION)
        {
            names.push(self.bearer(headers, certificate).await?);
            if !self.forwards {
                headers.remove(AUTHORIZATION);
            }
        }
        if let Some(certificate) = certificate.filter(|_| self.by_certificate) {
            names.push(name_of("mutual_tls", &certificate.name));
        }
        if names.is_empty() {
            return Err(Refusal::Unauthenticated("nothing says who calls"));
        }
        Ok(Some(names.join(" ").into()))
    }

    async fn bearer(
        &self,
        headers: &HeaderMap,
        certificate: Option<&Certificate>,
    ) -> Result<String, Refusal> {
        const NO_TOKEN: Refusal = Refusal::Unauthenticated("the bearer token is not valid");
        let value = only(headers, AUTHORIZATION.as_str()).and_then(|value| value.to_str().ok());
        let (scheme, token) = value
            .and_then(|value| value.split_once(' '))
            .ok_or(NO_TOKEN)?;
        // RFC 6750 section 2.1.
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if !scheme.eq_ignore_ascii_case("bearer")
            || !token.bytes().all(is_token)
            || token.is_empty()
        {
            return Err(NO_TOKEN);
        }
        let (method, known) = match (&self.tokens, &self.introspection) {
            (Some(tokens), _) if tokens.are_of_issuer(token) => ("jwt", tokens.check(token).await?),
            (_, Some(introspection)) => ("oauth2", introspection.check(token).await?),
            _ => return Err(NO_TOKEN),
        };
        // A token that is bound to a certificate is worth nothing without it.
        let presented = certificate.map(|certificate| certificate.thumbprint.as_str());
        if known.certificate.is_some() && known.certificate.as_deref() != presented {
            return Err(Refusal::Unauthenticated(
                "the token is bound to another certificate",
            ));
        }
        Ok(match &known.subject {
            Subject::User(name) => name_of(method, name),
            Subject::Client(name) => name_of(&format!("{method}_client"), name),
        })
    }
}

/// What is not written as it is in a caller's name, so that no subject looks like two.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

fn name_of(method: &str, subject: &str) -> String {
    format!("{method}:{}", utf8_percent_encode(subject, ESCAPED))
}

/// Seconds since 1970.
fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default()
}

/// The certificate that a token is bound to, by its `cnf` claim (RFC 7800); an error if it is bound to
/// something that cannot be checked here.
fn bound_to(cnf: Option<&serde_json::Value>) -> Result<Option<String>, Refusal> {
    let Some(cnf) = cnf else {
        return Ok(None);
    };
    match cnf.get("x5t#S256").and_then(serde_json::Value::as_str) {
        Some(thumbprint) => Ok(Some(thumbprint.to_owned())),
        None => Err(Refusal::Unauthenticated(
            "the token is bound to a key that it was not presented with",
        )),
    }
}
