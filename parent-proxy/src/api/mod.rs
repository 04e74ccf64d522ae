//! The HTTP API. Handlers turn typed requests into window requests and back; what a caller sees of an error is made here.

mod approvals;
mod body;
mod ca;
mod credentials;
mod identity;
mod operations;
mod problem;
mod proxied;
mod services;
mod sign;
mod state;
mod status;
mod token;
mod verify;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use attestation::KnownIssuers;
use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use protocol::{Answer, Lane, Request};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::evidence_store::EvidenceStore;
use crate::metrics::{Denied, Limited, Metrics};
use crate::relay::Relay;
use ::identity::caller::ObservedCaller;
use callers::{
    Admission, Caller, CallerQuota, CallerQuotas, FairQueue, Localhost, Operators, QueueFull, Slot,
    TooMuch, TurnedAway,
};
use enclave_client::{EnclaveClient, RequestError};

pub(crate) use problem::Problem;
pub(crate) use proxied::handle as proxied_request;
pub(crate) use sign::presented;
pub(crate) use token::JWT;
pub(crate) use verify::{MAX_VERIFYING, now};

/// Before a caller hears that it asks too often.
const REFUSED_AFTER: Duration = Duration::from_millis(100);

/// Why a caller's request has no answer of the enclave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AskError {
    /// This caller asked too often.
    #[error("this caller asks more often than the sidecar lets one; ask again later")]
    TooOften(TooMuch),
    /// The enclave gave none.
    #[error(transparent)]
    Enclave(#[from] RequestError),
}

/// What every handler has at hand.
pub(crate) struct App {
    pub(crate) enclave: EnclaveClient,
    pub(crate) admission: Admission,
    pub(crate) localhost: Option<Localhost>,
    pub(crate) operators: Operators,
    pub(crate) quotas: CallerQuotas,
    pub(crate) metrics: Arc<Metrics>,
    /// At the enclave.
    pub(crate) signing: Arc<FairQueue>,
    /// At what waits for the NSM.
    pub(crate) attesting: Arc<FairQueue>,
    /// Those of the latter whom nobody admits but the enclave, by a proof that it alone verifies: they hold no more than
    /// one of its places.
    pub(crate) unadmitted: Arc<FairQueue>,
    /// At this process' own verifier.
    pub(crate) verifying: Arc<FairQueue>,
    /// What that one has verified.
    pub(crate) issuers: Arc<KnownIssuers>,
    /// What verifies the record later.
    pub(crate) evidence: EvidenceStore,
    /// The proxied routes, if the policy names services.
    pub(crate) relay: Option<Relay>,
}

impl App {
    /// Sends a request to the enclave when it is this caller's turn.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        quota: &CallerQuota,
        request: Request,
    ) -> Result<Answer, AskError> {
        self.ask_in_turn(quota, request, None).await
    }

    /// The same of what waits for the NSM, by one of whom no more is known than that it has some proof.
    pub(crate) async fn ask_unadmitted(
        self: &Arc<Self>,
        quota: &CallerQuota,
        request: Request,
    ) -> Result<Answer, AskError> {
        let only = Some(&self.unadmitted);
        self.ask_in_turn(quota, request, only).await
    }

    /// A place of `only` is held besides. Who has no request left in this time waits for none.
    async fn ask_in_turn(
        self: &Arc<Self>,
        quota: &CallerQuota,
        request: Request,
        only: Option<&Arc<FairQueue>>,
    ) -> Result<Answer, AskError> {
        let traits = request.traits();
        let queue = if traits.lane == Lane::Connection {
            &self.signing
        } else {
            &self.attesting
        };
        let identity = traits.requester.and_then(|of| of.identity.as_deref());
        let label = self.quotas.label(identity).to_owned();
        self.count_request(quota, identity).await?;
        let only = match only {
            Some(only) => Some(self.turn(only, quota).await?),
            None => None,
        };
        let slot = self.turn(queue, quota).await?;
        let this = Arc::clone(self);
        // A caller that goes away leaves its request at the enclave; its turn is not over before that one is.
        let under_way = tokio::spawn(async move {
            let answer = this.enclave.request(request).await;
            drop((slot, only));
            answer
        });
        let answer = under_way.await.unwrap_or(Err(RequestError::Unavailable));
        if let Err(RequestError::Refused(refusal)) = &answer {
            let denied = Denied {
                identity: label,
                code: refusal.code.clone(),
            };
            self.metrics.denials.get_or_create(&denied).inc();
        }
        Ok(answer?)
    }

    /// Whether the state would open again; the metrics say what came of it.
    pub(crate) async fn drill(&self) -> Result<(), enclave_client::StateError> {
        let drilled = self.enclave.drill().await;
        self.metrics.state_drill_failed.set(drilled.is_err().into());
        self.metrics.state_drills.inc();
        drilled.map(|_| ())
    }

    /// Counts a request, if the account has one left in this time.
    pub(crate) async fn count_request(
        &self,
        quota: &CallerQuota,
        identity: Option<&str>,
    ) -> Result<(), AskError> {
        let Err(much) = self.quotas.take(quota, identity) else {
            return Ok(());
        };
        let limit = "requests";
        self.metrics.limited.get_or_create(&Limited { limit }).inc();
        // A caller that does not wait by itself is made to: refusing it again and again would be work.
        tokio::time::sleep(REFUSED_AFTER).await;
        Err(AskError::TooOften(much))
    }

    /// A turn, if the account has a request left in this time.
    pub(crate) async fn slot(
        &self,
        queue: &Arc<FairQueue>,
        quota: &CallerQuota,
    ) -> Result<Slot, AskError> {
        self.count_request(quota, None).await?;
        self.turn(queue, quota).await
    }

    async fn turn(&self, queue: &Arc<FairQueue>, quota: &CallerQuota) -> Result<Slot, AskError> {
        queue.take(quota.id).await.map_err(|QueueFull| {
            let limit = "waiting";
            self.metrics.limited.get_or_create(&Limited { limit }).inc();
            RequestError::Busy.into()
        })
    }
}

