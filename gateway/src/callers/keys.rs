use std::collections::BTreeMap;
use std::path::Path;

use identity::{Digest, sha256};

use crate::reloaded::Reloaded;

type Names = BTreeMap<Digest<32>, String>;

/// API keys of a file, which is read again when it changes. Each line is a name, and the SHA-256 of
/// its key in hex; `#` begins a comment.
#[derive(Debug)]
pub struct Keys(Reloaded<Names>);

impl Keys {
    /// Of a file; the error says what is wrong with it.
    pub fn open(file: &Path) -> Result<Self, String> {
        let path = file.to_owned();
        let read = move || read(&path).map_err(|why| format!("{}: {why}", path.display()));
        Reloaded::new(&[file], read).map(Self)
    }

    /// Whose key it is.
    pub(super) fn name_of(&self, key: &[u8]) -> Option<String> {
        // Its digest is looked up: how long that takes says nothing of the key.
        self.0.get().get(&sha256(key)).cloned()
    }
}

fn read(file: &Path) -> Result<Names, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let mut names = Names::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let refused = |why: &str| format!("line {}: {why}", at + 1);
        let (name, digest) = line
            .split_once(char::is_whitespace)
            .ok_or_else(|| refused("a name and the SHA-256 of its key are wanted"))?;
        let digest = Digest::from_hex(digest.trim())
            .map_err(|_| refused("the SHA-256 of a key is 64 hexadecimal digits"))?;
        if names.insert(digest, name.to_owned()).is_some() {
            return Err(refused("two names have one key"));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_again_and_a_bad_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        let line = |name: &str, key: &str| format!("{name} {}\n", sha256(key.as_bytes()));
        std::fs::write(&file, format!("# ours\n\n{}", line("ci", "one"))).unwrap();
        let keys = Keys::open(&file).unwrap();
        assert_eq!(keys.name_of(b"one").as_deref(), Some("ci"));
        for other in [
            &b"two"[..],
            b"",
            b"On",
            sha256(b"one").to_string().as_bytes(),
        ] {
            assert_eq!(keys.name_of(other), None);
        }
        let change = |text: String| {
            std::fs::write(&file, text).unwrap();
            keys.0.look_again();
        };
        change(line("other", "two"));
        assert_eq!(
            (keys.name_of(b"one"), keys.name_of(b"two").as_deref()),
            (None, Some("other"))
        );
        change("nonsense".into());
        assert_eq!(keys.name_of(b"two").as_deref(), Some("other"));
        change(String::new());
        assert_eq!(keys.name_of(b"two"), None);
        for bad in [
            "ci",
            "ci one",
            &format!("{}{}", line("a", "k"), line("b", "k")),
        ] {
            std::fs::write(&file, bad).unwrap();
            assert!(Keys::open(&file).unwrap_err().contains("line"), "{bad}");
        }
    }
}
