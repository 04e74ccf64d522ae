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

/// A form: each parameter once. Those that are not known here are ignored (RFC 6749 section 3.2).
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

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use callers::TooMuch;
    use identity::caller::ObservedCaller;
    use protocol::Refusal;
    use serde_json::{Value, json};

    use super::*;

    const FORM: &str = "application/x-www-form-urlencoded";
    /// What every exchange says, unless it is left out to see what comes of it.
    const NEEDED: [(&str, &str); 3] = [
        ("grant_type", EXCHANGE),
        ("subject_token", "a.b.c"),
        ("subject_token_type", JWT),
    ];

    /// `error` and `code`; each of them here is a 400.
    type Why = (&'static str, String);

    fn why(refused: &Refused) -> Why {
        assert_eq!(refused.status, 400);
        assert_eq!(refused.retry_after, None);
        (refused.body.error, refused.body.code.clone())
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(future)
    }

    fn read(kind: Option<&str>, body: impl Into<Body>) -> Result<ExchangeForm, Why> {
        let mut request = HttpRequest::new(body.into());
        if let Some(kind) = kind {
            let kind = HeaderValue::from_str(kind).unwrap();
            request.headers_mut().insert(CONTENT_TYPE, kind);
        }
        block_on(ExchangeForm::from_request(request, &())).map_err(|refused| why(&refused))
    }

    /// The parameters of this body, as `name=value`.
    fn values(body: &str) -> Result<Vec<String>, Why> {
        let form = read(Some(FORM), body.to_owned())?;
        let pair = |(name, value): (&String, &String)| format!("{name}={value}");
        Ok(form.values.iter().map(pair).collect())
    }

    /// What is asked of the enclave by what is needed, and by these in its place or beside it.
    fn exchange(changed: &[(&str, &str)]) -> Result<Exchange, Why> {
        let kept = NEEDED
            .iter()
            .filter(|(name, _)| !changed.iter().any(|(other, _)| name == other));
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(kept.chain(changed));
        let caller = ObservedCaller::named("crew");
        read(Some(FORM), body.finish())?
            .exchange(|identity| Requester { caller, identity })
            .map_err(|refused| why(&refused))
    }

    fn invalid<T>(code: &str) -> Result<T, Why> {
        Err(("invalid_request", code.to_owned()))
    }

    #[test]
    fn a_body_is_a_form_only_if_it_says_so() {
        for kind in [
            FORM,
            "Application/X-WWW-Form-Urlencoded",
            "application/x-www-form-urlencoded; charset=UTF-8",
            " application/x-www-form-urlencoded ;x",
        ] {
            assert!(read(Some(kind), "").is_ok(), "{kind}");
        }
        for kind in [
            None,
            Some(""),
            Some("application/json"),
            Some("application/x-www-form-urlencoded2"),
            Some("application/x-www-form-urlencoded, text/plain"),
            Some("text/plain; application/x-www-form-urlencoded"),
            Some("application/x-www-form-urlencod\u{e9}"),
        ] {
            let read = read(kind, "").map(|_| ());
            assert_eq!(read, invalid("content_type_not_form"), "{kind:?}");
        }
    }

    #[test]
    fn a_body_is_at_most_32_kib() {
        let body = |length| format!("scope={}", "a".repeat(length - "scope=".len()));
        assert!(read(Some(FORM), body(32768)).is_ok());
        let read = read(Some(FORM), body(32769)).map(|_| ());
        assert_eq!(read, invalid("body_too_large"));
    }

    #[test]
    fn a_parameter_stands_once_and_one_that_is_empty_or_unknown_as_if_it_did_not() {
        for (body, expected) in [
            ("", &[][..]),
            ("scope=read", &["scope=read"]),
            ("scope=read&audience=x", &["audience=x", "scope=read"]),
            // Spelled in another way, but the same.
            ("%73cope=a+b%26", &["scope=a b&"]),
            ("scope=a=b", &["scope=a=b"]),
            // RFC 6749 section 3.2.
            ("scope=&audience=", &[]),
            ("scope", &[]),
            ("colour=red&colour=red&Scope=x&=y&&", &[]),
            ("scope=%20", &["scope= "]),
        ] {
            let expected = expected.iter().map(|pair| (*pair).to_owned()).collect();
            assert_eq!(values(body), Ok(expected), "{body}");
        }
        for twice in [
            "scope=a&scope=b",
            "scope=a&scope=a",
            "scope=a&audience=x&%73cope=b",
            "scope=&scope=a",
            "scope&scope",
        ] {
            assert_eq!(values(twice), invalid("parameter_twice"), "{twice}");
        }
        for name in PARAMETERS {
            assert_eq!(values(&format!("{name}=x")), Ok(vec![format!("{name}=x")]));
        }
    }

    #[test]
    fn what_the_caller_wrote_reaches_the_enclave_each_in_its_place() {
        let caller = ObservedCaller::named("crew");
        let least = Exchange {
            requester: Requester {
                caller: caller.clone(),
                identity: None,
            },
            subject_token: "a.b.c".into(),
            scope: None,
            resource: None,
            audience: None,
            proof: None,
        };
        assert_eq!(exchange(&[]), Ok(least.clone()));
        for kind in [JWT, ACCESS_TOKEN] {
            let kinds = [("subject_token_type", kind), ("requested_token_type", kind)];
            assert_eq!(exchange(&kinds), Ok(least.clone()), "{kind}");
        }
        let all = [
            ("identity", "agent"),
            ("scope", "read write"),
            ("resource", "urn:x"),
            ("audience", "b"),
            ("actor_token", "d.e.f"),
            ("actor_token_type", JWT),
            ("actor_attestation", "AQI"),
        ];
        let most = Exchange {
            requester: Requester {
                caller,
                identity: Some("agent".into()),
            },
            subject_token: "a.b.c".into(),
            scope: Some("read write".into()),
            resource: Some("urn:x".into()),
            audience: Some("b".into()),
            proof: Some(PresentedProof {
                jws: "d.e.f".into(),
                document: Some(vec![1, 2]),
            }),
        };
        assert_eq!(exchange(&all), Ok(most.clone()));
        let without_document = Exchange {
            proof: Some(PresentedProof {
                jws: "d.e.f".into(),
                document: None,
            }),
            ..most
        };
        assert_eq!(exchange(&all[..6]), Ok(without_document));
    }

    #[test]
    fn what_is_missing_or_of_another_kind_is_refused_by_its_name() {
        const OTHER: &str = "urn:ietf:params:oauth:token-type:saml2";
        for (changed, code) in [
            (&[("grant_type", "")][..], "grant_type"),
            (&[("subject_token", "")], "subject_token"),
            (&[("subject_token_type", "")], "subject_token_type"),
            (&[("subject_token_type", OTHER)], "subject_token_type"),
            (&[("subject_token_type", "jwt")], "subject_token_type"),
            (&[("requested_token_type", OTHER)], "requested_token_type"),
            // The caller's own signature and its type stand together.
            (&[("actor_token", "d.e.f")], "actor_token"),
            (&[("actor_token_type", JWT)], "actor_token"),
            (&[("actor_attestation", "AQI")], "actor_token"),
            (
                &[("actor_token_type", JWT), ("actor_attestation", "AQI")],
                "actor_token",
            ),
            (
                &[("actor_token", "d.e.f"), ("actor_attestation", "AQI")],
                "actor_token",
            ),
            (
                &[("actor_token", "d.e.f"), ("actor_token_type", ACCESS_TOKEN)],
                "actor_token",
            ),
            (
                &[
                    ("actor_token", "d.e.f"),
                    ("actor_token_type", JWT),
                    ("actor_attestation", "AQI="),
                ],
                "base64",
            ),
        ] {
            assert_eq!(exchange(changed), invalid(code), "{changed:?}");
        }
        for grant in ["password", "authorization_code", JWT] {
            let refused = exchange(&[("grant_type", grant)]);
            let why = ("unsupported_grant_type", "grant_type".to_owned());
            assert_eq!(refused, Err(why), "{grant}");
        }
    }

    #[test]
    fn each_refusal_of_the_enclave_has_the_name_that_oauth_gives_it() {
        const NOW: &str = "temporarily_unavailable";
        let refusal = |kind, code: &str, retry_after| {
            RequestError::Refused(Refusal {
                kind,
                code: code.into(),
                message: "why".into(),
                retry_after,
            })
        };
        for (codes, kind, error, status) in [
            (
                &["scope_exceeds_parent", "scope_not_allowed", "scope_invalid"][..],
                Kind::Denied,
                "invalid_scope",
                400,
            ),
            (
                &[
                    "resource_exceeds_parent",
                    "resource_not_canonical",
                    "target_not_allowed",
                    "environment_mismatch",
                    "audience_invalid",
                    "audience_not_allowed",
                ],
                Kind::Denied,
                "invalid_target",
                400,
            ),
            (
                &[
                    "caller_not_allowed",
                    "caller_not_proven",
                    "unknown_identity",
                    "proof_invalid",
                ],
                Kind::Denied,
                "unauthorized_client",
                403,
            ),
            // The code counts before the kind.
            (
                &["unknown_identity"],
                Kind::NotFound,
                "unauthorized_client",
                403,
            ),
            (&["scope_invalid"], Kind::Limited, "invalid_scope", 400),
            (&["identity_required"], Kind::Denied, "invalid_request", 400),
            (&["other"], Kind::Unavailable, NOW, 503),
            (&["other"], Kind::Internal, NOW, 503),
            (&["other"], Kind::Limited, NOW, 503),
            (&["other"], Kind::Invalid, "invalid_grant", 400),
            (&["other"], Kind::Denied, "invalid_grant", 400),
            (&["other"], Kind::NotFound, "invalid_grant", 400),
            (&["other"], Kind::Conflict, "invalid_grant", 400),
        ] {
            for code in codes {
                let refused = Refused::from(refusal(kind, code, None));
                let told = (refused.body.error, refused.status.as_u16());
                assert_eq!(told, (error, status), "{code} {kind:?}");
                let said = (&*refused.body.code, &*refused.body.error_description);
                assert_eq!(said, (*code, "why"));
                let soon = (status == 503).then_some(1);
                assert_eq!(refused.retry_after, soon, "{code} {kind:?}");
                let later = Refused::from(refusal(kind, code, Some(7)));
                assert_eq!(later.retry_after, Some(7), "{code} {kind:?}");
            }
        }
    }

    #[test]
    fn whoever_gets_no_answer_of_the_enclave_is_told_to_ask_again() {
        for error in [
            RequestError::Unavailable,
            RequestError::Busy,
            RequestError::Unrecorded,
            RequestError::Timeout,
            RequestError::Nonsense,
        ] {
            let text = error.to_string();
            let refused = Refused::from(AskError::Enclave(error));
            assert_eq!(refused.status, 503);
            assert_eq!(refused.retry_after, Some(1));
            assert_eq!(refused.body.error, "temporarily_unavailable");
            assert_eq!(refused.body.code, "enclave_unavailable");
            assert_eq!(refused.body.error_description, text);
        }
        let refused = Refused::from(AskError::TooOften(TooMuch { retry_after: 9 }));
        assert_eq!(refused.status, 503);
        assert_eq!(refused.retry_after, Some(9));
        assert_eq!(refused.body.error, "temporarily_unavailable");
        assert_eq!(refused.body.code, "too_many_requests");
    }

    #[test]
    fn a_refusal_is_never_stored_and_says_its_code_to_people_and_metrics() {
        for (error, status, retry_after) in [
            ("invalid_grant", 400, None),
            ("unauthorized_client", 403, None),
            ("temporarily_unavailable", 503, Some("1")),
        ] {
            let response = Refused::new(error, "the_code", "the reason").into_response();
            assert_eq!(response.status(), status);
            let header = |name| {
                let value = response.headers().get(name);
                value.map(|value: &HeaderValue| value.to_str().unwrap())
            };
            assert_eq!(header(CACHE_CONTROL), Some("no-store"));
            assert_eq!(header(RETRY_AFTER), retry_after);
            assert_eq!(header(CONTENT_TYPE), Some("application/json"));
            let problem = response.extensions().get::<Problem>().unwrap();
            assert_eq!(problem.code(), "the_code");
            let body = block_on(to_bytes(response.into_body(), 1000)).unwrap();
            let says =
                json!({"error": error, "error_description": "the reason", "code": "the_code"});
            assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), says);
        }
    }
}
