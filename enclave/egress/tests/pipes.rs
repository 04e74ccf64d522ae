//! The two ends of the pipes, each against one that lies.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use egress::KmsOperation::{Decrypt, GenerateDataKey};
use egress::{
    Anchor, Answer, Ask, Client, Envelope, Error, Failure, FailureKind, KmsAnswer, KmsCall, Line,
    Lines,
};
use protocol::write_frame;
use support::{Authority, call};

/// Nobody lends a line.
struct NoLines;

impl Lines for NoLines {
    fn next(&mut self, _: Duration) -> io::Result<Option<Box<dyn Line>>> {
        Ok(None)
    }
}

fn frames(asks: &[Ask]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for ask in asks {
        write_frame(ask, &mut bytes).unwrap();
    }
    bytes
}

fn begin() -> Ask {
    let anchors = vec![Authority::new().anchor];
    Ask::Begin { anchors }
}

fn served(input: &[u8]) -> (Result<(), Error>, Vec<u8>) {
    let mut output = Vec::new();
    (egress::serve(input, &mut output, NoLines), output)
}

fn answers(answers: &[Answer]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for answer in answers {
        write_frame(answer, &mut bytes).unwrap();
    }
    bytes
}

fn failed(kind: FailureKind, message: &str) -> Answer {
    let message = message.into();
    Answer::Failed(Failure { kind, message })
}

#[test]
fn each_question_has_one_answer() {
    let ask = Ask::Kms(call(Decrypt, 100));
    let (end, output) = served(&frames(&[begin(), ask.clone(), ask]));
    assert!(end.is_ok());
    let none = failed(FailureKind::NoLine, "nobody lent a line in time");
    assert_eq!(output, answers(&[Answer::Ready, none.clone(), none]));
    let (end, output) = served(b"");
    assert!(end.is_ok() && output.is_empty());
}

#[test]
fn a_call_that_cannot_be_sent_takes_no_line() {
    struct Never;
    impl Lines for Never {
        fn next(&mut self, _: Duration) -> io::Result<Option<Box<dyn Line>>> {
            panic!("a line was taken")
        }
    }
    for (what, bad) in [
        (
            "Authorization",
            with(|call| call.authorization = "a\r\nb: c".into()),
        ),
        ("the host", with(|call| call.host = "127.0.0.1".into())),
        ("the time", with(|call| call.time = -1)),
    ] {
        let mut output = Vec::new();
        let asks = frames(&[begin(), Ask::Kms(bad)]);
        egress::serve(&asks[..], &mut output, Never).unwrap();
        let words = format!("{what} of the call is not of its form");
        let expected = [Answer::Ready, failed(FailureKind::Malformed, &words)];
        assert_eq!(output, answers(&expected));
    }
}

fn with(change: impl FnOnce(&mut KmsCall)) -> KmsCall {
    let mut call = call(Decrypt, 100);
    change(&mut call);
    call
}

#[test]
fn the_first_question_is_begin_and_no_other_is() {
    let kms = Ask::Kms(call(Decrypt, 100));
    let (end, output) = served(&frames(&[kms]));
    assert!(matches!(end, Err(Error::NotBegun)) && output.is_empty());
    let (end, output) = served(&frames(&[begin(), begin()]));
    assert!(matches!(end, Err(Error::BegunTwice)));
    assert_eq!(output, answers(&[Answer::Ready]));
    let nobody = Ask::Begin { anchors: vec![] };
    let (end, output) = served(&frames(&[nobody]));
    assert!(matches!(end, Err(Error::NoAnchors)) && output.is_empty());
}

#[test]
fn a_wrong_frame_is_the_end() {
    let good = frames(&[begin()]);
    for cut in 1..good.len() {
        assert!(matches!(served(&good[..cut]).0, Err(Error::FrameCut)));
    }
    for bad in [&[0, 0, 0, 0][..], &[0xff; 8], &[0, 0, 0, 1, 0]] {
        let (end, _) = served(&[&good, bad].concat());
        assert!(matches!(end, Err(Error::Frame(_))), "{bad:?}");
    }
}

/// The pipes of an egress process, from its side.
struct Fake {
    asks: PipeReader,
    answers: PipeWriter,
}

impl Fake {
    /// Takes one question: its whole frame.
    fn take(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 4];
        self.asks.read_exact(&mut length).ok()?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.asks.read_exact(&mut frame).ok()?;
        Some(frame)
    }

    fn give(&mut self, answer: &Answer) {
        let _ = self
            .answers
            .write_all(&answers(std::slice::from_ref(answer)));
    }
}

