//! Looks at a request that waits, and approves what was looked at.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use identity::request::Approval;
use identity::{ApprovalId, BootId, Digest};
use serde_json::{Value, json};

use super::Failure;
use super::calls::{Connection, answer, in_seconds};
use crate::KeyFile;

#[derive(Debug, Args)]
pub(super) struct Approve {
    /// Id of the request that waits. Left out: what calls to services are held for is shown, to those
    /// who run the sidecar
    id: Option<String>,
    /// The approver's key; without it, the request is only shown
    #[arg(long, value_name = "FILE", requires = "id")]
    key: Option<PathBuf>,
    /// The digest of the request that you looked at before: only that one is approved, without a
    /// question. Needed where there is no terminal to ask on
    #[arg(long, value_name = "HEX", requires = "key")]
    digest: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

/// What waits, as the sidecar says; the digest is our own.
struct Waiting {
    answer: Value,
    digest: Digest<32>,
    boot_id: BootId,
}

impl Approve {
    /// Shows what waits; approves it, if it is what was seen before, or if somebody at the terminal
    /// says so after seeing it.
    pub(super) async fn send(&self) -> Result<Value, Failure> {
        let client = self.connection.client()?;
        let Some(id) = &self.id else {
            return answer(&client.call("/approvals", None).await?);
        };
        let id =
            ApprovalId::from_hex(id).map_err(|error| Failure::Usage(format!("ID: {error}")))?;
        let seen = self
            .digest
            .as_deref()
            .map(Digest::<32>::from_hex)
            .transpose();
        let seen = seen.map_err(|error| Failure::Usage(format!("--digest: {error}")))?;
        let key = self.key.as_deref().map(KeyFile::read).transpose()?;
        let path = format!("/approvals/{id}");
        let waiting = Waiting::of(answer(&client.call(&path, None).await?)?)?;
        let Some(key) = key else {
            return Ok(waiting.answer);
        };
        match seen {
            Some(seen) if seen != waiting.digest => {
                return Err(Failure::Refused(format!(
                    "what waits now has the digest {}, not {seen}: it is not what you looked at, and nothing was signed",
                    waiting.digest
                )));
            }
            Some(_) => {}
            None => waiting.confirm()?,
        }
        let approval = Approval {
            approval: id,
            boot_id: waiting.boot_id,
            exp: in_seconds(60),
            request: waiting.digest,
        };
        let jws = approval
            .sign(&key)
            .map_err(|error| Failure::Usage(error.to_string()))?;
        answer(
            &client
                .call(&path, Some(&json!({ "approval": jws })))
                .await?,
        )
    }
}

impl Waiting {
    /// Computes the digest of the request that is shown. A sidecar that says another one lies in
    /// one of the two.
    fn of(answer: Value) -> Result<Self, Failure> {
        let odd = |what: &str| Failure::Refused(format!("the sidecar's answer: {what}"));
        let waiting = &answer["approval"];
        let request = waiting["request"]
            .as_object()
            .ok_or_else(|| odd("it shows no request"))?;
        let canonical =
            identity::json::canonical(request).map_err(|error| odd(&error.to_string()))?;
        let digest = identity::sha256(&canonical);
        if waiting["request_digest"] != json!(digest) {
            return Err(odd(
                "its request_digest is not that of the request that it shows; nothing was signed",
            ));
        }
        let boot_id = BootId::from_hex(waiting["boot_id"].as_str().unwrap_or_default())
            .map_err(|_| odd("it names no boot"))?;
        Ok(Self {
            digest,
            boot_id,
            answer,
        })
    }

    /// Shows it on the terminal, and asks there.
    fn confirm(&self) -> Result<(), Failure> {
        let (input, mut terminal) = (std::io::stdin().lock(), std::io::stderr().lock());
        if !(input.is_terminal() && terminal.is_terminal()) {
            return Err(Failure::Usage(
                "there is no terminal to ask on: look first (without --key), then give the digest of what you saw, --digest HEX"
                    .into(),
            ));
        }
        // Letters that look like others are written as numbers here.
        writeln!(
            terminal,
            "{}",
            ascii(&serde_json::to_string_pretty(&self.answer).unwrap_or_default())
        )?;
        // What a long payload has pushed off the screen stands there again.
        let request = &self.answer["approval"]["request"];
        for (name, value) in [
            ("identity", &request["identity"]),
            ("action", &request["intent"]["action"]),
            ("target", &request["intent"]["target"]),
            ("resource", &request["intent"]["resource"]),
            ("audience", &request["audience"]),
        ] {
            writeln!(terminal, "{name}: {}", ascii(&value.to_string()))?;
        }
        write!(
            terminal,
            "Approve exactly this request, {}? Type yes: ",
            self.digest
        )?;
        terminal.flush()?;
        let mut typed = String::new();
        std::io::Read::take(input, 16).read_line(&mut typed)?;
        match typed.trim() {
            "yes" => Ok(()),
            _ => Err(Failure::Refused("nothing was signed".into())),
        }
    }
}

/// JSON of the same value in ASCII alone (RFC 8259, section 7).
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' | ' '..='~' => text.push(c),
            _ => c
                .encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| text.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    text
}
