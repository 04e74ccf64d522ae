//! The steps from bytes to a verdict, in their order, and what became of each.
//!
//! The code that holds a rule writes down what it passed, in [`Steps`], as it passes it. What was refused
//! belongs to the step that its rule names, or to the one that was under way; what nobody asked for
//! is read from the same list.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{Error, Rule};

/// A step of verifying. Its name is stable.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    strum::IntoStaticStr,
    strum::EnumIter,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Step {
    /// The evidence file has its one encoding.
    EvidenceForm,
    /// An independent witness saw document and token in time.
    TimeAnchor,
    /// The document is a COSE_Sign1 of the NSM's form.
    DocumentForm,
    /// The chain begins with the trusted root.
    Root,
    /// The certificates form one chain, each valid.
    Chain,
    /// The leaf signed the document.
    DocumentSignature,
    /// The document's time fits its leaf and the time of verification.
    DocumentTime,
    /// The enclave does not run in debug mode.
    Mode,
    /// Neither image nor certificates are denied.
    DenyLists,
    /// The document answers the verifier's challenge.
    Nonce,
    /// The document is not too old.
    Age,
    /// The image is an accepted one.
    Measurements,
    /// The policy is an accepted one.
    Policy,
    /// The document binds the key that the evidence describes.
    Binding,
    /// The key proved possession for this document.
    Possession,
    /// The identity is an accepted one.
    Identity,
    /// The key is kept as it should be: custody, state, epoch.
    Epoch,
    /// The domain stands by this key.
    DidDocument,
    /// The token or credential is signed by the attested key.
    Signature,
    /// The token or credential is valid at the time of verification.
    Validity,
    /// It was made for this verifier.
    Audience,
    /// Its issuer is an accepted one.
    Issuer,
    /// It has not been used before.
    Replay,
}

impl Step {
    /// The steps of a document alone.
    pub(crate) const DOCUMENT: &[Self] = &[
        Self::DocumentForm,
        Self::Root,
        Self::Chain,
        Self::DocumentSignature,
        Self::DocumentTime,
        Self::Mode,
        Self::DenyLists,
        Self::Nonce,
        Self::Age,
        Self::Measurements,
        Self::Policy,
    ];
    /// What evidence adds.
    pub(crate) const EVIDENCE: &[Self] = &[
        Self::Binding,
        Self::Possession,
        Self::Identity,
        Self::Epoch,
        Self::DidDocument,
    ];
    /// What a token or credential adds.
    pub(crate) const SIGNED: &[Self] = &[
        Self::Signature,
        Self::Validity,
        Self::Audience,
        Self::Issuer,
        Self::Replay,
    ];

    /// The stable snake_case name.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// What it means that this step is passed in an archive, or for a mock, where that is something
    /// else.
    fn special_meaning(self, archive: bool, mock: bool) -> Option<&'static str> {
        match self {
            Self::Validity if archive => {
                Some("It was valid at its own time: neither expired nor of the future.")
            }
            Self::Age if archive => Some("The document was recent when the witness saw it."),
            Self::DocumentSignature if mock => {
                Some("The mock's key signed this document; nobody has changed it since.")
            }
            Self::Binding if mock => Some(
                "This key, under this DID and this bundle, is what the mock was asked to attest.",
            ),
            Self::Policy if mock => Some(
                "The rules under which the key signs are ones that you know, if the mock tells the truth.",
            ),
            _ => None,
        }
    }

    /// What it means that this step is passed, in a sentence for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::EvidenceForm => {
                "The file holds a document, a key's description, a policy bundle and a proof, in their one encoding."
            }
            Self::TimeAnchor => {
                "Somebody else saw these very bytes while the leaf certificate was valid, so nobody made them up later."
            }
            Self::DocumentForm => {
                "These bytes are what a Nitro Secure Module writes, and can be read in one way only."
            }
            Self::Root => "The chain ends in the root that you trust, byte for byte.",
            Self::Chain => {
                "Each certificate was issued by the one before it, for this use, and was valid at this time."
            }
            Self::DocumentSignature => {
                "The Nitro Secure Module signed this document; nobody has changed it since."
            }
            Self::DocumentTime => {
                "The document was made while its own certificate was valid, and not in the future."
            }
            Self::Mode => "Memory and console of the enclave are closed to the host.",
            Self::DenyLists => {
                "Nothing in it is on your list of what must not be trusted any more."
            }
            Self::Nonce => {
                "The document was made after your question, for you; it is no copy of an old one."
            }
            Self::Age => "The document is recent.",
            Self::Measurements => "The program in the enclave is one that you know.",
            Self::Policy => {
                "The rules under which the key signs are ones that you know, and cannot change until the next boot."
            }
            Self::Binding => {
                "This key, under this DID and this bundle, is what the enclave asked the module to attest."
            }
            Self::Possession => {
                "The enclave that the document is about holds the private key, and used it for this document."
            }
            Self::Identity => "The key belongs to an identity that you accept.",
            Self::Epoch => "The key is kept as you want, in a state and an epoch that you accept.",
            Self::DidDocument => {
                "The domain's owner, too, says that this key is theirs; evidence alone never proves a domain."
            }
            Self::Signature => {
                "The attested key made this signature, over these claims, under this binding."
            }
            Self::Validity => "It is valid now: neither expired nor of the future.",
            Self::Audience => "It was made for you, and for nobody else to pass on to you.",
            Self::Issuer => "Its issuer is one that you accept.",
            Self::Replay => {
                "You have not accepted the same token before. Only who keeps a record can know."
            }
        }
    }
}

