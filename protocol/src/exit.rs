//! Why an enclave ends.

use minicbor::{Decode, Encode};

/// The enclave's window: the vsock port on which it listens for the proxy.
pub const WINDOW_PORT: u32 = 5005;
/// Where lines to the outside are lent to the enclave's egress process.
pub const EGRESS_PORT: u32 = 5008;
/// Where lines are lent to the enclave's first process for a service; those for the others listen at
/// the ports after it.
pub const SERVICE_PORT: u32 = 5016;
/// Where lines of agents are passed to the enclave's ingress process.
pub const INGRESS_PORT: u32 = 5032;
/// The parent's port to which an enclave says why it ends.
pub const EXIT_PORT: u32 = 5006;

/// Why an enclave ended: one frame, the enclave's last words. The consoles of production enclaves
/// cannot be read.
///
/// Anybody who can open a vsock to the parent can say such a thing. It is for the operator's eyes;
/// nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ExitReason {
    /// A stable snake_case name.
    #[n(0)]
    pub code: String,
    /// For people.
    #[n(1)]
    pub message: String,
}

impl ExitReason {
    /// The longest frame of this kind, without its length.
    pub const MAX_BYTES: usize = 1024;

    /// Fits any text into [`Self::MAX_BYTES`].
    pub fn new(code: &str, message: &str) -> Self {
        let cut = |text: &str, max: usize| {
            text.chars()
                .scan(0, |used, c| {
                    *used += c.len_utf8();
                    (*used <= max).then_some(c)
                })
                .collect()
        };
        Self {
            code: cut(code, 64),
            message: cut(message, 900),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_reason_fits_its_frame() {
        let reason = ExitReason::new(&"c".repeat(1000), &"\u{1f600}".repeat(1000));
        let encoded = identity::cbor::to_vec(&reason);
        assert!(encoded.len() <= ExitReason::MAX_BYTES);
        assert_eq!(
            identity::cbor::from_slice::<ExitReason>(&encoded).unwrap(),
            reason
        );
    }
}
