//! The decision record of this boot: a chain of which only the end is kept, a key, and the latest
//! lines for a proxy that missed them.

use std::collections::VecDeque;

use identity::BootId;
use protocol::Records;
use record::{Batch, Decision, MAX_BATCH, Tail};

use crate::Error;
use crate::keys::{Deferred, KeyPair};
use crate::service::Unreleased;
use crate::sync::{Mutex, RwLock, lock, read, write};

/// Lines that are remembered: more than can be under way to a proxy that is gone.
const MAX_REMEMBERED: usize = 1024;
/// Bytes of them.
const MAX_BYTES: usize = 1 << 20;
/// Bytes that go into one answer.
const MAX_ANSWER: usize = 60 * 1024;

pub(crate) struct Record {
    key: RwLock<Option<KeyPair>>,
    state: Mutex<State>,
}

struct State {
    tail: Tail,
    /// The latest lines; none where one has its place and is not published yet.
    remembered: VecDeque<Option<Vec<u8>>>,
    bytes: usize,
    /// Sequence number of the next event.
    next: u64,
}

/// Lines that are signed and have their places, and that nobody has seen.
pub(crate) struct Sealed {
    first: u64,
    lines: Vec<Vec<u8>>,
}

impl Record {
    pub(crate) fn new(key: KeyPair, boot_id: BootId) -> Self {
        let state = State {
            tail: Tail::new(boot_id),
            remembered: VecDeque::new(),
            bytes: 0,
            next: 0,
        };
        Self {
            key: RwLock::new(Some(key)),
            state: Mutex::new(state),
        }
    }

    /// Gives decisions their places and signs them. After an error the record cannot go on.
    pub(crate) fn seal(&self, decisions: Vec<Decision>) -> Result<Unreleased<Sealed>, Error> {
        let key = read(&self.key);
        let signer = Deferred::new(key.as_ref().ok_or(Error::Halted)?);
        let mut lines = Vec::with_capacity(decisions.len());
        let (first, batches) = lock(&self.state).place(decisions)?;
        for batch in batches {
            lines.extend(batch.sign(&signer)?);
        }
        let sealed = Sealed { first, lines };
        Ok(Unreleased::new(sealed, signer.into_unchecked()))
    }

    /// Remembers lines whose signature was checked, and gives them.
    pub(crate) fn publish(&self, sealed: Sealed) -> Vec<Vec<u8>> {
        lock(&self.state).remember(&sealed);
        sealed.lines
    }

    /// The lines from `from` on, as far as they are remembered and fit into an answer, and up to
    /// the first one that is not published.
    pub(crate) fn since(&self, from: u64) -> Records {
        let state = lock(&self.state);
        let oldest = state.oldest();
        let published = || state.remembered.iter().map_while(Option::as_ref);
        let skip = usize::try_from(from.saturating_sub(oldest)).unwrap_or(usize::MAX);
        let mut room = MAX_ANSWER;
        let fits = |line: &&Vec<u8>| {
            let wants = line.len() + 8;
            let fits = wants <= room;
            room = room.saturating_sub(wants);
            fits
        };
        let lines = published()
            .skip(skip)
            .take_while(fits)
            .map(|line| line.clone().into())
            .collect();
        Records {
            lines,
            next: oldest + published().count() as u64,
        }
    }

    pub(crate) fn wipe(&self) {
        *write(&self.key) = None;
    }
}

impl State {
    /// Gives decisions their places; gives the first one, and what is to be signed.
    fn place(&mut self, decisions: Vec<Decision>) -> Result<(u64, Vec<Batch>), Error> {
        let first = self.next;
        let mut batches = Vec::with_capacity(1);
        let mut decisions = decisions.into_iter().peekable();
        while decisions.peek().is_some() {
            let some: Vec<_> = decisions.by_ref().take(MAX_BATCH).collect();
            self.next += some.len() as u64;
            self.remembered.extend(some.iter().map(|_| None));
            batches.push(self.tail.append(some)?);
        }
        Ok((first, batches))
    }

    fn remember(&mut self, sealed: &Sealed) {
        for (sequence, line) in (sealed.first..).zip(&sealed.lines) {
            let place = sequence.checked_sub(self.oldest());
            let place = place.and_then(|place| usize::try_from(place).ok());
            if let Some(place) = place.and_then(|place| self.remembered.get_mut(place)) {
                *place = Some(line.clone());
                self.bytes += line.len();
            }
            self.forget();
        }
    }

    /// Makes room by the oldest ones. One that is not published yet is waited for, or the sidecar
    /// would give it up; but not for ever.
    fn forget(&mut self) {
        let beyond = |times, state: &Self| {
            state.remembered.len() > times * MAX_REMEMBERED || state.bytes > times * MAX_BYTES
        };
        while beyond(4, self) || (beyond(1, self) && self.remembered.front() != Some(&None)) {
            let oldest = self.remembered.pop_front().flatten();
            self.bytes -= oldest.map_or(0, |line| line.len());
        }
    }

