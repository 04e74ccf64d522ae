//! A WebSocket: once the service has agreed, what its sides say passes both ways.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use broker::websocket::{FromAgent, FromService, Gone, Handshake};
use broker::{Header, Needles};
use bytes::BytesMut;
use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper_util::rt::TokioIo;
use identity::cbor;
use protocol::{CallKind, FramedHead};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::{Instant, timeout, timeout_at};

use crate::body::CallBody;
use crate::counted::Counted;
use crate::download::{ANSWER_WITHIN, Download, MAX_BUFFER};
use crate::frames::{FramesFrom, FramesTo};
use crate::progress::Progress;
use crate::shared::Shared;
use crate::sync::lock;
use crate::tokens::Token;
use crate::wire::{Call, Ending};

/// For the text in which the credential is put.
const PLACE_WITHIN: Duration = Duration::from_secs(60);
/// For the other side to close too.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

impl From<Gone> for Ending {
    /// Of what a service said.
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::Malformed => Self::ServiceMalformed,
            Gone::Reflected => Self::CredentialReflected,
            Gone::Misplaced(_) => Self::PlaceholderMisplaced,
        }
    }
}

/// Asks for one, and passes on what is said over it; or the answer, if the service does not agree.
pub(crate) async fn make(
    shared: &Arc<Shared>,
    (from, to): (&mut FramesFrom, &mut FramesTo),
    call: &Call,
    token: Option<&Token>,
    progress: &mut Progress,
) -> Result<(), Ending> {
    let handshake = Handshake::of(&call.headers).map_err(|_| Ending::Aborted)?;
    let needles = shared.needles(call, token);
    let sent = Arc::clone(&progress.sent);
    let mut download = Download {
        shared,
        call,
        token,
        needles: Arc::clone(&needles),
        to,
        status: &mut progress.status,
        spki: &mut progress.spki,
        received: &mut progress.received,
        used: &mut progress.used,
    };
    let asking = async {
        let (_, body) = CallBody::new(Some(0), Arc::clone(&sent));
        let mut request = download.request(body)?;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let mut connection = download.connect().await?;
        *download.spki = connection.spki;
        let answered = timeout(ANSWER_WITHIN, connection.sender.send_request(request)).await;
        let answer = answered.map_err(|_| Ending::ServiceFailed)?;
        let answer = answer.map_err(|_| Ending::ServiceFailed)?;
        let status = answer.status();
        *download.status =
            Some(status.as_u16()).filter(|_| status != StatusCode::SWITCHING_PROTOCOLS);
        if status.is_client_error() || status.is_server_error() {
            return download.pass_on(answer).await.map(|()| None);
        }
        // Anything else would be an answer to a request that nobody has decided on.
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Ending::ServiceMalformed);
        }
        let came: Vec<Header> = answer
            .headers()
            .iter()
            .map(|(name, value)| Header::new(name.as_str(), value.as_bytes()))
            .collect();
        if !handshake.is_answered(&came) {
            return Err(Ending::ServiceMalformed);
        }
        let headers = download.passed(&came)?;
        let service = hyper::upgrade::on(answer).await;
        Ok(Some((headers, service.map_err(|_| Ending::ServiceFailed)?)))
    };
    let agreed = tokio::select! {
        agreed = asking => agreed?,
        () = from.gone() => return Err(Ending::Aborted),
    };
    let Some((headers, service)) = agreed else {
        return Ok(());
    };
    let head = FramedHead {
        status: StatusCode::SWITCHING_PROTOCOLS.as_u16(),
        headers: headers
            .into_iter()
            .map(|header| (header.name, header.value.into()))
            .collect(),
    };
    let head = cbor::to_vec(&head);
    if head.len() > to.most() {
        return Err(Ending::ServiceMalformed);
    }
    to.put(CallKind::Head, &head);
    flush(to).await?;
    progress.status = Some(StatusCode::SWITCHING_PROTOCOLS.as_u16());
    let (read, write) = split(TokioIo::new(service));
    let field = call.field.as_ref().map(|field| field.to_field());
    let mut there = pin!(there(from, write, FromAgent::new(field), |bytes| lock(
        &sent
    )
    .add(bytes)));
    let way = FromService::new(needles, shared.scrub);
    let mut back = pin!(back(read, to, way, &mut progress.received));
    // Each ends when its side has said that it closes.
    tokio::select! {
        closed = &mut there => {
            closed?;
            timeout(CLOSE_WITHIN, back).await.unwrap_or(Err(Ending::ServiceFailed))
        }
        closed = &mut back => {
            closed?;
            let _ = timeout(CLOSE_WITHIN, there).await;
            Ok(())
        }
    }
}

