//! What verifying costs: a document, evidence, a token at the boundary, and what is refused.

use std::sync::Arc;

use attestation::{AppraisalPolicy, Evidence, Subject, Verifier};
use guard::{Guard, Requirements};
use harness::{Connection, Running, post, raw};
use serde_json::{Value, json};

use crate::{line, time};

const AUDIENCE: &str = "https://tools.example";

/// Prints them. `strict` is what one bare strict Ed25519 verification takes, in seconds.
pub(crate) fn figures(running: &Running, strict: f64) {
    documents(running);
    tokens(running, strict);
    random_bytes(running);
}

fn documents(running: &Running) {
    let nonce = [7; 32];
    let evidence = evidence(running, &data_encoding::HEXLOWER.encode(&nonce));
    let document = Evidence::parse(&evidence)
        .expect("evidence")
        .document()
        .to_vec();
    let verifier = running.verifier();
    let at = harness::now();
    let bare = time(1000, p384_verification);
    let whole = time(1000, || {
        attestation::verify_mock(&document, &verifier.root, at).expect("a good document");
    });
    let middle = document.len() / 2;
    let mut bad = document.clone();
    if let Some(last) = bad.last_mut() {
        *last ^= 1;
    }
    let malformed = time(10_000, || {
        assert!(attestation::verify_mock(&document[..middle], &verifier.root, at).is_err());
    });
    let forged = time(1000, || {
        assert!(attestation::verify_mock(&bad, &verifier.root, at).is_err());
    });
    let judged = time(1000, || {
        verifier
            .expecting(&nonce)
            .judge(Subject::Evidence(&evidence))
            .expect("good evidence");
    });
    let issuers = Some(Arc::default());
    let known = time(1000, || {
        let expecting = verifier.expecting(&nonce);
        Verifier {
            issuers: issuers.clone(),
            ..expecting
        }
        .judge(Subject::Evidence(&evidence))
        .expect("good evidence");
    });
    line(
        "baseline: five bare P-384 verifications (ms)",
        &format!("{:.3}", 5.0 * bare * 1e3),
        "",
    );
    line(
        "verify one document (ms)",
        &format!("{:.3}", whole * 1e3),
        "<= 1",
    );
    line(
        "  ratio to the baseline",
        &format!("{:.2} x", whole / (5.0 * bare)),
        "",
    );
    line(
        "verify one evidence file, every step listed (ms)",
        &format!("{:.3}", judged * 1e3),
        "",
    );
    line(
        "  the same, its parent instance known (ms)",
        &format!("{:.3}", known * 1e3),
        "",
    );
    line(
        "refuse a document cut in half (ms)",
        &format!("{:.4}", malformed * 1e3),
        "< verifying",
    );
    line(
        "refuse a document with a forged signature (ms)",
        &format!("{:.3}", forged * 1e3),
        "<= 1",
    );
}

/// Tokens against evidence that is known, each once, as a service at the boundary sees them.
fn tokens(running: &Running, strict: f64) {
    const N: u16 = 5000;
    let guard = guard(running);
    let challenge = guard.challenge().expect("a challenge");
    guard
        .learn(&evidence(running, &challenge))
        .expect("good evidence");
    // Tokens must be younger than the evidence.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let body = json!({"payload": {"action": "transfer", "amount": 100, "recipient": "account_123"}, "intent": "authorization",
        "audience": AUDIENCE});
    let request = raw("/sign", Some(body.to_string().as_bytes()));
    let mut connection = Connection::open(&running.socket).expect("a connection");
    let tokens: Vec<String> = (0..N)
        .map(|_| {
            let answer = connection.request(&request).expect("an answer").json();
            answer["vouch_token"]
                .as_str()
                .map(str::to_owned)
                .expect("a token")
        })
        .collect();
    let mut next = tokens.iter();
    let admitted = time(u32::from(N), || {
        guard
            .admit(next.next().expect("as many"))
            .expect("a good token");
    });
    let replayed = time(u32::from(N), || assert!(guard.admit(&tokens[0]).is_err()));
    line(
        "baseline: one bare strict verification (us)",
        &format!("{:.1}", strict * 1e6),
        "",
    );
    line(
        "admit one token, its evidence known (us)",
        &format!("{:.1}", admitted * 1e6),
        "<= 80",
    );
    line(
        "  ratio to the baseline",
        &format!("{:.2} x", admitted / strict),
        "",
    );
    line(
        "refuse a replayed token (us)",
        &format!("{:.1}", replayed * 1e6),
        "",
    );
}

/// A guard that accepts what is running.
fn guard(running: &Running) -> Guard {
    let verifier = running.verifier();
    let [image] = &verifier.measurements;
    let policy = format!(
        "version = 1\n[[images]]\nlabel = \"a\"\nregisters = {{ PCR0 = \"{}\", PCR1 = \"{}\", PCR2 = \"{}\" }}\n\
         [[bundles]]\nlabel = \"b\"\ndigest = \"{}\"\n",
        image.pcr0,
        image.pcr1,
        image.pcr2,
        verifier.bundle.digest().digest()
    );
    let policy = AppraisalPolicy::from_toml(policy.as_bytes()).expect("a policy");
    let requirements = Requirements {
        mock_root: Some(verifier.root),
        max_tokens_of_one: 100_000,
        ..Requirements::new(AUDIENCE, policy)
    };
    Guard::new(requirements).expect("a guard")
}

/// Bytes that mean nothing, as each kind of input; all of the same size, but those that come in
/// text.
fn random_bytes(running: &Running) {
    let guard = guard(running);
    let mut random = vec![0; 4096];
    aws_lc_rs::rand::fill(&mut random).expect("randomness");
    let text = data_encoding::BASE64URL_NOPAD.encode(&random);
    let dotted = format!(
        "{}.{}.{}",
        &text[..100],
        &text[100..1000],
        &text[1000..1086]
    );
    let at = harness::now();
    let kinds: [(&str, &dyn Fn() -> bool); 4] = [
        ("document", &|| {
            attestation::verify_genuine(&random, at).is_ok()
        }),
        ("evidence", &|| Evidence::parse(&random).is_ok()),
        ("token", &|| guard.admit(&dotted).is_ok()),
        ("credential", &|| {
            identity::credential::canonical(&random).is_ok()
        }),
    ];
    for (kind, accepts) in kinds {
        let refused = time(10_000, || assert!(!accepts()));
        line(
            &format!("refuse random bytes as a {kind} (us)"),
            &format!("{:.2}", refused * 1e6),
            "<= 10",
        );
    }
}

fn evidence(running: &Running, nonce: &str) -> Vec<u8> {
    let answer =
        post(&running.socket, "/attestation", &json!({ "nonce": nonce })).expect("evidence");
    assert_eq!(answer.json(), Value::Null, "evidence is no JSON");
    answer.body
}

/// One P-384 verification with the same library, on a key and signature made once.
fn p384_verification() {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
        UnparsedPublicKey,
    };
    static ONCE: std::sync::OnceLock<(Vec<u8>, Vec<u8>)> = std::sync::OnceLock::new();
    let message = [42; 4000];
    let (public, signature) = ONCE.get_or_init(|| {
        let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key");
        let signature = key
            .sign(&SystemRandom::new(), &message)
            .expect("a signature");
        (
            key.public_key().as_ref().to_vec(),
            signature.as_ref().to_vec(),
        )
    });
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, public)
        .verify(&message, signature)
        .expect("a good signature");
}
