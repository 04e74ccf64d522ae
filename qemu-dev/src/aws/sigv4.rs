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
    let unrecognized = || {
        let message = "The security token included in the request is invalid.";
        Refusal::new("UnrecognizedClientException", message)
    };
    let credentials = known
        .iter()
        .find(|known| known.id == authorization.id)
        .ok_or_else(unrecognized)?;
    let token = if headers.contains_key("x-amz-security-token") {
        one(headers, "x-amz-security-token")?
    } else {
        ""
    };
    constant_time::verify_slices_are_equal(token.as_bytes(), credentials.token.as_bytes())
        .map_err(|_| unrecognized())?;
    let hash = HEXLOWER.encode(&sha256(body).0);
    if headers.contains_key("x-amz-content-sha256") && one(headers, "x-amz-content-sha256")? != hash
    {
        return Err(invalid(
            "x-amz-content-sha256 is not the digest of the body",
        ));
    }
    let target = (
        request.method.as_str(),
        request.uri.path(),
        request.uri.query().unwrap_or(""),
    );
    let canonical = canonical_request(target, headers, &authorization.signed, &hash)?;
    let to_sign = string_to_sign(date, &authorization.scope(), &canonical);
    let scope = &authorization;
    let key = signing_key(
        &credentials.secret,
        &scope.date,
        &scope.region,
        &scope.service,
    );
    let expected = HEXLOWER.encode(hmac::sign(&key, to_sign.as_bytes()).as_ref());
    let signature = authorization.signature.as_bytes();
    constant_time::verify_slices_are_equal(expected.as_bytes(), signature).map_err(|_| {
        invalid("The request signature we calculated does not match the signature you provided.")
    })?;
    Ok(credentials)
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
