//! Callers on localhost: a token says who they are, and browsers are kept out.

use std::net::SocketAddr;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, ORIGIN};
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

impl Localhost {
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
        // Every token is compared, whichever matches.
        let mut found = None;
        for caller in &self.callers {
            if bool::from(caller.token.as_bytes().ct_eq(presented.as_bytes())) {
                found = Some(&caller.name);
            }
        }
        let name = found.ok_or(TurnedAway::TokenInvalid)?.clone();
        Ok(ObservedCaller::named(name))
    }
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
}
