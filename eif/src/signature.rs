//! The signature section: CBOR as nitro-cli writes it, a COSE_Sign1 over PCR0 by the key of a P-384
//! certificate.

use data_encoding::HEXUPPER;
use der::{Decode, DecodePem, Encode};
use minicbor::data::Type;
use minicbor::{Decoder, Encoder};
use p384::ecdsa::signature::{Signer, Verifier};
use p384::ecdsa::{Signature as EcdsaSignature, SigningKey as EcdsaKey, VerifyingKey};
use p384::pkcs8::DecodePrivateKey;
use serde_json::{Map, Value, json};
use x509_cert::Certificate;

use crate::register::pcr0;
use crate::{Error, Image};

/// COSE's protected header `{1: -35}`: ES384 (RFC 9053 section 2.1).
const PROTECTED: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];
const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
const MAX_COSE_BYTES: usize = 4096;

/// A key that signs images, with its certificate.
pub struct SigningKey {
    key: EcdsaKey,
    certificate_pem: Vec<u8>,
}

impl SigningKey {
    /// Takes a P-384 key (PKCS #8 or SEC1, PEM) and its certificate (PEM).
    pub fn new(key_pem: &str, certificate_pem: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::SigningKey(why.to_owned());
        let secret = p384::SecretKey::from_pkcs8_pem(key_pem)
            .or_else(|_| p384::SecretKey::from_sec1_pem(key_pem));
        let key = EcdsaKey::from(
            secret
                .map_err(|_| wrong("the key is no P-384 private key in PEM (PKCS #8 or SEC1)"))?,
        );
        let certificate = parse_certificate(certificate_pem.as_bytes())
            .map_err(|why| Error::SigningKey(why.to_owned()))?;
        if public_key(&certificate).map_err(wrong)? != *key.verifying_key() {
            return Err(wrong("the certificate is for another key"));
        }
        Ok(Self {
            key,
            certificate_pem: certificate_pem.into(),
        })
    }

    /// Signs PCR0 of what will be an image of these sections; gives the signature section.
    /// Deterministic (RFC 6979).
    pub fn sign(&self, kernel: &[u8], cmdline: &[u8], ramdisks: &[&[u8]]) -> Vec<u8> {
        let payload = pcr_info(&pcr0(kernel, cmdline, ramdisks));
        let signature: EcdsaSignature = self.key.sign(&to_be_signed(&PROTECTED, &payload));
        let mut cose = Encoder::new(Vec::new());
        let signed = cose.array(4).and_then(|cose| {
            cose.bytes(&PROTECTED)?
                .map(0)?
                .bytes(&payload)?
                .bytes(&signature.to_bytes())
        });
        infallible(signed.map(|_| ()));
        let mut section = Encoder::new(Vec::new());
        let written = section
            .array(1)
            .and_then(|section| section.map(2)?.str("signing_certificate"));
        infallible(written.map(|_| ()));
        bytes_as_array(&mut section, &self.certificate_pem);
        infallible(section.str("signature").map(|_| ()));
        bytes_as_array(&mut section, cose.writer());
        section.into_writer()
    }
}

/// A signature section that can be read.
pub struct Signature {
    certificate: Certificate,
    certificate_der: Vec<u8>,
    cose: Vec<u8>,
}

impl Signature {
    /// Reads a section: one signature, its certificate first.
    pub fn parse(section: &[u8]) -> Result<Self, Error> {
        let wrong = |why: &str| Error::Signature(why.to_owned());
        let unreadable = |_| wrong("not an array of one map {signing_certificate, signature}");
        let mut decoder = Decoder::new(section);
        if decoder.array().map_err(unreadable)? != Some(1)
            || decoder.map().map_err(unreadable)? != Some(2)
        {
            return Err(wrong(
                "not an array of one map {signing_certificate, signature}",
            ));
        }
        let mut member = |name: &str, max: usize| match decoder.str() {
            Ok(found) if found == name => array_as_bytes(&mut decoder, max)
                .map_err(|_| wrong("a member that is no list of bytes")),
            _ => Err(wrong(
                "not an array of one map {signing_certificate, signature}",
            )),
        };
        let certificate_pem = member("signing_certificate", MAX_CERTIFICATE_BYTES)?;
        let cose = member("signature", MAX_COSE_BYTES)?;
        if decoder.position() != section.len() {
            return Err(wrong("bytes follow it"));
        }
        let certificate = parse_certificate(&certificate_pem).map_err(wrong)?;
        let certificate_der = certificate
            .to_der()
            .map_err(|_| wrong("the certificate cannot be written as DER"))?;
        Ok(Self {
            certificate,
            certificate_der,
            cose,
        })
    }

    pub(crate) fn certificate_der(&self) -> Vec<u8> {
        self.certificate_der.clone()
    }

    /// Whether it is a signature of this image by the key of its own certificate. Whose certificate
    /// that is, only PCR8 says.
    pub fn is_of(&self, image: &Image<'_>) -> bool {
        let expected = pcr_info(&pcr0(image.kernel, image.cmdline, &image.ramdisks));
        self.payload().is_ok_and(|payload| payload == expected)
    }

