//! For those who run the sidecar.

use std::sync::{Arc, LazyLock};

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use protocol::{Answer, Request};
use serde_json::{Value, json};

use super::{Anyone, App, Problem};
use enclave_client::RequestError;

/// Whether this process lives
#[utoipa::path(get, path = "/health", responses((status = 200, body = Object)))]
pub(crate) async fn health(_: Anyone) -> Json<Value> {
    Json(json!({"status": "live"}))
}

/// Whether a signature could be made now
#[utoipa::path(get, path = "/ready", responses(
    (status = 200, body = Object),
    (status = 403, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn ready(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
) -> Result<Json<Value>, Problem> {
    if !(caller.admitted || caller.operator) {
        return Err(super::not_admitted());
    }
    let Answer::Status(status) = app.ask(&caller.quota, Request::Status).await? else {
        return Err(RequestError::Nonsense.into());
    };
    if !app.enclave.is_recording() {
        return Err(RequestError::Unrecorded.into());
    }
    match status.cannot_sign {
        None => Ok(Json(json!({"status": "ready"}))),
        Some(code) => Err(Problem::new(503, code, "the enclave cannot sign now")),
    }
}

/// Prometheus metrics
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, body = String, content_type = "application/openmetrics-text"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
) -> Result<impl IntoResponse, Problem> {
    if !caller.operator {
        return Err(Problem::new(
            403,
            "caller_not_allowed",
            "metrics are for those who run the sidecar",
        ));
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], app.metrics.text()))
}

/// This description
#[utoipa::path(get, path = "/openapi.json", responses((status = 200, body = Object)))]
pub(crate) async fn openapi(_: Anyone) -> impl IntoResponse {
    static TEXT: LazyLock<String> = LazyLock::new(super::openapi);
    ([(CONTENT_TYPE, "application/json")], TEXT.as_str())
}
