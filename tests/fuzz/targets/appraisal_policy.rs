#![no_main]

//! Bytes as a verifier's policy.

use attestation::AppraisalPolicy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(policy) = AppraisalPolicy::from_toml(data) {
        assert!(policy.max_age_seconds().is_none_or(|seconds| seconds >= 0));
    }
});
