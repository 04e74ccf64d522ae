use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use identity::caller::{ObservedCaller, Proven};
use identity::request::{Approval, CallerProof, Rotation};
use identity::token;
use identity::{Algorithm, AnnexId, ApprovalId, BootId, Caller, Format, Signer, Tee, UnixSeconds};
use policy::{Annex, Bundle};
use protocol::{
    Answer, Exchange, PendingApproval, PresentedProof, Requester, Rotate, Sign, Signed,
};
use record::{Decision, Verdict};

use crate::audit::Trail;
use crate::clock::Bounds;
use crate::env::Env;
use crate::identities::{BoundTo, Identity};
use crate::keys::KeyPair;
use crate::nsm::PeerVerifier;
use crate::operations::{annex, approve, exchange, rotate, sign};
use crate::provisioned::Provisioned;
use crate::record::Record;
use crate::service::Unreleased;
use crate::stages::authenticate::authenticate;
use crate::stages::authority::Authority;
use crate::stages::parse::SignRequest;
use crate::stages::settle::Settling;
use crate::stages::{authorize, settle};
use crate::{Error, OsEntropy};

mod handed_on;
mod peers;

const BOOT: [u8; 16] = [7; 16];
const NOW: i64 = 1_800_000_000;

const POLICY: &str = r#"
version = 1
mode = "development"
proxy_key = "PROXY"
operator_key = "OPERATOR"
callers = [{ name = "robot", key = "ROBOT" }]
approvers = [{ name = "alice", key = "ALICE" }]

[[identities]]
name = "agent"
environment = "test"
did = "did:key"
algorithm = "EdDSA"
max_validity_seconds = 600
callers = { uids = [1000], proven = ["robot"] }
rotation_callers = { proven = ["robot"] }
limits = [{ per = "hour", max = 3 }]
delegation = { from = ["issuer:idp", "agent:granter"], scopes = ["read", "write"], resources = ["urn:*"] }
rules = [
  { name = "approved", actions = ["pay"], targets = ["*"], resources = ["*"], limits = [{ per = "minute", max = 1 }], approval = { by = ["alice"], seconds = 3600 } },
  { name = "free", actions = ["read", "write"], targets = ["*"], resources = ["*"], envelope = true },
]

[[identities]]
name = "other"
environment = "test"
did = "did:key"
algorithm = "ES256"
max_validity_seconds = 600
callers = { uids = [2000] }
rotation_callers = { uids = [2002] }
rules = [{ name = "any", actions = ["*"], targets = ["*"], resources = ["*"] }]

[[identities]]
name = "granter"
environment = "test"
did = "did:key"
algorithm = "EdDSA"
max_validity_seconds = 600
callers = { uids = [2001] }
rules = [{ name = "grant", actions = ["*"], targets = ["*"], resources = ["*"], delegatees = ["*"] }]
"#;

fn key(byte: u8) -> KeyPair {
    KeyPair::generate(Algorithm::EdDSA, &[byte; 32], &[0; 32], b"test")
}

/// An enclave with a policy, but without an NSM and without a thread.
struct Setting {
    provisioned: Provisioned,
    verify_peer: PeerVerifier,
    now: i64,
}

impl Setting {
    fn new() -> Self {
        let mut text = POLICY.to_owned();
        for (name, byte) in [("PROXY", 1), ("OPERATOR", 2), ("ROBOT", 3), ("ALICE", 4)] {
            text = text.replace(
                &format!("\"{name}\""),
                &format!("\"{}\"", key(byte).public_key().to_multikey()),
            );
        }
        let bundle = Bundle::from_toml(&text).unwrap();
        let record = Record::new(key(5), BootId::new(BOOT));
        let bound = BoundTo {
            policy: bundle.digest(),
            record_spki: record.public_key().to_spki(),
            state: None,
        };
        let born = |policy: &policy::IdentityPolicy| {
            let key =
                KeyPair::generate(policy.algorithm, &[6; 32], &[0; 32], policy.name.as_bytes());
            Identity::new(policy, &bound, key).unwrap()
        };
        let identities = bundle.identities.iter().map(born).collect();
        let provisioned = Provisioned::new(
            bundle.clone(),
            bundle.canonical(),
            None,
            identities,
            record,
            bound,
            None,
        );
        let verify_peer: PeerVerifier = Box::new(|_, _| Err(attestation::Error::RootUntrusted));
        Self {
            provisioned,
            verify_peer,
            now: NOW,
        }
    }

