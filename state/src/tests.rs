//! One encoding, and who may open what.

use ed25519_dalek::SigningKey;
use identity::{Algorithm, BootId, Did, Digest, KeyId, Message, PublicKey, Signature, Signer};
use identity::{UnixSeconds, cbor, sha256};
use proptest::prelude::*;

use super::*;

const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const OTHER_ARN: &str =
    "arn:aws:kms:eu-central-1:111122223333:key/00000000-12ab-34cd-56ef-1234567890ab";
const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

struct Key(SigningKey, PublicKey);

impl Key {
    fn new(byte: u8) -> Self {
        let key = SigningKey::from_bytes(&[byte; 32]);
        let public = PublicKey::Ed25519(key.verifying_key());
        Self(key, public)
    }
}

impl Signer for Key {
    type Error = identity::Error;

    fn public_key(&self) -> &PublicKey {
        &self.1
    }

    fn sign(&self, message: &Message) -> Result<Signature, identity::Error> {
        Ok(ed25519_dalek::Signer::sign(&self.0, message.as_bytes()).to_bytes())
    }
}

fn pair(byte: u8) -> Pair {
    Pair {
        pcr0: Digest([byte; 48]),
        pcr1: Digest([2; 48]),
        pcr2: Digest([3; 48]),
        policy: Digest([4; 48]),
    }
}

fn terms(arn: &str) -> Terms {
    Terms {
        rollback: Rollback::Accepted,
        custody: Custody::Kms,
        kms_key: arn.parse().unwrap(),
    }
}

fn operator() -> Key {
    Key::new(10)
}

fn state_key() -> Key {
    Key::new(11)
}

fn record() -> GenesisRecord {
    let born = ["agent", "other"].map(|name| {
        let key = Key::new(name.as_bytes()[0]).1;
        Newborn {
            name: name.into(),
            environment: "test".into(),
            did: Did::key(&key).to_string(),
            spki: key.to_spki(),
        }
    });
    let of = (BootId::new([7; 16]), pair(1).policy);
    GenesisRecord::new("s", &operator().1, &state_key().1, of, born.to_vec(), NOW)
}

fn order() -> Vec<u8> {
    Order::new("s", BootId::new([7; 16]), pair(1), NOW)
        .sign(&operator())
        .unwrap()
}

fn header(authority: Authority) -> Header {
    let identities = ["agent", "other"].map(|name| {
        let key = Key::new(name.as_bytes()[0]).1;
        let did = Did::key(&key);
        SealedIdentity {
            name: name.into(),
            environment: "test".into(),
            kid: KeyId::of(&did, &key).unwrap().to_string(),
            did: did.to_string(),
            version: 1,
            spki: key.to_spki(),
            use_: Use::Active,
        }
    });
    Header::new(
        record().id(),
        "s",
        1,
        authority,
        terms(ARN),
        pair(1),
        BootId::new([7; 16]),
        NOW,
        identities.to_vec(),
    )
}

fn born() -> Header {
    header(first_authority(&operator().1, &order()))
}

fn sealed() -> Sealed {
    let wrap = Wrap::kms(ARN.parse().unwrap(), vec![9; 200]);
    Sealed::new(&born(), vec![wrap], [8; 12], vec![7; 300], |statement| {
        identity::cose::sign(identity::cose::Purpose::SEAL, statement, &state_key())
    })
    .unwrap()
}

fn certificate(version: u64) -> Certificate {
    let names = ["agent", "other"].map(str::to_owned);
    Certificate::new(
        "s",
        record().id(),
        version,
        terms(ARN),
        names.to_vec(),
        vec![pair(1), pair(5)],
    )
}

/// What a bundle offers, whatever a test changes of it.
struct Bundle {
    name: &'static str,
    operator: PublicKey,
    terms: Terms,
    pair: Pair,
    identities: Vec<(&'static str, &'static str, &'static str, Algorithm)>,
    /// Of the birth, where the word is its order.
    birth: Option<Attested>,
}

const PCR16: Digest<48> = Digest([16; 48]);

fn birth() -> Attested {
    let pair = pair(1);
    Attested {
        image: [pair.pcr0, pair.pcr1, pair.pcr2],
        pcr16: PCR16,
        user_data: Some(record().id().as_bytes().to_vec()),
    }
}

impl Bundle {
    fn new() -> Self {
        Self {
            name: "s",
            operator: operator().1,
            terms: terms(ARN),
            pair: pair(1),
            identities: vec![
                ("agent", "test", "did:key", Algorithm::EdDSA),
                ("other", "test", "did:key", Algorithm::EdDSA),
            ],
            birth: None,
        }
    }

