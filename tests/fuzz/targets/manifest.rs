#![no_main]

//! Bytes as a manifest. The document that both forms accept is read as the same manifest.

use libfuzzer_sys::fuzz_target;
use manifest::Manifest;

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::parse(data) {
        assert!(manifest.trust_score() <= 10 && manifest.python_trust_score() <= 10);
        let document = serde_json::to_vec(manifest.document()).expect("JSON");
        assert_eq!(Manifest::parse(&document).as_ref(), Ok(&manifest));
    }
});
