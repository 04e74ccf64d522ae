//! Token exchange (RFC 8693): a caller's identity takes up what somebody delegated.

use std::sync::Arc;
use std::time::Duration;

use ::identity::request::EXCHANGE;
use axum::Json;
use axum::extract::{FromRequest, Request as HttpRequest, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use protocol::{Answer, Exchange, Kind, PresentedProof, Request, Requester};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::sign::{UNEXPECTED_PROOF, decode_proof};
use super::{Anyone, App, AskError, Problem};
use enclave_client::RequestError;

const MAX_BODY: usize = 32 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// The parameters of RFC 8693 section 2.1, as a form. The actor is the caller's identity.
#[derive(Debug, Default, ToSchema)]
#[expect(dead_code, reason = "describes the form to OpenAPI")]
pub(crate) struct TokenRequest {
    /// `urn:ietf:params:oauth:grant-type:token-exchange`.
    grant_type: String,
    /// The token of the one who delegates: a JWT of an issuer that the annex names, or a token from here.
    subject_token: String,
    /// `urn:ietf:params:oauth:token-type:jwt` or `...:access_token`.
    subject_token_type: String,
    /// The same two.
    requested_token_type: Option<String>,
    /// For whom the new token is made.
    audience: Option<String>,
    /// What it is limited to; within what the subject token is limited to.
    resource: Option<String>,
    /// Words, each of the subject token's scope.
    scope: Option<String>,
    /// Name of the identity that acts. May be left out by a caller that may use only one.
    identity: Option<String>,
    /// The caller's own signature over this request, if it has a key: a JWS of type `anchorhold-request+jwt`.
    actor_token: Option<String>,
    /// `urn:ietf:params:oauth:token-type:jwt`, beside `actor_token`.
    actor_token_type: Option<String>,
    /// The attestation document of the caller's enclave, base64url, whose public key signed.
    actor_attestation: Option<String>,
}

/// RFC 8693 section 2.2.1.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenResponse {
    /// A Vouch token with `sub`, `act` and `scope`.
    access_token: String,
    /// `urn:ietf:params:oauth:token-type:access_token`.
    issued_token_type: &'static str,
    /// `Bearer`.
    token_type: &'static str,
    /// Seconds, by the enclave's clock.
    expires_in: i64,
    /// What remains of the scope.
    scope: String,
}

/// RFC 6749 section 5.2, with the code of the refusal beside it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenError {
    /// `invalid_request`, `invalid_grant`, `invalid_scope`, `invalid_target`, `unauthorized_client`, `unsupported_grant_type`,
    /// or `temporarily_unavailable`.
    error: &'static str,
    /// For people.
    error_description: String,
    /// Stable snake_case name.
    code: String,
}

/// A refusal of this endpoint.
pub(crate) struct Refused {
    status: StatusCode,
    body: TokenError,
    retry_after: Option<u32>,
}

