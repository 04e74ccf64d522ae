//! Calls that are held while somebody is asked to approve them.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use harness::services::With;
use harness::{Connection, get, program, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::approving::{Desk, approve, waiting_id};
use super::ingress::{HTTPS_PROXY, Proxied};
use super::setting::Setting;

const BODY: &[u8] = br#"{"amount": 100, "to": "acme"}"#;

fn desk(wait: &str) -> Desk {
    Desk::with(
        "",
        &With {
            bundle: HTTPS_PROXY,
            proxy: wait,
            sidecar: "[[sockets]]\nname = \"agent\"\npath = \"agent.sock\"\n",
            ..With::default()
        },
    )
}

/// What calls are held for.
fn held(setting: &Setting) -> Vec<Value> {
    let got = get(&setting.running.socket, "/approvals").unwrap();
    assert_eq!(got.status, 200);
    got.json()["approvals"].as_array().unwrap().clone()
}

/// Waits until one call is held; gives its id.
fn until_held(desk: &Desk) -> String {
    wait_for(|| held(&desk.setting).len() == 1);
    held(&desk.setting)[0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_call_is_held_while_somebody_is_asked_and_goes_when_it_is_approved() {
    let desk = desk("wait_seconds = 60\n");
    // What needs no approval is held by nothing.
    assert_eq!(desk.setting.ask("POST /api/ask", "", BODY).status, 200);
    thread::scope(|scope| {
        let asked = scope.spawn(|| desk.pay("", BODY));
        let id = until_held(&desk);
        assert_eq!(desk.sent(), 1);
        let one = &held(&desk.setting)[0];
        assert_eq!(one["approvers"], json!(["alice"]));
        assert_eq!(
            one["request"]["intent"]["resource"],
            "https://api.example/v1/pay"
        );
        // The command says the same; and nobody but those who run the sidecar hears it.
        let listed = Command::new(program("anchorhold"))
            .args(["approve", "--endpoint"])
            .arg(format!("unix://{}", desk.setting.running.socket.display()))
            .output()
            .unwrap();
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        assert_eq!(listed["approvals"], json!(held(&desk.setting)));
        let agents = desk.setting.running.folder().join("agent.sock");
        assert_eq!(get(&agents, "/approvals").unwrap().status, 403);
        assert!(desk.approve(&id));
        let got = asked.join().unwrap();
        assert_eq!((got.status, &got.body[..]), (200, &b"paid"[..]));
    });
    assert_eq!((held(&desk.setting).len(), desk.sent()), (0, 2));
}

#[test]
fn a_call_through_the_proxy_is_held_as_well() {
    let desk = desk("wait_seconds = 60\n");
    let (key, Desk { setting, folder }) = (desk.key(), desk);
    let proxied = Proxied::of(setting);
    let answer = thread::scope(|scope| {
        let asked = scope.spawn(|| proxied.post("/v1/pay", str::from_utf8(BODY).unwrap()));
        let of = |setting| held(setting).first().map(|one| one["id"].clone());
        wait_for(|| of(&proxied.setting).is_some());
        let id = of(&proxied.setting).unwrap();
        assert!(proxied.setting.upstream.seen().is_empty());
        assert!(approve(&proxied.setting, &key, id.as_str().unwrap()));
        asked.join().unwrap()
    });
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("paid"),
        "{answer}"
    );
    drop(folder);
}

#[test]
fn one_approval_lets_one_call_go_of_two_that_are_held_for_it() {
    let desk = desk("wait_seconds = 60\n");
    thread::scope(|scope| {
        let pay = || desk.pay("", BODY);
        let both = [scope.spawn(pay), scope.spawn(pay)];
        let id = until_held(&desk);
        // Both have asked, and looked once more.
        desk.setting.events("credential.open", 2);
        thread::sleep(Duration::from_millis(200));
        assert!(desk.approve(&id));
        let mut got = both.map(|one| one.join().unwrap());
        got.sort_by_key(|got| got.status);
        assert_eq!((got[0].status, got[1].status, desk.sent()), (200, 403, 1));
        assert_ne!(waiting_id(&got[1].json()["error"]["message"]), id);
    });
}

#[test]
fn a_call_that_nobody_approves_in_time_is_refused_and_one_whose_agent_goes_is_held_no_longer() {
    let desk = desk("wait_seconds = 1\n");
    let begun = Instant::now();
    let got = desk.pay("", BODY);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(
        got.header("x-anchorhold-error").as_deref(),
        Some("approval_required")
    );
    // It can be approved all the same, for who asks again.
    let id = waiting_id(&got.json()["error"]["message"]);
    assert!(held(&desk.setting).is_empty());
    assert!(desk.approve(&id));
    assert_eq!((desk.pay("", BODY).status, desk.sent()), (200, 1));
    drop(desk);

    let desk = self::desk("wait_seconds = 60\n");
    let mut connection = Connection::open(&desk.setting.socket).unwrap();
    let length = BODY.len();
    let head =
        format!("POST /api/pay HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
    connection.send(&[head.as_bytes(), BODY].concat()).unwrap();
    let id = until_held(&desk);
    drop(connection);
    wait_for(|| held(&desk.setting).is_empty());
    // Approved for nobody: nothing goes.
    assert!(desk.approve(&id));
    assert_eq!(desk.sent(), 0);
    assert_eq!(desk.pay("", BODY).status, 200);
}

#[test]
fn a_sidecar_that_ends_holds_no_call() {
    let desk = desk("wait_seconds = 600\n");
    let Desk { setting, folder } = desk;
    let mut proxied = Proxied::of(setting);
    let begun = thread::scope(|scope| {
        let body = str::from_utf8(BODY).unwrap();
        let through = scope.spawn(|| proxied.post("/v1/pay", body));
        wait_for(|| held(&proxied.setting).len() == 1);
        let asked = scope.spawn(|| proxied.setting.ask("POST /api/pay", "", BODY));
        wait_for(|| held(&proxied.setting).len() == 2);
        let begun = Instant::now();
        proxied.setting.running.sidecar.signal(Signal::TERM);
        assert_eq!(asked.join().unwrap().status, 403);
        let through = through.join().unwrap();
        assert!(through.starts_with("HTTP/1.1 403 "), "{through}");
        assert!(through.contains("approval_required"), "{through}");
        begun
    });
    proxied.setting.running.sidecar.stop().unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    drop(folder);
}

#[test]
fn long_bodies_are_not_held() {
    let desk = desk("wait_seconds = 60\n");
    let long = "x".repeat(100_000);
    let begun = Instant::now();
    let got = desk.pay("", long.as_bytes());
    assert_eq!(
        got.header("x-anchorhold-error").as_deref(),
        Some("approval_required")
    );
    let proxied = Proxied::of(desk.setting);
    let through = proxied.post("/v1/pay", &long);
    assert!(through.contains("approval_required"), "{through}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    drop(desk.folder);
}

#[test]
fn a_call_is_held_no_longer_than_its_placeholder_is_good() {
    let desk = desk("wait_seconds = 60\n");
    let folder = desk.setting.running.folder();
    // The command leaves its call behind.
    let script = "curl --silent --max-time 30 --output /dev/null --write-out '%{http_code}' --json '{}' \
        -H \"authorization: Bearer $API_API_KEY\" $API_BASE_URL/pay > $1 & sleep 1";
    let told = folder.join("told");
    let output = Command::new(program("anchorhold"))
        .args(["run", "--endpoint"])
        .arg(format!("unix://{}", desk.setting.running.socket.display()))
        .args(["--", "sh", "-c", script, "sh"])
        .arg(&told)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    wait_for(|| std::fs::read_to_string(&told).is_ok_and(|told| told == "401"));
    assert!(held(&desk.setting).is_empty());
    let pending = &desk.setting.events("credential.open", 1)[0];
    assert_eq!(pending["policy_decision"], "pending");
}
