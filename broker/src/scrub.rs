//! Looks for credentials in answers, however they are cut into pieces.

use std::ops::Range;

use aho_corasick::packed::{self, MatchKind, Searcher};
use aho_corasick::{AhoCorasick, AhoCorasickKind};
use bytes::Bytes;
use policy::Scrub;

use crate::forms::forms;

/// Of longer ones no table of all transitions is made, which has some 7 KiB for each byte.
const MAX_TABLE: usize = 256;

/// The credential stands in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reflected;

/// What is looked for.
pub struct Needles {
    /// In lower case, as everything is that they are looked for in.
    forms: Vec<Vec<u8>>,
    matcher: Matcher,
    longest: usize,
}

/// Many words at once.
enum Matcher {
    /// By vectors of the processor: a few words.
    Packed(Searcher),
    Automaton(AhoCorasick),
}

impl Matcher {
    /// `length` is that of all secrets.
    fn new(forms: &[Vec<u8>], length: usize) -> Self {
        let packed = packed::Config::new()
            .match_kind(MatchKind::LeftmostLongest)
            .builder()
            .extend(forms)
            .build();
        if let Some(packed) = packed {
            return Self::Packed(packed);
        }
        let kind = if length <= MAX_TABLE {
            AhoCorasickKind::DFA
        } else {
            AhoCorasickKind::ContiguousNFA
        };
        let automaton = AhoCorasick::builder()
            .kind(Some(kind))
            .match_kind(aho_corasick::MatchKind::LeftmostLongest)
            .build(forms);
        // A few texts of a few thousand bytes can always be built.
        Self::Automaton(automaton.expect("a small automaton"))
    }

    fn find(&self, lower: &[u8]) -> Option<Range<usize>> {
        match self {
            Self::Packed(packed) => packed.find(lower).map(|found| found.start()..found.end()),
            Self::Automaton(automaton) => automaton.find(lower).map(|found| found.range()),
        }
    }

    fn memory(&self) -> usize {
        match self {
            Self::Packed(packed) => packed.memory_usage(),
            Self::Automaton(automaton) => automaton.memory_usage(),
        }
    }
}

impl std::fmt::Debug for Needles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Needles").finish_non_exhaustive()
    }
}

impl Needles {
    /// These secrets, in every form in which they are looked for, in upper or lower case.
    pub fn new<S: AsRef<[u8]>>(secrets: &[S]) -> Self {
        let mut all: Vec<Vec<u8>> = secrets
            .iter()
            .flat_map(|secret| forms(secret.as_ref()))
            .map(|form| form.to_ascii_lowercase())
            .collect();
        all.sort();
        all.dedup();
        let length = secrets.iter().map(|secret| secret.as_ref().len()).sum();
        Self {
            matcher: Matcher::new(&all, length),
            longest: all.iter().map(Vec::len).max().unwrap_or_default(),
            forms: all,
        }
    }

    /// How much memory they take, in bytes.
    pub fn memory(&self) -> usize {
        self.matcher.memory() + self.forms.iter().map(Vec::len).sum::<usize>()
    }

    /// Whether one of them stands in this.
    pub fn stand_in(&self, text: &[u8]) -> bool {
        self.matcher.find(&text.to_ascii_lowercase()).is_some()
    }
}

/// Passes an answer on, piece by piece. While more comes, as many of the last bytes are held back as the longest
/// secret has, whatever they are. Where it stops, all of it is passed but for the word at its end: secrets have no blanks
/// and line ends in them. So how much is passed tells nothing of a secret to whoever chooses what stands in an answer.
#[derive(Debug)]
pub struct Scrubber<N> {
    needles: N,
    mode: Scrub,
    /// The last bytes that came.
    tail: Bytes,
    /// How many of them were passed on.
    passed: usize,
    /// What came, in lower case: kept, so that it is not allocated for each piece.
    lower: Vec<u8>,
}

impl<N: std::ops::Deref<Target = Needles>> Scrubber<N> {
    /// For one answer.
    pub fn new(needles: N, mode: Scrub) -> Self {
        Self {
            needles,
            mode,
            tail: Bytes::new(),
            passed: 0,
            lower: Vec::new(),
        }
    }

