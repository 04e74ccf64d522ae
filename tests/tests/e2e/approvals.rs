//! Requests that wait for somebody's approval.

use enclave::Service;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use harness::window::{InProcess, PROXY, TestKey, Window, bundle};
use harness::{Running, get, post, program};
use identity::caller::ObservedCaller;
use identity::request::Approval;
use identity::token::unverified_claims;
use identity::{Digest, Format, PublicKey, Signer, sha256};
use parent_proxy::KeyFile;
use policy::Bundle;
use protocol::{Answer, PendingApproval, Request, Requester, Sign};
use qemu_dev::authority::Authority;
use qemu_dev::nsm::{Encoding, MockNsm, os_random};
use record::{Reader, Verdict};
use serde_json::{Value, json};

const ALICE: u8 = 60;
const BOB: u8 = 61;

struct Setting {
    window: Window,
    record: PublicKey,
    enclave: InProcess<MockNsm>,
}

/// Deployments of `agent` wait for Alice, for a few seconds; Bob approves other things.
fn setting(seconds: u32) -> Setting {
    let approval = json!({"by": ["alice"], "seconds": seconds});
    setting_with(|policy| policy["identities"][0]["rules"][0]["approval"] = approval)
}

fn setting_with(change: impl FnOnce(&mut Value)) -> Setting {
    let clock = Box::new(|| harness::now().0.unsigned_abs() * 1000);
    let authority = Authority::new(harness::now().0.unsigned_abs(), &mut os_random);
    let nsm = MockNsm::new(
        authority,
        &[Digest([1; 48]), Digest([2; 48]), Digest([3; 48])],
        clock,
        Encoding::Definite,
    )
    .unwrap();
    let enclave = InProcess::boot(nsm);
    let mut policy: Value = serde_json::from_slice(&bundle("development").canonical()).unwrap();
    let key = |byte| TestKey::new(byte).public_key().to_multikey();
    policy["approvers"] =
        json!([{"name": "alice", "key": key(ALICE)}, {"name": "bob", "key": key(BOB)}]);
    policy["identities"][0]["callers"]["uids"] = json!([1000, 1001]);
    change(&mut policy);
    let policy = Bundle::from_canonical(&identity::json::canonical(&policy).unwrap()).unwrap();
    let mut window = Window::connect(&enclave.socket, &TestKey::new(PROXY))
        .unwrap()
        .unwrap();
    window
        .ask(Request::Provision {
            bundle: policy.canonical(),
            before: None,
        })
        .unwrap()
        .unwrap();
    let attest = Request::Attest {
        requester: Requester {
            caller: ObservedCaller::ids(1000, 1000),
            identity: Some("agent".into()),
        },
        nonce: vec![7; 32],
    };
    let Answer::Evidence(evidence) = window.ask(attest).unwrap().unwrap() else {
        panic!("no evidence")
    };
    let record = attestation::Evidence::parse(&evidence.evidence)
        .unwrap()
        .record()
        .to_vec();
    Setting {
        window,
        record: PublicKey::from_spki(&record).unwrap(),
        enclave,
    }
}

impl Setting {
    fn ask(&mut self, request: Request) -> (Result<Answer, String>, record::Decision) {
        let (answer, event) = self.window.ask_recorded(request).unwrap();
        let event = Reader::new(vec![self.record.clone()])
            .next(&event.unwrap())
            .unwrap()
            .decision;
        (
            answer.map_err(|refusal| format!("{}: {}", refusal.code, refusal.message)),
            event,
        )
    }

    fn sign(
        &mut self,
        uid: u32,
        amount: u32,
        approval: Option<identity::ApprovalId>,
    ) -> (Result<Answer, String>, record::Decision) {
        self.sign_as(ObservedCaller::ids(uid, 1000), amount, approval)
    }

    fn sign_as(
        &mut self,
        caller: ObservedCaller,
        amount: u32,
        approval: Option<identity::ApprovalId>,
    ) -> (Result<Answer, String>, record::Decision) {
        self.ask(Request::Sign(Sign {
            requester: Requester {
                caller,
                identity: Some("agent".into()),
            },
            format: Format::VouchJwt,
            action: "deploy".into(),
            target: "x".into(),
            resource: "r".into(),
            payload: format!("{{\"amount\":{amount}}}"),
            audience: None,
            validity_seconds: None,
            proof: None,
            delegation: None,
            approval,
            delegatee: None,
        }))
    }

