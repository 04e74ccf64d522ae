//! Headers that concern one connection and no other (RFC 9110 section 7.6.1), and those of IATP.

use data_encoding::BASE64;
use hyper::HeaderMap;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, ETAG, HOST, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};

/// Overrides a warning; it is a secret of the gateway's, and no business of the agent's.
pub const OVERRIDE: &str = "x-user-override";
/// How long the gateway and the agent took, in milliseconds.
pub const LATENCY: &str = "x-agent-latency-ms";
/// The agent's trust score.
pub const TRUST_SCORE: &str = "x-agent-trust-score";
/// Who calls, as the gateway found out; the agent gets it from nobody else.
pub const CALLER: &str = "x-agent-caller";
/// The request was overridden below the trust threshold.
pub const QUARANTINED: &str = "x-agent-quarantined";

/// SHA-256 of a body, for example (RFC 9530).
const CONTENT_DIGEST: &str = "content-digest";

/// Takes away what concerns the connection on which it came, and what `Connection` names.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
}

/// As [`remove_hop_by_hop`], from a request; its sender still says that it takes trailers (RFC 9110
/// section 10.1.4).
pub fn remove_from_request(headers: &mut HeaderMap) {
    let takes = headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let takes_trailers = takes
        .flat_map(|text| text.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    remove_hop_by_hop(headers);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Headers of which the agent believes that they are the gateway's.
const OF_GATEWAY: [&str; 10] = [
    CALLER,
    OVERRIDE,
    QUARANTINED,
    TRUST_SCORE,
    LATENCY,
    "x-agent-trace-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Takes away what some agents read as a header of the gateway's: CGI, WSGI and PHP know no difference
/// between `-` and `_`.
pub fn remove_lookalikes(headers: &mut HeaderMap) {
    let is_one = |name: &&HeaderName| {
        let dashed = name.as_str().replace('_', "-");
        name.as_str().contains('_') && OF_GATEWAY.contains(&dashed.as_str())
    };
    let found: Vec<HeaderName> = headers.keys().filter(is_one).cloned().collect();
    found
        .into_iter()
        .for_each(|name| drop(headers.remove(name)));
}

/// Headers that say something of a body follow it where it was changed: none is known of one that is
/// still coming.
pub fn follow(headers: &mut HeaderMap, body: Option<&[u8]>) {
    for name in ["digest", "repr-digest", "content-md5", "accept-ranges"] {
        headers.remove(name);
    }
    headers.remove(CONTENT_LENGTH);
    // RFC 9530 section 2.
    if headers.remove(CONTENT_DIGEST).is_some()
        && let Some(body) = body
        && let Ok(value) = HeaderValue::try_from(format!(
            "sha-256=:{}:",
            BASE64.encode(identity::sha256(body).as_bytes())
        ))
    {
        headers.insert(CONTENT_DIGEST, value);
    }
    // It is as good as the agent's for asking again, and not the same bytes (RFC 9110 section 8.8.1).
    let strong = headers
        .get(ETAG)
        .filter(|tag| tag.as_bytes().starts_with(b"\""));
    let weak = strong.map(|tag| [b"W/", tag.as_bytes()].concat());
    if let Some(weak) = weak.and_then(|weak| HeaderValue::from_bytes(&weak).ok()) {
        headers.insert(ETAG, weak);
    }
}

/// Whether a request of HTTP/1.1 names its host once (RFC 9112 section 3.2).
pub fn has_one_host(headers: &HeaderMap) -> bool {
    headers.get_all(HOST).iter().count() == 1
}

/// A header's only value; none if there is none, or more than one.
pub fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_a_connection_stays_on_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine"),
            ("connection", "x-other"),
            ("x-mine", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-kept", "1"),
            ("content-type", "application/json"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "x-kept"]);
    }
}
