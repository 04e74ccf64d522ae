//! Where sealed credentials are kept: a folder, or a bucket of S3, as AgentKeys lays out its own.

mod bucket;
mod folder;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use broker::{Envelope, Omni};

use self::bucket::Bucket;
use self::folder::Folder;
use crate::Error;

/// No envelope is longer.
const MAX_BYTES: u64 = 16 * 1024;
/// What is remembered of what was read.
const MAX_KNOWN: usize = 1024;

/// Where sealed credentials are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CredentialPlace {
    /// A folder of its own.
    Folder(PathBuf),
    /// A bucket, or a part of one.
    Bucket(BucketPlace),
}

/// A bucket of S3, or of what speaks as S3 does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BucketPlace {
    /// Its name.
    pub(crate) bucket: String,
    /// What stands before all names of objects; may be empty.
    pub(crate) prefix: String,
    /// `us-east-1`, and so on.
    pub(crate) region: String,
    /// Where it is, if not at AWS.
    pub(crate) endpoint: Option<String>,
    /// A shared credentials file of AWS; the environment, else the instance's role, if left out.
    pub(crate) credentials: Option<PathBuf>,
}

/// Why a credential was not read or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The files.
    #[error("the credentials' folder: {0}")]
    Io(#[from] io::Error),
    /// The bucket.
    #[error("the credentials' bucket: {0}")]
    Bucket(String),
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

impl Kept {
    fn read(bytes: Vec<u8>) -> Result<Self, broker::Error> {
        let envelope = Envelope::parse(&bytes)?;
        Ok(Self {
            epoch: envelope.epoch,
            version: envelope.version,
            bytes,
        })
    }

    /// Refuses to be replaced by one that is not newer, or newly sealed.
    fn check_replaced(&self, new: &Self) -> Result<(), StoreError> {
        let older = (self.version, self.epoch) < (new.version, new.epoch);
        if older || self.bytes == new.bytes {
            Ok(())
        } else {
            Err(StoreError::Newer(self.version))
        }
    }
}

/// Sealed credentials.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    Folder(Folder),
    Bucket(Bucket),
}

impl Store {
    /// Opens what is there; a folder is made if it is not.
    pub(crate) fn open(place: &CredentialPlace) -> Result<Self, Error> {
        match place {
            CredentialPlace::Folder(folder) => Folder::open(folder).map(Self::Folder),
            CredentialPlace::Bucket(place) => Bucket::open(place).map(Self::Bucket),
        }
    }

    /// The credential of an actor for a service, if there is one.
    pub(crate) async fn get(&self, actor: Omni, service: &str) -> Result<Option<Kept>, StoreError> {
        match self {
            Self::Folder(folder) => folder.get(actor, service).await,
            Self::Bucket(bucket) => bucket.get(actor, service).await,
        }
    }

    /// What else is kept: names of objects that are none of these, and under which key each is sealed, if
    /// that can be read.
    pub(crate) async fn others(
        &self,
        known: BTreeSet<String>,
    ) -> Result<Vec<(String, Option<u32>)>, StoreError> {
        match self {
            Self::Folder(folder) => folder.others(known).await,
            Self::Bucket(bucket) => bucket.others(known).await,
        }
    }

    /// Keeps a credential, unless one is kept that is not older.
    pub(crate) async fn put(
        &self,
        actor: Omni,
        service: &str,
        envelope: Vec<u8>,
    ) -> Result<(), StoreError> {
        match self {
            Self::Folder(folder) => folder.put(actor, service, envelope).await,
            Self::Bucket(bucket) => bucket.put(actor, service, envelope).await,
        }
    }

    /// Forgets a credential; gives whether there was one.
    pub(crate) async fn remove(&self, actor: Omni, service: &str) -> Result<bool, StoreError> {
        match self {
            Self::Folder(folder) => folder.remove(actor, service).await,
            Self::Bucket(bucket) => bucket.remove(actor, service).await,
        }
    }
}
