//! `anchorhold-bench`: every figure beside the baseline that it is compared with, both from this
//! one run.
#![allow(clippy::print_stdout, reason = "its whole output")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "counts and percentiles, not money"
)]

mod durable;
mod gateway;
mod image;
mod load;
mod overload;
mod process;
mod services;
mod verifying;

use std::path::Path;
use std::time::{Duration, Instant};

use ed25519_dalek::{Signer, SigningKey};
use harness::{Connection, Running, program, raw};

use crate::load::{Load, measure};
use crate::process::{cpu_seconds, resident_kib};

const BODY: &str = r#"{"payload":{"action":"transfer","amount":100,"recipient":"account_123"},"intent":"authorization"}"#;
const CONNECTIONS: usize = 32;

fn main() {
    // What is started inherits it, as under `anchorhold-dev up` and in the image, whose kernel has
    // no huge pages.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("bare-server") => return load::bare_server(Path::new(&arguments[2])),
        Some("flood") => {
            let number = |index: usize| arguments[index].parse::<f64>().expect("a number");
            return overload::flood(Path::new(&arguments[2]), number(3) as usize, number(4));
        }
        Some("burn") => return overload::burn(arguments[2].parse().expect("a number")),
        Some("gateway-agent") => return gateway::agent(),
        Some("gateway-bare") => return gateway::bare(&arguments[2]),
        Some("scanner") => return gateway::scanner(),
        Some("gateway") => return gateway::figures(),
        Some("service") => return services::upstream(Path::new(&arguments[2])),
        Some("service-bare") => return services::bare(Path::new(&arguments[2]), &arguments[3]),
        Some("services") => return services::figures(),
        Some("hold-connections") => return hold_connections(Path::new(&arguments[2])),
        Some("image") => {
            image::figures();
            return durable::under_qemu();
        }
        Some("durable") => return durable::figures(),
        Some("overload") => return overload::figures(),
        Some("sign") => {
            signing(&start(""));
            return;
        }
        Some("verify") => return verifying::figures(&start(""), strict_verification()),
        Some("--help" | "-h") => {
            println!(
                "anchorhold-bench [--signatures N]\nanchorhold-bench sign\nanchorhold-bench verify\nanchorhold-bench overload\nanchorhold-bench durable\nanchorhold-bench image\nanchorhold-bench gateway\nanchorhold-bench services\n\nPrints every figure of docs/benchmarks.md beside its baseline. N is for the memory test, 1000000 if left out. `sign` prints those of signatures alone. `verify` prints those of the verifier alone. `overload` prints those of a caller beside one that asks for ten times what there is. `durable` prints those of keys that are kept. `image` prints those of the image, which tests/run has built, under QEMU. `gateway` prints those of the gateway beside nginx and HAProxy, asked by wrk. `services` prints those of calls to a service, beside a TLS connection of one's own and a bare proxy."
            );
            return;
        }
        _ => {}
    }
    let signatures = match (
        arguments.get(1).map(String::as_str),
        arguments.get(2).and_then(|n| n.parse().ok()),
    ) {
        (Some("--signatures"), Some(n)) => n,
        _ => 1_000_000,
    };
    println!(
        "anchorhold-bench, {} cores, client on the same cores\n",
        std::thread::available_parallelism().map_or(0, usize::from)
    );
    let running = start("");
    idle(&running);
    let (baseline, rate) = signing(&running);
    paced(&running, rate / 2.0);
    verifying::figures(&running, baseline.verify);
    memory(&running, signatures);
    drop(running);
    overload::figures();
}

/// What one signature costs; gives the baseline, and how many there are in a second.
fn signing(running: &Running) -> (Baseline, f64) {
    latency(running);
    let baseline = baseline();
    let rate = cpu(running, baseline.request);
    with_rego(baseline.request);
    (baseline, rate)
}

/// The policy of the paper that this project begins with.
const REGO: &str = "package agent.authz\ndefault allow = false\nallow if {\ninput.agent.role == \"reviewer\"\ninput.action == \"comment\"\n\
    input.resource.type == \"pull_request\"\n}\nallow if {\ninput.agent.role == \"deployer\"\ninput.action == \"deploy\"\n\
    input.resource.env == \"staging\"\n}\nrequire_approval if {\ninput.action == \"deploy\"\ninput.resource.env == \"production\"\n}\n";
const COMMENT: &str = r#"{"payload":{"action":"comment","amount":100},"intent":{"action":"comment","target":"t","resource":"pr:1"}}"#;

