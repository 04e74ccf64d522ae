use std::process::Command;

use harness::{Running, Traced, get, post};
use serde_json::json;

/// An ordinary user of every Debian machine.
const NOBODY_ELSE: &str = "1";

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        harness::skipped("becoming another user needs root");
    }
    root
}

/// `POST /sign` as another user; gives head and body of the answer, or what curl says.
fn sign_as(running: &Running, uid: &str, gid: &str) -> String {
    let output = Command::new("setpriv")
        .args([
            "--reuid",
            uid,
            "--regid",
            gid,
            "--clear-groups",
            "--",
            "curl",
            "-sSi",
            "--unix-socket",
        ])
        .arg(&running.socket)
        .args([
            "-H",
            "content-type: application/json",
            "-d",
            "{\"payload\":{},\"intent\":\"a\"}",
            "http://localhost/sign",
        ])
        .output()
        .unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn on_a_private_socket_other_users_do_not_even_connect() {
    if !is_root() {
        return;
    }
    let running = Running::start();
    open_the_way(&running);
    assert!(sign_as(&running, "0", "0").starts_with("HTTP/1.1 200"));
    assert!(
        sign_as(&running, NOBODY_ELSE, NOBODY_ELSE).starts_with("curl: (7)"),
        "it could not even connect"
    );
}

#[test]
fn on_a_shared_socket_uid_and_effective_gid_decide() {
    if !is_root() {
        return;
    }
    let policy = |state: &qemu_dev::State| {
        let text = state
            .development_policy(&[("agent", "did:key", "EdDSA")])
            .unwrap();
        text.replace(
            "callers = { uids = [0] }",
            "callers = { uids = [0, 2], gids = [3] }",
        )
    };
    let running = Running::prepared(policy, "", &[]);
    // The folder above is private to root; others need a way to the socket, not into it.
    open_the_way(&running);
    assert!(
        sign_as(&running, "2", "1").starts_with("HTTP/1.1 200"),
        "{}",
        sign_as(&running, "2", "1")
    );
    assert!(sign_as(&running, "1", "3").starts_with("HTTP/1.1 200"));
    let stranger = sign_as(&running, "1", "1");
    assert!(
        stranger.starts_with("HTTP/1.1 403") && stranger.contains("caller_not_allowed"),
        "{stranger}"
    );
    // Nor does it learn how things stand.
    let asked = Command::new("setpriv")
        .args(["--reuid", "1", "--regid", "1", "--clear-groups", "--"])
        .args(["curl", "-sSi", "--unix-socket"])
        .arg(&running.socket)
        .arg("http://localhost/status")
        .output()
        .unwrap();
    let asked = String::from_utf8_lossy(&asked.stdout).into_owned();
    assert!(
        asked.starts_with("HTTP/1.1 403") && asked.contains("caller_not_allowed"),
        "{asked}"
    );
    // The overflow id stands for users that cannot be named.
    let overflow = sign_as(&running, "65534", "3");
    assert!(
        overflow.starts_with("HTTP/1.1 403") && overflow.contains("caller_unknown"),
        "{overflow}"
    );
}

#[test]
fn strangers_on_a_shared_socket_keep_no_caller_out() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    if !is_root() {
        return;
    }
    let policy = |state: &qemu_dev::State| {
        let text = state
            .development_policy(&[("agent", "did:key", "EdDSA")])
            .unwrap();
        text.replace("callers = { uids = [0] }", "callers = { uids = [0, 2] }")
    };
    let running = Running::prepared(policy, "", &[]);
    open_the_way(&running);
    // A copy that other users can reach.
    let program = running.folder().join("bench");
    harness::copy_program(&harness::program("anchorhold-bench"), &program);
    let mut stranger = Command::new("setpriv")
        .args(["--reuid", "1", "--regid", "1", "--clear-groups", "--"])
        .arg(&program)
        .arg("hold-connections")
        .arg(&running.socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut held = String::new();
    BufReader::new(stranger.stdout.take().unwrap())
        .read_line(&mut held)
        .unwrap();
    assert_eq!(held.trim(), "64");
    assert!(sign_as(&running, "2", "2").starts_with("HTTP/1.1 200"));
    drop(stranger.stdin.take());
    assert!(stranger.wait().unwrap().success());
}

fn open_the_way(running: &Running) {
    let permissions = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o711);
    std::fs::set_permissions(running.folder(), permissions).unwrap();
}

