//! Files that people write for us.

use std::io::Read;
use std::path::Path;

use crate::Error;

/// Whether a file of this mode is closed to group and others. A credential that systemd hands over
/// (LoadCredential=) is closed by its directory; where it has an access list, the group's bits show
/// that list's mask.
pub fn is_private(file: &Path, mode: u32) -> bool {
    let handed_over =
        std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|folder| file.starts_with(folder));
    mode & if handed_over { 0o037 } else { 0o077 } == 0
}

/// Reads a file of at most 1 MiB; no file of ours is longer.
pub fn read_bounded(file: &Path) -> Result<Vec<u8>, Error> {
    const MAX: u64 = 1 << 20;
    let io = |source| Error::File {
        file: file.into(),
        source,
    };
    let mut bytes = Vec::new();
    std::fs::File::open(file)
        .and_then(|opened| opened.take(MAX + 1).read_to_end(&mut bytes))
        .map_err(io)?;
    if bytes.len() as u64 > MAX {
        return Err(io(std::io::Error::other("larger than 1 MiB")));
    }
    Ok(bytes)
}
