//! Proxied routes: from an agent's request to a call.

mod answer;
mod held;
mod tunnel;

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use axum::response::Response;
use broker::websocket::asks_for_websocket;
use broker::{
    MAX_PLACED, Omni, Shown as InPlace, counted, may_be_counted, may_want_approval,
    take_placeholder,
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use policy::{Budget, Bundle, IdentityPolicy, Priced, Service};
use protocol::{
    Answer, CountedBody, OpenCredential, PendingApproval, Request, Requester, ServiceRequest,
    Ticket,
};
use tokio::time::timeout;

use self::answer::{Shape, proxy_refusal, refusal};
use super::body::collect;
use super::{App, AskError, Peer, Problem};
use crate::relay::{
    CallError, Closing, Holder, Kept, NoLine, Relay, Socket, StoreError, UnderWay, WhileHeld,
};
use ::identity::Digest;
use ::identity::caller::ObservedCaller;
use callers::{Caller, CallerQuota, Localhost, Shown, TurnedAway, uid_of};
use enclave_client::RequestError;

/// Names the identity, for callers that may use several.
const IDENTITY: &str = "x-anchorhold-identity";

/// By which clients of S3 say what they sign.
const PAYLOAD: &str = "x-amz-content-sha256";
/// Bodies that are signed for a client, or that somebody may have to approve, are all here before.
const MAX_WHOLE: usize = 16 * 1024 * 1024;
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// Of these there may be any number at a time.
const MAX_SHORT: usize = 64 * 1024;
/// What an approver is shown of a body; of a longer one its digest.
const MAX_SHOWN: usize = 8 * 1024;

/// The moments at which ends of calls are recorded, of which a second has a whole number.
const BETWEEN_ENDS: Duration = Duration::from_millis(4);

/// By which the record knows the call.
const CALL: HeaderName = HeaderName::from_static("x-anchorhold-call");

/// Every path of the proxied routes; and those who come as to a proxy.
pub(crate) async fn handle(State(app): State<Arc<App>>, request: HttpRequest) -> Response {
    if request.method() == Method::CONNECT {
        let begun = tunnel::begin(&app, request).await;
        return begun.unwrap_or_else(|problem| proxy_refusal(&problem));
    }
    let named =
        split(request.uri().path()).and_then(|(name, _)| app.admission.policy().service(name));
    let shape = Shape::of(named.map(|(_, service)| service));
    match proxied(&app, request).await {
        Ok(response) => response,
        Err(problem) => refusal(&problem, shape),
    }
}

async fn proxied(app: &Arc<App>, mut request: HttpRequest) -> Result<Response, Problem> {
    let relay = app.relay.as_ref().ok_or_else(no_services)?;
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let upgrading = match request.version() == Version::HTTP_11 && asks_for_websocket(headers) {
        true => Some(hyper::upgrade::on(&mut request)),
        false => None,
    };
    let (parts, body) = request.into_parts();
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let policy = app.admission.policy();
    let found = find(policy, target);
    // Who does not say who it is, learns nothing of what there is.
    let placeholder = found
        .as_ref()
        .ok()
        .and_then(|found| found.shown.placeholder.as_deref());
    let Agent {
        caller,
        headers,
        identity: held_for,
        mut while_held,
    } = identify(
        app,
        relay,
        parts.extensions.get(),
        parts.headers,
        placeholder.map(String::as_str),
    )?;
    let Found {
        place,
        service,
        shown,
    } = found?;
    let identity = match held_for {
        Some(identity) => identity,
        None => identity(app, &caller, service, named(&headers)?)?,
    };
    let under_way = begin_call(relay, &caller)?;
    let sealed = kept(app, relay, &identity, service).await?;
    let may_wait = may_want_approval(
        policy,
        service,
        Some(&identity),
        (parts.method.as_str(), &shown.asked),
    );
    let is_signed = service.inject.sigv4.is_some() && !headers.contains_key(PAYLOAD);
    let wants = Wants {
        // Of a WebSocket nothing is known before.
        nothing: upgrading.is_some(),
        digest: may_wait || is_signed,
        placed: service.inject.field.is_some(),
        priced: may_be_counted(
            service,
            Some(&identity),
            (parts.method.as_str(), &shown.asked),
        ),
    };
    let Whole {
        body,
        digest,
        text,
        counted,
        _place,
    } = wants.of(relay, caller.quota.id, body).await?;
    let asked = OpenCredential {
        requester: Requester {
            caller: caller.claim.clone(),
            identity: Some(identity),
        },
        envelope: sealed.bytes,
        request: ServiceRequest {
            service: service.name.clone(),
            method: parts.method.as_str().to_owned(),
            target: shown.asked,
            headers: headers
                .iter()
                .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec().into()))
                .collect(),
            length: body.size_hint().exact(),
            body: digest,
            text: text.filter(|_| may_wait),
            counted,
            websocket: upgrading.is_some(),
        },
    };
    // The few places for long bodies are not held.
    let holds = may_wait && _place.is_none();
    let ticket = ticket(
        app,
        (relay, &caller),
        service,
        asked,
        holds,
        &mut while_held,
    )
    .await?;
    let (socket, body) = match upgrading {
        None => (None, body),
        Some(upgrading) => {
            let (socket, said) = Socket::new(upgrading, relay.tunnels.place(), while_held);
            (Some(socket), Body::new(said))
        }
    };
    let closing = closing(app, relay, ticket);
    let answer = relay.calls.make(place, ticket, body, under_way, closing);
    let answer = answer.await?;
    let mut response = match socket {
        None => answer.map(Body::new),
        Some(socket) => socket.answer(answer),
    };
    let call = ::identity::sha256(&ticket.0).to_string();
    if let Ok(call) = HeaderValue::from_str(&call) {
        response.headers_mut().insert(CALL, call);
    }
    Ok(response)
}

