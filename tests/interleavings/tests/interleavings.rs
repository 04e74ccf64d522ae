//! Threads at the locks of an enclave and of the sidecar's record, in the orders that shuttle thinks
//! of: at each lock another one may go on. One that waits for ever is found, too.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ed25519_dalek::{Signer as _, SigningKey};
use egress::{Failure, FailureKind, KmsAnswer, KmsCall};
use enclave::{BootClock, Enclave, Entropy, Kms, Machine, OsEntropy, Outcome, Released, Service};
use enclave_client::{Counters, RecordConfig, Recorder};
use identity::caller::ObservedCaller;
use identity::request::Approval;
use identity::succession::Order;
use identity::{ApprovalId, BootId, Digest, Format, Message, PublicKey, Signature, Signer};
use policy::Bundle;
use protocol::{Answer, PendingApproval, Request, Requester, Rotate, Sign};
use qemu_dev::authority::Authority;
use qemu_dev::nsm::{Encoding, MockNsm, os_random};
use serde_json::Value;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner, thread};

/// Of each scheduler; `ANCHORHOLD_ORDERS` says another number.
const ORDERS: usize = 40;
const PROXY: u8 = 1;
const OPERATOR: u8 = 2;
const ALICE: u8 = 3;
/// So many of `counted` are signed in a day.
const MOST: usize = 2;

struct Key(SigningKey, PublicKey);

fn key(byte: u8) -> Key {
    let key = SigningKey::from_bytes(&[byte; 32]);
    let public = PublicKey::Ed25519(key.verifying_key());
    Key(key, public)
}

impl Signer for Key {
    type Error = identity::Error;

    fn public_key(&self) -> &PublicKey {
        &self.1
    }

    fn sign(&self, message: &Message) -> Result<Signature, identity::Error> {
        Ok(self.0.sign(message.as_bytes()).to_bytes())
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

struct NoKms;

impl Kms for NoKms {
    fn ask(&self, _: &KmsCall) -> Result<KmsAnswer, Failure> {
        Err(Failure {
            kind: FailureKind::NoLine,
            message: "nobody lends one".into(),
        })
    }
}

/// Time goes on by a millisecond whenever somebody looks.
struct Ticks(AtomicU64);

impl BootClock for Ticks {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Ordering::SeqCst))
    }
}

/// The operating system's randomness, as long as there is any.
struct Switched(Arc<AtomicBool>);

impl Entropy for Switched {
    fn fill(&self, out: &mut [u8]) -> Result<(), enclave::Error> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(enclave::Error::NoRandomness),
            false => OsEntropy.fill(out),
        }
    }
}

const POLICY: &str = r#"
version = 1
mode = "development"
proxy_key = "PROXY"
operator_key = "OPERATOR"
[[approvers]]
name = "alice"
key = "ALICE"
[[identities]]
name = "agent"
environment = "test"
did = "did:key"
algorithm = "EdDSA"
max_validity_seconds = 600
callers = { uids = [1000] }
[[identities.rules]]
name = "free"
actions = ["free"]
targets = ["*"]
resources = ["*"]
[[identities.rules]]
name = "counted"
actions = ["counted"]
targets = ["*"]
resources = ["*"]
limits = [{ per = "day", max = 2 }]
[[identities.rules]]
name = "asked"
actions = ["asked"]
targets = ["*"]
resources = ["*"]
limits = [{ per = "day", max = 2 }]
approval = { by = ["alice"], seconds = 600 }
"#;

/// An enclave with its policy, and the sidecar's record.
struct Setting {
    enclave: Enclave<MockNsm>,
    proxy: PublicKey,
    boot_id: BootId,
    recorder: Arc<Recorder>,
    folder: tempfile::TempDir,
    /// Lines with which the record began.
    began_with: usize,
    /// How often each who waits for a line was told that it is written.
    told: Mutex<Vec<Arc<AtomicUsize>>>,
    blind: Arc<AtomicBool>,
    powered_off: Arc<AtomicUsize>,
}

