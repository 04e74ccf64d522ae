//! HTTP over TLS: who is heard, what is counted, and what goes out.

use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use attestation::MockRoot;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use super::credentials::Credentials;
use super::fault::{Fault, Handle};
use super::kms::Service;
use super::line::{Line, Plan, Planner};
use super::sigv4::{self, Place};
use super::store::Store;
use super::{Clock, Refusal};
use crate::Error;
use crate::tls::Authority;

/// Longer requests are refused: a document of 262144 bytes in base64 fits.
const MAX_REQUEST: usize = 512 * 1024;
/// The content type of requests and answers.
const JSON: &str = "application/x-amz-json-1.1";

/// All that a connection needs.
pub(super) struct Server<'a> {
    pub(super) region: &'a str,
    pub(super) store: &'a Store,
    pub(super) authority: &'a Authority,
    pub(super) credentials: &'a [Credentials],
    pub(super) handle: &'a Handle,
    pub(super) nsm_root: &'a MockRoot,
    pub(super) clock: &'a Clock,
}

/// Serves connections, as `with` makes a server for each, until the listener fails.
pub(super) async fn accept<T: Send + Sync + 'static>(
    listener: TcpListener,
    shared: Arc<T>,
    server: for<'a> fn(&'a T) -> Server<'a>,
) -> Result<(), Error> {
    let io = |source| Error::Io {
        what: "mock AWS".into(),
        source,
    };
    if !listener.local_addr().map_err(io)?.ip().is_loopback() {
        return Err(Error::State("mock AWS listens on 127.0.0.1 alone".into()));
    }
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move { server(&shared).connection(stream).await });
    }
}

/// An answer, before it is written.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl From<&Refusal> for Answer {
    fn from(refusal: &Refusal) -> Self {
        Self {
            status: refusal.status(),
            body: refusal.body().to_string().into_bytes(),
        }
    }
}

impl Server<'_> {
    async fn connection(&self, stream: TcpStream) {
        let now = (self.clock)() / 1000;
        let host = self.host();
        let wanted = self.handle.certificate();
        let accepted = match self.authority.acceptor(&[&host, "localhost"], wanted, now) {
            Ok(acceptor) => acceptor
                .accept(stream)
                .await
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => return say(&format!("a connection without TLS: {error}")),
        };
        let planner = Planner::default();
        let line = TokioIo::new(Line::new(stream, planner.clone()));
        let service = service_fn(|request| async {
            Ok::<_, Infallible>(self.answer(request, &planner).await)
        });
        // A client that goes away, or that a fault sends away, is nobody's error here.
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(line, service)
            .await;
    }

    fn host(&self) -> String {
        format!("kms.{}.amazonaws.com", self.region)
    }

    async fn answer(&self, request: Request<Incoming>, planner: &Planner) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, MAX_REQUEST).collect().await;
        let answer = match body {
            Ok(body) => self.judged(&head, &body.to_bytes()),
            Err(_) => Outcome::refused(
                "?",
                Refusal::validation("the request is too long, or ended early"),
            ),
        };
        say(&answer.line());
        let faulty = answer.fault;
        match faulty {
            Some(Fault::Silence) => std::future::pending().await,
            Some(Fault::CutAt(bytes)) => planner.set(Plan::CutAt(bytes)),
            Some(Fault::SlowBytes) => planner.set(Plan::Slow),
            _ => planner.set(Plan::Whole),
        }
        response(answer.written())
    }

    fn judged(&self, head: &Parts, body: &[u8]) -> Outcome {
        let operation = match operation(head) {
            Ok(operation) => operation,
            Err(refusal) => return Outcome::refused("?", refusal),
        };
        let now_ms = (self.clock)();
        let place = Place {
            region: self.region,
            now: now_ms / 1000,
        };
        let known = self.is_host(&head.headers);
        let caller = known.and_then(|()| sigv4::verify(head, body, self.credentials, place));
        let caller = match caller {
            Ok(caller) => caller.principal,
            Err(refusal) => return Outcome::refused(operation, refusal),
        };
        self.handle.count(operation);
        let attested = has_recipient(body);
        let fault = self.handle.fault().filter(|_| attested);
        let service = Service {
            store: self.store,
            nsm_root: self.nsm_root,
            now_ms,
            caller,
            handle: self.handle,
            fault,
        };
        Outcome {
            operation: operation.into(),
            caller,
            attested,
            result: service.call(operation, body),
            fault,
        }
    }

    /// The name of the endpoint, or of this machine; with any port.
    fn is_host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let host = headers.get("host").and_then(|host| host.to_str().ok());
        let name = host.map(|host| host.split_once(':').map_or(host, |(name, _)| name));
        match name {
            Some(name) if name == self.host() || name == "localhost" => Ok(()),
            _ => Err(Refusal::validation(format!(
                "the host is not {}",
                self.host()
            ))),
        }
    }
}

