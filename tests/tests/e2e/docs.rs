//! What the pages for verifiers show is what the program reads and writes.

use attestation::{AppraisalPolicy, Evidence, KeyDescription};
use harness::window::TestKey;
use identity::Signer as _;

const POLICY: &str = include_str!("../../../docs/verifier-policy.md");
const FORMATS: &str = include_str!("../../../docs/formats.md");

/// What stands between the first two lines of these.
fn between<'a>(page: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = page.split_once(begin).unwrap();
    rest.split_once(end).unwrap().0
}

/// The example policy decides as the example table of its tests says. (The annex that it asks for is
/// the operator's, and not on the page.)
#[test]
fn the_documented_policy_passes_its_documented_tests() {
    let page = include_str!("../../../docs/policy.md");
    let without_annex = |block: &str| -> String {
        let lines = block.lines().filter(|line| !line.starts_with("annex"));
        lines.map(|line| line.to_owned() + "\n").collect()
    };
    let mut policy = without_annex(between(page, "```toml\n", "```\n"));
    for key in 1.. {
        let multikey = TestKey::new(key).public_key().to_multikey();
        let changed = policy.replacen("\"z6Mk...\"", &format!("{multikey:?}"), 1);
        if changed == policy {
            break;
        }
        policy = changed;
    }
    let (_, tests) = page.split_once("## Tests of a policy").unwrap();
    let table = without_annex(between(tests, "```toml\n", "```\n"));
    let folder = harness::private_folder();
    std::fs::write(folder.path().join("policy.toml"), policy).unwrap();
    std::fs::write(folder.path().join("tests.toml"), table).unwrap();
    let output = std::process::Command::new(harness::program("anchorhold"))
        .args(["policy", "test"])
        .arg(folder.path().join("tests.toml"))
        .output()
        .unwrap();
    let says = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&says)
    );
}

#[test]
fn the_documented_verifiers_policy_is_accepted_and_every_key_of_it_is_known() {
    let example = between(POLICY, "```toml\n", "```\n");
    let policy = AppraisalPolicy::from_toml(example.as_bytes()).unwrap();
    assert_eq!(
        (policy.max_age_seconds(), policy.audience()),
        (Some(600), Some("https://tools.example"))
    );
    assert!(policy.names_images() && policy.names_bundles());
    // Each key is one that is read: with another name it would be refused.
    let mut keys = 0;
    for (number, line) in example.lines().enumerate() {
        let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") else {
            continue;
        };
        let changed: Vec<String> = example
            .lines()
            .enumerate()
            .map(|(at, line)| {
                if at == number {
                    line.trim_start_matches("# ")
                        .replacen(key, &format!("{key}x"), 1)
                } else {
                    line.into()
                }
            })
            .collect();
        assert!(
            AppraisalPolicy::from_toml(changed.join("\n").as_bytes()).is_err(),
            "{key}"
        );
        keys += 1;
    }
    assert!(keys >= 20, "{keys}");
}

#[test]
fn the_documented_refusals_of_a_policy_are_codes() {
    let rules: Vec<&str> = <attestation::Rule as strum::IntoEnumIterator>::iter()
        .map(Into::into)
        .collect();
    let identity = ["audience_mismatch", "unchecked"];
    let table = between(POLICY, "| refusal | when |\n|---|---|\n", "\n\n");
    for row in table.lines() {
        let codes = row.trim_start_matches("| ").split(" | ").next().unwrap();
        for code in codes.split(", ").map(|code| code.trim_matches('`')) {
            assert!(rules.contains(&code) || identity.contains(&code), "{code}");
        }
    }
}

#[test]
fn the_evidence_file_is_the_documented_bytes() {
    let dump = between(
        FORMATS,
        "which no verifier accepts, but every reader reads):\n\n```text\n",
        "```",
    );
    let hex: String = dump
        .lines()
        .flat_map(|line| {
            line.split_whitespace()
                .take_while(|word| word.bytes().all(|b| b.is_ascii_hexdigit()))
        })
        .collect();
    let documented = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
    let key = KeyDescription {
        name: "agent".into(),
        did: "did:key".into(),
        kid: "kid".into(),
        version: 1,
        spki: b"01".to_vec(),
    };
    let evidence = Evidence::new(
        vec![0xd0, 0xd1],
        key,
        b"{}".to_vec(),
        b"02".to_vec(),
        None,
        vec![0x84, 0x84],
    );
    assert_eq!(data_encoding::HEXLOWER.encode(&evidence.to_vec()), hex);
    assert_eq!(Evidence::parse(&documented).unwrap(), evidence);
}
