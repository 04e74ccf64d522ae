//! How much of a text's end may still become something, if more text follows.

use crate::digits::{HEX_WORD, MAX_DIGITS, is_separator};
use crate::text::{IBAN_PRINTED, MAX_DOMAIN, MAX_LOCAL, is_domain, is_local};
use crate::{Kind, Kinds, secret};

/// Digits of one number, and what may stand between them, take no more than this.
const MAX_NUMBER: usize = 96;

/// Where the part of a folded text begins that what follows can still change: before it everything
/// that there is of these kinds was found. The length of the text if there is no such part.
pub(crate) fn open(text: &[u8], watched: Kinds) -> usize {
    let is_watched = |kinds: &[Kind]| kinds.iter().any(|kind| watched.contains(*kind));
    let mut at = text.len();
    if is_watched(&[Kind::CreditCard, Kind::Ssn, Kind::Phone]) {
        at = at.min(number(text));
    }
    if is_watched(&[Kind::Email]) {
        at = at.min(email(text));
    }
    if is_watched(&[Kind::Iban]) {
        at = at.min(iban(text));
    }
    if is_watched(&[Kind::ApiKey]) {
        at = at.min(secret::open(text));
    }
    at
}

/// Groups of digits at the end, as many as one number may have.
fn number(text: &[u8]) -> usize {
    let is_part = |byte: u8| {
        byte.is_ascii_digit() || is_separator(Some(byte)) || matches!(byte, b'+' | b'(' | b')')
    };
    // Hexadecimal digits may make an id of the word in which digits stand.
    let hex = run_back(text, text.len(), HEX_WORD, |byte| byte.is_ascii_hexdigit());
    let word = &text[hex..];
    let is_mixed = word.iter().any(u8::is_ascii_digit) && word.iter().any(u8::is_ascii_alphabetic);
    let end = if is_mixed { hex } else { text.len() };
    let first = run_back(text, end, MAX_NUMBER, is_part);
    let is_start = |byte: &u8| byte.is_ascii_digit() || *byte == b'+';
    let Some(skipped) = text[first..].iter().position(is_start) else {
        return text.len();
    };
    let mut start = first + skipped;
    // A number that is found has so many digits at most; one that is longer is none.
    let mut digits = text[start..].iter().filter(|b| b.is_ascii_digit()).count();
    while digits > MAX_DIGITS && end == text.len() {
        let group = text[start..].iter().take_while(|b| b.is_ascii_digit());
        let length = group.count();
        // A plus sign is a place to begin, too, and no digit.
        let after = start + length.max(1);
        let Some(next) = text[after..].iter().position(is_start) else {
            return text.len();
        };
        digits -= length;
        start = after + next;
    }
    start
}

/// What may be the part before an `@` and the one behind it.
fn email(text: &[u8]) -> usize {
    let host = run_back(text, text.len(), MAX_DOMAIN, is_domain);
    match host.checked_sub(1).filter(|at| text[*at] == b'@') {
        Some(at) => run_back(text, at, MAX_LOCAL, is_local),
        None => run_back(text, text.len(), MAX_LOCAL, is_local),
    }
}

/// The first word that may begin an IBAN: two letters, two digits, and what may follow.
fn iban(text: &[u8]) -> usize {
    let from = text.len().saturating_sub(IBAN_PRINTED);
    let may_be = |start: &usize| {
        let starts_word = *start == 0 || !text[*start - 1].is_ascii_alphanumeric();
        let word = &text[*start..];
        let head = word.len().min(4);
        let is_head = word[..head].iter().enumerate().all(|(at, byte)| match at {
            0 | 1 => byte.is_ascii_alphabetic(),
            _ => byte.is_ascii_digit(),
        });
        let is_rest = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b'-');
        starts_word && is_head && word[head..].iter().all(is_rest)
    };
    (from..text.len()).find(may_be).unwrap_or(text.len())
}

/// Where the run of such bytes that ends at `end` begins; no further back than `most`.
pub(crate) fn run_back(text: &[u8], end: usize, most: usize, is_in: impl Fn(u8) -> bool) -> usize {
    let run = text[..end].iter().rev().take(most);
    end - run.take_while(|byte| is_in(**byte)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(text: &str, kind: Kind) -> &str {
        let mut watched = Kinds::default();
        watched.insert(kind);
        &text[open(text.as_bytes(), watched)..]
    }

    #[test]
    fn only_what_may_become_something_is_held() {
        for (text, kind, wanted) in [
            ("there are words", Kind::CreditCard, ""),
            ("in 2024, then", Kind::CreditCard, ""),
            ("in 2024", Kind::CreditCard, "2024"),
            ("pay 4532 0151 ", Kind::CreditCard, "4532 0151 "),
            ("4532015112830366ab", Kind::CreditCard, "4532015112830366ab"),
            ("call +49 (0", Kind::Phone, "+49 (0"),
            ("12345678901234567890", Kind::CreditCard, ""),
            (
                "123456 4532 0151 1283 0366",
                Kind::CreditCard,
                "4532 0151 1283 0366",
            ),
            ("+1+2345678901234567890 12", Kind::CreditCard, "12"),
            ("123-45-", Kind::Ssn, "123-45-"),
            ("I am al", Kind::CreditCard, ""),
            ("I am al", Kind::Email, "al"),
            ("I am al@ho.", Kind::Email, "al@ho."),
            ("I am al@home.org, and ", Kind::Email, ""),
            ("to DE89 3704 00", Kind::Iban, "DE89 3704 00"),
            ("to D", Kind::Iban, "D"),
            ("to Dan", Kind::Iban, ""),
            ("use sk-abc", Kind::ApiKey, "sk-abc"),
            ("use it ", Kind::ApiKey, ""),
            ("x -----BEGIN EC PRI", Kind::ApiKey, "-----BEGIN EC PRI"),
            (
                "x -----BEGIN A PRIVATE KEY-----\nab ",
                Kind::ApiKey,
                "-----BEGIN A PRIVATE KEY-----\nab ",
            ),
        ] {
            assert_eq!(held(text, kind), wanted, "{text}");
        }
        assert_eq!(held("some 4532", Kind::Email), "4532");
    }
}