    fn wait(&mut self, uid: u32, amount: u32) -> PendingApproval {
        let (answer, event) = self.sign(uid, amount, None);
        assert_eq!(
            (event.policy_decision, event.token_id),
            (Verdict::Pending, None)
        );
        let Ok(Answer::PendingApproval(waiting)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(Some(Digest(waiting.request)), event.request_digest);
        assert_eq!(sha256(waiting.canonical.as_bytes()).0, waiting.request);
        waiting
    }

    fn approval(&self, waiting: &PendingApproval) -> Approval {
        Approval {
            approval: waiting.id,
            boot_id: self.enclave.enclave.boot_id(),
            exp: harness::now().0 + 60,
            request: Digest(waiting.request),
        }
    }

    fn approve(&mut self, approval: &Approval, by: u8) -> Result<(), String> {
        let jws = approval.sign(&TestKey::new(by)).unwrap();
        let (answer, event) = self.window.ask_recorded(Request::Approve { jws }).unwrap();
        let answer = answer
            .map(|_| ())
            .map_err(|refusal| format!("{}: {}", refusal.code, refusal.message));
        // What is of nobody, or about nothing, makes no event.
        if let Some(event) = event {
            let event = Reader::new(vec![self.record.clone()])
                .next(&event)
                .unwrap()
                .decision;
            assert_eq!(
                (
                    event.event_type.as_str(),
                    event.policy_decision == Verdict::Allow
                ),
                ("approval.grant", answer.is_ok())
            );
        } else {
            assert!(answer.is_err());
        }
        answer
    }
}

#[test]
fn a_request_waits_is_approved_once_and_its_token_says_by_whom() {
    let mut setting = setting(60);
    let waiting = setting.wait(1000, 1);
    // Asking again finds what waits already.
    assert_eq!(setting.wait(1000, 1).id, waiting.id);
    let (answer, event) = setting.sign(1000, 1, Some(waiting.id));
    assert!(matches!(answer, Ok(Answer::PendingApproval(still)) if !still.approved));
    assert_eq!(event.policy_decision, Verdict::Pending);
    let approval = setting.approval(&waiting);
    setting.approve(&approval, ALICE).unwrap();
    assert!(
        setting
            .approve(&approval, ALICE)
            .unwrap_err()
            .contains("approved before")
    );
    // For another request, and for another caller, it is nothing.
    assert!(
        setting
            .sign(1000, 2, Some(waiting.id))
            .0
            .unwrap_err()
            .contains("another request")
    );
    assert!(
        setting
            .sign(1001, 1, Some(waiting.id))
            .0
            .unwrap_err()
            .contains("another caller")
    );
    let (answer, event) = setting.sign(1000, 1, Some(waiting.id));
    let Ok(Answer::Signed(signed)) = answer else {
        panic!("{answer:?}")
    };
    let claims = unverified_claims(&signed.signed).unwrap();
    let link = &claims.vouch.delegation_chain[0];
    let signature = approval.sign(&TestKey::new(ALICE)).unwrap();
    assert_eq!(
        (link.iss.as_str(), link.sub.as_str()),
        ("approver:alice", claims.iss.as_str())
    );
    assert_eq!(link.sig, signature.rsplit_once('.').unwrap().1[..64]);
    assert_eq!(
        link.intent,
        format!("{{\"approves\":\"{}\"}}", Digest(waiting.request))
    );
    assert_eq!(
        (event.approvals[0].name.as_str(), &event.approvals[0].key),
        ("alice", &TestKey::new(ALICE).public_key().thumbprint())
    );
    let key = claims.iss.embedded_key().unwrap();
    let expected = identity::token::Expected {
        key: &key,
        did: &claims.iss,
        at: harness::now(),
        audience: None,
    };
    assert_eq!(
        identity::token::verify(&signed.signed, &expected),
        Ok(claims.clone())
    );
    // It worked once.
    assert!(
        setting
            .sign(1000, 1, Some(waiting.id))
            .0
            .unwrap_err()
            .starts_with("approval_unknown")
    );
    assert!(
        setting
            .approve(&approval, ALICE)
            .unwrap_err()
            .starts_with("approval_unknown")
    );
}

#[test]
fn an_approval_of_another_kind_is_refused() {
    let mut setting = setting(60);
    let waiting = setting.wait(1000, 1);
    let other = setting.wait(1000, 2);
    let good = setting.approval(&waiting);
    let wrong = [
        (good.clone(), BOB, "does not name this approver"),
        (good.clone(), 77, "no approver with this key"),
        (good.clone(), PROXY, "no approver with this key"),
        (
            Approval {
                boot_id: identity::BootId::new([9; 16]),
                ..good.clone()
            },
            ALICE,
            "another boot",
        ),
        (
            Approval {
                request: Digest(other.request),
                ..good.clone()
            },
            ALICE,
            "another request",
        ),
        (
            Approval {
                approval: other.id,
                ..good.clone()
            },
            ALICE,
            "another request",
        ),
        (
            Approval {
                approval: identity::ApprovalId::new([9; 16]),
                ..good.clone()
            },
            ALICE,
            "no such request",
        ),
        (
            Approval {
                exp: harness::now().0 - 3,
                ..good.clone()
            },
            ALICE,
            "too late",
        ),
    ];
    for (approval, by, says) in wrong {
        let refused = setting.approve(&approval, by).unwrap_err();
        assert!(refused.contains(says), "{says}: {refused}");
    }
    for jws in ["", "a.b.c"] {
        assert_eq!(
            setting
                .window
                .ask(Request::Approve { jws: jws.into() })
                .unwrap()
                .unwrap_err()
                .code,
            "approval_invalid"
        );
    }
    // Signed by Bob in Alice's name.
    let jws = good.sign(&TestKey::new(ALICE)).unwrap();
    let forged = good.sign(&TestKey::new(BOB)).unwrap();
    let jws = format!(
        "{}.{}",
        jws.rsplit_once('.').unwrap().0,
        forged.rsplit_once('.').unwrap().1
    );
    let (refused, event) = setting
        .window
        .ask_recorded(Request::Approve { jws })
        .unwrap();
    assert!(refused.unwrap_err().message.contains("signature or form") && event.is_none());
    // None of it approved anything.
    assert!(
        matches!(setting.sign(1000, 1, Some(waiting.id)).0, Ok(Answer::PendingApproval(still)) if !still.approved)
    );
    assert!(
        setting
            .sign(1000, 1, Some(identity::ApprovalId::new([9; 16])))
            .0
            .unwrap_err()
            .starts_with("approval_unknown")
    );
}

#[test]
fn what_waits_too_long_is_gone() {
    let mut setting = setting(2);
    let waiting = setting.wait(1000, 1);
    let approval = setting.approval(&waiting);
    setting.approve(&approval, ALICE).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(4200));
    assert!(
        setting
            .sign(1000, 1, Some(waiting.id))
            .0
            .unwrap_err()
            .contains("too late")
    );
    let answer = setting
        .window
        .ask(Request::GetApproval { id: waiting.id })
        .unwrap();
    assert_eq!(answer.unwrap_err().code, "approval_unknown");
}

