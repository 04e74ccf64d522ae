//! Holds lines against their seals.

use identity::Digest;
use record::{leaf_hash, tree_hash};

use crate::{Error, Seal};

/// Takes every line that there is, in order.
#[derive(Debug)]
pub struct Check {
    seals: Vec<Seal>,
    /// The seal of the next line.
    at: usize,
    /// Of the lines of that seal so far.
    leaves: Vec<Digest<32>>,
    /// The place of the next line, once there was one.
    next: Option<u64>,
    report: Report,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Lines that are those that were sealed.
    pub sealed: u64,
    /// Lines behind or between ranges, which nobody sealed.
    pub unsealed: u64,
    /// Lines that were sealed and are no longer there, before all others.
    pub deleted: u64,
    /// Ranges.
    pub ranges: u64,
    /// Where the first range begins, if not with the first line of all: earlier seals are not there.
    pub begins_after: Option<u64>,
}

impl Check {
    /// By these seals, oldest first: each must follow the one before.
    pub fn new(seals: Vec<Seal>) -> Result<Self, Error> {
        for pair in seals.windows(2) {
            let [before, seal] = pair else {
                continue;
            };
            let first = seal.first;
            if seal.recorder != before.recorder {
                return Err(Error::Recorder { first });
            }
            if first < before.end() || seal.previous != Some(before.digest()) {
                return Err(Error::Order { first });
            }
        }
        let begin = seals.first().map(|seal| seal.first);
        let begins_after = begin.filter(|first| *first > 0);
        Ok(Self {
            report: Report {
                ranges: seals.len() as u64,
                begins_after,
                ..Report::default()
            },
            seals,
            at: 0,
            leaves: Vec::new(),
            next: None,
        })
    }

    /// The next line, without its end, and its place.
    pub fn line(&mut self, index: u64, line: &[u8]) -> Result<(), Error> {
        match self.next {
            Some(next) if index != next => return Err(missing(next, index)),
            Some(_) => {}
            // The oldest ones may have been deleted, range by range.
            None => self.skip_to(index)?,
        }
        self.next = Some(index + 1);
        let Some(seal) = self.seals.get(self.at).filter(|seal| seal.first <= index) else {
            self.report.unsealed += 1;
            return Ok(());
        };
        self.leaves.push(leaf_hash(line));
        if index + 1 < seal.end() {
            return Ok(());
        }
        let leaves = std::mem::take(&mut self.leaves);
        if tree_hash(&leaves) != seal.root {
            return Err(Error::Changed {
                from: seal.first,
                to: index,
            });
        }
        self.report.sealed += seal.size;
        self.at += 1;
        Ok(())
    }

    fn skip_to(&mut self, index: u64) -> Result<(), Error> {
        while let Some(seal) = self.seals.get(self.at).filter(|seal| seal.first < index) {
            if seal.end() > index {
                return Err(missing(seal.first, index));
            }
            self.report.deleted += seal.size;
            self.at += 1;
        }
        Ok(())
    }

    /// There are no more lines: every range must be whole.
    pub fn finish(self) -> Result<Report, Error> {
        match self.seals.get(self.at) {
            None => Ok(self.report),
            Some(seal) => {
                let from = self.next.map_or(seal.first, |next| next.max(seal.first));
                let end = self.seals.last().map_or(seal.end(), Seal::end);
                Err(missing(from, end))
            }
        }
    }
}

fn missing(from: u64, behind: u64) -> Error {
    Error::Missing {
        from,
        to: behind.saturating_sub(1),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn line(index: u64) -> Vec<u8> {
        format!("{{\"line\":{index}}}").into_bytes()
    }

    fn seal(first: u64, size: u64, previous: Option<&Seal>) -> Seal {
        let lines: Vec<Vec<u8>> = (first..first + size).map(line).collect();
        Seal::new(
            Uuid::nil(),
            first,
            lines.iter().map(Vec::as_slice),
            previous,
        )
    }

    /// Of lines 0 to 2, 3 to 7, 8.
    fn seals() -> Vec<Seal> {
        let one = seal(0, 3, None);
        let two = seal(3, 5, Some(&one));
        let three = seal(8, 1, Some(&two));
        vec![one, two, three]
    }

    fn check(seals: Vec<Seal>, lines: impl IntoIterator<Item = u64>) -> Result<Report, Error> {
        let mut check = Check::new(seals)?;
        for index in lines {
            check.line(index, &line(index))?;
        }
        check.finish()
    }

    #[test]
    fn lines_that_were_sealed_are_told_from_others() {
        let all = Report {
            sealed: 9,
            ranges: 3,
            ..Report::default()
        };
        assert_eq!(check(seals(), 0..9), Ok(all.clone()));
        // What is not sealed yet is said.
        let more = Report { unsealed: 2, ..all };
        assert_eq!(check(seals(), 0..11), Ok(more));
        // The oldest ranges may be gone, and with them their seals.
        let rest = Report {
            sealed: 6,
            deleted: 3,
            ranges: 3,
            ..Report::default()
        };
        assert_eq!(check(seals(), 3..9), Ok(rest));
        let rest = Report {
            sealed: 6,
            ranges: 2,
            begins_after: Some(3),
            ..Report::default()
        };
        assert_eq!(check(seals()[1..].to_vec(), 3..9), Ok(rest));
    }

    #[test]
    fn what_is_missing_or_changed_is_found() {
        let missing = |from, to| Err(Error::Missing { from, to });
        assert_eq!(check(seals(), 1..9), missing(0, 0));
        assert_eq!(check(seals(), (0..9).filter(|it| *it != 4)), missing(4, 4));
        assert_eq!(check(seals(), 0..8), missing(8, 8));
        assert_eq!(check(seals(), 0..5), missing(5, 8));
        assert_eq!(check(seals(), 0..0), missing(0, 8));
        for changed in 0..9 {
            let mut check = Check::new(seals()).unwrap();
            let refused = (0..9).find_map(|index| {
                let told = if index == changed { 100 } else { index };
                check.line(index, &line(told)).err()
            });
            assert!(matches!(refused, Some(Error::Changed { .. })), "{changed}");
        }
        let [one, two, three] = seals().try_into().unwrap();
        let order = |first| Err(Error::Order { first });
        assert_eq!(check(vec![one.clone(), three.clone()], 0..9), order(8));
        assert_eq!(check(vec![two.clone(), one.clone()], 0..9), order(0));
        assert_eq!(check(vec![one.clone(), one.clone()], 0..9), order(0));
        // A second range over lines that were sealed.
        let again = seal(2, 3, Some(&one));
        assert_eq!(check(vec![one.clone(), again], 0..9), order(2));
        let mut other = two;
        other.recorder = Uuid::max();
        assert_eq!(
            check(vec![one, other], 0..9),
            Err(Error::Recorder { first: 3 })
        );
    }
}
