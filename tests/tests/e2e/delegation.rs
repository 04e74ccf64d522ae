//! On whose behalf: a user, an incident coordinator, a reviewer, as the seed of this project has
//! them; and every fault of a chain.

use enclave::Service;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::Request as HttpRequest;
use axum::routing::post as route;
use data_encoding::BASE64URL_NOPAD;
use guard::{Admitted, Guard, RequireToken, Requirements};
use harness::window::{InProcess, OPERATOR, PROXY, TestKey, Window, bundle};
use harness::{Connection, Running, get, post, program};
use identity::caller::ObservedCaller;
use identity::request::CallerProof;
use identity::succession::Order;
use identity::token::unverified_claims;
use identity::{Caller, Digest, Format, PublicKey, Signer};
use parent_proxy::KeyFile;
use policy::{Annex, Bundle, MultikeyText};
use protocol::{Answer, Exchange, Request, Requester, Sign};
use qemu_dev::State;
use qemu_dev::authority::Authority;
use qemu_dev::nsm::{Encoding, MockNsm, os_random};
use record::{Reader, Verdict};
use serde_json::{Value, json};
use tower::ServiceExt;

const IDP: u8 = 50;
const ISS: &str = "https://idp.example";

/// A JWT as an identity provider writes it.
fn jwt(key: &TestKey, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(header), part(claims));
    format!(
        "{signed}.{}",
        BASE64URL_NOPAD.encode(&key.sign_bytes(signed.as_bytes()))
    )
}

fn header() -> Value {
    json!({"alg": "EdDSA", "typ": "JWT"})
}

/// What the user signed over to the coordinator.
fn claims() -> Value {
    let now = harness::now().0;
    json!({
        "iss": ISS, "sub": "user:sre-oncall", "aud": "agent:incident-coordinator", "iat": now, "exp": now + 600, "jti": "grant-1",
        "scope": "read comment deploy", "resource": "mcp://github", "may_act": {"sub": "agent:incident-coordinator"},
        "email": "sre@example.com"
    })
}

fn annex(version: u32, revoked: &[&str]) -> Annex {
    let text = format!(
        "version = {version}\nrevoked = {revoked:?}\n[[issuers]]\nname = \"corp\"\niss = \"{ISS}\"\nkeys = [\"{}\"]\n",
        TestKey::new(IDP).public_key().to_multikey()
    );
    Annex::from_toml(&text).unwrap()
}

/// Four agents; each may take up what the one before has.
fn agents() -> Value {
    let agent = |name: &str, from: &[&str], scopes: &[&str]| {
        json!({
            "name": name, "environment": "test", "did": "did:key", "algorithm": "EdDSA", "max_validity_seconds": 600,
            "callers": {"uids": [1000], "gids": [], "names": []},
            "delegation": {"from": from, "scopes": scopes, "resources": ["mcp://github", "mcp://github/*"]},
            "rules": [{"name": "comments", "actions": ["comment"], "targets": ["*"], "resources": ["mcp://github/*"], "delegated": true, "envelope": true}]
        })
    };
    json!([
        agent(
            "incident-coordinator",
            &["issuer:corp"],
            &["read", "comment"]
        ),
        agent(
            "code-reviewer",
            &["issuer:corp", "agent:incident-coordinator"],
            &["comment"]
        ),
        agent("third", &["agent:code-reviewer"], &["comment"]),
        agent(
            "incident-coordinator-2",
            &["agent:third", "agent:code-reviewer"],
            &["*"]
        )
    ])
}

struct Setting {
    window: Window,
    record: PublicKey,
    _enclave: InProcess<MockNsm>,
}

fn setting() -> Setting {
    let mut setting = setting_with(|_| ());
    setting.load(&annex(1, &[]), OPERATOR).unwrap();
    setting
}

/// Without an annex, and with something else in its policy.
fn setting_with(change: impl FnOnce(&mut Value)) -> Setting {
    let clock = Box::new(|| harness::now().0.unsigned_abs() * 1000);
    let authority = Authority::new(harness::now().0.unsigned_abs(), &mut os_random);
    let nsm = MockNsm::new(
        authority,
        &[Digest([1; 48]), Digest([2; 48]), Digest([3; 48])],
        clock,
        Encoding::Definite,
    )
    .unwrap();
    let enclave = InProcess::boot(nsm);
    let mut policy: Value = serde_json::from_slice(&bundle("development").canonical()).unwrap();
    policy["identities"] = agents();
    change(&mut policy);
    let policy = Bundle::from_canonical(&identity::json::canonical(&policy).unwrap()).unwrap();
    let mut window = Window::connect(&enclave.socket, &TestKey::new(PROXY))
        .unwrap()
        .unwrap();
    window
        .ask(Request::Provision {
            bundle: policy.canonical(),
            before: None,
        })
        .unwrap()
        .unwrap();
    let attest = Request::Attest {
        requester: of("code-reviewer"),
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
        window,
        record: PublicKey::from_spki(&record).unwrap(),
        _enclave: enclave,
    }
}

fn of(name: &str) -> Requester {
    Requester {
        caller: ObservedCaller::ids(1000, 1000),
        identity: Some(name.into()),
    }
}

impl Setting {
    fn load(&mut self, annex: &Annex, by: u8) -> Result<(), String> {
        let signed = annex.sign(&TestKey::new(by)).unwrap();
        self.window
            .ask(Request::Annex { signed })
            .unwrap()
            .map(|_| ())
            .map_err(|refusal| refusal.code)
    }

    fn ask(&mut self, request: Request) -> (Result<String, String>, record::Decision) {
        let (answer, event) = self.window.ask_recorded(request).unwrap();
        let event = Reader::new(vec![self.record.clone()])
            .next(&event.unwrap())
            .unwrap()
            .decision;
        match answer {
            Ok(Answer::Signed(signed)) => (Ok(signed.signed), event),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => {
                assert_eq!(
                    (event.policy_decision, event.refusal.as_deref()),
                    (Verdict::Deny, Some(refusal.code.as_str()))
                );
                (Err(refusal.code), event)
            }
        }
    }

    fn exchange_for(
        &mut self,
        actor: &str,
        token: &str,
        change: impl FnOnce(&mut Exchange),
    ) -> Result<String, String> {
        let mut exchange = Exchange {
            requester: of(actor),
            subject_token: token.into(),
            scope: None,
            resource: None,
            audience: None,
            proof: None,
        };
        change(&mut exchange);
        self.ask(Request::Exchange(exchange)).0
    }

    fn exchange(&mut self, actor: &str, token: &str) -> Result<String, String> {
        self.exchange_for(actor, token, |_| ())
    }

    fn sign(
        &mut self,
        actor: &str,
        delegation: Option<&str>,
        change: impl FnOnce(&mut Sign),
    ) -> (Result<String, String>, record::Decision) {
        let mut sign = Sign {
            requester: of(actor),
            format: Format::VouchJwt,
            action: "comment".into(),
            target: "42".into(),
            resource: "mcp://github/pull_request/comment".into(),
            payload: "{}".into(),
            audience: None,
            validity_seconds: None,
            proof: None,
            delegation: delegation.map(str::to_owned),
            approval: None,
            delegatee: None,
        };
        change(&mut sign);
        self.ask(Request::Sign(sign))
    }
}

