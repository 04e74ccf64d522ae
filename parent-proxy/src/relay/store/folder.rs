//! A folder of sealed credentials.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use broker::{Omni, object_path};
use rustix::fs::{FlockOperation, flock};

use super::{Kept, MAX_BYTES, MAX_KNOWN, StoreError};
use crate::Error;

/// A folder of sealed credentials.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    folder: Arc<PathBuf>,
    /// What was read, and of which file: each call reads its credential.
    known: Arc<Mutex<BTreeMap<PathBuf, (Stamp, Kept)>>>,
}

/// What tells one state of a file from the next. A file that is put into the place of another has
/// another number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    number: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            number: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Folder {
    /// Opens the folder; makes it if it is not there.
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
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
            known: Arc::default(),
        })
    }

    /// The credential of an actor for a service, if there is one.
    pub(super) async fn get(&self, actor: Omni, service: &str) -> Result<Option<Kept>, StoreError> {
        let path = self.path(&actor, service);
        if let Some(kept) = self.known(&path) {
            return Ok(Some(kept));
        }
        let store = self.clone();
        run(move || {
            let read = read(&path)?;
            Ok(read.map(|(stamp, kept)| store.remember(path, stamp, kept)))
        })
        .await
    }

    /// What was read before, if the file is still the same.
    fn known(&self, path: &Path) -> Option<Kept> {
        let stamp = Stamp::of(&fs::metadata(path).ok()?);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, kept) = known.get(path)?;
        (*of == stamp).then(|| kept.clone())
    }

    fn remember(&self, path: PathBuf, stamp: Stamp, kept: Kept) -> Kept {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(path, (stamp, kept.clone()));
        kept
    }

    /// What else is kept.
    pub(super) async fn others(
        &self,
        known: BTreeSet<String>,
    ) -> Result<Vec<(String, Option<u32>)>, StoreError> {
        let folder = Arc::clone(&self.folder);
        run(move || {
            let mut others = Vec::new();
            for actor in entries(&folder.join("bots"))? {
                for file in entries(&actor.join("credentials"))? {
                    let name = file.strip_prefix(&*folder).unwrap_or(&file);
                    let name = name.display().to_string();
                    if name.ends_with(".enc") && !known.contains(&name) {
                        let kept = read(&file).ok().flatten();
                        others.push((name, kept.map(|(_, kept)| kept.epoch)));
                    }
                }
            }
            Ok(others)
        })
        .await
    }

    /// Keeps a credential, unless one is kept that is not older.
    pub(super) async fn put(
        &self,
        actor: Omni,
        service: &str,
        envelope: Vec<u8>,
    ) -> Result<(), StoreError> {
        let (path, store) = (self.path(&actor, service), self.clone());
        run(move || {
            let written = write(&store.folder, &path, &envelope);
            store.forget(&path);
            written
        })
        .await
    }

    /// Forgets a credential; gives whether there was one.
    pub(super) async fn remove(&self, actor: Omni, service: &str) -> Result<bool, StoreError> {
        let (path, store) = (self.path(&actor, service), self.clone());
        run(move || {
            let removed = fs::remove_file(&path);
            store.forget(&path);
            match removed {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error.into()),
            }
        })
        .await
    }

    /// A file's number and times may come again with the next file, if that comes soon.
    fn forget(&self, path: &Path) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(path);
    }

    fn path(&self, actor: &Omni, service: &str) -> PathBuf {
        self.folder.join(object_path(actor, service))
    }
}

/// What stands in a folder; nothing, if it is none.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let all = match fs::read_dir(folder) {
        Ok(all) => all,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    all.map(|entry| entry.map(|entry| entry.path())).collect()
}

async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error).into()))
}

fn read(path: &Path) -> Result<Option<(Stamp, Kept)>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stamp = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let kept = Kept::read(bytes).map_err(io::Error::other)?;
    Ok(Some((stamp, kept)))
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
    let new = Kept::read(bytes.to_vec()).map_err(io::Error::other)?;
    // What cannot be read is of no use to anybody.
    if let Ok(Some((_, kept))) = read(path) {
        kept.check_replaced(&new)?;
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

#[cfg(test)]
mod tests {
    use broker::{Envelope, Epoch, Place};
    use zeroize::Zeroizing;

    use super::*;

    fn sealed(version: u64, secret: &[u8]) -> Vec<u8> {
        let (operator, actor) = (Omni::new([1; 32]), Omni::new([2; 32]));
        let place = Place {
            operator: &operator,
            actor: &actor,
            service: "api",
            upstream: "https://api.example",
        };
        let epoch = Epoch {
            number: 1,
            key: Zeroizing::new([3; 32]),
        };
        let sealed = Envelope::seal(&epoch, version, place, secret, [4; 12]);
        sealed.unwrap().as_bytes().to_vec()
    }

    #[tokio::test]
    async fn what_was_read_of_a_file_is_not_taken_for_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::open(folder.path()).unwrap();
        let actor = Omni::new([2; 32]);
        let got = || async {
            let kept = store.get(actor, "api").await.unwrap();
            kept.map(|kept| kept.bytes)
        };
        assert_eq!(got().await, None);
        for version in 1..=5 {
            // Of one length, one right after the other.
            let envelope = sealed(version, b"secret");
            store.put(actor, "api", envelope.clone()).await.unwrap();
            assert_eq!(got().await, Some(envelope.clone()));
            assert_eq!(got().await, Some(envelope));
        }
        let old = store.put(actor, "api", sealed(4, b"secret")).await;
        assert!(matches!(old, Err(StoreError::Newer(5))));
        assert_eq!(got().await, Some(sealed(5, b"secret")));
        // Somebody else puts a copy from somewhere in its place.
        let (path, beside) = (store.path(&actor, "api"), folder.path().join("copy"));
        fs::write(&beside, sealed(3, b"secret")).unwrap();
        fs::rename(&beside, &path).unwrap();
        assert_eq!(got().await, Some(sealed(3, b"secret")));
        assert!(store.remove(actor, "api").await.unwrap());
        assert_eq!(got().await, None);
        assert!(!store.remove(actor, "api").await.unwrap());
    }
}
