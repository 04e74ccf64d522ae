#![no_main]

//! Bytes as a request to the sidecar: a method and a path, a content type, and a body. A sidecar and a
//! development enclave run in this process, and answer whatever it is: never with a fault of their own,
//! always with a code, and with a signature over what was asked for and nothing else.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};

use data_encoding::BASE64URL_NOPAD;
use harness::window::InProcess;
use harness::{Answer, Connection, wait_for};
use identity::{Digest, Signer, json};
use libfuzzer_sys::fuzz_target;
use parent_proxy::{Config, KeyFile};
use qemu_dev::authority::Authority;
use qemu_dev::nsm::{Encoding, MockNsm, os_random};
use serde_json::Value;

/// Whoever runs this may have everything signed as `agent`, asks Alice as `asks`, and is nobody to `others`.
const POLICY: &str = r#"
version = 1
mode = "development"
proxy_key = "PROXY"
operator_key = "OPERATOR"
[[approvers]]
name = "alice"
key = "z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw"
[[identities]]
name = "agent"
environment = "test"
did = "did:key"
algorithm = "EdDSA"
max_validity_seconds = 600
callers = { uids = [UID] }
rotation_callers = { uids = [UID] }
[[identities.rules]]
name = "any"
actions = ["*"]
targets = ["*"]
resources = ["*"]
envelope = true
delegatees = ["did:key:*"]
[[identities]]
name = "asks"
environment = "test"
did = "did:web:agent.example.com"
algorithm = "ES256"
max_validity_seconds = 600
callers = { uids = [UID] }
[[identities.rules]]
name = "any"
actions = ["pay"]
targets = ["*"]
resources = ["https://bank.example/*"]
approval = { by = ["alice"], seconds = 600 }
[identities.rules.payload]
"/amount" = { min = 1, max = 100 }
[[identities]]
name = "others"
environment = "test"
did = "did:key"
algorithm = "EdDSA"
max_validity_seconds = 600
callers = { names = ["OTHERS"] }
[[identities.rules]]
name = "any"
actions = ["*"]
targets = ["*"]
resources = ["*"]
"#;

/// Who may use what nobody else shall hear of; no input has it by chance in a spelling of its own.
const OTHERS: &str = "crew-of-the-night-shift";

/// Everything that is there, and ends with the process.
struct Running {
    socket: PathBuf,
    connection: Mutex<Option<Connection>>,
}

