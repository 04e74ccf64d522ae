//! The certificates. Each chain is whole and well signed but for the one thing that its name says.

use x509_cert::ext::pkix::{KeyUsage, KeyUsages};

use super::{Maker, NOW, good_fields};
use crate::authority::{Authority, Chain, Spec, Tier, pem};
use crate::draft::{Draft, part, parts, sequence, sha256, sha512, tlv};
use crate::nsm::{Encoding, Fields, entries, payload, sign_payload};

/// ecdsa-with-SHA256 and ecdsa-with-SHA512 (RFC 5758 section 3.2), as AlgorithmIdentifiers.
const ECDSA_SHA256: &[u8] = &[
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];
const ECDSA_SHA384: &[u8] = &[
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03,
];
const ECDSA_SHA512: &[u8] = &[
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04,
];
/// The same with parameters, which RFC 5758 does not allow.
const ECDSA_SHA384_NULL: &[u8] = &[
    0x30, 0x0c, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03, 0x05, 0x00,
];
const NAME_CONSTRAINTS: &str = "2.5.29.30";
const EXTENDED_KEY_USAGE: &str = "2.5.29.37";
const SUBJECT_ALTERNATIVE_NAME: &str = "2.5.29.17";
const SUBJECT_KEY_ID: &str = "2.5.29.14";
const UNKNOWN: &str = "1.3.6.1.4.1.99999.1";

impl Maker {
    fn signed(&mut self, name: &str, expected: &str, chain: &Chain) -> &mut serde_json::Value {
        let fields = Fields {
            timestamp_ms: self.made * 1000,
            ..good_fields()
        };
        let document = sign_payload(
            &payload(&entries(&fields, chain), Encoding::Definite),
            chain,
        );
        self.push(name, &document, NOW, expected)
    }

    /// A chain in which one certificate differs. A root that differs is the root of its vector.
    fn with_chain(&mut self, what: &str, expected: &str, tier: Tier, change: impl Fn(&mut Spec)) {
        let name = format!("{tier:?}: {what}").to_lowercase();
        let fixed = &mut self.fixed;
        if tier == Tier::Root {
            let authority = Authority::changed(NOW, &mut |out| fixed.fill(out), &change);
            let chain = authority.issue_chain(NOW, &mut |out| fixed.fill(out));
            self.signed(&name, expected, &chain)["root_pem"] = pem(&chain.cabundle[0]).into();
            return;
        }
        let change = |which, spec: &mut Spec| {
            if which == tier {
                change(spec);
            }
        };
        let chain = self.authority.issue_changed_chain(
            NOW,
            &mut |out| fixed.fill(out),
            &Tier::BELOW_ROOT,
            &change,
        );
        self.signed(&name, expected, &chain);
    }

    fn with_draft(&mut self, what: &str, expected: &str, tier: Tier, change: fn(&mut Draft)) {
        self.with_chain(what, expected, tier, |spec| spec.draft = Some(change));
    }

    fn with_bundle(&mut self, name: &str, expected: &str, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
        let fixed = &mut self.fixed;
        let tiers = Tier::BELOW_ROOT;
        let mut chain =
            self.authority
                .issue_changed_chain(NOW, &mut |out| fixed.fill(out), &tiers, &unlimited);
        change(&mut chain.cabundle);
        self.signed(name, expected, &chain);
    }

    pub(super) fn chains(&mut self) {
        for tier in [
            Tier::Root,
            Tier::Regional,
            Tier::Zonal,
            Tier::Instance,
            Tier::Leaf,
        ] {
            self.times(tier);
            self.profile(tier);
            self.extensions(tier);
            if tier != Tier::Leaf {
                self.authorities(tier);
            }
            if tier != Tier::Root {
                self.encoding(tier);
                self.links(tier);
            }
        }
        self.leaf();
        self.bundles();
        self.certificate_sizes();
        self.foreign();
    }

