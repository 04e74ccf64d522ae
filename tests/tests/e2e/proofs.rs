//! Callers that prove themselves: the enclave checks their own signature, whatever the parent says.

use enclave::Nsm;
use enclave::Service;
use harness::window::{InProcess, PROXY, TestKey, Window, bundle, of};
use identity::caller::ObservedCaller;
use identity::request::{CallerProof, Request, Rotation};
use identity::{Caller, Digest, Format, Intent, Payload, PublicKey, Signer};
use policy::Bundle;
use protocol::{Answer, PresentedProof, Sign};
use qemu_dev::authority::Authority;
use qemu_dev::nsm::{Encoding, MockNsm, os_random};
use record::{Reader, Verdict};
use serde_json::{Value, json};
use uuid::Uuid;

const ROBOT: u8 = 30;
/// May rotate the key of `p256`, and do nothing else.
const KEEPER: u8 = 31;
const PEER: [Digest<48>; 3] = [Digest([4; 48]), Digest([5; 48]), Digest([6; 48])];

fn nsm(authority: Authority, measured: &[Digest<48>]) -> MockNsm {
    nsm_at(authority, measured, 0)
}

/// One whose clock is so many seconds late.
fn nsm_at(authority: Authority, measured: &[Digest<48>], late: u64) -> MockNsm {
    let clock = Box::new(move || (harness::now().0.unsigned_abs() - late) * 1000);
    MockNsm::new(authority, measured, clock, Encoding::Definite).unwrap()
}

fn authority() -> (String, String) {
    let authority = Authority::new(harness::now().0.unsigned_abs(), &mut os_random);
    (authority.key_pem(), authority.certificate_pem())
}

/// The usual bundle; its first identity is also for a robot and for an enclave that prove
/// themselves, and signs only for those.
fn proving() -> Bundle {
    let mut bundle: Value = serde_json::from_slice(&bundle("development").canonical()).unwrap();
    let robot = TestKey::new(ROBOT).public_key().to_multikey();
    bundle["callers"] = json!([
        {"name": "robot", "key": robot},
        {"name": "keeper", "key": TestKey::new(KEEPER).public_key().to_multikey()},
        {"name": "peer", "enclave": {"pcr0": PEER[0], "pcr1": PEER[1], "pcr2": PEER[2]}}
    ]);
    bundle["identities"][0]["callers"]["proven"] = json!(["robot", "peer"]);
    bundle["identities"][0]["rules"][0]["proven"] = json!(true);
    let rotating = |names: &[&str]| json!({"gids": [], "names": [], "proven": names, "uids": []});
    bundle["identities"][0]["rotation_callers"] = rotating(&["robot"]);
    bundle["identities"][2]["rotation_callers"] = rotating(&["keeper", "peer"]);
    Bundle::from_canonical(&identity::json::canonical(&bundle).unwrap()).unwrap()
}

struct Setting {
    enclave: InProcess<MockNsm>,
    window: Window,
    version: u32,
    record: PublicKey,
    authority: (String, String),
}

fn setting() -> Setting {
    let authority = authority();
    let own = nsm(
        Authority::from_pem(&authority.0, &authority.1).unwrap(),
        &[Digest([1; 48]), Digest([2; 48]), Digest([3; 48])],
    );
    let enclave = InProcess::boot(own);
    let mut window = Window::connect(&enclave.socket, &TestKey::new(PROXY))
        .unwrap()
        .unwrap();
    window
        .ask(protocol::Request::Provision {
            bundle: proving().canonical(),
            before: None,
        })
        .unwrap()
        .unwrap();
    let attest = protocol::Request::Attest {
        requester: of("agent"),
        nonce: vec![7; 32],
    };
    let Answer::Evidence(evidence) = window.ask(attest).unwrap().unwrap() else {
        panic!("no evidence")
    };
    let record = attestation::Evidence::parse(&evidence.evidence)
        .unwrap()
        .record()
        .to_vec();
    Setting {
        enclave,
        window,
        version: 1,
        record: PublicKey::from_spki(&record).unwrap(),
        authority,
    }
}

fn payload() -> Payload {
    Payload::parse(b"{\"n\":1}").unwrap()
}

