//! A caller of whom all is known.

use std::sync::Arc;

use identity::caller::ObservedCaller;

use crate::admission::{Admission, Operators};
use crate::quotas::CallerQuota;

/// A caller as this process saw it.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its claim towards the enclave.
    pub claim: ObservedCaller,
    /// Whether any identity of the policy names it.
    pub admitted: bool,
    /// Whether it may see how the sidecar does: its own user, root, and whom the configuration
    /// names.
    pub operator: bool,
    /// What it takes of this process.
    pub quota: Arc<CallerQuota>,
}

impl Caller {
    /// The caller of whom this was seen.
    pub fn of(
        claim: ObservedCaller,
        quota: Arc<CallerQuota>,
        admission: &Admission,
        operators: &Operators,
    ) -> Self {
        Self {
            admitted: admission.admits(&claim),
            operator: operators.include(&claim),
            quota,
            claim,
        }
    }
}
