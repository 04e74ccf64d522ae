#![no_main]

//! Bytes as a measurements file. What is read is written and read again as the same.

use attestation::Measurements;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(measurements) = Measurements::parse(data) {
        assert_eq!(
            Measurements::parse(measurements.to_json().as_bytes()),
            Ok(measurements)
        );
    }
});