fn digest(identity: &str, action: &str) -> Digest<32> {
    let intent = Intent::new(action.into(), String::new(), String::new()).unwrap();
    let request = Request {
        audience: None,
        delegation: None,
        format: "vouch-jwt",
        identity,
        intent: &intent,
        payload: &payload(),
        validity_seconds: None,
    };
    request.digest().unwrap()
}

impl Setting {
    fn proof(&self) -> CallerProof {
        let mut jti = [0; 16];
        os_random(&mut jti);
        CallerProof {
            boot_id: self.enclave.enclave.boot_id(),
            exp: harness::now().0 + 30,
            jti: Uuid::from_bytes(jti),
            key_version: self.version,
            request: digest("agent", "a"),
        }
    }

    /// A proof for a rotation of `agent`'s key.
    fn proof_to_rotate(&self) -> CallerProof {
        CallerProof {
            request: Rotation { identity: "agent" }.digest().unwrap(),
            ..self.proof()
        }
    }

    /// Asks for `agent`'s key to be replaced; gives the version of the new one, or why there is none.
    fn rotate(
        &mut self,
        jws: &str,
        document: Option<Vec<u8>>,
        order: Option<Vec<u8>>,
    ) -> Result<u32, String> {
        let rotate = protocol::Rotate {
            requester: protocol::Requester {
                caller: ObservedCaller::ids(4711, 4711),
                identity: Some("agent".into()),
            },
            order,
            proof: Some(PresentedProof {
                jws: jws.into(),
                document,
            }),
        };
        let asked = protocol::Request::Rotate(rotate);
        let (answer, event) = self.window.ask_recorded(asked).unwrap();
        let mut reader = Reader::new(vec![self.record.clone()]);
        let event = event.map(|event| reader.next(&event).unwrap().decision);
        match answer {
            Ok(Answer::Rotated(rotated)) => {
                let event = event.unwrap();
                assert!(
                    matches!(event.caller, Some(Caller::Proven(proven)) if proven.name == "robot")
                );
                let digest = Rotation { identity: "agent" }.digest().unwrap();
                assert_eq!(event.request_digest, Some(digest));
                Ok(rotated.description.versions.last().unwrap().version)
            }
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => {
                let caller = event.and_then(|event| event.caller);
                assert!(!matches!(caller, Some(Caller::Proven(_))));
                Err(format!("{}: {}", refusal.code, refusal.message))
            }
        }
    }

    /// Asks for action `a` of `agent` with this proof; gives who the token says has asked, or the
    /// code of the refusal.
    fn ask(&mut self, jws: String, document: Option<Vec<u8>>) -> Result<Caller, String> {
        let sign = Sign {
            requester: protocol::Requester {
                caller: ObservedCaller::ids(4711, 4711),
                identity: Some("agent".into()),
            },
            format: Format::VouchJwt,
            action: "a".into(),
            target: String::new(),
            resource: String::new(),
            payload: "{\"n\":1}".into(),
            audience: None,
            validity_seconds: None,
            proof: Some(PresentedProof { jws, document }),
            delegation: None,
            approval: None,
            delegatee: None,
        };
        let (answer, event) = self
            .window
            .ask_recorded(protocol::Request::Sign(sign))
            .unwrap();
        let Some(event) = event else {
            // A proof of nobody whom the policy names makes no event.
            let refusal = answer.unwrap_err();
            assert_eq!(refusal.code, "proof_invalid");
            return Err(format!("{}: {}", refusal.code, refusal.message));
        };
        let event = Reader::new(vec![self.record.clone()])
            .next(&event)
            .unwrap()
            .decision;
        match answer {
            Ok(Answer::Signed(signed)) => {
                let claims = identity::token::unverified_claims(&signed.signed).unwrap();
                assert_eq!(
                    (event.policy_decision, event.caller.as_ref()),
                    (Verdict::Allow, Some(&claims.caller))
                );
                Ok(claims.caller)
            }
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => {
                assert_eq!(
                    (event.policy_decision, event.refusal.as_deref()),
                    (Verdict::Deny, Some(refusal.code.as_str()))
                );
                // What was not proven is not said to be.
                assert!(
                    matches!(event.caller, Some(Caller::Asserted(_)))
                        || refusal.code != "proof_invalid"
                );
                Err(format!("{}: {}", refusal.code, refusal.message))
            }
        }
    }
}

