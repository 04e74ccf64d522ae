//! The file format, version 4.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::kernel::check_bz_image;
use crate::{Error, MAX_IMAGE_BYTES};

const MAGIC: [u8; 4] = *b".eif";
const VERSION: u16 = 4;
const HEADER_BYTES: usize = 548;
const SECTION_HEADER_BYTES: usize = 12;
const MAX_SECTIONS: usize = 32;
/// Of kernel, command line, metadata and at least one ramdisk.
const MIN_SECTIONS: usize = 4;
/// What nitro-cli takes for a signature.
const MAX_SIGNATURE_BYTES: usize = 32 * 1024;
/// What nitro-cli writes is a few KiB; parsed, JSON may take twenty times its size.
const MAX_METADATA_BYTES: usize = 1 << 20;
const OFFSETS_AT: usize = 28;
const SIZES_AT: usize = OFFSETS_AT + 8 * MAX_SECTIONS;
const UNUSED_AT: usize = SIZES_AT + 8 * MAX_SECTIONS;
const CRC_AT: usize = UNUSED_AT + 4;
/// What nitro-cli writes; `run-enclave` is told the true figures.
const DEFAULT_MEMORY: u64 = 1 << 30;
const DEFAULT_CPUS: u64 = 2;
/// COMMAND_LINE_SIZE of x86 is 2048, with the terminating zero; the hypervisor adds its devices.
const MAX_CMDLINE_BYTES: usize = 1536;

/// Kinds of sections.
mod kind {
    pub(super) const KERNEL: u16 = 1;
    pub(super) const CMDLINE: u16 = 2;
    pub(super) const RAMDISK: u16 = 3;
    pub(super) const SIGNATURE: u16 = 4;
    pub(super) const METADATA: u16 = 5;
}

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    /// A bzImage.
    pub kernel: &'a [u8],
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// JSON.
    pub metadata: &'a [u8],
    /// cpio archives, each compressed or not. The first is measured with the kernel, the others in
    /// PCR2.
    pub ramdisks: &'a [&'a [u8]],
    /// CBOR, as [`crate::SigningKey::sign`] makes it.
    pub signature: Option<&'a [u8]>,
}

impl Parts<'_> {
    /// The bytes of an image file: the same for the same parts.
    pub fn to_image(&self) -> Result<Vec<u8>, Error> {
        check_bz_image(self.kernel)?;
        check_cmdline(self.cmdline.as_bytes())?;
        let mut sections = vec![
            (kind::KERNEL, self.kernel),
            (kind::CMDLINE, self.cmdline.as_bytes()),
            (kind::METADATA, self.metadata),
        ];
        sections.extend(
            self.ramdisks
                .iter()
                .map(|ramdisk| (kind::RAMDISK, *ramdisk)),
        );
        sections.extend(self.signature.map(|signature| (kind::SIGNATURE, signature)));
        let count = u16::try_from(sections.len()).unwrap_or(u16::MAX);
        if !(MIN_SECTIONS..=MAX_SECTIONS).contains(&sections.len()) {
            return Err(Error::SectionCount(count));
        }
        let mut file = vec![0; HEADER_BYTES];
        file[..4].copy_from_slice(&MAGIC);
        file[4..6].copy_from_slice(&VERSION.to_be_bytes());
        file[8..16].copy_from_slice(&DEFAULT_MEMORY.to_be_bytes());
        file[16..24].copy_from_slice(&DEFAULT_CPUS.to_be_bytes());
        file[26..28].copy_from_slice(&count.to_be_bytes());
        for (index, (kind, content)) in sections.into_iter().enumerate() {
            let (offset, size) = (file.len() as u64, content.len() as u64);
            file[OFFSETS_AT + 8 * index..][..8].copy_from_slice(&offset.to_be_bytes());
            file[SIZES_AT + 8 * index..][..8].copy_from_slice(&size.to_be_bytes());
            file.extend_from_slice(&kind.to_be_bytes());
            file.extend_from_slice(&[0, 0]);
            file.extend_from_slice(&size.to_be_bytes());
            file.extend_from_slice(content);
        }
        let crc = checksum(&file);
        file[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_be_bytes());
        Image::parse(&file)?;
        Ok(file)
    }
}

