//! Decides on a request.

use hyper::HeaderMap;
use inspect::Kinds;
use manifest::Manifest;
use rules::{Decision, Rules};
use subtle::ConstantTimeEq;

use crate::answer::{Override, Refusal};
use crate::headers::{OVERRIDE, only};
use crate::read::Request;

/// Below this score callers are warned.
const WARN_BELOW: u8 = 7;

/// Whose arithmetic it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// The reference architecture's.
    #[default]
    Iatp,
    /// The Python SDK's.
    Python,
}

/// What is thought of one agent, whatever it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Its score, of 10.
    pub score: u8,
    /// Of what every caller is warned, if of anything.
    pub warning: Option<String>,
    /// Whether what is overridden is quarantined.
    pub quarantines: bool,
}

impl Trust {
    /// By its manifest; below this score it is quarantined, where the profile has no rules for that.
    pub fn of(manifest: &Manifest, profile: Profile, threshold: u8) -> Self {
        match profile {
            Profile::Iatp => {
                let score = manifest.trust_score();
                let low = || format!("the agent's trust score is {score} of 10");
                Self {
                    score,
                    warning: (score < WARN_BELOW).then(low),
                    quarantines: score < threshold,
                }
            }
            Profile::Python => {
                let warnings = manifest.python_warnings();
                Self {
                    score: manifest.python_trust_score(),
                    warning: (!warnings.is_empty()).then(|| warnings.join("; ")),
                    quarantines: manifest.python_quarantines(),
                }
            }
        }
    }
}

/// What requests to one agent are judged by.
#[derive(Debug)]
pub struct Policy {
    /// The rules for requests.
    pub rules: Rules,
    /// The rules for answers, if there are any.
    pub answers: Option<Rules>,
    /// What is thought of the agent.
    pub trust: Trust,
    /// What overrides a warning.
    pub secret: Option<Vec<u8>>,
}

/// A request that may be forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// The warning that was overridden.
    pub overridden: Option<String>,
    /// What overrode it, and with it every warning of what follows: the shared secret.
    pub by_secret: bool,
    /// It goes to an agent below the trust threshold.
    pub is_quarantined: bool,
    /// What is masked in it, and the rule that says so.
    pub masked: Option<(Kinds, String)>,
}

impl Policy {
    /// Decides. Blocks are never overridden.
    pub fn decide(&self, request: &Request) -> Result<Permit, Refusal> {
        let (method, path) = (request.method.as_str(), request.meant.as_str());
        let warning = match self.rules.decide(request.kinds, method, path) {
            Decision::Block { rule } => {
                let rule = rule.to_owned();
                return Err(Refusal::Blocked { rule });
            }
            Decision::Warn { rule } => Some(format!("the rule {rule} warns")),
            Decision::Allow => None,
        };
        let masked = self.rules.masked(request.kinds, method, path);
        let masked = masked.map(|masked| (masked.kinds, masked.rule.to_owned()));
        let Some(warning) = warning.or_else(|| self.trust.warning.clone()) else {
            return Ok(Permit {
                overridden: None,
                by_secret: false,
                is_quarantined: false,
                masked,
            });
        };
        if !self.is_overridden(&request.headers) {
            return Err(Refusal::Warned {
                warning,
                score: self.trust.score,
                by: match self.secret {
                    Some(_) => Override::SharedSecret,
                    None => Override::Unavailable,
                },
            });
        }
        Ok(Permit {
            by_secret: true,
            ..self.overridden(request, warning)
        })
    }

    /// What somebody has approved, whom it was shown.
    pub fn overridden(&self, request: &Request, warning: String) -> Permit {
        let (method, path) = (request.method.as_str(), request.meant.as_str());
        let masked = self.rules.masked(request.kinds, method, path);
        Permit {
            overridden: Some(warning),
            by_secret: false,
            is_quarantined: self.trust.quarantines,
            masked: masked.map(|masked| (masked.kinds, masked.rule.to_owned())),
        }
    }

    /// Decides on a message of a connection that was permitted: what is masked in it. A warning counts
    /// as overridden if the connection's was.
    pub fn decide_message(
        &self,
        kinds: Kinds,
        method: &str,
        path: &str,
        is_overridden: bool,
    ) -> Result<Option<Kinds>, Refusal> {
        match self.rules.decide(kinds, method, path) {
            Decision::Block { rule } => Err(Refusal::Blocked { rule: rule.into() }),
            Decision::Warn { rule } if !is_overridden => Err(Refusal::Warned {
                warning: format!("the rule {rule} warns"),
                score: self.trust.score,
                by: Override::Unavailable,
            }),
            Decision::Warn { .. } | Decision::Allow => {
                let masked = self.rules.masked(kinds, method, path);
                Ok(masked.map(|masked| masked.kinds))
            }
        }
    }

    fn is_overridden(&self, headers: &HeaderMap) -> bool {
        let given = only(headers, OVERRIDE);
        let secret = self.secret.as_deref();
        given
            .zip(secret)
            .is_some_and(|(given, secret)| given.as_bytes().ct_eq(secret).into())
    }
}
