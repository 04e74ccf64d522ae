//! What the mock answers when it does not do what it was asked, spelled as AWS spells it.

use serde_json::{Value, json};

/// An error of AWS: its type, and a message of the mock's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct Refusal {
    /// `AccessDeniedException` and the like.
    pub kind: &'static str,
    /// What was wrong, without the mark that every message leaves with.
    pub message: String,
}

impl Refusal {
    pub(super) fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationException", message)
    }

    /// What failed within the mock itself.
    pub(super) fn internal(error: impl std::fmt::Display) -> Self {
        Self::new("KMSInternalException", error.to_string())
    }

    /// 500 where the mock itself failed, otherwise 400.
    pub fn status(&self) -> u16 {
        if self.kind == "KMSInternalException" {
            500
        } else {
            400
        }
    }

    /// The body of the answer. KMS writes `Message` where access is denied, and `message` elsewhere.
    pub(super) fn body(&self) -> Value {
        let message = format!("MOCK AWS: {}", self.message);
        match self.kind {
            "AccessDeniedException" => json!({"__type": self.kind, "Message": message}),
            _ => json!({"__type": self.kind, "message": message}),
        }
    }
}
