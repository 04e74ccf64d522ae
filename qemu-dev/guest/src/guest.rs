//! The development enclave as PID 1 of an image: the very boot and enclave of production, with the
//! mock NSM where hardware would be.

use attestation::{Attested, Document, MockRoot, verify_mock};
use aws_nitro_enclaves_nsm_api::{api, driver};
use enclave::boot::{Image, run};
use enclave::{Error, NitroNsm, Nsm, NsmError, Parent, PeerVerifier};
use identity::Pcr;
use identity::Tee;
use vsock::VsockStream;

use crate::wire::{Ask, Channel, MOCK_NSM_PORT};

/// vsock's well-known host, which stands for the parent here. Hybrid vsock has no source ports of
/// its own to go by.
const HOST: u32 = 2;
const IMAGE: Image = Image {
    name: "anchorhold-dev-enclave (MOCK)",
    parent: Parent {
        cid: HOST,
        ports_below: u32::MAX,
    },
    notified: &[HOST],
};
const DEVICE: &str = "/dev/nsm";

/// Boots, and never comes back.
pub fn boot() -> ! {
    run(&IMAGE, GuestNsm::open)
}

/// The egress process, or what this program says of itself.
pub fn elsewhere(about: &str) -> std::process::ExitCode {
    enclave::boot::elsewhere(&IMAGE, about)
}

/// The mock NSM, across vsock. Where the machine has a `/dev/nsm` without keys (QEMU's), everything
/// but signatures is that device's, through the real driver.
struct GuestNsm {
    channel: Channel<VsockStream>,
    root: MockRoot,
    tls_roots: Vec<egress::Anchor>,
    device: Option<NitroNsm>,
}

impl GuestNsm {
    fn open() -> Result<Self, Error> {
        let device = if std::path::Path::new(DEVICE).exists() {
            Some(NitroNsm::open()?)
        } else {
            None
        };
        if device.is_some() {
            show_registers();
        }
        let no_mock = |error: std::io::Error| {
            Error::from(NsmError::Answered(format!("the mock NSM: {error}")))
        };
        let stream = VsockStream::connect_with_cid_port(HOST, MOCK_NSM_PORT).map_err(no_mock)?;
        let (channel, greeting) = Channel::open(stream).map_err(no_mock)?;
        Ok(Self {
            channel,
            root: MockRoot::from_der(&greeting.root)?,
            tls_roots: greeting.tls_roots,
            device,
        })
    }
}

/// What the device says of PCR0 to 4 and 8, for those who compare.
fn show_registers() {
    let device = driver::nsm_init();
    for index in [0, 1, 2, 3, 4, 8] {
        let answer = driver::nsm_process_request(device, api::Request::DescribePCR { index });
        if let api::Response::DescribePCR { lock, data } = answer {
            let hex = data_encoding::HEXLOWER.encode(&data);
            say(&format!(
                "/dev/nsm: PCR{index} {hex} {}",
                if lock { "locked" } else { "open" }
            ));
        }
    }
    driver::nsm_exit(device);
}

fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{}: {text}", IMAGE.name);
}

impl Nsm for GuestNsm {
    const TEE: Tee = Tee::Mock;

    fn attest(
        &mut self,
        public_key: Option<&[u8]>,
        user_data: Option<&[u8]>,
        nonce: Option<&[u8]>,
    ) -> Result<Vec<u8>, NsmError> {
        let ask = match &mut self.device {
            Some(device) => Ask::Sign {
                unsigned: device.attest(public_key, user_data, nonce)?,
            },
            None => {
                let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                Ask::Attest {
                    public_key: owned(public_key),
                    user_data: owned(user_data),
                    nonce: owned(nonce),
                }
            }
        };
        self.channel.ask(&ask)
    }

    fn extend_pcr(&mut self, index: u16, data: &[u8]) -> Result<Pcr, NsmError> {
        match &mut self.device {
            Some(device) => device.extend_pcr(index, data),
            None => self.channel.ask_for_pcr(&Ask::Extend {
                index,
                data: data.to_vec(),
            }),
        }
    }

    fn lock_pcrs(&mut self, range: u16) -> Result<(), NsmError> {
        match &mut self.device {
            Some(device) => device.lock_pcrs(range),
            None => self.channel.ask(&Ask::Lock { range }).map(|_| ()),
        }
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), NsmError> {
        if let Some(device) = &mut self.device {
            return device.random(out);
        }
        let length = u16::try_from(out.len()).map_err(|_| NsmError::Nonsense)?;
        let bytes = self.channel.ask(&Ask::Random { length })?;
        if bytes.len() != out.len() {
            return Err(NsmError::Nonsense);
        }
        out.copy_from_slice(&bytes);
        Ok(())
    }

    fn hwrng(&self) -> Option<&'static str> {
        self.device.as_ref().and_then(Nsm::hwrng)
    }

    fn verify_own(&self, document: &[u8]) -> Result<Document, attestation::Error> {
        let at = attestation::unverified_time(document)?;
        verify_mock(document, &self.root, at).map(|mock| mock.document().clone())
    }

    fn tls_roots(&self) -> Vec<egress::Anchor> {
        self.tls_roots.clone()
    }

    fn peers(&self) -> PeerVerifier {
        let root = self.root.clone();
        Box::new(move |document, at| {
            verify_mock(document, &root, at).map(|mock| mock.document().clone())
        })
    }
}
