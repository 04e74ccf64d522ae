//! From the pinned root to the leaf that signed, at a time that the caller gives.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use der::asn1::ObjectIdentifier;
use der::{Decode, Encode};
use identity::UnixSeconds;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, KeyUsage as ExtendedUsage, anchor_from_trusted_cert};
use x509_cert::Certificate;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

use crate::Error;

/// The NSM issues its leaf without backdating, so a verifier whose clock is a little behind gets these seconds.
pub const SKEW_SECONDS: i64 = 5;

/// DER of the AWS Nitro Enclaves root G1, published by AWS; its SHA-256 is
/// `641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b`.
static AWS_ROOT_G1: &[u8] = include_bytes!("aws-nitro-root-g1.der");

const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// DER of the one root that genuine documents chain to.
pub fn aws_root_g1() -> &'static [u8] {
    AWS_ROOT_G1
}

/// The root of a mock NSM. What chains to it proves nothing but that the mock made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MockRoot(Vec<u8>);

impl MockRoot {
    /// Takes a root certificate in DER; AWS's own is refused.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        if der == AWS_ROOT_G1 {
            return Err(Error::RootNotMock);
        }
        parse(0, der)?;
        Ok(Self(der.to_vec()))
    }

    /// Takes a root certificate in PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let der = CertificateDer::from_pem_slice(pem).map_err(|_| invalid(0, "not a certificate in PEM"))?;
        Self::from_der(&der)
    }

    /// The certificate in DER.
    pub fn as_der(&self) -> &[u8] {
        &self.0
    }
}

/// The leaf of a verified chain.
pub(crate) struct Leaf {
    point: Vec<u8>,
    not_before: i64,
    not_after: i64,
}

impl Leaf {
    /// Verifies an ES384 signature, 96 bytes `r || s`. Both of the two equivalent values of `s` are good ECDSA.
    pub(crate) fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<(), Error> {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &self.point)
            .verify(signed, signature)
            .map_err(|_| Error::DocumentSignatureInvalid)
    }

    pub(crate) fn valid_at(&self, seconds: i64) -> bool {
        (self.not_before - SKEW_SECONDS..=self.not_after).contains(&seconds)
    }
}

/// Verifies root -> intermediates -> leaf. `chain[0]` must be `root`, byte for byte.
pub(crate) fn verify(chain: &[&[u8]], root: &[u8], at: UnixSeconds) -> Result<Leaf, Error> {
    let [first, .., last] = chain else {
        return Err(Error::ChainBroken("fewer than two certificates"));
    };
    if *first != root {
        return Err(Error::RootUntrusted);
    }
    let certificates = chain.iter().enumerate().map(|(index, der)| parse(index, der)).collect::<Result<Vec<_>, _>>()?;
    let leaf_index = certificates.len() - 1;
    for (index, certificate) in certificates.iter().enumerate() {
        check_profile(index, certificate)?;
        check_validity(index, certificate, at)?;
        if index == leaf_index {
            check_leaf(index, certificate)?;
        } else {
            check_ca(index, certificate, leaf_index - index - 1)?;
        }
    }
    // One name, one certificate: else webpki would try every order of certificates that share a name.
    let subject = |index: usize| certificates[index].tbs_certificate().subject();
    if (1..certificates.len()).any(|index| (0..index).any(|before| subject(before) == subject(index))) {
        return Err(Error::ChainBroken("two certificates have one subject"));
    }
    for pair in certificates.windows(2) {
        if pair[1].tbs_certificate().issuer() != pair[0].tbs_certificate().subject() {
            return Err(Error::ChainBroken("a certificate names another issuer than the one before it"));
        }
    }
    let (not_before, not_after) = validity(&certificates[leaf_index]);
    check_signatures(chain, last, at.0.max(not_before))?;
    let key = certificates[leaf_index].tbs_certificate().subject_public_key_info();
    let point = key.subject_public_key.raw_bytes().to_vec();
    Ok(Leaf { point, not_before, not_after })
}

/// webpki verifies signatures, path lengths, name constraints and critical extensions. It may look for a path of its own,
/// so the path that it found must be the one given, in its order and whole.
fn check_signatures(chain: &[&[u8]], leaf: &[u8], at: i64) -> Result<(), Error> {
    let anchor = CertificateDer::from(chain[0]);
    let anchors = [anchor_from_trusted_cert(&anchor).map_err(|_| invalid(0, "not usable as a trust anchor"))?];
    let intermediates: Vec<CertificateDer<'_>> = chain[1..chain.len() - 1].iter().map(|der| CertificateDer::from(*der)).collect();
    let leaf = CertificateDer::from(leaf);
    let leaf = EndEntityCert::try_from(&leaf).map_err(|error| broken(&error))?;
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.unsigned_abs()));
    let algorithms: [&dyn SignatureVerificationAlgorithm; 1] = [webpki::aws_lc_rs::ECDSA_P384_SHA384];
    let path = leaf
        .verify_for_usage(&algorithms, &anchors, &intermediates, at, ExtendedUsage::server_auth(), None, None)
        .map_err(|error| broken(&error))?;
    let used = path.intermediate_certificates().map(|certificate| certificate.der());
    if !used.eq(intermediates.iter().rev().cloned()) {
        return Err(Error::ChainBroken("certificates that the path does not need, or in another order"));
    }
    Ok(())
}

