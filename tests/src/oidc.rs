//! `oidc-provider` of npm's: an authorization server that we did not write.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::services::free_port;

/// A running authorization server. It ends with this value.
pub struct Oidc {
    server: Child,
    /// It ends if nobody listens to what it says.
    _says: BufReader<ChildStdout>,
    /// Its port on localhost.
    pub port: u16,
}

impl Oidc {
    /// Starts one; `None` if it is not installed, which `tests/run` does.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Option<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/oidc");
        if !folder.join("node_modules").exists() {
            crate::skipped("npm's oidc-provider is not there; tests/run installs it");
            return None;
        }
        let port = free_port();
        let mut server = Command::new("node")
            .arg(folder.join("server.mjs"))
            .arg(port.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node");
        let mut line = String::new();
        let out = server.stdout.take().expect("its output");
        let mut says = BufReader::new(out);
        says.read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        Some(Self {
            server,
            _says: says,
            port,
        })
    }
}

impl Drop for Oidc {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
