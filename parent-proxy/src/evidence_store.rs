//! Evidence of each boot, beside its record: who verifies the record later needs the key that
//! signed it, and the enclave that could show it has ended by then.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use attestation::Evidence;
use tracing::{info, warn};

/// Keeps the first evidence for each record key that passes through this sidecar.
pub(crate) struct EvidenceStore {
    folder: PathBuf,
    /// SubjectPublicKeyInfo of the record key whose evidence was kept last.
    last: Mutex<Vec<u8>>,
}

impl EvidenceStore {
    /// In the record's folder.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            last: Mutex::default(),
        }
    }

    /// Whether it is evidence, and of another record key than what was kept last.
    pub(crate) fn wants(&self, evidence: &[u8]) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        Evidence::parse(evidence).is_ok_and(|evidence| evidence.record() != *last)
    }

    /// Keeps it as `evidence-KEY.cbor`, unless there is some of the same record key. That it cannot
    /// be written is said in the log, and stops nothing: the enclave gives it again. Waits for the
    /// disk.
    pub(crate) fn keep(&self, evidence: &[u8]) {
        let Ok(parsed) = Evidence::parse(evidence) else {
            return;
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == parsed.record() {
            return;
        }
        let digest = identity::sha256(parsed.record()).to_string();
        let file = self.folder.join(format!("evidence-{}.cbor", &digest[..16]));
        match self.write(&file, evidence) {
            Ok(()) => {
                info!(file = %file.display(), "evidence of this boot lies beside its record");
                parsed.record().clone_into(&mut last);
            }
            Err(error) => {
                warn!(file = %file.display(), %error, "evidence of this boot could not be kept")
            }
        }
    }

    /// What a crash cut short is written again; whole, it stays as it is.
    fn write(&self, file: &Path, evidence: &[u8]) -> io::Result<()> {
        if fs::read(file).is_ok_and(|kept| Evidence::parse(&kept).is_ok()) {
            return Ok(());
        }
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600);
        let mut opened = opened.open(file)?;
        opened.write_all(evidence)?;
        opened.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(name: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../attestation/tests/vectors");
        fs::read(folder.join("cases/evidence").join(name)).unwrap()
    }

    fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        };
        fs::read_dir(folder).unwrap().map(entry).collect()
    }

    #[test]
    fn the_first_evidence_of_a_record_key_is_kept_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = EvidenceStore::new(folder.path().to_owned());
        let good = vector("good.cbor");
        let name = format!(
            "evidence-{}.cbor",
            &identity::sha256(Evidence::parse(&good).unwrap().record()).to_string()[..16]
        );
        store.keep(b"no evidence");
        assert_eq!(files(folder.path()), []);
        assert!(store.wants(&good) && !store.wants(b"no evidence"));
        store.keep(&good);
        assert!(!store.wants(&good));
        store.keep(&good);
        assert_eq!(files(folder.path()), [(name.clone(), good.clone())]);
        // After a restart what was cut by a crash is written again, and what is whole stays.
        let other = vector("indefinite.cbor");
        for (kept, then) in [(&good[..50], &good), (&other[..], &other)] {
            fs::write(folder.path().join(&name), kept).unwrap();
            EvidenceStore::new(folder.path().to_owned()).keep(&good);
            assert_eq!(files(folder.path()), [(name.clone(), then.clone())]);
        }
        // Nothing is in the way where it cannot be written.
        EvidenceStore::new(folder.path().join("missing")).keep(&good);
    }
}
