//! Keys that outlive the enclave's boot: a mock of AWS keeps them, TLS to it ends in the egress
//! process, and what is not certified opens nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use attestation::{AppraisalPolicy, Subject, Verifier};
use data_encoding::BASE64URL_NOPAD;
use harness::{Lasting, copy_program, get, post, program, wait_for};
use identity::request::CallerProof;
use identity::{Signer, UnixSeconds};
use parent_proxy::KeyFile;
use qemu_dev::aws::{Certificate, Fault};
use serde_json::{Value, json};
use state::{GenesisRecord, Sealed};

const NONCE: [u8; 32] = [5; 32];

fn verifier(lasting: &Lasting) -> Verifier {
    let (root, measurements, bundle) = lasting.state.verifier_files().unwrap();
    let mut verifier = Verifier::at(harness::now());
    verifier.allow_mock = Some(root);
    verifier.expectations.nonce = Some(NONCE.to_vec());
    verifier.expectations.measurements = vec![measurements];
    verifier.expectations.policies = vec![bundle.digest()];
    verifier
}

fn judge(verifier: &Verifier, token: &str, evidence: &[u8]) -> Result<(), &'static str> {
    let judged = verifier.judge(Subject::Token { token, evidence });
    judged.map(|_| ()).map_err(|refusal| refusal.code())
}

/// What must be the same after a restart.
fn who(identity: &Value) -> [Value; 4] {
    ["did", "kid", "key_version", "state"].map(|name| identity[name].clone())
}

#[test]
fn after_a_restart_tokens_are_by_the_same_key_and_what_was_before_verifies_as_before() {
    for (did, algorithm) in [("did:key", "EdDSA"), ("did:web:agent.example.com", "ES256")] {
        let mut lasting = Lasting::unborn(&[("agent", did, algorithm)]);
        assert_eq!(lasting.refusal(), "state_awaited");
        lasting.birth();
        lasting.wait_until_ready();
        let before = lasting.identity();
        let (old_token, old_evidence) = (lasting.sign(), lasting.evidence(&NONCE));
        assert_eq!(
            (&before["custody"], &before["rollback"], &before["epoch"]),
            (&json!("kms"), &json!("accepted"), &json!(1))
        );
        lasting.reboot();
        lasting.wait_until_ready();
        let after = lasting.identity();
        assert_eq!(who(&before), who(&after));
        assert_ne!(before["boot_id"], after["boot_id"]);
        let (new_token, new_evidence) = (lasting.sign(), lasting.evidence(&NONCE));
        let mut verifier = verifier(&lasting);
        let document = get(&lasting.socket, "/.well-known/did.json").unwrap().body;
        verifier.expectations.did_document =
            (did != "did:key").then(|| identity::did::Document::parse(&document).unwrap());
        // The key is the same; each token names the boot in whose record it must stand.
        for (token, evidence, judged) in [
            (&old_token, &old_evidence, Ok(())),
            (&new_token, &new_evidence, Ok(())),
            (&old_token, &new_evidence, Err("token_binding_mismatch")),
            (&new_token, &old_evidence, Err("token_binding_mismatch")),
        ] {
            assert_eq!(judge(&verifier, token, evidence), judged, "{did}");
        }
    }
}

#[test]
fn each_boot_of_a_state_has_a_record_of_its_own_and_one_that_is_withheld_is_missed() {
    let mut lasting = Lasting::start();
    for _ in 0..2 {
        lasting.sign();
        lasting.evidence(&NONCE);
        lasting.reboot();
        lasting.wait_until_ready();
    }
    lasting.sign();
    lasting.evidence(&NONCE);
    let audited = |lines: &[u8]| {
        let file = lasting.folder().join("shown");
        fs::write(&file, lines).unwrap();
        let output = Command::new(program("anchorhold"))
            .args(["audit", "verify"])
            .arg(&file)
            .arg("--evidence")
            .arg(lasting.state.record())
            .output()
            .unwrap();
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let mut files: Vec<_> = fs::read_dir(lasting.state.record())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|file| file.extension().is_some_and(|kind| kind == "jsonl"))
        .collect();
    files.sort();
    let lines: Vec<u8> = files
        .iter()
        .flat_map(|file| fs::read(file).unwrap())
        .collect();
    let (good, said) = audited(&lines);
    assert!(good, "{said}");
    assert_eq!(
        said.lines()
            .filter(|line| line.starts_with("boot "))
            .count(),
        3
    );
    // The boot in the middle, gone as a whole.
    let lines = String::from_utf8(lines).unwrap();
    let boots: Vec<String> = lines
        .lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            event["boot_id"].as_str().unwrap().to_owned()
        })
        .collect();
    let mut each = boots.clone();
    each.dedup();
    assert_eq!(each.len(), 3);
    let without: String = lines
        .lines()
        .zip(&boots)
        .filter(|(_, boot)| **boot != each[1])
        .map(|(line, _)| format!("{line}\n"))
        .collect();
    let (good, said) = audited(without.as_bytes());
    assert!(!good, "{said}");
}

