//! Agents that come as to a proxy: `CONNECT` to the host of a service. Their TLS ends in the enclave, which asks
//! for each call what this process cannot read.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request as HttpRequest;
use axum::http::HeaderMap;
use axum::response::Response;
use broker::is_served;
use callers::{Caller, Shown, TurnedAway, proxy_user};
use enclave_client::RequestError;
use protocol::{Answer, InsideRequest, OpenSealed, OpenedSealed, Request, Requester, Told};

use tracing::info;

use super::answer::{Shape, refused};
use super::{
    Opened, admitted, ask, begin_call, closing, held, holder, identity, kept, no_services, unknown,
    waits,
};
use crate::api::{App, Peer, Problem};
use crate::relay::{Asking, Relay, WhileHeld, not_held};
use ::identity::caller::ObservedCaller;
use ::identity::{Digest, sha256};

/// As what metrics know calls through a tunnel.
const ROUTE: &str = "tunnel";
/// As the user of Basic, where nobody is named.
const NOBODY: &str = "x";

/// Who has a tunnel.
struct Agent {
    caller: Caller,
    /// The identity that it is for, where one is named.
    identity: Option<String>,
    /// The placeholder by which it came, if somebody holds it.
    placeholder: Option<Digest<32>>,
}

/// Begins a tunnel; the answer to the request is the last that this process says to the agent.
pub(super) async fn begin(app: &Arc<App>, mut request: HttpRequest) -> Result<Response, Problem> {
    let relay = app.relay.as_ref().ok_or_else(no_services)?;
    if !relay.tunnels.are_open() {
        let says =
            "the bundle has no [https_proxy]: ask for a service by the first segment of a path";
        return Err(Problem::new(405, "https_proxy_closed", says));
    }
    let peer = request.extensions().get();
    let agent = identify(app, relay, peer, request.headers())?;
    // A handshake is work, and so it counts as a request.
    app.count_request(&agent.caller.quota, None).await?;
    let authority = request
        .uri()
        .authority()
        .map_or("", |authority| authority.as_str());
    let policy = app.admission.policy();
    if !is_served(policy, authority) {
        let shown: String = authority.chars().take(255).collect();
        let says = format!("no service of the bundle is at {shown:?}");
        return Err(Problem::new(403, "host_not_served", says));
    }
    let unavailable = |error: std::io::Error| {
        let says = format!("the enclave's ingress process: {error}");
        Problem::new(503, "enclave_unavailable", says)
    };
    let tunnel = relay.tunnels.open(agent.caller.quota.id).await;
    let tunnel = tunnel.map_err(unavailable)?.ok_or_else(|| {
        let says = "this caller has 64 tunnels, or all have 512";
        Problem::new(503, "service_busy", says)
    })?;
    let upgrading = hyper::upgrade::on(&mut request);
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let serve = |asking| serve(&app, &agent, asking);
        tunnel.run(upgrading, serve).await;
    });
    Ok(Response::new(Body::empty()))
}

fn identify(
    app: &App,
    relay: &Relay,
    peer: Option<&Peer>,
    headers: &HeaderMap,
) -> Result<Agent, Problem> {
    let mut placeholder = None;
    let identity;
    let (seen, quota) = match (peer, &relay.localhost) {
        (Some(Peer::Unix(known)), _) => {
            identity = user_named(app, proxy_user(headers))?;
            (known.seen.clone(), Arc::clone(&known.quota))
        }
        (Some(Peer::Localhost(from)), Some(localhost)) => {
            let held = |token: &str| {
                let holder = relay.placeholders.holder(token)?;
                Some((sha256(token.as_bytes()), holder))
            };
            let (shown, user) = localhost.proxy_caller(headers, held)?;
            let seen = match shown {
                Shown::Token(name) => {
                    identity = user_named(app, user)?;
                    ObservedCaller::named(name)
                }
                Shown::Other((digest, held)) => {
                    let (seen, held_for) = holder(localhost, *from, held)?;
                    placeholder = Some(digest);
                    identity = match held_for {
                        Some(held_for) => Some(held_for),
                        None => user_named(app, user)?,
                    };
                    seen
                }
            };
            let quota = app.quotas.of(&seen);
            (seen, quota)
        }
        (Some(Peer::Nobody(why)), _) => return Err((*why).into()),
        _ => return Err(TurnedAway::CallerUnknown.into()),
    };
    Ok(Agent {
        caller: admitted(app, seen, quota)?,
        identity,
        placeholder,
    })
}

/// The identity that is named as the user of Basic: none, or `x`, leaves it to the caller's only one.
fn user_named(app: &App, user: Option<String>) -> Result<Option<String>, Problem> {
    let user = user.filter(|user| !user.is_empty());
    let is_identity = |user: &String| app.admission.policy().identity(user).is_some();
    match user {
        Some(user) if is_identity(&user) => Ok(Some(user)),
        None => Ok(None),
        Some(user) if user == NOBODY => Ok(None),
        Some(_) => {
            let says = "the user of the proxy's URL is no identity of the bundle; x names none";
            Err(Problem::new(422, "identity_required", says))
        }
    }
}

