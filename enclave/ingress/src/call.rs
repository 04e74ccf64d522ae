//! One request after the other of one agent's connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use broker::websocket::asks_for_websocket;
use broker::{
    CallKey, FrameKey, IngressKey, Way, may_be_counted, may_want_approval, service_at,
    take_placeholder,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN, UPGRADE};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, Version};
use identity::cbor;
use policy::{Bundle, Service};
use protocol::{CallFrame, CallKind, FramedHead, InsideRequest, Refused, ServiceRequest, Told};
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use upstream::{FramesFrom, FramesTo};
use zeroize::Zeroizing;

use crate::answer::{AnswerBody, BrokenOff, Streamed, whole};
use crate::heard::next;
use crate::refusal::{self, Refusal};
use crate::websocket;
use crate::whole::Whole;

/// By which clients of S3 say what they sign.
const PAYLOAD: HeaderName = HeaderName::from_static("x-amz-content-sha256");
/// By which the record knows the call.
const CALL: HeaderName = HeaderName::from_static("x-anchorhold-call");
/// What the parent says of a refusal beside status and body, each once.
const OF_REFUSALS: [&str; 4] = [
    "content-type",
    "x-anchorhold-error",
    "x-should-retry",
    "retry-after",
];
/// What its body may be: nothing that a browser would run.
const MEDIA: [&str; 3] = [
    "application/json",
    "application/xml",
    "application/x-amz-json-1.0",
];
/// For the decision: the parent may hold a call for 600 s while somebody is asked to approve it.
const DECIDED_WITHIN: Duration = Duration::from_secs(660);
/// For the end of an answer of which nobody wants more.
const END_WITHIN: Duration = Duration::from_millis(100);

/// What the calls of every agent need.
pub(crate) struct Shared {
    pub(crate) bundle: Bundle,
    pub(crate) key: IngressKey,
}

/// The way of one agent's connection to services.
pub(crate) struct Calls {
    shared: Arc<Shared>,
    /// The name by which the agent's TLS asked for us.
    named: Option<String>,
    /// Whose it is: a number that the parent gives each caller.
    caller: u64,
    from: Arc<Mutex<FramesFrom>>,
    to: Arc<Mutex<FramesTo>>,
    /// Held as long as the connection is, and what became of it.
    _places: [OwnedSemaphorePermit; 2],
}

type Answered = Result<Response<AnswerBody>, io::Error>;

/// The connection can only end: what it says would be nobody's answer.
fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the way to the service broke")
}

impl Calls {
    pub(crate) fn new(
        shared: Arc<Shared>,
        (named, caller): (Option<String>, u64),
        from: FramesFrom,
        to: FramesTo,
        places: [OwnedSemaphorePermit; 2],
    ) -> Self {
        Self {
            shared,
            named,
            caller,
            from: Arc::new(Mutex::new(from)),
            to: Arc::new(Mutex::new(to)),
            _places: places,
        }
    }

    /// One request, and its answer; an error ends the connection.
    pub(crate) async fn handle(self: &Arc<Self>, mut request: Request<Incoming>) -> Answered {
        let headers = request.headers().iter();
        let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
        let upgrading = match request.version() == Version::HTTP_11 && asks_for_websocket(headers) {
            true => Some(hyper::upgrade::on(&mut request)),
            false => None,
        };
        let (parts, mut body) = request.into_parts();
        match self.asked(&parts, &mut body, upgrading.is_some()).await {
            Ok((asked, came)) => self.call(&asked, came, body, upgrading).await,
            Err(refused) => Ok(refused.response()),
        }
    }

