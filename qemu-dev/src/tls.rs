//! TLS of the mock: an authority of its own, and certificates that may be wrong on purpose.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use der::asn1::{Ia5String, OctetString};
use der::oid::AssociatedOid;
use der::oid::db::rfc5280::ID_KP_SERVER_AUTH;
use der::pem::LineEnding;
use der::{DecodePem, Encode};
use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;
use x509_cert::Certificate as X509;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder, Result as BuildResult};
use x509_cert::certificate::TbsCertificate;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages,
    SubjectAltName, SubjectKeyIdentifier,
};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};
use x509_cert::time::{Time, Validity};

use crate::nsm::os_random;
use crate::{Error, files};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// The authority's own validity, 2020 to 2049: no test's clock is outside of it.
const ROOT_VALIDITY: (u64, u64) = (1_577_836_800, 2_524_607_999);

/// What the server shows; all but the first are for tests of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Certificate {
    /// As it should be.
    #[default]
    Good,
    /// For `other.example`.
    OtherName,
    /// It ended a day ago.
    Expired,
    /// It begins tomorrow.
    NotYetValid,
    /// Of another authority, which has the same name.
    OtherAuthority,
}

/// What certificates call an authority and its servers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    pub(crate) root: &'static str,
    pub(crate) server: &'static str,
}

/// A mock's own certification authority.
pub(crate) struct Authority {
    names: Names,
    key: SigningKey,
    der: Vec<u8>,
}

impl Authority {
    /// Reads `mock-aws-root.pem` and its key; makes them if they are missing.
    pub(crate) fn open(certificate: &Path, names: Names) -> Result<Self, Error> {
        let key = certificate.with_extension("key");
        if !key.exists() {
            let new = Self::new(names);
            let pem = new
                .key
                .to_pkcs8_pem(LineEnding::LF)
                .expect("a P-256 key can be encoded");
            files::write(certificate, new.pem().as_bytes())?;
            files::write(&key, pem.as_bytes())?;
        }
        let not_one =
            |file: &Path| Error::State(format!("{}: not what it should be", file.display()));
        let der = X509::from_pem(files::read(certificate)?).and_then(|read| read.to_der());
        Ok(Self {
            names,
            key: SigningKey::from_pkcs8_pem(&files::read(&key)?).map_err(|_| not_one(&key))?,
            der: der.map_err(|_| not_one(certificate))?,
        })
    }

    /// A new one, kept nowhere.
    pub(crate) fn new(names: Names) -> Self {
        let key = new_key();
        let root = Profile {
            subject: names.root,
            issuer: names.root,
            authority: identifier(&key),
            names: Vec::new(),
        };
        Self {
            names,
            der: issue(root, &key, &key, ROOT_VALIDITY),
            key,
        }
    }

    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    pub(crate) fn pem(&self) -> String {
        crate::authority::pem(&self.der)
    }

    /// What a server with these names needs, valid at `now` (seconds since 1970).
    pub(crate) fn acceptor(
        &self,
        names: &[&str],
        wanted: Certificate,
        now: u64,
    ) -> Result<TlsAcceptor, rustls::Error> {
        let validity = match wanted {
            Certificate::Expired => (now.saturating_sub(2 * DAY), now.saturating_sub(DAY)),
            Certificate::NotYetValid => (now + DAY, now + 2 * DAY),
            _ => (now.saturating_sub(HOUR), now + DAY),
        };
        let names = match wanted {
            Certificate::OtherName => &["other.example"],
            _ => names,
        };
        let other = (wanted == Certificate::OtherAuthority).then(new_key);
        let issuer = other.as_ref().unwrap_or(&self.key);
        let key = new_key();
        let server = Profile {
            subject: self.names.server,
            issuer: self.names.root,
            authority: identifier(issuer),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let certificate = CertificateDer::from(issue(server, &key, issuer, validity));
        let key = key.to_pkcs8_der().expect("a P-256 key can be encoded");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn new_key() -> SigningKey {
    loop {
        let mut bytes = [0; 32];
        os_random(&mut bytes);
        if let Ok(key) = SigningKey::from_slice(&bytes) {
            return key;
        }
    }
}

/// The first 20 bytes of the public key's SHA-256 (RFC 7093).
fn identifier(key: &SigningKey) -> Vec<u8> {
    let point = key.verifying_key().to_sec1_point(false);
    identity::sha256(point.as_bytes()).0[..20].to_vec()
}

fn issue(
    profile: Profile,
    key: &SigningKey,
    issuer: &SigningKey,
    (from, to): (u64, u64),
) -> Vec<u8> {
    let mut serial = [0; 16];
    os_random(&mut serial);
    serial[0] = serial[0] & 0x7f | 0x40;
    let serial = SerialNumber::new(&serial).expect("16 bytes fit into a serial number");
    let public = key.verifying_key().to_public_key_der();
    let public = public.expect("a public key can be encoded");
    let public =
        SubjectPublicKeyInfoOwned::try_from(public.as_bytes()).expect("DER that was just encoded");
    let validity = Validity::new(time(from), time(to));
    CertificateBuilder::new(profile, serial, validity, public)
        .expect("the profile is complete")
        .build::<_, DerSignature>(issuer)
        .expect("P-256 can sign")
        .to_der()
        .expect("a certificate that was built can be encoded")
}

fn name(text: &str) -> Name {
    Name::from_str(text).expect("a plain name")
}

fn time(seconds: u64) -> Time {
    Time::try_from(std::time::UNIX_EPOCH + Duration::from_secs(seconds))
        .expect("a year that X.509 can write")
}

/// What a certificate says; one without names is the authority's own.
struct Profile {
    subject: &'static str,
    issuer: &'static str,
    authority: Vec<u8>,
    names: Vec<String>,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _: &Name) -> Name {
        name(self.issuer)
    }

    fn get_subject(&self) -> Name {
        name(self.subject)
    }

    fn build_extensions(
        &self,
        subject: SubjectPublicKeyInfoRef<'_>,
        _: SubjectPublicKeyInfoRef<'_>,
        _: &TbsCertificate,
    ) -> BuildResult<Vec<Extension>> {
        let ca = self.names.is_empty();
        let usage = if ca {
            KeyUsages::KeyCertSign | KeyUsages::CRLSign
        } else {
            KeyUsages::DigitalSignature.into()
        };
        let own = identity::sha256(subject.subject_public_key.raw_bytes()).0[..20].to_vec();
        let constraints = BasicConstraints {
            ca,
            path_len_constraint: ca.then_some(0),
        };
        let authority = AuthorityKeyIdentifier {
            key_identifier: Some(OctetString::new(self.authority.clone())?),
            ..AuthorityKeyIdentifier::default()
        };
        let mut extensions = vec![
            extension(true, &constraints)?,
            extension(true, &KeyUsage(usage))?,
            extension(false, &SubjectKeyIdentifier(OctetString::new(own)?))?,
            extension(false, &authority)?,
        ];
        if !ca {
            let names = self
                .names
                .iter()
                .map(|name| Ia5String::new(name).map(GeneralName::DnsName));
            let names = SubjectAltName(names.collect::<Result<_, _>>()?);
            extensions.push(extension(false, &names)?);
            extensions.push(extension(
                false,
                &ExtendedKeyUsage(vec![ID_KP_SERVER_AUTH]),
            )?);
        }
        Ok(extensions)
    }
}

fn extension<T: AssociatedOid + Encode>(critical: bool, value: &T) -> BuildResult<Extension> {
    Ok(Extension {
        extn_id: T::OID,
        critical,
        extn_value: OctetString::new(value.to_der()?)?,
    })
}
