use attestation::Subject;
use harness::{Running, get, post, raw};
use serde_json::{Value, json};

/// The paper's request body, byte for byte (section 3.2).
const PAPER: &[u8] =
    b"{\n    \"payload\": {\n        \"action\": \"transfer\",\n        \"amount\": 100,\n        \"recipient\": \
                       \"account_123\"\n    },\n    \"intent\": \"authorization\"\n}";

#[test]
fn the_papers_request_gets_the_papers_answer() {
    let running = Running::start();
    let answer = harness::Connection::open(&running.socket)
        .unwrap()
        .request(&raw("/sign", Some(PAPER)))
        .unwrap();
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    let answer = answer.json();
    for name in ["vouch_token", "did", "signature_id", "expires_at"] {
        assert!(answer[name].is_string(), "{name}");
    }
    assert_eq!(answer["key_version"], 1);
}

#[test]
fn a_stranger_verifies_tokens_and_credentials_of_every_kind_of_identity() {
    let running = Running::with(&[
        ("key-ed", "did:key", "EdDSA"),
        ("key-p256", "did:key", "ES256"),
        ("web-ed", "did:web:agent.example.com", "EdDSA"),
        ("web-p256", "did:web:agent.example.com:p256", "ES256"),
    ]);
    let (verifier, nonce) = (running.verifier(), [9; 32]);
    for name in ["key-ed", "key-p256", "web-ed", "web-p256"] {
        let evidence = json!({"nonce": data_encoding::HEXLOWER.encode(&nonce), "identity": name});
        let evidence = post(&running.socket, "/attestation", &evidence).unwrap();
        assert_eq!(
            evidence.header("content-type").as_deref(),
            Some("application/vnd.anchorhold.evidence+cbor")
        );
        let evidence = evidence.body;
        let document = get(
            &running.socket,
            &format!("/.well-known/did.json?identity={name}"),
        )
        .unwrap();
        let document = identity::did::Document::parse(&document.body).unwrap();
        let intent = json!({"action": "transfer", "target": "account_123", "resource": "https://bank.example/v1"});
        let mut body = json!({"payload": {"amount": 100}, "intent": intent, "identity": name, "audience": "https://bank.example"});
        let token = post(&running.socket, "/sign", &body).unwrap().json();
        let token = token["vouch_token"].as_str().unwrap();
        let mut verifier = verifier.expecting(&nonce);
        verifier.expectations.did_document = Some(document.clone());
        verifier.expectations.audience = Some("https://bank.example".into());
        let subject = Subject::Token {
            token,
            evidence: &evidence,
        };
        let verdict = verifier
            .judge(subject)
            .unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        let claims = verdict.claims.unwrap();
        assert_eq!(
            (verdict.verdict, &claims["tee"], &claims["vouch"]["intent"]),
            ("mock", &json!("mock"), &intent)
        );
        assert_eq!(claims["vouch"]["payload"], json!({"amount": 100}));
        if name.starts_with("web") {
            verifier.expectations.did_document = None;
            assert_eq!(
                verifier.judge(subject).unwrap_err().code(),
                "unchecked",
                "did:web without a pinned document"
            );
        }

        body["format"] = json!("vouch-credential");
        let answer = post(&running.socket, "/sign", &body).unwrap();
        if name.ends_with("p256") {
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (422, "credential_needs_ed25519")
            );
            continue;
        }
        let credential = answer.json()["credential"].to_string().into_bytes();
        verifier.expectations.did_document = Some(document);
        verifier
            .judge(Subject::Credential {
                credential: &credential,
                evidence: &evidence,
            })
            .unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
    }
}

