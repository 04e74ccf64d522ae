//! What a module sees, member by member, and what docs/policy.md says that it sees.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;

use identity::caller::{ObservedCaller, Proven};
use identity::{Caller, Did, Digest, Intent, Payload, PublicKey};
use policy::Bundle;
use policy_engine::{Denied, PolicyInput, Rego, accept};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../../docs/policy.md");
const TO: &str = "did:web:to.example.com";

/// Identities with and without a role, and resources with both labels, with one of them and with
/// none.
const POLICY: &str = r#"version = 1
mode = "production"
proxy_key = "PROXY"
operator_key = "OPERATOR"
callers = [{ name = "robot", key = "ROBOT" }]
resources = [
    { pattern = "both:*", type = "pull_request", environment = "staging" },
    { pattern = "type:*", type = "pull_request" },
    { pattern = "env:*", environment = "staging" },
]
[rego]
entrypoint = "data.exact"
module = '''
MODULE'''
[[identities]]
name = "reviewer"
role = "reads"
environment = "staging"
did = "did:web:agent.example.com"
algorithm = "EdDSA"
max_validity_seconds = 300
callers = { uids = [7], names = ["crew"], proven = ["robot"] }
[[identities.rules]]
name = "any"
actions = ["*"]
targets = ["*"]
resources = ["*"]
envelope = true
[[identities.rules]]
name = "grants"
actions = ["*"]
targets = ["*"]
resources = ["*"]
envelope = true
delegatees = ["did:web:*"]
[[identities]]
name = "nobody"
environment = "staging"
did = "did:web:other.example.com"
algorithm = "EdDSA"
max_validity_seconds = 300
callers = { uids = [7] }
[[identities.rules]]
name = "any"
actions = ["*"]
targets = ["*"]
resources = ["*"]
"#;

fn bundle(module: &str) -> Bundle {
    let key = |from: u8| {
        (from..)
            .find_map(|byte| PublicKey::ed25519(&[byte; 32]).ok())
            .unwrap()
            .to_multikey()
    };
    let text = POLICY
        .replace("PROXY", &key(1))
        .replace("OPERATOR", &key(100))
        .replace("ROBOT", &key(60));
    Bundle::from_toml(&text.replace("MODULE", module)).unwrap()
}

/// A request, and the whole document that a module must see of it.
struct Case {
    identity: &'static str,
    caller: Caller,
    resource: &'static str,
    payload: &'static str,
    audience: Option<&'static str>,
    validity_seconds: Option<u32>,
    delegatee: Option<&'static str>,
    delegated: bool,
    envelope: bool,
    sees: Value,
}

impl Case {
    /// The least that there is: no role, no label, nothing that may be left out.
    fn least() -> Self {
        Self {
            identity: "nobody",
            caller: Caller::Asserted(ObservedCaller::ids(7, 8)),
            resource: "x",
            payload: "{}",
            audience: None,
            validity_seconds: None,
            delegatee: None,
            delegated: false,
            envelope: false,
            sees: json!({
                "agent": {"name": "nobody", "environment": "staging"},
                "action": "read",
                "target": "aim",
                "resource": {"id": "x"},
                "payload": {},
                "caller": {"strength": "asserted", "uid": 7, "gid": 8},
                "delegated": false,
                "envelope": false,
            }),
        }
    }

    /// All that there can be.
    fn most() -> Self {
        let caller = Proven {
            key: "thumbprint".into(),
            measurement: Some(Digest([0xab; 48])),
            name: "robot".into(),
        };
        Self {
            identity: "reviewer",
            caller: Caller::Proven(caller),
            resource: "both:1",
            payload: r#"{"n": 7, "deep": {"list": [true, null, "text"]}}"#,
            audience: Some("https://audience.example"),
            validity_seconds: Some(60),
            delegatee: Some(TO),
            delegated: true,
            envelope: true,
            sees: json!({
                "agent": {"name": "reviewer", "role": "reads", "environment": "staging"},
                "action": "read",
                "target": "aim",
                "resource": {"id": "both:1", "type": "pull_request", "env": "staging"},
                "payload": {"n": 7, "deep": {"list": [true, null, "text"]}},
                "caller": {"strength": "proven", "key": "thumbprint", "measurement": "ab".repeat(48), "name": "robot"},
                "delegated": true,
                "envelope": true,
                "audience": "https://audience.example",
                "validity_seconds": 60,
                "delegatee": TO,
            }),
        }
    }

