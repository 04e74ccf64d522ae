//! Rules of the gateway: conditions in CEL over facts of a request, compiled when they are loaded.
//!
//! ```
//! use rules::{Action, Decision, Rules, RuleText};
//!
//! # let manifest = manifest::Manifest::parse(br#"{"agent_id": "a", "trust_level": "untrusted"}"#)?;
//! let rules = Rules::compile(&[RuleText {
//!     name: "credit_card_to_untrusted".into(),
//!     condition: "has_credit_card && trust_level == 'untrusted'".into(),
//!     action: Action::Block,
//! }], &manifest)?;
//! let found = inspect::json(br#"{"card": "4532-0151-1283-0366"}"#, inspect::Purpose::Decide)?;
//! let decision = rules.decide(found.kinds(), "POST", "/book");
//! assert!(matches!(decision, Decision::Block { rule: "credit_card_to_untrusted" }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A condition that cannot be evaluated blocks. Conditions come from the operator and from nobody
//! else: never from a peer, a manifest or a request.

#[cfg(test)]
mod tests;

use cel::{Context, Program, Value};
use inspect::{Kind, Kinds};
use manifest::Manifest;

/// What happens where a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The request is refused; nobody can override that.
    Block,
    /// The caller is warned, and may override it where that is allowed.
    Warn,
    /// What was found passes masked. The condition is asked for each kind that was found by itself.
    Mask,
}

/// A rule as an operator writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleText {
    /// Its name, by which refusals and the log call it.
    pub name: String,
    /// A CEL expression that is true or false.
    pub condition: String,
    /// What happens if it is true.
    pub action: Action,
}

/// What the rules say of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// No condition holds.
    Allow,
    /// A rule warns, and none blocks.
    Warn {
        /// Its name.
        rule: &'a str,
    },
    /// A rule blocks, or cannot be evaluated.
    Block {
        /// Its name.
        rule: &'a str,
    },
}

/// What passes masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masked<'a> {
    /// The first rule that says so.
    pub rule: &'a str,
    /// What is masked.
    pub kinds: Kinds,
}

/// Why rules are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is longer, or nested deeper, than an expression of an operator needs to be.
    #[error(
        "rule {rule}: the condition is longer than {MAX_LENGTH} bytes, or nested deeper than {MAX_NESTING}"
    )]
    TooLarge {
        /// The rule's name.
        rule: String,
    },
    /// It is not CEL.
    #[error("rule {rule}: {why}")]
    NotCel {
        /// The rule's name.
        rule: String,
        /// What the parser says.
        why: String,
    },
    /// It names a fact that there is not.
    #[error("rule {rule}: there is no fact {name}; there are {}", FACTS.join(", "))]
    UnknownFact {
        /// The rule's name.
        rule: String,
        /// What it names.
        name: String,
    },
    /// Its value is neither true nor false.
    #[error("rule {rule}: the condition must be true or false, and is {why}")]
    NotBoolean {
        /// The rule's name.
        rule: String,
        /// What it is.
        why: String,
    },
    /// Two rules have one name.
    #[error("rule {rule}: there are two of this name")]
    Duplicate {
        /// Their name.
        rule: String,
    },
}

/// The longest condition, in bytes.
pub const MAX_LENGTH: usize = 1024;
/// The deepest nesting of brackets in a condition.
pub const MAX_NESTING: usize = 16;

/// Facts of the manifest: the same for every request.
const OF_MANIFEST: [&str; 7] = [
    "trust_level",
    "trust_score",
    "retention",
    "reversibility",
    "human_in_loop",
    "training_consent",
    "agent_id",
];
/// Facts of the request, beside what was found in it.
const OF_REQUEST: [&str; 2] = ["method", "path"];

/// Every fact that a condition may name.
pub const FACTS: [&str; 15] = [
    "has_credit_card",
    "has_ssn",
    "has_email",
    "has_iban",
    "has_phone",
    "has_api_key",
    "trust_level",
    "trust_score",
    "retention",
    "reversibility",
    "human_in_loop",
    "training_consent",
    "agent_id",
    "method",
    "path",
];