/// A client of an egress process that, once it is ready, does this.
fn client(act: impl FnOnce(Fake) + Send + 'static) -> (Client, Receiver<String>) {
    let (client, ended) = start(|mut fake| {
        fake.take();
        fake.give(&Answer::Ready);
        act(fake);
    });
    (client.unwrap(), ended)
}

fn start(act: impl FnOnce(Fake) + Send + 'static) -> (Result<Client, Error>, Receiver<String>) {
    let (asks, to) = io::pipe().unwrap();
    let (from, answers) = io::pipe().unwrap();
    thread::spawn(move || act(Fake { asks, answers }));
    let (end, ended) = mpsc::channel();
    let client = Client::start(from, to, vec![anchor()], move |why| {
        let _ = end.send(why.to_owned());
    });
    (client, ended)
}

/// Why the egress process is held to have ended.
fn why(ended: &Receiver<String>) -> String {
    ended.recv_timeout(Duration::from_secs(5)).unwrap()
}

fn anchor() -> Anchor {
    Anchor {
        subject: vec![],
        spki: vec![],
        name_constraints: None,
    }
}

fn answer(key_id: &str) -> KmsAnswer {
    KmsAnswer {
        key_id: key_id.into(),
        ciphertext_blob: None,
        envelope: Envelope {
            encrypted_key: vec![1; 256],
            iv: vec![2; 16],
            ciphertext: vec![3; 48],
        },
    }
}

/// What a client makes of an answer to Decrypt.
fn taken(given: Answer) -> Result<KmsAnswer, Failure> {
    let (client, _) = client(move |mut fake| {
        fake.take();
        fake.give(&given);
        fake.take();
    });
    client.kms(&call(Decrypt, 1000))
}

fn changed(change: impl FnOnce(&mut KmsAnswer)) -> Option<FailureKind> {
    let mut answer = answer("arn:1");
    change(&mut answer);
    taken(Answer::Kms(answer)).err().map(|failure| failure.kind)
}

#[test]
fn an_answer_beyond_its_limits_is_malformed() {
    let malformed = Some(FailureKind::Malformed);
    assert_eq!(changed(|_| {}), None);
    assert_eq!(
        changed(|answer| answer.envelope.encrypted_key.truncate(255)),
        malformed
    );
    assert_eq!(changed(|answer| answer.envelope.iv.push(0)), malformed);
    for length in [0, 15, 6160] {
        let kind = changed(|answer| answer.envelope.ciphertext = vec![0; length]);
        assert_eq!(kind, malformed);
    }
    assert_eq!(
        changed(|answer| answer.envelope.ciphertext = vec![0; 6144]),
        None
    );
    assert_eq!(changed(|answer| answer.key_id.clear()), malformed);
    assert_eq!(
        changed(|answer| answer.key_id = "a".repeat(2049)),
        malformed
    );
    assert_eq!(changed(|answer| answer.key_id.push('\n')), malformed);
    assert_eq!(
        changed(|answer| answer.ciphertext_blob = Some(vec![0])),
        malformed
    );
}

#[test]
fn a_failure_beyond_its_limits_is_malformed() {
    let failed = |message: &str| taken(failed(FailureKind::Refused, message)).unwrap_err();
    assert_eq!(failed("no").to_string(), "no");
    assert_eq!(failed("no").kind, FailureKind::Refused);
    for message in ["a\n", "\u{1b}", "\u{e9}", &"a".repeat(257)] {
        let failure = failed(message);
        assert_eq!(failure.kind, FailureKind::Malformed);
        assert!(failure.message.is_ascii() && failure.message.len() <= 256);
    }
}

#[test]
fn a_new_key_is_wrapped_by_kms_too() {
    let (client, _) = client(|mut fake| {
        fake.take();
        fake.give(&Answer::Kms(answer("arn:1")));
        fake.take();
    });
    let failure = client.kms(&call(GenerateDataKey, 1000)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Malformed);
}

#[test]
fn a_late_answer_is_not_taken_for_the_next_one() {
    let (client, ended) = client(|mut fake| {
        fake.take();
        thread::sleep(Duration::from_millis(2500));
        fake.give(&Answer::Kms(answer("arn:late")));
        fake.take();
        fake.give(&Answer::Kms(answer("arn:own")));
        fake.take();
    });
    let start = Instant::now();
    let late = client.kms(&call(Decrypt, 0)).unwrap_err();
    assert_eq!(late.kind, FailureKind::TooSlow);
    assert!(start.elapsed() < Duration::from_millis(2400));
    let own = client.kms(&call(Decrypt, 1000)).unwrap();
    assert_eq!(own.key_id, "arn:own");
    assert!(ended.try_recv().is_err());
}

