//! Compact JWS (RFC 7515 section 3.1) with the three header members that are used here: `alg`,
//! `kid`, `typ`.

use data_encoding::BASE64URL_NOPAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Error, Message, PublicKey, Signer, json};

/// Longer ones are not looked at: 64 KiB.
pub(crate) const MAX_BYTES: usize = 64 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'a str,
}

/// Signs `claims` as a `typ` with the key called `kid`.
pub(crate) fn sign<T: Serialize, S: Signer>(
    typ: &str,
    claims: &T,
    kid: &str,
    signer: &S,
) -> Result<String, S::Error> {
    let header = Header {
        alg: signer.public_key().algorithm().as_str(),
        kid,
        typ,
    };
    let mut jws = String::with_capacity(1024);
    append(&mut jws, &header)?;
    jws.push('.');
    append(&mut jws, claims)?;
    let signature = signer.sign(&Message::jws(&jws))?;
    jws.push('.');
    BASE64URL_NOPAD.encode_append(&signature, &mut jws);
    Ok(jws)
}

fn append<T: Serialize>(jws: &mut String, part: &T) -> Result<(), Error> {
    let json = serde_json::to_vec(part).map_err(|error| Error::JsonShape(error.to_string()))?;
    BASE64URL_NOPAD.encode_append(&json, jws);
    Ok(())
}

/// Verifies form, type, algorithm, key id and signature, and reads the claims.
pub(crate) fn verify<T: DeserializeOwned>(
    typ: &str,
    jws: &str,
    kid: &str,
    key: &PublicKey,
) -> Result<T, Error> {
    if jws.len() > MAX_BYTES {
        return Err(Error::TokenMalformed("longer than 64 KiB"));
    }
    let (signing_input, signature) = jws
        .rsplit_once('.')
        .ok_or(Error::TokenMalformed("not three parts"))?;
    let (header, claims) = signing_input
        .split_once('.')
        .ok_or(Error::TokenMalformed("not three parts"))?;
    let header = json::parse(&decode(header, "the header")?)?;
    let header =
        Header::deserialize(&header).map_err(|error| Error::JsonShape(error.to_string()))?;
    if header.typ != typ {
        return Err(Error::TokenMalformed("another typ"));
    }
    if header.alg != key.algorithm().as_str() {
        return Err(Error::AlgorithmMismatch);
    }
    if header.kid != kid {
        return Err(Error::KeyIdMismatch);
    }
    key.verify(
        &Message::jws(signing_input),
        &decode(signature, "the signature")?,
    )?;
    json::parse_as(&decode(claims, "the claims")?)
}

/// The claims, before anything is verified.
pub(crate) fn unverified_claims(jws: &str) -> Result<Vec<u8>, Error> {
    unverified_part(jws, 1, "the claims")
}

/// The header, before anything is verified.
pub(crate) fn unverified_header(jws: &str) -> Result<Vec<u8>, Error> {
    unverified_part(jws, 0, "the header")
}

fn unverified_part(jws: &str, index: usize, what: &'static str) -> Result<Vec<u8>, Error> {
    if jws.len() > MAX_BYTES {
        return Err(Error::TokenMalformed("longer than 64 KiB"));
    }
    let part = jws.split('.').nth(index);
    decode(part.ok_or(Error::TokenMalformed("not three parts"))?, what)
}

fn decode(part: &str, what: &'static str) -> Result<Vec<u8>, Error> {
    BASE64URL_NOPAD
        .decode(part.as_bytes())
        .map_err(|_| Error::Base64(what))
}

/// The key id, before anything is verified.
pub(crate) fn unverified_kid(jws: &str) -> Result<String, Error> {
    let header = json::parse(&unverified_header(jws)?)?;
    let header =
        Header::deserialize(&header).map_err(|error| Error::JsonShape(error.to_string()))?;
    Ok(header.kid.to_owned())
}
