//! Chains of credentials: grants of Vouch's own software are taken up, and what is made under them
//! is good there.

use std::io::Write;
use std::path::Path;

use data_encoding::BASE64URL_NOPAD;
use harness::{Running, get, post, wait_for};
use parent_proxy::KeyFile;
use policy::Annex;
use qemu_dev::State;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::interop::{ask, python};

const LIST: &str = "https://corp.example/status/1";

/// A bitstring of 131072 bits of which these are set.
fn status_list(set: &[usize]) -> String {
    let mut bits = vec![0_u8; 131_072 / 8];
    set.iter()
        .for_each(|index| bits[index / 8] |= 0x80 >> (index % 8));
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(&bits).unwrap();
    format!("u{}", BASE64URL_NOPAD.encode(&packer.finish().unwrap()))
}

fn sign_annex(state: &State, root: &Value, version: u32, revoked: &[&str], set: Option<&[usize]>) {
    let lists = set.map_or_else(String::new, |set| {
        format!(
            "[[status_lists]]\nid = \"{LIST}\"\nencoded = \"{}\"\n",
            status_list(set)
        )
    });
    let did = root["did"].as_str().unwrap();
    let key = did.strip_prefix("did:key:").unwrap();
    let text = format!(
        "version = {version}\nrevoked = {revoked:?}\n[[issuers]]\nname = \"corp\"\niss = \"{did}\"\nkeys = [\"{key}\"]\n{lists}"
    );
    let signed = Annex::from_toml(&text)
        .unwrap()
        .sign(&KeyFile::read(&state.operator_key()).unwrap())
        .unwrap();
    std::fs::write(state.folder().join("annex.cose"), signed).unwrap();
}

/// A coordinator who may hand on what Corp grants it, a worker who may take that up, and one who
/// may not.
fn start(root: &Value) -> Running {
    let policy = |state: &State| {
        sign_annex(state, root, 1, &[], None);
        let names = ["coordinator", "worker", "outsider"].map(|name| (name, "did:key", "EdDSA"));
        let text = state.development_policy(&names).unwrap();
        let delegation = |from: &str| {
            format!(
                "delegation = {{ from = [{from}], scopes = [\"read\"], resources = [\"https://x/*\"] }}\n"
            )
        };
        let mut parts = text
            .split("rotation_callers")
            .collect::<Vec<_>>()
            .into_iter();
        let first = parts.next().unwrap().to_owned();
        let from = [
            "\"issuer:corp\"",
            "\"issuer:corp\", \"agent:coordinator\"",
            "\"issuer:nobody\"",
        ];
        let text = parts.zip(from).fold(first, |text, (part, from)| {
            format!("{text}{}rotation_callers{part}", delegation(from))
        });
        let rule = "[[identities.rules]]\nname = \"grants\"\nactions = [\"read\"]\ntargets = [\"*\"]\nresources = [\"*\"]\ndelegatees = [\"did:key:*\"]\n\n";
        text.replace(
            "[[identities.rules]]\nname = \"anything\"",
            &format!("{rule}[[identities.rules]]\nname = \"anything\""),
        )
    };
    Running::prepared(policy, "annex = \"annex.cose\"\n", &[])
}

fn did(running: &Running, name: &str) -> String {
    get(&running.socket, &format!("/identity?identity={name}"))
        .unwrap()
        .json()["did"]
        .as_str()
        .unwrap()
        .to_owned()
}

struct Ask<'a> {
    identity: &'a str,
    grants: &'a [Value],
    resource: &'a str,
    to: Option<&'a str>,
}

impl Ask<'_> {
    fn sign(&self, running: &Running) -> Result<Value, String> {
        let mut intent = json!({"action": "read", "target": "logs", "resource": self.resource});
        if let Some(to) = self.to {
            intent["delegatee"] = json!(to);
        }
        let mut body = json!({"payload": {}, "intent": intent, "identity": self.identity, "format": "vouch-credential"});
        if !self.grants.is_empty() {
            body["delegation"] = json!(self.grants);
        }
        let answer = post(&running.socket, "/sign", &body).unwrap();
        if answer.status == 200 {
            Ok(answer.json()["credential"].clone())
        } else {
            Err(answer.code())
        }
    }
}

