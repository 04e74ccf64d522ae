use std::time::{Duration, Instant};

use harness::{Answer, Connection, Running, get, post, raw};
use serde_json::json;

fn sign(running: &Running, body: &[u8]) -> Answer {
    Connection::open(&running.socket)
        .unwrap()
        .request(&raw("/sign", Some(body)))
        .unwrap()
}

/// Every answer is a problem of RFC 9457, and the sidecar signs on afterwards.
fn refused(running: &Running, body: &[u8], status: u16, code: &str) {
    let answer = sign(running, body);
    let shown: String = String::from_utf8_lossy(body).chars().take(80).collect();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (status, code),
        "{shown}\n{}",
        String::from_utf8_lossy(&answer.body)
    );
    assert_eq!(
        answer.header("content-type").as_deref(),
        Some("application/problem+json")
    );
    assert_eq!(
        answer.json()["type"],
        format!("urn:anchorhold:error:{code}")
    );
    assert_eq!(answer.json()["status"], status);
}

#[test]
fn bodies_of_the_wrong_shape_are_refused_and_nothing_is_signed() {
    let running = Running::start();
    let deep = format!(
        "{{\"payload\":{}1{},\"intent\":\"a\"}}",
        "{\"a\":".repeat(1000),
        "}".repeat(1000)
    );
    for (body, status, code) in [
        ("", 400, "json_malformed"),
        ("{\"payload\":{},\"intent\":\"a\"", 400, "json_malformed"),
        ("not json", 400, "json_malformed"),
        ("{\"payload\":{},\"intent\":\"a\"} x", 400, "json_malformed"),
        (&deep, 422, "json_too_deep"),
        ("null", 422, "json_shape"),
        ("[]", 422, "json_shape"),
        ("{}", 422, "json_shape"),
        ("{\"payload\":{}}", 422, "json_shape"),
        ("{\"intent\":\"a\"}", 422, "json_shape"),
        ("{\"payload\":null,\"intent\":\"a\"}", 422, "json_shape"),
        ("{\"payload\":\"x\",\"intent\":\"a\"}", 422, "json_shape"),
        ("{\"payload\":{},\"intent\":\"\"}", 422, "json_shape"),
        ("{\"payload\":{},\"intent\":null}", 422, "json_shape"),
        // The members of an object, in their order, are not that object.
        ("[{\"amount\":1},\"transfer\"]", 422, "json_shape"),
        (
            "{\"payload\":{\"amount\":1},\"intent\":[\"transfer\",\"account_1\",\"https://x\"]}",
            422,
            "json_shape",
        ),
        (
            "{\"payload\":{},\"intent\":\"a\",\"proof\":[\"a.b.c\"]}",
            422,
            "json_shape",
        ),
        (
            "{\"payload\":{},\"intent\":{\"target\":\"t\"}}",
            422,
            "json_shape",
        ),
        (
            "{\"payload\":{},\"intent\":{\"action\":\"a\",\"x\":1}}",
            422,
            "json_shape",
        ),
        (
            "{\"payload\":{},\"intent\":\"a\\u0000\"}",
            422,
            "json_shape",
        ),
        (
            "{\"payload\":{},\"intent\":\"a\",\"seed\":\"x\"}",
            422,
            "json_shape",
        ),
        (
            "{\"payload\":{},\"intent\":\"a\",\"format\":\"raw\"}",
            422,
            "json_shape",
        ),
        (
            "{\"payload\":{},\"intent\":\"a\",\"audience\":7}",
            422,
            "json_shape",
        ),
        (
            "{\"payload\":{},\"intent\":\"a\",\"validity_seconds\":-1}",
            422,
            "json_shape",
        ),
        (
            "{\"payload\":{},\"intent\":\"a\",\"validity_seconds\":\"60\"}",
            422,
            "json_shape",
        ),
        (
            "{\"payload\":{},\"intent\":\"a\",\"validity_seconds\":0}",
            422,
            "validity_invalid",
        ),
        (
            "{\"payload\":{},\"intent\":\"a\",\"validity_seconds\":3601}",
            403,
            "validity_exceeds_policy",
        ),
        (
            "{\"payload\":{},\"intent\":\"a\",\"audience\":\"\"}",
            422,
            "audience_invalid",
        ),
        (
            "{\"payload\":{},\"intent\":\"a\",\"identity\":\"nobody\"}",
            404,
            "unknown_identity",
        ),
        (
            "{\"payload\":{\"x\":1.5},\"intent\":\"a\"}",
            422,
            "json_float",
        ),
        (
            "{\"payload\":{\"x\":9007199254740992},\"intent\":\"a\"}",
            422,
            "json_integer_range",
        ),
        (
            "{\"payload\":{\"x\":123456789012345678901234567890},\"intent\":\"a\"}",
            422,
            "json_integer_range",
        ),
        (
            "{\"payload\":{\"x\":1,\"x\":2},\"intent\":\"a\"}",
            422,
            "json_duplicate_key",
        ),
        (
            "{\"payload\":{},\"payload\":{},\"intent\":\"a\"}",
            422,
            "json_duplicate_key",
        ),
        (
            "{\"payload\":{},\"intent\":\"a\",\"format\":\"vouch-credential\"}",
            422,
            "credential_intent_incomplete",
        ),
    ] {
        refused(&running, body.as_bytes(), status, code);
    }
    refused(&running, &[0xff, 0xfe], 400, "json_malformed");
    let metrics = String::from_utf8(get(&running.socket, "/metrics").unwrap().body).unwrap();
    assert!(
        !metrics.contains("anchorhold_signatures_total{"),
        "nothing was signed"
    );
    assert_eq!(
        sign(&running, b"{\"payload\":{},\"intent\":\"a\"}").status,
        200
    );
}

