//! The plain envelope of an action: five members and nothing more, as the payload of a JWS.
//!
//! It says who did what to what, on whose behalf and when; it has no audience, no end, no payload
//! and no evidence. A token says more.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::{Error, KeyId, PublicKey, Signer, jws};

/// `typ` of the JWS, so that nothing else can be taken for it, nor it for anything else.
pub const TYPE: &str = "anchorhold-envelope+jws";

/// What was done. The members stand in alphabetical order, which is their RFC 8785 form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// What is done.
    pub action: String,
    /// Who does it: see [`crate::agent_id`].
    pub agent_id: String,
    /// On whose behalf; left out if on nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegated_by: Option<String>,
    /// What it is done to.
    pub resource: String,
    /// When, in seconds since 1970.
    pub timestamp: i64,
}

impl Envelope {
    /// Signs it: a compact JWS.
    pub fn sign<S: Signer>(&self, kid: &KeyId, signer: &S) -> Result<String, S::Error> {
        jws::sign(TYPE, self, kid.as_str(), signer)
    }

    /// Verifies form, key id and signature. How old it may be is the reader's to say.
    pub fn verify(text: &str, kid: &KeyId, key: &PublicKey) -> Result<Self, Error> {
        jws::verify(TYPE, text, kid.as_str(), key)
    }

    /// By what a record names an envelope of this key: the first 64 characters of its signature, of
    /// an ECDSA signature in its form with the lower `s`, since the other form verifies too.
    pub fn id(text: &str, key: &PublicKey) -> Result<String, Error> {
        let signature = text
            .rsplit_once('.')
            .ok_or(Error::TokenMalformed("not three parts"))?
            .1;
        let bytes = BASE64URL_NOPAD
            .decode(signature.as_bytes())
            .map_err(|_| Error::Base64("the signature"))?;
        let bytes = match key {
            PublicKey::Ed25519(_) => bytes,
            PublicKey::P256(_) => {
                let signature = p256::ecdsa::Signature::from_slice(&bytes)
                    .map_err(|_| Error::SignatureInvalid)?;
                signature.normalize_s().to_bytes().to_vec()
            }
        };
        Ok(BASE64URL_NOPAD.encode(&bytes).chars().take(64).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::tests::{TestKey, both};
    use crate::{Did, token};

    #[test]
    fn an_envelope_has_its_five_members_and_is_nothing_else() {
        for key in both() {
            let did = Did::key(key.public_key());
            let kid = KeyId::of(&did, key.public_key()).unwrap();
            let agent_id = crate::agent_id("triage-bot", key.public_key());
            let envelope = Envelope {
                action: "create_issue".into(),
                agent_id: agent_id.clone(),
                delegated_by: Some("user:alice".into()),
                resource: "github://org/repo".into(),
                timestamp: 7,
            };
            let jws = envelope.sign(&kid, &key).unwrap();
            assert_eq!(
                Envelope::verify(&jws, &kid, key.public_key()),
                Ok(envelope.clone())
            );
            let twin = crate::signer::tests::twin(&jws, &key);
            assert!(Envelope::verify(&twin, &kid, key.public_key()).is_ok());
            assert_eq!(
                Envelope::id(&twin, key.public_key()),
                Envelope::id(&jws, key.public_key())
            );
            assert_eq!(Envelope::id(&jws, key.public_key()).unwrap().len(), 64);
            let payload = BASE64URL_NOPAD
                .decode(jws.split('.').nth(1).unwrap().as_bytes())
                .unwrap();
            // As the paper's program writes it: sorted, without spaces.
            let text = format!(
                "{{\"action\":\"create_issue\",\"agent_id\":\"{agent_id}\",\"delegated_by\":\"user:alice\",\"resource\":\"github://org/repo\",\"timestamp\":7}}"
            );
            assert_eq!(String::from_utf8(payload).unwrap(), text);
            let nobodys = Envelope {
                delegated_by: None,
                ..envelope.clone()
            };
            assert!(nobodys.sign(&kid, &key).unwrap() != jws);
            let other = TestKey::ed25519(9);
            assert!(Envelope::verify(&jws, &kid, other.public_key()).is_err());
            let expected = token::Expected {
                key: key.public_key(),
                did: &did,
                at: crate::UnixSeconds(7),
                audience: None,
            };
            assert!(token::verify(&jws, &expected).is_err());
            let as_token = jws::sign("vouch+jwt", &envelope, kid.as_str(), &key).unwrap();
            assert_eq!(
                Envelope::verify(&as_token, &kid, key.public_key()),
                Err(Error::TokenMalformed("another typ"))
            );
        }
    }
}
