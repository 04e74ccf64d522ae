//! The image, booted: the same program as PID 1, behind a real kernel and a vsock.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use attestation::{Expectations, Measurements, Subject, Verifier};
use eif::{Entry, Image, Parts, ramdisk};
use flate2::read::GzDecoder;
use harness::machine::{Machine, Sidecar, command, connect, image, listen, nitro_qemu};
use harness::services::{PLACEHOLDER, SECRET, With, bundle, config, free_port, put_at};
use harness::window::{TestKey, Window, frame, sign};
use harness::{Moment, Step, Tap, get, now, post, private_folder, program, skipped, wait_for};
use identity::cbor;
use parent_proxy::{Client, Target};
use protocol::{EXIT_PORT, Endpoint, ExitReason, FrameBuffer, Request, RequestFrame, WINDOW_PORT};
use qemu_dev::{DurableState, State};
use rustix::process::Signal;
use serde_json::json;

use crate::credentials::ingress::{HTTPS_PROXY, ca_of};
use crate::credentials::upstream::{Upstream, answer};
use crate::faults::{PRINTING, ask_a_policy_that_prints};

const NONCE: [u8; 32] = [9; 32];

/// A token and evidence for it, and what the verifier says who holds these measurements.
fn sign_and_judge(
    machine: &Machine,
    sidecar: &Sidecar,
    measurements: &Measurements,
) -> Result<&'static str, &'static str> {
    let answer = post(
        &sidecar.socket,
        "/sign",
        &json!({"payload": {"n": 1}, "intent": "a"}),
    )
    .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.code());
    let token = answer.json()["vouch_token"].as_str().unwrap().to_owned();
    let nonce = data_encoding::HEXLOWER.encode(&NONCE);
    let evidence = post(&sidecar.socket, "/attestation", &json!({"nonce": nonce})).unwrap();
    assert_eq!(evidence.status, 200, "{}", evidence.code());
    let (root, _, bundle) = machine.state().verifier_files().unwrap();
    let expectations = Expectations {
        nonce: Some(NONCE.to_vec()),
        measurements: vec![measurements.clone()],
        policies: vec![bundle.digest()],
        ..Expectations::default()
    };
    let verifier = Verifier {
        expectations,
        allow_mock: Some(root),
        ..Verifier::at(now())
    };
    let judged = verifier.judge(Subject::Token {
        token: &token,
        evidence: &evidence.body,
    });
    judged
        .map(|verdict| verdict.verdict)
        .map_err(|refusal| refusal.code())
}

/// What `anchorhold-eif describe` prints of an image, as a verifier reads it.
fn described(image: &Path) -> Measurements {
    let output = Command::new(program("anchorhold-eif"))
        .arg("describe")
        .arg(image)
        .output()
        .unwrap();
    assert!(output.status.success());
    Measurements::parse(&output.stdout).unwrap()
}

/// The image with another program in it.
fn with_program(original: &Path, out: &Path, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let bytes = eif::read_file(original).unwrap();
    let image = Image::parse(&bytes).unwrap();
    let mut archive = Vec::new();
    GzDecoder::new(image.ramdisks[1])
        .read_to_end(&mut archive)
        .unwrap();
    let mut reader = cpio::NewcReader::new(archive.as_slice()).unwrap();
    assert_eq!(reader.entry().name(), "init");
    let mut program = Vec::new();
    reader.read_to_end(&mut program).unwrap();
    let other = ramdisk(&[Entry::Program("init", &change(program))]).unwrap();
    let parts = Parts {
        ramdisks: &[image.ramdisks[0], &other],
        ..image.parts().unwrap()
    };
    std::fs::write(out, parts.to_image().unwrap()).unwrap();
}

fn first_reason(listener: &std::os::unix::net::UnixListener) -> ExitReason {
    let (mut stream, _) = listener.accept().unwrap();
    let (mut buffer, mut chunk) = (FrameBuffer::default(), [0; 2048]);
    loop {
        if let Some(frame) = buffer.next_frame().unwrap() {
            return cbor::from_slice(frame).unwrap();
        }
        let read = stream.read(&mut chunk).unwrap();
        assert!(read > 0, "it ended without a word");
        buffer.push(&chunk[..read]);
    }
}

