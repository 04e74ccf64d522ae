//! The window as a hostile process on the parent would use it, and an NSM that is not what it
//! should be.

use enclave::Service;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use attestation::Document;
use enclave::{Nsm, NsmError, PeerVerifier};
use harness::window::{InProcess, OPERATOR, PROXY, TestKey, Window, bundle, frame, of, sign};
use identity::Pcr;
use identity::caller::ObservedCaller;
use identity::{Digest, Tee, cbor};
use protocol::{
    Answer, ChannelProof, Kind, MAX_FRAME, RecordEnd, Request, RequestFrame, Requester,
};
use qemu_dev::authority::Authority;
use qemu_dev::nsm::{Encoding, MockNsm, os_random};

fn mock() -> MockNsm {
    let now = harness::now().0.unsigned_abs();
    let measured = [Digest([1; 48]), Digest([2; 48]), Digest([3; 48])];
    let clock = Box::new(|| harness::now().0.unsigned_abs() * 1000);
    MockNsm::new(
        Authority::new(now, &mut os_random),
        &measured,
        clock,
        Encoding::Definite,
    )
    .unwrap()
}

fn code<T: std::fmt::Debug>(outcome: std::io::Result<Result<T, protocol::Refusal>>) -> String {
    outcome.unwrap().unwrap_err().code
}

#[test]
fn a_wrong_frame_closes_its_connection_and_nothing_else() {
    let (enclave, mut good) = InProcess::boot(mock()).provisioned();
    let key = TestKey::new(PROXY);
    let request = frame(&RequestFrame {
        id: 1,
        request: sign("agent"),
    });
    let mut padded = request.clone();
    padded.push(0);
    padded[3] += 1;
    for wrong in [
        vec![0, 0, 0, 0],
        vec![0, 1, 0, 1],
        vec![0xff; 64],
        [&[0, 0, 0, 64][..], &[0xff; 64]].concat(),
        padded,
        // An unknown kind of request.
        vec![0, 0, 0, 5, 0x82, 1, 0x82, 0x18, 0x63],
    ] {
        let mut window = Window::connect(&enclave.socket, &key).unwrap().unwrap();
        window.send(&wrong).unwrap();
        assert!(window.is_closed(), "{wrong:02x?}");
        assert!(matches!(
            good.ask(sign("agent")).unwrap(),
            Ok(Answer::Signed(_))
        ));
    }
    // Cut at every byte.
    for length in 0..request.len() {
        let mut window = Window::connect(&enclave.socket, &key).unwrap().unwrap();
        window.send(&request[..length]).unwrap();
        drop(window);
    }
    assert!(matches!(
        good.ask(sign("agent")).unwrap(),
        Ok(Answer::Signed(_))
    ));
    assert_eq!(MAX_FRAME, 65536);
}

#[test]
fn a_connection_that_cannot_prove_the_proxys_key_gets_nothing() {
    let (enclave, _window) = InProcess::boot(mock()).provisioned();
    let other = TestKey::new(9);
    assert_eq!(
        code(Window::connect(&enclave.socket, &other).map(|met| met.map(|_| ()))),
        "proxy_key_mismatch"
    );
    assert_eq!(
        code(Window::connect(&enclave.socket, &TestKey::new(OPERATOR)).map(|met| met.map(|_| ()))),
        "proxy_key_mismatch"
    );

    // A proof for another connection's challenge is none for this one.
    let (_, hello) = Window::open(&enclave.socket).unwrap();
    let stolen = ChannelProof::new(&hello, &TestKey::new(PROXY)).unwrap();
    let (mut window, _) = Window::open(&enclave.socket).unwrap();
    window.send(&frame(&stolen)).unwrap();
    assert_eq!(code(window.welcome()), "proof_invalid");
    assert!(window.is_closed());

    // A request instead of a proof.
    let (mut window, _) = Window::open(&enclave.socket).unwrap();
    window
        .send(&frame(&RequestFrame {
            id: 1,
            request: sign("agent"),
        }))
        .unwrap();
    let refusal = code(window.welcome());
    assert!(
        ["version_unknown", "message_malformed"].contains(&refusal.as_str()),
        "{refusal}"
    );

    // Another version.
    let (mut window, hello) = Window::open(&enclave.socket).unwrap();
    let mut proof = ChannelProof::new(&hello, &TestKey::new(PROXY)).unwrap();
    proof.version = protocol::VERSION - 1;
    window.send(&frame(&proof)).unwrap();
    assert_eq!(code(window.welcome()), "version_unknown");

    // Silence: closed after five seconds, and others are served meanwhile.
    let begin = Instant::now();
    let (mut silent, _) = Window::open(&enclave.socket).unwrap();
    let mut good = Window::connect(&enclave.socket, &TestKey::new(PROXY))
        .unwrap()
        .unwrap();
    assert!(good.ask(sign("agent")).unwrap().is_ok());
    assert!(silent.is_closed() && begin.elapsed() < Duration::from_secs(15));
}

