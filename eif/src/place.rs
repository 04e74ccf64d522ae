//! Who could choose the compiler: cargo and rustup read settings from every folder above the
//! source.
//!
//! `.cargo/config.toml` names the compiler, its wrapper, the linker and where crates come from;
//! `rust-toolchain.toml` names the toolchain. Who can write one of these files, or make it, decides
//! what is in the image. So all of them, and the folders in which they could be made, must be of
//! root or of the user who builds, and nobody else may write there.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::process::geteuid;

use crate::Error;

/// What cargo and rustup look for in each folder, and in that of cargo itself.
const IN_EACH_FOLDER: [&str; 5] = [
    ".cargo",
    ".cargo/config",
    ".cargo/config.toml",
    "rust-toolchain",
    "rust-toolchain.toml",
];
const IN_CARGO_HOME: [&str; 2] = ["config", "config.toml"];
/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;

/// Refuses a source tree, a real path, or a CARGO_HOME for which somebody else could choose the
/// compiler.
pub(crate) fn check(source: &Path, cargo_home: &Path) -> Result<(), Error> {
    let builders = Builders::of_this_machine()?;
    for folder in source.ancestors() {
        builders.check(folder)?;
        IN_EACH_FOLDER
            .iter()
            .try_for_each(|name| builders.check(&folder.join(name)))?;
    }
    builders.check(cargo_home)?;
    IN_CARGO_HOME
        .iter()
        .try_for_each(|name| builders.check(&cargo_home.join(name)))
}

/// The users who may decide what is built.
struct Builders([u32; 3]);

impl Builders {
    /// We, root, and who owns `/`: in a user namespace that does not know root, its files have
    /// another owner.
    fn of_this_machine() -> Result<Self, Error> {
        let top = fs::metadata("/").map_err(Error::io(Path::new("/")))?;
        Ok(Self([geteuid().as_raw(), 0, top.uid()]))
    }

    /// Checks a file or folder, if it is there, and every folder and link that leads to it.
    fn check(&self, path: &Path) -> Result<(), Error> {
        let mut links = 0;
        let mut seen = PathBuf::new();
        let mut ahead: Vec<PathBuf> = parts(path);
        while let Some(part) = ahead.pop() {
            seen.push(part);
            let metadata = match fs::symlink_metadata(&seen) {
                Ok(metadata) => metadata,
                // Nobody else can make it: the folder was checked.
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(Error::io(&seen)(error)),
            };
            self.check_one(&seen, &metadata)?;
            if metadata.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Error::BuildPlace(format!(
                        "{}: too many links",
                        path.display()
                    )));
                }
                ahead.extend(parts(&fs::read_link(&seen).map_err(Error::io(&seen))?));
                seen.pop();
            }
        }
        Ok(())
    }

    fn check_one(&self, path: &Path, metadata: &Metadata) -> Result<(), Error> {
        let open = |why| {
            Err(Error::OthersCanWrite {
                path: path.display().to_string(),
                why,
            })
        };
        if !self.0.contains(&metadata.uid()) {
            return open("another user owns it");
        }
        // A link has no permissions of its own.
        if metadata.is_symlink() || metadata.mode() & 0o022 == 0 {
            return Ok(());
        }
        // The sticky bit keeps others from taking files away, and not from making new ones.
        open(if metadata.is_dir() {
            "other users can make files in it"
        } else {
            "other users can write to it"
        })
    }
}

/// The parts of a path, last one first.
fn parts(path: &Path) -> Vec<PathBuf> {
    path.components()
        .rev()
        .filter(|part| *part != Component::CurDir)
        .map(|part| PathBuf::from(part.as_os_str()))
        .collect()
}