#[test]
fn the_whole_path_works_on_the_image_and_verifies_offline() {
    let file = image("signer-dev.eif");
    let machine = Machine::boot(&file);
    let sidecar = machine.sidecar();
    sidecar.wait_until_ready();
    assert_eq!(
        sign_and_judge(&machine, &sidecar, &described(&file)),
        Ok("mock")
    );
    let before = get(&sidecar.socket, "/identity").unwrap().json();
    let rotated = post(&sidecar.socket, "/rotate", &json!({})).unwrap();
    assert_eq!(
        (
            rotated.status,
            rotated.json()["identity"]["key_version"].as_u64()
        ),
        (200, Some(2))
    );
    assert_ne!(
        get(&sidecar.socket, "/identity").unwrap().json()["did"],
        before["did"]
    );
    assert_eq!(
        sign_and_judge(&machine, &sidecar, &described(&file)),
        Ok("mock")
    );
    assert!(
        machine.console().contains("serving on vsock port 5005"),
        "{}",
        machine.console()
    );
    assert_eq!(machine.stop(Signal::TERM).code(), Some(0));
}

/// Two processes, pipes between them, no AF_UNIX in the kernel; the power is cut, and the keys are
/// there again.
#[test]
fn keys_outlive_a_power_cut_of_the_machine() {
    let image = image("signer-dev.eif");
    let folder = Arc::new(private_folder());
    let state = State::open_measured(folder.path(), &described(&image)).unwrap();
    let durable = DurableState::prepare(&state).unwrap();
    let (_served, aws) = harness::serve_aws(&state, &durable, Arc::default());
    let machine = Machine::boot_with(&image, folder, &[]);
    machine.wait_for_line(
        "the egress process, the ingress process and those of services are confined",
    );
    let mut sidecar = machine.sidecar_with(&durable.sidecar_lines());
    wait_for(|| {
        sidecar.socket.exists()
            && get(&sidecar.socket, "/state").is_ok_and(|answer| answer.status == 200)
    });
    let client = Client::new(Target::Unix(sidecar.socket.clone()), None);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    assert!(
        runtime
            .block_on(durable.birth_if_needed(&client))
            .unwrap()
            .is_some()
    );
    sidecar.wait_until_ready();
    let before = get(&sidecar.socket, "/identity").unwrap().json();
    sidecar.process.stop().unwrap();
    drop(sidecar);
    let machine = machine.reboot();
    let sidecar = machine.sidecar_with(&durable.sidecar_lines());
    sidecar.wait_until_ready();
    let after = get(&sidecar.socket, "/identity").unwrap().json();
    for same in ["did", "kid", "key_version", "state"] {
        assert_eq!(before[same], after[same], "{same}");
    }
    assert_ne!(before["boot_id"], after["boot_id"]);
    // The birth, the drill after it, the opening.
    assert_eq!((aws.calls("GenerateDataKey"), aws.calls("Decrypt")), (1, 2));
    assert_eq!(
        sign_and_judge(&machine, &sidecar, &described(&image)),
        Ok("mock")
    );
}

