//! A request for a signature in the form in which it is hashed, and the caller's own signature over
//! that hash.

use serde::{Deserialize, Serialize};

use crate::{
    ApprovalId, BootId, Digest, Error, Intent, Payload, PublicKey, Signer, UnixSeconds, json, jws,
    sha256,
};

/// The `typ` of a [`CallerProof`].
pub const TYPE: &str = "anchorhold-request+jwt";
/// A proof holds for at most this long after the enclave first sees it, in seconds.
pub const MAX_PROOF_SECONDS: i64 = 60;

/// A request as its caller wrote it. Its digest is SHA-256 of the RFC 8785 form, members that were
/// left out being left out, the identity and the format always named, and the intent always in its
/// full form.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Request<'a> {
    /// For whom the result is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<&'a str>,
    /// The token that shows on whose behalf it is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegation: Option<&'a str>,
    /// `vouch-jwt` and the like.
    pub format: &'a str,
    /// Name of the identity.
    pub identity: &'a str,
    /// Action, target, resource.
    #[serde(serialize_with = "in_order")]
    pub intent: &'a Intent,
    /// The caller's JSON.
    pub payload: &'a Payload,
    /// The validity, if it was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validity_seconds: Option<u32>,
}

fn in_order<S: serde::Serializer>(intent: &&Intent, serializer: S) -> Result<S::Ok, S::Error> {
    let delegatee = intent.delegatee().map(|did| ("delegatee", did.as_str()));
    let rest = [("resource", intent.resource()), ("target", intent.target())];
    serializer.collect_map(
        [("action", intent.action())]
            .into_iter()
            .chain(delegatee)
            .chain(rest),
    )
}

impl Request<'_> {
    /// The RFC 8785 form.
    pub fn canonical(&self) -> Result<String, Error> {
        String::from_utf8(json::canonical(self)?).map_err(|_| Error::JsonShape("not UTF-8".into()))
    }

    /// SHA-256 of the RFC 8785 form.
    pub fn digest(&self) -> Result<Digest<32>, Error> {
        // The members stand in their order already.
        if self.payload.is_in_canonical_order() {
            let text =
                serde_json::to_vec(self).map_err(|error| Error::JsonShape(error.to_string()))?;
            return Ok(sha256(&text));
        }
        Ok(sha256(&json::canonical(self)?))
    }
}

/// A token exchange (RFC 8693 section 2.1) as its caller wrote it; its digest is made in the same
/// way. No digest is that of a [`Request`] too: only an exchange has a `grant_type`.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Exchange<'a> {
    /// For whom the new token is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<&'a str>,
    /// Name of the identity that acts.
    pub identity: &'a str,
    /// What it is limited to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<&'a str>,
    /// What of the scope is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<&'a str>,
    /// The token of the one who delegates.
    pub subject_token: &'a str,
}

/// `grant_type` of a token exchange (RFC 8693 section 2.1).
pub const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

impl Exchange<'_> {
    /// SHA-256 of the RFC 8785 form.
    pub fn digest(&self) -> Result<Digest<32>, Error> {
        #[derive(Serialize)]
        struct Digested<'a> {
            grant_type: &'static str,
            #[serde(flatten)]
            exchange: &'a Exchange<'a>,
        }
        Ok(sha256(&json::canonical(&Digested {
            grant_type: EXCHANGE,
            exchange: self,
        })?))
    }
}

/// A rotation as its caller wrote it; its digest is made in the same way. No digest is that of a [`Request`] or an [`Exchange`]
/// too: those have a payload, or a `grant_type`.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// Name of the identity whose key is to be replaced.
    pub identity: &'a str,
}

/// `action` of a [`Rotation`].
pub const ROTATION: &str = "key.rotate";

impl Rotation<'_> {
    /// SHA-256 of the RFC 8785 form.
    pub fn digest(&self) -> Result<Digest<32>, Error> {
        #[derive(Serialize)]
        struct Digested<'a> {
            action: &'static str,
            identity: &'a str,
        }
        Ok(sha256(&json::canonical(&Digested {
            action: ROTATION,
            identity: self.identity,
        })?))
    }
}

/// What a caller with a key of its own signs for each request: a compact JWS of type [`TYPE`],
/// `kid` being the RFC 7638 thumbprint of its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallerProof {
    /// The boot of the enclave that is asked, so that no other one takes it.
    pub boot_id: BootId,
    /// Not to be taken after this time, in seconds since 1970.
    pub exp: i64,
    /// Unique for each request; a proof works once.
    pub jti: uuid::Uuid,
    /// The version of the identity's key that shall sign, or end.
    pub key_version: u32,
    /// [`Request::digest`], [`Exchange::digest`], or [`Rotation::digest`].
    pub request: Digest<32>,
}