#[test]
fn strangers_cannot_take_every_place() {
    let (enclave, mut window) = InProcess::boot(mock()).provisioned();
    let strangers: Vec<_> = (0..40)
        .filter_map(|_| Window::open(&enclave.socket).ok())
        .collect();
    assert!(strangers.len() <= 8, "{}", strangers.len());
    assert!(
        window.ask(sign("agent")).unwrap().is_ok(),
        "the proxy's own connection works on"
    );
    drop(strangers);
    harness::wait_for(|| {
        Window::connect(&enclave.socket, &TestKey::new(PROXY)).is_ok_and(|met| met.is_ok())
    });
}

#[test]
fn a_policy_is_given_once_and_by_the_proxy_that_it_names() {
    let enclave = InProcess::boot(mock());
    let provision = |bundle: &[u8]| Request::Provision {
        bundle: bundle.to_vec(),
        before: None,
    };
    let canonical = bundle("development").canonical();
    let mut other = Window::connect(&enclave.socket, &TestKey::new(9))
        .unwrap()
        .unwrap();
    assert_eq!(code(other.ask(sign("agent"))), "not_provisioned");
    assert_eq!(code(other.ask(provision(&canonical))), "proxy_key_mismatch");
    let mut window = Window::connect(&enclave.socket, &TestKey::new(PROXY))
        .unwrap()
        .unwrap();
    assert_eq!(code(window.ask(provision(b"{}"))), "policy_malformed");
    assert_eq!(
        code(window.ask(provision(&[&canonical[..], b" "].concat()))),
        "policy_malformed"
    );
    // What the record ended with before this boot is of another boot, and is a number that JSON
    // holds; nothing is touched before.
    let own = RecordEnd {
        boot_id: enclave.enclave.boot_id(),
        last: 1,
        leaf: [1; 32],
    };
    for before in [
        own,
        RecordEnd {
            boot_id: identity::BootId::new([1; 16]),
            last: 1 << 53,
            leaf: [1; 32],
        },
    ] {
        assert_eq!(
            code(window.ask(Request::Provision {
                bundle: canonical.clone(),
                before: Some(before)
            })),
            "record_end_invalid"
        );
    }
    let before = RecordEnd {
        boot_id: identity::BootId::new([1; 16]),
        last: 7,
        leaf: [2; 32],
    };
    assert!(
        window
            .ask(Request::Provision {
                bundle: canonical.clone(),
                before: Some(before)
            })
            .unwrap()
            .is_ok()
    );
    let Answer::Records(records) = window.ask(Request::Records { from: 0 }).unwrap().unwrap()
    else {
        panic!()
    };
    let boot: serde_json::Value = serde_json::from_slice(&records.lines[0]).unwrap();
    assert_eq!(
        boot["before"],
        serde_json::json!({"boot_id": "01".repeat(16), "last": 7, "leaf": "02".repeat(32)})
    );
    assert_eq!(
        code(window.ask(provision(&canonical))),
        "already_provisioned"
    );
    assert_eq!(
        code(window.ask(provision(&bundle("production").canonical()))),
        "already_provisioned"
    );
    // A connection that was open before the policy and proved another key is worth nothing now.
    other
        .send(&frame(&RequestFrame {
            id: 7,
            request: sign("agent"),
        }))
        .unwrap();
    assert!(other.is_closed());
    // Nor is a request that waited in a queue while the policy came.
    let stranger = TestKey::new(9);
    for request in [
        sign("agent"),
        Request::Rotate(rotate("agent", None)),
        Request::Describe(of("agent")),
    ] {
        let outcome = enclave
            .enclave
            .handle(request, identity::Signer::public_key(&stranger));
        let refused = enclave
            .enclave
            .release(vec![outcome])
            .remove(0)
            .answer
            .unwrap_err();
        assert_eq!(refused.code(), "proxy_key_mismatch");
    }
    assert!(enclave.powered_off.lock().unwrap().is_empty());
}

