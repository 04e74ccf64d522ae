//! Requests and answers.

use identity::caller::ObservedCaller;
use identity::{ApprovalId, BootId, Format, Tee};
use minicbor::{Decode, Encode};
use state::StateFacts;

use crate::credentials::{
    AttestedAuthority, CredentialEpochs, KeptCredential, OpenCredential, OpenSealed, OpenedSealed,
    SealedCredential, Ticket,
};
use crate::keeping::{KmsSigned, Part, Piece, SignKms, StateStatus};
use crate::refusal::Refusal;
use crate::requester::Requester;

/// A request and the id under which its answer comes back.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct RequestFrame {
    /// Chosen by the proxy; unique among the requests under way on this connection.
    #[n(0)]
    pub id: u64,
    /// What is asked.
    #[n(1)]
    pub request: Request,
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ResponseFrame {
    /// The id of the request.
    #[n(0)]
    pub id: u64,
    /// What came of it.
    #[n(1)]
    pub outcome: Outcome,
    /// The event of the record, a line without its end, if something was decided. The proxy writes
    /// it before it hands out the outcome.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub event: Option<Vec<u8>>,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// Done.
    #[n(0)]
    Done(#[n(0)] Answer),
    /// Refused.
    #[n(1)]
    Refused(#[n(0)] Refusal),
}

/// What can be asked of an enclave.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// How are you?
    #[n(0)]
    Status,
    /// Take this policy; once per boot.
    #[n(1)]
    Provision {
        /// Canonical bytes of the bundle.
        #[cbor(n(0), with = "minicbor::bytes")]
        bundle: Vec<u8>,
        /// With what the proxy's record ended before this boot; none if it has nothing yet.
        #[n(1)]
        before: Option<RecordEnd>,
    },
    /// Sign.
    #[n(2)]
    Sign(#[n(0)] Sign),
    /// Give evidence for a key.
    #[n(3)]
    Attest {
        /// Which identity, for whom.
        #[n(0)]
        requester: Requester,
        /// The verifier's challenge, 16 to 64 bytes.
        #[cbor(n(1), with = "minicbor::bytes")]
        nonce: Vec<u8>,
    },
    /// Describe an identity.
    #[n(4)]
    Describe(#[n(0)] Requester),
    /// Replace an identity's key.
    #[n(5)]
    Rotate(#[n(0)] Rotate),
    /// Take this annex in place of the one before.
    #[n(6)]
    Annex {
        /// As the operator signed it.
        #[cbor(n(0), with = "minicbor::bytes")]
        signed: Vec<u8>,
    },
    /// Give events of the record again, as far as they are remembered.
    #[n(7)]
    Records {
        /// Sequence number of the first one.
        #[n(0)]
        from: u64,
    },
    /// Take up a delegation (RFC 8693). The answer is [`Answer::Signed`].
    #[n(8)]
    Exchange(#[n(0)] Exchange),
    /// Show a request that waits for an approval.
    #[n(9)]
    GetApproval {
        /// Its id.
        #[n(0)]
        id: ApprovalId,
    },
    /// Approve a request that waits. The answer is [`Answer::PendingApproval`].
    #[n(10)]
    Approve {
        /// [`identity::request::Approval`] as a compact JWS.
        #[n(0)]
        jws: String,
    },
    /// What may a caller use, and what is left of its limits?
    #[n(11)]
    Overview {
        /// Who asks, as the parent asserts it.
        #[n(0)]
        caller: ObservedCaller,
        /// Every identity, whoever may use it: for those who run the sidecar.
        #[n(1)]
        all: bool,
    },
    /// How is the state? The answer is [`Answer::State`].
    #[n(12)]
    State,
    /// Give a document for the operator who is to order a birth: its `user_data` is
    /// [`state::birth_data`]. The answer is [`Answer::Document`].
    #[n(13)]
    BirthDocument {
        /// The operator's challenge, 16 to 64 bytes.
        #[cbor(n(0), with = "minicbor::bytes")]
        nonce: Vec<u8>,
    },
    /// Give birth to a state. The answer is [`Answer::SignKms`].
    #[n(14)]
    Birth {
        /// [`state::Order`], as the operator signed it.
        #[cbor(n(0), with = "minicbor::bytes")]
        order: Vec<u8>,
    },
    /// Take a piece of a part. The answer is [`Answer::State`].
    #[n(15)]
    PutPiece(#[n(0)] Piece),
    /// Give a piece of a part of the seal that waits to be stored. The answer is [`Answer::Piece`].
    #[n(16)]
    GetPiece {
        /// Of which part.
        #[n(0)]
        part: Part,
        /// Where it begins.
        #[n(1)]
        offset: u32,
    },
    /// Open the state whose parts were put. The answer is [`Answer::SignKms`].
    #[n(17)]
    OpenState,
    /// Ask KMS over the line that was lent. The answer is [`Answer::State`].
    #[n(18)]
    AskKms(#[n(0)] KmsSigned),
    /// The seal that waited is stored, and was read back and put again. The answer is
    /// [`Answer::State`], or [`Answer::Rotated`] to a rotation, or [`Answer::Epochs`] to an order about keys K3.
    #[n(19)]
    Stored,
    /// Give a document that attests the key to which credentials are sealed: its `public_key` is that
    /// key. The answer is [`Answer::Document`].
    #[n(20)]
    SealingKey {
        /// The operator's challenge, 16 to 64 bytes.
        #[cbor(n(0), with = "minicbor::bytes")]
        nonce: Vec<u8>,
    },
    /// Make an envelope of a credential. The answer is [`Answer::Credential`].
    #[n(21)]
    PutCredential {
        /// The operator's order, as it was signed.
        #[cbor(n(0), with = "minicbor::bytes")]
        order: Vec<u8>,
    },
    /// Use a credential for one request to its service. The answer is [`Answer::Opened`].
    #[n(22)]
    OpenCredential(#[n(0)] OpenCredential),
    /// Write down how the call of this ticket ended. The answer is [`Answer::Closed`].
    #[n(23)]
    CloseCredential {
        /// Of a call that has ended.
        #[n(0)]
        ticket: Ticket,
    },
    /// Which keys K3 are there? The answer is [`Answer::Epochs`].
    #[n(24)]
    Epochs,
    /// Have one more key K3, or fewer. The answer is [`Answer::Epochs`], or [`Answer::State`] where that
    /// must be stored first.
    #[n(25)]
    SetEpochs {
        /// The operator's order, as it was signed.
        #[cbor(n(0), with = "minicbor::bytes")]
        order: Vec<u8>,
    },
    /// Make the envelope of a credential anew, under the key K3 of now. The answer is
    /// [`Answer::Credential`].
    #[n(26)]
    RewrapCredential(#[n(0)] KeptCredential),
    /// Use a credential for one request that came through the ingress process. The answer is
    /// [`Answer::OpenedSealed`].
    #[n(27)]
    OpenSealed(#[n(0)] OpenSealed),
    /// Take a lease, while which credentials may be used. The answer is [`Answer::Leased`].
    #[n(29)]
    Lease {
        /// As it was signed.
        #[cbor(n(0), with = "minicbor::bytes")]
        signed: Vec<u8>,
    },
    /// A credential that was put is kept: no older one is used any more. The answer is [`Answer::Kept`].
    #[n(30)]
    CredentialKept(#[n(0)] KeptCredential),
    /// Seal how much may be used of budgets that outlive the boot. The answer is [`Answer::State`], or
    /// [`Answer::Kept`] if no more is wanted.
    #[n(31)]
    KeepBudgets,
    /// Give the authority of the ingress process, and a document that attests it. The answer is
    /// [`Answer::Authority`].
    #[n(28)]
    Authority {
        /// A challenge, 16 to 64 bytes.
        #[cbor(n(0), with = "minicbor::bytes")]
        nonce: Vec<u8>,
    },
}

/// Answers, one kind for each kind of request.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// To [`Request::Status`] and [`Request::Provision`].
    #[n(0)]
    Status(#[n(0)] Status),
    /// To [`Request::Sign`].
    #[n(1)]
    Signed(#[n(0)] Signed),
    /// To [`Request::Attest`].
    #[n(2)]
    Evidence(#[n(0)] Evidence),
    /// To [`Request::Describe`].
    #[n(3)]
    Description(#[n(0)] Description),
    /// To [`Request::Rotate`].
    #[n(4)]
    Rotated(#[n(0)] Rotated),
    /// To [`Request::Records`].
    #[n(5)]
    Records(#[n(0)] Records),
    /// A request waits: to [`Request::Sign`] where the rule wants an approval, to
    /// [`Request::GetApproval`] and [`Request::Approve`].
    #[n(6)]
    PendingApproval(#[n(0)] PendingApproval),
    /// To [`Request::Overview`].
    #[n(7)]
    Overview(#[n(0)] Overview),
    /// How the state is; to [`Request::Rotate`] where the new key must be stored first.
    #[n(8)]
    State(#[n(0)] StateStatus),
    /// To [`Request::BirthDocument`] and [`Request::SealingKey`].
    #[n(9)]
    Document(#[n(0)] Evidence),
    /// To [`Request::Birth`] and [`Request::OpenState`].
    #[n(10)]
    SignKms(#[n(0)] SignKms),
    /// To [`Request::GetPiece`].
    #[n(11)]
    Piece(#[n(0)] Piece),
    /// To [`Request::PutCredential`] and [`Request::RewrapCredential`].
    #[n(12)]
    Credential(#[n(0)] SealedCredential),
    /// To [`Request::OpenCredential`].
    #[n(13)]
    Opened(#[n(0)] Ticket),
    /// To [`Request::CloseCredential`]: the record has it.
    #[n(14)]
    Closed,
    /// To [`Request::Epochs`] and [`Request::SetEpochs`].
    #[n(15)]
    Epochs(#[n(0)] CredentialEpochs),
    /// To [`Request::OpenSealed`].
    #[n(16)]
    OpenedSealed(#[n(0)] OpenedSealed),
    /// To [`Request::Lease`]: when it ends, in seconds since 1970.
    #[n(18)]
    Leased(#[n(0)] i64),
    /// To [`Request::CredentialKept`].
    #[n(19)]
    Kept,
    /// To [`Request::Authority`].
    #[n(17)]
    Authority(#[n(0)] AttestedAuthority),
}

/// What is to be signed. The enclave parses and checks all of it again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Sign {
    /// Which identity, for whom.
    #[n(0)]
    pub requester: Requester,
    /// Form of the result.
    #[n(1)]
    pub format: Format,
    /// `intent.action`.
    #[n(2)]
    pub action: String,
    /// `intent.target`, may be empty.
    #[n(3)]
    pub target: String,
    /// `intent.resource`, may be empty.
    #[n(4)]
    pub resource: String,
    /// A JSON object.
    #[n(5)]
    pub payload: String,
    /// For whom the result is made.
    #[n(6)]
    pub audience: Option<String>,
    /// For how long it shall be valid.
    #[n(7)]
    pub validity_seconds: Option<u32>,
    /// The caller's own signature over the request, if it has a key.
    #[n(8)]
    pub proof: Option<PresentedProof>,
    /// On whose behalf it is asked: a token of this identity's own, or a JSON array of grants, root
    /// first.
    #[n(9)]
    pub delegation: Option<String>,
    /// Id of the approval that it waited for.
    #[n(10)]
    pub approval: Option<ApprovalId>,
    /// `intent.delegatee`: to whom it is granted, if it is a grant.
    #[n(11)]
    pub delegatee: Option<String>,
}

/// A request that waits for an approval: all that its digest is made of.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct PendingApproval {
    /// Random.
    #[n(0)]
    pub id: ApprovalId,
    /// The boot in which it waits.
    #[n(1)]
    pub boot_id: BootId,
    /// Digest of the request.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub request: [u8; 32],
    /// It waits until then, seconds since 1970.
    #[n(3)]
    pub expires_at: i64,
    /// Whether it was approved.
    #[n(4)]
    pub approved: bool,
    /// The request in its canonical form: RFC 8785 JSON.
    #[n(5)]
    pub canonical: String,
    /// Names of those who may approve it.
    #[n(6)]
    pub by: Vec<String>,
}

/// A token exchange (RFC 8693 section 2.1); the actor is the caller's identity.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Exchange {
    /// Which identity, for whom.
    #[n(0)]
    pub requester: Requester,
    /// `subject_token`.
    #[n(1)]
    pub subject_token: String,
    /// `scope`.
    #[n(2)]
    pub scope: Option<String>,
    /// `resource`.
    #[n(3)]
    pub resource: Option<String>,
    /// `audience`.
    #[n(4)]
    pub audience: Option<String>,
    /// The caller's own signature over the request, if it has a key.
    #[n(5)]
    pub proof: Option<PresentedProof>,
}

/// What a caller with a key of its own shows, end to end.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct PresentedProof {
    /// [`identity::request::CallerProof`] as a compact JWS.
    #[n(0)]
    pub jws: String,
    /// The attestation document of the caller's enclave, which names the key.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub document: Option<Vec<u8>>,
}

/// The last event of a boot in the proxy's record. The enclave writes it down as the proxy's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct RecordEnd {
    /// The boot.
    #[n(0)]
    pub boot_id: BootId,
    /// Sequence number of its last event.
    #[n(1)]
    pub last: u64,
    /// Leaf hash of that event.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub leaf: [u8; 32],
}

/// Events of the record, as they were when they were made.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Records {
    /// Lines without their ends, in their order, the first being the one that was asked for or the
    /// oldest that is remembered.
    #[n(0)]
    pub lines: Vec<minicbor::bytes::ByteVec>,
    /// Sequence number of the first event that cannot be given yet; it may be below the one that was
    /// asked for.
    #[n(1)]
    pub next: u64,
}

/// A signature was made.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Signed {
    /// The token, the credential's JSON, or the envelope.
    #[n(0)]
    pub signed: String,
    /// The identity's DID.
    #[n(1)]
    pub did: String,
    /// `jti` of the token, or the UUID of the credential's id.
    #[n(2)]
    pub signature_id: String,
    /// End of validity, seconds since 1970; an envelope has none, and this is its time.
    #[n(3)]
    pub expires_at: i64,
    /// Version of the key that signed.
    #[n(4)]
    pub key_version: u32,
    /// Name of the identity that signed.
    #[n(5)]
    pub identity: String,
    /// The rule that allowed it.
    #[n(6)]
    pub rule: String,
    /// What remains of a delegated scope.
    #[n(7)]
    pub scope: Option<String>,
}

/// An evidence file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Evidence {
    /// Its bytes.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub evidence: Vec<u8>,
}

/// An identity's key in rotation.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Rotate {
    /// Which identity, for whom.
    #[n(0)]
    pub requester: Requester,
    /// The operator's order, a COSE_Sign1; not needed by callers whom the policy lets rotate.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub order: Option<Vec<u8>>,
    /// The caller's own signature, if it has a key and no order.
    #[n(2)]
    pub proof: Option<PresentedProof>,
}

/// A key was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Rotated {
    /// The identity with its new key.
    #[n(0)]
    pub description: Description,
    /// The successor statement.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub statement: Vec<u8>,
}

/// One version of an identity's key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct VersionFacts {
    /// 1 for the first key of a boot, or of a state.
    #[n(0)]
    pub version: u32,
    /// The DID for which it stood; did:key changes with the key.
    #[n(1)]
    pub did: String,
    /// DID URL of the key.
    #[n(2)]
    pub kid: String,
    /// DER SubjectPublicKeyInfo.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub spki: Vec<u8>,
    /// What its tokens name.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub binding: [u8; 32],
    /// The statement by which it became the successor of the version before; none for the first.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub succession: Option<Vec<u8>>,
}

/// An identity and its keys.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Description {
    /// Name in the policy.
    #[n(0)]
    pub name: String,
    /// Its versions, oldest first; the last one signs. At most the sixteen newest.
    #[n(1)]
    pub versions: Vec<VersionFacts>,
    /// Where the key lives.
    #[cbor(n(2), with = "tee")]
    pub tee: Tee,
    /// Random for each boot.
    #[n(3)]
    pub boot_id: BootId,
    /// The state that its keys are kept in; none if they end with the boot.
    #[n(4)]
    pub state: Option<StateFacts>,
}

/// How an enclave is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Status {
    /// Random for each boot.
    #[n(0)]
    pub boot_id: BootId,
    /// Digest of the policy, once there is one.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub policy: Option<[u8; 48]>,
    /// Why it cannot sign now: the code of a refusal that every signature would get.
    #[n(2)]
    pub cannot_sign: Option<String>,
    /// Where the keys live.
    #[cbor(n(3), with = "tee")]
    pub tee: Tee,
    /// SHA-256 of the annex in force.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub annex: Option<[u8; 32]>,
}

/// What a caller may use, and what is left of its limits.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Overview {
    /// The time lies between these two, seconds since 1970; none if it is not known.
    #[n(0)]
    pub now: Option<(i64, i64)>,
    /// Version of the annex in force.
    #[n(1)]
    pub annex_version: Option<u32>,
    /// Sequence number of the next event of the record.
    #[n(2)]
    pub next: u64,
    /// The identities that the caller may use.
    #[n(3)]
    pub identities: Vec<IdentityOverview>,
}

/// An identity, and what is left of its limits.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct IdentityOverview {
    /// Name in the bundle.
    #[n(0)]
    pub name: String,
    /// Its DID now.
    #[n(1)]
    pub did: String,
    /// Version of its key.
    #[n(2)]
    pub key_version: u32,
    /// Its own limits, then those of its rules.
    #[n(3)]
    pub limits: Vec<LimitsLeft>,
}

/// The limits of an identity or of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LimitsLeft {
    /// The rule; none if they are the identity's own.
    #[n(0)]
    pub rule: Option<String>,
    /// In the order of the bundle.
    #[n(1)]
    pub limits: Vec<LimitLeft>,
}

/// A limit, and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LimitLeft {
    /// RFC 6901 pointer to what is summed up in the payload; none where requests are counted.
    #[n(0)]
    pub amount: Option<String>,
    /// In which time.
    #[n(1)]
    pub per_seconds: u64,
    /// What it allows.
    #[n(2)]
    pub max: u64,
    /// What is left of it now.
    #[n(3)]
    pub left: u64,
}

/// `tee` as its number: 0 AWS Nitro, 1 mock.
mod tee {
    use identity::Tee;
    use minicbor::decode::Error;
    use minicbor::{Decoder, Encoder};

    pub(super) fn encode<C, W: minicbor::encode::Write>(
        tee: &Tee,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.u8(match tee {
            Tee::AwsNitro => 0,
            Tee::Mock => 1,
        })?;
        Ok(())
    }

    pub(super) fn decode<C>(decoder: &mut Decoder<'_>, _: &mut C) -> Result<Tee, Error> {
        match decoder.u8()? {
            0 => Ok(Tee::AwsNitro),
            1 => Ok(Tee::Mock),
            _ => Err(Error::message("unknown kind of TEE")),
        }
    }
}

#[cfg(test)]
mod tests {
    use identity::cbor;

    use super::*;

    fn sign() -> RequestFrame {
        let of = Requester {
            caller: ObservedCaller::ids(1000, 1000),
            identity: None,
        };
        let sign = Sign {
            requester: of,
            format: Format::VouchJwt,
            action: "a".into(),
            target: String::new(),
            resource: String::new(),
            payload: "{}".into(),
            audience: None,
            validity_seconds: Some(60),
            proof: None,
            delegation: None,
            approval: None,
            delegatee: None,
        };
        RequestFrame {
            id: 7,
            request: Request::Sign(sign),
        }
    }

    #[test]
    fn frames_are_the_same_bytes_as_in_every_build_of_this_version() {
        let RequestFrame {
            request: Request::Sign(sign),
            ..
        } = sign()
        else {
            unreachable!()
        };
        let caller = ObservedCaller {
            executable: Some(identity::sha256(b"x")),
            socket: Some("s".into()),
            ..ObservedCaller::ids(1, 2)
        };
        let of = Requester {
            caller,
            identity: Some("a".into()),
        };
        let proof = Some(PresentedProof {
            jws: "j".into(),
            document: Some(vec![1]),
        });
        let approval = Some(ApprovalId::new([5; 16]));
        let waiting = PendingApproval {
            id: ApprovalId::new([1; 16]),
            boot_id: BootId::new([2; 16]),
            request: [3; 32],
            expires_at: 4,
            approved: false,
            canonical: "{}".into(),
            by: vec!["b".into()],
        };
        let status = Status {
            boot_id: BootId::new([1; 16]),
            policy: None,
            cannot_sign: None,
            tee: Tee::Mock,
            annex: Some([2; 32]),
        };
        let requests = [
            Request::Sign(sign.clone()),
            Request::Rotate(Rotate {
                requester: of.clone(),
                order: Some(vec![2]),
                proof: proof.clone(),
            }),
            Request::Sign(Sign {
                requester: of,
                proof,
                approval,
                delegatee: Some("d".into()),
                ..sign.clone()
            }),
            Request::Sign(Sign {
                format: Format::Envelope,
                approval,
                ..sign
            }),
            Request::GetApproval {
                id: ApprovalId::new([9; 16]),
            },
            Request::Provision {
                bundle: vec![1],
                before: Some(RecordEnd {
                    boot_id: BootId::new([1; 16]),
                    last: 2,
                    leaf: [3; 32],
                }),
            },
            Request::Provision {
                bundle: vec![1],
                before: None,
            },
            Request::Overview {
                caller: ObservedCaller::ids(1, 2),
                all: false,
            },
        ];
        let overview = Overview {
            now: Some((1, 2)),
            annex_version: Some(3),
            next: 4,
            identities: vec![IdentityOverview {
                name: "a".into(),
                did: "d".into(),
                key_version: 5,
                limits: vec![LimitsLeft {
                    rule: Some("r".into()),
                    limits: vec![LimitLeft {
                        amount: Some("/a".into()),
                        per_seconds: 6,
                        max: 7,
                        left: 8,
                    }],
                }],
            }],
        };
        let answers = [
            Answer::PendingApproval(waiting),
            Answer::Status(status),
            Answer::Overview(overview),
        ];
        let requests = requests
            .into_iter()
            .map(|request| cbor::to_vec(&RequestFrame { id: 1, request }));
        let frame = |answer| ResponseFrame {
            id: 1,
            outcome: Outcome::Done(answer),
            event: None,
        };
        let bytes: Vec<u8> = requests
            .chain(
                answers
                    .into_iter()
                    .map(|answer| cbor::to_vec(&frame(answer))),
            )
            .flatten()
            .collect();
        assert_eq!(
            identity::sha256(&bytes).to_string(),
            "3238eeefba9a71270d3eb16492b53fcceeae90d6af9d9a9adf788a136393c40d"
        );
    }

    #[test]
    fn both_kinds_of_tee_are_read_as_they_were_written_and_no_other() {
        let status = |tee| {
            cbor::to_vec(&Status {
                boot_id: BootId::new([1; 16]),
                policy: None,
                cannot_sign: None,
                tee,
                annex: None,
            })
        };
        for tee in [Tee::AwsNitro, Tee::Mock] {
            let read: Status = cbor::from_slice(&status(tee)).unwrap();
            assert_eq!(read.tee, tee);
        }
        let [nitro, mut other] = [status(Tee::AwsNitro), status(Tee::Mock)];
        let at = nitro.iter().zip(&other).position(|(a, b)| a != b).unwrap();
        other[at] = 2;
        assert!(cbor::from_slice::<Status>(&other).is_err());
    }

    #[test]
    fn a_message_has_one_encoding_and_every_cut_or_longer_one_is_refused() {
        let bytes = cbor::to_vec(&sign());
        assert_eq!(cbor::from_slice::<RequestFrame>(&bytes).unwrap(), sign());
        for length in 0..bytes.len() {
            assert!(
                cbor::from_slice::<RequestFrame>(&bytes[..length]).is_err(),
                "cut at {length}"
            );
        }
        assert!(cbor::from_slice::<RequestFrame>(&[&bytes[..], &[0]].concat()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics_and_what_is_read_is_written_back(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            if let Ok(frame) = cbor::from_slice::<RequestFrame>(&bytes) {
                proptest::prop_assert_eq!(cbor::to_vec(&frame), bytes);
            }
        }
    }
}
