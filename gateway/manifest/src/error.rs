/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is not JSON, or has a member twice.
    #[error("the manifest is not JSON: {0}")]
    NotJson(#[from] identity::Error),
    /// It is JSON, and no object.
    #[error("the manifest is not a JSON object")]
    NotAnObject,
    /// It is neither of the two forms.
    #[error("the manifest has neither `identity` (JSON Schema form) nor `agent_id` (flat form)")]
    NoForm,
    /// The JSON Schema refuses it.
    #[error("the manifest's {place} is invalid: {why}")]
    Invalid {
        /// A JSON pointer (RFC 6901); `/` for the whole.
        place: String,
        /// What the schema wants.
        why: String,
    },
    /// One member says something else than another one of the same meaning.
    #[error("the manifest contradicts itself: {0} and {1} differ")]
    Contradiction(&'static str, &'static str),
}
