//! Project Wycheproof's cases for Ed25519 and ECDSA P-256, every one, against the functions that
//! this crate verifies with.

use identity::PublicKey;
use wycheproof::TestResult;

/// How many cases were valid, acceptable and invalid, after each was tried.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    valid: usize,
    acceptable: usize,
    invalid: usize,
}

impl Counts {
    /// A valid case must verify, an invalid one must not; an acceptable one may do either.
    fn count(&mut self, result: TestResult, good: bool, case: usize) {
        match result {
            TestResult::Valid => {
                assert!(good, "case {case} is valid and was refused");
                self.valid += 1;
            }
            TestResult::Acceptable => self.acceptable += 1,
            TestResult::Invalid => {
                assert!(!good, "case {case} is invalid and was accepted");
                self.invalid += 1;
            }
        }
    }
}

#[test]
fn ed25519() {
    use wycheproof::eddsa::{TestName, TestSet};
    let mut counts = Counts::default();
    for group in TestSet::load(TestName::Ed25519).unwrap().test_groups {
        let key = PublicKey::ed25519(&group.key.pk).unwrap();
        for test in group.tests {
            counts.count(
                test.result,
                key.verify_bytes(&test.msg, &test.sig).is_ok(),
                test.tc_id,
            );
        }
    }
    assert_eq!(
        counts,
        Counts {
            valid: 88,
            acceptable: 0,
            invalid: 63
        }
    );
}

#[test]
fn p256_raw() {
    use wycheproof::ecdsa::{TestName, TestSet};
    let mut counts = Counts::default();
    for group in TestSet::load(TestName::EcdsaSecp256r1Sha256P1363)
        .unwrap()
        .test_groups
    {
        let key = PublicKey::p256(&group.key.key).unwrap();
        for test in group.tests {
            counts.count(
                test.result,
                key.verify_bytes(&test.msg, &test.sig).is_ok(),
                test.tc_id,
            );
        }
    }
    assert_eq!(
        counts,
        Counts {
            valid: 173,
            acceptable: 0,
            invalid: 89
        }
    );
}

/// ES256 signatures are raw; the DER cases are brought into that form by the library's strict DER
/// reader first.
#[test]
fn p256_der() {
    use wycheproof::ecdsa::{TestName, TestSet};
    let mut counts = Counts::default();
    for group in TestSet::load(TestName::EcdsaSecp256r1Sha256)
        .unwrap()
        .test_groups
    {
        let key = PublicKey::p256(&group.key.key).unwrap();
        for test in group.tests {
            let raw =
                p256::ecdsa::Signature::from_der(&test.sig).map(|signature| signature.to_bytes());
            let good = raw.is_ok_and(|raw| key.verify_bytes(&test.msg, &raw).is_ok());
            counts.count(test.result, good, test.tc_id);
        }
    }
    assert_eq!(
        counts,
        Counts {
            valid: 174,
            acceptable: 0,
            invalid: 310
        }
    );
}