    fn times(&mut self, tier: Tier) {
        self.with_chain("in its last second", "accepted", tier, |spec| {
            spec.not_after = NOW
        });
        // In the leaf's validity, whichever it is: the time of verification alone is wrong.
        self.made = NOW - 2;
        self.with_chain(
            "expired a second ago",
            "certificate_expired",
            tier,
            |spec| spec.not_after = NOW - 1,
        );
        self.made = NOW;
        if tier != Tier::Leaf {
            self.with_chain(
                "expired half an hour ago",
                "certificate_expired",
                tier,
                |spec| spec.not_after = NOW - 1800,
            );
        }
        // The leaf is made on the spot, and the verifier's clock may be a little behind.
        let behind = if tier == Tier::Leaf { 5 } else { 0 };
        let (last, next) = (
            format!("valid in {behind} s"),
            format!("valid in {} s", behind + 1),
        );
        self.with_chain(&last, "accepted", tier, |spec| {
            spec.not_before = NOW + behind
        });
        self.made = NOW + 5;
        self.with_chain(&next, "certificate_not_yet_valid", tier, |spec| {
            spec.not_before = NOW + behind + 1
        });
        self.with_chain(
            "valid in ten seconds",
            "certificate_not_yet_valid",
            tier,
            |spec| spec.not_before = NOW + 10,
        );
        self.made = NOW;
    }

