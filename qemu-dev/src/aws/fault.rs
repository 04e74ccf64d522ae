//! What the mock can be told to do wrong, for tests of clients.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cms::Shape;
use crate::tls::Certificate;

/// A fault of every answer to a request with a `Recipient`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answers this status and this type of error, whatever was asked.
    Status(u16, &'static str),
    /// Never answers.
    Silence,
    /// Ends the connection after so many bytes of the answer, head included.
    CutAt(usize),
    /// One byte of the answer each 20 ms.
    SlowBytes,
    /// So many spaces before the end of the body.
    Padding(usize),
    /// The body is not JSON.
    NotJson,
    /// The secret in clear, beside `CiphertextForRecipient`.
    Plaintext,
    /// `"Plaintext": ""`, as AWS may write; no fault of a client to accept it.
    EmptyPlaintext,
    /// `"Plaintext": null`, as AWS may write; no fault of a client to accept it.
    NullPlaintext,
    /// No `CiphertextForRecipient`.
    NoCiphertext,
    /// A message with two recipients.
    TwoRecipients,
    /// A message with no recipient.
    NoRecipients,
    /// A message for another key.
    OtherRecipient,
    /// Another secret of the same length.
    OtherSecret,
    /// A secret of this length.
    SecretLength(usize),
    /// The message lacks its last bytes.
    ShortMessage(usize),
    /// One byte after the message.
    LongMessage,
    /// `KeyId` of another key.
    OtherKeyId,
}

impl FromStr for Fault {
    type Err = String;

    /// `NAME` or `NAME:NUMBER`, as on the command line.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) = text.split_once(':').map_or((text, None), |(name, number)| {
            (name, Some(number.parse::<usize>()))
        });
        let fault = match (name, number) {
            ("status", Some(Ok(status @ 400..=499))) => {
                Self::Status(of(status), "ThrottlingException")
            }
            ("status", Some(Ok(status @ 500..=599))) => {
                Self::Status(of(status), "KMSInternalException")
            }
            ("cut-at", Some(Ok(bytes))) => Self::CutAt(bytes),
            ("padding", Some(Ok(bytes))) => Self::Padding(bytes),
            ("secret-length", Some(Ok(bytes))) => Self::SecretLength(bytes),
            ("short-message", Some(Ok(bytes))) => Self::ShortMessage(bytes),
            (name, None) => Self::plain(name).ok_or_else(|| unknown(text))?,
            _ => return Err(unknown(text)),
        };
        Ok(fault)
    }
}

fn of(status: usize) -> u16 {
    u16::try_from(status).expect("a status has three digits")
}

fn unknown(text: &str) -> String {
    format!("{text:?} is no fault")
}

impl Fault {
    fn plain(name: &str) -> Option<Self> {
        Some(match name {
            "silence" => Self::Silence,
            "slow-bytes" => Self::SlowBytes,
            "not-json" => Self::NotJson,
            "plaintext" => Self::Plaintext,
            "empty-plaintext" => Self::EmptyPlaintext,
            "null-plaintext" => Self::NullPlaintext,
            "no-ciphertext" => Self::NoCiphertext,
            "two-recipients" => Self::TwoRecipients,
            "no-recipients" => Self::NoRecipients,
            "other-recipient" => Self::OtherRecipient,
            "other-secret" => Self::OtherSecret,
            "long-message" => Self::LongMessage,
            "other-key-id" => Self::OtherKeyId,
            _ => return None,
        })
    }
}

/// How a test steers a mock that serves, and sees what was asked of it. Clones steer the same mock.
#[derive(Debug, Clone, Default)]
pub struct Handle(Arc<Mutex<Settings>>);

#[derive(Debug, Default)]
struct Settings {
    fault: Option<Fault>,
    shape: Option<Shape>,
    certificate: Certificate,
    calls: BTreeMap<String, u64>,
    messages: u64,
}

impl Handle {
    /// From the next answer on; `None` ends it.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.settings().fault = fault;
    }

    /// The fault that is set.
    pub fn fault(&self) -> Option<Fault> {
        self.settings().fault
    }

    /// How messages are written; `None`, which is the default: both shapes by turns.
    pub fn set_shape(&self, shape: Option<Shape>) {
        self.settings().shape = shape;
    }

    /// What the server shows, from the next connection on.
    pub fn set_certificate(&self, certificate: Certificate) {
        self.settings().certificate = certificate;
    }

    /// How often an operation (`Decrypt` and the like) was asked for, refused or not. What had no
    /// good signature does not count.
    pub fn calls(&self, operation: &str) -> u64 {
        self.settings().calls.get(operation).copied().unwrap_or(0)
    }

    pub(super) fn count(&self, operation: &str) {
        *self
            .settings()
            .calls
            .entry(operation.to_owned())
            .or_default() += 1;
    }

    pub(super) fn certificate(&self) -> Certificate {
        self.settings().certificate
    }

    /// The shape of the next message.
    pub(super) fn next_shape(&self) -> Shape {
        let mut settings = self.settings();
        settings.messages += 1;
        let turn = if settings.messages % 2 == 1 {
            Shape::Chunked
        } else {
            Shape::Primitive
        };
        settings.shape.unwrap_or(turn)
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
