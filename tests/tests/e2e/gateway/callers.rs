//! Who calls: API keys, tokens, certificates; and what a page of somebody else's may do.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::*;

fn sha256_hex(text: &str) -> String {
    identity::sha256(text.as_bytes()).to_string()
}

/// An issuer: its keys, which change, and how often they were fetched.
struct Issuer {
    url: String,
    set: Arc<Mutex<Option<Value>>>,
    agent: Agent,
}

impl Issuer {
    fn start(set: Value) -> Self {
        let set = Arc::new(Mutex::new(Some(set)));
        let published = Arc::clone(&set);
        let agent = Agent::that(move |stream, _| {
            let set = published.lock().unwrap().clone();
            let body = set.map(|set| set.to_string()).unwrap_or_default();
            let status = if body.is_empty() {
                "500 Broken"
            } else {
                "200 OK"
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).is_ok()
        });
        Self {
            url: format!("http://{}/jwks", agent.address),
            set,
            agent,
        }
    }

    fn publish(&self, set: Option<Value>) {
        *self.set.lock().unwrap() = set;
    }
}

/// A key of an issuer, and its public half as it is published.
fn key(seed: u8, id: &str) -> (EncodingKey, Value) {
    let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
    let der = ed25519_dalek::pkcs8::EncodePrivateKey::to_pkcs8_der(&key).unwrap();
    let public = BASE64URL_NOPAD.encode(key.verifying_key().as_bytes());
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": public, "kid": id, "use": "sig", "alg": "EdDSA"});
    (EncodingKey::from_ed_der(der.as_bytes()), jwk)
}

