//! `anchorhold-verify`: is this document, token or credential what it claims to be? Offline, trusting nobody.

mod args;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Args, Command, Inputs};
use attestation::judge::{Refusal, Verdict, judge};

/// sysexits(3): wrong usage.
const EX_USAGE: u8 = 64;
/// sysexits(3): our own fault.
const EX_SOFTWARE: u8 = 70;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let shown = error.print();
            return ExitCode::from(if error.use_stderr() || shown.is_err() { EX_USAGE } else { 0 });
        }
    };
    if let Command::Completions { shell } = args.command {
        clap_complete::generate(shell, &mut Args::command(), "anchorhold-verify", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    let (inputs, json) = match Inputs::read(&args.command) {
        Ok(read) => read,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "anchorhold-verify: {error}");
            return ExitCode::from(EX_USAGE);
        }
    };
    let outcome = judge(&inputs.case());
    match print(&outcome, json) {
        Ok(()) if outcome.is_ok() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(1),
        Err(_) => ExitCode::from(EX_SOFTWARE),
    }
}

fn print(outcome: &Result<Verdict, Refusal>, json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match outcome {
        Ok(verdict) if json => writeln!(out, "{}", serde_json::to_value(verdict).unwrap_or_default()),
        Err(refusal) if json => writeln!(out, "{}", refusal.to_json()),
        Ok(verdict) => out.write_all(printable(&explain(verdict)).as_bytes()),
        Err(refusal) => {
            let (on, off) = if out.is_terminal() { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
            writeln!(out, "{on}REFUSED{off} {}: {}", refusal.code(), printable(&refusal.to_string()))
        }
    }
}

/// What a hostile token says must not move the cursor: control characters are shown, not sent.
fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// The verdict for a person.
fn explain(verdict: &Verdict) -> String {
    let meaning = match verdict.verdict {
        "genuine" => "signed by AWS Nitro hardware, for a production enclave",
        "debug" => "signed by AWS Nitro hardware, but for an enclave in DEBUG mode: its host can read it",
        _ => "made by a MOCK: no hardware stands behind it",
    };
    let mut text = format!("ACCEPTED as {}: {meaning}\n", verdict.verdict);
    let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:<12} {value}\n"));
    line("made", &verdict.timestamp.to_string());
    line("enclave", &verdict.module_id);
    line("root", &verdict.root.to_string());
    for (index, value) in &verdict.pcrs {
        if ["0", "1", "2", "16"].contains(&index.as_str()) {
            line(&format!("PCR{index}"), value.as_str().unwrap_or_default());
        }
    }
    line("nonce", verdict.nonce.as_deref().unwrap_or("none"));
    if let Some(key) = &verdict.key {
        line("identity", &format!("{} = {}", key.name, key.did));
        line("key", &format!("{} (version {})", key.kid, key.version));
        line("policy", &key.policy.to_string());
    }
    if let Some(claims) = &verdict.claims {
        line("signed", &claims.to_string());
    }
    let unchecked = serde_json::to_string(&verdict.unchecked).unwrap_or_default();
    line("NOT CHECKED", if verdict.unchecked.is_empty() { "nothing that the verifier was asked for" } else { &unchecked });
    text
}
