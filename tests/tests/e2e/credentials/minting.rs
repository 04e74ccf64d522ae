//! Credentials that get short tokens, which are put in their place.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::services::With;
use serde_json::{Value, json};

use super::ingress::{HTTPS_PROXY, Proxied};
use super::setting::Setting;
use super::upstream::{Request, Tls, Upstream, answer};

const RULES: &str = "{ name = \"read\", methods = [\"GET\"], paths = [\"/models\", \"/odd/*\"], identities = [\"crew\"] },
    { name = \"talk\", methods = [\"GET\"], paths = [\"/socket\"], identities = [\"crew\"], websocket = true }";

/// What the host of tokens answers next, last first; and what it was asked.
#[derive(Clone, Default)]
struct Desk {
    answers: Arc<Mutex<Vec<(u16, String)>>>,
    given: Arc<Mutex<usize>>,
}

impl Desk {
    /// The next answer; else a token of its own, good for an hour.
    fn next(&self) -> (u16, String) {
        if let Some(answer) = self.answers.lock().unwrap().pop() {
            return answer;
        }
        let mut given = self.given.lock().unwrap();
        *given += 1;
        let token = format!("token-{given}-of-the-desk");
        let answer = json!({"access_token": token, "token": token, "token_type": "bearer", "expires_in": 3600});
        (200, answer.to_string())
    }

    fn says(&self, status: u16, answer: &Value) {
        let text = match answer {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        self.answers.lock().unwrap().insert(0, (status, text));
    }
}

/// A service that wants tokens, and who gives them.
struct Minting {
    proxied: Proxied,
    tokens: Upstream,
    desk: Desk,
}

fn service(request: &Request, tls: &mut Tls) -> std::io::Result<bool> {
    let shown = request.header("authorization").unwrap_or_default();
    match request.line.split(' ').nth(1).unwrap() {
        "/v1/odd/refused" => answer(tls, 401, "", b"not this one"),
        "/v1/odd/echo" => answer(tls, 200, "", shown.as_bytes()),
        "/v1/odd/secret" => answer(tls, 200, "", b"the-secret-of-a-client"),
        // Not as it is, which would be refused.
        _ => answer(
            tls,
            200,
            "",
            identity::sha256(shown.as_bytes()).to_string().as_bytes(),
        ),
    }
}

impl Minting {
    /// With these lines of `token`, and this credential.
    fn start(name: &str, source: &str, secret: &str) -> Self {
        let desk = Desk::default();
        let at = desk.clone();
        let tokens = Upstream::start_for(name, None, move |_, tls| {
            let (status, text) = at.next();
            answer(
                tls,
                status,
                "content-type: application/json\r\n",
                text.as_bytes(),
            )
        });
        Self::before(tokens, desk, source, secret)
    }

    /// Where credentials are used while a lease lasts.
    fn leased(source: &str, secret: &str, lease: &str) -> Self {
        let desk = Desk::default();
        let at = desk.clone();
        let tokens = Upstream::start_for("auth.example", None, move |_, tls| {
            let (status, text) = at.next();
            answer(tls, status, "", text.as_bytes())
        });
        Self::with(
            tokens,
            desk,
            (source, secret),
            &format!("{HTTPS_PROXY}{lease}"),
        )
    }

    fn before(tokens: Upstream, desk: Desk, source: &str, secret: &str) -> Self {
        Self::with(tokens, desk, (source, secret), HTTPS_PROXY)
    }

    fn with(tokens: Upstream, desk: Desk, (source, secret): (&str, &str), bundle: &str) -> Self {
        let mut upstream = Upstream::start(service);
        upstream.root = format!("{}''', '''{}", upstream.root, tokens.root);
        let lines = format!("token = {{ url = \"https://auth.example/oauth/token\", {source} }}\n");
        let addresses = format!("\"api.token\" = \"{}\", ", tokens.address);
        let with = With {
            rules: RULES,
            service: &lines,
            bundle,
            addresses: &addresses,
            ..With::default()
        };
        let setting = Setting::with(upstream, &with);
        setting.put_well("crew", secret);
        Self {
            proxied: Proxied::of(setting),
            tokens,
            desk,
        }
    }

    fn setting(&self) -> &Setting {
        &self.proxied.setting
    }

    /// Status, and what the service, or whoever refuses, says.
    fn get(&self, path: &str) -> (u16, String) {
        let got = self.setting().ask(&format!("GET /api{path}"), "", b"");
        let says = got.header("x-anchorhold-error");
        (
            got.status,
            says.unwrap_or_else(|| String::from_utf8_lossy(&got.body).into_owned()),
        )
    }
}

fn shows(token: &str) -> (u16, String) {
    let digest = identity::sha256(format!("Bearer {token}").as_bytes());
    (200, digest.to_string())
}

const CLIENT: &str = "grant = \"client_credentials\", client_id = \"agent\", client_auth = \"body\", scope = \"a b\"";
const SECRET: &str = "the-secret-of-a-client";

#[test]
fn a_token_is_asked_for_once_and_stands_in_the_credentials_place() {
    let minting = Minting::start("auth.example", CLIENT, SECRET);
    // All at once: one asks, and the others wait for it.
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| minting.get("/models")))
            .collect();
        for one in all {
            assert_eq!(one.join().unwrap(), shows("token-1-of-the-desk"));
        }
    });
    let through = minting.proxied.curl(&["https://api.example/v1/models"]);
    let shown = shows("token-1-of-the-desk").1;
    assert!(through.stdout.ends_with(shown.as_bytes()));
    let asked = minting.tokens.seen();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].line, "POST /oauth/token HTTP/1.1");
    assert_eq!(asked[0].header("host"), Some("auth.example"));
    assert_eq!(
        String::from_utf8(asked[0].body.clone()).unwrap(),
        "grant_type=client_credentials&scope=a%20b&client_id=agent&client_secret=the-secret-of-a-client"
    );
    // The service sees the token and nothing of the credential; nobody sees either come back.
    for seen in minting.setting().upstream.seen() {
        let mut headers = seen.headers.iter();
        assert!(!headers.any(|(_, value)| value.contains(SECRET)));
    }
    let reflected = (502, "credential_reflected".to_owned());
    assert_eq!(minting.get("/odd/echo"), reflected);
    assert_eq!(minting.get("/odd/secret"), reflected);
    // The receipt says for which call it was.
    let closed = minting.setting().events("credential.close", 9);
    let minted = closed
        .iter()
        .filter(|event| event["credential"]["minted"] == true);
    assert_eq!(minted.count(), 1);
}

