//! TLS for callers.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::reloaded::Reloaded;

/// The certificate of the gateway, its key, and who certifies callers, from files that are read again.
pub type Tls = Reloaded<ServerConfig>;

/// Of files in PEM. With authorities, callers may show a certificate of theirs; one of somebody else's
/// ends the handshake. The error says what is wrong.
pub fn open(certificate: &Path, key: &Path, authorities: Option<&Path>) -> Result<Tls, String> {
    let files: Vec<&Path> = [certificate, key].into_iter().chain(authorities).collect();
    let (certificate, key) = (certificate.to_owned(), key.to_owned());
    let authorities = authorities.map(Path::to_owned);
    Reloaded::new(&files, move || {
        read(&certificate, &key, authorities.as_deref())
    })
}

fn read(
    certificate: &Path,
    key: &Path,
    authorities: Option<&Path>,
) -> Result<ServerConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = certificates(certificate)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| said(key, &error))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match authorities {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(file)? {
                roots.add(authority).map_err(|error| said(file, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| said(file, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, secret)
        .map_err(|error| said(certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).map_err(|error| said(file, &error))?;
    let all: Result<Vec<_>, _> = read.collect();
    let all = all.map_err(|error| said(file, &error))?;
    match all.is_empty() {
        true => Err(said(file, &"there is no certificate in it")),
        false => Ok(all),
    }
}

fn said(file: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", file.display())
}
