//! What a caller needs to know to get to services: which there are for it, where, and what it shows
//! there in place of a credential.
#![allow(
    unused_qualifications,
    reason = "utoipa's derive of IntoParams writes them"
)]

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Admitted, App, Problem};
use crate::relay::{Held, Holder, Relay};
use callers::Caller;

/// Which identity.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForIdentity {
    /// Its name. May be left out by a caller that may use only one.
    identity: Option<String>,
}

/// The services that a caller may ask, and where.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServicesResponse {
    /// Names: the first segments of the paths.
    services: Vec<String>,
    /// `host:port` of the proxied routes, where there is a port.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// The Unix socket of the proxied routes.
    socket: String,
    /// Whether agents may come to these services as to a proxy, at the same port and socket.
    https_proxy: bool,
}

/// A placeholder, and where it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlaceholderResponse {
    /// Shown in place of a credential, at the port.
    placeholder: String,
    #[serde(flatten)]
    services: ServicesResponse,
}

/// List the services that this caller may ask
#[utoipa::path(get, path = "/services", responses(
    (status = 200, body = ServicesResponse),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn services(
    State(app): State<Arc<App>>,
    Admitted(caller): Admitted,
) -> Result<Json<ServicesResponse>, Problem> {
    Ok(Json(respond(&app, relay(&app)?, &caller, None)))
}

/// Hold a placeholder
///
/// The answer is one line of JSON, and does not end: the placeholder is good while this connection is open. `anchorhold run` holds
/// one for the command that it starts.
#[utoipa::path(get, path = "/placeholder", params(ForIdentity), responses(
    (status = 200, body = PlaceholderResponse),
    (status = "default", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn placeholder(
    State(app): State<Arc<App>>,
    Admitted(caller): Admitted,
    which: Result<Query<ForIdentity>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let relay = relay(&app)?;
    let Query(ForIdentity { identity }) =
        which.map_err(|error| Problem::new(422, "query_invalid", error.body_text()))?;
    let services = respond(&app, relay, &caller, identity.as_deref());
    if services.address.is_none() {
        let says = "placeholders are shown at a port, and there is none: [proxy] listen";
        return Err(Problem::new(409, "no_port", says));
    }
    // It is for whoever holds the socket, and not for whoever holds a token.
    if caller.claim.uid.is_none() {
        let says = "a placeholder is given over the Unix socket, where the kernel says who asks";
        return Err(Problem::new(403, "caller_not_allowed", says));
    }
    let holder = Holder {
        seen: caller.claim,
        identity,
    };
    let held = relay.placeholders.issue(holder);
    let held = held.ok_or_else(|| Problem::new(503, "busy", "too many placeholders are held"))?;
    let answer = PlaceholderResponse {
        placeholder: held.token.to_string(),
        services,
    };
    let mut line = serde_json::to_vec(&answer).unwrap_or_default();
    line.push(b'\n');
    let body = HeldOpen {
        line: Some(line.into()),
        held,
    };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::new(body)).into_response())
}

/// One line, and then nothing until the end.
struct HeldOpen {
    line: Option<Bytes>,
    held: Held,
}

impl hyper::body::Body for HeldOpen {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(line) = self.line.take() {
            return Poll::Ready(Some(Ok(Frame::data(line))));
        }
        let ended = Pin::new(&mut self.held.ended);
        ended.poll(context).map(|_| None)
    }
}

fn relay(app: &App) -> Result<&Relay, Problem> {
    let none = || Problem::new(404, "unknown_service", "the bundle has no [[services]]");
    app.relay.as_ref().ok_or_else(none)
}

fn respond(app: &App, relay: &Relay, caller: &Caller, identity: Option<&str>) -> ServicesResponse {
    let usable = app.admission.usable(&caller.claim);
    let mut names = usable
        .into_iter()
        .map(|policy| &policy.name)
        .filter(|name| identity.is_none_or(|identity| identity == *name));
    let names: Vec<&String> = names.by_ref().collect();
    let may = |service: &&policy::Service| {
        let mut rules = service.rules.iter().flat_map(|rule| &rule.identities);
        rules.any(|identity| names.contains(&identity))
    };
    let services = app.admission.policy().services.iter().filter(may);
    let localhost = relay.localhost.as_ref();
    ServicesResponse {
        services: services.map(|service| service.name.clone()).collect(),
        address: localhost.map(|localhost| localhost.listen.to_string()),
        socket: relay.socket.display().to_string(),
        https_proxy: relay.tunnels.are_open(),
    }
}
