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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};

    use super::*;

    /// Public key, and what `openssl` found in each message.
    struct Reader(PrivateDecryptingKey);

    impl Reader {
        fn new() -> Self {
            Self(PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap())
        }

        fn public(&self) -> Vec<u8> {
            self.0.public_key().as_der().unwrap().as_ref().to_vec()
        }

        fn openssl(&self, message: &[u8]) -> Option<Vec<u8>> {
            let folder = tempfile::tempdir().unwrap();
            let file = |name: &str| folder.path().join(name);
            fs::write(file("key.der"), self.0.as_der().unwrap().as_ref()).unwrap();
            fs::write(file("message"), message).unwrap();
            let status = Command::new("openssl")
                .args([
                    "cms", "-decrypt", "-binary", "-inform", "DER", "-keyform", "DER",
                ])
                .args(["-inkey", "key.der", "-in", "message", "-out", "secret"])
                .current_dir(folder.path())
                .output()
                .unwrap();
            status
                .status
                .success()
                .then(|| fs::read(file("secret")).unwrap())
        }
    }

    #[test]
    fn openssl_opens_both_shapes_of_every_length() {
        let reader = Reader::new();
        for shape in [Shape::Chunked, Shape::Primitive] {
            for length in [1, 16, 32, 127, 256, 999, 1000, 1024, 4096] {
                let mut secret = vec![0; length];
                os_random(&mut secret);
                let message = envelop(&secret, &reader.public(), 1, shape).unwrap();
                assert_eq!(reader.openssl(&message), Some(secret), "{shape:?} {length}");
            }
        }
        let message = envelop(&[1; 32], &Reader::new().public(), 1, Shape::Chunked).unwrap();
        assert_ne!(reader.openssl(&message), Some(vec![1; 32]));
    }

    /// Every tag with the length that stands there, `80` for an indefinite one; nothing else of a
    /// message.
    fn skeleton(message: &[u8]) -> String {
        let (mut at, mut open, mut out) = (0, 0_usize, String::new());
        while at < message.len() {
            let (tag, first) = (message[at], message[at + 1]);
            let more = if (0x81..0x90).contains(&first) {
                usize::from(first & 0x7f)
            } else {
                0
            };
            let head = &message[at..at + 2 + more];
            at += head.len();
            out.extend(head.iter().map(|byte| format!("{byte:02x}")));
            let long = head[2..]
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            let length = if more > 0 { long } else { usize::from(first) };
            match (tag, first) {
                (0, 0) => open -= 1,
                (_, 0x80) => open += 1,
                (tag, _) if tag & 0x20 == 0 => at += length,
                _ => {}
            }
            out.push(' ');
        }
        assert_eq!(open, 0, "as many ends as beginnings");
        out.trim_end().to_owned()
    }

    /// Two messages of the real KMS have the first of these skeletons (one of them with a content of
    /// 16 bytes), a third one has the second. aws-nitro-enclaves-sdk-c tests/cms_test.c,
    /// RustCrypto/formats issue 779.
    #[test]
    fn messages_have_the_skeleton_of_those_of_the_real_kms() {
        const BEGIN: &str = "3080 0609 a080 3080 0201 3182016b 30820167 0201 8020 303c 0609 302f a00f 300d 0609 0500 \
            a11c 301a 0609 300d 0609 0500 04820100 3080 0609 301d 0609 0410";
        const END: &str = "0000 0000 0000 0000";
        let public = Reader::new().public();
        let written = |length: usize, shape| envelop(&vec![7; length], &public, 1, shape).unwrap();
        let chunked = written(32, Shape::Chunked);
        assert_eq!(skeleton(&chunked), format!("{BEGIN} a080 0430 0000 {END}"));
        assert_eq!(chunked.len(), 493);
        let short = written(15, Shape::Chunked);
        assert_eq!(skeleton(&short), format!("{BEGIN} a080 0410 0000 {END}"));
        assert_eq!(short.len(), 461);
        let primitive = written(15, Shape::Primitive);
        assert_eq!(skeleton(&primitive), format!("{BEGIN} 8010 {END}"));
        assert_eq!(primitive.len(), 457);
    }
}