/// The same load with an intent, without and under that policy in Rego.
fn with_rego(baseline: f64) {
    let module = format!("[rego]\nentrypoint = \"data.agent.authz\"\nmodule = '''\n{REGO}'''\n");
    let [without, with] = ["", module.as_str()].map(|module| {
        let policy = |state: &qemu_dev::State| {
            let text = state
                .development_policy(&[("agent", "did:key", "EdDSA")])
                .expect("a policy");
            let labels = "resources = [{ pattern = \"pr:*\", type = \"pull_request\" }]";
            text.replacen(
                "\n[[identities]]\n",
                &format!("\n{labels}\n{module}[[identities]]\nrole = \"reviewer\"\n"),
                1,
            )
        };
        let running = Running::prepared(policy, "[limits]\nrequests_per_second = 0\n", &[]);
        let pids = [running.sidecar.pid(), running.enclave.pid()];
        let load = Load {
            connections: CONNECTIONS,
            seconds: 10.0,
            rate: None,
            limit: u64::MAX,
        };
        measure(
            &running.socket,
            &raw("/sign", Some(COMMENT.as_bytes())),
            &load,
            &pids,
        )
    });
    for (name, measured) in [("with an intent", &without), ("with Rego", &with)] {
        line(
            &format!("{name}: CPU of one /sign, sidecar + enclave (us)"),
            &format!("{:.1}", measured.server_cpu * 1e6),
            "",
        );
        line(
            "  ratio to the baseline",
            &format!("{:.2} x", measured.server_cpu / baseline),
            "",
        );
        line("  rate (1/s)", &format!("{:.0}", measured.rate), "");
    }
}

/// As one starts it, without a limit for each caller: what is measured is what it can do.
fn start(more: &str) -> Running {
    let policy = |state: &qemu_dev::State| {
        state
            .development_policy(&[("agent", "did:key", "EdDSA")])
            .expect("a policy")
    };
    Running::prepared(
        policy,
        &format!("[limits]\nrequests_per_second = 0\nconnections = 512\n{more}"),
        &[],
    )
}

/// Opens as many connections as it gets, up to 200, says how many were answered, and holds them
/// until its input ends. Tests run this as another user.
fn hold_connections(socket: &Path) {
    let answered = |_| {
        let mut connection = Connection::open(socket).ok()?;
        connection
            .request(&raw("/health", None))
            .ok()
            .map(|_| connection)
    };
    let held: Vec<Connection> = (0..200).filter_map(answered).collect();
    println!("{}", held.len());
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

fn line(what: &str, value: &str, target: &str) {
    println!("{what:<58} {value:>16}   {target}");
}

fn idle(running: &Running) {
    let pids = [running.sidecar.pid(), running.enclave.pid()];
    let begin = Instant::now();
    let before: f64 = pids.iter().map(|pid| cpu_seconds(*pid)).sum();
    std::thread::sleep(Duration::from_secs(5));
    let used: f64 = pids.iter().map(|pid| cpu_seconds(*pid)).sum::<f64>() - before;
    line(
        "memory idle, sidecar (KiB resident)",
        &resident_kib(pids[0]).to_string(),
        "<= 20480",
    );
    line(
        "memory idle, enclave (KiB resident)",
        &resident_kib(pids[1]).to_string(),
        "<= 12288",
    );
    line(
        "CPU idle, both (percent of one core, 5 s)",
        &format!("{:.2}", 100.0 * used / begin.elapsed().as_secs_f64()),
        "< 0.5",
    );
}

fn latency(running: &Running) {
    let request = raw("/sign", Some(BODY.as_bytes()));
    let mut connection = Connection::open(&running.socket).expect("a connection");
    let mut times: Vec<Duration> = (0..20_000)
        .map(|_| {
            let begin = Instant::now();
            assert_eq!(connection.request(&request).expect("an answer").status, 200);
            begin.elapsed()
        })
        .skip(1000)
        .collect();
    times.sort();
    line(
        "latency of /sign, one client, p50 (us)",
        &micros(times[times.len() / 2]),
        "<= 200",
    );
    line(
        "latency of /sign, one client, p99 (us)",
        &micros(times[times.len() * 99 / 100]),
        "",
    );
}

fn micros(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e6)
}

/// One bare signature, one bare strict verification, one empty request to a bare hyper server on a
/// Unix socket: CPU seconds.
fn baseline() -> Baseline {
    let key = SigningKey::from_bytes(&[7; 32]);
    let sign = time(20_000, || {
        std::hint::black_box(key.sign(std::hint::black_box(&MESSAGE)));
    });
    let verify = strict_verification();

    let folder = harness::private_folder();
    let socket = folder.path().join("bare.sock");
    let mut command = std::process::Command::new(program("anchorhold-bench"));
    command.arg("bare-server").arg(&socket);
    let server = qemu_dev::Child::start("bare server", command, None).expect("a bare server");
    harness::wait_for(|| Connection::open(&socket).is_ok());
    let load = Load {
        connections: CONNECTIONS,
        seconds: 5.0,
        rate: None,
        limit: u64::MAX,
    };
    let empty = measure(&socket, &raw("/", None), &load, &[server.pid()]);
    line(
        "baseline: bare Ed25519 signature (us CPU)",
        &format!("{:.1}", sign * 1e6),
        "",
    );
    line(
        "baseline: bare strict verification (us CPU)",
        &format!("{:.1}", verify * 1e6),
        "",
    );
    line(
        "baseline: empty request, bare hyper server (us CPU)",
        &format!("{:.1}", empty.server_cpu * 1e6),
        "",
    );
    Baseline {
        verify,
        request: sign + verify + empty.server_cpu,
    }
}

