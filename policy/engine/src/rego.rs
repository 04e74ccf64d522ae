//! The operator's Rego module: run in this process, within a time and a memory.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use identity::Caller;
use identity::token::EXCHANGE_ACTION;
use policy::{ApprovalRule, Bundle, IdentityPolicy};
use regorus::utils::limits::{
    ExecutionTimerConfig, LimitError, check_global_memory_limit, set_global_memory_limit,
};
use regorus::{Engine, Value};
use serde_json::json;

use crate::recursion::recursive;
use crate::{Denied, ExchangeInput, PolicyInput};

/// For one decision.
const TIME: Duration = Duration::from_millis(10);
/// For finding out whether the module is one at all, on however slow a machine.
const TIME_TO_LOAD: Duration = Duration::from_secs(2);
/// What may be allocated beyond what was in use when a decision begins, in bytes.
const MEMORY: u64 = 16 << 20;
/// The input as JSON, in bytes. One call can make as much as the product of its two halves of it,
/// which are the 16 MiB.
const MAX_INPUT: usize = 8 * 1024;
/// Steps between two looks at the clock.
const STEPS: NonZeroU32 = NonZeroU32::new(32).expect("not zero");
/// Builtins that make something large of something small in one step, before any limit can stop
/// them, or that fail at odd formats; and chance, which no record could explain. The words are
/// refused wherever they stand, in texts and comments too: a module has other words for what it
/// means, and nobody can hide one of these behind a quote.
const REFUSED: [&str; 8] = [
    "numbers",
    "rand",
    "bits",
    "units",
    "sprintf",
    "to_number",
    "unmarshal",
    "render_template",
];

/// A module that was found to be good.
pub struct Rego {
    /// What to copy when a decision came to no end.
    fresh: Engine,
    engine: Mutex<Engine>,
    rules: Rules,
    entrypoint: String,
    approval: Option<ApprovalRule>,
}

impl std::fmt::Debug for Rego {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rego")
            .field("entrypoint", &self.entrypoint)
            .finish_non_exhaustive()
    }
}

/// The module of a bundle is none, or none that the enclave runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegoError {
    /// The module has a word that stands for builtins which are refused.
    #[error("rego: line {line}: the builtins of {word:?} are not to be had here")]
    RefusedBuiltins {
        /// The word.
        word: &'static str,
        /// Its first line, from 1.
        line: u64,
    },
    /// The module has an import that does nothing, and of which regorus writes to standard error.
    #[error(
        "rego: line {line}: `import {word}` does nothing and is refused; leave it out: {word} is there without it"
    )]
    RefusedImport {
        /// What is imported.
        word: &'static str,
        /// Its line, from 1.
        line: u64,
    },
    /// The module does not compile, does not fit its entrypoint, or fails when it is first run.
    #[error("rego: {0}")]
    Module(String),
}

/// The paths of what is asked of a module.
struct Rules {
    allow: String,
    require_approval: String,
}

/// What a module said: `allow` and `require_approval`, each false unless it is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    allow: bool,
    require_approval: bool,
}

impl Rego {
    /// Compiles the module of a bundle, if it has one, and runs it once. From now on this process
    /// is watched for what it allocates.
    pub fn load(bundle: &Bundle) -> Result<Option<Self>, RegoError> {
        let Some(described) = &bundle.rego else {
            return Ok(None);
        };
        let wrong = |error: String| RegoError::Module(error.lines().collect::<Vec<_>>().join(" "));
        if let Some((word, line)) = refused_word(&described.module) {
            return Err(RegoError::RefusedBuiltins { word, line });
        }
        // Another decision of this process must not set its limit while this one is read.
        let reading = turn();
        let mut engine = Engine::new();
        engine.set_rego_v0(false);
        // Otherwise `print` writes what callers sent to standard error, and panics if that is a
        // full console.
        engine.set_gather_prints(true);
        let package = engine
            .add_policy("policy.rego".into(), described.module.clone())
            .map_err(|error| wrong(error.to_string()))?;
        if package != described.entrypoint {
            return Err(RegoError::Module(format!(
                "the module is of {package}, and the entrypoint is {}",
                described.entrypoint
            )));
        }
        let ast = engine
            .get_ast_as_json()
            .map_err(|error| wrong(error.to_string()))?;
        let ast = serde_json::from_str(&ast)
            .map_err(|_| RegoError::Module("the module is nested too deeply".into()))?;
        if let Some((word, line)) = refused_import(&ast) {
            return Err(RegoError::RefusedImport { word, line });
        }
        if let Some(function) = recursive(&ast) {
            return Err(RegoError::Module(format!(
                "the function {function} would call itself, or stands under `with`"
            )));
        }
        // Both rules are there then, whichever of them the module has.
        let both = format!(
            "package {}\nallow if false\nrequire_approval if false\n",
            package.trim_start_matches("data.")
        );
        engine
            .add_policy("both.rego".into(), both)
            .map_err(|error| wrong(error.to_string()))?;
        drop(reading);
        let rules = Rules {
            allow: format!("{package}.allow"),
            require_approval: format!("{package}.require_approval"),
        };
        run(&mut engine, &rules, trial(), TIME_TO_LOAD)
            .map_err(|denied| wrong(denied.to_string()))?;
        let (entrypoint, approval) = (described.entrypoint.clone(), described.approval.clone());
        Ok(Some(Self {
            fresh: engine.clone(),
            engine: Mutex::new(engine),
            rules,
            entrypoint,
            approval,
        }))
    }

