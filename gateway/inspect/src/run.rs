//! Runs of bytes of one sort.

/// Where the run of such bytes that ends at `end` begins; no further back than `most`.
pub(crate) fn run_back(text: &[u8], end: usize, most: usize, is_in: impl Fn(u8) -> bool) -> usize {
    let run = text[..end].iter().rev().take(most);
    end - run.take_while(|byte| is_in(**byte)).count()
}
