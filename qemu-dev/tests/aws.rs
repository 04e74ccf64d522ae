//! The mock of AWS over the wire: TLS, signatures by AWS's own crate, documents of the mock NSM.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use attestation::MockRoot;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey, PublicEncryptingKey};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use data_encoding::{BASE64, HEXLOWER};
use enclave::Nsm;
use identity::Digest;
use qemu_dev::authority::Authority;
use qemu_dev::aws::{Certificate, DEFAULT_REGION, Fault, MockAws, SIDECAR, Shape};
use qemu_dev::nsm::{Encoding, MockNsm, os_random};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

const NOW: u64 = 1_795_225_251;
const HOST: &str = "kms.mock-local-1.amazonaws.com";
const CONTEXT: &str = r#"{"anchorhold":"sealed/v1","state":"A"}"#;

/// A mock that serves, an enclave that attests, and a clock for both.
struct World {
    mock: Arc<MockAws>,
    address: SocketAddr,
    clock: Arc<AtomicU64>,
    nsm: MockNsm,
    rsa: PrivateDecryptingKey,
    profiles: BTreeMap<String, [String; 3]>,
    roots: RootCertStore,
    folder: tempfile::TempDir,
    _serving: Serving,
}

enum Serving {
    Here { _runtime: tokio::runtime::Runtime },
    There(Child),
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Self::There(child) = self {
            child.kill().and_then(|()| child.wait()).unwrap();
        }
    }
}

