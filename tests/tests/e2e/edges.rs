//! What a newcomer meets: how things stand, what a file says, what went wrong and what to do next.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use harness::{Running, get, on_terminal, post, private_folder, program};
use serde_json::{Value, json};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn anchorhold(arguments: &[&str]) -> Output {
    Command::new(program("anchorhold"))
        .args(arguments)
        .env_remove("ANCHORHOLD_ENDPOINT_SOCKET")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Exit code, and what was said to standard error.
fn refused(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), text(&output.stderr))
}

fn unix(running: &Running) -> String {
    format!("unix://{}", running.socket.display())
}

/// `up`, which ends with this value, also when a test fails.
struct Up(std::process::Child);

impl Up {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn stop(&mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_raw(self.0.id().cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        self.0.wait().unwrap()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if self.0.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.stop();
        }
    }
}

/// This user may use `mine`, and a caller on localhost called crew `theirs`; both have limits.
/// Operators: this user, for it is the sidecar's own.
fn two_callers() -> (Running, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let policy = |state: &qemu_dev::State| {
        let token = state.folder().join("crew.token");
        fs::write(&token, TOKEN).unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
        let identities = [("mine", "did:key", "EdDSA"), ("theirs", "did:key", "ES256")];
        let policy = state.development_policy(&identities).unwrap();
        let (mine, theirs) = policy.rsplit_once("[[identities]]").unwrap();
        let limited = |text: &str, limits: &str| {
            let limits = format!("max_validity_seconds = 3600\nlimits = [{limits}]");
            text.replace("max_validity_seconds = 3600", &limits)
        };
        let own = "callers = { uids = [0] }";
        let mine = limited(mine, "{ per = \"hour\", max = 3 }");
        let theirs = limited(theirs, "{ per = \"day\", max = 9, amount = \"/amount\" }");
        let callers = theirs.find("callers = { uids").unwrap();
        let end = callers + theirs[callers..].find('\n').unwrap();
        let theirs = theirs.replace(&theirs[callers..end], "callers = { names = [\"crew\"] }");
        assert!(!theirs.contains(own));
        let more = "limits = [{ per = \"minute\", max = 2 }]\n";
        format!("{mine}[[identities]]{theirs}{more}")
    };
    let config = format!(
        "[localhost]\nlisten = \"{address}\"\n[[localhost.callers]]\nname = \"crew\"\ntoken_file = \"crew.token\"\n"
    );
    (
        Running::prepared(policy, &config, &[]),
        format!("http://{address}"),
    )
}

