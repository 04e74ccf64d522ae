//! A sidecar that is killed between any two steps of keeping a credential.

use harness::services::{SECRET, With};
use harness::{Answer, wait_for};
use serde_json::Value;

use super::setting::{Setting, desk};
use super::upstream::{Upstream, answer};

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// Two identities with the same credential, at a service that says the digest of what it is shown.
fn two() -> Setting {
    let with = With {
        identities: &["crew", "other"],
        rules: "{ name = \"read\", methods = [\"GET\"], paths = [\"/models\"], identities = [\"crew\", \"other\"] }",
        ..With::default()
    };
    let upstream = Upstream::start(|request, tls| {
        let shown = request.header("authorization").unwrap_or_default();
        // Not as it is: that would be refused.
        let digest = identity::sha256(shown.as_bytes()).to_string();
        answer(tls, 200, "", digest.as_bytes())
    });
    let setting = Setting::with(upstream, &with);
    setting.put_well("crew", SECRET);
    setting.put_well("other", SECRET);
    setting
}

fn digest(secret: &str) -> String {
    identity::sha256(format!("Bearer {secret}").as_bytes()).to_string()
}

#[test]
fn wherever_keeping_a_credential_is_cut_off_the_old_or_the_new_one_is_kept_whole() {
    let mut setting = two();
    let mut now = SECRET.to_owned();
    let mut kept = Vec::new();
    let steps = [
        ("fsync", 1),
        ("rename", 1),
        ("fsync", 2),
        ("flock", 1),
        ("ftruncate", 1),
    ];
    for (number, (call, count)) in (0..).zip(steps) {
        // It is killed when it makes this system call for this time.
        let (trace, inject) = (
            format!("trace={call}"),
            format!("inject={call}:signal=KILL:when={count}"),
        );
        let arguments = ["-o", "/dev/null", "-e", &trace, "-e", &inject];
        let Some(mut strace) = harness::strace(setting.running.sidecar.pid(), &arguments) else {
            return harness::skipped("strace is not installed");
        };
        let new = format!("sk-new-{number}-0123456789abcdef");
        let output = setting.put("crew", &new, &[]);
        let was_killed = !output.status.success();
        if !was_killed {
            setting
                .running
                .sidecar
                .signal(rustix::process::Signal::KILL);
        }
        strace.wait().unwrap();
        setting.running.kill_sidecar();
        setting.running.start_sidecar();
        wait_for(|| setting.socket.exists());
        let told = setting.ask("GET /api/models", "x-anchorhold-identity: crew\r\n", b"");
        assert_eq!(told.status, 200, "{call} {count}: {}", text(&told));
        let is_new = text(&told) == digest(&new);
        assert!(is_new || text(&told) == digest(&now), "{call} {count}");
        kept.push((call, count, was_killed, is_new));
        // The other one is as it was, and what is put now is kept.
        let other = setting.ask("GET /api/models", "x-anchorhold-identity: other\r\n", b"");
        assert_eq!(text(&other), digest(SECRET));
        now = format!("sk-again-{number}-0123456789abcdef");
        setting.put_well("crew", &now);
        let told = setting.ask("GET /api/models", "x-anchorhold-identity: crew\r\n", b"");
        assert_eq!(text(&told), digest(&now));
        let listed = setting.command(&["list"], "");
        assert!(
            String::from_utf8_lossy(&listed.stdout).contains("\"unreadable\": []"),
            "{listed:?}"
        );
    }
    // It was killed before the new one was in its place, and behind it.
    let killed: Vec<_> = kept.iter().filter(|(_, _, killed, _)| *killed).collect();
    assert!(killed.iter().any(|(_, _, _, is_new)| !is_new), "{kept:?}");
    assert!(killed.iter().any(|(_, _, _, is_new)| *is_new), "{kept:?}");
}

#[test]
fn wherever_sealing_anew_is_cut_off_both_are_kept_and_work_and_it_can_be_run_again() {
    let mut setting = two();
    let desk = desk(&setting.running.state);
    let desk: Vec<&str> = desk.iter().map(String::as_str).collect();
    let mut cut = Vec::new();
    for (epoch, (call, count)) in (2..).zip([
        ("fsync", 1),
        ("rename", 1),
        ("fsync", 2),
        ("rename", 2),
        ("fsync", 3),
        ("fsync", 4),
    ]) {
        let rotated = setting.command(&[&["rotate"][..], &desk].concat(), "");
        assert!(rotated.status.success(), "{rotated:?}");
        let (trace, inject) = (
            format!("trace={call}"),
            format!("inject={call}:signal=KILL:when={count}"),
        );
        let arguments = ["-o", "/dev/null", "-e", &trace, "-e", &inject];
        let Some(mut strace) = harness::strace(setting.running.sidecar.pid(), &arguments) else {
            return harness::skipped("strace is not installed");
        };
        let rewrapped = setting.command(&["rewrap"], "");
        if rewrapped.status.success() {
            setting
                .running
                .sidecar
                .signal(rustix::process::Signal::KILL);
        }
        strace.wait().unwrap();
        setting.running.kill_sidecar();
        setting.running.start_sidecar();
        wait_for(|| setting.socket.exists());
        let under = |setting: &Setting| {
            let listed = setting.command(&["list"], "");
            let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
            assert_eq!(listed["unreadable"], serde_json::json!([]));
            let each = listed["credentials"].as_array().unwrap().iter();
            each.filter(|one| one["epoch"] == epoch).count()
        };
        cut.push((call, count, under(&setting)));
        for identity in ["crew", "other"] {
            let header = format!("x-anchorhold-identity: {identity}\r\n");
            let told = setting.ask("GET /api/models", &header, b"");
            assert_eq!(text(&told), digest(SECRET), "{cut:?}");
        }
        let again = setting.command(&["rewrap"], "");
        assert!(again.status.success(), "{again:?}");
        assert_eq!(under(&setting), 2);
    }
    // Before the first, between both, and behind them.
    for done in [0, 1, 2] {
        assert!(cut.iter().any(|(.., after)| *after == done), "{cut:?}");
    }
}
