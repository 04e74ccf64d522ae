//! An enclave and a sidecar with one service, and a credential for it.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use harness::{Answer, Connection, Running, program, wait_for};
use parent_proxy::operator::PutCredential;
use parent_proxy::{Client, KeyFile, Target};
use qemu_dev::State;
use serde_json::Value;

use super::upstream::Upstream;

/// What the caller `crew` shows at the TCP port.
pub(crate) const PLACEHOLDER: &str = "local-placeholder-no-real-secret";
/// What nobody but the service shall see.
pub(crate) const SECRET: &str = "sk-live-9b2f6c1e0d8a4f7bA+/=";

const RULES: &str = "{ name = \"chat\", methods = [\"POST\"], paths = [\"/chat\", \"/files/*\"], identities = [\"crew\"] },
    { name = \"read\", methods = [\"GET\", \"HEAD\"], paths = [\"/models\", \"/files/*\"], identities = [\"crew\"] }";

/// All of it.
pub(crate) struct Setting {
    pub(crate) running: Running,
    pub(crate) upstream: Upstream,
    /// The socket of the proxied routes.
    pub(crate) socket: PathBuf,
    /// The port of the proxied routes.
    pub(crate) port: u16,
}

/// What is different from the usual.
pub(crate) struct With<'a> {
    /// Lines of `[[services]]`.
    pub(crate) service: &'a str,
    pub(crate) rules: &'a str,
    pub(crate) inject: &'a str,
    /// What the caller `crew` shows at the TCP port.
    pub(crate) placeholder: &'a str,
    /// Where the service is, behind its host.
    pub(crate) base: &'a str,
    /// Names of identities; the first one is `crew`.
    pub(crate) identities: &'a [&'a str],
    /// Lines before `[[identities]]`.
    pub(crate) bundle: &'a str,
    /// Lines of `[proxy]`.
    pub(crate) proxy: &'a str,
    pub(crate) enclave: &'a [&'a str],
}

impl Default for With<'_> {
    fn default() -> Self {
        Self {
            service: "",
            rules: RULES,
            inject: "{ header = \"authorization\", format = \"Bearer {}\" }",
            placeholder: PLACEHOLDER,
            base: "/v1",
            identities: &["crew"],
            bundle: "",
            proxy: "",
            enclave: &[],
        }
    }
}

impl Setting {
    /// The usual, in front of this service, and its credential is put.
    pub(crate) fn start(upstream: Upstream) -> Self {
        let setting = Self::with(upstream, &With::default());
        setting.put_well("crew", SECRET);
        setting
    }

    /// Otherwise, and no credential is put.
    pub(crate) fn with(upstream: Upstream, with: &With<'_>) -> Self {
        let port = free_port();
        let config = config(upstream.address, port, with.proxy);
        let running = Running::prepared(
            |state| bundle(state, &upstream, with),
            &config,
            with.enclave,
        );
        let socket = running.folder().join("proxy/agentkeys-proxy.sock");
        wait_for(|| socket.exists());
        Self {
            running,
            upstream,
            socket,
            port,
        }
    }

