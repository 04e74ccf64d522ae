//! The mock Nitro Secure Module: registers, randomness, documents. It plays the hypervisor, clock
//! included.

use std::collections::BTreeMap;

use attestation::{Attested, Document, MockRoot, verify_mock};
use enclave::{Nsm, NsmError, PeerVerifier};
use identity::{Digest, Tee};
use identity::{Pcr, extend};
use minicbor::bytes::ByteSlice;
use minicbor::data::Type;
use minicbor::{Decoder, Encoder};
use p384::ecdsa::Signature;
use p384::ecdsa::signature::Signer;

use crate::authority::{Authority, Chain};

/// How the payload map is written. The hypervisors of AWS wrote definite maps until spring 2025 and
/// indefinite ones since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `a9 ...`.
    Definite,
    /// `bf ... ff`.
    Indefinite,
}

/// The fields of a document, before it is signed.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    /// `i-...-enc...`.
    pub module_id: &'a str,
    /// Milliseconds since 1970.
    pub timestamp_ms: u64,
    /// Index and value.
    pub pcrs: Vec<(u8, Pcr)>,
    /// Given by the enclave.
    pub public_key: Option<&'a [u8]>,
    /// Given by the enclave.
    pub user_data: Option<&'a [u8]>,
    /// Given by the enclave.
    pub nonce: Option<&'a [u8]>,
}

/// Signs a document with the leaf of `chain`: COSE_Sign1 with ES384, as the NSM makes it.
pub fn sign_document(fields: &Fields<'_>, chain: &Chain, encoding: Encoding) -> Vec<u8> {
    sign_payload(&payload(&entries(fields, chain), encoding), chain)
}

/// The protected header of every document: `{1: -35}`.
pub const PROTECTED: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];

/// Signs any payload as [`sign_document`] does; for documents that are wrong on purpose.
pub fn sign_payload(payload: &[u8], chain: &Chain) -> Vec<u8> {
    sign1(
        &PROTECTED,
        &[0xa0],
        payload,
        &sign_parts(&PROTECTED, payload, chain),
    )
}

/// The 96 bytes of an ES384 signature over a protected header and a payload.
pub fn sign_parts(protected: &[u8], payload: &[u8], chain: &Chain) -> Vec<u8> {
    let signed = [
        &[0x84][..],
        b"\x6aSignature1",
        &bytes(protected),
        &bytes(&[]),
        &bytes(payload),
    ]
    .concat();
    let signature: Signature = chain.leaf.key().sign(&signed);
    signature.to_bytes().to_vec()
}

/// Puts a COSE_Sign1 together; `unprotected` is encoded already.
pub fn sign1(protected: &[u8], unprotected: &[u8], payload: &[u8], signature: &[u8]) -> Vec<u8> {
    [
        &[0x84][..],
        &bytes(protected),
        unprotected,
        &bytes(payload),
        &bytes(signature),
    ]
    .concat()
}

/// A name of the payload map and its encoded value.
pub type Entry = (&'static str, Vec<u8>);

/// The entries of a payload, in the order in which the NSM writes them.
pub fn entries(fields: &Fields<'_>, chain: &Chain) -> Vec<Entry> {
    let optional = |field: Option<&[u8]>| field.map_or_else(|| vec![0xf6], bytes);
    let pcrs: BTreeMap<u8, &ByteSlice> = fields
        .pcrs
        .iter()
        .map(|(index, pcr)| (*index, pcr.as_bytes()[..].into()))
        .collect();
    let cabundle: Vec<&ByteSlice> = chain
        .cabundle
        .iter()
        .map(|certificate| certificate.as_slice().into())
        .collect();
    vec![
        ("module_id", encode(fields.module_id)),
        ("digest", encode("SHA384")),
        ("timestamp", encode(fields.timestamp_ms)),
        ("pcrs", encode(pcrs)),
        ("certificate", bytes(&chain.leaf.der())),
        ("cabundle", encode(cabundle)),
        ("public_key", optional(fields.public_key)),
        ("user_data", optional(fields.user_data)),
        ("nonce", optional(fields.nonce)),
    ]
}

/// The payload map of these entries.
pub fn payload(entries: &[Entry], encoding: Encoding) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out);
    let begun = match encoding {
        Encoding::Definite => encoder.map(entries.len() as u64).map(|_| ()),
        Encoding::Indefinite => encoder.begin_map().map(|_| ()),
    };
    begun.expect("encoding to memory is infallible");
    for (name, value) in entries {
        out.extend_from_slice(&encode(name));
        out.extend_from_slice(value);
    }
    if encoding == Encoding::Indefinite {
        out.push(0xff);
    }
    out
}

