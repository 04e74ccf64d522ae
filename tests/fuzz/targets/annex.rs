#![no_main]

//! Bytes as what the operator writes, and as what it has signed. What is taken is one form, survives
//! being signed, and describes nobody by a name that it does not have.

use fuzzing::KEY;
use identity::caller::ObservedCaller;
use identity::cose::{self, Purpose};
use identity::{json, sha256};
use libfuzzer_sys::fuzz_target;
use policy::{Annex, RevokedCredential};

fuzz_target!(|data: &[u8]| {
    let _ = Annex::verify(data, KEY.public());
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(annex) = Annex::from_toml(text)
    {
        look(&annex);
    }
    let signed = cose::sign(Purpose::ANNEX, data, &*KEY).expect("a signature");
    if let Ok(annex) = Annex::verify(&signed, KEY.public()) {
        // Nothing was left out or read differently.
        assert_eq!(Annex::unverified_canonical(&signed), Ok(data));
        assert_eq!(json::canonical(&annex).as_deref(), Ok(data));
        assert_eq!(annex.id().map(|id| id.digest), Ok(sha256(data)));
        look(&annex);
    }
    // What is signed for another purpose is none.
    let signed = cose::sign(Purpose::SEAL, data, &*KEY).expect("a signature");
    assert!(Annex::verify(&signed, KEY.public()).is_err());
});

fn look(annex: &Annex) {
    let signed = annex.sign(&*KEY).expect("a signature");
    assert_eq!(Annex::verify(&signed, KEY.public()).as_ref(), Ok(annex));
    for entry in &annex.revoked {
        if let Some(credential) = RevokedCredential::parse(entry) {
            assert!(entry.starts_with(&format!(
                "credential:{}/{}",
                credential.identity, credential.service
            )));
            assert!(!credential.service.contains('@'));
        }
    }
    // Of whom the parent has seen nothing, no caller is described: something must be seen of each.
    let nobody = ObservedCaller::default();
    for caller in &annex.callers {
        assert!(!annex.describes(&caller.name, &nobody));
    }
    for price in &annex.prices {
        assert_eq!(annex.price(&price.service, &price.model), Some(price));
    }
}
