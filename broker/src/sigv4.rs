//! Requests signed for AWS: Signature Version 4 (Reference for the Signature Version 4 signing process,
//! IAM User Guide). The agent signs with a placeholder; what it signed is judged, and signed anew.

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use identity::{Digest, UnixSeconds, sha256};
use percent_encoding::{AsciiSet, percent_decode_str, percent_encode};
use policy::SigV4;
use zeroize::Zeroizing;

use crate::headers::read_as;
use crate::target::NOT_UNRESERVED;
use crate::{Error, Header, Target};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const PAYLOAD: &str = "x-amz-content-sha256";
const DATE: &str = "x-amz-date";
const TOKEN: &str = "x-amz-security-token";
const TARGET: &str = "x-amz-target";
/// Bodies that nobody signs: TLS keeps them, from here to AWS.
const UNSIGNED: [&str; 2] = ["UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"];
const NOT_IN_PATH: AsciiSet = NOT_UNRESERVED.remove(b'/').remove(b'%');
const NOT_IN_PATH_AGAIN: AsciiSet = NOT_UNRESERVED.remove(b'/');
/// Parameters of S3 with which a request is still about the object, or the listing, that its path names,
/// and does to it what its method says.
const PLAIN: [&str; 14] = [
    "continuation-token",
    "delimiter",
    "encoding-type",
    "fetch-owner",
    "list-type",
    "marker",
    "max-keys",
    "partNumber",
    "part-number-marker",
    "prefix",
    "start-after",
    "uploadId",
    "uploads",
    "x-id",
];

/// What is said of a body before it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Its SHA-256.
    Digest(Digest<32>),
    /// One of [`UNSIGNED`].
    Unsigned(&'static str),
}

/// Of what a signature is made, beside the URL.
#[derive(Debug, Clone, Copy)]
pub struct Signing<'a> {
    /// `GET`, and so on.
    pub method: &'a str,
    /// `Host`.
    pub authority: &'a str,
    /// What is sent on of the agent's headers.
    pub headers: &'a [Header],
    /// What the body will be.
    pub body: Body,
    /// The enclave's time.
    pub time: UnixSeconds,
}

/// What the agent says of the body in its headers; `digest` is what its sidecar says, if they say nothing.
pub fn body_of(headers: &[Header], digest: Option<Digest<32>>) -> Result<Body, Error> {
    let wrong = |why| Error::HeaderInvalid(PAYLOAD.into(), why);
    let mut said = headers.iter().filter(|header| header.name == PAYLOAD);
    match (said.next(), said.next()) {
        (None, _) => digest
            .map(Body::Digest)
            .ok_or(wrong("neither it nor the body's digest is there")),
        (Some(said), None) => {
            let text = std::str::from_utf8(&said.value).unwrap_or_default();
            if let Some(unsigned) = UNSIGNED.into_iter().find(|known| *known == text) {
                return Ok(Body::Unsigned(unsigned));
            }
            Digest::from_hex(text).map(Body::Digest).map_err(|_| {
                wrong("it is neither a digest nor a form without signatures of chunks")
            })
        }
        _ => Err(wrong("it is given twice")),
    }
}

/// What is done beyond what method and path say: each must be allowed by name. A request whose action
/// would stand where it is not looked at is refused.
pub fn actions(
    sigv4: &SigV4,
    method: &str,
    target: &Target,
    headers: &[Header],
) -> Result<Vec<String>, Error> {
    let wrong = |name: &str, why| Err(Error::HeaderInvalid(name.into(), why));
    let mut actions = Vec::new();
    for header in headers {
        let name = read_as(&header.name);
        let name = name.as_str();
        // What AWS would not read as what is judged here.
        if header.name != name && (name.starts_with("x-amz-") || name == "content-type") {
            return wrong(&header.name, "it is spelled with _ in place of -");
        }
        if name == TARGET {
            actions.push(String::from_utf8_lossy(&header.value).into_owned());
        }
        if name.starts_with("x-amz-copy-source") || name == "x-amz-website-redirect-location" {
            return wrong(name, "it names another object than the path");
        }
        if sigv4.is_s3() && name.starts_with("x-amz-") && !is_plain_header(name) {
            actions.push(name.to_owned());
        }
    }
    if method == "POST" && !sigv4.is_s3() && !has_known_type(headers) {
        let why = "what is asked could stand in a form, where rules do not look: a type of JSON, CBOR or bytes is wanted";
        return wrong("content-type", why);
    }
    if sigv4.is_s3() && method == "POST" && media_type(headers).starts_with("multipart/") {
        let why = "what is asked would stand in a form, where rules do not look";
        return wrong("content-type", why);
    }
    for (name, value) in parameters(target.query().unwrap_or_default())? {
        let name = String::from_utf8_lossy(&name).into_owned();
        if name.to_ascii_lowercase().starts_with("x-amz-") {
            let why = "a signature in the query would be another one's";
            return Err(Error::PathNotCanonical(why.into()));
        }
        if name == "Action" {
            actions.push(String::from_utf8_lossy(&value).into_owned());
        } else if sigv4.is_s3() && !PLAIN.contains(&name.as_str()) {
            actions.push(name);
        }
    }
    Ok(actions)
}

