#![no_main]

//! Bytes as a time-stamp (RFC 3161). The root is that of an authority of ours, which has stamped
//! one thing.

use attestation::archive::{TimeAnchor, TimeStamp};
use identity::sha256;
use libfuzzer_sys::fuzz_target;

const ROOT: &str = include_str!("../src/time-root.pem");

fuzz_target!(|data: &[u8]| {
    if let Ok(stamp) = TimeStamp::new(data, &[ROOT]) {
        let _ = stamp.prove(&sha256(b"anything"));
        assert!(stamp.prove(&sha256(b"anything else")).is_err());
    }
});
