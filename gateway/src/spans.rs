//! Spans of requests (OpenTelemetry), over OTLP/HTTP, under the names of the reference architecture.
//!
//! None are made of a request that is not sampled: whether it is, is its caller's to say, by
//! `traceparent` (W3C Trace Context); without one, chance decides.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Request, Response, Uri};
use jiff::Timestamp;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::callers::Fetch;
use crate::headers::only;
use crate::metrics::Metrics;

/// W3C Trace Context.
const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
/// Spans that wait to be sent.
const QUEUE: usize = 2048;
/// So many are sent at once.
const BATCH: usize = 512;
/// They are gathered for so long.
const GATHER: Duration = Duration::from_secs(1);
/// At the end it is waited for so long.
const FLUSH: Duration = Duration::from_secs(5);

/// Where spans go, and of which requests there are some.
#[derive(Debug)]
pub struct Spans {
    /// Of 2^63.
    sampled: u64,
    queue: mpsc::Sender<Entry>,
    scope: InstrumentationScope,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
enum Entry {
    Spans(Vec<SpanData>),
    /// Who waits until all before it is sent.
    Mark(oneshot::Sender<()>),
}

/// Sends spans, until nobody makes any more.
#[derive(Debug)]
pub struct Sending {
    exporter: SpanExporter,
    queue: mpsc::Receiver<Entry>,
    metrics: Arc<Metrics>,
}

/// A request that is sampled, and its spans so far.
#[derive(Debug)]
pub struct Sampled {
    trace: TraceId,
    parent: SpanId,
    is_remote: bool,
    root: SpanId,
    evaluation: SpanId,
    forward: SpanId,
    /// Its begin on both clocks.
    begun: (Instant, SystemTime),
    /// Of the whole.
    pub attributes: Vec<KeyValue>,
    scope: InstrumentationScope,
    spans: Vec<SpanData>,
}

/// A part of what is done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It is decided on.
    Evaluate,
    /// It is looked through.
    Detect,
    /// Its agent's trust is held against it.
    Score,
    /// It is written down.
    Log,
    /// The agent has it.
    Forward,
}

impl Spans {
    /// To a collector at this endpoint, of so many of a thousand thousand requests that have no parent.
    /// The error says what is wrong with it.
    pub fn new(
        endpoint: &str,
        per_million: u32,
        agent_id: &str,
        fetch: Fetch,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Sending), String> {
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client(fetch))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(traces(endpoint)?)
            .build()
            .map_err(|error| error.to_string())?;
        exporter.set_resource(
            &Resource::builder_empty()
                .with_service_name("anchorhold-gateway")
                .with_attribute(KeyValue::new("iatp.agent_id", agent_id.to_owned()))
                .build(),
        );
        let (queue, sent) = mpsc::channel(QUEUE);
        let sending = Sending {
            exporter,
            queue: sent,
            metrics: Arc::clone(&metrics),
        };
        let spans = Self {
            sampled: (1 << 63) / 1_000_000 * u64::from(per_million),
            queue,
            scope: InstrumentationScope::builder("anchorhold-gateway").build(),
            metrics,
        };
        Ok((spans, sending))
    }

    /// Whether there are to be spans of a request. What is no trace context goes.
    pub fn begin(&self, headers: &mut HeaderMap, begun: Instant) -> Option<Sampled> {
        let parent = match headers.contains_key(PARENT) {
            false => None,
            true => Some(parent(headers)).flatten(),
        };
        if parent.is_none() {
            headers.remove(PARENT);
            headers.remove(STATE);
        }
        let (trace, span) = match parent {
            Some((trace, span, true)) => (trace, span),
            Some(_) => return None,
            None => {
                let trace = Uuid::new_v4();
                let (_, low) = trace.as_u64_pair();
                // Of the lower half the first two bits are the variant's.
                if (low << 2) >> 1 >= self.sampled {
                    return None;
                }
                (TraceId::from_bytes(trace.into_bytes()), SpanId::INVALID)
            }
        };
        Some(Sampled {
            trace,
            parent: span,
            is_remote: span != SpanId::INVALID,
            root: span_id(),
            evaluation: span_id(),
            forward: span_id(),
            begun: (begun, SystemTime::from(Timestamp::now()) - begun.elapsed()),
            attributes: Vec::new(),
            scope: self.scope.clone(),
            spans: Vec::with_capacity(6),
        })
    }

    /// A request was answered with this status; its spans are sent, or counted as lost.
    pub fn end(&self, mut sampled: Sampled, status: u16) {
        let end = Instant::now();
        let mut root = sampled.span(
            "iatp.proxy",
            sampled.root,
            sampled.parent,
            (sampled.begun.0, end),
        );
        root.parent_span_is_remote = sampled.is_remote;
        root.span_kind = SpanKind::Server;
        root.attributes = std::mem::take(&mut sampled.attributes);
        root.attributes.push(KeyValue::new(
            "http.response.status_code",
            i64::from(status),
        ));
        if status >= 500 {
            root.status = Status::error("");
        }
        sampled.spans.push(root);
        let count = sampled.spans.len() as u64;
        if self.queue.try_send(Entry::Spans(sampled.spans)).is_err() {
            self.metrics.spans_lost.inc_by(count);
        }
    }

    /// Waits until what was queued is sent; not for ever.
    pub async fn flush(&self) {
        let (mark, sent) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Entry::Mark(mark)).await.is_ok() {
                let _ = sent.await;
            }
        };
        let _ = tokio::time::timeout(FLUSH, flushed).await;
    }
}

