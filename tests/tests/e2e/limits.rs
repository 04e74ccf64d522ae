use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use harness::{Connection, Running, get, post, raw, wait_for};
use serde_json::json;

const SIGN: &[u8] = b"{\"payload\":{},\"intent\":\"a\"}";

/// A sidecar with a socket for each of two agents beside the one for all.
fn start(config: &str) -> (Running, [PathBuf; 2]) {
    let sockets = "[[sockets]]\nname = \"one\"\npath = \"run/one.sock\"\n[[sockets]]\nname = \"two\"\npath = \"run/two.sock\"\n";
    let policy = |state: &qemu_dev::State| {
        state
            .development_policy(&[("agent", "did:key", "EdDSA")])
            .unwrap()
    };
    let running = Running::prepared(policy, &format!("{config}{sockets}"), &[]);
    let sockets =
        ["one", "two"].map(|name| running.folder().join("run").join(format!("{name}.sock")));
    (running, sockets)
}

fn metrics(running: &Running) -> String {
    String::from_utf8(get(&running.socket, "/metrics").unwrap().body).unwrap()
}

#[test]
fn a_caller_that_asks_too_often_waits_and_others_do_not() {
    let (running, [one, two]) = start("[limits]\nrequests_per_second = 1\nburst = 100\n");
    let sign = raw("/sign", Some(SIGN));
    let mut greedy = Connection::open(&one).unwrap();
    let answers: Vec<_> = (0..105).map(|_| greedy.request(&sign).unwrap()).collect();
    let signed = answers.iter().filter(|answer| answer.status == 200).count();
    assert!(
        (100..105).contains(&signed),
        "a burst, and what came anew meanwhile: {signed}"
    );
    // One more may have come anew just now.
    let limited = |request: &[u8]| {
        let mut again = Connection::open(&one).unwrap();
        let answers = (0..5)
            .map(|_| again.request(request).unwrap())
            .find(|answer| answer.code() == "too_many_requests");
        answers.expect("it is limited")
    };
    let refused = limited(&sign);
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("retry-after").unwrap(), "1");
    // Neither another connection nor another path helps it; a caller that has a socket of its own does
    // not notice.
    limited(&raw("/verify", Some(b"{\"document\":\"AA\"}")));
    let form = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=x&subject_token_type=urn:ietf:params:oauth:token-type:jwt";
    let request = format!(
        "POST /token HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    );
    let refused = limited(request.as_bytes());
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    let mut modest = Connection::open(&two).unwrap();
    assert_eq!(modest.request(&sign).unwrap().status, 200);
    assert!(metrics(&running).contains("anchorhold_limited_total{limit=\"requests\"}"));
    // It was only to wait.
    wait_for(|| {
        post(&one, "/sign", &json!({"payload": {}, "intent": "a"}))
            .unwrap()
            .status
            == 200
    });
}

#[test]
fn a_caller_with_too_many_connections_is_told_so_and_others_are_let_in() {
    let (running, [one, two]) = start("[limits]\nconnections = 4\n");
    let health = raw("/health", None);
    let mut held: Vec<Connection> = (0..4).map(|_| Connection::open(&one).unwrap()).collect();
    held.iter_mut()
        .for_each(|connection| assert_eq!(connection.request(&health).unwrap().status, 200));
    let mut more = Connection::open(&one).unwrap();
    let answer = more.request(&health).unwrap();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (429, "too_many_connections")
    );
    assert_eq!(answer.header("connection").unwrap(), "close");
    assert!(more.request(&health).is_err(), "it was closed");
    assert_eq!(get(&two, "/health").unwrap().status, 200);
    assert!(metrics(&running).contains("anchorhold_limited_total{limit=\"connections\"}"));
    drop(held);
    wait_for(|| get(&one, "/health").unwrap().status == 200);
}

#[test]
fn who_connects_too_often_is_told_so_before_anything_is_found_out_about_it() {
    let (_running, [one, two]) = start("[limits]\nrequests_per_second = 20\nburst = 100\n");
    let answers: Vec<_> = (0..300).map(|_| get(&one, "/health").unwrap()).collect();
    assert!(
        answers
            .iter()
            .any(|answer| answer.code() == "too_many_connections")
    );
    assert_eq!(get(&two, "/health").unwrap().status, 200);
}

#[test]
fn a_caller_that_does_not_read_its_answers_is_given_up() {
    let (running, [one, _]) = start("[limits]\nrequests_per_second = 0\n");
    let open = |running: &Running| {
        let text = metrics(running);
        let line = text
            .lines()
            .find(|line| line.starts_with("anchorhold_connections "))
            .unwrap()
            .to_owned();
        line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()
    };
    let mut deaf = UnixStream::connect(&one).unwrap();
    deaf.set_write_timeout(Some(std::time::Duration::from_secs(1)))
        .unwrap();
    let request = raw("/openapi.json", None).repeat(64);
    while deaf.write_all(&request).is_ok() {}
    assert_eq!(open(&running), 2, "itself and who asks");
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", running.sidecar.pid())).unwrap();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .to_owned();
    assert!(
        resident.parse::<u32>().unwrap() < 64 * 1024,
        "{resident} KiB"
    );
    // Half a minute.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while open(&running) > 1 {
        assert!(std::time::Instant::now() < deadline, "it keeps its place");
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
}

