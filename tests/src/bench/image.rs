//! The image under QEMU without KVM: every instruction of the guest is emulated, so these are upper
//! bounds.

use std::time::{Duration, Instant};

use harness::machine::{Machine, image};
use harness::{Connection, post, raw};
use serde_json::json;

use crate::{BODY, line, micros};

pub(crate) fn figures() {
    for name in ["signer.eif", "signer-dev.eif"] {
        let bytes = std::fs::metadata(image(name)).map_or(0, |metadata| metadata.len());
        line(
            &format!("size of {name} (bytes)"),
            &bytes.to_string(),
            "<= 8388608",
        );
    }
    let mut boots: Vec<Duration> = (0..5).map(|_| first_signature()).collect();
    boots.sort();
    line(
        "power-on to the first signature, median of 5 (ms)",
        &boots[2].as_millis().to_string(),
        "<= 3000",
    );
    line(
        "power-on to the first signature, longest of 5 (ms)",
        &boots[4].as_millis().to_string(),
        "<= 3000",
    );
    let machine = Machine::boot(&image("signer-dev.eif"));
    let sidecar = machine.sidecar();
    sidecar.wait_until_ready();
    machine.wait_for_line("memory: ");
    let console = machine.console();
    let memory = console
        .rsplit("memory: ")
        .next()
        .and_then(|text| text.lines().next())
        .unwrap_or_default();
    line(
        "memory of the whole machine, kernel included, idle",
        memory,
        "",
    );
    let request = raw("/sign", Some(BODY.as_bytes()));
    let mut connection = Connection::open(&sidecar.socket).expect("a connection");
    let mut times: Vec<Duration> = (0..2200)
        .map(|_| {
            let begin = Instant::now();
            assert_eq!(connection.request(&request).expect("an answer").status, 200);
            begin.elapsed()
        })
        .skip(200)
        .collect();
    times.sort();
    line(
        "latency of /sign through the image, one client, p50 (us)",
        &micros(times[times.len() / 2]),
        "",
    );
    line(
        "latency of /sign through the image, one client, p99 (us)",
        &micros(times[times.len() * 99 / 100]),
        "",
    );
}

/// Everything is started at once; the clock stops when a signature is there.
fn first_signature() -> Duration {
    let begin = Instant::now();
    let machine = Machine::boot(&image("signer-dev.eif"));
    let sidecar = machine.sidecar();
    while begin.elapsed() < Duration::from_secs(30) {
        if post(
            &sidecar.socket,
            "/sign",
            &json!({"payload": {}, "intent": "a"}),
        )
        .is_ok_and(|answer| answer.status == 200)
        {
            return begin.elapsed();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("no signature in 30 s: {}", machine.console());
}