#[test]
fn one_caller_does_not_take_every_place_of_those_that_wait() {
    let mut setting = setting_with(|policy| {
        policy["identities"][0]["rules"][0]["approval"] = json!({"by": ["alice"], "seconds": 60});
        policy["identities"][0]["callers"] =
            json!({"uids": [1000, 1001, 1002, 1003, 1004], "gids": [7], "names": []});
    });
    let busy = |setting: &mut Setting, uid, gid| {
        let waits = setting.sign_as(ObservedCaller::ids(uid, gid), 99, None).0;
        waits.is_err_and(|error| error.starts_with("approvals_full"))
    };
    for uid in 1000..1004 {
        for amount in 0..8 {
            setting.wait(uid, amount);
        }
        // Not with another group either, which is its own to choose.
        assert!(
            busy(&mut setting, uid, 1000) && busy(&mut setting, uid, 7),
            "{uid}"
        );
    }
    // The identity has its bound too.
    assert!(busy(&mut setting, 1004, 1000));
}

#[test]
fn what_nobody_could_have_signed_makes_no_event_and_a_callers_refusals_only_so_many() {
    let mut setting = setting(60);
    let waiting = setting.wait(1000, 1);
    let good = setting.approval(&waiting);
    let no_event = |setting: &mut Setting, request: Request, code: &str| {
        let (answer, event) = setting.window.ask_recorded(request).unwrap();
        assert_eq!((answer.unwrap_err().code.as_str(), event), (code, None));
    };
    // A key that the policy does not name; what is no JWS; an id of nothing, also in what an
    // approver once signed.
    for jws in [
        String::new(),
        "a.b.c".into(),
        good.sign(&TestKey::new(77)).unwrap(),
        good.sign(&TestKey::new(PROXY)).unwrap(),
    ] {
        no_event(&mut setting, Request::Approve { jws }, "approval_invalid");
    }
    let of_nothing = Approval {
        approval: identity::ApprovalId::new([9; 16]),
        ..good.clone()
    }
    .sign(&TestKey::new(ALICE))
    .unwrap();
    no_event(
        &mut setting,
        Request::Approve { jws: of_nothing },
        "approval_unknown",
    );
    let proof = Some(protocol::PresentedProof {
        jws: good.sign(&TestKey::new(77)).unwrap(),
        document: None,
    });
    no_event(
        &mut setting,
        setting_sign(ObservedCaller::ids(1000, 1000), proof.clone()),
        "proof_invalid",
    );
    let exchange = protocol::Exchange {
        requester: Requester {
            caller: ObservedCaller::ids(1000, 1000),
            identity: Some("agent".into()),
        },
        subject_token: "x".into(),
        scope: None,
        resource: None,
        audience: None,
        proof,
    };
    no_event(&mut setting, Request::Exchange(exchange), "proof_invalid");

    // What a caller may not have makes an event, but only so many; another caller's still do, and
    // what is allowed does.
    let long = "\"".repeat(1000);
    // What waits makes an event, and who asks for it again and again only so many.
    let mut pending = 0;
    for _ in 0..300 {
        let (answer, event) = setting
            .window
            .ask_recorded(setting_sign(ObservedCaller::ids(1001, 1000), None))
            .unwrap();
        assert!(matches!(answer, Ok(Answer::PendingApproval(_))));
        pending += usize::from(event.is_some());
    }
    assert!((256..260).contains(&pending), "{pending}");
    let mut refused = |uid: u32, action: &str| {
        let Request::Sign(mut sign) = setting_sign(ObservedCaller::ids(uid, 1000), None) else {
            unreachable!()
        };
        (
            sign.requester.identity,
            sign.action,
            sign.target,
            sign.resource,
        ) = (
            Some("web".into()),
            action.into(),
            action.into(),
            action.into(),
        );
        setting.window.ask_recorded(Request::Sign(sign)).unwrap()
    };
    let mut made = 0;
    for _ in 0..400 {
        let (answer, event) = refused(4711, &long);
        assert_eq!(answer.unwrap_err().code, "caller_not_allowed");
        made += usize::from(event.is_some());
        assert!(
            event.is_none_or(|event| event.len() <= 4096),
            "an event of a refusal has at most 4 KiB"
        );
    }
    assert!((256..260).contains(&made), "{made}");
    assert!(refused(4712, "a").1.is_some());
    let (answer, event) = setting
        .window
        .ask_recorded(harness::window::sign("web"))
        .unwrap();
    assert!(answer.is_ok() && event.is_some());
}

