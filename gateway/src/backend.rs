//! The agent behind.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderValue, LOCATION};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{HeaderMap, Response, StatusCode, Uri, Version};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use uuid::Uuid;

use crate::activity::Activity;
use crate::answer::Refusal;
use crate::body::Whole;
use crate::config::BackendAddress;
use crate::grpc::Sent;
use crate::headers::{OVERRIDE, remove_hop_by_hop};
use crate::limits::CALLS;
use crate::read::Request;
use crate::reason::innermost;
use crate::trace;
use crate::unix::UnixConnector;
use crate::websocket::Offer;

/// Connections that wait for their next request; each worker has as many.
const IDLE: usize = 256;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What one call may send ahead, in bytes.
const WINDOW: u32 = 64 << 10;
/// A connection of calls is asked so often whether it still is.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Connections to it, and how it is asked.
#[derive(Debug)]
pub struct Backend {
    client: AnyClient,
    authority: Authority,
    base: String,
    timeout: Duration,
}

/// Bodies of requests are whole, in HTTP/1.1; or come while the answer does, in HTTP/2.
#[derive(Debug)]
enum AnyClient {
    Http(Client<HttpConnector, Whole>, Client<HttpConnector, Sent>),
    Unix(Client<UnixConnector, Whole>, Client<UnixConnector, Sent>),
}

