//! What consists of digits: card, social security, phone and account numbers.

use std::ops::Range;

use smallvec::{SmallVec, smallvec};

use crate::card::{self, luhn};
use crate::words::Words;
use crate::{Kind, Purpose};

/// A phone number has the fewest digits.
const FEWEST: usize = 7;
/// The longest sequence of groups that is looked at from one place.
const MAX_DIGITS: usize = 19;
/// A word of this many hexadecimal digits is a digest or an id, and none of its digits count.
pub(crate) const HEX_WORD: usize = 32;

/// A UUID is so long.
pub(crate) const UUID: usize = 36;

/// A text in ASCII digits, and what is known of it.
pub(crate) struct Digits<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) words: Words,
    /// It is the whole value, not words around it.
    pub(crate) is_bare: bool,
    pub(crate) purpose: Purpose,
}

/// Digits with nothing but one separator between them, always the same.
struct Sequence {
    groups: SmallVec<[Range<usize>; 8]>,
    separator: Option<u8>,
}

impl Digits<'_> {
    /// Finds them, in their order.
    pub(crate) fn find(&self, found: &mut Vec<(Kind, Range<usize>)>) {
        let mut at = 0;
        while let Some(start) = next_digit(self.text, at) {
            // Most numbers are too short for anything.
            let is_plus = start > 0 && self.text[start - 1] == b'+';
            if !is_plus && let Some(end) = self.short_end(start) {
                at = end;
                continue;
            }
            // A phone number may be a card number, too: each counts.
            if let Some(phone) = self.international(start) {
                found.push((Kind::Phone, phone));
            }
            let sequence = self.sequence(start);
            let found_until = self.look_at(&sequence, found);
            let last = &sequence.groups[sequence.groups.len() - 1];
            // Another separator follows: the last group may be the first of what comes.
            let goes_on = sequence.groups.len() > 1
                && is_separator(self.text.get(last.end).copied())
                && found_until < last.end;
            at = if goes_on { last.start } else { last.end };
        }
    }

    /// Where digits and separators end that are too few for a number of any kind; none if there are
    /// enough.
    fn short_end(&self, start: usize) -> Option<usize> {
        let mut digits = 0;
        for (at, byte) in self.text.iter().enumerate().skip(start) {
            if byte.is_ascii_digit() {
                digits += 1;
                if digits == FEWEST {
                    return None;
                }
            } else if !is_separator(Some(*byte)) {
                return Some(at);
            }
        }
        Some(self.text.len())
    }

    fn sequence(&self, start: usize) -> Sequence {
        let mut groups: SmallVec<[Range<usize>; 8]> = smallvec![self.group(start)];
        let mut separator: Option<(u8, usize)> = None;
        loop {
            let end = groups[groups.len() - 1].end;
            let Some(byte) = self
                .text
                .get(end)
                .copied()
                .filter(|byte| is_separator(Some(*byte)))
            else {
                break;
            };
            let width = 1 + usize::from(self.text.get(end + 1) == Some(&byte));
            let is_same = separator.is_none_or(|known| known == (byte, width));
            if !is_same || !self.text.get(end + width).is_some_and(u8::is_ascii_digit) {
                break;
            }
            separator = Some((byte, width));
            groups.push(self.group(end + width));
        }
        Sequence {
            groups,
            separator: separator.map(|(byte, _)| byte),
        }
    }

    fn group(&self, start: usize) -> Range<usize> {
        let rest = &self.text[start..];
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        start..start + length
    }

    /// Looks at a sequence; where the last card or social security number in it ends, or 0.
    fn look_at(&self, sequence: &Sequence, found: &mut Vec<(Kind, Range<usize>)>) -> usize {
        let groups = &sequence.groups;
        if let Some(phone) = self.phone(groups) {
            found.push((Kind::Phone, phone));
        }
        let (mut first, mut found_until) = (0, 0);
        while first < groups.len() {
            let ends = self.ends(groups, first);
            let card = ends
                .iter()
                .rev()
                .find(|last| self.is_card(sequence, first..**last + 1));
            let kind = match card {
                Some(last) => Some((Kind::CreditCard, *last)),
                None if self.is_ssn(sequence, first) => {
                    let last = if groups[first].len() == 9 {
                        first
                    } else {
                        first + 2
                    };
                    Some((Kind::Ssn, last))
                }
                None => None,
            };
            match kind {
                Some((kind, last)) => {
                    found_until = groups[last].end;
                    found.push((kind, groups[first].start..found_until));
                    first = last + 1;
                }
                None => first += 1,
            }
        }
        found_until
    }

    /// The groups with which a number that begins at `first` may end.
    fn ends(&self, groups: &[Range<usize>], first: usize) -> SmallVec<[usize; 8]> {
        let mut total = 0;
        let mut ends = SmallVec::new();
        for (at, group) in groups.iter().enumerate().skip(first) {
            total += group.len();
            if total > MAX_DIGITS {
                break;
            }
            if total >= 12 {
                ends.push(at);
            }
        }
        ends
    }

    fn is_card(&self, sequence: &Sequence, which: Range<usize>) -> bool {
        let groups = &sequence.groups[which.clone()];
        let digits: SmallVec<[u8; 24]> = groups
            .iter()
            .flat_map(|group| &self.text[group.clone()])
            .copied()
            .collect();
        let is_whole = which.len() == sequence.groups.len();
        if !has_shape(groups, is_whole) {
            return false;
        }
        if self.purpose == Purpose::Log && is_in_fours(groups) {
            return true;
        }
        let Some(range) = card::range(&digits) else {
            return false;
        };
        let is_grouped_in_log = self.purpose == Purpose::Log && groups.len() > 1;
        if !is_grouped_in_log && !luhn(&digits) {
            return false;
        }
        // Maestro has so many numbers that some part of most lists of digits is one.
        if range == card::Range::Wide && !is_whole {
            return false;
        }
        if groups.len() > 1 {
            return !is_in_uuid(self.text, groups[0].start);
        }
        let group = groups[0].clone();
        let words = self.words.before(self.text, group.start);
        // A fraction, a version, an address.
        let is_part = sequence.separator == Some(b'.') && sequence.groups.len() > 1;
        let before = self.text[..group.start].strip_suffix(b".");
        let is_fraction =
            before.is_some_and(|before| before.last().is_some_and(u8::is_ascii_digit));
        if is_part || is_fraction || is_in_hex_word(self.text, &group) {
            return false;
        }
        words.card || (range == card::Range::Narrow && !(self.is_bare && self.words.id))
    }

    /// `123-45-6789`, anywhere; with other separators, or none, only where words say so.
    fn is_ssn(&self, sequence: &Sequence, first: usize) -> bool {
        let groups = &sequence.groups[first..];
        let words = || self.words.before(self.text, groups[0].start);
        let lengths: SmallVec<[usize; 3]> = groups.iter().take(3).map(Range::len).collect();
        match lengths[..] {
            [3, 2, 4] => {
                // An ISBN begins so.
                let is_book = matches!(&self.text[sequence.groups[0].clone()], b"978" | b"979");
                let is_more = sequence.groups.len() > 3;
                match sequence.separator {
                    Some(b'-') => !(is_book && is_more),
                    _ => words().ssn,
                }
            }
            [9, ..] => {
                let digits = &self.text[groups[0].clone()];
                is_assigned(digits) && words().ssn && !is_in_hex_word(self.text, &groups[0])
            }
            _ => false,
        }
    }

    /// With a plus sign before its first digit (ITU-T E.164), written with spaces, dashes, dots and
    /// brackets.
    fn international(&self, first: usize) -> Option<Range<usize>> {
        let plus = first.checked_sub(1).filter(|at| self.text[*at] == b'+')?;
        // Not the second operand of a sum.
        let is_sum = plus > 0 && self.text[plus - 1].is_ascii_alphanumeric();
        let (mut end, mut digits) = (first, 0);
        for (at, byte) in self.text.iter().enumerate().skip(first).take(24) {
            match byte {
                b'0'..=b'9' => (end, digits) = (at + 1, digits + 1),
                b' ' | b'-' | b'.' | b'(' | b')' | b'/' => {}
                _ => break,
            }
        }
        (!is_sum && (8..=15).contains(&digits)).then_some(plus..end)
    }

    /// Without a plus sign, where words say so.
    fn phone(&self, groups: &[Range<usize>]) -> Option<Range<usize>> {
        let (start, end) = (groups[0].start, groups[groups.len() - 1].end);
        let total: usize = groups.iter().map(Range::len).sum();
        let is_likely = (7..=15).contains(&total) && !self.words.id;
        (is_likely && self.words.before(self.text, start).phone).then_some(start..end)
    }
}