impl CallerProof {
    /// Signs the proof.
    pub fn sign<S: Signer>(&self, signer: &S) -> Result<String, S::Error> {
        jws::sign(TYPE, self, &signer.public_key().thumbprint(), signer)
    }

    /// Verifies the caller's signature, and that it has not run out; what it is for is the
    /// enclave's to compare.
    pub fn verify(jws: &str, key: &PublicKey, latest: UnixSeconds) -> Result<Self, Error> {
        let proof: Self = jws::verify(TYPE, jws, &key.thumbprint(), key)?;
        if latest.0 > proof.exp {
            return Err(Error::Expired {
                what: "proof",
                until: UnixSeconds(proof.exp),
                at: latest,
            });
        }
        if proof.exp > latest.0.saturating_add(MAX_PROOF_SECONDS) {
            return Err(Error::ProofTooLong);
        }
        Ok(proof)
    }

    /// The thumbprint that a proof names, before anything is verified: to find the key.
    pub fn unverified_kid(jws: &str) -> Result<String, Error> {
        jws::unverified_kid(jws)
    }
}

/// The `typ` of an [`Approval`].
pub const APPROVAL_TYPE: &str = "anchorhold-approval+jwt";

/// What an approver signs: a compact JWS of type [`APPROVAL_TYPE`], `kid` being the RFC 7638
/// thumbprint of its key. It is for one request that waits in one boot, and works once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// Id of the request that waits.
    pub approval: ApprovalId,
    /// The boot of the enclave in which it waits.
    pub boot_id: BootId,
    /// Not to be taken after this time, in seconds since 1970.
    pub exp: i64,
    /// [`Request::digest`] of what is approved.
    pub request: Digest<32>,
}

impl Approval {
    /// Signs the approval.
    pub fn sign<S: Signer>(&self, signer: &S) -> Result<String, S::Error> {
        jws::sign(
            APPROVAL_TYPE,
            self,
            &signer.public_key().thumbprint(),
            signer,
        )
    }

