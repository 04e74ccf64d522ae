//! The kernel: from Debian's source with our configuration, cached by the digest of all that goes
//! into it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::Error;
use crate::step::{Step, Watch, clean};

/// Our configuration, each option with its reason.
const FRAGMENT: &str = include_str!("../kernel/anchorhold.config");
/// Where Debian's package puts it.
const DEBIAN_SOURCE: &str = "/usr/src/linux-source-6.12.tar.xz";
/// Rises when this file builds otherwise.
const RECIPE: &str = "anchorhold kernel recipe 2";
/// What `uname -v` shows; the same on every machine and day.
const IDENTITY: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "anchorhold"),
    ("KBUILD_BUILD_HOST", "anchorhold"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// A kernel, and what is known of where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    pub(crate) image: Vec<u8>,
    /// Of the tarball, lowercase hex; `None` for a kernel that was brought.
    pub(crate) source_sha256: Option<String>,
}

impl Kernel {
    /// Takes a kernel that is there.
    pub(crate) fn read(file: &Path) -> Result<Self, Error> {
        let image = fs::read(file).map_err(Error::io(file))?;
        check_bz_image(&image)?;
        Ok(Self {
            image,
            source_sha256: None,
        })
    }

    /// Builds one, or takes it from the cache.
    pub(crate) fn build(
        source: Option<&Path>,
        cache: &Path,
        watch: &Watch<'_>,
    ) -> Result<Self, Error> {
        let source = source.unwrap_or(Path::new(DEBIAN_SOURCE));
        if !source.exists() {
            return Err(Error::MissingTool {
                tool: source.display().to_string(),
                package: "linux-source-6.12",
            });
        }
        let source_sha256 = sha256_of(source)?;
        let folder = cache.join("kernel").join(key(&source_sha256)?);
        let done = folder.join("bzImage");
        if !done.exists() {
            watch.begins("a kernel is needed: some five minutes of CPU, once");
            make(source, &folder, watch)?;
        }
        let mut kernel = Self::read(&done)?;
        kernel.source_sha256 = Some(source_sha256);
        Ok(kernel)
    }

    /// As the kernel names itself, `6.12.117` for example.
    pub(crate) fn version(&self) -> String {
        version(&self.image).unwrap_or_else(|| "unknown".into())
    }
}

/// The digest of everything that the kernel is made from: source, configuration, recipe, compiler,
/// linker.
fn key(source_sha256: &str) -> Result<String, Error> {
    let mut hasher = Sha256::new();
    let inputs = [
        source_sha256.to_owned(),
        FRAGMENT.into(),
        RECIPE.into(),
        tool_version("gcc", Path::new("/"))?,
        tool_version("ld", Path::new("/"))?,
    ];
    for input in inputs {
        hasher.update((input.len() as u64).to_be_bytes());
        hasher.update(input);
    }
    Ok(data_encoding::HEXLOWER.encode(&hasher.finalize()[..16]))
}