#[test]
fn a_proof_is_for_one_boot_one_version_one_request_and_once() {
    let mut setting = setting();
    let robot = TestKey::new(ROBOT);
    let good = setting.proof();
    let jws = good.sign(&robot).unwrap();
    let Ok(Caller::Proven(proven)) = setting.ask(jws.clone(), None) else {
        panic!("refused")
    };
    assert_eq!(
        (proven.name.as_str(), proven.key, proven.measurement),
        ("robot", robot.public_key().thumbprint(), None)
    );
    assert!(setting.ask(jws, None).unwrap_err().contains("used before"));
    let now = harness::now().0;
    let fresh = |setting: &Setting| setting.proof();
    let wrong: Vec<(CallerProof, &str)> = vec![
        (
            CallerProof {
                boot_id: identity::BootId::new([9; 16]),
                ..fresh(&setting)
            },
            "another boot",
        ),
        (
            CallerProof {
                key_version: 2,
                ..fresh(&setting)
            },
            "another version",
        ),
        (
            CallerProof {
                request: digest("agent", "b"),
                ..fresh(&setting)
            },
            "another request",
        ),
        (
            CallerProof {
                request: digest("web", "a"),
                ..fresh(&setting)
            },
            "another request",
        ),
        (
            CallerProof {
                exp: now - 3,
                ..fresh(&setting)
            },
            "too late",
        ),
        (
            CallerProof {
                exp: now + 70,
                ..fresh(&setting)
            },
            "more than 60 seconds",
        ),
    ];
    for (proof, says) in wrong {
        let refused = setting.ask(proof.sign(&robot).unwrap(), None).unwrap_err();
        assert!(
            refused.starts_with("proof_invalid") && refused.contains(says),
            "{refused}"
        );
    }
    // Signed by somebody else: one whom the policy does not name, or in the robot's name.
    let stranger = TestKey::new(77);
    assert!(
        setting
            .ask(fresh(&setting).sign(&stranger).unwrap(), None)
            .unwrap_err()
            .contains("no caller with this key")
    );
    let forged = fresh(&setting).sign(&robot).unwrap();
    let (body, _) = forged.rsplit_once('.').unwrap();
    let (_, signature) = fresh(&setting)
        .sign(&stranger)
        .map(|jws| {
            jws.rsplit_once('.')
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .unwrap()
        })
        .unwrap();
    assert!(
        setting
            .ask(format!("{body}.{signature}"), None)
            .unwrap_err()
            .contains("signature or form")
    );
    for garbage in ["", "a.b.c", "e30.e30.e30"] {
        assert!(
            setting
                .ask(garbage.into(), None)
                .unwrap_err()
                .starts_with("proof_invalid"),
            "{garbage}"
        );
    }
    // Without a proof the rule is not for anybody, not even for a caller who may use the identity.
    let refused = setting
        .window
        .ask(harness::window::sign("agent"))
        .unwrap()
        .unwrap_err();
    assert_eq!(refused.code, "caller_not_proven");
    // Nor is it for proofs of an identity that the robot may not use.
    let mut other = harness::window::sign("web");
    if let protocol::Request::Sign(sign) = &mut other {
        let jws = CallerProof {
            request: digest("web", "a"),
            ..setting.proof()
        }
        .sign(&robot)
        .unwrap();
        sign.payload = "{\"n\":1}".into();
        sign.proof = Some(PresentedProof {
            jws,
            document: None,
        });
    }
    assert_eq!(
        setting.window.ask(other).unwrap().unwrap_err().code,
        "caller_not_allowed"
    );
}

