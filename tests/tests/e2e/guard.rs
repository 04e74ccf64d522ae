//! The tower layer: a tool server that runs its tools for attested agents only, and the guard under
//! a clock of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ::guard::{CHALLENGE_PATH, EVIDENCE_PATH, Error, Guard, Requirements};
use attestation::AppraisalPolicy;
use data_encoding::BASE64URL_NOPAD;
use harness::{Answer, Running, now, post, program, wait_for};
use identity::UnixSeconds;
use serde_json::{Value, json};

const AUDIENCE: &str = "https://tools.example";

/// An agent: it has a sidecar, and no key.
struct Agent(Running);

impl Agent {
    fn start() -> Self {
        Self(Running::start())
    }

    fn ask(&self, request: &Value) -> String {
        let answer = post(&self.0.socket, "/sign", request).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()["vouch_token"].as_str().unwrap().to_owned()
    }

    /// A token for anything.
    fn token(&self) -> String {
        self.ask(&json!({"payload": {"x": 1}, "intent": "a", "audience": AUDIENCE}))
    }

    /// A token for one call of a tool.
    fn token_for(&self, call: &Value) -> String {
        let intent = json!({"action": call["method"], "target": AUDIENCE, "resource": call["params"]["name"]});
        self.ask(&json!({"payload": call["params"], "intent": intent, "audience": AUDIENCE}))
    }

    fn evidence(&self, nonce: &str) -> Vec<u8> {
        let answer = post(&self.0.socket, "/attestation", &json!({"nonce": nonce})).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.body
    }

    /// A policy that accepts this agent's image and bundle, and what `more` says at its begin.
    fn policy(&self, more: &str) -> String {
        let verifier = self.0.verifier();
        let [image] = verifier.measurements;
        format!(
            "version = 1\n{more}\n[[images]]\nlabel = \"signer\"\n\
             registers = {{ PCR0 = \"{}\", PCR1 = \"{}\", PCR2 = \"{}\" }}\n\
             [[bundles]]\nlabel = \"production\"\ndigest = \"{}\"\n",
            image.pcr0,
            image.pcr1,
            image.pcr2,
            verifier.bundle.digest().digest()
        )
    }

    fn requirements(&self, more: &str) -> Requirements {
        let policy = AppraisalPolicy::from_toml(self.policy(more).as_bytes()).unwrap();
        Requirements {
            mock_root: Some(self.0.verifier().root),
            ..Requirements::new(AUDIENCE, policy)
        }
    }
}

/// The example, as a process of its own.
struct ToolServer {
    process: Child,
    address: String,
}

impl ToolServer {
    fn start(agent: &Agent, more: &[&str]) -> Self {
        let policy = agent.0.folder().join("tools.toml");
        std::fs::write(&policy, agent.policy("")).unwrap();
        let mut process = Command::new(program("examples/tool-server"))
            .args(["--audience", AUDIENCE, "--verifier-policy"])
            .arg(&policy)
            .arg("--mock-root")
            .arg(agent.0.state.root())
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("http://").unwrap().to_owned();
        Self { process, address }
    }

    fn send(&self, head: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{head}host: tools\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        )
        .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head[9..12].parse().unwrap();
        Answer {
            status,
            head,
            body: answer[end + 4..].to_vec(),
        }
    }

    fn call(&self, call: &Value, authorization: &str) -> Answer {
        let head =
            format!("POST /mcp HTTP/1.1\r\ncontent-type: application/json\r\n{authorization}");
        self.send(&head, call.to_string().as_bytes())
    }

    fn call_with(&self, call: &Value, token: &str) -> Answer {
        self.call(call, &format!("authorization: Bearer {token}\r\n"))
    }

    /// Shows good evidence; tokens that are made from now on are younger than it.
    fn introduce(&self, agent: &Agent) {
        let learned = self.learn(&agent.evidence(&self.challenge()));
        assert_eq!(learned.status, 200, "{}", learned.json());
        assert!(learned.json()["until"].is_string());
    }

    fn learn(&self, evidence: &[u8]) -> Answer {
        self.send(&format!("POST {EVIDENCE_PATH} HTTP/1.1\r\n"), evidence)
    }

    fn challenge(&self) -> String {
        let answer = self.send(&format!("GET {CHALLENGE_PATH} HTTP/1.1\r\n"), b"");
        assert_eq!(
            (answer.status, answer.header("cache-control").as_deref()),
            (200, Some("no-store"))
        );
        answer.json()["nonce"].as_str().unwrap().to_owned()
    }
}

