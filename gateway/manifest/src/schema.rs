use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Map, Value};

use crate::Error;

/// The JSON Schema (draft-07) of a manifest. Members that it does not name are allowed.
pub const SCHEMA: &str = include_str!("schema.json");

static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let schema: Value = serde_json::from_str(SCHEMA).expect("a file of ours");
    jsonschema::draft7::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("a schema of ours")
});

/// The first of what the schema refuses.
pub(crate) fn validate(document: &Map<String, Value>) -> Result<(), Error> {
    let document = Value::Object(document.clone());
    VALIDATOR.validate(&document).map_err(|error| {
        let place = error.instance_path().to_string();
        Error::Invalid {
            place: if place.is_empty() { "/".into() } else { place },
            why: error.to_string(),
        }
    })
}
