//! `docs/verify-by-hand.md`: its programs, cut out of the page, against live output and against
//! every vector.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::commands::Files;

const PAGE: &str = include_str!("../../../docs/verify-by-hand.md");

/// The blocks of one kind, one after the other.
fn blocks(kind: &str) -> String {
    let mut text = String::new();
    let mut inside = false;
    for line in PAGE.lines() {
        if inside && line == "```" {
            inside = false;
        } else if inside {
            text.push_str(line);
            text.push('\n');
        } else {
            inside = line == format!("```{kind}");
        }
    }
    assert!(!text.is_empty(), "the page has no {kind}");
    text
}

fn run(python: &Path, folder: &Path, arguments: &[&str]) -> Output {
    Command::new(python)
        .current_dir(folder)
        .args(arguments)
        .output()
        .unwrap()
}

fn shown(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_page_verifies_live_output_from_token_to_root() {
    let Some(python) = crate::interop::python("by-hand") else {
        return;
    };
    let files = Files::make();
    let folder = files.running.folder();
    std::fs::write(folder.join("by_hand.py"), blocks("python")).unwrap();
    let verifier = files.running.verifier();
    std::fs::write(folder.join("policy.json"), verifier.bundle.canonical()).unwrap();
    std::fs::copy(
        files.running.state.measurements(),
        folder.join("accepted.json"),
    )
    .unwrap();
    std::fs::copy(files.running.state.root(), folder.join("root.pem")).unwrap();
    let ask = |changed: &[(&str, &str)]| {
        let mut arguments = [
            "by_hand.py",
            "token",
            "evidence",
            "accepted.json",
            "policy.json",
            &files.nonce,
            "root.pem",
        ];
        for (from, to) in changed {
            *arguments
                .iter_mut()
                .find(|argument| *argument == from)
                .unwrap() = to;
        }
        let output = run(&python, folder, &arguments);
        (output.status.success(), shown(&output))
    };
    let (good, text) = ask(&[]);
    assert!(
        good && text.starts_with("accepted: mock did:key:z6Mk"),
        "{text}"
    );
    // Each input wrong in turn.
    let token = std::fs::read_to_string(folder.join("token")).unwrap();
    let mut parts: Vec<String> = token.trim().split('.').map(str::to_owned).collect();
    let mut claims = data_encoding::BASE64URL_NOPAD
        .decode(parts[1].as_bytes())
        .unwrap();
    let at = claims
        .windows(4)
        .position(|window| window == b"\"x\":")
        .unwrap();
    claims[at + 4] = b'2';
    parts[1] = data_encoding::BASE64URL_NOPAD.encode(&claims);
    std::fs::write(folder.join("token-changed"), parts.join(".")).unwrap();
    std::fs::write(folder.join("token-respelled"), format!("{}=", token.trim())).unwrap();
    let mut evidence = std::fs::read(folder.join("evidence")).unwrap();
    let last = evidence.len() - 1;
    evidence[last] ^= 1;
    std::fs::write(folder.join("evidence-changed"), &evidence).unwrap();
    let measurements = std::fs::read_to_string(folder.join("accepted.json")).unwrap();
    let pcr0 = verifier.measurements[0].pcr0.to_string();
    std::fs::write(
        folder.join("other.json"),
        measurements.replace(&pcr0, &"ab".repeat(48)),
    )
    .unwrap();
    let bundle = String::from_utf8(verifier.bundle.canonical()).unwrap();
    std::fs::write(
        folder.join("other-policy.json"),
        bundle.replace("3600", "3601"),
    )
    .unwrap();
    let other = qemu_dev::authority::Authority::new(
        harness::now().0.unsigned_abs(),
        &mut qemu_dev::nsm::os_random,
    );
    std::fs::write(folder.join("other-root.pem"), other.certificate_pem()).unwrap();
    for (from, to) in [
        ("token", "token-changed"),
        ("token", "token-respelled"),
        ("evidence", "evidence-changed"),
        ("accepted.json", "other.json"),
        ("policy.json", "other-policy.json"),
        (&files.nonce, &"cd".repeat(32)),
        ("root.pem", "other-root.pem"),
    ] {
        let (good, text) = ask(&[(from, to)]);
        assert!(!good && text.starts_with("refused: "), "{to}: {text}");
    }
    openssl(&python, folder);
}

/// What the page's program makes of cases, by their names.
const CASES: &str = r#"
import base64, json, sys
import by_hand
from cryptography.exceptions import InvalidSignature

folder = sys.argv[1]
read = lambda name: open(f"{folder}/{name}", "rb").read()
root = base64.b64decode("".join(read("root.pem").decode().split("\n")[1:-2]))
policies = json.loads(sys.argv[2])
wrong, judged = [], 0
for case in json.loads(read("cases.json"))["cases"]:
    plain = len(case["measurements"]) == len(case["policies"]) == 1 and "nonce" in case and not case.get("inspect")
    other = {"audience", "did", "identity", "appraisal_policy", "max_age_seconds", "credential", "document_alone"} & case.keys()
    if not plain or other or not case["nonce"] or not case["mock_root"]:
        continue
    judged += 1
    try:
        listed = json.loads(read(case["did_document"])) if "did_document" in case else None
        measured = json.loads(read(case["measurements"][0]))["Measurements"]
        policy = policies[case["policies"][0]].encode()
        proven = by_hand.verify_evidence(read(case["evidence"]), root, case["at"], bytes.fromhex(case["nonce"]), measured, policy, listed, case.get("state"))
        if "token" in case:
            by_hand.verify_token(read(case["token"]).decode(), *proven, case["at"])
        outcome = True
    except (by_hand.Refused, InvalidSignature, ValueError, KeyError, TypeError, StopIteration, AttributeError):
        outcome = False
    # A pinned document of another DID is simply not asked for by this program, where the key is a did:key.
    if outcome != (case["expected"] == "accepted") and case["expected"] != "did_document_lacks_key":
        wrong.append(case["name"] + ": " + case["expected"])
print(json.dumps({"wrong": wrong, "judged": judged}))
"#;

#[test]
fn the_page_judges_evidence_and_tokens_as_we_do() {
    let Some(python) = crate::interop::python("by-hand") else {
        return;
    };
    let folder = harness::private_folder();
    std::fs::write(folder.path().join("by_hand.py"), blocks("python")).unwrap();
    std::fs::write(folder.path().join("judge.py"), CASES).unwrap();
    let cases = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../attestation/tests/vectors/cases"
    );
    let canonical = |name: &str| {
        let text = std::fs::read_to_string(Path::new(cases).join(name)).unwrap();
        String::from_utf8(policy::Bundle::from_toml(&text).unwrap().canonical()).unwrap()
    };
    let names = ["policy.toml", "policy-other.toml"];
    let policies: serde_json::Map<_, _> = names
        .map(|name| (name.to_owned(), canonical(name).into()))
        .into_iter()
        .collect();
    let output = run(
        &python,
        folder.path(),
        &["judge.py", cases, &Value::Object(policies).to_string()],
    );
    let judged: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", shown(&output)));
    assert_eq!(judged["wrong"], serde_json::json!([]), "{judged}");
    assert!(judged["judged"].as_u64().unwrap() >= 40, "{judged}");
}