fn setting_sign(caller: ObservedCaller, proof: Option<protocol::PresentedProof>) -> Request {
    let Request::Sign(sign) = harness::window::sign("agent") else {
        unreachable!()
    };
    Request::Sign(Sign {
        requester: Requester {
            caller,
            identity: Some("agent".into()),
        },
        proof,
        ..sign
    })
}

#[test]
fn an_approver_approves_what_is_shown_with_the_command() {
    let alice = harness::private_folder();
    let file = alice.path().join("alice.key");
    let key = KeyFile::create(&file).unwrap().public_key().to_multikey();
    let running = Running::prepared(
        |state| {
            let base = state
                .development_policy(&[("agent", "did:key", "EdDSA")])
                .unwrap();
            let approver =
                format!("[[approvers]]\nname = \"alice\"\nkey = \"{key}\"\n\n[[identities]]");
            base.replacen("[[identities]]", &approver, 1).replacen(
                "name = \"anything\"",
                "name = \"anything\"\napproval = { by = [\"alice\"], seconds = 60 }",
                1,
            )
        },
        "",
        &[],
    );
    // `TOKEN=$(anchorhold sign ...)` takes nothing for a token, and who ran it is told what to do.
    let mut sign = Command::new(program("anchorhold"));
    sign.args([
        "sign",
        "--payload",
        "{}",
        "--action",
        "deploy",
        "--endpoint",
    ])
    .arg(format!("unix://{}", running.socket.display()));
    let waits = sign.output().unwrap();
    let says = String::from_utf8(waits.stderr).unwrap();
    assert_eq!(
        (waits.status.code(), waits.stdout),
        (Some(1), vec![]),
        "{says}"
    );
    let line = |begin: &str| {
        let found = says.lines().find_map(|line| line.strip_prefix(begin));
        found.unwrap_or_else(|| panic!("{says}")).trim().to_owned()
    };
    assert!(
        line("anchorhold: nothing is signed yet: it waits for an approval by alice, until ")
            .ends_with('Z')
    );
    let told = line("the approver:");
    let named = told
        .strip_prefix("anchorhold approve ")
        .unwrap()
        .strip_suffix(&format!(
            " --key FILE --endpoint unix://{}",
            running.socket.display()
        ))
        .unwrap();
    assert_eq!(
        line("then ask again:"),
        format!("the same command, with --approval {named}")
    );
    let shown = get(&running.socket, &format!("/approvals/{named}")).unwrap();
    assert_eq!(
        shown.json()["approval"]["request"]["intent"]["action"],
        "deploy"
    );
    sign.arg("--json");
    let as_json: Value = serde_json::from_slice(&sign.output().unwrap().stdout).unwrap();
    assert!(as_json["approval"]["id"].is_string());

    let request = json!({"payload": {"env": "production"}, "intent": {"action": "deploy", "target": "x", "resource": "r"}});
    let answer = post(&running.socket, "/sign", &request).unwrap();
    assert_eq!(answer.status, 202);
    let waiting = answer.json()["approval"].clone();
    let id = waiting["id"].as_str().unwrap();
    assert_eq!(
        (&waiting["request"]["payload"], &waiting["approvers"]),
        (&request["payload"], &json!(["alice"]))
    );
    let approve = |more: &[&str]| {
        let mut command = Command::new(program("anchorhold"));
        command
            .args(["approve", id, "--endpoint"])
            .arg(format!("unix://{}", running.socket.display()))
            .args(more);
        let output = command.output().unwrap();
        (
            output.status.code().unwrap(),
            serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default(),
        )
    };
    // Looking approves nothing.
    assert_eq!(approve(&[]).1["approval"]["approved"], false);
    let key = ["--key", file.to_str().unwrap()];
    let digest = approve(&[]).1["approval"]["request_digest"]
        .as_str()
        .unwrap()
        .to_owned();
    // Without a terminal nobody can be asked, and another digest than that of what waits is of
    // something else.
    assert_eq!(approve(&key).0, 64);
    let last = if digest.ends_with('0') { "1" } else { "0" };
    for other in ["0".repeat(64), format!("{}{last}", &digest[..63])] {
        assert_eq!(approve(&[&key[..], &["--digest", &other]].concat()).0, 1);
    }
    assert_eq!(approve(&[&key[..], &["--digest", "x"]].concat()).0, 64);
    assert_eq!(approve(&["--digest", &digest]).0, 64);
    assert_eq!(approve(&[]).1["approval"]["approved"], false);
    let with_digest = [&key[..], &["--digest", &digest]].concat();
    let (code, shown) = approve(&with_digest);
    assert_eq!((code, &shown["approval"]["approved"]), (0, &json!(true)));
    assert_eq!(approve(&with_digest).0, 1);
    let mut again = request.clone();
    again["approval"] = json!(id);
    assert_eq!(post(&running.socket, "/sign", &again).unwrap().status, 200);
    assert_eq!(
        post(&running.socket, "/sign", &again).unwrap().code(),
        "approval_unknown"
    );
    assert_eq!(
        get(&running.socket, "/approvals/x").unwrap().code(),
        "approval_id"
    );
    assert_eq!(
        get(&running.socket, &format!("/approvals/{id}"))
            .unwrap()
            .code(),
        "approval_unknown"
    );
}

