//! What a verifier expects, held step after step: of a document, of the key in it, of what the key
//! signed.

use data_encoding::HEXLOWER;
use identity::{Did, Pcr, UnixSeconds, did};
use policy::PolicyDigest;
use state::{StateFacts, StateId};
use subtle::ConstantTimeEq;

use super::policy::MOST_LISTED;
use crate::evidence::Signed;
use crate::rules::{Every, Rules};
use crate::steps::{Step, Steps};
use crate::{
    AppraisalPolicy, Attested, AttestedKey, Document, Error, Evidence, Measurements, Unchecked,
};

/// What a verifier expects. What is left out is reported as [`Unchecked`], never silently passed.
#[derive(Debug, Clone, Default)]
pub struct Expectations {
    /// The verifier's own challenge.
    pub nonce: Option<Vec<u8>>,
    /// The accepted images; empty for any.
    pub measurements: Vec<Measurements>,
    /// The accepted policies; empty for any.
    pub policies: Vec<PolicyDigest>,
    /// The greatest accepted age of the document in seconds.
    pub max_age_seconds: Option<i64>,
    /// The DID that must be attested; any identity of an accepted policy if not given.
    pub did: Option<String>,
    /// The name of the identity that must be attested; any of an accepted policy if not given.
    pub identity: Option<String>,
    /// The pinned DID document, for did:web.
    pub did_document: Option<did::Document>,
    /// The audience that the verifier is, of a token or credential; without it, only what was made
    /// for nobody in particular.
    pub audience: Option<String>,
    /// The state that the key must be kept in; any, or none, if not given.
    pub state: Option<StateId>,
    /// The verifier policy; what it names must hold besides everything else that is given
    /// here.
    pub appraisal: Option<AppraisalPolicy>,
}

impl Expectations {
    /// Compares a verified document alone with what is expected, for those who have no evidence
    /// file, and gives what nobody expected.
    pub fn check_document(
        &self,
        document: &impl Attested,
        at: UnixSeconds,
    ) -> Result<Vec<Unchecked>, Error> {
        let mut steps = Steps::default();
        self.hold_document(document, at, &Every, &mut steps)?;
        self.hold_no_identity(&mut steps)?;
        Ok(steps.all_unchecked())
    }

    /// The steps from the mode of a document to its policy. It must be fresh at `fresh`.
    pub(crate) fn hold_document(
        &self,
        document: &impl Attested,
        fresh: UnixSeconds,
        rules: &impl Rules,
        steps: &mut Steps,
    ) -> Result<(), Error> {
        let claims = document.document();
        self.hold_deny_lists(document, steps)?;
        self.hold_nonce(claims, rules, steps)?;
        self.hold_age(claims, fresh, steps)?;
        self.hold_measurements(claims, steps)?;
        self.hold_policy(claims, steps)
    }

    fn hold_deny_lists(&self, document: &impl Attested, steps: &mut Steps) -> Result<(), Error> {
        let Some(policy) = &self.appraisal else {
            steps.not_checked(Step::DenyLists, "no verifier policy was given");
            return Ok(());
        };
        let (images, certificates) = policy.denied();
        if (images, certificates) == (0, 0) {
            steps.not_checked(Step::DenyLists, "the verifier policy denies nothing");
            return Ok(());
        }
        policy.check_denied(document.document(), document.certificates())?;
        steps.passed(
            Step::DenyLists,
            format!("{images} denied images and {certificates} denied certificates"),
        );
        Ok(())
    }

    fn hold_nonce(
        &self,
        claims: &Document,
        rules: &impl Rules,
        steps: &mut Steps,
    ) -> Result<(), Error> {
        if let Some(expected) = &self.nonce {
            rules.require(claims.nonce.is_some(), Error::NonceAbsent)?;
            // Where there is none, the rule above has spoken.
            let same = claims
                .nonce
                .as_deref()
                .is_none_or(|nonce| bool::from(nonce.ct_eq(expected)));
            if !same {
                let found = claims.nonce.as_deref().unwrap_or_default();
                let mismatch = Error::NonceMismatch {
                    found: HEXLOWER.encode(found),
                    expected: HEXLOWER.encode(expected),
                };
                rules.require(false, mismatch)?;
            }
            steps.passed(Step::Nonce, HEXLOWER.encode(expected));
        } else if self
            .appraisal
            .as_ref()
            .is_some_and(AppraisalPolicy::nonce_is_optional)
        {
            steps.not_checked(
                Step::Nonce,
                "none was given, and the verifier policy asks for none",
            );
        } else {
            let why =
                "none was given: any document of this enclave would do, until its leaf expires";
            steps.unchecked(Unchecked::Nonce, why);
        }
        Ok(())
    }