#[test]
fn a_user_a_coordinator_and_a_reviewer_act_for_one_another() {
    let mut setting = setting();
    let user = jwt(&TestKey::new(IDP), &header(), &claims());
    let first = setting.exchange("incident-coordinator", &user).unwrap();
    let coordinator = unverified_claims(&first).unwrap();
    assert_eq!(
        (coordinator.sub.as_str(), coordinator.scope.as_deref()),
        ("user:sre-oncall", Some("read comment"))
    );
    let act = coordinator.act.clone().unwrap();
    assert_eq!(
        (act.sub.as_str(), act.agent.as_deref(), act.act),
        (
            coordinator.iss.as_str(),
            Some("agent:incident-coordinator"),
            None
        )
    );
    let second = setting
        .exchange_for("code-reviewer", &first, |exchange| {
            exchange.scope = Some("comment".into());
            exchange.resource = Some("mcp://github/pull_request".into());
        })
        .unwrap();
    let reviewer = unverified_claims(&second).unwrap();
    let act = reviewer.act.clone().unwrap();
    assert_eq!(
        (act.sub.as_str(), act.act.unwrap().sub.as_str()),
        (reviewer.iss.as_str(), coordinator.iss.as_str())
    );
    assert_eq!(
        (reviewer.scope.as_deref(), reviewer.vouch.intent.resource()),
        (Some("comment"), "mcp://github/pull_request")
    );
    assert!(reviewer.exp <= coordinator.exp && reviewer.exp <= harness::now().0 + 301);
    // Vouch's chain: who issued, for whom, and the first 64 characters of each signature.
    let chain = &reviewer.vouch.delegation_chain;
    let signature = |token: &str| token.rsplit_once('.').unwrap().1[..64].to_owned();
    assert_eq!(
        (chain.len(), chain[0].iss.as_str(), &chain[0].sig),
        (2, ISS, &signature(&user))
    );
    assert_eq!(
        (chain[1].iss.as_str(), &chain[1].sig),
        (coordinator.iss.as_str(), &signature(&first))
    );
    assert_eq!(
        serde_json::from_str::<Value>(&chain[0].intent).unwrap(),
        json!({"resource": "mcp://github", "scope": "read comment deploy"})
    );

    let (signed, event) = setting.sign("code-reviewer", Some(&second), |_| ());
    let token = unverified_claims(&signed.unwrap()).unwrap();
    assert_eq!(
        (token.sub.as_str(), token.act, token.scope.as_deref()),
        ("user:sre-oncall", reviewer.act, Some("comment"))
    );
    // The seed's event.
    assert_eq!(event.delegated_by.as_deref(), Some("user:sre-oncall"));
    assert_eq!(
        event.delegation_chain,
        [
            "user:sre-oncall",
            "agent:incident-coordinator",
            "agent:code-reviewer"
        ]
    );
    // And who vouches for each name.
    assert_eq!(event.delegation_issuers, [ISS, coordinator.iss.as_str()]);
    let again = Exchange {
        requester: of("incident-coordinator"),
        subject_token: user,
        scope: None,
        resource: None,
        audience: None,
        proof: None,
    };
    let (exchanged, of_exchange) = setting.ask(Request::Exchange(again));
    assert_eq!(
        (exchanged.is_ok(), of_exchange.delegation_issuers),
        (true, vec![ISS.to_owned()])
    );
    assert!(
        event
            .agent_id
            .unwrap()
            .starts_with("agent:code-reviewer:ed25519:")
    );
    assert_eq!(
        (event.action.as_deref(), event.policy_decision),
        (Some("comment"), Verdict::Allow)
    );
}

#[test]
fn what_was_signed_hands_nothing_on_and_a_rotated_actor_exchanges_again() {
    let mut setting = setting();
    let user = jwt(&TestKey::new(IDP), &header(), &claims());
    let first = setting.exchange("incident-coordinator", &user).unwrap();
    let signed = setting
        .sign("incident-coordinator", Some(&first), |_| ())
        .0
        .unwrap();
    assert_eq!(unverified_claims(&signed).unwrap().act.unwrap().depth(), 1);
    assert_eq!(
        setting.exchange("code-reviewer", &signed).unwrap_err(),
        "delegation_invalid"
    );
    assert_eq!(
        setting
            .sign("incident-coordinator", Some(&signed), |_| ())
            .0,
        Err("delegation_invalid".into())
    );

    let of = of("incident-coordinator");
    let Answer::Description(before) = setting
        .window
        .ask(Request::Describe(of.clone()))
        .unwrap()
        .unwrap()
    else {
        panic!()
    };
    let not_after = harness::now().0 + 60;
    let order = Order {
        identity: "incident-coordinator".into(),
        boot_id: before.boot_id,
        version: 1,
        not_after,
    };
    let order = Some(order.sign(&TestKey::new(OPERATOR)).unwrap());
    setting
        .window
        .ask(Request::Rotate(protocol::Rotate {
            requester: of,
            order,
            proof: None,
        }))
        .unwrap()
        .unwrap();
    // What it has of before would name an actor that is not the issuer of now.
    assert_eq!(
        setting.sign("incident-coordinator", Some(&first), |_| ()).0,
        Err("delegation_invalid".into())
    );
    // Others may still take up what the old key gave, in its time; and the new key takes up the
    // user's grant.
    assert!(setting.exchange("code-reviewer", &first).is_ok());
    let again = setting.exchange("incident-coordinator", &user).unwrap();
    let signed = unverified_claims(
        &setting
            .sign("incident-coordinator", Some(&again), |_| ())
            .0
            .unwrap(),
    )
    .unwrap();
    assert_eq!(signed.act.unwrap().sub, signed.iss.to_string());
}

#[test]
fn what_is_delegated_only_narrows() {
    let mut setting = setting();
    let user = jwt(&TestKey::new(IDP), &header(), &claims());
    let first = setting.exchange("incident-coordinator", &user).unwrap();
    let with = |scope: Option<&str>, resource: Option<&str>| {
        let (scope, resource) = (scope.map(str::to_owned), resource.map(str::to_owned));
        move |exchange: &mut Exchange| (exchange.scope, exchange.resource) = (scope, resource)
    };
    let code = |result: Result<String, String>| result.unwrap_err();
    for scope in ["deploy", "comment deploy", "x"] {
        // The user gave it, and the coordinator may not have it; or nobody gave it.
        let refused =
            code(setting.exchange_for("incident-coordinator", &user, with(Some(scope), None)));
        assert_eq!(
            refused,
            if scope == "x" {
                "scope_exceeds_parent"
            } else {
                "scope_not_allowed"
            },
            "{scope}"
        );
        assert_eq!(
            code(setting.exchange_for("code-reviewer", &first, with(Some(scope), None))),
            "scope_exceeds_parent",
            "{scope}"
        );
    }
    assert_eq!(
        code(setting.exchange_for("code-reviewer", &first, with(Some("read"), None))),
        "scope_not_allowed"
    );
    assert_eq!(
        code(setting.exchange_for("code-reviewer", &first, with(Some("\"\""), None))),
        "scope_invalid"
    );
    for resource in [
        "mcp://gitlab",
        "mcp://github.evil",
        "mcp:/",
        "mcp://github/../x",
        "mcp://github/%2e",
        "mcp://github/a?b",
        "https://x",
    ] {
        assert_eq!(
            code(setting.exchange_for("code-reviewer", &first, with(None, Some(resource)))),
            "resource_exceeds_parent",
            "{resource}"
        );
    }
    let narrow = setting
        .exchange_for(
            "code-reviewer",
            &first,
            with(Some("comment"), Some("mcp://github/pull_request")),
        )
        .unwrap();
    assert_eq!(
        setting
            .sign("code-reviewer", Some(&narrow), |sign| sign.resource =
                "mcp://github/issue".into())
            .0,
        Err("resource_exceeds_parent".into())
    );
    assert_eq!(
        setting
            .sign("code-reviewer", Some(&narrow), |sign| sign.action =
                "read".into())
            .0,
        Err("scope_exceeds_parent".into())
    );
    assert_eq!(
        setting
            .sign("code-reviewer", Some(&narrow), |sign| sign.format =
                Format::VouchCredential)
            .0,
        Err("delegation_format".into())
    );
    assert_eq!(
        setting.sign("code-reviewer", None, |_| ()).0,
        Err("not_delegated".into())
    );
    // Neither another's token, nor the coordinator's, nor the user's.
    for other in [&first, &user, &"x".to_owned()] {
        assert_eq!(
            setting.sign("code-reviewer", Some(other), |_| ()).0,
            Err("delegation_invalid".into())
        );
    }
    // A shorter grant shortens what is taken from it.
    let mut short = claims();
    short["exp"] = json!(harness::now().0 + 40);
    let brief = setting
        .exchange(
            "incident-coordinator",
            &jwt(&TestKey::new(IDP), &header(), &short),
        )
        .unwrap();
    let brief = setting.exchange("code-reviewer", &brief).unwrap();
    assert!(unverified_claims(&brief).unwrap().exp <= harness::now().0 + 40);
    let signed = setting
        .sign("code-reviewer", Some(&brief), |sign| {
            sign.validity_seconds = Some(600)
        })
        .0
        .unwrap();
    assert!(unverified_claims(&signed).unwrap().exp <= harness::now().0 + 41);
}

