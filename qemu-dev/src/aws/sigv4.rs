//! Signature Version 4, checked by code of the mock's own: of another hand than what signs.

use std::collections::BTreeSet;

use aws_lc_rs::{constant_time, hmac};
use data_encoding::HEXLOWER;
use hyper::HeaderMap;
use hyper::http::request::Parts;
use identity::{parse_rfc3339, sha256};

use super::Refusal;
use super::credentials::Credentials;

/// How far the date of a signature may be from the mock's clock, in seconds.
const TOLERANCE: u64 = 300;
/// What must be signed where it is present; the first four must be present.
const SIGNED: [&str; 5] = [
    "host",
    "x-amz-date",
    "x-amz-target",
    "content-type",
    "x-amz-security-token",
];

/// Where and when a request is checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) region: &'a str,
    /// Seconds since 1970.
    pub(super) now: u64,
}

/// Finds out who signed a request; anything that is not exactly as it should be is refused.
pub(super) fn verify<'a>(
    request: &Parts,
    body: &[u8],
    known: &'a [Credentials],
    place: Place<'_>,
) -> Result<&'a Credentials, Refusal> {
    let headers = &request.headers;
    let authorization = Authorization::parse(headers)?;
    authorization.covers(headers)?;
    let date = one(headers, "x-amz-date")?;
    authorization.is_for(date, place)?;
    let credentials = authorization.credentials(headers, known)?;
    let hash = HEXLOWER.encode(&sha256(body).0);
    if optional(headers, "x-amz-content-sha256")?.is_some_and(|said| said != hash) {
        return Err(invalid(
            "x-amz-content-sha256 is not the digest of the body",
        ));
    }
    let uri = &request.uri;
    let target = (
        request.method.as_str(),
        uri.path(),
        uri.query().unwrap_or_default(),
    );
    let canonical = canonical_request(target, headers, &authorization.signed, &hash)?;
    let to_sign = string_to_sign(date, &authorization.scope(), &canonical);
    let expected = hmac::sign(&authorization.key(credentials), to_sign.as_bytes());
    let expected = HEXLOWER.encode(expected.as_ref());
    equal(&expected, &authorization.signature).map_err(|()| {
        invalid("The request signature we calculated does not match the signature you provided.")
    })?;
    Ok(credentials)
}

fn equal(one: &str, other: &str) -> Result<(), ()> {
    constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).map_err(|_| ())
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new("InvalidSignatureException", message)
}

fn incomplete(message: impl Into<String>) -> Refusal {
    Refusal::new("IncompleteSignatureException", message)
}

/// The header `Authorization`, taken apart.
struct Authorization {
    id: String,
    date: String,
    region: String,
    service: String,
    signed: Vec<String>,
    signature: String,
}

impl Authorization {
    fn parse(headers: &HeaderMap) -> Result<Self, Refusal> {
        if !headers.contains_key("authorization") {
            let message = "Missing Authentication Token";
            return Err(Refusal::new("MissingAuthenticationTokenException", message));
        }
        let text = one(headers, "authorization")?;
        let parts = text
            .strip_prefix("AWS4-HMAC-SHA256 ")
            .ok_or_else(|| incomplete("the algorithm is not AWS4-HMAC-SHA256"))?;
        let mut named = [None; 3];
        for part in parts.split(',') {
            let (name, value) = part.trim_matches(' ').split_once('=').unwrap_or((part, ""));
            let place = ["Credential", "SignedHeaders", "Signature"]
                .iter()
                .position(|known| *known == name)
                .ok_or_else(|| incomplete("a part of Authorization is not known"))?;
            if value.is_empty() || named[place].replace(value).is_some() {
                return Err(incomplete(format!(
                    "{name} of Authorization is empty, or there twice"
                )));
            }
        }
        let [Some(credential), Some(signed), Some(signature)] = named else {
            return Err(incomplete(
                "Authorization needs Credential, SignedHeaders and Signature",
            ));
        };
        let scope: Vec<&str> = credential.split('/').collect();
        let [id, date, region, service, "aws4_request"] = scope[..] else {
            return Err(incomplete(
                "Credential is not ID/DATE/REGION/SERVICE/aws4_request",
            ));
        };
        Ok(Self {
            id: id.into(),
            date: date.into(),
            region: region.into(),
            service: service.into(),
            signed: signed.split(';').map(str::to_owned).collect(),
            signature: signature.into(),
        })
    }