impl Drop for ToolServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Until the enclave's clock shows another second.
fn a_moment() {
    let begun = now();
    wait_for(|| now() > begun.plus(1));
}

fn transfer(id: u32, amount: u32) -> Value {
    let params = json!({"name": "transfer", "arguments": {"to": "bob", "amount": amount}});
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
}

/// The problem's status and code, and what RFC 6750 wants beside it.
fn refusal(answer: &Answer) -> (u16, String) {
    let json = answer.json();
    assert_eq!(
        answer.header("content-type").as_deref(),
        Some("application/problem+json"),
        "{}",
        answer.head
    );
    assert_eq!(json["status"], answer.status);
    assert_eq!(
        json["type"],
        format!("urn:anchorhold:error:{}", answer.code())
    );
    assert!(
        matches!(answer.status, 503) == answer.header("retry-after").is_some(),
        "{}",
        answer.head
    );
    assert!(
        matches!(answer.status, 401 | 403) == answer.header("www-authenticate").is_some(),
        "{}",
        answer.head
    );
    (answer.status, answer.code())
}

#[test]
fn a_tool_runs_for_a_fresh_token_of_an_attested_agent_and_for_nothing_else() {
    let agent = Agent::start();
    let server = ToolServer::start(&agent, &[]);
    let refused = |answer: Answer, status: u16, code: &str| {
        assert_eq!(
            refusal(&answer),
            (status, code.to_owned()),
            "{}",
            answer.json()
        );
        answer
    };

    // None at all: the scheme is named, and no more.
    let none = refused(server.call(&transfer(1, 5), ""), 401, "token_absent");
    assert_eq!(none.header("www-authenticate").as_deref(), Some("Bearer"));
    refused(
        server.call(&transfer(1, 5), "authorization: Basic YTpi\r\n"),
        401,
        "authorization_malformed",
    );
    refused(
        server.call_with(&transfer(1, 5), "no.token.this"),
        401,
        "base64",
    );

    // Nobody knows this key yet. The answer says how that is mended.
    let early = agent.token_for(&transfer(1, 5));
    let unknown = refused(
        server.call_with(&transfer(1, 5), &early),
        401,
        "evidence_required",
    );
    assert_eq!(unknown.json()["evidence"], EVIDENCE_PATH);
    let challenge = unknown.json()["challenge"].as_str().unwrap().to_owned();
    assert_eq!(server.challenge(), challenge);
    let stale = refused(
        server.learn(&agent.evidence(&"ab".repeat(32))),
        401,
        "challenge_stale",
    );
    assert_eq!(stale.json()["challenge"], challenge);
    server.introduce(&agent);

    // What was signed before the evidence may have been used before this server began.
    refused(
        server.call_with(&transfer(1, 5), &early),
        401,
        "issued_before_evidence",
    );

    // A good one.
    let early = agent.token_for(&transfer(1, 5));
    let good = server.call_with(&transfer(1, 5), &early);
    assert_eq!(good.status, 200, "{}", good.json());
    let said = good.json()["result"]["content"][0]["text"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        said.starts_with("sent 5 to bob; 5 in all, for did:key:z6Mk")
            && said.ends_with("of a mock enclave"),
        "{said}"
    );

    // Replayed, for the same call and for another, and in other spellings of the same bytes.
    refused(server.call_with(&transfer(1, 5), &early), 401, "replayed");
    refused(server.call_with(&transfer(2, 500), &early), 401, "replayed");
    let fresh = agent.token_for(&transfer(3, 7));
    let last = fresh.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let twin = alphabet.as_bytes()[alphabet.find(last).unwrap() ^ 1] as char;
    let standard = |token: &str| token.replace('-', "+").replace('_', "/");
    let mut respelled = vec![
        format!("{fresh}="),
        format!("{}{twin}", &fresh[..fresh.len() - 1]),
    ];
    if standard(&fresh) != fresh {
        respelled.push(standard(&fresh));
    }
    for respelled in respelled {
        refused(server.call_with(&transfer(3, 7), &respelled), 401, "base64");
    }
    // White space in the claims: the same meaning, other bytes, so another signature.
    let [header, claims, signature] = fresh.split('.').collect::<Vec<_>>().try_into().unwrap();
    let spaced = [
        b" ",
        &BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap()[..],
    ]
    .concat();
    let spaced = format!("{header}.{}.{signature}", BASE64URL_NOPAD.encode(&spaced));
    refused(
        server.call_with(&transfer(3, 7), &spaced),
        401,
        "signature_invalid",
    );

    // Signed for another tool server that shares nothing with this one but the audience.
    let params = transfer(3, 7)["params"].clone();
    let intent = json!({"action": "tools/call", "target": "https://elsewhere.example", "resource": "transfer"});
    let elsewhere = agent.ask(&json!({"payload": params, "intent": intent, "audience": AUDIENCE}));
    assert_eq!(server.call_with(&transfer(3, 7), &elsewhere).status, 403);

    // Signed for another call.
    let other = server.call_with(&transfer(3, 8), &fresh);
    assert_eq!(
        (other.status, &other.json()["error"]["code"]),
        (403, &json!(-32001)),
        "{}",
        other.json()
    );
    refused(server.call_with(&transfer(3, 7), &fresh), 401, "replayed");

    // For somebody else, or for nobody in particular.
    for audience in [json!("https://bank.example"), Value::Null] {
        let token =
            agent.ask(&json!({"payload": {}, "intent": "tools/call", "audience": audience}));
        refused(
            server.call_with(&transfer(4, 1), &token),
            401,
            "audience_mismatch",
        );
    }

    // Stale: signed for one second only, and past the skew of five.
    let short = agent.ask(&json!({"payload": {}, "intent": "tools/call", "audience": AUDIENCE, "validity_seconds": 1}));
    let begun = now();
    wait_for(|| now() > begun.plus(7));
    refused(server.call_with(&transfer(4, 1), &short), 401, "expired");

    // Foreign: an agent of another mock is not known, and cannot become so.
    let stranger = Agent::start();
    let foreign = stranger.token_for(&transfer(5, 1));
    let challenge = refused(
        server.call_with(&transfer(5, 1), &foreign),
        401,
        "evidence_required",
    )
    .json();
    let evidence = stranger.evidence(challenge["challenge"].as_str().unwrap());
    refused(server.learn(&evidence), 403, "root_untrusted");
    refused(
        server.call_with(&transfer(5, 1), &foreign),
        401,
        "evidence_required",
    );
    refused(server.learn(b"nonsense"), 403, "evidence_malformed");
    assert_eq!(server.learn(&[0; 64 * 1024 + 1]).status, 413);

    // Nothing of that has run the tool.
    let last = server.call_with(&transfer(6, 1), &agent.token_for(&transfer(6, 1)));
    assert!(
        String::from_utf8(last.body)
            .unwrap()
            .contains("sent 1 to bob; 6 in all")
    );
}

