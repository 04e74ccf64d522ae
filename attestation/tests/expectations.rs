//! The parts that `judge` puts together, as a library's user calls them.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use attestation::{
    AppraisalPolicy, Attested, Error, Evidence, Expectations, Measurements, Mock, MockRoot,
    Unchecked, unverified_nonce, unverified_time, verify_mock,
};
use identity::{Did, Tee, UnixSeconds, did};
use policy::{Bundle, PolicyDigest};

const AT: UnixSeconds = UnixSeconds(1_767_225_600);

fn file(name: &str) -> Vec<u8> {
    std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/vectors/cases")
            .join(name),
    )
    .unwrap()
}

fn evidence(name: &str) -> (Evidence, Mock) {
    let evidence = Evidence::parse(&file(name)).unwrap();
    let root = MockRoot::from_pem(&file("root.pem")).unwrap();
    let document = verify_mock(evidence.document(), &root, AT).unwrap();
    (evidence, document)
}

#[test]
fn what_is_expected_of_a_document_is_compared_and_the_rest_is_listed() {
    let (_, document) = evidence("evidence/good.cbor");
    let image = |name: &str| [Measurements::parse(&file(name)).unwrap()];
    let policy = |name: &str| [Bundle::from_either(&file(name)).unwrap().digest()];
    let nothing = Expectations::default();
    let all = [Unchecked::Nonce, Unchecked::Measurements, Unchecked::Policy];
    assert_eq!(nothing.check_document(&document, AT).unwrap(), all);
    let (good, other) = (image("measurements.json"), image("measurements-other.json"));
    let (policies, others) = (policy("policy.toml"), policy("policy-other.toml"));
    let nonce = [0xc4; 32];
    let whole = || Expectations {
        nonce: Some(nonce.to_vec()),
        measurements: good.to_vec(),
        policies: policies.to_vec(),
        max_age_seconds: Some(10),
        ..Expectations::default()
    };
    assert_eq!(whole().check_document(&document, AT.plus(10)).unwrap(), []);
    let refused = |expected: Expectations| {
        expected
            .check_document(&document, AT.plus(10))
            .unwrap_err()
            .code()
    };
    assert_eq!(
        refused(Expectations {
            nonce: Some(b"another".to_vec()),
            ..whole()
        }),
        "nonce_mismatch"
    );
    assert_eq!(
        refused(Expectations {
            measurements: other.to_vec(),
            ..whole()
        }),
        "measurement_mismatch"
    );
    assert_eq!(
        refused(Expectations {
            policies: others.to_vec(),
            ..whole()
        }),
        "policy_mismatch"
    );
    assert_eq!(
        refused(Expectations {
            max_age_seconds: Some(9),
            ..whole()
        }),
        "too_old"
    );
    let (_, uncommitted) = evidence("evidence/no-PCR16.cbor");
    let refused = Expectations {
        policies: policies.to_vec(),
        ..nothing
    }
    .check_document(&uncommitted, AT)
    .unwrap_err();
    assert_eq!(refused, Error::PolicyNotCommitted);
    let mut signed = good[0].clone();
    signed.pcr8 = Some(identity::Digest([8; 48]));
    assert!(!signed.match_document(document.document()));
    signed.pcr8 = Some(identity::Digest([0; 48]));
    assert!(signed.match_document(document.document()));
}

