//! The authority under which agents meet the ingress process: an X.509 certificate (RFC 5280) that is good for the
//! hosts of the bundle's services and for nothing else, and one for that process. Its key is used here, once in
//! a boot, and held by nobody afterwards.

use identity::{Tee, UnixSeconds, sha256};
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{DerSignature, SigningKey, VerifyingKey};
use p256::pkcs8::{EncodePrivateKey, EncodePublicKey};
use policy::Bundle;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::Error;

/// What the authority's key follows from, where keys are kept.
pub(crate) const CONTEXT: &[u8] = b"anchorhold/ingress-authority/v1";
/// Clocks of agents may be behind so much.
const BEFORE: Duration = Duration::days(1);
/// A later boot issues anew.
const AUTHORITY_FOR: Duration = Duration::days(10 * 365);
/// What clients take from authorities that were added by hand.
const CERTIFICATE_FOR: Duration = Duration::days(800);

/// What anybody may know of an authority.
pub(crate) struct Authority {
    /// DER.
    pub(crate) certificate: Vec<u8>,
    /// Its SubjectPublicKeyInfo, DER.
    pub(crate) spki: Vec<u8>,
}

/// The certificate of the ingress process, and its key.
pub(crate) struct Issued {
    /// DER.
    pub(crate) certificate: Vec<u8>,
    /// PKCS#8, DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
}

/// Makes both, of 32 secret bytes each. `numbers` are random.
pub(crate) fn issue(
    bundle: &Bundle,
    tee: Tee,
    (own, ingress): (&[u8; 32], &[u8; 32]),
    now: UnixSeconds,
    numbers: [[u8; 16]; 2],
) -> Result<(Authority, Issued), Error> {
    let wrong = |_| Error::AuthorityFailed;
    let now = OffsetDateTime::from_unix_timestamp(now.0).map_err(|_| Error::AuthorityFailed)?;
    let (own, ingress) = (Key::new(own)?, Key::new(ingress)?);
    let hosts = hosts(bundle);
    let params = authority(&hosts, tee, &own, now, numbers[0]);
    let authority = params.self_signed(&own).map_err(wrong)?;
    let issuer = Issuer::new(params, own);
    let issued = certificate(&hosts, now, numbers[1])?
        .signed_by(&ingress, &issuer)
        .map_err(wrong)?;
    let key = ingress.secret.as_nonzero_scalar();
    let key = p256::SecretKey::from(key).to_pkcs8_der();
    let key = key.map_err(|_| Error::AuthorityFailed)?;
    Ok((
        Authority {
            certificate: authority.der().to_vec(),
            spki: issuer.key().spki.clone(),
        },
        Issued {
            certificate: issued.der().to_vec(),
            key: Zeroizing::new(key.as_bytes().to_vec()),
        },
    ))
}

fn hosts(bundle: &Bundle) -> Vec<String> {
    let services = bundle.services.iter();
    let mut hosts: Vec<String> = services
        .map(|service| service.upstream.host().to_owned())
        .collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

fn authority(
    hosts: &[String],
    tee: Tee,
    key: &Key,
    now: OffsetDateTime,
    number: [u8; 16],
) -> CertificateParams {
    let mut params = CertificateParams::default();
    let id = sha256(&key.spki).to_string();
    let kind = match tee {
        Tee::Mock => "mock enclave",
        _ => "enclave",
    };
    params.distinguished_name = DistinguishedName::new();
    let name = format!("Anchorhold {kind} {}", &id[..16]);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: hosts.iter().cloned().map(GeneralSubtree::DnsName).collect(),
        // Only names of DNS are constrained by those above (RFC 5280 section 4.2.1.10).
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    (params.not_before, params.not_after) = (now - BEFORE, now + AUTHORITY_FOR);
    params.serial_number = Some(positive(number));
    params.use_authority_key_identifier_extension = true;
    params
}

fn certificate(
    hosts: &[String],
    now: OffsetDateTime,
    number: [u8; 16],
) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    // Its names stand where names of DNS stand; an empty subject makes that critical.
    params.distinguished_name = DistinguishedName::new();
    for host in hosts {
        let name = host
            .clone()
            .try_into()
            .map_err(|_| Error::AuthorityFailed)?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    (params.not_before, params.not_after) = (now - BEFORE, now + CERTIFICATE_FOR);
    params.serial_number = Some(positive(number));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A serial number is positive (RFC 5280 section 4.1.2.2).
fn positive(mut number: [u8; 16]) -> SerialNumber {
    number[0] = number[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&number)
}

/// A P-256 key, for certificates alone.
struct Key {
    secret: SigningKey,
    /// The point, uncompressed.
    point: Vec<u8>,
    spki: Vec<u8>,
}

impl Key {
    fn new(secret: &[u8; 32]) -> Result<Self, Error> {
        // One in 2^32 is not below the order of the curve.
        let secret = SigningKey::from_slice(secret).map_err(|_| Error::AuthorityFailed)?;
        let public: &VerifyingKey = secret.verifying_key();
        let spki = public.to_public_key_der();
        Ok(Self {
            point: public.to_sec1_point(false).as_bytes().to_vec(),
            spki: spki.map_err(|_| Error::AuthorityFailed)?.into_vec(),
            secret,
        })
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: DerSignature = self.secret.sign(message);
        Ok(signature.as_bytes().to_vec())
    }
}
