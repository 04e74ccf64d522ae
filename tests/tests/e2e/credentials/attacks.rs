//! A service, a parent and an agent that attack, each with its answer.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use harness::{Answer, Connection, wait_for};
use protocol::{CallFrame, CallKind, LineKind, Ticket};

use super::setting::Setting;
use super::upstream::{Tls, Upstream, answer};
use harness::services::{PLACEHOLDER, SECRET, With};

fn code(answer: &Answer) -> (u16, String) {
    let code = answer.header("x-anchorhold-error").unwrap_or_default();
    (answer.status, code)
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// Answers with the body that the path asks for.
fn by_path(
    answers: impl Fn(&str, &mut Tls) -> std::io::Result<bool> + Send + Sync + 'static,
) -> Upstream {
    Upstream::start(move |request, tls| {
        let path = request.line.split(' ').nth(1).unwrap().to_owned();
        let name = path.rsplit('/').next().unwrap();
        answers(name, tls)
    })
}

#[test]
fn a_credential_that_comes_back_in_any_listed_form_is_cut_off_and_no_bytes_of_it_pass() {
    let forms = || {
        let bearer = format!("Bearer {SECRET}");
        vec![
            ("raw", SECRET.to_owned()),
            ("base64", BASE64.encode(SECRET.as_bytes())),
            ("bearer64", BASE64.encode(bearer.as_bytes())),
            ("hex", HEXLOWER.encode(SECRET.as_bytes())),
            (
                "percent",
                SECRET
                    .replace('+', "%2B")
                    .replace('/', "%2f")
                    .replace('=', "%3D"),
            ),
            ("json", SECRET.replace('/', "\\/")),
        ]
    };
    let setting = Setting::start(by_path(move |name, tls| {
        let (kind, form) = name.split_once('-').unwrap();
        let text = forms().into_iter().find(|(own, _)| *own == form).unwrap().1;
        match kind {
            // In a header, in a redirect to another host, in a body, and cut into single bytes.
            "header" => answer(tls, 200, &format!("x-your-key: {text}\r\n"), b"ok"),
            "redirect" => answer(
                tls,
                302,
                &format!("location: https://evil.example/?k={text}\r\n"),
                b"",
            ),
            "body" => answer(tls, 200, "", format!("before {text} after").as_bytes()),
            _ => {
                write!(tls, "HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n")?;
                for byte in format!("before {text} after").bytes() {
                    tls.write_all(&[b"1\r\n", &[byte][..], b"\r\n"].concat())?;
                    tls.flush()?;
                }
                tls.write_all(b"0\r\n\r\n")?;
                Ok(true)
            }
        }
    }));
    let forms: Vec<String> = ["raw", "base64", "bearer64", "hex", "percent", "json"]
        .map(String::from)
        .to_vec();
    for form in &forms {
        for kind in ["header", "redirect"] {
            let got = setting.ask(&format!("GET /api/files/{kind}-{form}"), "", b"");
            assert_eq!(
                code(&got),
                refused(502, "credential_reflected"),
                "{kind} {form}: {got:?}"
            );
        }
        for kind in ["body", "chunks"] {
            let headers = format!("x-api-key: {PLACEHOLDER}\r\n");
            let got = setting.ask_tcp(&format!("GET /api/files/{kind}-{form}"), &headers, b"");
            assert!(
                !got.contains(" after") && !got.contains(SECRET),
                "{kind} {form}: {got}"
            );
            assert!(!got.contains(&SECRET[..12]), "{kind} {form}: {got}");
        }
    }
    let closed = setting.events("credential.close", 4 * forms.len());
    assert!(
        closed
            .iter()
            .all(|event| event["credential"]["ending"] == "credential_reflected")
    );
}

#[test]
fn a_credential_is_masked_where_the_bundle_says_so_and_the_length_stays() {
    let upstream = by_path(|_, tls| {
        let body = format!("your key is {SECRET}, {}", BASE64.encode(SECRET.as_bytes()));
        answer(tls, 200, &format!("x-key: {SECRET}\r\n"), body.as_bytes())
    });
    let with = With {
        service: "scrub = \"replace\"",
        ..With::default()
    };
    let setting = Setting::with(upstream, &with);
    setting.put_well("crew", SECRET);
    let got = setting.ask("GET /api/models", "", b"");
    assert_eq!(
        (got.status, got.header("x-key").as_deref()),
        (200, Some("***"))
    );
    let text = String::from_utf8(got.body).unwrap();
    assert!(
        text.starts_with(&format!("your key is {}, ***", "*".repeat(SECRET.len()))),
        "{text}"
    );
}

#[test]
fn a_redirect_is_passed_back_and_never_followed() {
    let setting = Setting::start(by_path(|name, tls| {
        let status = name.parse().unwrap();
        answer(
            tls,
            status,
            "location: https://evil.example/x\r\nset-cookie: a=b\r\nalt-svc: h3=\":443\"\r\n",
            b"",
        )
    }));
    for status in [301, 302, 303, 307, 308] {
        let got = setting.ask(&format!("GET /api/files/{status}"), "", b"");
        assert_eq!(got.status, status);
        assert_eq!(
            got.header("location").as_deref(),
            Some("https://evil.example/x")
        );
        assert_eq!(
            (got.header("set-cookie"), got.header("alt-svc")),
            (None, None)
        );
    }
    assert_eq!(setting.upstream.seen().len(), 5, "one request for each");
}

#[test]
fn answers_that_are_no_plain_http_are_refused_and_their_connections_are_not_used_again() {
    let setting = Setting::start(by_path(|name, tls| {
        let text = match name {
            "gzip" => "HTTP/1.1 200 x\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nok",
            "br" => {
                "HTTP/1.1 200 x\r\nContent-Encoding: identity\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\nok"
            }
            "both" => {
                "HTTP/1.1 200 x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
            }
            "lengths" => "HTTP/1.1 200 x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
            "switch" => "HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nok",
            "layers" => {
                "HTTP/1.1 200 x\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
            }
            "layer" => "HTTP/1.1 200 x\r\ntransfer-encoding: gzip\r\n\r\nok",
            "junk" => "ICY 200 OK\r\n\r\n",
            "nothing" => "",
            "folded" => "HTTP/1.1 200 x\r\ncontent-length: 2\r\n folded: x\r\n\r\nok",
            "chunk" => "HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok",
            _ => "HTTP/1.1 200 x\r\ncontent-length: 2\r\n\r\nok",
        };
        tls.write_all(text.as_bytes())?;
        Ok(!text.is_empty())
    }));
    for (name, ending) in [
        ("gzip", "service_encoded"),
        ("br", "service_encoded"),
        ("layers", "service_encoded"),
        ("layer", "service_encoded"),
        ("both", "service_malformed"),
        ("lengths", "service_malformed"),
        ("switch", "service_malformed"),
        ("junk", "service_malformed"),
        ("nothing", "service_failed"),
        ("folded", "service_malformed"),
    ] {
        let got = setting.ask(&format!("GET /api/files/{name}"), "", b"");
        assert_eq!(code(&got), refused(502, ending), "{name}");
        // The next one is answered, over a connection of its own.
        assert_eq!(
            setting.ask("GET /api/files/good", "", b"").status,
            200,
            "{name}"
        );
    }
    let connections: std::collections::BTreeSet<_> = setting
        .upstream
        .seen()
        .iter()
        .map(|request| request.connection)
        .collect();
    assert!(connections.len() >= 8, "{connections:?}");
    let got = setting.ask_tcp(
        "GET /api/files/chunk",
        &format!("x-api-key: {PLACEHOLDER}\r\n"),
        b"",
    );
    assert!(
        !got.ends_with("0\r\n\r\n"),
        "an answer that breaks off does not end well: {got}"
    );
}

/// What a service that is not the one shows: nothing of the request reaches it.
#[test]
fn who_answers_must_have_the_name_the_roots_the_keys_and_the_time() {
    type Validity = Option<[(i32, u8, u8); 2]>;
    let echo = |name: &str, validity: Validity| {
        Upstream::start_for(name, validity, |_, tls| answer(tls, 200, "", b"ok"))
    };
    let past = Some([(2020, 1, 1), (2021, 1, 1)]);
    let future = Some([(2040, 1, 1), (2041, 1, 1)]);
    for (what, upstream, service) in [
        ("another name", echo("other.example", None), String::new()),
        ("expired", echo("api.example", past), String::new()),
        ("not yet", echo("api.example", future), String::new()),
        (
            "another key",
            echo("api.example", None),
            format!("pins = [\"sha256:{}\"]", "0".repeat(64)),
        ),
    ] {
        let setting = Setting::with(
            upstream,
            &With {
                service: &service,
                ..With::default()
            },
        );
        setting.put_well("crew", SECRET);
        let got = setting.ask("GET /api/models", "", b"");
        assert_eq!(code(&got), refused(502, "service_untrusted"), "{what}");
        assert!(setting.upstream.seen().is_empty(), "{what}");
        let closed = setting.events("credential.close", 1);
        assert_eq!(
            (
                &closed[0]["credential"]["ending"],
                &closed[0]["credential"]["sent"]
            ),
            (&"service_untrusted".into(), &0.into())
        );
    }
    // A key of the path: that of the certificate, or of the root.
    for place in [0, 1] {
        let upstream = echo("api.example", None);
        let service = format!(
            "pins = [\"sha256:{}\", \"sha256:{}\"]",
            "0".repeat(64),
            upstream.keys[place]
        );
        let setting = Setting::with(
            upstream,
            &With {
                service: &service,
                ..With::default()
            },
        );
        setting.put_well("crew", SECRET);
        assert_eq!(setting.ask("GET /api/models", "", b"").status, 200);
        let closed = setting.events("credential.close", 1);
        assert_eq!(closed[0]["credential"]["spki"], *setting.upstream.keys[0]);
    }
}

/// The host's clock says now, and the certificate is good now; the enclave's clock is three days
/// ahead, and that one counts.
#[test]
fn certificates_are_held_against_the_enclaves_time() {
    let day = |days: i64| {
        let date = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days))
            .to_zoned(jiff::tz::TimeZone::UTC)
            .date();
        (
            i32::from(date.year()),
            date.month().unsigned_abs(),
            date.day().unsigned_abs(),
        )
    };
    for (validity, wanted) in [
        ([day(-2), day(2)], refused(502, "service_untrusted")),
        ([day(2), day(9)], (200, String::new())),
    ] {
        let upstream = Upstream::start_for("api.example", Some(validity), |_, tls| {
            answer(tls, 200, "", b"ok")
        });
        let ahead = harness::now().0 + 3 * 86400;
        let time = (ahead * 1000).to_string();
        let setting = Setting::with(
            upstream,
            &With {
                enclave: &["--nsm-time-ms", &time],
                ..With::default()
            },
        );
        setting.put_at(ahead);
        assert_eq!(
            code(&setting.ask("GET /api/models", "", b"")),
            wanted,
            "{validity:?}"
        );
    }
}