/// A request, signed.
pub(crate) struct Signed {
    /// Names and values of the headers that sign it.
    pub(crate) headers: Vec<(String, Zeroizing<Vec<u8>>)>,
    /// Path and query as they are signed, and sent.
    pub(crate) target: String,
}

/// Headers of S3 with which a request does no more than without them.
fn is_plain_header(name: &str) -> bool {
    const PLAIN: [&str; 8] = [
        DATE,
        PAYLOAD,
        TOKEN,
        "x-amz-decoded-content-length",
        "x-amz-expected-bucket-owner",
        "x-amz-sdk-checksum-algorithm",
        "x-amz-trailer",
        "x-amz-user-agent",
    ];
    PLAIN.contains(&name) || name.starts_with("x-amz-meta-") || name.starts_with("x-amz-checksum-")
}

/// The first media type that is said, in lower case and without parameters.
fn media_type(headers: &[Header]) -> String {
    let said = headers
        .iter()
        .find(|header| read_as(&header.name) == "content-type");
    let text = said.map_or(String::new(), |said| {
        String::from_utf8_lossy(&said.value).into()
    });
    let text = text.split(';').next().unwrap_or_default();
    text.trim_matches([' ', '\t']).to_ascii_lowercase()
}

/// Whether a body is surely read as what names no action.
fn has_known_type(headers: &[Header]) -> bool {
    const KNOWN: [&str; 6] = [
        "application/cbor",
        "application/json",
        "application/octet-stream",
        "application/x-amz-json-1.0",
        "application/x-amz-json-1.1",
        "application/xml",
    ];
    KNOWN.contains(&media_type(headers).as_str())
}

/// The headers that sign a request, and the path and query that are signed: those are sent.
pub(crate) fn sign(
    sigv4: &SigV4,
    target: &Target,
    signing: Signing<'_>,
    credential: &[u8],
) -> Result<Signed, Error> {
    let credential = Credential::parse(credential)?;
    let (path, query) = (path(target), query(target)?);
    let moment = signing.time.to_string().replace(['-', ':'], "");
    let date = moment.get(..8).unwrap_or_default();
    let payload = match signing.body {
        Body::Digest(digest) => digest.to_string(),
        Body::Unsigned(name) => name.to_owned(),
    };
    let mut signed: Vec<(String, String)> = signing
        .headers
        .iter()
        .filter(|header| is_signed(&header.name))
        .map(|header| (header.name.clone(), in_form(&header.value)))
        .collect();
    signed.push(("host".into(), signing.authority.to_owned()));
    signed.push((DATE.into(), moment.clone()));
    if sigv4.is_s3() || matches!(signing.body, Body::Unsigned(_)) {
        signed.push((PAYLOAD.into(), payload.clone()));
    }
    if let Some(token) = credential.token {
        signed.push((TOKEN.into(), token.to_owned()));
    }
    // Those of one name are one, in their order.
    signed.sort_by(|(one, _), (other, _)| one.cmp(other));
    signed.dedup_by(|(name, value), (first, all)| {
        let same = name == first;
        if same {
            *all = format!("{all},{value}");
        }
        same
    });
    let names: Vec<&str> = signed.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(";");
    let canonical_path = match sigv4.is_s3() {
        true => path.clone(),
        false => percent_encode(path.as_bytes(), &NOT_IN_PATH_AGAIN).to_string(),
    };
    let lines: String = signed
        .iter()
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect();
    let canonical = Zeroizing::new(format!(
        "{}\n{canonical_path}\n{query}\n{lines}\n{names}\n{payload}",
        signing.method
    ));
    let scope = format!("{date}/{}/{}/aws4_request", sigv4.region, sigv4.service);
    let text = format!(
        "{ALGORITHM}\n{moment}\n{scope}\n{}",
        sha256(canonical.as_bytes())
    );
    let signature = credential.signature(date, sigv4, &text);
    let id = credential.id;
    let authorization = format!(
        "{ALGORITHM} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
    );
    // What the agent gave of them is sent as it was given.
    let ours = signed
        .into_iter()
        .filter(|(name, _)| [DATE, PAYLOAD, TOKEN].contains(&name.as_str()));
    let mut headers: Vec<_> = ours
        .map(|(name, value)| (name, Zeroizing::new(value.into_bytes())))
        .collect();
    headers.push((
        "authorization".into(),
        Zeroizing::new(authorization.into_bytes()),
    ));
    let mark = if query.is_empty() { "" } else { "?" };
    Ok(Signed {
        headers,
        target: format!("{path}{mark}{query}"),
    })
}

