//! Credentials are used while a lease lasts, where the bundle says so.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use harness::services::{SECRET, With};
use harness::{program, wait_for};
use identity::{BootId, Signer, UnixSeconds};
use parent_proxy::KeyFile;
use serde_json::Value;

use super::setting::Setting;
use super::upstream::{Upstream, answer};

struct Leased {
    setting: Setting,
    folder: tempfile::TempDir,
}

impl Leased {
    fn start() -> Self {
        let folder = harness::private_folder();
        let key = KeyFile::create(&folder.path().join("lease.key")).unwrap();
        let lease = format!(
            "[lease]\nkey = \"{}\"\nseconds = 60\n",
            key.public_key().to_multikey()
        );
        let upstream = Upstream::start(|request, tls| {
            if request.line.contains("models") {
                return answer(tls, 200, "", b"ok");
            }
            write!(tls, "HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n")?;
            loop {
                write!(tls, "6\r\ndata\n\n\r\n")?;
                tls.flush()?;
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let with = With {
            bundle: &lease,
            ..With::default()
        };
        let setting = Setting::with(upstream, &with);
        setting.put_well("crew", SECRET);
        Self { setting, folder }
    }

    fn annex(&self) -> PathBuf {
        self.setting.running.state.folder().join("annex.cose")
    }

    fn run(&self, key: &str, annex: Option<&PathBuf>, more: &[&str]) -> Output {
        let mut command = Command::new(program("anchorhold"));
        command
            .args(["lease", "--endpoint"])
            .arg(format!("unix://{}", self.setting.running.socket.display()))
            .arg("--lease-key")
            .arg(self.folder.path().join(key));
        if let Some(annex) = annex {
            command.arg("--annex").arg(annex);
        }
        command.args(more).output().unwrap()
    }

    /// A lease that is taken.
    fn lease(&self, more: &[&str]) {
        let output = self.run("lease.key", Some(&self.annex()), more);
        assert!(output.status.success(), "{output:?}");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(told["not_after"].as_i64().unwrap() > harness::now().0);
    }

    /// Until when credentials are used, once a lease of this end is brought that revokes this; none, if it is refused.
    fn brought(&self, ends: i64, revokes: &[String]) -> Option<i64> {
        let socket = &self.setting.running.socket;
        let status = harness::get(socket, "/status").unwrap().json();
        let boot = status["enclave"]["boot_id"].as_str().unwrap();
        let annex = std::fs::read(self.annex()).unwrap();
        let annex = policy::Annex::unverified_canonical(&annex).unwrap();
        let signed = broker::Lease::sign(
            BootId::from_hex(boot).unwrap(),
            Some(identity::sha256(annex)),
            UnixSeconds(ends),
            revokes.to_vec(),
            &KeyFile::read(&self.folder.path().join("lease.key")).unwrap(),
        );
        let lease = data_encoding::BASE64URL_NOPAD.encode(&signed.unwrap());
        let body = serde_json::json!({"lease": lease});
        let answer = harness::post(socket, "/credentials/lease", &body).unwrap();
        answer.json()["not_after"].as_i64()
    }

    fn refused(&self, key: &str, annex: Option<&PathBuf>, more: &[&str]) -> String {
        let output = self.run(key, annex, more);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn code(&self) -> String {
        let got = self.setting.ask("GET /api/models", "", b"");
        got.header("x-anchorhold-error")
            .unwrap_or_else(|| got.status.to_string())
    }
}

/// A process that ends with the test, whatever becomes of that.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn credentials_are_used_while_a_lease_lasts_and_no_longer() {
    let leased = Leased::start();
    assert_eq!(leased.code(), "lease_expired");
    assert!(leased.setting.upstream.seen().is_empty());
    leased.lease(&["--seconds", "4"]);
    assert_eq!(leased.code(), "200");
    let begun = Instant::now();
    // A stream ends with it.
    let mut stream = std::os::unix::net::UnixStream::connect(&leased.setting.socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
        .write_all(b"GET /api/files/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.len() > 100 && !rest.ends_with(b"0\r\n\r\n"));
    assert!(
        (2..9).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(leased.code(), "lease_expired");
    // Another one, and all is as it was. It is the longest, by a clock that is a quarter of a minute ahead.
    leased.lease(&["--seconds", "75"]);
    assert_eq!(leased.code(), "200");
    let closed = leased.setting.events("credential.close", 3);
    assert_eq!(closed[1]["credential"]["ending"], "credential_revoked");
    // Each boot wants one of its own.
    let mut leased = leased;
    leased.setting.running.reboot_enclave();
    wait_for(|| leased.code() == "lease_expired");
}

#[test]
fn a_lease_narrows_and_a_host_that_withholds_an_annex_has_none() {
    let leased = Leased::start();
    leased.lease(&["--seconds", "30"]);
    assert_eq!(leased.code(), "200");
    // The operator has revoked; the sidecar does not bring it.
    let newer = leased.folder.path().join("newer.cose");
    let state = &leased.setting.running.state;
    let annex =
        policy::Annex::from_toml("version = 2\nrevoked = [\"credential:crew/api\"]").unwrap();
    let signed = annex
        .sign(&KeyFile::read(&state.operator_key()).unwrap())
        .unwrap();
    std::fs::write(&newer, signed).unwrap();
    for (key, annex, more, why) in [
        (
            "lease.key",
            Some(&newer),
            vec!["--seconds", "40"],
            "another annex",
        ),
        ("lease.key", None, vec!["--seconds", "40"], "another annex"),
        (
            "lease.key",
            Some(&leased.annex()),
            vec!["--seconds", "10"],
            "before the one",
        ),
        (
            "lease.key",
            Some(&leased.annex()),
            vec!["--seconds", "100"],
            "longer than the bundle",
        ),
        (
            "lease.key",
            Some(&leased.annex()),
            vec!["--seconds=-5"],
            "over",
        ),
        (
            "other.key",
            Some(&leased.annex()),
            vec!["--seconds", "40"],
            "lease key",
        ),
    ] {
        let _ = KeyFile::create(&leased.folder.path().join("other.key"));
        let told = leased.refused(key, annex, &more);
        assert!(
            told.contains("lease_invalid") && told.contains(why),
            "{why}: {told}"
        );
    }
    assert_eq!(leased.code(), "200");
    // The lease itself revokes, at once; the next one may let it be used again.
    leased.lease(&["--seconds", "40", "--revoke", "credential:crew/api"]);
    assert_eq!(leased.code(), "credential_revoked");
    leased.lease(&["--seconds", "50"]);
    assert_eq!(leased.code(), "200");
    // Of somebody whose clock is behind: it revokes, and shortens nothing.
    let ends = harness::now().0 + 55;
    let revokes = vec!["credential:crew/api".to_owned()];
    assert_eq!(leased.brought(ends, &[]), Some(ends));
    assert_eq!(leased.brought(ends - 30, &revokes), Some(ends));
    assert_eq!(leased.code(), "credential_revoked");
    // One of the same end takes nothing back; a later one does.
    assert_eq!(leased.brought(ends, &[]), Some(ends));
    assert_eq!(leased.code(), "credential_revoked");
    assert_eq!(leased.brought(ends - 30, &[]), None);
    assert_eq!(leased.brought(ends + 1, &[]), Some(ends + 1));
    assert_eq!(leased.code(), "200");
    let odd = leased.run("lease.key", Some(&leased.annex()), &["--revoke", "crew"]);
    assert_eq!(odd.status.code(), Some(64), "{odd:?}");
}

#[test]
fn a_lease_is_kept_by_whoever_is_there_and_wanted_by_no_bundle_that_does_not_say_so() {
    let leased = Leased::start();
    let keeping = Command::new(program("anchorhold"))
        .args(["lease", "--keep", "--seconds", "4", "--endpoint"])
        .arg(format!(
            "unix://{}",
            leased.setting.running.socket.display()
        ))
        .arg("--lease-key")
        .arg(leased.folder.path().join("lease.key"))
        .arg("--annex")
        .arg(leased.annex())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut keeping = Ended(keeping);
    wait_for(|| leased.code() == "200");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        assert_eq!(leased.code(), "200");
        std::thread::sleep(Duration::from_millis(200));
    }
    keeping.0.kill().unwrap();
    keeping.0.wait().unwrap();
    wait_for(|| leased.code() == "lease_expired");
    let plain = Setting::start(Upstream::start(|_, tls| answer(tls, 200, "", b"ok")));
    let without = Leased {
        setting: plain,
        folder: leased.folder,
    };
    assert!(
        without
            .refused("lease.key", Some(&without.annex()), &[])
            .contains("lease_not_wanted")
    );
    assert_eq!(without.code(), "200");
}
