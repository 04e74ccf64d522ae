use identity::caller::{ObservedCaller, Proven};
use identity::{
    AnnexId, BootId, Caller, Did, Digest, Message, PublicKey, SKEW_SECONDS, Signature, Signer,
    UnixSeconds, agent_id, json, sha256,
};

use super::*;
use crate::event::write;

/// A signer of these tests: a key of repeated bytes.
struct TestKey(ed25519_dalek::SigningKey, PublicKey);

impl TestKey {
    fn ed25519(byte: u8) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(&[byte; 32]);
        let public = PublicKey::Ed25519(key.verifying_key());
        Self(key, public)
    }
}

impl Signer for TestKey {
    type Error = identity::Error;

    fn public_key(&self) -> &PublicKey {
        &self.1
    }

    fn sign(&self, message: &Message) -> Result<Signature, identity::Error> {
        Ok(ed25519_dalek::Signer::sign(&self.0, message.as_bytes()).to_bytes())
    }
}

fn credential() -> Credential {
    Credential {
        call: Some(sha256(b"ticket")),
        cost: Some(1234),
        ending: Some("complete".into()),
        headers: Some(sha256(b"headers")),
        ingress: Some(true),
        length: Some(5),
        method: Some("POST".into()),
        minted: Some(true),
        received: Some(6),
        received_digest: Some(sha256(b"answer")),
        sent: Some(5),
        sent_digest: Some(sha256(b"hello")),
        service: "openrouter".into(),
        spki: Some(sha256(b"key")),
        status: Some(200),
        tokens_in: Some(11),
        tokens_out: Some(22),
        version: Some(7),
        websocket: Some(true),
    }
}

fn decision(n: i64) -> Decision {
    let key = TestKey::ed25519(7);
    Decision {
        action: Some("write".into()),
        agent_id: Some(agent_id("code-reviewer", key.public_key())),
        annex: Some(AnnexId {
            digest: sha256(b"annex"),
            version: 3,
        }),
        approvals: vec![Approval {
            key: key.public_key().thumbprint(),
            name: "alice".into(),
        }],
        before: None,
        binding: Some(sha256(b"binding")),
        credential: Some(credential()),
        caller: Some(Caller::Asserted(ObservedCaller {
            executable: Some(sha256(b"exe")),
            ..ObservedCaller::ids(1000, 1000)
        })),
        delegated_by: Some("user:sre-oncall".into()),
        delegation_chain: vec!["user:sre-oncall".into(), "agent:code-reviewer".into()],
        delegation_issuers: vec!["https://idp.example".into()],
        did: Some(Did::key(key.public_key())),
        environment: Some("staging".into()),
        event_type: "token.sign".into(),
        expires_at: Some(UnixSeconds(n + 300)),
        key_version: Some(1),
        policy_decision: Verdict::Allow,
        policy_digest: Digest([4; 48]),
        policy_id: "comments@0123456789abcdef".into(),
        refusal: Some("x".into()),
        refusals_unrecorded: Some(7),
        request_digest: Some(sha256(b"request")),
        resource: Some("a \" and ,\"sequence\":7".into()),
        target: Some("42".into()),
        timestamp: Some(UnixSeconds(n)),
        token_id: Some("id".into()),
    }
}

fn lines(key: &TestKey, boot: u8, batches: &[usize]) -> Vec<Vec<u8>> {
    let mut tail = Tail::new(BootId::new([boot; 16]));
    let mut lines = Vec::new();
    for size in batches {
        let decisions = (0..*size).map(|n| decision(1000 + n as i64)).collect();
        lines.extend(tail.append(decisions).unwrap().sign(key).unwrap());
    }
    lines
}

/// Another boot, which says with what the record ended before it, and when.
fn next_boot(key: &TestKey, boot: u8, before: Option<End>, at: i64, more: usize) -> Vec<Vec<u8>> {
    let mut tail = Tail::new(BootId::new([boot; 16]));
    let begin = vec![Decision {
        before,
        ..decision(at)
    }];
    let mut lines = tail.append(begin).unwrap().sign(key).unwrap();
    lines.extend((0..more).flat_map(|n| {
        tail.append(vec![decision(at + n as i64)])
            .unwrap()
            .sign(key)
            .unwrap()
    }));
    lines
}

fn end(lines: &[Vec<u8>]) -> Option<End> {
    Some(unverified_end(lines.last().unwrap()).unwrap())
}

