use std::process::{Command, Output};

use harness::{Running, get, post, program};
use serde_json::{Value, json};

fn run(name: &str, arguments: &[&str]) -> Output {
    Command::new(program(name))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn every_command_helps_and_the_help_is_the_one_written_down() {
    let cases = trycmd::TestCases::new();
    let written = include_str!("../../cmd/help.trycmd");
    for name in [
        "anchorhold",
        "anchorhold-verify",
        "anchorhold-dev",
        "anchorhold-eif",
        "anchorhold-gateway",
    ] {
        cases.register_bin(name, program(name));
        let mut commands = vec![vec![name.to_owned()]];
        while let Some(command) = commands.pop() {
            let case = format!("$ {} --help\n", command.join(" "));
            assert!(written.contains(&case), "no case for {case}");
            commands.extend(commands_of(&command));
        }
    }
    cases.case(concat!(env!("CARGO_MANIFEST_DIR"), "/cmd/*.trycmd"));
    cases.run();
}

/// The commands that the help of this one lists.
fn commands_of(command: &[String]) -> Vec<Vec<String>> {
    let output = Command::new(program(&command[0]))
        .args(&command[1..])
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let listed = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| {
        line.strip_prefix("  ")?
            .split(' ')
            .next()
            .filter(|name| !name.is_empty())
    });
    names
        .filter(|name| *name != "help")
        .map(|name| [command, &[name.to_owned()]].concat())
        .collect()
}

