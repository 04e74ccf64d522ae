//! Rates and budgets: how much was used in the last minute, hour, day, week or month.

use std::collections::BTreeMap;

use identity::json::MAX_SAFE_INTEGER;
use identity::{Payload, UnixSeconds};
use policy::{IdentityPolicy, Limit, Period, Rule, ServiceRule};

use crate::Denied;

/// A period is counted in so many parts. One more is kept: of the oldest, nobody knows which end of
/// it was used.
const PARTS: i64 = 60;
const KEPT: usize = 61;

/// What was used of the limits of one identity since the enclave booted.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// By rule, `None` for the identity's own limits; and by the limit's place there.
    windows: BTreeMap<Key, Window>,
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
    /// it.
    pub fn reserve_request(
        &mut self,
        now: UnixSeconds,
        rule: &ServiceRule,
        taken: Taken,
    ) -> Result<Reservation, Denied> {
        let limits = rule.limits.iter().enumerate();
        let limits: Vec<_> = limits
            .map(|(place, limit)| (Some(&rule.name), place, limit))
            .collect();
        self.reserve_of(now, &limits, |limit| Some(taken.of(limit)))
    }

    /// What a request took is known: less than was reserved, or, against what it was to be, more. The request
    /// itself stays counted.
    pub fn settle_request(&mut self, reservation: Reservation, rule: &ServiceRule, taken: Taken) {
        for (key, part, reserved) in reservation.0 {
            let limit = rule
                .limits
                .get(key.1)
                .filter(|limit| limit.amount.is_some());
            let (Some(limit), Some(window)) = (limit, self.windows.get_mut(&key)) else {
                continue;
            };
            let taken = taken.of(limit);
            window.subtract(part, reserved.saturating_sub(taken));
            // Whatever a service says.
            let room = MAX_SAFE_INTEGER.saturating_sub(window.sum);
            window.add(taken.saturating_sub(reserved).min(room));
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
        for (key, part, amount) in reservation.0 {
            if let Some(window) = self.windows.get_mut(&key) {
                window.subtract(part, amount);
            }
        }
    }

    fn reserve_of(
        &mut self,
        now: UnixSeconds,
        limits: &[Place<'_>],
        wanted: impl Fn(&Limit) -> Option<u64>,
    ) -> Result<Reservation, Denied> {
        let mut taken = Vec::with_capacity(limits.len());
        for (rule, place, limit) in limits {
            let wanted = wanted(limit).ok_or_else(|| Denied::AmountMissing {
                rule: rule.cloned(),
                amount: limit.amount.clone().unwrap_or_default(),
            })?;
            let window = self
                .windows
                .entry((rule.cloned(), *place))
                .or_insert_with(|| Window::new(limit.per, now));
            window.advance(now);
            if window
                .sum
                .checked_add(wanted)
                .is_none_or(|sum| sum > limit.max)
            {
                return Err(exceeded(limit, rule.cloned(), wanted, window));
            }
            taken.push(wanted);
        }
        let mut reserved = Vec::with_capacity(limits.len());
        for ((rule, place, _), wanted) in limits.iter().zip(taken) {
            let key = (rule.cloned(), *place);
            if let Some(window) = self.windows.get_mut(&key) {
                window.add(wanted);
                reserved.push((key, window.at, wanted));
            }
        }
        Ok(Reservation(reserved))
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
pub struct Reservation(Vec<(Key, i64, u64)>);

/// Of which rule, or of the identity; the limit's place there.
type Key = (Option<String>, usize);

/// A limit: of which rule, or of the identity; its place there.
type Place<'a> = (Option<&'a String>, usize, &'a Limit);

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
        let first = usage.reserve_request(now, &rule, taken(600, 2000)).unwrap();
        assert_eq!(left(&usage, &rule, now.0), [400, 3000, 3]);
        // What does not fit touches none of them.
        assert!(matches!(
            usage.reserve_request(now, &rule, taken(401, 1)),
            Err(Denied::BudgetExceeded {
                left: 400,
                wanted: 401,
                per: "day",
                ..
            })
        ));
        assert!(usage.reserve_request(now, &rule, taken(1, 3001)).is_err());
        assert_eq!(left(&usage, &rule, now.0), [400, 3000, 3]);
        usage.settle_request(first, &rule, taken(100, 50));
        // The request stays one.
        assert_eq!(left(&usage, &rule, now.0), [900, 4950, 3]);
        // Another one takes more than it was to, a while later; and one says what no number should be.
        let later = UnixSeconds(now.0 + 40);
        let second = usage.reserve_request(later, &rule, taken(1, 1)).unwrap();
        usage.settle_request(second, &rule, taken(300, 10));
        assert_eq!(left(&usage, &rule, later.0), [600, 4940, 2]);
        let third = usage.reserve_request(later, &rule, taken(1, 1)).unwrap();
        usage.settle_request(third, &rule, taken(u64::MAX, u64::MAX));
        assert_eq!(left(&usage, &rule, later.0), [0, 0, 1]);
        assert!(usage.reserve_request(later, &rule, taken(0, 0)).is_err());
        // A reservation of which its part is forgotten takes nothing back.
        let mut usage = Usage::default();
        let old = usage.reserve_request(now, &rule, taken(900, 1)).unwrap();
        let next = UnixSeconds(now.0 + 3 * 24 * 60 * 60);
        assert_eq!(left(&usage, &rule, next.0), [1000, 5000, 4]);
        let held = usage.reserve_request(next, &rule, taken(700, 1)).unwrap();
        usage.settle_request(old, &rule, taken(0, 0));
        assert_eq!(left(&usage, &rule, next.0)[0], 300);
        usage.release(held);
        assert_eq!(left(&usage, &rule, next.0), [1000, 5000, 4]);
    }
}
