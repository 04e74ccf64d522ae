//! From the pinned root to the leaf that signed, at a time that the caller gives.

use std::ops::RangeInclusive;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use data_encoding::HEXLOWER;
use der::asn1::ObjectIdentifier;
use der::oid::AssociatedOid;
use der::{Decode, Encode};
use identity::UnixSeconds;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Serialize;
use webpki::{EndEntityCert, KeyUsage as ExtendedUsage, anchor_from_trusted_cert};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, NameConstraints};
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::issuers::{IssuerPath, KnownIssuers};
use crate::Error;
use crate::rules::Rules;

/// The NSM issues its leaf without backdating, so a verifier whose clock is a little behind gets
/// these seconds.
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
        parse(0, der).map_err(|_| Error::RootMalformed("not X.509 in DER"))?;
        Ok(Self(der.to_vec()))
    }

    /// Takes a root certificate in PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let der = CertificateDer::from_pem_slice(pem)
            .map_err(|_| Error::RootMalformed("not a certificate in PEM"))?;
        Self::from_der(&der)
    }

    /// The certificate in DER.
    pub fn as_der(&self) -> &[u8] {
        &self.0
    }
}

/// A certificate of a chain, by what nobody else of its issuer has: issuer and serial number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateId {
    /// Distinguished name as text (RFC 4514).
    pub issuer: String,
    /// Serial number in lowercase hex, as DER holds it.
    pub serial: String,
}

impl CertificateId {
    fn of(certificate: &Certificate) -> Self {
        let tbs = certificate.tbs_certificate();
        Self {
            issuer: tbs.issuer().to_string(),
            serial: HEXLOWER.encode(tbs.serial_number().as_bytes()),
        }
    }
}

/// A verified chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Root first.
    pub(crate) certificates: Vec<CertificateId>,
    pub(crate) leaf: Leaf,
}

/// The leaf of a verified chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    point: Vec<u8>,
    not_before: i64,
    not_after: i64,
}

impl Leaf {
    /// Verifies an ES384 signature, 96 bytes `r || s`. Both of the two equivalent values of `s` are
    /// good ECDSA.
    pub(crate) fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<(), Error> {
        count::signature();
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &self.point)
            .verify(signed, signature)
            .map_err(|_| Error::DocumentSignatureInvalid)
    }

    /// Begin and end, both included; the begin with the seconds that a slow clock gets.
    pub(crate) fn validity(&self) -> RangeInclusive<UnixSeconds> {
        UnixSeconds(self.not_before).plus(-SKEW_SECONDS)..=UnixSeconds(self.not_after)
    }
}

/// What a chain is verified with.
#[derive(Clone, Copy)]
pub(crate) struct Trust<'a> {
    /// DER of the certificate that it must begin with.
    pub(crate) root: &'a [u8],
    /// The time of verification.
    pub(crate) at: UnixSeconds,
    /// What was verified before.
    pub(crate) issuers: Option<&'a KnownIssuers>,
}

/// The chain must begin with `root`, byte for byte.
pub(crate) fn check_root(chain: &[&[u8]], root: &[u8], rules: &impl Rules) -> Result<(), Error> {
    rules.require(chain.first() == Some(&root), Error::RootUntrusted)
}

