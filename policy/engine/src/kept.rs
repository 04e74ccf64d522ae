//! Budgets that outlive a boot: what may be used of one before more of it is written down.
//!
//! ```text
//!            what was used, to the part of time          what may be used beyond it
//! seal:      [ ... parts ...                      ] +    [ slice ]
//! after it:  reservations take of the slice; what they did not take goes back to it
//! a boot:    the slice counts as used, all of it, at the moment at which it begins
//! ```
//!
//! So whatever was reserved at the end of a boot, the next one counts that or more. What a service took beyond
//! what was reserved counts from the next seal on.

/// What a seal has of one budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptBudget {
    /// Name of its rule.
    pub rule: String,
    /// Its period, in seconds.
    pub seconds: i64,
    /// The part of time that was now, counted in sixtieths of the period since 1970.
    pub at: i64,
    /// What was used in it and in those before it, oldest first; 61 at most.
    pub parts: Vec<u64>,
    /// What may be used beyond that.
    pub slice: u64,
}

/// So many slices are a whole budget, unless requests are longer than that.
const SLICES: u64 = 32;
/// So many of the longest requests fit into one.
const REQUESTS: u64 = 2;
/// So many times as much is in one at most, however much was wanted: who asks again and again wants the same.
const AT_ONCE: u64 = 4;

/// What of a budget may be used, as far as that is written down.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    /// As the seal that is stored says.
    stored: Slice,
    /// As the seal says that is to be stored.
    sealing: Option<Slice>,
    /// What requests wanted that did not fit.
    wanted: u64,
    /// The most that one of them did; less with each seal.
    most: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slice {
    size: u64,
    used: u64,
    /// Of reservations before this one nothing goes back to it: they are in the parts.
    since: u64,
}

impl Ledger {
    /// Whether this fits in what is written down; what does not is wanted.
    pub(crate) fn has(&mut self, amount: u64) -> bool {
        let fits = amount <= self.stored.size.saturating_sub(self.stored.used);
        if !fits {
            self.wanted = self.wanted.saturating_add(amount);
            self.most = self.most.max(amount);
        }
        fits
    }

    /// Whether there is something that did not fit.
    pub(crate) fn wants(&self) -> bool {
        self.wanted > 0
    }

    /// Takes what was reserved, or what a request took beyond that.
    pub(crate) fn take(&mut self, amount: u64) {
        self.slices()
            .for_each(|slice| slice.used = slice.used.saturating_add(amount));
    }

    /// Gives back of a reservation that was made with this number.
    pub(crate) fn give_back(&mut self, number: u64, amount: u64) {
        self.slices()
            .filter(|slice| slice.since <= number)
            .for_each(|slice| slice.used = slice.used.saturating_sub(amount));
    }

    /// The slice of the next seal, of which the number is `since`: what is left of the one before, for that
    /// is used until the seal is stored, and what was wanted. `room` is what is left of the budget.
    pub(crate) fn seal(&mut self, since: u64, max: u64, room: u64) -> u64 {
        let step = (max / SLICES).max(self.most.saturating_mul(REQUESTS));
        let left = self.stored.size.saturating_sub(self.stored.used).min(step);
        // Never more than is written down, whatever was used beyond it.
        let kept = self.stored.used.saturating_add(left);
        self.stored.size = self.stored.size.min(kept);
        let size = match std::mem::take(&mut self.wanted) {
            0 => left,
            wanted => {
                let most = step.saturating_mul(AT_ONCE);
                let wanted = left.saturating_add(wanted).min(most);
                wanted.max(step).min(room).max(left)
            }
        };
        self.most /= 2;
        self.sealing = Some(Slice {
            size,
            used: 0,
            since,
        });
        size
    }

    /// The last seal is stored.
    pub(crate) fn stored(&mut self) {
        if let Some(sealed) = self.sealing.take() {
            self.stored = sealed;
        }
    }

    fn slices(&mut self) -> impl Iterator<Item = &mut Slice> {
        std::iter::once(&mut self.stored).chain(&mut self.sealing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_used_once_it_is_stored_and_what_did_not_fit_is_in_the_next() {
        let mut ledger = Ledger::default();
        assert!(!ledger.has(10) && ledger.wants());
        assert_eq!(ledger.seal(1, 3200, 3200), 100);
        // Sealed is not stored.
        assert!(!ledger.has(10));
        ledger.stored();
        assert!(ledger.has(100) && !ledger.has(101));
        ledger.take(40);
        // The rest of it, which is used until the next is stored, and what was wanted, 10 and 101, would be 171: less
        // than two of the longest.
        assert_eq!(ledger.seal(2, 3200, 3160), 202);
        assert!(!ledger.wants());
        ledger.take(60);
        assert!(!ledger.has(1));
        ledger.stored();
        assert!(ledger.has(142) && !ledger.has(143));
        // Never more than the budget has, but always what is used until it is stored.
        assert_eq!(ledger.seal(3, 3200, 150), 150);
        assert!(!ledger.has(150));
        assert_eq!(ledger.seal(4, 3200, 5), 142);
    }

    #[test]
    fn what_goes_back_goes_to_slices_since_its_reservation() {
        let mut ledger = Ledger::default();
        ledger.has(50);
        ledger.seal(1, 3200, 3200);
        ledger.stored();
        ledger.take(50);
        // It is in the parts of this seal, whatever becomes of it.
        assert_eq!(ledger.seal(2, 3200, 3150), 50);
        ledger.give_back(1, 50);
        assert!(ledger.has(100));
        ledger.stored();
        assert!(ledger.has(50) && !ledger.has(51));
        ledger.take(50);
        ledger.give_back(1, 50);
        assert!(!ledger.has(1));
        ledger.give_back(2, 20);
        assert!(ledger.has(20) && !ledger.has(21));
    }

    #[test]
    fn what_many_wanted_at_once_is_not_kept_for_ever() {
        let mut ledger = Ledger::default();
        assert!((0..10).all(|_| !ledger.has(100)));
        assert_eq!(ledger.seal(1, 3200, 3200), 800);
        ledger.stored();
        // Nobody came back for it. What is given up is so at once: the next seal does not have it.
        assert!(ledger.has(800));
        assert_eq!(ledger.seal(2, 3200, 3200), 100);
        assert!(ledger.has(100) && !ledger.has(101));
        // Nor is it all that is left, however often somebody asked.
        assert!((0..1000).all(|_| !ledger.has(101)));
        assert_eq!(ledger.seal(3, 3200, 3200), 808);
    }

    #[test]
    fn no_more_is_used_than_is_written_down_whatever_was_taken_beyond_it() {
        let mut ledger = Ledger::default();
        ledger.has(50);
        ledger.seal(1, 3200, 3200);
        ledger.stored();
        // Two of 50, of which one takes 300.
        ledger.take(50);
        ledger.take(50);
        ledger.take(250);
        assert!(!ledger.has(50));
        // Sealed, and not stored yet.
        ledger.seal(2, 3200, 2800);
        ledger.give_back(1, 50);
        assert!(!ledger.has(1));
    }

    #[test]
    fn a_slice_that_nobody_uses_grows_no_further() {
        let mut ledger = Ledger::default();
        for number in 0..50 {
            assert!(!ledger.has(2000));
            assert!(ledger.seal(number, 3200, 3200) <= 3200);
        }
        ledger.stored();
        assert_eq!(ledger.seal(51, 3200, 3200), 2000);
    }
}