/// Asks for a call; one that must be approved is held until it is, if it may be.
async fn ticket(
    app: &Arc<App>,
    (relay, caller): (&Relay, &Caller),
    service: &Service,
    asked: OpenCredential,
    holds: bool,
    while_held: &mut Option<WhileHeld>,
) -> Result<Ticket, Problem> {
    let holds = holds && relay.held.longest().is_some();
    let again = holds.then(|| asked.clone());
    let waiting = match open(app, caller, service, asked).await? {
        Opened::Open(ticket) => return Ok(ticket),
        Opened::Waits(waiting) => waiting,
    };
    let asked = again.ok_or_else(|| waits(&waiting))?;
    held::until_approved(app, (relay, caller), &waiting, while_held).await?;
    let identity = asked.requester.identity.as_deref().unwrap_or_default();
    // Another one may have been put meanwhile.
    let envelope = kept(app, relay, identity, service).await?.bytes;
    match open(app, caller, service, OpenCredential { envelope, ..asked }).await? {
        Opened::Open(ticket) => Ok(ticket),
        Opened::Waits(waiting) => Err(waits(&waiting)),
    }
}

/// What came of asking for a call.
enum Opened<T> {
    /// It may be made.
    Open(T),
    /// Somebody must approve it.
    Waits(PendingApproval),
}

async fn open(
    app: &Arc<App>,
    caller: &Caller,
    service: &Service,
    asked: OpenCredential,
) -> Result<Opened<Ticket>, Problem> {
    let asked = Request::OpenCredential(asked);
    match ask(app, caller, service, asked).await? {
        Answer::Opened(ticket) => Ok(Opened::Open(ticket)),
        Answer::PendingApproval(waiting) => Ok(Opened::Waits(waiting)),
        _ => Err(RequestError::Nonsense.into()),
    }
}

/// Requests that come at once may each want more of a budget than is sealed.
const SEALED_FOR_ONE: usize = 4;

/// Asks for a call; where more of a budget must be sealed first, that is done, and it is asked again.
async fn ask(
    app: &Arc<App>,
    caller: &Caller,
    service: &Service,
    asked: Request,
) -> Result<Answer, Problem> {
    let quota = &caller.quota;
    if service.budget != Some(Budget::AcrossBoots) {
        return app.ask(quota, asked).await.map_err(of_budget);
    }
    for _ in 0..SEALED_FOR_ONE {
        match app.ask(quota, asked.clone()).await {
            Err(AskError::Enclave(RequestError::Refused(refusal)))
                if refusal.code == "budget_not_kept" => {}
            answer => return answer.map_err(of_budget),
        }
        // A caller that goes away leaves no seal behind that nobody stores.
        let this = Arc::clone(app);
        let kept = tokio::spawn(async move { this.enclave.request(Request::KeepBudgets).await });
        kept.await.unwrap_or(Err(RequestError::Unavailable))?;
    }
    app.ask(quota, asked).await.map_err(of_budget)
}

