//! The tower layer, and its service.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Request};
use axum::response::{IntoResponse, Response};
use futures_util::future::Either;
use tower::{Layer, Service};

use crate::{Error, Guard, Purpose};

/// A layer that lets a call through only with a token that the guard admits (`Authorization: Bearer
/// TOKEN`). The handler finds [`Admitted`](crate::Admitted) among the call's extensions. Others get
/// a problem (RFC 9457) with 401, 403 or 503.
#[derive(Clone)]
pub struct RequireToken {
    guard: Arc<Guard>,
    purpose: Purpose,
}

impl RequireToken {
    /// Of this guard.
    pub fn new(guard: Arc<Guard>) -> Self {
        Self {
            guard,
            purpose: Purpose::default(),
        }
    }

    /// The same, only for what was signed on somebody's behalf with this word as its action:
    /// [`Purpose::scope`].
    #[must_use]
    pub fn scope(self, word: &str) -> Self {
        Self {
            purpose: self.purpose.scope(word),
            ..self
        }
    }

    /// The same, and also for tokens that `POST /token` issued. No rule of the agent's policy
    /// allowed what is done by one: read [`Purpose::delegated`] first.
    #[must_use]
    pub fn delegated(self) -> Self {
        Self {
            purpose: self.purpose.delegated(),
            ..self
        }
    }
}

impl<S> Layer<S> for RequireToken {
    type Service = TokenService<S>;

    fn layer(&self, inner: S) -> TokenService<S> {
        TokenService {
            guard: Arc::clone(&self.guard),
            purpose: self.purpose.clone(),
            inner,
        }
    }
}

/// A service behind [`RequireToken`].
#[derive(Clone)]
pub struct TokenService<S> {
    guard: Arc<Guard>,
    purpose: Purpose,
    inner: S,
}

impl<S, B> Service<Request<B>> for TokenService<S>
where
    S: Service<Request<B>, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response, S::Error>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match bearer(request.headers()).and_then(|token| self.guard.admit_for(token, &self.purpose))
        {
            Ok(admitted) => {
                request.extensions_mut().insert(admitted);
                Either::Right(self.inner.call(request))
            }
            Err(error) => Either::Left(ready(Ok(error.into_response()))),
        }
    }
}

/// The one Bearer token of a call (RFC 6750 section 2.1); the scheme's name has no case (RFC 9110
/// section 11.1).
fn bearer(headers: &HeaderMap) -> Result<&str, Error> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(if headers.contains_key(AUTHORIZATION) {
            Error::AuthorizationMalformed
        } else {
            Error::TokenAbsent
        });
    };
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .ok_or(Error::AuthorizationMalformed)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        Ok(token)
    } else {
        Err(Error::AuthorizationMalformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bearer_token_is_read_and_nothing_else() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(of(&["Bearer a.b.c"]), Ok("a.b.c".into()));
        assert_eq!(of(&["bEARER a.b.c"]), Ok("a.b.c".into()));
        assert_eq!(of(&[]), Err(Error::TokenAbsent));
        for wrong in [
            &["Basic YTpi"][..],
            &["a.b.c"],
            &["Bearer"],
            &[""],
            &["Bearer a", "Bearer a"],
        ] {
            assert_eq!(of(wrong), Err(Error::AuthorizationMalformed), "{wrong:?}");
        }
        let mut headers = HeaderMap::new();
        headers.append(
            AUTHORIZATION,
            axum::http::HeaderValue::from_bytes(b"Bearer \xff").unwrap(),
        );
        assert_eq!(bearer(&headers), Err(Error::AuthorizationMalformed));
    }
}
