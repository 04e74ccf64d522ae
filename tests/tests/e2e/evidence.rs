//! Evidence that is wrong in one thing, made by a mock NSM and a key that obey: what an honest
//! enclave never makes.

use attestation::{
    Binding, Error, Evidence, Expectations, KeyDescription, Measurements, MockRoot, POSSESSION_TAG,
    Possession, verify_mock,
};
use enclave::Nsm;
use harness::window::{TestKey, bundle};
use identity::cose::{self, Purpose};
use identity::token::{Claims, Vouch};
use identity::{Did, Digest, Intent, KeyId, Payload, Signer, Tee, UnixSeconds, cbor, did, token};
use policy::Bundle;
use qemu_dev::authority::Authority;
use qemu_dev::nsm::{Encoding, MockNsm, os_random};

const NOW: u64 = 1_893_456_000;
const NONCE: &[u8] = b"a challenge of some length";

/// Everything that goes into evidence; a test changes one thing.
struct Parts {
    nsm: MockNsm,
    key: TestKey,
    signs_possession: TestKey,
    description: KeyDescription,
    /// What the document is bound to, if it is another description, and whose record.
    bound: Option<KeyDescription>,
    bound_record: Vec<u8>,
    bundle: Bundle,
    committed: Option<Bundle>,
    public_key: Option<Vec<u8>>,
    possession: Possession,
}

fn at() -> UnixSeconds {
    UnixSeconds(NOW.cast_signed())
}

fn parts() -> Parts {
    let measured = [Digest([1; 48]), Digest([2; 48]), Digest([3; 48])];
    let authority = Authority::new(NOW, &mut os_random);
    let nsm = MockNsm::new(
        authority,
        &measured,
        Box::new(|| NOW * 1000),
        Encoding::Indefinite,
    )
    .unwrap();
    let key = TestKey::new(7);
    let bundle = bundle("production");
    Parts {
        nsm,
        description: describe("agent", &Did::key(key.public_key()), &key),
        bound: None,
        bound_record: record_spki(),
        signs_possession: TestKey::new(7),
        committed: Some(bundle.clone()),
        public_key: Some(key.public_key().to_spki()),
        possession: Possession {
            tag: POSSESSION_TAG.into(),
            nonce: NONCE.to_vec(),
            document: [0; 32],
        },
        bundle,
        key,
    }
}

fn describe(name: &str, did: &Did, key: &TestKey) -> KeyDescription {
    KeyDescription {
        name: name.into(),
        did: did.to_string(),
        kid: KeyId::of(did, key.public_key()).unwrap().into(),
        version: 1,
        spki: key.public_key().to_spki(),
    }
}

fn record_spki() -> Vec<u8> {
    let key = ed25519_dalek::SigningKey::from_bytes(&[77; 32]);
    identity::PublicKey::Ed25519(key.verifying_key()).to_spki()
}

impl Parts {
    fn root(&self) -> MockRoot {
        self.nsm.root().clone()
    }

    /// Makes the evidence and verifies it, with nothing expected but the nonce.
    fn verify(mut self) -> Result<attestation::AttestedKey<attestation::Mock>, Error> {
        let root = self.root();
        if let Some(committed) = &self.committed {
            self.nsm
                .extend_pcr(16, committed.digest().digest().as_bytes())
                .unwrap();
            self.nsm.lock_pcrs(32).unwrap();
        }
        let binding = Binding::new(
            self.bound.as_ref().unwrap_or(&self.description),
            &self.bundle.digest(),
            &self.bound_record,
            None,
        );
        let document = self
            .nsm
            .attest(
                self.public_key.as_deref(),
                Some(binding.user_data()),
                Some(NONCE),
            )
            .unwrap();
        let verified = verify_mock(&document, &root, at()).unwrap();
        if self.possession.document == [0; 32] {
            self.possession.document = attestation::Attested::document(&verified)
                .payload_digest()
                .0;
        }
        let possession = cose::sign(
            Purpose::POSSESSION,
            &cbor::to_vec(&self.possession),
            &self.signs_possession,
        )
        .unwrap();
        let evidence = Evidence::new(
            document,
            self.description,
            self.bundle.canonical(),
            record_spki(),
            None,
            possession,
        )
        .to_vec();
        Evidence::parse(&evidence)?.verify(
            &verified,
            &Expectations {
                nonce: Some(NONCE.to_vec()),
                ..Expectations::default()
            },
            at(),
        )
    }

    fn refused(self) -> &'static str {
        self.verify().unwrap_err().code()
    }
}

