//! The sidecar as a service, and the files in deploy/.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{get, post, private_folder, program, wait_for};
use qemu_dev::{Program, State};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Hands a listening socket over as systemd does (sd_listen_fds(3)), then becomes the sidecar.
const ACTIVATE: &str = r#"
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o600); s.listen()
os.dup2(s.fileno(), 3); os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS=sys.argv[2], LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[3], sys.argv[3:])
"#;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

#[test]
fn the_sidecar_takes_its_socket_from_systemd_and_says_when_it_is_ready() {
    let folder = private_folder();
    let state = State::open(folder.path()).unwrap();
    let _enclave = Program::at(&program("anchorhold-dev")).start_listening_enclave(&state, None, &[]).unwrap();
    let (unused, socket) = (folder.path().join("run/unused.sock"), folder.path().join("given.sock"));
    let config = state.write_sidecar_config(&unused, "").unwrap();
    let notify = folder.path().join("notify");
    let heard = UnixDatagram::bind(&notify).unwrap();
    heard.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
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
    assert_eq!(post(&socket, "/sign", &json!({"payload": {}, "intent": "a"})).unwrap().status, 200);
    assert!(!unused.exists());
    kill_process(Pid::from_raw(sidecar.id().cast_signed()).unwrap(), Signal::TERM).unwrap();
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
    for unit in ["systemd/anchorhold.service", "systemd/anchorhold-enclave.service"] {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=yes", "--no-pager", "--threshold=20"]).arg(deploy(unit));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{unit}: {}", String::from_utf8_lossy(&output.stdout));
    }
    // Every setting is one that systemd knows: it says so of those that it does not.
    let folder = private_folder();
    for unit in ["anchorhold.service", "anchorhold.socket", "anchorhold-enclave.service"] {
        let text = std::fs::read_to_string(deploy("systemd").join(unit)).unwrap();
        // The programs of a real host are not here.
        let lines = text.lines().map(|line| match line.split_once('=') {
            Some((name, _)) if name.starts_with("Exec") => format!("{name}=/bin/true"),
            _ => line.to_owned(),
        });
        std::fs::write(folder.path().join(unit), lines.collect::<Vec<_>>().join("\n")).unwrap();
    }
    let units = ["anchorhold.service", "anchorhold.socket", "anchorhold-enclave.service"].map(|unit| folder.path().join(unit));
    let output =
        Command::new("systemd-analyze").args(["verify", "--man=no", "--recursive-errors=no"]).args(&units).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("anchorhold")).collect();
    assert!(output.status.success() && ours.is_empty(), "{text}");
}

#[test]
fn the_seccomp_profile_for_pods_lets_vsock_through_and_knows_its_calls() {
    let profile: Value = serde_json::from_slice(&std::fs::read(deploy("seccomp/anchorhold-sidecar.json")).unwrap()).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let rules = profile["syscalls"].as_array().unwrap();
    let names: BTreeSet<&str> =
        rules.iter().flat_map(|rule| rule["names"].as_array().unwrap()).map(|name| name.as_str().unwrap()).collect();
    for needed in ["epoll_wait", "accept4", "connect", "getrandom", "futex"] {
        assert!(names.contains(needed), "{needed}");
    }
    for never in ["ptrace", "mount", "bpf", "kexec_load", "init_module", "setns", "unshare"] {
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

#[test]
fn a_sidecar_within_the_profile_for_pods_does_all_that_it_does() {
    // The profile as a filter of its own: every call that the sidecar makes in a life is on its list.
    if Command::new("strace").arg("-V").output().is_err() {
        return harness::skipped("strace is not installed");
    }
    let profile: Value = serde_json::from_slice(&std::fs::read(deploy("seccomp/anchorhold-sidecar.json")).unwrap()).unwrap();
    let rules = profile["syscalls"].as_array().unwrap();
    let listed: BTreeSet<&str> =
        rules.iter().flat_map(|rule| rule["names"].as_array().unwrap()).map(|name| name.as_str().unwrap()).collect();
    let folder = private_folder();
    let state = State::open(folder.path()).unwrap();
    let _enclave = Program::at(&program("anchorhold-dev")).start_listening_enclave(&state, None, &[]).unwrap();
    let socket = folder.path().join("run/s.sock");
    let config = state.write_sidecar_config(&socket, "").unwrap();
    let trace = folder.path().join("trace");
    let mut sidecar = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(&trace)
        .arg(program("anchorhold"))
        .args(["serve", "--config"])
        .arg(&config)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for(|| socket.exists() && get(&socket, "/ready").is_ok_and(|answer| answer.status == 200));
    assert_eq!(post(&socket, "/sign", &json!({"payload": {}, "intent": "a"})).unwrap().status, 200);
    assert_eq!(post(&socket, "/rotate", &json!({})).unwrap().status, 200);
    let traced = std::fs::read_to_string(&trace).unwrap();
    let pid: i32 = traced.split_whitespace().next().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    assert!(sidecar.wait().unwrap().success());
    let traced = std::fs::read_to_string(&trace).unwrap();
    let called = traced.lines().filter_map(|line| line.split_whitespace().nth(1)?.split_once('(').map(|(name, _)| name));
    let missing: BTreeSet<&str> = called.filter(|name| !listed.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