/// The page's commands, on the same files.
fn openssl(python: &Path, folder: &Path) {
    std::fs::write(folder.join("apart.py"), blocks("python-openssl")).unwrap();
    let output = run(python, folder, &["apart.py", "evidence"]);
    assert!(output.status.success(), "{}", shown(&output));
    let commands = blocks("sh openssl");
    let verify = || {
        Command::new("bash")
            .current_dir(folder)
            .args(["-euc", &commands])
            .output()
            .unwrap()
    };
    let output = verify();
    let text = shown(&output);
    assert!(
        output.status.success() && text.contains("leaf.pem: OK") && text.contains("Verified OK"),
        "{text}"
    );
    let mut signed = std::fs::read(folder.join("signed.bin")).unwrap();
    let last = signed.len() - 1;
    signed[last] ^= 1;
    std::fs::write(folder.join("signed.bin"), signed).unwrap();
    let output = verify();
    assert!(!output.status.success(), "{}", shown(&output));
}

/// Judges every vector and prints the names of those on which it does not agree.
const JUDGE: &str = r#"
import base64, json, sys
import by_hand

vectors = json.load(open(sys.argv[1]))
wrong, refused = [], 0
for vector in vectors["documents"]:
    pem = vector.get("root_pem", vectors["root_pem"])
    root = base64.b64decode("".join(pem.split("\n")[1:-2]))
    try:
        fields, _ = by_hand.verify_document(bytes.fromhex(vector["document"]), root, vector["at"])
        if "nonce" in vector:
            by_hand.require(fields.get("nonce") == bytes.fromhex(vector["nonce"]), "another challenge")
        accepted = True
    except by_hand.Refused:
        accepted = False
    if accepted != (vector["expected"] == "accepted"):
        wrong.append(vector["name"] + ": " + vector["expected"])
    refused += not accepted
print(json.dumps({"wrong": wrong, "refused": refused}))
"#;

#[test]
fn the_page_judges_every_vector_as_we_do() {
    let Some(python) = crate::interop::python("by-hand") else {
        return;
    };
    let folder = harness::private_folder();
    std::fs::write(folder.path().join("by_hand.py"), blocks("python")).unwrap();
    std::fs::write(folder.path().join("judge.py"), JUDGE).unwrap();
    let vectors = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../attestation/tests/vectors/documents.json"
    );
    let output = run(&python, folder.path(), &["judge.py", vectors]);
    let judged: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", shown(&output)));
    assert_eq!(judged["wrong"], serde_json::json!([]), "{judged}");
    assert!(judged["refused"].as_u64().unwrap() >= 500);
}