#[test]
fn a_caller_with_a_key_rotates_by_a_proof_for_that_and_by_no_other() {
    let mut setting = setting();
    let robot = TestKey::new(ROBOT);
    let good = setting.proof_to_rotate();
    let refused = [
        (setting.proof(), "another request"),
        (
            CallerProof {
                request: Rotation { identity: "web" }.digest().unwrap(),
                ..good.clone()
            },
            "another request",
        ),
        (
            CallerProof {
                key_version: 2,
                ..good.clone()
            },
            "another version",
        ),
        (
            CallerProof {
                boot_id: identity::BootId::new([9; 16]),
                ..good.clone()
            },
            "another boot",
        ),
    ];
    for (proof, says) in refused {
        let said = setting.rotate(&proof.sign(&robot).unwrap(), None, None);
        let said = said.unwrap_err();
        assert!(
            said.starts_with("proof_invalid") && said.contains(says),
            "{said}"
        );
    }
    let by_stranger = good.sign(&TestKey::new(77)).unwrap();
    let said = setting.rotate(&by_stranger, None, None).unwrap_err();
    assert!(said.contains("no caller with this key"), "{said}");
    // Who may sign with it may not rotate it.
    let (key, boot) = (
        TestKey::new(40),
        *setting.enclave.enclave.boot_id().as_bytes(),
    );
    let own = Authority::from_pem(&setting.authority.0, &setting.authority.1).unwrap();
    let document = nsm(own, &PEER).attest(Some(&key.public_key().to_spki()), None, Some(&boot));
    let (document, by_peer) = (document.unwrap(), good.sign(&key).unwrap());
    let said = setting.rotate(&by_peer, Some(document), None).unwrap_err();
    assert!(said.starts_with("rotation_not_allowed"), "{said}");
    // Nobody needs both.
    let jws = good.sign(&robot).unwrap();
    let said = setting.rotate(&jws, None, Some(vec![0])).unwrap_err();
    assert!(said.starts_with("order_invalid"), "{said}");
    // Nor does it sign.
    assert!(
        setting
            .ask(jws.clone(), None)
            .unwrap_err()
            .contains("another request")
    );
    assert_eq!(setting.rotate(&jws, None, None), Ok(2));
    let said = setting.rotate(&jws, None, None).unwrap_err();
    assert!(said.contains("another version"), "{said}");
    setting.version = 2;
    let next = setting.proof_to_rotate().sign(&robot).unwrap();
    assert_eq!(setting.rotate(&next, None, None), Ok(3));
}

#[test]
fn who_may_only_rotate_learns_for_which_boot_and_version_and_does_nothing_else() {
    let mut setting = setting();
    let nobody = |identity: &str| protocol::Requester {
        caller: ObservedCaller::ids(4711, 4711),
        identity: Some(identity.into()),
    };
    let asked = protocol::Request::Describe(nobody("p256"));
    let Answer::Description(described) = setting.window.ask(asked).unwrap().unwrap() else {
        panic!("not described")
    };
    assert_eq!(described.versions.last().unwrap().version, 1);
    // Of one for which nobody proves itself strangers learn nothing.
    let asked = protocol::Request::Describe(nobody("web"));
    let refused = setting.window.ask(asked).unwrap().unwrap_err();
    assert_eq!(refused.code, "caller_not_allowed");
    let keeper = TestKey::new(KEEPER);
    let mut asked = harness::window::sign("p256");
    if let protocol::Request::Sign(sign) = &mut asked {
        let request = digest("p256", "a");
        let jws = CallerProof {
            request,
            ..setting.proof()
        }
        .sign(&keeper)
        .unwrap();
        sign.payload = "{\"n\":1}".into();
        sign.proof = Some(PresentedProof {
            jws,
            document: None,
        });
    }
    let refused = setting.window.ask(asked).unwrap().unwrap_err();
    assert_eq!(refused.code, "caller_not_allowed");
    // An enclave rotates as well, by its document, and by no other key than it names.
    let enclave = TestKey::new(40);
    let boot = *setting.enclave.enclave.boot_id().as_bytes();
    let own = Authority::from_pem(&setting.authority.0, &setting.authority.1).unwrap();
    let spki = enclave.public_key().to_spki();
    let document = nsm(own, &PEER).attest(Some(&spki), None, Some(&boot));
    let document = Some(document.unwrap());
    for (key, document, version, wanted) in [
        (&keeper, None, 1, Ok(2)),
        (&keeper, document.clone(), 2, Err("proof_invalid")),
        (&enclave, document.clone(), 1, Err("proof_invalid")),
        (&enclave, document, 2, Ok(3)),
        (&enclave, None, 3, Err("proof_invalid")),
    ] {
        let proof = CallerProof {
            request: Rotation { identity: "p256" }.digest().unwrap(),
            key_version: version,
            ..setting.proof()
        };
        let jws = proof.sign(key).unwrap();
        let asked = protocol::Request::Rotate(protocol::Rotate {
            requester: nobody("p256"),
            order: None,
            proof: Some(PresentedProof { jws, document }),
        });
        let rotated = match setting.window.ask(asked).unwrap() {
            Ok(Answer::Rotated(rotated)) => {
                Ok(rotated.description.versions.last().unwrap().version)
            }
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal.code),
        };
        assert_eq!(rotated, wanted.map_err(str::to_owned));
    }
}

