//! The sidecar as a service, and the files in deploy/.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::BASE64URL_NOPAD;
use harness::window::TestKey;
use harness::{Connection, Lasting, Traced, get, post, private_folder, program, wait_for};
use identity::request::Approval;
use identity::{Digest, Signer, sha256};
use parent_proxy::KeyFile;
use policy::{Annex, Bundle};
use qemu_dev::{Program, State};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::credentials::setting::Setting;
use super::credentials::upstream::{Upstream, answer};
use harness::services::{PLACEHOLDER, SECRET, With};

/// Hands a listening socket over as systemd does (sd_listen_fds(3)), then becomes the sidecar.
const ACTIVATE: &str = r#"
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o600); s.listen()
os.dup2(s.fileno(), 3); os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS=sys.argv[2], LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[3], sys.argv[3:])
"#;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

#[test]
fn the_sidecar_takes_its_socket_from_systemd_and_says_when_it_is_ready() {
    let folder = private_folder();
    let state = State::open(folder.path()).unwrap();
    let _enclave = Program::at(&program("anchorhold-dev"))
        .start_listening_enclave(&state, None, &[])
        .unwrap();
    let (unused, socket) = (
        folder.path().join("run/unused.sock"),
        folder.path().join("given.sock"),
    );
    let config = state.write_sidecar_config(&unused, "").unwrap();
    let notify = folder.path().join("notify");
    let heard = UnixDatagram::bind(&notify).unwrap();
    heard
        .set_read_timeout(Some(std::time::Duration::from_secs(20)))
        .unwrap();
    let hear = || {
        let mut message = [0; 256];
        let read = heard.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..read]).into_owned()
    };
    let start = |count: &str| {
        let mut command = Command::new("python3");
        command
            .args(["-c", ACTIVATE])
            .arg(&socket)
            .arg(count)
            .arg(program("anchorhold"))
            .args(["serve", "--config"])
            .arg(&config);
        command.env("NOTIFY_SOCKET", &notify);
        command
    };
    let mut sidecar = start("1").spawn().unwrap();
    assert_eq!(hear().trim(), "READY=1");
    wait_for(|| get(&socket, "/ready").is_ok_and(|answer| answer.status == 200));
    assert_eq!(
        post(&socket, "/sign", &json!({"payload": {}, "intent": "a"}))
            .unwrap()
            .status,
        200
    );
    assert!(!unused.exists());
    kill_process(
        Pid::from_raw(sidecar.id().cast_signed()).unwrap(),
        Signal::TERM,
    )
    .unwrap();
    assert_eq!(hear().trim(), "STOPPING=1");
    assert!(sidecar.wait().unwrap().success());
    // The socket is systemd's, and stays for the next start.
    assert!(socket.exists());

    std::fs::remove_file(&socket).unwrap();
    let output = start("2").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("2 sockets were handed over"));
}

#[test]
fn the_units_are_hardened_and_sound() {
    for unit in [
        "systemd/anchorhold.service",
        "systemd/anchorhold-enclave.service",
        "systemd/anchorhold-gateway.service",
    ] {
        let mut command = Command::new("systemd-analyze");
        command
            .args(["security", "--offline=yes", "--no-pager", "--threshold=20"])
            .arg(deploy(unit));
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{unit}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    // Every setting is one that systemd knows: it says so of those that it does not.
    let folder = private_folder();
    let drop_ins = "anchorhold.service.d";
    std::fs::create_dir(folder.path().join(drop_ins)).unwrap();
    for name in ["durable.conf", "credentials.conf"] {
        let name = Path::new(drop_ins).join(name);
        std::fs::copy(deploy("systemd").join(&name), folder.path().join(&name)).unwrap();
    }
    for unit in [
        "anchorhold.service",
        "anchorhold.socket",
        "anchorhold-enclave.service",
        "anchorhold-gateway.service",
    ] {
        let text = std::fs::read_to_string(deploy("systemd").join(unit)).unwrap();
        // The programs of a real host are not here.
        let lines = text.lines().map(|line| match line.split_once('=') {
            Some((name, _)) if name.starts_with("Exec") => format!("{name}=/bin/true"),
            _ => line.to_owned(),
        });
        std::fs::write(
            folder.path().join(unit),
            lines.collect::<Vec<_>>().join("\n"),
        )
        .unwrap();
    }
    let units = [
        "anchorhold.service",
        "anchorhold.socket",
        "anchorhold-enclave.service",
        "anchorhold-gateway.service",
    ]
    .map(|unit| folder.path().join(unit));
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(&units)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("anchorhold"))
        .collect();
    assert!(output.status.success() && ours.is_empty(), "{text}");
}

