//! JSON that every implementation reads and canonicalises alike.
//!
//! Floats, integers beyond 2^53-1 and duplicate keys are refused here, at the door: implementations
//! of RFC 8785 disagree on the first two, JSON readers on the third.

mod typed;

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use self::typed::Typed;
use crate::Error;

/// The largest integer that every JSON reader keeps exact (RFC 8259 section 6).
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Nesting of a whole text.
const MAX_DEPTH: usize = 96;
/// Nesting of a payload: less, so that it can be read again where it stands inside of a token or a
/// credential.
const MAX_PAYLOAD_DEPTH: usize = 64;

/// Parses strictly; see the module's rules. Nesting deeper than 96 is refused.
pub fn parse(text: &[u8]) -> Result<Value, Error> {
    read(text, false)
}

/// The same for a document that is never canonicalised: numbers may have fractions.
pub fn parse_with_fractions(text: &[u8]) -> Result<Value, Error> {
    read(text, true)
}

fn read(text: &[u8], has_fractions: bool) -> Result<Value, Error> {
    let fault = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict {
        fault: &fault,
        depth: MAX_DEPTH,
        has_fractions,
    }
    .deserialize(&mut deserializer)
    .and_then(|value| {
        deserializer.end()?;
        Ok(value)
    });
    value.map_err(|error| {
        fault
            .take()
            .unwrap_or_else(|| Error::JsonMalformed(error.to_string()))
    })
}

/// Parses strictly, then reads the value as a `T`, for which an array is never an object.
pub fn parse_as<T: DeserializeOwned>(text: &[u8]) -> Result<T, Error> {
    typed(parse(text)?).map_err(|error| Error::JsonShape(error.to_string()))
}

/// Reads a value as a `T`, for which an array is never an object. Types that serde would read
/// through a buffer of its own, untagged and tagged ones, read their parts with this.
pub(crate) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, serde_json::Error> {
    T::deserialize(Typed(value))
}

/// The RFC 8785 form. Only for values that came through [`parse`] or were built from strings and
/// safe integers.
pub fn canonical<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_jcs::to_vec(value).map_err(|error| Error::JsonShape(error.to_string()))
}

/// A JSON object of the caller's, strict as [`parse`] demands. It is signed as it is, under a
/// member of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Payload(Map<String, Value>);

impl Payload {
    /// Parses strictly; anything but an object is refused.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        serde_json::from_value(parse(text)?).map_err(|error| Error::JsonShape(error.to_string()))
    }

    /// The value at an RFC 6901 pointer such as `/amount`.
    pub fn pointer(&self, pointer: &str) -> Option<&Value> {
        let (first, rest) = split_pointer(pointer)?;
        let value = self.0.get(&first)?;
        if rest.is_empty() {
            Some(value)
        } else {
            value.pointer(rest)
        }
    }

    /// The top-level members.
    pub fn members(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The names of the top-level members.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether every name in it, however deep, is below U+E000: then the order of bytes, in which
    /// it is kept, is also that of UTF-16 code units, which RFC 8785 wants.
    pub(crate) fn is_in_canonical_order(&self) -> bool {
        fn good(value: &Value) -> bool {
            match value {
                Value::Object(map) => map
                    .iter()
                    .all(|(name, value)| name.chars().all(|c| c < '\u{e000}') && good(value)),
                Value::Array(items) => items.iter().all(good),
                _ => true,
            }
        }
        self.0
            .iter()
            .all(|(name, value)| name.chars().all(|c| c < '\u{e000}') && good(value))
    }

    /// The object as a JSON value.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}

fn split_pointer(pointer: &str) -> Option<(String, &str)> {
    let after = pointer.strip_prefix('/')?;
    let end = after.find('/').unwrap_or(after.len());
    Some((
        after[..end].replace("~1", "/").replace("~0", "~"),
        &after[end..],
    ))
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fault = RefCell::new(None);
        match (Strict {
            fault: &fault,
            depth: MAX_PAYLOAD_DEPTH,
            has_fractions: false,
        })
        .deserialize(deserializer)
        {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(serde::de::Error::custom("a payload must be an object")),
            Err(error) => Err(fault.take().map_or(error, serde::de::Error::custom)),
        }
    }
}

/// Some readers, built with serde_json, take an object whose member begins so for something else
/// than an object.
const PRIVATE: &str = "$serde_json::private::";

