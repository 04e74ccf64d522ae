//! The decision record: written before anybody learns of a decision, whole, in order, and checked
//! by a command.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use attestation::Evidence;
use data_encoding::BASE64URL_NOPAD;
use identity::caller::ObservedCaller;
use identity::cose::{self, Purpose};
use identity::request::Approval;
use identity::{Digest, PublicKey, Signer, cbor};
use parent_proxy::KeyFile;
use protocol::{Outcome, Request, RequestFrame, ResponseFrame};
use record::{Event, Head, Reader, Verdict};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use rustix::process::geteuid;
use serde_json::{Value, json};

use harness::window::{self, Window};
use harness::{Running, get, post, program, wait_for};

const NONCE: &str = "00112233445566778899aabbccddeeff";

fn sign(running: &Running, action: &str) -> (u16, Value) {
    let answer = post(
        &running.socket,
        "/sign",
        &json!({"payload": {"n": 1}, "intent": action}),
    )
    .unwrap();
    (answer.status, answer.json())
}

/// The record's files, oldest first.
fn files(running: &Running) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(running.state.record())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "jsonl")
        })
        .collect();
    files.sort();
    files
}

fn lines(running: &Running) -> Vec<Vec<u8>> {
    let text: Vec<u8> = files(running)
        .iter()
        .flat_map(|file| std::fs::read(file).unwrap())
        .collect();
    text.split_inclusive(|b| *b == b'\n')
        .map(|line| line.strip_suffix(b"\n").expect("a whole line").to_vec())
        .collect()
}

fn evidence(running: &Running) -> Vec<u8> {
    post(&running.socket, "/attestation", &json!({"nonce": NONCE}))
        .unwrap()
        .body
}

fn record_key(evidence: &[u8]) -> PublicKey {
    PublicKey::from_spki(Evidence::parse(evidence).unwrap().record()).unwrap()
}

fn read(lines: &[Vec<u8>], key: &PublicKey) -> Vec<Event> {
    let mut reader = Reader::new(vec![key.clone()]);
    lines
        .iter()
        .map(|line| reader.next(line).unwrap())
        .collect()
}

fn verify(files: &[PathBuf], key: &PublicKey) -> Output {
    let mut command = Command::new(program("anchorhold"));
    command
        .args(["audit", "verify", "--record-key", &key.to_multikey()])
        .args(files);
    command.output().unwrap()
}