const MESSAGE: [u8; 700] = [42; 700];

struct Baseline {
    /// One bare strict verification.
    verify: f64,
    /// That, one bare signature and one empty request.
    request: f64,
}

/// One bare strict Ed25519 verification, in seconds.
fn strict_verification() -> f64 {
    let key = SigningKey::from_bytes(&[7; 32]);
    let (public, signature) = (key.verifying_key(), key.sign(&MESSAGE));
    time(20_000, || {
        public
            .verify_strict(std::hint::black_box(&MESSAGE), &signature)
            .expect("a good signature")
    })
}

/// Seconds for each of `n` calls.
fn time(n: u32, mut call: impl FnMut()) -> f64 {
    let begin = Instant::now();
    (0..n).for_each(|_| call());
    begin.elapsed().as_secs_f64() / f64::from(n)
}

fn cpu(running: &Running, baseline: f64) -> f64 {
    let pids = [running.sidecar.pid(), running.enclave.pid()];
    let load = Load {
        connections: CONNECTIONS,
        seconds: 10.0,
        rate: None,
        limit: u64::MAX,
    };
    let measured = measure(
        &running.socket,
        &raw("/sign", Some(BODY.as_bytes())),
        &load,
        &pids,
    );
    line(
        "CPU of one /sign, sidecar + enclave (us)",
        &format!("{:.1}", measured.server_cpu * 1e6),
        "",
    );
    line(
        "  of it, the sidecar (us)",
        &format!("{:.1}", measured.each_cpu[0] * 1e6),
        "",
    );
    line(
        "  of it, the enclave (us)",
        &format!("{:.1}", measured.each_cpu[1] * 1e6),
        "",
    );
    line(
        "  ratio to the baseline",
        &format!("{:.2} x", measured.server_cpu / baseline),
        "<= 1.5 x",
    );
    line(
        &format!("rate of /sign, {CONNECTIONS} connections (1/s)"),
        &format!("{:.0}", measured.rate),
        ">= 20000",
    );
    line(
        "  client's own CPU per request (us)",
        &format!("{:.1}", measured.client_cpu * 1e6),
        "",
    );
    measured.rate
}

fn paced(running: &Running, rate: f64) {
    let load = Load {
        connections: CONNECTIONS,
        seconds: 10.0,
        rate: Some(rate),
        limit: u64::MAX,
    };
    let mut measured = measure(
        &running.socket,
        &raw("/sign", Some(BODY.as_bytes())),
        &load,
        &[],
    );
    measured.times.sort();
    let at = |percent: usize| micros(measured.times[measured.times.len() * percent / 100]);
    line(
        &format!(
            "latency of /sign at half that rate ({:.0}/s), p50 (us)",
            measured.rate
        ),
        &at(50),
        "",
    );
    line(
        "latency of /sign at half that rate, p99 (us)",
        &at(99),
        "< 5000",
    );
}

fn memory(running: &Running, signatures: u64) {
    let pids = [running.sidecar.pid(), running.enclave.pid()];
    let request = raw("/sign", Some(BODY.as_bytes()));
    let round = |limit| {
        let load = Load {
            connections: CONNECTIONS,
            seconds: 3600.0,
            rate: None,
            limit,
        };
        measure(&running.socket, &request, &load, &[]);
        [resident_kib(pids[0]), resident_kib(pids[1])]
    };
    let before = round(signatures / 10);
    let after = round(signatures);
    line(
        "memory under load, sidecar (KiB resident)",
        &after[0].to_string(),
        "<= 2 x idle",
    );
    line(
        "memory under load, enclave (KiB resident)",
        &after[1].to_string(),
        "<= 2 x idle",
    );
    let growth = |index: usize| after[index].cast_signed() - before[index].cast_signed();
    line(
        &format!("growth over {signatures} signatures, sidecar (KiB)"),
        &growth(0).to_string(),
        "none",
    );
    line(
        &format!("growth over {signatures} signatures, enclave (KiB)"),
        &growth(1).to_string(),
        "none",
    );
}