#[test]
fn a_verifier_can_require_custody_state_and_epoch_and_refuses_what_it_cannot_see() {
    let lasting = Lasting::start();
    let id = lasting.identity()["state"].as_str().unwrap().to_owned();
    let (token, evidence) = (lasting.sign(), lasting.evidence(&NONCE));
    let running = harness::Running::start();
    let ephemeral = post(
        &running.socket,
        "/attestation",
        &json!({"nonce": data_encoding::HEXLOWER.encode(&NONCE)}),
    );
    let ephemeral = ephemeral.unwrap().body;
    let other = "11".repeat(32);
    let asked = |wanted: &str, evidence: &[u8], mut verifier: Verifier| {
        let policy = format!("version = 1\n{wanted}\n");
        verifier.expectations.appraisal =
            Some(AppraisalPolicy::from_toml(policy.as_bytes()).unwrap());
        let judged = verifier.judge(Subject::Evidence(evidence));
        judged
            .map(|_| "accepted")
            .unwrap_or_else(|refusal| refusal.code())
    };
    for (wanted, kept, lost) in [
        ("custody = 'kms'", "accepted", "custody_too_low"),
        ("custody = 'ephemeral'", "accepted", "accepted"),
        (&format!("state = '{id}'"), "accepted", "state_absent"),
        (
            &format!("state = '{other}'"),
            "state_mismatch",
            "state_absent",
        ),
        ("lowest_epoch = 1", "accepted", "epoch_absent"),
        ("lowest_epoch = 2", "epoch_too_low", "epoch_absent"),
    ] {
        assert_eq!(
            asked(wanted, &evidence, verifier(&lasting)),
            kept,
            "{wanted}"
        );
        let of_ephemeral = running.verifier().expecting(&NONCE);
        assert_eq!(asked(wanted, &ephemeral, of_ephemeral), lost, "{wanted}");
    }
    // The command line, and what the verdict says.
    let file = |name: &str, bytes: &[u8]| {
        let path = lasting.folder().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let (token, evidence) = (file("t", token.as_bytes()), file("e", &evidence));
    let state = |state: &str| {
        let mut command = Command::new(program("anchorhold-verify"));
        command
            .arg("token")
            .arg(&token)
            .arg("--evidence")
            .arg(&evidence);
        command.args(["--nonce", &data_encoding::HEXLOWER.encode(&NONCE), "--json"]);
        command
            .arg("--measurements")
            .arg(lasting.state.measurements());
        command.arg("--bundle").arg(lasting.state.policy());
        command
            .arg("--root")
            .arg(lasting.state.root())
            .args(["--allow-mock", "--state", state]);
        let output = command.output().unwrap();
        (
            output.status.code(),
            serde_json::from_slice::<Value>(&output.stdout).unwrap(),
        )
    };
    let (code, verdict) = state(&id);
    assert_eq!(code, Some(0), "{verdict}");
    let key = &verdict["key"];
    assert_eq!(
        [
            &key["custody"],
            &key["state"],
            &key["epoch"],
            &key["rollback"]
        ],
        [&json!("kms"), &json!(id), &json!(1), &json!("accepted")]
    );
    // For people, too.
    let mut command = Command::new(program("anchorhold-verify"));
    command
        .arg("token")
        .arg(&token)
        .arg("--evidence")
        .arg(&evidence);
    command.args(["--nonce", &data_encoding::HEXLOWER.encode(&NONCE)]);
    command
        .arg("--measurements")
        .arg(lasting.state.measurements());
    command.arg("--bundle").arg(lasting.state.policy());
    command.arg("--root").arg(lasting.state.root());
    let output = command
        .args(["--allow-mock", "--state", &id])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = format!("kms, state {id}, epoch 1, rollback accepted");
    assert!(words.join(" ").contains(&line), "{text}");
    let (code, verdict) = state(&other);
    assert_eq!(
        (code, &verdict["error"]["code"]),
        (Some(1), &json!("state_mismatch"))
    );
}

#[test]
fn a_rotation_is_stored_before_its_statement_leaves_and_outlives_the_boot() {
    let mut lasting = Lasting::start();
    let first = lasting.identity();
    let rotated = post(&lasting.socket, "/rotate", &json!({})).unwrap();
    assert_eq!(rotated.status, 200, "{}", rotated.code());
    let rotated = rotated.json();
    lasting.reboot();
    lasting.wait_until_ready();
    let after = lasting.identity();
    assert_eq!(who(&after), who(&rotated["identity"]));
    let statement = &after["versions"][1]["successor_statement"];
    assert_eq!(*statement, rotated["successor_statement"]);
    assert_eq!(after["versions"][0]["did"], first["did"]);
    // A disk that takes nothing: the statement does not leave, the old key goes on.
    let in_the_way = lasting.part(".new");
    fs::create_dir(&in_the_way).unwrap();
    let refused = post(&lasting.socket, "/rotate", &json!({})).unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "state_not_stored")
    );
    assert_eq!(who(&lasting.identity()), who(&after));
    assert!(!lasting.sign().is_empty());
    // So it does for another sidecar, whose disk takes nothing either.
    lasting.restart_sidecar();
    lasting.wait_until_ready();
    assert_eq!(lasting.status()["pending"], true);
    assert_eq!(who(&lasting.identity()), who(&after));
    assert!(!lasting.sign().is_empty());
    // Evidence of the old key still, and a restart forgets what was never stored.
    lasting.reboot();
    lasting.wait_until_ready();
    assert_eq!(who(&lasting.identity()), who(&after));
    let refused = post(&lasting.socket, "/rotate", &json!({})).unwrap();
    assert_eq!(refused.code(), "state_not_stored");
    // It is tried more than once.
    std::thread::sleep(Duration::from_millis(2500));
    fs::remove_dir(&in_the_way).unwrap();
    // It heals by itself, and what was ordered is done.
    wait_for(|| lasting.identity()["key_version"] == 3);
    assert_eq!(lasting.status()["pending"], false);
    lasting.reboot();
    lasting.wait_until_ready();
    assert_eq!(lasting.identity()["key_version"], 3);
}