    /// Whether the module allows it; if so, who must approve it first.
    pub(crate) fn decide(
        &self,
        bundle: &Bundle,
        identity: &IdentityPolicy,
        caller: &Caller,
        asked: &PolicyInput<'_>,
    ) -> Result<Option<&ApprovalRule>, Denied> {
        match (
            self.ask(input(bundle, identity, caller, asked)?)?,
            &self.approval,
        ) {
            (
                Said {
                    require_approval: true,
                    ..
                },
                Some(approval),
            ) => Ok(Some(approval)),
            (
                Said {
                    allow: true,
                    require_approval: false,
                },
                _,
            ) => Ok(None),
            _ => Err(Denied::PolicyDenied(self.entrypoint.clone())),
        }
    }

    /// Whether the module allows a token exchange. Nobody can approve one, so what requires an
    /// approval is denied.
    pub(crate) fn decide_exchange(
        &self,
        bundle: &Bundle,
        identity: &IdentityPolicy,
        caller: &Caller,
        asked: &ExchangeInput<'_>,
    ) -> Result<(), Denied> {
        match self.ask(exchange_input(bundle, identity, caller, asked)?)? {
            Said {
                allow: true,
                require_approval: false,
            } => Ok(()),
            _ => Err(Denied::PolicyDenied(self.entrypoint.clone())),
        }
    }

    fn ask(&self, input: Value) -> Result<Said, Denied> {
        let mut engine = self.engine.lock().unwrap_or_else(|poisoned| {
            self.engine.clear_poison();
            let mut engine = poisoned.into_inner();
            *engine = self.fresh.clone();
            engine
        });
        let said = run(&mut engine, &self.rules, input, TIME);
        if said.is_err() {
            *engine = self.fresh.clone();
        }
        said
    }
}

fn run(engine: &mut Engine, rules: &Rules, input: Value, time: Duration) -> Result<Said, Denied> {
    let turn = turn();
    limit_memory();
    engine.set_input(input);
    let begin = Instant::now();
    let mut evaluate = |rule: &String| {
        let limit = time.saturating_sub(begin.elapsed());
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit,
            check_interval: STEPS,
        });
        engine.eval_rule(rule.clone())
    };
    let said = evaluate(&rules.allow)
        .and_then(|allow| evaluate(&rules.require_approval).map(|approval| (allow, approval)));
    // What the module printed is for nobody, and is not kept. The limit is for decisions alone.
    let _ = engine.take_prints();
    set_global_memory_limit(None);
    drop(turn);
    let (allow, require_approval) =
        said.map_err(|error| match error.downcast_ref::<LimitError>() {
            Some(limit) => Denied::PolicyTimeout(limit.to_string()),
            None => Denied::PolicyFailed(error.to_string()),
        })?;
    Ok(Said {
        allow: is_true(&rules.allow, &allow)?,
        require_approval: is_true(&rules.require_approval, &require_approval)?,
    })
}

/// A set of reasons, say, must not pass for a no, where a yes would protect.
fn is_true(rule: &str, value: &Value) -> Result<bool, Denied> {
    match value {
        Value::Bool(said) => Ok(*said),
        Value::Undefined => Ok(false),
        _ => Err(Denied::PolicyFailed(format!(
            "{rule} is neither true nor false"
        ))),
    }
}

/// The limit of memory is of the whole process, so the decisions of it have turns.
fn turn() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What every module sees, once, before anything is decided by it: the members that are always
/// there.
fn trial() -> Value {
    value(&json!({
        "agent": {"name": "", "environment": ""},
        "action": "",
        "target": "",
        "resource": {"id": ""},
        "payload": {},
        "caller": {},
        "delegated": false,
        "envelope": false,
    }))
}

/// An object of the input document, as it is filled.
#[derive(Default)]
struct Object(BTreeMap<Value, Value>);

impl Object {
    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    fn with_some(self, name: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        object.0.into()
    }
}

/// The input document, in the terms that OPA's users expect.
fn input(
    bundle: &Bundle,
    identity: &IdentityPolicy,
    caller: &Caller,
    asked: &PolicyInput<'_>,
) -> Result<Value, Denied> {
    let input = common(bundle, identity, caller, asked.intent.resource())
        .with("action", asked.intent.action())
        .with("target", asked.intent.target())
        .with("payload", object(asked.payload.members()))
        .with("delegated", asked.delegated)
        .with("envelope", asked.envelope)
        .with_some(
            "delegatee",
            asked.intent.delegatee().map(|did| did.as_str()),
        )
        .with_some("audience", asked.audience)
        .with_some("validity_seconds", asked.validity_seconds);
    bounded(input)
}