#[test]
fn unknown_authorities_are_not_believed() {
    let other = Upstream::start(|_, tls| answer(tls, 200, "", b"ok"));
    let mut upstream = Upstream::start(|_, tls| answer(tls, 200, "", b"ok"));
    upstream.root = other.root;
    let setting = Setting::start(upstream);
    let got = setting.ask("GET /api/models", "", b"");
    assert_eq!(code(&got), refused(502, "service_untrusted"));
    assert!(setting.upstream.seen().is_empty());
}

#[test]
fn half_a_request_is_none() {
    let setting = Setting::start(Upstream::start(|_, tls| answer(tls, 200, "", b"ok")));
    for framing in ["content-length: 100", "transfer-encoding: chunked"] {
        let mut stream = UnixStream::connect(&setting.socket).unwrap();
        let head = format!("POST /api/chat HTTP/1.1\r\nhost: x\r\n{framing}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(b"4\r\nhalf\r\n").unwrap();
    }
    let closed = setting.events("credential.close", 2);
    assert!(
        closed
            .iter()
            .all(|event| event["credential"]["ending"] == "aborted")
    );
    assert!(
        setting.upstream.seen().is_empty(),
        "the service took none for whole"
    );
}

/// The service answers while most of the request is still to come.
#[test]
fn an_early_answer_is_passed_on_whole() {
    let setting = Setting::start(Upstream::start(|request, tls| {
        answer(tls, 413, "", b"too much")?;
        tls.flush()?;
        std::thread::sleep(Duration::from_millis(300));
        Ok(!request.line.contains("/early"))
    }));
    let mut stream = UnixStream::connect(&setting.socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
        .write_all(
            b"POST /api/files/early HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\nbegin",
        )
        .unwrap();
    let mut came = Vec::new();
    while !came.ends_with(b"too much") {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&came));
        came.extend_from_slice(&chunk[..read]);
    }
    assert!(came.starts_with(b"HTTP/1.1 413"));
    let closed = setting.events("credential.close", 1);
    assert_eq!(closed[0]["credential"]["ending"], "complete");
    assert_eq!(setting.ask("POST /api/files/x", "", b"x").status, 413);
}

