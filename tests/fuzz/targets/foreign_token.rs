#![no_main]

//! Bytes as a token of another issuer; and header, claims and what is wanted of it, one per line, of a
//! token that the key has really signed. What is taken says what any reader of JSON finds in it, holds
//! now, and is handed on narrower or as it is, never wider.

use fuzzing::{AT, KEY, sign_parts};
use identity::delegation::{Subject, is_within};
use identity::{PublicKey, sha256};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Seconds, as docs/SPECIFICATION.md says it.
const SKEW: i64 = 60;
const US: (&str, &str) = ("did:web:agent.example", "agent");

fuzz_target!(|data: &[u8]| {
    let keys = [KEY.public().clone()];
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Subject::unverified_issuer(text);
        assert!(Subject::verify(text, &[], AT).is_err());
        let _ = Subject::verify(text, &keys, AT);
    }
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let (Some(header), Some(claims)) = (lines.next(), lines.next()) else {
        return;
    };
    let token = sign_parts(header, claims);
    if let Ok(subject) = Subject::verify(&token, &keys, AT) {
        says(&subject, &token, claims);
        narrows(&subject, lines.next().unwrap_or_default());
    }
    // Its signature is over all of it.
    let mut other = token.into_bytes();
    other[data.len() % 8] ^= 1;
    let other = String::from_utf8(other).expect("text");
    assert!(Subject::verify(&other, &keys, AT).is_err());
});

fn says(subject: &Subject, token: &str, claims: &[u8]) {
    let claims: Value = serde_json::from_slice(claims).expect("it was read as JSON");
    let text = |name: &str| claims[name].as_str();
    assert_eq!(text("iss"), Some(&*subject.iss));
    assert_eq!(text("sub"), Some(&*subject.sub));
    assert_eq!(claims["exp"].as_i64(), Some(subject.exp));
    assert_eq!(Subject::unverified_issuer(token), Ok(subject.iss.clone()));
    assert!(AT.0 < subject.exp.saturating_add(SKEW));
    let begins = claims["nbf"].as_i64().or(claims["iat"].as_i64());
    assert!(begins.is_none_or(|begins| begins.saturating_sub(SKEW) <= AT.0));
    let audience = match &claims["aud"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    assert_eq!(subject.aud, audience);
    // Whoever is named in it can be revoked, and so can it.
    let digest = token
        .rsplit_once('.')
        .map(|(signed, _)| sha256(signed.as_bytes()));
    let mut entries: Vec<String> = subject.principals().map(str::to_owned).collect();
    entries.extend(subject.issuers().map(str::to_owned));
    entries.extend(subject.jti.clone());
    entries.extend(digest.map(|digest| digest.to_string()));
    assert!(entries.iter().all(|entry| subject.is_revoked_by(entry)));
    // Another implementation believes the signature, too, unless it takes offence at a member of the header
    // that is none of ours: a `jwk` that is no key, say.
    if decode_header(token).is_err() {
        return;
    }
    let PublicKey::Ed25519(key) = KEY.public() else {
        return;
    };
    let mut wanted = Validation::new(Algorithm::EdDSA);
    (wanted.validate_exp, wanted.validate_aud) = (false, false);
    wanted.required_spec_claims.clear();
    let read = decode::<Value>(token, &DecodingKey::from_ed_der(key.as_bytes()), &wanted);
    assert_eq!(read.map(|read| read.claims), Ok(claims));
}

fn narrows(subject: &Subject, wanted: &[u8]) {
    let Ok(wanted) = std::str::from_utf8(wanted) else {
        return;
    };
    let (scope, resource) = wanted.split_once('\n').unwrap_or((wanted, wanted));
    let own = subject.narrow_scope(None).expect("its own");
    if let Ok(narrow) = subject.narrow_scope(Some(scope)) {
        assert!(narrow.iter().all(|word| own.contains(word)));
        assert!(
            narrow
                .iter()
                .all(|word| scope.split(' ').any(|other| other == word))
        );
    }
    if let Ok(narrow) = subject.narrow_resource(Some(resource)) {
        assert_eq!(narrow, resource);
        assert!(is_within(&narrow, &subject.resource));
    }
    for max in 0..=5 {
        let Ok(act) = subject.act_by(US.0, US.1, max) else {
            continue;
        };
        assert!((1..=max).contains(&act.depth()));
        assert!(act.names(US.0) && act.names(US.1));
        let may = |name: &str| subject.aud.iter().any(|aud| aud == name);
        assert!(subject.aud.is_empty() || may(US.0) || may(US.1));
    }
}