/// A call of this caller, if it may have one more.
fn begin_call(relay: &Relay, caller: &Caller) -> Result<UnderWay, Problem> {
    relay
        .begin(caller.quota.id)
        .ok_or_else(|| Problem::new(503, "service_busy", "this caller has 64 calls under way"))
}

/// The sealed credential of an identity for a service.
async fn kept(
    app: &App,
    relay: &Relay,
    identity: &str,
    service: &Service,
) -> Result<Kept, Problem> {
    let operator = &app.admission.policy().operator_key.0;
    let actor = Omni::of_operator(operator).child(identity);
    let kept = relay.store.get(actor, &service.name).await?;
    kept.ok_or_else(|| missing(identity, &service.name))
}

/// Has the end of a call recorded, whatever comes of it.
fn closing(app: &Arc<App>, relay: &Relay, ticket: Ticket) -> Closing {
    let (closer, runtime) = (Arc::clone(app), tokio::runtime::Handle::current());
    let end = relay.ends.begin();
    Closing::new(move || {
        runtime.spawn(async move {
            close(closer, ticket).await;
            drop(end);
        });
    })
}

/// Clients of these APIs take 202 for success, and try 409 and 429 again by themselves.
fn waits(waiting: &PendingApproval) -> Problem {
    let (id, by) = (waiting.id, waiting.by.join(", "));
    Problem::new(
        403,
        "approval_required",
        format!(
            "it waits for an approval by {by}: anchorhold approve {id}; then ask for the same again"
        ),
    )
}

/// Clients of these APIs try 429 again by themselves, and a budget that is used up stays so for long.
fn of_budget(error: AskError) -> Problem {
    let problem = Problem::from(error);
    match problem.code() {
        "budget_exceeded" => problem.with_status(403),
        _ => problem,
    }
}

/// For what a body must be here before anything is asked.
struct Wants<'a> {
    /// Nothing is ever known of it.
    nothing: bool,
    /// It is signed for the agent, or somebody may have to approve it.
    digest: bool,
    /// The credential is put into it.
    placed: bool,
    /// It is counted what it asks of a model.
    priced: Option<&'a Priced>,
}

impl Wants<'_> {
    async fn of(self, relay: &Relay, caller: u64, body: Body) -> Result<Whole, Problem> {
        if self.nothing || !(self.digest || self.placed || self.priced.is_some()) {
            return Ok(Whole::unread(body));
        }
        let most = if self.placed { MAX_PLACED } else { MAX_WHOLE };
        Whole::of(relay, (caller, most), body, self.priced).await
    }
}

/// A body that is all here before anything is asked; or one of which nothing is known.
struct Whole {
    /// What it asks of a model, where that is counted.
    counted: Option<CountedBody>,
    body: Body,
    digest: Option<Digest<32>>,
    /// The body itself, if it is text and short.
    text: Option<String>,
    /// Of those that are kept in memory; until the answer begins.
    _place: Option<UnderWay>,
}

impl Whole {
    fn unread(body: Body) -> Self {
        Self {
            body,
            digest: None,
            text: None,
            counted: None,
            _place: None,
        }
    }

    async fn of(
        relay: &Relay,
        (caller, most): (u64, usize),
        body: Body,
        priced: Option<&Priced>,
    ) -> Result<Self, Problem> {
        let until = Instant::now() + WHOLE_WITHIN;
        let (short, rest) = beginning(body, until).await?;
        // Only one that is long takes a place.
        let (bytes, place) = match rest {
            None => (short, None),
            Some(rest) => {
                let place = relay.large_body(caller).ok_or_else(|| {
                    let says = "too many long bodies are signed or approved whole just now";
                    Problem::new(503, "service_busy", says)
                })?;
                let left = until.saturating_duration_since(Instant::now());
                let rest = collect(rest, most - short.len(), left).await?;
                (Bytes::from([short, rest].concat()), Some(place))
            }
        };
        let (mut bytes, mut asks) = (bytes, None);
        if let Some(priced) = priced {
            let (asked, mended) = counted(priced, &bytes)
                .map_err(|error| Problem::new(422, error.code(), error.to_string()))?;
            bytes = mended.map_or(bytes, Bytes::from);
            asks = Some(CountedBody {
                model: asked.model,
                input: asked.most.input,
                output: asked.most.output,
            });
        }
        let text = Some(&bytes).filter(|bytes| bytes.len() <= MAX_SHOWN);
        let text = text.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        Ok(Self {
            counted: asks,
            digest: Some(::identity::sha256(&bytes)),
            body: Body::from(bytes),
            text,
            _place: place,
        })
    }
}

