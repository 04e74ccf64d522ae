//! Request bodies: JSON, strict, within a size and a time.

use std::time::Duration;

use axum::body::{Body, Bytes};
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
        let bytes = collect(request.into_body(), MAX, BODY_TIMEOUT).await?;
        Ok(Self(json::parse_as(&bytes)?))
    }
}

/// All of a body, within a size and a time.
pub(super) async fn collect(body: Body, max: usize, within: Duration) -> Result<Bytes, Problem> {
    let collected = timeout(within, Limited::new(body, max).collect()).await;
    let collected = collected.map_err(|_| {
        let seconds = within.as_secs();
        let says = format!("the body did not arrive within {seconds} seconds");
        Problem::new(408, "body_too_slow", says)
    })?;
    let collected = collected.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            let says = format!("the body is larger than {max} bytes");
            Problem::new(413, "body_too_large", says)
        } else {
            Problem::new(400, "body_broken", "the body did not arrive whole")
        }
    })?;
    Ok(collected.to_bytes())
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

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::http::HeaderValue;
    use hyper::body::Frame;
    use serde::Deserialize;

    use super::*;

    const MAX: usize = 64;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        amount: u64,
        #[serde(default)]
        of: Option<String>,
    }

    /// The body, or status and code of the refusal.
    fn read(kind: Option<&[u8]>, body: impl Into<Body>) -> Result<Order, (u64, String)> {
        let mut request = Request::new(body.into());
        if let Some(kind) = kind {
            let kind = HeaderValue::from_bytes(kind).unwrap();
            request.headers_mut().insert(CONTENT_TYPE, kind);
        }
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().build().unwrap();
        let strict = runtime.block_on(Strict::<Order, MAX>::from_request(request, &()));
        strict.map(|Strict(order)| order).map_err(|problem| {
            let status = serde_json::to_value(&problem).unwrap()["status"].as_u64();
            (status.unwrap(), problem.code().to_owned())
        })
    }

    fn refused<T>(status: u64, code: &str) -> Result<T, (u64, String)> {
        Err((status, code.to_owned()))
    }

    /// A body that breaks off after its first bytes.
    struct Broken(Option<&'static [u8]>);

    impl hyper::body::Body for Broken {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
            let next = self.0.take().map(Bytes::from_static).map(Frame::data);
            Poll::Ready(Some(next.ok_or(std::io::ErrorKind::ConnectionReset.into())))
        }
    }

    #[test]
    fn a_body_is_json_only_if_it_says_so() {
        let order = || Order {
            amount: 1,
            of: None,
        };
        for kind in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            " application/json ;x",
        ] {
            let read = read(Some(kind.as_bytes()), "{\"amount\":1}");
            assert_eq!(read, Ok(order()), "{kind}");
        }
        for kind in [
            None,
            Some(&b""[..]),
            Some(b"text/plain"),
            Some(b"application/jsonp"),
            Some(b"application/problem+json"),
            Some(b"application/json, text/plain"),
            Some(b"text/plain; application/json"),
            Some(b"application/json\xff"),
            Some(b"application/x-www-form-urlencoded"),
        ] {
            // What a page may send without asking is not even looked at.
            let read = read(kind, "{\"amount\":1}");
            assert_eq!(read, refused(415, "content_type_not_json"), "{kind:?}");
        }
    }

    #[test]
    fn a_body_is_no_longer_than_its_bound_and_comes_whole() {
        let padded = |length| format!("{:length$}", "{\"amount\":1}");
        let json = Some(&b"application/json"[..]);
        assert!(read(json, padded(MAX)).is_ok());
        let long = read(json, padded(MAX + 1));
        assert_eq!(long, refused(413, "body_too_large"));
        // What was sent before is a whole order, but who knows what was to follow.
        let broken = read(json, Body::new(Broken(Some(b"{\"amount\":1}"))));
        assert_eq!(broken, refused(400, "body_broken"));
    }

    #[test]
    fn a_body_says_each_thing_once_and_nothing_that_readers_would_take_differently() {
        for (body, expected) in [
            ("{\"amount\":1,\"of\":\"x\"}", Ok((1, Some("x")))),
            (" {\"of\":null,\n\"amount\":1 } ", Ok((1, None))),
            (
                "{\"amount\":9007199254740991}",
                Ok((9_007_199_254_740_991, None)),
            ),
            ("", Err((400, "json_malformed"))),
            ("{\"amount\":1", Err((400, "json_malformed"))),
            ("{\"amount\":1}{}", Err((400, "json_malformed"))),
            ("{'amount':1}", Err((400, "json_malformed"))),
            ("{\"amount\":01}", Err((400, "json_malformed"))),
            ("amount=1", Err((400, "json_malformed"))),
            (
                "{\"amount\":1,\"amount\":1}",
                Err((422, "json_duplicate_key")),
            ),
            (
                "{\"amount\":1,\"\\u0061mount\":2}",
                Err((422, "json_duplicate_key")),
            ),
            ("{\"amount\":1.0}", Err((422, "json_float"))),
            ("{\"amount\":1e1}", Err((422, "json_float"))),
            (
                "{\"amount\":9007199254740992}",
                Err((422, "json_integer_range")),
            ),
            ("{\"amount\":-1}", Err((422, "json_shape"))),
            ("{\"amount\":\"1\"}", Err((422, "json_shape"))),
            ("{\"amount\":1,\"to\":\"x\"}", Err((422, "json_shape"))),
            ("{\"of\":\"x\"}", Err((422, "json_shape"))),
            ("{}", Err((422, "json_shape"))),
            ("[1]", Err((422, "json_shape"))),
            ("[1,\"x\"]", Err((422, "json_shape"))),
            ("null", Err((422, "json_shape"))),
            ("\"amount\"", Err((422, "json_shape"))),
        ] {
            let expected = match expected {
                Ok((amount, of)) => Ok(Order {
                    amount,
                    of: of.map(str::to_owned),
                }),
                Err((status, code)) => refused(status, code),
            };
            let read = read(Some(b"application/json"), body);
            assert_eq!(read, expected, "{body}");
        }
        let read = read(Some(b"application/json"), &b"{\"of\":\"\xff\"}"[..]);
        assert_eq!(read, refused(400, "json_malformed"), "not UTF-8");
    }
}
