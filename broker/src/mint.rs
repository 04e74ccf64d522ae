//! Short tokens, asked for with a credential that lasts (RFC 6749; GitHub Apps).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use identity::UnixSeconds;
use policy::{ClientAuth, Grant, TokenSource};
use serde::Deserialize;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::form::encoded;
use crate::place::{Injected, check_secret};
use crate::{Error, Target};

/// Longer answers are not read.
pub const MAX_MINTED: usize = 64 * 1024;
/// An App says so long before that it will ask, for a clock that is behind, and so long a JWT is good: GitHub
/// takes at most ten minutes.
const APP_BEFORE: i64 = 60;
const APP_SECONDS: i64 = 540;
/// A token of an installation is good for an hour.
const INSTALLATION_SECONDS: u64 = 3600;
/// Of who does not say how long a token is good.
const UNSAID_SECONDS: u64 = 600;

/// A credential with which tokens are asked for.
pub struct Minting {
    /// What is shown: a client's secret, a refresh token, or the JWT of an App.
    pub shown: Zeroizing<String>,
    /// The secret of a client that shows a refresh token.
    pub client_secret: Option<Zeroizing<String>>,
    is_app: bool,
}

/// A request for a token.
pub struct MintRequest {
    /// Value of `Authorization`, if there is one.
    pub authorization: Option<Zeroizing<String>>,
    /// The body: a form, or nothing.
    pub form: Zeroizing<String>,
}

/// A token, as it was given.
pub struct Minted {
    /// What is put in the credential's place.
    pub token: Zeroizing<Vec<u8>>,
    /// For how long it is good.
    pub seconds: u64,
    /// The refresh token that takes the place of the one that was shown.
    pub refresh: Option<Zeroizing<String>>,
}

#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct Refresh {
    refresh_token: String,
    client_secret: Option<String>,
}

/// What stands in an answer (RFC 6749 section 5.1; of an App `token`).
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
struct Answer {
    access_token: Option<String>,
    token: Option<String>,
    token_type: Option<String>,
    #[zeroize(skip)]
    expires_in: Option<Seconds>,
    refresh_token: Option<String>,
}

/// A number, as some servers say it in a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

impl Minting {
    /// Of a credential, at this time.
    pub fn new(source: &TokenSource, secret: &[u8], now: UnixSeconds) -> Result<Self, Error> {
        check_secret(secret)?;
        let wrong = || Error::CredentialInvalid("it is none that gets tokens as its service says");
        let text = str::from_utf8(secret).map_err(|_| wrong())?;
        let alone = |shown| Self::of(source, shown, None);
        match source.grant {
            Grant::ClientCredentials => Ok(alone(Zeroizing::new(text.to_owned()))),
            Grant::GithubApp => app_jwt(&source.client_id, secret, now).map(alone),
            Grant::RefreshToken if text.starts_with('{') => {
                let mut read: Refresh = serde_json::from_str(text).map_err(|_| wrong())?;
                check_secret(read.refresh_token.as_bytes())?;
                if let Some(secret) = &read.client_secret {
                    check_secret(secret.as_bytes())?;
                }
                let shown = Zeroizing::new(std::mem::take(&mut read.refresh_token));
                let client_secret = read.client_secret.take().map(Zeroizing::new);
                Ok(Self::of(source, shown, client_secret))
            }
            Grant::RefreshToken => Ok(alone(Zeroizing::new(text.to_owned()))),
        }
    }

    /// Of what it is made of.
    pub fn of(
        source: &TokenSource,
        shown: Zeroizing<String>,
        client_secret: Option<Zeroizing<String>>,
    ) -> Self {
        Self {
            shown,
            client_secret,
            is_app: source.grant == Grant::GithubApp,
        }
    }