    fn env(&self) -> Env<'_> {
        let now = Bounds {
            earliest: UnixSeconds(self.now),
            latest: UnixSeconds(self.now),
        };
        Env::new(
            &self.provisioned,
            Ok(now),
            BootId::new(BOOT),
            Tee::Mock,
            &OsEntropy,
            &self.verify_peer,
        )
    }

    fn identity(&self, name: &str) -> &Identity {
        self.provisioned
            .identities()
            .find(|identity| identity.policy.name == name)
            .unwrap()
    }

    /// What comes of a request, and the decision that the record is told.
    fn operate<A: Into<Unreleased<Answer>>>(
        &self,
        event: &str,
        work: impl FnOnce(&Env<'_>, &mut Trail) -> Result<A, Error>,
    ) -> (Result<Answer, Error>, Option<Decision>) {
        let env = self.env();
        let mut trail = Trail::new(self.provisioned.policy, event, "default");
        let outcome = work(&env, &mut trail);
        let decision = trail.close(&env, &outcome, std::time::Duration::from_secs(1));
        (outcome.and_then(|answer| answer.into().checked()), decision)
    }

    fn sign(&self, sign: Sign) -> (Result<Answer, Error>, Option<Decision>) {
        self.operate("token.sign", |env, trail| sign::sign(env, sign, trail))
    }

    fn signed(&self, sign: Sign) -> Result<Signed, &'static str> {
        match self.sign(sign).0 {
            Ok(Answer::Signed(signed)) => Ok(signed),
            Ok(_) => Err("pending"),
            Err(error) => Err(error.code()),
        }
    }

    fn exchange(&self, exchange: Exchange) -> (Result<Answer, Error>, Option<Decision>) {
        self.operate("token.exchange", |env, trail| {
            exchange::exchange(env, exchange, trail).map(|signed| signed.map(Answer::Signed))
        })
    }

    /// Lets a request wait, and approves it.
    fn approved(&self, sign: Sign) -> ApprovalId {
        let Ok(Answer::PendingApproval(waiting)) = self.sign(sign).0 else {
            panic!("it does not wait")
        };
        let approval = Approval {
            approval: waiting.id,
            boot_id: BootId::new(BOOT),
            exp: self.now + 60,
            request: identity::Digest(waiting.request),
        };
        let jws = approval.sign(&key(4)).unwrap();
        let approve = |env: &Env<'_>, trail: &mut Trail| {
            approve::approve(env, &jws, trail).map(Answer::PendingApproval)
        };
        let (outcome, decision) = self.operate("approval.grant", approve);
        assert!(matches!(
            outcome,
            Ok(Answer::PendingApproval(PendingApproval {
                approved: true,
                ..
            }))
        ));
        assert_eq!(decision.unwrap().approvals[0].name, "alice");
        waiting.id
    }

    /// A caller's proof for a request.
    fn proof(&self, sign: &Sign, change: impl Fn(&mut CallerProof)) -> PresentedProof {
        let request = SignRequest::parse(sign.clone(), &mut trail()).unwrap();
        let mut proof = CallerProof {
            boot_id: BootId::new(BOOT),
            exp: self.now + 30,
            jti: uuid::Uuid::from_u128(1),
            key_version: 1,
            request: request.in_form("agent").digest().unwrap(),
        };
        change(&mut proof);
        PresentedProof {
            jws: proof.sign(&key(3)).unwrap(),
            document: None,
        }
    }

    fn load(&self, version: u32) -> (Result<Answer, Error>, Option<Decision>) {
        let text = format!(
            "version = {version}\n[[issuers]]\nname = \"idp\"\niss = \"https://idp\"\nkeys = [\"{}\"]\n",
            key(9).public_key().to_multikey()
        );
        let signed = Annex::from_toml(&text).unwrap().sign(&key(2)).unwrap();
        self.operate("annex.load", |env, trail| {
            annex::load(env, &signed, trail)?;
            Ok(Answer::Records(protocol::Records {
                lines: Vec::new(),
                next: 0,
            }))
        })
    }
}

fn trail() -> Trail {
    Trail::new(identity::Digest([0; 48]), "token.sign", "default")
}

fn request(action: &str) -> Sign {
    Sign {
        requester: Requester {
            caller: ObservedCaller::ids(1000, 1),
            identity: Some("agent".into()),
        },
        format: Format::VouchJwt,
        action: action.into(),
        target: "t".into(),
        resource: "urn:x".into(),
        payload: "{}".into(),
        audience: None,
        validity_seconds: None,
        proof: None,
        delegation: None,
        approval: None,
        delegatee: None,
    }
}

fn version(decision: Option<Decision>) -> Option<u32> {
    decision
        .unwrap()
        .annex
        .map(|AnnexId { version, .. }| version)
}

#[test]
fn a_signature_passes_every_stage_and_the_event_says_what_was_done() {
    let setting = Setting::new();
    let (outcome, decision) = setting.sign(request("read"));
    let Ok(Answer::Signed(signed)) = outcome else {
        panic!("{outcome:?}")
    };
    let claims = token::unverified_claims(&signed.signed).unwrap();
    let decision = decision.unwrap();
    assert_eq!(decision.policy_decision, Verdict::Allow);
    assert!(
        decision.policy_id.starts_with("free@"),
        "{}",
        decision.policy_id
    );
    assert_eq!(decision.token_id, Some(claims.jti.to_string()));
    assert_eq!(
        (decision.timestamp, decision.expires_at),
        (Some(UnixSeconds(NOW)), Some(UnixSeconds(claims.exp)))
    );
    assert_eq!(decision.delegation_chain, ["agent:agent"]);
    assert_eq!(
        (decision.binding, decision.did),
        (Some(claims.binding), Some(claims.iss))
    );
    assert_eq!(decision.caller, Some(claims.caller));
}