/// Verifies root -> intermediates -> leaf, of a chain whose root was checked; the leaf comes last.
///
/// The chain is given in its one order, so there is no path to look for. Every rule is held here
/// against every certificate; signatures are webpki's, which holds its own rules against the same
/// chain again.
pub(crate) fn verify(
    chain: &[&[u8]],
    trust: Trust<'_>,
    rules: &impl Rules,
) -> Result<Chain, Error> {
    let certificates = chain
        .iter()
        .enumerate()
        .map(|(index, der)| parse(index, der))
        .collect::<Result<Vec<_>, _>>()?;
    let [authorities @ .., leaf] = certificates.as_slice() else {
        return Err(Error::RootUntrusted);
    };
    let (not_before, not_after) = validity(leaf);
    // A leaf that begins within the skew was issued then, and its issuers must be valid then.
    let issued = trust
        .at
        .0
        .max(not_before.min(trust.at.plus(SKEW_SECONDS).0));
    for (index, certificate) in certificates.iter().enumerate() {
        let leaf = index == authorities.len();
        let (at, skew) = if leaf {
            (trust.at, SKEW_SECONDS)
        } else {
            (UnixSeconds(issued), 0)
        };
        check_profile(index, certificate, rules)?;
        let (begin, until) = validity(certificate);
        let (from, until) = (UnixSeconds(begin), UnixSeconds(until));
        rules.require(
            at.0 >= begin.saturating_sub(skew),
            Error::CertificateNotYetValid {
                index,
                from,
                at: trust.at,
            },
        )?;
        rules.require(
            at <= until,
            Error::CertificateExpired {
                index,
                until,
                at: trust.at,
                leaf,
            },
        )?;
    }
    for (index, certificate) in authorities.iter().enumerate() {
        check_ca(index, certificate, authorities.len() - index - 1, rules)?;
    }
    check_leaf(leaf, rules)?;
    check_names(&certificates, rules)?;
    if rules.second_opinion() {
        let (at, issuers) = (trust.at.0.max(not_before), trust.issuers);
        // Names that an issuer permits count for all below it: such a path is verified whole.
        let issuers = issuers.filter(|_| !authorities.iter().any(limits_names));
        rules.accept(check_signatures(chain, at, issuers))?;
    }
    let point = leaf
        .tbs_certificate()
        .subject_public_key_info()
        .subject_public_key
        .raw_bytes()
        .to_vec();
    let certificates = certificates.iter().map(CertificateId::of).collect();
    Ok(Chain {
        certificates,
        leaf: Leaf {
            point,
            not_before,
            not_after,
        },
    })
}

/// Each certificate names the one before it as its issuer, and none has the name of an earlier one.
fn check_names(certificates: &[Certificate], rules: &impl Rules) -> Result<(), Error> {
    let subjects: Vec<_> = certificates
        .iter()
        .map(|certificate| certificate.tbs_certificate().subject())
        .collect();
    for (index, certificate) in certificates.iter().enumerate().skip(1) {
        rules.require(
            certificate.tbs_certificate().issuer() == subjects[index - 1],
            Error::ChainIssuer(index),
        )?;
        // One name, one certificate: else webpki would try every order of certificates that share a
        // name.
        rules.require(
            !subjects[..index].contains(&subjects[index]),
            Error::ChainSubjectTwice(index),
        )?;
    }
    Ok(())
}

/// Every signature; of a chain through an issuer that is known, only the leaf's.
fn check_signatures(chain: &[&[u8]], at: i64, issuers: Option<&KnownIssuers>) -> Result<(), Error> {
    let (Some(issuers), [authorities @ .., _]) = (issuers, chain) else {
        return check_path(chain, at);
    };
    let path = IssuerPath::of(authorities);
    if issuers.has(path) {
        return check_path(&chain[authorities.len() - 1..], at);
    }
    check_path(chain, at)?;
    issuers.remember(path);
    Ok(())
}

fn limits_names(certificate: &Certificate) -> bool {
    let extensions = certificate.tbs_certificate().extensions();
    extensions.is_some_and(|all| all.iter().any(|one| one.extn_id == NameConstraints::OID))
}

/// webpki verifies signatures, path lengths, name constraints and critical extensions. It may look
/// for a path of its own, so the path that it found must be the one given, in its order and whole.
fn check_path(chain: &[&[u8]], at: i64) -> Result<(), Error> {
    let [root, intermediates @ .., leaf] = chain else {
        return Err(Error::RootUntrusted);
    };
    let (anchor, leaf) = (CertificateDer::from(*root), CertificateDer::from(*leaf));
    let anchors = [anchor_from_trusted_cert(&anchor)
        .map_err(|_| Error::ChainPath("the root is no trust anchor"))?];
    let intermediates: Vec<CertificateDer<'_>> = intermediates
        .iter()
        .map(|der| CertificateDer::from(*der))
        .collect();
    let leaf = EndEntityCert::try_from(&leaf).map_err(|error| broken(&error))?;
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.unsigned_abs()));
    let path = leaf
        .verify_for_usage(
            count::ALGORITHMS,
            &anchors,
            &intermediates,
            at,
            ExtendedUsage::server_auth(),
            None,
            None,
        )
        .map_err(|error| broken(&error))?;
    let used = path
        .intermediate_certificates()
        .map(|certificate| certificate.der());
    if used.eq(intermediates.iter().rev().cloned()) {
        Ok(())
    } else {
        Err(Error::ChainPath(
            "certificates that the path does not need, or in another order",
        ))
    }
}

