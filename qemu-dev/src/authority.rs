//! A certification authority that imitates the one behind the Nitro Secure Module, down to the
//! lifetimes. It says in every name that it is a mock.

use std::str::FromStr;
use std::time::Duration;

use der::asn1::{ObjectIdentifier, OctetString};
use der::oid::AssociatedOid;
use der::pem::LineEnding;
use der::{DecodePem, Encode};
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
use crate::draft::{Draft, Key};

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
    /// One that AWS's chain does not have, under the instance; no path length.
    Extra,
    /// 3 hours and 3 seconds; no CA, KeyUsage not critical, no other extension.
    Leaf,
}

impl Tier {
    /// The tiers between root and leaf.
    pub const BELOW_ROOT: [Self; 3] = [Self::Regional, Self::Zonal, Self::Instance];

    fn common_name(self) -> &'static str {
        match self {
            Self::Root => "anchorhold.mock-nitro-enclaves",
            Self::Regional => "regional.anchorhold.mock-nitro-enclaves",
            Self::Zonal => "zonal.anchorhold.mock-nitro-enclaves",
            Self::Instance => "instance.anchorhold.mock-nitro-enclaves",
            Self::Extra => "extra.anchorhold.mock-nitro-enclaves",
            Self::Leaf => "enclave.anchorhold.mock-nitro-enclaves",
        }
    }

    fn lifetime(self) -> u64 {
        match self {
            Self::Root => 30 * 365 * DAY,
            Self::Regional => 20 * DAY,
            Self::Zonal => 6 * DAY,
            Self::Instance | Self::Extra => DAY,
            Self::Leaf => 3 * HOUR + 3,
        }
    }

    /// How long before now a certificate begins: the leaf is issued on the spot.
    fn backdated(self) -> u64 {
        match self {
            Self::Root | Self::Regional => DAY,
            Self::Zonal => 12 * HOUR,
            Self::Instance | Self::Extra => HOUR,
            Self::Leaf => 0,
        }
    }

    fn path_len(self) -> Option<u8> {
        match self {
            Self::Root | Self::Extra | Self::Leaf => None,
            Self::Regional => Some(2),
            Self::Zonal => Some(1),
            Self::Instance => Some(0),
        }
    }
}

/// What a certificate says. The default is what the mock's tier says; vectors change it to be wrong
/// on purpose.
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
    /// Name of the subject, instead of the tier's own.
    pub subject: Option<&'static str>,
    /// A key on P-256, which this chain may not have.
    pub p256: bool,
    /// Any other change; the issuer signs what comes out.
    pub draft: Option<fn(&mut Draft)>,
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
            subject: None,
            p256: false,
            draft: None,
        }
    }
}

/// A certificate and its key.
pub struct Issued {
    key: Key,
    subject: Name,
    der: Vec<u8>,
}

impl Issued {
    /// DER.
    pub fn der(&self) -> Vec<u8> {
        self.der.clone()
    }

    /// The private key.
    pub(crate) fn key(&self) -> &SigningKey {
        match &self.key {
            Key::P384(key) => key,
            Key::P256(_) => unreachable!("only issuers are asked for keys that they may not have"),
        }
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
        Self::changed(now, random, &|_| ())
    }

    /// A new root of which `change` may make something else.
    pub fn changed(now: u64, random: Random<'_>, change: &dyn Fn(&mut Spec)) -> Self {
        let mut spec = Spec::of(Tier::Root, now);
        change(&mut spec);
        Self {
            root: issue(Tier::Root, &spec, None, random),
        }
    }

    /// Reads a root that [`Authority::key_pem`] and [`Authority::certificate_pem`] wrote.
    pub fn from_pem(key: &str, certificate: &str) -> Result<Self, Error> {
        let key = SigningKey::from_pkcs8_pem(key)
            .map_err(|_| Error::State("the mock root's key is not one".into()))?;
        let not_one = |_| Error::State("the mock root's certificate is not one".into());
        let certificate = Certificate::from_pem(certificate).map_err(not_one)?;
        let subject = certificate.tbs_certificate().subject().clone();
        Ok(Self {
            root: Issued {
                key: Key::P384(key),
                subject,
                der: certificate.to_der().map_err(not_one)?,
            },
        })
    }

    /// The root's key, PKCS#8. Anybody who has it can make mock evidence; nobody can make genuine
    /// evidence with it.
    pub fn key_pem(&self) -> String {
        let pem = self
            .root
            .key()
            .to_pkcs8_pem(LineEnding::LF)
            .expect("a P-384 key can be encoded");
        pem.to_string()
    }

    /// The root's certificate: what `--root` takes.
    pub fn certificate_pem(&self) -> String {
        pem(&self.root.der)
    }

    /// DER of the root.
    pub fn root_der(&self) -> Vec<u8> {
        self.root.der()
    }

    /// Issues a chain whose leaf begins at `now`.
    pub fn issue_chain(&self, now: u64, random: Random<'_>) -> Chain {
        self.issue_changed_chain(now, random, &Tier::BELOW_ROOT, &|_, _| ())
    }