#[test]
fn every_fault_of_a_subject_token_is_refused_with_its_code() {
    let mut setting = setting();
    let key = TestKey::new(IDP);
    let now = harness::now().0;
    let changed = |name: &str, value: Value| {
        let mut claims = claims();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value;
        }
        jwt(&key, &header(), &claims)
    };
    let good = jwt(&key, &header(), &claims());
    let (body, _) = good.rsplit_once('.').unwrap();
    let actor = |sub: &str, inner: Value| json!({"sub": sub, "act": inner});
    let deep = (0..6).fold(json!({"sub": "a0"}), |inner, n| {
        actor(&format!("a{}", n + 1), inner)
    });
    let cases = [
        (format!("{body}."), "token_malformed"),
        (body.to_owned(), "token_malformed"),
        (format!("{good}x"), "base64"),
        (
            jwt(&TestKey::new(51), &header(), &claims()),
            "signature_invalid",
        ),
        (
            jwt(&key, &json!({"alg": "none"}), &claims()),
            "algorithm_mismatch",
        ),
        (
            jwt(&key, &json!({"alg": "ES256"}), &claims()),
            "algorithm_mismatch",
        ),
        (
            jwt(&key, &json!({"alg": "EdDSA", "crit": ["exp"]}), &claims()),
            "token_malformed",
        ),
        (
            changed("iss", json!("https://other.example")),
            "untrusted_principal",
        ),
        (changed("exp", Value::Null), "json_shape"),
        (changed("exp", json!(now - 40)), "expired"),
        (changed("nbf", json!(now + 60)), "not_yet_valid"),
        (changed("iat", json!(now + 60)), "not_yet_valid"),
        (
            changed("aud", json!("agent:somebody-else")),
            "delegation_invalid",
        ),
        (changed("aud", json!(["a", "b"])), "delegation_invalid"),
        (
            changed("may_act", json!({"sub": "agent:somebody-else"})),
            "delegation_invalid",
        ),
        (
            changed("sub", json!("agent:incident-coordinator")),
            "delegation_invalid",
        ),
        (
            changed(
                "act",
                json!({"sub": "x", "agent": "agent:incident-coordinator"}),
            ),
            "delegation_invalid",
        ),
        (changed("act", deep), "delegation_invalid"),
        (changed("scope", Value::Null), "scope_not_allowed"),
        (changed("scope", json!("deploy")), "scope_not_allowed"),
        (
            changed("resource", json!("https://elsewhere.example/")),
            "target_not_allowed",
        ),
        (
            changed("resource", json!("https://elsewhere.example")),
            "resource_not_canonical",
        ),
        (changed("resource", Value::Null), "target_not_allowed"),
        ("x".repeat(17 * 1024), "token_malformed"),
        (String::new(), "token_malformed"),
    ];
    for (token, code) in cases {
        assert_eq!(
            setting
                .exchange("incident-coordinator", &token)
                .unwrap_err(),
            code,
            "{token:.80}"
        );
    }
    // One that is good for nobody in particular, and for several of whom this is one.
    let mut open = claims();
    open.as_object_mut()
        .unwrap()
        .retain(|name, _| !["aud", "may_act"].contains(&name.as_str()));
    assert!(
        setting
            .exchange("incident-coordinator", &jwt(&key, &header(), &open))
            .is_ok()
    );
    open["aud"] = json!(["x", "agent:code-reviewer"]);
    assert!(
        setting
            .exchange("code-reviewer", &jwt(&key, &header(), &open))
            .is_ok()
    );
    // Who is not let act for that issuer, and who may not use the identity at all.
    assert_eq!(
        setting.exchange("third", &good).unwrap_err(),
        "untrusted_principal"
    );
    let stranger = |exchange: &mut Exchange| exchange.requester.caller = ObservedCaller::ids(7, 7);
    assert_eq!(
        setting
            .exchange_for("incident-coordinator", &good, stranger)
            .unwrap_err(),
        "caller_not_allowed"
    );
}

#[test]
fn a_chain_has_no_loop_and_ends_at_five_and_a_revoked_link_breaks_it() {
    // One that would be trusted again.
    let mut setting = setting_with(|policy| {
        let from = &mut policy["identities"][1]["delegation"]["from"];
        from.as_array_mut().unwrap().push(json!("agent:third"));
    });
    setting.load(&annex(1, &[]), OPERATOR).unwrap();
    let key = TestKey::new(IDP);
    let user = jwt(&key, &header(), &claims());
    let first = setting.exchange("incident-coordinator", &user).unwrap();
    let second = setting.exchange("code-reviewer", &first).unwrap();
    let third = setting.exchange("third", &second).unwrap();
    assert_eq!(
        setting.exchange("code-reviewer", &third).unwrap_err(),
        "delegation_invalid"
    );
    let fourth = setting.exchange("incident-coordinator-2", &third).unwrap();
    assert_eq!(unverified_claims(&fourth).unwrap().act.unwrap().depth(), 4);
    assert_eq!(
        setting
            .exchange("incident-coordinator-2", &fourth)
            .unwrap_err(),
        "untrusted_principal"
    );
    // Four act already at the issuer: the fifth may, the sixth may not.
    let mut deep = claims();
    let act = (0..3).fold(
        json!({"sub": "a"}),
        |inner, n| json!({"sub": format!("b{n}"), "act": inner}),
    );
    deep["act"] = act;
    let fifth = setting
        .exchange("incident-coordinator", &jwt(&key, &header(), &deep))
        .unwrap();
    assert_eq!(
        setting.exchange("code-reviewer", &fifth).unwrap_err(),
        "delegation_invalid"
    );
    // A token that names itself as an earlier actor.
    let mut twice = claims();
    twice["aud"] = json!("agent:code-reviewer");
    twice["may_act"] = json!({"sub": "agent:code-reviewer"});
    twice["act"] = json!({"sub": unverified_claims(&second).unwrap().iss.to_string()});
    assert_eq!(
        setting
            .exchange("code-reviewer", &jwt(&key, &header(), &twice))
            .unwrap_err(),
        "delegation_invalid"
    );

    // Revoked in the annex: the user's grant by its id or signature, the user, an actor in between.
    let signature = user.rsplit_once('.').unwrap().1[..64].to_owned();
    let actor = unverified_claims(&first).unwrap().iss.to_string();
    for (version, revoked) in (2..).zip(["user:sre-oncall", &signature, &actor]) {
        setting.load(&annex(version, &[revoked]), OPERATOR).unwrap();
        assert_eq!(
            setting.exchange("third", &second).unwrap_err(),
            "delegation_revoked",
            "{revoked}"
        );
        assert_eq!(
            setting.sign("code-reviewer", Some(&second), |_| ()).0,
            Err("delegation_revoked".into()),
            "{revoked}"
        );
    }
    setting.load(&annex(5, &["grant-1"]), OPERATOR).unwrap();
    assert_eq!(
        setting.exchange("incident-coordinator", &user).unwrap_err(),
        "delegation_revoked"
    );
    // An annex rises, and is the operator's.
    assert_eq!(
        setting.load(&annex(4, &[]), OPERATOR),
        Err("annex_outdated".into())
    );
    assert_eq!(
        setting.load(&annex(5, &[]), OPERATOR),
        Err("annex_outdated".into())
    );
    assert_eq!(
        setting.load(&annex(6, &[]), PROXY),
        Err("signature_invalid".into())
    );
    setting.load(&annex(6, &[]), OPERATOR).unwrap();
    assert!(setting.exchange("third", &second).is_ok());
}

