//! Calls of gRPC, with grpcio's server behind the gateway and its client, or `buf curl`, in front.

use super::callers::certificates;
use super::tricks::{DATA, END_HEADERS, END_STREAM, HEADERS, frame, literal};
use super::*;

/// An agent that is a script in `interop`, and what it prints.
pub(super) struct Called {
    process: Child,
    pub(super) agent: Agent,
    python: std::path::PathBuf,
}

impl Called {
    /// Of grpcio's server.
    fn start() -> Option<Self> {
        Self::that("grpc_agent.py")
    }

    pub(super) fn that(script: &str) -> Option<Self> {
        let python = crate::interop::python("protocols")?;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop");
        let script = folder.join(script);
        let mut process = Command::new(&python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let port: u16 = line.trim().parse().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&seen);
        std::thread::spawn(move || {
            let lines_read = out.lines().map_while(Result::ok);
            lines_read.for_each(|line| lines.lock().unwrap().push(line));
        });
        let agent = Agent {
            address: ([127, 0, 0, 1], port).into(),
            seen,
        };
        Some(Self {
            process,
            agent,
            python,
        })
    }

    /// What grpcio's client says.
    fn ask(&self, input: &Value) -> Value {
        self.ask_with("grpc_client.py", input)
    }

    /// What a client that is a script says.
    pub(super) fn ask_with(&self, script: &str, input: &Value) -> Value {
        crate::interop::ask(&self.python, script, input)
    }

    /// What one call gets.
    fn one(&self, gateway: &Gateway, metadata: &Value) -> Value {
        let input = json!({"address": gateway.address, "one": true, "metadata": metadata});
        self.ask(&input)["one"].clone()
    }

    pub(super) fn seen(&self) -> Vec<Value> {
        let seen = self.agent.seen();
        let read = seen.iter().map(|line| serde_json::from_str(line).unwrap());
        read.collect()
    }
}

