//! One call after the other, over one line.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker::websocket::closing;
use broker::{FrameKey, Way};
use futures_util::future::Either;
use identity::{cbor, sha256};
use protocol::{CallKind, Failed, Ticket};
use tokio::time::timeout;

use crate::body::CallBody;
use crate::download::Download;
use crate::frames::{FramesFrom, FramesTo, frames};
use crate::lines::Line;
use crate::mint;
use crate::pool::{Connection, Owner};
use crate::progress::Progress;
use crate::shared::{Offered, Shared, revocation};
use crate::sync::lock;
use crate::upload::{upload, upload_whole};
use crate::websocket;
use crate::whole;
use crate::wire::{Call, Ending, SecretKey};

/// For the first frame of a sealed call, without which nothing is sent.
const FIRST_WITHIN: Duration = Duration::from_secs(60);
/// A line for calls may lie idle so long.
const IDLE: Duration = Duration::from_secs(120);
/// A connection that is not ready again soon is not kept.
const READY_WITHIN: Duration = Duration::from_millis(100);

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
        if let Some(token) = progress.token.take_if(|_| progress.status == Some(401)) {
            // The next call asks for another one.
            lock(&shared.tokens).give_up((call.actor, call.version), &token);
        }
        let (ending, again) = match made {
            Ok(again) => (Ending::Complete, again),
            Err(ending) => (ending, false),
        };
        let speaks_on = call.websocket && progress.status == Some(101);
        // The line is told last: whoever has its answer finds its end recorded.
        shared.end(progress.ended(ticket, ending)).await;
        if speaks_on && ending != Ending::Complete {
            line.to
                .put(CallKind::Data, &closing(ending.code(), ending.is_refusal()));
        }
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
        Ending::PlaceholderMisplaced => {
            "the credential has no place in the body or message, or more than one"
        }
        Ending::TokenRefused => "no token was given for the credential",
        Ending::ServiceEncoded => "the service encoded its answer, though nobody asked it to",
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
    let CallLine { from, to } = line;
    // Whoever has no more than the ticket of a sealed call sends no frame of it, and so nothing at all.
    let mut first = match call.key {
        None => None,
        Some(_) => {
            let first = timeout(FIRST_WITHIN, from.frame()).await;
            Some(first.ok().flatten().ok_or(Ending::Aborted)?)
        }
    };
    let minting = mint::token(shared, to, call, &mut progress.minted);
    progress.token = tokio::select! {
        // A call without one looks at nothing here.
        biased;
        token = minting => token?,
        () = from.gone() => return Err(Ending::Aborted),
    };
    let token = progress.token.clone();
    let token = token.as_ref();
    if call.websocket {
        return websocket::make(shared, (from, to), call, token, progress)
            .await
            .map(|()| false);
    }
    let body = match whole::is_wanted(call) {
        true => Some(whole::gather(from, first.take(), call).await?),
        false => None,
    };
    let whole = AtomicBool::new(body.is_some());
    let length = body.as_ref().map(|body| body.length).or(call.length);
    let (pieces, sent) = CallBody::new(length, Arc::clone(&progress.sent));
    let uploading = match body {
        Some(body) => Either::Left(upload_whole(from, body, pieces)),
        None => Either::Right(upload(from, first, pieces, call, &whole)),
    };
    let download = Download {
        shared,
        call,
        token,
        needles: shared.needles(call, token),
        to,
        status: &mut progress.status,
        spki: &mut progress.spki,
        received: &mut progress.received,
        used: &mut progress.used,
    };
    let connection = tokio::select! {
        gone = uploading => return Err(gone),
        got = download.run(sent) => got?,
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
