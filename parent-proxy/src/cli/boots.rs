//! A record boot by boot: those whose keys are known are verified, and the others counted, so that
//! one key that is lost does not hide what the others say.

use identity::{BootId, PublicKey};
use record::{Boot, Error, Event, Reader, unverified_end, unverified_place};

/// A boot whose key is not among those that were given. Nothing of it is verified.
pub(super) struct Unjudged {
    pub(super) boot: BootId,
    pub(super) first: u64,
    pub(super) last: u64,
    /// Its last line.
    end: Vec<u8>,
}

/// What was read so far. A boot that was not judged parts those before it from those behind it.
pub(super) struct Boots {
    keys: Vec<PublicKey>,
    readers: Vec<Reader>,
    unjudged: Vec<Unjudged>,
    /// The lines of now are of the last of `unjudged`.
    skipping: bool,
}

impl Boots {
    pub(super) fn new(keys: Vec<PublicKey>) -> Self {
        Self {
            readers: vec![Reader::new(keys.clone())],
            keys,
            unjudged: Vec::new(),
            skipping: false,
        }
    }

    /// The next line: an event that is verified, or none of a boot that cannot be judged.
    pub(super) fn next(&mut self, line: &[u8]) -> Result<Option<Event>, Error> {
        let (boot, sequence) = unverified_place(line)?;
        if self.skipping
            && let Some(current) = self.unjudged.last_mut()
            && current.boot == boot
        {
            if Some(sequence) != current.last.checked_add(1) {
                return Err(Error::Invalid(
                    "an event of an unknown key is out of its order",
                ));
            }
            (current.last, current.end) = (sequence, line.to_vec());
            return Ok(None);
        }
        let is_current = !self.skipping && self.is_last_judged(boot);
        if !is_current && self.has(boot) {
            return Err(Error::Invalid("an event of a boot that had ended"));
        }
        let known = if self.skipping {
            self.begin_again(line, sequence)
        } else {
            self.reader().next(line)
        };
        match known {
            Ok(event) => {
                self.skipping = false;
                Ok(Some(event))
            }
            // Of a boot that has begun, a line that nobody signed is forged.
            Err(Error::Identity(identity::Error::SignatureInvalid)) if !is_current => {
                if sequence > 0 && (self.skipping || self.boots().next().is_some()) {
                    return Err(Error::Gap {
                        from: 0,
                        to: sequence - 1,
                    });
                }
                self.skipping = true;
                self.unjudged.push(Unjudged {
                    boot,
                    first: sequence,
                    last: sequence,
                    end: line.to_vec(),
                });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The first line behind a boot that was not judged: it says with what that one ended.
    fn begin_again(&mut self, line: &[u8], sequence: u64) -> Result<Event, Error> {
        let mut reader = Reader::new(self.keys.clone());
        let event = reader.next(line)?;
        if sequence > 0 {
            return Err(Error::Gap {
                from: 0,
                to: sequence - 1,
            });
        }
        let end = self
            .unjudged
            .last()
            .map(|before| unverified_end(&before.end));
        if event.decision.before != end.transpose()? {
            return Err(Error::Invalid(
                "a boot says that something else came before it",
            ));
        }
        self.readers.push(reader);
        Ok(event)
    }

    /// Those that were verified, in their order.
    pub(super) fn boots(&self) -> impl Iterator<Item = &Boot> {
        self.readers.iter().flat_map(Reader::boots)
    }

    pub(super) fn unjudged(&self) -> &[Unjudged] {
        &self.unjudged
    }

    /// A key that signed nothing of what was read: its boot is missing.
    pub(super) fn unused_key(&self) -> Option<&PublicKey> {
        let is_unused = |key: &&PublicKey| {
            let in_reader = |reader: &Reader| reader.unused_keys().any(|unused| unused == *key);
            self.readers.iter().all(in_reader)
        };
        self.keys.iter().find(is_unused)
    }

    fn has(&self, boot: BootId) -> bool {
        self.boots().any(|judged| judged.id == boot)
            || self.unjudged.iter().any(|one| one.boot == boot)
    }

    fn is_last_judged(&self, boot: BootId) -> bool {
        self.boots().last().is_some_and(|last| last.id == boot)
    }

    fn reader(&mut self) -> &mut Reader {
        let last = self.readers.len() - 1;
        &mut self.readers[last]
    }
}