/// An answer of the mock.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Answer {
    fn kind(&self) -> &str {
        self.body["__type"].as_str().unwrap_or("none")
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let text = self.body[name].as_str();
        let text = text.unwrap_or_else(|| panic!("no {name} in {self:?}"));
        BASE64.decode(text.as_bytes()).unwrap()
    }
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mock = Arc::new(MockAws::open(&folder.path().join("aws"), DEFAULT_REGION).unwrap());
        let clock = Arc::new(AtomicU64::new(NOW * 1000));
        let nsm = nsm(&clock, Authority::new(NOW, &mut os_random));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let bound = tokio::net::TcpListener::bind("127.0.0.1:0");
        let listener = runtime.block_on(bound).unwrap();
        let address = listener.local_addr().unwrap();
        let ticking = Arc::clone(&clock);
        let at = Arc::new(move || ticking.load(Ordering::SeqCst));
        runtime.spawn(Arc::clone(&mock).serve(listener, nsm.root().clone(), at));
        let serving = Serving::Here { _runtime: runtime };
        Self::of(folder, mock, address, clock, nsm, serving)
    }

    /// The same, served by a process of its own, with one key of this policy: its ARN.
    fn of_command(policy: &Value, arguments: &[&str]) -> (Self, String) {
        let folder = private_folder();
        let state = folder.path();
        std::fs::write(state.join("key-policy.json"), policy.to_string()).unwrap();
        let authority = Authority::new(NOW, &mut os_random);
        std::fs::write(state.join("mock-root.pem"), authority.certificate_pem()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_anchorhold-dev"))
            .args([
                "aws",
                "--with-parent",
                "--listen",
                "127.0.0.1:0",
                "--time-ms",
            ])
            .arg((NOW * 1000).to_string())
            .arg("--state")
            .arg(state)
            .arg("--new-key")
            .arg(state.join("key-policy.json"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (arn, listens) = (
            lines.next().unwrap().unwrap(),
            lines.next().unwrap().unwrap(),
        );
        let address = listens
            .strip_prefix("mock AWS listens on ")
            .unwrap()
            .parse()
            .unwrap();
        let mock = Arc::new(MockAws::open(&state.join("aws"), DEFAULT_REGION).unwrap());
        let clock = Arc::new(AtomicU64::new(NOW * 1000));
        let nsm = nsm(&clock, authority);
        (
            Self::of(folder, mock, address, clock, nsm, Serving::There(child)),
            arn,
        )
    }

    fn of(
        folder: tempfile::TempDir,
        mock: Arc<MockAws>,
        address: SocketAddr,
        clock: Arc<AtomicU64>,
        nsm: MockNsm,
        serving: Serving,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(mock.root_der().to_vec()))
            .unwrap();
        Self {
            profiles: profiles(&std::fs::read_to_string(mock.credentials_file()).unwrap()),
            mock,
            address,
            clock,
            nsm,
            rsa: PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap(),
            roots,
            folder,
            _serving: serving,
        }
    }

    fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst) / 1000
    }

    fn wait(&self, milliseconds: u64) {
        self.clock.fetch_add(milliseconds, Ordering::SeqCst);
    }

    /// Asks as the sidecar.
    fn ask(&self, operation: &str, body: &Value) -> Answer {
        self.ask_as("default", operation, body)
    }

    fn ask_as(&self, profile: &str, operation: &str, body: &Value) -> Answer {
        let request = self.request(profile, operation, body.to_string().as_bytes());
        let raw = self.exchange(&request).unwrap();
        let raw = String::from_utf8(raw).unwrap();
        let (head, body) = raw.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains("\r\nx-anchorhold-mock: this is no AWS"),
            "{head}"
        );
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.into(),
            body: serde_json::from_str(body).unwrap_or(Value::String(body.into())),
        }
    }

    fn request(&self, profile: &str, operation: &str, body: &[u8]) -> Vec<u8> {
        let [id, secret, token] = &self.profiles[profile];
        let (token, target) = (Some(token.clone()), format!("TrentService.{operation}"));
        let credentials = aws_credential_types::Credentials::new(id, secret, token, None, "tests");
        let identity = credentials.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(DEFAULT_REGION)
            .name("kms")
            .time(UNIX_EPOCH + Duration::from_secs(self.now()))
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let headers = [
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", target.as_str()),
        ];
        let url = format!("https://{HOST}/");
        let signable =
            SignableRequest::new("POST", &url, headers.into_iter(), SignableBody::Bytes(body));
        let (instructions, _) = sign(signable.unwrap(), &params).unwrap().into_parts();
        let mut text = format!(
            "POST / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-length: {}\r\n",
            body.len()
        );
        for (name, value) in headers.into_iter().chain(instructions.headers()) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        [text.as_bytes(), b"\r\n", body].concat()
    }

    /// All bytes of the answer, until the connection ends.
    fn exchange(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = self.connect(HOST)?;
        stream.write_all(request)?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
            _ => Ok(answer),
        }
    }

    fn connect(&self, name: &'static str) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let time = Arc::new(At(self.now()));
        let config = ClientConfig::builder_with_details(provider, time)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        let name = ServerName::try_from(name).unwrap();
        let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(StreamOwned::new(connection, stream))
    }

    /// A document of now, for the enclave's RSA key.
    fn document(&mut self) -> Vec<u8> {
        let public = self.rsa.public_key().as_der().unwrap();
        self.nsm.attest(Some(public.as_ref()), None, None).unwrap()
    }

    fn key(&self, policy: &Value) -> String {
        self.mock.create_key(&policy.to_string()).unwrap()
    }

    /// A fresh data key under a fresh document.
    fn generate(&mut self, arn: &str) -> Answer {
        let document = self.document();
        self.ask("GenerateDataKey", &generate(arn, Some(&document)))
    }

    /// What `openssl` reads in a message for the enclave's key.
    fn opened(&self, message: &[u8]) -> Option<Vec<u8>> {
        let file = |name: &str| self.folder.path().join(name);
        std::fs::write(file("key.der"), self.rsa.as_der().unwrap().as_ref()).unwrap();
        std::fs::write(file("message"), message).unwrap();
        let output = Command::new("openssl")
            .args([
                "cms", "-decrypt", "-binary", "-inform", "DER", "-keyform", "DER",
            ])
            .args(["-inkey", "key.der", "-in", "message", "-out", "secret"])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        output
            .status
            .success()
            .then(|| std::fs::read(file("secret")).unwrap())
    }
}

/// As a state directory must be: of mode 0700.
fn private_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

#[derive(Debug)]
struct At(u64);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

/// Registers 0 to 2 are 01.., 02.., 03..; register 16 is 00.. extended with "policy".
fn nsm(clock: &Arc<AtomicU64>, authority: Authority) -> MockNsm {
    let measured = [Digest([1; 48]), Digest([2; 48]), Digest([3; 48])];
    let ticking = Arc::clone(clock);
    let clock = Box::new(move || ticking.load(Ordering::SeqCst));
    let mut nsm = MockNsm::new(authority, &measured, clock, Encoding::Indefinite).unwrap();
    nsm.extend_pcr(16, b"policy").unwrap();
    nsm.lock_pcrs(32).unwrap();
    nsm
}

fn pcr16(policy: &[u8]) -> String {
    HEXLOWER.encode(identity::extend(&Digest([0; 48]), policy).as_bytes())
}

fn profiles(text: &str) -> BTreeMap<String, [String; 3]> {
    let sections = text.split('[').skip(1);
    let values = |section: &str| {
        let (name, rest) = section.split_once("]\n").unwrap();
        let mut values = rest
            .lines()
            .map(|line| line.split_once(" = ").unwrap().1.to_owned());
        (
            name.to_owned(),
            std::array::from_fn(|_| values.next().unwrap()),
        )
    };
    sections.map(values).collect()
}