impl Setting {
    fn start() -> Arc<Self> {
        let nsm = MockNsm::new(
            Authority::new(now(), &mut os_random),
            &[Digest([1; 48]), Digest([2; 48]), Digest([3; 48])],
            Box::new(|| now() * 1000),
            Encoding::Definite,
        );
        let (blind, powered_off) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let noted = Arc::clone(&powered_off);
        let machine = Machine {
            nsm: nsm.expect("a mock"),
            boot_clock: Box::new(Ticks(AtomicU64::new(1))),
            entropy: Box::new(Switched(Arc::clone(&blind))),
            kms: Box::new(NoKms),
            couriers: Vec::new(),
            ingress: None,
            power_off: Box::new(move |_| {
                noted.fetch_add(1, Ordering::SeqCst);
            }),
        };
        let enclave = Enclave::boot(machine).expect("a boot");
        let folder = tempfile::tempdir().expect("a folder");
        let config = RecordConfig {
            folder: folder.path().join("record"),
            sync: Duration::from_secs(1),
            rotate_bytes: 4096,
        };
        let recorder = Recorder::open(config, Counters::default()).expect("a record");
        let multikey = |byte| key(byte).public_key().to_multikey();
        let policy = POLICY
            .replace("PROXY", &multikey(PROXY))
            .replace("OPERATOR", &multikey(OPERATOR))
            .replace("ALICE", &multikey(ALICE));
        let mut setting = Self {
            boot_id: enclave.boot_id(),
            enclave,
            proxy: key(PROXY).public_key().clone(),
            recorder,
            folder,
            began_with: 0,
            told: Mutex::default(),
            blind,
            powered_off,
        };
        setting.recorder.begin(setting.boot_id);
        let bundle = Bundle::from_toml(&policy).expect("a bundle").canonical();
        setting
            .ask(Request::Provision {
                bundle,
                before: None,
            })
            .expect("its policy");
        // What began the record.
        let records = setting.remembered(0);
        setting.began_with = records.lines.len();
        setting.recorder.take_again(0, records);
        Arc::new(setting)
    }

    fn remembered(&self, from: u64) -> protocol::Records {
        match self.ask(Request::Records { from }) {
            Ok(Answer::Records(records)) => records,
            other => panic!("{other:?}"),
        }
    }

    fn handle(&self, request: Request) -> Outcome {
        self.enclave.handle(request, &self.proxy)
    }

    fn ask(&self, request: Request) -> Result<Answer, enclave::Error> {
        self.enclave
            .release(vec![self.handle(request)])
            .remove(0)
            .answer
    }

    /// What a connection does: all is decided, then recorded, then on its way to the sidecar's record.
    fn connection(&self, requests: Vec<Request>) -> Vec<Released> {
        let outcomes = requests
            .into_iter()
            .map(|request| self.handle(request))
            .collect();
        let released = self.enclave.release(outcomes);
        self.keep(&released);
        released
    }

    /// Each is told once, and of good when its line is in a file.
    fn keep(&self, released: &[Released]) {
        for line in released.iter().filter_map(|one| one.event.clone()) {
            let folder = self.folder.path().join("record");
            let (noted, wanted) = (Arc::new(AtomicUsize::new(0)), line.clone());
            let mut told = self.told.lock().expect("not poisoned");
            told.push(Arc::clone(&noted));
            drop(told);
            let release = move |is_written: bool| {
                assert!(is_written && is_in(&folder, &wanted));
                noted.fetch_add(1, Ordering::SeqCst);
            };
            self.recorder.take([(
                line,
                Some(Box::new(release) as Box<dyn FnOnce(bool) + Send>),
            )]);
        }
    }

    /// All that was decided, and that the record's files say the same, each line once and in its place.
    fn decisions(&self) -> Vec<Value> {
        let records = self.remembered(0);
        let lines: Vec<Vec<u8>> = records.lines.iter().map(|line| line.to_vec()).collect();
        assert_eq!(lines.len() as u64, records.next, "a line has no place");
        self.recorder.close();
        assert_eq!(on_disk(&self.folder.path().join("record")), lines);
        let read = |line: &Vec<u8>| serde_json::from_slice(line).expect("JSON");
        lines.iter().map(read).collect()
    }
}

fn on_disk(folder: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some())
        .collect();
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        let bytes = fs::read(file).expect("a file");
        lines.extend(
            bytes
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(<[u8]>::to_vec),
        );
    }
    lines
}

fn is_in(folder: &Path, line: &[u8]) -> bool {
    on_disk(folder).iter().any(|other| other == line)
}

fn requester() -> Requester {
    Requester {
        caller: ObservedCaller::ids(1000, 1000),
        identity: Some("agent".into()),
    }
}

fn sign(action: &str, approval: Option<ApprovalId>) -> Request {
    Request::Sign(Sign {
        requester: requester(),
        format: Format::VouchJwt,
        action: action.into(),
        target: String::new(),
        resource: String::new(),
        payload: "{}".into(),
        audience: None,
        validity_seconds: None,
        proof: None,
        delegation: None,
        approval,
        delegatee: None,
    })
}

fn rotate(boot_id: BootId) -> Request {
    let order = Order {
        identity: "agent".into(),
        boot_id,
        version: 1,
        not_after: i64::try_from(now()).expect("a time") + 300,
    };
    Request::Rotate(Rotate {
        requester: requester(),
        order: Some(order.sign(&key(OPERATOR)).expect("an order")),
        proof: None,
    })
}

