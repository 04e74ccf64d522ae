//! Patterns of names and of resources.

use identity::resource;
use serde::{Deserialize, Serialize};

/// A text to compare with: exact, or a prefix where it ends in `*`. A `*` elsewhere is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

/// What a pattern says of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// It matches.
    Yes,
    /// It does not.
    No,
    /// It is a prefix, and the resource is not spelled in the one way, so that it might be another
    /// resource than it seems.
    Unclear(&'static str),
}

impl Pattern {
    /// As it stands in the bundle.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text`, which is no resource, matches; case counts.
    pub fn matches(&self, text: &str) -> bool {
        self.prefix()
            .map_or(text == self.0, |prefix| text.starts_with(prefix))
    }

    /// Whether this resource matches; case counts.
    pub fn matches_resource(&self, text: &str) -> Match {
        let matches = match self.prefix() {
            Some("") => true,
            Some(prefix) => match resource::check(text) {
                Ok(()) => resource::with_path(text).starts_with(prefix),
                Err(error) => return Match::Unclear(why(&error)),
            },
            None => resource::with_path(text) == resource::with_path(&self.0),
        };
        if matches { Match::Yes } else { Match::No }
    }

    /// Refuses a pattern of resources that is not spelled as they are.
    pub(crate) fn check_resource(&self) -> Result<(), String> {
        let checked = match self.prefix() {
            Some(prefix) => resource::check_prefix(prefix),
            None => resource::check_exact(&self.0),
        };
        checked.map_err(|error| format!("{:?} is not canonical: {}", self.0, why(&error)))
    }

    /// Whether everything that `other` matches matches here too.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.prefix(), other.prefix()) {
            (Some(ours), Some(theirs)) => theirs.starts_with(ours),
            (Some(ours), None) => resource::with_path(&other.0).starts_with(ours),
            (None, Some(_)) => false,
            (None, None) => resource::with_path(&self.0) == resource::with_path(&other.0),
        }
    }

    /// Whether anything matches both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    fn prefix(&self) -> Option<&str> {
        self.0.strip_suffix('*')
    }
}

fn why(error: &identity::Error) -> &'static str {
    match error {
        identity::Error::ResourceNotCanonical(why) => why,
        _ => "",
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
    use crate::*;

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
        let covers =
            |one: &str, other: &str| pattern(one).unwrap().covers(&pattern(other).unwrap());
        assert!(
            covers("*", "a*")
                && covers("a*", "a*")
                && covers("a*", "ab*")
                && covers("a*", "ab")
                && covers("a", "a")
        );
        assert!(
            !covers("ab*", "a*") && !covers("a", "a*") && !covers("a", "b") && !covers("ab*", "a")
        );
        let overlap = |one: &str, other: &str| {
            let both = pattern(one).unwrap().overlaps(&pattern(other).unwrap());
            assert_eq!(
                both,
                pattern(other).unwrap().overlaps(&pattern(one).unwrap())
            );
            both
        };
        assert!(
            overlap("*", "a*") && overlap("ab*", "a*") && overlap("a*", "ab") && overlap("a", "a")
        );
        assert!(!overlap("ab*", "ac*") && !overlap("a", "b") && !overlap("ab*", "a"));
        for bad in ["*x", "a*b", "**"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_matches_no_resource_that_might_be_another_one() {
        let pattern = |text: &str| Pattern::try_from(text.to_owned()).unwrap();
        let team = pattern("https://x.example/team-a/*");
        assert_eq!(
            team.matches_resource("https://x.example/team-a/s"),
            Match::Yes
        );
        assert_eq!(
            team.matches_resource("https://x.example/team-b/s"),
            Match::No
        );
        for other in [
            "https://x.example/team-a/../team-b/s",
            "https://x.example/team-a/%2e%2e/team-b/s",
            "https://X.example/team-a/s",
            "https://x.example/team-a/?",
        ] {
            assert!(
                matches!(team.matches_resource(other), Match::Unclear(_)),
                "{other}"
            );
            assert_eq!(pattern("*").matches_resource(other), Match::Yes);
            assert_eq!(pattern(other).matches_resource(other), Match::Yes);
        }
        // What is no resource is a text.
        assert!(pattern("re: *").matches("re: see https://x.example/?q=1 and//or"));
        // A host is the same with and without the path that nothing follows.
        let github = pattern("mcp://github/*");
        assert_eq!(
            (
                github.matches_resource("mcp://github"),
                github.matches_resource("mcp://github/pr")
            ),
            (Match::Yes, Match::Yes)
        );
        assert_eq!(
            pattern("mcp://github").matches_resource("mcp://github/"),
            Match::Yes
        );
        assert_eq!(
            pattern("mcp://github").matches_resource("mcp://github/pr"),
            Match::No
        );
        assert!(
            github.overlaps(&pattern("mcp://github")) && !github.overlaps(&pattern("mcp://gitlab"))
        );
        assert!(
            team.check_resource().is_ok()
                && pattern("https://x.example*").check_resource().is_err()
        );
        assert!(
            pattern("https://x.example/a?b").check_resource().is_ok()
                && pattern("https://X.example/a").check_resource().is_err()
        );
    }
}
