//! Ramdisks: cpio archives, the same bytes everywhere.

use std::io::Write;

use cpio::NewcBuilder;
use cpio::newc::{ModeFileType, trailer};
use flate2::{Compression, GzBuilder};

use crate::Error;

/// What stands in a ramdisk. Everything belongs to root and has no time.
#[derive(Debug, Clone)]
pub enum Entry<'a> {
    /// An empty directory of mode 0755.
    Directory(&'a str),
    /// A file of mode 0555.
    Program(&'a str, &'a [u8]),
}

/// A cpio archive (newc), gzipped: the same bytes for the same entries.
pub fn ramdisk(entries: &[Entry<'_>]) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io {
        what: "ramdisk".into(),
        source,
    };
    let mut archive = Vec::new();
    for (number, entry) in (1..).zip(entries) {
        let (name, kind, mode, content): (_, _, _, &[u8]) = match entry {
            Entry::Directory(name) => (name, ModeFileType::Directory, 0o755, &[]),
            Entry::Program(name, content) => (name, ModeFileType::Regular, 0o555, content),
        };
        let size = u32::try_from(content.len()).map_err(|_| Error::TooLarge)?;
        let header = NewcBuilder::new(name)
            .ino(number)
            .nlink(1)
            .mode(mode)
            .set_mode_file_type(kind);
        let mut writer = header.write(&mut archive, size);
        writer.write_all(content).map_err(io)?;
        writer.finish().map_err(io)?;
    }
    trailer(&mut archive).map_err(io)?;
    // 255: no operating system in particular (RFC 1952 section 2.3.1).
    let mut gzip = GzBuilder::new()
        .mtime(0)
        .operating_system(255)
        .write(Vec::new(), Compression::best());
    gzip.write_all(&archive).map_err(io)?;
    gzip.finish().map_err(io)
}
