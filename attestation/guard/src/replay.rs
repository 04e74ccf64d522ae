//! Tokens that were used: each opens one call.

use std::collections::{BTreeMap, BTreeSet};

use identity::{Did, UnixSeconds};
use uuid::Uuid;

use crate::Error;
use crate::known::Holder;

/// The tokens that were used, by issuer and `jti`, until they expire. Full, it refuses: forgetting
/// one early would let it be used again. Each holder of keys has a share, and no more.
#[derive(Debug)]
pub(crate) struct ReplayCache {
    holders: BTreeMap<Holder, Used>,
    total: usize,
    most: usize,
    most_of_one: usize,
}

#[derive(Debug, Default)]
struct Used {
    ids: BTreeSet<(Did, Uuid)>,
    by_end: BTreeSet<(UnixSeconds, Did, Uuid)>,
}

impl Used {
    /// Forgets what nobody accepts any longer at `now`; how many those were.
    fn forget_expired(&mut self, now: UnixSeconds) -> usize {
        let before = self.by_end.len();
        while self.by_end.first().is_some_and(|(end, ..)| *end <= now)
            && let Some((_, issuer, id)) = self.by_end.pop_first()
        {
            self.ids.remove(&(issuer, id));
        }
        before - self.by_end.len()
    }
}

impl ReplayCache {
    pub(crate) fn new(most: usize, most_of_one: usize) -> Self {
        Self {
            holders: BTreeMap::new(),
            total: 0,
            most,
            most_of_one,
        }
    }

    /// Remembers that this token was used now. It is accepted by nobody at `end` or later. A token
    /// has one holder only: it names the binding of its key.
    pub(crate) fn use_once(
        &mut self,
        holder: &Holder,
        token: (&Did, Uuid),
        end: UnixSeconds,
        now: UnixSeconds,
    ) -> Result<(), Error> {
        let id = (token.0.clone(), token.1);
        if let Some(used) = self.holders.get_mut(holder) {
            self.total -= used.forget_expired(now);
            if used.ids.contains(&id) {
                return Err(Error::Replayed);
            }
            if used.ids.len() >= self.most_of_one {
                return Err(Error::ReplayCacheFull);
            }
        }
        if self.total >= self.most {
            self.forget_expired(now);
        }
        if self.total >= self.most {
            return Err(Error::ReplayCacheFull);
        }
        let used = self.holders.entry(holder.clone()).or_default();
        used.by_end.insert((end, id.0.clone(), id.1));
        used.ids.insert(id);
        self.total += 1;
        Ok(())
    }

    fn forget_expired(&mut self, now: UnixSeconds) {
        let total = &mut self.total;
        self.holders.retain(|_, used| {
            *total -= used.forget_expired(now);
            !used.ids.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn did(n: u8) -> Did {
        Did::parse(&format!("did:web:agent{n}.example")).unwrap()
    }

    fn holder(n: u8) -> Holder {
        Holder {
            policy: identity::Digest([n; 48]),
            name: "agent".into(),
        }
    }

    fn id(n: u8) -> Uuid {
        Uuid::from_bytes([n; 16])
    }

    #[test]
    fn a_token_is_good_once_and_another_issuers_id_is_another_token() {
        let mut cache = ReplayCache::new(10, 10);
        let (now, end) = (UnixSeconds(100), UnixSeconds(200));
        assert_eq!(
            cache.use_once(&holder(1), (&did(1), id(1)), end, now),
            Ok(())
        );
        assert_eq!(
            cache.use_once(&holder(1), (&did(1), id(1)), end, now),
            Err(Error::Replayed)
        );
        assert_eq!(
            cache.use_once(&holder(1), (&did(1), id(1)), end, UnixSeconds(199)),
            Err(Error::Replayed)
        );
        assert_eq!(
            cache.use_once(&holder(2), (&did(2), id(1)), end, now),
            Ok(())
        );
        assert_eq!(
            cache.use_once(&holder(1), (&did(1), id(2)), end, now),
            Ok(())
        );
        // Nor is it the same because the same one shows it.
        assert_eq!(
            cache.use_once(&holder(1), (&did(2), id(2)), end, now),
            Ok(())
        );
    }

    #[test]
    fn a_full_cache_refuses_and_forgets_nothing_early() {
        let mut cache = ReplayCache::new(4, 3);
        let now = UnixSeconds(100);
        for n in 0..3 {
            assert_eq!(
                cache.use_once(&holder(1), (&did(1), id(n)), UnixSeconds(200), now),
                Ok(())
            );
        }
        // One holder has its share, under whatever DID, and the others theirs.
        assert_eq!(
            cache.use_once(&holder(1), (&did(9), id(3)), UnixSeconds(200), now),
            Err(Error::ReplayCacheFull)
        );
        assert_eq!(
            cache.use_once(&holder(1), (&did(1), id(3)), UnixSeconds(200), now),
            Err(Error::ReplayCacheFull)
        );
        assert_eq!(
            cache.use_once(&holder(2), (&did(2), id(0)), UnixSeconds(150), now),
            Ok(())
        );
        assert_eq!(
            cache.use_once(&holder(2), (&did(2), id(1)), UnixSeconds(200), now),
            Err(Error::ReplayCacheFull)
        );
        assert_eq!(
            cache.use_once(&holder(3), (&did(3), id(1)), UnixSeconds(200), now),
            Err(Error::ReplayCacheFull)
        );
        assert_eq!(
            cache.use_once(&holder(1), (&did(1), id(0)), UnixSeconds(200), now),
            Err(Error::Replayed)
        );
        // A place is free when its token has expired, and then for anybody.
        assert_eq!(
            cache.use_once(
                &holder(3),
                (&did(3), id(1)),
                UnixSeconds(200),
                UnixSeconds(150)
            ),
            Ok(())
        );
        assert_eq!(cache.holders.len(), 2);
        assert_eq!(
            cache.use_once(
                &holder(1),
                (&did(1), id(0)),
                UnixSeconds(300),
                UnixSeconds(200)
            ),
            Ok(())
        );
    }

    proptest! {
        /// Against a plain record of everything.
        #[test]
        fn no_token_is_good_twice(calls in prop::collection::vec((0u8..4, 0u8..6, 1i64..30, 0i64..4), 1..300)) {
            let mut cache = ReplayCache::new(8, 4);
            let mut record: BTreeMap<(u8, u8), i64> = BTreeMap::new();
            let mut now = 0;
            for (issuer, token, life, pause) in calls {
                now += pause;
                record.retain(|_, end| *end > now);
                let of_issuer = record.keys().filter(|(one, _)| *one == issuer).count();
                let expected = if record.contains_key(&(issuer, token)) {
                    Err(Error::Replayed)
                } else if of_issuer >= 4 || record.len() >= 8 {
                    Err(Error::ReplayCacheFull)
                } else {
                    record.insert((issuer, token), now + life);
                    Ok(())
                };
                let end = UnixSeconds(now + life);
                prop_assert_eq!(cache.use_once(&holder(issuer), (&did(issuer), id(token)), end, UnixSeconds(now)), expected);
            }
        }
    }
}
