use identity::caller::{ObservedCaller, Proven};
use identity::{Caller, Intent, Payload, UnixSeconds};
use policy::{Annex, Bundle};

use crate::*;

const TOML: &str = r#"
version = 1
mode = "production"
proxy_key = "PROXY"
operator_key = "OPERATOR"
callers = [{ name = "robot", key = "ROBOT" }]
resources = [{ pattern = "https://prod.example/*", environment = "production" }]

[[identities]]
name = "payer"
environment = "staging"
did = "did:web:agent.example.com"
algorithm = "EdDSA"
max_validity_seconds = 3600
callers = { uids = [1000], gids = [2000], names = ["crew"], proven = ["robot"] }
rotation_callers = { uids = [1001] }
limits = [{ per = "hour", max = 6 }]

[[identities.rules]]
name = "small-transfers"
actions = ["transfer"]
targets = ["account_*"]
resources = ["https://bank.example/*"]
audiences = ["https://bank.example"]
max_validity_seconds = 60
payload_closed = true
limits = [{ per = "minute", max = 3 }, { per = "day", max = 250, amount = "/amount" }]

[identities.rules.payload]
"/amount" = { min = 1, max = 100 }
"/currency" = { one_of = ["EUR", "CHF"] }
"/note/text" = { pattern = "re: *" }

[[identities.rules]]
name = "reports"
actions = ["report"]
targets = ["*"]
resources = ["", "https://bank.example/*", "https://bank.example/exact?a=b", "urn:x:*"]

[[identities.rules]]
name = "large"
actions = ["large"]
targets = ["*"]
resources = ["", "https://bank.example/*"]
proven = true
max_validity_seconds = 86400

[[identities.rules]]
name = "handed-on"
actions = ["hand"]
targets = ["*"]
resources = ["https://bank.example/*"]
delegated = true
envelope = true

[[identities.rules]]
name = "grants"
actions = ["grant"]
targets = ["*"]
resources = ["https://bank.example/*"]
delegatees = ["did:web:bob.example"]
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
    TOML.replace("PROXY", &key(1))
        .replace("OPERATOR", &key(100))
        .replace("ROBOT", &key(60))
}

struct Ask {
    action: &'static str,
    target: &'static str,
    resource: &'static str,
    payload: &'static str,
    audience: Option<&'static str>,
    validity: Option<u32>,
    caller: Caller,
    delegated: bool,
    envelope: bool,
    delegatee: Option<&'static str>,
}

fn transfer() -> Ask {
    Ask {
        action: "transfer",
        target: "account_1",
        resource: "https://bank.example/v1",
        payload: "{\"amount\":100,\"currency\":\"EUR\",\"note\":{\"text\":\"re: x\"}}",
        audience: Some("https://bank.example"),
        validity: None,
        caller: unix(1000, 1),
        delegated: false,
        envelope: false,
        delegatee: None,
    }
}

fn unix(uid: u32, gid: u32) -> Caller {
    Caller::Asserted(ObservedCaller::ids(uid, gid))
}

fn robot() -> Caller {
    Caller::Proven(Proven {
        key: String::new(),
        measurement: None,
        name: "robot".into(),
    })
}

fn with<T>(ask: &Ask, decide: impl FnOnce(&Bundle, &PolicyInput<'_>) -> T) -> T {
    let bundle = Bundle::from_toml(&toml()).unwrap();
    let delegatee = ask.delegatee.map(|did| identity::Did::parse(did).unwrap());
    let intent = Intent::new(ask.action.into(), ask.target.into(), ask.resource.into())
        .unwrap()
        .granted_to(delegatee);
    let payload = Payload::parse(ask.payload.as_bytes()).unwrap();
    let asked = PolicyInput {
        intent: &intent,
        payload: &payload,
        audience: ask.audience,
        validity_seconds: ask.validity,
        delegated: ask.delegated,
        envelope: ask.envelope,
    };
    decide(&bundle, &asked)
}

fn decide(ask: &Ask) -> Result<(String, u32), &'static str> {
    with(ask, |bundle, asked| {
        let decision = accept(
            bundle,
            None,
            &bundle.identities[0],
            None,
            &ask.caller,
            asked,
        );
        decision
            .map(|it| (it.rule.name.clone(), it.validity_seconds))
            .map_err(|denied| denied.code())
    })
}

