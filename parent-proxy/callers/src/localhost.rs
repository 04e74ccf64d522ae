//! Callers on localhost: a token says who they are, and browsers are kept out.

use std::net::SocketAddr;

use data_encoding::BASE64;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, ORIGIN, PROXY_AUTHORIZATION};
use identity::caller::ObservedCaller;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::turned_away::TurnedAway;

/// A TCP listener on a loopback address.
#[derive(Debug)]
pub struct Localhost {
    /// The address.
    pub listen: SocketAddr,
    /// Who may call.
    pub callers: Vec<LocalhostCaller>,
}

/// A caller on localhost: the one who shows this token.
#[derive(Debug)]
pub struct LocalhostCaller {
    /// The name that the policy knows.
    pub name: String,
    /// At least 32 characters.
    pub token: Zeroizing<String>,
    /// Whether it may read the metrics.
    pub operator: bool,
}

/// What was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown<T> {
    /// The token of the caller of this name.
    Token(String),
    /// Something else that is known.
    Other(T),
}

impl Localhost {
    /// A request for a service: for this host, from no web page, with a caller's token wherever an
    /// unchanged client shows what it takes for its credential, or with one that `other` knows. What is
    /// shown is taken out of the headers: it goes no further. `elsewhere` is what it showed in the path
    /// or query.
    pub fn take_placeholder<T>(
        &self,
        headers: &mut HeaderMap,
        elsewhere: Option<&str>,
        other: impl Fn(&str) -> Option<T>,
    ) -> Result<Shown<T>, TurnedAway> {
        check_host(headers, self.listen)?;
        if headers.contains_key(ORIGIN) {
            return Err(TurnedAway::ForeignOrigin);
        }
        let mut presented = placeholders(headers);
        presented.extend(elsewhere.map(|shown| Zeroizing::new(shown.to_owned())));
        let (first, rest) = presented.split_first().ok_or(TurnedAway::TokenInvalid)?;
        // Two tokens are two callers' words.
        if rest.iter().any(|other| other != first) {
            return Err(TurnedAway::TokenInvalid);
        }
        let shown = match self.owner(first) {
            Some(name) => Shown::Token(name.clone()),
            None => Shown::Other(other(first).ok_or(TurnedAway::TokenInvalid)?),
        };
        for shown in SHOWN_IN {
            headers.remove(shown);
        }
        Ok(shown)
    }

    /// A client that takes us for a proxy (RFC 9110 section 11.7.2): with a caller's token as Bearer or as the
    /// password of Basic, or with one that `other` knows. Gives the user of Basic too.
    pub fn proxy_caller<T>(
        &self,
        headers: &HeaderMap,
        other: impl Fn(&str) -> Option<T>,
    ) -> Result<(Shown<T>, Option<String>), TurnedAway> {
        if headers.contains_key(ORIGIN) {
            return Err(TurnedAway::ForeignOrigin);
        }
        let mut values = headers.get_all(PROXY_AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(TurnedAway::TokenInvalid);
        };
        let value = value.to_str().map_err(|_| TurnedAway::TokenInvalid)?;
        let (scheme, shown) = value.split_once(' ').ok_or(TurnedAway::TokenInvalid)?;
        let (user, token) = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => (None, Zeroizing::new(shown.to_owned())),
            "basic" => {
                let (user, password) = pair(shown.trim()).ok_or(TurnedAway::TokenInvalid)?;
                (Some(user), Zeroizing::new(password))
            }
            _ => return Err(TurnedAway::TokenInvalid),
        };
        let shown = match self.owner(&token) {
            Some(name) => Shown::Token(name.clone()),
            None => Shown::Other(other(&token).ok_or(TurnedAway::TokenInvalid)?),
        };
        Ok((shown, user))
    }

    /// Whose token it is. Every token is compared, whichever matches.
    fn owner(&self, presented: &str) -> Option<&String> {
        let mut found = None;
        for caller in &self.callers {
            if bool::from(caller.token.as_bytes().ct_eq(presented.as_bytes())) {
                found = Some(&caller.name);
            }
        }
        found
    }

    /// A request on localhost: for this host, from no web page, with a token of a caller.
    pub fn caller(&self, headers: &HeaderMap) -> Result<ObservedCaller, TurnedAway> {
        check_host(headers, self.listen)?;
        if headers.contains_key(ORIGIN) {
            return Err(TurnedAway::ForeignOrigin);
        }
        let presented = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let presented = presented.ok_or(TurnedAway::TokenInvalid)?;
        let name = self
            .owner(presented)
            .ok_or(TurnedAway::TokenInvalid)?
            .clone();
        Ok(ObservedCaller::named(name))
    }
}

/// Where clients show a credential.
const SHOWN_IN: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];