#[test]
fn metrics_are_for_those_who_run_the_sidecar() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let tokens = [("crew", "c".repeat(32)), ("prometheus", "p".repeat(32))];
    let policy = |state: &qemu_dev::State| {
        for (name, token) in &tokens {
            let file = state.folder().join(format!("{name}.token"));
            std::fs::write(&file, token).unwrap();
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))
                .unwrap();
        }
        let text = state
            .development_policy(&[("agent", "did:key", "EdDSA")])
            .unwrap();
        text.replacen("callers = { ", "callers = { names = [\"crew\"], ", 1)
    };
    let config = format!(
        "[localhost]\nlisten = \"127.0.0.1:{port}\"\n\
         [[localhost.callers]]\nname = \"crew\"\ntoken_file = \"crew.token\"\n\
         [[localhost.callers]]\nname = \"prometheus\"\ntoken_file = \"prometheus.token\"\noperator = true\n"
    );
    let running = Running::prepared(policy, &config, &[]);
    let ask = |path: &str, token: &str| {
        use std::io::Read;
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nhost: localhost:{port}\r\nauthorization: Bearer {token}\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let [crew, prometheus] = tokens.each_ref().map(|(_, token)| token.as_str());
    let refused = ask("/metrics", crew);
    assert!(
        refused.starts_with("HTTP/1.0 403") && refused.contains("caller_not_allowed"),
        "{refused}"
    );
    assert!(
        ask("/ready", crew).starts_with("HTTP/1.0 200"),
        "an agent may know whether it can sign"
    );
    assert!(ask("/metrics", prometheus).starts_with("HTTP/1.0 200"));
    assert!(
        ask("/identity", prometheus).starts_with("HTTP/1.0 403"),
        "and nothing else is its own"
    );
    assert_eq!(get(&running.socket, "/metrics").unwrap().status, 200);
}

#[test]
fn what_is_unusual_is_counted_by_identity() {
    let policy = |state: &qemu_dev::State| {
        let text = state
            .development_policy(&[
                ("first", "did:key", "EdDSA"),
                ("second", "did:key", "EdDSA"),
            ])
            .unwrap();
        text.replacen("actions = [\"*\"]", "actions = [\"read\"]", 1)
    };
    let running = Running::prepared(policy, "", &[]);
    let sign = |identity: &str, action: &str, resource: &str| {
        let intent = json!({"action": action, "target": "t", "resource": resource});
        post(
            &running.socket,
            "/sign",
            &json!({"payload": {}, "intent": intent, "identity": identity}),
        )
        .unwrap()
        .status
    };
    for resource in ["urn:a", "urn:b", "urn:a", "urn:c", "urn:c"] {
        assert_eq!(sign("first", "read", resource), 200);
    }
    assert_eq!(sign("second", "read", "urn:a"), 200);
    for _ in 0..2 {
        assert_eq!(sign("first", "write", "urn:d"), 403);
    }
    assert_eq!(sign("made-up", "read", "urn:a"), 404);
    let text = metrics(&running);
    for line in [
        "anchorhold_new_resources_total{identity=\"first\"} 3",
        "anchorhold_new_resources_total{identity=\"second\"} 1",
        "anchorhold_signatures_total{identity=\"first\",format=\"vouch-jwt\"} 5",
        "anchorhold_denials_total{identity=\"first\",code=\"intent_action_not_in_allowlist\"} 2",
        "anchorhold_denials_total{identity=\"unknown\",code=\"unknown_identity\"} 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(
        !text.contains("made-up"),
        "nothing that a caller chose becomes a label"
    );
}

#[test]
fn alerts_name_metrics_that_there_are() {
    let (running, [one, _]) = start("[limits]\nrequests_per_second = 20\n");
    let mut connection = Connection::open(&one).unwrap();
    assert_eq!(
        connection
            .request(&raw("/sign", Some(SIGN)))
            .unwrap()
            .status,
        200
    );
    let denied = connection.request(&raw(
        "/sign",
        Some(b"{\"payload\":{},\"intent\":\"a\",\"identity\":\"b\"}"),
    ));
    assert_eq!(denied.unwrap().code(), "unknown_identity");
    while connection
        .request(&raw("/sign", Some(SIGN)))
        .unwrap()
        .status
        == 200
    {}
    let text = metrics(&running);
    let rules = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/prometheus/anchorhold.rules.yaml"
    ))
    .unwrap();
    let words = rules.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let named: std::collections::BTreeSet<&str> = words
        .filter(|word| word.starts_with("anchorhold_"))
        .collect();
    assert!(named.len() >= 7, "{named:?}");
    for name in named {
        let family = name.strip_suffix("_total").unwrap_or(name);
        assert!(
            text.contains(&format!("# TYPE {family} ")),
            "{name} is no metric:\n{text}"
        );
    }
}
