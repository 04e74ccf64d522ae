//! From source to image: program, kernel, ramdisks, metadata, signature.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::compiled::{Which, cargo_home, compile, libc_sha256};
use crate::describe::{BuildMetadata, Metadata};
use crate::kernel::{Kernel, tool_version};
use crate::step::{Watch, clean};
use crate::{Entry, Error, Image, Measurements, Parts, SigningKey, place, ramdisk};

/// What the kernel is told. The hypervisor adds its devices.
///
/// `panic=-1`: an end of PID 1 is the end of the machine, at once. `reboot=t`: by a triple fault,
/// which no hypervisor survives for its guest; by the keyboard controller if one should.
/// `random.trust_cpu=on`: the pool is seeded before the first program; the NSM's randomness goes
/// into every key beside it.
const CMDLINE: &str = "reboot=t panic=-1 pci=off nomodules console=ttyS0 random.trust_cpu=on quiet";

/// What is to be built.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The development enclave, with the mock NSM.
    pub development: bool,
    /// Our source tree.
    pub source: PathBuf,
    /// A bzImage; built if not given.
    pub kernel: Option<PathBuf>,
    /// The kernel's source, a tarball; Debian's if not given.
    pub kernel_source: Option<PathBuf>,
    /// Where built kernels are kept.
    pub cache: PathBuf,
    /// Key and certificate (PEM) that sign the image.
    pub signing: Option<(PathBuf, PathBuf)>,
}

impl Plan {
    /// Builds; gives the file's bytes and their measurements. `begins` is told each step as it
    /// begins; what the steps say goes to the file `log`.
    pub fn run(&self, begins: &dyn Fn(&str), log: &Path) -> Result<(Vec<u8>, Measurements), Error> {
        // Whatever can be wrong on the command line is found before anything long begins.
        let source = self.source()?;
        place::check(&source, &cargo_home()?)?;
        let signing = self.signing_key()?;
        let brought = self.kernel.as_deref().map(Kernel::read).transpose()?;
        let watch = Watch::start(begins, log)?;
        let which = if self.development {
            Which::Development
        } else {
            Which::Production
        };
        let kernel = match brought {
            Some(kernel) => kernel,
            None => Kernel::build(self.kernel_source.as_deref(), &self.cache, &watch)?,
        };
        let program = compile(which, &source, &watch)?;
        let metadata = serde_json::to_vec(&metadata(which, &source, &kernel)?)
            .map_err(|e| Error::Metadata(e.to_string()))?;
        let ramdisks = ramdisks(&program)?;
        let ramdisks = [ramdisks[0].as_slice(), &ramdisks[1]];
        let signature = signing.map(|key| key.sign(&kernel.image, CMDLINE.as_bytes(), &ramdisks));
        let parts = Parts {
            kernel: &kernel.image,
            cmdline: CMDLINE,
            metadata: &metadata,
            ramdisks: &ramdisks,
            signature: signature.as_deref(),
        };
        let image = parts.to_image()?;
        let measurements = Measurements::of(&Image::parse(&image)?)?;
        Ok((image, measurements))
    }

    fn source(&self) -> Result<PathBuf, Error> {
        let named = || self.source.display().to_string();
        let source = fs::canonicalize(&self.source).map_err(|_| Error::SourceTree(named()))?;
        let ours = [
            "Cargo.lock",
            "enclave/Cargo.toml",
            "qemu-dev/guest/Cargo.toml",
        ]
        .iter()
        .all(|file| source.join(file).is_file());
        if ours {
            Ok(source)
        } else {
            Err(Error::SourceTree(named()))
        }
    }

    fn signing_key(&self) -> Result<Option<SigningKey>, Error> {
        let Some((key, certificate)) = &self.signing else {
            return Ok(None);
        };
        let read = |file: &Path| fs::read_to_string(file).map_err(Error::io(file));
        SigningKey::new(&read(key)?, &read(certificate)?).map(Some)
    }
}

/// The first has the mount points and is measured with the kernel; the second is the program, and
/// PCR2 measures it alone.
pub fn ramdisks(program: &[u8]) -> Result<[Vec<u8>; 2], Error> {
    Ok([
        ramdisk(&[Entry::Directory("dev"), Entry::Directory("sys")])?,
        ramdisk(&[Entry::Program("init", program)])?,
    ])
}

/// Version, commit, kernel, compilers; no time, no place, no person.
fn metadata(which: Which, source: &Path, kernel: &Kernel) -> Result<Metadata, Error> {
    Ok(Metadata {
        name: which.program().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        build: BuildMetadata {
            time: String::new(),
            tool: env!("CARGO_PKG_NAME").into(),
            tool_version: env!("CARGO_PKG_VERSION").into(),
            operating_system: "Linux".into(),
            kernel_version: kernel.version(),
        },
        docker: Value::Null,
        custom: json!({
            "Commit": commit(source),
            "KernelSourceSha256": kernel.source_sha256,
            "Rustc": tool_version("rustc", source)?,
            "Gcc": tool_version("gcc", source)?,
            "Ld": tool_version("ld", source)?,
            "LibcSha256": libc_sha256()?,
        }),
    })
}

/// The commit of the source tree, `-modified` if the tree differs from it, `unknown` without git.
fn commit(source: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = clean(Command::new("git"))
            .arg("-C")
            .arg(source)
            .args(arguments)
            .stderr(Stdio::null())
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["rev-parse", "HEAD"]), git(&["status", "--porcelain"])) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), _) => format!("{commit}-modified"),
        _ => "unknown".into(),
    }
}

/// Writes a file in one move, so that nobody ever sees half of it.
pub fn write_file(file: &Path, bytes: &[u8]) -> Result<(), Error> {
    let io = Error::io(file);
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new()
        .prefix(".anchorhold-")
        .tempfile_in(folder)
        .map_err(&io)?;
    temporary.write_all(bytes).map_err(&io)?;
    let permissions = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o644);
    temporary
        .as_file()
        .set_permissions(permissions)
        .map_err(&io)?;
    temporary
        .persist(file)
        .map(|_| ())
        .map_err(|error| io(error.error))
}