fn open_policy() -> Value {
    json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::000000000000:root"}, "Action": "kms:*", "Resource": "*"}]})
}

/// Only the enclave of these registers may have data keys; only the administrator changes that.
fn attested_policy(pcr16: &str) -> Value {
    let attested = json!({"StringEqualsIgnoreCase": {
        "kms:RecipientAttestation:ImageSha384": "01".repeat(48),
        "kms:RecipientAttestation:PCR16": pcr16}});
    json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": SIDECAR}, "Action": ["kms:GenerateDataKey", "kms:Decrypt"], "Resource": "*", "Condition": attested},
        {"Effect": "Allow", "Principal": {"AWS": SIDECAR}, "Action": ["kms:DescribeKey", "kms:GetKeyPolicy"], "Resource": "*"},
        {"Effect": "Allow", "Principal": {"AWS": qemu_dev::aws::ADMIN}, "Action": ["kms:PutKeyPolicy", "kms:GetKeyPolicy"], "Resource": "*"}]})
}

fn recipient(document: &[u8]) -> Value {
    json!({"AttestationDocument": BASE64.encode(document), "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"})
}

fn generate(arn: &str, document: Option<&[u8]>) -> Value {
    let context: Value = serde_json::from_str(CONTEXT).unwrap();
    let mut asked = json!({"KeyId": arn, "KeySpec": "AES_256", "EncryptionContext": context});
    if let Some(document) = document {
        asked["Recipient"] = recipient(document);
    }
    asked
}

fn decrypt(arn: &str, blob: &[u8], document: Option<&[u8]>) -> Value {
    let mut asked = generate(arn, document);
    asked["CiphertextBlob"] = BASE64.encode(blob).into();
    asked.as_object_mut().unwrap().remove("KeySpec");
    asked
}

#[test]
fn a_data_key_of_an_attested_enclave_is_read_by_that_enclave_alone() {
    let mut world = World::new();
    let arn = world.key(&attested_policy(&pcr16(b"policy")));
    for shape in [Shape::Chunked, Shape::Primitive] {
        world.mock.handle().set_shape(Some(shape));
        let made = world.generate(&arn);
        assert_eq!(
            (made.status, &made.body["KeyId"]),
            (200, &json!(arn)),
            "{made:?}"
        );
        assert!(made.body.get("Plaintext").is_none());
        let secret = world.opened(&made.bytes("CiphertextForRecipient")).unwrap();
        assert_eq!(secret.len(), 32);
        let document = world.document();
        let read = world.ask(
            "Decrypt",
            &decrypt(&arn, &made.bytes("CiphertextBlob"), Some(&document)),
        );
        assert_eq!(
            (read.status, &read.body["KeyId"]),
            (200, &json!(arn)),
            "{read:?}"
        );
        assert!(read.body.get("Plaintext").is_none());
        assert_eq!(
            world.opened(&read.bytes("CiphertextForRecipient")),
            Some(secret)
        );
        let chunked = read.bytes("CiphertextForRecipient").len() == 493;
        assert_eq!(chunked, shape == Shape::Chunked);
    }
    assert_eq!(world.mock.handle().calls("Decrypt"), 2);
    assert_eq!(world.mock.handle().calls("Encrypt"), 0);
}

#[test]
fn both_shapes_come_by_turns() {
    let mut world = World::new();
    let arn = world.key(&open_policy());
    let lengths: Vec<usize> = (0..4)
        .map(|_| world.generate(&arn).bytes("CiphertextForRecipient").len())
        .collect();
    assert_eq!(lengths, [493, 489, 493, 489]);
}

#[test]
fn without_a_good_document_the_policy_refuses() {
    let mut world = World::new();
    let arn = world.key(&attested_policy(&pcr16(b"policy")));
    let denied = "AccessDeniedException";
    let without = world.ask("GenerateDataKey", &generate(&arn, None));
    assert_eq!((without.status, without.kind()), (400, denied));
    assert!(
        without.body["Message"]
            .as_str()
            .unwrap()
            .starts_with("MOCK AWS: User: ")
    );
    let made = world.generate(&arn);
    let blob = made.bytes("CiphertextBlob");
    assert_eq!(
        world.ask("Decrypt", &decrypt(&arn, &blob, None)).kind(),
        denied
    );
    let other = world.key(&attested_policy(&pcr16(b"another policy")));
    assert_eq!(world.generate(&other).kind(), denied);
    let document = world.document();
    let by_admin = world.ask_as("admin", "Decrypt", &decrypt(&arn, &blob, Some(&document)));
    assert_eq!(by_admin.kind(), denied);
    let encrypt = json!({"KeyId": arn, "Plaintext": BASE64.encode(&[1; 32])});
    assert_eq!(world.ask("Encrypt", &encrypt).kind(), denied);
}

