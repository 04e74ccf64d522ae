//! A bucket of S3, or of what speaks as S3 does. Several sidecars may share one: what is put is put upon
//! what was read (`If-Match`, `If-None-Match: *`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use broker::{Omni, object_path};
use enclave_client::aws_credentials;
use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AwsCredential};
use object_store::path::Path;
use object_store::{
    ClientOptions, CredentialProvider, Error as S3Error, GetOptions, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, RetryConfig, UpdateVersion,
};

use super::{BucketPlace, Kept, MAX_BYTES, MAX_KNOWN, StoreError};
use crate::Error;

/// What was read is used so long without a question whether it is still the same.
const FRESH: Duration = Duration::from_secs(30);
/// That there is none is believed so long.
const MISSING: Duration = Duration::from_secs(2);
/// For one request, and for all its tries.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
const TRIES_WITHIN: Duration = Duration::from_secs(10);
/// How often one begins anew when another one was faster.
const MAX_RACES: usize = 4;
/// How long AWS's credentials of this host are used before they are read anew.
const CREDENTIALS_FRESH: Duration = Duration::from_secs(60);

/// A bucket of sealed credentials.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Arc<str>,
    known: Arc<Mutex<BTreeMap<Path, Known>>>,
}

/// What was read of an object.
#[derive(Debug, Clone)]
struct Known {
    at: Instant,
    found: Option<Found>,
}

/// An object that is there.
#[derive(Debug, Clone)]
struct Found {
    version: UpdateVersion,
    kept: Kept,
}

impl Known {
    fn is_fresh(&self) -> bool {
        let for_so_long = match self.found {
            Some(_) => FRESH,
            None => MISSING,
        };
        self.at.elapsed() < for_so_long
    }
}

impl Bucket {
    pub(super) fn open(place: &BucketPlace) -> Result<Self, Error> {
        let options = ClientOptions::new()
            .with_timeout(REQUEST_WITHIN)
            .with_connect_timeout(REQUEST_WITHIN);
        let retry = RetryConfig {
            max_retries: 2,
            retry_timeout: TRIES_WITHIN,
            ..RetryConfig::default()
        };
        let credentials = HostCredentials {
            file: place.credentials.clone(),
            known: tokio::sync::Mutex::new(None),
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&place.bucket)
            .with_region(&place.region)
            .with_credentials(Arc::new(credentials))
            .with_client_options(options)
            .with_retry(retry);
        if let Some(endpoint) = &place.endpoint {
            let is_plain = endpoint.starts_with("http://");
            builder = builder.with_endpoint(endpoint).with_allow_http(is_plain);
        }
        let store = builder
            .build()
            .map_err(|error| Error::Config(format!("the credentials' bucket: {error}")))?;
        Ok(Self {
            store: Arc::new(store),
            prefix: place.prefix.as_str().into(),
            known: Arc::default(),
        })
    }

    pub(super) async fn get(&self, actor: Omni, service: &str) -> Result<Option<Kept>, StoreError> {
        let path = self.path(&actor, service);
        let known = self.known(&path);
        if let Some(known) = known.as_ref().filter(|known| known.is_fresh()) {
            return Ok(known.found.as_ref().map(|found| found.kept.clone()));
        }
        let found = self
            .read(&path, known.and_then(|known| known.found))
            .await?;
        Ok(found.map(|found| found.kept))
    }

    /// What else is kept.
    pub(super) async fn others(
        &self,
        known: BTreeSet<String>,
    ) -> Result<Vec<(String, Option<u32>)>, StoreError> {
        let below = Path::from(format!("{}/bots", self.prefix));
        let all: Vec<ObjectMeta> = self
            .store
            .list(Some(&below))
            .try_collect()
            .await
            .map_err(|error| failed(&error))?;
        let mut others = Vec::new();
        for object in all {
            let whole = object.location.as_ref();
            let name = whole.strip_prefix(&*self.prefix).unwrap_or(whole);
            let name = name.trim_start_matches('/').to_owned();
            if name.ends_with(".enc") && !known.contains(&name) {
                let found = self.read(&object.location, None).await.ok().flatten();
                others.push((name, found.map(|found| found.kept.epoch)));
            }
        }
        Ok(others)
    }

