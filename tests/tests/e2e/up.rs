use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use harness::{get, private_folder, program, wait_for};
use rustix::process::{Pid, Signal, kill_process};

fn up(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("anchorhold-dev"));
    command
        .arg("up")
        .args(arguments)
        .env("TMPDIR", folder)
        .current_dir(folder);
    command
}

fn left_in(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.starts_with("anchorhold-"))
        .collect()
}

/// Starts `up` and reads until it says that it is up; gives its first line.
fn start(command: &mut Command) -> (std::process::Child, String) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    (child, line)
}

fn signal(child: &std::process::Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
}

fn refuses(output: &Output, says: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains(says) && output.stdout.is_empty(), "{text}");
}

#[test]
fn up_runs_until_it_is_told_to_stop_and_leaves_nothing_behind() {
    let folder = private_folder();
    // A relative path is relative to where the command runs.
    let (mut child, line) = start(&mut up(folder.path(), &["--socket", "run/s.sock"]));
    assert!(line.contains("MOCK mode"), "{line}");
    let socket = folder.path().join("run/s.sock");
    assert_eq!(get(&socket, "/ready").unwrap().status, 200);

    refuses(
        &up(folder.path(), &["--socket", "run/s.sock"])
            .output()
            .unwrap(),
        "another process listens there",
    );
    signal(&child, Signal::INT);
    assert!(child.wait().unwrap().success());
    assert!(!socket.exists());
    assert_eq!(left_in(folder.path()), [""; 0]);
}

#[test]
fn up_stopped_while_it_starts_leaves_nothing_behind() {
    let folder = private_folder();
    for which in [Signal::TERM, Signal::INT] {
        let mut child = up(folder.path(), &["--socket", "run/s.sock"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for(|| !left_in(folder.path()).is_empty());
        signal(&child, which);
        child.wait().unwrap();
        assert_eq!(left_in(folder.path()), [""; 0]);
    }
}

#[test]
fn a_state_directory_can_be_edited_and_is_used_by_one_at_a_time() {
    let folder = private_folder();
    let state = qemu_dev::State::open(&folder.path().join("state")).unwrap();
    let two = state
        .development_policy(&[("one", "did:key", "EdDSA"), ("two", "did:key", "ES256")])
        .unwrap();
    state.set_policy(&two).unwrap();
    let (mut child, line) = start(&mut up(
        folder.path(),
        &["--state", "state", "--socket", "run/s.sock"],
    ));
    assert!(
        line.contains("MOCK mode"),
        "two identities are no reason not to start: {line}"
    );
    assert_eq!(
        get(&folder.path().join("run/s.sock"), "/identity?identity=two")
            .unwrap()
            .status,
        200
    );
    refuses(
        &up(
            folder.path(),
            &["--state", "state", "--socket", "run/other.sock"],
        )
        .output()
        .unwrap(),
        "another `up` or `qemu` runs",
    );
    signal(&child, Signal::TERM);
    assert!(child.wait().unwrap().success());

    // The configuration is whose who edits it: `up` takes it as it is, and does not write it again.
    let config = state.sidecar_config();
    let mut text = std::fs::read_to_string(&config).unwrap();
    text.push_str("# mine\n[[sockets]]\nname = \"second\"\npath = \"run/second.sock\"\n");
    std::fs::write(&config, &text).unwrap();
    let (mut child, _) = start(&mut up(folder.path(), &["--state", "state"]));
    for socket in [
        folder.path().join("run/s.sock"),
        state.folder().join("run/second.sock"),
    ] {
        assert_eq!(get(&socket, "/ready").unwrap().status, 200);
    }
    assert_eq!(std::fs::read_to_string(&config).unwrap(), text);
    signal(&child, Signal::TERM);
    assert!(child.wait().unwrap().success());
    // The keys of both boots have ended with them; evidence of each lies beside their record.
    let record = |ending: &str| -> Vec<_> {
        let files = std::fs::read_dir(state.record()).unwrap();
        let paths = files.map(|file| file.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|end| end == ending))
            .collect()
    };
    assert_eq!(
        (
            record("jsonl").len(),
            record("cbor").len(),
            record("part").len()
        ),
        (1, 2, 0)
    );
    let audited = Command::new(program("anchorhold"))
        .args(["audit", "verify"])
        .args(record("jsonl"))
        .arg("--evidence")
        .arg(state.record())
        .output()
        .unwrap();
    let says = String::from_utf8(audited.stdout).unwrap();
    assert!(
        audited.status.success(),
        "{}",
        String::from_utf8_lossy(&audited.stderr)
    );
    assert!(
        says.starts_with("good: 4 events (4 allowed, 0 refused, 0 waiting for an approval)"),
        "{says}"
    );
    assert_eq!(
        says.lines()
            .filter(|line| line.starts_with("boot "))
            .count(),
        2,
        "{says}"
    );

    let with = |arguments: &[&str]| up(folder.path(), arguments).output().unwrap();
    let other = ["--state", "state", "--socket", "run/other.sock"];
    refuses(
        &with(&other),
        "change it there, or leave --socket and ANCHORHOLD_SOCKET out",
    );
    std::fs::write(&config, text.replace("enclave.sock", "elsewhere.sock")).unwrap();
    refuses(
        &with(&["--state", "state"]),
        "change it there, or remove the file",
    );
    std::fs::write(&config, "colour = \"red\"\n").unwrap();
    refuses(&with(&["--state", "state"]), "sidecar.toml");
    std::fs::remove_file(&config).unwrap();

    state.set_policy("version = 1\ncolour = \"red\"\n").unwrap();
    refuses(
        &up(
            folder.path(),
            &["--state", "state", "--socket", "run/s.sock"],
        )
        .output()
        .unwrap(),
        "policy.toml",
    );
}