    fn admit(&self, header: &Header, word: &[u8]) -> Result<Admitted, &'static str> {
        self.admit_at(header, word, NOW)
    }

    fn admit_of(
        &self,
        record: &GenesisRecord,
        header: &Header,
        word: &[u8],
    ) -> Result<Admitted, &'static str> {
        let admitted = self
            .offer()
            .admit(header, record, word, || self.birth(), NOW);
        admitted.map_err(|error| error.code())
    }

    fn birth(&self) -> Result<Attested, Error> {
        self.birth
            .clone()
            .ok_or(Error::GenesisDocumentInvalid("not asked for here".into()))
    }

    fn admit_at(
        &self,
        header: &Header,
        word: &[u8],
        now: UnixSeconds,
    ) -> Result<Admitted, &'static str> {
        let admitted = self
            .offer()
            .admit(header, &record(), word, || self.birth(), now);
        admitted.map_err(|error| error.code())
    }

    fn offer(&self) -> Offer<'_> {
        let wanted = |(name, environment, did, algorithm): &(
            &'static str,
            &'static str,
            &'static str,
            Algorithm,
        )| Wanted {
            name,
            environment,
            did,
            algorithm: *algorithm,
        };
        Offer {
            name: self.name,
            operator: &self.operator,
            terms: &self.terms,
            pair: self.pair,
            pcr16: PCR16,
            identities: self.identities.iter().map(wanted).collect(),
        }
    }
}

fn changed(change: impl FnOnce(&mut Bundle)) -> Bundle {
    let mut bundle = Bundle::new();
    change(&mut bundle);
    bundle
}

fn signed(certificate: &Certificate) -> Vec<u8> {
    certificate.sign(&operator()).unwrap()
}

#[test]
fn the_image_and_bundle_of_the_birth_open_it_by_the_order_and_others_do_not() {
    let attested = |b: &mut Bundle| b.birth = Some(birth());
    let admitted = changed(attested).admit(&born(), &order()).unwrap();
    assert_eq!((admitted.epoch, admitted.births.len()), (1, 0));
    assert!(!admitted.must_seal(&born()));
    for (bundle, code) in [
        (changed(|b| b.pair = pair(5)), "pair_not_certified"),
        (
            changed(|b| b.pair.policy = Digest([5; 48])),
            "pair_not_certified",
        ),
        (
            changed(|b| b.pair.pcr1 = Digest([5; 48])),
            "pair_not_certified",
        ),
        (
            changed(|b| b.pair.pcr2 = Digest([5; 48])),
            "pair_not_certified",
        ),
        (changed(|b| b.name = "t"), "state_name_mismatch"),
        (
            changed(|b| b.operator = Key::new(12).1),
            "state_operator_mismatch",
        ),
        (changed(|b| b.terms = terms(OTHER_ARN)), "kms_key_mismatch"),
        (
            changed(|b| b.terms.custody = Custody::Ephemeral),
            "state_custody_too_low",
        ),
        (
            changed(|b| b.identities[0].1 = "production"),
            "identity_changed",
        ),
        (
            changed(|b| b.identities[0].2 = "did:web:a.example"),
            "identity_changed",
        ),
        (
            changed(|b| b.identities[0].3 = Algorithm::ES256),
            "identity_changed",
        ),
        (
            changed(|b| {
                b.identities
                    .push(("third", "test", "did:key", Algorithm::EdDSA))
            }),
            "identity_not_certified",
        ),
    ] {
        let bundle = Bundle {
            birth: Some(birth()),
            ..bundle
        };
        assert_eq!(bundle.admit(&born(), &order()), Err(code));
    }
}

