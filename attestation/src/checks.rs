//! The steps from bytes to a verdict, in their order, and what became of each.

use serde::Serialize;

use crate::Rule;

/// A step of verifying. Its name is stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::IntoStaticStr, strum::EnumIter)]
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
    /// The epoch is late enough.
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
    pub(crate) const EVIDENCE: &[Self] = &[Self::Binding, Self::Possession, Self::Identity, Self::Epoch, Self::DidDocument];
    /// What a token or credential adds.
    pub(crate) const SIGNED: &[Self] = &[Self::Signature, Self::Validity, Self::Audience, Self::Issuer, Self::Replay];

    /// The stable snake_case name.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// What it means that this step is passed in an archive, or for a mock, where that is something else.
    fn special_meaning(self, archive: bool, mock: bool) -> Option<&'static str> {
        match self {
            Self::Validity if archive => Some("It was valid at its own time: neither expired nor of the future."),
            Self::Age if archive => Some("The document was recent when the witness saw it."),
            Self::DocumentSignature if mock => Some("The mock's key signed this document; nobody has changed it since."),
            Self::Binding if mock => Some("This key, under this DID and this policy, is what the mock was asked to attest."),
            Self::Policy if mock => {
                Some("The rules under which the key signs are ones that you know, if the mock tells the truth.")
            }
            _ => None,
        }
    }

    /// What it means that this step is passed, in a sentence for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::EvidenceForm => "The file holds a document, a key's description, a policy and a proof, in their one encoding.",
            Self::TimeAnchor => {
                "Somebody else saw these very bytes while the leaf certificate was valid, so nobody made them up later."
            }
            Self::DocumentForm => "These bytes are what a Nitro Secure Module writes, and can be read in one way only.",
            Self::Root => "The chain ends in the root that you trust, byte for byte.",
            Self::Chain => "Each certificate was issued by the one before it, for this use, and was valid at this time.",
            Self::DocumentSignature => "The Nitro Secure Module signed this document; nobody has changed it since.",
            Self::DocumentTime => "The document was made while its own certificate was valid, and not in the future.",
            Self::Mode => "Memory and console of the enclave are closed to the host.",
            Self::DenyLists => "Nothing in it is on your list of what must not be trusted any more.",
            Self::Nonce => "The document was made after your question, for you; it is no copy of an old one.",
            Self::Age => "The document is recent.",
            Self::Measurements => "The program in the enclave is one that you know.",
            Self::Policy => "The rules under which the key signs are ones that you know, and cannot change until the next boot.",
            Self::Binding => "This key, under this DID and this policy, is what the enclave asked the module to attest.",
            Self::Possession => "The enclave that the document is about holds the private key, and used it for this document.",
            Self::Identity => "The key belongs to an identity that you accept.",
            Self::Epoch => "The enclave's sealed state is not an old one brought back.",
            Self::DidDocument => "The domain's owner, too, says that this key is theirs; evidence alone never proves a domain.",
            Self::Signature => "The attested key made this signature, over these claims, under this binding.",
            Self::Validity => "It is valid now: neither expired nor of the future.",
            Self::Audience => "It was made for you, and for nobody else to pass on to you.",
            Self::Issuer => "Its issuer is one that you accept.",
            Self::Replay => "You have not accepted the same token before. Only who keeps a record can know.",
        }
    }

    /// The step in which a document breaks this rule.
    pub(crate) fn of_document(rule: Rule) -> Self {
        use Rule as R;
        match rule {
            R::RootUntrusted => Self::Root,
            R::CertificateMalformed
            | R::CertificateVersion
            | R::CertificateAlgorithm
            | R::CertificateKey
            | R::CertificateExtensionTwice
            | R::CertificateCriticalExtension
            | R::CertificateNotYetValid
            | R::CertificateExpired
            | R::CaConstraints
            | R::CaNotMarked
            | R::CaPathLength
            | R::CaKeyUsage
            | R::LeafIsCa
            | R::LeafKeyUsage
            | R::ChainSubjectTwice
            | R::ChainIssuer
            | R::ChainSignature
            | R::ChainPath => Self::Chain,
            R::DocumentSignatureInvalid => Self::DocumentSignature,
            R::DocumentFromFuture | R::DocumentOutsideLeaf => Self::DocumentTime,
            R::PcrMissing | R::DebugMode | R::NotDebugMode => Self::Mode,
            _ => Self::DocumentForm,
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

/// The steps so far.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    done: Vec<Check>,
    /// Things are verified at their own times.
    pub(crate) archive: bool,
    /// The root is that of a mock.
    pub(crate) mock: bool,
}

impl Checks {
    pub(crate) fn note(&mut self, step: Step, outcome: Outcome, against: impl Into<String>) {
        self.done.push(Check { step, outcome, against: against.into(), meaning: None });
    }

    pub(crate) fn passed(&mut self, step: Step, against: impl Into<String>) {
        self.note(step, Outcome::Passed, against);
    }

    pub(crate) fn not_checked(&mut self, step: Step, why: impl Into<String>) {
        self.note(step, Outcome::NotChecked, why);
    }

    /// Takes the result of a step.
    pub(crate) fn take<T>(
        &mut self,
        step: Step,
        against: impl Into<String>,
        result: Result<T, crate::Error>,
    ) -> Result<T, crate::Error> {
        match &result {
            Ok(_) => self.passed(step, against),
            Err(error) => self.note(step, Outcome::Failed, error.to_string()),
        }
        result
    }

    /// Everything in the order of the steps, those of `plan` that were never reached among them.
    pub(crate) fn finish(mut self, plan: impl IntoIterator<Item = Step>) -> Vec<Check> {
        for step in plan {
            if self.done.iter().all(|check| check.step != step) {
                self.note(step, Outcome::NotReached, "a step before it failed");
            }
        }
        self.done.sort_by_key(|check| check.step);
        for check in &mut self.done {
            let step = check.step;
            let meaning = || step.special_meaning(self.archive, self.mock).unwrap_or_else(|| step.meaning());
            check.meaning = (check.outcome == Outcome::Passed).then(meaning);
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;

    #[test]
    fn an_archive_and_a_mock_change_what_some_steps_mean() {
        let (archive, mock) = ([Step::Validity, Step::Age], [Step::DocumentSignature, Step::Binding, Step::Policy]);
        for step in Step::iter() {
            assert_eq!(step.special_meaning(true, false).is_some(), archive.contains(&step), "{step:?}");
            assert_eq!(step.special_meaning(false, true).is_some(), mock.contains(&step), "{step:?}");
            assert_eq!(step.special_meaning(false, false), None, "{step:?}");
        }
    }
}
