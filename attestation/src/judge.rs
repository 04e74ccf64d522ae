//! One question, one verdict: what `anchorhold-verify`, `POST /verify` and the demonstration all ask.

use data_encoding::HEXLOWER;
use identity::token::Claims;
use identity::{Digest, UnixSeconds};
use serde_json::Value;

use crate::anchor::{Anchored, anchored_digest};
use crate::appraisal_policy::Nonce;
use crate::checks::Checks;
use crate::rules::Every;
use crate::{
    AppraisalPolicy, Attested, AttestedKey, AttestedSigner, Document, Error, Evidence, Expectations, Rule, SKEW_SECONDS,
    Unchecked, aws_root_g1, unverified_time, verify_debug, verify_genuine, verify_mock,
};

pub use crate::case::{Case, Subject};
pub use crate::checks::{Check, Outcome, Step};
pub use crate::verdict::{Archive, KeyFacts, Reason, Refusal, Verdict};

/// Judges, step after step: time anchor, document, chain, expectations, then evidence and token where there are any.
pub fn judge(case: &Case<'_>) -> Result<Verdict, Refusal> {
    judge_signer(case).map(|(verdict, _)| verdict)
}

/// As [`judge`], and gives what verifies further tokens of the judged key; none where a document alone was judged.
pub fn judge_signer(case: &Case<'_>) -> Result<(Verdict, Option<AttestedSigner>), Refusal> {
    let mut checks = Checks::default();
    match run(case, &mut checks) {
        Ok((mut verdict, signer)) => {
            verdict.checks = checks.finish([]);
            Ok((verdict, signer))
        }
        Err(reason) => Err(Refusal { reason, checks: checks.finish(plan(case)) }),
    }
}

type Judged = Result<(Verdict, Option<AttestedSigner>), Reason>;

/// The steps of a case.
fn plan(case: &Case<'_>) -> impl Iterator<Item = Step> {
    let evidence = !matches!(case.subject, Subject::Document(_));
    let signed = matches!(case.subject, Subject::Token { .. } | Subject::Credential { .. });
    let before = [evidence.then_some(Step::EvidenceForm), case.anchor.is_some().then_some(Step::TimeAnchor)];
    let of = |wanted: bool, steps: &'static [Step]| if wanted { steps } else { &[] }.iter().copied();
    let after = of(evidence, Step::EVIDENCE).chain(of(signed, Step::SIGNED));
    before.into_iter().flatten().chain(Step::DOCUMENT.iter().copied()).chain(after)
}

fn run(case: &Case<'_>, checks: &mut Checks) -> Judged {
    let evidence = match case.subject {
        Subject::Document(_) => None,
        Subject::Evidence(bytes) | Subject::Token { evidence: bytes, .. } | Subject::Credential { evidence: bytes, .. } => {
            let parsed = Evidence::parse(bytes);
            Some(checks.take(Step::EvidenceForm, format!("{} bytes", bytes.len()), parsed)?)
        }
    };
    // A credential is JSON, which has many spellings; a witness sees its canonical one.
    let canonical = match case.subject {
        Subject::Credential { credential, .. } => identity::credential::canonical(credential).unwrap_or_default(),
        _ => Vec::new(),
    };
    let (document, signed) = match (&evidence, case.subject) {
        (Some(evidence), Subject::Token { token, .. }) => (evidence.document(), token.as_bytes()),
        (Some(evidence), Subject::Credential { .. }) => (evidence.document(), &canonical[..]),
        (Some(evidence), _) => (evidence.document(), &[][..]),
        (None, Subject::Document(document)) => (document, &[][..]),
        (None, _) => unreachable!("every other subject has evidence"),
    };
    let digest = anchored_digest(document, signed);
    let seen = ObservedCaller { document, evidence: evidence.as_ref(), digest };
    let Some(anchor) = case.anchor else { return run_at(case, &seen, None, checks) };
    checks.archive = true;
    let anchored = anchor.prove(&digest).and_then(|anchored| not_of_the_future(anchored, case.at));
    // Whether it was in time, the leaf will say.
    let anchored = anchored.inspect_err(|error| checks.note(Step::TimeAnchor, Outcome::Failed, error.to_string()))?;
    run_at(case, &seen, Some((anchor.kind(), anchored)), checks)
}

fn not_of_the_future(anchored: Anchored, at: UnixSeconds) -> Result<Anchored, Error> {
    if anchored.time <= at.plus(SKEW_SECONDS) { Ok(anchored) } else { Err(Error::AnchorFromFuture) }
}

