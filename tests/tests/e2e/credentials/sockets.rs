//! WebSockets to services: the handshake, what is said, and what becomes of the credential.

use std::io::{self, Read, Write};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::services::{PLACEHOLDER, SECRET, With};
use harness::wait_for;
use identity::Signer;
use parent_proxy::KeyFile;
use serde_json::{Value, json};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Message, WebSocket};

use super::clients::{interop, said};
use super::ingress::{HTTPS_PROXY, Proxied};
use super::setting::Setting;
use super::upstream::{Request, Tls, Upstream, answer};

const RULES: &str = "{ name = \"talk\", methods = [\"GET\"], paths = [\"/socket\", \"/odd/*\"], identities = [\"crew\"], websocket = true },
    { name = \"read\", methods = [\"GET\"], paths = [\"/page\", \"/socket/page\"], identities = [\"crew\"] }";

/// Agrees, with these further header lines.
fn agree(request: &Request, tls: &mut Tls, headers: &str) -> io::Result<()> {
    let accept = derive_accept_key(request.header("sec-websocket-key").unwrap().as_bytes());
    write!(
        tls,
        "HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n{headers}\r\n"
    )?;
    tls.flush()
}

/// A server of tungstenite's: it says what it hears, and some words make it say more.
fn talk(tls: &mut Tls, heard: impl Fn(&str)) -> tungstenite::Result<()> {
    let mut socket = WebSocket::from_raw_socket(tls, Role::Server, None);
    loop {
        match socket.read()? {
            Message::Text(text) => {
                heard(&text);
                match text.as_str() {
                    "leak" => socket.send(Message::text(format!("your token: {SECRET}")))?,
                    "leak, and close" => socket.close(Some(CloseFrame {
                        code: 4001.into(),
                        reason: format!("bad {SECRET}").into(),
                    }))?,
                    "close" => socket.close(Some(CloseFrame {
                        code: 4002.into(),
                        reason: "as you wish".into(),
                    }))?,
                    "break off" => return Ok(()),
                    text => socket.send(Message::text(text.to_uppercase()))?,
                }
            }
            Message::Binary(bytes) => socket.send(Message::Binary(bytes))?,
            _ => {}
        }
    }
}

/// The usual service: it agrees at `/socket`, and answers otherwise.
fn service(request: &Request, tls: &mut Tls) -> io::Result<bool> {
    let path = request.line.split(' ').nth(1).unwrap();
    match path {
        "/v1/socket" => {
            let chosen = request.header("sec-websocket-protocol");
            let chosen = chosen.map_or(String::new(), |_| "sec-websocket-protocol: v2\r\n".into());
            agree(request, tls, &chosen)?;
            let _ = talk(tls, |_| {});
            Ok(false)
        }
        "/v1/odd/extension" => {
            agree(
                request,
                tls,
                "sec-websocket-extensions: permessage-deflate\r\n",
            )?;
            Ok(false)
        }
        "/v1/odd/protocol" => {
            agree(request, tls, "sec-websocket-protocol: v9\r\n")?;
            Ok(false)
        }
        "/v1/odd/accept" => {
            let accept = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n";
            write!(tls, "HTTP/1.1 101 x\r\n{accept}\r\n")?;
            Ok(false)
        }
        "/v1/odd/refused" => {
            let head = "HTTP/1.1 403 x\r\ntransfer-encoding: chunked\r\n\r\n";
            write!(tls, "{head}3\r\nno \r\n")?;
            tls.flush()?;
            std::thread::sleep(Duration::from_millis(500));
            write!(tls, "11\r\nWebSocket for you\r\n0\r\n\r\n")?;
            Ok(true)
        }
        "/v1/odd/page" => answer(tls, 200, "", b"a page that nobody decided on"),
        "/v1/odd/elsewhere" => answer(tls, 302, "location: /v1/page\r\n", b"look there"),
        "/v1/odd/masked" => {
            agree(request, tls, "")?;
            tls.write_all(&[0x81, 0x81, 1, 2, 3, 4, b'x'])?;
            tls.flush()?;
            std::thread::sleep(Duration::from_secs(2));
            Ok(false)
        }
        _ => answer(tls, 200, "", b"a page"),
    }
}

fn with() -> With<'static> {
    With {
        rules: RULES,
        bundle: HTTPS_PROXY,
        ..With::default()
    }
}

pub(super) fn start() -> Setting {
    let setting = Setting::with(Upstream::start(service), &with());
    setting.put_well("crew", SECRET);
    setting
}

