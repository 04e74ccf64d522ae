#![no_main]

//! Bytes as strict JSON. Its canonical form is read as the same value, and is its own canonical
//! form.

use identity::{Payload, json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(value) = json::parse(data) {
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(data)
                .ok()
                .as_ref(),
            Some(&value)
        );
        let canonical = json::canonical(&value).expect("canonical");
        assert_eq!(json::parse(&canonical).as_ref(), Ok(&value));
        assert_eq!(json::canonical(&value), Ok(canonical));
    }
    let _ = Payload::parse(data);
});