/// What stands where clients show a credential: as Bearer or as the password of Basic (RFC 6750, RFC
/// 7617), or alone in a header of its own.
fn placeholders(headers: &HeaderMap) -> Vec<Zeroizing<String>> {
    let mut found = Vec::new();
    for name in SHOWN_IN {
        for value in headers.get_all(name) {
            let text = value.to_str().unwrap_or_default();
            let shown = match text.split_once(' ') {
                Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.to_owned(),
                Some((scheme, rest)) if scheme.starts_with("AWS4-") => {
                    key_id(rest).unwrap_or_default().to_owned()
                }
                Some((scheme, rest)) if scheme.eq_ignore_ascii_case("basic") => {
                    password(rest.trim()).unwrap_or_default()
                }
                _ => text.to_owned(),
            };
            found.push(Zeroizing::new(shown));
        }
    }
    found
}

/// The access key's id in a signature for AWS: `Credential=ID/date/region/service/aws4_request`.
fn key_id(signature: &str) -> Option<&str> {
    let (_, rest) = signature.split_once("Credential=")?;
    rest.split(',').next()?.trim().rsplitn(5, '/').nth(4)
}

/// The user whom a client names to a proxy, if it names one so.
pub fn proxy_user(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(PROXY_AUTHORIZATION)?.to_str().ok()?;
    let (scheme, shown) = value.split_once(' ')?;
    let (user, _) = pair(shown.trim()).filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    Some(user)
}

fn password(basic: &str) -> Option<String> {
    pair(basic).map(|(_, password)| password)
}