    fn profile(&mut self, tier: Tier) {
        self.with_draft("version 1", "certificate_version", tier, |draft| {
            draft.tbs.remove(part::VERSION);
        });
        self.with_draft("version 2", "certificate_version", tier, |draft| {
            draft.tbs[part::VERSION] = vec![0xa0, 3, 2, 1, 1]
        });
        self.with_draft(
            "signed with SHA-256",
            "certificate_algorithm",
            tier,
            |draft| {
                (draft.tbs[part::SIGNATURE], draft.algorithm, draft.hash) =
                    (ECDSA_SHA256.into(), ECDSA_SHA256.into(), sha256);
            },
        );
        self.with_draft(
            "signed with SHA-512",
            "certificate_algorithm",
            tier,
            |draft| {
                (draft.tbs[part::SIGNATURE], draft.algorithm, draft.hash) =
                    (ECDSA_SHA512.into(), ECDSA_SHA512.into(), sha512);
            },
        );
        self.with_draft(
            "SHA-256 inside, SHA-384 outside",
            "certificate_algorithm",
            tier,
            |draft| {
                draft.tbs[part::SIGNATURE] = ECDSA_SHA256.into();
            },
        );
        self.with_draft(
            "SHA-384 inside, SHA-256 outside",
            "certificate_algorithm",
            tier,
            |draft| {
                draft.algorithm = ECDSA_SHA256.into();
            },
        );
        self.with_draft(
            "algorithm with parameters",
            "certificate_algorithm",
            tier,
            |draft| {
                (draft.tbs[part::SIGNATURE], draft.algorithm) =
                    (ECDSA_SHA384_NULL.into(), ECDSA_SHA384_NULL.into());
            },
        );
        if tier == Tier::Leaf {
            self.with_draft("a key on P-256", "certificate_key", tier, |draft| {
                let point = [&[0, 4][..], &[7; 64]].concat();
                let algorithm = [
                    &tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1])[..],
                    &tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]),
                ]
                .concat();
                draft.tbs[part::KEY] = sequence(&[sequence(&algorithm), tlv(3, &point)].concat());
            });
        } else {
            self.with_chain("a key on P-256", "certificate_key", tier, |spec| {
                spec.p256 = true
            });
        }
        self.with_draft(
            "a key for something else",
            "certificate_key",
            tier,
            |draft| {
                let point = parts(&draft.tbs[part::KEY]).swap_remove(1);
                // id-ecDH (RFC 5480 section 2.1.2) in place of id-ecPublicKey.
                let algorithm = [
                    &tlv(6, &[0x2b, 0x81, 0x04, 0x01, 0x0c])[..],
                    &tlv(6, &[0x2b, 0x81, 0x04, 0, 0x22]),
                ]
                .concat();
                draft.tbs[part::KEY] = sequence(&[sequence(&algorithm), point].concat());
            },
        );
        self.with_draft("a key without a curve", "certificate_key", tier, |draft| {
            let point = parts(&draft.tbs[part::KEY]).swap_remove(1);
            draft.tbs[part::KEY] = sequence(
                &[
                    sequence(&tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1])),
                    point,
                ]
                .concat(),
            );
        });
    }

    fn extensions(&mut self, tier: Tier) {
        let unknown = "certificate_critical_extension";
        self.with_chain("an unknown extension", "accepted", tier, |spec| {
            spec.unknown_extension = Some(false)
        });
        self.with_chain("an unknown critical extension", unknown, tier, |spec| {
            spec.unknown_extension = Some(true)
        });
        self.with_draft("critical name constraints", unknown, tier, |draft| {
            draft.extend(NAME_CONSTRAINTS, true, &[0x30, 0])
        });
        self.with_draft("critical extended key usage", unknown, tier, |draft| {
            draft.extend(
                EXTENDED_KEY_USAGE,
                true,
                &sequence(&tlv(6, &[0x2b, 6, 1, 5, 5, 7, 3, 1])),
            );
        });
        self.with_draft("a subject key id", "accepted", tier, |draft| {
            draft.extend(SUBJECT_KEY_ID, false, &tlv(4, &[7; 20]))
        });
        self.with_draft(
            "an unknown extension twice",
            "certificate_extension_twice",
            tier,
            |draft| {
                draft.extend(UNKNOWN, false, &[5, 0]);
                draft.extend(UNKNOWN, false, &[5, 0]);
            },
        );
        self.with_draft(
            "key usage twice",
            "certificate_extension_twice",
            tier,
            |draft| {
                let mut extensions = draft.extensions();
                let usage = extensions
                    .iter()
                    .find(|extension| extension.windows(3).any(|id| id == [0x55, 0x1d, 0x0f]))
                    .cloned();
                extensions.extend(usage);
                draft.tbs[part::EXTENSIONS] = tlv(0xa3, &sequence(&extensions.concat()));
            },
        );
    }

    fn encoding(&mut self, tier: Tier) {
        let malformed = "certificate_malformed";
        self.with_draft("a byte after it", malformed, tier, |draft| {
            draft.whole = |whole| whole.push(0)
        });
        self.with_draft("its last byte cut", malformed, tier, |draft| {
            draft.whole = |whole| {
                whole.pop();
            }
        });
        self.with_draft("of indefinite length", malformed, tier, |draft| {
            draft.whole = |whole| {
                whole.splice(0..4, [0x30, 0x80]);
                whole.extend([0, 0]);
            }
        });
        self.with_draft("a length longer than needed", malformed, tier, |draft| {
            draft.whole = |whole| {
                whole.splice(0..2, [0x30, 0x83, 0]);
            }
        });
        self.with_draft("version 1, written out", malformed, tier, |draft| {
            draft.tbs[part::VERSION] = vec![0xa0, 3, 2, 1, 0]
        });
        self.with_draft(
            "a serial number with a zero in front",
            malformed,
            tier,
            |draft| {
                let serial = parts_of_integer(&draft.tbs[part::SERIAL]);
                draft.tbs[part::SERIAL] = tlv(2, &[&[0], &serial[..]].concat());
            },
        );
        self.with_draft("true written as 1", malformed, tier, |draft| {
            let mut extensions = draft.extensions();
            extensions.push(sequence(
                &[
                    &tlv(6, &[0x55, 0x1d, 0x0e])[..],
                    &[1, 1, 1],
                    &tlv(4, &tlv(4, &[7; 20])),
                ]
                .concat(),
            ));
            draft.tbs[part::EXTENSIONS] = tlv(0xa3, &sequence(&extensions.concat()));
        });
        self.with_draft("false written out", malformed, tier, |draft| {
            let mut extensions = draft.extensions();
            extensions.push(sequence(
                &[
                    &tlv(6, &[0x55, 0x1d, 0x0e])[..],
                    &[1, 1, 0],
                    &tlv(4, &tlv(4, &[7; 20])),
                ]
                .concat(),
            ));
            draft.tbs[part::EXTENSIONS] = tlv(0xa3, &sequence(&extensions.concat()));
        });
        self.with_draft("a part too many", malformed, tier, |draft| {
            draft.tbs.push(vec![5, 0])
        });
        self.with_draft("no key", malformed, tier, |draft| {
            draft.tbs.remove(part::KEY);
        });
        self.with_draft("no validity", malformed, tier, |draft| {
            draft.tbs.remove(part::VALIDITY);
        });
    }

    fn authorities(&mut self, tier: Tier) {
        let cert_sign = || KeyUsage(KeyUsages::KeyCertSign.into());
        let below = match tier {
            Tier::Root => 3,
            Tier::Regional => 2,
            Tier::Zonal => 1,
            _ => 0,
        };
        self.with_chain("no basic constraints", "ca_constraints", tier, |spec| {
            spec.constraints = None
        });
        self.with_chain(
            "basic constraints not critical",
            "ca_constraints",
            tier,
            |spec| {
                spec.constraints = Some((false, true, None));
            },
        );
        self.with_chain("no CA", "ca_not_marked", tier, |spec| {
            spec.constraints = Some((true, false, None))
        });
        self.with_chain("no path length", "accepted", tier, |spec| {
            spec.constraints = Some((true, true, None))
        });
        for length in 0..=3 {
            let expected = if length < below {
                "ca_path_length"
            } else {
                "accepted"
            };
            let what = format!("path length {length}");
            self.with_chain(&what, expected, tier, |spec| {
                spec.constraints = Some((true, true, Some(length)))
            });
        }
        self.with_chain("no key usage", "ca_key_usage", tier, |spec| {
            spec.usage = None
        });
        for (what, usage) in [
            ("may only make signatures", KeyUsages::DigitalSignature),
            ("may only sign revocation lists", KeyUsages::CRLSign),
            ("may only agree on keys", KeyUsages::KeyAgreement),
        ] {
            self.with_chain(what, "ca_key_usage", tier, |spec| {
                spec.usage = Some((true, KeyUsage(usage.into())))
            });
        }
        self.with_chain("may only sign certificates", "accepted", tier, |spec| {
            spec.usage = Some((true, cert_sign()))
        });
        self.with_draft(
            "key usage that is no bit string",
            "ca_key_usage",
            tier,
            |draft| {
                replace_extension(draft, [0x55, 0x1d, 0x0f], &[5, 0]);
            },
        );
        self.with_draft(
            "basic constraints that are no sequence",
            "ca_constraints",
            tier,
            |draft| {
                replace_extension(draft, [0x55, 0x1d, 0x13], &[5, 0]);
            },
        );
    }

    fn links(&mut self, tier: Tier) {
        self.with_chain("another issuer", "chain_issuer", tier, |spec| {
            spec.issuer = Some("somebody else")
        });
        self.with_chain("an issuer in other letters", "chain_issuer", tier, |spec| {
            spec.issuer = Some("ANCHORHOLD.MOCK-NITRO-ENCLAVES")
        });
        self.with_draft("a changed signature", "chain_signature", tier, |draft| {
            draft.signature = |signature| {
                let last = signature.len() - 1;
                signature[last] ^= 1;
            }
        });
        self.with_draft("no signature", "chain_signature", tier, |draft| {
            draft.signature = Vec::clear
        });
        self.with_draft("a signature of zeros", "chain_signature", tier, |draft| {
            draft.signature = |signature| *signature = vec![0x30, 6, 2, 1, 0, 2, 1, 0];
        });
        self.with_draft(
            "signed over a SHA-256 digest",
            "chain_signature",
            tier,
            |draft| {
                (draft.tbs[part::SIGNATURE], draft.algorithm, draft.hash) =
                    (ECDSA_SHA384.into(), ECDSA_SHA384.into(), sha256);
            },
        );
        self.with_draft(
            "signed, and then another serial number",
            "chain_signature",
            tier,
            |draft| {
                draft.whole = |whole| {
                    let serial = parts_of_integer(&parts(&parts(whole)[0])[part::SERIAL]);
                    let at = whole
                        .windows(serial.len())
                        .position(|window| window == serial)
                        .expect("it was just read");
                    whole[at + 5] ^= 1;
                }
            },
        );
        for (above, name) in [
            (Tier::Root, "anchorhold.mock-nitro-enclaves"),
            (Tier::Regional, "regional.anchorhold.mock-nitro-enclaves"),
            (Tier::Zonal, "zonal.anchorhold.mock-nitro-enclaves"),
            (Tier::Instance, "instance.anchorhold.mock-nitro-enclaves"),
        ] {
            if (above as usize) < tier as usize {
                let what = format!("the subject of the {above:?} certificate");
                self.with_chain(&what, "chain_subject_twice", tier, |spec| {
                    spec.subject = Some(name)
                });
            }
        }
    }

    fn leaf(&mut self) {
        let leaf = Tier::Leaf;
        let usage = |bits: KeyUsages| KeyUsage(bits.into());
        self.with_chain("a CA", "leaf_is_ca", leaf, |spec| {
            spec.constraints = Some((true, true, None))
        });
        self.with_chain("a CA, not critical", "leaf_is_ca", leaf, |spec| {
            spec.constraints = Some((false, true, None))
        });
        self.with_chain("says that it is no CA", "accepted", leaf, |spec| {
            spec.constraints = Some((true, false, None))
        });
        self.with_chain("no key usage", "leaf_key_usage", leaf, |spec| {
            (spec.usage, spec.unknown_extension) = (None, Some(false))
        });
        for bits in [
            KeyUsages::KeyCertSign,
            KeyUsages::NonRepudiation,
            KeyUsages::KeyAgreement,
        ] {
            self.with_chain(
                &format!("may only {bits:?}"),
                "leaf_key_usage",
                leaf,
                |spec| spec.usage = Some((false, usage(bits))),
            );
        }
        self.with_chain("critical key usage", "accepted", leaf, |spec| {
            spec.usage = Some((true, usage(KeyUsages::DigitalSignature)));
        });
        self.with_draft("for servers", "accepted", leaf, |draft| {
            draft.extend(
                EXTENDED_KEY_USAGE,
                false,
                &sequence(&tlv(6, &[0x2b, 6, 1, 5, 5, 7, 3, 1])),
            );
        });
        self.with_draft("for signing code", "chain_path", leaf, |draft| {
            draft.extend(
                EXTENDED_KEY_USAGE,
                false,
                &sequence(&tlv(6, &[0x2b, 6, 1, 5, 5, 7, 3, 3])),
            );
        });
        self.with_draft(
            "basic constraints that are no sequence",
            "leaf_is_ca",
            leaf,
            |draft| {
                draft.extend("2.5.29.19", false, &[5, 0]);
            },
        );
        // The zone may speak for example.com alone, and the leaf names another host.
        let fixed = &mut self.fixed;
        let chain = self.authority.issue_changed_chain(
            NOW,
            &mut |out| fixed.fill(out),
            &Tier::BELOW_ROOT,
            &|tier, spec| match tier {
                Tier::Zonal => {
                    spec.draft = Some(|draft| {
                        let subtree = sequence(&sequence(&tlv(0x82, b"example.com")));
                        let permitted = tlv(0xa0, &parts(&subtree).concat());
                        draft.extend(NAME_CONSTRAINTS, false, &sequence(&permitted));
                    });
                }
                Tier::Leaf => {
                    spec.draft = Some(|draft| {
                        draft.extend(
                            SUBJECT_ALTERNATIVE_NAME,
                            false,
                            &sequence(&tlv(0x82, b"example.org")),
                        )
                    });
                }
                _ => {}
            },
        );
        self.signed(
            "leaf: a name that the zone may not give",
            "chain_path",
            &chain,
        );
    }

    fn bundles(&mut self) {
        self.with_bundle("no intermediate", "chain_issuer", |bundle| {
            bundle.truncate(1)
        });
        for missing in 1..4 {
            self.with_bundle(
                &format!("intermediate {missing} missing"),
                "chain_issuer",
                |bundle| {
                    bundle.remove(missing);
                },
            );
        }
        for (one, other) in [(1, 2), (2, 3), (1, 3)] {
            self.with_bundle(
                &format!("intermediates {one} and {other} swapped"),
                "chain_issuer",
                |bundle| bundle.swap(one, other),
            );
        }
        for again in 1..4 {
            let what = format!("intermediate {again} in the place of the next");
            self.with_bundle(&what, "chain_issuer", |bundle| {
                let next = if again == 3 { 2 } else { again + 1 };
                bundle[next] = bundle[again].clone();
            });
            self.with_bundle(
                &format!("intermediate {again} twice"),
                "cabundle_count",
                |bundle| bundle.insert(again, bundle[again].clone()),
            );
        }
        self.with_bundle("the root last", "root_untrusted", |bundle| {
            bundle.rotate_left(1)
        });
        self.with_bundle("the root missing", "root_untrusted", |bundle| {
            bundle.remove(0);
        });
        self.with_bundle(
            "the root with a byte after it",
            "root_untrusted",
            |bundle| bundle[0].push(0),
        );
        self.with_bundle(
            "an intermediate that is no certificate",
            "certificate_malformed",
            |bundle| bundle[2] = vec![0x30, 0],
        );
        let leaf = self.chain.leaf.der();
        self.with_bundle(
            "the leaf of another chain among the intermediates",
            "ca_constraints",
            |bundle| bundle[2] = leaf,
        );
        let fixed = &mut self.fixed;
        let tiers = [Tier::Regional, Tier::Zonal, Tier::Instance, Tier::Extra];
        let longer =
            self.authority
                .issue_changed_chain(NOW, &mut |out| fixed.fill(out), &tiers, &unlimited);
        let shorter = self.authority.issue_changed_chain(
            NOW,
            &mut |out| fixed.fill(out),
            &[Tier::Instance],
            &unlimited,
        );
        let direct =
            self.authority
                .issue_changed_chain(NOW, &mut |out| fixed.fill(out), &[], &unlimited);
        self.signed("four intermediates, each good", "cabundle_count", &longer);
        self.signed("one intermediate, good", "accepted", &shorter);
        self.signed("a leaf of the root's own, good", "accepted", &direct);
    }

    /// Certificates of exactly the greatest size, and of one byte more.
    fn certificate_sizes(&mut self) {
        let tiers = [Tier::Regional, Tier::Zonal, Tier::Instance, Tier::Leaf];
        for (place, tier) in tiers.into_iter().enumerate() {
            for (size, expected) in [(1024, "accepted"), (1025, "certificate_size")] {
                let grown: fn(&mut Draft) = if size == 1024 {
                    grow::<1024>
                } else {
                    grow::<1025>
                };
                let chain = loop {
                    let fixed = &mut self.fixed;
                    let change =
                        |which, spec: &mut Spec| spec.draft = (which == tier).then_some(grown);
                    let chain = self.authority.issue_changed_chain(
                        NOW,
                        &mut |out| fixed.fill(out),
                        &Tier::BELOW_ROOT,
                        &change,
                    );
                    // The length of a signature in DER depends on its numbers.
                    if chain
                        .cabundle
                        .get(place + 1)
                        .map_or_else(|| chain.leaf.der().len(), Vec::len)
                        == size
                    {
                        break chain;
                    }
                };
                self.signed(
                    &format!("{tier:?}: of {size} bytes").to_lowercase(),
                    expected,
                    &chain,
                );
            }
        }
    }

    fn foreign(&mut self) {
        let fixed = &mut self.fixed;
        let other = Authority::new(NOW, &mut |out| fixed.fill(out));
        let chain = other.issue_chain(NOW, &mut |out| fixed.fill(out));
        let own = self.chain.cabundle[0].clone();
        let mut borrowed = other.issue_chain(NOW, &mut |out| fixed.fill(out));
        let mut half = other.issue_chain(NOW, &mut |out| fixed.fill(out));
        half.cabundle[..3].clone_from_slice(&self.chain.cabundle[..3]);
        self.signed("another mock's document", "root_untrusted", &chain);
        // Valid now, as the leaf is within the skew, but not when the leaf begins.
        let fixed = &mut self.fixed;
        let ended = self.authority.issue_changed_chain(
            NOW,
            &mut |out| fixed.fill(out),
            &Tier::BELOW_ROOT,
            &|tier, spec| match tier {
                Tier::Instance => spec.not_after = NOW + 2,
                Tier::Leaf => spec.not_before = NOW + 4,
                _ => {}
            },
        );
        self.signed(
            "instance: ends before its leaf begins",
            "certificate_expired",
            &ended,
        );
        // The same but for its root, so that who knows it from there must not believe it here.
        self.signed("under another mock's own root", "accepted", &borrowed)["root_pem"] =
            other.certificate_pem().into();
        borrowed.cabundle[0] = own;
        self.signed(
            "another mock's chain under this root",
            "chain_signature",
            &borrowed,
        );
        self.signed(
            "another mock's instance under this zone",
            "chain_signature",
            &half,
        );
    }
}

