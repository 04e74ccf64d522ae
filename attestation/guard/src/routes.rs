//! The routes that hand out challenges and take evidence.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use identity::{Did, Digest, UnixSeconds};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::{sleep_until, timeout};

use crate::{CHALLENGE_SECONDS, Error, Guard};

/// Where a challenge is given out.
pub const CHALLENGE_PATH: &str = "/anchorhold/challenge";
/// Where evidence is taken.
pub const EVIDENCE_PATH: &str = "/anchorhold/evidence";

/// No evidence file is longer.
const MAX_EVIDENCE: usize = 64 * 1024;
/// Bodies that may arrive at one time, 64 KiB each, and how long one may take.
const MAX_BODIES: usize = 64;
const BODY_TIME: Duration = Duration::from_secs(5);
/// Verifications at one time: a millisecond of arithmetic each, for anybody who asks; and how long
/// to wait for a turn.
const MAX_VERIFYING: usize = 2;
const TURN_TIME: Duration = Duration::from_secs(2);
/// Tokens must be younger than the first evidence of their key, and both times are whole seconds of
/// the enclave's clock: who waits for an answer can go on at once, whoever showed evidence first.
/// With a little for the time that its NSM takes.
const A_SECOND: Duration = Duration::from_millis(1200);

#[derive(Clone)]
struct Desk {
    guard: Arc<Guard>,
    bodies: Arc<Semaphore>,
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
struct Answer {
    did: Did,
    binding: Digest<32>,
    /// When another challenge must be answered.
    until: UnixSeconds,
}

/// `GET /anchorhold/challenge` gives `{"nonce","expires_in"}`; `POST /anchorhold/evidence` takes
/// the evidence file that answers it, and gives `{"did","binding","until"}`, a second after the
/// first evidence of a key at the earliest, so that tokens are younger. Nobody needs a token for them.
pub fn evidence_routes(guard: Arc<Guard>) -> Router {
    Router::new()
        .route(CHALLENGE_PATH, get(challenge))
        .route(EVIDENCE_PATH, post(learn))
        .with_state(Desk {
            guard,
            bodies: Arc::new(Semaphore::new(MAX_BODIES)),
            turns: Arc::new(Semaphore::new(MAX_VERIFYING)),
        })
}

async fn challenge(State(desk): State<Desk>) -> Result<impl IntoResponse, Error> {
    let nonce = desk.guard.challenge()?;
    Ok((
        [(CACHE_CONTROL, "no-store")],
        Json(Given {
            nonce,
            expires_in: CHALLENGE_SECONDS,
        }),
    ))
}

async fn learn(State(desk): State<Desk>, body: Body) -> Result<Json<Answer>, Error> {
    let evidence = receive(&desk, body).await?;
    desk.guard.answers(&evidence)?;
    let turn = timeout(TURN_TIME, Arc::clone(&desk.turns).acquire_owned()).await;
    let Ok(Ok(turn)) = turn else {
        return Err(Error::Busy);
    };
    let judged = tokio::task::spawn_blocking(move || {
        let judged = desk.guard.learn_of(&evidence);
        drop(turn);
        judged
    });
    let learned = judged.await.unwrap_or(Err(Error::Busy))?;
    sleep_until((learned.met + A_SECOND).into()).await;
    Ok(Json(Answer {
        did: learned.signer.did().clone(),
        binding: learned.signer.binding(),
        until: learned.until,
    }))
}

/// The body, if there is room for it and it comes in time.
async fn receive(desk: &Desk, body: Body) -> Result<Bytes, Error> {
    let _room = desk.bodies.try_acquire().map_err(|_| Error::Busy)?;
    let received = timeout(BODY_TIME, to_bytes(body, MAX_EVIDENCE))
        .await
        .map_err(|_| Error::BodyTooSlow)?;
    received.map_err(|_| Error::BodyTooLong)
}
