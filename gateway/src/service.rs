//! One request, from its head to the head of its answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_LENGTH, HeaderValue};
use hyper::{HeaderMap, Method, Response, StatusCode};
use identity::sha256;
use serde_json::json;
use uuid::Uuid;

use crate::answer::{Refusal, json_answer};
use crate::answers::{self, Judge};
use crate::backend::{Backend, trace_header};
use crate::body::Body;
use crate::certificate::Certificate;
use crate::headers::{CALLER, LATENCY, QUARANTINED, TRUST_SCORE};
use crate::metrics::{Outcome, Status};
use crate::policy::Permit;
use crate::read::{self, Bounds, Request};
use crate::recorder::Event;
use crate::room::Peer;
use crate::shared::Shared;
use crate::trace::{self, Trace};
use crate::{operator, origins};

/// From where a connection comes, and what its TLS says of it.
#[derive(Debug)]
pub(crate) struct From {
    pub(crate) address: IpAddr,
    pub(crate) certificate: Option<Certificate>,
}

/// Answers a request, on whatever connection it came.
pub(crate) async fn handle(
    shared: &Arc<Shared>,
    backend: &Backend,
    from: &From,
    request: hyper::Request<Incoming>,
) -> Response<Body> {
    let begun = Instant::now();
    let trace_id = trace::id(request.headers());
    let peer = shared.limits.peer(from.address, request.headers());
    let is_head = request.method() == Method::HEAD;
    let call = Call {
        shared,
        backend,
        from,
        peer,
        begun,
        trace: Trace {
            id: trace_id,
            caller: None,
        },
    };
    let mut response = match may_ask(shared, peer, &request) {
        Ok(()) => call.answer(request).await,
        Err(refusal) => refusal.respond(trace_id),
    };
    complete(shared, &mut response, trace_id, begun.elapsed());
    if is_head && let Body::Whole(body) = response.body() {
        // As long as the body that a GET would have, which is not sent.
        let length = hyper::body::Body::size_hint(body)
            .exact()
            .unwrap_or_default();
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        *response.body_mut() = Body::default();
    }
    response
}

fn may_ask(shared: &Shared, peer: Peer, request: &hyper::Request<Incoming>) -> Result<(), Refusal> {
    // Who watches it asks as often as it likes.
    if request.uri().path() != "/health" {
        shared.limits.check(peer)?;
    }
    match origins::may_ask(shared.origins.as_ref(), request.headers()) {
        true => Ok(()),
        false => Err(Refusal::WrongOrigin),
    }
}

/// Headers of every answer, and the figures.
fn complete(shared: &Shared, response: &mut Response<Body>, trace_id: Uuid, took: Duration) {
    let milliseconds = took.as_micros() as f64 / 1000.0;
    let headers = response.headers_mut();
    headers.insert(trace::HEADER, trace_header(trace_id));
    if let Ok(latency) = HeaderValue::try_from(format!("{milliseconds:.2}")) {
        headers.insert(LATENCY, latency);
    }
    headers.insert(TRUST_SCORE, u16::from(shared.policy.score).into());
    let status = response.status().as_u16();
    shared
        .metrics
        .requests
        .get_or_create(&Status { status })
        .inc();
    shared.metrics.duration.observe(took.as_secs_f64());
}

/// A request, and what is known of it from the start.
struct Call<'a> {
    shared: &'a Arc<Shared>,
    backend: &'a Backend,
    from: &'a From,
    peer: Peer,
    begun: Instant,
    trace: Trace,
}

