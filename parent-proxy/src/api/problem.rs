//! Refusals as RFC 9457 problems.

use std::borrow::Cow;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use protocol::Kind;
use serde::Serialize;
use utoipa::ToSchema;

use super::AskError;
use callers::TurnedAway;
use enclave_client::{RequestError, StateError};

/// An error as RFC 9457 has it, with `code` as its stable name.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// `urn:anchorhold:error:` and the code.
    r#type: String,
    /// The code in words.
    title: String,
    /// HTTP status.
    status: u16,
    /// Stable snake_case name; programs may match on it.
    code: Cow<'static, str>,
    /// What happened, for people.
    detail: String,
    /// When the same may be asked again, in seconds: the header Retry-After.
    #[serde(skip)]
    retry_after: Option<u32>,
}

impl Problem {
    /// The same with another status.
    pub(crate) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    pub(crate) fn new(
        status: u16,
        code: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        let code = code.into();
        Self {
            r#type: format!("urn:anchorhold:error:{code}"),
            title: code.replace('_', " "),
            status,
            code,
            detail: detail.into(),
            retry_after: if status == 503 { Some(1) } else { None },
        }
    }

    /// The same, and when it may be asked again.
    pub(crate) fn after(mut self, seconds: Option<u32>) -> Self {
        self.retry_after = seconds.or(self.retry_after);
        self
    }

    /// HTTP status.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// What happened, for people.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// When the same may be asked again, in seconds.
    pub(crate) fn retry_after(&self) -> Option<u32> {
        self.retry_after
    }

    /// The stable name, for metrics: response extensions carry it.
    pub(crate) fn code(&self) -> &str {
        &self.code
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        match error {
            AskError::TooOften(much) => {
                Self::new(429, "too_many_requests", error.to_string()).after(Some(much.retry_after))
            }
            AskError::Enclave(error) => error.into(),
        }
    }
}

impl From<RequestError> for Problem {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Unavailable => Self::new(503, "enclave_unavailable", error.to_string()),
            RequestError::Busy => Self::new(503, "busy", error.to_string()),
            RequestError::Unrecorded => Self::new(503, "record_failed", error.to_string()),
            RequestError::Unstored(_) => Self::new(503, "state_not_stored", error.to_string()),
            RequestError::Timeout => Self::new(504, "enclave_timeout", error.to_string()),
            RequestError::Nonsense => Self::new(502, "enclave_nonsense", error.to_string()),
            RequestError::Refused(refusal) => {
                let status = match refusal.kind {
                    Kind::Invalid => 422,
                    Kind::Denied => 403,
                    Kind::NotFound => 404,
                    Kind::Conflict => 409,
                    Kind::Unavailable => 503,
                    Kind::Internal => 500,
                    Kind::Limited => 429,
                };
                Self::new(status, refusal.code, refusal.message).after(refusal.retry_after)
            }
        }
    }
}

impl From<StateError> for Problem {
    fn from(error: StateError) -> Self {
        let says = error.to_string();
        match error {
            StateError::Refused(refusal) => RequestError::Refused(refusal).into(),
            StateError::Unavailable => RequestError::Unavailable.into(),
            StateError::Exists => Self::new(409, "state_exists", says),
            StateError::NotStored(_) => Self::new(503, "state_not_stored", says),
            StateError::NoLine(_) => Self::new(503, "kms_not_reachable", says),
        }
    }
}

impl From<identity::Error> for Problem {
    fn from(error: identity::Error) -> Self {
        let status = if matches!(error, identity::Error::JsonMalformed(_)) {
            400
        } else {
            422
        };
        Self::new(status, error.code(), error.to_string())
    }
}

