//! Evidence files, tokens and credentials, and what a verifier makes of them: the vectors for
//! everything behind a document.

use std::collections::BTreeMap;

use attestation::{
    Attested, Binding, Evidence, KeyDescription, Measurements, MockRoot, POSSESSION_TAG, Possession,
};
use data_encoding::HEXLOWER;
use ed25519_dalek::Signer as _;
use identity::caller::ObservedCaller;
use identity::cose::{self, Purpose};
use identity::credential::{self, Content};
use identity::token::{self, Claims, Vouch};
use identity::{
    Caller, Did, Digest, Intent, KeyId, Message, Payload, PublicKey, Signature, Signer, Tee,
    UnixSeconds, cbor, did,
};
use policy::{Bundle, PolicyDigest};
use serde_json::{Value, json};
use state::{Custody, Rollback, StateFacts, StateId};
use uuid::Uuid;

use super::{Fixed, NOW, good_fields};
use crate::authority::{Authority, Chain};
use crate::nsm::{Encoding, Fields, entries, payload, sign_payload};

/// What is changed, what comes out, and how.
type Change = (&'static str, &'static str, fn(&mut KeyDescription));

const CHALLENGE: [u8; 32] = [0xc4; 32];
const AUDIENCE: &str = "https://tools.example";
const WEB: &str = "did:web:agent.example.com";

/// A key that everybody knows.
struct KnownKey(ed25519_dalek::SigningKey, PublicKey);

impl KnownKey {
    fn new(seed: u8) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
        let public = PublicKey::ed25519(key.verifying_key().as_bytes()).expect("a good key");
        Self(key, public)
    }
}

impl Signer for KnownKey {
    type Error = identity::Error;

    fn public_key(&self) -> &PublicKey {
        &self.1
    }

    fn sign(&self, message: &Message) -> Result<Signature, identity::Error> {
        Ok(self.0.sign(message.as_bytes()).to_bytes())
    }
}

/// File names and contents, `cases.json` among them.
pub fn evidence() -> BTreeMap<String, Vec<u8>> {
    let mut fixed = Fixed(1 << 32);
    let authority = Authority::new(NOW, &mut |out| fixed.fill(out));
    let chain = authority.issue_chain(NOW, &mut |out| fixed.fill(out));
    let mut maker = Maker::new(&authority, chain);
    maker.inputs();
    maker.evidence();
    maker.tokens();
    maker.credentials();
    let cases = json!({
        "about": "Evidence made by Anchorhold's mock NSM and by keys that everybody knows. It proves nothing.",
        "cases": maker.cases,
    });
    let text = serde_json::to_string_pretty(&cases).unwrap_or_default() + "\n";
    maker.files.insert("cases.json".into(), text.into_bytes());
    maker.files
}

/// Everything that goes into an evidence file, to be changed one by one.
struct Parts {
    fields: Fields<'static>,
    key: KeyDescription,
    bound: KeyDescription,
    bundle: Vec<u8>,
    record: Vec<u8>,
    bound_record: Vec<u8>,
    committed: PolicyDigest,
    user_data: Option<Vec<u8>>,
    public_key: Option<Vec<u8>>,
    possession: Possession,
    proven_by: u8,
    purpose: Purpose,
    encoding: Encoding,
    state: Option<StateFacts>,
    bound_state: Option<StateFacts>,
}

/// A state that everybody knows.
fn kept() -> StateFacts {
    StateFacts {
        state: StateId::new([0x5a; 32]),
        epoch: 3,
        custody: Custody::Kms,
        rollback: Rollback::Accepted,
    }
}

/// The key of the record.
fn record_spki() -> Vec<u8> {
    KnownKey::new(7).1.to_spki()
}

struct Maker {
    chain: Chain,
    files: BTreeMap<String, Vec<u8>>,
    cases: Vec<Value>,
    bundle: Bundle,
    root_pem: String,
}

impl Maker {
    fn new(authority: &Authority, chain: Chain) -> Self {
        let bundle = Bundle::from_toml(&policy("3600")).expect("a good bundle");
        Self {
            chain,
            files: BTreeMap::new(),
            cases: Vec::new(),
            bundle,
            root_pem: authority.certificate_pem(),
        }
    }

    fn file(&mut self, name: &str, bytes: impl Into<Vec<u8>>) {
        self.files.insert(name.into(), bytes.into());
    }

