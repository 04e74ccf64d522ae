//! What differs between two bundles, by what things are called, for those who review a change.

use std::collections::BTreeSet;

use policy::Bundle;
use serde_json::Value;

/// Lines of a review: `-` was, `+` is, `~` became. None if the bundles are the same.
pub(super) fn of(before: &Bundle, after: &Bundle) -> Vec<String> {
    let mut lines = Vec::new();
    // A bundle is JSON; what it leaves out is not in it.
    let json = |bundle: &Bundle| serde_json::to_value(bundle).unwrap_or_default();
    compare(&mut lines, "", &json(before), &json(after));
    lines
}

fn compare(lines: &mut Vec<String>, path: &str, before: &Value, after: &Value) {
    if before == after {
        return;
    }
    match (before, after) {
        (Value::Object(_), Value::Object(_)) => members(lines, path, before, after),
        (Value::Array(before), Value::Array(after)) => match (names(before), names(after)) {
            (Some(before_names), Some(after_names)) => {
                named(lines, path, (before, &before_names), (after, &after_names));
            }
            _ => items(lines, path, before, after),
        },
        _ => lines.push(format!("~ {path}: {before} -> {after}")),
    }
}

fn members(lines: &mut Vec<String>, path: &str, before: &Value, after: &Value) {
    let keys = |value: &Value| {
        let keys = value.as_object().into_iter().flatten();
        keys.map(|(key, _)| key.clone()).collect::<BTreeSet<_>>()
    };
    for key in keys(before).union(&keys(after)) {
        one(lines, &below(path, key), before.get(key), after.get(key));
    }
}

/// Something that is in one of the two, or in both.
fn one(lines: &mut Vec<String>, path: &str, before: Option<&Value>, after: Option<&Value>) {
    match (before, after) {
        (Some(before), Some(after)) => compare(lines, path, before, after),
        (Some(before), None) => lines.push(format!("- {path}: {before}")),
        (None, Some(after)) => lines.push(format!("+ {path}: {after}")),
        (None, None) => {}
    }
}

type Named<'a> = (&'a [Value], &'a [String]);

/// Things that have names: they are the same thing if they are called so, wherever they stand. Their
/// order is said where it changes, for the first rule that accepts owns a request.
fn named(
    lines: &mut Vec<String>,
    path: &str,
    (before, before_names): Named<'_>,
    (after, after_names): Named<'_>,
) {
    let place = |names: &[String], name: &String| names.iter().position(|own| own == name);
    for (name, value) in before_names.iter().zip(before) {
        let after = place(after_names, name).map(|place| &after[place]);
        one(lines, &below(path, name), Some(value), after);
    }
    for (name, value) in after_names.iter().zip(after) {
        if place(before_names, name).is_none() {
            one(lines, &below(path, name), None, Some(value));
        }
    }
    // What was added at the end changes nothing for what stood there; anywhere else it may.
    let kept: Vec<&String> = before_names
        .iter()
        .filter(|name| after_names.contains(name))
        .collect();
    let added = after_names
        .iter()
        .filter(|name| !before_names.contains(name));
    if !kept.into_iter().chain(added).eq(after_names) {
        lines.push(format!(
            "~ {path}: the order was {}, and is {}",
            before_names.join(", "),
            after_names.join(", ")
        ));
    }
}

/// Things without names: those that are in one list and not in the other.
fn items(lines: &mut Vec<String>, path: &str, before: &[Value], after: &[Value]) {
    let missing = |all: &[Value], one: &Value| !all.contains(one);
    let gone = before.iter().filter(|one| missing(after, one));
    let new = after.iter().filter(|one| missing(before, one));
    lines.extend(gone.map(|one| format!("- {path}: {one}")));
    lines.extend(new.clone().map(|one| format!("+ {path}: {one}")));
    // As above; what stands there twice counts twice.
    let kept = before.iter().filter(|one| !missing(after, one));
    if !kept.chain(new).eq(after) {
        let json = |all: &[Value]| Value::from(all.to_vec()).to_string();
        lines.push(format!("~ {path}: {} -> {}", json(before), json(after)));
    }
}

