//! What the enclave's process can still do. Shown on this machine's kernel, within the very filter
//! that the image uses.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use enclave::boot::{ABSENT, ALLOWED, EGRESS, SERVICE};
use harness::window::{Window, sign};
use harness::{Running, program, skipped};
use protocol::Request;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

const SIGSYS: i32 = 31;
const SIGILL: i32 = 4;
/// uretprobe and uprobe: since 6.14 the kernel shows them to no filter, and turns away a process that is
/// not in a probe's trampoline. The image's kernel has neither.
const PROBES: [i64; 2] = [335, 336];

fn probe(arguments: &[&str]) -> Output {
    Command::new(program("anchorhold-probe"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn every_system_call_outside_the_list_kills() {
    every_call_outside_kills("call", ALLOWED);
}

#[test]
fn every_system_call_outside_the_list_of_the_process_of_a_service_kills() {
    every_call_outside_kills("service-call", SERVICE);
    for name in ["mmap-exec", "mprotect-exec", "fcntl-dup", "ioctl"] {
        let output = probe(&["service-argument", name]);
        assert_eq!(output.status.signal(), Some(SIGSYS), "{name}");
    }
    // Waiting for many lines is all that it has beside what the egress process has.
    let more = SERVICE.iter().map(|call| call.number);
    let more: Vec<i64> = more
        .filter(|number| EGRESS.iter().all(|other| other.number != *number))
        .collect();
    // shutdown, epoll_ctl, epoll_wait, epoll_pwait, ioctl (that lines do not block).
    assert_eq!(more, [48, 233, 232, 281, 16]);
    assert!(SERVICE.iter().all(|call| call.reason.len() > 2));
    // Of ioctl it has one, which is about no device.
    let never = |number: i64| number != 16 && NEVER.contains(&number);
    assert!(SERVICE.iter().all(|call| !never(call.number)));
}

#[test]
fn every_system_call_outside_the_list_of_the_egress_process_kills() {
    every_call_outside_kills("egress-call", EGRESS);
    for name in ["mmap-exec", "mprotect-exec", "fcntl-dup"] {
        let output = probe(&["egress-argument", name]);
        assert_eq!(output.status.signal(), Some(SIGSYS), "{name}");
    }
    // What it has, the other list has: nothing came with it but fewer calls.
    for call in EGRESS {
        assert!(
            ALLOWED.iter().any(|other| other.number == call.number),
            "{}",
            call.number
        );
        assert!(call.reason.len() > 2);
    }
    assert!(EGRESS.iter().all(|call| !NEVER.contains(&call.number)));
}

/// socket, connect, clone, ioctl: no socket of its own, nobody whom it calls, no thread, no device.
const NEVER: [i64; 4] = [41, 42, 56, 16];

fn every_call_outside_kills(command: &str, allowed: &[enclave::boot::Allowed]) {
    // x86-64 has numbers up to 0x1ff or so; the x32 table begins at 2^30.
    let numbers: Vec<i64> = (0..=600).chain(0x4000_0000..=0x4000_0258).collect();
    let outside: Vec<i64> = numbers
        .into_iter()
        .filter(|number| {
            allowed
                .iter()
                .chain(ABSENT)
                .all(|call| call.number != *number)
        })
        .collect();
    assert!(outside.len() > 1100);
    let half = outside.len() / 2;
    std::thread::scope(|scope| {
        for part in [&outside[..half], &outside[half..]] {
            scope.spawn(move || {
                for number in part {
                    let output = probe(&[command, &number.to_string()]);
                    let killed = output.status.signal() == Some(SIGSYS);
                    let turned_away =
                        output.status.signal() == Some(SIGILL) || output.stdout == b"-1\n";
                    let passes = PROBES.contains(number) && turned_away;
                    assert!(
                        killed || passes,
                        "system call {number}: {:?}",
                        output.status
                    );
                }
            });
        }
    });
}

/// The egress process of a running enclave holds two pipes, its listener and where it says why it
/// ends, and is there with its enclave alone.
#[test]
fn the_egress_process_holds_two_pipes_a_listener_and_a_console_and_ends_with_its_enclave() {
    let mut running = Running::start();
    let egress = child_of(running.enclave.pid());
    let log = running.folder().join("log");
    // What this test itself was started with goes to every program that it starts.
    let of_this_test = held_beyond_standard("self");
    let mut held: Vec<String> = held_beyond_standard(&egress.to_string())
        .into_iter()
        .filter(|target| !of_this_test.contains(target))
        .map(|target| {
            if Path::new(&target) == log {
                "console".to_owned()
            } else {
                target.split(':').next().unwrap_or_default().to_owned()
            }
        })
        .collect();
    held.sort();
    assert_eq!(held, ["console", "pipe", "pipe", "socket"]);
    assert!(running.enclave.ended().is_none());
    // Its end is that of the enclave.
    let pid = rustix::process::Pid::from_raw(egress).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    harness::wait_for(|| {
        std::fs::read_to_string(format!("/proc/{}/stat", running.enclave.pid()))
            .is_ok_and(|stat| stat.contains(") Z "))
    });
    assert!(running.log().contains("egress_gone"), "{}", running.log());
    // And the other way round.
    running.start_enclave();
    running.wait_until_ready();
    let egress = child_of(running.enclave.pid());
    running.enclave.kill().unwrap();
    harness::wait_for(|| !Path::new(&format!("/proc/{egress}")).exists());
}

/// What a process holds beyond its standard input, output and errors.
fn held_beyond_standard(process: &str) -> Vec<String> {
    std::fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .flatten()
        .filter(|entry| {
            let number: u32 = entry.file_name().to_string_lossy().parse().unwrap();
            number > 2
        })
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect()
}

/// The only child of a process.
fn child_of(pid: u32) -> i32 {
    let children = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(children).unwrap();
    let children: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(children.len(), 1, "{text}");
    children[0].parse().unwrap()
}

#[test]
fn calls_that_the_c_library_can_do_without_are_answered_and_not_done() {
    for call in ABSENT {
        let output = probe(&["call", &call.number.to_string()]);
        assert!(
            output.status.success() && output.stdout == b"-1\n",
            "{}: {:?}",
            call.number,
            output.status
        );
    }
    let opened = probe(&["argument", "open"]);
    assert!(
        opened.status.success() && opened.stdout == b"-1\n",
        "{:?}",
        opened.status
    );
}

/// What a thread leaves behind at its end is given back by the C library in ways that depend on how
/// much it was.
#[test]
fn connections_that_come_and_go_keep_within_the_list() {
    let mut running = Running::start();
    let key = parent_proxy::KeyFile::read(&running.state.proxy_key()).unwrap();
    let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(30_000));
    for round in 0..40 {
        let mut windows: Vec<Window> = (0..6)
            .map(|_| {
                Window::connect_on(
                    UnixStream::connect(running.state.enclave_socket()).unwrap(),
                    &key,
                )
                .unwrap()
                .unwrap()
            })
            .collect();
        for window in &mut windows {
            let Request::Sign(mut sign) = sign("agent") else {
                unreachable!("it is one")
            };
            sign.requester.caller =
                identity::caller::ObservedCaller::ids(rustix::process::geteuid().as_raw(), 0);
            sign.payload.clone_from(&payload);
            window.ask(Request::Sign(sign)).unwrap().unwrap();
            // Half a frame of the largest kind, and away.
            window
                .send(&[&65_536_u32.to_be_bytes()[..], &[0; 40_000]].concat())
                .unwrap();
        }
        drop(windows);
        assert!(
            running.enclave.ended().is_none(),
            "round {round}: {:?}",
            running.enclave.ended()
        );
    }
}

#[test]
fn calls_on_the_list_kill_when_they_are_made_for_something_else() {
    for name in [
        "socket-inet",
        "socket-unix",
        "ioctl",
        "mmap-exec",
        "mprotect-exec",
        "fork",
        "prctl",
    ] {
        let output = probe(&["argument", name]);
        assert_eq!(
            output.status.signal(),
            Some(SIGSYS),
            "{name}: {:?}",
            output.status
        );
    }
    // What is allowed goes on.
    assert!(probe(&["thread"]).status.success());
    let written = probe(&["call", "1"]);
    assert!(written.status.success(), "{:?}", written.status);
}

#[test]
fn every_call_on_the_list_has_a_reason() {
    assert!(
        ALLOWED
            .iter()
            .chain(ABSENT)
            .all(|call| call.reason.len() > 5)
    );
    assert!(ALLOWED.len() < 60, "{}", ALLOWED.len());
}

#[test]
fn privileges_are_dropped_for_good() {
    if !rustix::process::geteuid().is_root() {
        return skipped("only root has privileges to drop");
    }
    let text = String::from_utf8(probe(&["privileges"]).stdout).unwrap();
    let has = |line: &str| {
        text.lines()
            .any(|found| found.split_whitespace().eq(line.split_whitespace()))
    };
    for line in [
        "Uid: 65534 65534 65534 65534",
        "Gid: 65534 65534 65534 65534",
        "Groups:",
        "CapEff: 0000000000000000",
        "CapPrm: 0000000000000000",
        "setuid(0): -1",
    ] {
        assert!(has(line), "{line}\n{text}");
    }
}

#[test]
fn memory_is_locked_and_never_dumped() {
    let capable = rustix::thread::capabilities(None).unwrap().effective;
    if !capable.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) {
        return skipped(
            "lifting the limit of locked memory needs CAP_SYS_RESOURCE; in the image PID 1 has it",
        );
    }
    let text = String::from_utf8(probe(&["memory"]).stdout).unwrap();
    let words = |name: &str| {
        text.lines()
            .find(|line| line.starts_with(name))
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert!(words("VmLck:")[1].parse::<u64>().unwrap() > 100, "{text}");
    assert_eq!(words("Max core file size")[4..6], ["0", "0"], "{text}");
    assert_eq!(words("dumpable:")[1], "0");
}

#[test]
fn what_libraries_print_never_comes_to_the_console() {
    for full in [false, true] {
        // A pipe that does not block, as the console of a booted enclave: either with room, or
        // full.
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        fcntl_setfl(&writer, fcntl_getfl(&writer).unwrap() | OFlags::NONBLOCK).unwrap();
        while full && writer.write(&[b'x'; 4096]).is_ok() {}
        while full && writer.write(b"x").is_ok() {}
        let mut probe = Command::new(program("anchorhold-probe"));
        let status = probe
            .arg("console")
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .status()
            .unwrap();
        drop(probe);
        assert!(status.success(), "full: {full}; {status}");
        let mut written = String::new();
        reader.read_to_string(&mut written).unwrap();
        assert_eq!(
            written.trim_start_matches('x'),
            if full { "" } else { "probe: kept\n" }
        );
    }
}

#[test]
fn all_threads_of_the_enclave_are_confined() {
    let running = Running::start();
    let pid = running.enclave.pid();
    let mut threads = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .flatten()
    {
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap();
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
                .unwrap()
                .to_owned()
        };
        assert_eq!(
            (
                field("Seccomp:"),
                field("Seccomp_filters:"),
                field("NoNewPrivs:")
            ),
            ("2".into(), "2".into(), "1".into())
        );
        threads += 1;
    }
    assert!(threads >= 4, "{threads}");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert!(
        core.split_whitespace().skip(4).take(2).eq(["0", "0"]),
        "{core}"
    );
}