#[test]
fn where_the_policy_lets_it_a_caller_without_document_has_the_plaintext() {
    let mut world = World::new();
    let arn = world.key(&open_policy());
    let made = world.ask("GenerateDataKey", &generate(&arn, None));
    assert!(made.body.get("CiphertextForRecipient").is_none());
    let document = world.document();
    let read = world.ask(
        "Decrypt",
        &decrypt(&arn, &made.bytes("CiphertextBlob"), Some(&document)),
    );
    let secret = world.opened(&read.bytes("CiphertextForRecipient"));
    assert_eq!(secret, Some(made.bytes("Plaintext")));
    // What a forger of wrapped keys needs: Encrypt knows no Recipient.
    let mut encrypt = json!({"KeyId": arn, "Plaintext": BASE64.encode(&[1; 32])});
    let forged = world.ask("Encrypt", &encrypt).bytes("CiphertextBlob");
    let read = world.ask(
        "Decrypt",
        &json!({"CiphertextBlob": BASE64.encode(&forged)}),
    );
    assert_eq!(read.bytes("Plaintext"), [1; 32]);
    encrypt["Recipient"] = recipient(&document);
    assert_eq!(
        world.ask("Encrypt", &encrypt).kind(),
        "SerializationException"
    );
}

#[test]
fn documents_of_another_root_or_another_time_are_refused() {
    let mut world = World::new();
    let arn = world.key(&open_policy());
    let ask = |world: &World, document: &[u8]| {
        let answer = world.ask("GenerateDataKey", &generate(&arn, Some(document)));
        (answer.status == 200)
            .then_some(())
            .ok_or(answer.body.to_string())
    };
    let document = world.document();
    world.wait(300_000);
    assert_eq!(ask(&world, &document), Ok(()));
    world.wait(1);
    assert!(
        ask(&world, &document)
            .unwrap_err()
            .contains("older than 5 minutes")
    );
    let public = world.rsa.public_key().as_der().unwrap();
    let mut of = |ahead: u64| {
        world.wait(ahead);
        let document = world.nsm.attest(Some(public.as_ref()), None, None).unwrap();
        world.clock.fetch_sub(ahead, Ordering::SeqCst);
        document
    };
    let (ahead, too_far) = (of(10_000), of(10_001));
    assert_eq!(ask(&world, &ahead), Ok(()));
    assert!(ask(&world, &too_far).unwrap_err().contains("document"));
    let other = nsm(&world.clock, Authority::new(NOW, &mut os_random))
        .attest(Some(public.as_ref()), None, None)
        .unwrap();
    assert!(ask(&world, &other).unwrap_err().contains("document"));
    let mut changed = world.document();
    *changed.last_mut().unwrap() ^= 1;
    assert!(ask(&world, &changed).unwrap_err().contains("document"));
    assert!(
        ask(&world, b"no document")
            .unwrap_err()
            .contains("document")
    );
}

#[test]
fn a_document_must_name_an_rsa_key_of_2048_bits_in_der() {
    let mut world = World::new();
    let arn = world.key(&open_policy());
    let public = world.rsa.public_key().as_der().unwrap().as_ref().to_vec();
    let pkcs1 = public[24..].to_vec();
    let larger = PrivateDecryptingKey::generate(KeySize::Rsa3072).unwrap();
    let larger = larger.public_key().as_der().unwrap().as_ref().to_vec();
    let longer = [&public[..], &[0]].concat();
    let mut wrong_algorithm = public.clone();
    wrong_algorithm[16] = 7;
    assert_eq!(public.len(), 294);
    // The exponent 3, so two bytes less in each length.
    let mut exponent = [&public[..289], &[2, 1, 3]].concat();
    for length in [3, 22, 27] {
        exponent[length] -= 2;
    }
    assert!(PublicEncryptingKey::from_der(&exponent).is_ok());
    for (key, good) in [
        (Some(&public), true),
        (None, false),
        (Some(&pkcs1), false),
        (Some(&larger), false),
        (Some(&longer), false),
        (Some(&exponent), false),
        (Some(&wrong_algorithm), false),
    ] {
        let document = world
            .nsm
            .attest(key.map(Vec::as_slice), None, None)
            .unwrap();
        let answer = world.ask("GenerateDataKey", &generate(&arn, Some(&document)));
        assert_eq!(answer.status == 200, good, "{answer:?}");
    }
    let mut asked = generate(&arn, Some(&world.document()));
    asked["Recipient"]["KeyEncryptionAlgorithm"] = "RSAES_OAEP_SHA_1".into();
    assert_eq!(
        world.ask("GenerateDataKey", &asked).kind(),
        "ValidationException"
    );
}