/// A user's token by a P-256 key, in the two forms that its signature has.
fn es256(key: &p256::ecdsa::SigningKey) -> [String; 2] {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&json!({"alg": "ES256"})), part(&claims()));
    let signature: p256::ecdsa::Signature =
        p256::ecdsa::signature::Signer::sign(key, signed.as_bytes());
    let (r, s) = signature.split_scalars();
    let twin = p256::ecdsa::Signature::from_scalars(*r, -*s).unwrap();
    [signature, twin]
        .map(|signature| format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature.to_bytes())))
}

#[test]
fn every_name_of_a_delegation_revokes_it_in_whatever_form_it_comes_back() {
    let mut setting = setting_with(|_| ());
    let p256 = p256::ecdsa::SigningKey::from_slice(&[5; 32]).unwrap();
    let public = PublicKey::P256(*p256.verifying_key());
    let mut version = 0;
    let mut load = |setting: &mut Setting, revoked: &[&str]| {
        version += 1;
        let mut annex = annex(version, revoked);
        annex.issuers[0].keys = [TestKey::new(IDP).public_key(), &public]
            .map(|key| MultikeyText(key.clone()))
            .to_vec();
        setting.load(&annex, OPERATOR)
    };
    let ed25519 = jwt(&TestKey::new(IDP), &header(), &claims());
    let [one, other] = es256(&p256);
    for (user, twin) in [(&ed25519, &ed25519), (&one, &other), (&other, &one)] {
        load(&mut setting, &[]).unwrap();
        // Both forms are good, whichever an honest issuer wrote.
        let first = setting.exchange("incident-coordinator", twin).unwrap();
        let second = setting.exchange("code-reviewer", &first).unwrap();
        let signature = |token: &str| token.rsplit_once('.').unwrap().1[..64].to_owned();
        let digest = |token: &str| {
            identity::sha256(token.rsplit_once('.').unwrap().0.as_bytes()).to_string()
        };
        let did = |token: &str| unverified_claims(token).unwrap().iss.to_string();
        // The user's token by any of its names, in either form.
        for revoked in [
            &signature(user),
            &signature(twin),
            &digest(user),
            "grant-1",
            "user:sre-oncall",
            ISS,
        ] {
            load(&mut setting, &[revoked]).unwrap();
            for form in [user, twin] {
                assert_eq!(
                    setting.exchange("incident-coordinator", form),
                    Err("delegation_revoked".into()),
                    "{revoked}"
                );
            }
        }
        // What was taken up from it, by the names of every link and of everybody in it.
        for revoked in [
            &signature(user),
            &signature(twin),
            "user:sre-oncall",
            ISS,
            &did(&first),
            "agent:incident-coordinator",
        ] {
            load(&mut setting, &[revoked]).unwrap();
            assert_eq!(
                setting.exchange("code-reviewer", &first),
                Err("delegation_revoked".into()),
                "{revoked}"
            );
            assert_eq!(
                setting.exchange("third", &second),
                Err("delegation_revoked".into()),
                "{revoked}"
            );
            assert_eq!(
                setting.sign("code-reviewer", Some(&second), |_| ()).0,
                Err("delegation_revoked".into()),
                "{revoked}"
            );
        }
        // Who is revoked takes up nothing.
        for revoked in ["agent:code-reviewer", &did(&second)] {
            load(&mut setting, &[revoked]).unwrap();
            assert_eq!(
                setting.exchange("code-reviewer", &first),
                Err("delegation_revoked".into()),
                "{revoked}"
            );
            assert!(
                setting.exchange("incident-coordinator", user).is_ok(),
                "{revoked}"
            );
        }
        let jti = unverified_claims(&first).unwrap().jti.to_string();
        for revoked in [&jti, &digest(&first), &signature(&first)] {
            load(&mut setting, &[revoked]).unwrap();
            assert_eq!(
                setting.exchange("code-reviewer", &first),
                Err("delegation_revoked".into()),
                "{revoked}"
            );
        }
        // Names of others revoke none of it.
        load(
            &mut setting,
            &[
                "agent:third",
                "user:sre",
                "grant",
                &signature(&jwt(&TestKey::new(IDP), &header(), &json!({}))),
            ],
        )
        .unwrap();
        assert!(setting.exchange("code-reviewer", &first).is_ok());
    }
    // An annex with a name that means nobody still revokes the others; who brings it asks first
    // (`check_annex`).
    load(
        &mut setting,
        &["agent:cordinator", "agent:incident-coordinator"],
    )
    .unwrap();
    assert_eq!(
        setting.exchange("incident-coordinator", &ed25519),
        Err("delegation_revoked".into())
    );
    let policy = bundle("development");
    let of_own = |entry: &str| {
        policy
            .check_annex(&annex(1, &[entry]))
            .map_err(|error| error.to_string())
    };
    assert_eq!(
        [of_own("agent:agent"), of_own("user:x"), of_own("agen")],
        [Ok(()), Ok(()), Ok(())]
    );
    for unknown in ["agent:cordinator", "Agent:agent", "agent:"] {
        assert!(
            of_own(unknown).unwrap_err().contains("no such identity"),
            "{unknown}"
        );
    }
}

#[test]
fn an_issuer_outside_gives_nobody_a_name_or_a_did_of_ours() {
    let mut setting =
        setting_with(|policy| policy["identities"][3]["did"] = json!("did:web:four.example"));
    setting.load(&annex(1, &[]), OPERATOR).unwrap();
    let key = TestKey::new(IDP);
    let order = |setting: &mut Setting, version| {
        let boot_id = setting._enclave.enclave.boot_id();
        let order = Order {
            identity: "third".into(),
            boot_id,
            version,
            not_after: harness::now().0 + 60,
        };
        let order = Some(order.sign(&TestKey::new(OPERATOR)).unwrap());
        setting
            .window
            .ask(Request::Rotate(protocol::Rotate {
                requester: of("third"),
                order,
                proof: None,
            }))
            .unwrap()
            .unwrap();
    };
    order(&mut setting, 1);
    let Answer::Description(third) = setting
        .window
        .ask(Request::Describe(of("third")))
        .unwrap()
        .unwrap()
    else {
        panic!()
    };
    let [before, now] = [0, 1].map(|version: usize| third.versions[version].did.clone());
    assert_ne!(before, now);
    let url = format!("{now}#key");
    let spelled = [
        "agent\u{200b}:third",
        "agent\u{ff1a}third",
        " agent:third",
        "Third",
        "did:key:u7QEA",
        "did:web:%61.example",
        "did:web:four.example",
        "did:web:FOUR.example",
        "did:web:four.example%3A443",
    ];
    let ours = [
        &spelled[..],
        &[
            "agent:third",
            "agent:nobody",
            "AGENT:third",
            "approver:alice",
            "Approver:x",
            "third",
            &before,
            &now,
            &url,
        ],
    ]
    .concat();
    let vouch = |iss: &str, sub: &str| {
        let link = |iss: &str, sub: &str, sig: &str| json!({"iss": iss, "sub": sub, "intent": "{}", "iat": harness::now().0 - 9, "sig": sig});
        let chain = json!([link(iss, sub, "s1"), link(sub, ISS, "s2")]);
        json!({"version": "1.0", "payload": {}, "intent": {"action": "comment", "target": "", "resource": "mcp://github"}, "delegation_chain": chain})
    };
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        jwt(&key, &header(), &claims)
    };
    for name in ours {
        for (member, value) in [
            ("sub", json!(name)),
            ("act", json!({"sub": name})),
            ("act", json!({"sub": "x", "agent": name})),
            (
                "act",
                json!({"sub": "x", "act": {"sub": "y", "act": {"sub": name}}}),
            ),
            ("vouch", vouch(name, "x")),
            ("vouch", vouch("x", name)),
        ] {
            let (refused, event) = {
                let token = with(member, value.clone());
                let exchange = Exchange {
                    requester: of("incident-coordinator"),
                    subject_token: token,
                    scope: None,
                    resource: None,
                    audience: None,
                    proof: None,
                };
                setting.ask(Request::Exchange(exchange))
            };
            assert_eq!(
                refused,
                Err("delegation_invalid".into()),
                "{member} {value}"
            );
            assert_eq!(
                (event.delegated_by, event.delegation_chain),
                (None, vec!["agent:incident-coordinator".into()])
            );
        }
    }
    // Others may be called what they like.
    for (member, value) in [
        ("sub", json!("user:third")),
        ("sub", json!("agents:x")),
        ("act", json!({"sub": "x", "agent": "bot"})),
        ("vouch", vouch("x", "y")),
    ] {
        assert!(
            setting
                .exchange("incident-coordinator", &with(member, value.clone()))
                .is_ok(),
            "{member} {value}"
        );
    }
}

