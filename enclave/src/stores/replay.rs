//! Proofs of callers that were used: each works once.

use std::collections::BTreeSet;

use identity::request::CallerProof;
use identity::{PublicKey, UnixSeconds, sha256};

use crate::Error;

/// Proofs that are remembered until they run out; more are refused until then. A thousand a second
/// fit.
const MAX_USED: usize = 60 * 1024;

/// Proofs that were used, by the time at which they run out, and the latest time at which any was:
/// those that had run out by then are forgotten, and not taken, whatever the time is for a caller that
/// asks more slowly.
pub(crate) struct ReplayCache {
    used: BTreeSet<(i64, [u8; 32])>,
    latest: UnixSeconds,
}

impl Default for ReplayCache {
    fn default() -> Self {
        Self {
            used: BTreeSet::new(),
            latest: UnixSeconds(i64::MIN),
        }
    }
}

impl ReplayCache {
    /// Uses a proof of this key, whose signature is verified; it works no second time.
    pub(crate) fn spend(
        &mut self,
        proof: &CallerProof,
        key: &PublicKey,
        latest: UnixSeconds,
    ) -> Result<(), Error> {
        self.latest = self.latest.max(latest);
        if proof.exp < self.latest.0 {
            return Err(Error::ProofInvalid("it came too late"));
        }
        self.used = self.used.split_off(&(self.latest.0, [0; 32]));
        if self.used.len() >= MAX_USED {
            return Err(Error::ProofsFull);
        }
        let id = sha256(&[proof.jti.as_bytes(), &key.to_spki()[..]].concat());
        if self.used.insert((proof.exp, id.0)) {
            Ok(())
        } else {
            Err(Error::ProofInvalid("it was used before"))
        }
    }
}

#[cfg(test)]
mod tests {
    use identity::BootId;

    use super::*;

    fn proof(jti: u128, exp: i64) -> CallerProof {
        CallerProof {
            boot_id: BootId::new([1; 16]),
            exp,
            jti: uuid::Uuid::from_u128(jti),
            key_version: 1,
            request: sha256(b""),
        }
    }

    #[test]
    fn a_proof_is_forgotten_only_when_nobody_takes_it_any_more() {
        let key = PublicKey::ed25519(&[1; 32]).unwrap();
        let mut cache = ReplayCache::default();
        let mut spend = |jti, exp, at| {
            cache
                .spend(&proof(jti, exp), &key, UnixSeconds(at))
                .map_err(|error| error.to_string())
        };
        assert_eq!(spend(1, 100, 100), Ok(()));
        assert!(spend(1, 100, 100).unwrap_err().contains("used before"));
        // Another one comes a second later; then the first again, by somebody for whom it is not
        // later yet.
        assert_eq!(spend(2, 130, 101), Ok(()));
        assert!(spend(1, 100, 100).unwrap_err().contains("too late"));
        assert!(spend(2, 130, 90).unwrap_err().contains("used before"));
        assert_eq!(spend(3, 101, 90), Ok(()));
    }

    #[test]
    fn a_full_cache_takes_no_proof_until_others_run_out() {
        let key = PublicKey::ed25519(&[1; 32]).unwrap();
        let mut cache = ReplayCache::default();
        let used = (1..61_440_u32).map(|n| (100, sha256(&n.to_be_bytes()).0));
        cache.used.extend(used);
        let mut spend = |jti, at| cache.spend(&proof(jti, 130), &key, UnixSeconds(at));
        assert_eq!(spend(1, 100), Ok(()));
        assert_eq!(spend(2, 100), Err(Error::ProofsFull));
        assert_eq!(spend(2, 101), Ok(()));
        assert_eq!(cache.used.len(), 2);
    }
}
