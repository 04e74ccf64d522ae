//! The successor statement: a key's last word names the key that follows it, and that key accepts.
//!
//! Two nested COSE_Sign1: the old key signs [`Statement`], the new key signs the whole of what the
//! old key signed.

use minicbor::{Decode, Encode};

use crate::cose::{self, Purpose};
use crate::{BootId, Did, Error, KeyId, PublicKey, Signer, UnixSeconds, cbor};

/// The first member of every statement.
pub const TAG: &str = "anchorhold/successor/v1";

/// One version of an identity's key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Version {
    /// The DID that the key stands for.
    #[n(0)]
    pub did: String,
    /// DID URL of the key.
    #[n(1)]
    pub kid: String,
    /// DER SubjectPublicKeyInfo.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub spki: Vec<u8>,
    /// 1 for the first key of an identity in a boot.
    #[n(3)]
    pub version: u32,
}

impl Version {
    /// Describes `key` as version `version` of `did`.
    pub fn new(did: &Did, key: &PublicKey, version: u32) -> Result<Self, Error> {
        let kid = KeyId::of(did, key)?;
        Ok(Self {
            did: did.to_string(),
            kid: kid.into(),
            spki: key.to_spki(),
            version,
        })
    }

    /// The key, after checking that DID and key id belong to it.
    pub fn key(&self) -> Result<PublicKey, Error> {
        let key = PublicKey::from_spki(&self.spki)?;
        if KeyId::of(&Did::parse(&self.did)?, &key)?.as_str() != self.kid {
            return Err(Error::KeyIdMismatch);
        }
        Ok(key)
    }
}

/// What the old key says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Statement {
    /// [`TAG`].
    #[n(0)]
    pub tag: String,
    /// The key that ends.
    #[n(1)]
    pub old: Version,
    /// The key that follows; its version is one higher.
    #[n(2)]
    pub new: Version,
    /// When, in seconds since 1970.
    #[n(3)]
    pub time: i64,
}

/// Makes the statement: `old` signs, `new` countersigns. Gives the bytes of the outer COSE_Sign1.
pub fn sign<S: Signer>(statement: &Statement, old: &S, new: &S) -> Result<Vec<u8>, S::Error> {
    let by_old = cose::sign(Purpose::SUCCESSOR, &cbor::to_vec(statement), old)?;
    cose::sign(Purpose::SUCCESSOR_ACCEPTED, &by_old, new)
}

/// Verifies that `old` named its successor and that the successor accepted.
pub fn verify(bytes: &[u8], old: &PublicKey) -> Result<Statement, Error> {
    let by_old = cose::unverified_payload(bytes)?;
    let statement: Statement = cbor::from_slice(cose::verify(Purpose::SUCCESSOR, by_old, old)?)?;
    cose::verify(Purpose::SUCCESSOR_ACCEPTED, bytes, &statement.new.key()?)?;
    if statement.tag != TAG {
        return Err(Error::SuccessionInvalid("another tag"));
    }
    if statement.old.key()? != *old {
        return Err(Error::SuccessionInvalid(
            "the old key is not the one that signed",
        ));
    }
    if statement.old.version.checked_add(1) != Some(statement.new.version) {
        return Err(Error::SuccessionInvalid(
            "the versions do not follow each other",
        ));
    }
    if statement.old.spki == statement.new.spki {
        return Err(Error::SuccessionInvalid("the key did not change"));
    }
    Ok(statement)
}

impl Statement {
    /// When the old key ended.
    pub fn time(&self) -> UnixSeconds {
        UnixSeconds(self.time)
    }
}

/// The operator's order to rotate one key: a COSE_Sign1 for [`Purpose::ROTATION_ORDER`] over this,
/// by the operator key.
///
/// It names the boot and the version that it ends, so it works once.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Order {
    /// Name of the identity in the policy.
    #[n(0)]
    pub identity: String,
    /// The boot in which the key was born.
    #[n(1)]
    pub boot_id: BootId,
    /// The version to end.
    #[n(2)]
    pub version: u32,
    /// Not to be obeyed after this time, in seconds since 1970.
    #[n(3)]
    pub not_after: i64,
}

impl Order {
    /// Signs the order with the operator's key.
    pub fn sign<S: Signer>(&self, operator: &S) -> Result<Vec<u8>, S::Error> {
        cose::sign(Purpose::ROTATION_ORDER, &cbor::to_vec(self), operator)
    }

    /// Reads an order that `operator` signed.
    pub fn verify(bytes: &[u8], operator: &PublicKey) -> Result<Self, Error> {
        cbor::from_slice(cose::verify(Purpose::ROTATION_ORDER, bytes, operator)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::tests::TestKey;

    fn statement(old: &TestKey, new: &TestKey) -> Statement {
        let version = |key: &TestKey, n| {
            Version::new(&Did::key(key.public_key()), key.public_key(), n).unwrap()
        };
        Statement {
            tag: TAG.into(),
            old: version(old, 1),
            new: version(new, 2),
            time: 1000,
        }
    }

    #[test]
    fn both_keys_must_have_signed_the_link() {
        let (old, new, third) = (TestKey::ed25519(1), TestKey::p256(2), TestKey::ed25519(3));
        let good = statement(&old, &new);
        let bytes = sign(&good, &old, &new).unwrap();
        assert_eq!(verify(&bytes, old.public_key()).unwrap(), good);
        assert_eq!(
            verify(&bytes, third.public_key()),
            Err(Error::SignatureInvalid)
        );
        let accepted_by_another = sign(&good, &old, &third).unwrap();
        assert!(verify(&accepted_by_another, old.public_key()).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&bad, old.public_key()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_statement_that_does_not_link_is_refused() {
        let (old, new) = (TestKey::ed25519(1), TestKey::ed25519(2));
        for change in [
            &(|s: &mut Statement| s.tag = "x".into()) as &dyn Fn(&mut Statement),
            &|s| s.new.version = 3,
            &|s| s.old = s.new.clone(),
            &|s| s.new.kid = s.old.kid.clone(),
        ] {
            let mut bad = statement(&old, &new);
            change(&mut bad);
            assert!(
                verify(&sign(&bad, &old, &new).unwrap(), old.public_key()).is_err(),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn an_order_is_the_operators_and_for_that_alone() {
        let (operator, other) = (TestKey::ed25519(1), TestKey::ed25519(2));
        let order = Order {
            identity: "agent".into(),
            boot_id: BootId::new([3; 16]),
            version: 1,
            not_after: 1000,
        };
        let signed = order.sign(&operator).unwrap();
        assert_eq!(
            Order::verify(&signed, operator.public_key()),
            Ok(order.clone())
        );
        assert_eq!(
            Order::verify(&signed, other.public_key()),
            Err(Error::SignatureInvalid)
        );
        let elsewhere = cose::sign(Purpose::POSSESSION, &cbor::to_vec(&order), &operator).unwrap();
        assert_eq!(
            Order::verify(&elsewhere, operator.public_key()),
            Err(Error::SignatureInvalid)
        );
        assert_eq!(statement(&operator, &other).time(), UnixSeconds(1000));
    }
}
