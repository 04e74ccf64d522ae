//! Digits and separators of other scripts, as ASCII.

use std::borrow::Cow;

/// The zero of each range of decimal digits (Unicode 14, general category Nd).
const ZEROS: [u32; 65] = [
    0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66,
    0x0DE6, 0x0E50, 0x0ED0, 0x0F20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90,
    0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10,
    0x104A0, 0x10D30, 0x11066, 0x110F0, 0x11136, 0x111D0, 0x112F0, 0x11450, 0x114D0, 0x11650,
    0x116C0, 0x11730, 0x118E0, 0x11950, 0x11C50, 0x11D50, 0x11DA0, 0x16A60, 0x16AC0, 0x16B50,
    0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6, 0x1E140, 0x1E2F0, 0x1E950, 0x1FBF0,
];

/// A text in which every digit is an ASCII digit, every space U+0020, every dash `-`, and what has no
/// width is left out; and where each of its bytes comes from.
pub(crate) struct Folded<'a> {
    text: Cow<'a, [u8]>,
    /// For each byte, and the end, its offset in the original; empty if nothing moved.
    origin: Vec<usize>,
}

impl<'a> Folded<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        if text.is_ascii() {
            return Self {
                text: Cow::Borrowed(text.as_bytes()),
                origin: Vec::new(),
            };
        }
        Self::of_chars(text, text.char_indices())
    }

    /// Of a part of a JSON text: what stands in its strings is meant after their escapes.
    pub(crate) fn of_json(text: &'a str) -> Self {
        if !text.contains('\\') {
            return Self::of(text);
        }
        Self::of_chars(text, Unescaped(text.char_indices()))
    }

    fn of_chars(text: &str, chars: impl Iterator<Item = (usize, char)>) -> Self {
        let (mut folded, mut origin) = (Vec::with_capacity(text.len()), Vec::new());
        for (at, char) in chars {
            let mut buffer = [0; 4];
            let bytes = match fold(char) {
                Fold::Keep => char.encode_utf8(&mut buffer).as_bytes(),
                Fold::As(byte) => {
                    buffer[0] = byte;
                    &buffer[..1]
                }
                Fold::Drop => &[],
            };
            folded.extend_from_slice(bytes);
            origin.resize(folded.len(), at);
        }
        origin.push(text.len());
        Self {
            text: Cow::Owned(folded),
            origin,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.text
    }

    /// A range of the folded text, in the original.
    pub(crate) fn original(&self, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
        if self.origin.is_empty() {
            return range;
        }
        self.origin[range.start]..self.origin[range.end]
    }
}

/// The characters of a part of a JSON text, its escapes (RFC 8259 section 7) as what they mean.
struct Unescaped<'a>(std::str::CharIndices<'a>);

impl Unescaped<'_> {
    fn hex(&mut self) -> Option<u32> {
        let digits = self.0.as_str().get(..4)?;
        let code = u32::from_str_radix(digits, 16).ok()?;
        self.0.by_ref().take(4).for_each(drop);
        Some(code)
    }

    /// After `\u`: one character, or one half of a pair and then the other.
    fn unicode(&mut self) -> char {
        let Some(first) = self.hex() else {
            return char::REPLACEMENT_CHARACTER;
        };
        if (0xD800..0xDC00).contains(&first) && self.0.as_str().starts_with("\\u") {
            let before = self.0.clone();
            self.0.by_ref().take(2).for_each(drop);
            let second = self.hex().filter(|code| (0xDC00..0xE000).contains(code));
            let Some(second) = second else {
                self.0 = before;
                return char::REPLACEMENT_CHARACTER;
            };
            let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
            return char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        }
        char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)
    }
}

impl Iterator for Unescaped<'_> {
    type Item = (usize, char);

    fn next(&mut self) -> Option<(usize, char)> {
        let (at, char) = self.0.next()?;
        if char != '\\' {
            return Some((at, char));
        }
        let meant = match self.0.next() {
            Some((_, 'u')) => self.unicode(),
            Some((_, 'n' | 'r')) => '\n',
            Some((_, 't' | 'b' | 'f')) => '\t',
            Some((_, other)) => other,
            None => char,
        };
        Some((at, meant))
    }
}

