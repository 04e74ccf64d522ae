//! The forgeries: each alters one thing in what was accepted.

use attestation::{
    Evidence, Expectations, KeyDescription, MockRoot, Refusal, Subject, Verdict, Verifier,
};
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
    let wider = wider_policy(state)?;
    let attacks = [
        on_the_token(accepted),
        on_the_evidence(accepted, &wider)?,
        on_the_verifier(accepted, &wider)?,
    ];
    Ok(attacks.into_iter().flatten().collect())
}

fn attack(
    name: &'static str,
    expected_code: &'static str,
    outcome: Result<Verdict, Refusal>,
) -> Attack {
    let actual_code = outcome.map_or_else(
        |refusal| refusal.code().to_owned(),
        |_| "accepted".to_owned(),
    );
    Attack {
        name,
        expected_code,
        actual_code,
    }
}

/// Another token, judged by the same verifier.
fn on_the_token(accepted: &Accepted) -> Vec<Attack> {
    let Accepted {
        token, evidence, ..
    } = accepted;
    let judged = |token: &str| {
        accepted
            .verifier()
            .judge(Subject::Token { token, evidence })
    };
    let payload = forge::token_part(token, 1, |claims| {
        forge::replace(claims, b"account_123", b"account_666")
    });
    let signature = forge::token_part(token, 2, |signature| signature[0] ^= 1);
    vec![
        attack(
            "payload: another recipient",
            "signature_invalid",
            judged(&payload),
        ),
        attack(
            "signature: one bit",
            "signature_invalid",
            judged(&signature),
        ),
        attack(
            "key of another identity",
            "token_binding_mismatch",
            judged(&accepted.other_token),
        ),
    ]
}

/// Other evidence for the same token.
fn on_the_evidence(accepted: &Accepted, wider: &Bundle) -> Result<Vec<Attack>, Error> {
    let Accepted {
        token, evidence, ..
    } = accepted;
    let judged = |evidence: &[u8]| {
        accepted
            .verifier()
            .judge(Subject::Token { token, evidence })
    };
    let parsed = Evidence::parse(evidence)?;
    let mut altered = parsed.document().to_vec();
    let pcr0 = accepted.measurements[0].pcr0.0;
    let mut other_pcr0 = pcr0;
    other_pcr0[0] ^= 1;
    forge::replace(&mut altered, &pcr0, &other_pcr0);
    let mut renamed = parsed.key().clone();
    renamed.version += 1;
    let other = Evidence::parse(&accepted.other_evidence)?;
    let with = |key: &KeyDescription, bundle: Vec<u8>, possession: &[u8]| {
        let (document, record) = (parsed.document().to_vec(), parsed.record().to_vec());
        Evidence::new(
            document,
            key.clone(),
            bundle,
            record,
            None,
            possession.to_vec(),
        )
        .to_vec()
    };
    let (key, bundle, possession) = (parsed.key(), parsed.bundle(), parsed.possession());
    let renamed = with(&renamed, bundle.to_vec(), possession);
    let swapped = with(key, wider.canonical(), possession);
    let borrowed = with(key, bundle.to_vec(), other.possession());
    Ok(vec![
        attack(
            "evidence: one bit of PCR0",
            "document_signature_invalid",
            judged(&forge::document(&parsed, altered)),
        ),
        attack(
            "evidence: another key version",
            "binding_mismatch",
            judged(&renamed),
        ),
        attack(
            "evidence: a wider policy",
            "policy_mismatch",
            judged(&swapped),
        ),
        attack(
            "possession proven for another nonce",
            "possession_invalid",
            judged(&borrowed),
        ),
        attack(
            "nonce: evidence for another challenge",
            "nonce_mismatch",
            judged(&accepted.other_evidence),
        ),
    ])
}

/// The same token and evidence, shown to a verifier who expects something else.
fn on_the_verifier(accepted: &Accepted, wider: &Bundle) -> Result<Vec<Attack>, Error> {
    let judged = |verifier: Verifier| verifier.judge(accepted.subject());
    let good = || accepted.expectations();
    let expecting = |expectations| {
        judged(Verifier {
            expectations,
            ..accepted.verifier()
        })
    };
    let at = |seconds| {
        judged(Verifier {
            at: accepted.at.plus(seconds),
            ..accepted.verifier()
        })
    };
    let trusting = |root| {
        judged(Verifier {
            allow_mock: root,
            ..accepted.verifier()
        })
    };
    let mut measurements = accepted.measurements.clone();
    measurements[0].pcr0.0[0] ^= 1;
    let audience = Some("https://bank.example".to_owned());
    let policies = vec![wider.digest()];
    let now = u64::try_from(accepted.at.0).unwrap_or_default();
    let foreign_root = MockRoot::from_der(&Authority::new(now, &mut os_random).root_der())?;
    let (image, bundle) = (
        Expectations {
            measurements,
            ..good()
        },
        Expectations { policies, ..good() },
    );
    let (somebody, forgotten) = (
        Expectations { audience, ..good() },
        Expectations {
            nonce: None,
            ..good()
        },
    );
    Ok(vec![
        attack("token past its time", "expired", at(400)),
        attack(
            "token for somebody else",
            "audience_mismatch",
            expecting(somebody),
        ),
        attack(
            "measurement: another image",
            "measurement_mismatch",
            expecting(image),
        ),
        attack(
            "policy: another bundle expected",
            "policy_mismatch",
            expecting(bundle),
        ),
        attack("mock offered as genuine", "root_untrusted", trusting(None)),
        attack(
            "mock of another root",
            "root_untrusted",
            trusting(Some(foreign_root)),
        ),
        attack(
            "document past its leaf",
            "certificate_expired",
            at(PAST_THE_LEAF),
        ),
        attack(
            "verifier that forgot its nonce",
            "unchecked",
            expecting(forgotten),
        ),
    ])
}

/// The same bundle, but signatures may live for a day.
fn wider_policy(state: &State) -> Result<Bundle, Error> {
    let text = std::fs::read_to_string(state.policy()).map_err(super::io)?;
    Ok(Bundle::from_toml(&text.replace(
        "max_validity_seconds = 3600",
        "max_validity_seconds = 86400",
    ))?)
}