    /// What may be passed on of all that came so far.
    pub fn push(&mut self, piece: Bytes) -> Result<Bytes, Reflected> {
        let mut text = piece;
        if !self.tail.is_empty() {
            text = [&self.tail[..], &text].concat().into();
        }
        self.look_at(&text);
        let found = self.find()?;
        if !found.is_empty() {
            let mut masked = text.to_vec();
            for range in found {
                masked[range].fill(b'*');
            }
            text = masked.into();
        }
        let held = self.needles.longest.saturating_sub(1).min(text.len());
        let end = text.len() - held;
        let out = text.slice(self.passed.min(end)..end);
        self.passed = self.passed.saturating_sub(end);
        // It would keep all of the piece in memory.
        self.tail = Bytes::copy_from_slice(&text[end..]);
        Ok(out)
    }

    /// What may be passed on where nothing more has come yet.
    pub fn pause(&mut self) -> Bytes {
        let tail = self.tail.clone();
        let is_end = |byte: &u8| !byte.is_ascii_graphic();
        let end = tail.iter().rposition(is_end).map_or(0, |last| last + 1);
        let out = tail.slice(self.passed.min(end)..end);
        self.passed = self.passed.max(end);
        out
    }

    /// The rest, at the end of the answer.
    pub fn finish(&mut self) -> Bytes {
        let rest = self.tail.split_off(self.passed);
        (self.tail, self.passed) = (Bytes::new(), 0);
        rest
    }

    fn look_at(&mut self, text: &[u8]) {
        self.lower.clear();
        self.lower.extend_from_slice(text);
        self.lower.make_ascii_lowercase();
    }

