//! Each refused vector, with the one rule left out that it names: it must pass. So nothing else was
//! wrong with it, and no other rule stands in for that one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use identity::UnixSeconds;
use serde_json::{Value, json};
use strum::IntoEnumIterator;

use crate::document::{Trust, issuer_path, signature_checks, verify_mock_by};
use crate::rules::{Every, Without};
use crate::steps::Steps;
use crate::{Expectations, KnownIssuers, MockRoot, Outcome, Rule, Step, Subject, Verifier};

struct Vector {
    name: String,
    document: Vec<u8>,
    root: MockRoot,
    at: UnixSeconds,
    nonce: Option<Vec<u8>>,
    expected: String,
}

fn vectors() -> Vec<Vector> {
    let all: Value = serde_json::from_str(include_str!("../tests/vectors/documents.json")).unwrap();
    let hex = |value: &Value| HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap();
    let vector = |vector: &Value| Vector {
        name: vector["name"].as_str().unwrap().into(),
        document: hex(&vector["document"]),
        root: MockRoot::from_pem(
            vector
                .get("root_pem")
                .unwrap_or(&all["root_pem"])
                .as_str()
                .unwrap()
                .as_bytes(),
        )
        .unwrap(),
        at: UnixSeconds(vector["at"].as_i64().unwrap()),
        nonce: vector.get("nonce").map(hex),
        expected: vector["expected"].as_str().unwrap().into(),
    };
    all["documents"]
        .as_array()
        .unwrap()
        .iter()
        .map(vector)
        .collect()
}

fn rule(code: &str) -> Rule {
    Rule::iter()
        .find(|rule| rule.code() == code)
        .unwrap_or_else(|| panic!("no rule is called {code}"))
}

/// Where a rule speaks because nothing can be read, nothing can be judged in its place.
fn leaves_nothing_to_read(rule: Rule) -> bool {
    use Rule as R;
    #[rustfmt::skip]
    let structure = [
        R::DocumentNotCoseSign1, R::DocumentTag, R::DocumentNotShortest, R::DocumentUnprotectedHeader, R::PayloadNotMap, R::PayloadCut,
        R::PayloadHeadNotShortest, R::PayloadNotShortest, R::PayloadIndefinite, R::FieldUnknown, R::FieldMissing, R::FieldType,
        R::CertificateMalformed,
    ];
    structure.contains(&rule)
}

/// What breaks these rules cannot but break another one: that one speaks when the first is left
/// out.
fn must_break_another(vector: &Vector) -> Option<&'static str> {
    Some(match (vector.expected.as_str(), vector.name.as_str()) {
        ("document_too_long", _) => "payload_size",
        ("document_signature_size", _) => "document_signature_invalid",
        ("timestamp_range", "timestamp: zero") | ("document_from_future", "timestamp: 2^63-1") => {
            "document_outside_leaf"
        }
        ("timestamp_range", _) => "document_from_future",
        ("certificate_not_yet_valid", "six seconds before the leaf") => "document_from_future",
        ("payload_size", "payload: empty") => "payload_cut",
        ("pcr_count", "pcrs: empty") => "pcr_missing",
        // 33 registers out of 32.
        ("pcr_count", _) => "pcr_index",
        (
            "pcr_size",
            "pcrs: PCR0 of 0 bytes" | "pcrs: PCR1 of 0 bytes" | "pcrs: PCR2 of 0 bytes",
        ) => "debug_mode",
        ("certificate_size", "certificate: empty") => "certificate_malformed",
        ("certificate_size", "cabundle: an empty certificate")
        | ("cabundle_count", "cabundle: empty" | "cabundle: nine elements") => "root_untrusted",
        ("cabundle_count", "cabundle: more elements than bytes") => "field_type",
        ("cabundle_count", name) if name.ends_with(" twice") => "chain_issuer",
        ("chain_issuer", name) if name.ends_with(" in the place of the next") => {
            "chain_subject_twice"
        }
        ("certificate_extension_twice", "leaf: key usage twice") => "leaf_key_usage",
        ("certificate_extension_twice", name) if name.ends_with(": key usage twice") => {
            "ca_key_usage"
        }
        ("certificate_key", "leaf: a key on p-256") => "document_signature_invalid",
        ("ca_constraints", "the leaf of another chain among the intermediates") => "ca_key_usage",
        ("root_untrusted", "the root last") => "chain_issuer",
        ("root_untrusted", "the root with a byte after it") => "certificate_malformed",
        _ => return None,
    })
}

