//! The Vouch JWS token: compact serialisation (RFC 7515 section 3.1), EdDSA or ES256.
//!
//! `header.claims.signature`, where the header is `{"alg","kid","typ":"vouch+jwt"}` and the claims
//! are [`Claims`].

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::act::{Act, MAX_DEPTH};
use crate::{
    Caller, Did, Digest, Error, Intent, KeyId, Payload, PublicKey, SKEW_SECONDS, Signer,
    UnixSeconds, json, jws,
};

/// The `typ` of a Vouch token.
pub const TYPE: &str = "vouch+jwt";
/// Longer tokens are not looked at: 64 KiB.
pub const MAX_BYTES: usize = jws::MAX_BYTES;

/// Where the key lives, as its enclave says. Evidence decides whether that is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Tee {
    /// An AWS Nitro enclave.
    AwsNitro,
    /// No hardware at all: the development enclave.
    Mock,
}

/// What a token says. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Issuer: the identity's DID.
    pub iss: Did,
    /// On whose behalf; without `act` the same DID.
    pub sub: String,
    /// Who acts for `sub`: the outermost is the issuer (RFC 8693 section 4.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Act>,
    /// What it is limited to (RFC 8693 section 4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// For whom it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    /// Time of signing; at the earliest.
    pub iat: i64,
    /// Begin of validity.
    pub nbf: i64,
    /// End of validity.
    pub exp: i64,
    /// Unique id of this token (UUID version 4).
    pub jti: Uuid,
    /// SHA-256 of the `user_data` of every attestation document of this key version.
    pub binding: Digest<32>,
    /// Where the key says it lives.
    pub tee: Tee,
    /// Who asked for it.
    pub caller: Caller,
    /// The Vouch content.
    pub vouch: Vouch,
}

impl Claims {
    /// Whether a token exchange issued it (RFC 8693). No rule of a policy allowed what its scope
    /// names: it is for asking, not for doing.
    pub fn is_exchanged(&self) -> bool {
        self.vouch.intent.action() == EXCHANGE_ACTION
    }

    /// When it begins to be valid: the later of `nbf` and `iat`.
    pub fn begins(&self) -> UnixSeconds {
        UnixSeconds(self.nbf.max(self.iat))
    }

    /// Holds its times against `at`, within [`SKEW_SECONDS`].
    pub fn check_window(&self, at: UnixSeconds) -> Result<(), Error> {
        check_window("token", self.begins(), UnixSeconds(self.exp), at)
    }

    /// A token for somebody else is refused, and so is one for nobody in particular where somebody
    /// is expected.
    pub fn check_audience(&self, expected: Option<&str>) -> Result<(), Error> {
        check_audience(self.aud.as_deref(), expected)
    }
}

/// The member `vouch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vouch {
    /// `1.0`.
    pub version: String,
    /// The caller's JSON, as it was asked for.
    pub payload: Payload,
    /// What the caller wanted it for.
    pub intent: Intent,
    /// The tokens by which it was delegated, oldest first; at most five.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delegation_chain: Vec<DelegationLink>,
}

/// `intent.action` of what a token exchange issues, and of nothing else: an enclave signs no intent
/// with it.
pub const EXCHANGE_ACTION: &str = "act";
/// What the issuer of an approval's link begins with; nobody outside may be called so.
pub const APPROVER: &str = "approver:";

/// A token by which something was delegated, or an approval, as Vouch has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DelegationLink {
    /// Who issued it.
    pub iss: String,
    /// On whose behalf.
    pub sub: String,
    /// JSON of what it was for: `{"resource", "scope"}`.
    pub intent: String,
    /// When.
    pub iat: i64,
    /// The first 64 characters of its signature.
    pub sig: String,
}

impl DelegationLink {
    pub(crate) fn new(
        iss: &str,
        sub: &str,
        scope: &str,
        resource: &str,
        iat: i64,
        signature: &str,
    ) -> Self {
        let intent = serde_json::json!({ "resource": resource, "scope": scope }).to_string();
        Self {
            iss: iss.into(),
            sub: sub.into(),
            intent,
            iat,
            sig: signature.chars().take(64).collect(),
        }
    }

    /// The link of an approval: the approver lets `sub` do what has this digest.
    pub fn approval(
        approver: &str,
        sub: &str,
        request: Digest<32>,
        iat: i64,
        signature: &str,
    ) -> Self {
        let intent = serde_json::json!({ "approves": request }).to_string();
        let iss = format!("{APPROVER}{approver}");
        Self {
            iss,
            sub: sub.into(),
            intent,
            iat,
            sig: signature.chars().take(64).collect(),
        }
    }

    /// Whether it is an approval, and no token.
    pub fn is_approval(&self) -> bool {
        self.iss.starts_with(APPROVER)
    }
}