/// A sidecar that shows one request after the other, the last one for ever, and keeps what it is
/// sent.
struct Liar {
    socket: PathBuf,
    sent: Arc<Mutex<Vec<Value>>>,
    _folder: tempfile::TempDir,
}

impl Liar {
    fn shows(answers: Vec<Value>) -> Self {
        let folder = harness::private_folder();
        let socket = folder.path().join("liar.sock");
        let (listener, sent) = (
            UnixListener::bind(&socket).unwrap(),
            Arc::new(Mutex::new(Vec::new())),
        );
        let kept = Arc::clone(&sent);
        std::thread::spawn(move || {
            let mut answers = answers.into_iter();
            let mut last = answers.next().unwrap();
            for (served, stream) in listener.incoming().enumerate() {
                let mut stream = BufReader::new(stream.unwrap());
                let (mut head, mut length) = (String::new(), 0);
                while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap() > 0 {}
                for line in head.lines().filter_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length:")
                        .map(str::to_owned)
                }) {
                    length = line.trim().parse().unwrap();
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                if head.starts_with("POST") {
                    kept.lock()
                        .unwrap()
                        .push(serde_json::from_slice(&body).unwrap());
                } else if served > 0 {
                    last = answers.next().unwrap_or(last);
                }
                let body = last.to_string();
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.get_mut().write_all((head + &body).as_bytes());
            }
        });
        Self {
            socket,
            sent,
            _folder: folder,
        }
    }

    fn sent(&self) -> Vec<Value> {
        self.sent.lock().unwrap().clone()
    }
}

