//! Metrics in the text format of Prometheus.

use std::fmt::Write;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// A label `status`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Status {
    /// The HTTP status.
    pub status: u16,
}

/// A label `result`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `allow`, `warn` or `block`.
    pub result: &'static str,
}

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Answers.
    pub requests: Family<Status, Counter>,
    /// How long they took, in seconds.
    pub duration: Histogram,
    /// Decisions.
    pub evaluations: Family<Outcome, Counter>,
    /// Scores that were decided by.
    pub scores: Histogram,
    /// Lines of the flight recorder.
    pub lines: Counter,
    /// Lines that were lost while none could be written.
    pub lost: Counter,
    /// Lines of the flight recorder that are sealed.
    pub sealed: Counter,
    /// Spans that were sent.
    pub spans: Counter,
    /// Spans that were lost: too many waited, or the collector did not take them.
    pub spans_lost: Counter,
    /// Bytes of the flight recorder.
    pub bytes: Gauge<u64, AtomicU64>,
}

/// From a tenth of a millisecond to the longest that an agent may take.
const SECONDS: [f64; 14] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
];
const SCORES: [f64; 11] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::<Status, Counter>::default();
        let duration = Histogram::new(SECONDS);
        let evaluations = Family::<Outcome, Counter>::default();
        let scores = Histogram::new(SCORES);
        let (lines, lost, bytes) = (Counter::default(), Counter::default(), Gauge::default());
        let (sealed, spans, spans_lost) =
            (Counter::default(), Counter::default(), Counter::default());
        registry.register("iatp_requests", "Answers, by status", requests.clone());
        registry.register(
            "iatp_request_duration_seconds",
            "From the head of a request to the head of its answer",
            duration.clone(),
        );
        registry.register(
            "iatp_policy_evaluations",
            "Decisions on requests",
            evaluations.clone(),
        );
        registry.register(
            "iatp_trust_score_distribution",
            "The agent's trust score, once for each decision",
            scores.clone(),
        );
        registry.register(
            "iatp_logs_written",
            "Lines of the flight recorder",
            lines.clone(),
        );
        registry.register(
            "anchorhold_gateway_lines_lost",
            "Lines of the flight recorder that were lost while none could be written",
            lost.clone(),
        );
        registry.register(
            "anchorhold_gateway_lines_sealed",
            "Lines of the flight recorder that an enclave sealed since the start",
            sealed.clone(),
        );
        registry.register(
            "anchorhold_gateway_spans_sent",
            "Spans that a collector has taken",
            spans.clone(),
        );
        registry.register(
            "anchorhold_gateway_spans_lost",
            "Spans that were lost: too many waited, or the collector did not take them",
            spans_lost.clone(),
        );
        registry.register(
            "iatp_trace_storage_bytes",
            "Bytes that the flight recorder keeps",
            bytes.clone(),
        );
        Self {
            registry,
            requests,
            duration,
            evaluations,
            scores,
            lines,
            lost,
            sealed,
            spans,
            spans_lost,
            bytes,
        }
    }
}

impl Metrics {
    /// All of them.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            let _ = writeln!(text, "# the metrics could not be written");
        }
        text
    }
}
