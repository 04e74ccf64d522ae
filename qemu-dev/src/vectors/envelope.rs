//! The COSE_Sign1 around the payload.

use p384::ecdsa::Signature;

use super::{Maker, longer_heads};
use crate::nsm::{Encoding, PROTECTED, bytes, encode, payload, sign_parts, sign_payload, sign1};

impl Maker {
    pub(super) fn envelope(&mut self) {
        let good = self.good_payload();
        let document = sign_payload(&good, &self.chain);
        let signature = sign_parts(&PROTECTED, &good, &self.chain);
        self.accepted(&document, &signature);
        self.structure(&document, &good, &signature);
        self.headers(&good);
        self.signatures(&good, &signature);
    }

    fn accepted(&mut self, document: &[u8], signature: &[u8]) {
        self.add("definite payload map", document, "accepted");
        let indefinite = payload(&self.good_entries(), Encoding::Indefinite);
        self.with_payload("indefinite payload map", "accepted", &indefinite);
        self.add("tag 18", &[&[0xd2], document].concat(), "accepted");
        let twin = Signature::from_slice(signature).expect("a signature just made");
        let (r, s) = twin.split_scalars();
        let twin = Signature::from_scalars(r, -s).expect("both are not zero");
        let good = self.good_payload();
        self.add(
            "signature twin (r, n-s)",
            &sign1(&PROTECTED, &[0xa0], &good, &twin.to_bytes()),
            "accepted",
        );
    }

    fn structure(&mut self, document: &[u8], good: &[u8], signature: &[u8]) {
        let no_cose = "document_not_cose_sign1";
        for length in [1, 2, 16, 17] {
            self.add(
                &format!("{length} bytes after the end"),
                &[document, &vec![0; length]].concat(),
                "document_trailing_bytes",
            );
        }
        self.add(
            "the document twice",
            &[document, document].concat(),
            "document_trailing_bytes",
        );
        for (name, length) in [
            ("cut in the middle", document.len() / 2),
            ("its last byte cut", document.len() - 1),
        ] {
            self.add(name, &document[..length], no_cose);
        }
        self.add("nothing", &[], no_cose);
        for (tag, head) in [
            ("17", &[0xd1][..]),
            ("98, COSE_Sign", &[0xd8, 98]),
            ("61, CWT", &[0xd8, 61]),
            ("0", &[0xc0]),
        ] {
            self.add(
                &format!("tag {tag}"),
                &[head, document].concat(),
                "document_tag",
            );
        }
        for head in longer_heads(6, 18) {
            self.add(
                &format!("tag 18 in {} bytes", head.len()),
                &[&head, document].concat(),
                "document_not_shortest",
            );
        }
        self.add("tag 18 twice", &[&[0xd2, 0xd2], document].concat(), no_cose);
        let parts = [bytes(&PROTECTED), vec![0xa0], bytes(good), bytes(signature)];
        self.add(
            "an array of three",
            &[&[0x83], &parts[..3].concat()[..]].concat(),
            no_cose,
        );
        self.add(
            "an array of five",
            &[&[0x85], &parts.concat()[..], &[0xf6]].concat(),
            no_cose,
        );
        self.add(
            "an indefinite array",
            &[&[0x9f], &document[1..], &[0xff]].concat(),
            "document_not_shortest",
        );
        for head in longer_heads(4, 4) {
            self.add(
                &format!("an array head of {} bytes", head.len()),
                &[&head, &document[1..]].concat(),
                "document_not_shortest",
            );
        }
        for (name, whole) in [
            ("a map", vec![0xa0]),
            ("a text", encode("document")),
            ("a number", vec![4]),
            ("null", vec![0xf6]),
            ("a break", vec![0xff]),
        ] {
            self.add(&format!("{name} instead of the array"), &whole, no_cose);
        }
        let names = [
            "protected header",
            "unprotected header",
            "payload string",
            "signature",
        ];
        for (place, name) in names.iter().enumerate() {
            let with = |part: &[u8]| {
                let mut parts = parts.clone();
                parts[place] = part.to_vec();
                [&[0x84], &parts.concat()[..]].concat()
            };
            for (what, part) in [
                ("a number", vec![1]),
                ("a text", encode("text")),
                ("null", vec![0xf6]),
                ("an array", vec![0x80]),
                ("true", vec![0xf5]),
            ] {
                self.add(&format!("{name}: {what}"), &with(&part), no_cose);
            }
            if place == 1 {
                continue;
            }
            self.add(&format!("{name}: a map"), &with(&[0xa0]), no_cose);
            let content = [&PROTECTED[..], &[], good, signature][place];
            let chunks = [&[0x5f], &bytes(content)[..], &[0xff]].concat();
            self.add(
                &format!("{name}: of indefinite length"),
                &with(&chunks),
                "document_not_shortest",
            );
            for head in longer_heads(2, content.len() as u64) {
                let name = format!("{name}: a head of {} bytes", head.len());
                self.add(
                    &name,
                    &with(&[&head, content].concat()),
                    "document_not_shortest",
                );
            }
        }
    }