/// User and password of Basic.
fn pair(basic: &str) -> Option<(String, String)> {
    let pair = String::from_utf8(BASE64.decode(basic.as_bytes()).ok()?).ok()?;
    let (user, password) = pair.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Exactly one `Host`, and it names this listener: a page that had its name rebound to 127.0.0.1
/// sends its own.
fn check_host(headers: &HeaderMap, listen: SocketAddr) -> Result<(), TurnedAway> {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(TurnedAway::ForeignHost);
    };
    let good = [format!("localhost:{}", listen.port()), listen.to_string()];
    if good.iter().any(|good| host.as_bytes() == good.as_bytes()) {
        Ok(())
    } else {
        Err(TurnedAway::ForeignHost)
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const CREW: &str = "0123456789abcdef0123456789abcdef";
    const PROMETHEUS: &str = "0123456789abcdef0123456789abcdeg";
    const GOOD_HOST: (&str, &str) = ("host", "127.0.0.1:8080");

    fn listening(listen: &str) -> Localhost {
        let caller = |name: &str, token: &str, operator| LocalhostCaller {
            name: name.into(),
            token: Zeroizing::new(token.into()),
            operator,
        };
        Localhost {
            listen: listen.parse().unwrap(),
            callers: vec![
                caller("crew", CREW, false),
                caller("prometheus", PROMETHEUS, true),
            ],
        }
    }

    /// Who comes with these headers to 127.0.0.1:8080.
    fn who(headers: &[(&'static str, &str)]) -> Result<String, TurnedAway> {
        who_at("127.0.0.1:8080", headers)
    }

    fn who_at(listen: &str, headers: &[(&'static str, &str)]) -> Result<String, TurnedAway> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let seen = listening(listen).caller(&map)?;
        assert_eq!(seen.uid.or(seen.gid), None, "nobody's ids are known");
        Ok(seen.name.unwrap())
    }

    #[test]
    fn a_request_is_for_this_host_and_port_by_its_one_host_header() {
        let crew = format!("Bearer {CREW}");
        let token = ("authorization", crew.as_str());
        for (listen, good) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("127.0.0.1:8080", "localhost:8080"),
            ("127.0.0.2:80", "127.0.0.2:80"),
            ("[::1]:8080", "[::1]:8080"),
            ("[::1]:8080", "localhost:8080"),
        ] {
            let told = who_at(listen, &[("host", good), token]);
            assert_eq!(told.as_deref(), Ok("crew"), "{good}");
        }
        for (listen, bad) in [
            ("127.0.0.1:8080", ""),
            ("127.0.0.1:8080", "127.0.0.1"),
            ("127.0.0.1:8080", "localhost"),
            ("127.0.0.1:8080", "localhost:"),
            ("127.0.0.1:8080", "localhost:8081"),
            ("127.0.0.1:8080", "localhost:80801"),
            ("127.0.0.1:8080", "127.0.0.1:80"),
            ("127.0.0.1:8080", "127.0.0.2:8080"),
            ("127.0.0.1:8080", "evil.example:8080"),
            ("127.0.0.1:8080", "localhost.evil.example:8080"),
            ("127.0.0.1:8080", "evil.example"),
            ("127.0.0.1:8080", "user@localhost:8080"),
            ("127.0.0.1:8080", "localhost:8080, localhost:8080"),
            ("127.0.0.1:8080", "[::1]:8080"),
            ("127.0.0.1:8080", "localh\u{f6}st:8080"),
            ("[::1]:8080", "::1:8080"),
            ("[::1]:8080", "[::1]"),
            ("[::1]:8080", "127.0.0.1:8080"),
        ] {
            let told = who_at(listen, &[("host", bad), token]);
            assert_eq!(told, Err(TurnedAway::ForeignHost), "{bad}");
        }
        let other = ("host", "localhost:8080");
        for hosts in [&[][..], &[GOOD_HOST, GOOD_HOST], &[GOOD_HOST, other]] {
            let told = who(&[hosts, &[token]].concat());
            assert_eq!(told, Err(TurnedAway::ForeignHost), "{hosts:?}");
        }
    }

    #[test]
    fn no_page_is_answered_whatever_its_origin_and_its_token() {
        let crew = format!("Bearer {CREW}");
        let token = ("authorization", crew.as_str());
        for origin in ["", "null", "https://evil.example", "http://127.0.0.1:8080"] {
            let told = who(&[GOOD_HOST, ("origin", origin), token]);
            assert_eq!(told, Err(TurnedAway::ForeignOrigin), "{origin}");
        }
        // The same whether its token is right or not: it learns nothing of tokens.
        let told = who(&[GOOD_HOST, ("origin", "null")]);
        assert_eq!(told, Err(TurnedAway::ForeignOrigin));
        // Nor of what else this host has, where its own name was rebound.
        let told = who(&[("host", "evil.example"), ("origin", "null"), token]);
        assert_eq!(told, Err(TurnedAway::ForeignHost));
    }

    #[test]
    fn a_caller_is_whose_whole_token_is_shown() {
        for (token, name) in [(CREW, "crew"), (PROMETHEUS, "prometheus")] {
            let shown = format!("Bearer {token}");
            let told = who(&[GOOD_HOST, ("authorization", &shown)]);
            assert_eq!(told.as_deref(), Ok(name));
        }
        let shared = "Bearer 0123456789abcdef0123456789abcde";
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            // Of both tokens this is the beginning.
            shared,
            &format!("Bearer {CREW}0"),
            &format!("Bearer {CREW} "),
            &format!("Bearer  {CREW}"),
            &format!("Bearer {}", CREW.to_uppercase()),
            &format!("Bearer {}", &CREW[1..]),
            &format!("Bearer {CREW}{PROMETHEUS}"),
            &format!("Basic {CREW}"),
            &format!("Bearer {CREW}\u{e9}"),
            &format!("Bearer\t{CREW}"),
            CREW,
            "Bearer crew",
        ] {
            let told = who(&[GOOD_HOST, ("authorization", bad)]);
            assert_eq!(told, Err(TurnedAway::TokenInvalid), "{bad}");
        }
        assert_eq!(who(&[GOOD_HOST]), Err(TurnedAway::TokenInvalid));
        // Only where the token belongs.
        let cookie = format!("token={CREW}");
        let told = who(&[GOOD_HOST, ("cookie", &cookie), ("x-token", CREW)]);
        assert_eq!(told, Err(TurnedAway::TokenInvalid));
    }

    /// Base64 of a user and a password.
    fn basic(user: &str, password: &str) -> String {
        BASE64.encode(format!("{user}:{password}").as_bytes())
    }

    fn headers(shown: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in shown {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn a_placeholder_is_found_wherever_clients_show_a_credential_and_taken_away() {
        let (basic, other) = (basic("user", CREW), basic("user", "placeholder"));
        let signed = |id: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential={id}/20261201/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature=0"
            )
        };
        let take = |shown: &[(&'static str, &str)], elsewhere| {
            let mut headers = headers(&[&[GOOD_HOST, ("x-kept", "1")], shown].concat());
            let known =
                |text: &str| (text == "placeholder" || text == "A/B").then(|| text.to_owned());
            let taken =
                listening("127.0.0.1:8080").take_placeholder(&mut headers, elsewhere, known);
            assert!(headers.contains_key("x-kept"));
            if taken.is_ok() {
                assert!(SHOWN_IN.iter().all(|name| !headers.contains_key(*name)));
            }
            taken
        };
        let crew = || Ok(Shown::Token("crew".to_owned()));
        let placeholder = || Ok(Shown::Other("placeholder".to_owned()));
        for (name, value, expected) in [
            ("authorization", format!("Bearer {CREW}"), crew()),
            ("authorization", format!("bEARER {CREW}"), crew()),
            ("authorization", format!("Basic {basic}"), crew()),
            ("authorization", format!("bASIC {other}"), placeholder()),
            ("authorization", CREW.to_owned(), crew()),
            ("authorization", signed("placeholder"), placeholder()),
            // What stands in the id may have slashes itself.
            (
                "authorization",
                signed("A/B"),
                Ok(Shown::Other("A/B".to_owned())),
            ),
            ("x-api-key", CREW.to_owned(), crew()),
            ("api-key", "placeholder".to_owned(), placeholder()),
            ("x-goog-api-key", CREW.to_owned(), crew()),
        ] {
            assert_eq!(take(&[(name, &value)], None), expected, "{name}: {value}");
        }
        let invalid = Err(TurnedAway::TokenInvalid);
        for (name, value) in [
            ("authorization", format!("Bearer {CREW}0")),
            ("authorization", format!("Token {CREW}")),
            ("authorization", format!("Token {basic}")),
            ("authorization", format!("Basic {CREW}")),
            ("authorization", "Basic =".to_owned()),
            ("authorization", format!("Bearer {basic}")),
            (
                "authorization",
                "AWS4-HMAC-SHA256 Credential=placeholder".to_owned(),
            ),
            ("authorization", "AWS4-HMAC-SHA256 placeholder".to_owned()),
            (
                "authorization",
                format!("aws4 {}", &signed("placeholder")[5..]),
            ),
            ("cookie", CREW.to_owned()),
            ("x-api-key", "unknown".to_owned()),
        ] {
            assert_eq!(take(&[(name, &value)], None), invalid, "{name}: {value}");
        }
        // The same twice is one word; two are two.
        let bearer = format!("Bearer {CREW}");
        assert_eq!(
            take(
                &[("authorization", &bearer), ("x-api-key", CREW)],
                Some(CREW)
            ),
            crew()
        );
        assert_eq!(take(&[], Some("placeholder")), placeholder());
        for (name, elsewhere) in [("x-api-key", None), ("cookie", Some(PROMETHEUS))] {
            let shown = [("authorization", bearer.as_str()), (name, PROMETHEUS)];
            assert_eq!(take(&shown, elsewhere), invalid, "{name}");
        }
        assert_eq!(take(&[], None), invalid);
        let origin = [("origin", "null"), ("x-api-key", CREW)];
        assert_eq!(take(&origin, None), Err(TurnedAway::ForeignOrigin));
        let mut foreign = headers(&[("host", "evil.example"), ("x-api-key", CREW)]);
        let taken = listening("127.0.0.1:8080").take_placeholder(&mut foreign, None, |_| Some(()));
        assert_eq!(taken, Err(TurnedAway::ForeignHost));
    }

    #[test]
    fn a_client_of_a_proxy_shows_a_token_and_may_name_a_user() {
        let come = |shown: &[(&'static str, &str)]| {
            let headers = headers(shown);
            let known = |text: &str| (text == "placeholder").then(|| text.to_owned());
            let came = listening("127.0.0.1:8080").proxy_caller(&headers, known);
            let user = proxy_user(&headers);
            if let Ok((_, named)) = &came {
                assert_eq!(*named, user);
            }
            came
        };
        let (crew, other) = (basic("agent", CREW), basic("", "placeholder"));
        let token = || Shown::Token("crew".to_owned());
        let placeholder = || Shown::Other("placeholder".to_owned());
        for (value, expected) in [
            (format!("Bearer {CREW}"), (token(), None)),
            (format!("bEARER {CREW}"), (token(), None)),
            (format!("Basic {crew}"), (token(), Some("agent".to_owned()))),
            (
                format!("bASIC {other}"),
                (placeholder(), Some(String::new())),
            ),
            ("Bearer placeholder".to_owned(), (placeholder(), None)),
        ] {
            assert_eq!(
                come(&[("proxy-authorization", &value)]),
                Ok(expected),
                "{value}"
            );
        }
        let invalid = Err(TurnedAway::TokenInvalid);
        let bearer = format!("Bearer {CREW}");
        let wrong = basic("agent", "wrong");
        for shown in [
            &[][..],
            &[("authorization", bearer.as_str())],
            &[
                ("proxy-authorization", bearer.as_str()),
                ("proxy-authorization", bearer.as_str()),
            ],
            &[("proxy-authorization", CREW)],
            &[("proxy-authorization", &format!("Token {CREW}"))],
            &[("proxy-authorization", &format!("Basic {CREW}"))],
            &[("proxy-authorization", &format!("Basic {wrong}"))],
            &[("proxy-authorization", "Bearer unknown")],
        ] {
            assert_eq!(come(shown), invalid, "{shown:?}");
        }
        let page = [("origin", "null"), ("proxy-authorization", bearer.as_str())];
        assert_eq!(come(&page), Err(TurnedAway::ForeignOrigin));
        // Somebody is named by Basic alone.
        for value in [&bearer, "Basic", "Basic =", &format!("Token {crew}")] {
            assert_eq!(
                proxy_user(&headers(&[("proxy-authorization", value)])),
                None
            );
        }
    }
}