#[test]
fn one_callers_calls_leave_room_for_those_of_others() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let setting = Setting::start(Upstream::start(move |request, tls| {
        if request.line.contains("/slow") {
            let _ = wait.lock().unwrap().recv();
        }
        answer(tls, 200, "", b"ok")
    }));
    let mut slow: Vec<UnixStream> = (0..64)
        .map(|_| {
            let mut stream = UnixStream::connect(&setting.socket).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(30)))
                .unwrap();
            stream
                .write_all(b"GET /api/files/slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .unwrap();
            stream
        })
        .collect();
    wait_for(|| setting.upstream.seen().len() == 64);
    // One more is refused, soon; another caller's is answered.
    let got = setting.ask("GET /api/models", "", b"");
    assert_eq!(code(&got), refused(503, "service_busy"));
    let other = setting.ask_tcp(
        "GET /api/models",
        &format!("x-api-key: {PLACEHOLDER}\r\n"),
        b"",
    );
    assert!(other.starts_with("HTTP/1.1 200"), "{other}");
    drop(go);
    for stream in &mut slow {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
    wait_for(|| setting.ask("GET /api/models", "", b"").status == 200);
}

#[test]
fn on_the_port_a_caller_shows_its_token_and_it_goes_no_further() {
    let setting = Setting::start(Upstream::start(|request, tls| {
        let all = format!("{request:?}");
        answer(tls, 200, "", all.as_bytes())
    }));
    let basic = BASE64.encode(format!("x:{PLACEHOLDER}").as_bytes());
    for shown in [
        format!("authorization: Bearer {PLACEHOLDER}\r\n"),
        format!("authorization: Basic {basic}\r\n"),
        format!("x-api-key: {PLACEHOLDER}\r\n"),
        format!("api-key: {PLACEHOLDER}\r\n"),
        format!("x-goog-api-key: {PLACEHOLDER}\r\nauthorization: bearer {PLACEHOLDER}\r\n"),
    ] {
        let got = setting.ask_tcp("GET /api/models", &shown, b"");
        // The echo has the credential, and so it is cut off; what matters is what came there.
        assert!(got.starts_with("HTTP/1.1"), "{got}");
    }
    assert_eq!(setting.upstream.seen().len(), 5);
    for request in setting.upstream.seen() {
        let all = format!("{:?}", request.headers);
        assert!(!all.contains(PLACEHOLDER) && !all.contains(&basic), "{all}");
    }
    for wrong in [
        String::new(),
        "authorization: Bearer wrong-placeholder-of-nobody-at-all\r\n".to_owned(),
        format!("authorization: Bearer {PLACEHOLDER}x\r\n"),
        format!("x-api-key: {PLACEHOLDER}\r\nauthorization: Bearer another\r\n"),
        format!(
            "authorization: Basic {}\r\n",
            BASE64.encode(format!("{PLACEHOLDER}:").as_bytes())
        ),
        format!("cookie: {PLACEHOLDER}\r\n"),
    ] {
        let got = setting.ask_tcp("GET /api/models", &wrong, b"");
        assert!(got.starts_with("HTTP/1.1 401"), "{wrong}: {got}");
        // So that git sends what it has.
        assert!(got.contains("www-authenticate: Basic"), "{got}");
    }
    let token = format!("x-api-key: {PLACEHOLDER}\r\n");
    let got = setting.ask_tcp(
        "GET /api/models",
        &format!("{token}origin: https://evil.example\r\n"),
        b"",
    );
    assert!(got.starts_with("HTTP/1.1 403"), "{got}");
    assert_eq!(setting.upstream.seen().len(), 5, "nothing else came there");
}