#[test]
fn after_a_restart_no_token_from_before_it_is_taken() {
    let agent = Agent::start();
    let server = ToolServer::start(&agent, &["--max-tokens", "2"]);
    server.introduce(&agent);
    let tokens: Vec<String> = (1..=3).map(|n| agent.token_for(&transfer(n, n))).collect();
    assert_eq!(server.call_with(&transfer(1, 1), &tokens[0]).status, 200);
    assert_eq!(server.call_with(&transfer(2, 2), &tokens[1]).status, 200);
    assert_eq!(
        refusal(&server.call_with(&transfer(3, 3), &tokens[2])),
        (503, "replay_cache_full".into())
    );
    assert_eq!(
        refusal(&server.call_with(&transfer(1, 1), &tokens[0])),
        (401, "replayed".into())
    );
    drop(server);

    let server = ToolServer::start(&agent, &[]);
    server.introduce(&agent);
    for (token, n) in tokens.iter().zip(1..) {
        assert_eq!(
            refusal(&server.call_with(&transfer(n, n), token)),
            (401, "issued_before_evidence".into())
        );
    }
    assert_eq!(
        server
            .call_with(&transfer(4, 4), &agent.token_for(&transfer(4, 4)))
            .status,
        200
    );
}

#[test]
fn a_body_that_is_too_long_or_too_slow_is_given_up() {
    let agent = Agent::start();
    let server = ToolServer::start(&agent, &[]);
    let slow = |bodies: usize| -> Vec<TcpStream> {
        let open = |_| {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            write!(
                stream,
                "POST {EVIDENCE_PATH} HTTP/1.1\r\nhost: t\r\ncontent-length: 65536\r\n\r\n"
            )
            .unwrap();
            stream
        };
        (0..bodies).map(open).collect()
    };
    let held = slow(64);
    // Each holds one of the rooms; who comes now is told to come again.
    wait_for(|| server.learn(b"x").status == 503);
    // The other routes go on.
    assert_eq!(server.challenge().len(), 64);
    // In five seconds they are given up, and there is room.
    wait_for(|| server.learn(b"x").code() == "evidence_malformed");
    let mut answer = String::new();
    let mut first = held.into_iter().next().unwrap();
    first
        .set_read_timeout(Some(std::time::Duration::from_secs(5)))
        .unwrap();
    let _ = first.read_to_string(&mut answer);
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("body_too_slow"),
        "{answer}"
    );
    server.introduce(&agent);
}

