//! Documents of the NSM, read strictly.

mod chain;
mod issuers;
mod kinds;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;

use identity::cbor::{self, Reader};
use identity::{Digest, UnixSeconds};
use minicbor::bytes::ByteSlice;

use crate::rules::Rules;
use crate::{Error, Field};
use identity::Pcr;

pub(crate) use self::chain::Trust;
#[cfg(test)]
pub(crate) use self::chain::signature_checks;
pub use self::chain::{CertificateId, MockRoot, SKEW_SECONDS, aws_root_g1};
pub use self::issuers::KnownIssuers;
pub use self::kinds::{
    Attested, Debug, Genuine, Mock, unverified_nonce, unverified_time, verify_debug,
    verify_genuine, verify_mock,
};
pub(crate) use self::kinds::{Hardware, unverified_document, verify_hardware, verify_mock_by};

/// The path to the leaf of a document that is well-formed.
#[cfg(test)]
pub(crate) fn issuer_path(bytes: &[u8]) -> issuers::IssuerPath {
    let Ok(unverified) = parse(bytes, &crate::rules::Every) else {
        panic!("not a document");
    };
    let (_, authorities) = unverified.chain.split_last().expect("two and more");
    issuers::IssuerPath::of(authorities)
}

/// A nonce that the NSM takes has at most 512 bytes.
pub const MAX_NONCE: usize = 512;
const MAX_PAYLOAD: usize = 16384;
/// A payload, a signature, and the heads around them.
const MAX_BYTES: usize = MAX_PAYLOAD + 256;
const MAX_CERTIFICATE: usize = 1024;
/// Root, region, zone, instance: with the leaf's and the document's, five signatures to check at
/// most.
const MAX_CABUNDLE: u64 = 4;
/// `{1: -35}`: ES384.
const PROTECTED: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];
const SIGNATURE_BYTES: usize = 96;
/// What fits into a signed number: some 292 million years.
const MAX_TIMESTAMP_MS: u64 = i64::MAX.unsigned_abs();

/// The registers of a document: 1 to 32 of them, index 0 to 31.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pcrs(BTreeMap<u8, Pcr>);

impl Pcrs {
    /// The register of this index, if the document shows it.
    pub fn get(&self, index: u8) -> Option<&Pcr> {
        self.0.get(&index)
    }

    /// Index and value, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &Pcr)> {
        self.0.iter().map(|(index, pcr)| (*index, pcr))
    }
}

/// What an attestation document says. Made only by verifying one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The enclave's name: `i-...-enc...`.
    pub module_id: String,
    /// Milliseconds since 1970, by the hypervisor's clock.
    pub timestamp_ms: u64,
    /// Public key given by the enclave, 1..=1024 bytes.
    pub public_key: Option<Vec<u8>>,
    /// Bytes given by the enclave, at most 512.
    pub user_data: Option<Vec<u8>>,
    /// The challenge, at most 512 bytes.
    pub nonce: Option<Vec<u8>>,
    pcrs: Pcrs,
    payload_digest: Digest<32>,
}

impl Document {
    /// The registers.
    pub fn pcrs(&self) -> &Pcrs {
        &self.pcrs
    }

    /// When it was made, by the hypervisor's clock.
    pub fn made(&self) -> UnixSeconds {
        UnixSeconds(i64::try_from(self.timestamp_ms / 1000).unwrap_or(i64::MAX))
    }

    /// SHA-256 of the signed payload. The document's own bytes are not unique (an ECDSA signature
    /// has a twin), this is.
    pub fn payload_digest(&self) -> Digest<32> {
        self.payload_digest
    }
}

/// A document that is well-formed, and of which nothing else is known.
struct Unverified<'b> {
    document: Document,
    /// Root first, leaf last; at least two.
    chain: Vec<&'b [u8]>,
    signed: Vec<u8>,
    signature: &'b [u8],
}

/// Parses strictly (AWS attestation process, section 3.2.1). Map keys may come in any order, each
/// at most once; the payload map may be of definite or of indefinite length, as both are seen in
/// the field.
fn parse<'b>(bytes: &'b [u8], rules: &impl Rules) -> Result<Unverified<'b>, Error> {
    rules.require(bytes.len() <= MAX_BYTES, Error::DocumentTooLong)?;
    let sign1 = parse_envelope(bytes, rules)?;
    rules.require(sign1.protected == PROTECTED, Error::DocumentAlgorithm)?;
    rules.require(
        sign1.signature.len() == SIGNATURE_BYTES,
        Error::DocumentSignatureSize,
    )?;
    rules.require(
        !sign1.payload.is_empty() && sign1.payload.len() <= MAX_PAYLOAD,
        Error::PayloadSize,
    )?;
    let (document, chain) = parse_payload(sign1.payload, rules)?;
    Ok(Unverified {
        document,
        chain,
        signed: sign1.sig_structure(),
        signature: sign1.signature,
    })
}