#[test]
fn each_stage_refuses_with_its_own_code_and_the_event_says_so() {
    let setting = Setting::new();
    let of = |uid, name: Option<&str>| Requester {
        caller: ObservedCaller::ids(uid, 1),
        identity: name.map(str::to_owned),
    };
    for (sign, wanted) in [
        // Parse.
        (
            Sign {
                action: String::new(),
                ..request("read")
            },
            "intent_invalid",
        ),
        // Authenticate.
        (
            Sign {
                requester: of(1000, Some("nobody")),
                ..request("read")
            },
            "unknown_identity",
        ),
        (
            Sign {
                requester: of(3000, None),
                ..request("read")
            },
            "caller_not_allowed",
        ),
        (
            Sign {
                requester: of(2000, Some("agent")),
                ..request("read")
            },
            "caller_not_allowed",
        ),
        // Authority.
        (
            Sign {
                delegation: Some("e30.e30.e30".into()),
                ..request("read")
            },
            "delegation_invalid",
        ),
        (
            Sign {
                delegation: Some("[]".into()),
                ..request("read")
            },
            "delegation_invalid",
        ),
        // Authorize.
        (request("delete"), "intent_action_not_in_allowlist"),
        (request("act"), "action_reserved"),
        (
            Sign {
                format: Format::Envelope,
                ..request("read")
            },
            "envelope_has_no_place",
        ),
        (
            Sign {
                approval: Some(ApprovalId::new([1; 16])),
                format: Format::VouchCredential,
                ..request("read")
            },
            "delegation_format",
        ),
        // Settle.
        (
            Sign {
                approval: Some(ApprovalId::new([1; 16])),
                ..request("pay")
            },
            "approval_unknown",
        ),
    ] {
        let (outcome, decision) = setting.sign(sign.clone());
        let code = outcome.unwrap_err().code();
        assert_eq!(code, wanted, "{sign:?}");
        let decision = decision.unwrap();
        assert_eq!(
            (decision.policy_decision, decision.refusal.as_deref()),
            (Verdict::Deny, Some(code)),
            "{sign:?}"
        );
        assert_eq!(
            (decision.token_id, decision.caller),
            (None, Some(Caller::Asserted(sign.requester.caller)))
        );
    }
    // None of them used anything.
    assert!(setting.signed(request("read")).is_ok());
}

#[test]
fn without_the_time_nothing_is_signed_and_the_event_has_none() {
    let setting = Setting::new();
    let boot = BootId::new(BOOT);
    let env = Env::new(
        &setting.provisioned,
        Err(Error::ClockStale),
        boot,
        Tee::Mock,
        &OsEntropy,
        &setting.verify_peer,
    );
    let mut trail = trail();
    let outcome = sign::sign(&env, request("read"), &mut trail);
    assert_eq!(outcome.as_ref().err(), Some(&Error::ClockStale));
    let decision = trail
        .close(&env, &outcome, std::time::Duration::ZERO)
        .unwrap();
    assert_eq!(
        (decision.timestamp, decision.refusal.as_deref()),
        (None, Some("clock_stale"))
    );
}

#[test]
fn an_approval_is_not_lost_to_a_limit() {
    let mut setting = Setting::new();
    let (first, second) = (
        request("pay"),
        Sign {
            payload: "{\"n\":2}".into(),
            ..request("pay")
        },
    );
    let (one, two) = (
        setting.approved(first.clone()),
        setting.approved(second.clone()),
    );
    // PendingApproval used nothing of the limit of one a minute; the first signature uses it up.
    let first = Sign {
        approval: Some(one),
        ..first
    };
    let second = Sign {
        approval: Some(two),
        ..second
    };
    assert!(setting.signed(first.clone()).is_ok());
    for _ in 0..3 {
        assert_eq!(setting.signed(second.clone()), Err("rate_limit_exceeded"));
    }
    // The approval is still there when the limit lets it be, and works once.
    setting.now += 120;
    assert_eq!(
        setting.signed(Sign {
            approval: Some(one),
            ..second.clone()
        }),
        Err("approval_unknown")
    );
    assert!(setting.signed(second.clone()).is_ok());
    setting.now += 120;
    assert_eq!(setting.signed(second), Err("approval_unknown"));
    assert_eq!(setting.signed(first), Err("approval_unknown"));
}

#[test]
fn who_has_no_approval_learns_nothing_of_limits() {
    let setting = Setting::new();
    let used = setting.approved(request("pay"));
    assert!(
        setting
            .signed(Sign {
                approval: Some(used),
                ..request("pay")
            })
            .is_ok()
    );
    // The limit is used up; wrong ids, and requests that wait, are answered as before.
    let other = Sign {
        payload: "{\"n\":1}".into(),
        ..request("pay")
    };
    for id in [used, ApprovalId::new([9; 16])] {
        assert_eq!(
            setting.signed(Sign {
                approval: Some(id),
                ..other.clone()
            }),
            Err("approval_unknown")
        );
    }
    let Ok(Answer::PendingApproval(waiting)) = setting.sign(other.clone()).0 else {
        panic!("it does not wait")
    };
    assert_eq!(
        setting.signed(Sign {
            approval: Some(waiting.id),
            ..other
        }),
        Err("pending")
    );
    assert_eq!(
        setting.signed(Sign {
            approval: Some(waiting.id),
            ..request("pay")
        }),
        Err("approval_invalid")
    );
}

#[test]
fn a_key_signs_what_was_permitted_with_its_own_card_only() {
    let setting = Setting::new();
    let env = setting.env();
    let asked = |name| {
        let sign = Sign {
            requester: Requester {
                caller: ObservedCaller::ids(1000, 1),
                identity: Some(name),
            },
            ..request("read")
        };
        let request = SignRequest::parse(sign, &mut trail()).unwrap();
        let asked = authenticate(&env, request, &mut trail()).unwrap();
        Authority::establish(&env, asked, &mut trail()).unwrap()
    };
    let (agent, other) = (
        setting.identity("agent").hold().unwrap(),
        setting.identity("other").hold().unwrap(),
    );
    let permit = authorize::sign(&env, agent.card(), asked("agent".into()), &mut trail()).unwrap();
    let Settling::Settled(settled) = settle::sign(&env, permit, &mut trail()).unwrap() else {
        panic!("it waits")
    };
    assert!(settled.key(&agent).is_ok());
    assert!(matches!(settled.key(&other), Err(Error::SelfCheckFailed)));
    // Nor does the key of the same name that has followed meanwhile.
    drop((agent, other));
    setting.rotate(1, 40);
    let next = setting.identity("agent").hold().unwrap();
    assert!(matches!(settled.key(&next), Err(Error::SelfCheckFailed)));
}

