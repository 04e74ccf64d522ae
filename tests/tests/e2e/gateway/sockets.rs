//! WebSockets: with the server and the client of PyPI's `websockets`, and byte by byte.

use super::calls::Called;
use super::*;

/// The server of `websockets`.
fn talking() -> Option<Called> {
    Called::that("socket_agent.py")
}

/// What the client of `websockets` says of this path.
fn ask(called: &Called, gateway: &Gateway, path: &str, more: &Value) -> Value {
    let mut input = json!({"url": format!("ws://{}/proxy{path}", gateway.address)});
    let more = more.as_object().unwrap().clone();
    input.as_object_mut().unwrap().extend(more);
    called.ask_with("socket_client.py", &input)
}

fn closed(code: u16, reason: &str) -> Value {
    json!({"code": code, "reason": reason})
}

const TRACE: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
const RULES: &str = "routes: [{path: /bytes, exempt: [application/octet-stream]}]\n\
    policy:\n  block_rules:\n    - {name: no_ssn, condition: has_ssn, action: block}\n    \
    - {name: no_iban, condition: has_iban, action: warn}\n    \
    - {name: cards, condition: has_credit_card, action: mask}\n    \
    - {name: cards_back, on: response, condition: has_credit_card, action: mask}\n    \
    - {name: no_mail_back, on: response, condition: has_email, action: block}\n";

#[test]
fn both_sides_of_a_websocket_hear_each_other() {
    let Some(called) = talking() else {
        return;
    };
    let gateway = Gateway::configured(&called.agent, RULES);
    let headers = json!({"X-Agent-Trace-ID": TRACE, "X-User-Override": "x", "X-Kept": "1"});
    let more = json!({
        "headers": headers,
        "subprotocols": ["another", "chat"],
        "say": ["hello", "ping", {"long": 5_000_000}, "pay 4532015112830366", "card", "bye"],
        "ping": true,
    });
    let said = ask(&called, &gateway, "/talk?a=b", &more);
    let heard = json!([
        "to hello",
        "pong",
        5_000_003,
        "to pay [CREDIT_CARD_REDACTED]",
        "{\"note\": \"pay with [CREDIT_CARD_REDACTED]\"}"
    ]);
    assert_eq!(said["heard"], heard);
    assert_eq!(said["subprotocol"], "chat");
    assert_eq!(said["headers"]["x-agent-trace-id"], TRACE);
    assert_eq!(said["headers"]["sec-websocket-extensions"], Value::Null);
    assert_eq!(said["closed"], closed(4001, "as you say"));
    let seen = called.seen();
    assert_eq!(seen[0]["path"], "/talk?a=b");
    assert_eq!(seen[0]["headers"]["x-kept"], "1");
    assert_eq!(seen[0]["headers"]["x-agent-trace-id"], TRACE);
    for gone in ["x-user-override", "sec-websocket-extensions"] {
        assert_eq!(seen[0]["headers"][gone], Value::Null, "{gone}");
    }
    assert_eq!(seen[4]["message"], "pay [CREDIT_CARD_REDACTED]");
    // The agent is answered, too, when it closes.
    wait_for(|| called.seen().last().unwrap()["closed"] == 4001);

    let lines = gateway.trace(TRACE);
    wait_for(|| {
        gateway
            .trace(TRACE)
            .iter()
            .any(|line| line["type"] == "closed")
    });
    let told: Vec<String> = gateway
        .trace(TRACE)
        .iter()
        .map(|line| match line["type"].as_str().unwrap() {
            "message" => line["payload"].as_str().unwrap().chars().take(40).collect(),
            "closed" => format!("closed {}", line["code"]),
            other => other.to_owned(),
        })
        .collect();
    let long = "x".repeat(40);
    assert_eq!(
        told,
        [
            "request",
            "response",
            "hello",
            "ping",
            &long,
            "pay [CREDIT_CARD_REDACTED]",
            "masked",
            "card",
            "masked",
            "bye",
            "closed 4001"
        ]
    );
    let digest = identity::sha256(b"hello").to_string();
    assert_eq!(lines[2]["digest"], digest);
    let digest = identity::sha256(b"pay [CREDIT_CARD_REDACTED]").to_string();
    assert_eq!(gateway.trace(TRACE)[5]["digest"], digest);
}

