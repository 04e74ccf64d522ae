//! A test binary of its own: reaping takes every child of the process.

use std::process::Command;
use std::time::{Duration, Instant};

use enclave::boot::reap;
use rustix::process::{getpid, set_child_subreaper};

#[test]
fn orphans_are_reaped() {
    // As PID 1 does by nature, this process adopts whose parent has died.
    set_child_subreaper(Some(getpid())).unwrap();
    assert!(
        Command::new("sh")
            .args(["-c", "sleep 0.05 & sleep 0.05 & sleep 0.05 &"])
            .status()
            .unwrap()
            .success()
    );
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut reaped = 0;
    while reaped < 3 {
        assert!(Instant::now() < deadline, "{reaped} of 3");
        reaped += reap();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(reap(), 0);
}
