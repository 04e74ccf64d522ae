//! A request that is to be made with a credential, in the one form that is judged, recorded and
//! sent.

use identity::{Digest, cbor, sha256};

use crate::{Error, Header, Target};

const TAG: &str = "anchorhold/credential-use/v1";

/// Everything of a request but its body.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// Name of the service.
    pub service: &'a str,
    /// `GET`, and so on.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a Target,
    /// What is sent on of its headers.
    pub headers: &'a [Header],
    /// How long its body is, if that is known before.
    pub length: Option<u64>,
}

/// What is shown to an approver of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownBody<'a> {
    /// Its SHA-256.
    pub digest: Digest<32>,
    /// The body, if it is text and short.
    pub text: Option<&'a str>,
}

/// Headers that clients make anew for each try.
const OF_ONE_TRY: [&str; 7] = [
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "baggage",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-amzn-trace-id",
];

impl RequestHead<'_> {
    /// What an approver is shown, and signs: RFC 8785. `identity` is whose credential is used. Headers
    /// that clients make anew for each try do not stand in it, so that the same can be asked again.
    pub fn to_approve(&self, identity: &str, body: ShownBody<'_>) -> Result<String, Error> {
        let of_one_try = |name: &str| {
            OF_ONE_TRY.contains(&name) || name.starts_with("x-stainless-") || name == "x-request-id"
        };
        let headers: Vec<[String; 2]> = self
            .headers
            .iter()
            .filter(|header| !of_one_try(&header.name))
            .map(|header| {
                let value = String::from_utf8_lossy(&header.value).into_owned();
                [header.name.clone(), value]
            })
            .collect();
        let mut shown = serde_json::json!({
            "body": {"sha256": body.digest.to_string()},
            "headers": headers,
            "identity": identity,
            "intent": {"action": "credential.use", "target": self.service, "resource": self.target.resource()},
            "payload": {"method": self.method, "query": self.target.query()},
        });
        if let Some(text) = body.text {
            shown["body"]["text"] = text.into();
        }
        let odd = |_| Error::HeadersTooLong;
        let object = shown.as_object().expect("an object");
        let canonical = identity::json::canonical(object).map_err(odd)?;
        String::from_utf8(canonical).map_err(|_| Error::HeadersTooLong)
    }

    /// SHA-256 of the CBOR array `["anchorhold/credential-use/v1", service, method, URL, query or null,
    /// SHA-256 of the headers, length or null]`.
    pub fn digest(&self) -> Digest<32> {
        sha256(&cbor::to_vec(&(
            TAG,
            self.service,
            self.method,
            self.target.resource(),
            self.target.query(),
            header_digest(self.headers),
            self.length,
        )))
    }
}

/// SHA-256 of headers as they are sent, without the credential: the CBOR array of `[name, value]`.
pub fn header_digest(headers: &[Header]) -> Digest<32> {
    sha256(&cbor::to_vec(&headers))
}
