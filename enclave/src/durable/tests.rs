//! A state against a KMS and an egress process that lie, and a parent that brings what it likes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, EncryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use egress::{Failure, FailureKind, KmsAnswer, KmsCall, KmsOperation};
use identity::{Digest, Signer, UnixSeconds, cose};
use policy::Bundle;
use serde_json::Value;
use state::Pair;

use super::contents::{Contents, SealedEpoch, Secret};
use super::*;
use crate::budgets::SealedBudget;

const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const BOOT: [u8; 16] = [3; 16];
const NOW: i64 = 1_800_000_000;

/// A KMS that wraps by adding a byte, and tells what it is told to tell.
#[derive(Default)]
struct Kms {
    /// Of the last document: the recipient's key.
    recipient: Mutex<Vec<u8>>,
    /// What is answered instead.
    lie: Mutex<Option<Lie>>,
    asked: Mutex<Vec<KmsOperation>>,
}

#[derive(Clone, Copy)]
enum Lie {
    /// A data key of the liar's choosing, for this recipient.
    Key([u8; 32]),
    Plaintext,
    Gone,
}

impl super::Kms for Kms {
    fn ask(&self, call: &KmsCall) -> Result<KmsAnswer, Failure> {
        self.asked.lock().unwrap().push(call.operation);
        let body: Value = serde_json::from_slice(&call.body).unwrap();
        let lie = *self.lie.lock().unwrap();
        let failed = |kind| Failure {
            kind,
            message: "x".into(),
        };
        let mut key = [0x77; 32];
        match lie {
            Some(Lie::Key(other)) => key = other,
            Some(Lie::Plaintext) => return Err(failed(FailureKind::Plaintext)),
            Some(Lie::Gone) => return Err(failed(FailureKind::Broken)),
            None => {}
        }
        // The context must be the one of the birth: KMS would refuse another.
        let state = body["EncryptionContext"]["state"]
            .as_str()
            .unwrap()
            .to_owned();
        let wrapped = match call.operation {
            KmsOperation::GenerateDataKey => Some(state.into_bytes()),
            KmsOperation::Decrypt => {
                let blob = body["CiphertextBlob"].as_str().unwrap();
                let blob = data_encoding::BASE64.decode(blob.as_bytes()).unwrap();
                if blob != state.as_bytes() {
                    return Err(failed(FailureKind::Refused));
                }
                None
            }
        };
        Ok(KmsAnswer {
            key_id: body["KeyId"].as_str().unwrap().to_owned(),
            ciphertext_blob: wrapped,
            envelope: envelope(&self.recipient.lock().unwrap(), &key),
        })
    }
}

fn envelope(spki: &[u8], secret: &[u8]) -> Envelope {
    let key = PublicEncryptingKey::from_der(spki).unwrap();
    let key = OaepPublicEncryptingKey::new(key).unwrap();
    let mut encrypted_key = vec![0; key.ciphertext_size()];
    key.encrypt(&OAEP_SHA256_MGF1SHA256, &[5; 32], &mut encrypted_key, None)
        .unwrap();
    let cbc = UnboundCipherKey::new(&AES_256, &[5; 32]).unwrap();
    let cbc = PaddedBlockEncryptingKey::cbc_pkcs7(cbc).unwrap();
    let mut ciphertext = secret.to_vec();
    let iv = EncryptionContext::Iv128(FixedLength::from([6; 16]));
    cbc.less_safe_encrypt(&mut ciphertext, iv).unwrap();
    Envelope {
        encrypted_key,
        iv: vec![6; 16],
        ciphertext,
    }
}

/// One boot of an enclave around a state.
struct Boot {
    durable: Durable,
    kms: Kms,
    keys: AtomicU8,
    committed: Committed,
}

impl Platform for Boot {
    fn boot_id(&self) -> BootId {
        BootId::new(BOOT)
    }

    fn now(&self) -> Result<Bounds, Error> {
        Ok(Bounds {
            earliest: UnixSeconds(NOW),
            latest: UnixSeconds(NOW),
        })
    }

    fn fill(&self, out: &mut [u8]) -> Result<(), Error> {
        out.fill(self.keys.fetch_add(1, Ordering::SeqCst));
        Ok(())
    }

    fn new_secret(&self, _: &str) -> Result<Zeroizing<[u8; 32]>, Error> {
        let byte = self.keys.fetch_add(1, Ordering::SeqCst);
        Ok(Zeroizing::new([byte; 32]))
    }

