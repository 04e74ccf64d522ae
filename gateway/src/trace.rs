//! The id under which a request is written down.

use hyper::HeaderMap;
use uuid::Uuid;

use crate::callers::Caller;

/// What a request is written down under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Its id, which its caller may choose.
    pub id: Uuid,
    /// Who that is, where it is known.
    pub caller: Option<Caller>,
}

/// The header of requests and answers.
pub const HEADER: &str = "x-agent-trace-id";

/// That of the request if it is one UUID, in lower case with hyphens; else a new one. It names what
/// is looked up later, so nothing else than a UUID is taken.
pub fn id(headers: &HeaderMap) -> Uuid {
    let mut values = headers.get_all(HEADER).iter();
    let given = values.next().filter(|_| values.next().is_none());
    given
        .and_then(|value| value.to_str().ok())
        .filter(|text| text.len() == 36)
        .and_then(|text| Uuid::try_parse(text).ok())
        .unwrap_or_else(Uuid::new_v4)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn only_one_uuid_is_taken() {
        let given = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, HeaderValue::from_str(value).unwrap());
            }
            id(&headers).to_string()
        };
        assert_eq!(of(&[given]), given);
        assert_eq!(of(&[&given.to_uppercase()]), given);
        for other in [
            &["../../x"][..],
            &["6ba7b8109dad11d180b400c04fd430c8"],
            &["{6ba7b810-9dad-11d1-80b4-00c04fd430c8}"],
            &[given, given],
            &[""],
            &[],
        ] {
            assert_ne!(of(other), given, "{other:?}");
            assert_ne!(of(other), of(other), "{other:?}");
        }
    }
}