#[test]
fn a_token_is_asked_for_anew_when_it_is_over_or_refused() {
    let minting = Minting::start("auth.example", CLIENT, SECRET);
    let short = |token: &str| json!({"access_token": token, "expires_in": 2});
    minting.desk.says(200, &short("token-that-is-short"));
    assert_eq!(minting.get("/models"), shows("token-that-is-short"));
    assert_eq!(minting.get("/models"), shows("token-that-is-short"));
    // Not in its second half.
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(minting.get("/models"), shows("token-1-of-the-desk"));
    assert_eq!(minting.get("/odd/refused").0, 401);
    assert_eq!(minting.get("/models"), shows("token-2-of-the-desk"));
    assert_eq!(minting.tokens.seen().len(), 3);
    // A service that refuses whatever is shown is believed once in a while.
    assert_eq!(minting.get("/odd/refused").0, 401);
    assert_eq!(minting.get("/models"), shows("token-2-of-the-desk"));
    // A newer credential gets another one; a revoked one none.
    minting
        .setting()
        .put_well("crew", "another-secret-of-a-client");
    assert_eq!(minting.get("/models"), shows("token-3-of-the-desk"));
    let asked = minting.tokens.seen().pop().unwrap();
    assert!(
        asked
            .body
            .ends_with(b"client_secret=another-secret-of-a-client")
    );
    minting.setting().revoke(2, "credential:crew/api");
    harness::wait_for(|| minting.get("/models") == (403, "credential_revoked".into()));
}

