//! Why a call was not let through.

use attestation::Refusal;
use strum::IntoStaticStr;

/// Why a call or a piece of evidence was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Error {
    /// The service was set up so that it could not guard anything.
    #[error("{0}")]
    Requirements(&'static str),
    /// The call shows no token.
    #[error("this call needs a token: Authorization: Bearer ...")]
    TokenAbsent,
    /// More than one `Authorization`, or none of the form `Bearer TOKEN` (RFC 6750 section 2.1).
    #[error("Authorization is not one Bearer token")]
    AuthorizationMalformed,
    /// The token is wrong; the code is that of the reason.
    #[error("{}", .0.to_presenter())]
    Token(attestation::Error),
    /// Nothing is known of the key that the token names, or not any longer.
    #[error(
        "evidence for this token's key is needed first: ask your sidecar for it over the challenge, and post it"
    )]
    EvidenceRequired {
        /// Hex.
        challenge: String,
    },
    /// The token is not younger than the evidence that this process was first shown for its key. It
    /// may have been used before this process began.
    #[error(
        "the token is not younger than the first evidence that this service was shown for its key, so it may have been used before; this one will never do: ask for a new token in a second"
    )]
    IssuedBeforeEvidence,
    /// The token lives longer than this service remembers.
    #[error("the token lives for {seconds} s; at most {most} s are accepted")]
    LifetimeTooLong {
        /// From `iat` to `exp`.
        seconds: i64,
        /// The limit.
        most: i64,
    },
    /// The token was used before.
    #[error("the token was used before; each is good for one call")]
    Replayed,
    /// The token is good, and it was not signed for what the call needs on behalf of somebody who
    /// delegated that.
    #[error(
        "the token was not signed for what this call needs, on behalf of somebody who delegated it"
    )]
    InsufficientScope,
    /// A token exchange issued the token: no rule of the agent's policy allowed a deed by it.
    #[error(
        "this token came of a token exchange; sign with it as the delegation, and show what was signed"
    )]
    TokenExchanged,
    /// The token is good, but its issuer is not one of those that may call.
    #[error("calls of {0} are not accepted here")]
    IssuerNotAccepted(String),
    /// Every place for tokens of this identity, or of all, is taken until some expire.
    #[error("no more tokens can be remembered until others expire; try again")]
    ReplayCacheFull,
    /// The evidence does not answer one of the last two challenges.
    #[error("the evidence answers none of the last challenges; here is a new one")]
    ChallengeStale {
        /// Hex.
        challenge: String,
    },
    /// The bytes are no evidence file, or no document is in it; the code is that of the reason.
    #[error(transparent)]
    EvidenceForm(attestation::Error),
    /// The evidence was refused; the code is that of the reason. The text is for a stranger; the
    /// refusal itself says against what it was held.
    #[error("{}", .0.to_presenter())]
    Evidence(Refusal),
    /// Every place for keys is taken until some expire.
    #[error("no more keys can be remembered until others expire; try again")]
    KeysFull,
    /// The body is longer than 64 KiB, or broke off.
    #[error("the body is longer than 64 KiB, or broke off")]
    BodyTooLong,
    /// The body took longer than five seconds.
    #[error("the body did not arrive in five seconds")]
    BodyTooSlow,
    /// Enough evidence is being verified already.
    #[error("too many verifications are under way; try again")]
    Busy,
    /// The operating system gave no randomness.
    #[error("no randomness for a challenge")]
    NoRandomness,
}

impl Error {
    /// The stable snake_case name of this refusal.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Token(error) | Self::EvidenceForm(error) => error.code(),
            Self::Evidence(refusal) => refusal.code(),
            other => other.into(),
        }
    }

    /// 401: come again with another token, or with evidence. 403: understood, and not accepted
    /// here. 408 and 413: the body. 503: later.
    pub fn status(&self) -> u16 {
        match self {
            Self::TokenAbsent
            | Self::AuthorizationMalformed
            | Self::Token(_)
            | Self::EvidenceRequired { .. }
            | Self::IssuedBeforeEvidence
            | Self::LifetimeTooLong { .. }
            | Self::Replayed
            | Self::ChallengeStale { .. } => 401,
            Self::InsufficientScope
            | Self::TokenExchanged
            | Self::IssuerNotAccepted(_)
            | Self::EvidenceForm(_)
            | Self::Evidence(_) => 403,
            Self::ReplayCacheFull | Self::KeysFull | Self::Busy | Self::NoRandomness => 503,
            Self::BodyTooSlow => 408,
            Self::BodyTooLong => 413,
            Self::Requirements(_) => 500,
        }
    }

    /// The challenge that is to be answered next, hex.
    pub fn challenge(&self) -> Option<&str> {
        match self {
            Self::EvidenceRequired { challenge } | Self::ChallengeStale { challenge } => {
                Some(challenge)
            }
            _ => None,
        }
    }
}