#[test]
fn an_image_or_bundle_that_is_not_certified_opens_nothing_and_kms_is_not_asked() {
    let mut lasting = Lasting::start();
    let before = lasting.identity();
    let (old_token, old_evidence) = (lasting.sign(), lasting.evidence(&NONCE));
    let old_verifier = verifier(&lasting);
    // Another image: the same program with a byte more.
    let image = lasting.folder().join("anchorhold-dev");
    copy_program(&program("anchorhold-dev"), &image);
    fs::OpenOptions::new()
        .append(true)
        .open(&image)
        .unwrap()
        .write_all(b"x")
        .unwrap();
    let asked = lasting.aws.calls("Decrypt");
    lasting.set_image(&image);
    lasting.reboot();
    lasting.wait_for_refusal("pair_not_certified");
    assert_eq!(lasting.refusal(), "state_awaited");
    assert_eq!(lasting.aws.calls("Decrypt"), asked);
    // The operator certifies it; the key policy lets it in. Both without a restart.
    assert!(lasting.certify());
    qemu_dev::DurableState::prepare(&lasting.state).unwrap();
    lasting.sidecar.signal(rustix::process::Signal::HUP);
    lasting.wait_until_ready();
    let after = lasting.identity();
    assert_eq!(who(&before), who(&after));
    assert_eq!(after["epoch"], 2);
    assert_ne!(before["binding"], after["binding"]);
    let (token, evidence) = (lasting.sign(), lasting.evidence(&NONCE));
    assert_eq!(judge(&verifier(&lasting), &token, &evidence), Ok(()));
    assert_eq!(judge(&old_verifier, &old_token, &old_evidence), Ok(()));
    assert_eq!(
        judge(&verifier(&lasting), &old_token, &evidence),
        Err("token_binding_mismatch")
    );
    // The same epoch once more, and the certificate is no news.
    lasting.reboot();
    lasting.wait_until_ready();
    assert_eq!(lasting.identity()["epoch"], 2);
    assert_eq!(lasting.status()["certificate"], 2);
    // The image of before is listed no more.
    let listed = fs::read(lasting.durable.certificate()).unwrap();
    lasting.set_image(&program("anchorhold-dev"));
    lasting.reboot();
    lasting.wait_for_refusal("pair_not_certified");
    // And a named certificate that is gone leaves the one that was taken last.
    fs::remove_file(lasting.durable.certificate()).unwrap();
    lasting.restart();
    lasting.wait_for_refusal("pair_not_certified");
    lasting.set_image(&image);
    lasting.restart();
    lasting.wait_until_ready();
    assert_eq!(fs::read(lasting.part("authority.cose")).unwrap(), listed);
}

#[test]
fn a_bundle_that_is_not_certified_opens_nothing_and_names_keep_what_they_are() {
    let mut lasting = Lasting::start();
    let before = lasting.identity();
    let text = fs::read_to_string(lasting.state.policy()).unwrap();
    let second = text.replace("name = \"anything\"", "name = \"everything\"");
    let more = text.clone()
        + "\n[[identities]]\nname = \"second\"\nenvironment = \"development\"\ndid = \"did:key\"\nalgorithm = \"ES256\"\n\
           max_validity_seconds = 60\ncallers = { uids = [0] }\nrules = [{ name = \"r\", actions = [\"*\"], targets = [\"*\"], resources = [\"*\"] }]\n";
    // Not certified: a permissive bundle of the parent's own making.
    lasting.state.set_policy(&second).unwrap();
    lasting.restart();
    lasting.wait_for_refusal("pair_not_certified");
    // Certified: the same identity. A new name is born with it, and lasts as well.
    lasting.state.set_policy(&more).unwrap();
    assert!(lasting.certify());
    qemu_dev::DurableState::prepare(&lasting.state).unwrap();
    lasting.restart();
    lasting.wait_until_ready();
    let of = |lasting: &Lasting, name: &str| {
        get(&lasting.socket, &format!("/identity?identity={name}"))
            .unwrap()
            .json()
    };
    let (first, born) = (of(&lasting, "agent"), of(&lasting, "second"));
    assert_eq!(who(&first), who(&before));
    assert_eq!(
        (&born["key_version"], &born["epoch"]),
        (&json!(1), &json!(2))
    );
    lasting.reboot();
    lasting.wait_until_ready();
    assert_eq!(who(&of(&lasting, "second")), who(&born));
    // A bundle without the name: its key is kept, and signs nothing.
    lasting.state.set_policy(&text).unwrap();
    assert!(lasting.certify());
    qemu_dev::DurableState::prepare(&lasting.state).unwrap();
    lasting.restart();
    lasting.wait_until_ready();
    assert_eq!(lasting.status()["kept"], json!(["second"]));
    let gone = get(&lasting.socket, "/identity?identity=second").unwrap();
    assert_eq!(gone.code(), "unknown_identity");
    // It comes back as another kind of key: refused, though the operator certified it.
    for changed in [
        more.replace("algorithm = \"ES256\"", "algorithm = \"EdDSA\""),
        more.replace(
            "name = \"second\"\nenvironment = \"development\"",
            "name = \"second\"\nenvironment = \"production\"",
        ),
        more.replace(
            "did = \"did:key\"\nalgorithm = \"ES256\"",
            "did = \"did:web:a.example\"\nalgorithm = \"ES256\"",
        ),
    ] {
        assert_ne!(changed, more);
        lasting.state.set_policy(&changed).unwrap();
        assert!(lasting.certify());
        lasting.restart();
        lasting.wait_for_refusal("identity_changed");
    }
    // As it was, it comes back with its key.
    lasting.state.set_policy(&more).unwrap();
    assert!(lasting.certify());
    qemu_dev::DurableState::prepare(&lasting.state).unwrap();
    lasting.restart();
    lasting.wait_until_ready();
    assert_eq!(who(&of(&lasting, "second")), who(&born));
}

