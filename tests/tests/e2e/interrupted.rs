//! Enclave and sidecar, killed between every two steps of what they do to a state that lasts: at each
//! question before it arrives, and at each answer before it arrives. Either the old state opens
//! afterwards or the new one, and nothing that left is forgotten.

use std::fs;
use std::io::Write;
use std::thread::JoinHandle;

use data_encoding::BASE64URL_NOPAD;
use harness::{Answer, Lasting, Moment, Step, copy_program, post, program, wait_for};
use identity::UnixSeconds;
use serde_json::{Value, json};

/// Whose process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Enclave,
    Sidecar,
}

impl Victim {
    fn pid(self, lasting: &Lasting) -> u32 {
        match self {
            Self::Enclave => lasting.enclave.pid(),
            Self::Sidecar => lasting.sidecar.pid(),
        }
    }

    /// Starts again what ended.
    fn start_again(self, lasting: &mut Lasting) {
        match self {
            Self::Enclave => lasting.reboot(),
            Self::Sidecar => lasting.restart_sidecar(),
        }
    }
}

/// Each victim at each moment of each step, until a step is beyond the last one: `at` does it, and
/// says the step's name if it was reached. What a sidecar asks by itself beside that moves the others by a place, now and
/// then: those that matter most are tried by their names, if they were not by their numbers.
fn at_each_step(lasting: &mut Lasting, mut at: impl FnMut(&mut Lasting, At) -> Option<String>) {
    for victim in [Victim::Enclave, Victim::Sidecar] {
        for moment in [Moment::Asked, Moment::Answered] {
            let of = |step| At {
                victim,
                moment,
                step,
            };
            let mut names = Vec::new();
            while let Some(name) = at(lasting, of(Step::Number(names.len()))) {
                names.push(name);
            }
            for step in ["PutPiece Sealed", "Stored"] {
                if !names.iter().any(|name| name == step) {
                    let reached = at(lasting, of(Step::Named(step)));
                    assert_eq!(reached.as_deref(), Some(step), "{names:?}");
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct At {
    victim: Victim,
    moment: Moment,
    step: Step,
}

impl At {
    fn arm(self, lasting: &Lasting) {
        lasting.tap().end_at(self.step, self.moment);
        lasting.tap().set_victim(self.victim.pid(lasting));
    }
}

/// What must be the same after a restart.
fn who(identity: &Value) -> [Value; 4] {
    ["did", "kid", "key_version", "state"].map(|name| identity[name].clone())
}

/// Open, with nothing that waits; its key signs, and another boot has it, too.
fn open(lasting: &mut Lasting, after: Victim) -> Value {
    lasting.tap().let_pass();
    lasting.wait_until_ready();
    wait_for(|| lasting.status()["pending"] == false);
    let identity = lasting.identity();
    let token = lasting.sign();
    // This boot has it from what was stored, or is to show that it was.
    if after == Victim::Sidecar {
        lasting.reboot();
        lasting.wait_until_ready();
        assert_eq!(who(&lasting.identity()), who(&identity));
    }
    let header = token.split('.').next().unwrap();
    let header: Value =
        serde_json::from_slice(&BASE64URL_NOPAD.decode(header.as_bytes()).unwrap()).unwrap();
    assert_eq!(header["kid"], identity["kid"]);
    identity
}

/// Waits until somebody was ended, or the answer is there.
fn wait_for_end(lasting: &Lasting, asked: &JoinHandle<std::io::Result<Answer>>) -> Option<String> {
    wait_for(|| lasting.tap().ended_at().is_some() || asked.is_finished());
    lasting.tap().ended_at()
}

fn ask(lasting: &Lasting, path: &'static str, body: Value) -> JoinHandle<std::io::Result<Answer>> {
    let socket = lasting.socket.clone();
    std::thread::spawn(move || post(&socket, path, &body))
}

#[test]
fn a_rotation_that_a_crash_interrupts_is_done_or_undone_and_never_half() {
    let mut lasting = Lasting::tapped();
    lasting.birth();
    let mut known = open(&mut lasting, Victim::Sidecar);
    at_each_step(&mut lasting, |lasting, at| {
        let stored = fs::read(lasting.part("sealed.cbor")).unwrap();
        at.arm(lasting);
        let asked = ask(lasting, "/rotate", json!({}));
        let ended = wait_for_end(lasting, &asked);
        let Some(name) = ended else {
            let answer = asked.join().unwrap().unwrap();
            assert_eq!(answer.status, 200, "{at:?}: {}", answer.code());
            known = open(lasting, at.victim);
            assert_eq!(who(&answer.json()["identity"]), who(&known), "{at:?}");
            return None;
        };
        let is_stored = fs::read(lasting.part("sealed.cbor")).unwrap() != stored;
        at.victim.start_again(lasting);
        let said = asked.join().unwrap();
        assert!(
            !said.is_ok_and(|answer| answer.status == 200),
            "{at:?} {name}"
        );
        let now = open(lasting, at.victim);
        // An enclave that ends goes on with what was stored; one that goes on has what it was asked.
        let done = match at.victim {
            Victim::Enclave => is_stored,
            Victim::Sidecar => (name.as_str(), at.moment) != ("Rotate", Moment::Asked),
        };
        let version = known["key_version"].as_u64().unwrap();
        assert_eq!(
            now["key_version"],
            version + u64::from(done),
            "{at:?} {name}"
        );
        if !done {
            assert_eq!(who(&now), who(&known), "{at:?} {name}");
        }
        known = now;
        Some(name)
    });
}

#[test]
fn a_birth_that_a_crash_interrupts_is_done_or_undone() {
    let mut lasting = Lasting::tapped();
    at_each_step(&mut lasting, |lasting, at| {
        let order = order(lasting);
        at.arm(lasting);
        let asked = ask(
            lasting,
            "/state/birth",
            json!({"order": BASE64URL_NOPAD.encode(&order)}),
        );
        let ended = wait_for_end(lasting, &asked);
        let is_stored = lasting.part("sealed.cbor").exists();
        if ended.is_some() {
            at.victim.start_again(lasting);
        }
        let answered = asked.join().unwrap();
        let is_answered = answered.is_ok_and(|answer| answer.status == 200);
        // After the answer comes a drill, whose steps are others.
        let name = ended.filter(|_| !is_answered).unwrap_or_default();
        let is_sealed = !matches!(
            (name.as_str(), at.moment),
            ("Birth", _) | ("AskKms", Moment::Asked)
        );
        // What is stored is born; what is sealed, as long as the enclave lives.
        let is_born = is_stored || at.victim == Victim::Sidecar && is_sealed;
        lasting.tap().let_pass();
        if is_born {
            open(lasting, at.victim);
            // A new place for the next one.
            lasting.sidecar.kill().unwrap();
            fs::remove_dir_all(lasting.durable.folder()).unwrap();
            lasting.restart();
        } else {
            wait_for(|| lasting.phase().as_deref() == Some("awaited"));
            assert!(!lasting.part("sealed.cbor").exists(), "{at:?} {name}");
        }
        (!name.is_empty()).then_some(name)
    });
}

/// Another image and another bundle, certified, each time.
#[test]
fn an_upgrade_that_a_crash_interrupts_is_done_or_undone() {
    let mut lasting = Lasting::tapped();
    lasting.birth();
    let born = open(&mut lasting, Victim::Sidecar);
    let text = fs::read_to_string(lasting.state.policy()).unwrap();
    let images = [
        program("anchorhold-dev"),
        lasting.folder().join("anchorhold-dev"),
    ];
    copy_program(&images[0], &images[1]);
    let mut other = fs::OpenOptions::new()
        .append(true)
        .open(&images[1])
        .unwrap();
    other.write_all(b"x").unwrap();
    drop(other);
    let mut epoch = 1;
    at_each_step(&mut lasting, |lasting, at| {
        let bundle = text.replace("name = \"anything\"", &format!("name = \"epoch-{epoch}\""));
        lasting.sidecar.kill().unwrap();
        lasting.tap().let_pass();
        lasting.state.set_policy(&bundle).unwrap();
        lasting.set_image(&images[epoch % 2]);
        lasting.reboot();
        assert!(lasting.certify());
        qemu_dev::DurableState::prepare(&lasting.state).unwrap();
        lasting.tap().end_at(at.step, at.moment);
        lasting.start_sidecar();
        lasting.tap().set_victim(at.victim.pid(lasting));
        wait_for(|| lasting.tap().ended_at().is_some() || lasting.is_ready());
        let ended = lasting.tap().ended_at();
        if ended.is_some() {
            at.victim.start_again(lasting);
        }
        let now = open(lasting, at.victim);
        assert_eq!(who(&now), who(&born), "{at:?} {ended:?}");
        epoch += 1;
        assert_eq!(now["epoch"], epoch, "{at:?} {ended:?}");
        ended
    });
}

fn order(lasting: &Lasting) -> Vec<u8> {
    let key = parent_proxy::KeyFile::read(&lasting.state.operator_key()).unwrap();
    let (_, image, bundle) = lasting.state.verifier_files().unwrap();
    let pair = parent_proxy::operator::pair_of(&image, &bundle);
    let boot = lasting.status()["boot_id"].clone();
    let boot = identity::BootId::from_hex(boot.as_str().unwrap()).unwrap();
    let later = UnixSeconds(harness::now().0 + 60);
    state::Order::new("laptop", boot, pair, later)
        .sign(&key)
        .unwrap()
}