/// A guard whose clock the test sets, a little ahead, so that nothing is of the future.
fn timed(requirements: Requirements) -> (Guard, Arc<AtomicI64>) {
    let clock = Arc::new(AtomicI64::new(now().plus(20).0));
    let shown = Arc::clone(&clock);
    let random = AtomicI64::new(1);
    let random = move || Ok([u8::try_from(random.fetch_add(1, Ordering::Relaxed)).unwrap(); 32]);
    let time = Box::new(move || UnixSeconds(shown.load(Ordering::Relaxed)));
    (
        Guard::with(requirements, time, Box::new(random)).unwrap(),
        clock,
    )
}

/// Shows good evidence, and waits until tokens are younger than it.
fn teach(guard: &Guard, agent: &Agent) {
    let challenge = guard.challenge().unwrap();
    guard.learn(&agent.evidence(&challenge)).unwrap();
    a_moment();
}

fn code(result: Result<::guard::Admitted, Error>) -> &'static str {
    result.map_or_else(|error| error.code(), |_| "admitted")
}

#[test]
fn evidence_is_enough_for_its_time_and_no_longer() {
    let agent = Agent::start();
    let requirements = Requirements {
        evidence_seconds: 60,
        ..agent.requirements("")
    };
    let issuers = Arc::clone(&requirements.issuers);
    let (guard, clock) = timed(requirements);
    let set = |time: i64| clock.store(time, Ordering::Relaxed);
    let begun = clock.load(Ordering::Relaxed);
    let token = || {
        agent.ask(
            &json!({"payload": {}, "intent": "a", "audience": AUDIENCE, "validity_seconds": 600}),
        )
    };
    assert_eq!(code(guard.admit(&token())), "evidence_required");
    let challenge = guard.challenge().unwrap();
    let (signer, until) = guard.learn(&agent.evidence(&challenge)).unwrap();
    assert_eq!(until, UnixSeconds(begun + 60));
    a_moment();
    let admitted = guard.admit(&token()).unwrap();
    assert_eq!(
        (admitted.claims().iss.clone(), admitted.verdict().verdict),
        (signer.did().clone(), "mock")
    );
    assert!(admitted.verdict().unchecked.is_empty());
    set(begun + 59);
    assert_eq!(code(guard.admit(&token())), "admitted");
    // The challenge of the last minute is still good a minute later, and evidence for it begins
    // another time.
    set(begun + 60);
    assert_eq!(code(guard.admit(&token())), "evidence_required");
    assert_ne!(guard.challenge().unwrap(), challenge);
    assert_eq!(
        guard.learn(&agent.evidence(&challenge)).unwrap().1,
        UnixSeconds(begun + 120)
    );
    assert_eq!(code(guard.admit(&token())), "admitted");
    set(begun + 120);
    assert_eq!(
        guard.learn(&agent.evidence(&challenge)).unwrap_err().code(),
        "challenge_stale"
    );
    assert_eq!(code(guard.admit(&token())), "evidence_required");
    // A clock that is set back brings nothing back.
    set(begun + 61);
    assert_eq!(code(guard.admit(&token())), "evidence_required");
    teach(&guard, &agent);
    assert_eq!(code(guard.admit(&token())), "admitted");
    // Forgotten, it must answer a new challenge; what answered the old one is over.
    let before = agent.evidence(&guard.challenge().unwrap());
    guard.forget(signer.did());
    assert_eq!(code(guard.admit(&token())), "evidence_required");
    assert_eq!(guard.learn(&before).unwrap_err().code(), "challenge_stale");
    teach(&guard, &agent);
    assert_eq!(code(guard.admit(&token())), "admitted");
    // All of it came from one parent instance, whose certificates were verified once.
    assert_eq!(issuers.count(), 1);
}