    pub(super) async fn put(
        &self,
        actor: Omni,
        service: &str,
        envelope: Vec<u8>,
    ) -> Result<(), StoreError> {
        let path = self.path(&actor, service);
        let new = Kept::read(envelope).map_err(|error| StoreError::Bucket(error.to_string()))?;
        for _ in 0..MAX_RACES {
            // What is no sealed credential is not written over: whoever put it there may want it. It is
            // removed first.
            let mode = match self.read(&path, None).await? {
                None => PutMode::Create,
                Some(found) => {
                    found.kept.check_replaced(&new)?;
                    PutMode::Update(found.version)
                }
            };
            let put = self
                .store
                .put_opts(&path, new.bytes.clone().into(), mode.into());
            let put = put.await;
            self.forget(&path);
            match put {
                Ok(_) => return Ok(()),
                // Another one was put meanwhile: which is the newer one?
                Err(
                    S3Error::AlreadyExists { .. }
                    | S3Error::Precondition { .. }
                    | S3Error::NotFound { .. },
                ) => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Err(StoreError::Bucket(
            "others put credentials all the time".into(),
        ))
    }

    pub(super) async fn remove(&self, actor: Omni, service: &str) -> Result<bool, StoreError> {
        let path = self.path(&actor, service);
        let there = self.store.head(&path).await;
        let there = match there {
            Ok(_) => true,
            Err(S3Error::NotFound { .. }) => false,
            Err(error) => return Err(failed(&error)),
        };
        if there {
            let removed = self.store.delete(&path).await;
            self.forget(&path);
            removed.map_err(|error| failed(&error))?;
        }
        Ok(there)
    }

    /// Reads an object, or learns that it is what was read before.
    async fn read(&self, path: &Path, before: Option<Found>) -> Result<Option<Found>, StoreError> {
        let options = GetOptions {
            if_none_match: before
                .as_ref()
                .and_then(|found| found.version.e_tag.clone()),
            ..GetOptions::default()
        };
        let found = match self.store.get_opts(path, options).await {
            Ok(got) => {
                let version = UpdateVersion {
                    e_tag: got.meta.e_tag.clone(),
                    version: got.meta.version.clone(),
                };
                if got.meta.size > MAX_BYTES {
                    return Err(StoreError::Bucket(format!(
                        "{path} is no sealed credential"
                    )));
                }
                let bytes = got.bytes().await.map_err(|error| failed(&error))?;
                let kept = Kept::read(bytes.to_vec())
                    .map_err(|error| StoreError::Bucket(format!("{path}: {error}")))?;
                Some(Found { version, kept })
            }
            Err(S3Error::NotModified { .. }) => before,
            Err(S3Error::NotFound { .. }) => None,
            Err(error) => return Err(failed(&error)),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        let now = Known {
            at: Instant::now(),
            found: found.clone(),
        };
        known.insert(path.clone(), now);
        Ok(found)
    }

    fn known(&self, path: &Path) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(path).cloned()
    }

    fn forget(&self, path: &Path) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(path);
    }

    fn path(&self, actor: &Omni, service: &str) -> Path {
        Path::from(format!("{}/{}", self.prefix, object_path(actor, service)))
    }
}

fn failed(error: &S3Error) -> StoreError {
    StoreError::Bucket(error.to_string())
}

/// AWS's credentials of this host, as for KMS.
#[derive(Debug)]
struct HostCredentials {
    file: Option<PathBuf>,
    known: tokio::sync::Mutex<Option<(Instant, Arc<AwsCredential>)>>,
}

#[async_trait]
impl CredentialProvider for HostCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut known = self.known.lock().await;
        if let Some((at, credential)) = &*known
            && at.elapsed() < CREDENTIALS_FRESH
        {
            return Ok(Arc::clone(credential));
        }
        let found = aws_credentials(self.file.as_deref()).await;
        let found = found.map_err(|why| S3Error::Generic {
            store: "S3",
            source: why.into(),
        })?;
        let credential = Arc::new(AwsCredential {
            key_id: found.access_key_id().to_owned(),
            secret_key: found.secret_access_key().to_owned(),
            token: found.session_token().map(str::to_owned),
        });
        *known = Some((Instant::now(), Arc::clone(&credential)));
        Ok(credential)
    }
}
