//! Keys that last: what a restart costs, and a seal.

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::machine::{Machine, image};
use harness::{Lasting, Running, post, private_folder, serve_aws, wait_for};
use parent_proxy::{Client, Target};
use qemu_dev::{DurableState, State};
use serde_json::{Value, json};

use crate::line;
use crate::process::proportional_kib;

pub(crate) fn figures() {
    let mut lasting = Lasting::start();
    let mut restarts: Vec<Duration> = (0..7).map(|_| restart(&mut lasting)).collect();
    restarts.sort();
    line(
        "killed to the first signature, mock process, median of 7 (ms)",
        &restarts[3].as_millis().to_string(),
        "<= 1000",
    );
    line(
        "killed to the first signature, mock process, longest of 7 (ms)",
        &restarts[6].as_millis().to_string(),
        "<= 1000",
    );
    memory(&lasting);
    drop(lasting);
    sealing();
}

/// The same on the image, which `tests/run` has built.
pub(crate) fn under_qemu() {
    let mut restarts: Vec<Duration> = power_cuts(3);
    restarts.sort();
    line(
        "power-on to the first signature of keys that are kept, median of 3 (ms)",
        &restarts[1].as_millis().to_string(),
        "<= 4000",
    );
}

fn restart(lasting: &mut Lasting) -> Duration {
    lasting.enclave.kill().expect("it runs");
    let begin = Instant::now();
    lasting.reboot();
    until_signed(&lasting.socket, begin)
}

fn until_signed(socket: &std::path::Path, begin: Instant) -> Duration {
    let body = json!({"payload": {}, "intent": "a"});
    while begin.elapsed() < Duration::from_secs(30) {
        if post(socket, "/sign", &body).is_ok_and(|answer| answer.status == 200) {
            return begin.elapsed();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("no signature in 30 s");
}

/// Of the process with the keys and the one without.
fn memory(lasting: &Lasting) {
    std::thread::sleep(Duration::from_secs(2));
    let keys = lasting.enclave.pid();
    let children = std::fs::read_to_string(format!("/proc/{keys}/task/{keys}/children"));
    let egress: u32 = children
        .unwrap_or_default()
        .trim()
        .parse()
        .expect("an egress process");
    // Both are the same program: what they share is counted once.
    let (keys, egress) = (proportional_kib(keys), proportional_kib(egress));
    line(
        "memory idle, enclave and egress process (MB)",
        &format!("{:.1} + {:.1}", megabytes(keys), megabytes(egress)),
        "<= 20 together",
    );
}

fn megabytes(kib: u64) -> f64 {
    kib as f64 * 1.024 / 1000.0
}

/// A rotation of one of 64 identities: all of them are sealed, stored, read back and compared; beside
/// it the same of keys that end with the boot.
fn sealing() {
    let names: Vec<String> = (0..64).map(|n| format!("agent-{n}")).collect();
    let identities: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), "did:key", "EdDSA"))
        .collect();
    let lasting = Lasting::unborn(&identities);
    lasting.birth();
    lasting.wait_until_ready();
    let running = Running::with(&identities);
    let rotate = |socket: &std::path::Path| {
        let begin = Instant::now();
        let answer = post(socket, "/rotate", &json!({"identity": "agent-7"})).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.code());
        begin.elapsed()
    };
    let median = |socket: &std::path::Path| {
        let mut times: Vec<Duration> = (0..15).map(|_| rotate(socket)).collect();
        times.sort();
        times[7].as_secs_f64() * 1e3
    };
    let (kept, ephemeral) = (median(&lasting.socket), median(&running.socket));
    line(
        "a rotation among 64 identities, sealed and stored (ms)",
        &format!("{kept:.1}"),
        "",
    );
    line(
        "  of keys that end with the boot (ms)",
        &format!("{ephemeral:.1}"),
        "",
    );
    line(
        "  so sealing 64 identities, and storing (ms)",
        &format!("{:.1}", kept - ephemeral),
        "<= 20",
    );
    let bytes = std::fs::metadata(lasting.part("sealed.cbor")).map_or(0, |file| file.len());
    line(
        "  bytes of that state",
        &bytes.to_string(),
        &format!("<= {}", state::MAX_SEALED),
    );
}

fn power_cuts(count: usize) -> Vec<Duration> {
    let image = image("signer-dev.eif");
    let folder = Arc::new(private_folder());
    let described = eif::describe(&eif::read_file(&image).expect("an image")).expect("an image");
    let measured = attestation::Measurements::parse(described.as_bytes()).expect("measurements");
    let state = State::open_measured(folder.path(), &measured).expect("a state directory");
    let durable = DurableState::prepare(&state).expect("a mock of AWS");
    let (_served, _) = serve_aws(&state, &durable, Arc::default());
    let mut machine = Machine::boot_with(&image, folder, &[]);
    let lines = durable.sidecar_lines();
    let mut sidecar = machine.sidecar_with(&lines);
    let is_there =
        || harness::get(&sidecar.socket, "/state").is_ok_and(|answer| answer.status == 200);
    wait_for(|| sidecar.socket.exists() && is_there());
    birth(&durable, &sidecar.socket);
    sidecar.wait_until_ready();
    let mut times = Vec::new();
    for _ in 0..count {
        sidecar.process.stop().expect("it ends");
        drop(sidecar);
        let begin = Instant::now();
        machine = machine.reboot();
        sidecar = machine.sidecar_with(&lines);
        times.push(until_signed(&sidecar.socket, begin));
    }
    times
}

fn birth(durable: &DurableState, socket: &std::path::Path) -> Option<Value> {
    let client = Client::new(Target::Unix(socket.to_owned()), None);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime
        .block_on(durable.birth_if_needed(&client))
        .expect("a birth")
}
