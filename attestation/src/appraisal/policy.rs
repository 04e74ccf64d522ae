//! The verifier's own policy, as a file.

use identity::Did;
use serde::Deserialize;
use state::{Custody, StateFacts, StateId};
use x509_cert::name::Name;

use super::expectations::check_state_id;
use crate::{CertificateId, Document, Error};
use identity::Pcr;
use policy::PolicyDigest;

/// Longer files are not looked at: 256 KiB.
const MAX_BYTES: usize = 256 * 1024;

/// What a verifier accepts: an appraisal policy for evidence (RFC 9334 section 8.5), as a TOML
/// file.
///
/// Everything that it names must hold; what it leaves out is not asked for by it. Unknown keys are
/// errors.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppraisalPolicy {
    version: u32,
    /// Whether a nonce must be given and answered. Without this, one must.
    #[serde(default)]
    nonce: Nonce,
    #[serde(default)]
    max_age: Option<jiff::SignedDuration>,
    #[serde(default)]
    audience: Option<String>,
    #[serde(default)]
    dids: Option<Vec<Did>>,
    #[serde(default)]
    issuers: Option<Vec<Did>>,
    /// The lowest custody.
    #[serde(default)]
    custody: Option<Custody>,
    #[serde(default)]
    state: Option<StateId>,
    #[serde(default)]
    lowest_epoch: Option<u64>,
    #[serde(default)]
    images: Vec<Image>,
    #[serde(default)]
    bundles: Vec<AcceptedBundle>,
    #[serde(default)]
    deny: Deny,
}

/// So many accepted values stand in a refusal.
pub(crate) const MOST_LISTED: usize = 4;

/// Whether a nonce must be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Nonce {
    #[default]
    Required,
    Optional,
}

/// Registers of an image: which one, and its value.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "UPPERCASE")]
struct Registers {
    pcr0: Option<Pcr>,
    pcr1: Option<Pcr>,
    pcr2: Option<Pcr>,
    pcr3: Option<Pcr>,
    pcr4: Option<Pcr>,
    pcr8: Option<Pcr>,
}

impl Registers {
    fn named(&self) -> impl Iterator<Item = (u8, Pcr)> {
        let all = [
            (0, self.pcr0),
            (1, self.pcr1),
            (2, self.pcr2),
            (3, self.pcr3),
            (4, self.pcr4),
            (8, self.pcr8),
        ];
        all.into_iter()
            .filter_map(|(index, pcr)| pcr.map(|pcr| (index, pcr)))
    }

    fn match_document(&self, document: &Document) -> bool {
        self.named()
            .all(|(index, pcr)| document.pcrs().get(index) == Some(&pcr))
    }
}

/// An accepted image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    label: String,
    registers: Registers,
}

