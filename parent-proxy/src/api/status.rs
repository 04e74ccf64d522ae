//! How things stand, for the one who asks.

use std::sync::Arc;

use ::identity::{Digest, UnixSeconds};
use axum::Json;
use axum::extract::State;
use identity::Tee;
use identity::caller::ObservedCaller;
use policy::StatePolicy;
use protocol::{Answer, IdentityOverview, LimitLeft, LimitsLeft, Overview, Request};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Anyone, App, AskError, Problem};
use callers::CallerQuota;
use enclave_client::RequestError;

/// The keys are kept in a state that is not open yet.
const STATE_AWAITED: &str = "state_awaited";

/// How things stand.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StatusResponse {
    /// The asker, as the sidecar sees it.
    caller: Asker,
    /// The enclave.
    enclave: EnclaveStatus,
    /// SHA-384 of the sidecar's policy bundle in canonical form, hex. The enclave holds the same, or is not used.
    #[schema(value_type = String)]
    bundle: Digest<48>,
    /// The annex in force.
    annex: Option<AnnexStatus>,
    /// The enclave's clock: the time lies between these two.
    clock: Option<ClockStatus>,
    /// The decision record.
    record: RecordStatus,
    /// The identities that the asker may use by what is seen of it; of an operator, every one.
    identities: Vec<IdentityStatus>,
}

/// Who asks.
#[derive(Debug, Serialize, ToSchema)]
struct Asker {
    /// What the sidecar saw, as the enclave is told.
    #[schema(value_type = Object)]
    seen: ObservedCaller,
    /// Whether the bundle names it for any identity.
    admitted: bool,
    /// Whether it runs the sidecar: it sees every identity.
    operator: bool,
}

/// How the enclave is.
#[derive(Debug, Serialize, ToSchema)]
struct EnclaveStatus {
    /// Whether a signature could be made now.
    ready: bool,
    /// Why not: the code that a request for one would get.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// Random for each boot, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    boot_id: Option<String>,
    /// Where the keys say they live: `aws-nitro` or `mock`. Evidence decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    tee: Option<Tee>,
}

/// Which annex.
#[derive(Debug, Serialize, ToSchema)]
struct AnnexStatus {
    /// Its version.
    version: u32,
    /// SHA-256 of its canonical form, hex.
    #[schema(value_type = String)]
    digest: Digest<32>,
}

/// The enclave's clock.
#[derive(Debug, Serialize, ToSchema)]
struct ClockStatus {
    /// RFC 3339.
    #[schema(value_type = String)]
    earliest: UnixSeconds,
    /// RFC 3339.
    #[schema(value_type = String)]
    latest: UnixSeconds,
}

/// How the decision record is.
#[derive(Debug, Serialize, ToSchema)]
struct RecordStatus {
    /// Whether it can be written; nothing is signed while it cannot.
    writing: bool,
    /// Events of this boot so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<u64>,
}

/// An identity.
#[derive(Debug, Serialize, ToSchema)]
struct IdentityStatus {
    /// Name in the bundle.
    name: String,
    /// Its DID now.
    did: String,
    /// Version of its key.
    key_version: u32,
    /// Where its key is kept: `ephemeral` (until the enclave's boot ends) or `kms`.
    custody: &'static str,
    /// Whether the parent can bring an older state back: `accepted`; none where nothing is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    rollback: Option<&'static str>,
    /// Its limits, and those of its rules.
    limits: Vec<LimitStatus>,
}

/// A limit, and what is left of it.
#[derive(Debug, Serialize, ToSchema)]
struct LimitStatus {
    /// The rule; none if it is the identity's own limit.
    rule: Option<String>,
    /// RFC 6901 pointer to what is summed up in the payload; none where requests are counted.
    amount: Option<String>,
    /// `minute`, `hour` or `day`.
    per: &'static str,
    /// What it allows.
    max: u64,
    /// What is left of it now.
    left: u64,
}

