//! Puts a credential into a body or a message, in place of what the agent has there: at the one place that
//! the bundle names, once, or nowhere.

use std::fmt;
use std::ops::Range;

use policy::Inject;
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::form::{encoded, parameter};
use crate::headers::read_as;
use crate::{Error, Header};

/// Bodies and messages in which a credential is put have so many bytes at most.
pub const MAX_PLACED: usize = 2 * 1024 * 1024;

/// Where in a body or a message, and what is put there.
pub struct Field {
    /// A JSON Pointer (RFC 6901) if it begins with `/`, or else the name of a field of a form.
    pub name: String,
    /// Printable ASCII.
    pub value: Zeroizing<Vec<u8>>,
}

fn misplaced(why: &'static str) -> Error {
    Error::PlaceholderMisplaced(why)
}

/// Refuses a body of which it is not sure that its service reads the same as what is done here.
pub fn check_field(inject: &Inject, headers: &[Header], length: Option<u64>) -> Result<(), Error> {
    let Some(name) = &inject.field else {
        return Ok(());
    };
    if length.is_none_or(|length| length > MAX_PLACED as u64) {
        return Err(misplaced("the body is longer than 2 MiB"));
    }
    let value_of = |name: &str| {
        let mut all = headers
            .iter()
            .filter(|header| read_as(&header.name) == name);
        all.next().map(|header| header.value.to_ascii_lowercase())
    };
    if value_of("content-encoding").is_some_and(|coding| coding != b"identity") {
        return Err(misplaced("the body is encoded"));
    }
    let kind = value_of("content-type").unwrap_or_default();
    let mut parts = kind.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let wanted: &[u8] = match name.starts_with('/') {
        true => b"application/json",
        false => b"application/x-www-form-urlencoded",
    };
    // In another charset a service would read another text.
    if parts.next() != Some(wanted) || !parts.all(|part| part == b"charset=utf-8") {
        return Err(misplaced(match name.starts_with('/') {
            true => "the body is no application/json",
            false => "the body is no application/x-www-form-urlencoded",
        }));
    }
    Ok(())
}

impl Field {
    /// Of a credential, if this is where it is put.
    pub(crate) fn of(inject: &Inject, secret: &[u8]) -> Option<Self> {
        let name = inject.field.as_ref().or(inject.message.as_ref())?;
        Some(Self {
            name: name.clone(),
            value: formatted(inject, secret),
        })
    }

    /// A body with the credential in it, in which the agent has something in its place.
    pub fn place_in_body(&self, body: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let placed = match self.name.starts_with('/') {
            true => self.place_in_json(body)?,
            false => self.place_in_form(body)?,
        };
        placed.ok_or_else(|| misplaced("nothing stands in its place in the body"))
    }

    /// A text with the credential in it; none if it is no JSON, or has no string at that place.
    pub fn place_in_json(&self, text: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let Ok(text) = str::from_utf8(text) else {
            return Ok(None);
        };
        let names: Vec<&str> = self.name.split('/').skip(1).collect();
        let Some(found) = find(text, &names)? else {
            return Ok(None);
        };
        let mut value = Zeroizing::new(Vec::with_capacity(self.value.len() * 2 + 2));
        value.push(b'"');
        for byte in self.value.iter() {
            if b"\"\\".contains(byte) {
                value.push(b'\\');
            }
            value.push(*byte);
        }
        value.push(b'"');
        Ok(Some(spliced(text.as_bytes(), found, &value)))
    }

    fn place_in_form(&self, form: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let Ok(form) = str::from_utf8(form) else {
            return Err(misplaced("the form is no UTF-8"));
        };
        // Some read it for `&`.
        if form.contains(';') {
            return Err(misplaced("a ; stands in the form"));
        }
        let (mut at, mut found) = (0, None);
        for part in form.split('&') {
            let name = parameter(part).0;
            let is_it = name == self.name;
            if is_it || folded(&name).contains(&in_no_case(&self.name.replace(['.', '-'], "_"))) {
                if !is_it || found.is_some() {
                    return Err(misplaced("its field stands in the form twice"));
                }
                found = Some(at..at + part.len());
            }
            at += part.len() + 1;
        }
        let value = Zeroizing::new(format!("{}={}", self.name, *encoded(&self.value)));
        Ok(found.map(|found| spliced(form.as_bytes(), found, value.as_bytes())))
    }
}