    /// The payload, if the signature is good.
    fn payload(&self) -> Result<Vec<u8>, &'static str> {
        let wrong = |_| "not a COSE_Sign1";
        let mut decoder = Decoder::new(&self.cose);
        if decoder.datatype().map_err(wrong)? == Type::Tag {
            decoder.tag().map_err(wrong)?;
        }
        if decoder.array().map_err(wrong)? != Some(4) {
            return Err("not a COSE_Sign1");
        }
        let protected = decoder.bytes().map_err(wrong)?;
        if protected != PROTECTED || decoder.map().map_err(wrong)? != Some(0) {
            return Err("not signed with ES384");
        }
        let (payload, signature) = (
            decoder.bytes().map_err(wrong)?,
            decoder.bytes().map_err(wrong)?,
        );
        let signature =
            EcdsaSignature::from_slice(signature).map_err(|_| "not a P-384 signature")?;
        let key = public_key(&self.certificate)?;
        key.verify(&to_be_signed(protected, payload), &signature)
            .map_err(|_| "not by the key of its certificate")?;
        Ok(payload.to_vec())
    }

    /// What nitro-cli prints of the certificate.
    pub(crate) fn certificate_info(&self) -> Value {
        let inner = self.certificate.tbs_certificate();
        let mut issuer = Map::new();
        for attribute in inner.issuer().iter_rdn().flat_map(|rdn| rdn.iter()) {
            let name = match attribute.oid.to_string().as_str() {
                "2.5.4.3" => "commonName".to_owned(),
                "2.5.4.6" => "countryName".into(),
                "2.5.4.7" => "localityName".into(),
                "2.5.4.8" => "stateOrProvinceName".into(),
                "2.5.4.10" => "organizationName".into(),
                "2.5.4.11" => "organizationalUnitName".into(),
                other => other.to_owned(),
            };
            issuer.insert(
                name,
                String::from_utf8_lossy(attribute.value.value())
                    .into_owned()
                    .into(),
            );
        }
        let algorithm = match self
            .certificate
            .signature_algorithm()
            .oid
            .to_string()
            .as_str()
        {
            "1.2.840.10045.4.3.2" => "ecdsa-with-SHA256".to_owned(),
            "1.2.840.10045.4.3.3" => "ecdsa-with-SHA384".into(),
            "1.2.840.10045.4.3.4" => "ecdsa-with-SHA512".into(),
            other => other.to_owned(),
        };
        let signature: Vec<_> = self
            .certificate
            .signature()
            .raw_bytes()
            .iter()
            .map(|byte| HEXUPPER.encode(&[*byte]))
            .collect();
        json!({
            "IssuerName": issuer,
            "Algorithm": algorithm,
            "NotBefore": inner.validity().not_before.to_string(),
            "NotAfter": inner.validity().not_after.to_string(),
            "Signature": signature.join(":"),
        })
    }
}

fn parse_certificate(pem: &[u8]) -> Result<Certificate, &'static str> {
    Certificate::from_pem(pem).map_err(|_| "the certificate is no X.509 certificate in PEM")
}

fn public_key(certificate: &Certificate) -> Result<VerifyingKey, &'static str> {
    let spki = certificate.tbs_certificate().subject_public_key_info();
    let der = spki
        .to_der()
        .map_err(|_| "the certificate's key cannot be read")?;
    let spki = p384::pkcs8::SubjectPublicKeyInfoRef::from_der(&der)
        .map_err(|_| "the certificate's key cannot be read")?;
    VerifyingKey::try_from(spki).map_err(|_| "the certificate's key is no P-384 key")
}

/// RFC 9052 section 4.4: ["Signature1", protected, external_aad, payload].
fn to_be_signed(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    let written = encoder.array(4).and_then(|e| {
        e.str("Signature1")?
            .bytes(protected)?
            .bytes(&[])?
            .bytes(payload)
    });
    infallible(written.map(|_| ()));
    encoder.into_writer()
}

/// What is signed: {register_index: 0, register_value: [..48]}.
fn pcr_info(pcr0: &[u8; 48]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    let written = encoder
        .map(2)
        .and_then(|e| e.str("register_index")?.u8(0)?.str("register_value"));
    infallible(written.map(|_| ()));
    bytes_as_array(&mut encoder, pcr0);
    encoder.into_writer()
}

/// AWS's format writes bytes as an array of numbers.
fn bytes_as_array(encoder: &mut Encoder<Vec<u8>>, bytes: &[u8]) {
    infallible(encoder.array(bytes.len() as u64).map(|_| ()));
    for byte in bytes {
        infallible(encoder.u8(*byte).map(|_| ()));
    }
}

fn array_as_bytes(
    decoder: &mut Decoder<'_>,
    max: usize,
) -> Result<Vec<u8>, minicbor::decode::Error> {
    let length = decoder
        .array()?
        .and_then(|length| usize::try_from(length).ok())
        .filter(|length| *length <= max);
    let length = length.ok_or_else(|| minicbor::decode::Error::message("too long"))?;
    (0..length).map(|_| decoder.u8()).collect()
}

fn infallible(written: Result<(), minicbor::encode::Error<std::convert::Infallible>>) {
    written.expect("encoding to memory is infallible");
}