/// How things stand, for the caller who asks
///
/// Enclave, bundle, annex, clock, record, the identities that the caller may use, and what is left of their limits.
#[utoipa::path(get, path = "/status", responses(
    (status = 200, body = StatusResponse),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn status(
    State(app): State<Arc<App>>,
    Anyone(caller): Anyone,
) -> Result<Json<StatusResponse>, Problem> {
    if !(caller.admitted || caller.operator) {
        return Err(super::not_admitted());
    }
    let asked = async {
        let status = app.ask(&caller.quota, Request::Status).await?;
        let overview = overview(&app, &caller.quota, &caller.claim, caller.operator).await?;
        Ok((status, overview))
    };
    let (enclave, annex, overview) = match asked.await {
        Ok((Answer::Status(status), overview)) => {
            let digest = status.annex.map(Digest);
            (enclave(status), digest, Some(overview))
        }
        Ok(_) => return Err(RequestError::Nonsense.into()),
        // That it is away is part of how things stand.
        Err(AskError::Enclave(error @ (RequestError::Unavailable | RequestError::Timeout))) => {
            (away(Problem::from(error).code()), None, None)
        }
        Err(AskError::Enclave(RequestError::Refused(refusal))) if refusal.code == STATE_AWAITED => {
            (away(STATE_AWAITED), None, None)
        }
        Err(error) => return Err(error.into()),
    };
    let (clock, annex, events, identities) = overview.map_or_else(Default::default, |overview| {
        let clock = overview.now.map(|(earliest, latest)| ClockStatus {
            earliest: UnixSeconds(earliest),
            latest: UnixSeconds(latest),
        });
        let annex = overview.annex_version.zip(annex);
        let annex = annex.map(|(version, digest)| AnnexStatus { version, digest });
        let kept = app.admission.policy().state.as_ref();
        let of = |identity| of_identity(identity, kept);
        let identities = overview.identities.into_iter().map(of);
        (clock, annex, Some(overview.next), identities.collect())
    });
    Ok(Json(StatusResponse {
        caller: Asker {
            seen: caller.claim,
            admitted: caller.admitted,
            operator: caller.operator,
        },
        enclave,
        bundle: app.admission.policy().digest().digest(),
        annex,
        clock,
        record: RecordStatus {
            writing: app.enclave.is_recording(),
            events,
        },
        identities,
    }))
}

async fn overview(
    app: &Arc<App>,
    quota: &CallerQuota,
    caller: &ObservedCaller,
    all: bool,
) -> Result<Overview, AskError> {
    let caller = caller.clone();
    match app.ask(quota, Request::Overview { caller, all }).await? {
        Answer::Overview(overview) => Ok(overview),
        _ => Err(RequestError::Nonsense.into()),
    }
}

fn enclave(status: protocol::Status) -> EnclaveStatus {
    EnclaveStatus {
        ready: status.cannot_sign.is_none(),
        code: status.cannot_sign,
        boot_id: Some(status.boot_id.to_string()),
        tee: Some(status.tee),
    }
}

fn away(code: &str) -> EnclaveStatus {
    EnclaveStatus {
        ready: false,
        code: Some(code.to_owned()),
        boot_id: None,
        tee: None,
    }
}

fn of_identity(identity: IdentityOverview, kept: Option<&StatePolicy>) -> IdentityStatus {
    IdentityStatus {
        name: identity.name,
        did: identity.did,
        key_version: identity.key_version,
        custody: kept.map_or("ephemeral", |state| state.custody.as_str()),
        rollback: kept.map(|state| state.rollback.as_str()),
        limits: identity.limits.into_iter().flat_map(of_limits).collect(),
    }
}

fn of_limits(LimitsLeft { rule, limits }: LimitsLeft) -> impl Iterator<Item = LimitStatus> {
    limits.into_iter().map(move |limit| {
        let LimitLeft {
            amount,
            per_seconds,
            max,
            left,
        } = limit;
        LimitStatus {
            rule: rule.clone(),
            amount,
            per: match per_seconds {
                60 => "minute",
                3600 => "hour",
                _ => "day",
            },
            max,
            left,
        }
    })
}