#[test]
fn an_older_certificate_does_not_come_back() {
    let mut lasting = Lasting::start();
    let text = fs::read_to_string(lasting.state.policy()).unwrap();
    let mut certificates = Vec::new();
    for name in ["one", "two"] {
        let bundle = text.replace("name = \"anything\"", &format!("name = \"{name}\""));
        lasting.state.set_policy(&bundle).unwrap();
        assert!(lasting.certify());
        qemu_dev::DurableState::prepare(&lasting.state).unwrap();
        certificates.push(fs::read(lasting.durable.certificate()).unwrap());
        lasting.restart();
        lasting.wait_until_ready();
    }
    assert_eq!(lasting.identity()["epoch"], 3);
    // The bundle of before with its certificate, as a parent would bring them back.
    let older = text.replace("name = \"anything\"", "name = \"one\"");
    lasting.state.set_policy(&older).unwrap();
    fs::write(lasting.durable.certificate(), &certificates[0]).unwrap();
    fs::write(lasting.part("authority.cose"), &certificates[0]).unwrap();
    lasting.restart();
    lasting.wait_for_refusal("state_certificate_outdated");
}

#[test]
fn without_an_order_nothing_is_born_and_where_a_state_is_kept_nothing_more() {
    let mut lasting = Lasting::unborn(&[("agent", "did:key", "EdDSA")]);
    assert_eq!(lasting.phase().as_deref(), Some("awaited"));
    let born = |lasting: &Lasting, order: &[u8]| {
        let body = json!({"order": BASE64URL_NOPAD.encode(order)});
        post(&lasting.socket, "/state/birth", &body).unwrap().code()
    };
    let key = KeyFile::read(&lasting.state.operator_key()).unwrap();
    let (_, image, bundle) = lasting.state.verifier_files().unwrap();
    let pair = parent_proxy::operator::pair_of(&image, &bundle);
    let boot = |lasting: &Lasting| {
        identity::BootId::from_hex(lasting.status()["boot_id"].as_str().unwrap()).unwrap()
    };
    let later = UnixSeconds(harness::now().0 + 60);
    let other = KeyFile::read(&lasting.state.proxy_key()).unwrap();
    for order in [
        state::Order::new("laptop", boot(&lasting), pair, later)
            .sign(&other)
            .unwrap(),
        state::Order::new("other", boot(&lasting), pair, later)
            .sign(&key)
            .unwrap(),
        state::Order::new("laptop", identity::BootId::new([1; 16]), pair, later)
            .sign(&key)
            .unwrap(),
        state::Order::new("laptop", boot(&lasting), pair, UnixSeconds(1))
            .sign(&key)
            .unwrap(),
        b"no order".to_vec(),
    ] {
        assert_eq!(born(&lasting, &order), "genesis_order_invalid");
    }
    assert_eq!(lasting.aws.calls("GenerateDataKey"), 0);
    // KMS fails: one birth, tried again, and not another one.
    lasting
        .aws
        .set_fault(Some(Fault::Status(400, "ThrottlingException")));
    assert!(lasting.try_birth().is_err());
    lasting.aws.set_fault(None);
    let order = state::Order::new("laptop", boot(&lasting), pair, later)
        .sign(&key)
        .unwrap();
    assert_eq!(born(&lasting, &order), "");
    lasting.wait_until_ready();
    let id = lasting.identity()["state"].clone();
    let genesis = fs::read(lasting.part("genesis.cbor")).unwrap();
    let record = GenesisRecord::parse(&genesis).unwrap();
    assert_eq!(json!(record.id().to_string()), id);
    assert_eq!(born(&lasting, &order), "state_open_already");
    // The order of that boot in another one, where the state is lost.
    fs::rename(lasting.durable.folder(), lasting.folder().join("away")).unwrap();
    lasting.restart();
    assert_eq!(born(&lasting, &order), "genesis_order_invalid");
    assert_eq!(lasting.phase().as_deref(), Some("awaited"));
    // A state that lies there and cannot be opened is no reason for another one.
    fs::remove_dir_all(lasting.durable.folder()).unwrap();
    fs::rename(lasting.folder().join("away"), lasting.durable.folder()).unwrap();
    lasting
        .aws
        .set_fault(Some(Fault::Status(500, "KMSInternalException")));
    lasting.restart();
    lasting.wait_for_refusal("kms_unavailable");
    let order = state::Order::new("laptop", boot(&lasting), pair, later)
        .sign(&key)
        .unwrap();
    assert_eq!(born(&lasting, &order), "state_exists");
}

