//! Messages of another implementation of CMS: OpenSSL's command line.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::process::{Command, Stdio};

use egress::CmsError;
use egress::cms::envelope;

/// 32 bytes, as a data key has.
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn openssl(folder: &Path, arguments: &str) -> Vec<u8> {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "openssl {arguments}");
    output.stdout
}

/// A folder with a secret, and two certificates with RSA keys.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), SECRET).unwrap();
    for name in ["a", "b"] {
        let new = format!(
            "req -x509 -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.pem"
        );
        openssl(folder.path(), &new);
    }
    folder
}

const CMS: &str = "cms -encrypt -binary -in secret -outform DER -keyid";
const OAEP: &str = "-keyopt rsa_padding_mode:oaep -keyopt rsa_oaep_md:sha256";

#[test]
fn messages_of_openssl_are_read_and_others_refused() {
    let folder = folder();
    let read = |arguments: &str| envelope(&openssl(folder.path(), &format!("{CMS} {arguments}")));

    for form in ["-stream ", ""] {
        let good = read(&format!("{form}-aes-256-cbc -recip a.pem {OAEP}")).unwrap();
        let lengths = [&good.encrypted_key, &good.iv, &good.ciphertext].map(Vec::len);
        assert_eq!(lengths, [256, 16, 48]);

        let two = format!("{form}-aes-256-cbc -recip a.pem {OAEP} -recip b.pem {OAEP}");
        assert_eq!(read(&two), Err(CmsError::Recipients(2)));
        let aes128 = format!("{form}-aes-128-cbc -recip a.pem {OAEP}");
        assert_eq!(read(&aes128), Err(CmsError::ContentAlgorithm));
        let sha1 = format!("{form}-aes-256-cbc -recip a.pem -keyopt rsa_padding_mode:oaep");
        assert_eq!(read(&sha1), Err(CmsError::KeyAlgorithm));
        let pkcs1 = format!("{form}-aes-256-cbc -recip a.pem");
        assert_eq!(read(&pkcs1), Err(CmsError::KeyAlgorithm));
    }
}

#[test]
fn what_is_read_opens_with_the_recipients_key() {
    let folder = folder();
    let message = openssl(
        folder.path(),
        &format!("{CMS} -stream -aes-256-cbc -recip a.pem {OAEP}"),
    );
    let parts = envelope(&message).unwrap();
    std::fs::write(folder.path().join("key"), &parts.encrypted_key).unwrap();
    std::fs::write(folder.path().join("content"), &parts.ciphertext).unwrap();
    let oaep = "-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256";
    let key = openssl(
        folder.path(),
        &format!("pkeyutl -decrypt -inkey a.key -in key {oaep}"),
    );
    let [key, iv] = [key, parts.iv].map(|bytes| data_encoding::HEXLOWER.encode(&bytes));
    let opened = format!("enc -d -aes-256-cbc -K {key} -iv {iv} -in content");
    assert_eq!(openssl(folder.path(), &opened), SECRET);
}
