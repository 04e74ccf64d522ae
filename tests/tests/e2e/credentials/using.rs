use super::setting::Setting;
use super::upstream::{Upstream, answer};
use harness::services::{PLACEHOLDER, SECRET, With};

/// Says what came, but for the credential.
fn echo() -> Upstream {
    Upstream::start(|request, tls| {
        let body = format!("{} {}", request.line, request.body.len());
        answer(
            tls,
            200,
            "content-type: text/plain\r\nx-of-service: yes\r\n",
            body.as_bytes(),
        )
    })
}

#[test]
fn an_agent_with_a_placeholder_has_its_answer_and_the_service_has_the_credential() {
    let setting = Setting::start(echo());
    let got = setting.ask(
        "POST /api/chat?a=b",
        "authorization: Bearer whatever\r\ncontent-type: text/x\r\n",
        b"hello",
    );
    assert_eq!(
        (got.status, &got.body[..]),
        (200, &b"POST /v1/chat?a=b HTTP/1.1 5"[..]),
        "{got:?}"
    );
    assert_eq!(got.header("x-of-service").as_deref(), Some("yes"));
    let told = setting.ask_tcp(
        "GET /api/models",
        &format!("x-api-key: {PLACEHOLDER}\r\n"),
        b"",
    );
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    let seen = setting.upstream.seen();
    assert_eq!(seen.len(), 2);
    for request in &seen {
        assert_eq!(
            request.header("authorization"),
            Some(&*format!("Bearer {SECRET}"))
        );
        assert_eq!(request.header("host"), Some("api.example"));
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        assert_eq!(request.header("x-api-key"), None);
    }
    assert_eq!(seen[0].body, b"hello");
    let opened = setting.events("credential.open", 2);
    // Two calls may end in either order.
    let closed = setting.events("credential.close", 2);
    for open in &opened {
        let call = &open["credential"]["call"];
        let same = |line: &&serde_json::Value| line["credential"]["call"] == *call;
        let close = closed.iter().find(same).unwrap();
        assert_eq!(close["credential"]["status"], 200);
    }
    // A connection is kept for the next one, which may be faster than its end is seen.
    harness::wait_for(|| {
        setting.ask("GET /api/models", "", b"");
        let seen = setting.upstream.seen();
        let last: Vec<usize> = seen
            .iter()
            .rev()
            .take(2)
            .map(|request| request.connection)
            .collect();
        last[0] == last[1]
    });
}

#[test]
fn a_placeholder_in_path_or_query_stands_in_its_place_or_nothing_is_sent() {
    let rules =
        "{ name = \"read\", methods = [\"GET\"], paths = [\"/models\"], identities = [\"crew\"] }";
    let start = |inject| {
        let upstream = Upstream::start(|_, tls| answer(tls, 200, "", b"well"));
        let setting = Setting::with(
            upstream,
            &With {
                inject,
                rules,
                ..With::default()
            },
        );
        setting.put_well("crew", SECRET);
        setting
    };
    let encoded = "sk-live-9b2f6c1e0d8a4f7bA%2B%2F%3D";
    let setting = start("{ query = \"key\" }");
    let last = |setting: &Setting| setting.upstream.seen().last().unwrap().line.clone();
    for (asked, sent) in [
        ("", ""),
        ("?", "&"),
        ("?key=x", ""),
        ("?a=b&key=x&c", "a=b&c&"),
        ("?%6b%65y=x&a=b", "a=b&"),
    ] {
        let got = setting.ask(&format!("GET /api/models{asked}"), "", b"");
        assert_eq!(got.status, 200, "{asked} {got:?}");
        let sent = sent.trim_start_matches('&');
        assert_eq!(
            last(&setting),
            format!("GET /v1/models?{sent}key={encoded} HTTP/1.1")
        );
    }
    let count = setting.upstream.seen().len();
    for twice in ["?key=x&key=x", "?key=x&a&k%65y=y"] {
        let got = setting.ask(&format!("GET /api/models{twice}"), "", b"");
        let code = got.header("x-anchorhold-error");
        assert_eq!(
            (got.status, code.as_deref()),
            (422, Some("path_not_canonical")),
            "{twice}"
        );
    }
    // At the port it says who asks, alone or beside a header that says the same.
    let with = format!("GET /api/models?key={PLACEHOLDER}");
    let same = format!("x-api-key: {PLACEHOLDER}\r\n");
    for (line, headers, status) in [
        (&*with, "", 200),
        (&with, &*same, 200),
        ("GET /api/models", &same, 200),
        ("GET /api/models", "", 401),
        ("GET /api/models?key=other", "", 401),
        ("GET /api/models?key=other", &same, 401),
        (&with, "x-api-key: other\r\n", 401),
    ] {
        let told = setting.ask_tcp(line, headers, b"");
        assert!(
            told.starts_with(&format!("HTTP/1.1 {status}")),
            "{line} {headers} {told}"
        );
    }
    assert_eq!(setting.upstream.seen().len(), count + 3);

    let setting = start("{ path = \"/bot{}\" }");
    for shown in ["", "x", PLACEHOLDER] {
        let got = setting.ask(&format!("GET /api/bot{shown}/models?a"), "", b"");
        assert_eq!(got.status, 200, "{shown} {got:?}");
        assert_eq!(
            last(&setting),
            format!("GET /v1/bot{encoded}/models?a HTTP/1.1")
        );
    }
    let count = setting.upstream.seen().len();
    for (elsewhere, code) in [
        ("/models", "path_not_canonical"),
        ("/%62otx/models", "path_not_canonical"),
        ("/botx//models", "path_not_canonical"),
        ("/botx/../models", "path_not_canonical"),
        ("/botx/botx/models", "service_request_not_allowed"),
        ("/botx", "service_request_not_allowed"),
    ] {
        let got = setting.ask(&format!("GET /api{elsewhere}"), "", b"");
        assert_eq!(
            got.header("x-anchorhold-error").as_deref(),
            Some(code),
            "{elsewhere} {got:?}"
        );
    }
    let told = setting.ask_tcp("GET /api/models", "", b"");
    assert!(told.starts_with("HTTP/1.1 401"), "{told}");
    assert_eq!(setting.upstream.seen().len(), count);
}

