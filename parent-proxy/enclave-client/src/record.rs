//! The decision record on disk: what the enclave decided is written before anybody learns of it.
//!
//! Lines may arrive out of their order, over several connections; they are written in it. What
//! cannot be written waits, and nothing is answered meanwhile. The enclave's signature guards each
//! line; this program only keeps them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use identity::BootId;
use protocol::Records;
use record::{End, unverified_end, unverified_place};
use rustix::fs::{FlockOperation, flock};
use tracing::{error, info, warn};

use self::files::{Folder, OnDisk, Opened, RecordFile};
use crate::Error;
use crate::counters::Counters;
use crate::sync::{Condvar, Mutex, MutexGuard};

mod files;
#[cfg(test)]
mod tests;

/// How the record is kept.
#[derive(Debug, Clone)]
pub struct RecordConfig {
    /// The directory; its own, of mode 0700.
    pub folder: PathBuf,
    /// fdatasync(2) at most so long after a write; zero: before each answer.
    pub sync: Duration,
    /// A file that is longer is followed by a new one, in bytes.
    pub rotate_bytes: u64,
}

/// A line is missing for so long: it was on a connection that broke, and is asked for again.
const MISSING: Duration = Duration::from_millis(50);
/// What could not be written is tried again so often.
const RETRY: Duration = Duration::from_millis(500);

/// Bytes that are written and not yet synced, and so are kept. Where more would be, a sync comes
/// first.
const MAX_UNSYNCED: usize = 16 << 20;
/// Bytes that are written at once, and one line more.
const MAX_BATCH: usize = 1 << 20;

/// What is to be done once a line is written, or is known not to be.
pub(crate) type Release = Box<dyn FnOnce(bool) + Send>;

/// Keeps the record.
pub struct Recorder {
    config: RecordConfig,
    counters: Counters,
    folder: Box<dyn Folder>,
    state: Mutex<State>,
    /// Told when a sync without the lock has ended.
    synced: Condvar,
    /// Keeps others out, as long as it is open.
    _lock: Option<File>,
}

struct State {
    file: Arc<dyn RecordFile>,
    number: u32,
    /// The disk has this much of the file for certain, in bytes from its start.
    synced: u64,
    /// What the file has behind that. It is kept for the case that a sync fails, and with it the
    /// kernel's copy is lost.
    unsynced: Vec<u8>,
    /// A write that failed may have left bytes behind all this.
    uncut: bool,
    /// A sync is under way without the lock. The kernel reports an error once for each open file,
    /// so that no other sync of the same file may run meanwhile: it could be told of the error
    /// instead, or find the pages clean.
    syncing: bool,
    /// The boot whose lines are written, and the sequence number of the next one.
    boot: Option<BootId>,
    next: u64,
    /// The last line that was written, whatever its boot; empty if there is none.
    last: Vec<u8>,
    /// The boot has ended, and another one was told with which line. None may follow it.
    ended: bool,
    /// No line between this one and `next` was skipped. Of those before it nobody knows whether
    /// they stand there.
    whole_since: u64,
    waiting: BTreeMap<u64, Waiting>,
    missing_since: Option<Instant>,
    failing: bool,
}

struct Waiting {
    line: Vec<u8>,
    release: Option<Release>,
}