fn parse_envelope<'b>(bytes: &'b [u8], rules: &impl Rules) -> Result<Sign1<'b>, Error> {
    let part = |what: &'static str| {
        move |error: identity::Error| match error {
            identity::Error::CborNotShortest | identity::Error::CborIndefinite => {
                Error::DocumentNotShortest
            }
            _ => Error::DocumentNotCoseSign1(what),
        }
    };
    let mut reader = Reader::new(bytes);
    if bytes.first().is_some_and(|head| head >> 5 == CBOR_TAG) {
        reader.tag_if(COSE_SIGN1).map_err(|error| match error {
            identity::Error::CborNotShortest => Error::DocumentNotShortest,
            _ => Error::DocumentTag,
        })?;
    }
    if reader.array().map_err(part("no array"))? != 4 {
        return Err(Error::DocumentNotCoseSign1("not an array of four"));
    }
    let protected = reader.bytes().map_err(part("protected header"))?;
    let unprotected = reader.map().map_err(part("unprotected header"))?;
    if unprotected != Some(0) {
        return Err(Error::DocumentUnprotectedHeader);
    }
    let payload = reader.bytes().map_err(part("payload"))?;
    let signature = reader.bytes().map_err(part("signature"))?;
    rules.require(reader.finish().is_ok(), Error::DocumentTrailingBytes)?;
    Ok(Sign1 {
        protected,
        payload,
        signature,
    })
}

/// Major type 6 (RFC 8949 section 3.1).
const CBOR_TAG: u8 = 6;
/// The CBOR tag of COSE_Sign1 (RFC 9052 section 2).
const COSE_SIGN1: u64 = 18;

/// The parts of a COSE_Sign1 (RFC 9052 section 4.2), as they stand in the original bytes.
struct Sign1<'b> {
    protected: &'b [u8],
    payload: &'b [u8],
    signature: &'b [u8],
}

impl Sign1<'_> {
    /// The bytes under the signature: `["Signature1", protected, external_aad, payload]` (RFC 9052
    /// section 4.4).
    fn sig_structure(&self) -> Vec<u8> {
        let [protected, external_aad, payload] =
            [self.protected, &[], self.payload].map(<&ByteSlice>::from);
        cbor::to_vec(&("Signature1", protected, external_aad, payload))
    }
}

#[derive(Default)]
struct Fields<'b> {
    module_id: Option<&'b str>,
    digest: Option<&'b str>,
    timestamp: Option<u64>,
    pcrs: Option<Pcrs>,
    certificate: Option<&'b [u8]>,
    cabundle: Option<Vec<&'b [u8]>>,
    public_key: Option<Option<&'b [u8]>>,
    user_data: Option<Option<&'b [u8]>>,
    nonce: Option<Option<&'b [u8]>>,
}

fn parse_payload<'b>(
    payload: &'b [u8],
    rules: &impl Rules,
) -> Result<(Document, Vec<&'b [u8]>), Error> {
    let mut reader = Reader::new(payload);
    let mut fields = Fields::default();
    let length = reader.map().map_err(outer)?;
    let mut read = 0;
    loop {
        match length {
            Some(length) if read == length => break,
            None if reader.break_if().map_err(outer)? => break,
            _ => {}
        }
        let key = reader.text().map_err(outer)?;
        // Nothing can stand for a field that is not known: neither its meaning nor its length.
        let field = Field::from_str(key).map_err(|_| Error::FieldUnknown)?;
        fields.read(field, &mut reader, rules)?;
        read += 1;
    }
    rules.require(reader.finish().is_ok(), Error::PayloadTrailingBytes)?;
    fields.finish(payload, rules)
}

#[expect(clippy::needless_pass_by_value, reason = "the form map_err wants")]
fn outer(error: identity::Error) -> Error {
    match error {
        identity::Error::CborCut => Error::PayloadCut,
        identity::Error::CborNotShortest => Error::PayloadHeadNotShortest,
        _ => Error::PayloadNotMap,
    }
}

impl<'b> Fields<'b> {
    fn read(
        &mut self,
        field: Field,
        reader: &mut Reader<'b>,
        rules: &impl Rules,
    ) -> Result<(), Error> {
        let fault = |error| at(field, &error);
        let again = match field {
            Field::ModuleId => self
                .module_id
                .replace(reader.text().map_err(fault)?)
                .is_some(),
            Field::Digest => self.digest.replace(reader.text().map_err(fault)?).is_some(),
            Field::Timestamp => self
                .timestamp
                .replace(reader.u64().map_err(fault)?)
                .is_some(),
            Field::Pcrs => self.pcrs.replace(parse_pcrs(reader, rules)?).is_some(),
            Field::Certificate => self
                .certificate
                .replace(certificate(field, reader, rules)?)
                .is_some(),
            Field::Cabundle => self
                .cabundle
                .replace(parse_cabundle(reader, rules)?)
                .is_some(),
            Field::PublicKey => self
                .public_key
                .replace(reader.bytes_or_null().map_err(fault)?)
                .is_some(),
            Field::UserData => self
                .user_data
                .replace(reader.bytes_or_null().map_err(fault)?)
                .is_some(),
            Field::Nonce => self
                .nonce
                .replace(reader.bytes_or_null().map_err(fault)?)
                .is_some(),
        };
        rules.require(!again, Error::FieldTwice(field))
    }

