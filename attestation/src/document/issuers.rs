//! Issuers whose own chains were verified before.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use identity::Digest;
use sha2::{Digest as _, Sha256};

/// Issuers of leaf certificates whose own chains a verifier has verified: most documents that it
/// sees come from the same few parent instances. It lends itself to a [`Verifier`], and changes no
/// verdict: of a chain through a known issuer, only those signatures are not checked again that
/// lead to it. Validity, path lengths and every other rule are held against each certificate each
/// time.
///
/// An issuer is known by its whole path, root first, byte for byte: a mock's is never one of
/// hardware. The 1,024 that were used last are kept, 32 bytes each; who fills them with others takes
/// from nobody more than what they spare. How long a verdict takes tells whether its path was known.
///
/// [`Verifier`]: crate::Verifier
#[derive(Debug, Default)]
pub struct KnownIssuers {
    /// The one that was used last comes first.
    paths: Mutex<VecDeque<Digest<32>>>,
}

/// So many are remembered.
const MAX_PATHS: usize = 1024;

/// A root and the certificates below it, without the leaf: what nothing but their very bytes is
/// equal to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IssuerPath(Digest<32>);

impl IssuerPath {
    /// Root first.
    pub(crate) fn of(authorities: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for der in authorities {
            hash.update((der.len() as u64).to_be_bytes());
            hash.update(der);
        }
        Self(Digest(hash.finalize().into()))
    }
}

impl KnownIssuers {
    /// How many are known.
    pub fn count(&self) -> usize {
        self.paths().len()
    }

    /// Whether this path was verified.
    pub(crate) fn has(&self, path: IssuerPath) -> bool {
        let mut paths = self.paths();
        let place = paths.iter().position(|known| *known == path.0);
        if let Some(place) = place
            && let Some(known) = paths.remove(place)
        {
            paths.push_front(known);
        }
        place.is_some()
    }

    /// Remembers a path that was verified.
    pub(crate) fn remember(&self, path: IssuerPath) {
        let mut paths = self.paths();
        // Another thread may have been faster.
        if !paths.contains(&path.0) {
            paths.push_front(path.0);
            paths.truncate(MAX_PATHS);
        }
    }

    fn paths(&self) -> MutexGuard<'_, VecDeque<Digest<32>>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_issuers_that_were_used_last_are_kept() {
        let known = KnownIssuers::default();
        let path = |n: usize| IssuerPath::of(&[&n.to_be_bytes()]);
        for n in 0..MAX_PATHS {
            assert!(!known.has(path(n)));
            known.remember(path(n));
            known.remember(path(n));
        }
        // The first one is used again, so that the second is forgotten for another.
        assert!(known.has(path(0)));
        known.remember(path(MAX_PATHS));
        assert!(known.has(path(0)) && known.has(path(MAX_PATHS)));
        assert!(!known.has(path(1)));
        assert_eq!(known.count(), MAX_PATHS);
    }

    #[test]
    fn a_path_is_its_certificates_in_their_order_and_nothing_else() {
        let paths: [&[&[u8]]; 7] = [
            &[],
            &[b"ab"],
            &[b"a", b"b"],
            &[b"b", b"a"],
            &[b"ab", b""],
            &[b"", b"ab"],
            &[b"a", b"b", b"c"],
        ];
        for (n, one) in paths.iter().enumerate() {
            for (m, other) in paths.iter().enumerate() {
                assert_eq!(IssuerPath::of(one) == IssuerPath::of(other), n == m);
            }
        }
    }
}