#[test]
fn each_message_is_judged_by_itself() {
    let Some(called) = talking() else {
        return;
    };
    let gateway = Gateway::configured(&called.agent, RULES);
    let long = json!({"long": 10_485_761});
    let bytes = json!({"hex": "00ff"});
    let unread = "a binary message cannot be looked through, and this path is not exempt";
    let unread_back = "the agent answered, and its answer cannot be looked through: binary messages cannot be looked through";
    for (path, message, wanted) in [
        (
            "/a",
            json!("ssn 123-45-6789"),
            closed(1008, "blocked by the rule no_ssn"),
        ),
        (
            "/a",
            json!("{\"to\": \"DE89 3704 0044 0532 0130 00\"}"),
            closed(1008, "the rule no_iban warns"),
        ),
        (
            "/a",
            json!("me@home.example"),
            closed(
                1008,
                "the agent answered, and the rule no_mail_back blocks its answer",
            ),
        ),
        ("/a", bytes.clone(), closed(1003, unread)),
        // Binary messages of the agent's, where a rule speaks of answers.
        ("/a", json!("bytes"), closed(1011, unread_back)),
        (
            "/a",
            json!("close card"),
            closed(4002, "[CREDIT_CARD_REDACTED]"),
        ),
        (
            "/a",
            long,
            closed(
                1009,
                "Space limit exceeded: Message too long: 10485761 > 10485760",
            ),
        ),
    ] {
        let before = called.seen().len();
        let said = ask(&called, &gateway, path, &json!({"say": [message]}));
        assert_eq!(said["closed"], wanted, "{message}");
        assert_eq!(said["heard"], json!([]), "{message}");
        wait_for(|| {
            called.seen()[before..]
                .iter()
                .any(|line| line["closed"] != Value::Null)
        });
        // What is refused on its way did not get there.
        let reached = called.seen()[before..]
            .iter()
            .filter(|line| line["message"] != Value::Null)
            .count();
        let answered = wanted["code"] != 1003
            && wanted["code"] != 1009
            && !wanted["reason"].as_str().unwrap().contains("no_ssn")
            && !wanted["reason"].as_str().unwrap().contains("no_iban");
        assert_eq!(reached, usize::from(answered), "{message}");
    }
    let said = ask(
        &called,
        &gateway,
        "/bytes",
        &json!({"say": ["bytes", bytes]}),
    );
    assert_eq!(said["heard"], json!([{"hex": "00ff"}, {"hex": "00ff"}]));
    // What the agent answers instead of agreeing is its answer.
    let said = ask(&called, &gateway, "/no", &json!({}));
    assert_eq!(
        (&said["status"], &said["body"]),
        (&json!(401), &json!("not you\n"))
    );
    // Where no rule speaks of answers they pass as they come.
    let plain = Gateway::configured(&called.agent, "{}");
    let said = ask(&called, &plain, "/a", &json!({"say": ["bytes", "card"]}));
    assert_eq!(
        said["heard"],
        json!([{"hex": "00ff"}, "{\"note\": \"pay with \\u0034532-0151-1283-0366\"}"])
    );
}

#[test]
fn a_websocket_to_an_agent_of_low_trust_is_overridden_as_a_whole() {
    let Some(called) = talking() else {
        return;
    };
    let folder = private_folder();
    let secret = folder.path().join("secret");
    fs::write(&secret, SECRET).unwrap();
    let file = folder.path().join("iatp.yaml");
    let policy = format!(
        "policy: {{override_secret_file: {}, block_rules: [{{name: no_iban, condition: has_iban, action: warn}}]}}\n",
        secret.display()
    );
    fs::write(&file, policy).unwrap();
    let url = format!("http://{}", called.agent.address);
    let more = ["--config", file.to_str().unwrap()];
    let gateway = Gateway::start(&url, &manifest("untrusted", "ephemeral"), &more);
    let iban = json!(["DE89 3704 0044 0532 0130 00"]);
    let said = ask(&called, &gateway, "/a", &json!({"say": iban}));
    assert_eq!(said["status"], 449);
    let headers = json!({"X-User-Override": SECRET});
    let said = ask(
        &called,
        &gateway,
        "/a",
        &json!({"say": iban, "headers": headers}),
    );
    assert_eq!(said["heard"], json!(["to DE89 3704 0044 0532 0130 00"]));
}