#[test]
fn who_gives_no_token_has_nothing_sent_to_the_service_and_it_heals() {
    let minting = Minting::start("auth.example", CLIENT, SECRET);
    let refused = (502, "token_refused".to_owned());
    for (status, says) in [
        (400, json!({"error": "invalid_client"})),
        (500, json!("")),
        (302, json!({"access_token": "token-from-elsewhere"})),
        (200, json!("no json")),
        (200, json!({"access_token": "short"})),
        (
            200,
            json!({"access_token": "a-token-of-the-desk", "token_type": "mac"}),
        ),
        (200, json!({"access_token": "two\r\nheaders: of one"})),
        (200, json!("x".repeat(70_000))),
    ] {
        minting.desk.says(status, &says);
        assert_eq!(minting.get("/models"), refused, "{status} {says}");
        // And for a second nobody is asked again.
        let asked = minting.tokens.seen().len();
        assert_eq!(minting.get("/models"), refused);
        assert_eq!(minting.tokens.seen().len(), asked);
        std::thread::sleep(Duration::from_millis(1100));
    }
    assert!(minting.setting().upstream.seen().is_empty());
    assert_eq!(minting.get("/models"), shows("token-1-of-the-desk"));
    let closed = minting.setting().events("credential.close", 17);
    assert_eq!(closed[0]["credential"]["ending"], "token_refused");
    let asked = |event: &&Value| event["credential"]["minted"] == true;
    assert_eq!(closed.iter().filter(asked).count(), 9);
    assert_eq!(closed[0]["credential"]["status"], Value::Null);
    // Whoever else answers at its address is not asked.
    let other = Minting::start("other.example", CLIENT, SECRET);
    assert_eq!(other.get("/models"), (502, "token_refused".into()));
    assert!(other.tokens.seen().is_empty() && other.setting().upstream.seen().is_empty());
}

#[test]
fn a_refresh_token_that_is_replaced_is_used_no_more() {
    let source = "grant = \"refresh_token\", client_id = \"agent\"";
    let secret = r#"{"refresh_token":"refresh-number-0","client_secret":"the-secret-of-a-client"}"#;
    let minting = Minting::start("auth.example", source, secret);
    let next = |n: u32| json!({"access_token": format!("token-number-{n}"), "expires_in": 1, "refresh_token": format!("refresh-number-{n}")});
    for n in 1..=3 {
        minting.desk.says(200, &next(n));
        assert_eq!(minting.get("/models"), shows(&format!("token-number-{n}")));
        std::thread::sleep(Duration::from_millis(600));
    }
    let asked = minting.tokens.seen();
    let basic = data_encoding::BASE64.encode(b"agent:the-secret-of-a-client");
    for (n, asked) in asked.iter().enumerate() {
        let form = format!("grant_type=refresh_token&refresh_token=refresh-number-{n}");
        assert_eq!(String::from_utf8(asked.body.clone()).unwrap(), form);
        assert_eq!(
            asked.header("authorization"),
            Some(format!("Basic {basic}").as_str())
        );
    }
}

/// As GitHub answers, by its published form: a JWT of the App by RS256, and a token of the installation.
#[test]
fn a_github_app_signs_for_itself_inside() {
    let folder = harness::private_folder();
    let key = folder.path().join("app.pem");
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let file = key.to_str().unwrap();
    openssl(&["genrsa", "-traditional", "-out", file, "2048"]);
    let public = openssl(&["rsa", "-in", file, "-pubout"]);
    let secret = data_encoding::BASE64.encode(&std::fs::read(&key).unwrap());
    let source = "grant = \"github_app\", client_id = \"Iv1.0123456789abcdef\"";
    let minting = Minting::start("auth.example", source, &secret);
    let given = json!({"token": "ghs_0123456789abcdef", "expires_at": "2030-01-01T00:00:00Z", "permissions": {}});
    minting.desk.says(201, &given);
    assert_eq!(minting.get("/models"), shows("ghs_0123456789abcdef"));
    let asked = minting.tokens.seen().pop().unwrap();
    assert!(asked.body.is_empty());
    let jwt = asked.header("authorization").unwrap();
    let jwt = jwt.strip_prefix("Bearer ").unwrap();
    let (text, signature) = jwt.rsplit_once('.').unwrap();
    let decoded = |part: &str| {
        data_encoding::BASE64URL_NOPAD
            .decode(part.as_bytes())
            .unwrap()
    };
    let files = ["public.pem", "text", "signature"].map(|name| folder.path().join(name));
    std::fs::write(&files[0], public).unwrap();
    std::fs::write(&files[1], text).unwrap();
    std::fs::write(&files[2], decoded(signature)).unwrap();
    let [public, text_file, signature] = files.each_ref().map(|file| file.to_str().unwrap());
    openssl(&[
        "dgst",
        "-sha256",
        "-verify",
        public,
        "-signature",
        signature,
        text_file,
    ]);
    let (head, claims) = text.split_once('.').unwrap();
    let read = |part: &str| serde_json::from_slice::<Value>(&decoded(part)).unwrap();
    assert_eq!(read(head), json!({"alg": "RS256", "typ": "JWT"}));
    let claims = read(claims);
    assert_eq!(claims["iss"], "Iv1.0123456789abcdef");
    let (issued, ends) = (
        claims["iat"].as_i64().unwrap(),
        claims["exp"].as_i64().unwrap(),
    );
    assert!(
        issued <= harness::now().0 - 55 && ends - issued == 600,
        "{claims}"
    );
    // What is no key is told where it is used.
    minting.setting().put_well("crew", "no-key-of-anybody");
    assert_eq!(minting.get("/models"), (422, "credential_invalid".into()));
}

