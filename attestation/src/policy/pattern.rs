use serde::{Deserialize, Serialize};

/// A text to compare with: exact, or a prefix where it ends in `*`. A `*` elsewhere is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

impl Pattern {
    /// Whether `text` matches; case counts.
    pub fn matches(&self, text: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => text.starts_with(prefix),
            None => text == self.0,
        }
    }
}

impl Pattern {
    /// Whether everything that `other` matches matches here too.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.0.strip_suffix('*'), other.0.strip_suffix('*')) {
            (Some(ours), Some(theirs)) => theirs.starts_with(ours),
            (Some(ours), None) => other.0.starts_with(ours),
            (None, Some(_)) => false,
            (None, None) => self.0 == other.0,
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.find('*') {
            Some(at) if at + 1 != text.len() => Err("a pattern may hold * at its end only"),
            _ => Ok(Self(text)),
        }
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_at_the_end_only() {
        let pattern = |text: &str| Pattern::try_from(text.to_owned());
        assert!(pattern("pay").unwrap().matches("pay"));
        assert!(!pattern("pay").unwrap().matches("payout"));
        assert!(!pattern("pay").unwrap().matches("Pay"));
        assert!(pattern("pay*").unwrap().matches("payout"));
        assert!(!pattern("pay*").unwrap().matches("repay"));
        assert!(pattern("*").unwrap().matches(""));
        assert!(!pattern("").unwrap().matches("x"));
        let covers = |one: &str, other: &str| pattern(one).unwrap().covers(&pattern(other).unwrap());
        assert!(covers("*", "a*") && covers("a*", "a*") && covers("a*", "ab*") && covers("a*", "ab") && covers("a", "a"));
        assert!(!covers("ab*", "a*") && !covers("a", "a*") && !covers("a", "b") && !covers("ab*", "a"));
        for bad in ["*x", "a*b", "**"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }
}