fn code(vector: &Vector, rules: &impl crate::rules::Rules) -> &'static str {
    let expectations = Expectations {
        nonce: vector.nonce.clone(),
        ..Expectations::default()
    };
    let mut steps = Steps::default();
    let trust = Trust {
        root: vector.root.as_der(),
        at: vector.at,
        issuers: None,
    };
    let judged = verify_mock_by(&vector.document, trust, rules, &mut steps);
    judged
        .and_then(|document| expectations.hold_document(&document, vector.at, rules, &mut steps))
        .map_or_else(|error| error.code(), |()| "accepted")
}

#[test]
fn what_is_refused_is_refused_by_the_named_rule_alone() {
    let mut wrong = Vec::new();
    let mut cases: BTreeMap<&str, usize> = BTreeMap::new();
    for vector in vectors()
        .iter()
        .filter(|vector| vector.expected != "accepted")
    {
        let rule = rule(&vector.expected);
        *cases.entry(rule.code()).or_default() += 1;
        assert_eq!(code(vector, &Every), vector.expected, "{}", vector.name);
        if leaves_nothing_to_read(rule) {
            continue;
        }
        let without = code(vector, &Without(rule));
        let expected = must_break_another(vector).unwrap_or("accepted");
        if without != expected {
            wrong.push(format!(
                "{}: without {}: {without}",
                vector.name, vector.expected
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.values().sum::<usize>() >= 500, "{cases:?}");
}

/// What a refusal lists is what happened: each step before the refused one was made, and none after
/// it.
#[test]
fn a_document_is_refused_in_the_step_after_those_that_it_passed() {
    let mut refused = BTreeSet::new();
    for vector in vectors()
        .iter()
        .filter(|vector| vector.expected != "accepted")
    {
        let expectations = Expectations {
            nonce: vector.nonce.clone(),
            ..Expectations::default()
        };
        let allow_mock = Some(vector.root.clone());
        let verifier = Verifier {
            expectations,
            allow_mock,
            inspect: true,
            ..Verifier::at(vector.at)
        };
        let checks = verifier
            .judge(Subject::Document(&vector.document))
            .unwrap_err()
            .checks;
        let failed = checks
            .iter()
            .find(|check| check.outcome == Outcome::Failed)
            .unwrap()
            .step;
        for check in &checks {
            let made = matches!(check.outcome, Outcome::Passed | Outcome::NotChecked);
            assert_eq!(made, check.step < failed, "{}: {checks:?}", vector.name);
        }
        assert_eq!(checks.len(), Step::DOCUMENT.len(), "{}", vector.name);
        refused.insert(failed);
    }
    let document = [
        Step::DocumentForm,
        Step::Root,
        Step::Chain,
        Step::DocumentSignature,
        Step::DocumentTime,
        Step::Mode,
    ];
    assert!(
        document.iter().all(|step| refused.contains(step)),
        "{refused:?}"
    );
}

#[test]
fn every_rule_about_documents_has_a_case() {
    use Rule as R;
    let cases: BTreeSet<String> = vectors()
        .into_iter()
        .map(|vector| vector.expected)
        .collect();
    // What is no rule about a document and its chain, or what needs something that vectors do not
    // have.
    #[rustfmt::skip]
    let elsewhere = [
        R::Identity, R::RootNotMock, R::RootMalformed, R::NotDebugMode, R::MeasurementDenied, R::CertificateDenied, R::TooOld,
        R::MeasurementMismatch, R::PolicyNotCommitted, R::PolicyMismatch, R::EpochAbsent, R::EpochTooLow,
        R::StateAbsent, R::StateMismatch, R::CustodyTooLow, R::DidNotAccepted, R::IssuerNotAccepted,
        R::BindingMismatch, R::TokenBindingMismatch, R::TeeMismatch, R::PossessionInvalid, R::IdentityNotInPolicy, R::IdentityMismatch,
        R::DidDocumentLacksKey, R::TimestampMalformed, R::TimestampImprint, R::TimestampSignature, R::TimestampUntrusted,
        R::AnchorOutsideLeaf, R::AnchorTooEarly, R::AnchorFromFuture, R::EvidenceMalformed, R::MeasurementsMalformed, R::PolicyMalformed,
        R::AppraisalPolicyMalformed, R::VerifierKeyMalformed,
    ];
    let without: Vec<&str> = Rule::iter()
        .filter(|rule| !elsewhere.contains(rule))
        .map(Rule::code)
        .filter(|code| !cases.contains(*code))
        .collect();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn a_document_costs_at_most_five_signature_checks() {
    let mut most = 0;
    for vector in vectors() {
        signature_checks();
        let _ = code(&vector, &Every);
        let checks = signature_checks();
        assert!(checks <= 5, "{}: {checks}", vector.name);
        most = most.max(checks);
    }
    assert_eq!(most, 5, "root to leaf, and the document: the count counts");
}

impl Vector {
    fn verifier(&self, issuers: Option<&Arc<KnownIssuers>>) -> Verifier {
        Verifier {
            expectations: Expectations {
                nonce: self.nonce.clone(),
                ..Expectations::default()
            },
            allow_mock: Some(self.root.clone()),
            inspect: true,
            issuers: issuers.cloned(),
            ..Verifier::at(self.at)
        }
    }

    fn is_accepted(&self) -> bool {
        self.expected == "accepted"
    }
}

/// With what is remembered of all the others, in whatever order they came, each document is judged
/// as if it were the first, step by step.
#[test]
fn what_is_known_of_issuers_changes_no_verdict() {
    let vectors = vectors();
    let judged = |vector: &Vector, issuers: Option<&Arc<KnownIssuers>>| {
        let verifier = vector.verifier(issuers);
        let judged = verifier.judge(Subject::Document(&vector.document));
        judged.map_or_else(|refusal| refusal.to_json(), |verdict| json!(verdict))
    };
    let (good, bad): (Vec<_>, Vec<_>) = vectors.iter().partition(|vector| vector.is_accepted());
    for order in [[&good, &bad], [&bad, &good]] {
        let issuers = Arc::default();
        // Twice, so that whatever can be known is.
        for vector in [order, order].into_iter().flatten().flatten() {
            assert_eq!(
                judged(vector, Some(&issuers)),
                judged(vector, None),
                "{}",
                vector.name
            );
        }
    }
}

/// The leaf's signature and the document's: what a document costs whose parent instance was met.
/// One of another path, or of the same at a time when a certificate of it has expired, is no better
/// off.
#[test]
fn a_document_of_an_issuer_that_is_known_costs_two_signature_checks() {
    let vectors = vectors();
    let find = |name: &str| vectors.iter().find(|one| one.name == name).unwrap();
    let cost = |vector: &Vector, issuers: &Arc<KnownIssuers>| {
        signature_checks();
        let verifier = vector.verifier(Some(issuers));
        let judged = verifier.judge(Subject::Document(&vector.document));
        let code = judged.map_or_else(|refusal| refusal.code(), |verdict| verdict.verdict);
        (code, signature_checks())
    };
    let (first, other) = (find("definite payload map"), find("tag 18"));
    let issuers = Arc::default();
    assert_eq!(cost(first, &issuers), ("mock", 5));
    assert_eq!(cost(first, &issuers), ("mock", 2));
    assert_eq!(cost(other, &issuers), ("mock", 2));
    // Each certificate above the leaf belongs to the path.
    for authority in ["root", "regional", "zonal", "instance"] {
        let another = find(&format!("{authority}: a subject key id"));
        assert_eq!(cost(another, &issuers), ("mock", 5), "{authority}");
        assert_eq!(cost(another, &issuers), ("mock", 2), "{authority}");
    }
    // What expired since is refused before any signature is looked at.
    let late = Vector {
        at: first.at.plus(1_000_000_000),
        document: first.document.clone(),
        root: first.root.clone(),
        name: String::new(),
        nonce: None,
        expected: String::new(),
    };
    assert_eq!(cost(&late, &issuers), ("certificate_expired", 0));
    // A chain that was refused teaches nothing.
    let forged = find("leaf: a changed signature");
    let issuers = Arc::default();
    assert_eq!(cost(forged, &issuers).0, "chain_signature");
    assert!(!issuers.has(issuer_path(&forged.document)));
    assert_eq!(cost(first, &issuers), ("mock", 5));
}

/// Names that a zone permits are of no use to who looks at its instance alone: such a path is
/// verified whole, even if it was known. And what an issuer that has ended could not have issued is
/// refused, known or not.
#[test]
fn a_path_that_limits_names_is_verified_whole() {
    let vectors = vectors();
    for (name, code) in [
        ("leaf: a name that the zone may not give", "chain_path"),
        (
            "instance: ends before its leaf begins",
            "certificate_expired",
        ),
    ] {
        let vector = vectors.iter().find(|vector| vector.name == name).unwrap();
        let issuers = Arc::<KnownIssuers>::default();
        issuers.remember(issuer_path(&vector.document));
        let judged = vector
            .verifier(Some(&issuers))
            .judge(Subject::Document(&vector.document));
        assert_eq!(judged.unwrap_err().code(), code, "{name}");
    }
}
