//! What all connections share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::callers::Callers;
use crate::limits::Limits;
use crate::manifest_page::ManifestPage;
use crate::metrics::Metrics;
use crate::origins::Origins;
use crate::overrides::Approvals;
use crate::policy::Policy;
use crate::recorder::Recorder;
use crate::room::Rooms;
use crate::routes::Routes;
use crate::signer::Signer;
use crate::spans::Spans;
use crate::tls::Tls;

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
    pub(crate) rooms: Rooms,
    pub(crate) routes: Routes,
    pub(crate) callers: Callers,
    pub(crate) limits: Limits,
    pub(crate) tls: Option<Tls>,
    pub(crate) origins: Option<Origins>,
    /// Who reads what was written down.
    pub(crate) reading: Arc<Semaphore>,
    /// Between two parts of an answer there may pass so much time.
    pub(crate) answer_idle: Duration,
    pub(crate) manifest: ManifestPage,
    /// Where spans go, if anywhere.
    pub(crate) spans: Option<Spans>,
    /// Who signs, if anybody does.
    pub(crate) signer: Option<Signer>,
    pub(crate) allow_override: bool,
    pub(crate) approvals: Approvals,
    pub(crate) agent_id: String,
}