#[test]
fn what_kms_answers_wrong_is_refused_with_its_code_and_heals() {
    let mut lasting = Lasting::start();
    let before = lasting.identity();
    for (fault, code) in [
        (Fault::Status(400, "AccessDeniedException"), "kms_refused"),
        (Fault::Status(429, "ThrottlingException"), "kms_unavailable"),
        (
            Fault::Status(500, "KMSInternalException"),
            "kms_unavailable",
        ),
        (Fault::CutAt(40), "kms_broken"),
        (Fault::CutAt(400), "kms_broken"),
        (Fault::NotJson, "kms_malformed"),
        (Fault::NoCiphertext, "kms_malformed"),
        (Fault::TwoRecipients, "kms_malformed"),
        (Fault::NoRecipients, "kms_malformed"),
        (Fault::ShortMessage(1), "kms_malformed"),
        (Fault::LongMessage, "kms_malformed"),
        (Fault::OtherRecipient, "kms_not_for_us"),
        (Fault::SecretLength(16), "kms_not_for_us"),
        (Fault::OtherSecret, "sealed_state_unopened"),
        (Fault::OtherKeyId, "kms_other_key"),
        (Fault::Silence, "kms_too_slow"),
        (Fault::SlowBytes, "kms_too_slow"),
    ] {
        lasting.aws.set_fault(Some(fault));
        lasting.reboot();
        lasting.wait_for_refusal(code);
        assert_eq!(lasting.refusal(), "state_awaited", "{fault:?}");
        assert!(lasting.enclave.ended().is_none(), "{fault:?}");
    }
    // As AWS may write it, too.
    for fault in [Fault::EmptyPlaintext, Fault::NullPlaintext] {
        lasting.aws.set_fault(Some(fault));
        lasting.reboot();
        lasting.wait_until_ready();
    }
    lasting.aws.set_fault(None);
    lasting.reboot();
    lasting.wait_until_ready();
    assert_eq!(who(&lasting.identity()), who(&before));
}

/// A drill asks as a boot does, and ends nothing.
#[test]
fn an_answer_of_kms_that_is_cut_at_any_byte_opens_nothing() {
    let lasting = Lasting::start();
    let drill = || post(&lasting.socket, "/state/drill", &json!({})).unwrap();
    let mut cut = 0;
    loop {
        lasting.aws.set_fault(Some(Fault::CutAt(cut)));
        let answer = drill();
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.code(), "kms_broken", "cut at {cut}");
        cut += 1;
    }
    // A head, and a message for an RSA key.
    assert!(cut > 1000, "{cut}");
    assert!(!lasting.sign().is_empty());
}

#[test]
fn an_answer_in_clear_is_the_end_of_the_boot() {
    let mut lasting = Lasting::start();
    lasting.aws.set_fault(Some(Fault::Plaintext));
    lasting.reboot();
    let mut ended = None;
    for _ in 0..3000 {
        ended = lasting.enclave.ended();
        if ended.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(ended.is_some());
    assert!(lasting.log().contains("kms_plaintext"), "{}", lasting.log());
}

#[test]
fn who_is_not_kms_gets_no_question() {
    let mut lasting = Lasting::start();
    for certificate in [
        Certificate::OtherName,
        Certificate::Expired,
        Certificate::NotYetValid,
        Certificate::OtherAuthority,
    ] {
        let asked = lasting.aws.calls("Decrypt");
        lasting.aws.set_certificate(certificate);
        lasting.reboot();
        lasting.wait_for_refusal("kms_tls");
        assert_eq!(lasting.aws.calls("Decrypt"), asked);
    }
    lasting.aws.set_certificate(Certificate::default());
    // A line that leads somewhere else, or nowhere.
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = elsewhere.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = elsewhere.accept() {
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap_or_default();
            // It is TLS that begins there, and no question.
            assert_eq!(request[..read].first(), Some(&0x16));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        }
    });
    let file = lasting.state.sidecar_config();
    let text = fs::read_to_string(&file).unwrap();
    let here = lasting.durable.address().to_string();
    for (there, code) in [
        (address.to_string(), "kms_tls"),
        ("127.0.0.1:1".to_owned(), "kms_not_reachable"),
    ] {
        fs::write(&file, text.replace(&here, &there)).unwrap();
        lasting.restart();
        lasting.wait_for_refusal(code);
    }
    fs::write(&file, &text).unwrap();
    lasting.restart();
    lasting.wait_until_ready();
}

