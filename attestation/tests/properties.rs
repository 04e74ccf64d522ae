//! Whatever comes in: no panic, and nothing accepted that the mock has not signed.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::LazyLock;

use attestation::archive::TimeStamp;
use attestation::{
    AppraisalPolicy, Attested, Evidence, Measurements, MockRoot, unverified_time, verify_debug,
    verify_genuine, verify_mock,
};
use identity::{Digest, UnixSeconds, credential, did, token};
use policy::Bundle;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

const AT: UnixSeconds = UnixSeconds(1_767_225_600);

static ROOT: LazyLock<MockRoot> =
    LazyLock::new(|| MockRoot::from_pem(VECTORS["root_pem"].as_str().unwrap().as_bytes()).unwrap());
static VECTORS: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("vectors/documents.json")).unwrap());
/// The accepted documents under the common root, and the digests of their payloads.
static ACCEPTED: LazyLock<Vec<(Vec<u8>, Digest<32>)>> = LazyLock::new(|| {
    let documents = VECTORS["documents"].as_array().unwrap().iter();
    let bytes = documents.map(|vector| {
        data_encoding::HEXLOWER
            .decode(vector["document"].as_str().unwrap().as_bytes())
            .unwrap()
    });
    bytes
        .filter_map(|bytes| {
            Some((
                bytes.clone(),
                verify_mock(&bytes, &ROOT, AT)
                    .ok()?
                    .document()
                    .payload_digest(),
            ))
        })
        .collect()
});

/// One change of a document's bytes.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Copy {
        from: Index,
        to: Index,
        length: usize,
    },
    Cut(Index),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        any::<Index>().prop_map(Change::Remove),
        (any::<Index>(), any::<Index>(), 1..64_usize).prop_map(|(from, to, length)| Change::Copy {
            from,
            to,
            length
        }),
        any::<Index>().prop_map(Change::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    let size = bytes.len();
    match change {
        Change::Set(at, byte) => bytes[at.index(size)] = *byte,
        Change::Insert(at, byte) => bytes.insert(at.index(size), *byte),
        Change::Remove(at) => drop(bytes.remove(at.index(size))),
        Change::Copy { from, to, length } => {
            let from = from.index(size);
            let piece = bytes[from..size.min(from + length)].to_vec();
            let to = to.index(size - piece.len() + 1);
            bytes[to..to + piece.len()].copy_from_slice(&piece);
        }
        Change::Cut(at) => bytes.truncate(at.index(size)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_are_refused_and_harm_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        prop_assert!(verify_genuine(&bytes, AT).is_err());
        prop_assert!(verify_debug(&bytes, AT).is_err());
        prop_assert!(verify_mock(&bytes, &ROOT, AT).is_err());
        prop_assert!(unverified_time(&bytes).is_err());
        prop_assert!(Evidence::parse(&bytes).is_err());
        prop_assert!(Measurements::parse(&bytes).is_err());
        prop_assert!(Bundle::from_either(&bytes).is_err());
        prop_assert!(did::Document::parse(&bytes).is_err());
        prop_assert!(MockRoot::from_der(&bytes).is_err());
        prop_assert!(AppraisalPolicy::from_toml(&[&b"x"[..], &bytes].concat()).is_err());
        prop_assert!(TimeStamp::new(&bytes, &[VECTORS["root_pem"].as_str().unwrap()]).is_err());
        // A few bytes may be JSON: a digit is.
        prop_assert!(bytes.len() < 8 || credential::canonical(&bytes).is_err());
        prop_assert!(did::parse_jwks(&bytes).is_err());
        let text = String::from_utf8_lossy(&bytes);
        prop_assert!(token::unverified_claims(&text).is_err());
        prop_assert!(token::unverified_key(&text).is_err());
    }

    #[test]
    fn a_changed_document_is_refused_or_says_the_same(which in any::<Index>(), changes in proptest::collection::vec(change(), 1..4)) {
        let (document, digest) = which.get(&ACCEPTED);
        let mut changed = document.clone();
        changes.iter().for_each(|change| apply(&mut changed, change));
        if let Ok(accepted) = verify_mock(&changed, &ROOT, AT) {
            prop_assert_eq!(&accepted.document().payload_digest(), digest);
        }
        prop_assert!(verify_genuine(&changed, AT).is_err());
    }
}
