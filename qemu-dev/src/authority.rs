//! A certification authority that imitates the one behind the Nitro Secure Module, down to the lifetimes. It says in every
//! name that it is a mock.

use std::str::FromStr;
use std::time::Duration;

use der::asn1::{ObjectIdentifier, OctetString};
use der::oid::AssociatedOid;
use der::pem::LineEnding;
use der::{DecodePem, Encode, EncodePem};
use p384::ecdsa::{DerSignature, SigningKey};
use p384::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey};
use x509_cert::Certificate;
use x509_cert::builder::profile::BuilderProfile;
use x509_cert::builder::{Builder, CertificateBuilder, Result as BuildResult};
use x509_cert::certificate::TbsCertificate;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};
use x509_cert::time::{Time, Validity};

use crate::Error;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// Where a certificate stands in the chain. Lifetimes and path lengths are those of AWS's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// 30 years, no path length.
    Root,
    /// 20 days, path length 2.
    Regional,
    /// 6 days, path length 1.
    Zonal,
    /// 24 hours, path length 0.
    Instance,
    /// 3 hours and 3 seconds; no CA, KeyUsage not critical, no other extension.
    Leaf,
}

impl Tier {
    const BELOW_ROOT: [Self; 3] = [Self::Regional, Self::Zonal, Self::Instance];

    fn common_name(self) -> &'static str {
        match self {
            Self::Root => "anchorhold.mock-nitro-enclaves",
            Self::Regional => "regional.anchorhold.mock-nitro-enclaves",
            Self::Zonal => "zonal.anchorhold.mock-nitro-enclaves",
            Self::Instance => "instance.anchorhold.mock-nitro-enclaves",
            Self::Leaf => "enclave.anchorhold.mock-nitro-enclaves",
        }
    }

    fn lifetime(self) -> u64 {
        match self {
            Self::Root => 30 * 365 * DAY,
            Self::Regional => 20 * DAY,
            Self::Zonal => 6 * DAY,
            Self::Instance => DAY,
            Self::Leaf => 3 * HOUR + 3,
        }
    }

    /// How long before now a certificate begins: the leaf is issued on the spot.
    fn backdated(self) -> u64 {
        match self {
            Self::Root | Self::Regional => DAY,
            Self::Zonal => 12 * HOUR,
            Self::Instance => HOUR,
            Self::Leaf => 0,
        }
    }

    fn path_len(self) -> Option<u8> {
        match self {
            Self::Root | Self::Leaf => None,
            Self::Regional => Some(2),
            Self::Zonal => Some(1),
            Self::Instance => Some(0),
        }
    }
}

/// What a certificate says. The default is what the mock's tier says; vectors change it to be wrong on purpose.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Begin of validity, seconds since 1970.
    pub not_before: u64,
    /// End of validity, seconds since 1970.
    pub not_after: u64,
    /// BasicConstraints: critical, CA, path length.
    pub constraints: Option<(bool, bool, Option<u8>)>,
    /// KeyUsage: critical, bits.
    pub usage: Option<(bool, KeyUsage)>,
    /// An extension that nobody knows: critical or not.
    pub unknown_extension: Option<bool>,
    /// Name of the issuer, instead of the one above.
    pub issuer: Option<&'static str>,
}

impl Spec {
    fn of(tier: Tier, now: u64) -> Self {
        let not_before = now - tier.backdated();
        let leaf = tier == Tier::Leaf;
        let usage = if leaf {
            KeyUsage(KeyUsages::DigitalSignature.into())
        } else {
            KeyUsage(KeyUsages::DigitalSignature | KeyUsages::KeyCertSign | KeyUsages::CRLSign)
        };
        Self {
            not_before,
            not_after: not_before + tier.lifetime(),
            constraints: (!leaf).then_some((true, true, tier.path_len())),
            usage: Some((!leaf, usage)),
            unknown_extension: None,
            issuer: None,
        }
    }
}

/// A certificate and its key.
pub struct Issued {
    key: SigningKey,
    certificate: Certificate,
}

impl Issued {
    /// DER.
    pub fn der(&self) -> Vec<u8> {
        self.certificate.to_der().expect("a certificate that was built can be encoded")
    }

    /// The private key.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }
}

/// Root of the mock, and all that it issues.
pub struct Authority {
    root: Issued,
}

/// What a leaf needs: the certificates from the root down to the instance, and the leaf itself.
pub struct Chain {
    /// DER, root first.
    pub cabundle: Vec<Vec<u8>>,
    /// The leaf.
    pub leaf: Issued,
    /// When the leaf ends, in seconds since 1970.
    pub expires: u64,
}

/// Fills with randomness. Vectors pass a fixed stream to be the same on every run.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

impl Authority {
    /// A new root, valid from a day before `now` (seconds since 1970).
    pub fn new(now: u64, random: Random<'_>) -> Self {
        let key = new_key(random);
        Self { root: issue(Tier::Root, &Spec::of(Tier::Root, now), key, None, random) }
    }

