use identity::{Intent, Payload};

use super::*;
use crate::Error;

const TOML: &str = r#"
version = 1
mode = "production"
proxy_key = "PROXY"
operator_key = "OPERATOR"

[[identities]]
name = "payer"
did = "did:web:agent.example.com"
algorithm = "EdDSA"
max_validity_seconds = 3600
callers = { uids = [1000], gids = [2000], names = ["crew"] }
rotation_callers = { uids = [1001] }

[[identities.rules]]
name = "small-transfers"
actions = ["transfer"]
targets = ["account_*"]
resources = ["https://bank.example/*"]
audiences = ["https://bank.example"]
max_validity_seconds = 60
payload_closed = true

[identities.rules.payload]
"/amount" = { min = 1, max = 100 }
"/currency" = { one_of = ["EUR", "CHF"] }
"/note/text" = { pattern = "re: *" }

[[identities.rules]]
name = "reports"
actions = ["report"]
targets = ["*"]
resources = ["*"]
"#;

fn key(byte: u8) -> String {
    // Multiples of the base point would need a secret; any point of large order serves as a public key here.
    (byte..).find_map(|b| identity::PublicKey::ed25519(&[b; 32]).ok()).unwrap().to_multikey()
}

fn toml() -> String {
    TOML.replace("PROXY", &key(1)).replace("OPERATOR", &key(100))
}

#[test]
fn both_forms_are_one_bundle_and_one_digest() {
    let bundle = Bundle::from_toml(&toml()).unwrap();
    let canonical = bundle.canonical();
    assert_eq!(Bundle::from_canonical(&canonical).unwrap(), bundle);
    assert_eq!(Bundle::from_either(&canonical).unwrap(), bundle);
    assert_eq!(Bundle::from_either(toml().as_bytes()).unwrap(), bundle);
    // Comments, order and spaces of the TOML do not count; a word of meaning does.
    let respelled = format!("# a comment\n{}", toml().replace(" = ", "="));
    assert_eq!(Bundle::from_toml(&respelled).unwrap().digest(), bundle.digest());
    let changed = Bundle::from_toml(&toml().replace("max = 100", "max = 101")).unwrap();
    assert_ne!(changed.digest(), bundle.digest());
    assert_ne!(changed.digest().pcr16(), bundle.digest().pcr16());
}

#[test]
fn a_canonical_form_has_one_spelling() {
    let canonical = Bundle::from_toml(&toml()).unwrap().canonical();
    let text = String::from_utf8(canonical).unwrap();
    for other in [
        text.replace(",\"mode\"", ", \"mode\""),
        format!(" {text}"),
        text.replacen("\"mode\":\"production\",", "", 1),
        text.replacen("{\"identities\"", "{\"extra\":1,\"identities\"", 1),
        text.replacen("\"uids\":[1000]", "\"uids\":[1000.0]", 1),
    ] {
        assert_ne!(other, text);
        assert_eq!(Bundle::from_canonical(other.as_bytes()).unwrap_err().code(), "policy_malformed");
    }
    assert!(Bundle::from_canonical(&vec![b' '; MAX_BYTES + 1]).is_err());
}

#[test]
fn mistakes_in_a_bundle_are_named() {
    let proxy = key(1);
    for (from, to, says) in [
        ("version = 1", "version = 2", "version"),
        ("mode = \"production\"", "mode = \"prod\"", "unknown variant"),
        ("mode = \"production\"", "mode = \"production\"\ncolour = 1", "unknown field"),
        ("mode = \"production\"", "", "missing field `mode`"),
        ("operator_key = \"z", "operator_key = \"y", "Multikey"),
        ("name = \"payer\"", "name = \"Payer\"", "name has"),
        ("did = \"did:web:agent.example.com\"", "did = \"did:ion:x\"", "did:key"),
        ("did = \"did:web:agent.example.com\"", "did = \"did:web:Agent\"", "lowercase domain"),
        ("algorithm = \"EdDSA\"", "algorithm = \"RS256\"", "unknown variant"),
        ("max_validity_seconds = 3600", "max_validity_seconds = 0", "1 to 86400"),
        ("max_validity_seconds = 3600", "max_validity_seconds = 86401", "1 to 86400"),
        ("{ uids = [1000], gids = [2000], names = [\"crew\"] }", "{}", "nobody"),
        ("uids = [1000]", "uids = [65534]", "65534"),
        ("uids = [1000]", "uids = [-1]", "invalid value"),
        ("actions = [\"transfer\"]", "actions = []", "each need a pattern"),
        ("actions = [\"transfer\"]", "actions = [\"a*b\"]", "end only"),
        ("audiences = [\"https://bank.example\"]", "audiences = []", "empty list"),
        ("\"/amount\"", "\"amount\"", "RFC 6901"),
        ("min = 1, max = 100", "min = 2, max = 1", "min is above max"),
        ("min = 1", "min = 9007199254740992", "2^53-1"),
        ("min = 1", "min = 1.5", "invalid type"),
        ("name = \"reports\"", "name = \"small-transfers\"", "two rules"),
    ] {
        let text = toml().replacen(from, to, 1);
        assert_ne!(text, toml(), "{from}");
        let Err(Error::PolicyMalformed(why)) = Bundle::from_toml(&text) else { panic!("{to}") };
        assert!(why.contains(says), "{to}: {why}");
    }
    let one_key = TOML.replace("PROXY", &proxy).replace("OPERATOR", &proxy);
    assert!(Bundle::from_toml(&one_key).unwrap_err().to_string().contains("operator's key must not be the proxy's"));
}

