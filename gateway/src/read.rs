//! Reads a request as it is forwarded, and looks through it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, UPGRADE};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::{HeaderMap, Method, Version};
use inspect::{Inspection, Kinds, Purpose};
use percent_encoding::percent_decode_str;

use crate::answer::Refusal;
use crate::headers::{has_one_host, remove_hop_by_hop};

/// How long the body of a request may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(60);
/// What stands before the agent's own paths.
const PREFIX: &str = "/proxy";

/// A request in the one form in which it is judged and sent.
#[derive(Debug)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// The agent's path and query, which begins with a slash.
    pub path: PathAndQuery,
    /// The path as the agent will read it: decoded, with one slash where there are several.
    pub meant: String,
    /// Headers, without those that concern a connection.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// What was found in it, in its path and in its query.
    pub kinds: Kinds,
    content: Content,
}

/// What a body is, by its Content-Type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Empty,
    Json,
    Form,
    Text,
}

/// Reads it. `max_body` is in bytes.
pub async fn read<B>(mut parts: Parts, body: B, max_body: usize) -> Result<Request, Refusal>
where
    B: hyper::body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    check_head(&parts)?;
    remove_hop_by_hop(&mut parts.headers);
    let (path, meant) = agent_path(&parts.uri)?;
    let announced = parts.headers.get(CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > max_body) {
        return Err(Refusal::TooLarge(max_body));
    }
    let body = whole(body, max_body).await?;
    let content = Content::of(&parts.headers, &body)?;
    let found = content.inspect(&body, Purpose::Decide)?;
    let kinds = found.kinds().union(in_path(&path)?);
    Ok(Request {
        method: parts.method,
        path,
        meant,
        headers: parts.headers,
        body,
        kinds,
        content,
    })
}

impl Request {
    /// The body without anything sensitive, as it may be written to a log.
    pub fn scrubbed(&self) -> Vec<u8> {
        match self.content.inspect(&self.body, Purpose::Log) {
            Ok(Found::Json(found)) => found.mask(&self.body),
            Ok(Found::Text(text, _)) => text.into_bytes(),
            // It was inspected once; whatever happened, nothing of it is written.
            Err(_) => Vec::new(),
        }
    }
}

fn check_head(parts: &Parts) -> Result<(), Refusal> {
    if parts.version == Version::HTTP_11 && !has_one_host(&parts.headers) {
        return Err(Refusal::Malformed("exactly one Host header is wanted"));
    }
    if parts.headers.contains_key(UPGRADE) || parts.method == Method::CONNECT {
        return Err(Refusal::NotSupported(
            "upgrades and tunnels are not supported",
        ));
    }
    Ok(())
}

/// The path below [`PREFIX`], as the agent gets it and as it will read it. Segments that some reader
/// resolves are refused, however they are spelled, with parameters or without: what is judged must be
/// what is asked for.
fn agent_path(uri: &hyper::Uri) -> Result<(PathAndQuery, String), Refusal> {
    let rest = uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let path = if rest.is_empty() { "/" } else { rest };
    let decoded = percent_decode_str(path).decode_utf8();
    let decoded = decoded.map_err(|_| Refusal::Malformed("the path is not UTF-8"))?;
    let is_odd = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    if decoded.split(['/', '\\']).any(is_odd) || decoded.contains(char::is_control) {
        return Err(Refusal::Malformed(
            "the path has dot segments or control characters",
        ));
    }
    let text = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let malformed = |_| Refusal::Malformed("the path cannot be forwarded");
    let mut meant = String::with_capacity(decoded.len());
    for char in decoded.chars() {
        if char != '/' || !meant.ends_with('/') {
            meant.push(char);
        }
    }
    Ok((PathAndQuery::try_from(text).map_err(malformed)?, meant))
}

async fn whole<B>(body: B, max_body: usize) -> Result<Bytes, Refusal>
where
    B: hyper::body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let collected = tokio::time::timeout(BODY_DEADLINE, Limited::new(body, max_body).collect());
    match collected.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge(max_body)),
        Ok(Err(_)) => Err(Refusal::Malformed("the body broke off")),
        Err(_) => Err(Refusal::TooSlow),
    }
}

