//! Agents that come as to a proxy: their TLS ends in the enclave.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use harness::services::{PLACEHOLDER, SECRET, With, bundle, config, free_port, put_at};
use harness::{Lasting, program, wait_for};
use qemu_dev::State;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use super::clients::{RULES, git_http_backend, interop, said, toy};
use super::seaweed::Seaweed;
use super::setting::Setting;
use super::upstream::{Upstream, answer};

pub(crate) const HTTPS_PROXY: &str = "[https_proxy]\nunmatched = \"refuse\"\n";

/// The usual, through the proxy.
pub(super) fn with() -> With<'static> {
    With {
        bundle: HTTPS_PROXY,
        ..With::default()
    }
}

/// A setting, and its certificate authority in a file.
pub(super) struct Proxied {
    pub(super) setting: Setting,
    pub(super) authority: PathBuf,
}

/// What an agent's TLS is, once it has a tunnel.
type Tunnel = StreamOwned<ClientConnection, TcpStream>;

impl Proxied {
    fn start(upstream: Upstream) -> Self {
        Self::with(upstream, &with())
    }

    pub(super) fn with(upstream: Upstream, with: &With<'_>) -> Self {
        let setting = Setting::with(upstream, with);
        setting.put_well("crew", SECRET);
        Self::of(setting)
    }

    pub(super) fn of(setting: Setting) -> Self {
        let authority = setting.running.folder().join("ca.pem");
        let output = ca(&setting, &[]);
        assert!(output.status.success(), "{}", said(&output));
        std::fs::write(&authority, output.stdout).unwrap();
        Self { setting, authority }
    }

    fn proxy(&self) -> String {
        format!("http://x:{PLACEHOLDER}@127.0.0.1:{}", self.setting.port)
    }

    /// A program that knows of a proxy and of an authority only, as `anchorhold run` would start it.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for name in ["HTTPS_PROXY", "https_proxy"] {
            command.env(name, self.proxy());
        }
        for name in [
            "SSL_CERT_FILE",
            "REQUESTS_CA_BUNDLE",
            "AWS_CA_BUNDLE",
            "GIT_SSL_CAINFO",
            "CURL_CA_BUNDLE",
        ] {
            command.env(name, &self.authority);
        }
        command
    }

    /// curl, with these arguments.
    pub(super) fn curl(&self, arguments: &[&str]) -> Output {
        self.command("curl")
            .args([
                "--silent",
                "--show-error",
                "--include",
                "--max-time",
                "30",
                "--suppress-connect-headers",
            ])
            .args(arguments)
            .output()
            .unwrap()
    }

    /// The head of the answer to a CONNECT, and the connection.
    fn connect(&self, target: &str, headers: &str) -> (String, TcpStream) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.setting.port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        write!(
            stream,
            "CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n{headers}\r\n"
        )
        .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).unwrap() == 0 {
                break;
            }
            head.extend_from_slice(&byte);
        }
        (String::from_utf8(head).unwrap(), stream)
    }

    /// A tunnel to the service, with TLS for this name in it.
    pub(super) fn tunnel(&self, name: &str) -> io::Result<Tunnel> {
        let (head, stream) = self.connect("api.example:443", &basic("x", PLACEHOLDER));
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        tls(stream, name, &self.authority, &[b"http/1.1"])
    }

    /// The answer to one POST in a tunnel of its own.
    pub(super) fn post(&self, path: &str, body: &str) -> String {
        let head = "host: api.example\r\nconnection: close\r\ncontent-type: application/json";
        let length = body.len();
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
    }

    /// The answer to one request in a tunnel of its own.
    fn ask(&self, request: &str) -> String {
        let mut tunnel = self.tunnel("api.example").unwrap();
        tunnel.write_all(request.as_bytes()).unwrap();
        until_the_end(&mut tunnel)
    }
}

fn basic(user: &str, password: &str) -> String {
    let pair = data_encoding::BASE64.encode(format!("{user}:{password}").as_bytes());
    format!("proxy-authorization: Basic {pair}\r\n")
}

pub(super) fn tls<S: Read + Write>(
    stream: S,
    name: &str,
    authority: &Path,
    alpn: &[&[u8]],
) -> io::Result<StreamOwned<ClientConnection, S>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(rustls::pki_types::CertificateDer::from_pem_file(authority).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tunnel = StreamOwned::new(connection, stream);
    tunnel.conn.complete_io(&mut tunnel.sock)?;
    Ok(tunnel)
}

/// All that comes, whether or not TLS says that it was the end.
fn until_the_end(tunnel: &mut impl Read) -> String {
    let mut came = Vec::new();
    let _ = tunnel.read_to_end(&mut came);
    String::from_utf8_lossy(&came).into_owned()
}

/// `anchorhold ca`, with other arguments in place of the usual ones.
fn ca(setting: &Setting, more: &[&str]) -> Output {
    ca_of(&setting.running.state, &setting.running.socket, more)
}

pub(crate) fn ca_of(state: &State, socket: &Path, more: &[&str]) -> Output {
    let mut arguments: Vec<String> = Vec::new();
    for (name, value) in [
        ("--bundle", state.policy().display().to_string()),
        ("--measurements", state.measurements().display().to_string()),
        ("--mock-root", state.root().display().to_string()),
        ("--endpoint", format!("unix://{}", socket.display())),
    ] {
        let other = more.chunks(2).find(|pair| pair[0] == name);
        let value = other.map_or(value, |pair| pair[1].to_owned());
        if !value.is_empty() {
            arguments.extend([name.to_owned(), value]);
        }
    }
    Command::new(program("anchorhold"))
        .arg("ca")
        .args(arguments)
        .output()
        .unwrap()
}

