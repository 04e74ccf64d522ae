//! What the words around a value say of it.

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind};

/// What is said around a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Words {
    /// Of payment cards.
    pub(crate) card: bool,
    /// Of social security.
    pub(crate) ssn: bool,
    /// Of telephones.
    pub(crate) phone: bool,
    /// Of keys, tokens and passwords.
    pub(crate) secret: bool,
    /// That it is an id, a time, a count: something that has many digits and is no secret.
    pub(crate) id: bool,
}

/// Before which byte of a text words are looked for.
const BEFORE: usize = 40;

#[derive(Clone, Copy)]
enum Topic {
    Card,
    Ssn,
    Phone,
    Secret,
}

/// Parts of words, of which one is enough.
const TOPICS: [(&str, Topic); 32] = [
    ("card", Topic::Card),
    ("credit", Topic::Card),
    ("debit", Topic::Card),
    ("visa", Topic::Card),
    ("mastercard", Topic::Card),
    ("amex", Topic::Card),
    ("american express", Topic::Card),
    ("maestro", Topic::Card),
    ("payment", Topic::Card),
    ("cvv", Topic::Card),
    ("cvc", Topic::Card),
    ("primary account", Topic::Card),
    ("ssn", Topic::Ssn),
    ("social sec", Topic::Ssn),
    ("social_sec", Topic::Ssn),
    ("socialsec", Topic::Ssn),
    ("social-sec", Topic::Ssn),
    ("tax id", Topic::Ssn),
    ("tax_id", Topic::Ssn),
    ("taxpayer", Topic::Ssn),
    ("phone", Topic::Phone),
    ("mobile", Topic::Phone),
    ("msisdn", Topic::Phone),
    ("fax", Topic::Phone),
    ("call me", Topic::Phone),
    ("secret", Topic::Secret),
    ("password", Topic::Secret),
    ("passwd", Topic::Secret),
    ("api_key", Topic::Secret),
    ("apikey", Topic::Secret),
    ("api key", Topic::Secret),
    ("token", Topic::Secret),
];

/// More of them, which only a member's name can be.
const SECRET_NAMES: [&str; 8] = [
    "api-key",
    "accesskey",
    "access_key",
    "private_key",
    "authorization",
    "credential",
    "passphrase",
    "bearer",
];

/// Tokens that turn pages, and counts of tokens, are none.
const NO_SECRETS: [&str; 9] = [
    "page",
    "next",
    "cursor",
    "csrf",
    "count",
    "usage",
    "sync",
    "continuation",
    "tokens",
];

/// Whole words of names whose values have many digits by nature.
const ID_WORDS: [&str; 34] = [
    "id",
    "ids",
    "uuid",
    "guid",
    "ref",
    "reference",
    "timestamp",
    "time",
    "ts",
    "ns",
    "us",
    "ms",
    "nanos",
    "micros",
    "nonce",
    "seq",
    "sequence",
    "offset",
    "sku",
    "ean",
    "upc",
    "isbn",
    "gtin",
    "imei",
    "tracking",
    "hash",
    "digest",
    "build",
    "serial",
    "trace",
    "span",
    "order",
    "invoice",
    "snowflake",
];

static AUTOMATON: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder()
        .kind(Some(AhoCorasickKind::DFA))
        .ascii_case_insensitive(true)
        .build(TOPICS.iter().map(|(text, _)| *text).chain(SECRET_NAMES))
        .expect("words of ours")
});

impl Words {
    /// Of the name of a member, of whose members' values it speaks as well.
    pub(crate) fn of_name(name: &str, within: Self) -> Self {
        let mut words = Self::default();
        words.add_topics(name.as_bytes(), true);
        if words.secret {
            let name = name.to_ascii_lowercase();
            words.secret = !NO_SECRETS.iter().any(|text| name.contains(text));
        }
        let mut add = |word: &str| {
            words.card |= matches!(word, "pan" | "cc");
            words.id |= ID_WORDS.contains(&word);
        };
        // Most names are one word as it is.
        if name.bytes().all(|byte| byte.is_ascii_lowercase()) {
            add(name);
        } else {
            parts(name).for_each(|word| add(&word));
        }
        Self {
            card: words.card || within.card,
            ssn: words.ssn || within.ssn,
            phone: words.phone || within.phone,
            secret: words.secret || within.secret,
            id: words.id,
        }
    }

