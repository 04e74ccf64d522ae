//! Puts a credential where its service wants it.

use data_encoding::BASE64;
use policy::Inject;
use zeroize::Zeroizing;

use crate::Error;

/// Shorter ones are not told from other texts; a search for them would cut off what is innocent.
const MIN_SECRET: usize = 8;
const MAX_SECRET: usize = 4096;

/// A header with a credential, and what must not come back.
pub struct Injected {
    /// Name of the header.
    pub header: String,
    /// Its value.
    pub value: Zeroizing<Vec<u8>>,
    /// What is looked for in answers.
    pub secrets: Vec<Zeroizing<Vec<u8>>>,
}

/// Refuses what cannot be a credential, or none that is put so.
pub fn check_secret(secret: &[u8]) -> Result<(), Error> {
    if !(MIN_SECRET..=MAX_SECRET).contains(&secret.len()) {
        return Err(Error::CredentialInvalid("it has 8 to 4096 bytes"));
    }
    if !secret.iter().all(u8::is_ascii_graphic) {
        return Err(Error::CredentialInvalid(
            "it is printable ASCII without spaces: a line end at its end, perhaps?",
        ));
    }
    Ok(())
}

/// The header in which this credential stands.
pub fn inject(inject: &Inject, secret: &[u8]) -> Result<Injected, Error> {
    check_secret(secret)?;
    let secrets = vec![Zeroizing::new(secret.to_vec())];
    if let Some(user) = &inject.basic {
        let pair = Zeroizing::new([user.as_bytes(), b":", secret].concat());
        let text = Zeroizing::new(BASE64.encode(&pair));
        return Ok(Injected {
            header: "authorization".into(),
            value: Zeroizing::new([b"Basic ", text.as_bytes()].concat()),
            secrets,
        });
    }
    let header = inject.header.clone().unwrap_or_default();
    let (before, after) = inject
        .format
        .as_deref()
        .and_then(|format| format.split_once("{}"))
        .unwrap_or_default();
    Ok(Injected {
        header,
        value: Zeroizing::new([before.as_bytes(), secret, after.as_bytes()].concat()),
        secrets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(header: Option<&str>, format: Option<&str>, basic: Option<&str>) -> (String, String) {
        let at = Inject {
            header: header.map(str::to_owned),
            format: format.map(str::to_owned),
            basic: basic.map(str::to_owned),
        };
        let placed = inject(&at, b"sk-12345").unwrap();
        (
            placed.header,
            String::from_utf8(placed.value.to_vec()).unwrap(),
        )
    }

    #[test]
    fn a_credential_stands_where_the_bundle_says() {
        let pair = |header: &str, value: &str| (header.to_owned(), value.to_owned());
        assert_eq!(
            placed(Some("authorization"), Some("Bearer {}"), None),
            pair("authorization", "Bearer sk-12345")
        );
        assert_eq!(
            placed(Some("x-api-key"), None, None),
            pair("x-api-key", "sk-12345")
        );
        // RFC 7617; the text by coreutils' base64.
        assert_eq!(
            placed(None, None, Some("x-access-token")),
            pair("authorization", "Basic eC1hY2Nlc3MtdG9rZW46c2stMTIzNDU=")
        );
    }

    #[test]
    fn what_cannot_stand_in_a_header_is_no_credential() {
        let long = [b'x'; MAX_SECRET + 1];
        for bad in [
            &b"short"[..],
            b"",
            b"12345678\n",
            b"1234 5678",
            b"12345678\r\nX: y",
            b"123456\xc3\xa9",
            &long,
        ] {
            assert!(matches!(
                check_secret(bad),
                Err(Error::CredentialInvalid(_))
            ));
        }
        assert_eq!(check_secret(b"12345678"), Ok(()));
    }
}
