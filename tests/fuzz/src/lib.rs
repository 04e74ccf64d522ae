//! What the targets share: the key that stands for an enclave's, and the published vectors.

use std::sync::LazyLock;

use attestation::{Attested, MockRoot, verify_mock};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ed25519_dalek::Signer as _;
use identity::token::{Claims, Expected, Vouch};
use identity::{
    Did, Digest, Error, Intent, KeyId, Message, Payload, PublicKey, Signature, Signer, Tee,
    UnixSeconds, sha256,
};
use serde_json::Value;

/// The time of the vectors.
pub const AT: UnixSeconds = UnixSeconds(1_767_225_600);

/// A key that everybody knows.
pub struct KnownKey {
    secret: ed25519_dalek::SigningKey,
    public: PublicKey,
}

pub static KEY: LazyLock<KnownKey> = LazyLock::new(|| {
    let secret = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let public = PublicKey::ed25519(secret.verifying_key().as_bytes()).expect("a good key");
    KnownKey { secret, public }
});
pub static DID: LazyLock<Did> = LazyLock::new(|| Did::key(&KEY.public));
pub static KID: LazyLock<KeyId> =
    LazyLock::new(|| KeyId::of(&DID, &KEY.public).expect("a good key"));

impl KnownKey {
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub fn sign_bytes(&self, bytes: &[u8]) -> [u8; 64] {
        self.secret.sign(bytes).to_bytes()
    }
}

impl Signer for KnownKey {
    type Error = Error;

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &Message) -> Result<Signature, Error> {
        Ok(self.sign_bytes(message.as_bytes()))
    }
}

pub fn expected() -> Expected<'static> {
    Expected {
        key: &KEY.public,
        did: &DID,
        at: AT,
        audience: Some("https://tools.example"),
    }
}

/// Good claims.
pub fn claims() -> Claims {
    Claims {
        iss: DID.clone(),
        sub: DID.to_string(),
        act: None,
        scope: None,
        aud: Some("https://tools.example".into()),
        iat: AT.0,
        nbf: AT.0,
        exp: AT.0 + 300,
        jti: uuid::Uuid::from_bytes([1; 16]),
        binding: sha256(b"user_data"),
        tee: Tee::Mock,
        caller: identity::Caller::Asserted(identity::caller::ObservedCaller::ids(1000, 1000)),
        vouch: Vouch {
            version: "1.0".into(),
            payload: Payload::parse(b"{\"amount\":100,\"nested\":{\"x\":[1,null,\"y\"]}}")
                .expect("an object"),
            intent: intent(),
            delegation_chain: Vec::new(),
        },
    }
}

pub fn intent() -> Intent {
    Intent::new("pay".into(), "bob".into(), "account".into()).expect("an intent")
}

/// A token over these parts, whatever they are, with a good signature.
pub fn sign_parts(header: &[u8], claims: &[u8]) -> String {
    let input = format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(header),
        BASE64URL_NOPAD.encode(claims)
    );
    let signature = KEY.sign_bytes(input.as_bytes());
    format!("{input}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// The published vectors.
pub static VECTORS: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!(
        "../../../attestation/tests/vectors/documents.json"
    ))
    .expect("our vectors")
});

pub static ROOT: LazyLock<MockRoot> = LazyLock::new(|| {
    MockRoot::from_pem(VECTORS["root_pem"].as_str().expect("a root").as_bytes()).expect("a root")
});

/// Name, expected code and bytes of each vector.
pub fn documents() -> impl Iterator<Item = (&'static str, &'static str, Vec<u8>)> {
    VECTORS["documents"]
        .as_array()
        .expect("documents")
        .iter()
        .map(|vector| {
            let text = |name: &str| vector[name].as_str().expect("text");
            (
                text("name"),
                text("expected"),
                HEXLOWER.decode(text("document").as_bytes()).expect("hex"),
            )
        })
}

/// The payloads that the mock has signed.
pub static PAYLOADS: LazyLock<Vec<Digest<32>>> = LazyLock::new(|| {
    let accepted = documents().filter_map(|(_, _, bytes)| verify_mock(&bytes, &ROOT, AT).ok());
    accepted
        .map(|document| document.document().payload_digest())
        .collect()
});