/// A service behind the image, both ways: the processes there have no network, no AF_UNIX and no files.
#[test]
fn services_are_reached_through_the_image_as_by_a_path_and_as_by_a_proxy() {
    // More than any buffer on the way holds.
    const BODY: usize = 3_000_000;
    let image = image("signer-dev.eif");
    let folder = Arc::new(private_folder());
    let state = State::open_measured(folder.path(), &described(&image)).unwrap();
    let upstream = Upstream::start(|request, tls| answer(tls, 200, "", &request.body));
    let with = With {
        bundle: HTTPS_PROXY,
        ..With::default()
    };
    let policy = bundle(&state, &upstream.root, &with);
    state.set_policy(&policy).unwrap();
    let port = free_port();
    let machine = Machine::boot_with(&image, folder, &[]);
    let sidecar = machine.sidecar_with(&config(upstream.address, port, ""));
    sidecar.wait_until_ready();
    put_at(&state, &sidecar.socket, now().0);
    let authority = machine.folder().join("ca.pem");
    let printed = ca_of(&state, &sidecar.socket, &[]);
    assert!(printed.status.success(), "{printed:?}");
    std::fs::write(&authority, printed.stdout).unwrap();
    let body = machine.folder().join("body");
    std::fs::write(&body, vec![b'x'; BODY]).unwrap();
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args([
                "-sS",
                "--max-time",
                "90",
                "--data-binary",
                &format!("@{}", body.display()),
                "--cacert",
            ])
            .arg(&authority)
            .args(arguments)
            .output()
            .unwrap();
        let told =
            String::from_utf8_lossy(&output.stdout[..output.stdout.len().min(1000)]).into_owned();
        let says = || {
            format!(
                "{told}\n{output:?}\n{}\n{}",
                machine.console(),
                sidecar.log()
            )
        };
        assert!(output.stdout.len() == BODY, "{}", says());
    };
    let proxy = format!("http://x:{PLACEHOLDER}@127.0.0.1:{port}");
    for _ in 0..2 {
        let key = format!("x-api-key: {PLACEHOLDER}");
        curl(&["-H", &key, &format!("http://127.0.0.1:{port}/api/chat")]);
        curl(&["--proxy", &proxy, "https://api.example/v1/chat"]);
    }
    let seen = upstream.seen();
    assert_eq!(seen.len(), 4);
    for request in seen {
        assert_eq!(
            request.header("authorization"),
            Some(&*format!("Bearer {SECRET}"))
        );
    }
}