type Witness = (&'static str, Anchored);

/// What a case brings, taken apart.
struct ObservedCaller<'a> {
    document: &'a [u8],
    evidence: Option<&'a Evidence>,
    /// What a witness must have seen.
    digest: Digest<32>,
}

fn run_at(case: &Case<'_>, seen: &ObservedCaller<'_>, anchor: Option<Witness>, checks: &mut Checks) -> Judged {
    let document = seen.document;
    // With a witness, the document is verified at its own time; the witness is then held against its leaf.
    let at = match anchor {
        Some(_) => unverified_time(document).inspect_err(|error| fail_document(checks, error, case.at, aws_root_g1()))?,
        None => case.at,
    };
    let genuine = verify_genuine(document, at);
    let judging = |root| Judging { case, at, anchor, seen, root };
    match (genuine, case.allow_mock) {
        (Ok(document), _) => judging(aws_root_g1()).judge(&document, checks),
        (Err(Error::DebugMode), _) if case.allow_debug => {
            let document = verify_debug(document, at)?;
            judging(aws_root_g1()).judge(&document, checks)
        }
        (Err(Error::RootUntrusted), Some(root)) => {
            checks.mock = true;
            let verified =
                verify_mock(document, root, at).inspect_err(|error| fail_document(checks, error, at, root.as_der()))?;
            judging(root.as_der()).judge(&verified, checks)
        }
        (Err(error), _) => {
            fail_document(checks, &error, at, aws_root_g1());
            Err(error.into())
        }
    }
}

/// Rules about documents are held in the order of the steps, so those before the broken one are passed.
fn fail_document(checks: &mut Checks, error: &Error, at: UnixSeconds, root: &[u8]) {
    let failed = Step::of_document(Rule::from(error));
    for step in Step::DOCUMENT.iter().take_while(|step| **step < failed) {
        let against = match step {
            Step::Root => format!("the root {}", identity::sha256(root)),
            Step::Chain => format!("at {at}"),
            _ => String::new(),
        };
        checks.passed(*step, against);
    }
    checks.note(failed, Outcome::Failed, error.to_string());
}

/// A case whose document is verified.
struct Judging<'a> {
    case: &'a Case<'a>,
    /// The time at which the document was verified.
    at: UnixSeconds,
    anchor: Option<Witness>,
    seen: &'a ObservedCaller<'a>,
    root: &'a [u8],
}