/// What was found in a body.
enum Found {
    Json(Inspection),
    /// Masked, and what was masked.
    Text(String, Kinds),
}

impl Found {
    fn kinds(&self) -> Kinds {
        match self {
            Self::Json(found) => found.kinds(),
            Self::Text(_, kinds) => *kinds,
        }
    }
}

impl Content {
    fn of(headers: &HeaderMap, body: &[u8]) -> Result<Self, Refusal> {
        if body.is_empty() {
            return Ok(Self::Empty);
        }
        let encodings = headers.get_all(CONTENT_ENCODING).iter();
        if encodings.into_iter().any(|value| value != "identity") {
            return Err(Refusal::Unreadable(
                "an encoded body cannot be looked through",
            ));
        }
        let text = crate::headers::only(headers, CONTENT_TYPE.as_str())
            .and_then(|value| value.to_str().ok())
            .ok_or(Refusal::Unreadable("a body needs one Content-Type"))?;
        let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
        let is_utf8 = parameters.split(';').all(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim().trim_matches('"');
            !name.trim().eq_ignore_ascii_case("charset")
                || value.eq_ignore_ascii_case("utf-8")
                || value.eq_ignore_ascii_case("us-ascii")
        });
        if !is_utf8 {
            return Err(Refusal::Unreadable("a text must be in UTF-8"));
        }
        let essence = essence.trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => Ok(Self::Json),
            "application/x-www-form-urlencoded" => Ok(Self::Form),
            other if other.ends_with("+json") => Ok(Self::Json),
            other if other.starts_with("text/") => Ok(Self::Text),
            _ => Err(Refusal::Unreadable(
                "this Content-Type cannot be looked through",
            )),
        }
    }

    fn inspect(self, body: &[u8], purpose: Purpose) -> Result<Found, Refusal> {
        match self {
            Self::Empty => Ok(Found::Text(String::new(), Kinds::default())),
            Self::Json => Ok(Found::Json(inspect::json(body, purpose)?)),
            Self::Text => {
                let text = std::str::from_utf8(body);
                let text = text.map_err(|_| Refusal::Malformed("the body is not UTF-8"))?;
                let (masked, kinds) = inspect::mask_text(text, purpose);
                Ok(Found::Text(masked, kinds))
            }
            Self::Form => form(body, purpose),
        }
    }
}

/// Names and values of a form or a query, decoded.
fn form(text: &[u8], purpose: Purpose) -> Result<Found, Refusal> {
    let mut kinds = Kinds::default();
    let mut masked = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(text) {
        // As a member of JSON is: its name says what its value may be.
        let pair = serde_json::json!({ &*name: value }).to_string();
        let found = inspect::json(pair.as_bytes(), purpose)?;
        kinds = kinds.union(found.kinds());
        let members: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&found.mask(pair.as_bytes())).unwrap_or_default();
        for (name, value) in members {
            masked.append_pair(&name, value.as_str().unwrap_or_default());
        }
    }
    Ok(Found::Text(masked.finish(), kinds))
}

