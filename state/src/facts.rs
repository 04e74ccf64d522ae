//! What is said of a state with each of its keys.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::{Custody, Rollback, StateId};

/// What is said of a state with each of its keys: in bindings, in evidence, in answers about an
/// identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields)]
#[cbor(array)]
pub struct StateFacts {
    /// The state.
    #[n(0)]
    pub state: StateId,
    /// Version of the operator's word that opened it: 1 is the order of the birth.
    #[n(1)]
    pub epoch: u64,
    /// Where its keys are kept.
    #[n(2)]
    pub custody: Custody,
    /// Whether a parent can roll it back.
    #[n(3)]
    pub rollback: Rollback,
}
