//! Resources have many spellings, and policies compare texts. Where a label or a prefix decides
//! about a resource, it must have the one spelling that is described here; every other one is
//! refused, none is mended.
//!
//! - A URL of a special scheme (`http`, `https`, `ws`, `wss`, `ftp`, `file`; WHATWG URL, section
//!   3.1) is as that standard writes it:
//!   the scheme in lower case and `://`; no user information; the host in lower-case ASCII, without a dot at its end, an IPv4 address in
//!   four decimals, an IPv6 address as RFC 5952 has it; no default port; a path that begins with `/`; no query and no fragment.
//! - Other URIs with an authority (`mcp://...`) are held to the same, but that their path may be
//!   left out, which is then `/`, and their
//!   authority may be empty.
//! - In paths: no empty segment but the last, no `.` or `..` (also not before a `;`), no backslash;
//!   percent-encoded is, in upper-case hex,
//!   what cannot stand there as it is, and never `/`, `\`, `%`, `?`, `#` or a control character.
//! - Everything else is a name. It has no backslash, no `//`, no segment `.` or `..`, nothing
//!   percent-encoded that could stand there as it is, no
//!   space at its begin or end, and nothing invisible.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use crate::{Error, hides_nothing};

const SPECIAL: [(&str, Option<u16>); 6] = [
    ("http", Some(80)),
    ("https", Some(443)),
    ("ws", Some(80)),
    ("wss", Some(443)),
    ("ftp", Some(21)),
    ("file", None),
];

type Checked = Result<(), &'static str>;

/// Refuses a resource that is not spelled in the one way.
pub fn check(resource: &str) -> Result<(), Error> {
    check_text(resource, false).map_err(Error::ResourceNotCanonical)
}

/// The same, with the path `/` where a host has none: both are one resource (RFC 3986, section
/// 6.2.3).
pub fn with_path(resource: &str) -> Cow<'_, str> {
    match resource.split_once("://") {
        Some((_, rest)) if !rest.is_empty() && !rest.contains(['/', '?', '#']) => {
            Cow::Owned(format!("{resource}/"))
        }
        _ => Cow::Borrowed(resource),
    }
}

/// Refuses the text of a pattern to which a resource must be equal: here a URL may have a query and
/// a fragment.
pub fn check_exact(pattern: &str) -> Result<(), Error> {
    let path = match pattern.find(['?', '#']) {
        Some(at) if is_url(pattern) => {
            if !pattern[at..].bytes().all(|b| b.is_ascii_graphic()) {
                return Err(Error::ResourceNotCanonical(
                    "a query or fragment holds other than printable ASCII",
                ));
            }
            &pattern[..at]
        }
        _ => pattern,
    };
    check(path)
}

/// Refuses the text of a pattern with which a resource must begin: it ends behind `://` or within a
/// path, never within a host.
pub fn check_prefix(pattern: &str) -> Result<(), Error> {
    check_text(pattern, true).map_err(Error::ResourceNotCanonical)
}

fn check_text(text: &str, is_prefix: bool) -> Checked {
    if !is_url(text) {
        return check_name(text, is_prefix);
    }
    let (scheme, rest) = text
        .split_once("://")
        .ok_or("a URL has :// behind its scheme")?;
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    if !scheme.bytes().all(good) || !scheme.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err("a scheme is in lower case, with nothing before it");
    }
    let special = SPECIAL.iter().find(|(name, _)| *name == scheme);
    if is_prefix && rest.is_empty() {
        return Ok(());
    }
    let (authority, path) = match rest.find(['/', '?', '#', '\\']) {
        Some(at) => rest.split_at(at),
        None if is_prefix => {
            return Err("a prefix does not end within a host; end the host with /");
        }
        None => (rest, ""),
    };
    match (special, authority) {
        (Some(("file", _)), "") | (None, "") => {}
        (Some(("file", _)), _) => return Err("a file has no host"),
        (special, authority) => check_authority(authority, special.and_then(|(_, port)| *port))?,
    }
    match path.strip_prefix('/') {
        Some(path) => check_path(path, is_prefix),
        None if path.is_empty() && special.is_none() => Ok(()),
        None if path.is_empty() => Err("a path begins with /, also where nothing follows"),
        None => Err("no query, no fragment, no backslash"),
    }
}

