//! How things stand, on one screen.

use std::fmt::Write;

use clap::Args;
use identity::printable;
use serde_json::Value;

use super::Failure;
use super::calls::{Connection, answer};

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Print the sidecar's JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Status {
    pub(super) async fn fetch(&self) -> Result<Value, Failure> {
        answer(&self.connection.client()?.call("/status", None).await?)
    }

    /// Where it asks.
    pub(super) fn endpoint(&self) -> Result<String, Failure> {
        Ok(self.connection.uri()?)
    }
}

/// Why nothing could be signed now; none if it could.
pub(super) fn hindrance(status: &Value) -> Option<String> {
    if status["record"]["writing"] == false {
        return Some(
            "the decision record cannot be written, and nothing is signed meanwhile".into(),
        );
    }
    let enclave = &status["enclave"];
    (enclave["ready"] != true).then(|| {
        let code = enclave["code"].as_str().unwrap_or("unknown");
        format!("the enclave cannot sign now: {code}")
    })
}

/// For a person.
pub(super) fn text(status: &Value, endpoint: &str) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // What a sidecar says makes no lines of its own.
        let value = printable(&value).replace('\n', "\\n");
        let _ = writeln!(text, "{name:<9} {value}");
    };
    let word = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    line("sidecar", endpoint.to_owned());
    line("you are", caller(&status["caller"]));
    let enclave = &status["enclave"];
    line(
        "enclave",
        match (enclave["boot_id"].as_str(), enclave["ready"] == true) {
            (None, _) => format!("away ({})", word(&enclave["code"])),
            (Some(boot), true) => format!("ready, {}, boot {boot}", word(&enclave["tee"])),
            (Some(boot), false) => {
                format!("cannot sign ({}), boot {boot}", word(&enclave["code"]))
            }
        },
    );
    line("bundle", word(&status["bundle"]));
    line(
        "annex",
        match &status["annex"] {
            Value::Null if enclave["boot_id"].is_null() => "not known".into(),
            Value::Null => "none".into(),
            annex => format!("version {}, {}", annex["version"], word(&annex["digest"])),
        },
    );
    line(
        "clock",
        match &status["clock"] {
            Value::Null => "not known".into(),
            clock => word(&clock["earliest"]),
        },
    );
    let record = &status["record"];
    let writing = if record["writing"] == true {
        "written"
    } else {
        "CANNOT BE WRITTEN: nothing is signed"
    };
    line(
        "record",
        match &record["events"] {
            Value::Null => writing.into(),
            events => format!("{writing}, {events} events of this boot"),
        },
    );
    for identity in status["identities"].as_array().into_iter().flatten() {
        line(
            "identity",
            format!(
                "{} = {} (key version {}{})",
                word(&identity["name"]),
                word(&identity["did"]),
                identity["key_version"],
                custody(identity)
            ),
        );
        if identity["limits"].as_array().is_none_or(Vec::is_empty) {
            line("", "  no limits".into());
        }
        for limit in identity["limits"].as_array().into_iter().flatten() {
            let of = match &limit["rule"] {
                Value::Null => "in all".into(),
                rule => format!("rule {}", word(rule)),
            };
            let what = match &limit["amount"] {
                Value::Null => "requests".into(),
                amount => format!("of {}", word(amount)),
            };
            let (left, max, per) = (&limit["left"], &limit["max"], word(&limit["per"]));
            line("", format!("  {of}: {left} of {max} {what} per {per} left"));
        }
    }
    text
}

/// Where its key is kept, as far as the sidecar says.
fn custody(identity: &Value) -> String {
    match (identity["custody"].as_str(), identity["rollback"].as_str()) {
        (None, _) => String::new(),
        (Some(custody), None) => format!(", {custody}"),
        (Some(custody), Some(rollback)) => format!(", {custody}, rollback {rollback}"),
    }
}

/// The caller as the sidecar sees it.
fn caller(caller: &Value) -> String {
    let seen = caller["seen"].as_object();
    let mut seen: Vec<String> = seen
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| {
            format!(
                "{name} {}",
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned)
            )
        })
        .collect();
    if seen.is_empty() {
        seen.push("nobody that the sidecar knows".into());
    }
    let role = match (caller["admitted"] == true, caller["operator"] == true) {
        (true, true) => "a caller and an operator",
        (true, false) => "a caller",
        (false, true) => "an operator",
        (false, false) => "neither caller nor operator",
    };
    format!("{}: {role}", seen.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_sidecar_says_makes_no_lines_of_its_own() {
        let status = json!({
            "caller": {"seen": {"name": "x\nenclave   ready, aws-nitro"}, "admitted": true, "operator": false},
            "enclave": {"ready": false, "code": "\u{1b}[2Jaway"},
            "bundle": "00",
            "record": {"writing": true},
            "identities": [{"name": "a", "did": "d\nclock     now", "key_version": 1, "limits": []}],
        });
        let text = text(&status, "unix:///s");
        let names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split(' ').next())
            .filter(|name| !name.is_empty())
            .collect();
        let own = [
            "sidecar", "you", "enclave", "bundle", "annex", "clock", "record", "identity",
        ];
        assert_eq!(names, own, "{text}");
        assert!(
            !text.contains('\u{1b}') && text.contains("no limits"),
            "{text}"
        );
        assert!(text.contains("annex     not known"), "{text}");
        assert!(hindrance(&status).unwrap().contains("away"));
    }
}