    /// What is asked, and what of its body came already.
    async fn asked(
        &self,
        parts: &Parts,
        body: &mut Incoming,
        websocket: bool,
    ) -> Result<(ServiceRequest, Whole), refusal::Refused> {
        let (service, asked) = self.service(parts, websocket)?;
        let length = body.size_hint().exact();
        let method = parts.method.as_str();
        let signs = service.inject.sigv4.is_some() && !parts.headers.contains_key(PAYLOAD);
        let bundle = &self.shared.bundle;
        let may_wait = may_want_approval(bundle, service, None, (method, &asked));
        let priced = may_be_counted(service, None, (method, &asked));
        let placed = service.inject.field.is_some();
        let came = match !websocket && (signs || may_wait || placed || priced.is_some()) {
            true => Whole::take(body, priced, self.caller).await?,
            false => Whole::default(),
        };
        let headers = parts.headers.iter();
        let headers = headers
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec().into()));
        let request = ServiceRequest {
            service: service.name.clone(),
            method: method.to_owned(),
            target: asked,
            headers: headers.collect(),
            // A body that is here whole may be another than came.
            length: came.digest.map(|_| came.begun.len() as u64).or(length),
            body: came.digest,
            text: came.text.clone().filter(|_| may_wait),
            counted: came.counted.clone(),
            websocket,
        };
        Ok((request, came))
    }

    /// The service that is meant, and what is asked of it: the host of TLS, of `Host`, and of the bundle are
    /// the same.
    fn service(&self, parts: &Parts, websocket: bool) -> Result<(&Service, String), Refusal> {
        let mut hosts = parts.headers.get_all(HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().map_err(|_| Refusal::HostMisdirected)?,
            _ => return Err(Refusal::HostMisdirected),
        };
        // A page in a browser that comes through here asks for itself, and not for its agent.
        let is_foreign = |site: &HeaderValue| site != "same-origin" && site != "none";
        let site = parts.headers.get("sec-fetch-site");
        // Some clients of WebSockets say that they come from the service itself.
        let own = format!("https://{host}");
        let mut origins = parts.headers.get_all(ORIGIN).iter();
        let is_own = |origin: &HeaderValue| websocket && origin == own.as_str();
        if !origins.all(is_own) || site.is_some_and(is_foreign) {
            return Err(Refusal::ForeignOrigin);
        }
        let name = host.split(':').next().unwrap_or(host);
        let is_named = |named: &String| named.eq_ignore_ascii_case(name);
        if !self.named.as_ref().is_some_and(is_named) {
            return Err(Refusal::HostMisdirected);
        }
        // A whole URL, or `*`, would be another way to name a host.
        if parts.uri.authority().is_some() || !parts.uri.path().starts_with('/') {
            return Err(Refusal::PathNotCanonical);
        }
        let target = parts.uri.path_and_query().map_or("/", |all| all.as_str());
        let found = service_at(&self.shared.bundle, host, target);
        let (service, asked) = found.ok_or(Refusal::UnknownService)?;
        // Who asks has said who it is already: what it shows in the credential's place is nobody's.
        let shown = take_placeholder(&service.inject, asked);
        let shown = shown.map_err(|_| Refusal::PathNotCanonical)?;
        Ok((service, shown.asked))
    }

    async fn call(
        self: &Arc<Self>,
        asked: &ServiceRequest,
        came: Whole,
        body: Incoming,
        upgrading: Option<OnUpgrade>,
    ) -> Answered {
        let mut from = Arc::clone(&self.from).lock_owned().await;
        let mut to = Arc::clone(&self.to).lock_owned().await;
        let text = Zeroizing::new(cbor::to_vec(asked));
        let mut nonce = [0; 12];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| broken())?;
        let asked = InsideRequest {
            service: asked.service.clone(),
            sealed: self.shared.key.seal_request(&text, nonce),
            websocket: upgrading.is_some(),
            long: came.is_long(),
        };
        let frame = cbor::to_vec(&asked);
        if frame.len() > CallFrame::MAX_BYTES {
            return Ok(Refusal::HeadersTooLong.response());
        }
        to.write(CallKind::Ask, &frame).await?;
        let told = timeout(DECIDED_WITHIN, from.frame()).await.ok().flatten();
        let key = match told {
            Some((CallKind::Told, bytes)) => match cbor::from_slice(&bytes) {
                Ok(Told::Opened(sealed)) => self.shared.key.open_answer(&asked.sealed, &sealed),
                Ok(Told::Refused(refused)) => return refused_with(refused, body).await,
                Err(_) => return Ok(Refusal::ParentNonsense.response()),
            },
            _ => return Err(broken()),
        };
        let Ok(CallKey { key, call }) = key else {
            return Ok(Refusal::ParentNonsense.response());
        };
        from.unseal(Some(FrameKey::new(&key, Way::Back)));
        to.seal(Some(FrameKey::new(&key, Way::There)));
        let call = HeaderValue::from_str(&call.to_string()).ok();
        let named = |mut response: Response<AnswerBody>| {
            let headers = response.headers_mut();
            call.into_iter().for_each(|call| {
                headers.insert(CALL, call);
            });
            response
        };
        if let Some(upgrading) = upgrading {
            return Ok(named(self.socket(upgrading, from, to).await?));
        }
        let mut uploading = AbortOnDrop(tokio::spawn(upload(to, came, body)));
        let mut is_sent = false;
        let first = loop {
            tokio::select! {
                biased;
                first = next(&mut from) => break first,
                sent = &mut uploading.0, if !is_sent => match sent {
                    // What was answered early may be on its way still.
                    Ok(Uploaded::Whole | Uploaded::LineGone) => is_sent = true,
                    _ => return Err(broken()),
                },
            }
        };
        let response = match answered(first)? {
            Ok(head) => head_of(&head)?,
            Err(refused) => return refused,
        };
        let (pieces, streamed) = mpsc::channel(1);
        tokio::spawn(download(from, pieces, Some(uploading)));
        Ok(named(
            response.map(|()| Either::Right(Streamed { pieces: streamed })),
        ))
    }
}

