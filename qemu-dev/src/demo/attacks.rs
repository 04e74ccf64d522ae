//! The forgeries: each alters one thing in what was accepted.

use attestation::{Evidence, Expectations, MockRoot, Refusal, Subject, Verdict, Verifier};
use policy::Bundle;

use super::forge;
use super::{Accepted, Attack};
use crate::authority::Authority;
use crate::nsm::os_random;
use crate::{Error, State};

/// Just over the three hours that a document's leaf lives.
const PAST_THE_LEAF: i64 = 3 * 3600 + 60;

/// Tries every forgery.
pub(super) fn all(accepted: &Accepted, state: &State) -> Result<Vec<Attack>, Error> {
    let Accepted { token, evidence, .. } = accepted;
    let parsed = Evidence::parse(evidence)?;
    let with_token = |token: &str| accepted.verifier().judge(Subject::Token { token, evidence });
    let with_evidence = |evidence: &[u8]| accepted.verifier().judge(Subject::Token { token, evidence });
    let with_verifier = |verifier: Verifier| verifier.judge(accepted.subject());
    let expecting = |expectations| with_verifier(Verifier { expectations, ..accepted.verifier() });
    let at = |seconds| with_verifier(Verifier { at: accepted.at.plus(seconds), ..accepted.verifier() });
    let good = || accepted.expectations();
    let trusting = |root| with_verifier(Verifier { allow_mock: root, ..accepted.verifier() });

    let payload = forge::token_part(token, 1, |claims| forge::replace(claims, b"account_123", b"account_666"));
    let signature = forge::token_part(token, 2, |signature| signature[0] ^= 1);
    let mut altered = parsed.document().to_vec();
    let pcr0 = accepted.measurements[0].pcr0.0;
    let mut other_pcr0 = pcr0;
    other_pcr0[0] ^= 1;
    forge::replace(&mut altered, &pcr0, &other_pcr0);
    let mut other_image = accepted.measurements.clone();
    other_image[0].pcr0.0[0] ^= 1;
    let wider = wider_policy(state)?;
    let swapped_policy = Evidence::new(
        parsed.document().to_vec(),
        parsed.key().clone(),
        wider.canonical(),
        parsed.record().to_vec(),
        parsed.possession().to_vec(),
    );
    let mut renamed = parsed.key().clone();
    renamed.version += 1;
    let renamed = Evidence::new(
        parsed.document().to_vec(),
        renamed,
        parsed.bundle().to_vec(),
        parsed.record().to_vec(),
        parsed.possession().to_vec(),
    );
    let other = Evidence::parse(&accepted.other_evidence)?;
    let borrowed = Evidence::new(
        parsed.document().to_vec(),
        parsed.key().clone(),
        parsed.bundle().to_vec(),
        parsed.record().to_vec(),
        other.possession().to_vec(),
    );
    let now = u64::try_from(accepted.at.0).unwrap_or_default();
    let foreign_root = MockRoot::from_der(&Authority::new(now, &mut os_random).root_der())?;

    let attack = |name, expected_code, outcome: Result<Verdict, Refusal>| Attack {
        name,
        expected_code,
        actual_code: outcome.map_or_else(|refusal| refusal.code().to_owned(), |_| "accepted".to_owned()),
    };
    Ok(vec![
        attack("payload: another recipient", "signature_invalid", with_token(&payload)),
        attack("signature: one bit", "signature_invalid", with_token(&signature)),
        attack("key of another identity", "token_binding_mismatch", with_token(&accepted.other_token)),
        attack("token past its time", "expired", at(400)),
        attack(
            "token for somebody else",
            "audience_mismatch",
            expecting(Expectations { audience: Some("https://bank.example".into()), ..good() }),
        ),
        attack("evidence: one bit of PCR0", "document_signature_invalid", with_evidence(&forge::document(&parsed, altered))),
        attack("evidence: another key version", "binding_mismatch", with_evidence(&renamed.to_vec())),
        attack("evidence: a wider policy", "policy_mismatch", with_evidence(&swapped_policy.to_vec())),
        attack("possession proven for another nonce", "possession_invalid", with_evidence(&borrowed.to_vec())),
        attack("nonce: evidence for another challenge", "nonce_mismatch", with_evidence(&accepted.other_evidence)),
        attack(
            "measurement: another image",
            "measurement_mismatch",
            expecting(Expectations { measurements: other_image, ..good() }),
        ),
        attack(
            "policy: another bundle expected",
            "policy_mismatch",
            expecting(Expectations { policies: vec![wider.digest()], ..good() }),
        ),
        attack("mock offered as genuine", "root_untrusted", trusting(None)),
        attack("mock of another root", "root_untrusted", trusting(Some(foreign_root))),
        attack("document past its leaf", "certificate_expired", at(PAST_THE_LEAF)),
        attack("verifier that forgot its nonce", "unchecked", expecting(Expectations { nonce: None, ..good() })),
    ])
}

/// The same bundle, but signatures may live for a day.
fn wider_policy(state: &State) -> Result<Bundle, Error> {
    let text = std::fs::read_to_string(state.policy()).map_err(super::io)?;
    Ok(Bundle::from_toml(&text.replace("max_validity_seconds = 3600", "max_validity_seconds = 86400"))?)
}
