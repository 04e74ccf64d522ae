use std::fs;
use std::path::PathBuf;

use harness::services::{SECRET, With, bundle, config, free_port, put_at};
use harness::{Connection, Lasting, wait_for};
use serde_json::{Value, json};

use super::setting::{ask_over, credential, desk};
use super::upstream::{Upstream, answer};

#[test]
fn a_credential_outlives_the_boot_where_the_bundle_keeps_a_state_and_only_there() {
    let upstream = Upstream::start(|_, tls| answer(tls, 200, "", b"ok"));
    let with = With::default();
    let lines = config(upstream.address, free_port(), "");
    let mut lasting = Lasting::prepared(|state| bundle(state, &upstream.root, &with), &lines);
    put_at(&lasting.state, &lasting.socket, harness::now().0);
    let socket = lasting.folder().join("proxy/agentkeys-proxy.sock");
    let status = || {
        let mut connection = Connection::open(&socket).unwrap();
        ask_over(&mut connection, "GET /api/models", "", b"").status
    };
    assert_eq!(status(), 200);
    lasting.reboot();
    wait_for(|| status() == 200);
    let seen = upstream.seen();
    assert_eq!(
        seen.last().unwrap().header("authorization"),
        Some(&*format!("Bearer {SECRET}"))
    );
    // Without a state the key is another one in each boot.
    let upstream = Upstream::start(|_, tls| answer(tls, 200, "", b"ok"));
    let mut setting = super::setting::Setting::start(upstream);
    assert_eq!(setting.ask("GET /api/models", "", b"").status, 200);
    setting.running.reboot_enclave();
    wait_for(|| {
        let got = setting.ask("GET /api/models", "", b"");
        got.header("x-anchorhold-error").as_deref() == Some("envelope_unopened")
    });
    // The desk puts it again: a later version, for the same place.
    setting.put_well("crew", SECRET);
    assert_eq!(setting.ask("GET /api/models", "", b"").status, 200);
}

/// Two identities with a credential each, where the bundle keeps a state.
struct Two {
    lasting: Lasting,
    _upstream: Upstream,
}

impl Two {
    fn start() -> Self {
        let upstream = Upstream::start(|_, tls| answer(tls, 200, "", b"ok"));
        let with = With {
            identities: &["crew", "other"],
            rules: "{ name = \"read\", methods = [\"GET\"], paths = [\"/models\"], identities = [\"crew\", \"other\"] }",
            ..With::default()
        };
        let lines = config(upstream.address, free_port(), "");
        let lasting = Lasting::prepared(|state| bundle(state, &upstream.root, &with), &lines);
        let two = Self {
            lasting,
            _upstream: upstream,
        };
        for identity in ["crew", "other"] {
            let which = ["put", "--identity", identity, "--service", "api"];
            two.run(&which, true).unwrap();
        }
        two
    }