static RUNNING: LazyLock<Running> = LazyLock::new(|| {
    // libFuzzer's `main` is none of Rust's, which ignores it: a connection that was closed would end this process.
    let broken_pipe = signal_hook::flag::register(signal_hook::consts::SIGPIPE, Arc::default());
    broken_pipe.expect("a handler");
    // What the last one left goes; this process ends without saying so.
    let folder = std::env::temp_dir().join("anchorhold-fuzz-http");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    let mode = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(&folder, mode(0o700)).expect("its mode");
    let now = harness::now().0.unsigned_abs();
    let nsm = MockNsm::new(
        Authority::new(now, &mut os_random),
        &[Digest([1; 48]), Digest([2; 48]), Digest([3; 48])],
        Box::new(|| harness::now().0.unsigned_abs() * 1000),
        Encoding::Definite,
    );
    let enclave = InProcess::boot(nsm.expect("a mock"));
    let key = KeyFile::create(&folder.join("proxy.pem")).expect("a key");
    let policy = POLICY
        .replace("OTHERS", OTHERS)
        .replace("PROXY", &key.public_key().to_multikey())
        .replace("OPERATOR", &fuzzing::KEY.public().to_multikey())
        .replace(
            "UID",
            &fs::metadata(&folder).expect("a folder").uid().to_string(),
        );
    fs::write(folder.join("policy.toml"), policy).expect("a file");
    let config = format!(
        "enclave = \"unix://{}\"\nbundle = \"policy.toml\"\nproxy_key = \"proxy.pem\"\nsocket = \"agents.sock\"\n\
         record = \"record\"\nlog_level = \"off\"\n[limits]\nrequests_per_second = 0\n",
        enclave.socket.display()
    );
    fs::write(folder.join("sidecar.toml"), config).expect("a file");
    std::mem::forget(enclave);
    let config = Config::read(&folder.join("sidecar.toml")).expect("a configuration");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.enable_all().worker_threads(1).build();
        let ended = runtime
            .expect("a runtime")
            .block_on(parent_proxy::run(config));
        panic!("the sidecar ended: {ended:?}");
    });
    let socket = folder.join("agents.sock");
    wait_for(|| harness::get(&socket, "/ready").is_ok_and(|answer| answer.status == 200));
    Running {
        socket,
        connection: Mutex::default(),
    }
});

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let (Some(line), Some(kind), Some(body)) = (lines.next(), lines.next(), lines.next()) else {
        return;
    };
    // Behind a path that is none, hyper takes these bytes for the beginning of HTTP/2, and closes without a word.
    if body.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") {
        return;
    }
    let graphic = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic);
    let Some(space) = line.iter().position(|byte| *byte == b' ') else {
        return;
    };
    let (method, path) = (&line[..space], &line[space + 1..]);
    // An answer to HEAD has no body, one to CONNECT no length, a placeholder no end.
    let is_left_out = ["HEAD", "CONNECT"]
        .iter()
        .any(|left| method.eq_ignore_ascii_case(left.as_bytes()));
    if !method.iter().all(u8::is_ascii_uppercase)
        || method.is_empty()
        || is_left_out
        || !graphic(path)
        || path[0] != b'/'
        || path.starts_with(b"/placeholder")
        || !kind.iter().all(|byte| matches!(byte, b' '..=b'~'))
    {
        return;
    }
    let mut request = [method, b" ", path, b" HTTP/1.1\r\nhost: localhost\r\n"].concat();
    if !kind.is_empty() {
        request.extend([b"content-type: ", kind, b"\r\n"].concat());
    }
    request.extend(format!("content-length: {}\r\n\r\n", body.len()).bytes());
    request.extend(body);
    let answer = ask(&request);
    let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    assert!(answer.status != 500 && answer.status >= 200, "{answer:?}");
    // What is no HTTP is refused by hyper, which says no more and closes.
    let is_no_http = answer.status == 400
        && answer.body.is_empty()
        && answer.header("connection").as_deref() == Some("close");
    if answer.status >= 400 && !is_no_http {
        let code = said["code"].as_str().unwrap_or_default();
        assert!(!code.is_empty(), "{answer:?}");
    }
    // Unless it was in what was asked, which may be said again.
    let names_others = |text: &str| text.contains(OTHERS);
    let asked = String::from_utf8_lossy(&request);
    assert!(
        names_others(&asked) || !names_others(&said.to_string()),
        "{answer:?}"
    );
    if answer.status == 200 && path == b"/sign" {
        signed(body, &said);
    }
});

/// An answer, over the connection of before if it is still there.
fn ask(request: &[u8]) -> Answer {
    let mut kept = RUNNING.connection.lock().expect("not poisoned");
    for _ in 0..2 {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(&RUNNING.socket).expect("a connection"),
        };
        if let Ok(answer) = connection.request(request) {
            let closes = answer
                .header("connection")
                .is_some_and(|value| value == "close");
            *kept = (!closes).then_some(connection);
            return answer;
        }
    }
    panic!("no answer to {}", String::from_utf8_lossy(request));
}

/// What was signed is what was asked for, as another reader finds it.
fn signed(body: &[u8], said: &Value) {
    let asked: Value = serde_json::from_slice(body).expect("it was taken as JSON");
    let action = asked["intent"]
        .as_str()
        .or(asked["intent"]["action"].as_str());
    if let Some(token) = said["vouch_token"].as_str() {
        let claims = token.split('.').nth(1).expect("three parts");
        let claims = BASE64URL_NOPAD
            .decode(claims.as_bytes())
            .expect("base64url");
        let claims: Value = serde_json::from_slice(&claims).expect("JSON");
        assert_eq!(claims["vouch"]["payload"], asked["payload"]);
        assert_eq!(claims["vouch"]["intent"]["action"].as_str(), action);
        assert_eq!(claims["aud"], asked["audience"]);
    }
    if let Some(credential) = said.get("credential") {
        let subject = &credential["credentialSubject"];
        assert_eq!(subject["intent"]["action"].as_str(), action, "{credential}");
    }
    let kinds = ["vouch_token", "credential", "envelope"];
    assert_eq!(
        kinds.iter().filter(|kind| !said[**kind].is_null()).count(),
        1
    );
    assert!(json::parse(body).is_ok());
}
