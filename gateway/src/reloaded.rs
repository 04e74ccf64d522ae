//! What is read from files, and read again when one of them changes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Files are looked at again after so long.
const AGAIN: Duration = Duration::from_secs(1);

type Version = Vec<Option<(SystemTime, u64)>>;

/// What some files say.
pub struct Reloaded<T> {
    files: Vec<PathBuf>,
    read: Box<dyn Fn() -> Result<T, String> + Send + Sync>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    version: Version,
    looked: Instant,
}

impl<T> Reloaded<T> {
    /// Reads it; the error says what is wrong.
    pub fn new(
        files: &[&Path],
        read: impl Fn() -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let files: Vec<PathBuf> = files.iter().map(|file| file.to_path_buf()).collect();
        let state = State {
            version: version(&files),
            value: Arc::new(read()?),
            looked: Instant::now(),
        };
        Ok(Self {
            files,
            read: Box::new(read),
            state: Mutex::new(state),
        })
    }

    /// What they say now. While they say nothing that can be used, it stays as it was.
    pub fn get(&self) -> Arc<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= AGAIN {
            state.looked = Instant::now();
            let version = version(&self.files);
            if version != state.version {
                match (self.read)() {
                    Ok(value) => {
                        state.value = Arc::new(value);
                        state.version = version;
                    }
                    // It is tried again: what is wrong may be no matter of what stands there.
                    Err(why) => tracing::error!(why, "what it was stays"),
                }
            }
        }
        Arc::clone(&state.value)
    }

    #[cfg(test)]
    pub(crate) fn look_again(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.looked -= AGAIN;
    }
}

impl<T> fmt::Debug for Reloaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reloaded").field(&self.files).finish()
    }
}

fn version(files: &[PathBuf]) -> Version {
    let of = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().map(of).collect()
}
