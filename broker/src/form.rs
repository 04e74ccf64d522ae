//! Names and values of forms, which are those of queries too.

use percent_encoding::percent_encode;
use zeroize::Zeroizing;

use crate::target::NOT_UNRESERVED;

/// Name and value of what stands between two `&`, as the service reads it (the WHATWG URL standard,
/// application/x-www-form-urlencoded).
pub(crate) fn parameter(part: &str) -> (String, String) {
    form_urlencoded::parse(part.as_bytes())
        .next()
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .unwrap_or_default()
}

/// Percent-encoded but for what stands everywhere as it is (RFC 3986 section 2.3).
pub(crate) fn encoded(secret: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(secret.len() * 3));
    percent_encode(secret, &NOT_UNRESERVED).for_each(|part| text.push_str(part));
    text
}
