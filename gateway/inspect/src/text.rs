//! Looks through one text.

use std::ops::Range;

use iban::Iban;

use crate::digits::{Digits, next_digit};
use crate::fold::Folded;
use crate::words::Words;
use crate::{Kind, Kinds, Purpose, secret};

/// Something sensitive, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// Its bytes.
    pub range: Range<usize>,
}

/// Looks through a text. What stands wholly within something else that was found is not listed;
/// [`mask_text`] says all kinds.
pub fn text(text: &str, purpose: Purpose) -> Vec<Found> {
    within(text, Words::default(), false, purpose).1
}

/// The text with what was found in it replaced; and what that was.
pub fn mask_text(text: &str, purpose: Purpose) -> (String, Kinds) {
    let cleaned = clean(text, Words::default(), false, purpose);
    let masked = cleaned.text.unwrap_or_else(|| text.to_owned());
    (masked, cleaned.kinds)
}

/// What was found in a text.
#[derive(Debug, Default)]
pub(crate) struct Cleaned {
    pub(crate) kinds: Kinds,
    /// The text without it; none if nothing is to be masked.
    pub(crate) text: Option<String>,
}

/// Looks through a text, and masks what was found. Where something was masked, what stands beside it
/// may look like something else: that is masked, too.
pub(crate) fn clean(text: &str, words: Words, is_bare: bool, purpose: Purpose) -> Cleaned {
    let (kinds, mut found) = within(text, words, is_bare, purpose);
    if found.is_empty() {
        return Cleaned { kinds, text: None };
    }
    let mut text = text.to_owned();
    for _ in 0..ROUNDS {
        text = masked(&text, &found);
        found = within(&text, words, is_bare, purpose).1;
        if found.is_empty() {
            let text = Some(text);
            return Cleaned { kinds, text };
        }
    }
    // It was made to look like something else each time; nothing of it stays.
    let text = Some(found[0].kind.mask().to_owned());
    Cleaned { kinds, text }
}

/// How often a text is looked through again that was masked.
pub(crate) const ROUNDS: usize = 4;

/// Replaces each range, which come in their order.
fn masked(text: &str, found: &[Found]) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut at = 0;
    for Found { kind, range } in found {
        masked.push_str(&text[at..range.start]);
        masked.push_str(kind.mask());
        at = range.end;
    }
    masked.push_str(&text[at..]);
    masked
}

/// Looks through the value of a member of which these words speak; `is_bare` if it is all of it. Each
/// kind counts, also where one thing is two: a card number before the `@` of an address.
fn within(text: &str, words: Words, is_bare: bool, purpose: Purpose) -> (Kinds, Vec<Found>) {
    let folded = Folded::of(text);
    let mut found = all(folded.bytes(), words, is_bare, purpose);
    let kinds = found.iter().map(|(kind, _)| *kind).collect();
    found.retain(|(kind, _)| purpose.masks(*kind));
    let found = apart(found)
        .into_iter()
        .map(|(kind, range)| Found {
            kind,
            range: folded.original(range),
        })
        .collect();
    (kinds, found)
}

/// Everything that is found in a folded text, in no order; one thing may be within another.
pub(crate) fn all(
    text: &[u8],
    words: Words,
    is_bare: bool,
    purpose: Purpose,
) -> Vec<(Kind, Range<usize>)> {
    let mut found = Vec::new();
    let mut secrets = Vec::new();
    secret::find(text, words, is_bare, &mut secrets);
    found.extend(secrets.into_iter().map(|range| (Kind::ApiKey, range)));
    emails(text, &mut found);
    ibans(text, &mut found);
    let digits = Digits {
        text,
        words,
        is_bare: is_bare && text.iter().all(u8::is_ascii_digit),
        purpose,
    };
    digits.find(&mut found);
    found
}