#[test]
fn a_body_is_bounded_by_size_and_the_largest_one_still_fits_through_the_window() {
    let running = Running::start();
    // Announced as 10 MiB: refused before it is read.
    let mut connection = Connection::open(&running.socket).unwrap();
    connection
        .send(b"POST /sign HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10485760\r\n\r\n")
        .unwrap();
    // The kernel takes some of it; the sidecar never asks for the rest.
    let _ = connection.send(&vec![b' '; 100_000]);
    assert_eq!(connection.read().unwrap().status, 413);

    let largest = 32 * 1024 - r#"{"payload":{"x":""},"intent":"a"}"#.len();
    let body = |length| {
        format!(
            "{{\"payload\":{{\"x\":\"{}\"}},\"intent\":\"a\"}}",
            "x".repeat(length)
        )
    };
    assert_eq!(sign(&running, body(largest).as_bytes()).status, 200);
    refused(
        &running,
        body(largest + 1).as_bytes(),
        413,
        "body_too_large",
    );
    // Members that take more room in the credential than in the request.
    let intent = json!({"action": "a", "target": "t", "resource": "r"});
    let credential = json!({"payload": {"x": "\"".repeat(16_000)}, "intent": intent, "format": "vouch-credential"});
    let answer = post(&running.socket, "/sign", &credential).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.code());
}

