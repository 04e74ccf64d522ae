//! Rates and budgets: how much was used in the last minute, hour, day, week or month.

use std::collections::BTreeMap;

use identity::json::MAX_SAFE_INTEGER;
use identity::{Payload, UnixSeconds};
use policy::{Budget, IdentityPolicy, Limit, Period, Rule, ServiceRule};

use crate::Denied;
use crate::kept::{KeptBudget, Ledger};

/// A period is counted in so many parts. One more is kept: of the oldest, nobody knows which end of
/// it was used.
const PARTS: i64 = 60;
const KEPT: usize = 61;

/// What was used of the limits of one identity since the enclave booted.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// By rule, `None` for the identity's own limits; and by the limit's place there.
    windows: BTreeMap<Key, Window>,
    /// Of budgets that outlive the boot.
    ledgers: BTreeMap<Key, Ledger>,
    /// Of the last seal.
    seals: u64,
}

impl Usage {
    /// Counts one request that `rule` accepts, if the limits of the rule and of the identity leave
    /// room for it. If one of them does not, none is touched. What is reserved is settled when the
    /// request was done, and released when it was not.
    pub fn reserve(
        &mut self,
        now: UnixSeconds,
        policy: &IdentityPolicy,
        rule: &Rule,
        payload: &Payload,
    ) -> Result<Reservation, Denied> {
        let of_rule = rule
            .limits
            .iter()
            .enumerate()
            .map(|(place, limit)| (Some(&rule.name), place, limit));
        let limits: Vec<_> = of_rule.chain(of_identity(policy)).collect();
        self.reserve_of(now, &limits, |limit| wanted(limit, payload))
    }

    /// Counts one request to a service, and what it takes at most, if the limits of its rule leave room for
    /// it. Of a budget that outlives the boot that room must be written down, too.
    pub fn reserve_request(
        &mut self,
        now: UnixSeconds,
        (rule, budget): (&ServiceRule, Option<Budget>),
        taken: Taken,
    ) -> Result<Reservation, Denied> {
        let limits = rule.limits.iter().enumerate();
        let limits: Vec<_> = limits
            .map(|(place, limit)| (Some(&rule.name), place, limit))
            .collect();
        let wanted = self.wanted_of(now, &limits, |limit| Some(taken.of(limit)))?;
        if budget == Some(Budget::AcrossBoots) {
            let of_cost = || {
                wanted
                    .iter()
                    .filter(|(key, _)| rule.limits[key.1].is_cost())
            };
            let mut has_all = true;
            for (key, amount) in of_cost() {
                // Each is asked: what did not fit is wanted of all of them.
                has_all &= self.ledgers.entry(key.clone()).or_default().has(*amount);
            }
            if !has_all {
                let rule = rule.name.clone();
                return Err(Denied::BudgetNotKept { rule });
            }
            for (key, amount) in of_cost() {
                self.ledgers.entry(key.clone()).or_default().take(*amount);
            }
        }
        Ok(self.take(wanted))
    }

    /// What a request took is known: less than was reserved, or, against what it was to be, more. The request
    /// itself stays counted.
    pub fn settle_request(&mut self, reservation: Reservation, rule: &ServiceRule, taken: Taken) {
        let Reservation { taken: of, seals } = reservation;
        for (key, part, reserved) in of {
            let limit = rule
                .limits
                .get(key.1)
                .filter(|limit| limit.amount.is_some());
            let (Some(limit), Some(window)) = (limit, self.windows.get_mut(&key)) else {
                continue;
            };
            let taken = taken.of(limit);
            let less = reserved.saturating_sub(taken);
            window.subtract(part, less);
            // Whatever a service says.
            let room = MAX_SAFE_INTEGER.saturating_sub(window.sum);
            let more = taken.saturating_sub(reserved).min(room);
            window.add(more);
            if let Some(ledger) = self.ledgers.get_mut(&key) {
                ledger.give_back(seals, less);
                ledger.take(more);
            }
        }
    }

