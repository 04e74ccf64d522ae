//! A verdict for a person: each step, what it was held against, what it means, and what was not
//! looked at.

use std::fmt::Write;

use attestation::{Check, Outcome, Reason, Refusal, Verdict};
use serde_json::Value;

const WIDTH: usize = 96;

/// Colours of a terminal, or none.
struct Colours {
    on: bool,
}

impl Colours {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.on {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The whole text. What was verified may hold anything: a terminal shows it, and does nothing of
/// it.
pub(crate) fn of(outcome: &Result<Verdict, Refusal>, colour: bool) -> String {
    let colours = Colours { on: colour };
    match outcome {
        Ok(verdict) => accepted(verdict, &colours),
        Err(refusal) => refused(refusal, &colours),
    }
}

fn accepted(verdict: &Verdict, colours: &Colours) -> String {
    let (paint, meaning) = match verdict.verdict {
        "genuine" => (
            "32",
            "signed by AWS Nitro hardware, for a production enclave",
        ),
        "debug" => (
            "33",
            "signed by AWS Nitro hardware, but for an enclave in DEBUG mode: its host can read it",
        ),
        _ => ("33", "made by a MOCK: no hardware stands behind it"),
    };
    let mut text = if verdict.unchecked.is_empty() {
        let accepted = colours.paint(paint, "ACCEPTED");
        format!("{accepted} as {}: {meaning}\n", verdict.verdict)
    } else {
        let unchecked: Vec<&str> = verdict.unchecked.iter().map(|one| one.as_str()).collect();
        format!(
            "{}: {}, {meaning}; not checked: {}\n",
            colours.paint("33", "LOOKED AT, NOT ACCEPTED"),
            verdict.verdict,
            unchecked.join(", ")
        )
    };
    if let Some(archive) = &verdict.archive {
        let _ = writeln!(
            text,
            "  from an archive: {} was seen at {} by {}",
            archive.anchor,
            archive.time,
            printable(&archive.witness)
        );
        text.push_str("  whether it was still valid at any later time, nobody says\n");
        text.push_str(
            "  nor whether the witness's key was stolen since: who has it can date things back\n",
        );
    }
    text.push('\n');
    checks(&mut text, &verdict.checks, colours);
    text.push_str("\nWhat it says\n");
    facts(&mut text, verdict);
    text.push_str("\nWhat it does not say\n");
    for limit in LIMITS {
        wrap(&mut text, "  - ", limit);
    }
    text
}

fn facts(text: &mut String, verdict: &Verdict) {
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<9} {}", printable(value));
    };
    line("made", &verdict.timestamp.to_string());
    line("enclave", &verdict.module_id);
    for index in ["0", "1", "2", "8", "16"] {
        let value = verdict
            .pcrs
            .get(index)
            .and_then(Value::as_str)
            .unwrap_or_default();
        if value.bytes().any(|digit| digit != b'0') {
            line(&format!("PCR{index}"), value);
        }
    }
    if let Some(key) = &verdict.key {
        line("identity", &format!("{} = {}", key.name, key.did));
        line("key", &format!("{} (version {})", key.kid, key.version));
        line("bundle", &key.policy.to_string());
    }
    if let Some(claims) = &verdict.claims {
        line("signed", &claims.to_string());
    }
}

/// What no verdict of this program says, whatever was checked.
const LIMITS: [&str; 3] = [
    "that the program in the image is free of faults: measurements name it, and reading its source is up to you",
    "that the agent meant what it signed: it proves that the policy allowed it",
    "that no certificate was revoked: AWS's chain names no revocation list; your deny list is what there is",
];

fn refused(refusal: &Refusal, colours: &Colours) -> String {
    let mut text = format!(
        "{} {}: {}\n\n",
        colours.paint("31", "REFUSED"),
        refusal.code(),
        printable(&refusal.to_string())
    );
    checks(&mut text, &refusal.checks, colours);
    if matches!(refusal.reason, Reason::Unchecked(_)) {
        text.push_str("\nNothing was wrong, but what was left out decides whether it means anything. See --help for each.\n");
    }
    text
}

fn checks(text: &mut String, checks: &[Check], colours: &Colours) {
    for check in checks {
        let mark = match check.outcome {
            Outcome::Passed => colours.paint("32", "passed     "),
            Outcome::Failed => colours.paint("31", "FAILED     "),
            Outcome::NotChecked => colours.paint("33", "NOT CHECKED"),
            Outcome::NotReached => "not reached".to_owned(),
        };
        let _ = writeln!(
            text,
            "{mark}  {:<18} {}",
            check.step.as_str().replace('_', " "),
            printable(&check.against)
        );
        if let Some(meaning) = check.meaning {
            wrap(text, "               ", meaning);
        }
    }
}

/// What a hostile document or token says, in one line.
fn printable(text: &str) -> String {
    identity::printable(text).replace('\n', "\\n")
}

fn wrap(text: &mut String, indent: &str, sentence: &str) {
    let mut column = 0;
    for word in sentence.split(' ') {
        if column > 0 && column + word.len() + 1 > WIDTH {
            text.push('\n');
            column = 0;
        }
        if column == 0 {
            let start = if text.ends_with('\n')
                && indent.trim_start().starts_with('-')
                && sentence.starts_with(word)
            {
                indent.to_owned()
            } else {
                " ".repeat(indent.len())
            };
            text.push_str(&start);
            column = indent.len();
        } else {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += word.len();
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_long_as_they_may_be_and_no_longer() {
        let wrapped = |sentence: &str| {
            let mut text = String::from("\n");
            wrap(&mut text, "  - ", sentence);
            text
        };
        let (long, rest) = ("a".repeat(WIDTH - 4 - 2), "b");
        assert_eq!(
            wrapped(&format!("{long} {rest}")),
            format!("\n  - {long} {rest}\n")
        );
        assert_eq!(
            wrapped(&format!("{long}a {rest}")),
            format!("\n  - {long}a\n    {rest}\n")
        );
        let word = "w".repeat(WIDTH);
        assert_eq!(
            wrapped(&word),
            format!("\n  - {word}\n"),
            "no line is left empty before a word that is too long for any"
        );
    }
}
