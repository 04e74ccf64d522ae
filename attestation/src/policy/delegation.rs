use serde::{Deserialize, Serialize};

use super::Pattern;
use super::bundle::{MultikeyText, check_name, check_validity};

/// On whose behalf an identity may act, and how far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegation {
    /// Names of issuers of the annex, and of identities of this bundle, whose tokens it may take up.
    pub from: Vec<String>,
    /// Words of a scope that it may have.
    pub scopes: Vec<Pattern>,
    /// Resources for which it may act.
    pub resources: Vec<Pattern>,
    /// For whom beside the identities of this bundle a token exchange may issue a token (`aud`). For nobody else, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audiences: Option<Vec<Pattern>>,
    /// How many may act for one another, itself included; at most 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u8>,
    /// A shorter limit than the identity's, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_validity_seconds: Option<u32>,
}

/// Somebody outside whose tokens are believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The bundle names it so.
    pub name: String,
    /// `iss` of its tokens.
    pub iss: String,
    /// Its Ed25519 and P-256 keys.
    pub keys: Vec<MultikeyText>,
}

impl Delegation {
    /// The greatest depth.
    pub fn depth(&self) -> usize {
        self.max_depth.map_or(5, usize::from)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.from.is_empty() || self.scopes.is_empty() || self.resources.is_empty() {
            return Err("delegation: from, scopes and resources each need an entry".into());
        }
        if self.audiences.as_ref().is_some_and(Vec::is_empty) {
            return Err("delegation: an empty list of audiences is that of this bundle's identities; leave it out".into());
        }
        if self.max_depth.is_some_and(|depth| !(1..=5).contains(&depth)) {
            return Err("delegation: max_depth is 1 to 5".into());
        }
        self.from.iter().try_for_each(|name| check_name(name))?;
        self.max_validity_seconds.map_or(Ok(()), check_validity)
    }
}

impl Issuer {
    pub(super) fn check(&self) -> Result<(), String> {
        check_name(&self.name)?;
        if self.iss.starts_with(identity::token::APPROVER)
            || self.iss.starts_with("did:") && identity::Did::parse(&self.iss).is_err()
        {
            return Err("its iss is kept for approvers, or is no DID".into());
        }
        if self.iss.is_empty() || self.keys.is_empty() || self.keys.len() > 16 {
            return Err("an issuer has an iss and 1 to 16 keys".into());
        }
        Ok(())
    }
}
