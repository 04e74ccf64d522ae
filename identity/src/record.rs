//! The decision record: one event for each decision of an enclave, chained, and signed by the record key of that boot.
//!
//! An event is one line of RFC 8785 JSON. Its `signature` is base64url of the CBOR array `[path, head]`: `head` is a COSE_Sign1
//! for [`Purpose::RECORD`] over [`Head`], whose root is that of an RFC 9162 Merkle tree over the events of one batch, and `path`
//! leads there from this event. The leaf is the event without its `signature`. `previous` is the leaf hash of the event before.

use data_encoding::BASE64URL_NOPAD;
use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::cose::{self, Purpose};
use crate::{Caller, Did, Digest, Error, PublicKey, SKEW_SECONDS, Signer, UnixSeconds, cbor, json, merkle, sha256};

/// A line is never longer: 64 KiB.
pub const MAX_LINE: usize = 64 * 1024;
/// One signature covers at most so many events.
pub const MAX_BATCH: usize = 64;

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

/// What an enclave decided, before it has its place in the record. Members that are `null` or missing: there was none, or the
/// request did not get so far.
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
    /// What the sidecar says that its record ended with before this boot; in the first event of a boot only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<End>,
    /// The binding of the key version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Digest<32>>,
    /// Who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<Caller>,
    /// On whose behalf: the first of the chain, if there is more than the agent itself.
    pub delegated_by: Option<String>,
    /// From whom it was delegated, in order, down to the agent.
    pub delegation_chain: Vec<String>,
    /// Who issued each token of the delegation, oldest first: those who vouch for the names in `delegation_chain`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delegation_issuers: Vec<String>,
    /// The agent's DID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub did: Option<Did>,
    /// The environment that its policy binds the agent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// `enclave.boot`, `token.sign`, `token.exchange`, `key.rotate`, `key.attest`, `approval.grant`, `annex.load`.
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
    /// How many refusals made no event since the last one that counted them: of this caller, which has a budget of them, and of callers that
    /// are told apart no more.
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
    /// Cuts what a caller or its issuers wrote until the event has at most `max` bytes, without place and signature. What was cut ends in
    /// `…`; the digest of the request, if it got so far, still says which one it was. What is not theirs stays, however long.
    pub fn shorten(&mut self, max: usize) {
        for limit in [512, 256, 128, 64, 32, 16] {
            if write(self, Digest([0; 16]), Digest([0; 32]), json::MAX_SAFE_INTEGER).is_ok_and(|text| text.len() <= max) {
                return;
            }
            let texts = [&mut self.action, &mut self.target, &mut self.resource, &mut self.delegated_by];
            texts.into_iter().flatten().for_each(|text| cut(text, limit));
            for names in [&mut self.delegation_chain, &mut self.delegation_issuers] {
                names.truncate(16);
                names.iter_mut().for_each(|name| cut(name, limit));
            }
            if let Some(Caller::Asserted(seen)) = &mut self.caller {
                let texts =
                    [&mut seen.container, &mut seen.label, &mut seen.name, &mut seen.pod, &mut seen.socket, &mut seen.unit];
                texts.into_iter().flatten().for_each(|text| cut(text, limit));
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
    pub boot_id: Digest<16>,
    /// Its sequence number.
    pub last: u64,
    /// Its leaf hash.
    pub leaf: Digest<32>,
}

/// Which annex was in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnexId {
    /// SHA-256 of its canonical bytes.
    pub digest: Digest<32>,
    /// Its version.
    pub version: u32,
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
    pub boot_id: Digest<16>,
    /// Leaf hash of the event before; zeros for the first of a boot.
    pub previous: Digest<32>,
    /// 0 for the first of a boot.
    pub sequence: u64,
}

/// An event as it is written: all members in the order of RFC 8785, so that nothing has to be sorted.
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
    boot_id: Digest<16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<WrittenCaller<'a>>,
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
fn write(d: &Decision, boot_id: Digest<16>, previous: Digest<32>, sequence: u64) -> Result<Vec<u8>, Error> {
    let written = Written {
        action: &d.action,
        agent_id: &d.agent_id,
        annex: &d.annex,
        approvals: &d.approvals,
        before: &d.before,
        binding: &d.binding,
        boot_id,
        caller: d.caller.as_ref().map(WrittenCaller::of),
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
    serde_json::to_writer(&mut text, &written).map_err(|error| Error::JsonShape(error.to_string()))?;
    Ok(text)
}

/// What the record key signs: one batch.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Head {
    /// The boot.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub boot_id: [u8; 16],
    /// Sequence number of the first event.
    #[n(1)]
    pub first: u64,
    /// Number of events.
    #[n(2)]
    pub size: u64,
    /// Root of their tree.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub root: [u8; 32],
}

#[derive(Encode, Decode)]
#[cbor(array)]
struct Proof {
    #[n(0)]
    path: Vec<ByteArray<32>>,
    #[cbor(n(1), with = "minicbor::bytes")]
    head: Vec<u8>,
}

/// `agent:<name>:<ed25519 or p256>:<SHA-256 of the SubjectPublicKeyInfo, hex>`.
pub fn agent_id(name: &str, key: &PublicKey) -> String {
    let kind = match key {
        PublicKey::Ed25519(_) => "ed25519",
        PublicKey::P256(_) => "p256",
    };
    format!("agent:{name}:{kind}:{}", sha256(&key.to_spki()))
}

/// Where a record stands: what the next event of a boot follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    boot_id: Digest<16>,
    next: u64,
    previous: Digest<32>,
}

