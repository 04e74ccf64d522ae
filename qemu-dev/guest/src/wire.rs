//! Between a development enclave in a virtual machine and the mock NSM, which the host holds in
//! place of a hypervisor.
//!
//! Over vsock: frames as the window's. The host greets; then the guest asks and the host answers,
//! one at a time.

use std::io::{Read, Write};

use enclave::NsmError;
use identity::Pcr;
use identity::{Digest, cbor};
use minicbor::{Decode, Encode};
use protocol::{FrameBuffer, write_frame};

/// The port of the host at which the mock NSM answers.
pub const MOCK_NSM_PORT: u32 = 5007;

/// Stands in every program that holds the mock NSM's code, and in no other: `anchorhold-eif build`
/// looks for it. The host greets with it, and the guest takes no other greeting, so it cannot be
/// optimised away.
pub const MARKER: &str = "anchorhold: this program holds the mock NSM";

/// The host's first frame.
#[derive(Debug, Encode, Decode)]
#[cbor(array)]
pub struct Greeting {
    /// [`MARKER`].
    #[n(0)]
    pub marker: String,
    /// The certificate that the mock's documents chain to, in DER.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub root: Vec<u8>,
    /// Whom TLS of the guest trusts.
    #[n(2)]
    pub tls_roots: Vec<egress::Anchor>,
}

/// What the guest wants of the mock: what [`enclave::Nsm`] asks.
#[derive(Debug, Encode, Decode)]
pub enum Ask {
    /// A document, with these fields.
    #[n(0)]
    Attest {
        /// Its `public_key`.
        #[cbor(n(0), with = "minicbor::bytes")]
        public_key: Option<Vec<u8>>,
        /// Its `user_data`.
        #[cbor(n(1), with = "minicbor::bytes")]
        user_data: Option<Vec<u8>>,
        /// Its `nonce`.
        #[cbor(n(2), with = "minicbor::bytes")]
        nonce: Option<Vec<u8>>,
    },
    /// A register extended; its new value.
    #[n(1)]
    Extend {
        /// Which one.
        #[n(0)]
        index: u16,
        /// What it is extended by.
        #[cbor(n(1), with = "minicbor::bytes")]
        data: Vec<u8>,
    },
    /// The registers below this one locked.
    #[n(2)]
    Lock {
        /// The first that stays open.
        #[n(0)]
        range: u16,
    },
    /// So many random bytes.
    #[n(3)]
    Random {
        /// How many, in bytes.
        #[n(0)]
        length: u16,
    },
    /// Signs again what a device without keys has made.
    #[n(4)]
    Sign {
        /// The document of a device without keys.
        #[cbor(n(0), with = "minicbor::bytes")]
        unsigned: Vec<u8>,
    },
}

/// What the mock answers.
#[derive(Debug, Encode, Decode)]
pub enum Told {
    /// Bytes; none where there is nothing to tell.
    #[n(0)]
    Bytes(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// Why not.
    #[n(1)]
    Failed(#[n(0)] String),
}

/// Sends one frame.
pub fn send<T: Encode<()>>(stream: &mut impl Write, message: &T) -> std::io::Result<()> {
    let mut frame = Vec::new();
    write_frame(message, &mut frame).map_err(std::io::Error::other)?;
    stream.write_all(&frame)
}

/// Reads one frame.
pub fn receive(stream: &mut impl Read, buffer: &mut FrameBuffer) -> std::io::Result<Vec<u8>> {
    loop {
        if let Some(frame) = buffer.next_frame().map_err(std::io::Error::other)? {
            return Ok(frame.to_vec());
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => buffer.push(&chunk[..read]),
        }
    }
}

/// The guest's side: one question at a time.
#[derive(Debug)]
pub struct Channel<S> {
    stream: S,
    buffer: FrameBuffer,
}

impl<S: Read + Write> Channel<S> {
    /// Takes the greeting, and gives it with the channel.
    pub fn open(mut stream: S) -> std::io::Result<(Self, Greeting)> {
        let mut buffer = FrameBuffer::default();
        let greeting: Greeting =
            cbor::from_slice(&receive(&mut stream, &mut buffer)?).map_err(std::io::Error::other)?;
        if greeting.marker != MARKER {
            return Err(std::io::Error::other("this is not the mock NSM"));
        }
        Ok((Self { stream, buffer }, greeting))
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, ask: &Ask) -> Result<Vec<u8>, NsmError> {
        let mut round = || {
            send(&mut self.stream, ask)?;
            cbor::from_slice(&receive(&mut self.stream, &mut self.buffer)?)
                .map_err(std::io::Error::other)
        };
        match round() {
            Ok(Told::Bytes(bytes)) => Ok(bytes),
            Ok(Told::Failed(why)) => Err(NsmError::Answered(why)),
            Err(error) => Err(NsmError::Answered(format!("nothing: {error}"))),
        }
    }

    /// Asks for the value of a register.
    pub fn ask_for_pcr(&mut self, ask: &Ask) -> Result<Pcr, NsmError> {
        self.ask(ask)?
            .try_into()
            .map(Digest)
            .map_err(|_| NsmError::Nonsense)
    }
}