#[test]
fn every_decision_stands_in_the_record_before_it_is_known() {
    let running = Running::prepared(
        |state| {
            let bundle = state
                .development_policy(&[("agent", "did:key", "EdDSA")])
                .unwrap();
            bundle.replace("actions = [\"*\"]", "actions = [\"transfer\", \"pay*\"]")
        },
        "",
        &[],
    );
    let key = record_key(&evidence(&running));
    let told = |what: &str| {
        let last = lines(&running).pop().unwrap();
        let event = read(&lines(&running), &key).pop().unwrap();
        assert_eq!(event.decision.event_type, what);
        (
            event.decision,
            serde_json::from_slice::<Value>(&last).unwrap(),
        )
    };
    let (attested, _) = told("key.attest");
    assert_eq!(attested.policy_decision, Verdict::Allow);

    let request = json!({
        "payload": {"amount": 1}, "intent": {"action": "transfer", "target": "bob", "resource": "mcp://bank"}, "audience": "https://bank.example"
    });
    let answer = post(&running.socket, "/sign", &request).unwrap();
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    let (event, line) = told("token.sign");
    let claims =
        identity::token::unverified_claims(answer["vouch_token"].as_str().unwrap()).unwrap();
    assert_eq!(event.policy_decision, Verdict::Allow);
    assert_eq!(
        (event.action.as_deref(), event.target.as_deref()),
        (Some("transfer"), Some("bob"))
    );
    assert_eq!(event.resource.as_deref(), Some("mcp://bank"));
    assert_eq!(event.token_id.as_deref(), answer["signature_id"].as_str());
    assert_eq!(
        (event.did.as_ref(), event.binding),
        (Some(&claims.iss), Some(claims.binding))
    );
    assert_eq!(event.caller.as_ref(), Some(&claims.caller));
    assert_eq!(
        (event.key_version, event.expires_at.unwrap().0),
        (Some(1), claims.exp)
    );
    assert_eq!(event.environment.as_deref(), Some("development"));
    let bundle = running.verifier().bundle.digest().digest();
    assert_eq!(
        (event.policy_digest, event.policy_id),
        (bundle, format!("anything@{}", &bundle.to_string()[..16]))
    );
    // The seed's members are all there, under its names.
    for member in [
        "event_type",
        "agent_id",
        "delegated_by",
        "delegation_chain",
        "resource",
        "action",
        "policy_decision",
        "policy_id",
        "timestamp",
        "signature",
    ] {
        assert!(line.get(member).is_some(), "{member}");
    }
    let agent = format!(
        "agent:agent:ed25519:{}",
        identity::sha256(&claims.iss.embedded_key().unwrap().to_spki())
    );
    assert_eq!(
        (
            line["agent_id"].as_str(),
            line["delegation_chain"][0].as_str()
        ),
        (Some(agent.as_str()), Some("agent:agent"))
    );
    // The digest of the request is that of its canonical form, which its caller can make too.
    let canonical = "{\"audience\":\"https://bank.example\",\"format\":\"vouch-jwt\",\"identity\":\"agent\",\"intent\":{\"action\":\
                     \"transfer\",\"resource\":\"mcp://bank\",\"target\":\"bob\"},\"payload\":{\"amount\":1}}";
    assert_eq!(
        event.request_digest,
        Some(identity::sha256(canonical.as_bytes()))
    );

    let (status, refused) = sign(&running, "steal");
    assert_eq!(
        (status, refused["code"].as_str()),
        (403, Some("intent_action_not_in_allowlist"))
    );
    let (event, _) = told("token.sign");
    assert_eq!(
        (event.policy_decision, event.refusal.as_deref()),
        (Verdict::Deny, Some("intent_action_not_in_allowlist"))
    );
    assert!(
        event.policy_id.starts_with("default@")
            && event.token_id.is_none()
            && event.action.as_deref() == Some("steal")
    );

    let unknown = post(
        &running.socket,
        "/sign",
        &json!({"payload": {}, "intent": "pay", "identity": "nobody"}),
    )
    .unwrap();
    assert_eq!(unknown.status, 404);
    let (event, line) = told("token.sign");
    assert_eq!(
        (event.refusal.as_deref(), line["agent_id"].as_str()),
        (Some("unknown_identity"), None)
    );

    assert_eq!(
        post(&running.socket, "/rotate", &json!({})).unwrap().status,
        200
    );
    let (event, _) = told("key.rotate");
    assert!(event.policy_id.starts_with("rotation_callers@") && event.key_version == Some(1));
    assert_eq!(sign(&running, "pay").0, 200);
    assert_eq!(told("token.sign").0.key_version, Some(2));

    let all = read(&lines(&running), &key);
    assert_eq!(
        (all[0].sequence, all[0].decision.event_type.as_str()),
        (0, "enclave.boot")
    );
    // Looking does not count as deciding.
    assert_eq!(get(&running.socket, "/identity").unwrap().status, 200);
    assert_eq!(lines(&running).len(), all.len());
    let verified = verify(&files(&running), &key);
    assert!(
        verified.status.success(),
        "{}",
        String::from_utf8_lossy(&verified.stderr)
    );
}

/// What the record key signed for the batch of this line.
fn head(line: &[u8], key: &PublicKey) -> Head {
    let line: Value = serde_json::from_slice(line).unwrap();
    let proof = BASE64URL_NOPAD
        .decode(line["signature"].as_str().unwrap().as_bytes())
        .unwrap();
    let mut proof = cbor::Reader::new(&proof);
    assert_eq!(proof.array().unwrap(), 2);
    for _ in 0..proof.array().unwrap() {
        proof.bytes().unwrap();
    }
    cbor::from_slice(cose::verify(Purpose::RECORD, proof.bytes().unwrap(), key).unwrap()).unwrap()
}

