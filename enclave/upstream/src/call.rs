//! One call after the other, over one line.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::{Asked, FrameKey, Header, MAX_PRICED, Needles, Scrubber, Used, Way, returned};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::Builder;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use identity::json::MAX_SAFE_INTEGER;
use identity::{Digest, cbor, sha256};
use policy::Scrub;
use protocol::{CallKind, CountedBody, Failed, FramedHead, Ticket};
use tokio::sync::mpsc::Sender;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::body::{CallBody, Piece};
use crate::counted::Counted;
use crate::frames::{FramesFrom, FramesTo, frames};
use crate::lines::Line;
use crate::pool::{Connection, Owner};
use crate::shared::{Offered, Shared, revocation, unsent};
use crate::sync::lock;
use crate::tls;
use crate::wire::{Call, CountedCall, Ended, Ending, SecretKey};

/// For a line to be lent, and for the service to shake hands.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// For the next piece of an answer: models think for minutes.
const ANSWER_WITHIN: Duration = Duration::from_secs(600);
/// For the first frame of a sealed call, without which nothing is sent.
const FIRST_WITHIN: Duration = Duration::from_secs(60);
/// A line for calls may lie idle so long.
const IDLE: Duration = Duration::from_secs(120);
/// A connection that is not ready again soon is not kept.
const READY_WITHIN: Duration = Duration::from_millis(100);
/// Of a body that was signed or approved, the last so many bytes go when all of it has come: one that is
/// no longer goes whole or not at all.
const HELD_BACK: usize = 256 * 1024;
/// How clients of S3 say that a body goes up in chunks. Some stores keep the word with the object, and say it of
/// answers that are not so.
const UPLOADED_AS: &str = "aws-chunked";
/// Bodies to models at a time that are looked at whole: 2 MiB each.
static COUNTED: Semaphore = Semaphore::const_new(16);
/// Of what is read at once.
const MAX_BUFFER: usize = 64 * 1024;

/// A line for calls.
struct CallLine {
    from: FramesFrom,
    to: FramesTo,
}

/// Serves calls until the line is not good any more.
pub(crate) async fn serve(shared: &Arc<Shared>, line: Line, first: Ticket) {
    let (from, to) = frames(line);
    let mut line = CallLine { from, to };
    let mut next = Some(first);
    loop {
        let ticket = match next.take() {
            Some(ticket) => ticket,
            None => match line.next_ticket().await {
                Some(ticket) => ticket,
                None => return,
            },
        };
        let Some(offered) = shared.claim(ticket).await else {
            let _ = line
                .fail("ticket_unknown", "nobody may use this ticket")
                .await;
            return;
        };
        let Offered { call, revoked } = *offered;
        line.use_key(call.key.as_ref());
        let mut progress = Progress::new();
        let made = tokio::select! {
            // A revocation that has come already counts.
            biased;
            () = revocation(revoked, &call) => Err(Ending::CredentialRevoked),
            made = make(shared, &mut line, &call, &mut progress) => made,
        };
        let (ending, again) = match made {
            Ok(again) => (Ending::Complete, again),
            Err(ending) => (ending, false),
        };
        // The line is told last: whoever has its answer finds its end recorded.
        shared.end(progress.ended(ticket, ending)).await;
        let told = match ending {
            Ending::Complete => line.to.write(CallKind::End, &[]).await,
            ending => line.fail(ending.code(), says(ending)).await,
        };
        line.use_key(None);
        if told.is_err() || !again {
            return;
        }
    }
}

fn says(ending: Ending) -> &'static str {
    match ending {
        Ending::Complete => "the answer is whole",
        Ending::Unclaimed => "nobody showed the ticket in time",
        Ending::Aborted => "the caller went away",
        Ending::ServiceBusy => "too many calls of this service are under way",
        Ending::ServiceUnreachable => "the service cannot be reached",
        Ending::ServiceUntrusted => "who answered is not the service: its certificate is not good",
        Ending::ServiceFailed => "the service broke off, or did not answer in time",
        Ending::ServiceMalformed => "the service answered what is no HTTP/1.1 answer",
        Ending::CredentialReflected => {
            "the credential stood in the answer, which was cut off there"
        }
        Ending::CredentialRevoked => "the credential was revoked",
        Ending::BodyMismatch => "the body was not the one that was signed or approved",
        Ending::ServiceEncoded => "the service encoded its answer, though nobody asked it to",
    }
}

