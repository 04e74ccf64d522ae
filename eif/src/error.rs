//! Why an image cannot be read or built.

use std::path::Path;

/// Why an image is refused, or was not built.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Error {
    /// The first four bytes are not `.eif`.
    #[error("this is not an enclave image file: it does not begin with \".eif\"")]
    NotAnImage,
    /// The file ends too early.
    #[error("the image ends too early: {0}")]
    Truncated(&'static str),
    /// Larger than any image that we read.
    #[error("the image is larger than {} GiB", crate::MAX_IMAGE_BYTES >> 30)]
    TooLarge,
    /// Another version of the format.
    #[error("version {0} of the format; only version 4 is read")]
    VersionUnsupported(u16),
    /// Not for x86-64.
    #[error("an image for another architecture than x86-64 (flags {0:#06x})")]
    WrongArchitecture(u16),
    /// Too few sections for an image, or more than the header has room for.
    #[error("{0} sections; an image has 4 to 32")]
    SectionCount(u16),
    /// The section table does not describe the file.
    #[error("section {index}: {why}")]
    Section {
        /// Its place in the table, from 0.
        index: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// Bytes that mean nothing and must be zero are not.
    #[error("reserved bytes of the header are not zero")]
    Reserved,
    /// Bytes follow the last section.
    #[error("{0} bytes follow the last section")]
    TrailingBytes(usize),
    /// A checksum that does not fit.
    #[error("the checksum in the header is {stated:08x}, that of the file {computed:08x}")]
    CrcMismatch {
        /// In the header.
        stated: u32,
        /// CRC-32 of everything but that field.
        computed: u32,
    },
    /// The metadata section cannot be read.
    #[error("the metadata cannot be read: {0}")]
    Metadata(String),
    /// The signature section cannot be read, or does not fit the image.
    #[error("the image's signature: {0}")]
    Signature(String),
    /// Not a kernel that is booted so.
    #[error("the kernel is no 64-bit bzImage: {0}")]
    NotABzImage(&'static str),
    /// A command line that the kernel cannot take.
    #[error("the kernel's command line: {0}")]
    CommandLine(&'static str),
    /// The key or certificate for signing the image is not good.
    #[error("signing: {0}")]
    SigningKey(String),
    /// A tool is missing.
    #[error("{tool} is missing; on Debian: apt-get install {package}")]
    MissingTool {
        /// The command or file.
        tool: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// An option of our configuration did not come out.
    #[error("the kernel's configuration lost: {0}")]
    KernelConfig(String),
    /// A step of the build failed.
    #[error("{what} failed ({status}):\n{tail}")]
    Step {
        /// What was run.
        what: String,
        /// Its exit status.
        status: String,
        /// The end of what it printed.
        tail: String,
    },
    /// The source tree is not ours.
    #[error("{0}: not the source of anchorhold; name it with --source")]
    SourceTree(String),
    /// The folder or the environment of the build cannot be used.
    #[error("{0}")]
    BuildPlace(String),
    /// Somebody else could choose the compiler, or what it is told.
    #[error(
        "{path}: {why}. Who can write there chooses the compiler: cargo and rustup read settings from every folder above the source, \
         and from CARGO_HOME. Build where only you and root can write (chmod go-w), and not under /tmp"
    )]
    OthersCanWrite {
        /// The file or folder.
        path: String,
        /// Who can write.
        why: &'static str,
    },
    /// Mock code where none may be, or none where it must be.
    #[error("{0}")]
    MockCode(&'static str),
    /// A file could not be used.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// The stable snake_case name.
    pub fn code(&self) -> &'static str {
        self.into()
    }

    /// sysexits(3): 1 for an image that is refused, 64 where the user can mend it on the command
    /// line or by installing something, 70 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::SigningKey(_)
            | Self::MissingTool { .. }
            | Self::SourceTree(_)
            | Self::BuildPlace(_)
            | Self::OthersCanWrite { .. }
            | Self::NotABzImage(_)
            | Self::Io { .. } => 64,
            Self::KernelConfig(_)
            | Self::Step { .. }
            | Self::MockCode(_)
            | Self::CommandLine(_) => 70,
            _ => 1,
        }
    }

    pub(crate) fn io(what: &Path) -> impl Fn(std::io::Error) -> Self + use<> {
        let what = what.display().to_string();
        move |source| Self::Io {
            what: what.clone(),
            source,
        }
    }
}
