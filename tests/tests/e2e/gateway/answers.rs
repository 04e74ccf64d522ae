//! What the agent answers, and what of it the caller gets.

use std::sync::mpsc;

use super::*;

/// Cards are masked, keys block; in requests, e-mail addresses are masked.
const RULES: &str = "policy:
  block_rules:
    - {name: cards_out, on: response, action: mask, condition: has_credit_card}
    - {name: keys_out, on: response, action: block, condition: has_api_key && path != '/free'}
    - {name: mail_in, action: mask, condition: has_email}
routes:
  - {path: '/files/*', exempt: ['image/*', 'application/json']}
  - {path: /task, request_schema: SCHEMA}
";
const KEY: &str = "AKIAABCDEFGHIJKLMNOP";

fn gateway_of(agent: &Agent) -> (Gateway, tempfile::TempDir) {
    let folder = private_folder();
    let schema = folder.path().join("schema.json");
    let text =
        json!({"type": "object", "required": ["task"], "properties": {"n": {"type": "integer"}}});
    fs::write(&schema, text.to_string()).unwrap();
    let settings = RULES.replace("SCHEMA", schema.to_str().unwrap());
    (Gateway::configured(agent, &settings), folder)
}

fn answer(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// An agent that answers every request so.
fn agent_that(answer: Vec<u8>) -> Agent {
    Agent::that(move |stream, _| stream.write_all(&answer).is_ok())
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Everything that comes until the connection ends; and whether it ended as HTTP says.
fn get_all(gateway: &Gateway, path: &str, headers: &str) -> (String, String, bool) {
    let mut stream = TcpStream::connect(&gateway.address).unwrap();
    let wait = Some(Duration::from_secs(20));
    stream.set_read_timeout(wait).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let is_chunked = header(head, "transfer-encoding").is_some();
    let is_whole = read.is_ok() && (!is_chunked || body.contains("0\r\n"));
    let mut rest = body;
    let mut data = String::new();
    while let Some((size, more)) = rest.split_once("\r\n").filter(|_| is_chunked) {
        let size = usize::from_str_radix(size, 16).unwrap_or(0).min(more.len());
        data.push_str(&more[..size]);
        rest = more.get(size + 2..).unwrap_or("");
        if size == 0 {
            break;
        }
    }
    let data = if is_chunked { data } else { body.to_owned() };
    (head.to_owned(), data, is_whole)
}

#[test]
fn an_answer_is_masked_or_blocked_where_a_rule_says_so() {
    let body = br#"{ "card": 4532015112830366, "mail": "a@b.cd" }"#;
    let masked = r#"{ "card": "[CREDIT_CARD_REDACTED]", "mail": "a@b.cd" }"#;
    let json = "Content-Type: application/json\r\nETag: \"1\"\r\nContent-Digest: sha-256=:AAAA:\r\nDigest: x\r\nAccept-Ranges: bytes\r\n";
    let agent = agent_that(answer(json, body));
    let (gateway, _folder) = gateway_of(&agent);
    let (status, head, sent) = gateway.get("/proxy/a");
    assert_eq!((status, sent.as_str()), (200, masked));
    let of = |name: &str| header(&head, name).unwrap();
    assert_eq!(of("content-length"), masked.len().to_string());
    assert_eq!(of("etag"), "W/\"1\"");
    let digest = identity::sha256(masked.as_bytes());
    let digest = data_encoding::BASE64.encode(digest.as_bytes());
    assert_eq!(of("content-digest"), format!("sha-256=:{digest}:"));
    for gone in ["digest", "accept-ranges"] {
        assert_eq!(header(&head, gone), None, "{gone}");
    }
    let trace = gateway.trace(&of("x-agent-trace-id"));
    wait_for(|| gateway.trace(&of("x-agent-trace-id")).len() == 3);
    let trace = if trace.len() == 3 {
        trace
    } else {
        gateway.trace(&of("x-agent-trace-id"))
    };
    assert_eq!(
        (&trace[2]["type"], &trace[2]["kinds"]),
        (&json!("masked"), &json!(["credit_card"]))
    );
    // Where a rule blocks, nothing of the answer is seen, and it is told apart from a request that was
    // not sent.
    let key = format!("{{\"key\": \"{KEY}\"}}");
    let agent = agent_that(answer(
        "Content-Type: application/json\r\nX-Of: agent\r\n",
        key.as_bytes(),
    ));
    let (gateway, _folder) = gateway_of(&agent);
    let (status, head, sent) = gateway.get("/proxy/a");
    assert_eq!(status, 403);
    let said: Value = serde_json::from_str(&sent).unwrap();
    assert_eq!(
        (&said["blocked"], &said["blocked_by"]),
        (&json!(true), &json!("security_validator"))
    );
    assert!(
        said["error"].as_str().unwrap().contains("keys_out"),
        "{said}"
    );
    assert!(!sent.contains("AKIA") && header(&head, "x-of").is_none());
    let trace_id = header(&head, "x-agent-trace-id").unwrap();
    wait_for(|| gateway.trace(&trace_id).len() == 3);
    let last = gateway.trace(&trace_id)[2].clone();
    assert_eq!(
        (&last["type"], &last["reason"]),
        (&json!("blocked"), &json!("keys_out"))
    );
    assert_eq!(gateway.get("/proxy/free").2, key);
    // Without rules for answers they pass as they come.
    assert_eq!(Gateway::trusted(&agent).get("/proxy/a").2, key);
}

fn event(text: &str) -> String {
    let event = json!({"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]});
    format!("data: {event}\n\n")
}

#[test]
fn a_stream_is_looked_through_as_it_comes() {
    // The agent sends the next part when it is told to.
    let (go, goes) = mpsc::channel::<String>();
    let goes = Mutex::new(goes);
    let agent = Agent::that(move |stream, _| {
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = stream.write_all(head);
        for part in goes.lock().unwrap().iter() {
            if stream
                .write_all(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes())
                .is_err()
            {
                return false;
            }
            if part.is_empty() {
                return true;
            }
        }
        false
    });
    let (gateway, _folder) = gateway_of(&agent);
    let mut stream = TcpStream::connect(&gateway.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
        .write_all(b"GET /proxy/a HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut seen = String::new();
    let mut until = |what: &str| {
        let mut chunk = [0; 4096];
        while !seen.contains(what) {
            let read = stream.read(&mut chunk).unwrap();
            assert!(read > 0, "{seen}");
            seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
        }
        seen.clone()
    };
    go.send(event("the card is ")).unwrap();
    until("the card is");
    // What may become a card waits; what comes behind it as well, and no longer.
    go.send(event(" 4532 0151")).unwrap();
    go.send(event(" 1283 0366, and ")).unwrap();
    let seen_now = until(", and");
    assert!(seen_now.contains("[CREDIT_CARD_REDACTED]"), "{seen_now}");
    assert!(
        !seen_now.contains("4532") && !seen_now.contains("0366"),
        "{seen_now}"
    );
    go.send(event(&format!(" {}", &KEY[..10]))).unwrap();
    go.send(event(" more ")).unwrap();
    until("more");
    go.send(event(&format!(" {}", &KEY[..10]))).unwrap();
    go.send(event(&KEY[10..])).unwrap();
    go.send(event(" behind")).unwrap();
    // The key ends it, without the last chunk.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    let rest = String::from_utf8_lossy(&rest);
    assert!(
        !rest.contains("behind") && !rest.contains("AKIA") && !rest.contains("0\r\n\r\n"),
        "{rest}"
    );
}

#[test]
fn what_is_blocked_in_mid_stream_is_cut_off_and_written_down() {
    for (kind, parts) in [
        (
            "text/event-stream",
            [
                event("one "),
                event(&KEY[..9]),
                event(&KEY[9..]),
                event(" two"),
            ],
        ),
        (
            "text/plain; charset=utf-8",
            [
                "one ".into(),
                KEY[..9].into(),
                KEY[9..].into(),
                " two".into(),
            ],
        ),
        (
            "application/x-ndjson",
            [
                "{\"a\": \"one\"}\n".into(),
                format!("{{\"a\": \"{}", &KEY[..9]),
                format!("{}\"}}\n", &KEY[9..]),
                "{\"a\": \"two\"}\n".into(),
            ],
        ),
    ] {
        for is_gzip in [false, true] {
            let whole = parts.concat();
            let encoding = if is_gzip {
                "Content-Encoding: gzip\r\n"
            } else {
                ""
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{encoding}Transfer-Encoding: chunked\r\n\r\n"
            );
            let parts: Vec<Vec<u8>> = if is_gzip {
                gzip(whole.as_bytes())
                    .chunks(20)
                    .map(<[u8]>::to_vec)
                    .collect()
            } else {
                parts.iter().map(|part| part.clone().into_bytes()).collect()
            };
            let agent = Agent::that(move |stream, _| {
                let _ = stream.write_all(head.as_bytes());
                for part in parts.iter().map(Vec::as_slice).chain([&b""[..]]) {
                    let chunk =
                        [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
                    if stream.write_all(&chunk).is_err() {
                        return false;
                    }
                }
                true
            });
            let (gateway, _folder) = gateway_of(&agent);
            let (head, data, is_whole) = get_all(&gateway, "/proxy/a", "Accept-Encoding: gzip\r\n");
            assert!(
                !is_whole && !data.contains("AKIA") && !data.contains("two"),
                "{kind} {data}"
            );
            let trace_id = header(&head, "x-agent-trace-id").unwrap();
            wait_for(|| gateway.trace(&trace_id).len() == 3);
            let last = gateway.trace(&trace_id)[2].clone();
            assert_eq!(
                (&last["type"], &last["reason"]),
                (&json!("blocked"), &json!("keys_out"))
            );
            // Where it is allowed, it is whole, and every byte is there.
            let (head, data, is_whole) =
                get_all(&gateway, "/proxy/free", "Accept-Encoding: gzip\r\n");
            assert!(is_whole, "{kind}");
            assert_eq!(data, whole);
            assert_eq!(header(&head, "content-encoding"), None);
        }
    }
}

#[test]
fn an_answer_that_cannot_be_looked_through_is_not_passed_on() {
    let json = "Content-Type: application/json\r\n";
    let long = format!("\"{}\"", "a".repeat(10 * 1024 * 1024));
    let zeros = gzip(&vec![b' '; 50 * 1024 * 1024]);
    let gzipped = format!("{json}Content-Encoding: gzip\r\n");
    for (what, answer) in [
        ("bytes", answer("Content-Type: application/octet-stream\r\n", b"x")),
        ("no type", answer("", b"x")),
        ("two types", answer(&format!("{json}{json}"), b"{}")),
        ("another charset", answer("Content-Type: text/plain; charset=utf-16\r\n", b"x")),
        ("no JSON", answer(json, b"{")),
        ("too long", answer(json, long.as_bytes())),
        ("another encoding", answer(&format!("{json}Content-Encoding: br\r\n"), b"x")),
        ("no gzip", answer(&gzipped, b"{}")),
        ("a bomb", answer(&gzipped, &zeros)),
        ("a part", format!("HTTP/1.1 206 Partial\r\n{json}Content-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\n{{}}").into_bytes()),
        ("another protocol", b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".to_vec()),
        ("half of it", [&answer(json, b"{}")[..answer(json, b"{}").len() - 1]].concat()),
    ] {
        let is_half = what == "half of it";
        let agent = Agent::that(move |stream, _| stream.write_all(&answer).is_ok() && !is_half);
        let (gateway, _folder) = gateway_of(&agent);
        let (status, head, body) = gateway.get("/proxy/a");
        assert_eq!(status, 502, "{what} {body}");
        let trace_id = header(&head, "x-agent-trace-id").unwrap();
        wait_for(|| gateway.trace(&trace_id).iter().any(|line| line["type"] == "error"));
        // It goes on.
        assert_eq!(gateway.get("/health").0, 200, "{what}");
    }
    // On a route that says so, and without a body, they pass.
    let card = br#"{"card": 4532015112830366}"#;
    let agent = agent_that(answer(json, card));
    let (gateway, _folder) = gateway_of(&agent);
    assert_eq!(gateway.get("/proxy/files/a").2.as_bytes(), card);
    assert!(gateway.get("/proxy/files%2Fa").2.contains("REDACTED"));
    let (status, head, _) =
        gateway.send(b"HEAD /proxy/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(
        (status, header(&head, "content-length").unwrap().as_str()),
        (200, "26")
    );
    // The agent is asked for what can be looked through.
    let ranged = "GET /proxy/a HTTP/1.1\r\nHost: a\r\nRange: bytes=0-9\r\nIf-Range: \"1\"\r\nConnection: close\r\n";
    gateway.send(format!("{ranged}Accept-Encoding: br, gzip\r\n\r\n").as_bytes());
    gateway.send(format!("{ranged}Accept-Encoding: br\r\n\r\n").as_bytes());
    let seen = agent.seen();
    for (request, encoding) in seen[seen.len() - 2..].iter().zip(["gzip", "identity"]) {
        assert_eq!(header(request, "accept-encoding").unwrap(), encoding);
        assert_eq!(
            (header(request, "range"), header(request, "if-range")),
            (None, None)
        );
    }
}

#[test]
fn an_answer_in_gzip_is_looked_through_and_passes_as_it_came_if_nothing_is_in_it() {
    let headers = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
    let clean = gzip(br#"{"a": "1234"}"#);
    let answers = agent_that(answer(headers, &clean));
    let (gateway, _folder) = gateway_of(&answers);
    let mut stream = TcpStream::connect(&gateway.address).unwrap();
    stream.write_all(b"GET /proxy/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAccept-Encoding: gzip\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert!(bytes.ends_with(&clean));
    let agent = agent_that(answer(headers, &gzip(br#"{"a": "4532-0151-1283-0366"}"#)));
    let (gateway, _folder) = gateway_of(&agent);
    let (_, head, body) = gateway.get("/proxy/a");
    assert_eq!(body, r#"{"a": "[CREDIT_CARD_REDACTED]"}"#);
    assert_eq!(header(&head, "content-encoding"), None);
}

#[test]
fn a_request_is_masked_validated_and_unpacked_where_the_settings_say_so() {
    let agent = agent_that(answer("Content-Type: application/json\r\n", b"{}"));
    let (gateway, _folder) = gateway_of(&agent);
    let body = r#"{"to": "a@b.cd", "card": "4532-0151-1283-0366"}"#;
    let digest = "Content-Digest: sha-256=:AAAA:\r\n";
    assert_eq!(gateway.post(digest, body).0, 200);
    let sent = agent.seen().pop().unwrap();
    let masked = r#"{"to": "[EMAIL_REDACTED]", "card": "4532-0151-1283-0366"}"#;
    assert!(sent.ends_with(masked), "{sent}");
    let digest = identity::sha256(masked.as_bytes());
    let digest = data_encoding::BASE64.encode(digest.as_bytes());
    assert_eq!(
        header(&sent, "content-digest").unwrap(),
        format!("sha-256=:{digest}:")
    );
    // In a path or a query it cannot be masked.
    for path in ["/proxy/a@b.cd", "/proxy/a?q=a%40b.cd"] {
        assert_eq!(gateway.get(path).0, 403, "{path}");
    }
    // gzip is looked through; it passes as it came, or masked and unpacked.
    let send = |path: &str, headers: &str, body: &[u8]| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        gateway.send(&[head.as_bytes(), body].concat()).0
    };
    let json = "Content-Type: application/json\r\n";
    let zipped = format!("{json}Content-Encoding: gzip\r\n");
    assert_eq!(send("/proxy/a", &zipped, &gzip(body.as_bytes())), 200);
    let sent = agent.seen().pop().unwrap();
    assert!(
        sent.ends_with(masked) && header(&sent, "content-encoding").is_none(),
        "{sent}"
    );
    assert_eq!(send("/proxy/a", &zipped, &gzip(b"{}")), 200);
    let sent = agent.seen().pop().unwrap();
    assert_eq!(header(&sent, "content-encoding").unwrap(), "gzip");
    let reached = agent.seen().len();
    let bomb = gzip(&vec![b' '; 50 * 1024 * 1024]);
    assert_eq!(send("/proxy/a", &zipped, &bomb), 413);
    // A schema holds for its route.
    for (body, status) in [
        (&b"{\"task\": 1}"[..], 200),
        (b"{}", 400),
        (b"{\"task\": 1, \"n\": \"x\"}", 400),
        (b"", 400),
    ] {
        assert_eq!(send("/proxy/task", json, body), status, "{body:?}");
        for path in ["/proxy/%74ask", "/proxy/task/", "/proxy/task;a=b"] {
            assert_eq!(send(path, json, body), status, "{path} {body:?}");
        }
        assert_eq!(send("/proxy/other", json, body), 200);
    }
    assert_eq!(
        send(
            "/proxy/task",
            "Content-Type: text/plain\r\n",
            b"{\"task\": 1}"
        ),
        400
    );
    // What is exempt passes unseen, and of it nothing is written.
    let before = agent.seen().len();
    assert_eq!(before, reached + 8);
    assert_eq!(
        send(
            "/proxy/files/x",
            "Content-Type: image/png\r\nX-Agent-Trace-ID: 6ba7b810-9dad-11d1-80b4-00c04fd430c8\r\n",
            b"\x89a@b.cd"
        ),
        200
    );
    assert!(agent.seen().pop().unwrap().ends_with("a@b.cd"));
    let trace = gateway.trace("6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    assert_eq!(trace[0]["payload"], "[NOT_LOOKED_THROUGH]");
    // Where another reader may find another place, nothing is.
    for path in [
        "/proxy/files%2Fx",
        "/proxy/files%2fx",
        "/proxy/files//x",
        "/proxy/files/;/x",
    ] {
        assert_eq!(
            send(path, "Content-Type: image/png\r\n", b"\x89"),
            415,
            "{path}"
        );
    }
    assert_eq!(
        send("/proxy/files/a%20b", "Content-Type: image/png\r\n", b"\x89"),
        200
    );
    assert_eq!(
        send("/proxy/other", "Content-Type: image/png\r\n", b"\x89"),
        415
    );
}

#[test]
fn what_some_readers_take_for_json_is_looked_through_as_json() {
    let body = "\u{feff}{\"a\": \"\\u0034532015112830366\"}";
    let answers = agent_that(answer("Content-Type: text/plain\r\n", body.as_bytes()));
    let (gateway, _folder) = gateway_of(&answers);
    let (_, masked, _) = get_all(&gateway, "/proxy/a", "");
    assert!(masked.contains("[CREDIT_CARD_REDACTED]"), "{masked}");
    // A rule that masks whatever it is.
    let settings = "policy:\n  block_rules:\n    - {name: all, on: response, action: mask, condition: \"trust_level == 'trusted'\"}\n    - {name: cards, action: block, condition: has_credit_card}\n";
    let gateway = Gateway::configured(&answers, settings);
    let (_, masked, _) = get_all(&gateway, "/proxy/a", "");
    assert!(masked.contains("[CREDIT_CARD_REDACTED]"), "{masked}");
    let request = format!(
        "POST /proxy/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(gateway.send(request.as_bytes()).0, 403);
}

#[test]
fn trailers_pass_both_ways() {
    let agent = Agent::that(|stream, _| {
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n";
        stream.write_all(answer.as_bytes()).is_ok()
    });
    let (masking, _folder) = gateway_of(&agent);
    for gateway in [Gateway::trusted(&agent), masking] {
        let mut stream = TcpStream::connect(&gateway.address).unwrap();
        let request =
            "GET /proxy/a HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let seen = agent.seen().pop().unwrap();
        assert_eq!(header(&seen, "te").unwrap(), "trailers");
        assert!(
            text.to_ascii_lowercase().ends_with("0\r\nx-sum: 7\r\n\r\n"),
            "{text}"
        );
    }
}
