#![no_main]

//! Bytes as a policy bundle, TOML or canonical JSON. What is read has one canonical form, and with
//! it one digest.

use libfuzzer_sys::fuzz_target;
use policy::Bundle;

fuzz_target!(|data: &[u8]| {
    if let Ok(bundle) = Bundle::from_either(data) {
        let canonical = bundle.canonical();
        let again = Bundle::from_canonical(&canonical).expect("canonical");
        assert_eq!(
            (again.canonical(), again.digest()),
            (canonical, bundle.digest())
        );
    }
    if let Ok(bundle) = Bundle::from_canonical(data) {
        assert_eq!(bundle.canonical(), data);
    }
});
