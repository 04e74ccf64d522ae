//! What is handed on: how far it reaches, and what the record says of it.

use super::*;

/// An enclave with other identities than the policy's, or another record, of the same keys.
fn like(setting: &Setting, names: &[&str], record: u8) -> Setting {
    let bundle = setting.provisioned.bundle.clone();
    let record = Record::new(key(record), BootId::new(BOOT));
    let bound = BoundTo {
        policy: bundle.digest(),
        record_spki: record.public_key().to_spki(),
        state: None,
    };
    let born = |policy: &policy::IdentityPolicy| {
        let key = KeyPair::generate(policy.algorithm, &[6; 32], &[0; 32], policy.name.as_bytes());
        Identity::new(policy, &bound, key).unwrap()
    };
    let named = bundle.identities.iter();
    let named = named.filter(|policy| names.contains(&policy.name.as_str()));
    let identities = named.map(born).collect();
    let (canonical, rego) = (
        bundle.canonical(),
        policy_engine::Rego::load(&bundle).unwrap(),
    );
    Setting {
        provisioned: Provisioned::new(bundle, canonical, rego, identities, record, bound, None),
        verify_peer: Box::new(|_, _| Err(attestation::Error::RootUntrusted)),
        now: NOW,
    }
}

/// A grant of `granter` to `agent`, for so long.
fn grant(setting: &Setting, seconds: u32) -> String {
    let sign = Sign {
        requester: Requester {
            caller: ObservedCaller::ids(2001, 1),
            identity: Some("granter".into()),
        },
        format: Format::VouchCredential,
        delegatee: Some(setting.identity("agent").card().unwrap().did.to_string()),
        validity_seconds: Some(seconds),
        ..request("read")
    };
    format!("[{}]", setting.signed(sign).unwrap().signed)
}

fn under(grant: &str, seconds: Option<u32>) -> Sign {
    Sign {
        format: Format::VouchCredential,
        delegation: Some(grant.into()),
        validity_seconds: seconds,
        ..request("read")
    }
}

/// When a credential ends, in seconds from now.
fn holds(signed: &Signed) -> i64 {
    let credential: serde_json::Value = serde_json::from_str(&signed.signed).unwrap();
    let until = credential["validUntil"].as_str().unwrap();
    (0..1000)
        .find(|after| UnixSeconds(NOW + after).to_string() == until)
        .unwrap()
}

#[test]
fn nothing_holds_longer_than_the_grant_that_it_is_under() {
    let mut setting = Setting::new();
    let grant = grant(&setting, 100);
    for (wanted, seconds) in [(None, 100), (Some(600), 100), (Some(30), 30)] {
        let signed = setting.signed(under(&grant, wanted)).unwrap();
        assert_eq!(holds(&signed), seconds, "{wanted:?}");
    }
    setting.now = NOW + 100;
    let late = setting.signed(under(&grant, None)).err();
    assert_eq!(late, Some("outside_validity_window"));
    // Also where it might be a little earlier.
    let now = Bounds {
        earliest: UnixSeconds(NOW + 90),
        latest: UnixSeconds(NOW + 100),
    };
    let env = Env::new(
        &setting.provisioned,
        Ok(now),
        BootId::new(BOOT),
        Tee::Mock,
        &OsEntropy,
        &setting.verify_peer,
    );
    let late = sign::sign(&env, under(&grant, None), &mut trail());
    assert_eq!(late.err().unwrap().code(), "outside_validity_window");
}

