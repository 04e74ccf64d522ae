//! Has the lines of the flight recorder sealed: now and then an enclave signs over all that was
//! written since.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use flight::{ACTION, Seal, first_sealed, seals_name, segment_name};
use identity::token::unverified_claims;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::metrics::Metrics;
use crate::recorder::{Sealed, segments};
use crate::signer::{Answer, Signer, Wanted};

/// A sealer at work, in a thread of its own.
#[derive(Debug)]
pub struct Sealing {
    ends: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Sealing {
    /// Begins.
    pub fn start(sealer: Sealer, every: Duration) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (ends, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("sealer".into())
            .spawn(move || runtime.block_on(sealer.run(every, ended)))?;
        Ok(Self { ends, thread })
    }

    /// Seals what there still is, once, and waits for that.
    pub fn end(self) {
        drop(self.ends);
        let _ = self.thread.join();
    }
}

/// The file that names the recorder.
const NAME: &str = "recorder";

/// Seals the lines of one folder.
#[derive(Debug)]
pub struct Sealer {
    folder: PathBuf,
    id: (u64, u64),
    signer: Signer,
    recorder: Uuid,
    last: Option<Seal>,
    /// The segment that is read, and how much of it is sealed, in bytes and as the next line's place.
    segment: u64,
    offset: u64,
    next: u64,
    sealed: Sealed,
    metrics: Arc<Metrics>,
    has_failed: bool,
}

/// The lines of a range, and where it ends in its segment, in bytes.
struct Range {
    seal: Seal,
    offset: u64,
}

impl Sealer {
    /// Goes on behind the last seal in this folder, which its recorder has opened. It is an error if
    /// lines are missing that were sealed.
    pub fn open(
        folder: &Path,
        signer: Signer,
        sealed: Sealed,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let recorder = name_of(folder)?;
        let known = segments(folder)?;
        let last = last_seal(folder, recorder)?;
        let first = known.first().map_or(0, |(first, _)| *first);
        // Lines that were written while nobody sealed, and are still there, are sealed late.
        let next = last.as_ref().map_or(first, |seal| seal.end().max(first));
        let mut sealer = Self {
            folder: folder.to_owned(),
            id: id_of(folder)?,
            signer,
            recorder,
            last,
            segment: first,
            offset: 0,
            next: first,
            sealed,
            metrics,
            has_failed: false,
        };
        sealer.skip_to(next, &known)?;
        sealer.sealed.set(next);
        Ok(sealer)
    }

    /// Seals what there is, again and again; and once more when it ends.
    async fn run(mut self, every: Duration, mut ends: oneshot::Receiver<()>) {
        loop {
            let is_last = tokio::time::timeout(every, &mut ends).await.is_ok();
            self.seal_all().await;
            if is_last {
                return;
            }
        }
    }

    /// Seals what there is now.
    async fn seal_all(&mut self) {
        loop {
            match self.seal_next().await {
                Ok(true) => self.note(&Ok(())),
                last => return self.note(&last.map(|_| ())),
            }
        }
    }

    fn note(&mut self, sealed: &Result<(), String>) {
        match sealed {
            Ok(()) if self.has_failed => tracing::info!("the flight recorder is sealed again"),
            Err(why) if !self.has_failed => {
                tracing::error!(why, "the flight recorder is not sealed");
            }
            _ => {}
        }
        self.has_failed = sealed.is_err();
    }

    /// Seals the next range, if there is one.
    async fn seal_next(&mut self) -> Result<bool, String> {
        let range = loop {
            match self.read().map_err(|error| error.to_string())? {
                Some(range) => break range,
                None if self.go_on().map_err(|error| error.to_string())? => {}
                None => return Ok(false),
            }
        };
        let target = self.recorder.to_string();
        let wanted = Wanted {
            action: ACTION,
            target: &target,
            payload: range.seal.payload(),
            seconds: None,
            approval: None,
        };
        let token = match self.signer.sign(&wanted).await {
            Ok(Answer::Signed(token)) => token,
            Ok(Answer::Waits(_)) => return Err(format!("the policy wants {ACTION} approved")),
            Err(error) => return Err(error.to_string()),
        };
        self.keep(&token).map_err(|error| error.to_string())?;
        self.next = range.seal.end();
        self.offset = range.offset;
        self.metrics.sealed.inc_by(range.seal.size);
        self.last = Some(range.seal);
        self.sealed.set(self.next);
        Ok(true)
    }