#[test]
fn what_was_not_signed_is_not_counted() {
    let setting = Setting::new();
    // Three an hour for the identity. Requests that wait, and wrong approvals, take nothing of it.
    for n in 0..5 {
        let sign = Sign {
            payload: format!("{{\"n\":{n}}}"),
            ..request("pay")
        };
        assert_eq!(setting.signed(sign.clone()), Err("pending"));
        assert_eq!(
            setting.signed(Sign {
                approval: Some(ApprovalId::new([9; 16])),
                ..sign
            }),
            Err("approval_unknown")
        );
    }
    for _ in 0..3 {
        assert!(setting.signed(request("read")).is_ok());
    }
    assert_eq!(setting.signed(request("read")), Err("rate_limit_exceeded"));
}

#[test]
fn a_proof_gets_one_answer_and_who_shows_it_again_has_proven_nothing() {
    let setting = Setting::new();
    let proven = |sign: Sign, change: &dyn Fn(&mut CallerProof)| {
        let proof = setting.proof(&sign, change);
        let (outcome, decision) = setting.sign(Sign {
            proof: Some(proof),
            ..sign
        });
        let is_proven = matches!(decision.unwrap().caller, Some(Caller::Proven(Proven { name, .. })) if name == "robot");
        (outcome.map(|_| ()).map_err(|error| error.code()), is_proven)
    };
    let jti = |n: u128| move |proof: &mut CallerProof| proof.jti = uuid::Uuid::from_u128(n);
    assert_eq!(proven(request("read"), &jti(1)), (Ok(()), true));
    assert_eq!(
        proven(request("read"), &jti(1)),
        (Err("proof_invalid"), false)
    );
    // What the policy refuses has used its proof too, and what was refused for what it presents.
    assert_eq!(
        proven(request("delete"), &jti(2)),
        (Err("intent_action_not_in_allowlist"), true)
    );
    assert_eq!(
        proven(request("delete"), &jti(2)),
        (Err("proof_invalid"), false)
    );
    let presents = |text: &str| Sign {
        delegation: Some(text.into()),
        ..request("read")
    };
    for (text, id) in [("e30.e30.e30", 4), ("[]", 5)] {
        assert_eq!(
            proven(presents(text), &jti(id)),
            (Err("delegation_invalid"), true)
        );
        assert_eq!(
            proven(presents(text), &jti(id)),
            (Err("proof_invalid"), false)
        );
    }
    for change in [
        &|proof: &mut CallerProof| proof.boot_id = BootId::new([8; 16]),
        &|proof: &mut CallerProof| proof.key_version = 2,
        &|proof: &mut CallerProof| proof.request = identity::sha256(b""),
        &|proof: &mut CallerProof| proof.exp = NOW - 1,
        &|proof: &mut CallerProof| proof.exp = NOW + 61,
    ] as [&dyn Fn(&mut CallerProof); 5]
    {
        let with_id = |proof: &mut CallerProof| {
            jti(3)(proof);
            change(proof);
        };
        assert_eq!(
            proven(request("read"), &with_id),
            (Err("proof_invalid"), false)
        );
    }
    // None of those used it up.
    assert_eq!(proven(request("read"), &jti(3)), (Ok(()), true));
}

#[test]
fn a_request_sees_one_annex_and_its_event_names_that_one() {
    let setting = Setting::new();
    assert_eq!(version(setting.load(1).1), Some(1));
    let (env, mut trail) = (setting.env(), trail());
    let outcome = sign::sign(&env, request("read"), &mut trail);
    assert!(outcome.is_ok());
    // Before its event is made another annex comes, whose event names the new one.
    assert_eq!(version(setting.load(2).1), Some(2));
    assert_eq!(
        version(trail.close(&env, &outcome, std::time::Duration::ZERO)),
        Some(1)
    );
    assert_eq!(version(setting.sign(request("read")).1), Some(2));
    // One that is not taken is named by nothing.
    let (outcome, decision) = setting.load(1);
    assert_eq!(outcome.unwrap_err().code(), "annex_outdated");
    assert_eq!(version(decision), Some(2));
}

#[test]
fn what_waited_while_another_annex_came_is_not_signed() {
    let setting = Setting::new();
    assert!(setting.load(1).0.is_ok());
    let env = setting.env();
    assert!(setting.load(2).0.is_ok());
    let outcome = sign::sign(&env, request("read"), &mut trail()).and_then(Unreleased::checked);
    assert_eq!(outcome, Err(Error::AnnexReplacedMeanwhile));
    assert!(setting.signed(request("read")).is_ok());
    setting.annex(3, "");
    let env = setting.env();
    setting.annex(4, "\"user:u\"");
    let outcome = exchange::exchange(&env, ask("read"), &mut trail()).and_then(Unreleased::checked);
    assert_eq!(outcome, Err(Error::AnnexReplacedMeanwhile));
}

#[test]
fn an_exchange_passes_the_same_stages() {
    let setting = Setting::new();
    let ask = |subject_token: &str, uid| Exchange {
        requester: Requester {
            caller: ObservedCaller::ids(uid, 1),
            identity: Some("agent".into()),
        },
        subject_token: subject_token.into(),
        scope: None,
        resource: None,
        audience: None,
        proof: None,
    };
    let code = |exchange| setting.exchange(exchange).0.unwrap_err().code();
    assert_eq!(code(ask("e30.e30.e30", 2000)), "caller_not_allowed");
    assert_eq!(
        code(Exchange {
            audience: Some(String::new()),
            ..ask("x", 1000)
        }),
        "audience_invalid"
    );
    // A token about the agent itself hands nothing on, no matter who shows it.
    let own = setting.signed(request("read")).unwrap().signed;
    let (outcome, decision) = setting.exchange(ask(&own, 1000));
    assert_eq!(outcome.unwrap_err().code(), "delegation_invalid");
    let decision = decision.unwrap();
    assert_eq!(
        (decision.action.as_deref(), decision.delegated_by),
        (Some("act"), None)
    );
    assert!(decision.request_digest.is_some());
}

