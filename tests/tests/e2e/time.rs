use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use enclave::BootClock;
use harness::window::{InProcess, Window, sign};
use identity::Digest;
use protocol::Answer;
use qemu_dev::Child;
use qemu_dev::authority::Authority;
use qemu_dev::nsm::{Encoding, MockNsm, os_random};

/// 2030-01-01T00:00:00Z, far from any clock of the host.
const NSM_TIME: u64 = 1_893_456_000;
const DAY: i64 = 86_400;

/// A library that moves the host's clock by `SHIFT` seconds for one program.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long shift(void) { const char *s = getenv("SHIFT"); return s ? atol(s) : 0; }
int clock_gettime(clockid_t id, struct timespec *t) {
    int r = (int)syscall(SYS_clock_gettime, id, t);
    if (r == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += shift();
    return r;
}
int gettimeofday(struct timeval *t, void *z) {
    struct timespec now; (void)z;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec; t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *t) {
    struct timespec now; clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
"#;

fn compile_shim(folder: &std::path::Path) -> std::path::PathBuf {
    let (source, library) = (folder.join("shift.c"), folder.join("shift.so"));
    std::fs::write(&source, SHIM).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .status()
        .unwrap();
    assert!(compiled.success());
    library
}

#[test]
fn with_the_hosts_clock_a_day_off_either_way_iat_is_the_nsms_time() {
    let folder = harness::private_folder();
    let shim = compile_shim(folder.path());
    // The shim does move the clock of a program that asks for the date.
    let date = |shift: i64| {
        let output = Command::new("date")
            .arg("+%s")
            .env("LD_PRELOAD", &shim)
            .env("SHIFT", shift.to_string())
            .output()
            .unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse::<i64>()
            .unwrap()
    };
    assert!(
        (date(DAY) - date(-DAY) - 2 * DAY).abs() < 5,
        "the shim works"
    );

    for shift in [-DAY, 0, DAY] {
        let state = qemu_dev::State::open(&folder.path().join(format!("state{shift}"))).unwrap();
        state
            .set_policy(
                &String::from_utf8(harness::window::bundle("development").canonical()).unwrap(),
            )
            .unwrap();
        let mut command = Command::new(harness::program("anchorhold-dev"));
        command
            .arg("enclave")
            .arg("--state")
            .arg(state.folder())
            .arg("--listen")
            .arg(state.enclave_socket())
            .args(["--nsm-time-ms", &(NSM_TIME * 1000).to_string()])
            .env("LD_PRELOAD", &shim)
            .env("SHIFT", shift.to_string());
        let _enclave = Child::start("enclave", command, None).unwrap();
        harness::wait_for(|| state.enclave_socket().exists());
        let key = harness::window::TestKey::new(harness::window::PROXY);
        // The socket is there a moment before anybody listens on it.
        let found = std::cell::RefCell::new(None);
        harness::wait_for(|| {
            *found.borrow_mut() = Window::connect(&state.enclave_socket(), &key).ok();
            found.borrow().is_some()
        });
        let mut window = found.into_inner().unwrap().unwrap();
        let bundle = harness::window::bundle("development").canonical();
        window
            .ask(protocol::Request::Provision {
                bundle,
                before: None,
            })
            .unwrap()
            .unwrap();
        let iat = iat(&mut window);
        let since = iat - NSM_TIME.cast_signed();
        assert!((0..10).contains(&since), "shift {shift}: iat {iat}");
    }
}

fn iat(window: &mut Window) -> i64 {
    let Ok(Answer::Signed(signed)) = window.ask(sign("agent")).unwrap() else {
        panic!("not signed")
    };
    let claims = signed.signed.split('.').nth(1).unwrap();
    let claims = data_encoding::BASE64URL_NOPAD
        .decode(claims.as_bytes())
        .unwrap();
    serde_json::from_slice::<serde_json::Value>(&claims).unwrap()["iat"]
        .as_i64()
        .unwrap()
}

/// Milliseconds that a test moves by hand.
#[derive(Clone)]
struct ByHand(Arc<AtomicU64>);

impl BootClock for ByHand {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

#[test]
fn time_counts_on_between_answers_of_the_nsm_and_stops_signing_when_it_cannot_be_trusted() {
    let (boot, nsm_time) = (
        ByHand(Arc::new(AtomicU64::new(5000))),
        Arc::new(AtomicU64::new(NSM_TIME * 1000)),
    );
    let told = Arc::clone(&nsm_time);
    let measured = [Digest([1; 48]), Digest([2; 48]), Digest([3; 48])];
    let authority = Authority::new(NSM_TIME, &mut os_random);
    let clock = Box::new(move || told.load(Ordering::SeqCst));
    let nsm = MockNsm::new(authority, &measured, clock, Encoding::Indefinite).unwrap();
    let (enclave, mut window) =
        InProcess::boot_with_clock(nsm, Box::new(boot.clone())).provisioned();
    let refusal = |window: &mut Window| window.ask(sign("agent")).unwrap().unwrap_err().code;

    assert_eq!(iat(&mut window), NSM_TIME.cast_signed());
    boot.0.fetch_add(90_000, Ordering::SeqCst);
    assert_eq!(
        iat(&mut window),
        NSM_TIME.cast_signed() + 90,
        "CLOCK_BOOTTIME counts between anchors"
    );
    boot.0.fetch_add(511_000, Ordering::SeqCst);
    assert_eq!(refusal(&mut window), "clock_stale");

    nsm_time.fetch_sub(1, Ordering::SeqCst);
    assert_eq!(
        enclave.enclave.refresh_clock().unwrap_err().code(),
        "clock_regressed"
    );
    assert_eq!(refusal(&mut window), "clock_regressed");
    nsm_time.store((NSM_TIME + 700) * 1000, Ordering::SeqCst);
    enclave.enclave.refresh_clock().unwrap();
    assert_eq!(iat(&mut window), NSM_TIME.cast_signed() + 700);
    assert!(enclave.powered_off.lock().unwrap().is_empty());
}