enum Fold {
    Keep,
    As(u8),
    Drop,
}

fn fold(char: char) -> Fold {
    let code = u32::from(char);
    if code < 0x80 {
        return Fold::Keep;
    }
    match code {
        // Spaces (Zs), line and paragraph separators.
        0x00A0 | 0x1680 | 0x2000..=0x200A | 0x2028 | 0x2029 | 0x202F | 0x205F | 0x3000 => {
            return Fold::As(b' ');
        }
        // Dashes (Pd), the minus sign, and hyphens of compatibility forms.
        0x2010..=0x2015 | 0x2212 | 0x058A | 0x05BE | 0x30FB | 0xFE58 | 0xFE63 | 0xFF0D => {
            return Fold::As(b'-');
        }
        // Full stops and middle dots, full-width forms of what stands in an address.
        0x00B7 | 0x2022 | 0x2024 | 0xFF0E | 0x3002 => return Fold::As(b'.'),
        0xFF0B => return Fold::As(b'+'),
        0xFF20 => return Fold::As(b'@'),
        // Without width: soft hyphen, joiners, marks of direction, variation selectors, BOM.
        0x00AD
        | 0x034F
        | 0x061C
        | 0x180E
        | 0x200B..=0x200F
        | 0x202A..=0x202E
        | 0x2060..=0x2064
        | 0x2066..=0x206F
        | 0xFE00..=0xFE0F
        | 0xFEFF => return Fold::Drop,
        // Superscript and subscript digits.
        0x2070 | 0x2074..=0x2079 => return digit(code - 0x2070),
        0x2080..=0x2089 => return digit(code - 0x2080),
        0x00B2 | 0x00B3 => return digit(code - 0x00B0),
        0x00B9 => return digit(1),
        // Full-width letters.
        0xFF21..=0xFF3A => return byte(code - 0xFF21 + u32::from(b'A')),
        0xFF41..=0xFF5A => return byte(code - 0xFF41 + u32::from(b'a')),
        _ => {}
    }
    let after = ZEROS.partition_point(|zero| *zero <= code);
    match after.checked_sub(1).map(|at| code - ZEROS[at]) {
        Some(value @ 0..=9) => digit(value),
        _ => Fold::Keep,
    }
}

fn digit(value: u32) -> Fold {
    byte(u32::from(b'0') + value)
}

fn byte(code: u32) -> Fold {
    u8::try_from(code).map_or(Fold::Keep, Fold::As)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_in_order() {
        assert!(ZEROS.is_sorted());
        assert!(
            ZEROS
                .iter()
                .all(|zero| { char::from_u32(*zero).is_some_and(char::is_numeric) })
        );
    }

    #[test]
    fn digits_and_separators_become_ascii_and_know_where_they_come_from() {
        let text = "x４５\u{a0}٣\u{200b}2–𝟡é";
        let folded = Folded::of(text);
        assert_eq!(folded.bytes(), "x45 32-9é".as_bytes());
        assert_eq!(&text[folded.original(1..3)], "４５");
        assert_eq!(&text[folded.original(3..6)], "\u{a0}٣\u{200b}2");
        assert_eq!(&text[folded.original(7..8)], "𝟡");
        assert_eq!(&text[folded.original(8..10)], "é");
        let json = r"\u00345\/\n\ud83d\ude00\u";
        let folded = Folded::of_json(json);
        assert_eq!(folded.bytes(), "45/\n😀\u{fffd}".as_bytes());
        assert_eq!(&json[folded.original(0..1)], r"\u0034");
        assert_eq!(&json[folded.original(1..3)], r"5\/");
        let plain = Folded::of("4532");
        assert_eq!(plain.original(1..3), 1..3);
    }
}