#[test]
fn an_order_opens_only_what_the_secure_module_saw_born_in_that_image_under_that_bundle() {
    let open = |attested: Option<Attested>| {
        let bundle = changed(|b| b.birth = attested);
        bundle.admit(&born(), &order()).map(|_| ())
    };
    assert_eq!(open(Some(birth())), Ok(()));
    let changes: [fn(&mut Attested); 6] = [
        |b| b.user_data = None,
        |b| b.user_data = Some(vec![1; 32]),
        |b| b.image[0] = Digest([9; 48]),
        |b| b.image[1] = Digest([9; 48]),
        |b| b.image[2] = Digest([9; 48]),
        |b| b.pcr16 = Digest([9; 48]),
    ];
    for change in changes {
        let mut other = birth();
        change(&mut other);
        assert_eq!(open(Some(other)), Err("genesis_document_invalid"));
    }
    assert_eq!(open(None), Err("genesis_document_invalid"));
    // A record that somebody made up, for the boot of a real order: the module has seen none of it.
    // That of another bundle is attested, and was not ordered.
    let mut other = record();
    other.policy = Digest([5; 48]);
    let mut of_other = born();
    of_other.state = other.id();
    let mut attested = birth();
    attested.user_data = Some(other.id().as_bytes().to_vec());
    let bundle = changed(|b| b.birth = Some(attested));
    assert_eq!(
        bundle.admit_of(&other, &of_other, &order()),
        Err("genesis_document_invalid")
    );
    // And one that names another operator is another operator's.
    let mut of_forger = record();
    of_forger.operator = Key::new(66).1.to_spki();
    let mut by_forger = header(first_authority(&Key::new(66).1, &order()));
    by_forger.state = of_forger.id();
    let mut attested = birth();
    attested.user_data = Some(of_forger.id().as_bytes().to_vec());
    let bundle = changed(|b| b.birth = Some(attested));
    assert_eq!(
        bundle.admit_of(&of_forger, &by_forger, &order()),
        Err("state_operator_mismatch")
    );
    let mut made_up = record();
    made_up.state_key = Key::new(66).1.to_spki();
    let mut of_made_up = born();
    of_made_up.state = made_up.id();
    let bundle = changed(|b| b.birth = Some(birth()));
    assert_eq!(
        bundle.admit_of(&made_up, &of_made_up, &order()),
        Err("genesis_document_invalid")
    );
}

#[test]
fn what_a_header_says_of_a_word_proves_nothing_without_the_operators_signature() {
    // Somebody else's word, whose digest the header repeats.
    let forger = Key::new(66);
    let own_order = Order::new("s", BootId::new([7; 16]), pair(1), NOW);
    let own_order = own_order.sign(&forger).unwrap();
    let bundle = changed(|b| b.birth = Some(birth()));
    let of_forger = header(first_authority(&operator().1, &own_order));
    assert_eq!(
        bundle.admit(&of_forger, &own_order),
        Err("state_operator_mismatch")
    );
    // Whoever the header says is the operator.
    let own = certificate(2).sign(&forger).unwrap();
    for named in [operator(), Key::new(66)] {
        let taken = header(Authority {
            operator: named.1.to_spki(),
            version: 2,
            digest: sha256(&own),
        });
        assert_eq!(bundle.admit(&taken, &own), Err("state_operator_mismatch"));
    }
    let mut handing_over = certificate(2);
    handing_over.successor = Some(operator().1.to_spki());
    let own = handing_over.sign(&forger).unwrap();
    let taken = header(Authority {
        operator: operator().1.to_spki(),
        version: 2,
        digest: sha256(&own),
    });
    assert_eq!(bundle.admit(&taken, &own), Err("state_operator_mismatch"));
    // Nor what it says of the operator.
    let of_forger = header(first_authority(&forger.1, &order()));
    assert_eq!(
        bundle.admit(&of_forger, &certificate(2).sign(&forger).unwrap()),
        Err("state_operator_mismatch")
    );
}

#[test]
fn a_later_certificate_is_taken_and_raises_the_epoch() {
    let word = signed(&certificate(2));
    for of in [pair(1), pair(5)] {
        let admitted = changed(|b| b.pair = of).admit(&born(), &word).unwrap();
        assert_eq!((admitted.epoch, admitted.authority.version), (2, 2));
        assert_eq!(admitted.authority.digest, sha256(&word));
        assert!(admitted.must_seal(&born()));
    }
    assert_eq!(
        changed(|b| b.pair = pair(6)).admit(&born(), &word),
        Err("pair_not_certified")
    );
    // Once it is taken, it opens without another epoch, and the order does no more.
    let taken = Bundle::new().admit(&born(), &word).unwrap().authority;
    let header = header(taken);
    let admitted = Bundle::new().admit(&header, &word).unwrap();
    assert!(!admitted.must_seal(&header) && admitted.epoch == 2);
    assert_eq!(
        Bundle::new().admit(&header, &order()),
        Err("state_certificate_invalid")
    );
    // One that was never taken leaves its number free: verifiers who want epoch 4 get no other.
    let fourth = signed(&certificate(4));
    assert_eq!(Bundle::new().admit(&header, &fourth).unwrap().epoch, 4);
}

