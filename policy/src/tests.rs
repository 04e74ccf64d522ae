use super::*;
use identity::Digest;
use identity::grants::Status;

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
resources = ["", "report:*"]
"#;

fn key(byte: u8) -> String {
    // Multiples of the base point would need a secret; any point of large order serves as a public
    // key here.
    (byte..)
        .find_map(|b| identity::PublicKey::ed25519(&[b; 32]).ok())
        .unwrap()
        .to_multikey()
}

fn toml() -> String {
    let digit = |d: &str| (format!("\"{d}{d}\""), format!("\"{}\"", d.repeat(96)));
    let text = TOML
        .replace("PROXY", &key(1))
        .replace("OPERATOR", &key(100))
        .replace("ROBOT", &key(60));
    ["0", "1", "2"]
        .iter()
        .map(|d| digit(d))
        .fold(text, |text, (short, long)| text.replace(&short, &long))
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
    assert_eq!(
        Bundle::from_toml(&respelled).unwrap().digest(),
        bundle.digest()
    );
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
        assert_eq!(
            Bundle::from_canonical(other.as_bytes()).unwrap_err().code(),
            "policy_malformed"
        );
    }
    assert!(Bundle::from_canonical(&vec![b' '; MAX_BYTES + 1]).is_err());
}

#[test]
fn mistakes_in_a_bundle_are_named() {
    let proxy = key(1);
    for (from, to, says) in [
        ("version = 1", "version = 2", "version"),
        (
            "mode = \"production\"",
            "mode = \"prod\"",
            "unknown variant",
        ),
        (
            "mode = \"production\"",
            "mode = \"production\"\ncolour = 1",
            "unknown field",
        ),
        ("mode = \"production\"", "", "missing field `mode`"),
        ("operator_key = \"z", "operator_key = \"y", "Multikey"),
        ("name = \"payer\"", "name = \"Payer\"", "name has"),
        (
            "did = \"did:web:agent.example.com\"",
            "did = \"did:ion:x\"",
            "did:key",
        ),
        (
            "did = \"did:web:agent.example.com\"",
            "did = \"did:web:Agent\"",
            "lowercase domain",
        ),
        (
            "algorithm = \"EdDSA\"",
            "algorithm = \"RS256\"",
            "unknown variant",
        ),
        (
            "max_validity_seconds = 3600",
            "max_validity_seconds = 0",
            "1 to 86400",
        ),
        (
            "max_validity_seconds = 3600",
            "max_validity_seconds = 86401",
            "1 to 86400",
        ),
        (
            "{ uids = [1000], gids = [2000], names = [\"crew\"], proven = [\"robot\", \"peer\"] }",
            "{}",
            "nobody",
        ),
        ("uids = [1000]", "uids = [65534]", "65534"),
        ("uids = [1000]", "uids = [-1]", "invalid value"),
        (
            "actions = [\"transfer\"]",
            "actions = []",
            "each need a pattern",
        ),
        (
            "actions = [\"transfer\"]",
            "actions = [\"a*b\"]",
            "end only",
        ),
        (
            "audiences = [\"https://bank.example\"]",
            "audiences = []",
            "empty list",
        ),
        ("\"/amount\"", "\"amount\"", "RFC 6901"),
        ("min = 1, max = 100", "min = 2, max = 1", "min is above max"),
        ("min = 1", "min = 9007199254740992", "2^53-1"),
        ("min = 1", "min = 1.5", "invalid type"),
        (
            "name = \"reports\"",
            "name = \"small-transfers\"",
            "two rules",
        ),
        (
            "environment = \"staging\"",
            "",
            "missing field `environment`",
        ),
        (
            "environment = \"staging\"",
            "environment = \"Staging\"",
            "environment: a name",
        ),
        (
            "environment = \"production\"",
            "environment = \"\"",
            "not a name",
        ),
        (
            "\"https://bank.example/*\"",
            "\"https://prod.example/pay/*\"",
            "give each environment an identity of its own",
        ),
        (
            "\"https://bank.example/*\"",
            "\"https://prod.example/x?y\"",
            "give each environment an identity of its own",
        ),
        // Overlap is enough.
        (
            "\"https://bank.example/*\"",
            "\"https://*\"",
            "give each environment an identity of its own",
        ),
        (
            "\"report:*\"",
            "\"*\"",
            "give each environment an identity of its own",
        ),
        // Patterns of resources are spelled as resources are.
        (
            "\"https://bank.example/*\"",
            "\"https://Bank.example/*\"",
            "not canonical",
        ),
        (
            "\"https://bank.example/*\"",
            "\"https://bank.example*\"",
            "does not end within a host",
        ),
        (
            "\"https://bank.example/*\"",
            "\"https://bank.example\"",
            "not canonical",
        ),
        (
            "\"https://bank.example/*\"",
            "\"https://bank.example:443/*\"",
            "not canonical",
        ),
        (
            "\"https://bank.example/*\"",
            "\"https://bank.example/a/../b\"",
            "not canonical",
        ),
        (
            "pattern = \"https://prod.example/*\"",
            "pattern = \"https://prod.example.*\"",
            "does not end within a host",
        ),
        (
            "pattern = \"https://prod.example/*\"",
            "pattern = \"HTTPS://prod.example/*\"",
            "not canonical",
        ),
        (
            "proven = [\"robot\", \"peer\"]",
            "proven = [\"nobody\"]",
            "no [[callers]] is called so",
        ),
        (
            "name = \"robot\"",
            "name = \"peer\"",
            "this name, key or enclave",
        ),
        (
            "name = \"robot\", key",
            "name = \"robot\", enclave",
            "invalid type",
        ),
        (
            "name = \"robot\", ",
            "name = \"robot\", enclave = { pcr0 = \"x\" }, ",
            "lowercase hex",
        ),
        ("per = \"day\"", "per = \"year\"", "unknown variant"),
        ("max = 1000, amount", "max = 0, amount", "1 to 2^53-1"),
        ("amount = \"/amount\"", "amount = \"amount\"", "RFC 6901"),
        ("name = \"robot\"", "name = \"Robot\"", "name has"),
        (
            "max = 1000, amount",
            "max = 9007199254740992, amount",
            "1 to 2^53-1",
        ),
        (
            "rotation_callers = { uids = [1001] }",
            "rotation_callers = { proven = [\"nobody\"] }",
            "rotation_callers: proven names \"nobody\"",
        ),
        // Which kind of delegator is meant must be said.
        (
            "rotation_callers",
            "delegation = { from = [\"corp\"], scopes = [\"a\"], resources = [\"urn:x\"] }\nrotation_callers",
            "write agent:<name>",
        ),
    ] {
        let text = toml().replacen(from, to, 1);
        assert_ne!(text, toml(), "{from}");
        let Err(Error::Malformed(why)) = Bundle::from_toml(&text) else {
            panic!("{to}")
        };
        assert!(why.contains(says), "{to}: {why}");
    }
    let one_key = toml().replace(&key(100), &proxy);
    assert!(
        Bundle::from_toml(&one_key)
            .unwrap_err()
            .to_string()
            .contains("operator's key must not be the proxy's")
    );
}

