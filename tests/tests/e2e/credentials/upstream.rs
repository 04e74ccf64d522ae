//! A service over TLS that answers as a test says, byte by byte.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::services::pem;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sha2::{Digest, Sha256};

/// What stands between the test and the service's client.
pub(crate) type Tls = StreamOwned<ServerConnection, TcpStream>;

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Of the connection that it came over.
    pub(crate) connection: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter().filter(|(own, _)| own == name);
        let first = all.next();
        assert!(all.next().is_none(), "{name} is given twice");
        first.map(|(_, value)| value.as_str())
    }
}

/// Answers a request; gives whether the connection goes on.
type Answer = dyn Fn(&Request, &mut Tls) -> io::Result<bool> + Send + Sync;

/// A running service.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    /// PEM of its root.
    pub(crate) root: String,
    /// SHA-256 of the key of its certificate, and of its root.
    pub(crate) keys: [String; 2],
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Upstream {
    /// A service of this name, whose certificate is good from `begin` to `end`.
    pub(crate) fn start_for(
        name: &str,
        validity: Option<[(i32, u8, u8); 2]>,
        answer: impl Fn(&Request, &mut Tls) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        let root_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&root_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if let Some([begin, end]) = validity {
            leaf.not_before = rcgen::date_time_ymd(begin.0, begin.1, begin.2);
            leaf.not_after = rcgen::date_time_ymd(end.0, end.1, end.2);
        }
        let issuer = Issuer::from_params(&params, &root_key);
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], private)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let digest = |key: &KeyPair| {
            let spki = rcgen::PublicKeyData::subject_public_key_info(key);
            data_encoding::HEXLOWER.encode(&Sha256::digest(spki))
        };
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            root: pem(root.der()),
            keys: [digest(&key), digest(&root_key)],
            seen: Arc::default(),
        };
        let (seen, config, answer) = (
            Arc::clone(&upstream.seen),
            Arc::new(config),
            Arc::new(answer),
        );
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (seen, config) = (Arc::clone(&seen), Arc::clone(&config));
                let answer: Arc<Answer> = answer.clone();
                std::thread::spawn(move || {
                    let _ = serve(number, stream?, config, &seen, &*answer);
                    io::Result::Ok(())
                });
            }
        });
        upstream
    }

    /// The same, for `api.example` and always good.
    pub(crate) fn start(
        answer: impl Fn(&Request, &mut Tls) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Self {
        Self::start_for("api.example", None, answer)
    }

    /// What came so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    number: usize,
    stream: TcpStream,
    config: Arc<ServerConfig>,
    seen: &Mutex<Vec<Request>>,
    answer: &Answer,
) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_nodelay(true)?;
    let mut tls = StreamOwned::new(
        ServerConnection::new(config).map_err(io::Error::other)?,
        stream,
    );
    let mut buffer = Vec::new();
    loop {
        let Some(mut request) = head(&mut tls, &mut buffer)? else {
            return Ok(());
        };
        request.connection = number;
        // This one does not wait for the rest.
        if !request.line.contains("/early") {
            request.body = body(&request, &mut tls, &mut buffer)?;
        }
        seen.lock().unwrap().push(request.clone());
        let goes_on = answer(&request, &mut tls)?;
        tls.flush()?;
        if !goes_on {
            tls.conn.send_close_notify();
            tls.flush()?;
            return Ok(());
        }
    }
}

fn more(tls: &mut Tls, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut chunk = [0; 16 * 1024];
    let read = tls.read(&mut chunk)?;
    buffer.extend_from_slice(&chunk[..read]);
    Ok(read > 0)
}

fn head(tls: &mut Tls, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if !more(tls, buffer)? {
            return Ok(None);
        }
    };
    let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut lines = text.split("\r\n");
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_ascii_lowercase(), value.trim().to_owned())
    };
    Ok(Some(Request {
        line: lines.next().unwrap_or_default().to_owned(),
        headers: lines.map(header).collect(),
        ..Request::default()
    }))
}

fn body(request: &Request, tls: &mut Tls, buffer: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    if let Some(length) = request.header("content-length") {
        let length: usize = length.parse().unwrap();
        while buffer.len() < length {
            if !more(tls, buffer)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        return Ok(buffer.drain(..length).collect());
    }
    let mut body = Vec::new();
    if request.header("transfer-encoding") != Some("chunked") {
        return Ok(body);
    }
    loop {
        let line = loop {
            if let Some(end) = buffer.windows(2).position(|window| window == b"\r\n") {
                break end;
            }
            if !more(tls, buffer)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let size = String::from_utf8_lossy(&buffer[..line]).into_owned();
        let size = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
        while buffer.len() < line + 2 + size + 2 {
            if !more(tls, buffer)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        body.extend_from_slice(&buffer[line + 2..line + 2 + size]);
        buffer.drain(..line + 2 + size + 2);
        if size == 0 {
            return Ok(body);
        }
    }
}

/// An answer of this status, with these further header lines and this body.
pub(crate) fn answer(tls: &mut Tls, status: u16, headers: &str, body: &[u8]) -> io::Result<bool> {
    let length = body.len();
    write!(
        tls,
        "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{headers}\r\n"
    )?;
    tls.write_all(body)?;
    Ok(true)
}