impl Refused {
    fn new(error: &'static str, code: &str, description: impl Into<String>) -> Self {
        let status = match error {
            "unauthorized_client" => StatusCode::FORBIDDEN,
            "temporarily_unavailable" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        let body = TokenError {
            error,
            error_description: description.into(),
            code: code.to_owned(),
        };
        Self {
            status,
            body,
            retry_after: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let problem = Problem::new(self.status.as_u16(), self.body.code.clone(), "");
        let mut response = (self.status, Json(self.body)).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // For metrics and logs.
        response.extensions_mut().insert(problem);
        response
    }
}

impl From<AskError> for Refused {
    fn from(error: AskError) -> Self {
        match error {
            AskError::TooOften(much) => {
                let mut refused = Self::new(
                    "temporarily_unavailable",
                    "too_many_requests",
                    error.to_string(),
                );
                refused.retry_after = Some(much.retry_after);
                refused
            }
            AskError::Enclave(error) => error.into(),
        }
    }
}

impl From<RequestError> for Refused {
    fn from(error: RequestError) -> Self {
        let text = error.to_string();
        let refusal = match error {
            RequestError::Refused(refusal) => refusal,
            _ => return Self::new("temporarily_unavailable", "enclave_unavailable", text),
        };
        let error = match (refusal.code.as_str(), refusal.kind) {
            ("scope_exceeds_parent" | "scope_not_allowed" | "scope_invalid", _) => "invalid_scope",
            (
                "resource_exceeds_parent"
                | "resource_not_canonical"
                | "target_not_allowed"
                | "environment_mismatch"
                | "audience_invalid"
                | "audience_not_allowed",
                _,
            ) => "invalid_target",
            (
                "caller_not_allowed" | "caller_not_proven" | "unknown_identity" | "proof_invalid",
                _,
            ) => "unauthorized_client",
            ("identity_required", _) => "invalid_request",
            (_, Kind::Unavailable | Kind::Internal | Kind::Limited) => "temporarily_unavailable",
            _ => "invalid_grant",
        };
        let retry_after = refusal.retry_after;
        let mut refused = Self::new(error, &refusal.code, refusal.message);
        refused.retry_after = retry_after.or(refused.retry_after);
        refused
    }
}

/// A form, strictly: each parameter once, and none that is not known here.
#[derive(Debug, Default)]
pub(crate) struct ExchangeForm {
    values: std::collections::BTreeMap<String, String>,
}

const PARAMETERS: [&str; 11] = [
    "grant_type",
    "subject_token",
    "subject_token_type",
    "requested_token_type",
    "audience",
    "resource",
    "scope",
    "identity",
    "actor_token",
    "actor_token_type",
    "actor_attestation",
];

impl<S: Sync> FromRequest<S> for ExchangeForm {
    type Rejection = Refused;

    async fn from_request(request: HttpRequest, _: &S) -> Result<Self, Refused> {
        let invalid = |code, says: &str| Refused::new("invalid_request", code, says);
        let kind = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if !kind
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .eq_ignore_ascii_case("application/x-www-form-urlencoded")
        {
            return Err(invalid(
                "content_type_not_form",
                "the body must be sent as application/x-www-form-urlencoded",
            ));
        }
        let body = timeout(
            BODY_TIMEOUT,
            Limited::new(request.into_body(), MAX_BODY).collect(),
        )
        .await;
        let body = body.map_err(|_| {
            invalid(
                "body_too_slow",
                "the body did not arrive within ten seconds",
            )
        })?;
        let body = body.map_err(|_| {
            invalid(
                "body_too_large",
                "the body is larger than 32768 bytes, or did not arrive whole",
            )
        })?;
        let mut values = std::collections::BTreeMap::new();
        for (name, value) in form_urlencoded::parse(&body.to_bytes()) {
            if !PARAMETERS.contains(&name.as_ref()) {
                // RFC 6749 section 3.2: unrecognized parameters are ignored.
                continue;
            }
            if values
                .insert(name.into_owned(), value.into_owned())
                .is_some()
            {
                return Err(invalid("parameter_twice", "a parameter stands twice"));
            }
        }
        // RFC 6749 section 3.2: parameters without a value are as if they were left out.
        values.retain(|_, value: &mut String| !value.is_empty());
        Ok(Self { values })
    }
}

impl ExchangeForm {
    fn take(&mut self, name: &str) -> Option<String> {
        self.values.remove(name)
    }

    fn exchange(
        mut self,
        of: impl FnOnce(Option<String>) -> Requester,
    ) -> Result<Exchange, Refused> {
        match self.take("grant_type").as_deref() {
            Some(EXCHANGE) => {}
            Some(_) => {
                return Err(Refused::new(
                    "unsupported_grant_type",
                    "grant_type",
                    "only token exchange is done here",
                ));
            }
            None => {
                return Err(Refused::new(
                    "invalid_request",
                    "grant_type",
                    "grant_type is missing",
                ));
            }
        }
        let known = |kind: &str| [JWT, ACCESS_TOKEN].contains(&kind);
        if !self
            .take("subject_token_type")
            .as_deref()
            .is_some_and(known)
        {
            let says = "subject_token_type is urn:ietf:params:oauth:token-type:jwt or access_token";
            return Err(Refused::new("invalid_request", "subject_token_type", says));
        }
        if self
            .take("requested_token_type")
            .as_deref()
            .is_some_and(|kind| !known(kind))
        {
            return Err(Refused::new(
                "invalid_request",
                "requested_token_type",
                "only JWTs are issued here",
            ));
        }
        let proof = self.proof()?;
        let subject_token = self.take("subject_token");
        let missing = || {
            Refused::new(
                "invalid_request",
                "subject_token",
                "subject_token is missing",
            )
        };
        Ok(Exchange {
            requester: of(self.take("identity")),
            subject_token: subject_token.ok_or_else(missing)?,
            scope: self.take("scope"),
            resource: self.take("resource"),
            audience: self.take("audience"),
            proof,
        })
    }

    /// What a caller with a key of its own shows. RFC 8693 section 2.1: `actor_token` and its type stand together.
    fn proof(&mut self) -> Result<Option<PresentedProof>, Refused> {
        let kind = self.take("actor_token_type");
        let (jws, document) = (self.take("actor_token"), self.take("actor_attestation"));
        match (jws, kind.as_deref()) {
            (None, None) if document.is_none() => Ok(None),
            (Some(jws), Some(JWT)) => match decode_proof(jws, document.as_deref()) {
                Ok(proof) => Ok(Some(proof)),
                Err(error) => Err(Refused::new(
                    "invalid_request",
                    error.code(),
                    error.to_string(),
                )),
            },
            _ => Err(Refused::new(
                "invalid_request",
                "actor_token",
                "actor_token is the caller's own signature over this request, of the type urn:ietf:params:oauth:token-type:jwt",
            )),
        }
    }
}

/// Take up a delegation
///
/// RFC 8693 token exchange. The new token says on whose behalf (`sub`), through whom (`act`), and within what (`scope`, resource, time).
#[utoipa::path(
    post,
    path = "/token",
    request_body(content = TokenRequest, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, body = TokenResponse),
        (status = 400, body = TokenError),
        (status = 403, body = TokenError),
        (status = 503, body = TokenError),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn token(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    form: ExchangeForm,
) -> Result<Response, Refused> {
    let exchange = form.exchange(|identity| Requester {
        caller: caller.claim,
        identity,
    })?;
    // A caller that proves itself to the enclave need not be one whom this side knows.
    let may_prove = exchange
        .proof
        .as_ref()
        .map(|proof| app.admission.expects_proof(proof));
    if may_prove == Some(false) {
        return Err(Refused::new(
            "unauthorized_client",
            "proof_invalid",
            UNEXPECTED_PROOF,
        ));
    }
    if !caller.admitted && may_prove.is_none() {
        return Err(Refused::new(
            "unauthorized_client",
            "caller_not_allowed",
            "the policy names no identity for this caller",
        ));
    }
    let Answer::Signed(signed) = app.ask(&caller.quota, Request::Exchange(exchange)).await? else {
        return Err(RequestError::Nonsense.into());
    };
    let issued = ::identity::token::unverified_claims(&signed.signed)
        .map_or(signed.expires_at, |claims| claims.iat);
    let answer = TokenResponse {
        access_token: signed.signed,
        issued_token_type: ACCESS_TOKEN,
        token_type: "Bearer",
        expires_in: signed.expires_at - issued,
        scope: signed.scope.unwrap_or_default(),
    };
    Ok((
        [(CACHE_CONTROL, HeaderValue::from_static("no-store"))],
        Json(answer),
    )
        .into_response())
}
