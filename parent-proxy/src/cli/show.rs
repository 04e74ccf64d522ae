//! What a file says, without a verdict.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use attestation::{Claimed, Evidence, Subject};
use clap::Args;
use data_encoding::HEXLOWER;
use identity::{UnixSeconds, printable, request, token};
use policy::Annex;
use serde_json::{Map, Value, json};

use super::Failure;

/// Anything but a record is far below this: 256 KiB.
const MAX_FILE: u64 = 256 << 10;

#[derive(Debug, Args)]
pub(super) struct Show {
    /// A token, proof, approval, credential, evidence, attestation document, signed annex, or lines
    /// of a decision record; `-` reads standard input
    file: PathBuf,
    /// Print one JSON object for each thing that is in the file
    #[arg(long)]
    json: bool,
}

/// One thing that a file holds.
struct Shown {
    kind: &'static str,
    /// What verifies it.
    verified_by: &'static str,
    says: Value,
}

impl Show {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<(), Failure> {
        let failed = |source| {
            let file = self.file.clone();
            Failure::from(enclave_client::Error::File { file, source })
        };
        let mut file: Box<dyn BufRead> = if self.file == Path::new("-") {
            Box::new(std::io::stdin().lock())
        } else {
            Box::new(BufReader::new(File::open(&self.file).map_err(failed)?))
        };
        let mut bytes = Vec::new();
        file.by_ref()
            .take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if bytes.len() as u64 <= MAX_FILE {
            let all = of(&bytes).ok_or_else(|| self.unknown())?;
            return all.iter().try_for_each(|shown| self.show(out, shown));
        }
        // Only a record is so long: line by line, however many there are.
        let mut lines = Cursor::new(bytes).chain(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let limit = record::MAX_LINE as u64 + 1;
            let read = lines.by_ref().take(limit).read_until(b'\n', &mut line);
            if read.map_err(failed)? == 0 {
                return Ok(());
            }
            let shown = identity::json::parse(line.trim_ascii_end())
                .ok()
                .and_then(|value| of_record(value).ok());
            self.show(out, &shown.ok_or_else(|| self.unknown())?)?;
        }
    }

    fn show(&self, out: &mut impl Write, shown: &Shown) -> Result<(), Failure> {
        if self.json {
            let line = json!({"kind": shown.kind, "says": shown.says});
            Ok(writeln!(out, "{}", printable(&line.to_string()))?)
        } else {
            shown.print(out)
        }
    }

    fn unknown(&self) -> Failure {
        Failure::Usage(format!(
            "{}: neither a token, proof, approval, credential, evidence, attestation document, signed annex nor lines of a record",
            self.file.display()
        ))
    }
}

impl Shown {
    fn print(&self, out: &mut impl Write) -> Result<(), Failure> {
        writeln!(
            out,
            "{}, of which nothing was verified ({} does that)",
            self.kind, self.verified_by
        )?;
        let json = serde_json::to_string_pretty(&self.says).unwrap_or_default();
        writeln!(out, "{}", printable(&json))?;
        for (name, time) in times(&self.says) {
            writeln!(out, "{name}: {time}")?;
        }
        Ok(())
    }
}

/// The times of a token as people write them; what else counts in seconds stays as it is.
fn times(says: &Value) -> impl Iterator<Item = (&'static str, UnixSeconds)> {
    let names = [
        ("iat", "issued"),
        ("nbf", "valid from"),
        ("exp", "valid until"),
    ];
    let named = |(claim, name)| Some((name, UnixSeconds(says["claims"][claim].as_i64()?)));
    names.map(named).into_iter().flatten()
}

/// What is in these bytes; none if it is nothing of ours.
fn of(bytes: &[u8]) -> Option<Vec<Shown>> {
    let one = |shown| Some(vec![shown]);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let text = text.trim();
        if let Some(token) = of_token(text) {
            return one(token);
        }
        if let Ok(value) = identity::json::parse(text.as_bytes()) {
            return of_json(value);
        }
        let lines = text
            .lines()
            .map(|line| of_record(identity::json::parse(line.as_bytes()).ok()?).ok());
        return lines
            .collect::<Option<Vec<_>>>()
            .filter(|all| !all.is_empty());
    }
    if let Ok(evidence) = Evidence::parse(bytes) {
        return one(of_evidence(&evidence, bytes));
    }
    let document = Claimed::of(Subject::Document(bytes));
    if document.made.is_some() {
        return one(Shown {
            kind: "an attestation document",
            verified_by: "anchorhold-verify document",
            says: json!(document),
        });
    }
    let annex = identity::json::parse(Annex::unverified_canonical(bytes).ok()?).ok()?;
    annex.get("version")?;
    one(Shown {
        kind: "a signed annex",
        verified_by: "an enclave whose bundle names the operator's key",
        says: annex,
    })
}

