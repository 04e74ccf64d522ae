use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::{Connection, Running, get, post, raw};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde_json::json;

const BODY: &[u8] = b"{\"payload\":{},\"intent\":\"a\"}";

#[test]
fn while_the_enclave_is_away_requests_get_503_with_retry_after_and_a_new_boot_is_a_new_identity() {
    let mut running = Running::start();
    let before = get(&running.socket, "/identity").unwrap().json();
    running.enclave.kill().unwrap();
    harness::wait_for(|| get(&running.socket, "/ready").unwrap().status == 503);
    let refused = post(
        &running.socket,
        "/sign",
        &json!({"payload": {}, "intent": "a"}),
    )
    .unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "enclave_unavailable")
    );
    assert_eq!(refused.header("retry-after").as_deref(), Some("1"));
    assert_eq!(
        get(&running.socket, "/health").unwrap().status,
        200,
        "the sidecar itself lives"
    );

    running.start_enclave();
    running.wait_until_ready();
    let after = get(&running.socket, "/identity").unwrap().json();
    assert_ne!(before["did"], after["did"]);
    assert_ne!(before["boot_id"], after["boot_id"]);
    assert_eq!(after["key_version"], 1);
    let metrics = String::from_utf8(get(&running.socket, "/metrics").unwrap().body).unwrap();
    assert!(
        metrics.contains("anchorhold_enclave_boots_total 2"),
        "{metrics}"
    );
    assert!(
        running.log().contains("\"again\":true"),
        "the log says that it is another boot"
    );
}

#[test]
fn an_enclave_killed_in_the_middle_of_requests_leaves_none_without_an_answer() {
    let mut running = Running::unlimited();
    let (stop, good, away) = (
        AtomicBool::new(false),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut connection = Connection::open(&running.socket).unwrap();
                let request = raw("/sign", Some(BODY));
                while !stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let answer = connection.request(&request).unwrap();
                    assert!(
                        begin.elapsed() < Duration::from_secs(11),
                        "an answer came too late"
                    );
                    match (answer.status, answer.code().as_str()) {
                        (200, _) => good.fetch_add(1, Ordering::Relaxed),
                        (503, "enclave_unavailable") => away.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other:?}"),
                    };
                }
            });
        }
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(300));
            running.enclave.kill().unwrap();
            std::thread::sleep(Duration::from_millis(100));
            let program = qemu_dev::Program::at(&harness::program("anchorhold-dev"));
            running.enclave = program
                .start_listening_enclave(&running.state, None, &[])
                .unwrap();
        }
        std::thread::sleep(Duration::from_millis(2500));
        let before = good.load(Ordering::Relaxed);
        harness::wait_for(|| good.load(Ordering::Relaxed) > before + 100);
        stop.store(true, Ordering::Relaxed);
    });
    assert!(away.load(Ordering::Relaxed) > 0, "the kills were felt");
}

#[test]
fn an_enclave_that_hangs_is_found_out_and_taken_back_when_it_wakes() {
    use rustix::process::Signal;
    let running = Running::start();
    let sign = || {
        post(
            &running.socket,
            "/sign",
            &json!({"payload": {}, "intent": "a"}),
        )
        .unwrap()
    };
    let before = get(&running.socket, "/identity").unwrap().json();
    running.enclave.freeze().unwrap();
    let begin = Instant::now();
    // One request on each of the two connections finds out; after that nobody waits.
    for _ in 0..2 {
        let answer = sign();
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (504, "enclave_timeout")
        );
    }
    assert!(begin.elapsed() < Duration::from_secs(25));
    let begin = Instant::now();
    assert_eq!(sign().code(), "enclave_unavailable");
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "it is known to hang"
    );
    running.enclave.signal(Signal::CONT);
    running.wait_until_ready();
    assert_eq!(sign().status, 200);
    assert_eq!(
        get(&running.socket, "/identity").unwrap().json()["did"],
        before["did"],
        "the same boot, the same key"
    );
}