/// Rules that are compiled, for one manifest.
pub struct Rules {
    rules: Vec<Rule>,
    manifest: Vec<(&'static str, Value)>,
    /// What is decided for each set of kinds, where no condition looks at anything else of the
    /// request.
    known: Option<Vec<Outcome>>,
}

struct Rule {
    name: String,
    program: Program,
    action: Action,
}

/// The rules that hold, as indices of `rules`: the first one that blocks, and the first one that
/// warns; and what is masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Outcome {
    blocks: Option<usize>,
    warns: Option<usize>,
    masks: Option<usize>,
    masked: Kinds,
}

impl Rules {
    /// Compiles rules for the requests to an agent of this manifest.
    pub fn compile(texts: &[RuleText], manifest: &Manifest) -> Result<Self, Error> {
        let mut rules = Self {
            rules: Vec::new(),
            manifest: of_manifest(manifest),
            known: None,
        };
        for text in texts {
            if rules.rules.iter().any(|rule| rule.name == text.name) {
                return Err(Error::Duplicate {
                    rule: text.name.clone(),
                });
            }
            let rule = compile(text)?;
            rules.check_value(&rule)?;
            rules.rules.push(rule);
        }
        let of_request = |rule: &Rule| {
            let references = rule.program.references();
            OF_REQUEST.iter().any(|name| references.has_variable(name))
        };
        if !rules.rules.iter().any(of_request) {
            let known = all_kinds()
                .map(|kinds| rules.evaluate(kinds, "", ""))
                .collect();
            rules.known = Some(known);
        }
        Ok(rules)
    }

    /// What they say of a request in which these kinds were found.
    pub fn decide(&self, kinds: Kinds, method: &str, path: &str) -> Decision<'_> {
        let outcome = self.outcome(kinds, method, path);
        let name = |at: usize| self.rules[at].name.as_str();
        match (outcome.blocks, outcome.warns) {
            (Some(at), _) => Decision::Block { rule: name(at) },
            (None, Some(at)) => Decision::Warn { rule: name(at) },
            (None, None) => Decision::Allow,
        }
    }

    /// Which of these kinds pass masked; none if nothing is.
    pub fn masked(&self, kinds: Kinds, method: &str, path: &str) -> Option<Masked<'_>> {
        let outcome = self.outcome(kinds, method, path);
        outcome.masks.map(|at| Masked {
            rule: self.rules[at].name.as_str(),
            kinds: outcome.masked,
        })
    }

    /// The kinds of which a condition speaks; all, where one masks whatever it is.
    pub fn watched(&self) -> Kinds {
        let names = |rule: &Rule, kind: Kind| rule.program.references().has_variable(kind.fact());
        let masks_any = self.rules.iter().any(|rule| {
            rule.action == Action::Mask && !Kind::ALL.into_iter().any(|kind| names(rule, kind))
        });
        let speaks = |kind: &Kind| masks_any || self.rules.iter().any(|rule| names(rule, *kind));
        Kind::ALL.into_iter().filter(speaks).collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    fn outcome(&self, kinds: Kinds, method: &str, path: &str) -> Outcome {
        match &self.known {
            Some(known) => known[index(kinds)],
            None => self.evaluate(kinds, method, path),
        }
    }

    fn evaluate(&self, kinds: Kinds, method: &str, path: &str) -> Outcome {
        let context = self.context(kinds, method, path);
        let mut outcome = Outcome::default();
        for (at, rule) in self.rules.iter().enumerate() {
            if rule.action == Action::Mask {
                continue;
            }
            match (rule.program.execute(&context), rule.action) {
                (Ok(Value::Bool(false)), _) => {}
                (Ok(Value::Bool(true)), Action::Warn) => {
                    outcome.warns = outcome.warns.or(Some(at));
                }
                // It holds, or nobody knows whether it does.
                _ => outcome.blocks = outcome.blocks.or(Some(at)),
            }
        }
        for kind in kinds.iter() {
            self.mask(kind, method, path, &mut outcome);
        }
        outcome
    }

    /// What the rules that mask say of one kind.
    fn mask(&self, kind: Kind, method: &str, path: &str, outcome: &mut Outcome) {
        let rules = self.rules.iter().enumerate();
        let mut masking = rules
            .filter(|(_, rule)| rule.action == Action::Mask)
            .peekable();
        if masking.peek().is_none() {
            return;
        }
        let context = self.context([kind].into_iter().collect(), method, path);
        for (at, rule) in masking {
            match rule.program.execute(&context) {
                Ok(Value::Bool(false)) => {}
                Ok(Value::Bool(true)) => {
                    outcome.masks = outcome.masks.or(Some(at));
                    outcome.masked.insert(kind);
                }
                // Nobody knows whether it holds.
                _ => outcome.blocks = outcome.blocks.or(Some(at)),
            }
        }
    }

    fn context(&self, kinds: Kinds, method: &str, path: &str) -> Context<'_, '_> {
        let mut context = Context::default();
        for kind in Kind::ALL {
            context.add_variable_from_value(kind.fact(), kinds.contains(kind));
        }
        for (name, value) in &self.manifest {
            context.add_variable_from_value(*name, value.clone());
        }
        context.add_variable_from_value("method", method.to_owned());
        context.add_variable_from_value("path", path.to_owned());
        context
    }

    /// A condition whose value is no Boolean for one set of facts is none for any.
    fn check_value(&self, rule: &Rule) -> Result<(), Error> {
        let context = self.context(Kinds::default(), "POST", "/");
        let refused = |why| Error::NotBoolean {
            rule: rule.name.clone(),
            why,
        };
        match rule.program.execute(&context) {
            Ok(Value::Bool(_)) => Ok(()),
            Ok(other) => Err(refused(format!("a {:?}", other.type_of()).to_lowercase())),
            Err(error) => Err(refused(error.to_string())),
        }
    }
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.rules.iter().map(|rule| &rule.name))
            .finish()
    }
}

