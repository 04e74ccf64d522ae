//! The decision record on disk: what the enclave decided is written before anybody learns of it.
//!
//! Lines may arrive out of their order, over several connections; they are written in it. What cannot be written waits, and
//! nothing is answered meanwhile. The enclave's signature guards each line; this program only keeps them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use identity::Digest;
use identity::record::unverified_place;
use protocol::Records;
use rustix::fs::{FlockOperation, flock};
use tracing::{error, info, warn};

use crate::Error;
use crate::metrics::Metrics;

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

/// What is to be done once a line is written, or is known not to be.
pub(crate) type Release = Box<dyn FnOnce(bool) + Send>;

/// Keeps the record.
pub(crate) struct Recorder {
    config: RecordConfig,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Keeps others out, as long as it is open.
    _lock: File,
}

struct State {
    file: File,
    number: u32,
    length: u64,
    /// What is in the file and perhaps not on the disk.
    dirty: bool,
    /// The boot whose lines are written, and the sequence number of the next one.
    boot: Option<Digest<16>>,
    next: u64,
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
    pub(crate) fn open(config: RecordConfig, metrics: Arc<Metrics>) -> Result<Arc<Self>, Error> {
        let at = |source| Error::File { file: config.folder.clone(), source };
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&config.folder).map_err(at)?;
        let metadata = fs::metadata(&config.folder).map_err(at)?;
        if metadata.mode() & 0o077 != 0 || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::Record { folder: config.folder, why: "it must be ours and closed to others (mode 0700)" });
        }
        let lock = create(&config.folder.join("lock")).map_err(at)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::Record { folder: config.folder, why: "another sidecar writes there" });
        }
        let number = last_number(&config.folder).map_err(at)?.max(1);
        let (file, length, last) = open_file(&config.folder, number).map_err(at)?;
        let (boot, next) = match last {
            Some((boot, sequence)) => (Some(boot), sequence + 1),
            None => (None, 0),
        };
        let state = State {
            file,
            number,
            length,
            dirty: false,
            boot,
            next,
            waiting: BTreeMap::new(),
            missing_since: None,
            failing: false,
        };
        Ok(Arc::new(Self { config, metrics, state: Mutex::new(state), _lock: lock }))
    }

    /// Lines of this boot come from now on; gives the sequence number of the first one that is wanted.
    pub(crate) fn begin(&self, boot_id: [u8; 16]) -> u64 {
        let mut state = self.state();
        if state.boot != Some(Digest(boot_id)) {
            // Whoever waits for a line of a boot that ended will never have it.
            for (_, waiting) in std::mem::take(&mut state.waiting) {
                waiting.release(false);
            }
            (state.boot, state.next) = (Some(Digest(boot_id)), 0);
        }
        state.next
    }

    /// Whether what is decided now can be written.
    pub(crate) fn is_good(&self) -> bool {
        !self.state().failing
    }

    /// Takes lines as they arrive, and writes those whose turn has come.
    pub(crate) fn take(&self, lines: impl IntoIterator<Item = (Vec<u8>, Option<Release>)>) {
        let mut state = self.state();
        for (line, release) in lines {
            match unverified_place(&line) {
                Ok((boot, sequence)) if Some(boot) == state.boot => state.take(sequence, line, release),
                // The enclave of before, or nonsense: it has no place here, and nobody shall have its answer.
                _ => Waiting { line, release }.release(false),
            }
        }
        self.write(&mut state);
    }

    /// Takes lines that the enclave gave again. Those between what is wanted and the first of them are lost for good.
    pub(crate) fn take_again(&self, from: u64, records: Records) {
        let first = records.lines.first().and_then(|line| unverified_place(line).ok()).map_or(records.next, |(_, first)| first);
        {
            let mut state = self.state();
            if state.next == from && first > from {
                error!(from, to = first - 1, "events of the record are lost: the enclave does not remember them any more");
                state.next = first;
            }
        }
        self.take(records.lines.into_iter().map(|line| (line.to_vec(), None)));
    }

    /// From where on lines must be asked for again, if some are missing for a while.
    pub(crate) fn missing(&self) -> Option<u64> {
        let state = self.state();
        let since = state.missing_since?;
        (since.elapsed() > MISSING).then_some(state.next)
    }

    /// Writes what could not be written, and sees to it that the disk has what the file has. Never returns.
    pub(crate) async fn tend(self: Arc<Self>) {
        let every = if self.config.sync.is_zero() { RETRY } else { self.config.sync.min(RETRY) };
        let mut synced = Instant::now();
        loop {
            tokio::time::sleep(every).await;
            let due = synced.elapsed() >= self.config.sync;
            if due {
                synced = Instant::now();
            }
            let this = Arc::clone(&self);
            // A disk may be slow; whoever is answered meanwhile does not wait for it.
            let _ = tokio::task::spawn_blocking(move || this.maintain(due)).await;
        }
    }

    fn maintain(&self, sync: bool) {
        let file = {
            let mut state = self.state();
            if state.failing {
                self.write(&mut state);
            }
            if !(sync && state.dirty) {
                return;
            }
            state.dirty = false;
            state.file.try_clone()
        };
        let synced = file.and_then(|file| file.sync_data());
        if let Err(error) = synced {
            let mut state = self.state();
            state.dirty = true;
            self.fail(&mut state, &error);
        }
    }

    /// The last sync at the end.
    pub(crate) fn close(&self) {
        self.maintain(true);
    }

    fn write(&self, state: &mut State) {
        let mut batch = Vec::new();
        let mut last = state.next;
        while let Some(waiting) = state.waiting.get(&last) {
            batch.extend_from_slice(&waiting.line);
            batch.push(b'\n');
            last += 1;
        }
        let count = last - state.next;
        if count > 0 {
            match state.append(&self.config, &batch) {
                Ok(()) => {
                    if state.failing {
                        info!("the record can be written again");
                        state.failing = false;
                    }
                    self.metrics.record_events.inc_by(count);
                    self.metrics.record_failing.set(0);
                    while state.next < last {
                        if let Some(waiting) = state.waiting.remove(&state.next) {
                            waiting.release(true);
                        }
                        state.next += 1;
                    }
                }
                Err(error) => self.fail(state, &error),
            }
        }
        state.missing_since = match state.missing_since {
            _ if state.waiting.is_empty() || state.failing => None,
            Some(since) if count == 0 => Some(since),
            _ => Some(Instant::now()),
        };
    }

    /// Nobody gets what was decided: the lines stay, and are written when they can be.
    fn fail(&self, state: &mut State, why: &io::Error) {
        if !state.failing {
            error!(error = %why, folder = %self.config.folder.display(), "the record cannot be written; nothing is signed until it can");
        }
        state.failing = true;
        self.metrics.record_failing.set(1);
        for waiting in state.waiting.values_mut() {
            if let Some(release) = waiting.release.take() {
                release(false);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, sequence: u64, line: Vec<u8>, release: Option<Release>) {
        let waiting = Waiting { line, release };
        if sequence < self.next {
            // It was asked for again, and came twice.
            waiting.release(true);
        } else if self.failing {
            self.waiting.insert(sequence, Waiting { line: waiting.released(false), release: None });
        } else {
            let known = self.waiting.entry(sequence).or_insert_with(|| Waiting { line: Vec::new(), release: None });
            known.line = waiting.line;
            known.release = known.release.take().or(waiting.release);
        }
    }

    /// All of it, or nothing.
    fn append(&mut self, config: &RecordConfig, batch: &[u8]) -> io::Result<()> {
        if self.length > 0 && self.length + batch.len() as u64 > config.rotate_bytes {
            self.file.sync_data()?;
            let (file, length, _) = open_file(&config.folder, self.number + 1)?;
            (self.file, self.length, self.number) = (file, length, self.number + 1);
        }
        let written =
            self.file.write_all(batch).and_then(|()| if config.sync.is_zero() { self.file.sync_data() } else { Ok(()) });
        match written {
            Ok(()) => {
                self.length += batch.len() as u64;
                self.dirty = !config.sync.is_zero();
                Ok(())
            }
            Err(error) => {
                // What is there of it is taken away again, so that no line is cut.
                let cut = self.file.set_len(self.length);
                if let Err(cut) = cut {
                    warn!(error = %cut, "a line that was cut stays in the record");
                }
                Err(error)
            }
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

/// Boot and sequence number of an event.
type Place = (Digest<16>, u64);

fn name(number: u32) -> String {
    format!("record-{number:06}.jsonl")
}

fn last_number(folder: &Path) -> io::Result<u32> {
    let mut last = 0;
    for entry in fs::read_dir(folder)? {
        let file = entry?.file_name();
        let digits = file.to_str().and_then(|name| name.strip_prefix("record-")?.strip_suffix(".jsonl"));
        last = digits.and_then(|digits| digits.parse().ok()).map_or(last, |number: u32| last.max(number));
    }
    Ok(last)
}

fn create(file: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(file)?;
    if opened.metadata()?.is_file() { Ok(opened) } else { Err(io::Error::other("not a regular file")) }
}

/// Opens a file of the record; gives its length, and the place of its last event. A line that a crash cut short is taken away:
/// the enclave still has it, if it is of this boot.
fn open_file(folder: &Path, number: u32) -> io::Result<(File, u64, Option<Place>)> {
    let mut file = create(&folder.join(name(number)))?;
    let length = file.metadata()?.len();
    let read = length.min(2 * identity::record::MAX_LINE as u64);
    file.seek(SeekFrom::End(-i64::try_from(read).unwrap_or(0)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let whole = end.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let cut = end.len() - whole;
    if cut > 0 {
        warn!(bytes = cut, number, "the record ended within a line; it is taken away");
        file.set_len(length - cut as u64)?;
    }
    let last = end[..whole].strip_suffix(b"\n").unwrap_or_default().rsplit(|b| *b == b'\n').next().unwrap_or_default();
    Ok((file, length - cut as u64, unverified_place(last).ok()))
}
