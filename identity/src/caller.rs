//! Who asked for a signature, and how sure that is.

use minicbor::{Decode, Encode};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::Digest;
use crate::json::Typed;

/// Who asked. Tokens and records say it in the same words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "strength", rename_all = "lowercase", remote = "Self")]
pub enum Caller {
    /// The parent says so: this proves what the policy allowed, not the agent's will.
    Asserted(ObservedCaller),
    /// The caller's own key signed this very request.
    Proven(Proven),
}

impl Serialize for Caller {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Caller {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // What serde derives for a tag takes an array as well.
        let members = Map::deserialize(deserializer)?;
        Self::deserialize(Typed(Value::Object(members))).map_err(D::Error::custom)
    }
}

/// What the parent says that it saw of a caller. Every member may be missing: it could not be seen,
/// or there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Encode, Decode)]
#[serde(deny_unknown_fields)]
#[cbor(array)]
pub struct ObservedCaller {
    /// 64 hex digits of the container, from its cgroup.
    #[n(0)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// SHA-256 of the executable, if the caller cannot write to it.
    #[n(1)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<Digest<32>>,
    /// Effective group id at connect(2).
    #[n(2)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Security label (SO_PEERSEC).
    #[n(3)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// On localhost, the name whose token was shown.
    #[n(4)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Uid of the Kubernetes pod, from its cgroup.
    #[n(5)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Name of the socket, where there are several.
    #[n(6)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Effective user id at connect(2).
    #[n(7)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// systemd unit, from its cgroup.
    #[n(8)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

/// A caller that the policy names with a key, or with the measurement of an enclave whose key it
/// is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proven {
    /// RFC 7638 thumbprint of the key that signed the request.
    pub key: String,
    /// PCR0 of the enclave in which the key lives, by its attestation document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measurement: Option<Digest<48>>,
    /// Its name in the policy.
    pub name: String,
}

impl Caller {
    /// The same without what a caller can choose for itself: the program that it runs, its group,
    /// its label, and the key that its enclave made. By the rest callers are told apart where
    /// something is shared out among them.
    pub fn without_its_choices(&self) -> Self {
        match self {
            Self::Asserted(seen) => Self::Asserted(ObservedCaller {
                executable: None,
                gid: None,
                label: None,
                ..seen.clone()
            }),
            Self::Proven(proven) if proven.measurement.is_some() => Self::Proven(Proven {
                key: String::new(),
                ..proven.clone()
            }),
            Self::Proven(_) => self.clone(),
        }
    }
}

impl ObservedCaller {
    /// A peer of a Unix socket of which nothing is known but its ids.
    pub fn ids(uid: u32, gid: u32) -> Self {
        Self {
            uid: Some(uid),
            gid: Some(gid),
            ..Self::default()
        }
    }

    /// Somebody on localhost who showed the token of this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{cbor, sha256};

    #[test]
    fn a_caller_is_written_with_what_is_known_of_it_and_read_back() {
        let seen = ObservedCaller {
            executable: Some(sha256(b"x")),
            unit: Some("u".into()),
            ..ObservedCaller::ids(7, 8)
        };
        let cases = [
            (
                Caller::Asserted(ObservedCaller::ids(7, 8)),
                json!({"strength": "asserted", "uid": 7, "gid": 8}),
            ),
            (
                Caller::Asserted(ObservedCaller::named("crew")),
                json!({"strength": "asserted", "name": "crew"}),
            ),
            (
                Caller::Asserted(seen.clone()),
                json!({"strength": "asserted", "uid": 7, "gid": 8, "unit": "u", "executable": sha256(b"x")}),
            ),
            (
                Caller::Proven(Proven {
                    key: "k".into(),
                    measurement: Some(Digest([1; 48])),
                    name: "n".into(),
                }),
                json!({"strength": "proven", "key": "k", "measurement": Digest([1; 48]), "name": "n"}),
            ),
        ];
        for (caller, form) in cases {
            assert_eq!(serde_json::to_value(&caller).unwrap(), form);
            assert_eq!(serde_json::from_value::<Caller>(form).unwrap(), caller);
        }
        for wrong in [
            json!({"uid": 7}),
            json!({"strength": "certain"}),
            json!({"strength": "asserted", "root": true}),
            json!(["asserted", {"uid": 7}]),
            json!("asserted"),
        ] {
            assert!(serde_json::from_value::<Caller>(wrong).is_err());
        }
        for seen in [seen, ObservedCaller::default()] {
            assert_eq!(
                cbor::from_slice::<ObservedCaller>(&cbor::to_vec(&seen)),
                Ok(seen)
            );
        }
    }
}