#[test]
fn a_grant_of_somebody_outside_is_believed_by_the_keys_that_the_annex_has_of_it() {
    let whole = Setting::new();
    let grant = grant(&whole, 100);
    let granter = whole.identity("granter").card().unwrap();
    let outside = like(&whole, &["agent"], 5);
    let annex = |version: u32, iss: &str, its_key: &str| {
        let other = key_of(9);
        let text = format!(
            "version = {version}\n[[issuers]]\nname = \"other\"\niss = \"did:web:other.example\"\nkeys = [\"{other}\"]\n\
             [[issuers]]\nname = \"idp\"\niss = \"{iss}\"\nkeys = [\"{its_key}\"]\n"
        );
        let annex = Annex::from_toml(&text).unwrap();
        outside
            .provisioned
            .load_annex(&annex.sign(&key(2)).unwrap())
            .unwrap();
    };
    let code = || outside.signed(under(&grant, None)).map(|_| ());
    let did = granter.did.to_string();
    let its_key = did.strip_prefix("did:key:").unwrap();
    annex(1, "did:web:elsewhere.example", its_key);
    assert_eq!(code(), Err("untrusted_principal"));
    annex(2, &did, its_key);
    assert_eq!(code(), Ok(()));
}

fn key_of(byte: u8) -> String {
    key(byte).public_key().to_multikey()
}

#[test]
fn only_what_is_revoked_is_revoked() {
    let setting = Setting::new();
    let grant = grant(&setting, 100);
    setting.annex(1, "\"agent:other\", \"urn:uuid:0\"");
    assert!(setting.signed(under(&grant, None)).is_ok());
    let token = setting.exchanged(ask("read")).unwrap();
    let signed = setting.signed(Sign {
        delegation: Some(token),
        ..request("read")
    });
    assert!(signed.is_ok());
}

#[test]
fn a_token_of_another_boot_of_the_same_key_is_not_our_own() {
    let (setting, all) = (Setting::new(), ["agent", "other", "granter"]);
    let other = like(&setting, &all, 55);
    setting.annex(1, "");
    other.annex(1, "");
    let token = other.exchanged(ask("read")).unwrap();
    let under = |setting: &Setting| {
        let sign = Sign {
            delegation: Some(token.clone()),
            ..request("read")
        };
        setting.sign(sign).0.map(|_| ())
    };
    assert_eq!(under(&other), Ok(()));
    let refused = under(&setting).unwrap_err().to_string();
    assert!(
        refused.contains("not a token of this identity"),
        "{refused}"
    );
}

#[test]
fn what_was_signed_under_a_delegation_is_none_itself_and_the_record_says_for_whom_it_was() {
    let setting = Setting::new();
    setting.annex(1, "");
    let token = setting.exchanged(ask("read")).unwrap();
    let (outcome, decision) = setting.sign(Sign {
        delegation: Some(token),
        ..request("read")
    });
    let Ok(Answer::Signed(signed)) = outcome else {
        panic!("{outcome:?}")
    };
    let decision = decision.unwrap();
    assert_eq!(decision.delegation_chain, ["user:u", "agent:agent"]);
    let signed = signed.signed;
    let again = setting.sign(Sign {
        delegation: Some(signed.clone()),
        ..request("read")
    });
    let refused = again.0.unwrap_err().to_string();
    assert!(refused.contains("signed, not exchanged"), "{refused}");
    let again = setting.exchange(Exchange {
        subject_token: signed,
        ..ask("read")
    });
    let refused = again.0.unwrap_err().to_string();
    assert!(refused.contains("signed, not exchanged"), "{refused}");
}

#[test]
fn a_scope_that_is_named_is_had_whole_or_not_and_else_what_the_policy_has_of_it() {
    let setting = Setting::new();
    setting.annex(1, "");
    let scope = |subject: &str, wanted: Option<&str>| {
        let exchange = Exchange {
            scope: wanted.map(str::to_owned),
            ..ask(subject)
        };
        let token = setting.exchanged(exchange)?;
        Ok(token::unverified_claims(&token).unwrap().scope.unwrap())
    };
    let denied = Err("scope_not_allowed");
    assert_eq!(scope("delete", None), denied);
    assert_eq!(scope("read delete", Some("read delete")), denied);
    assert_eq!(scope("read delete", Some("delete")), denied);
    assert_eq!(scope("read delete", None), Ok("read".to_owned()));
    assert_eq!(scope("read delete", Some("read")), Ok("read".to_owned()));
}

