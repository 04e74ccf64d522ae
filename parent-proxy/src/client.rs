//! A small HTTP client for the commands that talk to a running sidecar.

use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::str::FromStr;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

/// Where a sidecar listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `unix:///path`.
    Unix(PathBuf),
    /// `http://127.0.0.1:port`.
    Localhost(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Localhost(authority) => write!(f, "http://{authority}"),
        }
    }
}

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err("the path is not absolute")
            };
        }
        match text.strip_prefix("http://") {
            Some(authority) if !authority.is_empty() && !authority.contains('/') => {
                Ok(Self::Localhost(authority.to_owned()))
            }
            _ => Err("neither unix:///path nor http://127.0.0.1:port"),
        }
    }
}

/// Why a sidecar gave no good answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no sidecar at {target}; start one (anchorhold serve, or anchorhold-dev up to try), or name another (--endpoint)"
    )]
    NoSidecar {
        /// Where.
        target: String,
    },
    /// The connection could not be made, or broke.
    #[error("{target}: {why}")]
    Unreachable {
        /// Where.
        target: String,
        /// Why.
        why: String,
    },
    /// The sidecar refused.
    #[error("{status} {code}: {detail}{}", .retry_after.map(|seconds| format!("; try again in {}", readable(seconds))).unwrap_or_default())]
    Refused {
        /// HTTP status.
        status: u16,
        /// Stable code of the problem.
        code: String,
        /// For people.
        detail: String,
        /// After how many seconds it may be tried again, if waiting helps.
        retry_after: Option<u32>,
    },
}

/// A client of one sidecar; a connection for each request.
pub struct Client {
    target: Target,
    token: Option<Zeroizing<String>>,
}

fn readable(seconds: u32) -> String {
    let minutes = seconds.div_ceil(60);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

/// Evidence and tokens are far below this.
const MAX_ANSWER: usize = 1 << 20;

impl Client {
    /// A client without a token, or with the one that a caller on localhost shows.
    pub fn new(target: Target, token: Option<Zeroizing<String>>) -> Self {
        Self { target, token }
    }

    /// `GET`, or `POST` with a JSON body. Gives the body of a 200 or 202.
    pub async fn call(&self, path: &str, body: Option<&Value>) -> Result<Vec<u8>, ClientError> {
        self.send(
            path,
            body.map(|body| ("application/json", body.to_string())),
        )
        .await
    }

    /// `POST` with a form. Gives the body of a 200.
    pub async fn post_form(&self, path: &str, form: String) -> Result<Vec<u8>, ClientError> {
        self.send(path, Some(("application/x-www-form-urlencoded", form)))
            .await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.ask("DELETE", path, None).await.map(|_| ())
    }

    /// `GET` of an answer that does not end: gives it with its first line.
    pub async fn hold(&self, path: &str) -> Result<Held, ClientError> {
        let Target::Unix(socket) = &self.target else {
            return Err(self.unreachable("a placeholder is given over a Unix socket only".into()));
        };
        let stream = UnixStream::connect(socket).await;
        let stream = stream.map_err(|error| self.not_connected(&error))?;
        let text = |error: hyper::Error| self.unreachable(error.to_string());
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        tokio::spawn(connection);
        let request = Request::builder().uri(path).header("host", "localhost");
        let request = request.body(Full::<Bytes>::default());
        let request = request.map_err(|error| self.unreachable(error.to_string()))?;
        let mut response = sender.send_request(request).await.map_err(text)?;
        let is_good = response.status() == 200;
        let mut line = Vec::new();
        while !(is_good && line.ends_with(b"\n")) && line.len() < MAX_ANSWER {
            let Some(frame) = response.frame().await else {
                break;
            };
            line.extend_from_slice(frame.map_err(text)?.data_ref().unwrap_or(&Bytes::new()));
        }
        if !is_good {
            return Err(refused(response.status().as_u16(), None, &line));
        }
        Ok(Held {
            line,
            _body: response.into_body(),
        })
    }

    fn unreachable(&self, why: String) -> ClientError {
        ClientError::Unreachable {
            target: self.target.to_string(),
            why,
        }
    }

    fn not_connected(&self, error: &std::io::Error) -> ClientError {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NoSidecar {
                target: self.target.to_string(),
            },
            ErrorKind::PermissionDenied => {
                self.unreachable("this user may not connect there (permission denied)".into())
            }
            _ => self.unreachable(format!("no connection: {error}")),
        }
    }

    async fn send(&self, path: &str, body: Option<(&str, String)>) -> Result<Vec<u8>, ClientError> {
        let method = if body.is_some() { "POST" } else { "GET" };
        self.ask(method, path, body).await
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, String)>,
    ) -> Result<Vec<u8>, ClientError> {
        let exchanged = match &self.target {
            Target::Unix(socket) => {
                let stream = UnixStream::connect(socket)
                    .await
                    .map_err(|error| self.not_connected(&error))?;
                self.exchange(stream, "localhost", (method, path), body)
                    .await
            }
            Target::Localhost(authority) => {
                let stream = TcpStream::connect(authority)
                    .await
                    .map_err(|error| self.not_connected(&error))?;
                self.exchange(stream, authority, (method, path), body).await
            }
        };
        let Answer {
            status,
            retry_after,
            bytes,
        } = exchanged.map_err(|why| self.unreachable(why))?;
        if [200, 202, 204].contains(&status) {
            return Ok(bytes);
        }
        Err(refused(status, retry_after, &bytes))
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        host: &str,
        (method, path): (&str, &str),
        body: Option<(&str, String)>,
    ) -> Result<Answer, String> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", host);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {}", token.as_str()));
        }
        let request = match body {
            None => request.body(Full::default()),
            Some((kind, body)) => request
                .header("content-type", kind)
                .body(Full::new(Bytes::from(body))),
        };
        let request = request.map_err(|error| error.to_string())?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|seconds| seconds.to_str().ok()?.parse().ok());
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        Ok(Answer {
            status,
            retry_after,
            bytes: body.to_bytes().to_vec(),
        })
    }
}

fn refused(status: u16, retry_after: Option<u32>, bytes: &[u8]) -> ClientError {
    let problem: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let text = |name: &str| problem[name].as_str().map(str::to_owned);
    let detail = text("detail").or_else(|| text("error_description"));
    let unknown = || "unknown".to_owned();
    ClientError::Refused {
        status,
        code: text("code").unwrap_or_else(unknown),
        detail: detail.unwrap_or_else(unknown),
        retry_after,
    }
}

/// An answer that has not ended: what it gives is good until this is dropped.
#[derive(Debug)]
pub struct Held {
    line: Vec<u8>,
    _body: Incoming,
}

impl Held {
    /// Its first line.
    pub fn line(&self) -> &[u8] {
        &self.line
    }
}

/// What came back.
struct Answer {
    status: u16,
    retry_after: Option<u32>,
    bytes: Vec<u8>,
}
