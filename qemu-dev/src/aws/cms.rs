//! `CiphertextForRecipient`: CMS EnvelopedData (RFC 5652) in BER with indefinite lengths, byte for
//! byte in the shapes that the real KMS writes. It is no DER, so a reader of DER alone fails.

use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use identity::sha256;

use crate::nsm::os_random;

/// How the content is written; the real KMS has been seen to do both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `A0 80 04 .. 00 00`: chunks inside of an indefinite `[0]`.
    Chunked,
    /// `80 ..`: a primitive `[0]`.
    Primitive,
}

/// The longest chunk, in bytes.
const CHUNK: usize = 1000;

const NULL: [u8; 2] = [0x05, 0x00];
const DATA: [u8; 11] = *b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01";
const ENVELOPED_DATA: [u8; 11] = *b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03";
const RSAES_OAEP: [u8; 11] = *b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x07";
const MGF1: [u8; 11] = *b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08";
const SHA_256: [u8; 11] = *b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01";
const AES_256_CBC: [u8; 11] = *b"\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x2a";

/// Encrypts for a public key (DER SubjectPublicKeyInfo), which is named as recipient so many times.
pub(super) fn envelop(
    plaintext: &[u8],
    public_key: &[u8],
    recipients: usize,
    shape: Shape,
) -> Result<Vec<u8>, Unspecified> {
    let mut content_key = [0; 32];
    os_random(&mut content_key);
    let key = PaddedBlockEncryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_256, &content_key)?)?;
    let mut content = plaintext.to_vec();
    let DecryptionContext::Iv128(iv) = key.encrypt(&mut content)? else {
        return Err(Unspecified);
    };
    let mut infos = Vec::new();
    for _ in 0..recipients {
        infos.extend(recipient(&content_key, public_key)?);
    }
    let cipher = [&AES_256_CBC[..], &definite(0x04, iv.as_ref())].concat();
    let encrypted = [
        &DATA[..],
        &definite(0x30, &cipher),
        &written(&content, shape),
    ]
    .concat();
    let enveloped = [
        &[0x02, 0x01, 0x02][..],
        &definite(0x31, &infos),
        &indefinite(0x30, &encrypted),
    ]
    .concat();
    let enveloped = indefinite(0xa0, &indefinite(0x30, &enveloped));
    Ok(indefinite(
        0x30,
        &[&ENVELOPED_DATA[..], &enveloped].concat(),
    ))
}

/// KeyTransRecipientInfo of version 2: the recipient by the digest of its key.
fn recipient(content_key: &[u8], public_key: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let key = PublicEncryptingKey::from_der(public_key).map_err(|_| Unspecified)?;
    let key = OaepPublicEncryptingKey::new(key)?;
    let mut encrypted = vec![0; key.ciphertext_size()];
    let encrypted = key.encrypt(&OAEP_SHA256_MGF1SHA256, content_key, &mut encrypted, None)?;
    let hash = definite(0x30, &[&SHA_256[..], &NULL].concat());
    let mask = definite(0x30, &[&MGF1[..], &hash].concat());
    let parameters = [definite(0xa0, &hash), definite(0xa1, &mask)].concat();
    let oaep = [&RSAES_OAEP[..], &definite(0x30, &parameters)].concat();
    let parts = [
        &[0x02, 0x01, 0x02][..],
        &definite(0x80, &sha256(public_key).0),
        &definite(0x30, &oaep),
        &definite(0x04, encrypted),
    ];
    Ok(definite(0x30, &parts.concat()))
}

fn written(content: &[u8], shape: Shape) -> Vec<u8> {
    match shape {
        Shape::Primitive => definite(0x80, content),
        Shape::Chunked => {
            let chunks: Vec<_> = content
                .chunks(CHUNK)
                .map(|chunk| definite(0x04, chunk))
                .collect();
            indefinite(0xa0, &chunks.concat())
        }
    }
}

fn definite(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    let mut out = vec![tag];
    match &length[zeros..] {
        [] => out.push(0),
        [short @ 0..=0x7f] => out.push(*short),
        long => {
            out.push(0x80 + u8::try_from(long.len()).expect("a length has at most eight bytes"));
            out.extend(long);
        }
    }
    out.extend(content);
    out
}

fn indefinite(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, 0x80][..], content, &[0, 0]].concat()
}