/// A well-formed image, taken apart.
///
/// Well-formed is more than what loaders insist on: the sections fill the file from the header to
/// its end, in the order of the table, each once but ramdisks; kernel, command line and ramdisks in
/// the order in which they are measured; everything reserved is zero; the checksum fits. So two
/// images with the same measurements boot the same thing.
#[derive(Debug, Clone)]
pub struct Image<'a> {
    /// The kernel, a bzImage.
    pub kernel: &'a [u8],
    /// The kernel's command line.
    pub cmdline: &'a [u8],
    /// At least one.
    pub ramdisks: Vec<&'a [u8]>,
    /// JSON; `null` in some images.
    pub metadata: &'a [u8],
    /// As it stands in the file; not verified.
    pub signature: Option<&'a [u8]>,
}

impl<'a> Image<'a> {
    /// Takes an image apart.
    pub fn parse(file: &'a [u8]) -> Result<Self, Error> {
        if file.get(..4) != Some(&MAGIC) {
            return Err(Error::NotAnImage);
        }
        let header = file
            .get(..HEADER_BYTES)
            .ok_or(Error::Truncated("in the header"))?;
        let (version, flags, count) = (u16_at(header, 4), u16_at(header, 6), u16_at(header, 26));
        if version != VERSION {
            return Err(Error::VersionUnsupported(version));
        }
        if flags != 0 {
            return Err(Error::WrongArchitecture(flags));
        }
        if !(MIN_SECTIONS..=MAX_SECTIONS).contains(&usize::from(count)) {
            return Err(Error::SectionCount(count));
        }
        let mut sections = Sections {
            file,
            header,
            at: HEADER_BYTES,
            next: 0,
            count: usize::from(count),
        };
        let table_rest = |at: usize| header[at + 8 * sections.count..at + 8 * MAX_SECTIONS].iter();
        let reserved = [u32::from(u16_at(header, 24)), u32_at(header, UNUSED_AT)];
        if reserved != [0, 0]
            || table_rest(OFFSETS_AT)
                .chain(table_rest(SIZES_AT))
                .any(|byte| *byte != 0)
        {
            return Err(Error::Reserved);
        }
        let image = Self::of_sections(&mut sections)?;
        if sections.at != file.len() {
            return Err(Error::TrailingBytes(file.len() - sections.at));
        }
        let (stated, computed) = (u32_at(header, CRC_AT), checksum(file));
        if stated != computed {
            return Err(Error::CrcMismatch { stated, computed });
        }
        Ok(image)
    }

    fn of_sections(sections: &mut Sections<'a>) -> Result<Self, Error> {
        let (mut kernel, mut cmdline, mut metadata, mut signature, mut ramdisks) =
            (None, None, None, None, Vec::new());
        while let Some(Section {
            index,
            kind,
            content,
        }) = sections.next()?
        {
            let wrong = |why| Err(Error::Section { index, why });
            let slot = match kind {
                kind::KERNEL => &mut kernel,
                kind::CMDLINE if kernel.is_none() => {
                    return wrong("the command line stands before the kernel");
                }
                kind::CMDLINE => &mut cmdline,
                kind::METADATA if content.len() > MAX_METADATA_BYTES => {
                    return wrong("metadata of more than 1 MiB");
                }
                kind::METADATA => &mut metadata,
                kind::SIGNATURE if content.len() > MAX_SIGNATURE_BYTES => {
                    return wrong("a signature of more than 32 KiB");
                }
                kind::SIGNATURE => &mut signature,
                kind::RAMDISK if cmdline.is_none() => {
                    return wrong("a ramdisk stands before the command line");
                }
                kind::RAMDISK => {
                    ramdisks.push(content);
                    continue;
                }
                _ => return wrong("of a kind that does not exist"),
            };
            if slot.replace(content).is_some() {
                return wrong("the second one of a kind of which there is one");
            }
        }
        let missing = |why| Error::Section {
            index: sections.count,
            why,
        };
        if ramdisks.is_empty() {
            return Err(missing("no ramdisk"));
        }
        let image = Self {
            kernel: kernel.ok_or_else(|| missing("no kernel"))?,
            cmdline: cmdline.ok_or_else(|| missing("no command line"))?,
            metadata: metadata.ok_or_else(|| missing("no metadata"))?,
            ramdisks,
            signature,
        };
        Ok(image)
    }

