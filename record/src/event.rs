//! What was decided, and how it is written.

use identity::{AnnexId, BootId, Caller, Did, Digest, Error, UnixSeconds, json};
use serde::{Deserialize, Serialize};

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It was done.
    Allow,
    /// It was refused.
    Deny,
    /// It waits for an approval.
    Pending,
}

/// What an enclave decided, before it has its place in the record. Members that are `null` or
/// missing: there was none, or the request did not get so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// `intent.action`.
    pub action: Option<String>,
    /// `agent:<name>:<ed25519 or p256>:<SHA-256 of the SubjectPublicKeyInfo>`.
    pub agent_id: Option<String>,
    /// Version and digest of the annex in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annex: Option<AnnexId>,
    /// Those who approved it: name and thumbprint of each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
    /// What the sidecar says that its record ended with before this boot; in the first event of a
    /// boot only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<End>,
    /// The binding of the key version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Digest<32>>,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Caller>,
    /// What was done with a credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
    /// On whose behalf: the first of the chain, if there is more than the agent itself.
    pub delegated_by: Option<String>,
    /// From whom it was delegated, in order, down to the agent.
    pub delegation_chain: Vec<String>,
    /// Who issued each token of the delegation, oldest first: those who vouch for the names in
    /// `delegation_chain`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delegation_issuers: Vec<String>,
    /// The agent's DID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub did: Option<Did>,
    /// The environment that its policy binds the agent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// `enclave.boot`, `token.sign`, `token.exchange`, `key.rotate`, `key.attest`,
    /// `approval.grant`, `annex.load`, `credential.put`, `credential.open`, `credential.close`.
    pub event_type: String,
    /// End of validity of what was signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<UnixSeconds>,
    /// Version of the key that signed, or would have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_version: Option<u32>,
    /// The decision.
    pub policy_decision: Verdict,
    /// Digest of the policy bundle.
    pub policy_digest: Digest<48>,
    /// The rule that decided, `@`, and the first 16 digits of the bundle's digest.
    pub policy_id: String,
    /// Why it was refused: the code that the caller was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// How many refusals made no event since the last one that counted them: of this caller, which
    /// has a budget of them, and of callers that are told apart no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusals_unrecorded: Option<u64>,
    /// SHA-256 of the request in its canonical form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_digest: Option<Digest<32>>,
    /// `intent.resource`.
    pub resource: Option<String>,
    /// `intent.target`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// When, by the NSM; at the earliest. `null` while the time is not known.
    pub timestamp: Option<UnixSeconds>,
    /// `jti` of the token, or the UUID of the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
}

impl Decision {
    /// Cuts what a caller or its issuers wrote until the event has at most `max` bytes, without
    /// place and signature. What was cut ends in `…`; the digest of the request, if it got so far,
    /// still says which one it was. What is not theirs stays, however long.
    pub fn shorten(&mut self, max: usize) {
        for limit in [512, 256, 128, 64, 32, 16] {
            if write(
                self,
                BootId::new([0; 16]),
                Digest([0; 32]),
                json::MAX_SAFE_INTEGER,
            )
            .is_ok_and(|text| text.len() <= max)
            {
                return;
            }
            let texts = [
                &mut self.action,
                &mut self.target,
                &mut self.resource,
                &mut self.delegated_by,
            ];
            texts
                .into_iter()
                .flatten()
                .for_each(|text| cut(text, limit));
            for names in [&mut self.delegation_chain, &mut self.delegation_issuers] {
                names.truncate(16);
                names.iter_mut().for_each(|name| cut(name, limit));
            }
            if let Some(Caller::Asserted(seen)) = &mut self.caller {
                let texts = [
                    &mut seen.container,
                    &mut seen.label,
                    &mut seen.name,
                    &mut seen.pod,
                    &mut seen.socket,
                    &mut seen.unit,
                ];
                texts
                    .into_iter()
                    .flatten()
                    .for_each(|text| cut(text, limit));
            }
        }
    }
}

/// Leaves at most `max` bytes and a sign that there were more.
fn cut(text: &mut String, max: usize) {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.push('…');
    }
}

/// The last event of a boot in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// The boot.
    pub boot_id: BootId,
    /// Its sequence number.
    pub last: u64,
    /// Its leaf hash.
    pub leaf: Digest<32>,
}

/// What was done with a credential of somebody else. Members that are missing do not belong to this
/// type of event. They stand in the order of RFC 8785.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Of one call: the same in its `credential.open` and its `credential.close`. SHA-256 of the
    /// ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<Digest<32>>,
    /// What it costs at most, in micro-dollars; at its end, what it did cost, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u64>,
    /// How the call ended: `complete`, or what kept it from that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<String>,
    /// SHA-256 of the headers that are sent, without the credential: of their CBOR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Digest<32>>,
    /// Whether the agent's TLS ended in the enclave, so that its host could neither read the request nor
    /// change it: `true`, or not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<bool>,
    /// How long the body of the request is, if that was known before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Method of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Whether a token was asked for with the credential, for this call: `true`, or not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minted: Option<bool>,
    /// Bytes of the answer's body that were passed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// SHA-256 of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_digest: Option<Digest<32>>,
    /// Bytes of the request's body that were sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
    /// SHA-256 of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_digest: Option<Digest<32>>,
    /// Name of the service.
    pub service: String,
    /// SHA-256 of the SubjectPublicKeyInfo that the service showed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spki: Option<Digest<32>>,
    /// HTTP status of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Tokens of the prompt: at most; at the end, as the service says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_in: Option<u64>,
    /// Tokens of the answer: at most; at the end, as the service says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_out: Option<u64>,
    /// Version of the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Whether a WebSocket was asked for: `true`, or not said. What was sent and received are the payloads of its messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websocket: Option<bool>,
}