#[test]
fn the_sidecar_verifies_with_the_same_verdict() {
    let running = Running::start();
    let nonce = "ab".repeat(32);
    let evidence = post(&running.socket, "/attestation", &json!({"nonce": nonce}))
        .unwrap()
        .body;
    let signed = post(
        &running.socket,
        "/sign",
        &json!({"payload": {}, "intent": "a"}),
    )
    .unwrap()
    .json();
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let measurements: Value = serde_json::from_str(&read(running.state.measurements())).unwrap();
    let mut body = json!({
        "token": signed["vouch_token"],
        "evidence": data_encoding::BASE64URL_NOPAD.encode(&evidence),
        "nonce": nonce,
        "measurements": [measurements],
        "bundles": [read(running.state.policy())],
        "mock_root": read(running.state.root()),
    });
    let ask = |body: &Value| post(&running.socket, "/verify", body).unwrap().json();
    assert_eq!(ask(&body)["verdict"], "mock", "{}", ask(&body));
    body["form"] = json!("ear");
    assert_eq!(
        ask(&body)["submods"]["nitro-enclave"]["ear_status"],
        "contraindicated"
    );
    body["form"] = json!("trace");
    assert_eq!(ask(&body)["runtime"]["platform"], "software-only");
    body["form"] = json!("verdict");
    body["verifier_policy"] = json!("version = 1\naudience = \"https://tool.example\"");
    assert_eq!(ask(&body)["error"]["code"], "audience_mismatch");
    body["verifier_policy"] = Value::Null;
    body["timestamp"] = json!("AAAA");
    assert_eq!(ask(&body)["code"], "verify_request_invalid");
    body["timestamp"] = Value::Null;
    body["document"] = body["evidence"].clone();
    assert_eq!(
        ask(&body)["code"],
        "verify_request_invalid",
        "either of them"
    );
    let mut alone = body.clone();
    let document = attestation::Evidence::parse(&evidence)
        .unwrap()
        .document()
        .to_vec();
    (alone["evidence"], alone["document"]) = (
        Value::Null,
        json!(data_encoding::BASE64URL_NOPAD.encode(&document)),
    );
    assert_eq!(
        ask(&alone)["code"],
        "verify_request_invalid",
        "a token needs evidence"
    );
    alone["token"] = Value::Null;
    assert_eq!(ask(&alone)["verdict"], "mock", "{}", ask(&alone));
    body["document"] = Value::Null;
    body["nonce"] = json!("cd".repeat(32));
    assert_eq!(ask(&body)["error"]["code"], "nonce_mismatch");
    body["nonce"] = Value::Null;
    assert_eq!(ask(&body)["error"]["code"], "unchecked");
    body["mock_root"] = Value::Null;
    assert_eq!(ask(&body)["error"]["code"], "root_untrusted");
    body["bundles"] = json!(["nonsense"]);
    assert_eq!(ask(&body)["code"], "verify_request_invalid");
}

#[test]
fn identity_says_that_keys_are_ephemeral_and_where_they_live() {
    let running = Running::start();
    let identity = get(&running.socket, "/identity").unwrap().json();
    assert_eq!(
        (&identity["custody"], &identity["tee"]),
        (&json!("ephemeral"), &json!("mock"))
    );
    assert_eq!(identity["versions"].as_array().unwrap().len(), 1);
    let jwks = get(&running.socket, "/.well-known/jwks.json").unwrap();
    let keys = identity::did::parse_jwks(&jwks.body).unwrap();
    assert_eq!(keys[0].0.as_deref(), identity["kid"].as_str());
}

#[test]
fn who_runs_the_sidecar_sees_health_readiness_and_metrics() {
    let running = Running::start();
    assert_eq!(get(&running.socket, "/health").unwrap().status, 200);
    assert_eq!(get(&running.socket, "/ready").unwrap().status, 200);
    post(
        &running.socket,
        "/sign",
        &json!({"payload": {}, "intent": "a"}),
    )
    .unwrap();
    post(
        &running.socket,
        "/sign",
        &json!({"payload": {"x": 1.5}, "intent": "a"}),
    )
    .unwrap();
    let metrics = get(&running.socket, "/metrics").unwrap();
    let text = String::from_utf8(metrics.body).unwrap();
    for line in [
        "anchorhold_signatures_total{identity=\"agent\",format=\"vouch-jwt\"} 1",
        "anchorhold_refusals_total{code=\"json_float\"} 1",
        "anchorhold_enclave_boots_total 1",
        "anchorhold_build_info{version=",
        "anchorhold_sign_duration_seconds_count 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn the_committed_description_of_the_api_is_the_one_served() {
    let running = Running::start();
    let served = String::from_utf8(get(&running.socket, "/openapi.json").unwrap().body).unwrap();
    let committed =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json"))
            .unwrap();
    assert_eq!(served, committed, "write it anew: just openapi");
    let description: Value = serde_json::from_str(&served).unwrap();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(description["paths"].as_object().unwrap().len(), 28);
}