#[test]
fn a_credential_in_a_url_that_comes_back_is_cut_off() {
    for inject in ["{ query = \"key\" }", "{ path = \"/bot{}\" }"] {
        for in_header in [false, true] {
            let upstream = Upstream::start(move |request, tls| {
                let target = request.line.split(' ').nth(1).unwrap();
                let location = format!("location: https://other.example{target}\r\n");
                match in_header {
                    true => answer(tls, 302, &location, b""),
                    false => answer(tls, 404, "", format!("{target} is nowhere").as_bytes()),
                }
            });
            let setting = Setting::with(
                upstream,
                &With {
                    inject,
                    ..With::default()
                },
            );
            setting.put_well("crew", SECRET);
            let line = ["GET /api/models", "GET /api/botx/models"];
            let got = setting.ask(line[usize::from(inject.contains("bot"))], "", b"");
            let code = got.header("x-anchorhold-error");
            assert_eq!(
                (got.status, code.as_deref()),
                (502, Some("credential_reflected")),
                "{got:?}"
            );
        }
    }
}

#[test]
fn a_receipt_is_verified_offline_and_a_forged_one_is_not() {
    let setting = Setting::start(echo());
    let got = setting.ask("POST /api/chat", "", b"hello");
    let call = got.header("x-anchorhold-call").unwrap();
    let closed = setting.events("credential.close", 1);
    assert_eq!(closed[0]["credential"]["call"], *call);
    let nonce = serde_json::json!({"nonce": "00".repeat(32)});
    let evidence = harness::post(&setting.running.socket, "/attestation", &nonce).unwrap();
    let folder = setting.running.folder().to_owned();
    let file = folder.join("evidence.cbor");
    std::fs::write(&file, evidence.body).unwrap();
    let state = &setting.running.state;
    let record = state.record().join("record-000001.jsonl");
    let verify = |lines: &[String], more: &[&str]| {
        let extract = folder.join("receipt.jsonl");
        std::fs::write(&extract, lines.join("\n")).unwrap();
        std::process::Command::new(harness::program("anchorhold"))
            .args(["receipt", "verify", "--call", &call, "--evidence"])
            .arg(&file)
            .arg("--mock-root")
            .arg(state.root())
            .arg("--measurements")
            .arg(state.measurements())
            .arg("--bundle")
            .arg(state.policy())
            .args(more)
            .arg(&extract)
            .output()
            .unwrap()
    };
    let text = std::fs::read_to_string(&record).unwrap();
    let all: Vec<String> = text.lines().map(str::to_owned).collect();
    let two: Vec<String> = all
        .iter()
        .filter(|line| line.contains(&call))
        .cloned()
        .collect();
    assert_eq!(two.len(), 2);
    // Somebody asks for a path with the call's name in it, in another boot; and a line is given twice.
    let mut foreign: serde_json::Value = serde_json::from_str(&two[0]).unwrap();
    foreign["credential"]
        .as_object_mut()
        .unwrap()
        .remove("call");
    foreign["resource"] = format!("https://api.example/v1/{call}").into();
    let disturbed = [&two[..], &[foreign.to_string(), two[0].clone()]].concat();
    for lines in [&all, &two, &disturbed] {
        let output = verify(lines, &[]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let sent = identity::sha256(b"hello").to_string();
        let received = identity::sha256(&got.body).to_string();
        assert_eq!(told["verdict"], "good");
        assert_eq!(told["resource"], "https://api.example/v1/chat");
        assert_eq!(
            (&told["open"]["method"], &told["open"]["length"]),
            (&"POST".into(), &5.into())
        );
        let close = &told["close"];
        assert_eq!(
            (&close["sent_digest"], &close["received_digest"]),
            (&sent.into(), &received.into())
        );
        assert_eq!(
            (&close["status"], &close["spki"]),
            (&200.into(), &(*setting.upstream.keys[0]).into())
        );
        assert_eq!(
            (&told["caller"]["strength"], &told["enclave"]["kind"]),
            (&"asserted".into(), &"mock".into())
        );
    }
    // What came of it is not known.
    let output = verify(&two[..1], &[]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("outcome unknown"));
    let forged = |from: &str, to: &str| {
        let lines: Vec<String> = two.iter().map(|line| line.replace(from, to)).collect();
        assert_ne!(lines, two, "{from}");
        lines
    };
    for (what, lines) in [
        ("another status", forged("\"status\":200", "\"status\":500")),
        ("another path", forged("/v1/chat", "/v1/admin")),
        (
            "another service",
            forged("\"service\":\"api\"", "\"service\":\"apj\""),
        ),
        ("only its end", two[1..].to_vec()),
        ("nothing", Vec::new()),
    ] {
        assert_eq!(verify(&lines, &[]).status.code(), Some(1), "{what}");
    }
    // Another bundle.
    let other = harness::Running::start();
    let output = std::process::Command::new(harness::program("anchorhold"))
        .args(["receipt", "verify", "--call", &call, "--evidence"])
        .arg(&file)
        .arg("--mock-root")
        .arg(state.root())
        .arg("--bundle")
        .arg(other.state.policy())
        .arg(&record)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// Pieces of a stream come as the service gives them, and not when it ends.
#[test]
fn a_stream_is_passed_on_piece_by_piece() {
    use std::io::{Read, Write};
    use std::sync::mpsc::channel;
    let (go, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::start(move |_, tls| {
        write!(
            tls,
            "HTTP/1.1 200 x\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )?;
        tls.flush()?;
        for n in 0..3 {
            let event = format!("data: {n}\n\n");
            wait.lock().unwrap().recv().unwrap();
            write!(tls, "{:x}\r\n{event}\r\n", event.len())?;
            tls.flush()?;
        }
        wait.lock().unwrap().recv().unwrap();
        tls.write_all(b"0\r\n\r\n")?;
        Ok(true)
    });
    let setting = Setting::start(upstream);
    let mut stream = std::os::unix::net::UnixStream::connect(&setting.socket).unwrap();
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .unwrap();
    stream
        .write_all(b"GET /api/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut came = Vec::new();
    let mut until = |wanted: &str| {
        while !String::from_utf8_lossy(&came).contains(wanted) {
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&came));
            came.extend_from_slice(&chunk[..read]);
        }
    };
    // The head first, before there is anything of the body.
    until("\r\n\r\n");
    for n in 0..3 {
        go.send(()).unwrap();
        until(&format!("data: {n}\n\n"));
    }
    go.send(()).unwrap();
    until("0\r\n\r\n");
}

/// 100 MB each way, and no process that they pass keeps them.
#[test]
fn bodies_of_100_mb_pass_in_constant_memory_and_unchanged() {
    const SIZE: usize = 100_000_000;
    let setting = Setting::start(Upstream::start(|request, tls| {
        let head = format!(
            "HTTP/1.1 200 x\r\ncontent-length: {}\r\n\r\n",
            request.body.len()
        );
        std::io::Write::write_all(tls, head.as_bytes())?;
        std::io::Write::write_all(tls, &request.body)?;
        Ok(true)
    }));
    let body: Vec<u8> = (0..SIZE / 4)
        .flat_map(|n| u32::try_from(n * 31).unwrap().to_le_bytes())
        .collect();
    let children = std::fs::read_to_string(format!(
        "/proc/{0}/task/{0}/children",
        setting.running.enclave.pid()
    ))
    .unwrap();
    let processes: Vec<u32> = children
        .split_ascii_whitespace()
        .map(|pid| pid.parse().unwrap())
        .chain([setting.running.enclave.pid(), setting.running.sidecar.pid()])
        .collect();
    assert!(processes.len() >= 4, "{processes:?}");
    let before: Vec<u64> = processes.iter().map(|pid| harness::peak(*pid)).collect();
    let got = setting.ask("POST /api/files/x", "", &body);
    assert_eq!((got.status, got.body.len()), (200, SIZE));
    assert!(got.body == body, "what came back is what was sent");
    let digest = identity::sha256(&body).to_string();
    let closed = setting.events("credential.close", 1);
    for name in ["sent_digest", "received_digest"] {
        assert_eq!(closed[0]["credential"][name], *digest);
    }
    for (pid, before) in processes.iter().zip(before) {
        let more = harness::peak(*pid).saturating_sub(before);
        assert!(more < 8 * 1024, "process {pid} took {more} kB");
    }
}

#[test]
fn the_story_of_a_credential_that_nobody_sees_holds_and_leaves_nothing_behind() {
    let folder = harness::private_folder();
    let output = std::process::Command::new(harness::program("anchorhold-dev"))
        .args(["credentials", "--json"])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report} {said}");
    assert_eq!(report["steps"].as_array().unwrap().len(), 7);
    assert_eq!(report["attacks"].as_array().unwrap().len(), 9);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