/// The power is cut between two steps of a birth and of rotations, each named.
#[test]
fn a_power_cut_between_two_steps_leaves_the_old_state_or_the_new_one() {
    let image = image("signer-dev.eif");
    let folder = Arc::new(private_folder());
    let state = State::open_measured(folder.path(), &described(&image)).unwrap();
    let durable = DurableState::prepare(&state).unwrap();
    let (_served, _) = harness::serve_aws(&state, &durable, Arc::default());
    let vsock = folder.path().join("v.sock");
    let tap = Tap::start(folder.path(), move |port| connect(&vsock, port));
    let mut machine = Machine::boot_with(&image, folder, &[]);
    let endpoint = Endpoint::Unix(tap.window().to_owned());
    let sidecar = machine.sidecar_at(&endpoint, &durable.sidecar_lines());
    let client = Client::new(Target::Unix(sidecar.socket.clone()), None);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let is_born = || durable.folder().join("sealed.cbor").exists();
    let phase = || {
        let answer = sidecar
            .socket
            .exists()
            .then(|| get(&sidecar.socket, "/state"));
        let answer = answer
            .and_then(Result::ok)
            .filter(|answer| answer.status == 200);
        answer.map_or(json!(null), |answer| answer.json()["phase"].clone())
    };
    wait_for(|| phase() == "awaited");
    for (step, moment, is_done) in [
        ("AskKms", Moment::Answered, false),
        ("PutPiece Document", Moment::Asked, false),
        ("PutPiece Sealed", Moment::Asked, true),
    ] {
        tap.end_at(Step::Named(step), moment);
        tap.set_victim(machine.pid());
        // An order may still fail on a connection that the last machine left; the next one does not.
        let mut failures = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(120);
        while tap.ended_at().is_none() {
            let order = runtime.block_on(durable.birth_if_needed(&client));
            failures.push(order.expect_err(step).to_string());
            let is_over = Instant::now() >= deadline;
            assert!(!is_over, "{step}: {failures:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(tap.ended_at().as_deref(), Some(step));
        assert_eq!(is_born(), is_done, "{step}");
        machine = machine.reboot();
        wait_for(|| phase() == if is_done { "open" } else { "awaited" });
    }
    sidecar.wait_until_ready();
    let identity = || get(&sidecar.socket, "/identity").unwrap().json();
    let mut version = 1;
    for (step, moment, is_done) in [
        ("Rotate", Moment::Answered, false),
        ("GetPiece Sealed", Moment::Answered, false),
        ("PutPiece Sealed", Moment::Asked, true),
        ("Stored", Moment::Asked, true),
        ("Stored", Moment::Answered, true),
    ] {
        let before = identity();
        tap.end_at(Step::Named(step), moment);
        tap.set_victim(machine.pid());
        let answer = post(&sidecar.socket, "/rotate", &json!({}));
        assert!(answer.is_ok_and(|answer| answer.status != 200), "{step}");
        assert_eq!(tap.ended_at().as_deref(), Some(step));
        machine = machine.reboot();
        wait_for(|| phase() == "open");
        sidecar.wait_until_ready();
        version += u64::from(is_done);
        assert_eq!(identity()["key_version"], version, "{step}");
        if !is_done {
            assert_eq!(identity()["kid"], before["kid"], "{step}");
        }
        let verdict = sign_and_judge(&machine, &sidecar, &described(&image));
        assert_eq!(verdict, Ok("mock"), "{step}");
    }
}

#[test]
fn an_image_with_one_byte_changed_has_another_pcr0_and_is_refused() {
    let (file, folder) = (image("signer-dev.eif"), private_folder());
    let changed = folder.path().join("changed.eif");
    with_program(&file, &changed, |mut program| {
        let text = b"serving on vsock port";
        let at = program
            .windows(text.len())
            .position(|window| window == text)
            .unwrap();
        program[at] = b'S';
        program
    });
    let (original, other) = (described(&file), described(&changed));
    assert_ne!((original.pcr0, original.pcr2), (other.pcr0, other.pcr2));
    assert_eq!(original.pcr1, other.pcr1);
    let machine = Machine::boot(&changed);
    let sidecar = machine.sidecar();
    sidecar.wait_until_ready();
    assert!(machine.console().contains("Serving on vsock port"));
    assert_eq!(
        sign_and_judge(&machine, &sidecar, &original),
        Err("measurement_mismatch")
    );
    assert_eq!(sign_and_judge(&machine, &sidecar, &other), Ok("mock"));
}

#[test]
fn an_enclave_killed_and_rebooted_under_load_leaves_no_request_without_an_answer() {
    let machine = Machine::boot(&image("signer-dev.eif"));
    let sidecar = machine.sidecar();
    sidecar.wait_until_ready();
    let before = get(&sidecar.socket, "/identity").unwrap().json();
    let (stop, good, refused) = (
        AtomicBool::new(false),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let machine = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let begun = Instant::now();
                    let answer = post(
                        &sidecar.socket,
                        "/sign",
                        &json!({"payload": {}, "intent": "a"}),
                    )
                    .unwrap();
                    assert!(begun.elapsed() < Duration::from_secs(15), "a request hung");
                    match answer.status {
                        200 => good.fetch_add(1, Ordering::SeqCst),
                        503 | 504 => {
                            assert!(!answer.code().is_empty());
                            std::thread::sleep(Duration::from_millis(5));
                            refused.fetch_add(1, Ordering::SeqCst)
                        }
                        other => panic!("{other}: {}", answer.code()),
                    };
                }
            });
        }
        wait_for(|| good.load(Ordering::SeqCst) > 50);
        let machine = machine.reboot();
        wait_for(|| refused.load(Ordering::SeqCst) > 0);
        sidecar.wait_until_ready();
        let served = good.load(Ordering::SeqCst);
        wait_for(|| good.load(Ordering::SeqCst) > served + 50);
        stop.store(true, Ordering::SeqCst);
        machine
    });
    let after = get(&sidecar.socket, "/identity").unwrap().json();
    assert_ne!(
        (&after["did"], &after["boot_id"]),
        (&before["did"], &before["boot_id"])
    );
    assert!(sidecar.log().contains(r#""again":true"#));
    let metrics = String::from_utf8(get(&sidecar.socket, "/metrics").unwrap().body).unwrap();
    assert!(
        metrics.contains("anchorhold_enclave_boots_total 2"),
        "{metrics}"
    );
    drop(machine);
}

#[test]
fn a_process_of_the_host_that_goes_around_the_proxy_gets_nothing() {
    let machine = Machine::boot(&image("signer-dev.eif"));
    let sidecar = machine.sidecar();
    sidecar.wait_until_ready();
    // Another key than the policy names.
    let refused =
        Window::connect_on(machine.connect(WINDOW_PORT).unwrap(), &TestKey::new(3)).unwrap();
    assert_eq!(refused.err().unwrap().code, "proxy_key_mismatch");
    // No proof at all: a request instead, and garbage.
    for bytes in [
        frame(&RequestFrame {
            id: 1,
            request: sign("agent"),
        }),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let (mut window, _) = Window::open_on(machine.connect(WINDOW_PORT).unwrap()).unwrap();
        window.send(&bytes).unwrap();
        if let Ok(answer) = window.welcome() {
            assert!(answer.is_err());
        }
        assert!(window.is_closed());
    }
    // A port that nobody has opened.
    assert!(connect(&machine.vsock(), 22).is_err());
    assert_eq!(
        post(
            &sidecar.socket,
            "/sign",
            &json!({"payload": {}, "intent": "a"})
        )
        .unwrap()
        .status,
        200
    );
}

#[test]
fn a_vsock_cut_in_the_middle_of_a_frame_harms_nobody_else() {
    let machine = Machine::boot(&image("signer-dev.eif"));
    let sidecar = machine.sidecar();
    sidecar.wait_until_ready();
    let key = parent_proxy::KeyFile::read(&machine.state().proxy_key()).unwrap();
    for _ in 0..20 {
        let mut window = Window::connect_on(machine.connect(WINDOW_PORT).unwrap(), &key)
            .unwrap()
            .unwrap();
        let whole = frame(&RequestFrame {
            id: 1,
            request: Request::Status,
        });
        // An answer that nobody reads, and half of a question.
        window
            .send(&[&whole[..], &whole[..whole.len() / 2]].concat())
            .unwrap();
        drop(window);
        assert_eq!(
            post(
                &sidecar.socket,
                "/sign",
                &json!({"payload": {}, "intent": "a"})
            )
            .unwrap()
            .status,
            200
        );
    }
    assert!(
        !sidecar.log().contains("connection to the enclave lost"),
        "{}",
        sidecar.log()
    );
}

#[test]
fn a_console_that_is_flooded_and_that_nobody_reads_holds_nothing_up() {
    let folder = Arc::new(private_folder());
    let file = image("signer-dev.eif");
    let state = State::open_measured(folder.path(), &described(&file)).unwrap();
    state
        .set_policy(
            &(state
                .development_policy(&[("agent", "did:key", "EdDSA")])
                .unwrap()
                + PRINTING),
        )
        .unwrap();
    // Standard output is a pipe that is never read; standard input goes to the console, and comes
    // back as its echo.
    let mut process = command(&file, folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = process.stdin.take().unwrap();
    let flooding = std::thread::spawn(move || {
        let begun = Instant::now();
        let line = [b'x'; 4096];
        while begun.elapsed() < Duration::from_secs(6)
            && input
                .write_all(&line)
                .and_then(|()| input.write_all(b"\n"))
                .is_ok()
        {}
    });
    wait_for(|| {
        folder.path().join("sidecar-qemu.toml").exists() && folder.path().join("v.sock").exists()
    });
    let socket = folder.path().join("run/sidecar.sock");
    let config = std::fs::read_to_string(folder.path().join("sidecar-qemu.toml")).unwrap();
    let config: String = config
        .lines()
        .filter(|line| !line.starts_with("socket"))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(
        folder.path().join("own.toml"),
        format!("{config}socket = \"{}\"\n", socket.display()),
    )
    .unwrap();
    let program = qemu_dev::Program::at(&program("anchorhold-dev"));
    let sidecar = program
        .start_sidecar(
            &folder.path().join("own.toml"),
            Some(&folder.path().join("log")),
            &[],
        )
        .unwrap();
    wait_for(|| socket.exists() && get(&socket, "/ready").is_ok_and(|answer| answer.status == 200));
    ask_a_policy_that_prints(&socket);
    drop(sidecar);
    process.kill().unwrap();
    process.wait().unwrap();
    flooding.join().unwrap();
}

#[test]
fn the_production_image_says_over_both_channels_why_it_will_not_serve() {
    let folder = Arc::new(private_folder());
    let listener = listen(folder.path(), EXIT_PORT);
    let mut machine = Machine::boot_with(&image("signer.eif"), Arc::clone(&folder), &[]);
    let reason = first_reason(&listener);
    assert_eq!(reason.code, "nsm_no_device");
    machine.wait_for_line("anchorhold-enclave: powering off: nsm_no_device: ");
    assert_eq!(machine.wait(), Some(70));
    assert!(
        !machine.console().contains("serving"),
        "{}",
        machine.console()
    );
}

#[test]
fn the_sidecar_logs_why_an_enclave_ended() {
    let folder = Arc::new(private_folder());
    let state = State::open_measured(folder.path(), &described(&image("signer.eif"))).unwrap();
    let (socket, log) = (
        folder.path().join("run/sidecar.sock"),
        folder.path().join("log"),
    );
    let endpoint = Endpoint::HybridVsock {
        path: folder.path().join("v.sock"),
        port: WINDOW_PORT,
    };
    let config = state
        .write_sidecar_config_for(&endpoint, &socket, "")
        .unwrap();
    let sidecar = qemu_dev::Program::at(&program("anchorhold-dev"))
        .start_sidecar(&config, Some(&log), &[])
        .unwrap();
    wait_for(|| socket.exists());
    // Lies and noise at that place are not taken for a reason, and keep no enclave from saying its
    // own.
    let place = folder.path().join(format!("v.sock_{EXIT_PORT}"));
    wait_for(|| place.exists());
    for noise in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 5000],
        &[0, 0, 0, 3, 0x82, 0x61],
        b"",
    ] {
        let mut stream = std::os::unix::net::UnixStream::connect(&place).unwrap();
        let _ = stream.write_all(noise);
    }
    let silent: Vec<_> = (0..6)
        .map(|_| std::os::unix::net::UnixStream::connect(&place).unwrap())
        .collect();
    let mut machine = Machine::boot_with(&image("signer.eif"), Arc::clone(&folder), &[]);
    assert_eq!(machine.wait(), Some(70));
    drop(silent);
    let read = || std::fs::read_to_string(&log).unwrap();
    wait_for(|| read().contains(r#""code":"nsm_no_device""#));
    let metrics = String::from_utf8(get(&socket, "/metrics").unwrap().body).unwrap();
    assert!(
        metrics.contains("anchorhold_enclave_exits_total 1"),
        "{metrics}"
    );
    drop(sidecar);
}

#[test]
fn what_stands_where_last_words_are_heard_stays_if_it_is_not_ours() {
    let folder = private_folder();
    let state = State::open(folder.path()).unwrap();
    let place = folder.path().join(format!("v.sock_{EXIT_PORT}"));
    std::fs::write(&place, "a file").unwrap();
    let (socket, log) = (
        folder.path().join("run/sidecar.sock"),
        folder.path().join("log"),
    );
    let endpoint = Endpoint::HybridVsock {
        path: folder.path().join("v.sock"),
        port: WINDOW_PORT,
    };
    let config = state
        .write_sidecar_config_for(&endpoint, &socket, "")
        .unwrap();
    let mut sidecar = qemu_dev::Program::at(&program("anchorhold-dev"))
        .start_sidecar(&config, Some(&log), &[])
        .unwrap();
    wait_for(|| {
        std::fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("cannot listen yet")
    });
    // Its place freed, it listens; stopped, it leaves nothing.
    assert_eq!(std::fs::read(&place).unwrap(), b"a file");
    std::fs::remove_file(&place).unwrap();
    wait_for(|| std::os::unix::net::UnixStream::connect(&place).is_ok());
    assert!(sidecar.stop().unwrap().success());
    assert!(!place.exists());
}

#[test]
fn the_heartbeat_is_sent_and_waits_for_nobody() {
    let folder = Arc::new(private_folder());
    let listener = listen(folder.path(), 9000);
    let machine = Machine::boot_with(&image("signer-dev.eif"), Arc::clone(&folder), &[]);
    let (mut stream, _) = listener.accept().unwrap();
    let mut beat = [0; 1];
    stream.read_exact(&mut beat).unwrap();
    assert_eq!(beat, [0xb7]);
    // Unanswered, the enclave serves all the same.
    let sidecar = machine.sidecar();
    sidecar.wait_until_ready();
    assert_eq!(
        post(
            &sidecar.socket,
            "/sign",
            &json!({"payload": {}, "intent": "a"})
        )
        .unwrap()
        .status,
        200
    );
    stream.write_all(&[0xb7]).unwrap();
}

#[test]
fn a_panic_and_a_forbidden_call_end_the_machine() {
    let folder = Arc::new(private_folder());
    let probe = std::fs::read(program("anchorhold-probe-static")).unwrap();
    let file = folder.path().join("probe.eif");
    with_program(&image("signer-dev.eif"), &file, |_| probe.clone());
    let listener = listen(folder.path(), EXIT_PORT);
    let mut machine = Machine::boot_with(&file, Arc::clone(&folder), &[]);
    let reason = first_reason(&listener);
    assert_eq!(reason.code, "panicked", "{}", reason.message);
    assert!(
        reason.message.contains("a probe panics on purpose"),
        "{}",
        reason.message
    );
    assert_eq!(machine.wait(), Some(70));
    assert!(
        machine.console().contains("powering off: panicked"),
        "{}",
        machine.console()
    );

    // The same program, told on the measured command line to do it later: within the filter,
    // without privileges.
    let bytes = eif::read_file(&file).unwrap();
    let parsed = Image::parse(&bytes).unwrap();
    let told = |what: &str| {
        let parts = parsed.parts().unwrap();
        let cmdline = format!("{} probe={what}", parts.cmdline);
        std::fs::write(
            &file,
            Parts {
                cmdline: &cmdline,
                ..parts
            }
            .to_image()
            .unwrap(),
        )
        .unwrap();
    };
    told("panic");
    let folder = Arc::new(private_folder());
    let listener = listen(folder.path(), EXIT_PORT);
    let mut machine = Machine::boot_with(&file, Arc::clone(&folder), &[]);
    let reason = first_reason(&listener);
    assert_eq!(reason.code, "panicked");
    assert!(
        reason.message.contains("on purpose, as nobody: true"),
        "{}",
        reason.message
    );
    assert_eq!(machine.wait(), Some(70));
    assert!(
        machine.console().contains("powering off: panicked"),
        "{}",
        machine.console()
    );

    // And to start a program there.
    told("execve");
    let mut machine = Machine::boot(&file);
    assert_eq!(machine.wait(), Some(70));
    let console = machine.console();
    // 31 is SIGSYS: the filter's doing.
    assert!(
        console.contains("Attempted to kill init! exitcode=0x0000001f"),
        "{console}"
    );
    assert!(!console.contains("started a program"), "{console}");
}

#[test]
fn on_a_nitro_enclave_machine_everything_but_the_signature_goes_through_the_real_driver() {
    let Some(qemu) = nitro_qemu() else {
        return skipped("no QEMU here has the machine nitro-enclave; name one in ANCHORHOLD_QEMU");
    };
    let arguments = ["--machine", "nitro-enclave", "--qemu", &qemu];
    let file = image("signer-dev.eif");
    let measured = described(&file);
    let machine = Machine::boot_with(&file, Arc::new(private_folder()), &arguments);
    let sidecar = machine.sidecar();
    sidecar.wait_until_ready();
    for (index, pcr) in [(0, measured.pcr0), (1, measured.pcr1), (2, measured.pcr2)] {
        let line = format!("/dev/nsm: PCR{index} {pcr} locked");
        assert!(
            machine.console().contains(&line),
            "{line}\n{}",
            machine.console()
        );
    }
    assert_eq!(sign_and_judge(&machine, &sidecar, &measured), Ok("mock"));
    assert_eq!(
        post(&sidecar.socket, "/rotate", &json!({})).unwrap().status,
        200
    );
    assert_eq!(sign_and_judge(&machine, &sidecar, &measured), Ok("mock"));
    drop((sidecar, machine));

    // Production finds the device, and that its documents are signed by nobody.
    let folder = Arc::new(private_folder());
    let listener = listen(folder.path(), EXIT_PORT);
    let mut machine = Machine::boot_with(&image("signer.eif"), Arc::clone(&folder), &arguments);
    assert_eq!(first_reason(&listener).code, "document_algorithm");
    assert_eq!(machine.wait(), Some(70));
    assert!(
        !machine.console().contains("serving"),
        "{}",
        machine.console()
    );
}

#[test]
fn qemu_cleans_up_on_every_way_out() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::KILL] {
        let folder = Arc::new(private_folder());
        let machine = Machine::boot_with(&image("signer-dev.eif"), Arc::clone(&folder), &[]);
        machine.wait_for_line("serving on vsock port");
        let named = folder.path().display().to_string();
        assert!(
            processes_naming(&named) >= 3,
            "itself, QEMU, vhost-device-vsock"
        );
        let status = machine.stop(signal);
        assert_eq!(
            status.code(),
            if signal == Signal::KILL {
                None
            } else {
                Some(0)
            }
        );
        wait_for(|| processes_naming(&named) == 0);
        if signal != Signal::KILL {
            for left in ["v.sock", "vhost.sock", "v.sock_5007"] {
                assert!(!folder.path().join(left).exists(), "{left}");
            }
        }
    }
}