/// All of a body that is short; or its beginning, and what is left.
async fn beginning(mut body: Body, until: Instant) -> Result<(Bytes, Option<Body>), Problem> {
    let mut came = BytesMut::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let frame = timeout(left, body.frame()).await;
        let frame = frame.map_err(|_| {
            let says = "the body did not arrive in time";
            Problem::new(408, "body_too_slow", says)
        })?;
        let Some(frame) = frame else {
            return Ok((came.freeze(), None));
        };
        let frame = frame.map_err(|_| {
            let says = "the body did not arrive whole";
            Problem::new(400, "body_broken", says)
        })?;
        if let Ok(bytes) = frame.into_data() {
            came.extend_from_slice(&bytes);
        }
        if came.len() > MAX_SHORT {
            return Ok((came.freeze(), Some(body)));
        }
    }
}

/// Has the end of a call recorded. The enclave may hear of it a moment later than this process, and
/// records it by itself if nobody asks.
async fn close(app: Arc<App>, ticket: Ticket) {
    moment_for_ends().await;
    for wait in [0, 2, 10, 50, 250] {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let closed = app
            .enclave
            .request(Request::CloseCredential { ticket })
            .await;
        match closed {
            Err(RequestError::Refused(refusal))
                if ["call_under_way", "busy"].contains(&refusal.code.as_str()) => {}
            _ => return,
        }
    }
}

/// Waits for the next of the moments at which ends are recorded, all at once: so they share frames and signatures.
async fn moment_for_ends() {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let past = BEGUN.elapsed().subsec_nanos() % BETWEEN_ENDS.subsec_nanos();
    tokio::time::sleep(BETWEEN_ENDS - Duration::from_nanos(past.into())).await;
}

/// Who asks.
struct Agent {
    caller: Caller,
    /// Without what it showed to say who it is.
    headers: HeaderMap,
    /// The identity that its placeholder is for.
    identity: Option<String>,
    /// Until when its placeholder is good, if somebody holds it.
    while_held: Option<WhileHeld>,
}

fn identify(
    app: &App,
    relay: &Relay,
    peer: Option<&Peer>,
    mut headers: HeaderMap,
    placeholder: Option<&str>,
) -> Result<Agent, Problem> {
    let (mut identity, mut while_held) = (None, None);
    let (seen, quota) = match (peer, &relay.localhost) {
        (Some(Peer::Unix(known)), _) => (known.seen.clone(), Arc::clone(&known.quota)),
        (Some(Peer::Localhost(from)), Some(localhost)) => {
            let held = |token: &str| {
                let digest = ::identity::sha256(token.as_bytes());
                let holder = relay.placeholders.holder(token)?;
                Some((relay.placeholders.while_held(&digest)?, holder))
            };
            let seen = match localhost.take_placeholder(&mut headers, placeholder, held)? {
                Shown::Token(name) => ObservedCaller::named(name),
                Shown::Other((until, held)) => {
                    while_held = Some(until);
                    let (seen, held_for) = holder(localhost, *from, held)?;
                    identity = held_for;
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
        headers,
        identity,
        while_held,
    })
}

fn admitted(app: &App, seen: ObservedCaller, quota: Arc<CallerQuota>) -> Result<Caller, Problem> {
    let caller = Caller::of(seen, quota, &app.admission, &app.operators);
    if caller.admitted {
        return Ok(caller);
    }
    let says = "the policy names no identity for this caller";
    Err(Problem::new(403, "caller_not_allowed", says))
}

/// The caller who holds a placeholder, and the identity that it was asked for: whoever found it in another's
/// environment is not who it was given to.
fn holder(
    localhost: &Localhost,
    from: SocketAddr,
    holder: Holder,
) -> Result<(ObservedCaller, Option<String>), TurnedAway> {
    if uid_of(from, localhost.listen) == holder.seen.uid {
        Ok((holder.seen, holder.identity))
    } else {
        Err(TurnedAway::TokenInvalid)
    }
}

/// What is asked for.
struct Found<'a> {
    place: usize,
    service: &'a Service,
    shown: InPlace,
}

fn find<'a>(policy: &'a Bundle, target: &str) -> Result<Found<'a>, Problem> {
    let (name, asked) = split(target).ok_or_else(no_services)?;
    let (place, service) = policy.service(name).ok_or_else(|| unknown(name))?;
    let shown = take_placeholder(&service.inject, asked)
        .map_err(|error| Problem::new(422, error.code(), error.to_string()))?;
    Ok(Found {
        place,
        service,
        shown,
    })
}