    /// Counts one token exchange, if the identity's limits on the number of requests leave room for
    /// it. Limits over amounts do not apply: an exchange has none.
    pub fn reserve_exchange(
        &mut self,
        now: UnixSeconds,
        policy: &IdentityPolicy,
    ) -> Result<Reservation, Denied> {
        let limits: Vec<_> = of_identity(policy)
            .filter(|(_, _, limit)| limit.amount.is_none())
            .collect();
        self.reserve_of(now, &limits, |limit| wanted(limit, &Payload::default()))
    }

    /// What is left of the limits of a rule, or of the identity's own, in their order. Nothing is
    /// counted. Where the time is not known, what was used when it last was counts.
    pub fn left<'a>(
        &self,
        now: Option<UnixSeconds>,
        rule: Option<&String>,
        limits: &'a [Limit],
    ) -> impl Iterator<Item = Left<'a>> {
        limits.iter().enumerate().map(move |(place, limit)| {
            let window = self.windows.get(&(rule.cloned(), place)).cloned();
            let used = window.map_or(0, |mut window| {
                now.into_iter().for_each(|now| window.advance(now));
                window.sum
            });
            let left = limit.max.saturating_sub(used);
            Left { limit, left }
        })
    }

    /// What was reserved was used: it stays counted for its period.
    pub fn settle(&mut self, reservation: Reservation) {
        drop(reservation);
    }

    /// What was reserved was not used: it is counted no more.
    pub fn release(&mut self, reservation: Reservation) {
        for (key, part, amount) in reservation.taken {
            if let Some(window) = self.windows.get_mut(&key) {
                window.subtract(part, amount);
            }
            if let Some(ledger) = self.ledgers.get_mut(&key) {
                ledger.give_back(reservation.seals, amount);
            }
        }
    }

    fn reserve_of(
        &mut self,
        now: UnixSeconds,
        limits: &[Place<'_>],
        wanted: impl Fn(&Limit) -> Option<u64>,
    ) -> Result<Reservation, Denied> {
        let wanted = self.wanted_of(now, limits, wanted)?;
        Ok(self.take(wanted))
    }

    /// What is wanted of each limit, if all of them have room for it; nothing is counted.
    fn wanted_of(
        &mut self,
        now: UnixSeconds,
        limits: &[Place<'_>],
        wanted: impl Fn(&Limit) -> Option<u64>,
    ) -> Result<Vec<(Key, u64)>, Denied> {
        let mut all = Vec::with_capacity(limits.len());
        for (rule, place, limit) in limits {
            let wanted = wanted(limit).ok_or_else(|| Denied::AmountMissing {
                rule: rule.cloned(),
                amount: limit.amount.clone().unwrap_or_default(),
            })?;
            let key = (rule.cloned(), *place);
            let window = self
                .windows
                .entry(key.clone())
                .or_insert_with(|| Window::new(limit.per, now));
            window.advance(now);
            if window
                .sum
                .checked_add(wanted)
                .is_none_or(|sum| sum > limit.max)
            {
                return Err(exceeded(limit, rule.cloned(), wanted, window));
            }
            all.push((key, wanted));
        }
        Ok(all)
    }

    fn take(&mut self, wanted: Vec<(Key, u64)>) -> Reservation {
        let mut taken = Vec::with_capacity(wanted.len());
        for (key, wanted) in wanted {
            if let Some(window) = self.windows.get_mut(&key) {
                window.add(wanted);
                taken.push((key, window.at, wanted));
            }
        }
        Reservation {
            taken,
            seals: self.seals,
        }
    }

    /// Whether a budget has room that is to be written down before it is used.
    pub fn wants_slices(&self) -> bool {
        self.ledgers.values().any(Ledger::wants)
    }

    /// What a seal says of the budgets of these rules, which outlive the boot.
    pub fn keep(&mut self, now: UnixSeconds, rules: &[ServiceRule]) -> Vec<KeptBudget> {
        self.seals += 1;
        let mut all: Vec<KeptBudget> = Vec::new();
        for (key, limit) in budgets(rules) {
            let Some(window) = self.windows.get_mut(&key) else {
                continue;
            };
            window.advance(now);
            let ledger = self.ledgers.entry(key.clone()).or_default();
            let room = limit.max.saturating_sub(window.sum);
            let slice = ledger.seal(self.seals, limit.max, room);
            let (Some(rule), true) = (key.0, window.sum > 0 || slice > 0) else {
                continue;
            };
            let seconds = limit.per.seconds();
            // Two of the same period count the same.
            let is_same = |kept: &&mut KeptBudget| kept.rule == rule && kept.seconds == seconds;
            if let Some(same) = all.iter_mut().find(is_same) {
                same.slice = same.slice.max(slice);
                continue;
            }
            all.push(KeptBudget {
                rule,
                seconds,
                at: window.at,
                parts: window.used(),
                slice,
            });
        }
        all
    }

    /// The last seal is stored: what it says may be used.
    pub fn stored(&mut self) {
        self.ledgers.values_mut().for_each(Ledger::stored);
    }

    /// What was kept of the budgets of these rules: what may have been used was.
    pub fn restored(rules: &[ServiceRule], kept: &[KeptBudget], now: UnixSeconds) -> Self {
        let mut usage = Self::default();
        for (key, limit) in budgets(rules) {
            let is_its = |kept: &&KeptBudget| {
                Some(&kept.rule) == key.0.as_ref() && kept.seconds == limit.per.seconds()
            };
            if let Some(kept) = kept.iter().find(is_its) {
                let mut window = Window::new(limit.per, now);
                window.restore(kept, now);
                usage.windows.insert(key, window);
            }
        }
        usage
    }
}

/// What a request to a service takes, beside being one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// In micro-dollars.
    pub cost: u64,
    /// Of prompt and answer together.
    pub tokens: u64,
}

