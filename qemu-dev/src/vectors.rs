//! Test vectors of the mock NSM, positive and negative, the same on every run. Other implementations may test themselves with
//! them; what is wrong in each is signed again by the mock, so that only the named rule can refuse it.

use data_encoding::HEXLOWER;
use identity::Digest;
use p384::ecdsa::Signature;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};
use x509_cert::ext::pkix::{KeyUsage, KeyUsages};

use crate::authority::{Authority, Chain, Spec, Tier};
use crate::nsm::{Encoding, Entry, Fields, PROTECTED, bytes, encode, entries, payload, sign_parts, sign_payload, sign1};

/// 2026-01-01T00:00:00Z: the time of every vector, unless its rule is about time.
const NOW: u64 = 1_767_225_600;

/// SHA-512 in counter mode: no randomness at all, which is what a vector wants and a key does not.
struct Fixed(u64);

impl Fixed {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(64) {
            let block = Sha512::digest([&b"anchorhold test vectors"[..], &self.0.to_be_bytes()].concat());
            chunk.copy_from_slice(&block[..chunk.len()]);
            self.0 += 1;
        }
    }
}

/// All vectors as one JSON object: the mock's root, and an array of `{name, document, at, expected}`; `document` is hex, `at`
/// seconds since 1970, `expected` is `accepted` or the code of the refusal.
pub fn all() -> Value {
    let mut fixed = Fixed(0);
    let authority = Authority::new(NOW, &mut |out| fixed.fill(out));
    let mut maker =
        Maker { chain: authority.issue_chain(NOW, &mut |out| fixed.fill(out)), authority, fixed, vectors: Vec::new() };
    maker.forms();
    maker.fields();
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
}

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
        nonce: Some(b"sixteen bytes or more"),
    }
}

impl Maker {
    fn add_at(&mut self, name: &str, document: &[u8], at: u64, expected: &str) {
        self.vectors.push(json!({"name": name, "document": HEXLOWER.encode(document), "at": at, "expected": expected}));
    }

    fn add(&mut self, name: &str, document: &[u8], expected: &str) {
        self.add_at(name, document, NOW, expected);
    }

    fn good_payload(&self) -> Vec<u8> {
        payload(&entries(&good_fields(), &self.chain), Encoding::Definite)
    }

    /// Encodings of the outer structure.
    fn forms(&mut self) {
        let good = self.good_payload();
        let document = sign_payload(&good, &self.chain);
        let indefinite = payload(&entries(&good_fields(), &self.chain), Encoding::Indefinite);
        self.add("definite payload map", &document, "accepted");
        self.add("indefinite payload map", &sign_payload(&indefinite, &self.chain), "accepted");
        self.add("tag 18", &[&[0xd2], &document[..]].concat(), "accepted");
        let mut reversed = entries(&good_fields(), &self.chain);
        reversed.reverse();
        self.add("fields in another order", &sign_payload(&payload(&reversed, Encoding::Definite), &self.chain), "accepted");
        let signature = sign_parts(&PROTECTED, &good, &self.chain);
        let twin = Signature::from_slice(&signature).expect("a signature just made");
        let (r, s) = twin.split_scalars();
        let twin = Signature::from_scalars(r, -s).expect("both are not zero");
        self.add("signature twin (r, n-s)", &sign1(&PROTECTED, &[0xa0], &good, &twin.to_bytes()), "accepted");

        self.add("a byte after the end", &[&document[..], &[0]].concat(), "document_trailing_bytes");
        self.add("cut in the middle", &document[..document.len() / 2], "document_malformed");
        self.add("nothing", &[], "document_malformed");
        self.add("tag 17", &[&[0xd1], &document[..]].concat(), "document_malformed");
        self.add("an array of three", &[&[0x83], &document[1..]].concat(), "document_malformed");
        self.add("an indefinite array", &[&[0x9f], &document[1..], &[0xff]].concat(), "document_malformed");
        self.add("unprotected header", &sign1(&PROTECTED, &[0xa1, 1, 1], &good, &signature), "document_malformed");
        for (name, protected) in [
            ("ES256 in the header", &[0xa1, 1, 0x26][..]),
            ("empty header", &[]),
            ("header with a kid", &[0xa2, 1, 0x38, 0x22, 4, 0x40]),
        ] {
            let signature = sign_parts(protected, &good, &self.chain);
            self.add(name, &sign1(protected, &[0xa0], &good, &signature), "document_algorithm");
        }
        self.add("signature of 95 bytes", &sign1(&PROTECTED, &[0xa0], &good, &signature[..95]), "document_algorithm");
        let mut flipped = signature.clone();
        flipped[50] ^= 1;
        self.add("signature with one bit changed", &sign1(&PROTECTED, &[0xa0], &good, &flipped), "document_signature_invalid");
        self.add("signature of zeros", &sign1(&PROTECTED, &[0xa0], &good, &[0; 96]), "document_signature_invalid");
    }