impl From<TurnedAway> for Problem {
    fn from(why: TurnedAway) -> Self {
        let (status, detail) = match why {
            TurnedAway::CallerUnknown => (403, "the kernel could not say who is calling"),
            TurnedAway::CallerGone => (403, "the process that connected has ended"),
            TurnedAway::TokenInvalid => (
                401,
                "a caller on localhost shows its token: Authorization: Bearer ...",
            ),
            TurnedAway::ForeignHost => (403, "the Host header is not that of this server"),
            TurnedAway::ForeignOrigin => (403, "requests of web pages are not answered"),
            TurnedAway::TooManyConnections => (
                429,
                "this caller connects too often, or has too many connections open",
            ),
        };
        let code: &'static str = why.into();
        Self::new(status, code, detail).after((status == 429).then_some(1))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use callers::TooMuch;
    use protocol::Refusal;
    use serde_json::{Value, json};

    use super::*;

    /// Status, code, when to ask again.
    fn told(problem: impl Into<Problem>) -> (u16, String, Option<u32>) {
        let problem = problem.into();
        let code = problem.code().to_owned();
        (problem.status, code, problem.retry_after)
    }

    fn expected(status: u16, code: &str, retry_after: Option<u32>) -> (u16, String, Option<u32>) {
        (status, code.to_owned(), retry_after)
    }

    #[test]
    fn each_kind_of_refusal_has_its_status_and_keeps_code_words_and_time_of_the_enclave() {
        for (kind, status, soon) in [
            (Kind::Invalid, 422, None),
            (Kind::Denied, 403, None),
            (Kind::NotFound, 404, None),
            (Kind::Conflict, 409, None),
            (Kind::Unavailable, 503, Some(1)),
            (Kind::Internal, 500, None),
            (Kind::Limited, 429, None),
        ] {
            let refusal = |retry_after| {
                RequestError::Refused(Refusal {
                    kind,
                    code: "some_code".into(),
                    message: "some words".into(),
                    retry_after,
                })
            };
            let problem = Problem::from(refusal(None));
            assert_eq!(problem.detail, "some words");
            assert_eq!(
                told(problem),
                expected(status, "some_code", soon),
                "{kind:?}"
            );
            let later = expected(status, "some_code", Some(60));
            assert_eq!(told(refusal(Some(60))), later, "{kind:?}");
        }
    }

    #[test]
    fn each_way_of_getting_no_answer_has_its_status_and_its_code() {
        for (error, status, code, retry_after) in [
            (
                RequestError::Unavailable,
                503,
                "enclave_unavailable",
                Some(1),
            ),
            (RequestError::Busy, 503, "busy", Some(1)),
            (RequestError::Unrecorded, 503, "record_failed", Some(1)),
            (RequestError::Timeout, 504, "enclave_timeout", None),
            (RequestError::Nonsense, 502, "enclave_nonsense", None),
        ] {
            let words = error.to_string();
            let problem = Problem::from(AskError::Enclave(error));
            assert_eq!(problem.detail, words);
            assert_eq!(told(problem), expected(status, code, retry_after));
        }
        let often = AskError::TooOften(TooMuch { retry_after: 9 });
        assert_eq!(told(often), expected(429, "too_many_requests", Some(9)));
    }

    #[test]
    fn who_is_turned_away_learns_why_and_only_who_came_too_often_when_to_come_again() {
        for (why, status, code, retry_after) in [
            (TurnedAway::CallerUnknown, 403, "caller_unknown", None),
            (TurnedAway::CallerGone, 403, "caller_gone", None),
            (TurnedAway::TokenInvalid, 401, "token_invalid", None),
            (TurnedAway::ForeignHost, 403, "foreign_host", None),
            (TurnedAway::ForeignOrigin, 403, "foreign_origin", None),
            (
                TurnedAway::TooManyConnections,
                429,
                "too_many_connections",
                Some(1),
            ),
        ] {
            assert_eq!(told(why), expected(status, code, retry_after));
        }
    }

    #[test]
    fn what_is_no_json_is_a_bad_request_and_what_it_says_wrongly_is_unprocessable() {
        use identity::Error;
        for (error, status, code) in [
            (Error::JsonMalformed("why".into()), 400, "json_malformed"),
            (Error::JsonShape("why".into()), 422, "json_shape"),
            (
                Error::JsonDuplicateKey("a".into()),
                422,
                "json_duplicate_key",
            ),
            (Error::Base64("it"), 422, "base64"),
            (Error::ScopeInvalid, 422, "scope_invalid"),
        ] {
            assert_eq!(told(error), expected(status, code, None));
        }
    }

    #[test]
    fn a_response_is_a_problem_with_the_headers_that_its_status_wants() {
        let problem = |status| Problem::new(status, "some_code", "some words");
        for (problem, status, retry_after, authenticate) in [
            (problem(422), 422, None, None),
            (problem(401), 401, None, Some("Bearer")),
            (problem(403), 403, None, None),
            (problem(503), 503, Some("1"), None),
            (problem(503).after(None), 503, Some("1"), None),
            (problem(503).after(Some(5)), 503, Some("5"), None),
            (problem(429), 429, None, None),
            (problem(429).after(Some(60)), 429, Some("60"), None),
        ] {
            let response = problem.into_response();
            assert_eq!(response.status(), status);
            let header = |name| {
                let value = response.headers().get(name);
                value.map(|value: &HeaderValue| value.to_str().unwrap())
            };
            assert_eq!(header(CONTENT_TYPE), Some("application/problem+json"));
            assert_eq!(header(RETRY_AFTER), retry_after, "{status}");
            assert_eq!(header(WWW_AUTHENTICATE), authenticate, "{status}");
            let kept = response.extensions().get::<Problem>().unwrap();
            assert_eq!(kept.code(), "some_code", "metrics and logs see it");
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let body = runtime
                .unwrap()
                .block_on(to_bytes(response.into_body(), 1000));
            let says = json!({
                "type": "urn:anchorhold:error:some_code",
                "title": "some code",
                "status": status,
                "code": "some_code",
                "detail": "some words",
            });
            assert_eq!(
                serde_json::from_slice::<Value>(&body.unwrap()).unwrap(),
                says
            );
        }
    }
}
