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

/// What is shown to an approver of the body: its digest, and the body itself if it is text and short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownBody<'a> {
    digest: Digest<32>,
    text: Option<&'a str>,
}

impl<'a> ShownBody<'a> {
    /// None if the text is not that of the digest: whoever showed it would have something else approved.
    pub fn new(digest: Digest<32>, text: Option<&'a str>) -> Option<Self> {
        let same = text.is_none_or(|text| sha256(text.as_bytes()) == digest);
        same.then_some(Self { digest, text })
    }
}

/// Headers that clients make anew for each try.
const OF_ONE_TRY: [&str; 7] = [
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-amzn-trace-id",
    "x-stainless-retry-count",
];

impl RequestHead<'_> {
    /// What an approver is shown, and signs: RFC 8785. `identity` is whose credential is used. Headers
    /// that clients make anew for each try do not stand in it, so that the same can be asked again.
    pub fn to_approve(
        &self,
        identity: &str,
        body: ShownBody<'_>,
        by_ingress: bool,
    ) -> Result<String, Error> {
        let shown = self.headers.iter();
        let shown = shown.filter(|header| !OF_ONE_TRY.contains(&header.name.as_str()));
        let headers: Result<Vec<[&str; 2]>, Error> = shown
            .map(|header| {
                let value = std::str::from_utf8(&header.value);
                let value = value.map_err(|_| {
                    let why = "an approver cannot be shown its value";
                    Error::HeaderInvalid(header.name.clone(), why)
                });
                Ok([header.name.as_str(), value?])
            })
            .collect();
        let mut shown = serde_json::json!({
            "body": {"sha256": body.digest.to_string()},
            "headers": headers?,
            "identity": identity,
            "intent": {"action": "credential.use", "target": self.service, "resource": self.target.resource()},
            "payload": {"method": self.method, "query": self.target.query()},
        });
        if let Some(text) = body.text {
            shown["body"]["text"] = text.into();
        }
        // What came unread by the host does not go by the other way.
        if by_ingress {
            shown["ingress"] = true.into();
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

#[cfg(test)]
mod tests {
    use policy::Upstream;

    use super::*;

    #[test]
    fn an_approver_sees_all_that_is_sent_but_what_clients_make_anew() {
        let upstream = Upstream::try_from("https://api.example/v1".to_owned()).unwrap();
        let target = Target::new(&upstream, "/pay?to=acme").unwrap();
        let shown = |headers: &[(&str, &str)], body: &str| {
            let header = |(name, value): &(&str, &str)| Header::new(name, value.as_bytes());
            let headers: Vec<Header> = headers.iter().map(header).collect();
            let head = RequestHead {
                service: "api",
                method: "POST",
                target: &target,
                headers: &headers,
                length: None,
            };
            let body = ShownBody::new(sha256(body.as_bytes()), Some(body)).unwrap();
            head.to_approve("crew", body, false).unwrap()
        };
        let first = shown(&[("x-dry-run", "true"), ("user-agent", "a")], "{}");
        assert_eq!(
            first,
            concat!(
                r#"{"body":{"sha256":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","text":"{}"},"#,
                r#""headers":[["x-dry-run","true"]],"identity":"crew","#,
                r#""intent":{"action":"credential.use","resource":"https://api.example/v1/pay","target":"api"},"#,
                r#""payload":{"method":"POST","query":"to=acme"}}"#
            )
        );
        let again = [
            ("user-agent", "b"),
            ("x-dry-run", "true"),
            ("x-stainless-retry-count", "1"),
        ];
        assert_eq!(shown(&again, "{}"), first);
        assert_ne!(shown(&[("x-dry-run", "false")], "{}"), first);
        assert_ne!(shown(&again, "{ }"), first);
        assert_eq!(ShownBody::new(sha256(b"{}"), Some("{ }")), None);
    }
}