/// Events that have their place and wait for their signature.
#[derive(Debug)]
pub struct Batch {
    boot_id: Digest<16>,
    first: u64,
    leaves: Vec<Digest<32>>,
    texts: Vec<Vec<u8>>,
}

impl Tail {
    /// Of a boot that has decided nothing yet.
    pub fn new(boot_id: [u8; 16]) -> Self {
        Self { boot_id: Digest(boot_id), next: 0, previous: Digest([0; 32]) }
    }

    /// Gives decisions their places. Every batch that is made must be signed, and none may be left out.
    pub fn append(&mut self, decisions: Vec<Decision>) -> Result<Batch, Error> {
        let mut batch = Batch { boot_id: self.boot_id, first: self.next, leaves: Vec::new(), texts: Vec::new() };
        for decision in decisions {
            let text = write(&decision, self.boot_id, self.previous, self.next)?;
            self.previous = merkle::leaf(&text);
            self.next += 1;
            batch.leaves.push(self.previous);
            batch.texts.push(text);
        }
        Ok(batch)
    }
}

impl Batch {
    /// Signs; gives the lines, without line ends.
    pub fn sign<S: Signer>(self, signer: &S) -> Result<Vec<Vec<u8>>, S::Error> {
        let root = merkle::root(&self.leaves).0;
        let head = Head { boot_id: self.boot_id.0, first: self.first, size: self.leaves.len() as u64, root };
        let head = cose::sign(Purpose::RECORD, &cbor::to_vec(&head), signer)?;
        let line = |(index, text): (usize, &Vec<u8>)| {
            let path = merkle::path(index, &self.leaves).into_iter().map(|hash| hash.0.into()).collect();
            with_signature(text, &Proof { path, head: head.clone() })
        };
        Ok(self.texts.iter().enumerate().map(line).collect())
    }
}

const MEMBER: &[u8] = b",\"signature\":\"";

/// Puts the signature where RFC 8785 wants it: of the members after `sequence` only `target`, `timestamp` and `token_id` come
/// later, and `sequence` is always there.
fn with_signature(text: &[u8], proof: &Proof) -> Vec<u8> {
    let at = after_sequence(text).unwrap_or(text.len());
    let mut line = Vec::with_capacity(text.len() + 512);
    line.extend_from_slice(&text[..at]);
    line.extend_from_slice(MEMBER);
    line.extend_from_slice(BASE64URL_NOPAD.encode(&cbor::to_vec(proof)).as_bytes());
    line.push(b'"');
    line.extend_from_slice(&text[at..]);
    line
}