    fn new_key(&self, algorithm: Algorithm, name: &str, _: u32) -> Result<KeyPair, Error> {
        let byte = self.keys.fetch_add(1, Ordering::SeqCst);
        Ok(KeyPair::generate(
            algorithm,
            &[byte; 32],
            &[1; 32],
            name.as_bytes(),
        ))
    }

    fn document(
        &self,
        public_key: Option<&[u8]>,
        user_data: Option<&[u8]>,
        _: Option<&[u8]>,
    ) -> Result<Vec<u8>, Error> {
        if let Some(key) = public_key {
            *self.kms.recipient.lock().unwrap() = key.to_vec();
        }
        Ok([b"document", user_data.unwrap_or_default()].concat())
    }

    fn attested(&self, document: &[u8]) -> Result<Attested, state::Error> {
        let wrong = || state::Error::GenesisDocumentInvalid("not of the mock".into());
        let user_data = document.strip_prefix(b"document").ok_or_else(wrong)?;
        let pair = self.committed.pair;
        Ok(Attested {
            image: [pair.pcr0, pair.pcr1, pair.pcr2],
            pcr16: self.committed.policy.pcr16(),
            user_data: Some(user_data.to_vec()),
        })
    }

    fn kms(&self) -> &dyn super::Kms {
        &self.kms
    }
}

fn operator() -> KeyPair {
    KeyPair::generate(Algorithm::EdDSA, &[90; 32], &[0; 32], b"operator")
}

fn bundle() -> Bundle {
    let key = |byte: u8| {
        let key = KeyPair::generate(Algorithm::EdDSA, &[byte; 32], &[0; 32], b"x");
        key.public_key().to_multikey()
    };
    let operator = operator().public_key().to_multikey();
    Bundle::from_toml(&format!(
        "version = 1\nmode = 'production'\nproxy_key = '{}'\noperator_key = '{operator}'\n\
         state = {{ name = 's', custody = 'kms', kms_key = '{ARN}', rollback = 'accepted' }}\n\
         [[identities]]\nname = 'b'\nenvironment = 'test'\ndid = 'did:key'\nalgorithm = 'ES256'\nmax_validity_seconds = 60\n\
         callers = {{ uids = [1] }}\nrules = [{{ name = 'r', actions = ['*'], targets = ['*'], resources = ['*'] }}]\n\
         [[identities]]\nname = 'a'\nenvironment = 'test'\ndid = 'did:key'\nalgorithm = 'EdDSA'\nmax_validity_seconds = 60\n\
         callers = {{ uids = [1] }}\nrules = [{{ name = 'r', actions = ['*'], targets = ['*'], resources = ['*'] }}]\n",
        key(91)
    ))
    .unwrap()
}

impl Boot {
    fn new() -> Self {
        let bundle = bundle();
        let policy = bundle.digest();
        let pcr = |byte| Digest([byte; 48]);
        Self {
            durable: Durable::default(),
            kms: Kms::default(),
            keys: AtomicU8::new(1),
            committed: Committed {
                canonical: bundle.canonical(),
                pair: Pair {
                    pcr0: pcr(1),
                    pcr1: pcr(2),
                    pcr2: pcr(3),
                    policy: policy.digest(),
                },
                policy,
                bundle,
                rego: Mutex::new(None),
                before: None,
            },
        }
    }

    fn order(&self) -> Vec<u8> {
        let order = Order::new(
            "s",
            BootId::new(BOOT),
            self.committed.pair,
            UnixSeconds(NOW),
        );
        order.sign(&operator()).unwrap()
    }

    fn birth(&self) -> Result<SignKms, Error> {
        self.durable.birth(&self.committed, self, self.order())
    }

    fn ask(&self, question: &SignKms) -> Result<Option<Box<Life>>, Error> {
        let signed = KmsSigned {
            number: question.number,
            authorization: "AWS4-HMAC-SHA256 x".into(),
            security_token: None,
        };
        self.durable.ask_kms(&self.committed, self, signed)
    }

    fn put(&self, part: Part, bytes: &[u8]) {
        for (offset, piece) in (0..)
            .step_by(protocol::PIECE)
            .zip(bytes.chunks(protocol::PIECE))
        {
            let piece = Piece {
                part,
                offset,
                bytes: piece.to_vec(),
                total: u32::try_from(bytes.len()).unwrap(),
            };
            self.durable.put(&piece).unwrap();
        }
    }