/// How far a call has come.
struct Progress {
    status: Option<u16>,
    spki: Option<[u8; 32]>,
    /// What was taken of the body, to be sent.
    sent: Arc<Mutex<Counted>>,
    received: Counted,
    /// What the service says was used, where that is counted.
    used: Option<Used>,
}

impl Progress {
    fn new() -> Self {
        Self {
            status: None,
            spki: None,
            sent: Arc::new(Mutex::new(Counted::new())),
            received: Counted::new(),
            used: None,
        }
    }

    fn ended(self, ticket: Ticket, ending: Ending) -> Ended {
        let sent = lock(&self.sent);
        let said = self.used.and_then(Used::said);
        let known = |tokens: u64| tokens.min(MAX_SAFE_INTEGER);
        Ended {
            tokens: said.map(|said| [known(said.input), known(said.output)]),
            status: self.status,
            spki: self.spki,
            sent: sent.bytes,
            sent_digest: sent.digest(),
            received: self.received.bytes,
            received_digest: self.received.digest(),
            ..unsent(ticket, ending)
        }
    }
}

/// Makes a call; its answer is passed on but for its end. Gives whether the line is good for another
/// one.
async fn make(
    shared: &Arc<Shared>,
    line: &mut CallLine,
    call: &Call,
    progress: &mut Progress,
) -> Result<bool, Ending> {
    // One without a body leaves at once.
    if call.length == Some(0) && call.body.is_some_and(|wanted| wanted != sha256(&[])) {
        return Err(Ending::BodyMismatch);
    }
    let (pieces, body) = CallBody::new(call.length, Arc::clone(&progress.sent));
    let whole = AtomicBool::new(false);
    let CallLine { from, to } = line;
    // Whoever has no more than the ticket of a sealed call sends no frame of it, and so nothing at all.
    let first = match call.key {
        None => None,
        Some(_) => {
            let first = timeout(FIRST_WITHIN, from.frame()).await;
            Some(first.ok().flatten().ok_or(Ending::Aborted)?)
        }
    };
    let uploading = upload(from, first, pieces, call, &whole);
    let download = Download {
        shared,
        call,
        needles: shared.needles(call),
        to,
        status: &mut progress.status,
        spki: &mut progress.spki,
        received: &mut progress.received,
        used: &mut progress.used,
    };
    let connection = tokio::select! {
        gone = uploading => return Err(gone),
        got = download.run(body) => got?,
    };
    // An answer that came before the request was whole: the rest of that is nobody's, and what it
    // went over is out of step.
    let whole = whole.load(Ordering::Acquire);
    if whole && is_in_step(call, progress.status) {
        keep(shared, (call.actor, call.version), connection);
    }
    Ok(whole)
}

/// Whether the service has surely taken the body for one: what answers a request that it does not
/// serve may leave it, and take it for the beginning of the next request.
fn is_in_step(call: &Call, status: Option<u16>) -> bool {
    let takes_body = ["POST", "PUT", "PATCH"].contains(&call.method.as_str());
    call.length == Some(0) || (takes_body && status.is_some_and(|status| status / 100 == 2))
}

/// Keeps a connection for the next call, once it is ready for it.
fn keep(shared: &Arc<Shared>, owner: Owner, mut connection: Connection) {
    if connection.sender.is_ready() {
        lock(&shared.pool).put(owner, connection);
        return;
    }
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let ready = timeout(READY_WITHIN, connection.sender.ready()).await;
        if matches!(ready, Ok(Ok(()))) {
            lock(&shared.pool).put(owner, connection);
        }
    });
}