#[test]
fn a_chain_of_grants_is_taken_up_handed_on_and_good_for_vouchs_own_verifier() {
    let Some(python) = python("vouch-2.2.1") else {
        return;
    };
    let root = ask(&python, "vouch_grants.py", &json!({"do": "root"}));
    let running = start(&root);
    let (coordinator, worker) = (did(&running, "coordinator"), did(&running, "worker"));
    let granted = |to: &str, action: &str, status: Option<u32>| {
        let mut input = json!({"do": "grant", "root": root, "to": to, "action": action, "resource": "https://x/logs"});
        if let Some(index) = status {
            input["status"] = json!({"list": LIST, "index": index});
        }
        ask(&python, "vouch_grants.py", &input)
    };
    let first = granted(&coordinator, "read", None);
    let hand_on = Ask {
        identity: "coordinator",
        grants: std::slice::from_ref(&first),
        resource: "https://x/logs/app",
        to: Some(&worker),
    };
    let second = hand_on.sign(&running).unwrap();
    let both = [first.clone(), second.clone()];
    let act = Ask {
        identity: "worker",
        grants: &both,
        resource: "https://x/logs/app/1",
        to: None,
    };
    let leaf = act.sign(&running).unwrap();
    assert!(leaf["validUntil"].as_str() <= second["validUntil"].as_str());
    assert_eq!(
        leaf["credentialSubject"]["delegationChain"]
            .as_array()
            .unwrap()
            .len(),
        2
    );

    let chain = [first.clone(), second.clone(), leaf.clone()];
    let verdict = ask(
        &python,
        "vouch_grants.py",
        &json!({"do": "verify", "root": root, "chain": chain}),
    );
    assert_eq!(verdict["ok"], true, "{verdict}");
    let refused = verdict["refused"].as_array().unwrap();
    assert!(
        refused.len() == 17 && refused.iter().all(|refused| *refused == true),
        "{verdict}"
    );

    // Who asked for whom stands in the record.
    let record =
        std::fs::read_to_string(running.folder().join("record/record-000001.jsonl")).unwrap();
    let event: Value = serde_json::from_str(record.lines().last().unwrap()).unwrap();
    assert_eq!(event["delegated_by"], root["did"]);
    assert_eq!(
        event["delegation_chain"],
        json!([root["did"], coordinator, "agent:worker"])
    );
    assert_eq!(
        event["delegation_issuers"],
        json!([root["did"], coordinator])
    );

    // What is wrong with the asking.
    let refused = |ask: &Ask<'_>| ask.sign(&running).unwrap_err();
    assert_eq!(
        refused(&Ask {
            identity: "outsider",
            ..act
        }),
        "untrusted_principal"
    );
    assert_eq!(
        refused(&Ask {
            identity: "coordinator",
            ..act
        }),
        "subject_issuer_mismatch"
    );
    assert_eq!(
        refused(&Ask {
            resource: "https://x/logs/other",
            ..act
        }),
        "resource_exceeds_parent"
    );
    assert_eq!(
        refused(&Ask {
            to: Some(&coordinator),
            ..act
        }),
        "delegation_invalid"
    );
    assert_eq!(
        refused(&Ask {
            to: Some("did:web:x.example"),
            ..hand_on
        }),
        "delegatee_not_allowed"
    );
    assert_eq!(
        refused(&Ask {
            grants: &both[1..],
            ..act
        }),
        "delegation_invalid"
    );
    assert_eq!(
        refused(&Ask {
            grants: &[granted(&worker, "write", None)],
            ..act
        }),
        "scope_exceeds_parent"
    );
    let as_token = json!({"payload": {}, "intent": {"action": "read", "target": "logs", "resource": "https://x/logs/app", "delegatee": worker}, "identity": "coordinator"});
    assert_eq!(
        post(&running.socket, "/sign", &as_token).unwrap().code(),
        "delegation_format"
    );
    for odd in [json!(7), json!({}), json!([]), json!([7])] {
        let body = json!({"payload": {}, "intent": "a", "identity": "worker", "format": "vouch-credential", "delegation": odd});
        let answer = post(&running.socket, "/sign", &body).unwrap();
        assert!(
            [403, 422].contains(&answer.status) && !answer.code().is_empty(),
            "{odd} {}",
            answer.status
        );
    }

    // A list that is not there, then one in which it stands, then one in which it does not.
    let listed = granted(&worker, "read", Some(7));
    let by_list = Ask {
        grants: std::slice::from_ref(&listed),
        ..act
    };
    assert_eq!(refused(&by_list), "status_unknown");
    let reload = |version: u32, revoked: &[&str], set: &[usize]| {
        sign_annex(&running.state, &root, version, revoked, Some(set));
        running.sidecar.signal(Signal::HUP);
    };
    reload(2, &[], &[6, 8]);
    wait_for(|| by_list.sign(&running).is_ok());
    reload(3, &[], &[7]);
    wait_for(|| by_list.sign(&running) == Err("delegation_revoked".into()));
    assert!(act.sign(&running).is_ok(), "others are not");
    // A link of the chain, by its id.
    reload(4, &[second["id"].as_str().unwrap()], &[]);
    wait_for(|| act.sign(&running) == Err("delegation_revoked".into()));
    assert!(hand_on.sign(&running).is_ok() && by_list.sign(&running).is_ok());
    assert!(Path::new(&running.socket).exists());
}

#[test]
fn a_grant_of_ones_own_is_signed_where_a_rule_says_so() {
    let running =
        start(&json!({"did": "did:key:z6MkjFW2kdKAKiaZ1vbjen85WFMA9rD9EPzaMzEWyG9Yxsga"}));
    let worker = did(&running, "worker");
    let grant = Ask {
        identity: "coordinator",
        grants: &[],
        resource: "https://x/logs",
        to: Some(&worker),
    };
    let credential = grant.sign(&running).unwrap();
    assert_eq!(
        credential["credentialSubject"]["intent"]["delegatee"],
        json!(worker)
    );
    assert!(
        credential["credentialSubject"]
            .get("delegationChain")
            .is_none()
    );
    assert_eq!(
        Ask {
            to: Some("did:web:x.example"),
            ..grant
        }
        .sign(&running),
        Err("delegatee_not_allowed".into())
    );
    assert_eq!(
        Ask {
            to: Some("nobody"),
            ..grant
        }
        .sign(&running),
        Err("json_shape".into())
    );
}