/// What must not come back: the secret key, and the token of a session.
pub(crate) fn secrets(credential: &[u8]) -> Result<Vec<Zeroizing<Vec<u8>>>, Error> {
    let credential = Credential::parse(credential)?;
    let all = [Some(credential.secret), credential.token];
    let all = all.into_iter().flatten();
    Ok(all
        .map(|text| Zeroizing::new(text.as_bytes().to_vec()))
        .collect())
}

/// `ID:SECRET`, or `ID:SECRET:TOKEN` of a session.
struct Credential<'a> {
    id: &'a str,
    secret: &'a str,
    token: Option<&'a str>,
}

impl<'a> Credential<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let wrong = Error::CredentialInvalid(
            "one for AWS is ACCESS_KEY_ID:SECRET_ACCESS_KEY, and perhaps :SESSION_TOKEN",
        );
        let text = std::str::from_utf8(bytes).map_err(|_| wrong.clone())?;
        let mut parts = text.splitn(3, ':');
        let (Some(id), Some(secret)) = (parts.next(), parts.next()) else {
            return Err(wrong);
        };
        let token = parts.next();
        let good = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        let is_short = secret.len() < 8 || token.is_some_and(|token| token.len() < 8);
        if id.is_empty() || id.len() > 128 || !id.bytes().all(good) || is_short {
            return Err(wrong);
        }
        Ok(Self { id, secret, token })
    }

    fn signature(&self, date: &str, sigv4: &SigV4, text: &str) -> String {
        let first = Zeroizing::new(format!("AWS4{}", self.secret));
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes());
        for part in [date, &sigv4.region, &sigv4.service, "aws4_request"] {
            key = hmac::Key::new(
                hmac::HMAC_SHA256,
                hmac::sign(&key, part.as_bytes()).as_ref(),
            );
        }
        HEXLOWER.encode(hmac::sign(&key, text.as_bytes()).as_ref())
    }
}

fn is_signed(name: &str) -> bool {
    name.starts_with("x-amz-") || ["content-type", "content-md5"].contains(&name)
}

