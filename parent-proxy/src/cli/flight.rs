//! Holds the lines of a gateway's flight recorder against their seals.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use attestation::{Binding, Evidence};
use flight::{Check, Report, Seal, first_of, first_sealed};
use identity::token::{self, Claims, Tee};
use identity::{Did, Digest, PublicKey, UnixSeconds};
use jiff::Timestamp;
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
    /// Behind which line each range ends, and when it was sealed.
    times: Vec<(u64, i64)>,
    /// The longest time between a line, as it says, and its seal, in seconds.
    lag: i64,
    /// The last line has no end.
    is_cut: bool,
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
            "not_judged": signed.unjudged, "sealed_by": by, "from": from, "to": to, "longest_lag_seconds": signed.lag, "unchecked": unchecked,
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
    writeln!(
        out,
        "the longest time between a line and its seal: {} s",
        signed.lag
    )?;
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
    let segments = files(folder, first_of)?;
    let mut seals = Vec::new();
    // Those without lines beside them count: then lines are missing.
    for (_, file) in files(folder, first_sealed)? {
        let text = fs::read_to_string(&file).map_err(io(&file))?;
        for (number, token) in (1..).zip(text.lines()) {
            let refused =
                |why: String| Failure::Refused(format!("{} line {number}: {why}", file.display()));
            let claims = signed
                .read(token, keys)
                .map_err(|error| refused(error.to_string()))?;
            let seal = Seal::of_claims(&claims).map_err(|error| refused(error.to_string()))?;
            signed.times.push((seal.end(), claims.iat));
            seals.push(seal);
        }
    }
    let refused = |error: flight::Error| Failure::Refused(format!("{}: {error}", folder.display()));
    if seals.is_empty() {
        let why = format!("{}: there is no seal in it", folder.display());
        return Err(Failure::Refused(why));
    }
    let mut check = Check::new(seals).map_err(refused)?;
    for (at, (first, file)) in segments.iter().enumerate() {
        let mut lines = BufReader::new(File::open(file).map_err(io(file))?);
        let mut line = Vec::new();
        for index in *first.. {
            line.clear();
            if lines.read_until(b'\n', &mut line).map_err(io(file))? == 0 {
                break;
            }
            match line.strip_suffix(b"\n") {
                Some(whole) => {
                    check.line(index, whole).map_err(refused)?;
                    signed.note_lag(index, whole);
                }
                // The last one of all may still be on its way.
                None if at + 1 == segments.len() => signed.is_cut = true,
                None => return Err(refused(flight::Error::Cut { line: index })),
            }
        }
    }
    check.finish().map_err(refused)
}

impl Signed {
    /// How long after the time that it says a line was sealed.
    fn note_lag(&mut self, index: u64, line: &[u8]) {
        let at = self.times.partition_point(|(end, _)| *end <= index);
        let said = serde_json::from_slice::<serde_json::Value>(line).ok();
        let said = said.and_then(|line| line["timestamp"].as_str()?.parse::<Timestamp>().ok());
        if let (Some((_, sealed)), Some(said)) = (self.times.get(at), said) {
            self.lag = self.lag.max(sealed - said.as_second());
        }
    }

    /// Whether a range was sealed before the one before it.
    fn goes_back(&self) -> bool {
        self.times.windows(2).any(|pair| pair[1].1 < pair[0].1)
    }

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
    if signed.is_cut {
        unchecked
            .push("the last line, which has no end: it is on its way, or was never written".into());
    }
    if signed.goes_back() {
        unchecked.push(
            "why a range was sealed before the one before it: by the times of their tokens".into(),
        );
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

/// The files of one sort, oldest first, each with the place of its first line.
fn files(folder: &Path, first: fn(&str) -> Option<u64>) -> Result<Vec<(u64, PathBuf)>, Failure> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(io(folder))? {
        let path = entry.map_err(io(folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(first) = name.and_then(first) {
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