#[test]
fn no_annex_gives_an_identity_of_the_bundle_to_somebody_outside() {
    let mut setting =
        setting_with(|policy| policy["identities"][2]["did"] = json!("did:web:third.example"));
    let Answer::Description(reviewer) = setting
        .window
        .ask(Request::Describe(of("code-reviewer")))
        .unwrap()
        .unwrap()
    else {
        panic!()
    };
    let did = reviewer.versions[0].did.clone();
    let with = |version: u32, name: &str, iss: &str| {
        let mut annex = annex(version, &[]);
        (annex.issuers[0].name, annex.issuers[0].iss) = (name.into(), iss.into());
        annex
    };
    // The name of an identity, which code-reviewer takes up tokens of; its DIDs; what begins as
    // names here do.
    let taken = [
        ("incident-coordinator", ISS),
        ("corp", "incident-coordinator"),
        ("corp", did.as_str()),
        ("corp", "did:web:third.example"),
        ("corp", "did:web:THIRD.example"),
        ("corp", "Agent:incident-coordinator"),
    ];
    for (name, iss) in taken {
        let refused = setting.load(&with(1, name, iss), OPERATOR).unwrap_err();
        assert!(
            ["issuer_is_ours", "policy_malformed"].contains(&refused.as_str()),
            "{name} {iss}: {refused}"
        );
    }
    // An issuer called as an agent is in another bundle's policy is one of its own kind.
    setting
        .load(&with(1, "coordinator", ISS), OPERATOR)
        .unwrap();
    let user = jwt(&TestKey::new(IDP), &header(), &claims());
    assert_eq!(
        setting.exchange("incident-coordinator", &user),
        Err("untrusted_principal".into())
    );
    setting.load(&with(2, "corp", ISS), OPERATOR).unwrap();
    assert!(setting.exchange("incident-coordinator", &user).is_ok());
}

#[test]
fn labels_and_prefixes_know_a_resource_however_it_is_spelled() {
    let mut setting = setting_with(|policy| {
        policy["resources"] =
            json!([{"pattern": "https://prod.example/*", "environment": "production"}]);
        for identity in policy["identities"].as_array_mut().unwrap() {
            identity["delegation"]["resources"] = json!(["https://x.example/team-a/*"]);
            identity["rules"] = json!([{"name": "a", "actions": ["*"], "targets": ["*"], "resources": ["https://x.example/team-a/*"]}]);
        }
    });
    setting.load(&annex(1, &[]), OPERATOR).unwrap();
    for other in [
        "https://PROD.example/x",
        "https://prod.example:443/x",
        "https://prod.example./x",
        "https://u@prod.example/x",
        "https://x.example/team-a/?x",
        "https://x.example/team-a/../team-b/secret",
        "https://x.example/team-a/%2e%2e/team-b/secret",
        "https://x.example/team-a/%61",
        "https://x.example/team-a//x",
        "https://x.example/team-a\\x",
    ] {
        let (refused, event) =
            setting.sign("code-reviewer", None, |sign| sign.resource = other.into());
        assert_eq!(refused, Err("resource_not_canonical".into()), "{other}");
        assert_eq!(event.resource.as_deref(), Some(other));
        let mut token = claims();
        token["resource"] = json!(other);
        let refused = setting.exchange(
            "incident-coordinator",
            &jwt(&TestKey::new(IDP), &header(), &token),
        );
        assert_eq!(refused, Err("resource_not_canonical".into()), "{other}");
    }
    assert!(
        setting
            .sign("code-reviewer", None, |sign| sign.resource =
                "https://x.example/team-a/secret".into())
            .0
            .is_ok()
    );
    assert_eq!(
        setting
            .sign("code-reviewer", None, |sign| sign.resource =
                "https://prod.example/x".into())
            .0,
        Err("environment_mismatch".into())
    );
}

#[test]
fn an_exchange_is_for_the_audiences_of_the_policy_and_within_the_counts_of_the_identity() {
    let mut setting = setting_with(|policy| {
        let identities = policy["identities"].as_array_mut().unwrap();
        identities[0]["limits"] =
            json!([{"per": "day", "max": 4}, {"per": "day", "max": 1, "amount": "/amount"}]);
        identities[1]["delegation"]["audiences"] =
            json!(["https://tools.example", "https://team.example/*"]);
    });
    setting.load(&annex(1, &[]), OPERATOR).unwrap();
    let user = jwt(&TestKey::new(IDP), &header(), &claims());
    let for_audience = |audience: &str| {
        let audience = audience.to_owned();
        move |exchange: &mut Exchange| exchange.audience = Some(audience)
    };
    // Without a list only for identities of this bundle. What is refused counts nothing.
    for outside in [
        "https://tools.example",
        "agent:nobody",
        "agent:",
        "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK",
        "*",
    ] {
        let refused = setting.exchange_for("incident-coordinator", &user, for_audience(outside));
        assert_eq!(refused, Err("audience_not_allowed".into()), "{outside}");
    }
    let first = setting
        .exchange_for(
            "incident-coordinator",
            &user,
            for_audience("agent:code-reviewer"),
        )
        .unwrap();
    let Answer::Description(reviewer) = setting
        .window
        .ask(Request::Describe(of("code-reviewer")))
        .unwrap()
        .unwrap()
    else {
        panic!()
    };
    let did = &reviewer.versions[0].did;
    let by_did = setting
        .exchange_for("incident-coordinator", &user, for_audience(did))
        .unwrap();
    assert_eq!(unverified_claims(&by_did).unwrap().aud.as_ref(), Some(did));
    for listed in [
        "https://tools.example",
        "https://team.example/a",
        "agent:third",
    ] {
        assert!(
            setting
                .exchange_for("code-reviewer", &first, for_audience(listed))
                .is_ok(),
            "{listed}"
        );
    }
    for outside in [
        "https://tools.example/",
        "https://team.example",
        "https://TOOLS.example",
    ] {
        let refused = setting.exchange_for("code-reviewer", &first, for_audience(outside));
        assert_eq!(refused, Err("audience_not_allowed".into()), "{outside}");
    }
    // Two of four are used; a signature is the third, an exchange the fourth, and amounts are none
    // of an exchange's.
    let own = setting.exchange("incident-coordinator", &user).unwrap();
    let paid = |sign: &mut Sign| sign.payload = "{\"amount\":1}".into();
    assert!(
        setting
            .sign("incident-coordinator", Some(&own), paid)
            .0
            .is_ok()
    );
    assert_eq!(
        setting.exchange("incident-coordinator", &user),
        Err("rate_limit_exceeded".into())
    );
    assert_eq!(
        setting.sign("incident-coordinator", Some(&own), paid).0,
        Err("rate_limit_exceeded".into())
    );
}

