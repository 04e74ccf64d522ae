//! TLS (RFC 8446, RFC 5246) of agents, which ends here.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;
use upstream::Error;

use crate::setup::Setup;

/// With the certificate of a setup. Nothing of a session is kept.
pub(crate) fn acceptor(setup: &Setup) -> Result<TlsAcceptor, Error> {
    let wrong = |error: rustls::Error| Error::Tls(error.to_string());
    let chain = vec![CertificateDer::from(setup.certificate.clone())];
    let key = PrivatePkcs8KeyDer::from(setup.key.as_ref().to_vec());
    let mut config = ServerConfig::builder_with_provider(Arc::new(egress::provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(wrong)?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from(key))
        .map_err(wrong)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