    /// What a verifier brings.
    fn inputs(&mut self) {
        self.file("root.pem", self.root_pem.clone());
        self.file("policy.toml", policy("3600"));
        self.file("policy-other.toml", policy("3601"));
        let pcr = |byte| Digest([byte; 48]);
        let image = |first| Measurements {
            hash_algorithm: "Sha384 { ... }".into(),
            pcr0: pcr(first),
            pcr1: pcr(2),
            pcr2: pcr(3),
            pcr8: None,
        };
        self.file("measurements.json", image(1).to_json());
        self.file("measurements-other.json", image(9).to_json());
        let web = Did::parse(WEB).expect("a DID");
        let listed = |seed| {
            did::Document::new(web.clone(), &[KnownKey::new(seed).1])
                .expect("a document")
                .to_json()
        };
        self.file("did.json", listed(2).to_string());
        self.file("did-other.json", listed(3).to_string());
        let digest = self.bundle.digest();
        let verifier = format!(
            "version = 1\naudience = \"{AUDIENCE}\"\nmax_age = \"10m\"\n\
             [[images]]\nlabel = \"the mock's\"\nregisters = {{ PCR0 = \"{}\", PCR1 = \"{}\", PCR2 = \"{}\" }}\n\
             [[bundles]]\nlabel = \"the policy\"\ndigest = \"{}\"\n",
            pcr(1),
            pcr(2),
            pcr(3),
            digest.digest()
        );
        self.file("verifier.toml", verifier);
    }

    fn parts(&self, seed: u8, name: &str, did: &Did) -> Parts {
        let key = KnownKey::new(seed).1;
        let kid = KeyId::of(did, &key).expect("a key id").to_string();
        let key = KeyDescription {
            name: name.into(),
            did: did.to_string(),
            kid,
            version: 1,
            spki: key.to_spki(),
        };
        Parts {
            fields: Fields {
                nonce: Some(&CHALLENGE),
                ..good_fields()
            },
            bound: key.clone(),
            key,
            bundle: self.bundle.canonical(),
            record: record_spki(),
            bound_record: record_spki(),
            committed: self.bundle.digest(),
            user_data: None,
            public_key: None,
            possession: Possession {
                tag: POSSESSION_TAG.into(),
                nonce: CHALLENGE.to_vec(),
                document: [0; 32],
            },
            proven_by: seed,
            purpose: Purpose::POSSESSION,
            encoding: Encoding::Definite,
            state: None,
            bound_state: None,
        }
    }

    fn agent(&self) -> Parts {
        self.parts(1, "agent", &Did::key(&KnownKey::new(1).1))
    }

    fn web(&self) -> Parts {
        self.parts(2, "web", &Did::parse(WEB).expect("a DID"))
    }

    /// The evidence of these parts. `possession.document` is that of the document, unless it was
    /// set.
    fn seal(&self, mut parts: Parts) -> Vec<u8> {
        let binding = Binding::new(
            &parts.bound,
            &self.bundle.digest(),
            &parts.bound_record,
            parts.bound_state,
        );
        let user_data = parts
            .user_data
            .clone()
            .unwrap_or_else(|| binding.user_data().to_vec());
        let public_key = parts
            .public_key
            .clone()
            .unwrap_or_else(|| parts.key.spki.clone());
        if let Some(register) = parts.fields.pcrs.iter_mut().find(|(index, _)| *index == 16) {
            register.1 = parts.committed.pcr16();
        }
        let fields = Fields {
            user_data: Some(&user_data),
            public_key: Some(&public_key),
            ..parts.fields
        };
        let signed = payload(&entries(&fields, &self.chain), parts.encoding);
        if parts.possession.document == [0; 32] {
            parts.possession.document = identity::sha256(&signed).0;
        }
        let document = sign_payload(&signed, &self.chain);
        let proof = cose::sign(
            parts.purpose,
            &cbor::to_vec(&parts.possession),
            &KnownKey::new(parts.proven_by),
        );
        Evidence::new(
            document,
            parts.key,
            parts.bundle,
            parts.record,
            parts.state,
            proof.expect("a signature"),
        )
        .to_vec()
    }

    /// An evidence file; and the case of it alone, with everything else as it should be.
    fn sealed(&mut self, name: &str, expected: &str, parts: Parts) {
        let file = file_name("evidence", name, "cbor");
        let sealed = self.seal(parts);
        self.file(&file, sealed);
        self.case(name, json!({"evidence": file}), json!({}), expected);
    }

    /// A case: its subject, what differs from a verifier who expects what is good, and what comes
    /// out.
    fn case(&mut self, name: &str, subject: Value, changed: Value, expected: &str) {
        let mut case = json!({
            "name": name,
            "at": NOW,
            "nonce": HEXLOWER.encode(&CHALLENGE),
            "measurements": ["measurements.json"],
            "policies": ["policy.toml"],
            "mock_root": "root.pem",
        });
        for (key, value) in [subject, changed]
            .iter()
            .filter_map(Value::as_object)
            .flatten()
        {
            case[key] = value.clone();
        }
        case["expected"] = expected.into();
        self.cases.push(case);
    }