/// A frame of a caller's (RFC 6455 section 5.2).
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length => {
            frame.push(0xff);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

const ASK: &str = "GET /proxy/a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A connection that became a WebSocket.
fn opened(gateway: &Gateway) -> TcpStream {
    let mut stream = TcpStream::connect(&gateway.address).unwrap();
    stream.write_all(ASK.as_bytes()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    // The answer to the key in RFC 6455 section 1.3.
    let accept = header(&head, "sec-websocket-accept").unwrap();
    assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    stream
}

/// First byte and payload of the next frame; none at the end.
fn next(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    let length = match head[1] {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length).ok()?;
            usize::from(u16::from_be_bytes(length))
        }
        length => usize::from(length),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).ok()?;
    Some((head[0], payload))
}

#[test]
fn frames_that_break_the_protocol_end_it_with_their_code() {
    let Some(called) = talking() else {
        return;
    };
    let gateway = Gateway::configured(&called.agent, RULES);
    let mut unmasked = frame(0x81, b"hello");
    unmasked[1] &= 0x7f;
    let card = [
        frame(0x01, b"pay 4532015"),
        frame(0x89, b"ping"),
        frame(0x80, b"112830366"),
    ]
    .concat();
    for (what, bytes, code) in [
        ("unmasked", unmasked, 1002),
        ("compressed", frame(0xc1, b"hello"), 1002),
        ("an opcode that is none", frame(0x83, b"hello"), 1002),
        ("a continuation of nothing", frame(0x80, b"hello"), 1002),
        ("a long ping", frame(0x89, &[b'x'; 126]), 1002),
        ("not UTF-8", frame(0x81, b"\xff"), 1007),
        (
            "a number in two frames",
            [card, frame(0x88, &4003_u16.to_be_bytes())].concat(),
            4003,
        ),
    ] {
        let before = called.seen().len();
        let mut stream = opened(&gateway);
        stream.write_all(&bytes).unwrap();
        let (first, payload) = loop {
            let (first, payload) = next(&mut stream).unwrap_or_else(|| panic!("{what}"));
            if first == 0x88 {
                break (first, payload);
            }
        };
        assert_eq!(
            (first, u16::from_be_bytes([payload[0], payload[1]])),
            (0x88, code),
            "{what}"
        );
        wait_for(|| {
            called.seen()[before..]
                .iter()
                .any(|line| line["closed"] != Value::Null)
        });
        let heard: Vec<Value> = called.seen()[before..]
            .iter()
            .map(|line| line["message"].clone())
            .filter(|it| !it.is_null())
            .collect();
        let wanted = if code == 4003 {
            json!(["pay [CREDIT_CARD_REDACTED]"])
        } else {
            json!([])
        };
        assert_eq!(json!(heard), wanted, "{what}");
    }
}