    /// `anchorhold credential ...`: what it prints, or what it says.
    fn run(&self, arguments: &[&str], at_a_desk: bool) -> Result<Value, String> {
        let desk = desk(&self.lasting.state);
        let desk = desk.iter().map(String::as_str);
        let desk: Vec<&str> = desk.filter(|_| at_a_desk).collect();
        let all = [arguments, &desk].concat();
        let output = credential(&self.lasting.socket, &all, SECRET);
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// The keys, and under which each credential is sealed.
    fn epochs(&self) -> (Value, Vec<u64>) {
        let listed = self.run(&["list"], false).unwrap();
        let each = listed["credentials"].as_array().unwrap();
        let each = each.iter().map(|one| one["epoch"].as_u64().unwrap());
        (listed["epochs"].clone(), each.collect())
    }

    /// What the service, or whoever refuses, says to each identity.
    fn ask(&self, identity: &str) -> String {
        let socket = self.lasting.folder().join("proxy/agentkeys-proxy.sock");
        let mut connection = Connection::open(&socket).unwrap();
        let header = format!("x-anchorhold-identity: {identity}\r\n");
        let got = ask_over(&mut connection, "GET /api/models", &header, b"");
        let error = got.header("x-anchorhold-error");
        error.unwrap_or_else(|| got.status.to_string())
    }

    fn both_work(&self) {
        for identity in ["crew", "other"] {
            wait_for(|| self.ask(identity) == "200");
        }
    }

    /// Kills both processes, whatever they were at, and starts them again.
    fn cut(&mut self) {
        self.lasting.restart();
        self.both_work();
    }

    /// Where the credential of an identity is kept.
    fn file(&self, identity: &str) -> PathBuf {
        let listed = self.run(&["list"], false).unwrap();
        let mut each = listed["credentials"].as_array().unwrap().iter();
        let one = each.find(|one| one["identity"] == identity).unwrap();
        let actor = one["actor"].as_str().unwrap();
        let bots = self.lasting.state.folder().join("credentials/bots");
        bots.join(actor).join("credentials/api.enc")
    }
}

#[test]
fn keys_of_credentials_change_and_wherever_that_is_cut_off_none_is_lost() {
    let mut two = Two::start();
    assert_eq!(
        two.epochs(),
        (json!({"lowest": 1, "current": 1}), vec![1, 1])
    );
    // Sealed, and never stored: as if there had been no order.
    let (sealed, aside) = (two.lasting.part("sealed.cbor"), two.lasting.part("aside"));
    fs::rename(&sealed, &aside).unwrap();
    fs::create_dir(&sealed).unwrap();
    let error = two.run(&["rotate"], true).unwrap_err();
    assert!(error.contains("state_not_stored"), "{error}");
    let none = (json!({"lowest": 1, "current": 1}), vec![1, 1]);
    assert_eq!(two.epochs(), none);
    two.both_work();
    two.lasting.sidecar.kill().unwrap();
    fs::remove_dir(&sealed).unwrap();
    fs::rename(&aside, &sealed).unwrap();
    two.cut();
    assert_eq!(two.epochs(), none);
    // Ordered and stored, nothing sealed anew.
    let rotated = two.run(&["rotate"], true).unwrap();
    assert_eq!(rotated, json!({"lowest": 1, "current": 2}));
    two.both_work();
    two.cut();
    assert_eq!(
        two.epochs(),
        (json!({"lowest": 1, "current": 2}), vec![1, 1])
    );
    let error = two.run(&["retire"], true).unwrap_err();
    assert!(error.contains("credential rewrap"), "{error}");
    // One sealed anew, the other not yet.
    let (file, copy) = (two.file("other"), two.lasting.folder().join("copy"));
    fs::copy(&file, &copy).unwrap();
    let done = two.run(&["rewrap"], false).unwrap();
    assert_eq!(done["rewrapped"].as_array().unwrap().len(), 2);
    fs::copy(&copy, &file).unwrap();
    assert_eq!(two.epochs().1, [2, 1]);
    two.both_work();
    two.cut();
    let done = two.run(&["rewrap"], false).unwrap();
    assert_eq!(done["rewrapped"][0]["identity"], "other");
    assert_eq!(done["rewrapped"].as_array().unwrap().len(), 1);
    assert_eq!(done["left"], json!([]));
    two.both_work();
    two.cut();
    // Nothing is lost that the bundle does not name, and nothing that cannot be read.
    let stranger = file.with_file_name("gone.enc");
    fs::copy(&copy, &stranger).unwrap();
    let error = two.run(&["retire"], true).unwrap_err();
    assert!(error.contains("gone.enc"), "{error}");
    let whole = fs::read(&file).unwrap();
    fs::write(&stranger, &whole).unwrap();
    fs::write(&file, b"nonsense").unwrap();
    let listed = two.run(&["list"], false).unwrap();
    assert_eq!(listed["unreadable"][0]["identity"], "other");
    assert_eq!(listed["credentials"][0]["identity"], "crew");
    let error = two.run(&["retire"], true).unwrap_err();
    assert!(error.contains("other/api cannot be read"), "{error}");
    fs::write(&file, whole).unwrap();
    // Only the key of now is left: copies from before open no more, also after a restart.
    let retired = two.run(&["retire"], true).unwrap();
    assert_eq!(retired, json!({"lowest": 2, "current": 2}));
    two.both_work();
    two.cut();
    let good = fs::read(&file).unwrap();
    fs::copy(&copy, &file).unwrap();
    assert_eq!(two.ask("other"), "envelope_unopened");
    let left = two.run(&["rewrap"], false).unwrap()["left"].clone();
    assert_eq!(left[0]["code"], "envelope_unopened");
    fs::write(&file, good).unwrap();
    two.both_work();
    assert_eq!(
        two.epochs(),
        (json!({"lowest": 2, "current": 2}), vec![2, 2])
    );
    let error = two.run(&["retire"], true).unwrap_err();
    assert!(error.contains("epoch_order_invalid"), "{error}");
}

#[test]
fn what_is_revoked_or_older_is_not_sealed_anew() {
    let two = Two::start();
    let old = fs::read(two.file("other")).unwrap();
    let which = ["put", "--identity", "other", "--service", "api"];
    two.run(&which, true).unwrap();
    two.run(&["rotate"], true).unwrap();
    let new = fs::read(two.file("other")).unwrap();
    let left = |two: &Two| {
        let done = two.run(&["rewrap"], false).unwrap();
        (
            done["left"][0]["identity"].clone(),
            done["left"][0]["code"].clone(),
        )
    };
    fs::write(two.file("other"), old).unwrap();
    assert_eq!(left(&two), (json!("other"), json!("credential_outdated")));
    fs::write(two.file("other"), new).unwrap();
    let annex =
        policy::Annex::from_toml("version = 2\nrevoked = [\"credential:other/api\"]").unwrap();
    let key = parent_proxy::KeyFile::read(&two.lasting.state.operator_key()).unwrap();
    let signed = annex.sign(&key).unwrap();
    fs::write(two.lasting.state.folder().join("annex.cose"), signed).unwrap();
    two.lasting.sidecar.signal(rustix::process::Signal::HUP);
    wait_for(|| two.ask("other") == "credential_revoked");
    assert_eq!(left(&two), (json!("other"), json!("credential_revoked")));
    assert_eq!(two.ask("crew"), "200");
}