    fn scope(&self) -> String {
        format!(
            "{}/{}/{}/aws4_request",
            self.date, self.region, self.service
        )
    }

    /// Whose key it is; temporary credentials need their token.
    fn credentials<'a>(
        &self,
        headers: &HeaderMap,
        known: &'a [Credentials],
    ) -> Result<&'a Credentials, Refusal> {
        let unrecognized = || {
            let message = "The security token included in the request is invalid.";
            Refusal::new("UnrecognizedClientException", message)
        };
        let token = optional(headers, "x-amz-security-token")?.unwrap_or_default();
        let credentials = known.iter().find(|known| known.id == self.id);
        let credentials = credentials.ok_or_else(unrecognized)?;
        equal(token, &credentials.token).map_err(|()| unrecognized())?;
        Ok(credentials)
    }

    fn key(&self, credentials: &Credentials) -> hmac::Key {
        signing_key(&credentials.secret, &self.date, &self.region, &self.service)
    }

    /// All that counts is signed: in order, each once, in lowercase.
    fn covers(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let ordered: BTreeSet<&String> = self.signed.iter().collect();
        if !ordered.iter().copied().eq(&self.signed) {
            return Err(invalid(
                "SignedHeaders is not sorted, or names a header twice",
            ));
        }
        if self
            .signed
            .iter()
            .any(|name| *name != name.to_ascii_lowercase())
        {
            return Err(invalid("SignedHeaders has capital letters"));
        }
        for name in &SIGNED[..4] {
            one(headers, name)?;
        }
        let present = headers.keys().map(hyper::header::HeaderName::as_str);
        let unsigned = present
            .filter(|name| SIGNED.contains(name) || name.starts_with("x-amz-"))
            .find(|name| !self.signed.iter().any(|signed| signed == name));
        match unsigned {
            Some(name) => Err(invalid(format!("{name} must be a signed header"))),
            None => Ok(()),
        }
    }

    /// The scope is this service, here, now.
    fn is_for(&self, date: &str, place: Place<'_>) -> Result<(), Refusal> {
        let signed =
            seconds(date).ok_or_else(|| incomplete("X-Amz-Date is not YYYYMMDDTHHMMSSZ"))?;
        if date.get(..8) != Some(&self.date) {
            return Err(invalid("the date of Credential is not that of X-Amz-Date"));
        }
        if self.service != "kms" {
            return Err(invalid(
                "Credential should be scoped to correct service: 'kms'.",
            ));
        }
        if self.region != place.region {
            return Err(invalid(format!(
                "Credential should be scoped to a valid region, which here is '{}'.",
                place.region
            )));
        }
        if signed + TOLERANCE < place.now {
            return Err(invalid(format!(
                "Signature expired: {date} is more than 5 minutes ago"
            )));
        }
        if place.now + TOLERANCE < signed {
            return Err(invalid(format!(
                "Signature not yet current: {date} is more than 5 minutes ahead"
            )));
        }
        Ok(())
    }
}

/// A header that must be there once, in printable ASCII.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value
            .to_str()
            .map_err(|_| incomplete(format!("{name} is not ASCII"))),
        (None, _) => Err(incomplete(format!("the request has no {name}"))),
        _ => Err(incomplete(format!("the request has {name} twice"))),
    }
}

/// A header that may be there, but once at most.
fn optional<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let present = headers.contains_key(name);
    present.then(|| one(headers, name)).transpose()
}

/// Seconds since 1970 of `20150830T123600Z`.
fn seconds(date: &str) -> Option<u64> {
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (day, time) = date.strip_suffix('Z')?.split_once('T')?;
    if day.len() != 8 || time.len() != 6 || !digits(day) || !digits(time) {
        return None;
    }
    let (year, month, day) = (&day[..4], &day[4..6], &day[6..]);
    let (hour, minute, second) = (&time[..2], &time[2..4], &time[4..]);
    let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
    u64::try_from(parse_rfc3339(&text).ok()?.0).ok()
}

