//! `POST /sign`.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64URL_NOPAD;
use identity::caller::ObservedCaller;
use identity::{Format, Intent, Payload, UnixSeconds};
use protocol::{Answer, PresentedProof, Request, Requester, Sign};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::approvals::{self, WaitingResponse};
use super::body::Strict;
use super::{Anyone, App, Problem};
use crate::metrics::{Signed, fingerprint};
use callers::Caller;
use enclave_client::RequestError;

/// Of a proof that cannot be one.
pub(super) const UNEXPECTED_PROOF: &str =
    "the policy names no caller with the key, or the enclave, of this proof";
/// A larger body is refused; what fits here also fits through the window.
const MAX_BODY: usize = 32 * 1024;

/// What is to be signed, and for what.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "payload": {"amount": 12},
    "intent": {"action": "pay", "target": "account-7", "resource": "https://bank.example/transfers"},
}))]
pub(crate) struct SignRequest {
    /// The caller's JSON object. No floats, no integers beyond 2^53-1, no duplicate keys.
    #[schema(value_type = Object)]
    payload: Payload,
    /// `{action, target, resource}`, or a string, which is then the action.
    #[schema(value_type = IntentSchema)]
    intent: Intent,
    /// For whom it is made: JWS `aud`, credential `proof.domain`.
    #[serde(default)]
    audience: Option<String>,
    /// Form of the result.
    #[serde(default)]
    #[schema(value_type = FormatSchema)]
    format: Format,
    /// Validity in seconds. Left out: 300, or less if the policy allows less.
    #[serde(default)]
    #[schema(minimum = 1)]
    validity_seconds: Option<u32>,
    /// Name of the identity. May be left out by a caller that may use only one.
    #[serde(default)]
    identity: Option<String>,
    /// To ask on somebody's behalf: a token from `POST /token`, within its scope, resource and time; or, for a `vouch-credential`, an
    /// array of the grants (credentials) by which it was granted, root first.
    #[serde(default)]
    #[schema(value_type = Option<DelegationSchema>)]
    delegation: Option<Value>,
    /// Id of the approval that this very request waited for.
    #[serde(default)]
    approval: Option<String>,
    /// The caller's own signature over this request, if the policy names it with a key: then the enclave knows that it asked.
    #[serde(default)]
    proof: Option<Proof>,
}

/// A caller's own signature over its request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Proof {
    /// A compact JWS of type `anchorhold-request+jwt` over boot, key version and the digest of the request.
    jws: String,
    /// The attestation document of the caller's enclave, base64url, whose public key signed.
    #[serde(default)]
    attestation: Option<String>,
}

impl Proof {
    fn decode(self) -> Result<PresentedProof, identity::Error> {
        decode_proof(self.jws, self.attestation.as_deref())
    }
}

/// What a caller shows for itself. One that proves itself to the enclave need not be one whom this side knows; any
/// other must be. `expects` tells whether anybody could be named by a proof; the enclave does not learn of others.
pub(super) fn shown(
    caller: &Caller,
    proof: Option<Proof>,
    expects: impl FnOnce(&PresentedProof) -> bool,
) -> Result<Option<PresentedProof>, Problem> {
    let proof = proof.map(Proof::decode).transpose()?;
    match &proof {
        Some(proof) if !expects(proof) => Err(Problem::new(403, "proof_invalid", UNEXPECTED_PROOF)),
        None if !caller.admitted => Err(super::not_admitted()),
        _ => Ok(proof),
    }
}

/// A proof, and the attestation document of the caller's enclave in base64url.
pub(super) fn decode_proof(
    jws: String,
    attestation: Option<&str>,
) -> Result<PresentedProof, identity::Error> {
    let document = attestation
        .map(|text| BASE64URL_NOPAD.decode(text.as_bytes()))
        .transpose();
    let document = document.map_err(|_| identity::Error::Base64("the attestation document"))?;
    Ok(PresentedProof { jws, document })
}

/// A token, or grants.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes a delegation to OpenAPI")]
enum DelegationSchema {
    Token(String),
    Grants(Vec<Value>),
}

/// What the enclave is shown: a token as it is, grants as canonical JSON.
pub(crate) fn presented(delegation: &Value) -> Result<String, identity::Error> {
    match delegation {
        Value::String(token) => Ok(token.clone()),
        Value::Array(_) => {
            String::from_utf8(identity::json::canonical(delegation)?).map_err(|_| odd())
        }
        _ => Err(odd()),
    }
}

fn odd() -> identity::Error {
    identity::Error::JsonShape("delegation is a token, or an array of credentials".into())
}

/// An intent in its two forms.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes identity::Intent to OpenAPI")]
enum IntentSchema {
    Action(String),
    Full {
        /// What is to be done.
        action: String,
        /// What it is done to.
        target: Option<String>,
        /// Where.
        resource: Option<String>,
        /// To whom it is granted: a DID. Then what is signed is a grant, a `vouch-credential`.
        delegatee: Option<String>,
    },
}

/// Form of the result.
#[derive(ToSchema)]
#[schema(as = Format, rename_all = "kebab-case")]
#[expect(dead_code, reason = "describes a format to OpenAPI")]
enum FormatSchema {
    /// A compact JWS.
    VouchJwt,
    /// A W3C credential with an eddsa-jcs-2022 proof.
    VouchCredential,
    /// A JWS over action, agent, principal, resource and time, and nothing else.
    Envelope,
}

