//! One request, from its head to the head of its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH,
};
use hyper::{Method, Response, StatusCode};
use identity::sha256;
use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use crate::answer::{Body, Refusal, json_answer};
use crate::backend::{Backend, trace_header};
use crate::headers::{LATENCY, QUARANTINED, TRUST_SCORE};
use crate::metrics::{Metrics, Outcome, Status};
use crate::policy::{Permit, Policy};
use crate::read::{self, Request};
use crate::recorder::{Event, Recorder, excerpt};
use crate::trace;

/// For the head of a request, from its first byte or, on a connection that stays, from the answer
/// before it.
pub(crate) const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) policy: Policy,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) max_body: usize,
    pub(crate) manifest: ManifestPage,
}

/// The manifest as it is served.
#[derive(Debug)]
pub(crate) struct ManifestPage {
    body: Bytes,
    etag: HeaderValue,
}

impl ManifestPage {
    pub(crate) fn new(document: &serde_json::Map<String, serde_json::Value>) -> Self {
        let body = serde_json::to_vec(document).expect("JSON of ours");
        let etag = format!("\"{}\"", sha256(&body));
        Self {
            etag: HeaderValue::try_from(etag).expect("hexadecimal digits"),
            body: body.into(),
        }
    }

    fn respond(&self, request: &hyper::Request<Incoming>) -> Response<Body> {
        let known = request.headers().get_all(IF_NONE_MATCH).iter();
        let is_known = known
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(','))
            .map(|tag| tag.trim().trim_start_matches("W/"))
            .any(|tag| tag == "*" || tag.as_bytes() == self.etag.as_bytes());
        let mut response = if is_known {
            let mut response = Response::new(Either::Left(Full::default()));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            Response::new(Either::Left(Full::new(self.body.clone())))
        };
        let headers = response.headers_mut();
        headers.insert(ETAG, self.etag.clone());
        let hour = HeaderValue::from_static("max-age=3600");
        headers.insert(CACHE_CONTROL, hour);
        if !is_known {
            let json = HeaderValue::from_static("application/json");
            headers.insert(CONTENT_TYPE, json);
        }
        response
    }
}

/// Answers a request, on whatever connection it came.
pub(crate) async fn handle(
    shared: &Shared,
    backend: &Backend,
    request: hyper::Request<Incoming>,
) -> Response<Body> {
    let begun = Instant::now();
    let trace_id = trace::id(request.headers());
    let is_head = request.method() == Method::HEAD;
    let is_read = is_head || request.method() == Method::GET;
    let mut response = match request.uri().path() {
        "/proxy" => proxy(shared, backend, request, trace_id, begun).await,
        path if path.starts_with("/proxy/") => {
            proxy(shared, backend, request, trace_id, begun).await
        }
        "/.well-known/agent-manifest" | "/capabilities" if is_read => {
            shared.manifest.respond(&request)
        }
        "/health" if is_read => json_answer(StatusCode::OK, &json!({"status": "healthy"})),
        "/.well-known/agent-manifest" | "/capabilities" | "/health" => {
            let mut response = Refusal::WrongMethod.respond(trace_id);
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            response
        }
        _ => Refusal::NotFound.respond(trace_id),
    };
    complete(shared, &mut response, trace_id, begun.elapsed());
    if is_head && let Either::Left(body) = response.body() {
        // As long as the body that a GET would have, which is not sent.
        let length = hyper::body::Body::size_hint(body)
            .exact()
            .unwrap_or_default();
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        *response.body_mut() = Either::Left(Full::default());
    }
    response
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

async fn proxy(
    shared: &Shared,
    backend: &Backend,
    request: hyper::Request<Incoming>,
    trace_id: Uuid,
    begun: Instant,
) -> Response<Body> {
    let recorder = shared.recorder.as_ref();
    match pass(shared, backend, request, trace_id, begun).await {
        Ok(response) => response,
        Err(refusal) => {
            if let (Some(recorder), Some(event)) = (recorder, event_of(&refusal)) {
                recorder.record(trace_id, Timestamp::now(), &event).await;
            }
            refusal.respond(trace_id)
        }
    }
}

/// Every stage, in its order.
async fn pass(
    shared: &Shared,
    backend: &Backend,
    request: hyper::Request<Incoming>,
    trace_id: Uuid,
    begun: Instant,
) -> Result<Response<Body>, Refusal> {
    let (parts, body) = request.into_parts();
    let request = read::read(parts, body, shared.max_body).await?;
    let permit = decide(shared, &request)?;
    write_down(shared, &request, &permit, trace_id).await?;
    let answer = backend.send(request, trace_id).await?;
    if let Some(recorder) = &shared.recorder {
        let event = Event::Response {
            status_code: answer.status().as_u16(),
            latency_ms: begun.elapsed().as_micros() as f64 / 1000.0,
        };
        recorder.record(trace_id, Timestamp::now(), &event).await;
    }
    let mut response = answer.map(Either::Right);
    // It is the gateway's to say.
    response.headers_mut().remove(QUARANTINED);
    if permit.is_quarantined {
        let yes = HeaderValue::from_static("true");
        response.headers_mut().insert(QUARANTINED, yes);
    }
    Ok(response)
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

/// What is forwarded is written down first.
async fn write_down(
    shared: &Shared,
    request: &Request,
    permit: &Permit,
    trace_id: Uuid,
) -> Result<(), Refusal> {
    let Some(recorder) = &shared.recorder else {
        return Ok(());
    };
    if !recorder.is_good() {
        return Err(Refusal::Unrecorded);
    }
    let now = Timestamp::now();
    let event = Event::Request {
        method: request.method.to_string(),
        path: inspect::mask_text(&request.meant, inspect::Purpose::Log).0,
        payload: excerpt(&request.scrubbed()),
        digest: sha256(&request.body).to_string(),
    };
    recorder.record(trace_id, now, &event).await;
    if let Some(warning) = permit.overridden.clone() {
        let event = Event::UserOverride { warning };
        recorder.record(trace_id, now, &event).await;
    }
    if permit.is_quarantined {
        let trust_score = shared.policy.score;
        let event = Event::Quarantine { trust_score };
        recorder.record(trace_id, now, &event).await;
    }
    Ok(())
}

/// What a refusal is in the flight recorder.
fn event_of(refusal: &Refusal) -> Option<Event> {
    match refusal {
        Refusal::Blocked { rule } => Some(Event::Blocked {
            reason: rule.clone(),
        }),
        Refusal::Warned { warning, .. } => Some(Event::Warning {
            warning: warning.clone(),
        }),
        Refusal::Unrecorded => None,
        other => Some(Event::Error {
            error: other.text(),
        }),
    }
}