#[test]
fn the_seccomp_profile_for_pods_lets_vsock_through_and_knows_its_calls() {
    let profile: Value =
        serde_json::from_slice(&std::fs::read(deploy("seccomp/anchorhold-sidecar.json")).unwrap())
            .unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let rules = profile["syscalls"].as_array().unwrap();
    let names: BTreeSet<&str> = rules
        .iter()
        .flat_map(|rule| rule["names"].as_array().unwrap())
        .map(|name| name.as_str().unwrap())
        .collect();
    for needed in ["epoll_wait", "accept4", "connect", "getrandom", "futex"] {
        assert!(names.contains(needed), "{needed}");
    }
    for never in [
        "ptrace",
        "mount",
        "bpf",
        "kexec_load",
        "init_module",
        "setns",
        "unshare",
    ] {
        assert!(!names.contains(never), "{never}");
    }
    let sockets: Vec<u64> = rules
        .iter()
        .filter(|rule| rule["names"].as_array().unwrap().contains(&json!("socket")))
        .map(|rule| rule["args"][0]["value"].as_u64().unwrap())
        .collect();
    // AF_UNIX, AF_INET, AF_INET6, AF_VSOCK.
    assert_eq!(sockets, [1, 2, 10, 40]);
}

/// What the profile allows: names of system calls, and of `socket` the first arguments.
struct Profile {
    names: BTreeSet<String>,
    families: BTreeSet<u64>,
}

impl Profile {
    fn read() -> Self {
        let profile: Value = serde_json::from_slice(
            &std::fs::read(deploy("seccomp/anchorhold-sidecar.json")).unwrap(),
        )
        .unwrap();
        let rules = profile["syscalls"].as_array().unwrap();
        let names = rules
            .iter()
            .flat_map(|rule| rule["names"].as_array().unwrap());
        let families = rules
            .iter()
            .filter_map(|rule| rule["args"][0]["value"].as_u64());
        Self {
            names: names
                .map(|name| name.as_str().unwrap().to_owned())
                .collect(),
            families: families.collect(),
        }
    }

    /// The calls of a trace that it would have refused.
    fn refused(&self, trace: &str) -> BTreeSet<String> {
        let calls = trace
            .lines()
            .filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('('));
        // Not the ends of calls, signals and processes.
        let calls = calls.filter(|(name, _)| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        });
        let refused = calls.filter(|(name, arguments)| match *name {
            "socket" => {
                let family = arguments.split(',').next().unwrap_or_default();
                let number = match family {
                    "AF_UNIX" => 1,
                    "AF_INET" => 2,
                    "AF_INET6" => 10,
                    "AF_NETLINK" => 16,
                    "AF_VSOCK" => 40,
                    other => panic!("socket({other}"),
                };
                !self.families.contains(&number)
            }
            name => !self.names.contains(name),
        });
        refused
            .map(|(name, arguments)| {
                if name == "socket" {
                    format!("socket({arguments}")
                } else {
                    name.to_owned()
                }
            })
            .collect()
    }
}

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const APPROVER: u8 = 60;
const ISSUER: u8 = 50;