    /// What is whole of the segment behind that which is sealed.
    fn read(&self) -> io::Result<Option<Range>> {
        let mut file = match fs::File::open(self.folder.join(segment_name(self.segment))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        file.seek(SeekFrom::Start(self.offset))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        // No more than what stays: the recorder takes back what was written in part.
        let most = self.sealed.written().saturating_sub(self.next);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let Some(end) = memchr::memchr_iter(b'\n', &text).take(most).last() else {
            return Ok(None);
        };
        // What is sealed must not be lost with the power.
        file.sync_data()?;
        let lines = text[..end].split(|byte| *byte == b'\n');
        let last = self.last.as_ref();
        Ok(Some(Range {
            seal: Seal::new(self.recorder, self.next, lines, last),
            offset: self.offset + end as u64 + 1,
        }))
    }

    /// Goes on to the segment that begins with the next line, if there is one.
    fn go_on(&mut self) -> io::Result<bool> {
        let is_next =
            self.next > self.segment && self.folder.join(segment_name(self.next)).exists();
        if is_next {
            (self.segment, self.offset) = (self.next, 0);
        }
        Ok(is_next)
    }

    /// Finds a line's place in its segment.
    fn skip_to(&mut self, next: u64, known: &[(u64, PathBuf)]) -> io::Result<()> {
        let Some((first, file)) = known.iter().rev().find(|(first, _)| *first <= next) else {
            return Ok(());
        };
        let text = fs::read(file)?;
        let skipped = next - first;
        let ends = memchr::memchr_iter(b'\n', &text).take(usize::try_from(skipped).unwrap_or(0));
        let (count, end) = ends.fold((0, None), |(count, _), end| (count + 1, Some(end)));
        if count < skipped {
            let why = format!(
                "{} has {count} lines, and {skipped} of it were sealed: some are missing",
                file.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        self.segment = *first;
        self.offset = end.map_or(0, |end| end as u64 + 1);
        self.next = next;
        Ok(())
    }

    fn keep(&self, token: &str) -> io::Result<()> {
        if id_of(&self.folder)? != self.id {
            let why = "the folder of the flight recorder is another one now";
            return Err(io::Error::other(why));
        }
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.folder.join(seals_name(self.segment)))?;
        let length = file.metadata()?.len();
        if length == 0 {
            fs::File::open(&self.folder)?.sync_all()?;
        }
        let written = file
            .write_all(format!("{token}\n").as_bytes())
            .and_then(|()| file.sync_data());
        if written.is_err() {
            // A part of a token would be the end of those that follow.
            file.set_len(length)?;
        }
        written
    }
}

/// Which folder it is, whatever its name: its device and its inode.
fn id_of(folder: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(folder)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The recorder's id; a new one in a new folder.
fn name_of(folder: &Path) -> io::Result<Uuid> {
    let path = folder.join(NAME);
    match fs::read_to_string(&path) {
        Ok(text) => Uuid::try_parse(text.trim()).map_err(|error| {
            let why = format!("{}: {error}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, why)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = Uuid::new_v4();
            let new = folder.join("recorder.new");
            let mut file = fs::File::create(&new)?;
            file.write_all(format!("{name}\n").as_bytes())?;
            file.sync_all()?;
            fs::rename(new, path)?;
            fs::File::open(folder)?.sync_all()?;
            Ok(name)
        }
        Err(error) => Err(error),
    }
}

/// What the last token of the folder sealed. Whether it is one is for those who verify.
fn last_seal(folder: &Path, recorder: Uuid) -> io::Result<Option<Seal>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        files.extend(name.and_then(first_sealed).map(|first| (first, path)));
    }
    files.sort();
    for (_, path) in files.into_iter().rev() {
        let text = fs::read_to_string(&path)?;
        // What was cut by the end of a process was never answered for.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            OpenOptions::new()
                .write(true)
                .open(&path)?
                .set_len(whole as u64)?;
        }
        let Some(token) = text[..whole].lines().last() else {
            continue;
        };
        let odd = |why: String| {
            let why = format!("{}: {why}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, why)
        };
        let claims = unverified_claims(token).map_err(|error| odd(error.to_string()))?;
        let seal = Seal::of_claims(&claims).map_err(|error| odd(error.to_string()))?;
        if seal.recorder != recorder {
            return Err(odd("it is a seal of another recorder".into()));
        }
        return Ok(Some(seal));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_whole_is_sealed_and_a_cut_token_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let segment = folder.path().join(segment_name(0));
        fs::write(&segment, "{}\n{}\n{}\n").unwrap();
        let sealed = Sealed::none_yet();
        let open = || {
            let signer = Signer::new("/nowhere".into(), None);
            let metrics = Arc::new(Metrics::default());
            Sealer::open(folder.path(), signer, sealed.clone(), metrics)
        };
        let sealer = open().unwrap();
        let size = || sealer.read().unwrap().map(|range| range.seal.size);
        assert_eq!(size(), None);
        sealed.set_written(2);
        assert_eq!(size(), Some(2));
        // What was cut when the power failed was never answered for.
        let seals = folder.path().join(seals_name(0));
        fs::write(&seals, "eyJ").unwrap();
        assert_eq!(open().unwrap().next, 0);
        assert_eq!(fs::read_to_string(&seals).unwrap(), "");
        // The recorder keeps its name, and nobody else's is taken.
        assert_eq!(open().unwrap().recorder, sealer.recorder);
        fs::write(folder.path().join(NAME), "").unwrap();
        assert!(open().is_err());
        // A folder that took the place of this one is not sealed by it.
        let moved = folder.path().with_extension("moved");
        fs::rename(folder.path(), &moved).unwrap();
        fs::create_dir(folder.path()).unwrap();
        assert!(sealer.keep("a token").is_err());
        fs::remove_dir_all(moved).unwrap();
    }
}
