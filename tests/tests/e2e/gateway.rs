//! The gateway: an IATP sidecar in front of an agent, over TCP, with a backend that writes down what
//! reaches it.

mod answers;
mod callers;
mod calls;
mod enclave;
mod large;
mod pressure;
mod sockets;
mod telemetry;
mod tricks;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::{private_folder, program, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const CARD: &str = r#"{"note": "pay with \u0034532-0151-1283-0366"}"#;
const SECRET: &str = "a-secret-of-the-operators";

/// An agent: what it gets, and what it answers.
struct Agent {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

/// What an agent does with a request.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Answers this.
    Answers(&'static str),
    /// Ends the connection.
    HangsUp,
    /// Says nothing for so long.
    Waits(Duration),
}

const OK: Manner = Manner::Answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");

impl Agent {
    fn start(manner: Manner) -> Self {
        Self::that(move |stream, _| match manner {
            Manner::Answers(answer) => stream.write_all(answer.as_bytes()).is_ok(),
            Manner::HangsUp => false,
            Manner::Waits(time) => {
                std::thread::sleep(time);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate";
                stream.write_all(answer).is_ok()
            }
        })
    }

    /// One that does this with each request; the connection stays if it says so.
    fn that(answers: impl Fn(&mut &TcpStream, &str) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (requests, answers) = (Arc::clone(&seen), Arc::new(answers));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (requests, answers) = (Arc::clone(&requests), Arc::clone(&answers));
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(&stream);
                    while let Some(request) = read_request(&mut reader) {
                        requests.lock().unwrap().push(request.clone());
                        if !answers(&mut &stream, &request) {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = header(&head, "content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(head + &String::from_utf8_lossy(&body))
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    })
}

/// A running gateway.
struct Gateway {
    process: Child,
    address: String,
    operator: String,
    folder: tempfile::TempDir,
}

impl Gateway {
    /// In front of this agent, with this manifest, and more arguments.
    fn start(agent: &str, manifest: &Value, more: &[&str]) -> Self {
        let folder = private_folder();
        let mut command = command(folder.path(), agent, manifest);
        command
            .args(["--port", "0", "--metrics-port", "0", "--log-dir"])
            .arg(folder.path().join("log"))
            .args(more);
        Self::spawn(command, folder)
    }

    fn spawn(mut command: Command, folder: tempfile::TempDir) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
        let of = |name: &str| told["fields"][name].as_str().unwrap().to_owned();
        let (address, operator) = (of("address"), of("operator"));
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self {
            process,
            address,
            operator,
            folder,
        }
    }

    /// In front of a trusted agent that keeps nothing, with these settings in YAML.
    fn configured(agent: &Agent, settings: &str) -> Self {
        let folder = private_folder();
        let file = folder.path().join("iatp.yaml");
        fs::write(&file, settings).unwrap();
        let url = format!("http://{}", agent.address);
        let more = ["--config", file.to_str().unwrap()];
        Self::start(&url, &manifest("trusted", "ephemeral"), &more)
    }

    /// A trusted agent that keeps nothing: score 10.
    fn trusted(agent: &Agent) -> Self {
        Self::start(
            &format!("http://{}", agent.address),
            &manifest("trusted", "ephemeral"),
            &[],
        )
    }

    /// Sends bytes; the answer's status, head and body.
    fn send(&self, bytes: &[u8]) -> (u16, String, String) {
        exchange(&self.address, bytes)
    }

    /// A POST of JSON to `/proxy`.
    fn post(&self, headers: &str, body: &str) -> (u16, String, Value) {
        let request = format!(
            "POST /proxy HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{body}",
            body.len()
        );
        let (status, head, body) = self.send(request.as_bytes());
        (
            status,
            head,
            serde_json::from_str(&body).unwrap_or_default(),
        )
    }

    fn get(&self, path: &str) -> (u16, String, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        self.send(request.as_bytes())
    }

    /// From the operator's port.
    fn ask(&self, path: &str) -> (u16, String) {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let (status, _, body) = exchange(&self.operator, request.as_bytes());
        (status, body)
    }

    fn trace(&self, trace_id: &str) -> Vec<Value> {
        // Lines are written a moment later, and not all at once: what ends a request is the last of them.
        const ENDS: [&str; 4] = ["response", "error", "blocked", "warning"];
        let lines = || {
            let (_, body) = self.ask(&format!("/trace/{trace_id}"));
            let trace: Value = serde_json::from_str(&body).unwrap();
            trace["logs"].as_array().cloned().unwrap_or_default()
        };
        let has_ended = |line: &Value| ENDS.iter().any(|end| line["type"] == *end);
        wait_for(|| lines().iter().any(has_ended));
        lines()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(folder: &Path, agent: &str, manifest: &Value) -> Command {
    let file = folder.join("manifest.json");
    fs::write(&file, manifest.to_string()).unwrap();
    let mut command = Command::new(program("anchorhold-gateway"));
    command
        .args(["--backend-url", agent, "--manifest"])
        .arg(file);
    command
}

fn exchange(address: &str, bytes: &[u8]) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    // It may be refused before all of it was sent.
    let _ = stream.write_all(bytes);
    read_answer(&stream, bytes.starts_with(b"HEAD"))
}

/// Status, head and body of one answer; status 0 if there is none.
fn read_answer(mut stream: &TcpStream, is_head: bool) -> (u16, String, String) {
    let wait = Some(Duration::from_secs(20));
    stream.set_read_timeout(wait).unwrap();
    let (mut answer, mut chunk) = (Vec::new(), vec![0; 65536]);
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let length = header(head, "content-length").and_then(|length| length.parse().ok());
        let is_whole = length.is_some_and(|length: usize| body.len() >= length)
            || text.contains("\r\n\r\n") && (is_head || status == Some(304));
        let read = if is_whole {
            0
        } else {
            stream.read(&mut chunk).unwrap_or(0)
        };
        if read == 0 {
            return (status.unwrap_or(0), head.to_owned(), body.to_owned());
        }
        answer.extend_from_slice(&chunk[..read]);
    }
}

fn manifest(level: &str, retention: &str) -> Value {
    json!({
        "identity": {"agent_id": "booking", "owner": "Acme"},
        "trust_level": level,
        "reversibility": {"level": "partial"},
        "privacy": {"retention_policy": retention},
        "protocol_version": "1.0",
    })
}

#[test]
fn a_request_reaches_the_agent_as_it_came_and_its_answer_the_caller() {
    let agent = Agent::start(Manner::Answers(
        "HTTP/1.1 201 Created\r\nContent-Length: 7\r\nLocation: /tasks/1\r\nX-Mine: yes\r\nKeep-Alive: 5\r\n\r\n{\"a\":1}",
    ));
    let gateway = Gateway::trusted(&agent);
    let body = "{ \"a\" : 1.50,\t\"b\":\"\\u00e9\" }";
    let request = format!(
        "PUT /proxy/v1/task?x=%20y HTTP/1.1\r\nHost: caller.example\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         X-Kept: 1\r\nX-Mine: 1\r\nX-User-Override: {SECRET}\r\nConnection: close, X-Mine\r\nX-Agent-Trace-ID: 6BA7B810-9DAD-11D1-80B4-00C04FD430C8\r\n\r\n{body}",
        body.len()
    );
    let (status, head, answer) = gateway.send(request.as_bytes());
    assert_eq!((status, answer.as_str()), (201, "{\"a\":1}"));
    let trace_id = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    assert_eq!(header(&head, "x-agent-trace-id").unwrap(), trace_id);
    assert_eq!(header(&head, "x-agent-trust-score").unwrap(), "10");
    assert!(
        header(&head, "x-agent-latency-ms")
            .unwrap()
            .parse::<f64>()
            .unwrap()
            > 0.0
    );
    assert_eq!(header(&head, "x-mine").unwrap(), "yes");
    assert_eq!(header(&head, "location").unwrap(), "/proxy/tasks/1");
    assert_eq!(header(&head, "keep-alive"), None);
    let seen = agent.seen();
    let (head, sent) = seen[0].split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("PUT /v1/task?x=%20y HTTP/1.1\r\n"),
        "{head}"
    );
    assert_eq!(sent, body);
    assert_eq!(header(head, "x-kept").unwrap(), "1");
    assert_eq!(header(head, "host").unwrap(), agent.address.to_string());
    assert_eq!(header(head, "x-agent-trace-id").unwrap(), trace_id);
    for gone in ["x-mine", "x-user-override", "connection"] {
        assert_eq!(header(head, gone), None, "{gone}");
    }
    // The agent on a Unix socket.
    let socket = gateway.folder.path().join("agent.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = read_request(&mut BufReader::new(&stream)).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            .unwrap();
        request
    });
    let url = format!("unix://{}", socket.display());
    let gateway = Gateway::start(&url, &manifest("trusted", "ephemeral"), &[]);
    assert_eq!(gateway.get("/proxy/a").2, "hi");
    assert!(served.join().unwrap().starts_with("GET /a HTTP/1.1\r\n"));
}

#[test]
fn what_a_rule_blocks_never_reaches_the_agent_and_nothing_overrides_it() {
    let agent = Agent::start(OK);
    let url = format!("http://{}", agent.address);
    let secret = private_folder();
    let file = secret.path().join("secret");
    fs::write(&file, SECRET).unwrap();
    let file = file.to_str().unwrap();
    for (level, retention, rule) in [
        ("untrusted", "temporary", "credit_card_to_untrusted"),
        ("trusted", "permanent", "credit_card_to_permanent"),
        ("trusted", "forever", "credit_card_to_permanent"),
    ] {
        let more = ["--override-secret-file", file];
        let gateway = Gateway::start(&url, &manifest(level, retention), &more);
        for headers in [String::new(), format!("X-User-Override: {SECRET}\r\n")] {
            let (status, head, body) = gateway.post(&headers, CARD);
            assert_eq!(status, 403);
            assert_eq!(body["blocked"], true);
            assert_eq!(body["blocked_by"], "policy_engine");
            assert!(body["error"].as_str().unwrap().contains(rule), "{body}");
            let trace_id = header(&head, "x-agent-trace-id").unwrap();
            assert_eq!(body["trace_id"], trace_id.as_str());
            let lines = gateway.trace(&trace_id);
            assert_eq!(
                (&lines[0]["type"], &lines[0]["reason"]),
                (&json!("blocked"), &json!(rule))
            );
        }
        // Nor in the path, nor in the query, nor in a form.
        for request in [
            "GET /proxy/4532015112830366 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "GET /proxy?q=4532+0151+1283+0366 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "POST /proxy HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 18\r\n\r\nc=4532015112830366",
        ] {
            assert_eq!(gateway.send(request.as_bytes()).0, 403, "{request}");
        }
    }
    assert_eq!(agent.seen(), Vec::<String>::new());
    // An SSN goes to nobody who keeps it; both go to who keeps nothing.
    let gateway = Gateway::start(&url, &manifest("trusted", "temporary"), &[]);
    assert_eq!(gateway.post("", r#"{"q": "123-45-6789"}"#).0, 403);
    assert_eq!(gateway.post("", CARD).0, 200);
    let gateway = Gateway::trusted(&agent);
    assert_eq!(gateway.post("", r#"{"q": "123-45-6789"}"#).0, 200);
    assert_eq!(agent.seen().len(), 2);
}

#[test]
fn a_warning_gives_way_to_the_shared_secret_and_to_nothing_else() {
    let agent = Agent::start(OK);
    let url = format!("http://{}", agent.address);
    let folder = private_folder();
    let file = folder.path().join("secret");
    fs::write(&file, format!("{SECRET}\n")).unwrap();
    let by_secret = ["--override-secret-file", file.to_str().unwrap()];
    let start =
        |level: &str, more: &[&str]| Gateway::start(&url, &manifest(level, "permanent"), more);
    // 5 + 2 - 1: below 7, and not below 3.
    let gateway = start("standard", &by_secret);
    for headers in [
        "",
        "X-User-Override: true\r\n",
        "X-User-Override: a-secret-of-the-operator\r\n",
        "X-User-Override: a-secret-of-the-operatorz\r\n",
        "X-User-Override: A-secret-of-the-operators\r\n",
        "X-User-Override: a-secret-of-the-operators\r\nX-User-Override: true\r\n",
    ] {
        let (status, head, body) = gateway.post(headers, "{}");
        assert_eq!(status, 449, "{headers}");
        assert_eq!(
            (
                &body["trust_score"],
                &body["requires_override"],
                &body["override"]
            ),
            (&json!(6), &json!(true), &json!("shared_secret"))
        );
        let trace_id = header(&head, "x-agent-trace-id").unwrap();
        assert_eq!(gateway.trace(&trace_id)[0]["type"], "warning");
    }
    assert!(agent.seen().is_empty());
    let overriding = format!("X-User-Override: {SECRET}\r\n");
    let (status, head, _) = gateway.post(&overriding, "{}");
    assert_eq!(status, 200);
    assert_eq!(header(&head, "x-agent-quarantined"), None);
    let trace = gateway.trace(&header(&head, "x-agent-trace-id").unwrap());
    assert_eq!(trace[1]["type"], "user_override");
    // Below the threshold, or below another one.
    let gateway = start("untrusted", &by_secret);
    let (status, head, _) = gateway.post(&overriding, "{}");
    assert_eq!(
        (status, header(&head, "x-agent-quarantined")),
        (200, Some("true".into()))
    );
    let more = [by_secret[0], by_secret[1], "--trust-threshold", "7"];
    let gateway = start("standard", &more);
    assert!(header(&gateway.post(&overriding, "{}").1, "x-agent-quarantined").is_some());
    // Without a secret, or without leave.
    let never = [by_secret[0], by_secret[1], "--allow-override", "false"];
    for more in [&[][..], &never] {
        let gateway = start("standard", more);
        let (status, _, body) = gateway.post(&overriding, "{}");
        assert_eq!((status, &body["override"]), (449, &json!("unavailable")));
    }
}

#[test]
fn rules_of_the_configuration_count_as_they_are_written() {
    let agent = Agent::start(OK);
    let folder = private_folder();
    let file = folder.path().join("iatp.yaml");
    // The reference architecture's own file, with one rule more.
    let text = format!(
        "backend:\n  url: http://{}\n  timeout: 30s\n\nserver:\n  port: 8001\n  log_level: info\n\npolicy:\n  trust_threshold: 3\n  allow_override: true\n  block_rules:\n\
         \x20   - name: credit_card_to_untrusted\n      condition: \"has_credit_card && trust_level == 'untrusted'\"\n      action: block\n\
         \x20   - name: ssn_to_permanent\n      condition: \"has_ssn && retention == 'permanent'\"\n      action: block\n\
         \x20   - name: no_deletes\n      condition: \"method == 'DELETE' && path.startsWith('/v1/')\"\n      action: warn\n",
        agent.address
    );
    fs::write(&file, text).unwrap();
    let start = |level, retention| {
        let more = ["--config", file.to_str().unwrap()];
        Gateway::start(
            &format!("http://{}", agent.address),
            &manifest(level, retention),
            &more,
        )
    };
    let gateway = start("untrusted", "ephemeral");
    assert_eq!(gateway.post("", CARD).0, 403);
    let gateway = start("verified_partner", "permanent");
    assert_eq!(gateway.post("", CARD).0, 200);
    assert_eq!(gateway.post("", r#"{"q": "123-45-6789"}"#).0, 403);
    let delete = |path: &str| {
        let text = format!("DELETE {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        gateway.send(text.as_bytes()).0
    };
    assert_eq!((delete("/proxy/v1/a"), delete("/proxy/v2/a")), (449, 200));
    // However it is spelled.
    for path in ["/proxy/%76%31/a", "/proxy//v1/a", "/proxy/v1%2fa"] {
        assert_eq!(delete(path), 449, "{path}");
    }
}

#[test]
fn what_passed_is_read_back_scrubbed_and_on_the_operators_port_only() {
    let agent = Agent::start(OK);
    let gateway = Gateway::trusted(&agent);
    let long = format!(
        r#"{{"ssn": "123-45-6789", "x": "4532-1234-5678-9010", "long": "{}"}}"#,
        "a".repeat(5000)
    );
    let (status, head, _) = gateway.post("", &long);
    assert_eq!(status, 200);
    let trace_id = header(&head, "x-agent-trace-id").unwrap();
    let lines = gateway.trace(&trace_id);
    let (request, response) = (&lines[0], &lines[1]);
    assert_eq!(
        (&request["type"], &response["type"]),
        (&json!("request"), &json!("response"))
    );
    for line in &lines {
        assert_eq!(
            (&line["trace_id"], &line["agent_id"]),
            (&json!(trace_id), &json!("booking"))
        );
        let time = line["timestamp"].as_str().unwrap();
        assert!(
            time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(),
            "{time}"
        );
    }
    assert_eq!(response["status_code"], 200);
    assert!(response["latency_ms"].as_f64().unwrap() > 0.0);
    let payload = request["payload"].as_str().unwrap();
    assert_eq!(payload.len(), 4096);
    assert!(
        payload.starts_with(r#"{"ssn": "[SSN_REDACTED]", "x": "[CREDIT_CARD_REDACTED]", "#),
        "{payload}"
    );
    assert_eq!(
        request["digest"],
        identity::sha256(long.as_bytes()).to_string()
    );
    // Not for callers; nor for what is no id.
    assert_eq!(gateway.get(&format!("/trace/{trace_id}")).0, 404);
    assert_eq!(gateway.get("/metrics").0, 404);
    for path in [
        "/trace/",
        "/trace/../x",
        "/trace/00000000-0000-0000-0000-000000000000",
    ] {
        assert_eq!(gateway.ask(path).0, 404, "{path}");
    }
    assert_eq!(gateway.ask("/ready").0, 200);
    let (_, metrics) = gateway.ask("/metrics");
    for line in [
        "iatp_requests_total{status=\"200\"} 1",
        "iatp_policy_evaluations_total{result=\"allow\"} 1",
        "iatp_trust_score_distribution_bucket{le=\"10.0\"} 1",
        "iatp_trust_score_distribution_bucket{le=\"9.0\"} 0",
        "iatp_logs_written_total 2",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}\n{metrics}"
        );
    }
    let written: u64 = fs::read_dir(gateway.folder.path().join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(
        metrics.contains(&format!("iatp_trace_storage_bytes {written}\n")),
        "{metrics}"
    );
    // A page whose name was made this host's asks by that name.
    let request = b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(&gateway.operator, request).0, 403);
}

#[test]
fn the_manifest_is_served_as_the_document_that_both_forms_accept() {
    let agent = Agent::start(OK);
    let gateway = Gateway::trusted(&agent);
    for path in ["/.well-known/agent-manifest", "/capabilities"] {
        let (status, head, body) = gateway.get(path);
        assert_eq!(status, 200);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["identity"]["agent_id"], body["agent_id"]);
        assert_eq!(body["privacy_contract"]["retention"], "ephemeral");
        assert_eq!(header(&head, "cache-control").unwrap(), "max-age=3600");
        let etag = header(&head, "etag").unwrap();
        for (known, wanted) in [(etag.as_str(), 304), ("\"other\"", 200), ("*", 304)] {
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nIf-None-Match: {known}\r\n\r\n"
            );
            assert_eq!(gateway.send(request.as_bytes()).0, wanted, "{known}");
        }
        let head_of = format!("HEAD {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let (status, _, body) = gateway.send(head_of.as_bytes());
        assert_eq!((status, body.as_str()), (200, ""));
        let post = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        assert_eq!(gateway.send(post.as_bytes()).0, 405);
    }
    assert_eq!(gateway.get("/health").2, r#"{"status":"healthy"}"#);
    assert_eq!(gateway.get("/").0, 404);
    assert_eq!(gateway.get("/proxyx").0, 404);
    assert!(agent.seen().is_empty());
}

/// Where two readers could see two requests, or another one: what is answered, and how many requests
/// the agent saw.
#[test]
fn a_request_that_could_be_read_in_two_ways_is_refused_or_is_one_for_all() {
    let post = "POST /proxy HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
    let hidden = "GET /proxy/hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let cases: [(&str, String, u16, usize); 22] = [
        ("a plain one", format!("{post}Content-Length: 2\r\n\r\n{{}}"), 200, 1),
        ("chunks", format!("{post}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"), 200, 1),
        ("both lengths", format!("{post}Content-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n{hidden}"), 200, 1),
        ("two lengths", format!("{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}} "), 400, 0),
        ("a length with a sign", format!("{post}Content-Length: +2\r\n\r\n{{}}"), 400, 0),
        ("a length twice in one", format!("{post}Content-Length: 2, 3\r\n\r\n{{}}"), 400, 0),
        ("another coding last", format!("{post}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"), 400, 0),
        ("a coding that is none", format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), 400, 0),
        ("chunks in HTTP/1.0", "POST /proxy HTTP/1.0\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".into(), 400, 0),
        ("a bad chunk size", format!("{post}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n"), 400, 0),
        ("a huge chunk size", format!("{post}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{{}}\r\n0\r\n\r\n"), 400, 0),
        ("chunks without an end", format!("{post}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n"), 400, 0),
        ("a header that goes on", format!("{post}X-A: 1\r\n b\r\nContent-Length: 2\r\n\r\n{{}}"), 400, 0),
        ("a space before the colon", format!("{post}Content-Length : 2\r\n\r\n{{}}"), 400, 0),
        ("no host", "GET /proxy HTTP/1.1\r\nConnection: close\r\n\r\n".into(), 400, 0),
        ("two hosts", "GET /proxy HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400, 0),
        ("a bare line feed in a value", "GET /proxy HTTP/1.1\r\nHost: a\r\nX-A: 1\rb\r\n\r\n".into(), 400, 0),
        ("an upgrade", "GET /proxy HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n".into(), 501, 0),
        ("a tunnel", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n".into(), 404, 0),
        ("dot segments", "GET /proxy/%2e%2e/admin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".into(), 400, 0),
        ("a type that Connection names", format!("{post}Connection: content-type\r\nContent-Length: 2\r\n\r\n{{}}"), 415, 0),
        ("a length that Connection names", format!("{post}Connection: content-length, close\r\nContent-Length: 2\r\n\r\n{{}}"), 200, 1),
    ];
    for (what, request, status, reached) in cases {
        let agent = Agent::start(OK);
        let gateway = Gateway::trusted(&agent);
        let answer = if what == "chunks without an end" {
            let mut stream = TcpStream::connect(&gateway.address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            read_answer(&stream, false)
        } else {
            gateway.send(request.as_bytes())
        };
        let seen = agent.seen();
        assert_eq!(
            (answer.0, seen.len()),
            (status, reached),
            "{what}: {answer:?} {seen:?}"
        );
        for request in &seen {
            assert!(!request.contains("hidden"), "{what}: {request}");
            assert!(header(request, "transfer-encoding").is_none(), "{what}");
        }
    }
}

#[test]
fn what_is_too_large_or_cannot_be_looked_through_is_refused_before_the_agent_sees_it() {
    let agent = Agent::start(OK);
    let gateway = Gateway::trusted(&agent);
    let most = 10 * 1024 * 1024;
    let text = format!("\"{}\"", "a".repeat(most - 2));
    assert_eq!(gateway.post("", &text).0, 200);
    assert_eq!(gateway.post("", &format!("{text} ")).0, 413);
    let mut chunked = b"POST /proxy HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..=most / 65536 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend_from_slice(&[b' '; 65536]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(gateway.send(&chunked).0, 413);
    for (headers, body, status) in [
        ("Content-Type: application/json\r\n", "{", 400),
        ("Content-Type: application/json\r\n", "{\"a\": 1} x", 400),
        ("Content-Type: application/octet-stream\r\n", "x", 415),
        (
            "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
            "x",
            400,
        ),
        (
            "Content-Type: application/json\r\nContent-Encoding: br\r\n",
            "x",
            415,
        ),
        ("", "x", 415),
    ] {
        let request = format!(
            "POST /proxy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(
            gateway.send(request.as_bytes()).0,
            status,
            "{headers}{body}"
        );
    }
    assert_eq!(agent.seen().len(), 1);
}

#[test]
fn an_agent_that_fails_is_told_apart_and_others_go_on() {
    let trusted = manifest("trusted", "ephemeral");
    let timeout = ["--backend-timeout", "300ms"];
    for (manner, status) in [
        (Manner::HangsUp, 502),
        (Manner::Waits(Duration::from_secs(2)), 504),
        (Manner::Answers("nonsense\r\n\r\n"), 502),
    ] {
        let agent = Agent::start(manner);
        let url = format!("http://{}", agent.address);
        let gateway = Gateway::start(&url, &trusted, &timeout);
        let (answered, head, body) = gateway.post("", "{}");
        assert_eq!(answered, status);
        assert_eq!(
            body["recovery"],
            json!({"strategy": "give_up", "success": false, "actions_taken": []})
        );
        let trace_id = header(&head, "x-agent-trace-id").unwrap();
        assert_eq!(gateway.trace(&trace_id).last().unwrap()["type"], "error");
        // It was asked once: nobody knows what a second time would do.
        assert_eq!(agent.seen().len(), 1);
        assert_eq!(gateway.get("/health").0, 200);
    }
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let gateway = Gateway::start(&format!("http://{nobody}"), &trusted, &timeout);
    assert_eq!(gateway.post("", "{}").0, 502);
}

#[test]
fn while_nothing_can_be_written_down_nothing_is_forwarded() {
    let agent = Agent::start(OK);
    let folder = private_folder();
    let mut inner = command(
        folder.path(),
        &format!("http://{}", agent.address),
        &manifest("trusted", "ephemeral"),
    );
    inner.args(["--port", "0", "--metrics-port", "0", "--log-dir"]);
    inner.arg(folder.path().join("log"));
    // Files end at 4 KiB, as on a disk that is full.
    let mut outer = Command::new("prlimit");
    outer
        .args([
            "--fsize=4096:unlimited",
            "sh",
            "-c",
            "trap '' XFSZ; exec \"$0\" \"$@\"",
        ])
        .arg(inner.get_program())
        .args(inner.get_args());
    let gateway = Gateway::spawn(outer, folder);
    wait_for(|| gateway.post("", "{}").0 == 503);
    let reached = agent.seen().len();
    assert!(reached > 1);
    assert_eq!(gateway.post("", "{}").0, 503);
    assert_eq!(gateway.ask("/ready").0, 503);
    assert_eq!(agent.seen().len(), reached);
    // What is refused is refused all the same, and the disk has room again.
    assert_eq!(gateway.post("", "{").0, 400);
    let pid = gateway.process.id().to_string();
    let lifted = Command::new("prlimit")
        .args(["--pid", &pid, "--fsize=unlimited:unlimited"])
        .status();
    assert!(lifted.unwrap().success());
    wait_for(|| gateway.post("", "{}").0 == 200);
    let file = gateway.folder.path().join("log/flight-000000000000.jsonl");
    let count = |text: &str| text.matches("\"type\":\"request\"").count();
    // Each request that was forwarded stands there once; the last one a moment later.
    let reached = agent.seen().len();
    wait_for(|| count(&fs::read_to_string(&file).unwrap()) >= reached);
    gateway.signal(Signal::TERM);
    wait_for(|| TcpStream::connect(&gateway.address).is_err());
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(count(&text), reached);
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["trace_id"].is_string());
    }
}

#[test]
fn what_is_under_way_at_the_end_is_answered() {
    let agent = Agent::start(Manner::Waits(Duration::from_millis(700)));
    let mut gateway = Gateway::trusted(&agent);
    let address = gateway.address.clone();
    let asked = std::thread::spawn(move || {
        let request = b"GET /proxy HTTP/1.1\r\nHost: a\r\n\r\n";
        exchange(&address, request)
    });
    wait_for(|| !agent.seen().is_empty());
    gateway.signal(Signal::TERM);
    assert_eq!(asked.join().unwrap().2, "late");
    assert!(gateway.process.wait().unwrap().success());
    assert!(TcpStream::connect(&gateway.address).is_err());
    // Its answer was written down, too.
    let file = gateway.folder.path().join("log/flight-000000000000.jsonl");
    assert!(fs::read_to_string(file).unwrap().contains("\"response\""));
}

#[test]
fn a_setting_that_cannot_be_is_named_and_nothing_starts() {
    let folder = private_folder();
    let trusted = manifest("trusted", "ephemeral");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let rule = |condition: &str| {
        format!(
            "policy:\n  block_rules:\n    - {{name: r, action: block, condition: \"{condition}\"}}\n"
        )
    };
    let cases = [
        (
            vec!["--config", &*file("a", "server:\n  prot: 1\n").leak()],
            64,
            "prot",
        ),
        (
            vec!["--config", &*file("b", &rule("has_cards")).leak()],
            64,
            "there is no fact has_cards",
        ),
        (
            vec!["--config", &*file("c", &rule("trust_score")).leak()],
            64,
            "must be true or false",
        ),
        (vec!["--config", "/nowhere.yaml"], 64, "/nowhere.yaml"),
        (vec!["--backend-timeout", "soon"], 64, "no duration"),
        (
            vec!["--override-secret-file", &*file("d", "short").leak()],
            64,
            "16 or more",
        ),
        (vec!["--port", "9090"], 64, "--metrics-port"),
        (vec!["--port", &port], 70, "--port (IATP_PORT)"),
        (
            vec!["--port", "0", "--metrics-port", &port],
            70,
            "AgentKeys both want port 9090",
        ),
        (vec!["--log-level", "loud"], 64, "loud"),
        (
            vec!["--config", &*file("e", "policy:\n  block_rules:\n    - {name: r, action: warn, on: response, condition: has_ssn}\n").leak()],
            64,
            "block it, or mask it",
        ),
        (
            vec!["--config", &*file("f", "policy:\n  block_rules:\n    - {name: r, action: mask, on: response, condition: has_ssn}\n    - {name: r, action: block, condition: has_ssn}\n").leak()],
            64,
            "two rules of this name",
        ),
        (
            vec!["--config", &*file("g", "routes:\n  - {path: v1}\n").leak()],
            64,
            "begins with a slash",
        ),
        (
            vec!["--config", &*file("h", "routes:\n  - {path: /v1, request_schema: /nowhere.json}\n").leak()],
            64,
            "/nowhere.json",
        ),
    ];
    for (arguments, code, said) in cases {
        let output = command(folder.path(), "http://127.0.0.1:1", &trusted)
            .args(&arguments)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
    for (url, manifest, said) in [
        ("ftp://a", &trusted, "must be http"),
        ("http://user@a", &trusted, "must be http"),
        ("unix://relative", &trusted, "absolute"),
        (
            "http://a",
            &json!({"agent_id": "a", "identity": {"agent_id": "b", "owner": "o"}, "trust_level": "trusted", "protocol_version": "1.0"}),
            "contradicts itself",
        ),
        ("http://a", &json!({"agent_id": ""}), "/identity/agent_id"),
    ] {
        let output = command(folder.path(), url, manifest).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{text}");
        assert!(text.contains(said), "{text}");
    }
}

/// The settings in deploy/kubernetes are settings: a gateway starts with them, and asks who calls.
#[test]
fn the_settings_of_the_pod_are_settings() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/gateway.yaml");
    let text = fs::read_to_string(file).unwrap();
    // What stands in a member of the ConfigMap.
    let member = |name: &str| {
        let (_, rest) = text.split_once(&format!("  {name}: |\n")).unwrap();
        let lines = rest.lines().take_while(|line| line.starts_with("    "));
        lines
            .map(|line| format!("{}\n", &line[4..]))
            .collect::<String>()
    };
    let folder = private_folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("manifest.json"), member("manifest.json")).unwrap();
    fs::write(path("keys"), "").unwrap();
    let settings = member("gateway.yaml")
        .replace("/etc/iatp/manifest.json", &path("manifest.json"))
        .replace("/etc/iatp-keys/keys", &path("keys"))
        .replace("/var/log/iatp", &path("log"));
    assert_eq!(
        settings.matches(&*folder.path().to_string_lossy()).count(),
        3
    );
    fs::write(path("gateway.yaml"), settings).unwrap();
    let mut command = Command::new(program("anchorhold-gateway"));
    command.args([
        "--port",
        "0",
        "--metrics-port",
        "0",
        "--listen",
        "127.0.0.1",
        "--config",
        &path("gateway.yaml"),
    ]);
    let gateway = Gateway::spawn(command, folder);
    assert_eq!(gateway.get("/health").0, 200);
    assert_eq!(gateway.post("", "{}").0, 401);
}

/// PyPI's `inter-agent-trust-protocol`: its models read the manifest, its client asks, `iatp scan`
/// scores.
#[test]
fn the_client_of_iatp_understands_the_gateway() {
    let Some(python) = crate::interop::python("iatp-0.5.0") else {
        return;
    };
    let agent = Agent::start(Manner::Answers(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{\"done\": 1}",
    ));
    let url = format!("http://{}", agent.address);
    // Scores of the Python profile, which are theirs: 5 + 2 + 1 + 2 + 1, at most 10; 5 + 1 - 2 + 1; 5 - 5 + 1 + 1.
    for (level, retention, score, statuses) in [
        ("trusted", "ephemeral", 10, [200, 200]),
        ("trusted", "permanent", 7, [200, 403]),
        ("untrusted", "temporary", 2, [449, 403]),
    ] {
        let gateway = Gateway::start(&url, &manifest(level, retention), &[]);
        let input = json!({"url": format!("http://{}", gateway.address)});
        let said = crate::interop::ask(&python, "iatp_client.py", &input);
        assert_eq!(said["agent_id"], "booking");
        assert_eq!(
            (&said["trust_level"], &said["retention"]),
            (&json!(level), &json!(retention))
        );
        assert_eq!(
            (&said["reversibility"], &said["score"]),
            (&json!("partial"), &json!(score)),
            "{said}"
        );
        let told: Vec<u64> = said["answers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|answer| answer["status"].as_u64().unwrap())
            .collect();
        assert_eq!(told, statuses, "{said}");
        for answer in said["answers"].as_array().unwrap() {
            assert_eq!(answer["trace"], "6ba7b810-9dad-11d1-80b4-00c04fd430c8");
        }
        let scan = said["scan"].as_str().unwrap();
        assert!(
            scan.contains(&format!("Trust Score: {}/100", score * 10)),
            "{scan}"
        );
    }
}

/// The profile `python` is the arithmetic of PyPI's `inter-agent-trust-protocol`, for every agent that
/// there can be.
#[test]
fn the_profile_of_python_thinks_as_its_sdk_does() {
    let Some(python) = crate::interop::python("iatp-0.5.0") else {
        return;
    };
    let mut manifests = Vec::new();
    for level in [
        "verified_partner",
        "trusted",
        "standard",
        "unknown",
        "untrusted",
    ] {
        for reversibility in ["full", "partial", "none"] {
            for retention in ["ephemeral", "temporary", "permanent", "forever"] {
                for (human, idempotent) in
                    [(false, false), (false, true), (true, false), (true, true)]
                {
                    let mut document = manifest(level, retention);
                    document["reversibility"]["level"] = json!(reversibility);
                    document["privacy"]["human_in_loop"] = json!(human);
                    document["capabilities"] = json!({"idempotency": idempotent});
                    manifests
                        .push(manifest::Manifest::parse(document.to_string().as_bytes()).unwrap());
                }
            }
        }
    }
    let documents: Vec<_> = manifests.iter().map(manifest::Manifest::document).collect();
    let said = crate::interop::ask(
        &python,
        "iatp_judgement.py",
        &json!({"manifests": documents}),
    );
    let ours: Vec<Value> = manifests
        .iter()
        .map(|manifest| {
            json!({
                "score": manifest.python_trust_score(),
                "warnings": manifest.python_warnings().len(),
                "quarantines": manifest.python_quarantines(),
            })
        })
        .collect();
    assert_eq!(ours.len(), 240);
    assert_eq!(said["thought"], json!(ours));
}

#[test]
fn what_was_overridden_below_the_threshold_is_a_session_of_quarantine() {
    let agent = Agent::start(OK);
    let folder = private_folder();
    let secret = folder.path().join("secret");
    fs::write(&secret, SECRET).unwrap();
    let settings = folder.path().join("iatp.yaml");
    let url = format!("http://{}", agent.address);
    let start = |level: &str, retention: &str, policy: &str| {
        let policy = format!(
            "policy: {{override_secret_file: {}, {policy}}}\n",
            secret.display()
        );
        fs::write(&settings, policy).unwrap();
        let more = ["--config", settings.to_str().unwrap()];
        Gateway::start(&url, &manifest(level, retention), &more)
    };
    let overriding = format!("X-User-Override: {SECRET}\r\n");
    // By the SDK's arithmetic 5 + 2 + 1 + 1 warns, since nothing says that it is idempotent.
    let python = start("trusted", "temporary", "profile: python");
    let (status, head, said) = python.post("", "{}");
    assert_eq!(
        (
            status,
            header(&head, "x-agent-trust-score").unwrap().as_str()
        ),
        (449, "9")
    );
    assert_eq!(
        said["warning"],
        "a request that comes twice may be done twice"
    );
    let (status, head, _) = python.post(&overriding, "{}");
    assert_eq!((status, header(&head, "x-agent-quarantined")), (200, None));
    let passed = header(&head, "x-agent-trace-id").unwrap();
    for python in [
        start("untrusted", "temporary", "profile: python"),
        start("untrusted", "temporary", "trust_threshold: 5"),
    ] {
        let (status, head, _) = python.post(&overriding, "{}");
        assert_eq!(
            (
                status,
                header(&head, "x-agent-quarantined").unwrap().as_str()
            ),
            (200, "true")
        );
        let id = header(&head, "x-agent-trace-id").unwrap();
        python.trace(&id);
        let (status, session) = python.ask(&format!("/quarantine/{id}"));
        let session: Value = serde_json::from_str(&session).unwrap();
        assert_eq!(
            (status, &session["trace_id"], &session["user_override"]),
            (200, &json!(id), &json!(true))
        );
        assert_eq!(session["manifest"]["agent_id"], "booking");
        assert!(
            session["warning_message"]
                .as_str()
                .unwrap()
                .contains("trust score"),
            "{session}"
        );
        // Others read it only where it is known who asks.
        assert_eq!(python.get(&format!("/quarantine/{id}")).0, 404);
    }
    python.trace(&passed);
    for id in [passed.as_str(), "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "x"] {
        let (status, said) = python.ask(&format!("/quarantine/{id}"));
        assert_eq!(
            (status, said.as_str()),
            (404, r#"{"detail":"Quarantine session not found"}"#),
            "{id}"
        );
    }
    drop(python);
    fs::write(&settings, "policy: {profile: python, trust_threshold: 2}\n").unwrap();
    let mut command = command(folder.path(), &url, &manifest("trusted", "temporary"));
    let output = command.arg("--config").arg(&settings).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}