/// Passes the body on to the request, and then watches whether the caller is still there. Ends only
/// if it is not.
async fn upload(
    from: &mut FramesFrom,
    mut first: Option<(CallKind, Bytes)>,
    pieces: Sender<Piece>,
    call: &Call,
    whole: &AtomicBool,
) -> Ending {
    let length = call.length;
    let mut came = 0;
    let mut signed = call.body.map(Signed::new);
    let mut whole_one = match &call.counted {
        None => None,
        Some(counted) => match CountedUpload::begin(counted).await {
            Some(begun) => Some(begun),
            None => return Ending::ServiceBusy,
        },
    };
    loop {
        let frame = match first.take() {
            Some(frame) => Some(frame),
            None => from.frame().await,
        };
        let Some(frame) = frame else {
            return Ending::Aborted;
        };
        match frame {
            (CallKind::Data, bytes) => {
                came += bytes.len() as u64;
                let too_much = length.is_some_and(|length| came > length);
                let ready = match &mut signed {
                    None => bytes,
                    Some(signed) => signed.push(&bytes),
                };
                let ready = match &mut whole_one {
                    None => ready,
                    Some(counted) => {
                        if !counted.push(&ready) {
                            return Ending::BodyMismatch;
                        }
                        Bytes::new()
                    }
                };
                let gone = !ready.is_empty() && pieces.send(Piece::Data(ready)).await.is_err();
                if too_much || gone {
                    break;
                }
            }
            (CallKind::End, _) => {
                if length.is_some_and(|length| came != length) {
                    return Ending::Aborted;
                }
                let (mut rest, mut _place) = (Bytes::new(), None);
                if let Some(signed) = signed.take() {
                    let Some(of_signed) = signed.rest() else {
                        return Ending::BodyMismatch;
                    };
                    rest = of_signed;
                }
                if let Some(mut counted) = whole_one.take() {
                    let good = counted.push(&rest);
                    let Some((all, place)) = counted.all().filter(|_| good) else {
                        return Ending::BodyMismatch;
                    };
                    (rest, _place) = (all, Some(place));
                }
                if !rest.is_empty() {
                    let _ = pieces.send(Piece::Data(rest)).await;
                }
                whole.store(true, Ordering::Release);
                let _ = pieces.send(Piece::Last).await;
                break;
            }
            _ => return Ending::Aborted,
        }
    }
    if whole.load(Ordering::Acquire) {
        // Nothing comes before the answer is whole, unless the caller goes away.
        let _ = from.more().await;
        return Ending::Aborted;
    }
    if length.is_some_and(|length| came > length) {
        return Ending::Aborted;
    }
    // The service takes no more of it: what it answers counts.
    std::future::pending().await
}

/// A body to a model, of which nothing goes before all of it has come, and asks what was decided on.
struct CountedUpload<'c> {
    wanted: &'c CountedCall,
    came: BytesMut,
    place: SemaphorePermit<'static>,
}

impl<'c> CountedUpload<'c> {
    /// When there is a place for one more in memory; none if there is none in time.
    async fn begin(wanted: &'c CountedCall) -> Option<Self> {
        let place = timeout(CONNECT_WITHIN, COUNTED.acquire()).await;
        Some(Self {
            wanted,
            came: BytesMut::new(),
            place: place.ok()?.ok()?,
        })
    }

    /// Whether it is not too long yet.
    fn push(&mut self, bytes: &[u8]) -> bool {
        self.came.extend_from_slice(bytes);
        self.came.len() <= MAX_PRICED
    }

    /// All of it, if it asks what it may; and its place, until it has been taken.
    fn all(self) -> Option<(Bytes, SemaphorePermit<'static>)> {
        let asked = Asked::read(self.wanted.form()?, &self.came).ok()?;
        let asked = CountedBody {
            model: asked.model,
            input: asked.most.input,
            output: asked.most.output,
        };
        (asked == self.wanted.body).then(|| (self.came.freeze(), self.place))
    }
}

