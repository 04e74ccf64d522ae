//! `CiphertextForRecipient`: a CMS EnvelopedData (RFC 5652 section 6) for one recipient. KMS writes
//! it in BER, with indefinite lengths.

use ::cms::content_info::{CmsVersion, ContentInfo};
use ::cms::enveloped_data::{
    EncryptedContentInfo, EnvelopedData, KeyTransRecipientInfo, RecipientIdentifier, RecipientInfo,
};
use der::asn1::{ObjectIdentifier, OctetStringRef};
use der::{AnyRef, Decode, Encode, Sequence};
use x509_cert::spki::{AlgorithmIdentifierOwned, AlgorithmIdentifierRef};

use crate::wire::Envelope;

/// The longest message that is read, in bytes.
pub(crate) const MAX_MESSAGE: usize = 8192;
/// The longest ciphertext, in bytes.
pub(crate) const MAX_CIPHERTEXT: usize = 6144;
/// Of RSA-2048.
pub(crate) const ENCRYPTED_KEY: usize = 256;
/// Of AES, and so its IV in CBC.
pub(crate) const BLOCK: usize = 16;

const ENVELOPED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.3");
const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const RSAES_OAEP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const P_SPECIFIED: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.9");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const AES256_CBC: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.1.42");

/// Why a message is not the one that KMS makes for a recipient.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CmsError {
    /// More than 8192 bytes.
    #[error("a CMS message of {0} bytes; at most 8192 are taken")]
    TooLong(usize),
    /// Not BER, cut off, or followed by other bytes.
    #[error("no CMS message: {0}")]
    Ber(#[from] der::Error),
    /// Another kind of CMS message.
    #[error("CMS content {0}, not EnvelopedData")]
    NotEnveloped(ObjectIdentifier),
    /// An EnvelopedData of another version.
    #[error("EnvelopedData is not of version 2")]
    Version,
    /// With originatorInfo.
    #[error("EnvelopedData has an originator")]
    Originator,
    /// With unprotected attributes.
    #[error("EnvelopedData has unprotected attributes")]
    Attributes,
    /// Not for one recipient.
    #[error("EnvelopedData is for {0} recipients")]
    Recipients(usize),
    /// Not KeyTransRecipientInfo of version 2, with a subject key identifier.
    #[error("the recipient is of another kind")]
    Recipient,
    /// Not RSAES-OAEP with SHA-256, MGF1 with SHA-256 and an empty label.
    #[error("the content key is not under RSAES-OAEP with SHA-256")]
    KeyAlgorithm,
    /// The encrypted key is not of 256 bytes.
    #[error("an encrypted content key of {0} bytes, not 256")]
    KeyLength(usize),
    /// The content within is not data.
    #[error("the encrypted content is {0}, not data")]
    NotData(ObjectIdentifier),
    /// Not AES-256-CBC with an IV of 16 bytes.
    #[error("the content is not under AES-256-CBC")]
    ContentAlgorithm,
    /// The ciphertext is not of 16 bytes or a multiple, at most 6144.
    #[error("a ciphertext of {0} bytes")]
    Ciphertext(usize),
}

/// The parts of a message. The subject key identifier is not looked at.
pub fn envelope(ber: &[u8]) -> Result<Envelope, CmsError> {
    if ber.len() > MAX_MESSAGE {
        return Err(CmsError::TooLong(ber.len()));
    }
    let outer = ContentInfo::from_ber(ber)?;
    if outer.content_type != ENVELOPED_DATA {
        return Err(CmsError::NotEnveloped(outer.content_type));
    }
    let enveloped = EnvelopedData::from_ber(&outer.content.to_der()?)?;
    let recipient = only_recipient(&enveloped)?;
    let (iv, ciphertext) = content(&enveloped.encrypted_content)?;
    Ok(Envelope {
        encrypted_key: encrypted_key(recipient)?,
        iv,
        ciphertext,
    })
}

fn only_recipient(enveloped: &EnvelopedData) -> Result<&KeyTransRecipientInfo, CmsError> {
    if enveloped.version != CmsVersion::V2 {
        return Err(CmsError::Version);
    }
    if enveloped.originator_info.is_some() {
        return Err(CmsError::Originator);
    }
    if enveloped.unprotected_attrs.is_some() {
        return Err(CmsError::Attributes);
    }
    match enveloped.recip_infos.0.as_slice() {
        [RecipientInfo::Ktri(recipient)] => Ok(recipient),
        [_] => Err(CmsError::Recipient),
        recipients => Err(CmsError::Recipients(recipients.len())),
    }
}