fn approve(boot_id: BootId, waiting: &PendingApproval) -> Request {
    let approval = Approval {
        approval: waiting.id,
        boot_id,
        exp: i64::try_from(now()).expect("a time") + 300,
        request: Digest(waiting.request),
    };
    let jws = approval.sign(&key(ALICE)).expect("an approval");
    Request::Approve { jws }
}

/// In orders that are made at random, and in those that change seldom, which find what needs a change at a certain place.
fn in_many_orders(test: impl Fn() + Send + Sync + Clone + 'static) {
    let wanted = std::env::var("ANCHORHOLD_ORDERS").ok();
    let orders = wanted.map_or(ORDERS, |wanted| wanted.parse().expect("a number"));
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    Runner::new(RandomScheduler::new(orders), config.clone()).run(test.clone());
    Runner::new(PctScheduler::new(3, orders), config).run(test);
}

fn signed(released: &[Released]) -> usize {
    let is_signed = |one: &&Released| matches!(one.answer, Ok(Answer::Signed(_)));
    released.iter().filter(is_signed).count()
}

/// Three connections sign, one of them with the same approval as another, one rotates, and the record is synced and read meanwhile.
#[test]
fn whatever_the_order_nothing_is_signed_twice_or_without_its_line() {
    in_many_orders(|| {
        let setting = Setting::start();
        let Ok(Answer::PendingApproval(waiting)) = setting
            .connection(vec![sign("asked", None)])
            .remove(0)
            .answer
        else {
            panic!("it does not wait")
        };
        let approval = approve(setting.boot_id, &waiting);
        setting
            .connection(vec![approval])
            .remove(0)
            .answer
            .expect("approved");
        let of = |requests: Vec<Request>| {
            let setting = Arc::clone(&setting);
            thread::spawn(move || setting.connection(requests))
        };
        let connections = [
            of(vec![sign("asked", Some(waiting.id)), sign("counted", None)]),
            of(vec![
                sign("counted", None),
                sign("asked", Some(waiting.id)),
                sign("free", None),
            ]),
            of(vec![rotate(setting.boot_id), sign("counted", None)]),
        ];
        let syncing = {
            let setting = Arc::clone(&setting);
            thread::spawn(move || {
                setting.recorder.close();
                setting.remembered(2).lines.len()
            })
        };
        let released: Vec<Released> = connections
            .into_iter()
            .flat_map(|one| one.join().expect("an end"))
            .collect();
        syncing.join().expect("an end");
        assert_eq!(signed(&released), 1 + MOST + 1);
        let decisions = setting.decisions();
        let told = setting.told.lock().expect("not poisoned");
        assert_eq!(told.len(), decisions.len() - setting.began_with);
        assert!(told.iter().all(|told| told.load(Ordering::SeqCst) == 1));
        let allowed = |action: &str| {
            let of_it = |one: &&Value| one["action"] == action && one["policy_decision"] == "allow";
            decisions.iter().filter(of_it).count()
        };
        assert_eq!(
            (allowed("asked"), allowed("counted"), allowed("free")),
            (1, MOST, 1)
        );
        assert_eq!(setting.powered_off.load(Ordering::SeqCst), 0);
    });
}

/// One connection's signatures cannot be checked while others sign, rotate and ask: it stops for all, once, and nothing leaves behind it.
#[test]
fn whatever_the_order_what_stops_the_enclave_stops_it_for_all_and_once() {
    in_many_orders(|| {
        let setting = Setting::start();
        let of = |requests: Vec<Request>| {
            let setting = Arc::clone(&setting);
            thread::spawn(move || setting.connection(requests))
        };
        let blind = {
            let setting = Arc::clone(&setting);
            thread::spawn(move || {
                let outcomes = vec![
                    setting.handle(sign("free", None)),
                    setting.handle(sign("free", None)),
                ];
                setting.blind.store(true, Ordering::SeqCst);
                let released = setting.enclave.release(outcomes);
                setting.keep(&released);
                released
            })
        };
        let connections = [
            of(vec![sign("counted", None), sign("free", None)]),
            of(vec![rotate(setting.boot_id), sign("counted", None)]),
        ];
        let blind = blind.join().expect("an end");
        assert!(
            blind
                .iter()
                .all(|one| one.answer.is_err() && one.event.is_none())
        );
        for connection in connections {
            let released = connection.join().expect("an end");
            // All of it, or nothing.
            let signed = signed(&released);
            let events = released.iter().filter(|one| one.event.is_some()).count();
            assert!(
                events == released.len() || (events, signed) == (0, 0),
                "{released:?}"
            );
        }
        assert_eq!(setting.powered_off.load(Ordering::SeqCst), 1);
        for request in [sign("free", None), Request::Records { from: 0 }] {
            assert!(matches!(setting.ask(request), Err(enclave::Error::Halted)));
        }
    });
}
