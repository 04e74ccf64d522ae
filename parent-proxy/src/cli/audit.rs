//! Checks a decision record.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use attestation::Evidence;
use clap::{Args, Subcommand};
use identity::PublicKey;
use record::{Boot, MAX_LINE, Verdict};
use serde_json::json;

use super::boots::Boots;
use super::{Failure, flight, print_json};
use enclave_client::files::read_bounded;

#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Verify that files hold what enclaves wrote, or what they sealed of a gateway's flight recorder,
    /// whole and in order. Exit code 1: they do not. 3: they do, as far as keys were given
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The files of a record, oldest first
    #[arg(required_unless_present = "flight", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The folder of a gateway's flight recorder, in place of a record: its lines are held against the
    /// seals in it, and those against the evidence
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["files", "record_key"], requires = "evidence")]
    flight: Option<PathBuf>,
    /// The record key of a boot, as `anchorhold-verify evidence --json` names it in key.record_key;
    /// may be repeated
    #[arg(long, value_name = "MULTIKEY", required_unless_present = "evidence")]
    record_key: Vec<String>,
    /// Take the record key of this evidence, or those of every evidence-*.cbor in this folder:
    /// the sidecar keeps some of each boot in that of the record. It is not judged here:
    /// anchorhold-verify does that; may be repeated
    #[arg(long, value_name = "PATH")]
    evidence: Vec<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Default)]
struct Counts {
    events: u64,
    allowed: u64,
    refused: u64,
    pending: u64,
    /// Where a boot begins of which nothing could be verified, and why.
    unjudged: Option<String>,
}

impl Audit {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let Self::Verify(verify) = self;
        match &verify.flight {
            Some(folder) => {
                let evidence = evidence_in(&verify.evidence)?;
                flight::verify(folder, &evidence, verify.json, out)
            }
            None => verify.run(out),
        }
    }
}

impl Verify {
    fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let mut record = Boots::new(self.keys()?);
        let mut counts = Counts::default();
        let mut read = self
            .files
            .iter()
            .try_for_each(|file| counts.read(&mut record, file));
        if read.is_ok() && counts.events == 0 {
            let why = counts.unjudged.take();
            let why = why.unwrap_or_else(|| "there is no event in it".into());
            read = Err(Failure::Refused(why));
        } else if read.is_ok()
            && let Some(unused) = record.unused_key()
        {
            let key = unused.to_multikey();
            let unjudged = counts.unjudged.take();
            let unjudged = unjudged.map_or_else(String::new, |why| format!("; {why}"));
            read = Err(Failure::Refused(format!(
                "the record key {key} signed no event here: the record of its boot is missing{unjudged}"
            )));
        }
        if let Err(Failure::Refused(why)) = &read
            && self.json
        {
            print_json(
                out,
                &json!({"verdict": "refused", "error": why, "events": counts.events}),
            )?;
        }
        read?;
        let facts = |boot: &Boot| json!({"boot_id": boot.id, "first": boot.first, "last": boot.last, "before": boot.before});
        let boots: Vec<_> = record.boots().map(facts).collect();
        let judged: Vec<_> = record.boots().collect();
        let unjudged = record.unjudged();
        let whole = if unjudged.is_empty() {
            Ok(())
        } else {
            Err(Failure::Partial(
                "not every boot was judged: the key of its record was not given".into(),
            ))
        };
        if self.json {
            let other: Vec<_> = unjudged
                .iter()
                .map(|one| json!({"boot_id": one.boot, "first": one.first, "last": one.last}))
                .collect();
            let verdict = if whole.is_ok() { "good" } else { "partial" };
            let facts = json!({
                "verdict": verdict, "not_judged": other, "events": counts.events, "allowed": counts.allowed, "refused": counts.refused, "pending": counts.pending, "boots": boots,
                "unchecked": self.unchecked(&judged),
            });
            print_json(out, &facts)?;
            return whole;
        }
        let verdict = if whole.is_ok() {
            "good"
        } else {
            "good as far as it was judged"
        };
        writeln!(
            out,
            "{verdict}: {} events ({} allowed, {} refused, {} waiting for an approval), every member of each signed, none missing in between",
            counts.events, counts.allowed, counts.refused, counts.pending
        )?;
        for boot in &judged {
            writeln!(
                out,
                "boot {}: events {} to {}",
                boot.id, boot.first, boot.last
            )?;
        }
        for one in unjudged {
            writeln!(
                out,
                "boot {}: events {} to {} NOT JUDGED: the key of its record was not given",
                one.boot, one.first, one.last
            )?;
        }
        for what in self.unchecked(&judged) {
            writeln!(out, "not checked: {what}")?;
        }
        whole
    }

    /// What no record can say by itself.
    fn unchecked(&self, boots: &[&Boot]) -> Vec<String> {
        let mut unchecked = Vec::new();
        if let Some(first) = boots.first() {
            unchecked.push(match first.before {
                _ if first.first > 0 => format!("events 0 to {} of boot {}, and what came before it", first.first - 1, first.id),
                Some(end) => format!("what came before boot {}: it says, event {} of boot {}", first.id, end.last, end.boot_id),
                None => format!("whether anything came before boot {}: that nothing did is what its sidecar says", first.id),
            });
        }
        if boots.len() > 1 {
            let only = "only that a sidecar brought the end of the one before to each";
            unchecked.push(format!(
                "whether there were other boots between these: known is {only}"
            ));
        }
        if let Some(last) = boots.last() {
            unchecked.push(format!(
                "whether events were cut off at the end of boot {}, or boots after it",
                last.id
            ));
        }
        if !self.evidence.is_empty() {
            unchecked.push("the evidence that the record key was taken from; anchorhold-verify evidence judges it".into());
        }
        unchecked
    }

    fn keys(&self) -> Result<Vec<PublicKey>, Failure> {
        let named = |text: &String| {
            PublicKey::from_multikey(text)
                .map_err(|error| Failure::Usage(format!("--record-key: {error}")))
        };
        let from = |(file, evidence): &(PathBuf, Evidence)| {
            let key = PublicKey::from_spki(evidence.record());
            key.map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))
        };
        let evidence = evidence_in(&self.evidence)?;
        self.record_key
            .iter()
            .map(named)
            .chain(evidence.iter().map(from))
            .collect()
    }
}

