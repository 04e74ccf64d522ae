//! A gateway beside an enclave: what it seals, what somebody must approve, what it says of its agent.

use harness::window::TestKey;
use harness::{Running, get, post};
use identity::request::Approval;
use identity::token::unverified_claims;
use identity::{ApprovalId, BootId, PublicKey, Signer};

use super::*;

const ALICE: u8 = 60;

fn running() -> Running {
    let alice = TestKey::new(ALICE).public_key().to_multikey();
    Running::prepared(|state| state.gateway_policy(&alice).unwrap(), "", &[])
}

/// A gateway whose enclave this is, with these settings beside.
fn with_enclave(running: &Running, agent: &Agent, settings: &str) -> Gateway {
    with_enclave_in(private_folder(), running, agent, settings)
}

fn with_enclave_in(
    folder: tempfile::TempDir,
    running: &Running,
    agent: &Agent,
    settings: &str,
) -> Gateway {
    let command = starting(&folder, running, agent, settings);
    Gateway::spawn(command, folder)
}

fn starting(
    folder: &tempfile::TempDir,
    running: &Running,
    agent: &Agent,
    settings: &str,
) -> Command {
    let file = folder.path().join("iatp.yaml");
    fs::write(&file, settings).unwrap();
    let url = format!("http://{}", agent.address);
    let mut command = command(folder.path(), &url, &manifest("trusted", "ephemeral"));
    command
        .args(["--port", "0", "--metrics-port", "0", "--log-dir"])
        .arg(folder.path().join("log"))
        .arg("--config")
        .arg(file)
        .arg("--enclave-sidecar")
        .arg(format!("unix://{}", running.socket.display()));
    command
}

impl Gateway {
    fn log_folder(&self) -> std::path::PathBuf {
        self.folder.path().join("log")
    }

    /// Ends in order, which seals the rest.
    fn stopped(mut self) -> tempfile::TempDir {
        self.signal(Signal::TERM);
        assert!(self.process.wait().unwrap().success());
        std::mem::replace(&mut self.folder, private_folder())
    }

    /// Lines that its metrics call sealed.
    fn sealed(&self) -> u64 {
        let (_, metrics) = self.ask("/metrics");
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("anchorhold_gateway_lines_sealed_total "));
        line.unwrap().parse().unwrap()
    }
}

/// Evidence of the identity that signs, as a file.
fn evidence(running: &Running, folder: &Path) -> std::path::PathBuf {
    let body = json!({"nonce": "07".repeat(32), "identity": "gateway"});
    let answer = post(&running.socket, "/attestation", &body).unwrap();
    let file = folder.join(format!("evidence-{}.cbor", identity::sha256(&answer.body)));
    fs::write(&file, &answer.body).unwrap();
    file
}

/// What `anchorhold audit verify --flight` says of a folder: its exit code and its JSON.
fn verify(log: &Path, evidence: &Path) -> (i32, Value) {
    let output = Command::new(program("anchorhold"))
        .args(["audit", "verify", "--json", "--flight"])
        .arg(log)
        .arg("--evidence")
        .arg(evidence)
        .output()
        .unwrap();
    let said = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code().unwrap(), said)
}