#[test]
fn an_agent_gets_to_no_other_path_method_service_or_host() {
    let setting = Setting::start(Upstream::start(|request, tls| {
        answer(tls, 200, "", request.line.as_bytes())
    }));
    for (line, status, code_of) in [
        ("GET /api/admin", 403, "service_request_not_allowed"),
        ("DELETE /api/models", 403, "service_request_not_allowed"),
        ("TRACE /api/models", 403, "service_request_not_allowed"),
        ("get /api/models", 403, "service_request_not_allowed"),
        ("GET /api/files/../admin", 422, "path_not_canonical"),
        ("GET /api/files/%2e%2e/admin", 422, "path_not_canonical"),
        ("GET /api/files/%2E./admin", 422, "path_not_canonical"),
        ("GET /api/files/..%2fadmin", 422, "path_not_canonical"),
        ("GET /api/files/%252e%252e/admin", 422, "path_not_canonical"),
        ("GET /api/files//admin", 422, "path_not_canonical"),
        ("GET /api//models", 422, "path_not_canonical"),
        ("GET /api/files/a%00b", 422, "path_not_canonical"),
        ("GET /api/files/..;/admin", 422, "path_not_canonical"),
        ("GET /api@evil.example/models", 404, "unknown_service"),
        ("GET /other/models", 404, "unknown_service"),
        ("GET /", 404, "unknown_service"),
        ("GET //models", 404, "unknown_service"),
        ("GET /API/models", 404, "unknown_service"),
        ("GET /%61pi/models", 404, "unknown_service"),
    ] {
        let got = setting.ask(line, "", b"");
        assert_eq!(code(&got), refused(status, code_of), "{line}");
        let error = &got.json()["error"];
        assert_eq!(
            (&error["code"], &got.json()["type"]),
            (&code_of.into(), &"error".into()),
            "{line}"
        );
    }
    // The authority of an absolute form is nobody's to choose.
    let got = setting.ask("GET http://evil.example/api/models", "", b"");
    assert_eq!(got.status, 200);
    let seen = setting.upstream.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (&*seen[0].line, seen[0].header("host")),
        ("GET /v1/models HTTP/1.1", Some("api.example"))
    );
}

