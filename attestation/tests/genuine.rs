//! Documents that AWS signed, and what was made of them. The files belong to other projects and are
//! not in this repository: where the folder is absent, each test says aloud that it was skipped.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use attestation::results::{self, About};
use attestation::{
    Attested, Check, Error, KnownIssuers, MockRoot, Outcome, Step, Subject, Verifier, verify_debug,
    verify_genuine, verify_mock,
};
use identity::UnixSeconds;
use serde_json::json;

/// File name and timestamp in milliseconds.
const GENUINE: [(&str, i64); 4] = [
    ("genuine-2022-10-13-nonce-pcr8", 1_665_651_482_136),
    ("genuine-2022-11-09-nonce", 1_668_034_320_696),
    ("genuine-2024-11-30-publickey", 1_732_983_768_387),
    ("genuine-2024-12-13", 1_734_075_478_960),
];
const DEBUG: [(&str, i64); 3] = [
    ("genuine-2022-10-12-debug", 1_665_582_606_081),
    ("genuine-2023-09-18-debug", 1_695_049_410_860),
    ("genuine-2025-08-18-debug-indefinite", 1_755_506_509_495),
];
/// Of the document that the edge files and the one with a trailing byte were made of.
const EDGE: i64 = 1_723_012_689_640;
const THREE_HOURS_AND_A_MINUTE: i64 = 3 * 3600 + 60;

fn folder() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors/nitro");
    let folder = std::env::var_os("ANCHORHOLD_NITRO_VECTORS")
        .map_or_else(|| PathBuf::from(default), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    // Not eprintln: the test runner would swallow it.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: the genuine AWS documents are not at {}; set ANCHORHOLD_NITRO_VECTORS",
        folder.display()
    );
    None
}

fn read(name: &str) -> Option<Vec<u8>> {
    folder().map(|folder| {
        fs::read(folder.join(format!("{name}.bin"))).expect("a vector that INDEX.md names")
    })
}

fn seconds(ms: i64) -> UnixSeconds {
    UnixSeconds(ms / 1000)
}

