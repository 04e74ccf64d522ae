//! Documents and tokens older than their leaf, with time-stamps that OpenSSL made:
//! `vectors/timestamps`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use attestation::archive::{Anchored, TimeAnchor, TimeStamp, anchored_digest};
use attestation::{Error, Evidence, MockRoot, Outcome, Step, Subject, Verifier};
use identity::{UnixSeconds, parse_rfc3339, sha256};

/// Four years after the leaf.
const LATER: UnixSeconds = UnixSeconds(1_893_456_000);

fn file(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn stamp(name: &str, root: &str) -> Result<TimeStamp, Error> {
    TimeStamp::new(
        &file(&format!("timestamps/{name}")),
        &[file(&format!("timestamps/{root}.pem"))],
    )
}

/// Who only looks, with a witness, and accepts this mock.
fn witnessed(anchor: impl TimeAnchor + 'static, root: &MockRoot, at: UnixSeconds) -> Verifier {
    let (anchor, allow_mock) = (
        Some(Arc::new(anchor) as Arc<dyn TimeAnchor>),
        Some(root.clone()),
    );
    Verifier {
        anchor,
        allow_mock,
        inspect: true,
        ..Verifier::at(at)
    }
}

/// The good token and its evidence, judged at `at` with this witness: its time and name.
fn judged_at(stamp: &TimeStamp, at: UnixSeconds) -> Result<(String, String), &'static str> {
    let (evidence, token) = (
        file("cases/evidence/good.cbor"),
        String::from_utf8(file("cases/tokens/good.jwt")).unwrap(),
    );
    let root = MockRoot::from_pem(&file("cases/root.pem")).unwrap();
    let subject = Subject::Token {
        token: &token,
        evidence: &evidence,
    };
    let verifier = witnessed(stamp.clone(), &root, at);
    let verdict = verifier.judge(subject).map_err(|refusal| refusal.code())?;
    let archive = verdict.archive.unwrap();
    assert_eq!(archive.anchor, "rfc3161");
    Ok((archive.time.to_string(), archive.witness))
}

fn judged(name: &str, root: &str) -> Result<(String, String), &'static str> {
    stamp(name, root)
        .map_err(|error| error.code())
        .and_then(|stamp| judged_at(&stamp, LATER))
}

#[test]
fn what_an_authority_saw_in_time_is_verified_at_its_own_time() {
    // The latest moment that the authority's accuracy allows, whole seconds.
    for (name, root, time) in [
        ("good.tsr", "town", "2026-01-01T00:10:00Z"),
        ("token.tst", "town", "2026-01-01T00:10:00Z"),
        ("signed-again.tst", "town", "2026-01-01T00:10:00Z"),
        ("key-identifier.tst", "town", "2026-01-01T00:10:00Z"),
        ("rsa.tsr", "abbey", "2026-01-01T00:10:00Z"),
        ("rough.tsr", "town", "2026-01-01T00:10:07Z"),
        ("micro.tsr", "abbey", "2026-01-01T00:10:01Z"),
        ("first-second.tsr", "town", "2025-12-31T23:59:55Z"),
        ("last-second.tsr", "town", "2026-01-01T03:00:03Z"),
    ] {
        assert_eq!(
            judged(name, root),
            Ok((time.to_owned(), format!("CN=clock of {root}"))),
            "{name}"
        );
    }
    // A fraction of a second, and half a one of accuracy beside a whole one: rounded up, each.
    let (time, witness) = judged("p384.tsr", "court").unwrap();
    assert!(
        ["2026-01-01T00:10:02Z", "2026-01-01T00:10:03Z"].contains(&time.as_str()),
        "{time}"
    );
    assert_eq!(witness, "CN=clock of court");
}