/// Builds a [`Value`] and leaves the typed reason of a refusal in `fault`.
#[derive(Clone, Copy)]
struct Strict<'a> {
    fault: &'a RefCell<Option<Error>>,
    /// How many levels may still follow.
    depth: usize,
    has_fractions: bool,
}

impl Strict<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Self { depth, ..self }),
            None => Err(self.refuse(Error::JsonTooDeep)),
        }
    }

    fn refuse<E: serde::de::Error>(self, error: Error) -> E {
        let text = error.to_string();
        *self.fault.borrow_mut() = Some(error);
        E::custom(text)
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() > MAX_SAFE_INTEGER {
            return Err(self.refuse(Error::JsonIntegerRange));
        }
        Ok(Value::from(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        if value > MAX_SAFE_INTEGER {
            return Err(self.refuse(Error::JsonIntegerRange));
        }
        Ok(Value::from(value))
    }

    /// serde_json also brings integers beyond 64 bits here; those have no fraction and are far out
    /// of range.
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        if self.has_fractions {
            return Ok(Value::from(value));
        }
        let huge = value.abs() >= 9_007_199_254_740_992.0 && value.fract() == 0.0;
        Err(self.refuse(if huge {
            Error::JsonIntegerRange
        } else {
            Error::JsonFloat
        }))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if map.contains_key(&name) {
                return Err(self.refuse(Error::JsonDuplicateKey(name)));
            }
            if name.starts_with(PRIVATE) {
                return Err(self.refuse(Error::JsonPrivateName));
            }
            let value = members.next_value_seed(inner)?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_whose_names_sort_alike_in_bytes_and_in_utf_16_is_known() {
        for (text, known) in [
            ("{}", true),
            ("{\"b\":1,\"a\":[{\"\u{d7ff}\":[]}]}", true),
            ("{\"\u{e000}\":1}", false),
            ("{\"\u{10000}\":1}", false),
            ("{\"a\":[1,{\"\u{e000}\":1}]}", false),
            ("{\"a\":{\"\u{10000}\":1}}", false),
        ] {
            assert_eq!(
                Payload::parse(text.as_bytes())
                    .unwrap()
                    .is_in_canonical_order(),
                known,
                "{text}"
            );
        }
    }

    #[test]
    fn what_cannot_be_canonicalised_alike_everywhere_is_refused() {
        for (text, code) in [
            ("{\"a\":1.5}", "json_float"),
            (
                "{\"a\":[{\"$serde_json::private::Number\":\"1e2000000000\"}]}",
                "json_private_name",
            ),
            (
                "{\"$serde_json::private::RawValue\":\"1\"}",
                "json_private_name",
            ),
            ("{\"a\":1.0}", "json_float"),
            ("{\"a\":1e2}", "json_float"),
            ("[-0]", "json_float"),
            ("[9007199254740992]", "json_integer_range"),
            ("[-9007199254740992]", "json_integer_range"),
            ("[18446744073709551615]", "json_integer_range"),
            ("[99999999999999999999999]", "json_integer_range"),
            ("{\"a\":1,\"a\":1}", "json_duplicate_key"),
            ("{\"x\":[{\"a\":1,\"\\u0061\":2}]}", "json_duplicate_key"),
            ("", "json_malformed"),
            ("{", "json_malformed"),
            ("{} {}", "json_malformed"),
            ("[1e999]", "json_malformed"),
            ("\"\\ud800\"", "json_malformed"),
            ("NaN", "json_malformed"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().code(), code, "{text}");
        }
        assert_eq!(
            parse(&[b'"', 0xff, b'"']).unwrap_err().code(),
            "json_malformed"
        );
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(parse(deep.as_bytes()).unwrap_err().code(), "json_too_deep");
        let nested = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        assert!(parse(nested(96).as_bytes()).is_ok());
        assert_eq!(
            parse(nested(97).as_bytes()).unwrap_err().code(),
            "json_too_deep"
        );
        assert!(Payload::parse(nested(64).as_bytes()).is_ok());
        assert!(Payload::parse(nested(65).as_bytes()).is_err());
        let text = b"[9007199254740991,-9007199254740991,null,true,false,\"a\",\"\\u20ac\\n\",{\"b\":{}},[],0]";
        assert_eq!(
            parse(text).unwrap(),
            serde_json::from_slice::<Value>(text).unwrap()
        );
    }

    #[test]
    fn fractions_are_read_where_nothing_is_canonicalised() {
        let text = b"{\"a\":[0.5,-1.25e2,1]}";
        assert_eq!(
            parse_with_fractions(text).unwrap(),
            serde_json::from_slice::<Value>(text).unwrap()
        );
        for (text, code) in [
            ("[0.5,NaN]", "json_malformed"),
            ("{\"a\":0.5,\"a\":1}", "json_duplicate_key"),
            ("[9007199254740992]", "json_integer_range"),
        ] {
            let error = parse_with_fractions(text.as_bytes()).unwrap_err();
            assert_eq!(error.code(), code, "{text}");
        }
    }

    #[test]
    fn a_payload_is_an_object_and_gives_back_what_it_was_made_of() {
        let text = b"{\"a\":{\"b/c\":{\"~\":[true]}},\"x\":1}";
        let payload = Payload::parse(text).unwrap();
        assert_eq!(payload.names().collect::<Vec<_>>(), ["a", "x"]);
        assert_eq!(payload.pointer("/a/b~1c/~0/0"), Some(&Value::Bool(true)));
        assert_eq!(payload.pointer("/x"), Some(&Value::from(1)));
        for nothing in ["", "x", "/y", "/a/b", "/x/0"] {
            assert_eq!(payload.pointer(nothing), None, "{nothing}");
        }
        assert_eq!(
            payload.into_value(),
            serde_json::from_slice::<Value>(text).unwrap()
        );
        for no_object in ["[]", "1", "null", "\"{}\""] {
            assert_eq!(
                Payload::parse(no_object.as_bytes()).unwrap_err().code(),
                "json_shape"
            );
            let error = serde_json::from_str::<Payload>(no_object)
                .unwrap_err()
                .to_string();
            assert!(error.contains("a payload must be an object"), "{error}");
        }
        let error = serde_json::from_str::<Payload>("{\"a\":1.5}")
            .unwrap_err()
            .to_string();
        assert!(error.contains(&Error::JsonFloat.to_string()), "{error}");
    }

    #[test]
    fn canonical_form_is_that_of_rfc_8785() {
        // The property sorting example of RFC 8785 section 3.2.3: order by UTF-16 code units.
        let text = "{\"\\u20ac\":\"Euro\",\"\\r\":\"CR\",\"\\ufb33\":\"Dalet\",\"1\":\"One\",\"\\ud83d\\ude00\":\"Smiley\",\
                    \"\\u0080\":\"Control\",\"\\u00f6\":\"o\"}";
        let form = canonical(&parse(text.as_bytes()).unwrap()).unwrap();
        let expected = "{\"\\r\":\"CR\",\"1\":\"One\",\"\u{80}\":\"Control\",\"\u{f6}\":\"o\",\"\u{20ac}\":\"Euro\",\
                        \"\u{1f600}\":\"Smiley\",\"\u{fb33}\":\"Dalet\"}";
        assert_eq!(String::from_utf8(form).unwrap(), expected);
        let strings = parse(b"[\"\\u000f\\n\\\"\\\\\\/\\u007f\\u2028\"]").unwrap();
        assert_eq!(
            canonical(&strings).unwrap(),
            "[\"\\u000f\\n\\\"\\\\/\u{7f}\u{2028}\"]".as_bytes()
        );
    }

    #[test]
    fn a_pointer_reaches_into_a_payload() {
        let payload = Payload::parse(b"{\"a\":{\"b/c\":[1,2]},\"d\":3}").unwrap();
        assert_eq!(payload.pointer("/a/b~1c/1"), Some(&Value::from(2)));
        assert_eq!(payload.pointer("/d"), Some(&Value::from(3)));
        assert_eq!(payload.pointer("d"), None);
        assert_eq!(payload.pointer(""), None);
        for not_an_object in ["null", "[]", "1", "\"x\""] {
            assert_eq!(
                Payload::parse(not_an_object.as_bytes()).unwrap_err().code(),
                "json_shape"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn canonicalising_twice_changes_nothing(text in "\\PC{0,40}", number in -9_007_199_254_740_991_i64..=9_007_199_254_740_991) {
            let value = serde_json::json!({ text.clone(): [number, text, null] });
            let once = canonical(&value).unwrap();
            proptest::prop_assert_eq!(&parse(&once).unwrap(), &value);
            proptest::prop_assert_eq!(canonical(&parse(&once).unwrap()).unwrap(), once);
        }
    }
}