impl Taken {
    fn of(self, limit: &Limit) -> u64 {
        match limit.amount.as_deref() {
            None => 1,
            Some(Limit::COST) => self.cost,
            Some(_) => self.tokens,
        }
    }
}

/// A limit, and what is left of it.
#[derive(Debug, Clone, Copy)]
pub struct Left<'a> {
    /// The limit.
    pub limit: &'a Limit,
    /// What is left.
    pub left: u64,
}

/// What a request takes of limits, until it is settled or released.
#[derive(Debug)]
#[must_use = "it stays counted unless it is released"]
pub struct Reservation {
    /// Of which limit, in which part of time, how much.
    taken: Vec<(Key, i64, u64)>,
    /// How many seals there were before.
    seals: u64,
}

/// Of which rule, or of the identity; the limit's place there.
type Key = (Option<String>, usize);

/// A limit: of which rule, or of the identity; its place there.
type Place<'a> = (Option<&'a String>, usize, &'a Limit);

/// The budgets in money of these rules.
fn budgets(rules: &[ServiceRule]) -> impl Iterator<Item = (Key, &Limit)> {
    let of_rule = |rule: &ServiceRule| {
        let name = rule.name.clone();
        move |(place, limit)| ((Some(name.clone()), place), limit)
    };
    rules.iter().flat_map(move |rule| {
        let limits = rule.limits.iter().enumerate();
        limits
            .filter(|(_, limit)| limit.is_cost())
            .map(of_rule(rule))
    })
}

fn of_identity(policy: &IdentityPolicy) -> impl Iterator<Item = Place<'_>> {
    policy
        .limits
        .iter()
        .enumerate()
        .map(|(place, limit)| (None, place, limit))
}

fn wanted(limit: &Limit, payload: &Payload) -> Option<u64> {
    match &limit.amount {
        None => Some(1),
        Some(pointer) => payload.pointer(pointer)?.as_u64(),
    }
}

fn exceeded(limit: &Limit, rule: Option<String>, wanted: u64, window: &Window) -> Denied {
    let (max, per) = (limit.max, name(limit.per));
    let retry_after = window.retry_after(wanted, max);
    match &limit.amount {
        None => Denied::RateLimitExceeded {
            rule,
            max,
            per,
            retry_after,
        },
        Some(amount) => Denied::BudgetExceeded {
            rule,
            amount: amount.clone(),
            max,
            left: max.saturating_sub(window.sum),
            wanted,
            per,
            retry_after,
        },
    }
}

fn name(period: Period) -> &'static str {
    match period {
        Period::Minute => "minute",
        Period::Hour => "hour",
        Period::Day => "day",
        Period::Week => "week",
        Period::Month => "month",
    }
}