    fn evidence(&mut self) {
        self.sealed("good", "accepted", self.agent());
        self.sealed(
            "indefinite",
            "accepted",
            Parts {
                encoding: Encoding::Indefinite,
                ..self.agent()
            },
        );
        self.links();
        self.states();
        self.proofs();
        self.wrong_documents();
        self.expectations();
    }

    /// Keys that are kept in a state, and verifiers who want to know in which.
    fn states(&mut self) {
        let of = |state, bound_state| Parts {
            state,
            bound_state,
            ..self.agent()
        };
        let (another, later) = (
            StateFacts {
                state: StateId::new([0x5b; 32]),
                ..kept()
            },
            StateFacts { epoch: 4, ..kept() },
        );
        let wrong = "binding_mismatch";
        let parts = [
            ("kept", "accepted", of(Some(kept()), Some(kept()))),
            (
                "kept in another state",
                wrong,
                of(Some(another), Some(kept())),
            ),
            (
                "kept in another epoch",
                wrong,
                of(Some(later), Some(kept())),
            ),
            ("kept and said to end", wrong, of(None, Some(kept()))),
            ("ends and said to be kept", wrong, of(Some(kept()), None)),
        ];
        for (name, expected, parts) in parts {
            self.sealed(name, expected, parts);
        }
        for (name, from, tag) in [
            ("kept with the older tag", "kept", b'1'),
            ("ends with the newer tag", "good", b'2'),
        ] {
            let mut bytes = self.files[&file_name("evidence", from, "cbor")].clone();
            // {0: "anchorhold/evidence/v1": the version is the last byte of the tag.
            bytes[2 + "anchorhold/evidence/v1".len()] = tag;
            let file = file_name("evidence", name, "cbor");
            self.file(&file, bytes);
            self.case(
                name,
                json!({"evidence": file}),
                json!({}),
                "evidence_malformed",
            );
        }
        let policy = |line: &str| json!({"appraisal_policy": format!("version = 1\n{line}\n")});
        let (own, other) = ("5a".repeat(32), "5b".repeat(32));
        let of_state = |id: &str| policy(&format!("state = \"{id}\""));
        for (name, changed, of_kept, of_ended) in [
            (
                "its state",
                json!({"state": own}),
                "accepted",
                "state_absent",
            ),
            (
                "another expected state",
                json!({"state": other}),
                "state_mismatch",
                "state_absent",
            ),
            (
                "its state in the policy",
                of_state(&own),
                "accepted",
                "state_absent",
            ),
            (
                "another state in the policy",
                of_state(&other),
                "state_mismatch",
                "state_absent",
            ),
            (
                "its epoch",
                policy("lowest_epoch = 3"),
                "accepted",
                "epoch_absent",
            ),
            (
                "a later epoch",
                policy("lowest_epoch = 4"),
                "epoch_too_low",
                "epoch_absent",
            ),
            (
                "its custody",
                policy("custody = \"kms\""),
                "accepted",
                "custody_too_low",
            ),
            (
                "any custody",
                policy("custody = \"ephemeral\""),
                "accepted",
                "accepted",
            ),
        ] {
            for (which, file, expected) in [("kept", "kept", of_kept), ("ends", "good", of_ended)] {
                let subject = json!({"evidence": file_name("evidence", file, "cbor")});
                self.case(
                    &format!("{which}: {name}"),
                    subject,
                    changed.clone(),
                    expected,
                );
            }
        }
    }

