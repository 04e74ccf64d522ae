use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use identity::{Did, Digest, UnixSeconds};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::{CHALLENGE_SECONDS, Error, Guard};

/// Where a challenge is given out.
pub const CHALLENGE_PATH: &str = "/anchorhold/challenge";
/// Where evidence is taken.
pub const EVIDENCE_PATH: &str = "/anchorhold/evidence";

/// No evidence file is longer.
const MAX_EVIDENCE: usize = 64 * 1024;
/// Verifications at one time: a millisecond of arithmetic each, for anybody who asks.
const MAX_VERIFYING: usize = 2;

#[derive(Clone)]
struct Desk {
    guard: Arc<Guard>,
    turns: Arc<Semaphore>,
}

#[derive(Serialize)]
struct Given {
    /// Hex.
    nonce: String,
    /// Accepted for at least so long.
    expires_in: i64,
}

#[derive(Serialize)]
struct Learned {
    did: Did,
    binding: Digest<32>,
    /// When another challenge must be answered.
    until: UnixSeconds,
}

/// `GET /anchorhold/challenge` gives `{"nonce","expires_in"}`; `POST /anchorhold/evidence` takes the evidence file that answers
/// it, and gives `{"did","binding","until"}`. Nobody needs a token for them.
pub fn evidence_routes(guard: Arc<Guard>) -> Router {
    Router::new()
        .route(CHALLENGE_PATH, get(challenge))
        .route(EVIDENCE_PATH, post(learn))
        .layer(DefaultBodyLimit::max(MAX_EVIDENCE))
        .with_state(Desk { guard, turns: Arc::new(Semaphore::new(MAX_VERIFYING)) })
}

async fn challenge(State(desk): State<Desk>) -> Result<impl IntoResponse, Error> {
    let nonce = desk.guard.challenge()?;
    Ok(([(CACHE_CONTROL, "no-store")], Json(Given { nonce, expires_in: CHALLENGE_SECONDS })))
}

async fn learn(State(desk): State<Desk>, evidence: Bytes) -> Result<Json<Learned>, Error> {
    let turn = Arc::clone(&desk.turns).try_acquire_owned().map_err(|_| Error::Busy)?;
    let judged = tokio::task::spawn_blocking(move || {
        let judged = desk.guard.learn(&evidence);
        drop(turn);
        judged
    });
    let (signer, until) = judged.await.unwrap_or(Err(Error::Busy))?;
    Ok(Json(Learned { did: signer.did().clone(), binding: signer.binding(), until }))
}
