//! Looks for credentials in answers, however they are cut into pieces.

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use policy::Scrub;

use crate::forms::forms;

/// Of longer ones no table of all transitions is made, which has some 7 KiB for each byte.
const MAX_TABLE: usize = 256;

/// The credential stands in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reflected;

/// What is looked for.
pub struct Needles {
    forms: Vec<Vec<u8>>,
    matcher: AhoCorasick,
    longest: usize,
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
            .collect();
        all.sort();
        all.dedup();
        let length: usize = secrets.iter().map(|secret| secret.as_ref().len()).sum();
        let kind = if length <= MAX_TABLE {
            AhoCorasickKind::DFA
        } else {
            AhoCorasickKind::ContiguousNFA
        };
        Self {
            // A few texts of a few thousand bytes can always be built.
            matcher: AhoCorasick::builder()
                .kind(Some(kind))
                .match_kind(aho_corasick::MatchKind::LeftmostLongest)
                .ascii_case_insensitive(true)
                .build(&all)
                .expect("a small automaton"),
            longest: all.iter().map(Vec::len).max().unwrap_or_default(),
            forms: all,
        }
    }

    /// How much memory they take, in bytes.
    pub fn memory(&self) -> usize {
        self.matcher.memory_usage() + self.forms.iter().map(Vec::len).sum::<usize>()
    }

    /// Whether one of them stands in this.
    pub fn stand_in(&self, text: &[u8]) -> bool {
        self.matcher.is_match(text)
    }

    /// How many of the last bytes could be the beginning of one.
    fn begun(&self, text: &[u8]) -> usize {
        let from = text.len().saturating_sub(self.longest.saturating_sub(1));
        let open = |at: &usize| {
            let tail = &text[*at..];
            let begins = |form: &Vec<u8>| {
                form.get(..tail.len())
                    .is_some_and(|begin| begin.eq_ignore_ascii_case(tail))
            };
            self.forms.iter().any(begins)
        };
        (from..text.len())
            .find(open)
            .map_or(0, |at| text.len() - at)
    }
}

/// Passes an answer on, piece by piece. What could be the beginning of a secret is held back until
/// more is known, and nothing else is.
#[derive(Debug)]
pub struct Scrubber<N> {
    needles: N,
    mode: Scrub,
    held: Vec<u8>,
}

impl<N: std::ops::Deref<Target = Needles>> Scrubber<N> {
    /// For one answer.
    pub fn new(needles: N, mode: Scrub) -> Self {
        Self {
            needles,
            mode,
            held: Vec::new(),
        }
    }

    /// What may be passed on of all that came so far.
    pub fn push(&mut self, piece: &[u8]) -> Result<Vec<u8>, Reflected> {
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(piece);
        self.clean(&mut text)?;
        let begun = self.needles.begun(&text);
        self.held = text.split_off(text.len() - begun);
        Ok(text)
    }

    /// The rest, at the end of the answer.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    fn clean(&self, text: &mut [u8]) -> Result<(), Reflected> {
        let mut from = 0;
        while let Some(found) = self.needles.matcher.find(&text[from..]) {
            if self.mode == Scrub::Refuse {
                return Err(Reflected);
            }
            text[from + found.start()..from + found.end()].fill(b'*');
            from += found.end();
        }
        Ok(())
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
            out.extend(scrubber.push(piece)?);
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
        assert_eq!(
            scrubber.push(b"data: hello\n\n").as_deref(),
            Ok(&b"data: hello\n\n"[..])
        );
        assert_eq!(scrubber.push(b"x sk-li").as_deref(), Ok(&b"x "[..]));
        assert_eq!(scrubber.push(b"ne").as_deref(), Ok(&b"sk-line"[..]));
        assert_eq!(scrubber.push(b"s").as_deref(), Ok(&b""[..]));
        assert_eq!(scrubber.finish(), b"s");
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
