//! Questions to KMS: what is asked, and what the parent signs of it.

use data_encoding::BASE64;
use egress::{Failure, FailureKind, KmsAnswer, KmsCall, KmsOperation};
use identity::{UnixSeconds, sha256};
use protocol::{KmsSigned, SignKms};
use serde_json::{Value, json};
use state::{KmsKey, StateId};

use crate::error::KmsError;

/// For everything, from the line to the last byte of the answer.
const DEADLINE_MS: u32 = 5000;
/// `Authorization` of SigV4 has some 300 bytes.
const MAX_AUTHORIZATION: usize = 2048;
/// A session token of STS.
const MAX_TOKEN: usize = 8192;

/// Who asks KMS over the lines that the parent lends: the egress process.
pub trait Kms: Send + Sync {
    /// Asks, and waits for the answer.
    fn ask(&self, call: &KmsCall) -> Result<KmsAnswer, Failure>;
}

impl Kms for egress::Client {
    fn ask(&self, call: &KmsCall) -> Result<KmsAnswer, Failure> {
        self.kms(call)
    }
}

/// A question that waits for the parent's signature.
pub(crate) struct Question {
    number: u64,
    operation: KmsOperation,
    key: KmsKey,
    time: UnixSeconds,
    body: Vec<u8>,
}

impl Question {
    /// A new data key for a state.
    pub(crate) fn generate(
        key: &KmsKey,
        state: StateId,
        document: &[u8],
        time: UnixSeconds,
    ) -> Self {
        let body = json!({
            "KeyId": key.arn(),
            "KeySpec": "AES_256",
            "EncryptionContext": context(state),
            "Recipient": recipient(document),
        });
        Self::new(KmsOperation::GenerateDataKey, key, &body, time)
    }

    /// The data key of a state again.
    pub(crate) fn decrypt(
        key: &KmsKey,
        wrapped: &[u8],
        state: StateId,
        document: &[u8],
        time: UnixSeconds,
    ) -> Self {
        let body = json!({
            "KeyId": key.arn(),
            "CiphertextBlob": BASE64.encode(wrapped),
            "EncryptionContext": context(state),
            "Recipient": recipient(document),
        });
        Self::new(KmsOperation::Decrypt, key, &body, time)
    }

    fn new(operation: KmsOperation, key: &KmsKey, body: &Value, time: UnixSeconds) -> Self {
        Self {
            number: 0,
            operation,
            key: key.clone(),
            time,
            body: body.to_string().into_bytes(),
        }
    }

    /// What the parent signs, under this number.
    pub(crate) fn ask_signature(&mut self, number: u64) -> SignKms {
        self.number = number;
        SignKms {
            number,
            host: self.key.host(),
            region: self.key.region().to_owned(),
            target: self.operation.target().to_owned(),
            amz_date: amz_date(self.time),
            time: self.time.0,
            body: sha256(&self.body).0,
        }
    }

    /// Asks with the parent's signature. The answer is for this key of KMS, or none.
    pub(crate) fn ask(&self, kms: &dyn Kms, signed: KmsSigned) -> Result<KmsAnswer, KmsError> {
        if signed.number != self.number {
            return Err(KmsError::Number);
        }
        check_header(&signed.authorization, MAX_AUTHORIZATION)?;
        if let Some(token) = &signed.security_token {
            check_header(token, MAX_TOKEN)?;
        }
        let answer = kms.ask(&KmsCall {
            time: self.time.0,
            host: self.key.host(),
            operation: self.operation,
            amz_date: amz_date(self.time),
            authorization: signed.authorization,
            security_token: signed.security_token,
            body: self.body.clone(),
            deadline_ms: DEADLINE_MS,
        })?;
        let wraps = answer.ciphertext_blob.is_some();
        if answer.key_id != self.key.arn() {
            return Err(KmsError::OtherKey(answer.key_id));
        }
        if wraps != (self.operation == KmsOperation::GenerateDataKey) {
            return Err(KmsError::Malformed(
                "a wrapped key where none is, or none".into(),
            ));
        }
        Ok(answer)
    }
}

/// The encryption context: KMS and the ciphertext hold it, and CloudTrail shows it.
fn context(state: StateId) -> Value {
    json!({"anchorhold": "sealed/v1", "state": state.to_string()})
}

fn recipient(document: &[u8]) -> Value {
    json!({
        "AttestationDocument": BASE64.encode(document),
        "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
    })
}

/// `YYYYMMDD'T'HHMMSS'Z'`.
fn amz_date(time: UnixSeconds) -> String {
    time.to_string().replace(['-', ':'], "")
}

/// What goes into a header is visible ASCII with single spaces: nothing that ends it.
fn check_header(value: &str, max: usize) -> Result<(), KmsError> {
    let good = |b: u8| b.is_ascii_graphic() || b == b' ';
    if value.is_empty() || value.len() > max || !value.bytes().all(good) {
        return Err(KmsError::Signature);
    }
    Ok(())
}

impl From<Failure> for KmsError {
    fn from(failure: Failure) -> Self {
        let message = failure.message;
        match failure.kind {
            FailureKind::NoLine => Self::NoLine,
            FailureKind::TooSlow => Self::TooSlow,
            FailureKind::Broken => Self::Broken(message),
            FailureKind::Tls => Self::Tls(message),
            FailureKind::Malformed => Self::Malformed(message),
            FailureKind::Refused => Self::Refused(message),
            FailureKind::Unavailable => Self::Unavailable(message),
            FailureKind::Plaintext => Self::Plaintext,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_the_date_of_the_enclave_and_a_signature_ends_no_header() {
        assert_eq!(amz_date(UnixSeconds(1_767_225_600)), "20260101T000000Z");
        for bad in ["", "a\r\nX: y", "a\u{e9}", "a\0", &"x".repeat(2049)] {
            assert_eq!(
                check_header(bad, MAX_AUTHORIZATION),
                Err(KmsError::Signature),
                "{bad:?}"
            );
        }
        assert_eq!(
            check_header("AWS4-HMAC-SHA256 Credential=a/b, x", 2048),
            Ok(())
        );
    }
}
