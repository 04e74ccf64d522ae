//! TLS (RFC 8446, RFC 5246) to the service, which ends here. The certificate must stand under the
//! roots, have the name, be valid at the enclave's time and, where there are pins, one of their keys
//! must be in the path that was verified.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::Error;
use crate::wire::Setup;

/// The enclave's time: what the last call brought, and what has passed since.
#[derive(Debug)]
pub(crate) struct Clock {
    seconds: AtomicI64,
    since: Mutex<Instant>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            seconds: AtomicI64::new(0),
            since: Mutex::new(Instant::now()),
        }
    }

    /// It is so late now.
    pub(crate) fn set(&self, seconds: i64) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        self.seconds.store(seconds, Ordering::Release);
        *since = Instant::now();
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = u64::try_from(self.seconds.load(Ordering::Acquire)).ok()?;
        let now = Duration::from_secs(seconds) + since.elapsed();
        Some(UnixTime::since_unix_epoch(now))
    }
}

/// Whom the service must be.
#[derive(Debug)]
struct Verifier {
    roots: Vec<TrustAnchor<'static>>,
    pins: Vec<[u8; 32]>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// None of the pinned keys is in the path.
#[derive(Debug, thiserror::Error)]
#[error("none of the pinned keys is in the certificate's path")]
struct NotPinned;

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = EndEntityCert::try_from(end_entity).map_err(invalid)?;
        let usage = KeyUsage::server_auth();
        let path = certificate
            .verify_for_usage(
                self.algorithms.all,
                &self.roots,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map_err(invalid)?;
        certificate
            .verify_is_valid_for_subject_name(server_name)
            .map_err(invalid)?;
        let mut keys = vec![digest(&certificate.subject_public_key_info())];
        keys.extend(
            path.intermediate_certificates()
                .map(|certificate| digest(&certificate.subject_public_key_info())),
        );
        // An anchor is known without the outer SEQUENCE.
        keys.push(digest(&sequence(&path.anchor().subject_public_key_info)));
        if !self.pins.is_empty() && !keys.iter().any(|key| self.pins.contains(key)) {
            return Err(invalid(NotPinned));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// How to meet the service, and by which name.
pub(crate) fn config(
    setup: &Setup,
    clock: Arc<Clock>,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), Error> {
    config_for(&setup.host, setup, pins(setup)?, clock)
}

/// How to meet another host under the service's roots: pins are not for it.
pub(crate) fn config_of_other(
    host: &str,
    setup: &Setup,
    clock: Arc<Clock>,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), Error> {
    config_for(host, setup, Vec::new(), clock)
}

fn config_for(
    host: &str,
    setup: &Setup,
    pins: Vec<[u8; 32]>,
    clock: Arc<Clock>,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), Error> {
    let wrong = |error: &dyn std::fmt::Display| Error::Tls(error.to_string());
    let name = match ServerName::try_from(host.to_owned()) {
        Ok(name @ ServerName::DnsName(_)) => name,
        _ => return Err(wrong(&"the host is no name")),
    };
    let provider: CryptoProvider = egress::provider();
    let verifier = Verifier {
        roots: roots(setup)?,
        pins,
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_details(Arc::new(provider), clock)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| wrong(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(config), name))
}

fn roots(setup: &Setup) -> Result<Vec<TrustAnchor<'static>>, Error> {
    if setup.roots.is_empty() {
        return Ok(webpki_roots::TLS_SERVER_ROOTS.to_vec());
    }
    let anchor = |der: &minicbor::bytes::ByteVec| {
        let certificate = CertificateDer::from(der.to_vec());
        anchor_from_trusted_cert(&certificate)
            .map(|anchor| anchor.to_owned())
            .map_err(|error| Error::Tls(error.to_string()))
    };
    setup.roots.iter().map(anchor).collect()
}

fn pins(setup: &Setup) -> Result<Vec<[u8; 32]>, Error> {
    let pin = |pin: &minicbor::bytes::ByteVec| <[u8; 32]>::try_from(pin.as_slice());
    let pins = setup.pins.iter().map(pin).collect::<Result<_, _>>();
    pins.map_err(|_| Error::Tls("a pin of another length".into()))
}

/// SHA-256 of the key that a certificate is for; none if it is no certificate.
pub(crate) fn key_of(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    Some(digest(&certificate.subject_public_key_info()))
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Of DER: these bytes as the content of a SEQUENCE.
fn sequence(content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head: Vec<u8> = match length {
        0..0x80 => vec![0x30, u8::try_from(length).unwrap_or_default()],
        0x80..0x100 => vec![0x30, 0x81, u8::try_from(length).unwrap_or_default()],
        _ => {
            let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
            vec![0x30, 0x82, high, low]
        }
    };
    [&head, content].concat()
}
