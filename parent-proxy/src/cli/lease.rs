//! Leases, for whoever holds the lease key.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use broker::Lease as Signed;
use clap::Args;
use data_encoding::BASE64URL_NOPAD;
use enclave_client::files::read_bounded;
use identity::{BootId, Digest, UnixSeconds, sha256};
use policy::Annex;
use serde_json::{Value, json};

use super::calls::{Connection, answer, in_seconds};
use super::{Failure, block_on, print_json};
use crate::KeyFile;

/// Let credentials be used for a while longer, where the bundle has [lease]: sign a lease for the running enclave,
/// and bring it
///
/// A lease names the annex that must be in force there, so a host that withholds one has no lease; and it can
/// revoke at once what the next annex will.
#[derive(Debug, Args)]
pub(super) struct Lease {
    /// The key that the bundle names in [lease]
    #[arg(long, value_name = "FILE")]
    lease_key: PathBuf,
    /// The annex that must be in force, as the operator has signed it; left out: none may be
    #[arg(long, value_name = "FILE")]
    annex: Option<PathBuf>,
    /// For how long, in seconds: at most what the bundle says
    #[arg(long, value_name = "N", default_value_t = 300)]
    seconds: i64,
    /// What is not to be used any more: agent:NAME, credential:IDENTITY/SERVICE, or the latter with @VERSION.
    /// Repeatable
    #[arg(long, value_name = "ENTRY")]
    revoke: Vec<String>,
    /// Go on: bring another one whenever half of the time is over, until this is ended
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Lease {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        loop {
            let brought = block_on(self.bring())?;
            if !self.keep {
                return print_json(out, &brought?);
            }
            let half = u64::try_from(self.seconds / 2).unwrap_or(1).max(1);
            let wait = match brought {
                Ok(_) => half,
                Err(failure) => {
                    failure.exit();
                    half.min(5)
                }
            };
            std::thread::sleep(Duration::from_secs(wait));
        }
    }

    async fn bring(&self) -> Result<Value, Failure> {
        let client = self.connection.client()?;
        let status = answer(&client.call("/status", None).await?)?;
        let boot_id = BootId::from_hex(status["enclave"]["boot_id"].as_str().unwrap_or_default());
        let boot_id = boot_id.map_err(|_| Failure::Refused("the sidecar names no boot".into()))?;
        // By the file here, and not by what the sidecar says.
        let annex = self
            .annex
            .as_ref()
            .map(|file| digest_of(file))
            .transpose()?;
        let not_after = UnixSeconds(in_seconds(self.seconds));
        let key = KeyFile::read(&self.lease_key)?;
        let signed = Signed::sign(boot_id, annex, not_after, self.revoke.clone(), &key)
            .map_err(|error| Failure::Usage(error.to_string()))?;
        let body = json!({"lease": BASE64URL_NOPAD.encode(&signed)});
        answer(&client.call("/credentials/lease", Some(&body)).await?)
    }
}

fn digest_of(file: &std::path::Path) -> Result<Digest<32>, Failure> {
    let signed = read_bounded(file)?;
    let canonical = Annex::unverified_canonical(&signed);
    let canonical =
        canonical.map_err(|_| Failure::Usage(format!("{}: no signed annex", file.display())))?;
    Ok(sha256(canonical))
}
