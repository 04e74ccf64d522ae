//! Credentials of others, for the operator.

use std::io::{Read, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;
use zeroize::Zeroizing;

use super::calls::{Connection, answer, in_seconds};
use super::state::{mock_root, read_bundle, read_measurements};
use super::{Failure, block_on, in_path, print_json};
use crate::KeyFile;
use crate::operator::{PutCredential, SetEpochs};

/// Longer ones are no credentials.
const MAX_SECRET: usize = 8 * 1024;

/// Credentials for services, which agents use and never see: put one, list them, forget one
///
/// docs/credentials.md goes through all of it.
#[derive(Debug, Subcommand)]
pub(super) enum Credential {
    /// Look at a running enclave, seal a credential to it, and have it kept. The credential is read from
    /// standard input
    Put(Put),
    /// List the credentials that are kept; none is shown
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Look at a running enclave, and order it to make one more key for credentials: what is put from then
    /// on is sealed under that. Then run `rewrap`, and `retire`
    Rotate(Ordered),
    /// Have what is kept sealed under the enclave's key of now. Can be run again at any time
    Rewrap {
        #[command(flatten)]
        connection: Connection,
    },
    /// Look at a running enclave, and order it to destroy all keys for credentials but the one of now:
    /// copies of what was kept before `rewrap` open no more
    Retire(Ordered),
    /// Forget a credential. Whoever has a copy of what was kept can bring it again: revoke it in the
    /// annex ("credential:IDENTITY/SERVICE"), or at its service, as well
    Remove {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        connection: Connection,
    },
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// The service of the bundle that it is for
    #[arg(long, value_name = "NAME")]
    service: String,
    /// The identity of the bundle that uses it
    #[arg(long, value_name = "NAME")]
    identity: String,
}

/// Who orders, and what the enclave must be.
#[derive(Debug, Args)]
pub(super) struct Desk {
    /// The key that the bundle names as operator_key
    #[arg(long, value_name = "FILE")]
    operator_key: PathBuf,
    /// The bundle that the enclave must have
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// Measurements of the image that the enclave must be
    #[arg(long, value_name = "FILE")]
    measurements: PathBuf,
    /// Root certificate of a mock: the enclave may be a mock of this root
    #[arg(long, value_name = "PEM")]
    mock_root: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Ordered {
    #[command(flatten)]
    desk: Desk,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(super) struct Put {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    desk: Desk,
    /// Above that of every credential before it [default: the time, in milliseconds since 1970]
    #[arg(long = "credential-version", value_name = "N")]
    version: Option<u64>,
    #[command(flatten)]
    connection: Connection,
}

impl Credential {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        match self {
            Self::Put(put) => {
                let secret = read_secret()?;
                print_json(out, &block_on(put.send(&secret))??)
            }
            Self::List { connection } => {
                let call = async {
                    connection
                        .client()?
                        .call("/credentials", None)
                        .await
                        .map_err(Failure::from)
                };
                print_json(out, &answer(&block_on(call)??)?)
            }
            Self::Rotate(order) => print_json(out, &block_on(order.send(true))??),
            Self::Retire(order) => print_json(out, &block_on(order.send(false))??),
            Self::Rewrap { connection } => {
                let call = async {
                    let client = connection.client()?;
                    let done = client.call("/credentials/rewrap", Some(&json!({}))).await;
                    done.map_err(Failure::from)
                };
                print_json(out, &answer(&block_on(call)??)?)
            }
            Self::Remove { which, connection } => {
                let path = which.path()?;
                let call = async {
                    connection
                        .client()?
                        .delete(&path)
                        .await
                        .map_err(Failure::from)
                };
                block_on(call)?
            }
        }
    }
}

impl Which {
    fn path(&self) -> Result<String, Failure> {
        let identity = in_path("--identity", &self.identity)?;
        let service = in_path("--service", &self.service)?;
        Ok(format!("/credentials/{identity}/{service}"))
    }
}

/// Without the end of a line, which people and `echo` put there.
fn read_secret() -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut secret = Zeroizing::new(Vec::with_capacity(MAX_SECRET + 1));
    let read = std::io::stdin()
        .lock()
        .take(MAX_SECRET as u64)
        .read_to_end(&mut secret);
    read?;
    if secret.ends_with(b"\n") {
        secret.pop();
    }
    if secret.ends_with(b"\r") {
        secret.pop();
    }
    Ok(secret)
}

fn milliseconds() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Ordered {
    async fn send(&self, is_rotation: bool) -> Result<serde_json::Value, Failure> {
        let desk = &self.desk;
        let order = SetEpochs {
            key: &KeyFile::read(&desk.operator_key)?,
            bundle: &read_bundle(&desk.bundle)?,
            image: &read_measurements(&desk.measurements)?,
            mock_root: mock_root(desk.mock_root.as_deref())?,
            now: in_seconds(0),
        };
        let client = self.connection.client()?;
        Ok(match is_rotation {
            true => order.rotate(&client).await?,
            false => order.retire(&client).await?,
        })
    }
}

impl Put {
    async fn send(&self, secret: &[u8]) -> Result<serde_json::Value, Failure> {
        let desk = &self.desk;
        let put = PutCredential {
            key: &KeyFile::read(&desk.operator_key)?,
            bundle: &read_bundle(&desk.bundle)?,
            image: &read_measurements(&desk.measurements)?,
            mock_root: mock_root(desk.mock_root.as_deref())?,
            now: in_seconds(0),
            identity: &self.which.identity,
            service: &self.which.service,
            version: self.version.unwrap_or_else(milliseconds),
            secret,
        };
        Ok(put.send(&self.connection.client()?).await?)
    }
}