fn status(endpoint: &str, token: Option<&Path>) -> Value {
    let mut arguments = vec!["status", "--json", "--endpoint", endpoint];
    if let Some(token) = token {
        arguments.extend(["--token-file", token.to_str().unwrap()]);
    }
    let output = anchorhold(&arguments);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

fn names(status: &Value) -> Vec<String> {
    let all = status["identities"].as_array().unwrap();
    all.iter()
        .map(|identity| identity["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn status_tells_each_caller_its_own_limits_and_operators_all() {
    let (mut running, localhost) = two_callers();
    let token = running.folder().join("crew.token");
    let as_crew = || status(&localhost, Some(&token));
    let as_operator = || status(&unix(&running), None);

    let crew = as_crew();
    assert_eq!(names(&crew), ["theirs"], "{crew}");
    assert_eq!(crew["caller"]["seen"], json!({"name": "crew"}), "{crew}");
    assert_eq!(
        (&crew["caller"]["admitted"], &crew["caller"]["operator"]),
        (&json!(true), &json!(false))
    );
    let theirs =
        |status: &Value| status["identities"].as_array().unwrap().last().unwrap()["limits"].clone();
    let limits = |day: u64, minute: u64| {
        json!([
            {"rule": null, "amount": "/amount", "per": "day", "max": 9, "left": day},
            {"rule": "anything", "amount": null, "per": "minute", "max": 2, "left": minute},
        ])
    };
    assert_eq!(theirs(&crew), limits(9, 2));
    let operator = as_operator();
    assert_eq!(names(&operator), ["mine", "theirs"], "{operator}");
    assert_eq!(operator["caller"]["operator"], true);
    assert_eq!(
        operator["identities"][0]["limits"],
        json!([{"rule": null, "amount": null, "per": "hour", "max": 3, "left": 3}])
    );

    // What is used is not left; what is refused is not used, and looking uses nothing.
    let sign = |amount: &str| {
        let payload = format!("{{\"amount\":{amount}}}");
        anchorhold(&[
            "sign",
            "--action",
            "a",
            "--payload",
            &payload,
            "--endpoint",
            &localhost,
            "--token-file",
            token.to_str().unwrap(),
        ])
    };
    assert!(sign("4").status.success());
    assert_eq!(theirs(&as_crew()), limits(5, 1));
    assert_eq!(sign("6").status.code(), Some(1));
    assert_eq!(theirs(&as_operator()), limits(5, 1));
    assert!(sign("5").status.success());
    assert_eq!(theirs(&as_crew()), limits(0, 0));
    let events = |status: &Value| status["record"]["events"].as_u64().unwrap();
    let before = events(&as_operator());
    assert_eq!(
        events(&as_operator()),
        before,
        "nothing is decided, and nothing recorded"
    );

    // As the evidence and the files say.
    let now = as_operator();
    let bundle = policy::Bundle::from_toml(&fs::read_to_string(running.state.policy()).unwrap());
    assert_eq!(now["bundle"], json!(bundle.unwrap().digest().digest()));
    let described = get(&running.socket, "/identity?identity=mine")
        .unwrap()
        .json();
    assert_eq!(now["enclave"]["boot_id"], described["boot_id"]);
    assert_eq!(now["identities"][0]["did"], described["did"]);
    assert_eq!(now["enclave"]["ready"], true);
    let clock = now["clock"]["latest"].as_str().unwrap().to_owned();
    let clock = identity::parse_rfc3339(&clock).unwrap().0;
    assert!((clock - harness::now().0).abs() < 30, "{now}");
    assert!(now["annex"].is_null());

    // For a person; and that the enclave is away is no reason not to answer.
    let output = anchorhold(&[
        "status",
        "--endpoint",
        &localhost,
        "--token-file",
        token.to_str().unwrap(),
    ]);
    let says = text(&output.stdout);
    assert!(output.status.success(), "{says}");
    assert!(
        says.contains(&format!("sidecar   {localhost}\n"))
            && says.contains("you are   name crew: a caller\n")
            && says.contains("in all: 0 of 9 of /amount per day left")
            && says.contains("rule anything: 0 of 2 requests per minute left"),
        "{says}"
    );
    running.enclave.kill().unwrap();
    harness::wait_for(|| status(&unix(&running), None)["enclave"]["ready"] == false);
    let away = anchorhold(&["status", "--endpoint", &unix(&running)]);
    assert!(
        text(&away.stdout).contains("enclave   away (enclave_unavailable)"),
        "{away:?}"
    );
    assert_eq!(
        refused(&away),
        (
            1,
            "anchorhold: the enclave cannot sign now: enclave_unavailable\n".into()
        )
    );
}

#[test]
fn status_is_for_callers_and_operators_alone() {
    let other = |policy: &qemu_dev::State| {
        let text = policy
            .development_policy(&[("agent", "did:key", "EdDSA")])
            .unwrap();
        let start = text.find("callers = { uids").unwrap();
        let end = start + text[start..].find('\n').unwrap();
        text.replace(&text[start..end], "callers = { names = [\"crew\"] }")
    };
    // Its own user is an operator, and sees an identity that it may not use.
    let running = Running::prepared(other, "", &[]);
    let seen = get(&running.socket, "/status").unwrap().json();
    assert_eq!(
        (&seen["caller"]["admitted"], &seen["caller"]["operator"]),
        (&json!(false), &json!(true)),
        "{seen}"
    );
    assert_eq!(names(&seen), ["agent"]);
    let (running, localhost) = two_callers();
    let strange = running.folder().join("strange.token");
    fs::write(&strange, TOKEN.replace('0', "1")).unwrap();
    let output = anchorhold(&[
        "status",
        "--endpoint",
        &localhost,
        "--token-file",
        strange.to_str().unwrap(),
    ]);
    let (code, says) = refused(&output);
    assert!(code == 1 && says.contains("401 token_invalid"), "{says}");
}

#[test]
fn a_command_says_where_it_asked_and_what_to_do_next() {
    let folder = private_folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let ask = |endpoint: &str| anchorhold(&["identity", "--endpoint", endpoint]);
    let nothing_there = format!("unix://{}", path("none.sock"));
    let dead = path("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    for endpoint in [
        nothing_there,
        format!("unix://{dead}"),
        "http://127.0.0.1:1".into(),
    ] {
        let (code, says) = refused(&ask(&endpoint));
        assert_eq!(code, 70);
        assert_eq!(
            says,
            format!(
                "anchorhold: no sidecar at {endpoint}; start one (anchorhold serve, or anchorhold-dev up to try), or name another (--endpoint)\n"
            )
        );
    }
    // Of a socket that is somebody else's.
    let closed = path("closed.sock");
    let _listener = UnixListener::bind(&closed).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o600)).unwrap();
    if rustix::process::geteuid().is_root() {
        // The program lies where this user could not even start it.
        let copy = path("anchorhold");
        harness::copy_program(&program("anchorhold"), Path::new(&copy));
        let output = Command::new("setpriv")
            .args([
                "--reuid",
                "1001",
                "--regid",
                "1001",
                "--clear-groups",
                "--",
                &copy,
            ])
            .args(["identity", "--endpoint", &format!("unix://{closed}")])
            .output()
            .unwrap();
        assert_eq!(
            refused(&output),
            (
                70,
                format!(
                    "anchorhold: unix://{closed}: this user may not connect there (permission denied)\n"
                )
            )
        );
    }

    // Several identities: which, and which of them.
    let running = Running::with(&[("one", "did:key", "EdDSA"), ("two", "did:key", "EdDSA")]);
    let endpoint = unix(&running);
    let (code, says) = refused(&ask(&endpoint));
    assert!(
        code == 1
            && says
                .ends_with("identity_required: name an identity; this caller may use: one, two\n"),
        "{says}"
    );
    let policy = running.state.policy().display().to_string();
    let explain = |more: &[&str]| {
        anchorhold(&[&["policy", "explain", &policy, "--action", "a"], more].concat())
    };
    let (code, says) = refused(&explain(&["--uid", "0"]));
    assert!(
        code == 64 && says.contains("name one of one, two (--identity, or identity = in a table)"),
        "{says}"
    );
    let (code, says) = refused(&explain(&["--identity", "three"]));
    assert!(
        code == 64 && says.contains("no identity \"three\", only one, two"),
        "{says}"
    );

    // A limit: when to come again.
    let limited = Running::prepared(
        |state| {
            let policy = state
                .development_policy(&[("agent", "did:key", "EdDSA")])
                .unwrap();
            policy
                + "limits = [{ per = \"hour\", max = 1 }]\npayload = { \"/amount\" = { min = 1, max = 9 } }\n"
        },
        "",
        &[],
    );
    let sign = |payload: &str| {
        let endpoint = unix(&limited);
        anchorhold(&[
            "sign",
            "--action",
            "a",
            "--payload",
            payload,
            "--endpoint",
            &endpoint,
        ])
    };
    assert!(sign("{\"amount\":9}").status.success());
    let (code, says) = refused(&sign("{\"amount\":9}"));
    let minutes = says
        .trim_end()
        .rsplit_once("; try again in ")
        .map(|(_, rest)| rest.to_owned());
    let minutes: u32 = minutes
        .unwrap_or_else(|| panic!("{says}"))
        .trim_end_matches(" min")
        .parse()
        .unwrap();
    assert!(
        code == 1 && says.contains("429 rate_limit_exceeded") && (58..=61).contains(&minutes),
        "{says}"
    );

    // What a payload should be: type and bounds; never what it is.
    for (payload, wants) in [
        (
            "{\"amount\":10}",
            "wants an integer from 1 to 9 at /amount; the payload has an integer outside of that",
        ),
        (
            "{\"amount\":\"secret\"}",
            "wants an integer from 1 to 9 at /amount; the payload has a string",
        ),
        ("{\"amount\":[\"secret\"]}", "the payload has an array"),
    ] {
        let (code, says) = refused(&sign(payload));
        assert!(
            code == 1 && says.contains(wants) && !says.contains("secret"),
            "{says}"
        );
    }
    let (_, says) = refused(&sign("{\"amount\":1.5}"));
    assert!(
        says.contains("in smaller units (cents), for bounds and limits compare integers"),
        "{says}"
    );
}

#[test]
fn explain_says_who_is_allowed_and_knows_sockets() {
    let folder = private_folder();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/two-agents");
    let filled = |name: &str| {
        let text = fs::read_to_string(examples.join(name)).unwrap();
        let key = |byte| {
            use identity::Signer;
            harness::window::TestKey::new(byte)
                .public_key()
                .to_multikey()
        };
        let text = text
            .replace("@PROXY@", &key(1))
            .replace("@OPERATOR@", &key(2));
        text.replace("@ALICE@", &key(3))
            .replace("@ROBOT@", &key(4))
            .replace("@UID@", "1000")
    };
    let (bundle, annex) = (
        write("policy.toml", &filled("policy.toml")),
        write("annex.toml", &filled("annex.toml")),
    );
    let explain = |more: &[&str]| {
        let payload = "{\"amount\":5,\"currency\":\"EUR\"}";
        let fixed = [
            "policy",
            "explain",
            &bundle,
            "--annex",
            &annex,
            "--identity",
            "payer",
            "--uid",
            "1000",
            "--action",
            "pay",
            "--resource",
            "https://bank.example/v1",
            "--payload",
            payload,
        ];
        anchorhold(&[&fixed, more].concat())
    };
    let good = explain(&["--socket", "payer"]);
    assert!(good.status.success(), "{good:?}");
    assert_eq!(
        text(&good.stdout),
        "allow: rule \"small\" of payer, for 300 s\n"
    );
    for more in [&["--socket", "clerk"][..], &[]] {
        let output = explain(more);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            text(&output.stdout),
            "caller_not_allowed: this caller may not use this identity; it is for the caller \"payer\", the proven caller \"robot\"\n"
        );
    }
}