    fn get(&self, part: Part) -> Vec<u8> {
        self.durable
            .get(part, 0)
            .map(|piece| piece.bytes)
            .unwrap_or_default()
    }

    /// Born and stored: what the parent keeps of it.
    fn kept(&self) -> Kept {
        let question = self.birth().unwrap();
        assert!(self.ask(&question).unwrap().is_none());
        let kept = Kept {
            sealed: self.get(Part::Sealed),
            genesis: self.get(Part::Genesis),
            authority: self.get(Part::Authority),
            document: self.get(Part::Document),
        };
        self.show(&kept);
        assert!(matches!(self.durable.stored(), Ok(Then::Live(_))));
        kept
    }

    fn show(&self, kept: &Kept) {
        self.put(Part::Sealed, &kept.sealed);
        self.put(Part::Genesis, &kept.genesis);
        self.put(Part::Authority, &kept.authority);
        self.put(Part::Document, &kept.document);
    }

    fn open(&self, kept: &Kept) -> Result<Option<Box<Life>>, Error> {
        self.show(kept);
        let question = self.durable.open(&self.committed, self)?;
        self.ask(&question)
    }
}

#[derive(Clone)]
struct Kept {
    sealed: Vec<u8>,
    genesis: Vec<u8>,
    authority: Vec<u8>,
    document: Vec<u8>,
}

fn keys(life: &Life) -> Vec<(String, Vec<u8>)> {
    let card = |identity: &crate::identities::Identity| {
        let card = identity.card().unwrap();
        (card.name.clone(), card.description.spki.clone())
    };
    let mut keys: Vec<_> = life.identities.iter().map(card).collect();
    keys.sort();
    keys
}

#[test]
fn what_was_born_and_stored_opens_in_another_boot_with_the_same_keys() {
    let first = Boot::new();
    let question = first.birth().unwrap();
    assert_eq!(question.host, "kms.eu-central-1.amazonaws.com");
    assert!(first.ask(&question).unwrap().is_none());
    // Sealed, and of no use yet.
    assert_eq!(first.durable.status().phase, Phase::Sealed);
    let kept = Kept {
        sealed: first.get(Part::Sealed),
        genesis: first.get(Part::Genesis),
        authority: first.get(Part::Authority),
        document: first.get(Part::Document),
    };
    // What was read back must be what was sealed: each part, to the last byte.
    let damaged = |change: fn(&mut Kept)| {
        let mut bad = kept.clone();
        change(&mut bad);
        first.show(&bad);
        first.durable.stored().err()
    };
    assert_eq!(
        damaged(|kept| kept.sealed[700] ^= 1),
        Some(Error::SealNotStored)
    );
    assert_eq!(
        damaged(|kept| kept.genesis[100] ^= 1),
        Some(Error::SealNotStored)
    );
    assert_eq!(
        damaged(|kept| kept.authority[60] ^= 1),
        Some(Error::SealNotStored)
    );
    assert_eq!(
        damaged(|kept| kept.document[9] ^= 1),
        Some(Error::SealNotStored)
    );
    first.show(&kept);
    let Ok(Then::Live(life)) = first.durable.stored() else {
        panic!("stored");
    };
    assert!(matches!(first.durable.stored(), Err(Error::SealNotPending)));
    let second = Boot::new();
    let again = second.open(&kept).unwrap().unwrap();
    assert_eq!(keys(&life), keys(&again));
    // Each boot has a record of its own.
    assert_ne!(
        life.record_key.public_key().to_spki(),
        again.record_key.public_key().to_spki()
    );
    assert_eq!(life.bound.state, again.bound.state);
    // Once more is a drill.
    assert!(second.open(&kept).unwrap().is_none());
    assert_eq!(second.birth().err(), Some(Error::StateOpenAlready));
}

#[test]
fn a_birth_that_kms_did_not_answer_is_the_same_birth_when_it_is_tried_again() {
    let boot = Boot::new();
    *boot.kms.lie.lock().unwrap() = Some(Lie::Gone);
    let first = boot.birth().unwrap();
    assert!(boot.ask(&first).is_err());
    let known = boot.keys.load(Ordering::SeqCst);
    *boot.kms.lie.lock().unwrap() = None;
    let _second = boot.birth().unwrap();
    // No key was made, and the signature for the question of before is for nothing.
    assert_eq!(boot.keys.load(Ordering::SeqCst), known);
    assert_eq!(boot.ask(&first).err(), Some(KmsError::Number.into()));
    let third = boot.birth().unwrap();
    assert!(boot.ask(&third).unwrap().is_none());
    assert_eq!(boot.birth().err(), Some(Error::SealPending));
}

