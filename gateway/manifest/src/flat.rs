//! The flat form, and one document that is both.

use jiff::SignedDuration;
use serde_json::{Map, Value, json};

use crate::Error;

type Document = Map<String, Value>;
/// An object of the document, or the document itself, and a member of it.
type Path = (Option<&'static str>, &'static str);

/// One meaning, and its member in each form.
struct Pair {
    schema: Path,
    flat: Path,
    unit: Unit,
    /// What is meant where both are left out; none if nothing is.
    default: Option<Default>,
}

/// How the flat form writes what the schema form writes as it is, or as a number.
#[derive(Clone, Copy)]
enum Unit {
    Same,
    /// `24h`; a number of seconds.
    Seconds,
    /// `2000ms`; a number of milliseconds.
    Milliseconds,
}

#[derive(Clone, Copy)]
enum Default {
    Text(&'static str),
    /// In the schema form, and in the flat form.
    Bool(bool, bool),
}

const PRIVACY: &str = "privacy";
const CONTRACT: &str = "privacy_contract";

const PAIRS: [Pair; 9] = [
    same((Some("identity"), "agent_id"), (None, "agent_id"), None),
    same(
        (Some("reversibility"), "level"),
        (Some("capabilities"), "reversibility"),
        Some(Default::Text("none")),
    ),
    same(
        (Some(PRIVACY), "retention_policy"),
        (Some(CONTRACT), "retention"),
        Some(Default::Text("temporary")),
    ),
    same(
        (Some(PRIVACY), "storage_location"),
        (Some(CONTRACT), "storage_location"),
        None,
    ),
    same(
        (Some(PRIVACY), "human_in_loop"),
        (Some(CONTRACT), "human_review"),
        Some(Default::Bool(false, false)),
    ),
    same(
        (Some(PRIVACY), "encryption_at_rest"),
        (Some(CONTRACT), "encryption_at_rest"),
        Some(Default::Bool(false, true)),
    ),
    same(
        (Some(PRIVACY), "encryption_in_transit"),
        (Some(CONTRACT), "encryption_in_transit"),
        Some(Default::Bool(true, true)),
    ),
    Pair {
        schema: (Some("reversibility"), "undo_window_seconds"),
        flat: (Some("capabilities"), "undo_window"),
        unit: Unit::Seconds,
        default: None,
    },
    Pair {
        schema: (Some("capabilities"), "sla_latency_ms"),
        flat: (Some("capabilities"), "sla_latency"),
        unit: Unit::Milliseconds,
        default: None,
    },
];

const fn same(schema: Path, flat: Path, default: Option<Default>) -> Pair {
    Pair {
        schema,
        flat,
        unit: Unit::Same,
        default,
    }
}

/// Completes each form from the other one.
pub(crate) fn both_forms(mut document: Document) -> Result<Document, Error> {
    let is_flat = !document.contains_key("identity");
    if is_flat && !document.contains_key("agent_id") {
        return Err(Error::NoForm);
    }
    one_retention(&mut document)?;
    if is_flat {
        for (name, value) in [("trust_level", "standard"), ("protocol_version", "1.0")] {
            let entry = document.entry(name.to_owned());
            entry.or_insert_with(|| json!(value));
        }
        // The flat form has no owner; the schema wants one.
        set(&mut document, (Some("identity"), "owner"), json!("unknown"))?;
    }
    for pair in &PAIRS {
        complete(&mut document, pair, is_flat)?;
    }
    Ok(document)
}

fn complete(document: &mut Document, pair: &Pair, is_flat: bool) -> Result<(), Error> {
    let given = |path| member(document, path).cloned();
    let (schema, flat) = match (given(pair.schema), given(pair.flat)) {
        (Some(schema), Some(flat)) => {
            if pair.unit.of_flat(&flat, pair.flat)? != schema {
                return Err(Error::Contradiction(pair.schema.1, pair.flat.1));
            }
            return Ok(());
        }
        (Some(schema), None) => {
            let flat = pair.unit.of_schema(&schema);
            (schema, flat)
        }
        (None, Some(flat)) => (pair.unit.of_flat(&flat, pair.flat)?, Some(flat)),
        (None, None) => match pair.default {
            Some(default) => {
                let value = default.value(is_flat);
                (value.clone(), Some(value))
            }
            None => return Ok(()),
        },
    };
    set(document, pair.schema, schema)?;
    // A value that the schema refuses has no flat form, and is refused next.
    flat.map_or(Ok(()), |flat| set(document, pair.flat, flat))
}

impl Default {
    fn value(self, is_flat: bool) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Bool(_, flat) if is_flat => json!(flat),
            Self::Bool(schema, _) => json!(schema),
        }
    }
}

impl Unit {
    fn of_flat(self, flat: &Value, path: Path) -> Result<Value, Error> {
        let invalid = || Error::Invalid {
            place: pointer(path),
            why: "a duration such as 24h or 2000ms".into(),
        };
        let duration = || {
            let text = flat.as_str().ok_or_else(invalid)?;
            let duration: SignedDuration = text.parse().map_err(|_| invalid())?;
            if duration.is_negative() {
                return Err(invalid());
            }
            Ok(duration)
        };
        Ok(match self {
            Self::Same => flat.clone(),
            Self::Seconds => json!(duration()?.as_secs()),
            Self::Milliseconds => {
                json!(i64::try_from(duration()?.as_millis()).map_err(|_| invalid())?)
            }
        })
    }

    fn of_schema(self, schema: &Value) -> Option<Value> {
        let number = || schema.as_u64();
        match self {
            Self::Same => Some(schema.clone()),
            Self::Seconds => number().map(|seconds| json!(format!("{seconds}s"))),
            Self::Milliseconds => number().map(|milliseconds| json!(format!("{milliseconds}ms"))),
        }
    }
}

/// The reference architecture's name for the schema's member.
fn one_retention(document: &mut Document) -> Result<(), Error> {
    let Some(named) = member(document, (Some(PRIVACY), "retention")).cloned() else {
        return Ok(());
    };
    match member(document, (Some(PRIVACY), "retention_policy")) {
        Some(policy) if *policy != named => Err(Error::Contradiction(
            "privacy.retention_policy",
            "privacy.retention",
        )),
        Some(_) => Ok(()),
        None => set(document, (Some(PRIVACY), "retention_policy"), named),
    }
}

fn member(document: &Document, (object, name): Path) -> Option<&Value> {
    match object {
        Some(object) => document.get(object)?.get(name),
        None => document.get(name),
    }
}

fn set(document: &mut Document, path: Path, value: Value) -> Result<(), Error> {
    let (object, name) = path;
    let map = match object {
        Some(object) => {
            let entry = document.entry(object.to_owned());
            let object_or = entry.or_insert_with(|| json!({}));
            object_or.as_object_mut().ok_or_else(|| Error::Invalid {
                place: format!("/{object}"),
                why: "it is not an object".into(),
            })?
        }
        None => document,
    };
    map.insert(name.to_owned(), value);
    Ok(())
}

fn pointer((object, name): Path) -> String {
    match object {
        Some(object) => format!("/{object}/{name}"),
        None => format!("/{name}"),
    }
}