fn compile(text: &RuleText) -> Result<Rule, Error> {
    let rule = || text.name.clone();
    if text.condition.len() > MAX_LENGTH || nesting(&text.condition) > MAX_NESTING {
        return Err(Error::TooLarge { rule: rule() });
    }
    let program = Program::compile(&text.condition).map_err(|error| Error::NotCel {
        rule: rule(),
        why: error.to_string(),
    })?;
    if let Some(name) = unknown(&program) {
        return Err(Error::UnknownFact { rule: rule(), name });
    }
    Ok(Rule {
        name: rule(),
        program,
        action: text.action,
    })
}

fn unknown(program: &Program) -> Option<String> {
    let references = program.references();
    let names = references.variables();
    let unknown = names.into_iter().find(|name| !FACTS.contains(name))?;
    Some(unknown.to_owned())
}

/// The parser's recursion follows brackets; those in strings are counted, too.
fn nesting(condition: &str) -> usize {
    let mut depth = 0_usize;
    let mut deepest = 0;
    for byte in condition.bytes() {
        match byte {
            b'(' | b'[' | b'{' | b'!' | b'-' | b'?' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn of_manifest(manifest: &Manifest) -> Vec<(&'static str, Value)> {
    let text = |text: &'static str| Value::from(text);
    let values = [
        text(manifest.trust_level.into()),
        Value::Int(manifest.trust_score().into()),
        text(manifest.privacy.retention.into()),
        text(manifest.reversibility.level.into()),
        manifest.privacy.human_in_loop.into(),
        manifest.privacy.training_consent.into(),
        Value::from(manifest.identity.agent_id.as_str()),
    ];
    OF_MANIFEST.into_iter().zip(values).collect()
}

/// Every set of kinds, in the order of [`index`].
fn all_kinds() -> impl Iterator<Item = Kinds> {
    (0..1_usize << Kind::ALL.len()).map(|bits| {
        let mut kinds = Kinds::default();
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            if bits & (1 << at) != 0 {
                kinds.insert(kind);
            }
        }
        kinds
    })
}

fn index(kinds: Kinds) -> usize {
    Kind::ALL
        .into_iter()
        .enumerate()
        .map(|(at, kind)| usize::from(kinds.contains(kind)) << at)
        .sum()
}