    fn hold_age(
        &self,
        claims: &Document,
        fresh: UnixSeconds,
        steps: &mut Steps,
    ) -> Result<(), Error> {
        let limits = [
            self.max_age_seconds,
            self.appraisal
                .as_ref()
                .and_then(AppraisalPolicy::max_age_seconds),
        ];
        let Some(max_seconds) = limits.into_iter().flatten().min() else {
            steps.not_checked(
                Step::Age,
                "no greatest age was given; the leaf's three hours are the limit",
            );
            return Ok(());
        };
        let age_seconds = fresh.0.saturating_sub(claims.made().0);
        if age_seconds > max_seconds {
            return Err(Error::TooOld {
                age_seconds,
                max_seconds,
            });
        }
        steps.passed(Step::Age, format!("at most {max_seconds} s at {fresh}"));
        Ok(())
    }

    fn hold_measurements(&self, claims: &Document, steps: &mut Steps) -> Result<(), Error> {
        let (given, listed) = (
            &self.measurements,
            self.appraisal
                .as_ref()
                .filter(|policy| policy.names_images()),
        );
        if given.is_empty() && listed.is_none() {
            steps.unchecked(
                Unchecked::Measurements,
                "none were given: any image would do",
            );
            return Ok(());
        }
        if !given.is_empty() && !given.iter().any(|image| image.match_document(claims)) {
            let expected = given.iter().map(|image| (None, image.registers()));
            return Err(other_image(claims, expected));
        }
        let against = match listed {
            None => format!("one of {} given images", given.len()),
            Some(policy) => {
                let label = policy.image(claims);
                let other = || other_image(claims, policy.images());
                format!("the image {:?}", label.ok_or_else(other)?)
            }
        };
        steps.passed(Step::Measurements, against);
        Ok(())
    }

    fn hold_policy(&self, claims: &Document, steps: &mut Steps) -> Result<(), Error> {
        let (given, listed) = (
            &self.policies,
            self.appraisal
                .as_ref()
                .filter(|policy| policy.names_bundles()),
        );
        if given.is_empty() && listed.is_none() {
            steps.unchecked(Unchecked::Policy, "none was given: any bundle would do");
            return Ok(());
        }
        let committed = claims.pcrs().get(16).ok_or(Error::PolicyNotCommitted)?;
        if !given.is_empty() && !given.iter().any(|policy| policy.pcr16() == *committed) {
            let expected = given.iter().map(|given| (None, given.pcr16()));
            return Err(other_bundle(committed, expected));
        }
        let against = match listed {
            None => format!("one of {} given bundles", given.len()),
            Some(policy) => {
                let label = policy.bundle(committed);
                let other = || other_bundle(committed, policy.bundles());
                format!("the bundle {:?}", label.ok_or_else(other)?)
            }
        };
        steps.passed(Step::Policy, format!("PCR16 against {against}"));
        Ok(())
    }

    /// A document alone says nothing of identities; a policy that asks for some is not satisfied by
    /// it.
    pub(crate) fn hold_no_identity(&self, steps: &mut Steps) -> Result<(), Error> {
        let Some(policy) = &self.appraisal else {
            return Ok(());
        };
        if policy.names_identities() {
            let why = "the verifier policy names identities, and a document alone has none";
            steps.unchecked(Unchecked::Identity, why);
        }
        policy.check_state(None)
    }

    /// The steps that evidence adds, after the document's: from the document to the key, and whose
    /// it is.
    pub(crate) fn hold_evidence<A: Attested + Clone>(
        &self,
        evidence: &Evidence,
        document: &A,
        steps: &mut Steps,
    ) -> Result<AttestedKey<A>, Error> {
        let mut key = evidence.bind(document, steps)?;
        self.hold_identity(&key, steps)?;
        self.hold_state(key.signer().state(), steps)?;
        self.hold_did_document(&mut key, steps)?;
        self.hold_one_audience(steps)?;
        key.unchecked = steps.all_unchecked();
        Ok(key)
    }