#[test]
fn a_liar_in_egress_opens_nothing_later_and_at_the_birth_chooses_the_data_key() {
    let first = Boot::new();
    let kept = first.kept();
    let second = Boot::new();
    *second.kms.lie.lock().unwrap() = Some(Lie::Key([0x66; 32]));
    assert_eq!(second.open(&kept).err(), Some(Error::SealedStateUnopened));
    // It may be tried again: nothing was opened.
    *second.kms.lie.lock().unwrap() = None;
    assert!(second.open(&kept).unwrap().is_some());
    // What docs/durability.md says of the birth.
    let third = Boot::new();
    *third.kms.lie.lock().unwrap() = Some(Lie::Key([0x66; 32]));
    let question = third.birth().unwrap();
    assert!(third.ask(&question).unwrap().is_none());
    let (sealed, header) = Sealed::parse(&third.get(Part::Sealed)).unwrap();
    let known = Zeroizing::new([0x66; 32]);
    assert!(seal::open(&sealed, &header, &known).is_ok());
}

#[test]
fn a_plaintext_is_the_end_and_other_failures_are_not() {
    let boot = Boot::new();
    *boot.kms.lie.lock().unwrap() = Some(Lie::Plaintext);
    let question = boot.birth().unwrap();
    let error = boot.ask(&question).err().unwrap();
    assert!(error.is_end(), "{error}");
    *boot.kms.lie.lock().unwrap() = Some(Lie::Gone);
    let question = boot.birth().unwrap();
    assert!(!boot.ask(&question).err().unwrap().is_end());
    boot.durable.wipe();
    assert!(boot.birth().is_err());
}

/// As somebody who has the data key would: everything but the state key's and the identities'
/// secrets is at hand.
fn forged(kept: &Kept, change: impl FnOnce(&mut Contents)) -> Kept {
    let (sealed, header) = Sealed::parse(&kept.sealed).unwrap();
    let data_key = Zeroizing::new([0x77; 32]);
    let mut contents = seal::open(&sealed, &header, &data_key).unwrap();
    let state_key = KeyPair::from_secret(Algorithm::EdDSA, contents.state_key.bytes()).unwrap();
    change(&mut contents);
    // The same key as the enclave derives.
    let key = derived(&data_key, header.state, header.sequence);
    let mut text = contents.to_vec().to_vec();
    key.seal_in_place_append_tag(
        Nonce::assume_unique_for_key([9; 12]),
        Aad::from(header.to_vec()),
        &mut text,
    )
    .unwrap();
    let sealed = Sealed::new(
        &header,
        vec![sealed.wrap().clone()],
        [9; 12],
        text,
        |statement| cose::sign(cose::Purpose::SEAL, statement, &state_key),
    );
    Kept {
        sealed: sealed.unwrap().to_vec(),
        ..kept.clone()
    }
}

/// By docs/formats.md, and not by the code that is tested.
fn derived(data_key: &[u8; 32], state: state::StateId, sequence: u64) -> LessSafeKey {
    let tag = "anchorhold/seal-key/v1";
    let mut key = [0; 32];
    hkdf::Hkdf::<sha2::Sha512>::new(Some(tag.as_bytes()), data_key)
        .expand(&identity::cbor::to_vec(&(tag, state, sequence)), &mut key)
        .unwrap();
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap())
}

#[test]
fn a_state_around_known_keys_under_the_right_id_is_the_end_of_the_boot() {
    let kept = Boot::new().kept();
    let known = || Secret::new(Zeroizing::new([0x11; 32]));
    // Unchanged it opens: what follows is refused for what was changed.
    let same = forged(&kept, |_| {});
    assert!(Boot::new().open(&same).unwrap().is_some());
    let changes: [fn(&mut Contents, Secret); 6] = [
        |contents, known| contents.state_key = known,
        |contents, known| contents.identities[0].secret = known,
        |contents, known| contents.identities[1].secret = known,
        |contents, _| contents.identities.swap(0, 1),
        // The right secret under another name.
        |contents, _| contents.identities[0].name.push('x'),
        |contents, _| drop(contents.identities.pop()),
    ];
    for change in changes {
        let bad = forged(&kept, |contents| change(contents, known()));
        let error = Boot::new().open(&bad).err().unwrap();
        assert!(matches!(error, Error::SealedStateForged(_)), "{error}");
        assert!(error.is_end());
    }
    let other_wraps = forged(&kept, |contents| contents.wraps = Digest([1; 32]));
    assert_eq!(
        Boot::new().open(&other_wraps).err(),
        Some(Error::SealedStateForged("its wraps"))
    );
}

