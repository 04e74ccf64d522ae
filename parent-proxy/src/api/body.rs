//! Request bodies: JSON, strict, within a size and a time.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Limited};
use identity::json;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::Problem;

/// For the whole body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A JSON body of at most `MAX` bytes: no duplicate keys, no floats, no integers beyond 2^53-1, no unknown members.
pub(crate) struct Strict<T, const MAX: usize>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned, const MAX: usize> FromRequest<S> for Strict<T, MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if !is_json(&request) {
            return Err(Problem::new(
                415,
                "content_type_not_json",
                "the body must be sent as application/json",
            ));
        }
        let collected = timeout(
            BODY_TIMEOUT,
            Limited::new(request.into_body(), MAX).collect(),
        )
        .await;
        let collected = collected.map_err(|_| {
            Problem::new(
                408,
                "body_too_slow",
                "the body did not arrive within ten seconds",
            )
        })?;
        let bytes = collected.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Problem::new(
                    413,
                    "body_too_large",
                    format!("the body is larger than {MAX} bytes"),
                )
            } else {
                Problem::new(400, "body_broken", "the body did not arrive whole")
            }
        })?;
        Ok(Self(json::parse_as(&bytes.to_bytes())?))
    }
}

fn is_json(request: &Request) -> bool {
    let value = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}