    /// Verifies the approver's signature; what it is for is the enclave's to compare.
    pub fn verify(jws: &str, key: &PublicKey) -> Result<Self, Error> {
        jws::verify(APPROVAL_TYPE, jws, &key.thumbprint(), key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Did;
    use crate::signer::tests::both;

    fn proof() -> CallerProof {
        CallerProof {
            boot_id: BootId::new([1; 16]),
            exp: 1060,
            jti: uuid::Uuid::from_bytes([2; 16]),
            key_version: 1,
            request: sha256(b"request"),
        }
    }

    #[test]
    fn a_request_has_one_digest_and_every_member_counts() {
        let intent = Intent::new("a".into(), String::new(), "r".into()).unwrap();
        let payload = Payload::parse(b"{\"b\":1,\"a\":\"\\u00e9\"}").unwrap();
        let request = Request {
            audience: None,
            delegation: None,
            format: "vouch-jwt",
            identity: "agent",
            intent: &intent,
            payload: &payload,
            validity_seconds: None,
        };
        let text = "{\"format\":\"vouch-jwt\",\"identity\":\"agent\",\"intent\":{\"action\":\"a\",\"resource\":\"r\",\"target\":\"\"},\
                    \"payload\":{\"a\":\"é\",\"b\":1}}";
        assert_eq!(request.canonical().as_deref(), Ok(text));
        assert_eq!(request.digest(), Ok(sha256(text.as_bytes())));
        // Names beyond the basic plane sort otherwise in UTF-16 than in UTF-8; both ways must give
        // the canonical form.
        for names in [
            "{\"\u{e000}\":1,\"\u{10000}\":2,\"\u{7f}\\u0001\\\"\":3}",
            "{\"a\":[{\"\u{ffff}\":1,\"\u{10000}\":{}}]}",
            "{\"z\":{\"b\":1,\"a\":2}}",
        ] {
            let payload = Payload::parse(names.as_bytes()).unwrap();
            let request = Request {
                payload: &payload,
                ..request
            };
            assert_eq!(
                request.digest(),
                Ok(sha256(&json::canonical(&request).unwrap())),
                "{names}"
            );
        }
        let other = Intent::new("a".into(), "r".into(), String::new()).unwrap();
        let empty = Payload::default();
        let digests = [
            request,
            Request {
                audience: Some("x"),
                ..request
            },
            Request {
                delegation: Some("x"),
                ..request
            },
            Request {
                format: "vouch-credential",
                ..request
            },
            Request {
                identity: "x",
                ..request
            },
            Request {
                intent: &other,
                ..request
            },
            Request {
                intent: &intent
                    .clone()
                    .granted_to(Did::parse("did:web:a.example").ok()),
                ..request
            },
            Request {
                payload: &empty,
                ..request
            },
            Request {
                validity_seconds: Some(1),
                ..request
            },
        ]
        .map(|request| request.digest().unwrap());
        for (index, digest) in digests.iter().enumerate() {
            assert!(!digests[..index].contains(digest));
        }
        let rotation = Rotation { identity: "agent" };
        let text = br#"{"action":"key.rotate","identity":"agent"}"#;
        assert_eq!(rotation.digest(), Ok(sha256(text)));
    }

    #[test]
    fn an_exchange_has_one_digest_and_every_member_counts() {
        let exchange = Exchange {
            audience: None,
            identity: "agent",
            resource: None,
            scope: None,
            subject_token: "a.b.c",
        };
        let text = "{\"grant_type\":\"urn:ietf:params:oauth:grant-type:token-exchange\",\"identity\":\"agent\",\"subject_token\":\"a.b.c\"}";
        assert_eq!(exchange.digest(), Ok(sha256(text.as_bytes())));
        let digests = [
            exchange,
            Exchange {
                audience: Some("x"),
                ..exchange
            },
            Exchange {
                resource: Some("x"),
                ..exchange
            },
            Exchange {
                scope: Some("x"),
                ..exchange
            },
            Exchange {
                scope: Some(""),
                ..exchange
            },
            Exchange {
                identity: "x",
                ..exchange
            },
            Exchange {
                subject_token: "x",
                ..exchange
            },
        ]
        .map(|exchange| exchange.digest().unwrap());
        for (index, digest) in digests.iter().enumerate() {
            assert!(!digests[..index].contains(digest));
        }
    }

    #[test]
    fn a_proof_is_of_one_key_and_lasts_a_minute() {
        let [ed, p256] = both();
        for key in [&ed, &p256] {
            let jws = proof().sign(key).unwrap();
            let verify = |at| {
                CallerProof::verify(&jws, key.public_key(), UnixSeconds(at))
                    .map_err(|error| error.code())
            };
            assert_eq!(verify(1000), Ok(proof()));
            assert_eq!(verify(1060), Ok(proof()));
            assert_eq!(verify(1061), Err("expired"));
            assert_eq!(verify(999), Err("proof_too_long"));
            assert_eq!(
                CallerProof::unverified_kid(&jws),
                Ok(key.public_key().thumbprint())
            );
        }
        let jws = proof().sign(&ed).unwrap();
        assert_eq!(
            CallerProof::verify(&jws, p256.public_key(), UnixSeconds(1000)),
            Err(Error::AlgorithmMismatch)
        );
        let other = crate::signer::tests::TestKey::ed25519(9);
        assert_eq!(
            CallerProof::verify(&jws, other.public_key(), UnixSeconds(1000)),
            Err(Error::KeyIdMismatch)
        );
        // A token of an identity is no proof, whatever it says.
        let token = jws::sign("vouch+jwt", &proof(), &ed.public_key().thumbprint(), &ed).unwrap();
        assert_eq!(
            CallerProof::verify(&token, ed.public_key(), UnixSeconds(1000))
                .unwrap_err()
                .code(),
            "token_malformed"
        );
        // Nor is an approval, nor the other way round.
        let approval = Approval {
            approval: ApprovalId::new([3; 16]),
            boot_id: BootId::new([1; 16]),
            exp: 1060,
            request: sha256(b"request"),
        };
        let signed = approval.sign(&ed).unwrap();
        assert_eq!(Approval::verify(&signed, ed.public_key()), Ok(approval));
        assert!(CallerProof::verify(&signed, ed.public_key(), UnixSeconds(1000)).is_err());
        assert!(
            Approval::verify(&jws, ed.public_key()).is_err()
                && Approval::verify(&signed, other.public_key()).is_err()
        );
        let longer = Error::TokenMalformed("longer than 64 KiB");
        assert_ne!(
            CallerProof::unverified_kid(&"a".repeat(jws::MAX_BYTES)),
            Err(longer.clone())
        );
        assert_eq!(
            CallerProof::unverified_kid(&"a".repeat(jws::MAX_BYTES + 1)),
            Err(longer)
        );
        for bad in ["", "a", "e30.e30.", &"a".repeat(jws::MAX_BYTES + 1)] {
            assert!(CallerProof::verify(bad, ed.public_key(), UnixSeconds(1000)).is_err());
            assert!(CallerProof::unverified_kid(bad).is_err());
        }
    }
}