/// Sends so many requests at once, as one write over a connection of its own; gives their events.
fn sign_at_once(running: &Running, count: u64) -> Vec<Vec<u8>> {
    let stream = UnixStream::connect(running.state.enclave_socket()).unwrap();
    let mut window =
        Window::connect_on(stream, &KeyFile::read(&running.state.proxy_key()).unwrap())
            .unwrap()
            .unwrap();
    let request = |id| {
        let Request::Sign(mut sign) = window::sign("agent") else {
            panic!("not a signature")
        };
        sign.requester.caller = ObservedCaller::ids(geteuid().as_raw(), 0);
        window::frame(&RequestFrame {
            id,
            request: Request::Sign(sign),
        })
    };
    let frames: Vec<u8> = (0..count).flat_map(request).collect();
    // So few bytes are one buffer of the socket, and the enclave reads them all at once.
    assert!(frames.len() < 8192, "{}", frames.len());
    window.send(&frames).unwrap();
    let answer = |id| {
        let response: ResponseFrame = cbor::from_slice(&window.read().unwrap()).unwrap();
        assert!(
            response.id == id && matches!(response.outcome, Outcome::Done(_)),
            "{response:?}"
        );
        response.event.unwrap()
    };
    (0..count).map(answer).collect()
}

#[test]
fn under_load_events_share_signatures_and_each_stands_once_and_in_order() {
    let running = Running::start();
    let key = record_key(&evidence(&running));
    let at_once = std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..50).for_each(|_| assert_eq!(sign(&running, "a").0, 200)));
        }
        scope.spawn(|| sign_at_once(&running, 40)).join().unwrap()
    });
    // What the enclave finds done together it signs together: at most sixteen events, and what is
    // left at the end.
    let heads: Vec<Head> = at_once.iter().map(|line| head(line, &key)).collect();
    for (batch, size) in [(0..16, 16), (16..32, 16), (32..40, 8)] {
        let first = &heads[batch.start];
        assert_eq!(first.size, size);
        assert!(
            heads[batch.clone()].iter().all(|head| head == first),
            "{batch:?}"
        );
    }
    // The sidecar asks for events whose answers went elsewhere when it gets one that comes after
    // them.
    assert_eq!(sign(&running, "a").0, 200);
    let lines = lines(&running);
    let events = read(&lines, &key);
    assert_eq!(events.len(), 2 + 400 + 40 + 1);
    assert!(at_once.iter().all(|line| lines.contains(line)));
    let mut ids: Vec<_> = events
        .iter()
        .filter_map(|event| event.decision.token_id.clone())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 441);
}

#[test]
fn a_record_goes_on_where_a_sidecar_ended_even_within_a_line() {
    let mut running = Running::start();
    let key = record_key(&evidence(&running));
    assert_eq!(sign(&running, "one").0, 200);
    running.kill_sidecar();
    // As if the last write had been cut short by a crash.
    let file = files(&running).pop().unwrap();
    let text = std::fs::read(&file).unwrap();
    std::fs::write(&file, &text[..text.len() - 100]).unwrap();
    running.start_sidecar();
    assert_eq!(sign(&running, "two").0, 200);
    let events = read(&lines(&running), &key);
    let actions: Vec<_> = events
        .iter()
        .filter_map(|event| event.decision.action.as_deref())
        .collect();
    assert_eq!(actions, ["one", "two"], "what was cut off is fetched again");
    // Another boot goes on in the same file, with a key of its own.
    running.reboot_enclave();
    wait_for(|| sign(&running, "three").0 == 200);
    let again = record_key(&evidence(&running));
    let mut reader = Reader::new(vec![again, key]);
    let read: Vec<Event> = lines(&running)
        .iter()
        .map(|line| reader.next(line).unwrap())
        .collect();
    assert!(
        read.iter()
            .any(|event| event.decision.action.as_deref() == Some("three"))
    );
    assert_eq!(reader.boots().len(), 2);
}