/// The same of a token exchange: what is always there, and `exchange`.
fn exchange_input(
    bundle: &Bundle,
    identity: &IdentityPolicy,
    caller: &Caller,
    asked: &ExchangeInput<'_>,
) -> Result<Value, Denied> {
    let list = |words: &[String]| words.iter().map(|word| word.as_str().into()).collect();
    let (actors, scope): (Vec<Value>, Vec<Value>) = (list(asked.actors), list(asked.scope));
    let exchange = Object::default()
        .with("from", value(&json!(asked.from)))
        .with("issuer", asked.issuer)
        .with("subject", asked.subject)
        .with("actors", actors)
        .with("scope", scope);
    let input = common(bundle, identity, caller, asked.resource)
        .with("action", EXCHANGE_ACTION)
        .with("target", "")
        .with("payload", Object::default())
        .with("delegated", true)
        .with("envelope", false)
        .with("exchange", exchange)
        .with_some("audience", asked.audience)
        .with("validity_seconds", asked.validity_seconds);
    bounded(input)
}

/// What is known of either: the agent, who asks, and the resource.
fn common(bundle: &Bundle, identity: &IdentityPolicy, caller: &Caller, resource: &str) -> Object {
    let label = bundle.labels(resource);
    let kind = label.and_then(|label| label.kind.as_deref());
    let environment = label.and_then(|label| label.environment.as_deref());
    let agent = Object::default()
        .with("name", identity.name.as_str())
        .with("environment", identity.environment.as_str())
        .with_some("role", identity.role.as_deref());
    let resource = Object::default()
        .with("id", resource)
        .with_some("type", kind)
        .with_some("env", environment);
    Object::default()
        .with("agent", agent)
        .with("resource", resource)
        .with("caller", value(&json!(caller)))
}

/// The same as regorus would read, which would look at the limit of memory while another decision
/// has its turn.
fn value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::Null,
        Json::Bool(bit) => Value::from(*bit),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (_, Some(number)) => Value::from(number),
            // None comes this far.
            _ => number.as_f64().map_or(Value::Null, Value::from),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(value).collect::<Vec<_>>().into(),
        Json::Object(members) => object(members),
    }
}

fn object(members: &serde_json::Map<String, serde_json::Value>) -> Value {
    let member = |(name, json): (&String, _)| (name.as_str().into(), value(json));
    members
        .iter()
        .map(member)
        .collect::<BTreeMap<_, _>>()
        .into()
}

/// The input, if it is not too long as JSON.
fn bounded(input: Object) -> Result<Value, Denied> {
    let input = input.into();
    let mut room = Room(MAX_INPUT);
    match serde_json::to_writer(&mut room, &input) {
        Ok(()) => Ok(input),
        Err(_) => Err(Denied::PolicyInputTooLarge),
    }
}

/// Takes so many bytes, and keeps none of them.
struct Room(usize);

impl io::Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.0.checked_sub(bytes.len());
        self.0 = left.ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A word that stands for builtins which are refused, and its line, if the module has one.
fn refused_word(module: &str) -> Option<(&'static str, u64)> {
    let refused = |line: &str| {
        let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        words.find_map(|word| REFUSED.into_iter().find(|refused| word == *refused))
    };
    (1..)
        .zip(module.split('\n'))
        .find_map(|(number, line)| Some((refused(line)?, number)))
}

/// `import input`, and its line, if the module has it. `ast` is that of regorus, as JSON.
fn refused_import(ast: &serde_json::Value) -> Option<(&'static str, u64)> {
    let imports = ast
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|module| module["ast"]["imports"].as_array())
        .flatten();
    let mut whole = imports
        .filter(|import| import.get("as").is_none())
        .map(|import| &import["refr"]["Var"]);
    let input = whole.find(|variable| variable["value"] == "input")?;
    Some(("input", input["span"]["line"].as_u64().unwrap_or_default()))
}

/// To be called first of all: the allocator asks the kernel for pages of 2 MiB, of each of which
/// every thread would use a little. The image's kernel has none to give, and child processes
/// inherit this.
pub fn without_huge_pages() {
    // Where it cannot be had, only memory is lost.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// What is in use now, and 16 MiB.
fn limit_memory() {
    set_global_memory_limit(Some(0));
    let used = match check_global_memory_limit() {
        Err(LimitError::MemoryLimitExceeded { usage, .. }) => usage,
        _ => 0,
    };
    set_global_memory_limit(Some(used + MEMORY));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_what_regorus_would_read() {
        for text in [
            "null",
            "true",
            "-9223372036854775808",
            "18446744073709551615",
            "9007199254740993",
            "[1, \"x\", {\"a\": {\"b\": [false]}}]",
        ] {
            let read = Value::from_json_str(text).unwrap();
            let ours = value(&serde_json::from_str(text).unwrap());
            assert_eq!(ours, read);
            assert_eq!(ours.to_string(), read.to_string());
        }
    }

    #[test]
    fn this_process_wants_no_large_pages() {
        without_huge_pages();
        assert!(rustix::thread::transparent_huge_pages_are_disabled().unwrap());
    }
}