/// A signature was made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SignResponse {
    /// The token, for `vouch-jwt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    vouch_token: Option<String>,
    /// The credential, for `vouch-credential`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    credential: Option<Value>,
    /// The envelope, a compact JWS, for `envelope`.
    #[serde(skip_serializing_if = "Option::is_none")]
    envelope: Option<String>,
    /// Who signed.
    did: String,
    /// `jti` of the token, or the UUID in the credential's id.
    signature_id: String,
    /// End of validity, RFC 3339. An envelope has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<UnixSeconds>,
    /// Version of the key that signed.
    key_version: u32,
}

/// Sign an intent and its payload
///
/// The enclave decides whether the policy allows it, and signs.
#[utoipa::path(
    post,
    path = "/sign",
    request_body = SignRequest,
    responses(
        (status = 200, body = SignResponse),
        (status = 202, body = WaitingResponse, description = "The rule wants an approval; ask again with its id when it was given"),
        (status = 400, body = Problem, content_type = "application/problem+json", description = "Not JSON"),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "Localhost: no token"),
        (status = 403, body = Problem, content_type = "application/problem+json", description = "The policy does not allow it"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "No such identity"),
        (status = 408, body = Problem, content_type = "application/problem+json", description = "The body came too slowly"),
        (status = 413, body = Problem, content_type = "application/problem+json", description = "Larger than 32 KiB"),
        (status = 415, body = Problem, content_type = "application/problem+json", description = "Not application/json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "JSON, but not acceptable"),
        (status = 429, body = Problem, content_type = "application/problem+json", description = "A rate or a budget is used up; Retry-After says when to ask again"),
        (status = 500, body = Problem, content_type = "application/problem+json", description = "The enclave is at fault"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "The enclave cannot sign now; Retry-After says when to ask again"),
        (status = 504, body = Problem, content_type = "application/problem+json", description = "The enclave did not answer in time"),
    )
)]
pub(crate) async fn sign(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Strict(mut request): Strict<SignRequest, MAX_BODY>,
) -> Result<Response, Problem> {
    let begin = Instant::now();
    let expects = |proof: &PresentedProof| app.admission.expects_proof(proof);
    let proof = shown(&caller, request.proof.take(), expects)?;
    let format = request.format;
    let sign = request.into_message(caller.claim, proof)?;
    let resource = fingerprint(&sign.resource);
    let mut signed = match app.ask(&caller.quota, Request::Sign(sign)).await? {
        Answer::Signed(signed) => signed,
        Answer::PendingApproval(waiting) => {
            return Ok((StatusCode::ACCEPTED, Json(WaitingResponse::from(waiting))).into_response());
        }
        _ => return Err(RequestError::Nonsense.into()),
    };
    tracing::debug!(
        identity = signed.identity,
        rule = signed.rule,
        signature_id = signed.signature_id,
        "signed"
    );
    app.metrics.note_resource(&signed.identity, resource);
    app.metrics
        .sign_seconds
        .observe(begin.elapsed().as_secs_f64());
    app.metrics
        .signatures
        .get_or_create(&Signed {
            identity: std::mem::take(&mut signed.identity),
            format: format.as_str(),
        })
        .inc();
    Ok(Json(SignResponse::of(signed, format)?).into_response())
}

impl SignRequest {
    /// What the enclave is asked, which parses all of it again.
    fn into_message(
        self,
        caller: ObservedCaller,
        proof: Option<PresentedProof>,
    ) -> Result<Sign, Problem> {
        let odd = |error: serde_json::Error| Problem::new(422, "json_shape", error.to_string());
        Ok(Sign {
            requester: Requester {
                caller,
                identity: self.identity,
            },
            format: self.format,
            action: self.intent.action().to_owned(),
            target: self.intent.target().to_owned(),
            resource: self.intent.resource().to_owned(),
            payload: serde_json::to_string(&self.payload).map_err(odd)?,
            audience: self.audience,
            validity_seconds: self.validity_seconds,
            proof,
            delegation: self.delegation.as_ref().map(presented).transpose()?,
            delegatee: self.intent.delegatee().map(ToString::to_string),
            approval: self.approval.as_deref().map(approvals::id).transpose()?,
        })
    }
}

impl SignResponse {
    fn of(signed: protocol::Signed, format: Format) -> Result<Self, RequestError> {
        let mut response = Self {
            vouch_token: None,
            credential: None,
            envelope: None,
            did: signed.did,
            signature_id: signed.signature_id,
            expires_at: Some(UnixSeconds(signed.expires_at)),
            key_version: signed.key_version,
        };
        match format {
            Format::VouchJwt => response.vouch_token = Some(signed.signed),
            Format::Envelope => {
                response.envelope = Some(signed.signed);
                response.expires_at = None;
            }
            Format::VouchCredential => {
                let credential = identity::json::parse(signed.signed.as_bytes());
                response.credential = Some(credential.map_err(|_| RequestError::Nonsense)?);
            }
        }
        Ok(response)
    }
}
