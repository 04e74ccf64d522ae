//! The KMS keys, one file of JSON for each. Files are read anew for each call, so that processes on
//! one folder see the same keys.

use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, RandomizedNonceKey};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Refusal;
use super::policy::ACCOUNT;
use crate::Error;
use crate::files;
use crate::nsm::os_random;

/// Begins every ciphertext, so that nobody takes one for AWS's.
const TAG: &[u8] = b"MOCK-AWS-KMS/1\0";

/// The folder of the keys, and the region that they are in.
pub(super) struct Store {
    folder: PathBuf,
    region: String,
}

/// A KMS key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    pub(super) arn: String,
    pub(super) id: Uuid,
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) description: String,
    pub(super) policy: String,
    material: String,
}

impl Store {
    pub(super) fn open(folder: &Path, region: &str) -> Result<Self, Error> {
        let folder = folder.join("keys");
        files::make_folder(&folder)?;
        Ok(Self {
            folder,
            region: region.into(),
        })
    }

    /// Makes a key of 32 random bytes.
    pub(super) fn create(&self, policy: &str, description: &str, now: u64) -> Result<Key, Error> {
        let mut bytes = [0; 48];
        os_random(&mut bytes);
        let mut random = [0; 16];
        random.copy_from_slice(&bytes[32..]);
        let id = uuid::Builder::from_random_bytes(random).into_uuid();
        let key = Key {
            arn: self.arn(id),
            id,
            created: now,
            description: description.into(),
            policy: policy.into(),
            material: BASE64.encode(&bytes[..32]),
        };
        self.save(&key)?;
        Ok(key)
    }

    fn arn(&self, id: Uuid) -> String {
        format!("arn:aws:kms:{}:{ACCOUNT}:key/{id}", self.region)
    }

    /// The key of an ARN.
    pub(super) fn find(&self, arn: &str) -> Result<Key, Refusal> {
        let missing = || Refusal::new("NotFoundException", format!("Key '{arn}' does not exist"));
        let (_, id) = arn.rsplit_once('/').ok_or_else(|| {
            Refusal::new(
                "InvalidArnException",
                "this mock knows keys by their ARN alone",
            )
        })?;
        let id = Uuid::parse_str(id).map_err(|_| missing())?;
        if arn != self.arn(id) {
            return Err(missing());
        }
        self.load(id)?.ok_or_else(missing)
    }

    fn load(&self, id: Uuid) -> Result<Option<Key>, Refusal> {
        let file = self.file(id);
        if !file.exists() {
            return Ok(None);
        }
        let text = files::read(&file).map_err(Refusal::internal)?;
        let key: Key = identity::json::parse_as(text.as_bytes())
            .map_err(|error| Refusal::internal(format!("{}: {error}", file.display())))?;
        Ok((key.arn == self.arn(id) && key.id == id).then_some(key))
    }

    /// Writes a key.
    pub(super) fn save(&self, key: &Key) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(key).expect("a key is plain JSON");
        files::write(&self.file(key.id), &text)
    }

    fn file(&self, id: Uuid) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// The key that a ciphertext says it was made with.
    pub(super) fn key_of(&self, ciphertext: &[u8]) -> Result<Key, Refusal> {
        let (id, _) = taken_apart(ciphertext).ok_or_else(bad_ciphertext)?;
        self.load(id)?.ok_or_else(bad_ciphertext)
    }
}

/// What `InvalidCiphertextException` answers: AWS says no more either.
fn bad_ciphertext() -> Refusal {
    Refusal::new(
        "InvalidCiphertextException",
        "not a ciphertext of this key in this context",
    )
}

fn taken_apart(ciphertext: &[u8]) -> Option<(Uuid, &[u8])> {
    let (id, sealed) = ciphertext.strip_prefix(TAG)?.split_first_chunk::<16>()?;
    Some((Uuid::from_bytes(*id), sealed))
}

impl Key {
    /// Tag, key's id, nonce, AES-256-GCM; `context` and the ARN are bound.
    pub(super) fn seal(&self, plaintext: &[u8], context: &[u8]) -> Result<Vec<u8>, Refusal> {
        let mut sealed = plaintext.to_vec();
        let nonce = self
            .cipher()?
            .seal_in_place_append_tag(Aad::from(self.bound(context)), &mut sealed)
            .map_err(Refusal::internal)?;
        Ok([TAG, self.id.as_bytes(), nonce.as_ref(), &sealed].concat())
    }

    /// Opens what [`Key::seal`] made in the same context.
    pub(super) fn open(&self, ciphertext: &[u8], context: &[u8]) -> Result<Vec<u8>, Refusal> {
        let (_, sealed) = taken_apart(ciphertext).ok_or_else(bad_ciphertext)?;
        let (nonce, sealed) = sealed
            .split_first_chunk::<NONCE_LEN>()
            .ok_or_else(bad_ciphertext)?;
        let mut sealed = sealed.to_vec();
        let plaintext = self
            .cipher()?
            .open_in_place(nonce.into(), Aad::from(self.bound(context)), &mut sealed)
            .map_err(|_| bad_ciphertext())?;
        Ok(plaintext.to_vec())
    }

    fn cipher(&self) -> Result<RandomizedNonceKey, Refusal> {
        let material = BASE64
            .decode(self.material.as_bytes())
            .map_err(Refusal::internal)?;
        RandomizedNonceKey::new(&AES_256_GCM, &material).map_err(Refusal::internal)
    }

    fn bound(&self, context: &[u8]) -> Vec<u8> {
        [self.arn.as_bytes(), b"\0", context].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_another_region_are_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = |region| Store::open(folder.path(), region).unwrap();
        let key = store("here").create("{}", "", 0).unwrap();
        let sealed = key.seal(b"secret", b"").unwrap();
        assert!(store("here").key_of(&sealed).is_ok());
        let missing = |found: Result<Key, Refusal>| found.map(|_| ()).unwrap_err().kind;
        assert_eq!(
            missing(store("there").key_of(&sealed)),
            "InvalidCiphertextException"
        );
        assert_eq!(missing(store("there").find(&key.arn)), "NotFoundException");
    }
}