#[test]
fn nothing_is_asked_while_an_answer_is_missing() {
    let (tell, told) = mpsc::channel();
    let (client, _) = client(move |mut fake| {
        while fake.take().is_some() {
            tell.send(()).unwrap();
        }
    });
    for _ in 0..2 {
        let failure = client.kms(&call(Decrypt, 0)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::TooSlow);
    }
    drop(client);
    assert_eq!(told.iter().count(), 1);
}

#[test]
fn an_egress_process_that_does_not_read_keeps_nobody() {
    struct Stuck(PipeWriter, bool);
    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            while std::mem::replace(&mut self.1, true) {
                thread::sleep(Duration::from_secs(60));
            }
            self.0.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (_asks, to) = io::pipe().unwrap();
    let (from, mut out) = io::pipe().unwrap();
    thread::spawn(move || {
        // Begin is counted before it is written, so this is in its turn.
        thread::sleep(Duration::from_millis(200));
        out.write_all(&answers(&[Answer::Ready])).unwrap();
        thread::sleep(Duration::from_secs(60));
    });
    let client = Client::start(from, Stuck(to, false), vec![anchor()], |_| {}).unwrap();
    let start = Instant::now();
    let failure = client.kms(&call(Decrypt, 0)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::TooSlow);
    assert!(start.elapsed() < Duration::from_millis(2400));
}

#[test]
fn an_answer_to_nothing_is_the_end() {
    for nonsense in [Answer::Ready, Answer::Kms(answer("arn:1"))] {
        let (client, ended) = client(move |mut fake| {
            fake.give(&nonsense);
            fake.take();
        });
        let expected = "the egress process answered what was not asked";
        assert_eq!(why(&ended), expected);
        let failure = client.kms(&call(Decrypt, 1000)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Broken);
    }
}

#[test]
fn ready_is_no_answer_to_kms() {
    let (client, ended) = client(|mut fake| {
        fake.take();
        fake.give(&Answer::Ready);
        fake.take();
    });
    let failure = client.kms(&call(Decrypt, 1000)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Broken);
    assert_eq!(
        why(&ended),
        "the egress process answered what was not asked"
    );
}

#[test]
fn the_end_of_the_pipe_is_told_at_once() {
    let (client, ended) = client(|mut fake| drop(fake.take()));
    let start = Instant::now();
    let failure = client.kms(&call(Decrypt, 10_000)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Broken);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(why(&ended), "the egress process ended");
}

#[test]
fn nonsense_is_the_end() {
    for (bytes, expected) in [
        (&[0, 0, 0, 0][..], "a wrong frame: a frame of length 0"),
        (&[0, 0, 0, 9, 1], "the pipe ended within a frame"),
    ] {
        let (_client, ended) = client(|mut fake| fake.answers.write_all(bytes).unwrap());
        assert_eq!(why(&ended), expected);
    }
}

#[test]
fn a_client_starts_only_when_the_egress_process_is_ready() {
    let (client, ended) = start(drop);
    assert!(matches!(client, Err(Error::Ended)));
    why(&ended);
    let (client, _) = start(|mut fake| {
        fake.take();
        fake.give(&Answer::Kms(answer("arn:1")));
        fake.take();
    });
    assert!(matches!(client, Err(Error::Ended)));
}

#[test]
fn questions_of_many_threads_come_one_at_a_time() {
    let (client, _) = client(|mut fake| {
        while let Some(frame) = fake.take() {
            thread::sleep(Duration::from_millis(5));
            let text = String::from_utf8_lossy(&frame).into_owned();
            let host = text.split("kms.").nth(1).unwrap();
            let host = host.split(".amazonaws").next().unwrap();
            fake.give(&Answer::Kms(answer(host)));
        }
    });
    thread::scope(|scope| {
        for thread in 0..4 {
            let client = &client;
            scope.spawn(move || {
                for turn in 0..10 {
                    let mut call = call(Decrypt, 5000);
                    let own = format!("r{thread}-{turn}");
                    call.host = format!("kms.{own}.amazonaws.com");
                    assert_eq!(client.kms(&call).unwrap().key_id, own);
                }
            });
        }
    });
}