/// Without spaces around it, and with single ones within.
fn in_form(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let words: Vec<&str> = text
        .split([' ', '\t'])
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

/// The path with everything percent-encoded that is not unreserved.
fn path(target: &Target) -> String {
    percent_encode(target.sent_path().as_bytes(), &NOT_IN_PATH).to_string()
}

/// The query in its canonical form.
fn query(target: &Target) -> Result<String, Error> {
    let all = parameters(target.query().unwrap_or_default())?;
    let mut all: Vec<String> = all
        .iter()
        .map(|(name, value)| {
            let [name, value] = [name, value].map(|part| percent_encode(part, &NOT_UNRESERVED));
            format!("{name}={value}")
        })
        .collect();
    // By name and then by value: in the whole text, `=` would count as a character of the name.
    all.sort_by(|one, other| one.split_once('=').cmp(&other.split_once('=')));
    Ok(all.join("&"))
}

type Parameter = (Vec<u8>, Vec<u8>);

fn parameters(query: &str) -> Result<Vec<Parameter>, Error> {
    if query.contains('+') {
        let why = "a + in a query is read as a space or as itself: %20 or %2B";
        return Err(Error::PathNotCanonical(why.into()));
    }
    let parts = query.split('&').filter(|part| !part.is_empty());
    Ok(parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (
                percent_decode_str(name).collect(),
                percent_decode_str(value).collect(),
            )
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use aws_credential_types::Credentials;
    use aws_sigv4::http_request::{
        PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign as sign_by_aws,
    };
    use aws_sigv4::sign::v4;
    use policy::{Inject, Upstream};

    use super::*;
    use crate::{forwarded, inject};

    const ID: &str = "AKIAIOSFODNN7EXAMPLE";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    /// 2013-05-24T00:00:00Z
    const DAY: i64 = 1_369_353_600;

    fn of(service: &str) -> SigV4 {
        SigV4 {
            region: "us-east-1".into(),
            service: service.into(),
        }
    }

    fn target(upstream: &str, asked: &str) -> Target {
        Target::new(&Upstream::try_from(upstream.to_owned()).unwrap(), asked).unwrap()
    }

    fn headers(all: &[(&str, &str)]) -> Vec<Header> {
        let header = |(name, value): &(&str, &str)| Header::new(name, value.as_bytes());
        all.iter().map(header).collect()
    }

    /// The headers that we sign with, and the target.
    fn signed(
        sigv4: &SigV4,
        target: &Target,
        signing: Signing<'_>,
        credential: &str,
    ) -> (Vec<(String, String)>, String) {
        let place = Inject {
            sigv4: Some(sigv4.clone()),
            ..Inject::default()
        };
        let signed = inject(&place, target, Some(signing), credential.as_bytes()).unwrap();
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        let headers = signed.headers.iter();
        let headers = headers.map(|(name, value)| (name.clone(), text(value)));
        (headers.collect(), signed.target.to_string())
    }

    fn header<'a>(headers: &'a [(String, String)], name: &str) -> &'a str {
        let found = headers.iter().find(|(own, _)| own == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// Examples of "Signature Calculations for the Authorization Header" (Amazon S3 API Reference).
    #[test]
    fn amazons_own_examples_come_out() {
        for (asked, signature) in [
            (
                "/?lifecycle",
                "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            ),
            (
                "/?max-keys=2&prefix=J",
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            ),
        ] {
            let authority = "examplebucket.s3.amazonaws.com";
            let signing = Signing {
                method: "GET",
                authority,
                headers: &[],
                body: Body::Digest(sha256(b"")),
                time: UnixSeconds(DAY),
            };
            let url = format!("https://{authority}");
            let credential = format!("{ID}:{SECRET}");
            let (headers, _) = signed(&of("s3"), &target(&url, asked), signing, &credential);
            let wanted = format!(
                "AWS4-HMAC-SHA256 Credential={ID}/20130524/us-east-1/s3/aws4_request, \
                 SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={signature}"
            );
            assert_eq!(header(&headers, "authorization"), wanted);
            assert_eq!(header(&headers, "x-amz-date"), "20130524T000000Z");
        }
    }

    /// What AWS's own crate makes of the same request.
    fn by_aws(sigv4: &SigV4, url: &str, signing: Signing<'_>, token: Option<&str>) -> String {
        let mut settings = SigningSettings::default();
        if sigv4.is_s3() {
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.payload_checksum_kind =
                aws_sigv4::http_request::PayloadChecksumKind::XAmzSha256;
        }
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let token = token.map(str::to_owned);
        let identity = Credentials::new(ID, SECRET, token, None, "test").into();
        let seconds = signing.time.0.unsigned_abs();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&sigv4.region)
            .name(&sigv4.service)
            .time(UNIX_EPOCH + Duration::from_secs(seconds))
            .settings(settings)
            .build()
            .unwrap()
            .into();
        let body = match signing.body {
            Body::Digest(digest) => SignableBody::Precomputed(digest.to_string()),
            Body::Unsigned(name) if name == UNSIGNED[0] => SignableBody::UnsignedPayload,
            Body::Unsigned(_) => SignableBody::StreamingUnsignedPayloadTrailer,
        };
        let values: Vec<(String, String)> = signing
            .headers
            .iter()
            .filter(|header| is_signed(&header.name))
            .map(|header| {
                (
                    header.name.clone(),
                    String::from_utf8_lossy(&header.value).into(),
                )
            })
            .chain([("host".to_owned(), signing.authority.to_owned())])
            .collect();
        let values = values
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let request = SignableRequest::new(signing.method, url, values, body).unwrap();
        let (instructions, _) = sign_by_aws(request, &params).unwrap().into_parts();
        let mut all = instructions.headers();
        let found = all.find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        found.unwrap().1.to_owned()
    }

    proptest::proptest! {
        #[test]
        fn awss_own_crate_signs_alike(
            segments in proptest::collection::vec("[a-zA-Z0-9 .!$&'()*+,;=:@~é_-]{1,8}", 1..4),
            query in proptest::collection::vec(("[a-zA-Z0-9 /!é~.=-]{1,6}", "[a-zA-Z0-9 /&%=é+]{0,6}"), 0..4),
            meta in "[a-zA-Z0-9,;:=/]{1,3}( {1,3}[a-zA-Z0-9]{1,3}){0,2}",
            service in proptest::sample::select(vec!["s3", "dynamodb"]),
            with_token: bool,
            unsigned in 0..3_usize,
            method in proptest::sample::select(vec!["GET", "PUT", "POST", "DELETE"]),
        ) {
            let encode = |text: &String| percent_encode(text.as_bytes(), &NOT_UNRESERVED).to_string();
            let path: Vec<String> = segments.iter().map(encode).collect();
            let pairs = query.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
            let query: Vec<String> = pairs.collect();
            let mark = if query.is_empty() { "" } else { "?" };
            let asked = format!("/{}{mark}{}", path.join("/").replace("%2E", "."), query.join("&"));
            let sigv4 = of(service);
            let came = headers(&[
                ("x-amz-meta-b", &meta),
                ("content-type", "text/plain"),
                ("x-amz-meta-a", "1"),
                ("user-agent", "boto"),
            ]);
            let body = match unsigned {
                0 => Body::Digest(sha256(meta.as_bytes())),
                n => Body::Unsigned(if sigv4.is_s3() { UNSIGNED[n - 1] } else { return Ok(()) }),
            };
            let signing = Signing {
                method,
                authority: "b.example",
                headers: &came,
                body,
                time: UnixSeconds(DAY + 4711),
            };
            let token = with_token.then_some("session-token/+=");
            let credential = match token {
                Some(token) => format!("{ID}:{SECRET}:{token}"),
                None => format!("{ID}:{SECRET}"),
            };
            // A path that has no one form is refused, and never signed.
            let upstream = Upstream::try_from("https://b.example/base".to_owned()).unwrap();
            let Ok(target) = Target::new(&upstream, &asked) else {
                return Ok(());
            };
            let (all, sent) = signed(&sigv4, &target, signing, &credential);
            let url = format!("https://b.example{sent}");
            proptest::prop_assert_eq!(header(&all, "authorization"), by_aws(&sigv4, &url, signing, token));
            proptest::prop_assert_eq!(header(&all, "x-amz-security-token"), token.unwrap_or_default());
            // What was signed is what is sent, and it says what was asked for.
            let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            let (path, _) = sent.split_once('?').unwrap_or((&sent, ""));
            proptest::prop_assert_eq!(decoded(path), format!("/base/{}", segments.join("/")));
        }
    }

    #[test]
    fn of_a_body_its_digest_is_signed_or_nothing() {
        let digest = sha256(b"x");
        let said = |value: &str| body_of(&headers(&[(PAYLOAD, value)]), None);
        assert_eq!(said(&digest.to_string()), Ok(Body::Digest(digest)));
        assert_eq!(said(UNSIGNED[0]), Ok(Body::Unsigned(UNSIGNED[0])));
        assert_eq!(said(UNSIGNED[1]), Ok(Body::Unsigned(UNSIGNED[1])));
        assert_eq!(body_of(&[], Some(digest)), Ok(Body::Digest(digest)));
        for wrong in [
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            "",
            "00",
        ] {
            assert_eq!(said(wrong).unwrap_err().code(), "header_invalid", "{wrong}");
        }
        assert!(body_of(&[], None).is_err());
        let twice = headers(&[(PAYLOAD, UNSIGNED[0]), (PAYLOAD, &digest.to_string())]);
        assert!(body_of(&twice, None).is_err());
    }

    #[test]
    fn what_a_request_does_beside_method_and_path_must_be_named() {
        let asked = |service: &str, method: &str, asked: &str, came: &[(&str, &str)]| {
            let target = target("https://b.example", asked);
            actions(&of(service), method, &target, &headers(came)).map_err(|error| error.code())
        };
        let listed = "/b?list-type=2&prefix=a%2F&encoding-type=url&x-id=ListObjectsV2";
        assert_eq!(asked("s3", "GET", listed, &[]), Ok(vec![]));
        let part = "/b/k?uploadId=1&partNumber=2";
        assert_eq!(asked("s3", "PUT", part, &[]), Ok(vec![]));
        for named in ["acl", "policy", "delete", "versionId", "tagging", "select"] {
            let target = format!("/b/k?{named}=1&prefix=x");
            assert_eq!(asked("s3", "PUT", &target, &[]), Ok(vec![named.into()]));
            let hidden = format!("/b/k?%{:02x}{}", named.as_bytes()[0], &named[1..]);
            assert_eq!(asked("s3", "PUT", &hidden, &[]), Ok(vec![named.into()]));
        }
        let kind = [("content-type", "Application/X-AMZ-JSON-1.0")];
        let got = asked("dynamodb", "POST", "/", &[kind[0], (TARGET, "A.B")]);
        assert_eq!(got, Ok(vec!["A.B".into()]));
        let got = asked("sts", "GET", "/?Action=AssumeRole&Version=2011-06-15", &[]);
        assert_eq!(got, Ok(vec!["AssumeRole".into()]));
        for form in [
            "application/x-www-form-urlencoded; charset=utf-8",
            "Application/X-WWW-Form-Urlencoded",
            " application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "",
        ] {
            let form = [("content-type", form), (TARGET, "A.B")];
            assert_eq!(asked("sts", "POST", "/", &form), Err("header_invalid"));
        }
        assert_eq!(asked("sts", "POST", "/", &[]), Err("header_invalid"));
        let form = [("content-type", "Multipart/Form-Data")];
        assert_eq!(asked("s3", "POST", "/b", &form), Err("header_invalid"));
        for named in [
            "x-amz-acl",
            "x-amz-grant-read",
            "x-amz-tagging",
            "x-amz-bypass-governance-retention",
            "x-amz-object-ownership",
            "x-amz-server-side-encryption-customer-key",
        ] {
            let got = asked("s3", "PUT", "/b/k", &[(named, "x")]);
            assert_eq!(got, Ok(vec![named.to_owned()]));
        }
        for (name, value) in [
            ("X_Amz_Acl", "private"),
            ("x-amz_target", "A.B"),
            ("content_type", "application/json"),
        ] {
            let got = asked("sts", "POST", "/", &[kind[0], (name, value)]);
            assert_eq!(got, Err("header_invalid"), "{name}");
            assert_eq!(
                asked("s3", "PUT", "/b", &[(name, value)]),
                Err("header_invalid")
            );
        }
        let plain = [
            ("x-amz-meta-a", "1"),
            ("x-amz-checksum-crc32", "x"),
            ("x-amz-sdk-checksum-algorithm", "CRC32"),
            ("x-amz-trailer", "x"),
        ];
        assert_eq!(asked("s3", "PUT", "/b/k", &plain), Ok(vec![]));
        for copy in [
            "x-amz-copy-source",
            "X_Amz-Copy_Source",
            "x-amz-copy-source-range",
        ] {
            let copy = [(copy, "/other/secret")];
            assert_eq!(asked("s3", "PUT", "/b/k", &copy), Err("header_invalid"));
        }
        for query in [
            "X-Amz-Signature=0",
            "x-amz-credential=a",
            "%58-Amz-Algorithm=1",
            "a=b+c",
        ] {
            let target = format!("/b/k?{query}");
            assert_eq!(
                asked("s3", "GET", &target, &[]),
                Err("path_not_canonical"),
                "{query}"
            );
        }
    }

    #[test]
    fn the_agents_own_signature_goes_no_further_and_ranges_do() {
        let place = Inject {
            sigv4: Some(of("s3")),
            ..Inject::default()
        };
        let came = headers(&[
            ("authorization", "AWS4-HMAC-SHA256 Credential=x"),
            (DATE, "20130524T000000Z"),
            (PAYLOAD, UNSIGNED[0]),
            (TOKEN, "t"),
            ("range", "bytes=0-9"),
            ("x-amz-meta-a", "1"),
        ]);
        let names = |inject: &Inject| {
            let sent = forwarded(&came, inject).unwrap();
            let names: Vec<String> = sent.into_iter().map(|header| header.name).collect();
            names
        };
        assert_eq!(names(&place), ["range", "x-amz-meta-a"]);
        for wrong in [
            "",
            "AKIA",
            "AKIA:short",
            ":12345678",
            "A KIA:12345678",
            "A:12345678:t",
        ] {
            assert!(Credential::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let looked_for = secrets(b"A:12345678:abcdefgh:i").unwrap();
        let looked_for: Vec<&[u8]> = looked_for.iter().map(|secret| &secret[..]).collect();
        assert_eq!(looked_for, [&b"12345678"[..], b"abcdefgh:i"]);
    }
}