pub(crate) fn is_separator(byte: Option<u8>) -> bool {
    matches!(byte, Some(b' ' | b'-' | b'.' | b'_' | b'/'))
}

/// The next digit from here, by blocks of which the compiler makes vectors.
pub(crate) fn next_digit(text: &[u8], mut at: usize) -> Option<usize> {
    while let Some(block) = text.get(at..at + 32) {
        if block
            .iter()
            .fold(false, |any, byte| any | byte.is_ascii_digit())
        {
            break;
        }
        at += 32;
    }
    text[at..]
        .iter()
        .position(u8::is_ascii_digit)
        .map(|found| at + found)
}

/// As card numbers are printed: in groups of one length, the last of which may be shorter; or as
/// American Express, Diners Club and old Maestro cards are. Groups of other lengths than four must be
/// all that there is.
fn has_shape(groups: &[Range<usize>], is_whole: bool) -> bool {
    let lengths: SmallVec<[usize; 24]> = groups.iter().map(Range::len).collect();
    match lengths[..] {
        [_] | [4, 6, 4 | 5] | [4, 4, 5] => true,
        [first, .., last] => {
            let is_even = lengths[..lengths.len() - 1]
                .iter()
                .all(|length| *length == first);
            is_even && last <= first && (first == 4 || is_whole)
        }
        [] => false,
    }
}