#[test]
fn evidence_is_never_enough_for_longer_than_its_leaf_vouches_for_it() {
    let agent = Agent::start();
    let (guard, clock) = timed(Requirements {
        evidence_seconds: 100_000,
        ..agent.requirements("")
    });
    let begun = clock.load(Ordering::Relaxed);
    let (signer, until) = guard
        .learn(&agent.evidence(&guard.challenge().unwrap()))
        .unwrap();
    assert_eq!(until, signer.until());
    assert!(
        (begun + 10_000..=begun + 10_900).contains(&until.0),
        "{until}"
    );
}

/// A guard with this skew that knows the agent, and a token of this validity that is younger than
/// its evidence. `at` is the time at which it is shown, from the time at which it was issued.
fn shown(
    agent: &Agent,
    evidence: &[u8],
    skew: i64,
    seconds: u32,
    at: impl Fn(i64) -> i64,
) -> &'static str {
    let token = agent.ask(
        &json!({"payload": {}, "intent": "a", "audience": AUDIENCE, "validity_seconds": seconds}),
    );
    let iat = identity::token::unverified_claims(&token).unwrap().iat;
    let clock = Arc::new(AtomicI64::new(at(iat).min(iat)));
    let time = Arc::clone(&clock);
    let time = Box::new(move || UnixSeconds(time.load(Ordering::Relaxed)));
    let requirements = Requirements {
        skew_seconds: skew,
        evidence_seconds: 2000,
        ..agent.requirements("")
    };
    let guard = Guard::with(requirements, time, Box::new(|| Ok([7; 32]))).unwrap();
    guard.learn(evidence).unwrap();
    clock.store(at(iat), Ordering::Relaxed);
    code(guard.admit(&token))
}