fn echo() -> Upstream {
    Upstream::start(|request, tls| answer(tls, 200, "x-from: us\r\n", &request.body))
}

#[test]
fn an_agent_that_knows_of_a_proxy_only_gets_its_answer_and_the_service_the_credential() {
    let proxied = Proxied::start(echo());
    let output = proxied.curl(&[
        "https://api.example/v1/chat",
        "-d",
        "hello",
        "-H",
        "authorization: Bearer nothing",
    ]);
    let told = said(&output);
    assert!(told.contains("200 OK") && told.ends_with("hello"), "{told}");
    assert!(told.contains("x-from: us"), "{told}");
    let seen = proxied.setting.upstream.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].line, "POST /v1/chat HTTP/1.1");
    assert_eq!(
        seen[0].header("authorization"),
        Some(&*format!("Bearer {SECRET}"))
    );
    assert_eq!(seen[0].header("host"), Some("api.example"));
    let opened = &proxied.setting.events("credential.open", 1)[0];
    assert_eq!(opened["credential"]["ingress"], true);
    assert_eq!(opened["resource"], "https://api.example/v1/chat");
    let closed = &proxied.setting.events("credential.close", 1)[0]["credential"];
    assert_eq!(closed["ending"], "complete");
    assert_eq!(closed["ingress"], true);
    // The agent can find it there.
    assert!(
        told.contains(&format!(
            "x-anchorhold-call: {}",
            closed["call"].as_str().unwrap()
        )),
        "{told}"
    );
    // The other way in says nothing of the kind.
    proxied.setting.ask("POST /api/chat", "", b"x");
    assert_eq!(
        proxied.setting.events("credential.open", 2)[1]["credential"].get("ingress"),
        None
    );
}

#[test]
fn one_tunnel_carries_one_request_after_the_other_and_refusals_between_them() {
    let proxied = Proxied::start(echo());
    let mut tunnel = proxied.tunnel("api.example").unwrap();
    let mut ask = |line: &str, body: &str| {
        let length = body.len();
        write!(
            tunnel,
            "{line} HTTP/1.1\r\nhost: api.example\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut came = Vec::new();
        // The echo has a length, and so does a refusal.
        loop {
            let mut byte = [0];
            tunnel.read_exact(&mut byte).unwrap();
            came.extend_from_slice(&byte);
            let text = String::from_utf8_lossy(&came).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let chunked = head.contains("transfer-encoding: chunked");
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                let whole = length.map(|length| length.parse() == Ok(body.len()));
                if whole == Some(true) || (chunked && body.ends_with("0\r\n\r\n")) {
                    return text;
                }
            }
        }
    };
    for (line, body, wanted) in [
        ("POST /v1/chat", "one", "200"),
        ("POST /v1/elsewhere", "two", "403"),
        ("POST /v1/chat", "three", "200"),
        ("POST /v2/chat", "four", "404"),
        ("GET /v1/models", "", "200"),
    ] {
        let told = ask(line, body);
        assert!(
            told.starts_with(&format!("HTTP/1.1 {wanted} ")),
            "{line}: {told}"
        );
        assert!(wanted != "200" || told.contains(body), "{told}");
    }
    assert_eq!(proxied.setting.upstream.seen().len(), 3);
}

#[test]
fn openai_anthropic_and_node_work_unchanged_through_the_proxy() {
    let with = With {
        rules: RULES,
        base: "",
        ..with()
    };
    let proxied = Proxied::with(Upstream::start(toy), &with);
    let of_nobody = format!(
        "http://x:{}@127.0.0.1:{}",
        "y".repeat(40),
        proxied.setting.port
    );
    let output = proxied
        .command(interop(".venv-clients/bin/python").to_str().unwrap())
        .arg(interop("api_client.py"))
        .args(["https://api.example", "sk-nothing", &of_nobody])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (name, wanted) in [
        ("openai", json!("hello")),
        ("openai_stream", json!(["hel", "lo"])),
        ("openai_models", json!(["toy"])),
        ("anthropic", json!("hello")),
        ("anthropic_stream", json!(["hel", "lo"])),
    ] {
        assert_eq!(told[name], wanted, "{told}");
    }
    for name in ["openai_refused", "anthropic_refused"] {
        assert_eq!(told[name][0], "PermissionDeniedError", "{told}");
        assert!(
            told[name]
                .to_string()
                .contains("service_request_not_allowed"),
            "{told}"
        );
    }
    for name in ["openai_unknown", "anthropic_unknown"] {
        assert_eq!(told[name][0], "APIConnectionError", "{told}");
        assert!(told[name][1].as_str().unwrap().contains("407"), "{told}");
    }
    assert_eq!(proxied.setting.upstream.seen().len(), 5);
    // What Node has of others for a proxy in its environment; fetch itself is unchanged.
    let fetch = "const {createRequire} = require('module');
        const {EnvHttpProxyAgent, setGlobalDispatcher, fetch} = createRequire(process.argv[1] + '/')('undici');
        setGlobalDispatcher(new EnvHttpProxyAgent());
        fetch('https://api.example/v1/messages', {method: 'POST', headers: {'content-type': 'application/json'}, body: '{}'})
            .then(answer => answer.json()).then(answer => console.log(answer.content[0].text))";
    let state = &proxied.setting.running.state;
    let run = |measurements: &Path| {
        Command::new(program("anchorhold"))
            .args(["run", "--endpoint"])
            .arg(format!(
                "unix://{}",
                proxied.setting.running.socket.display()
            ))
            .arg("--bundle")
            .arg(state.policy())
            .arg("--mock-root")
            .arg(state.root())
            .arg("--measurements")
            .arg(measurements)
            .args(["--", "node", "-e", fetch])
            .arg(interop("oidc"))
            .output()
            .unwrap()
    };
    let output = run(&state.measurements());
    assert!(
        output.status.success() && said(&output).contains("hello"),
        "{}",
        said(&output)
    );
    // An authority that nothing attests is given to no command.
    let other = proxied.setting.running.folder().join("other.json");
    let text = std::fs::read_to_string(state.measurements()).unwrap();
    let measured: Value = serde_json::from_str(&text).unwrap();
    let pcr0 = measured["Measurements"]["PCR0"].as_str().unwrap();
    std::fs::write(&other, text.replace(pcr0, &"7".repeat(96))).unwrap();
    let output = run(&other);
    assert!(
        output.status.code() == Some(1) && !said(&output).contains("hello"),
        "{}",
        said(&output)
    );
}

