#![no_main]
//! What KMS answers, or who says that it is KMS: `CiphertextForRecipient` in BER, and the JSON
//! around it.

use egress::{KmsOperation, cms, kms};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(envelope) = cms::envelope(bytes) {
        assert_eq!((envelope.encrypted_key.len(), envelope.iv.len()), (256, 16));
        assert!(envelope.ciphertext.len().is_multiple_of(16));
    }
    for operation in [KmsOperation::GenerateDataKey, KmsOperation::Decrypt] {
        let _ = kms::parse(operation, 200, bytes);
        let _ = kms::parse(operation, 400, bytes);
    }
});