#[test]
fn each_link_from_key_to_policy_is_checked_by_itself() {
    assert!(parts().verify().is_ok());
    assert_eq!(
        Parts {
            committed: None,
            ..parts()
        }
        .refused(),
        "policy_not_committed"
    );
    assert_eq!(
        Parts {
            committed: Some(bundle("development")),
            ..parts()
        }
        .refused(),
        "policy_mismatch"
    );
    assert_eq!(
        Parts {
            public_key: None,
            ..parts()
        }
        .refused(),
        "binding_mismatch"
    );
    assert_eq!(
        Parts {
            public_key: Some(TestKey::new(8).public_key().to_spki()),
            ..parts()
        }
        .refused(),
        "binding_mismatch"
    );
    assert_eq!(
        Parts {
            signs_possession: TestKey::new(8),
            ..parts()
        }
        .refused(),
        "possession_invalid"
    );
    // Nor is the document of another version, of another name, or of another record.
    let bound = |change: &dyn Fn(&mut KeyDescription)| {
        let mut parts = parts();
        let mut other = describe("agent", &Did::key(parts.key.public_key()), &parts.key);
        change(&mut other);
        parts.bound = Some(other);
        parts.verify().map(|_| ()).map_err(|error| error.code())
    };
    assert_eq!(bound(&|_| ()), Ok(()));
    assert_eq!(bound(&|d| d.version = 2), Err("binding_mismatch"));
    assert_eq!(bound(&|d| d.name = "web".into()), Err("binding_mismatch"));
    assert_eq!(
        Parts {
            bound_record: TestKey::new(8).public_key().to_spki(),
            ..parts()
        }
        .refused(),
        "binding_mismatch"
    );
    let possession = |change: &dyn Fn(&mut Possession)| {
        let mut parts = parts();
        change(&mut parts.possession);
        parts.refused()
    };
    assert_eq!(
        possession(&|p| p.nonce = b"another challenge of length".to_vec()),
        "possession_invalid"
    );
    assert_eq!(possession(&|p| p.document = [9; 32]), "possession_invalid");
    assert_eq!(
        possession(&|p| p.tag = "anchorhold/possession/v2".into()),
        "possession_invalid"
    );
    let description = |change: &dyn Fn(&mut KeyDescription)| {
        let mut parts = parts();
        change(&mut parts.description);
        parts.refused()
    };
    assert_eq!(
        description(&|d| d.name = "stranger".into()),
        "identity_not_in_policy"
    );
    assert_eq!(
        description(&|d| d.name = "p256".into()),
        "identity_not_in_policy",
        "another algorithm than the policy says"
    );
    assert_eq!(
        description(&|d| d.kid = "did:key:z#z".into()),
        "key_id_mismatch"
    );
    assert_eq!(description(&|d| d.did = "did:ion:x".into()), "did_invalid");
    assert_eq!(description(&|d| d.spki = vec![0; 44]), "key_invalid");
    let mut foreign_web = parts();
    let other = Did::parse("did:web:other.example.com").unwrap();
    foreign_web.description = describe("web", &other, &foreign_web.key);
    assert_eq!(
        foreign_web.refused(),
        "identity_not_in_policy",
        "another domain than the policy says"
    );
}

#[test]
fn evidence_never_proves_a_domain() {
    let mut web = parts();
    let domain = Did::parse("did:web:agent.example.com").unwrap();
    web.description = describe("web", &domain, &web.key);
    let key = web.key.public_key().clone();
    let mut attested = web.verify().unwrap();
    let listed = did::Document::new(domain.clone(), std::slice::from_ref(&key)).unwrap();
    let lacking =
        did::Document::new(domain, std::slice::from_ref(TestKey::new(8).public_key())).unwrap();
    let foreign = did::Document::new(
        Did::parse("did:web:other.example.com").unwrap(),
        std::slice::from_ref(&key),
    )
    .unwrap();
    assert_eq!(
        attested.require_did_document(&lacking),
        Err(Error::DidDocumentLacksKey(attested.kid().to_string()))
    );
    assert_eq!(
        attested.require_did_document(&foreign),
        Err(Error::DidDocumentLacksKey(attested.kid().to_string()))
    );
    assert!(
        attested
            .unchecked()
            .contains(&attestation::Unchecked::DidDocument)
    );
    attested.require_did_document(&listed).unwrap();
    assert!(
        !attested
            .unchecked()
            .contains(&attestation::Unchecked::DidDocument)
    );
}