#[test]
fn a_tool_is_not_run_by_what_an_exchange_issued_against_every_rule() {
    let with = |exchanges: bool| {
        running_for(move |_, policy| {
            let module = "package a\ndefault allow = false\nallow if input.exchange.subject == \"user:other\"\n";
            policy["rego"] = json!({"module": module, "entrypoint": "data.a"});
            if exchanges {
                policy["rego"]["exchanges"] = json!(true);
            }
            let key = TestKey::new(60).public_key().to_multikey();
            policy["approvers"] = json!([{"name": "alice", "key": key}]);
            let agent = &mut policy["identities"][0];
            agent["callers"]["uids"] = json!([rustix::process::geteuid().as_raw()]);
            agent["limits"] = json!([{"per": "day", "max": 1}]);
            agent["rules"][0]["approval"] = json!({"by": ["alice"], "seconds": 60});
            agent["rules"][0]["audiences"] = json!(["https://harmless.example"]);
        })
    };
    let user = jwt(&TestKey::new(IDP), &header(), &claims());
    let exchange = |running: &Running, token: &str, audience: &str| {
        let actor = ("identity", "incident-coordinator");
        let answer = form(
            running,
            &[
                GRANT,
                KIND,
                ("subject_token", token),
                actor,
                ("audience", audience),
            ],
        )
        .json();
        answer["access_token"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| answer["code"].as_str().unwrap_or_default().to_owned())
    };
    let running = with(false);
    assert_eq!(
        exchange(&running, &user, "https://tools.example"),
        Err("audience_not_allowed".into())
    );
    // Within the bundle once a day; and nothing is signed under it, for the rule wants another
    // audience, and Rego denies that too.
    let own = exchange(&running, &user, "agent:code-reviewer").unwrap();
    for (audience, code) in [
        ("https://tools.example", "audience_not_allowed"),
        ("https://harmless.example", "policy_denied"),
    ] {
        let intent = json!({"action": "comment", "target": "42", "resource": "mcp://github/pull_request/comment"});
        let request =
            json!({"payload": {}, "intent": intent, "delegation": own, "audience": audience});
        assert_eq!(
            post(&running.socket, "/sign", &request).unwrap().code(),
            code
        );
    }
    assert_eq!(
        exchange(&running, &user, ""),
        Err("rate_limit_exceeded".into())
    );
    // And Rego, where the bundle wants it asked.
    let running = with(true);
    assert_eq!(exchange(&running, &user, ""), Err("policy_denied".into()));
    let record =
        std::fs::read_to_string(running.state.record().join("record-000001.jsonl")).unwrap();
    assert!(
        record
            .lines()
            .last()
            .unwrap()
            .contains("\"policy_id\":\"rego@"),
        "{record}"
    );
    let mut other = claims();
    other["sub"] = json!("user:other");
    assert!(exchange(&running, &jwt(&TestKey::new(IDP), &header(), &other), "").is_ok());
}

#[test]
fn nothing_is_signed_with_the_action_of_an_exchange() {
    let mut setting = setting_with(|policy| {
        for identity in policy["identities"].as_array_mut().unwrap() {
            let any = json!({"name": "any", "actions": ["*"], "targets": ["*"], "resources": ["*"], "envelope": true});
            let grants = json!({"name": "grants", "actions": ["act", "*"], "targets": ["*"], "resources": ["*"], "delegatees": ["*"]});
            identity["rules"] = json!([any, grants]);
            identity["delegation"]["scopes"] = json!(["*"]);
        }
    });
    setting.load(&annex(1, &[]), OPERATOR).unwrap();
    let mut wide = claims();
    wide["scope"] = json!("act comment");
    let user = jwt(&TestKey::new(IDP), &header(), &wide);
    let own = setting.exchange("incident-coordinator", &user).unwrap();
    let act = |sign: &mut Sign| sign.action = "act".into();
    for delegation in [None, Some(own.as_str())] {
        for format in [Format::VouchJwt, Format::VouchCredential, Format::Envelope] {
            let (refused, event) = setting.sign("incident-coordinator", delegation, |sign| {
                act(sign);
                sign.format = format;
                if format == Format::Envelope {
                    sign.target = String::new();
                }
            });
            let why = if delegation.is_some() && format == Format::VouchCredential {
                "delegation_format"
            } else {
                "action_reserved"
            };
            assert_eq!(
                (refused, event.refusal.as_deref()),
                (Err(why.into()), Some(why)),
                "{format:?}"
            );
        }
    }
    let grant = |sign: &mut Sign| {
        act(sign);
        sign.format = Format::VouchCredential;
        sign.delegatee = Some("did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK".into());
    };
    assert_eq!(
        setting.sign("incident-coordinator", None, grant).0,
        Err("action_reserved".into())
    );
    assert!(
        setting
            .sign("incident-coordinator", Some(&own), |_| ())
            .0
            .is_ok()
    );
}

#[test]
fn an_annex_below_the_bundles_lowest_is_taken_in_no_boot() {
    let mut setting = setting_with(|policy| policy["annex_version"] = json!(3));
    // Without any, what is revoked is not known, so nothing is signed or exchanged.
    assert_eq!(
        setting.sign("code-reviewer", None, |_| ()).0,
        Err("annex_required".into())
    );
    let user = jwt(&TestKey::new(IDP), &header(), &claims());
    assert_eq!(
        setting.exchange("incident-coordinator", &user),
        Err("annex_required".into())
    );
    // And it says so to whoever asks whether it could sign.
    let cannot_sign = |setting: &mut Setting| {
        let Answer::Status(status) = setting.window.ask(Request::Status).unwrap().unwrap() else {
            panic!("a status")
        };
        status.cannot_sign
    };
    assert_eq!(cannot_sign(&mut setting).as_deref(), Some("annex_required"));
    for (version, taken) in [
        (2, Err("annex_outdated".into())),
        (1, Err("annex_outdated".into())),
        (3, Ok(())),
        (4, Ok(())),
    ] {
        assert_eq!(
            setting.load(&annex(version, &[]), OPERATOR),
            taken,
            "{version}"
        );
    }
    assert_eq!(cannot_sign(&mut setting), None);
    assert!(setting.exchange("incident-coordinator", &user).is_ok());
}

/// The sidecar with these agents, all of them this user's.
fn running() -> Running {
    running_for(|_, policy| {
        let own = rustix::process::geteuid().as_raw();
        policy["identities"][1]["delegation"]["audiences"] = json!(["https://tools.example"]);
        for identity in policy["identities"].as_array_mut().unwrap() {
            identity["callers"]["uids"] = json!([own]);
        }
    })
}

/// The sidecar with these agents, for callers of one's choice.
fn running_for(callers: impl FnOnce(&State, &mut Value)) -> Running {
    Running::prepared(
        |state| {
            let signed = annex(1, &[])
                .sign(&KeyFile::read(&state.operator_key()).unwrap())
                .unwrap();
            std::fs::write(state.folder().join("annex.cose"), signed).unwrap();
            let base = state
                .development_policy(&[("agent", "did:key", "EdDSA")])
                .unwrap();
            let mut policy: Value =
                serde_json::from_slice(&Bundle::from_toml(&base).unwrap().canonical()).unwrap();
            policy["identities"] = agents();
            callers(state, &mut policy);
            String::from_utf8(identity::json::canonical(&policy).unwrap()).unwrap()
        },
        "annex = \"annex.cose\"\n",
        &[],
    )
}

