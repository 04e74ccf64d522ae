//! Files that the command reads: how large they may be, and where they come from.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn case(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors/cases")
        .join(name)
}

fn verify(arguments: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anchorhold-verify"));
    command
        .args(arguments)
        .args([
            "--inspect",
            "--at",
            "2026-01-01T00:00:00Z",
            "--allow-mock",
            "--root",
        ])
        .arg(case("root.pem"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input has ended already.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// With `--inspect`, what was left out is no acceptance: in no word of the first line, and not for
/// a script.
#[test]
fn what_is_only_looked_at_is_not_accepted() {
    let evidence = case("evidence/good.cbor");
    let evidence = ["evidence", evidence.to_str().unwrap()];
    let paths = ["measurements.json", "policy.toml"].map(case);
    let nonce = "c4".repeat(32);
    let all = [
        ("nonce", nonce.as_str()),
        ("measurements", paths[0].to_str().unwrap()),
        ("policy", paths[1].to_str().unwrap()),
    ];
    for left_out in 0..=all.len() {
        let mut arguments = evidence.to_vec();
        let given = all.iter().enumerate().filter(|(at, _)| *at != left_out);
        let given: Vec<_> = given
            .flat_map(|(_, (name, value))| [format!("--{name}"), (*value).to_owned()])
            .collect();
        arguments.extend(given.iter().map(String::as_str));
        let (code, says, _) = verify(&arguments, b"");
        let first = says.lines().next().unwrap();
        let expected = match all.get(left_out) {
            None => (
                0,
                "ACCEPTED as mock: made by a MOCK: no hardware stands behind it".to_owned(),
            ),
            Some((name, _)) => (
                3,
                format!(
                    "LOOKED AT, NOT ACCEPTED: mock, made by a MOCK: no hardware stands behind it; not checked: {name}"
                ),
            ),
        };
        assert_eq!((code, first.to_owned()), expected);
    }
}

#[test]
fn evidence_may_come_from_standard_input_and_results_are_about_it() {
    let evidence = std::fs::read(case("evidence/good.cbor")).unwrap();
    let (code, from_input, _) = verify(&["evidence", "-", "--json"], &evidence);
    let (_, from_file, _) = verify(
        &[
            "evidence",
            case("evidence/good.cbor").to_str().unwrap(),
            "--json",
        ],
        b"",
    );
    assert_eq!((code, &from_input), (3, &from_file));
    let (_, ear, _) = verify(&["evidence", "-", "--ear"], &evidence);
    assert!(
        ear.contains("application/vnd.anchorhold.evidence+cbor"),
        "{ear}"
    );
}

#[test]
fn a_result_about_a_document_names_the_document() {
    let evidence =
        attestation::Evidence::parse(&std::fs::read(case("evidence/good.cbor")).unwrap()).unwrap();
    let (code, ear, _) = verify(&["document", "-", "--ear"], evidence.document());
    assert!(code == 3 && ear.contains("application/cose"), "{ear}");
}

#[test]
fn a_mebibyte_is_read_and_more_is_not() {
    let (code, _, says) = verify(&["document", "-"], &vec![0; 1 << 20]);
    assert_eq!((code, says.as_str()), (1, ""));
    let (code, _, says) = verify(&["document", "-"], &vec![0; (1 << 20) + 1]);
    assert!(code == 64 && says.contains("larger than 1 MiB"), "{says}");
}
