//! The host's side of the wire to a development enclave in a virtual machine: the mock NSM answers.

use std::io::{Read, Write};
use std::sync::{Mutex, PoisonError};

use dev_guest::wire::{Ask, Greeting, MARKER, Told, receive, send};
use enclave::{Nsm, NsmError};
use identity::cbor;
use protocol::FrameBuffer;

use crate::nsm::MockNsm;

/// Greets, and answers until the guest is gone.
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
