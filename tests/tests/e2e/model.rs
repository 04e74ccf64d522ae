//! A model of settling and of the record, held against an enclave: whatever is asked in whatever order, over two connections whose
//! answers come late, together, or get lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Duration;

use enclave::{Outcome, Released, Service};
use harness::window::{InProcess, OPERATOR, PROXY, TestKey, bundle};
use identity::caller::ObservedCaller;
use identity::request::Approval;
use identity::succession::Order;
use identity::{ApprovalId, Digest, Format, PublicKey, Signer};
use policy::Bundle;
use proptest::prelude::*;
use protocol::{Answer, Request, Requester, Rotate, Sign};
use qemu_dev::authority::Authority;
use qemu_dev::nsm::{Encoding, MockNsm, os_random};
use record::{Reader, Verdict};
use serde_json::{Value, json};

const ALICE: u8 = 60;
const BOB: u8 = 61;
/// So many of each are signed in a day.
const MOST_COUNTED: usize = 4;
const MOST_ASKED: usize = 3;

/// What is asked; each over one of two connections.
#[derive(Debug, Clone, Copy)]
enum Ask {
    /// A signature without a limit.
    Free,
    /// One of those of which there are only so many.
    Counted,
    /// One that Alice must approve: number `n` of this caller, which shows its approval if it knows of one.
    Asked { uid: u32, n: u8, shows: bool },
    /// The same, with an approval for another.
    WithAnother { uid: u32, n: u8, of: (u32, u8) },
    /// Somebody approves it.
    Approve { of: (u32, u8), by: u8 },
    /// An order to replace the key, of now or of another version.
    Rotate { is_stale: bool },
}

impl Ask {
    /// Of which event, by whom, and for what.
    fn line(self) -> (String, Option<u32>, Option<String>) {
        let (event, uid, action) = match self {
            Self::Free => ("token.sign", Some(1000), Some("free")),
            Self::Counted => ("token.sign", Some(1000), Some("counted")),
            Self::Asked { uid, .. } | Self::WithAnother { uid, .. } => {
                ("token.sign", Some(uid), Some("asked"))
            }
            Self::Approve { .. } => ("approval.grant", None, None),
            Self::Rotate { .. } => ("key.rotate", Some(1000), None),
        };
        (event.into(), uid, action.map(str::to_owned))
    }
}

