//! One request, from its head to the head of its answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_LENGTH, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Response, StatusCode};
use opentelemetry::KeyValue;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use uuid::Uuid;

use crate::activity::Activity;
use crate::answer::{Refusal, json_answer};
use crate::answers::{self, Judge};
use crate::backend::{Backend, trace_header};
use crate::body::{Body, Passed};
use crate::certificate::Certificate;
use crate::drain::Drain;
use crate::headers::{CALLER, LATENCY, QUARANTINED, TRUST_SCORE};
use crate::limits::Place;
use crate::messages::Exchange;
use crate::metrics::{Outcome, Status};
use crate::overrides::Warned;
use crate::policy::Permit;
use crate::read::{self, Bounds, Request};
use crate::recorder::Event;
use crate::room::Peer;
use crate::shared::Shared;
use crate::spans::{Part, Sampled};
use crate::trace::{self, Trace};
use crate::websocket::Offer;
use crate::{grpc, operator, origins};

/// From where a connection comes, and what its TLS says of it.
#[derive(Debug)]
pub(crate) struct From {
    pub(crate) address: IpAddr,
    pub(crate) certificate: Option<Certificate>,
    /// The places that it takes, until nobody needs it any more.
    pub(crate) _places: (OwnedSemaphorePermit, Option<Place>),
    pub(crate) drain: Drain,
}

