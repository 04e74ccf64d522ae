//! The payload map and its fields.

use super::{Maker, longer_heads};
use crate::nsm::{Encoding, bytes, encode, payload};

const REQUIRED: [&str; 6] = [
    "module_id",
    "digest",
    "timestamp",
    "pcrs",
    "certificate",
    "cabundle",
];
const OPTIONAL: [&str; 3] = ["public_key", "user_data", "nonce"];

/// One value of each CBOR type, with the name of the type.
fn one_of_each() -> [(&'static str, Vec<u8>); 11] {
    [
        ("number", vec![7]),
        ("negative number", vec![0x26]),
        ("bytes", bytes(&[7; 48])),
        ("text", encode("text")),
        ("array", vec![0x80]),
        ("map", vec![0xa0]),
        ("true", vec![0xf5]),
        ("undefined", vec![0xf7]),
        ("float", vec![0xf9, 0x3c, 0]),
        ("tagged number", vec![0xc1, 7]),
        ("simple value", vec![0xe5]),
    ]
}

fn type_of(field: &str) -> &'static str {
    match field {
        "module_id" | "digest" => "text",
        "timestamp" => "number",
        "pcrs" => "map",
        "cabundle" => "array",
        _ => "bytes",
    }
}

impl Maker {
    pub(super) fn fields(&mut self) {
        self.presence();
        self.types();
        self.encodings();
        self.sizes();
        self.order();
        self.map();
    }

    fn presence(&mut self) {
        for field in REQUIRED {
            self.with_entries(&format!("{field}: absent"), "field_missing", |e| {
                e.retain(|entry| entry.0 != field)
            });
            self.with_value(field, "null", "field_type", vec![0xf6]);
        }
        for field in OPTIONAL {
            self.with_entries(&format!("{field}: absent"), "accepted", |e| {
                e.retain(|entry| entry.0 != field)
            });
            self.with_value(field, "null", "accepted", vec![0xf6]);
        }
        for field in REQUIRED.into_iter().chain(OPTIONAL) {
            self.with_entries(&format!("{field}: twice"), "field_twice", |entries| {
                let again = entries.iter().find(|entry| entry.0 == field).cloned();
                entries.extend(again);
            });
            self.with_entries(
                &format!("{field}: twice in a row"),
                "field_twice",
                |entries| {
                    let at = entries
                        .iter()
                        .position(|entry| entry.0 == field)
                        .unwrap_or_default();
                    entries.insert(at, entries[at].clone());
                },
            );
        }
        for field in OPTIONAL {
            self.with_entries(
                &format!("{field}: null, and then a value"),
                "field_twice",
                |entries| {
                    let at = entries
                        .iter()
                        .position(|entry| entry.0 == field)
                        .unwrap_or_default();
                    entries.insert(at, (entries[at].0, vec![0xf6]));
                },
            );
        }
        for (name, unknown) in [
            ("of NitroTPM documents", "nitrotpm_pcrs"),
            ("without a name", ""),
            ("in other letters", "Nonce"),
            ("after its name", "nonce "),
        ] {
            self.with_entries(&format!("a field {name}"), "field_unknown", |entries| {
                entries.push((unknown, vec![0xa0]))
            });
        }
    }

    fn types(&mut self) {
        for field in REQUIRED.into_iter().chain(OPTIONAL) {
            for (name, value) in one_of_each() {
                if name != type_of(field) {
                    self.with_value(field, &format!("a {name}"), "field_type", value);
                }
            }
        }
        self.with_value("module_id", "not UTF-8", "field_type", vec![0x61, 0xff]);
        self.with_value(
            "timestamp",
            "beyond 64 bits",
            "field_type",
            [&[0xc2][..], &bytes(&[1; 9])].concat(),
        );
        for (name, element) in one_of_each() {
            if name != "bytes" {
                self.with_value(
                    "cabundle",
                    &format!("a {name} in it"),
                    "field_type",
                    [&[0x81], &element[..]].concat(),
                );
            }
        }
    }

