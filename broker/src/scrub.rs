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

    /// How many of the last bytes could be the beginning of one.
    fn begun(&self, lower: &[u8]) -> usize {
        let from = lower.len().saturating_sub(self.longest.saturating_sub(1));
        let open = |at: &usize| {
            let tail = &lower[*at..];
            self.forms.iter().any(|form| form.starts_with(tail))
        };
        (from..lower.len())
            .find(open)
            .map_or(0, |at| lower.len() - at)
    }
}

/// Passes an answer on, piece by piece. What could be the beginning of a secret is held back until
/// more is known, and nothing else is.
#[derive(Debug)]
pub struct Scrubber<N> {
    needles: N,
    mode: Scrub,
    held: Bytes,
    /// What came, in lower case: kept, so that it is not allocated for each piece.
    lower: Vec<u8>,
}

impl<N: std::ops::Deref<Target = Needles>> Scrubber<N> {
    /// For one answer.
    pub fn new(needles: N, mode: Scrub) -> Self {
        Self {
            needles,
            mode,
            held: Bytes::new(),
            lower: Vec::new(),
        }
    }

    /// What may be passed on of all that came so far.
    pub fn push(&mut self, piece: Bytes) -> Result<Bytes, Reflected> {
        let mut text = piece;
        if !self.held.is_empty() {
            text = [&self.held[..], &text].concat().into();
        }
        self.lower.clear();
        self.lower.extend_from_slice(&text);
        self.lower.make_ascii_lowercase();
        let found = self.find()?;
        if !found.is_empty() {
            let mut masked = text.to_vec();
            for range in found {
                masked[range.clone()].fill(b'*');
                self.lower[range].fill(b'*');
            }
            text = masked.into();
        }
        let begun = self.needles.begun(&self.lower);
        self.held = text.split_off(text.len() - begun);
        Ok(text)
    }

    /// The rest, at the end of the answer.
    pub fn finish(&mut self) -> Bytes {
        std::mem::take(&mut self.held)
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
                    let masked = scrubber.push(before.into()).unwrap();
                    assert!(masked.ends_with(b"***") && scrubber.finish().is_empty());
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
    fn everything_else_passes_as_it_is_and_only_a_beginning_waits() {
        let text = b"data: sk-live-0123456789abcde\n\ndata: sk-live-sk-live-0123\n\n";
        for cut in 1..text.len() {
            assert_eq!(passed(text, cut, Scrub::Refuse).as_deref(), Ok(&text[..]));
        }
        let needles = Needles::new(&[SECRET]);
        let mut scrubber = Scrubber::new(&needles, Scrub::Refuse);
        for (piece, wanted) in [
            ("data: hello\n\n", "data: hello\n\n"),
            ("x sk-li", "x "),
            ("ne", "sk-line"),
            ("s", ""),
        ] {
            assert_eq!(scrubber.push(piece.into()), Ok(Bytes::from(wanted)));
        }
        assert_eq!(&scrubber.finish()[..], b"s");
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
