//! What is asked for: a path and a query, in the one form that is judged and sent.

use data_encoding::HEXUPPER;
use identity::resource;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use policy::Upstream;
use zeroize::Zeroizing;

use crate::Error;

/// All but what stands everywhere as it is (RFC 3986 section 2.3).
pub(crate) const NOT_UNRESERVED: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The longest path and query together, in bytes.
const MAX_TARGET: usize = 8 * 1024;

/// A path and a query in their one form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The URL without its query: what rules, labels and records know.
    resource: String,
    /// Where the path begins that rules see.
    rule_path: usize,
    /// Where the path begins that is sent.
    sent_path: usize,
    query: Option<String>,
}

impl Target {
    /// Of what an agent asks for, behind the service's name: it begins with `/`, unless it is empty.
    ///
    /// The path is decoded once: what is percent-encoded and could stand there as it is, stands there;
    /// the rest is percent-encoded in upper case. What several readers would read in several ways is
    /// refused: `//`, `.` and `..`, backslashes, and `. / \ % ? #` or control characters that are
    /// percent-encoded. A query is sent as it came.
    pub fn new(upstream: &Upstream, asked: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::PathNotCanonical(why.to_owned());
        if asked.len() > MAX_TARGET {
            return Err(wrong("longer than 8 KiB"));
        }
        let (path, query) = match asked.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (asked, None),
        };
        if !path.starts_with('/') && !path.is_empty() {
            return Err(wrong("it does not begin with /"));
        }
        let good = |b: u8| b.is_ascii_graphic() && b != b'#';
        if query.is_some_and(|query| !query.bytes().all(good)) {
            return Err(wrong("a query is printable ASCII, without #"));
        }
        let rule_path = upstream.as_str().len();
        let mut url = String::with_capacity(rule_path + path.len());
        url.push_str(upstream.as_str());
        url.push_str(&canonical(if path.is_empty() { "/" } else { path })?);
        resource::check(&url).map_err(|error| wrong(&error.to_string()))?;
        Ok(Self {
            sent_path: rule_path - upstream.path().len(),
            resource: url,
            rule_path,
            query: query.map(str::to_owned),
        })
    }

    /// The URL, without a query.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// The path by which rules know it: without the path of the service's own URL.
    pub fn rule_path(&self) -> &str {
        &self.resource[self.rule_path..]
    }

    /// The path as it is sent, with that of the service's own URL.
    pub(crate) fn sent_path(&self) -> &str {
        &self.resource[self.sent_path..]
    }

    /// Path and query as they are sent (RFC 9112 section 3.2.1): `segment` before what was asked for,
    /// and `parameter` behind all of it.
    pub(crate) fn origin_form(&self, segment: &str, parameter: &str) -> Zeroizing<String> {
        let query = self.query.as_deref();
        let path = &self.resource[self.sent_path..];
        let (own, asked) = path.split_at(self.rule_path - self.sent_path);
        let mark = |is_there: bool, mark| if is_there { mark } else { "" };
        let parts = [
            own,
            segment,
            asked,
            mark(query.is_some() || !parameter.is_empty(), "?"),
            query.unwrap_or_default(),
            mark(
                !parameter.is_empty() && query.is_some_and(|query| !query.is_empty()),
                "&",
            ),
            parameter,
        ];
        // At once, so that nothing of it is left where it was too long.
        let mut form = Zeroizing::new(String::with_capacity(
            parts.iter().map(|part| part.len()).sum(),
        ));
        parts.iter().for_each(|part| form.push_str(part));
        form
    }

    /// The query, without its `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
}

