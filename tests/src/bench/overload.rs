//! What one caller notices of another that asks for far more than there is.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::{Running, program, raw};

use crate::load::{Load, measure};
use crate::process::resident_kib;
use crate::{BODY, line, micros};

const SECONDS: f64 = 10.0;
/// Of the caller that is looked at, on four connections.
const MODEST_RATE: f64 = 200.0;

/// A flood of `connections` for `seconds`; whatever is answered. Its own process, so that its
/// threads' waits are not the others'.
pub(crate) fn flood(socket: &Path, connections: usize, seconds: f64) {
    let answered = crate::load::flood(
        socket,
        &raw("/sign", Some(BODY.as_bytes())),
        connections,
        seconds,
    );
    println!("{} {}", answered.0, answered.1);
}

/// Keeps a core busy for `seconds` as a server does that often waits: 0.9 ms of work, a pause of
/// 0.3 ms.
pub(crate) fn burn(seconds: f64) {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        let pause = Instant::now() + Duration::from_micros(900);
        while Instant::now() < pause {
            std::hint::spin_loop();
        }
        std::thread::sleep(Duration::from_micros(300));
    }
}

/// Three processes that have nothing to do with the sidecar, as many as a flood keeps busy.
fn burn_beside(seconds: f64, work: impl FnOnce()) {
    let burn = || {
        let mut command = std::process::Command::new(program("anchorhold-bench"));
        let command = command.arg("burn").arg(seconds.to_string());
        command.spawn().expect("a process")
    };
    let burning = [(); 3].map(|()| burn());
    work();
    for mut child in burning {
        child.wait().expect("it ends by itself");
    }
}

pub(crate) fn figures() {
    println!("\nA caller of {MODEST_RATE:.0}/s beside one that asks for ten times what there is:");
    let sockets = "[[sockets]]\nname = \"modest\"\npath = \"run/modest.sock\"\n[[sockets]]\nname = \"greedy\"\npath = \"run/greedy.sock\"\n";
    // Capacity is reached with 32 connections that never pause.
    let running = crate::start(sockets);
    beside(
        &running,
        "no rate limit, 320 connections that never pause",
        320,
    );
    drop(running);
    let policy = |state: &qemu_dev::State| {
        state
            .development_policy(&[("agent", "did:key", "EdDSA")])
            .expect("a policy")
    };
    let running = Running::prepared(
        policy,
        &format!("[limits]\nrequests_per_second = 1000\n{sockets}"),
        &[],
    );
    beside(
        &running,
        "1,000/s for each caller, 32 connections that never pause",
        32,
    );
}

fn beside(running: &Running, how: &str, connections: usize) {
    let socket = |name: &str| -> PathBuf { running.folder().join("run").join(name) };
    let pids = [running.sidecar.pid(), running.enclave.pid()];
    let load = Load {
        connections: 4,
        seconds: SECONDS,
        rate: Some(MODEST_RATE),
        limit: u64::MAX,
    };
    let request = raw("/sign", Some(BODY.as_bytes()));
    let modest = || {
        let mut times = measure(&socket("modest.sock"), &request, &load, &[]).times;
        times.sort();
        (times[times.len() / 2], times[times.len() * 99 / 100])
    };
    println!("{how}");
    let memory = || pids.map(resident_kib);
    // Once through, so that what is compared is warm.
    flood_beside(&socket("greedy.sock"), connections, 3.0, || {
        std::thread::sleep(Duration::from_secs(3))
    });
    let (before, memory_before) = (modest(), memory());
    let mut during = before;
    let counts = flood_beside(&socket("greedy.sock"), connections, SECONDS + 2.0, || {
        std::thread::sleep(Duration::from_secs(1));
        during = modest();
    });
    let memory_during = memory();
    // What of it is the scheduler's, on cores that are busy with anything.
    let mut busy = before;
    burn_beside(SECONDS + 2.0, || {
        std::thread::sleep(Duration::from_secs(1));
        busy = modest();
    });
    let ratio = |a: Duration, b: Duration| format!("{:.1} x", b.as_secs_f64() / a.as_secs_f64());
    line("  the greedy one: signed and refused, 1/s", &counts, "");
    line("  the modest one alone, p50 (us)", &micros(before.0), "");
    line(
        "  beside the other, p50 (us)",
        &micros(during.0),
        &ratio(before.0, during.0),
    );
    line("  the modest one alone, p99 (us)", &micros(before.1), "");
    line(
        "  beside three busy processes and no other caller, p99 (us)",
        &micros(busy.1),
        &ratio(before.1, busy.1),
    );
    line(
        "  beside the other, p99 (us)",
        &micros(during.1),
        &format!(
            "{}, wanted <= 3 x; {} of that beside busy processes",
            ratio(before.1, during.1),
            ratio(busy.1, during.1)
        ),
    );
    for (index, name) in ["sidecar", "enclave"].into_iter().enumerate() {
        let values = format!("{} -> {}", memory_before[index], memory_during[index]);
        line(
            &format!("  memory before and at the end, {name} (KiB)"),
            &values,
            "flat",
        );
    }
}

fn flood_beside(socket: &Path, connections: usize, seconds: f64, work: impl FnOnce()) -> String {
    let mut command = std::process::Command::new(program("anchorhold-bench"));
    command
        .arg("flood")
        .arg(socket)
        .arg(connections.to_string())
        .arg(seconds.to_string());
    let child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a flood");
    work();
    let output = child.wait_with_output().expect("it ends by itself");
    let text = String::from_utf8_lossy(&output.stdout);
    let rates: Vec<String> = text
        .split_whitespace()
        .map(|n| format!("{:.0}", n.parse::<f64>().expect("a number") / seconds))
        .collect();
    rates.join(" and ")
}