#[test]
fn no_flipped_bit_of_what_is_kept_opens() {
    let kept = Boot::new().kept();
    let boot = Boot::new();
    type PartOf = fn(&mut Kept) -> &mut Vec<u8>;
    let parts: [(&str, PartOf); 4] = [
        ("sealed", |kept| &mut kept.sealed),
        ("genesis", |kept| &mut kept.genesis),
        ("authority", |kept| &mut kept.authority),
        ("document", |kept| &mut kept.document),
    ];
    let mut refused = 0;
    for (name, part) in parts {
        let length = part(&mut kept.clone()).len();
        for at in 0..length {
            let mut bad = kept.clone();
            part(&mut bad)[at] ^= 1 << (at % 8);
            assert!(boot.open(&bad).is_err(), "{name}, byte {at}");
            refused += 1;
        }
    }
    assert!(refused > 1000);
    // And the good one still does, after all of them.
    assert!(boot.open(&kept).unwrap().is_some());
}

#[test]
fn pieces_come_in_their_order_and_are_no_longer_than_their_part() {
    let boot = Boot::new();
    let piece = |part, offset, length: usize, total| Piece {
        part,
        offset,
        bytes: vec![0; length],
        total,
    };
    for bad in [
        piece(Part::Sealed, 1, 1, 2),
        piece(Part::Sealed, 0, 0, 2),
        piece(Part::Sealed, 0, 2, 1),
        piece(Part::Sealed, 0, protocol::PIECE + 1, u32::MAX),
        piece(Part::Authority, 0, 1, 16 * 1024 + 1),
        piece(Part::Document, 0, 1, 16 * 1024 + 1),
    ] {
        assert!(matches!(
            boot.durable.put(&bad),
            Err(Error::PieceInvalid(_))
        ));
    }
    boot.durable.put(&piece(Part::Sealed, 0, 3, 6)).unwrap();
    assert!(boot.durable.put(&piece(Part::Sealed, 4, 1, 6)).is_err());
    boot.durable.put(&piece(Part::Sealed, 3, 3, 6)).unwrap();
    assert!(boot.durable.put(&piece(Part::Sealed, 6, 1, 6)).is_err());
    // One at 0 begins it anew.
    boot.durable.put(&piece(Part::Sealed, 0, 1, 1)).unwrap();
    assert!(matches!(
        boot.durable.get(Part::Sealed, 0),
        Err(Error::SealNotPending)
    ));
}

/// A state that somebody made up, around keys that they know, under a data key of their choosing:
/// with the boot, image, bundle and operator of a real order, and the state key's own signature.
fn made_up(boot: &Boot, order: Vec<u8>) -> Kept {
    let k3 = SealedEpoch {
        number: 1,
        key: Secret::new(Zeroizing::new([0x33; 32])),
    };
    made_up_with(boot, order, Some(vec![k3]), Vec::new())
}

