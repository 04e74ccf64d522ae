//! What the connection to the enclave and the record count.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// What is counted of the connections to the enclave and of the record. Clones count together; who
/// exports metrics registers one.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Connections to the enclave that work.
    pub connections: Gauge,
    /// Boots of the enclave that were seen.
    pub boots: Counter,
    /// Events written to the record.
    pub record_events: Counter,
    /// 1 while the record cannot be written, and nothing is signed.
    pub record_failing: Gauge,
}
