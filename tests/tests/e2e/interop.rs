//! Others' implementations: PyPI `vouch-protocol` 1.6.2 for tokens, 2.2.1 for credentials, `PyJWT`
//! for both algorithms.

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Running, get, post};
use serde_json::{Value, json};

/// A virtual environment that `tests/run` has made.
pub(crate) fn python(name: &str) -> Option<PathBuf> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("interop/.venv-{name}/bin/python"));
    if !path.exists() {
        harness::skipped(&format!(
            "the virtual environment {name} is not there; tests/run makes it"
        ));
        return None;
    }
    Some(path)
}

/// Runs a script on a JSON input; it must print one JSON object.
pub(crate) fn ask(python: &Path, script: &str, input: &Value) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("interop")
        .join(script);
    let output = Command::new(python)
        .arg(script)
        .arg(input.to_string())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{error}"))
}

fn running() -> Running {
    Running::with(&[
        ("key-ed", "did:key", "EdDSA"),
        ("web-ed", "did:web:agent.example.com", "EdDSA"),
        ("key-p256", "did:key", "ES256"),
        ("web-p256", "did:web:p256.example.com", "ES256"),
    ])
}

/// What a foreign verifier needs: what was signed, the JWK, the DID.
fn signed(running: &Running, identity: &str, format: &str) -> Value {
    let intent = json!({"action": "transfer", "target": "account_123", "resource": "https://bank.example/v1"});
    let body = json!({
        "payload": {"amount": 100, "recipient": "account_123"},
        "intent": intent,
        "identity": identity,
        "audience": "https://bank.example",
        "format": format,
    });
    let answer = post(&running.socket, "/sign", &body).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.code());
    let described = get(&running.socket, &format!("/identity?identity={identity}"))
        .unwrap()
        .json();
    let document = get(
        &running.socket,
        &format!("/.well-known/did.json?identity={identity}"),
    )
    .unwrap()
    .json();
    let mut input = answer.json();
    input["jwk"] = described["public_key_jwk"].clone();
    input["algorithm"] = described["algorithm"].clone();
    input["did_document"] = document;
    input
}

#[test]
fn tokens_verify_with_vouch_protocol_1_6_2_and_changed_ones_do_not() {
    let Some(python) = python("vouch-1.6.2") else {
        return;
    };
    let running = running();
    for identity in ["key-ed", "web-ed"] {
        let verdict = ask(
            &python,
            "vouch_token.py",
            &signed(&running, identity, "vouch-jwt"),
        );
        assert_eq!(verdict["accepted"], true, "{identity}: {verdict}");
        assert_eq!(verdict["changed_accepted"], json!([]), "{identity}");
        assert!(verdict["changed"].as_u64().unwrap() >= 4, "{verdict}");
        assert_eq!(
            verdict["payload"],
            json!({"amount": 100, "recipient": "account_123"})
        );
    }
}

#[test]
fn tokens_verify_with_pyjwt_and_changed_ones_do_not() {
    let Some(python) = python("vouch-1.6.2") else {
        return;
    };
    let running = running();
    for identity in ["key-ed", "web-ed", "key-p256", "web-p256"] {
        let verdict = ask(
            &python,
            "pyjwt_token.py",
            &signed(&running, identity, "vouch-jwt"),
        );
        assert_eq!(verdict["accepted"], true, "{identity}: {verdict}");
        assert_eq!(verdict["changed_accepted"], json!([]), "{identity}");
        assert!(verdict["changed"].as_u64().unwrap() >= 4, "{verdict}");
    }
}

#[test]
fn credentials_verify_with_vouch_protocol_2_2_1_and_changed_ones_do_not() {
    let Some(python) = python("vouch-2.2.1") else {
        return;
    };
    let running = running();
    for identity in ["key-ed", "web-ed"] {
        let verdict = ask(
            &python,
            "vouch_credential.py",
            &signed(&running, identity, "vouch-credential"),
        );
        assert_eq!(verdict["accepted"], true, "{identity}: {verdict}");
        assert_eq!(verdict["changed_accepted"], json!([]), "{identity}");
        assert!(verdict["changed"].as_u64().unwrap() >= 4, "{verdict}");
    }
}

/// What went wrong in other sidecars of this protocol, and must not here.
#[test]
fn the_four_known_faults_are_not_ours() {
    let running = running();
    // 1. Nothing has a default key: identities of two boots differ, and there is no seed to give.
    let other = Running::start();
    let did =
        |running: &Running, path: &str| get(&running.socket, path).unwrap().json()["did"].clone();
    assert_ne!(
        did(&running, "/identity?identity=key-ed"),
        did(&other, "/identity")
    );
    let seeded = json!({"payload": {}, "intent": "a", "seed": "00"});
    assert_eq!(post(&other.socket, "/sign", &seeded).unwrap().status, 422);
    // 2. A body of the wrong shape is not signed as null.
    for body in [
        json!({"Payload": {}, "intent": "a"}),
        json!({"payload": null, "intent": "a"}),
        json!({"intent": "a"}),
        json!([]),
    ] {
        assert_eq!(
            post(&other.socket, "/sign", &body).unwrap().status,
            422,
            "{body}"
        );
    }
    // 3. Nobody hands in a credential, an issuer or a date.
    for (name, value) in [
        ("credential", json!({"issuer": "did:web:victim.example"})),
        ("issuer", json!("did:web:victim.example")),
        ("iss", json!("did:web:victim.example")),
        ("created", json!("2020-01-01T00:00:00Z")),
        ("iat", json!(1)),
    ] {
        let mut body = json!({"payload": {}, "intent": "a"});
        body[name] = value;
        assert_eq!(
            post(&other.socket, "/sign", &body).unwrap().status,
            422,
            "{name}"
        );
    }
    let payload = json!({"payload": {"iss": "did:web:victim.example", "iat": 1}, "intent": "a"});
    let token = post(&other.socket, "/sign", &payload).unwrap().json()["vouch_token"]
        .as_str()
        .unwrap()
        .to_owned();
    let claims = data_encoding::BASE64URL_NOPAD
        .decode(token.split('.').nth(1).unwrap().as_bytes())
        .unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["iss"], did(&other, "/identity"));
    assert!((claims["iat"].as_i64().unwrap() - harness::now().0).abs() < 60);
    // 4. The key that signs is published: document, JWKS and evidence all have it.
    let described = get(&other.socket, "/identity").unwrap().json();
    let document = get(&other.socket, "/.well-known/did.json").unwrap().json();
    assert_eq!(
        document["verificationMethod"][0]["publicKeyMultibase"],
        described["public_key_multibase"]
    );
    let jwks = get(&other.socket, "/.well-known/jwks.json").unwrap().json();
    assert_eq!(jwks["keys"][0]["x"], described["public_key_jwk"]["x"]);
}