    /// The least, with something more that a module sees at this place: an RFC 6901 pointer.
    fn with(at: &'static str, sees: Value, change: impl FnOnce(&mut Self)) -> Self {
        let mut case = Self::least();
        change(&mut case);
        set(&mut case.sees, at, Some(sees));
        case
    }

    fn all() -> Vec<Self> {
        let seen = ObservedCaller {
            container: Some("c".into()),
            executable: Some(Digest([0xcd; 32])),
            label: Some("l".into()),
            pod: Some("p".into()),
            socket: Some("s".into()),
            unit: Some("u".into()),
            ..ObservedCaller::ids(7, 8)
        };
        let all_seen = json!({
            "strength": "asserted", "uid": 7, "gid": 8, "container": "c", "executable": "cd".repeat(32), "label": "l",
            "pod": "p", "socket": "s", "unit": "u",
        });
        let crew = json!({"strength": "asserted", "name": "crew"});
        let proven = json!({"strength": "proven", "key": "k", "name": "robot"});
        let reviewer = json!({"name": "reviewer", "role": "reads", "environment": "staging"});
        let robot = Caller::Proven(Proven {
            key: "k".into(),
            measurement: None,
            name: "robot".into(),
        });
        let of_reviewer = |at, sees: &Value, change: &dyn Fn(&mut Self)| {
            let mut case = Self::with("/agent", reviewer.clone(), |case| {
                case.identity = "reviewer"
            });
            change(&mut case);
            set(&mut case.sees, at, Some(sees.clone()));
            case
        };
        vec![
            Self::least(),
            Self::most(),
            of_reviewer("/caller", &crew, &|case| {
                case.caller = Caller::Asserted(ObservedCaller::named("crew"))
            }),
            of_reviewer("/caller", &proven, &|case| case.caller = robot.clone()),
            of_reviewer("/envelope", &json!(true), &|case| case.envelope = true),
            of_reviewer("/delegatee", &json!(TO), &|case| case.delegatee = Some(TO)),
            Self::with("/caller", all_seen, |case| {
                case.caller = Caller::Asserted(seen)
            }),
            Self::with(
                "/resource",
                json!({"id": "type:1", "type": "pull_request"}),
                |case| case.resource = "type:1",
            ),
            Self::with(
                "/resource",
                json!({"id": "env:1", "env": "staging"}),
                |case| case.resource = "env:1",
            ),
            Self::with("/payload", json!({"a": [1]}), |case| {
                case.payload = r#"{"a":[1]}"#
            }),
            Self::with("/audience", json!("x"), |case| case.audience = Some("x")),
            Self::with("/validity_seconds", json!(1), |case| {
                case.validity_seconds = Some(1)
            }),
            Self::with("/delegated", json!(true), |case| case.delegated = true),
        ]
    }

    /// Whether a module allows it that wants exactly `document`. On a busy machine its time may be
    /// over first.
    fn is_allowed_if_input_is(&self, document: &Value) -> bool {
        let bundle = bundle(&format!("package exact\nallow if input == {document}\n"));
        let rego = Rego::load(&bundle).unwrap();
        let to = self.delegatee.map(|did| Did::parse(did).unwrap());
        let intent = Intent::new("read".into(), "aim".into(), self.resource.into())
            .unwrap()
            .granted_to(to);
        let payload = Payload::parse(self.payload.as_bytes()).unwrap();
        let asked = PolicyInput {
            intent: &intent,
            payload: &payload,
            audience: self.audience,
            validity_seconds: self.validity_seconds,
            delegated: self.delegated,
            envelope: self.envelope,
        };
        let identity = bundle.identity(self.identity).unwrap();
        let ask =
            || accept(&bundle, rego.as_ref(), identity, None, &self.caller, &asked).map(|_| ());
        match (0..1000)
            .map(|_| ask())
            .find(|decided| !matches!(decided, Err(Denied::PolicyTimeout(_))))
        {
            Some(Ok(())) => true,
            Some(Err(Denied::PolicyDenied(_))) => false,
            other => panic!("{other:?}"),
        }
    }
}

/// Puts a value at this pointer, or takes it away.
fn set(document: &mut Value, at: &str, value: Option<Value>) {
    let (parent, name) = at.rsplit_once('/').unwrap();
    let parent = document
        .pointer_mut(parent)
        .unwrap()
        .as_object_mut()
        .unwrap();
    match value {
        Some(value) => parent.insert(name.into(), value),
        None => parent.remove(name),
    };
}