#[test]
fn the_enclave_checks_callers_and_sizes_itself() {
    let (_enclave, mut window) = InProcess::boot(mock()).provisioned();
    let with = |change: &dyn Fn(&mut protocol::Sign)| {
        let Request::Sign(mut sign) = sign("agent") else {
            unreachable!()
        };
        change(&mut sign);
        Request::Sign(sign)
    };
    let stranger = Requester {
        caller: ObservedCaller::ids(7, 7),
        identity: Some("agent".into()),
    };
    for (request, expected) in [
        (
            with(&|s| s.requester.caller = ObservedCaller::ids(7, 1000)),
            "caller_not_allowed",
        ),
        (
            with(&|s| s.requester.caller = ObservedCaller::named("1000")),
            "caller_not_allowed",
        ),
        (with(&|s| s.requester.identity = None), "identity_required"),
        (
            with(&|s| s.requester.identity = Some("nobody".into())),
            "unknown_identity",
        ),
        (with(&|s| s.action = String::new()), "intent_invalid"),
        (with(&|s| s.target = "x\n".into()), "intent_invalid"),
        (with(&|s| s.resource = "x".repeat(1025)), "intent_invalid"),
        (with(&|s| s.payload = "null".into()), "json_shape"),
        (with(&|s| s.payload = "{\"x\":0.5}".into()), "json_float"),
        (
            with(&|s| s.payload = "{\"x\":1,\"x\":1}".into()),
            "json_duplicate_key",
        ),
        (
            with(&|s| s.payload = format!("{{\"x\":\"{}\"}}", "x".repeat(33_000))),
            "payload_too_large",
        ),
        (
            with(&|s| s.audience = Some("x".repeat(1025))),
            "audience_invalid",
        ),
        (with(&|s| s.validity_seconds = Some(0)), "validity_invalid"),
        (
            with(&|s| s.validity_seconds = Some(601)),
            "validity_exceeds_policy",
        ),
        (
            Request::Attest {
                requester: stranger.clone(),
                nonce: vec![0; 32],
            },
            "caller_not_allowed",
        ),
        (
            Request::Attest {
                requester: of("agent"),
                nonce: vec![0; 15],
            },
            "nonce_size",
        ),
        (
            Request::Attest {
                requester: of("agent"),
                nonce: vec![0; 65],
            },
            "nonce_size",
        ),
        (Request::Describe(stranger), "caller_not_allowed"),
    ] {
        assert_eq!(code(window.ask(request)), expected);
    }
}

/// The mock, said to be hardware: for what only a production enclave refuses.
struct SaidToBeHardware(MockNsm);

impl Nsm for SaidToBeHardware {
    const TEE: Tee = Tee::AwsNitro;

    fn attest(
        &mut self,
        public_key: Option<&[u8]>,
        user_data: Option<&[u8]>,
        nonce: Option<&[u8]>,
    ) -> Result<Vec<u8>, NsmError> {
        self.0.attest(public_key, user_data, nonce)
    }
    fn extend_pcr(&mut self, index: u16, data: &[u8]) -> Result<Pcr, NsmError> {
        self.0.extend_pcr(index, data)
    }
    fn lock_pcrs(&mut self, range: u16) -> Result<(), NsmError> {
        self.0.lock_pcrs(range)
    }
    fn random(&mut self, out: &mut [u8]) -> Result<(), NsmError> {
        self.0.random(out)
    }
    fn verify_own(&self, document: &[u8]) -> Result<Document, attestation::Error> {
        self.0.verify_own(document)
    }
    fn peers(&self) -> PeerVerifier {
        self.0.peers()
    }
}

#[test]
fn a_production_enclave_refuses_a_development_bundle() {
    let enclave = InProcess::boot(SaidToBeHardware(mock()));
    let mut window = Window::connect(&enclave.socket, &TestKey::new(PROXY))
        .unwrap()
        .unwrap();
    let refused = window
        .ask(Request::Provision {
            bundle: bundle("development").canonical(),
            before: None,
        })
        .unwrap()
        .unwrap_err();
    assert_eq!(
        (refused.kind, refused.code.as_str()),
        (Kind::Denied, "development_bundle")
    );
    assert!(
        window
            .ask(Request::Provision {
                bundle: bundle("production").canonical(),
                before: None
            })
            .unwrap()
            .is_ok()
    );
}