#[test]
fn only_a_whole_handshake_is_passed_on() {
    let agent = Agent::start(OK);
    let gateway = Gateway::trusted(&agent);
    let with = |name: &str, line: &str| {
        let lines: Vec<&str> = ASK
            .trim_end()
            .lines()
            .filter(|it| !it.starts_with(name))
            .collect();
        format!("{}\r\n{line}\r\n", lines.join("\r\n")).replace("\r\n\r\n", "\r\n") + "\r\n"
    };
    for (request, status) in [
        (with("Upgrade", "Upgrade: h2c"), 501),
        (with("Upgrade", "Upgrade: websocket, h2c"), 501),
        (with("Upgrade", "Upgrade: websocket\r\nUpgrade: h2c"), 501),
        (with("Connection", "Connection: close"), 400),
        (
            with("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"),
            426,
        ),
        (with("Sec-WebSocket-Version", ""), 426),
        (
            with("Sec-WebSocket-Key", "Sec-WebSocket-Key: c2hvcnQ="),
            400,
        ),
        (with("Sec-WebSocket-Key", ""), 400),
        (
            with("X", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
            400,
        ),
        (with("X", "Content-Length: 0"), 400),
        (with("X", "Content-Length: 5"), 400),
        (with("X", "Transfer-Encoding: chunked") + "0\r\n\r\n", 400),
        (with("Host", ""), 400),
        (with("X", "Host: b"), 400),
        (with("X", "Origin: https://evil.example"), 403),
        (
            with("GET", "").replacen("\r\n", "", 0).replacen(
                "Host",
                "POST /proxy/a HTTP/1.1\r\nHost",
                1,
            ),
            400,
        ),
        (ASK.replace("HTTP/1.1", "HTTP/1.0"), 400),
        (ASK.replace("/proxy/a", "/proxy/../a"), 400),
        (
            ASK.replace("/proxy/a", "/proxy/a?card=4532015112830366"),
            200,
        ),
    ] {
        let (got, head, _) = gateway.send(request.as_bytes());
        assert_eq!(got, status, "{request}");
        if status == 426 {
            assert_eq!(header(&head, "sec-websocket-version").unwrap(), "13");
        }
        assert_eq!(agent.seen().len(), usize::from(status == 200), "{request}");
    }
    let seen = agent.seen().pop().unwrap();
    // The agent is asked with a key of the gateway's own.
    let key = header(&seen, "sec-websocket-key").unwrap();
    assert!(
        key.len() == 24 && key != "dGhlIHNhbXBsZSBub25jZQ==",
        "{seen}"
    );
}

/// What comes after the handshake, and before the agent has agreed, is neither sent to it nor taken for
/// a message; and the agent agrees in one way only.
#[test]
fn nothing_passes_before_the_agent_has_agreed() {
    for (lines, status) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200),
        ("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", 403),
        (
            "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            502,
        ),
        (
            "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n",
            502,
        ),
        (
            "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ACCEPT\r\n\r\n",
            502,
        ),
        (
            "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            502,
        ),
        (
            "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
            502,
        ),
        (
            "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
            502,
        ),
    ] {
        let after = Arc::new(Mutex::new(Vec::new()));
        let (heard, answer) = (Arc::clone(&after), lines.to_owned());
        let agent = Agent::that(move |stream, request| {
            let key = header(request, "sec-websocket-key").unwrap();
            let digest = aws_lc_rs::digest::digest(
                &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
                format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
            );
            let accept = data_encoding::BASE64.encode(digest.as_ref());
            stream
                .write_all(answer.replace("ACCEPT", &accept).as_bytes())
                .unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(1)))
                .unwrap();
            let mut more = [0; 1000];
            let length = stream.read(&mut more).unwrap_or(0);
            heard.lock().unwrap().extend_from_slice(&more[..length]);
            false
        });
        let gateway = Gateway::trusted(&agent);
        let early = frame(0x81, b"early");
        let (got, ..) = gateway.send(&[ASK.as_bytes(), &early].concat());
        assert_eq!(got, status, "{lines}");
        drop(gateway);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(*after.lock().unwrap(), b"", "{lines}");
    }
}