#[test]
fn a_resource_that_might_be_another_one_is_refused_wherever_a_label_a_prefix_or_rego_decides() {
    let at = |resource: &'static str| {
        decide(&Ask {
            action: "report",
            resource,
            ..transfer()
        })
        .map(|(rule, _)| rule)
    };
    assert_eq!(at("https://bank.example/x"), Ok("reports".into()));
    let other = [
        "https://PROD.example/x",
        "https://prod.example:443/x",
        "https://prod.example./x",
        "https://u@prod.example/x",
        "https://prod.example?x",
        "https:prod.example/x",
        " https://prod.example/x",
        "https://bank.example/team-a/../team-b",
        "https://bank.example/%2e%2e/x",
        "https://bank.example/x?y",
        "https://bank.example/exact?a=b",
        "urn:x:a/../b",
        "https://bank.example",
    ];
    for resource in other {
        assert_eq!(at(resource), Err("resource_not_canonical"), "{resource}");
    }
    assert_eq!(at("https://prod.example/x"), Err("environment_mismatch"));
    // Without labels: exactly what a pattern says is that, and whatever a star allows; a prefix
    // decides about nothing unclear.
    let without_labels = |resource: &'static str, resources: &str, rego: bool| {
        let ask = Ask {
            action: "report",
            resource,
            ..transfer()
        };
        let resources = resources.to_owned();
        with(&ask, |bundle, asked| {
            let mut value: serde_json::Value = serde_json::from_slice(&bundle.canonical()).unwrap();
            value.as_object_mut().unwrap().remove("resources");
            value["identities"][0]["rules"][1]["resources"] =
                serde_json::from_str(&resources).unwrap();
            if rego {
                value["rego"] = serde_json::json!({"module": "package a\nallow if true\n", "entrypoint": "data.a"});
            }
            let bundle =
                Bundle::from_canonical(&identity::json::canonical(&value).unwrap()).unwrap();
            let rego = Rego::load(&bundle).unwrap();
            let decision = accept(
                &bundle,
                rego.as_ref(),
                &bundle.identities[0],
                None,
                &ask.caller,
                asked,
            );
            decision.map(|_| ()).map_err(|denied| denied.code())
        })
    };
    for resource in other {
        assert_eq!(
            without_labels(resource, r#"["*"]"#, false),
            Ok(()),
            "{resource}"
        );
        assert_eq!(
            without_labels(resource, r#"["https://*", "urn:*"]"#, false),
            Err("resource_not_canonical"),
            "{resource}"
        );
        assert_eq!(
            without_labels(resource, r#"["*"]"#, true),
            Err("resource_not_canonical"),
            "{resource}"
        );
    }
    let exact = r#"["https://bank.example/exact?a=b", "https://bank.example/*"]"#;
    // Whichever of them stands first.
    let reversed = r#"["https://bank.example/*", "https://bank.example/exact?a=b"]"#;
    for patterns in [exact, reversed] {
        assert_eq!(
            without_labels("https://bank.example/exact?a=b", patterns, false),
            Ok(())
        );
    }
    assert_eq!(
        without_labels("https://bank.example/exact?a=c", exact, false),
        Err("resource_not_canonical")
    );
    assert_eq!(
        without_labels(
            "https://bank.example/exact?a=c",
            r#"["https://bank.example/exact?a=b"]"#,
            false
        ),
        Err("intent_resource_out_of_scope")
    );
}

#[test]
fn every_part_of_a_rule_decides() {
    let allowed = |validity| Ok(("small-transfers".to_owned(), validity));
    assert_eq!(decide(&transfer()), allowed(60));
    assert_eq!(
        decide(&Ask {
            validity: Some(1),
            ..transfer()
        }),
        allowed(1)
    );
    assert_eq!(
        decide(&Ask {
            caller: unix(7, 2000),
            ..transfer()
        }),
        allowed(60)
    );
    assert_eq!(
        decide(&Ask {
            caller: Caller::Asserted(ObservedCaller::named("crew")),
            ..transfer()
        }),
        allowed(60)
    );
    assert_eq!(
        decide(&Ask {
            action: "report",
            target: "",
            resource: "",
            ..transfer()
        }),
        Ok(("reports".to_owned(), 300))
    );
    for envelope in [false, true] {
        assert_eq!(
            decide(&Ask {
                action: "hand",
                delegated: true,
                envelope,
                ..transfer()
            }),
            Ok(("handed-on".to_owned(), 300))
        );
    }
    assert_eq!(
        decide(&Ask {
            action: "grant",
            delegatee: Some("did:web:bob.example"),
            ..transfer()
        }),
        Ok(("grants".to_owned(), 300))
    );

    for (ask, code) in [
        (
            Ask {
                caller: unix(7, 7),
                ..transfer()
            },
            "caller_not_allowed",
        ),
        (
            Ask {
                caller: Caller::Asserted(ObservedCaller::named("other")),
                ..transfer()
            },
            "caller_not_allowed",
        ),
        (
            Ask {
                action: "transfers",
                ..transfer()
            },
            "intent_action_not_in_allowlist",
        ),
        (
            Ask {
                target: "acct",
                ..transfer()
            },
            "intent_target_pattern_violation",
        ),
        (
            Ask {
                resource: "https://bank.example.evil/",
                ..transfer()
            },
            "intent_resource_out_of_scope",
        ),
        (
            Ask {
                payload: "{\"currency\":\"EUR\",\"note\":{\"text\":\"re: x\"}}",
                ..transfer()
            },
            "intent_missing_required_field",
        ),
        (
            Ask {
                payload: "{\"amount\":101,\"currency\":\"EUR\",\"note\":{\"text\":\"re: x\"}}",
                ..transfer()
            },
            "payload_field_out_of_bounds",
        ),
        (
            Ask {
                payload: "{\"amount\":0,\"currency\":\"EUR\",\"note\":{\"text\":\"re: x\"}}",
                ..transfer()
            },
            "payload_field_out_of_bounds",
        ),
        (
            Ask {
                payload: "{\"amount\":\"1\",\"currency\":\"EUR\",\"note\":{\"text\":\"re: x\"}}",
                ..transfer()
            },
            "payload_field_out_of_bounds",
        ),
        (
            Ask {
                payload: "{\"amount\":1,\"currency\":\"USD\",\"note\":{\"text\":\"re: x\"}}",
                ..transfer()
            },
            "payload_field_out_of_bounds",
        ),
        (
            Ask {
                payload: "{\"amount\":1,\"currency\":\"EUR\",\"note\":{\"text\":\"x\"}}",
                ..transfer()
            },
            "payload_field_out_of_bounds",
        ),
        (
            Ask {
                payload: "{\"amount\":1,\"currency\":\"EUR\",\"note\":{\"text\":\"re: x\"},\"to\":1}",
                ..transfer()
            },
            "payload_field_out_of_bounds",
        ),
        (
            Ask {
                audience: None,
                ..transfer()
            },
            "audience_not_allowed",
        ),
        (
            Ask {
                audience: Some("https://bank.example/"),
                ..transfer()
            },
            "audience_not_allowed",
        ),
        (
            Ask {
                validity: Some(61),
                ..transfer()
            },
            "validity_exceeds_policy",
        ),
        (
            Ask {
                action: "report",
                validity: Some(3601),
                ..transfer()
            },
            "validity_exceeds_policy",
        ),
        (
            Ask {
                action: "report",
                resource: "https://prod.example/x",
                ..transfer()
            },
            "environment_mismatch",
        ),
        (
            Ask {
                action: "large",
                ..transfer()
            },
            "caller_not_proven",
        ),
        // A rule makes nothing valid for longer than its identity may.
        (
            Ask {
                action: "large",
                caller: robot(),
                validity: Some(3601),
                ..transfer()
            },
            "validity_exceeds_policy",
        ),
        (
            Ask {
                action: "hand",
                ..transfer()
            },
            "not_delegated",
        ),
        (
            Ask {
                action: "report",
                envelope: true,
                ..transfer()
            },
            "envelope_not_allowed",
        ),
        (
            Ask {
                action: "report",
                delegatee: Some("did:web:bob.example"),
                ..transfer()
            },
            "delegatee_not_allowed",
        ),
        (
            Ask {
                action: "grant",
                ..transfer()
            },
            "delegatee_not_allowed",
        ),
        (
            Ask {
                action: "grant",
                delegatee: Some("did:web:bob.example.org"),
                ..transfer()
            },
            "delegatee_not_allowed",
        ),
    ] {
        assert_eq!(decide(&ask), Err(code));
    }
}

#[test]
fn a_proven_caller_is_one_that_the_identity_names() {
    assert_eq!(
        decide(&Ask {
            action: "large",
            caller: robot(),
            ..transfer()
        }),
        Ok(("large".to_owned(), 300))
    );
    let other = Caller::Proven(Proven {
        key: String::new(),
        measurement: None,
        name: "other".into(),
    });
    assert_eq!(
        decide(&Ask {
            action: "large",
            caller: other,
            ..transfer()
        }),
        Err("caller_not_allowed")
    );
    // What the parent only asserts is no proof, whatever name it gives.
    let asserted = Caller::Asserted(ObservedCaller::named("robot"));
    assert_eq!(
        decide(&Ask {
            action: "large",
            caller: asserted,
            ..transfer()
        }),
        Err("caller_not_allowed")
    );
}

#[test]
fn rotation_has_a_permission_of_its_own() {
    let bundle = Bundle::from_toml(&toml()).unwrap();
    assert!(may_rotate(&bundle.identities[0], None, &unix(1001, 1)));
    assert!(!may_rotate(&bundle.identities[0], None, &unix(1000, 1)));
    let without =
        Bundle::from_toml(&toml().replace("rotation_callers = { uids = [1001] }", "")).unwrap();
    assert!(!may_rotate(&without.identities[0], None, &unix(1001, 1)));
}

#[test]
fn the_annex_says_what_the_parent_must_have_seen_of_a_name() {
    let executable = "aa".repeat(32);
    let annex = format!(
        "version = 1\n[[callers]]\nname = \"crew\"\nuid = 7\nunit = \"crew.service\"\nexecutables = [\"{executable}\"]\n\
         [[callers]]\nname = \"crew\"\npod = \"p\"\ncontainer = \"c\"\nlabel = \"l\"\nsocket = \"s\"\ngid = 8\n\
         [[callers]]\nname = \"others\"\nuid = 9\n"
    );
    let annex = Annex::from_toml(&annex).unwrap();
    let bundle = Bundle::from_toml(&toml()).unwrap();
    let admitted = |seen: &ObservedCaller| {
        admits(
            &bundle.identities[0],
            Some(&annex),
            &Caller::Asserted(seen.clone()),
        )
    };
    let exact = ObservedCaller {
        unit: Some("crew.service".into()),
        executable: Some(identity::Digest([0xaa; 32])),
        ..ObservedCaller::ids(7, 7)
    };
    assert!(admitted(&exact));
    assert!(!admits(
        &bundle.identities[0],
        None,
        &Caller::Asserted(exact.clone())
    ));
    let in_pod = ObservedCaller {
        pod: Some("p".into()),
        container: Some("c".into()),
        label: Some("l".into()),
        socket: Some("s".into()),
        ..ObservedCaller::ids(1, 8)
    };
    assert!(admitted(&in_pod));
    for seen in [
        ObservedCaller {
            uid: Some(8),
            ..exact.clone()
        },
        ObservedCaller {
            uid: None,
            ..exact.clone()
        },
        ObservedCaller {
            unit: None,
            ..exact.clone()
        },
        ObservedCaller {
            unit: Some("crew.service2".into()),
            ..exact.clone()
        },
        ObservedCaller {
            executable: None,
            ..exact.clone()
        },
        ObservedCaller {
            executable: Some(identity::Digest([0xab; 32])),
            ..exact
        },
        ObservedCaller {
            pod: None,
            ..in_pod.clone()
        },
        ObservedCaller {
            container: None,
            ..in_pod.clone()
        },
        ObservedCaller {
            label: None,
            ..in_pod.clone()
        },
        ObservedCaller {
            socket: None,
            ..in_pod.clone()
        },
        ObservedCaller {
            gid: Some(7),
            ..in_pod
        },
        ObservedCaller::ids(9, 9),
    ] {
        assert!(!admitted(&seen), "{seen:?}");
    }
}

/// What comes of requests for so much at these seconds.
fn used(asks: &[(i64, Ask)]) -> Vec<Result<(), (&'static str, Option<u32>)>> {
    let mut usage = Usage::default();
    let take = |(now, ask): &(i64, Ask)| {
        with(ask, |bundle, asked| {
            let policy = &bundle.identities[0];
            let accepted = accept(bundle, None, policy, None, &ask.caller, asked).unwrap();
            let reserved = usage.reserve(UnixSeconds(*now), policy, accepted.rule, asked.payload);
            reserved
                .map(|reserved| usage.settle(reserved))
                .map_err(|denied| (denied.code(), denied.retry_after()))
        })
    };
    asks.iter().map(take).collect()
}

#[test]
fn what_is_released_was_never_used() {
    let bundle = Bundle::from_toml(&toml()).unwrap();
    let policy = &bundle.identities[0];
    let max = policy.limits[0].max;
    let (mut usage, payload) = (Usage::default(), Payload::parse(b"{}").unwrap());
    let reserve =
        |usage: &mut Usage, at| usage.reserve(UnixSeconds(at), policy, &policy.rules[1], &payload);
    let mut held = Vec::new();
    for _ in 0..max {
        held.push(reserve(&mut usage, 7200).unwrap());
    }
    assert!(reserve(&mut usage, 7200).is_err());
    // One comes back, and one more fits; what is settled stays.
    usage.release(held.pop().unwrap());
    let again = reserve(&mut usage, 7200).unwrap();
    assert!(reserve(&mut usage, 7200).is_err());
    usage.settle(again);
    assert!(reserve(&mut usage, 7200).is_err());
    // In a later part of the period it is taken back from where it was counted, and after the
    // period from nowhere.
    assert!(reserve(&mut usage, 7260).is_err());
    usage.release(held.pop().unwrap());
    assert!(reserve(&mut usage, 7260).is_ok());
    assert!(reserve(&mut usage, 7260).is_err());
    for late in held {
        let _ = reserve(&mut usage, 7200 + 3 * 3600);
        usage.release(late);
    }
    let free = (0..=max)
        .filter(|_| reserve(&mut usage, 7200 + 9 * 3600).is_ok())
        .count();
    assert_eq!(free as u64, max);
}

#[test]
fn what_is_left_is_what_could_still_be_reserved_and_looking_takes_nothing() {
    let bundle = Bundle::from_toml(&toml()).unwrap();
    let mut policy = bundle.identities[0].clone();
    let hour = policy::Limit {
        max: 3,
        ..policy.limits[0].clone()
    };
    let amount = policy::Limit {
        max: 10,
        amount: Some("/amount".into()),
        ..hour.clone()
    };
    policy.limits = vec![hour];
    let mut rule = policy.rules[1].clone();
    rule.limits = vec![amount];
    let payload = Payload::parse(b"{\"amount\":4}").unwrap();
    let mut usage = Usage::default();
    let left = |usage: &Usage, at: Option<i64>| {
        let at = at.map(UnixSeconds);
        let own = usage.left(at, None, &policy.limits);
        let of_rule = usage.left(at, Some(&rule.name), &rule.limits);
        own.chain(of_rule).map(|one| one.left).collect::<Vec<_>>()
    };
    assert_eq!(left(&usage, Some(7200)), [3, 10]);
    let reserve = |usage: &mut Usage| usage.reserve(UnixSeconds(7200), &policy, &rule, &payload);
    let first = reserve(&mut usage).unwrap();
    usage.settle(first);
    let second = reserve(&mut usage).unwrap();
    assert_eq!(
        left(&usage, Some(7200)),
        [1, 2],
        "what is reserved is not left"
    );
    assert!(reserve(&mut usage).is_err());
    assert_eq!(left(&usage, Some(7200)), [1, 2], "what was refused is");
    usage.release(second);
    assert_eq!(left(&usage, Some(7200)), [2, 6]);
    // Counted to the strict side, as reserving is; and where no time is known, as it was.
    assert_eq!(left(&usage, Some(7200 + 3600)), [2, 6]);
    assert_eq!(left(&usage, Some(7200 + 3660)), [3, 10]);
    assert_eq!(left(&usage, None), [2, 6]);
    // Another rule, another place: not the same.
    let name = "other".to_owned();
    let other = usage.left(Some(UnixSeconds(7200)), Some(&name), &rule.limits);
    assert_eq!(other.map(|one| one.left).collect::<Vec<_>>(), [10]);
}

#[test]
fn what_is_released_is_released_from_every_limit_and_from_no_other_part() {
    let bundle = Bundle::from_toml(&toml()).unwrap();
    let mut policy = bundle.identities[0].clone();
    let hour = policy.limits[0].clone();
    let mut rule = policy.rules[1].clone();
    policy.limits = vec![policy::Limit {
        max: 1,
        ..hour.clone()
    }];
    rule.limits = vec![policy::Limit { max: 1, ..hour }];
    let (mut usage, payload) = (Usage::default(), Payload::parse(b"{}").unwrap());
    let reserve = |usage: &mut Usage, at| usage.reserve(UnixSeconds(at), &policy, &rule, &payload);
    let held = reserve(&mut usage, 7200).unwrap();
    usage.release(held);
    let held = reserve(&mut usage, 7200).unwrap();
    // Exactly as many parts later as are kept: the place is another part's now.
    let other = reserve(&mut usage, 7200 + 61 * 60).unwrap();
    usage.release(held);
    assert!(reserve(&mut usage, 7200 + 61 * 60).is_err());
    usage.release(other);
    assert!(reserve(&mut usage, 7200 + 61 * 60).is_ok());
}

const SMALL: &str = "{\"amount\":1,\"currency\":\"EUR\",\"note\":{\"text\":\"re: x\"}}";

fn small() -> Ask {
    Ask {
        payload: SMALL,
        ..transfer()
    }
}

fn report() -> Ask {
    Ask {
        action: "report",
        target: "",
        resource: "",
        payload: "{}",
        ..transfer()
    }
}

#[test]
fn a_rate_holds_in_every_minute_however_requests_are_placed() {
    let rate = |retry| Err(("rate_limit_exceeded", Some(retry)));
    assert_eq!(
        used(&[
            (1000, small()),
            (1030, small()),
            (1059, small()),
            (1059, small()),
            (1060, small()),
            (1061, small())
        ]),
        // The first one is forgotten when a minute has passed for certain, whatever fraction of its
        // second it came in.
        [Ok(()), Ok(()), Ok(()), rate(2), rate(1), Ok(())]
    );
    // Time that seems to go back changes nothing.
    assert_eq!(
        used(&[
            (1000, small()),
            (900, small()),
            (1000, small()),
            (900, small())
        ])[3],
        rate(61)
    );
    // After a long silence nothing is left.
    assert_eq!(
        used(&[
            (1000, small()),
            (1000, small()),
            (1000, small()),
            (90_000, small())
        ])[3],
        Ok(())
    );
    assert_eq!(
        used(&[(-5, small()), (-5, small()), (-5, small()), (0, small())])[3],
        rate(56)
    );
}

#[test]
fn a_budget_sums_the_payload_and_is_touched_by_what_is_allowed_only() {
    let budget = |retry| Err(("budget_exceeded", retry));
    let day = 24 * 60 * 60;
    assert_eq!(
        used(&[
            (0, transfer()),
            (100, transfer()),
            (200, transfer()),
            (300, small()),
            (day + 1439, transfer()),
            (day + 1440, transfer())
        ]),
        // 100, 100, not 100, 1; then the first two are of yesterday, to the part of the day.
        [
            Ok(()),
            Ok(()),
            budget(Some(61 * 1440)),
            Ok(()),
            budget(Some(1440)),
            Ok(())
        ]
    );
}

#[test]
fn an_identitys_own_limit_counts_whatever_the_rule() {
    let six: Vec<(i64, Ask)> = (0..7)
        .map(|n| (n * 100, if n % 2 == 0 { small() } else { report() }))
        .collect();
    let results = used(&six);
    assert!(results[..6].iter().all(Result::is_ok));
    assert_eq!(results[6], Err(("rate_limit_exceeded", Some(3060))));
}

#[test]
fn an_amount_must_be_there_and_must_be_one() {
    for (payload, good) in [
        ("{\"a\":0}", true),
        ("{\"a\":9}", true),
        ("{\"a\":11}", false),
        ("{}", false),
        ("{\"a\":-1}", false),
        ("{\"a\":\"1\"}", false),
        ("{\"a\":null}", false),
    ] {
        let limited = toml().replace(
            "limits = [{ per = \"hour\", max = 6 }]",
            "limits = [{ per = \"hour\", max = 10, amount = \"/a\" }]",
        );
        let bundle = Bundle::from_toml(&limited).unwrap();
        let policy = &bundle.identities[0];
        let payload_read = Payload::parse(payload.as_bytes()).unwrap();
        let taken =
            Usage::default().reserve(UnixSeconds(0), policy, &policy.rules[1], &payload_read);
        assert_eq!(taken.is_ok(), good, "{payload}");
        if payload == "{\"a\":11}" {
            // More than is ever allowed: there is no use in waiting.
            assert_eq!(taken.unwrap_err().retry_after(), None);
        }
    }
}

/// The policy of the paper that this project begins with, as it stands there.
const SEED: &str = r#"package agent.authz
default allow = false
allow if {
input.agent.role == "reviewer"
input.action == "comment"
input.resource.type == "pull_request"
}
allow if {
input.agent.role == "deployer"
input.action == "deploy"
input.resource.env == "staging"
}
require_approval if {
input.action == "deploy"
input.resource.env == "production"
}
"#;

/// A bundle with this module: a reviewer, and deployers of staging and of production.
fn with_rego(module: &str, approval: bool) -> Bundle {
    let identity = |name: &str, role: &str, environment: &str| {
        format!(
            "[[identities]]\nname = \"{name}\"\nrole = \"{role}\"\nenvironment = \"{environment}\"\ndid = \"did:key\"\nalgorithm = \"EdDSA\"\n\
             max_validity_seconds = 300\ncallers = {{ uids = [1] }}\n[[identities.rules]]\nname = \"any\"\nactions = [\"*\"]\ntargets = [\"*\"]\n\
             resources = [\"*\"]\n"
        )
    };
    let package = module.lines().next().unwrap().replace("package ", "data.");
    let approval = if approval {
        "approval = { by = [\"alice\"], seconds = 60 }\n"
    } else {
        ""
    };
    // Without labels of an environment, rules may reach everywhere; the environment of a resource
    // is Rego's to see.
    let text = format!(
        "version = 1\nmode = \"production\"\nproxy_key = \"{}\"\noperator_key = \"{}\"\n\
         approvers = [{{ name = \"alice\", key = \"{}\" }}]\n\
         resources = [{{ pattern = \"pr:*\", type = \"pull_request\" }}, {{ pattern = \"staging:*\", environment = \"staging\" }}, {{ pattern = \"production:*\", environment = \"production\" }}]\n\
         [rego]\nentrypoint = \"{package}\"\n{approval}module = '''\n{module}'''\n{}{}{}",
        key(1),
        key(100),
        key(140),
        identity("reviewer", "reviewer", "staging"),
        identity("deployer", "deployer", "staging"),
        identity("shipper", "deployer", "production"),
    )
    .replace("resources = [\"*\"]", "resources = [\"pr:*\", \"repo:*\", \"ENV:*\"]");
    let mut parts = text.split("ENV:*").collect::<Vec<_>>().into_iter();
    let first = parts.next().unwrap().to_owned();
    let text = parts
        .zip(["staging:*", "staging:*", "production:*"])
        .fold(first, |text, (part, own)| text + own + part);
    Bundle::from_toml(&text).unwrap()
}

fn asks(
    bundle: &Bundle,
    identity: &str,
    action: &str,
    resource: &str,
    payload: &str,
) -> Result<bool, &'static str> {
    let rego = Rego::load(bundle).unwrap();
    let intent = Intent::new(action.into(), String::new(), resource.into()).unwrap();
    let payload = Payload::parse(payload.as_bytes()).unwrap();
    let asked = PolicyInput {
        intent: &intent,
        payload: &payload,
        audience: None,
        validity_seconds: None,
        delegated: false,
        envelope: false,
    };
    let caller = Caller::Asserted(ObservedCaller::ids(1, 1));
    let accepted = accept(
        bundle,
        rego.as_ref(),
        bundle.identity(identity).unwrap(),
        None,
        &caller,
        &asked,
    );
    accepted
        .map(|accepted| accepted.approval.is_some())
        .map_err(|denied| denied.code())
}

#[test]
fn the_policy_of_the_paper_decides_as_it_says() {
    let bundle = with_rego(SEED, true);
    for (identity, action, resource, expected) in [
        ("reviewer", "comment", "pr:1", Ok(false)),
        ("reviewer", "comment", "repo:1", Err("policy_denied")),
        ("reviewer", "merge", "pr:1", Err("policy_denied")),
        ("deployer", "comment", "pr:1", Err("policy_denied")),
        ("deployer", "deploy", "staging:web", Ok(false)),
        ("reviewer", "deploy", "staging:web", Err("policy_denied")),
        ("shipper", "deploy", "production:web", Ok(true)),
        (
            "deployer",
            "deploy",
            "production:web",
            Err("environment_mismatch"),
        ),
    ] {
        assert_eq!(
            asks(&bundle, identity, action, resource, "{}"),
            expected,
            "{identity} {action} {resource}"
        );
    }
    // Who wants an approval has it, allowed or not.
    let both = with_rego(
        "package a\nallow if true\nrequire_approval if input.resource.env == \"production\"\n",
        true,
    );
    assert_eq!(
        asks(&both, "shipper", "deploy", "production:web", "{}"),
        Ok(true)
    );
    assert_eq!(
        asks(&both, "deployer", "deploy", "staging:web", "{}"),
        Ok(false)
    );
    // An approval that nobody can give is none.
    assert_eq!(
        asks(
            &with_rego(SEED, false),
            "shipper",
            "deploy",
            "production:web",
            "{}"
        ),
        Err("policy_denied")
    );
    // A rule that does not accept is not overruled.
    let narrow = Bundle::from_canonical(
        &String::from_utf8(bundle.canonical())
            .unwrap()
            .replace("pr:*\",\"repo", "pr:2\",\"repo")
            .into_bytes(),
    );
    assert_eq!(
        asks(&narrow.unwrap(), "reviewer", "comment", "pr:1", "{}"),
        Err("intent_resource_out_of_scope")
    );
}

#[test]
fn rego_sees_what_is_asked() {
    let module = r#"package all
allow if {
    input.agent == {"name": "reviewer", "role": "reviewer", "environment": "staging"}
    input.action == "a"
    input.target == ""
    input.resource == {"id": "pr:1", "type": "pull_request"}
    input.payload.n == 7
    input.caller == {"strength": "asserted", "uid": 1, "gid": 1}
    input.delegated == false
    not input.audience
}
"#;
    let bundle = with_rego(module, false);
    assert_eq!(
        asks(&bundle, "reviewer", "a", "pr:1", "{\"n\":7}"),
        Ok(false)
    );
    assert_eq!(
        asks(&bundle, "reviewer", "a", "pr:1", "{\"n\":8}"),
        Err("policy_denied")
    );
}

/// Every member that there can be, and every kind of value.
#[test]
fn rego_sees_the_input_as_json_would_say_it_and_up_to_eight_kibibytes() {
    let payload = r#"{"list":[null,true,-9007199254740991,9007199254740991,0,"\u00e9\u0000\"",{"a":{}},[]],"input":{"x":1}}"#;
    let did = "did:web:agent.example.com";
    let module = format!(
        r#"package all
allow if {{
    input == {{
        "agent": {{"name": "reviewer", "role": "reviewer", "environment": "staging"}},
        "action": "a", "target": "t", "resource": {{"id": "pr:1", "type": "pull_request"}},
        "payload": {payload},
        "caller": {{"strength": "proven", "key": "k", "name": "robot"}},
        "delegated": true, "envelope": true, "delegatee": "{did}", "audience": "b", "validity_seconds": 7
    }}
}}
"#
    );
    let bundle = with_rego(&module, false);
    let rego = Rego::load(&bundle).unwrap().unwrap();
    let intent = Intent::new("a".into(), "t".into(), "pr:1".into()).unwrap();
    let intent = intent.granted_to(Some(identity::Did::parse(did).unwrap()));
    let caller = Caller::Proven(Proven {
        key: "k".into(),
        measurement: None,
        name: "robot".into(),
    });
    for (payload, delegated, allowed) in [
        (payload.to_owned(), true, true),
        (payload.to_owned(), false, false),
        (
            payload.replace("9007199254740991,0", "9007199254740990,0"),
            true,
            false,
        ),
        (payload.replace("{\"a\":{}}", "{\"a\":[]}"), true, false),
    ] {
        let payload = Payload::parse(payload.as_bytes()).unwrap();
        let asked = PolicyInput {
            intent: &intent,
            payload: &payload,
            audience: Some("b"),
            validity_seconds: Some(7),
            delegated,
            envelope: true,
        };
        let identity = bundle.identity("reviewer").unwrap();
        let decided = rego.decide(&bundle, identity, &caller, &asked);
        assert_eq!(decided.is_ok(), allowed, "{payload:?}");
    }
    let bundle = with_rego("package all\nallow if true\n", false);
    let json = r#"{"agent":{"name":"reviewer","environment":"staging","role":"reviewer"},"action":"a","target":"","resource":{"id":"pr:1","type":"pull_request"},"payload":{"x":""},"caller":{"strength":"asserted","uid":1,"gid":1},"delegated":false,"envelope":false}"#;
    for (length, expected) in [(8192, Ok(false)), (8193, Err("policy_input_too_large"))] {
        let payload = format!("{{\"x\":\"{}\"}}", "y".repeat(length - json.len()));
        let decided = asks(&bundle, "reviewer", "a", "pr:1", &payload);
        assert_eq!(decided, expected, "{length}");
    }
}

#[test]
fn rego_has_ten_milliseconds_and_eight_kibibytes_to_read() {
    // Work without end in sight, only if the payload asks for it.
    let slow = r#"package slow
default allow = false
xs := [x | x := input.payload.xs[_]]
allow if { count({[a, b, c, d] | a := xs[_]; b := xs[_]; c := xs[_]; d := xs[_]; a * b * c * d == 7}) == 7 }
"#;
    let many: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let bundle = with_rego(slow, false);
    assert_eq!(
        asks(&bundle, "reviewer", "a", "pr:1", "{\"xs\":[1]}"),
        Err("policy_denied")
    );
    assert_eq!(
        asks(
            &bundle,
            "reviewer",
            "a",
            "pr:1",
            &format!("{{\"xs\":[{}]}}", many.join(","))
        ),
        Err("policy_timeout")
    );
    // And goes on afterwards.
    assert_eq!(
        asks(&bundle, "reviewer", "a", "pr:1", "{}"),
        Err("policy_denied")
    );
    let long = format!("{{\"x\":\"{}\"}}", "y".repeat(8 * 1024));
    assert_eq!(
        asks(&bundle, "reviewer", "a", "pr:1", &long),
        Err("policy_input_too_large")
    );
}

#[test]
fn a_module_that_is_none_or_could_not_be_held_is_refused_when_it_is_loaded() {
    for (module, says) in [
        ("package a\nallow {", "`if` keyword is required"),
        ("package a\nallow if {", "rego"),
        ("package a\nallow if { x }\n", "x"),
        ("package a\nallow if { http.send({}) }\n", "http"),
        ("package a\nallow if { time.now_ns() > 1 }\n", "time"),
        (
            "package a\nallow if { count(numbers.range(1, 1000000000)) > 1 }\n",
            "line 2: the builtins of \"numbers\"",
        ),
        ("package a\nallow if { rand.intn(\"x\", 2) == 1 }\n", "rand"),
        ("package a\nallow if { numbers [ \"range\" ] }\n", "numbers"),
        (
            "package a\nf(n) := 0 if n == 0\nf(n) := f(n - 1) + 1 if n > 0\nallow if f(input.n) > 0\n",
            "function f would call",
        ),
        (
            "package a\nf(n) := data.a.f(n - 1)\nallow if true\n",
            "function f would call",
        ),
        (
            "package a\nf(n) := data.a[\"f\"](n - 1)\nallow if true\n",
            "",
        ),
        (
            "package a\nf(n) := g(n)\ng(n) := h.i(n)\nh.i(n) := x if { x := [y | y := f(n)] }\nallow if true\n",
            "would call",
        ),
        (
            "package a\nf(n) := 1\ng(n) := f(n)\nallow if { f(1) with f as g }\n",
            "stands under",
        ),
        (
            "package a\nf(n) := 1 if false else := f(n)\nallow if true\n",
            "function f would call",
        ),
        ("package a\nf(f(1)) := 1\nallow if true\n", ""),
        (
            "package a\nallow contains \"x\" if true\n",
            "neither true nor false",
        ),
        (
            "package a\nallow if true\nrequire_approval contains x if { x := input.payload.reasons[_] }\n",
            "neither true nor false",
        ),
        ("package a\nallow := \"yes\"\n", "neither true nor false"),
        (
            "package a\nallow if { data.a.deny }\ndeny if { data.a.allow }\n",
            "recurs",
        ),
    ] {
        let error = Rego::load(&with_rego(module, false))
            .expect_err(module)
            .to_string();
        assert!(
            error.to_lowercase().contains(says) && !error.contains('\n'),
            "{module}: {error}"
        );
    }
    let other = with_rego("package a.b\nallow if true\n", false);
    let text = String::from_utf8(other.canonical())
        .unwrap()
        .replace("data.a.b", "data.a.c");
    let error = Rego::load(&Bundle::from_canonical(text.as_bytes()).unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("the module is of data.a.b"),
        "{error}"
    );
    // Functions that call others, and texts like their names, are good.
    let calls = "package a\nf(n) := g(n) if n == \"f\"\ng(n) := n\nr := f(1)\nallow if { f(input.action) == g(\"f\") }\n";
    assert!(Rego::load(&with_rego(calls, false)).is_ok());
    assert_eq!(
        asks(&with_rego(calls, false), "reviewer", "f", "pr:1", "{}"),
        Ok(false)
    );
    // Nothing hides a word.
    for module in [
        "package a\nx := \"\\\"\"\nallow if { count(numbers.range(1, 2)) > 1 }\n",
        "package a\n# https://x/#a \"\nallow if sprintf(\"%d\", [1]) == \"1\"\n",
    ] {
        assert!(
            Rego::load(&with_rego(module, false))
                .unwrap_err()
                .to_string()
                .contains("not to be had")
        );
    }
    assert!(
        Rego::load(&Bundle::from_toml(&toml()).unwrap())
            .unwrap()
            .is_none()
    );
}

#[test]
fn an_import_that_regorus_would_write_about_is_refused_with_its_word_and_line() {
    for (module, line) in [
        (
            "package a\nimport input\nallow if input.action == \"a\"\n",
            2,
        ),
        (
            "package a\n\n# why\nimport   input # not\nallow if true\n",
            4,
        ),
        (
            "package a\nimport rego.v1\nimport data.b\nimport\ninput\nallow if true\n",
            5,
        ),
        (
            "package a\nimport input.action\nimport input\nallow if true\n",
            3,
        ),
    ] {
        let error = Rego::load(&with_rego(module, false)).expect_err(module);
        assert_eq!(
            error,
            RegoError::RefusedImport {
                word: "input",
                line
            },
            "{module}"
        );
        let says = error.to_string();
        assert!(
            says.starts_with(&format!("rego: line {line}: `import input`")),
            "{says}"
        );
    }
    // Imports of a part, or under another name, say something.
    for module in [
        "package a\nimport input.action\nallow if action == \"a\"\n",
        "package a\nimport input as i\nallow if i.action == \"a\"\n",
        "package a\nimport rego.v1\nallow if input.action == \"a\"\n",
    ] {
        let bundle = with_rego(module, false);
        assert_eq!(
            asks(&bundle, "reviewer", "a", "pr:1", "{}"),
            Ok(false),
            "{module}"
        );
        assert_eq!(
            asks(&bundle, "reviewer", "b", "pr:1", "{}"),
            Err("policy_denied"),
            "{module}"
        );
    }
}

#[test]
fn several_decisions_at_once_do_not_disturb_each_other() {
    let bundle = with_rego(SEED, false);
    let rego = Rego::load(&bundle).unwrap().unwrap();
    let decided = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (bundle, rego, decided) = (&bundle, &rego, &decided);
            scope.spawn(move || {
                for n in 0..200 {
                    let action = if (thread + n) % 2 == 0 {
                        "comment"
                    } else {
                        "merge"
                    };
                    let intent = Intent::new(action.into(), String::new(), "pr:1".into()).unwrap();
                    let payload = Payload::default();
                    let asked = PolicyInput {
                        intent: &intent,
                        payload: &payload,
                        audience: None,
                        validity_seconds: None,
                        delegated: false,
                        envelope: false,
                    };
                    let caller = Caller::Asserted(ObservedCaller::ids(1, 1));
                    let accepted = accept(
                        bundle,
                        Some(rego),
                        &bundle.identities[0],
                        None,
                        &caller,
                        &asked,
                    );
                    match accepted {
                        // On a busy machine ten milliseconds can pass.
                        Err(Denied::PolicyTimeout(_)) => {}
                        accepted => {
                            assert_eq!(accepted.is_ok(), action == "comment");
                            decided.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    assert!(decided.into_inner() > 800);
}

#[test]
fn rego_sees_an_exchange_where_the_bundle_says_so() {
    use serde_json::json;
    let own = r#"{"action": "act", "target": "", "payload": {}, "delegated": true, "envelope": false, "validity_seconds": 60,
        "agent": {"name": "payer", "environment": "staging"}, "resource": {"id": "https://bank.example/a", "env": "staging"},
        "caller": {"strength": "asserted", "gid": 1, "uid": 1000},
        "exchange": {"from": "issuer:corp", "issuer": "https://idp.example", "subject": "user:a", "actors": ["agent:x", "y"], "scope": ["read", "comment"]}"#;
    let decide = |module: &str, exchanges: bool, audience: Option<&str>, resource: &str| {
        let mut value: serde_json::Value =
            serde_json::from_slice(&Bundle::from_toml(&toml()).unwrap().canonical()).unwrap();
        value["rego"] = json!({"module": format!("package a\n{module}\n"), "entrypoint": "data.a", "exchanges": exchanges});
        if !exchanges {
            value["rego"].as_object_mut().unwrap().remove("exchanges");
        }
        value["resources"] =
            json!([{"pattern": "https://bank.example/*", "environment": "staging"}]);
        value["identities"][0]["delegation"] = json!({
            "from": ["issuer:corp"], "scopes": ["*"], "resources": ["https://bank.example/*"], "audiences": ["https://tools.example"]
        });
        let bundle = Bundle::from_canonical(&identity::json::canonical(&value).unwrap()).unwrap();
        let rego = Rego::load(&bundle).unwrap();
        let policy = &bundle.identities[0];
        let delegation = policy.delegation.as_ref().unwrap();
        let asked = ExchangeInput {
            from: &delegation.from[0],
            issuer: "https://idp.example",
            subject: "user:a",
            actors: &["agent:x".into(), "y".into()],
            scope: &["read".into(), "comment".into()],
            resource,
            audience,
            audience_is_ours: false,
            validity_seconds: 60,
        };
        accept_exchange(
            &bundle,
            rego.as_ref(),
            policy,
            delegation,
            &unix(1000, 1),
            &asked,
        )
        .map_err(|denied| denied.code())
    };
    let at = "https://bank.example/a";
    // The whole of it, with and without an audience.
    let exactly = |more: &str| format!("allow if input == {own}{more}}}");
    assert_eq!(decide(&exactly(""), true, None, at), Ok(()));
    assert_eq!(
        decide(
            &exactly(r#", "audience": "https://tools.example""#),
            true,
            Some("https://tools.example"),
            at
        ),
        Ok(())
    );
    assert_eq!(
        decide(&exactly(""), true, Some("https://tools.example"), at),
        Err("policy_denied")
    );
    // It is asked where the bundle says so and nowhere else, after the rest; nobody approves an
    // exchange.
    assert_eq!(
        decide("allow if false", true, None, at),
        Err("policy_denied")
    );
    assert_eq!(decide("allow if false", false, None, at), Ok(()));
    assert_eq!(
        decide(
            "allow if true\nrequire_approval if input.exchange",
            true,
            None,
            at
        ),
        Err("policy_denied")
    );
    assert_eq!(
        decide("allow if true", true, Some("https://other.example"), at),
        Err("audience_not_allowed")
    );
    assert_eq!(
        decide("allow if true", true, None, "https://bank.example/a/../b"),
        Err("resource_not_canonical")
    );
    assert_eq!(
        decide("allow if true", true, None, "https://other.example/"),
        Err("target_not_allowed")
    );
}

#[test]
fn a_refusal_of_the_payload_says_what_every_rule_that_got_as_far_wants_and_of_a_budget_what_is_left()
 {
    let mut bundle = Bundle::from_toml(&toml()).unwrap();
    let mut policy = bundle.identities.remove(0);
    let first = policy.rules[0].clone();
    let with_amount = |name: &str, min: i64, max: i64| {
        let mut rule = first.clone();
        name.clone_into(&mut rule.name);
        let amount = policy::Constraint {
            min: Some(min),
            max: Some(max),
            ..policy::Constraint::default()
        };
        rule.payload = [("/amount".to_owned(), amount)].into();
        rule.payload_closed = false;
        rule.limits.clear();
        rule
    };
    policy.rules = vec![
        with_amount("small", 1, 100),
        with_amount("large", 101, 5000),
    ];
    let refused = |payload: &'static str| {
        let ask = Ask {
            payload,
            ..transfer()
        };
        with(&ask, |bundle, asked| {
            accept(bundle, None, &policy, None, &ask.caller, asked)
                .map(|accepted| accepted.rule.name.clone())
                .map_err(|denied| denied.to_string())
        })
    };
    assert_eq!(refused("{\"amount\":500}").as_deref(), Ok("large"));
    assert_eq!(
        refused("{\"amount\":9000}").unwrap_err(),
        "rule small wants an integer from 1 to 100, or rule large an integer from 101 to 5000, at /amount; \
         the payload has an integer outside of that"
    );
    // What got further speaks alone.
    policy.rules[1].proven = true;
    let only = with(&transfer(), |bundle, asked| {
        let asked = PolicyInput {
            payload: &Payload::parse(b"{\"amount\":500}").unwrap(),
            ..*asked
        };
        accept(bundle, None, &policy, None, &transfer().caller, &asked).unwrap_err()
    });
    assert_eq!(only.code(), "caller_not_proven");

    let budget = policy::Limit {
        per: policy::Period::Day,
        max: 1000,
        amount: Some("/amount".into()),
    };
    policy.limits = vec![budget];
    let mut usage = Usage::default();
    let mut reserve = |payload: &[u8]| {
        let payload = Payload::parse(payload).unwrap();
        usage.reserve(UnixSeconds(0), &policy, &policy.rules[0], &payload)
    };
    let taken = reserve(b"{\"amount\":700}").unwrap();
    let says = reserve(b"{\"amount\":301}").unwrap_err().to_string();
    assert_eq!(
        says,
        "the identity allows a sum of 1000 over /amount in a day; 300 of it are left, and 301 were asked for"
    );
    drop(taken);
}