#[test]
fn a_callers_enclave_is_known_by_its_measurements_and_its_key_by_its_document() {
    let mut setting = setting();
    let (key, boot) = (
        TestKey::new(40),
        *setting.enclave.enclave.boot_id().as_bytes(),
    );
    let peer = |measured: &[Digest<48>], authority: &(String, String)| {
        nsm(
            Authority::from_pem(&authority.0, &authority.1).unwrap(),
            measured,
        )
    };
    let spki = key.public_key().to_spki();
    let document = peer(&PEER, &setting.authority)
        .attest(Some(&spki), None, Some(&boot))
        .unwrap();
    for _ in 0..2 {
        // The second time the document is known.
        let jws = setting.proof().sign(&key).unwrap();
        let Ok(Caller::Proven(proven)) = setting.ask(jws, Some(document.clone())) else {
            panic!("refused")
        };
        assert_eq!(
            (proven.name.as_str(), proven.measurement),
            ("peer", Some(PEER[0]))
        );
    }
    let other_root = authority();
    let debug = [Digest([0; 48]), Digest([0; 48]), Digest([0; 48])];
    let cases = [
        (
            peer(&[PEER[0], PEER[1], Digest([9; 48])], &setting.authority).attest(
                Some(&spki),
                None,
                Some(&boot),
            ),
            "no such enclave",
        ),
        (
            peer(&PEER, &other_root).attest(Some(&spki), None, Some(&boot)),
            "document is not good",
        ),
        (
            peer(&debug, &setting.authority).attest(Some(&spki), None, Some(&boot)),
            "document is not good",
        ),
        (
            peer(&PEER, &setting.authority).attest(Some(&spki), None, Some(&[1; 16])),
            "another boot",
        ),
        (
            peer(&PEER, &setting.authority).attest(Some(&spki), None, None),
            "another boot",
        ),
        (
            peer(&PEER, &setting.authority).attest(None, None, Some(&boot)),
            "no key",
        ),
        (
            peer(&PEER, &setting.authority).attest(Some(&[1; 44]), None, Some(&boot)),
            "no key",
        ),
        (
            peer(&PEER, &setting.authority).attest(
                Some(&TestKey::new(41).public_key().to_spki()),
                None,
                Some(&boot),
            ),
            "another key",
        ),
        (Ok(vec![0; 100]), "document is not good"),
    ];
    for (document, says) in cases {
        let refused = setting
            .ask(setting.proof().sign(&key).unwrap(), Some(document.unwrap()))
            .unwrap_err();
        assert!(
            refused.starts_with("proof_invalid") && refused.contains(says),
            "{says}: {refused}"
        );
    }
    // Each of the three registers counts.
    for other in 0..2 {
        let mut measured = PEER;
        measured[other] = Digest([9; 48]);
        let document = peer(&measured, &setting.authority)
            .attest(Some(&spki), None, Some(&boot))
            .unwrap();
        let refused = setting
            .ask(setting.proof().sign(&key).unwrap(), Some(document))
            .unwrap_err();
        assert!(refused.contains("no such enclave"), "{other}: {refused}");
    }
    // A document is believed for an hour; its leaf would be good for three.
    let mut late = |seconds| {
        let authority = Authority::from_pem(&setting.authority.0, &setting.authority.1).unwrap();
        let document = nsm_at(authority, &PEER, seconds)
            .attest(Some(&spki), None, Some(&boot))
            .unwrap();
        let proof = setting.proof().sign(&key).unwrap();
        setting.ask(proof, Some(document))
    };
    assert!(late(3500).is_ok());
    assert!(late(3700).unwrap_err().contains("too old"));
}