/// Whether a text is a URI with an authority, or would be taken for a URL of a special scheme,
/// however it is spelled.
fn is_url(text: &str) -> bool {
    // WHATWG URL, section 4.4: what readers strip before they look at the scheme, and within it.
    let ignored = |c: char| c <= ' ';
    let scheme = text
        .split(':')
        .next()
        .unwrap_or_default()
        .replace(ignored, "")
        .to_ascii_lowercase();
    text.contains(':') && (text.contains("://") || SPECIAL.iter().any(|(name, _)| *name == scheme))
}

fn check_authority(authority: &str, default_port: Option<u16>) -> Checked {
    let (host, port) = match authority.rfind(':') {
        Some(at) if !authority[at..].contains(']') => {
            (&authority[..at], Some(&authority[at + 1..]))
        }
        _ => (authority, None),
    };
    if let Some(port) = port {
        let number: u16 = port.parse().map_err(|_| "a port is a number up to 65535")?;
        if number == 0 || number.to_string() != port || default_port == Some(number) {
            return Err(
                "a port is written without zeros before it, and not where it is the default",
            );
        }
    }
    if let Some(address) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        let parsed: Ipv6Addr = address.parse().map_err(|_| "not an IPv6 address")?;
        return if parsed.to_string() == address && !address.contains('.') {
            Ok(())
        } else {
            Err("an IPv6 address is as RFC 5952 has it")
        };
    }
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let mut last = "";
    for label in host.split('.') {
        if label.is_empty() || !label.bytes().all(good) {
            return Err(
                "a host has labels of a-z, 0-9, - and _, with one dot between them and none at its end, and no user before it",
            );
        }
        last = label;
    }
    // WHATWG URL, section 3.5: such a host is an IPv4 address, however it is written.
    let is_number = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    match host.parse::<std::net::Ipv4Addr>() {
        Ok(address) if address.to_string() == host => Ok(()),
        _ if is_number => Err("an IPv4 address is four decimal numbers"),
        _ => Ok(()),
    }
}

/// What stands behind the first `/`.
fn check_path(path: &str, is_prefix: bool) -> Checked {
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if segment.is_empty() && !is_last {
            return Err("no // in a path");
        }
        let is_open = is_last && is_prefix;
        if is_dots(segment) && !is_open {
            return Err("no . and .. in a path");
        }
        check_segment(segment, is_open)?;
    }
    Ok(())
}

/// `.` and `..`, also with parameters behind them: some servers take those away first.
fn is_dots(segment: &str) -> bool {
    matches!(segment.split(';').next(), Some("." | ".."))
}

fn check_segment(segment: &str, is_open: bool) -> Checked {
    let bytes = segment.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte != b'%' {
            if !is_pchar(byte) {
                return Err(
                    "a path holds a character that is percent-encoded there, or a query, a fragment, a backslash",
                );
            }
            decoded.push(byte);
            at += 1;
            continue;
        }
        let digits = bytes
            .get(at + 1..at + 3)
            .and_then(|digits| data_encoding::HEXUPPER.decode(digits).ok());
        let &[encoded] = digits.as_deref().unwrap_or_default() else {
            return Err("percent-encoded is two digits of upper-case hex");
        };
        if is_pchar(encoded) || b"/\\%?#".contains(&encoded) || encoded.is_ascii_control() {
            return Err(
                "percent-encoded is only what cannot stand there as it is, and never / \\ % ? # or a control character",
            );
        }
        decoded.push(encoded);
        at += 3;
    }
    match std::str::from_utf8(&decoded) {
        Ok(text) if !text.chars().any(char::is_control) => Ok(()),
        Err(error) if is_open && error.error_len().is_none() => Ok(()),
        _ => Err("percent-encoded is UTF-8 without control characters"),
    }
}

