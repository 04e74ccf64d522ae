//! The mock as a program of its own: `anchorhold-dev aws`.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use attestation::MockRoot;
use enclave::BootTime;
use futures_util::StreamExt;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::net::TcpListener;

use super::{Clock, DEFAULT_REGION, Fault, MockAws};
use crate::dev_enclave::host_clock;
use crate::{Error, State};

/// What `anchorhold-dev aws` is started with.
#[derive(Debug, Clone, clap::Args)]
pub struct Aws {
    /// The state directory of the mock enclave (as for `up` and `enclave`), whose documents are to
    /// be believed. The mock's own files go into DIR/aws: the certificate to trust
    /// (mock-aws-root.pem), credentials as AWS's tools read them, the keys
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// Where to listen; only on this machine
    #[arg(long, value_name = "127.0.0.1:PORT", default_value = "127.0.0.1:8443", value_parser = local)]
    pub listen: SocketAddr,
    /// The region to play
    #[arg(long, value_name = "REGION", default_value = DEFAULT_REGION)]
    pub region: String,
    /// Make a KMS key with the key policy of this file first, and print its ARN
    #[arg(long, value_name = "FILE")]
    pub new_key: Option<PathBuf>,
    /// Do this wrong in each answer to a request with a document
    #[arg(long, hide = true, value_name = "NAME[:NUMBER]")]
    pub fault: Option<Fault>,
    /// The mock's time at the start, milliseconds since 1970
    #[arg(long, hide = true)]
    pub time_ms: Option<u64>,
    /// End when the parent process ends
    #[arg(long, hide = true)]
    pub with_parent: bool,
}

fn local(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip() == Ipv4Addr::LOCALHOST => Ok(address),
        _ => Err("it must be 127.0.0.1 and a port: nobody else may take this for AWS".into()),
    }
}

impl Aws {
    /// Serves until a signal comes.
    pub async fn run(&self) -> Result<(), Error> {
        let io = |source| Error::Io {
            what: "mock AWS".into(),
            source,
        };
        let nsm_root = self.nsm_root()?;
        let mock = MockAws::open(&self.state.join("aws"), &self.region)?;
        mock.handle().set_fault(self.fault);
        if let Some(file) = &self.new_key {
            let policy = fs::read_to_string(file).map_err(crate::files::io(file))?;
            say(&mock.create_key(&policy)?);
        }
        let mut told = Signals::new([SIGTERM, SIGINT]).map_err(io)?;
        let listener = TcpListener::bind(self.listen).await.map_err(io)?;
        let address = listener.local_addr().map_err(io)?;
        say(&format!("mock AWS listens on {address}"));
        tokio::select! {
            served = Arc::new(mock).serve(listener, nsm_root, self.clock()) => served,
            _ = told.next() => Ok(()),
        }
    }

    /// The root of the state directory, which is made if there is none. What is there stays as it
    /// is: an image's measurements, for example.
    fn nsm_root(&self) -> Result<MockRoot, Error> {
        let mut file = self.state.join("mock-root.pem");
        if !file.exists() {
            file = State::open(&self.state)?.root();
        }
        let pem = fs::read(&file).map_err(crate::files::io(&file))?;
        let named = |error| Error::State(format!("{}: {error}", file.display()));
        MockRoot::from_pem(&pem).map_err(named)
    }

    fn clock(&self) -> Clock {
        let clock = Mutex::new(host_clock(self.time_ms, BootTime));
        Arc::new(move || clock.lock().unwrap_or_else(PoisonError::into_inner)())
    }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
