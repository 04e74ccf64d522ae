//! The flight recorder: what passed, as lines of JSON in segments of a folder. The oldest segments go
//! where the folder would become too large.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flight::{first_of, seals_name, segment_name};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::answer::Refusal;
use crate::callers::Caller;
use crate::metrics::Metrics;
use crate::trace::Trace;

/// Lines that wait to be written.
const QUEUE: usize = 4096;
/// A segment ends with the line that makes it so long.
const SEGMENT: u64 = 8 * 1024 * 1024;
/// Nor is it written for longer, where lines are sealed: seals take place, too.
const SEALED_FOR: Duration = Duration::from_secs(3600);
/// Lines of a trace that are given at once, at most.
pub const MAX_LINES: usize = 1000;
/// No line begins on a page that is so long, in bytes.
const MAX_PAGE: usize = 1 << 20;
/// Lines are gathered for so long.
const GATHER: Duration = Duration::from_millis(2);
/// At the end it is waited for so long.
const FLUSH: Duration = Duration::from_secs(5);
/// After a failure it is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// A line, without its time.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A request that is forwarded.
    Request {
        /// Its method.
        method: String,
        /// Its path as the agent reads it, scrubbed, without its query.
        path: String,
        /// The body, scrubbed, at most 4 KiB.
        payload: String,
        /// SHA-256 of the whole body as it was forwarded, in hex; none of a body that is passed as it
        /// comes.
        #[serde(skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
    },
    /// The agent's answer began.
    Response {
        /// Its status.
        status_code: u16,
        /// How long that took, in milliseconds.
        latency_ms: f64,
    },
    /// A message of a caller's, over a WebSocket.
    Message {
        /// Its text, scrubbed, at most 4 KiB.
        payload: String,
        /// SHA-256 of all of it as it was passed, in hex.
        digest: String,
    },
    /// A WebSocket ended.
    Closed {
        /// Its code (RFC 6455 section 7.4); none if it broke off.
        code: Option<u16>,
    },
    /// A call of gRPC ended.
    Ended {
        /// Its status; none if it broke off.
        grpc_status: Option<u16>,
    },
    /// It was not answered.
    Error {
        /// Why.
        error: String,
    },
    /// A rule blocked it.
    Blocked {
        /// The rule.
        reason: String,
    },
    /// Something was found and masked.
    Masked {
        /// What.
        kinds: Vec<&'static str>,
    },
    /// The caller was warned.
    Warning {
        /// Of what.
        warning: String,
    },
    /// The caller overrode a warning.
    UserOverride {
        /// Of what.
        warning: String,
        /// The token that says who approved it; none where a shared secret did.
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<String>,
    },
    /// It went to an agent below the trust threshold.
    Quarantine {
        /// The score.
        trust_score: u8,
    },
}