impl Call<'_> {
    async fn answer(mut self, request: hyper::Request<Incoming>) -> Response<Body> {
        let trace_id = self.trace.id;
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            path if path == "/proxy" || path.starts_with("/proxy/") => self.proxy(request).await,
            "/.well-known/agent-manifest" | "/capabilities" if is_read => {
                self.shared.manifest.respond(&request)
            }
            "/health" if is_read => json_answer(StatusCode::OK, &json!({"status": "healthy"})),
            // Where nobody is asked who they are, traces are the operator's alone.
            path if path.starts_with("/trace/") && !self.shared.callers.are_anybody() => {
                match is_read {
                    true => self.trace(request).await,
                    false => wrong_method(trace_id),
                }
            }
            "/.well-known/agent-manifest" | "/capabilities" | "/health" => wrong_method(trace_id),
            _ => Refusal::NotFound.respond(trace_id),
        }
    }

    /// What was written down of a request of this caller's own.
    async fn trace(mut self, request: hyper::Request<Incoming>) -> Response<Body> {
        let (mut parts, _) = request.into_parts();
        if let Err(refusal) = self.identify(&mut parts.headers).await {
            return refusal.respond(self.trace.id);
        }
        operator::trace(self.shared, &parts.uri, self.trace.caller.as_ref()).await
    }

    /// Finds out who calls; what was presented goes, and who it is comes in its place.
    async fn identify(&mut self, headers: &mut HeaderMap) -> Result<(), Refusal> {
        let certificate = self.from.certificate.as_ref();
        let caller = self.shared.callers.identify(headers, certificate).await?;
        headers.remove(CALLER);
        if let Some(caller) = &caller
            && let Ok(value) = HeaderValue::from_str(caller)
        {
            headers.insert(CALLER, value);
        }
        self.trace.caller = caller;
        Ok(())
    }

    async fn proxy(&mut self, request: hyper::Request<Incoming>) -> Response<Body> {
        match self.pass(request).await {
            Ok(response) => response,
            Err(refusal) => {
                // Whoever is not known must not fill the log, by whatever is wrong with the request.
                let is_known = self.trace.caller.is_some() || self.shared.callers.are_anybody();
                if let Some(event) = Event::of(&refusal).filter(|_| is_known) {
                    self.record(&event).await;
                }
                refusal.respond(self.trace.id)
            }
        }
    }

    /// Every stage, in its order.
    async fn pass(&mut self, request: hyper::Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let shared = self.shared;
        let (mut parts, body) = request.into_parts();
        read::begin(&mut parts)?;
        self.identify(&mut parts.headers).await?;
        shared.limits.tell(self.from.address, &mut parts.headers);
        let bounds = Bounds {
            max_body: shared.max_body,
            rooms: &shared.rooms,
            peer: self.peer,
            routes: &shared.routes,
            is_recorded: shared.recorder.is_some(),
        };
        let mut request = read::read(parts, body, bounds).await?;
        let permit = decide(shared, &request)?;
        if let Some((kinds, rule)) = &permit.masked {
            request.mask(*kinds, rule)?;
        }
        self.write_down(&request, &permit).await?;
        let judge = Judge {
            shared: Arc::clone(shared),
            method: request.method.clone(),
            path: request.meant.clone(),
            is_plain: request.is_plain(),
            trace: self.trace.clone(),
            peer: self.peer,
        };
        if shared.policy.answers.is_some() {
            answers::prepare(&mut request.headers);
        }
        let answer = self.backend.send(request, self.trace.id).await?;
        self.record(&Event::Response {
            status_code: answer.status().as_u16(),
            latency_ms: self.begun.elapsed().as_micros() as f64 / 1000.0,
        })
        .await;
        let mut response = judge.look(answer).await?;
        // It is the gateway's to say.
        response.headers_mut().remove(QUARANTINED);
        if permit.is_quarantined {
            let yes = HeaderValue::from_static("true");
            response.headers_mut().insert(QUARANTINED, yes);
        }
        Ok(response)
    }

    async fn record(&self, event: &Event) {
        if let Some(recorder) = &self.shared.recorder {
            recorder.record(&self.trace, event).await;
        }
    }

    /// What is forwarded is written down first.
    async fn write_down(&self, request: &Request, permit: &Permit) -> Result<(), Refusal> {
        let Some(recorder) = &self.shared.recorder else {
            return Ok(());
        };
        if !recorder.is_good() {
            return Err(Refusal::Unrecorded);
        }
        self.record(&Event::Request {
            method: request.method.to_string(),
            path: inspect::mask_text(&request.meant, inspect::Purpose::Log).0,
            payload: request.scrubbed(),
            digest: sha256(&request.body).to_string(),
        })
        .await;
        if let Some((kinds, _)) = &permit.masked {
            let kinds = kinds.iter().map(inspect::Kind::name).collect();
            self.record(&Event::Masked { kinds }).await;
        }
        if let Some(warning) = permit.overridden.clone() {
            self.record(&Event::UserOverride { warning }).await;
        }
        if permit.is_quarantined {
            let trust_score = self.shared.policy.score;
            self.record(&Event::Quarantine { trust_score }).await;
        }
        Ok(())
    }
}

fn wrong_method(trace_id: Uuid) -> Response<Body> {
    let mut response = Refusal::WrongMethod.respond(trace_id);
    let allowed = HeaderValue::from_static("GET, HEAD");
    response.headers_mut().insert(ALLOW, allowed);
    response
}

fn decide(shared: &Shared, request: &Request) -> Result<Permit, Refusal> {
    let decision = shared.policy.decide(request);
    let result = match &decision {
        Ok(permit) if permit.overridden.is_none() => "allow",
        Ok(_) | Err(Refusal::Warned { .. }) => "warn",
        Err(_) => "block",
    };
    let outcome = Outcome { result };
    shared.metrics.evaluations.get_or_create(&outcome).inc();
    shared
        .metrics
        .scores
        .observe(f64::from(shared.policy.score));
    decision
}