fn broken(error: &webpki::Error) -> Error {
    match error {
        webpki::Error::InvalidSignatureForPublicKey => Error::ChainSignature,
        webpki::Error::RequiredEkuNotFoundContext(_) => {
            Error::ChainPath("the leaf's key is for another purpose")
        }
        webpki::Error::NameConstraintViolation => Error::ChainPath("a name constraint is violated"),
        _ => Error::ChainPath("a certificate is not as RFC 5280 wants it"),
    }
}

fn parse(index: usize, der: &[u8]) -> Result<Certificate, Error> {
    let certificate = Certificate::from_der(der).map_err(|_| Error::CertificateMalformed(index))?;
    let same = certificate.to_der().ok().as_deref() == Some(der);
    if same {
        Ok(certificate)
    } else {
        Err(Error::CertificateMalformed(index))
    }
}

/// X.509 v3, a P-384 key, signed with ECDSA and SHA-384, each extension once, no critical one that
/// is not looked at here.
fn check_profile(index: usize, certificate: &Certificate, rules: &impl Rules) -> Result<(), Error> {
    let tbs = certificate.tbs_certificate();
    rules.require(
        tbs.version() == Version::V3,
        Error::CertificateVersion(index),
    )?;
    let [inside, outside] = [tbs.signature(), certificate.signature_algorithm()];
    let es384 = |algorithm: &AlgorithmIdentifierOwned| {
        algorithm.oid == ECDSA_SHA384 && algorithm.parameters.is_none()
    };
    rules.require(
        es384(inside) && es384(outside),
        Error::CertificateAlgorithm(index),
    )?;
    let key = &tbs.subject_public_key_info().algorithm;
    let curve = key
        .parameters
        .as_ref()
        .and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
    rules.require(
        key.oid == EC_PUBLIC_KEY && curve == Some(P384),
        Error::CertificateKey(index),
    )?;
    let extensions = tbs.extensions().map_or(&[][..], Vec::as_slice);
    for (place, extension) in extensions.iter().enumerate() {
        let again = extensions[..place]
            .iter()
            .any(|before| before.extn_id == extension.extn_id);
        rules.require(!again, Error::CertificateExtensionTwice(index))?;
        let known = [BasicConstraints::OID, KeyUsage::OID].contains(&extension.extn_id);
        rules.require(
            known || !extension.critical,
            Error::CertificateCriticalExtension(index),
        )?;
    }
    Ok(())
}

fn validity(certificate: &Certificate) -> (i64, i64) {
    let validity = certificate.tbs_certificate().validity();
    let seconds = |time: x509_cert::time::Time| {
        i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
    };
    (seconds(validity.not_before), seconds(validity.not_after))
}

fn check_ca(
    index: usize,
    certificate: &Certificate,
    intermediates_below: usize,
    rules: &impl Rules,
) -> Result<(), Error> {
    let tbs = certificate.tbs_certificate();
    let constraints = tbs.get_extension::<BasicConstraints>().ok().flatten();
    rules.require(
        constraints.as_ref().is_some_and(|(critical, _)| *critical),
        Error::CaConstraints(index),
    )?;
    let constraints = constraints.map(|(_, constraints)| constraints);
    // Where there are none, the rule above has spoken.
    rules.require(
        constraints
            .as_ref()
            .is_none_or(|constraints| constraints.ca),
        Error::CaNotMarked(index),
    )?;
    let limit = constraints.and_then(|constraints| constraints.path_len_constraint);
    rules.require(
        limit.is_none_or(|limit| usize::from(limit) >= intermediates_below),
        Error::CaPathLength(index),
    )?;
    let usage = tbs.get_extension::<KeyUsage>().ok().flatten();
    rules.require(
        usage.is_some_and(|(_, usage)| usage.key_cert_sign()),
        Error::CaKeyUsage(index),
    )
}

