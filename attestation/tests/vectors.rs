//! The committed vectors, made by the mock NSM: `vectors/documents.json`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;

use attestation::{Expectations, MockRoot, verify_genuine, verify_mock};
use data_encoding::HEXLOWER;
use identity::UnixSeconds;
use serde_json::Value;

fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

#[test]
fn every_vector_is_judged_as_it_says() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/documents.json")).unwrap();
    let documents = vectors["documents"].as_array().unwrap();
    let (mut accepted, mut refused, mut wrong) = (0, 0, Vec::new());
    for vector in documents {
        let pem = vector
            .get("root_pem")
            .unwrap_or(&vectors["root_pem"])
            .as_str()
            .unwrap();
        let root = MockRoot::from_pem(pem.as_bytes());
        let document = hex(&vector["document"]);
        let at = UnixSeconds(vector["at"].as_i64().unwrap());
        let nonce = vector.get("nonce").map(hex);
        let expectations = Expectations {
            nonce,
            ..Expectations::default()
        };
        let judged = root.and_then(|root| verify_mock(&document, &root, at));
        let code = match judged.and_then(|document| expectations.check_document(&document, at)) {
            Ok(_) => "accepted",
            Err(error) => error.code(),
        };
        if code != vector["expected"] {
            wrong.push(format!(
                "{}: {code} instead of {}",
                vector["name"], vector["expected"]
            ));
        }
        assert!(verify_genuine(&document, at).is_err(), "{}", vector["name"]);
        if code == "accepted" {
            accepted += 1
        } else {
            refused += 1
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((accepted, refused), (87, 757));
    let names: BTreeSet<&str> = documents
        .iter()
        .filter_map(|vector| vector["name"].as_str())
        .collect();
    assert_eq!(names.len(), documents.len(), "each has a name of its own");
}

#[test]
fn every_bit_of_a_document_counts() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/documents.json")).unwrap();
    let root = MockRoot::from_pem(vectors["root_pem"].as_str().unwrap().as_bytes()).unwrap();
    let (vector, at) = (
        &vectors["documents"][0],
        UnixSeconds(vectors["documents"][0]["at"].as_i64().unwrap()),
    );
    let document = hex(&vector["document"]);
    assert!(verify_mock(&document, &root, at).is_ok());
    let halves = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for part in 0..halves {
            let (document, root) = (&document, &root);
            scope.spawn(move || {
                for bit in (part..document.len() * 8).step_by(halves) {
                    let mut flipped = document.clone();
                    flipped[bit / 8] ^= 1 << (bit % 8);
                    assert!(verify_mock(&flipped, root, at).is_err(), "bit {bit}");
                }
            });
        }
    });
}
