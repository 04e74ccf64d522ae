//! One question, one verdict: what `anchorhold-verify`, `POST /verify`, the guard and the
//! demonstration all ask.

mod ear;
mod expectations;
mod measurements;
mod policy;
mod presenter;
mod trace;
mod verdict;
mod verifier;

use std::borrow::Cow;

use data_encoding::HEXLOWER;
use identity::{Digest, UnixSeconds};
use serde_json::Value;

use crate::archive::{Anchored, TimeAnchor, anchored_digest};
use crate::document::{Hardware, Trust, verify_hardware, verify_mock_by};
use crate::rules::Every;
use crate::steps::{Step, Steps};
use crate::{
    Attested, AttestedKey, AttestedSigner, Error, Evidence, SKEW_SECONDS, aws_root_g1,
    unverified_time,
};

pub use self::expectations::Expectations;
pub use self::measurements::Measurements;
pub use self::policy::AppraisalPolicy;
pub use self::verdict::{Archive, KeyFacts, Reason, Refusal, Verdict};
pub use self::verifier::{Subject, Verifier};

/// Verdicts in forms that others read: an EAT attestation result, and a TRACE trust record.
///
/// Mock evidence is never labelled as hardware: an EAR says `contraindicated`, a trust record
/// `software-only`.
pub mod results {
    pub use super::ear::{About, VerifierKey, ear};
    pub use super::trace::{NoRecord, trace};
}

impl Verifier {
    /// Judges, step after step: time anchor, document, chain, expectations, then evidence and token
    /// where there are any.
    pub fn judge(&self, subject: Subject<'_>) -> Result<Verdict, Refusal> {
        match subject {
            Subject::Document(document) => {
                let plan = self.plan(&[Step::DOCUMENT]);
                self.run(&plan, |steps| self.appraise(&Alone(document), steps))
                    .map(|(verdict, ())| verdict)
            }
            Subject::Evidence(evidence) => {
                self.judge_evidence(evidence).map(|(verdict, _)| verdict)
            }
            Subject::Token { token, evidence } => {
                self.judge_statement(Statement::Token(token), evidence)
            }
            Subject::Credential {
                credential,
                evidence,
            } => self.judge_statement(Statement::Credential(credential), evidence),
        }
    }

    /// As [`Verifier::judge`] with [`Subject::Evidence`], and gives what verifies tokens of the
    /// judged key.
    pub fn judge_evidence(&self, evidence: &[u8]) -> Result<(Verdict, AttestedSigner), Refusal> {
        let plan = self.plan(&[&[Step::EvidenceForm], Step::DOCUMENT, Step::EVIDENCE]);
        self.run(&plan, |steps| self.appraise_evidence(evidence, None, steps))
    }

    fn judge_statement(
        &self,
        statement: Statement<'_>,
        evidence: &[u8],
    ) -> Result<Verdict, Refusal> {
        let plan = self.plan(&[
            &[Step::EvidenceForm],
            Step::DOCUMENT,
            Step::EVIDENCE,
            Step::SIGNED,
        ]);
        let judged = self.run(&plan, |steps| {
            self.appraise_evidence(evidence, Some(statement), steps)
        });
        judged.map(|(verdict, _)| verdict)
    }

    /// The steps that are to be made.
    fn plan(&self, parts: &[&[Step]]) -> Vec<Step> {
        let mut plan = parts.concat();
        plan.extend(self.anchor.as_ref().map(|_| Step::TimeAnchor));
        plan.sort_unstable();
        plan
    }

    /// Refuses what `appraise` refuses, and what leaves out too much. Either way, every step is
    /// listed.
    fn run<F>(
        &self,
        plan: &[Step],
        appraise: impl FnOnce(&mut Steps) -> Result<(Verdict, F), Error>,
    ) -> Result<(Verdict, F), Refusal> {
        let mut steps = Steps::default();
        steps.archive = self.anchor.is_some();
        let (mut verdict, found) = match appraise(&mut steps) {
            Ok(judged) => judged,
            Err(error) => {
                return Err(Refusal {
                    checks: steps.refuse(plan, &error),
                    reason: Reason::Wrong(error),
                });
            }
        };
        let (unchecked, checks) = (steps.all_unchecked(), steps.into_checks());
        if !unchecked.is_empty() && !self.inspect {
            return Err(Refusal {
                reason: Reason::Unchecked(unchecked),
                checks,
            });
        }
        (verdict.unchecked, verdict.checks) = (unchecked, checks);
        Ok((verdict, found))
    }

    fn appraise_evidence(
        &self,
        bytes: &[u8],
        statement: Option<Statement<'_>>,
        steps: &mut Steps,
    ) -> Result<(Verdict, AttestedSigner), Error> {
        let evidence = Evidence::parse(bytes)?;
        steps.passed(Step::EvidenceForm, format!("{} bytes", bytes.len()));
        self.appraise(
            &WithEvidence {
                evidence,
                statement,
            },
            steps,
        )
    }

