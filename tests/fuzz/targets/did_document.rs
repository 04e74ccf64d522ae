#![no_main]

//! Bytes as a DID document and as a JWKS. What is read is written and read again as the same.

use identity::did::{Document, parse_jwks};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(document) = Document::parse(data) {
        let written = serde_json::to_vec(&document.to_json()).expect("JSON");
        assert_eq!(Document::parse(&written).as_ref(), Ok(&document));
    }
    if let Ok(keys) = parse_jwks(data) {
        for (_, key) in keys {
            assert_eq!(
                identity::PublicKey::from_jwk(&key.to_jwk()).as_ref(),
                Ok(&key)
            );
        }
    }
});
