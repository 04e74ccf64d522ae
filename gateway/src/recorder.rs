//! The flight recorder: what passed, as lines of JSON in segments of a folder. The oldest segments go
//! where the folder would become too large.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
        /// SHA-256 of the whole body as it was forwarded, in hex.
        digest: String,
    },
    /// The agent's answer began.
    Response {
        /// Its status.
        status_code: u16,
        /// How long that took, in milliseconds.
        latency_ms: f64,
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
        let segments = Segments::open(folder, retention)?;
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
                after = memchr::memchr(b'\n', &text[at..]).map_or(text.len(), |end| at + end);
                // The last line may not be whole yet.
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
        while let Err(error) = segments.append(text.as_bytes()) {
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
    number: u64,
    file: File,
    written: u64,
    total: u64,
}

impl Segments {
    fn open(folder: &Path, retention: u64) -> io::Result<Self> {
        let known = segments(folder)?;
        let number = known.last().map_or(0, |(number, _)| *number) + 1;
        let total = known
            .iter()
            .map(|(_, file)| fs::metadata(file).map(|metadata| metadata.len()))
            .sum::<io::Result<u64>>()?;
        Ok(Self {
            folder: folder.to_owned(),
            // One segment is always kept.
            retention: retention.max(2 * SEGMENT),
            number,
            file: create(folder, number)?,
            written: 0,
            total,
        })
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.written >= SEGMENT {
            self.number += 1;
            self.file = create(&self.folder, self.number)?;
            self.written = 0;
            self.forget()?;
        }
        // What was written in part is taken back, so that it does not stand there twice.
        if let Err(error) = self.file.write_all(lines) {
            self.file.set_len(self.written)?;
            return Err(error);
        }
        self.written += lines.len() as u64;
        self.total += lines.len() as u64;
        Ok(())
    }

    /// Deletes the oldest until what is left fits.
    fn forget(&mut self) -> io::Result<()> {
        for (number, file) in segments(&self.folder)? {
            if self.total + SEGMENT <= self.retention || number >= self.number {
                break;
            }
            let length = fs::metadata(&file)?.len();
            fs::remove_file(&file)?;
            self.total = self.total.saturating_sub(length);
        }
        Ok(())
    }
}

fn create(folder: &Path, number: u64) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(folder.join(format!("flight-{number:08}.jsonl")))
}

/// The segments, oldest first.
fn segments(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name
            .and_then(|name| name.strip_prefix("flight-")?.strip_suffix(".jsonl"))
            .and_then(|number| number.parse().ok());
        if let Some(number) = number {
            found.push((number, path));
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
        let recorder = Recorder::open(folder.path(), 1, "a", metrics).unwrap();
        let trace = Trace {
            id: Uuid::nil(),
            caller: None,
        };
        let event = Event::Blocked { reason: "r".into() };
        for round in 1..=20 {
            recorder.record(&trace, &event).await;
            recorder.record(&trace, &event).await;
            recorder.flush().await;
            let text = fs::read_to_string(folder.path().join("flight-00000001.jsonl")).unwrap();
            assert_eq!(text.lines().count(), 2 * round);
        }
    }

    #[test]
    fn the_oldest_segments_go_and_the_last_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let mut segments = Segments::open(folder.path(), 3 * SEGMENT).unwrap();
        let line = vec![b'x'; usize::try_from(SEGMENT / 4).unwrap()];
        for _ in 0..40 {
            segments.append(&line).unwrap();
            assert!(segments.total <= 3 * SEGMENT + SEGMENT / 4);
        }
        let kept = super::segments(folder.path()).unwrap();
        assert!(kept.len() >= 2 && kept[0].0 > 1, "{kept:?}");
        let lengths: u64 = kept
            .iter()
            .map(|(_, file)| fs::metadata(file).unwrap().len())
            .sum();
        assert_eq!(lengths, segments.total);
        // Another start goes on behind them.
        drop(segments);
        let again = Segments::open(folder.path(), 3 * SEGMENT).unwrap();
        assert_eq!(again.total, lengths);
        assert_eq!(again.number, kept.last().unwrap().0 + 1);
    }
}