fn read(keys: &[&TestKey], lines: &[Vec<u8>]) -> Result<usize, Error> {
    let mut reader = Reader::new(keys.iter().map(|key| key.public_key().clone()).collect());
    lines
        .iter()
        .try_for_each(|line| reader.next(line).map(|_| ()))
        .map(|()| reader.boots().len())
}

#[test]
fn a_record_reads_whatever_its_batches() {
    let (a, b) = (TestKey::ed25519(1), TestKey::ed25519(2));
    let one = lines(&a, 1, &[1, 3, 1, 8, 2]);
    let two = next_boot(&b, 2, end(&one), 1010, 1);
    assert_eq!(read(&[&a], &one), Ok(1));
    assert_eq!(read(&[&b, &a], &[&one[..], &two[..]].concat()), Ok(2));
    assert_eq!(read(&[&b, &a], &one[4..]), Ok(1));
    assert_eq!(
        read(&[&b], &one),
        Err(identity::Error::SignatureInvalid.into())
    );
    assert_eq!(
        read(&[&a, &b], &[&one[..], &two[1..]].concat()),
        Err(Error::Gap { from: 0, to: 0 })
    );
    assert_eq!(
        read(&[&a, &b], &[&one[..], &two[..], &one[..]].concat()),
        Err(Error::Invalid("an event of a boot that had ended"))
    );
    assert_eq!(
        read(
            &[&a],
            &[&one[..], &next_boot(&a, 2, end(&one), 1010, 0)[..]].concat()
        ),
        Err(Error::Invalid("a key signed for two boots"))
    );
    let event = Reader::new(vec![a.public_key().clone()])
        .next(&one[0])
        .unwrap();
    assert_eq!(
        (event.decision, event.sequence, event.boot_id),
        (decision(1000), 0, BootId::new([1; 16]))
    );
    // A boot whose first lines are missing is refused as often as it is shown.
    let mut reader = Reader::new(vec![a.public_key().clone(), b.public_key().clone()]);
    one.iter()
        .for_each(|line| assert!(reader.next(line).is_ok()));
    for _ in 0..2 {
        assert_eq!(reader.next(&two[1]), Err(Error::Gap { from: 0, to: 0 }));
    }
    assert_eq!(unverified_place(&one[5]), Ok((BootId::new([1; 16]), 5)));
    // As with the lines of another program that writes RFC 8785.
    let value: serde_json::Value = serde_json::from_slice(&one[7]).unwrap();
    assert_eq!(json::canonical(&value).unwrap(), one[7]);
}

#[test]
fn the_first_event_of_a_boot_follows_none() {
    let key = TestKey::ed25519(1);
    let mut tail = Tail::new(BootId::new([1; 16]));
    tail.previous = Digest([9; 32]);
    let line = tail.append(vec![decision(1)]).unwrap().sign(&key).unwrap();
    assert_eq!(
        read(&[&key], &line),
        Err(Error::Invalid(
            "the first event of a boot follows another one"
        ))
    );
}

#[test]
fn what_others_wrote_into_a_refusal_is_cut_until_it_fits() {
    let key = TestKey::ed25519(7);
    let long = |c: char| Some(c.to_string().repeat(4000));
    let mut decision = decision(1000);
    (
        decision.action,
        decision.target,
        decision.resource,
        decision.delegated_by,
    ) = (long('"'), long('ä'), long('\\'), long('x'));
    decision.delegation_chain = vec!["\"".repeat(500); 40];
    decision.delegation_issuers = vec!["y".repeat(500); 40];
    let texts = ObservedCaller {
        unit: long('"'),
        label: long('"'),
        pod: long('"'),
        socket: long('"'),
        name: long('"'),
        ..ObservedCaller::ids(1, 1)
    };
    decision.caller = Some(Caller::Asserted(ObservedCaller {
        container: long('"'),
        ..texts
    }));
    decision.shorten(3500);
    let line = Tail::new(BootId::new([1; 16]))
        .append(vec![decision.clone(); MAX_BATCH])
        .unwrap()
        .sign(&key)
        .unwrap()
        .remove(MAX_BATCH - 1);
    assert!(line.len() <= 4096 && line.len() > 2000, "{}", line.len());
    assert!(decision.action.unwrap().ends_with('…') && decision.target.unwrap().ends_with("ä…"));
    // What fits stays as it is.
    let small = self::decision(1000);
    let mut same = small.clone();
    same.shorten(3500);
    assert_eq!(same, small);
}