struct Ask {
    action: &'static str,
    target: &'static str,
    resource: &'static str,
    payload: &'static str,
    audience: Option<&'static str>,
    validity: Option<u32>,
    caller: Caller,
}

fn transfer() -> Ask {
    Ask {
        action: "transfer",
        target: "account_1",
        resource: "https://bank.example/v1",
        payload: "{\"amount\":100,\"currency\":\"EUR\",\"note\":{\"text\":\"re: x\"}}",
        audience: Some("https://bank.example"),
        validity: None,
        caller: Caller::Unix { uid: 1000, gid: 1 },
    }
}

fn decide(ask: &Ask) -> Result<(String, u32), &'static str> {
    let bundle = Bundle::from_toml(&toml()).unwrap();
    let intent = Intent::new(ask.action.into(), ask.target.into(), ask.resource.into()).unwrap();
    let payload = Payload::parse(ask.payload.as_bytes()).unwrap();
    let asked = Asked { intent: &intent, payload: &payload, audience: ask.audience, validity_seconds: ask.validity };
    let decision = bundle.identities[0].decide(&ask.caller, &asked);
    decision.map(|allowed| (allowed.rule.to_owned(), allowed.validity_seconds)).map_err(|denied| denied.code())
}

#[test]
fn every_part_of_a_rule_decides() {
    let allowed = |validity| Ok(("small-transfers".to_owned(), validity));
    assert_eq!(decide(&transfer()), allowed(60));
    assert_eq!(decide(&Ask { validity: Some(1), ..transfer() }), allowed(1));
    assert_eq!(decide(&Ask { caller: Caller::Unix { uid: 7, gid: 2000 }, ..transfer() }), allowed(60));
    assert_eq!(decide(&Ask { caller: Caller::Named("crew".into()), ..transfer() }), allowed(60));
    assert_eq!(decide(&Ask { action: "report", target: "", resource: "", ..transfer() }), Ok(("reports".to_owned(), 300)));

    for (ask, code) in [
        (Ask { caller: Caller::Unix { uid: 7, gid: 7 }, ..transfer() }, "caller_not_allowed"),
        (Ask { caller: Caller::Named("other".into()), ..transfer() }, "caller_not_allowed"),
        (Ask { action: "transfers", ..transfer() }, "intent_action_not_in_allowlist"),
        (Ask { target: "acct", ..transfer() }, "intent_target_pattern_violation"),
        (Ask { resource: "https://bank.example.evil/", ..transfer() }, "intent_resource_out_of_scope"),
        (Ask { payload: "{\"currency\":\"EUR\",\"note\":{\"text\":\"re: x\"}}", ..transfer() }, "intent_missing_required_field"),
        (
            Ask { payload: "{\"amount\":101,\"currency\":\"EUR\",\"note\":{\"text\":\"re: x\"}}", ..transfer() },
            "payload_field_out_of_bounds",
        ),
        (
            Ask { payload: "{\"amount\":0,\"currency\":\"EUR\",\"note\":{\"text\":\"re: x\"}}", ..transfer() },
            "payload_field_out_of_bounds",
        ),
        (
            Ask { payload: "{\"amount\":\"1\",\"currency\":\"EUR\",\"note\":{\"text\":\"re: x\"}}", ..transfer() },
            "payload_field_out_of_bounds",
        ),
        (
            Ask { payload: "{\"amount\":1,\"currency\":\"USD\",\"note\":{\"text\":\"re: x\"}}", ..transfer() },
            "payload_field_out_of_bounds",
        ),
        (
            Ask { payload: "{\"amount\":1,\"currency\":\"EUR\",\"note\":{\"text\":\"x\"}}", ..transfer() },
            "payload_field_out_of_bounds",
        ),
        (
            Ask { payload: "{\"amount\":1,\"currency\":\"EUR\",\"note\":{\"text\":\"re: x\"},\"to\":1}", ..transfer() },
            "payload_field_out_of_bounds",
        ),
        (Ask { audience: None, ..transfer() }, "audience_not_allowed"),
        (Ask { audience: Some("https://bank.example/"), ..transfer() }, "audience_not_allowed"),
        (Ask { validity: Some(61), ..transfer() }, "validity_exceeds_policy"),
        (Ask { action: "report", validity: Some(3601), ..transfer() }, "validity_exceeds_policy"),
    ] {
        assert_eq!(decide(&ask), Err(code));
    }
}

#[test]
fn rotation_has_a_permission_of_its_own() {
    let bundle = Bundle::from_toml(&toml()).unwrap();
    assert!(bundle.identities[0].may_rotate(&Caller::Unix { uid: 1001, gid: 1 }));
    assert!(!bundle.identities[0].may_rotate(&Caller::Unix { uid: 1000, gid: 1 }));
    let without = Bundle::from_toml(&toml().replace("rotation_callers = { uids = [1001] }", "")).unwrap();
    assert!(!without.identities[0].may_rotate(&Caller::Unix { uid: 1001, gid: 1 }));
}
