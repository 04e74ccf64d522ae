//! Where a sealed state is kept. Each file is whole or not there: it is written beside its place,
//! synced, and put there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use protocol::Part;
use rustix::fs::{FlockOperation, flock};

use crate::Error;

/// The folder of a state.
pub(crate) struct StateFolder {
    folder: PathBuf,
    /// Keeps others out, as long as it is open.
    _lock: File,
}

impl StateFolder {
    /// Opens it; makes it if it is not there.
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        let at = |source| Error::File {
            file: folder.to_owned(),
            source,
        };
        let wrong = |why| Error::State {
            folder: folder.to_owned(),
            why,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(at)?;
        let metadata = fs::metadata(folder).map_err(at)?;
        if metadata.mode() & 0o077 != 0 || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(wrong("it must be ours and closed to others (mode 0700)"));
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(folder.join("lock"))
            .map_err(at)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(wrong("another sidecar uses it"));
        }
        Ok(Self {
            folder: folder.to_owned(),
            _lock: lock,
        })
    }

    /// Whether a state is kept here.
    pub(crate) fn has_state(&self) -> bool {
        self.path(Part::Sealed).exists()
    }

    /// Reads a part; empty if it is not there.
    pub(crate) fn read(&self, part: Part) -> io::Result<Vec<u8>> {
        match fs::read(self.path(part)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other,
        }
    }

    /// Writes a part and reads it back from the disk's own copy, as far as the kernel lets one.
    pub(crate) fn write(&self, part: Part, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let (place, beside) = (self.path(part), self.folder.join(".new"));
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&beside, &place)?;
        File::open(&self.folder)?.sync_all()?;
        fs::read(&place)
    }

    /// Where a part is kept.
    pub(crate) fn path(&self, part: Part) -> PathBuf {
        self.folder.join(match part {
            Part::Sealed => "sealed.cbor",
            Part::Genesis => "genesis.cbor",
            Part::Authority => "authority.cose",
            Part::Document => "genesis-document.cbor",
        })
    }
}
