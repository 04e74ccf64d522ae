//! How much of a text's end may still become something, if more text follows.

use crate::digits::{HEX_WORD, UUID, is_separator};
use crate::run::run_back;
use crate::text::{IBAN_PRINTED, MAX_DOMAIN, MAX_LOCAL, is_domain, is_local};
use crate::{Kind, Kinds, secret};

/// Groups of digits, and what may stand between them, are held back for so many bytes: what one of
/// them is depends on the others.
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

fn is_number_part(byte: u8) -> bool {
    byte.is_ascii_digit() || is_separator(Some(byte)) || matches!(byte, b'+' | b'(' | b')')
}

/// Groups of digits at the end.
fn number(text: &[u8]) -> usize {
    // Hexadecimal digits may make an id of the word in which digits stand.
    let hex = run_back(text, text.len(), HEX_WORD, |byte| byte.is_ascii_hexdigit());
    let word = &text[hex..];
    let is_mixed = word.iter().any(u8::is_ascii_digit) && word.iter().any(u8::is_ascii_alphabetic);
    let end = if is_mixed { hex } else { text.len() };
    let first = run_back(text, end, MAX_NUMBER, is_number_part);
    let is_cut = first > 0 && text[first - 1].is_ascii_digit();
    let is_start = |byte: &u8| byte.is_ascii_digit() || *byte == b'+';
    // Of a group that began before nothing counts.
    let cut = text[first..]
        .iter()
        .take_while(|byte| is_cut && byte.is_ascii_digit());
    let first = first + cut.count();
    let skipped = text[first..].iter().position(is_start);
    let number = skipped.map_or(text.len(), |skipped| first + skipped);
    number.min(uuid(text))
}

/// What may be a UUID, none of whose groups is a number.
fn uuid(text: &[u8]) -> usize {
    let is_in = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    let begin = run_back(text, text.len(), UUID, is_in);
    let word = &text[begin..];
    let is_mixed = word.iter().any(u8::is_ascii_digit) && word.iter().any(u8::is_ascii_alphabetic);
    if is_mixed { begin } else { text.len() }
}

/// What may be the part before an `@` and the one behind it.
fn email(text: &[u8]) -> usize {
    let host = run_back(text, text.len(), MAX_DOMAIN, is_domain);
    let begin = match host.checked_sub(1).filter(|at| text[*at] == b'@') {
        Some(at) => run_back(text, at, MAX_LOCAL, is_local),
        None => run_back(text, text.len(), MAX_LOCAL, is_local),
    };
    // Once it is masked, digits before it stand alone.
    run_back(text, begin, MAX_NUMBER, is_number_part)
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
            ("no: +1+23 456", Kind::CreditCard, "+1+23 456"),
            ("123-45-", Kind::Ssn, "123-45-"),
            ("I am al", Kind::CreditCard, ""),
            ("I am al", Kind::Email, " al"),
            ("I am al@ho.", Kind::Email, " al@ho."),
            ("I am al@home.org, and,", Kind::Email, ""),
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
        assert_eq!(held("some 4532", Kind::Email), " 4532");
        let long = format!("{} 12", "1".repeat(200));
        assert_eq!(held(&long, Kind::CreditCard), "12");
        assert_eq!(held(&long[..200], Kind::CreditCard), "");
    }
}
