//! Questions over real pipes and real TLS.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use egress::KmsOperation::{Decrypt, GenerateDataKey};
use egress::{Failure, FailureKind, KmsCall};
use rustls::server::Acceptor;
use rustls::version::{TLS12, TLS13};
use support::{Authority, Egress, HOST, NOW, Server, call, good, http, message, request};

/// An egress process that trusts a server.
fn trusting() -> (Egress, Server) {
    let authority = Authority::new();
    let server = authority.server(HOST, &TLS13);
    (Egress::start(vec![authority.anchor]), server)
}

/// What comes of one question when the other end of the line does this.
fn failure(egress: &Egress, act: impl FnOnce(UnixStream) + Send + 'static) -> Failure {
    egress.lend(act);
    egress.client.kms(&call(Decrypt, 5000)).unwrap_err()
}

fn kind_of(egress: &Egress, server: &Server, bytes: Vec<u8>) -> FailureKind {
    failure(egress, server.clone().answer(bytes)).kind
}

#[test]
fn good_answers_come_back_over_both_versions_of_tls() {
    let authority = Authority::new();
    let servers = [&TLS13, &TLS12].map(|version| authority.server(HOST, version));
    let egress = Egress::start(vec![Authority::new().anchor, authority.anchor]);
    for server in servers {
        for operation in [GenerateDataKey, Decrypt] {
            egress.lend(server.clone().answer(good(operation, "arn:1")));
            let answer = egress.client.kms(&call(operation, 5000)).unwrap();
            assert_eq!(answer.key_id, "arn:1");
            let is_new = operation == GenerateDataKey;
            assert_eq!(answer.ciphertext_blob, is_new.then(|| vec![0; 3]));
            assert_eq!(answer.envelope.encrypted_key, [0xee; 256]);
            assert_eq!(answer.envelope.iv, [0x1f; 16]);
            assert_eq!(answer.envelope.ciphertext, [0xcc; 48]);
        }
    }
}

#[test]
fn kms_is_asked_as_the_call_says() {
    let (egress, server) = trusting();
    let (asked, seen) = mpsc::channel();
    egress.lend(move |line| {
        let mut stream = server.accept(line);
        asked.send(request(&mut stream).unwrap()).unwrap();
        stream.write_all(&good(Decrypt, "arn:1")).unwrap();
    });
    egress.client.kms(&call(Decrypt, 5000)).unwrap();
    let seen = String::from_utf8(seen.recv().unwrap()).unwrap();
    assert!(seen.starts_with("POST / HTTP/1.1\r\nHost: kms.eu-central-1.amazonaws.com\r\n"));
    assert!(seen.contains("\r\nX-Amz-Target: TrentService.Decrypt\r\n"));
    assert!(seen.contains("\r\nX-Amz-Security-Token: token\r\n"));
}

/// Why TLS was refused.
fn refused_by_tls(server: &Server, egress: &Egress, call: &KmsCall) -> String {
    egress.lend(server.clone().answer(good(Decrypt, "arn:1")));
    let failure = egress.client.kms(call).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Tls, "{failure}");
    failure.message
}

#[test]
fn who_answers_is_who_was_meant_at_the_time_of_the_call() {
    let authority = Authority::new();
    let [right, wrong] =
        [HOST, "kms.us-east-1.amazonaws.com"].map(|name| authority.server(name, &TLS13));
    let egress = Egress::start(vec![authority.anchor]);
    let at = |time| KmsCall {
        time,
        ..call(Decrypt, 5000)
    };
    let refused = |server, time| refused_by_tls(server, &egress, &at(time));

    let why = refused(&wrong, NOW);
    assert!(why.contains("not valid for name"), "{why}");
    let unknown = Authority::new().server(HOST, &TLS13);
    let why = refused(&unknown, NOW);
    assert!(
        why.contains("BadSignature") || why.contains("UnknownIssuer"),
        "{why}"
    );
    // The certificate is valid from the first second of 2026 to that of 2027.
    let why = refused(&right, 1_767_225_599);
    assert!(why.contains("not valid yet"), "{why}");
    let why = refused(&right, 1_798_761_601);
    assert!(why.contains("expired"), "{why}");
    for time in [1_767_225_600, 1_798_761_600] {
        egress.lend(right.clone().answer(good(Decrypt, "arn:1")));
        assert!(egress.client.kms(&at(time)).is_ok());
    }
}

#[test]
fn an_answer_that_is_cut_is_broken() {
    let (egress, server) = trusting();
    let whole = good(Decrypt, "arn:1");
    for cut in (0..whole.len()).step_by(41).chain([whole.len() - 1]) {
        let kind = kind_of(&egress, &server, whole[..cut].to_vec());
        assert_eq!(kind, FailureKind::Broken, "cut at {cut}");
    }
    // The line itself is cut: in the handshake, and in the records after it.
    for cut in (0..3000).step_by(173) {
        let (server, whole) = (server.clone(), whole.clone());
        egress.lend(move |line| relay(&line, server.answer(whole), cut, Duration::ZERO));
        match egress.client.kms(&call(Decrypt, 5000)) {
            Err(failure) => assert_eq!(failure.kind, FailureKind::Broken, "cut at {cut}"),
            Ok(_) => assert!(cut > 1000, "cut at {cut}"),
        }
    }
}