    /// Sequence number of the oldest line that is remembered, or of the next one.
    fn oldest(&self) -> u64 {
        self.next - self.remembered.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use identity::{Algorithm, Digest, PublicKey, Signer};
    use record::Reader;

    use super::*;
    use crate::audit::Trail;

    impl Record {
        pub(crate) fn public_key(&self) -> PublicKey {
            let key = read(&self.key);
            key.as_ref().expect("not wiped").public_key().clone()
        }
    }

    fn record() -> Record {
        let key = KeyPair::generate(Algorithm::EdDSA, &[1; 32], &[2; 32], b"record");
        Record::new(key, BootId::new([1; 16]))
    }

    fn sealed(record: &Record, count: usize) -> Sealed {
        let decision = |_| Trail::new(Digest([0; 48]), "token.sign", "default").compose(None);
        let sealed = record.seal((0..count).map(decision).collect()).unwrap();
        sealed.checked().unwrap()
    }

    /// Sequence numbers of the lines, each read by who trusts this record's key, and the next one.
    fn since(record: &Record, from: u64) -> (Vec<u64>, u64) {
        let records = record.since(from);
        let place = |line: &minicbor::bytes::ByteVec| {
            let (boot, sequence) = record::unverified_place(line).unwrap();
            assert_eq!(boot, BootId::new([1; 16]));
            sequence
        };
        (records.lines.iter().map(place).collect(), records.next)
    }

    #[test]
    fn a_line_is_seen_once_it_is_published_and_none_before_those_ahead_of_it() {
        let record = record();
        let (one, two, three) = (sealed(&record, 2), sealed(&record, 1), sealed(&record, 2));
        assert_eq!(since(&record, 0), (vec![], 0));
        let late = record.publish(three);
        assert_eq!((late.len(), since(&record, 0)), (2, (vec![], 0)));
        // Nor does who asks for it by its number learn of it.
        assert_eq!(since(&record, 3), (vec![], 0));
        let first = record.publish(one);
        assert_eq!(since(&record, 0), (vec![0, 1], 2));
        assert_eq!(since(&record, 1), (vec![1], 2));
        let second = record.publish(two);
        assert_eq!(since(&record, 0), (vec![0, 1, 2, 3, 4], 5));
        assert_eq!(since(&record, 5), (vec![], 5));
        // Together, in their order, they are the record.
        let mut reader = Reader::new(vec![record.public_key()]);
        for line in [first, second, late].concat() {
            reader.next(&line).unwrap();
        }
    }

    #[test]
    fn the_latest_lines_are_remembered_whoever_was_late() {
        let record = record();
        let late = sealed(&record, 1);
        for _ in 0..20 {
            let sealed = sealed(&record, MAX_BATCH);
            record.publish(sealed);
        }
        // It is waited for.
        assert_eq!(since(&record, 0), (vec![], 0));
        record.publish(late);
        let (lines, next) = since(&record, 0);
        assert_eq!(next, 1 + 20 * MAX_BATCH as u64);
        let state = lock(&record.state);
        assert_eq!(lines[0], next - state.remembered.len() as u64);
        let bytes = state
            .remembered
            .iter()
            .flatten()
            .map(Vec::len)
            .sum::<usize>();
        assert_eq!(state.bytes, bytes);
        assert!(state.remembered.len() <= MAX_REMEMBERED && bytes <= MAX_BYTES);
        drop(state);
        // One that never comes is not waited for until the memory is full.
        let _never = sealed(&record, 1);
        for _ in 0..5 * MAX_REMEMBERED / MAX_BATCH {
            let sealed = sealed(&record, MAX_BATCH);
            record.publish(sealed);
        }
        let state = lock(&record.state);
        assert!(state.remembered.len() <= MAX_REMEMBERED && state.bytes <= MAX_BYTES);
    }

    #[test]
    fn once_its_key_is_wiped_nothing_more_is_sealed_and_what_was_is_remembered() {
        let record = record();
        let before = sealed(&record, 1);
        record.publish(before);
        record.wipe();
        let decision = Trail::new(Digest([0; 48]), "token.sign", "default").compose(None);
        assert_eq!(record.seal(vec![decision]).err(), Some(Error::Halted));
        assert_eq!(since(&record, 0), (vec![0], 1));
    }

    #[test]
    fn what_is_remembered_is_given_in_pieces_that_fit() {
        let record = record();
        for _ in 0..4 {
            let sealed = sealed(&record, MAX_BATCH);
            record.publish(sealed);
        }
        let (mut from, mut pieces, mut before) = (0, 0, 61_440);
        while from < 4 * MAX_BATCH as u64 {
            let (lines, next) = since(&record, from);
            assert_eq!((lines[0], next), (from, 4 * MAX_BATCH as u64));
            assert!(lines.is_sorted_by(|one, next| one + 1 == *next));
            let answered = record.since(from).lines;
            // What stands before a line in the frame counts, and where one more would fit, it is there.
            let bytes: usize = answered.iter().map(|line| line.len() + 8).sum();
            assert!(bytes <= 61_440, "{bytes}");
            assert!(before + answered[0].len() + 8 > 61_440, "{before}");
            before = bytes;
            (from, pieces) = (lines[lines.len() - 1] + 1, pieces + 1);
        }
        assert!(pieces > 2, "{pieces}");
    }

    #[test]
    fn as_much_is_remembered_as_there_is_room_for() {
        let record = record();
        for number in 0..=MAX_REMEMBERED as u64 {
            let line = sealed(&record, 1);
            record.publish(line);
            let oldest = lock(&record.state).oldest();
            assert_eq!(oldest, u64::from(number == MAX_REMEMBERED as u64));
        }

        let record = self::record();
        let mut state = lock(&record.state);
        let mut remember = |length: usize| {
            let first = state.next;
            state.next += 1;
            state.remembered.push_back(None);
            let lines = vec![vec![b'x'; length]];
            state.remember(&Sealed { first, lines });
            (state.oldest(), state.bytes)
        };
        assert_eq!(remember(1_048_566), (0, 1_048_566));
        assert_eq!(remember(10), (0, 1_048_576));
        assert_eq!(remember(1), (1, 11));
    }
}