fn encrypted_key(recipient: &KeyTransRecipientInfo) -> Result<Vec<u8>, CmsError> {
    let by_key_id = matches!(recipient.rid, RecipientIdentifier::SubjectKeyIdentifier(_));
    if recipient.version != CmsVersion::V2 || !by_key_id {
        return Err(CmsError::Recipient);
    }
    if !is_oaep_sha256(&recipient.key_enc_alg) {
        return Err(CmsError::KeyAlgorithm);
    }
    match recipient.enc_key.as_bytes() {
        key if key.len() == ENCRYPTED_KEY => Ok(key.to_vec()),
        key => Err(CmsError::KeyLength(key.len())),
    }
}

/// IV and ciphertext.
fn content(content: &EncryptedContentInfo) -> Result<(Vec<u8>, Vec<u8>), CmsError> {
    if content.content_type != DATA {
        return Err(CmsError::NotData(content.content_type));
    }
    let iv = aes256_cbc_iv(&content.content_enc_alg).ok_or(CmsError::ContentAlgorithm)?;
    let ciphertext = content.encrypted_content.as_ref();
    let ciphertext = ciphertext.map_or(&[][..], |content| content.as_bytes());
    if !is_ciphertext(ciphertext) {
        return Err(CmsError::Ciphertext(ciphertext.len()));
    }
    Ok((iv, ciphertext.to_vec()))
}

/// Whether `bytes` can be a ciphertext of AES in CBC with padding.
pub(crate) fn is_ciphertext(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.len().is_multiple_of(BLOCK) && bytes.len() <= MAX_CIPHERTEXT
}

fn aes256_cbc_iv(algorithm: &AlgorithmIdentifierOwned) -> Option<Vec<u8>> {
    if algorithm.oid != AES256_CBC {
        return None;
    }
    let parameters = algorithm.parameters.as_ref()?;
    let iv: &OctetStringRef = parameters.decode_as().ok()?;
    (iv.as_bytes().len() == BLOCK).then(|| iv.as_bytes().to_vec())
}

/// RSAES-OAEP-params (RFC 8017 appendix A.2.1). What is absent is SHA-1.
#[derive(Sequence)]
struct OaepParams<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    label: Option<AlgorithmIdentifierRef<'a>>,
}

fn is_oaep_sha256(algorithm: &AlgorithmIdentifierOwned) -> bool {
    let params = algorithm.parameters.as_ref();
    let Some(params) = params.and_then(|params| params.decode_as::<OaepParams<'_>>().ok()) else {
        return false;
    };
    algorithm.oid == RSAES_OAEP
        && params.hash.is_some_and(is_sha256)
        && params.mask.is_some_and(is_mgf1_sha256)
        && params.label.is_none_or(is_empty_label)
}

/// Its parameters are NULL or absent (RFC 5754 section 2).
fn is_sha256(algorithm: AlgorithmIdentifierRef<'_>) -> bool {
    algorithm.oid == SHA256 && algorithm.parameters.is_none_or(AnyRef::is_null)
}

fn is_mgf1_sha256(algorithm: AlgorithmIdentifierRef<'_>) -> bool {
    let hash = algorithm.parameters.map(AnyRef::decode_as);
    algorithm.oid == MGF1 && matches!(hash, Some(Ok(hash)) if is_sha256(hash))
}

