//! An egress process as a thread, over real pipes, and a KMS that answers as a test says.
#![allow(dead_code, reason = "each test program uses a part")]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use data_encoding::BASE64;
use egress::{Anchor, Client, Error, KmsCall, KmsOperation, Line, Lines};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Within the validity of the server's certificate, which is the year 2026.
pub(crate) const NOW: i64 = 1_790_000_000;
pub(crate) const HOST: &str = "kms.eu-central-1.amazonaws.com";
pub(crate) const BODY: &[u8] = b"{\"KeyId\":\"x\"}";

/// A call that gets so many milliseconds.
pub(crate) fn call(operation: KmsOperation, deadline_ms: u32) -> KmsCall {
    KmsCall {
        time: NOW,
        host: HOST.into(),
        operation,
        amz_date: "20260921T132640Z".into(),
        authorization: "AWS4-HMAC-SHA256 Signature=00".into(),
        security_token: Some("token".into()),
        body: BODY.to_vec(),
        deadline_ms,
    }
}

/// A root, which signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) anchor: Anchor,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        Self {
            anchor: egress::anchor(certificate.der()).unwrap(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A server of this name, with a certificate for 2026.
    pub(crate) fn server(&self, name: &str, version: &'static SupportedProtocolVersion) -> Server {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Server(Arc::new(config))
    }
}

/// Who answers TLS.
#[derive(Clone)]
pub(crate) struct Server(Arc<ServerConfig>);

pub(crate) type TlsStream = StreamOwned<ServerConnection, UnixStream>;

impl Server {
    pub(crate) fn accept(&self, line: UnixStream) -> TlsStream {
        StreamOwned::new(ServerConnection::new(Arc::clone(&self.0)).unwrap(), line)
    }

    /// Takes one request, gives these bytes, and closes.
    pub(crate) fn answer(self, bytes: Vec<u8>) -> impl FnOnce(UnixStream) + Send + 'static {
        move |line| {
            let mut stream = self.accept(line);
            if request(&mut stream).is_ok() {
                let _ = stream.write_all(&bytes);
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    }
}

/// Reads one request: it ends with the body that [`call`] has.
pub(crate) fn request(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    while !bytes.ends_with(BODY) {
        let read = from.read(&mut chunk)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&chunk[..read]);
    }
    Ok(bytes)
}

/// HTTP with this status and body.
pub(crate) fn http(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// A good answer about this key.
pub(crate) fn good(operation: KmsOperation, key_id: &str) -> Vec<u8> {
    let blob = match operation {
        KmsOperation::GenerateDataKey => r#""CiphertextBlob":"AAAA","#,
        KmsOperation::Decrypt => "",
    };
    let message = BASE64.encode(&message(1));
    let body = format!(
        r#"{{"KeyId":"{key_id}",{blob}"Plaintext":"","CiphertextForRecipient":"{message}"}}"#
    );
    http(200, &body)
}

fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

/// A message as KMS makes it, for so many recipients.
pub(crate) fn message(recipients: u8) -> Vec<u8> {
    let head = hex("308006092a864886f70d010703a080308002010231");
    let recipient = |id| {
        let oaep = "303c06092a864886f70d010107302fa00f300d06096086480165030402010500a11c301a06092a\
             864886f70d010108300d06096086480165030402010500";
        let start = hex("308201670201028020");
        [
            start,
            vec![id; 32],
            hex(oaep),
            hex("04820100"),
            vec![0xee; 256],
        ]
        .concat()
    };
    let recipients: Vec<u8> = (0..recipients).flat_map(recipient).collect();
    let length = u16::try_from(recipients.len()).unwrap().to_be_bytes();
    let data = hex("308006092a864886f70d010701301d060960864801650304012a0410");
    let content = [hex("a0800430"), vec![0xcc; 48]].concat();
    [
        head,
        vec![0x82],
        length.into(),
        recipients,
        data,
        vec![0x1f; 16],
        content,
        vec![0; 10],
    ]
    .concat()
}

/// Lines that a test lends.
struct Lent(Receiver<UnixStream>);

impl Lines for Lent {
    fn next(&mut self, within: Duration) -> io::Result<Option<Box<dyn Line>>> {
        match self.0.recv_timeout(within) {
            Ok(first) => Ok(Some(Box::new(self.0.try_iter().last().unwrap_or(first)))),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// An egress process, and who asks it.
pub(crate) struct Egress {
    pub(crate) client: Client,
    lines: Sender<UnixStream>,
    pub(crate) ended: Receiver<String>,
    pub(crate) served: JoinHandle<Result<(), Error>>,
}

impl Egress {
    pub(crate) fn start(anchors: Vec<Anchor>) -> Self {
        let (asks, to) = io::pipe().unwrap();
        let (from, answers) = io::pipe().unwrap();
        let (lines, lent) = mpsc::channel();
        let served = thread::spawn(move || egress::serve(asks, answers, Lent(lent)));
        let (end, ended) = mpsc::channel();
        let client = Client::start(from, to, anchors, move |why| {
            let _ = end.send(why.to_owned());
        });
        Self {
            client: client.unwrap(),
            lines,
            ended,
            served,
        }
    }

    /// Lends a line, whose other end does this.
    pub(crate) fn lend(&self, act: impl FnOnce(UnixStream) + Send + 'static) -> JoinHandle<()> {
        let (here, there) = UnixStream::pair().unwrap();
        self.lines.send(here).unwrap();
        thread::spawn(move || act(there))
    }
}