#[test]
fn what_no_authority_saw_in_time_is_refused_with_the_reason() {
    for (name, root, code) in [
        ("document.tsr", "town", "timestamp_imprint"),
        ("sha384.tsr", "town", "timestamp_imprint"),
        ("sha512.tsr", "town", "timestamp_imprint"),
        ("too-early.tsr", "town", "anchor_too_early"),
        ("too-late.tsr", "town", "anchor_outside_leaf"),
        ("rough-too-late.tsr", "town", "anchor_outside_leaf"),
        ("good.tsr", "abbey", "timestamp_untrusted"),
        ("expired.tsr", "fair", "timestamp_untrusted"),
        ("not-critical.tst", "town", "timestamp_untrusted"),
        ("two-purposes.tst", "town", "timestamp_untrusted"),
        ("code.tst", "town", "timestamp_untrusted"),
        ("no-purpose.tst", "town", "timestamp_untrusted"),
        ("no-certificate-named.tst", "town", "timestamp_signature"),
        ("no-attributes.tst", "town", "timestamp_signature"),
        ("sha1.tst", "town", "timestamp_signature"),
        ("no-certificate.tsr", "town", "timestamp_malformed"),
        ("another-certificate.tst", "town", "timestamp_malformed"),
        ("another-content-type.tst", "town", "timestamp_malformed"),
        ("two-signers.tst", "town", "timestamp_malformed"),
        ("not-signed.tst", "town", "timestamp_malformed"),
        ("refused.tsr", "town", "timestamp_malformed"),
        ("town.pem", "town", "timestamp_malformed"),
    ] {
        assert_eq!(judged(name, root), Err(code), "{name}");
    }
    // Each step once and in order, and nothing is called passed that the leaf has not confirmed.
    let (evidence, root) = (
        file("cases/evidence/good.cbor"),
        MockRoot::from_pem(&file("cases/root.pem")).unwrap(),
    );
    let token = String::from_utf8(file("cases/tokens/good.jwt")).unwrap();
    for name in ["too-early.tsr", "too-late.tsr"] {
        let late = stamp(name, "town").unwrap();
        let subject = Subject::Token {
            token: &token,
            evidence: &evidence,
        };
        let verifier = witnessed(late.clone(), &root, LATER);
        let checks = verifier.judge(subject).unwrap_err().checks;
        assert!(
            checks.windows(2).all(|pair| pair[0].step < pair[1].step),
            "{checks:?}"
        );
        let failed: Vec<_> = checks
            .iter()
            .filter(|check| check.outcome == Outcome::Failed)
            .map(|check| check.step)
            .collect();
        assert_eq!(failed, [Step::TimeAnchor]);
    }
    let good = stamp("good.tsr", "town").unwrap();
    let subject = Subject::Token {
        token: &token,
        evidence: &evidence,
    };
    let verifier = witnessed(good.clone(), &root, LATER);
    let checks = verifier.judge(subject).unwrap().checks;
    assert!(
        checks.windows(2).all(|pair| pair[0].step < pair[1].step),
        "{checks:?}"
    );
    let meaning = |step| {
        checks
            .iter()
            .find(|check| check.step == step)
            .and_then(|check| check.meaning)
            .unwrap()
    };
    assert_eq!(
        meaning(Step::Validity),
        "It was valid at its own time: neither expired nor of the future."
    );
    assert_eq!(
        meaning(Step::DocumentSignature),
        "The mock's key signed this document; nobody has changed it since."
    );
    let seen = parse_rfc3339("2026-01-01T00:10:00Z").unwrap();
    assert_eq!(judged_at(&good, seen.plus(-6)), Err("anchor_from_future"));
    assert!(judged_at(&good, seen.plus(-5)).is_ok());
}

#[test]
fn a_witness_speaks_for_the_bytes_that_it_saw_and_for_no_others() {
    let evidence = Evidence::parse(&file("cases/evidence/good.cbor")).unwrap();
    let (document, token) = (evidence.document(), file("cases/tokens/good.jwt"));
    let good = stamp("good.tsr", "town").unwrap();
    assert!(good.prove(&anchored_digest(document, &token)).is_ok());
    assert_eq!(
        anchored_digest(document, &token),
        sha256(&[document, &token].concat())
    );
    assert_eq!(good.prove(&sha256(b"")), Err(Error::TimestampImprint));
    let alone = stamp("document.tsr", "town").unwrap();
    let root = MockRoot::from_pem(&file("cases/root.pem")).unwrap();
    for subject in [
        Subject::Document(document),
        Subject::Evidence(&file("cases/evidence/good.cbor")),
    ] {
        let verifier = witnessed(alone.clone(), &root, LATER);
        let verdict = verifier.judge(subject).unwrap();
        assert_eq!(
            (verdict.anchor_digest, verdict.archive.is_some()),
            (sha256(document), true)
        );
    }
    // Of a credential, its canonical form is what counts, however it is spelled.
    let canonical = identity::json::canonical(
        &identity::json::parse(&file("cases/credentials/good.json")).unwrap(),
    )
    .unwrap();
    let pretty: serde_json::Value = serde_json::from_slice(&canonical).unwrap();
    let evidence_file = file("cases/evidence/good.cbor");
    for spelled in [
        canonical.clone(),
        serde_json::to_vec_pretty(&pretty).unwrap(),
    ] {
        let subject = Subject::Credential {
            credential: &spelled,
            evidence: &evidence_file,
        };
        let at = UnixSeconds(1_767_225_600);
        let verdict = Verifier {
            allow_mock: Some(root.clone()),
            inspect: true,
            ..Verifier::at(at)
        }
        .judge(subject)
        .unwrap();
        assert_eq!(verdict.anchor_digest, anchored_digest(document, &canonical));
    }
    let credential = file("cases/credentials/good.json");
    let subject = Subject::Credential {
        credential: &credential,
        evidence: &file("cases/evidence/good.cbor"),
    };
    let verifier = witnessed(good.clone(), &root, LATER);
    assert_eq!(
        verifier.judge(subject).unwrap_err().code(),
        "timestamp_imprint"
    );
}