    /// Reads a root that [`Authority::key_pem`] and [`Authority::certificate_pem`] wrote.
    pub fn from_pem(key: &str, certificate: &str) -> Result<Self, Error> {
        let key = SigningKey::from_pkcs8_pem(key).map_err(|_| Error::State("the mock root's key is not one".into()))?;
        let certificate =
            Certificate::from_pem(certificate).map_err(|_| Error::State("the mock root's certificate is not one".into()))?;
        Ok(Self { root: Issued { key, certificate } })
    }

    /// The root's key, PKCS#8. Whoever has it can make mock evidence; nobody can make genuine evidence with it.
    pub fn key_pem(&self) -> String {
        let pem = self.root.key.to_pkcs8_pem(LineEnding::LF).expect("a P-384 key can be encoded");
        pem.to_string()
    }

    /// The root's certificate: what `--root` takes.
    pub fn certificate_pem(&self) -> String {
        self.root.certificate.to_pem(LineEnding::LF).expect("a certificate that was built can be encoded")
    }

    /// DER of the root.
    pub fn root_der(&self) -> Vec<u8> {
        self.root.der()
    }

    /// Issues a chain whose leaf begins at `now`.
    pub fn issue_chain(&self, now: u64, random: Random<'_>) -> Chain {
        self.issue_changed_chain(now, random, &|_, _| ())
    }

    /// Issues a chain of which `change` may make something else of each certificate below the root.
    pub fn issue_changed_chain(&self, now: u64, random: Random<'_>, change: &dyn Fn(Tier, &mut Spec)) -> Chain {
        let spec = |tier| {
            let mut spec = Spec::of(tier, now);
            change(tier, &mut spec);
            spec
        };
        let mut cabundle = vec![self.root.der()];
        let mut above: Option<Issued> = None;
        for tier in Tier::BELOW_ROOT {
            let issued = issue(tier, &spec(tier), new_key(random), Some(above.as_ref().unwrap_or(&self.root)), random);
            cabundle.push(issued.der());
            above = Some(issued);
        }
        let leaf = issue(Tier::Leaf, &spec(Tier::Leaf), new_key(random), above.as_ref(), random);
        Chain { cabundle, leaf, expires: now + Tier::Leaf.lifetime() }
    }
}

fn new_key(random: Random<'_>) -> SigningKey {
    loop {
        let mut bytes = [0; 48];
        random(&mut bytes);
        if let Ok(key) = SigningKey::from_slice(&bytes) {
            return key;
        }
    }
}

fn issue(tier: Tier, spec: &Spec, key: SigningKey, issuer: Option<&Issued>, random: Random<'_>) -> Issued {
    let mut serial = [0; 16];
    random(&mut serial);
    serial[0] = serial[0] & 0x7f | 0x40;
    let validity = Validity::new(time(spec.not_before), time(spec.not_after));
    let public = key.verifying_key().to_public_key_der().expect("a P-384 key can be encoded");
    let public = SubjectPublicKeyInfoOwned::try_from(public.as_bytes()).expect("DER that was just encoded");
    let serial = SerialNumber::new(&serial).expect("16 bytes fit into a serial number");
    let above = issuer.map(|issuer| issuer.certificate.tbs_certificate().subject().clone());
    let profile = Profile { tier, spec: spec.clone(), issuer: spec.issuer.map(name).or(above) };
    let builder = CertificateBuilder::new(profile, serial, validity, public).expect("the profile is complete");
    let signer = issuer.map_or(&key, |issuer| &issuer.key);
    let certificate = builder.build::<_, DerSignature>(signer).expect("P-384 can sign");
    Issued { key, certificate }
}

fn name(common_name: &str) -> Name {
    Name::from_str(&format!("CN={common_name},OU=mock without hardware,O=Anchorhold,C=US")).expect("a plain name")
}

fn time(seconds: u64) -> Time {
    Time::try_from(std::time::UNIX_EPOCH + Duration::from_secs(seconds)).expect("a year that X.509 can write")
}

struct Profile {
    tier: Tier,
    spec: Spec,
    issuer: Option<Name>,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, subject: &Name) -> Name {
        self.issuer.clone().unwrap_or_else(|| subject.clone())
    }

    fn get_subject(&self) -> Name {
        name(self.tier.common_name())
    }

    fn build_extensions(
        &self,
        _: SubjectPublicKeyInfoRef<'_>,
        _: SubjectPublicKeyInfoRef<'_>,
        _: &TbsCertificate,
    ) -> BuildResult<Vec<Extension>> {
        let mut extensions = Vec::new();
        if let Some((critical, ca, path_len_constraint)) = self.spec.constraints {
            extensions.push(extension(critical, &BasicConstraints { ca, path_len_constraint })?);
        }
        if let Some((critical, usage)) = &self.spec.usage {
            extensions.push(extension(*critical, usage)?);
        }
        if let Some(critical) = self.spec.unknown_extension {
            let extn_id = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.99999.1");
            extensions.push(Extension { extn_id, critical, extn_value: OctetString::new([5, 0])? });
        }
        Ok(extensions)
    }
}

fn extension<T: AssociatedOid + Encode>(critical: bool, value: &T) -> BuildResult<Extension> {
    Ok(Extension { extn_id: T::OID, critical, extn_value: OctetString::new(value.to_der()?)? })
}
