//! HTTP by hand over a Unix socket: cheap enough for a load, and free to be wrong.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The head, as it came.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The problem's code, or nothing.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    }
}

/// A connection that stays open.
pub struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects; reading gives up after 30 s.
    pub fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(8192),
        })
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one answer.
    pub fn read(&mut self) -> io::Result<Answer> {
        loop {
            if let Some(head) = self
                .buffer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                let text = String::from_utf8_lossy(&self.buffer[..head]).into_owned();
                let mut answer = Answer {
                    status: status(&text),
                    head: text,
                    body: Vec::new(),
                };
                let length: usize = answer
                    .header("content-length")
                    .and_then(|length| length.parse().ok())
                    .unwrap_or(0);
                while self.buffer.len() < head + 4 + length {
                    self.fill()?;
                }
                answer.body = self.buffer[head + 4..head + 4 + length].to_vec();
                self.buffer.drain(..head + 4 + length);
                return Ok(answer);
            }
            self.fill()?;
        }
    }

    /// Sends a request and reads its answer.
    pub fn request(&mut self, bytes: &[u8]) -> io::Result<Answer> {
        self.send(bytes)?;
        self.read()
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 8192];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.buffer.extend_from_slice(&chunk[..read]);
                Ok(())
            }
        }
    }
}

fn status(head: &str) -> u16 {
    head.split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0)
}

/// The bytes of a request; a body makes it a POST of JSON.
pub fn raw(path: &str, body: Option<&[u8]>) -> Vec<u8> {
    match body {
        None => format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes(),
        Some(body) => {
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            [head.as_bytes(), body].concat()
        }
    }
}

/// `GET` on a connection of its own.
pub fn get(socket: &Path, path: &str) -> io::Result<Answer> {
    Connection::open(socket)?.request(&raw(path, None))
}

/// `POST` of JSON on a connection of its own.
pub fn post(socket: &Path, path: &str, body: &Value) -> io::Result<Answer> {
    Connection::open(socket)?.request(&raw(path, Some(body.to_string().as_bytes())))
}
