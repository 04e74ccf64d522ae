//! The roots that a service's certificate may stand under.

use policy::Service;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::Error;

/// DER of the certificates that the bundle names for a service; none where it leaves that to
/// Mozilla's list.
pub fn roots(service: &Service) -> Result<Vec<Vec<u8>>, Error> {
    let wrong = || Error::RootInvalid(service.name.clone());
    let read = |pem: &String| {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| wrong())?;
        webpki::anchor_from_trusted_cert(&der).map_err(|_| wrong())?;
        Ok(der.to_vec())
    };
    service.roots.iter().map(read).collect()
}
