use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::{Connection, Running, get, post, raw};
use serde_json::json;

const BODY: &[u8] = b"{\"payload\":{},\"intent\":\"a\"}";

#[test]
fn while_the_enclave_is_away_requests_get_503_with_retry_after_and_a_new_boot_is_a_new_identity() {
    let mut running = Running::start();
    let before = get(&running.socket, "/identity").unwrap().json();
    running.enclave.kill().unwrap();
    harness::wait_for(|| get(&running.socket, "/ready").unwrap().status == 503);
    let refused = post(&running.socket, "/sign", &json!({"payload": {}, "intent": "a"})).unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (503, "enclave_unavailable"));
    assert_eq!(refused.header("retry-after").as_deref(), Some("1"));
    assert_eq!(get(&running.socket, "/health").unwrap().status, 200, "the sidecar itself lives");

    running.start_enclave();
    running.wait_until_ready();
    let after = get(&running.socket, "/identity").unwrap().json();
    assert_ne!(before["did"], after["did"]);
    assert_ne!(before["boot_id"], after["boot_id"]);
    assert_eq!(after["key_version"], 1);
    let metrics = String::from_utf8(get(&running.socket, "/metrics").unwrap().body).unwrap();
    assert!(metrics.contains("anchorhold_enclave_boots_total 2"), "{metrics}");
    assert!(running.log().contains("\"again\":true"), "the log says that it is another boot");
}

#[test]
fn an_enclave_killed_in_the_middle_of_requests_leaves_none_without_an_answer() {
    let mut running = Running::unlimited();
    let (stop, good, away) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut connection = Connection::open(&running.socket).unwrap();
                let request = raw("/sign", Some(BODY));
                while !stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let answer = connection.request(&request).unwrap();
                    assert!(begin.elapsed() < Duration::from_secs(11), "an answer came too late");
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
            running.enclave = program.start_listening_enclave(&running.state, None, &[]).unwrap();
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
    let sign = || post(&running.socket, "/sign", &json!({"payload": {}, "intent": "a"})).unwrap();
    let before = get(&running.socket, "/identity").unwrap().json();
    running.enclave.freeze().unwrap();
    let begin = Instant::now();
    // One request on each of the two connections finds out; after that nobody waits.
    for _ in 0..2 {
        let answer = sign();
        assert_eq!((answer.status, answer.code().as_str()), (504, "enclave_timeout"));
    }
    assert!(begin.elapsed() < Duration::from_secs(25));
    let begin = Instant::now();
    assert_eq!(sign().code(), "enclave_unavailable");
    assert!(begin.elapsed() < Duration::from_secs(1), "it is known to hang");
    running.enclave.signal(Signal::CONT);
    running.wait_until_ready();
    assert_eq!(sign().status, 200);
    assert_eq!(get(&running.socket, "/identity").unwrap().json()["did"], before["did"], "the same boot, the same key");
}

#[test]
fn an_enclave_with_another_policy_is_not_used() {
    let mut running = Running::start();
    running.sidecar.stop().unwrap();
    // The sidecar comes back with another policy; the enclave has its own for good.
    let text = std::fs::read_to_string(running.state.policy()).unwrap();
    running.state.set_policy(&text.replace("max_validity_seconds = 3600", "max_validity_seconds = 60")).unwrap();
    let program = qemu_dev::Program::at(&harness::program("anchorhold-dev"));
    running.sidecar = program.start_sidecar(&running.folder().join("sidecar.toml"), None, &[]).unwrap();
    harness::wait_for(|| running.socket.exists() && get(&running.socket, "/health").is_ok());
    std::thread::sleep(Duration::from_millis(300));
    let refused = post(&running.socket, "/sign", &json!({"payload": {}, "intent": "a"})).unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (503, "enclave_unavailable"));
    running.reboot_enclave();
    running.wait_until_ready();
}
