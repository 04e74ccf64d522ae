//! Who may ask.

use identity::Digest;
use identity::caller::ObservedCaller;
use serde::{Deserialize, Serialize};

use crate::Annex;
use crate::names::{MultikeyText, check_name};

/// User and group id that stand for everybody whom a user namespace cannot name
/// (user_namespaces(7)).
const OVERFLOW_ID: u32 = 65534;

/// Who may use an identity. Any one match is enough.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Callers {
    /// User ids of Unix socket peers, as the parent asserts them.
    #[serde(default)]
    pub uids: Vec<u32>,
    /// Effective group ids of Unix socket peers, as the parent asserts them.
    #[serde(default)]
    pub gids: Vec<u32>,
    /// Names of asserted callers: on localhost, each with a token of its own in the proxy's
    /// configuration; or in the annex, each with what the parent must have seen.
    #[serde(default)]
    pub names: Vec<String>,
    /// Names of proven callers, which sign each request with a key that the bundle names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proven: Vec<String>,
}

/// A caller whose key, or whose enclave, the bundle names. Exactly one of the two is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenCaller {
    /// Rules and records name it.
    pub name: String,
    /// The Ed25519 or P-256 key that signs its requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<MultikeyText>,
    /// The enclave in which its key lives: its attestation document names the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enclave: Option<PeerEnclave>,
}

/// Measurements of another enclave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerEnclave {
    /// The image.
    pub pcr0: Digest<48>,
    /// Kernel and boot ramdisk.
    pub pcr1: Digest<48>,
    /// Application.
    pub pcr2: Digest<48>,
    /// What it committed to, if that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcr16: Option<Digest<48>>,
}

/// Somebody whose signature lets a request pass that a rule wants approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approver {
    /// Rules and records name it.
    pub name: String,
    /// The Ed25519 or P-256 key that signs its approvals.
    pub key: MultikeyText,
}

impl Callers {
    /// Whether what the parent saw is among these.
    pub fn admit(&self, seen: &ObservedCaller, annex: Option<&Annex>) -> bool {
        let listed = |list: &[u32], id: Option<u32>| id.is_some_and(|id| list.contains(&id));
        let described = |name: &String| annex.is_some_and(|annex| annex.describes(name, seen));
        listed(&self.uids, seen.uid)
            || listed(&self.gids, seen.gid)
            || self
                .names
                .iter()
                .any(|name| seen.name.as_ref() == Some(name) || described(name))
    }

    /// Whether it names nobody.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn check(&self, proven: &[ProvenCaller]) -> Result<(), String> {
        if self.uids.contains(&OVERFLOW_ID) || self.gids.contains(&OVERFLOW_ID) {
            return Err("65534 is nobody in particular and cannot be a caller".into());
        }
        if let Some(name) = self
            .proven
            .iter()
            .find(|name| !proven.iter().any(|caller| caller.name == **name))
        {
            return Err(format!(
                "proven names {name:?}, and no [[callers]] is called so"
            ));
        }
        self.names.iter().try_for_each(|name| check_name(name))
    }
}

impl ProvenCaller {
    pub(crate) fn check(&self) -> Result<(), String> {
        check_name(&self.name)?;
        if self.key.is_some() == self.enclave.is_some() {
            return Err("give either key or enclave".into());
        }
        Ok(())
    }
}