    /// From the document to the key, one link wrong in each.
    fn links(&mut self) {
        let mut without = self.agent();
        without.fields.pcrs.retain(|(index, _)| *index != 16);
        self.sealed("no PCR16", "policy_not_committed", without);
        let other = Bundle::from_toml(&policy("3601")).expect("a good bundle");
        self.sealed(
            "another policy in PCR16",
            "policy_mismatch",
            Parts {
                committed: other.digest(),
                ..self.agent()
            },
        );
        self.sealed(
            "another policy in the file",
            "policy_mismatch",
            Parts {
                bundle: other.canonical(),
                ..self.agent()
            },
        );
        let mut spaced = self.agent();
        spaced.bundle.push(b'\n');
        self.sealed("a policy that is not canonical", "policy_malformed", spaced);
        self.sealed(
            "a policy that is none",
            "policy_malformed",
            Parts {
                bundle: b"{}".to_vec(),
                ..self.agent()
            },
        );
        let changes: [Change; 7] = [
            ("another name", "binding_mismatch", |key| {
                key.name = "web".into()
            }),
            ("another version", "binding_mismatch", |key| key.version = 2),
            ("another DID", "key_id_mismatch", |key| key.did = WEB.into()),
            ("no DID", "did_invalid", |key| {
                key.did = "did:nothing".into()
            }),
            ("another key id", "key_id_mismatch", |key| key.kid.push('x')),
            ("another key", "key_id_mismatch", |key| {
                key.spki = KnownKey::new(3).1.to_spki()
            }),
            ("no key", "key_invalid", |key| key.spki.clear()),
        ];
        for (name, expected, change) in changes {
            let mut parts = self.agent();
            parts.public_key = Some(parts.key.spki.clone());
            change(&mut parts.key);
            self.sealed(&format!("{name} in the file"), expected, parts);
        }
        let mut unlisted = self.agent();
        unlisted.key.name = "nobody".into();
        unlisted.bound = unlisted.key.clone();
        self.sealed(
            "an identity that the policy does not name",
            "identity_not_in_policy",
            unlisted,
        );
        let mut swapped = self.parts(1, "web", &Did::key(&KnownKey::new(1).1));
        swapped.bound = swapped.key.clone();
        self.sealed(
            "an identity under another's name",
            "identity_not_in_policy",
            swapped,
        );
        let other = KnownKey::new(3).1.to_spki();
        self.sealed(
            "another key in the document",
            "binding_mismatch",
            Parts {
                public_key: Some(other),
                ..self.agent()
            },
        );
        self.sealed(
            "another record key in the file",
            "binding_mismatch",
            Parts {
                record: KnownKey::new(8).1.to_spki(),
                ..self.agent()
            },
        );
        self.sealed(
            "no record key in the file",
            "binding_mismatch",
            Parts {
                record: Vec::new(),
                ..self.agent()
            },
        );
        let no_key = || vec![0x30, 0x00];
        self.sealed(
            "a record key that is none, bound as such",
            "key_invalid",
            Parts {
                record: no_key(),
                bound_record: no_key(),
                ..self.agent()
            },
        );
        self.sealed(
            "other user_data in the document",
            "binding_mismatch",
            Parts {
                user_data: Some(vec![1]),
                ..self.agent()
            },
        );
    }

    fn proofs(&mut self) {
        let wrong = "possession_invalid";
        self.sealed(
            "a proof by another key",
            wrong,
            Parts {
                proven_by: 3,
                ..self.agent()
            },
        );
        self.sealed(
            "a proof for another purpose",
            wrong,
            Parts {
                purpose: Purpose::SUCCESSOR,
                ..self.agent()
            },
        );
        for (name, change) in [
            (
                "another nonce",
                (|p| p.nonce[0] ^= 1) as fn(&mut Possession),
            ),
            ("another document", |p| p.document = [1; 32]),
            ("another tag", |p| p.tag.push('x')),
        ] {
            let mut parts = self.agent();
            change(&mut parts.possession);
            self.sealed(&format!("a proof over {name}"), wrong, parts);
        }
        let good = self.files["evidence/good.cbor"].clone();
        for (name, bytes) in [
            ("empty", Vec::new()),
            ("a byte too many", [&good[..], &[0]].concat()),
            ("a byte too few", good[..good.len() - 1].to_vec()),
            ("another tag", [&good[..3], b"X", &good[4..]].concat()),
        ] {
            let file = file_name("evidence", name, "cbor");
            self.file(&file, bytes);
            self.case(
                name,
                json!({"evidence": file}),
                json!({}),
                "evidence_malformed",
            );
        }
    }

    /// Documents that are wrong, in evidence that is good.
    fn wrong_documents(&mut self) {
        let mut future = self.agent();
        future.fields.timestamp_ms = (NOW + 6) * 1000;
        self.sealed("a document of the future", "document_from_future", future);
        let mut debug = self.agent();
        debug.fields.pcrs[0].1 = Digest([0; 48]);
        self.sealed("a document of debug mode", "debug_mode", debug);
        let good = Evidence::parse(&self.files["evidence/good.cbor"]).expect("good evidence");
        let mut document = good.document().to_vec();
        if let Some(last) = document.last_mut() {
            *last ^= 1;
        }
        let (bundle, possession) = (good.bundle().to_vec(), good.possession().to_vec());
        let wrong = Evidence::new(
            document,
            good.key().clone(),
            bundle,
            good.record().to_vec(),
            None,
            possession,
        )
        .to_vec();
        let file = file_name("evidence", "a document that was changed", "cbor");
        self.file(&file, wrong);
        self.case(
            "a document that was changed",
            json!({"evidence": file}),
            json!({}),
            "document_signature_invalid",
        );
    }