/// What waits, as a sidecar shows it.
fn waits(request: &Value) -> Value {
    let digest = sha256(&identity::json::canonical(request).unwrap());
    json!({"approval": {
        "id": Digest([7; 16]), "boot_id": Digest([8; 16]), "request_digest": digest, "request": request, "approvers": ["alice"],
        "approved": false, "expires_at": "2030-01-01T00:00:00Z",
    }})
}

#[test]
fn what_an_approver_signs_is_what_it_was_shown_whatever_the_sidecar_shows_later() {
    let folder = harness::private_folder();
    let file = folder.path().join("alice.key");
    let alice = KeyFile::create(&file).unwrap();
    let request = |amount: u64| json!({"format": "vouch-jwt", "identity": "agent", "payload": {"amount": amount}});
    let (shown, other) = (waits(&request(1)), waits(&request(1_000_000)));
    let id = Digest([7; 16]).to_string();
    let arguments = |liar: &Liar, more: &[&str]| {
        let mut arguments = vec![
            "approve".to_owned(),
            id.clone(),
            "--endpoint".into(),
            format!("unix://{}", liar.socket.display()),
        ];
        arguments.extend(more.iter().map(|&more| more.to_owned()));
        arguments
    };
    let key = ["--key", file.to_str().unwrap()];
    let signed_for = |liar: &Liar| {
        let sent = liar.sent();
        let jws = |sent: &Value| {
            Approval::verify(sent["approval"].as_str().unwrap(), alice.public_key())
                .unwrap()
                .request
        };
        sent.iter().map(jws).collect::<Vec<_>>()
    };
    let digest_of = |amount| sha256(&identity::json::canonical(&request(amount)).unwrap());

    // X is shown, then Y is served, then X again.
    let liar = Liar::shows(vec![shown.clone(), other.clone(), shown.clone()]);
    let run = |liar: &Liar, more: &[&str]| {
        Command::new(program("anchorhold"))
            .args(arguments(liar, more))
            .output()
            .unwrap()
    };
    let looked: Value = serde_json::from_slice(&run(&liar, &[]).stdout).unwrap();
    let digest = looked["approval"]["request_digest"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(digest, digest_of(1).to_string());
    let with_digest = [&key[..], &["--digest", &digest]].concat();
    let refused = run(&liar, &with_digest);
    assert_eq!(
        (refused.status.code(), signed_for(&liar)),
        (Some(1), vec![]),
        "{}",
        String::from_utf8_lossy(&refused.stderr)
    );
    assert_eq!(
        (run(&liar, &with_digest).status.code(), signed_for(&liar)),
        (Some(0), vec![digest_of(1)])
    );

    // A digest that is not that of the request: refused, on looking too.
    let mut lie = other.clone();
    lie["approval"]["request_digest"] = shown["approval"]["request_digest"].clone();
    let liar = Liar::shows(vec![lie]);
    for more in [&[][..], &with_digest] {
        assert_eq!(
            (run(&liar, more).status.code(), signed_for(&liar)),
            (Some(1), vec![]),
            "{more:?}"
        );
    }

    // On a terminal it is shown before anybody is asked, and only a yes signs.
    let on_terminal = |liar: &Liar, typed: &str| {
        let mut command = Command::new(program("anchorhold"));
        command.args(arguments(liar, &key));
        let typed = format!("{typed}\n");
        let screen = harness::on_terminal(&command, 100, &[("Type yes: ", &typed)]);
        (screen.code, screen.text)
    };
    let liar = Liar::shows(vec![other.clone(), shown.clone()]);
    let (code, screen) = on_terminal(&liar, "no");
    assert_eq!((code, signed_for(&liar)), (1, vec![]), "{screen}");
    let at = |text: &str| {
        screen
            .find(text)
            .unwrap_or_else(|| panic!("{text}: {screen}"))
    };
    assert!(at("1000000") < at("Type yes"), "{screen}");
    assert!(
        screen.contains(&digest_of(1_000_000).to_string()),
        "{screen}"
    );
    let (code, screen) = on_terminal(&liar, "yes");
    assert_eq!(
        (code, signed_for(&liar)),
        (0, vec![digest_of(1)]),
        "{screen}"
    );
    assert!(!screen.contains("1000000"), "{screen}");
}

#[test]
fn what_rego_wants_approved_waits_and_what_it_denies_is_recorded_as_its_decision() {
    let module = "package agent.authz\ndefault allow = false\nallow if {\ninput.agent.role == \"deployer\"\ninput.action == \"deploy\"\n\
                  input.resource.env == \"staging\"\n}\nrequire_approval if {\ninput.action == \"deploy\"\ninput.resource.env == \"production\"\n}\n";
    let rego = |approval: Value| json!({"module": module, "entrypoint": "data.agent.authz", "approval": approval});
    let with = |environment: &'static str, approval: Value| {
        setting_with(move |policy| {
            policy["rego"] = rego(approval);
            policy["identities"][0]["environment"] = environment.into();
            policy["identities"][0]["role"] = "deployer".into();
            policy["resources"] = json!([{"pattern": "r", "environment": environment}]);
            for other in &mut policy["identities"].as_array_mut().unwrap()[1..] {
                other["rules"][0]["resources"] = json!(["other"]);
            }
        })
    };
    let by_alice = || json!({"by": ["alice"], "seconds": 60});
    let mut production = with("production", by_alice());
    let waiting = production.wait(1000, 1);
    assert_eq!(waiting.by, ["alice"]);
    assert!(
        production
            .approve(&production.approval(&waiting), BOB)
            .is_err()
    );
    assert_eq!(
        production.approve(&production.approval(&waiting), ALICE),
        Ok(())
    );
    assert!(matches!(
        production.sign(1000, 1, Some(waiting.id)).0,
        Ok(Answer::Signed(_))
    ));

    let mut staging = with("staging", by_alice());
    let (answer, event) = staging.sign(1000, 1, None);
    assert!(
        matches!(answer, Ok(Answer::Signed(_))) && event.policy_id.starts_with("any@"),
        "{}",
        event.policy_id
    );

    let mut elsewhere = with("test", by_alice());
    let (answer, event) = elsewhere.sign(1000, 1, None);
    assert!(answer.unwrap_err().starts_with("policy_denied: "));
    assert_eq!(
        (event.policy_decision, event.refusal.as_deref()),
        (Verdict::Deny, Some("policy_denied"))
    );
    assert!(event.policy_id.starts_with("rego@"), "{}", event.policy_id);
}