#[test]
fn a_line_has_at_most_64_kib() {
    let key = TestKey::ed25519(1);
    let read = |length| read(&[&key], &["x".repeat(length).into_bytes()]).unwrap_err();
    let longer = Error::Invalid("a line of more than 64 KiB");
    assert_ne!(read(MAX_LINE), longer);
    assert_eq!(read(MAX_LINE + 1), longer);
}

#[test]
fn boots_are_chained_and_none_is_missing_moved_or_cut_in_between() {
    let keys = [1, 2, 3].map(TestKey::ed25519);
    let [a, b, c] = &keys;
    let one = lines(a, 1, &[1, 3]);
    let two = next_boot(b, 2, end(&one), 1010, 3);
    let three = next_boot(c, 3, end(&two), 1020, 1);
    let all = |parts: &[&[Vec<u8>]]| read(&[a, b, c], &parts.concat());
    let elsewhere = Error::Invalid(
        "the first event of a boot says that something else came before it: a boot, or the end of one, is missing or stands elsewhere",
    );
    assert_eq!(all(&[&one, &two, &three]), Ok(3));
    assert_eq!(all(&[&two, &three]), Ok(2));
    // A boot left out; moved; the end of one cut off, or its beginning.
    assert_eq!(all(&[&one, &three]), Err(elsewhere.clone()));
    assert_eq!(all(&[&two, &one]), Err(elsewhere.clone()));
    assert_eq!(all(&[&one, &three, &two]), Err(elsewhere.clone()));
    assert_eq!(all(&[&one, &two[..2], &three]), Err(elsewhere.clone()));
    assert_eq!(all(&[&one[..3], &two]), Err(elsewhere.clone()));
    assert_eq!(
        all(&[&one, &two[1..], &three]),
        Err(Error::Gap { from: 0, to: 0 })
    );
    // One that says that nothing came before it, where something did; the end of another history.
    assert_eq!(
        all(&[&one, &next_boot(b, 2, None, 1010, 1)]),
        Err(elsewhere.clone())
    );
    for change in [
        &|end: &mut End| end.last += 1,
        &|end: &mut End| end.leaf = sha256(b""),
        &|end: &mut End| end.boot_id = BootId::new([9; 16]),
    ] as [&dyn Fn(&mut End); 3]
    {
        let mut other = end(&one).unwrap();
        change(&mut other);
        assert_eq!(
            all(&[&one, &next_boot(b, 2, Some(other), 1010, 0)]),
            Err(elsewhere.clone())
        );
    }
    // Time goes on from boot to boot, but for what clocks may differ.
    let at = |time| all(&[&one, &next_boot(b, 2, end(&one), time, 0)]);
    assert_eq!(at(1002 - SKEW_SECONDS), Ok(2));
    assert_eq!(
        at(1001 - SKEW_SECONDS),
        Err(Error::Invalid(
            "a boot began before the one before it ended"
        ))
    );
    // Only a first event says what came before.
    let mut tail = Tail::new(BootId::new([2; 16]));
    let mut late = tail.append(vec![decision(1)]).unwrap().sign(b).unwrap();
    late.extend(
        tail.append(vec![Decision {
            before: end(&one),
            ..decision(1)
        }])
        .unwrap()
        .sign(b)
        .unwrap(),
    );
    assert_eq!(
        read(&[b], &late),
        Err(Error::Invalid(
            "only the first event of a boot says what came before it"
        ))
    );
    // A key that signed nothing is of a boot that is missing.
    let mut reader = Reader::new(keys.iter().map(|key| key.public_key().clone()).collect());
    [&two[..], &three]
        .concat()
        .iter()
        .for_each(|line| drop(reader.next(line).unwrap()));
    assert_eq!(reader.unused_keys().collect::<Vec<_>>(), [a.public_key()]);
    assert_eq!(
        (reader.boots()[0].before, reader.boots()[1].before),
        (end(&one), end(&two))
    );
}

#[test]
fn what_is_taken_out_or_swapped_is_found() {
    let key = TestKey::ed25519(1);
    let good = lines(&key, 1, &[1, 3, 1, 8, 2]);
    for at in 1..good.len() - 1 {
        let mut less = good.clone();
        less.remove(at);
        assert_eq!(
            read(&[&key], &less),
            Err(Error::Gap {
                from: at as u64,
                to: at as u64
            })
        );
        let mut swapped = good.clone();
        swapped.swap(at, at + 1);
        assert!(read(&[&key], &swapped).is_err(), "{at}");
        let mut twice = good.clone();
        twice.insert(at, good[at].clone());
        assert_eq!(
            read(&[&key], &twice),
            Err(Error::Invalid("an event stands twice, or out of its order"))
        );
    }
    // Two histories of one boot by the same key: as if an enclave had forked.
    let mut tail = Tail::new(BootId::new([1; 16]));
    let other = tail.append(vec![decision(5)]).unwrap().sign(&key).unwrap();
    let second = tail.append(vec![decision(6)]).unwrap().sign(&key).unwrap();
    assert_eq!(
        read(&[&key], &[&good[..1], &second[..]].concat()),
        Err(Error::Invalid("an event does not follow the one before it"))
    );
    assert_eq!(read(&[&key], &[other, second].concat()), Ok(1));
}

