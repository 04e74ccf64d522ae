//! Writes what the targets begin with: `seeds FOLDER` makes `FOLDER/TARGET/NAME`.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use attestation::{Evidence, KeyDescription, POSSESSION_TAG, Possession};
use data_encoding::BASE64URL_NOPAD;
use eif::Parts;
use fuzzing::{AT, DID, KEY, KID, claims, documents, expected, intent, sign_parts};
use identity::caller::ObservedCaller;
use identity::cose::{self, Purpose};
use identity::credential::{self, Content};
use identity::request::{Approval, CallerProof};
use identity::succession::{self, Order, Statement, Version};
use identity::{
    ApprovalId, BootId, Digest, Format, Payload, PublicKey, Tee, cbor, did, sha256, token,
};
use minicbor::Encode;
use policy::{Annex, Bundle};
use protocol::{
    ChannelProof, ExitReason, Hello, Outcome, Refusal, Request, RequestFrame, Requester,
    ResponseFrame, Sign, Welcome, write_frame,
};
use serde_json::json;
use state::{
    Certificate, Custody, GenesisRecord, Header, Newborn, Pair, Rollback, Sealed, SealedIdentity,
    Terms, Use, Wrap, first_authority,
};

const POLICY: &str = include_str!("../../../attestation/tests/vectors/cases/policy.toml");

struct Corpus(PathBuf);

