use std::collections::BTreeMap;

use identity::Digest;
use identity::cbor::Reader;
use identity::cose::Sign1;

use crate::{Error, Pcr};

/// A nonce that the NSM takes has at most 512 bytes.
pub const MAX_NONCE: usize = 512;
const MAX_PAYLOAD: usize = 16384;
const MAX_CERTIFICATE: usize = 1024;
const MAX_CHAIN: usize = 8;
/// `{1: -35}`: ES384.
const PROTECTED: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];
const SIGNATURE_BYTES: usize = 96;

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

    /// SHA-256 of the signed payload. The document's own bytes are not unique (an ECDSA signature has a twin), this is.
    pub fn payload_digest(&self) -> Digest<32> {
        self.payload_digest
    }
}

/// A document that is well-formed, and of which nothing else is known.
pub(crate) struct Unverified<'b> {
    pub(crate) document: Document,
    /// Root first, leaf last; at least two.
    pub(crate) chain: Vec<&'b [u8]>,
    pub(crate) signed: Vec<u8>,
    pub(crate) signature: &'b [u8],
}

/// Parses strictly (AWS attestation process, section 3.2.1). Map keys may come in any order, each at most once; the
/// payload map may be of definite or of indefinite length, as both are seen in the field.
pub(crate) fn parse(bytes: &[u8]) -> Result<Unverified<'_>, Error> {
    const MAX_BYTES: usize = MAX_PAYLOAD + 256;
    if bytes.len() > MAX_BYTES {
        return Err(Error::DocumentMalformed("longer than a document can be"));
    }
    let sign1 = parse_sign1(bytes)?;
    if sign1.protected != PROTECTED || sign1.signature.len() != SIGNATURE_BYTES {
        return Err(Error::DocumentAlgorithm);
    }
    if sign1.payload.is_empty() || sign1.payload.len() > MAX_PAYLOAD {
        return Err(Error::DocumentMalformed("payload size"));
    }
    let (document, chain) = parse_payload(sign1.payload)?;
    Ok(Unverified { document, chain, signed: sign1.sig_structure(&[]), signature: sign1.signature })
}

/// Tells a document with bytes after it from one that never was.
fn parse_sign1(bytes: &[u8]) -> Result<Sign1<'_>, Error> {
    Sign1::parse(bytes).map_err(|_| {
        let mut length = bytes.len();
        while length > 1 && bytes.len() - length < 16 {
            length -= 1;
            if Sign1::parse(&bytes[..length]).is_ok() {
                return Error::DocumentTrailingBytes;
            }
        }
        Error::DocumentMalformed("not an untagged or tagged COSE_Sign1 without unprotected headers")
    })
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

fn parse_payload(payload: &[u8]) -> Result<(Document, Vec<&[u8]>), Error> {
    let mut reader = Reader::new(payload);
    let mut fields = Fields::default();
    let length = reader.map().map_err(|_| Error::DocumentMalformed("the payload is not a map"))?;
    let mut read = 0;
    loop {
        match length {
            Some(length) if read == length => break,
            None if at(reader.break_if(), "the payload map")? => break,
            _ => {}
        }
        let key = at(reader.text(), "a key of the payload map")?;
        fields.read(key, &mut reader)?;
        read += 1;
    }
    reader.finish().map_err(|_| Error::DocumentMalformed("bytes after the payload map"))?;
    fields.finish(payload)
}

impl<'b> Fields<'b> {
    fn read(&mut self, key: &str, reader: &mut Reader<'b>) -> Result<(), Error> {
        match key {
            "module_id" => once(&mut self.module_id, at(reader.text(), "module_id")?),
            "digest" => once(&mut self.digest, at(reader.text(), "digest")?),
            "timestamp" => once(&mut self.timestamp, at(reader.u64(), "timestamp")?),
            "pcrs" => once(&mut self.pcrs, parse_pcrs(reader)?),
            "certificate" => once(&mut self.certificate, certificate(reader)?),
            "cabundle" => once(&mut self.cabundle, parse_cabundle(reader)?),
            "public_key" => once(&mut self.public_key, at(reader.bytes_or_null(), "public_key")?),
            "user_data" => once(&mut self.user_data, at(reader.bytes_or_null(), "user_data")?),
            "nonce" => once(&mut self.nonce, at(reader.bytes_or_null(), "nonce")?),
            _ => Err(Error::DocumentMalformed("unknown field")),
        }
    }