/// In their order. Of two that overlap the second one begins where the first one ends, if anything is
/// left of it: all of both is masked.
pub(crate) fn apart(mut found: Vec<(Kind, Range<usize>)>) -> Vec<(Kind, Range<usize>)> {
    found.sort_by_key(|(_, range)| (range.start, std::cmp::Reverse(range.end)));
    let mut end = 0;
    for (_, range) in &mut found {
        range.start = range.start.max(end);
        end = end.max(range.end);
    }
    found.retain(|(_, range)| range.start < range.end);
    found
}

/// The longest part before the `@` of an address (RFC 5321 section 4.5.3.1.1), and the longest name of
/// a host (RFC 1035 section 2.3.4).
pub(crate) const MAX_LOCAL: usize = 64;
pub(crate) const MAX_DOMAIN: usize = 253;

pub(crate) fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b".!#$%&'*+/=?^_`{|}~-".contains(&byte)
}

pub(crate) fn is_domain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || matches!(byte, b'-' | b'.')
}

/// `local@domain.tld` (RFC 5321 without quoted local parts): ASCII on both sides or not.
fn emails(text: &[u8], found: &mut Vec<(Kind, Range<usize>)>) {
    for at in memchr::memchr_iter(b'@', text) {
        let local = text[..at]
            .iter()
            .rev()
            .take(MAX_LOCAL)
            .take_while(|byte| is_local(**byte))
            .count();
        let domain = text[at + 1..]
            .iter()
            .take(MAX_DOMAIN)
            .take_while(|byte| is_domain(**byte))
            .count();
        let mut end = at + 1 + domain;
        while end > at + 1 && matches!(text[end - 1], b'.' | b'-') {
            end -= 1;
        }
        let labels: Vec<&[u8]> = text[at + 1..end].split(|byte| *byte == b'.').collect();
        let top = labels.last().copied().unwrap_or_default();
        let is_host = labels.len() > 1
            && labels.iter().all(|label| !label.is_empty())
            && top.len() > 1
            && top.iter().any(|byte| !byte.is_ascii_digit());
        if local > 0 && is_host {
            found.push((Kind::Email, at - local..end));
        }
    }
}

/// The longest IBAN has 34 characters; printed in fours, with spaces between.
pub(crate) const IBAN_PRINTED: usize = 34 + 8;

/// Two letters, two digits, and what follows has the length and the check digits of its country.
fn ibans(text: &[u8], found: &mut Vec<(Kind, Range<usize>)>) {
    let mut at = 0;
    while let Some(digit) = next_digit(text, at) {
        // Within a run of digits no letters stand before one.
        let run = text[digit..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit());
        at = digit + run.count();
        let Some(start) = digit.checked_sub(2) else {
            continue;
        };
        let is_country = text[start..digit].iter().all(u8::is_ascii_alphabetic);
        let starts_word = start == 0 || !text[start - 1].is_ascii_alphanumeric();
        if !is_country || !starts_word || at < digit + 2 {
            continue;
        }
        if let Some(end) = iban_end(text, start) {
            found.push((Kind::Iban, start..end));
            at = end;
        }
    }
}

/// Where the longest IBAN that begins here ends.
fn iban_end(text: &[u8], start: usize) -> Option<usize> {
    let mut compact = String::new();
    let mut ends = Vec::new();
    for (at, byte) in text.iter().enumerate().skip(start).take(IBAN_PRINTED) {
        match byte {
            b' ' | b'-' if text.get(at + 1).is_some_and(u8::is_ascii_alphanumeric) => {}
            byte if byte.is_ascii_alphanumeric() => {
                compact.push(char::from(byte.to_ascii_uppercase()));
                if compact.len() >= 15 {
                    ends.push((at + 1, compact.len()));
                }
            }
            _ => break,
        }
    }
    let is_end = |(end, length): &&(usize, usize)| {
        !text.get(*end).is_some_and(u8::is_ascii_alphanumeric)
            && compact[..*length].parse::<Iban>().is_ok()
    };
    ends.iter().rev().find(is_end).map(|(end, _)| *end)
}