#[test]
fn show_says_what_is_in_each_kind_of_file_and_gives_no_verdict() {
    let running = Running::start();
    let folder = private_folder();
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        fs::write(&file, bytes).unwrap();
        file.display().to_string()
    };
    let sign = |body: &Value| post(&running.socket, "/sign", body).unwrap().json();
    let intent = json!({"action": "pay", "target": "bob", "resource": "https://x/"});
    let signed = sign(&json!({"payload": {"amount": 1}, "intent": intent}));
    let token = write("token", signed["vouch_token"].as_str().unwrap().as_bytes());
    let credential = sign(&json!({"payload": {}, "intent": intent, "format": "vouch-credential"}));
    let credential = write(
        "credential",
        credential["credential"].to_string().as_bytes(),
    );
    let evidence = post(
        &running.socket,
        "/attestation",
        &json!({"nonce": "ab".repeat(32)}),
    )
    .unwrap()
    .body;
    let document = attestation::Evidence::parse(&evidence)
        .unwrap()
        .document()
        .to_vec();
    let (evidence, document) = (write("evidence", &evidence), write("document", &document));
    let record = running
        .state
        .record()
        .join("record-000001.jsonl")
        .display()
        .to_string();
    let show = |file: &str| {
        let output = anchorhold(&["show", file]);
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    };
    let did = signed["did"].as_str().unwrap();
    for (file, first, facts) in [
        (
            &token,
            "a Vouch token, of which nothing was verified (anchorhold-verify token does that)\n",
            &["\"amount\": 1", did, "valid until: 20"][..],
        ),
        (&credential, "a credential, ", &[did, "\"pay\""]),
        (
            &evidence,
            "evidence, ",
            &[did, "\"nonce\": \"abab", "\"bundle_says\"", "\"pcrs\""],
        ),
        (
            &document,
            "an attestation document, ",
            &["\"module_id\"", "\"made\": \"20"],
        ),
        (
            &record,
            "a line of a decision record, ",
            &["\"enclave.boot\"", "\"token.sign\"", "\"key.attest\""],
        ),
    ] {
        let says = show(file);
        assert!(says.starts_with(first), "{says}");
        for fact in facts {
            assert!(says.contains(fact), "{fact}: {says}");
        }
    }
    // A token that was changed says what it says, too.
    let forged = fs::read_to_string(&token).unwrap();
    let forged = write(
        "forged",
        format!("{}A", &forged[..forged.len() - 1]).as_bytes(),
    );
    assert!(show(&forged).contains("nothing was verified"));
    let lines = anchorhold(&["show", "--json", &record]);
    let lines: Vec<Value> = text(&lines.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        lines.len(),
        fs::read_to_string(&record).unwrap().lines().count()
    );
    assert_eq!(lines[0]["kind"], "a line of a decision record");
    let policy = running.state.policy().display().to_string();
    for nothing in [
        policy.as_str(),
        "/dev/null",
        folder.path().join("none").to_str().unwrap(),
    ] {
        let (code, _) = refused(&anchorhold(&["show", nothing]));
        assert_eq!(code, 64, "{nothing}");
    }

    // A refusal says it too, below the verdict, and not to be believed.
    let verify = Command::new(program("anchorhold-verify"))
        .args(["token", &token, "--evidence", &evidence])
        .output()
        .unwrap();
    let says = text(&verify.stdout);
    let (verdict, claimed) = says
        .split_once("What it says of itself; believe none of it")
        .unwrap();
    assert!(verdict.starts_with("REFUSED root_untrusted: "), "{says}");
    assert!(
        claimed.contains(did) && claimed.contains("PCR0") && claimed.contains("nonce     abab"),
        "{says}"
    );
}

