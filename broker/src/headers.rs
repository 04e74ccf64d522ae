//! Which headers pass, towards the service and back.

use minicbor::{Decode, Encode};

use policy::{Inject, SigV4};

use crate::Error;

const MAX_HEADERS: usize = 96;
const MAX_BYTES: usize = 16 * 1024;

/// Of one connection alone (RFC 9110 section 7.6.1), or what frames a message: written anew.
const HOP: [&str; 12] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    // None is agreed on: what is said over a WebSocket is looked through as it stands (RFC 6455 section 9).
    "sec-websocket-extensions",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];
/// In which clients show who they are: the caller's token, or a credential that is not ours to
/// send.
const CREDENTIALS: [&str; 9] = [
    "api-key",
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-amz-security-token",
    "x-api-key",
    "x-auth-token",
    "x-goog-api-key",
    "x-access-token",
];
/// What a proxy would add, and an agent could lie about.
const FORWARDING: [&str; 5] = [
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
];
/// By which some services have another method or path than what was judged.
const OVERRIDES: [&str; 6] = [
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-method",
    "x-original-url",
    "x-rewrite-url",
];
/// Pieces of an answer could each have a piece of a credential.
const PIECES: [&str; 2] = ["if-range", "range"];
/// What a signature for AWS is over, and is said anew.
const SIGNED_ANEW: [&str; 2] = ["x-amz-content-sha256", "x-amz-date"];
/// Of an answer: what belongs to the credential's owner, or would lead around us.
const OF_OWNER: [&str; 6] = [
    "set-cookie",
    "set-cookie2",
    "alt-svc",
    "clear-site-data",
    "proxy-authenticate",
    "proxy-authentication-info",
];

/// A header: its name in lower case, and its value.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Header {
    /// A token (RFC 9110 section 5.6.2) in lower case.
    #[n(0)]
    pub name: String,
    /// No CR, LF or NUL.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub value: Vec<u8>,
}