#[test]
fn a_sealed_state_that_was_changed_opens_nothing_and_the_good_one_still_does() {
    let mut lasting = Lasting::start();
    let before = lasting.identity();
    let good = fs::read(lasting.part("sealed.cbor")).unwrap();
    let mut other = Lasting::start();
    other.sidecar.stop().unwrap();
    let of_other = fs::read(other.part("sealed.cbor")).unwrap();
    let genesis = fs::read(other.part("genesis.cbor")).unwrap();
    let own_genesis = fs::read(lasting.part("genesis.cbor")).unwrap();
    let ciphertext = Sealed::parse(&good).unwrap().0.ciphertext().to_vec();
    let begins = good
        .windows(ciphertext.len())
        .position(|part| part == ciphertext)
        .unwrap();
    let flipped = |at: usize| {
        let mut bad = good.clone();
        bad[at] ^= 1;
        bad
    };
    let cases = [
        (
            of_other.clone(),
            own_genesis.clone(),
            "sealed_state_mismatch",
        ),
        (good.clone(), genesis, "sealed_state_mismatch"),
        (
            flipped(begins + ciphertext.len() / 2),
            own_genesis.clone(),
            "sealed_state_malformed",
        ),
        (
            flipped(good.len() - 10),
            own_genesis.clone(),
            "sealed_state_malformed",
        ),
        (
            good[..good.len() - 1].to_vec(),
            own_genesis.clone(),
            "sealed_state_malformed",
        ),
    ];
    for (sealed, genesis, code) in cases {
        fs::write(lasting.part("sealed.cbor"), sealed).unwrap();
        fs::write(lasting.part("genesis.cbor"), genesis).unwrap();
        let asked = lasting.aws.calls("Decrypt");
        lasting.reboot();
        lasting.wait_for_refusal(code);
        assert_eq!(lasting.aws.calls("Decrypt"), asked, "{code}");
        assert!(lasting.enclave.ended().is_none());
    }
    fs::write(lasting.part("sealed.cbor"), &good).unwrap();
    fs::write(lasting.part("genesis.cbor"), &own_genesis).unwrap();
    // It is tried again by itself.
    lasting.wait_until_ready();
    assert_eq!(who(&lasting.identity()), who(&before));
    let (_, header) = Sealed::parse(&good).unwrap();
    assert_eq!(json!(header.identities[0].did), before["did"]);
    // Neither the secret nor anything as long as one stands in clear beside what is public.
    assert_eq!(header.identities.len(), 1);
}

#[test]
fn the_hosts_clock_does_not_matter() {
    let mut lasting = Lasting::start();
    let before = lasting.identity();
    // Enclave and KMS live tomorrow; the sidecar's clock is a day behind them.
    let tomorrow = (harness::now().0 + 86_400) * 1000;
    lasting.set_arguments(&["--nsm-time-ms", &tomorrow.to_string()]);
    lasting.reboot();
    lasting.wait_for_refusal("kms_refused");
    lasting.aws_ahead(86_400);
    lasting.wait_until_ready();
    assert_eq!(who(&lasting.identity()), who(&before));
}

#[test]
fn the_state_is_for_those_who_run_the_sidecar_and_a_bundle_without_one_has_none() {
    let running = harness::Running::start();
    let none = get(&running.socket, "/state").unwrap();
    assert_eq!(
        (none.status, none.code().as_str()),
        (404, "state_not_wanted")
    );
    let body = json!({"order": "AA"});
    let none = post(&running.socket, "/state/birth", &body).unwrap();
    assert_eq!(
        (none.status, none.code().as_str()),
        (409, "state_not_wanted")
    );
    // Nor for an agent who comes through a socket of its own, whatever it asks.
    let lasting = Lasting::start();
    let agent = lasting.folder().join("run/agent.sock");
    let config = lasting.state.sidecar_config();
    let text = fs::read_to_string(&config).unwrap();
    let more = format!(
        "[[sockets]]\nname = \"agent\"\npath = \"{}\"\n",
        agent.display()
    );
    fs::write(&config, format!("{text}\n{more}")).unwrap();
    let mut lasting = lasting;
    lasting.restart_sidecar();
    lasting.wait_until_ready();
    let nonce = json!({"nonce": data_encoding::HEXLOWER.encode(&NONCE)});
    for answer in [
        get(&agent, "/state"),
        post(&agent, "/state/document", &nonce),
        post(&agent, "/state/birth", &body),
        post(&agent, "/state/drill", &json!({})),
    ] {
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "caller_not_allowed")
        );
    }
}

