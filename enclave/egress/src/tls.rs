//! TLS (RFC 8446, RFC 5246), which ends here: whoever lends the line sees nothing of what passes.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{ServerName, UnixTime};

use crate::kms;
use crate::lines::TimedLine;
use crate::wire::{Anchor, Failure, FailureKind, KmsCall};

/// A stream whose other end has shown the certificate that was wanted.
pub(crate) type Stream = StreamOwned<ClientConnection, TimedLine>;

/// The call's time, and no other.
#[derive(Debug)]
struct At(UnixTime);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// The roots that are trusted.
pub(crate) fn roots(anchors: Vec<Anchor>) -> Arc<RootCertStore> {
    Arc::new(RootCertStore::from_iter(
        anchors.into_iter().map(Into::into),
    ))
}

/// Makes ready to meet the host of `call`, at its time. Nothing is sent.
pub(crate) fn prepare(
    roots: &Arc<RootCertStore>,
    call: &KmsCall,
) -> Result<ClientConnection, Failure> {
    let config = config(roots, call.time)?;
    let connection = ClientConnection::new(Arc::new(config), server_name(&call.host)?);
    connection.map_err(|error| Failure::new(FailureKind::Tls, error))
}

/// Shakes hands over `line`.
pub(crate) fn shake(connection: ClientConnection, line: TimedLine) -> Result<Stream, Failure> {
    let mut stream = StreamOwned::new(connection, line);
    while stream.conn.is_handshaking() {
        let shaken = stream.conn.complete_io(&mut stream.sock);
        shaken.map_err(|error| Failure::of_line(&error))?;
    }
    Ok(stream)
}

fn config(roots: &Arc<RootCertStore>, time: i64) -> Result<ClientConfig, Failure> {
    let time = u64::try_from(time).map_err(|_| kms::wrong("the time"))?;
    let time = UnixTime::since_unix_epoch(Duration::from_secs(time));
    let builder = ClientConfig::builder_with_details(Arc::new(provider()), Arc::new(At(time)));
    let builder = builder
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| Failure::new(FailureKind::Tls, error))?;
    let mut config = builder
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// X25519MLKEM768 first, whatever features the rest of the build gives rustls: who records the line
/// today does not read it with a quantum computer.
pub fn provider() -> CryptoProvider {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    CryptoProvider {
        kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1],
        ..aws_lc_rs::default_provider()
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, Failure> {
    match ServerName::try_from(host.to_owned()) {
        Ok(name @ ServerName::DnsName(_)) => Ok(name),
        _ => Err(kms::wrong("the host")),
    }
}