#[test]
fn a_halted_identity_signs_nothing() {
    let setting = Setting::new();
    setting.provisioned.wipe();
    assert_eq!(setting.signed(request("read")), Err("halted"));
    assert!(setting.identity("agent").hold().is_err());
}

#[test]
fn a_rotation_replaces_the_key_and_keeps_what_was_used() {
    let setting = Setting::new();
    let identity = setting.identity("agent");
    let before = identity.card().unwrap();
    assert!(setting.signed(request("read")).is_ok());
    let bound = &setting.provisioned.bound;
    let rotate = |old| {
        let next = identity.prepare(old, bound, key(40), || Ok(UnixSeconds(NOW)));
        next.and_then(|next| identity.replace(next))
    };
    assert_eq!(rotate(2).err(), Some(Error::RotatedMeanwhile));
    let (versions, _) = rotate(1).unwrap();
    let after = identity.card().unwrap();
    assert_eq!((versions.len(), after.version()), (2, 2));
    assert_ne!(before.did, after.did);
    assert!(identity.hold().unwrap().had_did(before.did.as_str()) && !Arc::ptr_eq(&before, &after));
    assert_eq!(rotate(1).err(), Some(Error::RotatedMeanwhile));
    // Two of three an hour are left.
    assert_eq!(setting.signed(request("read")).unwrap().key_version, 2);
    assert!(setting.signed(request("read")).is_ok());
    assert_eq!(setting.signed(request("read")), Err("rate_limit_exceeded"));
}

#[test]
fn a_key_is_opened_at_each_crossing_once() {
    fn count(folder: &std::path::Path, word: &str) -> usize {
        let entries = std::fs::read_dir(folder)
            .unwrap()
            .flatten()
            .map(|entry| entry.path());
        let text = |file: &std::path::Path| {
            let text = std::fs::read_to_string(file).unwrap();
            if file.ends_with("tests.rs") {
                0
            } else {
                text.matches(word).count()
            }
        };
        entries
            .map(|path| {
                if path.is_dir() {
                    count(&path, word)
                } else {
                    text(&path)
                }
            })
            .sum()
    }
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for crossing in [
        "Crossing::Settled",
        "Crossing::Possession",
        "Crossing::Succession",
        "Crossing::Sealed",
    ] {
        assert_eq!(count(&source, crossing), 1, "{crossing}");
    }
    // And no file but these opens one.
    assert_eq!(count(&source, ".key(Crossing::"), 4);
    // A secret leaves a key to be sealed, and nowhere else: an identity's and the state's. What follows from
    // one leaves the state's, for the authority of the ingress process.
    assert_eq!(count(&source, ".secret()?"), 3);
    let (sealing, keys) = (source.join("durable"), source.join("keys"));
    assert_eq!(count(&sealing, ".secret()?"), 2);
    assert_eq!(count(&keys, ".secret()?"), 1);
    assert_eq!(
        count(&sealing, "state_key.derived("),
        count(&source, ".derived(")
    );
}

fn idp() -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[50; 32])
}

/// What the user signed over to the agent, as an identity provider writes it.
fn subject_token(scope: &str) -> String {
    subject_token_until(scope, NOW + 200)
}

fn subject_token_until(scope: &str, exp: i64) -> String {
    let claims = format!(
        "{{\"iss\":\"https://idp\",\"sub\":\"user:u\",\"aud\":\"agent:agent\",\"iat\":{NOW},\"exp\":{exp},\"jti\":\"g1\",\"scope\":\"{scope}\",\"resource\":\"urn:x\",\"may_act\":{{\"sub\":\"agent:agent\"}}}}"
    );
    let signed = format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(b"{\"alg\":\"EdDSA\",\"typ\":\"JWT\"}"),
        BASE64URL_NOPAD.encode(claims.as_bytes())
    );
    let signature = ed25519_dalek::Signer::sign(&idp(), signed.as_bytes());
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature.to_bytes()))
}

fn ask(scope: &str) -> Exchange {
    Exchange {
        requester: request("read").requester,
        subject_token: subject_token(scope),
        scope: None,
        resource: None,
        audience: None,
        proof: None,
    }
}

impl Setting {
    fn annex(&self, version: u32, revoked: &str) {
        let text = format!(
            "version = {version}\nrevoked = [{revoked}]\n[[issuers]]\nname = \"idp\"\niss = \"https://idp\"\nkeys = [\"{}\"]\n",
            identity::PublicKey::Ed25519(idp().verifying_key()).to_multikey()
        );
        self.provisioned
            .load_annex(&Annex::from_toml(&text).unwrap().sign(&key(2)).unwrap())
            .unwrap();
    }

    fn exchanged(&self, exchange: Exchange) -> Result<String, &'static str> {
        match self.exchange(exchange).0 {
            Ok(Answer::Signed(signed)) => Ok(signed.signed),
            Ok(_) => unreachable!(),
            Err(error) => Err(error.code()),
        }
    }

    fn rotate(&self, old: u32, byte: u8) {
        let identity = self.identity("agent");
        let bound = &self.provisioned.bound;
        let next = identity
            .prepare(old, bound, key(byte), || Ok(UnixSeconds(NOW)))
            .unwrap();
        identity.replace(next).unwrap();
    }
}

