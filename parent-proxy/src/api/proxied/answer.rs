//! Refusals in the shape that clients of these APIs read.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::super::Problem;

/// The stable name of a refusal that is ours and not the service's.
const ERROR: HeaderName = HeaderName::from_static("x-anchorhold-error");
/// The clients of OpenAI and Anthropic retry by it, whatever the status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The body is an error as OpenAI and Anthropic write it, both at once; `X-Anchorhold-Error` has the
/// code.
pub(crate) fn refusal(problem: &Problem) -> Response {
    let status =
        StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = match problem.status() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    let error =
        json!({"type": kind, "message": problem.detail(), "code": problem.code(), "param": null});
    let body = json!({"type": "error", "error": error}).to_string();
    let mut response = (status, Body::from(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(code) = HeaderValue::from_str(problem.code()) {
        headers.insert(ERROR, code);
    }
    let again = matches!(problem.status(), 429 | 503);
    headers.insert(
        SHOULD_RETRY,
        HeaderValue::from_static(if again { "true" } else { "false" }),
    );
    if let Some(seconds) = problem.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::UNAUTHORIZED {
        // So that git sends what it has.
        let basic = HeaderValue::from_static("Basic realm=\"anchorhold\"");
        headers.insert(WWW_AUTHENTICATE, basic);
    }
    response.extensions_mut().insert(problem.clone());
    response
}