#[test]
fn boto3_signs_for_itself_through_the_proxy_and_the_store_sees_the_enclaves_signature() {
    let seaweed = Seaweed::start();
    let port = seaweed.port;
    let upstream = Upstream::start(move |request, tls| {
        let mut head = format!("{}\r\nconnection: close\r\n", request.line);
        for (name, value) in &request.headers {
            // The body is here whole.
            let framed = format!("content-length: {}", request.body.len());
            match name.as_str() {
                "transfer-encoding" => head.push_str(&framed),
                _ => head.push_str(&format!("{name}: {value}")),
            }
            head.push_str("\r\n");
        }
        let whole = [head.as_bytes(), b"\r\n", &request.body].concat();
        tls.write_all(&Seaweed::pass(port, &whole)?)?;
        Ok(false)
    });
    let with = With {
        rules: "{ name = \"toy\", methods = [\"GET\", \"HEAD\", \"PUT\", \"POST\", \"DELETE\"], paths = [\"/toy\", \"/toy/*\"], identities = [\"crew\"] }",
        base: "",
        inject: "{ sigv4 = { region = \"us-east-1\", service = \"s3\" } }",
        ..with()
    };
    let setting = Setting::with(upstream, &with);
    setting.put_well("crew", &format!("{}:{}", Seaweed::ID, Seaweed::KEY));
    let proxied = Proxied::of(setting);
    let output = proxied
        .command(interop(".venv-clients/bin/python").to_str().unwrap())
        .arg(interop("s3_client.py"))
        .args(["https://api.example", "AKIAIOSFODNN7EXAMPLE", "proxy"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let key = "notes/a b+c=ü,(1).txt";
    let not_allowed = json!([403, "service_request_not_allowed"]);
    for (name, wanted) in [
        ("got", json!(["hello", "text/plain", {"by": "crew  one"}])),
        ("part", json!("ell")),
        ("listed", json!([key])),
        ("big", json!(true)),
        ("size", json!(12_582_912)),
        ("gone", json!([404, "404"])),
        ("elsewhere", not_allowed.clone()),
        ("acl", not_allowed.clone()),
        ("many", not_allowed),
        ("copy", json!([422, "header_invalid"])),
    ] {
        assert_eq!(told[name], wanted, "{name}: {told}");
    }
    let mut trailers = 0;
    for request in proxied.setting.upstream.seen() {
        let signature = request.header("authorization").unwrap();
        let begins = format!("AWS4-HMAC-SHA256 Credential={}/", Seaweed::ID);
        assert!(signature.starts_with(&begins), "{signature}");
        let payload = request.header("x-amz-content-sha256");
        trailers += usize::from(payload == Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER"));
    }
    // On https: URLs botocore sends its checksums behind the body.
    assert!(trailers >= 3, "{trailers}");
}

#[test]
fn git_clones_and_pushes_through_the_proxy_without_a_password() {
    let folder = harness::private_folder();
    let root = folder.path().join("srv");
    let served = root.clone();
    let upstream = Upstream::start(move |request, tls| git_http_backend(&served, request, tls));
    let with = With {
        rules: "{ name = \"git\", methods = [\"GET\", \"POST\"], paths = [\"/repo.git/*\"], identities = [\"crew\"] }",
        inject: "{ basic = \"x-access-token\" }",
        base: "",
        ..with()
    };
    let proxied = Proxied::with(upstream, &with);
    let run = |arguments: &[&str]| {
        proxied
            .command("git")
            .args(["-c", "user.name=crew", "-c", "user.email=crew@example"])
            .args(arguments)
            .current_dir(folder.path())
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", folder.path())
            .output()
            .unwrap()
    };
    let well = |arguments: &[&str]| {
        let output = run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    };
    well(&["init", "-q", "--bare", "-b", "main", "srv/repo.git"]);
    well(&["-C", "srv/repo.git", "config", "http.receivepack", "true"]);
    well(&["clone", "-q", "https://api.example/repo.git", "work"]);
    std::fs::write(folder.path().join("work/file"), "x".repeat(200_000)).unwrap();
    well(&["-C", "work", "add", "file"]);
    well(&["-C", "work", "commit", "-q", "-m", "one"]);
    well(&["-C", "work", "push", "-q", "origin", "HEAD:main"]);
    well(&["clone", "-q", "https://api.example/repo.git", "again"]);
    assert!(folder.path().join("again/file").exists());
    let pair = data_encoding::BASE64.encode(format!("x-access-token:{SECRET}").as_bytes());
    for request in proxied.setting.upstream.seen() {
        assert_eq!(
            request.header("authorization"),
            Some(&*format!("Basic {pair}"))
        );
    }
    let refused = run(&["clone", "-q", "https://api.example/other.git", "other"]);
    assert!(said(&refused).contains("403"), "{}", said(&refused));
    let elsewhere = run(&["clone", "-q", "https://elsewhere.example/repo.git", "other"]);
    assert!(said(&elsewhere).contains("403"), "{}", said(&elsewhere));
}

#[test]
fn who_comes_as_to_a_proxy_says_who_it_is_and_gets_to_hosts_of_services_only() {
    let with = With {
        identities: &["crew", "other"],
        ..with()
    };
    let proxied = Proxied::with(echo(), &with);
    let good = basic("crew", PLACEHOLDER);
    for (target, headers, status, code) in [
        ("api.example:443", good.clone(), 200, ""),
        ("API.example:443", good.clone(), 200, ""),
        (
            "api.example:443",
            format!("proxy-authorization: Bearer {PLACEHOLDER}\r\n"),
            200,
            "",
        ),
        ("api.example:443", String::new(), 407, "token_invalid"),
        (
            "api.example:443",
            basic("crew", "another"),
            407,
            "token_invalid",
        ),
        (
            "api.example:443",
            basic(PLACEHOLDER, "x"),
            407,
            "token_invalid",
        ),
        (
            "api.example:443",
            format!("{good}{good}"),
            407,
            "token_invalid",
        ),
        (
            "api.example:443",
            format!("authorization: Bearer {PLACEHOLDER}\r\n"),
            407,
            "token_invalid",
        ),
        (
            "api.example:443",
            format!("{good}origin: http://x\r\n"),
            403,
            "foreign_origin",
        ),
        (
            "api.example:443",
            basic("nobody", PLACEHOLDER),
            422,
            "identity_required",
        ),
        ("api.example:8443", good.clone(), 403, "host_not_served"),
        ("api.example:80", good.clone(), 403, "host_not_served"),
        ("api.example.evil:443", good.clone(), 403, "host_not_served"),
        ("127.0.0.1:443", good.clone(), 403, "host_not_served"),
        ("169.254.169.254:80", good.clone(), 403, "host_not_served"),
    ] {
        let (head, _) = proxied.connect(target, &headers);
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{target} {headers}: {head}"
        );
        assert!(
            code.is_empty() || head.contains(&format!("x-anchorhold-error: {code}")),
            "{target} {headers}: {head}"
        );
        assert!(
            status != 407 || head.contains("proxy-authenticate: Basic"),
            "{head}"
        );
    }
    // Whoever may use several identities names one.
    let (_, stream) = proxied.connect("api.example:443", &basic("x", PLACEHOLDER));
    let mut tunnel = tls(stream, "api.example", &proxied.authority, &[]).unwrap();
    tunnel
        .write_all(b"GET /v1/models HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\r\n")
        .unwrap();
    let told = until_the_end(&mut tunnel);
    assert!(
        told.contains("200 OK"),
        "the rules are for one of them: {told}"
    );
}

#[test]
fn a_bundle_without_https_proxy_has_no_authority_and_no_tunnels() {
    let setting = Setting::start(echo());
    let (head, _) = Proxied {
        authority: PathBuf::new(),
        setting,
    }
    .connect("api.example:443", &basic("x", PLACEHOLDER));
    assert!(
        head.starts_with("HTTP/1.1 405") && head.contains("https_proxy_closed"),
        "{head}"
    );
}

#[test]
fn an_authority_is_printed_only_if_it_is_attested() {
    let proxied = Proxied::start(echo());
    let other = Setting::start(echo());
    let setting = &proxied.setting;
    let path = |path: PathBuf| path.display().to_string();
    for (more, code, why) in [
        (
            ["--bundle", &path(other.running.state.policy())],
            1,
            "policy",
        ),
        (
            ["--mock-root", &path(other.running.state.root())],
            1,
            "root",
        ),
        (["--mock-root", ""], 1, "root"),
        (
            [
                "--endpoint",
                &format!("unix://{}", other.running.socket.display()),
            ],
            1,
            "no_authority",
        ),
    ] {
        let output = ca(setting, &more);
        let told = said(&output);
        assert!(
            output.status.code() != Some(0) && told.contains(why),
            "{code} {more:?}: {told}"
        );
        assert!(output.stdout.is_empty(), "{told}");
    }
    // As others read it: for these hosts, for no address, and for nothing below it.
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-text", "-in"])
        .arg(&proxied.authority)
        .output()
        .unwrap();
    let told = said(&output);
    for wanted in [
        "DNS:api.example",
        "IP:0.0.0.0/0.0.0.0",
        "CA:TRUE, pathlen:0",
        "Certificate Sign",
        "mock enclave",
    ] {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
    assert_eq!(told.matches("DNS:").count(), 1);
    let critical = told
        .lines()
        .filter(|line| line.contains("critical"))
        .count();
    assert_eq!(critical, 3, "{told}");
    // And by the strict rules of Python 3.13.
    let script = "import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
context.set_alpn_protocols(['h2', 'http/1.1'])
raw = socket.create_connection(('127.0.0.1', int(sys.argv[2])))
raw.sendall(b'CONNECT api.example:443 HTTP/1.1\\r\\nhost: api.example:443\\r\\n' + sys.argv[3].encode() + b'\\r\\n\\r\\n')
assert raw.recv(4096).startswith(b'HTTP/1.1 200')
tls = context.wrap_socket(raw, server_hostname='api.example')
print(tls.selected_alpn_protocol(), tls.version())";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(&proxied.authority)
        .args([&setting.port.to_string(), basic("x", PLACEHOLDER).trim()])
        .output()
        .unwrap();
    assert_eq!(said(&output).trim(), "http/1.1 TLSv1.3");
    // Its certificate is for no other host.
    assert!(proxied.tunnel("elsewhere.example").is_err());
    assert!(proxied.tunnel("api.example.evil").is_err());
}

#[test]
fn in_a_tunnel_the_host_is_that_of_its_tls_and_paths_are_those_of_services() {
    let proxied = Proxied::start(echo());
    let close = "connection: close\r\n\r\n";
    for (request, status, code) in [
        (
            format!("GET /v1/models HTTP/1.1\r\nhost: api.example\r\n{close}"),
            200,
            "",
        ),
        (
            format!("GET /v1/models HTTP/1.1\r\nhost: API.example:443\r\n{close}"),
            200,
            "",
        ),
        (
            format!("GET /v1/models HTTP/1.1\r\nhost: other.example\r\n{close}"),
            421,
            "host_misdirected",
        ),
        (
            format!(
                "GET /v1/models HTTP/1.1\r\nhost: api.example\r\norigin: https://evil.example\r\n{close}"
            ),
            403,
            "foreign_origin",
        ),
        (
            format!(
                "GET /v1/models HTTP/1.1\r\nhost: api.example\r\nsec-fetch-site: cross-site\r\n{close}"
            ),
            403,
            "foreign_origin",
        ),
        (
            format!("GET /v1/models HTTP/1.1\r\n{close}"),
            421,
            "host_misdirected",
        ),
        (
            format!("GET /v1/models HTTP/1.1\r\nhost: api.example\r\nhost: api.example\r\n{close}"),
            421,
            "host_misdirected",
        ),
        (
            format!("GET /v1/models HTTP/1.1\r\nhost: api.example:8443\r\n{close}"),
            404,
            "unknown_service",
        ),
        (
            format!("GET https://api.example/v1/models HTTP/1.1\r\nhost: api.example\r\n{close}"),
            422,
            "path_not_canonical",
        ),
        (
            format!("OPTIONS * HTTP/1.1\r\nhost: api.example\r\n{close}"),
            422,
            "path_not_canonical",
        ),
        (
            format!("GET /models HTTP/1.1\r\nhost: api.example\r\n{close}"),
            404,
            "unknown_service",
        ),
        (
            format!("GET /v1models HTTP/1.1\r\nhost: api.example\r\n{close}"),
            404,
            "unknown_service",
        ),
        (
            format!("GET /v1/%2e%2e/models HTTP/1.1\r\nhost: api.example\r\n{close}"),
            422,
            "path_not_canonical",
        ),
        (
            format!("GET /v1//models HTTP/1.1\r\nhost: api.example\r\n{close}"),
            422,
            "path_not_canonical",
        ),
        (
            format!("GET /v1/other HTTP/1.1\r\nhost: api.example\r\n{close}"),
            403,
            "service_request_not_allowed",
        ),
        (
            format!("TRACE /v1/models HTTP/1.1\r\nhost: api.example\r\n{close}"),
            403,
            "service_request_not_allowed",
        ),
        (
            format!("CONNECT api.example:443 HTTP/1.1\r\nhost: api.example\r\n{close}"),
            422,
            "path_not_canonical",
        ),
        (
            format!(
                "GET /v1/models HTTP/1.1\r\nhost: api.example\r\nx-http-method-override: PUT\r\n{close}"
            ),
            200,
            "",
        ),
        (
            format!(
                "POST /v1/chat HTTP/1.1\r\nhost: api.example\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n{close}0\r\n\r\n"
            ),
            200,
            "",
        ),
        (
            format!(
                "POST /v1/chat HTTP/1.1\r\nhost: api.example\r\ncontent-length: 5\r\ncontent-length: 6\r\n{close}hello"
            ),
            400,
            "",
        ),
    ] {
        let told = proxied.ask(&request);
        assert!(
            told.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {told}"
        );
        assert!(
            code.is_empty() || told.contains(&format!("x-anchorhold-error: {code}")),
            "{request}: {told}"
        );
    }
    for request in proxied.setting.upstream.seen() {
        assert!(
            request.line == "GET /v1/models HTTP/1.1" || request.body.is_empty(),
            "{request:?}"
        );
        assert_eq!(request.header("x-http-method-override"), None);
    }
    // What is no TLS, and TLS that names nobody, is served to nobody.
    let (_, mut stream) = proxied.connect("api.example:443", &basic("x", PLACEHOLDER));
    stream
        .write_all(b"GET /v1/models HTTP/1.1\r\nhost: api.example\r\n\r\n")
        .unwrap();
    assert!(!until_the_end(&mut stream).contains("200 OK"));
}

#[test]
fn a_stream_through_the_proxy_comes_piece_by_piece_and_ends_when_its_credential_is_revoked() {
    let proxied = Proxied::start(Upstream::start(|_, tls| {
        write!(
            tls,
            "HTTP/1.1 200 x\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )?;
        loop {
            write!(tls, "6\r\ndata\n\n\r\n")?;
            tls.flush()?;
            std::thread::sleep(Duration::from_millis(20));
        }
    }));
    let mut tunnel = proxied.tunnel("api.example").unwrap();
    tunnel
        .write_all(b"GET /v1/files/x HTTP/1.1\r\nhost: api.example\r\n\r\n")
        .unwrap();
    let mut came = Vec::new();
    while came.windows(4).filter(|piece| piece == b"data").count() < 3 {
        let mut chunk = [0; 4096];
        let read = tunnel.read(&mut chunk).unwrap();
        assert!(read > 0);
        came.extend_from_slice(&chunk[..read]);
    }
    proxied.setting.revoke(2, "credential:crew/api");
    let rest = until_the_end(&mut tunnel);
    assert!(!rest.ends_with("0\r\n\r\n"), "{rest}");
    let closed = proxied.setting.events("credential.close", 1);
    assert_eq!(closed[0]["credential"]["ending"], "credential_revoked");
}

/// 100 MB each way, and no process that they pass keeps them.
#[test]
fn bodies_of_100_mb_pass_the_proxy_in_constant_memory_and_unchanged() {
    const SIZE: usize = 100_000_000;
    let proxied = Proxied::start(Upstream::start(|request, tls| {
        write!(
            tls,
            "HTTP/1.1 200 x\r\ncontent-length: {}\r\n\r\n",
            request.body.len()
        )?;
        tls.write_all(&request.body)?;
        Ok(true)
    }));
    let running = &proxied.setting.running;
    let body: Vec<u8> = (0..SIZE / 4)
        .flat_map(|n| u32::try_from(n * 31).unwrap().to_le_bytes())
        .collect();
    let file = running.folder().join("body");
    std::fs::write(&file, &body).unwrap();
    let children = format!("/proc/{0}/task/{0}/children", running.enclave.pid());
    let children = std::fs::read_to_string(children).unwrap();
    let mut processes: Vec<u32> = children
        .split_ascii_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect();
    processes.extend([running.enclave.pid(), running.sidecar.pid()]);
    // Egress, ingress, the service's, and the two.
    assert!(processes.len() >= 5, "{processes:?}");
    let before: Vec<u64> = processes.iter().map(|pid| harness::peak(*pid)).collect();
    let back = running.folder().join("back");
    let output = proxied
        .command("curl")
        .args(["-sS", "-f", "-H", "expect:", "--data-binary"])
        .arg(format!("@{}", file.display()))
        .arg("-o")
        .arg(&back)
        .arg("https://api.example/v1/files/x")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        std::fs::read(back).unwrap() == body,
        "what came back is what was sent"
    );
    let closed = proxied.setting.events("credential.close", 1);
    for name in ["sent_digest", "received_digest"] {
        assert_eq!(
            closed[0]["credential"][name],
            *identity::sha256(&body).to_string()
        );
    }
    for (pid, before) in processes.iter().zip(before) {
        let more = harness::peak(*pid).saturating_sub(before);
        assert!(more < 8 * 1024, "process {pid} took {more} kB");
    }
}

#[test]
fn half_a_request_in_a_tunnel_is_none_and_a_service_that_fails_is_told() {
    let proxied = Proxied::start(Upstream::start(|request, tls| {
        if request.line.contains("files") {
            return Ok(false);
        }
        answer(tls, 200, "", SECRET.as_bytes())
    }));
    let mut tunnel = proxied.tunnel("api.example").unwrap();
    tunnel
        .write_all(
            b"POST /v1/chat HTTP/1.1\r\nhost: api.example\r\ncontent-length: 100\r\n\r\nhalf",
        )
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    drop(tunnel);
    let closed = proxied.setting.events("credential.close", 1);
    assert_eq!(closed[0]["credential"]["ending"], "aborted");
    assert!(proxied.setting.upstream.seen().is_empty());
    let close = "host: api.example\r\nconnection: close\r\n\r\n";
    for (path, status, code) in [
        ("files/x", 502, "service_failed"),
        ("models", 502, "credential_reflected"),
    ] {
        let told = proxied.ask(&format!("GET /v1/{path} HTTP/1.1\r\n{close}"));
        assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{told}");
        assert!(
            told.contains(&format!("x-anchorhold-error: {code}")) && !told.contains(SECRET),
            "{told}"
        );
    }
}

#[test]
fn without_its_ingress_process_an_enclave_serves_those_who_come_otherwise() {
    let proxied = Proxied::start(echo());
    let enclave = proxied.setting.running.enclave.pid();
    let children =
        std::fs::read_to_string(format!("/proc/{enclave}/task/{enclave}/children")).unwrap();
    let is_ingress = |pid: &&str| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.windows(8).any(|word| word == b"\0ingress"))
    };
    let ingress = children.split_ascii_whitespace().find(is_ingress).unwrap();
    let pid = rustix::process::Pid::from_raw(ingress.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_for(|| {
        proxied
            .connect("api.example:443", &basic("x", PLACEHOLDER))
            .0
            .contains("enclave_unavailable")
    });
    assert_eq!(proxied.setting.ask("POST /api/chat", "", b"x").status, 200);
}

#[test]
fn one_callers_tunnels_leave_room_for_those_of_others_and_idle_ones_end() {
    let proxied = Proxied::start(echo());
    let good = basic("x", PLACEHOLDER);
    let begin = std::time::Instant::now();
    let mut held: Vec<TcpStream> = (0..64)
        .map(|_| {
            let (head, stream) = proxied.connect("api.example:443", &good);
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            stream
        })
        .collect();
    let (head, _) = proxied.connect("api.example:443", &good);
    assert!(
        head.starts_with("HTTP/1.1 503") && head.contains("service_busy"),
        "{head}"
    );
    // Who comes by the socket is another caller.
    assert_eq!(proxied.setting.ask("POST /api/chat", "", b"x").status, 200);
    // Nobody shakes hands: they end by themselves.
    for stream in &mut held {
        assert_eq!(until_the_end(stream), "");
    }
    assert!(begin.elapsed() >= Duration::from_secs(9));
    let is_open = || {
        proxied
            .connect("api.example:443", &good)
            .0
            .starts_with("HTTP/1.1 200")
    };
    wait_for(is_open);
}

/// The key of an authority, as openssl reads it.
fn key_of(pem: &[u8], folder: &Path) -> String {
    let file = folder.join("some-ca.pem");
    std::fs::write(&file, pem).unwrap();
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-pubkey", "-in"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

#[test]
fn an_authority_outlives_the_boot_where_the_bundle_keeps_a_state_and_only_there() {
    let upstream = echo();
    let port = free_port();
    let lines = config(upstream.address, port, "");
    let mut lasting = Lasting::prepared(|state| bundle(state, &upstream.root, &with()), &lines);
    put_at(&lasting.state, &lasting.socket, harness::now().0);
    let authority = lasting.folder().join("ca.pem");
    let first = ca_of(&lasting.state, &lasting.socket, &[]).stdout;
    std::fs::write(&authority, &first).unwrap();
    lasting.reboot();
    // Who has trusted it before the boot trusts what comes after it.
    let asks = || {
        Command::new("curl")
            .env(
                "https_proxy",
                format!("http://x:{PLACEHOLDER}@127.0.0.1:{port}"),
            )
            .args(["-sS", "-f", "-d", "hello", "--cacert"])
            .arg(&authority)
            .arg("https://api.example/v1/chat")
            .output()
            .unwrap()
    };
    wait_for(|| asks().status.success());
    assert_eq!(said(&asks()), "hello");
    let folder = harness::private_folder();
    let again = ca_of(&lasting.state, &lasting.socket, &[]).stdout;
    assert_eq!(key_of(&first, folder.path()), key_of(&again, folder.path()));
    let mut proxied = Proxied::start(echo());
    let before = std::fs::read(&proxied.authority).unwrap();
    proxied.setting.running.reboot_enclave();
    let after = || ca(&proxied.setting, &[]);
    wait_for(|| after().status.success());
    assert_ne!(
        key_of(&before, folder.path()),
        key_of(&after().stdout, folder.path())
    );
}

/// What a stranger's certificate authority could do with the name of ours: nothing.
#[test]
fn a_sidecar_that_brings_another_authority_is_noticed() {
    let proxied = Proxied::start(echo());
    let folder = harness::private_folder();
    let socket = folder.path().join("s.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let other = proxied.setting.upstream.root.clone();
    let real = proxied.setting.running.socket.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = Vec::new();
            let mut chunk = [0; 4096];
            while !asked.ends_with(b"}") {
                let read = stream.read(&mut chunk).unwrap();
                asked.extend_from_slice(&chunk[..read]);
            }
            let text = String::from_utf8(asked).unwrap();
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            let body: Value = serde_json::from_str(body).unwrap();
            let mut told = harness::post(&real, "/ca", &body).unwrap().json();
            told["certificate"] = json!(other);
            let told = told.to_string();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
            write!(stream, "{head}content-length: {}\r\n\r\n{told}", told.len()).unwrap();
        }
    });
    let output = ca(
        &proxied.setting,
        &["--endpoint", &format!("unix://{}", socket.display())],
    );
    let told = said(&output);
    assert!(
        output.status.code() == Some(1) && told.contains("another certificate"),
        "{told}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn a_tunnel_is_good_while_its_placeholder_is_held_and_no_longer() {
    let proxied = Proxied::start(echo());
    // The command leaves somebody behind with its environment and its tunnel.
    let script = "import os, socket, ssl, sys, time
from urllib.parse import urlsplit
import base64
proxy = urlsplit(os.environ['HTTPS_PROXY'])
if os.fork():
    time.sleep(1)
    sys.exit(0)
pair = base64.b64encode(f'{proxy.username}:{proxy.password}'.encode()).decode()
raw = socket.create_connection((proxy.hostname, proxy.port))
raw.sendall(f'CONNECT api.example:443 HTTP/1.1\\r\\nhost: api.example:443\\r\\nproxy-authorization: Basic {pair}\\r\\n\\r\\n'.encode())
raw.recv(4096)
context = ssl.create_default_context(cafile=os.environ['SSL_CERT_FILE'])
tls = context.wrap_socket(raw, server_hostname='api.example')
for name in ('before', 'after'):
    tls.sendall(b'GET /v1/models HTTP/1.1\\r\\nhost: api.example\\r\\n\\r\\n')
    answer = tls.recv(4096).decode()
    with open(sys.argv[1] + name + '.new', 'w') as out:
        out.write(answer)
    os.rename(sys.argv[1] + name + '.new', sys.argv[1] + name)
    time.sleep(2)
";
    let folder = harness::private_folder();
    let output = Command::new(program("anchorhold"))
        .args(["run", "--endpoint"])
        .arg(format!(
            "unix://{}",
            proxied.setting.running.socket.display()
        ))
        .args(["--", "python3", "-c", script])
        .arg(format!("{}/", folder.path().display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let answer = |name: &str| {
        let file = folder.path().join(name);
        wait_for(|| file.exists());
        std::fs::read_to_string(file).unwrap()
    };
    assert!(
        answer("before").starts_with("HTTP/1.1 200"),
        "{}",
        answer("before")
    );
    assert!(
        answer("after").contains("token_invalid"),
        "{}",
        answer("after")
    );
}

#[test]
fn an_early_answer_through_the_proxy_is_passed_on_whole() {
    let long = "x".repeat(200_000);
    let body = long.clone();
    let proxied = Proxied::start(Upstream::start(move |_, tls| {
        write!(
            tls,
            "HTTP/1.1 413 x\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        tls.flush()?;
        std::thread::sleep(Duration::from_millis(500));
        Ok(false)
    }));
    for _ in 0..5 {
        let mut tunnel = proxied.tunnel("api.example").unwrap();
        // This service does not wait for the body.
        write!(
            tunnel,
            "POST /v1/files/early HTTP/1.1\r\nhost: api.example\r\ncontent-length: 3000000\r\n\r\n"
        )
        .unwrap();
        for _ in 0..3000 {
            if tunnel.write_all(&[b'y'; 1000]).is_err() {
                break;
            }
        }
        let told = until_the_end(&mut tunnel);
        assert!(
            told.starts_with("HTTP/1.1 413") && told.contains(&long),
            "{} {}",
            told.len(),
            &told[..told.len().min(300)]
        );
    }
}

#[test]
fn a_sidecar_that_stops_ends_idle_tunnels_at_once() {
    let mut proxied = Proxied::start(echo());
    let tunnel = proxied.tunnel("api.example").unwrap();
    let begun = std::time::Instant::now();
    proxied.setting.running.sidecar.stop().unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let log = proxied.setting.running.log();
    assert!(!log.contains("still under way"), "{log}");
    drop(tunnel);
}

#[test]
fn one_callers_long_bodies_through_the_proxy_leave_room_for_those_of_others() {
    let with = With {
        inject: "{ sigv4 = { region = \"us-east-1\", service = \"execute-api\" } }",
        ..with()
    };
    let setting = Setting::with(echo(), &with);
    setting.put_well(
        "crew",
        "AKIATOYTOYTOYTOYTOY0:toy/secret+key0123456789abcdefghijklmnop",
    );
    let proxied = Proxied::of(setting);
    let begin = || {
        let mut tunnel = proxied.tunnel("api.example").unwrap();
        write!(
            tunnel,
            "POST /v1/chat HTTP/1.1\r\nhost: api.example\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n"
        )
        .unwrap();
        tunnel.write_all(&vec![b'x'; 70_000]).unwrap();
        tunnel
    };
    let held = [begin(), begin()];
    std::thread::sleep(Duration::from_millis(500));
    // A third one of the same caller is told so, and at once.
    let mut third = begin();
    let begun = std::time::Instant::now();
    let mut head = [0; 300];
    let read = third.read(&mut head).unwrap();
    let head = String::from_utf8_lossy(&head[..read]).into_owned();
    assert!(
        head.starts_with("HTTP/1.1 503") && head.contains("service_busy"),
        "{head}"
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
    // Short ones take none of these places.
    let told = proxied.ask("POST /v1/chat HTTP/1.1\r\nhost: api.example\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello");
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    // Somebody else comes by the socket, through the same process.
    let mut other = std::os::unix::net::UnixStream::connect(&proxied.setting.socket).unwrap();
    other
        .write_all(b"CONNECT api.example:443 HTTP/1.1\r\nhost: api.example:443\r\n\r\n")
        .unwrap();
    let mut answer = [0; 1024];
    let read = other.read(&mut answer).unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
    let mut tunnel = tls(other, "api.example", &proxied.authority, &[]).unwrap();
    write!(tunnel, "POST /v1/chat HTTP/1.1\r\nhost: api.example\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: 100000\r\n\r\n").unwrap();
    tunnel.write_all(&vec![b'x'; 100_000]).unwrap();
    let told = until_the_end(&mut tunnel);
    assert!(
        told.starts_with("HTTP/1.1 200"),
        "{}",
        &told[..told.len().min(300)]
    );
    drop(held);
}