/// What the NSM does wrong.
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
enum Fault {
    None,
    Fails,
    Slow,
    Garbage,
    OldDocument,
    ForeignRoot,
    ZeroRandom,
    WrongPcr,
    NoLock,
}

const FAULTS: [Fault; 9] = [
    Fault::None,
    Fault::Fails,
    Fault::Slow,
    Fault::Garbage,
    Fault::OldDocument,
    Fault::ForeignRoot,
    Fault::ZeroRandom,
    Fault::WrongPcr,
    Fault::NoLock,
];

struct Faulty {
    nsm: MockNsm,
    foreign: MockNsm,
    old: Vec<u8>,
    fault: Arc<AtomicU8>,
}

impl Faulty {
    fn new() -> (Self, Arc<AtomicU8>) {
        let (mut nsm, fault) = (mock(), Arc::new(AtomicU8::new(0)));
        let old = nsm.attest(None, None, Some(&[0; 16])).unwrap();
        (
            Self {
                nsm,
                foreign: mock(),
                old,
                fault: Arc::clone(&fault),
            },
            fault,
        )
    }

    fn fault(&self) -> Fault {
        FAULTS[usize::from(self.fault.load(Ordering::SeqCst))]
    }
}

impl Nsm for Faulty {
    const TEE: Tee = Tee::Mock;

    fn attest(
        &mut self,
        public_key: Option<&[u8]>,
        user_data: Option<&[u8]>,
        nonce: Option<&[u8]>,
    ) -> Result<Vec<u8>, NsmError> {
        match self.fault() {
            Fault::Fails => Err(NsmError::Answered("InternalError".into())),
            Fault::Slow => {
                std::thread::sleep(Duration::from_secs(2));
                self.nsm.attest(public_key, user_data, nonce)
            }
            Fault::Garbage => Ok(vec![0xff; 100]),
            Fault::OldDocument => Ok(self.old.clone()),
            Fault::ForeignRoot => self.foreign.attest(public_key, user_data, nonce),
            _ => self.nsm.attest(public_key, user_data, nonce),
        }
    }
    fn extend_pcr(&mut self, index: u16, data: &[u8]) -> Result<Pcr, NsmError> {
        let value = self.nsm.extend_pcr(index, data)?;
        // As if somebody had extended it before.
        if self.fault() == Fault::WrongPcr {
            self.nsm.extend_pcr(index, data)
        } else {
            Ok(value)
        }
    }
    fn lock_pcrs(&mut self, range: u16) -> Result<(), NsmError> {
        if self.fault() == Fault::NoLock {
            Ok(())
        } else {
            self.nsm.lock_pcrs(range)
        }
    }
    fn random(&mut self, out: &mut [u8]) -> Result<(), NsmError> {
        if self.fault() == Fault::Slow {
            std::thread::sleep(Duration::from_secs(2));
        }
        if self.fault() == Fault::ZeroRandom {
            out.fill(0);
            return Ok(());
        }
        self.nsm.random(out)
    }
    fn verify_own(&self, document: &[u8]) -> Result<Document, attestation::Error> {
        self.nsm.verify_own(document)
    }
    fn peers(&self) -> PeerVerifier {
        self.nsm.peers()
    }
}

const NOW: u64 = 1_795_225_251;

