//! The agent behind.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderValue, LOCATION};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{HeaderMap, Response, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use uuid::Uuid;

use crate::answer::Refusal;
use crate::body::Whole;
use crate::config::BackendAddress;
use crate::headers::{OVERRIDE, remove_hop_by_hop};
use crate::read::Request;
use crate::trace;

/// Connections that wait for their next request; each worker has as many.
const IDLE: usize = 256;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to it, and how it is asked.
#[derive(Debug)]
pub struct Backend {
    client: AnyClient,
    authority: Authority,
    base: String,
    timeout: Duration,
}

#[derive(Debug)]
enum AnyClient {
    Http(Client<HttpConnector, Whole>),
    Unix(Client<UnixConnector, Whole>),
}

impl Backend {
    /// Connects to it when it is first asked. `timeout` is until an answer begins.
    pub fn new(address: &BackendAddress, timeout: Duration) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE);
        let (client, authority, base) = match address {
            BackendAddress::Http { authority, base } => {
                let mut connector = HttpConnector::new();
                connector.set_nodelay(true);
                connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
                let client = AnyClient::Http(builder.build(connector));
                (client, authority.clone(), base.clone())
            }
            BackendAddress::Unix(path) => {
                let connector = UnixConnector { path: path.clone() };
                let client = AnyClient::Unix(builder.build(connector));
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

    /// Sends a request, and waits until its answer begins.
    pub async fn send(
        &self,
        mut request: Request,
        trace_id: Uuid,
    ) -> Result<Response<Incoming>, Refusal> {
        let uri = self.uri(&request.path)?;
        let mut sent = hyper::Request::new(request.take_whole());
        *sent.method_mut() = request.method;
        *sent.uri_mut() = uri;
        *sent.headers_mut() = request.headers;
        let headers = sent.headers_mut();
        // Of the agent's own host, and of the body as it is sent; the client sets both.
        headers.remove(HOST);
        headers.remove(CONTENT_LENGTH);
        headers.remove(OVERRIDE);
        headers.insert(trace::HEADER, trace_header(trace_id));
        let answer = match &self.client {
            AnyClient::Http(client) => client.request(sent),
            AnyClient::Unix(client) => client.request(sent),
        };
        let mut answer = match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(Refusal::BackendBroken(reason(&error))),
            Err(_) => return Err(Refusal::BackendSlow),
        };
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let why = "it switched protocols, and nobody asked for that";
            return Err(Refusal::BackendBroken(why.into()));
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

/// The innermost reason, which says most.
fn reason(error: &ClientError) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}

/// Connects to one Unix socket, whatever the URI.
#[derive(Debug, Clone)]
struct UnixConnector {
    path: PathBuf,
}

impl tower::Service<Uri> for UnixConnector {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<TokioIo<UnixStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.path.clone();
        Box::pin(async move { Ok(TokioIo::new(UnixStream::connect(path).await?)) })
    }
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