    /// The parts again, to make another image of them.
    ///
    /// # Errors
    /// If the command line is not UTF-8.
    pub fn parts<'b>(&'b self) -> Result<Parts<'b>, Error> {
        Ok(Parts {
            kernel: self.kernel,
            cmdline: std::str::from_utf8(self.cmdline)
                .map_err(|_| Error::CommandLine("not UTF-8"))?,
            metadata: self.metadata,
            ramdisks: &self.ramdisks,
            signature: self.signature,
        })
    }
}

struct Section<'a> {
    index: usize,
    kind: u16,
    content: &'a [u8],
}

struct Sections<'a> {
    file: &'a [u8],
    header: &'a [u8],
    at: usize,
    next: usize,
    count: usize,
}

impl<'a> Sections<'a> {
    /// The next section, which must begin where the one before it ended.
    fn next(&mut self) -> Result<Option<Section<'a>>, Error> {
        if self.next == self.count {
            return Ok(None);
        }
        let index = self.next;
        self.next += 1;
        let wrong = |why| Error::Section { index, why };
        let stated = (
            u64_at(self.header, OFFSETS_AT + 8 * index),
            u64_at(self.header, SIZES_AT + 8 * index),
        );
        if stated.0 != self.at as u64 {
            return Err(wrong("it does not begin where the one before it ends"));
        }
        let rest = &self.file[self.at..];
        let head = rest
            .get(..SECTION_HEADER_BYTES)
            .ok_or(Error::Truncated("in the header of a section"))?;
        if u64_at(head, 4) != stated.1 {
            return Err(wrong("its own header gives another size than the table"));
        }
        if u16_at(head, 2) != 0 {
            return Err(wrong("it has flags, and none are defined"));
        }
        let size = usize::try_from(stated.1).map_err(|_| Error::Truncated("in a section"))?;
        let content = rest[SECTION_HEADER_BYTES..]
            .get(..size)
            .ok_or(Error::Truncated("in a section"))?;
        self.at += SECTION_HEADER_BYTES + size;
        Ok(Some(Section {
            index,
            kind: u16_at(head, 0),
            content,
        }))
    }
}

/// Reads an image file; never more of it than [`MAX_IMAGE_BYTES`].
pub fn read_file(file: &Path) -> Result<Vec<u8>, Error> {
    let io = Error::io(file);
    let opened = File::open(file).map_err(&io)?;
    let metadata = opened.metadata().map_err(&io)?;
    if !metadata.is_file() {
        return Err(io(std::io::Error::other("not a regular file")));
    }
    if metadata.len() > MAX_IMAGE_BYTES {
        return Err(Error::TooLarge);
    }
    let mut bytes = Vec::new();
    // It is refused by its first bytes before the rest of it is read.
    opened.take(4).read_to_end(&mut bytes).map_err(&io)?;
    if bytes != MAGIC {
        return Err(Error::NotAnImage);
    }
    let mut whole =
        Vec::with_capacity(usize::try_from(metadata.len()).map_err(|_| Error::TooLarge)?);
    File::open(file)
        .and_then(|opened| opened.take(metadata.len()).read_to_end(&mut whole))
        .map_err(&io)?;
    Ok(whole)
}

fn check_cmdline(cmdline: &[u8]) -> Result<(), Error> {
    if cmdline.len() > MAX_CMDLINE_BYTES {
        return Err(Error::CommandLine("longer than 1536 bytes"));
    }
    if !cmdline.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(Error::CommandLine("not printable ASCII"));
    }
    Ok(())
}

/// CRC-32 (IEEE 802.3) of everything but the field that holds it.
fn checksum(file: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&file[..CRC_AT]);
    hasher.update(&file[HEADER_BYTES..]);
    hasher.finalize()
}

// The callers have checked that the bytes are there.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    (u32::from(u16_at(bytes, at)) << 16) | u32::from(u16_at(bytes, at + 2))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    (u64::from(u32_at(bytes, at)) << 32) | u64::from(u32_at(bytes, at + 4))
}
