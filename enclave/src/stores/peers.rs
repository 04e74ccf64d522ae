//! Keys of other enclaves, by the digest of the document that names them.

use std::collections::BTreeMap;

use identity::{Digest, PublicKey, UnixSeconds};

/// Verified documents of other enclaves.
const MAX_PEERS: usize = 64;

/// Those that were verified.
#[derive(Default)]
pub(crate) struct Peers(BTreeMap<Digest<32>, Peer>);

/// An enclave that the policy names.
#[derive(Clone)]
pub(crate) struct Peer {
    /// Its name in the policy.
    pub(crate) name: String,
    /// The key that its document names.
    pub(crate) key: PublicKey,
    /// Its PCR0.
    pub(crate) measurement: Digest<48>,
    /// The document was made for this boot, and is believed for so long.
    pub(crate) until: UnixSeconds,
}

impl Peers {
    /// The enclave that a document is of, if that was verified before and is still believed.
    pub(crate) fn known(&self, document: &Digest<32>, latest: UnixSeconds) -> Option<Peer> {
        self.0
            .get(document)
            .filter(|peer| latest <= peer.until)
            .cloned()
    }

    pub(crate) fn remember(&mut self, document: Digest<32>, peer: Peer, latest: UnixSeconds) {
        self.0.retain(|_, peer| latest <= peer.until);
        if self.0.len() >= MAX_PEERS {
            self.0.clear();
        }
        self.0.insert(document, peer);
    }
}

#[cfg(test)]
mod tests {
    use identity::sha256;

    use super::*;

    #[test]
    fn a_document_is_believed_for_its_time_and_only_so_many_are_remembered() {
        let peer = |until| Peer {
            name: "peer".into(),
            key: PublicKey::ed25519(&[1; 32]).unwrap(),
            measurement: Digest([1; 48]),
            until: UnixSeconds(until),
        };
        let mut peers = Peers::default();
        peers.remember(sha256(b"a"), peer(100), UnixSeconds(50));
        assert!(peers.known(&sha256(b"a"), UnixSeconds(100)).is_some());
        assert!(peers.known(&sha256(b"a"), UnixSeconds(101)).is_none());
        assert!(peers.known(&sha256(b"b"), UnixSeconds(100)).is_none());
        for other in 0_u32..1000 {
            peers.remember(sha256(&other.to_be_bytes()), peer(100), UnixSeconds(50));
            assert!(peers.0.len() <= MAX_PEERS);
        }
        // What has run out goes first.
        peers.remember(sha256(b"later"), peer(300), UnixSeconds(200));
        assert_eq!(peers.0.len(), 1);
    }

    #[test]
    fn as_many_are_remembered_as_there_is_room_for() {
        let peer = Peer {
            name: "peer".into(),
            key: PublicKey::ed25519(&[1; 32]).unwrap(),
            measurement: Digest([1; 48]),
            until: UnixSeconds(100),
        };
        let mut peers = Peers::default();
        for number in 0..MAX_PEERS {
            peers.remember(sha256(&number.to_be_bytes()), peer.clone(), UnixSeconds(50));
            assert_eq!(peers.0.len(), number + 1);
        }
        peers.remember(sha256(b"more"), peer, UnixSeconds(50));
        assert_eq!(peers.0.len(), 1);
    }
}
