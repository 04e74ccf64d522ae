//! Puts a credential where its service wants it.

use data_encoding::BASE64;
use policy::Inject;
use zeroize::Zeroizing;

use crate::field::formatted;
use crate::form::{encoded, parameter};
use crate::sigv4::{self, Signing};
use crate::{Error, Field, Target};

/// Shorter ones are not told from other texts; a search for them would cut off what is innocent.
const MIN_SECRET: usize = 8;
const MAX_SECRET: usize = 4096;

/// What is sent with a credential in it, and what must not come back.
pub struct Injected {
    /// Names and values of the headers in which it stands, or that it signs.
    pub headers: Vec<(String, Zeroizing<Vec<u8>>)>,
    /// Path and query.
    pub target: Zeroizing<String>,
    /// Where it is put in the body or in a message, if that is its place.
    pub field: Option<Field>,
    /// What is looked for in answers.
    pub secrets: Vec<Zeroizing<Vec<u8>>>,
}

/// What an agent asks for, and what it shows where the service wants its credential.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    /// Without what is shown.
    pub asked: String,
    /// What stood there, if anything did.
    pub placeholder: Option<Zeroizing<String>>,
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

/// Takes a placeholder out of the path or query, where the bundle puts the credential there: clients
/// that know of no proxy show it in that place. In a path it must stand there; in a query it may, once.
pub fn take_placeholder(inject: &Inject, asked: &str) -> Result<Shown, Error> {
    let wrong = |why: &str| Error::PathNotCanonical(why.to_owned());
    if let Some((before, after)) = inject.path_parts() {
        let rest = asked.strip_prefix(before);
        let rest = rest.ok_or_else(|| wrong("it does not begin as the credential's place does"))?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (shown, rest) = rest.split_at(end);
        let rest = rest.strip_prefix(after);
        let rest = rest.ok_or_else(|| wrong("what is behind the credential's place is another"))?;
        return Ok(Shown {
            asked: rest.to_owned(),
            placeholder: Some(Zeroizing::new(shown.to_owned())),
        });
    }
    let nothing = || Shown {
        asked: asked.to_owned(),
        placeholder: None,
    };
    let Some((name, (path, query))) = inject.query.as_deref().zip(asked.split_once('?')) else {
        return Ok(nothing());
    };
    let (places, others): (Vec<_>, Vec<_>) =
        query.split('&').partition(|part| parameter(part).0 == name);
    let placeholder = match places[..] {
        [] => return Ok(nothing()),
        [place] => Zeroizing::new(parameter(place).1),
        _ => return Err(wrong("the credential's parameter stands in it twice")),
    };
    let mark = if others.is_empty() { "" } else { "?" };
    Ok(Shown {
        asked: format!("{path}{mark}{}", others.join("&")),
        placeholder: Some(placeholder),
    })
}

/// Puts this credential where the bundle says, in a request for this target; or signs with it.
pub fn inject(
    inject: &Inject,
    target: &Target,
    signing: Option<Signing<'_>>,
    secret: &[u8],
) -> Result<Injected, Error> {
    check_secret(secret)?;
    if let Some((sigv4, signing)) = inject.sigv4.as_ref().zip(signing) {
        let signed = sigv4::sign(sigv4, target, signing, secret)?;
        return Ok(Injected {
            headers: signed.headers,
            field: None,
            target: Zeroizing::new(signed.target),
            secrets: sigv4::secrets(secret)?,
        });
    }
    let mut injected = Injected {
        headers: Vec::new(),
        target: target.origin_form("", ""),
        field: Field::of(inject, secret),
        secrets: vec![Zeroizing::new(secret.to_vec())],
    };
    let authorization = || "authorization".to_owned();
    if let Some(user) = &inject.basic {
        let pair = Zeroizing::new([user.as_bytes(), b":", secret].concat());
        let text = Zeroizing::new(BASE64.encode(&pair));
        let value = Zeroizing::new([b"Basic ", text.as_bytes()].concat());
        injected.headers.push((authorization(), value));
    } else if let Some(name) = &inject.query {
        // What the sidecar has not taken out would stand there beside it.
        let query = target.query().unwrap_or_default();
        if query.split('&').any(|part| parameter(part).0 == *name) {
            let why = "the credential's parameter stands in it";
            return Err(Error::PathNotCanonical(why.to_owned()));
        }
        let parameter = Zeroizing::new(format!("{name}={}", *encoded(secret)));
        injected.target = target.origin_form("", &parameter);
    } else if let Some((before, after)) = inject.path_parts() {
        let segment = Zeroizing::new(format!("{before}{}{after}", *encoded(secret)));
        injected.target = target.origin_form(&segment, "");
    } else if injected.field.is_none() {
        let header = inject.header.clone().unwrap_or_else(authorization);
        injected.headers.push((header, formatted(inject, secret)));
    }
    Ok(injected)
}

#[cfg(test)]
mod tests {
    use policy::Upstream;

    use super::*;

    fn at(place: &str, text: &str, format: Option<&str>) -> Inject {
        let place_is = |name: &str| (name == place).then(|| text.to_owned());
        Inject {
            header: place_is("header"),
            format: format.map(str::to_owned),
            basic: place_is("basic"),
            query: place_is("query"),
            path: place_is("path"),
            ..Inject::default()
        }
    }

    fn target(asked: &str) -> Target {
        let upstream = Upstream::try_from("https://api.example/v1".to_owned()).unwrap();
        Target::new(&upstream, asked).unwrap()
    }