/// An accepted policy bundle, by its digest or by PCR16.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct AcceptedBundle {
    label: String,
    #[serde(default)]
    digest: Option<identity::Digest<48>>,
    #[serde(default, rename = "PCR16")]
    pcr16: Option<Pcr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deny {
    #[serde(default)]
    images: Vec<DeniedImage>,
    #[serde(default)]
    certificates: Vec<DeniedCertificate>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeniedImage {
    reason: String,
    registers: Registers,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeniedCertificate {
    reason: String,
    issuer: String,
    serial: String,
}

impl Image {
    fn check(&self) -> Result<(), Error> {
        let wrong = |why: &str| malformed(format!("image {:?}: {why}", self.label));
        let Registers {
            pcr0: Some(pcr0),
            pcr1: Some(pcr1),
            pcr2: Some(pcr2),
            ..
        } = self.registers
        else {
            return Err(wrong("PCR0, PCR1 and PCR2 count together only"));
        };
        if [pcr0, pcr1, pcr2].contains(&identity::Digest([0; 48])) {
            return Err(wrong("a measurement is zero, which only debug mode shows"));
        }
        Ok(())
    }
}

impl AcceptedBundle {
    fn check(&self) -> Result<(), Error> {
        if self.digest.is_some() == self.pcr16.is_some() {
            return Err(malformed(format!(
                "bundle {:?}: give either digest or PCR16",
                self.label
            )));
        }
        Ok(())
    }
}

impl DeniedImage {
    fn check(&self) -> Result<(), Error> {
        if self.registers.named().next().is_none() {
            return Err(malformed(format!(
                "denied image {:?}: it names no register, so it would deny all",
                self.reason
            )));
        }
        Ok(())
    }
}

impl DeniedCertificate {
    fn check(&self) -> Result<(), Error> {
        let wrong = |why: &str| malformed(format!("denied certificate {:?}: {why}", self.reason));
        if self
            .issuer
            .parse::<Name>()
            .ok()
            .is_none_or(|name| name.to_string() != self.issuer)
        {
            return Err(wrong(
                "issuer is not a distinguished name as RFC 4514 and the checklist write it",
            ));
        }
        match data_encoding::HEXLOWER
            .decode(self.serial.as_bytes())
            .as_deref()
        {
            Err(_) | Ok([]) => return Err(wrong("serial is not lowercase hex")),
            Ok([0x80..=0xff, ..]) => {
                return Err(wrong(
                    "serial is negative: as verdicts write it, 00 stands before a first byte of 80 or more",
                ));
            }
            Ok([0, 0..=0x7f, ..]) => {
                return Err(wrong("serial has zeros before it that no certificate has"));
            }
            Ok(_) => {}
        }
        Ok(())
    }
}

impl AppraisalPolicy {
    /// Reads and checks a policy.
    pub fn from_toml(text: &[u8]) -> Result<Self, Error> {
        if text.len() > MAX_BYTES {
            return Err(malformed("longer than 256 KiB"));
        }
        let text = std::str::from_utf8(text).map_err(|_| malformed("not UTF-8"))?;
        let policy: Self = toml::from_str(text).map_err(|error| malformed(error.to_string()))?;
        policy.check()?;
        Ok(policy)
    }

    fn check(&self) -> Result<(), Error> {
        if self.version != 1 {
            return Err(malformed("version is not 1"));
        }
        if self.max_age.is_some_and(|age| age.is_negative()) {
            return Err(malformed("max_age is negative"));
        }
        self.images.iter().try_for_each(Image::check)?;
        self.bundles.iter().try_for_each(AcceptedBundle::check)?;
        self.deny.images.iter().try_for_each(DeniedImage::check)?;
        self.deny
            .certificates
            .iter()
            .try_for_each(DeniedCertificate::check)?;
        for (what, list) in [("dids", &self.dids), ("issuers", &self.issuers)] {
            if list.as_ref().is_some_and(Vec::is_empty) {
                return Err(malformed(format!(
                    "an empty list of {what} accepts none; leave it out to accept any"
                )));
            }
        }
        Ok(())
    }

    /// Whether a nonce may be left out.
    pub(crate) fn nonce_is_optional(&self) -> bool {
        self.nonce == Nonce::Optional
    }

    /// The greatest accepted age in seconds.
    pub fn max_age_seconds(&self) -> Option<i64> {
        self.max_age.map(|age| age.as_secs())
    }

    /// The audience that the verifier is.
    pub fn audience(&self) -> Option<&str> {
        self.audience.as_deref()
    }

    /// Whether it says which images it accepts.
    pub fn names_images(&self) -> bool {
        !self.images.is_empty()
    }

    /// Whether it says which policy bundles it accepts.
    pub fn names_bundles(&self) -> bool {
        !self.bundles.is_empty()
    }

    /// Holds a document and its chain against the deny lists.
    pub(crate) fn check_denied(
        &self,
        document: &Document,
        chain: &[CertificateId],
    ) -> Result<(), Error> {
        if let Some(denied) = self
            .deny
            .images
            .iter()
            .find(|image| image.registers.match_document(document))
        {
            return Err(Error::MeasurementDenied(denied.reason.clone()));
        }
        for (index, certificate) in chain.iter().enumerate() {
            let denied = self
                .deny
                .certificates
                .iter()
                .find(|d| d.issuer == certificate.issuer && d.serial == certificate.serial);
            if let Some(denied) = denied {
                return Err(Error::CertificateDenied {
                    index,
                    reason: denied.reason.clone(),
                });
            }
        }
        Ok(())
    }

    /// How many images and certificates the deny lists hold.
    pub(crate) fn denied(&self) -> (usize, usize) {
        (self.deny.images.len(), self.deny.certificates.len())
    }

    /// The accepted images: label and registers.
    pub(crate) fn images(&self) -> impl Iterator<Item = (Option<&str>, Vec<(u8, Pcr)>)> {
        self.images.iter().map(|image| {
            (
                Some(image.label.as_str()),
                image.registers.named().collect(),
            )
        })
    }

    /// The accepted bundles: label and PCR16.
    pub(crate) fn bundles(&self) -> impl Iterator<Item = (Option<&str>, Pcr)> {
        self.bundles.iter().filter_map(|bundle| {
            let of_digest = |digest| PolicyDigest::from_digest(digest).pcr16();
            let pcr16 = bundle.pcr16.or(bundle.digest.map(of_digest))?;
            Some((Some(bundle.label.as_str()), pcr16))
        })
    }

    /// The label of the accepted image that a document shows.
    pub(crate) fn image(&self, document: &Document) -> Option<&str> {
        self.images
            .iter()
            .find(|image| image.registers.match_document(document))
            .map(|image| image.label.as_str())
    }

    /// The label of the accepted bundle of this PCR16.
    pub(crate) fn bundle(&self, pcr16: &Pcr) -> Option<&str> {
        let accepted = self.bundles.iter().find(|bundle| {
            bundle.pcr16.is_some_and(|accepted| accepted == *pcr16)
                || bundle
                    .digest
                    .is_some_and(|digest| PolicyDigest::from_digest(digest).pcr16() == *pcr16)
        });
        accepted.map(|bundle| bundle.label.as_str())
    }

    pub(crate) fn check_did(&self, did: &Did) -> Result<(), Error> {
        if self.dids.as_ref().is_none_or(|dids| dids.contains(did)) {
            Ok(())
        } else {
            Err(Error::DidNotAccepted {
                found: did.to_string(),
                accepted: listed(self.dids.as_deref()),
            })
        }
    }

    /// Whether what this issuer signed is accepted.
    pub fn check_issuer(&self, issuer: &Did) -> Result<(), Error> {
        if self
            .issuers
            .as_ref()
            .is_none_or(|issuers| issuers.contains(issuer))
        {
            Ok(())
        } else {
            Err(Error::IssuerNotAccepted {
                found: issuer.to_string(),
                accepted: listed(self.issuers.as_deref()),
            })
        }
    }

    /// Whether a key kept so is accepted. Evidence of a key that ends with its boot commits to no
    /// state and no epoch, so a policy that asks for one accepts none of it.
    pub(crate) fn check_state(&self, state: Option<StateFacts>) -> Result<(), Error> {
        if let Some(lowest) = self.custody {
            let found = state.map_or(Custody::Ephemeral, |state| state.custody);
            if found < lowest {
                return Err(Error::CustodyTooLow {
                    found: found.to_string(),
                    lowest: lowest.to_string(),
                });
            }
        }
        if let Some(expected) = self.state {
            check_state_id(state, expected)?;
        }
        match (self.lowest_epoch, state) {
            (None, _) => Ok(()),
            (Some(lowest), None) => Err(Error::EpochAbsent { lowest }),
            (Some(lowest), Some(state)) if state.epoch < lowest => Err(Error::EpochTooLow {
                found: state.epoch,
                lowest,
            }),
            (Some(_), Some(_)) => Ok(()),
        }
    }

    /// Whether it asks anything of the state that a key is kept in.
    pub(crate) fn names_state(&self) -> bool {
        self.custody.is_some() || self.state.is_some() || self.lowest_epoch.is_some()
    }

    /// Whether the policy says whose signatures it accepts.
    pub(crate) fn names_issuers(&self) -> bool {
        self.issuers.is_some()
    }

    /// Whether the policy says which identities it accepts.
    pub(crate) fn names_identities(&self) -> bool {
        self.dids.is_some()
    }
}

/// For people: the first few of what is accepted.
fn listed(dids: Option<&[Did]>) -> String {
    let dids = dids.unwrap_or_default();
    let mut names: Vec<&str> = dids.iter().take(MOST_LISTED).map(Did::as_str).collect();
    if dids.len() > MOST_LISTED {
        names.push("...");
    }
    names.join(", ")
}

fn malformed(why: impl Into<String>) -> Error {
    Error::AppraisalPolicyMalformed(why.into())
}
