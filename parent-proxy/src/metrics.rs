//! Prometheus metrics: base units, `_total` and `_seconds`, labels of bounded number only.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{LazyLock, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use enclave_client::Counters;

/// What is remembered of a resource: enough to know it again, under a key of this process.
pub(crate) fn fingerprint(resource: &str) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(resource)
}

/// Route as in the API's description, never the path that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Handled {
    pub(crate) route: &'static str,
    pub(crate) status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Signed {
    pub(crate) identity: String,
    pub(crate) format: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Refused {
    pub(crate) code: String,
}

/// The enclave's refusals, by the identity that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Denied {
    pub(crate) identity: String,
    pub(crate) code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Limited {
    pub(crate) limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Named {
    pub(crate) identity: String,
}

/// Resources that are remembered of one identity; beyond them each one counts as new.
const MAX_RESOURCES: usize = 16 * 1024;

/// All that is counted.
pub(crate) struct Metrics {
    registry: Registry,
    /// Fingerprints of the resources for which each identity has signed.
    resources: Mutex<BTreeMap<String, BTreeSet<u64>>>,
    pub(crate) denials: Family<Denied, Counter>,
    pub(crate) limited: Family<Limited, Counter>,
    pub(crate) new_resources: Family<Named, Counter>,
    pub(crate) requests: Family<Handled, Counter>,
    pub(crate) signatures: Family<Signed, Counter>,
    pub(crate) refusals: Family<Refused, Counter>,
    pub(crate) sign_seconds: Histogram,
    pub(crate) enclave_exits: Counter,
    pub(crate) connections: Gauge,
    pub(crate) state_drill_failed: Gauge,
    pub(crate) state_drills: Counter,
}

impl Metrics {
    /// A request was answered.
    pub(crate) fn handled(&self, route: &'static str, status: u16) {
        self.requests
            .get_or_create(&Handled { route, status })
            .inc();
    }

    /// A request was refused.
    pub(crate) fn refused(&self, code: &str) {
        let code = code.to_owned();
        self.refusals.get_or_create(&Refused { code }).inc();
    }

    /// Those of the connections to the enclave among them.
    pub(crate) fn new(enclave: &Counters) -> Self {
        let buckets = [
            0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 1.0,
        ];
        let mut metrics = Self {
            resources: Mutex::default(),
            denials: Family::default(),
            limited: Family::default(),
            new_resources: Family::default(),
            requests: Family::default(),
            signatures: Family::default(),
            refusals: Family::default(),
            sign_seconds: Histogram::new(buckets),
            enclave_exits: Counter::default(),
            connections: Gauge::default(),
            state_drill_failed: Gauge::default(),
            state_drills: Counter::default(),
            registry: Registry::with_prefix("anchorhold"),
        };
        metrics.register(enclave);
        metrics.register_state();
        metrics
    }

    fn register(&mut self, enclave: &Counters) {
        let registry = &mut self.registry;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program", build);
        registry.register("requests", "HTTP requests answered", self.requests.clone());
        registry.register(
            "signatures",
            "Signatures handed out",
            self.signatures.clone(),
        );
        registry.register(
            "refusals",
            "Requests that the enclave or the sidecar refused, by code",
            self.refusals.clone(),
        );
        registry.register(
            "denials",
            "Requests that the enclave refused, by identity and code",
            self.denials.clone(),
        );
        registry.register(
            "limited",
            "Times that a caller had to wait: requests, connections, or requests waiting for their turn",
            self.limited.clone(),
        );
        registry.register(
            "new_resources",
            "Resources for which an identity signed for the first time since the sidecar started",
            self.new_resources.clone(),
        );
        registry.register(
            "sign_duration_seconds",
            "From a parsed sign request to its answer",
            self.sign_seconds.clone(),
        );
        registry.register(
            "enclave_connections",
            "Connections to the enclave that work",
            enclave.connections.clone(),
        );
        registry.register(
            "enclave_boots",
            "Boots of the enclave that were seen",
            enclave.boots.clone(),
        );
        registry.register(
            "enclave_exits",
            "Times that an enclave said why it ends",
            self.enclave_exits.clone(),
        );
        registry.register(
            "connections",
            "Connections of callers",
            self.connections.clone(),
        );
        registry.register(
            "record_events",
            "Events written to the decision record",
            enclave.record_events.clone(),
        );
        registry.register(
            "record_failing",
            "1 while the record cannot be written, and nothing is signed",
            enclave.record_failing.clone(),
        );
    }

    /// Those of a state that is kept.
    fn register_state(&mut self) {
        self.registry.register(
            "state_drill_failed",
            "1 if what is kept of the state would not have opened when that was tried last",
            self.state_drill_failed.clone(),
        );
        self.registry.register(
            "state_drills",
            "Times that what is kept of the state was opened for a drill, or should have been",
            self.state_drills.clone(),
        );
    }

    /// Counts a resource that this identity has not signed for before.
    pub(crate) fn note_resource(&self, identity: &str, resource: u64) {
        let mut resources = self
            .resources
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = match resources.get_mut(identity) {
            Some(known) => known,
            None => resources.entry(identity.to_owned()).or_default(),
        };
        if known.contains(&resource) {
            return;
        }
        if known.len() < MAX_RESOURCES {
            known.insert(resource);
        }
        drop(resources);
        self.new_resources
            .get_or_create(&Named {
                identity: identity.to_owned(),
            })
            .inc();
    }

    /// The text that Prometheus scrapes.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(metrics: &Metrics, identity: &str) -> u64 {
        let identity = identity.to_owned();
        metrics
            .new_resources
            .get_or_create(&Named { identity })
            .get()
    }

    #[test]
    fn a_resource_counts_once_for_each_identity() {
        let metrics = Metrics::new(&Counters::default());
        for (identity, resource, new) in [
            ("agent", "urn:a", 1),
            ("agent", "urn:a", 1),
            ("agent", "urn:b", 2),
            ("other", "urn:a", 1),
            ("agent", "urn:a", 2),
            ("agent", "", 3),
            ("agent", "urn:A", 4),
        ] {
            metrics.note_resource(identity, fingerprint(resource));
            assert_eq!(counted(&metrics, identity), new, "{identity} {resource}");
        }
        let text = metrics.text();
        for line in [
            "anchorhold_new_resources_total{identity=\"agent\"} 4\n",
            "anchorhold_new_resources_total{identity=\"other\"} 1\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn what_is_no_longer_remembered_counts_as_new_each_time_and_the_rest_stays_known() {
        let metrics = Metrics::new(&Counters::default());
        let most = MAX_RESOURCES as u64;
        (0..most).for_each(|resource| metrics.note_resource("agent", resource));
        assert_eq!(counted(&metrics, "agent"), most);
        for (resource, more) in [(0, 0), (most, 1), (most, 2), (most - 1, 2), (most + 1, 3)] {
            metrics.note_resource("agent", resource);
            assert_eq!(counted(&metrics, "agent"), most + more, "{resource}");
        }
        // The others' places are their own.
        for new in [1, 1] {
            metrics.note_resource("other", most);
            assert_eq!(counted(&metrics, "other"), new);
        }
    }
}
