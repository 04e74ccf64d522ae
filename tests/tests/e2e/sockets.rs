use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use harness::{Connection, Running, get, program, raw};
use qemu_dev::State;
use rustix::process::Signal;

/// Starts a sidecar that is expected to give up at once.
fn serve(state: &State, socket: &Path, more: &str) -> Output {
    let config = state.write_sidecar_config(socket, more).unwrap();
    Command::new(program("anchorhold"))
        .arg("serve")
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

fn refuses(output: &Output, says: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains(says), "{text}");
}

#[test]
fn a_socket_is_bound_only_where_it_is_safe_and_free() {
    let folder = harness::private_folder();
    let state = State::open(folder.path()).unwrap();
    let run = folder.path().join("run");
    fs::create_dir(&run).unwrap();
    let socket = run.join("s.sock");

    fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).unwrap();
    refuses(&serve(&state, &socket, ""), "mode 0700");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).unwrap();

    fs::write(&socket, "a file").unwrap();
    refuses(&serve(&state, &socket, ""), "not a socket");
    assert_eq!(
        fs::read_to_string(&socket).unwrap(),
        "a file",
        "what stands there stays"
    );
    fs::remove_file(&socket).unwrap();

    let listener = UnixListener::bind(&socket).unwrap();
    refuses(&serve(&state, &socket, ""), "another process listens there");
    drop(listener);

    refuses(&serve(&state, &run.join("x".repeat(120)), ""), "107 bytes");
    refuses(
        &serve(&state, Path::new("/nowhere/at/all/s.sock"), ""),
        "No such file",
    );
    if rustix::process::geteuid().is_root() {
        rustix::fs::chown(&socket, Some(rustix::fs::Uid::from_raw(1)), None).unwrap();
        refuses(&serve(&state, &socket, ""), "another user");
        rustix::fs::chown(&socket, Some(rustix::fs::Uid::ROOT), None).unwrap();
        rustix::fs::chown(&run, Some(rustix::fs::Uid::from_raw(1)), None).unwrap();
        refuses(&serve(&state, &socket, ""), "must be ours");
    }
}

#[test]
fn a_socket_is_not_bound_below_a_directory_that_another_user_could_replace() {
    let folder = harness::private_folder();
    let state = State::open(folder.path()).unwrap();
    // The record is opened after the socket is bound, and is refused: a sidecar that says so has
    // found the socket safe.
    fs::create_dir(state.record()).unwrap();
    fs::set_permissions(state.record(), fs::Permissions::from_mode(0o755)).unwrap();
    let bound = "it must be ours and closed to others (mode 0700)";
    let (above, other) = (folder.path().join("above"), folder.path().join("other"));
    let run = above.join("between/run");
    let make = |above: &Path| {
        fs::create_dir_all(above.join("between")).unwrap();
        fs::create_dir(above.join("between/run")).unwrap();
        fs::set_permissions(above.join("between/run"), fs::Permissions::from_mode(0o700)).unwrap();
    };
    make(&above);
    let chmod = |mode: u32| fs::set_permissions(&above, fs::Permissions::from_mode(mode)).unwrap();
    let agents_own = format!(
        "[[sockets]]\nname = \"agent\"\npath = \"{}\"\n",
        run.join("agent.sock").display()
    );
    let good_socket = folder.path().join("run/s.sock");
    let could_replace = format!(
        "another user could replace {}, which is above its directory",
        above.display()
    );
    // The socket for all, and one of a single agent's.
    let serves = |says: &str| {
        refuses(&serve(&state, &run.join("s.sock"), ""), says);
        refuses(&serve(&state, &good_socket, &agents_own), says);
        assert!(!run.join("s.sock").exists() && !run.join("agent.sock").exists());
    };

    // Others may change it; but not what is ours in it, where it is sticky.
    for (mode, says) in [
        (0o755, bound),
        (0o775, &could_replace),
        (0o757, &could_replace),
        (0o702, &could_replace),
        (0o720, &could_replace),
        (0o1777, bound),
        (0o1775, bound),
        (0o711, bound),
    ] {
        chmod(mode);
        serves(says);
    }
    chmod(0o755);

    // The mode of a symbolic link says nothing; its owner may replace it.
    fs::rename(&above, &other).unwrap();
    std::os::unix::fs::symlink(&other, &above).unwrap();
    serves(bound);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(&above, Some(1), Some(1)).unwrap();
        serves(&could_replace);
    }
    fs::remove_file(&above).unwrap();
    fs::rename(&other, &above).unwrap();

    // The owner of a directory may change it and all that is in it.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&above, Some(1), Some(0)).unwrap();
        for mode in [0o755, 0o700, 0o1777] {
            chmod(mode);
            serves(&could_replace);
        }
        // Also further above.
        let deep = above.join("between/run/deeper/run");
        fs::create_dir_all(&deep).unwrap();
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o700)).unwrap();
        refuses(&serve(&state, &deep.join("s.sock"), ""), &could_replace);
    }
}