#[test]
fn an_enclave_with_another_policy_is_not_used() {
    let mut running = Running::start();
    running.sidecar.stop().unwrap();
    // The sidecar comes back with another policy; the enclave has its own for good.
    let text = std::fs::read_to_string(running.state.policy()).unwrap();
    running
        .state
        .set_policy(&text.replace("max_validity_seconds = 3600", "max_validity_seconds = 60"))
        .unwrap();
    let program = qemu_dev::Program::at(&harness::program("anchorhold-dev"));
    running.sidecar = program
        .start_sidecar(&running.folder().join("sidecar.toml"), None, &[])
        .unwrap();
    harness::wait_for(|| running.socket.exists() && get(&running.socket, "/health").is_ok());
    std::thread::sleep(Duration::from_millis(300));
    let refused = post(
        &running.socket,
        "/sign",
        &json!({"payload": {}, "intent": "a"}),
    )
    .unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "enclave_unavailable")
    );
    running.reboot_enclave();
    running.wait_until_ready();
}

/// To be appended to a policy. It prints 32 KB of what is asked, before each decision, and then
/// takes some steps, so that the time that printing took is noticed.
pub(crate) const PRINTING: &str = r#"
[rego]
entrypoint = "data.a"
module = '''
package a
allow if {
    print([input.payload.text | some n in [1, 2, 3, 4, 5, 6, 7, 8]], "by", input.caller)
    count([n | some n in input.payload.steps]) == 100
    not input.payload.denied == true
}
'''
"#;

/// Asks such a policy until it has said yes and no often enough. On a busy machine its time may be
/// over first.
pub(crate) fn ask_a_policy_that_prints(socket: &Path) {
    let (text, steps) = ("y".repeat(4000), [1; 100]);
    let (mut signed, mut denied) = (0, 0);
    for n in 0..200 {
        let asked = json!({"payload": {"text": text, "steps": &steps[..], "denied": n % 2 == 1}, "intent": "a"});
        let answer = post(socket, "/sign", &asked).unwrap();
        match (answer.status, n % 2) {
            (200, 0) => signed += 1,
            (403, 1) if answer.code() == "policy_denied" => denied += 1,
            _ => assert_eq!(answer.code(), "policy_timeout"),
        }
    }
    assert!(signed > 0 && denied > 0, "{signed} signed, {denied} denied");
}

#[test]
fn a_policy_that_prints_decides_while_the_console_is_full() {
    let policy = |state: &qemu_dev::State| {
        state
            .development_policy(&[("agent", "did:key", "EdDSA")])
            .unwrap()
            + PRINTING
    };
    let mut running = Running::prepared(policy, "", &[]);
    running.enclave.kill().unwrap();
    // Another one, whose standard error takes nothing and does not block, as a booted enclave's
    // console.
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    fcntl_setfl(&writer, fcntl_getfl(&writer).unwrap() | OFlags::NONBLOCK).unwrap();
    let mut taken = 0;
    for chunk in [&[b'x'; 4096][..], b"x"] {
        while let Ok(written) = writer.write(chunk) {
            taken += written;
        }
    }
    let mut command = Command::new(harness::program("anchorhold-dev"));
    command
        .arg("enclave")
        .arg("--state")
        .arg(running.state.folder())
        .arg("--listen")
        .arg(running.state.enclave_socket());
    let mut enclave = Killed(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(writer)
            .spawn()
            .unwrap(),
    );
    drop(command);
    running.wait_until_ready();
    ask_a_policy_that_prints(&running.socket);
    assert!(enclave.0.try_wait().unwrap().is_none(), "it has ended");
    drop(enclave);
    let mut written = Vec::new();
    reader.read_to_end(&mut written).unwrap();
    assert_eq!(written.len(), taken, "something was written");
}

/// A process that ends with this value.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
