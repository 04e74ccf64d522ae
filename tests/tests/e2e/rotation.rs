use attestation::Subject;
use data_encoding::BASE64URL_NOPAD;
use harness::{Running, get, post, program};
use identity::{PublicKey, succession};
use serde_json::{Value, json};

const NONCE: [u8; 32] = [5; 32];

fn sign(running: &Running) -> String {
    let answer = post(
        &running.socket,
        "/sign",
        &json!({"payload": {}, "intent": "a"}),
    )
    .unwrap()
    .json();
    answer["vouch_token"].as_str().unwrap().to_owned()
}

fn evidence(running: &Running) -> Vec<u8> {
    post(
        &running.socket,
        "/attestation",
        &json!({"nonce": data_encoding::HEXLOWER.encode(&NONCE)}),
    )
    .unwrap()
    .body
}

fn key(identity: &Value) -> PublicKey {
    PublicKey::from_multikey(identity["public_key_multibase"].as_str().unwrap()).unwrap()
}

#[test]
fn the_old_key_names_the_new_one_and_old_tokens_verify_with_the_evidence_of_their_time() {
    for did in ["did:key", "did:web:agent.example.com"] {
        let running = Running::with(&[("agent", did, "EdDSA")]);
        let verifier = running.verifier();
        let before = get(&running.socket, "/identity").unwrap().json();
        let (old_token, old_evidence) = (sign(&running), evidence(&running));

        let rotated = post(&running.socket, "/rotate", &json!({})).unwrap();
        assert_eq!(rotated.status, 200, "{}", rotated.code());
        let rotated = rotated.json();
        let after = &rotated["identity"];
        assert_eq!(after["key_version"], 2);
        assert_eq!(
            after["did"] == before["did"],
            did != "did:key",
            "did:key follows from the key, did:web does not"
        );
        let statement = BASE64URL_NOPAD
            .decode(rotated["successor_statement"].as_str().unwrap().as_bytes())
            .unwrap();
        let linked = succession::verify(&statement, &key(&before)).unwrap();
        assert_eq!(linked.new.key().unwrap(), key(after));
        assert_eq!((linked.old.version, linked.new.version), (1, 2));
        assert_eq!(
            (linked.old.did, linked.new.did.as_str()),
            (
                before["did"].as_str().unwrap().into(),
                after["did"].as_str().unwrap()
            )
        );

        let document = get(&running.socket, "/.well-known/did.json").unwrap();
        let document = identity::did::Document::parse(&document.body).unwrap();
        let listed = [&before, after]
            .map(|identity| document.key(identity["kid"].as_str().unwrap()).is_some());
        assert_eq!(listed, [did != "did:key", true], "{did}");

        let (new_token, new_evidence) = (sign(&running), evidence(&running));
        let judge = |token: &str, evidence: &[u8]| {
            let mut verifier = verifier.expecting(&NONCE);
            verifier.expectations.did_document = (did != "did:key").then(|| document.clone());
            verifier
                .judge(Subject::Token { token, evidence })
                .map(|_| ())
                .map_err(|refusal| refusal.code())
        };
        assert_eq!(judge(&old_token, &old_evidence), Ok(()));
        assert_eq!(judge(&new_token, &new_evidence), Ok(()));
        assert_eq!(
            judge(&old_token, &new_evidence),
            Err("token_binding_mismatch")
        );
        assert_eq!(
            judge(&new_token, &old_evidence),
            Err("token_binding_mismatch")
        );
    }
}

/// A running Anchorhold in which nobody but the operator rotates.
fn operator_only() -> Running {
    let policy = |state: &qemu_dev::State| {
        let text = state
            .development_policy(&[("agent", "did:key", "EdDSA")])
            .unwrap();
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("rotation_callers"));
        lines.map(|line| format!("{line}\n")).collect()
    };
    Running::prepared(policy, "", &[])
}

#[test]
fn a_caller_that_may_only_sign_cannot_rotate_and_the_operator_can() {
    let running = operator_only();
    let refused = post(&running.socket, "/rotate", &json!({})).unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (403, "rotation_not_allowed")
    );

    let rotate = |key: std::path::PathBuf| {
        let endpoint = format!("unix://{}", running.socket.display());
        let output = std::process::Command::new(program("anchorhold"))
            .args([
                "rotate",
                "--endpoint",
                &endpoint,
                "--identity",
                "agent",
                "--operator-key",
            ])
            .arg(key)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let (code, text) = rotate(running.state.proxy_key());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("order_invalid"), "{text}");
    let (code, text) = rotate(running.state.operator_key());
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(
        get(&running.socket, "/identity").unwrap().json()["key_version"],
        2
    );
}

#[test]
fn an_order_is_for_one_identity_one_boot_one_version_and_a_time() {
    use identity::succession::Order;
    let running = operator_only();
    let operator = parent_proxy::KeyFile::read(&running.state.operator_key()).unwrap();
    let described = get(&running.socket, "/identity").unwrap().json();
    let boot_id = identity::BootId::from_hex(described["boot_id"].as_str().unwrap()).unwrap();
    let good = Order {
        identity: "agent".into(),
        boot_id,
        version: 1,
        not_after: harness::now().0 + 60,
    };
    let send = |order: &Order| {
        let order = BASE64URL_NOPAD.encode(&order.sign(&operator).unwrap());
        let answer = post(&running.socket, "/rotate", &json!({ "order": order })).unwrap();
        (answer.status, answer.code())
    };
    let bad = (403, "order_invalid".to_owned());
    assert_eq!(
        send(&Order {
            identity: "other".into(),
            ..good.clone()
        }),
        bad
    );
    assert_eq!(
        send(&Order {
            boot_id: identity::BootId::new([0; 16]),
            ..good.clone()
        }),
        bad
    );
    assert_eq!(
        send(&Order {
            version: 2,
            ..good.clone()
        }),
        bad
    );
    assert_eq!(
        send(&Order {
            not_after: harness::now().0 - 60,
            ..good.clone()
        }),
        bad
    );
    assert_eq!(send(&good).0, 200);
    assert_eq!(
        send(&good),
        bad,
        "an order that was obeyed is no order any more"
    );
    let garbage = post(&running.socket, "/rotate", &json!({"order": "!"})).unwrap();
    assert_eq!((garbage.status, garbage.code().as_str()), (422, "base64"));
}
