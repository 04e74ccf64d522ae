//! Agents that come as to a proxy: their TLS ends in the enclave.

use std::path::PathBuf;
use std::process::{Command, Output};

use harness::program;
use harness::services::{PLACEHOLDER, SECRET, With};

use super::setting::Setting;
use super::upstream::{Upstream, answer};

const HTTPS_PROXY: &str = "[https_proxy]\nunmatched = \"refuse\"\n";

/// The usual, through the proxy.
fn with() -> With<'static> {
    With {
        bundle: HTTPS_PROXY,
        ..With::default()
    }
}

/// A setting, and its certificate authority in a file.
struct Proxied {
    setting: Setting,
    authority: PathBuf,
}

impl Proxied {
    fn start(upstream: Upstream, with: &With<'_>) -> Self {
        let setting = Setting::with(upstream, with);
        setting.put_well("crew", SECRET);
        let authority = setting.running.folder().join("ca.pem");
        let output = ca(&setting, &[]);
        assert!(output.status.success(), "{}", said(&output));
        std::fs::write(&authority, output.stdout).unwrap();
        Self { setting, authority }
    }

    fn proxy(&self) -> String {
        format!("http://x:{PLACEHOLDER}@127.0.0.1:{}", self.setting.port)
    }

    /// curl, with these arguments.
    fn curl(&self, arguments: &[&str]) -> Output {
        Command::new("curl")
            .env_clear()
            .args(["--silent", "--show-error", "--include", "--max-time", "30"])
            .args(["--proxy", &self.proxy(), "--suppress-connect-headers"])
            .arg("--cacert")
            .arg(&self.authority)
            .args(arguments)
            .output()
            .unwrap()
    }
}

/// `anchorhold ca`, with other arguments behind the usual ones.
fn ca(setting: &Setting, more: &[&str]) -> Output {
    let state = &setting.running.state;
    Command::new(program("anchorhold"))
        .arg("ca")
        .arg("--bundle")
        .arg(state.policy())
        .arg("--measurements")
        .arg(state.measurements())
        .arg("--mock-root")
        .arg(state.root())
        .arg("--endpoint")
        .arg(format!("unix://{}", setting.running.socket.display()))
        .args(more)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn an_agent_that_knows_of_a_proxy_only_gets_its_answer_and_no_host_reads_it() {
    let upstream =
        Upstream::start(|request, tls| answer(tls, 200, "x-from: us\r\n", &request.body));
    let proxied = Proxied::start(upstream, &with());
    let output = proxied.curl(&[
        "https://api.example/v1/chat",
        "-d",
        "what-nobody-else-reads",
    ]);
    let told = said(&output);
    assert!(
        told.contains("200 OK") && told.contains("what-nobody-else-reads"),
        "{told}"
    );
    assert!(told.contains("x-from: us"), "{told}");
    let seen = proxied.setting.upstream.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].line, "POST /v1/chat HTTP/1.1");
    assert_eq!(
        seen[0].header("authorization"),
        Some(&*format!("Bearer {SECRET}"))
    );
    assert_eq!(seen[0].header("host"), Some("api.example"));
    let opened = proxied.setting.events("credential.open", 1);
    assert_eq!(opened[0]["credential"]["ingress"], true);
    assert_eq!(
        proxied.setting.events("credential.close", 1)[0]["credential"]["ending"],
        "complete"
    );
}
