//! Receipts of calls to services: the two lines of the decision record that belong to a call, held
//! against the evidence of the enclave that wrote them. Offline.

use attestation::{
    Evidence, Expectations, Measurements, MockRoot, Subject, Verdict, Verifier, unverified_time,
};
use identity::{Digest, PublicKey};
use policy::{Bundle, PolicyDigest};
use record::{Event, Reader, Verdict as Decided};

/// What a verifier of receipts knows beforehand.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// The images that are believed; any, if none is named.
    pub measurements: Vec<Measurements>,
    /// The bundles that are believed; any, if none is named.
    pub policies: Vec<PolicyDigest>,
    /// The root of the mock that is believed too.
    pub mock_root: Option<MockRoot>,
}

/// A call, as an enclave wrote it down.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// That it was allowed: written before a byte left.
    pub open: Event,
    /// How it ended; none if that is not known.
    pub close: Option<Event>,
    /// What was verified of the enclave.
    pub enclave: Verdict,
}

/// Why a receipt is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// The evidence is not believed.
    #[error("the evidence: {0}")]
    Evidence(String),
    /// A line is none that this enclave signed.
    #[error("a line of this call is not signed by the record key of the evidence: {0}")]
    Line(String),
    /// No line is of this call.
    #[error("no line says that this call was allowed")]
    NoOpen,
    /// The lines contradict each other.
    #[error("the lines contradict each other: {0}")]
    Contradiction(&'static str),
}

/// Verifies the lines of a call among these, in their order.
pub fn verify<'l>(
    lines: impl IntoIterator<Item = &'l [u8]>,
    call: Digest<32>,
    evidence: &[u8],
    expected: &Expected,
) -> Result<Receipt, ReceiptError> {
    let (enclave, bundle, key) = judge(evidence, expected)?;
    let name = call.to_string();
    let names_it = |line: &&[u8]| contains(line, name.as_bytes());
    let (mut open, mut close) = (None, None);
    let mut seen: Vec<&[u8]> = Vec::new();
    for line in lines.into_iter().filter(names_it) {
        // Whoever asks for a path with this name in it has a line that names it, and is of no call.
        if !says_call(line, &name) || seen.contains(&line) {
            continue;
        }
        seen.push(line);
        // Each line is signed for itself.
        let event = Reader::new(vec![key.clone()]).next(line);
        let event = event.map_err(|error| ReceiptError::Line(error.to_string()))?;
        let credential = event.decision.credential.as_ref();
        if credential.and_then(|credential| credential.call) != Some(call) {
            continue;
        }
        if event.decision.policy_digest != bundle.digest() {
            return Err(ReceiptError::Contradiction(
                "a line is of another bundle than the evidence",
            ));
        }
        let slot = match event.decision.event_type.as_str() {
            "credential.open" if event.decision.policy_decision == Decided::Allow => &mut open,
            "credential.close" => &mut close,
            _ => continue,
        };
        if slot.replace(event).is_some() {
            return Err(ReceiptError::Contradiction("a call begins or ends twice"));
        }
    }
    let open = open.ok_or(ReceiptError::NoOpen)?;
    if let Some(close) = &close {
        check_pair(&open, close)?;
    }
    Ok(Receipt {
        open,
        close,
        enclave,
    })
}

fn check_pair(open: &Event, close: &Event) -> Result<(), ReceiptError> {
    if open.boot_id != close.boot_id || open.sequence >= close.sequence {
        return Err(ReceiptError::Contradiction(
            "it ended before it began, or in another boot",
        ));
    }
    let (before, after) = (&open.decision, &close.decision);
    let service = |event: &Event| {
        event
            .decision
            .credential
            .as_ref()
            .map(|of| of.service.clone())
    };
    let same = before.request_digest == after.request_digest
        && before.resource == after.resource
        && before.agent_id == after.agent_id
        && before.caller == after.caller
        && service(open) == service(close);
    if same {
        Ok(())
    } else {
        Err(ReceiptError::Contradiction(
            "it ended as another call than it began",
        ))
    }
}

/// The evidence, at its own time: that it is that old is nobody's word but its own.
fn judge(
    evidence: &[u8],
    expected: &Expected,
) -> Result<(Verdict, PolicyDigest, PublicKey), ReceiptError> {
    let wrong = |why: String| ReceiptError::Evidence(why);
    let read = Evidence::parse(evidence).map_err(|error| wrong(error.to_string()))?;
    let at = unverified_time(read.document()).map_err(|error| wrong(error.to_string()))?;
    let verifier = Verifier {
        expectations: Expectations {
            measurements: expected.measurements.clone(),
            policies: expected.policies.clone(),
            ..Expectations::default()
        },
        allow_mock: expected.mock_root.clone(),
        inspect: true,
        ..Verifier::at(at)
    };
    let verdict = verifier
        .judge(Subject::Evidence(evidence))
        .map_err(|refusal| wrong(format!("{}: {refusal}", refusal.code())))?;
    let key = PublicKey::from_spki(read.record()).map_err(|error| wrong(error.to_string()))?;
    let bundle = Bundle::from_canonical(read.bundle()).map_err(|error| wrong(error.to_string()))?;
    Ok((verdict, bundle.digest(), key))
}

/// Whether a line says of itself that it is of this call. Nothing of it is verified.
fn says_call(line: &[u8], call: &str) -> bool {
    let line = serde_json::from_slice::<serde_json::Value>(line);
    line.is_ok_and(|line| line["credential"]["call"] == call)
}

fn contains(line: &[u8], text: &[u8]) -> bool {
    line.windows(text.len()).any(|window| window == text)
}
