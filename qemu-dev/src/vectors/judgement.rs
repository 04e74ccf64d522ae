//! What a well-formed, well-signed document must not say.

use data_encoding::HEXLOWER;
use identity::Digest;

use super::{Maker, NONCE, NOW};
use crate::nsm::sign_payload;

const LEAF_SECONDS: u64 = 3 * 3600 + 3;

/// What is it, the document's nonce, the challenge that was sent, what comes out.
type Challenge = (&'static str, Option<&'static [u8]>, Vec<u8>, &'static str);

impl Maker {
    pub(super) fn judgement(&mut self) {
        for zeros in 1..8_u8 {
            let which: Vec<usize> = (0..3).filter(|index| zeros >> index & 1 == 1).collect();
            let name = format!("PCRs zero among 0 to 2: {which:?}");
            self.with_fields(&name, "debug_mode", |fields| {
                which
                    .iter()
                    .for_each(|index| fields.pcrs[*index].1 = Digest([0; 48]))
            });
        }
        for index in 0..3 {
            self.with_fields(&format!("PCR{index} missing"), "pcr_missing", |fields| {
                fields.pcrs.remove(index);
            });
        }
        self.with_fields("PCR0 to 2 missing", "pcr_missing", |fields| {
            fields.pcrs.drain(..3);
        });
        for (name, ms, expected) in [
            ("made 5 s in the future", NOW * 1000 + 5000, "accepted"),
            ("made 5.999 s in the future", NOW * 1000 + 5999, "accepted"),
            (
                "made 6 s in the future",
                NOW * 1000 + 6000,
                "document_from_future",
            ),
            (
                "made an hour in the future",
                NOW * 1000 + 3_600_000,
                "document_from_future",
            ),
            ("made 5 s before its leaf", NOW * 1000 - 5000, "accepted"),
            (
                "made 6 s before its leaf",
                NOW * 1000 - 6000,
                "document_outside_leaf",
            ),
            (
                "made a day before its leaf",
                NOW * 1000 - 86_400_000,
                "document_outside_leaf",
            ),
        ] {
            self.with_fields(name, expected, |fields| fields.timestamp_ms = ms);
        }
        let document = sign_payload(&self.good_payload(), &self.chain);
        for (name, at, expected) in [
            (
                "in the last second of the leaf",
                NOW + LEAF_SECONDS,
                "accepted",
            ),
            (
                "a second after the leaf",
                NOW + LEAF_SECONDS + 1,
                "certificate_expired",
            ),
            ("five seconds before the leaf", NOW - 5, "accepted"),
            (
                "six seconds before the leaf",
                NOW - 6,
                "certificate_not_yet_valid",
            ),
        ] {
            self.push(name, &document, at, expected);
        }
        self.challenge();
    }

    fn challenge(&mut self) {
        let mut bit = NONCE.to_vec();
        bit[0] ^= 1;
        let cases: [Challenge; 9] = [
            (
                "the one that was sent",
                Some(NONCE),
                NONCE.to_vec(),
                "accepted",
            ),
            ("one bit differs", Some(NONCE), bit, "nonce_mismatch"),
            (
                "longer than the one that was sent",
                Some(NONCE),
                NONCE[..20].to_vec(),
                "nonce_mismatch",
            ),
            (
                "shorter than the one that was sent",
                Some(NONCE),
                [NONCE, b"!"].concat(),
                "nonce_mismatch",
            ),
            (
                "another",
                Some(b"another challenge"),
                NONCE.to_vec(),
                "nonce_mismatch",
            ),
            ("empty", Some(b""), NONCE.to_vec(), "nonce_mismatch"),
            ("absent", None, NONCE.to_vec(), "nonce_absent"),
            (
                "absent, and an empty one was sent",
                None,
                vec![],
                "nonce_absent",
            ),
            (
                "there, and an empty one was sent",
                Some(NONCE),
                vec![],
                "nonce_mismatch",
            ),
        ];
        for (name, nonce, sent, expected) in cases {
            let vector = self.with_fields(&format!("challenge: {name}"), expected, |fields| {
                fields.nonce = nonce
            });
            vector["nonce"] = HEXLOWER.encode(&sent).into();
        }
    }
}
