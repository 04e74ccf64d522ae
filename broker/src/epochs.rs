//! Which keys K3 an enclave has, and the operator's order to change that.

use identity::cose::{self, Purpose};
use identity::{Digest, PublicKey, Signer, cbor, sha256};
use minicbor::{Decode, Encode};

use crate::{Error, Omni};

const TAG: &str = "anchorhold/credential-epochs/v1";
const MAX_ORDER: usize = 1024;
/// An enclave has no more keys than these at a time.
const MAX_EPOCHS: u32 = 16;

/// The keys K3 that an enclave has: all from one number to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Epochs {
    /// The lowest: what is sealed under one below it opens no more.
    #[n(0)]
    pub lowest: u32,
    /// The one that seals.
    #[n(1)]
    pub current: u32,
}

impl Epochs {
    /// What they may be next: one more, or fewer, or both.
    pub fn check_next(self, next: Self) -> Result<(), Error> {
        let wrong = |why| Err(Error::EpochOrderInvalid(why));
        let follows =
            next.current == self.current || Some(next.current) == self.current.checked_add(1);
        if !follows {
            return wrong("its epoch is neither that of now nor the one that follows");
        }
        if !(self.lowest..=next.current).contains(&next.lowest) {
            return wrong("its lowest epoch is below that of now, or above its epoch");
        }
        if next == self {
            return wrong("it changes nothing: it was carried out before");
        }
        if next.current - next.lowest >= MAX_EPOCHS {
            return wrong(
                "there would be more than 16 epochs: rewrap what is kept, and retire the old ones",
            );
        }
        Ok(())
    }
}

/// An order about the keys K3, as the operator signs it. It says what there shall be, and works once: for
/// the enclave that has one sealing key, which ends with its boot.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct EpochOrder {
    #[n(0)]
    tag: String,
    /// Who orders it.
    #[n(1)]
    pub operator: Omni,
    /// SHA-256 of the enclave's sealing key.
    #[n(2)]
    pub sealing_key: Digest<32>,
    /// What there is: else it is not carried out.
    #[n(3)]
    pub now: Epochs,
    /// What there shall be.
    #[n(4)]
    pub next: Epochs,
}

impl EpochOrder {
    /// Signs an order for the enclave that has this sealing key.
    pub fn sign<S: Signer>(
        operator: Omni,
        sealing_key: &[u8],
        [now, next]: [Epochs; 2],
        key: &S,
    ) -> Result<Vec<u8>, Error>
    where
        S::Error: std::fmt::Display,
    {
        let order = Self {
            tag: TAG.into(),
            operator,
            sealing_key: sha256(sealing_key),
            now,
            next,
        };
        cose::sign(Purpose::CREDENTIAL_EPOCHS, &cbor::to_vec(&order), key)
            .map_err(|_| Error::EpochOrderInvalid("it cannot be signed"))
    }

    /// Verifies the operator's signature, and that it is for the enclave of this sealing key.
    pub fn verify(signed: &[u8], operator: &PublicKey, sealing_key: &[u8]) -> Result<Self, Error> {
        let wrong = Error::EpochOrderInvalid;
        if signed.len() > MAX_ORDER {
            return Err(wrong("longer than 1 KiB"));
        }
        let payload = cose::verify(Purpose::CREDENTIAL_EPOCHS, signed, operator)
            .map_err(|_| wrong("not signed by the operator's key"))?;
        let order: Self = cbor::from_slice(payload).map_err(|_| wrong("not of this form"))?;
        if order.tag != TAG {
            return Err(wrong("not of this form"));
        }
        if order.operator != Omni::of_operator(operator) {
            return Err(wrong("of another operator"));
        }
        if order.sealing_key != sha256(sealing_key) {
            return Err(wrong("for another boot"));
        }
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Key, key};

    const fn epochs(lowest: u32, current: u32) -> Epochs {
        Epochs { lowest, current }
    }

    #[test]
    fn epochs_rise_one_by_one_and_what_is_retired_does_not_come_back() {
        let now = epochs(3, 5);
        for good in [epochs(3, 6), epochs(4, 5), epochs(5, 5), epochs(6, 6)] {
            assert_eq!(now.check_next(good), Ok(()), "{good:?}");
        }
        for bad in [
            epochs(3, 5),
            epochs(2, 5),
            epochs(2, 6),
            epochs(3, 7),
            epochs(3, 4),
            epochs(6, 5),
            epochs(7, 6),
            epochs(0, 0),
        ] {
            let error = now.check_next(bad).unwrap_err();
            assert_eq!(error.code(), "epoch_order_invalid", "{bad:?}");
        }
        assert_eq!(epochs(1, 15).check_next(epochs(1, 16)), Ok(()));
        assert!(epochs(1, 16).check_next(epochs(1, 17)).is_err());
        assert_eq!(epochs(1, 16).check_next(epochs(2, 17)), Ok(()));
        let last = epochs(u32::MAX, u32::MAX);
        assert!(last.check_next(epochs(u32::MAX, 0)).is_err());
    }

    #[test]
    fn an_order_is_one_operators_for_one_boot() {
        let (operator, other) = (key(1), key(2));
        let omni = Omni::of_operator(operator.public_key());
        let change = [epochs(1, 1), epochs(1, 2)];
        let signed = EpochOrder::sign(omni, &[7; 32], change, &operator).unwrap();
        let read = EpochOrder::verify(&signed, operator.public_key(), &[7; 32]).unwrap();
        assert_eq!([read.now, read.next], change);
        let why = |signed: &[u8], by: &Key, sealing_key: &[u8]| {
            EpochOrder::verify(signed, by.public_key(), sealing_key)
                .unwrap_err()
                .to_string()
        };
        assert!(why(&signed, &operator, &[8; 32]).contains("another boot"));
        assert!(why(&signed, &other, &[7; 32]).contains("not signed"));
        let of_other = EpochOrder::sign(omni, &[7; 32], change, &other).unwrap();
        assert!(why(&of_other, &other, &[7; 32]).contains("another operator"));
        assert!(why(&[0; 1025], &operator, &[7; 32]).contains("longer"));
        // What the operator signed as something else is no order.
        let put = cose::sign(Purpose::CREDENTIAL, &cbor::to_vec(&read), &operator).unwrap();
        assert!(why(&put, &operator, &[7; 32]).contains("not signed"));
        for at in 0..signed.len() {
            let mut changed = signed.clone();
            changed[at] ^= 1;
            assert!(
                EpochOrder::verify(&changed, operator.public_key(), &[7; 32]).is_err(),
                "byte {at}"
            );
        }
    }
}