/// The service's name, and what is asked of it.
fn split(target: &str) -> Option<(&str, &str)> {
    let rest = target.strip_prefix('/')?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    (end > 0).then(|| rest.split_at(end))
}

/// The identity that a request names.
fn named(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let named = headers.get(IDENTITY).map(|named| named.to_str());
    let named = named.transpose();
    let named = named.map_err(|_| {
        let says = "X-Anchorhold-Identity is no name";
        Problem::new(422, "identity_required", says)
    })?;
    Ok(named.map(str::to_owned))
}

/// With whose credential: the one that is named, or the only one that the caller may use and the
/// service has a rule for. The enclave decides.
fn identity(
    app: &App,
    caller: &Caller,
    service: &Service,
    named: Option<String>,
) -> Result<String, Problem> {
    if let Some(named) = named {
        return Ok(named);
    }
    let of_service = |policy: &&IdentityPolicy| {
        let mut rules = service.rules.iter();
        rules.any(|rule| rule.identities.contains(&policy.name))
    };
    let usable = app.admission.usable(&caller.claim);
    let mut names = usable
        .into_iter()
        .filter(of_service)
        .map(|policy| &policy.name);
    match (names.next(), names.next()) {
        (Some(one), None) => Ok(one.clone()),
        (None, _) => Err(Problem::new(
            403,
            "service_request_not_allowed",
            format!(
                "no rule of the service {} is for an identity of this caller",
                service.name
            ),
        )),
        (Some(_), Some(_)) => Err(Problem::new(
            422,
            "identity_required",
            "this caller may use several identities: name one in X-Anchorhold-Identity",
        )),
    }
}

fn no_services() -> Problem {
    Problem::new(
        404,
        "unknown_service",
        "the path begins with the name of a service: /openrouter/..., for example",
    )
}

fn unknown(name: &str) -> Problem {
    let shown: String = name.chars().take(64).collect();
    Problem::new(
        404,
        "unknown_service",
        format!("the bundle has no service {shown:?}"),
    )
}

fn missing(identity: &str, service: &str) -> Problem {
    let says = format!(
        "no credential of {identity} for {service} is kept here; the operator puts one: anchorhold credential put"
    );
    Problem::new(403, "credential_missing", says)
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let says = error.to_string();
        match error {
            StoreError::Io(_) | StoreError::Bucket(_) => {
                Self::new(503, "credential_unreadable", says)
            }
            StoreError::Newer(_) => Self::new(409, "credential_outdated", says),
        }
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        let says = error.to_string();
        match error {
            CallError::Failed(failed) => {
                let status = match failed.code.as_str() {
                    "service_busy" => 503,
                    // As if it had come a moment later.
                    "credential_revoked" => 403,
                    "body_mismatch" | "placeholder_misplaced" => 422,
                    _ => 502,
                };
                Self::new(status, failed.code, failed.message)
            }
            CallError::NoLine(NoLine::Denied(..)) => Self::new(502, "address_denied", says),
            CallError::NoLine(NoLine::Unreachable(_)) => {
                Self::new(502, "service_unreachable", says)
            }
            CallError::NoLine(NoLine::Enclave(_)) | CallError::Line(_) => {
                Self::new(503, "enclave_unavailable", says)
            }
        }
    }
}
