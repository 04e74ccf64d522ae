//! Test vectors of the mock NSM, positive and negative, the same on every run. Other
//! implementations may test themselves with them; what is wrong in each is signed again by the
//! mock, so that only the named rule can refuse it.

mod chains;
mod envelope;
mod evidence;
mod fields;
mod judgement;
mod registers;

pub use evidence::evidence;

use data_encoding::HEXLOWER;
use identity::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use crate::authority::{Authority, Chain};
use crate::nsm::{Encoding, Entry, Fields, entries, payload, sign_payload};

/// 2026-01-01T00:00:00Z: the time of every vector, unless its rule is about time.
const NOW: u64 = 1_767_225_600;

/// SHA-512 in counter mode: no randomness at all, which is what a vector wants and a key does not.
struct Fixed(u64);

impl Fixed {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(64) {
            let block =
                Sha512::digest([&b"anchorhold test vectors"[..], &self.0.to_be_bytes()].concat());
            chunk.copy_from_slice(&block[..chunk.len()]);
            self.0 += 1;
        }
    }
}

/// All vectors as one JSON object: the mock's root, and an array of `{name, document, at,
/// expected}`; `document` is hex, `at` seconds since 1970, `expected` is `accepted` or the code of
/// the refusal. A vector about the challenge has the one that the verifier sent (`nonce`, hex), one
/// about the root its own `root_pem`.
pub fn all() -> Value {
    let mut fixed = Fixed(0);
    let authority = Authority::new(NOW, &mut |out| fixed.fill(out));
    let mut maker = Maker {
        chain: authority.issue_chain(NOW, &mut |out| fixed.fill(out)),
        authority,
        fixed,
        vectors: Vec::new(),
        made: NOW,
    };
    maker.envelope();
    maker.fields();
    maker.registers();
    maker.judgement();
    maker.chains();
    json!({
        "about": "Documents of Anchorhold's mock NSM. No hardware made them; they verify only under this root.",
        "root_pem": maker.authority.certificate_pem(),
        "documents": maker.vectors,
    })
}

struct Maker {
    authority: Authority,
    chain: Chain,
    fixed: Fixed,
    vectors: Vec<Value>,
    /// When the documents with a chain of their own are made, in seconds since 1970.
    made: u64,
}

const NONCE: &[u8] = b"sixteen bytes or more";

fn good_fields() -> Fields<'static> {
    let mut pcrs: Vec<_> = (0..16).map(|index| (index, Digest([0; 48]))).collect();
    (0..3).for_each(|index| pcrs[usize::from(index)].1 = Digest([index + 1; 48]));
    pcrs.push((16, Digest([0x16; 48])));
    Fields {
        module_id: "i-0000000000000mock-enc0000000000000mock",
        timestamp_ms: NOW * 1000,
        pcrs,
        public_key: Some(b"public key"),
        user_data: Some(b"user data"),
        nonce: Some(NONCE),
    }
}

impl Maker {
    fn push(&mut self, name: &str, document: &[u8], at: u64, expected: &str) -> &mut Value {
        let vector = json!({"name": name, "document": HEXLOWER.encode(document), "at": at, "expected": expected});
        self.vectors.push(vector);
        self.vectors.last_mut().expect("just pushed")
    }

    fn add(&mut self, name: &str, document: &[u8], expected: &str) {
        self.push(name, document, NOW, expected);
    }

    fn good_entries(&self) -> Vec<Entry> {
        entries(&good_fields(), &self.chain)
    }

    fn good_payload(&self) -> Vec<u8> {
        payload(&self.good_entries(), Encoding::Definite)
    }

    /// A document with this payload, signed as it is.
    fn with_payload(&mut self, name: &str, expected: &str, payload: &[u8]) {
        let document = sign_payload(payload, &self.chain);
        self.add(name, &document, expected);
    }

    fn with_entries(&mut self, name: &str, expected: &str, change: impl FnOnce(&mut Vec<Entry>)) {
        let mut entries = self.good_entries();
        change(&mut entries);
        self.with_payload(name, expected, &payload(&entries, Encoding::Definite));
    }

    fn with_value(&mut self, field: &str, what: &str, expected: &str, value: Vec<u8>) {
        self.with_entries(&format!("{field}: {what}"), expected, |entries| {
            if let Some(entry) = entries.iter_mut().find(|entry| entry.0 == field) {
                entry.1 = value;
            }
        });
    }

    fn with_fields(
        &mut self,
        name: &str,
        expected: &str,
        change: impl FnOnce(&mut Fields<'static>),
    ) -> &mut Value {
        let mut fields = good_fields();
        change(&mut fields);
        let document = sign_payload(
            &payload(&entries(&fields, &self.chain), Encoding::Definite),
            &self.chain,
        );
        self.push(name, &document, NOW, expected)
    }
}

/// The head of a CBOR item of this major type in every width that is longer than it needs to be.
fn longer_heads(major: u8, argument: u64) -> Vec<Vec<u8>> {
    let bytes = argument.to_be_bytes();
    let widths = [
        (24_u8, 1, 24_u64),
        (25, 2, 1 << 8),
        (26, 4, 1 << 16),
        (27, 8, 1 << 32),
    ];
    let too_long = widths.into_iter().filter(|(_, _, least)| argument < *least);
    too_long
        .map(|(info, width, _)| [&[major << 5 | info], &bytes[8 - width..]].concat())
        .collect()
}