/// The sum over the last period, to the sixtieth part of it, rounded to the strict side.
#[derive(Debug, Clone)]
struct Window {
    part_seconds: i64,
    /// The part of time that is now; never goes back.
    at: i64,
    parts: [u64; KEPT],
    sum: u64,
}

impl Window {
    fn new(period: Period, now: UnixSeconds) -> Self {
        let part_seconds = period.seconds() / PARTS;
        Self {
            part_seconds,
            at: now.0.div_euclid(part_seconds),
            parts: [0; KEPT],
            sum: 0,
        }
    }

    fn advance(&mut self, now: UnixSeconds) {
        let now = now.0.div_euclid(self.part_seconds);
        // After a whole period nothing is left of it.
        self.at = self.at.max(now - KEPT as i64);
        while self.at < now {
            self.at += 1;
            let place = self.place(self.at);
            self.sum -= self.parts[place];
            self.parts[place] = 0;
        }
    }

    fn add(&mut self, amount: u64) {
        let place = self.place(self.at);
        self.parts[place] += amount;
        self.sum += amount;
    }

    /// Takes back what was added in a part of time, unless that part is forgotten already.
    fn subtract(&mut self, part: i64, amount: u64) {
        if part > self.at - KEPT as i64 {
            let place = self.place(part);
            self.parts[place] -= amount;
            self.sum -= amount;
        }
    }

    /// What was used, oldest first, without the parts before anything was.
    fn used(&self) -> Vec<u64> {
        let kept = KEPT as i64;
        let parts = (1..=kept).map(|back| self.parts[self.place(self.at + back)]);
        parts.skip_while(|used| *used == 0).collect()
    }

    /// Counts what was kept in its own parts of time, and what may have been used since as if it was now.
    fn restore(&mut self, kept: &KeptBudget, now: UnixSeconds) {
        self.at = self.at.max(kept.at);
        for (back, used) in kept.parts.iter().rev().enumerate() {
            let part = kept
                .at
                .saturating_sub(i64::try_from(back).unwrap_or(i64::MAX));
            if part > self.at - KEPT as i64 {
                self.add_at(part, *used);
            }
        }
        self.advance(now);
        self.add_at(self.at, kept.slice);
    }

    fn add_at(&mut self, part: i64, amount: u64) {
        let amount = amount.min(MAX_SAFE_INTEGER.saturating_sub(self.sum));
        let place = self.place(part);
        self.parts[place] += amount;
        self.sum += amount;
    }

    /// Seconds until so much of what was used is forgotten that `wanted` fits.
    fn retry_after(&self, wanted: u64, max: u64) -> Option<u32> {
        let room = max.checked_sub(wanted)?;
        let mut sum = self.sum;
        for parts in 1..=KEPT as i64 {
            sum -= self.parts[self.place(self.at + parts)];
            if sum <= room {
                return u32::try_from(parts * self.part_seconds).ok();
            }
        }
        None
    }

