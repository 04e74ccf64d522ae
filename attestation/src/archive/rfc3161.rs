//! RFC 3161 time-stamps, with the ESSCertIDv2 of RFC 5816.

use std::time::Duration;

use cms::cert::CertificateChoices;
use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerIdentifier, SignerInfo};
use der::asn1::{Any, ObjectIdentifier, OctetString, SetOfVec};
use der::{Decode, DecodeOwned, Encode, Sequence};
use identity::{Digest, UnixSeconds};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use sha2::Digest as _;
use webpki::aws_lc_rs as algorithms;
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::Certificate;
use x509_cert::attr::Attribute;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectKeyIdentifier};
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::{Anchored, TimeAnchor};
use crate::Error;

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const SIGNING_CERTIFICATE_V2: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
const TIME_STAMPING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");
/// The same as the bytes that webpki wants.
const TIME_STAMPING_BYTES: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 8];
/// Longer ones are not looked at: 64 KiB.
const MAX_BYTES: usize = 64 * 1024;

/// A time-stamp and the roots that its authority may chain to; nothing of it is verified yet.
#[derive(Debug, Clone)]
pub struct TimeStamp {
    token: Vec<u8>,
    roots: Vec<CertificateDer<'static>>,
}

/// TimeStampResp (RFC 3161 section 2.4.2).
#[derive(Sequence)]
struct Response {
    status: Status,
    #[asn1(optional = "true")]
    token: Option<ContentInfo>,
}

#[derive(Sequence)]
struct Status {
    status: u32,
    #[asn1(optional = "true")]
    text: Option<Vec<String>>,
    #[asn1(optional = "true")]
    failure: Option<der::asn1::BitString>,
}

/// TSTInfo (RFC 3161 section 2.4.2), as far as it is looked at; `genTime` may have a fraction,
/// which the library does not read.
struct Info {
    imprint: Imprint,
    /// Seconds since 1970, and whether there is a fraction.
    time: (i64, bool),
    accuracy: Option<Accuracy>,
}

#[derive(Sequence)]
struct Imprint {
    algorithm: AlgorithmIdentifierOwned,
    digest: OctetString,
}

#[derive(Sequence)]
struct Accuracy {
    #[asn1(optional = "true")]
    seconds: Option<u64>,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true")]
    millis: Option<u16>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    micros: Option<u16>,
}

/// SigningCertificateV2 (RFC 5035 section 3), its first certificate.
#[derive(Sequence)]
struct SigningCertificate {
    certificates: Vec<EssCertificate>,
    #[asn1(optional = "true")]
    policies: Option<Any>,
}

#[derive(Sequence)]
struct EssCertificate {
    #[asn1(optional = "true")]
    algorithm: Option<AlgorithmIdentifierOwned>,
    digest: OctetString,
    #[asn1(optional = "true")]
    issuer_serial: Option<Any>,
}

impl TimeStamp {
    /// Takes a TimeStampResp or a TimeStampToken in DER, and the roots in PEM, one or more in each.
    pub fn new(der: &[u8], roots: &[impl AsRef<[u8]>]) -> Result<Self, Error> {
        if der.len() > MAX_BYTES {
            return Err(Error::TimestampMalformed("longer than 64 KiB"));
        }
        let mut certificates = Vec::new();
        for pem in roots {
            for certificate in CertificateDer::pem_slice_iter(pem.as_ref()) {
                certificates.push(
                    certificate.map_err(|_| {
                        Error::TimestampUntrusted("a root is no certificate in PEM")
                    })?,
                );
            }
        }
        if certificates.is_empty() {
            return Err(Error::TimestampUntrusted("no root was given"));
        }
        let token = match Response::from_der(der) {
            Ok(Response {
                status: Status { status: 0 | 1, .. },
                token: Some(token),
            }) => token,
            Ok(_) => {
                return Err(Error::TimestampMalformed(
                    "the authority refused to make one",
                ));
            }
            Err(_) => ContentInfo::from_der(der)
                .map_err(|_| Error::TimestampMalformed("neither response nor token in DER"))?,
        };
        let token = token
            .to_der()
            .map_err(|_| Error::TimestampMalformed("not DER"))?;
        Ok(Self {
            token,
            roots: certificates,
        })
    }
}

impl TimeAnchor for TimeStamp {
    fn kind(&self) -> &'static str {
        "rfc3161"
    }

    fn prove(&self, digest: &Digest<32>) -> Result<Anchored, Error> {
        let malformed = Error::TimestampMalformed;
        let content = ContentInfo::from_der(&self.token).map_err(|_| malformed("not CMS"))?;
        if content.content_type != SIGNED_DATA {
            return Err(malformed("not signed data"));
        }
        let signed: SignedData = content
            .content
            .decode_as()
            .map_err(|_| malformed("not signed data"))?;
        let inner = &signed.encap_content_info;
        let bytes = inner
            .econtent
            .as_ref()
            .and_then(|content| content.decode_as::<OctetString>().ok());
        let (TST_INFO, Some(bytes)) = (inner.econtent_type, bytes) else {
            return Err(malformed("it holds no TSTInfo"));
        };
        let [signer] = signed.signer_infos.0.as_slice() else {
            return Err(malformed("not exactly one signer"));
        };
        let info = Info::parse(bytes.as_bytes())?;
        if info.imprint.algorithm.oid != SHA256
            || info.imprint.digest.as_bytes() != digest.as_bytes()
        {
            return Err(Error::TimestampImprint);
        }
        let certificates = certificates(&signed)?;
        let certificate = find_signer(signer, &certificates)?;
        verify_signer(signer, certificate, bytes.as_bytes())?;
        self.verify_authority(certificate, &certificates, info.time.0)?;
        Ok(Anchored {
            time: info.latest(),
            witness: certificate.tbs_certificate().subject().to_string(),
        })
    }
}

