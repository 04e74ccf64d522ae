#![no_main]

//! Bytes as a credential; and the same with a proof value that the key has really signed.

use fuzzing::{KEY, expected};
use identity::credential::{canonical, verify};
use identity::{json, sha256};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let _ = canonical(data);
    let _ = verify(data, &expected());
    if let Some(signed) = signed(data)
        && let Ok(content) = verify(&signed, &expected())
    {
        assert_eq!(
            (&content.issuer, content.audience.as_deref()),
            (expected().did, expected().audience)
        );
        assert!(canonical(&signed).is_ok());
    }
});

fn signed(data: &[u8]) -> Option<Vec<u8>> {
    let Value::Object(mut document) = json::parse(data).ok()? else {
        return None;
    };
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
    let value = format!("z{}", bs58::encode(KEY.sign_bytes(&digests)).into_string());
    proof.insert("proofValue".into(), Value::String(value));
    document.insert("proof".into(), Value::Object(proof));
    serde_json::to_vec(&document).ok()
}