async fn there(
    from: &mut FramesFrom,
    mut service: impl AsyncWrite + Unpin,
    mut way: FromAgent,
    mut seen: impl FnMut(&[u8]),
) -> Result<(), Ending> {
    let begun = Instant::now();
    while !way.is_closed() {
        // A newer credential may be in use long since.
        let frame = match way.is_unplaced() {
            true => timeout_at(begun + PLACE_WITHIN, from.frame()).await,
            false => Ok(from.frame().await),
        };
        let frame = frame.map_err(|_| Ending::PlaceholderMisplaced)?;
        let Some((CallKind::Data, bytes)) = frame else {
            return Err(Ending::Aborted);
        };
        let mut said = BytesMut::new();
        let passed = way.push(&bytes, &mut said, mask, &mut seen);
        let failed = |_: io::Error| Ending::ServiceFailed;
        service.write_all_buf(&mut said).await.map_err(failed)?;
        service.flush().await.map_err(failed)?;
        passed.map_err(|gone| match gone {
            Gone::Malformed => Ending::Aborted,
            other => other.into(),
        })?;
    }
    Ok(())
}

async fn back(
    mut service: impl AsyncRead + Unpin,
    to: &mut FramesTo,
    mut way: FromService<Arc<Needles>>,
    received: &mut Counted,
) -> Result<(), Ending> {
    let mut came = BytesMut::with_capacity(MAX_BUFFER);
    while !way.is_closed() {
        came.clear();
        let read = timeout(ANSWER_WITHIN, service.read_buf(&mut came)).await;
        match read {
            Ok(Ok(read)) if read > 0 => {}
            _ => return Err(Ending::ServiceFailed),
        }
        let mut said = BytesMut::new();
        let passed = way.push(&came, &mut said, |bytes| received.add(bytes));
        // What came before is passed on still.
        for piece in said.chunks(to.most()) {
            to.put(CallKind::Data, piece);
        }
        flush(to).await?;
        passed?;
    }
    Ok(())
}

async fn flush(to: &mut FramesTo) -> Result<(), Ending> {
    to.flush().await.map_err(|_| Ending::Aborted)
}

/// Nobody between here and the service can choose what stands on the wire (RFC 6455 section 10.3).
fn mask() -> [u8; 4] {
    let mut mask = [0; 4];
    // Without random numbers there would be no TLS either.
    let _ = aws_lc_rs::rand::fill(&mut mask);
    mask
}

#[cfg(test)]
mod tests {
    use broker::Field;
    use tokio::io::duplex;
    use tokio::time::sleep;
    use zeroize::Zeroizing;

    use super::*;
    use crate::frames::frames;

    /// A short text as an agent sends it: masked, by zeros.
    fn said(text: &str) -> Vec<u8> {
        let length = u8::try_from(text.len()).unwrap();
        let head = [0x81, 0x80 | length, 0, 0, 0, 0];
        [&head[..], text.as_bytes()].concat()
    }

    /// How it ends and after how many seconds, for an agent that says each of these so many seconds after the one before, and
    /// then nothing.
    async fn ended(says: &[(u64, &str)]) -> (Ending, u64) {
        let (agent, line) = duplex(1 << 16);
        let (service, _server) = duplex(1 << 16);
        let (mut from, _to) = frames(Box::new(line));
        let (_from, mut agent) = frames(Box::new(agent));
        let field = Field {
            name: "/token".into(),
            value: Zeroizing::new(b"secret".to_vec()),
        };
        let begun = Instant::now();
        let there = there(&mut from, service, FromAgent::new(Some(field)), |_| {});
        let says = async {
            for (after, text) in says {
                sleep(Duration::from_secs(*after)).await;
                agent.write(CallKind::Data, &said(text)).await.unwrap();
            }
            // Much longer than anybody waits for a credential's message.
            sleep(10 * PLACE_WITHIN).await;
        };
        let ending = tokio::select! {
            ending = there => ending.unwrap_err(),
            () = says => Ending::Complete,
        };
        (ending, begun.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn the_message_for_a_credential_is_waited_for_a_minute_from_the_beginning() {
        let (late, with_place) = (Ending::PlaceholderMisplaced, r#"{"token": ""}"#);
        assert_eq!(ended(&[]).await, (late, 60));
        // Whatever is said before it.
        let others: Vec<(u64, &str)> = (0..9).map(|_| (11, "{}")).collect();
        assert_eq!(ended(&others).await, (late, 60));
        assert_eq!(ended(&[(61, with_place)]).await, (late, 60));
        // Once it has its place, silence ends nothing.
        assert_eq!(ended(&[(59, with_place)]).await, (Ending::Complete, 659));
    }
}