fn check_leaf(leaf: &Certificate, rules: &impl Rules) -> Result<(), Error> {
    let tbs = leaf.tbs_certificate();
    let constraints = tbs.get_extension::<BasicConstraints>();
    rules.require(
        constraints.is_ok_and(|found| found.is_none_or(|(_, constraints)| !constraints.ca)),
        Error::LeafIsCa,
    )?;
    let usage = tbs.get_extension::<KeyUsage>().ok().flatten();
    rules.require(
        usage.is_some_and(|(_, usage)| usage.digital_signature()),
        Error::LeafKeyUsage,
    )
}

/// Signature checks, counted where tests want to know how many one document costs.
mod count {
    use rustls_pki_types::SignatureVerificationAlgorithm;

    #[cfg(test)]
    pub(crate) use counted::*;
    #[cfg(not(test))]
    pub(super) use plain::*;

    #[cfg(not(test))]
    mod plain {
        use super::*;

        pub(in super::super) const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] =
            &[webpki::aws_lc_rs::ECDSA_P384_SHA384];

        pub(in super::super) fn signature() {}
    }

    #[cfg(test)]
    mod counted {
        use std::cell::Cell;

        use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature};

        use super::*;

        thread_local! {
            static CHECKS: Cell<usize> = const { Cell::new(0) };
        }

        pub(crate) const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[&Counted];

        pub(crate) fn signature() {
            CHECKS.set(CHECKS.get() + 1);
        }

        /// The checks since the last call.
        pub(crate) fn take() -> usize {
            CHECKS.take()
        }

        #[derive(Debug)]
        struct Counted;

        impl SignatureVerificationAlgorithm for Counted {
            fn verify_signature(
                &self,
                key: &[u8],
                message: &[u8],
                signature: &[u8],
            ) -> Result<(), InvalidSignature> {
                self::signature();
                webpki::aws_lc_rs::ECDSA_P384_SHA384.verify_signature(key, message, signature)
            }

            fn public_key_alg_id(&self) -> AlgorithmIdentifier {
                webpki::aws_lc_rs::ECDSA_P384_SHA384.public_key_alg_id()
            }

            fn signature_alg_id(&self) -> AlgorithmIdentifier {
                webpki::aws_lc_rs::ECDSA_P384_SHA384.signature_alg_id()
            }
        }
    }
}

#[cfg(test)]
pub(crate) use count::take as signature_checks;

/// Project Wycheproof's P-384 cases, every one, against the two functions that documents and chains
/// are verified with.
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
                    TestResult::Acceptable => {
                        panic!("case {} has an unknown kind of result", test.tc_id)
                    }
                }
                assert_eq!(
                    good,
                    test.result == TestResult::Valid,
                    "case {}",
                    test.tc_id
                );
            }
        }
        (valid, invalid)
    }

    #[test]
    fn wycheproof_p384_raw() {
        let counts = run(
            TestName::EcdsaSecp384r1Sha384P1363,
            |point, message, signature| {
                Leaf {
                    point: point.to_vec(),
                    not_before: 0,
                    not_after: 0,
                }
                .verify(message, signature)
                .is_ok()
            },
        );
        assert_eq!(counts, (193, 87));
    }

    #[test]
    fn wycheproof_p384_der() {
        let counts = run(
            TestName::EcdsaSecp384r1Sha384,
            |point, message, signature| {
                webpki::aws_lc_rs::ECDSA_P384_SHA384
                    .verify_signature(point, message, signature)
                    .is_ok()
            },
        );
        assert_eq!(counts, (194, 310));
    }

    #[test]
    fn what_the_second_opinion_says_is_passed_on() {
        let because = |error: webpki::Error| broken(&error);
        assert_eq!(
            because(webpki::Error::InvalidSignatureForPublicKey),
            Error::ChainSignature
        );
        let violated = Error::ChainPath("a name constraint is violated");
        assert_eq!(because(webpki::Error::NameConstraintViolation), violated);
        let context = webpki::RequiredEkuNotFoundContext {
            required: webpki::KeyUsage::server_auth(),
            present: Vec::new(),
        };
        let purpose = Error::ChainPath("the leaf's key is for another purpose");
        assert_eq!(
            because(webpki::Error::RequiredEkuNotFoundContext(context)),
            purpose
        );
        let other = Error::ChainPath("a certificate is not as RFC 5280 wants it");
        assert_eq!(because(webpki::Error::BadDer), other);
    }
}