impl Recorder {
    /// Opens the directory and goes on where its last file ends.
    pub fn open(config: RecordConfig, counters: Counters) -> Result<Arc<Self>, Error> {
        let at = |source| Error::File {
            file: config.folder.clone(),
            source,
        };
        let folder = OnDisk(config.folder.clone());
        folder.make().map_err(at)?;
        let metadata = fs::metadata(&config.folder).map_err(at)?;
        if metadata.mode() & 0o077 != 0 || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::Record {
                folder: config.folder,
                why: "it must be ours and closed to others (mode 0700)",
            });
        }
        let lock = folder.create("lock").map_err(at)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::Record {
                folder: config.folder,
                why: "another sidecar writes there",
            });
        }
        let number = folder.last_number().map_err(at)?.max(1);
        let folder: Box<dyn Folder> = Box::new(folder);
        let state = State::open(&*folder, number).map_err(at)?;
        Ok(Arc::new(Self {
            config,
            counters,
            folder,
            state: Mutex::new(state),
            synced: Condvar::new(),
            _lock: Some(lock),
        }))
    }

    /// With what the record ends before a boot that has no policy yet. Lines of the boot before are
    /// not taken from now on, or they would follow what the new boot is told.
    pub fn end_before(&self, boot_id: BootId) -> Option<End> {
        let mut state = self.state();
        if state.boot == Some(boot_id) {
            // Another connection has given it its policy meanwhile.
            return None;
        }
        state.ended = true;
        for (_, waiting) in std::mem::take(&mut state.waiting) {
            waiting.release(false);
        }
        if state.last.is_empty() {
            return None;
        }
        let end = unverified_end(&state.last);
        end.inspect_err(
            |error| error!(%error, "the last line of the record is none; the next boot cannot say that it follows it"),
        )
        .ok()
    }

    /// Lines of this boot come from now on; gives the sequence number of the first one that is
    /// wanted.
    pub fn begin(&self, boot_id: BootId) -> u64 {
        let mut state = self.state();
        if state.boot != Some(boot_id) {
            // A caller that waits for a line of a boot that ended will never have it.
            for (_, waiting) in std::mem::take(&mut state.waiting) {
                waiting.release(false);
            }
            (state.boot, state.next, state.whole_since) = (Some(boot_id), 0, 0);
        }
        state.ended = false;
        state.next
    }

    /// Whether what is decided now can be written.
    pub fn is_good(&self) -> bool {
        !self.state().failing
    }

    /// Takes lines as they arrive, and writes those whose turn has come.
    pub fn take(&self, lines: impl IntoIterator<Item = (Vec<u8>, Option<Release>)>) {
        let mut state = self.state();
        for (line, release) in lines {
            match unverified_place(&line) {
                Ok((boot, sequence)) if Some(boot) == state.boot && !state.ended => {
                    state.take(sequence, line, release)
                }
                // The enclave of before, or nonsense: it has no place here, and nobody shall have
                // its answer.
                _ => Waiting { line, release }.release(false),
            }
        }
        self.write(state);
    }

    /// Takes lines that the enclave gave again. Those between what is wanted and the first of them
    /// are lost for good.
    pub fn take_again(&self, from: u64, records: Records) {
        let first = records
            .lines
            .first()
            .and_then(|line| unverified_place(line).ok())
            .map_or(records.next, |(_, first)| first);
        {
            let mut state = self.state();
            if state.next == from && first > from {
                error!(
                    from,
                    to = first - 1,
                    "events of the record are lost: the enclave does not remember them any more"
                );
                state.skip_to(first);
            }
        }
        self.take(records.lines.into_iter().map(|line| (line.to_vec(), None)));
    }

    /// From where on lines must be asked for again, if some are missing for a while.
    pub fn missing(&self) -> Option<u64> {
        let state = self.state();
        let since = state.missing_since?;
        (since.elapsed() > MISSING).then_some(state.next)
    }

    /// Writes what could not be written, and sees to it that the disk has what the file has. Never
    /// returns.
    pub async fn tend(self: Arc<Self>) {
        let every = if self.config.sync.is_zero() {
            RETRY
        } else {
            self.config.sync.min(RETRY)
        };
        let mut synced = Instant::now();
        loop {
            tokio::time::sleep(every).await;
            let due = synced.elapsed() >= self.config.sync;
            if due {
                synced = Instant::now();
            }
            let this = Arc::clone(&self);
            // A disk may be slow; callers that are answered meanwhile do not wait for it.
            let _ = tokio::task::spawn_blocking(move || this.maintain(due)).await;
        }
    }

    fn maintain(&self, sync: bool) {
        let state = self.wait_while(self.state(), |state| state.syncing);
        if state.failing {
            self.heal(state);
        } else if sync && !state.unsynced.is_empty() {
            self.sync(state);
        }
    }

    /// Syncs what is written; lines are written behind it meanwhile.
    fn sync(&self, state: MutexGuard<'_, State>) {
        let (file, length) = (Arc::clone(&state.file), state.unsynced.len());
        let (mut state, synced) = self.unlocked(state, || file.sync_data());
        match synced {
            Ok(()) => state.is_synced(length),
            Err(error) => self.fail(&mut state, &error),
        }
    }

    /// Writes again what was written since the last good sync, at its place, and syncs it; then
    /// what waits. After a failed sync nothing less shows that the disk has it. Nothing else is
    /// written meanwhile, for the record is failing.
    ///
    /// It is written over what is there. To cut the file first would take away lines that did get
    /// to the disk, and whose requests were answered, if the machine crashed before they are
    /// written again.
    fn heal(&self, state: MutexGuard<'_, State>) {
        let (file, at, bytes) = (
            Arc::clone(&state.file),
            state.synced,
            state.unsynced.clone(),
        );
        let cut = state.uncut.then_some(state.length());
        let (mut state, healed) = self.unlocked(state, || {
            cut.map_or(Ok(()), |length| file.set_len(length))?;
            file.write_all_at(&bytes, at)?;
            file.sync_data()
        });
        match healed {
            Ok(()) => {
                state.uncut = false;
                state.is_synced(bytes.len());
            }
            Err(error) => return self.fail(&mut state, &error),
        }
        let (mut state, written) = self.write_waiting(state);
        match written {
            Ok(_) => {
                info!("the record can be written again");
                state.failing = false;
                self.counters.record_failing.set(0);
                state.note_missing(true);
            }
            Err(error) => self.fail(&mut state, &error),
        }
    }

    /// Does something with the disk while others have the lock.
    fn unlocked<T>(
        &self,
        mut state: MutexGuard<'_, State>,
        act: impl FnOnce() -> T,
    ) -> (MutexGuard<'_, State>, T) {
        state.syncing = true;
        drop(state);
        let outcome = act();
        let mut state = self.state();
        state.syncing = false;
        self.synced.notify_all();
        (state, outcome)
    }

    /// The last sync at the end. Gives whether the disk has all of the record.
    pub fn close(&self) -> bool {
        self.maintain(true);
        if !self.is_good() {
            // Once more, and all of it.
            self.maintain(true);
        }
        let state = self.state();
        if !state.failing && state.unsynced.is_empty() {
            return true;
        }
        error!(
            bytes = state.unsynced.len(),
            lines = state.waiting.len(),
            "the disk does not have the end of the record"
        );
        false
    }

    /// Writes the lines whose turn has come.
    fn write(&self, state: MutexGuard<'_, State>) {
        if state.failing {
            return;
        }
        let (mut state, written) = self.write_waiting(state);
        match written {
            Ok(count) => state.note_missing(count > 0),
            Err(error) => self.fail(&mut state, &error),
        }
    }

    /// Gives how many it wrote.
    fn write_waiting<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> (MutexGuard<'a, State>, io::Result<u64>) {
        let mut written = 0;
        loop {
            let (batch, count) = state.batch();
            if count == 0 {
                return (state, Ok(written));
            }
            if state.syncing && state.must_sync(&self.config, batch.len()) {
                state = self.wait_while(state, |state| state.syncing);
                if state.failing {
                    return (state, Ok(written));
                }
                // Somebody else may have written it meanwhile.
                continue;
            }
            if let Err(error) = state.append(&*self.folder, &self.config, &batch) {
                return (state, Err(error));
            }
            self.counters.record_events.inc_by(count);
            state.release_written(count);
            written += count;
        }
    }

    /// Nobody gets what was decided: the lines stay, and are written when they can be.
    fn fail(&self, state: &mut State, why: &io::Error) {
        if !state.failing {
            error!(error = %why, folder = %self.config.folder.display(), "the record cannot be written; nothing is signed until it can");
        }
        state.failing = true;
        state.missing_since = None;
        self.counters.record_failing.set(1);
        for waiting in state.waiting.values_mut() {
            if let Some(release) = waiting.release.take() {
                release(false);
            }
        }
    }

    fn wait_while<'a>(
        &self,
        state: MutexGuard<'a, State>,
        is: fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        self.synced
            .wait_while(state, |state| is(state))
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn open(folder: &dyn Folder, number: u32) -> io::Result<Self> {
        let Opened {
            file,
            length,
            mut last,
        } = Opened::on_disk(folder, number)?;
        if last.is_empty() && number > 1 {
            // It was just begun: the record ends with the file before.
            last = folder.open(number - 1)?.last;
        }
        let place = unverified_place(&last).ok();
        Ok(Self {
            file,
            number,
            synced: length,
            unsynced: Vec::new(),
            uncut: false,
            syncing: false,
            boot: place.map(|(boot, _)| boot),
            next: place.map_or(0, |(_, sequence)| sequence + 1),
            last,
            ended: false,
            waiting: BTreeMap::new(),
            whole_since: 0,
            missing_since: None,
            failing: false,
        })
    }

    fn take(&mut self, sequence: u64, line: Vec<u8>, release: Option<Release>) {
        let waiting = Waiting { line, release };
        if sequence < self.next {
            // It was asked for again, and came twice; or it was given up, and comes too late to be
            // written.
            waiting.release(sequence >= self.whole_since);
        } else if self.failing {
            self.waiting.insert(
                sequence,
                Waiting {
                    line: waiting.released(false),
                    release: None,
                },
            );
        } else {
            let known = self.waiting.entry(sequence).or_insert_with(|| Waiting {
                line: Vec::new(),
                release: None,
            });
            known.line = waiting.line;
            known.release = known.release.take().or(waiting.release);
        }
    }

    /// Gives up the lines before this one. Those that are here already cannot be written any more,
    /// and nobody shall have their answers.
    fn skip_to(&mut self, first: u64) {
        let kept = self.waiting.split_off(&first);
        for (_, lost) in std::mem::replace(&mut self.waiting, kept) {
            lost.release(false);
        }
        (self.next, self.whole_since) = (first, first);
    }

    /// Lines whose turn has come, each with its end, and how many they are.
    fn batch(&self) -> (Vec<u8>, u64) {
        let mut batch = Vec::new();
        let mut last = self.next;
        while batch.len() < MAX_BATCH
            && let Some(waiting) = self.waiting.get(&last)
        {
            batch.extend_from_slice(&waiting.line);
            batch.push(b'\n');
            last += 1;
        }
        (batch, last - self.next)
    }

    fn release_written(&mut self, count: u64) {
        let last = self.next + count;
        while self.next < last {
            if let Some(waiting) = self.waiting.remove(&self.next) {
                self.last = waiting.released(true);
            }
            self.next += 1;
        }
    }

    fn note_missing(&mut self, progress: bool) {
        self.missing_since = match self.missing_since {
            _ if self.waiting.is_empty() || self.failing => None,
            Some(since) if !progress => Some(since),
            _ => Some(Instant::now()),
        };
    }

    /// Whether so much more cannot be written without a sync.
    fn must_sync(&self, config: &RecordConfig, more: usize) -> bool {
        config.sync.is_zero()
            || self.is_full(config, more)
            || self.unsynced.len() + more > MAX_UNSYNCED
    }

    /// Whether so much more belongs into the next file.
    fn is_full(&self, config: &RecordConfig, more: usize) -> bool {
        self.length() > 0 && self.length() + more as u64 > config.rotate_bytes
    }

    /// All of it, or nothing.
    fn append(
        &mut self,
        folder: &dyn Folder,
        config: &RecordConfig,
        batch: &[u8],
    ) -> io::Result<()> {
        self.cut()?;
        let full = self.is_full(config, batch.len());
        if full || self.unsynced.len() + batch.len() > MAX_UNSYNCED {
            self.file.sync_data()?;
            self.is_synced(self.unsynced.len());
        }
        if full {
            let Opened { file, length, .. } = Opened::on_disk(folder, self.number + 1)?;
            (self.file, self.synced, self.number) = (file, length, self.number + 1);
        }
        let at = self.length();
        let written = self.file.write_all_at(batch, at);
        match written.and_then(|()| {
            if config.sync.is_zero() {
                self.file.sync_data()
            } else {
                Ok(())
            }
        }) {
            Ok(()) if config.sync.is_zero() => self.synced += batch.len() as u64,
            Ok(()) => self.unsynced.extend_from_slice(batch),
            Err(error) => {
                // What is there of it is taken away again, so that no line is cut. The lines stay,
                // and are written again.
                self.uncut = true;
                if let Err(cut) = self.cut() {
                    warn!(error = %cut, "a line that was cut stays in the record until it can be taken away");
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        if self.uncut {
            self.file.set_len(self.length())?;
            self.uncut = false;
        }
        Ok(())
    }

    fn length(&self) -> u64 {
        self.synced + self.unsynced.len() as u64
    }

    /// The disk has so many more bytes.
    fn is_synced(&mut self, bytes: usize) {
        self.unsynced.drain(..bytes);
        self.synced += bytes as u64;
        if self.unsynced.is_empty() {
            self.unsynced = Vec::new();
        }
    }
}

impl Waiting {
    fn release(self, written: bool) {
        self.released(written);
    }

    fn released(self, written: bool) -> Vec<u8> {
        if let Some(release) = self.release {
            release(written);
        }
        self.line
    }
}