/// Encodes a value as CBOR.
pub fn encode<T: minicbor::Encode<()>>(value: T) -> Vec<u8> {
    minicbor::to_vec(value).expect("encoding to memory is infallible")
}

/// Encodes a byte string as CBOR.
pub fn bytes(bytes: &[u8]) -> Vec<u8> {
    encode(<&ByteSlice>::from(bytes))
}

/// The hypervisor's clock: milliseconds since 1970.
pub type Clock = Box<dyn FnMut() -> u64 + Send>;

/// A secure module without hardware.
pub struct MockNsm {
    authority: Authority,
    root: MockRoot,
    chain: Option<Chain>,
    module_id: String,
    pcrs: [Pcr; 32],
    locked: [bool; 32],
    clock: Clock,
    encoding: Encoding,
    tls_roots: Vec<egress::Anchor>,
}

/// The leaf is renewed when it has less than this left, in seconds.
const RENEW_BEFORE: u64 = 600;

impl MockNsm {
    /// A module whose registers 0 to 15 are `measured` (and zero beyond) and locked, as a
    /// hypervisor leaves them.
    pub fn new(
        authority: Authority,
        measured: &[Pcr],
        clock: Clock,
        encoding: Encoding,
    ) -> Result<Self, attestation::Error> {
        let root = MockRoot::from_der(&authority.root_der())?;
        let mut pcrs = [Digest([0; 48]); 32];
        pcrs[..measured.len()].copy_from_slice(measured);
        let mut locked = [false; 32];
        locked[..16].fill(true);
        let module_id = "i-0000000000000mock-enc0000000000000mock".to_owned();
        Ok(Self {
            authority,
            chain: None,
            module_id,
            pcrs,
            locked,
            tls_roots: egress::anchor(root.as_der()).into_iter().collect(),
            root,
            clock,
            encoding,
        })
    }

    /// The same with one register left open, which a hypervisor never does.
    pub fn with_open_register(mut self, index: usize) -> Self {
        self.locked[index] = false;
        self
    }

    /// The same, of an enclave whose TLS trusts these roots: those of a mock of AWS.
    pub fn trusting(mut self, roots: Vec<egress::Anchor>) -> Self {
        self.tls_roots = roots;
        self
    }

    /// The root under which its documents verify.
    pub fn root(&self) -> &MockRoot {
        &self.root
    }

    /// Signs what a device without keys has made (QEMU's leaves certificates and signature empty):
    /// the same fields, by this mock's chain. Only for the image that this mock has been given as
    /// measured.
    pub fn sign_again(&mut self, unsigned: &[u8]) -> Result<Vec<u8>, NsmError> {
        let device = DeviceDocument::read(unsigned).map_err(|error| {
            NsmError::Answered(format!("a document that cannot be read: {error}"))
        })?;
        let measured = (0_u8..3).map(|index| (index, self.pcrs[usize::from(index)]));
        if !measured.eq(device.pcrs.iter().copied().take(3)) {
            return Err(NsmError::Answered(
                "the device has measured another image".into(),
            ));
        }
        let fields = Fields {
            module_id: &device.module_id,
            timestamp_ms: device.timestamp_ms,
            pcrs: device.pcrs,
            public_key: device.public_key.as_deref(),
            user_data: device.user_data.as_deref(),
            nonce: device.nonce.as_deref(),
        };
        let encoding = self.encoding;
        Ok(sign_document(
            &fields,
            self.chain(device.timestamp_ms / 1000),
            encoding,
        ))
    }