/// RFC 3986 section 3.3.
fn is_pchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

fn check_name(name: &str, is_prefix: bool) -> Checked {
    if name.contains('\\') || name.contains("//") {
        return Err("no backslash and no //");
    }
    if name.trim() != name && !is_prefix || name.trim_start() != name || !hides_nothing(name) {
        return Err("no space at its begin or end, and no invisible character");
    }
    for (at, _) in name.match_indices('%') {
        let encoded = name
            .get(at + 1..at + 3)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if encoded.is_some_and(|byte| {
            is_pchar(byte) || b"/\\%?#".contains(&byte) || byte.is_ascii_control()
        }) {
            return Err(
                "nothing is percent-encoded that could stand there as it is, nor / \\ % ? # or a control character",
            );
        }
    }
    if !name.contains('/') {
        return Ok(());
    }
    let mut segments = name.split('/').peekable();
    while let Some(segment) = segments.next() {
        if is_dots(segment) && (segments.peek().is_some() || !is_prefix) {
            return Err("no . and .. between /");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_has_one_spelling() {
        for good in [
            "",
            "r",
            "prod/db",
            "/etc/passwd",
            "urn:x:y",
            "arn:aws:s3:::bucket/key",
            "a b",
            "50%",
            "did:web:example.com",
            "..",
            ".",
            "a.b/..c/d..",
            "https",
            "42",
            "x:y",
            "mailto:a@b",
            "https://prod.example/",
            "https://prod.example/x",
            "http://a/b/c/",
            "https://a:8443/x",
            "http://127.0.0.1/x",
            "http://1.2.3.4:8080/",
            "https://[::1]/x",
            "https://[2001:db8::1]:8443/",
            "ws://a-b.c_d/x",
            "file:///etc/passwd",
            "https://a/x%20y",
            "https://a/%C3%A9",
            "https://a/!$&'()*+,;=:@-._~",
            "https://a/x;v=1/y",
            "https://a/...",
            "https://a/.x/..y",
            "https://xn--bcher-kva.example/",
            "mcp://github",
            "mcp://github/",
            "mcp://github/pr/1",
            "x://y:443/z",
            "s3://bucket/key",
            "foo:///x",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            // Scheme, slashes, what readers strip.
            "HTTPS://prod.example/",
            "Https://prod.example/x",
            "https:prod.example/x",
            "https:/prod.example/x",
            "https:\\\\prod.example\\x",
            " https://prod.example/x",
            "\thttps://prod.example/x",
            "ht\ntps://prod.example/",
            "https:///prod.example/x",
            "https://",
            "file:/etc/passwd",
            "file://host/x",
            "MCP://github/x",
            "//prod.example/x",
            "://x",
            "1x://y",
            // Host, user, port.
            "https://PROD.example/x",
            "https://prod.example./x",
            "https://prod..example/x",
            "https://.prod.example/x",
            "https://u@prod.example/x",
            "https://u:p@prod.example/x",
            "https://@prod.example/x",
            "https://prod.example:443/x",
            "http://prod.example:80/x",
            "https://prod.example:/x",
            "https://prod.example:0443/x",
            "https://prod.example:08443/x",
            "https://prod.example:65536/x",
            "https://prod.example:0/x",
            "https://pr%6Fd.example/x",
            "https://prod.exampl\u{e9}/x",
            "https://prod。example/x",
            "https://127.1/x",
            "https://127.0.0.0x1/",
            "https://0x7f000001/",
            "https://0x7f.0.0.1/x",
            "https://2130706433/x",
            "https://0177.0.0.1/x",
            "https://127.0.0.01/x",
            "https://1.2.3.4.5/",
            "https://[::0001]/x",
            "https://[0:0:0:0:0:0:0:1]/x",
            "https://[::ffff:127.0.0.1]/x",
            "https://[::FFFF]/x",
            "https://[::1/x",
            "https://pr\u{ad}od.example/x",
            "https://prod.example\\@evil/x",
            "mcp://GitHub/x",
            "mcp://u@github/x",
            "mcp://github./x",
            // Query, fragment, path.
            "https://prod.example",
            "https://prod.example?x",
            "https://prod.example#x",
            "https://prod.example/?",
            "https://prod.example/x?y",
            "https://prod.example/x#y",
            "https://a//x",
            "https://a/x//y",
            "https://a/x//",
            "https://a/./x",
            "https://a/x/..",
            "https://a/x/../y",
            "https://a/..;/y",
            "https://a/.;v=1/y",
            "https://a/x\\y",
            "https://a/%2e%2e/x",
            "https://a/%2E%2E/x",
            "https://a/.%2e/x",
            "https://a/%61",
            "https://a/x%2Fy",
            "https://a/x%2fy",
            "https://a/x%5Cy",
            "https://a/%252e%252e/x",
            "https://a/%3F",
            "https://a/%23",
            "https://a/%c3%a9",
            "https://a/%C3",
            "https://a/%FF",
            "https://a/%00",
            "https://a/%C2%85",
            "https://a/%7F",
            "https://a/%",
            "https://a/%2",
            "https://a/%zz",
            "https://a/x y",
            "https://a/\u{e9}",
            "https://a/\"",
            "https://a/<",
            "https://a/{",
            "https://a/|",
            "https://a/^",
            "https://a/`",
            "mcp://github/../x",
            "mcp://github/%2e",
            "mcp://github/a?b",
            "mcp://github//x",
            "mcp://github/a\\b",
            // Names.
            "a/../b",
            "../b",
            "a/..",
            "a/./b",
            "./a",
            "a\\b",
            "a//b",
            "a/%2e%2e/b",
            "a%2Fb",
            "a%5cb",
            "a/..;x/b",
            "/../etc",
        ] {
            assert_eq!(
                check(bad).unwrap_err().code(),
                "resource_not_canonical",
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_prefix_ends_behind_a_scheme_or_within_a_path() {
        for good in [
            "",
            "h",
            "https",
            "https://",
            "https://prod.example/",
            "https://prod.example/team",
            "https://prod.example/a/.",
            "https://prod.example/a/..",
            "https://a/%C3",
            "https://a:8443/",
            "mcp://",
            "mcp://github/",
            "file:///",
            "account_",
            "team-a/",
            "team-a/.",
            "re: ",
            "did:key:",
        ] {
            assert_eq!(check_prefix(good), Ok(()), "{good}");
        }
        for bad in [
            "https:",
            "https:/",
            "HTTPS://",
            "https://prod.example",
            "https://prod.",
            "https://PROD.example/",
            "https://prod.example:443/",
            "https://u@prod.example/",
            "https://a/../b",
            "https://a//",
            "https://a/x?",
            "https://a/%2",
            "https://a/%2e",
            "https://a/\\",
            "mcp://github",
            "mcp://GitHub/",
            "team-a/../",
            "team-a//",
            "a\\",
        ] {
            assert!(check_prefix(bad).is_err(), "{bad}");
        }
        for good in [
            "https://a/x?y=1",
            "https://a/x?y=/../z#f",
            "https://a/?",
            "https://a/x",
            "r",
            "a?b",
        ] {
            assert_eq!(check_exact(good), Ok(()), "{good}");
        }
        for bad in [
            "https://a?x",
            "https://A/x?y",
            "https://a/x?y z",
            "https://a/x?\u{e9}",
            "https://a/../x?y",
            "a/../b",
        ] {
            assert!(check_exact(bad).is_err(), "{bad}");
        }
    }
}