#[test]
fn files_follow_each_other_and_a_second_sidecar_keeps_out() {
    let running = Running::prepared(
        |state| {
            state
                .development_policy(&[("agent", "did:key", "EdDSA")])
                .unwrap()
        },
        "record_rotate_bytes = 4096\nrecord_sync_ms = 0\n",
        &[],
    );
    let key = record_key(&evidence(&running));
    for _ in 0..20 {
        assert_eq!(sign(&running, "a").0, 200);
    }
    let written = files(&running);
    assert!(written.len() > 4, "{}", written.len());
    let verified = verify(&written, &key);
    assert!(
        verified.status.success(),
        "{}",
        String::from_utf8_lossy(&verified.stderr)
    );
    // One file alone is good in itself, and says where it begins; one left out, or two in another
    // order, is found.
    assert!(verify(&written[2..3], &key).status.success());
    assert_eq!(
        verify(&[written[0].clone(), written[2].clone()], &key)
            .status
            .code(),
        Some(1)
    );
    assert_eq!(
        verify(&[written[1].clone(), written[0].clone()], &key)
            .status
            .code(),
        Some(1)
    );
    for file in &written {
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(file).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }
    let config = running.folder().join("second.toml");
    let text = std::fs::read_to_string(running.state.folder().join("sidecar.toml")).unwrap();
    std::fs::write(&config, text.replace("sidecar.sock", "second.sock")).unwrap();
    let second = Command::new(program("anchorhold"))
        .args(["serve", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another sidecar writes there"));
}

#[test]
fn boots_that_are_missing_moved_or_cut_are_found_by_the_command() {
    let mut running = Running::start();
    let mut keys = vec![record_key(&evidence(&running))];
    for _ in 0..2 {
        assert_eq!(sign(&running, "a").0, 200);
        let before = lines(&running).len();
        running.reboot_enclave();
        wait_for(|| sign(&running, "a").0 == 200);
        assert!(lines(&running).len() > before);
        keys.push(record_key(&evidence(&running)));
    }
    let all = lines(&running);
    let boot_of = |line: &Vec<u8>| {
        serde_json::from_slice::<Value>(line).unwrap()["boot_id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let boots: Vec<Vec<Vec<u8>>> = all
        .chunk_by(|a, b| boot_of(a) == boot_of(b))
        .map(<[_]>::to_vec)
        .collect();
    assert_eq!(boots.len(), 3);
    let file = running.folder().join("boots.jsonl");
    let verdict = |keys: &[&PublicKey], parts: &[&[Vec<u8>]]| {
        let text: Vec<u8> = parts
            .concat()
            .iter()
            .flat_map(|line| [&line[..], b"\n"].concat())
            .collect();
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program("anchorhold"));
        command.args(["audit", "verify", "--json"]);
        command.args(
            keys.iter()
                .flat_map(|key| ["--record-key".to_owned(), key.to_multikey()]),
        );
        let output = command.arg(&file).output().unwrap();
        let facts: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), facts)
    };
    let [one, two, three] = [0, 1, 2].map(|boot: usize| &boots[boot][..]);
    let [a, b, c] = [0, 1, 2].map(|boot: usize| &keys[boot]);
    let (code, facts) = verdict(&[a, b, c], &[one, two, three]);
    assert_eq!(
        (code, facts["boots"].as_array().unwrap().len()),
        (0, 3),
        "{facts}"
    );
    assert_eq!(
        facts["boots"][1]["before"]["boot_id"],
        facts["boots"][0]["boot_id"]
    );
    let refused = |keys: &[&PublicKey], parts: &[&[Vec<u8>]], says: &str| {
        let (code, facts) = verdict(keys, parts);
        assert!(
            code == 1 && facts["error"].as_str().unwrap().contains(says),
            "{facts}"
        );
    };
    // Gone, and a caller that asks need not know of it; moved; cut at an end or a beginning.
    refused(&[a, c], &[one, three], "something else came before it");
    refused(&[a, b, c], &[one, three], "something else came before it");
    refused(
        &[a, b, c],
        &[two, one, three],
        "something else came before it",
    );
    refused(
        &[a, b, c],
        &[one, &two[..two.len() - 1], three],
        "something else came before it",
    );
    refused(&[a, b, c], &[one, &two[1..], three], "event 0 is missing");
    // The key of a boot without any event.
    refused(&[a, b, c], &[two, three], "signed no event here");
    refused(&[a, b], &[one], "signed no event here");
    // A boot whose key is lost hides nothing of the others, which stand where they stood.
    let partial =
        |keys: &[&PublicKey], parts: &[&[Vec<u8>]], judged: &[&[Vec<u8>]], not: &[&[Vec<u8>]]| {
            let (code, facts) = verdict(keys, parts);
            let named = |list: &str| -> Vec<String> {
                let boots = facts[list].as_array().unwrap().iter();
                boots
                    .map(|boot| boot["boot_id"].as_str().unwrap().to_owned())
                    .collect()
            };
            let of = |parts: &[&[Vec<u8>]]| -> Vec<String> {
                parts.iter().map(|part| boot_of(&part[0])).collect()
            };
            assert_eq!(
                (code, facts["verdict"].as_str()),
                (3, Some("partial")),
                "{facts}"
            );
            assert_eq!((named("boots"), named("not_judged")), (of(judged), of(not)));
            let events: usize = judged.iter().map(|part| part.len()).sum();
            assert_eq!(facts["events"], events);
        };
    partial(&[a, c], &[one, two, three], &[one, three], &[two]);
    partial(&[b], &[one, two, three], &[two], &[one, three]);
    partial(&[c], &[one, two, three], &[three], &[one, two]);
    partial(&[a], &[one, two, three], &[one], &[two, three]);
    refused(
        &[a, c],
        &[one, &two[..two.len() - 1], three],
        "something else came before it",
    );
    refused(&[a, c], &[one, &two[1..], three], "event 0 is missing");
    refused(&[a, b], &[one, two, &three[1..]], "event 0 is missing");
    refused(
        &[a, c],
        &[one, &two[..1], &two[2..], three],
        "out of its order",
    );
    refused(
        &[a, c],
        &[one, two, three, &two[..1]],
        "a boot that had ended",
    );
    refused(
        &[a, c],
        &[one, two, &one[..1], three],
        "a boot that had ended",
    );
    // Forged where a boot begins, or within one, it is no lost key.
    let forged = |line: &[u8]| {
        let text = String::from_utf8(line.to_vec()).unwrap();
        vec![text.replacen("\"allow\"", "\"deny\"", 1).into_bytes()]
    };
    refused(
        &[a, b, c],
        &[one, &forged(&two[0]), &two[1..], three],
        "signed no event here",
    );
    refused(
        &[a, b, c],
        &[one, &two[..1], &forged(&two[1]), &two[2..], three],
        "signature",
    );
    // What cannot be known is said.
    let (code, facts) = verdict(&[b, c], &[two, three]);
    let unchecked = facts["unchecked"].to_string();
    assert!(
        code == 0 && unchecked.contains(&format!("of boot {}", boot_of(&one[0]))),
        "{unchecked}"
    );
    let (code, facts) = verdict(&[b], &[&two[2..]]);
    assert!(
        code == 0
            && facts["unchecked"][0]
                .as_str()
                .unwrap()
                .starts_with("events 0 to 1 of boot "),
        "{facts}"
    );
}

#[test]
fn a_stranger_does_not_fill_the_record() {
    let folder = harness::private_folder();
    let alice = KeyFile::create(&folder.path().join("alice.key")).unwrap();
    let with_approvers = |approvers: &str| {
        let approvers = approvers.to_owned();
        Running::prepared(
            move |state| {
                let base = state
                    .development_policy(&[("agent", "did:key", "EdDSA")])
                    .unwrap();
                base.replacen("[[identities]]", &format!("{approvers}\n[[identities]]"), 1)
            },
            "[limits]\nrequests_per_second = 0\n",
            &[],
        )
    };
    let size = |running: &Running| lines(running).iter().map(Vec::len).sum::<usize>();
    let id = "00".repeat(16);
    let approval = |by: &KeyFile| {
        let approval = Approval {
            approval: identity::ApprovalId::new([0; 16]),
            boot_id: identity::BootId::new([0; 16]),
            exp: harness::now().0 + 60,
            request: Digest([0; 32]),
        };
        approval.sign(by).unwrap()
    };
    let mallory = KeyFile::create(&folder.path().join("mallory.key")).unwrap();
    let approve = |running: &Running, jws: &str| {
        let answer = post(
            &running.socket,
            &format!("/approvals/{id}"),
            &json!({ "approval": jws }),
        )
        .unwrap();
        (
            answer.status,
            answer.code(),
            answer.json()["detail"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    };
    let named = format!(
        "[[approvers]]\nname = \"alice\"\nkey = \"{}\"\n",
        alice.public_key().to_multikey()
    );
    let (none, running) = (with_approvers(""), with_approvers(&named));
    let before = (size(&none), size(&running));
    for _ in 0..50 {
        // Of nobody: the sidecar does not even ask the enclave.
        for (running, jws) in [
            (&none, approval(&alice)),
            (&none, "x".into()),
            (&running, approval(&mallory)),
            (&running, "a.b.c".into()),
        ] {
            let (status, code, detail) = approve(running, &jws);
            assert_eq!((status, code.as_str()), (403, "approval_invalid"));
            assert!(
                detail.contains("the policy names no approver with the key of this approval"),
                "{detail}"
            );
        }
        // Of an approver, for what is not there: as one that was used before, which anybody may
        // have seen.
        assert_eq!(approve(&running, &approval(&alice)).1, "approval_unknown");
        // And proofs of nobody, at both places.
        let body = json!({"payload": {}, "intent": "a", "proof": {"jws": approval(&mallory)}});
        let refused = post(&none.socket, "/sign", &body).unwrap();
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (403, "proof_invalid")
        );
        assert!(
            refused.json()["detail"]
                .as_str()
                .unwrap()
                .contains("the key, or the enclave, of this proof")
        );
    }
    assert_eq!((size(&none), size(&running)), before);
    // Nor an approver's name on a bad signature: anybody knows it.
    let good = approval(&alice);
    let forged = format!(
        "{}.{}",
        good.rsplit_once('.').unwrap().0,
        approval(&mallory).rsplit_once('.').unwrap().1
    );
    assert_eq!(approve(&running, &forged).1, "approval_invalid");
    assert_eq!(size(&running), before.1);
    assert_eq!(sign(&running, "a").0, 200);
}

/// A small disk of its own.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        mount(
            "tmpfs",
            at,
            "tmpfs",
            MountFlags::empty(),
            c"size=128k,mode=0700",
        )
        .unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn without_a_record_there_is_no_signature() {
    if !geteuid().is_root() {
        return harness::skipped("mounting needs root");
    }
    let folder = harness::private_folder();
    let disk = Disk::mount(&folder.path().join("disk"));
    let record = disk.0.join("record");
    std::fs::create_dir(&record).unwrap();
    std::fs::set_permissions(&record, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let running = Running::prepared(
        |state| {
            std::os::unix::fs::symlink(&record, state.record()).unwrap();
            state
                .development_policy(&[("agent", "did:key", "EdDSA")])
                .unwrap()
        },
        "",
        &[],
    );
    let key = record_key(&evidence(&running));
    let written = || -> Vec<Vec<u8>> {
        let text = std::fs::read(record.join("record-000001.jsonl")).unwrap();
        assert!(text.is_empty() || text.ends_with(b"\n"), "a line is cut");
        text.split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(<[u8]>::to_vec)
            .collect()
    };
    // Full.
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![0; 64 * 1024]).unwrap();
    let mut signed = 0;
    let refused = loop {
        match sign(&running, "a") {
            (200, _) => signed += 1,
            other => break other,
        }
        assert!(signed < 1000);
    };
    assert_eq!(
        (refused.0, refused.1["code"].as_str()),
        (503, Some("record_failed"))
    );
    assert_eq!(
        written()
            .iter()
            .filter(|line| line.windows(10).any(|w| w == b"token.sign"))
            .count(),
        signed
    );
    // Now it is refused before the enclave is asked, and for everything that would be decided.
    assert_eq!(sign(&running, "a").1["code"], "record_failed");
    assert_eq!(
        post(&running.socket, "/rotate", &json!({})).unwrap().status,
        503
    );
    assert_eq!(get(&running.socket, "/identity").unwrap().status, 200);
    assert_eq!(get(&running.socket, "/ready").unwrap().status, 503);
    assert!(
        String::from_utf8(get(&running.socket, "/metrics").unwrap().body)
            .unwrap()
            .contains("anchorhold_record_failing 1")
    );
    std::fs::remove_file(&ballast).unwrap();
    wait_for(|| sign(&running, "b").0 == 200);
    read(&written(), &key);
    // Read-only.
    let read_only = mount_remount(&disk.0, MountFlags::RDONLY, "");
    if read_only.is_ok() {
        assert_eq!(sign(&running, "c").1["code"], "record_failed");
        mount_remount(&disk.0, MountFlags::empty(), "").unwrap();
        wait_for(|| sign(&running, "d").0 == 200);
    } else {
        // A file that is open for writing keeps the disk from becoming read-only: then no such
        // thing can happen.
        assert_eq!(read_only, Err(rustix::io::Errno::BUSY));
    }
    let events = read(&written(), &key);
    let of = |action: &str| {
        events
            .iter()
            .filter(|event| event.decision.action.as_deref() == Some(action))
            .count()
    };
    // What was decided and not handed out stands there as well: nothing is missing.
    assert!(of("a") > signed && of("b") >= 1);
    assert!(
        verify(&[record.join("record-000001.jsonl")], &key)
            .status
            .success()
    );
}

#[test]
fn what_is_changed_in_a_record_is_found_by_the_command() {
    let running = Running::start();
    let evidence = evidence(&running);
    let key = record_key(&evidence);
    for action in ["a", "b", "c"] {
        assert_eq!(sign(&running, action).0, 200);
    }
    let good = lines(&running);
    let file = running.folder().join("changed.jsonl");
    let verdict = |lines: &[Vec<u8>]| {
        let text: Vec<u8> = lines
            .iter()
            .flat_map(|line| [&line[..], b"\n"].concat())
            .collect();
        std::fs::write(&file, text).unwrap();
        let output = verify(std::slice::from_ref(&file), &key);
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    assert_eq!(verdict(&good).0, 0);
    let (code, says) = verdict(&[]);
    assert!(
        code == 1 && says.contains("there is no event in it"),
        "{says}"
    );
    for (at, line) in good.iter().enumerate() {
        let event: Value = serde_json::from_slice(line).unwrap();
        for (name, value) in event.as_object().unwrap() {
            let mut changed = event.clone();
            changed[name] = match value {
                Value::String(text) => json!(format!("{text}0")),
                Value::Number(number) => json!(number.as_u64().unwrap() + 1),
                Value::Null => json!("x"),
                Value::Array(items) => json!([items.as_slice(), &[json!("x")]].concat()),
                Value::Object(map) => json!({"was": map.len()}),
                Value::Bool(bit) => json!(!bit),
            };
            let mut lines = good.clone();
            lines[at] = identity::json::canonical(&changed).unwrap();
            let (code, says) = verdict(&lines);
            assert_eq!(code, 1, "{name} of event {at}: {says}");
            assert!(says.contains(&format!("line {}", at + 1)), "{says}");
        }
    }
    let mut less = good.clone();
    less.remove(2);
    assert!(verdict(&less).1.contains("event 2 is missing"));
    let mut swapped = good.clone();
    swapped.swap(1, 2);
    assert_eq!(verdict(&swapped).0, 1);
    std::fs::write(&file, [&good[0][..], b"\n", &good[1][..50]].concat()).unwrap();
    assert_eq!(
        verify(std::slice::from_ref(&file), &key).status.code(),
        Some(1)
    );

    // The key can be taken from evidence, which then says that nobody judged it.
    let given = running.folder().join("evidence");
    std::fs::write(&given, &evidence).unwrap();
    let output = Command::new(program("anchorhold"))
        .args(["audit", "verify", "--json", "--evidence"])
        .arg(&given)
        .args(files(&running))
        .output()
        .unwrap();
    let facts: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (
            facts["verdict"].as_str(),
            facts["unchecked"].as_array().unwrap().len()
        ),
        (Some("good"), 3)
    );
    for wrong in [
        vec!["--record-key", "z6Mk"],
        vec!["--evidence", "/dev/null"],
        vec!["--evidence", running.folder().to_str().unwrap()],
        vec![],
    ] {
        let output = Command::new(program("anchorhold"))
            .args(["audit", "verify"])
            .args(wrong)
            .arg(&given)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64));
    }
}