#[test]
fn evidence_gives_a_key_that_says_what_it_is() {
    let (evidence, document) = evidence("evidence/good.cbor");
    let key = evidence
        .verify(&document, &Expectations::default(), AT)
        .unwrap();
    assert_eq!(key.description(), evidence.key());
    assert_eq!(
        (key.did().as_str(), key.kid().as_str()),
        (evidence.key().did.as_str(), evidence.key().kid.as_str())
    );
    assert_eq!(key.key().to_spki(), evidence.key().spki);
    assert_eq!(key.bundle().canonical(), evidence.bundle());
    assert_eq!(key.document(), &document);
    assert_eq!(
        key.unchecked(),
        [Unchecked::Nonce, Unchecked::Measurements, Unchecked::Policy]
    );
    let signer = key.signer();
    assert_eq!(
        (signer.did(), signer.binding(), signer.tee()),
        (key.did(), key.binding(), Tee::Mock)
    );
    assert_eq!(signer.until(), *document.leaf_validity().end());
    assert!(document.leaf_validity().contains(&AT));
    assert_eq!(document.certificates().len(), 5);
    assert_eq!(unverified_time(evidence.document()), Ok(AT));
    assert_eq!(
        unverified_nonce(evidence.document()),
        Ok(Some(vec![0xc4; 32]))
    );
    assert!(
        evidence
            .possession()
            .starts_with(&[0x84, 0x43, 0xa1, 0x01, 0x27, 0xa0])
    );
    let token = String::from_utf8(file("tokens/good.jwt")).unwrap();
    let claims = key.verify_token(&token, AT, None).unwrap();
    assert_eq!((&claims.iss, claims.binding), (key.did(), key.binding()));
    assert!(
        key.verify_token(&token, AT, Some("https://tools.example"))
            .is_err()
    );
    let content = key
        .verify_credential(&file("credentials/good.json"), AT, None)
        .unwrap();
    assert_eq!(content.binding, key.binding());
    let longest = vec![b' '; identity::credential::MAX_BYTES];
    let code = |bytes: &[u8]| {
        key.verify_credential(bytes, AT, None)
            .unwrap_err()
            .to_string()
    };
    assert!(!code(&longest).contains("64 KiB"));
    assert!(code(&[&longest[..], b" "].concat()).contains("longer than 64 KiB"));
}

#[test]
fn a_domain_stands_by_a_key_with_its_document_only() {
    let (evidence, document) = evidence("evidence/web.cbor");
    let mut key = evidence
        .verify(&document, &Expectations::default(), AT)
        .unwrap();
    assert!(key.unchecked().contains(&Unchecked::DidDocument));
    let other = did::Document::parse(&file("did-other.json")).unwrap();
    assert_eq!(
        key.require_did_document(&other),
        Err(Error::DidDocumentLacksKey(key.kid().to_string()))
    );
    assert!(key.unchecked().contains(&Unchecked::DidDocument));
    key.require_did_document(&did::Document::parse(&file("did.json")).unwrap())
        .unwrap();
    assert_eq!(
        key.unchecked(),
        [Unchecked::Nonce, Unchecked::Measurements, Unchecked::Policy]
    );
}

#[test]
fn files_of_the_greatest_size_are_read_and_longer_ones_are_not() {
    let too_long = |error: Error| error.to_string().contains("longer than");
    let fill = |size: usize| vec![b'#'; size];
    // A comment, and nothing else: not a policy, but not too long.
    let policy = |size| AppraisalPolicy::from_toml(&fill(size)).unwrap_err();
    assert_eq!(
        (too_long(policy(262_144)), too_long(policy(262_145))),
        (false, true)
    );
    let evidence = |size| Evidence::parse(&fill(size)).unwrap_err();
    assert_eq!(
        (too_long(evidence(65_536)), too_long(evidence(65_537))),
        (false, true)
    );
    let bundle = |size| Bundle::from_canonical(&fill(size)).unwrap_err();
    assert_eq!(
        (
            too_long(bundle(32_768).into()),
            too_long(bundle(32_769).into())
        ),
        (false, true)
    );
}

#[test]
fn an_appraisal_policy_says_what_it_names() {
    let with =
        |more: &str| AppraisalPolicy::from_toml(format!("version = 1\n{more}").as_bytes()).unwrap();
    let (own, other) = (
        Did::parse("did:web:a.example").unwrap(),
        Did::parse("did:web:b.example").unwrap(),
    );
    let empty = with("");
    assert_eq!((empty.max_age_seconds(), empty.audience()), (None, None));
    assert_eq!(
        (empty.names_images(), empty.names_bundles()),
        (false, false)
    );
    assert_eq!(
        (empty.check_issuer(&own), empty.check_issuer(&other)),
        (Ok(()), Ok(()))
    );
    let full = with("max_age = \"1h 1s\"\naudience = \"x\"\nissuers = [\"did:web:a.example\"]\n");
    assert_eq!(
        (full.max_age_seconds(), full.audience()),
        (Some(3601), Some("x"))
    );
    assert_eq!(
        (full.check_issuer(&own), full.check_issuer(&other)),
        (
            Ok(()),
            Err(Error::IssuerNotAccepted {
                found: "did:web:b.example".into(),
                accepted: "did:web:a.example".into()
            })
        )
    );
    let listed = AppraisalPolicy::from_toml(&file("verifier.toml")).unwrap();
    assert!(listed.names_images() && listed.names_bundles());
}

