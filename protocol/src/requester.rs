//! Who asks, and for what of whom.

use identity::caller::ObservedCaller;
use minicbor::{Decode, Encode};

/// Which identity is meant, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Requester {
    /// Who asks, as the parent asserts it.
    #[n(0)]
    pub caller: ObservedCaller,
    /// Its name. Left out, it is the only one that the caller may use.
    #[n(1)]
    pub identity: Option<String>,
}
