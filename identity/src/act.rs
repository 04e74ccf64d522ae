//! Who acts for whom (RFC 8693 section 4.1).

use serde::{Deserialize, Serialize};

/// So many may act for one another (RFC 8693 section 4.1 sets no bound; Vouch does).
pub const MAX_DEPTH: usize = 5;

/// Who acts, and for whom that one acted: the newest outermost (RFC 8693 section 4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// The actor before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Act>>,
    /// `agent:<name>`, where the actor is an identity of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Its DID, or whatever its issuer calls it.
    pub sub: String,
}

impl Act {
    /// The actors, newest first.
    pub fn actors(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |act| act.act.as_deref())
    }

    /// How many act for one another.
    pub fn depth(&self) -> usize {
        self.actors().count()
    }

    /// Whether one of the actors is called so, as `sub` or as `agent`.
    pub fn names(&self, name: &str) -> bool {
        self.actors()
            .any(|act| act.sub == name || act.agent.as_deref() == Some(name))
    }
}