#[test]
fn a_configuration_is_checked_and_nothing_is_started() {
    let folder = private_folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let made = anchorhold(&["init", &path("a"), "--action", "pay", "--uid", "7"]);
    assert!(made.status.success(), "{made:?}");
    let config = path("a/sidecar.toml");
    let check =
        |more: &[&str]| anchorhold(&[&["serve", "--check", "--config", &config], more].concat());
    let good = check(&[]);
    assert!(
        good.status.success() && text(&good.stdout).starts_with("good: unix://"),
        "{good:?}"
    );
    for name in ["sidecar.sock", "record", "run"] {
        assert!(
            !folder.path().join("a").join(name).exists(),
            "{name} was made"
        );
    }
    let text_of = fs::read_to_string(&config).unwrap();
    let with = |more: &str| fs::write(&config, format!("{text_of}{more}")).unwrap();
    for (more, says) in [
        ("annex = \"none.cose\"\n", "none.cose: No such file"),
        ("annex = \"policy-tests.toml\"\n", "this is text; sign it"),
        ("annex = \"proxy.key\"\n", "proxy.key: "),
        ("colour = 1\n", "unknown field `colour`"),
        ("connections = 9\n", "connections is 1 to 8"),
        ("policy = \"policy.toml\"\n", "duplicate field `bundle`"),
    ] {
        with(more);
        let (code, said) = refused(&check(&[]));
        assert!(code == 64 && said.contains(says), "{more}: {said}");
    }
    with("");
    let (code, said) = refused(&check(&["--proxy-key", &path("a/operator.key")]));
    assert!(
        code == 64 && said.contains("not the key that the bundle names as proxy_key"),
        "{said}"
    );
    let (code, said) = refused(&check(&["--log-level", "loud"]));
    assert!(
        code == 64 && said.contains("error, warn, info or debug, not \"loud\""),
        "{said}"
    );
    let (code, said) = refused(&check(&["--log-level", "a=b=c"]));
    assert!(code == 64 && said.contains("log_level"), "{said}");

    // The names of earlier versions.
    let moved = text_of.replace("bundle = \"policy.toml\"\n", "");
    fs::rename(path("a/policy.toml"), path("a/elsewhere.toml")).unwrap();
    fs::write(&config, &moved).unwrap();
    let (code, said) = refused(&check(&[]));
    assert!(code == 64 && said.contains("bundle is not set"), "{said}");
    let bundle = path("a/elsewhere.toml");
    for flag in ["--bundle", "--policy"] {
        assert!(check(&[flag, &bundle]).status.success(), "{flag}");
    }
    for (variable, good) in [
        ("ANCHORHOLD_BUNDLE", true),
        ("ANCHORHOLD_POLICY", true),
        ("ANCHORHOLD_OTHER", false),
    ] {
        let output = Command::new(program("anchorhold"))
            .args(["serve", "--check", "--config", &config])
            .env(variable, &bundle)
            .output()
            .unwrap();
        assert_eq!(output.status.success(), good, "{variable}");
    }
    fs::write(&config, format!("policy = \"elsewhere.toml\"\n{moved}")).unwrap();
    assert!(check(&[]).status.success(), "policy =");
}

#[test]
fn the_verifier_takes_the_names_of_earlier_versions_too() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../attestation/tests/vectors/cases");
    let path = |name: &str| cases.join(name).display().to_string();
    let verify = |flags: &[&str]| {
        let fixed = [
            "evidence",
            &path("evidence/good.cbor"),
            "--nonce",
            &"c4".repeat(32),
            "--measurements",
            &path("measurements.json"),
            "--allow-mock",
            "--root",
            &path("root.pem"),
            "--at",
            "2026-01-01T00:00:00Z",
        ];
        let fixed: Vec<&str> = fixed.to_vec();
        Command::new(program("anchorhold-verify"))
            .args(fixed)
            .args(flags)
            .output()
            .unwrap()
            .status
            .code()
    };
    for flag in ["--bundle", "--policy"] {
        assert_eq!(verify(&[flag, &path("policy.toml")]), Some(0), "{flag}");
        assert_eq!(
            verify(&[flag, &path("policy-other.toml")]),
            Some(1),
            "{flag}"
        );
    }
    for flag in ["--verifier-policy", "--appraisal-policy"] {
        assert_eq!(verify(&[flag, &path("verifier.toml")]), Some(0), "{flag}");
    }
    // And the sidecar's verifier, in its JSON.
    let running = Running::start();
    let evidence = fs::read(path("evidence/good.cbor")).unwrap();
    let policy = fs::read_to_string(path("policy-other.toml")).unwrap();
    for name in ["bundles", "policies"] {
        let body = json!({
            "evidence": data_encoding::BASE64URL_NOPAD.encode(&evidence),
            "mock_root": fs::read_to_string(path("root.pem")).unwrap(),
            "at": "2026-01-01T00:00:00Z",
            name: [policy],
        });
        let answer = post(&running.socket, "/verify", &body).unwrap();
        let says = answer.json().to_string();
        assert!(says.contains("policy_mismatch"), "{name}: {says}");
    }
}