    fn appraise<P: Presented>(
        &self,
        presented: &P,
        steps: &mut Steps,
    ) -> Result<(Verdict, P::Found), Error> {
        let digest = anchored_digest(presented.document(), &presented.signed());
        let ask = |anchor: &dyn TimeAnchor| Witness::ask(anchor, &digest, self.at);
        let witness = self.anchor.as_deref().map(ask).transpose();
        // A witness is anybody's code: whatever its error is called, it is the witness that failed.
        let witness =
            witness.inspect_err(|error| steps.failed(Step::TimeAnchor, error.to_string()))?;
        Appraisal {
            verifier: self,
            presented,
            digest,
            witness,
        }
        .run(steps)
    }
}

/// What is presented to be judged, taken apart.
trait Presented {
    /// What is known in the end, besides the verdict.
    type Found;

    /// The attestation document.
    fn document(&self) -> &[u8];

    /// What was signed, as a witness of the time sees it; nothing where a document or evidence is
    /// alone.
    fn signed(&self) -> Cow<'_, [u8]>;

    /// The steps after those of the document.
    fn hold<A: Attested + Clone>(
        &self,
        verifier: &Verifier,
        document: &A,
        witnessed: Option<UnixSeconds>,
        steps: &mut Steps,
    ) -> Result<(Facts, Self::Found), Error>;
}

/// What evidence and a statement add to a verdict.
#[derive(Default)]
struct Facts {
    key: Option<KeyFacts>,
    claims: Option<Value>,
}

/// A document alone.
struct Alone<'a>(&'a [u8]);

impl Presented for Alone<'_> {
    type Found = ();

    fn document(&self) -> &[u8] {
        self.0
    }

    fn signed(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&[])
    }

    fn hold<A: Attested + Clone>(
        &self,
        verifier: &Verifier,
        _: &A,
        _: Option<UnixSeconds>,
        steps: &mut Steps,
    ) -> Result<(Facts, ()), Error> {
        verifier.expectations.hold_no_identity(steps)?;
        Ok((Facts::default(), ()))
    }
}

/// What the key signed.
#[derive(Clone, Copy)]
enum Statement<'a> {
    Token(&'a str),
    Credential(&'a [u8]),
}

/// Evidence, and perhaps what its key signed.
struct WithEvidence<'a> {
    evidence: Evidence,
    statement: Option<Statement<'a>>,
}

impl Presented for WithEvidence<'_> {
    type Found = AttestedSigner;

    fn document(&self) -> &[u8] {
        self.evidence.document()
    }

    fn signed(&self) -> Cow<'_, [u8]> {
        match self.statement {
            None => Cow::Borrowed(&[]),
            Some(Statement::Token(token)) => Cow::Borrowed(token.as_bytes()),
            // A credential is JSON, which has many spellings; a witness sees its canonical one.
            // What has none is refused later.
            Some(Statement::Credential(text)) => {
                Cow::Owned(identity::credential::canonical(text).unwrap_or_default())
            }
        }
    }

    fn hold<A: Attested + Clone>(
        &self,
        verifier: &Verifier,
        document: &A,
        witnessed: Option<UnixSeconds>,
        steps: &mut Steps,
    ) -> Result<(Facts, AttestedSigner), Error> {
        let key = verifier
            .expectations
            .hold_evidence(&self.evidence, document, steps)?;
        let mut facts = Facts {
            key: Some(facts(&key)),
            claims: None,
        };
        if let Some(statement) = self.statement {
            let signed = match statement {
                Statement::Token(token) => key.signer().signed_token(token)?,
                Statement::Credential(text) => key.signer().signed_credential(text)?,
            };
            steps.passed(
                Step::Signature,
                format!("{} and its binding {}", key.kid(), key.binding()),
            );
            verifier
                .expectations
                .hold_signed(&signed, verifier.at, witnessed, steps)?;
            facts.claims = Some(signed.value);
        }
        Ok((facts, key.signer().clone()))
    }
}

fn facts<A: Attested>(key: &AttestedKey<A>) -> KeyFacts {
    let described = key.description().clone();
    let state = key.signer().state();
    KeyFacts {
        name: described.name,
        did: described.did,
        kid: described.kid,
        version: described.version,
        binding: key.binding(),
        policy: key.bundle().digest().digest(),
        record_key: key.record_key().to_multikey(),
        custody: key.signer().custody(),
        state: state.map(|state| state.state),
        epoch: state.map(|state| state.epoch),
        rollback: state.map(|state| state.rollback),
    }
}

/// Somebody else's word on when document and statement existed.
struct Witness {
    kind: &'static str,
    anchored: Anchored,
}

