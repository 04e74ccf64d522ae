//! Registers in which an enclave is measured.

use sha2::{Digest as _, Sha384};

use crate::Digest;

/// A platform configuration register: 48 bytes of SHA-384.
pub type Pcr = Digest<48>;

/// The value of a register after extending it once: SHA-384(old value || data).
pub fn extend(old: &Pcr, data: &[u8]) -> Pcr {
    Digest(
        Sha384::new()
            .chain_update(old.as_bytes())
            .chain_update(data)
            .finalize()
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extending_is_what_the_nsm_does() {
        // PCR16 of AWS's own example: SHA384(0^48 || data) once.
        let once = extend(&Digest([0; 48]), b"x");
        assert_eq!(
            once,
            Digest(Sha384::digest([&[0; 48][..], b"x"].concat()).into())
        );
    }
}