#[test]
fn a_token_names_the_binding_and_the_kind_of_tee_that_the_evidence_proves() {
    let attested = parts().verify().unwrap();
    let key = TestKey::new(7);
    let token = |change: &dyn Fn(&mut Claims)| {
        let mut claims = Claims {
            iss: attested.did().clone(),
            sub: attested.did().to_string(),
            act: None,
            scope: None,
            aud: None,
            iat: at().0,
            nbf: at().0,
            exp: at().0 + 300,
            jti: "6f1c5b3e-0b6b-4f7e-9c55-1d0c86d3b1aa".parse().unwrap(),
            binding: attested.binding(),
            tee: Tee::Mock,
            caller: identity::Caller::Asserted(identity::caller::ObservedCaller::ids(1000, 1000)),
            vouch: Vouch {
                version: "1.0".into(),
                payload: Payload::default(),
                intent: Intent::new("a".into(), String::new(), String::new()).unwrap(),
                delegation_chain: Vec::new(),
            },
        };
        change(&mut claims);
        let token = token::sign(&claims, attested.kid(), &key).unwrap();
        attested
            .verify_token(&token, at(), None)
            .map(|_| ())
            .map_err(|error| error.code())
    };
    assert_eq!(token(&|_| ()), Ok(()));
    assert_eq!(
        token(&|claims| claims.tee = Tee::AwsNitro),
        Err("tee_mismatch")
    );
    assert_eq!(
        token(&|claims| claims.binding = Digest([0; 32])),
        Err("token_binding_mismatch")
    );
    assert_eq!(token(&|claims| claims.exp = at().0 - 31), Err("expired"));
}

#[test]
fn images_and_policies_are_accepted_from_a_list_and_never_in_part() {
    let mut nsm = parts().nsm;
    let root = nsm.root().clone();
    let bundle = bundle("production");
    nsm.extend_pcr(16, bundle.digest().digest().as_bytes())
        .unwrap();
    nsm.lock_pcrs(32).unwrap();
    let document = nsm.attest(None, None, None).unwrap();
    let document = verify_mock(&document, &root, at()).unwrap();
    let image = |pcrs: [u8; 3], pcr8: Option<u8>| Measurements {
        hash_algorithm: "Sha384".into(),
        pcr0: Digest([pcrs[0]; 48]),
        pcr1: Digest([pcrs[1]; 48]),
        pcr2: Digest([pcrs[2]; 48]),
        pcr8: pcr8.map(|byte| Digest([byte; 48])),
    };
    let check = |images: &[Measurements]| {
        let expectations = Expectations {
            measurements: images.to_vec(),
            ..Expectations::default()
        };
        expectations
            .check_document(&document, at())
            .map(|_| ())
            .map_err(|error| error.code())
    };
    assert_eq!(check(&[image([1, 2, 3], None)]), Ok(()));
    assert_eq!(
        check(&[image([9, 9, 9], None), image([1, 2, 3], Some(0))]),
        Ok(())
    );
    for wrong in [
        image([9, 2, 3], None),
        image([1, 9, 3], None),
        image([1, 2, 9], None),
        image([1, 2, 3], Some(1)),
    ] {
        assert_eq!(check(&[wrong]), Err("measurement_mismatch"));
    }
    let expectations = Expectations {
        nonce: Some(Vec::new()),
        ..Expectations::default()
    };
    let refused = expectations.check_document(&document, at()).unwrap_err();
    assert_eq!(
        refused.code(),
        "nonce_absent",
        "a document without a nonce answers no challenge, not even an empty one"
    );
}

#[test]
fn an_evidence_file_has_one_encoding() {
    let good = parts();
    let root_free = Evidence::new(
        vec![1, 2, 3],
        good.description,
        good.bundle.canonical(),
        record_spki(),
        None,
        vec![4],
    )
    .to_vec();
    assert!(Evidence::parse(&root_free).is_ok());
    for length in 0..root_free.len() {
        assert_eq!(
            Evidence::parse(&root_free[..length]).unwrap_err().code(),
            "evidence_malformed"
        );
    }
    assert!(Evidence::parse(&[&root_free[..], &[0]].concat()).is_err());
    assert!(Evidence::parse(&vec![0; 65 * 1024]).is_err());
    let mut other_tag = root_free;
    let at = other_tag
        .windows(3)
        .position(|window| window == b"/v1")
        .unwrap();
    other_tag[at + 2] = b'2';
    assert_eq!(
        Evidence::parse(&other_tag).unwrap_err().code(),
        "evidence_malformed"
    );
}