#[test]
fn a_policy_whose_rego_is_none_is_refused_before_the_enclave_commits_to_it() {
    let nsm = MockNsm::new(
        Authority::new(harness::now().0.unsigned_abs(), &mut os_random),
        &[Digest([1; 48]), Digest([2; 48]), Digest([3; 48])],
        Box::new(|| harness::now().0.unsigned_abs() * 1000),
        Encoding::Definite,
    );
    let enclave = InProcess::boot(nsm.unwrap());
    let mut window = Window::connect(&enclave.socket, &TestKey::new(PROXY))
        .unwrap()
        .unwrap();
    let good: Value = serde_json::from_slice(&bundle("development").canonical()).unwrap();
    let with = |module: &str| {
        let mut policy = good.clone();
        policy["rego"] = json!({"module": module, "entrypoint": "data.a"});
        identity::json::canonical(&policy).unwrap()
    };
    let refused = window
        .ask(Request::Provision {
            bundle: with("package a\nallow if {"),
            before: None,
        })
        .unwrap()
        .unwrap_err();
    assert_eq!(refused.code, "policy_malformed");
    // Nothing was touched: a good one is taken.
    window
        .ask(Request::Provision {
            bundle: with("package a\nallow if true\n"),
            before: None,
        })
        .unwrap()
        .unwrap();
}