    /// How a token is asked for.
    pub fn request(&self, source: &TokenSource) -> MintRequest {
        if source.grant == Grant::GithubApp {
            return MintRequest {
                authorization: Some(Zeroizing::new(format!("Bearer {}", *self.shown))),
                form: Zeroizing::default(),
            };
        }
        let (grant, secret) = match source.grant {
            Grant::RefreshToken => ("refresh_token", self.client_secret.as_ref()),
            _ => ("client_credentials", Some(&self.shown)),
        };
        let mut form = Zeroizing::new(String::with_capacity(16 * 1024));
        form.push_str("grant_type=");
        form.push_str(grant);
        let mut add = |name: &str, value: &str| {
            for part in ["&", name, "=", &encoded(value.as_bytes())] {
                form.push_str(part);
            }
        };
        if source.grant == Grant::RefreshToken {
            add("refresh_token", &self.shown);
        }
        if let Some(scope) = &source.scope {
            add("scope", scope);
        }
        let mut authorization = None;
        match (secret, source.client_auth) {
            (None, _) => add("client_id", &source.client_id),
            (Some(secret), ClientAuth::Body) => {
                add("client_id", &source.client_id);
                add("client_secret", secret);
            }
            (Some(secret), ClientAuth::Basic) => {
                // Both are encoded as in a form before (section 2.3.1).
                let id = encoded(source.client_id.as_bytes());
                let pair = Zeroizing::new(format!("{}:{}", *id, *encoded(secret.as_bytes())));
                let text = Zeroizing::new(BASE64.encode(pair.as_bytes()));
                authorization = Some(Zeroizing::new(format!("Basic {}", *text)));
            }
        }
        MintRequest {
            authorization,
            form,
        }
    }

    /// What must not come back in an answer to what is done with it.
    pub fn secrets(&self) -> impl Iterator<Item = Zeroizing<Vec<u8>>> {
        // A JWT is looked for where it was shown.
        let all = [
            Some(&self.shown).filter(|_| !self.is_app),
            self.client_secret.as_ref(),
        ];
        let all = all.into_iter().flatten();
        all.map(|secret| Zeroizing::new(secret.as_bytes().to_vec()))
    }
}

/// A request in which no credential stands: a token will.
pub fn unplaced(target: &Target, minting: &Minting) -> Injected {
    Injected {
        headers: Vec::new(),
        target: target.origin_form("", ""),
        field: None,
        secrets: minting.secrets().collect(),
    }
}

/// Reads the answer to such a request, which said 200 or 201. None, if it gives no token that can be put anywhere.
pub fn minted(source: &TokenSource, body: &[u8]) -> Option<Minted> {
    let mut answer: Answer = serde_json::from_slice(body).ok()?;
    let is_app = source.grant == Grant::GithubApp;
    let token = match is_app {
        true => answer.token.take(),
        false => answer.access_token.take(),
    };
    let token = Zeroizing::new(token?.into_bytes());
    let is_bearer = |kind: &String| kind.eq_ignore_ascii_case("bearer");
    if check_secret(&token).is_err() || !answer.token_type.as_ref().is_none_or(is_bearer) {
        return None;
    }
    let unsaid = if is_app {
        INSTALLATION_SECONDS
    } else {
        UNSAID_SECONDS
    };
    let seconds = match &answer.expires_in {
        None => None,
        Some(Seconds::Number(seconds)) => Some(*seconds),
        Some(Seconds::Text(text)) => Some(text.parse().ok()?),
    };
    let refresh = answer.refresh_token.take().map(Zeroizing::new);
    Some(Minted {
        token,
        seconds: seconds.unwrap_or(unsaid),
        refresh: refresh.filter(|refresh| check_secret(refresh.as_bytes()).is_ok()),
    })
}