#[test]
fn a_token_is_taken_within_the_skew_only() {
    let agent = Agent::start();
    let evidence = agent.evidence(&"07".repeat(32));
    a_moment();
    let shown =
        |skew, seconds, after: i64| shown(&agent, &evidence, skew, seconds, |iat| iat + after);
    // End of validity: now >= exp + skew.
    assert_eq!(shown(5, 300, 304), "admitted");
    assert_eq!(shown(5, 300, 305), "expired");
    assert_eq!(shown(0, 300, 299), "admitted");
    assert_eq!(shown(0, 300, 300), "expired");
    // Its begin: now + skew < iat. The guard's clock may be that much behind.
    assert_eq!(shown(3, 300, -3), "admitted");
    assert_eq!(shown(3, 300, -4), "not_yet_valid");
    assert_eq!(shown(0, 300, 0), "admitted");
    assert_eq!(shown(0, 300, -1), "not_yet_valid");
    // Longer than this service remembers.
    assert_eq!(shown(5, 900, 10), "admitted");
    assert_eq!(shown(5, 901, 10), "lifetime_too_long");
}

#[test]
fn a_token_must_be_younger_than_the_first_evidence_that_the_service_saw() {
    let agent = Agent::start();
    let (guard, clock) = timed(agent.requirements(""));
    let before = agent.token();
    let challenge = guard.challenge().unwrap();
    guard.learn(&agent.evidence(&challenge)).unwrap();
    assert_eq!(code(guard.admit(&before)), "issued_before_evidence");
    a_moment();
    let after = agent.token();
    // Newer evidence makes no token old, and no clock of ours makes an old one young.
    a_moment();
    guard.learn(&agent.evidence(&challenge)).unwrap();
    assert_eq!(code(guard.admit(&after)), "admitted");
    clock.fetch_add(60, Ordering::Relaxed);
    assert_eq!(code(guard.admit(&before)), "issued_before_evidence");
    // Another process knows nothing of what this one has seen.
    let (another, _) = timed(agent.requirements(""));
    teach(&another, &agent);
    assert_eq!(code(another.admit(&after)), "issued_before_evidence");
    assert_eq!(code(another.admit(&agent.token())), "admitted");
}

#[test]
fn a_good_token_of_another_issuer_is_forbidden_and_not_unknown() {
    let agent = Agent::start();
    let other = "issuers = [\"did:web:other.example\"]";
    let (guard, _) = timed(agent.requirements(other));
    teach(&guard, &agent);
    let refused = guard.admit(&agent.token()).unwrap_err();
    assert_eq!(
        (refused.status(), refused.code()),
        (403, "issuer_not_accepted")
    );
    // Whose DID is not accepted does not even become known.
    let (guard, _) = timed(agent.requirements("dids = [\"did:web:other.example\"]"));
    let challenge = guard.challenge().unwrap();
    let refused = guard.learn(&agent.evidence(&challenge)).unwrap_err();
    assert_eq!(
        (refused.status(), refused.code()),
        (403, "did_not_accepted")
    );
}

#[test]
fn a_did_web_needs_its_pinned_document() {
    let agent = Agent(Running::with(&[(
        "agent",
        "did:web:agent.example",
        "EdDSA",
    )]));
    let (guard, _) = timed(agent.requirements(""));
    let evidence = agent.evidence(&guard.challenge().unwrap());
    assert_eq!(guard.learn(&evidence).unwrap_err().code(), "unchecked");
    let listed = harness::get(&agent.0.socket, "/.well-known/did.json")
        .unwrap()
        .body;
    let mut requirements = agent.requirements("");
    requirements.did_documents = vec![identity::did::Document::parse(&listed).unwrap()];
    let (guard, _) = timed(requirements);
    teach(&guard, &agent);
    assert_eq!(code(guard.admit(&agent.token())), "admitted");
}