#[test]
fn a_ciphertext_opens_only_in_its_context_and_by_its_key() {
    let mut world = World::new();
    let (arn, other) = (world.key(&open_policy()), world.key(&open_policy()));
    let blob = world.generate(&arn).bytes("CiphertextBlob");
    let kind = |world: &World, change: &dyn Fn(&mut Value)| {
        let mut asked = decrypt(&arn, &blob, None);
        change(&mut asked);
        world.ask("Decrypt", &asked).kind().to_owned()
    };
    assert_eq!(kind(&world, &|_| ()), "none");
    let unnamed = |asked: &mut Value| drop(asked.as_object_mut().unwrap().remove("KeyId"));
    assert_eq!(kind(&world, &unnamed), "none");
    let invalid = "InvalidCiphertextException";
    for context in [
        json!({}),
        json!({"anchorhold": "sealed/v1"}),
        json!({"anchorhold": "sealed/v1", "state": "B"}),
        json!({"anchorhold": "sealed/v1", "state": "A", "more": ""}),
        json!({"anchorhold": "sealed/v1stateA"}),
    ] {
        let in_context = |asked: &mut Value| asked["EncryptionContext"] = context.clone();
        assert_eq!(kind(&world, &in_context), invalid, "{context}");
    }
    let by_other = |asked: &mut Value| asked["KeyId"] = other.clone().into();
    assert_eq!(kind(&world, &by_other), "IncorrectKeyException");
    for place in [0, 20, 32, blob.len() - 1] {
        let mut changed = blob.clone();
        changed[place] ^= 1;
        let changed = |asked: &mut Value| asked["CiphertextBlob"] = BASE64.encode(&changed).into();
        assert_eq!(kind(&world, &changed), invalid, "byte {place}");
    }
    // The blob moved to the other key: its id is bound too.
    let mut moved = blob.clone();
    let id: uuid::Uuid = other.rsplit('/').next().unwrap().parse().unwrap();
    moved[15..31].copy_from_slice(id.as_bytes());
    let asked = decrypt(&other, &moved, None);
    assert_eq!(world.ask("Decrypt", &asked).kind(), invalid);
}