impl Rule {
    /// The step in which this rule is held. What several steps can say belongs to the one that was
    /// `under_way`.
    pub(crate) fn step(self, under_way: Step) -> Step {
        match self {
            Self::EvidenceMalformed => Step::EvidenceForm,
            Self::TimestampMalformed
            | Self::TimestampImprint
            | Self::TimestampSignature
            | Self::TimestampUntrusted
            | Self::AnchorFromFuture
            | Self::AnchorOutsideLeaf => Step::TimeAnchor,
            Self::DocumentTooLong
            | Self::DocumentNotCoseSign1
            | Self::DocumentTag
            | Self::DocumentNotShortest
            | Self::DocumentUnprotectedHeader
            | Self::DocumentTrailingBytes
            | Self::DocumentAlgorithm
            | Self::DocumentSignatureSize
            | Self::PayloadSize
            | Self::PayloadNotMap
            | Self::PayloadCut
            | Self::PayloadTrailingBytes
            | Self::PayloadHeadNotShortest
            | Self::PayloadNotShortest
            | Self::PayloadIndefinite
            | Self::FieldUnknown
            | Self::FieldTwice
            | Self::FieldMissing
            | Self::FieldType
            | Self::ModuleIdEmpty
            | Self::DigestUnknown
            | Self::TimestampRange
            | Self::PcrCount
            | Self::PcrIndex
            | Self::PcrTwice
            | Self::PcrSize
            | Self::CabundleCount
            | Self::CertificateSize
            | Self::PublicKeySize
            | Self::UserDataSize
            | Self::NonceSize => Step::DocumentForm,
            Self::RootUntrusted => Step::Root,
            Self::CertificateMalformed
            | Self::CertificateVersion
            | Self::CertificateAlgorithm
            | Self::CertificateKey
            | Self::CertificateExtensionTwice
            | Self::CertificateCriticalExtension
            | Self::CertificateNotYetValid
            | Self::CertificateExpired
            | Self::CaConstraints
            | Self::CaNotMarked
            | Self::CaPathLength
            | Self::CaKeyUsage
            | Self::LeafIsCa
            | Self::LeafKeyUsage
            | Self::ChainSubjectTwice
            | Self::ChainIssuer
            | Self::ChainSignature
            | Self::ChainPath => Step::Chain,
            Self::DocumentSignatureInvalid => Step::DocumentSignature,
            Self::DocumentFromFuture | Self::DocumentOutsideLeaf => Step::DocumentTime,
            Self::PcrMissing | Self::DebugMode | Self::NotDebugMode => Step::Mode,
            Self::MeasurementDenied | Self::CertificateDenied => Step::DenyLists,
            Self::NonceAbsent | Self::NonceMismatch => Step::Nonce,
            Self::TooOld => Step::Age,
            Self::MeasurementMismatch => Step::Measurements,
            Self::BindingMismatch | Self::IdentityNotInPolicy => Step::Binding,
            Self::PossessionInvalid => Step::Possession,
            Self::DidNotAccepted | Self::IdentityMismatch => Step::Identity,
            Self::EpochAbsent
            | Self::EpochTooLow
            | Self::StateAbsent
            | Self::StateMismatch
            | Self::CustodyTooLow => Step::Epoch,
            Self::DidDocumentLacksKey => Step::DidDocument,
            Self::TokenBindingMismatch | Self::TeeMismatch => Step::Signature,
            Self::IssuerNotAccepted => Step::Issuer,
            // Formats of `identity` and the bundle's register are read for evidence and for what is
            // signed; a witness can be too early for either.
            Self::Identity
            | Self::PolicyNotCommitted
            | Self::PolicyMismatch
            | Self::PolicyMalformed
            | Self::AnchorTooEarly => under_way,
            // Files that a verifier brings are read before anything is judged.
            Self::RootNotMock
            | Self::RootMalformed
            | Self::MeasurementsMalformed
            | Self::AppraisalPolicyMalformed
            | Self::VerifierKeyMalformed => under_way,
        }
    }
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Checked, and right.
    Passed,
    /// Checked, and wrong.
    Failed,
    /// Nobody said what would be right, or it cannot be known here.
    NotChecked,
    /// A step before it failed.
    NotReached,
}

/// A step, what became of it, and against what it was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Which step.
    pub step: Step,
    /// What became of it.
    pub outcome: Outcome,
    /// What was found, and what it was compared with; why it failed, or why it was not checked.
    pub against: String,
    /// What that means, of a step that was passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<&'static str>,
}