fn token(key: &EncodingKey, id: &str, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(id.into());
    jsonwebtoken::encode(&header, claims, key).unwrap()
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn claims() -> Value {
    json!({"iss": "https://issuer.example", "aud": "gateway", "sub": "alice", "exp": now() + 100})
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

fn settings(folder: &Path, issuer: &str) -> String {
    let keys = folder.join("keys");
    fs::write(&keys, format!("ci {}\n", sha256_hex("the-key-of-ci"))).unwrap();
    format!(
        "authentication:\n  api_keys: {{file: {}}}\n  jwt: {{issuer: 'https://issuer.example', audience: gateway, jwks_url: '{issuer}'}}\n",
        keys.display()
    )
}

#[test]
fn everything_that_says_who_calls_is_checked_and_one_that_is_wrong_refuses() {
    let (secret, public) = key(1, "one");
    let issuer = Issuer::start(json!({"keys": [public]}));
    let agent = Agent::start(OK);
    let folder = private_folder();
    let gateway = Gateway::configured(&agent, &settings(folder.path(), &issuer.url));
    let good = token(&secret, "one", &claims());
    let bad = token(&secret, "one", &with(claims(), "aud", json!("others")));
    for (headers, caller) in [
        (
            "X-API-Key: the-key-of-ci\r\n".to_owned(),
            Some("api_key:ci"),
        ),
        (
            format!("Authorization: Bearer {good}\r\n"),
            Some("jwt:alice"),
        ),
        (
            format!(
                "authorization: bEARER {good}\r\nX-API-Key: the-key-of-ci\r\nX-Agent-Caller: root\r\n"
            ),
            Some("api_key:ci jwt:alice"),
        ),
        (
            format!("Authorization: Bearer {bad}\r\nX-API-Key: the-key-of-ci\r\n"),
            None,
        ),
        (
            format!("Authorization: Bearer {good}\r\nX-API-Key: another\r\n"),
            None,
        ),
        (
            format!("Authorization: Bearer {good}\r\nAuthorization: Bearer {good}\r\n"),
            None,
        ),
        (
            "X-API-Key: the-key-of-ci\r\nX-API-Key: the-key-of-ci\r\n".into(),
            None,
        ),
        (
            format!("Authorization: Basic {}\r\n", BASE64.encode(b"a:b")),
            None,
        ),
        ("Authorization: Bearer\r\n".into(), None),
        ("X-API-Key:\r\n".into(), None),
        ("X-Agent-Caller: api_key:ci\r\n".into(), None),
        (String::new(), None),
    ] {
        let before = agent.seen().len();
        let (status, head, body) = gateway.post(&headers, "{}");
        let reached = agent.seen().len() - before;
        let Some(caller) = caller else {
            assert_eq!((status, reached), (401, 0), "{headers}");
            assert_eq!(header(&head, "www-authenticate").unwrap(), "Bearer");
            assert!(body["error"].is_string());
            continue;
        };
        assert_eq!((status, reached), (200, 1), "{headers}");
        let seen = agent.seen().pop().unwrap();
        assert_eq!(header(&seen, "x-agent-caller").unwrap(), caller);
        assert_eq!(seen.matches("x-agent-caller").count(), 1);
        // What was presented is the gateway's.
        assert_eq!(
            (header(&seen, "authorization"), header(&seen, "x-api-key")),
            (None, None)
        );
    }
    // Nor does anybody take away or forge what the gateway says.
    let forging = "X-API-Key: the-key-of-ci\r\nConnection: x-agent-caller, x-forwarded-for\r\nX_Agent_Caller: root\r\nX_Forwarded_For: 1.2.3.4\r\n";
    assert_eq!(gateway.post(forging, "{}").0, 200);
    let seen = agent.seen().pop().unwrap();
    assert_eq!(header(&seen, "x-agent-caller").unwrap(), "api_key:ci");
    assert_eq!(header(&seen, "x-forwarded-for").unwrap(), "127.0.0.1");
    assert!(
        !seen.contains("root") && !seen.contains("1.2.3.4"),
        "{seen}"
    );
    // Where nobody is asked, nobody says it either.
    let open = Gateway::trusted(&agent);
    assert_eq!(open.post("X-Agent-Caller: root\r\n", "{}").0, 200);
    let seen = agent.seen().pop().unwrap();
    assert_eq!(header(&seen, "x-agent-caller"), None);
    // What is for everybody stays so; who is not known does not write to the log.
    assert_eq!(gateway.get("/health").0, 200);
    assert_eq!(gateway.get("/.well-known/agent-manifest").0, 200);
    assert!(
        gateway
            .ask("/metrics")
            .1
            .contains("iatp_requests_total{status=\"401\"} 9")
    );
    // Nor with a request that is refused before anybody looks who sends it.
    for odd in [
        "GET /proxy HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        "GET /proxy HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ] {
        assert!(gateway.send(odd.as_bytes()).0 >= 400);
    }
    // Lines are written in their order: one that is known comes behind them.
    let known =
        "X-API-Key: the-key-of-ci\r\nX-Agent-Trace-ID: 6ba7b810-9dad-11d1-80b4-00c04fd430c8\r\n";
    assert_eq!(gateway.post(known, "{}").0, 200);
    gateway.trace("6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    let log =
        fs::read_to_string(gateway.folder.path().join("log/flight-000000000000.jsonl")).unwrap();
    assert_eq!(
        log.lines()
            .filter(|line| line.contains("\"error\""))
            .count(),
        0
    );
    // Keys are read again.
    fs::write(
        folder.path().join("keys"),
        format!("other {}\n", sha256_hex("another-key")),
    )
    .unwrap();
    wait_for(|| gateway.post("X-API-Key: another-key\r\n", "{}").0 == 200);
    assert_eq!(gateway.post("X-API-Key: the-key-of-ci\r\n", "{}").0, 401);
}

#[test]
fn a_token_counts_if_its_issuer_signed_it_for_this_gateway_and_now() {
    let (secret, public) = key(1, "one");
    let (other_secret, other_public) = key(2, "two");
    let (enc_secret, mut enc_public) = key(3, "enc");
    enc_public["use"] = json!("enc");
    let issuer = Issuer::start(
        json!({"keys": [public, enc_public, {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "rsa", "use": "enc"}]}),
    );
    let agent = Agent::start(OK);
    let folder = private_folder();
    let gateway = Gateway::configured(&agent, &settings(folder.path(), &issuer.url));
    let post = |token: &str| {
        gateway
            .post(&format!("Authorization: Bearer {token}\r\n"), "{}")
            .0
    };
    let good = token(&secret, "one", &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let encode = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    // With the public key as a secret that both know.
    let x = public["x"].as_str().unwrap();
    let public_bytes = BASE64URL_NOPAD.decode(x.as_bytes()).unwrap();
    let mut hs = Header::new(Algorithm::HS256);
    hs.kid = Some("one".into());
    let by_public = EncodingKey::from_secret(&public_bytes).unwrap();
    for (what, token, status) in [
        ("good", good.clone(), 200),
        ("again", good.clone(), 200),
        (
            "for several",
            token(
                &secret,
                "one",
                &with(claims(), "aud", json!(["x", "gateway"])),
            ),
            200,
        ),
        (
            "a client",
            token(
                &secret,
                "one",
                &with(with(claims(), "sub", Value::Null), "client_id", json!("c")),
            ),
            200,
        ),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), 401),
        (
            "another payload",
            format!(
                "{}.{}.{}",
                parts[0],
                encode(with(claims(), "sub", json!("root"))),
                parts[2]
            ),
            401,
        ),
        (
            "no algorithm",
            format!(
                "{}.{}.",
                encode(json!({"alg": "none", "kid": "one"})),
                parts[1]
            ),
            401,
        ),
        (
            "a shared secret",
            jsonwebtoken::encode(&hs, &claims(), &by_public).unwrap(),
            401,
        ),
        ("another key", token(&other_secret, "one", &claims()), 401),
        (
            "a key that is not known",
            token(&other_secret, "two", &claims()),
            401,
        ),
        (
            "a key for something else",
            token(&enc_secret, "enc", &claims()),
            401,
        ),
        (
            "another issuer",
            token(
                &secret,
                "one",
                &with(claims(), "iss", json!("https://issuer.example/")),
            ),
            401,
        ),
        (
            "another audience",
            token(&secret, "one", &with(claims(), "aud", json!("gateways"))),
            401,
        ),
        (
            "no audience",
            token(&secret, "one", &with(claims(), "aud", Value::Null)),
            401,
        ),
        (
            "expired",
            token(&secret, "one", &with(claims(), "exp", json!(now() - 100))),
            401,
        ),
        (
            "no end",
            token(&secret, "one", &with(claims(), "exp", Value::Null)),
            401,
        ),
        (
            "not yet",
            token(&secret, "one", &with(claims(), "nbf", json!(now() + 100))),
            401,
        ),
        (
            "nobody's",
            token(&secret, "one", &with(claims(), "sub", Value::Null)),
            401,
        ),
        (
            "bound to a key",
            token(&secret, "one", &with(claims(), "cnf", json!({"jkt": "x"}))),
            401,
        ),
        (
            "bound to a certificate",
            token(
                &secret,
                "one",
                &with(claims(), "cnf", json!({"x5t#S256": "x"})),
            ),
            401,
        ),
        ("no token", "a.b.c".into(), 401),
    ] {
        assert_eq!(post(&token), status, "{what}");
    }
    // A user and a client of one name are two.
    let client = with(
        with(claims(), "sub", Value::Null),
        "client_id",
        json!("alice"),
    );
    assert_eq!(post(&token(&secret, "one", &client)), 200);
    let seen = agent.seen().pop().unwrap();
    assert_eq!(header(&seen, "x-agent-caller").unwrap(), "jwt_client:alice");
    // Numbers may be large, and have a fraction.
    for exp in [json!(u64::MAX), json!(now() as f64 + 50.5)] {
        let token = token(&secret, "one", &with(claims(), "exp", exp));
        assert_eq!((post(&token), post(&token)), (200, 200));
    }
    // A subject cannot look like two callers.
    assert_eq!(
        post(&token(
            &secret,
            "one",
            &with(claims(), "sub", json!("bob api_key:ci\u{e9}"))
        )),
        200
    );
    let seen = agent.seen().pop().unwrap();
    assert_eq!(
        header(&seen, "x-agent-caller").unwrap(),
        "jwt:bob%20api_key:ci%C3%A9"
    );
    // A key that is not known is looked for once in a while, whatever tokens say.
    assert!(
        issuer.agent.seen().len() <= 2,
        "{}",
        issuer.agent.seen().len()
    );
    // The issuer changes its key: the new one counts, and the old one no more, also for a token that
    // was seen before.
    issuer.publish(Some(json!({"keys": [other_public]})));
    let next = token(&other_secret, "two", &claims());
    wait_for(|| post(&next) == 200);
    assert_eq!(post(&good), 401);
    // It is away: what is known counts.
    issuer.publish(None);
    assert_eq!(post(&next), 200);
    // Who cannot be asked is told apart from who says no.
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let folder = private_folder();
    let gateway = Gateway::configured(
        &agent,
        &settings(folder.path(), &format!("http://{nobody}/")),
    );
    assert_eq!(
        gateway
            .post(&format!("Authorization: Bearer {good}\r\n"), "{}")
            .0,
        503
    );
    assert_eq!(gateway.post("X-API-Key: the-key-of-ci\r\n", "{}").0, 200);
}

/// `oidc-provider` of npm's: JWTs, and tokens that only it can tell.
#[test]
fn an_authorization_server_of_others_says_who_calls() {
    let Some(server) = harness::Oidc::start() else {
        return;
    };
    let port = server.port;
    let address = format!("127.0.0.1:{port}");
    let form = |path: &str, client: &str, form: &str| {
        let basic = BASE64.encode(client.as_bytes());
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Basic {basic}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        );
        exchange(&address, request.as_bytes()).2
    };
    let client = "agent:the+secret+of+an+agent";
    let token = |resource: &str| {
        let text = form(
            "/token",
            client,
            &format!("grant_type=client_credentials&scope=use&resource={resource}"),
        );
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
        answer["access_token"].as_str().unwrap().to_owned()
    };
    let secret = private_folder();
    let file = secret.path().join("secret");
    fs::write(&file, "the secret: of a gateway\n").unwrap();
    let settings = format!(
        "authentication:\n  jwt: {{issuer: 'http://{address}', audience: 'urn:jwt', jwks_url: 'http://{address}/jwks'}}\n\
         \x20 oauth2: {{introspection_url: 'http://{address}/token/introspection', client_id: gateway, client_secret_file: {}, audience: 'urn:opaque'}}\n\
         \x20 forward_credentials: true\n",
        file.display()
    );
    let agent = Agent::start(OK);
    let gateway = Gateway::configured(&agent, &settings);
    let post = |token: &str| {
        gateway
            .post(&format!("Authorization: Bearer {token}\r\n"), "{}")
            .0
    };
    for (resource, caller) in [
        ("urn:jwt", "jwt:agent"),
        ("urn:opaque", "oauth2_client:agent"),
    ] {
        let token = token(resource);
        assert_eq!(post(&token), 200, "{resource}");
        let seen = agent.seen().pop().unwrap();
        assert_eq!(header(&seen, "x-agent-caller").unwrap(), caller);
        // Here the agent gets it, too.
        assert_eq!(
            header(&seen, "authorization").unwrap(),
            format!("Bearer {token}")
        );
    }
    for other in ["urn:other", "urn:opaque-too"] {
        assert_eq!(post(&token(other)), 401, "{other}");
    }
    assert_eq!(post("not-a-token-of-theirs"), 401);
    // A token that was seen before counts for some seconds after the server is gone; a new one not.
    let opaque = token("urn:opaque");
    assert_eq!(post(&opaque), 200);
    let unseen = token("urn:opaque");
    form("/token/revocation", client, &format!("token={unseen}"));
    assert_eq!(post(&unseen), 401);
    drop(server);
    assert_eq!(post(&opaque), 200);
    assert_eq!(post("another"), 503);
}

#[test]
fn what_an_authorization_server_says_of_a_token_is_read_strictly() {
    let soon = now() + 100;
    let server = Agent::that(move |stream, request| {
        let answer = match request
            .rsplit_once("token=")
            .unwrap()
            .1
            .split('&')
            .next()
            .unwrap()
        {
            "good" => {
                json!({"active": true, "sub": "a", "exp": soon, "aud": ["x", "us"]}).to_string()
            }
            "client" => json!({"active": true, "client_id": "a", "aud": "us"}).to_string(),
            "inactive" => json!({"active": false, "sub": "a", "aud": "us"}).to_string(),
            "text" => json!({"active": "true", "sub": "a", "aud": "us"}).to_string(),
            "nobody" => json!({"active": true, "aud": "us"}).to_string(),
            "others" => json!({"active": true, "sub": "a", "aud": "them"}).to_string(),
            "everybodys" => json!({"active": true, "sub": "a"}).to_string(),
            "over" => {
                json!({"active": true, "sub": "a", "aud": "us", "exp": soon - 200}).to_string()
            }
            "early" => json!({"active": true, "sub": "a", "aud": "us", "nbf": soon}).to_string(),
            "bound" => {
                json!({"active": true, "sub": "a", "aud": "us", "cnf": {"jkt": "x"}}).to_string()
            }
            _ => "{".into(),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all((head + &answer).as_bytes()).is_ok()
    });
    let folder = private_folder();
    let file = folder.path().join("secret");
    fs::write(&file, "s").unwrap();
    let settings = format!(
        "authentication:\n  oauth2: {{introspection_url: 'http://{}/', client_id: g, client_secret_file: {}, audience: us}}\n",
        server.address,
        file.display()
    );
    let agent = Agent::start(OK);
    let gateway = Gateway::configured(&agent, &settings);
    for (token, status) in [
        ("good", 200),
        ("good", 200),
        ("client", 200),
        ("inactive", 401),
        ("text", 503),
        ("nobody", 401),
        ("others", 401),
        ("everybodys", 401),
        ("over", 401),
        ("early", 401),
        ("bound", 401),
        ("nonsense", 503),
    ] {
        let headers = format!("Authorization: Bearer {token}\r\n");
        assert_eq!(gateway.post(&headers, "{}").0, status, "{token}");
    }
    // One that is known is not asked about again.
    let asked = server
        .seen()
        .iter()
        .filter(|seen| seen.contains("token=good&"))
        .count();
    assert_eq!(asked, 1);
}

#[test]
fn callers_read_what_was_written_down_of_their_own_requests() {
    let agent = Agent::start(OK);
    let folder = private_folder();
    let keys = folder.path().join("keys");
    let lines = ["a", "b"].map(|name| format!("{name} {}\n", sha256_hex(name)));
    fs::write(&keys, lines.concat()).unwrap();
    let settings = format!(
        "authentication:\n  api_keys: {{file: {}, header: X-Key}}\n",
        keys.display()
    );
    let gateway = Gateway::configured(&agent, &settings);
    // Both use one id.
    let id = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    for name in ["a", "b", "a"] {
        let headers = format!("X-Key: {name}\r\nX-Agent-Trace-ID: {id}\r\n");
        assert_eq!(
            gateway.post(&headers, &json!({"of": name}).to_string()).0,
            200
        );
    }
    wait_for(|| gateway.trace(id).len() == 6);
    let read = |name: &str, query: &str| {
        let request = format!(
            "GET /trace/{id}{query} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Key: {name}\r\n\r\n"
        );
        let (status, _, body) = gateway.send(request.as_bytes());
        (
            status,
            serde_json::from_str::<Value>(&body).unwrap_or_default(),
        )
    };
    let (status, page) = read("a", "");
    assert_eq!((status, page["logs"].as_array().unwrap().len()), (200, 4));
    for line in page["logs"].as_array().unwrap() {
        assert_eq!(line["caller"], "api_key:a");
        assert!(!line.to_string().contains("\\\"b\\\""));
    }
    assert_eq!(read("b", "").1["logs"].as_array().unwrap().len(), 2);
    // Page by page.
    let (_, first) = read("a", "?limit=3");
    assert_eq!(
        (
            first["logs"].as_array().unwrap().len(),
            &first["next_offset"]
        ),
        (3, &json!(3))
    );
    let (_, last) = read("a", "?limit=3&offset=3");
    assert_eq!(
        (last["logs"].as_array().unwrap().len(), &last["next_offset"]),
        (1, &Value::Null)
    );
    assert_eq!(last["logs"][0], page["logs"][3]);
    let far = format!("?offset={}", usize::MAX);
    assert_eq!(read("a", &far).1["logs"], json!([]));
    for bad in ["?limit=0", "?limit=1001", "?offset=-1", "?x=1"] {
        assert_eq!(read("a", bad).0, 400, "{bad}");
    }
    assert_eq!(read("c", "").0, 401);
    assert_eq!(gateway.get(&format!("/trace/{id}")).0, 401);
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der).into_bytes();
    let lines: Vec<&str> = text
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    let text = lines.join("\n");
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// A certificate authority, the gateway's certificate, and one of a caller, as files.
pub(super) fn certificates(folder: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
    for authority in ["ours", "others"] {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters
            .distinguished_name
            .push(DnType::CommonName, authority);
        let certificate = parameters.self_signed(&key).unwrap();
        fs::write(
            folder.join(format!("{authority}.pem")),
            pem("CERTIFICATE", certificate.der()),
        )
        .unwrap();
        let issuer = Issuer::new(parameters, key);
        for (name, san) in [
            ("server", SanType::DnsName("localhost".try_into().unwrap())),
            (
                "caller",
                SanType::URI("spiffe://example.org/agent".try_into().unwrap()),
            ),
        ] {
            let key = KeyPair::generate().unwrap();
            let mut parameters = CertificateParams::new(Vec::new()).unwrap();
            parameters.subject_alt_names = vec![san];
            parameters.distinguished_name.push(DnType::CommonName, name);
            let certificate = parameters.signed_by(&key, &issuer).unwrap();
            fs::write(
                folder.join(format!("{authority}-{name}.pem")),
                pem("CERTIFICATE", certificate.der()),
            )
            .unwrap();
            fs::write(
                folder.join(format!("{authority}-{name}.key")),
                pem("PRIVATE KEY", &key.serialize_der()),
            )
            .unwrap();
        }
    }
}

#[test]
fn over_tls_both_versions_of_http_are_spoken_and_a_certificate_says_who_calls() {
    let folder = private_folder();
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let agent = Agent::start(OK);
    let settings = format!(
        "tls: {{certificate: {}, key: {}, client_authorities: {}}}\nauthentication: {{mutual_tls: true}}\n",
        file("ours-server.pem"),
        file("ours-server.key"),
        file("ours.pem")
    );
    let gateway = Gateway::configured(&agent, &settings);
    let port = gateway.address.rsplit(':').next().unwrap().to_owned();
    let curl = |version: &str, caller: Option<&str>, more: &[&str]| {
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--max-time",
            "20",
            version,
            "--cacert",
            &file("ours.pem"),
        ]);
        if let Some(caller) = caller {
            command.args([
                "--cert",
                &file(&format!("{caller}.pem")),
                "--key",
                &file(&format!("{caller}.key")),
            ]);
        }
        command
            .args(["--write-out", " %{http_code} %{http_version}"])
            .args(more);
        let output = command
            .arg(format!("https://localhost:{port}/proxy/a?b=1"))
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    for (version, name) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let json = [
            "--json",
            CARD,
            "--header",
            "Cookie: a=1",
            "--header",
            "Cookie: b=2",
        ];
        let (_, said) = curl(version, Some("ours-caller"), &json);
        assert_eq!(said, format!("{{}} 200 {name}"));
        let seen = agent.seen().pop().unwrap();
        assert!(
            seen.starts_with("POST /a?b=1 HTTP/1.1\r\n") && seen.ends_with(CARD),
            "{seen}"
        );
        assert_eq!(
            header(&seen, "x-agent-caller").unwrap(),
            "mutual_tls:spiffe://example.org/agent"
        );
        assert_eq!(header(&seen, "host").unwrap(), agent.address.to_string());
        assert_eq!(header(&seen, "cookie").unwrap(), "a=1; b=2");
        // Without one, nothing says who calls; one of somebody else's ends the handshake.
        let (_, said) = curl(version, None, &[]);
        assert!(said.ends_with(&format!(" 401 {name}")), "{said}");
        let (is_good, said) = curl(version, Some("others-caller"), &[]);
        assert!(!is_good && said.ends_with(" 000 0"), "{said}");
    }
    // In clear nothing is said.
    assert_eq!(
        exchange(&gateway.address, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").0,
        0
    );
    // The certificate changes while the gateway runs.
    for name in ["server.pem", "server.key"] {
        fs::copy(
            file(&format!("others-{name}")),
            file(&format!("ours-{name}")),
        )
        .unwrap();
    }
    wait_for(|| !curl("--http2", None, &[]).0);
    assert!(
        curl("--http2", None, &["--cacert", &file("others.pem")])
            .1
            .ends_with(" 401 2")
    );
}

#[test]
fn a_page_may_ask_if_its_origin_is_listed() {
    let agent = Agent::start(OK);
    let gateway = Gateway::configured(&agent, "cors: {allowed_origins: ['https://app.example']}\n");
    let ask = |method: &str, headers: &str| {
        let request = format!(
            "{method} /proxy/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n{headers}\r\n"
        );
        gateway.send(request.as_bytes())
    };
    let ours = "Origin: https://app.example\r\n";
    let asks =
        "Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: x-api-key\r\n";
    let (status, head, _) = ask("OPTIONS", &format!("{ours}{asks}"));
    assert_eq!(status, 200);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example"),
        ("access-control-allow-methods", "PUT"),
        ("access-control-allow-headers", "x-api-key"),
        ("access-control-allow-credentials", "true"),
    ] {
        assert_eq!(header(&head, name).unwrap(), value);
    }
    assert!(agent.seen().is_empty());
    let (status, head, _) = ask("POST", ours);
    assert_eq!(
        (
            status,
            header(&head, "access-control-allow-origin")
                .unwrap()
                .as_str()
        ),
        (200, "https://app.example")
    );
    assert!(
        header(&head, "access-control-expose-headers")
            .unwrap()
            .contains("x-agent-trace-id")
    );
    for other in [
        "https://app.example.evil",
        "http://app.example",
        "null",
        "https://APP.example",
    ] {
        for origins in [
            format!("Origin: {other}\r\n"),
            format!("Origin: {other}\r\n{ours}"),
            format!("{ours}Origin: {other}\r\n"),
        ] {
            let (status, head, _) = ask("POST", &origins);
            assert_eq!(status, 403, "{origins}");
            assert_eq!(
                header(&head, "access-control-allow-origin")
                    .filter(|it| it != "https://app.example"),
                None
            );
        }
        let (status, head, _) = ask("OPTIONS", &format!("Origin: {other}\r\n{asks}"));
        assert_eq!(status, 403);
        assert_eq!(header(&head, "access-control-allow-origin"), None);
    }
    assert_eq!(agent.seen().len(), 1);
    // Where none is listed, none may ask.
    let gateway = Gateway::trusted(&agent);
    assert_eq!(gateway.post("Origin: http://localhost\r\n", "{}").0, 403);
    assert_eq!(gateway.post("", "{}").0, 200);
}
