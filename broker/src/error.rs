//! Why something about a credential is refused.

/// Why something about a credential is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Error {
    /// The path or query that was asked for has no form that can be judged.
    #[error("the path cannot be judged: {0}")]
    PathNotCanonical(String),
    /// A header of the request cannot be sent on.
    #[error("the header {0} cannot be sent on: {1}")]
    HeaderInvalid(String, &'static str),
    /// The headers are too many, or too long.
    #[error("the request has more than 96 headers, or more than 16 KiB of them")]
    HeadersTooLong,
    /// The credential cannot stand where the bundle wants it.
    #[error("the credential is not good: {0}")]
    CredentialInvalid(&'static str),
    /// An order to put a credential is not good.
    #[error("the order to put a credential is not good: {0}")]
    CredentialOrderInvalid(&'static str),
    /// An order about the keys K3 is not good.
    #[error("the order about the epochs of credentials is not good: {0}")]
    EpochOrderInvalid(&'static str),
    /// A root of a service is no certificate that can be one.
    #[error("service {0:?}: one of its roots is no certificate that can be a root")]
    RootInvalid(String),
    /// Bytes that are no envelope, or one that this enclave cannot open: of another actor or service,
    /// under another K3, or with a bit changed.
    #[error("the sealed credential does not open: {0}")]
    EnvelopeUnopened(&'static str),
    /// A lease is not good.
    #[error("the lease is not good: {0}")]
    LeaseInvalid(&'static str),
    /// The body of a request to a model says what no price is known for, or not how long its answer may be.
    #[error("the body cannot be counted: {0}")]
    BodyNotPriced(String),
    /// The credential's place in the body is not there, or not once.
    #[error("the credential has no place: {0}")]
    PlaceholderMisplaced(&'static str),
    /// What asks for a WebSocket is no whole handshake (RFC 6455 section 4.1).
    #[error("no handshake of a WebSocket: {0}")]
    WebsocketInvalid(&'static str),
    /// What the ingress process said, or was told, does not open: it was changed on its way, or is of
    /// another boot.
    #[error("what came from the ingress process does not open")]
    IngressUnopened,
}

impl Error {
    /// The stable snake_case name.
    pub fn code(&self) -> &'static str {
        self.into()
    }
}
