//! Reads a request as it is forwarded, and looks through it.

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderValue, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use hyper::{HeaderMap, Method, Version};
use identity::sha256;
use inspect::{Kinds, Purpose};
use percent_encoding::percent_decode_str;

use crate::answer::Refusal;
use crate::body::Whole;
use crate::content::{Content, Encoding, Found, form, media_type};
use crate::excerpt::excerpt;
use crate::grpc::{MEDIA_TYPE, is_of_call};
use crate::headers::{follow, has_one_host, remove_from_request, remove_lookalikes};
use crate::room::{Full, Peer, Room, Rooms};
use crate::routes::Routes;

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
    /// The whole body as it is forwarded.
    pub body: Bytes,
    /// What was found in it, in its path and in its query.
    pub kinds: Kinds,
    /// When it was looked through: from, to.
    pub looked: (Instant, Instant),
    trailers: Option<HeaderMap>,
    room: Room,
    /// The body as its reader sees it.
    seen: Bytes,
    /// None if it is empty, or exempt from being looked through.
    content: Option<Content>,
    in_path: Kinds,
    /// What of the body may be written to a log, if that is not what it is.
    scrubbed: Option<String>,
    is_clean: bool,
    /// Its body is passed as it comes.
    is_streamed: bool,
}

/// What bounds a request, and what is known of its caller.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<'a> {
    /// The longest body, in bytes.
    pub max_body: usize,
    /// The memory for bodies.
    pub rooms: &'a Rooms,
    /// Who sends it.
    pub peer: Peer,
    /// What is different for some paths.
    pub routes: &'a Routes,
    /// Whether it is written down.
    pub is_recorded: bool,
}

/// Takes away what concerns the connection, before anything else is done with a head: `Connection`
/// names headers, and must name none of the gateway's own.
pub fn begin(parts: &mut Parts) -> Result<(), Refusal> {
    check_head(parts)?;
    remove_from_request(&mut parts.headers);
    remove_lookalikes(&mut parts.headers);
    join_cookies(&mut parts.headers)
}