/// Whom the kernel saw.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) seen: ObservedCaller,
    pub(crate) quota: Arc<CallerQuota>,
}

/// Where a connection came from; the server puts it into each request.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// A Unix socket.
    Unix(Arc<Known>),
    /// Nobody who will be answered.
    Nobody(TurnedAway),
    /// Localhost, from this address: the headers tell.
    Localhost(SocketAddr),
}

/// Agents get signatures here from keys that only an enclave holds.
#[derive(OpenApi)]
#[openapi(info(
    title = "Anchorhold sidecar",
    description = "Agents get signatures here from keys that only an enclave holds.",
    license(name = "Apache-2.0", identifier = "Apache-2.0")
))]
struct Description;

fn described() -> (Router<Arc<App>>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(sign::sign))
        .routes(routes!(token::token))
        .routes(routes!(approvals::show, approvals::approve))
        .routes(routes!(approvals::held))
        .routes(routes!(identity::identity))
        .routes(routes!(identity::did_document))
        .routes(routes!(identity::jwks))
        .routes(routes!(identity::attestation))
        .routes(routes!(identity::rotate))
        .routes(routes!(verify::verify))
        .routes(routes!(status::status))
        .routes(routes!(credentials::list, credentials::put))
        .routes(routes!(credentials::sealing_key))
        .routes(routes!(credentials::set_epochs))
        .routes(routes!(credentials::rewrap))
        .routes(routes!(credentials::lease))
        .routes(routes!(services::services))
        .routes(routes!(services::placeholder))
        .routes(routes!(ca::ca, ca::attested))
        .routes(routes!(credentials::remove))
        .routes(routes!(state::state))
        .routes(routes!(state::birth_document))
        .routes(routes!(state::birth))
        .routes(routes!(state::drill))
        .routes(routes!(operations::health))
        .routes(routes!(operations::ready))
        .routes(routes!(operations::metrics))
        .routes(routes!(operations::openapi))
        .split_for_parts()
}

/// The API's description: OpenAPI 3.1, as `GET /openapi.json` gives it.
pub fn openapi() -> String {
    let mut text = described().1.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

pub(crate) fn router(app: Arc<App>) -> Router {
    let not_found = async || {
        Problem::new(
            404,
            "not_found",
            "there is nothing here; GET /openapi.json says what there is",
        )
    };
    let wrong_method = async || {
        Problem::new(
            405,
            "method_not_allowed",
            "this path does not take that method",
        )
    };
    described()
        .0
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

/// The name of a path for metrics: one of the API's own, or `other`.
pub(crate) fn route(path: &str) -> &'static str {
    const ROUTES: [&str; 26] = [
        "/sign",
        "/token",
        "/identity",
        "/.well-known/did.json",
        "/.well-known/jwks.json",
        "/attestation",
        "/rotate",
        "/verify",
        "/status",
        "/approvals",
        "/credentials",
        "/services",
        "/placeholder",
        "/ca",
        "/credentials/epochs",
        "/credentials/lease",
        "/credentials/rewrap",
        "/credentials/sealing-key",
        "/state",
        "/state/document",
        "/state/birth",
        "/state/drill",
        "/health",
        "/ready",
        "/metrics",
        "/openapi.json",
    ];
    if let Some(route) = ROUTES.into_iter().find(|route| *route == path) {
        return route;
    }
    if path.starts_with("/credentials/") {
        return "/credentials/{identity}/{service}";
    }
    if path.starts_with("/approvals/") {
        return "/approvals/{id}";
    }
    "other"
}

/// Somebody who could reach the socket, and who on localhost is no browser and shows a token.
pub(crate) struct Anyone(pub(crate) Caller);

/// A caller whom the policy names for some identity. Which one, and for what, the enclave decides.
pub(crate) struct Admitted(pub(crate) Caller);

impl FromRequestParts<Arc<App>> for Anyone {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let (seen, quota) = match (parts.extensions.get::<Peer>(), &app.localhost) {
            (Some(Peer::Unix(known)), _) => (known.seen.clone(), Arc::clone(&known.quota)),
            (Some(Peer::Localhost(_)), Some(localhost)) => {
                let seen = localhost.caller(&parts.headers)?;
                let quota = app.quotas.of(&seen);
                (seen, quota)
            }
            (Some(Peer::Nobody(why)), _) => return Err((*why).into()),
            _ => return Err(TurnedAway::CallerUnknown.into()),
        };
        Ok(Self(Caller::of(
            seen,
            quota,
            &app.admission,
            &app.operators,
        )))
    }
}

impl FromRequestParts<Arc<App>> for Admitted {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let Anyone(caller) = Anyone::from_request_parts(parts, app).await?;
        if caller.admitted {
            Ok(Self(caller))
        } else {
            Err(not_admitted())
        }
    }
}

fn not_admitted() -> Problem {
    Problem::new(
        403,
        "caller_not_allowed",
        "the policy names no identity for this caller",
    )
}