fn form(running: &Running, fields: &[(&str, &str)]) -> harness::Answer {
    let mut body = form_urlencoded::Serializer::new(String::new());
    body.extend_pairs(fields);
    let body = body.finish();
    let head = format!(
        "POST /token HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    Connection::open(&running.socket)
        .unwrap()
        .request(&[head.as_bytes(), body.as_bytes()].concat())
        .unwrap()
}

#[test]
fn an_envelope_says_who_did_what_to_what_for_whom_and_when_and_nothing_else() {
    let running = running();
    let user = jwt(&TestKey::new(IDP), &header(), &claims());
    let exchanged = form(
        &running,
        &[
            GRANT,
            KIND,
            ("subject_token", &user),
            ("identity", "incident-coordinator"),
        ],
    )
    .json();
    let token = exchanged["access_token"].as_str().unwrap();
    let reviewer = form(
        &running,
        &[
            GRANT,
            KIND,
            ("subject_token", token),
            ("identity", "code-reviewer"),
        ],
    )
    .json();
    let body = json!({
        "payload": {}, "intent": {"action": "comment", "target": "", "resource": "mcp://github/pr/1"}, "identity": "code-reviewer",
        "format": "envelope", "delegation": reviewer["access_token"],
    });
    let answer = post(&running.socket, "/sign", &body).unwrap();
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    let answer = answer.json();
    assert!(answer.get("expires_at").is_none() && answer.get("vouch_token").is_none());
    let described = get(&running.socket, "/identity?identity=code-reviewer")
        .unwrap()
        .json();
    let key =
        PublicKey::from_multikey(described["public_key_multibase"].as_str().unwrap()).unwrap();
    let kid = identity::KeyId::of(&identity::Did::key(&key), &key).unwrap();
    let envelope =
        identity::envelope::Envelope::verify(answer["envelope"].as_str().unwrap(), &kid, &key)
            .unwrap();
    assert_eq!(
        envelope.agent_id,
        format!(
            "agent:code-reviewer:ed25519:{}",
            identity::sha256(&key.to_spki())
        )
    );
    assert_eq!(envelope.delegated_by.as_deref(), Some("user:sre-oncall"));
    assert_eq!(
        (envelope.action.as_str(), envelope.resource.as_str()),
        ("comment", "mcp://github/pr/1")
    );
    assert!((harness::now().0 - envelope.timestamp).abs() < 60);
    let with_target = json!({"action": "comment", "target": "t", "resource": "mcp://github/pr/1"});
    for (member, value) in [
        ("intent", with_target),
        ("payload", json!({"a": 1})),
        ("audience", json!("x")),
        ("validity_seconds", json!(60)),
    ] {
        let mut more = body.clone();
        more[member] = value;
        let refused = post(&running.socket, "/sign", &more).unwrap();
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (422, "envelope_has_no_place"),
            "{member}"
        );
    }
}

const GRANT: (&str, &str) = (
    "grant_type",
    "urn:ietf:params:oauth:grant-type:token-exchange",
);
const KIND: (&str, &str) = ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt");

#[test]
fn a_caller_with_a_key_takes_up_a_delegation_in_its_own_name() {
    // Nobody may ask but a robot, and nobody else can in its name.
    let running = running_for(|state, policy| {
        let robot = KeyFile::create(&state.folder().join("robot.key")).unwrap();
        policy["callers"] = json!([{"name": "robot", "key": robot.public_key().to_multikey()}]);
        for identity in policy["identities"].as_array_mut().unwrap() {
            identity["callers"] =
                json!({"uids": [4711], "gids": [], "names": [], "proven": ["robot"]});
        }
    });
    let file = running.state.folder().join("robot.key");
    let (user, actor) = (
        jwt(&TestKey::new(IDP), &header(), &claims()),
        "incident-coordinator",
    );
    let subject = running.folder().join("user.jwt");
    std::fs::write(&subject, &user).unwrap();
    let command = |more: &[&std::ffi::OsStr]| {
        let mut command = std::process::Command::new(program("anchorhold"));
        command
            .arg("exchange")
            .args(["--identity", actor, "--subject-token"])
            .arg(&subject)
            .arg("--endpoint");
        command
            .arg(format!("unix://{}", running.socket.display()))
            .args(["--scope", "comment"])
            .args(more);
        command.output().unwrap()
    };
    let exchanged = command(&["--caller-key".as_ref(), file.as_os_str()]);
    assert_eq!(
        exchanged.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&exchanged.stderr)
    );
    let claims = unverified_claims(std::str::from_utf8(&exchanged.stdout).unwrap().trim()).unwrap();
    let robot = KeyFile::read(&file).unwrap();
    let Caller::Proven(proven) = &claims.caller else {
        panic!("{:?}", claims.caller)
    };
    assert_eq!(
        (proven.name.as_str(), &proven.key),
        ("robot", &robot.public_key().thumbprint())
    );
    assert_eq!(
        (claims.sub.as_str(), claims.scope.as_deref()),
        ("user:sre-oncall", Some("comment"))
    );
    assert!(!command(&[]).status.success());

    let described = get(&running.socket, "/identity?identity=incident-coordinator")
        .unwrap()
        .json();
    let proof = |change: &dyn Fn(&mut CallerProof), key: &KeyFile| {
        let request = identity::request::Exchange {
            audience: None,
            identity: actor,
            resource: None,
            scope: Some("comment"),
            subject_token: &user,
        };
        let mut jti = [0; 16];
        os_random(&mut jti);
        let mut proof = CallerProof {
            boot_id: identity::BootId::from_hex(described["boot_id"].as_str().unwrap()).unwrap(),
            exp: harness::now().0 + 30,
            jti: uuid::Uuid::from_bytes(jti),
            key_version: 1,
            request: request.digest().unwrap(),
        };
        change(&mut proof);
        proof.sign(key).unwrap()
    };
    let ask = |proof: Option<&str>, scope: &str, identity: &str| {
        let mut fields = vec![
            GRANT,
            KIND,
            ("subject_token", user.as_str()),
            ("identity", identity),
            ("scope", scope),
        ];
        fields.extend(
            proof
                .iter()
                .flat_map(|proof| [("actor_token", *proof), ("actor_token_type", KIND.1)]),
        );
        let answer = form(&running, &fields);
        let code = answer.json()["code"].as_str().map(str::to_owned);
        (answer.status, code.unwrap_or_default())
    };
    let refused = |code: &str| (403, code.to_owned());
    assert_eq!(ask(None, "comment", actor), refused("caller_not_allowed"));
    let good = proof(&|_| (), &robot);
    // What was signed is what is done, for whom it was signed, once.
    assert_eq!(
        ask(Some(&good), "read comment", actor),
        refused("proof_invalid")
    );
    assert_eq!(
        ask(Some(&good), "comment", "code-reviewer"),
        refused("proof_invalid")
    );
    assert_eq!(ask(Some(&good), "comment", actor).0, 200);
    assert_eq!(ask(Some(&good), "comment", actor), refused("proof_invalid"));
    assert_eq!(
        ask(
            Some(&proof(&|proof| proof.key_version = 2, &robot)),
            "comment",
            actor
        ),
        refused("proof_invalid")
    );
    assert_eq!(
        ask(
            Some(&proof(
                &|proof| proof.boot_id = identity::BootId::new([9; 16]),
                &robot
            )),
            "comment",
            actor
        ),
        refused("proof_invalid")
    );
    let stranger = KeyFile::create(&running.folder().join("stranger.key")).unwrap();
    assert_eq!(
        ask(Some(&proof(&|_| (), &stranger)), "comment", actor),
        refused("proof_invalid")
    );
}

