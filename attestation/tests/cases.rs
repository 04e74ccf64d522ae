//! The committed cases, made by the mock NSM: what a verifier makes of evidence, tokens and
//! credentials, `vectors/cases`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use attestation::results::{self, About};
use attestation::{
    AppraisalPolicy, Evidence, Expectations, KnownIssuers, Measurements, MockRoot, Outcome,
    Refusal, Subject, Verdict, Verifier,
};
use data_encoding::HEXLOWER;
use identity::{UnixSeconds, did};
use policy::{Bundle, PolicyDigest};
use serde_json::{Value, json};

/// All cases are judged by one verifier, as far as it remembers something.
static ISSUERS: LazyLock<Arc<KnownIssuers>> = LazyLock::new(Arc::default);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/cases")
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn named(case: &Value, key: &str) -> Option<Vec<u8>> {
    case[key].as_str().map(file)
}

fn all(case: &Value, key: &str) -> Vec<Vec<u8>> {
    case[key]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| file(name.as_str().unwrap()))
        .collect()
}

/// What a case says, judged.
fn judged(case: &Value) -> (Result<Verdict, Refusal>, Vec<u8>) {
    let evidence = named(case, "evidence").unwrap();
    let token = named(case, "token").map(|token| String::from_utf8(token).unwrap());
    let credential = named(case, "credential");
    let document = Evidence::parse(&evidence)
        .map(|evidence| evidence.document().to_vec())
        .unwrap_or_default();
    let subject = match (&token, &credential) {
        _ if case["document_alone"] == true => Subject::Document(&document),
        (Some(token), _) => Subject::Token {
            token,
            evidence: &evidence,
        },
        (_, Some(credential)) => Subject::Credential {
            credential,
            evidence: &evidence,
        },
        _ => Subject::Evidence(&evidence),
    };
    let nonce = case["nonce"]
        .as_str()
        .map(|nonce| HEXLOWER.decode(nonce.as_bytes()).unwrap());
    let measurements: Vec<Measurements> = all(case, "measurements")
        .iter()
        .map(|text| Measurements::parse(text).unwrap())
        .collect();
    let policies: Vec<PolicyDigest> = all(case, "policies")
        .iter()
        .map(|text| Bundle::from_either(text).unwrap().digest())
        .collect();
    let appraisal = case["appraisal_policy"]
        .as_str()
        .map(|text| AppraisalPolicy::from_toml(text.as_bytes()).unwrap());
    let did_document = named(case, "did_document").map(|text| did::Document::parse(&text).unwrap());
    let root = named(case, "mock_root").map(|pem| MockRoot::from_pem(&pem).unwrap());
    let text = |key: &str| case[key].as_str().map(str::to_owned);
    let verifier = Verifier {
        at: UnixSeconds(case["at"].as_i64().unwrap()),
        expectations: Expectations {
            nonce,
            measurements,
            policies,
            max_age_seconds: case["max_age_seconds"].as_i64(),
            audience: text("audience"),
            did_document,
            did: text("did"),
            identity: text("identity"),
            state: text("state").map(|id| state::StateId::from_hex(&id).unwrap()),
            appraisal,
        },
        anchor: None,
        allow_debug: case["allow_debug"] == true,
        allow_mock: root,
        inspect: case["inspect"] == true,
        issuers: Some(Arc::clone(&ISSUERS)),
    };
    (verifier.judge(subject), evidence.clone())
}

fn cases() -> Vec<Value> {
    let cases: Value = serde_json::from_slice(&file("cases.json")).unwrap();
    cases["cases"].as_array().unwrap().clone()
}

#[test]
fn every_case_is_judged_as_it_says() {
    let (mut wrong, mut names, mut with_state) = (Vec::new(), BTreeSet::new(), 0);
    let cases = cases();
    for case in &cases {
        let (outcome, _) = judged(case);
        let code = outcome.as_ref().map_or_else(Refusal::code, |_| "accepted");
        if code != case["expected"] {
            wrong.push(format!(
                "{}: {code} instead of {}",
                case["name"], case["expected"]
            ));
        }
        names.insert(case["name"].to_string());
        let checks = outcome
            .as_ref()
            .map_or_else(|refusal| &refusal.checks, |verdict| &verdict.checks);
        let failed = checks
            .iter()
            .filter(|check| check.outcome == Outcome::Failed)
            .count();
        // What is said of a state is said in one piece, too.
        if let Some(key) = outcome
            .as_ref()
            .ok()
            .and_then(|verdict| verdict.key.as_ref())
        {
            let facts = key.state_facts();
            assert_eq!(facts.map(|facts| facts.state), key.state);
            assert_eq!(facts.map(|facts| facts.epoch), key.epoch);
            assert!(facts.is_none_or(|facts| facts.custody == key.custody));
            with_state += usize::from(facts.is_some());
        }
        let steps: BTreeSet<_> = checks.iter().map(|check| check.step).collect();
        assert_eq!(
            steps.len(),
            checks.len(),
            "{}: each step once",
            case["name"]
        );
        assert!(
            checks.is_sorted_by_key(|check| check.step),
            "{}: in order",
            case["name"]
        );
        assert_eq!(
            failed,
            usize::from(outcome.is_err() && code != "unchecked"),
            "{}: {checks:?}",
            case["name"]
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(names.len(), cases.len(), "each has a name of its own");
    assert!(with_state > 0);
    assert!(cases.len() >= 100, "{}", cases.len());
}

/// What is written of each case: the verdict, step by step, an EAR and a trust record.
/// `ANCHORHOLD_WRITE_VECTORS=1` writes the file anew; read the difference.
#[test]
fn every_verdict_is_written_as_before() {
    let at = UnixSeconds(1_767_225_600);
    let written = |case: &Value| {
        let (outcome, evidence) = judged(case);
        let about = if case["document_alone"] == true {
            About::Document(&evidence)
        } else {
            About::Evidence(&evidence)
        };
        let mut ear = results::ear(&outcome, at, about);
        // Its bytes are those of the file.
        ear["ear_raw_evidence"][1] =
            identity::sha256(ear["ear_raw_evidence"][1].as_str().unwrap().as_bytes())
                .to_string()
                .into();
        let trace = outcome
            .as_ref()
            .ok()
            .map(|verdict| results::trace(verdict, at).map_err(|error| error.to_string()));
        let mut verdict = outcome.map_or_else(
            |refusal| refusal.to_json(),
            |verdict| serde_json::to_value(verdict).unwrap(),
        );
        for check in verdict["checks"].as_array_mut().unwrap() {
            let [step, outcome, against] =
                ["step", "outcome", "against"].map(|key| check[key].as_str().unwrap().to_owned());
            *check = format!("{step}: {outcome}: {against}").into();
        }
        json!({"name": case["name"], "verdict": verdict, "ear": ear, "trace": trace})
    };
    let text = serde_json::to_string_pretty(&cases().iter().map(written).collect::<Vec<_>>())
        .unwrap()
        + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/verdicts.json");
    if std::env::var_os("ANCHORHOLD_WRITE_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap() == text,
        "ANCHORHOLD_WRITE_VECTORS=1, and read the difference"
    );
}