/// A credential as it stands in a header, a field or a message.
pub(crate) fn formatted(inject: &Inject, secret: &[u8]) -> Zeroizing<Vec<u8>> {
    let format = inject.format.as_deref().unwrap_or("{}");
    let (before, after) = format.split_once("{}").unwrap_or_default();
    Zeroizing::new([before.as_bytes(), secret, after.as_bytes()].concat())
}

/// The names as which some read one of a form: PHP takes what stands before a bracket, or `_` for one that is not closed, and for
/// `.` and blanks, none of which it leaves at the beginning; it stops at NUL.
fn folded(name: &str) -> [String; 2] {
    let name = name
        .trim_start_matches(' ')
        .split('\0')
        .next()
        .unwrap_or(name);
    let plain = |name: &str| in_no_case(&name.replace(['.', ' ', '-', '['], "_"));
    let before = name.split('[').next().unwrap_or(name);
    [plain(before), plain(name)]
}

/// As readers compare that take no heed of case, Go's with those of Unicode too.
fn in_no_case(name: &str) -> String {
    name.to_lowercase().to_uppercase()
}

/// Of the length that it will have, so that no copy of it is left behind.
fn spliced(text: &[u8], place: Range<usize>, value: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut all = Zeroizing::new(Vec::with_capacity(text.len() - place.len() + value.len()));
    all.extend_from_slice(&text[..place.start]);
    all.extend_from_slice(value);
    all.extend_from_slice(&text[place.end..]);
    all
}

/// Where the string stands to which these names lead, each of an object within the one before; none if there
/// is no such one. A name that an object has twice is read in two ways, and so refused.
fn find(text: &str, names: &[&str]) -> Result<Option<Range<usize>>, Error> {
    let (mut at, mut value) = (0, text);
    for name in names {
        let member = Member { name };
        let mut reader = serde_json::Deserializer::from_str(value);
        let read = reader.deserialize_map(member);
        let Ok(read) = read.and_then(|found| reader.end().map(|()| found)) else {
            return Ok(None);
        };
        let found = match read {
            Found::Nothing => return Ok(None),
            Found::Twice => return Err(misplaced("a name on the way to it stands there twice")),
            Found::Once(found) => found.get(),
        };
        // What was read stands in what it was read of.
        at += found.as_ptr() as usize - value.as_ptr() as usize;
        value = found;
    }
    Ok(value.starts_with('"').then(|| at..at + value.len()))
}

/// Reads an object for the value of one of its members.
struct Member<'n> {
    name: &'n str,
}

enum Found<'t> {
    Nothing,
    Once(&'t RawValue),
    Twice,
}