    fn finish(self, payload: &'b [u8]) -> Result<(Document, Vec<&'b [u8]>), Error> {
        let missing = || Error::DocumentMalformed("a required field is missing");
        let module_id = self.module_id.ok_or_else(missing)?;
        if module_id.is_empty() {
            return Err(Error::DocumentMalformed("module_id is empty"));
        }
        if self.digest.ok_or_else(missing)? != "SHA384" {
            return Err(Error::DocumentMalformed("digest is not SHA384"));
        }
        let timestamp_ms = self.timestamp.ok_or_else(missing)?;
        if timestamp_ms == 0 || timestamp_ms > i64::MAX.unsigned_abs() {
            return Err(Error::DocumentMalformed("timestamp"));
        }
        let public_key = self.public_key.flatten();
        if public_key.is_some_and(|key| key.is_empty() || key.len() > 1024) {
            return Err(Error::DocumentMalformed("public_key size"));
        }
        let (user_data, nonce) = (self.user_data.flatten(), self.nonce.flatten());
        if user_data.is_some_and(|data| data.len() > 512) {
            return Err(Error::DocumentMalformed("user_data size"));
        }
        if nonce.is_some_and(|nonce| nonce.len() > MAX_NONCE) {
            return Err(Error::DocumentMalformed("nonce size"));
        }
        let mut chain = self.cabundle.ok_or_else(missing)?;
        chain.push(self.certificate.ok_or_else(missing)?);
        let document = Document {
            module_id: module_id.to_owned(),
            timestamp_ms,
            public_key: public_key.map(<[u8]>::to_vec),
            user_data: user_data.map(<[u8]>::to_vec),
            nonce: nonce.map(<[u8]>::to_vec),
            pcrs: self.pcrs.ok_or_else(missing)?,
            payload_digest: identity::sha256(payload),
        };
        Ok((document, chain))
    }
}

fn once<T>(field: &mut Option<T>, value: T) -> Result<(), Error> {
    if field.replace(value).is_some() { Err(Error::DocumentMalformed("a field stands there twice")) } else { Ok(()) }
}

fn at<T>(read: Result<T, identity::Error>, what: &'static str) -> Result<T, Error> {
    read.map_err(|_| Error::DocumentMalformed(what))
}

fn parse_pcrs(reader: &mut Reader<'_>) -> Result<Pcrs, Error> {
    let count = at(reader.map(), "pcrs")?.ok_or(Error::DocumentMalformed("pcrs of indefinite length"))?;
    if !(1..=32).contains(&count) {
        return Err(Error::DocumentMalformed("pcrs: number of entries"));
    }
    let mut pcrs = BTreeMap::new();
    for _ in 0..count {
        let index = u8::try_from(at(reader.u64(), "pcrs: index")?).ok().filter(|index| *index < 32);
        let index = index.ok_or(Error::DocumentMalformed("pcrs: index beyond 31"))?;
        let value = at(reader.bytes(), "pcrs: value")?;
        let value = value.try_into().map_err(|_| Error::DocumentMalformed("pcrs: value is not 48 bytes"))?;
        if pcrs.insert(index, Digest(value)).is_some() {
            return Err(Error::DocumentMalformed("pcrs: an index stands there twice"));
        }
    }
    Ok(Pcrs(pcrs))
}

fn parse_cabundle<'b>(reader: &mut Reader<'b>) -> Result<Vec<&'b [u8]>, Error> {
    let count = at(reader.array(), "cabundle")?;
    if count == 0 || count > MAX_CHAIN as u64 {
        return Err(Error::DocumentMalformed("cabundle: number of certificates"));
    }
    (0..count).map(|_| certificate(reader)).collect()
}

fn certificate<'b>(reader: &mut Reader<'b>) -> Result<&'b [u8], Error> {
    let der = at(reader.bytes(), "certificate")?;
    if der.is_empty() || der.len() > MAX_CERTIFICATE {
        return Err(Error::DocumentMalformed("certificate size"));
    }
    Ok(der)
}