    /// `anchorhold credential ...`, with this on its standard input.
    pub(crate) fn command(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(program("anchorhold"))
            .arg("credential")
            .args(arguments)
            .arg("--endpoint")
            .arg(format!("unix://{}", self.running.socket.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap()
    }

    /// Puts a credential, with more arguments.
    pub(crate) fn put(&self, identity: &str, secret: &str, more: &[&str]) -> Output {
        let state = &self.running.state;
        let files = [
            state.operator_key(),
            state.policy(),
            state.measurements(),
            state.root(),
        ];
        let [key, bundle, measurements, root] = files.map(|file| file.display().to_string());
        let arguments = [
            "put",
            "--identity",
            identity,
            "--service",
            "api",
            "--operator-key",
            &key,
            "--bundle",
            &bundle,
            "--measurements",
            &measurements,
            "--mock-root",
            &root,
        ];
        self.command(&[&arguments[..], more].concat(), secret)
    }

    pub(crate) fn put_well(&self, identity: &str, secret: &str) -> Value {
        let output = self.put(identity, secret, &[]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Puts the credential of `crew` at a desk whose clock says this, in seconds since 1970.
    pub(crate) fn put_at(&self, now: i64) {
        put_at(&self.running.state, &self.running.socket, now);
    }

    /// Has an annex of this version, which revokes this, taken; what is taken is seen a moment later.
    pub(crate) fn revoke(&self, version: u32, entry: &str) {
        let state = &self.running.state;
        let text = format!("version = {version}\nrevoked = [{entry:?}]\n");
        let annex = policy::Annex::from_toml(&text).unwrap();
        let signed = annex
            .sign(&KeyFile::read(&state.operator_key()).unwrap())
            .unwrap();
        std::fs::write(state.folder().join("annex.cose"), signed).unwrap();
        self.running.sidecar.signal(rustix::process::Signal::HUP);
    }

    /// Asks through the Unix socket: head lines behind the request line, and a body.
    pub(crate) fn ask(&self, line: &str, headers: &str, body: &[u8]) -> Answer {
        let mut connection = Connection::open(&self.socket).unwrap();
        ask_over(&mut connection, line, headers, body)
    }

    /// Asks through the TCP port, with whatever headers; gives all that comes until the end.
    pub(crate) fn ask_tcp(&self, line: &str, headers: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let length = body.len();
        let host = format!("host: 127.0.0.1:{}\r\n", self.port);
        let head = format!(
            "{line} HTTP/1.1\r\n{host}connection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Lines of the record that are of this type, oldest first; waits until there are as many.
    pub(crate) fn events(&self, kind: &str, count: usize) -> Vec<Value> {
        let of_kind = || {
            let mut all: Vec<PathBuf> = std::fs::read_dir(self.running.state.record())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
                .collect();
            all.sort();
            let text: String = all
                .iter()
                .map(|file| std::fs::read_to_string(file).unwrap())
                .collect();
            let lines = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            lines
                .filter(|line: &Value| line["event_type"] == kind)
                .collect::<Vec<_>>()
        };
        wait_for(|| of_kind().len() >= count);
        let found = of_kind();
        assert_eq!(found.len(), count, "{found:?}");
        found
    }
}

/// Puts the credential of `crew`, by what a desk does.
pub(crate) fn put_at(state: &State, socket: &Path, now: i64) {
    let (root, measurements, bundle) = state.verifier_files().unwrap();
    let client = Client::new(Target::Unix(socket.to_owned()), None);
    let put = PutCredential {
        key: &KeyFile::read(&state.operator_key()).unwrap(),
        bundle: &bundle,
        image: &measurements,
        mock_root: Some(root),
        now,
        identity: "crew",
        service: "api",
        version: 1,
        secret: SECRET.as_bytes(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(put.send(&client)).unwrap();
}

/// One request over a connection that stays open.
pub(crate) fn ask_over(
    connection: &mut Connection,
    line: &str,
    headers: &str,
    body: &[u8],
) -> Answer {
    let length = body.len();
    let head =
        format!("{line} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{headers}\r\n");
    connection.send(&[head.as_bytes(), body].concat()).unwrap();
    connection.read().unwrap()
}

/// Lines of the sidecar's configuration.
pub(crate) fn config(upstream: SocketAddr, port: u16, more: &str) -> String {
    format!(
        "annex = \"annex.cose\"\n[proxy]\nsocket = \"proxy/agentkeys-proxy.sock\"\ncredentials = \"credentials\"\n\
         listen = \"127.0.0.1:{port}\"\n{more}\naddresses = {{ api = \"{upstream}\" }}\n\
         [[proxy.callers]]\nname = \"crew\"\ntoken_file = \"crew.token\"\n"
    )
}

/// The bundle, and beside it the files that the configuration names.
pub(crate) fn bundle(state: &State, upstream: &Upstream, with: &With<'_>) -> String {
    let token = state.folder().join("crew.token");
    std::fs::write(&token, with.placeholder).unwrap();
    std::fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
    // The first annex, so that there can be another.
    let annex = policy::Annex::from_toml("version = 1").unwrap();
    let signed = annex
        .sign(&KeyFile::read(&state.operator_key()).unwrap())
        .unwrap();
    std::fs::write(state.folder().join("annex.cose"), signed).unwrap();
    let identities: Vec<_> = with
        .identities
        .iter()
        .map(|name| (*name, "did:key", "EdDSA"))
        .collect();
    let text = state.development_policy(&identities).unwrap();
    let text = text.replace("callers = { ", "callers = { names = [\"crew\"], ");
    let (before, identities) = text.split_at(text.find("\n[[identities]]").unwrap());
    format!(
        "{before}{}\n{identities}\n[[services]]\nname = \"api\"\nupstream = \"https://api.example{}\"\nroots = ['''{}''']\n\
         inject = {}\n{}\nrules = [{}]\n",
        with.bundle, with.base, upstream.root, with.inject, with.service, with.rules
    )
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