/// The end of the member `sequence`. Its name can stand in no string of the canonical text as such: quotes are escaped there.
fn after_sequence(text: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b",\"sequence\":";
    let begin = text.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    Some(begin + text[begin..].iter().position(|b| !b.is_ascii_digit())?)
}

/// Follows a record line by line.
#[derive(Debug)]
pub struct Reader {
    keys: Vec<PublicKey>,
    boots: Vec<Boot>,
    verified: Option<(Vec<u8>, Head)>,
}

/// What was read of one boot.
#[derive(Debug, Clone)]
pub struct Boot {
    /// Its id.
    pub id: Digest<16>,
    /// Sequence number of the first event that was read; what came before it is not known.
    pub first: u64,
    /// Sequence number of the last one.
    pub last: u64,
    /// What its first event says came before it: its sidecar's claim.
    pub before: Option<End>,
    key: PublicKey,
    leaf: Digest<32>,
    /// The latest time of its events.
    latest: Option<UnixSeconds>,
}

impl Reader {
    /// Reads what any of these keys signed; each boot has one of its own.
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self { keys, boots: Vec::new(), verified: None }
    }

    /// The boots that were read, in the order of the record.
    pub fn boots(&self) -> &[Boot] {
        &self.boots
    }

    /// Keys that signed nothing of what was read: their boots are missing.
    pub fn unused_keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.keys.iter().filter(|key| !self.boots.iter().any(|boot| boot.key == **key))
    }

    /// Verifies the next line: its form, its signature over every member, and that it follows the one before.
    pub fn next(&mut self, line: &[u8]) -> Result<Event, Error> {
        let (event, leaf, key) = self.event(line)?;
        let earlier = self.boots.iter().position(|boot| boot.id == event.boot_id);
        let current = self.boots.len().checked_sub(1);
        let before = event.decision.before;
        if event.sequence > 0 && before.is_some() {
            return Err(Error::RecordInvalid("only the first event of a boot says what came before it"));
        }
        match earlier {
            Some(index) if Some(index) == current => self.boots[index].follow(&event, leaf, &key)?,
            Some(_) => return Err(Error::RecordInvalid("an event of a boot that had ended")),
            None if self.boots.iter().any(|boot| boot.key == key) => {
                return Err(Error::RecordInvalid("a key signed for two boots"));
            }
            None if event.sequence == 0 && event.previous != Digest([0; 32]) => {
                return Err(Error::RecordInvalid("the first event of a boot follows another one"));
            }
            None if event.sequence > 0 && current.is_some() => {
                return Err(Error::RecordGap { from: 0, to: event.sequence - 1 });
            }
            None => {
                if let Some(last) = self.boots.last() {
                    last.is_followed_by(&event)?;
                }
                let (first, last, latest) = (event.sequence, event.sequence, event.decision.timestamp);
                self.boots.push(Boot { id: event.boot_id, first, last, before, key, leaf, latest });
            }
        }
        Ok(event)
    }

    fn event(&mut self, line: &[u8]) -> Result<(Event, Digest<32>, PublicKey), Error> {
        if line.len() > MAX_LINE {
            return Err(Error::RecordInvalid("a line of more than 64 KiB"));
        }
        let value = json::parse(line)?;
        if json::canonical(&value)? != line {
            return Err(Error::RecordInvalid("a line is not in its canonical form"));
        }
        let serde_json::Value::Object(mut object) = value else {
            return Err(Error::RecordInvalid("a line is not an object"));
        };
        let Some(serde_json::Value::String(signature)) = object.remove("signature") else {
            return Err(Error::RecordInvalid("a line has no signature"));
        };
        let text = json::canonical(&object)?;
        let event: Event = serde_json::from_value(object.into()).map_err(|error| Error::JsonShape(error.to_string()))?;
        if json::canonical(&event)? != text {
            return Err(Error::RecordInvalid("a line holds a member that no event has"));
        }
        let proof = BASE64URL_NOPAD.decode(signature.as_bytes()).map_err(|_| Error::Base64("a record's signature"))?;
        let proof: Proof = cbor::from_slice(&proof)?;
        let (head, key) = self.head(&proof.head)?;
        let path: Vec<Digest<32>> = proof.path.iter().map(|hash| Digest(**hash)).collect();
        let leaf = merkle::leaf(&text);
        let index = event.sequence.checked_sub(head.first);
        let root = index.and_then(|index| merkle::root_of(leaf, index, head.size, &path));
        if head.boot_id != event.boot_id.0 || root != Some(Digest(head.root)) {
            return Err(Error::SignatureInvalid);
        }
        Ok((event, leaf, key))
    }

    /// The events of one batch have one signature, which is verified once.
    fn head(&mut self, bytes: &[u8]) -> Result<(Head, PublicKey), Error> {
        if let Some((known, head)) = &self.verified
            && known == bytes
            && let Some(boot) = self.boots.last().filter(|boot| boot.id.0 == head.boot_id)
        {
            return Ok((head.clone(), boot.key.clone()));
        }
        let good = |key: &&PublicKey| cose::verify(Purpose::RECORD, bytes, key).is_ok();
        let key = self.keys.iter().find(good).ok_or(Error::SignatureInvalid)?;
        let head: Head = cbor::from_slice(cose::verify(Purpose::RECORD, bytes, key)?)?;
        self.verified = Some((bytes.to_vec(), head.clone()));
        Ok((head, key.clone()))
    }
}