#[test]
fn a_seal_is_written_over_no_other_state_and_into_no_folder_that_lost_its_own() {
    let lasting = Lasting::start();
    let mut other = Lasting::start();
    other.sidecar.stop().unwrap();
    let rotate = || post(&lasting.socket, "/rotate", &json!({})).unwrap();
    let before = lasting.identity();
    let parts = [
        "sealed.cbor",
        "genesis.cbor",
        "genesis-document.cbor",
        "authority.cose",
    ];
    let own: Vec<_> = parts
        .iter()
        .map(|part| fs::read(lasting.part(part)).unwrap())
        .collect();
    // Somebody mounts another state there.
    for part in parts {
        fs::copy(other.part(part), lasting.part(part)).unwrap();
    }
    assert_eq!(rotate().code(), "state_not_stored");
    for part in parts {
        assert_eq!(
            fs::read(lasting.part(part)).unwrap(),
            fs::read(other.part(part)).unwrap(),
            "{part}"
        );
    }
    // Or an empty folder.
    parts
        .iter()
        .for_each(|part| fs::remove_file(lasting.part(part)).unwrap());
    assert_eq!(rotate().code(), "state_not_stored");
    assert!(!lasting.part("sealed.cbor").exists());
    assert_eq!(who(&lasting.identity()), who(&before));
    // Its own is put back: what was ordered is done, by itself.
    for (part, bytes) in parts.iter().zip(own) {
        fs::write(lasting.part(part), bytes).unwrap();
    }
    wait_for(|| lasting.identity()["key_version"] == 2);
    // A part that is missing is no state.
    let document = fs::read(lasting.part("genesis-document.cbor")).unwrap();
    fs::remove_file(lasting.part("genesis-document.cbor")).unwrap();
    let drill = || post(&lasting.socket, "/state/drill", &json!({})).unwrap();
    assert_eq!(drill().code(), "state_not_stored");
    fs::write(lasting.part("genesis-document.cbor"), &document).unwrap();
    assert_eq!(drill().status, 200);
}

#[test]
fn a_state_whose_birth_another_secure_module_attests_opens_nothing() {
    let mut lasting = Lasting::start();
    let document = fs::read(lasting.part("genesis-document.cbor")).unwrap();
    let asked = lasting.aws.calls("Decrypt");
    let other = Lasting::start();
    let of_other = fs::read(other.part("genesis-document.cbor")).unwrap();
    for bad in [of_other, document[..document.len() - 1].to_vec()] {
        fs::write(lasting.part("genesis-document.cbor"), bad).unwrap();
        lasting.reboot();
        lasting.wait_for_refusal("genesis_document_invalid");
        assert_eq!(lasting.aws.calls("Decrypt"), asked);
    }
    fs::write(lasting.part("genesis-document.cbor"), &document).unwrap();
    lasting.wait_until_ready();
}

#[test]
fn the_operators_key_is_handed_over_by_one_certificate_and_taken_over_by_the_next() {
    let mut lasting = Lasting::start();
    let before = lasting.identity();
    let next = harness::window::TestKey::new(71);
    let genesis = GenesisRecord::parse(&fs::read(lasting.part("genesis.cbor")).unwrap()).unwrap();
    let (_, measurements, bundle) = lasting.state.verifier_files().unwrap();
    let old = parent_proxy::operator::pair_of(&measurements, &bundle);
    let terms = bundle.state.as_ref().unwrap().terms();
    let names = vec!["agent".to_owned()];
    let certificate = |version, pair| {
        state::Certificate::new(
            "development",
            genesis.id(),
            version,
            terms.clone(),
            names.clone(),
            vec![pair],
        )
    };
    // The bundle that names the next key, under the certificate that only hands over: it opens nothing.
    let mut handing_over = certificate(2, old);
    handing_over.name.clone_from(&genesis.name);
    handing_over.successor = Some(Signer::public_key(&next).to_spki());
    let operator = KeyFile::read(&lasting.state.operator_key()).unwrap();
    fs::write(
        lasting.durable.certificate(),
        handing_over.sign(&operator).unwrap(),
    )
    .unwrap();
    let text = fs::read_to_string(lasting.state.policy()).unwrap();
    let of_next = text.replace(
        "rollback = \"accepted\"",
        &format!(
            "rollback = \"accepted\"\noperator_key = \"{}\"",
            Signer::public_key(&next).to_multikey()
        ),
    );
    assert_ne!(of_next, text);
    lasting.state.set_policy(&of_next).unwrap();
    lasting.restart();
    lasting.wait_for_refusal("state_operator_mismatch");
    // The bundle of before takes it.
    lasting.state.set_policy(&text).unwrap();
    lasting.restart();
    lasting.wait_until_ready();
    assert_eq!(lasting.identity()["epoch"], 2);
    // From now on the next key certifies, and only that one.
    lasting.state.set_policy(&of_next).unwrap();
    let (_, measurements, bundle) = lasting.state.verifier_files().unwrap();
    let new = parent_proxy::operator::pair_of(&measurements, &bundle);
    let mut third = certificate(3, new);
    third.name.clone_from(&genesis.name);
    fs::write(
        lasting.durable.certificate(),
        third.sign(&operator).unwrap(),
    )
    .unwrap();
    qemu_dev::DurableState::prepare(&lasting.state).unwrap();
    lasting.restart();
    lasting.wait_for_refusal("state_certificate_invalid");
    fs::write(lasting.durable.certificate(), third.sign(&next).unwrap()).unwrap();
    lasting.restart();
    lasting.wait_until_ready();
    assert_eq!(who(&lasting.identity()), who(&before));
    assert_eq!(lasting.identity()["epoch"], 3);
}