impl TimeStamp {
    /// The authority chains to a root and may make time-stamps and nothing else (RFC 3161 section
    /// 2.3), at the time it names.
    fn verify_authority(
        &self,
        signer: &Certificate,
        all: &[Certificate],
        at: i64,
    ) -> Result<(), Error> {
        let untrusted = Error::TimestampUntrusted;
        match signer.tbs_certificate().get_extension::<ExtendedKeyUsage>() {
            Ok(Some((true, ExtendedKeyUsage(usages)))) if usages == [TIME_STAMPING] => {}
            _ => return Err(untrusted("its key is not for time-stamping alone")),
        }
        let der = |certificate: &Certificate| {
            certificate
                .to_der()
                .map(CertificateDer::from)
                .map_err(|_| untrusted("not X.509"))
        };
        let intermediates = all.iter().map(der).collect::<Result<Vec<_>, _>>()?;
        let anchors: Result<Vec<_>, _> = self.roots.iter().map(anchor_from_trusted_cert).collect();
        let anchors = anchors.map_err(|_| untrusted("a root is no trust anchor"))?;
        let leaf = der(signer)?;
        let leaf = EndEntityCert::try_from(&leaf)
            .map_err(|_| untrusted("not an end-entity certificate"))?;
        let at = u64::try_from(at).map_err(|_| untrusted("a time before 1970"))?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        let usage = KeyUsage::required(TIME_STAMPING_BYTES);
        leaf.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &anchors,
            &intermediates,
            at,
            usage,
            None,
            None,
        )
        .map(|_| ())
        .map_err(|_| untrusted("no valid path to a root that was given"))
    }
}

fn certificates(signed: &SignedData) -> Result<Vec<Certificate>, Error> {
    let set = signed
        .certificates
        .as_ref()
        .ok_or(Error::TimestampMalformed("it brings no certificate"))?;
    let certificate = |choice: &CertificateChoices| match choice {
        CertificateChoices::Certificate(certificate) => Some(certificate.clone()),
        CertificateChoices::Other(_) => None,
    };
    Ok(set.0.iter().filter_map(certificate).collect())
}

fn find_signer<'c>(
    signer: &SignerInfo,
    certificates: &'c [Certificate],
) -> Result<&'c Certificate, Error> {
    let is_it = |certificate: &&Certificate| {
        let tbs = certificate.tbs_certificate();
        match &signer.sid {
            SignerIdentifier::IssuerAndSerialNumber(id) => {
                id.issuer == *tbs.issuer() && id.serial_number == *tbs.serial_number()
            }
            SignerIdentifier::SubjectKeyIdentifier(id) => tbs
                .get_extension::<SubjectKeyIdentifier>()
                .ok()
                .flatten()
                .is_some_and(|(_, own)| own == *id),
        }
    };
    certificates
        .iter()
        .find(is_it)
        .ok_or(Error::TimestampMalformed(
            "it does not bring its signer's certificate",
        ))
}

/// The signed attributes hold the content's digest, its type and the signer's certificate, and the
/// signer signed them (RFC 5652 section 5.4, RFC 5816 section 2.2).
fn verify_signer(
    signer: &SignerInfo,
    certificate: &Certificate,
    content: &[u8],
) -> Result<(), Error> {
    let wrong = Error::TimestampSignature;
    let attributes = signer
        .signed_attrs
        .as_ref()
        .ok_or(wrong("no signed attributes"))?;
    let digest = hash(&signer.digest_alg, content)?;
    let stated: OctetString = single(attributes, MESSAGE_DIGEST)?;
    let content_type: ObjectIdentifier = single(attributes, CONTENT_TYPE)?;
    if stated.as_bytes() != digest || content_type != TST_INFO {
        return Err(wrong("the signed attributes are for other content"));
    }
    let der = certificate.to_der().map_err(|_| wrong("not X.509"))?;
    check_names_certificate(attributes, &der)?;
    let signed = attributes.to_der().map_err(|_| wrong("not DER"))?;
    let der = CertificateDer::from(der);
    let leaf = EndEntityCert::try_from(&der).map_err(|_| wrong("not an end-entity certificate"))?;
    let candidates: [&dyn SignatureVerificationAlgorithm; 3] = match signer.digest_alg.oid {
        SHA256 => [
            algorithms::RSA_PKCS1_2048_8192_SHA256,
            algorithms::ECDSA_P256_SHA256,
            algorithms::ECDSA_P384_SHA256,
        ],
        SHA384 => [
            algorithms::RSA_PKCS1_2048_8192_SHA384,
            algorithms::ECDSA_P256_SHA384,
            algorithms::ECDSA_P384_SHA384,
        ],
        _ => [
            algorithms::RSA_PKCS1_2048_8192_SHA512,
            algorithms::ECDSA_P256_SHA512,
            algorithms::ECDSA_P384_SHA512,
        ],
    };
    let signature = signer.signature.as_bytes();
    if candidates.iter().any(|algorithm| {
        leaf.verify_signature(*algorithm, &signed, signature)
            .is_ok()
    }) {
        Ok(())
    } else {
        Err(wrong("it is not its signer's"))
    }
}

