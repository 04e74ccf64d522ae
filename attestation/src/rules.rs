//! Which rules count: all of them, but for tests that leave one out.

use crate::{Error, Rule};

/// Which rules count. All of them, for everybody: [`Every`] is the only implementation outside of
/// this crate's own tests, which leave one rule out to see that what it refuses is refused by
/// nothing else.
pub(crate) trait Rules {
    /// Whether this rule is left out.
    fn waives(&self, rule: Rule) -> bool;

    /// Whether webpki looks at the chain again, after all rules were held against it. It holds many
    /// of the same rules, so a test that leaves one out must leave it out too.
    fn second_opinion(&self) -> bool {
        true
    }

    /// Holds what was found against the rule that `otherwise` names.
    fn require(&self, holds: bool, otherwise: Error) -> Result<(), Error> {
        if holds || self.waives(Rule::from(&otherwise)) {
            Ok(())
        } else {
            Err(otherwise)
        }
    }

    /// The same, where an earlier look has judged already.
    fn accept(&self, judged: Result<(), Error>) -> Result<(), Error> {
        judged.or_else(|error| self.require(false, error))
    }
}

/// Every rule counts.
pub(crate) struct Every;

impl Rules for Every {
    fn waives(&self, _: Rule) -> bool {
        false
    }
}

/// Every rule but one.
#[cfg(test)]
pub(crate) struct Without(pub(crate) Rule);

#[cfg(test)]
impl Rules for Without {
    fn waives(&self, rule: Rule) -> bool {
        rule == self.0
    }

    fn second_opinion(&self) -> bool {
        matches!(self.0, Rule::ChainSignature | Rule::ChainPath)
    }
}
