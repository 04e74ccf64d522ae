//! Every way around every pin of a caller, really tried: what comes of it is what docs/callers.md
//! says.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Running, get, program, wait_for};
use identity::{Digest, sha256};
use parent_proxy::KeyFile;
use policy::Annex;
use rustix::process::geteuid;

const PAGE: &str = include_str!("../../../docs/callers.md");
/// The group of the agent's that is installed setgid.
const GROUP: u32 = 3;
/// Of each bypass on each pin.
const TRIES: u32 = 20;
const PINS: [&str; 6] = ["uid", "gid", "executable", "unit", "socket", "key"];

/// The table: bypass, pin, then whether it passes for the user and for root.
fn table() -> BTreeMap<(String, &'static str), [bool; 2]> {
    let mut table = BTreeMap::new();
    for row in PAGE
        .lines()
        .filter(|line| line.starts_with("| `") && line.matches('|').count() == 8)
    {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let bypass = cells[0].split('`').nth(1).unwrap().to_owned();
        for (pin, cell) in PINS.into_iter().zip(&cells[1..]) {
            let passes = |word: &str| match word {
                "succeeds" => true,
                "fails" => false,
                other => panic!("{other}"),
            };
            let (user, root) = cell.split_once(" / ").unwrap();
            table.insert((bypass.clone(), pin), [passes(user), passes(root)]);
        }
    }
    table
}

/// The programs, where every user can run them: the agent, and who is not.
struct Programs {
    folder: tempfile::TempDir,
    agent: Digest<32>,
}