    fn chain(&mut self, now: u64) -> &Chain {
        let fresh = self.chain.take().filter(|chain| {
            now + RENEW_BEFORE < chain.expires && now + 3 * 3600 >= chain.expires - 3
        });
        let chain = fresh.unwrap_or_else(|| self.authority.issue_chain(now, &mut os_random));
        self.chain.insert(chain)
    }
}

/// What stands in a document that nobody has signed.
#[derive(Default)]
struct DeviceDocument {
    module_id: String,
    timestamp_ms: u64,
    pcrs: Vec<(u8, Pcr)>,
    public_key: Option<Vec<u8>>,
    user_data: Option<Vec<u8>>,
    nonce: Option<Vec<u8>>,
}

impl DeviceDocument {
    fn read(document: &[u8]) -> Result<Self, minicbor::decode::Error> {
        let mut outer = Decoder::new(document);
        outer.array()?;
        outer.bytes()?;
        outer.skip()?;
        let mut payload = Decoder::new(outer.bytes()?);
        let mut read = Self::default();
        let length = payload.map()?;
        let mut entries = 0;
        loop {
            let more = match length {
                Some(length) => entries < length,
                None => payload.datatype()? != Type::Break,
            };
            if !more {
                return Ok(read);
            }
            entries += 1;
            match payload.str()? {
                "module_id" => read.module_id = payload.str()?.to_owned(),
                "timestamp" => read.timestamp_ms = payload.u64()?,
                "pcrs" => {
                    let pcrs = payload
                        .map_iter::<u8, &ByteSlice>()?
                        .collect::<Result<Vec<_>, _>>()?;
                    let pcr = |bytes: &ByteSlice| {
                        <[u8; 48]>::try_from(&bytes[..])
                            .map(Digest)
                            .map_err(minicbor::decode::Error::message)
                    };
                    read.pcrs = pcrs
                        .into_iter()
                        .map(|(index, bytes)| Ok((index, pcr(bytes)?)))
                        .collect::<Result<_, minicbor::decode::Error>>()?;
                    read.pcrs.sort_by_key(|(index, _)| *index);
                }
                "public_key" => read.public_key = bytes_or_null(&mut payload)?,
                "user_data" => read.user_data = bytes_or_null(&mut payload)?,
                "nonce" => read.nonce = bytes_or_null(&mut payload)?,
                _ => payload.skip()?,
            }
        }
    }
}

fn bytes_or_null(payload: &mut Decoder<'_>) -> Result<Option<Vec<u8>>, minicbor::decode::Error> {
    if payload.datatype()? == Type::Null {
        payload.null().map(|()| None)
    } else {
        payload.bytes().map(|bytes| Some(bytes.to_vec()))
    }
}

/// The operating system's randomness.
pub fn os_random(out: &mut [u8]) {
    getrandom::fill(out).expect("a development machine has randomness");
}

impl Nsm for MockNsm {
    const TEE: Tee = Tee::Mock;