#[test]
fn headers_are_not_smuggled() {
    let setting = Setting::start(Upstream::start(|_, tls| answer(tls, 200, "", b"ok")));
    let headers = "connection: x-hop, authorization, x-keep\r\nx-hop: 1\r\nx-keep: 1\r\nte: trailers\r\ncookie: a=b\r\n\
        x-forwarded-for: 1.2.3.4\r\nproxy-authorization: Basic eDp5\r\naccept-encoding: gzip\r\nauthorization: Bearer mine\r\n\
        upgrade: h2c\r\nx-fine: yes\r\n";
    assert_eq!(setting.ask("GET /api/models", headers, b"").status, 200);
    let seen = setting.upstream.seen();
    let mut names: Vec<&str> = seen[0]
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["accept-encoding", "authorization", "host", "x-fine"]
    );
    for (bad, status) in [
        ("content-type: a/b\r\ncontent-type: c/d\r\n", 422),
        ("content-length: 5\r\n", 400),
        ("content-type: a/b\r\ncontent_type: c/d\r\n", 422),
        ("x: a\r\n folded\r\n", 400),
        ("x y: z\r\n", 400),
    ] {
        let got = setting.ask("POST /api/chat", bad, b"");
        assert_eq!(got.status, status, "{bad:?}: {got:?}");
    }
    assert_eq!(setting.upstream.seen().len(), 1);
    // Of two ways to say how long it is, one is read, and it alone is said again.
    let both = "transfer-encoding: chunked\r\n";
    let got = setting.ask("POST /api/chat", both, b"5\r\nhello\r\n0\r\n\r\n");
    let seen = setting.upstream.seen();
    assert_eq!(
        (got.status, seen.len(), &seen[1].body[..]),
        (200, 2, &b"hello"[..])
    );
    let framed = ["content-length", "transfer-encoding"].map(|name| seen[1].header(name));
    assert_eq!(framed, [None, Some("chunked")]);
}

/// Some services do not look at the body of what they do not expect to have one, or do not serve at
/// all, and take it for the next request: which would have the credential.
#[test]
fn a_body_that_a_service_may_not_take_is_not_sent_or_nothing_follows_it() {
    let setting = Setting::start(by_path(|name, tls| match name {
        "gone" => answer(tls, 404, "", b"ok"),
        _ => answer(tls, 200, "", b"ok"),
    }));
    let next = "POST /admin HTTP/1.1\r\nx: ";
    for method in ["GET", "OPTIONS"] {
        let got = setting.ask(&format!("{method} /api/models"), "", next.as_bytes());
        assert_eq!(code(&got), refused(422, "header_invalid"), "{method}");
        let chunked = "transfer-encoding: chunked\r\n";
        let got = setting.ask(&format!("{method} /api/models"), chunked, b"0\r\n\r\n");
        assert_eq!(code(&got), refused(422, "header_invalid"), "{method}");
    }
    assert!(setting.upstream.seen().is_empty());
    let goes_on = |path: &str, body: &str| {
        let got = setting.ask(&format!("POST /api/files/{path}"), "", body.as_bytes());
        assert!([200, 404].contains(&got.status), "{got:?}");
        setting.ask("GET /api/models", "", b"");
        let seen = setting.upstream.seen();
        let last: Vec<usize> = seen
            .iter()
            .rev()
            .take(2)
            .map(|request| request.connection)
            .collect();
        last[0] == last[1]
    };
    // The next one may be faster than the end of the one before it is seen.
    wait_for(|| goes_on("good", next));
    wait_for(|| goes_on("gone", ""));
    for _ in 0..10 {
        assert!(!goes_on("gone", next));
    }
}