    /// The good file, and verifiers who expect something else.
    fn expectations(&mut self) {
        let good = json!({"evidence": "evidence/good.cbor"});
        let verifier = self.files["verifier.toml"].clone();
        let policy = |extra: &str| {
            let text = String::from_utf8_lossy(&verifier).replacen(
                "version = 1\n",
                &format!("version = 1\n{extra}"),
                1,
            );
            json!({"appraisal_policy": text, "measurements": [], "policies": []})
        };
        let without = |part: &str| {
            let text = String::from_utf8_lossy(&verifier).into_owned();
            let begin = text.find(part).unwrap_or(text.len());
            let end = text[begin..]
                .find("\n[[")
                .map_or(text.len(), |end| begin + end + 1);
            json!({"appraisal_policy": format!("{}{}", &text[..begin], &text[end..]), "measurements": [], "policies": []})
        };
        let zero = "00".repeat(48);
        let did = Did::key(&KnownKey::new(1).1);
        for (name, changed, expected) in [
            ("without a nonce", json!({"nonce": null}), "unchecked"),
            (
                "without measurements",
                json!({"measurements": []}),
                "unchecked",
            ),
            ("without policies", json!({"policies": []}), "unchecked"),
            (
                "only looking",
                json!({"nonce": null, "measurements": [], "policies": [], "inspect": true}),
                "accepted",
            ),
            (
                "another nonce",
                json!({"nonce": HEXLOWER.encode(&[0; 32])}),
                "nonce_mismatch",
            ),
            (
                "another image",
                json!({"measurements": ["measurements-other.json"]}),
                "measurement_mismatch",
            ),
            (
                "one of two images",
                json!({"measurements": ["measurements-other.json", "measurements.json"]}),
                "accepted",
            ),
            (
                "another policy",
                json!({"policies": ["policy-other.toml"]}),
                "policy_mismatch",
            ),
            (
                "one of two policies",
                json!({"policies": ["policy-other.toml", "policy.toml"]}),
                "accepted",
            ),
            ("its DID", json!({"did": did.as_str()}), "accepted"),
            (
                "another expected DID",
                json!({"did": WEB}),
                "identity_mismatch",
            ),
            ("its name", json!({"identity": "agent"}), "accepted"),
            (
                "another expected name",
                json!({"identity": "web"}),
                "identity_mismatch",
            ),
            (
                "at its greatest age",
                json!({"max_age_seconds": 60, "at": NOW + 60}),
                "accepted",
            ),
            (
                "older than its greatest age",
                json!({"max_age_seconds": 60, "at": NOW + 61}),
                "too_old",
            ),
            (
                "when the leaf has expired",
                json!({"at": NOW + 10_804}),
                "certificate_expired",
            ),
            (
                "without the mock's root",
                json!({"mock_root": null}),
                "root_untrusted",
            ),
            (
                "debug allowed, and a mock",
                json!({"allow_debug": true}),
                "accepted",
            ),
            (
                "a pinned document of another DID",
                json!({"did_document": "did.json"}),
                "did_document_lacks_key",
            ),
            ("a verifier's policy", policy(""), "accepted"),
            (
                "a policy's greatest age",
                policy("nonce = \"required\"\n").with("at", NOW + 600),
                "accepted",
            ),
            (
                "older than a policy's greatest age",
                policy("").with("at", NOW + 601),
                "too_old",
            ),
            (
                "the lower of two ages",
                policy("").with("at", NOW + 100).with("max_age_seconds", 99),
                "too_old",
            ),
            (
                "a policy that needs a nonce",
                policy("").with("nonce", Value::Null),
                "unchecked",
            ),
            (
                "a policy that needs no nonce",
                policy("nonce = \"optional\"\n").with("nonce", Value::Null),
                "accepted",
            ),
            (
                "a policy with no images",
                without("[[images]]"),
                "unchecked",
            ),
            (
                "a policy with no bundles",
                without("[[bundles]]"),
                "unchecked",
            ),
            (
                "images of the policy, and others given",
                policy("").with("measurements", json!(["measurements-other.json"])),
                "measurement_mismatch",
            ),
            (
                "bundles of the policy, and others given",
                policy("").with("policies", json!(["policy-other.toml"])),
                "policy_mismatch",
            ),
            (
                "a policy's DIDs",
                policy(&format!("dids = [\"{did}\"]\n")),
                "accepted",
            ),
            (
                "a policy's other DIDs",
                policy(&format!("dids = [\"{WEB}\"]\n")),
                "did_not_accepted",
            ),
            ("an epoch", policy("lowest_epoch = 0\n"), "epoch_absent"),
            (
                "another audience than the policy's, for evidence alone",
                policy("").with("audience", "https://other.example"),
                "audience_mismatch",
            ),
        ] {
            self.case(name, good.clone(), changed, expected);
        }
        let with = |extra: &str| {
            let text = String::from_utf8_lossy(&verifier).into_owned() + extra;
            json!({"appraisal_policy": text, "measurements": [], "policies": []})
        };
        let denied = "[[deny.images]]\nreason = \"old\"\nregisters = { PCR2 = \"PCR\" }\n";
        let pcr2 = "03".repeat(48);
        self.case(
            "a denied image",
            good.clone(),
            with(&denied.replace("PCR\"", &format!("{pcr2}\""))),
            "measurement_denied",
        );
        self.case(
            "another denied image",
            good.clone(),
            with(&denied.replace("PCR\"", &format!("{zero}\""))),
            "accepted",
        );
        let image = "[[images]]\nlabel = \"signed\"\nregisters = { PCR0 = \"A\", PCR1 = \"B\", PCR2 = \"C\", PCR8 = \"D\" }\n";
        let image = ["01", "02", "03", "08"]
            .iter()
            .zip(["A", "B", "C", "D"])
            .fold(image.to_owned(), |text, (byte, letter)| {
                text.replace(
                    &format!("\"{letter}\""),
                    &format!("\"{}\"", byte.repeat(48)),
                )
            });
        let signed_only = without("[[images]]")["appraisal_policy"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
            + &image;
        let changed = json!({"appraisal_policy": signed_only, "measurements": [], "policies": []});
        self.case(
            "an image that must be signed",
            good.clone(),
            changed,
            "measurement_mismatch",
        );

        self.denied_certificates(&good);
        self.documents();

        self.sealed("web", "unchecked", self.web());
        let web = json!({"evidence": "evidence/web.cbor"});
        self.case(
            "a domain whose document is pinned",
            web.clone(),
            json!({"did_document": "did.json"}),
            "accepted",
        );
        let other = json!({"did_document": "did-other.json"});
        self.case(
            "a domain whose document lists another key",
            web,
            other,
            "did_document_lacks_key",
        );
        let mut silent = self.agent();
        silent.fields.nonce = None;
        self.sealed("no nonce in the document", "nonce_absent", silent);
    }

    fn denied_certificates(&mut self, good: &Value) {
        let evidence = Evidence::parse(&self.files["evidence/good.cbor"]).expect("good evidence");
        let root = MockRoot::from_pem(self.root_pem.as_bytes()).expect("a root");
        let at = UnixSeconds(i64::try_from(NOW).unwrap_or_default());
        let document =
            attestation::verify_mock(evidence.document(), &root, at).expect("a good document");
        let chain = document.certificates().to_vec();
        let verifier = String::from_utf8_lossy(&self.files["verifier.toml"]).into_owned();
        let deny = |issuer: &str, serial: &str| {
            let more = format!(
                "[[deny.certificates]]\nissuer = \"{issuer}\"\nserial = \"{serial}\"\nreason = \"old\"\n"
            );
            json!({"appraisal_policy": format!("{verifier}{more}"), "measurements": [], "policies": []})
        };
        for (index, certificate) in chain.iter().enumerate() {
            let denied = deny(&certificate.issuer, &certificate.serial);
            self.case(
                &format!("denied certificate {index}"),
                good.clone(),
                denied,
                "certificate_denied",
            );
        }
        self.case(
            "a denied certificate of another serial",
            good.clone(),
            deny(&chain[4].issuer, "01"),
            "accepted",
        );
        self.case(
            "a denied certificate of another issuer",
            good.clone(),
            deny("CN=x", &chain[4].serial),
            "accepted",
        );
    }

    /// The good file's document alone.
    fn documents(&mut self) {
        let alone = json!({"evidence": "evidence/good.cbor", "document_alone": true});
        let verifier = String::from_utf8_lossy(&self.files["verifier.toml"]).into_owned();
        let policy = |extra: &str| {
            let text = verifier.replacen("version = 1\n", &format!("version = 1\n{extra}"), 1);
            json!({"appraisal_policy": text, "measurements": [], "policies": []})
        };
        let dids = policy(&format!("dids = [\"{WEB}\"]\n"));
        for (name, changed, expected) in [
            ("document", json!({}), "accepted"),
            (
                "document without measurements",
                json!({"measurements": []}),
                "unchecked",
            ),
            ("document under a policy", policy(""), "accepted"),
            (
                "document under a policy that names identities",
                dids.clone(),
                "unchecked",
            ),
            (
                "document under a policy that names identities, only looking",
                dids.with("inspect", true),
                "accepted",
            ),
            (
                "document under a policy that asks for an epoch",
                policy("lowest_epoch = 0\n"),
                "epoch_absent",
            ),
            (
                "document of another time",
                json!({"at": NOW - 6}),
                "certificate_not_yet_valid",
            ),
        ] {
            self.case(name, alone.clone(), changed, expected);
        }
    }

    fn claims(&self, key: &KnownKey, did: &Did, name: &str) -> Claims {
        let parts = self.parts(if name == "web" { 2 } else { 1 }, name, did);
        let seconds = i64::try_from(NOW).unwrap_or_default();
        debug_assert_eq!(parts.key.spki, key.1.to_spki());
        Claims {
            iss: did.clone(),
            sub: did.to_string(),
            act: None,
            scope: None,
            aud: None,
            iat: seconds,
            nbf: seconds,
            exp: seconds + 300,
            jti: Uuid::from_bytes([0x44; 16]),
            binding: Binding::new(&parts.key, &self.bundle.digest(), &parts.record, None).digest(),
            tee: Tee::Mock,
            caller: Caller::Asserted(ObservedCaller::ids(1000, 1000)),
            vouch: Vouch {
                version: "1.0".into(),
                payload: Payload::parse(b"{\"amount\":100}").expect("an object"),
                intent: Intent::new("pay".into(), "bob".into(), "account".into())
                    .expect("an intent"),
                delegation_chain: Vec::new(),
            },
        }
    }

    fn tokens(&mut self) {
        let (key, foreign) = (KnownKey::new(1), KnownKey::new(3));
        let did = Did::key(&key.1);
        let kid = KeyId::of(&did, &key.1).expect("a key id");
        let good = self.claims(&key, &did, "agent");
        let sign =
            |claims: &Claims, key: &KnownKey| token::sign(claims, &kid, key).expect("a token");
        let audience = Claims {
            aud: Some(AUDIENCE.into()),
            ..good.clone()
        };
        let tokens = [
            ("good", sign(&good, &key), "accepted"),
            ("by another key", sign(&good, &foreign), "signature_invalid"),
            (
                "of another binding",
                sign(
                    &Claims {
                        binding: Digest([1; 32]),
                        ..good.clone()
                    },
                    &key,
                ),
                "token_binding_mismatch",
            ),
            (
                "of hardware",
                sign(
                    &Claims {
                        tee: Tee::AwsNitro,
                        ..good.clone()
                    },
                    &key,
                ),
                "tee_mismatch",
            ),
            (
                "of another issuer",
                sign(
                    &Claims {
                        iss: Did::key(&foreign.1),
                        ..good.clone()
                    },
                    &key,
                ),
                "issuer_mismatch",
            ),
            ("for somebody", sign(&audience, &key), "audience_mismatch"),
            (
                "of the future",
                sign(
                    &Claims {
                        nbf: good.nbf + 31,
                        ..good.clone()
                    },
                    &key,
                ),
                "not_yet_valid",
            ),
            (
                "almost of the future",
                sign(
                    &Claims {
                        nbf: good.nbf + 30,
                        ..good.clone()
                    },
                    &key,
                ),
                "accepted",
            ),
            ("not a token", "no.token.here".to_owned(), "base64"),
            ("one part", "token".to_owned(), "token_malformed"),
        ];
        for (name, text, expected) in tokens {
            let file = file_name("tokens", name, "jwt");
            self.file(&file, text);
            self.case(
                &format!("token {name}"),
                json!({"evidence": "evidence/good.cbor", "token": file}),
                json!({}),
                expected,
            );
        }
        let subject = |name: &str| json!({"evidence": "evidence/good.cbor", "token": file_name("tokens", name, "jwt")});
        let verifier = String::from_utf8_lossy(&self.files["verifier.toml"]).into_owned();
        let policy = |extra: &str| {
            let text = verifier.replacen("version = 1\n", &format!("version = 1\n{extra}"), 1);
            json!({"appraisal_policy": text, "measurements": [], "policies": []})
        };
        for (name, token, changed, expected) in [
            (
                "its audience",
                "for somebody",
                json!({"audience": AUDIENCE}),
                "accepted",
            ),
            (
                "another audience",
                "for somebody",
                json!({"audience": "https://other.example"}),
                "audience_mismatch",
            ),
            (
                "an audience, and a token for nobody",
                "good",
                json!({"audience": AUDIENCE}),
                "audience_mismatch",
            ),
            (
                "its last second",
                "good",
                json!({"at": NOW + 329}),
                "accepted",
            ),
            ("expired", "good", json!({"at": NOW + 330}), "expired"),
            (
                "the policy's audience",
                "for somebody",
                policy(""),
                "accepted",
            ),
            (
                "the policy's audience, and another",
                "for somebody",
                policy("").with("audience", "https://o.example"),
                "audience_mismatch",
            ),
            (
                "the policy's audience, and the same",
                "for somebody",
                policy("").with("audience", AUDIENCE),
                "accepted",
            ),
            (
                "a policy's issuers",
                "for somebody",
                policy(&format!("issuers = [\"{did}\"]\n")),
                "accepted",
            ),
            (
                "a policy's other issuers",
                "for somebody",
                policy(&format!("issuers = [\"{WEB}\"]\n")),
                "issuer_not_accepted",
            ),
            (
                "evidence that is wrong",
                "good",
                json!({"evidence": "evidence/a-proof-by-another-key.cbor"}),
                "possession_invalid",
            ),
            (
                "evidence of another",
                "good",
                json!({"evidence": "evidence/web.cbor", "did_document": "did.json"}),
                "token_binding_mismatch",
            ),
            (
                "only looking",
                "good",
                json!({"nonce": null, "measurements": [], "policies": [], "inspect": true}),
                "accepted",
            ),
        ] {
            self.case(&format!("token, {name}"), subject(token), changed, expected);
        }
    }

    fn credentials(&mut self) {
        let (key, foreign) = (KnownKey::new(1), KnownKey::new(3));
        let did = Did::key(&key.1);
        let kid = KeyId::of(&did, &key.1).expect("a key id");
        let claims = self.claims(&key, &did, "agent");
        let at = UnixSeconds(claims.iat);
        let good = Content {
            id: claims.jti,
            issuer: did,
            valid_from: at,
            valid_until: at.plus(300),
            intent: claims.vouch.intent,
            delegation_chain: Vec::new(),
            payload: claims.vouch.payload,
            audience: None,
            binding: claims.binding,
            tee: Tee::Mock,
            caller: Caller::Asserted(ObservedCaller::ids(1000, 1000)),
        };
        let sign = |content: &Content, key: &KnownKey| {
            credential::sign(content.clone(), &kid, key)
                .map(|signed| signed.to_string())
                .expect("a credential")
        };
        let changed = sign(&good, &key).replace("\"amount\":100", "\"amount\":101");
        for (name, text, expected) in [
            ("good", sign(&good, &key), "accepted"),
            ("by another key", sign(&good, &foreign), "signature_invalid"),
            ("with another payload", changed, "signature_invalid"),
            (
                "of another binding",
                sign(
                    &Content {
                        binding: Digest([1; 32]),
                        ..good.clone()
                    },
                    &key,
                ),
                "token_binding_mismatch",
            ),
            (
                "of hardware",
                sign(
                    &Content {
                        tee: Tee::AwsNitro,
                        ..good.clone()
                    },
                    &key,
                ),
                "tee_mismatch",
            ),
            (
                "for somebody",
                sign(
                    &Content {
                        audience: Some(AUDIENCE.into()),
                        ..good.clone()
                    },
                    &key,
                ),
                "audience_mismatch",
            ),
            (
                "of the future",
                sign(
                    &Content {
                        valid_from: at.plus(31),
                        ..good.clone()
                    },
                    &key,
                ),
                "not_yet_valid",
            ),
            (
                "of the past",
                sign(
                    &Content {
                        valid_until: at.plus(-30),
                        ..good.clone()
                    },
                    &key,
                ),
                "expired",
            ),
            ("not JSON", "credential".to_owned(), "json_malformed"),
            ("of another shape", "{}".to_owned(), "credential_malformed"),
        ] {
            let file = file_name("credentials", name, "json");
            self.file(&file, text);
            let subject = json!({"evidence": "evidence/good.cbor", "credential": file});
            self.case(&format!("credential {name}"), subject, json!({}), expected);
        }
    }
}

fn file_name(folder: &str, name: &str, extension: &str) -> String {
    format!("{folder}/{}.{extension}", name.replace(' ', "-"))
}

/// A change to a case's JSON.
trait With {
    fn with(self, key: &str, value: impl Into<Value>) -> Self;
}

impl With for Value {
    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self[key] = value.into();
        self
    }
}

/// A policy whose signatures live for so many seconds.
fn policy(seconds: &str) -> String {
    let (proxy, operator) = (
        KnownKey::new(0x10).1.to_multikey(),
        KnownKey::new(0x11).1.to_multikey(),
    );
    let identity = |name: &str, did: &str| {
        format!(
            "[[identities]]\nname = \"{name}\"\nenvironment = \"test\"\ndid = \"{did}\"\nalgorithm = \"EdDSA\"\nmax_validity_seconds = {seconds}\n\
             callers = {{ uids = [1000] }}\n\
             [[identities.rules]]\nname = \"all\"\nactions = [\"*\"]\ntargets = [\"*\"]\nresources = [\"*\"]\n"
        )
    };
    format!(
        "version = 1\nmode = \"development\"\nproxy_key = \"{proxy}\"\noperator_key = \"{operator}\"\n{}{}",
        identity("agent", "did:key"),
        identity("web", WEB)
    )
}