/// Method, path and query, which here may hold nothing that needs an escape; then headers and the
/// digest of the body.
fn canonical_request(
    (method, path, query): (&str, &str, &str),
    headers: &HeaderMap,
    signed: &[String],
    hash: &str,
) -> Result<String, Refusal> {
    let mut text = format!("{method}\n{path}\n{query}\n");
    for name in signed {
        let value: Vec<&str> = one(headers, name)?.split_ascii_whitespace().collect();
        text.push_str(&format!("{name}:{}\n", value.join(" ")));
    }
    Ok(format!("{text}\n{}\n{hash}", signed.join(";")))
}

fn string_to_sign(date: &str, scope: &str, canonical: &str) -> String {
    let hash = HEXLOWER.encode(&sha256(canonical.as_bytes()).0);
    format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{hash}")
}

fn signing_key(secret: &str, date: &str, region: &str, service: &str) -> hmac::Key {
    let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
    let mut derived = key(format!("AWS4{secret}").as_bytes());
    for part in [date, region, service, "aws4_request"] {
        derived = key(hmac::sign(&derived, part.as_bytes()).as_ref());
    }
    derived
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
    use aws_sigv4::sign::v4;
    use hyper::Request;
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    const NOW: u64 = 1_795_225_251;
    const PLACE: Place<'static> = Place {
        region: "mock-local-1",
        now: NOW,
    };
    const BODY: &[u8] = br#"{"KeyId":"arn"}"#;

    fn known() -> Vec<Credentials> {
        let of = |id: &str, principal| Credentials {
            id: id.into(),
            secret: format!("secret+of/{id}"),
            token: format!("token/of+{id}=="),
            principal,
        };
        vec![of("ASIAONE", "one"), of("ASIATWO", "two")]
    }

    /// A request that AWS's own crate signed, after `change` of what it is told.
    fn signed(change: impl FnOnce(&mut Told)) -> Parts {
        let mut told = Told {
            id: "ASIATWO",
            secret: "secret+of/ASIATWO",
            token: Some("token/of+ASIATWO=="),
            region: "mock-local-1",
            service: "kms",
            time: NOW,
            url: "https://kms.mock-local-1.amazonaws.com/",
            headers: vec![
                ("content-type", "application/x-amz-json-1.1"),
                ("x-amz-target", "TrentService.Decrypt"),
            ],
        };
        change(&mut told);
        told.sign()
    }

    struct Told {
        id: &'static str,
        secret: &'static str,
        token: Option<&'static str>,
        region: &'static str,
        service: &'static str,
        time: u64,
        url: &'static str,
        headers: Vec<(&'static str, &'static str)>,
    }

    impl Told {
        fn sign(&self) -> Parts {
            let token = self.token.map(str::to_owned);
            let credentials =
                aws_credential_types::Credentials::new(self.id, self.secret, token, None, "tests");
            let identity = credentials.into();
            let params = v4::SigningParams::builder()
                .identity(&identity)
                .region(self.region)
                .name(self.service)
                .time(UNIX_EPOCH + Duration::from_secs(self.time))
                .settings(SigningSettings::default())
                .build()
                .unwrap()
                .into();
            let body = SignableBody::Bytes(BODY);
            let headers = self.headers.iter().copied();
            let request = SignableRequest::new("POST", self.url, headers, body).unwrap();
            let (instructions, _) = sign(request, &params).unwrap().into_parts();
            let host = self.url.split('/').nth(2).unwrap();
            let path = self.url.split_once(host).unwrap().1;
            let mut request = Request::post(path).header("host", host);
            for (name, value) in self.headers.iter().copied().chain(instructions.headers()) {
                request = request.header(name, value);
            }
            request.body(()).unwrap().into_parts().0
        }
    }

    fn refused(request: &Parts, body: &[u8]) -> &'static str {
        match verify(request, body, &known(), PLACE) {
            Ok(_) => "accepted",
            Err(refusal) => refusal.kind,
        }
    }

    #[test]
    fn what_aws_own_crate_signs_is_accepted_and_says_who_it_was() {
        let known = known();
        let verify =
            |request: &Parts| verify(request, BODY, &known, PLACE).map(|who| who.principal);
        assert_eq!(verify(&signed(|_| ())), Ok("two"));
        assert_eq!(verify(&signed(|told| told.time = NOW - 300)), Ok("two"));
        assert_eq!(verify(&signed(|told| told.time = NOW + 300)), Ok("two"));
        let of_one = signed(|told| {
            told.id = "ASIAONE";
            told.secret = "secret+of/ASIAONE";
            told.token = Some("token/of+ASIAONE==");
        });
        assert_eq!(verify(&of_one), Ok("one"));
    }

    #[test]
    fn what_is_signed_for_others_or_another_time_is_refused() {
        type Change = fn(&mut Told);
        let cases: [(Change, &str); 10] = [
            (|told| told.id = "ASIANOBODY", "UnrecognizedClientException"),
            (|told| told.id = "ASIAONE", "UnrecognizedClientException"),
            (|told| told.token = None, "UnrecognizedClientException"),
            (
                |told| told.token = Some("token"),
                "UnrecognizedClientException",
            ),
            (
                |told| told.secret = "secret+of/ASIAONE",
                "InvalidSignatureException",
            ),
            (
                |told| told.region = "eu-west-1",
                "InvalidSignatureException",
            ),
            (|told| told.service = "s3", "InvalidSignatureException"),
            (|told| told.time = NOW - 301, "InvalidSignatureException"),
            (|told| told.time = NOW + 301, "InvalidSignatureException"),
            (
                |told| told.headers.truncate(1),
                "IncompleteSignatureException",
            ),
        ];
        for (number, (change, kind)) in cases.into_iter().enumerate() {
            assert_eq!(refused(&signed(change), BODY), kind, "case {number}");
        }
    }

    #[test]
    fn every_byte_that_is_signed_counts() {
        assert_eq!(
            refused(&signed(|_| ()), br#"{"KeyId":"arm"}"#),
            "InvalidSignatureException"
        );
        let request = signed(|_| ());
        for name in request.headers.keys() {
            let mut changed = request.clone();
            let mut value = request.headers[name].as_bytes().to_vec();
            let last = value.last_mut().unwrap();
            *last = if *last == b'1' { b'2' } else { b'1' };
            let value = HeaderValue::from_bytes(&value).unwrap();
            changed.headers.insert(name, value);
            assert_ne!(refused(&changed, BODY), "accepted", "{name}");
            let mut missing = request.clone();
            missing.headers.remove(name);
            assert_ne!(refused(&missing, BODY), "accepted", "no {name}");
            let mut twice = request.clone();
            twice.headers.append(name, request.headers[name].clone());
            assert_ne!(refused(&twice, BODY), "accepted", "{name} twice");
        }
        for url in [
            "https://kms.mock-local-1.amazonaws.com/x",
            "https://kms.mock-local-1.amazonaws.com/?a=b",
        ] {
            let mut other = signed(|told| told.url = url);
            other.uri = "/".parse().unwrap();
            assert_eq!(refused(&other, BODY), "InvalidSignatureException", "{url}");
        }
        let mut get = request.clone();
        get.method = hyper::Method::GET;
        assert_eq!(refused(&get, BODY), "InvalidSignatureException");
    }

    #[test]
    fn a_signature_that_leaves_out_what_counts_is_refused() {
        // Signed without the header, which is then added: its value would be the parent's to choose.
        for (name, value) in [
            ("x-amz-target", "TrentService.Encrypt"),
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-anything", "1"),
        ] {
            let mut request = signed(|told| told.headers.retain(|(signed, _)| *signed != name));
            let name = HeaderName::from_static(name);
            request
                .headers
                .insert(name, HeaderValue::from_static(value));
            let refusal = verify(&request, BODY, &known(), PLACE)
                .map(|_| ())
                .unwrap_err();
            assert!(
                refusal.message.ends_with("must be a signed header"),
                "{refusal}"
            );
        }
    }

    #[test]
    fn an_authorization_of_another_form_is_refused() {
        let request = signed(|_| ());
        let text = request.headers["authorization"]
            .to_str()
            .unwrap()
            .to_owned();
        let changed = |text: &str| {
            let mut changed = request.clone();
            let value = HeaderValue::from_str(text).unwrap();
            changed.headers.insert("authorization", value);
            refused(&changed, BODY)
        };
        assert_eq!(changed(&text), "accepted");
        assert_eq!(changed(&text.replace(", ", ",")), "accepted");
        let incomplete = "IncompleteSignatureException";
        for (from, to) in [
            ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"),
            ("aws4_request", "aws4_requests"),
            ("Signature=", "Signatures="),
            ("Signature=", "Signature=abc, Signature="),
            (", SignedHeaders=", ", Extra=1, SignedHeaders="),
            ("Credential=", "Credential=/"),
        ] {
            assert_eq!(changed(&text.replace(from, to)), incomplete, "{to}");
        }
        let mut missing = request.clone();
        missing.headers.remove("authorization");
        assert_eq!(
            refused(&missing, BODY),
            "MissingAuthenticationTokenException"
        );
    }

    /// Signed again after a change of the header, by the code that is tested: so that only the rule
    /// in question is broken.
    fn signed_again(from: &str, to: &str) -> Parts {
        let mut request = signed(|_| ());
        let mut set = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            request.headers.insert("authorization", value);
            Authorization::parse(&request.headers).unwrap()
        };
        let good = signed(|_| ());
        let text = good.headers["authorization"]
            .to_str()
            .unwrap()
            .replace(from, to);
        let changed = set(&text);
        let hash = HEXLOWER.encode(&sha256(BODY).0);
        let target = ("POST", "/", "");
        let canonical = canonical_request(target, &good.headers, &changed.signed, &hash).unwrap();
        let date = good.headers["x-amz-date"].to_str().unwrap();
        let to_sign = string_to_sign(date, &changed.scope(), &canonical);
        let signature = hmac::sign(&changed.key(&known()[1]), to_sign.as_bytes());
        set(&text.replace(&changed.signature, &HEXLOWER.encode(signature.as_ref())));
        request
    }

    #[test]
    fn the_headers_that_are_signed_are_in_order_and_complete_and_the_scope_is_one() {
        assert_eq!(refused(&signed_again("", ""), BODY), "accepted");
        let date = "2026";
        for (from, to, why) in [
            (
                "content-type;host",
                "host;content-type",
                "SignedHeaders is not sorted",
            ),
            (
                "content-type;host",
                "content-type;host;host",
                "SignedHeaders is not sorted",
            ),
            (
                "content-type;host",
                "Content-Type;host",
                "SignedHeaders has capital letters",
            ),
            (";host", "", "host must be a signed header"),
            ("content-type;", "", "content-type must be a signed header"),
            (";x-amz-target", "", "x-amz-target must be a signed header"),
            (
                ";x-amz-security-token",
                "",
                "x-amz-security-token must be a signed header",
            ),
            (";x-amz-date", "", "x-amz-date must be a signed header"),
            (
                date,
                "2025",
                "the date of Credential is not that of X-Amz-Date",
            ),
        ] {
            let request = signed_again(from, to);
            let refusal = verify(&request, BODY, &known(), PLACE)
                .map(|_| ())
                .unwrap_err();
            assert_eq!(refusal.kind, "InvalidSignatureException");
            assert!(refusal.message.starts_with(why), "{refusal}");
        }
    }

    #[test]
    fn a_digest_of_the_body_must_be_that_of_the_body() {
        let right = "x-amz-content-sha256";
        let value: &'static str = HEXLOWER.encode(&sha256(BODY).0).leak();
        let good = signed(|told| told.headers.push((right, value)));
        assert_eq!(refused(&good, BODY), "accepted");
        let bad = signed(|told| told.headers.push((right, "UNSIGNED-PAYLOAD")));
        assert_eq!(refused(&bad, BODY), "InvalidSignatureException");
    }

    /// "Deriving a signing key" of AWS's General Reference, and two cases of its test suite.
    #[test]
    fn the_examples_that_aws_published_come_out_the_same() {
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let signature = |service: &str, to_sign: &str| {
            let key = signing_key(secret, "20150830", "us-east-1", service);
            HEXLOWER.encode(hmac::sign(&key, to_sign.as_bytes()).as_ref())
        };
        let to_sign = "AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/iam/aws4_request\n\
            f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59";
        let expected = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
        assert_eq!(signature("iam", to_sign), expected);
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("example.amazonaws.com"));
        headers.insert("x-amz-date", HeaderValue::from_static("20150830T123600Z"));
        let signed = ["host".to_owned(), "x-amz-date".to_owned()];
        for (method, expected) in [
            (
                "GET",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "POST",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
        ] {
            let empty = HEXLOWER.encode(&sha256(b"").0);
            let canonical =
                canonical_request((method, "/", ""), &headers, &signed, &empty).unwrap();
            let scope = "20150830/us-east-1/service/aws4_request";
            let to_sign = string_to_sign("20150830T123600Z", scope, &canonical);
            assert_eq!(signature("service", &to_sign), expected);
        }
    }
}
