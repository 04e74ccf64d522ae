//! The Rego module of a bundle.

use serde::{Deserialize, Serialize};

use crate::ApprovalRule;

/// The longest module, in bytes.
const MAX_MODULE: usize = 24 * 1024;

/// A Rego module that every signature must pass too, after a rule accepted it. What it sees and
/// says, `policy.md` describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rego {
    /// Its text, in the language of OPA 1.0.
    pub module: String,
    /// The package that decides, such as `data.agent.authz`.
    pub entrypoint: String,
    /// Whether token exchanges must pass it as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exchanges: bool,
    /// Who approves what it says requires approval. Nobody, if left out: then that is denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalRule>,
}

impl Rego {
    /// Only its form: this library does not run Rego.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.module.is_empty() || self.module.len() > MAX_MODULE {
            return Err("module has 1 to 24576 bytes".into());
        }
        let word = |part: &str| {
            let mut bytes = part.bytes();
            bytes
                .next()
                .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        match self.entrypoint.strip_prefix("data.") {
            Some(path) if path.split('.').all(word) => {}
            _ => return Err("entrypoint is a package such as data.agent.authz".into()),
        }
        self.approval.iter().try_for_each(ApprovalRule::check)
    }
}