fn is_in_fours(groups: &[Range<usize>]) -> bool {
    groups.len() == 4 && groups.iter().all(|group| group.len() == 4)
}

/// Numbers that the Social Security Administration may have given: no area 000, 666 or 9xx, no group
/// 00, no serial number 0000.
fn is_assigned(digits: &[u8]) -> bool {
    let (area, group, serial) = (&digits[..3], &digits[3..5], &digits[5..]);
    area != b"000" && area != b"666" && area[0] != b'9' && group != b"00" && serial != b"0000"
}

/// Whether a group is one of a UUID's, `8-4-4-4-12` in hexadecimal digits (RFC 9562 section 4).
fn is_in_uuid(text: &[u8], start: usize) -> bool {
    const LENGTH: usize = UUID;
    let is_in = |byte: &&u8| byte.is_ascii_hexdigit() || **byte == b'-';
    let before = text[..start]
        .iter()
        .rev()
        .take(LENGTH)
        .take_while(is_in)
        .count();
    let begin = start - before;
    let length = text[begin..]
        .iter()
        .take(LENGTH + 1)
        .take_while(is_in)
        .count();
    length == LENGTH
        && (0..LENGTH).all(|at| (text[begin + at] == b'-') == matches!(at, 8 | 13 | 18 | 23))
}

fn is_in_hex_word(text: &[u8], group: &Range<usize>) -> bool {
    let is_hex = |byte: &&u8| byte.is_ascii_hexdigit();
    // No further than needed: a long word is looked at for each of its groups.
    let before = text[..group.start].iter().rev().take(HEX_WORD);
    let before = before.take_while(is_hex).count();
    let after = text[group.end..].iter().take(HEX_WORD);
    let after = after.take_while(is_hex).count();
    before + group.len() + after >= HEX_WORD
}
