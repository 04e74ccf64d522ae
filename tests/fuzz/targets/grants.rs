#![no_main]

//! Text as grants, the same with proofs that the key has really signed, as a status list, and as a
//! subject token.

use fuzzing::{AT, KEY};
use identity::delegation::Subject;
use identity::grants::Grants;
use identity::status::StatusList;
use identity::{Intent, json, sha256};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = Grants::unverified_root(text);
    look(text);
    if let Ok(Value::Array(credentials)) = json::parse(data) {
        let signed: Vec<Value> = credentials
            .into_iter()
            .map(|credential| signed(&credential).unwrap_or(credential))
            .collect();
        look(&Value::Array(signed).to_string());
    }
    if let Ok(list) = StatusList::decode(text) {
        let _ = list.is_set(7);
    }
    let _ = Subject::verify(text, std::slice::from_ref(KEY.public()), AT);
});

fn look(text: &str) {
    let Ok(grants) = Grants::verify(text, AT, |_| vec![KEY.public().clone()]) else {
        return;
    };
    assert!((1..=4).contains(&grants.depth()) && grants.between().count() < grants.depth());
    let Ok(intent) = Intent::new("read".into(), "logs".into(), "https://x/logs/app".into()) else {
        return;
    };
    if let Ok((from, until)) = grants.allow(&intent, AT) {
        assert!(from < until && AT < until);
        assert!(!grants.links(&intent).is_empty());
    }
}

fn signed(credential: &Value) -> Option<Value> {
    let mut document: Map<String, Value> = credential.as_object()?.clone();
    let Value::Object(mut proof) = document.remove("proof")? else {
        return None;
    };
    proof.remove("proofValue");
    let mut options = proof.clone();
    if let Some(context) = document.get("@context") {
        options.insert("@context".into(), context.clone());
    }
    let digests = [
        sha256(&json::canonical(&options).ok()?).0,
        sha256(&json::canonical(&document).ok()?).0,
    ]
    .concat();
    proof.insert(
        "proofValue".into(),
        format!("z{}", bs58::encode(KEY.sign_bytes(&digests)).into_string()).into(),
    );
    document.insert("proof".into(), Value::Object(proof));
    Some(Value::Object(document))
}