#[test]
fn genuine_documents_are_accepted_at_their_own_time_and_refused_when_the_leaf_has_expired() {
    for (name, ms) in GENUINE {
        let Some(bytes) = read(name) else { return };
        let document =
            verify_genuine(&bytes, seconds(ms)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(document.document().timestamp_ms, ms.unsigned_abs());
        let late = verify_genuine(&bytes, seconds(ms).plus(THREE_HOURS_AND_A_MINUTE)).unwrap_err();
        assert_eq!(late.code(), "certificate_expired", "{name}");
        let early =
            verify_genuine(&bytes, seconds(ms).plus(-THREE_HOURS_AND_A_MINUTE)).unwrap_err();
        assert_eq!(early.code(), "certificate_not_yet_valid", "{name}");
        assert_eq!(verify_debug(&bytes, seconds(ms)), Err(Error::NotDebugMode));
    }
}

#[test]
fn debug_documents_pass_through_the_debug_type_only() {
    for (name, ms) in DEBUG {
        let Some(bytes) = read(name) else { return };
        verify_debug(&bytes, seconds(ms)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            verify_genuine(&bytes, seconds(ms)),
            Err(Error::DebugMode),
            "{name}"
        );
        let late = verify_debug(&bytes, seconds(ms).plus(THREE_HOURS_AND_A_MINUTE)).unwrap_err();
        assert_eq!(late.code(), "certificate_expired", "{name}");
    }
}

#[test]
fn a_verdict_says_genuine_of_hardware_and_debug_only_where_that_is_allowed() {
    // What was verified before changes nothing.
    let issuers = Some(Arc::<KnownIssuers>::default());
    let judged = |name: &str, ms: i64, allow_debug: bool| {
        let bytes = read(name)?;
        let verifier = Verifier {
            inspect: true,
            allow_debug,
            issuers: issuers.clone(),
            ..Verifier::at(seconds(ms))
        };
        let outcome = verifier.judge(Subject::Document(&bytes));
        let ear = results::ear(&outcome, seconds(ms), About::Document(&bytes));
        let vector = ear["submods"]["nitro-enclave"]["ear_trustworthiness_vector"].clone();
        let mode = |checks: &[Check]| {
            checks
                .iter()
                .find(|check| check.step == Step::Mode)
                .map(|check| check.outcome)
        };
        Some(match outcome {
            Ok(verdict) => (verdict.verdict, mode(&verdict.checks), vector),
            Err(refusal) => (refusal.code(), mode(&refusal.checks), vector),
        })
    };
    for (name, ms) in GENUINE {
        let Some(said) = judged(name, ms, false) else {
            return;
        };
        assert_eq!(
            said,
            ("genuine", Some(Outcome::Passed), json!({"hardware": 2})),
            "{name}"
        );
        assert_eq!(judged(name, ms, true), Some(said), "{name}");
    }
    for (name, ms) in DEBUG {
        let Some(said) = judged(name, ms, true) else {
            return;
        };
        assert_eq!(
            said,
            (
                "debug",
                Some(Outcome::Failed),
                json!({"hardware": 2, "runtime-opaque": 96})
            ),
            "{name}"
        );
        let refused = (
            "debug_mode",
            Some(Outcome::Failed),
            json!({"runtime-opaque": 96}),
        );
        assert_eq!(judged(name, ms, false), Some(refused), "{name}");
    }
}

#[test]
fn each_refused_file_has_its_own_error() {
    for (name, ms, code) in [
        (
            "refuse-bad-signature",
            1_668_034_320_696,
            "document_signature_invalid",
        ),
        ("refuse-foreign-root", 1_734_080_745_008, "root_untrusted"),
        (
            "refuse-truncated-key",
            1_767_472_867_402,
            "document_not_cose_sign1",
        ),
        ("refuse-trailing-byte", EDGE, "document_trailing_bytes"),
    ] {
        let Some(bytes) = read(name) else { return };
        assert_eq!(
            verify_genuine(&bytes, seconds(ms)).unwrap_err().code(),
            code,
            "{name}"
        );
    }
}

#[test]
fn a_tag_and_a_signature_twin_are_accepted_and_name_the_same_payload() {
    let Some(mut original) = read("refuse-trailing-byte") else {
        return;
    };
    original.pop();
    let original = verify_genuine(&original, seconds(EDGE)).unwrap();
    for name in ["edge-tag18", "edge-signature-twin"] {
        let twin = verify_genuine(&read(name).unwrap(), seconds(EDGE)).unwrap();
        assert_eq!(
            twin.document().payload_digest(),
            original.document().payload_digest(),
            "{name}"
        );
    }
}

#[test]
fn a_genuine_document_is_no_mock_and_the_aws_root_no_mock_root() {
    assert_eq!(
        MockRoot::from_der(attestation::aws_root_g1()),
        Err(Error::RootNotMock)
    );
    let Some(folder) = folder() else { return };
    let pem = fs::read(folder.join("aws-nitro-root-g1.pem")).unwrap();
    assert_eq!(MockRoot::from_pem(&pem), Err(Error::RootNotMock));
    // The foreign document's own root makes a mock root, under which genuine documents are nothing.
    let foreign = read("refuse-foreign-root").unwrap();
    let start = foreign
        .windows(8)
        .position(|bytes| bytes == b"cabundle")
        .unwrap()
        + 8
        + 1
        + 3;
    let length = usize::from(foreign[start - 2]) << 8 | usize::from(foreign[start - 1]);
    let root = MockRoot::from_der(&foreign[start..start + length]).unwrap();
    let (name, ms) = GENUINE[3];
    assert_eq!(
        verify_mock(&read(name).unwrap(), &root, seconds(ms)),
        Err(Error::RootUntrusted)
    );
}

#[test]
fn every_cut_and_every_flipped_byte_of_a_genuine_document_is_refused() {
    let (name, ms) = GENUINE[2];
    let Some(bytes) = read(name) else { return };
    for length in 0..bytes.len() {
        assert!(
            verify_genuine(&bytes[..length], seconds(ms)).is_err(),
            "cut at {length}"
        );
    }
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(verify_genuine(&changed, seconds(ms)).is_err(), "byte {at}");
    }
}

#[test]
fn the_command_says_of_a_document_what_it_is() {
    let Some(folder) = folder() else { return };
    let run = |(name, ms): (&str, i64), more: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_anchorhold-verify"))
            .arg("document")
            .arg(folder.join(format!("{name}.bin")))
            .args(["--inspect", "--at", &seconds(ms).to_string()])
            .args(more)
            .output()
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, says) = run(GENUINE[3], &[]);
    assert!(
        code == 3
            && says.starts_with(
                "LOOKED AT, NOT ACCEPTED: genuine, signed by AWS Nitro hardware, for a production enclave; \
                 not checked: nonce, measurements"
            ),
        "{says}"
    );
    assert_eq!(run(DEBUG[0], &[]).0, 1);
    let (code, says) = run(DEBUG[0], &["--allow-debug"]);
    assert!(
        code == 3
            && says.starts_with(
                "LOOKED AT, NOT ACCEPTED: debug, signed by AWS Nitro hardware, but for an enclave in DEBUG"
            ),
        "{says}"
    );
}
