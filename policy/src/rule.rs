//! What may be signed, and how often.

use std::collections::BTreeMap;

use identity::json;
use serde::{Deserialize, Serialize};

use crate::Pattern;
use crate::names::{check_name, check_validity};

/// Allows signatures whose intent, payload and audience all match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Decisions name it.
    pub name: String,
    /// Accepted actions.
    pub actions: Vec<Pattern>,
    /// Accepted targets.
    pub targets: Vec<Pattern>,
    /// Accepted resources.
    pub resources: Vec<Pattern>,
    /// Accepted audiences; if given, a request must name one. If left out, any audience or none is
    /// accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audiences: Option<Vec<Pattern>>,
    /// A shorter limit than the identity's, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_validity_seconds: Option<u32>,
    /// Payload members that must be there, by RFC 6901 pointer, and what they must be.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub payload: BTreeMap<String, Constraint>,
    /// Whether the payload may hold top-level members that `payload` does not name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub payload_closed: bool,
    /// Whether it is for proven callers only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proven: bool,
    /// Whether it is for what is asked on somebody's behalf only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub delegated: bool,
    /// DIDs to which what it accepts may be granted. If given, the rule is for grants only; if left
    /// out, for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegatees: Option<Vec<Pattern>>,
    /// Whether it may be signed as a plain envelope, which has no target, no audience and no end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub envelope: bool,
    /// Who must approve each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalRule>,
    /// How much it allows in a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
}

/// A request waits until one of these approves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRule {
    /// Names of approvers of the bundle.
    pub by: Vec<String>,
    /// For how long it waits, in seconds; at most an hour.
    pub seconds: u32,
}

impl ApprovalRule {
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.by.is_empty() || !(1..=3600).contains(&self.seconds) {
            return Err("approval: by names approvers, and seconds is 1 to 3600".into());
        }
        Ok(())
    }
}

/// How much is allowed in a time, counted within one boot on the NSM's time: requests, or the sum
/// of a payload member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// In any minute, hour, day, week or month.
    pub per: Period,
    /// At most.
    pub max: u64,
    /// RFC 6901 pointer to a payload member whose amounts are summed: an integer of 0 or more,
    /// which must be there. Of a service's rule `cost`, in micro-dollars, or `tokens`. Left out: requests are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
}

/// A stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
    /// 24 hours.
    Day,
    /// 7 days.
    Week,
    /// 30 days.
    Month,
}

impl Period {
    /// Its length.
    pub fn seconds(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 60 * 60,
            Self::Day => 24 * 60 * 60,
            Self::Week => 7 * 24 * 60 * 60,
            Self::Month => 30 * 24 * 60 * 60,
        }
    }
}

impl Limit {
    /// What a request costs, in micro-dollars.
    pub const COST: &'static str = "cost";
    /// How many tokens a request takes.
    pub const TOKENS: &'static str = "tokens";

    /// Whether it is a budget in money.
    pub fn is_cost(&self) -> bool {
        self.amount.as_deref() == Some(Self::COST)
    }

    fn check_max(&self) -> Result<(), String> {
        if self.max == 0 || self.max > json::MAX_SAFE_INTEGER {
            return Err("the max of a limit is 1 to 2^53-1".into());
        }
        Ok(())
    }

    /// Of a service's rule, whose requests are counted by tokens and cost, or are not.
    pub(crate) fn check_of_service(&self, is_priced: bool) -> Result<(), String> {
        self.check_max()?;
        match self.amount.as_deref() {
            None => Ok(()),
            Some(Self::COST | Self::TOKENS) if is_priced => Ok(()),
            Some(Self::COST | Self::TOKENS) => {
                Err("limits: an amount of cost or tokens needs `priced` in the rule".into())
            }
            Some(_) => Err("limits: of a service's rule the amount is cost or tokens".into()),
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        self.check_max()?;
        match &self.amount {
            Some(pointer) if !pointer.starts_with('/') => Err(not_a_pointer(pointer)),
            _ => Ok(()),
        }
    }
}

/// What a payload member must be; every member that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraint {
    /// Exactly one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<Scalar>>,
    /// An integer, and not below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// An integer, and not above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
    /// A string that matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<Pattern>,
}

/// A JSON value without members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// A safe integer.
    Integer(i64),
    /// A string.
    Text(String),
}

impl Rule {
    pub(crate) fn check(&self) -> Result<(), String> {
        check_name(&self.name)?;
        if self.actions.is_empty() || self.targets.is_empty() || self.resources.is_empty() {
            return Err(
                "actions, targets and resources each need a pattern; \"*\" matches any".into(),
            );
        }
        if self.audiences.as_ref().is_some_and(Vec::is_empty) {
            return Err(
                "an empty list of audiences matches none; leave it out to accept any".into(),
            );
        }
        if self.delegatees.as_ref().is_some_and(Vec::is_empty) {
            return Err("an empty list of delegatees matches none; leave it out for a rule that grants nothing".into());
        }
        self.resources
            .iter()
            .try_for_each(Pattern::check_resource)?;
        if let Some(seconds) = self.max_validity_seconds {
            check_validity(seconds)?;
        }
        for (pointer, constraint) in &self.payload {
            if !pointer.starts_with('/') {
                return Err(not_a_pointer(pointer));
            }
            constraint
                .check()
                .map_err(|why| format!("{pointer:?}: {why}"))?;
        }
        self.approval.iter().try_for_each(ApprovalRule::check)?;
        self.limits.iter().try_for_each(Limit::check)
    }
}

impl Constraint {
    fn check(&self) -> Result<(), &'static str> {
        let scalars = self.one_of.iter().flatten();
        let integers = scalars.filter_map(|scalar| {
            if let Scalar::Integer(n) = scalar {
                Some(*n)
            } else {
                None
            }
        });
        if integers
            .chain(self.min)
            .chain(self.max)
            .any(|n| n.unsigned_abs() > json::MAX_SAFE_INTEGER)
        {
            return Err("an integer is beyond 2^53-1");
        }
        if self.min.zip(self.max).is_some_and(|(min, max)| min > max) {
            return Err("min is above max");
        }
        Ok(())
    }
}

fn not_a_pointer(pointer: &str) -> String {
    format!("{pointer:?} is not an RFC 6901 pointer such as \"/amount\"")
}