#[test]
fn what_an_exchange_gave_is_used_within_it_and_for_no_longer() {
    let setting = Setting::new();
    setting.annex(1, "");
    let token = setting.exchanged(ask("read")).unwrap();
    let under = |sign: Sign| {
        setting.signed(Sign {
            delegation: Some(token.clone()),
            ..sign
        })
    };
    let signed = under(Sign {
        validity_seconds: Some(500),
        ..request("read")
    })
    .unwrap();
    assert_eq!(
        token::unverified_claims(&signed.signed).unwrap().exp,
        NOW + 200
    );
    let signed = under(Sign {
        validity_seconds: Some(50),
        ..request("read")
    })
    .unwrap();
    assert_eq!(
        token::unverified_claims(&signed.signed).unwrap().exp,
        NOW + 50
    );
    // An exchange is one of three an hour.
    assert_eq!(under(request("read")).err(), Some("rate_limit_exceeded"));
    assert_eq!(setting.exchanged(ask("read")), Err("rate_limit_exceeded"));
    // These are refused before limits are asked.
    assert_eq!(under(request("write")).err(), Some("scope_exceeds_parent"));
    assert_eq!(
        under(Sign {
            resource: "urn:y".into(),
            ..request("read")
        })
        .err(),
        Some("resource_exceeds_parent")
    );
    assert_eq!(
        under(Sign {
            format: Format::VouchCredential,
            ..request("read")
        })
        .err(),
        Some("delegation_format")
    );
    setting.annex(2, "\"user:u\"");
    assert_eq!(under(request("read")).err(), Some("delegation_revoked"));
    assert_eq!(setting.exchanged(ask("read")), Err("delegation_revoked"));
    setting.annex(3, "");
    setting.rotate(1, 40);
    assert_eq!(under(request("read")).err(), Some("delegation_invalid"));
}

#[test]
fn an_exchange_spends_a_proof_too() {
    use crate::stages::authenticate::Request as _;
    let setting = Setting::new();
    setting.annex(1, "");
    let form = crate::stages::parse::ExchangeRequest::parse(ask("read")).unwrap();
    let mut proof = CallerProof {
        boot_id: BootId::new(BOOT),
        exp: NOW + 30,
        jti: uuid::Uuid::from_u128(1),
        key_version: 1,
        request: form.digest("agent").unwrap(),
    };
    let mut proven = |jti| {
        proof.jti = uuid::Uuid::from_u128(jti);
        let proof = PresentedProof {
            jws: proof.sign(&key(3)).unwrap(),
            document: None,
        };
        setting
            .exchanged(Exchange {
                proof: Some(proof),
                ..ask("read")
            })
            .map(|_| ())
    };
    assert_eq!(proven(1), Ok(()));
    assert_eq!(proven(1), Err("proof_invalid"));
    assert_eq!(proven(2), Ok(()));
}

/// What becomes of a rotation whose NSM is silent, by a proof of the robot's with this id or by a user, and what is
/// written down.
fn rotated(
    setting: &Setting,
    (identity, uid): (&str, u32),
    proof: Option<u128>,
    is_idle: bool,
) -> (&'static str, Decision) {
    let proof = proof.map(|jti| {
        let proof = CallerProof {
            boot_id: BootId::new(BOOT),
            exp: NOW + 30,
            jti: uuid::Uuid::from_u128(jti),
            key_version: 1,
            request: Rotation { identity }.digest().unwrap(),
        };
        PresentedProof {
            jws: proof.sign(&key(3)).unwrap(),
            document: None,
        }
    });
    let asked = Rotate {
        requester: Requester {
            caller: ObservedCaller::ids(uid, 1),
            identity: Some(identity.into()),
        },
        order: None,
        proof,
    };
    let check_idle = || match is_idle {
        true => Ok(()),
        false => Err(Error::SealPending),
    };
    let new_key = |_, _: &str, _| Err(Error::NoRandomness);
    let now = || Ok(UnixSeconds(NOW));
    let (env, mut trail) = (setting.env(), trail());
    let next = rotate::rotate(&env, &asked, check_idle, new_key, now, &mut trail);
    (next.err().unwrap().code(), trail.compose(None))
}

#[test]
fn a_rotation_that_comes_to_nothing_spends_a_proof_too() {
    let setting = Setting::new();
    let proven = |jti| rotated(&setting, ("agent", 4711), Some(jti), true).0;
    assert_eq!(proven(1), Error::NoRandomness.code());
    assert_eq!(proven(1), "proof_invalid");
    assert_eq!(proven(2), Error::NoRandomness.code());
}

#[test]
fn while_a_seal_waits_no_proof_is_spent_and_only_who_may_rotate_learns_of_it() {
    let setting = Setting::new();
    let waits = Error::SealPending.code();
    let (agent, other) = (("agent", 4711), ("other", 2002));
    for (whose, proof, is_idle, wanted) in [
        (agent, Some(1), false, waits),
        (agent, Some(1), true, Error::NoRandomness.code()),
        (agent, Some(1), false, waits),
        (agent, Some(1), true, "proof_invalid"),
        (other, None, false, waits),
        (other, None, true, Error::NoRandomness.code()),
        (("other", 4711), Some(2), false, "rotation_not_allowed"),
        (("other", 2000), None, false, "rotation_not_allowed"),
        (("none", 4711), Some(3), false, "unknown_identity"),
    ] {
        let (code, _) = rotated(&setting, whose, proof, is_idle);
        assert_eq!(code, wanted, "{whose:?} {proof:?}");
    }
}