impl Event {
    /// What a refusal is; none where nothing can be written.
    pub fn of(refusal: &Refusal) -> Option<Self> {
        match refusal {
            Refusal::Blocked { rule } | Refusal::AnswerBlocked { rule } => Some(Self::Blocked {
                reason: rule.clone(),
            }),
            Refusal::Warned { warning, .. } => Some(Self::Warning {
                warning: warning.clone(),
            }),
            Refusal::Unrecorded => None,
            // It may say what stood at some place.
            other => Some(Self::Error {
                error: inspect::mask_text(&other.text(), inspect::Purpose::Log).0,
            }),
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    event: &'a Event,
    trace_id: Uuid,
    timestamp: String,
    agent_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<&'a str>,
}

/// What is queued.
#[derive(Debug)]
enum Entry {
    Line(String),
    /// Who waits until all before it is written.
    Mark(oneshot::Sender<()>),
}

/// Writes lines, in a thread of its own.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Entry>,
    agent_id: Arc<str>,
    folder: Arc<Path>,
    has_failed: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

impl Recorder {
    /// Opens the folder; makes it if it is not there.
    pub fn open(
        folder: &Path,
        retention: u64,
        agent_id: &str,
        metrics: Arc<Metrics>,
        sealed: Sealed,
    ) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        // Two that write there would delete each other's segments.
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(folder.join("lock"))?;
        lock.try_lock().map_err(|_| {
            io::Error::new(io::ErrorKind::AddrInUse, "another gateway writes there")
        })?;
        let segments = Segments::open(folder, retention, sealed)?;
        let (queue, lines) = mpsc::channel(QUEUE);
        let has_failed = Arc::new(AtomicBool::new(false));
        let failed = Arc::clone(&has_failed);
        let counted = Arc::clone(&metrics);
        std::thread::Builder::new()
            .name("recorder".into())
            .spawn(move || {
                let _lock = lock;
                write(lines, segments, &failed, &counted);
            })?;
        Ok(Self {
            queue,
            agent_id: agent_id.into(),
            folder: folder.into(),
            has_failed,
            metrics,
        })
    }

    /// Whether what passes can be written down.
    pub fn is_good(&self) -> bool {
        !self.has_failed.load(Ordering::Relaxed)
    }

    /// Writes a line; waits while too many wait. While none can be written, nobody waits: what finds
    /// no place is counted as lost.
    pub async fn record(&self, trace: &Trace, event: &Event) {
        if self.is_good() {
            let line = Entry::Line(self.line(trace, event));
            let _ = self.queue.send(line).await;
        } else {
            self.note(trace, event);
        }
    }

    /// Writes a line where nobody can wait: what finds no place is counted as lost.
    pub fn note(&self, trace: &Trace, event: &Event) {
        let line = Entry::Line(self.line(trace, event));
        if self.queue.try_send(line).is_err() {
            self.metrics.lost.inc();
        }
    }

    /// Waits until what was queued is written; not for ever.
    pub async fn flush(&self) {
        let (mark, written) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Entry::Mark(mark)).await.is_ok() {
                let _ = written.await;
            }
        };
        let _ = tokio::time::timeout(FLUSH, flushed).await;
    }

    fn line(&self, trace: &Trace, event: &Event) -> String {
        let line = Line {
            event,
            trace_id: trace.id,
            timestamp: format!("{:.3}", Timestamp::now()),
            agent_id: &self.agent_id,
            caller: trace.caller.as_deref(),
        };
        serde_json::to_string(&line).expect("strings and numbers are JSON")
    }

    /// Lines of a trace that are still there, in their order: so many of them, from so many on; those
    /// of one caller, or of all. And whether there are more. Reads the whole folder.
    pub fn trace(&self, wanted: &Wanted) -> io::Result<(Vec<Value>, bool)> {
        let id = wanted.id.to_string();
        let finder = memchr::memmem::Finder::new(id.as_bytes());
        let (mut found, mut skipped, mut bytes) = (Vec::new(), 0, 0);
        for (_, file) in segments(&self.folder)? {
            let text = match fs::read(&file) {
                // It was the oldest one a moment ago.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                text => text?,
            };
            let mut after = 0;
            for at in finder.find_iter(&text) {
                if at < after {
                    continue;
                }
                let begin = memchr::memrchr(b'\n', &text[..at]).map_or(0, |end| end + 1);
                // The last line may not be whole yet; others without an end were never written so.
                let Some(end) = memchr::memchr(b'\n', &text[at..]) else {
                    break;
                };
                after = at + end;
                let line: Value = serde_json::from_slice(&text[begin..after]).unwrap_or_default();
                if !wanted.is(&line, &id) {
                    continue;
                }
                if skipped < wanted.offset {
                    skipped += 1;
                } else if found.len() < wanted.limit && bytes < MAX_PAGE {
                    bytes += after - begin;
                    found.push(line);
                } else {
                    return Ok((found, true));
                }
            }
        }
        Ok((found, false))
    }
}

/// Which lines somebody wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Of this trace.
    pub id: Uuid,
    /// Of this caller; of any, if there is none.
    pub caller: Option<Caller>,
    /// After so many.
    pub offset: usize,
    /// So many at most.
    pub limit: usize,
}

impl Wanted {
    fn is(&self, line: &Value, id: &str) -> bool {
        let is_callers = self
            .caller
            .as_deref()
            .is_none_or(|caller| line["caller"] == caller);
        line["trace_id"] == id && is_callers
    }
}

