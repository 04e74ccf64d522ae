//! Functions of a Rego module that call themselves.
//!
//! OPA refuses such modules, and so must a program that runs them with a stack of two megabytes: the depth
//! could be the caller's to choose.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Says which function would call itself, by whatever way; `None` if none does. `ast` is that of
/// regorus, as JSON. Whatever names a function counts as a call of it.
pub(crate) fn recursive(ast: &Value) -> Option<String> {
    let rules = || {
        ast.as_array()
            .into_iter()
            .flatten()
            .flat_map(|module| module["ast"]["rules"].as_array())
            .flatten()
    };
    let functions: BTreeSet<&str> = rules()
        .filter_map(|rule| last_name(&rule["Spec"]["head"]["Func"]["refr"]))
        .collect();
    let mut calls: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for rule in rules() {
        let (spec, head) = (&rule["Spec"], &rule["Spec"]["head"]["Func"]);
        let mut named = BTreeSet::new();
        let mut replaced = BTreeSet::new();
        for part in [&head["args"], &head["assign"], &spec["bodies"]] {
            names(part, false, &mut named);
        }
        with(rule, &mut replaced);
        if let Some(name) = replaced.iter().find(|name| functions.contains(*name)) {
            // What stands in for a function could call it.
            return Some((*name).to_owned());
        }
        if let Some(function) = last_name(&head["refr"]) {
            calls
                .entry(function)
                .or_default()
                .extend(named.into_iter().filter(|name| functions.contains(name)));
        }
    }
    // What calls nothing, or only what was taken away already, does not call itself.
    loop {
        let ends: Vec<&str> = calls
            .iter()
            .filter(|(_, called)| called.is_empty())
            .map(|(name, _)| *name)
            .collect();
        if ends.is_empty() {
            return calls.keys().next().map(|name| (*name).to_owned());
        }
        for end in ends {
            calls.remove(end);
            for called in calls.values_mut() {
                called.remove(end);
            }
        }
    }
}

/// The last part of a reference: `f` of `f`, of `data.a.f` and of `a["f"]`.
fn last_name(refr: &Value) -> Option<&str> {
    let parts = [
        &refr["Var"]["value"],
        &refr["RefDot"]["field"][1],
        &refr["RefBrack"]["index"]["String"]["value"],
    ];
    parts.into_iter().find_map(Value::as_str)
}

/// All variables and parts of references; texts only where they are part of one.
fn names<'a>(value: &'a Value, in_reference: bool, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(members) => {
            found.extend(last_name(value));
            if in_reference {
                found.extend(
                    members
                        .get("String")
                        .and_then(|text| text["value"].as_str()),
                );
            }
            for (name, member) in members {
                names(
                    member,
                    in_reference || name == "RefBrack" || name == "fcn",
                    found,
                );
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| names(item, in_reference, found)),
        _ => {}
    }
}

/// All names under `with`.
fn with<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if name == "with_mods" {
                    names(member, true, found)
                } else {
                    with(member, found)
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| with(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_is_a_name_wherever_it_is_part_of_a_reference() {
        let text = json!({"Array": [{"String": {"value": "f"}}]});
        for (value, is_name) in [
            (json!({"RefBrack": {"index": text}}), true),
            (json!({"Call": {"fcn": text}}), true),
            (json!({"Call": {"params": text}}), false),
        ] {
            let mut found = BTreeSet::new();
            names(&value, false, &mut found);
            assert_eq!(found.contains("f"), is_name, "{value}");
        }
    }
}