#[test]
fn wrong_usage_exits_64() {
    for (name, arguments) in [
        ("anchorhold", &["frobnicate"][..]),
        ("anchorhold", &["sign"]),
        (
            "anchorhold",
            &["attest", "--nonce", "xyz", "-o", "/dev/null"],
        ),
        ("anchorhold", &["sign", "--action", "a", "--payload", "{1}"]),
        (
            "anchorhold",
            &[
                "sign",
                "--action",
                "a",
                "--payload",
                "{}",
                "--endpoint",
                "ftp://x",
            ],
        ),
        ("anchorhold", &["policy", "check", "/nonexistent"]),
        ("anchorhold", &["serve", "--enclave", "unix:///x"]),
        ("anchorhold-verify", &["document", "/nonexistent"]),
        (
            "anchorhold-verify",
            &["document", "/dev/null", "--root", "x"],
        ),
        (
            "anchorhold-verify",
            &["document", "/dev/null", "--allow-mock"],
        ),
        (
            "anchorhold-verify",
            &["document", "/dev/null", "--nonce", "xy"],
        ),
        (
            "anchorhold-verify",
            &["document", "/dev/null", "--at", "yesterday"],
        ),
        (
            "anchorhold-verify",
            &["document", "/dev/null", "--max-age", "-1m"],
        ),
        ("anchorhold-verify", &["token", "/dev/null"]),
        ("anchorhold-dev", &["demo", "--colour"]),
        ("anchorhold-dev", &["qemu"]),
        ("anchorhold-dev", &["qemu", "x.eif", "--memory", "1"]),
        ("anchorhold-dev", &["qemu", "x.eif", "--machine", "q35"]),
        ("anchorhold-eif", &["build"]),
        (
            "anchorhold-eif",
            &[
                "build",
                "-o",
                "x.eif",
                "--kernel",
                "a",
                "--kernel-source",
                "b",
            ],
        ),
        ("anchorhold-eif", &["describe", "/nonexistent"]),
    ] {
        let output = run(name, arguments);
        assert_eq!(
            output.status.code(),
            Some(64),
            "{name} {arguments:?}: {}",
            text(&output.stderr)
        );
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn an_unreachable_sidecar_is_70_and_a_refusal_is_1() {
    let output = run(
        "anchorhold",
        &["identity", "--endpoint", "unix:///nonexistent.sock"],
    );
    assert_eq!(output.status.code(), Some(70), "{}", text(&output.stderr));
    let running = Running::start();
    let endpoint = format!("unix://{}", running.socket.display());
    let arguments = [
        "sign",
        "--action",
        "a",
        "--payload",
        "{}",
        "--identity",
        "nobody",
        "--endpoint",
        &endpoint,
    ];
    let output = run("anchorhold", &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("unknown_identity"));
}

/// The files of a verifier, and `anchorhold-verify` with them.
pub(crate) struct Files {
    pub(crate) running: Running,
    pub(crate) nonce: String,
}

impl Files {
    pub(crate) fn make() -> Self {
        let files = Self {
            running: Running::start(),
            nonce: "ab".repeat(32),
        };
        let endpoint = files.endpoint();
        let sign = |arguments: &[&str]| {
            let base = [
                "sign",
                "--action",
                "pay",
                "--target",
                "t",
                "--resource",
                "r",
                "--payload",
                "{\"x\":1}",
                "--endpoint",
                &endpoint,
            ];
            let output = run("anchorhold", &[&base, arguments].concat());
            assert!(output.status.success(), "{}", text(&output.stderr));
            output.stdout
        };
        std::fs::write(files.path("token"), sign(&[])).unwrap();
        std::fs::write(
            files.path("credential"),
            sign(&["--format", "vouch-credential"]),
        )
        .unwrap();
        let evidence = files.path("evidence");
        let output = run(
            "anchorhold",
            &[
                "attest",
                "--nonce",
                &files.nonce,
                "-o",
                evidence.to_str().unwrap(),
                "--endpoint",
                &endpoint,
            ],
        );
        assert!(output.status.success(), "{}", text(&output.stderr));
        let document = attestation::Evidence::parse(&std::fs::read(evidence).unwrap())
            .unwrap()
            .document()
            .to_vec();
        std::fs::write(files.path("document"), document).unwrap();
        files
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.running.socket.display())
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.running.folder().join(name)
    }

    /// Exit code and the JSON that was printed.
    pub(crate) fn verify(&self, what: &str, more: &[&str]) -> (i32, Value) {
        let mut command = Command::new(program("anchorhold-verify"));
        command
            .arg(what)
            .arg(self.path(what))
            .arg("--json")
            .args(more);
        if !["document", "evidence"].contains(&what) {
            command.arg("--evidence").arg(self.path("evidence"));
        }
        let output = command.output().unwrap();
        let json = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
        (output.status.code().unwrap(), json)
    }

    pub(crate) fn everything(&self) -> Vec<String> {
        let file = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
        let state = &self.running.state;
        let files = [
            file(state.measurements()),
            file(state.policy()),
            file(state.root()),
        ];
        let [measurements, policy, root] = files;
        let text = [
            "--nonce",
            &self.nonce,
            "--measurements",
            &measurements,
            "--bundle",
            &policy,
            "--allow-mock",
            "--root",
            &root,
        ];
        text.map(str::to_owned).into()
    }
}

#[test]
fn the_verifier_says_what_it_checked_and_refuses_what_was_not() {
    let files = Files::make();
    let everything = files.everything();
    let everything: Vec<&str> = everything.iter().map(String::as_str).collect();
    for what in ["document", "token", "credential"] {
        let (code, verdict) = files.verify(what, &everything);
        assert_eq!(
            (code, &verdict["verdict"], &verdict["unchecked"]),
            (0, &json!("mock"), &json!([])),
            "{what}: {verdict}"
        );
        for name in [
            "root",
            "module_id",
            "timestamp",
            "pcrs",
            "nonce",
            "user_data",
            "public_key",
        ] {
            assert!(!verdict[name].is_null(), "{name}");
        }
        assert_eq!(verdict["pcrs"]["16"].as_str().unwrap().len(), 96);

        let mock_only = &everything[6..];
        let (code, verdict) = files.verify(what, mock_only);
        assert_eq!(
            (code, &verdict["verdict"], &verdict["error"]["code"]),
            (1, &json!("refused"), &json!("unchecked"))
        );
        let (code, verdict) = files.verify(what, &[mock_only, &["--inspect"]].concat());
        assert_eq!(
            (code, &verdict["unchecked"]),
            (3, &json!(["nonce", "measurements", "policy"]))
        );
        let (code, verdict) = files.verify(what, &everything[..6]);
        assert_eq!(
            (code, &verdict["error"]["code"]),
            (1, &json!("root_untrusted"))
        );
        let (code, verdict) = files.verify(
            what,
            &[
                &everything[..],
                &["--max-age", "0s", "--at", "2040-01-01T00:00:00Z"],
            ]
            .concat(),
        );
        assert_eq!(
            (code, &verdict["error"]["code"]),
            (1, &json!("certificate_expired"))
        );
    }
    let at = harness::now().plus(60).to_string();
    let (code, verdict) = files.verify(
        "token",
        &[&everything[..], &["--max-age", "30s", "--at", &at]].concat(),
    );
    assert_eq!((code, &verdict["error"]["code"]), (1, &json!("too_old")));
    for (flag, value) in [("--identity", "other"), ("--did", "did:web:other.example")] {
        let (code, verdict) = files.verify("token", &[&everything[..], &[flag, value]].concat());
        assert_eq!(
            (code, &verdict["error"]["code"]),
            (1, &json!("identity_mismatch"))
        );
    }
    let (code, _) = files.verify(
        "token",
        &[&everything[..], &["--identity", "agent"]].concat(),
    );
    assert_eq!(code, 0);
    let (code, verdict) = files.verify("token", &[&everything[..], &["--audience", "me"]].concat());
    assert_eq!(
        (code, &verdict["error"]["code"]),
        (1, &json!("audience_mismatch"))
    );
}

#[test]
fn the_verifier_speaks_to_people_too() {
    let files = Files::make();
    let show = |arguments: &[String]| {
        let output = Command::new(program("anchorhold-verify"))
            .arg("token")
            .arg(files.path("token"))
            .arg("--evidence")
            .arg(files.path("evidence"))
            .args(arguments)
            .output()
            .unwrap();
        (output.status.code(), text(&output.stdout))
    };
    let (code, accepted) = show(&files.everything());
    assert_eq!(code, Some(0));
    assert!(
        accepted.starts_with("ACCEPTED as mock: made by a MOCK"),
        "{accepted}"
    );
    assert!(accepted.contains("NOT CHECKED  deny lists"), "{accepted}");
    let (code, refused) = show(&[]);
    assert_eq!(code, Some(1));
    assert!(refused.starts_with("REFUSED root_untrusted:"), "{refused}");

    // A hostile token cannot paint an acceptance over its refusal.
    let claims = data_encoding::BASE64URL_NOPAD.encode(b"{\"\\u001b[2K\\rACCEPTED\":1}");
    std::fs::write(files.path("token"), format!("e30.{claims}.AA")).unwrap();
    let (code, refused) = show(&files.everything());
    assert_eq!(code, Some(1));
    assert!(
        refused.starts_with("REFUSED json_shape") && refused.contains("ACCEPTED"),
        "{refused}"
    );
    assert!(!refused.contains(['\u{1b}', '\r']), "{refused}");
}

#[test]
fn what_others_wrote_is_shown_and_moves_nothing_on_a_terminal() {
    let files = Files::make();
    let (endpoint, everything) = (files.endpoint(), files.everything());
    // Paints over a line, turns the order of letters, and spells out a word that nobody sees.
    let hostile = "a\u{9b}2J\u{7f}\u{202e}b\u{2066}\u{200b}\u{feff}\u{61c}\u{2028}\u{e0041}c";
    let payload = json!({"to": hostile, hostile: 1});
    let shown = |output: Output| {
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(
            text.chars()
                .find(|c| *c != '\n' && (c.is_control() || hostile.contains(*c) && !c.is_ascii())),
            None,
            "{text}"
        );
        text
    };
    let payload_text = payload.to_string();
    let sign = [
        "sign",
        "--action",
        "pay",
        "--target",
        "t",
        "--resource",
        "r",
        "--payload",
        &payload_text,
        "--endpoint",
        &endpoint,
    ];
    let credential = shown(run(
        "anchorhold",
        &[&sign[..], &["--format", "vouch-credential"]].concat(),
    ));
    // It is shown otherwise, and is the same credential: what was shown verifies.
    std::fs::write(files.path("credential"), &credential).unwrap();
    let credential: Value =
        serde_json::from_str(&credential).unwrap_or_else(|_| panic!("{credential}"));
    assert_eq!(credential["credentialSubject"]["payload"], payload);
    std::fs::write(files.path("token"), shown(run("anchorhold", &sign))).unwrap();
    let paths = [
        files.path("credential"),
        files.path("token"),
        files.path("evidence"),
    ];
    let [credential, token, evidence] = paths.each_ref().map(|path| path.to_str().unwrap());
    for (what, file) in [("credential", credential), ("token", token)] {
        for form in [&["--json"][..], &[], &["--ear"]] {
            let base = [what, file, "--evidence", evidence];
            let everything: Vec<&str> = everything.iter().map(String::as_str).collect();
            let text = shown(run(
                "anchorhold-verify",
                &[&base, &everything[..], form].concat(),
            ));
            assert!(
                form.is_empty() || serde_json::from_str::<Value>(&text).is_ok(),
                "{text}"
            );
            if form == ["--json"] {
                let verdict: Value = serde_json::from_str(&text).unwrap();
                assert!(
                    verdict["verdict"] == "mock" && verdict.to_string().contains('\u{202e}'),
                    "{text}"
                );
            }
            assert!(form == ["--ear"] || text.contains("\\u202e"), "{text}");
        }
    }
    // In what is refused, too, and in what an operator looks at.
    let policy = files.running.state.policy().display().to_string();
    for form in [&["--json"][..], &[]] {
        let refused = [
            "policy",
            "explain",
            &policy,
            "--uid",
            "4711",
            "--action",
            hostile,
            "--identity",
            hostile,
        ];
        shown(run("anchorhold", &[&refused[..], form].concat()));
    }
    let table = format!(
        "policy = {policy:?}\n[[tests]]\nname = {0}\naction = \"a\"\nexpect = {0}\n",
        toml_string(hostile)
    );
    std::fs::write(files.path("table.toml"), table).unwrap();
    let table = shown(run(
        "anchorhold",
        &["policy", "test", files.path("table.toml").to_str().unwrap()],
    ));
    assert!(table.contains("FAILED  a\\u009b2J"), "{table}");
    let keygen = run(
        "anchorhold",
        &["keygen", "-o", files.path("any.key").to_str().unwrap()],
    );
    let missing = shown(run(
        "anchorhold",
        &[
            "audit",
            "verify",
            hostile,
            "--record-key",
            text(&keygen.stdout).trim(),
        ],
    ));
    assert!(missing.starts_with("anchorhold: a\\u009b2J"), "{missing}");
}

fn toml_string(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| format!("\\U{:08X}", u32::from(c)))
        .collect();
    format!("\"{escaped}\"")
}

