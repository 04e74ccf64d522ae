//! Budgets that outlive a boot.

use std::path::PathBuf;
use std::process::Command;
use std::thread;

use harness::services::{PLACEHOLDER, With, bundle, config, free_port, put_at};
use harness::{Answer, Connection, Lasting, wait_for};
use parent_proxy::KeyFile;

use super::ingress::{HTTPS_PROXY, ca_of};
use super::setting::ask_over;
use super::spending::{PRICES, chat, code, model, rules};
use super::upstream::Upstream;

/// A budget of a day in micro-dollars, where the bundle keeps a state.
struct Kept {
    lasting: Lasting,
    upstream: Upstream,
    port: u16,
}

impl Kept {
    fn start(max: u64, budget: &str) -> Self {
        let (upstream, port) = (Upstream::start(model), free_port());
        let limit = format!("{{ per = \"day\", max = {max}, amount = \"cost\" }}");
        let (rules, service) = (rules(&limit), format!("budget = {budget:?}"));
        let with = With {
            rules: &rules,
            service: &service,
            bundle: HTTPS_PROXY,
            ..With::default()
        };
        let lines = config(upstream.address, port, "");
        let lasting = Lasting::prepared(|state| bundle(state, &upstream.root, &with), &lines);
        put_at(&lasting.state, &lasting.socket, harness::now().0);
        let text = format!("version = 2\n{PRICES}");
        let annex = policy::Annex::from_toml(&text).unwrap();
        let key = KeyFile::read(&lasting.state.operator_key()).unwrap();
        let file = lasting.state.folder().join("annex.cose");
        std::fs::write(file, annex.sign(&key).unwrap()).unwrap();
        lasting.sidecar.signal(rustix::process::Signal::HUP);
        let kept = Self {
            lasting,
            upstream,
            port,
        };
        kept.until_it_answers();
        kept
    }

    fn socket(&self) -> PathBuf {
        self.lasting.folder().join("proxy/agentkeys-proxy.sock")
    }

    /// What became of a request whose prompt asks for this; one reserves some 1,200, and takes 40.
    fn ask(&self, user: &str) -> Answer {
        let mut connection = Connection::open(&self.socket()).unwrap();
        let (line, body) = ("POST /api/chat/completions", chat(user).to_string());
        let json = "content-type: application/json\r\n";
        ask_over(&mut connection, line, json, body.as_bytes())
    }

    /// With something that reserves, and in the end takes nothing.
    fn until_it_answers(&self) {
        wait_for(|| self.ask("refuses").status == 400);
    }

    fn reboot(&mut self) {
        self.lasting.reboot();
        self.lasting.wait_until_ready();
        wait_for(|| code(&self.ask("refuses")).1 != "annex_required");
    }

    /// How often the state was sealed.
    fn seals(&self) -> u64 {
        self.lasting.status()["sequence"].as_u64().unwrap()
    }
}

#[test]
fn what_was_used_of_a_budget_counts_after_a_boot_and_is_sealed_now_and_then() {
    let mut kept = Kept::start(20_000, "across boots");
    let before = kept.seals();
    for _ in 0..20 {
        assert_eq!(kept.ask("x").status, 200);
    }
    // 800 of the 2,400 into which two of them fit; for a moment after its answer one still counts as reserved.
    assert!(kept.seals() <= before + 5, "{before} {}", kept.seals());
    let before = kept.seals();
    // What says nothing of itself stays as it was reserved.
    for _ in 0..10 {
        assert_eq!(kept.ask("hides").status, 200);
    }
    assert!(kept.seals() > before + 3, "{before} {}", kept.seals());
    kept.reboot();
    // Some 13,100 are used, and of the 1,200 or 2,400 that were sealed last nobody knows.
    let mut went = 0;
    while kept.ask("hides").status == 200 {
        went += 1;
    }
    assert!((2..=5).contains(&went), "{went}");
    let refused = kept.ask("hides");
    assert_eq!(code(&refused), (403, "budget_exceeded".into()));
    kept.reboot();
    assert_eq!(code(&kept.ask("hides")), (403, "budget_exceeded".into()));
    assert_eq!(
        kept.upstream
            .seen()
            .iter()
            .filter(|seen| seen.body.windows(5).any(|five| five == b"hides"))
            .count(),
        10 + went
    );
}

#[test]
fn a_budget_per_boot_begins_anew_and_is_sealed_never() {
    let mut kept = Kept::start(2_000, "per boot");
    let before = kept.seals();
    assert_eq!(kept.ask("hides").status, 200);
    assert_eq!(code(&kept.ask("hides")), (403, "budget_exceeded".into()));
    assert_eq!(kept.seals(), before);
    kept.reboot();
    // What asked whether it is up counts as reserved for a moment.
    wait_for(|| kept.ask("hides").status == 200);
}

#[test]
fn calls_that_come_at_once_and_calls_through_the_proxy_wait_for_their_part_of_a_budget() {
    let kept = Kept::start(1_000_000, "across boots");
    thread::scope(|scope| {
        let asked: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| kept.ask("hides").status))
            .collect();
        for one in asked {
            assert_eq!(one.join().unwrap(), 200);
        }
    });
    let authority = kept.lasting.folder().join("ca.pem");
    let output = ca_of(&kept.lasting.state, &kept.lasting.socket, &[]);
    std::fs::write(&authority, output.stdout).unwrap();
    // Ever more until a part was sealed for one of them.
    let before = kept.seals();
    for _ in 0..40 {
        let output = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "30",
                "--output",
                "/dev/null",
            ])
            .args(["--write-out", "%{http_code}", "--cacert"])
            .arg(&authority)
            .args([
                "--proxy",
                &format!("http://x:{PLACEHOLDER}@127.0.0.1:{}", kept.port),
            ])
            .args(["--json", &chat("hides").to_string()])
            .arg("https://api.example/v1/chat/completions")
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "200");
        if kept.seals() > before {
            return;
        }
    }
    panic!("nothing was sealed for a call through the proxy");
}

#[test]
fn nothing_is_spent_of_a_budget_that_cannot_be_kept() {
    let kept = Kept::start(1_000_000, "across boots");
    // The first part of it, for the rule of chats, is sealed.
    assert_eq!(kept.ask("x").status, 200);
    let in_the_way = kept.lasting.part(".new");
    std::fs::create_dir(&in_the_way).unwrap();
    // Until it is used up.
    let mut last = kept.ask("hides");
    while last.status == 200 {
        last = kept.ask("hides");
    }
    assert_eq!(code(&last), (503, "state_not_stored".into()));
    let sent = kept.upstream.seen().len();
    assert_eq!(code(&kept.ask("hides")).0, 503);
    assert_eq!(kept.upstream.seen().len(), sent);
    std::fs::remove_dir(&in_the_way).unwrap();
    wait_for(|| kept.ask("hides").status == 200);
}
