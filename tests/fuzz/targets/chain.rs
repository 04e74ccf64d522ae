#![no_main]

//! Bytes as certificates, each after its length in two bytes, in a document that is otherwise good
//! and signed by nobody.

use attestation::{MockRoot, verify_genuine, verify_mock};
use fuzzing::{AT, ROOT};
use libfuzzer_sys::fuzz_target;
use minicbor::Encoder;

fuzz_target!(|data: &[u8]| {
    let chain = certificates(data);
    let document = document(&chain).expect("into memory");
    assert!(verify_genuine(&document, AT).is_err());
    assert!(verify_mock(&document, &ROOT, AT).is_err());
    if let Some(root) = chain.first().and_then(|der| MockRoot::from_der(der).ok()) {
        assert!(verify_mock(&document, &root, AT).is_err());
    }
});

fn certificates(mut data: &[u8]) -> Vec<&[u8]> {
    let mut chain = Vec::new();
    while let Some((head, rest)) = data.split_first_chunk::<2>() {
        let (certificate, rest) =
            rest.split_at(usize::from(u16::from_be_bytes(*head)).min(rest.len()));
        chain.push(certificate);
        data = rest;
    }
    chain
}

fn document(chain: &[&[u8]]) -> Result<Vec<u8>, minicbor::encode::Error<std::convert::Infallible>> {
    let (leaf, bundle) = chain
        .split_last()
        .map_or((&[][..], &[][..]), |(leaf, bundle)| (*leaf, bundle));
    let mut payload = Encoder::new(Vec::new());
    payload
        .map(9)?
        .str("module_id")?
        .str("i-0-enc0")?
        .str("digest")?
        .str("SHA384")?;
    payload
        .str("timestamp")?
        .u64(AT.0.unsigned_abs() * 1000)?
        .str("pcrs")?
        .map(3)?;
    for index in 0..3 {
        payload.u8(index)?.bytes(&[index + 1; 48])?;
    }
    payload
        .str("certificate")?
        .bytes(leaf)?
        .str("cabundle")?
        .array(bundle.len() as u64)?;
    for certificate in bundle {
        payload.bytes(certificate)?;
    }
    for field in ["public_key", "user_data", "nonce"] {
        payload.str(field)?.null()?;
    }
    let mut document = Encoder::new(Vec::new());
    document
        .array(4)?
        .bytes(&[0xa1, 1, 0x38, 0x22])?
        .map(0)?
        .bytes(payload.writer())?
        .bytes(&[1; 96])?;
    Ok(document.into_writer())
}