fn operation(head: &Parts) -> Result<&str, Refusal> {
    let unknown = |message: &str| Refusal::new("UnknownOperationException", message);
    if head.method != Method::POST || head.uri.path_and_query().is_none_or(|path| path != "/") {
        return Err(unknown("KMS is asked by POST /"));
    }
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    if header("content-type") != Some(JSON) {
        return Err(unknown(
            "the content type is not application/x-amz-json-1.1",
        ));
    }
    let target = header("x-amz-target").and_then(|target| target.strip_prefix("TrentService."));
    let is_name = |name: &&str| {
        (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    target
        .filter(is_name)
        .ok_or_else(|| unknown("X-Amz-Target is not TrentService.<operation>"))
}

fn has_recipient(body: &[u8]) -> bool {
    let read = identity::json::parse(body);
    read.is_ok_and(|value| value.get("Recipient").is_some())
}

/// What became of a request.
struct Outcome {
    operation: String,
    caller: &'static str,
    attested: bool,
    result: Result<Option<Value>, Refusal>,
    fault: Option<Fault>,
}

impl Outcome {
    fn refused(operation: &str, refusal: Refusal) -> Self {
        Self {
            operation: operation.into(),
            caller: "unknown",
            attested: false,
            result: Err(refusal),
            fault: None,
        }
    }

    /// One line for people, without anything secret.
    fn line(&self) -> String {
        let caller = self.caller.rsplit('/').next().unwrap_or_default();
        let document = if self.attested {
            ", with a document"
        } else {
            ""
        };
        let became = match &self.result {
            Ok(_) => "answered".to_owned(),
            Err(refusal) => format!("refused: {refusal}"),
        };
        let fault = self
            .fault
            .map(|fault| format!(" (fault: {fault:?})"))
            .unwrap_or_default();
        format!("{} by {caller}{document}: {became}{fault}", self.operation)
    }

    fn written(&self) -> Answer {
        let mut answer = match &self.result {
            Ok(body) => Answer {
                status: 200,
                body: body
                    .as_ref()
                    .map(|body| body.to_string().into_bytes())
                    .unwrap_or_default(),
            },
            Err(refusal) => Answer::from(refusal),
        };
        match self.fault {
            Some(Fault::Status(status, kind)) => {
                answer = Answer::from(&Refusal::new(kind, "a fault on purpose"));
                answer.status = status;
            }
            Some(Fault::NotJson) => {
                answer.body = b"<html>MOCK AWS: no JSON, on purpose</html>".to_vec()
            }
            Some(Fault::Padding(spaces)) => {
                let end = answer.body.len().saturating_sub(1);
                answer
                    .body
                    .splice(end..end, std::iter::repeat_n(b' ', spaces));
            }
            _ => {}
        }
        answer
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    Response::builder()
        .status(answer.status)
        .header("content-type", JSON)
        .header("x-amzn-requestid", request_id())
        .header("x-anchorhold-mock", "this is no AWS")
        .body(Full::new(Bytes::from(answer.body)))
        .expect("names and values of headers are plain")
}

fn request_id() -> String {
    let mut random = [0; 16];
    crate::nsm::os_random(&mut random);
    uuid::Builder::from_random_bytes(random)
        .into_uuid()
        .to_string()
}

fn say(text: &str) {
    let line = identity::printable(text).replace('\n', " ");
    let _ = writeln!(std::io::stderr(), "mock AWS: {line}");
}