#[test]
fn a_websocket_takes_its_place_and_its_messages_count() {
    let Some(called) = talking() else {
        return;
    };
    let limits = "limits: {connections_per_ip: 1, requests_per_second: 2, burst: 2}\n";
    let gateway = Gateway::configured(&called.agent, limits);
    let mut stream = opened(&gateway);
    // Its place is taken as long as it lasts.
    assert_eq!(gateway.get("/health").0, 0);
    let begun = std::time::Instant::now();
    for _ in 0..4 {
        stream.write_all(&frame(0x81, b"hi")).unwrap();
    }
    for _ in 0..4 {
        assert_eq!(next(&mut stream).unwrap(), (0x81, b"to hi".to_vec()));
    }
    // The opening and one message are free; who sends more waits a second at least.
    assert!(begun.elapsed() >= Duration::from_secs(1));
    // So do pings: they are answered, and what follows waits.
    std::thread::sleep(Duration::from_secs(2));
    let begun = std::time::Instant::now();
    for _ in 0..4 {
        stream.write_all(&frame(0x89, b"p")).unwrap();
    }
    stream.write_all(&frame(0x81, b"hi")).unwrap();
    while next(&mut stream).unwrap() != (0x81, b"to hi".to_vec()) {}
    assert!(begun.elapsed() >= Duration::from_secs(1));
    drop(stream);
    wait_for(|| gateway.get("/health").0 == 200);
}

#[test]
fn messages_that_are_not_whole_stay_within_the_budget() {
    let Some(called) = talking() else {
        return;
    };
    let gateway = Gateway::configured(&called.agent, "{}");
    let part = vec![b'x'; 6 << 20];
    let mut begun = frame(0x81, &vec![b'x'; 9 << 20]);
    begun.truncate(part.len());
    let mut streams: Vec<TcpStream> = (0..8).map(|_| opened(&gateway)).collect();
    for stream in &mut streams {
        stream
            .set_write_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        // Who finds no room is told so, and does not get rid of all of it.
        let _ = stream.write_all(&begun);
    }
    // A quarter of 64 MiB is one caller's: two of them at most.
    let told = streams.iter_mut().filter_map(|stream| {
        stream
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let (first, payload) = next(stream)?;
        (first == 0x88).then(|| u16::from_be_bytes([payload[0], payload[1]]))
    });
    let told: Vec<u16> = told.collect();
    assert!(
        told.len() >= 6 && told.iter().all(|code| *code == 1013),
        "{told:?}"
    );
    drop(streams);
    // Pings between its parts make no other message of it.
    let part = [frame(0x00, &vec![b'x'; 50_000]), frame(0x89, b"p")].concat();
    let mut streams: Vec<TcpStream> = (0..8).map(|_| opened(&gateway)).collect();
    for stream in &mut streams {
        stream
            .set_write_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let _ = stream.write_all(&frame(0x01, b"x"));
        let _ = (0..120).try_for_each(|_| stream.write_all(&part));
    }
    let told = streams.iter_mut().filter_map(|stream| {
        stream
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        loop {
            match next(stream)? {
                (0x8a, _) => {}
                (first, payload) => {
                    break (first == 0x88).then(|| u16::from_be_bytes([payload[0], payload[1]]));
                }
            }
        }
    });
    let told: Vec<u16> = told.collect();
    assert!(
        told.len() >= 5 && told.iter().all(|code| *code == 1013),
        "{told:?}"
    );
    drop(streams);
    // What was taken is given back.
    wait_for(|| {
        let said = ask(
            &called,
            &gateway,
            "/a",
            &json!({"say": [{"long": 9_000_000}]}),
        );
        said["heard"] == json!([9_000_003])
    });
}

#[test]
fn who_says_nothing_and_who_is_there_at_the_end_is_told() {
    let Some(called) = talking() else {
        return;
    };
    let gateway = Gateway::configured(&called.agent, "backend: {idle_timeout: 1s}\n");
    let said = ask(&called, &gateway, "/a", &json!({"wait": true}));
    assert_eq!(
        said["closed"],
        closed(1001, "nothing was said for too long")
    );
    drop(gateway);
    let mut gateway = Gateway::configured(&called.agent, "{}");
    let mut stream = opened(&gateway);
    gateway.signal(Signal::TERM);
    let (first, payload) = next(&mut stream).unwrap();
    assert_eq!((first, &payload[2..]), (0x88, &b"the gateway ends"[..]));
    stream.write_all(&frame(0x88, &payload[..2])).unwrap();
    drop(stream);
    assert!(gateway.process.wait().unwrap().success());
    wait_for(|| {
        called
            .seen()
            .iter()
            .filter(|line| line["closed"] == 1001)
            .count()
            == 2
    });
}
