#![no_main]

//! Bytes as JSON that is looked through, and as a text. What is accepted is JSON for another reader,
//! too; what is masked is JSON of the same form, in which nothing is found any more.

use inspect::Purpose;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for purpose in [Purpose::Decide, Purpose::Log] {
        if let Ok(found) = inspect::json(data, purpose) {
            assert!(serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok());
            let masked = found.mask(data);
            let again = inspect::json(&masked, purpose).expect("JSON");
            assert!(again.kinds().is_empty());
            if found.kinds().is_empty() {
                assert_eq!(masked, data);
            }
        }
        if let Ok(text) = std::str::from_utf8(data) {
            let mut end = 0;
            for found in inspect::text(text, purpose) {
                assert!(found.range.start >= end && found.range.start < found.range.end);
                end = found.range.end;
                assert!(text.get(found.range).is_some());
            }
            let _ = inspect::mask_text(text, purpose);
        }
    }
});