/// A check that nobody asked for, and that was therefore not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unchecked {
    /// Any document of this enclave would do, however old within its leaf's three hours.
    Nonce,
    /// Any image would do.
    Measurements,
    /// Any policy would do.
    Policy,
    /// did:web only: whether the domain stands by this key.
    DidDocument,
    /// A document alone, under a policy that names identities: whose it is.
    Identity,
}

impl Unchecked {
    /// The stable snake_case name.
    pub fn as_str(self) -> &'static str {
        self.step().as_str()
    }

    /// The step that was not made.
    fn step(self) -> Step {
        match self {
            Self::Nonce => Step::Nonce,
            Self::Measurements => Step::Measurements,
            Self::Policy => Step::Policy,
            Self::DidDocument => Step::DidDocument,
            Self::Identity => Step::Identity,
        }
    }
}

/// What became of the steps so far: the last word on each counts.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    entries: BTreeMap<Step, Entry>,
    /// Things are verified at their own times.
    pub(crate) archive: bool,
    /// The root is that of a mock.
    pub(crate) mock: bool,
}

#[derive(Debug)]
struct Entry {
    outcome: Outcome,
    against: String,
    /// It was not checked, and a verdict without it means little.
    matters: Option<Unchecked>,
    /// It failed, which the verifier allows.
    allowed: bool,
}

impl Steps {
    fn enter(&mut self, step: Step, outcome: Outcome, against: impl Into<String>) -> &mut Entry {
        let entry = Entry {
            outcome,
            against: against.into(),
            matters: None,
            allowed: false,
        };
        self.entries.entry(step).insert_entry(entry).into_mut()
    }

    /// The step's rules hold.
    pub(crate) fn passed(&mut self, step: Step, against: impl Into<String>) {
        self.enter(step, Outcome::Passed, against);
    }

    /// The step's rules do not hold, for a reason that the error alone does not say.
    pub(crate) fn failed(&mut self, step: Step, why: impl Into<String>) {
        self.enter(step, Outcome::Failed, why);
    }

    /// The step's rules do not hold, which the verifier allows.
    pub(crate) fn allowed(&mut self, step: Step, why: impl Into<String>) {
        self.enter(step, Outcome::Failed, why).allowed = true;
    }

    /// Nothing was expected, or it cannot be known here.
    pub(crate) fn not_checked(&mut self, step: Step, why: impl Into<String>) {
        self.enter(step, Outcome::NotChecked, why);
    }

    /// Nothing was expected, and something should have been.
    pub(crate) fn unchecked(&mut self, what: Unchecked, why: impl Into<String>) {
        self.enter(what.step(), Outcome::NotChecked, why).matters = Some(what);
    }

    /// What should have been expected, in the order of the steps.
    pub(crate) fn all_unchecked(&self) -> Vec<Unchecked> {
        self.entries
            .values()
            .filter_map(|entry| entry.matters)
            .collect()
    }

    /// The steps of what was refused for `error`: those of `plan` that were never reached among
    /// them.
    pub(crate) fn refuse(mut self, plan: &[Step], error: &Error) -> Vec<Check> {
        let failed = |made: &Entry| made.outcome == Outcome::Failed && !made.allowed;
        if !self.entries.values().any(failed) {
            let next = plan.iter().find(|step| !self.entries.contains_key(step));
            if let Some(under_way) = next.or(plan.last()) {
                self.failed(Rule::from(error).step(*under_way), error.to_string());
            }
        }
        for step in plan
            .iter()
            .filter(|step| !self.entries.contains_key(step))
            .collect::<Vec<_>>()
        {
            self.enter(*step, Outcome::NotReached, "a step before it failed");
        }
        self.into_checks()
    }

    /// Every step that was made, in order.
    pub(crate) fn into_checks(self) -> Vec<Check> {
        let (archive, mock) = (self.archive, self.mock);
        let check = |(
            step,
            Entry {
                outcome, against, ..
            },
        ): (Step, Entry)| {
            let meaning = || {
                step.special_meaning(archive, mock)
                    .unwrap_or_else(|| step.meaning())
            };
            Check {
                step,
                outcome,
                against,
                meaning: (outcome == Outcome::Passed).then(meaning),
            }
        };
        self.entries.into_iter().map(check).collect()
    }
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;

    #[test]
    fn an_archive_and_a_mock_change_what_some_steps_mean() {
        let (archive, mock) = (
            [Step::Validity, Step::Age],
            [Step::DocumentSignature, Step::Binding, Step::Policy],
        );
        for step in Step::iter() {
            assert_eq!(
                step.special_meaning(true, false).is_some(),
                archive.contains(&step),
                "{step:?}"
            );
            assert_eq!(
                step.special_meaning(false, true).is_some(),
                mock.contains(&step),
                "{step:?}"
            );
            assert_eq!(step.special_meaning(false, false), None, "{step:?}");
        }
    }
}