#[test]
fn a_policy_is_shown_with_the_register_that_it_makes() {
    let files = Files::make();
    let policy = files.running.state.policy();
    let output = run(
        "anchorhold",
        &["policy", "digest", policy.to_str().unwrap()],
    );
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    let everything = files.everything();
    let (_, verdict) = files.verify(
        "token",
        &everything.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    assert_eq!(shown["pcr16"], verdict["pcrs"]["16"]);
    assert_eq!(shown["digest"], verdict["key"]["policy"]);
    let canonical = run(
        "anchorhold",
        &["policy", "digest", "--canonical", policy.to_str().unwrap()],
    )
    .stdout;
    assert_eq!(text(&canonical), shown["canonical"].as_str().unwrap());
}

#[test]
fn keys_are_made_private_and_never_over_another() {
    let folder = harness::private_folder();
    let file = folder.path().join("proxy.key");
    let output = run("anchorhold", &["keygen", "-o", file.to_str().unwrap()]);
    assert!(output.status.success());
    assert!(text(&output.stdout).starts_with("z6Mk"));
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        run("anchorhold", &["keygen", "-o", file.to_str().unwrap()])
            .status
            .code(),
        Some(64)
    );
}

#[test]
fn the_examples_say_who_signed_and_why_they_are_refused() {
    let running = Running::start();
    let endpoint = format!("unix://{}", running.socket.display());
    let example = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("ANCHORHOLD_ENDPOINT_SOCKET", &endpoint);
        command.output().unwrap()
    };
    let did = get(&running.socket, "/identity").unwrap().json()["did"]
        .as_str()
        .unwrap()
        .to_owned();
    let agent = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/agent.py");
    let sign = program("examples/sign");
    let mut tokens = Vec::new();
    for (name, output) in [
        ("agent.py", example("python3", &[agent])),
        ("sign.rs", example(sign.to_str().unwrap(), &[])),
    ] {
        let line = text(&output.stdout);
        let (who, token) = line
            .trim_end()
            .split_once(' ')
            .unwrap_or_else(|| panic!("{name}: {output:?}"));
        assert_eq!(who, did, "{name}");
        tokens.push(token.to_owned());
    }

    // The second one, judged by the third example: with the mock's root, and without.
    let files = running.verifier();
    let folder = harness::private_folder();
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let nonce = "ab".repeat(32);
    let evidence = post(&running.socket, "/attestation", &json!({"nonce": nonce}))
        .unwrap()
        .body;
    let images: String = ["PCR0", "PCR1", "PCR2"]
        .iter()
        .zip([
            files.measurements[0].pcr0,
            files.measurements[0].pcr1,
            files.measurements[0].pcr2,
        ])
        .map(|(name, value)| format!("{name} = \"{value}\"\n"))
        .collect();
    let policy = format!(
        "version = 1\n[[images]]\nlabel = \"i\"\n[images.registers]\n{images}\
         [[bundles]]\nlabel = \"b\"\ndigest = \"{}\"\n",
        files.policies[0].digest()
    );
    let (token, evidence) = (
        write("token", tokens[1].as_bytes()),
        write("evidence", &evidence),
    );
    let policy = write("verifier.toml", policy.as_bytes());
    let root = running.state.root().to_str().unwrap().to_owned();
    let verify = program("examples/verify");
    let good = [&token, &evidence, &nonce, &policy, &root].map(String::as_str);
    let judged = example(verify.to_str().unwrap(), &good);
    assert!(judged.status.success(), "{judged:?}");
    assert!(
        text(&judged.stdout).starts_with(&format!("mock {did} ")),
        "{judged:?}"
    );
    let judged = example(verify.to_str().unwrap(), &good[..4]);
    assert_eq!(judged.status.code(), Some(1));
    assert!(
        text(&judged.stderr).starts_with("root_untrusted"),
        "{judged:?}"
    );

    // Who is refused is told why.
    let refused = Running::prepared(
        |state| {
            state
                .development_policy(&[("agent", "did:key", "EdDSA")])
                .unwrap()
                .replace("actions = [\"*\"]", "actions = [\"read\"]")
        },
        "",
        &[],
    );
    let endpoint = format!("unix://{}", refused.socket.display());
    let output = Command::new("python3")
        .arg(agent)
        .env("ANCHORHOLD_ENDPOINT_SOCKET", &endpoint)
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        text(&output.stderr).contains("403 intent_action_not_in_allowlist"),
        "{output:?}"
    );

    let endpoint = format!("unix://{}", running.socket.display());
    let env = run("anchorhold", &["env", "--endpoint", &endpoint]);
    assert_eq!(
        text(&env.stdout),
        format!("export ANCHORHOLD_ENDPOINT_SOCKET='{endpoint}'\n")
    );
}

#[test]
fn the_enclave_programs_run_as_pid_1_of_an_image_and_nowhere_else() {
    for (name, how) in [
        ("anchorhold-enclave", "anchorhold-eif build"),
        ("anchorhold-dev-enclave", "anchorhold-dev qemu"),
    ] {
        for (arguments, code) in [(&[][..], 64), (&["--help"], 0), (&["--port", "5"], 64)] {
            let output = run(name, arguments);
            assert_eq!(output.status.code(), Some(code));
            let says = if code == 0 {
                output.stdout
            } else {
                output.stderr
            };
            let says = text(&says);
            assert!(says.contains("PID 1") && says.contains(how), "{says}");
        }
    }
}