    fn headers(&mut self, good: &[u8]) {
        let signature = sign_parts(&PROTECTED, good, &self.chain);
        for (name, unprotected) in [
            ("an algorithm", &[0xa1, 1, 0x38, 0x22][..]),
            ("a key id", &[0xa1, 4, 0x41, 7]),
            ("an entry of indefinite length", &[0xbf, 4, 0x41, 7, 0xff]),
            ("empty, of indefinite length", &[0xbf, 0xff]),
        ] {
            let document = sign1(&PROTECTED, unprotected, good, &signature);
            self.add(
                &format!("unprotected header: {name}"),
                &document,
                "document_unprotected_header",
            );
        }
        for head in longer_heads(5, 0) {
            let document = sign1(&PROTECTED, &head, good, &signature);
            self.add(
                &format!("unprotected header: a head of {} bytes", head.len()),
                &document,
                "document_not_shortest",
            );
        }
        for (name, protected) in [
            ("ES256", &[0xa1, 1, 0x26][..]),
            ("ES512", &[0xa1, 1, 0x38, 0x23]),
            ("EdDSA", &[0xa1, 1, 0x27]),
            ("HS256", &[0xa1, 1, 5]),
            ("the unsigned documents of QEMU", &[0xa1, 1, 0x20]),
            ("empty", &[]),
            ("an empty map", &[0xa0]),
            ("ES384 and a kid", &[0xa2, 1, 0x38, 0x22, 4, 0x40]),
            (
                "ES384 and critical labels",
                &[0xa2, 1, 0x38, 0x22, 2, 0x81, 1],
            ),
            (
                "ES384 by name",
                &[0xa1, 1, 0x65, b'E', b'S', b'3', b'8', b'4'],
            ),
            (
                "ES384 under a text label",
                &[0xa1, 0x63, b'a', b'l', b'g', 0x38, 0x22],
            ),
            ("ES384 twice", &[0xa2, 1, 0x38, 0x22, 1, 0x38, 0x22]),
            ("ES384 in a longer head", &[0xa1, 1, 0x39, 0, 0x22]),
            ("a map of indefinite length", &[0xbf, 1, 0x38, 0x22, 0xff]),
            ("a byte after the map", &[0xa1, 1, 0x38, 0x22, 0]),
        ] {
            let signature = sign_parts(protected, good, &self.chain);
            self.add(
                &format!("protected header: {name}"),
                &sign1(protected, &[0xa0], good, &signature),
                "document_algorithm",
            );
        }
    }

    fn signatures(&mut self, good: &[u8], signature: &[u8]) {
        let invalid = "document_signature_invalid";
        let parsed = Signature::from_slice(signature).expect("a signature just made");
        let der = parsed.to_der();
        let (r, s) = signature.split_at(48);
        let sizes = [
            ("of no byte", vec![]),
            ("of 64 bytes", signature[..64].to_vec()),
            ("of 95 bytes", signature[..95].to_vec()),
            ("of 97 bytes", [signature, &[0]].concat()),
            ("with a zero in front", [&[0], signature].concat()),
            ("of 132 bytes", [&[0; 18], r, &[0; 18], s].concat()),
            ("in DER", der.as_bytes().to_vec()),
        ];
        for (name, signature) in sizes {
            self.add(
                &format!("signature {name}"),
                &sign1(&PROTECTED, &[0xa0], good, &signature),
                "document_signature_size",
            );
        }
        let order = HEX_ORDER
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap_or("0"), 16));
        let order: Vec<u8> = order.collect::<Result<_, _>>().expect("hex of ours");
        let zero = vec![0; 48];
        let ones = [&[0; 47][..], &[1]].concat();
        let pairs = [
            ("r and s zero", [&zero[..], &zero].concat()),
            ("r zero", [&zero[..], s].concat()),
            ("s zero", [r, &zero].concat()),
            ("r one", [&ones[..], s].concat()),
            ("s one", [r, &ones].concat()),
            ("r the order", [&order[..], s].concat()),
            ("s the order", [r, &order].concat()),
            ("all ones", vec![0xff; 96]),
            ("r and s swapped", [s, r].concat()),
        ];
        for (name, signature) in pairs {
            self.add(
                &format!("signature: {name}"),
                &sign1(&PROTECTED, &[0xa0], good, &signature),
                invalid,
            );
        }
        for place in [0, 47, 48, 50, 95] {
            let mut flipped = signature.to_vec();
            flipped[place] ^= 1;
            self.add(
                &format!("signature: a bit of byte {place}"),
                &sign1(&PROTECTED, &[0xa0], good, &flipped),
                invalid,
            );
        }
        let other = sign_parts(&PROTECTED, b"another payload", &self.chain);
        self.add(
            "signature of another payload",
            &sign1(&PROTECTED, &[0xa0], good, &other),
            invalid,
        );
        let fixed = &mut self.fixed;
        let other = self
            .authority
            .issue_chain(super::NOW, &mut |out| fixed.fill(out));
        let other = sign_parts(&PROTECTED, good, &other);
        self.add(
            "signature of another leaf",
            &sign1(&PROTECTED, &[0xa0], good, &other),
            invalid,
        );
    }
}

/// The order of P-384's group (SEC 2, section 2.5.1).
const HEX_ORDER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973";
