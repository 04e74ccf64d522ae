//! The mock's folder: files of mode 0600, written whole or not at all.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::Error;

/// Makes a folder that only this user can enter, unless it is there.
pub(crate) fn make_folder(folder: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(folder);
    made.map_err(io(folder))
}

/// Waits until no other process makes what is missing in this folder, as long as the value lives.
pub(crate) fn lock(folder: &Path) -> Result<fs::File, Error> {
    let file = folder.join("lock");
    let mut options = fs::OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let opened = options.open(&file).map_err(io(&file))?;
    rustix::fs::flock(&opened, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| io(&file)(error.into()))?;
    Ok(opened)
}

/// Replaces a file as a whole, mode 0600; it is on the disk when this returns.
pub(crate) fn write(file: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let written = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(folder)
        .and_then(|mut new| {
            new.write_all(bytes)?;
            new.as_file().sync_all()?;
            new.persist(file).map_err(|error| error.error)
        });
    written.map(|_| ()).map_err(io(file))
}

/// Reads a file of text.
pub(crate) fn read(file: &Path) -> Result<String, Error> {
    fs::read_to_string(file).map_err(io(file))
}

/// Names the file in an error.
pub(crate) fn io(file: &Path) -> impl Fn(std::io::Error) -> Error + use<> {
    let what = file.display().to_string();
    move |source| Error::Io {
        what: what.clone(),
        source,
    }
}