impl Backend {
    /// Connects to it when it is first asked. `timeout` is until an answer begins.
    pub fn new(address: &BackendAddress, timeout: Duration) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE);
        // gRPC: one connection for each worker.
        let mut for_calls = builder.clone();
        for_calls
            .timer(TokioTimer::new())
            .http2_only(true)
            .http2_initial_stream_window_size(WINDOW)
            // Who does not take what was answered keeps nobody else's waiting.
            .http2_initial_connection_window_size(WINDOW * CALLS)
            .http2_max_send_buf_size(WINDOW as usize)
            .http2_keep_alive_interval(KEEP_ALIVE);
        let (client, authority, base) = match address {
            BackendAddress::Http { authority, base } => {
                let mut connector = HttpConnector::new();
                connector.set_nodelay(true);
                connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
                let for_calls = for_calls.build(connector.clone());
                let client = AnyClient::Http(builder.build(connector), for_calls);
                (client, authority.clone(), base.clone())
            }
            BackendAddress::Unix(path) => {
                let connector = UnixConnector::new(path.clone());
                let for_calls = for_calls.build(connector.clone());
                let client = AnyClient::Unix(builder.build(connector), for_calls);
                (client, Authority::from_static("localhost"), String::new())
            }
        };
        Self {
            client,
            authority,
            base,
            timeout,
        }
    }

    /// Sends a request, and waits until its answer begins. It switches protocols only to a WebSocket that
    /// was offered; such a connection is never used for another request.
    pub async fn send(
        &self,
        mut request: Request,
        trace_id: Uuid,
        offer: Option<&Offer>,
    ) -> Result<Response<Incoming>, Refusal> {
        if let Some(offer) = offer {
            offer.ask(&mut request.headers);
        }
        let body = request.take_whole();
        let sent = self.request(request, body, trace_id)?;
        let answer = match &self.client {
            AnyClient::Http(client, _) => client.request(sent),
            AnyClient::Unix(client, _) => client.request(sent),
        };
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(answer) => self.answer(answer, offer),
            Err(_) => Err(Refusal::BackendSlow),
        }
    }

    /// Calls by gRPC, and waits until the answer begins: as long as something is sent, and `idle`
    /// longer.
    pub async fn call(
        &self,
        request: Request,
        body: Incoming,
        trace_id: Uuid,
        activity: &Activity,
        idle: Duration,
    ) -> Result<Response<Incoming>, Refusal> {
        let body = Sent::new(body, activity.clone());
        let mut sent = self.request(request, body, trace_id)?;
        *sent.version_mut() = Version::HTTP_2;
        let mut answer = match &self.client {
            AnyClient::Http(_, client) => client.request(sent),
            AnyClient::Unix(_, client) => client.request(sent),
        };
        loop {
            let deadline = activity.deadline(idle);
            match tokio::time::timeout_at(deadline, &mut answer).await {
                Ok(answer) => return self.answer(answer, None),
                Err(_) if activity.deadline(idle) > deadline => {}
                Err(_) => return Err(Refusal::BackendSlow),
            }
        }
    }

    fn request<B>(
        &self,
        request: Request,
        body: B,
        trace_id: Uuid,
    ) -> Result<hyper::Request<B>, Refusal> {
        let uri = self.uri(&request.path)?;
        let mut sent = hyper::Request::new(body);
        *sent.method_mut() = request.method;
        *sent.uri_mut() = uri;
        *sent.headers_mut() = request.headers;
        let headers = sent.headers_mut();
        // Of the agent's own host, and of the body as it is sent; the client sets both.
        headers.remove(HOST);
        headers.remove(CONTENT_LENGTH);
        headers.remove(OVERRIDE);
        headers.insert(trace::HEADER, trace_header(trace_id));
        Ok(sent)
    }

    fn answer(
        &self,
        answer: Result<Response<Incoming>, ClientError>,
        offer: Option<&Offer>,
    ) -> Result<Response<Incoming>, Refusal> {
        let mut answer = answer.map_err(|error| Refusal::BackendBroken(innermost(&error)))?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(offer) = offer else {
                let why = "it switched protocols, and nobody asked for that";
                return Err(Refusal::BackendBroken(why.into()));
            };
            offer.check(answer.headers())?;
        }
        remove_hop_by_hop(answer.headers_mut());
        self.move_location(answer.headers_mut());
        Ok(answer)
    }

    fn uri(&self, path: &PathAndQuery) -> Result<Uri, Refusal> {
        let path = if self.base.is_empty() {
            path.clone()
        } else {
            let text = format!("{}{path}", self.base);
            PathAndQuery::try_from(text).map_err(|_| Refusal::Malformed("the path is too long"))?
        };
        Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .map_err(|_| Refusal::Malformed("the path cannot be forwarded"))
    }

    /// What the agent calls one of its own places is a place below `/proxy` for the caller.
    fn move_location(&self, headers: &mut HeaderMap) {
        let Some(text) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) else {
            return;
        };
        let own = format!("http://{}", self.authority);
        let path = match text.strip_prefix(&own) {
            Some("") => "/",
            Some(rest) if rest.starts_with(['/', '?', '#']) => rest,
            Some(_) => return,
            // Another host has two slashes.
            None if text.starts_with('/') && !text.starts_with("//") => text,
            None => return,
        };
        let Some(path) = path.strip_prefix(&self.base) else {
            return;
        };
        if let Ok(moved) = HeaderValue::try_from(format!("/proxy{path}")) {
            headers.insert(LOCATION, moved);
        }
    }
}

/// As a header's value.
pub fn trace_header(trace_id: Uuid) -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    let text = trace_id.hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(text).expect("hexadecimal digits and hyphens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_places_are_below_proxy_and_others_stay() {
        let backend = |base: &str| {
            let address = BackendAddress::Http {
                authority: Authority::from_static("agent:8000"),
                base: base.into(),
            };
            Backend::new(&address, Duration::from_secs(1))
        };
        let moved = |base: &str, location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, HeaderValue::from_str(location).unwrap());
            backend(base).move_location(&mut headers);
            headers[LOCATION].to_str().unwrap().to_owned()
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _entered = runtime.enter();
        for (base, location, wanted) in [
            ("", "/a?b#c", "/proxy/a?b#c"),
            ("", "http://agent:8000/a", "/proxy/a"),
            ("", "http://agent:8000", "/proxy/"),
            ("", "http://agent:80001/a", "http://agent:80001/a"),
            ("", "http://other/a", "http://other/a"),
            ("", "//other/a", "//other/a"),
            ("", "relative", "relative"),
            ("/v1", "/v1/a", "/proxy/a"),
            ("/v1", "/v2/a", "/v2/a"),
        ] {
            assert_eq!(moved(base, location), wanted, "{base} {location}");
        }
    }
}
