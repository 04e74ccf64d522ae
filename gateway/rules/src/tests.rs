use super::*;

fn agent(level: &str, retention: &str) -> Manifest {
    let text = format!(
        r#"{{"agent_id": "a", "trust_level": "{level}", "privacy_contract": {{"retention": "{retention}"}}}}"#
    );
    Manifest::parse(text.as_bytes()).unwrap()
}

fn rule(name: &str, condition: &str, action: Action) -> RuleText {
    RuleText {
        name: name.into(),
        condition: condition.into(),
        action,
    }
}

fn kinds(of: &[Kind]) -> Kinds {
    of.iter().copied().collect()
}

/// The two rules of the reference architecture, as they are written there.
#[test]
fn the_rules_of_the_reference_architecture_work_as_written() {
    let texts = [
        rule(
            "credit_card_to_untrusted",
            "has_credit_card && trust_level == 'untrusted'",
            Action::Block,
        ),
        rule(
            "ssn_to_permanent",
            "has_ssn && retention == 'permanent'",
            Action::Block,
        ),
    ];
    for level in ["untrusted", "unknown", "trusted"] {
        for retention in ["ephemeral", "permanent"] {
            let rules = Rules::compile(&texts, &agent(level, retention)).unwrap();
            let card = rules.decide(kinds(&[Kind::CreditCard]), "POST", "/");
            let ssn = rules.decide(kinds(&[Kind::Ssn, Kind::Email]), "POST", "/");
            let blocks = |rule, holds| {
                if holds {
                    Decision::Block { rule }
                } else {
                    Decision::Allow
                }
            };
            assert_eq!(
                card,
                blocks("credit_card_to_untrusted", level == "untrusted")
            );
            assert_eq!(ssn, blocks("ssn_to_permanent", retention == "permanent"));
            assert_eq!(rules.decide(Kinds::default(), "POST", "/"), Decision::Allow);
        }
    }
}

/// What is decided beforehand is what each condition says.
#[test]
fn every_set_of_kinds_has_its_own_decision() {
    let manifest = agent("trusted", "ephemeral");
    for kind in Kind::ALL {
        let rules = Rules::compile(&[rule("r", kind.fact(), Action::Block)], &manifest).unwrap();
        assert!(rules.known.is_some());
        for set in all_kinds() {
            let is_blocked = rules.decide(set, "", "") != Decision::Allow;
            assert_eq!(is_blocked, set.contains(kind), "{set:?}");
        }
    }
}

#[test]
fn a_block_counts_before_a_warning_and_the_first_of_each() {
    let manifest = agent("trusted", "ephemeral");
    let rules = Rules::compile(
        &[
            rule("w1", "has_email", Action::Warn),
            rule("w2", "has_email || has_phone", Action::Warn),
            rule("b1", "has_phone && has_email", Action::Block),
            rule(
                "b2",
                "has_phone && path.startsWith('/admin')",
                Action::Block,
            ),
            rule(
                "b3",
                "method == 'DELETE' && trust_score < 10",
                Action::Block,
            ),
        ],
        &manifest,
    )
    .unwrap();
    assert!(rules.known.is_none());
    for (of, method, path, wanted) in [
        (
            &[Kind::Email][..],
            "POST",
            "/",
            Decision::Warn { rule: "w1" },
        ),
        (&[Kind::Phone], "POST", "/", Decision::Warn { rule: "w2" }),
        (
            &[Kind::Phone, Kind::Email],
            "POST",
            "/",
            Decision::Block { rule: "b1" },
        ),
        (
            &[Kind::Phone],
            "POST",
            "/admin/x",
            Decision::Block { rule: "b2" },
        ),
        (&[], "DELETE", "/", Decision::Block { rule: "b3" }),
        (&[], "POST", "/admin", Decision::Allow),
    ] {
        assert_eq!(
            rules.decide(kinds(of), method, path),
            wanted,
            "{of:?} {method} {path}"
        );
    }
}