#[test]
fn a_policy_is_known_by_its_digest_and_by_its_register() {
    let bundle = Bundle::from_either(&file("policy.toml")).unwrap();
    let again = PolicyDigest::from_digest(bundle.digest().digest());
    assert_eq!(
        (again, again.pcr16()),
        (bundle.digest(), bundle.digest().pcr16())
    );
    let (_, document) = evidence("evidence/good.cbor");
    assert_eq!(document.document().pcrs().get(16), Some(&again.pcr16()));
}

/// What a deny list may name, and what could deny nothing.
#[test]
fn a_denied_certificate_is_named_as_verdicts_write_it() {
    let policy = |issuer: &str, serial: &str| {
        let text = format!(
            "version = 1\n[[deny.certificates]]\nissuer = \"{issuer}\"\nserial = \"{serial}\"\nreason = \"r\"\n"
        );
        AppraisalPolicy::from_toml(text.as_bytes())
    };
    for serial in ["01", "7f", "00", "0080", "00ff01", "7fff"] {
        assert!(policy("CN=x", serial).is_ok(), "{serial}");
    }
    for serial in ["", "0", "xy", "AB", "80", "ff00", "0001", "007f", "0000"] {
        assert!(policy("CN=x", serial).is_err(), "{serial}");
    }
    for issuer in ["x", "CN = x", "CN=x, O=y"] {
        assert!(policy(issuer, "01").is_err(), "{issuer}");
    }
}

#[test]
fn an_evidence_file_is_written_as_it_was_read() {
    let bytes = file("evidence/good.cbor");
    let evidence = Evidence::parse(&bytes).unwrap();
    assert_eq!(evidence.to_vec(), bytes);
    let record = identity::PublicKey::from_spki(evidence.record()).unwrap();
    let (evidence, document) = self::evidence("evidence/good.cbor");
    assert_eq!(
        evidence
            .verify(&document, &Expectations::default(), AT)
            .unwrap()
            .record_key(),
        &record
    );
}

#[test]
fn a_bundle_must_be_among_those_of_the_verifiers_policy_and_among_those_given() {
    use attestation::{Subject, Verifier};
    let (bytes, root) = (
        file("evidence/good.cbor"),
        MockRoot::from_pem(&file("root.pem")).unwrap(),
    );
    let digest = |name: &str| Bundle::from_either(&file(name)).unwrap().digest();
    let listing = |digest: PolicyDigest| {
        let text = format!(
            "version = 1\n[[bundles]]\nlabel = \"b\"\ndigest = \"{}\"\n",
            digest.digest()
        );
        AppraisalPolicy::from_toml(text.as_bytes()).unwrap()
    };
    let judged = |listed: &AppraisalPolicy, given: &[PolicyDigest]| {
        let expectations = Expectations {
            appraisal: Some(listed.clone()),
            policies: given.to_vec(),
            ..Expectations::default()
        };
        let verifier = Verifier {
            expectations,
            allow_mock: Some(root.clone()),
            inspect: true,
            ..Verifier::at(AT)
        };
        verifier
            .judge(Subject::Evidence(&bytes))
            .map(|_| ())
            .map_err(|refusal| refusal.code())
    };
    let (good, other) = (digest("policy.toml"), digest("policy-other.toml"));
    assert_eq!(judged(&listing(good), &[]), Ok(()));
    assert_eq!(judged(&listing(good), &[good]), Ok(()));
    assert_eq!(judged(&listing(other), &[good]), Err("policy_mismatch"));
    assert_eq!(judged(&listing(good), &[other]), Err("policy_mismatch"));
}