#[test]
fn a_caller_uses_its_own_identities_and_need_not_name_the_only_one() {
    let uid = rustix::process::geteuid().as_raw();
    let policy = |state: &qemu_dev::State| {
        let text = state
            .development_policy(&[("mine", "did:key", "EdDSA"), ("theirs", "did:key", "EdDSA")])
            .unwrap();
        let (mine, theirs) = text.split_at(text.rfind("[[identities]]").unwrap());
        format!(
            "{mine}{}",
            theirs.replace(&format!("uids = [{uid}]"), "names = [\"somebody\"]")
        )
    };
    let running = Running::prepared(policy, "", &[]);
    assert_eq!(
        post(
            &running.socket,
            "/sign",
            &json!({"payload": {}, "intent": "a"})
        )
        .unwrap()
        .status,
        200
    );
    let theirs = json!({"payload": {}, "intent": "a", "identity": "theirs"});
    let refused = post(&running.socket, "/sign", &theirs).unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (403, "caller_not_allowed")
    );
    assert_eq!(
        get(&running.socket, "/identity?identity=theirs")
            .unwrap()
            .code(),
        "caller_not_allowed"
    );
    let attest = json!({"nonce": "ab".repeat(32), "identity": "theirs"});
    assert_eq!(
        post(&running.socket, "/attestation", &attest)
            .unwrap()
            .code(),
        "caller_not_allowed"
    );
    assert_eq!(
        post(&running.socket, "/rotate", &json!({"identity": "theirs"}))
            .unwrap()
            .code(),
        "rotation_not_allowed"
    );
}

#[test]
fn a_caller_of_several_identities_must_name_one() {
    let running = Running::with(&[("one", "did:key", "EdDSA"), ("two", "did:key", "EdDSA")]);
    let refused = post(
        &running.socket,
        "/sign",
        &json!({"payload": {}, "intent": "a"}),
    )
    .unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (422, "identity_required")
    );
}

#[test]
fn the_security_module_is_asked_about_the_socket_and_the_process_of_a_caller() {
    // What it says is tried without it (parent-proxy/callers/src/peer.rs); that it is asked, the
    // system calls show.
    let mut running = Running::start();
    running.kill_sidecar();
    let config = running.state.folder().join("sidecar.toml");
    let traced = Traced::start(
        &config,
        &running.folder().join("trace"),
        "getsockopt,openat",
    );
    let Some(mut traced) = traced else {
        return harness::skipped("strace is not installed");
    };
    harness::wait_for(|| get(&running.socket, "/health").is_ok_and(|answer| answer.status == 200));
    harness::wait_for(|| traced.calls().contains("SOL_SOCKET, SO_PEERSEC, "));
    harness::wait_for(|| traced.calls().contains(", \"attr/current\", O_RDONLY"));
    assert!(traced.stop().success());
}

/// A folder of this machine, shown once more by a program that is not the kernel.
struct Shown(std::path::PathBuf);

impl Shown {
    fn mount(what: &std::path::Path, at: std::path::PathBuf) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let mounted = Command::new("bindfs")
            .args(["-o", "allow_other"])
            .arg(what)
            .arg(&at)
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self(at))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn an_executable_whose_file_system_is_a_program_is_not_the_one_that_was_pinned() {
    if !is_root() {
        return;
    }
    let folder = harness::private_folder();
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o711),
    )
    .unwrap();
    let real = folder.path().join("real");
    std::fs::create_dir(&real).unwrap();
    harness::copy_program(&harness::program("anchorhold"), &real.join("agent"));
    let digest = identity::sha256(&std::fs::read(real.join("agent")).unwrap());
    let running = Running::prepared(
        |state| {
            let annex = format!(
                "version = 1\n[[callers]]\nname = \"agent\"\nuid = 0\nexecutables = [\"{digest}\"]\n"
            );
            let key = parent_proxy::KeyFile::read(&state.operator_key()).unwrap();
            let signed = policy::Annex::from_toml(&annex)
                .unwrap()
                .sign(&key)
                .unwrap();
            std::fs::write(state.folder().join("annex.cose"), signed).unwrap();
            let text = state
                .development_policy(&[("agent", "did:key", "EdDSA")])
                .unwrap();
            text.replace(
                "callers = { uids = [0] }",
                "callers = { names = [\"agent\"] }",
            )
        },
        "annex = \"annex.cose\"\n",
        &[],
    );
    let sign = |program: &std::path::Path| {
        let mut command = Command::new(program.join("agent"));
        command.args(["sign", "--action", "a", "--payload", "{}", "--endpoint"]);
        let output = command
            .arg(format!("unix://{}", running.socket.display()))
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(sign(&real), (Some(0), String::new()));
    // The same bytes, as far as anybody who reads them can tell.
    let Some(shown) = Shown::mount(&real, folder.path().join("shown")) else {
        return harness::skipped("a FUSE file system needs bindfs and /dev/fuse");
    };
    assert_eq!(
        identity::sha256(&std::fs::read(shown.0.join("agent")).unwrap()),
        digest
    );
    let (code, says) = sign(&shown.0);
    assert!(
        code == Some(1) && says.contains("caller_not_allowed"),
        "{code:?} {says}"
    );
    // A mount that only another process has in its view: within a user namespace anybody could have
    // made it.
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let script = "mount -t tmpfs none \"$2\" && cp \"$1/agent\" \"$2\" && echo && read -r line";
    let mut other = Command::new("unshare")
        .args(["--mount", "sh", "-ec", script, "sh"])
        .args([&real, &elsewhere])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(other.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    let within = format!("/proc/{}/root{}", other.id(), elsewhere.display());
    let (code, says) = sign(std::path::Path::new(&within));
    drop(other.stdin.take());
    let _ = other.wait();
    assert!(
        code == Some(1) && says.contains("caller_not_allowed"),
        "{code:?} {says}"
    );
    assert_eq!(sign(&real), (Some(0), String::new()));
}
