//! Callers that are enclaves: what their documents must say.

use attestation::{Attested, Document, MockRoot, verify_mock};
use policy::{PeerEnclave, ProvenCaller};

use super::*;

/// A document of the mock's, as it is committed, with this challenge in the place of its own. That breaks its
/// signature, which these tests have somebody else verify.
fn document(nonce: [u8; 16]) -> (Vec<u8>, Document) {
    let vectors = include_str!("../../../../attestation/tests/vectors/documents.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
    let first = &vectors["documents"][0];
    let bytes = data_encoding::HEXLOWER
        .decode(first["document"].as_str().unwrap().as_bytes())
        .unwrap();
    let root = MockRoot::from_pem(vectors["root_pem"].as_str().unwrap().as_bytes()).unwrap();
    let at = UnixSeconds(first["at"].as_i64().unwrap());
    let verified = verify_mock(&bytes, &root, at).unwrap();
    let mut document = verified.document().clone();
    let old = document.nonce.clone().unwrap();
    let replace = |bytes: &[u8], old: &[u8], new: &[u8]| {
        let at = bytes.windows(old.len()).position(|part| part == old);
        let at = at.unwrap();
        [&bytes[..at], new, &bytes[at + old.len()..]].concat()
    };
    // Heads of CBOR: the payload, of two bytes, and the nonce.
    let shorter = u8::try_from(old.len() - nonce.len()).unwrap();
    let [high, low] = [bytes[8], bytes[9]];
    assert_eq!(bytes[7], 0x59);
    let mut bytes = bytes;
    [bytes[8], bytes[9]] = (u16::from_be_bytes([high, low]) - u16::from(shorter)).to_be_bytes();
    let head = |length: usize| [&b"enonce"[..], &[0x40 + u8::try_from(length).unwrap()]].concat();
    let bytes = replace(
        &bytes,
        &[&head(old.len())[..], &old].concat(),
        &[&head(16)[..], &nonce].concat(),
    );
    assert_eq!(
        attestation::unverified_nonce(&bytes).unwrap().as_deref(),
        Some(&nonce[..])
    );
    document.nonce = Some(nonce.to_vec());
    document.public_key = Some(key(3).public_key().to_spki());
    document.timestamp_ms = u64::try_from(NOW).unwrap() * 1000;
    (bytes, document)
}

/// The enclave that the document is of.
fn its_enclave() -> PeerEnclave {
    let (_, document) = document(BOOT);
    let pcr = |index| *document.pcrs().get(index).unwrap();
    PeerEnclave {
        pcr0: pcr(0),
        pcr1: pcr(1),
        pcr2: pcr(2),
        pcr16: None,
    }
}

/// What comes of a request of the caller `robot`, which is this enclave, with a document that says this.
fn shown(
    enclave: Option<PeerEnclave>,
    nonce: [u8; 16],
    change: impl Fn(&mut Document) + Send + Sync + 'static,
) -> Result<Caller, String> {
    let (bytes, document) = document(nonce);
    let mut setting = Setting::new();
    setting.verify_peer = Box::new(move |_, _| {
        let mut document = document.clone();
        change(&mut document);
        Ok(document)
    });
    let robot = &mut setting.provisioned.bundle.callers[0];
    *robot = ProvenCaller {
        key: enclave.is_none().then(|| robot.key.clone()).flatten(),
        enclave,
        ..robot.clone()
    };
    let proof = setting.proof(&request("read"), |_| ());
    let (outcome, decision) = setting.sign(Sign {
        proof: Some(PresentedProof {
            document: Some(bytes),
            ..proof
        }),
        ..request("read")
    });
    outcome.map_err(|error| error.to_string())?;
    Ok(decision.unwrap().caller.unwrap())
}

#[test]
fn an_enclave_that_the_policy_names_proves_itself_by_a_document_for_this_boot() {
    let enclave = its_enclave();
    let Ok(Caller::Proven(proven)) = shown(Some(enclave), BOOT, |_| ()) else {
        panic!("it is not proven")
    };
    assert_eq!(proven.name, "robot");
    assert_eq!(proven.measurement, Some(enclave.pcr0));
    assert_eq!(proven.key, key(3).public_key().thumbprint());
    let with_pcr16 = |value| PeerEnclave {
        pcr16: Some(value),
        ..enclave
    };
    let (_, document) = document(BOOT);
    let committed = *document.pcrs().get(16).unwrap();
    assert!(shown(Some(with_pcr16(committed)), BOOT, |_| ()).is_ok());

    let other = identity::Digest([9; 48]);
    for enclave in [
        PeerEnclave {
            pcr0: other,
            ..enclave
        },
        PeerEnclave {
            pcr1: other,
            ..enclave
        },
        PeerEnclave {
            pcr2: other,
            ..enclave
        },
        with_pcr16(other),
    ] {
        let refused = shown(Some(enclave), BOOT, |_| ()).unwrap_err();
        assert!(refused.contains("names no such enclave"), "{refused}");
    }
    let refused = shown(None, BOOT, |_| ()).unwrap_err();
    assert!(refused.contains("the policy names no enclave"), "{refused}");
}

#[test]
fn a_document_is_for_this_boot_and_of_this_hour_and_names_a_key() {
    let enclave = Some(its_enclave());
    let other_boot = "made for another boot";
    let refused = shown(enclave, [8; 16], |document| {
        document.nonce = Some(BOOT.into())
    });
    assert!(refused.unwrap_err().contains(other_boot));
    let verified: [fn(&mut Document); 2] = [
        |document| document.nonce = None,
        |document| document.nonce = Some([8; 16].into()),
    ];
    for change in verified {
        let refused = shown(enclave, BOOT, change).unwrap_err();
        assert!(refused.contains(other_boot), "{refused}");
    }
    let made = |before: u64| move |document: &mut Document| document.timestamp_ms -= before;
    assert!(shown(enclave, BOOT, made(3_600_000)).is_ok());
    let refused = shown(enclave, BOOT, made(3_600_001)).unwrap_err();
    assert!(refused.contains("too old"), "{refused}");
    let keys: [fn(&mut Document); 2] = [
        |document| document.public_key = None,
        |document| document.public_key = Some(vec![1]),
    ];
    for change in keys {
        let refused = shown(enclave, BOOT, change).unwrap_err();
        assert!(refused.contains("no key that can be used"), "{refused}");
    }
}