/// Who approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// RFC 7638 thumbprint of the approver's key.
    pub key: String,
    /// Its name in the policy.
    pub name: String,
}

/// An event: a decision with its place in the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What was decided.
    #[serde(flatten)]
    pub decision: Decision,
    /// The boot of the enclave that decided.
    pub boot_id: BootId,
    /// Leaf hash of the event before; zeros for the first of a boot.
    pub previous: Digest<32>,
    /// 0 for the first of a boot.
    pub sequence: u64,
}

/// An event as it is written: all members in the order of RFC 8785, so that nothing has to be
/// sorted.
#[derive(Serialize)]
struct Written<'a> {
    action: &'a Option<String>,
    agent_id: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annex: &'a Option<AnnexId>,
    #[serde(skip_serializing_if = "<[Approval]>::is_empty")]
    approvals: &'a [Approval],
    #[serde(skip_serializing_if = "Option::is_none")]
    before: &'a Option<End>,
    #[serde(skip_serializing_if = "Option::is_none")]
    binding: &'a Option<Digest<32>>,
    boot_id: BootId,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<WrittenCaller<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: &'a Option<Credential>,
    delegated_by: &'a Option<String>,
    delegation_chain: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    delegation_issuers: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    did: &'a Option<Did>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: &'a Option<String>,
    event_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: &'a Option<UnixSeconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_version: &'a Option<u32>,
    policy_decision: Verdict,
    policy_digest: &'a Digest<48>,
    policy_id: &'a str,
    previous: Digest<32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusals_unrecorded: &'a Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_digest: &'a Option<Digest<32>>,
    resource: &'a Option<String>,
    sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: &'a Option<String>,
    timestamp: &'a Option<UnixSeconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: &'a Option<String>,
}

/// The members of a caller; `strength` stands among them.
#[derive(Serialize)]
struct WrittenCaller<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<Digest<32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    measurement: Option<Digest<48>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket: Option<&'a str>,
    strength: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
}

impl<'a> WrittenCaller<'a> {
    fn of(caller: &'a Caller) -> Self {
        let none = Self {
            container: None,
            executable: None,
            gid: None,
            key: None,
            label: None,
            measurement: None,
            name: None,
            pod: None,
            socket: None,
            strength: "asserted",
            uid: None,
            unit: None,
        };
        match caller {
            Caller::Asserted(seen) => Self {
                container: seen.container.as_deref(),
                executable: seen.executable,
                gid: seen.gid,
                label: seen.label.as_deref(),
                name: seen.name.as_deref(),
                pod: seen.pod.as_deref(),
                socket: seen.socket.as_deref(),
                uid: seen.uid,
                unit: seen.unit.as_deref(),
                ..none
            },
            Caller::Proven(proven) => Self {
                key: Some(&proven.key),
                measurement: proven.measurement,
                name: Some(&proven.name),
                strength: "proven",
                ..none
            },
        }
    }
}

/// The canonical form of an event without its signature.
pub(crate) fn write(
    d: &Decision,
    boot_id: BootId,
    previous: Digest<32>,
    sequence: u64,
) -> Result<Vec<u8>, Error> {
    let written = Written {
        action: &d.action,
        agent_id: &d.agent_id,
        annex: &d.annex,
        approvals: &d.approvals,
        before: &d.before,
        binding: &d.binding,
        boot_id,
        caller: d.caller.as_ref().map(WrittenCaller::of),
        credential: &d.credential,
        delegated_by: &d.delegated_by,
        delegation_chain: &d.delegation_chain,
        delegation_issuers: &d.delegation_issuers,
        did: &d.did,
        environment: &d.environment,
        event_type: &d.event_type,
        expires_at: &d.expires_at,
        key_version: &d.key_version,
        policy_decision: d.policy_decision,
        policy_digest: &d.policy_digest,
        policy_id: &d.policy_id,
        previous,
        refusal: &d.refusal,
        refusals_unrecorded: &d.refusals_unrecorded,
        request_digest: &d.request_digest,
        resource: &d.resource,
        sequence,
        target: &d.target,
        timestamp: &d.timestamp,
        token_id: &d.token_id,
    };
    let mut text = Vec::with_capacity(2048);
    serde_json::to_writer(&mut text, &written)
        .map_err(|error| Error::JsonShape(error.to_string()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_says_so_and_what_fits_stays() {
        for (text, wanted) in [("abcd", "abcd"), ("abcde", "abcd…"), ("abc\u{e9}", "abc…")] {
            let mut text = text.to_owned();
            cut(&mut text, 4);
            assert_eq!(text, wanted);
        }
    }
}
