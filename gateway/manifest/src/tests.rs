use serde_json::{Value, json};

use super::*;

fn parse(value: &Value) -> Result<Manifest, Error> {
    Manifest::parse(value.to_string().as_bytes())
}

/// The least that the schema accepts.
fn least(level: &str) -> Value {
    json!({"identity": {"agent_id": "a", "owner": "o"}, "trust_level": level, "protocol_version": "1.0"})
}

fn with(mut value: Value, pointer: &str, member: &str, to: Value) -> Value {
    let object = value.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
    object.insert(member.to_owned(), to);
    value
}

#[test]
fn a_form_is_completed_by_the_other_and_read_alike() {
    let schema = json!({
        "identity": {"agent_id": "booking", "owner": "Acme", "contact": "a@b.example"},
        "trust_level": "trusted",
        "capabilities": {"idempotency": true, "sla_latency_ms": 2000, "sla_availability": 0.995},
        "reversibility": {"level": "partial", "undo_window_seconds": 86400},
        "privacy": {"retention_policy": "ephemeral", "human_in_loop": true, "encryption_at_rest": true},
        "protocol_version": "1.0",
        "x-ours": {"kept": [1, 2.5]},
    });
    let flat = json!({
        "agent_id": "booking",
        "trust_level": "trusted",
        "capabilities": {"idempotency": true, "reversibility": "partial", "undo_window": "24h", "sla_latency": "2000ms"},
        "privacy_contract": {"retention": "ephemeral", "human_review": true},
        "scopes": ["book"],
    });
    let (of_schema, of_flat) = (parse(&schema).unwrap(), parse(&flat).unwrap());
    for manifest in [&of_schema, &of_flat] {
        assert_eq!(manifest.identity.agent_id, "booking");
        assert_eq!(manifest.reversibility.level, Reversible::Partial);
        assert_eq!(manifest.reversibility.undo_window_seconds, Some(86400));
        assert_eq!(manifest.capabilities.sla_latency_ms, Some(2000));
        assert_eq!(manifest.privacy.retention, Retention::Ephemeral);
        assert!(manifest.privacy.human_in_loop && manifest.privacy.encryption_at_rest);
        assert!(manifest.privacy.encryption_in_transit);
        // 7 + 2 + 1 - 2.
        assert_eq!(manifest.trust_score(), 8);
        // Read again, the document that is both is what it was.
        let document = Value::Object(manifest.document().clone());
        assert_eq!(parse(&document).unwrap(), *manifest);
        assert_eq!(document["agent_id"], "booking");
        assert_eq!(document["privacy_contract"]["human_review"], true);
        assert_eq!(document["capabilities"]["reversibility"], "partial");
    }
    assert_eq!(of_schema.document()["x-ours"], schema["x-ours"]);
    assert_eq!(
        of_schema.document()["capabilities"]["undo_window"],
        "86400s"
    );
    assert_eq!(of_flat.document()["scopes"], flat["scopes"]);
    assert_eq!(of_flat.document()["identity"]["owner"], "unknown");
}

#[test]
fn what_is_left_out_is_what_each_form_says_it_is() {
    let schema = parse(&least("standard")).unwrap();
    let flat = parse(&json!({"agent_id": "a"})).unwrap();
    for manifest in [&schema, &flat] {
        assert_eq!(manifest.trust_level, TrustLevel::Standard);
        assert_eq!(manifest.privacy.retention, Retention::Temporary);
        assert_eq!(manifest.reversibility.level, Reversible::None);
        assert!(!manifest.privacy.human_in_loop && !manifest.privacy.training_consent);
        assert!(!manifest.capabilities.idempotency && !manifest.authentication.required);
        assert_eq!(manifest.trust_score(), 5);
    }
    assert!(!schema.privacy.encryption_at_rest);
    assert!(flat.privacy.encryption_at_rest);
    let named = with(
        least("standard"),
        "",
        "privacy",
        json!({"retention": "forever"}),
    );
    assert_eq!(parse(&named).unwrap().privacy.retention, Retention::Forever);
}

/// Every combination, beside the sum of the reference architecture's own algorithm.
#[test]
fn trust_scores_are_those_of_the_reference_architecture_and_of_the_python_profile() {
    for (level, base, python) in [
        ("verified_partner", 10, 3),
        ("trusted", 7, 2),
        ("standard", 5, 0),
        ("unknown", 2, -2),
        ("untrusted", 0, -5),
    ] {
        for (undo, undone) in [("full", 2), ("partial", 2), ("none", 0)] {
            for (kept, seed, of_python) in [
                ("ephemeral", 1, 2),
                ("temporary", 0, 0),
                ("permanent", -1, -2),
                ("forever", -1, -2),
            ] {
                for flags in 0..8 {
                    let (human, training, idempotent) =
                        (flags & 1 > 0, flags & 2 > 0, flags & 4 > 0);
                    let mut manifest = least(level);
                    manifest["reversibility"] = json!({"level": undo});
                    manifest["privacy"] = json!({"retention_policy": kept, "human_in_loop": human, "training_consent": training});
                    manifest["capabilities"] = json!({"idempotency": idempotent});
                    let manifest = parse(&manifest).unwrap();
                    let wanted = base + undone + seed - 2 * i32::from(human) - i32::from(training);
                    assert_eq!(i32::from(manifest.trust_score()), wanted.clamp(0, 10));
                    let wanted = 5
                        + python
                        + of_python
                        + i32::from(undone > 0)
                        + i32::from(idempotent)
                        + i32::from(!human);
                    assert_eq!(
                        i32::from(manifest.python_trust_score()),
                        wanted.clamp(0, 10)
                    );
                }
            }
        }
    }
}

