//! Why the enclave did not do what it was asked.

use policy_engine::Denied;
use protocol::{Kind, Refusal};

use crate::NsmError;

/// Why the enclave did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Error {
    /// A value in the request is wrong.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// A bundle or an annex is wrong.
    #[error(transparent)]
    Policy(#[from] policy::Error),
    /// A document of our own is wrong.
    #[error(transparent)]
    Attestation(#[from] attestation::Error),
    /// A frame is wrong.
    #[error(transparent)]
    Protocol(#[from] protocol::Error),
    /// Something about a credential is wrong.
    #[error(transparent)]
    Broker(#[from] broker::Error),
    /// The bundle has no service of this name.
    #[error("the bundle has no such service")]
    UnknownService,
    /// The bundle names more services than this enclave has processes for.
    #[error("the bundle names {0} services, and this enclave has processes for {1}")]
    TooManyServices(usize, usize),
    /// A later version of the credential was seen in this boot.
    #[error("the credential has version {version}, and version {known} was seen in this boot")]
    CredentialOutdated {
        /// Of the one that was brought.
        version: u64,
        /// The highest that was seen.
        known: u64,
    },
    /// No call has this ticket, or its end is recorded.
    #[error("no call has this ticket, or its end is recorded already")]
    UnknownCall,
    /// The call has not ended.
    #[error("the call has not ended yet")]
    CallUnderWay,
    /// The process of the service ended.
    #[error("the enclave's process for this service has ended; it needs another boot")]
    ServiceGone,
    /// The bundle has no `[https_proxy]`, and so there is no authority.
    #[error("the bundle has no [https_proxy]")]
    NoAuthority,
    /// The authority of the ingress process cannot be made.
    #[error("the certificates of the ingress process cannot be made")]
    AuthorityFailed,
    /// The bundle has no `[lease]`.
    #[error("the bundle has no [lease]")]
    LeaseNotWanted,
    /// No lease lasts, and the bundle wants one.
    #[error("no lease lasts just now: the holder of the lease key has said nothing for too long")]
    LeaseExpired,
    /// The ingress process ended.
    #[error("the enclave's ingress process has ended; it needs another boot")]
    IngressGone,
    /// The policy says no.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// No policy was given yet, so there is no identity.
    #[error("the enclave has no policy bundle yet")]
    NotProvisioned,
    /// A policy was given in this boot; another one is another boot.
    #[error("the enclave has a policy bundle already; another one needs another boot")]
    AlreadyProvisioned,
    /// What came with the policy is not the end of a record before this boot.
    #[error("the end of the record before this boot cannot be: {0}")]
    RecordEndInvalid(&'static str),
    /// A production enclave was given a bundle for development.
    #[error("a production enclave does not take a bundle whose mode is development")]
    DevelopmentBundle,
    /// The connection proved another key than the bundle names.
    #[error("this connection did not prove the proxy key that the bundle names")]
    ProxyKeyMismatch,
    /// The policy has no identity of this name.
    #[error("the policy has no such identity")]
    UnknownIdentity,
    /// The request names no identity, and the caller may use several or none.
    #[error("name an identity; this caller may use: {}", .0.join(", "))]
    IdentityRequired(Vec<String>),
    /// Validity must be at least a second.
    #[error("the validity must be at least one second")]
    ValidityInvalid,
    /// The audience is empty, too long or holds control characters.
    #[error("the audience must have 1 to 1024 bytes and no control characters")]
    AudienceInvalid,
    /// A challenge must be long enough to be new and short enough to be one.
    #[error("the nonce must have 16 to 64 bytes")]
    NonceSize,
    /// The result would not fit through the window.
    #[error("the payload is too large to be signed")]
    PayloadTooLarge,
    /// This caller may not rotate this identity's key, and brought no order of the operator.
    #[error(
        "rotation needs an order of the operator, or a caller that the policy lets rotate, by what is seen of it or by a proof"
    )]
    RotationNotAllowed,
    /// The order is not the operator's, or for another identity, boot or version, or too old; or a caller's proof stands beside it.
    #[error("the rotation order is not good: {0}")]
    OrderInvalid(&'static str),
    /// A caller's own signature over its request is not good, or not for this request.
    #[error("the caller's proof is not good: {0}")]
    ProofInvalid(&'static str),
    /// A proof that is none, or by a key or an enclave that the policy does not name.
    #[error("the caller's proof is not good: {0}")]
    #[strum(serialize = "proof_invalid")]
    ProofOfNobody(&'static str),
    /// What is delegated can be signed as a token only.
    #[error(
        "under a token or an approval only tokens are signed (vouch-jwt), under grants only credentials, and a grant is one (vouch-credential)"
    )]
    DelegationFormat,
    /// An envelope holds nothing but action, resource, agent, principal and time.
    #[error("an envelope has no place for a payload, an audience or a validity")]
    EnvelopeHasNoPlace,
    /// No such request waits: it never did, it was approved and signed, or it waited too long.
    #[error(
        "no such request waits for an approval: it was signed already, waited too long, or never did; ask without the approval, and it waits anew"
    )]
    ApprovalUnknown,
    /// As many requests wait for approvals as may.
    #[error(
        "too many requests wait for an approval already: at most 32 of one identity, and 8 of one caller"
    )]
    ApprovalsFull,
    /// An approval is not good, or not for what waits.
    #[error("the approval is not good: {0}")]
    ApprovalInvalid(&'static str),
    /// An approval that is none, or by a key that the policy does not name.
    #[error("the approval is not good: {0}")]
    #[strum(serialize = "approval_invalid")]
    ApprovalOfNobody(&'static str),
    /// Too many proofs of the last minute are remembered.
    #[error("too many proofs came within a minute")]
    ProofsFull,
    /// A later annex is in force, or none as old is wanted.
    #[error(
        "the annex has version {version}, and version {known} is in force, or the lowest that the bundle takes"
    )]
    AnnexOutdated {
        /// Of the one that was brought.
        version: u32,
        /// Of the one in force, or the lowest that the bundle takes.
        known: u32,
    },
    /// The annex gives somebody outside the name or the DID of an identity of the bundle.
    #[error("the annex gives its issuer {0:?} the name or the DID of an identity of this bundle")]
    IssuerIsOurs(String),
    /// The bundle wants an annex of at least this version, and none was brought.
    #[error("the bundle wants an annex of version {0} or later, and none was brought")]
    AnnexRequired(u32),
    /// The key was replaced while the NSM was asked.
    #[error("the key was rotated meanwhile; ask again")]
    RotatedMeanwhile,
    /// Another annex came while the request waited for its identity's key.
    #[error("another annex came meanwhile; ask again")]
    AnnexReplacedMeanwhile,
    /// The NSM has not given the time yet.
    #[error("the time is not known yet")]
    ClockNotAnchored,
    /// The NSM has not given the time for ten minutes.
    #[error("the NSM has not confirmed the time for more than ten minutes")]
    ClockStale,
    /// The NSM gave a time before one that it gave earlier.
    #[error("the NSM's time went backwards")]
    ClockRegressed,
    /// A state cannot be opened, or what is said of one is not good.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The bundle keeps its keys in no state.
    #[error("the bundle has no [state]: its keys end with the boot")]
    StateNotWanted,
    /// Keys are kept in a state, which is not open yet.
    #[error("the state is not open yet: {0}")]
    StateAwaited(&'static str),
    /// The state was opened or born in this boot.
    #[error("the state is open already; another one needs another boot")]
    StateOpenAlready,
    /// A seal waits to be stored.
    #[error("a seal of the state waits to be stored first")]
    SealPending,
    /// No seal waits.
    #[error("no seal waits to be stored")]
    SealNotPending,
    /// What was read back is not what was sealed.
    #[error("what was read back is not what was sealed")]
    SealNotStored,
    /// A seal would be longer than one may be.
    #[error("the sealed state would be longer than 256 KiB")]
    SealTooLarge,
    /// A piece of a part is not good.
    #[error("the piece is not good: {0}")]
    PieceInvalid(&'static str),
    /// The key that KMS gave does not open the sealed state: it was changed, or belongs together with
    /// another wrapped key.
    #[error(
        "the key that KMS gave does not open the sealed state: a bit of it was changed, or it is of another state"
    )]
    SealedStateUnopened,
    /// What is kept is not what is open.
    #[error("what is kept would not bring this state back: it is {0}")]
    StateDrillFailed(&'static str),
    /// What was opened contradicts itself: somebody who has the key made it.
    #[error("the sealed state was opened, and is forged: {0}")]
    SealedStateForged(&'static str),
    /// KMS gave no key.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// The egress process ended, or said nonsense.
    #[error("the egress process is gone: {0}")]
    EgressGone(String),
    /// The NSM failed or answered something that it cannot mean.
    #[error("the NSM failed: {0}")]
    Nsm(#[from] NsmError),
    /// A signature just made did not verify: the hardware or the memory is faulty, or attacked.
    #[error("a signature did not verify with the key that made it")]
    SelfCheckFailed,
    /// Registers that the hypervisor measures are open to change.
    #[error("PCR{0} is not locked")]
    RegisterUnlocked(u8),
    /// A step of the boot failed.
    #[error("{step}: {why}")]
    Boot {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        why: String,
    },
    /// The kernel's pool is fed by something else than the NSM.
    #[error("the kernel's hardware random number generator is {0:?}, not the NSM's")]
    HwrngUnexpected(String),
    /// The kernel has not enough randomness yet.
    #[error("the kernel's random pool is not seeded")]
    PoolNotSeeded,
    /// The operating system gave no randomness.
    #[error("the operating system gave no randomness")]
    NoRandomness,
    /// Something went wrong that must not; the keys are gone.
    #[error("the enclave has stopped")]
    Halted,
    /// Too many slow requests wait.
    #[error("too many requests are waiting")]
    Busy,
}

/// Why KMS gave no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case", prefix = "kms_")]
#[non_exhaustive]
pub enum KmsError {
    /// No line was lent.
    #[error("nobody lent a line to KMS in time")]
    NoLine,
    /// The time was over.
    #[error("KMS did not answer in time")]
    TooSlow,
    /// The line broke.
    #[error("the line to KMS broke: {0}")]
    Broken(String),
    /// Who answered is not KMS.
    #[error("TLS to KMS failed: {0}")]
    Tls(String),
    /// The answer is of no kind that is taken.
    #[error("KMS answered what cannot be read: {0}")]
    Malformed(String),
    /// KMS refused.
    #[error("KMS refused: {0}")]
    Refused(String),
    /// KMS cannot, now.
    #[error("KMS cannot answer now: {0}")]
    Unavailable(String),
    /// The answer had a plaintext: whoever answered did not know of the recipient.
    #[error("the answer of KMS has a plaintext; the key that it shows was made for anybody")]
    Plaintext,
    /// The answer is of another key of KMS.
    #[error("another key of KMS answered: {0}")]
    OtherKey(String),
    /// The answer is not for this boot's recipient.
    #[error("the answer of KMS is not for this enclave")]
    NotForUs,
    /// The recipient's RSA key could not be made.
    #[error("the RSA key for the answers of KMS could not be made")]
    Recipient,
    /// The signature is for another question, or none waits.
    #[error("the signature is for another question to KMS, or none waits for one")]
    Number,
    /// What the parent signed cannot stand in a header.
    #[error("the signature of the question to KMS is none that a header can have")]
    Signature,
}

impl KmsError {
    /// The stable snake_case name.
    pub fn code(&self) -> &'static str {
        self.into()
    }
}

impl Error {
    /// The stable snake_case name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Identity(error) => error.code(),
            Self::Policy(error) => error.code(),
            Self::Broker(error) => error.code(),
            Self::Attestation(error) => error.code(),
            Self::Protocol(error) => error.code(),
            Self::State(error) => error.code(),
            Self::Kms(error) => error.code(),
            Self::Denied(denied) => denied.code(),
            other => other.into(),
        }
    }

    /// As [`Self::code`], but of the NSM's failures, which one: for an operator who has nothing but
    /// this word.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Nsm(error) => error.code(),
            other => other.code(),
        }
    }

    /// Whether it is the end of the boot, wherever it comes up: a fault, or an attack by somebody who
    /// has a key.
    pub(crate) fn is_end(&self) -> bool {
        matches!(
            self,
            Self::SelfCheckFailed | Self::SealedStateForged(_) | Self::Kms(KmsError::Plaintext)
        )
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Identity(_)
            | Self::Protocol(_)
            | Self::Policy(_)
            | Self::Attestation(_)
            | Self::IdentityRequired(_)
            | Self::ValidityInvalid
            | Self::DelegationFormat
            | Self::AudienceInvalid
            | Self::NonceSize
            | Self::EnvelopeHasNoPlace
            | Self::IssuerIsOurs(_)
            | Self::RecordEndInvalid(_)
            | Self::PieceInvalid(_)
            | Self::SealTooLarge
            | Self::Broker(_)
            | Self::TooManyServices(..)
            | Self::PayloadTooLarge => Kind::Invalid,
            Self::ApprovalsFull
            | Self::Denied(Denied::RateLimitExceeded { .. } | Denied::BudgetExceeded { .. }) => {
                Kind::Limited
            }
            Self::Denied(Denied::BudgetNotKept { .. }) => Kind::Unavailable,
            Self::Denied(_)
            | Self::ProofInvalid(_)
            | Self::ApprovalInvalid(_)
            | Self::ProofOfNobody(_)
            | Self::ApprovalOfNobody(_)
            | Self::ProxyKeyMismatch
            | Self::DevelopmentBundle
            | Self::RotationNotAllowed
            | Self::State(_)
            | Self::OrderInvalid(_) => Kind::Denied,
            Self::UnknownIdentity
            | Self::ApprovalUnknown
            | Self::UnknownService
            | Self::NoAuthority
            | Self::LeaseNotWanted
            | Self::UnknownCall => Kind::NotFound,
            Self::AlreadyProvisioned
            | Self::RotatedMeanwhile
            | Self::AnnexReplacedMeanwhile
            | Self::StateNotWanted
            | Self::StateOpenAlready
            | Self::SealPending
            | Self::SealNotPending
            | Self::SealNotStored
            | Self::SealedStateUnopened
            | Self::StateDrillFailed(_)
            | Self::CredentialOutdated { .. }
            | Self::AnnexOutdated { .. } => Kind::Conflict,
            Self::NotProvisioned
            | Self::StateAwaited(_)
            | Self::Kms(_)
            | Self::ClockNotAnchored
            | Self::ClockStale
            | Self::ClockRegressed
            | Self::Nsm(_)
            | Self::ProofsFull
            | Self::AnnexRequired(_)
            | Self::ServiceGone
            | Self::IngressGone
            | Self::LeaseExpired
            | Self::CallUnderWay
            | Self::Busy => Kind::Unavailable,
            Self::SelfCheckFailed
            | Self::AuthorityFailed
            | Self::NoRandomness
            | Self::Halted
            | Self::RegisterUnlocked(_)
            | Self::SealedStateForged(_)
            | Self::EgressGone(_)
            | Self::Boot { .. }
            | Self::HwrngUnexpected(_)
            | Self::PoolNotSeeded => Kind::Internal,
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let retry_after = if let Error::Denied(denied) = &error {
            denied.retry_after()
        } else {
            None
        };
        Self {
            kind: error.kind(),
            code: error.code().into(),
            message: error.to_string(),
            retry_after,
        }
    }
}
