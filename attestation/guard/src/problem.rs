//! Refusals as RFC 9457 problems.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::Error;
use crate::routes::EVIDENCE_PATH;

/// A refusal as RFC 9457 has it: `code` is its stable name; with a `challenge` comes the place for
/// its answer.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: String,
    status: u16,
    code: &'a str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    challenge: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<&'a str>,
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, code, challenge) = (self.status(), self.code(), self.challenge());
        let problem = Problem {
            r#type: format!("urn:anchorhold:error:{code}"),
            title: code.replace('_', " "),
            status,
            code,
            detail: self.to_string(),
            challenge,
            evidence: challenge.map(|_| EVIDENCE_PATH),
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            body,
        )
            .into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match status {
            // RFC 6750 section 3.1: a call without credentials is told the scheme, and nothing of
            // errors.
            401 if self == Self::TokenAbsent => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
            }
            401 => headers.insert(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer error=\"invalid_token\""),
            ),
            403 => headers.insert(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer error=\"insufficient_scope\""),
            ),
            503 => headers.insert(RETRY_AFTER, HeaderValue::from_static("1")),
            _ => None,
        };
        response
    }
}
