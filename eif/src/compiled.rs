//! The enclave program: compiled from source, static, the same bytes in whatever folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::Error;
use crate::kernel::{find_tool, sha256_of, tool_version};
use crate::step::{Step, Watch, clean};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Stands in every program that holds the mock NSM, and in no other.
const MOCK_MARKER: &[u8] = b"anchorhold: this program holds the mock NSM";

/// Which enclave goes into the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// `/dev/nsm` and the AWS root.
    Production,
    /// The mock NSM.
    Development,
}

impl Which {
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Production => "anchorhold-enclave",
            Self::Development => "anchorhold-dev-enclave",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Production => "anchorhold-enclave",
            Self::Development => "anchorhold-dev-guest",
        }
    }
}

/// Compiles, alone, and strips.
pub(crate) fn compile(which: Which, source: &Path, watch: &Watch<'_>) -> Result<Vec<u8>, Error> {
    find_tool("cargo", "cargo")?;
    find_tool("strip", "binutils")?;
    // What stands for the source in panic messages, wherever it really is.
    let maps = [
        (one_word(source)?, "/anchorhold"),
        (one_word(&cargo_home()?)?, "/cargo"),
    ];
    let mut rust_flags = vec![
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Clink-arg=-Wl,--build-id=none".into(),
    ];
    rust_flags.extend(
        maps.iter()
            .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())),
    );
    let c_flags: Vec<String> = maps
        .iter()
        .map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()))
        .collect();
    let image = source.join("target/image");
    let folder = image.join(tools_key(source)?);
    let mut cargo = clean(Command::new("cargo"));
    cargo.current_dir(source).args([
        "build",
        "--locked",
        "--profile",
        "image",
        "--target",
        TARGET,
    ]);
    cargo
        .args([
            "--package",
            which.package(),
            "--bin",
            which.program(),
            "--target-dir",
        ])
        .arg(&folder);
    cargo
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags.join("\u{1f}"))
        .env("CFLAGS", c_flags.join(" "));
    cargo.env("SOURCE_DATE_EPOCH", "0");
    Step::new("compiling the enclave program", cargo).run(watch)?;
    let compiled = folder.join(TARGET).join("image").join(which.program());
    let unstripped = image.join(which.program());
    std::fs::copy(&compiled, &unstripped).map_err(Error::io(&compiled))?;
    check_marker(
        which,
        &std::fs::read(&unstripped).map_err(Error::io(&unstripped))?,
    )?;
    strip(&unstripped, watch)
}

/// Cargo sees no change of compiler, linker or C library outside of itself: each combination has a
/// folder of its own. The same goes for the moment that C code says it was built at, which is none:
/// the allocator of Rego has one in it.
fn tools_key(source: &Path) -> Result<String, Error> {
    let moment = "SOURCE_DATE_EPOCH=0".to_owned();
    let [rustc, gcc, ld] = [
        tool_version("rustc", source)?,
        tool_version("gcc", source)?,
        tool_version("ld", source)?,
    ];
    let tools = [rustc, gcc, ld, libc_sha256()?, moment].join("\n");
    Ok(data_encoding::HEXLOWER.encode(&Sha256::digest(tools)[..8]))
}

fn strip(unstripped: &Path, watch: &Watch<'_>) -> Result<Vec<u8>, Error> {
    let stripped = unstripped.with_extension("stripped");
    let mut strip = clean(Command::new("strip"));
    strip
        .arg("--strip-all")
        .arg("-o")
        .arg(&stripped)
        .arg(unstripped);
    Step::new("stripping the enclave program", strip).run(watch)?;
    std::fs::read(&stripped).map_err(Error::io(&stripped))
}

/// The production program holds no mock code, and the check is one that finds it: the development
/// program is seen to hold it.
fn check_marker(which: Which, program: &[u8]) -> Result<(), Error> {
    let held = program
        .windows(MOCK_MARKER.len())
        .any(|window| window == MOCK_MARKER);
    match (which, held) {
        (Which::Production, true) => Err(Error::MockCode("the production program holds mock code")),
        (Which::Development, false) => Err(Error::MockCode(
            "the development program does not hold the mock: the check is blind",
        )),
        _ => Ok(()),
    }
}

/// The digest of the C library that is linked in.
pub(crate) fn libc_sha256() -> Result<String, Error> {
    let missing = || Error::MissingTool {
        tool: "libc.a".into(),
        package: "libc6-dev",
    };
    let output = clean(Command::new("gcc"))
        .arg("-print-file-name=libc.a")
        .output()
        .map_err(|_| missing())?;
    let file = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    if file.is_absolute() {
        sha256_of(&file)
    } else {
        Err(missing())
    }
}

/// The C compiler's flags are handed on as words, and a path with white space would become two.
fn one_word(path: &Path) -> Result<PathBuf, Error> {
    if path
        .to_str()
        .is_none_or(|path| path.contains(char::is_whitespace))
    {
        let why = "the C compiler's flags need a path without white space, in UTF-8; build from another folder";
        return Err(Error::BuildPlace(format!("{}: {why}", path.display())));
    }
    Ok(path.to_owned())
}

pub(crate) fn cargo_home() -> Result<PathBuf, Error> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let home =
        home.ok_or_else(|| Error::BuildPlace("neither CARGO_HOME nor HOME is set".into()))?;
    std::path::absolute(&home).map_err(Error::io(&home))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_flags_cannot_name_is_refused() {
        assert!(one_word(Path::new("/home/me/anchorhold")).is_ok());
        for path in ["/home/me/my project", "/home/me/a\tb", "/home/me/a\u{a0}b"] {
            let refused = one_word(Path::new(path)).unwrap_err();
            assert!(
                matches!(&refused, Error::BuildPlace(why) if why.contains("white space")),
                "{refused}"
            );
        }
    }
}