/// A body that was signed or approved: its end is held back until all of it has come, and is that one.
struct Signed {
    wanted: Digest<32>,
    came: Counted,
    held: BytesMut,
}

impl Signed {
    fn new(wanted: Digest<32>) -> Self {
        Self {
            wanted,
            came: Counted::new(),
            held: BytesMut::new(),
        }
    }

    /// What may be sent of all that came so far.
    fn push(&mut self, bytes: &[u8]) -> Bytes {
        self.came.add(bytes);
        self.held.extend_from_slice(bytes);
        let more = self.held.len().saturating_sub(HELD_BACK);
        self.held.split_to(more).freeze()
    }

    /// The rest, if all of it is what was signed.
    fn rest(self) -> Option<Bytes> {
        (self.came.digest() == self.wanted.0).then(|| self.held.freeze())
    }
}

/// The way to the service, and what comes back.
struct Download<'a> {
    shared: &'a Arc<Shared>,
    call: &'a Call,
    needles: Arc<Needles>,
    to: &'a mut FramesTo,
    status: &'a mut Option<u16>,
    spki: &'a mut Option<[u8; 32]>,
    received: &'a mut Counted,
    used: &'a mut Option<Used>,
}

impl Download<'_> {
    /// Sends the request, and passes the answer on but for its end; gives the connection.
    async fn run(mut self, body: CallBody) -> Result<Connection, Ending> {
        let mut request = self.request(body)?;
        let owner = (self.call.actor, self.call.version);
        let mut kept = lock(&self.shared.pool).take(&owner);
        loop {
            let was_kept = kept.is_some();
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            *self.spki = connection.spki;
            let answered =
                timeout(ANSWER_WITHIN, connection.sender.try_send_request(request)).await;
            match answered.map_err(|_| Ending::ServiceFailed)? {
                Ok(answer) => {
                    self.pass_on(answer).await?;
                    return Ok(connection);
                }
                // The service had closed it, and nothing was sent.
                Err(mut refused) => match refused.take_message() {
                    Some(unsent) if was_kept => request = unsent,
                    _ => return Err(ending_of(&refused)),
                },
            }
        }
    }

    fn request(&self, body: CallBody) -> Result<Request<CallBody>, Ending> {
        // The process with the keys has checked all of it.
        let odd = Ending::Aborted;
        let call = self.call;
        let mut request = Request::new(body);
        *request.method_mut() = Method::from_bytes(call.method.as_bytes()).map_err(|_| odd)?;
        *request.uri_mut() = Uri::try_from(call.target.as_ref()).map_err(|_| odd)?;
        let headers = request.headers_mut();
        let host = HeaderValue::from_str(&self.shared.authority).map_err(|_| odd)?;
        headers.append(hyper::header::HOST, host);
        for Header { name, value } in &call.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| odd)?;
            headers.append(name, HeaderValue::from_bytes(value).map_err(|_| odd)?);
        }
        let identity = HeaderValue::from_static("identity");
        headers.append(hyper::header::ACCEPT_ENCODING, identity);
        for (name, value) in &call.placed {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| odd)?;
            let mut value = HeaderValue::from_bytes(value.as_ref()).map_err(|_| odd)?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(request)
    }

    /// A new connection, over a line that is asked for.
    async fn connect(&mut self) -> Result<Connection, Ending> {
        let ticket = self.call.ticket;
        let line = self.shared.want(ticket);
        let wanted = self.to.write(CallKind::LineWanted, &[]).await;
        wanted.map_err(|_| Ending::Aborted)?;
        let lent = timeout(CONNECT_WITHIN, line).await;
        self.shared.unwant(ticket);
        let Ok(Ok(line)) = lent else {
            return Err(Ending::ServiceUnreachable);
        };
        let (connector, name) = (self.shared.tls.clone(), self.shared.name.clone());
        let shaken = timeout(CONNECT_WITHIN, connector.connect(name, line)).await;
        let stream = match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if is_untrusted(&error) => return Err(Ending::ServiceUntrusted),
            _ => return Err(Ending::ServiceUnreachable),
        };
        let shown = stream.get_ref().1.peer_certificates();
        let spki = shown.and_then(|shown| tls::key_of(shown.first()?));
        let (sender, driving) = Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Ending::ServiceFailed)?;
        tokio::spawn(driving);
        Ok(Connection { sender, spki })
    }

    async fn pass_on(&mut self, answer: Response<Incoming>) -> Result<(), Ending> {
        let (head, mut body) = answer.into_parts();
        let headers = self.headers(&head)?;
        *self.status = Some(head.status.as_u16());
        *self.used = self.call.counted.as_ref().and_then(|counted| {
            let kind = head.headers.get(hyper::header::CONTENT_TYPE);
            let is_stream =
                kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
            Some(Used::new(counted.form()?, is_stream))
        });
        let framed = FramedHead {
            status: head.status.as_u16(),
            headers: headers
                .into_iter()
                .map(|header| (header.name, header.value.into()))
                .collect(),
        };
        let bytes = cbor::to_vec(&framed);
        if bytes.len() > self.to.most() {
            return Err(Ending::ServiceMalformed);
        }
        let mut scrubber = Scrubber::new(Arc::clone(&self.needles), self.shared.scrub);
        // An answer whose beginning is there already, or that has a length, is looked at before its head
        // is passed on: then a refusal can be told. A stream is not held up.
        let first = match body.size_hint().exact() {
            Some(_) => Some(next_piece(&mut body).await?),
            None => next_piece(&mut body).now_or_never().transpose()?,
        };
        let scrub = |scrubber: &mut Scrubber<_>, piece: Bytes| {
            let clean = scrubber.push(piece);
            clean.map_err(|_| Ending::CredentialReflected)
        };
        let first = match first {
            Some(Some(piece)) => Some(Some(scrub(&mut scrubber, piece)?)),
            Some(None) => Some(None),
            None => None,
        };
        self.to.put(CallKind::Head, &bytes);
        let ended = matches!(first, Some(None));
        if let Some(Some(clean)) = first {
            self.pass(&clean).await?;
        }
        while !ended && let Some(piece) = self.next_piece(&mut body).await? {
            let clean = scrub(&mut scrubber, piece)?;
            self.pass(&clean).await?;
        }
        let rest = scrubber.finish();
        self.pass(&rest).await
    }

    /// The next piece of an answer. What was passed on before goes while that is awaited.
    async fn next_piece(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, Ending> {
        if let Some(piece) = next_piece(body).now_or_never() {
            return piece;
        }
        self.flush().await?;
        next_piece(body).await
    }

    async fn pass(&mut self, bytes: &[u8]) -> Result<(), Ending> {
        for piece in bytes.chunks(self.to.most()) {
            self.to.put(CallKind::Data, piece);
            self.received.add(piece);
            if let Some(used) = self.used {
                used.push(piece);
            }
            if self.to.waiting() >= MAX_BUFFER {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Ending> {
        self.to.flush().await.map_err(|_| Ending::Aborted)
    }

    /// The headers that are passed on, without the credential.
    fn headers(&self, head: &hyper::http::response::Parts) -> Result<Vec<Header>, Ending> {
        use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING};
        if head.status.is_informational() {
            return Err(Ending::ServiceMalformed);
        }
        let came = &head.headers;
        // Two lengths: whoever stands behind us might believe the other one (RFC 9112 section 6.3).
        let lengths = came.get_all(CONTENT_LENGTH).iter().count();
        if lengths > 1 || (lengths == 1 && came.contains_key(TRANSFER_ENCODING)) {
            return Err(Ending::ServiceMalformed);
        }
        // hyper takes off `chunked`, and leaves what stands below it.
        let mut codings = came.get_all(TRANSFER_ENCODING).iter();
        let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        if !codings.all(chunked) || came.get_all(TRANSFER_ENCODING).iter().count() > 1 {
            return Err(Ending::ServiceEncoded);
        }
        let mut encodings = came.get_all(CONTENT_ENCODING).iter();
        if encodings.any(|encoding| encoding != "identity" && encoding != UPLOADED_AS) {
            return Err(Ending::ServiceEncoded);
        }
        let all: Vec<Header> = came
            .iter()
            .filter(|(name, value)| *name != CONTENT_ENCODING || *value != UPLOADED_AS)
            .map(|(name, value)| Header::new(name.as_str(), value.as_bytes()))
            .collect();
        let mut passed = returned(&all);
        for header in &mut passed {
            let stands = self.needles.stand_in(&header.value)
                || self.needles.stand_in(header.name.as_bytes());
            if !stands {
                continue;
            }
            if self.shared.scrub == Scrub::Refuse {
                return Err(Ending::CredentialReflected);
            }
            header.value = b"***".to_vec();
        }
        passed.retain(|header| !self.needles.stand_in(header.name.as_bytes()));
        Ok(passed)
    }
}

/// The next piece of an answer; none at its end. Trailers are nobody's.
async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>, Ending> {
    loop {
        let frame = timeout(ANSWER_WITHIN, body.frame()).await;
        let Some(frame) = frame.map_err(|_| Ending::ServiceFailed)? else {
            return Ok(None);
        };
        let frame = frame.map_err(|_| Ending::ServiceFailed)?;
        if let Ok(piece) = frame.into_data() {
            return Ok(Some(piece));
        }
    }
}

impl CallLine {
    /// The frames of a call that comes through the ingress process are sealed.
    fn use_key(&mut self, key: Option<&SecretKey>) {
        let way = |way| key.map(|key| FrameKey::new(&key.0, way));
        self.from.unseal(way(Way::There));
        self.to.seal(way(Way::Back));
    }

    async fn next_ticket(&mut self) -> Option<Ticket> {
        match timeout(IDLE, self.from.frame()).await {
            Ok(Some((CallKind::Ticket, bytes))) => bytes[..].try_into().ok().map(Ticket),
            _ => None,
        }
    }

    async fn fail(&mut self, code: &str, message: &str) -> io::Result<()> {
        let failed = Failed {
            code: code.into(),
            message: message.into(),
        };
        let failed = cbor::to_vec(&failed);
        self.to.write(CallKind::Failed, &failed).await
    }
}

/// Whether it was the certificate.
fn is_untrusted(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

fn ending_of(error: &TrySendError<Request<CallBody>>) -> Ending {
    let error = error.error();
    if error.is_parse() {
        Ending::ServiceMalformed
    } else if error.is_user() {
        Ending::Aborted
    } else {
        Ending::ServiceFailed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent of these pieces before the end has come, and at the end.
    fn sent(wanted: &[u8], pieces: &[&[u8]]) -> (usize, Option<usize>) {
        let mut signed = Signed::new(sha256(wanted));
        let before = pieces.iter().map(|piece| signed.push(piece).len()).sum();
        (before, signed.rest().map(|rest| rest.len()))
    }

    #[test]
    fn of_a_body_that_was_signed_the_end_goes_only_when_it_is_that_one() {
        let long = vec![7; HELD_BACK + 100];
        let (first, second) = long.split_at(HELD_BACK - 1);
        assert_eq!(sent(b"hello", &[b"he", b"", b"llo"]), (0, Some(5)));
        assert_eq!(sent(b"hello", &[b"jello", b""]), (0, None));
        assert_eq!(sent(b"hello", &[b"hello", b"!"]), (0, None));
        assert_eq!(sent(&long, &[first, second]), (100, Some(HELD_BACK)));
        assert_eq!(
            sent(&long, &[first, second, b"", b""]),
            (100, Some(HELD_BACK))
        );
        assert_eq!(sent(&long, &[first]), (0, None));
        assert_eq!(sent(b"", &[]), (0, Some(0)));
    }
}
