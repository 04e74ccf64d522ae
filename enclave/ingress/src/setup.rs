//! What the process is told, once.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};

use minicbor::{Decode, Encode};
use protocol::{frame_length, write_frame};
use upstream::{Secret, SecretKey};
use zeroize::Zeroizing;

/// What the process is told, once.
#[derive(Encode, Decode)]
#[cbor(array)]
pub struct Setup {
    /// The bundle in its canonical form.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub bundle: Vec<u8>,
    /// Its certificate, for the hosts of all services: DER.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub certificate: Vec<u8>,
    /// The key of that: PKCS#8, DER.
    #[n(2)]
    pub key: Secret,
    /// What it shares with the process with the keys.
    #[n(3)]
    pub ingress: SecretKey,
}

/// The other end of the pipe, in the process that holds the keys. The process ends with it.
pub struct Client {
    to: File,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Over this pipe.
    pub fn new(to: File) -> Self {
        Self { to }
    }

    /// Tells it, once.
    pub fn begin(&self, setup: &Setup) -> io::Result<()> {
        // It holds a key, and must not move.
        let mut frame = Zeroizing::new(Vec::with_capacity(frame_length(setup)));
        write_frame(setup, &mut frame).map_err(io::Error::other)?;
        (&self.to).write_all(&frame)
    }
}
