//! The state in which keys outlive a boot, for those who run the sidecar.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use protocol::StateStatus;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Strict;
use super::{Anyone, App, Problem};
use callers::Caller;
use enclave_client::{StateError, StateView};

const MAX_BODY: usize = 8 * 1024;

/// The state of the enclave, and how far it has come in this boot.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StateResponse {
    /// `awaited`, `asking` (KMS), `sealed` (not stored yet) or `open`.
    phase: &'static str,
    /// Name of the state in the bundle.
    name: String,
    /// Its id: SHA-256 of the genesis record, hex. None until it is born or opened.
    state: Option<String>,
    /// Version of the certificate that was taken last; 1 is the order of the birth.
    epoch: Option<u64>,
    /// Number of the last seal.
    sequence: Option<u64>,
    /// Version of the certificate that was taken last; 1 is the order of the birth.
    certificate: Option<u64>,
    /// Where its keys are kept: `kms`.
    custody: &'static str,
    /// Whether this host can bring an older state back: `accepted`.
    rollback: &'static str,
    /// ARN of the KMS key that keeps it.
    kms_key: String,
    /// Whether a seal waits to be stored.
    pending: bool,
    /// Identities that the state has and the bundle has not: their keys are kept, and sign nothing.
    kept: Vec<String>,
    /// Why it is not open.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<Hindrance>,
    /// Random for each boot, hex: what an order names.
    boot_id: String,
}

/// Why a state is not open.
#[derive(Debug, Serialize, ToSchema)]
struct Hindrance {
    /// Stable snake_case name.
    code: String,
    /// For people.
    detail: String,
}

/// The operator's challenge.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BirthDocumentRequest {
    /// 16 to 64 bytes that the operator chose at random, hex.
    #[schema(pattern = "^([0-9a-fA-F]{2}){16,64}$")]
    nonce: String,
}

/// The operator's order.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BirthRequest {
    /// COSE_Sign1, base64url; `anchorhold state genesis` makes it.
    order: String,
}

/// How the state is
#[utoipa::path(get, path = "/state", responses(
    (status = 200, body = StateResponse),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn state(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
) -> Result<Json<StateResponse>, Problem> {
    only_operators(&caller)?;
    Ok(Json(respond(&app).await?))
}

/// Fetch a document of the enclave, to look at before ordering a birth
///
/// Its `user_data` is SHA-256 of the CBOR array `["anchorhold/genesis-request/v1", boot id, policy digest]`.
#[utoipa::path(post, path = "/state/document", request_body = BirthDocumentRequest, responses(
    (status = 200, body = [u8], content_type = "application/octet-stream"),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn birth_document(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Strict(request): Strict<BirthDocumentRequest, MAX_BODY>,
) -> Result<Response, Problem> {
    only_operators(&caller)?;
    let nonce = HEXLOWER_PERMISSIVE.decode(request.nonce.as_bytes());
    let nonce = nonce.map_err(|_| Problem::new(422, "nonce_not_hex", "the nonce is not hex"))?;
    let document = app.enclave.birth_document(nonce).await?;
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(CONTENT_TYPE, kind)], document).into_response())
}

/// Give birth to a state by the operator's order, seal it and store it
///
/// It is opened once for trial (a drill): an error that says so means that it was born, and would not open again.
#[utoipa::path(post, path = "/state/birth", request_body = BirthRequest, responses(
    (status = 200, body = StateResponse),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn birth(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Strict(request): Strict<BirthRequest, MAX_BODY>,
) -> Result<Json<StateResponse>, Problem> {
    only_operators(&caller)?;
    let order = BASE64URL_NOPAD.decode(request.order.as_bytes());
    let order = order.map_err(|_| Problem::from(identity::Error::Base64("the order")))?;
    let born = app.enclave.birth(order).await?;
    tracing::info!(state = ?born.id(), "a state was born");
    // Waits until it serves.
    respond(&app).await?;
    // KMS made a key; whether it gives it back is to be known before anybody relies on it.
    app.drill().await?;
    Ok(Json(respond(&app).await?))
}

/// Whether the state would open again
///
/// What is kept is read, KMS is asked, and the enclave compares what opens with what it has open. Nothing changes.
#[utoipa::path(post, path = "/state/drill", responses(
    (status = 200, body = StateResponse),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn drill(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
) -> Result<Json<StateResponse>, Problem> {
    only_operators(&caller)?;
    respond(&app).await?;
    app.drill().await?;
    Ok(Json(respond(&app).await?))
}

fn only_operators(caller: &Caller) -> Result<(), Problem> {
    if caller.operator {
        return Ok(());
    }
    Err(Problem::new(
        403,
        "caller_not_allowed",
        "the state is for those who run the sidecar",
    ))
}

async fn respond(app: &App) -> Result<StateResponse, Problem> {
    let Some(policy) = &app.admission.policy().state else {
        return Err(Problem::new(
            404,
            "state_not_wanted",
            "the bundle has no [state]: its keys end with the boot",
        ));
    };
    // The bundle wants one, so the client has one.
    let view = app
        .enclave
        .state()
        .await
        .unwrap_or(Err(StateError::Unavailable))?;
    let hindrance = hindrance(&view);
    let StateView { enclave, state, .. } = view;
    let StateStatus {
        phase,
        facts,
        sequence,
        certificate,
        pending,
        kept,
        ..
    } = state;
    Ok(StateResponse {
        phase: phase.as_str(),
        name: policy.name.clone(),
        state: facts.map(|facts| facts.state.to_string()),
        epoch: facts.map(|facts| facts.epoch),
        sequence,
        certificate,
        custody: policy.custody.as_str(),
        rollback: policy.rollback.as_str(),
        kms_key: policy.kms_key.to_string(),
        pending: pending.is_some(),
        kept,
        refused: hindrance,
        boot_id: enclave.boot_id.to_string(),
    })
}

fn hindrance(view: &StateView) -> Option<Hindrance> {
    let error = view.hindrance.as_ref()?;
    Some(Hindrance {
        code: error.code().to_owned(),
        detail: error.to_string(),
    })
}