#[test]
fn wrong_methods_paths_and_content_types_are_named() {
    let running = Running::start();
    let ask = |bytes: &str| {
        Connection::open(&running.socket)
            .unwrap()
            .request(bytes.as_bytes())
            .unwrap()
    };
    let wrong = ask("GET /sign HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(
        (wrong.status, wrong.code().as_str()),
        (405, "method_not_allowed")
    );
    let wrong = ask("DELETE /identity HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(wrong.status, 405);
    for kind in [
        "",
        "content-type: text/plain\r\n",
        "content-type: application/x-www-form-urlencoded\r\n",
    ] {
        let wrong = ask(&format!(
            "POST /sign HTTP/1.1\r\nhost: x\r\n{kind}content-length: 2\r\n\r\n{{}}"
        ));
        assert_eq!(
            (wrong.status, wrong.code().as_str()),
            (415, "content_type_not_json"),
            "{kind}"
        );
    }
    let good = ask(
        "POST /rotate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: 2\r\n\r\n{}",
    );
    assert_eq!(good.status, 200);
    assert_eq!(
        get(&running.socket, "/nothing").unwrap().code(),
        "not_found"
    );
    assert_eq!(
        get(&running.socket, "/identity?who=me").unwrap().code(),
        "query_invalid"
    );
    assert_eq!(
        get(&running.socket, "/identity?identity=nobody")
            .unwrap()
            .code(),
        "unknown_identity"
    );
    for (nonce, code) in [
        ("", "nonce_size"),
        ("ab", "nonce_size"),
        ("xy", "nonce_not_hex"),
        (&"ab".repeat(65), "nonce_size"),
    ] {
        assert_eq!(
            post(&running.socket, "/attestation", &json!({ "nonce": nonce }))
                .unwrap()
                .code(),
            code,
            "{nonce}"
        );
    }
}

#[test]
fn a_slow_body_is_given_up_and_harms_nobody() {
    let running = Running::start();
    let mut slow = Connection::open(&running.socket).unwrap();
    slow.send(b"POST /sign HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 30\r\n\r\n{").unwrap();
    let begin = Instant::now();
    assert_eq!(
        sign(&running, b"{\"payload\":{},\"intent\":\"a\"}").status,
        200
    );
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "another caller waited for the slow one"
    );
    assert_eq!(slow.read().unwrap().code(), "body_too_slow");
}

#[test]
fn a_slow_head_is_given_up() {
    let running = Running::start();
    let mut slow = Connection::open(&running.socket).unwrap();
    slow.send(b"GET /health HTTP/1.1\r\nho").unwrap();
    let begin = Instant::now();
    // Whatever the sidecar says, it says it and closes; our own patience ends at 30 s as well, so
    // read twice.
    let ended = slow.read().or_else(|_| slow.read());
    assert!(ended.is_err() || ended.is_ok_and(|answer| answer.status == 408));
    assert!(begin.elapsed() < Duration::from_secs(45));
}

#[test]
fn a_thousand_idle_connections_do_not_keep_others_out() {
    let running = Running::unlimited();
    let mut idle: Vec<Connection> = (0..1000)
        .map(|_| Connection::open(&running.socket).unwrap())
        .collect();
    assert_eq!(
        sign(&running, b"{\"payload\":{},\"intent\":\"a\"}").status,
        200
    );
    // Each of them still works.
    assert_eq!(
        idle[999].request(&raw("/health", None)).unwrap().status,
        200
    );
    assert_eq!(idle[0].request(&raw("/health", None)).unwrap().status, 200);
}

#[test]
fn logs_are_json_and_take_no_lines_and_no_payloads_from_callers() {
    let running = Running::prepared(
        |state| {
            state
                .development_policy(&[("agent", "did:key", "EdDSA")])
                .unwrap()
        },
        "log_level = \"debug\"\n",
        &[],
    );
    let secret = "s3cr3t-in-payload";
    let injected = "x\\n{\\\"level\\\":\\\"ERROR\\\",\\\"injected\\\":true}";
    for body in [
        format!("{{\"payload\":{{\"k\":\"{secret}\"}},\"intent\":\"a\"}}"),
        format!(
            "{{\"payload\":{{\"k\":\"{secret}\"}},\"intent\":\"a\",\"identity\":\"{injected}\"}}"
        ),
        format!("{{\"payload\":{{\"{secret}\":1.5}},\"intent\":\"{injected}\"}}"),
    ] {
        sign(&running, body.as_bytes());
    }
    get(
        &running.socket,
        "/%0a%7b%22injected%22:true%7d?x=%0ainjected",
    )
    .unwrap();
    let log = running.log();
    assert!(log.contains("\"refused\""), "{log}");
    assert!(!log.contains(secret) && !log.contains("injected"), "{log}");
    for line in log.lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(line).is_ok(),
            "{line}"
        );
    }
}
