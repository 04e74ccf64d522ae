//! What is to be done, to what.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{Did, Error, json};

/// What a caller wants a signature for: an action on a target within a resource.
///
/// In JSON an object with those three members, or a string, which is then the action. `action` is
/// never empty; each field is at most 1024 bytes and holds no control characters, so that it can
/// stand in a log line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Intent {
    action: String,
    target: String,
    resource: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    delegatee: Option<Did>,
}

const MAX_BYTES: usize = 1024;

impl Intent {
    /// Checks the three fields.
    pub fn new(action: String, target: String, resource: String) -> Result<Self, Error> {
        if action.is_empty() {
            return Err(Error::IntentInvalid("action is empty"));
        }
        for field in [&action, &target, &resource] {
            if field.len() > MAX_BYTES {
                return Err(Error::IntentInvalid("a field is longer than 1024 bytes"));
            }
            if field.chars().any(char::is_control) {
                return Err(Error::IntentInvalid("a field holds control characters"));
            }
        }
        Ok(Self {
            action,
            target,
            resource,
            delegatee: None,
        })
    }

    /// The same, as a grant: what this one may do from now on. Vouch has it so.
    pub fn granted_to(self, delegatee: Option<Did>) -> Self {
        Self { delegatee, ..self }
    }

    /// To whom it is granted, if it is a grant.
    pub fn delegatee(&self) -> Option<&Did> {
        self.delegatee.as_ref()
    }

    /// What is to be done; never empty.
    pub fn action(&self) -> &str {
        &self.action
    }

    /// What it is done to; may be empty.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Where; may be empty.
    pub fn resource(&self) -> &str {
        &self.resource
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Full {
    action: String,
    #[serde(default)]
    target: String,
    #[serde(default)]
    resource: String,
    #[serde(default)]
    delegatee: Option<Did>,
}

impl<'de> Deserialize<'de> for Intent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let intent = match Value::deserialize(deserializer)? {
            Value::String(action) => Self::new(action, String::new(), String::new()),
            value @ Value::Object(_) => {
                let full: Full = json::typed(value).map_err(D::Error::custom)?;
                Self::new(full.action, full.target, full.resource)
                    .map(|intent| intent.granted_to(full.delegatee))
            }
            _ => {
                let why = "an intent is a string or {action, target, resource, delegatee?}";
                return Err(D::Error::custom(why));
            }
        };
        intent.map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_odd_ones_refused() {
        let short: Intent = serde_json::from_str("\"authorization\"").unwrap();
        assert_eq!(
            (short.action(), short.target(), short.resource()),
            ("authorization", "", "")
        );
        let full: Intent =
            serde_json::from_str("{\"action\":\"a\",\"target\":\"t\",\"resource\":\"r\"}").unwrap();
        assert_eq!(
            (full.action(), full.target(), full.resource()),
            ("a", "t", "r")
        );
        let grant: Intent =
            serde_json::from_str("{\"action\":\"a\",\"delegatee\":\"did:web:a.example\"}").unwrap();
        assert_eq!(
            grant.delegatee().map(Did::as_str),
            Some("did:web:a.example")
        );
        assert_eq!(
            serde_json::to_value(&grant).unwrap()["delegatee"],
            "did:web:a.example"
        );
        assert!(
            serde_json::to_value(&full)
                .unwrap()
                .get("delegatee")
                .is_none()
        );
        assert!(serde_json::from_str::<Intent>("{\"action\":\"a\",\"delegatee\":\"me\"}").is_err());
        let long = format!("\"{}\"", "a".repeat(1025));
        for odd in [
            "\"\"",
            "null",
            "[]",
            "[\"a\"]",
            "[\"a\",\"t\",\"r\"]",
            "1",
            "{}",
            "{\"action\":\"a\",\"x\":1}",
            "\"a\\nb\"",
            "{\"action\":1}",
            &long,
        ] {
            assert!(serde_json::from_str::<Intent>(odd).is_err(), "{odd}");
        }
    }
}
