//! The committed vectors, made by the mock NSM: `vectors/documents.json`.

use attestation::{MockRoot, verify_genuine, verify_mock};
use identity::UnixSeconds;
use serde_json::Value;

#[test]
fn every_vector_is_judged_as_it_says() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/documents.json")).unwrap();
    let root = MockRoot::from_pem(vectors["root_pem"].as_str().unwrap().as_bytes()).unwrap();
    let documents = vectors["documents"].as_array().unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for vector in documents {
        let document = data_encoding::HEXLOWER.decode(vector["document"].as_str().unwrap().as_bytes()).unwrap();
        let at = UnixSeconds(vector["at"].as_i64().unwrap());
        let code = match verify_mock(&document, &root, at) {
            Ok(_) => "accepted",
            Err(error) => error.code(),
        };
        assert_eq!(code, vector["expected"], "{}", vector["name"]);
        assert!(verify_genuine(&document, at).is_err(), "{}", vector["name"]);
        if code == "accepted" { accepted += 1 } else { refused += 1 }
    }
    assert_eq!((accepted, refused), (17, 101));
}