fn check_names_certificate(attributes: &SetOfVec<Attribute>, der: &[u8]) -> Result<(), Error> {
    let wrong = Error::TimestampSignature;
    let signing: SigningCertificate = single(attributes, SIGNING_CERTIFICATE_V2)?;
    let first = signing
        .certificates
        .first()
        .ok_or(wrong("it names no certificate"))?;
    let digest = match &first.algorithm {
        None => sha2::Sha256::digest(der).to_vec(),
        Some(algorithm) => hash(algorithm, der)?,
    };
    if digest == first.digest.as_bytes() {
        Ok(())
    } else {
        Err(wrong(
            "it names another certificate than that of its signer",
        ))
    }
}

fn hash(algorithm: &AlgorithmIdentifierOwned, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    match algorithm.oid {
        SHA256 => Ok(sha2::Sha256::digest(bytes).to_vec()),
        SHA384 => Ok(sha2::Sha384::digest(bytes).to_vec()),
        SHA512 => Ok(sha2::Sha512::digest(bytes).to_vec()),
        _ => Err(Error::TimestampSignature(
            "a digest other than SHA-256, SHA-384 and SHA-512",
        )),
    }
}

/// The one value of the one attribute of this type.
fn single<T: DecodeOwned>(
    attributes: &SetOfVec<Attribute>,
    oid: ObjectIdentifier,
) -> Result<T, Error> {
    let missing =
        || Error::TimestampSignature("a signed attribute is missing, or not as it must be");
    let mut found = attributes.iter().filter(|attribute| attribute.oid == oid);
    let (Some(attribute), None) = (found.next(), found.next()) else {
        return Err(missing());
    };
    let [value] = attribute.values.as_slice() else {
        return Err(missing());
    };
    value
        .to_der()
        .ok()
        .and_then(|value| T::from_der(&value).ok())
        .ok_or_else(missing)
}

/// The tag of a SEQUENCE. Of what may follow the time, only the accuracy is one.
const SEQUENCE: u8 = 0x30;

impl Info {
    fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let malformed = || Error::TimestampMalformed("TSTInfo");
        let parts = super::parts(bytes).map_err(|_| malformed())?;
        let [version, _policy, imprint, _serial, time, rest @ ..] = parts.as_slice() else {
            return Err(malformed());
        };
        if *version != [0x02, 0x01, 0x01] {
            return Err(Error::TimestampMalformed("a version other than 1"));
        }
        let imprint = Imprint::from_der(imprint).map_err(|_| malformed())?;
        let time = parse_time(time).ok_or_else(malformed)?;
        let accuracy = rest.first().filter(|next| next.first() == Some(&SEQUENCE));
        let accuracy = accuracy
            .map(|next| Accuracy::from_der(next))
            .transpose()
            .map_err(|_| malformed())?;
        Ok(Self {
            imprint,
            time,
            accuracy,
        })
    }

    fn latest(&self) -> UnixSeconds {
        let part = |part: Option<u16>| i64::from(part.is_some_and(|part| part > 0));
        let accuracy = self.accuracy.as_ref().map_or(0, |accuracy| {
            let seconds = i64::try_from(accuracy.seconds.unwrap_or_default()).unwrap_or(i64::MAX);
            seconds.saturating_add(part(accuracy.millis).max(part(accuracy.micros)))
        });
        UnixSeconds(
            self.time
                .0
                .saturating_add(i64::from(self.time.1))
                .saturating_add(accuracy),
        )
    }
}

/// GeneralizedTime `YYYYMMDDhhmmss[.f]Z` (RFC 3161 section 2.4.2): whole seconds, and whether a
/// fraction follows.
fn parse_time(der: &[u8]) -> Option<(i64, bool)> {
    let [0x18, length, text @ ..] = der else {
        return None;
    };
    let text = std::str::from_utf8(text)
        .ok()
        .filter(|text| text.len() == usize::from(*length))?
        .strip_suffix('Z')?;
    let (whole, fraction) = text
        .split_once('.')
        .map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() != 14
        || !digits(whole)
        || fraction.is_some_and(|fraction| !digits(fraction) || fraction.ends_with('0'))
    {
        return None;
    }
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        &whole[..4],
        &whole[4..6],
        &whole[6..8],
        &whole[8..10],
        &whole[10..12],
        &whole[12..]
    );
    identity::parse_rfc3339(&text)
        .ok()
        .map(|time| (time.0, fraction.is_some()))
}