    fn hwrng(&self) -> Option<&'static str> {
        None
    }

    fn attest(
        &mut self,
        public_key: Option<&[u8]>,
        user_data: Option<&[u8]>,
        nonce: Option<&[u8]>,
    ) -> Result<Vec<u8>, NsmError> {
        for (field, limit) in [(public_key, 1024), (user_data, 512), (nonce, 512)] {
            if field.is_some_and(|bytes| bytes.len() > limit) {
                return Err(NsmError::Answered("InputTooLarge".into()));
            }
        }
        let timestamp_ms = (self.clock)();
        let (module_id, encoding) = (self.module_id.clone(), self.encoding);
        let attested = (0_u8..32).filter(|index| self.locked[usize::from(*index)]);
        let pcrs = attested
            .map(|index| (index, self.pcrs[usize::from(index)]))
            .collect();
        let fields = Fields {
            module_id: &module_id,
            timestamp_ms,
            pcrs,
            public_key,
            user_data,
            nonce,
        };
        Ok(sign_document(
            &fields,
            self.chain(timestamp_ms / 1000),
            encoding,
        ))
    }

    fn extend_pcr(&mut self, index: u16, data: &[u8]) -> Result<Pcr, NsmError> {
        let index = usize::from(index);
        match (self.pcrs.get(index), self.locked.get(index)) {
            (Some(old), Some(false)) => {
                self.pcrs[index] = extend(old, data);
                Ok(self.pcrs[index])
            }
            (Some(_), Some(true)) => Err(NsmError::Answered("ReadOnlyIndex".into())),
            _ => Err(NsmError::Answered("InvalidIndex".into())),
        }
    }

    fn lock_pcrs(&mut self, range: u16) -> Result<(), NsmError> {
        let range = usize::from(range);
        if range > self.locked.len() {
            return Err(NsmError::Answered("InvalidIndex".into()));
        }
        self.locked[..range].fill(true);
        Ok(())
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), NsmError> {
        os_random(out);
        Ok(())
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

#[cfg(test)]
mod tests {
    use attestation::{Error, verify_genuine};
    use identity::UnixSeconds;

    use super::*;

    const NOW: u64 = 1_795_225_251;

    fn nsm(encoding: Encoding) -> MockNsm {
        let authority = Authority::new(NOW, &mut os_random);
        let measured = [Digest([1; 48]), Digest([2; 48]), Digest([3; 48])];
        MockNsm::new(authority, &measured, Box::new(|| NOW * 1000), encoding).unwrap()
    }

    fn at(offset: i64) -> UnixSeconds {
        UnixSeconds(NOW.cast_signed() + offset)
    }

    #[test]
    fn documents_of_both_encodings_verify_as_mock_and_as_nothing_else() {
        for encoding in [Encoding::Definite, Encoding::Indefinite] {
            let mut nsm = nsm(encoding);
            let bytes = nsm.attest(Some(&[1]), Some(&[2]), Some(&[3])).unwrap();
            let mock = verify_mock(&bytes, nsm.root(), at(0)).unwrap();
            let document = mock.document();
            assert_eq!(document.public_key.as_deref(), Some(&[1][..]));
            assert_eq!(document.pcrs().get(0), Some(&Digest([1; 48])));
            assert_eq!(document.pcrs().get(15), Some(&Digest([0; 48])));
            assert_eq!(document.pcrs().get(16), None);
            assert_eq!(verify_genuine(&bytes, at(0)), Err(Error::RootUntrusted));
            let other =
                MockRoot::from_der(&Authority::new(NOW, &mut os_random).root_der()).unwrap();
            assert_eq!(
                verify_mock(&bytes, &other, at(0)),
                Err(Error::RootUntrusted)
            );
        }
    }

    #[test]
    fn the_leaf_lives_for_three_hours_and_three_seconds() {
        let mut nsm = nsm(Encoding::Definite);
        let bytes = nsm.attest(None, None, None).unwrap();
        assert!(verify_mock(&bytes, nsm.root(), at(3 * 3600 + 3)).is_ok());
        assert_eq!(
            verify_mock(&bytes, nsm.root(), at(3 * 3600 + 4)),
            Err(Error::CertificateExpired {
                index: 4,
                until: at(3 * 3600 + 3),
                at: at(3 * 3600 + 4),
                leaf: true
            })
        );
        assert!(verify_mock(&bytes, nsm.root(), at(-5)).is_ok());
        assert_eq!(
            verify_mock(&bytes, nsm.root(), at(-6)),
            Err(Error::CertificateNotYetValid {
                index: 4,
                from: at(0),
                at: at(-6)
            })
        );
    }

    #[test]
    fn registers_extend_until_they_are_locked() {
        let mut nsm = nsm(Encoding::Definite);
        assert!(nsm.extend_pcr(0, b"x").is_err());
        assert!(nsm.extend_pcr(32, b"x").is_err());
        let value = nsm.extend_pcr(16, b"x").unwrap();
        assert_eq!(value, extend(&Digest([0; 48]), b"x"));
        nsm.lock_pcrs(32).unwrap();
        assert!(nsm.lock_pcrs(33).is_err());
        assert!(nsm.extend_pcr(16, b"x").is_err());
        let bytes = nsm.attest(None, None, None).unwrap();
        assert_eq!(
            verify_mock(&bytes, nsm.root(), at(0))
                .unwrap()
                .document()
                .pcrs()
                .get(16),
            Some(&value)
        );
    }
}
