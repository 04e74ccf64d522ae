//! `/dev/nsm`, through AWS's own library. Its answers come from the hypervisor; nothing that a
//! parent or a stranger sent goes through its decoder.

use attestation::{Attested, Document, verify_genuine};
use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use aws_nitro_enclaves_nsm_api::driver;
use identity::{Digest, Pcr, Tee};

use crate::{Nsm, NsmError, PeerVerifier, boot};

/// Where the driver puts it.
const DEVICE: &str = "/dev/nsm";

/// The device of a Nitro enclave.
#[derive(Debug)]
pub struct NitroNsm {
    device: i32,
}

impl NitroNsm {
    /// Opens `/dev/nsm`, after taking it away from everybody but root.
    pub fn open() -> Result<Self, NsmError> {
        boot::tighten_device(DEVICE).map_err(|_| NsmError::NoDevice)?;
        let device = driver::nsm_init();
        if device < 0 {
            Err(NsmError::NoDevice)
        } else {
            Ok(Self { device })
        }
    }

    fn ask(&self, request: Request) -> Result<Response, NsmError> {
        match driver::nsm_process_request(self.device, request) {
            Response::Error(code) => Err(NsmError::Answered(format!("{code:?}"))),
            response => Ok(response),
        }
    }
}

impl Drop for NitroNsm {
    fn drop(&mut self) {
        driver::nsm_exit(self.device);
    }
}

impl Nsm for NitroNsm {
    const TEE: Tee = Tee::AwsNitro;

    fn attest(
        &mut self,
        public_key: Option<&[u8]>,
        user_data: Option<&[u8]>,
        nonce: Option<&[u8]>,
    ) -> Result<Vec<u8>, NsmError> {
        let field = |bytes: Option<&[u8]>| bytes.map(|bytes| bytes.to_vec().into());
        let request = Request::Attestation {
            user_data: field(user_data),
            nonce: field(nonce),
            public_key: field(public_key),
        };
        match self.ask(request)? {
            Response::Attestation { document } => Ok(document),
            _ => Err(NsmError::Nonsense),
        }
    }

    fn extend_pcr(&mut self, index: u16, data: &[u8]) -> Result<Pcr, NsmError> {
        match self.ask(Request::ExtendPCR {
            index,
            data: data.to_vec(),
        })? {
            Response::ExtendPCR { data } => {
                data.try_into().map(Digest).map_err(|_| NsmError::Nonsense)
            }
            _ => Err(NsmError::Nonsense),
        }
    }

    fn lock_pcrs(&mut self, range: u16) -> Result<(), NsmError> {
        match self.ask(Request::LockPCRs { range })? {
            Response::LockPCRs => Ok(()),
            _ => Err(NsmError::Nonsense),
        }
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), NsmError> {
        let mut filled = 0;
        while filled < out.len() {
            let Response::GetRandom { random } = self.ask(Request::GetRandom)? else {
                return Err(NsmError::Nonsense);
            };
            if random.is_empty() {
                return Err(NsmError::Nonsense);
            }
            let take = random.len().min(out.len() - filled);
            out[filled..filled + take].copy_from_slice(&random[..take]);
            filled += take;
        }
        Ok(())
    }

    fn verify_own(&self, document: &[u8]) -> Result<Document, attestation::Error> {
        let at = attestation::unverified_time(document)?;
        verify_genuine(document, at).map(|genuine| genuine.document().clone())
    }

    fn peers(&self) -> PeerVerifier {
        Box::new(|document, at| {
            verify_genuine(document, at).map(|genuine| genuine.document().clone())
        })
    }
}
