//! The way to the service, and what comes back.

use std::sync::Arc;
use std::time::Duration;

use broker::{Header, Needles, Scrubber, Used, returned};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::Builder;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use identity::cbor;
use policy::Scrub;
use protocol::{CallKind, FramedHead};
use tokio::time::timeout;

use crate::body::CallBody;
use crate::connect::{Whom, connect};
use crate::counted::Counted;
use crate::frames::FramesTo;
use crate::pool::Connection;
use crate::shared::Shared;
use crate::sync::lock;
use crate::tls;
use crate::tokens::Token;
use crate::wire::{Call, Ending};

/// For the next piece of an answer: models think for minutes.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(600);
/// How clients of S3 say that a body goes up in chunks. Some stores keep the word with the object, and say it of
/// answers that are not so.
const UPLOADED_AS: &str = "aws-chunked";
/// Of what is read at once.
pub(crate) const MAX_BUFFER: usize = 64 * 1024;

/// The way to the service, and what comes back.
pub(crate) struct Download<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) call: &'a Call,
    /// What is put in the credential's place, if it is a token.
    pub(crate) token: Option<&'a Token>,
    pub(crate) needles: Arc<Needles>,
    pub(crate) to: &'a mut FramesTo,
    pub(crate) status: &'a mut Option<u16>,
    pub(crate) spki: &'a mut Option<[u8; 32]>,
    pub(crate) received: &'a mut Counted,
    pub(crate) used: &'a mut Option<Used>,
}

impl Download<'_> {
    /// Sends the request, and passes the answer on but for its end; gives the connection.
    pub(crate) async fn run(mut self, body: CallBody) -> Result<Connection, Ending> {
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

    pub(crate) fn request(&self, body: CallBody) -> Result<Request<CallBody>, Ending> {
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
        if let Some((host, token)) = self.shared.token_host.as_ref().zip(self.token) {
            let name = HeaderName::from_bytes(host.header.as_bytes()).map_err(|_| odd)?;
            let mut value = HeaderValue::from_bytes(&host.value(token)).map_err(|_| odd)?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(request)
    }

    /// A new connection, over a line that is asked for.
    pub(crate) async fn connect(&mut self) -> Result<Connection, Ending> {
        let stream = connect(self.shared, self.to, self.call.ticket, Whom::Service).await?;
        let shown = stream.get_ref().1.peer_certificates();
        let spki = shown.and_then(|shown| tls::key_of(shown.first()?));
        let (sender, driving) = Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Ending::ServiceFailed)?;
        if self.call.websocket {
            tokio::spawn(driving.with_upgrades());
        } else {
            tokio::spawn(driving);
        }
        Ok(Connection { sender, spki })
    }

    pub(crate) async fn pass_on(&mut self, answer: Response<Incoming>) -> Result<(), Ending> {
        let (head, mut body) = answer.into_parts();
        *self.status = Some(head.status.as_u16());
        let headers = self.headers(&head)?;
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
        while !ended && let Some(piece) = self.next_piece(&mut body, &mut scrubber).await? {
            let clean = scrub(&mut scrubber, piece)?;
            self.pass(&clean).await?;
        }
        let rest = scrubber.finish();
        self.pass(&rest).await
    }

    /// The next piece of an answer. What may be passed on before it goes while that is awaited.
    async fn next_piece(
        &mut self,
        body: &mut Incoming,
        scrubber: &mut Scrubber<Arc<Needles>>,
    ) -> Result<Option<Bytes>, Ending> {
        if let Some(piece) = next_piece(body).now_or_never() {
            return piece;
        }
        let rest = scrubber.pause();
        self.pass(&rest).await?;
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
        self.passed(&all)
    }

    /// Of these headers of an answer those that are passed on, without the credential.
    pub(crate) fn passed(&self, came: &[Header]) -> Result<Vec<Header>, Ending> {
        let mut passed = returned(came);
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
