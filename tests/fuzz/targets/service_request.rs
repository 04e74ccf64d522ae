#![no_main]

//! Bytes as what an agent asks of a service: a path and a query, and lines with a header each. What is
//! judged is what the URL standard makes of it, and what is sent on is no header that frames, names a
//! host or says who asks.

use broker::{
    Body, Envelope, Header, Order, Signing, Target, actions, forwarded, inject, take_placeholder,
};
use libfuzzer_sys::fuzz_target;
use policy::{Inject, SigV4, Upstream};
use url::Url;

const SECRET: &[u8] = b"sk-live/0123+456789";
const ENCODED: &str = "sk-live%2F0123%2B456789";

fn place(query: Option<&str>, path: Option<&str>) -> Inject {
    Inject {
        query: query.map(str::to_owned),
        path: path.map(str::to_owned),
        ..Inject::default()
    }
}

fn request(asked: &str) {
    let upstream = Upstream::try_from("https://api.example:8443/v1".to_owned()).expect("a URL");
    if let Ok(target) = Target::new(&upstream, asked) {
        let whole = match target.query() {
            Some(query) => format!("{}?{query}", target.resource()),
            None => target.resource().to_owned(),
        };
        let url = Url::parse(&whole).expect("a URL");
        assert_eq!(
            &url[url::Position::BeforeScheme..url::Position::AfterPath],
            target.resource()
        );
        assert_eq!(
            (url.host_str(), url.port()),
            (Some("api.example"), Some(8443))
        );
        assert!(url.path().starts_with("/v1/") && url.fragment().is_none());
        assert_eq!(
            target.resource(),
            format!("https://api.example:8443/v1{}", target.rule_path())
        );
    }
    for (inject_at, is_query) in [
        (place(Some("key"), None), true),
        (place(None, Some("/bot{}")), false),
    ] {
        let Ok(shown) = take_placeholder(&inject_at, asked) else {
            continue;
        };
        let Ok(target) = Target::new(&upstream, &shown.asked) else {
            continue;
        };
        // What was taken out is not there any more.
        let sent = inject(&inject_at, &target, None, SECRET)
            .expect("its place is free")
            .target;
        let url = Url::parse(&format!("https://api.example{}", *sent)).expect("a URL");
        if is_query {
            let ours = url.query_pairs().filter(|(name, _)| name == "key");
            let values: Vec<_> = ours.map(|(_, value)| value.into_owned()).collect();
            assert_eq!(values, [str::from_utf8(SECRET).expect("text")]);
        } else {
            assert!(url.path().starts_with(&format!("/v1/bot{ENCODED}/")));
        }
    }
}

/// Signed for AWS, it is still what was asked for, and in one form.
fn signed(asked: &str) {
    let upstream = Upstream::try_from("https://s3.example/base".to_owned()).expect("a URL");
    let Ok(target) = Target::new(&upstream, asked) else {
        return;
    };
    let sigv4 = SigV4 {
        region: "us-east-1".into(),
        service: "s3".into(),
    };
    let signing = Signing {
        method: "GET",
        authority: "s3.example",
        headers: &[],
        body: Body::Digest(identity::sha256(b"")),
        time: identity::UnixSeconds(1_369_353_600),
    };
    let allowed = actions(&sigv4, "GET", &target, &[]);
    let place = Inject {
        sigv4: Some(sigv4),
        ..Inject::default()
    };
    let Ok(sent) = inject(&place, &target, Some(signing), b"AKIA:12345678") else {
        return;
    };
    let read = |url: &str| {
        let url = Url::parse(url).expect("a URL");
        let pairs = url
            .query_pairs()
            .filter(|pair| !(pair.0.is_empty() && pair.1.is_empty()));
        let mut pairs: Vec<(String, String)> = pairs
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        pairs.sort();
        pairs
    };
    let query = target.query().unwrap_or_default();
    let pairs = read(&format!("https://s3.example/?{query}"));
    assert_eq!(read(&format!("https://s3.example{}", *sent.target)), pairs);
    let path = sent.target.split('?').next().unwrap_or_default();
    assert_eq!(
        Target::new(&upstream, &path["/base".len()..])
            .expect("a path")
            .resource(),
        target.resource()
    );
    // Nothing that a rule does not know hides in a spelling.
    let named = |name: &str| pairs.iter().any(|(own, _)| own == name);
    if let Ok(actions) = allowed {
        assert!(
            !pairs
                .iter()
                .any(|(own, _)| own.to_ascii_lowercase().starts_with("x-amz-"))
        );
        for known in ["acl", "delete", "policy", "versionId"] {
            assert_eq!(named(known), actions.iter().any(|action| action == known));
        }
    }
}

fn headers(lines: &[u8]) {
    let all: Vec<Header> = lines
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some(Header::new(
                str::from_utf8(&line[..colon]).ok()?,
                &line[colon + 1..],
            ))
        })
        .collect();
    let token = Inject {
        header: Some("x-token".into()),
        ..Inject::default()
    };
    for header in forwarded(&all, &token).unwrap_or_default() {
        let read = header.name.replace('_', "-");
        for never in [
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "authorization",
            "x-token",
            "cookie",
        ] {
            assert_ne!(read, never);
        }
        assert!(!header.value.iter().any(|byte| b"\r\n\0".contains(byte)));
        assert!(http::HeaderName::from_bytes(header.name.as_bytes()).is_ok());
        assert!(http::HeaderValue::from_bytes(&header.value).is_ok());
    }
}

fuzz_target!(|data: &[u8]| {
    let _ = Envelope::parse(data);
    let _ = Order::unverified(data);
    let (first, rest) = data.split_at(
        data.iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(data.len()),
    );
    if let Ok(asked) = str::from_utf8(first) {
        request(asked);
        signed(asked);
    }
    headers(rest);
});