#[test]
fn what_is_no_condition_is_refused_when_it_is_loaded() {
    let manifest = agent("trusted", "ephemeral");
    let refused = |condition: &str| {
        Rules::compile(&[rule("r", condition, Action::Block)], &manifest).unwrap_err()
    };
    for bad in ["", "has_ssn &&", "has_ssn = true", "'", "\u{0}"] {
        assert!(matches!(refused(bad), Error::NotCel { .. }), "{bad}");
    }
    for (bad, named) in [("has_card", "has_card"), ("request.path == '/'", "request")] {
        match refused(bad) {
            Error::UnknownFact { name, .. } => assert_eq!(name, named),
            other => panic!("{bad}: {other}"),
        }
    }
    for bad in [
        "trust_score",
        "'untrusted'",
        "has_ssn + 1",
        "nothing(has_ssn)",
        "trust_level < 3",
    ] {
        assert!(
            matches!(refused(bad), Error::NotBoolean { .. }),
            "{bad}: {}",
            refused(bad)
        );
    }
    for bad in [
        "(".repeat(17),
        "!".repeat(200),
        format!("path == '{}'", "a".repeat(1024)),
    ] {
        assert!(matches!(refused(&bad), Error::TooLarge { .. }), "{bad}");
    }
    let twice = [
        rule("r", "has_ssn", Action::Block),
        rule("r", "has_iban", Action::Block),
    ];
    assert!(matches!(
        Rules::compile(&twice, &manifest),
        Err(Error::Duplicate { .. })
    ));
}

/// The condition is a Boolean for the facts with which it was tried, and fails for others.
#[test]
fn a_condition_that_fails_blocks() {
    let manifest = agent("trusted", "ephemeral");
    let condition = "has_ssn && 1 / (trust_score - trust_score) > 0";
    for action in [Action::Warn, Action::Mask] {
        let rules = Rules::compile(&[rule("r", condition, action)], &manifest).unwrap();
        assert_eq!(rules.decide(Kinds::default(), "", ""), Decision::Allow);
        let decided = rules.decide(kinds(&[Kind::Ssn]), "", "");
        assert_eq!(decided, Decision::Block { rule: "r" });
    }
}

#[test]
fn facts_are_listed_once_each() {
    let mut listed: Vec<&str> = Kind::ALL.map(Kind::fact).to_vec();
    listed.extend(OF_MANIFEST);
    listed.extend(OF_REQUEST);
    assert_eq!(listed, FACTS);
}

/// A rule that masks is asked for each kind by itself; one that cannot be evaluated blocks.
#[test]
fn what_is_masked_is_said_for_each_kind() {
    let manifest = agent("trusted", "ephemeral");
    let rules = [
        rule("m1", "has_email && path.startsWith('/a')", Action::Mask),
        rule("m2", "has_phone || has_ssn && has_iban", Action::Mask),
        rule("b", "has_api_key", Action::Block),
    ];
    let rules = Rules::compile(&rules, &manifest).unwrap();
    for set in all_kinds() {
        for (path, masks) in [
            ("/a", &[Kind::Email, Kind::Phone][..]),
            ("/b", &[Kind::Phone]),
        ] {
            let masked = rules.masked(set, "GET", path);
            let masked = masked.map_or(Kinds::default(), |masked| masked.kinds);
            assert_eq!(masked, set.intersection(kinds(masks)));
        }
        let is_blocked = rules.decide(set, "GET", "/a") != Decision::Allow;
        assert_eq!(is_blocked, set.contains(Kind::ApiKey), "{set:?}");
    }
    let watched = kinds(&[
        Kind::Email,
        Kind::Phone,
        Kind::Ssn,
        Kind::Iban,
        Kind::ApiKey,
    ]);
    assert_eq!(rules.watched(), watched);
    let rules = [rule("any", "trust_level == 'trusted'", Action::Mask)];
    let rules = Rules::compile(&rules, &manifest).unwrap();
    assert_eq!(rules.watched(), kinds(&Kind::ALL));
}
