//! Where sealed credentials are kept: a folder, as AgentKeys lays out its bucket.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use broker::{Envelope, Omni, object_path};
use rustix::fs::{FlockOperation, flock};

use crate::Error;

/// No envelope is longer.
const MAX_BYTES: u64 = 16 * 1024;

/// Why a credential was not read or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The files.
    #[error("the credentials' folder: {0}")]
    Io(#[from] io::Error),
    /// Another one was put meanwhile, or before.
    #[error("version {0} of this credential is kept, and is not older")]
    Newer(u64),
}

/// A credential that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Of K3.
    pub(crate) epoch: u32,
    /// Its version.
    pub(crate) version: u64,
    /// The envelope.
    pub(crate) bytes: Vec<u8>,
}

/// A folder of sealed credentials.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    folder: Arc<PathBuf>,
}

impl Store {
    /// Opens the folder; makes it if it is not there.
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        let wrong = |why: String| Error::Config(format!("{}: {why}", folder.display()));
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(folder);
        let looked = made.and_then(|()| fs::metadata(folder));
        let metadata = looked.map_err(|error| wrong(error.to_string()))?;
        if metadata.mode() & 0o022 != 0 || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(wrong("it must be ours, and not writable for others".into()));
        }
        Ok(Self {
            folder: Arc::new(folder.to_owned()),
        })
    }

    /// The credential of an actor for a service, if there is one.
    pub(crate) async fn get(&self, actor: Omni, service: &str) -> Result<Option<Kept>, StoreError> {
        let path = self.path(&actor, service);
        run(move || read(&path)).await
    }

    /// Keeps a credential, unless one is kept that is not older.
    pub(crate) async fn put(
        &self,
        actor: Omni,
        service: &str,
        envelope: Vec<u8>,
    ) -> Result<(), StoreError> {
        let (path, folder) = (self.path(&actor, service), Arc::clone(&self.folder));
        run(move || write(&folder, &path, &envelope)).await
    }

    /// Forgets a credential; gives whether there was one.
    pub(crate) async fn remove(&self, actor: Omni, service: &str) -> Result<bool, StoreError> {
        let path = self.path(&actor, service);
        run(move || match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        })
        .await
    }

    fn path(&self, actor: &Omni, service: &str) -> PathBuf {
        self.folder.join(object_path(actor, service))
    }
}

async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error).into()))
}

fn read(path: &Path) -> Result<Option<Kept>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let envelope = Envelope::parse(&bytes).map_err(io::Error::other)?;
    Ok(Some(Kept {
        epoch: envelope.epoch,
        version: envelope.version,
        bytes,
    }))
}

/// Whole or not at all: written beside its place, synced, and put there. One at a time.
fn write(folder: &Path, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(folder.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(io::Error::from)?;
    let new = Envelope::parse(bytes).map_err(io::Error::other)?;
    // One of an epoch that is gone is of no use to anybody.
    if let Ok(Some(kept)) = read(path)
        && kept.version >= new.version
        && kept.bytes != bytes
    {
        return Err(StoreError::Newer(kept.version));
    }
    let parent = path.parent().unwrap_or(folder);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)?;
    let beside = parent.join(".new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(parent)?.sync_all()?;
    Ok(())
}
