#![no_main]

//! Bytes as a token; and bytes as header and claims, one per line, of a token that the key has
//! really signed.

use fuzzing::{claims, expected, sign_parts};
use identity::token::{unverified_claims, verify};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = unverified_claims(text);
        if let Ok(said) = verify(text, &expected()) {
            assert_eq!(said, claims());
        }
    }
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    if let (Some(header), Some(body)) = (parts.next(), parts.next()) {
        let token = sign_parts(header, body);
        if let Ok(said) = verify(&token, &expected()) {
            assert_eq!(unverified_claims(&token), Ok(said.clone()));
            assert_eq!(
                (&said.iss, said.aud.as_deref()),
                (expected().did, expected().audience)
            );
            let again = sign_parts(header, &serde_json::to_vec(&said).expect("claims"));
            assert_eq!(verify(&again, &expected()), Ok(said));
        }
    }
});