impl Corpus {
    fn add(&self, target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let folder = self.0.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("seeds FOLDER")?;
    let corpus = Corpus(Path::new(&folder).to_path_buf());
    from_vectors(&corpus)?;
    identity(&corpus)?;
    texts(&corpus)?;
    window(&corpus)?;
    corpus.add("eif", "image", &image()?)?;
    kept(&corpus)?;
    gateway(&corpus)?;
    services(&corpus)?;
    asked(&corpus)?;
    others(&corpus)?;
    Ok(())
}

/// What agents and operators send to the sidecar.
fn asked(corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    let json = "application/json";
    let requests = [
        (
            "POST /sign",
            json,
            r#"{"intent": "pay", "payload": {"amount": 1, "note": ["\u00e4", null, true]}, "identity": "agent"}"#,
        ),
        (
            "POST /sign",
            json,
            r#"{"intent": {"action": "pay", "target": "bob", "resource": "https://bank.example/a"}, "payload": {"amount": 1}, "identity": "asks", "audience": "https://bank.example", "validity_seconds": 60, "format": "vouch-jwt"}"#,
        ),
        (
            "POST /sign",
            json,
            r#"{"intent": {"action": "read", "target": "logs", "resource": "https://x/logs", "delegatee": "did:key:z6MktwupdmLXVVqTzCw4i46r4uGyosGXRnR3XjN4Zq7oMMsw"}, "payload": {}, "identity": "agent", "format": "vouch-credential"}"#,
        ),
        (
            "POST /sign",
            json,
            r#"{"intent": {"action": "read"}, "payload": {}, "identity": "agent", "format": "envelope", "delegation": [], "approval": "00000000000000000000000000000000", "proof": {"jws": "a.b.c", "attestation": "AA"}}"#,
        ),
        (
            "POST /token",
            "application/x-www-form-urlencoded",
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=a.b.c&subject_token_type=urn:ietf:params:oauth:token-type:jwt&scope=a+b&resource=https://x/&identity=agent&audience=x&actor_token=a.b.c&actor_token_type=urn:ietf:params:oauth:token-type:jwt",
        ),
        (
            "POST /verify",
            json,
            r#"{"token": "a.b.c", "evidence": "AA", "nonce": "00", "form": "ear"}"#,
        ),
        (
            "POST /attestation",
            json,
            r#"{"nonce": "000102030405060708090a0b0c0d0e0f", "identity": "agent"}"#,
        ),
        (
            "POST /rotate",
            json,
            r#"{"identity": "agent", "order": "AA"}"#,
        ),
        (
            "POST /approvals/00000000000000000000000000000000",
            json,
            r#"{"approval": "a.b.c"}"#,
        ),
        ("GET /approvals", "", ""),
        ("GET /identity?identity=agent", "", ""),
        ("GET /.well-known/did.json?identity=%61sks", "", ""),
        ("GET /.well-known/jwks.json", "", ""),
        ("GET /status", "", ""),
        ("GET /metrics", "", ""),
        ("GET /services", "", ""),
        ("PUT /credentials/agent/github", json, r#"{"order": "AA"}"#),
        ("DELETE /credentials/agent/github", "", ""),
        ("POST /credentials/lease", json, r#"{"lease": "AA"}"#),
        ("POST /state/birth", json, r#"{"order": "AA"}"#),
    ];
    for (number, (line, kind, body)) in requests.iter().enumerate() {
        let request = format!("{line}\n{kind}\n{body}");
        corpus.add("http_request", &number.to_string(), request.as_bytes())?;
    }
    let written = json!({
        "audience": "https://bank.example", "delegation": "a.b.c", "format": "vouch-jwt", "identity": "agent",
        "intent": {"action": "pay", "target": "bob", "resource": "account", "delegatee": DID.as_str()},
        "payload": {"b": [1, null, "x"], "a": {"\u{e4}": -1}}, "validity_seconds": 60,
    });
    corpus.add("approval", "request", written.to_string().as_bytes())?;
    let approval = Approval {
        approval: ApprovalId::new([1; 16]),
        boot_id: BootId::new([2; 16]),
        exp: AT.0 + 60,
        request: Digest([3; 32]),
    };
    let proof = CallerProof {
        boot_id: BootId::new([2; 16]),
        exp: AT.0 + 60,
        jti: uuid::Uuid::from_bytes([1; 16]),
        key_version: 1,
        request: Digest([3; 32]),
    };
    for (name, jws) in [
        ("approval", approval.sign(&*KEY)?),
        ("proof", proof.sign(&*KEY)?),
    ] {
        corpus.add("approval", name, &lines_of(&jws)?)?;
    }
    Ok(())
}

/// Header and claims of a token, one per line.
fn lines_of(jws: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut parts = jws.split('.');
    let mut next = || BASE64URL_NOPAD.decode(parts.next().unwrap_or_default().as_bytes());
    Ok([next()?, next()?].join(&b'\n'))
}

/// What issuers outside sign, and what the operator changes.
fn others(corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    let header = json!({"alg": "EdDSA", "kid": KEY.public().thumbprint(), "typ": "at+jwt"});
    let link = json!({"iss": "did:web:b.example", "sub": "https://idp.example", "intent": "{}", "iat": AT.0 - 60, "sig": "s"});
    let claims = json!({
        "iss": "https://idp.example", "sub": "user:a", "exp": AT.0 + 60, "nbf": AT.0 - 5, "iat": AT.0 - 5, "jti": "j", "scope": "b a b",
        "resource": "https://x/a", "aud": ["agent", "two"], "may_act": {"sub": "agent"}, "act": {"sub": "s2", "act": {"sub": "s1"}},
        "vouch": {"intent": {"action": "read", "target": "t", "resource": "https://x/a"}, "delegation_chain": [link]},
    });
    let token = format!("{header}\n{claims}\na\nhttps://x/a/b");
    corpus.add("foreign_token", "token", token.as_bytes())?;
    let plain = json!({"iss": "https://idp.example", "sub": "user:a", "exp": AT.0 + 60, "scope": "read", "aud": "agent"});
    corpus.add(
        "foreign_token",
        "plain",
        format!("{header}\n{plain}\nread\n").as_bytes(),
    )?;

    let annex = format!(
        "version = 3\nrevoked = [\"credential:agent/github@7\", \"agent:x\", \"{}\"]\n\
         [[callers]]\nname = \"crew\"\nuid = 1000\nexecutables = [\"{}\"]\nunit = \"a.service\"\nsocket = \"s\"\n\
         [[issuers]]\nname = \"corp\"\niss = \"https://idp.example\"\nkeys = [\"{}\"]\n\
         [[status_lists]]\nid = \"https://x/1\"\nencoded = \"uH4sIAAAAAAAAA-3BMQEAAADCoPVPbQwfoAAAAAAAAAAAAAAAAAAAAIC3AYbSVKsAQAAA\"\n",
        "a1".repeat(32),
        "b2".repeat(32),
        KEY.public().to_multikey(),
    );
    corpus.add("annex", "toml", annex.as_bytes())?;
    corpus.add(
        "annex",
        "canonical",
        &identity::json::canonical(&Annex::from_toml(&annex)?)?,
    )?;
    corpus.add("annex", "signed", &Annex::from_toml(&annex)?.sign(&*KEY)?)?;
    Ok(())
}

/// What agents ask of services.
fn services(corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    let requests = [
        "/chat/completions?stream=true\nContent-Type: application/json\nX-Api-Key: placeholder\nConnection: close, x-hop",
        "/bot12:placeholder/getMe?key=x&a=%6bey\nX_Forwarded_For: 1.2.3.4\nRange: bytes=0-9",
        "/a%20b/..%2f/%252e?k%65y=a+b&key\nTransfer-Encoding: chunked\nHost: evil.example",
    ];
    for (number, request) in requests.iter().enumerate() {
        let name = format!("request-{number}");
        corpus.add("service_request", &name, request.as_bytes())?;
    }
    for kind in 0..6 {
        let answer = [&[kind, 7, 3][..], b"{\"error\": \"no such key: sk-live-\"}"].concat();
        corpus.add("scrub", &format!("answer-{kind}"), &answer)?;
    }
    Ok(())
}

/// What the gateway looks through.
fn gateway(corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    let bodies = [
        r#"{"card": "4532-0151-1283-0366", "n": 4.532015112830366e15, "a": ["4532", "0151", "1283", "0366"]}"#,
        r#"{"q": "my ssn is 123-45-6789, DE89 3704 0044 0532 0130 00, +1 (212) 555-0123, a@b.example"}"#,
        r#"{"arguments": "{\"n\": \"\\u0034532015112830366\"}", "b": "cGF5IDQ1MzItMDE1MS0xMjgzLTAzNjY="}"#,
        r#"{"client_secret": "q7Zt2Lw9Xc4Vb8Nm1Kd6Rf3H", "k": "AKIAABCDEFGHIJKLMNOP"}"#,
    ];
    for (at, body) in bodies.iter().enumerate() {
        corpus.add("inspect", &at.to_string(), body.as_bytes())?;
    }
    let events = [
        "\u{14}data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"4532 0151\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" 1283 0366\"}}]}\n\ndata: [DONE]\n\n",
        "\u{30}event: x\r\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"partial_json\":\"{\\\"n\\\": 4532\"}}\r\n\r\n: 123-45-6789\r\n\r\n",
        "\u{8}{\"card\": 4532015112830366}\nplain a@b.cd, DE89 3704 0044 0532 0130 00\n",
    ];
    for (at, events) in events.iter().enumerate() {
        corpus.add("stream", &at.to_string(), events.as_bytes())?;
    }
    let manifests = [
        r#"{"agent_id": "a", "capabilities": {"reversibility": "partial", "undo_window": "24h", "sla_latency": "2000ms"}, "privacy_contract": {"retention": "ephemeral"}}"#,
        r#"{"identity": {"agent_id": "a", "owner": "o"}, "trust_level": "trusted", "protocol_version": "1.0", "capabilities": {"sla_availability": 0.5}, "privacy": {"retention": "forever"}}"#,
    ];
    for (at, manifest) in manifests.iter().enumerate() {
        corpus.add("manifest", &at.to_string(), manifest.as_bytes())?;
    }
    Ok(())
}

/// A state that is kept, and what KMS says of it.
fn kept(corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    let arn = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    let pair = Pair {
        pcr0: Digest([1; 48]),
        pcr1: Digest([2; 48]),
        pcr2: Digest([3; 48]),
        policy: Digest([4; 48]),
    };
    let terms = Terms {
        rollback: Rollback::Accepted,
        custody: Custody::Kms,
        kms_key: arn.parse()?,
    };
    let boot = BootId::new([7; 16]);
    let born = Newborn {
        name: "agent".into(),
        environment: "test".into(),
        did: DID.to_string(),
        spki: KEY.public().to_spki(),
    };
    let of = (boot, pair.policy);
    let record = GenesisRecord::new("s", KEY.public(), KEY.public(), of, vec![born], AT);
    let order = state::Order::new("s", boot, pair, AT).sign(&*KEY)?;
    let names = vec!["agent".into()];
    let certificate = Certificate::new("s", record.id(), 2, terms.clone(), names, vec![pair]);
    let identity = SealedIdentity {
        name: "agent".into(),
        environment: "test".into(),
        did: DID.to_string(),
        kid: KID.to_string(),
        version: 1,
        spki: KEY.public().to_spki(),
        use_: Use::Active,
    };
    let authority = first_authority(KEY.public(), &order);
    let header = Header::new(
        record.id(),
        "s",
        1,
        authority,
        terms.clone(),
        pair,
        boot,
        AT,
        vec![identity],
    );
    let wraps = vec![Wrap::kms(terms.kms_key, vec![9; 200])];
    let sealed = Sealed::new(&header, wraps, [8; 12], vec![7; 300], |statement| {
        cose::sign(Purpose::SEAL, statement, &*KEY)
    })?;
    corpus.add("sealed_state", "sealed", &sealed.to_vec())?;
    corpus.add("sealed_state", "genesis", &record.to_vec())?;
    corpus.add("sealed_state", "order", &order)?;
    corpus.add("sealed_state", "certificate", &certificate.sign(&*KEY)?)?;
    let answer = json!({"KeyId": arn, "CiphertextBlob": "AQID", "CiphertextForRecipient": "MIAG", "Plaintext": ""});
    corpus.add("kms_answer", "answer", answer.to_string().as_bytes())?;
    let refused = json!({"__type": "AccessDeniedException", "Message": "no"});
    corpus.add("kms_answer", "refused", refused.to_string().as_bytes())?;
    // ContentInfo, [0], EnvelopedData version 2, as KMS begins it.
    let begin = "308006092a864886f70d010703a080308002010231";
    corpus.add(
        "kms_answer",
        "message",
        &data_encoding::HEXLOWER.decode(begin.as_bytes())?,
    )?;
    Ok(())
}

/// The first document of each verdict, and its chain.
fn from_vectors(corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    let mut seen = BTreeSet::new();
    let mut good = None;
    for (_, expected, document) in documents() {
        if seen.insert(expected) {
            corpus.add("document", expected, &document)?;
            if let Some(chain) = chain(&document) {
                corpus.add("chain", expected, &chain)?;
            }
        }
        if expected == "accepted" && good.is_none() {
            good = Some(document);
        }
    }
    let bundle = Bundle::from_toml(POLICY)?.canonical();
    let key = KeyDescription {
        name: "agent".into(),
        did: DID.to_string(),
        kid: KID.to_string(),
        version: 1,
        spki: KEY.public().to_spki(),
    };
    let proven = Possession {
        tag: POSSESSION_TAG.into(),
        nonce: vec![1; 32],
        document: [2; 32],
    };
    let possession = cose::sign(Purpose::POSSESSION, &cbor::to_vec(&proven), &*KEY)?;
    let evidence = Evidence::new(
        good.ok_or("no vector is good")?,
        key,
        bundle,
        KEY.public().to_spki(),
        None,
        possession,
    );
    corpus.add("evidence", "evidence", &evidence.to_vec())?;
    Ok(())
}

/// The certificates of a document, each after its length; none if it cannot be read.
fn chain(document: &[u8]) -> Option<Vec<u8>> {
    let mut outer = minicbor::Decoder::new(document);
    outer.array().ok()?;
    outer.skip().ok()?;
    outer.skip().ok()?;
    let mut payload = minicbor::Decoder::new(outer.bytes().ok()?);
    let (mut leaf, mut chain) = (None, Vec::new());
    let fields = payload.map().ok()?.unwrap_or(9);
    for _ in 0..fields {
        match payload.str().ok()? {
            "certificate" => leaf = payload.bytes().ok(),
            "cabundle" => {
                for _ in 0..payload.array().ok()?? {
                    push(&mut chain, payload.bytes().ok()?)?;
                }
            }
            _ => payload.skip().ok()?,
        }
    }
    push(&mut chain, leaf?)?;
    Some(chain)
}

fn push(chain: &mut Vec<u8>, certificate: &[u8]) -> Option<()> {
    chain.extend(u16::try_from(certificate.len()).ok()?.to_be_bytes());
    chain.extend(certificate);
    Some(())
}

fn identity(corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    corpus.add(
        "token",
        "signed",
        token::sign(&claims(), &KID, &*KEY)?.as_bytes(),
    )?;
    let header = json!({"alg": "EdDSA", "kid": KID.as_str(), "typ": "vouch+jwt"}).to_string();
    let parts = [header.as_bytes(), b"\n", &serde_json::to_vec(&claims())?].concat();
    token::verify(
        &sign_parts(header.as_bytes(), &serde_json::to_vec(&claims())?),
        &expected(),
    )?;
    corpus.add("token", "parts", &parts)?;

    let content = Content {
        id: uuid::Uuid::from_bytes([1; 16]),
        issuer: DID.clone(),
        valid_from: AT,
        valid_until: AT.plus(300),
        intent: intent(),
        delegation_chain: Vec::new(),
        payload: Payload::parse(b"{\"amount\":100}")?,
        audience: claims().aud,
        binding: sha256(b"user_data"),
        tee: Tee::Mock,
        caller: claims().caller,
    };
    let credential = serde_json::to_vec(&credential::sign(content, &KID, &*KEY)?)?;
    credential::verify(&credential, &expected())?;
    corpus.add("credential", "credential", &credential)?;

    let grant = |by: &str, to: &str, resource: &str| {
        json!({
            "@context": ["https://www.w3.org/ns/credentials/v2", "https://vouch-protocol.com/contexts/v1"], "id": "urn:uuid:1",
            "type": ["VerifiableCredential", "VouchCredential"], "issuer": by, "validFrom": AT, "validUntil": AT.plus(60),
            "credentialSubject": {
                "id": by, "intent": {"action": "read", "target": "logs", "resource": resource, "delegatee": to},
            },
            "credentialStatus": {"type": "BitstringStatusListEntry", "statusListIndex": "7", "statusListCredential": "https://x/1"},
            "proof": {
                "type": "DataIntegrityProof", "cryptosuite": "eddsa-jcs-2022", "verificationMethod": format!("{by}#key-1"),
                "proofPurpose": "assertionMethod", "proofValue": "z",
            },
        })
    };
    let chain = json!([
        grant("did:web:a.example", "did:web:b.example", "https://x/logs"),
        grant(
            "did:web:b.example",
            "did:web:c.example",
            "https://x/logs/app"
        ),
    ]);
    corpus.add("grants", "chain", chain.to_string().as_bytes())?;
    corpus.add(
        "grants",
        "list",
        b"uH4sIAAAAAAAAA-3BMQEAAADCoPVPbQwfoAAAAAAAAAAAAAAAAAAAAIC3AYbSVKsAQAAA",
    )?;
    corpus.add(
        "grants",
        "token",
        token::sign(&claims(), &KID, &*KEY)?.as_bytes(),
    )?;

    let document = did::Document::new(DID.clone(), &[KEY.public().clone()])?;
    corpus.add(
        "did_document",
        "document",
        document.to_json().to_string().as_bytes(),
    )?;
    corpus.add(
        "did_document",
        "jwks",
        json!({"keys": document.to_jwks()}).to_string().as_bytes(),
    )?;

    let version = |key: &PublicKey, n| Version::new(&did::Did::key(key), key, n);
    let next = KEY.public().clone();
    let statement = Statement {
        tag: "anchorhold/successor/v1".into(),
        old: version(&next, 1)?,
        new: version(&next, 2)?,
        time: AT.0,
    };
    corpus.add(
        "statement",
        "succession",
        &succession::sign(&statement, &*KEY, &*KEY)?,
    )?;
    corpus.add("statement", "statement", &cbor::to_vec(&statement))?;
    let order = Order {
        identity: "agent".into(),
        boot_id: identity::BootId::new([3; 16]),
        version: 1,
        not_after: AT.0,
    };
    corpus.add("statement", "order", &order.sign(&*KEY)?)?;
    corpus.add("statement", "payload of an order", &cbor::to_vec(&order))?;
    corpus.add("statement", "key", &KEY.public().to_spki())?;
    Ok(())
}

fn texts(corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    corpus.add("bundle", "toml", POLICY.as_bytes())?;
    corpus.add(
        "bundle",
        "canonical",
        &Bundle::from_toml(POLICY)?.canonical(),
    )?;
    let pcr = |byte: &str| byte.repeat(48);
    let measured = json!({"HashAlgorithm": "Sha384 { ... }", "PCR0": pcr("01"), "PCR1": pcr("02"), "PCR2": pcr("03")});
    corpus.add(
        "measurements",
        "nitro-cli",
        json!({"Measurements": measured}).to_string().as_bytes(),
    )?;
    let verifier = format!(
        "version = 1\nmax_age = \"10m\"\naudience = \"https://tools.example\"\nnonce = \"optional\"\nlowest_epoch = 1\n\
         dids = [\"{did}\"]\nissuers = [\"{did}\"]\n\
         [[images]]\nlabel = \"1\"\nregisters = {{ PCR0 = \"{}\", PCR1 = \"{}\", PCR2 = \"{}\", PCR8 = \"{}\" }}\n\
         [[bundles]]\nlabel = \"a\"\ndigest = \"{}\"\n[[bundles]]\nlabel = \"b\"\nPCR16 = \"{}\"\n\
         [[deny.images]]\nreason = \"r\"\nregisters = {{ PCR0 = \"{}\" }}\n\
         [[deny.certificates]]\nissuer = \"CN=x\"\nserial = \"0a\"\nreason = \"r\"\n",
        pcr("01"),
        pcr("02"),
        pcr("03"),
        pcr("04"),
        pcr("05"),
        pcr("06"),
        pcr("07"),
        did = *DID
    );
    attestation::AppraisalPolicy::from_toml(verifier.as_bytes())?;
    corpus.add("appraisal_policy", "everything", verifier.as_bytes())?;
    corpus.add(
        "json",
        "everything",
        br#"{"a":[1,-2,null,true,false,"\u00e4\ud83d\ude00\n"],"":{"b":9007199254740991}}"#,
    )?;
    Ok(())
}

fn window(corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    let hello = Hello {
        version: protocol::VERSION,
        boot_id: identity::BootId::new([1; 16]),
        challenge: [2; 32],
    };
    let of = || Requester {
        caller: ObservedCaller::ids(1000, 1000),
        identity: Some("agent".into()),
    };
    let sign = Sign {
        requester: of(),
        format: Format::VouchJwt,
        action: "pay".into(),
        target: "bob".into(),
        resource: "account".into(),
        payload: "{\"amount\":1}".into(),
        audience: None,
        validity_seconds: Some(60),
        proof: Some(protocol::PresentedProof {
            jws: "a.b.c".into(),
            document: Some(vec![1]),
        }),
        delegation: Some("a.b.c".into()),
        approval: Some(identity::ApprovalId::new([1; 16])),
        delegatee: None,
    };
    let requests = [
        Request::Status,
        Request::Provision {
            bundle: vec![1, 2, 3],
            before: None,
        },
        Request::Sign(sign),
        Request::Attest {
            requester: of(),
            nonce: vec![1; 32],
        },
        Request::Annex { signed: vec![1, 2] },
        Request::Records { from: 7 },
        Request::Overview {
            caller: ObservedCaller::named("crew"),
            all: true,
        },
        Request::Describe(Requester {
            caller: ObservedCaller::named("crew"),
            identity: None,
        }),
    ];
    let mut all = Vec::new();
    for (id, request) in (0..).zip(requests) {
        write_frame(&RequestFrame { id, request }, &mut all)?;
    }
    corpus.add("frames", "requests", &all)?;
    let refusal = || Refusal {
        kind: protocol::Kind::Denied,
        code: "not_allowed".into(),
        message: "no".into(),
        retry_after: Some(1),
    };
    let refused = ResponseFrame {
        id: 1,
        outcome: Outcome::Refused(refusal()),
        event: Some(b"{}".to_vec()),
    };
    corpus.add("frames", "refused", &frame(&refused)?)?;
    corpus.add("frames", "hello", &frame(&hello)?)?;
    corpus.add(
        "frames",
        "proof",
        &frame(&ChannelProof::new(&hello, &*KEY)?)?,
    )?;
    corpus.add(
        "frames",
        "welcome",
        &[
            frame(&Welcome::Welcome)?,
            frame(&Welcome::Refused(refusal()))?,
        ]
        .concat(),
    )?;
    corpus.add("frames", "exit", &frame(&ExitReason::new("panic", "why"))?)?;
    Ok(())
}

fn frame<T: Encode<()>>(message: &T) -> Result<Vec<u8>, protocol::Error> {
    let mut out = Vec::new();
    write_frame(message, &mut out)?;
    Ok(out)
}

/// The smallest image: a kernel that is only a boot header, and two empty archives.
fn image() -> Result<Vec<u8>, eif::Error> {
    let mut kernel = vec![0; 0x240];
    kernel[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&[0x0c, 0x02]);
    kernel[0x211] = 1;
    kernel[0x236] = 1;
    let metadata = json!({
        "ImageName": "a", "ImageVersion": "1",
        "BuildMetadata": {"BuildTime": "t", "BuildTool": "b", "BuildToolVersion": "1", "OperatingSystem": "o", "KernelVersion": "k"},
        "DockerInfo": null, "CustomMetadata": null
    });
    let ramdisk = eif::ramdisk(&[])?;
    let ramdisks = [&ramdisk[..], &ramdisk[..]];
    let metadata = metadata.to_string().into_bytes();
    Parts {
        kernel: &kernel,
        cmdline: "reboot=k",
        metadata: &metadata,
        ramdisks: &ramdisks,
        signature: None,
    }
    .to_image()
}
