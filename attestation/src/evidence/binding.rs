//! What ties a key to its identity, its policy and its record.

use identity::{Digest, cbor, sha256};
use minicbor::bytes::ByteSlice;
use minicbor::{Decode, Encode};

use policy::PolicyDigest;
use state::StateFacts;

const TAG: &str = "anchorhold/binding/v1";
/// Of a key that is kept in a state.
const TAG_KEPT: &str = "anchorhold/binding/v2";

/// The fields behind the hash in the binding.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct KeyDescription {
    /// Name of the identity in the policy.
    #[n(0)]
    pub name: String,
    /// Its DID.
    #[n(1)]
    pub did: String,
    /// DID URL of the key.
    #[n(2)]
    pub kid: String,
    /// 1 for the first key of a boot, or of a state.
    #[n(3)]
    pub version: u32,
    /// DER SubjectPublicKeyInfo.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub spki: Vec<u8>,
}

/// What the documents of one key version carry as `user_data`: the key's identity, the policy that
/// governs it, and the key of the record in which its uses stand.
///
/// Deterministic CBOR: `{0: "anchorhold/binding/v1", 1: SHA-256 of the described key, 2: policy
/// digest, 3: SHA-256 of the record key's SubjectPublicKeyInfo}`, where the description is the CBOR
/// array `[tag, identity name, DID, key id, key version, SubjectPublicKeyInfo]`.
///
/// Of a key that is kept in a state the tag is `anchorhold/binding/v2`, and a member follows: `4:
/// [state id, epoch, custody, rollback]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding(Vec<u8>);

#[derive(Encode, Decode)]
#[cbor(map)]
struct UserData<'a> {
    #[n(0)]
    tag: &'a str,
    #[cbor(n(1), with = "minicbor::bytes")]
    key: [u8; 32],
    #[cbor(n(2), with = "minicbor::bytes")]
    policy: [u8; 48],
    #[cbor(n(3), with = "minicbor::bytes")]
    record: [u8; 32],
    #[n(4)]
    state: Option<StateFacts>,
}

impl Binding {
    /// Binds a described key to a policy, a record key, given as SubjectPublicKeyInfo, and the state
    /// that it is kept in, if it is.
    pub fn new(
        key: &KeyDescription,
        policy: &PolicyDigest,
        record_spki: &[u8],
        state: Option<StateFacts>,
    ) -> Self {
        let tag = if state.is_some() { TAG_KEPT } else { TAG };
        let spki: &ByteSlice = key.spki.as_slice().into();
        let described = cbor::to_vec(&(tag, &key.name, &key.did, &key.kid, key.version, spki));
        let user_data = UserData {
            tag,
            key: sha256(&described).0,
            policy: policy.digest().0,
            record: sha256(record_spki).0,
            state,
        };
        Self(cbor::to_vec(&user_data))
    }

    /// The `user_data` itself.
    pub fn user_data(&self) -> &[u8] {
        &self.0
    }

    /// SHA-256 of the `user_data`: what tokens name.
    pub fn digest(&self) -> Digest<32> {
        sha256(&self.0)
    }
}
