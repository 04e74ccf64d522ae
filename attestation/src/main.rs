//! `anchorhold-verify`: is this document, token or credential what it claims to be? Offline,
//! trusting nobody.

mod cli;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use attestation::{Refusal, Verdict, results};
use identity::printable;
use serde_json::Value;

use crate::cli::args::{Args, Command, Inputs, Output};
use crate::cli::checklist::{self, Style};

/// Something that matters was not asked to be checked, and the caller only wanted to look.
const LOOKED_AT: u8 = 3;
/// sysexits(3): wrong usage.
const EX_USAGE: u8 = 64;
/// sysexits(3): our own fault.
const EX_SOFTWARE: u8 = 70;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let printed = error.print();
            return ExitCode::from(if error.use_stderr() || printed.is_err() {
                EX_USAGE
            } else {
                0
            });
        }
    };
    if let Command::Man { folder } = &args.command {
        return match clap_mangen::generate_to(Args::command(), folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("{}: {error}", folder.display()), EX_USAGE),
        };
    }
    if let Command::Completions { shell } = args.command {
        clap_complete::generate(
            shell,
            &mut Args::command(),
            "anchorhold-verify",
            &mut std::io::stdout(),
        );
        return ExitCode::SUCCESS;
    }
    if let Command::Policy(starter) = &args.command {
        return match starter.write() {
            Ok(text) if std::io::stdout().write_all(text.as_bytes()).is_ok() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::from(EX_SOFTWARE),
            Err(error) => fail(&error, EX_USAGE),
        };
    }
    let inputs = match Inputs::read(&args.command) {
        Ok(read) => read,
        Err(error) => return fail(&error, EX_USAGE),
    };
    let outcome = inputs.verifier.judge(inputs.subject());
    let verdict = || match &outcome {
        Ok(verdict) if verdict.unchecked.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(LOOKED_AT),
        Err(_) => ExitCode::from(1),
    };
    match print(&inputs, &outcome) {
        Ok(()) => verdict(),
        Err(Failure::Usage(error)) => fail(&error, EX_USAGE),
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            // Whoever reads has read enough; what it says counts all the same.
            verdict()
        }
        Err(Failure::Output(_)) => ExitCode::from(EX_SOFTWARE),
    }
}

fn fail(error: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "anchorhold-verify: {}", printable(error));
    ExitCode::from(code)
}

/// Why nothing could be printed.
enum Failure {
    Usage(String),
    Output(std::io::Error),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

fn print(inputs: &Inputs, outcome: &Result<Verdict, Refusal>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match (inputs.output, outcome) {
        (Output::Json, Ok(verdict)) => {
            print_json(&mut out, &serde_json::to_value(verdict).unwrap_or_default())?
        }
        (Output::Json, Err(refusal)) => print_json(&mut out, &refusal.to_json())?,
        (Output::Ear, _) => {
            let claims = results::ear(outcome, inputs.verifier.at, inputs.about());
            let signed = inputs
                .key
                .as_ref()
                .map(|key| key.sign_ear(&claims))
                .transpose();
            let signed = signed.map_err(|error| Failure::Usage(error.to_string()))?;
            match signed {
                Some(signed) => writeln!(out, "{signed}")?,
                None => print_json(&mut out, &claims)?,
            }
        }
        (Output::Trace, Ok(verdict)) => {
            let record = results::trace(verdict, inputs.verifier.at)
                .map_err(|error| Failure::Usage(error.to_string()))?;
            print_json(&mut out, &record)?;
        }
        (Output::Trace | Output::Text, _) => {
            let text = checklist::of(outcome, inputs.subject(), Style::of(&out));
            out.write_all(text.as_bytes())?;
        }
    }
    Ok(())
}

/// Much of it is what the signed thing says: a terminal shall show it, and not do it.
fn print_json(out: &mut impl Write, value: &Value) -> std::io::Result<()> {
    writeln!(out, "{}", printable(&value.to_string()))
}