/// The same, with these keys K3, or as it was before there were any.
fn made_up_with(
    boot: &Boot,
    order: Vec<u8>,
    k3: Option<Vec<SealedEpoch>>,
    budgets: Vec<SealedBudget>,
) -> Kept {
    let key = |byte: u8, algorithm| KeyPair::generate(algorithm, &[byte; 32], &[0; 32], b"forged");
    let state_key = key(40, Algorithm::EdDSA);
    let born = |name: &str, byte, algorithm| {
        let key = key(byte, algorithm);
        let did = identity::Did::key(key.public_key());
        let spki = key.public_key().to_spki();
        let newborn = Newborn {
            name: name.into(),
            environment: "test".into(),
            did: did.to_string(),
            spki: spki.clone(),
        };
        let public = state::SealedIdentity {
            name: name.into(),
            environment: "test".into(),
            kid: identity::KeyId::of(&did, key.public_key())
                .unwrap()
                .to_string(),
            did: did.to_string(),
            version: 1,
            spki,
            use_: state::Use::Active,
        };
        let secret = contents::SecretIdentity {
            name: name.into(),
            secret: Secret::new(key.secret().unwrap()),
            history: Vec::new(),
            dids: crate::identities::PastDids::default(),
        };
        (newborn, public, secret)
    };
    let (one, other) = (
        born("a", 41, Algorithm::EdDSA),
        born("b", 42, Algorithm::ES256),
    );
    let record = GenesisRecord::new(
        "s",
        operator().public_key(),
        state_key.public_key(),
        (BootId::new(BOOT), boot.committed.policy.digest()),
        vec![one.0, other.0],
        UnixSeconds(NOW),
    );
    let header = state::Header::new(
        record.id(),
        "s",
        1,
        state::first_authority(operator().public_key(), &order),
        state::Terms {
            rollback: state::Rollback::Accepted,
            custody: state::Custody::Kms,
            kms_key: ARN.parse().unwrap(),
        },
        boot.committed.pair,
        BootId::new(BOOT),
        UnixSeconds(NOW),
        vec![one.1, other.1],
    );
    let wrap = state::Wrap::kms(ARN.parse().unwrap(), record.id().to_string().into_bytes());
    let is_before = k3.is_none();
    let contents = Contents::new(
        state::wraps_digest(std::slice::from_ref(&wrap)),
        Secret::new(state_key.secret().unwrap()),
        None,
        vec![one.2, other.2],
        k3.unwrap_or_default(),
        budgets,
    );
    let contents = if is_before {
        contents.into_before()
    } else {
        contents
    };
    let data_key = Zeroizing::new([0x77; 32]);
    let sealed = seal::seal(&header, wrap, &contents, (&data_key, &state_key), [1; 12]);
    Kept {
        sealed: sealed.unwrap(),
        genesis: record.to_vec(),
        authority: order,
        document: [b"document", &record.id().as_bytes()[..]].concat(),
    }
}

#[test]
fn what_opens_credentials_outlives_the_boot_and_a_state_of_before_gets_it_sealed_first() {
    let epochs = |life: &Life| -> Vec<(u32, [u8; 32])> {
        life.k3
            .iter()
            .map(|epoch| (epoch.number, *epoch.key))
            .collect()
    };
    let kept = Boot::new().kept();
    let [one, other] = [0, 1].map(|_| epochs(&Boot::new().open(&kept).unwrap().unwrap()));
    assert_eq!((one.len(), one[0].0, &one), (1, 1, &other));
    // Several are kept in their order.
    let boot = Boot::new();
    let k3 = |number: u32| SealedEpoch {
        number,
        key: Secret::new(Zeroizing::new([number.to_be_bytes()[3]; 32])),
    };
    let made = made_up_with(&boot, boot.order(), Some(vec![k3(1), k3(2)]), Vec::new());
    let life = boot.open(&made).unwrap().unwrap();
    assert_eq!(epochs(&life), [(1, [1; 32]), (2, [2; 32])]);
    // One of before has none: a new one is sealed and stored before it opens anything.
    for k3 in [None, Some(Vec::new())] {
        let boot = Boot::new();
        let made = made_up_with(&boot, boot.order(), k3, Vec::new());
        assert!(boot.open(&made).unwrap().is_none());
        assert_eq!(boot.durable.status().phase, Phase::Sealed);
        let sealed = Kept {
            sealed: boot.get(Part::Sealed),
            authority: boot.get(Part::Authority),
            ..made
        };
        boot.show(&sealed);
        let Ok(Then::Live(life)) = boot.durable.stored() else {
            panic!("it is stored");
        };
        let again = Boot::new().open(&sealed).unwrap().unwrap();
        assert_eq!(epochs(&life), epochs(&again));
    }
}

