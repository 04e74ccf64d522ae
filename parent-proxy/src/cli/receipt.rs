//! Receipts of calls to services.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use identity::Digest;
use serde_json::json;

use super::state::{mock_root, read_bundle, read_measurements};
use super::{Failure, print_json};
use crate::receipt::{self, Expected};
use enclave_client::files::read_bounded;

/// Receipts of calls to services: what was asked with a credential, by whom, and what came of it
#[derive(Debug, Subcommand)]
pub(super) enum Receipt {
    /// Verify the receipt of one call, offline. Exit code 1: it is not believed. 3: the call was
    /// allowed, and what came of it is not known
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The files of a decision record, or what was cut out of one: the two lines of the call
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The call, as X-Anchorhold-Call of its answer names it
    #[arg(long, value_name = "HEX")]
    call: String,
    /// Evidence of the enclave of that boot, judged at its own time
    #[arg(long, value_name = "FILE")]
    evidence: PathBuf,
    /// Measurements of an image that is believed; may be repeated [default: any image]
    #[arg(long, value_name = "FILE")]
    measurements: Vec<PathBuf>,
    /// A bundle that is believed; may be repeated [default: any bundle]
    #[arg(long, value_name = "FILE")]
    bundle: Vec<PathBuf>,
    /// Root certificate of a mock that is believed too
    #[arg(long, value_name = "PEM")]
    mock_root: Option<PathBuf>,
}

impl Receipt {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let Self::Verify(verify) = self;
        verify.run(out)
    }
}

impl Verify {
    fn run(&self, out: &mut impl Write) -> Result<(), Failure> {
        let call = Digest::from_hex(&self.call)
            .map_err(|_| Failure::Usage("--call is 64 hex digits".into()))?;
        let bundles = self.bundle.iter().map(|file| read_bundle(file));
        let measurements = self.measurements.iter().map(|file| read_measurements(file));
        let expected = Expected {
            measurements: measurements.collect::<Result<_, _>>()?,
            policies: bundles
                .map(|bundle| bundle.map(|bundle| bundle.digest()))
                .collect::<Result<_, _>>()?,
            mock_root: mock_root(self.mock_root.as_deref())?,
        };
        let evidence = read_bounded(&self.evidence)?;
        let text = self.text()?;
        let lines = text.split(|byte| *byte == b'\n');
        let receipt = receipt::verify(lines, call, &evidence, &expected)
            .map_err(|error| Failure::Refused(error.to_string()))?;
        let verdict = if receipt.close.is_some() {
            "good"
        } else {
            "outcome unknown"
        };
        let mut unchecked = Vec::new();
        if self.measurements.is_empty() {
            unchecked.push("which image it was: give --measurements");
        }
        if self.bundle.is_empty() {
            unchecked.push("which bundle it had: give --bundle");
        }
        unchecked.push("whether lines of other calls are missing: anchorhold audit verify");
        let close = receipt.close.as_ref().map(|close| &close.decision);
        let open = &receipt.open.decision;
        print_json(
            out,
            &json!({
                "verdict": verdict,
                "call": call,
                "enclave": {"kind": receipt.enclave.verdict, "pcrs": receipt.enclave.pcrs},
                "policy_digest": open.policy_digest,
                "rule": open.policy_id,
                "agent": open.agent_id,
                "did": open.did,
                "caller": open.caller,
                "opened_at": open.timestamp,
                "closed_at": close.and_then(|close| close.timestamp),
                "resource": open.resource,
                "request_digest": open.request_digest,
                "open": open.credential,
                "close": close.and_then(|close| close.credential.as_ref()),
                "unchecked": unchecked,
            }),
        )?;
        if receipt.close.is_some() {
            Ok(())
        } else {
            Err(Failure::Partial(
                "the call was allowed, and no line says what came of it".into(),
            ))
        }
    }

    fn text(&self) -> Result<Vec<u8>, Failure> {
        let mut text = Vec::new();
        for file in &self.files {
            let read = fs::read(file).map_err(|source| enclave_client::Error::File {
                file: file.clone(),
                source,
            })?;
            text.extend(read);
            text.push(b'\n');
        }
        Ok(text)
    }
}