#[test]
fn every_member_of_every_event_is_signed() {
    let key = TestKey::ed25519(1);
    let good = lines(&key, 1, &[1, 5]);
    let mut changes = 0;
    for at in 0..good.len() {
        let value: serde_json::Value = serde_json::from_slice(&good[at]).unwrap();
        let mut changed = Vec::new();
        variants(&value, &mut changed);
        for other in changed {
            let mut lines = good.clone();
            lines[at] = json::canonical(&other).unwrap();
            assert!(read(&[&key], &lines).is_err(), "{other}");
            changes += 1;
        }
    }
    assert!(changes > 6 * 60, "{changes}");
}

/// The value with each of its leaves changed, each of its members left out, and a member more.
fn variants(value: &serde_json::Value, out: &mut Vec<serde_json::Value>) {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            for (name, member) in map {
                let mut less = map.clone();
                less.remove(name);
                out.push(less.into());
                let mut inner = Vec::new();
                variants(member, &mut inner);
                out.extend(inner.into_iter().map(|new| {
                    let mut map = map.clone();
                    map.insert(name.clone(), new);
                    Value::Object(map)
                }));
            }
            let mut more = map.clone();
            more.insert("admin".into(), Value::Bool(true));
            out.push(more.into());
        }
        Value::Array(items) => {
            for at in 0..items.len() {
                let mut less = items.clone();
                less.remove(at);
                out.push(less.into());
                let mut inner = Vec::new();
                variants(&items[at], &mut inner);
                out.extend(inner.into_iter().map(|new| {
                    let mut items = items.clone();
                    items[at] = new;
                    Value::Array(items)
                }));
            }
        }
        Value::String(text) => out.extend([
            format!("{text}x").into(),
            text.chars().rev().collect::<String>().into(),
        ]),
        Value::Number(number) => out.push((number.as_u64().unwrap() + 1).into()),
        Value::Bool(bit) => out.push((!bit).into()),
        Value::Null => out.push("x".into()),
    }
    if let Value::String(text) = value
        && text.chars().eq(text.chars().rev())
    {
        out.pop();
    }
}

#[test]
fn what_is_written_is_canonical_whoever_asked() {
    let seen = ObservedCaller {
        container: Some("c\u{7f}\u{1}\"".into()),
        executable: Some(sha256(b"x")),
        label: Some("l".into()),
        name: Some("n".into()),
        pod: Some("p".into()),
        socket: Some("s".into()),
        unit: Some("é\u{10000}\u{e000}/".into()),
        ..ObservedCaller::ids(1, 2)
    };
    let proven = Proven {
        key: "k".into(),
        measurement: Some(Digest([1; 48])),
        name: "n".into(),
    };
    for caller in [
        None,
        Some(Caller::Asserted(seen)),
        Some(Caller::Proven(proven)),
        Some(Caller::Asserted(ObservedCaller::default())),
    ] {
        for full in [true, false] {
            let mut decision = Decision {
                caller: caller.clone(),
                ..decision(7)
            };
            if !full {
                decision = Decision {
                    action: None,
                    agent_id: None,
                    annex: None,
                    approvals: Vec::new(),
                    before: None,
                    binding: None,
                    delegated_by: None,
                    delegation_chain: Vec::new(),
                    delegation_issuers: Vec::new(),
                    did: None,
                    environment: None,
                    expires_at: None,
                    key_version: None,
                    refusal: None,
                    refusals_unrecorded: None,
                    request_digest: None,
                    resource: None,
                    target: None,
                    timestamp: None,
                    token_id: None,
                    ..decision
                };
            }
            let (boot_id, previous) = (BootId::new([1; 16]), Digest([2; 32]));
            let written = write(&decision, boot_id, previous, 9).unwrap();
            let event = Event {
                decision,
                boot_id,
                previous,
                sequence: 9,
            };
            assert_eq!(written, json::canonical(&event).unwrap());
        }
    }
}