/// Reads what [`begin`] left.
pub async fn read<B>(parts: Parts, body: B, bounds: Bounds<'_>) -> Result<Request, Refusal>
where
    B: hyper::body::Body<Data = Bytes>,
{
    let announced = parts.headers.get(CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > bounds.max_body) {
        return Err(Refusal::TooLarge(bounds.max_body));
    }
    if is_of_call(&parts.headers) {
        return Err(Refusal::NotSupported("gRPC is called over HTTP/2, by POST"));
    }
    let mut request = Request::of(parts)?;
    let arrival = tokio::time::timeout(BODY_DEADLINE, request.take_body(body, bounds));
    arrival.await.unwrap_or(Err(Refusal::TooSlow))?;
    let begun = Instant::now();
    request.look(bounds).await?;
    request.looked = (begun, Instant::now());
    Ok(request)
}

/// Reads the head of a call of gRPC, which [`begin`] left; its body is passed as it comes.
pub fn call(parts: Parts, routes: &Routes) -> Result<Request, Refusal> {
    let mut request = Request::of(parts)?;
    let route = routes.of(&request.meant);
    if !request.is_plain() || !route.is_some_and(|route| route.exempts(MEDIA_TYPE)) {
        let why = "gRPC cannot be looked through, and this path is not exempt";
        return Err(Refusal::Unreadable(why));
    }
    // It is one of HTTP/1.1, and would take away `te`.
    request.headers.remove(CONNECTION);
    request.is_streamed = true;
    Ok(request)
}

impl Request {
    /// Without its body.
    fn of(parts: Parts) -> Result<Self, Refusal> {
        let (path, meant) = agent_path(&parts.uri)?;
        let (in_path, now) = (in_path(&path)?, Instant::now());
        Ok(Self {
            in_path,
            method: parts.method,
            path,
            meant,
            headers: parts.headers,
            body: Bytes::new(),
            kinds: in_path,
            looked: (now, now),
            trailers: None,
            room: Room::default(),
            seen: Bytes::new(),
            content: None,
            scrubbed: None,
            is_clean: false,
            is_streamed: false,
        })
    }

    /// SHA-256 of the whole body, in hex; none of one that is still to come.
    pub fn digest(&self) -> Option<String> {
        (!self.is_streamed).then(|| sha256(&self.body).to_string())
    }

    /// Names method, target, type, encoding and body, as they came. None of a body that is still to come.
    pub fn fingerprint(&self) -> Option<identity::Digest<32>> {
        let kind = self.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let encodings = self.headers.get_all(CONTENT_ENCODING).iter();
        let encodings = encodings.map(HeaderValue::as_bytes);
        let parts = serde_json::json!([
            self.method.as_str(),
            self.path.as_str(),
            kind.map(String::from_utf8_lossy),
            encodings.map(String::from_utf8_lossy).collect::<Vec<_>>(),
            self.digest()?,
        ]);
        Some(sha256(parts.to_string().as_bytes()))
    }

    /// The query, decoded, without anything sensitive.
    pub fn scrubbed_query(&self) -> String {
        let query = self.path.query().unwrap_or_default();
        let decoded = percent_decode_str(query).decode_utf8_lossy();
        inspect::mask_text(&decoded, Purpose::Log).0
    }

    /// The begin of the body without anything sensitive, as it may be written to a log.
    pub fn scrubbed(&self) -> String {
        match &self.scrubbed {
            Some(scrubbed) => scrubbed.clone(),
            None if self.is_clean => excerpt(&self.seen),
            None if self.is_empty() && !self.is_streamed => String::new(),
            None => "[NOT_LOOKED_THROUGH]".into(),
        }
    }

    /// Masks these kinds, for this rule. Where they stand in the path or the query they cannot be
    /// masked, and it is refused.
    pub fn mask(&mut self, kinds: Kinds, rule: &str) -> Result<(), Refusal> {
        if !self.in_path.intersection(kinds).is_empty() {
            return Err(Refusal::Blocked { rule: rule.into() });
        }
        let Some(content) = self.content else {
            return Ok(());
        };
        let found = content.look(&self.seen, Purpose::Mask(kinds))?;
        if let Some(masked) = found.masked {
            self.seen = masked.into();
            self.body = self.seen.clone();
            self.headers.remove(CONTENT_ENCODING);
            follow(&mut self.headers, Some(&self.body));
        }
        Ok(())
    }

    /// Whether every reader finds the same segments in the path: nothing is exempt otherwise.
    pub fn is_plain(&self) -> bool {
        let path = self.path.path().to_ascii_lowercase();
        let is_odd = |part| path.contains(part);
        !["%2f", "%5c", "\\", "//", ";"].into_iter().any(is_odd)
    }

    /// The body, to be sent.
    pub fn take_whole(&mut self) -> Whole {
        self.seen = Bytes::new();
        let room = std::mem::take(&mut self.room);
        Whole::taking(std::mem::take(&mut self.body), self.trailers.take(), room)
    }

    fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    async fn take_body<B>(&mut self, body: B, bounds: Bounds<'_>) -> Result<(), Refusal>
    where
        B: hyper::body::Body<Data = Bytes>,
    {
        let (max, peer) = (bounds.max_body, bounds.peer);
        let taken = whole(body, max, bounds.rooms, peer, &mut self.room).await;
        let (body, trailers) = taken.map_err(|error| match error {
            Broken::TooLong => Refusal::TooLarge(max),
            Broken::NoRoom => Refusal::NoRoom,
            Broken::Off => Refusal::Malformed("the body broke off"),
        })?;
        (self.body, self.trailers) = (body, trailers);
        Ok(())
    }

    async fn look(&mut self, bounds: Bounds<'_>) -> Result<(), Refusal> {
        let route = bounds.routes.of(&self.meant);
        if self.is_empty() {
            return match route.and_then(|route| route.schema()) {
                Some(_) if self.method != Method::GET && self.method != Method::HEAD => {
                    Err(Refusal::NotValid("a body is wanted here".into()))
                }
                _ => Ok(()),
            };
        }
        let kind = media_type(&self.headers).unwrap_or_default();
        if self.is_plain() && route.is_some_and(|route| route.exempts(kind)) {
            return Ok(());
        }
        let encoding = Encoding::of(&self.headers)?;
        let content = Content::of(&self.headers)?;
        let (max, rooms, peer) = (bounds.max_body, bounds.rooms, bounds.peer);
        let body = self.body.clone();
        let decoded = encoding.decode(body, max, rooms, peer, &mut self.room);
        self.seen = decoded.await?;
        self.content = Some(content);
        // A log masks all that decides, and more: where it finds nothing there is nothing.
        if bounds.is_recorded {
            let found = content.look(&self.seen, Purpose::Log)?;
            self.scrubbed = found.masked.map(|masked| excerpt(&masked));
            self.is_clean = found.kinds.is_empty();
        }
        if !self.is_clean {
            let found = content.look(&self.seen, Purpose::Decide)?;
            self.kinds = found.kinds.union(self.in_path);
        }
        match route.and_then(|route| route.schema()) {
            Some(schema) if content == Content::Json => schema.check(&self.seen),
            Some(_) => Err(Refusal::NotValid("JSON is wanted here".into())),
            None => Ok(()),
        }
    }
}

fn check_head(parts: &Parts) -> Result<(), Refusal> {
    if parts.version == Version::HTTP_11 && !has_one_host(&parts.headers) {
        return Err(Refusal::Malformed("exactly one Host header is wanted"));
    }
    // RFC 9113 section 8.3.1, RFC 9110 section 4.2.4.
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    if authority.is_some_and(|authority| authority.contains('@')) {
        return Err(Refusal::Malformed("a host has no user"));
    }
    // HTTP/2 names it in its own way, and may name it twice.
    if parts.version == Version::HTTP_2 {
        let host = parts.headers.get(HOST).map(|host| host.as_bytes());
        let authority = authority.map(str::as_bytes);
        if authority.is_none() || host.is_some_and(|host| Some(host) != authority) {
            return Err(Refusal::Malformed("exactly one host is wanted"));
        }
    }
    if parts.headers.contains_key(UPGRADE) || parts.method == Method::CONNECT {
        return Err(Refusal::NotSupported(
            "upgrades and tunnels are not supported",
        ));
    }
    Ok(())
}

/// HTTP/2 may split them (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Refusal> {
    let all: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if all.len() > 1 {
        let joined = HeaderValue::from_bytes(&all.join(&b"; "[..]));
        headers.insert(
            COOKIE,
            joined.map_err(|_| Refusal::Malformed("the cookies are no value"))?,
        );
    }
    Ok(())
}

/// The path below [`PREFIX`], as the agent gets it and as it will read it. Segments that some reader
/// resolves are refused, however they are spelled, with parameters or without: what is judged must be
/// what is asked for.
fn agent_path(uri: &hyper::Uri) -> Result<(PathAndQuery, String), Refusal> {
    let whole = uri.path();
    let below = whole.strip_prefix(PREFIX);
    // Only calls of gRPC, whose clients know no prefix, come without it.
    let rest = below
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        .unwrap_or(whole);
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

/// Why a body is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// It is longer than it may be.
    TooLong,
    /// There was no memory for it in time.
    NoRoom,
    /// It broke off.
    Off,
}

/// Reads a body to its end, and its trailers. It takes room as it arrives.
pub async fn whole<B>(
    body: B,
    max: usize,
    rooms: &Rooms,
    peer: Peer,
    room: &mut Room,
) -> Result<(Bytes, Option<HeaderMap>), Broken>
where
    B: hyper::body::Body<Data = Bytes>,
{
    let mut body = pin!(body);
    let (mut parts, mut length, mut trailers) = (Vec::new(), 0, None);
    while let Some(frame) = body.frame().await {
        match frame.map_err(|_| Broken::Off)?.into_data() {
            Ok(part) => {
                length += part.len();
                if length > max {
                    return Err(Broken::TooLong);
                }
                let taken = rooms.grow(room, peer, part.len()).await;
                taken.map_err(|Full| Broken::NoRoom)?;
                parts.push(part);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    if parts.len() == 1 {
        return Ok((parts.remove(0), trailers));
    }
    let mut whole = BytesMut::with_capacity(length);
    parts.iter().for_each(|part| whole.extend_from_slice(part));
    Ok((whole.freeze(), trailers))
}

/// What is found in path and query as they are read.
fn in_path(path: &PathAndQuery) -> Result<Kinds, Refusal> {
    let decoded = percent_decode_str(path.path()).decode_utf8();
    let decoded = decoded.map_err(|_| Refusal::Malformed("the path is not UTF-8"))?;
    let mut kinds = Kinds::default();
    for segment in decoded.split('/') {
        kinds = kinds.union(inspect::mask_text(segment, Purpose::Decide).1);
    }
    let query = path.query().unwrap_or_default();
    let Found {
        kinds: in_query, ..
    } = form(query.as_bytes(), Purpose::Decide)?;
    Ok(kinds.union(in_query))
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
        let (mut parts, body) = request.body(body).unwrap().into_parts();
        begin(&mut parts)?;
        let routes = Routes::default();
        let bounds = Bounds {
            max_body: 1000,
            rooms: &Rooms::new(1000),
            peer: Peer::of([127, 0, 0, 1].into()),
            routes: &routes,
            is_recorded: true,
        };
        read(parts, body, bounds).await
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
            let scrubbed = request.scrubbed();
            assert!(!scrubbed.contains("0366"), "{scrubbed}");
            assert_eq!(request.body, body);
        }
        for headers in [
            &[][..],
            &[("content-type", "application/octet-stream")],
            &[("content-type", "application/json; charset=utf-16")],
            &[JSON, JSON],
            &[
                JSON,
                ("content-encoding", "gzip"),
                ("content-encoding", "gzip"),
            ],
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