/// `oidc-provider` of npm's gives the tokens, behind TLS.
#[test]
fn an_authorization_server_of_others_gives_tokens() {
    let Some(server) = harness::Oidc::start() else {
        return;
    };
    let port = server.port;
    let given = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&given);
    let tokens = Upstream::start_for("auth.example", None, move |request, tls| {
        let basic = request.header("authorization").unwrap();
        let head = format!(
            "POST /token HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\nauthorization: {basic}\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n",
            request.body.len()
        );
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(&[head.as_bytes(), &request.body].concat())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        let (from, to) = (text.find('{').unwrap(), text.rfind('}').unwrap());
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        seen.lock().unwrap().push(text[from..=to].to_owned());
        answer(
            tls,
            status,
            "content-type: application/json\r\n",
            &text.as_bytes()[from..=to],
        )
    });
    let source = "grant = \"client_credentials\", client_id = \"service\"";
    let minting = Minting::before(tokens, Desk::default(), source, "a+secret/of:a=service");
    let (status, shown) = minting.get("/models");
    let answer: Value = serde_json::from_str(&given.lock().unwrap()[0]).unwrap();
    let token = answer["access_token"]
        .as_str()
        .unwrap_or_else(|| panic!("{answer}"));
    assert_eq!((status, shown), shows(token));
    // The wrong secret is refused there.
    minting
        .setting()
        .put_well("crew", "another+secret/of:a=service");
    assert_eq!(minting.get("/models"), (502, "token_refused".into()));
}

#[test]
fn a_refresh_token_outlives_a_lease_that_was_over() {
    let folder = harness::private_folder();
    let key = parent_proxy::KeyFile::create(&folder.path().join("lease.key")).unwrap();
    let lease = format!(
        "[lease]\nkey = \"{}\"\nseconds = 60\n",
        identity::Signer::public_key(&key).to_multikey()
    );
    let source = "grant = \"refresh_token\", client_id = \"agent\"";
    let minting = Minting::leased(source, "refresh-number-0", &lease);
    let bring = |seconds: &str| {
        let output = Command::new(harness::program("anchorhold"))
            .args(["lease", "--endpoint"])
            .arg(format!(
                "unix://{}",
                minting.setting().running.socket.display()
            ))
            .arg("--lease-key")
            .arg(folder.path().join("lease.key"))
            .arg("--annex")
            .arg(minting.setting().running.state.folder().join("annex.cose"))
            .args(["--seconds", seconds])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let next = |n: u32| json!({"access_token": format!("token-number-{n}"), "expires_in": 3600, "refresh_token": format!("refresh-number-{n}")});
    bring("3");
    minting.desk.says(200, &next(1));
    assert_eq!(minting.get("/models"), shows("token-number-1"));
    harness::wait_for(|| minting.get("/models") == (503, "lease_expired".into()));
    std::thread::sleep(Duration::from_millis(1500));
    bring("50");
    minting.desk.says(200, &next(2));
    assert_eq!(minting.get("/models"), shows("token-number-2"));
    let asked = minting.tokens.seen();
    assert!(
        asked[1]
            .body
            .ends_with(b"refresh_token=refresh-number-1&client_id=agent")
    );
}