#[test]
fn lines_of_another_form_are_refused() {
    let key = TestKey::ed25519(1);
    let good = lines(&key, 1, &[1]).remove(0);
    let text = String::from_utf8(good).unwrap();
    let proven = Caller::Proven(Proven {
        key: "k".into(),
        measurement: None,
        name: "n".into(),
    });
    assert!(
        serde_json::to_string(&proven)
            .unwrap()
            .contains("\"strength\":\"proven\"")
    );
    for other in [
        format!(" {text}"),
        format!("{text}\n"),
        text.replacen("\"sequence\":0", "\"sequence\":00", 1),
        text.replacen("{\"action\"", "{\"action\":\"x\",\"action\"", 1),
        "[]".into(),
        "{}".into(),
        String::new(),
        "x".repeat(MAX_LINE + 1),
    ] {
        assert!(read(&[&key], &[other.into_bytes()]).is_err());
    }
}

/// A line of this text, signed as a batch of its own.
fn sealed(key: &TestKey, boot: u8, first: u64, text: &[u8]) -> Vec<u8> {
    let root = tree::root(&[tree::leaf(text)]).0;
    let head = Head {
        boot_id: BootId::new([boot; 16]),
        first,
        size: 1,
        root,
    };
    let head = identity::cose::sign(
        identity::cose::Purpose::RECORD,
        &identity::cbor::to_vec(&head),
        key,
    )
    .unwrap();
    let proof = identity::cbor::to_vec(&signature::InclusionProof {
        path: Vec::new(),
        head,
    });
    let mut object: serde_json::Value = serde_json::from_slice(text).unwrap();
    object["signature"] = data_encoding::BASE64URL_NOPAD.encode(&proof).into();
    json::canonical(&object).unwrap()
}

#[test]
fn what_is_signed_but_no_event_of_this_boot_is_refused() {
    let (key, other) = (TestKey::ed25519(1), TestKey::ed25519(2));
    let text = write(&decision(1000), BootId::new([1; 16]), Digest([0; 32]), 0).unwrap();
    let first = sealed(&key, 1, 0, &text);
    assert_eq!(read(&[&key], std::slice::from_ref(&first)), Ok(1));
    // A signature of another boot's.
    assert_eq!(
        read(&[&key], &[sealed(&key, 2, 0, &text)]),
        Err(identity::Error::SignatureInvalid.into())
    );
    // A member that no event has.
    let more = String::from_utf8(text.clone()).unwrap().replacen(
        "\"timestamp\"",
        "\"test\":1,\"timestamp\"",
        1,
    );
    assert!(json::canonical(&json::parse(more.as_bytes()).unwrap()).unwrap() == more.as_bytes());
    assert!(read(&[&key], &[sealed(&key, 1, 0, more.as_bytes())]).is_err());
    let null = String::from_utf8(text.clone()).unwrap().replacen(
        "\"token_id\":\"id\"",
        "\"token_id\":null",
        1,
    );
    assert!(json::canonical(&json::parse(null.as_bytes()).unwrap()).unwrap() == null.as_bytes());

    assert!(read(&[&key], &[sealed(&key, 1, 0, null.as_bytes())]).is_err());
    // The next one by another key that is known.
    let next = write(&decision(1001), BootId::new([1; 16]), tree::leaf(&text), 1).unwrap();
    assert_eq!(
        read(&[&key, &other], &[first.clone(), sealed(&key, 1, 1, &next)]),
        Ok(1)
    );
    assert_eq!(
        read(&[&key, &other], &[first, sealed(&other, 1, 1, &next)]),
        Err(Error::Invalid("an event does not follow the one before it"))
    );
}

#[test]
fn a_boot_begins_after_the_latest_of_the_one_before_whichever_event_that_was() {
    let (key, other) = (TestKey::ed25519(1), TestKey::ed25519(2));
    for last in [None, Some(UnixSeconds(500))] {
        let mut tail = Tail::new(BootId::new([1; 16]));
        let one = tail
            .append(vec![
                decision(5000),
                Decision {
                    timestamp: last,
                    ..decision(5000)
                },
            ])
            .unwrap()
            .sign(&key)
            .unwrap();
        let two = next_boot(&other, 2, end(&one), 1000, 0);
        let all = [one, two].concat();
        assert_eq!(
            read(&[&key, &other], &all),
            Err(Error::Invalid(
                "a boot began before the one before it ended"
            ))
        );
    }
}