/// Signs `claims` with the key called `kid`.
pub fn sign<S: Signer>(claims: &Claims, kid: &KeyId, signer: &S) -> Result<String, S::Error> {
    jws::sign(TYPE, claims, kid.as_str(), signer)
}

/// What a verifier knows and expects.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The key that must have signed, and its DID.
    pub key: &'a PublicKey,
    /// The DID that must have issued.
    pub did: &'a Did,
    /// The time of verification.
    pub at: UnixSeconds,
    /// The audience that the verifier is. `None` accepts only tokens without one.
    pub audience: Option<&'a str>,
}

/// Verifies a token: form, key id, algorithm, signature, then times within [`SKEW_SECONDS`], then
/// audience.
pub fn verify(token: &str, expected: &Expected<'_>) -> Result<Claims, Error> {
    let claims = verify_signature(token, expected.key, expected.did)?;
    claims.check_window(expected.at)?;
    claims.check_audience(expected.audience)?;
    Ok(claims)
}

/// Verifies form, key id, algorithm, signature and issuer, and neither times nor audience: for a
/// verifier that names each step. It must call [`Claims::check_window`] and
/// [`Claims::check_audience`] too.
pub fn verify_signature(token: &str, key: &PublicKey, did: &Did) -> Result<Claims, Error> {
    let kid = KeyId::of(did, key)?;
    let claims: Claims = jws::verify(TYPE, token, kid.as_str(), key)?;
    let acts = claims.act.as_ref().map_or(&claims.sub, |act| &act.sub);
    if claims.iss != *did || acts != did.as_str() {
        return Err(Error::IssuerMismatch);
    }
    let links = claims
        .vouch
        .delegation_chain
        .iter()
        .filter(|link| !link.is_approval())
        .count();
    if claims.act.as_ref().map_or(0, Act::depth) > MAX_DEPTH
        || links > MAX_DEPTH
        || claims.vouch.delegation_chain.len() > 2 * MAX_DEPTH
        || claims.act.is_some() != (links > 0)
    {
        return Err(Error::DelegationInvalid(
            "its chain and its actors do not belong together",
        ));
    }
    if claims.vouch.version != "1.0" {
        return Err(Error::TokenMalformed("vouch.version is not 1.0"));
    }
    Ok(claims)
}

/// What a token claims, before anything is verified: to choose evidence, never to trust.
pub fn unverified_claims(token: &str) -> Result<Claims, Error> {
    json::parse_as(&jws::unverified_claims(token)?)
}

/// Which key a token names, before anything is verified: to find evidence, never to trust.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ClaimedKey {
    /// `iss`, whatever it is.
    pub iss: String,
    /// `binding`.
    pub binding: Digest<32>,
}

/// Header and claims of any compact JWS, before anything is verified: to show, never to trust.
pub fn unverified_parts(token: &str) -> Result<(Value, Value), Error> {
    if token.split('.').count() != 3 {
        return Err(Error::TokenMalformed("not three parts"));
    }
    Ok((
        json::parse(&jws::unverified_header(token)?)?,
        json::parse(&jws::unverified_claims(token)?)?,
    ))
}

/// Reads what is needed to find the evidence for a token, and no more.
pub fn unverified_key(token: &str) -> Result<ClaimedKey, Error> {
    serde_json::from_slice(&jws::unverified_claims(token)?)
        .map_err(|error| Error::JsonShape(error.to_string()))
}

/// Holds the first and the last second of a validity against `at`, within [`SKEW_SECONDS`].
/// `what` it is that has them: `token`, `credential`.
pub fn check_window(
    what: &'static str,
    begin: UnixSeconds,
    end: UnixSeconds,
    at: UnixSeconds,
) -> Result<(), Error> {
    if at < begin.plus(-SKEW_SECONDS) {
        let from = begin;
        return Err(Error::NotYetValid { what, from, at });
    }
    if at >= end.plus(SKEW_SECONDS) {
        let until = end;
        return Err(Error::Expired { what, until, at });
    }
    Ok(())
}