/// The same of a line of the record.
fn line(decision: &record::Decision) -> (String, Option<u32>, Option<String>) {
    let uid = match &decision.caller {
        Some(identity::Caller::Asserted(seen)) => seen.uid,
        _ => None,
    };
    (decision.event_type.clone(), uid, decision.action.clone())
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Ask(usize, Ask),
    /// What was decided over a connection is recorded and leaves; or nobody hears of it any more.
    Release {
        connection: usize,
        is_lost: bool,
    },
    /// It is to leave while there is no randomness, without which no signature is checked: then nothing of it leaves, nor anything after.
    Halt(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Signed,
    Pending,
    Approved,
    Rotated,
    Refused(&'static str),
}

impl Expected {
    /// What the record learns of it, if it learns anything.
    fn verdict(self) -> Option<Verdict> {
        match self {
            Self::Pending => Some(Verdict::Pending),
            // What is about nothing that waits makes no event where somebody approves it.
            Self::Refused("approves_nothing") => None,
            Self::Refused(_) => Some(Verdict::Deny),
            _ => Some(Verdict::Allow),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Waits,
    Approved,
    Spent,
}

/// A request that waits, or has waited.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    stand: Stand,
    /// Its id and digest, once an answer has said so.
    known: Option<(ApprovalId, [u8; 32])>,
}

#[derive(Default)]
struct Model {
    counted: usize,
    asked: usize,
    waiting: BTreeMap<(u32, u8), Waiting>,
    /// Approvals that are no more.
    used: Vec<ApprovalId>,
    rotated: u32,
}

impl Model {
    /// What comes of this, and what is asked for it; none if it cannot be asked.
    fn take(&mut self, ask: Ask, boot_id: identity::BootId) -> Option<(Expected, Request)> {
        Some(match ask {
            Ask::Free => (Expected::Signed, sign(1000, "free", 0, None)),
            Ask::Counted => {
                let fits = self.counted < MOST_COUNTED;
                self.counted += usize::from(fits);
                let expected = match fits {
                    true => Expected::Signed,
                    false => Expected::Refused("rate_limit_exceeded"),
                };
                (expected, sign(1000, "counted", 0, None))
            }
            Ask::Asked { uid, n, shows } => {
                let entry = self.waiting.entry((uid, n)).or_insert(Waiting {
                    stand: Stand::Spent,
                    known: None,
                });
                let id = entry.known.filter(|_| shows).map(|(id, _)| id);
                let expected = match (id, entry.stand) {
                    (None, Stand::Spent) => {
                        (entry.stand, entry.known) = (Stand::Waits, None);
                        Expected::Pending
                    }
                    (None, _) | (Some(_), Stand::Waits) => Expected::Pending,
                    (Some(_), Stand::Spent) => Expected::Refused("approval_unknown"),
                    (Some(_), Stand::Approved) if self.asked >= MOST_ASKED => {
                        Expected::Refused("rate_limit_exceeded")
                    }
                    (Some(id), Stand::Approved) => {
                        self.asked += 1;
                        entry.stand = Stand::Spent;
                        self.used.push(id);
                        Expected::Signed
                    }
                };
                (expected, sign(uid, "asked", n, id))
            }
            Ask::WithAnother { uid, n, of } => {
                let other = self.waiting.get(&of).filter(|_| of != (uid, n))?;
                let id = other.known?.0;
                let expected = match other.stand {
                    Stand::Spent => Expected::Refused("approval_unknown"),
                    _ => Expected::Refused("approval_invalid"),
                };
                (expected, sign(uid, "asked", n, Some(id)))
            }
            Ask::Approve { of, by } => {
                let entry = self.waiting.get_mut(&of)?;
                let (id, request) = entry.known?;
                let expected = match (entry.stand, by) {
                    (Stand::Spent, _) => Expected::Refused("approves_nothing"),
                    (Stand::Waits, ALICE) => {
                        entry.stand = Stand::Approved;
                        Expected::Approved
                    }
                    _ => Expected::Refused("approval_invalid"),
                };
                let approval = Approval {
                    approval: id,
                    boot_id,
                    exp: harness::now().0 + 300,
                    request: Digest(request),
                };
                let jws = approval.sign(&TestKey::new(by)).unwrap();
                (expected, Request::Approve { jws })
            }
            Ask::Rotate { is_stale } => {
                let version = 1 + self.rotated + if is_stale { 7 } else { 0 };
                self.rotated += u32::from(!is_stale);
                let expected = match is_stale {
                    true => Expected::Refused("order_invalid"),
                    false => Expected::Rotated,
                };
                (expected, rotate(boot_id, version))
            }
        })
    }
}

fn requester(uid: u32) -> Requester {
    Requester {
        caller: ObservedCaller::ids(uid, 1000),
        identity: Some("agent".into()),
    }
}

fn sign(uid: u32, action: &str, n: u8, approval: Option<ApprovalId>) -> Request {
    Request::Sign(Sign {
        requester: requester(uid),
        format: Format::VouchJwt,
        action: action.into(),
        target: String::new(),
        resource: String::new(),
        payload: format!("{{\"n\":{n}}}"),
        audience: None,
        validity_seconds: None,
        proof: None,
        delegation: None,
        approval,
        delegatee: None,
    })
}

fn rotate(boot_id: identity::BootId, version: u32) -> Request {
    let order = Order {
        identity: "agent".into(),
        boot_id,
        version,
        not_after: harness::now().0 + 300,
    };
    Request::Rotate(Rotate {
        requester: requester(1000),
        order: Some(order.sign(&TestKey::new(OPERATOR)).unwrap()),
        proof: None,
    })
}

struct Setting {
    enclave: InProcess<MockNsm>,
    proxy: PublicKey,
    record: PublicKey,
}

impl Setting {
    fn start() -> Self {
        let now = harness::now().0.unsigned_abs();
        let nsm = MockNsm::new(
            Authority::new(now, &mut os_random),
            &[Digest([1; 48]), Digest([2; 48]), Digest([3; 48])],
            Box::new(|| harness::now().0.unsigned_abs() * 1000),
            Encoding::Definite,
        );
        let enclave = InProcess::boot(nsm.unwrap());
        let mut policy: Value = serde_json::from_slice(&bundle("development").canonical()).unwrap();
        let key = |byte| TestKey::new(byte).public_key().to_multikey();
        policy["approvers"] =
            json!([{"name": "alice", "key": key(ALICE)}, {"name": "bob", "key": key(BOB)}]);
        policy["identities"][0]["callers"]["uids"] = json!([1000, 1001]);
        let rule = |action: &str, more: Value| {
            let mut rule =
                json!({"name": action, "actions": [action], "targets": ["*"], "resources": ["*"]});
            for (name, value) in more.as_object().unwrap() {
                rule[name] = value.clone();
            }
            rule
        };
        policy["identities"][0]["rules"] = json!([
            rule("free", json!({})),
            rule(
                "counted",
                json!({"limits": [{"per": "day", "max": MOST_COUNTED}]})
            ),
            rule(
                "asked",
                json!({"limits": [{"per": "day", "max": MOST_ASKED}], "approval": {"by": ["alice"], "seconds": 600}})
            ),
        ]);
        let policy = Bundle::from_canonical(&identity::json::canonical(&policy).unwrap()).unwrap();
        let mut setting = Self {
            enclave,
            proxy: TestKey::new(PROXY).public_key().clone(),
            record: TestKey::new(PROXY).public_key().clone(),
        };
        let provision = Request::Provision {
            bundle: policy.canonical(),
            before: None,
        };
        setting.ask(provision).answer.unwrap();
        let attest = Request::Attest {
            requester: requester(1000),
            nonce: vec![7; 32],
        };
        let Ok(Answer::Evidence(evidence)) = setting.ask(attest).answer else {
            panic!("no evidence")
        };
        let evidence = attestation::Evidence::parse(&evidence.evidence).unwrap();
        setting.record = PublicKey::from_spki(evidence.record()).unwrap();
        setting
    }

    fn handle(&self, request: Request) -> Outcome {
        self.enclave.enclave.handle(request, &self.proxy)
    }

    fn release(&self, outcomes: Vec<Outcome>) -> Vec<Released> {
        self.enclave.enclave.release(outcomes)
    }

    /// Releases without any randomness.
    fn release_blindly(&self, outcomes: Vec<Outcome>) -> Vec<Released> {
        let without = &self.enclave.without_randomness;
        without.store(true, Ordering::SeqCst);
        let released = self.release(outcomes);
        without.store(false, Ordering::SeqCst);
        released
    }

    /// Why it powered off, as often as it did.
    fn powered_off(&self) -> Vec<String> {
        self.enclave.powered_off.lock().unwrap().clone()
    }

    fn ask(&self, request: Request) -> Released {
        self.release(vec![self.handle(request)]).remove(0)
    }

    /// All of the record, each line verified and in its place.
    fn decisions(&self) -> Vec<record::Decision> {
        let (mut reader, mut all) = (Reader::new(vec![self.record.clone()]), Vec::new());
        loop {
            let from = all.len() as u64;
            let Ok(Answer::Records(records)) = self.ask(Request::Records { from }).answer else {
                panic!("no record")
            };
            let read = |line: &minicbor::bytes::ByteVec| reader.next(line).unwrap().decision;
            all.extend(records.lines.iter().map(read));
            if records.next == all.len() as u64 {
                return all;
            }
        }
    }
}

/// What came of it is what was expected, and has its event.
fn check(expected: Expected, released: &Released) {
    let came = match &released.answer {
        Ok(Answer::Signed(_)) => Expected::Signed,
        Ok(Answer::PendingApproval(waiting)) if !waiting.approved => Expected::Pending,
        // Who asks again for what is approved is told so.
        Ok(Answer::PendingApproval(_)) if expected == Expected::Pending => Expected::Pending,
        Ok(Answer::PendingApproval(_)) => Expected::Approved,
        Ok(Answer::Rotated(_)) => Expected::Rotated,
        Err(error) => match (error.code(), expected) {
            ("approval_unknown", Expected::Refused("approves_nothing")) => expected,
            (code, Expected::Refused(wanted)) if code == wanted => expected,
            (code, _) => panic!("{code} in place of {expected:?}"),
        },
        other => panic!("{other:?}"),
    };
    assert_eq!(came, expected);
    assert_eq!(released.event.is_some(), expected.verdict().is_some());
}

fn asks() -> impl Strategy<Value = Ask> {
    let who = || (1000..=1001u32, 0..2u8);
    prop_oneof![
        2 => Just(Ask::Free),
        3 => Just(Ask::Counted),
        8 => (who(), any::<bool>()).prop_map(|((uid, n), shows)| Ask::Asked { uid, n, shows }),
        1 => (who(), who()).prop_map(|((uid, n), of)| Ask::WithAnother { uid, n, of }),
        5 => (who(), prop_oneof![4 => Just(ALICE), 1 => Just(BOB)])
            .prop_map(|(of, by)| Ask::Approve { of, by }),
        1 => any::<bool>().prop_map(|is_stale| Ask::Rotate { is_stale }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..2usize, asks()).prop_map(|(connection, ask)| Step::Ask(connection, ask)),
        2 => (0..2usize, prop::bool::weighted(0.2))
            .prop_map(|(connection, is_lost)| Step::Release { connection, is_lost }),
    ];
    let halt = prop_oneof![2 => Just(None), 1 => (0..2usize).prop_map(|at| Some(Step::Halt(at)))];
    let few = || prop::collection::vec(step.clone(), 1..80);
    (few(), halt, few()).prop_map(|(mut steps, halt, after)| {
        steps.extend(halt);
        steps.extend(after);
        steps
    })
}

/// Nothing was let out of it.
fn check_halted(released: &[Released]) {
    for one in released {
        assert!(one.answer.is_err() && one.event.is_none(), "{one:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_signed_spent_or_counted_but_with_its_line_and_none_twice(steps in steps()) {
        let setting = Setting::start();
        let boot_id = setting.enclave.enclave.boot_id();
        let before = setting.decisions().len();
        let (mut model, mut lines, mut signed) = (Model::default(), Vec::new(), Vec::new());
        let mut waiting: [Vec<(Ask, Expected, Outcome)>; 2] = [Vec::new(), Vec::new()];
        let last = [0, 1].map(|connection| Step::Release { connection, is_lost: false });
        let mut halted = None;
        for step in steps.into_iter().chain(last) {
            match step {
                Step::Ask(connection, ask) => {
                    if let Some((expected, request)) = model.take(ask, boot_id) {
                        waiting[connection].push((ask, expected, setting.handle(request)));
                    }
                }
                // Nothing leaves any more, neither what was decided before nor what is asked now.
                Step::Release { connection, .. } if halted.is_some() => {
                    let batch = std::mem::take(&mut waiting[connection]);
                    let outcomes = batch.into_iter().map(|(_, _, outcome)| outcome).collect();
                    check_halted(&setting.release(outcomes));
                }
                Step::Halt(connection) => {
                    let whole = setting.decisions().split_off(before);
                    let batch = std::mem::take(&mut waiting[connection]);
                    // A single signature is checked without.
                    let is_signed = batch.iter().any(|(_, expected, _)| *expected == Expected::Signed);
                    if !is_signed {
                        waiting[connection] = batch;
                        continue;
                    }
                    let outcomes = batch.into_iter().map(|(_, _, outcome)| outcome).collect();
                    check_halted(&setting.release_blindly(outcomes));
                    prop_assert_eq!(setting.powered_off(), ["no_randomness"]);
                    halted = Some(whole);
                }
                Step::Release { connection, is_lost } => {
                    let batch = std::mem::take(&mut waiting[connection]);
                    let mut asked = Vec::new();
                    let mut outcomes = Vec::new();
                    for (ask, expected, outcome) in batch {
                        asked.push((ask, expected));
                        outcomes.push(outcome);
                    }
                    for ((ask, expected), released) in asked.into_iter().zip(setting.release(outcomes)) {
                        check(expected, &released);
                        lines.extend(expected.verdict().map(|verdict| (ask.line(), verdict)));
                        match (released.answer, ask) {
                            _ if is_lost => {}
                            (Ok(Answer::PendingApproval(told)), Ask::Asked { uid, n, .. }) => {
                                let entry = model.waiting.get_mut(&(uid, n)).unwrap();
                                // An answer that comes late may be about one that was used since.
                                if !model.used.contains(&told.id) {
                                    entry.known = Some((told.id, told.request));
                                }
                            }
                            (Ok(Answer::Signed(told)), _) => signed.push(told.signature_id),
                            _ => {}
                        }
                    }
                }
            }
        }
        let is_halted = halted.is_some();
        let decisions = halted.unwrap_or_else(|| setting.decisions().split_off(before));
        prop_assert_eq!(setting.powered_off().len(), usize::from(is_halted));
        if is_halted {
            let Err(error) = setting.ask(Request::Records { from: 0 }).answer else {
                panic!("it goes on")
            };
            prop_assert_eq!(error.code(), "halted");
        }
        // In the order in which they were released, each once.
        let came: Vec<_> = decisions.iter().map(|decision| (line(decision), decision.policy_decision)).collect();
        prop_assert_eq!(came, lines);
        for id in signed {
            let of_it = |decision: &&record::Decision| decision.token_id.as_deref() == Some(&*id);
            prop_assert_eq!(decisions.iter().filter(of_it).count(), 1);
        }
    }
}

/// Four connections at once, which sign, rotate and read the record: everything that left is in it once, no limit is passed,
/// and nobody waits for ever.
#[test]
fn connections_that_work_at_once_neither_wait_for_ever_nor_pass_a_limit() {
    let setting = Arc::new(Setting::start());
    let before = setting.decisions().len();
    let boot_id = setting.enclave.enclave.boot_id();
    let (done, finished) = channel();
    // One that waited for ever would not be waited for.
    for connection in 0..4u8 {
        let (setting, done) = (Arc::clone(&setting), done.clone());
        std::thread::spawn(move || {
            let mut all = Vec::new();
            for round in 0..25u32 {
                let requests = [
                    sign(1000, "free", 0, None),
                    sign(1000, "counted", 0, None),
                    rotate(boot_id, 1 + round),
                    sign(
                        1000 + u32::from(connection % 2),
                        "asked",
                        connection / 2,
                        None,
                    ),
                ];
                let outcomes = requests.map(|request| setting.handle(request)).into();
                all.extend(setting.release(outcomes));
                if round % 5 == 0 {
                    setting.decisions();
                }
            }
            done.send(all).unwrap();
        });
    }
    let mut all = Vec::new();
    for _ in 0..4 {
        let ended = finished.recv_timeout(Duration::from_secs(120));
        all.extend(ended.expect("no connection waits for ever"));
    }
    let decisions = setting.decisions().split_off(before);
    let with_event = all
        .iter()
        .filter(|released| released.event.is_some())
        .count();
    assert_eq!(decisions.len(), with_event);
    let counted = |action: &str| {
        let of_it = |decision: &&record::Decision| {
            decision.action.as_deref() == Some(action) && decision.policy_decision == Verdict::Allow
        };
        decisions.iter().filter(of_it).count()
    };
    assert_eq!(
        (counted("free"), counted("counted"), counted("asked")),
        (100, MOST_COUNTED, 0)
    );
    let signed = |released: &&Released| matches!(released.answer, Ok(Answer::Signed(_)));
    assert_eq!(all.iter().filter(signed).count(), 100 + MOST_COUNTED);
    // Of each version one order was obeyed.
    let rotated: Vec<u32> = all
        .iter()
        .filter_map(|released| match &released.answer {
            Ok(Answer::Rotated(rotated)) => Some(rotated.description.versions.last()?.version),
            _ => None,
        })
        .collect();
    let mut versions = rotated;
    versions.sort_unstable();
    // Whoever is first in a round finds the version of now.
    assert_eq!(versions, Vec::from_iter(2..=26));
}