    fn encodings(&mut self) {
        for (place, (field, value)) in self.good_entries().into_iter().enumerate() {
            let head = value[0];
            let (major, argument, rest) = head_of(&value);
            for longer in longer_heads(major, argument) {
                let what = format!("a head of {} bytes", longer.len());
                self.with_value(
                    field,
                    &what,
                    "payload_not_shortest",
                    [&longer, rest].concat(),
                );
            }
            if major != 0 {
                let indefinite = head & 0xe0 | 0x1f;
                let chunks = if major == 2 || major == 3 {
                    value.clone()
                } else {
                    rest.to_vec()
                };
                self.with_value(
                    field,
                    "of indefinite length",
                    "payload_indefinite",
                    [&[indefinite], &chunks[..], &[0xff]].concat(),
                );
            }
            let name = encode(field);
            let key = |key: &[u8]| {
                let mut out = vec![0xa9];
                for (other, (entry, value)) in self.good_entries().iter().enumerate() {
                    out.extend_from_slice(&if other == place {
                        key.to_vec()
                    } else {
                        encode(entry)
                    });
                    out.extend_from_slice(value);
                }
                out
            };
            let longer = longer_heads(3, field.len() as u64).swap_remove(0);
            let cases = [
                (
                    "its name in a longer head",
                    key(&[&longer, &name[1..]].concat()),
                    "payload_head_not_shortest",
                ),
                (
                    "its name in chunks",
                    key(&[&[0x7f], &name[..], &[0xff]].concat()),
                    "payload_not_map",
                ),
                (
                    "its name as bytes",
                    key(&bytes(field.as_bytes())),
                    "payload_not_map",
                ),
                (
                    "its name tagged",
                    key(&[&[0xc1], &name[..]].concat()),
                    "payload_not_map",
                ),
            ];
            for (what, payload, expected) in cases {
                self.with_payload(&format!("{field}: {what}"), expected, &payload);
            }
        }
        let certificate = self.chain.cabundle[1].clone();
        for (what, element, expected) in [
            (
                "a certificate in chunks",
                [&[0x5f], &bytes(&certificate)[..], &[0xff]].concat(),
                "payload_indefinite",
            ),
            (
                "a certificate with a longer head",
                [
                    &longer_heads(2, certificate.len() as u64)[0],
                    &certificate[..],
                ]
                .concat(),
                "payload_not_shortest",
            ),
        ] {
            let mut bundle = vec![0x84];
            for (index, certificate) in self.chain.cabundle.iter().enumerate() {
                bundle.extend_from_slice(&if index == 1 {
                    element.clone()
                } else {
                    bytes(certificate)
                });
            }
            self.with_value("cabundle", what, expected, bundle);
        }
    }