impl Header {
    /// Of a name in any case.
    pub fn new(name: &str, value: &[u8]) -> Self {
        Self {
            name: name.to_ascii_lowercase(),
            value: value.to_vec(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |why| Err(Error::HeaderInvalid(printable(&self.name), why));
        let token = |b: u8| {
            (b.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&b))
                && !b.is_ascii_uppercase()
        };
        if self.name.is_empty() || !self.name.bytes().all(token) {
            return wrong("its name is no token");
        }
        // RFC 9110 section 5.5.
        let good = |b: &u8| *b == b'\t' || (*b >= b' ' && *b != 0x7f);
        if !self.value.iter().all(good) {
            return wrong("a control character stands in its value");
        }
        Ok(())
    }
}

/// The headers of a request that are sent on, in their order, beside those in which the credential
/// will stand.
pub fn forwarded(headers: &[Header], inject: &Inject) -> Result<Vec<Header>, Error> {
    let placed = inject.header.as_deref().unwrap_or("authorization");
    let is_signed = inject.sigv4.is_some();
    let is_s3 = inject.sigv4.as_ref().is_some_and(SigV4::is_s3);
    let bytes: usize = headers.iter().map(|h| h.name.len() + h.value.len()).sum();
    if headers.len() > MAX_HEADERS || bytes > MAX_BYTES {
        return Err(Error::HeadersTooLong);
    }
    headers.iter().try_for_each(Header::check)?;
    let named = connection_named(headers);
    let passes = |header: &&Header| {
        let name = read_as(&header.name);
        let name = name.as_str();
        !HOP.contains(&name)
            && !CREDENTIALS.contains(&name)
            && !FORWARDING.contains(&name)
            && !OVERRIDES.contains(&name)
            // S3 gives what was put there, and nothing of a request.
            && (is_s3 || !PIECES.contains(&name))
            && !(is_signed && SIGNED_ANEW.contains(&name))
            && !name.starts_with("proxy-")
            && !name.starts_with("x-forwarded-")
            && !name.starts_with("x-anchorhold-")
            && name != "accept-encoding"
            && name != read_as(placed)
            && !named.iter().any(|named| read_as(named) == name)
    };
    let sent: Vec<Header> = headers.iter().filter(passes).cloned().collect();
    // What is said twice is read once, and nobody knows which.
    for single in ["content-type", "content-encoding"] {
        let is_it = |header: &&Header| read_as(&header.name) == single;
        if sent.iter().filter(is_it).count() > 1 {
            return Err(Error::HeaderInvalid(single.into(), "it is given twice"));
        }
    }
    Ok(sent)
}

/// A name as services may read it: CGI and what came of it take `_` for `-` (RFC 3875 section 4.1.18).
pub(crate) fn read_as(name: &str) -> String {
    name.replace('_', "-")
}

/// The headers of an answer that are given back, in their order. How long its body is, they say.
pub fn returned(headers: &[Header]) -> Vec<Header> {
    let named = connection_named(headers);
    let passes = |header: &&Header| {
        let name = header.name.as_str();
        (name == "content-length" || !HOP.contains(&name))
            && !OF_OWNER.contains(&name)
            && !name.starts_with("x-anchorhold-")
            && header.check().is_ok()
            && (name == "content-length" || !named.iter().any(|named| named == name))
    };
    headers.iter().filter(passes).cloned().collect()
}

/// What `Connection` names is of one connection alone.
fn connection_named(headers: &[Header]) -> Vec<String> {
    let values = headers
        .iter()
        .filter(|header| header.name == "connection")
        .map(|header| String::from_utf8_lossy(&header.value).to_ascii_lowercase());
    let names = |value: String| {
        let names = value.split(',').map(|name| name.trim().to_owned());
        names.collect::<Vec<_>>()
    };
    values.flat_map(names).collect()
}

fn printable(name: &str) -> String {
    let shown = name.chars().take(64);
    shown
        .map(|c| if c.is_ascii_graphic() { c } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_header(name: &str) -> Inject {
        Inject {
            header: Some(name.into()),
            ..Inject::default()
        }
    }

    fn headers(all: &[(&str, &str)]) -> Vec<Header> {
        let header = |(name, value): &(&str, &str)| Header::new(name, value.as_bytes());
        all.iter().map(header).collect()
    }

    fn names(headers: &[Header]) -> Vec<&str> {
        headers.iter().map(|header| header.name.as_str()).collect()
    }

    #[test]
    fn what_identifies_the_agent_or_frames_the_message_stays_here() {
        let asked = headers(&[
            ("Host", "localhost"),
            ("Content-Type", "application/json"),
            ("Authorization", "Bearer placeholder"),
            ("X-API-Key", "placeholder"),
            ("X-Custom-Key", "mine"),
            ("Cookie", "a=b"),
            ("Connection", "close, X-Secret-Hop , authorization"),
            ("x-secret-hop", "1"),
            ("Transfer-Encoding", "chunked"),
            ("Accept-Encoding", "gzip"),
            ("X-Forwarded-For", "1.2.3.4"),
            ("Proxy-Whatever", "1"),
            ("TE", "trailers"),
            ("X_Api_Key", "placeholder"),
            ("x_custom_key", "mine"),
            ("transfer_encoding", "chunked"),
            ("X_Forwarded_For", "1.2.3.4"),
            ("x_secret_hop", "1"),
            ("X-HTTP-Method-Override", "DELETE"),
            ("X-Original-URL", "/admin"),
            ("Range", "bytes=0-9"),
            ("If-Range", "x"),
            ("anthropic-version", "2023-06-01"),
            ("Accept", "text/event-stream"),
            ("Accept", "application/json"),
        ]);
        let sent = forwarded(&asked, &in_header("x-custom-key")).unwrap();
        let wanted = ["content-type", "anthropic-version", "accept", "accept"];
        assert_eq!(names(&sent), wanted);
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for (name, value) in [
            ("", "x"),
            ("a b", "x"),
            ("a:b", "x"),
            ("a\r\nb", "x"),
            ("\u{e9}", "x"),
            ("a", "x\r\nHost: evil"),
            ("a", "x\ny"),
            ("a", "x\0"),
            ("a", "\u{7f}"),
        ] {
            let refused = forwarded(&headers(&[(name, value)]), &in_header("authorization"));
            assert!(
                matches!(refused, Err(Error::HeaderInvalid(..))),
                "{name:?}: {value:?}"
            );
        }
        let twice = headers(&[("content-type", "a/b"), ("Content-Type", "c/d")]);
        assert!(forwarded(&twice, &in_header("authorization")).is_err());
        let twice = headers(&[("content-type", "a/b"), ("Content_Type", "c/d")]);
        assert!(forwarded(&twice, &in_header("authorization")).is_err());
        let many = vec![Header::new("a", b""); MAX_HEADERS + 1];
        assert_eq!(
            forwarded(&many, &in_header("x")),
            Err(Error::HeadersTooLong)
        );
        let long = [Header::new("a", &[b'x'; MAX_BYTES])];
        assert_eq!(
            forwarded(&long, &in_header("x")),
            Err(Error::HeadersTooLong)
        );
        assert!(forwarded(&headers(&[("a", "\u{e9}\t x")]), &in_header("x")).is_ok());
    }

    #[test]
    fn an_answer_brings_no_cookie_and_nothing_that_leads_around_us() {
        let came = headers(&[
            ("Content-Length", "5"),
            ("Content-Type", "a/b"),
            ("Set-Cookie", "session=1"),
            ("Alt-Svc", "h3=\":443\""),
            ("Connection", "x-hop, content-length, content-type"),
            ("X-Hop", "1"),
            ("Location", "https://elsewhere.example/"),
            ("X-Anchorhold-Error", "a lie"),
            ("Trailer", "x"),
            ("Transfer-Encoding", "chunked"),
        ]);
        assert_eq!(names(&returned(&came)), ["content-length", "location"]);
    }
}
