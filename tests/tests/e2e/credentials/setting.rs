//! An enclave and a sidecar with one service, and a credential for it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use harness::services::{SECRET, With, bundle, config, free_port, put_at};
use harness::{Answer, Connection, Running, program, wait_for};
use parent_proxy::KeyFile;
use qemu_dev::State;
use serde_json::Value;

use super::upstream::Upstream;

/// All of it.
pub(crate) struct Setting {
    pub(crate) running: Running,
    pub(crate) upstream: Upstream,
    /// The socket of the proxied routes.
    pub(crate) socket: PathBuf,
    /// The port of the proxied routes.
    pub(crate) port: u16,
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
        let addresses = format!("addresses = {{ {}api", with.addresses);
        let config = config.replacen("addresses = { api", &addresses, 1);
        let config = config.replacen("[proxy]", &format!("{}[proxy]", with.sidecar), 1);
        let running = Running::prepared(
            |state| bundle(state, &upstream.root, with),
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
        credential(&self.running.socket, arguments, input)
    }

    /// Puts a credential, with more arguments.
    pub(crate) fn put(&self, identity: &str, secret: &str, more: &[&str]) -> Output {
        self.put_for("api", identity, secret, more)
    }

    /// The same for another service.
    pub(crate) fn put_for(
        &self,
        service: &str,
        identity: &str,
        secret: &str,
        more: &[&str],
    ) -> Output {
        let which = ["put", "--identity", identity, "--service", service];
        let desk = desk(&self.running.state);
        let desk: Vec<&str> = desk.iter().map(String::as_str).collect();
        self.command(&[&which[..], &desk, more].concat(), secret)
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
        self.annex(version, &format!("revoked = [{entry:?}]\n"));
    }

    /// Has an annex of this version, with these lines, taken; what is taken is seen a moment later.
    pub(crate) fn annex(&self, version: u32, lines: &str) {
        let state = &self.running.state;
        let text = format!("version = {version}\n{lines}");
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
        wait_for(|| self.events_so_far(kind).len() >= count);
        let found = self.events_so_far(kind);
        assert_eq!(found.len(), count, "{found:?}");
        found
    }

    /// Those that there are now.
    pub(crate) fn events_so_far(&self, kind: &str) -> Vec<Value> {
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
            .collect()
    }
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

/// `anchorhold credential ...`, with this on its standard input.
pub(crate) fn credential(socket: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(program("anchorhold"))
        .arg("credential")
        .args(arguments)
        .arg("--endpoint")
        .arg(format!("unix://{}", socket.display()))
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

/// What a desk needs for its orders.
pub(crate) fn desk(state: &State) -> Vec<String> {
    let files = [
        ("--operator-key", state.operator_key()),
        ("--bundle", state.policy()),
        ("--measurements", state.measurements()),
        ("--mock-root", state.root()),
    ];
    let arguments = files.map(|(name, file)| [name.to_owned(), file.display().to_string()]);
    arguments.into_iter().flatten().collect()
}