#[test]
fn a_length_that_no_record_can_say_is_refused_and_the_record_stays_readable() {
    let setting = Setting::start(Upstream::start(|_, tls| answer(tls, 200, "", b"ok")));
    for length in ["9007199254740992", "18446744073709551613"] {
        let mut stream = UnixStream::connect(&setting.socket).unwrap();
        let head =
            format!("POST /api/chat HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).unwrap();
        let told = String::from_utf8_lossy(&chunk[..read]).into_owned();
        assert!(
            told.starts_with("HTTP/1.1 422") && told.contains("header_invalid"),
            "{told}"
        );
    }
    let output = setting.put(
        "crew",
        SECRET,
        &["--credential-version", "9007199254740992"],
    );
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && told.contains("credential_order_invalid"),
        "{told}"
    );
    assert_eq!(setting.ask("POST /api/chat", "", b"x").status, 200);
    for event in setting.events("credential.open", 3) {
        let text = event.to_string();
        assert!(identity::json::parse(text.as_bytes()).is_ok(), "{text}");
    }
}

#[test]
fn a_credential_is_of_one_identity_and_another_ones_does_not_open() {
    let setting = Setting::with(
        Upstream::start(|_, tls| answer(tls, 200, "", b"ok")),
        &With {
            identities: &["crew", "other"],
            rules: "{ name = \"all\", methods = [\"GET\"], paths = [\"*\"], identities = [\"crew\", \"other\"] }",
            ..With::default()
        },
    );
    setting.put_well("crew", SECRET);
    let named = |identity: &str| {
        setting.ask(
            "GET /api/models",
            &format!("x-anchorhold-identity: {identity}\r\n"),
            b"",
        )
    };
    assert_eq!(
        code(&setting.ask("GET /api/models", "", b"")),
        refused(422, "identity_required")
    );
    assert_eq!(named("crew").status, 200);
    assert_eq!(code(&named("other")), refused(403, "credential_missing"));
    assert_eq!(named("nobody").status, 403);
    // The parent lays the one's where the other's is kept.
    let listed = setting.command(&["list"], "");
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let actor = listed["credentials"][0]["actor"].as_str().unwrap();
    let kept = setting.running.folder().join("credentials/bots");
    let file = kept.join(actor).join("credentials/api.enc");
    let operator = broker::Omni::of_operator(&setting.running.verifier().bundle.operator_key.0);
    let of_other = kept
        .join(operator.child("other").to_string())
        .join("credentials");
    std::fs::create_dir_all(&of_other).unwrap();
    std::fs::copy(&file, of_other.join("api.enc")).unwrap();
    assert_eq!(code(&named("other")), refused(422, "envelope_unopened"));
    // Nor one with any bit changed, nor none at all.
    let good = std::fs::read(&file).unwrap();
    for at in [0, 4, 12, 13, 30, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert!(named("crew").status >= 400, "byte {at}");
    }
    std::fs::write(&file, &good).unwrap();
    assert_eq!(named("crew").status, 200);
    // An older one, once a newer one was seen in this boot.
    std::thread::sleep(Duration::from_millis(1100));
    setting.put_well("crew", "sk-live-another-one-altogether");
    let newer = std::fs::read(&file).unwrap();
    std::fs::write(&file, &good).unwrap();
    assert_eq!(code(&named("crew")), refused(409, "credential_outdated"));
    std::fs::write(&file, newer).unwrap();
    assert_eq!(named("crew").status, 200);
    assert_eq!(
        setting
            .upstream
            .seen()
            .last()
            .unwrap()
            .header("authorization"),
        Some("Bearer sk-live-another-one-altogether")
    );
}