impl Calls {
    /// The answer to who asks for a WebSocket, the last of its connection; what is said passes behind it.
    async fn socket(
        self: &Arc<Self>,
        upgrading: OnUpgrade,
        mut from: OwnedMutexGuard<FramesFrom>,
        mut to: OwnedMutexGuard<FramesTo>,
    ) -> Answered {
        // Whoever has no more than the ticket cannot say this.
        to.write(CallKind::Data, &[]).await?;
        let mut response = match answered(next(&mut from).await)? {
            Ok(head) => head_of(&head)?,
            Err(refused) => return refused,
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (pieces, streamed) = mpsc::channel(1);
            tokio::spawn(download(from, pieces, None));
            return last(Ok(
                response.map(|()| Either::Right(Streamed { pieces: streamed }))
            ));
        }
        let agreed = response.headers_mut();
        agreed.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        agreed.insert(UPGRADE, HeaderValue::from_static("websocket"));
        // The connection's places are held as long.
        let socket = Arc::clone(self);
        tokio::spawn(async move {
            websocket::pass(upgrading, from, to).await;
            drop(socket);
        });
        Ok(response.map(|()| whole(Full::default())))
    }
}

/// The head of an answer; or the parent's refusal, which is the last answer of its connection.
fn answered(first: Option<(CallKind, Bytes)>) -> Result<Result<Bytes, Answered>, io::Error> {
    match first {
        Some((CallKind::Head, head)) => Ok(Ok(head)),
        Some((CallKind::Told, bytes)) => match cbor::from_slice(&bytes) {
            Ok(Told::Refused(refused)) => Ok(Err(last(parents_refusal(refused)))),
            _ => Err(broken()),
        },
        _ => Err(broken()),
    }
}

