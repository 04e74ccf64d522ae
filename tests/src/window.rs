//! The window by hand: a connection to an enclave that can do everything that a hostile process on
//! the parent can.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use enclave::{BootClock, BootTime, Enclave, Entropy, Listener, Machine, Nsm, OsEntropy, serve};
use identity::caller::ObservedCaller;
use identity::{Format, Message, PublicKey, Signature, Signer, cbor};
use policy::Bundle;
use protocol::{
    Answer, ChannelProof, FrameBuffer, Hello, Outcome, Refusal, Request, RequestFrame, Requester,
    ResponseFrame, Sign, Welcome, write_frame,
};

/// A key of a test, made of repeated bytes.
pub struct TestKey {
    key: ed25519_dalek::SigningKey,
    public: PublicKey,
}

impl TestKey {
    /// Another byte, another key.
    pub fn new(byte: u8) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(&[byte; 32]);
        let public = PublicKey::Ed25519(key.verifying_key());
        Self { key, public }
    }

    /// Signs whatever it is: what an issuer outside does.
    pub fn sign_bytes(&self, bytes: &[u8]) -> Signature {
        ed25519_dalek::Signer::sign(&self.key, bytes).to_bytes()
    }
}

impl Signer for TestKey {
    type Error = identity::Error;

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &Message) -> Result<Signature, identity::Error> {
        Ok(ed25519_dalek::Signer::sign(&self.key, message.as_bytes()).to_bytes())
    }
}

/// The proxy's key in [`bundle`].
pub const PROXY: u8 = 1;
/// The operator's key in [`bundle`].
pub const OPERATOR: u8 = 2;

/// A bundle of this mode for uid 1000: `agent` (did:key), `web` (did:web) and `p256` (ES256);
/// nobody but the operator rotates.
pub fn bundle(mode: &str) -> Bundle {
    let mut text = format!(
        "version = 1\nmode = \"{mode}\"\nproxy_key = \"{}\"\noperator_key = \"{}\"\n",
        TestKey::new(PROXY).public.to_multikey(),
        TestKey::new(OPERATOR).public.to_multikey()
    );
    for (name, did, algorithm) in [
        ("agent", "did:key", "EdDSA"),
        ("web", "did:web:agent.example.com", "EdDSA"),
        ("p256", "did:key", "ES256"),
    ] {
        text.push_str(&format!(
            "[[identities]]\nname = \"{name}\"\nenvironment = \"test\"\ndid = \"{did}\"\nalgorithm = \"{algorithm}\"\nmax_validity_seconds = 600\n\
             callers = {{ uids = [1000] }}\n\
             [[identities.rules]]\nname = \"any\"\nactions = [\"*\"]\ntargets = [\"*\"]\nresources = [\"*\"]\n"
        ));
    }
    Bundle::from_toml(&text).expect("a good bundle")
}

/// An enclave in this process, on a socket of its own. Its threads end with the process.
pub struct InProcess<N> {
    /// Where it listens.
    pub socket: PathBuf,
    /// The enclave itself.
    pub enclave: Arc<Enclave<N>>,
    /// The codes of the errors for which it would have powered off.
    pub powered_off: Arc<Mutex<Vec<String>>>,
    /// Whether its operating system gives no randomness.
    pub without_randomness: Arc<AtomicBool>,
    _folder: tempfile::TempDir,
}

/// The operating system's randomness, as long as there is any.
struct Switched(Arc<AtomicBool>);

impl Entropy for Switched {
    fn fill(&self, out: &mut [u8]) -> Result<(), enclave::Error> {
        if self.0.load(Ordering::SeqCst) {
            return Err(enclave::Error::NoRandomness);
        }
        OsEntropy.fill(out)
    }
}

impl<N: Nsm> InProcess<N> {
    /// Boots on this NSM, with the real boot clock.
    pub fn boot(nsm: N) -> Self {
        Self::boot_with_clock(nsm, Box::new(BootTime))
    }

    /// Boots on this NSM and boot clock.
    pub fn boot_with_clock(nsm: N, boot_clock: Box<dyn BootClock>) -> Self {
        let powered_off = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&powered_off);
        let power_off = move |error: &enclave::Error| {
            noted
                .lock()
                .expect("not poisoned")
                .push(error.code().to_owned())
        };
        let without_randomness = Arc::new(AtomicBool::new(false));
        let machine = Machine {
            nsm,
            boot_clock,
            entropy: Box::new(Switched(Arc::clone(&without_randomness))),
            kms: Box::new(NoKms),
            couriers: Vec::new(),
            ingress: None,
            power_off: Box::new(power_off),
        };
        let enclave = Arc::new(Enclave::boot(machine).expect("a boot"));
        let folder = crate::private_folder();
        let socket = folder.path().join("enclave.sock");
        let listener = Listener::Unix(UnixListener::bind(&socket).expect("a socket"));
        let serving = Arc::clone(&enclave);
        std::thread::spawn(move || serve(&serving, &listener));
        Self {
            socket,
            enclave,
            powered_off,
            without_randomness,
            _folder: folder,
        }
    }

    /// Connects as the proxy and provisions.
    pub fn provisioned(self) -> (Self, Window) {
        let mut window = Window::connect(&self.socket, &TestKey::new(PROXY))
            .expect("a connection")
            .expect("welcome");
        let request = Request::Provision {
            bundle: bundle("development").canonical(),
            before: None,
        };
        window
            .ask(request)
            .expect("an answer")
            .expect("provisioned");
        (self, window)
    }
}

