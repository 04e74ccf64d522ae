//! The published JSON Schema of the policy bundle says what the program says.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::window::TestKey;
use identity::Signer;
use policy::Bundle;
use serde_json::{Value, json};

/// A bundle with every member that there is.
fn full() -> Value {
    let key = |byte| TestKey::new(byte).public_key().to_multikey();
    let (measurement, limit) = (
        "0".repeat(96),
        json!({"per": "day", "max": 7, "amount": "/amount"}),
    );
    let approval = json!({"by": ["alice"], "seconds": 60});
    let callers = json!({"uids": [1], "gids": [2], "names": ["crew"], "proven": ["robot", "peer"]});
    json!({
        "version": 1,
        "mode": "production",
        "proxy_key": key(1),
        "operator_key": key(2), "annex_version": 3,
        "callers": [
            {"name": "robot", "key": key(3)},
            {"name": "peer", "enclave": {"pcr0": measurement, "pcr1": measurement, "pcr2": measurement}},
        ],
        "approvers": [{"name": "alice", "key": key(4)}],
        "resources": [{"pattern": "pr:*", "environment": "staging", "type": "pull_request"}],
        "rego": {"module": "package a.b\nallow if true\n", "entrypoint": "data.a.b", "approval": approval, "exchanges": true},
        "identities": [{
            "name": "agent", "environment": "staging", "role": "reviewer", "did": "did:web:a.example", "algorithm": "EdDSA",
            "max_validity_seconds": 60, "callers": callers, "rotation_callers": {"uids": [1001]}, "limits": [limit],
            "delegation": {"from": ["issuer:corp"], "scopes": ["a"], "resources": ["*"], "max_depth": 5, "max_validity_seconds": 60},
            "rules": [{
                "name": "one", "actions": ["a"], "targets": ["*"], "resources": ["r*"], "audiences": ["x"], "max_validity_seconds": 60,
                "payload": {"/amount": {"one_of": [1, "x", true], "min": 1, "max": 2, "pattern": "x*"}},
                "payload_closed": true, "proven": true, "delegated": true, "envelope": true, "delegatees": ["did:key:*"], "approval": approval, "limits": [limit],
            }],
        }],
        "services": [
            {
                "name": "openrouter", "upstream": "https://openrouter.ai/api", "roots": [ROOT], "pins": [format!("sha256:{}", "0".repeat(64))],
                "inject": {"header": "authorization", "format": "Bearer {}"}, "scrub": "replace",
                "rules": [{
                    "name": "chat", "methods": ["POST"], "paths": ["/v1/chat/*", "*"], "identities": ["agent"], "callers": {"uids": [1], "names": ["crew"]},
                    "limits": [{"per": "minute", "max": 7}],
                }],
            },
            {
                "name": "git", "upstream": "https://git.example:8443", "inject": {"basic": "x-access-token"},
                "rules": [{"name": "read", "methods": ["GET", "HEAD"], "paths": ["/r.git/info/refs"], "identities": ["agent"]}],
            },
            {
                "name": "maps", "upstream": "https://maps.example", "inject": {"query": "key"},
                "rules": [{"name": "read", "methods": ["GET"], "paths": ["/geocode"], "identities": ["agent"]}],
            },
            {
                "name": "bots", "upstream": "https://bots.example", "inject": {"path": "/a/bot{}/v1"},
                "rules": [{"name": "read", "methods": ["GET"], "paths": ["/getMe"], "identities": ["agent"]}],
            },
            {
                "name": "s3", "upstream": "https://s3.example", "inject": {"sigv4": {"region": "us-east-1", "service": "s3"}},
                "rules": [{"name": "share", "methods": ["PUT"], "paths": ["/b/*"], "identities": ["agent"], "actions": ["acl"], "approval": approval}],
            },
            {
                "name": "forms", "upstream": "https://forms.example", "inject": {"field": "/auth/api_key", "format": "Key {}"},
                "rules": [{"name": "post", "methods": ["POST"], "paths": ["/post"], "identities": ["agent"]}],
            },
            {
                "name": "gateway", "upstream": "https://gateway.example", "inject": {"message": "/d/token"},
                "rules": [{"name": "talk", "methods": ["GET"], "paths": ["/socket"], "identities": ["agent"], "websocket": true}],
            },
            {
                "name": "model", "upstream": "https://model.example", "inject": {"header": "x-api-key"}, "budget": "per boot",
                "rules": [{
                    "name": "chat", "methods": ["POST"], "paths": ["/chat"], "identities": ["agent"], "priced": {"form": "openai-chat", "max_tokens": 100},
                    "limits": [{"per": "month", "max": 7, "amount": "cost"}],
                }],
            },
            {
                "name": "oauth", "upstream": "https://oauth.example", "inject": {"header": "authorization", "format": "Bearer {}"},
                "token": {
                    "url": "https://auth.example/token", "grant": "client_credentials", "client_id": "agent", "client_auth": "body", "scope": "a b",
                },
                "rules": [{"name": "read", "methods": ["GET"], "paths": ["/x"], "identities": ["agent"]}],
            },
        ],
        "lease": {"key": key(5), "seconds": 60},
        "https_proxy": {"unmatched": "refuse"},
        "state": {
            "name": "agents", "custody": "kms", "rollback": "accepted", "operator_key": key(6),
            "kms_key": "arn:aws:kms:eu-central-1:111122223333:key/0123-abc",
        },
    })
}