/// Without path lengths, so that nothing but order and number of the certificates is wrong.
fn unlimited(tier: Tier, spec: &mut Spec) {
    if tier != Tier::Leaf {
        spec.constraints = Some((true, true, None));
    }
}

/// Fills a certificate up to `SIZE` bytes with an extension that nobody knows, if its signature has
/// 103 bytes in DER.
fn grow<const SIZE: usize>(draft: &mut Draft) {
    const FILLING: usize = 300;
    let mut trial = Draft {
        tbs: draft.tbs.clone(),
        algorithm: draft.algorithm.clone(),
        ..*draft
    };
    trial.extend(UNKNOWN, false, &[7; FILLING]);
    let whole = sequence(
        &[
            sequence(&trial.tbs.concat()),
            trial.algorithm,
            tlv(3, &[0; 1 + 103]),
        ]
        .concat(),
    );
    draft.extend(UNKNOWN, false, &vec![7; FILLING + SIZE - whole.len()]);
}

fn replace_extension(draft: &mut Draft, id: [u8; 3], value: &[u8]) {
    let mut extensions = draft.extensions();
    for extension in &mut extensions {
        let mut inner = parts(extension);
        if inner[0].ends_with(&id) {
            let last = inner.len() - 1;
            inner[last] = tlv(4, value);
            *extension = sequence(&inner.concat());
        }
    }
    draft.tbs[part::EXTENSIONS] = tlv(0xa3, &sequence(&extensions.concat()));
}

/// The value bytes of an INTEGER of fewer than 128 bytes.
fn parts_of_integer(integer: &[u8]) -> Vec<u8> {
    integer[2..].to_vec()
}