    fn hold_identity<A: Attested>(
        &self,
        key: &AttestedKey<A>,
        steps: &mut Steps,
    ) -> Result<(), Error> {
        let described = key.description();
        let other = |expected: &Option<String>, is: &str| {
            expected.as_deref().is_some_and(|expected| expected != is)
        };
        if other(&self.did, &described.did) || other(&self.identity, &described.name) {
            let expected = [&self.identity, &self.did].map(Option::as_deref);
            return Err(Error::IdentityMismatch {
                found: format!("{} = {}", described.name, described.did),
                expected: expected
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join(" = "),
            });
        }
        let listed = self
            .appraisal
            .as_ref()
            .filter(|policy| policy.names_identities());
        if let Some(policy) = listed {
            policy.check_did(key.did())?;
        }
        let who = format!("{} = {}", described.name, described.did);
        if self.did.is_some() || self.identity.is_some() || listed.is_some() {
            steps.passed(Step::Identity, who);
        } else {
            steps.not_checked(
                Step::Identity,
                format!("{who}; any identity of an accepted bundle would do"),
            );
        }
        Ok(())
    }

    /// Which state the key is kept in, how far that has come, and how it is kept. What evidence does
    /// not say is refused where it is asked for.
    fn hold_state(&self, state: Option<StateFacts>, steps: &mut Steps) -> Result<(), Error> {
        if let Some(expected) = self.state {
            check_state_id(state, expected)?;
        }
        let asked = match &self.appraisal {
            None => false,
            Some(policy) => {
                policy.check_state(state)?;
                policy.names_state()
            }
        };
        let what = match state {
            None => "ephemeral: the key ends with its boot".to_owned(),
            Some(state) => format!(
                "{}: state {}, epoch {}, rollback {}",
                state.custody, state.state, state.epoch, state.rollback
            ),
        };
        match (self.state.is_some() || asked, &self.appraisal) {
            (true, _) => steps.passed(Step::Epoch, what),
            (false, None) => steps.not_checked(
                Step::Epoch,
                format!("{what}; no state was given, and no verifier policy"),
            ),
            (false, Some(_)) => steps.not_checked(
                Step::Epoch,
                format!("{what}; the verifier policy asks for none"),
            ),
        }
        Ok(())
    }

    fn hold_did_document<A: Attested>(
        &self,
        key: &mut AttestedKey<A>,
        steps: &mut Steps,
    ) -> Result<(), Error> {
        if let Some(listed) = &self.did_document {
            key.require_did_document(listed)?;
            steps.passed(Step::DidDocument, "the DID document that was given");
        } else if key.did().is_web() {
            steps.unchecked(
                Unchecked::DidDocument,
                "none was given, and evidence never proves a domain",
            );
        } else {
            steps.not_checked(Step::DidDocument, "a did:key names its key itself");
        }
        Ok(())
    }

    /// The steps after the signature of what the key signed. `witnessed` is when somebody else saw
    /// it: then it is held to its own time.
    pub(crate) fn hold_signed(
        &self,
        signed: &Signed,
        at: UnixSeconds,
        witnessed: Option<UnixSeconds>,
        steps: &mut Steps,
    ) -> Result<(), Error> {
        let begins = signed.begins;
        signed.check_window(if witnessed.is_some() { begins } else { at })?;
        let too_early = |seen: &UnixSeconds| *seen < begins.plus(-identity::SKEW_SECONDS);
        if let Some(time) = witnessed.filter(too_early) {
            return Err(Error::AnchorTooEarly { time, made: begins });
        }
        let when = if witnessed.is_some() {
            format!("at its own time, {begins}")
        } else {
            format!("at {at}")
        };
        steps.passed(Step::Validity, when);
        self.hold_audience(signed, steps)?;
        self.hold_issuer(&signed.issuer, steps)?;
        steps.not_checked(
            Step::Replay,
            "an offline verifier keeps no record of what it has seen",
        );
        Ok(())
    }

    fn hold_audience(&self, signed: &Signed, steps: &mut Steps) -> Result<(), Error> {
        let expected = self.audience.as_deref().or(self.listed_audience());
        signed.check_audience(expected)?;
        match expected {
            Some(audience) => steps.passed(Step::Audience, format!("{audience:?}")),
            None => {
                let why = "it was made for nobody in particular: anybody who has it can show it to others";
                steps.not_checked(Step::Audience, why);
            }
        }
        Ok(())
    }