fn write(
    mut lines: mpsc::Receiver<Entry>,
    mut segments: Segments,
    failed: &AtomicBool,
    metrics: &Metrics,
) {
    let mut batch = Vec::new();
    while lines.blocking_recv_many(&mut batch, QUEUE) > 0 {
        let (mut text, mut count, mut marks) = (String::new(), 0, Vec::new());
        for entry in batch.drain(..) {
            match entry {
                Entry::Line(line) => {
                    text.push_str(&line);
                    text.push('\n');
                    count += 1;
                }
                Entry::Mark(mark) => marks.push(mark),
            }
        }
        while let Err(error) = segments.append(text.as_bytes(), count) {
            if !failed.swap(true, Ordering::Relaxed) {
                tracing::error!(%error, "the flight recorder cannot write; requests are refused");
            }
            std::thread::sleep(AGAIN);
        }
        if failed.swap(false, Ordering::Relaxed) {
            tracing::info!("the flight recorder writes again");
        }
        metrics.lines.inc_by(count);
        metrics.bytes.set(segments.total);
        for mark in marks {
            let _ = mark.send(());
        }
        // To be woken for each line costs more than to write it.
        std::thread::sleep(GATHER);
    }
}

/// The files of the folder, and the last one, to which is written.
struct Segments {
    folder: PathBuf,
    retention: u64,
    /// The place of the last segment's first line.
    first: u64,
    /// How many lines it has.
    lines: u64,
    file: File,
    written: u64,
    begun: Instant,
    total: u64,
    sealed: Sealed,
}

/// How many lines are sealed, where they are; and how many are written and stay so.
#[derive(Debug, Clone, Default)]
pub struct Sealed {
    sealed: Option<Arc<AtomicU64>>,
    written: Arc<AtomicU64>,
}

impl Sealed {
    /// They are: none yet.
    pub fn none_yet() -> Self {
        Self {
            sealed: Some(Arc::default()),
            written: Arc::default(),
        }
    }

    /// All before this place are.
    pub fn set(&self, end: u64) {
        if let Some(sealed) = &self.sealed {
            sealed.store(end, Ordering::Release);
        }
    }

    /// The place behind the last line that was written whole.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// All before this place are written.
    pub fn set_written(&self, end: u64) {
        self.written.store(end, Ordering::Release);
    }

    /// Whether all before this place may be deleted.
    fn may_forget(&self, end: u64) -> bool {
        let sealed = self.sealed.as_ref();
        sealed.is_none_or(|sealed| sealed.load(Ordering::Acquire) >= end)
    }
}

impl Segments {
    fn open(folder: &Path, retention: u64, sealed: Sealed) -> io::Result<Self> {
        let known = segments(folder)?;
        let mut first = 0;
        if let Some((begin, path)) = known.last() {
            first = begin + end_lines(path)?;
        }
        sealed.set_written(first);
        Ok(Self {
            folder: folder.to_owned(),
            // One segment is always kept.
            retention: retention.max(2 * SEGMENT),
            first,
            lines: 0,
            file: create(folder, first)?,
            written: 0,
            begun: Instant::now(),
            total: total(folder, &known)?,
            sealed,
        })
    }

    fn append(&mut self, text: &[u8], lines: u64) -> io::Result<()> {
        let is_old = self.sealed.sealed.is_some() && self.begun.elapsed() > SEALED_FOR;
        if self.written >= SEGMENT || self.written > 0 && is_old {
            self.forget()?;
            self.first += self.lines;
            self.lines = 0;
            self.file = create(&self.folder, self.first)?;
            self.written = 0;
            self.begun = Instant::now();
        }
        // What was written in part is taken back, so that it does not stand there twice.
        if let Err(error) = self.file.write_all(text) {
            self.file.set_len(self.written)?;
            return Err(error);
        }
        self.written += text.len() as u64;
        self.total += text.len() as u64;
        self.lines += lines;
        self.sealed.set_written(self.first + self.lines);
        Ok(())
    }

    /// Deletes the oldest until what is left fits beside another segment: none that is not sealed,
    /// where they are sealed.
    fn forget(&mut self) -> io::Result<()> {
        let known = segments(&self.folder)?;
        // Seals are written by others.
        self.total = total(&self.folder, &known)?;
        let ends = known.iter().skip(1).map(|(first, _)| *first);
        for ((first, file), end) in known.iter().zip(ends) {
            if self.total + SEGMENT <= self.retention {
                break;
            }
            if !self.sealed.may_forget(end) {
                let why = "there is no place: what is written is not sealed, and not deleted";
                return Err(io::Error::new(io::ErrorKind::StorageFull, why));
            }
            let length = length_of(&self.folder, *first, file)?;
            // Its seals first: lines without seals say nothing false.
            match fs::remove_file(self.folder.join(seals_name(*first))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => fs::remove_file(file)?,
            }
            self.total = self.total.saturating_sub(length);
        }
        Ok(())
    }
}