/// What was signed for somebody else is refused, and so is what was signed for nobody in particular
/// where somebody is expected.
pub fn check_audience(named: Option<&str>, expected: Option<&str>) -> Result<(), Error> {
    if named == expected {
        Ok(())
    } else {
        Err(Error::AudienceMismatch {
            named: named.map(str::to_owned),
            expected: expected.map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::*;
    use crate::Message;
    use crate::caller::ObservedCaller;
    use crate::sha256;
    use crate::signer::tests::{TestKey, both};

    fn claims(key: &TestKey) -> Claims {
        let did = Did::key(key.public_key());
        Claims {
            iss: did.clone(),
            sub: did.to_string(),
            act: None,
            scope: None,
            aud: Some("https://bank.example".into()),
            iat: 1000,
            nbf: 1000,
            exp: 1300,
            jti: Uuid::from_bytes([1; 16]),
            binding: sha256(b"user_data"),
            tee: Tee::Mock,
            caller: Caller::Asserted(ObservedCaller::ids(1000, 1000)),
            vouch: Vouch {
                version: "1.0".into(),
                payload: Payload::parse(b"{\"amount\":100,\"nested\":{\"x\":[1,null,\"y\"]}}")
                    .unwrap(),
                intent: Intent::new("authorization".into(), String::new(), String::new()).unwrap(),
                delegation_chain: Vec::new(),
            },
        }
    }

    fn signed(key: &TestKey, claims: &Claims) -> String {
        sign(
            claims,
            &KeyId::of(&claims.iss, key.public_key()).unwrap(),
            key,
        )
        .unwrap()
    }

    fn expected<'a>(key: &'a TestKey, did: &'a Did) -> Expected<'a> {
        Expected {
            key: key.public_key(),
            did,
            at: UnixSeconds(1100),
            audience: Some("https://bank.example"),
        }
    }

    #[test]
    fn a_token_verifies_and_says_what_was_signed() {
        for key in both() {
            let claims = claims(&key);
            let token = signed(&key, &claims);
            assert_eq!(
                verify(&token, &expected(&key, &claims.iss)).unwrap(),
                claims
            );
            assert_eq!(unverified_claims(&token).unwrap(), claims);
            let claimed = ClaimedKey {
                iss: claims.iss.to_string(),
                binding: claims.binding,
            };
            assert_eq!(unverified_key(&token), Ok(claimed));
        }
    }

    #[test]
    fn every_bit_of_the_decoded_parts_counts() {
        for key in both() {
            let claims = claims(&key);
            let token = signed(&key, &claims);
            let parts: Vec<Vec<u8>> = token
                .split('.')
                .map(|part| BASE64URL_NOPAD.decode(part.as_bytes()).unwrap())
                .collect();
            for part in 0..3 {
                for bit in 0..parts[part].len() * 8 {
                    let mut changed = parts.clone();
                    changed[part][bit / 8] ^= 1 << (bit % 8);
                    let changed: Vec<String> = changed
                        .iter()
                        .map(|part| BASE64URL_NOPAD.encode(part))
                        .collect();
                    assert!(
                        verify(&changed.join("."), &expected(&key, &claims.iss)).is_err(),
                        "part {part} bit {bit}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_token_has_one_spelling() {
        let [key, _] = both();
        let claims = claims(&key);
        let token = signed(&key, &claims);
        let expected = expected(&key, &claims.iss);
        for respelled in [
            format!("{token}="),
            format!("{token}."),
            format!(" {token}"),
            format!("{token}\n"),
            token.replace('.', ".."),
        ] {
            assert!(verify(&respelled, &expected).is_err());
        }
        // The last character of a 64-byte value has four stray bits; setting one names the same
        // bytes to a lax reader.
        let last = token.chars().last().unwrap();
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let twin = alphabet.as_bytes()[alphabet.find(last).unwrap() ^ 1] as char;
        let respelled = format!("{}{twin}", &token[..token.len() - 1]);
        assert_eq!(
            verify(&respelled, &expected),
            Err(Error::Base64("the signature"))
        );
        assert_eq!(
            verify(&"a".repeat(MAX_BYTES + 1), &expected)
                .unwrap_err()
                .code(),
            "token_malformed"
        );
        assert_eq!(verify("", &expected).unwrap_err().code(), "token_malformed");
        // The same at both doors that verify nothing.
        let longest = format!("{}.e30.{}", "a".repeat(100), "a".repeat(MAX_BYTES - 105));
        for (text, code) in [
            ("", "token_malformed"),
            ("a", "token_malformed"),
            ("a.e30=.b", "base64"),
            ("a.e30.b", "json_shape"),
            (&longest, "json_shape"),
            (&(longest.clone() + "a"), "token_malformed"),
        ] {
            assert_eq!(unverified_claims(text).unwrap_err().code(), code);
            assert_eq!(unverified_key(text).unwrap_err().code(), code);
        }
    }

    #[test]
    fn the_longest_token_is_looked_at_and_a_longer_one_is_not() {
        assert_eq!(MAX_BYTES, 65_536);
        for key in both() {
            let padded = |n: usize| {
                let mut claims = claims(&key);
                claims.vouch.payload =
                    Payload::parse(format!("{{\"x\":\"{}\"}}", "a".repeat(n)).as_bytes()).unwrap();
                (signed(&key, &claims), claims)
            };
            // Four characters for each three bytes: some lengths there are not.
            let about = (MAX_BYTES - padded(0).0.len()) / 4 * 3;
            let mut sizes = (about - 3..about + 6)
                .map(padded)
                .map(|(token, claims)| (token.len(), token, claims));
            let longest = sizes
                .clone()
                .filter(|(size, ..)| *size <= MAX_BYTES)
                .max_by_key(|(size, ..)| *size)
                .unwrap();
            assert!(longest.0 >= MAX_BYTES - 1);
            assert_eq!(
                verify(&longest.1, &expected(&key, &longest.2.iss)),
                Ok(longest.2.clone())
            );
            let longer = sizes.find(|(size, ..)| *size > MAX_BYTES).unwrap();
            assert_eq!(
                verify(&longer.1, &expected(&key, &longer.2.iss)),
                Err(Error::TokenMalformed("longer than 64 KiB"))
            );
        }
    }

    #[test]
    fn each_claim_that_matters_is_checked() {
        let [key, other] = both();
        let good = claims(&key);
        let check = |change: &dyn Fn(&mut Claims)| {
            let mut claims = good.clone();
            change(&mut claims);
            let kid = KeyId::of(&good.iss, key.public_key()).unwrap();
            verify(
                &sign(&claims, &kid, &key).unwrap(),
                &expected(&key, &good.iss),
            )
            .map(|_| ())
            .map_err(|e| e.code())
        };
        assert_eq!(check(&|_| ()), Ok(()));
        assert_eq!(
            check(&|c| c.sub = Did::key(other.public_key()).to_string()),
            Err("issuer_mismatch")
        );
        assert_eq!(
            check(&|c| c.iss = Did::key(other.public_key())),
            Err("issuer_mismatch")
        );
        assert_eq!(check(&|c| c.exp = 1070), Err("expired"));
        assert_eq!(check(&|c| c.exp = 1071), Ok(()));
        assert_eq!(check(&|c| c.nbf = 1131), Err("not_yet_valid"));
        assert_eq!(check(&|c| c.iat = 1131), Err("not_yet_valid"));
        assert_eq!(check(&|c| c.iat = 1130), Ok(()));
        assert_eq!(check(&|c| c.aud = None), Err("audience_mismatch"));
        assert_eq!(
            check(&|c| c.aud = Some("https://other.example".into())),
            Err("audience_mismatch")
        );
        assert_eq!(
            check(&|c| c.vouch.version = "2.0".into()),
            Err("token_malformed")
        );
    }

    #[test]
    fn foreign_headers_and_claims_are_refused() {
        let [key, p256] = both();
        let claims = claims(&key);
        let body = serde_json::to_string(&claims).unwrap();
        let kid = KeyId::of(&claims.iss, key.public_key()).unwrap();
        let make = |header: String, body: &str| {
            let mut token = format!(
                "{}.{}",
                BASE64URL_NOPAD.encode(header.as_bytes()),
                BASE64URL_NOPAD.encode(body.as_bytes())
            );
            let signature = key.sign(&Message::jws(&token)).unwrap();
            token = format!("{token}.{}", BASE64URL_NOPAD.encode(&signature));
            verify(&token, &expected(&key, &claims.iss))
                .map(|_| ())
                .map_err(|error| error.code())
        };
        let good = format!("{{\"alg\":\"EdDSA\",\"kid\":\"{kid}\",\"typ\":\"vouch+jwt\"}}");
        assert_eq!(make(good.clone(), &body), Ok(()));
        assert_eq!(
            make(good.replace("EdDSA", "none"), &body),
            Err("algorithm_mismatch")
        );
        assert_eq!(
            make(good.replace("EdDSA", "ES256"), &body),
            Err("algorithm_mismatch")
        );
        assert_eq!(
            make(good.replace("vouch+jwt", "JWT"), &body),
            Err("token_malformed")
        );
        let other = KeyId::of(&Did::key(p256.public_key()), p256.public_key()).unwrap();
        assert_eq!(
            make(good.replace(kid.as_str(), other.as_str()), &body),
            Err("key_id_mismatch")
        );
        assert_eq!(
            make(good.replace('}', ",\"jwk\":{}}"), &body),
            Err("json_shape")
        );
        assert_eq!(
            make(good.replace("{\"alg\"", "{\"alg\":\"none\",\"alg\""), &body),
            Err("json_duplicate_key")
        );
        assert_eq!(
            make(
                good.clone(),
                &body.replace("{\"iss\"", "{\"admin\":true,\"iss\"")
            ),
            Err("json_shape")
        );
        assert_eq!(
            make(
                good.clone(),
                &body.replace("1000,\"nbf\"", "1000.0,\"nbf\"")
            ),
            Err("json_float")
        );
        assert_eq!(
            make(
                good,
                &body.replace("\"payload\":{", "\"payload\":null,\"x\":{")
            ),
            Err("json_shape")
        );
    }
}