/// A policy and a configuration in which there is something to do for every route; gives the
/// configuration's file.
fn with_everything(state: &State, port: u16) -> PathBuf {
    let key = |byte| TestKey::new(byte).public_key().to_multikey();
    let base = state
        .development_policy(&[("agent", "did:key", "EdDSA")])
        .unwrap();
    let mut policy: Value =
        serde_json::from_slice(&Bundle::from_toml(&base).unwrap().canonical()).unwrap();
    let agent = &mut policy["identities"][0];
    agent["callers"]["names"] = json!(["crew", "measured"]);
    agent["delegation"] = json!({"from": ["issuer:corp"], "scopes": ["comment"], "resources": ["mcp://github", "mcp://github/*"]});
    let mut approved = agent["rules"][0].clone();
    approved["name"] = json!("deployments");
    approved["actions"] = json!(["deploy"]);
    approved["approval"] = json!({"by": ["alice"], "seconds": 600});
    agent["rules"][0]["actions"] = json!(["a"]);
    agent["rules"].as_array_mut().unwrap().push(approved);
    policy["approvers"] = json!([{"name": "alice", "key": key(APPROVER)}]);
    state
        .set_policy(&String::from_utf8(identity::json::canonical(&policy).unwrap()).unwrap())
        .unwrap();

    sign_annex(state, 1);
    let token = state.folder().join("crew.token");
    std::fs::write(&token, TOKEN).unwrap();
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let own = rustix::process::geteuid().as_raw();
    let config = format!(
        "annex = \"annex.cose\"\nrecord_rotate_bytes = 4096\nrecord_sync_ms = 50\n\
         [[sockets]]\nname = \"one\"\npath = \"run/one.sock\"\nuid = {own}\n\
         [localhost]\nlisten = \"127.0.0.1:{port}\"\n\
         [[localhost.callers]]\nname = \"crew\"\ntoken_file = \"crew.token\"\noperator = true\n"
    );
    state
        .write_sidecar_config(&state.folder().join("run/s.sock"), &config)
        .unwrap()
}

/// The operator's annex: an issuer, and a caller by its executable, so that executables are
/// measured.
fn sign_annex(state: &State, version: u32) {
    let text = format!(
        "version = {version}\n[[issuers]]\nname = \"corp\"\niss = \"https://idp.example\"\nkeys = [\"{}\"]\n\
         [[callers]]\nname = \"measured\"\nuid = {}\nexecutables = [\"{}\"]\n",
        TestKey::new(ISSUER).public_key().to_multikey(),
        rustix::process::geteuid().as_raw(),
        sha256(b"a program"),
    );
    let signed = Annex::from_toml(&text)
        .unwrap()
        .sign(&KeyFile::read(&state.operator_key()).unwrap())
        .unwrap();
    std::fs::write(state.folder().join("annex.cose"), signed).unwrap();
}

/// What an issuer delegates to the agent: an EdDSA JWT (RFC 8037).
fn delegated() -> String {
    let now = harness::now().0;
    let claims = json!({
        "iss": "https://idp.example", "sub": "user:sre", "aud": "agent:agent", "iat": now, "exp": now + 600, "jti": "grant-1",
        "scope": "comment", "resource": "mcp://github", "may_act": {"sub": "agent:agent"}
    });
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!(
        "{}.{}",
        part(&json!({"alg": "EdDSA", "typ": "JWT"})),
        part(&claims)
    );
    format!(
        "{signed}.{}",
        BASE64URL_NOPAD.encode(&TestKey::new(ISSUER).sign_bytes(signed.as_bytes()))
    )
}