#[test]
fn a_drill_shows_whether_what_is_kept_would_open_and_changes_nothing() {
    let lasting = Lasting::start();
    let before = lasting.identity();
    let drill = || post(&lasting.socket, "/state/drill", &json!({})).unwrap();
    let failed = || {
        let metrics = String::from_utf8(get(&lasting.socket, "/metrics").unwrap().body).unwrap();
        metrics.contains("\nanchorhold_state_drill_failed 1\n")
    };
    // There was one after the birth.
    let asked = lasting.aws.calls("Decrypt");
    assert_eq!(asked, 1);
    assert_eq!(drill().status, 200);
    assert_eq!(lasting.aws.calls("Decrypt"), asked + 1);
    assert!(!failed());
    // A rotation seals anew: the seal of before is an older one.
    let older = fs::read(lasting.part("sealed.cbor")).unwrap();
    assert_eq!(
        post(&lasting.socket, "/rotate", &json!({})).unwrap().status,
        200
    );
    let newer = fs::read(lasting.part("sealed.cbor")).unwrap();
    assert_eq!(drill().status, 200);
    fs::write(lasting.part("sealed.cbor"), &older).unwrap();
    assert_eq!(drill().code(), "state_drill_failed");
    assert!(failed());
    fs::write(lasting.part("sealed.cbor"), &newer[..newer.len() - 1]).unwrap();
    assert_eq!(drill().code(), "sealed_state_malformed");
    fs::write(lasting.part("sealed.cbor"), &newer).unwrap();
    lasting
        .aws
        .set_fault(Some(Fault::Status(400, "AccessDeniedException")));
    assert_eq!(drill().code(), "kms_refused");
    lasting.aws.set_fault(None);
    // The command does the same.
    let command = Command::new(program("anchorhold"))
        .args(["state", "verify", "--live", "--endpoint"])
        .arg(format!("unix://{}", lasting.socket.display()))
        .output()
        .unwrap();
    assert!(command.status.success(), "{command:?}");
    assert!(!failed());
    let after = lasting.identity();
    assert_eq!(
        (after["did"] == before["did"], &after["key_version"]),
        (false, &json!(2))
    );
    assert!(!lasting.sign().is_empty());
}

#[test]
fn strangers_with_proofs_for_rotations_that_are_none_keep_nobody_from_the_nsm() {
    if !rustix::process::geteuid().is_root() {
        return harness::skipped("becoming another user needs root");
    }
    let policy = |state: &qemu_dev::State| {
        let keeper = KeyFile::create(&state.folder().join("keeper.key")).unwrap();
        let key = keeper.public_key().to_multikey();
        let text = state.development_policy(&[("agent", "did:key", "EdDSA")]);
        let rotating = "rotation_callers = { proven = [\"keeper\"], ";
        { text.unwrap() }
            .replacen("rotation_callers = { ", rotating, 1)
            .replacen(
                "\n[[identities]]",
                &format!("\n[[callers]]\nname = \"keeper\"\nkey = \"{key}\"\n\n[[identities]]"),
                1,
            )
    };
    let lasting = Lasting::prepared(policy, "");
    let open = |folder: &std::path::Path| {
        fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    };
    open(lasting.folder());
    // Anybody may have the name of a key; what it signed may be anything.
    let proof = CallerProof {
        boot_id: identity::BootId::new([9; 16]),
        exp: harness::now().0 + 30,
        jti: uuid::Uuid::nil(),
        key_version: 1,
        request: identity::sha256(b""),
    };
    let keeper = KeyFile::read(&lasting.folder().join("keeper.key")).unwrap();
    let jws = proof.sign(&keeper).unwrap();
    let body = json!({"identity": "agent", "proof": {"jws": jws}}).to_string();
    let stranger = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "1", "--regid", "1", "--clear-groups", "--"]);
        command.args(["curl", "-sS", "--max-time", "20", "--unix-socket"]);
        command.arg(&lasting.socket).args(["-d", &body]);
        command.args(["-H", "content-type: application/json"]);
        command.arg("http://localhost/rotate");
        command
    };
    let said = stranger().output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("for another boot"), "{said}");

    let asked = lasting.aws.calls("Decrypt");
    lasting.aws.set_fault(Some(Fault::Silence));
    std::thread::scope(|scope| {
        let drill = scope.spawn(|| post(&lasting.socket, "/state/drill", &json!({})));
        wait_for(|| lasting.aws.calls("Decrypt") > asked);
        let mut strangers: Vec<_> = (0..8)
            .map(|_| {
                stranger()
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
            })
            .map(Result::unwrap)
            .collect();
        std::thread::sleep(Duration::from_secs(1));
        assert!(!lasting.evidence(&NONCE).is_empty());
        assert!(!drill.is_finished(), "it waited for the drill");
        lasting.aws.set_fault(None);
        for stranger in &mut strangers {
            stranger.kill().unwrap();
            stranger.wait().unwrap();
        }
    });
}