#[test]
fn init_asks_on_a_terminal_and_what_it_writes_runs() {
    let folder = private_folder();
    let path = |name: &str| folder.path().join(name);
    let init = |name: &str| {
        let mut command = Command::new(program("anchorhold"));
        command.arg("init").arg(path(name));
        command
    };
    let typed = [
        ("development or production [development]: ", "\n"),
        ("name of the agent's identity [agent]: ", "payer\n"),
        ("user id that the agent runs as ", "\n"),
        (
            "what it may do, separated by commas [read]: ",
            "pay, refund*\n",
        ),
        (
            "where it may do that, separated by commas [*]: ",
            "https://bank.example/*\n",
        ),
        ("signatures in an hour, at most [1000]: ", "2\n"),
    ];
    let screen = on_terminal(&init("a"), 80, &typed);
    assert_eq!(screen.code, 0, "{}", screen.text);
    let bundle = fs::read_to_string(path("a/policy.toml")).unwrap();
    for part in [
        "name = \"payer\"",
        "actions = [\"pay\", \"refund*\"]",
        "max = 2 }",
        "resources = [\"https://bank.example/*\"]",
    ] {
        assert!(bundle.contains(part), "{part}: {bundle}");
    }
    for name in [
        "proxy.key",
        "operator.key",
        "policy.toml",
        "policy-tests.toml",
        "sidecar.toml",
    ] {
        let mode = fs::metadata(path("a").join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    // Its table tests it, the sidecar takes it, and a mock runs it.
    let tests = anchorhold(&[
        "policy",
        "test",
        path("a/policy-tests.toml").to_str().unwrap(),
    ]);
    assert!(
        tests.status.success() && text(&tests.stdout).lines().count() == 4,
        "{tests:?}"
    );
    let mut up = Command::new(program("anchorhold-dev"));
    up.args(["up", "--state"]).arg(path("a"));
    let mut up = Up::start(up.stdout(std::process::Stdio::null()));
    let socket = path("a/sidecar.sock");
    harness::wait_for(|| get(&socket, "/ready").is_ok_and(|answer| answer.status == 200));
    let body =
        json!({"payload": {}, "intent": {"action": "pay", "resource": "https://bank.example/v1"}});
    let statuses: Vec<u16> = (0..3)
        .map(|_| post(&socket, "/sign", &body).unwrap().status)
        .collect();
    assert_eq!(statuses, [200, 200, 429]);
    assert!(up.stop().success());

    // Nothing is written over, nothing half; a wrong answer writes nothing.
    let before = fs::read(path("a/policy.toml")).unwrap();
    let (code, says) = refused(&init("a").output().unwrap());
    assert!(
        code == 64 && says.contains("is there already; nothing was written"),
        "{says}"
    );
    assert_eq!(fs::read(path("a/policy.toml")).unwrap(), before);
    for wrong in [
        &["--enclave", "bogus"][..],
        &["--action", ""],
        &["--identity", "A"],
        &["--mode", "test"],
        &["--resource", "a/../b"],
        &["--per-hour", "0"],
        &["--action", "a**b*"],
    ] {
        let output = init("b").args(wrong).output().unwrap();
        let wrote = path("b").exists();
        // A pattern may have stars within; then it is a name with stars.
        assert!(wrote == output.status.success(), "{wrong:?}: {output:?}");
        if wrote {
            fs::remove_dir_all(path("b")).unwrap();
        }
    }
    // A folder that is open to others, or somebody else's, is not the place for it; nor is one in
    // which a link stands where a file should be.
    let refused_in = |folder: &str, how: &str, mode: &str| {
        let output = init(folder).args(["--mode", mode]).output().unwrap();
        let (code, says) = refused(&output);
        assert!(code == 64 && says.contains(how), "{folder}: {says}");
        let files = fs::read_dir(path(folder)).unwrap();
        assert!(
            files
                .flatten()
                .all(|file| file.file_name() == "sidecar.toml")
        );
    };
    for (name, mode) in [("open", 0o777), ("readable", 0o755), ("linked", 0o700)] {
        fs::create_dir(path(name)).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    refused_in("open", "chmod go-w it", "production");
    refused_in("readable", "chmod 700 it", "development");
    std::os::unix::fs::symlink("/nonexistent/x", path("linked/sidecar.toml")).unwrap();
    refused_in("linked", "is there already", "development");
    if rustix::process::geteuid().is_root() {
        fs::create_dir(path("foreign")).unwrap();
        fs::set_permissions(path("foreign"), fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(path("foreign"), Some(1001), None).unwrap();
        refused_in("foreign", "somebody else's", "production");
    }
    let screen = on_terminal(&init("c"), 80, &[("[development]: ", "\x03")]);
    assert!(screen.code != 0 && !path("c").exists(), "{}", screen.text);
    let screen = on_terminal(
        &init("c"),
        80,
        &[("[development]: ", "\n"), ("identity [agent]: ", "\x04")],
    );
    assert!(screen.code == 64 && !path("c").exists(), "{}", screen.text);
}

#[test]
fn every_program_helps_and_is_called_by_its_name() {
    for name in [
        "anchorhold",
        "anchorhold-verify",
        "anchorhold-dev",
        "anchorhold-eif",
    ] {
        let output = Command::new(program(name))
            .arg("--version")
            .output()
            .unwrap();
        let says = text(&output.stdout);
        assert!(
            output.status.success() && says.starts_with(&format!("{name} 0.")),
            "{says}"
        );
    }
    for name in [
        "anchorhold",
        "anchorhold-verify",
        "anchorhold-dev",
        "anchorhold-eif",
        "anchorhold-shim",
        "anchorhold-enclave",
        "anchorhold-dev-enclave",
        "examples/tool-server",
    ] {
        let output = Command::new(program(name)).arg("--help").output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty() && !output.stdout.is_empty(),
            "{name}: {output:?}"
        );
    }
}

#[test]
fn manual_pages_and_completions_are_installed() {
    let folder = private_folder();
    let prefix = folder.path().join("prefix");
    // What is built already is installed as it is.
    let stub = folder.path().join("cargo");
    harness::write_script(&stub, "#!/bin/sh\nexit 0\n");
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("deploy")).unwrap();
    fs::create_dir_all(tree.join("target")).unwrap();
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    harness::copy_program(&top.join("deploy/install"), &tree.join("deploy/install"));
    let built = program("anchorhold");
    std::os::unix::fs::symlink(built.parent().unwrap(), tree.join("target/release")).unwrap();
    let path = format!(
        "{}:{}",
        folder.path().display(),
        std::env::var("PATH").unwrap()
    );
    let output = Command::new(tree.join("deploy/install"))
        .arg(&prefix)
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(prefix.join("bin/anchorhold-gateway").is_file());
    for program in [
        "anchorhold",
        "anchorhold-verify",
        "anchorhold-dev",
        "anchorhold-eif",
    ] {
        assert!(prefix.join("bin").join(program).is_file());
        let page = fs::read_to_string(prefix.join(format!("share/man/man1/{program}.1"))).unwrap();
        assert!(
            page.contains(".TH ") && page.contains("EXIT CODE") || page.contains("xit code"),
            "{page}"
        );
        let completion = prefix
            .join("share/bash-completion/completions")
            .join(program);
        let loads = format!("source {} && complete -p {program}", completion.display());
        let output = Command::new("bash").args(["-c", &loads]).output().unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
        for other in [
            format!("zsh/site-functions/_{program}"),
            format!("fish/vendor_completions.d/{program}.fish"),
        ] {
            assert!(
                fs::metadata(prefix.join("share").join(&other))
                    .unwrap()
                    .len()
                    > 500,
                "{other}"
            );
        }
    }
    assert!(
        prefix
            .join("share/man/man1/anchorhold-policy-diff.1")
            .is_file(),
        "each command has a page"
    );
}

#[test]
fn colours_are_for_terminals_that_want_them_and_lines_are_as_wide_as_they_are() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../attestation/tests/vectors/cases");
    let verify = |colour: bool| {
        let mut command = Command::new(program("anchorhold-verify"));
        command
            .arg("evidence")
            .arg(cases.join("evidence/good.cbor"))
            .args(["--allow-mock", "--root"]);
        command
            .arg(cases.join("root.pem"))
            .args(["--at", "2026-01-01T00:00:00Z"]);
        command.env_remove("NO_COLOR").env("TERM", "xterm");
        if !colour {
            command.env("NO_COLOR", "1");
        }
        command
    };
    let screen = on_terminal(&verify(true), 120, &[]);
    assert!(
        screen.code == 1 && screen.text.starts_with("\x1b[31mREFUSED\x1b[0m unchecked"),
        "{}",
        screen.text
    );
    let plain = on_terminal(&verify(false), 120, &[]);
    assert!(
        plain.text.starts_with("REFUSED unchecked") && !plain.text.contains('\x1b'),
        "{}",
        plain.text
    );
    let piped = verify(true).output().unwrap();
    assert!(!text(&piped.stdout).contains('\x1b'));
    // What a step means is wrapped; what was compared is not, so that it can be copied.
    let widest = |text: &str| {
        let lines = text
            .lines()
            .filter(|line| line.starts_with("               "));
        lines.map(str::len).max().unwrap()
    };
    let narrow = on_terminal(&verify(false), 60, &[]);
    assert!(widest(&narrow.text) <= 60, "{}", narrow.text);
    assert!((61..=96).contains(&widest(&plain.text)), "{}", plain.text);
    assert_eq!(widest(&text(&piped.stdout)), widest(&plain.text));
    // Help is made by clap, which asks the terminal too.
    let mut help = Command::new(program("anchorhold"));
    help.arg("--help")
        .env_remove("NO_COLOR")
        .env("TERM", "xterm");
    assert!(on_terminal(&help, 80, &[]).text.contains("\x1b["));
    help.env("NO_COLOR", "1");
    assert!(!on_terminal(&help, 80, &[]).text.contains("\x1b["));
}

#[test]
fn ctrl_c_ends_up_and_nobody_complains() {
    let folder = private_folder();
    let mut up = Command::new(program("anchorhold-dev"));
    up.args(["up", "--socket", "run/s.sock"])
        .current_dir(folder.path())
        .env("TMPDIR", folder.path());
    let screen = on_terminal(&up, 100, &[("audit verify", "\x03")]);
    assert_eq!(screen.code, 0, "{}", screen.text);
    let (_, after) = screen.text.split_once("audit verify").unwrap();
    assert!(
        !after.contains("WARN") && !after.contains("ERROR") && !after.contains("ansi"),
        "{after}"
    );
    let before = screen.text.split("Anchorhold is up").next().unwrap();
    assert_eq!(before, "", "nothing is said before");
}

#[test]
fn the_image_tool_shows_its_steps_on_a_terminal_and_is_quiet_in_a_pipe() {
    let folder = private_folder();
    // A kernel that is none fails before anything long: what is shown until then is enough to see.
    let build = |source: &Path| {
        let mut command = Command::new(program("anchorhold-eif"));
        command
            .args(["build", "--source"])
            .arg(source)
            .arg("-o")
            .arg(folder.path().join("x.eif"));
        command
            .arg("--cache")
            .arg(folder.path().join("cache"))
            .env("TERM", "xterm");
        command
    };
    let screen = on_terminal(&build(folder.path()), 100, &[]);
    assert!(
        screen.text.contains("what the steps say: ") && screen.text.contains("x.eif.log"),
        "{}",
        screen.text
    );
    let piped = build(folder.path()).output().unwrap();
    let says = text(&piped.stderr);
    assert!(
        says.starts_with("anchorhold-eif: ") && says.lines().count() == 1,
        "{says}"
    );
}

/// Runs Python that has copied the agent's client.
fn python(script: &str, endpoint: &str) -> Output {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let script = format!(
        "import sys\nfrom agent import Refused, Sidecar, TryLater, Waits\nendpoint = sys.argv[1]\n{script}"
    );
    Command::new("python3")
        .args(["-B", "-c", &script, endpoint])
        .env("PYTHONPATH", examples)
        .output()
        .unwrap()
}

#[test]
fn the_client_to_copy_waits_where_that_helps_and_says_which_refusal_it_was() {
    // Away for a moment: it comes back by itself, and so does the answer.
    let mut running = Running::start();
    running.enclave.kill().unwrap();
    let endpoint = unix(&running);
    let asked = std::thread::spawn(move || {
        python(
            "print(Sidecar(endpoint, tries=20).sign({}, intent='a')['vouch_token'])",
            &endpoint,
        )
    });
    std::thread::sleep(std::time::Duration::from_millis(1500));
    running.start_enclave();
    let output = asked.join().unwrap();
    assert!(
        output.status.success() && text(&output.stdout).starts_with("ey"),
        "{output:?}"
    );
    // Away for good: after its tries.
    running.enclave.kill().unwrap();
    let which = "
try:
    print(Sidecar(endpoint, tries=2).sign({'amount': 500}, intent='a'))
except TryLater as error:
    print('TryLater', error.status, error.code)
except Refused as error:
    print('Refused', error.status, error.code)
except Waits as error:
    print('Waits', len(error.id), error)
";
    let says = |endpoint: &str| text(&python(which, endpoint).stdout);
    assert_eq!(says(&unix(&running)), "TryLater 503 enclave_unavailable\n");

    let with = |more: &'static str| {
        let policy = move |state: &qemu_dev::State| {
            let policy = state
                .development_policy(&[("agent", "did:key", "EdDSA")])
                .unwrap();
            let alice = {
                use identity::Signer;
                harness::window::TestKey::new(9).public_key().to_multikey()
            };
            let approvers =
                format!("[[approvers]]\nname = \"alice\"\nkey = \"{alice}\"\n[[identities]]");
            policy.replacen("[[identities]]", &approvers, 1) + more
        };
        Running::prepared(policy, "", &[])
    };
    let limited = with("limits = [{ per = \"day\", max = 1 }]\n");
    assert!(says(&unix(&limited)).contains("vouch_token"));
    assert_eq!(
        says(&unix(&limited)),
        "TryLater 429 rate_limit_exceeded\n",
        "a day is too long to wait"
    );
    let bounded = with("payload = { \"/amount\" = { max = 100 } }\n");
    assert_eq!(
        says(&unix(&bounded)),
        "Refused 403 payload_field_out_of_bounds\n"
    );
    let waiting = with("approval = { by = [\"alice\"], seconds = 60 }\n");
    let says_waits = says(&unix(&waiting));
    assert!(
        says_waits.starts_with("Waits 32 ") && says_waits.contains("waits for alice until 20"),
        "{says_waits}"
    );

    // An approval: somebody looks and approves, the agent waits, and asks the same again.
    let folder = private_folder();
    let alice = folder.path().join("alice.key");
    let made = anchorhold(&["keygen", "-o", alice.to_str().unwrap()]);
    let multikey = text(&made.stdout).trim().to_owned();
    let approved = Running::prepared(
        |state| {
            let policy = state
                .development_policy(&[("agent", "did:key", "EdDSA")])
                .unwrap();
            let approvers =
                format!("[[approvers]]\nname = \"alice\"\nkey = \"{multikey}\"\n[[identities]]");
            policy.replacen("[[identities]]", &approvers, 1)
                + "approval = { by = [\"alice\"], seconds = 60 }\n"
        },
        "",
        &[],
    );
    let script = format!(
        r#"
import json, subprocess
def approve(id, *more):
    command = ["{}", "approve", id, "--endpoint", endpoint, *more]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
sidecar = Sidecar(endpoint)
try:
    sidecar.sign({{"amount": 1}}, intent="a")
except Waits as error:
    waits = error
digest = approve(waits.id)["approval"]["request_digest"]
approve(waits.id, "--key", "{}", "--digest", digest)
sidecar.wait(waits.id)
print(sidecar.sign({{"amount": 1}}, intent="a", approval=waits.id)["vouch_token"])
"#,
        program("anchorhold").display(),
        alice.display()
    );
    let output = python(&script, &unix(&approved));
    assert!(text(&output.stdout).starts_with("ey"), "{output:?}");

    // On localhost, with a token.
    let (running, localhost) = two_callers();
    let output = python(
        &format!(
            "print(Sidecar(endpoint, token='{TOKEN}').sign({{'amount': 1}}, intent='a')['vouch_token'])"
        ),
        &localhost,
    );
    assert!(text(&output.stdout).starts_with("ey"), "{output:?}");
    drop(running);
}

