//! The forms in which a credential might stand in an answer.

use std::collections::BTreeSet;

use data_encoding::{BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER};

/// As it is; in base64 and base64url, wherever in a text it stands; in hex; percent-encoded, all of
/// it, or what a parameter, JavaScript or a path would encode; as JSON strings escape it, by RFC 8259
/// alone or as Go and .NET do. Each once; none is shorter than six
/// bytes. They are looked for in any case, so those in hex are given in lower case.
pub(crate) fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = BTreeSet::from([secret.to_vec()]);
    for lead in 0..3 {
        forms.extend(base64(secret, lead));
    }
    let hex = HEXLOWER.encode(secret);
    let percent = hex.as_bytes().chunks(2);
    forms.insert(percent.flat_map(|pair| [b'%', pair[0], pair[1]]).collect());
    forms.insert(hex.into_bytes());
    // What stands as it is: RFC 3986 section 2.3; encodeURIComponent (ECMA-262); in a segment of a path;
    // in a path.
    for plain in [
        "-._~",
        "-._~!*'()",
        "-._~!$&'()*+,;=:@",
        "-._~!$&'()*+,;=:@/",
    ] {
        let encoded = secret.iter().flat_map(|byte| {
            if byte.is_ascii_alphanumeric() || plain.as_bytes().contains(byte) {
                vec![*byte]
            } else {
                format!("%{}", HEXLOWER.encode(&[*byte])).into_bytes()
            }
        });
        forms.insert(encoded.collect());
    }
    // What stands as a code: nothing; encoding/json of Go; System.Text.Json of .NET.
    for (coded, slash) in [("", "/"), ("", "\\/"), ("<>&", "/"), ("\"<>&'+`", "/")] {
        let escaped = secret.iter().flat_map(|byte| match byte {
            byte if coded.as_bytes().contains(byte) => format!("\\u00{byte:02x}").into_bytes(),
            b'"' => b"\\\"".to_vec(),
            b'\\' => b"\\\\".to_vec(),
            b'/' => slash.as_bytes().to_vec(),
            byte => vec![*byte],
        });
        forms.insert(escaped.collect());
    }
    forms.into_iter().filter(|form| form.len() >= 6).collect()
}

/// What of its base64 does not depend on what stands around it, where `lead` bytes of a group stand
/// before it.
fn base64(secret: &[u8], lead: usize) -> [Vec<u8>; 2] {
    let padded = [&vec![0; lead][..], secret].concat();
    // Characters that bits of the bytes before it are in; and the last one, if bits of those behind
    // it are.
    let skip = [0, 2, 3][lead];
    let whole = padded.len() * 8 / 6;
    [&BASE64_NOPAD, &BASE64URL_NOPAD].map(|alphabet| {
        let text = alphabet.encode(&padded);
        text.as_bytes()[skip.min(whole)..whole].to_vec()
    })
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXUPPER;

    use super::*;

    #[test]
    fn a_secret_is_known_in_every_listed_form_wherever_it_stands() {
        let secret = b"sk-\"secret/\\+~value?";
        let forms = forms(secret);
        let holds = |text: &[u8]| {
            forms.iter().any(|form| {
                text.windows(form.len())
                    .any(|window| window.eq_ignore_ascii_case(form))
            })
        };
        for before in 0..4 {
            for after in 0..4 {
                let around = [&b"xyz_"[..before], secret, &b"(abc"[..after]].concat();
                for text in [
                    BASE64_NOPAD.encode(&around),
                    BASE64URL_NOPAD.encode(&around),
                    HEXLOWER.encode(&around),
                    HEXUPPER.encode(&around),
                ] {
                    assert!(holds(text.as_bytes()), "{text}");
                }
            }
        }
        assert!(holds(b"x sk-\"secret/\\+~value? y"));
        assert!(holds(br#"{"e":"sk-\"secret/\\+~value?"}"#));
        assert!(holds(br#"{"e":"sk-\"secret\/\\+~value?"}"#));
        assert!(holds(b"?k=sk-%22secret%2F%5C%2B~value%3F"));
        assert!(holds(b"?k=sk-%22secret%2f%5c%2b~value%3f"));
        assert!(!holds(b"sk-secret value"));
        // The first by Node's encodeURIComponent, the others by what RFC 3986, Go and .NET document.
        let secret = b"sk-live&9b2f<6c1e>0d+8a'4f7b!A/+";
        let forms = super::forms(secret);
        for text in [
            &b"sk-live%269b2f%3C6c1e%3E0d%2B8a'4f7b!A%2F%2B"[..],
            b"sk-live&9b2f%3C6c1e%3E0d+8a'4f7b!A%2F+",
            b"sk-live&9b2f%3C6c1e%3E0d+8a'4f7b!A/+",
            b"sk-live\\u00269b2f\\u003c6c1e\\u003e0d+8a'4f7b!A/+",
            b"sk-live\\u00269b2f\\u003C6c1e\\u003E0d\\u002B8a\\u00274f7b!A/\\u002B",
        ] {
            let stands = forms.iter().any(|form| form.eq_ignore_ascii_case(text));
            assert!(stands, "{}", String::from_utf8_lossy(text));
        }
    }
}
