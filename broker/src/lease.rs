//! How long credentials may be used: a word that somebody who is there says again and again, so that a host that
//! withholds an annex withholds no revocation for longer.

use identity::cose::{self, Purpose};
use identity::{BootId, Digest, PublicKey, Signer, UnixSeconds, cbor};
use minicbor::{Decode, Encode};
use policy::RevokedCredential;

use crate::Error;

const TAG: &str = "anchorhold/lease/v1";
const MAX_LEASE: usize = 16 * 1024;
const MAX_REVOKED: usize = 256;

/// A lease, as the lease key signs it: it narrows what the annex allows, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Lease {
    #[n(0)]
    tag: String,
    /// For the enclave of this boot.
    #[n(1)]
    pub boot_id: BootId,
    /// SHA-256 of the annex that must be in force there, if there is one.
    #[n(2)]
    pub annex: Option<Digest<32>>,
    /// No credential is used from this moment on, in seconds since 1970.
    #[n(3)]
    pub not_after: i64,
    /// What is not used meanwhile either: `agent:<name>`, `credential:<identity>/<service>`, as an annex says it.
    #[n(4)]
    pub revoked: Vec<String>,
}

impl Lease {
    /// Signs one.
    pub fn sign<S: Signer>(
        boot_id: BootId,
        annex: Option<Digest<32>>,
        not_after: UnixSeconds,
        revoked: Vec<String>,
        key: &S,
    ) -> Result<Vec<u8>, Error>
    where
        S::Error: std::fmt::Display,
    {
        check_revoked(&revoked)?;
        let lease = Self {
            tag: TAG.into(),
            boot_id,
            annex,
            not_after: not_after.0,
            revoked,
        };
        cose::sign(Purpose::LEASE, &cbor::to_vec(&lease), key)
            .map_err(|_| Error::LeaseInvalid("it cannot be signed"))
    }

    /// Verifies the lease key's signature, and that it is for this boot and annex.
    pub fn verify(
        signed: &[u8],
        key: &PublicKey,
        boot_id: BootId,
        annex: Option<Digest<32>>,
    ) -> Result<Self, Error> {
        let wrong = Error::LeaseInvalid;
        if signed.len() > MAX_LEASE {
            return Err(wrong("longer than 16 KiB"));
        }
        let payload = cose::verify(Purpose::LEASE, signed, key)
            .map_err(|_| wrong("not signed by the lease key"))?;
        let lease: Self = cbor::from_slice(payload).map_err(|_| wrong("not of this form"))?;
        if lease.tag != TAG {
            return Err(wrong("not of this form"));
        }
        check_revoked(&lease.revoked)?;
        if lease.boot_id != boot_id {
            return Err(wrong("for another boot"));
        }
        if lease.annex != annex {
            return Err(wrong("of another annex than the one in force"));
        }
        Ok(lease)
    }
}

impl Lease {
    /// Revokes this, too.
    pub fn narrow(&mut self, revoked: &[String]) -> Result<(), Error> {
        let mut all = self.revoked.clone();
        let more = revoked.iter().filter(|entry| !self.revoked.contains(entry));
        all.extend(more.cloned());
        check_revoked(&all)?;
        self.revoked = all;
        Ok(())
    }
}

/// What is not understood would revoke nothing.
fn check_revoked(revoked: &[String]) -> Result<(), Error> {
    let is_known = |entry: &String| {
        entry
            .strip_prefix("agent:")
            .is_some_and(|name| !name.is_empty())
            || RevokedCredential::parse(entry).is_some()
    };
    if revoked.len() > MAX_REVOKED || !revoked.iter().all(is_known) {
        return Err(Error::LeaseInvalid(
            "it revokes what is neither agent:NAME nor credential:IDENTITY/SERVICE",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key;

    #[test]
    fn a_lease_is_of_one_key_boot_and_annex() {
        let (boot, other) = (BootId::new([1; 16]), BootId::new([2; 16]));
        let annex = Some(Digest([3; 32]));
        let revoked = vec!["agent:crew".to_owned(), "credential:crew/api@7".to_owned()];
        let signed = Lease::sign(boot, annex, UnixSeconds(9), revoked.clone(), &key(1)).unwrap();
        let lease = Lease::verify(&signed, key(1).public_key(), boot, annex).unwrap();
        assert_eq!((lease.not_after, &lease.revoked), (9, &revoked));
        for (key, boot, annex) in [
            (key(2), boot, annex),
            (key(1), other, annex),
            (key(1), boot, None),
            (key(1), boot, Some(Digest([4; 32]))),
        ] {
            assert!(Lease::verify(&signed, key.public_key(), boot, annex).is_err());
        }
        for at in 0..signed.len() {
            let mut changed = signed.clone();
            changed[at] ^= 1;
            assert!(
                Lease::verify(&changed, key(1).public_key(), boot, annex).is_err(),
                "{at}"
            );
        }
        // One of the same end narrows, and takes nothing back.
        let mut narrowed = lease.clone();
        narrowed
            .narrow(&["agent:other".into(), "agent:crew".into()])
            .unwrap();
        assert_eq!(
            narrowed.revoked,
            [&revoked[..], &["agent:other".to_owned()]].concat()
        );
        narrowed.narrow(&[]).unwrap();
        assert_eq!(narrowed.revoked.len(), 3);
        assert!(narrowed.narrow(&["crew".into()]).is_err());
        // Another word by the same key is none.
        let order = cose::sign(Purpose::CREDENTIAL_EPOCHS, &cbor::to_vec(&lease), &key(1)).unwrap();
        assert!(Lease::verify(&order, key(1).public_key(), boot, annex).is_err());
        for odd in [
            "",
            "agent:",
            "crew",
            "credential:crew",
            "credential:crew/api@",
            "Agent:crew",
        ] {
            let signed = Lease::sign(boot, annex, UnixSeconds(9), vec![odd.to_owned()], &key(1));
            assert!(signed.is_err(), "{odd}");
        }
    }
}