#[test]
fn an_agent_of_the_example_is_what_its_socket_says_and_no_operator() {
    let folder = private_folder();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/two-agents");
    let built = program("anchorhold");
    let path = format!(
        "{}:{}",
        built.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let prepare = |name: &str| {
        let mut command = Command::new(examples.join("prepare"));
        command.arg(name).current_dir(folder.path());
        // What a shell may have set.
        command.env("PATH", &path).env("CDPATH", "/");
        command.output().unwrap()
    };
    let prepared = prepare("try");
    assert!(prepared.status.success(), "{prepared:?}");
    for odd in ["a&b", "a|b", "a b", "try"] {
        assert!(!prepare(odd).status.success(), "{odd}");
    }
    // Checked: each agent's socket is there, and the annex is as new as the bundle wants.
    let file = |name: &str| folder.path().join("try").join(name);
    let check = |name: &str, from: &str, to: &str| {
        let before = fs::read_to_string(file(name)).unwrap();
        assert!(before.contains(from), "{from}");
        fs::write(file(name), before.replace(from, to)).unwrap();
        let config = file("sidecar.toml").display().to_string();
        let output = anchorhold(&["serve", "--check", "--config", &config]);
        fs::write(file(name), before).unwrap();
        refused(&output)
    };
    assert_eq!(check("sidecar.toml", "warn", "warn").0, 0);
    for (name, from, to, says) in [
        (
            "policy.toml",
            "annex_version = 1",
            "annex_version = 2",
            "it has version 1, and the bundle wants 2 or later",
        ),
        (
            "sidecar.toml",
            "annex = \"annex.cose\"\n",
            "",
            "wants an annex of version 1 or later, and none is named",
        ),
        (
            "sidecar.toml",
            "name = \"payer\"",
            "name = \"paier\"",
            "comes through the socket \"payer\", and there is none",
        ),
        (
            "sidecar.toml",
            "annex.cose",
            "annex.toml",
            "this is text; sign it",
        ),
    ] {
        let (code, said) = check(name, from, to);
        assert!(code == 64 && said.contains(says), "{says}: {said}");
    }
    let printed = folder.path().join("printed");
    let mut up = Command::new(program("anchorhold-dev"));
    up.args(["up", "--state", "try"]).current_dir(folder.path());
    let mut up = Up::start(up.stdout(fs::File::create(&printed).unwrap()));
    let socket = |name: &str| folder.path().join(format!("try/run/{name}.sock"));
    harness::wait_for(|| get(&socket("payer"), "/ready").is_ok_and(|answer| answer.status == 200));
    for agent in ["clerk", "payer"] {
        let seen = get(&socket(agent), "/status").unwrap().json();
        assert_eq!(names(&seen), [agent], "{seen}");
        assert_eq!(seen["caller"]["operator"], false, "{seen}");
        assert_eq!(get(&socket(agent), "/metrics").unwrap().status, 403);
    }
    let operator = get(&socket("sidecar"), "/status").unwrap().json();
    assert_eq!(names(&operator), ["clerk", "payer"], "{operator}");
    // Nobody may sign through the first socket: `up` names the others, and keeps evidence by them.
    harness::wait_for(|| {
        fs::read_to_string(&printed)
            .unwrap()
            .contains("payer.sock\n")
    });
    let says = fs::read_to_string(&printed).unwrap();
    assert!(
        says.contains("status --endpoint unix://") && !says.contains("curl"),
        "{says}"
    );
    let kept = fs::read_dir(file("record")).unwrap().flatten();
    let kept = kept.filter(|one| one.path().extension().is_some_and(|end| end == "cbor"));
    assert_eq!(kept.count(), 1);
    assert!(up.stop().success());
}

#[test]
fn what_is_shown_is_read_in_pieces_and_what_is_too_long_is_nothing() {
    let folder = private_folder();
    let file = folder.path().join("file");
    let path = file.display().to_string();
    let line = "{\"boot_id\":\"00\",\"sequence\":1,\"event_type\":\"token.sign\"}\n";
    fs::write(&file, line.repeat(20_000)).unwrap();
    let output = anchorhold(&["show", "--json", &path]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 20_000);
    // Whoever reads may have read enough, and nobody complains.
    let mut show = Command::new(program("anchorhold"))
        .args(["show", &path])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(show.stdout.take());
    let ended = show.wait_with_output().unwrap();
    assert!(
        ended.status.success() && ended.stderr.is_empty(),
        "{ended:?}"
    );
    let long = format!("{{\"a\":[{}0]}}", "0,".repeat(1 << 20));
    fs::write(&file, long).unwrap();
    let (code, says) = refused(&anchorhold(&["show", &path]));
    assert!(code == 64 && says.contains("neither a token"), "{says}");
}

#[test]
fn a_log_of_a_build_goes_into_no_other_file() {
    let folder = private_folder();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("victim"), "mine").unwrap();
    std::os::unix::fs::symlink(path("victim"), path("x.eif.log")).unwrap();
    let output = Command::new(program("anchorhold-eif"))
        .args(["build", "--source"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args(["--kernel-source", "/nonexistent", "-o"])
        .arg(path("x.eif"))
        .arg("--cache")
        .arg(path("cache"))
        .output()
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(fs::read(path("victim")).unwrap(), b"mine", "{output:?}");
}

/// The statuses that docs/errors.md has for a code.
fn documented(code: &str) -> Vec<u16> {
    let page = include_str!("../../../docs/errors.md");
    let of = |line: &&str| line.starts_with(&format!("| `{code}` | "));
    let status = |line: &str| line.split(" | ").nth(2)?.parse().ok();
    page.lines().filter(of).filter_map(status).collect()
}

#[test]
fn the_page_of_errors_has_the_statuses_that_are_answered() {
    let (running, _) = two_callers();
    let sign = |body: &Value| post(&running.socket, "/sign", body).unwrap();
    let mine = |payload: Value, intent: Value| json!({"payload": payload, "intent": intent, "identity": "mine"});
    let mut answers = vec![
        sign(&json!({"payload": {}, "intent": "a", "identity": "theirs"})),
        sign(&json!({"payload": {}, "intent": "a", "identity": "none"})),
        sign(&mine(json!({}), json!(""))),
        sign(&mine(json!({"a": 1.5}), json!("a"))),
        sign(&json!({"payload": {}, "intent": "act", "identity": "mine"})),
        sign(&json!({"payload": {}, "intent": "a", "identity": "mine", "validity_seconds": 0})),
        get(&running.socket, "/none").unwrap(),
        get(&running.socket, "/sign").unwrap(),
        get(&running.socket, "/identity?x=y").unwrap(),
        post(
            &running.socket,
            "/attestation",
            &json!({"nonce": "00", "identity": "mine"}),
        )
        .unwrap(),
        post(
            &running.socket,
            "/attestation",
            &json!({"nonce": "xx", "identity": "mine"}),
        )
        .unwrap(),
    ];
    answers.extend(
        (0..4)
            .map(|_| sign(&mine(json!({}), json!("a"))))
            .filter(|answer| answer.status != 200),
    );
    let mut codes = Vec::new();
    for answer in answers {
        let code = answer.code();
        assert!(
            documented(&code).contains(&answer.status),
            "{} {code}",
            answer.status
        );
        codes.push(code);
    }
    codes.sort();
    codes.dedup();
    assert!(codes.len() >= 10, "{codes:?}");
}
