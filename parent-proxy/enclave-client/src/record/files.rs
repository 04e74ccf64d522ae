//! What the record asks of the file system. It stands behind traits, so that a test can have a disk
//! whose syncs fail.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

/// The folder of the record's files, which have numbers.
pub(super) trait Folder: Send + Sync {
    /// Opens a file, or makes it.
    fn open(&self, number: u32) -> io::Result<Opened>;
    fn remove(&self, number: u32) -> io::Result<()>;
    /// Once it returns, the disk has the names of all files.
    fn sync(&self) -> io::Result<()>;
}

/// One file of the record.
pub(super) trait RecordFile: Send + Sync {
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Once it returns, the disk has what was written since the last time. After an error the
    /// kernel may take the pages that never got there for clean (fsync(2)): then only those that
    /// are written again are part of the next sync.
    fn sync_data(&self) -> io::Result<()>;
}

/// A file, its length, and its last line; that is empty if there is none.
pub(super) struct Opened {
    pub(super) file: Arc<dyn RecordFile>,
    pub(super) length: u64,
    pub(super) last: Vec<u8>,
}

impl Opened {
    /// Opens a file of which the disk has the name, and all that is in it.
    pub(super) fn on_disk(folder: &dyn Folder, number: u32) -> io::Result<Self> {
        let opened = folder.open(number)?;
        if opened.length > 0 {
            // Another sidecar may have written it and been killed before its sync.
            opened.file.sync_data()?;
        } else if let Err(error) = folder.sync() {
            // A second sync of the same name could succeed without having written it. The name is
            // made anew for it.
            let _ = folder.remove(number);
            return Err(error);
        }
        Ok(opened)
    }
}

/// A directory.
pub(super) struct OnDisk(pub(super) PathBuf);

impl OnDisk {
    /// Makes the directory if it is missing, with those above it.
    pub(super) fn make(&self) -> io::Result<()> {
        let missing: Vec<&Path> = self
            .0
            .ancestors()
            .take_while(|folder| !folder.exists())
            .collect();
        fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&self.0)?;
        missing
            .iter()
            .filter_map(|folder| folder.parent())
            .try_for_each(sync_folder)
    }

    /// The number of the last file; zero if there is none.
    pub(super) fn last_number(&self) -> io::Result<u32> {
        let mut last = 0;
        for entry in fs::read_dir(&self.0)? {
            let file = entry?.file_name();
            let digits = file
                .to_str()
                .and_then(|name| name.strip_prefix("record-")?.strip_suffix(".jsonl"));
            last = digits
                .and_then(|digits| digits.parse().ok())
                .map_or(last, |number: u32| last.max(number));
        }
        Ok(last)
    }

    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        // Not for appending: then Linux would ignore where a write belongs (pwrite(2), BUGS).
        let opened = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.0.join(name))?;
        if opened.metadata()?.is_file() {
            Ok(opened)
        } else {
            Err(io::Error::other("not a regular file"))
        }
    }
}

impl Folder for OnDisk {
    /// A line that a crash cut short is taken away: the enclave still has it, if it is of this
    /// boot.
    fn open(&self, number: u32) -> io::Result<Opened> {
        let mut file = self.create(&name(number))?;
        let length = file.metadata()?.len();
        let read = length.min(2 * record::MAX_LINE as u64);
        file.seek(SeekFrom::End(-i64::try_from(read).unwrap_or(0)))?;
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        let whole = end.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let cut = end.len() - whole;
        if cut > 0 {
            warn!(
                bytes = cut,
                number, "the record ended within a line; it is taken away"
            );
            file.set_len(length - cut as u64)?;
        }
        let last = end[..whole]
            .strip_suffix(b"\n")
            .unwrap_or_default()
            .rsplit(|b| *b == b'\n')
            .next()
            .unwrap_or_default();
        Ok(Opened {
            file: Arc::new(file),
            length: length - cut as u64,
            last: last.to_vec(),
        })
    }

    fn remove(&self, number: u32) -> io::Result<()> {
        fs::remove_file(self.0.join(name(number)))
    }

    fn sync(&self) -> io::Result<()> {
        sync_folder(&self.0)
    }
}

impl RecordFile for File {
    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        File::set_len(self, length)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }
}

fn name(number: u32) -> String {
    format!("record-{number:06}.jsonl")
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    // The parent of a relative path of one name.
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    File::open(folder)?.sync_all()
}
