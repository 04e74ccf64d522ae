#![no_main]

//! Bytes as an evidence file. What is read has one encoding.

use attestation::{Evidence, Subject, Verifier};
use fuzzing::AT;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(evidence) = Evidence::parse(data) {
        assert_eq!(evidence.to_vec(), data);
    }
    assert!(
        Verifier {
            inspect: true,
            ..Verifier::at(AT)
        }
        .judge(Subject::Evidence(data))
        .is_err()
    );
});
