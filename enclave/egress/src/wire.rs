//! What passes over the two pipes between the process that holds the keys and this one: frames of
//! deterministic CBOR ([`protocol::write_frame`]), one question at a time.

use minicbor::{Decode, Encode};

/// To the egress process.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Ask {
    /// The first one, once: whom TLS trusts.
    #[n(0)]
    Begin {
        /// The roots.
        #[n(0)]
        anchors: Vec<Anchor>,
    },
    /// Ask KMS over the next line that is lent.
    #[n(1)]
    Kms(#[n(0)] KmsCall),
}

/// A root that TLS trusts (RFC 5280 section 6.1.1 (d)).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Anchor {
    /// DER of the subject's Name, without its outer SEQUENCE, as webpki has it.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub subject: Vec<u8>,
    /// DER SubjectPublicKeyInfo, without its outer SEQUENCE, as webpki has it.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub spki: Vec<u8>,
    /// DER NameConstraints, without its outer SEQUENCE.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub name_constraints: Option<Vec<u8>>,
}

/// One request to KMS. The signature (SigV4) is the parent's; everything else is the enclave's.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct KmsCall {
    /// The enclave's time, seconds since 1970: certificates are held against it.
    #[n(0)]
    pub time: i64,
    /// `kms.<region>.amazonaws.com`: the name that the certificate must have, and `Host`.
    #[n(1)]
    pub host: String,
    /// Which operation.
    #[n(2)]
    pub operation: KmsOperation,
    /// `X-Amz-Date`: `YYYYMMDD'T'HHMMSS'Z'`.
    #[n(3)]
    pub amz_date: String,
    /// `Authorization`.
    #[n(4)]
    pub authorization: String,
    /// `X-Amz-Security-Token`.
    #[n(5)]
    pub security_token: Option<String>,
    /// The JSON that is sent.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub body: Vec<u8>,
    /// For everything, from the line to the last byte of the answer; in milliseconds.
    #[n(7)]
    pub deadline_ms: u32,
}

/// An operation of KMS that takes a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum KmsOperation {
    /// Its answer has the new key twice: wrapped by the KMS key, and for the recipient.
    #[n(0)]
    GenerateDataKey,
    /// Its answer has the key for the recipient.
    #[n(1)]
    Decrypt,
}

impl KmsOperation {
    /// `X-Amz-Target`.
    pub fn target(self) -> &'static str {
        match self {
            Self::GenerateDataKey => "TrentService.GenerateDataKey",
            Self::Decrypt => "TrentService.Decrypt",
        }
    }
}

/// From the egress process.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// The first one, once: it is confined and listens.
    #[n(0)]
    Ready,
    /// To [`Ask::Kms`].
    #[n(1)]
    Kms(#[n(0)] KmsAnswer),
    /// To [`Ask::Kms`], which came to nothing.
    #[n(2)]
    Failed(#[n(0)] Failure),
}

/// What KMS answered.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct KmsAnswer {
    /// `KeyId`: the ARN of the key that was used.
    #[n(0)]
    pub key_id: String,
    /// `CiphertextBlob`, of GenerateDataKey only: at most 6144 bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub ciphertext_blob: Option<Vec<u8>>,
    /// `CiphertextForRecipient`, decoded.
    #[n(2)]
    pub envelope: Envelope,
}

/// The parts of the CMS EnvelopedData that KMS makes for a recipient (RFC 5652 section 6): they mean
/// nothing to who has not the recipient's RSA key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Envelope {
    /// The content key under RSAES-OAEP with SHA-256: 256 bytes.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub encrypted_key: Vec<u8>,
    /// Of AES-256-CBC: 16 bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub iv: Vec<u8>,
    /// Under AES-256-CBC, padded: 16 bytes or a multiple, at most 6144.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub ciphertext: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[error("{message}")]
#[cbor(array)]
pub struct Failure {
    /// Of which kind.
    #[n(0)]
    pub kind: FailureKind,
    /// For people: printable ASCII, at most 256 bytes.
    #[n(1)]
    pub message: String,
}

/// Which kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum FailureKind {
    /// No line was lent in time.
    #[n(0)]
    NoLine,
    /// The time was over.
    #[n(1)]
    TooSlow,
    /// The line broke.
    #[n(2)]
    Broken,
    /// TLS: who answered is not who was meant, or nobody knows.
    #[n(3)]
    Tls,
    /// The answer is no HTTP, JSON or CMS of the kind that is taken.
    #[n(4)]
    Malformed,
    /// KMS refused: 4xx. The message begins with its code.
    #[n(5)]
    Refused,
    /// KMS cannot, now: 5xx, or 4xx that asks to come again (throttling).
    #[n(6)]
    Unavailable,
    /// The answer has a plaintext: KMS, or who answered, did not know of the recipient.
    #[n(7)]
    Plaintext,
}