#[test]
fn members_and_keys_that_are_not_known_are_refused() {
    let world = World::new();
    let arn = world.key(&open_policy());
    let kind = |operation: &str, body: Value| world.ask(operation, &body).kind().to_owned();
    let serialization = "SerializationException";
    assert_eq!(
        kind(
            "Decrypt",
            json!({"CiphertextBlob": "AAAA", "GrantTokens": []})
        ),
        serialization
    );
    assert_eq!(
        kind("Decrypt", json!({"CiphertextBlob": "A"})),
        serialization
    );
    assert_eq!(
        kind("DescribeKey", json!({"KeyId": arn, "keyId": arn})),
        serialization
    );
    assert_eq!(kind("DescribeKey", json!([arn])), serialization);
    assert_eq!(kind("ReEncrypt", json!({})), "UnknownOperationException");
    let id = arn.rsplit('/').next().unwrap();
    assert_eq!(
        kind("DescribeKey", json!({"KeyId": id})),
        "InvalidArnException"
    );
    for other in [
        arn.replace(DEFAULT_REGION, "eu-west-1"),
        arn.replace(id, &uuid::Uuid::nil().to_string()),
        arn.replace(id, "../../credentials"),
        arn.replace(id, &id.to_uppercase()),
    ] {
        assert_eq!(
            kind("DescribeKey", json!({"KeyId": other})),
            "NotFoundException",
            "{other}"
        );
    }
    for size in [
        json!({}),
        json!({"NumberOfBytes": 0}),
        json!({"NumberOfBytes": 1025}),
        json!({"KeySpec": "AES_256", "NumberOfBytes": 32}),
        json!({"KeySpec": "RSA_2048"}),
    ] {
        let mut asked = size.clone();
        asked["KeyId"] = arn.clone().into();
        assert_eq!(
            kind("GenerateDataKey", asked),
            "ValidationException",
            "{size}"
        );
    }
    let other = "RSAES_OAEP_SHA_256";
    for (operation, asked) in [
        (
            "Encrypt",
            json!({"KeyId": arn, "Plaintext": "AAAA", "EncryptionAlgorithm": other}),
        ),
        (
            "Decrypt",
            json!({"CiphertextBlob": "AAAA", "EncryptionAlgorithm": other}),
        ),
        ("Encrypt", json!({"KeyId": arn, "Plaintext": ""})),
        (
            "Decrypt",
            json!({"CiphertextBlob": BASE64.encode(&[0; 6145])}),
        ),
    ] {
        assert_eq!(kind(operation, asked), "ValidationException");
    }
    let text = format!(r#"{{"KeyId":"{arn}","KeyId":"{arn}"}}"#);
    let request = world.request("default", "DescribeKey", text.as_bytes());
    let answer = String::from_utf8(world.exchange(&request).unwrap()).unwrap();
    assert!(answer.contains(serialization), "{answer}");
}

#[test]
fn a_key_says_what_a_client_must_check_and_has_no_grants() {
    let world = World::new();
    let arn = world.key(&open_policy());
    let described = world.ask("DescribeKey", &json!({"KeyId": arn}));
    let metadata = &described.body["KeyMetadata"];
    for (name, value) in [
        ("Arn", json!(arn)),
        ("Origin", json!("AWS_KMS")),
        ("KeyManager", json!("CUSTOMER")),
        ("MultiRegion", json!(false)),
        ("KeySpec", json!("SYMMETRIC_DEFAULT")),
        ("KeyState", json!("Enabled")),
        ("KeyUsage", json!("ENCRYPT_DECRYPT")),
    ] {
        assert_eq!(metadata[name], value, "{name}");
    }
    let grants = world.ask("ListGrants", &json!({"KeyId": arn}));
    assert_eq!(grants.body, json!({"Grants": [], "Truncated": false}));
}

#[test]
fn a_policy_that_locks_out_who_gives_it_wants_to_be_asked_for_twice() {
    let world = World::new();
    let locked = attested_policy(&pcr16(b"policy"))
        .to_string()
        .replace("kms:PutKeyPolicy", "kms:ListGrants");
    let malformed = "MalformedPolicyDocumentException";
    assert_eq!(
        world.ask("CreateKey", &json!({})).kind(),
        "AccessDeniedException"
    );
    let create = |body: Value| world.ask_as("admin", "CreateKey", &body);
    assert_eq!(create(json!({"Policy": locked})).kind(), malformed);
    assert_eq!(
        create(json!({"Policy": "{}", "BypassPolicyLockoutSafetyCheck": true})).kind(),
        malformed
    );
    let made = create(json!({"Policy": locked, "BypassPolicyLockoutSafetyCheck": true}));
    let arn = &made.body["KeyMetadata"]["Arn"];
    let read = world.ask(
        "GetKeyPolicy",
        &json!({"KeyId": arn, "PolicyName": "default"}),
    );
    assert_eq!(
        read.body,
        json!({"Policy": locked, "PolicyName": "default"})
    );
    for profile in ["default", "admin"] {
        let put = json!({"KeyId": arn, "Policy": open_policy().to_string()});
        assert_eq!(
            world.ask_as(profile, "PutKeyPolicy", &put).kind(),
            "AccessDeniedException"
        );
    }
    let made = create(json!({"Description": "mine"}));
    let arn = &made.body["KeyMetadata"]["Arn"];
    let put = |bypass: bool, policy: &str| {
        let body =
            json!({"KeyId": arn, "Policy": policy, "BypassPolicyLockoutSafetyCheck": bypass});
        world.ask_as("admin", "PutKeyPolicy", &body)
    };
    assert_eq!(put(false, &locked).kind(), malformed);
    assert_eq!(put(true, "{}").kind(), malformed);
    assert_eq!(
        (put(true, &locked).status, put(true, &locked).kind()),
        (200, "AccessDeniedException")
    );
}

#[test]
fn the_server_shows_what_a_test_of_clients_needs() {
    let world = World::new();
    assert!(world.connect(HOST).is_ok());
    assert!(world.connect("localhost").is_ok());
    assert!(world.connect("kms.eu-west-1.amazonaws.com").is_err());
    for (certificate, why) in [
        (Certificate::OtherName, "not valid for name"),
        (Certificate::Expired, "expired"),
        (Certificate::NotYetValid, "not valid yet"),
        (Certificate::OtherAuthority, "BadSignature"),
    ] {
        world.mock.handle().set_certificate(certificate);
        let error = world.connect(HOST).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(why), "{certificate:?}: {error}");
    }
    world.mock.handle().set_certificate(Certificate::Good);
    assert!(world.connect(HOST).is_ok());
}