#[test]
fn more_keys_than_there_are_places_are_refused_until_others_expire() {
    let agents = Running::with(&[("one", "did:key", "EdDSA"), ("two", "did:key", "EdDSA")]);
    let agent = Agent(agents);
    let (guard, clock) = timed(Requirements {
        max_keys: 1,
        evidence_seconds: 60,
        ..agent.requirements("")
    });
    let evidence = |name: &str, challenge: &str| {
        let answer = post(
            &agent.0.socket,
            "/attestation",
            &json!({"nonce": challenge, "identity": name}),
        )
        .unwrap();
        guard
            .learn(&answer.body)
            .map(|(_, until)| until)
            .map_err(|error| (error.status(), error.code()))
    };
    let begun = clock.load(Ordering::Relaxed);
    let challenge = guard.challenge().unwrap();
    assert_eq!(evidence("one", &challenge), Ok(UnixSeconds(begun + 60)));
    assert_eq!(evidence("two", &challenge), Err((503, "keys_full")));
    // Who is known already is refreshed, although it is full.
    clock.store(begun + 10, Ordering::Relaxed);
    assert_eq!(evidence("one", &challenge), Ok(UnixSeconds(begun + 70)));
    assert_eq!(evidence("two", &challenge), Err((503, "keys_full")));
    clock.store(begun + 70, Ordering::Relaxed);
    assert_eq!(
        evidence("two", &guard.challenge().unwrap()),
        Ok(UnixSeconds(begun + 130))
    );
}

#[test]
fn an_identity_that_rotates_takes_its_own_places_and_nobody_elses() {
    let policy = |state: &qemu_dev::State| {
        state
            .development_policy(&[("one", "did:key", "EdDSA"), ("two", "did:key", "EdDSA")])
            .unwrap()
    };
    let agent = Agent(Running::prepared(policy, "", &[]));
    let limits = Requirements {
        max_keys: 4,
        max_keys_of_one: 2,
        max_tokens: 10,
        max_tokens_of_one: 3,
        ..agent.requirements("")
    };
    let (guard, _) = timed(limits);
    let challenge = guard.challenge().unwrap();
    let learn = |name: &str| {
        let answer = post(
            &agent.0.socket,
            "/attestation",
            &json!({"nonce": challenge, "identity": name}),
        )
        .unwrap();
        guard.learn(&answer.body).map(|(signer, _)| signer).unwrap()
    };
    let token = |name: &str| {
        agent.ask(&json!({"payload": {}, "intent": "a", "audience": AUDIENCE, "identity": name}))
    };
    let other = learn("two");
    let mut dids = Vec::new();
    for _ in 0..4 {
        dids.push(learn("one").did().clone());
        a_moment();
        assert_eq!(
            code(guard.admit(&token("one"))),
            if dids.len() <= 3 {
                "admitted"
            } else {
                "replay_cache_full"
            }
        );
        let rotated = post(&agent.0.socket, "/rotate", &json!({"identity": "one"})).unwrap();
        assert_eq!(rotated.status, 200, "{}", rotated.json());
    }
    dids.dedup();
    assert_eq!(dids.len(), 4, "each rotation is another did:key");
    assert_eq!(code(guard.admit(&token("two"))), "admitted");
    assert_eq!(learn("two"), other);
}