    fn listed_audience(&self) -> Option<&str> {
        self.appraisal.as_ref().and_then(AppraisalPolicy::audience)
    }

    /// Nothing can be made for two audiences, so a verifier who names two would refuse everything,
    /// and is told so of evidence alone.
    fn hold_one_audience(&self, steps: &mut Steps) -> Result<(), Error> {
        match (self.audience.as_deref(), self.listed_audience()) {
            (Some(given), Some(listed)) if given != listed => {
                let why = format!(
                    "the verifier policy names the audience {listed:?}, and {given:?} was given"
                );
                steps.failed(Step::Audience, why);
                let (named, expected) = (Some(listed.to_owned()), Some(given.to_owned()));
                Err(identity::Error::AudienceMismatch { named, expected }.into())
            }
            _ => Ok(()),
        }
    }

    fn hold_issuer(&self, issuer: &Did, steps: &mut Steps) -> Result<(), Error> {
        match self
            .appraisal
            .as_ref()
            .filter(|policy| policy.names_issuers())
        {
            Some(policy) => {
                policy.check_issuer(issuer)?;
                steps.passed(Step::Issuer, issuer.to_string());
            }
            None => steps.not_checked(
                Step::Issuer,
                format!("{issuer}, the attested identity itself"),
            ),
        }
        Ok(())
    }
}

impl Evidence {
    /// Verifies that the key lives behind `document`, which must have been verified from
    /// [`Evidence::document`], under the policy that the evidence carries, that it answered this
    /// challenge, and that all is as expected. What a token or credential says is held when it is
    /// verified: audience and issuer are not looked at here.
    pub fn verify<A: Attested + Clone>(
        &self,
        document: &A,
        expectations: &Expectations,
        at: UnixSeconds,
    ) -> Result<AttestedKey<A>, Error> {
        let mut steps = Steps::default();
        expectations.hold_document(document, at, &Every, &mut steps)?;
        expectations.hold_evidence(self, document, &mut steps)
    }
}

/// Refuses a key that is kept in another state, or in none.
pub(super) fn check_state_id(state: Option<StateFacts>, expected: StateId) -> Result<(), Error> {
    match state {
        None => Err(Error::StateAbsent {
            wanted: format!("state {expected}"),
        }),
        Some(state) if state.state != expected => Err(Error::StateMismatch {
            found: state.state.to_string(),
            expected: expected.to_string(),
        }),
        Some(_) => Ok(()),
    }
}

/// The refusal of an image: of each accepted one, the first register that differs.
fn other_image<'a>(
    document: &Document,
    accepted: impl Iterator<Item = (Option<&'a str>, Vec<(u8, Pcr)>)>,
) -> Error {
    let differs = |(label, registers): (Option<&str>, Vec<(u8, Pcr)>)| {
        let other = |(index, value): &(u8, Pcr)| document.pcrs().get(*index) != Some(value);
        let (index, value) = registers.into_iter().find(other)?;
        let found = document
            .pcrs()
            .get(index)
            .map_or_else(|| "missing".into(), Pcr::to_string);
        Some(format!("PCR{index} is {found}, {}", of(label, &value)))
    };
    Error::MeasurementMismatch(first_few(accepted.filter_map(differs)))
}

/// The refusal of a bundle.
fn other_bundle<'a>(
    committed: &Pcr,
    accepted: impl Iterator<Item = (Option<&'a str>, Pcr)>,
) -> Error {
    let expected = first_few(accepted.map(|(label, pcr16)| of(label, &pcr16)));
    Error::PolicyMismatch(format!("it is {committed}, {expected}"))
}

fn of(label: Option<&str>, value: &Pcr) -> String {
    match label {
        None => format!("and {value} was expected"),
        Some(label) => format!("and that of {label:?} is {value}"),
    }
}

fn first_few(mut all: impl Iterator<Item = String>) -> String {
    let mut few: Vec<String> = all.by_ref().take(MOST_LISTED).collect();
    match all.count() {
        0 => {}
        more => few.push(format!("and {more} more")),
    }
    few.join("; ")
}