/// `POST /token` for what was delegated.
fn exchange(socket: &Path) -> std::io::Result<harness::Answer> {
    let body = form_urlencoded::Serializer::new(String::new())
        .append_pair(
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        )
        .append_pair("subject_token_type", "urn:ietf:params:oauth:token-type:jwt")
        .append_pair("subject_token", &delegated())
        .finish();
    let head = format!(
        "POST /token HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    Connection::open(socket)?.request(&[head.as_bytes(), body.as_bytes()].concat())
}

/// `GET` on localhost, with the token.
fn get_on_localhost(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nhost: localhost:{port}\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Asks for everything that the API offers.
fn use_every_route(state: &State, socket: &Path) {
    let ok = |answer: std::io::Result<harness::Answer>, status: u16| {
        let answer = answer.unwrap();
        assert_eq!(
            answer.status,
            status,
            "{}\n{}",
            answer.head,
            String::from_utf8_lossy(&answer.body)
        );
        answer
    };
    for path in [
        "/health",
        "/ready",
        "/openapi.json",
        "/identity",
        "/.well-known/did.json",
        "/.well-known/jwks.json",
        "/metrics",
        "/status",
        "/approvals",
    ] {
        ok(get(socket, path), 200);
    }
    ok(get(socket, "/nothing"), 404);
    let signed = ok(
        post(socket, "/sign", &json!({"payload": {}, "intent": "a"})),
        200,
    )
    .json();
    let intent = json!({"action": "a", "target": "t", "resource": "https://x.example"});
    let credential = json!({"payload": {}, "intent": intent, "format": "vouch-credential"});
    ok(post(socket, "/sign", &credential), 200);
    let nonce = "00112233445566778899aabbccddeeff";
    let evidence = ok(post(socket, "/attestation", &json!({"nonce": nonce})), 200).body;
    let verify = json!({
        "token": signed["vouch_token"], "evidence": BASE64URL_NOPAD.encode(&evidence), "nonce": nonce,
        "bundles": [std::fs::read_to_string(state.policy()).unwrap()],
        "measurements": [serde_json::from_slice::<Value>(&std::fs::read(state.measurements()).unwrap()).unwrap()],
    });
    // A mock is refused, after everything was looked at.
    ok(post(socket, "/verify", &verify), 200);
    ok(exchange(socket), 200);

    let mut deploy = json!({"payload": {}, "intent": "deploy"});
    let waiting = ok(post(socket, "/sign", &deploy), 202).json()["approval"].clone();
    let text = |name: &str| waiting[name].as_str().unwrap().to_owned();
    let path = format!("/approvals/{}", text("id"));
    ok(get(socket, &path), 200);
    let approval = Approval {
        approval: identity::ApprovalId::from_hex(&text("id")).unwrap(),
        boot_id: identity::BootId::from_hex(&text("boot_id")).unwrap(),
        exp: harness::now().0 + 60,
        request: Digest::from_hex(&text("request_digest")).unwrap(),
    };
    let jws = approval.sign(&TestKey::new(APPROVER)).unwrap();
    ok(post(socket, &path, &json!({"approval": jws})), 200);
    deploy["approval"] = json!(text("id"));
    ok(post(socket, "/sign", &deploy), 200);

    ok(post(socket, "/rotate", &json!({})), 200);
    let signed = ok(
        post(socket, "/sign", &json!({"payload": {}, "intent": "a"})),
        200,
    )
    .json();
    assert_eq!(signed["key_version"], 2);
}

#[test]
fn a_sidecar_within_the_profile_for_pods_does_all_that_it_does() {
    let folder = private_folder();
    let state = State::open(folder.path()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = with_everything(&state, port);
    let dev = Program::at(&program("anchorhold-dev"));
    let mut enclave = dev.start_listening_enclave(&state, None, &[]).unwrap();
    let (socket, one) = (
        folder.path().join("run/s.sock"),
        folder.path().join("run/one.sock"),
    );
    let sign = || {
        post(&socket, "/sign", &json!({"payload": {}, "intent": "a"}))
            .is_ok_and(|answer| answer.status == 200)
    };
    let ready = || get(&socket, "/ready").is_ok_and(|answer| answer.status == 200);
    let files = || {
        let mut files: Vec<PathBuf> = std::fs::read_dir(state.record())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.retain(|file| {
            file.extension()
                .is_some_and(|extension| extension == "jsonl")
        });
        files.sort();
        files
    };
    let record = || {
        files()
            .iter()
            .map(|file| std::fs::read_to_string(file).unwrap())
            .collect::<String>()
    };

    // One life, which ends as in a crash.
    let traced = Traced::start(&config, &folder.path().join("first"), "all");
    let Some(mut first) = traced else {
        return harness::skipped("strace is not installed");
    };
    wait_for(ready);
    use_every_route(&state, &socket);
    assert_eq!(
        post(&one, "/sign", &json!({"payload": {}, "intent": "a"}))
            .unwrap()
            .status,
        200
    );
    assert!(files().len() > 1, "the record goes on in another file");
    let metrics = get_on_localhost(port, "/metrics");
    let description: Value =
        serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap();
    // Those of a state that outlives a boot, and of services, have sidecars of their own below.
    let elsewhere = ["/state", "/credentials", "/services", "/placeholder", "/ca"];
    let paths = description["paths"].as_object().unwrap().keys();
    for path in paths.filter(|path| !elsewhere.iter().any(|start| path.starts_with(start))) {
        let answered = |line: &str| {
            line.contains(&format!("route=\"{path}\"")) && line.contains("status=\"20")
        };
        assert!(
            metrics.lines().any(answered),
            "{path} was not used: {metrics}"
        );
    }
    sign_annex(&state, 2);
    first.signal(Signal::HUP);
    wait_for(|| sign() && record().contains("\"version\":2}"));
    // Another boot.
    enclave.kill().unwrap();
    wait_for(|| {
        post(&socket, "/sign", &json!({"payload": {}, "intent": "a"}))
            .is_ok_and(|answer| answer.status == 503)
    });
    enclave = dev.start_listening_enclave(&state, None, &[]).unwrap();
    wait_for(sign);
    first.signal(Signal::KILL);
    first.wait();

    // The next life finds a socket that nobody listens on, and a line of the record that is not
    // whole. It is told to end.
    let last = files().pop().unwrap();
    let text = std::fs::read(&last).unwrap();
    std::fs::write(&last, &text[..text.len() - 1]).unwrap();
    let mut second = Traced::start(&config, &folder.path().join("second"), "all").unwrap();
    wait_for(ready);
    wait_for(sign);
    assert!(second.stop().success());
    assert!(!socket.exists());
    drop(enclave);

    let profile = Profile::read();
    for life in [&first, &second] {
        assert_eq!(profile.refused(&life.calls()), BTreeSet::new());
    }
}

#[test]
fn a_sidecar_that_keeps_a_state_stays_within_the_profile_for_pods() {
    let mut lasting = Lasting::unborn(&[("agent", "did:key", "EdDSA")]);
    lasting.sidecar.kill().unwrap();
    let config = lasting.state.sidecar_config();
    let text = std::fs::read_to_string(&config).unwrap();
    let port = lasting.durable.address().port();
    let address = format!("kms_address = \"127.0.0.1:{port}\"");
    assert!(text.contains(&address), "{text}");
    let (socket, folder) = (lasting.socket.clone(), lasting.folder().to_owned());
    let named = |name: &str| {
        let text = text.replace(&address, &format!("kms_address = \"{name}:{port}\""));
        std::fs::write(&config, text).unwrap();
        let _ = std::fs::remove_file(&socket);
        Traced::start(&config, &folder.join(name), "all")
    };
    // Its whole life: a birth, a rotation, a drill.
    let Some(mut first) = named("localhost") else {
        return harness::skipped("strace is not installed");
    };
    wait_for(|| lasting.socket.exists() && lasting.phase().is_some());
    let ok = |answer: std::io::Result<harness::Answer>| assert_eq!(answer.unwrap().status, 200);
    let nonce = "00112233445566778899aabbccddeeff";
    ok(post(
        &lasting.socket,
        "/state/document",
        &json!({"nonce": nonce}),
    ));
    lasting.birth();
    lasting.wait_until_ready();
    ok(post(&lasting.socket, "/rotate", &json!({})));
    ok(post(&lasting.socket, "/state/drill", &json!({})));
    lasting.sign();
    assert!(first.stop().success());
    // What it kept is opened; a name that no resolver knows is asked for, and the sidecar waits.
    lasting.reboot();
    let mut second = named("kms.invalid").unwrap();
    wait_for(|| lasting.socket.exists());
    lasting.wait_for_refusal("kms_not_reachable");
    assert!(second.stop().success());
    let mut third = named("localhost").unwrap();
    lasting.wait_until_ready();
    lasting.sign();
    assert!(third.stop().success());
    let profile = Profile::read();
    for life in [&first, &second, &third] {
        assert_eq!(profile.refused(&life.calls()), BTreeSet::new());
    }
}

#[test]
fn a_sidecar_in_front_of_services_stays_within_the_profile_for_pods() {
    let upstream = Upstream::start(|request, tls| answer(tls, 200, "", &request.body));
    let mut setting = Setting::with(upstream, &With::default());
    setting.running.sidecar.kill().unwrap();
    let (state, folder) = (&setting.running.state, setting.running.folder());
    let start = |name: &str| {
        for socket in [&setting.running.socket, &setting.socket] {
            let _ = std::fs::remove_file(socket);
        }
        Traced::start(&state.sidecar_config(), &folder.join(name), "all")
    };
    let ready = || get(&setting.running.socket, "/ready").is_ok_and(|got| got.status == 200);
    let Some(mut first) = start("first") else {
        return harness::skipped("strace is not installed");
    };
    wait_for(ready);
    setting.put_well("crew", SECRET);
    for path in ["/services", "/credentials", "/placeholder", "/metrics"] {
        assert_eq!(get(&setting.running.socket, path).unwrap().status, 200);
    }
    let body = vec![b'a'; 1 << 20];
    assert_eq!(setting.ask("POST /api/chat", "", &body).body, body);
    let placeholder = format!("x-api-key: {PLACEHOLDER}\r\n");
    let told = setting.ask_tcp("POST /api/chat", &placeholder, &body);
    assert!(told.starts_with("HTTP/1.1 200"), "{told:.100}");
    first.signal(Signal::KILL);
    first.wait();
    // The next life finds what the first one kept, and is told to take it away.
    let mut second = start("second").unwrap();
    wait_for(ready);
    assert_eq!(setting.ask("POST /api/chat", "", b"a").body, b"a");
    let removed = setting.command(&["remove", "--identity", "crew", "--service", "api"], "");
    assert!(removed.status.success(), "{removed:?}");
    assert_eq!(setting.ask("POST /api/chat", "", b"a").status, 403);
    assert!(second.stop().success());
    let profile = Profile::read();
    for life in [&first, &second] {
        assert_eq!(profile.refused(&life.calls()), BTreeSet::new());
    }
}

#[test]
fn the_template_of_the_kms_key_is_good_by_awss_own_linter() {
    let lint =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/.venv-cfn-lint-1.58.0/bin/cfn-lint");
    let linted = |template: &Path| {
        let output = Command::new(&lint).arg(template).output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let template = deploy("cloudformation/state-key.yaml");
    assert_eq!(linted(&template), (true, String::new()));
    // It looks at properties, and at what is referred to.
    let text = std::fs::read_to_string(&template).unwrap();
    let folder = private_folder();
    for (here, wrong) in [("KeyPolicy:", "KeyPolitics:"), ("!Ref Pcr16", "!Ref Pcr17")] {
        assert!(text.contains(here), "{here}");
        let file = folder.path().join("wrong.yaml");
        std::fs::write(&file, text.replace(here, wrong)).unwrap();
        assert!(!linted(&file).0, "{wrong}");
    }
}