/// A connection that has met the enclave.
pub struct Window {
    stream: UnixStream,
    buffer: FrameBuffer,
    next: u64,
}

impl Window {
    /// Opens a connection and reads the hello, and proves nothing.
    pub fn open(socket: &Path) -> io::Result<(Self, Hello)> {
        Self::open_on(UnixStream::connect(socket)?)
    }

    /// As [`Window::open`], on a connection that is there.
    pub fn open_on(stream: UnixStream) -> io::Result<(Self, Hello)> {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut window = Self {
            stream,
            buffer: FrameBuffer::default(),
            next: 0,
        };
        let hello = Hello::decode(&window.read()?).map_err(io::Error::other)?;
        Ok((window, hello))
    }

    /// Opens a connection and proves `key`.
    pub fn connect(socket: &Path, key: &TestKey) -> io::Result<Result<Self, Refusal>> {
        Self::connect_on(UnixStream::connect(socket)?, key)
    }

    /// As [`Window::connect`], on a connection that is there.
    pub fn connect_on(
        stream: UnixStream,
        key: &impl Signer<Error = identity::Error>,
    ) -> io::Result<Result<Self, Refusal>> {
        let (mut window, hello) = Self::open_on(stream)?;
        window.send(&frame(
            &ChannelProof::new(&hello, key).map_err(io::Error::other)?,
        ))?;
        Ok(window.welcome()?.map(|()| window))
    }

    /// Reads the answer to a proof.
    pub fn welcome(&mut self) -> io::Result<Result<(), Refusal>> {
        match cbor::from_slice(&self.read()?).map_err(io::Error::other)? {
            Welcome::Welcome => Ok(Ok(())),
            Welcome::Refused(refusal) => Ok(Err(refusal)),
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads the bytes of one frame.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(frame) = self.buffer.next_frame().map_err(io::Error::other)? {
                return Ok(frame.to_vec());
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.buffer.push(&chunk[..read]),
            }
        }
    }

    /// Asks and reads the answer.
    pub fn ask(&mut self, request: Request) -> io::Result<Result<Answer, Refusal>> {
        self.ask_recorded(request).map(|(answer, _)| answer)
    }

    /// Asks and reads the answer and the event that goes with it.
    pub fn ask_recorded(
        &mut self,
        request: Request,
    ) -> io::Result<(Result<Answer, Refusal>, Event)> {
        self.next += 1;
        self.send(&frame(&RequestFrame {
            id: self.next,
            request,
        }))?;
        let response: ResponseFrame = cbor::from_slice(&self.read()?).map_err(io::Error::other)?;
        assert_eq!(response.id, self.next);
        let answer = match response.outcome {
            Outcome::Done(answer) => Ok(answer),
            Outcome::Refused(refusal) => Err(refusal),
        };
        Ok((answer, response.event))
    }

    /// Whether the other side has closed, as it must after a wrong frame.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 64]), Ok(0)) || self.stream.write_all(&[0; 1]).is_err()
    }
}

/// The event of the record that goes with an answer, if something was decided.
pub type Event = Option<Vec<u8>>;

/// The bytes of a frame.
pub fn frame<T: minicbor::Encode<()>>(message: &T) -> Vec<u8> {
    let mut out = Vec::new();
    write_frame(message, &mut out).expect("a message that fits");
    out
}

/// For identity `name`, as asked by uid 1000.
pub fn of(name: &str) -> Requester {
    Requester {
        caller: ObservedCaller::ids(1000, 1000),
        identity: Some(name.into()),
    }
}

/// A request for a token that every rule of [`bundle`] allows.
pub fn sign(name: &str) -> Request {
    Request::Sign(Sign {
        requester: of(name),
        format: Format::VouchJwt,
        action: "a".into(),
        target: String::new(),
        resource: String::new(),
        payload: "{}".into(),
        audience: None,
        validity_seconds: None,
        proof: None,
        delegation: None,
        approval: None,
        delegatee: None,
    })
}

/// Of an enclave whose keys end with its boot.
struct NoKms;

impl enclave::Kms for NoKms {
    fn ask(&self, _: &egress::KmsCall) -> Result<egress::KmsAnswer, egress::Failure> {
        Err(egress::Failure {
            kind: egress::FailureKind::NoLine,
            message: "nobody lends one".into(),
        })
    }
}