/// The lines of a segment that is not written any more. One that was cut, by the end of a process in
/// mid-write, is ended here, so that it is a line, too.
fn end_lines(file: &Path) -> io::Result<u64> {
    let text = fs::read(file)?;
    let lines = memchr::memchr_iter(b'\n', &text).count() as u64;
    if text.is_empty() || text.ends_with(b"\n") {
        return Ok(lines);
    }
    OpenOptions::new()
        .append(true)
        .open(file)?
        .write_all(b"\n")?;
    Ok(lines + 1)
}

fn total(folder: &Path, known: &[(u64, PathBuf)]) -> io::Result<u64> {
    let lengths = known
        .iter()
        .map(|(first, file)| length_of(folder, *first, file));
    lengths.sum()
}

/// Of a segment and its seals, in bytes.
fn length_of(folder: &Path, first: u64, file: &Path) -> io::Result<u64> {
    let seals = match fs::metadata(folder.join(seals_name(first))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        seals => seals?.len(),
    };
    Ok(fs::metadata(file)?.len() + seals)
}

/// The segment from this place on; it may be there, and be empty.
fn create(folder: &Path, first: u64) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(folder.join(segment_name(first)))?;
    File::open(folder)?.sync_all()?;
    Ok(file)
}

/// The segments, oldest first, each with the place of its first line.
pub(crate) fn segments(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(first) = name.and_then(first_of) {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_queued_is_written_when_a_flush_returns() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::default());
        let recorder = Recorder::open(folder.path(), 1, "a", metrics, Sealed::default()).unwrap();
        let trace = Trace {
            id: Uuid::nil(),
            caller: None,
        };
        let event = Event::Blocked { reason: "r".into() };
        for round in 1..=20 {
            recorder.record(&trace, &event).await;
            recorder.record(&trace, &event).await;
            recorder.flush().await;
            let text = fs::read_to_string(folder.path().join(segment_name(0))).unwrap();
            assert_eq!(text.lines().count(), 2 * round);
        }
    }

    fn line_of(bytes: u64) -> Vec<u8> {
        let mut line = vec![b'x'; usize::try_from(bytes).unwrap()];
        line[usize::try_from(bytes - 1).unwrap()] = b'\n';
        line
    }

    #[test]
    fn the_oldest_segments_go_and_the_last_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Segments::open(folder.path(), 3 * SEGMENT, Sealed::default()).unwrap();
        let mut segments = open();
        let line = line_of(SEGMENT / 4);
        for _ in 0..41 {
            segments.append(&line, 1).unwrap();
            assert!(segments.total <= 3 * SEGMENT + SEGMENT / 4);
        }
        let kept = super::segments(folder.path()).unwrap();
        assert!(kept.len() >= 2 && kept[0].0 > 1, "{kept:?}");
        // Each is named by the place of its first line.
        assert!(kept.iter().all(|(first, _)| first % 4 == 0), "{kept:?}");
        assert_eq!(kept.last().unwrap().0, 40);
        let lengths: u64 = kept
            .iter()
            .map(|(_, file)| fs::metadata(file).unwrap().len())
            .sum();
        assert_eq!(lengths, segments.total);
        // Another start goes on behind them; so does one after a line that was cut.
        drop(segments);
        let mut again = open();
        assert_eq!((again.total, again.first), (lengths, 41));
        again.append(b"cut", 1).unwrap();
        drop(again);
        assert_eq!(open().first, 42);
        assert_eq!(open().first, 42);
    }

    #[test]
    fn what_is_not_sealed_is_not_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let sealed = Sealed::none_yet();
        let mut segments = Segments::open(folder.path(), 0, sealed.clone()).unwrap();
        let line = line_of(SEGMENT);
        let written = (0..10).take_while(|_| segments.append(&line, 1).is_ok());
        assert_eq!(written.count(), 2);
        fs::write(folder.path().join(seals_name(0)), "a token\n").unwrap();
        sealed.set(1);
        segments.append(&line, 1).unwrap();
        let kept = super::segments(folder.path()).unwrap();
        assert_eq!(
            kept.iter().map(|(first, _)| *first).collect::<Vec<_>>(),
            [1, 2]
        );
        assert!(!folder.path().join(seals_name(0)).exists());
        assert!(segments.append(&line, 1).is_err());
    }
}