#[test]
fn a_state_that_nobody_ordered_opens_nothing_even_if_egress_and_kms_agree_to_it() {
    let boot = Boot::new();
    // The secure module is all that stands between: with its word this would open.
    let made = made_up(&boot, boot.order());
    assert!(boot.open(&made).unwrap().is_some());
    let refused = |made: Kept| {
        let boot = Boot::new();
        let error = boot.open(&made).err().unwrap();
        assert!(boot.kms.asked.lock().unwrap().is_empty());
        (error, boot.durable.status().phase)
    };
    // The document of the real birth of that boot; none; one that the module has not signed.
    let genuine = Boot::new().kept().document;
    for document in [genuine, Vec::new(), b"other".to_vec()] {
        let (error, phase) = refused(Kept {
            document,
            ..made_up(&boot, boot.order())
        });
        assert_eq!(error.code(), "genesis_document_invalid");
        assert_eq!(phase, Phase::Awaited);
    }
    // An order that somebody else signed, whatever the module has seen.
    let own = Order::new(
        "s",
        BootId::new(BOOT),
        boot.committed.pair,
        UnixSeconds(NOW),
    );
    let own = own
        .sign(&KeyPair::generate(
            Algorithm::EdDSA,
            &[66; 32],
            &[0; 32],
            b"x",
        ))
        .unwrap();
    let (error, _) = refused(made_up(&boot, own));
    assert_eq!(error.code(), "state_operator_mismatch");
}

#[test]
fn what_was_put_is_looked_at_once() {
    let kept = Boot::new().kept();
    let boot = Boot::new();
    *boot.kms.lie.lock().unwrap() = Some(Lie::Gone);
    assert!(boot.open(&kept).is_err());
    *boot.kms.lie.lock().unwrap() = None;
    // A part that is brought no more is not there.
    boot.put(Part::Sealed, &kept.sealed);
    boot.put(Part::Authority, &kept.authority);
    boot.put(Part::Document, &kept.document);
    let error = boot.durable.open(&boot.committed, &boot).err().unwrap();
    assert_eq!(error.code(), "genesis_record_malformed");
    assert!(boot.open(&kept).unwrap().is_some());
}

#[test]
fn a_drill_wants_the_seal_that_was_stored_last_and_ends_nothing() {
    let kept = Boot::new().kept();
    let boot = Boot::new();
    assert!(boot.open(&kept).unwrap().is_some());
    assert!(boot.open(&kept).unwrap().is_none());
    // The same state, number and keys, sealed by somebody else.
    let twin = forged(&kept, |_| {});
    let error = boot.open(&twin).err().unwrap();
    assert_eq!(error.code(), "state_drill_failed");
    let bad = forged(&kept, |contents| contents.wraps = Digest([1; 32]));
    let error = boot.open(&bad).err().unwrap();
    assert_eq!(
        (error.code(), error.is_end()),
        ("state_drill_failed", false)
    );
    // It is said until a drill goes well again.
    assert!(boot.durable.status().refused.is_some());
    assert!(boot.open(&kept).unwrap().is_none());
    assert!(boot.durable.status().refused.is_none());
}

/// One as long as they get.
fn full_budget(index: u64) -> SealedBudget {
    SealedBudget {
        identity: "i".repeat(64),
        service: "s".repeat(63),
        rule: format!("{index:064}"),
        seconds: 2_592_000,
        at: i64::MAX,
        parts: vec![identity::json::MAX_SAFE_INTEGER; 61],
        slice: identity::json::MAX_SAFE_INTEGER,
    }
}

#[test]
fn contents_have_one_form_with_budgets_and_another_without() {
    let contents = |budgets: Vec<SealedBudget>| {
        let k3 = SealedEpoch {
            number: 1,
            key: Secret::new(Zeroizing::new([3; 32])),
        };
        let key = Secret::new(Zeroizing::new([1; 32]));
        Contents::new(Digest([0; 32]), key, None, Vec::new(), vec![k3], budgets)
    };
    let budgets: Vec<_> = (0..2).map(full_budget).collect();
    let with = contents(budgets.clone()).to_vec();
    assert_eq!(Contents::parse(&with).unwrap().budgets, Some(budgets));
    let without = contents(Vec::new()).to_vec();
    assert_eq!(Contents::parse(&without).unwrap().budgets, None);
    // An image of before budgets reads that, and not the other.
    let tag = |text: &[u8]| String::from_utf8_lossy(&text[..40]).into_owned();
    assert!(tag(&with).contains("contents/v3") && tag(&without).contains("contents/v2"));
    let mut empty = contents(Vec::new());
    empty.budgets = Some(Vec::new());
    for (from, to) in [("v2", "v2"), ("v2", "v3")] {
        let mut bytes = empty.to_vec().to_vec();
        let at = bytes
            .windows(2)
            .position(|two| two == from.as_bytes())
            .unwrap();
        bytes[at..at + 2].copy_from_slice(to.as_bytes());
        assert!(Contents::parse(&bytes).is_none(), "{to}");
    }
    let mut renamed = with.to_vec();
    let at = renamed.windows(2).position(|two| two == b"v3").unwrap();
    renamed[at + 1] = b'2';
    assert!(Contents::parse(&renamed).is_none());
}