#[test]
fn an_older_certificate_and_another_one_of_the_same_version_are_refused() {
    let third = signed(&certificate(3));
    let taken = Bundle::new().admit(&born(), &third).unwrap().authority;
    let header = header(taken);
    let older = signed(&certificate(2));
    assert_eq!(
        Bundle::new().admit(&header, &older),
        Err("state_certificate_outdated")
    );
    let mut twin = certificate(3);
    twin.pairs.pop();
    assert_eq!(
        Bundle::new().admit(&header, &signed(&twin)),
        Err("state_certificate_forked")
    );
    assert!(Bundle::new().admit(&header, &third).is_ok());
}

#[test]
fn a_certificate_of_another_operator_state_or_time_opens_nothing() {
    let by_other = certificate(2).sign(&Key::new(12)).unwrap();
    let mut other_state = certificate(2);
    other_state.state = StateId::new([1; 32]);
    let mut over = certificate(2);
    over.not_after = Some(NOW.0 - 1);
    let invalid = Err("state_certificate_invalid");
    assert_eq!(Bundle::new().admit(&born(), &by_other), invalid);
    assert_eq!(Bundle::new().admit(&born(), &signed(&other_state)), invalid);
    assert_eq!(Bundle::new().admit(&born(), &signed(&over)), invalid);
    let at_its_end = NOW.plus(-1);
    assert!(
        Bundle::new()
            .admit_at(&born(), &signed(&over), at_its_end)
            .is_ok()
    );
    // A rotation order is signed by the same key, and is no certificate.
    assert_eq!(Bundle::new().admit(&born(), b"\x84"), invalid);
    let mut low = certificate(3);
    low.lowest_epoch = 2;
    assert_eq!(
        Bundle::new().admit(&born(), &signed(&low)),
        Err("state_epoch_too_low")
    );
    low.lowest_epoch = 1;
    assert!(Bundle::new().admit(&born(), &signed(&low)).is_ok());
}

#[test]
fn a_new_name_is_born_only_if_the_certificate_lists_it() {
    let third = |b: &mut Bundle| {
        b.identities
            .push(("third", "test", "did:key", Algorithm::EdDSA));
    };
    let word = signed(&certificate(2));
    assert_eq!(
        changed(third).admit(&born(), &word),
        Err("identity_not_certified")
    );
    let mut listing = certificate(2);
    listing.identities.push("third".into());
    let admitted = changed(third).admit(&born(), &signed(&listing)).unwrap();
    assert_eq!(admitted.births, ["third"]);
    // A name that the bundle lacks stays, and what it lists is no wider.
    let fewer = changed(|b| b.identities.truncate(1));
    assert_eq!(fewer.admit(&born(), &word).unwrap().births.len(), 0);
}

#[test]
fn a_certificate_names_the_operators_next_key_and_only_that_one_counts_afterwards() {
    let next = Key::new(20);
    let mut handing_over = certificate(2);
    handing_over.successor = Some(next.1.to_spki());
    let word = signed(&handing_over);
    // Whose bundle it is takes it, and goes on under it.
    let admitted = Bundle::new().admit(&born(), &word).unwrap();
    assert_eq!(admitted.authority.operator, next.1.to_spki());
    let handed_over = header(admitted.authority);
    assert!(Bundle::new().admit(&handed_over, &word).is_ok());
    // The next one's bundle opens it by the next one's own certificate.
    let of_next = changed(|b| b.operator = Key::new(20).1);
    for header in [born(), handed_over.clone()] {
        assert_eq!(
            of_next.admit(&header, &word),
            Err("state_operator_mismatch")
        );
    }
    let by_next = certificate(3).sign(&next).unwrap();
    let taken = of_next.admit(&handed_over, &by_next).unwrap().authority;
    assert!(of_next.admit(&header(taken), &by_next).is_ok());
    // Nobody before may name a successor by taking the next one's word too early.
    assert_eq!(
        of_next.admit(&born(), &by_next),
        Err("state_operator_mismatch")
    );
    for bundle in [of_next, Bundle::new()] {
        let refused = bundle.admit(&handed_over, &signed(&certificate(3)));
        assert!(matches!(
            refused,
            Err("state_certificate_invalid" | "state_operator_mismatch")
        ));
    }
}