fn of_token(text: &str) -> Option<Shown> {
    let (header, claims) = token::unverified_parts(text).ok()?;
    let (kind, verified_by) = match header["typ"].as_str() {
        Some(token::TYPE) => ("a Vouch token", "anchorhold-verify token"),
        Some(request::TYPE) => ("a caller's proof", "the enclave that it is shown to"),
        Some(request::APPROVAL_TYPE) => ("an approval", "the enclave that it is shown to"),
        Some(identity::envelope::TYPE) => ("a signed envelope", "whoever has the key"),
        _ => ("a token of somebody else", "whoever knows its issuer"),
    };
    Some(Shown {
        kind,
        verified_by,
        says: json!({"header": header, "claims": claims}),
    })
}

fn of_json(value: Value) -> Option<Vec<Shown>> {
    if let Value::Array(grants) = value {
        let grants = grants.into_iter().map(|grant| of_credential(grant).ok());
        return grants
            .collect::<Option<Vec<_>>>()
            .filter(|all| !all.is_empty());
    }
    let shown = of_credential(value).or_else(of_record).ok()?;
    Some(vec![shown])
}

fn of_credential(value: Value) -> Result<Shown, Value> {
    if value.get("credentialSubject").is_none() {
        return Err(value);
    }
    Ok(Shown {
        kind: "a credential",
        verified_by: "anchorhold-verify credential",
        says: value,
    })
}

fn of_record(value: Value) -> Result<Shown, Value> {
    if ["boot_id", "sequence", "event_type"]
        .iter()
        .any(|name| value.get(name).is_none())
    {
        return Err(value);
    }
    Ok(Shown {
        kind: "a line of a decision record",
        verified_by: "anchorhold audit verify",
        says: value,
    })
}

/// With the bundle itself, which is what its key is governed by.
fn of_evidence(evidence: &Evidence, bytes: &[u8]) -> Shown {
    let claimed = json!(Claimed::of(Subject::Evidence(bytes)));
    let mut says = match claimed {
        Value::Object(says) => says,
        _ => Map::new(),
    };
    let bundle = identity::json::parse(evidence.bundle());
    let bundle = bundle.unwrap_or_else(|_| HEXLOWER.encode(evidence.bundle()).into());
    says.insert("bundle_says".into(), bundle);
    // Most registers are never used.
    let zero = |value: &Value| {
        value
            .as_str()
            .is_some_and(|hex| hex.bytes().all(|b| b == b'0'))
    };
    if let Some(Value::Object(pcrs)) = says.get_mut("pcrs") {
        pcrs.retain(|_, value| !zero(value));
    }
    Shown {
        kind: "evidence",
        verified_by: "anchorhold-verify evidence",
        says: says.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> Vec<u8> {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../attestation/tests/vectors/cases"
        );
        std::fs::read(format!("{folder}/{name}")).unwrap()
    }

    #[test]
    fn each_kind_of_file_is_known() {
        let annex = Annex::from_toml("version = 3").unwrap();
        let key = tempfile::tempdir().unwrap();
        let key = crate::KeyFile::create(&key.path().join("key")).unwrap();
        let signed = annex.sign(&key).unwrap();
        let evidence = file("evidence/good.cbor");
        let document = Evidence::parse(&evidence).unwrap().document().to_vec();
        let line = br#"{"boot_id":"00","sequence":1,"event_type":"token.sign"}"#;
        let lines = [&line[..], b"\n", line, b"\n"].concat();
        for (bytes, kinds) in [
            (&file("tokens/good.jwt"), &["a Vouch token"][..]),
            (&file("credentials/good.json"), &["a credential"]),
            (&evidence, &["evidence"]),
            (&document, &["an attestation document"]),
            (&signed, &["a signed annex"]),
            (&lines, &["a line of a decision record"; 2]),
            (&line.to_vec(), &["a line of a decision record"]),
        ] {
            let shown = of(bytes).unwrap();
            assert!(
                shown.iter().map(|one| one.kind).eq(kinds.iter().copied()),
                "{kinds:?}"
            );
        }
        // JWS of ours by their type, and anybody's.
        let jws = |typ: &str| {
            let part = |text: String| data_encoding::BASE64URL_NOPAD.encode(text.as_bytes());
            let (header, claims) = (format!("{{\"typ\":\"{typ}\"}}"), "{\"exp\":0}".to_owned());
            format!("{}.{}.AA", part(header), part(claims)).into_bytes()
        };
        for (typ, kind) in [
            (request::TYPE, "a caller's proof"),
            (request::APPROVAL_TYPE, "an approval"),
            (identity::envelope::TYPE, "a signed envelope"),
            ("JWT", "a token of somebody else"),
        ] {
            assert_eq!(of(&jws(typ)).unwrap()[0].kind, kind);
        }
        for bytes in [
            &b""[..],
            b"{}",
            b"[]",
            b"a.b.c",
            b"version = 1",
            b"\xff\xfe",
            b"{}\n{}",
        ] {
            assert!(of(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn a_token_says_its_times_as_people_write_them() {
        let shown = of(&file("tokens/good.jwt")).unwrap();
        let mut text = Vec::new();
        assert!(shown[0].print(&mut text).is_ok());
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("of which nothing was verified"), "{text}");
        assert!(
            text.ends_with("valid until: 2026-01-01T00:05:00Z\n"),
            "{text}"
        );
    }
}