fn in_path(path: &PathAndQuery) -> Result<Kinds, Refusal> {
    let decoded = percent_decode_str(path.path()).decode_utf8();
    let decoded = decoded.map_err(|_| Refusal::Malformed("the path is not UTF-8"))?;
    let mut kinds = Kinds::default();
    for segment in decoded.split('/') {
        kinds = kinds.union(inspect::mask_text(segment, Purpose::Decide).1);
    }
    let query = path.query().unwrap_or_default();
    Ok(kinds.union(form(query.as_bytes(), Purpose::Decide)?.kinds()))
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use inspect::Kind;

    use super::*;

    async fn read_it(
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Request, Refusal> {
        let mut request = hyper::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "a");
        }
        let body = Full::new(Bytes::from(body.to_owned()));
        let (parts, body) = request.body(body).unwrap().into_parts();
        read(parts, body, 1000).await
    }

    const JSON: (&str, &str) = ("content-type", "application/json");

    #[tokio::test]
    async fn the_path_below_the_prefix_is_the_agents() {
        for (uri, path) in [
            ("/proxy", "/"),
            ("/proxy/", "/"),
            ("/proxy?a=1", "/?a=1"),
            ("/proxy/v1/task?x=%20y", "/v1/task?x=%20y"),
            ("/proxy/a%2Fb/", "/a%2Fb/"),
            ("/proxy/...", "/..."),
        ] {
            let request = read_it("GET", uri, &[], "").await.unwrap();
            assert_eq!(request.path.as_str(), path, "{uri}");
        }
        for (uri, meant) in [
            ("/proxy/%76%31//a%2fb?c=%64", "/v1/a/b"),
            ("/proxy//v1", "/v1"),
            ("/proxy", "/"),
        ] {
            let request = read_it("GET", uri, &[], "").await.unwrap();
            assert_eq!(request.meant, meant, "{uri}");
        }
        for uri in [
            "/proxy/..;a=b/admin",
            "/proxy/../admin",
            "/proxy/%2e%2e/admin",
            "/proxy/a/.%2E/b",
            "/proxy/a%2f..%2fb",
            "/proxy/a/..%5cb",
            "/proxy/./x",
            "/proxy/a%00b",
            "/proxy/%ff",
        ] {
            let refused = read_it("GET", uri, &[], "").await.unwrap_err();
            assert!(matches!(refused, Refusal::Malformed(_)), "{uri}");
        }
    }

    #[tokio::test]
    async fn bodies_are_looked_through_by_their_type_and_others_refused() {
        let card = "4532-0151-1283-0366";
        let json = format!("{{\"a\": \"{card}\"}}");
        let form = "a=1&card=4532+0151+1283+0366";
        let text = format!("pay with {card}");
        for (content_type, body) in [
            ("application/json", json.as_str()),
            ("APPLICATION/JSON; charset=UTF-8", &json),
            ("application/problem+json", &json),
            ("text/plain", &text),
            ("application/x-www-form-urlencoded", form),
        ] {
            let headers = [("content-type", content_type)];
            let request = read_it("POST", "/proxy", &headers, body).await.unwrap();
            assert!(request.kinds.contains(Kind::CreditCard), "{content_type}");
            let scrubbed = String::from_utf8(request.scrubbed()).unwrap();
            assert!(!scrubbed.contains("0366"), "{scrubbed}");
            assert_eq!(request.body, body);
        }
        for headers in [
            &[][..],
            &[("content-type", "application/octet-stream")],
            &[("content-type", "application/json; charset=utf-16")],
            &[JSON, JSON],
            &[JSON, ("content-encoding", "gzip")],
            &[JSON, ("content-encoding", "identity, br")],
            // What names the type of a body away leaves a body without one.
            &[JSON, ("connection", "content-type")],
        ] {
            let refused = read_it("POST", "/proxy", headers, "{}").await.unwrap_err();
            assert!(matches!(refused, Refusal::Unreadable(_)), "{headers:?}");
        }
        for body in ["", "{", "nothing", "\u{feff}{}"] {
            let refused = read_it("POST", "/proxy", &[JSON], body).await;
            assert_eq!(refused.is_err(), !body.is_empty(), "{body}");
        }
    }

    #[tokio::test]
    async fn path_and_query_are_looked_through_as_they_are_read() {
        for uri in [
            "/proxy/cards/4532015112830366",
            "/proxy/cards/%34532-0151-1283-0366",
            "/proxy?q=4532+0151+1283+0366",
            "/proxy?4532-0151-1283-0366",
            "/proxy?q=%EF%BC%94532015112830366",
        ] {
            let request = read_it("GET", uri, &[], "").await.unwrap();
            assert!(request.kinds.contains(Kind::CreditCard), "{uri}");
        }
    }

    #[tokio::test]
    async fn what_is_too_large_or_malformed_is_refused() {
        let large = format!("\"{}\"", "a".repeat(1000));
        let refused = read_it("POST", "/proxy", &[JSON], &large)
            .await
            .unwrap_err();
        assert_eq!(refused, Refusal::TooLarge(1000));
        let announced = read_it("POST", "/proxy", &[JSON, ("content-length", "1001")], "{}").await;
        assert_eq!(announced.unwrap_err(), Refusal::TooLarge(1000));
        for headers in [
            &[("host", "a"), ("host", "b")][..],
            &[("upgrade", "websocket"), ("connection", "upgrade")],
        ] {
            assert!(read_it("GET", "/proxy", headers, "").await.is_err());
        }
    }
}