#[test]
fn budgets_outlive_the_boot_and_what_is_sealed_before_it_begins() {
    let budgets = || vec![full_budget(7), full_budget(8)];
    let kept = forged(&Boot::new().kept(), |contents| {
        contents.set_budgets(budgets())
    });
    let life = Boot::new().open(&kept).unwrap().unwrap();
    assert_eq!(life.budgets, budgets());
    // A state that must be sealed anew before anything lives, as under another certificate, has them still.
    let boot = Boot::new();
    let made = made_up_with(&boot, boot.order(), Some(Vec::new()), budgets());
    assert!(boot.open(&made).unwrap().is_none());
    let sealed = Kept {
        sealed: boot.get(Part::Sealed),
        authority: boot.get(Part::Authority),
        ..made
    };
    boot.show(&sealed);
    let Ok(Then::Live(life)) = boot.durable.stored() else {
        panic!("it is stored");
    };
    assert_eq!(life.budgets, budgets());
    let again = Boot::new().open(&sealed).unwrap().unwrap();
    assert_eq!(again.budgets, budgets());
}

#[test]
fn sixty_four_identities_with_all_that_is_remembered_of_them_can_be_sealed() {
    let boot = Boot::new();
    let question = boot.birth().unwrap();
    assert!(boot.ask(&question).unwrap().is_none());
    let (_, header) = Sealed::parse(&boot.get(Part::Sealed)).unwrap();
    // A version as long as they get: a long did:web, and the statement of an ES256 key.
    let mut policy = boot.committed.bundle.identities[1].clone();
    policy.algorithm = Algorithm::ES256;
    let path = "a".repeat(60);
    policy.did = format!("did:web:{path}.{path}.{path}.exam:{path}");
    assert_eq!(policy.did.len(), 256);
    let bound = crate::identities::BoundTo {
        policy: boot.committed.policy,
        record_spki: vec![0; 91],
        state: None,
    };
    let key = |version| boot.new_key(Algorithm::ES256, "a", version).unwrap();
    let identity = crate::identities::Identity::new(&policy, &bound, key(1)).unwrap();
    let next = identity
        .prepare(1, &bound, key(2), || Ok(UnixSeconds(NOW)))
        .unwrap();
    let (version, card) = identity
        .keep(Some(&next), |card, _, history, _| {
            (history.last().unwrap().clone(), card.description.clone())
        })
        .unwrap();
    let name = |index: u8| format!("{index:02}{}", "n".repeat(62));
    let public = |index| state::SealedIdentity {
        name: name(index),
        environment: "e".repeat(64),
        did: card.did.clone(),
        kid: card.kid.clone(),
        version: 2,
        spki: card.spki.clone(),
        use_: state::Use::Active,
    };
    let secret = |index| contents::SecretIdentity {
        name: name(index),
        secret: Secret::new(Zeroizing::new([1; 32])),
        history: vec![version.clone(); 16],
        dids: crate::identities::PastDids::full(),
    };
    let state_key = boot.new_key(Algorithm::EdDSA, "state", 0).unwrap();
    let wrap = state::Wrap::kms(ARN.parse().unwrap(), vec![1; 6144]);
    let contents = Contents::new(
        state::wraps_digest(std::slice::from_ref(&wrap)),
        Secret::new(Zeroizing::new([1; 32])),
        None,
        (0..64).map(secret).collect(),
        Vec::new(),
        (0..256).map(full_budget).collect(),
    );
    let mut header = header;
    header.identities = (0..64).map(public).collect();
    // The buffer is as long as what is written into it: nothing moves while it is encrypted.
    let text = contents.to_vec();
    assert_eq!(text.capacity(), text.len() + 16);
    let data_key = Zeroizing::new([2; 32]);
    let sealed = seal::seal(&header, wrap, &contents, (&data_key, &state_key), [1; 12]);
    let length = sealed.unwrap().len();
    assert!(
        (state::MAX_SEALED / 2..state::MAX_SEALED).contains(&length),
        "{length}"
    );
}
