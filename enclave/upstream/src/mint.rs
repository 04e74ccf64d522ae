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

use crate::connect::{Whom, connect};
use crate::frames::FramesTo;
use crate::shared::Shared;
use crate::sync::lock;
use crate::tokens::{Token, TokenHost};
use crate::wire::{Call, Ending};

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
    let held = lock(&shared.tokens).of((call.actor, call.version));
    let mut held = held.lock().await;
    if let Some(token) = held.token() {
        return Ok(Some(token));
    }
    let mut minting = minting.to_minting().ok_or(Ending::Aborted)?;
    if let Some(refresh) = &held.refresh {
        minting.shown = refresh.clone();
    }
    let request = minting.request(&host.source);
    *is_minted = true;
    let answered = timeout(ANSWER_WITHIN, ask(shared, to, call, host, request)).await;
    let body = answered.unwrap_or(Err(Ending::TokenRefused))?;
    let minted = minted(&host.source, &body).ok_or(Ending::TokenRefused)?;
    Ok(Some(held.take(minted)))
}

/// The body of the answer to a request for a token.
async fn ask(
    shared: &Shared,
    to: &mut FramesTo,
    call: &Call,
    host: &TokenHost,
    asked: MintRequest,
) -> Result<Bytes, Ending> {
    let refused = |_| Ending::TokenRefused;
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
    let stream = connect(shared, to, call.ticket, Whom::Tokens(host)).await?;
    let handshake = Builder::new().handshake(TokioIo::new(stream)).await;
    let (mut sender, driving) = handshake.map_err(refused)?;
    tokio::spawn(driving);
    let answer = sender.send_request(request).await.map_err(refused)?;
    if ![StatusCode::OK, StatusCode::CREATED].contains(&answer.status()) {
        return Err(Ending::TokenRefused);
    }
    let body = Limited::new(answer.into_body(), MAX_MINTED).collect().await;
    Ok(body.map_err(|_| Ending::TokenRefused)?.to_bytes())
}