/// The parent talks to the process of a service by itself.
#[test]
fn a_ticket_is_good_once_and_a_line_without_one_for_nothing() {
    let setting = Setting::start(Upstream::start(|_, tls| answer(tls, 200, "", b"ok")));
    let socket = format!(
        "{}.service-0",
        setting.running.state.enclave_socket().display()
    );
    let failed = |opening: &[u8]| {
        let mut line = UnixStream::connect(&socket).unwrap();
        line.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        line.write_all(opening).unwrap();
        let mut said = Vec::new();
        line.read_to_end(&mut said).unwrap();
        let head = said.first_chunk().and_then(|head| CallFrame::read(*head));
        (
            head.map(|head| head.kind),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let made_up = LineKind::Calls.opening(Ticket([7; 16]));
    let (kind, said) = failed(&made_up);
    assert_eq!(kind, Some(CallKind::Failed));
    assert!(said.contains("ticket_unknown"), "{said}");
    // What is no line is closed, and a line to a service that nobody asked for too.
    assert_eq!(failed(&[9; 17]), (None, String::new()));
    assert_eq!(
        failed(&LineKind::Upstream.opening(Ticket([7; 16]))),
        (None, String::new())
    );
    // The process goes on.
    assert_eq!(setting.ask("GET /api/models", "", b"").status, 200);
    let mut connection = Connection::open(&setting.socket).unwrap();
    let got = super::setting::ask_over(&mut connection, "GET /api/models", "", b"");
    assert_eq!(got.status, 200);
}

#[test]
fn a_revoked_credential_is_not_used_any_more() {
    let setting = Setting::start(Upstream::start(|_, tls| answer(tls, 200, "", b"ok")));
    assert_eq!(setting.ask("GET /api/models", "", b"").status, 200);
    for (version, revoked, wanted) in [
        (2, "credential:crew/api", 403),
        (3, "other", 200),
        (4, "agent:crew", 403),
    ] {
        setting.revoke(version, revoked);
        wait_for(|| setting.ask("GET /api/models", "", b"").status == wanted);
    }
    assert_eq!(
        code(&setting.ask("GET /api/models", "", b"")),
        refused(403, "credential_revoked")
    );
    // What names nothing here would revoke nothing: it is not taken.
    for (version, nothing) in [
        (5, "credential:crew/apj"),
        (6, "credential:nobody/api"),
        (7, "Credential:crew/api"),
        (8, "credential:crew/api@"),
        (9, "credential:crew/api@1x"),
    ] {
        setting.revoke(version, nothing);
        wait_for(|| {
            setting
                .running
                .log()
                .contains(&format!("{nothing:?}").replace('"', "\\\""))
        });
    }
    assert_eq!(setting.ask("GET /api/models", "", b"").status, 403);
}

#[test]
fn a_credential_that_leaked_is_revoked_and_the_next_one_is_not() {
    let setting = Setting::with(
        Upstream::start(|_, tls| answer(tls, 200, "", b"ok")),
        &With::default(),
    );
    let put = |version: &str| {
        let output = setting.put("crew", SECRET, &["--credential-version", version]);
        assert!(output.status.success(), "{output:?}");
    };
    put("17");
    assert_eq!(setting.ask("GET /api/models", "", b"").status, 200);
    setting.revoke(2, "credential:crew/api@17");
    wait_for(|| {
        code(&setting.ask("GET /api/models", "", b"")) == refused(403, "credential_revoked")
    });
    put("18");
    assert_eq!(setting.ask("GET /api/models", "", b"").status, 200);
}

#[test]
fn a_stream_ends_when_its_credential_is_revoked_and_so_does_its_connection() {
    let setting = Setting::start(Upstream::start(|request, tls| {
        if request.line.contains("models") {
            return answer(tls, 200, "", b"ok");
        }
        write!(tls, "HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n")?;
        loop {
            write!(tls, "6\r\ndata\n\n\r\n")?;
            tls.flush()?;
            std::thread::sleep(Duration::from_millis(20));
        }
    }));
    let mut stream = UnixStream::connect(&setting.socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
        .write_all(b"GET /api/files/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut chunk = [0; 4096];
    assert!(stream.read(&mut chunk).unwrap() > 0);
    setting.revoke(2, "credential:crew/api");
    let mut rest = Vec::new();
    // It breaks off, and does not end well.
    let _ = stream.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"));
    let closed = setting.events("credential.close", 1);
    assert_eq!(closed[0]["credential"]["ending"], "credential_revoked");
    // Another one is put: it goes over a connection of its own.
    setting.revoke(3, "other");
    wait_for(|| setting.ask("GET /api/models", "", b"").status == 200);
    let seen = setting.upstream.seen();
    assert_ne!(seen[0].connection, seen[1].connection);
}

#[test]
fn a_rate_is_kept_for_each_identity_and_its_end_is_told() {
    let upstream = Upstream::start(|_, tls| answer(tls, 200, "", b"ok"));
    let rules = "{ name = \"few\", methods = [\"GET\"], paths = [\"*\"], identities = [\"crew\"], limits = [{ per = \"hour\", max = 3 }] }";
    let setting = Setting::with(
        upstream,
        &With {
            rules,
            ..With::default()
        },
    );
    setting.put_well("crew", SECRET);
    for _ in 0..3 {
        assert_eq!(setting.ask("GET /api/models", "", b"").status, 200);
    }
    let got = setting.ask("GET /api/models", "", b"");
    assert_eq!(code(&got), refused(429, "rate_limit_exceeded"));
    assert!(got.header("retry-after").is_some());
    assert_eq!(setting.upstream.seen().len(), 3);
}

/// Signs for AWS: a service of it, and what may be done beyond method and path.
fn signing(service: &str, actions: &str) -> (String, String) {
    let inject = format!("{{ sigv4 = {{ region = \"us-east-1\", service = \"{service}\" }} }}");
    let rules = format!(
        "{{ name = \"toy\", methods = [\"POST\", \"PUT\"], paths = [\"/*\"], actions = [{actions}], identities = [\"crew\"] }}"
    );
    (inject, rules)
}

#[test]
fn a_body_that_is_not_the_one_that_was_signed_does_not_get_there_whole() {
    let (inject, rules) = signing("s3", "");
    let with = With {
        inject: &inject,
        rules: &rules,
        ..With::default()
    };
    let setting = Setting::with(Upstream::start(|_, tls| answer(tls, 200, "", b"ok")), &with);
    setting.put_well("crew", "AKIATOY:12345678secret");
    let long = vec![b'x'; 300_000];
    for body in [&b"hello"[..], &long] {
        let digest = identity::sha256(body);
        let header = format!("x-amz-content-sha256: {digest}\r\n");
        let before = setting.upstream.seen().len();
        let mut other = body.to_vec();
        *other.last_mut().unwrap() ^= 1;
        let got = setting.ask("PUT /api/toy/x", &header, &other);
        let code = got.header("x-anchorhold-error");
        assert_eq!((got.status, code.as_deref()), (422, Some("body_mismatch")));
        assert!(String::from_utf8_lossy(&got.body).contains("<Code>body_mismatch</Code>"));
        assert_eq!(setting.upstream.seen().len(), before);
        assert_eq!(setting.ask("PUT /api/toy/x", &header, body).status, 200);
        let seen = setting.upstream.seen().pop().unwrap();
        assert_eq!(seen.body, body);
        assert_eq!(
            seen.header("x-amz-content-sha256"),
            Some(&*digest.to_string())
        );
    }
    let chunks = "x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\n";
    let got = setting.ask("PUT /api/toy/x", chunks, b"hello");
    assert_eq!(
        got.header("x-anchorhold-error").as_deref(),
        Some("header_invalid")
    );
    let closed = setting.events("credential.close", 4);
    let endings: Vec<&str> = closed
        .iter()
        .map(|line| line["credential"]["ending"].as_str().unwrap())
        .collect();
    let one = ["body_mismatch", "complete"];
    assert_eq!(endings, [one, one].concat());
}

#[test]
fn what_aws_is_asked_to_do_must_be_named_and_bodies_without_a_digest_are_signed_whole() {
    let (inject, rules) = signing("dynamodb", "\"DynamoDB_20120810.GetItem\"");
    let with = With {
        inject: &inject,
        rules: &rules,
        base: "",
        ..With::default()
    };
    let setting = Setting::with(Upstream::start(|_, tls| answer(tls, 200, "", b"{}")), &with);
    setting.put_well("crew", "AKIATOY:12345678secret:session-token-0");
    let kind = "content-type: application/x-amz-json-1.0\r\n";
    let asked = |target: &str, line: &str, kind: &str| {
        let headers = format!("{kind}{target}");
        let got = setting.ask(line, &headers, b"{\"TableName\":\"t\"}");
        got.header("x-anchorhold-error")
            .unwrap_or_else(|| got.status.to_string())
    };
    let get = "x-amz-target: DynamoDB_20120810.GetItem\r\n";
    assert_eq!(asked(get, "POST /api/", kind), "200");
    let seen = setting.upstream.seen().pop().unwrap();
    assert_eq!(seen.body, b"{\"TableName\":\"t\"}");
    assert_eq!(seen.header("x-amz-security-token"), Some("session-token-0"));
    let signature = seen.header("authorization").unwrap();
    assert!(
        signature.contains(
            "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target,"
        ),
        "{signature}"
    );
    let refused = "service_request_not_allowed";
    let scan = "x-amz-target: DynamoDB_20120810.Scan\r\n";
    assert_eq!(asked(scan, "POST /api/", kind), refused);
    assert_eq!(asked(&format!("{get}{scan}"), "POST /api/", kind), refused);
    assert_eq!(asked(get, "POST /api/?Action=AssumeRole", kind), refused);
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    assert_eq!(asked(get, "POST /api/", form), "header_invalid");
    assert_eq!(
        asked(get, "POST /api/?X-Amz-Signature=0", kind),
        "path_not_canonical"
    );
    let got = setting.ask("POST /api/", &format!("{kind}{scan}"), b"{}");
    assert_eq!(got.json()["__type"], refused);
    // More than is kept in memory for a client that does not sign its body itself.
    let long = vec![b'x'; (16 << 20) + 1];
    let got = setting.ask("POST /api/", &format!("{kind}{get}"), &long);
    assert_eq!(
        got.header("x-anchorhold-error").as_deref(),
        Some("body_too_large")
    );
    assert_eq!(setting.upstream.seen().len(), 1);
}
