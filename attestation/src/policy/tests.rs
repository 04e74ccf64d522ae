use super::*;
use crate::Error;

const TOML: &str = r#"
version = 1
mode = "production"
proxy_key = "PROXY"
operator_key = "OPERATOR"
callers = [{ name = "robot", key = "ROBOT" }, { name = "peer", enclave = { pcr0 = "00", pcr1 = "11", pcr2 = "22" } }]
resources = [{ pattern = "https://prod.example/*", environment = "production" }]

[[identities]]
name = "payer"
environment = "staging"
limits = [{ per = "day", max = 1000, amount = "/amount" }]
did = "did:web:agent.example.com"
algorithm = "EdDSA"
max_validity_seconds = 3600
callers = { uids = [1000], gids = [2000], names = ["crew"], proven = ["robot", "peer"] }
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
    let digit = |d: &str| (format!("\"{d}{d}\""), format!("\"{}\"", d.repeat(96)));
    let text = TOML.replace("PROXY", &key(1)).replace("OPERATOR", &key(100)).replace("ROBOT", &key(60));
    ["0", "1", "2"].iter().map(|d| digit(d)).fold(text, |text, (short, long)| text.replace(&short, &long))
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
        text.replacen("\"identities\":", "\"extra\":1,\"identities\":", 1),
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
        ("{ uids = [1000], gids = [2000], names = [\"crew\"], proven = [\"robot\", \"peer\"] }", "{}", "nobody"),
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
        ("environment = \"staging\"", "", "missing field `environment`"),
        ("environment = \"staging\"", "environment = \"Staging\"", "environment: a name"),
        ("environment = \"production\"", "environment = \"\"", "not a name"),
        ("\"https://bank.example/*\"", "\"https://prod.example/pay/*\"", "give each environment an identity of its own"),
        ("proven = [\"robot\", \"peer\"]", "proven = [\"nobody\"]", "no [[callers]] is called so"),
        ("name = \"robot\"", "name = \"peer\"", "this name, key or enclave"),
        ("name = \"robot\", key", "name = \"robot\", enclave", "invalid type"),
        ("name = \"robot\", ", "name = \"robot\", enclave = { pcr0 = \"x\" }, ", "lowercase hex"),
        ("per = \"day\"", "per = \"week\"", "unknown variant"),
        ("max = 1000, amount", "max = 0, amount", "1 to 2^53-1"),
        ("amount = \"/amount\"", "amount = \"amount\"", "RFC 6901"),
    ] {
        let text = toml().replacen(from, to, 1);
        assert_ne!(text, toml(), "{from}");
        let Err(Error::PolicyMalformed(why)) = Bundle::from_toml(&text) else { panic!("{to}") };
        assert!(why.contains(says), "{to}: {why}");
    }
    let one_key = toml().replace(&key(100), &proxy);
    assert!(Bundle::from_toml(&one_key).unwrap_err().to_string().contains("operator's key must not be the proxy's"));
}

#[test]
fn a_callers_key_is_its_own_and_of_one_environment() {
    for (from, to) in [(key(60), key(1)), (key(60), key(100))] {
        let Err(Error::PolicyMalformed(why)) = Bundle::from_toml(&toml().replace(&from, &to)) else { panic!("accepted") };
        assert!(why.contains("the proxy's or the operator's") || why.contains("operator's key must not"), "{why}");
    }
    let two = toml()
        + "[[identities]]\nname = \"deployer\"\nenvironment = \"production\"\ndid = \"did:key\"\nalgorithm = \"EdDSA\"\n\
           max_validity_seconds = 60\ncallers = { proven = [\"robot\"] }\n\
           [[identities.rules]]\nname = \"r\"\nactions = [\"*\"]\ntargets = [\"*\"]\nresources = [\"*\"]\n";
    let Err(Error::PolicyMalformed(why)) = Bundle::from_toml(&two) else { panic!("accepted") };
    assert!(why.contains("one key for staging and production"), "{why}");
    assert!(Bundle::from_toml(&two.replace("environment = \"production\"\ndid", "environment = \"staging\"\ndid")).is_ok());
}

#[test]
fn mistakes_in_an_annex_are_named() {
    let good = "version = 1\n[[callers]]\nname = \"crew\"\nuid = 7\n";
    assert!(Annex::from_toml(good).is_ok());
    for (from, to, says) in [
        ("version = 1", "version = 0", "1 or more"),
        ("version = 1", "version = 1\ncolour = 1", "unknown field"),
        ("name = \"crew\"", "name = \"Crew\"", "name has"),
        ("uid = 7", "uid = 65534", "65534"),
        ("uid = 7", "gid = 65534", "65534"),
        ("uid = 7", "", "an executable alone"),
        ("uid = 7", "unit = \"\"", "empty"),
        ("uid = 7", "pod = \"a\\nb\"", "control"),
        ("uid = 7", "uid = 7\nexecutables = [\"AA\"]", "hex"),
    ] {
        let Err(Error::PolicyMalformed(why)) = Annex::from_toml(&good.replace(from, to)) else { panic!("{to}") };
        assert!(why.contains(says), "{to}: {why}");
    }
}