    /// Of what stands before a place in a text, beside what is known of the text.
    pub(crate) fn before(self, text: &[u8], at: usize) -> Self {
        let mut words = self;
        words.add_topics(&text[at.saturating_sub(BEFORE)..at], false);
        words
    }

    fn add_topics(&mut self, text: &[u8], is_name: bool) {
        for found in AUTOMATON.find_overlapping_iter(text) {
            if is_in_mask(&text[found.end()..]) {
                continue;
            }
            match TOPICS.get(found.pattern().as_usize()) {
                Some((_, Topic::Card)) => self.card = true,
                Some((_, Topic::Ssn)) => self.ssn = true,
                Some((_, Topic::Phone)) => self.phone = true,
                Some((_, Topic::Secret)) => {
                    self.secret |= is_name || !is_no_secret(text, found.start()..found.end());
                }
                None => self.secret |= is_name,
            }
        }
    }
}

/// Whether the word of which this is a part is that of a token that is none.
fn is_no_secret(text: &[u8], part: Range<usize>) -> bool {
    let is_word = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(**byte, b'_' | b'-');
    let before = text[..part.start].iter().rev().take_while(is_word).count();
    let after = text[part.end..].iter().take_while(is_word).count();
    let word = text[part.start - before..part.end + after].to_ascii_lowercase();
    let contains = |other: &&str| memchr::memmem::find(&word, other.as_bytes()).is_some();
    NO_SECRETS.iter().any(contains)
}

/// Whether this is the rest of a mask, `_REDACTED]`: it says what stood there, and nothing of what
/// follows.
fn is_in_mask(rest: &[u8]) -> bool {
    let is_inside = |byte: &&u8| byte.is_ascii_uppercase() || **byte == b'_';
    let inside = rest.iter().take_while(is_inside).count();
    rest[..inside].ends_with(b"_REDACTED") && rest.get(inside) == Some(&b']')
}

/// The words of `order_id`, `orderId` and `order-id`, in lower case.
fn parts(name: &str) -> impl Iterator<Item = String> {
    let mut parts = vec![String::new()];
    let mut was_lower = false;
    for char in name.chars() {
        if !char.is_alphanumeric() {
            parts.push(String::new());
        } else {
            if char.is_uppercase() && was_lower {
                parts.push(String::new());
            }
            if let Some(part) = parts.last_mut() {
                part.extend(char.to_lowercase());
            }
        }
        was_lower = char.is_lowercase() || char.is_numeric();
    }
    parts.into_iter().filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Words {
        Words::of_name(name, Words::default())
    }

    #[test]
    fn names_say_what_their_values_are() {
        assert!(of("cardNumber").card && of("PAN").card && of("credit_card").card);
        assert!(!of("company").card && !of("panel").card);
        for id in [
            "id",
            "order_id",
            "orderId",
            "request-id",
            "created_ns",
            "EAN",
        ] {
            assert!(of(id).id, "{id}");
        }
        for other in ["identity", "idea", "grid", "text", "paid"] {
            assert!(!of(other).id, "{other}");
        }
        assert!(of("client_secret").secret && of("Authorization").secret);
        assert!(!of("next_page_token").secret && !of("token_count").secret);
        assert!(!of("max_tokens").secret);
        let card = of("card");
        assert!(Words::of_name("number", card).card);
        // What a member is called says nothing of what stands below it.
        assert!(!Words::of_name("value", of("order")).id);
    }

    #[test]
    fn what_stands_before_counts_within_some_bytes() {
        let text = b"my SSN is 123456789";
        assert!(Words::default().before(text, 10).ssn);
        assert!(!Words::default().before(b"[SSN_REDACTED] 123456789", 15).ssn);
        assert!(Words::default().before(b"the token: abc", 11).secret);
        assert!(!Words::default().before(b"page_token: abc", 12).secret);
        let far = [&b"ssn"[..], &[b' '; 50], b"123456789"].concat();
        assert!(!Words::default().before(&far, 53).ssn);
    }
}