/// Has one call after the other decided, and passes on what it says.
async fn serve(app: &Arc<App>, agent: &Agent, mut asking: Asking) {
    while let Some(asked) = asking.next().await {
        let (_, service) = app.admission.policy().service(&asked.service).unzip();
        let shape = Shape::of(service);
        match call(app, agent, &mut asking, asked).await {
            Ok(again) => {
                app.metrics.handled(ROUTE, 200);
                if !again {
                    return;
                }
            }
            Err((problem, again)) => {
                app.metrics.handled(ROUTE, problem.status());
                app.metrics.refused(problem.code());
                info!(
                    route = ROUTE,
                    status = problem.status(),
                    code = problem.code(),
                    "refused"
                );
                let told = Told::Refused(refused(&problem, shape));
                if asking.tell(&told).await.is_err() || !again {
                    return;
                }
            }
        }
    }
}

/// Whether another call may follow; or why there is none, and whether another one may follow.
async fn call(
    app: &Arc<App>,
    agent: &Agent,
    asking: &mut Asking,
    asked: InsideRequest,
) -> Result<bool, (Problem, bool)> {
    let before = |problem| (problem, true);
    let relay = app.relay.as_ref().ok_or_else(no_services).map_err(before)?;
    let _under_way = begin_call(relay, &agent.caller).map_err(before)?;
    let websocket = asked.websocket;
    let digest = agent.placeholder.as_ref();
    let mut while_held = digest.and_then(|digest| relay.placeholders.while_held(digest));
    let decided = opened(app, relay, agent, asked, &mut while_held).await;
    let (place, OpenedSealed { ticket, sealed }) = decided.map_err(before)?;
    let closing = closing(app, relay, ticket);
    if asking.tell(&Told::Opened(sealed)).await.is_err() {
        return Ok(false);
    }
    let lines = (&mut asking.from, &mut asking.to);
    let carried = relay.calls.carry(place, ticket, lines, closing);
    tokio::select! {
        biased;
        _ = asking.stopping.wait_for(|stopping| *stopping), if websocket => Ok(false),
        () = not_held(&mut while_held), if websocket => Ok(false),
        carried = carried => carried.map_err(|error| (error.into(), false)),
    }
}

/// Has it decided; of what must be approved perhaps once more, when it is.
async fn opened(
    app: &Arc<App>,
    relay: &Relay,
    agent: &Agent,
    asked: InsideRequest,
    while_held: &mut Option<WhileHeld>,
) -> Result<(usize, OpenedSealed), Problem> {
    let again = relay.held.longest().filter(|_| !asked.long);
    let again = again.map(|_| asked.clone());
    let waiting = match decide(app, relay, agent, asked).await? {
        (place, Opened::Open(opened)) => return Ok((place, opened)),
        (_, Opened::Waits(waiting)) => waiting,
    };
    let asked = again.ok_or_else(|| waits(&waiting))?;
    held::until_approved(app, (relay, &agent.caller), &waiting, while_held).await?;
    match decide(app, relay, agent, asked).await? {
        (place, Opened::Open(opened)) => Ok((place, opened)),
        (_, Opened::Waits(waiting)) => Err(waits(&waiting)),
    }
}

async fn decide(
    app: &Arc<App>,
    relay: &Relay,
    agent: &Agent,
    asked: InsideRequest,
) -> Result<(usize, Opened<OpenedSealed>), Problem> {
    // It is good while somebody holds it, and so is what came by it.
    let is_held = |digest: Digest<32>| relay.placeholders.is_held(&digest);
    if !agent.placeholder.is_none_or(is_held) {
        return Err(TurnedAway::TokenInvalid.into());
    }
    let policy = app.admission.policy();
    let found = policy.service(&asked.service);
    let (place, service) = found.ok_or_else(|| unknown(&asked.service))?;
    let identity = identity(app, &agent.caller, service, agent.identity.clone())?;
    let kept = kept(app, relay, &identity, service).await?;
    let open = OpenSealed {
        requester: Requester {
            caller: agent.caller.claim.clone(),
            identity: Some(identity),
        },
        envelope: kept.bytes,
        sealed: asked.sealed,
    };
    let asked = Request::OpenSealed(open);
    match ask(app, &agent.caller, service, asked).await? {
        Answer::OpenedSealed(opened) => Ok((place, Opened::Open(opened))),
        Answer::PendingApproval(waiting) => Ok((place, Opened::Waits(waiting))),
        _ => Err(RequestError::Nonsense.into()),
    }
}