/// Each byte as it stands in a path, or percent-encoded if it cannot.
fn canonical(path: &str) -> Result<String, Error> {
    let wrong = |why: &str| Error::PathNotCanonical(why.to_owned());
    let mut out = String::with_capacity(path.len());
    let bytes = path.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let (byte, encoded) = if byte == b'%' {
            let digits = bytes
                .get(at + 1..at + 3)
                .and_then(|digits| std::str::from_utf8(digits).ok());
            let hex = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
            let value = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
            at += 3;
            (
                value.ok_or_else(|| wrong("a % without two hex digits behind it"))?,
                true,
            )
        } else {
            at += 1;
            (byte, false)
        };
        match byte {
            b'/' if !encoded => out.push('/'),
            b'/' | b'\\' | b'%' | b'?' | b'#' => {
                return Err(wrong("a backslash, or one of / \\ % ? # percent-encoded"));
            }
            // Where servers that decode again would see a step.
            b'.' if encoded => return Err(wrong("a percent-encoded dot")),
            _ if byte.is_ascii_control() || byte == b' ' && !encoded => {
                return Err(wrong("a space or a control character"));
            }
            _ if is_pchar(byte) => out.push(char::from(byte)),
            _ => {
                out.push('%');
                out.push_str(&HEXUPPER.encode(&[byte]));
            }
        }
    }
    Ok(out)
}

/// RFC 3986 section 3.3.
fn is_pchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(asked: &str) -> Result<Target, Error> {
        let upstream = Upstream::try_from("https://api.example:8443/v0".to_owned()).unwrap();
        Target::new(&upstream, asked)
    }

    #[test]
    fn what_is_judged_is_what_is_sent() {
        for (asked, rule, sent) in [
            ("", "/", "/v0/"),
            ("/", "/", "/v0/"),
            ("/chat", "/chat", "/v0/chat"),
            ("/chat/", "/chat/", "/v0/chat/"),
            ("/chat?a=b%2f..%2f&c", "/chat", "/v0/chat?a=b%2f..%2f&c"),
            ("/chat?", "/chat", "/v0/chat?"),
            ("/%63hat", "/chat", "/v0/chat"),
            ("/a%20b", "/a%20b", "/v0/a%20b"),
            ("/a%40b", "/a@b", "/v0/a@b"),
            ("/a%c3%a9", "/a%C3%A9", "/v0/a%C3%A9"),
            ("/a\u{e9}|", "/a%C3%A9%7C", "/v0/a%C3%A9%7C"),
            ("/.../x", "/.../x", "/v0/.../x"),
        ] {
            let target = target(asked).unwrap_or_else(|error| panic!("{asked}: {error}"));
            assert_eq!(
                (target.rule_path(), &**target.origin_form("", "")),
                (rule, sent),
                "{asked}"
            );
            assert_eq!(
                target.resource(),
                format!("https://api.example:8443/v0{rule}")
            );
        }
        let root = Upstream::try_from("https://api.example".to_owned()).unwrap();
        let target = Target::new(&root, "/x?y").unwrap();
        let all = (
            target.rule_path(),
            &**target.origin_form("", ""),
            target.resource(),
        );
        assert_eq!(all, ("/x", "/x?y", "https://api.example/x"));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for bad in [
            "chat",
            "@evil.example/",
            ":80/",
            ".evil.example/x",
            "//evil.example/x",
            "/a//b",
            "/a//",
            "/..",
            "/../admin",
            "/a/../b",
            "/a/./b",
            "/%2e%2e/b",
            "/.%2E/b",
            "/a%2eb",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a%0d%0ab",
            "/a%0a",
            "/%252e%252e/",
            "/a%25",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%+1",
            "/a b",
            "/a\tb",
            "/a\r\nHost: x",
            "/a#b",
            "/a%23b",
            "/a%3fb",
            "/..;/b",
            "/a?b#c",
            "/a?b c",
            "/a?\r\n",
            "/a?\u{e9}",
            "/a%7f",
            "/a%ff",
            "/%c3",
        ] {
            assert!(
                matches!(target(bad), Err(Error::PathNotCanonical(_))),
                "{bad:?}"
            );
        }
        assert!(target(&format!("/{}", "a".repeat(MAX_TARGET))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn a_form_is_its_own_form(asked in "(/[ -~\u{e9}]{0,12}){0,4}") {
            if let Ok(once) = target(&asked) {
                let again = format!("{}{}", once.rule_path(), once.query().map_or(String::new(), |q| format!("?{q}")));
                proptest::prop_assert_eq!(target(&again).unwrap(), once);
            }
        }
    }
}
