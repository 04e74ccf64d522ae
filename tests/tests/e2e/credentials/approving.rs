//! Requests to services that wait for an approval.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::services::{PLACEHOLDER, With};
use harness::{Answer, Connection, get, program};
use identity::Signer;
use parent_proxy::KeyFile;
use serde_json::{Value, json};

use super::setting::Setting;
use super::upstream::{Upstream, answer};

const BODY: &[u8] = br#"{"amount": 100, "to": "acme"}"#;

/// Payments wait for alice; everything else goes at once.
pub(super) struct Desk {
    pub(super) setting: Setting,
    pub(super) folder: tempfile::TempDir,
}

impl Desk {
    fn start(more: &str) -> Self {
        Self::placing(more, With::default().inject)
    }

    /// With the credential in this place.
    fn placing(more: &str, inject: &str) -> Self {
        Self::with(
            more,
            &With {
                inject,
                ..With::default()
            },
        )
    }

    /// The same, and more lines of bundle and configuration.
    pub(super) fn with(more: &str, with: &With<'_>) -> Self {
        let inject = with.inject;
        let folder = harness::private_folder();
        let key = KeyFile::create(&folder.path().join("alice.key")).unwrap();
        let bundle = format!(
            "{}{more}\n[[approvers]]\nname = \"alice\"\nkey = \"{}\"\n",
            with.bundle,
            key.public_key().to_multikey()
        );
        let approval = match more {
            "" => {
                "approval = { by = [\"alice\"], seconds = 600 }, limits = [{ per = \"hour\", max = 2 }], "
            }
            _ => "",
        };
        let ask = if inject.contains("field") {
            ""
        } else {
            ", \"GET\""
        };
        let rules = format!(
            "{{ name = \"pay\", methods = [\"POST\"], paths = [\"/pay\"], {approval}identities = [\"crew\"] }},
             {{ name = \"ask\", methods = [\"POST\"{ask}], paths = [\"/ask\"], identities = [\"crew\"] }}"
        );
        let with = With {
            rules: &rules,
            bundle: &bundle,
            ..*with
        };
        let upstream = Upstream::start(|_, tls| answer(tls, 200, "", b"paid"));
        let setting = Setting::with(upstream, &with);
        setting.put_well("crew", "sk-live-0123456789");
        Self { setting, folder }
    }

    pub(super) fn pay(&self, headers: &str, body: &[u8]) -> Answer {
        self.setting.ask("POST /api/pay", headers, body)
    }

    /// The id under which it waits.
    fn waits(&self, headers: &str, body: &[u8]) -> String {
        let got = self.pay(headers, body);
        let code = got.header("x-anchorhold-error");
        assert_eq!(
            (got.status, code.as_deref()),
            (403, Some("approval_required"))
        );
        assert_eq!(got.header("x-should-retry").as_deref(), Some("false"));
        waiting_id(&got.json()["error"]["message"])
    }

    fn shown(&self, id: &str) -> Value {
        shown(&self.setting, id)
    }

    /// As alice, who has looked.
    pub(super) fn approve(&self, id: &str) -> bool {
        approve(&self.setting, &self.key(), id)
    }

    /// Alice's.
    pub(super) fn key(&self) -> PathBuf {
        self.folder.path().join("alice.key")
    }

    pub(super) fn sent(&self) -> usize {
        self.setting.upstream.seen().len()
    }
}

fn shown(setting: &Setting, id: &str) -> Value {
    let path = format!("/approvals/{id}");
    get(&setting.running.socket, &path).unwrap().json()["approval"].clone()
}

/// Approves what waits, with this key.
pub(super) fn approve(setting: &Setting, key: &Path, id: &str) -> bool {
    let digest = shown(setting, id)["request_digest"].clone();
    let approved = Command::new(program("anchorhold"))
        .args(["approve", id, "--digest", digest.as_str().unwrap(), "--key"])
        .arg(key)
        .arg("--endpoint")
        .arg(format!("unix://{}", setting.running.socket.display()))
        .output()
        .unwrap();
    approved.status.success()
}

/// The id that a refusal names.
pub(super) fn waiting_id(says: &Value) -> String {
    let says = says.as_str().unwrap();
    let id = says.split("anchorhold approve ").nth(1).unwrap();
    id.split(';').next().unwrap().to_owned()
}

#[test]
fn a_request_that_a_rule_wants_approved_waits_and_goes_once() {
    let desk = Desk::start("");
    // What needs none does not wait.
    assert_eq!(desk.setting.ask("POST /api/ask", "", BODY).status, 200);
    let id = desk.waits("", BODY);
    assert_eq!(
        (desk.waits("user-agent: again\r\n", BODY), desk.sent()),
        (id.clone(), 1)
    );
    let shown = desk.shown(&id);
    assert_eq!(shown["approvers"], json!(["alice"]));
    let request = &shown["request"];
    assert_eq!(request["identity"], "crew");
    assert_eq!(request["body"]["text"].as_str(), str::from_utf8(BODY).ok());
    assert_eq!(request["intent"]["resource"], "https://api.example/v1/pay");
    assert_eq!(request["payload"]["method"], "POST");
    assert!(!shown.to_string().contains(PLACEHOLDER));
    assert!(desk.approve(&id));
    // Something else is not what was approved.
    for (headers, body) in [
        ("", &br#"{"amount": 900, "to": "acme"}"#[..]),
        ("x-dry-run: false\r\n", BODY),
    ] {
        assert_ne!(desk.waits(headers, body), id);
    }
    let got = desk.setting.ask("POST /api/pay?to=me", "", BODY);
    assert_eq!(
        got.header("x-anchorhold-error").as_deref(),
        Some("approval_required")
    );
    // Nor for somebody else, who has the same identity.
    let bearer = format!("authorization: Bearer {PLACEHOLDER}\r\n");
    let other = desk.setting.ask_tcp("POST /api/pay", &bearer, BODY);
    assert!(
        other.contains("approval_required") && !other.contains(&id),
        "{other}"
    );
    assert_eq!(desk.sent(), 1);
    let got = desk.pay("user-agent: once more\r\n", BODY);
    assert_eq!((got.status, &got.body[..]), (200, &b"paid"[..]));
    assert_eq!(desk.setting.upstream.seen().pop().unwrap().body, BODY);
    // Once.
    let again = desk.waits("", BODY);
    assert_ne!(again, id);
    assert_eq!(desk.sent(), 2);
    let opened = desk.setting.events("credential.open", 9);
    let decisions: Vec<_> = opened
        .iter()
        .map(|line| line["policy_decision"].clone())
        .collect();
    let pending = json!("pending");
    let wanted = [
        json!("allow"),
        pending.clone(),
        pending.clone(),
        pending.clone(),
        pending.clone(),
        pending.clone(),
        pending.clone(),
        json!("allow"),
        pending,
    ];
    assert_eq!(decisions, wanted);
    assert_eq!(opened[7]["approvals"][0]["name"], "alice");
    assert_eq!(opened[7]["request_digest"], shown["request_digest"]);
    let closed = &desk.setting.events("credential.close", 2)[1];
    assert_eq!(closed["approvals"][0]["name"], "alice");
}

#[test]
fn an_approval_of_a_request_to_a_service_is_not_lost_to_a_limit_and_hides_none() {
    let desk = Desk::start("");
    for n in 0..2 {
        let body = format!("{{\"amount\": {n}}}");
        let id = desk.waits("", body.as_bytes());
        assert!(desk.approve(&id));
        assert_eq!(desk.pay("", body.as_bytes()).status, 200);
    }
    // Who has no approval learns nothing of the limit; who has one keeps it.
    let id = desk.waits("", BODY);
    assert!(desk.approve(&id));
    for _ in 0..2 {
        let got = desk.pay("", BODY);
        assert_eq!(
            got.header("x-anchorhold-error").as_deref(),
            Some("rate_limit_exceeded")
        );
    }
    assert_eq!(desk.shown(&id)["approved"], true);
    assert_eq!(desk.sent(), 2);
}

#[test]
fn long_bodies_wait_by_their_digest_and_what_is_longer_is_refused() {
    let desk = Desk::start("");
    let long = vec![b'x'; 100_000];
    let id = desk.waits("", &long);
    let body = &desk.shown(&id)["request"]["body"];
    assert_eq!(body["sha256"], identity::sha256(&long).to_string());
    assert_eq!(body["text"], Value::Null);
    assert!(desk.approve(&id));
    assert_eq!(desk.pay("", &long).status, 200);
    let got = desk.pay("", &vec![b'x'; (16 << 20) + 1]);
    assert_eq!((got.status, desk.sent()), (413, 1));
    // What needs no approval is as long as it is.
    assert_eq!(desk.setting.ask("POST /api/ask", "", &long).status, 200);
}

#[test]
fn what_rego_wants_approved_waits_too() {
    let module = "package a\nallow if true\nrequire_approval if { input.payload.path == \"/pay\" }";
    let rego = format!(
        "rego = {{ entrypoint = 'data.a', module = '''{module}''', approval = {{ by = ['alice'], seconds = 60 }} }}"
    );
    let desk = Desk::start(&rego);
    let id = desk.waits("", BODY);
    assert!(desk.approve(&id));
    assert_eq!(desk.pay("", BODY).status, 200);
    assert_eq!(desk.setting.ask("GET /api/ask", "", b"").status, 200);
}

#[test]
fn one_callers_long_bodies_leave_room_for_those_of_others() {
    let desk = Desk::start("");
    let long = vec![b'x'; 200_000];
    let slow = || {
        let mut connection = Connection::open(&desk.setting.socket).unwrap();
        let head = "POST /api/pay HTTP/1.1\r\nhost: localhost\r\ncontent-length: 200000\r\n\r\n";
        let begun = [head.as_bytes(), &long[..100_000]].concat();
        connection.send(&begun).unwrap();
        connection
    };
    // Until two of them have the places, and not one that was faster and is over.
    let held = RefCell::new(Vec::new());
    harness::wait_for(|| {
        held.borrow_mut().push(slow());
        let got = desk.pay("", &long);
        got.header("x-anchorhold-error").as_deref() == Some("service_busy")
    });
    // Short ones, and those of others, go on.
    desk.waits("", BODY);
    let bearer = format!("authorization: Bearer {PLACEHOLDER}\r\n");
    let other = desk.setting.ask_tcp("POST /api/pay", &bearer, &long);
    assert!(other.contains("approval_required"), "{other}");
    let mut answered = 0;
    for connection in held.borrow_mut().iter_mut() {
        // Those that had no place were told at once.
        if connection.send(&long[100_000..]).is_ok() {
            answered += usize::from(connection.read().is_ok_and(|got| got.status == 403));
        }
    }
    assert_eq!(answered, 2);
    desk.waits("", &long);
}

#[test]
fn who_approves_sees_a_body_without_the_credential_that_goes_in_it() {
    let desk = Desk::placing("", "{ field = \"/to\" }");
    let json = "content-type: application/json\r\n";
    let id = desk.waits(json, BODY);
    let shown = desk.shown(&id);
    let text = shown["request"]["body"]["text"].as_str();
    assert_eq!(text, str::from_utf8(BODY).ok());
    assert!(desk.approve(&id));
    assert_eq!(desk.pay(json, BODY).status, 200);
    let sent = desk.setting.upstream.seen().pop().unwrap().body;
    let placed = br#"{"amount": 100, "to": "sk-live-0123456789"}"#;
    assert_eq!(sent, placed);
    // Once.
    assert_ne!(desk.waits(json, BODY), id);
}
