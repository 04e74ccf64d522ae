//! On whose behalf an identity may act.

use serde::{Deserialize, Serialize};

use crate::Pattern;
use crate::names::{MultikeyText, check_name, check_validity};

/// On whose behalf an identity may act, and how far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegation {
    /// Whose tokens and grants it may take up.
    pub from: Vec<Delegator>,
    /// Words of a scope that it may have.
    pub scopes: Vec<Pattern>,
    /// Resources for which it may act.
    pub resources: Vec<Pattern>,
    /// For whom beside the identities of this bundle a token exchange may issue a token (`aud`).
    /// For nobody else, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audiences: Option<Vec<Pattern>>,
    /// How many may act for one another, itself included; at most 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u8>,
    /// A shorter limit than the identity's, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_validity_seconds: Option<u32>,
}

/// Who delegates: written `agent:<name>` or `issuer:<name>`, since an annex must not decide which
/// of both a name means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Delegator {
    /// An identity of this bundle.
    Agent(String),
    /// An issuer of the annex.
    Issuer(String),
}

impl TryFrom<String> for Delegator {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (kind, name) = text.split_once(':').unwrap_or_default();
        let delegator = match kind {
            "agent" => Self::Agent(name.into()),
            "issuer" => Self::Issuer(name.into()),
            _ => {
                return Err(format!(
                    "{text:?}: write agent:<name> for an identity of this bundle, issuer:<name> for an issuer of the annex"
                ));
            }
        };
        check_name(name).map_err(|why| format!("{text:?}: {why}"))?;
        Ok(delegator)
    }
}

impl From<Delegator> for String {
    fn from(delegator: Delegator) -> Self {
        delegator.to_string()
    }
}

impl std::fmt::Display for Delegator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Agent(name) => write!(f, "agent:{name}"),
            Self::Issuer(name) => write!(f, "issuer:{name}"),
        }
    }
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

    /// `is_identity`: whether an identity of the bundle is called so.
    pub(crate) fn check(&self, is_identity: impl Fn(&str) -> bool) -> Result<(), String> {
        if self.from.is_empty() || self.scopes.is_empty() || self.resources.is_empty() {
            return Err("delegation: from, scopes and resources each need an entry".into());
        }
        self.resources.iter().try_for_each(|resource| {
            resource
                .check_resource()
                .map_err(|why| format!("delegation: {why}"))
        })?;
        if self.audiences.as_ref().is_some_and(Vec::is_empty) {
            return Err("delegation: an empty list of audiences is that of this bundle's identities; leave it out".into());
        }
        if self
            .max_depth
            .is_some_and(|depth| !(1..=5).contains(&depth))
        {
            return Err("delegation: max_depth is 1 to 5".into());
        }
        let is_unknown =
            |from: &&Delegator| matches!(from, Delegator::Agent(name) if !is_identity(name));
        if let Some(unknown) = self.from.iter().find(is_unknown) {
            return Err(format!(
                "delegation: from names {unknown}, and no identity is called so"
            ));
        }
        self.max_validity_seconds.map_or(Ok(()), check_validity)
    }
}

impl Issuer {
    pub(crate) fn check(&self) -> Result<(), String> {
        check_name(&self.name)?;
        if [identity::token::APPROVER, identity::delegation::AGENT]
            .iter()
            .any(|kept| self.iss.starts_with(kept))
            || self.iss.starts_with("did:") && identity::Did::parse(&self.iss).is_err()
        {
            return Err("its iss is kept for agents and approvers, or is no DID".into());
        }
        if self.iss.is_empty() || self.keys.is_empty() || self.keys.len() > 16 {
            return Err("an issuer has an iss and 1 to 16 keys".into());
        }
        Ok(())
    }
}