#[test]
fn an_enclave_attests_to_itself_before_it_serves() {
    let nsm_of = |measured: [u8; 3]| {
        let measured = measured.map(|byte| Digest([byte; 48]));
        MockNsm::new(
            Authority::new(NOW, &mut os_random),
            &measured,
            Box::new(|| NOW * 1000),
            Encoding::Indefinite,
        )
        .unwrap()
    };
    let attests = |nsm| {
        InProcess::boot(nsm)
            .enclave
            .attest_to_itself()
            .map_err(|error| error.reason())
    };
    let attested = |measured: [u8; 3], open: Option<usize>| {
        let nsm = nsm_of(measured);
        attests(match open {
            Some(index) => nsm.with_open_register(index),
            None => nsm,
        })
    };
    assert_eq!(attested([1, 2, 3], None), Ok(()));
    for measured in [[0, 2, 3], [1, 0, 3], [1, 2, 0], [0, 0, 0]] {
        assert_eq!(attested(measured, None), Err("debug_mode"));
    }
    // PCR0 to 2 are looked at first.
    assert_eq!(attested([1, 2, 3], Some(0)), Err("pcr_missing"));
    for open in [3, 4, 8, 15] {
        assert_eq!(attested([1, 2, 3], Some(open)), Err("register_unlocked"));
    }
    // Somebody had the machine before us, and locked PCR16: as it was, or extended, even with the
    // policy that we will be given.
    let policy = bundle("development").digest();
    for extended_with in [
        None,
        Some(&b"another policy"[..]),
        Some(policy.digest().as_bytes()),
    ] {
        let mut nsm = nsm_of([1, 2, 3]);
        if let Some(bytes) = extended_with {
            nsm.extend_pcr(16, bytes).unwrap();
        }
        nsm.lock_pcrs(17).unwrap();
        assert_eq!(attests(nsm), Err("nsm_pcr_value"), "{extended_with:?}");
    }
    // A register that was extended and left open shows in no document. Taking the policy finds it.
    let mut nsm = nsm_of([1, 2, 3]);
    nsm.extend_pcr(16, b"another policy").unwrap();
    let enclave = InProcess::boot(nsm);
    assert_eq!(enclave.enclave.attest_to_itself(), Ok(()));
    let mut window = Window::connect(&enclave.socket, &TestKey::new(PROXY))
        .unwrap()
        .unwrap();
    assert_eq!(
        code(window.ask(Request::Provision {
            bundle: bundle("development").canonical(),
            before: None
        })),
        "nsm"
    );
    assert_eq!(*enclave.powered_off.lock().unwrap(), ["nsm"]);

    let (nsm, switch) = Faulty::new();
    let enclave = InProcess::boot(nsm);
    switch.store(Fault::ForeignRoot as u8, Ordering::SeqCst);
    assert_eq!(
        enclave.enclave.attest_to_itself().unwrap_err().reason(),
        "root_untrusted"
    );
}

#[test]
fn any_fault_of_the_nsm_while_the_policy_is_taken_is_the_end_of_the_boot() {
    for fault in [
        Fault::Fails,
        Fault::Garbage,
        Fault::OldDocument,
        Fault::ForeignRoot,
        Fault::ZeroRandom,
        Fault::WrongPcr,
        Fault::NoLock,
    ] {
        let (nsm, switch) = Faulty::new();
        let enclave = InProcess::boot(nsm);
        switch.store(fault as u8, Ordering::SeqCst);
        let mut window = Window::connect(&enclave.socket, &TestKey::new(PROXY))
            .unwrap()
            .unwrap();
        assert_eq!(
            code(window.ask(Request::Provision {
                bundle: bundle("development").canonical(),
                before: None
            })),
            "nsm"
        );
        assert_eq!(*enclave.powered_off.lock().unwrap(), ["nsm"]);
        switch.store(0, Ordering::SeqCst);
        assert_eq!(
            code(window.ask(Request::Provision {
                bundle: bundle("development").canonical(),
                before: None
            })),
            "halted"
        );
        assert_eq!(code(window.ask(sign("agent"))), "halted");
    }
}

/// A check that cannot be made is one that failed.
#[test]
fn what_cannot_be_checked_ends_the_enclave_and_nothing_of_it_leaves() {
    let (enclave, mut window) = InProcess::boot(mock()).provisioned();
    let proxy = TestKey::new(PROXY);
    let signed = |count: usize| -> Vec<_> {
        let key = identity::Signer::public_key(&proxy);
        let sign = || enclave.enclave.handle(sign("agent"), key);
        (0..count).map(|_| sign()).collect()
    };
    for released in enclave.enclave.release(signed(3)) {
        assert!(released.answer.is_ok() && released.event.is_some());
    }
    let records = Request::Records { from: 0 };
    let Answer::Records(before) = window.ask(records.clone()).unwrap().unwrap() else {
        panic!()
    };
    assert_eq!((before.lines.len(), before.next), (4, 4));
    // One token and the head of its record: were either left out of the check, nothing would have
    // to be weighed.
    let batch = signed(1);
    enclave.without_randomness.store(true, Ordering::SeqCst);
    for released in enclave.enclave.release(batch) {
        assert_eq!(released.answer.unwrap_err().code(), "no_randomness");
        assert_eq!(released.event, None);
    }
    enclave.without_randomness.store(false, Ordering::SeqCst);
    assert_eq!(*enclave.powered_off.lock().unwrap(), ["no_randomness"]);
    assert_eq!(code(window.ask(sign("agent"))), "halted");
    assert_eq!(code(window.ask(records)), "halted");
}

