//! The certificate of a caller.

use data_encoding::BASE64URL_NOPAD;
use der::Decode;
use identity::sha256;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// What a caller's certificate says, which TLS has checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its first URI, else its first DNS name, else its thumbprint.
    pub name: String,
    /// SHA-256 of it, in base64url (RFC 8705 section 3.1).
    pub thumbprint: String,
}

impl Certificate {
    /// Of one in DER.
    pub fn of(der: &[u8]) -> Self {
        let thumbprint = BASE64URL_NOPAD.encode(sha256(der).as_bytes());
        Self {
            name: name_in(der).unwrap_or_else(|| format!("x5t#S256={thumbprint}")),
            thumbprint,
        }
    }
}

fn name_in(der: &[u8]) -> Option<String> {
    let certificate = x509_cert::Certificate::from_der(der).ok()?;
    let extension = certificate
        .tbs_certificate()
        .get_extension::<SubjectAltName>();
    let (_, names) = extension.ok()??;
    let uri = names.0.iter().find_map(|name| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
        _ => None,
    });
    uri.or_else(|| {
        names.0.iter().find_map(|name| match name {
            GeneralName::DnsName(name) => Some(name.to_string()),
            _ => None,
        })
    })
}