#[test]
fn a_state_is_kept_under_a_key_of_the_operators_and_of_nobody_else() {
    let with = |more: &str| {
        let table = format!(
            "{}\n[state]\nname = \"s\"\nrollback = \"accepted\"\nkms_key = \"arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab\"\n{more}\n",
            toml()
        );
        Bundle::from_toml(&table)
    };
    let kept = with("custody = \"kms\"").unwrap();
    assert_eq!(kept.state_operator(), &kept.operator_key.0);
    let own = format!("custody = \"kms\"\noperator_key = \"{}\"", key(60));
    let own = with(&own).unwrap();
    assert_eq!(own.state_operator().to_multikey(), key(60));
    let of_proxy = format!("custody = \"kms\"\noperator_key = \"{}\"", key(1));
    for (more, says) in [
        ("custody = \"ephemeral\"", "keeps nothing"),
        (of_proxy.as_str(), "must not be the proxy's"),
    ] {
        let Err(Error::Malformed(why)) = with(more) else {
            panic!("{more}")
        };
        assert!(why.contains(says), "{why}");
    }
}

#[test]
fn budgets_outlive_a_boot_where_there_is_a_state_for_them() {
    let bundle = |identities: &str, services: usize, limits: usize, state: bool| {
        let limit = "{ per = 'day', max = 9, amount = 'cost' }, ".repeat(limits);
        let service = |number| {
            format!(
                "[[services]]\nname = 's{number}'\nupstream = 'https://api.example'\ninject = {{ basic = 'x' }}\nbudget = 'across boots'\n\
                 rules = [{{ name = 'chat', methods = ['POST'], paths = ['/chat'], identities = [{identities}], \
                 priced = {{ form = 'openai-chat', max_tokens = 100 }}, limits = [{limit}] }}]\n"
            )
        };
        let services: String = (0..services).map(service).collect();
        let state = match state {
            true => {
                "[state]\nname = 's'\ncustody = 'kms'\nrollback = 'accepted'\nkms_key = 'arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab'\n"
            }
            false => "",
        };
        let clerk = toml();
        let clerk = clerk
            .split("[[identities]]")
            .nth(1)
            .unwrap()
            .split("[[")
            .next();
        let clerk = clerk
            .unwrap()
            .replace("payer", "clerk")
            .replace("agent.", "clerk.");
        let clerk = format!(
            "[[identities]]{clerk}[[identities.rules]]\nname = 'all'\nactions = ['report']\ntargets = ['*']\nresources = ['']\n"
        );
        Bundle::from_toml(&format!("{}\n{clerk}{state}{services}", toml()))
    };
    let (payer, both) = ("'payer'", "'payer', 'clerk'");
    for bundle in [
        bundle(payer, 1, 1, true),
        bundle(payer, 16, 16, true),
        bundle(both, 8, 16, true),
    ] {
        assert_eq!(bundle.map(|_| ()).map_err(|e| e.to_string()), Ok(()));
    }
    for (bundle, says) in [
        (
            bundle(payer, 1, 1, false),
            "kept with a [state], and there is none",
        ),
        (
            bundle(payer, 13, 20, true),
            "260 budgets of identities outlive a boot, and 256 can",
        ),
        // Each identity has its own.
        (
            bundle(both, 13, 10, true),
            "260 budgets of identities outlive a boot, and 256 can",
        ),
    ] {
        let Err(Error::Malformed(why)) = bundle else {
            panic!("{says}")
        };
        assert!(why.contains(says), "{why}");
    }
}

