#![no_main]

//! Bytes as a request in the form that is shown, approved and hashed; and as header and claims, one per
//! line, of an approval and of a caller's proof that the key has really signed. Nothing is lost or added
//! on the way to the digest, so that two requests never share one.

use fuzzing::{AT, KEY, sign_parts};
use identity::request::{Approval, CallerProof, Exchange, Request};
use identity::{Intent, Payload, json, sha256};
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde_json::{Map, Value};

/// What its caller wrote.
#[derive(Deserialize)]
struct Written {
    audience: Option<String>,
    delegation: Option<String>,
    format: String,
    identity: String,
    intent: Intent,
    payload: Payload,
    validity_seconds: Option<u32>,
}

impl Written {
    fn request(&self) -> Request<'_> {
        Request {
            audience: self.audience.as_deref(),
            delegation: self.delegation.as_deref(),
            format: &self.format,
            identity: &self.identity,
            intent: &self.intent,
            payload: &self.payload,
            validity_seconds: self.validity_seconds,
        }
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(written) = json::parse_as::<Written>(data) {
        hashed(&written);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(Approval::verify(text, KEY.public()).is_err());
        let _ = CallerProof::unverified_kid(text);
    }
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    if let (Some(header), Some(claims)) = (lines.next(), lines.next()) {
        signed(header, claims);
    }
});

fn hashed(written: &Written) {
    let request = written.request();
    let (Ok(canonical), Ok(digest)) = (request.canonical(), request.digest()) else {
        return;
    };
    // One form, however the digest is made.
    assert_eq!(sha256(canonical.as_bytes()), digest);
    // Another reader finds in it what was written, and nothing else.
    let read: Map<String, Value> = serde_json::from_str(&canonical).expect("an object");
    let named = |name: &str| read.get(name).and_then(Value::as_str);
    assert_eq!(named("audience"), written.audience.as_deref());
    assert_eq!(named("delegation"), written.delegation.as_deref());
    assert_eq!(named("format"), Some(&*written.format));
    assert_eq!(named("identity"), Some(&*written.identity));
    let validity = read.get("validity_seconds").and_then(Value::as_u64);
    assert_eq!(validity, written.validity_seconds.map(u64::from));
    let intent = read["intent"].as_object().expect("an object");
    let of = |name: &str| intent.get(name).and_then(Value::as_str);
    assert_eq!(of("action"), Some(written.intent.action()));
    assert_eq!(of("target"), Some(written.intent.target()));
    assert_eq!(of("resource"), Some(written.intent.resource()));
    let delegatee = written.intent.delegatee();
    assert_eq!(of("delegatee"), delegatee.map(|did| did.as_str()));
    assert_eq!(intent.len(), 3 + usize::from(delegatee.is_some()));
    let payload = serde_json::to_value(&written.payload).expect("JSON");
    assert_eq!(read.get("payload"), Some(&payload));
    let left_out = [
        written.audience.is_none(),
        written.delegation.is_none(),
        written.validity_seconds.is_none(),
    ];
    let left_out = left_out.into_iter().filter(|out| *out).count();
    assert_eq!(read.len(), 7 - left_out);
    // An exchange of the same texts is another thing.
    let exchange = Exchange {
        audience: written.audience.as_deref(),
        identity: &written.identity,
        resource: None,
        scope: None,
        subject_token: written.delegation.as_deref().unwrap_or_default(),
    };
    assert_ne!(exchange.digest(), Ok(digest));
}

fn signed(header: &[u8], claims: &[u8]) {
    let jws = sign_parts(header, claims);
    let approval = Approval::verify(&jws, KEY.public());
    let proof = CallerProof::verify(&jws, KEY.public(), AT);
    // What is signed as the one is never the other.
    assert!(approval.is_err() || proof.is_err());
    if let Ok(approval) = approval {
        let again = approval.sign(&*KEY).expect("a signature");
        assert_eq!(
            Approval::verify(&again, KEY.public()).as_ref(),
            Ok(&approval)
        );
        let read: Value = serde_json::from_slice(claims).expect("JSON");
        assert_eq!(read, serde_json::to_value(&approval).expect("JSON"));
    }
    if let Ok(proof) = proof {
        assert!((AT.0..=AT.0 + 60).contains(&proof.exp));
        let again = proof.sign(&*KEY).expect("a signature");
        let verified = CallerProof::verify(&again, KEY.public(), AT);
        assert_eq!(verified.as_ref(), Ok(&proof));
        assert_eq!(
            CallerProof::unverified_kid(&jws),
            Ok(KEY.public().thumbprint())
        );
    }
}