#[test]
fn a_guard_that_could_guard_nothing_is_not_made() {
    let agent = Agent::start();
    let good = agent.requirements("");
    let refused = |change: &dyn Fn(&mut Requirements)| {
        let mut requirements = good.clone();
        change(&mut requirements);
        matches!(Guard::new(requirements), Err(Error::Requirements(_)))
    };
    assert!(!refused(&|_| ()));
    assert!(refused(&|r| r.audience.clear()));
    assert!(!refused(&|r| r.audience.push('x')));
    assert!(refused(
        &|r| r.policy = AppraisalPolicy::from_toml(b"version = 1\n").unwrap()
    ));
    let text = agent.policy("");
    let without = |part: &str| {
        let begin = text.find(part).unwrap();
        let end = text[begin + 2..]
            .find("[[")
            .map_or(text.len(), |end| begin + 2 + end);
        AppraisalPolicy::from_toml([&text[..begin], &text[end..]].concat().as_bytes()).unwrap()
    };
    assert!(refused(&|r| r.policy = without("[[images]]")));
    assert!(refused(&|r| r.policy = without("[[bundles]]")));
    let named = agent.policy("audience = \"https://bank.example\"");
    assert!(refused(
        &|r| r.policy = AppraisalPolicy::from_toml(named.as_bytes()).unwrap()
    ));
    for skew in [-1, 31, i64::MIN, i64::MAX] {
        assert!(refused(&|r| r.skew_seconds = skew));
    }
    for none in [0, -1] {
        assert!(refused(&|r| r.max_lifetime_seconds = none));
        assert!(refused(&|r| r.evidence_seconds = none));
    }
    assert!(refused(&|r| r.max_keys = 0));
    assert!(refused(&|r| r.max_tokens = 0));
    assert!(refused(&|r| r.max_tokens_of_one = 0));
    assert!(refused(&|r| r.max_keys_of_one = 0));
}

#[test]
fn a_stranger_learns_what_it_showed_and_not_what_is_accepted() {
    let agent = Agent::start();
    let verifier = agent.0.verifier();
    let good = agent.policy("");
    let identity = harness::get(&agent.0.socket, "/identity").unwrap().json();
    let own = identity["did"].as_str().unwrap();
    let other = "09".repeat(48);
    let accepted = "did:web:partner.example";
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replace(from, to)
    };
    let measured = verifier.measurements[0].pcr0.to_string();
    let digest = verifier.bundle.digest().digest().to_string();
    let dids = format!("version = 1\ndids = [\"{accepted}\"]");
    let denied = format!(
        "{good}[[deny.images]]\nreason = \"old, see ticket 7\"\nregisters = {{ PCR0 = \"{measured}\" }}\n"
    );
    let evidence = agent.evidence(&"00".repeat(32));
    let seen = attestation::Verifier {
        inspect: true,
        allow_mock: Some(verifier.root.clone()),
        ..attestation::Verifier::at(now())
    }
    .judge(attestation::Subject::Evidence(&evidence))
    .unwrap();
    let certificate = &seen.certificates[1];
    let certificate = format!(
        "{good}[[deny.certificates]]\nreason = \"stolen in May\"\nissuer = \"{}\"\nserial = \"{}\"\n",
        certificate.issuer, certificate.serial
    );
    for (policy, code, kept) in [
        (certificate, "certificate_denied", "in May"),
        (
            with("version = 1", "version = 1\nlowest_epoch = 77"),
            "epoch_absent",
            "77",
        ),
        (
            with(&measured, &other),
            "measurement_mismatch",
            other.as_str(),
        ),
        (with(&digest, &other), "policy_mismatch", "production"),
        (with("version = 1", &dids), "did_not_accepted", accepted),
        (denied, "measurement_denied", "ticket 7"),
    ] {
        let policy = AppraisalPolicy::from_toml(policy.as_bytes()).unwrap();
        let guard = Guard::new(Requirements {
            mock_root: Some(verifier.root.clone()),
            ..Requirements::new(AUDIENCE, policy)
        })
        .unwrap();
        let evidence = agent.evidence(&guard.challenge().unwrap());
        let Err(Error::Evidence(refusal)) = guard.learn(&evidence) else {
            panic!("{code}: not refused");
        };
        assert_eq!(refusal.code(), code);
        // The service's own log may say it.
        let (whole, told) = (refusal.to_string(), Error::Evidence(refusal).to_string());
        assert!(whole.contains(kept), "{whole}");
        assert!(!told.contains(kept) && !told.contains("signer"), "{told}");
        assert!(code != "did_not_accepted" || told.contains(own), "{told}");
    }
}