fn is_empty_label(algorithm: AlgorithmIdentifierRef<'_>) -> bool {
    let label = algorithm
        .parameters
        .map(AnyRef::decode_as::<&OctetStringRef>);
    algorithm.oid == P_SPECIFIED && matches!(label, Some(Ok(label)) if label.as_bytes().is_empty())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a message may have otherwise.
    pub(crate) struct Shape {
        pub(crate) outer: &'static str,
        pub(crate) version: &'static str,
        pub(crate) before: Vec<u8>,
        pub(crate) recipients: Vec<Vec<u8>>,
        pub(crate) content_type: &'static str,
        pub(crate) algorithm: Vec<u8>,
        pub(crate) content: Vec<u8>,
        pub(crate) after: Vec<u8>,
    }

    const DATA: &str = "06092a864886f70d010701";
    const SHA256: &str = "300d06096086480165030402010500";
    const SHA1: &str = "300906052b0e03021a0500";
    const MGF1: &str = "06092a864886f70d010108";
    const OAEP: &str = "06092a864886f70d010107";
    const AES256: &str = "060960864801650304012a";

    impl Default for Shape {
        /// As KMS wrote it in all samples that were seen, with the content in one piece.
        fn default() -> Self {
            Self {
                outer: "06092a864886f70d010703",
                version: "020102",
                before: Vec::new(),
                recipients: vec![recipient("020102", 0x80, &oaep(SHA256, SHA256, ""), 256)],
                content_type: DATA,
                algorithm: cbc(AES256, 16),
                content: tlv(0x80, &[0xcc; 48]),
                after: Vec::new(),
            }
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap();
        let [high, low] = length.to_be_bytes();
        let head = match length {
            0..=0x7f => vec![tag, low],
            0x80..=0xff => vec![tag, 0x81, low],
            _ => vec![tag, 0x82, high, low],
        };
        [head, content.to_vec()].concat()
    }

    /// With an indefinite length.
    fn open(tag: u8, content: &[&[u8]]) -> Vec<u8> {
        [&[tag, 0x80], &content.concat()[..], &[0, 0]].concat()
    }

    fn oaep(hash: &str, mask_hash: &str, label: &str) -> Vec<u8> {
        let mask = tlv(0x30, &hex(&(MGF1.to_owned() + mask_hash)));
        let params = [tlv(0xa0, &hex(hash)), tlv(0xa1, &mask), hex(label)].concat();
        tlv(0x30, &[hex(OAEP), tlv(0x30, &params)].concat())
    }

    fn cbc(oid: &str, iv: usize) -> Vec<u8> {
        tlv(0x30, &[hex(oid), tlv(4, &vec![0x1f; iv])].concat())
    }

    fn recipient(version: &str, id: u8, algorithm: &[u8], key: usize) -> Vec<u8> {
        let key = tlv(4, &vec![0xee; key]);
        tlv(
            0x30,
            &[&hex(version), &tlv(id, &[0x5d; 32])[..], algorithm, &key].concat(),
        )
    }

    /// The message.
    pub(crate) fn message(shape: &Shape) -> Vec<u8> {
        let content = open(
            0x30,
            &[&hex(shape.content_type), &shape.algorithm, &shape.content],
        );
        let recipients = tlv(0x31, &shape.recipients.concat());
        let version = hex(shape.version);
        let parts: [&[u8]; 5] = [&version, &shape.before, &recipients, &content, &shape.after];
        let enveloped = open(0x30, &parts);
        open(0x30, &[&hex(shape.outer), &open(0xa0, &[&enveloped])])
    }

    /// The good message, but for one thing.
    fn with(change: impl FnOnce(&mut Shape)) -> Result<Envelope, CmsError> {
        let mut shape = Shape::default();
        change(&mut shape);
        envelope(&message(&shape))
    }

    fn with_recipient(recipient: Vec<u8>) -> Result<Envelope, CmsError> {
        with(|shape| shape.recipients = vec![recipient])
    }

    /// The content in chunks, as KMS writes it too.
    fn in_chunks() -> Vec<u8> {
        let chunks = [tlv(4, &[0xcc; 32]), tlv(4, &[0xcc; 16])].concat();
        message(&Shape {
            content: open(0xa0, &[&chunks]),
            ..Shape::default()
        })
    }

    fn good() -> Envelope {
        Envelope {
            encrypted_key: vec![0xee; 256],
            iv: vec![0x1f; 16],
            ciphertext: vec![0xcc; 48],
        }
    }

    /// Every cut of a message is an error, every flipped bit is anything but a panic.
    fn mistreat(message: &[u8]) {
        for cut in 0..message.len() {
            assert!(envelope(&message[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..message.len() * 8 {
            let mut flipped = message.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = envelope(&flipped);
        }
        for more in [0, 4, 0x30] {
            let longer = [message, &[more]].concat();
            assert!(matches!(envelope(&longer), Err(CmsError::Ber(_))));
        }
    }

    #[test]
    fn both_shapes_of_kms_are_read() {
        for message in [message(&Shape::default()), in_chunks()] {
            assert_eq!(envelope(&message), Ok(good()));
            mistreat(&message);
        }
    }

    /// They are others' data, which is not part of this project: a folder beside it, or the one that
    /// `ANCHORHOLD_KMS_VECTORS` names.
    #[test]
    fn messages_of_the_real_kms_are_read() {
        let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors/kms");
        let named = std::env::var_os("ANCHORHOLD_KMS_VECTORS");
        let folder = named.unwrap_or_else(|| beside.into());
        if !std::path::Path::new(&folder).is_dir() {
            #[expect(
                clippy::print_stderr,
                reason = "who reads the tests' output shall know"
            )]
            {
                eprintln!(
                    "skipped: no messages of the real KMS at {}",
                    folder.display()
                );
            }
            return;
        }
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "ber") {
                let message = std::fs::read(path).unwrap();
                let parts = envelope(&message).unwrap();
                assert_eq!((parts.encrypted_key.len(), parts.iv.len()), (256, 16));
                mistreat(&message);
                seen += 1;
            }
        }
        assert_ne!(seen, 0);
    }

    #[test]
    fn other_content_is_refused() {
        let signed = with(|shape| shape.outer = "06092a864886f70d010702");
        assert!(matches!(signed, Err(CmsError::NotEnveloped(_))));
        for version in ["020100", "020103"] {
            let other = with(|shape| shape.version = version);
            assert_eq!(other, Err(CmsError::Version));
        }
        let originator = with(|shape| shape.before = hex("a000"));
        assert_eq!(originator, Err(CmsError::Originator));
        let attribute = hex("a110300e06032a0304310704056162636465");
        let attributes = with(|shape| shape.after = attribute);
        assert_eq!(attributes, Err(CmsError::Attributes));
        let inner = with(|shape| shape.content_type = "06092a864886f70d010702");
        assert!(matches!(inner, Err(CmsError::NotData(_))));
    }

    #[test]
    fn one_recipient_of_one_kind() {
        let by_id = |key| recipient("020102", 0x80, &oaep(SHA256, SHA256, ""), key);
        assert_eq!(with_recipient(by_id(255)), Err(CmsError::KeyLength(255)));
        assert_eq!(with_recipient(by_id(257)), Err(CmsError::KeyLength(257)));
        let version = recipient("020100", 0x80, &oaep(SHA256, SHA256, ""), 256);
        assert_eq!(with_recipient(version), Err(CmsError::Recipient));
        let other = [tlv(0xa4, &hex("06032a03040500")), by_id(256)];
        assert_eq!(with_recipient(other[0].clone()), Err(CmsError::Recipient));
        let two = with(|shape| shape.recipients = vec![by_id(255), by_id(256)]);
        assert_eq!(two, Err(CmsError::Recipients(2)));
        let none = with(|shape| shape.recipients.clear());
        assert_eq!(none, Err(CmsError::Recipients(0)));
    }

    #[test]
    fn the_key_is_under_oaep_with_sha256() {
        let with_algorithm =
            |algorithm: &[u8]| with_recipient(recipient("020102", 0x80, algorithm, 256));
        let absent = "300b0609608648016503040201";
        let label = |octets: &str| {
            let octets = tlv(0x30, &hex(&("06092a864886f70d010109".to_owned() + octets)));
            data_encoding::HEXLOWER.encode(&tlv(0xa2, &octets))
        };
        for algorithm in [
            oaep(SHA256, SHA256, ""),
            oaep(absent, absent, ""),
            oaep(SHA256, SHA256, &label("0400")),
        ] {
            assert_eq!(with_algorithm(&algorithm), Ok(good()));
        }
        let pkcs1 = tlv(0x30, &hex("06092a864886f70d0101010500"));
        let defaults = tlv(0x30, &hex(&(OAEP.to_owned() + "3000")));
        let without = tlv(0x30, &hex(OAEP));
        for algorithm in [
            oaep(SHA1, SHA256, ""),
            oaep(SHA256, SHA1, ""),
            oaep(SHA256, SHA256, &label("040161")),
            oaep(SHA256, SHA256, &label("0500")),
            pkcs1,
            defaults,
            without,
        ] {
            assert_eq!(with_algorithm(&algorithm), Err(CmsError::KeyAlgorithm));
        }
    }

    #[test]
    fn the_content_is_under_aes256_cbc() {
        for algorithm in [
            cbc("0609608648016503040102", 16), // AES-128-CBC
            cbc("060960864801650304012e", 16), // AES-256-GCM
            cbc(AES256, 15),
            cbc(AES256, 17),
            tlv(0x30, &hex(AES256)),
        ] {
            let other = with(|shape| shape.algorithm = algorithm);
            assert_eq!(other, Err(CmsError::ContentAlgorithm));
        }
        let of = |length| with(|shape| shape.content = tlv(0x80, &vec![1; length]));
        assert!(of(16).is_ok() && of(6144).is_ok());
        for length in [0, 1, 15, 17, 6160] {
            assert_eq!(of(length), Err(CmsError::Ciphertext(length)));
        }
        let none = with(|shape| shape.content.clear());
        assert_eq!(none, Err(CmsError::Ciphertext(0)));
    }

    #[test]
    fn a_message_of_more_than_8192_bytes_is_not_read() {
        assert!(matches!(envelope(&[0; 8192]), Err(CmsError::Ber(_))));
        assert_eq!(envelope(&[0; 8193]), Err(CmsError::TooLong(8193)));
    }

    proptest! {
        #[test]
        fn garbage_does_not_panic(bytes: Vec<u8>, at in 0_usize..400) {
            let _ = envelope(&bytes);
            let mut spliced = in_chunks();
            spliced.splice(at.., bytes);
            let _ = envelope(&spliced);
        }
    }
}