#[test]
fn the_record_says_whose_key_a_refused_caller_meant() {
    let setting = Setting::new();
    let other = setting.identity("other").card().unwrap();
    for (uid, proof) in [(4711, Some(1)), (2000, None)] {
        let (code, decision) = rotated(&setting, ("other", uid), proof, true);
        assert_eq!(code, "rotation_not_allowed");
        assert_eq!(
            (decision.agent_id.as_deref(), decision.key_version),
            (Some(&*other.agent_id), Some(1)),
            "{uid}"
        );
        assert!(matches!(decision.caller, Some(Caller::Asserted(_))));
    }
}

#[test]
fn without_the_annex_that_is_wanted_no_caller_replaces_a_key() {
    let mut setting = Setting::new();
    setting.provisioned.bundle.annex_version = Some(1);
    for (whose, proof) in [(("agent", 4711), Some(1)), (("other", 2002), None)] {
        let (code, _) = rotated(&setting, whose, proof, true);
        assert_eq!(code, "annex_required", "{whose:?}");
    }
    setting.annex(1, "");
    for (whose, proof) in [(("agent", 4711), Some(1)), (("other", 2002), None)] {
        let (code, _) = rotated(&setting, whose, proof, true);
        assert_eq!(code, Error::NoRandomness.code(), "{whose:?}");
    }
}

#[test]
fn a_proof_for_a_key_that_was_replaced_meanwhile_is_not_taken() {
    let setting = Setting::new();
    let proof = setting.proof(&request("read"), |_| ());
    let parsed = SignRequest::parse(
        Sign {
            proof: Some(proof),
            ..request("read")
        },
        &mut trail(),
    )
    .unwrap();
    let (env, mut trail) = (setting.env(), trail());
    let asked = authenticate(&env, parsed, &mut trail).unwrap();
    let authority = Authority::establish(&env, asked, &mut trail).unwrap();
    setting.rotate(1, 40);
    let held = setting.identity("agent").hold().unwrap();
    let permit = authorize::sign(&env, held.card(), authority, &mut trail);
    assert_eq!(
        permit.err().map(|error| error.code()),
        Some("proof_invalid")
    );
}

#[test]
fn each_format_has_its_place() {
    let setting = Setting::new();
    let to = |format| Sign {
        format,
        delegatee: Some(setting.identity("other").card().unwrap().did.to_string()),
        ..request("read")
    };
    let plain = Sign {
        format: Format::Envelope,
        target: String::new(),
        ..request("read")
    };
    let id = Some(ApprovalId::new([1; 16]));
    for (sign, wanted) in [
        (to(Format::VouchJwt), "delegation_format"),
        (to(Format::Envelope), "delegation_format"),
        (
            Sign {
                approval: id,
                ..plain.clone()
            },
            "delegation_format",
        ),
        (
            Sign {
                payload: "{\"a\":1}".into(),
                ..plain.clone()
            },
            "envelope_has_no_place",
        ),
        (
            Sign {
                target: "t".into(),
                ..plain.clone()
            },
            "envelope_has_no_place",
        ),
        (
            Sign {
                audience: Some("a".into()),
                ..plain.clone()
            },
            "envelope_has_no_place",
        ),
        (
            Sign {
                validity_seconds: Some(1),
                ..plain.clone()
            },
            "envelope_has_no_place",
        ),
    ] {
        assert_eq!(setting.signed(sign.clone()).err(), Some(wanted), "{sign:?}");
    }
    assert!(setting.signed(plain).is_ok());
}

#[test]
fn nothing_is_decided_without_the_annex_that_the_bundle_wants() {
    let mut setting = Setting::new();
    setting.provisioned.bundle.annex_version = Some(1);
    assert_eq!(
        setting.signed(request("read")).err(),
        Some("annex_required")
    );
    assert_eq!(setting.exchanged(ask("read")), Err("annex_required"));
    setting.annex(1, "");
    assert!(setting.signed(request("read")).is_ok());
}

#[test]
fn what_the_record_does_not_learn_and_what_it_learns_of_what_waits() {
    let setting = Setting::new();
    let stranger = PresentedProof {
        jws: setting.proof(&request("read"), |_| ()).jws,
        document: Some(Vec::new()),
    };
    let (outcome, decision) = setting.sign(Sign {
        proof: Some(stranger),
        ..request("read")
    });
    assert!(
        matches!(outcome, Err(Error::ProofOfNobody(_))) && decision.is_none(),
        "{outcome:?}"
    );
    let approve = |jws: &str| {
        setting.operate("approval.grant", |env, trail| {
            approve::approve(env, jws, trail).map(Answer::PendingApproval)
        })
    };
    let (outcome, decision) = approve("x");
    assert!(matches!(outcome, Err(Error::ApprovalOfNobody(_))) && decision.is_none());
    let of = |id: [u8; 16]| Approval {
        approval: ApprovalId::new(id),
        boot_id: BootId::new(BOOT),
        exp: NOW,
        request: identity::sha256(b""),
    };
    let (outcome, decision) = approve(&of([1; 16]).sign(&key(4)).unwrap());
    assert_eq!(
        (outcome.err().map(|error| error.code()), decision.is_none()),
        (Some("approval_unknown"), true)
    );
    // Who asks for the same again waits already: 256 times that is an event.
    for n in 0..260 {
        let (outcome, decision) = setting.sign(request("pay"));
        assert!(matches!(outcome, Ok(Answer::PendingApproval(_))));
        assert_eq!(
            decision.map(|decision| decision.policy_decision),
            (n < 256).then_some(Verdict::Pending),
            "{n}"
        );
    }
    // And neither is a refusal.
    assert!(setting.sign(request("delete")).1.is_none());
}