#[test]
fn a_callers_key_is_its_own_and_of_one_environment() {
    for (from, to) in [(key(60), key(1)), (key(60), key(100))] {
        let Err(Error::Malformed(why)) = Bundle::from_toml(&toml().replace(&from, &to)) else {
            panic!("accepted")
        };
        assert!(
            why.contains("the proxy's or the operator's")
                || why.contains("operator's key must not"),
            "{why}"
        );
    }
    let two = toml()
        + "[[identities]]\nname = \"deployer\"\nenvironment = \"production\"\ndid = \"did:key\"\nalgorithm = \"EdDSA\"\n\
           max_validity_seconds = 60\ncallers = { proven = [\"robot\"] }\n\
           [[identities.rules]]\nname = \"r\"\nactions = [\"*\"]\ntargets = [\"*\"]\nresources = [\"\"]\n";
    // To rotate is to use it, too.
    let rotates = two.replace(
        "callers = { proven = [\"robot\"] }",
        "callers = { uids = [1] }\nrotation_callers = { proven = [\"robot\"] }",
    );
    for two in [&two, &rotates] {
        let why = why(Bundle::from_toml(two));
        let says = "caller \"robot\": one key for staging and production";
        assert!(why.contains(says), "{why}");
    }
    assert!(
        Bundle::from_toml(&two.replace(
            "environment = \"production\"\ndid",
            "environment = \"staging\"\ndid"
        ))
        .is_ok()
    );
}

#[test]
fn a_caller_shares_neither_key_nor_enclave_with_another() {
    use serde_json::json;
    let enclave = |digit: &str| json!({"pcr0": digit.repeat(96), "pcr1": "1".repeat(96), "pcr2": "2".repeat(96)});
    let with = |callers: serde_json::Value| {
        changed(|bundle| {
            bundle["callers"] = callers;
            bundle["identities"][0]["callers"]["proven"] = json!(["robot"]);
        })
        .map(|_| ())
        .map_err(|error| error.to_string())
    };
    let robot = json!({"name": "robot", "key": key(60)});
    assert_eq!(
        with(json!([robot, {"name": "other", "key": key(140)}])),
        Ok(())
    );
    assert_eq!(
        with(
            json!([robot, {"name": "one", "enclave": enclave("a")}, {"name": "two", "enclave": enclave("b")}])
        ),
        Ok(())
    );
    let both = json!([robot, {"name": "other", "key": key(140), "enclave": enclave("a")}]);
    assert!(with(both).unwrap_err().contains("either key or enclave"));
    for twins in [
        json!([robot, {"name": "other", "key": key(60)}]),
        json!([robot, {"name": "one", "enclave": enclave("a")}, {"name": "two", "enclave": enclave("a")}]),
        json!([robot, {"name": "robot", "key": key(140)}]),
    ] {
        assert!(
            with(twins.clone())
                .unwrap_err()
                .contains("this name, key or enclave"),
            "{twins}"
        );
    }
}

#[test]
fn the_first_label_that_matches_a_resource_counts() {
    let bundle = changed(|bundle| {
        bundle["resources"] = serde_json::json!([
            {"pattern": "https://prod.example/*", "environment": "production"},
            {"pattern": "https://*", "environment": "staging"},
        ]);
    })
    .unwrap();
    let environment = |resource: &str| {
        bundle
            .labels(resource)
            .and_then(|label| label.environment.clone())
    };
    assert_eq!(
        environment("https://prod.example/a").as_deref(),
        Some("production")
    );
    assert_eq!(
        environment("https://a.example/").as_deref(),
        Some("staging")
    );
    assert_eq!(environment("ftp://a.example/"), None);
    // Of what might be another resource than it seems, no label says anything.
    assert_eq!(environment("https://PROD.example/a"), None);
    // A label in front hides one behind it only where it covers the whole pattern of a rule.
    let rule = |labels: serde_json::Value, resource: &str| {
        let resources = serde_json::json!([resource]);
        let bundle = changed(|bundle| {
            bundle["resources"] = labels;
            bundle["identities"][0]["rules"][0]["resources"] = resources.clone();
            bundle["identities"][0]["delegation"] = serde_json::json!({"from": ["issuer:x"], "scopes": ["a"], "resources": ["urn:x"], "audiences": ["x"]});
        });
        let delegation = changed(|bundle| {
            bundle["resources"] =
                serde_json::json!([{"pattern": "urn:prod", "environment": "production"}]);
            bundle["identities"][0]["delegation"] =
                serde_json::json!({"from": ["issuer:x"], "scopes": ["a"], "resources": ["urn:*"]});
        });
        assert!(
            delegation
                .unwrap_err()
                .to_string()
                .contains("delegation reaches")
        );
        bundle.map(|_| ()).map_err(|error| error.to_string())
    };
    let public =
        serde_json::json!({"pattern": "https://prod.example/public/*", "environment": "staging"});
    let prod =
        serde_json::json!({"pattern": "https://prod.example/*", "environment": "production"});
    assert_eq!(
        rule(
            serde_json::json!([public, prod]),
            "https://prod.example/public/*"
        ),
        Ok(())
    );
    assert_eq!(
        rule(
            serde_json::json!([public, prod]),
            "https://prod.example/public/a"
        ),
        Ok(())
    );
    for (labels, resource) in [
        (
            serde_json::json!([prod, public]),
            "https://prod.example/public/*",
        ),
        (serde_json::json!([public, prod]), "https://prod.example/*"),
        (serde_json::json!([public, prod]), "https://prod.example/p*"),
    ] {
        assert!(
            rule(labels.clone(), resource)
                .unwrap_err()
                .contains("reaches"),
            "{labels} {resource}"
        );
    }
}

