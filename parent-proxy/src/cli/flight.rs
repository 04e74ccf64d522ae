//! Holds the lines of a gateway's flight recorder against their seals.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use attestation::{Binding, Evidence};
use flight::{Check, Report, Seal, first_of, seals_name};
use identity::token::{self, Claims, Tee};
use identity::{Did, Digest, PublicKey, UnixSeconds};
use policy::Bundle;
use serde_json::json;

use super::{Failure, print_json};

/// A key that may have signed seals, as its evidence says.
struct Key {
    binding: Digest<32>,
    key: PublicKey,
    did: Did,
}

/// Who signed, and when.
#[derive(Default)]
struct Signed {
    by: Vec<(Did, Tee)>,
    from: Option<i64>,
    to: Option<i64>,
    /// Ranges by keys of which no evidence was given.
    unjudged: u64,
}

pub(super) fn verify(
    folder: &Path,
    evidence: &[(PathBuf, Evidence)],
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let keys = evidence.iter().map(key).collect::<Result<Vec<_>, _>>()?;
    let mut signed = Signed::default();
    let checked = check(folder, &keys, &mut signed);
    if let Err(Failure::Refused(why)) = &checked
        && json
    {
        print_json(out, &json!({"verdict": "refused", "error": why}))?;
    }
    let report = checked?;
    let whole = match signed.unjudged {
        0 => Ok(()),
        _ => Err(Failure::Partial(
            "not every seal was judged: the evidence of its key was not given".into(),
        )),
    };
    let unchecked = unchecked(&report, &signed);
    let by: Vec<String> = signed
        .by
        .iter()
        .map(|(did, tee)| format!("{did} ({tee})"))
        .collect();
    let time = |at: Option<i64>| at.map(|at| UnixSeconds(at).to_string());
    let (from, to) = (time(signed.from), time(signed.to));
    if json {
        let verdict = if whole.is_ok() { "good" } else { "partial" };
        let facts = json!({
            "verdict": verdict, "lines": report.sealed, "ranges": report.ranges, "not_sealed": report.unsealed, "deleted": report.deleted,
            "not_judged": signed.unjudged, "sealed_by": by, "from": from, "to": to, "unchecked": unchecked,
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
        "{verdict}: {} lines in {} ranges are those that were sealed, none missing in between",
        report.sealed, report.ranges
    )?;
    if let (Some(from), Some(to)) = (from, to) {
        writeln!(out, "sealed by {} from {from} to {to}", by.join(", "))?;
    }
    for what in unchecked {
        writeln!(out, "not checked: {what}")?;
    }
    whole
}

fn key((file, evidence): &(PathBuf, Evidence)) -> Result<Key, Failure> {
    let wrong = |error: String| Failure::Usage(format!("{}: {error}", file.display()));
    let bundle =
        Bundle::from_canonical(evidence.bundle()).map_err(|error| wrong(error.to_string()))?;
    let described = evidence.key();
    let binding = Binding::new(
        described,
        &bundle.digest(),
        evidence.record(),
        evidence.state(),
    );
    Ok(Key {
        binding: binding.digest(),
        key: PublicKey::from_spki(&described.spki).map_err(|error| wrong(error.to_string()))?,
        did: Did::parse(&described.did).map_err(|error| wrong(error.to_string()))?,
    })
}

fn check(folder: &Path, keys: &[Key], signed: &mut Signed) -> Result<Report, Failure> {
    let segments = segments(folder)?;
    let mut seals = Vec::new();
    for (first, _) in &segments {
        let file = folder.join(seals_name(*first));
        if !file.exists() {
            continue;
        }
        let text = fs::read_to_string(&file).map_err(io(&file))?;
        for (number, token) in (1..).zip(text.lines()) {
            let refused =
                |why: String| Failure::Refused(format!("{} line {number}: {why}", file.display()));
            let claims = signed
                .read(token, keys)
                .map_err(|error| refused(error.to_string()))?;
            let seal = Seal::of_claims(&claims).map_err(|error| refused(error.to_string()))?;
            seals.push(seal);
        }
    }
    let refused = |error: flight::Error| Failure::Refused(format!("{}: {error}", folder.display()));
    if seals.is_empty() {
        let why = format!("{}: there is no seal in it", folder.display());
        return Err(Failure::Refused(why));
    }
    let mut check = Check::new(seals).map_err(refused)?;
    for (first, file) in &segments {
        let mut lines = BufReader::new(File::open(file).map_err(io(file))?);
        let mut line = Vec::new();
        for index in *first.. {
            line.clear();
            if lines.read_until(b'\n', &mut line).map_err(io(file))? == 0 {
                break;
            }
            // One without an end is still being written.
            if let Some(whole) = line.strip_suffix(b"\n") {
                check.line(index, whole).map_err(refused)?;
            }
        }
    }
    check.finish().map_err(refused)
}

impl Signed {
    /// A seal's claims. Its signature is verified if there is evidence of its key.
    fn read(&mut self, token: &str, keys: &[Key]) -> Result<Claims, identity::Error> {
        let claims = token::unverified_claims(token)?;
        let known = keys.iter().find(|key| key.binding == claims.binding);
        let claims = match known {
            Some(known) => token::verify_signature(token, &known.key, &known.did)?,
            None => {
                self.unjudged += 1;
                return Ok(claims);
            }
        };
        let by = (claims.iss.clone(), claims.tee);
        if !self.by.contains(&by) {
            self.by.push(by);
        }
        let (from, to) = (
            self.from.unwrap_or(claims.iat),
            self.to.unwrap_or(claims.iat),
        );
        self.from = Some(from.min(claims.iat));
        self.to = Some(to.max(claims.iat));
        Ok(claims)
    }
}

/// What no folder can say by itself.
fn unchecked(report: &Report, signed: &Signed) -> Vec<String> {
    let mut unchecked = Vec::new();
    if report.deleted > 0 {
        unchecked.push(format!(
            "{} lines that were sealed and are deleted, before all others",
            report.deleted
        ));
    }
    if let Some(first) = report.begins_after {
        unchecked.push(format!(
            "what stood before line {first}: its seals are not here"
        ));
    }
    if report.unsealed > 0 {
        unchecked.push(format!("{} lines that nobody sealed", report.unsealed));
    }
    if signed.unjudged > 0 {
        unchecked.push(format!(
            "the signatures of {} seals, of whose keys there is no evidence",
            signed.unjudged
        ));
    }
    unchecked.push("whether lines were cut off at the end, with their seals".into());
    unchecked.push(
        "whether lines are true: until it was sealed, each was what the gateway made it".into(),
    );
    unchecked.push(
        "the evidence that the keys were taken from; anchorhold-verify evidence judges it".into(),
    );
    unchecked
}

/// The segments, oldest first, each with the place of its first line.
fn segments(folder: &Path) -> Result<Vec<(u64, PathBuf)>, Failure> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(io(folder))? {
        let path = entry.map_err(io(folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(first) = name.and_then(first_of) {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

fn io(file: &Path) -> impl Fn(std::io::Error) -> Failure + '_ {
    |source| {
        let file = file.to_owned();
        enclave_client::Error::File { file, source }.into()
    }
}