impl Sampled {
    /// What the agent is told: its own spans are below that of forwarding.
    pub fn tell(&self, headers: &mut HeaderMap) {
        let parent = format!("00-{}-{}-01", self.trace, self.forward);
        if let Ok(parent) = HeaderValue::try_from(parent) {
            headers.insert(PARENT, parent);
        }
    }

    /// A part of it, from then until then.
    pub fn part(&mut self, part: Part, from: Instant, to: Instant) {
        let (name, id, parent) = match part {
            Part::Evaluate => ("iatp.policy.evaluate", self.evaluation, self.root),
            Part::Detect => (
                "iatp.policy.detect_sensitive_data",
                span_id(),
                self.evaluation,
            ),
            Part::Score => (
                "iatp.policy.calculate_trust_score",
                span_id(),
                self.evaluation,
            ),
            Part::Log => ("iatp.telemetry.log_request", span_id(), self.root),
            Part::Forward => ("iatp.proxy.forward", self.forward, self.root),
        };
        let mut span = self.span(name, id, parent, (from, to));
        if part == Part::Forward {
            span.span_kind = SpanKind::Client;
        }
        self.spans.push(span);
    }

    fn span(
        &self,
        name: &'static str,
        id: SpanId,
        parent: SpanId,
        (from, to): (Instant, Instant),
    ) -> SpanData {
        let (begun, at) = self.begun;
        let time = |instant: Instant| at + instant.saturating_duration_since(begun);
        let state = TraceState::default();
        SpanData {
            span_context: SpanContext::new(self.trace, id, TraceFlags::SAMPLED, false, state),
            parent_span_id: parent,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: time(from),
            end_time: time(to),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

impl Sending {
    /// Sends what comes. What cannot be sent is lost, and counted.
    pub async fn run(mut self) {
        let (mut entries, mut has_failed) = (Vec::new(), false);
        while self.queue.recv_many(&mut entries, BATCH).await > 0 {
            let (mut spans, mut marks) = (Vec::new(), Vec::new());
            for entry in entries.drain(..) {
                match entry {
                    Entry::Spans(more) => spans.extend(more),
                    Entry::Mark(mark) => marks.push(mark),
                }
            }
            let count = spans.len() as u64;
            if count > 0 {
                match self.exporter.export(spans).await {
                    Ok(()) => {
                        self.metrics.spans.inc_by(count);
                        has_failed = false;
                    }
                    Err(error) => {
                        self.metrics.spans_lost.inc_by(count);
                        if !has_failed {
                            tracing::warn!(%error, "spans cannot be sent");
                        }
                        has_failed = true;
                    }
                }
            }
            if marks.is_empty() {
                tokio::time::sleep(GATHER).await;
            }
            for mark in marks {
                let _ = mark.send(());
            }
        }
    }
}

/// Sends what is exported, within the time that every question to others has.
#[derive(Debug)]
struct Client(Fetch);

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.0.send(request).await.map_err(Into::into)
    }
}

/// Where traces are sent, below an endpoint (OTLP specification, "Endpoint URLs for OTLP/HTTP").
fn traces(endpoint: &str) -> Result<String, String> {
    let odd = || format!("{endpoint} is no URL such as http://localhost:4318");
    let uri: Uri = endpoint.parse().map_err(|_| odd())?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    if !is_http || uri.authority().is_none() || uri.query().is_some() {
        return Err(odd());
    }
    Ok(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
}

/// Trace, parent and whether that is sampled (W3C Trace Context, section 3.2). Of a later version
/// more may follow.
fn parent(headers: &HeaderMap) -> Option<(TraceId, SpanId, bool)> {
    let text = only(headers, PARENT)?.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str| {
        text.bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let lengths = [version, trace, span, flags].map(str::len);
    let is_form =
        lengths == [2, 32, 16, 2] && [version, trace, span, flags].into_iter().all(is_hex);
    if !is_form || version == "ff" || version == "00" && parts.next().is_some() {
        return None;
    }
    let trace = TraceId::from_hex(trace)
        .ok()
        .filter(|id| *id != TraceId::INVALID)?;
    let span = SpanId::from_hex(span)
        .ok()
        .filter(|id| *id != SpanId::INVALID)?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    Some((trace, span, flags & 1 == 1))
}

fn span_id() -> SpanId {
    let (high, low) = Uuid::new_v4().as_u64_pair();
    SpanId::from_bytes((high ^ low.rotate_left(32)).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(per_million: u32) -> (Spans, Sending) {
        let fetch = Fetch::new(None).unwrap();
        let metrics = Arc::new(Metrics::default());
        Spans::new("http://localhost:1", per_million, "a", fetch, metrics).unwrap()
    }

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_parent_decides_and_chance_only_without_one() {
        let of = |spans: &Spans, values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(PARENT, HeaderValue::from_str(value).unwrap());
            }
            headers.insert(STATE, HeaderValue::from_static("a=b"));
            let sampled = spans.begin(&mut headers, Instant::now());
            (
                sampled,
                headers.contains_key(PARENT),
                headers.contains_key(STATE),
            )
        };
        let ((always, _one), (never, _other)) = (spans(1_000_000), spans(0));
        let sampled = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let (found, kept, state) = of(&never, &[&sampled]);
        let found = found.unwrap();
        assert_eq!(
            (found.trace.to_string().as_str(), kept, state),
            (TRACE, true, true)
        );
        assert_eq!(found.parent.to_string(), "00f067aa0ba902b7");
        let not = format!("00-{TRACE}-00f067aa0ba902b7-00");
        let (found, kept, state) = of(&always, &[&not]);
        assert!(found.is_none() && kept && state);
        // A later version may say more.
        let later = format!("01-{TRACE}-00f067aa0ba902b7-03-more");
        assert!(of(&never, &[&later]).0.is_some());
        for odd in [
            &[][..],
            &[""],
            &[&sampled, &sampled],
            &[&format!("ff-{TRACE}-00f067aa0ba902b7-01")],
            &[&format!("00-{TRACE}-00f067aa0ba902b7-01-more")],
            &[&format!("00-{TRACE}-0000000000000000-01")],
            &["00-00000000000000000000000000000000-00f067aa0ba902b7-01"],
            &[&format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase())],
            &[&format!("00-{TRACE}-00f067aa0ba902b7")],
            &[&format!("00-{TRACE}-00f067aa0ba902b-01")],
        ] {
            let (found, kept, state) = of(&always, odd);
            assert!(
                found.is_some_and(|it| !it.is_remote && it.trace.to_string() != TRACE),
                "{odd:?}"
            );
            assert!(!kept && !state, "{odd:?}");
            assert!(of(&never, odd).0.is_none(), "{odd:?}");
        }
    }

    #[test]
    fn of_so_many_requests_so_many_are_sampled() {
        let (spans, _sending) = spans(250_000);
        let mut headers = HeaderMap::new();
        let count = (0..10_000)
            .filter(|_| spans.begin(&mut headers, Instant::now()).is_some())
            .count();
        // Six standard deviations.
        assert!((2240..2760).contains(&count), "{count}");
    }

    #[test]
    fn an_endpoint_is_a_url() {
        assert_eq!(
            traces("http://localhost:4318/").unwrap(),
            "http://localhost:4318/v1/traces"
        );
        for odd in ["localhost:4318", "ftp://a", "/v1", "http://a?b", ""] {
            assert!(traces(odd).is_err(), "{odd}");
        }
    }
}