fn run(mut command: Command, given: &Value) -> Value {
    let output = command
        .arg(interop("websocket_client.py"))
        .arg(given.to_string())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn python() -> Command {
    Command::new(interop(".venv-clients/bin/python"))
}

impl Proxied {
    fn python(&self, given: &Value) -> Value {
        let python = interop(".venv-clients/bin/python");
        run(self.command(python.to_str().unwrap()), given)
    }
}

impl Setting {
    /// What the client gets over the Unix socket, of a path and with more.
    pub(super) fn talk(&self, path: &str, more: &Value) -> Value {
        let mut given = json!({"unix": self.socket, "url": format!("ws://localhost/api{path}")});
        let members = more.as_object().unwrap().clone();
        given.as_object_mut().unwrap().extend(members);
        run(python(), &given)
    }
}

#[test]
fn a_websocket_passes_to_a_service_by_every_way_in() {
    let proxied = Proxied::of(start());
    let setting = &proxied.setting;
    let port = setting.port;
    let bearer = json!({"authorization": format!("Bearer {PLACEHOLDER}")});
    let talk = json!({
        "say": ["hello", {"pieces": ["in ", "", "pieces"]}, {"long": 3_000_000}, ""],
        "subprotocols": ["v1", "v2"],
        "ping": true,
    });
    let ways = [
        json!({"url": format!("ws://127.0.0.1:{port}/api/socket"), "headers": bearer}),
        json!({"unix": setting.socket, "url": "ws://localhost/api/socket"}),
        json!({"url": "wss://api.example/v1/socket"}),
    ];
    for (count, way) in (1..).zip(ways) {
        let mut given = talk.clone();
        given
            .as_object_mut()
            .unwrap()
            .extend(way.as_object().unwrap().clone());
        let command = match count {
            3 => proxied.command(interop(".venv-clients/bin/python").to_str().unwrap()),
            _ => python(),
        };
        let told = run(command, &given);
        assert_eq!(
            told["heard"],
            json!(["HELLO", "IN PIECES", 3_000_000, ""]),
            "{told}"
        );
        assert_eq!(
            (&told["subprotocol"], &told["pong"]),
            (&json!("v2"), &json!(true))
        );
        assert_eq!(told["closed"], json!([4000, "enough"]));
        assert!(told["headers"]["sec-websocket-extensions"].is_null());
        let asked = setting.upstream.seen().pop().unwrap();
        assert_eq!(
            asked.header("authorization"),
            Some(format!("Bearer {SECRET}").as_str())
        );
        assert_eq!(asked.header("sec-websocket-extensions"), None);
        let (opened, closed) = (
            setting.events("credential.open", count),
            setting.events("credential.close", count),
        );
        let (opened, closed) = (
            &opened[count - 1]["credential"],
            &closed[count - 1]["credential"],
        );
        assert_eq!(opened["websocket"], true);
        assert_eq!(
            (&closed["status"], &closed["ending"]),
            (&json!(101), &json!("complete"))
        );
        let call = told["headers"]["x-anchorhold-call"].as_str();
        assert_eq!(call, opened["call"].as_str());
        // Payloads of messages: the digest of what was said, and of what was answered.
        let sent = [b"helloin pieces", &vec![0; 3_000_000][..]].concat();
        let back = [b"HELLOIN PIECES", &vec![0; 3_000_000][..]].concat();
        for (name, bytes) in [("sent", sent), ("received", back)] {
            assert_eq!(closed[name], bytes.len());
            assert_eq!(
                closed[format!("{name}_digest")],
                identity::sha256(&bytes).to_string()
            );
        }
    }
}

#[test]
fn a_rule_for_websockets_is_for_nothing_else_and_no_other_rule_is_for_them() {
    let setting = start();
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let code = |line: &str, headers: &str| {
        let got = setting.ask(line, headers, b"");
        (
            got.status,
            got.header("x-anchorhold-error").unwrap_or_default(),
        )
    };
    let refused = |code: &str| (403, code.to_owned());
    let not_allowed = refused("service_request_not_allowed");
    // Asked without an upgrade, or where only pages are allowed.
    assert_eq!(code("GET /api/socket", ""), not_allowed);
    assert_eq!(code("GET /api/page", upgrade), not_allowed);
    assert_eq!(code("GET /api/socket/page", upgrade), not_allowed);
    assert_eq!(code("GET /api/page", ""), (200, String::new()));
    let invalid = (422, "websocket_invalid".to_owned());
    for (from, to) in [
        ("version: 13", "version: 12"),
        ("key: dGhl", "key: "),
        ("sec-websocket-version: 13\r\n", ""),
    ] {
        assert_eq!(code("GET /api/socket", &upgrade.replace(from, to)), invalid);
    }
    for (line, body) in [("POST /api/socket", &b""[..]), ("GET /api/socket", b"body")] {
        let got = setting.ask(line, upgrade, body);
        assert!([403, 422].contains(&got.status), "{line}: {}", got.status);
    }
    // HTTP/1.0 has no upgrades (RFC 9110 section 7.8).
    let mut old = std::os::unix::net::UnixStream::connect(&setting.socket).unwrap();
    write!(old, "GET /api/socket HTTP/1.0\r\nhost: x\r\n{upgrade}\r\n").unwrap();
    let mut came = String::new();
    old.read_to_string(&mut came).unwrap();
    assert!(came.contains("service_request_not_allowed"), "{came}");
    assert_eq!(setting.upstream.seen().len(), 1, "only the page");
    // What else an upgrade could be to is not asked for, and not agreed on.
    let other = upgrade.replace("upgrade: websocket", "upgrade: h2c");
    assert_eq!(code("GET /api/page", &other), (200, String::new()));
    assert_eq!(
        setting.upstream.seen().pop().unwrap().header("upgrade"),
        None
    );
}

#[test]
fn a_service_agrees_to_what_was_asked_or_its_answer_is_passed_on() {
    let proxied = Proxied::of(start());
    let setting = &proxied.setting;
    // A page would be one that no rule is for.
    let odd = ["extension", "protocol", "accept", "page", "elsewhere"];
    for name in odd {
        let told = setting.talk(&format!("/odd/{name}"), &json!({}));
        assert_eq!(
            (&told["status"], &told["code"]),
            (&json!(502), &json!("service_malformed")),
            "{name}: {told}"
        );
    }
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let page = setting.ask("GET /api/odd/page", upgrade, b"");
    assert!(page.status == 502 && !String::from_utf8_lossy(&page.body).contains("nobody decided"));
    let told = setting.talk("/odd/refused", &json!({}));
    assert_eq!(
        (&told["status"], &told["body"]),
        (&json!(403), &json!("no WebSocket for you"))
    );
    let command = proxied.command(interop(".venv-clients/bin/python").to_str().unwrap());
    let told = run(command, &json!({"url": "wss://api.example/v1/odd/refused"}));
    assert_eq!(
        (&told["status"], &told["body"]),
        (&json!(403), &json!("no WebSocket for you"))
    );
    // A frame that no service sends.
    let told = setting.talk("/odd/masked", &json!({"wait": true}));
    assert_eq!(told["closed"], json!([1011, "service_malformed"]));
    // Some clients say that they come from the service itself; nobody else may say where it comes from.
    for (origin, status) in [
        ("https://api.example", Value::Null),
        ("https://other.example", json!(403)),
        ("null", json!(403)),
    ] {
        let url = "wss://api.example/v1/socket";
        let told = proxied.python(&json!({"url": url, "headers": {"origin": origin}}));
        assert_eq!(told["status"], status, "{origin}: {told}");
    }
}

#[test]
fn through_the_proxy_a_websocket_says_why_it_ends_as_well() {
    let proxied = Proxied::of(start());
    let url = "wss://api.example/v1/socket";
    for _ in 0..5 {
        let told = proxied.python(&json!({"url": url, "say": ["hello", "leak"]}));
        assert_eq!(told["heard"], json!(["HELLO"]));
        assert_eq!(told["closed"], json!([1008, "credential_reflected"]));
        let told = proxied.python(&json!({"url": url, "say": ["break off"]}));
        assert_eq!(told["closed"], json!([1011, "service_failed"]));
    }
}

#[test]
fn a_websocket_ends_with_its_placeholder_and_with_the_sidecar() {
    let mut proxied = Proxied::of(start());
    let python = interop(".venv-clients/bin/python");
    let folder = harness::private_folder();
    // The command leaves two behind, each with a WebSocket of its own.
    let given = |url: &str| json!({"url": url, "headers": {"authorization": "Bearer TOKEN"}, "say": ["a"], "wait": true});
    let script = format!(
        "import json, os, subprocess, sys\n\
         for name, given in [('base', {}), ('proxy', {})]:\n\
         \x20   given['url'] = given['url'].replace('BASE', os.environ['API_BASE_URL'].replace('http', 'ws'))\n\
         \x20   given['headers']['authorization'] = 'Bearer ' + os.environ['API_API_KEY']\n\
         \x20   out = open(sys.argv[1] + '/' + name, 'w')\n\
         \x20   subprocess.Popen([sys.executable, sys.argv[2], json.dumps(given)], stdout=out, start_new_session=True)\n\
         import time\ntime.sleep(3)\n",
        given("BASE/socket").to_string().replace("true", "True"),
        given("wss://api.example/v1/socket")
            .to_string()
            .replace("true", "True"),
    );
    let output = Command::new(harness::program("anchorhold"))
        .args(["run", "--endpoint"])
        .arg(format!(
            "unix://{}",
            proxied.setting.running.socket.display()
        ))
        .arg("--")
        .arg(&python)
        .args(["-c", &script])
        .arg(folder.path())
        .arg(interop("websocket_client.py"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    for name in ["base", "proxy"] {
        let file = folder.path().join(name);
        wait_for(|| std::fs::read_to_string(&file).unwrap().ends_with("}\n"));
        let told: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        // Long before anybody would have said something.
        assert_eq!(told["heard"], json!(["A"]), "{name}: {told}");
        assert_eq!(told["closed"][0], 1006, "{name}: {told}");
    }
    proxied.setting.events("credential.close", 2);
    // Two more, and the sidecar stops.
    let begun = std::thread::scope(|scope| {
        let told = scope.spawn(|| {
            let url = "wss://api.example/v1/socket";
            proxied.python(&json!({"url": url, "say": ["a"], "wait": true}))
        });
        wait_for(|| proxied.setting.upstream.seen().len() == 3);
        std::thread::sleep(Duration::from_millis(500));
        let begun = std::time::Instant::now();
        proxied
            .setting
            .running
            .sidecar
            .signal(rustix::process::Signal::TERM);
        told.join().unwrap();
        begun
    });
    proxied.setting.running.sidecar.stop().unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_websocket_ends_with_the_credential_in_it_and_with_what_ends_the_credential() {
    let setting = start();
    let told = setting.talk("/socket", &json!({"say": ["hello", "leak"]}));
    assert_eq!(told["heard"], json!(["HELLO"]));
    assert_eq!(told["closed"], json!([1008, "credential_reflected"]));
    let told = setting.talk("/socket", &json!({"say": ["leak, and close"]}));
    assert_eq!(told["closed"], json!([1008, "credential_reflected"]));
    let told = setting.talk("/socket", &json!({"say": ["close"]}));
    assert_eq!(told["closed"], json!([4002, "as you wish"]));
    let told = setting.talk("/socket", &json!({"say": ["break off"]}));
    assert_eq!(told["closed"], json!([1011, "service_failed"]));
    let waiting = std::thread::scope(|scope| {
        let told = scope.spawn(|| setting.talk("/socket", &json!({"say": ["a"], "wait": true})));
        wait_for(|| setting.upstream.seen().len() == 5);
        std::thread::sleep(Duration::from_millis(500));
        setting.revoke(2, "credential:crew/api");
        told.join().unwrap()
    });
    assert_eq!(waiting["heard"], json!(["A"]));
    assert_eq!(waiting["closed"], json!([1008, "credential_revoked"]));
    let endings: Vec<Value> = setting
        .events("credential.close", 5)
        .iter()
        .map(|event| event["credential"]["ending"].clone())
        .collect();
    let reflected = "credential_reflected";
    let failed = "service_failed";
    assert_eq!(
        endings,
        [
            reflected,
            reflected,
            "complete",
            failed,
            "credential_revoked"
        ]
    );
}

/// A service that wants the credential in its first message, says what it wants to hear, and tells of all that it heard.
fn gateway(
    heard: &Heard,
) -> impl Fn(&Request, &mut Tls) -> io::Result<bool> + Send + Sync + 'static {
    let heard = Arc::clone(heard);
    move |request, tls| {
        agree(request, tls, "")?;
        let mut socket = WebSocket::from_raw_socket(tls, Role::Server, None);
        while let Ok(message) = socket.read() {
            match message {
                Message::Text(text) => {
                    heard.lock().unwrap().push(text.to_string());
                    let _ = socket.send(Message::text("{\"op\":0}"));
                }
                Message::Binary(_) => {
                    let _ = socket.send(Message::text("{}"));
                }
                _ => {}
            }
        }
        Ok(false)
    }
}

type Heard = Arc<Mutex<Vec<String>>>;

#[test]
fn a_credential_stands_in_the_first_message_that_has_its_place() {
    let heard = Heard::default();
    let with = With {
        rules: "{ name = \"talk\", methods = [\"GET\"], paths = [\"/socket\"], identities = [\"crew\"], websocket = true }",
        inject: "{ message = \"/d/token\", format = \"Bot {}\" }",
        bundle: HTTPS_PROXY,
        ..With::default()
    };
    let setting = Setting::with(Upstream::start(gateway(&heard)), &with);
    setting.put_well("crew", SECRET);
    let proxied = Proxied::of(setting);
    let setting = &proxied.setting;
    let identify = r#"{"op": 2, "d": {"token": "mine", "n": 1.50}}"#;
    let say = json!([r#"{"op":1,"d":null}"#, {"long": 100_000}, identify, identify]);
    let placed = identify.replace("mine", &format!("Bot {SECRET}"));
    for (count, by_proxy) in [(1, false), (2, true)] {
        let told = match by_proxy {
            false => setting.talk("/socket", &json!({"say": say})),
            true => run(
                proxied.command(interop(".venv-clients/bin/python").to_str().unwrap()),
                &json!({"url": "wss://api.example/v1/socket", "say": say}),
            ),
        };
        assert_eq!(told["closed"], json!([4000, "enough"]), "{told}");
        let heard = std::mem::take(&mut *heard.lock().unwrap());
        assert_eq!(heard, [r#"{"op":1,"d":null}"#, &placed, identify]);
        // It is no header, and the record knows what the agent said, and nothing of the credential.
        let asked = setting.upstream.seen().pop().unwrap();
        assert!(
            !asked
                .headers
                .iter()
                .any(|(_, value)| value.contains(SECRET))
        );
        let closed = setting.events("credential.close", count);
        let said = [
            r#"{"op":1,"d":null}"#.as_bytes(),
            &vec![0; 100_000],
            identify.as_bytes(),
            identify.as_bytes(),
        ]
        .concat();
        assert_eq!(
            closed[count - 1]["credential"]["sent_digest"],
            identity::sha256(&said).to_string()
        );
    }
    let long = format!(
        "{{\"d\":{{\"token\":\"x\"}},\"y\":\"{}\"}}",
        "z".repeat(65_536)
    );
    for misplaced in [r#"{"d":{"token":"x"},"d":{"token":"y"}}"#, &long] {
        let told = setting.talk("/socket", &json!({"say": [misplaced]}));
        assert_eq!(told["closed"], json!([1008, "placeholder_misplaced"]));
    }
    assert!(heard.lock().unwrap().is_empty());
}

#[test]
fn a_caller_has_so_many_websockets_and_each_is_one_request_of_a_limit() {
    let limited = RULES.replacen(
        "websocket = true",
        "websocket = true, limits = [{ per = \"hour\", max = 66 }]",
        1,
    );
    let with = With {
        rules: &limited,
        ..With::default()
    };
    let setting = Setting::with(Upstream::start(service), &with);
    setting.put_well("crew", SECRET);
    let open = || {
        let mut stream = std::os::unix::net::UnixStream::connect(&setting.socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let head = "GET /api/socket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut came = vec![0; 4096];
        let read = stream.read(&mut came).unwrap();
        (String::from_utf8_lossy(&came[..read]).into_owned(), stream)
    };
    let mut all: Vec<_> = (0..64).map(|_| open()).collect();
    for (head, _) in &all {
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    }
    let (head, _) = open();
    assert!(head.starts_with("HTTP/1.1 503") && head.contains("service_busy"));
    // A place is given back by one that goes away, however it does.
    all.truncate(60);
    setting.events("credential.close", 4);
    for _ in 0..2 {
        let (head, _stream) = open();
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    }
    let (head, _) = open();
    assert!(
        head.starts_with("HTTP/1.1 429") && head.contains("rate_limit_exceeded"),
        "{head}"
    );
}

#[test]
fn nobody_approves_a_websocket_of_which_nothing_can_be_shown() {
    let module = "package a\nallow if not input.payload.path == \"/odd/never\"\n\
        require_approval if input.payload.websocket";
    let key = KeyFile::create(&harness::private_folder().path().join("alice.key")).unwrap();
    let bundle = format!(
        "rego = {{ entrypoint = 'data.a', module = '''{module}''', approval = {{ by = ['alice'], seconds = 60 }} }}\n\
         [[approvers]]\nname = \"alice\"\nkey = \"{}\"\n",
        key.public_key().to_multikey()
    );
    let with = With {
        rules: RULES,
        bundle: &bundle,
        ..With::default()
    };
    let setting = Setting::with(Upstream::start(service), &with);
    setting.put_well("crew", SECRET);
    let told = setting.talk("/socket", &json!({}));
    assert_eq!(told["code"], "service_request_not_allowed", "{told}");
    assert!(
        told["body"].as_str().unwrap().contains("still to come"),
        "{told}"
    );
    assert_eq!(setting.ask("GET /api/page", "", b"").status, 200);
    assert_eq!(setting.upstream.seen().len(), 1);
}
