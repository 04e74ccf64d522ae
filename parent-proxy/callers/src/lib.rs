//! Who calls a sidecar, whether it may, and what it may take.
//!
//! ```text
//! Socket ── accept ──> Connected ── CallerQuotas::connects ──> Inspector::see ──> ObservedCaller ─┐
//! TCP ──── request ──> Localhost::caller (token, Host, Origin) ─────────────────> ObservedCaller ─┤
//!                                                                                                 v
//!                                        FairQueue <── CallerQuotas <── Caller <── Admission, Operators
//! ```
//!
//! Whatever is refused on the way is [`TurnedAway`]. The enclave decides again on whom it admits:
//! this keeps strangers from taking the callers' places, and each caller's load its own.

mod admission;
mod caller;
mod error;
mod fair_queue;
mod localhost;
mod one_writer;
mod peer;
mod quotas;
mod socket;
mod tcp_peer;
mod turned_away;

pub use crate::admission::{Admission, Operators};
pub use crate::caller::Caller;
pub use crate::error::Error;
pub use crate::fair_queue::{FairQueue, QueueFull, Slot};
pub use crate::localhost::{Localhost, LocalhostCaller, Shown, proxy_user};
pub use crate::one_writer::OneWriter;
pub use crate::peer::{Connected, Inspector, is_interpreter, sees_other_users, sha256_of};
pub use crate::quotas::{CallerQuota, CallerQuotas, Limits, TooMuch};
pub use crate::socket::{AgentSocket, Socket};
pub use crate::tcp_peer::uid_of;
pub use crate::turned_away::TurnedAway;