/// What the parent refuses before anything was sent: an agent reads that only once it has sent what it had to
/// send, if that is not much.
async fn refused_with(refused: Refused, mut body: Incoming) -> Answered {
    const MOST: usize = 64 * 1024;
    let drain = async {
        let mut drained = 0;
        while let Some(Ok(frame)) = body.frame().await
            && drained < MOST
        {
            drained += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    let _ = timeout(Duration::from_millis(500), drain).await;
    parents_refusal(refused)
}

/// A refusal in the parent's words. It can refuse, and never answer in a service's stead.
fn parents_refusal(refused: Refused) -> Answered {
    let status = StatusCode::from_u16(refused.status).map_err(|_| broken())?;
    if !(status.is_client_error() || status.is_server_error()) {
        return Ok(Refusal::ParentNonsense.response());
    }
    let mut response = Response::new(whole(Full::from(refused.body)));
    *response.status_mut() = status;
    // Its length and the rest of its frame are ours to say: whoever says another one writes the next answer.
    for name in OF_REFUSALS {
        let mut said = refused.headers.iter().filter(|(own, _)| own == name);
        let (Some((_, value)), None) = (said.next(), said.next()) else {
            continue;
        };
        let value = HeaderValue::from_bytes(value).map_err(|_| broken())?;
        response.headers_mut().insert(name, value);
    }
    let headers = response.headers_mut();
    let is_known = |kind: &HeaderValue| MEDIA.iter().any(|known| kind == known);
    if !headers.contains_key("x-anchorhold-error")
        || !headers.get(CONTENT_TYPE).is_some_and(is_known)
    {
        return Ok(Refusal::ParentNonsense.response());
    }
    Ok(response)
}

fn head_of(bytes: &[u8]) -> Result<Response<()>, io::Error> {
    let head: FramedHead = cbor::from_slice(bytes).map_err(|_| broken())?;
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).map_err(|_| broken())?;
    add_headers(&mut response, &head.headers)?;
    Ok(response)
}

fn add_headers<T>(
    response: &mut Response<T>,
    headers: &[(String, minicbor::bytes::ByteVec)],
) -> Result<(), io::Error> {
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| broken())?;
        let value = HeaderValue::from_bytes(value).map_err(|_| broken())?;
        response.headers_mut().append(name, value);
    }
    Ok(())
}

/// The way to the service is out of step behind this answer.
fn last(answered: Answered) -> Answered {
    let mut answer = answered?;
    let close = HeaderValue::from_static("close");
    answer.headers_mut().insert(CONNECTION, close);
    Ok(answer)
}

/// What became of a body.
enum Uploaded {
    /// It was sent whole.
    Whole,
    /// The agent went away, or broke it off. Its end is not said: half a body is none.
    AgentGone,
    /// Nobody takes it any more.
    LineGone,
}

/// An upload that nobody needs any more ends.
struct AbortOnDrop(JoinHandle<Uploaded>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn upload(mut to: OwnedMutexGuard<FramesTo>, came: Whole, mut body: Incoming) -> Uploaded {
    let begun = send(&mut to, &came.begun).await;
    // Its place in memory is another's from here on.
    drop(came);
    if begun.is_none() {
        return Uploaded::LineGone;
    }
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Uploaded::AgentGone;
        };
        let bytes = frame.into_data().unwrap_or_default();
        if send(&mut to, &bytes).await.is_none() {
            return Uploaded::LineGone;
        }
    }
    if to.write(CallKind::End, &[]).await.is_err() {
        return Uploaded::LineGone;
    }
    to.seal(None);
    Uploaded::Whole
}

async fn send(to: &mut FramesTo, bytes: &[u8]) -> Option<()> {
    for piece in bytes.chunks(to.most()) {
        to.write(CallKind::Data, piece).await.ok()?;
    }
    Some(())
}

/// Passes an answer on until its end.
async fn download(
    mut from: OwnedMutexGuard<FramesFrom>,
    pieces: mpsc::Sender<Result<Bytes, BrokenOff>>,
    _uploading: Option<AbortOnDrop>,
) {
    loop {
        let frame = tokio::select! {
            biased;
            frame = next(&mut from) => frame,
            // Whoever knows the length has all of it before its end has come. Else the agent went away.
            () = pieces.closed() => match timeout(END_WITHIN, from.frame()).await {
                Ok(Some(end @ (CallKind::End, _))) => Some(end),
                _ => return,
            },
        };
        match frame {
            Some((CallKind::Data, bytes)) => {
                if pieces.send(Ok(bytes)).await.is_err() {
                    return;
                }
            }
            Some((CallKind::End, _)) => {
                from.unseal(None);
                return;
            }
            _ => {
                let _ = pieces.send(Err(BrokenOff)).await;
                return;
            }
        }
    }
}
