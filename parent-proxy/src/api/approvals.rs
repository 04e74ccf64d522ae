//! Requests that wait for an approval, and their approval. The enclave checks the approver's key; knowing the id is enough to look.

use std::sync::Arc;

use ::identity::{ApprovalId, BootId, Digest, UnixSeconds};
use axum::Json;
use axum::extract::{Path, State};
use protocol::{Answer, PendingApproval, Request};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::body::Strict;
use super::{Anyone, App, Problem};
use enclave_client::RequestError;

/// A request waits for an approval.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WaitingResponse {
    /// What waits.
    approval: WaitingFacts,
}

/// What waits, and what an approver signs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WaitingFacts {
    /// Random, hex.
    #[schema(value_type = String)]
    id: ApprovalId,
    /// The boot in which it waits, hex.
    #[schema(value_type = String)]
    boot_id: BootId,
    /// SHA-256 of the request's RFC 8785 form, hex.
    #[schema(value_type = String)]
    request_digest: Digest<32>,
    /// The request, in full.
    #[schema(value_type = Object)]
    request: Value,
    /// Names of those who may approve it.
    approvers: Vec<String>,
    /// Whether one of them has.
    approved: bool,
    /// It waits until then, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    expires_at: UnixSeconds,
}

/// What calls are held for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HeldResponse {
    /// Each once, however many calls wait for it.
    approvals: Vec<WaitingFacts>,
}

impl From<PendingApproval> for WaitingFacts {
    fn from(waiting: PendingApproval) -> Self {
        Self {
            id: waiting.id,
            boot_id: waiting.boot_id,
            request_digest: Digest(waiting.request),
            request: serde_json::from_str(&waiting.canonical).unwrap_or_default(),
            approvers: waiting.by,
            approved: waiting.approved,
            expires_at: UnixSeconds(waiting.expires_at),
        }
    }
}

impl From<PendingApproval> for WaitingResponse {
    fn from(waiting: PendingApproval) -> Self {
        Self {
            approval: waiting.into(),
        }
    }
}

/// An approver's signature.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApprovalRequest {
    /// A compact JWS of type `anchorhold-approval+jwt`.
    approval: String,
}

pub(super) fn id(text: &str) -> Result<ApprovalId, Problem> {
    ApprovalId::from_hex(text).map_err(|error| Problem::new(422, "approval_id", error.to_string()))
}

/// Look at a request that waits
#[utoipa::path(get, path = "/approvals/{id}", params(("id" = String, Path, description = "Hex")), responses(
    (status = 200, body = WaitingResponse),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Path(text): Path<String>,
) -> Result<Json<WaitingResponse>, Problem> {
    match app
        .ask(&caller.quota, Request::GetApproval { id: id(&text)? })
        .await?
    {
        Answer::PendingApproval(waiting) => Ok(Json(waiting.into())),
        _ => Err(RequestError::Nonsense.into()),
    }
}

/// What calls to services are held for, while somebody is asked to approve them
#[utoipa::path(get, path = "/approvals", responses(
    (status = 200, body = HeldResponse),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn held(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
) -> Result<Json<HeldResponse>, Problem> {
    if !caller.operator {
        return Err(Problem::new(
            403,
            "caller_not_allowed",
            "what all wait for is for those who run the sidecar",
        ));
    }
    let held = app.relay.as_ref().map(|relay| relay.held.all());
    let approvals = held.into_iter().flatten().map(WaitingFacts::from);
    Ok(Json(HeldResponse {
        approvals: approvals.collect(),
    }))
}

/// Approve a request that waits
#[utoipa::path(post, path = "/approvals/{id}", request_body = ApprovalRequest, params(("id" = String, Path, description = "Hex")), responses(
    (status = 200, body = WaitingResponse),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn approve(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
    Path(text): Path<String>,
    Strict(request): Strict<ApprovalRequest, 8192>,
) -> Result<Json<WaitingResponse>, Problem> {
    id(&text)?;
    if !app.admission.expects_approval(&request.approval) {
        return Err(Problem::new(
            403,
            "approval_invalid",
            "the policy names no approver with the key of this approval",
        ));
    }
    match app
        .ask(
            &caller.quota,
            Request::Approve {
                jws: request.approval,
            },
        )
        .await?
    {
        Answer::PendingApproval(waiting) => {
            if let Some(relay) = &app.relay {
                relay.held.approved(waiting.id);
            }
            Ok(Json(waiting.into()))
        }
        _ => Err(RequestError::Nonsense.into()),
    }
}
