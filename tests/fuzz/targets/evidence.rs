#![no_main]

//! Bytes as an evidence file. What is read has one encoding.

use attestation::Evidence;
use attestation::judge::{Case, Subject, judge};
use fuzzing::AT;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(evidence) = Evidence::parse(data) {
        assert_eq!(evidence.to_vec(), data);
    }
    assert!(judge(&Case { inspect: true, ..Case::new(Subject::Evidence(data), AT) }).is_err());
});
