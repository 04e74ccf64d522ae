#![no_main]

//! Bytes as COSE_Sign1, for each purpose; as a payload of each, really signed; and as a key.

use fuzzing::KEY;
use identity::PublicKey;
use identity::cose::{self, Purpose};
use identity::succession::{self, Order};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(statement) = succession::verify(data, KEY.public()) {
        assert!(statement.new.key().is_ok());
    }
    let _ = Order::verify(data, KEY.public());
    for purpose in [
        Purpose::POSSESSION,
        Purpose::SUCCESSOR,
        Purpose::ROTATION_ORDER,
    ] {
        let _ = cose::verify(purpose, data, KEY.public());
        let signed = cose::sign(purpose, data, &*KEY).expect("signed");
        assert_eq!(cose::verify(purpose, &signed, KEY.public()), Ok(data));
        if let Ok(order) = Order::verify(&signed, KEY.public()) {
            assert_eq!(order.sign(&*KEY).as_ref(), Ok(&signed));
        }
    }
    if let Ok(key) = PublicKey::from_spki(data) {
        assert_eq!(key.to_spki(), data);
    }
});