impl Witness {
    fn ask(anchor: &dyn TimeAnchor, digest: &Digest<32>, at: UnixSeconds) -> Result<Self, Error> {
        let anchored = anchor.prove(digest)?;
        if anchored.time > at.plus(SKEW_SECONDS) {
            return Err(Error::AnchorFromFuture {
                time: anchored.time,
                at,
            });
        }
        Ok(Self {
            kind: anchor.kind(),
            anchored,
        })
    }

    /// The witness saw it after it was made, and while its leaf certificate was valid.
    fn hold(&self, document: &impl Attested, steps: &mut Steps) -> Result<(), Error> {
        let Anchored { time, witness } = &self.anchored;
        if time > document.leaf_validity().end() {
            return Err(Error::AnchorOutsideLeaf {
                time: *time,
                until: *document.leaf_validity().end(),
            });
        }
        if *time < document.document().made().plus(-SKEW_SECONDS) {
            return Err(Error::AnchorTooEarly {
                time: *time,
                made: document.document().made(),
            });
        }
        steps.passed(
            Step::TimeAnchor,
            format!("{time} by {witness}, within the leaf's validity"),
        );
        Ok(())
    }
}

/// One judgement.
struct Appraisal<'a, P> {
    verifier: &'a Verifier,
    presented: &'a P,
    /// What a witness must have seen.
    digest: Digest<32>,
    witness: Option<Witness>,
}

impl<P: Presented> Appraisal<'_, P> {
    /// The document, by the root that it chains to.
    fn run(&self, steps: &mut Steps) -> Result<(Verdict, P::Found), Error> {
        let (verifier, bytes) = (self.verifier, self.presented.document());
        // With a witness, the document is verified at its own time; the witness is then held
        // against its leaf.
        let at = if self.witness.is_some() {
            unverified_time(bytes)?
        } else {
            verifier.at
        };
        let issuers = verifier.issuers.as_deref();
        let judged = verify_hardware(bytes, at, issuers, steps);
        match (judged, &verifier.allow_mock) {
            (Ok(Hardware::Genuine(document)), _) => {
                steps.passed(Step::Mode, "production: PCR0, 1 and 2 are not zero");
                self.hold(&document, aws_root_g1(), steps)
            }
            (Ok(Hardware::Debug(document)), _) if verifier.allow_debug => {
                steps.allowed(
                    Step::Mode,
                    "DEBUG mode, which was allowed: the host can read everything in it",
                );
                self.hold(&document, aws_root_g1(), steps)
            }
            (Ok(Hardware::Debug(_)), _) => Err(Error::DebugMode),
            (Err(Error::RootUntrusted), Some(root)) => {
                steps.mock = true;
                let trust = Trust {
                    root: root.as_der(),
                    at,
                    issuers,
                };
                let document = verify_mock_by(bytes, trust, &Every, steps)?;
                steps.not_checked(
                    Step::Mode,
                    "a MOCK, which was allowed: there is no hardware that could close anything",
                );
                self.hold(&document, root.as_der(), steps)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// The steps after the document's own.
    fn hold<A: Attested + Clone>(
        &self,
        document: &A,
        root: &[u8],
        steps: &mut Steps,
    ) -> Result<(Verdict, P::Found), Error> {
        if let Some(witness) = &self.witness {
            witness.hold(document, steps)?;
        }
        let witnessed = self.witness.as_ref().map(|witness| witness.anchored.time);
        let fresh = witnessed.unwrap_or(self.verifier.at);
        self.verifier
            .expectations
            .hold_document(document, fresh, &Every, steps)?;
        let (facts, found) = self
            .presented
            .hold(self.verifier, document, witnessed, steps)?;
        Ok((self.verdict(document, root, facts), found))
    }

    fn verdict<A: Attested>(&self, document: &A, root: &[u8], facts: Facts) -> Verdict {
        let claims = document.document();
        let hex = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| HEXLOWER.encode(bytes));
        let pcr = |(index, pcr): (u8, &identity::Pcr)| {
            (index.to_string(), Value::String(pcr.to_string()))
        };
        let archive = |witness: &Witness| Archive {
            anchor: witness.kind,
            time: witness.anchored.time,
            witness: witness.anchored.witness.clone(),
        };
        Verdict {
            verdict: A::VERDICT,
            unchecked: Vec::new(),
            root: identity::sha256(root),
            module_id: claims.module_id.clone(),
            timestamp: claims.made(),
            pcrs: claims.pcrs().iter().map(pcr).collect(),
            nonce: hex(&claims.nonce),
            user_data: hex(&claims.user_data),
            public_key: hex(&claims.public_key),
            certificates: document.certificates().to_vec(),
            anchor_digest: self.digest,
            archive: self.witness.as_ref().map(archive),
            checks: Vec::new(),
            key: facts.key,
            claims: facts.claims,
        }
    }
}