fn broken(error: &webpki::Error) -> Error {
    Error::ChainBroken(match error {
        webpki::Error::UnsupportedCriticalExtension => "an unknown critical extension",
        webpki::Error::PathLenConstraintViolated => "a path length is exceeded",
        webpki::Error::InvalidSignatureForPublicKey => "a certificate's signature does not verify",
        _ => "no valid path from the leaf to the root",
    })
}

fn parse(index: usize, der: &[u8]) -> Result<Certificate, Error> {
    let certificate = Certificate::from_der(der).map_err(|_| invalid(index, "not X.509 in DER"))?;
    if certificate.to_der().ok().as_deref() != Some(der) {
        return Err(invalid(index, "not X.509 in DER"));
    }
    Ok(certificate)
}

/// X.509 v3, a P-384 key, signed with ECDSA and SHA-384.
fn check_profile(index: usize, certificate: &Certificate) -> Result<(), Error> {
    let tbs = certificate.tbs_certificate();
    if tbs.version() != x509_cert::certificate::Version::V3 {
        return Err(invalid(index, "not version 3"));
    }
    if certificate.signature_algorithm().oid != ECDSA_SHA384 || tbs.signature().oid != ECDSA_SHA384 {
        return Err(invalid(index, "not signed with ECDSA and SHA-384"));
    }
    let key = &tbs.subject_public_key_info().algorithm;
    let curve = key.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
    if key.oid != EC_PUBLIC_KEY || curve != Some(P384) {
        return Err(invalid(index, "not a P-384 key"));
    }
    Ok(())
}

fn check_validity(index: usize, certificate: &Certificate, at: UnixSeconds) -> Result<(), Error> {
    let (not_before, not_after) = validity(certificate);
    if at.0 < not_before - SKEW_SECONDS {
        return Err(Error::CertificateNotYetValid { index });
    }
    if at.0 > not_after {
        return Err(Error::CertificateExpired { index });
    }
    Ok(())
}

fn validity(certificate: &Certificate) -> (i64, i64) {
    let validity = certificate.tbs_certificate().validity();
    let seconds = |time: x509_cert::time::Time| i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
    (seconds(validity.not_before), seconds(validity.not_after))
}

fn check_ca(index: usize, certificate: &Certificate, intermediates_below: usize) -> Result<(), Error> {
    let tbs = certificate.tbs_certificate();
    let Ok(Some((critical, constraints))) = tbs.get_extension::<BasicConstraints>() else {
        return Err(invalid(index, "no basic constraints"));
    };
    if !critical || !constraints.ca {
        return Err(invalid(index, "not marked as a CA"));
    }
    if constraints.path_len_constraint.is_some_and(|limit| usize::from(limit) < intermediates_below) {
        return Err(Error::ChainBroken("a path length is exceeded"));
    }
    match tbs.get_extension::<KeyUsage>() {
        Ok(Some((_, usage))) if usage.key_cert_sign() => Ok(()),
        _ => Err(invalid(index, "its key may not sign certificates")),
    }
}

fn check_leaf(index: usize, certificate: &Certificate) -> Result<(), Error> {
    let tbs = certificate.tbs_certificate();
    match tbs.get_extension::<BasicConstraints>() {
        Ok(None) => {}
        Ok(Some((_, constraints))) if !constraints.ca => {}
        _ => return Err(invalid(index, "the leaf is a CA")),
    }
    match tbs.get_extension::<KeyUsage>() {
        Ok(Some((_, usage))) if usage.digital_signature() => Ok(()),
        _ => Err(invalid(index, "the leaf's key may not make signatures")),
    }
}

fn invalid(index: usize, why: &'static str) -> Error {
    Error::CertificateInvalid { index, why }
}

/// Project Wycheproof's P-384 cases, every one, against the two functions that documents and chains are verified with.
#[cfg(test)]
mod tests {
    use wycheproof::TestResult;
    use wycheproof::ecdsa::{TestName, TestSet};

    use super::*;

    fn run(name: TestName, verify: impl Fn(&[u8], &[u8], &[u8]) -> bool) -> (usize, usize) {
        let (mut valid, mut invalid) = (0, 0);
        for group in TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                let good = verify(&group.key.key, &test.msg, &test.sig);
                match test.result {
                    TestResult::Valid => valid += 1,
                    TestResult::Invalid => invalid += 1,
                    TestResult::Acceptable => panic!("case {} has an unknown kind of result", test.tc_id),
                }
                assert_eq!(good, test.result == TestResult::Valid, "case {}", test.tc_id);
            }
        }
        (valid, invalid)
    }

    #[test]
    fn wycheproof_p384_raw() {
        let counts = run(TestName::EcdsaSecp384r1Sha384P1363, |point, message, signature| {
            Leaf { point: point.to_vec(), not_before: 0, not_after: 0 }.verify(message, signature).is_ok()
        });
        assert_eq!(counts, (193, 87));
    }

    #[test]
    fn wycheproof_p384_der() {
        let counts = run(TestName::EcdsaSecp384r1Sha384, |point, message, signature| {
            webpki::aws_lc_rs::ECDSA_P384_SHA384.verify_signature(point, message, signature).is_ok()
        });
        assert_eq!(counts, (194, 310));
    }
}