/// Answers a request, on whatever connection it came.
pub(crate) async fn handle(
    shared: &Arc<Shared>,
    backend: &Backend,
    from: &Arc<From>,
    request: hyper::Request<Incoming>,
) -> Response<Body> {
    let begun = Instant::now();
    let trace_id = trace::id(request.headers());
    let peer = shared.limits.peer(from.address, request.headers());
    let is_head = request.method() == Method::HEAD;
    let is_grpc = grpc::is_call(&request);
    let call = Call {
        shared,
        backend,
        from,
        peer,
        begun,
        is_grpc,
        trace: Trace {
            id: trace_id,
            caller: None,
        },
        sampled: None,
    };
    let mut response = match may_ask(shared, peer, &request) {
        Ok(()) => call.answer(request).await,
        Err(refusal) => call.refuse(&refusal),
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
    if request.uri().path() != "/health" || grpc::is_call(request) {
        shared.limits.check(peer)?;
    }
    match origins::may_ask(shared.origins.as_ref(), request.headers()) {
        true => Ok(()),
        false => Err(Refusal::WrongOrigin),
    }
}

/// Headers of every answer, and the figures.
fn complete(shared: &Shared, response: &mut Response<Body>, trace_id: Uuid, took: Duration) {
    let status = status_of(response);
    let milliseconds = took.as_micros() as f64 / 1000.0;
    let headers = response.headers_mut();
    headers.insert(trace::HEADER, trace_header(trace_id));
    if let Ok(latency) = HeaderValue::try_from(format!("{milliseconds:.2}")) {
        headers.insert(LATENCY, latency);
    }
    headers.insert(TRUST_SCORE, u16::from(shared.policy.trust.score).into());
    let status = status.as_u16();
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
    from: &'a Arc<From>,
    peer: Peer,
    begun: Instant,
    is_grpc: bool,
    trace: Trace,
    sampled: Option<Box<Sampled>>,
}

impl Call<'_> {
    async fn answer(mut self, request: hyper::Request<Incoming>) -> Response<Body> {
        if self.is_grpc {
            return self.proxy(request).await;
        }
        let trace_id = self.trace.id;
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            path if path == "/proxy" || path.starts_with("/proxy/") => self.proxy(request).await,
            "/.well-known/agent-manifest" | "/capabilities" if is_read => {
                self.shared.manifest.respond(&request)
            }
            "/.well-known/agent-manifest.jwt" if is_read => {
                self.shared.manifest.respond_signed(trace_id)
            }
            "/health" if is_read => json_answer(StatusCode::OK, &json!({"status": "healthy"})),
            // Where nobody is asked who they are, traces are the operator's alone.
            path if is_recorded(path) && !self.shared.callers.are_anybody() => match is_read {
                true => self.recorded(request).await,
                false => wrong_method(trace_id),
            },
            "/.well-known/agent-manifest"
            | "/.well-known/agent-manifest.jwt"
            | "/capabilities"
            | "/health" => wrong_method(trace_id),
            _ => Refusal::NotFound.respond(trace_id),
        }
    }

    /// What was written down of a request of this caller's own.
    async fn recorded(mut self, request: hyper::Request<Incoming>) -> Response<Body> {
        let (mut parts, _) = request.into_parts();
        if let Err(refusal) = self.identify(&mut parts.headers).await {
            return refusal.respond(self.trace.id);
        }
        let caller = self.trace.caller.as_ref();
        match parts.uri.path() {
            path if path.starts_with("/quarantine/") => {
                operator::quarantine(self.shared, path, caller).await
            }
            _ => operator::trace(self.shared, &parts.uri, caller).await,
        }
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
        let response = self.passed_or_refused(request).await;
        if let (Some(sampled), Some(spans)) = (self.sampled.take(), &self.shared.spans) {
            spans.end(*sampled, status_of(&response).as_u16());
        }
        response
    }

    /// Whether there are to be spans; who is not known makes none.
    fn sample(&mut self, parts: &mut Parts) {
        let Some(spans) = &self.shared.spans else {
            return;
        };
        let Some(mut sampled) = spans.begin(&mut parts.headers, self.begun) else {
            return;
        };
        sampled.attributes = vec![
            KeyValue::new("http.request.method", parts.method.to_string()),
            KeyValue::new("url.path", masked_path(parts.uri.path())),
            KeyValue::new("iatp.trace_id", self.trace.id.to_string()),
            KeyValue::new(
                "iatp.trust_score",
                i64::from(self.shared.policy.trust.score),
            ),
        ];
        self.sampled = Some(Box::new(sampled));
    }

    /// Notes a part of what is done, from then until now.
    fn note_part(&mut self, part: Part, from: Instant) {
        if let Some(sampled) = &mut self.sampled {
            sampled.part(part, from, Instant::now());
        }
    }

    async fn passed_or_refused(&mut self, request: hyper::Request<Incoming>) -> Response<Body> {
        match self.pass(request).await {
            Ok(response) => response,
            Err(refusal) => {
                // Whoever is not known must not fill the log, by whatever is wrong with the request.
                let is_known = self.trace.caller.is_some() || self.shared.callers.are_anybody();
                if let Some(event) = Event::of(&refusal).filter(|_| is_known) {
                    self.record(&event).await;
                }
                self.refuse(&refusal)
            }
        }
    }

    /// What the agent answers; a call of gRPC is passed to it as it comes.
    async fn ask(
        &self,
        request: Request,
        call: Option<Incoming>,
        offer: Option<&Offer>,
    ) -> Result<Response<Passed>, Refusal> {
        let (idle, trace_id) = (self.shared.answer_idle, self.trace.id);
        let Some(body) = call else {
            let answer = self.backend.send(request, trace_id, offer).await?;
            return Ok(answer.map(|agent| Passed::new(agent, idle)));
        };
        let activity = Activity::default();
        let answer = self.backend.call(request, body, trace_id, &activity, idle);
        let answer = Box::pin(answer).await?;
        Ok(answer.map(|agent| Passed::new(agent, idle).beside(activity)))
    }

    /// From here on messages pass, as long as both sides like, or until the gateway ends.
    fn switch(
        &self,
        offer: Offer,
        mut answer: Response<Passed>,
        judge: Judge,
        is_overridden: bool,
    ) -> Response<Body> {
        let agent = hyper::upgrade::on(&mut answer);
        let mut response = answer.map(|_| Body::default());
        offer.answer(response.headers_mut());
        let exchange = Exchange {
            judge,
            is_overridden,
            idle: self.shared.answer_idle,
            max: self.shared.max_body,
        };
        // Its connection still takes its places.
        let (from, ends) = (Arc::clone(self.from), self.from.drain.ends());
        tokio::spawn(async move {
            if let Ok(agent) = agent.await {
                exchange.run(offer.upgrade, agent, ends).await;
            }
            drop(from);
        });
        response
    }

    /// Writes down how a call of gRPC ends, when it does.
    fn note_end(&self, response: Response<Body>, place: Place) -> Response<Body> {
        let (shared, trace) = (Arc::clone(self.shared), self.trace.clone());
        let ended = move |grpc_status| {
            if let Some(recorder) = &shared.recorder {
                recorder.note(&trace, &Event::Ended { grpc_status });
            }
        };
        // An answer that is nothing but a status has it in its head.
        match grpc::status(response.headers()) {
            Some(status) => {
                ended(Some(status));
                response
            }
            None => response.map(|body| {
                Body::Other(UnsyncBoxBody::new(grpc::Answered::new(body, place, ended)))
            }),
        }
    }

    fn refuse(&self, refusal: &Refusal) -> Response<Body> {
        match self.is_grpc {
            true => {
                let mut response = grpc::respond(refusal);
                response.extensions_mut().insert(Counted(refusal.status()));
                response
            }
            false => refusal.respond(self.trace.id),
        }
    }

    /// Every stage, in its order.
    async fn pass(
        &mut self,
        mut request: hyper::Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let shared = self.shared;
        let offer = Offer::take(&mut request)?;
        let (mut parts, body) = request.into_parts();
        read::begin(&mut parts)?;
        self.identify(&mut parts.headers).await?;
        self.sample(&mut parts);
        shared.limits.tell(self.from.address, &mut parts.headers);
        let bounds = Bounds {
            max_body: shared.max_body,
            rooms: &shared.rooms,
            peer: self.peer,
            routes: &shared.routes,
            is_recorded: shared.recorder.is_some(),
        };
        let mut place = None;
        let (mut request, call) = match self.is_grpc {
            true => {
                let busy = Refusal::TooMany(Duration::from_secs(1));
                place = Some(shared.limits.call(self.peer).ok_or(busy)?);
                (read::call(parts, &shared.routes)?, Some(body))
            }
            false => (read::read(parts, body, bounds).await?, None),
        };
        let deciding = Instant::now();
        let decided = self.permit(&request, offer.is_some()).await;
        if let Some(sampled) = &mut self.sampled {
            let (from, to) = request.looked;
            sampled.part(Part::Detect, from, to);
            sampled.part(Part::Score, deciding, Instant::now());
            sampled.part(Part::Evaluate, from, Instant::now());
        }
        let (permit, token) = decided?;
        if let Some((kinds, rule)) = &permit.masked {
            request.mask(*kinds, rule)?;
        }
        let writing = Instant::now();
        let written = self.write_down(&request, &permit, token).await;
        self.note_part(Part::Log, writing);
        written?;
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
        if let Some(sampled) = &self.sampled {
            sampled.tell(&mut request.headers);
        }
        let forwarding = Instant::now();
        let answer = self.ask(request, call, offer.as_ref()).await;
        self.note_part(Part::Forward, forwarding);
        let answer = answer?;
        self.record(&Event::Response {
            status_code: answer.status().as_u16(),
            latency_ms: self.begun.elapsed().as_micros() as f64 / 1000.0,
        })
        .await;
        let mut response = match offer {
            Some(offer) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
                self.switch(offer, answer, judge, permit.by_secret)
            }
            _ => judge.look(answer).await?,
        };
        if let Some(place) = place {
            response = self.note_end(response, place);
        }
        // It is the gateway's to say.
        response.headers_mut().remove(QUARANTINED);
        if permit.is_quarantined {
            let yes = HeaderValue::from_static("true");
            response.headers_mut().insert(QUARANTINED, yes);
        }
        Ok(response)
    }

    /// Decides; what is warned of may have been approved, which a token then says.
    async fn permit(
        &self,
        request: &Request,
        is_socket: bool,
    ) -> Result<(Permit, Option<String>), Refusal> {
        let shared = self.shared;
        let signer = shared.signer.as_ref().filter(|_| shared.allow_override);
        match (decide(shared, request), signer) {
            (Err(Refusal::Warned { warning, score, .. }), Some(signer)) => {
                let warned = Warned {
                    request,
                    caller: self.trace.caller.as_ref(),
                    peer: self.peer,
                    is_socket,
                    agent: &shared.agent_id,
                    warning,
                    score,
                };
                // It is large, and seldom.
                let token = Box::pin(warned.overridden(signer, &shared.approvals)).await?;
                let permit = shared.policy.overridden(request, warned.warning);
                Ok((permit, Some(token)))
            }
            (decision, _) => Ok((decision?, None)),
        }
    }

    async fn record(&self, event: &Event) {
        if let Some(recorder) = &self.shared.recorder {
            recorder.record(&self.trace, event).await;
        }
    }

    /// What is forwarded is written down first.
    async fn write_down(
        &self,
        request: &Request,
        permit: &Permit,
        token: Option<String>,
    ) -> Result<(), Refusal> {
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
            digest: request.digest(),
        })
        .await;
        if let Some((kinds, _)) = &permit.masked {
            let kinds = kinds.iter().map(inspect::Kind::name).collect();
            self.record(&Event::Masked { kinds }).await;
        }
        if let Some(warning) = permit.overridden.clone() {
            self.record(&Event::UserOverride { warning, token }).await;
        }
        if permit.is_quarantined {
            let trust_score = self.shared.policy.trust.score;
            self.record(&Event::Quarantine { trust_score }).await;
        }
        Ok(())
    }
}

/// As what an answer counts whose own status is always 200.
#[derive(Debug, Clone, Copy)]
struct Counted(StatusCode);

fn status_of(response: &Response<Body>) -> StatusCode {
    let counted = response.extensions().get::<Counted>();
    counted.map_or(response.status(), |counted| counted.0)
}

/// The begin of a path without anything sensitive.
fn masked_path(path: &str) -> String {
    const LONGEST: usize = 256;
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let mut masked = inspect::mask_text(&decoded, inspect::Purpose::Log).0;
    masked.truncate(masked.floor_char_boundary(LONGEST));
    masked
}

/// Whether a path is one of what was written down.
fn is_recorded(path: &str) -> bool {
    path.starts_with("/trace/") || path.starts_with("/quarantine/")
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
        .observe(f64::from(shared.policy.trust.score));
    decision
}