#[test]
fn tokens_are_exchanged_as_the_rfc_says_and_a_tool_enforces_their_scope() {
    let running = running();
    let user = jwt(&TestKey::new(IDP), &header(), &claims());
    let subject = ("subject_token", user.as_str());
    let coordinator = ("identity", "incident-coordinator");
    let answer = form(
        &running,
        &[GRANT, KIND, subject, coordinator, ("audience", "")],
    );
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
    let answer = answer.json();
    assert_eq!(
        (answer["token_type"].as_str(), answer["scope"].as_str()),
        (Some("Bearer"), Some("read comment"))
    );
    assert_eq!(
        answer["issued_token_type"],
        "urn:ietf:params:oauth:token-type:access_token"
    );
    assert!((1..=300).contains(&answer["expires_in"].as_i64().unwrap()));
    let first = answer["access_token"].as_str().unwrap().to_owned();

    let wrong = |fields: &[(&str, &str)]| {
        let answer = form(&running, fields);
        let body = answer.json();
        (
            answer.status,
            body["error"].as_str().unwrap().to_owned(),
            body["code"].as_str().unwrap().to_owned(),
        )
    };
    let is = |status: u16, error: &str, code: &str| (status, error.to_owned(), code.to_owned());
    assert_eq!(
        wrong(&[KIND, subject, coordinator]),
        is(400, "invalid_request", "grant_type")
    );
    assert_eq!(
        wrong(&[("grant_type", "password"), KIND, subject]),
        is(400, "unsupported_grant_type", "grant_type")
    );
    assert_eq!(
        wrong(&[GRANT, subject, coordinator]),
        is(400, "invalid_request", "subject_token_type")
    );
    assert_eq!(
        wrong(&[GRANT, KIND, coordinator]),
        is(400, "invalid_request", "subject_token")
    );
    assert_eq!(
        wrong(&[GRANT, KIND, subject, subject]),
        is(400, "invalid_request", "parameter_twice")
    );
    for field in [
        ("actor_token", "x"),
        ("actor_token_type", KIND.1),
        ("actor_attestation", "x"),
    ] {
        assert_eq!(
            wrong(&[GRANT, KIND, subject, coordinator, field]),
            is(400, "invalid_request", "actor_token")
        );
    }
    let proof = [("actor_token", "x"), ("actor_token_type", KIND.1)];
    assert_eq!(
        wrong(&[&[GRANT, KIND, subject, coordinator], &proof[..]].concat()),
        is(403, "unauthorized_client", "proof_invalid")
    );
    assert_eq!(
        wrong(
            &[
                &[
                    GRANT,
                    KIND,
                    subject,
                    coordinator,
                    ("actor_attestation", "=")
                ],
                &proof[..]
            ]
            .concat()
        ),
        is(400, "invalid_request", "base64")
    );
    assert_eq!(
        wrong(&[
            GRANT,
            KIND,
            subject,
            coordinator,
            (
                "requested_token_type",
                "urn:ietf:params:oauth:token-type:saml2"
            )
        ]),
        is(400, "invalid_request", "requested_token_type")
    );
    assert_eq!(
        wrong(&[GRANT, KIND, subject]),
        is(400, "invalid_request", "identity_required")
    );
    assert_eq!(
        wrong(&[GRANT, KIND, subject, ("identity", "nobody")]),
        is(403, "unauthorized_client", "unknown_identity")
    );
    assert_eq!(
        wrong(&[GRANT, KIND, subject, coordinator, ("scope", "x")]),
        is(400, "invalid_scope", "scope_exceeds_parent")
    );
    assert_eq!(
        wrong(&[GRANT, KIND, subject, coordinator, ("resource", "https://x")]),
        is(400, "invalid_target", "resource_exceeds_parent")
    );
    assert_eq!(
        wrong(&[GRANT, KIND, ("subject_token", "x"), coordinator]),
        is(400, "invalid_grant", "token_malformed")
    );
    assert_eq!(
        post(&running.socket, "/token", &json!({})).unwrap().json()["code"],
        "content_type_not_form"
    );

    let reviewer = ("identity", "code-reviewer");
    let second = form(
        &running,
        &[
            GRANT,
            KIND,
            ("subject_token", &first),
            reviewer,
            ("scope", "comment"),
        ],
    )
    .json();
    let delegation = second["access_token"].as_str().unwrap().to_owned();
    let sign = |delegation: Option<&str>, identity: &str| {
        let mut request = json!({
            "payload": {"tool": "comment"}, "identity": identity, "audience": "https://tools.example",
            "intent": {"action": "comment", "target": "42", "resource": "mcp://github/pull_request/comment"}
        });
        if let Some(delegation) = delegation {
            request["delegation"] = json!(delegation);
        }
        let answer = post(&running.socket, "/sign", &request).unwrap();
        (answer.status, answer.json())
    };
    assert_eq!(sign(None, "code-reviewer").1["code"], "not_delegated");
    let (status, signed) = sign(Some(&delegation), "code-reviewer");
    assert_eq!(status, 200, "{signed}");

    // A tool server that lets through what is delegated with this scope, and nothing else.
    let files = running.verifier();
    let measured = &files.measurements[0];
    let policy = format!(
        "version = 1\n[[images]]\nlabel = \"i\"\nregisters = {{ PCR0 = \"{}\", PCR1 = \"{}\", PCR2 = \"{}\" }}\n[[bundles]]\nlabel = \"b\"\ndigest = \"{}\"\n",
        measured.pcr0,
        measured.pcr1,
        measured.pcr2,
        files.bundle.digest().digest()
    );
    let mut required = Requirements::new(
        "https://tools.example",
        attestation::AppraisalPolicy::from_toml(policy.as_bytes()).unwrap(),
    );
    required.mock_root = Some(files.root.clone());
    let guard = Arc::new(Guard::new(required).unwrap());
    let handler = async |admitted: Admitted| {
        let claims = admitted.claims();
        let actors: Vec<_> = claims
            .act
            .iter()
            .flat_map(|act| act.actors())
            .map(|act| act.agent.clone().unwrap_or_default())
            .collect();
        format!("{} through {}", claims.sub, actors.join(", "))
    };
    let call = |layer: RequireToken, token: &str| {
        let request = HttpRequest::post("/tool")
            .header("authorization", format!("Bearer {token}"))
            .body(Body::empty())
            .unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let response = Router::new()
                .route("/tool", route(handler))
                .layer(layer)
                .oneshot(request)
                .await
                .unwrap();
            let status = response.status().as_u16();
            let body = axum::body::to_bytes(response.into_body(), 1 << 16)
                .await
                .unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap())
        })
    };
    let plain = || RequireToken::new(Arc::clone(&guard));
    let attest = json!({"nonce": guard.challenge().unwrap(), "identity": "code-reviewer"});
    guard
        .learn(&post(&running.socket, "/attestation", &attest).unwrap().body)
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let (_, signed) = sign(Some(&delegation), "code-reviewer");
    let token = signed["vouch_token"].as_str().unwrap();
    let (status, says) = call(plain().scope("deploy"), token);
    assert!(
        status == 403 && says.contains("insufficient_scope"),
        "{status} {says}"
    );
    // A refusal did not use it up.
    let (status, says) = call(plain().scope("comment"), token);
    assert_eq!(
        (status, says.as_str()),
        (
            200,
            "user:sre-oncall through agent:code-reviewer, agent:incident-coordinator"
        )
    );
    assert!(call(plain(), token).1.contains("replayed"));

    // What the exchange itself issued, for this very tool and with this very scope, does nothing,
    // unless the tool says so.
    let audience = ("audience", "https://tools.example");
    let exchanged = || {
        let fields = [
            GRANT,
            KIND,
            ("subject_token", first.as_str()),
            reviewer,
            ("scope", "comment"),
            audience,
        ];
        form(&running, &fields).json()["access_token"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let token = exchanged();
    for layer in [plain(), plain().scope("comment"), plain().scope("act")] {
        let (status, says) = call(layer, &token);
        assert!(
            status == 403 && says.contains("token_exchanged"),
            "{status} {says}"
        );
    }
    assert_eq!(guard.admit(&token).unwrap_err().code(), "token_exchanged");
    let (status, says) = call(plain().scope("deploy").delegated(), &token);
    assert!(
        status == 403 && says.contains("insufficient_scope"),
        "{status} {says}"
    );
    assert_eq!(call(plain().scope("comment").delegated(), &token).0, 200);
    assert!(call(plain().delegated(), &token).1.contains("replayed"));
    assert_eq!(call(plain().delegated(), &exchanged()).0, 200);
    // A service that opts in still gets what was signed.
    let (_, signed) = sign(Some(&delegation), "code-reviewer");
    assert_eq!(
        call(
            plain().scope("comment").delegated(),
            signed["vouch_token"].as_str().unwrap()
        )
        .0,
        200
    );
}
