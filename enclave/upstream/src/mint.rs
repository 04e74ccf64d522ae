//! Asks for a token with a credential, where the service wants one in its place.

use std::sync::Arc;
use std::time::Duration;

use broker::{MAX_MINTED, MintRequest, minted};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::Builder;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::connect::{Whom, connect};
use crate::frames::FramesTo;
use crate::lines::Line;
use crate::shared::Shared;
use crate::sync::lock;
use crate::tokens::{Token, TokenHost};
use crate::wire::{Call, Ending};

/// For those who ask before.
const TURN_WITHIN: Duration = Duration::from_secs(45);
/// For the answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The token of the credential of a call, if that is what is put in its place; and whether it was asked for.
pub(crate) async fn token(
    shared: &Arc<Shared>,
    to: &mut FramesTo,
    call: &Call,
    is_minted: &mut bool,
) -> Result<Option<Token>, Ending> {
    let (host, minting) = match (&shared.token_host, &call.minting) {
        (None, None) => return Ok(None),
        (Some(host), Some(minting)) => (host, minting),
        _ => return Err(Ending::Aborted),
    };
    let owner = (call.actor, call.version);
    if let Some(token) = lock(&shared.tokens).good(owner) {
        return Ok(Some(token));
    }
    let turn = lock(&shared.tokens).turn(owner);
    let turn = timeout(TURN_WITHIN, turn.lock_owned()).await;
    let turn = turn.map_err(|_| Ending::TokenRefused)?;
    if let Some(token) = lock(&shared.tokens).good(owner) {
        return Ok(Some(token));
    }
    if lock(&shared.tokens).has_failed(owner) {
        return Err(Ending::TokenRefused);
    }
    let mut minting = minting.to_minting(&host.source).ok_or(Ending::Aborted)?;
    if let Some(refresh) = lock(&shared.tokens).refresh(owner) {
        minting.shown = refresh;
    }
    let request = request(host, minting.request(&host.source))?;
    let connected = connect(shared, to, call.ticket, Whom::Tokens(host)).await;
    let Ok(stream) = connected else {
        lock(&shared.tokens).fail(owner);
        return Err(Ending::TokenRefused);
    };
    *is_minted = true;
    // Whatever becomes of the call: what is given may take the place of what was shown.
    let shared = Arc::clone(shared);
    let source = host.source.clone();
    let asking = tokio::spawn(async move {
        let _turn = turn;
        let answered = timeout(ANSWER_WITHIN, ask(stream, request)).await;
        let body = answered.ok().flatten();
        let minted = body.and_then(|body| minted(&source, &body));
        let mut tokens = lock(&shared.tokens);
        match minted {
            Some(minted) => Ok(tokens.take(owner, minted, minting.shown)),
            None => {
                tokens.fail(owner);
                Err(Ending::TokenRefused)
            }
        }
    });
    let asked = asking.await.map_err(|_| Ending::TokenRefused)?;
    asked.map(Some)
}

fn request(host: &TokenHost, asked: MintRequest) -> Result<Request<Full<Bytes>>, Ending> {
    let url = &host.source.url;
    let form = Bytes::from_owner(asked.form);
    let is_form = !form.is_empty();
    let mut request = Request::new(Full::new(form));
    *request.method_mut() = Method::POST;
    let target = if url.path().is_empty() {
        "/"
    } else {
        url.path()
    };
    *request.uri_mut() = Uri::try_from(target).map_err(|_| Ending::Aborted)?;
    let headers = request.headers_mut();
    let authority = HeaderValue::from_str(url.authority()).map_err(|_| Ending::Aborted)?;
    headers.insert(HOST, authority);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static("anchorhold"));
    if is_form {
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, kind);
    }
    if let Some(value) = asked.authorization {
        let mut value = HeaderValue::from_str(&value).map_err(|_| Ending::Aborted)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(request)
}

/// The body of the answer to a request for a token; none, if it gives none.
async fn ask(stream: TlsStream<Line>, request: Request<Full<Bytes>>) -> Option<Bytes> {
    let handshake = Builder::new().handshake(TokioIo::new(stream)).await;
    let (mut sender, driving) = handshake.ok()?;
    tokio::spawn(driving);
    let answer = sender.send_request(request).await.ok()?;
    if ![StatusCode::OK, StatusCode::CREATED].contains(&answer.status()) {
        return None;
    }
    let body = Limited::new(answer.into_body(), MAX_MINTED).collect().await;
    Some(body.ok()?.to_bytes())
}