#[test]
fn periods_and_names_have_their_lengths() {
    assert_eq!(
        [
            Period::Minute,
            Period::Hour,
            Period::Day,
            Period::Week,
            Period::Month,
        ]
        .map(Period::seconds),
        [60, 3600, 86_400, 604_800, 2_592_000]
    );
    let named = |length: usize| {
        changed(|bundle| bundle["identities"][0]["name"] = "a".repeat(length).into()).is_ok()
    };
    assert!(named(63) && named(1) && !named(64) && !named(0));
    let limited = |max: u64| {
        changed(|bundle| bundle["identities"][0]["limits"][0]["max"] = max.into()).is_ok()
    };
    assert!(limited(1) && limited((1 << 53) - 1) && !limited(0) && !limited(1 << 53));
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
        let Err(Error::AnnexMalformed(why)) = Annex::from_toml(&good.replace(from, to)) else {
            panic!("{to}")
        };
        assert!(why.contains(says), "{to}: {why}");
    }
}

#[test]
fn an_annex_says_which_entries_of_its_status_lists_are_set() {
    // The example of the standard, section 3.2, where none is set, and the same with the first bit.
    let (none, first) = (
        "uH4sIAAAAAAAAA-3BMQEAAADCoPVPbQwfoAAAAAAAAAAAAAAAAAAAAIC3AYbSVKsAQAAA",
        "uH4sIAAAAAAACA-3BIQEAAAACIKc73RkWoAEAAAAAAAAAAAAAAAAAAADeBuRZQ2cAQAAA",
    );
    let lists = |ids: [&str; 2]| {
        let list = |id: &str, encoded: &str| {
            format!("[[status_lists]]\nid = \"{id}\"\nencoded = \"{encoded}\"\n")
        };
        Annex::from_toml(&format!(
            "version = 1\n{}{}",
            list(ids[0], none),
            list(ids[1], first)
        ))
    };
    let annex = lists(["https://a", "https://b"]).unwrap();
    let status = |list: &str, index: u64| {
        annex.status(&Status {
            list: list.into(),
            index,
        })
    };
    assert_eq!(status("https://a", 0), Some(Ok(false)));
    assert_eq!(status("https://b", 0), Some(Ok(true)));
    assert_eq!(status("https://b", 1), Some(Ok(false)));
    assert_eq!(status("https://c", 0), None);
    assert_eq!(
        status("https://a", 131_072).unwrap().unwrap_err().code(),
        "status_invalid"
    );
    let Err(Error::AnnexMalformed(why)) = lists(["https://a", "https://a"]) else {
        panic!("twice")
    };
    assert!(why.contains("given twice"), "{why}");
}