/// The first line of what `tool --version` prints in this folder: a `rust-toolchain.toml` there
/// chooses the compiler.
pub(crate) fn tool_version(tool: &str, folder: &Path) -> Result<String, Error> {
    let output = clean(Command::new(tool))
        .arg("--version")
        .current_dir(folder)
        .output();
    let output = output.map_err(|_| Error::MissingTool {
        tool: tool.into(),
        package: "build-essential",
    })?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// Unpacks beside the cache entry, builds, and puts the result in place in one move.
fn make(source: &Path, folder: &Path, watch: &Watch<'_>) -> Result<(), Error> {
    find_tools()?;
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let work = tempfile::Builder::new()
        .prefix("build-")
        .tempdir_in(folder)
        .map_err(Error::io(folder))?;
    let tree = work.path().join("linux");
    fs::create_dir(&tree).map_err(Error::io(&tree))?;
    let mut unpack = Command::new("tar");
    unpack
        .args(["--extract", "--strip-components=1", "--file"])
        .arg(source)
        .arg("--directory")
        .arg(&tree);
    Step::new("unpacking the kernel's source", unpack).run(watch)?;
    let fragment = work.path().join("anchorhold.config");
    fs::write(&fragment, FRAGMENT).map_err(Error::io(&fragment))?;
    let step = |what, targets: &[&str]| {
        let mut make = Command::new("make");
        make.arg("--directory")
            .arg(&tree)
            .arg("ARCH=x86_64")
            .args(targets)
            .env("KCONFIG_ALLCONFIG", &fragment)
            .envs(IDENTITY);
        Step::new(what, make).run(watch)
    };
    step("configuring the kernel", &["--silent", "allnoconfig"])?;
    let config = tree.join(".config");
    check_config(&fs::read_to_string(&config).map_err(Error::io(&config))?)?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    step(
        "building the kernel",
        &["--silent", &format!("--jobs={jobs}"), "bzImage"],
    )?;
    let (built, done) = (tree.join("arch/x86/boot/bzImage"), folder.join("bzImage"));
    check_bz_image(&fs::read(&built).map_err(Error::io(&built))?)?;
    // Another build of the same inputs may have been faster; both made the same bytes.
    fs::rename(&built, &done).map_err(Error::io(&done))
}

/// What building a kernel takes, each with the Debian package that it is in.
fn find_tools() -> Result<(), Error> {
    for (tool, package) in [
        ("make", "make"),
        ("gcc", "gcc"),
        ("ld", "binutils"),
        ("flex", "flex"),
        ("bison", "bison"),
        ("bc", "bc"),
        ("perl", "perl"),
        ("xz", "xz-utils"),
        ("tar", "tar"),
        ("gzip", "gzip"),
    ] {
        find_tool(tool, package)?;
    }
    for (header, package) in [
        ("/usr/include/libelf.h", "libelf-dev"),
        ("/usr/include/openssl/opensslv.h", "libssl-dev"),
    ] {
        if !Path::new(header).exists() {
            return Err(Error::MissingTool {
                tool: header.into(),
                package,
            });
        }
    }
    Ok(())
}

/// Every option came out as the fragment has it.
fn check_config(config: &str) -> Result<(), Error> {
    let lines: Vec<&str> = config.lines().collect();
    let kept = |wanted: &str| match wanted.strip_prefix("# ") {
        // An option that nothing makes visible does not appear at all.
        Some(off) => {
            let name = off.trim_end_matches(" is not set");
            !lines
                .iter()
                .any(|line| line.split_once('=').is_some_and(|(set, _)| set == name))
        }
        None => lines.contains(&wanted),
    };
    let options = FRAGMENT
        .lines()
        .filter(|line| line.starts_with("CONFIG_") || line.ends_with(" is not set"));
    let lost: Vec<&str> = options.filter(|option| !kept(option)).collect();
    if lost.is_empty() {
        Ok(())
    } else {
        Err(Error::KernelConfig(lost.join(", ")))
    }
}

/// The setup header of the x86 boot protocol (Documentation/arch/x86/boot.rst): boot flag, magic,
/// protocol 2.12 or later with a 64-bit entry point, loaded high.
pub fn check_bz_image(image: &[u8]) -> Result<(), Error> {
    const MIN_PROTOCOL: u16 = 0x020c;
    let field = |at: usize, length: usize| {
        image
            .get(at..at + length)
            .ok_or(Error::NotABzImage("it is too short"))
    };
    if field(0x1fe, 2)? != [0x55, 0xaa] || field(0x202, 4)? != b"HdrS" {
        return Err(Error::NotABzImage("its boot header is missing"));
    }
    let protocol = field(0x206, 2)?;
    if u16::from_le_bytes([protocol[0], protocol[1]]) < MIN_PROTOCOL {
        return Err(Error::NotABzImage("its boot protocol is older than 2.12"));
    }
    let (load_flags, extended_flags) = (field(0x211, 1)?[0], field(0x236, 1)?[0]);
    if load_flags & 1 == 0 || extended_flags & 1 == 0 {
        return Err(Error::NotABzImage("it has no 64-bit entry point"));
    }
    Ok(())
}

/// The first word of the version string that the setup header points to.
fn version(image: &[u8]) -> Option<String> {
    let at = image.get(0x20e..0x210)?;
    let text = image.get(0x200 + usize::from(u16::from_le_bytes([at[0], at[1]]))..)?;
    let word: Vec<u8> = text
        .iter()
        .copied()
        .take(64)
        .take_while(|byte| byte.is_ascii_graphic())
        .collect();
    String::from_utf8(word).ok().filter(|word| !word.is_empty())
}

/// Finds a command on the path.
pub(crate) fn find_tool(tool: &str, package: &'static str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(tool))
        .find(|file| file.is_file());
    found.ok_or_else(|| Error::MissingTool {
        tool: tool.into(),
        package,
    })
}

pub(crate) fn sha256_of(file: &Path) -> Result<String, Error> {
    let io = Error::io(file);
    let mut opened = File::open(file).map_err(&io)?;
    let (mut hasher, mut chunk) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match opened.read(&mut chunk).map_err(&io)? {
            0 => return Ok(data_encoding::HEXLOWER.encode(&hasher.finalize())),
            read => hasher.update(&chunk[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_its_reason() {
        // A comment stands above each option or group of options.
        let mut reason = false;
        for line in FRAGMENT.lines() {
            match line {
                "" => reason = false,
                option if option.starts_with("CONFIG_") || option.ends_with(" is not set") => {
                    assert!(reason, "{option}")
                }
                comment => reason = comment.starts_with("# "),
            }
        }
    }

    #[test]
    fn the_compiler_that_is_named_is_the_one_of_the_source() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        // As rustup's rustc does: which one it is depends on the folder that it is asked in.
        let tool = folder.path().join("rustc");
        fs::write(&tool, "#!/bin/sh\ncat rust-toolchain.toml\n").unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(
            folder.path().join("rust-toolchain.toml"),
            "one of its own\n",
        )
        .unwrap();
        assert_eq!(
            tool_version(tool.to_str().unwrap(), folder.path()).unwrap(),
            "one of its own"
        );
    }

    #[test]
    fn an_option_that_does_not_come_out_is_named() {
        let whole: String = FRAGMENT
            .lines()
            .filter(|line| line.starts_with("CONFIG_"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(check_config(&whole).is_ok());
        let lost =
            check_config(&whole.replace("CONFIG_NSM=y", "# CONFIG_NSM is not set")).unwrap_err();
        assert!(matches!(lost, Error::KernelConfig(which) if which == "CONFIG_NSM=y"));
        let brought = check_config(&(whole + "CONFIG_MODULES=y\n")).unwrap_err();
        assert!(
            matches!(brought, Error::KernelConfig(which) if which == "# CONFIG_MODULES is not set")
        );
    }
}
