#![no_main]

//! Bytes as a document. What is accepted says what the mock has signed; nothing is genuine.

use attestation::{Attested, unverified_time, verify_debug, verify_genuine, verify_mock};
use fuzzing::{AT, PAYLOADS, ROOT};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    assert!(verify_genuine(data, AT).is_err());
    assert!(verify_debug(data, AT).is_err());
    if let Ok(document) = verify_mock(data, &ROOT, AT) {
        assert!(PAYLOADS.contains(&document.document().payload_digest()));
        assert!(unverified_time(data).is_ok());
    }
});