/// What an App shows for itself: a JWT (RFC 7519) by RS256, as GitHub has it.
fn app_jwt(client_id: &str, secret: &[u8], now: UnixSeconds) -> Result<Zeroizing<String>, Error> {
    let wrong = || {
        Error::CredentialInvalid(
            "it is no private key of a GitHub App: RSA, PEM in base64 without line ends",
        )
    };
    let pem = Zeroizing::new(BASE64.decode(secret).map_err(|_| wrong())?);
    let (label, der) = pem_rfc7468::decode_vec(&pem).map_err(|_| wrong())?;
    let der = Zeroizing::new(der);
    let key = match label {
        "RSA PRIVATE KEY" => RsaKeyPair::from_der(&der),
        "PRIVATE KEY" => RsaKeyPair::from_pkcs8(&der),
        _ => return Err(wrong()),
    };
    let key = key.map_err(|_| wrong())?;
    let claims = serde_json::json!({
        "iat": now.0 - APP_BEFORE,
        "exp": now.0 + APP_SECONDS,
        "iss": client_id,
    });
    let part = |json: &str| BASE64URL_NOPAD.encode(json.as_bytes());
    let text = format!(
        "{}.{}",
        part("{\"alg\":\"RS256\",\"typ\":\"JWT\"}"),
        part(&claims.to_string())
    );
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        text.as_bytes(),
        &mut signature,
    )
    .map_err(|_| wrong())?;
    Ok(Zeroizing::new(format!(
        "{text}.{}",
        BASE64URL_NOPAD.encode(&signature)
    )))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    fn source(grant: Grant, client_auth: ClientAuth, scope: Option<&str>) -> TokenSource {
        TokenSource {
            url: "https://auth.example/token".to_owned().try_into().unwrap(),
            grant,
            client_id: "s6BhdRkqt3".into(),
            client_auth,
            scope: scope.map(str::to_owned),
        }
    }

    fn asked(source: &TokenSource, secret: &str) -> (Option<String>, String) {
        let minting = Minting::new(source, secret.as_bytes(), UnixSeconds(0)).unwrap();
        let request = minting.request(source);
        (
            request.authorization.map(|value| value.to_string()),
            request.form.to_string(),
        )
    }

    #[test]
    fn tokens_are_asked_for_as_rfc_6749_says() {
        use ClientAuth::{Basic, Body};
        use Grant::{ClientCredentials, RefreshToken};
        // Of its sections 2.3.1, 4.4.2 and 6.
        let basic = Some("Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW".to_owned());
        let both = r#"{"refresh_token":"tGzv3JOkF0XG5Qx2TlKWIA","client_secret":"gX1fBat3bV"}"#;
        let refresh = "grant_type=refresh_token&refresh_token=tGzv3JOkF0XG5Qx2TlKWIA";
        for (source, secret, authorization, form) in [
            (
                source(ClientCredentials, Basic, None),
                "gX1fBat3bV",
                basic.clone(),
                "grant_type=client_credentials".to_owned(),
            ),
            (
                source(ClientCredentials, Body, Some("a b:c")),
                "gX1f/Bat+3bV",
                None,
                "grant_type=client_credentials&scope=a%20b%3Ac&client_id=s6BhdRkqt3&client_secret=gX1f%2FBat%2B3bV".into(),
            ),
            (source(RefreshToken, Basic, None), both, basic, refresh.into()),
            (
                source(RefreshToken, Body, None),
                both,
                None,
                format!("{refresh}&client_id=s6BhdRkqt3&client_secret=gX1fBat3bV"),
            ),
            (
                source(RefreshToken, Basic, None),
                "tGzv3JOkF0XG5Qx2TlKWIA",
                None,
                format!("{refresh}&client_id=s6BhdRkqt3"),
            ),
        ] {
            assert_eq!(asked(&source, secret), (authorization, form));
        }
        // Both are encoded before: a colon in either is no separator.
        let odd = TokenSource {
            client_id: "a:b".into(),
            ..source(ClientCredentials, Basic, None)
        };
        let wanted = BASE64.encode(b"a%3Ab:c%3Adefghi");
        assert_eq!(asked(&odd, "c:defghi").0, Some(format!("Basic {wanted}")));
        for bad in [
            "{\"refresh_token\":1}",
            "{\"refresh_token\":\"12345678\",\"client_secret\":\"\"}",
            "{\"client_secret\":\"12345678\"}",
            "{\"refresh_token\":\"12345678\",\"x\":1}",
            "short",
        ] {
            let source = source(RefreshToken, Basic, None);
            assert!(Minting::new(&source, bad.as_bytes(), UnixSeconds(0)).is_err());
        }
    }

    #[test]
    fn an_app_signs_for_itself_with_a_key_of_either_form() {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8: Pkcs8V1Der<'_> = key.as_der().unwrap();
        let public = RsaKeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let public = public.public_key().as_ref().to_vec();
        // PKCS#8 ends with the key as PKCS#1 has it: RFC 5208 section 5, 26 bytes in.
        for (label, der) in [
            ("PRIVATE KEY", pkcs8.as_ref()),
            ("RSA PRIVATE KEY", &pkcs8.as_ref()[26..]),
        ] {
            let pem = pem_rfc7468::encode_string(label, pem_rfc7468::LineEnding::LF, der).unwrap();
            let secret = BASE64.encode(pem.as_bytes());
            let app = source(Grant::GithubApp, ClientAuth::Basic, None);
            let now = UnixSeconds(1_800_000_000);
            let minting = Minting::new(&app, secret.as_bytes(), now).unwrap();
            let request = minting.request(&app);
            assert!(request.form.is_empty());
            let authorization = request.authorization.unwrap();
            let jwt = authorization.strip_prefix("Bearer ").unwrap();
            let (text, signature) = jwt.rsplit_once('.').unwrap();
            let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
            UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &public)
                .verify(text.as_bytes(), &signature)
                .unwrap();
            let claims = text.split_once('.').unwrap().1;
            let claims = BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap();
            let wanted = serde_json::json!({"iat": 1_799_999_940_i64, "exp": 1_800_000_540_i64, "iss": "s6BhdRkqt3"});
            assert_eq!(
                serde_json::from_slice::<serde_json::Value>(&claims).unwrap(),
                wanted
            );
            for bad in [
                &secret[..secret.len() / 8 * 4],
                "bm8ga2V5IGF0IGFsbA==",
                &BASE64.encode(der),
            ] {
                assert!(Minting::new(&app, bad.as_bytes(), now).is_err());
            }
        }
    }

    #[test]
    fn a_token_is_what_can_be_put_somewhere() {
        let oauth = source(Grant::ClientCredentials, ClientAuth::Basic, None);
        let app = source(Grant::GithubApp, ClientAuth::Basic, None);
        let read = |source: &TokenSource, body: &str| {
            let minted = minted(source, body.as_bytes())?;
            let refresh = minted.refresh.map(|refresh| refresh.to_string());
            Some((
                String::from_utf8(minted.token.to_vec()).unwrap(),
                minted.seconds,
                refresh,
            ))
        };
        let token = "2YotnFZFEjr1zCsicMWpAA".to_owned();
        let whole = r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"Bearer","expires_in":3600,"refresh_token":"tGzv3JOkF0XG5Qx2TlKWIA","example":1}"#;
        assert_eq!(
            read(&oauth, whole),
            Some((token.clone(), 3600, Some("tGzv3JOkF0XG5Qx2TlKWIA".into())))
        );
        assert_eq!(
            read(&oauth, r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA"}"#),
            Some((token.clone(), 600, None))
        );
        // One that cannot be shown takes no other's place.
        let odd =
            r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","expires_in":"60","refresh_token":""}"#;
        assert_eq!(read(&oauth, odd), Some((token.clone(), 60, None)));
        assert_eq!(
            read(
                &app,
                r#"{"token":"2YotnFZFEjr1zCsicMWpAA","expires_at":"2026-07-11T22:14:10Z","permissions":{}}"#
            ),
            Some((token, 3600, None))
        );
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"token":"2YotnFZFEjr1zCsicMWpAA"}"#,
            r#"{"access_token":"short"}"#,
            r#"{"access_token":"with a space in it"}"#,
            r#"{"access_token":"with\r\na-line: in it"}"#,
            r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"mac"}"#,
            r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","expires_in":-1}"#,
            r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","access_token":"another-of-that-name"}"#,
        ] {
            assert_eq!(read(&oauth, bad), None, "{bad}");
        }
    }
}
