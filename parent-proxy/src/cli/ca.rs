//! The certificate authority of an enclave, for those whose agents come to services as to a proxy.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::calls::{Connection, in_seconds};
use super::state::{mock_root, read_bundle, read_measurements};
use super::{Failure, block_on};
use crate::Client;
use crate::operator::FetchAuthority;

/// Print the certificate authority under which agents find services through HTTPS_PROXY, once a running enclave
/// has attested it. It is good for the hosts of the bundle's services and for nothing else
#[derive(Debug, Args)]
pub(super) struct Ca {
    #[command(flatten)]
    attested: Attested,
    #[command(flatten)]
    connection: Connection,
}

/// What must attest an authority.
#[derive(Debug, Args)]
pub(super) struct Attested {
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

/// The same, for those who may do without.
#[derive(Debug, Args)]
pub(super) struct MaybeAttested {
    /// The bundle that the enclave must have: its certificate authority is believed only if it is attested
    #[arg(long, value_name = "FILE", requires = "measurements")]
    bundle: Option<PathBuf>,
    /// Measurements of the image that the enclave must be
    #[arg(long, value_name = "FILE", requires = "bundle")]
    measurements: Option<PathBuf>,
    /// Root certificate of a mock: the enclave may be a mock of this root
    #[arg(long, value_name = "PEM", requires = "bundle")]
    mock_root: Option<PathBuf>,
}

impl MaybeAttested {
    /// What must attest it, if anything must.
    pub(super) fn wanted(self) -> Option<Attested> {
        Some(Attested {
            bundle: self.bundle?,
            measurements: self.measurements?,
            mock_root: self.mock_root,
        })
    }
}

impl Attested {
    /// The authority, PEM, once it is attested.
    pub(super) async fn fetch(&self, client: &Client) -> Result<String, Failure> {
        let fetch = FetchAuthority {
            bundle: &read_bundle(&self.bundle)?,
            image: &read_measurements(&self.measurements)?,
            mock_root: mock_root(self.mock_root.as_deref())?,
            now: in_seconds(0),
        };
        Ok(fetch.send(client).await?)
    }
}

impl Ca {
    pub(super) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let certificate = block_on(async {
            let client = self.connection.client()?;
            self.attested.fetch(&client).await
        })??;
        Ok(out.write_all(certificate.as_bytes())?)
    }
}