/// What things in a list are called, if each has a name of its own; labels of resources are called
/// by their patterns.
fn names(list: &[Value]) -> Option<Vec<String>> {
    let name = |value: &Value| {
        let name = value.get("name").or(value.get("pattern"))?;
        name.as_str().map(str::to_owned)
    };
    let names = list.iter().map(name).collect::<Option<Vec<_>>>()?;
    let different: BTreeSet<_> = names.iter().collect();
    (different.len() == names.len()).then_some(names)
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUNDLE: &str = "
version = 1
mode = 'development'
proxy_key = 'z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK'
operator_key = 'z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp'
[[identities]]
name = 'payer'
environment = 'test'
did = 'did:key'
algorithm = 'EdDSA'
max_validity_seconds = 600
callers = { uids = [1000, 1001] }
rules = [
  { name = 'small', actions = ['pay'], targets = ['*'], resources = ['*'], limits = [{ per = 'hour', max = 3 }] },
  { name = 'large', actions = ['pay', 'refund'], targets = ['*'], resources = ['*'] },
]
";

    fn lines(changes: &[(&str, &str)]) -> Vec<String> {
        let mut after = BUNDLE.to_owned();
        for (from, to) in changes {
            assert!(after.contains(from), "{from}");
            after = after.replace(from, to);
        }
        let read = |text: &str| Bundle::from_toml(text).unwrap();
        of(&read(BUNDLE), &read(&after))
    }

    #[test]
    fn what_differs_is_said_by_name_and_nothing_else() {
        assert_eq!(lines(&[]), [""; 0]);
        for (from, to, says) in [
            (
                "max_validity_seconds = 600",
                "max_validity_seconds = 60",
                "~ identities.payer.max_validity_seconds: 600 -> 60",
            ),
            (
                "max = 3",
                "max = 4",
                "+ identities.payer.rules.small.limits: {\"max\":4",
            ),
            (
                "[1000, 1001]",
                "[1000]",
                "- identities.payer.callers.uids: 1001",
            ),
            (
                "[1000, 1001]",
                "[1000, 1001, 0]",
                "+ identities.payer.callers.uids: 0",
            ),
            (
                "[1000, 1001]",
                "[1001, 1000]",
                "~ identities.payer.callers.uids: [1000,1001] -> [1001,1000]",
            ),
            (
                "['pay', 'refund']",
                "['pay', 'refund', 'x']",
                "+ identities.payer.rules.large.actions: \"x\"",
            ),
            (
                "name = 'large', ",
                "name = 'large', envelope = true, ",
                "+ identities.payer.rules.large.envelope: true",
            ),
            ("name = 'payer'", "name = 'other'", "- identities.payer: "),
        ] {
            let lines = lines(&[(from, to)]);
            assert!(
                lines[0].starts_with(says) || lines.iter().any(|line| line.starts_with(says)),
                "{says}: {lines:?}"
            );
        }
        assert_eq!(
            lines(&[
                ("'small'", "'x'"),
                ("'large'", "'small'"),
                ("'x'", "'large'")
            ])
            .last()
            .unwrap(),
            "~ identities.payer.rules: the order was small, large, and is large, small"
        );
        // Where a rule is put decides: before one that wants an approval it goes around that.
        let new = "{ name = 'new', actions = ['pay'], targets = ['*'], resources = ['*'] }";
        let (first, last) = ("rules = [\n", "\n]\n");
        let put = |at: &str, text: &str| lines(&[(at, text)]);
        let behind = put(last, &format!("\n  {new},{last}"));
        assert!(behind.len() == 1 && behind[0].starts_with("+ identities.payer.rules.new: "));
        let before = put(first, &format!("{first}  {new},\n"));
        assert_eq!(
            before[1..],
            ["~ identities.payer.rules: the order was small, large, and is new, small, large"]
        );
        // And so do labels, whose first one that matches counts.
        let label = |pattern: &str, kind: &str| {
            format!("[[resources]]\npattern = '{pattern}'\ntype = '{kind}'\n")
        };
        let (narrow, wide) = (label("https://a/x/*", "n"), label("https://a/*", "w"));
        let with = |labels: &str| {
            Bundle::from_toml(&BUNDLE.replace("[[identities]]", &format!("{labels}[[identities]]")))
                .unwrap()
        };
        let changed = of(
            &with(&format!("{narrow}{wide}")),
            &with(&format!("{wide}{narrow}{}", label("https://b/*", "b"))),
        );
        assert_eq!(
            changed[1..],
            [
                "~ resources: the order was https://a/x/*, https://a/*, and is https://a/*, https://a/x/*, https://b/*"
            ]
        );
    }
}