/// The evidence in these files, and in every evidence-*.cbor in these folders.
fn evidence_in(paths: &[PathBuf]) -> Result<Vec<(PathBuf, Evidence)>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(kept_in(path)?);
        } else {
            files.push(path.clone());
        }
    }
    let read = |file: PathBuf| {
        let evidence = Evidence::parse(&read_bounded(&file)?);
        let wrong = |error| Failure::Usage(format!("{}: {error}", file.display()));
        let evidence = evidence.map_err(wrong)?;
        Ok((file, evidence))
    };
    files.into_iter().map(read).collect()
}

/// The evidence that a sidecar keeps beside its record.
fn kept_in(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let io = |source| enclave_client::Error::File {
        file: folder.into(),
        source,
    };
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.starts_with("evidence-") && name.ends_with(".cbor")) {
            kept.push(path);
        }
    }
    if kept.is_empty() {
        let why = format!(
            "{}: there is no evidence-*.cbor in it; ask for some once in each boot (anchorhold attest)",
            folder.display()
        );
        return Err(Failure::Usage(why));
    }
    Ok(kept)
}

impl Counts {
    fn read(&mut self, record: &mut Boots, file: &Path) -> Result<(), Failure> {
        let io = |source| enclave_client::Error::File {
            file: file.into(),
            source,
        };
        let mut lines = BufReader::new(File::open(file).map_err(io)?);
        for number in 1.. {
            let mut line = Vec::new();
            let read = lines
                .by_ref()
                .take(MAX_LINE as u64 + 2)
                .read_until(b'\n', &mut line)
                .map_err(io)?;
            if read == 0 {
                break;
            }
            let refused =
                |why: String| Failure::Refused(format!("{} line {number}: {why}", file.display()));
            let whole = line
                .strip_suffix(b"\n")
                .ok_or_else(|| refused("the line is cut".into()))?;
            let event = record.next(whole).map_err(|error| {
                // What nobody signed may be where it went wrong.
                let before = self.unjudged.as_ref();
                let before = before.map_or_else(String::new, |why| format!("; before that, {why}"));
                refused(format!("{}: {error}{before}", error.code()))
            })?;
            let Some(event) = event else {
                let boot = record.unjudged().last().map(|one| one.boot.to_string());
                self.unjudged.get_or_insert_with(|| {
                    let boot = boot.unwrap_or_default();
                    format!(
                        "{} line {number}: signature_invalid: no given key signed it; it is forged, or the key of boot {boot} was not given",
                        file.display()
                    )
                });
                continue;
            };
            self.events += 1;
            match event.decision.policy_decision {
                Verdict::Allow => self.allowed += 1,
                Verdict::Deny => self.refused += 1,
                Verdict::Pending => self.pending += 1,
            }
        }
        Ok(())
    }
}
