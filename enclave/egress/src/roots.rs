//! Whom TLS trusts.

use data_encoding::HEXLOWER;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use sha2::{Digest, Sha256};

use crate::{Anchor, Error};

/// SHA-256 of the SubjectPublicKeyInfo of each, without its outer SEQUENCE.
const AMAZON: [&str; 5] = [
    // Amazon Root CA 1
    "3f9b5c85a22deafdc3349274cdeebaa646b826685deab5f9936ebb524f4f4663",
    // Amazon Root CA 2
    "a19275a5622b550a9a4e0631270f33f72bd605d39f51d25fccffc36ef9412ee0",
    // Amazon Root CA 3
    "24aec002d0d83ad0953334914309770cd5f0f7961a975c82f71c6da0b42e8221",
    // Amazon Root CA 4
    "eaae5ffa9e9be1775fcfa44e6f1296eb088ba4b5041fb7780360a42bf27369bc",
    // Starfield Services Root Certificate Authority - G2
    "afade74b09101f1def83539c3059d12280e01b19faa0a2758b5b7a30312a2f9e",
];

/// The roots under which AWS's certificates stand, out of Mozilla's list. AWS asks not to pin below
/// them.
pub fn amazon_roots() -> Vec<Anchor> {
    webpki_roots::TLS_SERVER_ROOTS
        .iter()
        .filter(|root| AMAZON.contains(&spki_digest(root).as_str()))
        .map(Anchor::from)
        .collect()
}

/// The root that a certificate says to be, in DER. Nothing of it is checked: who calls this trusts
/// it.
pub fn anchor(certificate_der: &[u8]) -> Result<Anchor, Error> {
    let certificate = CertificateDer::from(certificate_der);
    let root = webpki::anchor_from_trusted_cert(&certificate);
    root.map(|root| Anchor::from(&root))
        .map_err(Error::AnchorInvalid)
}

fn spki_digest(root: &TrustAnchor<'_>) -> String {
    HEXLOWER.encode(&Sha256::digest(&root.subject_public_key_info))
}

impl From<&TrustAnchor<'_>> for Anchor {
    fn from(root: &TrustAnchor<'_>) -> Self {
        Self {
            subject: root.subject.to_vec(),
            spki: root.subject_public_key_info.to_vec(),
            name_constraints: root.name_constraints.as_ref().map(|der| der.to_vec()),
        }
    }
}

impl From<Anchor> for TrustAnchor<'static> {
    fn from(anchor: Anchor) -> Self {
        Self {
            subject: anchor.subject.into(),
            subject_public_key_info: anchor.spki.into(),
            name_constraints: anchor.name_constraints.map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_roots_are_amazons_and_no_other() {
        let roots = amazon_roots();
        let names = [
            "Amazon Root CA 1",
            "Amazon Root CA 2",
            "Amazon Root CA 3",
            "Amazon Root CA 4",
            "Starfield Services Root Certificate Authority - G2",
        ];
        assert_eq!(roots.len(), names.len());
        for name in names {
            let of_name = |root: &&Anchor| root.subject.ends_with(name.as_bytes());
            assert_eq!(roots.iter().filter(of_name).count(), 1, "{name}");
        }
    }

    #[test]
    fn a_root_is_taken_out_of_its_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let root = anchor(certificate.der()).unwrap();
        let whole = certificate.der();
        for part in [&root.subject, &root.spki] {
            assert!(whole.windows(part.len()).any(|window| window == part));
        }
        assert_eq!(root.name_constraints, None);
        assert!(matches!(anchor(b"0"), Err(Error::AnchorInvalid(_))));
    }
}
