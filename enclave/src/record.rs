//! The decision record of this boot: a chain of which only the end is kept, a key, and the latest
//! lines for a proxy that missed them.

use std::collections::VecDeque;
use std::sync::{Mutex, RwLock};

use identity::{BootId, PublicKey, Signer};
use protocol::Records;
use record::{Decision, MAX_BATCH, Tail};

use crate::Error;
use crate::keys::KeyPair;
use crate::sync::{lock, read, write};

/// Lines that are remembered: more than can be under way to a proxy that is gone.
const MAX_REMEMBERED: usize = 1024;
/// Bytes of them.
const MAX_BYTES: usize = 1 << 20;
/// Bytes that go into one answer.
const MAX_ANSWER: usize = 60 * 1024;

pub(crate) struct Record {
    key: RwLock<Option<KeyPair>>,
    public: PublicKey,
    state: Mutex<State>,
}

struct State {
    tail: Tail,
    remembered: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Sequence number of the next event.
    next: u64,
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
            public: key.public_key().clone(),
            key: RwLock::new(Some(key)),
            state: Mutex::new(state),
        }
    }

    /// The key that signs, and nothing else is signed by it.
    pub(crate) fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Gives decisions their place and signs them; gives their lines. After an error the record
    /// cannot go on.
    pub(crate) fn seal(&self, decisions: Vec<Decision>) -> Result<Vec<Vec<u8>>, Error> {
        let key = read(&self.key);
        let key = key.as_ref().ok_or(Error::Halted)?;
        // One batch after the other, or the lines would be remembered out of their order.
        let mut state = lock(&self.state);
        let mut lines = Vec::with_capacity(decisions.len());
        let mut decisions = decisions.into_iter().peekable();
        while decisions.peek().is_some() {
            let batch = state
                .tail
                .append(decisions.by_ref().take(MAX_BATCH).collect())?;
            lines.extend(batch.sign(key)?);
        }
        for line in &lines {
            state.remember(line.clone());
        }
        Ok(lines)
    }

    /// The lines from `from` on, as far as they are remembered and fit into an answer.
    pub(crate) fn since(&self, from: u64) -> Records {
        let state = lock(&self.state);
        let oldest = state.next - state.remembered.len() as u64;
        let skip = usize::try_from(from.saturating_sub(oldest)).unwrap_or(usize::MAX);
        let mut room = MAX_ANSWER;
        let fits = |line: &&Vec<u8>| {
            let fits = line.len() + 8 <= room;
            room = room.saturating_sub(line.len() + 8);
            fits
        };
        let lines = state
            .remembered
            .iter()
            .skip(skip)
            .take_while(fits)
            .map(|line| line.clone().into())
            .collect();
        Records {
            lines,
            next: state.next,
        }
    }

    pub(crate) fn wipe(&self) {
        *write(&self.key) = None;
    }
}

impl State {
    fn remember(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.next += 1;
        self.remembered.push_back(line);
        while self.remembered.len() > MAX_REMEMBERED || self.bytes > MAX_BYTES {
            self.bytes -= self.remembered.pop_front().map_or(0, |line| line.len());
        }
    }
}