#[test]
fn a_seal_of_another_state_does_not_stand_beside_this_record() {
    let mut other = born();
    other.state = StateId::new([1; 32]);
    assert_eq!(
        Bundle::new().admit(&other, &order()),
        Err("sealed_state_mismatch")
    );
    // A record with another operator is another state.
    let mut forged = born();
    forged.authority.operator = Key::new(12).1.to_spki();
    let of_forger = changed(|b| b.operator = Key::new(12).1);
    assert_eq!(
        of_forger.admit(&forged, &order()),
        Err("state_operator_mismatch")
    );
}

#[test]
fn an_order_is_for_one_boot_image_bundle_and_time() {
    let order = Order::verify(&order(), &operator().1).unwrap();
    let boot = BootId::new([7; 16]);
    assert_eq!(order.require("s", boot, &pair(1), NOW), Ok(()));
    for refused in [
        order.require("t", boot, &pair(1), NOW),
        order.require("s", BootId::new([8; 16]), &pair(1), NOW),
        order.require("s", boot, &pair(2), NOW),
        order.require("s", boot, &pair(1), NOW.plus(1)),
    ] {
        assert_eq!(refused.unwrap_err().code(), "genesis_order_invalid");
    }
    assert!(Order::verify(&self::order(), &Key::new(12).1).is_err());
    let debug = Order::new("s", boot, pair(0), NOW)
        .sign(&operator())
        .unwrap();
    assert!(Order::verify(&debug, &operator().1).is_err());
    // One purpose does not stand for another.
    let certificate = certificate(2).sign(&operator()).unwrap();
    assert!(Order::verify(&certificate, &operator().1).is_err());
}

#[test]
fn the_state_key_vouches_for_every_byte_of_a_seal() {
    let bytes = sealed().to_vec();
    let (read, header) = Sealed::parse(&bytes).unwrap();
    assert_eq!(
        (read.verify(&header, &state_key().1), header),
        (Ok(()), born())
    );
    assert!(read.verify(&born(), &Key::new(12).1).is_err());
    let mut refused = 0;
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            let verified = Sealed::parse(&bad)
                .and_then(|(sealed, header)| sealed.verify(&header, &state_key().1));
            assert!(verified.is_err(), "byte {at} bit {bit}");
            refused += 1;
        }
    }
    assert_eq!(refused, 8 * bytes.len());
}

/// Written anew with `ANCHORHOLD_WRITE_VECTORS=1`.
#[test]
fn the_published_vectors_are_what_is_written_and_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    for (name, bytes) in [
        ("genesis.cbor", record().to_vec()),
        ("order.cose", order()),
        ("certificate.cose", signed(&certificate(2))),
        ("sealed.cbor", sealed().to_vec()),
    ] {
        let file = folder.join(name);
        if std::env::var_os("ANCHORHOLD_WRITE_VECTORS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, &bytes).unwrap();
        }
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "{name}");
    }
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let record = GenesisRecord::parse(&read("genesis.cbor")).unwrap();
    let (sealed, header) = Sealed::parse(&read("sealed.cbor")).unwrap();
    assert_eq!(header.state, record.id());
    assert_eq!(sealed.verify(&header, &state_key().1), Ok(()));
    let word = Certificate::verify(&read("certificate.cose"), &operator().1).unwrap();
    assert_eq!(word.state, record.id());
    assert!(Order::verify(&read("order.cose"), &operator().1).is_ok());
}

#[test]
fn each_format_has_one_encoding() {
    type Reads = fn(&[u8]) -> bool;
    let formats: [(&str, Vec<u8>, Reads); 3] = [
        ("sealed", sealed().to_vec(), |b| Sealed::parse(b).is_ok()),
        ("genesis", record().to_vec(), |b| {
            GenesisRecord::parse(b).is_ok()
        }),
        ("certificate", signed(&certificate(2)), |b| {
            Certificate::verify(b, &operator().1).is_ok()
        }),
    ];
    for (name, bytes, read) in formats {
        assert!(read(&bytes), "{name}");
        for length in 0..bytes.len() {
            assert!(!read(&bytes[..length]), "{name} cut at {length}");
        }
        assert!(!read(&[&bytes[..], &[0]].concat()), "{name} and more");
    }
    assert_eq!(
        record().id().to_string(),
        sha256(&record().to_vec()).to_string()
    );
}