#[test]
fn what_the_schema_does_not_allow_is_refused_with_its_place() {
    let mut cases = Vec::new();
    for (object, member, value) in [
        ("identity", "agent_id", json!("")),
        ("identity", "agent_id", json!("a".repeat(256))),
        ("identity", "contact", json!("nobody")),
        ("identity", "verification_key", json!("rsa:x")),
        ("capabilities", "sla_availability", json!(1.5)),
        ("capabilities", "concurrency_limit", json!(0)),
        ("capabilities", "idempotency", json!("yes")),
        ("reversibility", "level", json!("maybe")),
        ("reversibility", "undo_window_seconds", json!(-1)),
        (
            "reversibility",
            "compensation_notes",
            json!("a".repeat(1001)),
        ),
        ("privacy", "retention_policy", json!("long")),
        ("privacy", "data_processing_addendum", json!("not a uri")),
        ("authentication", "methods", json!(["password"])),
        ("rate_limiting", "burst_limit", json!(0)),
    ] {
        let mut manifest = least("trusted");
        if manifest.get(object).is_none() {
            manifest[object] = json!({});
        }
        cases.push((
            with(manifest, &format!("/{object}"), member, value),
            format!("/{object}/{member}"),
        ));
    }
    cases.push((
        with(least("trusted"), "", "protocol_version", json!("1")),
        "/protocol_version".into(),
    ));
    cases.push((
        with(least("trusted"), "", "updated_at", json!("yesterday")),
        "/updated_at".into(),
    ));
    cases.push((least("best"), "/trust_level".into()));
    cases.push((
        json!({"agent_id": "a", "capabilities": {"undo_window": "soon"}}),
        "/capabilities/undo_window".into(),
    ));
    cases.push((
        json!({"agent_id": "a", "capabilities": {"undo_window": "-1h"}}),
        "/capabilities/undo_window".into(),
    ));
    cases.push((
        json!({"agent_id": "a", "privacy_contract": 1}),
        "/privacy_contract".into(),
    ));
    cases.push((
        json!({"identity": 1, "trust_level": "trusted", "protocol_version": "1.0"}),
        "/identity".into(),
    ));
    for (manifest, wanted) in cases {
        match parse(&manifest) {
            Err(Error::Invalid { place, .. }) => {
                assert!(place.starts_with(&wanted), "{place} {wanted}")
            }
            other => panic!("{manifest}: {other:?}"),
        }
    }
    for (text, wanted) in [
        ("[]", Error::NotAnObject),
        ("{}", Error::NoForm),
        ("{\"trust_level\": \"trusted\"}", Error::NoForm),
    ] {
        assert_eq!(Manifest::parse(text.as_bytes()), Err(wanted));
    }
    for text in ["", "{", "{\"agent_id\": \"a\", \"agent_id\": \"b\"}"] {
        assert!(matches!(
            Manifest::parse(text.as_bytes()),
            Err(Error::NotJson(_))
        ));
    }
}

#[test]
fn two_forms_that_contradict_each_other_are_refused() {
    let both = |schema: Value, flat: Value| {
        let mut manifest = least("trusted");
        for part in [schema, flat] {
            for (name, value) in part.as_object().unwrap().clone() {
                manifest[name] = value;
            }
        }
        parse(&manifest)
    };
    for (schema, flat) in [
        (json!({}), json!({"agent_id": "other"})),
        (
            json!({"privacy": {"retention_policy": "ephemeral"}}),
            json!({"privacy_contract": {"retention": "forever"}}),
        ),
        (
            json!({"privacy": {"retention_policy": "ephemeral", "retention": "forever"}}),
            json!({}),
        ),
        (
            json!({"privacy": {"human_in_loop": true}}),
            json!({"privacy_contract": {"human_review": false}}),
        ),
        (
            json!({"reversibility": {"level": "none"}}),
            json!({"capabilities": {"reversibility": "full"}}),
        ),
        (
            json!({"reversibility": {"level": "full", "undo_window_seconds": 3600}}),
            json!({"capabilities": {"undo_window": "24h"}}),
        ),
    ] {
        let refused = both(schema.clone(), flat.clone());
        assert!(
            matches!(refused, Err(Error::Contradiction(..))),
            "{schema} {flat} {refused:?}"
        );
    }
    let agreed = both(
        json!({"reversibility": {"level": "full", "undo_window_seconds": 3600}}),
        json!({"agent_id": "a", "capabilities": {"undo_window": "60m"}}),
    );
    assert!(agreed.is_ok(), "{agreed:?}");
}

proptest::proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = Manifest::parse(&bytes);
    }
}