    /// `name: value` of the header, and the target.
    fn placed(place: &Inject, asked: &str, secret: &[u8]) -> (String, String) {
        let placed = inject(place, &target(asked), None, secret).unwrap();
        let header = placed.headers.first();
        let header = header.map_or(String::new(), |(name, value)| {
            format!("{name}: {}", str::from_utf8(value).unwrap())
        });
        (header, placed.target.to_string())
    }

    #[test]
    fn a_credential_stands_where_the_bundle_says() {
        let pair = |header: &str, target: &str| (header.to_owned(), target.to_owned());
        let secret = b"sk-12345";
        assert_eq!(
            placed(
                &at("header", "authorization", Some("Bearer {}")),
                "/a?b",
                secret
            ),
            pair("authorization: Bearer sk-12345", "/v1/a?b")
        );
        assert_eq!(
            placed(&at("header", "x-api-key", None), "/a", secret),
            pair("x-api-key: sk-12345", "/v1/a")
        );
        // RFC 7617; the text by coreutils' base64.
        assert_eq!(
            placed(&at("basic", "x-access-token", None), "/a", secret),
            pair(
                "authorization: Basic eC1hY2Nlc3MtdG9rZW46c2stMTIzNDU=",
                "/v1/a"
            )
        );
        for (asked, sent) in [
            ("/a", "/v1/a?key=sk%2F%3A%2B%26%25%20~"),
            ("/a?", "/v1/a?key=sk%2F%3A%2B%26%25%20~"),
            ("/a?b=c", "/v1/a?b=c&key=sk%2F%3A%2B%26%25%20~"),
            ("", "/v1/?key=sk%2F%3A%2B%26%25%20~"),
        ] {
            let sent = sent.replace("%20", "%7B");
            let query = at("query", "key", None);
            assert_eq!(placed(&query, asked, b"sk/:+&%{~"), pair("", &sent));
        }
        for (path, asked, sent) in [
            ("/bot{}", "/getMe?a=b", "/v1/bot12%3AAb-_cd/getMe?a=b"),
            ("/{}/x", "/getMe", "/v1/12%3AAb-_cd/x/getMe"),
            ("/bot{}", "", "/v1/bot12%3AAb-_cd/"),
        ] {
            let path = at("path", path, None);
            assert_eq!(placed(&path, asked, b"12:Ab-_cd"), pair("", sent));
        }
    }

    #[test]
    fn a_placeholder_stands_in_its_place_once_or_is_refused() {
        let taken = |place: &Inject, asked: &str| {
            let shown = take_placeholder(place, asked).ok()?;
            Some((shown.asked, shown.placeholder.map(|text| text.to_string())))
        };
        let is = |asked: &str, shown: &str| Some((asked.to_owned(), Some(shown.to_owned())));
        let none = |asked: &str| Some((asked.to_owned(), None));
        let header = at("header", "x-api-key", None);
        for asked in ["", "/a?key=x&key=y", "/bot/x"] {
            assert_eq!(taken(&header, asked), none(asked));
        }
        let query = at("query", "key", None);
        for (asked, rest, shown) in [
            ("/a?key=x", "/a", "x"),
            ("?key=x", "", "x"),
            ("/a?b=c&key=x&d", "/a?b=c&d", "x"),
            ("/a?%6bey=x", "/a", "x"),
            ("/a?key=a%2Bb+c", "/a", "a+b c"),
            ("/a?key", "/a", ""),
            ("/key=y?key=a=b", "/key=y", "a=b"),
        ] {
            assert_eq!(taken(&query, asked), is(rest, shown), "{asked}");
        }
        for asked in ["/a", "/a?", "/a?Key=x&k+ey=x", "/a?b&c=key", "/key=x"] {
            assert_eq!(taken(&query, asked), none(asked));
        }
        for twice in ["/a?key=x&key=x", "/a?key=x&b&k%65y=y", "/a?key&key"] {
            assert_eq!(taken(&query, twice), None, "{twice}");
        }
        // What nobody has taken out is not sent beside it.
        for left in ["/a?key=x", "/a?b&%6Bey", "/a?k%65y=x&key=y"] {
            let refused = inject(&query, &target(left), None, b"12345678").err();
            assert!(
                matches!(refused, Some(Error::PathNotCanonical(_))),
                "{left}"
            );
        }
        let path = at("path", "/bot{}", None);
        for (asked, rest, shown) in [
            ("/botx:y/getMe", "/getMe", "x:y"),
            ("/botx", "", "x"),
            ("/bot/getMe", "/getMe", ""),
            ("/botx?a", "?a", "x"),
            ("/botx//evil", "//evil", "x"),
        ] {
            assert_eq!(taken(&path, asked), is(rest, shown), "{asked}");
        }
        for elsewhere in [
            "",
            "/",
            "/getMe",
            "/%62otx/getMe",
            "/a/botx/getMe",
            "//botx",
            "?/botx",
        ] {
            assert_eq!(taken(&path, elsewhere), None, "{elsewhere}");
        }
        let between = at("path", "/a/{}/v1", None);
        assert_eq!(taken(&between, "/a/x/v1/b"), is("/b", "x"));
        for elsewhere in ["/a/x/v2/b", "/a/x", "/a/x?/v1"] {
            assert_eq!(taken(&between, elsewhere), None, "{elsewhere}");
        }
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
