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
        for bad in ["*x", "a*b", "**"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }
}