#[test]
fn a_fault_of_the_nsm_later_costs_evidence_and_not_signatures() {
    let (nsm, switch) = Faulty::new();
    let (enclave, mut window) = InProcess::boot(nsm).provisioned();
    let attest = || Request::Attest {
        requester: of("agent"),
        nonce: vec![7; 32],
    };
    for fault in [
        Fault::Fails,
        Fault::Garbage,
        Fault::OldDocument,
        Fault::ForeignRoot,
    ] {
        switch.store(fault as u8, Ordering::SeqCst);
        assert_eq!(code(window.ask(attest())), "nsm");
        assert_eq!(enclave.enclave.refresh_clock().unwrap_err().code(), "nsm");
        assert!(window.ask(sign("agent")).unwrap().is_ok());
    }
    switch.store(Fault::Slow as u8, Ordering::SeqCst);
    let mut second = Window::connect(&enclave.socket, &TestKey::new(PROXY))
        .unwrap()
        .unwrap();
    let waiting = std::thread::spawn(move || window.ask(attest()).unwrap().is_ok());
    std::thread::sleep(Duration::from_millis(200));
    let begin = Instant::now();
    assert!(second.ask(sign("agent")).unwrap().is_ok());
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "a signature waited for the NSM"
    );
    assert!(waiting.join().unwrap());

    // Nor does a signature wait for a rotation, which takes randomness of the NSM.
    let order = identity::succession::Order {
        identity: "agent".into(),
        boot_id: enclave.enclave.boot_id(),
        version: 1,
        not_after: harness::now().0 + 60,
    };
    let order = order.sign(&TestKey::new(OPERATOR)).unwrap();
    let mut third = Window::connect(&enclave.socket, &TestKey::new(PROXY))
        .unwrap()
        .unwrap();
    let waiting = std::thread::spawn(move || {
        third
            .ask(Request::Rotate(rotate("agent", Some(order))))
            .unwrap()
    });
    std::thread::sleep(Duration::from_millis(200));
    let begin = Instant::now();
    assert!(second.ask(sign("agent")).unwrap().is_ok());
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "a signature waited for a rotation"
    );
    let Ok(Answer::Rotated(rotated)) = waiting.join().unwrap() else {
        panic!("not rotated")
    };
    assert_eq!(rotated.description.versions.last().unwrap().version, 2);
    assert!(enclave.powered_off.lock().unwrap().is_empty());
}

fn rotate(name: &str, order: Option<Vec<u8>>) -> protocol::Rotate {
    protocol::Rotate {
        requester: of(name),
        order,
        proof: None,
    }
}

#[test]
fn who_came_before_the_policy_keeps_no_place_by_silence() {
    let enclave = InProcess::boot(mock());
    let mut early = Window::connect(&enclave.socket, &TestKey::new(9))
        .unwrap()
        .unwrap();
    let (_enclave, mut window) = enclave.provisioned();
    let begin = Instant::now();
    assert!(early.is_closed() && begin.elapsed() < Duration::from_secs(15));
    assert!(
        window.ask(sign("agent")).unwrap().is_ok(),
        "the proxy may be silent as long as it likes"
    );
}

#[test]
fn two_boots_have_nothing_in_common_but_the_policy() {
    let born = || {
        let (_enclave, mut window) = InProcess::boot(mock()).provisioned();
        let Ok(Answer::Description(described)) = window.ask(Request::Describe(of("web"))).unwrap()
        else {
            panic!()
        };
        (described.boot_id, described.versions[0].spki.clone())
    };
    let (first, second) = (born(), born());
    assert_ne!(first.0, second.0);
    assert_ne!(first.1, second.1);
}

#[test]
fn a_request_frame_has_one_encoding() {
    let request = RequestFrame {
        id: 24,
        request: sign("agent"),
    };
    let bytes = cbor::to_vec(&request);
    // 24 as two bytes is right, as three it is another encoding of the same number.
    assert_eq!(bytes[1..3], [0x18, 24]);
    let longer = [&bytes[..1], &[0x19, 0, 24], &bytes[3..]].concat();
    assert!(cbor::from_slice::<RequestFrame>(&longer).is_err());
}