#[test]
fn a_time_stamp_changed_in_any_bit_is_refused_or_says_the_same() {
    let evidence = Evidence::parse(&file("cases/evidence/good.cbor")).unwrap();
    let digest = anchored_digest(evidence.document(), &file("cases/tokens/good.jwt"));
    let (bytes, root) = (file("timestamps/token.tst"), file("timestamps/town.pem"));
    let prove =
        |bytes: &[u8]| TimeStamp::new(bytes, &[&root]).and_then(|stamp| stamp.prove(&digest));
    let good = prove(&bytes).unwrap();
    let mut same = 0;
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if let Ok(anchored) = prove(&flipped) {
            assert_eq!(anchored, good, "bit {bit}");
            same += 1;
        }
    }
    // What no signature covers, and nobody reads: versions, the list of digests, and the name of
    // the signature's algorithm, which the key and the digest decide.
    assert!(same <= 150, "{same}");
    for cut in 0..bytes.len() {
        assert!(prove(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn roots_are_read_from_pem_one_or_more_in_each() {
    let (town, abbey) = (file("timestamps/town.pem"), file("timestamps/abbey.pem"));
    let bytes = file("timestamps/good.tsr");
    let with = |roots: &[Vec<u8>]| {
        TimeStamp::new(&bytes, roots).and_then(|stamp| {
            stamp.prove(&anchored_digest(
                Evidence::parse(&file("cases/evidence/good.cbor"))?.document(),
                &file("cases/tokens/good.jwt"),
            ))
        })
    };
    assert!(with(&[abbey.clone(), town.clone()]).is_ok());
    assert!(with(&[[abbey.clone(), town.clone()].concat()]).is_ok());
    assert_eq!(with(&[abbey]).unwrap_err().code(), "timestamp_untrusted");
    assert_eq!(
        with(&[]).unwrap_err(),
        Error::TimestampUntrusted("no root was given")
    );
    assert_eq!(
        with(&[b"none".to_vec()]).unwrap_err(),
        Error::TimestampUntrusted("no root was given")
    );
    let broken = String::from_utf8(town)
        .unwrap()
        .replace('M', "*")
        .into_bytes();
    assert_eq!(
        with(&[broken]).unwrap_err(),
        Error::TimestampUntrusted("a root is no certificate in PEM")
    );
    assert_eq!(
        TimeStamp::new(&[0; 65537], &[b""]).unwrap_err(),
        Error::TimestampMalformed("longer than 64 KiB")
    );
    assert_ne!(
        TimeStamp::new(&[0; 65536], &[b""]).unwrap_err(),
        Error::TimestampMalformed("longer than 64 KiB")
    );
}

/// A witness who says whatever it is told.
#[derive(Debug)]
struct Says(UnixSeconds);

impl TimeAnchor for Says {
    fn kind(&self) -> &'static str {
        "says"
    }

    fn prove(&self, _: &identity::Digest<32>) -> Result<Anchored, Error> {
        Ok(Anchored {
            time: self.0,
            witness: "nobody".into(),
        })
    }
}

#[test]
fn a_token_that_was_made_after_its_witness_saw_it_is_refused() {
    let made = UnixSeconds(1_767_225_600);
    let (evidence, root) = (
        file("cases/evidence/good.cbor"),
        MockRoot::from_pem(&file("cases/root.pem")).unwrap(),
    );
    let judged = |token: &str, seen: UnixSeconds| {
        let token = String::from_utf8(file(&format!("cases/tokens/{token}.jwt"))).unwrap();
        let witness = Says(seen);
        let subject = Subject::Token {
            token: &token,
            evidence: &evidence,
        };
        let verifier = witnessed(witness, &root, LATER);
        verifier
            .judge(subject)
            .map(|_| ())
            .map_err(|refusal| refusal.code())
    };
    // Valid from 31 s after the document on, and from 30 s; a skew of 30 s is forgiven.
    assert_eq!(judged("of-the-future", made), Err("anchor_too_early"));
    assert_eq!(judged("of-the-future", made.plus(1)), Ok(()));
    assert_eq!(judged("almost-of-the-future", made), Ok(()));
    assert_eq!(judged("good", made), Ok(()));
}

/// A witness of another kind may have any error.
#[derive(Debug)]
struct Fails(Error);

impl TimeAnchor for Fails {
    fn kind(&self) -> &'static str {
        "none"
    }

    fn prove(&self, _: &identity::Digest<32>) -> Result<Anchored, Error> {
        Err(self.0.clone())
    }
}

#[test]
fn a_witness_that_fails_is_what_failed_whatever_its_error_is_called() {
    let evidence = file("cases/evidence/good.cbor");
    let root = MockRoot::from_pem(&file("cases/root.pem")).unwrap();
    for error in [
        Error::RootUntrusted,
        Error::PolicyMismatch("another".into()),
        Error::TimestampImprint,
    ] {
        let verifier = witnessed(Fails(error.clone()), &root, LATER);
        let refusal = verifier.judge(Subject::Evidence(&evidence)).unwrap_err();
        assert_eq!(refusal.code(), error.code());
        let failed = refusal
            .checks
            .iter()
            .filter(|check| check.outcome == Outcome::Failed);
        assert_eq!(
            failed.map(|check| check.step).collect::<Vec<_>>(),
            [Step::TimeAnchor]
        );
    }
}
