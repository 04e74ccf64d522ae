//! Refusals in the shape that clients of these APIs read.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, PROXY_AUTHENTICATE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use policy::Service;
use protocol::Refused;
use serde_json::json;

use super::super::Problem;

/// The stable name of a refusal that is ours and not the service's.
const ERROR: HeaderName = HeaderName::from_static("x-anchorhold-error");
/// The clients of OpenAI and Anthropic retry by it, whatever the status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// As which clients an error is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As OpenAI and Anthropic write it, both at once.
    Models,
    /// As S3 writes it.
    S3,
    /// As AWS's JSON protocols write it.
    Aws,
}

impl Shape {
    /// Of the service that a path names; the first one if there is none.
    pub(crate) fn of(service: Option<&Service>) -> Self {
        match service.and_then(|service| service.inject.sigv4.as_ref()) {
            Some(sigv4) if sigv4.is_s3() => Self::S3,
            Some(_) => Self::Aws,
            None => Self::Models,
        }
    }

    /// Media type, and body.
    fn write(self, problem: &Problem, kind: &str) -> (&'static str, String) {
        let (code, detail) = (problem.code(), problem.detail());
        let error = json!({"type": kind, "message": detail, "code": code, "param": null});
        match self {
            Self::Models => (
                "application/json",
                json!({"type": "error", "error": error}).to_string(),
            ),
            Self::Aws => (
                "application/x-amz-json-1.0",
                json!({"__type": code, "message": detail}).to_string(),
            ),
            Self::S3 => {
                let detail = detail
                    .replace('&', "&amp;")
                    .replace('<', "&lt;")
                    .replace('>', "&gt;");
                let text = format!("<Code>{code}</Code><Message>{detail}</Message>");
                let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";
                ("application/xml", format!("{head}\n<Error>{text}</Error>"))
            }
        }
    }
}

/// The body is an error as clients of the service read it; `X-Anchorhold-Error` has the code.
pub(crate) fn refusal(problem: &Problem, shape: Shape) -> Response {
    let (status, headers, body) = written(problem, shape);
    let mut response = (status, headers, Body::from(body)).into_response();
    response.extensions_mut().insert(problem.clone());
    response
}

/// The same, for the enclave's ingress process to answer.
pub(crate) fn refused(problem: &Problem, shape: Shape) -> Refused {
    let (status, headers, body) = written(problem, shape);
    let headers = headers.iter();
    let headers =
        headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec().into()));
    Refused {
        status: status.as_u16(),
        headers: headers.collect(),
        body: body.into_bytes(),
    }
}

/// A refusal to a client that takes us for a proxy (RFC 9110 section 11.7).
pub(crate) fn proxy_refusal(problem: &Problem) -> Response {
    let mut response = refusal(problem, Shape::Models);
    if response.status() == StatusCode::UNAUTHORIZED {
        *response.status_mut() = StatusCode::PROXY_AUTHENTICATION_REQUIRED;
        let headers = response.headers_mut();
        if let Some(basic) = headers.remove(WWW_AUTHENTICATE) {
            headers.insert(PROXY_AUTHENTICATE, basic);
        }
    }
    response
}

fn written(problem: &Problem, shape: Shape) -> (StatusCode, HeaderMap, String) {
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
    let (media, body) = shape.write(problem, kind);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
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
    (status, headers, body)
}