fn processes_naming(text: &str) -> usize {
    let running = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    running
        .filter(|cmdline| String::from_utf8_lossy(cmdline).contains(text))
        .count()
}

#[test]
fn qemu_says_what_is_wrong() {
    let (good, folder) = (image("signer-dev.eif"), private_folder());
    let at = |name: &str| folder.path().join(name);
    let refused = |command: &mut Command, code: i32, says: &str| {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(code) && text.contains(says),
            "{:?} {text}",
            output.status
        );
    };
    std::fs::write(at("text"), "no image").unwrap();
    refused(
        &mut command(&at("text"), &at("a")),
        64,
        "not an enclave image file",
    );
    refused(&mut command(&at("missing"), &at("a")), 64, "No such file");
    let cut = std::fs::read(&good).unwrap();
    std::fs::write(at("cut"), &cut[..cut.len() / 2]).unwrap();
    refused(&mut command(&at("cut"), &at("a")), 64, "ends too early");
    // Tools that are missing.
    refused(
        command(&good, &at("a")).env("PATH", "/nonexistent"),
        64,
        "apt-get install qemu-system-x86",
    );
    let tools = at("tools");
    std::fs::create_dir(&tools).unwrap();
    let script = |name: &str, text: &str| {
        std::fs::write(tools.join(name), text).unwrap();
        std::fs::set_permissions(tools.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    script(
        "qemu-system-x86_64",
        "#!/bin/sh\n[ \"$2\" = help ] && echo microvm x && exit 0\necho it is broken >&2\nexit 3\n",
    );
    refused(
        command(&good, &at("a"))
            .env("PATH", &tools)
            .env("HOME", "/nonexistent"),
        64,
        "cargo install vhost-device-vsock",
    );
    refused(
        command(&good, &at("a"))
            .args(["--machine", "nitro-enclave"])
            .arg("--qemu")
            .arg(tools.join("qemu-system-x86_64")),
        64,
        "no machine named nitro-enclave",
    );
    // A QEMU that dies at once.
    let mut dying = command(&good, &at("a"));
    refused(
        dying.arg("--qemu").arg(tools.join("qemu-system-x86_64")),
        70,
        "it is broken",
    );
    // Two at the same time on one directory.
    let running = Machine::boot(&good);
    refused(
        &mut command(&good, running.folder()),
        64,
        "another `up` or `qemu` runs on this directory",
    );
    // A directory that is open to others.
    std::fs::create_dir(at("open")).unwrap();
    std::fs::set_permissions(at("open"), std::fs::Permissions::from_mode(0o755)).unwrap();
    refused(&mut command(&good, &at("open")), 64, "open to others");
}