#[test]
fn what_a_record_a_header_and_a_certificate_cannot_say_is_refused() {
    let records: [fn(&mut GenesisRecord); 4] = [
        |r| r.identities.clear(),
        |r| r.identities.swap(0, 1),
        |r| r.identities[1] = r.identities[0].clone(),
        |r| r.identities[0].spki = Key::new(99).1.to_spki(),
    ];
    for change in records {
        let mut record = record();
        change(&mut record);
        assert!(GenesisRecord::parse(&record.to_vec()).is_err());
    }
    let headers: [fn(&mut Header); 7] = [
        |h| h.identities.clear(),
        |h| h.identities.swap(0, 1),
        |h| h.identities[0].version = 0,
        |h| h.identities[0].kid = h.identities[1].kid.clone(),
        |h| h.authority.version = 0,
        |h| h.epoch = u64::MAX,
        |h| (h.authority.version, h.epoch) = (0, 0),
    ];
    for change in headers {
        let mut header = born();
        change(&mut header);
        let wrap = Wrap::kms(ARN.parse().unwrap(), vec![9; 200]);
        let sign = |statement: &[u8]| {
            identity::cose::sign(identity::cose::Purpose::SEAL, statement, &state_key())
        };
        let sealed = Sealed::new(&header, vec![wrap], [8; 12], vec![7; 3], sign).unwrap();
        assert!(Sealed::parse(&sealed.to_vec()).is_err());
    }
    let certificates: [fn(&mut Certificate); 8] = [
        |c| c.version = 1,
        |c| c.lowest_epoch = 2,
        |c| c.pairs.clear(),
        |c| c.pairs.swap(0, 1),
        |c| c.pairs = (1..=17).map(pair).collect(),
        |c| c.pairs[0].pcr0 = Digest([0; 48]),
        |c| c.identities.clear(),
        |c| c.successor = Some(vec![1]),
    ];
    for change in certificates {
        let mut certificate = certificate(2);
        change(&mut certificate);
        assert!(certificate.sign(&operator()).is_err());
        let unchecked = identity::cose::sign(
            identity::cose::Purpose::STATE_CERTIFICATE,
            &cbor::to_vec(&certificate),
            &operator(),
        );
        assert!(Certificate::verify(&unchecked.unwrap(), &operator().1).is_err());
    }
}

#[test]
fn the_key_of_kms_is_one_key_of_one_region() {
    let key: KmsKey = ARN.parse().unwrap();
    assert_eq!(key.host(), "kms.eu-central-1.amazonaws.com");
    let china: KmsKey = ARN
        .replace("arn:aws:", "arn:aws-cn:")
        .replace("eu-central-1", "cn-north-1")
        .parse()
        .unwrap();
    assert_eq!(china.host(), "kms.cn-north-1.amazonaws.com.cn");
    for bad in [
        "",
        "1234abcd-12ab-34cd-56ef-1234567890ab",
        "arn:aws:kms:eu-central-1:111122223333:alias/a",
        "arn:aws:kms:eu-central-1:111122223333:key/mrk-1234",
        "arn:aws:kms:eu-central-1:111122223333:key/",
        "arn:aws:kms:eu-central-1:11112222333:key/a",
        "arn:aws:kms::111122223333:key/a",
        "arn:aws:kms:evil.example/:111122223333:key/a",
        "arn:aws:kms:-a:111122223333:key/a",
        "arn:other:kms:eu-central-1:111122223333:key/a",
        "arn:aws:s3:eu-central-1:111122223333:key/a",
        &format!("{ARN}:x"),
        &format!("{ARN}{}", "a".repeat(256)),
    ] {
        assert!(bad.parse::<KmsKey>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(0_u8.., 0..400)) {
        let _ = Sealed::parse(&bytes);
        let _ = GenesisRecord::parse(&bytes);
        let _ = Certificate::unverified(&bytes);
        let _ = Order::unverified(&bytes);
    }
}