#[test]
fn unsigned_requests_and_other_hosts_are_refused() {
    let world = World::new();
    let body = json!({"KeyId": "x"}).to_string();
    let request =
        String::from_utf8(world.request("default", "DescribeKey", body.as_bytes())).unwrap();
    let kind = |request: &str| {
        let answer = world.exchange(request.as_bytes()).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert!(
            body["message"].as_str().unwrap().starts_with("MOCK AWS: "),
            "{body}"
        );
        body["__type"].as_str().unwrap().to_owned()
    };
    assert_eq!(kind(&request), "InvalidArnException");
    assert_eq!(
        kind(&request.replace("authorization:", "authorisation:")),
        "MissingAuthenticationTokenException"
    );
    assert_eq!(
        kind(&request.replace("\"x\"", "\"y\"")),
        "InvalidSignatureException"
    );
    assert_eq!(
        kind(&request.replace(HOST, "kms.eu-west-1.amazonaws.com")),
        "ValidationException"
    );
    let unknown = "UnknownOperationException";
    assert_eq!(
        kind(&request.replace("TrentService", "TrentServices")),
        unknown
    );
    assert_eq!(kind(&request.replace("json-1.1", "json-1.0")), unknown);
    assert_eq!(kind(&request.replace("POST / ", "POST /?a=b ")), unknown);
    assert_eq!(kind(&request.replace("POST / ", "PUT / ")), unknown);
    assert_eq!(world.mock.handle().calls("DescribeKey"), 1);
}

#[test]
fn faults_are_what_they_say_and_only_where_a_document_is() {
    let mut world = World::new();
    let (arn, handle) = (world.key(&open_policy()), world.mock.handle());
    let plain = |world: &World| world.ask("GenerateDataKey", &generate(&arn, None));
    let secret =
        |world: &World, answer: &Answer| world.opened(&answer.bytes("CiphertextForRecipient"));
    handle.set_fault(Some(Fault::Status(503, "KMSInternalException")));
    assert_eq!(
        (world.generate(&arn).status, plain(&world).status),
        (503, 200)
    );
    handle.set_fault(Some(Fault::Plaintext));
    let answer = world.generate(&arn);
    assert_eq!(secret(&world, &answer), Some(answer.bytes("Plaintext")));
    for (fault, value) in [
        (Fault::EmptyPlaintext, Some(json!(""))),
        (Fault::NullPlaintext, Some(Value::Null)),
        (Fault::OtherKeyId, None),
    ] {
        handle.set_fault(Some(fault));
        let answer = world.generate(&arn);
        assert_eq!(answer.body.get("Plaintext"), value.as_ref());
        assert_eq!(
            answer.body["KeyId"] != json!(arn),
            fault == Fault::OtherKeyId
        );
        assert_eq!(secret(&world, &answer).map(|secret| secret.len()), Some(32));
    }
    handle.set_fault(Some(Fault::NoCiphertext));
    assert!(
        world
            .generate(&arn)
            .body
            .get("CiphertextForRecipient")
            .is_none()
    );
    handle.set_fault(Some(Fault::OtherSecret));
    let document = world.document();
    let made = plain(&world);
    let read = world.ask(
        "Decrypt",
        &decrypt(&arn, &made.bytes("CiphertextBlob"), Some(&document)),
    );
    let other = secret(&world, &read).unwrap();
    assert!(other.len() == 32 && other != made.bytes("Plaintext"));
    handle.set_fault(Some(Fault::SecretLength(31)));
    let answer = world.generate(&arn);
    assert_eq!(secret(&world, &answer).map(|secret| secret.len()), Some(31));
    handle.set_fault(Some(Fault::OtherRecipient));
    let answer = world.generate(&arn);
    assert_ne!(secret(&world, &answer).map(|secret| secret.len()), Some(32));
    handle.set_fault(None);
    assert_eq!(world.generate(&arn).status, 200);
}

#[test]
fn faults_of_messages_change_their_lengths() {
    let mut world = World::new();
    let (arn, handle) = (world.key(&open_policy()), world.mock.handle());
    handle.set_shape(Some(Shape::Chunked));
    for (fault, length) in [
        (None, 493),
        (Some(Fault::TwoRecipients), 493 + 363),
        (Some(Fault::NoRecipients), 493 - 363 - 2),
        (Some(Fault::ShortMessage(3)), 490),
        (Some(Fault::LongMessage), 494),
    ] {
        handle.set_fault(fault);
        let message = world.generate(&arn).bytes("CiphertextForRecipient");
        assert_eq!(message.len(), length, "{fault:?}");
    }
    handle.set_fault(Some(Fault::NotJson));
    assert!(
        world
            .generate(&arn)
            .body
            .as_str()
            .unwrap()
            .starts_with("<html>")
    );
    handle.set_fault(Some(Fault::Padding(100_000)));
    let answer = world.generate(&arn);
    assert_eq!(answer.bytes("CiphertextForRecipient").len(), 493);
    let length = answer.head.split("content-length: ").nth(1).unwrap();
    let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
    assert!(length > 100_000);
}