impl Boot {
    fn follow(&mut self, event: &Event, leaf: Digest<32>, key: &PublicKey) -> Result<(), Error> {
        if event.sequence <= self.last {
            return Err(Error::RecordInvalid("an event stands twice, or out of its order"));
        }
        if event.sequence > self.last + 1 {
            return Err(Error::RecordGap { from: self.last + 1, to: event.sequence - 1 });
        }
        if event.previous != self.leaf || *key != self.key {
            return Err(Error::RecordInvalid("an event does not follow the one before it"));
        }
        (self.last, self.leaf) = (event.sequence, leaf);
        self.latest = self.latest.max(event.decision.timestamp);
        Ok(())
    }

    /// Whether this first event of another boot says that it follows what was read of this one, and is not of an earlier time.
    fn is_followed_by(&self, event: &Event) -> Result<(), Error> {
        let end = End { boot_id: self.id, last: self.last, leaf: self.leaf };
        if event.decision.before != Some(end) {
            return Err(Error::RecordInvalid(
                "the first event of a boot says that something else came before it: a boot, or the end of one, is missing or stands elsewhere",
            ));
        }
        match (self.latest, event.decision.timestamp) {
            (Some(latest), Some(begin)) if begin.plus(SKEW_SECONDS) < latest => {
                Err(Error::RecordInvalid("a boot began before the one before it ended"))
            }
            _ => Ok(()),
        }
    }
}

/// Which boot and place an event claims, before anything is verified: to sort lines, never to trust.
pub fn unverified_place(line: &[u8]) -> Result<(Digest<16>, u64), Error> {
    #[derive(Deserialize)]
    struct Place {
        boot_id: Digest<16>,
        sequence: u64,
    }
    let place: Place = serde_json::from_slice(line).map_err(|error| Error::JsonShape(error.to_string()))?;
    Ok((place.boot_id, place.sequence))
}