#[test]
fn a_module_in_rego_has_its_size_and_the_name_of_its_package() {
    use serde_json::json;
    let check = |module: &str, entrypoint: &str| {
        let rego = json!({"module": module, "entrypoint": entrypoint});
        changed(|bundle| bundle["rego"] = rego)
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    for good in ["data.agent.authz", "data.a", "data._", "data.A_1.b2"] {
        assert_eq!(check("package a", good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "data",
        "data.",
        "agent.authz",
        "data.a..b",
        "data.a.",
        "data.1",
        "data.a-b",
        "data.a b",
        "data.é",
        "data.a[0]",
    ] {
        assert!(
            check("package a", bad)
                .unwrap_err()
                .contains("entrypoint is a package"),
            "{bad}"
        );
    }
    assert_eq!(check("m", "data.a"), Ok(()));
    assert_eq!(check(&"m".repeat(24_576), "data.a"), Ok(()));
    for bad in [0, 24_577] {
        assert!(
            check(&"m".repeat(bad), "data.a")
                .unwrap_err()
                .contains("module has 1 to 24576 bytes"),
            "{bad}"
        );
    }
}

/// The canonical form with something changed.
fn changed(change: impl FnOnce(&mut serde_json::Value)) -> Result<Bundle, Error> {
    let mut value =
        serde_json::from_slice(&Bundle::from_toml(&toml()).unwrap().canonical()).unwrap();
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
    let padded = |n: usize| {
        changed(|bundle| bundle["identities"][0]["rules"][0]["targets"] = json!(["x".repeat(n)]))
    };
    let room = MAX_BYTES - padded(0).unwrap().canonical().len();
    assert_eq!(padded(room).unwrap().canonical().len(), MAX_BYTES);
    assert!(
        padded(room + 1)
            .unwrap_err()
            .to_string()
            .contains("longer than 32 KiB")
    );
    // The same at the other door, where white space does not count.
    let spaced = |n: usize| Bundle::from_toml(&toml().replace("account_*", &"x".repeat(n)));
    assert!(spaced(room).is_ok());
    assert!(
        spaced(room + 1)
            .unwrap_err()
            .to_string()
            .contains("longer than 32 KiB")
    );
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
    assert!(
        !two("payer", "did:web:other.example")
            && !two("other", "did:web:agent.example.com")
            && !two("payer", "did:key")
    );
    for list in ["actions", "targets", "resources"] {
        let without = changed(|bundle| bundle["identities"][0]["rules"][0][list] = json!([]));
        assert!(
            without
                .unwrap_err()
                .to_string()
                .contains("each need a pattern"),
            "{list}"
        );
    }
    for (did, good) in [
        ("did:key", true),
        ("did:web:x.example", true),
        ("web:x.example", false),
        ("did:keyx", false),
        ("", false),
    ] {
        assert_eq!(
            changed(|bundle| bundle["identities"][0]["did"] = did.into()).is_ok(),
            good,
            "{did}"
        );
    }
    let other = changed(|bundle| bundle["identities"][0]["did"] = "did:key:z6Mk".into());
    assert!(other.unwrap_err().to_string().contains("neither"));
}

#[test]
fn bounds_of_a_payload_member_may_meet_and_reach_the_safe_integers() {
    use serde_json::json;
    const MAX: i64 = (1 << 53) - 1;
    let bounds = |constraint: serde_json::Value| {
        changed(|bundle| bundle["identities"][0]["rules"][0]["payload"]["/amount"] = constraint)
            .is_ok()
    };
    assert!(
        bounds(json!({"min": 5, "max": 5}))
            && bounds(json!({"min": -MAX, "max": MAX}))
            && bounds(json!({"one_of": [MAX, -MAX]}))
    );
    assert!(!bounds(json!({"min": 6, "max": 5})));
    let validity = |seconds: u32| {
        changed(|bundle| bundle["identities"][0]["max_validity_seconds"] = json!(seconds)).is_ok()
    };
    assert!(validity(1) && validity(86_400) && !validity(86_401) && !validity(0));
}

/// A signer of this test.
struct Operator(ed25519_dalek::SigningKey, identity::PublicKey);

impl Operator {
    fn new(seed: u8) -> Self {
        let pair = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
        let public = identity::PublicKey::Ed25519(pair.verifying_key());
        Self(pair, public)
    }
}

impl identity::Signer for Operator {
    type Error = identity::Error;

    fn public_key(&self) -> &identity::PublicKey {
        &self.1
    }

    fn sign(&self, message: &identity::Message) -> Result<identity::Signature, identity::Error> {
        Ok(ed25519_dalek::Signer::sign(&self.0, message.as_bytes()).to_bytes())
    }
}

#[test]
fn an_annex_is_the_operators_and_has_one_spelling() {
    let annex =
        Annex::from_toml("version = 3\nrevoked = [\"x\"]\n[[callers]]\nname = \"crew\"\nuid = 7\n")
            .unwrap();
    let (operator, other) = (Operator::new(1), Operator::new(2));
    let signed = annex.sign(&operator).unwrap();
    assert_eq!(Annex::verify(&signed, &operator.1), Ok(annex.clone()));
    assert_eq!(
        Annex::verify(&signed, &other.1).unwrap_err().code(),
        "signature_invalid"
    );
    let canonical = Annex::unverified_canonical(&signed).unwrap();
    assert_eq!(canonical, identity::json::canonical(&annex).unwrap());
    assert_eq!(
        annex.id().unwrap(),
        identity::AnnexId {
            digest: identity::sha256(canonical),
            version: 3
        }
    );
    let sign = |text: &str| {
        identity::cose::sign(identity::cose::Purpose::ANNEX, text.as_bytes(), &operator).unwrap()
    };
    let text = std::str::from_utf8(canonical).unwrap();
    assert!(Annex::verify(&sign(text), &operator.1).is_ok());
    for wrong in [
        text.replace(",\"version\"", ", \"version\""),
        text.replace("\"version\":3", "\"version\":0"),
        "{}".into(),
        String::new(),
    ] {
        assert_eq!(
            Annex::verify(&sign(&wrong), &operator.1)
                .unwrap_err()
                .code(),
            "policy_malformed",
            "{wrong}"
        );
    }
    // Another statement of the operator is no annex.
    let order = identity::cose::sign(
        identity::cose::Purpose::ROTATION_ORDER,
        canonical,
        &operator,
    )
    .unwrap();
    assert_eq!(
        Annex::verify(&order, &operator.1).unwrap_err().code(),
        "signature_invalid"
    );
}

#[test]
fn everything_that_an_annex_says_of_a_caller_must_have_been_seen() {
    use identity::caller::ObservedCaller;
    let text = format!(
        "version = 1\n[[callers]]\nname = \"crew\"\nuid = 7\ngid = 8\nunit = \"u\"\npod = \"p\"\ncontainer = \"c\"\nlabel = \"l\"\nsocket = \"s\"\n\
         executables = [\"{}\", \"{}\"]\n[[callers]]\nname = \"loose\"\ngid = 9\n",
        "aa".repeat(32),
        "bb".repeat(32)
    );
    let annex = Annex::from_toml(&text).unwrap();
    let text = |text: &str| Some(text.to_owned());
    let exact = ObservedCaller {
        unit: text("u"),
        pod: text("p"),
        container: text("c"),
        label: text("l"),
        socket: text("s"),
        executable: Some(Digest([0xbb; 32])),
        ..ObservedCaller::ids(7, 8)
    };
    assert!(
        annex.describes("crew", &exact)
            && !annex.describes("loose", &exact)
            && !annex.describes("other", &exact)
    );
    assert!(annex.describes(
        "crew",
        &ObservedCaller {
            executable: Some(Digest([0xaa; 32])),
            ..exact.clone()
        }
    ));
    assert!(
        annex.describes("loose", &ObservedCaller::ids(1, 9))
            && !annex.describes("crew", &ObservedCaller::ids(1, 9))
    );
    for other in [
        ObservedCaller {
            uid: Some(9),
            ..exact.clone()
        },
        ObservedCaller {
            gid: None,
            ..exact.clone()
        },
        ObservedCaller {
            unit: None,
            ..exact.clone()
        },
        ObservedCaller {
            pod: text("x"),
            ..exact.clone()
        },
        ObservedCaller {
            container: None,
            ..exact.clone()
        },
        ObservedCaller {
            label: text(""),
            ..exact.clone()
        },
        ObservedCaller {
            socket: None,
            ..exact.clone()
        },
        ObservedCaller {
            executable: None,
            ..exact.clone()
        },
        ObservedCaller {
            executable: Some(Digest([0xcc; 32])),
            ..exact.clone()
        },
    ] {
        assert!(!annex.describes("crew", &other), "{other:?}");
    }
    let callers = |text: &str| toml::from_str::<Callers>(text).unwrap();
    assert!(
        callers("names = [\"crew\"]").admit(&exact, Some(&annex))
            && !callers("names = [\"crew\"]").admit(&exact, None)
    );
    assert!(callers("uids = [7]").admit(&exact, None) && callers("gids = [8]").admit(&exact, None));
    assert!(!callers("uids = [8]\ngids = [7]\nproven = [\"crew\"]").admit(&exact, None));
    assert!(
        callers("names = [\"x\"]").admit(&ObservedCaller::named("x"), None)
            && !callers("names = [\"x\"]").admit(&ObservedCaller::named("y"), None)
    );
}

#[test]
fn issuers_delegations_and_approvals_have_their_bounds() {
    use serde_json::json;
    let rule = |member: &str, value: serde_json::Value| {
        changed(|bundle| bundle["identities"][0]["rules"][0][member] = value).map(|_| ())
    };
    let with = |delegation: serde_json::Value| {
        changed(|bundle| bundle["identities"][0]["delegation"] = delegation)
    };
    let good = json!({"from": ["issuer:corp"], "scopes": ["a"], "resources": ["urn:*"]});
    assert_eq!(
        with(good.clone()).unwrap().identities[0]
            .delegation
            .as_ref()
            .unwrap()
            .depth(),
        5
    );
    for (member, value, fine) in [
        ("max_depth", json!(1), true),
        ("max_depth", json!(5), true),
        ("max_depth", json!(0), false),
        ("max_depth", json!(6), false),
        ("from", json!([]), false),
        ("from", json!(["issuer:Corp"]), false),
        ("from", json!(["corp"]), false),
        ("from", json!(["agent"]), false),
        ("from", json!(["agent:"]), false),
        ("from", json!(["approver:corp"]), false),
        ("from", json!(["agent:nobody"]), false),
        ("from", json!(["issuer:nobody"]), true),
        ("scopes", json!([]), false),
        ("resources", json!([]), false),
        ("max_validity_seconds", json!(0), false),
    ] {
        let mut other = good.clone();
        other[member] = value;
        assert_eq!(with(other.clone()).is_ok(), fine, "{other}");
    }
    let mut three = good;
    three["max_depth"] = json!(3);
    assert_eq!(
        with(three).unwrap().identities[0]
            .delegation
            .as_ref()
            .unwrap()
            .depth(),
        3
    );

    assert!(
        rule("approval", json!({"by": ["alice"], "seconds": 60}))
            .unwrap_err()
            .to_string()
            .contains("no [[approvers]]")
    );
    let approving = |name: &str, key: String, seconds: u32| {
        changed(|bundle| {
            bundle["approvers"] =
                json!([{"name": "bob", "key": self::key(140)}, {"name": name, "key": key}]);
            bundle["identities"][0]["rules"][0]["approval"] =
                json!({"by": ["alice"], "seconds": seconds});
        })
        .map(|_| ())
    };
    let alone = |approver: &str| {
        changed(|bundle| {
            bundle["approvers"] = json!([{"name": approver, "key": key(140)}]);
            bundle["identities"][0]["rules"][0]["approval"] =
                json!({"by": ["alice"], "seconds": 60});
        })
        .is_ok()
    };
    assert!(alone("alice") && !alone("bob"));
    assert_eq!(approving("alice", key(160), 1), Ok(()));
    assert_eq!(approving("alice", key(160), 3600), Ok(()));
    for (name, key, seconds) in [
        ("alice", key(160), 0),
        ("alice", key(160), 3601),
        ("alice", key(140), 60),
        ("bob", key(160), 60),
        ("Alice", key(160), 60),
        ("alice", key(1), 60),
        ("alice", key(60), 60),
    ] {
        assert!(approving(name, key, seconds).is_err(), "{name} {seconds}");
    }
    // The operator may approve, too.
    assert_eq!(approving("alice", key(100), 60), Ok(()));
    assert!(rule("approval", json!({"by": [], "seconds": 60})).is_err());

    let issuer = |name: &str, iss: &str, keys: usize| {
        let keys: Vec<String> = (0..keys)
            .map(|n| format!("\"{}\"", key(u8::try_from(n).unwrap())))
            .collect();
        let text = format!(
            "version = 1\n[[issuers]]\nname = \"corp\"\niss = \"https://a\"\nkeys = [\"{}\"]\n[[issuers]]\nname = \"{name}\"\niss = \"{iss}\"\nkeys = [{}]\n",
            key(1),
            keys.join(",")
        );
        Annex::from_toml(&text).is_ok()
    };
    assert!(
        issuer("other", "https://b", 1)
            && issuer("other", "https://b", 16)
            && issuer("other", "did:web:x.example", 1)
    );
    assert!(
        !issuer("other", "https://b", 0)
            && !issuer("other", "https://b", 17)
            && !issuer("other", "", 1)
    );
    assert!(
        !issuer("corp", "https://b", 1)
            && !issuer("other", "https://a", 1)
            && !issuer("Other", "https://b", 1)
    );
    assert!(!issuer("other", "approver:alice", 1) && !issuer("other", "did:nothing", 1));
}

/// A bundle with a service, and more behind it.
fn with_service(more: &str) -> Result<Bundle, Error> {
    Bundle::from_toml(&format!(
        "{}\n[[services]]\nname = \"api\"\nupstream = \"https://api.example/v1\"\n\
         inject = {{ header = \"authorization\", format = \"Bearer {{}}\" }}\n\
         rules = [{{ name = \"chat\", methods = [\"POST\"], paths = [\"/chat\"], identities = [\"payer\"] }}]\n{more}",
        toml()
    ))
}

fn why<T: std::fmt::Debug>(outcome: Result<T, Error>) -> String {
    outcome.unwrap_err().to_string()
}

#[test]
fn a_service_is_found_by_its_name() {
    let bundle = with_service("").unwrap();
    let (place, service) = bundle.service("api").unwrap();
    assert_eq!((place, service.name.as_str()), (0, "api"));
    assert!(bundle.service("other").is_none());
    assert_eq!(service.rule("chat").map(|rule| &*rule.name), Some("chat"));
    assert!(service.rule("other").is_none());
    // What is left to its default is not said, and what is not is.
    let said = String::from_utf8(bundle.canonical()).unwrap();
    assert!(!said.contains("scrub"), "{said}");
    let mut other = bundle;
    other.services[0].inject.path = Some("/bot{}/x".into());
    assert_eq!(other.services[0].inject.path_parts(), Some(("/bot", "/x")));
}

#[test]
fn a_revoked_credential_is_named_by_identity_service_and_version() {
    let parse = |entry| {
        let revoked = RevokedCredential::parse(entry)?;
        Some((revoked.identity, revoked.service, revoked.last))
    };
    assert_eq!(
        parse("credential:payer/api"),
        Some(("payer", "api", u64::MAX))
    );
    assert_eq!(parse("credential:payer/api@7"), Some(("payer", "api", 7)));
    for other in [
        "payer/api",
        "credential:payer",
        "credential:payer/api@",
        "credential:payer/api@x",
        "credential:payer/api@+7",
        "Credential:payer/api",
    ] {
        assert_eq!(parse(other), None, "{other}");
    }
}

#[test]
fn an_annex_that_revokes_whom_the_bundle_does_not_have_is_refused() {
    let bundle = with_service("").unwrap();
    let check = |entry: &str| {
        let annex = format!("version = 1\nrevoked = [\"{entry}\"]");
        bundle.check_annex(&Annex::from_toml(&annex).unwrap())
    };
    for good in [
        "agent:payer",
        "credential:payer/api",
        "credential:payer/api@3",
        "user:u",
        "urn:uuid:1",
    ] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for bad in [
        "agent:payr",
        "Agent:payer",
        "credential:payr/api",
        "credential:payer/apis",
        "credential:payer/api@x",
        "CREDENTIAL:payer/api",
    ] {
        assert!(
            why(check(bad)).contains("no such identity or service"),
            "{bad}"
        );
    }
}

#[test]
fn a_lease_has_a_key_that_is_not_the_hosts_and_a_length_and_services() {
    let lease =
        |key: &str, seconds: u32| format!("[lease]\nkey = \"{key}\"\nseconds = {seconds}\n");
    for seconds in [10, 86400] {
        assert!(with_service(&lease(&key(120), seconds)).is_ok());
    }
    for seconds in [9, 86401] {
        let refused = why(with_service(&lease(&key(120), seconds)));
        assert!(refused.contains("seconds is 10 to 86400"), "{refused}");
    }
    let refused = why(with_service(&lease(&key(1), 60)));
    assert!(refused.contains("must not be the proxy's"), "{refused}");
    let text = format!("{}\n{}", toml(), lease(&key(120), 60));
    let refused = why(Bundle::from_toml(&text));
    assert!(refused.contains("no [[services]]"), "{refused}");
}

#[test]
fn a_price_is_of_one_service_and_one_model_and_has_its_bounds() {
    let price = |service: &str, model: &str, input: u64, output: u64| {
        format!(
            "[[prices]]\nservice = \"{service}\"\nmodel = \"{model}\"\ninput = {input}\noutput = {output}\n"
        )
    };
    let annex = |prices: &[String]| Annex::from_toml(&format!("version = 1\n{}", prices.concat()));
    let most = 1_000_000_000_000;
    let two = annex(&[
        price("api", "small", 1, most),
        price("api", "large", most, 2),
        price("other", "small", 3, 4),
    ]);
    let two = two.unwrap();
    let cost = |service, model| two.price(service, model).map(|price| price.input);
    assert_eq!(cost("api", "small"), Some(1));
    assert_eq!(cost("api", "large"), Some(most));
    assert_eq!(cost("other", "small"), Some(3));
    assert_eq!(
        (cost("other", "large"), cost("third", "small")),
        (None, None)
    );
    assert!(annex(&[price("api", &"m".repeat(256), 1, 1)]).is_ok());
    for (model, input, output, says) in [
        ("", 1, 1, "1 to 256 characters"),
        (&"m".repeat(257), 1, 1, "1 to 256 characters"),
        ("a\\u0007b", 1, 1, "no control characters"),
        ("m", most + 1, 1, "at most 10^12"),
        ("m", 1, most + 1, "at most 10^12"),
    ] {
        let refused = why(annex(&[price("api", model, input, output)]));
        assert!(refused.contains(says), "{refused}");
    }
    let twice = [price("api", "m", 1, 1), price("api", "m", 2, 2)];
    assert!(why(annex(&twice)).contains("given twice"));
    let places = Form::ALL.map(Form::place);
    assert_eq!(places, [0, 1, 2, 3]);
}

#[test]
fn who_delegates_is_an_agent_or_an_issuer() {
    let of = |text: &str| Delegator::try_from(text.to_owned());
    assert_eq!(of("agent:a"), Ok(Delegator::Agent("a".into())));
    assert_eq!(of("issuer:a"), Ok(Delegator::Issuer("a".into())));
    for bad in ["a", "user:a", "agent:", "agent:A"] {
        assert!(of(bad).is_err(), "{bad}");
    }
}

#[test]
fn an_identity_describes_its_own_did_and_algorithm() {
    use identity::{Algorithm, Did};
    let mut policy = Bundle::from_toml(&toml()).unwrap().identities.remove(0);
    let did = |text: &str| Did::parse(text).unwrap();
    let (own, other) = (
        did("did:web:agent.example.com"),
        did("did:web:other.example"),
    );
    let by_key = did(&format!("did:key:{}", key(60)));
    let describes = |policy: &IdentityPolicy, did: &Did| {
        [Algorithm::EdDSA, Algorithm::ES256].map(|algorithm| policy.describes(did, algorithm))
    };
    assert_eq!(describes(&policy, &own), [true, false]);
    assert_eq!(describes(&policy, &other), [false, false]);
    assert_eq!(describes(&policy, &by_key), [false, false]);
    policy.did = "did:key".into();
    assert_eq!(describes(&policy, &by_key), [true, false]);
    assert_eq!(describes(&policy, &own), [false, false]);
}