    fn finish(
        self,
        payload: &'b [u8],
        rules: &impl Rules,
    ) -> Result<(Document, Vec<&'b [u8]>), Error> {
        let module_id = self.module_id.ok_or(Error::FieldMissing(Field::ModuleId))?;
        let digest = self.digest.ok_or(Error::FieldMissing(Field::Digest))?;
        let timestamp_ms = self
            .timestamp
            .ok_or(Error::FieldMissing(Field::Timestamp))?;
        let pcrs = self.pcrs.ok_or(Error::FieldMissing(Field::Pcrs))?;
        let certificate = self
            .certificate
            .ok_or(Error::FieldMissing(Field::Certificate))?;
        let mut chain = self.cabundle.ok_or(Error::FieldMissing(Field::Cabundle))?;
        chain.push(certificate);
        rules.require(!module_id.is_empty(), Error::ModuleIdEmpty)?;
        rules.require(digest == "SHA384", Error::DigestUnknown)?;
        rules.require(
            (1..=MAX_TIMESTAMP_MS).contains(&timestamp_ms),
            Error::TimestampRange,
        )?;
        let (public_key, user_data, nonce) = (
            self.public_key.flatten(),
            self.user_data.flatten(),
            self.nonce.flatten(),
        );
        let within = |field: Option<&[u8]>, sizes: RangeInclusive<usize>| {
            field.is_none_or(|bytes| sizes.contains(&bytes.len()))
        };
        rules.require(within(public_key, 1..=1024), Error::PublicKeySize)?;
        rules.require(within(user_data, 0..=512), Error::UserDataSize)?;
        rules.require(within(nonce, 0..=MAX_NONCE), Error::NonceSize)?;
        let document = Document {
            module_id: module_id.to_owned(),
            timestamp_ms,
            public_key: public_key.map(<[u8]>::to_vec),
            user_data: user_data.map(<[u8]>::to_vec),
            nonce: nonce.map(<[u8]>::to_vec),
            pcrs,
            payload_digest: identity::sha256(payload),
        };
        Ok((document, chain))
    }
}

fn at(field: Field, error: &identity::Error) -> Error {
    match error {
        identity::Error::CborCut => Error::PayloadCut,
        identity::Error::CborNotShortest => Error::PayloadNotShortest(field),
        identity::Error::CborIndefinite => Error::PayloadIndefinite(field),
        _ => Error::FieldType(field),
    }
}

fn parse_pcrs(reader: &mut Reader<'_>, rules: &impl Rules) -> Result<Pcrs, Error> {
    let fault = |error| at(Field::Pcrs, &error);
    let count = reader
        .map()
        .map_err(fault)?
        .ok_or(Error::PayloadIndefinite(Field::Pcrs))?;
    rules.require((1..=32).contains(&count), Error::PcrCount)?;
    let mut pcrs = BTreeMap::new();
    for _ in 0..count {
        let index = reader.u64().map_err(fault)?;
        rules.require(index < 32, Error::PcrIndex)?;
        let value = reader.bytes().map_err(fault)?;
        rules.require(value.len() == 48, Error::PcrSize)?;
        let mut pcr = [0; 48];
        pcr.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
        // Beyond 255 only where the rule is left out; all of those are one.
        let again = pcrs
            .insert(u8::try_from(index).unwrap_or(u8::MAX), Digest(pcr))
            .is_some();
        rules.require(!again, Error::PcrTwice)?;
    }
    Ok(Pcrs(pcrs))
}

fn parse_cabundle<'b>(reader: &mut Reader<'b>, rules: &impl Rules) -> Result<Vec<&'b [u8]>, Error> {
    let count = reader
        .array()
        .map_err(|error| at(Field::Cabundle, &error))?;
    rules.require((1..=MAX_CABUNDLE).contains(&count), Error::CabundleCount)?;
    (0..count)
        .map(|_| certificate(Field::Cabundle, reader, rules))
        .collect()
}

fn certificate<'b>(
    field: Field,
    reader: &mut Reader<'b>,
    rules: &impl Rules,
) -> Result<&'b [u8], Error> {
    let der = reader.bytes().map_err(|error| at(field, &error))?;
    rules.require(
        (1..=MAX_CERTIFICATE).contains(&der.len()),
        Error::CertificateSize,
    )?;
    Ok(der)
}
