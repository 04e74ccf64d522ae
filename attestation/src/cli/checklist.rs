//! A verdict for a person: each step, what it was held against, what it means, and what was not
//! looked at.

use std::fmt::Write;
use std::io::{IsTerminal, StdoutLock};

use attestation::{
    Check, Claimed, ClaimedKey, Error, KeyFacts, Outcome, Reason, Refusal, Subject, Unchecked,
    Verdict,
};
use serde_json::Value;
use terminal_size::{Width, terminal_size_of};

/// How a verdict is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// With the colours of a terminal.
    pub(crate) colour: bool,
    /// Columns.
    pub(crate) width: usize,
}

impl Style {
    /// Of a file or a pipe.
    pub(crate) const PLAIN: Self = Self {
        colour: false,
        width: 96,
    };

    /// Of standard output: colours on a terminal only, and not where they are not wanted
    /// (https://no-color.org).
    pub(crate) fn of(out: &StdoutLock<'_>) -> Self {
        if !out.is_terminal() {
            return Self::PLAIN;
        }
        let columns = terminal_size_of(out).map(|(Width(columns), _)| columns.into());
        Self {
            colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            width: columns
                .unwrap_or(Self::PLAIN.width)
                .clamp(40, Self::PLAIN.width),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The whole text of what became of a subject. What was verified may hold anything: a terminal
/// shows it, and does nothing of it.
pub(crate) fn of(outcome: &Result<Verdict, Refusal>, subject: Subject<'_>, style: Style) -> String {
    match outcome {
        Ok(verdict) => accepted(verdict, style),
        Err(refusal) => refused(refusal, &Claimed::of(subject), style),
    }
}

fn accepted(verdict: &Verdict, style: Style) -> String {
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
        let accepted = style.paint(paint, "ACCEPTED");
        format!("{accepted} as {}: {meaning}\n", verdict.verdict)
    } else {
        let unchecked: Vec<&str> = verdict.unchecked.iter().map(|one| one.as_str()).collect();
        format!(
            "{}: {}, {meaning}; not checked: {}\n",
            style.paint("33", "LOOKED AT, NOT ACCEPTED"),
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
    checks(&mut text, &verdict.checks, style);
    text.push_str("\nWhat it says\n");
    facts(&mut text, &verified(verdict));
    text.push_str("\nWhat it does not say\n");
    for limit in LIMITS {
        wrap(&mut text, style.width, "  - ", limit);
    }
    text
}

/// What a verdict found, in the form of what something claims.
fn verified(verdict: &Verdict) -> Claimed {
    let key = verdict.key.as_ref();
    Claimed {
        made: Some(verdict.timestamp),
        module_id: Some(verdict.module_id.clone()),
        nonce: verdict.nonce.clone(),
        pcrs: verdict.pcrs.clone(),
        key: key.map(|key| ClaimedKey {
            name: key.name.clone(),
            did: key.did.clone(),
            kid: key.kid.clone(),
            version: key.version,
        }),
        bundle: key.map(|key| key.policy),
        record_key: key.map(|key| key.record_key.clone()),
        state: key.and_then(KeyFacts::state_facts),
        claims: verdict.claims.clone(),
    }
}

fn facts(text: &mut String, says: &Claimed) {
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<9} {}", printable(value));
    };
    let mut optional = |name: &str, value: Option<String>| {
        value.into_iter().for_each(|value| line(name, &value));
    };
    optional("made", says.made.map(|made| made.to_string()));
    optional("enclave", says.module_id.clone());
    optional("nonce", says.nonce.clone());
    for index in ["0", "1", "2", "8", "16"] {
        let value = says.pcrs.get(index).and_then(Value::as_str);
        let measured = value.filter(|value| value.bytes().any(|digit| digit != b'0'));
        optional(&format!("PCR{index}"), measured.map(str::to_owned));
    }
    if let Some(key) = &says.key {
        let (identity, version) = (format!("{} = {}", key.name, key.did), key.version);
        optional("identity", Some(identity));
        optional("key", Some(format!("{} (version {version})", key.kid)));
    }
    let kept = says.state.map(|state| {
        let (custody, id, epoch, rollback) =
            (state.custody, state.state, state.epoch, state.rollback);
        format!("{custody}, state {id}, epoch {epoch}, rollback {rollback}")
    });
    optional("kept", kept);
    optional("bundle", says.bundle.map(|bundle| bundle.to_string()));
    optional("signed", says.claims.as_ref().map(Value::to_string));
}

/// What no verdict of this program says, whatever was checked.
const LIMITS: [&str; 3] = [
    "that the program in the image is free of faults: measurements name it, and reading its source is up to you",
    "that the agent meant what it signed: it proves that the policy allowed it",
    "that no certificate was revoked: AWS's chain names no revocation list; your deny list is what there is",
];

/// What to give on the command line, where that may be all that is missing.
fn next(reason: &Reason) -> Option<String> {
    match reason {
        Reason::Wrong(Error::RootUntrusted) => {
            Some("to accept a mock too, give its root: --allow-mock --root FILE".into())
        }
        Reason::Unchecked(unchecked) => {
            let flag = |one: &Unchecked| match one {
                Unchecked::Nonce => "--nonce HEX",
                Unchecked::Measurements => "--measurements FILE",
                Unchecked::Policy => "--bundle FILE",
                Unchecked::DidDocument => "--did-document FILE",
                Unchecked::Identity => "evidence in place of the document alone",
            };
            let flags: Vec<&str> = unchecked.iter().map(flag).collect();
            Some(format!("give {}; or only look: --inspect", flags.join(" ")))
        }
        Reason::Wrong(Error::Identity(identity::Error::AudienceMismatch {
            expected: None,
            ..
        })) => Some("if that is you, say so: --audience NAME".into()),
        Reason::Wrong(
            Error::EvidenceMalformed(_)
            | Error::DocumentNotCoseSign1(_)
            | Error::Identity(
                identity::Error::TokenMalformed(_)
                | identity::Error::Base64(_)
                | identity::Error::JsonMalformed(_),
            ),
        ) => Some("`anchorhold show FILE` says what is in a file".into()),
        Reason::Wrong(error) => Some(format!("what to do: docs/errors.md, {}", error.code())),
        _ => None,
    }
}

fn refused(refusal: &Refusal, says: &Claimed, style: Style) -> String {
    let next = next(&refusal.reason).map_or_else(String::new, |next| format!("{next}\n"));
    let mut text = format!(
        "{} {}: {}\n{next}\n",
        style.paint("31", "REFUSED"),
        refusal.code(),
        printable(&refusal.to_string())
    );
    checks(&mut text, &refusal.checks, style);
    if matches!(refusal.reason, Reason::Unchecked(_)) {
        text.push_str("\nNothing was wrong, but what was left out decides whether it means anything. See --help for each.\n");
    }
    let mut said = String::new();
    facts(&mut said, says);
    if !said.is_empty() {
        text.push_str("\nWhat it says of itself; believe none of it\n");
        text.push_str(&said);
    }
    text
}

fn checks(text: &mut String, checks: &[Check], style: Style) {
    for check in checks {
        let mark = match check.outcome {
            Outcome::Passed => style.paint("32", "passed     "),
            Outcome::Failed => style.paint("31", "FAILED     "),
            Outcome::NotChecked => style.paint("33", "NOT CHECKED"),
            Outcome::NotReached => "not reached".to_owned(),
        };
        let _ = writeln!(
            text,
            "{mark}  {:<18} {}",
            check.step.as_str().replace('_', " "),
            printable(&check.against)
        );
        if let Some(meaning) = check.meaning {
            wrap(text, style.width, "               ", meaning);
        }
    }
}

/// What a hostile document or token says, in one line.
fn printable(text: &str) -> String {
    identity::printable(text).replace('\n', "\\n")
}

fn wrap(text: &mut String, width: usize, indent: &str, sentence: &str) {
    let mut column = 0;
    for word in sentence.split(' ') {
        if column > 0 && column + word.len() + 1 > width {
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

    const WIDTH: usize = Style::PLAIN.width;

    #[test]
    fn lines_are_as_long_as_they_may_be_and_no_longer() {
        let wrapped = |sentence: &str| {
            let mut text = String::from("\n");
            wrap(&mut text, WIDTH, "  - ", sentence);
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
