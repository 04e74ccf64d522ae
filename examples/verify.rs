//! A verifier in Rust judges a token and the evidence for its key, offline.
//!
//! ```text
//! cargo run --example verify -- TOKEN EVIDENCE NONCE VERIFIER.toml [MOCK-ROOT.pem]
//! ```
//!
//! `anchorhold-verify policy` writes a `VERIFIER.toml` to begin with. Prints whose claims they are, or
//! ends with 1 and says why they are refused.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it is for")]

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use attestation::{AppraisalPolicy, Expectations, MockRoot, Subject, Verifier};
use data_encoding::HEXLOWER;
use identity::UnixSeconds;

fn main() -> ExitCode {
    verify().unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

fn verify() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [token, evidence, nonce, policy, root @ ..] = &arguments[..] else {
        return Err("usage: verify TOKEN EVIDENCE NONCE VERIFIER.toml [MOCK-ROOT.pem]".into());
    };
    let read = |file: &String| std::fs::read(file).map_err(|error| format!("{file}: {error}"));
    let token = String::from_utf8(read(token)?)?;
    let evidence = read(evidence)?;
    let allow_mock = root.first().map(read).transpose()?;
    let verifier = Verifier {
        expectations: Expectations {
            nonce: Some(HEXLOWER.decode(nonce.as_bytes())?),
            appraisal: Some(AppraisalPolicy::from_toml(&read(policy)?)?),
            ..Expectations::default()
        },
        allow_mock: allow_mock.map(|pem| MockRoot::from_pem(&pem)).transpose()?,
        ..Verifier::at(now()?)
    };
    match verifier.judge(Subject::Token {
        token: token.trim_end(),
        evidence: &evidence,
    }) {
        Ok(verdict) => {
            let who = verdict.key.map(|key| key.did).unwrap_or_default();
            println!(
                "{} {who} {}",
                verdict.verdict,
                verdict.claims.unwrap_or_default()
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(refusal) => {
            eprintln!("{}: {refusal}", refusal.code());
            Ok(ExitCode::FAILURE)
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a verifier's clock")]
fn now() -> Result<UnixSeconds, Box<dyn std::error::Error>> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(UnixSeconds(i64::try_from(since.as_secs())?))
}