    fn sizes(&mut self) {
        self.with_value("module_id", "empty", "module_id_empty", encode(""));
        self.with_value("module_id", "of one letter", "accepted", encode("i"));
        for digest in ["SHA256", "SHA512", "sha384", "SHA-384", "SHA384 ", ""] {
            self.with_value(
                "digest",
                &format!("{digest:?}"),
                "digest_unknown",
                encode(digest),
            );
        }
        self.with_value("timestamp", "zero", "timestamp_range", encode(0_u64));
        self.with_value("timestamp", "2^63", "timestamp_range", encode(1_u64 << 63));
        self.with_value("timestamp", "2^64-1", "timestamp_range", encode(u64::MAX));
        self.with_value(
            "timestamp",
            "2^63-1",
            "document_from_future",
            encode(u64::MAX >> 1),
        );
        self.with_value(
            "timestamp",
            "in seconds",
            "document_outside_leaf",
            encode(super::NOW),
        );
        for (field, limit, code) in [
            ("public_key", 1024, "public_key_size"),
            ("user_data", 512, "user_data_size"),
            ("nonce", 512, "nonce_size"),
        ] {
            for (size, expected) in [
                (1, "accepted"),
                (limit, "accepted"),
                (limit + 1, code),
                (4 * limit, code),
            ] {
                self.with_value(
                    field,
                    &format!("{size} bytes"),
                    expected,
                    bytes(&vec![7; size]),
                );
            }
        }
        self.with_value("public_key", "empty", "public_key_size", bytes(&[]));
        self.with_value("user_data", "empty", "accepted", bytes(&[]));
        self.with_value("nonce", "empty", "accepted", bytes(&[]));
        self.with_value("certificate", "empty", "certificate_size", bytes(&[]));
        self.with_value("cabundle", "empty", "cabundle_count", vec![0x80]);
        self.with_value(
            "cabundle",
            "nine elements",
            "cabundle_count",
            [&[0x89][..], &[0x41, 7].repeat(9)].concat(),
        );
        self.with_value(
            "cabundle",
            "more elements than bytes",
            "cabundle_count",
            vec![0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        );
        self.with_value(
            "cabundle",
            "an empty certificate",
            "certificate_size",
            vec![0x81, 0x40],
        );
        // Its head has three bytes where that of the good one has two.
        let rest = self.good_payload().len() - super::good_fields().module_id.len() + 1;
        for (size, expected) in [
            (16384, "accepted"),
            (16385, "payload_size"),
            (17000, "document_too_long"),
        ] {
            let what = format!("so long that the payload has {size} bytes");
            self.with_value(
                "module_id",
                &what,
                expected,
                encode("m".repeat(size - rest)),
            );
        }
    }

    fn order(&mut self) {
        for turn in 1..9 {
            self.with_entries(&format!("fields turned by {turn}"), "accepted", |entries| {
                entries.rotate_left(turn)
            });
        }
        self.with_entries("fields in reverse", "accepted", |entries| entries.reverse());
        self.with_entries(
            "fields in the order of their names",
            "accepted",
            |entries| entries.sort(),
        );
    }

    /// The map itself.
    fn map(&mut self) {
        let entries = self.good_entries();
        let body = payload(&entries, Encoding::Definite)[1..].to_vec();
        let head = |head: &[u8]| [head, &body].concat();
        for longer in longer_heads(5, 9) {
            let name = format!("payload: a map head of {} bytes", longer.len());
            self.with_payload(&name, "payload_head_not_shortest", &head(&longer));
        }
        self.with_payload(
            "payload: a map of ten with nine",
            "payload_cut",
            &head(&[0xaa]),
        );
        self.with_payload(
            "payload: a map of eight with nine",
            "payload_trailing_bytes",
            &head(&[0xa8]),
        );
        self.with_payload(
            "payload: a map of 2^64-1 with nine",
            "payload_cut",
            &head(&[0xbb, 255, 255, 255, 255, 255, 255, 255, 255]),
        );
        self.with_payload("payload: an empty map", "field_missing", &[0xa0]);
        self.with_payload(
            "payload: an empty map of indefinite length",
            "field_missing",
            &[0xbf, 0xff],
        );
        self.with_payload(
            "payload: an indefinite map without an end",
            "payload_cut",
            &head(&[0xbf]),
        );
        self.with_payload(
            "payload: a definite map with a break",
            "payload_trailing_bytes",
            &[&head(&[0xa9])[..], &[0xff]].concat(),
        );
        self.with_payload(
            "payload: an indefinite map with two breaks",
            "payload_trailing_bytes",
            &[&head(&[0xbf])[..], &[0xff, 0xff]].concat(),
        );
        self.with_payload(
            "payload: a byte after the map",
            "payload_trailing_bytes",
            &[&head(&[0xa9])[..], &[0]].concat(),
        );
        self.with_payload(
            "payload: an indefinite map that ends after a name",
            "payload_cut",
            &[&head(&[0xbf])[..], &encode("nonce")].concat(),
        );
        for (name, whole) in [
            ("an array", vec![0x80]),
            ("a text", encode("text")),
            ("bytes", bytes(&[7])),
            ("a number", vec![7]),
            ("null", vec![0xf6]),
            ("a tagged map", head(&[0xc1, 0xa9])),
            ("a break", vec![0xff]),
        ] {
            self.with_payload(&format!("payload: {name}"), "payload_not_map", &whole);
        }
        self.with_payload("payload: empty", "payload_size", &[]);
        let numbered: Vec<u8> = entries
            .iter()
            .enumerate()
            .flat_map(|(n, (_, value))| [&encode(n as u64), &value[..]].concat())
            .collect();
        self.with_payload(
            "payload: numbers for names",
            "payload_not_map",
            &[&[0xa9], &numbered[..]].concat(),
        );
        let mut end = 1;
        for (field, value) in &entries {
            end += encode(field).len() + value.len();
            let whole = head(&[0xa9]);
            if end < whole.len() {
                self.with_payload(
                    &format!("payload: cut after {field}"),
                    "payload_cut",
                    &whole[..end],
                );
            }
            self.with_payload(
                &format!("payload: cut in {field}"),
                "payload_cut",
                &whole[..end - value.len() / 2 - 1],
            );
        }
    }
}

/// Major type, argument, and what follows after the head.
fn head_of(item: &[u8]) -> (u8, u64, &[u8]) {
    let width = match item[0] & 0x1f {
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        small => return (item[0] >> 5, small.into(), &item[1..]),
    };
    let argument = item[1..=width]
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    (item[0] >> 5, argument, &item[1 + width..])
}