/// The canonical form with something changed.
fn changed(change: impl FnOnce(&mut serde_json::Value)) -> Result<Bundle, Error> {
    let mut value = serde_json::from_slice(&Bundle::from_toml(&toml()).unwrap().canonical()).unwrap();
    change(&mut value);
    Bundle::from_canonical(&identity::json::canonical(&value).unwrap())
}

#[test]
fn a_bundle_has_its_largest_sizes_and_no_larger_ones() {
    use serde_json::{Value, json};
    assert_eq!(MAX_BYTES, 32_768);
    let identities = |n: usize| {
        changed(|bundle| {
            let one = json!({
                "name": "x", "environment": "e", "did": "did:key", "algorithm": "EdDSA", "max_validity_seconds": 1,
                "callers": {"uids": [1], "gids": [], "names": []},
                "rules": [{"name": "r", "actions": ["a"], "targets": ["t"], "resources": ["r"]}]
            });
            let named = |index: usize| {
                let mut identity = one.clone();
                identity["name"] = format!("i{index}").into();
                identity
            };
            bundle["identities"] = Value::Array((0..n).map(named).collect());
        })
    };
    assert!(identities(64).is_ok(), "several may be did:key");
    assert!(identities(65).unwrap_err().to_string().contains("1 to 64"));
    assert!(identities(0).unwrap_err().to_string().contains("1 to 64"));
    let rules = |n: usize| {
        changed(|bundle| {
            let rule = |index| json!({"name": format!("r{index}"), "actions": ["a"], "targets": ["t"], "resources": ["r"]});
            bundle["identities"][0]["rules"] = Value::Array((0..n).map(rule).collect());
        })
    };
    assert!(rules(256).is_ok());
    assert!(rules(257).unwrap_err().to_string().contains("1 to 256"));
    assert!(rules(0).unwrap_err().to_string().contains("1 to 256"));
    let padded = |n: usize| changed(|bundle| bundle["identities"][0]["rules"][0]["targets"] = json!(["x".repeat(n)]));
    let room = MAX_BYTES - padded(0).unwrap().canonical().len();
    assert_eq!(padded(room).unwrap().canonical().len(), MAX_BYTES);
    assert!(padded(room + 1).unwrap_err().to_string().contains("longer than 32 KiB"));
    // The same at the other door, where white space does not count.
    let spaced = |n: usize| Bundle::from_toml(&toml().replace("account_*", &"x".repeat(n)));
    assert!(spaced(room).is_ok());
    assert!(spaced(room + 1).unwrap_err().to_string().contains("longer than 32 KiB"));
}

#[test]
fn names_and_domains_are_given_once_and_every_list_of_a_rule_is_needed() {
    use serde_json::json;
    let two = |name: &str, did: &str| {
        changed(|bundle| {
            let mut other = bundle["identities"][0].clone();
            (other["name"], other["did"]) = (name.into(), did.into());
            other["callers"]["proven"] = json!(["robot"]);
            bundle["identities"].as_array_mut().unwrap().push(other);
        })
        .is_ok()
    };
    assert!(two("other", "did:web:other.example") && two("other", "did:key"));
    assert!(!two("payer", "did:web:other.example") && !two("other", "did:web:agent.example.com") && !two("payer", "did:key"));
    for list in ["actions", "targets", "resources"] {
        let without = changed(|bundle| bundle["identities"][0]["rules"][0][list] = json!([]));
        assert!(without.unwrap_err().to_string().contains("each need a pattern"), "{list}");
    }
    for (did, good) in
        [("did:key", true), ("did:web:x.example", true), ("web:x.example", false), ("did:keyx", false), ("", false)]
    {
        assert_eq!(changed(|bundle| bundle["identities"][0]["did"] = did.into()).is_ok(), good, "{did}");
    }
    let other = changed(|bundle| bundle["identities"][0]["did"] = "did:key:z6Mk".into());
    assert!(other.unwrap_err().to_string().contains("neither"));
}

#[test]
fn bounds_of_a_payload_member_may_meet_and_reach_the_safe_integers() {
    use serde_json::json;
    const MAX: i64 = (1 << 53) - 1;
    let bounds = |constraint: serde_json::Value| {
        changed(|bundle| bundle["identities"][0]["rules"][0]["payload"]["/amount"] = constraint).is_ok()
    };
    assert!(
        bounds(json!({"min": 5, "max": 5})) && bounds(json!({"min": -MAX, "max": MAX})) && bounds(json!({"one_of": [MAX, -MAX]}))
    );
    assert!(!bounds(json!({"min": 6, "max": 5})));
}