#[test]
fn a_socket_that_a_dead_sidecar_left_is_replaced_and_a_living_one_is_private() {
    let mut running = Running::start();
    running.sidecar.kill().unwrap();
    assert!(running.socket.exists(), "it could not clean up");
    let program = qemu_dev::Program::at(&program("anchorhold-dev"));
    let config = running.folder().join("sidecar.toml");
    running.sidecar = program.start_sidecar(&config, None, &[]).unwrap();
    running.wait_until_ready();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (
            mode(&running.socket),
            mode(running.socket.parent().unwrap())
        ),
        (0o600, 0o700)
    );
}

#[test]
fn configuration_mistakes_are_named_and_flags_beat_environment_beats_file() {
    let folder = harness::private_folder();
    let state = State::open(folder.path()).unwrap();
    let socket = folder.path().join("run").join("s.sock");
    refuses(
        &serve(&state, &socket, "colour = \"red\"\n"),
        "unknown field `colour`",
    );
    refuses(&serve(&state, &socket, "connections = 9\n"), "1 to 8");
    refuses(
        &serve(&state, &socket, "log_level = \"info=warn=\"\n"),
        "log_level",
    );
    refuses(
        &serve(
            &state,
            &socket,
            "[localhost]\nlisten = \"0.0.0.0:1\"\ncallers = []\n",
        ),
        "loopback",
    );
    refuses(
        &serve(
            &state,
            &socket,
            "[localhost]\nlisten = \"127.0.0.1:0\"\ncallers = []\n",
        ),
        "nobody",
    );

    let config = state.write_sidecar_config(&socket, "").unwrap();
    let run = |environment: &str, flag: &str| {
        let mut command = Command::new(program("anchorhold"));
        command.arg("serve").arg("--config").arg(&config);
        if !environment.is_empty() {
            command.env("ANCHORHOLD_ENCLAVE", environment);
        }
        if !flag.is_empty() {
            command.args(["--enclave", flag]);
        }
        command.output().unwrap()
    };
    refuses(&run("tcp://environment:1", ""), "tcp://environment:1");
    refuses(&run("tcp://environment:1", "tcp://flag:1"), "tcp://flag:1");

    fs::write(state.policy(), "version = 2").unwrap();
    refuses(&serve(&state, &socket, ""), "missing field");
    fs::remove_file(state.policy()).unwrap();
    refuses(&serve(&state, &socket, ""), "policy.toml");
}

#[test]
fn a_key_that_others_can_read_or_that_the_policy_does_not_name_is_refused() {
    let folder = harness::private_folder();
    let state = State::open(folder.path()).unwrap();
    let socket = folder.path().join("run").join("s.sock");
    fs::set_permissions(state.proxy_key(), fs::Permissions::from_mode(0o644)).unwrap();
    refuses(&serve(&state, &socket, ""), "chmod 600");
    fs::copy(state.operator_key(), state.proxy_key()).unwrap();
    fs::set_permissions(state.proxy_key(), fs::Permissions::from_mode(0o600)).unwrap();
    refuses(
        &serve(&state, &socket, ""),
        "not the key that the bundle names",
    );
    fs::write(state.proxy_key(), "no key").unwrap();
    refuses(&serve(&state, &socket, ""), "not an Ed25519 key");
}

#[test]
fn on_sigterm_requests_under_way_are_answered_and_the_socket_is_removed() {
    let mut running = Running::start();
    let body = b"{\"payload\":{},\"intent\":\"a\"}";
    let request = raw("/sign", Some(body));
    let mut under_way = Connection::open(&running.socket).unwrap();
    under_way.send(&request[..request.len() - 5]).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    running.sidecar.signal(Signal::TERM);
    harness::wait_for(|| !running.socket.exists());
    assert!(
        get(&running.socket, "/health").is_err(),
        "nobody new is let in"
    );
    under_way.send(&request[request.len() - 5..]).unwrap();
    assert_eq!(under_way.read().unwrap().status, 200);
    assert!(running.sidecar.stop().unwrap().success());
}