impl Drop for Called {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const OPEN: &str = "routes: [{path: '/an.Agent/*', exempt: [application/grpc]}]\n";
const TRACE: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

#[test]
fn calls_of_every_kind_pass_with_their_metadata() {
    let Some(called) = Called::start() else {
        return;
    };
    let gateway = Gateway::configured(&called.agent, OPEN);
    let metadata = json!({"x-agent-trace-id": TRACE, "x-user-override": "x", "x-kept": "4", "x_agent_caller": "root"});
    let said = called.ask(&json!({"address": gateway.address, "metadata": metadata}));
    assert_eq!(said["one"], "cba");
    assert_eq!(said["first"]["x-first"], "1");
    assert_eq!(said["first"]["x-agent-trace-id"], TRACE);
    assert_eq!(said["first"]["x-agent-trust-score"], "10");
    assert_eq!(
        (&said["last"]["x-last"], &said["last"]["x-last-bin"]),
        (&json!("2"), &json!([0, 255]))
    );
    assert_eq!(said["large"], 4_000_000);
    let fail = &said["fail"];
    assert_eq!(
        (&fail["code"], &fail["details"], &fail["trailers"]["x-last"]),
        (
            &json!("OUT_OF_RANGE"),
            &json!("too far: 100 % \u{e9}"),
            &json!("3")
        )
    );
    assert_eq!(said["missing"]["code"], "UNIMPLEMENTED");
    assert_eq!(said["count"], "299");
    assert_eq!(said["total"], "20000000");
    assert_eq!(said["talk"], json!(["to you", "to me", "to us"]));
    assert_eq!(said["slow"]["code"], "DEADLINE_EXCEEDED");
    // Where the route exempts nothing, nothing passes.
    assert_eq!(said["closed"]["code"], "UNIMPLEMENTED");
    let details = said["closed"]["details"].as_str().unwrap();
    assert!(details.contains("not exempt"), "{details}");

    let seen = &called.seen()[0];
    assert_eq!(
        (&seen["x-agent-trace-id"], &seen["x-kept"]),
        (&json!(TRACE), &json!("4"))
    );
    for name in ["x-user-override", "x_agent_caller", "x-agent-caller"] {
        assert_eq!(seen[name], Value::Null, "{name}");
    }
    wait_for(|| called.seen().iter().any(|line| line["cancelled"] == true));

    let lines = || gateway.trace(TRACE);
    wait_for(|| lines().iter().any(|line| line["type"] == "ended"));
    let lines = lines();
    let kinds: Vec<&str> = lines
        .iter()
        .map(|it| it["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["request", "response", "ended"]);
    assert_eq!(
        (&lines[0]["path"], &lines[0]["payload"], &lines[0]["digest"]),
        (
            &json!("/an.Agent/One"),
            &json!("[NOT_LOOKED_THROUGH]"),
            &Value::Null
        )
    );
    assert_eq!(lines[2]["grpc_status"], 0);
}

/// How a call ended is written down, whether its status comes in trailers, in a head, or not at all.
#[test]
fn how_a_call_ends_is_written_down() {
    let Some(called) = Called::start() else {
        return;
    };
    let gateway = Gateway::configured(&called.agent, OPEN);
    called.ask(&json!({"address": gateway.address}));
    let log = gateway.folder.path().join("log/flight-000000000000.jsonl");
    let ends = || -> Vec<Value> {
        let text = fs::read_to_string(&log).unwrap();
        text.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line["type"] == "ended")
            .map(|line| line["grpc_status"].clone())
            .collect()
    };
    // The last one is that which its caller gave up: its answer never began.
    wait_for(|| ends().len() >= 7);
    let mut statuses = ends();
    // Of the one that its caller gave up either side may have said so first.
    statuses.retain(|status| *status != 4);
    statuses.sort_by_key(|status| status.as_u64());
    assert_eq!(json!(statuses), json!([0, 0, 0, 0, 0, 11, 12]));
}

#[test]
fn a_refused_call_is_a_status_of_grpc() {
    let Some(called) = Called::start() else {
        return;
    };
    let folder = private_folder();
    let file = folder.path().join("keys");
    let digest = identity::sha256(b"a-key-of-the-test");
    fs::write(&file, format!("ci {digest}\n")).unwrap();
    let keys = format!(
        "authentication: {{api_keys: {{file: {}}}}}\n",
        file.display()
    );
    let blocking = "policy: {block_rules: [{name: not_one, condition: \"path == '/an.Agent/One'\", action: block}]}\n";
    let limits = "limits: {requests_per_second: 1, burst: 1}\n";
    let masking = "policy: {block_rules: [{name: no_cards, on: response, condition: has_credit_card, action: block}]}\n";
    let key = json!({"x-api-key": "a-key-of-the-test"});
    for (settings, metadata, code) in [
        (keys.as_str(), json!({}), "UNAUTHENTICATED"),
        (&keys, json!({"x-api-key": "another"}), "UNAUTHENTICATED"),
        (&keys, key, "OK"),
        (blocking, json!({}), "PERMISSION_DENIED"),
        // What answers may not have cannot be found here: the route says that it is passed all the same.
        (masking, json!({}), "OK"),
    ] {
        let gateway = Gateway::configured(&called.agent, &format!("{OPEN}{settings}"));
        let before = called.seen().len();
        let said = called.one(&gateway, &metadata);
        let told = said["code"].as_str().or(said.as_str());
        assert_eq!(told, Some(code), "{settings} {said}");
        let counted = match code {
            "OK" => 200,
            "PERMISSION_DENIED" => 403,
            _ => 401,
        };
        let (_, metrics) = gateway.ask("/metrics");
        assert!(
            metrics.contains(&format!("iatp_requests_total{{status=\"{counted}\"}} 1\n")),
            "{metrics}"
        );
        let passed = usize::from(code == "OK");
        assert_eq!(called.seen().len() - before, passed, "{settings}");
    }
    // A path that others may ask as often as they like is none for calls.
    let gateway = Gateway::configured(&called.agent, limits);
    let health = json!({"address": gateway.address, "one": true, "path": "/health"});
    assert_eq!(called.ask(&health)["one"]["code"], "UNIMPLEMENTED");
    assert_eq!(called.ask(&health)["one"]["code"], "RESOURCE_EXHAUSTED");
    let gateway = Gateway::configured(&called.agent, &format!("{OPEN}{limits}"));
    assert_eq!(called.one(&gateway, &json!({})), "OK");
    assert_eq!(
        called.one(&gateway, &json!({}))["code"],
        "RESOURCE_EXHAUSTED"
    );

    let url = format!("http://{}", called.agent.address);
    let low = Gateway::start(&url, &manifest("untrusted", "ephemeral"), &[]);
    assert_eq!(called.one(&low, &json!({}))["code"], "UNIMPLEMENTED");
    drop(low);
    let file = folder.path().join("iatp.yaml");
    let secret = folder.path().join("secret");
    fs::write(&secret, SECRET).unwrap();
    let policy = format!("policy: {{override_secret_file: {}}}\n", secret.display());
    fs::write(&file, format!("{OPEN}{policy}")).unwrap();
    let more = ["--config", file.to_str().unwrap()];
    let low = Gateway::start(&url, &manifest("untrusted", "ephemeral"), &more);
    let said = called.one(&low, &json!({}));
    assert_eq!(said["code"], "FAILED_PRECONDITION", "{said}");
    assert_eq!(called.one(&low, &json!({"x-user-override": SECRET})), "OK");

    // An agent that is gone, and one that speaks no HTTP/2.
    let gone = Gateway::configured(&called.agent, OPEN);
    let silent = Agent::start(Manner::HangsUp);
    let old = Gateway::configured(&silent, OPEN);
    assert_eq!(called.one(&old, &json!({}))["code"], "UNAVAILABLE");
    let mut called = called;
    called.process.kill().unwrap();
    called.process.wait().unwrap();
    assert_eq!(called.one(&gone, &json!({}))["code"], "UNAVAILABLE");
}

#[test]
fn a_call_in_which_nothing_moves_ends() {
    let Some(called) = Called::start() else {
        return;
    };
    let settings = format!("{OPEN}backend: {{idle_timeout: 1s}}\n");
    let gateway = Gateway::configured(&called.agent, &settings);
    let input = json!({"address": gateway.address, "quiet": true});
    let said = called.ask(&input);
    // The gateway says so before the caller's own deadline of 20 s.
    assert_eq!(said["slow"]["code"], "DEADLINE_EXCEEDED");
    assert!(
        said["slow"]["details"]
            .as_str()
            .unwrap()
            .contains("the agent")
    );
    assert!(said["slow_after"].as_f64().unwrap() < 10.0, "{said}");
    wait_for(|| called.seen().iter().any(|line| line["cancelled"] == true));
    // It counts what moves either way: four messages in three seconds, and an answer at the end.
    assert_eq!(said["dripped"], "4");
    assert_eq!(said["late"], json!(["begun", "4"]));
    // An agent that stops in mid-answer.
    assert_ne!(said["stalled"], "OK");
    assert!(said["stalled_after"].as_f64().unwrap() < 10.0, "{said}");
}

/// Who takes nothing of what was answered keeps nobody else's answers waiting; and has so many calls at
/// once and no more.
#[test]
fn who_takes_no_answers_keeps_nobody_waiting() {
    let Some(called) = Called::start() else {
        return;
    };
    let gateway = Gateway::configured(&called.agent, OPEN);
    let mut stream = TcpStream::connect(&gateway.address).unwrap();
    // SETTINGS_INITIAL_WINDOW_SIZE 0.
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/an.Agent/Fill"),
        (":authority", "a"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let block: Vec<u8> = headers
        .iter()
        .flat_map(|(name, value)| literal(name, value))
        .collect();
    let call = |at: u32| {
        // 100 KB: more than the window of one.
        let message = [&[0, 0, 0, 0, 3][..], b"100"].concat();
        let head = frame(HEADERS, END_HEADERS, 2 * at + 1, &block);
        [head, frame(DATA, END_STREAM, 2 * at + 1, &message)].concat()
    };
    (0..100).for_each(|at| sent.extend(call(at)));
    stream.write_all(&sent).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    for _ in 0..4 {
        assert_eq!(called.one(&gateway, &json!({})), "OK");
    }
    let mut other = TcpStream::connect(&gateway.address).unwrap();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    (0..28).for_each(|at| sent.extend(call(at)));
    other.write_all(&sent).unwrap();
    wait_for(|| called.one(&gateway, &json!({}))["code"] == "RESOURCE_EXHAUSTED");
    drop((stream, other));
    wait_for(|| called.one(&gateway, &json!({})) == "OK");
}

#[test]
fn buf_asks_for_health_through_the_gateway() {
    let Some(called) = Called::start() else {
        return;
    };
    let settings = "routes: [{path: '/grpc.*', exempt: [application/grpc]}]\n";
    let gateway = Gateway::configured(&called.agent, settings);
    let buf = called.python.with_file_name("buf");
    let ask = |service: &str| {
        let url = format!("http://{}/grpc.health.v1.Health/Check", gateway.address);
        let data = json!({"service": service}).to_string();
        let output = Command::new(&buf)
            .args([
                "curl",
                "--protocol",
                "grpc",
                "--http2-prior-knowledge",
                "--data",
                &data,
                &url,
            ])
            .output()
            .unwrap();
        let of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (of(&output.stdout), of(&output.stderr))
    };
    // The message's description comes by reflection, a call in both directions.
    let (said, error) = ask("an.Agent");
    assert!(said.contains("SERVING"), "{said} {error}");
    let (_, error) = ask("another");
    assert!(error.contains("not_found"), "{error}");
}

#[test]
fn calls_pass_over_tls_and_only_over_http2() {
    let Some(called) = Called::start() else {
        return;
    };
    let folder = private_folder();
    certificates(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let settings = format!(
        "{OPEN}tls: {{certificate: {}, key: {}}}\n",
        path("ours-server.pem"),
        path("ours-server.key")
    );
    let gateway = Gateway::configured(&called.agent, &settings);
    let port = gateway.address.rsplit_once(':').unwrap().1;
    let input =
        json!({"address": format!("localhost:{port}"), "authority": path("ours.pem"), "one": true});
    assert_eq!(called.ask(&input)["one"], "OK");

    let plain = Gateway::configured(&called.agent, OPEN);
    for (path, status) in [("/proxy/an.Agent/One", 501), ("/an.Agent/One", 404)] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n"
        );
        assert_eq!(plain.send(request.as_bytes()).0, status);
    }
}
