//! The operator signs an annex.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use identity::Digest;
use serde_json::json;

use super::policy::read_annex;
use super::{Failure, print_json};
use crate::{Error, KeyFile};
use callers::{is_interpreter, sha256_of};

#[derive(Debug, Args)]
pub(super) struct Annex {
    /// The annex, TOML (docs/policy.md)
    file: PathBuf,
    /// The key that the bundle names as operator_key
    #[arg(long, value_name = "FILE")]
    operator_key: PathBuf,
    /// Where to write the signed annex; an older one is replaced
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Add this executable's digest to the caller of this name; may be repeated
    #[arg(long, value_name = "NAME=FILE")]
    executable: Vec<String>,
}

impl Annex {
    pub(super) fn sign(self, out: &mut impl Write) -> Result<(), Failure> {
        let mut annex = read_annex(&self.file)?;
        for pair in &self.executable {
            let (name, file) = pair
                .split_once('=')
                .ok_or_else(|| Failure::Usage("--executable NAME=FILE".into()))?;
            let digest = measure(Path::new(file))?;
            let mut found = false;
            for caller in annex
                .callers
                .iter_mut()
                .filter(|caller| caller.name == name)
            {
                caller.executables.push(digest);
                found = true;
            }
            if !found {
                return Err(Failure::Usage(format!(
                    "--executable {pair}: the annex has no caller {name:?}"
                )));
            }
        }
        let signed = annex
            .sign(&KeyFile::read(&self.operator_key)?)
            .map_err(|error| Failure::Usage(error.to_string()))?;
        std::fs::write(&self.output, &signed).map_err(|source| enclave_client::Error::File {
            file: self.output.clone(),
            source,
        })?;
        let id = annex.id().map_err(|source| Error::Policy {
            file: self.file.clone(),
            source,
        })?;
        print_json(
            out,
            &json!({"version": id.version, "digest": id.digest, "callers": annex.callers.len()}),
        )
    }
}

/// SHA-256 of a program. Interpreters are refused: a user who may run one may have it do anything.
fn measure(file: &Path) -> Result<Digest<32>, Failure> {
    let io = |source| enclave_client::Error::File {
        file: file.into(),
        source,
    };
    let real = std::fs::canonicalize(file).map_err(io)?;
    if is_interpreter(real.as_os_str().as_encoded_bytes()) {
        return Err(Failure::Usage(format!(
            "{} is an interpreter: its digest says nothing of what it runs. Pin uid, unit, pod, container or a socket of its own \
             instead, or give the agent a key",
            real.display()
        )));
    }
    let mut opened = File::open(&real).map_err(io)?;
    let mut begin = [0; 2];
    if opened.read(&mut begin).map_err(io)? == 2 && begin == *b"#!" {
        return Err(Failure::Usage(format!(
            "{} is a script: what runs is its interpreter, which can run any other. Pin uid, unit, pod, container or a socket of \
             its own instead, or give the agent a key",
            real.display()
        )));
    }
    opened.rewind().map_err(io)?;
    let length = opened.metadata().map_err(io)?.len();
    sha256_of(&mut opened, length)
        .map_err(|why| Failure::Usage(format!("{}: {why}", real.display())))
}