/// Passes bytes between a line and who answers: what he says one by one with pauses, and no more
/// than so many.
fn relay(
    mut line: &UnixStream,
    act: impl FnOnce(UnixStream) + Send + 'static,
    most: usize,
    pause: Duration,
) {
    let (mut near, far) = UnixStream::pair().unwrap();
    thread::spawn(move || act(far));
    let (mut from, mut to) = (line.try_clone().unwrap(), near.try_clone().unwrap());
    thread::spawn(move || std::io::copy(&mut from, &mut to));
    let mut byte = [0];
    for _ in 0..most {
        if near.read(&mut byte).unwrap_or(0) == 0 || line.write_all(&byte).is_err() {
            break;
        }
        thread::sleep(pause);
    }
    let _ = line.shutdown(Shutdown::Both);
}

#[test]
fn refusals_of_kms_are_told_apart() {
    let (egress, server) = trusting();
    let denied = http(400, r#"{"__type":"AccessDeniedException","Message":"no"}"#);
    let refused = failure(&egress, server.clone().answer(denied));
    assert_eq!(refused.kind, FailureKind::Refused);
    assert_eq!(refused.message, "AccessDeniedException: no");
    for status in [429, 500] {
        let kind = kind_of(&egress, &server, http(status, "{}"));
        assert_eq!(kind, FailureKind::Unavailable);
    }
    let throttled = http(400, r#"{"__type":"ThrottlingException"}"#);
    assert_eq!(
        kind_of(&egress, &server, throttled),
        FailureKind::Unavailable
    );
}

#[test]
fn answers_of_another_kind_are_refused() {
    let (egress, server) = trusting();
    let plaintext = http(200, r#"{"KeyId":"a","Plaintext":"AAAA"}"#);
    assert_eq!(kind_of(&egress, &server, plaintext), FailureKind::Plaintext);
    let two = data_encoding::BASE64.encode(&message(2));
    let two = http(
        200,
        &format!(r#"{{"KeyId":"a","CiphertextForRecipient":"{two}"}}"#),
    );
    let two = failure(&egress, server.clone().answer(two));
    assert_eq!(two.kind, FailureKind::Malformed);
    assert_eq!(two.message, "EnvelopedData is for 2 recipients");
    for other in [
        http(302, ""),
        http(100, ""),
        http(204, ""),
        b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        [good(Decrypt, "a"), b"!".to_vec()].concat(),
    ] {
        let kind = kind_of(&egress, &server, other);
        assert_eq!(kind, FailureKind::Malformed);
    }
}

#[test]
fn a_line_that_speaks_before_it_is_asked_is_no_kms() {
    let (egress, _) = trusting();
    let spoken = failure(&egress, |mut line| {
        line.write_all(&good(Decrypt, "arn:1")).unwrap();
        let _ = line.read_to_end(&mut Vec::new());
    });
    assert_eq!(spoken.kind, FailureKind::Tls, "{spoken}");
}

/// How long a question took that had 600 ms.
fn time_of(egress: &Egress) -> (FailureKind, Duration) {
    let start = Instant::now();
    let failure = egress.client.kms(&call(Decrypt, 600)).unwrap_err();
    (failure.kind, start.elapsed())
}

fn assert_ends_at_the_deadline(egress: &Egress, kind: FailureKind) {
    let (found, took) = time_of(egress);
    assert_eq!(found, kind);
    let right = Duration::from_millis(600)..Duration::from_millis(1100);
    assert!(right.contains(&took), "{took:?}");
}

#[test]
fn silence_ends_at_the_deadline() {
    let (egress, server) = trusting();
    // Before TLS, and in it.
    egress.lend(|mut line| drop(line.read_to_end(&mut Vec::new())));
    assert_ends_at_the_deadline(&egress, FailureKind::TooSlow);
    egress.lend(move |line| drop(server.accept(line).read_to_end(&mut Vec::new())));
    assert_ends_at_the_deadline(&egress, FailureKind::TooSlow);
}

#[test]
fn a_slow_line_ends_at_the_deadline() {
    let (egress, server) = trusting();
    let tls = server.clone();
    let pause = Duration::from_millis(200);
    let answer = tls.answer(good(Decrypt, "arn:1"));
    egress.lend(move |line| relay(&line, answer, usize::MAX, pause));
    assert_ends_at_the_deadline(&egress, FailureKind::TooSlow);
    // The line is fast, and what comes in it slow.
    egress.lend(move |line| {
        let mut stream = server.accept(line);
        let _ = request(&mut stream);
        for byte in good(Decrypt, "arn:1") {
            if stream
                .write_all(&[byte])
                .and_then(|()| stream.flush())
                .is_err()
            {
                break;
            }
            thread::sleep(pause);
        }
    });
    assert_ends_at_the_deadline(&egress, FailureKind::TooSlow);
}

#[test]
fn without_a_line_there_is_no_answer() {
    let (egress, _) = trusting();
    assert_ends_at_the_deadline(&egress, FailureKind::NoLine);
}

#[test]
fn a_question_after_one_that_was_given_up_gets_its_own_answer() {
    let (egress, server) = trusting();
    let late = server.clone();
    egress.lend(move |line| {
        let mut stream = late.accept(line);
        let _ = request(&mut stream);
        thread::sleep(Duration::from_millis(800));
        let _ = stream.write_all(&good(Decrypt, "arn:late"));
    });
    assert_eq!(time_of(&egress).0, FailureKind::TooSlow);
    egress.lend(server.answer(good(Decrypt, "arn:own")));
    let answer = egress.client.kms(&call(Decrypt, 5000)).unwrap();
    assert_eq!(answer.key_id, "arn:own");
}

#[test]
fn a_stale_line_does_not_count_beside_a_newer_one() {
    let (egress, server) = trusting();
    egress.lend(drop).join().unwrap();
    egress.lend(server.clone().answer(good(Decrypt, "arn:1")));
    assert!(egress.client.kms(&call(Decrypt, 5000)).is_ok());
    // Alone it is broken, and the next one is good again.
    egress.lend(drop).join().unwrap();
    let stale = egress.client.kms(&call(Decrypt, 5000)).unwrap_err();
    assert_eq!(stale.kind, FailureKind::Broken);
    egress.lend(server.answer(good(Decrypt, "arn:1")));
    assert!(egress.client.kms(&call(Decrypt, 5000)).is_ok());
}

#[test]
fn the_hello_offers_a_post_quantum_key_first() {
    let (egress, _) = trusting();
    let (tell, told) = mpsc::channel();
    egress.lend(move |mut line| {
        let mut hello = vec![0; 5];
        line.read_exact(&mut hello).unwrap();
        let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
        hello.resize(5 + length, 0);
        line.read_exact(&mut hello[5..]).unwrap();
        tell.send(hello).unwrap();
    });
    let _ = egress.client.kms(&call(Decrypt, 5000));
    let hello = told.recv().unwrap();
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut &hello[..]).unwrap();
    let accepted = acceptor.accept().unwrap_or_else(|_| panic!("no hello"));
    let accepted = accepted.unwrap();
    let parsed = accepted.client_hello();
    assert_eq!(u16::from(parsed.named_groups().unwrap()[0]), 0x11ec);
    assert_eq!(parsed.server_name(), Some(HOST));
    let protocols: Vec<_> = parsed.alpn().unwrap().collect();
    assert_eq!(protocols, [b"http/1.1"]);
    let extensions = extensions(&hello);
    // key_share: its key of 1216 bytes is in the hello, the first of them.
    assert_eq!(extensions[&51][2..6], [0x11, 0xec, 0x04, 0xc0]);
    // session_ticket, early_data, pre_shared_key: nothing of another time.
    for of_before in [35, 42, 41] {
        assert!(!extensions.contains_key(&of_before));
    }
}

/// The extensions of a ClientHello by their numbers (RFC 8446 section 4.1.2).
fn extensions(record: &[u8]) -> BTreeMap<u16, Vec<u8>> {
    let number = |at: usize| u16::from_be_bytes([record[at], record[at + 1]]);
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(record[at]); // legacy_session_id
    at += 2 + usize::from(number(at)); // cipher_suites
    at += 1 + usize::from(record[at]); // legacy_compression_methods
    at += 2;
    let mut found = BTreeMap::new();
    while at < record.len() {
        let end = at + 4 + usize::from(number(at + 2));
        found.insert(number(at), record[at + 4..end].to_vec());
        at = end;
    }
    found
}

#[test]
fn nothing_is_resumed() {
    let (egress, server) = trusting();
    for _ in 0..2 {
        let server = server.clone();
        let seen = egress.lend(move |line| {
            let mut stream = server.accept(line);
            request(&mut stream).unwrap();
            let kind = stream.conn.handshake_kind();
            assert_eq!(kind, Some(rustls::HandshakeKind::Full));
            stream.write_all(&good(Decrypt, "arn:1")).unwrap();
        });
        egress.client.kms(&call(Decrypt, 5000)).unwrap();
        seen.join().unwrap();
    }
}

#[test]
fn the_egress_process_ends_with_its_client() {
    let (egress, _) = trusting();
    drop(egress.client);
    assert!(egress.served.join().unwrap().is_ok());
    assert_eq!(egress.ended.recv().unwrap(), "the egress process ended");
}
