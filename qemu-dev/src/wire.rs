//! Between a development enclave in a virtual machine and the mock NSM, which the host holds in
//! place of a hypervisor.
//!
//! Over vsock: frames as the window's. The host greets; then the guest asks and the host answers,
//! one at a time.

use std::io::{Read, Write};
use std::sync::{Mutex, PoisonError};

use enclave::{Nsm, NsmError};
use identity::Pcr;
use identity::{Digest, cbor};
use minicbor::{Decode, Encode};
use protocol::{FrameBuffer, write_frame};

use crate::nsm::MockNsm;

/// The port of the host at which the mock NSM answers.
pub(crate) const MOCK_NSM_PORT: u32 = 5007;

/// Stands in every program that holds the mock NSM's code, and in no other: `anchorhold-eif build`
/// looks for it. The host greets with it, and the guest takes no other greeting, so it cannot be
/// optimised away.
pub const MARKER: &str = "anchorhold: this program holds the mock NSM";

/// The host's first frame.
#[derive(Debug, Encode, Decode)]
#[cbor(array)]
pub(crate) struct Greeting {
    #[n(0)]
    pub(crate) marker: String,
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) root: Vec<u8>,
    /// Whom TLS of the guest trusts.
    #[n(2)]
    pub(crate) tls_roots: Vec<egress::Anchor>,
}

#[derive(Debug, Encode, Decode)]
pub(crate) enum Ask {
    #[n(0)]
    Attest {
        #[cbor(n(0), with = "minicbor::bytes")]
        public_key: Option<Vec<u8>>,
        #[cbor(n(1), with = "minicbor::bytes")]
        user_data: Option<Vec<u8>>,
        #[cbor(n(2), with = "minicbor::bytes")]
        nonce: Option<Vec<u8>>,
    },
    #[n(1)]
    Extend {
        #[n(0)]
        index: u16,
        #[cbor(n(1), with = "minicbor::bytes")]
        data: Vec<u8>,
    },
    #[n(2)]
    Lock {
        #[n(0)]
        range: u16,
    },
    #[n(3)]
    Random {
        #[n(0)]
        length: u16,
    },
    /// Signs again what a device without keys has made.
    #[n(4)]
    Sign {
        #[cbor(n(0), with = "minicbor::bytes")]
        unsigned: Vec<u8>,
    },
}

#[derive(Debug, Encode, Decode)]
pub(crate) enum Told {
    #[n(0)]
    Bytes(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    #[n(1)]
    Failed(#[n(0)] String),
}

/// Sends one frame.
pub(crate) fn send<T: Encode<()>>(stream: &mut impl Write, message: &T) -> std::io::Result<()> {
    let mut frame = Vec::new();
    write_frame(message, &mut frame).map_err(std::io::Error::other)?;
    stream.write_all(&frame)
}

/// Reads one frame.
pub(crate) fn receive(
    stream: &mut impl Read,
    buffer: &mut FrameBuffer,
) -> std::io::Result<Vec<u8>> {
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

/// The host's side: answers until the guest is gone.
pub(crate) fn answer(
    stream: &mut (impl Read + Write),
    nsm: &Mutex<MockNsm>,
) -> std::io::Result<()> {
    let greeting = {
        let nsm = nsm.lock().unwrap_or_else(PoisonError::into_inner);
        Greeting {
            marker: MARKER.into(),
            root: nsm.root().as_der().to_vec(),
            tls_roots: nsm.tls_roots(),
        }
    };
    send(stream, &greeting)?;
    let mut buffer = FrameBuffer::default();
    loop {
        let ask =
            cbor::from_slice(&receive(stream, &mut buffer)?).map_err(std::io::Error::other)?;
        let answer = match one(&mut nsm.lock().unwrap_or_else(PoisonError::into_inner), ask) {
            Ok(bytes) => Told::Bytes(bytes),
            Err(error) => Told::Failed(error.to_string()),
        };
        send(stream, &answer)?;
    }
}

fn one(nsm: &mut MockNsm, ask: Ask) -> Result<Vec<u8>, NsmError> {
    match ask {
        Ask::Attest {
            public_key,
            user_data,
            nonce,
        } => nsm.attest(
            public_key.as_deref(),
            user_data.as_deref(),
            nonce.as_deref(),
        ),
        Ask::Extend { index, data } => nsm.extend_pcr(index, &data).map(|pcr| pcr.0.to_vec()),
        Ask::Lock { range } => nsm.lock_pcrs(range).map(|()| Vec::new()),
        Ask::Random { length } => {
            let mut bytes = vec![0; usize::from(length)];
            nsm.random(&mut bytes).map(|()| bytes)
        }
        Ask::Sign { unsigned } => nsm.sign_again(&unsigned),
    }
}

/// The guest's side.
pub(crate) struct Channel<S> {
    stream: S,
    buffer: FrameBuffer,
}

impl<S: Read + Write> Channel<S> {
    /// Takes the greeting, and gives it with the channel.
    pub(crate) fn open(mut stream: S) -> std::io::Result<(Self, Greeting)> {
        let mut buffer = FrameBuffer::default();
        let greeting: Greeting =
            cbor::from_slice(&receive(&mut stream, &mut buffer)?).map_err(std::io::Error::other)?;
        if greeting.marker != MARKER {
            return Err(std::io::Error::other("this is not the mock NSM"));
        }
        Ok((Self { stream, buffer }, greeting))
    }

    pub(crate) fn ask(&mut self, ask: &Ask) -> Result<Vec<u8>, NsmError> {
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

    pub(crate) fn ask_for_pcr(&mut self, ask: &Ask) -> Result<Pcr, NsmError> {
        self.ask(ask)?
            .try_into()
            .map(Digest)
            .map_err(|_| NsmError::Nonsense)
    }
}