    fn with_entries(&mut self, name: &str, expected: &str, change: impl FnOnce(&mut Vec<Entry>)) {
        let mut entries = entries(&good_fields(), &self.chain);
        change(&mut entries);
        let document = sign_payload(&payload(&entries, Encoding::Definite), &self.chain);
        self.add(name, &document, expected);
    }

    fn with_value(&mut self, field: &str, what: &str, value: Vec<u8>) {
        self.with_entries(&format!("{field}: {what}"), "document_malformed", |entries| {
            if let Some(entry) = entries.iter_mut().find(|entry| entry.0 == field) {
                entry.1 = value;
            }
        });
    }

    /// The fields of the payload.
    fn fields(&mut self) {
        for field in ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"] {
            self.with_entries(&format!("{field}: absent"), "document_malformed", |e| e.retain(|entry| entry.0 != field));
            self.with_value(field, "null", vec![0xf6]);
        }
        for field in ["public_key", "user_data", "nonce"] {
            self.with_entries(&format!("{field}: absent"), "accepted", |e| e.retain(|entry| entry.0 != field));
            self.with_value(field, "text", encode("text"));
        }
        for field in ["module_id", "pcrs", "nonce"] {
            self.with_entries(&format!("{field}: twice"), "document_malformed", |entries| {
                let again = entries.iter().find(|entry| entry.0 == field).cloned();
                entries.extend(again);
            });
        }
        self.with_entries("unknown field", "document_malformed", |entries| entries.push(("nitrotpm_pcrs", vec![0xa0])));
        self.with_value("module_id", "empty", encode(""));
        self.with_value("digest", "SHA256", encode("SHA256"));
        self.with_value("timestamp", "zero", encode(0_u64));
        self.with_value("timestamp", "negative", encode(-1_i64));
        self.with_value("timestamp", "a head longer than needed", vec![0x1b, 0, 0, 0, 0, 0, 0, 0, 7]);
        self.with_value("nonce", "513 bytes", bytes(&[7; 513]));
        self.with_value("user_data", "513 bytes", bytes(&[7; 513]));
        self.with_value("public_key", "1025 bytes", bytes(&[7; 1025]));
        self.with_value("public_key", "empty", bytes(&[]));
        self.with_value("nonce", "indefinite length", vec![0x5f, 0x41, 7, 0xff]);
        self.with_value("certificate", "1025 bytes", bytes(&[7; 1025]));
        self.with_value("cabundle", "empty", vec![0x80]);
        self.with_value("cabundle", "nine certificates", [&[0x89][..], &[0x41, 7].repeat(9)].concat());
        let pcr = |index: u64, length: usize| [encode(index), bytes(&vec![7; length])].concat();
        self.with_value("pcrs", "empty", vec![0xa0]);
        self.with_value("pcrs", "index 32", [&[0xa1][..], &pcr(32, 48)].concat());
        self.with_value("pcrs", "32 bytes", [&[0xa1][..], &pcr(0, 32)].concat());
        self.with_value("pcrs", "an index twice", [&[0xa2][..], &pcr(0, 48), &pcr(0, 48)].concat());
        self.with_value("pcrs", "indefinite length", [&[0xbf][..], &pcr(0, 48), &[0xff]].concat());
    }

    fn with_fields(&mut self, name: &str, expected: &str, change: impl FnOnce(&mut Fields<'static>)) {
        let mut fields = good_fields();
        change(&mut fields);
        let document = sign_payload(&payload(&entries(&fields, &self.chain), Encoding::Definite), &self.chain);
        self.add(name, &document, expected);
    }

    /// What a well-formed, well-signed document must not say.
    fn judgement(&mut self) {
        self.with_fields("debug mode", "debug_mode", |fields| (0..3).for_each(|i| fields.pcrs[i].1 = Digest([0; 48])));
        self.with_fields("PCR1 zero alone", "debug_mode", |fields| fields.pcrs[1].1 = Digest([0; 48]));
        for index in 0..3 {
            self.with_fields(&format!("PCR{index} missing"), "pcr_missing", |fields| {
                fields.pcrs.remove(index);
            });
        }
        self.with_fields("made 5 s in the future", "accepted", |fields| fields.timestamp_ms += 5000);
        self.with_fields("made 6 s in the future", "document_from_future", |fields| fields.timestamp_ms += 6000);
        self.with_fields("made 5 s before its leaf", "accepted", |fields| fields.timestamp_ms -= 5000);
        self.with_fields("made 6 s before its leaf", "document_outside_leaf", |fields| fields.timestamp_ms -= 6000);
        let document = sign_payload(&self.good_payload(), &self.chain);
        self.add_at("last second of the leaf", &document, NOW + 3 * 3600 + 3, "accepted");
        self.add_at("a second after the leaf", &document, NOW + 3 * 3600 + 4, "certificate_expired");
        self.add_at("five seconds before the leaf", &document, NOW - 5, "accepted");
        self.add_at("six seconds before the leaf", &document, NOW - 6, "certificate_not_yet_valid");
    }

    fn with_chain(&mut self, name: &str, expected: &str, tier: Tier, change: impl Fn(&mut Spec)) {
        let fixed = &mut self.fixed;
        let change = |which, spec: &mut Spec| {
            if which == tier {
                change(spec);
            }
        };
        let chain = self.authority.issue_changed_chain(NOW, &mut |out| fixed.fill(out), &change);
        let document = sign_payload(&payload(&entries(&good_fields(), &chain), Encoding::Definite), &chain);
        self.add(name, &document, expected);
    }

    fn with_bundle(&mut self, name: &str, expected: &str, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
        let fixed = &mut self.fixed;
        let mut chain = self.authority.issue_chain(NOW, &mut |out| fixed.fill(out));
        change(&mut chain.cabundle);
        let document = sign_payload(&payload(&entries(&good_fields(), &chain), Encoding::Definite), &chain);
        self.add(name, &document, expected);
    }

    /// The certificates.
    fn chains(&mut self) {
        let sign_only = || KeyUsage(KeyUsages::DigitalSignature.into());
        let cert_sign = || KeyUsage(KeyUsages::KeyCertSign.into());
        for tier in [Tier::Regional, Tier::Zonal, Tier::Instance] {
            let name = |what: &str| format!("{tier:?}: {what}").to_lowercase();
            self.with_chain(&name("expired"), "certificate_expired", tier, |spec| spec.not_after = NOW - 1);
            self.with_chain(&name("not yet valid"), "certificate_not_yet_valid", tier, |spec| spec.not_before = NOW + 6);
            self.with_chain(&name("no CA"), "certificate_invalid", tier, |s| s.constraints = Some((true, false, None)));
            self.with_chain(&name("no basic constraints"), "certificate_invalid", tier, |s| s.constraints = None);
            self.with_chain(&name("constraints not critical"), "certificate_invalid", tier, |s| {
                s.constraints = s.constraints.map(|(_, ca, length)| (false, ca, length));
            });
            self.with_chain(&name("may not sign certificates"), "certificate_invalid", tier, |s| {
                s.usage = Some((true, sign_only()))
            });
            self.with_chain(&name("no key usage"), "certificate_invalid", tier, |s| s.usage = None);
            self.with_chain(&name("unknown critical extension"), "chain_broken", tier, |s| s.unknown_extension = Some(true));
            self.with_chain(&name("unknown extension"), "accepted", tier, |s| s.unknown_extension = Some(false));
            self.with_chain(&name("another issuer"), "chain_broken", tier, |s| s.issuer = Some("somebody else"));
        }
        self.with_chain("regional: path length 0", "chain_broken", Tier::Regional, |s| {
            s.constraints = Some((true, true, Some(0)))
        });
        self.with_chain("leaf: a CA", "certificate_invalid", Tier::Leaf, |s| s.constraints = Some((true, true, None)));
        self.with_chain("leaf: says that it is no CA", "accepted", Tier::Leaf, |s| s.constraints = Some((true, false, None)));
        self.with_chain("leaf: may not sign", "certificate_invalid", Tier::Leaf, |s| s.usage = Some((false, cert_sign())));
        self.with_chain("leaf: no key usage", "certificate_invalid", Tier::Leaf, |s| s.usage = None);
        self.with_chain("leaf: critical key usage", "accepted", Tier::Leaf, |s| s.usage = Some((true, sign_only())));
        self.with_chain("leaf: unknown critical extension", "chain_broken", Tier::Leaf, |s| s.unknown_extension = Some(true));

        self.with_bundle("no intermediate", "chain_broken", |bundle| bundle.truncate(1));
        self.with_bundle("one intermediate missing", "chain_broken", |bundle| {
            bundle.remove(2);
        });
        self.with_bundle("two intermediates swapped", "chain_broken", |bundle| bundle.swap(1, 2));
        self.with_bundle("an intermediate twice", "chain_broken", |bundle| bundle.insert(2, bundle[1].clone()));
        self.with_bundle("the root last", "root_untrusted", |bundle| bundle.rotate_left(1));
        self.with_bundle("the root missing", "root_untrusted", |bundle| {
            bundle.remove(0);
        });
        self.with_bundle("an intermediate with a changed signature", "chain_broken", |bundle| {
            let last = bundle[2].len() - 1;
            bundle[2][last] ^= 1;
        });
        self.with_bundle("an intermediate that is no certificate", "certificate_invalid", |bundle| bundle[2] = vec![0x30, 0]);
        let fixed = &mut self.fixed;
        let other = Authority::new(NOW, &mut |out| fixed.fill(out));
        let chain = other.issue_chain(NOW, &mut |out| fixed.fill(out));
        let document = sign_payload(&payload(&entries(&good_fields(), &chain), Encoding::Definite), &chain);
        self.add("another mock's document", &document, "root_untrusted");
        let own = self.chain.cabundle[0].clone();
        let mut borrowed = other.issue_chain(NOW, &mut |out| self.fixed.fill(out));
        borrowed.cabundle[0] = own;
        let document = sign_payload(&payload(&entries(&good_fields(), &borrowed), Encoding::Definite), &borrowed);
        self.add("another mock's chain under this root", &document, "chain_broken");
    }
}