impl Programs {
    fn make() -> Self {
        let folder = harness::private_folder();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("bypass/bypass.c");
        let compile = |output: &str, flags: &[&str]| {
            let made = Command::new("cc")
                .args(["-O1", "-o"])
                .arg(folder.path().join(output))
                .args(flags)
                .arg(&source)
                .status();
            assert!(made.unwrap().success());
        };
        compile("bypass", &[]);
        compile("agent", &["-DAGENT=1", "-g"]);
        compile("preload.so", &["-shared", "-fPIC", "-DPRELOAD"]);
        let at = |name: &str| folder.path().join(name);
        harness::copy_program(&at("bypass"), &at("agent (deleted)"));
        for name in ["agent", "setgid", "copy"] {
            if name != "agent" {
                harness::copy_program(&at("agent"), &at(name));
            }
            chown(
                at(name),
                Some(u32::from(name == "copy")),
                Some(if name == "setgid" { GROUP } else { 0 }),
            )
            .unwrap();
            let mode = if name == "setgid" { 0o2755 } else { 0o755 };
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let agent = sha256(&std::fs::read(at("agent")).unwrap());
        assert_ne!(agent, sha256(&std::fs::read(at("bypass")).unwrap()));
        Self { folder, agent }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A cgroup that is called like a unit, where this machine lets root make one.
struct Unit(PathBuf);

impl Unit {
    const NAME: &str = "anchorhold-bypass.service";

    fn make() -> Option<Self> {
        let places = [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/pids",
            "/sys/fs/cgroup/systemd",
            "/sys/fs/cgroup/unified",
        ];
        places
            .iter()
            .map(|place| Path::new(place).join(Self::NAME))
            .find_map(|folder| {
                let _ = std::fs::create_dir(&folder);
                if folder.join("cgroup.procs").exists() {
                    Some(Self(folder))
                } else {
                    None
                }
            })
    }

    fn procs(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A sidecar whose one caller is pinned so.
fn pinned(pin: &str, uid: u32, programs: &Programs) -> Running {
    let python = std::fs::canonicalize("/usr/bin/python3")
        .and_then(std::fs::read)
        .map(|bytes| sha256(&bytes));
    let executables = [programs.agent]
        .into_iter()
        .chain(python)
        .map(|digest| format!("\"{digest}\""))
        .collect::<Vec<_>>()
        .join(", ");
    let described = match pin {
        "uid" => format!("uid = {uid}"),
        "gid" => format!("gid = {GROUP}"),
        "executable" => format!("uid = {uid}\nexecutables = [{executables}]"),
        "unit" => format!("uid = {uid}\nunit = \"{}\"", Unit::NAME),
        "socket" => "socket = \"agent\"".into(),
        // Somebody whom the table does not try.
        _ => "uid = 4711".into(),
    };
    let socket = "[[sockets]]\nname = \"agent\"\npath = \"run/agent.sock\"\nuid = UID\n"
        .replace("UID", &uid.to_string());
    let running = Running::prepared(
        |state| {
            let annex = Annex::from_toml(&format!(
                "version = 1\n[[callers]]\nname = \"agent\"\n{described}\n"
            ))
            .unwrap();
            let signed = annex
                .sign(&KeyFile::read(&state.operator_key()).unwrap())
                .unwrap();
            std::fs::write(state.folder().join("annex.cose"), signed).unwrap();
            let caller = KeyFile::create(&state.folder().join("caller.key")).unwrap();
            let key = identity::Signer::public_key(&caller).to_multikey();
            // One that may sign, and not rotate.
            let signer = KeyFile::create(&state.folder().join("signer.key")).unwrap();
            let signer = identity::Signer::public_key(&signer).to_multikey();
            let text = state
                .development_policy(&[("agent", "did:key", "EdDSA")])
                .unwrap();
            let own = format!("callers = {{ uids = [{}] }}", geteuid().as_raw());
            text.replacen(
                &own,
                "callers = { names = [\"agent\"], proven = [\"agent\", \"signer\"] }",
                1,
            )
            .replacen(&own, "callers = { proven = [\"agent\"] }", 1)
            .replacen(
                "\n[[identities]]",
                &format!(
                    "\n[[callers]]\nname = \"agent\"\nkey = \"{key}\"\n\n\
                     [[callers]]\nname = \"signer\"\nkey = \"{signer}\"\n\n[[identities]]"
                ),
                1,
            )
        },
        &format!(
            "annex = \"annex.cose\"\n{socket}[limits]\nrequests_per_second = 0\nconnections = 4096\n"
        ),
        &[],
    );
    std::fs::set_permissions(running.folder(), std::fs::Permissions::from_mode(0o711)).unwrap();
    std::fs::set_permissions(
        running.folder().join("run"),
        std::fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    running
}

/// The command of a bypass, as this user.
fn attack(
    bypass: &str,
    uid: u32,
    socket: &Path,
    agent: &Path,
    programs: &Programs,
    procs: Option<&Path>,
) -> Command {
    let user = if bypass == "other" { 2 } else { uid }.to_string();
    let group = if bypass == "group" {
        GROUP.to_string()
    } else {
        user.clone()
    };
    let mut command = Command::new("setpriv");
    // An ordinary user is one before the group is asked for: then it cannot take it.
    if bypass == "group" && uid != 0 {
        command.args([
            "--reuid",
            &user,
            "--regid",
            &user,
            "--clear-groups",
            "--",
            "setpriv",
            "--regid",
            &group,
            "--clear-groups",
            "--",
        ]);
    } else {
        command.args(["--reuid", &user, "--regid", &group, "--clear-groups", "--"]);
    }
    match bypass {
        "sign" | "other" | "group" => command.arg(programs.at("bypass")).arg("sign").arg(socket),
        "copy" => command.arg(programs.at("copy")).arg("sign").arg(socket),
        "deleted" => command
            .arg(programs.at("agent (deleted)"))
            .arg("sign")
            .arg(socket),
        "preload" => {
            command
                .env("LD_PRELOAD", programs.at("preload.so"))
                .env("PRELOADED_SOCKET", socket);
            // setpriv would be taken as well.
            let mut shell = Command::new("setpriv");
            shell.args([
                "--reuid",
                &user,
                "--regid",
                &group,
                "--clear-groups",
                "--",
                "env",
            ]);
            shell.arg(format!(
                "LD_PRELOAD={}",
                programs.at("preload.so").display()
            ));
            shell
                .arg(format!("PRELOADED_SOCKET={}", socket.display()))
                .arg(agent)
                .args(["answer", "-1"]);
            return shell;
        }
        "interpreter" => command
            .args(["/usr/bin/python3", "-c"])
            .arg(SCRIPT)
            .arg(socket),
        "move" => command
            .arg(programs.at("bypass"))
            .arg("move")
            .arg(socket)
            .arg(procs.unwrap_or(Path::new("/nonexistent"))),
        other => command
            .arg(programs.at("bypass"))
            .arg(other)
            .arg(socket)
            .arg(agent),
    };
    command
}

const SCRIPT: &str = r#"
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
b = b'{"payload":{},"intent":"a"}'
s.sendall(b"POST /sign HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(b) + b)
print(s.recv(4096)[9:12].decode())
"#;

/// Whether a signature came of it; what it printed says so.
fn passes(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (said.lines().any(|line| line == "200"), said)
}

/// What comes of a bypass, and all that it said: it passes if one of twenty tries does, since some
/// are races, and is refused only if all are.
fn outcome(mut command: Command) -> (bool, String) {
    let mut all = String::new();
    for _ in 0..TRIES {
        let (passed, said) = passes(&mut command);
        all += &said;
        // Who was told to wait was not refused for the pin.
        assert!(!said.lines().any(|line| line == "429"), "{all}");
        if passed {
            return (true, all);
        }
    }
    (false, all)
}

#[test]
fn every_bypass_does_to_every_pin_what_the_table_says() {
    if !geteuid().is_root() {
        return harness::skipped("becoming other users needs root");
    }
    let table = table();
    assert_eq!(table.len(), 15 * PINS.len());
    let programs = Programs::make();
    let unit = Unit::make();
    let mut wrong = Vec::new();
    for (who, uid) in [(0, 1), (1, 0)] {
        for pin in PINS {
            if pin == "unit" && unit.is_none() {
                harness::skipped("no cgroup can be made here: nothing was tried on the pin `unit`");
                continue;
            }
            let running = pinned(pin, uid, &programs);
            let socket = if pin == "socket" {
                running.folder().join("run/agent.sock")
            } else {
                running.socket.clone()
            };
            let socket = if socket.exists() {
                socket
            } else {
                running.state.folder().join("run/agent.sock")
            };
            let agent = programs.at(if pin == "gid" { "setgid" } else { "agent" });
            // The agent itself gets what it asks for, however it is pinned.
            if pin != "key" {
                let procs = unit.as_ref().filter(|_| pin == "unit").map(Unit::procs);
                let enter = procs
                    .as_ref()
                    .map(|procs| format!("echo $$ > {}; ", procs.display()))
                    .unwrap_or_default();
                let script = format!(
                    "{enter}exec setpriv --reuid {uid} --regid {uid} --clear-groups -- {} sign {}",
                    agent.display(),
                    socket.display()
                );
                let mut command = Command::new("sh");
                command.args(["-c", &script]);
                let (good, said) = passes(&mut command);
                assert!(good, "{pin} as {uid}: {said}\n{}", running.log());
            }
            let tried = table.iter().filter(|((_, of), _)| *of == pin);
            std::thread::scope(|scope| {
                let tries: Vec<_> = tried
                    .map(|((bypass, _), expected)| {
                        let procs = unit.as_ref().map(Unit::procs);
                        let command =
                            attack(bypass, uid, &socket, &agent, &programs, procs.as_deref());
                        (bypass, expected[who], scope.spawn(move || outcome(command)))
                    })
                    .collect();
                for (bypass, expected, tried) in tries {
                    let (passed, said) = tried.join().unwrap();
                    // Root can give the agent a number that it wants, so that this was really
                    // tried.
                    if uid == 0
                        && bypass == "pid-reuse"
                        && Path::new("/proc/sys/kernel/ns_last_pid").exists()
                    {
                        assert!(said.contains("the agent has the number"), "{said}");
                    }
                    if passed != expected {
                        wrong.push(format!(
                            "{bypass} x {pin} as {uid}: passes is {passed}; it said {said:?}"
                        ));
                    }
                }
            });
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Asks for a signature, and says what it was started with.
const SHIMMED: &str = r#"
import os, socket, sys
# Python itself sets LC_CTYPE.
print("has", sys.argv[1:], sorted(set(os.environ) - {"LC_CTYPE"}))
s = socket.socket(socket.AF_UNIX); s.connect("SOCKET")
b = b'{"payload":{},"intent":"a"}'
s.sendall(b"POST /sign HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(b) + b)
print(s.recv(4096)[9:12].decode())
"#;

#[test]
fn a_shim_gives_its_group_to_one_program_as_root_wrote_it_down_and_to_nothing_else() {
    if !geteuid().is_root() {
        return harness::skipped("installing a setgid program needs root");
    }
    let programs = Programs::make();
    let running = pinned("gid", 1, &programs);
    let folder = harness::private_folder();
    let at = |name: &str| folder.path().join(name);
    let mode = |name: &str, mode: u32| {
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap()
    };
    let write = |name: &str, text: &str| {
        let _ = std::fs::remove_file(at(name));
        std::fs::write(at(name), text).unwrap();
        mode(name, 0o644);
    };
    let install = || {
        let _ = std::fs::remove_file(at("agent"));
        harness::copy_program(&program("anchorhold-shim"), &at("agent"));
        chown(at("agent"), Some(0), Some(GROUP)).unwrap();
        mode("agent", 0o2755);
    };
    mode("", 0o755);
    install();
    write(
        "agent.py",
        &SHIMMED.replace("SOCKET", running.socket.to_str().unwrap()),
    );
    let command = |more: &str| {
        format!(
            "command = [\"/usr/bin/python3\", \"-I\", \"{}\", \"one\"]\n{more}",
            at("agent.py").display()
        )
    };
    let good = command("environment = [\"LANG\", \"NAME=of root's\"]\n");
    write("agent.toml", &good);
    let preload = programs.at("preload.so");
    // The C library loads nothing into a setgid program; where the group is not taken, it would.
    let start_with = |before: &[&str], preload: &Path| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "1", "--regid", "1", "--clear-groups"])
            .args(before)
            .args(["--", "env", "LANG=C", "EVIL=1"]);
        command
            .arg(format!("LD_PRELOAD={}", preload.display()))
            .arg(format!("PRELOADED_SOCKET={}", running.socket.display()));
        let output = command
            .arg("PYTHONSTARTUP=/x")
            .arg(at("agent"))
            .arg("more")
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let start = |before: &[&str]| start_with(before, &preload);
    let signed = |arguments: &str, names: &str| {
        (
            Some(0),
            format!("has [{arguments}] [{names}]\n200\n"),
            String::new(),
        )
    };
    assert_eq!(
        start(&[]),
        signed("'one'", "'LANG', 'NAME', 'PATH'"),
        "{}",
        running.log()
    );
    write("agent.toml", &command("arguments = true\n"));
    assert_eq!(start(&[]), signed("'one', 'more'", "'PATH'"));
    // Without the shim the same script has not the group.
    let mut bare = Command::new("setpriv");
    bare.args([
        "--reuid",
        "1",
        "--regid",
        "1",
        "--clear-groups",
        "--",
        "/usr/bin/python3",
        "-I",
    ])
    .arg(at("agent.py"));
    assert!(!passes(&mut bare).0);

    let refused_with = |says: &str, preload: &Path| {
        let (code, out, error) = start_with(&[], preload);
        assert!(
            code == Some(64) && out.is_empty() && error.contains(says),
            "{says}: {code:?} {out} {error}"
        );
        write("agent.toml", &good);
        mode("", 0o755);
        chown(folder.path(), Some(0), Some(0)).unwrap();
        install();
    };
    let refused = |says: &str| refused_with(says, &preload);
    std::fs::remove_file(at("agent.toml")).unwrap();
    refused("No such file");
    chown(at("agent.toml"), Some(1), Some(1)).unwrap();
    refused("not root's");
    mode("agent.toml", 0o664);
    refused("others than root could write");
    mode("", 0o777);
    refused("others than root could write");
    mode("", 0o1777);
    refused("others than root could write");
    chown(folder.path(), Some(1), Some(1)).unwrap();
    refused("not root's");
    std::fs::rename(at("agent.toml"), at("other.toml")).unwrap();
    std::os::unix::fs::symlink("other.toml", at("agent.toml")).unwrap();
    refused("Too many levels of symbolic links");
    std::fs::remove_file(at("agent.toml")).unwrap();
    std::fs::create_dir(at("agent.toml")).unwrap();
    let (code, _, error) = start(&[]);
    assert!(code == Some(64) && error.contains("not a file"), "{error}");
    std::fs::remove_dir(at("agent.toml")).unwrap();
    write("agent.toml", "command = [\"python3\"]\n");
    refused("absolute path");
    write("agent.toml", &" ".repeat(64 * 1024 + 1));
    refused("larger than 64 KiB");
    mode("agent", 0o755);
    refused_with("the group was not taken", Path::new(""));
    let (code, _, error) = start_with(&["--no-new-privs"], Path::new(""));
    assert!(
        code == Some(64) && error.contains("the group was not taken"),
        "{error}"
    );
    write("agent.toml", "command = [\"/nonexistent\"]\n");
    let (code, _, error) = start(&[]);
    assert!(
        code == Some(70) && error.contains("/nonexistent: No such file"),
        "{error}"
    );
}

#[test]
fn a_caller_with_a_key_proves_itself_whoever_it_is() {
    if !geteuid().is_root() {
        return harness::skipped("becoming other users needs root");
    }
    let programs = Programs::make();
    let running = pinned("key", 1, &programs);
    let key = running.state.folder().join("caller.key");
    let sign = |more: &[&str]| {
        let mut command = Command::new(program("anchorhold"));
        command.args([
            "sign",
            "--identity",
            "agent",
            "--action",
            "a",
            "--payload",
            "{}",
            "--json",
            "--endpoint",
        ]);
        command
            .arg(format!("unix://{}", running.socket.display()))
            .args(more);
        command.output().unwrap()
    };
    assert_eq!(
        sign(&[]).status.code(),
        Some(1),
        "the sidecar's own user is no caller here"
    );
    let signed = sign(&["--caller-key", key.to_str().unwrap()]);
    assert_eq!(
        signed.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&signed.stderr)
    );
    let answer: serde_json::Value = serde_json::from_slice(&signed.stdout).unwrap();
    let claims =
        identity::token::unverified_claims(answer["vouch_token"].as_str().unwrap()).unwrap();
    let identity::Caller::Proven(proven) = claims.caller else {
        panic!("not proven")
    };
    let thumbprint = identity::Signer::public_key(&KeyFile::read(&key).unwrap()).thumbprint();
    assert_eq!((proven.name.as_str(), proven.key), ("agent", thumbprint));
    // Another key, and the key for another request, prove nothing.
    let stranger = running.state.folder().join("stranger.key");
    KeyFile::create(&stranger).unwrap();
    let refused = sign(&["--caller-key", stranger.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("proof_invalid"));
    // So it is with a rotation.
    let rotate = |more: &[&str]| {
        let endpoint = format!("unix://{}", running.socket.display());
        let mut command = Command::new(program("anchorhold"));
        command.args(["rotate", "--identity", "agent", "--endpoint", &endpoint]);
        command.args(more).output().unwrap()
    };
    assert_eq!(rotate(&[]).status.code(), Some(1));
    let signer = running.state.folder().join("signer.key");
    let signs = sign(&["--caller-key", signer.to_str().unwrap()]);
    assert!(signs.status.success(), "{signs:?}");
    // The enclave, which would say `rotation_not_allowed`, does not hear of them.
    for other in [&stranger, &signer] {
        let refused = rotate(&["--caller-key", other.to_str().unwrap()]);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("proof_invalid"));
    }
    // There is room for the document of an enclave, too.
    let attestation = "A".repeat(24_000);
    let body =
        serde_json::json!({"identity": "agent", "proof": {"jws": "x", "attestation": attestation}});
    let refused = harness::post(&running.socket, "/rotate", &body).unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (403, "proof_invalid")
    );
    for version in [2, 3] {
        let rotated = rotate(&["--caller-key", key.to_str().unwrap()]);
        assert_eq!(rotated.status.code(), Some(0), "{rotated:?}");
        let answer: serde_json::Value = serde_json::from_slice(&rotated.stdout).unwrap();
        assert_eq!(answer["identity"]["key_version"], version);
    }
    assert!(
        sign(&["--caller-key", key.to_str().unwrap()])
            .status
            .success()
    );
}

#[test]
fn a_process_that_cannot_be_seen_is_nobody() {
    if !geteuid().is_root() {
        return harness::skipped("a pid namespace needs root");
    }
    let mut running = Running::start();
    running.kill_sidecar();
    let config = running.state.folder().join("sidecar.toml");
    let mut inside = Command::new("unshare");
    inside
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(program("anchorhold"))
        .args(["serve", "--config"])
        .arg(&config);
    let mut sidecar = inside.stderr(std::process::Stdio::null()).spawn().unwrap();
    // From its pid namespace this process has no number.
    wait_for(|| get(&running.socket, "/health").is_ok());
    let refused = get(&running.socket, "/health").unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (403, "caller_unknown")
    );
    sidecar.kill().unwrap();
    sidecar.wait().unwrap();
}

#[test]
fn an_interpreter_cannot_be_pinned_and_the_error_says_what_to_pin_instead() {
    let running = Running::start();
    let annex = running.folder().join("annex.toml");
    std::fs::write(
        &annex,
        "version = 1\n[[callers]]\nname = \"agent\"\nuid = 1000\n",
    )
    .unwrap();
    let script = running.folder().join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    let sign = |executable: &str| {
        let output = Command::new(program("anchorhold"))
            .arg("annex")
            .arg(&annex)
            .arg("--operator-key")
            .arg(running.state.operator_key())
            .arg("-o")
            .arg(running.folder().join("annex.cose"))
            .args(["--executable", executable])
            .output()
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    for interpreter in ["/usr/bin/python3", "/bin/sh", script.to_str().unwrap()] {
        let (code, says) = sign(&format!("agent={interpreter}"));
        assert_eq!(code, 64, "{says}");
        assert!(
            says.contains("Pin uid, unit, pod, container or a socket of its own instead"),
            "{says}"
        );
    }
    assert_eq!(
        sign(&format!("agent={}", program("anchorhold").display())).0,
        0
    );
    assert_eq!(sign("somebody=/bin/true").0, 64);
    assert_eq!(sign("agent=/nonexistent").0, 64);
    assert_eq!(sign("agent").0, 64);
}