/// The members of an input as the page names them: those of `agent` and `resource` with a dot.
/// `caller` and `payload` have their own.
fn names(document: &Value) -> BTreeSet<String> {
    let parts = |(name, value): (&String, &Value)| match value.as_object() {
        Some(parts) if ["agent", "resource"].contains(&name.as_str()) => {
            parts.keys().map(|part| format!("{name}.{part}")).collect()
        }
        _ => vec![name.clone()],
    };
    document
        .as_object()
        .unwrap()
        .iter()
        .flat_map(parts)
        .collect()
}

fn pointer(name: &str) -> String {
    format!("/{}", name.replace('.', "/"))
}

#[test]
fn rego_sees_the_whole_input_and_nothing_else() {
    for case in Case::all() {
        assert!(
            case.is_allowed_if_input_is(&case.sees),
            "it sees something else than {}",
            case.sees
        );
        // Every member counts, and so does one more.
        for name in names(&case.sees) {
            let mut without = case.sees.clone();
            set(&mut without, &pointer(&name), None);
            assert!(
                !case.is_allowed_if_input_is(&without),
                "{name} is not there"
            );
        }
        let mut more = case.sees.clone();
        set(&mut more, "/more", Some(json!(true)));
        assert!(!case.is_allowed_if_input_is(&more), "there is more");
    }
}

#[test]
fn the_page_names_every_member_of_the_input_and_when_it_is_there() {
    let rego = PAGE
        .split("\n## ")
        .find(|part| part.starts_with("Rego\n"))
        .expect("a part about Rego");
    let rows = rego
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| row.split_once("` | ").expect("a row"));
    let (mut all, mut always) = (BTreeSet::new(), BTreeSet::new());
    for (name, rest) in rows {
        assert!(all.insert(name.to_owned()), "{name} stands there twice");
        if rest.starts_with("always |") {
            always.insert(name.to_owned());
        }
    }
    assert_eq!(all, names(&Case::most().sees));
    assert_eq!(always, names(&Case::least().sees));
    // What is not always there is seen to be there and not to be there.
    for name in &all {
        let there = |case: &Case| case.sees.pointer(&pointer(name)).is_some();
        assert_eq!(
            Case::all().iter().all(there),
            always.contains(name),
            "{name}"
        );
    }
}

#[test]
fn the_first_run_of_a_module_has_the_members_that_are_always_there() {
    let trial = json!({
        "agent": {"name": "", "environment": ""},
        "action": "",
        "target": "",
        "resource": {"id": ""},
        "payload": {},
        "caller": {},
        "delegated": false,
        "envelope": false,
    });
    assert_eq!(names(&trial), names(&Case::least().sees));
    // A module that says neither true nor false, if its input is this.
    let module = |document: &Value| format!("package exact\nallow := 1 if input == {document}\n");
    assert!(Rego::load(&bundle(&module(&trial))).is_err());
    assert!(Rego::load(&bundle(&module(&json!({})))).is_ok());
}

/// 8 KiB, as the page says.
#[test]
fn rego_is_asked_about_eight_kibibytes_and_no_more() {
    assert!(PAGE.contains("and 8 KiB of input"));
    let bundle = bundle("package exact\nallow if true\n");
    let rego = Rego::load(&bundle).unwrap();
    let rest = {
        let mut sees = Case::least().sees;
        set(&mut sees, "/payload", Some(json!({"x": ""})));
        sees.to_string().len()
    };
    let code = |length: usize| {
        let intent = Intent::new("read".into(), "aim".into(), "x".into()).unwrap();
        let payload =
            Payload::parse(format!("{{\"x\":\"{}\"}}", "y".repeat(length - rest)).as_bytes())
                .unwrap();
        let asked = PolicyInput {
            intent: &intent,
            payload: &payload,
            audience: None,
            validity_seconds: None,
            delegated: false,
            envelope: false,
        };
        let caller = Case::least().caller;
        let ask = || {
            accept(
                &bundle,
                rego.as_ref(),
                bundle.identity("nobody").unwrap(),
                None,
                &caller,
                &asked,
            )
            .map(|_| ())
        };
        let decided = (0..1000)
            .map(|_| ask())
            .find(|decided| !matches!(decided, Err(Denied::PolicyTimeout(_))));
        decided
            .expect("its time was over a thousand times")
            .map_err(|denied| denied.code())
    };
    assert_eq!(code(8 * 1024), Ok(()));
    assert_eq!(code(8 * 1024 + 1), Err("policy_input_too_large"));
}