    fn place(&self, part: i64) -> usize {
        usize::try_from(part.rem_euclid(KEPT as i64)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use policy::ServiceRule;

    use super::*;

    fn rule() -> ServiceRule {
        serde_json::from_value(serde_json::json!({
            "name": "chat", "methods": ["POST"], "paths": ["/chat"], "identities": ["crew"],
            "priced": {"form": "openai-chat", "max_tokens": 100},
            "limits": [
                {"per": "day", "max": 1000, "amount": "cost"},
                {"per": "hour", "max": 5000, "amount": "tokens"},
                {"per": "minute", "max": 4},
            ],
        }))
        .unwrap()
    }

    fn left(usage: &Usage, rule: &ServiceRule, now: i64) -> Vec<u64> {
        let left = usage.left(Some(UnixSeconds(now)), Some(&rule.name), &rule.limits);
        left.map(|left| left.left).collect()
    }

    #[test]
    fn what_a_request_took_takes_the_place_of_what_was_reserved() {
        let (rule, mut usage, now) = (rule(), Usage::default(), UnixSeconds(1_000_000));
        let taken = |cost, tokens| Taken { cost, tokens };
        let first = usage
            .reserve_request(now, (&rule, None), taken(600, 2000))
            .unwrap();
        assert_eq!(left(&usage, &rule, now.0), [400, 3000, 3]);
        // What does not fit touches none of them.
        assert!(matches!(
            usage.reserve_request(now, (&rule, None), taken(401, 1)),
            Err(Denied::BudgetExceeded {
                left: 400,
                wanted: 401,
                per: "day",
                ..
            })
        ));
        assert!(
            usage
                .reserve_request(now, (&rule, None), taken(1, 3001))
                .is_err()
        );
        assert_eq!(left(&usage, &rule, now.0), [400, 3000, 3]);
        usage.settle_request(first, &rule, taken(100, 50));
        // The request stays one.
        assert_eq!(left(&usage, &rule, now.0), [900, 4950, 3]);
        // Another one takes more than it was to, a while later; and one says what no number should be.
        let later = UnixSeconds(now.0 + 40);
        let second = usage
            .reserve_request(later, (&rule, None), taken(1, 1))
            .unwrap();
        usage.settle_request(second, &rule, taken(300, 10));
        assert_eq!(left(&usage, &rule, later.0), [600, 4940, 2]);
        let third = usage
            .reserve_request(later, (&rule, None), taken(1, 1))
            .unwrap();
        usage.settle_request(third, &rule, taken(u64::MAX, u64::MAX));
        assert_eq!(left(&usage, &rule, later.0), [0, 0, 1]);
        assert!(
            usage
                .reserve_request(later, (&rule, None), taken(0, 0))
                .is_err()
        );
        // A reservation of which its part is forgotten takes nothing back.
        let mut usage = Usage::default();
        let old = usage
            .reserve_request(now, (&rule, None), taken(900, 1))
            .unwrap();
        let next = UnixSeconds(now.0 + 3 * 24 * 60 * 60);
        assert_eq!(left(&usage, &rule, next.0), [1000, 5000, 4]);
        let held = usage
            .reserve_request(next, (&rule, None), taken(700, 1))
            .unwrap();
        usage.settle_request(old, &rule, taken(0, 0));
        assert_eq!(left(&usage, &rule, next.0)[0], 300);
        usage.release(held);
        assert_eq!(left(&usage, &rule, next.0), [1000, 5000, 4]);
    }

    fn across(
        usage: &mut Usage,
        rule: &ServiceRule,
        now: i64,
        cost: u64,
    ) -> Result<Reservation, Denied> {
        let taken = Taken { cost, tokens: 0 };
        usage.reserve_request(UnixSeconds(now), (rule, Some(Budget::AcrossBoots)), taken)
    }

    /// With a budget of money alone.
    fn money() -> ServiceRule {
        let mut rule = rule();
        rule.limits.truncate(1);
        rule
    }

    /// Refused first, and then sealed, stored and reserved.
    fn sealed(
        usage: &mut Usage,
        rule: &ServiceRule,
        now: i64,
        cost: u64,
    ) -> (Reservation, Vec<KeptBudget>) {
        let refused = across(usage, rule, now, cost).unwrap_err();
        assert_eq!(refused.code(), "budget_not_kept");
        assert!(usage.wants_slices());
        let kept = usage.keep(UnixSeconds(now), std::slice::from_ref(rule));
        assert!(!usage.wants_slices() && across(usage, rule, now, cost).is_err());
        usage.stored();
        (across(usage, rule, now, cost).unwrap(), kept)
    }

    #[test]
    fn a_boot_counts_what_was_used_before_it_or_more() {
        let (mut rule, now) = (money(), 1_000_000_i64);
        rule.limits[0].max = 10_000;
        let rules = std::slice::from_ref(&rule);
        let mut usage = Usage::default();
        let (first, kept) = sealed(&mut usage, &rule, now, 300);
        // What it has not been used for counts all the same: it might have been.
        let next = Usage::restored(rules, &kept, UnixSeconds(now + 60));
        assert_eq!(left(&next, &rule, now + 60), [9400]);
        usage.settle_request(
            first,
            &rule,
            Taken {
                cost: 100,
                tokens: 0,
            },
        );
        // 200 went back to the slice of 600.
        let second = across(&mut usage, &rule, now, 200).unwrap();
        assert_eq!(left(&usage, &rule, now), [9700]);
        let (_third, kept) = sealed(&mut usage, &rule, now, 350);
        usage.settle_request(second, &rule, Taken { cost: 0, tokens: 0 });
        assert_eq!(left(&usage, &rule, now), [9550]);
        // It had been reserved when that was sealed; 300 were left of the slice, 300 wanted once more, and 350.
        let next = Usage::restored(rules, &kept, UnixSeconds(now + 60));
        assert_eq!(left(&next, &rule, now + 60), [8750]);
        // What a boot may have used counts from its end on, and not from when it was sealed.
        let day = 24 * 60 * 60;
        let later = now + day / 2;
        let next = Usage::restored(rules, &kept, UnixSeconds(later));
        assert_eq!(left(&next, &rule, later), [8750]);
        let after = now + day + day / 30;
        assert_eq!(left(&next, &rule, after), [9050]);
        // A clock that is behind takes nothing back.
        let next = Usage::restored(rules, &kept, UnixSeconds(now - 3 * day));
        assert_eq!(left(&next, &rule, now - 3 * day), [8750]);
        // Nor when it is set right: what was used then counts for its day.
        assert_eq!(left(&next, &rule, now + day / 2), [8750]);
        // Days later nothing is left of it but the slice, which that boot may have used a moment ago.
        let far = now + 3 * day;
        let next = Usage::restored(rules, &kept, UnixSeconds(far));
        assert_eq!(left(&next, &rule, far), [9050]);
    }

    #[test]
    fn what_a_service_took_beyond_what_was_reserved_is_of_the_slice_too() {
        let mut rule = money();
        rule.limits[0].max = 10_000;
        let (mut usage, now) = (Usage::default(), 1_000_000);
        let (asked, _) = sealed(&mut usage, &rule, now, 100);
        // A slice of 312.
        usage.settle_request(
            asked,
            &rule,
            Taken {
                cost: 300,
                tokens: 0,
            },
        );
        let refused = across(&mut usage, &rule, now, 13).unwrap_err();
        assert_eq!(refused.code(), "budget_not_kept");
        let fits = across(&mut usage, &rule, now, 12).unwrap();
        usage.settle(fits);
    }

    #[test]
    fn boot_after_boot_no_more_is_used_than_the_budget_has() {
        let (rule, mut now) = (money(), 1_000_000_i64);
        let rules = std::slice::from_ref(&rule);
        let (mut kept, mut used) = (Vec::new(), 0);
        let mut state = 7_u64;
        for _ in 0..300 {
            let mut usage = Usage::restored(rules, &kept, UnixSeconds(now));
            // Some end later, behind other seals; those that never do have taken all of it.
            let mut open: Vec<(Reservation, u64)> = Vec::new();
            for _ in 0..8 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let (cost, choice) = ((state >> 33) % 30, (state >> 20) % 8);
                now += 1;
                let went = match across(&mut usage, &rule, now, cost) {
                    Err(Denied::BudgetNotKept { .. }) => {
                        let sealed = usage.keep(UnixSeconds(now), rules);
                        match choice {
                            // Never stored.
                            0 => {}
                            // Stored, and nobody hears of it.
                            1 => kept = sealed,
                            _ => {
                                kept = sealed;
                                usage.stored();
                            }
                        }
                        across(&mut usage, &rule, now, cost)
                    }
                    other => other,
                };
                if let Ok(reservation) = went {
                    open.push((reservation, cost));
                }
                if choice > 4 && !open.is_empty() {
                    let (reservation, cost) = open.remove(0);
                    let took = cost / (choice - 4);
                    let taken = Taken {
                        cost: took,
                        tokens: 0,
                    };
                    usage.settle_request(reservation, &rule, taken);
                    used += took;
                }
            }
            used += open.iter().map(|(_, cost)| cost).sum::<u64>();
        }
        assert!(used <= 1000 && used > 300, "{used}");
    }

    #[test]
    fn every_limit_of_a_rule_keeps_its_own_and_requests_are_counted_within_a_boot() {
        let mut rule = rule();
        let week = serde_json::json!({"per": "week", "max": 5000, "amount": "cost"});
        rule.limits
            .push(serde_json::from_value(week.clone()).unwrap());
        rule.limits.push(serde_json::from_value(week).unwrap());
        let now = 1_000_000;
        let rules = std::slice::from_ref(&rule);
        let (mut usage, taken) = (
            Usage::default(),
            Taken {
                cost: 10,
                tokens: 10,
            },
        );
        let budget = Some(Budget::AcrossBoots);
        let asked = usage.reserve_request(UnixSeconds(now), (&rule, budget), taken);
        assert!(matches!(asked, Err(Denied::BudgetNotKept { .. })));
        let kept = usage.keep(UnixSeconds(now), rules);
        let said: Vec<_> = kept.iter().map(|kept| (kept.seconds, kept.slice)).collect();
        assert_eq!(said, [(86_400, 31), (604_800, 156)]);
        usage.stored();
        let asked = usage.reserve_request(UnixSeconds(now), (&rule, budget), taken);
        usage.settle(asked.unwrap());
        // What exceeds a budget is refused as that, and wants no slice.
        let much = Taken {
            cost: 995,
            tokens: 10,
        };
        let asked = usage.reserve_request(UnixSeconds(now), (&rule, budget), much);
        assert!(matches!(asked, Err(Denied::BudgetExceeded { .. })));
        assert!(!usage.wants_slices());
        let kept = usage.keep(UnixSeconds(now), rules);
        let next = Usage::restored(rules, &kept, UnixSeconds(now));
        assert_eq!(left(&next, &rule, now), [969, 5000, 4, 4844, 4844]);
        // Another rule has nothing of it.
        let other = ServiceRule {
            name: "other".into(),
            ..rule
        };
        let next = Usage::restored(std::slice::from_ref(&other), &kept, UnixSeconds(now));
        assert_eq!(left(&next, &other, now), [1000, 5000, 4, 5000, 5000]);
    }

    #[test]
    fn what_goes_back_of_a_reservation_that_was_sealed_does_not_go_to_the_next_slice() {
        let mut rule = money();
        rule.limits[0].max = 10_000;
        let (mut usage, now) = (Usage::default(), 1_000_000);
        let (first, _) = sealed(&mut usage, &rule, now, 300);
        // It was asked for once more while that was sealed.
        let kept = usage.keep(UnixSeconds(now), std::slice::from_ref(&rule));
        assert_eq!(kept[0].slice, 600);
        usage.stored();
        let second = across(&mut usage, &rule, now, 100).unwrap();
        usage.settle_request(first, &rule, Taken::default());
        let refused = across(&mut usage, &rule, now, 501).unwrap_err();
        assert_eq!(refused.code(), "budget_not_kept");
        let third = across(&mut usage, &rule, now, 500).unwrap();
        usage.settle(second);
        usage.settle(third);
    }

    #[test]
    fn a_seal_says_in_which_parts_of_time_a_budget_was_used() {
        let (rule, taken) = (money(), |cost| Taken { cost, tokens: 0 });
        let rules = std::slice::from_ref(&rule);
        let (part, day) = (24 * 60, 24 * 60 * 60);
        let first = 1000 * day;
        let mut usage = Usage::default();
        // Nothing was used of it, and nothing may be.
        let asked = usage.reserve_request(UnixSeconds(first), (&rule, None), taken(2000));
        assert!(asked.is_err());
        assert_eq!(usage.keep(UnixSeconds(first), rules), []);
        for (after, cost) in [(0, 3), (2 * part, 5)] {
            let now = UnixSeconds(first + after);
            let asked = usage.reserve_request(now, (&rule, None), taken(cost));
            usage.settle(asked.unwrap());
        }
        let kept = usage.keep(UnixSeconds(first + 2 * part), rules);
        let wanted = KeptBudget {
            rule: rule.name.clone(),
            seconds: day,
            at: first / part + 2,
            parts: vec![3, 0, 5],
            slice: 0,
        };
        assert_eq!(kept, [wanted]);
        // Each is forgotten after its own period, and not before.
        for (after, is_left) in [(60, 992), (61, 995), (62, 995), (63, 1000)] {
            let now = first + after * part;
            let next = Usage::restored(rules, &kept, UnixSeconds(now));
            assert_eq!(left(&next, &rule, now), [is_left], "{after}");
            assert_eq!(left(&usage, &rule, now), [is_left], "{after}");
        }
    }
}