impl<'t> Visitor<'t> for Member<'_> {
    type Value = Found<'t>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Found<'t>, A::Error> {
        let mut found = Found::Nothing;
        while let Some(name) = map.next_key::<String>()? {
            if name != self.name {
                map.next_value::<IgnoredAny>()?;
                // Some read names in any case.
                if in_no_case(&name) == in_no_case(self.name) {
                    found = Found::Twice;
                }
                continue;
            }
            let value = map.next_value()?;
            found = match found {
                Found::Nothing => Found::Once(value),
                _ => Found::Twice,
            };
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(name: &str, body: &str) -> Result<String, String> {
        let field = Field {
            name: name.to_owned(),
            value: Zeroizing::new(b"Bot a\"b\\c&d".to_vec()),
        };
        let placed = field.place_in_body(body.as_bytes());
        placed
            .map(|placed| String::from_utf8(placed.to_vec()).unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_credential_stands_in_json_where_a_string_stood_and_all_else_is_as_it_was() {
        let own = r#""Bot a\"b\\c&d""#;
        for (before, after) in [
            (r#"{"op":2,"d":{"token":"#, r#","x":1.50}}"#),
            (
                "\n{ \"d\" :\t{\"\\u0074oken\": ",
                " } , \"d2\":{\"token\":\"y\"}}\n",
            ),
            (r#"{"d":{"token2":"","Tokens":{},"token":"#, "}}"),
            (
                r#"{"é":"d","d":{"token":"#,
                r#","z":[[{"d":1}],"\u00e9"]}}"#,
            ),
        ] {
            for there in [r#""""#, r#""x""#, r#""\"}""#, "\"\u{e9}\""] {
                let text = format!("{before}{there}{after}");
                let wanted = Ok(format!("{before}{own}{after}"));
                assert_eq!(placed("/d/token", &text), wanted, "{text}");
            }
        }
        assert_eq!(placed("/t", r#"{"t":"x"}"#), Ok(format!("{{\"t\":{own}}}")));
    }

    #[test]
    fn what_is_not_there_once_or_is_no_string_is_no_place() {
        for nothing in [
            "",
            "x",
            "[]",
            "\"d\"",
            "{}",
            r#"{"d":"token"}"#,
            r#"{"d":{"token":null}}"#,
            r#"{"d":{"token":["x"]}}"#,
            r#"{"d":[{"token":"x"}]}"#,
            r#"{"token":"x"}"#,
            r#"{"d":{"token":"x"}"#,
            r#"{"d":{"token":"x"}} {}"#,
            r#"{"d":{"token":"x"},}"#,
        ] {
            let why = placed("/d/token", nothing).unwrap_err();
            assert!(why.contains("nothing stands"), "{nothing}: {why}");
        }
        for twice in [
            r#"{"d":{"token":"x"},"d":{"token":"y"}}"#,
            r#"{"d":{"token":"x"},"d":1}"#,
            r#"{"d":{"token":"x","\u0074oken":"y"}}"#,
            r#"{"d":{"token":"x","TOKEN":"y"}}"#,
            r#"{"D":{},"d":{"token":"x"}}"#,
            "{\"d\":{\"token\":\"x\",\"to\u{212a}en\":\"y\"}}",
        ] {
            let why = placed("/d/token", twice).unwrap_err();
            assert!(why.contains("twice"), "{twice}: {why}");
        }
        let deep = format!("{}{}", "{\"d\":".repeat(200_000), "}".repeat(200_000));
        assert!(placed("/d/token", &deep).is_err());
    }

    #[test]
    fn a_credential_stands_in_a_form_in_its_field() {
        let own = "token=Bot%20a%22b%5Cc%26d";
        for (form, wanted) in [
            ("token=x", own.to_owned()),
            ("a=b&token=&c=%20", format!("a=b&{own}&c=%20")),
            ("t%6Fken=x&a", format!("{own}&a")),
            ("a&&token", format!("a&&{own}")),
        ] {
            assert_eq!(placed("token", form), Ok(wanted), "{form}");
        }
        for (form, why) in [
            ("", "nothing stands"),
            ("tokens=x&my_token=y", "nothing stands"),
            ("token=x&Token=y", "twice"),
            ("token=x&token[]=y", "twice"),
            ("token%5B%5D=y", "twice"),
            ("token=x&+token=y", "twice"),
            ("token=x&token%00z=y", "twice"),
            ("token=x;a=b", "a ;"),
            ("token=x&token=y", "twice"),
            ("token=x&t%6fken=y", "twice"),
        ] {
            let refused = placed("token", form).unwrap_err();
            assert!(refused.contains(why), "{form}: {refused}");
        }
    }

    #[test]
    fn a_body_is_what_its_type_says_and_in_the_clear() {
        let check = |field: &str, headers: &[(&str, &str)]| {
            let inject = Inject {
                field: Some(field.to_owned()),
                ..Inject::default()
            };
            let header = |(name, value): &(&str, &str)| Header::new(name, value.as_bytes());
            let headers: Vec<Header> = headers.iter().map(header).collect();
            let good = |length| check_field(&inject, &headers, length).is_ok();
            assert!(!good(None) && !good(Some((2 << 20) + 1)));
            good(Some(2 << 20))
        };
        let json = ("content-type", "Application/JSON; charset=UTF-8");
        let form = ("content-type", "application/x-www-form-urlencoded");
        assert!(check("/token", &[json]) && check("token", &[form]));
        for (field, headers) in [
            ("/token", vec![form]),
            ("token", vec![json]),
            ("token", vec![]),
            ("/token", vec![json, ("content-encoding", "gzip")]),
            (
                "/token",
                vec![("content-type", "application/json; charset=utf-16")],
            ),
            ("/token", vec![("content-type", "application/jsonx")]),
            (
                "/token",
                vec![("content-type", "text/plain; x=application/json")],
            ),
        ] {
            assert!(!check(field, &headers), "{field} {headers:?}");
        }
    }
}