#[test]
fn lines_can_be_silent_cut_or_slow() {
    let mut world = World::new();
    let (arn, handle) = (world.key(&open_policy()), world.mock.handle());
    let document = world.document();
    let body = generate(&arn, Some(&document)).to_string();
    let request = world.request("default", "GenerateDataKey", body.as_bytes());
    for bytes in [0, 1, 100, 500] {
        handle.set_fault(Some(Fault::CutAt(bytes)));
        assert_eq!(world.exchange(&request).unwrap().len(), bytes);
    }
    handle.set_fault(Some(Fault::Silence));
    let error = world.exchange(&request).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    handle.set_fault(Some(Fault::SlowBytes));
    let mut stream = world.connect(HOST).unwrap();
    stream.write_all(&request).unwrap();
    let begun = Instant::now();
    let mut begin = [0; 15];
    stream.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200 OK");
    assert!(begun.elapsed() > Duration::from_millis(14 * 20 - 1));
}

#[test]
fn what_was_made_is_there_again_and_nobody_else_can_read_it() {
    let world = World::new();
    let arn = world.key(&open_policy());
    let again = MockAws::open(&world.folder.path().join("aws"), DEFAULT_REGION).unwrap();
    assert_eq!(again.root_der(), world.mock.root_der());
    assert!(
        again
            .put_key_policy(&arn, &attested_policy(&pcr16(b"x")).to_string())
            .is_ok()
    );
    assert!(again.put_key_policy(&arn, "{}").is_err());
    assert_eq!(
        world.ask("ListGrants", &json!({"KeyId": arn})).kind(),
        "AccessDeniedException"
    );
    let mut folders = vec![world.folder.path().join("aws")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(std::fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600, "{entry:?}");
                files += 1;
            }
        }
    }
    assert_eq!(files, 5, "root, its key, credentials, lock, one KMS key");
    assert!(MockAws::open(&world.folder.path().join("aws"), "../x").is_err());
}

#[test]
fn it_listens_to_this_machine_alone() {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        let root = MockRoot::from_der(world.nsm.root().as_der()).unwrap();
        let clock = Arc::new(|| NOW * 1000);
        let serving = Arc::clone(&world.mock).serve(listener, root, clock);
        let served = tokio::time::timeout(Duration::from_secs(5), serving).await;
        let error = served.expect("it serves everybody").unwrap_err();
        assert!(error.to_string().contains("127.0.0.1"));
    });
}

#[test]
fn faults_have_names_on_the_command_line() {
    for (text, fault) in [
        ("status:503", Fault::Status(503, "KMSInternalException")),
        ("status:400", Fault::Status(400, "ThrottlingException")),
        ("cut-at:7", Fault::CutAt(7)),
        ("silence", Fault::Silence),
        ("two-recipients", Fault::TwoRecipients),
    ] {
        assert_eq!(text.parse(), Ok(fault));
    }
    for text in [
        "",
        "status",
        "status:200",
        "status:abc",
        "silence:1",
        "cut-at",
        "nothing",
    ] {
        assert!(text.parse::<Fault>().is_err(), "{text}");
    }
}

#[test]
fn the_command_serves_enclaves_of_its_state_directory() {
    let (mut world, arn) = World::of_command(&attested_policy(&pcr16(b"policy")), &[]);
    let made = world.generate(&arn);
    let secret = world.opened(&made.bytes("CiphertextForRecipient"));
    assert_eq!(secret.map(|secret| secret.len()), Some(32));
    let without = world.ask("GenerateDataKey", &generate(&arn, None));
    assert_eq!(without.kind(), "AccessDeniedException");
}

#[test]
fn the_command_does_wrong_what_it_is_told_to() {
    let (mut world, arn) = World::of_command(&open_policy(), &["--fault", "status:503"]);
    assert_eq!(world.generate(&arn).status, 503);
    assert_eq!(world.ask("DescribeKey", &json!({"KeyId": arn})).status, 200);
}

#[test]
fn the_command_refuses_to_be_seen_from_elsewhere() {
    let elsewhere = "nobody else may take this for AWS";
    for (option, value, why) in [
        ("--listen", "0.0.0.0:8443", elsewhere),
        ("--listen", "127.0.0.2:8443", elsewhere),
        ("--listen", "[::1]:8443", elsewhere),
        ("--fault", "nothing", "is no fault"),
        ("--region", "../x", "is no name of a region"),
    ] {
        let folder = private_folder();
        let output = Command::new(env!("CARGO_BIN_EXE_anchorhold-dev"))
            .args(["aws", option, value, "--state"])
            .arg(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(why), "{said}");
        assert_eq!(output.status.code(), Some(64), "{said}");
    }
}