/// The end of a record whose last line this is. Nothing is verified: it is what a sidecar claims.
pub fn unverified_end(line: &[u8]) -> Result<End, Error> {
    let (boot_id, last) = unverified_place(line)?;
    let serde_json::Value::Object(mut object) = json::parse(line)? else {
        return Err(Error::RecordInvalid("a line is not an object"));
    };
    object.remove("signature");
    Ok(End { boot_id, last, leaf: merkle::leaf(&json::canonical(&object)?) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{Proven, Seen};
    use crate::message::tests::TestKey;

    fn decision(n: i64) -> Decision {
        let key = TestKey::ed25519(7);
        Decision {
            action: Some("write".into()),
            agent_id: Some(agent_id("code-reviewer", key.public_key())),
            annex: Some(AnnexId { digest: sha256(b"annex"), version: 3 }),
            approvals: vec![Approval { key: key.public_key().thumbprint(), name: "alice".into() }],
            before: None,
            binding: Some(sha256(b"binding")),
            caller: Some(Caller::Asserted(Seen { executable: Some(sha256(b"exe")), ..Seen::ids(1000, 1000) })),
            delegated_by: Some("user:sre-oncall".into()),
            delegation_chain: vec!["user:sre-oncall".into(), "agent:code-reviewer".into()],
            delegation_issuers: vec!["https://idp.example".into()],
            did: Some(Did::key(key.public_key())),
            environment: Some("staging".into()),
            event_type: "token.sign".into(),
            expires_at: Some(UnixSeconds(n + 300)),
            key_version: Some(1),
            policy_decision: Verdict::Allow,
            policy_digest: Digest([4; 48]),
            policy_id: "comments@0123456789abcdef".into(),
            refusal: Some("x".into()),
            refusals_unrecorded: Some(7),
            request_digest: Some(sha256(b"request")),
            resource: Some("a \" and ,\"sequence\":7".into()),
            target: Some("42".into()),
            timestamp: Some(UnixSeconds(n)),
            token_id: Some("id".into()),
        }
    }

    fn lines(key: &TestKey, boot: u8, batches: &[usize]) -> Vec<Vec<u8>> {
        let mut tail = Tail::new([boot; 16]);
        let mut lines = Vec::new();
        for size in batches {
            let decisions = (0..*size).map(|n| decision(1000 + n as i64)).collect();
            lines.extend(tail.append(decisions).unwrap().sign(key).unwrap());
        }
        lines
    }

    /// Another boot, which says with what the record ended before it, and when.
    fn next_boot(key: &TestKey, boot: u8, before: Option<End>, at: i64, more: usize) -> Vec<Vec<u8>> {
        let mut tail = Tail::new([boot; 16]);
        let begin = vec![Decision { before, ..decision(at) }];
        let mut lines = tail.append(begin).unwrap().sign(key).unwrap();
        lines.extend((0..more).flat_map(|n| tail.append(vec![decision(at + n as i64)]).unwrap().sign(key).unwrap()));
        lines
    }

    fn end(lines: &[Vec<u8>]) -> Option<End> {
        Some(unverified_end(lines.last().unwrap()).unwrap())
    }

    fn read(keys: &[&TestKey], lines: &[Vec<u8>]) -> Result<usize, Error> {
        let mut reader = Reader::new(keys.iter().map(|key| key.public_key().clone()).collect());
        lines.iter().try_for_each(|line| reader.next(line).map(|_| ())).map(|()| reader.boots().len())
    }

    #[test]
    fn a_record_reads_whatever_its_batches() {
        let (a, b) = (TestKey::ed25519(1), TestKey::ed25519(2));
        let one = lines(&a, 1, &[1, 3, 1, 8, 2]);
        let two = next_boot(&b, 2, end(&one), 1010, 1);
        assert_eq!(read(&[&a], &one), Ok(1));
        assert_eq!(read(&[&b, &a], &[&one[..], &two[..]].concat()), Ok(2));
        assert_eq!(read(&[&b, &a], &one[4..]), Ok(1));
        assert_eq!(read(&[&b], &one), Err(Error::SignatureInvalid));
        assert_eq!(read(&[&a, &b], &[&one[..], &two[1..]].concat()), Err(Error::RecordGap { from: 0, to: 0 }));
        assert_eq!(
            read(&[&a, &b], &[&one[..], &two[..], &one[..]].concat()),
            Err(Error::RecordInvalid("an event of a boot that had ended"))
        );
        assert_eq!(
            read(&[&a], &[&one[..], &next_boot(&a, 2, end(&one), 1010, 0)[..]].concat()),
            Err(Error::RecordInvalid("a key signed for two boots"))
        );
        let event = Reader::new(vec![a.public_key().clone()]).next(&one[0]).unwrap();
        assert_eq!((event.decision, event.sequence, event.boot_id), (decision(1000), 0, Digest([1; 16])));
        // A boot whose first lines are missing is refused as often as it is shown.
        let mut reader = Reader::new(vec![a.public_key().clone(), b.public_key().clone()]);
        one.iter().for_each(|line| assert!(reader.next(line).is_ok()));
        for _ in 0..2 {
            assert_eq!(reader.next(&two[1]), Err(Error::RecordGap { from: 0, to: 0 }));
        }
        assert_eq!(unverified_place(&one[5]), Ok((Digest([1; 16]), 5)));
        // As with the lines of another program that writes RFC 8785.
        let value: serde_json::Value = serde_json::from_slice(&one[7]).unwrap();
        assert_eq!(json::canonical(&value).unwrap(), one[7]);
    }

    #[test]
    fn an_agent_is_named_by_its_key() {
        for (key, kind) in crate::message::tests::both().iter().zip(["ed25519", "p256"]) {
            let fingerprint = sha256(&key.public_key().to_spki());
            assert_eq!(agent_id("a", key.public_key()), format!("agent:a:{kind}:{fingerprint}"));
        }
    }

    #[test]
    fn the_first_event_of_a_boot_follows_none() {
        let key = TestKey::ed25519(1);
        let mut tail = Tail { previous: Digest([9; 32]), ..Tail::new([1; 16]) };
        let line = tail.append(vec![decision(1)]).unwrap().sign(&key).unwrap();
        assert_eq!(read(&[&key], &line), Err(Error::RecordInvalid("the first event of a boot follows another one")));
    }

    #[test]
    fn what_others_wrote_into_a_refusal_is_cut_until_it_fits() {
        let key = TestKey::ed25519(7);
        let long = |c: char| Some(c.to_string().repeat(4000));
        let mut decision = decision(1000);
        (decision.action, decision.target, decision.resource, decision.delegated_by) =
            (long('"'), long('ä'), long('\\'), long('x'));
        decision.delegation_chain = vec!["\"".repeat(500); 40];
        decision.delegation_issuers = vec!["y".repeat(500); 40];
        let texts =
            Seen { unit: long('"'), label: long('"'), pod: long('"'), socket: long('"'), name: long('"'), ..Seen::ids(1, 1) };
        decision.caller = Some(Caller::Asserted(Seen { container: long('"'), ..texts }));
        decision.shorten(3500);
        let line =
            Tail::new([1; 16]).append(vec![decision.clone(); MAX_BATCH]).unwrap().sign(&key).unwrap().remove(MAX_BATCH - 1);
        assert!(line.len() <= 4096 && line.len() > 2000, "{}", line.len());
        assert!(decision.action.unwrap().ends_with('…') && decision.target.unwrap().ends_with("ä…"));
        // What fits stays as it is.
        let small = self::decision(1000);
        let mut same = small.clone();
        same.shorten(3500);
        assert_eq!(same, small);
    }

    #[test]
    fn a_line_has_at_most_64_kib() {
        let key = TestKey::ed25519(1);
        let read = |length| read(&[&key], &["x".repeat(length).into_bytes()]).unwrap_err();
        let longer = Error::RecordInvalid("a line of more than 64 KiB");
        assert_ne!(read(MAX_LINE), longer);
        assert_eq!(read(MAX_LINE + 1), longer);
    }

    #[test]
    fn boots_are_chained_and_none_is_missing_moved_or_cut_in_between() {
        let keys = [1, 2, 3].map(TestKey::ed25519);
        let [a, b, c] = &keys;
        let one = lines(a, 1, &[1, 3]);
        let two = next_boot(b, 2, end(&one), 1010, 3);
        let three = next_boot(c, 3, end(&two), 1020, 1);
        let all = |parts: &[&[Vec<u8>]]| read(&[a, b, c], &parts.concat());
        let elsewhere = Error::RecordInvalid(
            "the first event of a boot says that something else came before it: a boot, or the end of one, is missing or stands elsewhere",
        );
        assert_eq!(all(&[&one, &two, &three]), Ok(3));
        assert_eq!(all(&[&two, &three]), Ok(2));
        // A boot left out; moved; the end of one cut off, or its beginning.
        assert_eq!(all(&[&one, &three]), Err(elsewhere.clone()));
        assert_eq!(all(&[&two, &one]), Err(elsewhere.clone()));
        assert_eq!(all(&[&one, &three, &two]), Err(elsewhere.clone()));
        assert_eq!(all(&[&one, &two[..2], &three]), Err(elsewhere.clone()));
        assert_eq!(all(&[&one[..3], &two]), Err(elsewhere.clone()));
        assert_eq!(all(&[&one, &two[1..], &three]), Err(Error::RecordGap { from: 0, to: 0 }));
        // One that says that nothing came before it, where something did; the end of another history.
        assert_eq!(all(&[&one, &next_boot(b, 2, None, 1010, 1)]), Err(elsewhere.clone()));
        for change in [&|end: &mut End| end.last += 1, &|end: &mut End| end.leaf = sha256(b""), &|end: &mut End| {
            end.boot_id = Digest([9; 16])
        }] as [&dyn Fn(&mut End); 3]
        {
            let mut other = end(&one).unwrap();
            change(&mut other);
            assert_eq!(all(&[&one, &next_boot(b, 2, Some(other), 1010, 0)]), Err(elsewhere.clone()));
        }
        // Time goes on from boot to boot, but for what clocks may differ.
        let at = |time| all(&[&one, &next_boot(b, 2, end(&one), time, 0)]);
        assert_eq!(at(1002 - SKEW_SECONDS), Ok(2));
        assert_eq!(at(1001 - SKEW_SECONDS), Err(Error::RecordInvalid("a boot began before the one before it ended")));
        // Only a first event says what came before.
        let mut tail = Tail::new([2; 16]);
        let mut late = tail.append(vec![decision(1)]).unwrap().sign(b).unwrap();
        late.extend(tail.append(vec![Decision { before: end(&one), ..decision(1) }]).unwrap().sign(b).unwrap());
        assert_eq!(read(&[b], &late), Err(Error::RecordInvalid("only the first event of a boot says what came before it")));
        // A key that signed nothing is of a boot that is missing.
        let mut reader = Reader::new(keys.iter().map(|key| key.public_key().clone()).collect());
        [&two[..], &three].concat().iter().for_each(|line| drop(reader.next(line).unwrap()));
        assert_eq!(reader.unused_keys().collect::<Vec<_>>(), [a.public_key()]);
        assert_eq!((reader.boots()[0].before, reader.boots()[1].before), (end(&one), end(&two)));
    }

    #[test]
    fn what_is_taken_out_or_swapped_is_found() {
        let key = TestKey::ed25519(1);
        let good = lines(&key, 1, &[1, 3, 1, 8, 2]);
        for at in 1..good.len() - 1 {
            let mut less = good.clone();
            less.remove(at);
            assert_eq!(read(&[&key], &less), Err(Error::RecordGap { from: at as u64, to: at as u64 }));
            let mut swapped = good.clone();
            swapped.swap(at, at + 1);
            assert!(read(&[&key], &swapped).is_err(), "{at}");
            let mut twice = good.clone();
            twice.insert(at, good[at].clone());
            assert_eq!(read(&[&key], &twice), Err(Error::RecordInvalid("an event stands twice, or out of its order")));
        }
        // Two histories of one boot by the same key: as if an enclave had forked.
        let mut tail = Tail::new([1; 16]);
        let other = tail.append(vec![decision(5)]).unwrap().sign(&key).unwrap();
        let second = tail.append(vec![decision(6)]).unwrap().sign(&key).unwrap();
        assert_eq!(
            read(&[&key], &[&good[..1], &second[..]].concat()),
            Err(Error::RecordInvalid("an event does not follow the one before it"))
        );
        assert_eq!(read(&[&key], &[other, second].concat()), Ok(1));
    }

    #[test]
    fn every_member_of_every_event_is_signed() {
        let key = TestKey::ed25519(1);
        let good = lines(&key, 1, &[1, 5]);
        let mut changes = 0;
        for at in 0..good.len() {
            let value: serde_json::Value = serde_json::from_slice(&good[at]).unwrap();
            let mut changed = Vec::new();
            variants(&value, &mut changed);
            for other in changed {
                let mut lines = good.clone();
                lines[at] = json::canonical(&other).unwrap();
                assert!(read(&[&key], &lines).is_err(), "{other}");
                changes += 1;
            }
        }
        assert!(changes > 6 * 60, "{changes}");
    }

    /// The value with each of its leaves changed, each of its members left out, and a member more.
    fn variants(value: &serde_json::Value, out: &mut Vec<serde_json::Value>) {
        use serde_json::Value;
        match value {
            Value::Object(map) => {
                for (name, member) in map {
                    let mut less = map.clone();
                    less.remove(name);
                    out.push(less.into());
                    let mut inner = Vec::new();
                    variants(member, &mut inner);
                    out.extend(inner.into_iter().map(|new| {
                        let mut map = map.clone();
                        map.insert(name.clone(), new);
                        Value::Object(map)
                    }));
                }
                let mut more = map.clone();
                more.insert("admin".into(), Value::Bool(true));
                out.push(more.into());
            }
            Value::Array(items) => {
                for at in 0..items.len() {
                    let mut less = items.clone();
                    less.remove(at);
                    out.push(less.into());
                    let mut inner = Vec::new();
                    variants(&items[at], &mut inner);
                    out.extend(inner.into_iter().map(|new| {
                        let mut items = items.clone();
                        items[at] = new;
                        Value::Array(items)
                    }));
                }
            }
            Value::String(text) => out.extend([format!("{text}x").into(), text.chars().rev().collect::<String>().into()]),
            Value::Number(number) => out.push((number.as_u64().unwrap() + 1).into()),
            Value::Bool(bit) => out.push((!bit).into()),
            Value::Null => out.push("x".into()),
        }
        if let Value::String(text) = value
            && text.chars().eq(text.chars().rev())
        {
            out.pop();
        }
    }

    #[test]
    fn what_is_written_is_canonical_whoever_asked() {
        let seen = Seen {
            container: Some("c\u{7f}\u{1}\"".into()),
            executable: Some(sha256(b"x")),
            label: Some("l".into()),
            name: Some("n".into()),
            pod: Some("p".into()),
            socket: Some("s".into()),
            unit: Some("é\u{10000}\u{e000}/".into()),
            ..Seen::ids(1, 2)
        };
        let proven = Proven { key: "k".into(), measurement: Some(Digest([1; 48])), name: "n".into() };
        for caller in [None, Some(Caller::Asserted(seen)), Some(Caller::Proven(proven)), Some(Caller::Asserted(Seen::default()))]
        {
            for full in [true, false] {
                let mut decision = Decision { caller: caller.clone(), ..decision(7) };
                if !full {
                    decision = Decision {
                        action: None,
                        agent_id: None,
                        annex: None,
                        approvals: Vec::new(),
                        before: None,
                        binding: None,
                        delegated_by: None,
                        delegation_chain: Vec::new(),
                        delegation_issuers: Vec::new(),
                        did: None,
                        environment: None,
                        expires_at: None,
                        key_version: None,
                        refusal: None,
                        refusals_unrecorded: None,
                        request_digest: None,
                        resource: None,
                        target: None,
                        timestamp: None,
                        token_id: None,
                        ..decision
                    };
                }
                let (boot_id, previous) = (Digest([1; 16]), Digest([2; 32]));
                let written = write(&decision, boot_id, previous, 9).unwrap();
                let event = Event { decision, boot_id, previous, sequence: 9 };
                assert_eq!(written, json::canonical(&event).unwrap());
            }
        }
    }

    #[test]
    fn lines_of_another_form_are_refused() {
        let key = TestKey::ed25519(1);
        let good = lines(&key, 1, &[1]).remove(0);
        let text = String::from_utf8(good).unwrap();
        let proven = Caller::Proven(Proven { key: "k".into(), measurement: None, name: "n".into() });
        assert!(serde_json::to_string(&proven).unwrap().contains("\"strength\":\"proven\""));
        for other in [
            format!(" {text}"),
            format!("{text}\n"),
            text.replacen("\"sequence\":0", "\"sequence\":00", 1),
            text.replacen("{\"action\"", "{\"action\":\"x\",\"action\"", 1),
            "[]".into(),
            "{}".into(),
            String::new(),
            "x".repeat(MAX_LINE + 1),
        ] {
            assert!(read(&[&key], &[other.into_bytes()]).is_err());
        }
    }
}
