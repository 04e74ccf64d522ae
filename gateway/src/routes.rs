//! What is different for some paths of the agent: bodies that are not looked through, and what a body
//! must be.

use jsonschema::Validator;
use serde_json::Value;

use crate::answer::Refusal;
use crate::grpc::{MEDIA_TYPE, is_grpc};

/// Routes, of which the first one that fits counts.
#[derive(Debug, Default)]
pub struct Routes(Vec<Route>);

/// One of them.
#[derive(Debug)]
pub struct Route {
    path: String,
    exempt: Vec<String>,
    schema: Option<Schema>,
}

/// What the JSON of a request must be.
#[derive(Debug)]
pub struct Schema(Validator);

impl Routes {
    /// In their order.
    pub fn new(routes: Vec<Route>) -> Self {
        Self(routes)
    }

    /// The one for this path, decoded. Parameters (RFC 3986 section 3.3) and a slash at the end are a
    /// matter of spelling for many an agent.
    pub fn of(&self, path: &str) -> Option<&Route> {
        if self.0.is_empty() {
            return None;
        }
        let segments: Vec<&str> = path
            .split('/')
            .map(|it| it.split(';').next().unwrap_or(it))
            .collect();
        let plain = segments.join("/");
        let plain = plain.trim_end_matches('/');
        let plain = if plain.is_empty() { "/" } else { plain };
        let fits = |route: &&Route| route.fits(path) || route.fits(plain);
        self.0.iter().find(fits)
    }
}

impl Route {
    /// Of one path, or of all that begin so if it ends with `*`. Media types may end with `/*`.
    pub fn new(path: String, exempt: &[String], schema: Option<Schema>) -> Self {
        let exempt = exempt
            .iter()
            .map(|kind| kind.to_ascii_lowercase())
            .collect();
        Self {
            path,
            exempt,
            schema,
        }
    }

    /// Whether bodies of this Content-Type pass without being looked through. However the messages of
    /// gRPC are encoded, they are of one type.
    pub fn exempts(&self, media_type: &str) -> bool {
        let essence = media_type.split(';').next().unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        let essence = match is_grpc(&essence) {
            true => MEDIA_TYPE,
            false => essence.as_str(),
        };
        self.exempt.iter().any(|kind| match kind.strip_suffix('*') {
            Some(family) => essence.starts_with(family),
            None => essence == kind,
        })
    }

    /// What the body of a request must be.
    pub fn schema(&self) -> Option<&Schema> {
        self.schema.as_ref()
    }

    fn fits(&self, path: &str) -> bool {
        match self.path.strip_suffix('*') {
            Some(begin) => path.starts_with(begin),
            None => path == self.path,
        }
    }
}

impl Schema {
    /// Of a JSON Schema; references lead nowhere else. The error says what is wrong with it.
    pub fn new(schema: &Value) -> Result<Self, String> {
        jsonschema::validator_for(schema)
            .map(Self)
            .map_err(|error| error.to_string())
    }

    /// Checks a JSON text. What is refused is said by its place, not by its value.
    pub fn check(&self, text: &[u8]) -> Result<(), Refusal> {
        let value: Value =
            serde_json::from_slice(text).map_err(|error| Refusal::NotJson(error.to_string()))?;
        self.0.validate(&value).map_err(|error| {
            let place = error.instance_path().to_string();
            let place = if place.is_empty() {
                "/"
            } else {
                place.as_str()
            };
            Refusal::NotValid(format!(
                "the body is not valid at {place}: {}",
                error.masked()
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_route_that_fits_counts() {
        let route = |path: &str, exempt: &[&str]| {
            let exempt: Vec<String> = exempt.iter().map(|kind| (*kind).to_owned()).collect();
            Route::new(path.into(), &exempt, None)
        };
        let routes = Routes::new(vec![
            route("/files/secret", &[]),
            route("/files/*", &["image/*", "Application/PDF"]),
            route("/a.Service/*", &["application/grpc"]),
        ]);
        let exempts = |path: &str, kind: &str| routes.of(path).is_some_and(|it| it.exempts(kind));
        assert!(exempts("/a.Service/Do", "application/grpc+proto"));
        assert!(exempts("/files/a", "image/png") && exempts("/files/", "application/pdf; x=1"));
        for (path, kind) in [
            ("/files/secret", "image/png"),
            ("/files", "image/png"),
            ("/files/secret/", "image/png"),
            ("/files/secret;a=b", "image/png"),
            ("/files/a", "application/json"),
            ("/files/a", "image"),
            ("/a.Service/Do", "application/grpc-web"),
            ("/files/a", ""),
            ("/", "image/png"),
        ] {
            assert!(!exempts(path, kind), "{path} {kind}");
        }
    }

    #[test]
    fn what_does_not_fit_is_said_by_its_place_and_not_by_its_value() {
        let schema = serde_json::json!({"type": "object", "required": ["task"], "properties": {"n": {"type": "integer"}}});
        let schema = Schema::new(&schema).unwrap();
        assert_eq!(schema.check(br#"{"task": 1, "n": 2}"#), Ok(()));
        let refused = schema
            .check(br#"{"task": 1, "n": "4532015112830366"}"#)
            .unwrap_err();
        let text = refused.text();
        assert!(text.contains("/n") && !text.contains("4532"), "{text}");
        assert!(matches!(schema.check(b"[]"), Err(Refusal::NotValid(_))));
        assert!(matches!(schema.check(b"["), Err(Refusal::NotJson(_))));
        assert!(Schema::new(&serde_json::json!({"type": 1})).is_err());
    }
}
