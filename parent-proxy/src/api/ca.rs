//! The authority under which agents meet the enclave, where they come to services as to a proxy.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use pem_rfc7468::LineEnding;
use protocol::{Answer, AttestedAuthority, Request};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::Strict;
use super::{Admitted, App, Problem};
use callers::Caller;
use enclave_client::RequestError;

const MAX_BODY: usize = 1024;

/// A challenge.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaRequest {
    /// 16 to 64 bytes that the caller chose at random, hex.
    #[schema(pattern = "^([0-9a-fA-F]{2}){16,64}$")]
    nonce: String,
}

/// A certificate authority, and what attests it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CaResponse {
    /// X.509, PEM.
    certificate: String,
    /// An attestation document, base64url: its `public_key` is the certificate's SubjectPublicKeyInfo, its `user_data` SHA-256 of the CBOR
    /// array `["anchorhold/ingress-authority/v1", policy digest, SHA-256 of the certificate]`.
    document: String,
}

/// Fetch the certificate authority of the enclave, as it is said to be
///
/// For agents of this host. `anchorhold ca` has it attested first.
#[utoipa::path(get, path = "/ca", responses(
    (status = 200, body = String, content_type = "application/x-pem-file"),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn ca(
    State(app): State<Arc<App>>,
    Admitted(caller): Admitted,
) -> Result<Response, Problem> {
    let authority = fetch(&app, &caller, vec![0; 32]).await?;
    let kind = HeaderValue::from_static("application/x-pem-file");
    Ok(([(CONTENT_TYPE, kind)], pem(&authority.certificate)?).into_response())
}

/// Fetch the certificate authority of the enclave, and a document that attests it
#[utoipa::path(post, path = "/ca", request_body = CaRequest, responses(
    (status = 200, body = CaResponse),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn attested(
    State(app): State<Arc<App>>,
    Admitted(caller): Admitted,
    Strict(request): Strict<CaRequest, MAX_BODY>,
) -> Result<Json<CaResponse>, Problem> {
    let nonce = HEXLOWER_PERMISSIVE.decode(request.nonce.as_bytes());
    let nonce = nonce.map_err(|_| Problem::new(422, "nonce_not_hex", "the nonce is not hex"))?;
    let authority = fetch(&app, &caller, nonce).await?;
    Ok(Json(CaResponse {
        certificate: pem(&authority.certificate)?,
        document: BASE64URL_NOPAD.encode(&authority.document),
    }))
}

async fn fetch(
    app: &Arc<App>,
    caller: &Caller,
    nonce: Vec<u8>,
) -> Result<AttestedAuthority, Problem> {
    match app.ask(&caller.quota, Request::Authority { nonce }).await? {
        Answer::Authority(authority) => Ok(authority),
        _ => Err(RequestError::Nonsense.into()),
    }
}

fn pem(certificate: &[u8]) -> Result<String, Problem> {
    let text = pem_rfc7468::encode_string("CERTIFICATE", LineEnding::LF, certificate);
    text.map_err(|_| RequestError::Nonsense.into())
}