impl Judging<'_> {
    fn judge<A: Attested + Clone>(&self, document: &A, checks: &mut Checks) -> Judged {
        self.pass_document(document, checks);
        if let Some((_, anchored)) = &self.anchor {
            self.check_anchor(anchored, document, checks)?;
        }
        let mut unchecked = self.expectations(document, checks)?;
        if self.seen.evidence.is_none() {
            self.no_identity(&mut unchecked, checks)?;
        }
        let mut verdict = self.verdict(document);
        let mut signer = None;
        if let Some(evidence) = self.seen.evidence {
            let key = self.key(document, evidence, &mut unchecked, checks)?;
            verdict.claims = self.signed(&key, checks)?;
            verdict.key = Some(facts(&key));
            signer = Some(key.signer().clone());
        }
        verdict.unchecked = unchecked;
        if verdict.unchecked.is_empty() || self.case.inspect {
            Ok((verdict, signer))
        } else {
            Err(Reason::Unchecked(verdict.unchecked))
        }
    }

    fn pass_document<A: Attested>(&self, document: &A, checks: &mut Checks) {
        let (said, chain) = (document.document(), document.certificates());
        let validity = document.leaf_validity();
        checks.passed(Step::DocumentForm, format!("of {}", said.module_id));
        checks.passed(Step::Root, format!("the root {}", identity::sha256(self.root)));
        let certificates: Vec<String> = chain.iter().map(|c| format!("serial {} of {}", c.serial, c.issuer)).collect();
        checks.passed(Step::Chain, format!("{} certificates at {}: {}", chain.len(), self.at, certificates.join("; ")));
        checks.passed(Step::DocumentSignature, "ES384 by the last certificate's key");
        checks.passed(Step::DocumentTime, format!("made {}, leaf valid {} to {}", said.made(), validity.start(), validity.end()));
        match A::VERDICT {
            "debug" => {
                checks.note(Step::Mode, Outcome::Failed, "DEBUG mode, which was allowed: the host can read everything in it")
            }
            "mock" => checks.not_checked(Step::Mode, "a MOCK, which was allowed: there is no hardware that could close anything"),
            _ => checks.passed(Step::Mode, "production: PCR0, 1 and 2 are not zero"),
        }
    }

    /// The witness saw it after it was made, and while its leaf certificate was valid.
    fn check_anchor<A: Attested>(&self, anchored: &Anchored, document: &A, checks: &mut Checks) -> Result<(), Error> {
        let result = if anchored.time > *document.leaf_validity().end() {
            Err(Error::AnchorOutsideLeaf)
        } else if anchored.time < document.document().made().plus(-SKEW_SECONDS) {
            Err(Error::AnchorTooEarly)
        } else {
            Ok(())
        };
        checks.take(Step::TimeAnchor, format!("{} by {}, within the leaf's validity", anchored.time, anchored.witness), result)
    }

    /// The time up to which the document is to be judged fresh: the verifier's, or that of the witness.
    fn now(&self) -> UnixSeconds {
        self.anchor.as_ref().map_or(self.case.at, |(_, anchored)| anchored.time)
    }

    fn expectations<A: Attested>(&self, document: &A, checks: &mut Checks) -> Result<Vec<Unchecked>, Reason> {
        let (case, said, appraisal) = (self.case, document.document(), self.case.appraisal);
        let mut unchecked = Vec::new();
        match appraisal {
            Some(policy) => {
                let result = policy.check_denied(said, document.certificates(), &Every);
                match policy.denied() {
                    (0, 0) => checks.not_checked(Step::DenyLists, "the verifier's policy denies nothing"),
                    (images, certificates) => {
                        let against = format!("{images} denied images and {certificates} denied certificates");
                        checks.take(Step::DenyLists, against, result)?;
                    }
                }
            }
            None => checks.not_checked(Step::DenyLists, "no verifier's policy was given"),
        }
        let nothing = Expectations::default();
        match case.nonce {
            Some(nonce) => {
                let result = Expectations { nonce: Some(nonce), ..nothing }.check(said, case.at);
                checks.take(Step::Nonce, HEXLOWER.encode(nonce), result)?;
            }
            None if appraisal.is_some_and(|policy| policy.nonce == Nonce::Optional) => {
                checks.not_checked(Step::Nonce, "none was given, and the verifier's policy asks for none");
            }
            None => {
                checks.not_checked(Step::Nonce, "none was given: any document of this enclave would do, until its leaf expires");
                unchecked.push(Unchecked::Nonce);
            }
        }
        let limits = [case.max_age_seconds, appraisal.and_then(AppraisalPolicy::max_age_seconds)];
        match limits.into_iter().flatten().min() {
            Some(seconds) => {
                let result = Expectations { max_age_seconds: Some(seconds), ..nothing }.check(said, self.now());
                checks.take(Step::Age, format!("at most {seconds} s at {}", self.now()), result)?;
            }
            None => checks.not_checked(Step::Age, "no greatest age was given; the leaf's three hours are the limit"),
        }
        self.check_image(said, &mut unchecked, checks)?;
        self.check_policy(said, &mut unchecked, checks)?;
        Ok(unchecked)
    }

    fn check_image(&self, said: &Document, unchecked: &mut Vec<Unchecked>, checks: &mut Checks) -> Result<(), Error> {
        let listed = self.case.appraisal.filter(|policy| !policy.images.is_empty());
        let given = self.case.measurements;
        if listed.is_none() && given.is_empty() {
            checks.not_checked(Step::Measurements, "none were given: any image would do");
            unchecked.push(Unchecked::Measurements);
            return Ok(());
        }
        let label = listed.and_then(|policy| policy.image(said));
        let good =
            (listed.is_none() || label.is_some()) && (given.is_empty() || given.iter().any(|image| image.match_document(said)));
        let against =
            label.map_or_else(|| format!("one of {} given images", given.len()), |label| format!("the image {label:?}"));
        checks.take(Step::Measurements, against, if good { Ok(()) } else { Err(Error::MeasurementMismatch) })
    }

    fn check_policy(&self, said: &Document, unchecked: &mut Vec<Unchecked>, checks: &mut Checks) -> Result<(), Error> {
        let listed = self.case.appraisal.filter(|policy| !policy.bundles.is_empty());
        let given = self.case.policies;
        if listed.is_none() && given.is_empty() {
            checks.not_checked(Step::Policy, "none was given: any policy would do");
            unchecked.push(Unchecked::Policy);
            return Ok(());
        }
        let committed = said.pcrs().get(16);
        let label = committed.and_then(|pcr16| listed.and_then(|policy| policy.bundle(pcr16)));
        let result = match committed {
            None => Err(Error::PolicyNotCommitted),
            Some(_) if listed.is_some() && label.is_none() => Err(Error::PolicyMismatch),
            Some(pcr16) if !given.is_empty() && !given.iter().any(|policy| policy.pcr16() == *pcr16) => {
                Err(Error::PolicyMismatch)
            }
            Some(_) => Ok(()),
        };
        let against =
            label.map_or_else(|| format!("one of {} given policies", given.len()), |label| format!("the bundle {label:?}"));
        checks.take(Step::Policy, format!("PCR16 against {against}"), result)
    }

    /// A document alone says nothing of identities; a policy that asks for some is not satisfied by it.
    fn no_identity(&self, unchecked: &mut Vec<Unchecked>, checks: &mut Checks) -> Result<(), Error> {
        let Some(policy) = self.case.appraisal else { return Ok(()) };
        if policy.names_identities() {
            checks.not_checked(Step::Identity, "the verifier's policy names identities, and a document alone has none");
            unchecked.push(Unchecked::Identity);
        }
        policy.check_epoch().inspect_err(|error| checks.note(Step::Epoch, Outcome::Failed, error.to_string()))
    }

    /// From the document to the key.
    fn key<A: Attested + Clone>(
        &self,
        document: &A,
        evidence: &Evidence,
        unchecked: &mut Vec<Unchecked>,
        checks: &mut Checks,
    ) -> Result<AttestedKey<A>, Reason> {
        let case = self.case;
        let key = evidence.verify(document, &Expectations::default(), self.at);
        if key.as_ref().is_err_and(|error| *error == Error::PossessionInvalid) {
            checks.passed(Step::Binding, "");
            checks.note(Step::Possession, Outcome::Failed, Error::PossessionInvalid.to_string());
            return Err(Error::PossessionInvalid.into());
        }
        let mut key = checks.take(Step::Binding, format!("the key {}", evidence.key().kid), key)?;
        checks.passed(Step::Possession, "a signature over nonce and document");
        let described = key.description();
        let mut result = Ok(());
        if case.did.is_some_and(|did| did != described.did) || case.identity.is_some_and(|name| name != described.name) {
            result = Err(Error::IdentityMismatch);
        }
        let result = result.and_then(|()| case.appraisal.map_or(Ok(()), |policy| policy.check_did(key.did())));
        let who = format!("{} = {}", described.name, described.did);
        let named =
            case.did.is_some() || case.identity.is_some() || case.appraisal.is_some_and(AppraisalPolicy::names_identities);
        if named {
            checks.take(Step::Identity, who, result)?;
        } else {
            checks.not_checked(Step::Identity, format!("{who}; any identity of an accepted policy would do"));
        }
        match case.appraisal {
            Some(policy) => {
                policy.check_epoch().inspect_err(|error| checks.note(Step::Epoch, Outcome::Failed, error.to_string()))?;
                checks.not_checked(Step::Epoch, "the verifier's policy asks for none");
            }
            None => checks.not_checked(Step::Epoch, "no verifier's policy was given"),
        }
        match case.did_document {
            Some(listed) => {
                let listed = key.require_did_document(listed);
                checks.take(Step::DidDocument, "the DID document that was given", listed)?;
            }
            None if key.did().is_web() => {
                checks.not_checked(Step::DidDocument, "none was given, and evidence never proves a domain");
                unchecked.push(Unchecked::DidDocument);
            }
            None => checks.not_checked(Step::DidDocument, "a did:key names its key itself"),
        }
        Ok(key)
    }

    /// What the key signed.
    fn signed<A: Attested>(&self, key: &AttestedKey<A>, checks: &mut Checks) -> Result<Option<Value>, Reason> {
        let case = self.case;
        let audience = case.audience.or_else(|| case.appraisal.and_then(AppraisalPolicy::audience));
        if case.audience.is_some() && case.appraisal.is_some_and(|p| p.audience().is_some() && p.audience() != case.audience) {
            let error = Error::from(identity::Error::AudienceMismatch);
            checks.note(Step::Audience, Outcome::Failed, "the verifier's policy names another audience than was given");
            return Err(error.into());
        }
        let (result, made, issuer): (Result<Value, Error>, _, _) = match case.subject {
            Subject::Document(_) | Subject::Evidence(_) => return Ok(None),
            Subject::Token { token, .. } => {
                let claimed = identity::token::unverified_claims(token).map_err(Error::from);
                let claimed = claimed.inspect_err(|error| checks.note(Step::Signature, Outcome::Failed, error.to_string()))?;
                let made = UnixSeconds(claimed.iat.max(claimed.nbf));
                let at = if self.anchor.is_some() { made } else { case.at };
                let result = key.verify_token(token, at, audience);
                (result.map(|claims: Claims| serde_json::to_value(claims).unwrap_or_default()), made, claimed.iss)
            }
            Subject::Credential { credential, .. } => {
                let claimed = identity::credential::unverified_begin(credential).map_err(Error::from);
                let made = claimed.inspect_err(|error| checks.note(Step::Signature, Outcome::Failed, error.to_string()))?;
                let at = if self.anchor.is_some() { made } else { case.at };
                let result = key.verify_credential(credential, at, audience);
                (result.and_then(|_| Ok(identity::json::parse(credential)?)), made, key.did().clone())
            }
        };
        let result = match (&self.anchor, result) {
            (Some((_, anchored)), Ok(_)) if anchored.time < made.plus(-identity::SKEW_SECONDS) => Err(Error::AnchorTooEarly),
            (_, result) => result,
        };
        let failed = match &result {
            Ok(_) => None,
            Err(Error::AnchorTooEarly | Error::Identity(identity::Error::Expired | identity::Error::NotYetValid)) => {
                Some(Step::Validity)
            }
            Err(Error::Identity(identity::Error::AudienceMismatch)) => Some(Step::Audience),
            Err(_) => Some(Step::Signature),
        };
        let at = if self.anchor.is_some() { format!("at its own time, {made}") } else { format!("at {}", case.at) };
        let against = [
            (Step::Signature, format!("{} and its binding {}", key.kid(), key.binding())),
            (Step::Validity, at),
            (Step::Audience, format!("{:?}", audience.unwrap_or_default())),
        ];
        for (step, against) in against {
            match failed {
                Some(failed) if step >= failed => {}
                _ if step == Step::Audience && audience.is_none() => {
                    checks.not_checked(step, "it was made for nobody in particular: whoever has it can show it to anybody");
                }
                _ => checks.passed(step, against),
            }
        }
        if let (Some(step), Err(error)) = (failed, &result) {
            checks.note(step, Outcome::Failed, error.to_string());
        }
        let value = result?;
        match case.appraisal.filter(|policy| policy.names_issuers()) {
            Some(policy) => checks.take(Step::Issuer, issuer.to_string(), policy.check_issuer(&issuer))?,
            None => checks.not_checked(Step::Issuer, format!("{issuer}, the attested identity itself")),
        }
        checks.not_checked(Step::Replay, "an offline verifier keeps no record of what it has seen");
        Ok(Some(value))
    }

    fn verdict<A: Attested>(&self, document: &A) -> Verdict {
        let said = document.document();
        let hex = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| HEXLOWER.encode(bytes));
        let archive = |(anchor, anchored): &Witness| Archive { anchor, time: anchored.time, witness: anchored.witness.clone() };
        Verdict {
            verdict: A::VERDICT,
            unchecked: Vec::new(),
            root: identity::sha256(self.root),
            module_id: said.module_id.clone(),
            timestamp: said.made(),
            pcrs: said.pcrs().iter().map(|(index, pcr)| (index.to_string(), Value::String(pcr.to_string()))).collect(),
            nonce: hex(&said.nonce),
            user_data: hex(&said.user_data),
            public_key: hex(&said.public_key),
            certificates: document.certificates().to_vec(),
            anchor_digest: self.seen.digest,
            archive: self.anchor.as_ref().map(archive),
            checks: Vec::new(),
            key: None,
            claims: None,
        }
    }
}

fn facts<A: Attested>(key: &AttestedKey<A>) -> KeyFacts {
    let described = key.description().clone();
    KeyFacts {
        name: described.name,
        did: described.did,
        kid: described.kid,
        version: described.version,
        binding: key.binding(),
        policy: key.bundle().digest().digest(),
        record_key: key.record_key().to_multikey(),
    }
}