#[test]
fn an_exchange_holds_for_five_minutes_at_most_and_says_who_is_not_trusted() {
    let setting = Setting::new();
    setting.annex(1, "");
    let exchange = Exchange {
        subject_token: subject_token_until("read", NOW + 5000),
        ..ask("read")
    };
    let token = setting.exchanged(exchange).unwrap();
    assert_eq!(token::unverified_claims(&token).unwrap().exp, NOW + 300);

    let stranger = Setting::new();
    let refused = stranger.exchange(ask("read")).0.unwrap_err().to_string();
    assert!(refused.contains("https://idp"), "{refused}");
}

#[test]
fn a_rule_for_what_is_handed_on_is_for_nothing_else() {
    let mut setting = Setting::new();
    for identity in &mut setting.provisioned.bundle.identities {
        identity
            .rules
            .iter_mut()
            .for_each(|rule| rule.delegated = true);
    }
    let bundle = setting.provisioned.bundle.clone();
    let setting = like(&setting, &["agent"], 5);
    assert_eq!(setting.provisioned.bundle, bundle);
    setting.annex(1, "");
    assert_eq!(setting.signed(request("read")).err(), Some("not_delegated"));
    let token = setting.exchanged(ask("read")).unwrap();
    let signed = setting.signed(Sign {
        delegation: Some(token),
        ..request("read")
    });
    assert!(signed.is_ok());
}

#[test]
fn what_waits_and_what_is_proven_names_what_was_presented() {
    let setting = Setting::new();
    let digest = |delegation: Option<&str>| {
        let sign = Sign {
            delegation: delegation.map(str::to_owned),
            ..request("read")
        };
        let request = SignRequest::parse(sign, &mut trail()).unwrap();
        request.in_form("agent").digest().unwrap()
    };
    let all = [None, Some("a.b.c"), Some("a.b.d"), Some("[]")].map(digest);
    let different: std::collections::BTreeSet<_> = all.iter().map(ToString::to_string).collect();
    assert_eq!(different.len(), all.len());
    let Ok(Answer::PendingApproval(waiting)) = setting.sign(request("pay")).0 else {
        panic!("it does not wait")
    };
    assert_eq!(waiting.expires_at, NOW + 3600);
}

#[test]
fn a_proof_that_is_not_taken_says_why() {
    let setting = Setting::new();
    for (exp, why) in [
        (NOW - 1, "it came too late"),
        (NOW + 61, "more than 60 seconds"),
    ] {
        let proof = setting.proof(&request("read"), |proof| proof.exp = exp);
        let (outcome, _) = setting.sign(Sign {
            proof: Some(proof),
            ..request("read")
        });
        let refused = outcome.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn rego_sees_for_how_long_an_exchange_would_hold() {
    let decide = |seconds: u32| {
        let mut setting = Setting::new();
        let module = format!("package a\nallow if input.validity_seconds == {seconds}");
        let rego = serde_json::json!({"module": module, "entrypoint": "data.a", "exchanges": true});
        setting.provisioned.bundle.rego = Some(serde_json::from_value(rego).unwrap());
        let setting = like(&setting, &["agent"], 5);
        setting.annex(1, "");
        // On a busy machine its time may be over.
        let mut outcomes = (0..100).map(|_| setting.exchanged(ask("read")).map(|_| ()));
        outcomes
            .find(|outcome| *outcome != Err("policy_timeout"))
            .unwrap()
    };
    assert_eq!(decide(200), Ok(()));
    assert_eq!(decide(201), Err("policy_denied"));
}

#[test]
fn what_was_exchanged_is_over_when_it_ends() {
    let mut setting = Setting::new();
    setting.annex(1, "");
    let token = setting.exchanged(ask("read")).unwrap();
    for (now, wanted) in [(NOW + 199, Ok(())), (NOW + 200, Err("expired"))] {
        setting.now = now;
        let signed = setting.signed(Sign {
            delegation: Some(token.clone()),
            ..request("read")
        });
        assert_eq!(signed.map(|_| ()), wanted);
    }
}