    /// Issues a chain of these tiers and a leaf, of which `change` may make something else of each
    /// certificate.
    pub fn issue_changed_chain(
        &self,
        now: u64,
        random: Random<'_>,
        tiers: &[Tier],
        change: &dyn Fn(Tier, &mut Spec),
    ) -> Chain {
        let spec = |tier| {
            let mut spec = Spec::of(tier, now);
            change(tier, &mut spec);
            spec
        };
        let mut cabundle = vec![self.root.der()];
        let mut above: Option<Issued> = None;
        for tier in tiers {
            let issued = issue(
                *tier,
                &spec(*tier),
                Some(above.as_ref().unwrap_or(&self.root)),
                random,
            );
            cabundle.push(issued.der());
            above = Some(issued);
        }
        let leaf = issue(
            Tier::Leaf,
            &spec(Tier::Leaf),
            Some(above.as_ref().unwrap_or(&self.root)),
            random,
        );
        Chain {
            cabundle,
            leaf,
            expires: now + Tier::Leaf.lifetime(),
        }
    }
}

/// PEM of a certificate.
pub fn pem(certificate: &[u8]) -> String {
    let document = der::Document::try_from(certificate).expect("DER of ours");
    document
        .to_pem("CERTIFICATE", LineEnding::LF)
        .expect("DER can be written as PEM")
}

fn new_key(p256: bool, random: Random<'_>) -> Key {
    loop {
        let mut bytes = [0; 48];
        random(&mut bytes);
        let key = if p256 {
            p256::ecdsa::SigningKey::from_slice(&bytes[..32]).map(Key::P256)
        } else {
            SigningKey::from_slice(&bytes).map(Key::P384)
        };
        if let Ok(key) = key {
            return key;
        }
    }
}

fn issue(tier: Tier, spec: &Spec, issuer: Option<&Issued>, random: Random<'_>) -> Issued {
    let key = new_key(spec.p256, random);
    let mut serial = [0; 16];
    random(&mut serial);
    serial[0] = serial[0] & 0x7f | 0x40;
    let validity = Validity::new(time(spec.not_before), time(spec.not_after));
    let public = match &key {
        Key::P384(key) => key.verifying_key().to_public_key_der(),
        Key::P256(key) => key.verifying_key().to_public_key_der(),
    };
    let public = public.expect("a public key can be encoded");
    let public =
        SubjectPublicKeyInfoOwned::try_from(public.as_bytes()).expect("DER that was just encoded");
    let serial = SerialNumber::new(&serial).expect("16 bytes fit into a serial number");
    let subject = name(spec.subject.unwrap_or(tier.common_name()));
    let above = spec
        .issuer
        .map(name)
        .or_else(|| issuer.map(|issuer| issuer.subject.clone()));
    let profile = Profile {
        subject: subject.clone(),
        spec: spec.clone(),
        issuer: above.unwrap_or_else(|| subject.clone()),
    };
    let builder = CertificateBuilder::new(profile, serial, validity, public)
        .expect("the profile is complete");
    let signer = issuer.map_or(&key, |issuer| &issuer.key);
    let any = SigningKey::from_slice(&[1; 48]).expect("a number below the order");
    let first = if let Key::P384(signer) = signer {
        signer
    } else {
        &any
    };
    let certificate = builder
        .build::<_, DerSignature>(first)
        .expect("P-384 can sign");
    let mut der = certificate
        .to_der()
        .expect("a certificate that was built can be encoded");
    if spec.draft.is_some() || matches!(signer, Key::P256(_)) {
        let mut draft = Draft::of(&der);
        spec.draft.inspect(|change| change(&mut draft));
        der = draft.sign(signer);
    }
    Issued { key, subject, der }
}

fn name(common_name: &str) -> Name {
    Name::from_str(&format!(
        "CN={common_name},OU=mock without hardware,O=Anchorhold,C=US"
    ))
    .expect("a plain name")
}

fn time(seconds: u64) -> Time {
    Time::try_from(std::time::UNIX_EPOCH + Duration::from_secs(seconds))
        .expect("a year that X.509 can write")
}

struct Profile {
    subject: Name,
    spec: Spec,
    issuer: Name,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _: SubjectPublicKeyInfoRef<'_>,
        _: SubjectPublicKeyInfoRef<'_>,
        _: &TbsCertificate,
    ) -> BuildResult<Vec<Extension>> {
        let mut extensions = Vec::new();
        if let Some((critical, ca, path_len_constraint)) = self.spec.constraints {
            extensions.push(extension(
                critical,
                &BasicConstraints {
                    ca,
                    path_len_constraint,
                },
            )?);
        }
        if let Some((critical, usage)) = &self.spec.usage {
            extensions.push(extension(*critical, usage)?);
        }
        if let Some(critical) = self.spec.unknown_extension {
            let extn_id = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.99999.1");
            extensions.push(Extension {
                extn_id,
                critical,
                extn_value: OctetString::new([5, 0])?,
            });
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