const ROOT: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

fn pointers(value: &Value, at: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, inner)| {
            let here = format!("{at}/{}", name.replace('/', "~1"));
            out.push(here.clone());
            pointers(inner, &here, out);
        }),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .for_each(|(index, inner)| pointers(inner, &format!("{at}/{index}"), out)),
        _ => {}
    }
}

#[test]
fn the_schema_of_a_policy_accepts_what_the_program_accepts() {
    let full = full();
    let mut bundles = vec![("full".to_owned(), full.clone())];
    let mut places = Vec::new();
    pointers(&full, "", &mut places);
    for place in &places {
        // Each member left out, of another type, empty, negative, and with a stranger beside it.
        for (how, value) in [
            ("null", json!(null)),
            ("[]", json!([])),
            ("{}", json!({})),
            ("-1", json!(-1)),
            ("''", json!("")),
            ("true", json!(true)),
        ] {
            let mut other = full.clone();
            *other.pointer_mut(place).unwrap() = value;
            bundles.push((format!("{place} = {how}"), other));
        }
        let (parent, name) = place.rsplit_once('/').unwrap();
        let mut less = full.clone();
        less.pointer_mut(parent)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .remove(&name.replace("~1", "/"));
        bundles.push((format!("{place} left out"), less));
        let mut more = full.clone();
        if let Some(object) = more.pointer_mut(place).unwrap().as_object_mut() {
            object.insert("stranger".into(), json!(1));
            bundles.push((format!("{place} with a stranger"), more));
        }
    }
    for (place, value) in [
        ("/version", json!(2)),
        ("/mode", json!("prod")),
        ("/identities/0/name", json!("A")),
        ("/identities/0/name", json!("a".repeat(64))),
        ("/identities/0/did", json!("did:ion:x")),
        ("/identities/0/algorithm", json!("RS256")),
        ("/identities/0/max_validity_seconds", json!(86401)),
        ("/identities/0/callers/uids/0", json!(65534)),
        ("/identities/0/rules/0/actions/0", json!("a*b")),
        ("/identities/0/rules/0/approval/seconds", json!(3601)),
        ("/identities/0/delegation/max_depth", json!(6)),
        ("/rego/entrypoint", json!("a.b")),
        ("/callers/1/enclave/pcr0", json!("00")),
        ("/identities/0/limits/0/max", json!(1_u64 << 53)),
        ("/identities/0/limits/0/amount", json!("amount")),
        ("/services/0/name", json!("open-router")),
        ("/services/0/upstream", json!("http://openrouter.ai/api")),
        ("/services/0/upstream", json!("https://openrouter.ai/api/")),
        ("/services/0/upstream", json!("https://OpenRouter.ai")),
        ("/services/0/name", json!("1api")),
        ("/services/0/name", json!("_api")),
        ("/services/0/inject", json!({"header": "a", "basic": "b"})),
        ("/services/0/inject", json!({"basic": "b", "format": "{}"})),
        ("/services/0/inject", json!({"format": "{}"})),
        ("/services/0/inject/format", json!("Bearer")),
        ("/services/0/inject/header", json!("Authorization")),
        ("/services/1/inject/basic", json!("a:b")),
        ("/services/1/inject", json!({"basic": "b", "query": "key"})),
        (
            "/services/2/inject",
            json!({"query": "key", "format": "{}"}),
        ),
        ("/services/2/inject/query", json!("")),
        ("/services/2/inject/query", json!("a=b")),
        ("/services/2/inject/query", json!("a&b")),
        ("/services/2/inject/query", json!("a%62")),
        ("/services/3/inject", json!({"path": "/{}", "header": "a"})),
        ("/services/3/inject/path", json!("bot{}")),
        ("/services/3/inject/path", json!("/bot")),
        ("/services/3/inject/path", json!("/bot{}x")),
        ("/services/3/inject/path", json!("/bot{}/")),
        ("/services/3/inject/path", json!("/bot{}/{}")),
        ("/services/3/inject/path", json!("/b?t={}")),
        ("/services/3/inject/path", json!("/b%6ft{}")),
        ("/services/4/inject/sigv4/service", json!("s3express")),
        ("/services/4/inject/sigv4/region", json!("US")),
        ("/services/4/inject/format", json!("{}")),
        ("/services/4/rules/0/actions/0", json!("a b")),
        ("/services/5/inject/field", json!("token")),
        ("/services/5/inject/field", json!("a b")),
        ("/services/5/inject/field", json!("/a//b")),
        ("/services/5/inject/field", json!("/1/2/3/4/5/6/7/8/9")),
        ("/services/5/inject/format", json!("Key")),
        ("/services/6/inject/message", json!("token")),
        ("/services/6/inject/message", json!("/d/a~1b")),
        (
            "/services/6/inject",
            json!({"message": "/a", "field": "/a"}),
        ),
        ("/services/6/rules/0/websocket", json!(false)),
        ("/services/8/token/url", json!("http://auth.example/token")),
        ("/services/8/token/grant", json!("password")),
        ("/services/8/token/grant", json!("github_app")),
        ("/services/8/token/client_id", json!("a b")),
        ("/services/8/token/client_auth", json!("jwt")),
        ("/services/8/token/scope", json!("a\"b")),
        ("/services/8/inject", json!({"query": "key"})),
        ("/services/7/budget", json!("for ever")),
        ("/services/7/rules/0/priced/form", json!("other")),
        ("/services/0/roots/0", json!("roots.pem")),
        ("/services/0/pins/0", json!("0".repeat(64))),
        ("/services/0/rules/0/methods/0", json!("TRACE")),
        ("/services/0/rules/0/methods/0", json!("get")),
        ("/services/0/rules/0/paths/0", json!("v1")),
        (
            "/services/0/rules/0/callers",
            json!({"uids": [1], "proven": ["robot"]}),
        ),
        (
            "/services/0/rules/0/limits/0",
            json!({"per": "day", "max": 1, "amount": "/a"}),
        ),
    ] {
        let mut other = full.clone();
        let (parent, name) = place.rsplit_once('/').unwrap();
        match other.pointer_mut(parent).unwrap() {
            Value::Object(object) => drop(object.insert(name.to_owned(), value.clone())),
            list => list[name.parse::<usize>().unwrap()] = value.clone(),
        }
        bundles.push((format!("{place} = {value}"), other));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut python = Command::new(root.join("interop/.venv-trace-0.6.0/bin/python"))
        .arg(root.join("interop/policy_schema.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let given = json!({"schema": root.join("../policy/policy.schema.json"), "bundles": bundles});
    python
        .stdin
        .take()
        .unwrap()
        .write_all(given.to_string().as_bytes())
        .unwrap();
    let output = python.wait_with_output().unwrap();
    let answers: Vec<(String, bool)> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.len(), bundles.len());
    // What one member says of another is beyond a schema.
    let beyond = |place: &str| {
        [
            "is called so",
            "nobody",
            "operator's key",
            "min is above max",
            "actions are of services",
            "websocket = true",
            "websocket: ",
            "needs `priced`",
            "per boot",
            "outlive a boot",
            "kept with a [state]",
            "have a body",
            "it stands in a header",
            "there are no [[services]]",
            "null",
        ]
        .iter()
        .any(|word| place.contains(word))
    };
    let (mut good, mut bad) = (0, 0);
    for ((name, bundle), (_, by_schema)) in bundles.iter().zip(answers) {
        let by_program = identity::json::canonical(bundle)
            .map_err(|error| error.to_string())
            .and_then(|bytes| {
                let bundle: Bundle =
                    serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
                Bundle::from_canonical(&bundle.canonical())
                    .map(|_| ())
                    .map_err(|error| error.to_string())
            });
        match (&by_program, by_schema) {
            (Ok(()), true) => good += 1,
            (Err(_), false) => bad += 1,
            (Err(why), true) if beyond(why) => bad += 1,
            // TOML has no null; and where every member may be left out, serde reads an empty list
            // as well.
            (Ok(()), false) if name.ends_with("= null") || name.ends_with("= []") => good += 1,
            _ => panic!("{name}: program {by_program:?}, schema {by_schema}"),
        }
    }
    assert!(good > 10 && bad > 150, "{good} {bad}");
}