#[test]
fn the_event_of_a_refusal_names_the_rule_and_is_short() {
    let setting = Setting::new();
    setting.approved(request("pay"));
    let first = setting.approved(Sign {
        payload: "{\"n\":1}".into(),
        ..request("pay")
    });
    let again = setting.approved(Sign {
        payload: "{\"n\":2}".into(),
        ..request("pay")
    });
    assert!(
        setting
            .signed(Sign {
                payload: "{\"n\":1}".into(),
                approval: Some(first),
                ..request("pay")
            })
            .is_ok()
    );
    let (outcome, decision) = setting.sign(Sign {
        payload: "{\"n\":2}".into(),
        approval: Some(again),
        ..request("pay")
    });
    assert_eq!(
        outcome.err().map(|error| error.code()),
        Some("rate_limit_exceeded")
    );
    assert!(decision.unwrap().policy_id.starts_with("approved@"));
    // Denied by what no rule says.
    for _ in 0..2 {
        assert!(setting.signed(request("read")).is_ok());
    }
    let decision = setting.sign(request("read")).1.unwrap();
    assert!(
        decision.policy_id.starts_with("default@"),
        "{}",
        decision.policy_id
    );
    let long = Sign {
        target: "\"".repeat(1024),
        resource: format!("urn:{}", "\"".repeat(1000)),
        ..request("delete")
    };
    let (outcome, decision) = setting.sign(long);
    assert_eq!(
        outcome.err().map(|error| error.code()),
        Some("intent_action_not_in_allowlist")
    );
    assert!(decision.unwrap().target.unwrap().ends_with('…'));
}

#[test]
fn a_limit_of_a_rule_alone_holds() {
    let mut setting = Setting::new();
    setting.provisioned.bundle.identities[0].limits.clear();
    let policy = setting.provisioned.bundle.identities[0].clone();
    let bound = setting.provisioned.bound.clone();
    let identities = vec![Identity::new(&policy, &bound, key(60)).unwrap()];
    let bundle = setting.provisioned.bundle.clone();
    let record = Record::new(key(5), BootId::new(BOOT));
    let canonical = bundle.canonical();
    setting.provisioned =
        Provisioned::new(bundle, canonical, None, identities, record, bound, None);
    let two = [1, 2].map(|n| Sign {
        payload: format!("{{\"n\":{n}}}"),
        ..request("pay")
    });
    let two = two.map(|sign| Sign {
        approval: Some(setting.approved(sign.clone())),
        ..sign
    });
    let [one, two] = two.map(|sign| setting.signed(sign).map(|_| ()));
    assert_eq!((one, two), (Ok(()), Err("rate_limit_exceeded")));
}

#[test]
fn an_identity_remembers_sixteen_versions_and_every_did() {
    let setting = Setting::new();
    let first = setting.identity("agent").card().unwrap().did.to_string();
    for old in 1_u8..20 {
        setting.rotate(u32::from(old), 60 + old);
    }
    let identity = setting.identity("agent");
    let held = identity.hold().unwrap();
    assert_eq!(
        (
            held.versions().len(),
            held.versions()[0].version,
            held.versions()[15].version
        ),
        (16, 5, 20)
    );
    assert!(held.had_did(&first) && held.had_did(held.card().did.as_str()));
}

#[test]
fn a_grant_is_for_its_delegatee_and_until_it_is_revoked() {
    let setting = Setting::new();
    setting.annex(1, "");
    let grant = |to: String| {
        let of = Requester {
            caller: ObservedCaller::ids(2001, 1),
            identity: Some("granter".into()),
        };
        let sign = Sign {
            requester: of,
            format: Format::VouchCredential,
            delegatee: Some(to),
            ..request("read")
        };
        format!("[{}]", setting.signed(sign).unwrap().signed)
    };
    let under = |grant: &str| {
        let sign = Sign {
            format: Format::VouchCredential,
            delegation: Some(grant.into()),
            ..request("read")
        };
        setting.signed(sign).map(|_| ())
    };
    let good = grant(setting.identity("agent").card().unwrap().did.to_string());
    let other = grant(identity::Did::key(key(70).public_key()).to_string());
    assert_eq!(under(&other), Err("subject_issuer_mismatch"));
    assert_eq!(under(&good), Ok(()));
    let by_jwt = setting.signed(Sign {
        delegation: Some(good.clone()),
        ..request("read")
    });
    assert_eq!(by_jwt.err(), Some("delegation_format"));
    setting.annex(2, "\"agent:granter\"");
    assert_eq!(under(&good), Err("delegation_revoked"));
}

#[test]
fn an_exchange_asks_the_policy_whom_and_the_annex_who_acts() {
    let setting = Setting::new();
    setting.annex(1, "\"agent:agent\"");
    assert_eq!(setting.exchanged(ask("read")), Err("delegation_revoked"));
    let text = format!(
        "version = 2\n[[issuers]]\nname = \"corp\"\niss = \"https://idp\"\nkeys = [\"{}\"]\n",
        identity::PublicKey::Ed25519(idp().verifying_key()).to_multikey()
    );
    setting
        .provisioned
        .load_annex(&Annex::from_toml(&text).unwrap().sign(&key(2)).unwrap())
        .unwrap();
    assert_eq!(setting.exchanged(ask("read")), Err("untrusted_principal"));
}

#[test]
fn nothing_is_exchanged_at_the_end_of_what_is_handed_on() {
    let mut setting = Setting::new();
    setting.annex(1, "");
    setting.now = NOW + 199;
    assert_eq!(setting.exchanged(ask("read")).map(|_| ()), Ok(()));
    setting.now = NOW + 200;
    assert_eq!(setting.exchanged(ask("read")), Err("expired"));
}