/// The lines of all segments.
fn lines(log: &Path) -> Vec<String> {
    let mut files: Vec<_> = fs::read_dir(log)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|file| file.extension().is_some_and(|kind| kind == "jsonl"));
    files.sort();
    let text: String = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_story_of_the_gateway_holds_and_leaves_nothing_behind() {
    let folder = private_folder();
    let output = Command::new(program("anchorhold-dev"))
        .args(["gateway", "--json"])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert!(
        output.status.success(),
        "{report} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(report["steps"].as_array().unwrap().len(), 8);
    assert_eq!(report["attacks"].as_array().unwrap().len(), 4);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_is_recorded_is_sealed_over_restarts_and_changes_are_found() {
    let running = running();
    let agent = Agent::start(OK);
    let gateway = with_enclave(&running, &agent, "enclave: {seal_interval: 50ms}\n");
    let file = evidence(&running, running.folder());
    for round in 1..=3 {
        assert_eq!(gateway.post("", "{}").0, 200);
        wait_for(|| gateway.sealed() == 2 * round);
    }
    // One that is killed seals what it wrote when it starts again.
    let mut gateway = gateway;
    assert_eq!(gateway.post("", "{}").0, 200);
    let log = gateway.log_folder();
    wait_for(|| lines(&log).len() == 8);
    gateway.process.kill().unwrap();
    gateway.process.wait().unwrap();
    let folder = std::mem::replace(&mut gateway.folder, private_folder());
    let gateway = with_enclave_in(folder, &running, &agent, "enclave: {seal_interval: 1h}\n");
    assert_eq!(gateway.post("", "{}").0, 200);
    let folder = gateway.stopped();
    let log = folder.path().join("log");
    let (code, said) = verify(&log, &file);
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        (
            &said["verdict"],
            &said["lines"],
            &said["not_sealed"],
            &said["deleted"]
        ),
        (&json!("good"), &json!(10), &json!(0), &json!(0))
    );
    assert!(said["ranges"].as_u64().unwrap() >= 4, "{said}");
    assert!(
        said["sealed_by"][0].as_str().unwrap().ends_with("(mock)"),
        "{said}"
    );
    // A folder of evidence does as well; of another key it does not.
    let folder_of_evidence = private_folder();
    assert_eq!(verify(&log, folder_of_evidence.path()).0, 64);
    let other = self::running();
    let file_of_other = evidence(&other, folder_of_evidence.path());
    let (code, said) = verify(&log, &file_of_other);
    assert_eq!((code, &said["verdict"]), (3, &json!("partial")));
    assert_eq!(said["not_judged"], said["ranges"]);
    fs::copy(&file, folder_of_evidence.path().join("evidence-1.cbor")).unwrap();
    assert_eq!(verify(&log, folder_of_evidence.path()).0, 0);

    let segment = log.join("flight-000000000000.jsonl");
    let seals = log.join("flight-000000000000.seals");
    let (text, tokens) = (
        fs::read_to_string(&segment).unwrap(),
        fs::read_to_string(&seals).unwrap(),
    );
    let without = |text: &str, at: usize| {
        let lines = text.lines().enumerate().filter(|(index, _)| *index != at);
        lines
            .map(|(_, line)| format!("{line}\n"))
            .collect::<String>()
    };
    let first_two = |text: &str| {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.swap(0, 1);
        lines
            .iter()
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let token = tokens.lines().next().unwrap();
    let flipped = tokens.replacen(&token[token.len() - 10..token.len() - 9], "!", 1);
    for (what, lines, seals_left, why) in [
        (
            "a word",
            text.replacen("/", "/x", 1),
            tokens.clone(),
            "are not those that were sealed",
        ),
        ("a line", without(&text, 3), tokens.clone(), "lines"),
        (
            "the order",
            first_two(&text),
            tokens.clone(),
            "are not those that were sealed",
        ),
        (
            "a seal",
            text.clone(),
            without(&tokens, 1),
            "does not follow",
        ),
        (
            "the order of seals",
            text.clone(),
            first_two(&tokens),
            "does not follow",
        ),
        (
            "a seal twice",
            text.clone(),
            format!("{token}\n{tokens}"),
            "does not follow",
        ),
        ("a signature", text.clone(), flipped, "line 1"),
        (
            "a token of another kind",
            text.clone(),
            tokens.replacen(token, &other_token(&running), 1),
            "no seal",
        ),
        ("all seals", text.clone(), String::new(), "does not follow"),
    ] {
        fs::write(&segment, lines).unwrap();
        fs::write(&seals, seals_left).unwrap();
        let (code, said) = verify(&log, &file);
        let error = said["error"].as_str().unwrap_or_default();
        if what == "all seals" {
            // The second segment's seals say that there were some before.
            assert_eq!(code, 0, "{what} {said}");
            assert!(
                said["unchecked"]
                    .to_string()
                    .contains("its seals are not here"),
                "{said}"
            );
            assert_eq!(said["not_sealed"], 8, "{said}");
            continue;
        }
        assert_eq!(code, 1, "{what} {said}");
        assert!(error.contains(why), "{what} {said}");
    }
    // A line without an end, before others: it was never written so. At the end of all it is on its way.
    fs::write(&seals, &tokens).unwrap();
    fs::write(&segment, format!("{text}{{\"forged\":true}}")).unwrap();
    let (code, said) = verify(&log, &file);
    assert_eq!(code, 1, "{said}");
    assert!(
        said["error"].as_str().unwrap().contains("has no end"),
        "{said}"
    );
    fs::write(&segment, &text).unwrap();
    let last = log.join("flight-000000000008.jsonl");
    let of_last = fs::read_to_string(&last).unwrap();
    fs::write(&last, format!("{of_last}{{\"forged\":true}}")).unwrap();
    let (code, said) = verify(&log, &file);
    assert_eq!(code, 0, "{said}");
    assert!(
        said["unchecked"].to_string().contains("has no end"),
        "{said}"
    );
    // Lines that are gone, and their seals are not.
    fs::remove_file(&last).unwrap();
    let (code, said) = verify(&log, &file);
    assert_eq!(code, 1, "{said}");
    assert!(
        said["error"].as_str().unwrap().contains("are missing"),
        "{said}"
    );
    fs::write(&last, &of_last).unwrap();
    let (code, said) = verify(&log, &file);
    assert_eq!(code, 0, "{said}");
    assert!(said["longest_lag_seconds"].as_i64().unwrap() < 60, "{said}");

    // Lines that were sealed are missing: the gateway does not go on as if they never were.
    fs::write(&last, "").unwrap();
    let output = starting(&folder, &running, &agent, "{}").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(70), "{error}");
    assert!(error.contains("some are missing"), "{error}");
}

/// A token of the same identity that seals nothing.
fn other_token(running: &Running) -> String {
    let body = json!({"payload": {"a": 1}, "intent": {"action": "iatp.manifest", "target": "x"}});
    let answer = post(&running.socket, "/sign", &body).unwrap();
    answer.json()["vouch_token"].as_str().unwrap().to_owned()
}

#[test]
fn while_nobody_seals_lines_wait_and_are_sealed_later() {
    let mut running = running();
    let agent = Agent::start(OK);
    let gateway = with_enclave(&running, &agent, "enclave: {seal_interval: 50ms}\n");
    wait_for(|| gateway.get("/.well-known/agent-manifest.jwt").0 == 200);
    running.kill_sidecar();
    assert_eq!(gateway.post("", "{}").0, 200);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(gateway.sealed(), 0);
    // Nobody can be asked for an approval either; about one that is made up, nobody is asked.
    let warns = with_enclave(&running, &agent, WARNS);
    assert_eq!(
        warns.post("X-User-Override: request\r\n", ACCOUNT).2["override"],
        "unavailable"
    );
    let made_up = "X-User-Override: 0123456789abcdef0123456789abcdef\r\n";
    assert_eq!(warns.post(made_up, ACCOUNT).2["override"], "approval");
    running.start_sidecar();
    running.wait_until_ready();
    wait_for(|| gateway.sealed() == 2);
    let file = evidence(&running, running.folder());
    let folder = gateway.stopped();
    let (code, said) = verify(&folder.path().join("log"), &file);
    assert_eq!((code, &said["lines"]), (0, &json!(2)), "{said}");
}

#[test]
fn the_manifest_is_signed_as_it_is_served() {
    let running = running();
    let agent = Agent::start(OK);
    let gateway = with_enclave(&running, &agent, "{}");
    let signed = || gateway.get("/.well-known/agent-manifest.jwt");
    wait_for(|| signed().0 == 200);
    let (_, head, token) = signed();
    assert_eq!(header(&head, "content-type").unwrap(), "application/jwt");
    let identity = get(&running.socket, "/identity?identity=gateway")
        .unwrap()
        .json();
    let claims = unverified_claims(&token).unwrap();
    assert_eq!(claims.iss.as_str(), identity["did"].as_str().unwrap());
    let key =
        PublicKey::from_multikey(claims.iss.as_str().strip_prefix("did:key:").unwrap()).unwrap();
    let claims = identity::token::verify_signature(&token, &key, &claims.iss).unwrap();
    let intent = &claims.vouch.intent;
    assert_eq!(
        (intent.action(), intent.target()),
        ("iatp.manifest", "booking")
    );
    let (_, _, served) = gateway.get("/.well-known/agent-manifest");
    let payload = serde_json::to_value(&claims.vouch.payload).unwrap();
    assert_eq!(
        payload["sha256"],
        identity::sha256(served.as_bytes()).to_string()
    );
    // By itself a gateway signs nothing.
    let alone = Gateway::trusted(&agent);
    assert_eq!(alone.get("/.well-known/agent-manifest.jwt").0, 404);
}

const WARNS: &str =
    "policy: {block_rules: [{name: accounts, condition: has_iban, action: warn}]}\n";
const ACCOUNT: &str = r#"{"to": "DE89 3704 0044 0532 0130 00"}"#;

/// As alice would, who has seen what waits.
fn approve(running: &Running, waiting: &Value) {
    let id = waiting["id"].as_str().unwrap();
    let canonical = identity::json::canonical(&waiting["request"]).unwrap();
    let approval = Approval {
        approval: ApprovalId::from_hex(id).unwrap(),
        boot_id: BootId::from_hex(waiting["boot_id"].as_str().unwrap()).unwrap(),
        exp: harness::now().0 + 60,
        request: identity::sha256(&canonical),
    };
    let jws = approval.sign(&TestKey::new(ALICE)).unwrap();
    let path = format!("/approvals/{id}");
    assert_eq!(
        post(&running.socket, &path, &json!({"approval": jws}))
            .unwrap()
            .status,
        200
    );
}

#[test]
fn an_approval_is_for_one_request_as_it_was_shown_and_once() {
    let running = running();
    let agent = Agent::start(OK);
    let keys = private_folder();
    let digest = |key: &str| identity::sha256(key.as_bytes());
    fs::write(
        keys.path().join("keys"),
        format!("one {}\ntwo {}\n", digest("key-one"), digest("key-two")),
    )
    .unwrap();
    let settings = format!(
        "{WARNS}authentication: {{api_keys: {{file: {}}}}}\n",
        keys.path().join("keys").display()
    );
    let gateway = with_enclave(&running, &agent, &settings);
    let send = |method: &str, target: &str, kind: &str, key: &str, given: &str, body: &str| {
        let request = format!(
            "{method} /proxy{target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: {kind}\r\nX-API-Key: {key}\r\n{given}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (status, head, body) = gateway.send(request.as_bytes());
        (
            status,
            head,
            serde_json::from_str::<Value>(&body).unwrap_or_default(),
        )
    };
    let json = "application/json";
    let ask = |given: &str| send("POST", "/pay?n=1", json, "key-one", given, ACCOUNT);
    // Who does not ask keeps nobody waiting.
    let (status, _, plain) = ask("");
    assert_eq!(
        (status, &plain["override"], &plain["approval"]),
        (449, &json!("approval"), &Value::Null)
    );
    for odd in [
        "true",
        "yes",
        "REQUEST",
        "0123",
        "0123456789abcdef0123456789abcdef",
    ] {
        let (status, _, said) = ask(&format!("X-User-Override: {odd}\r\n"));
        assert_eq!((status, &said["approval"]), (449, &Value::Null), "{odd}");
    }
    let (status, _, asked) = ask("X-User-Override: request\r\n");
    let waiting = &asked["approval"];
    let shown = &waiting["request"]["payload"];
    let wanted = json!({
        "agent": "booking", "caller": "api_key:one", "content_encoding": null, "content_type": "application/json", "digest": shown["digest"],
        "excerpt": "{\"to\": \"[IBAN_REDACTED]\"}", "excerpt_is_whole": true, "facts": ["iban"], "length": ACCOUNT.len(),
        "method": "POST", "path": "/pay", "query": "n=1", "score": 10, "warning": "the rule accounts warns",
    });
    assert_eq!((status, shown), (449, &wanted));
    // Asking again finds what waits already.
    assert_eq!(
        ask("X-User-Override: request\r\n").2["approval"]["id"],
        waiting["id"]
    );
    let given = format!("X-User-Override: {}\r\n", waiting["id"].as_str().unwrap());
    assert_eq!(ask(&given).0, 449);
    approve(&running, waiting);
    for (method, target, kind, key, body) in [
        ("PUT", "/pay?n=1", json, "key-one", ACCOUNT),
        ("POST", "/pay?n=2", json, "key-one", ACCOUNT),
        ("POST", "/pay/?n=1", json, "key-one", ACCOUNT),
        ("POST", "/pay?n=1", "text/plain", "key-one", ACCOUNT),
        ("POST", "/pay?n=1", json, "key-two", ACCOUNT),
        (
            "POST",
            "/pay?n=1",
            json,
            "key-one",
            r#"{"to":  "DE89 3704 0044 0532 0130 00"}"#,
        ),
    ] {
        let (status, ..) = send(method, target, kind, key, &given, body);
        assert_eq!(status, 449, "{method} {target} {kind} {key} {body}");
    }
    assert!(agent.seen().is_empty());
    let (status, head, _) = ask(&given);
    assert_eq!(status, 200);
    assert_eq!(ask(&given).0, 449);
    let seen = agent.seen();
    assert_eq!((seen.len(), header(&seen[0], "x-user-override")), (1, None));
    // Two of one caller wait at most, whatever the others do.
    let more = |key: &str, n: u32| {
        let target = format!("/pay?n={n}");
        send(
            "POST",
            &target,
            json,
            key,
            "X-User-Override: request\r\n",
            ACCOUNT,
        )
        .2
    };
    for n in [10, 11, 10, 11] {
        assert!(more("key-one", n)["approval"]["id"].is_string(), "{n}");
    }
    let full = more("key-one", 12);
    assert_eq!(
        (&full["override"], &full["approval"]),
        (&json!("approval"), &Value::Null)
    );
    assert!(
        full["message"]
            .as_str()
            .unwrap()
            .starts_with("as many requests"),
        "{full}"
    );
    let other = more("key-two", 12)["approval"].clone();
    // Nobody uses another one's.
    approve(&running, &other);
    let stolen = format!("X-User-Override: {}\r\n", other["id"].as_str().unwrap());
    assert_eq!(
        send("POST", "/pay?n=12", json, "key-one", &stolen, ACCOUNT).0,
        449
    );
    assert_eq!(
        send("POST", "/pay?n=12", json, "key-two", &stolen, ACCOUNT).0,
        200
    );
    // Of a long body a part is shown, and that it is one; what looks like a query and is none is told apart.
    let long = format!(
        "{{\"to\": \"DE89 3704 0044 0532 0130 00\", \"n\": \"{}\"}}",
        "x ".repeat(4000)
    );
    let (.., asked) = send(
        "POST",
        "/pay%3Fn=1",
        json,
        "key-two",
        "X-User-Override: request\r\n",
        &long,
    );
    let shown = &asked["approval"]["request"]["payload"];
    assert_eq!(
        (&shown["path"], &shown["query"]),
        (&json!("/pay?n=1"), &json!(""))
    );
    assert_eq!(
        (&shown["excerpt_is_whole"], &shown["length"]),
        (&json!(false), &json!(long.len()))
    );
    // What was approved stands in the log, with the token that says by whom.
    let lines = gateway.trace(&header(&head, "x-agent-trace-id").unwrap());
    let line = lines
        .iter()
        .find(|line| line["type"] == "user_override")
        .unwrap();
    let claims = unverified_claims(line["token"].as_str().unwrap()).unwrap();
    assert_eq!(claims.vouch.delegation_chain[0].iss, "approver:alice");
    assert_eq!(serde_json::to_value(&claims.vouch.payload).unwrap(), wanted);
}

#[test]
fn what_nobody_was_shown_is_not_overridden_by_an_approval() {
    let running = running();
    let agent = Agent::start(OK);
    // Blocks are never asked for.
    let settings =
        "policy: {block_rules: [{name: accounts, condition: has_iban, action: block}]}\n";
    let blocking = with_enclave(&running, &agent, settings);
    assert_eq!(
        blocking.post("X-User-Override: request\r\n", ACCOUNT).0,
        403
    );
    // Nor is anything where warnings cannot be overridden.
    let settings = "policy: {allow_override: false, block_rules: [{name: accounts, condition: has_iban, action: warn}]}\n";
    let strict = with_enclave(&running, &agent, settings);
    let (status, _, said) = strict.post("X-User-Override: request\r\n", ACCOUNT);
    assert_eq!((status, &said["override"]), (449, &json!("unavailable")));
    // A policy that signs overrides unseen overrides nothing; one that signs none neither.
    for actions in ["[\"*\"]", "[\"iatp.seal\"]"] {
        let alice = TestKey::new(ALICE).public_key().to_multikey();
        let policy = |state: &qemu_dev::State| {
            let text = state.gateway_policy(&alice).unwrap();
            let (head, _) = text.split_once("[[identities.rules]]").unwrap();
            format!(
                "{head}[[identities.rules]]\nname = \"all\"\nactions = {actions}\ntargets = [\"*\"]\nresources = [\"\"]\n"
            )
        };
        let running = Running::prepared(policy, "", &[]);
        let gateway = with_enclave(&running, &agent, WARNS);
        let (status, _, said) = gateway.post("X-User-Override: request\r\n", ACCOUNT);
        assert_eq!(
            (status, &said["override"]),
            (449, &json!("unavailable")),
            "{actions}"
        );
        let odd = "X-User-Override: 0123456789abcdef0123456789abcdef\r\n";
        assert_eq!(gateway.post(odd, ACCOUNT).0, 449, "{actions}");
    }
    // Messages of a WebSocket, which are still to come, cannot be shown either.
    let gateway = with_enclave(
        &running,
        &agent,
        "policy: {block_rules: [{name: all, condition: 'true', action: warn}]}\n",
    );
    let socket = "GET /proxy/a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-User-Override: request\r\n\r\n";
    let (status, _, said) = gateway.send(socket.as_bytes());
    assert_eq!(
        (status, said.contains("unavailable")),
        (449, true),
        "{said}"
    );
    assert!(agent.seen().is_empty());
}
