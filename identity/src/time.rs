//! Seconds since 1970, and RFC 3339.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Clocks of signer and verifier may differ by this much, either way. The Vouch verifier allows the
/// same.
pub const SKEW_SECONDS: i64 = 30;

/// Whole seconds since 1970-01-01T00:00:00Z. As text: RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixSeconds(pub i64);

impl UnixSeconds {
    /// This time and `seconds` more.
    pub fn plus(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.0) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "@{}", self.0),
        }
    }
}

/// Not a time that RFC 3339 can write with whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time in whole seconds, UTC, such as 2026-11-21T01:40:51Z")]
pub struct TimeInvalid;

/// Reads `2026-11-21T01:40:51Z`: RFC 3339 in UTC with whole seconds, and no other spelling of it.
pub fn parse_rfc3339(text: &str) -> Result<UnixSeconds, TimeInvalid> {
    let time: jiff::Timestamp = text.parse().map_err(|_| TimeInvalid)?;
    let seconds = UnixSeconds(time.as_second());
    if seconds.to_string() == text {
        Ok(seconds)
    } else {
        Err(TimeInvalid)
    }
}

impl Serialize for UnixSeconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UnixSeconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_of_a_time_is_read() {
        assert_eq!(
            parse_rfc3339("2026-11-21T01:40:51Z"),
            Ok(UnixSeconds(1_795_225_251))
        );
        for other in [
            "2026-11-21T01:40:51.5Z",
            "2026-11-21T01:40:51+00:00",
            "2026-11-21 01:40:51Z",
            "2026-11-21T02:40:51+01:00",
            "x",
        ] {
            assert_eq!(parse_rfc3339(other), Err(TimeInvalid), "{other}");
        }
    }
}