    /// Where secrets stand in what came.
    fn find(&self) -> Result<Vec<Range<usize>>, Reflected> {
        let (mut all, mut from) = (Vec::new(), 0);
        while let Some(found) = self.needles.matcher.find(&self.lower[from..]) {
            if self.mode == Scrub::Refuse {
                return Err(Reflected);
            }
            all.push(from + found.start..from + found.end);
            from += found.end;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"sk-live-0123456789abcdef";

    fn passed(text: &[u8], cut: usize, mode: Scrub) -> Result<Vec<u8>, Reflected> {
        let needles = Needles::new(&[SECRET]);
        let mut scrubber = Scrubber::new(&needles, mode);
        let mut out = Vec::new();
        for piece in text.chunks(cut) {
            out.extend(scrubber.push(Bytes::copy_from_slice(piece))?);
        }
        out.extend(scrubber.finish());
        Ok(out)
    }

    #[test]
    fn a_secret_is_found_in_every_form_however_it_is_cut() {
        for form in forms(SECRET) {
            let text = [b"before ", &form[..], b" after"].concat();
            for cut in 1..text.len() + 1 {
                assert_eq!(passed(&text, cut, Scrub::Refuse), Err(Reflected));
                let masked = [b"before ", &vec![b'*'; form.len()][..], b" after"].concat();
                assert_eq!(passed(&text, cut, Scrub::Replace).as_deref(), Ok(&*masked));
            }
        }
    }

    #[test]
    fn however_many_are_looked_for_each_is_found() {
        let secret = |n: usize| format!("sk-live-{n:04}-secret/+\"<&>");
        for count in [1, 2, 20, 60] {
            let secrets: Vec<String> = (0..count).map(secret).collect();
            let needles = Needles::new(&secrets);
            let is_packed = matches!(needles.matcher, Matcher::Packed(_));
            assert_eq!(is_packed, count < 20, "{count}");
            for form in secrets.iter().flat_map(|secret| forms(secret.as_bytes())) {
                for text in [form.to_ascii_uppercase(), form.to_ascii_lowercase(), form] {
                    let before = [b"before ", &text[..]].concat();
                    assert!(needles.stand_in(&before));
                    assert!(!needles.stand_in(&before[..before.len() - 1]));
                    let mut scrubber = Scrubber::new(&needles, Scrub::Replace);
                    let now = scrubber.push(before.into()).unwrap();
                    let masked = [&now[..], &scrubber.finish()].concat();
                    assert!(masked.ends_with(b"***"));
                }
            }
        }
    }

    #[test]
    fn what_is_looked_for_takes_little_memory() {
        let random: Vec<u8> = (0..4096_u32)
            .map(|at| {
                b"0123456789abcdefGHIJKL-_/+=."[(at.wrapping_mul(2_654_435_761) >> 7) as usize % 28]
            })
            .collect();
        for length in [8, 51, 164, 256, 257, 1200, 4096] {
            let memory = Needles::new(&[&random[..length]]).memory();
            assert!(memory < 3 << 20, "{length} bytes: {memory}");
        }
    }

    #[test]
    fn everything_else_passes_as_it_is_and_only_a_word_waits() {
        let text = b"data: sk-live-0123456789abcde\n\ndata: sk-live-sk-live-0123\n\n";
        for cut in 1..text.len() {
            assert_eq!(passed(text, cut, Scrub::Refuse).as_deref(), Ok(&text[..]));
        }
        let needles = Needles::new(&[SECRET]);
        let mut scrubber = Scrubber::new(&needles, Scrub::Refuse);
        // Where an event ends, all of it is there.
        for (piece, wanted) in [
            ("data: hello\n\n", "data: hello\n\n"),
            ("two wo", "two "),
            ("rds", ""),
            (" and more\n", "words and more\n"),
        ] {
            let now = scrubber.push(piece.into()).unwrap();
            let rest = scrubber.pause();
            assert_eq!([&now[..], &rest].concat(), wanted.as_bytes());
        }
        assert!(scrubber.finish().is_empty());
    }

    #[test]
    fn how_much_is_passed_tells_nothing_of_a_secret() {
        let needles = Needles::new(&[SECRET]);
        // What somebody tries at the end of a piece: right, and wrong.
        for form in forms(SECRET) {
            for guessed in 1..form.len() {
                let right = [&[b'~'; 300], &form[..guessed]].concat();
                let mut wrong = right.clone();
                *wrong.last_mut().unwrap() = b'~';
                for before in ["", "a word and "] {
                    let lengths = |text: &[u8]| {
                        let mut scrubber = Scrubber::new(&needles, Scrub::Refuse);
                        let text = [before.as_bytes(), text].concat();
                        let now = scrubber.push(text.into()).unwrap().len();
                        let stopped = scrubber.pause().len();
                        let more = scrubber.push("~ ~".into()).unwrap().len();
                        [
                            now,
                            stopped,
                            more,
                            scrubber.pause().len(),
                            scrubber.finish().len(),
                        ]
                    };
                    assert_eq!(lengths(&right), lengths(&wrong), "{guessed}");
                }
            }
        }
    }

    #[test]
    fn a_secret_is_found_wherever_an_answer_stops_meanwhile() {
        for form in forms(SECRET) {
            for first in 1..form.len() {
                for mode in [Scrub::Refuse, Scrub::Replace] {
                    let needles = Needles::new(&[SECRET]);
                    let mut scrubber = Scrubber::new(&needles, mode);
                    let begun = [b"before ", &form[..first]].concat();
                    let mut out = scrubber.push(begun.into()).unwrap().to_vec();
                    out.extend(scrubber.pause());
                    // Nothing of it.
                    assert_eq!(out, b"before ");
                    let second = scrubber.push([&form[first..], b" behind"].concat().into());
                    if mode == Scrub::Refuse {
                        assert_eq!(second, Err(Reflected));
                        continue;
                    }
                    out.extend(second.unwrap());
                    out.extend(scrubber.finish());
                    let masked = [b"before ", &vec![b'*'; form.len()][..], b" behind"].concat();
                    assert_eq!(out, masked);
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn wherever_it_is_cut_the_same_comes_out(text: Vec<u8>, at in 0_usize..64, cut in 1_usize..40) {
            let at = at.min(text.len());
            let whole = [&text[..at], SECRET, &text[at..]].concat();
            proptest::prop_assert_eq!(passed(&whole, cut, Scrub::Refuse), Err(Reflected));
            let masked = passed(&whole, cut, Scrub::Replace).unwrap();
            proptest::prop_assert_eq!(masked.len(), whole.len());
            proptest::prop_assert_eq!(&masked, &passed(&whole, whole.len(), Scrub::Replace).unwrap());
        }
    }
}
