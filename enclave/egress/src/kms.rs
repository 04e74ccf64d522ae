//! Questions to KMS and its answers: JSON 1.1 over HTTP, with a Recipient.

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::BASE64;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::cms;
use crate::failure::is_printable;
use crate::wire::{Envelope, Failure, FailureKind, KmsAnswer, KmsCall, KmsOperation};

const MAX_HOST: usize = 255;
const MAX_AUTHORIZATION: usize = 2048;
const MAX_TOKEN: usize = 8192;
const MAX_BODY: usize = 32 * 1024;
const MAX_KEY_ID: usize = 2048;
const MAX_BLOB: usize = 6144;

/// Errors that ask to come again, whatever their status.
const PASSING: [&str; 14] = [
    "DependencyTimeoutException",
    "InternalFailure",
    "KMSInternalException",
    "KeyUnavailableException",
    "LimitExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
];

/// The request that a call becomes, head and body. Nothing of a call can become a header of its
/// own.
pub(crate) fn request(call: &KmsCall) -> Result<Vec<u8>, Failure> {
    check_call(call)?;
    let mut head = format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-amz-json-1.1\r\n\
         X-Amz-Target: {}\r\nX-Amz-Date: {}\r\nAuthorization: {}\r\n",
        call.host,
        call.operation.target(),
        call.amz_date,
        call.authorization,
    );
    if let Some(token) = &call.security_token {
        head += &format!("X-Amz-Security-Token: {token}\r\n");
    }
    head += &format!(
        "Content-Length: {}\r\nConnection: close\r\n\r\n",
        call.body.len()
    );
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&call.body);
    Ok(bytes)
}

fn check_call(call: &KmsCall) -> Result<(), Failure> {
    let is_token = |token: &String| is_header_value(token, MAX_TOKEN);
    if !is_host(&call.host) {
        Err(wrong("the host"))
    } else if !is_amz_date(&call.amz_date) {
        Err(wrong("X-Amz-Date"))
    } else if !is_header_value(&call.authorization, MAX_AUTHORIZATION) {
        Err(wrong("Authorization"))
    } else if !call.security_token.as_ref().is_none_or(is_token) {
        Err(wrong("X-Amz-Security-Token"))
    } else if call.body.len() > MAX_BODY {
        Err(wrong("the body"))
    } else {
        Ok(())
    }
}

/// The failure of a call that cannot be sent.
pub(crate) fn wrong(what: &str) -> Failure {
    Failure::malformed(format!("{what} of the call is not of its form"))
}

fn is_host(host: &str) -> bool {
    let is_one = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-');
    (1..=MAX_HOST).contains(&host.len()) && host.bytes().all(is_one)
}

/// Visible ASCII, with spaces inside only.
fn is_header_value(value: &str, most: usize) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_graphic);
    let bytes = value.as_bytes();
    bytes.len() <= most
        && value.chars().all(is_printable)
        && is_edge(bytes.first())
        && is_edge(bytes.last())
}

/// `YYYYMMDD'T'HHMMSS'Z'`.
fn is_amz_date(date: &str) -> bool {
    let is_in_place = |(place, byte): (usize, u8)| match place {
        8 => byte == b'T',
        15 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    date.len() == 16 && date.bytes().enumerate().all(is_in_place)
}

/// What KMS answered: the status and the body of an HTTP answer.
pub fn parse(operation: KmsOperation, status: u16, body: &[u8]) -> Result<KmsAnswer, Failure> {
    match status {
        200 => answer(operation, body),
        400..=599 => Err(refusal(status, body)),
        _ => Err(Failure::malformed(format!("HTTP status {status}"))),
    }
}

fn answer(operation: KmsOperation, body: &[u8]) -> Result<KmsAnswer, Failure> {
    let mut members = members(body)?;
    if has_plaintext(&members) {
        let words = "the answer has a plaintext: the recipient was not heeded";
        return Err(Failure::new(FailureKind::Plaintext, words));
    }
    let ciphertext_blob = members.contains_key("CiphertextBlob");
    let ciphertext_blob = ciphertext_blob
        .then(|| base64(&mut members, "CiphertextBlob"))
        .transpose()?;
    let recipient = base64(&mut members, "CiphertextForRecipient")?;
    let envelope = cms::envelope(&recipient);
    let answer = KmsAnswer {
        key_id: text(&mut members, "KeyId")?,
        ciphertext_blob,
        envelope: envelope.map_err(Failure::malformed)?,
    };
    check_answer(operation, &answer)?;
    Ok(answer)
}

/// Null and an empty text are none.
fn has_plaintext(members: &BTreeMap<String, Value>) -> bool {
    match members.get("Plaintext") {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    }
}

/// Holds an answer against the limits of [`KmsAnswer`], wherever it comes from.
pub(crate) fn check_answer(operation: KmsOperation, answer: &KmsAnswer) -> Result<(), Failure> {
    let Envelope {
        encrypted_key,
        iv,
        ciphertext,
    } = &answer.envelope;
    let is_key_id = (1..=MAX_KEY_ID).contains(&answer.key_id.len())
        && answer.key_id.bytes().all(|byte| byte.is_ascii_graphic());
    let is_blob = match (operation, &answer.ciphertext_blob) {
        (KmsOperation::GenerateDataKey, Some(blob)) => (1..=MAX_BLOB).contains(&blob.len()),
        (KmsOperation::Decrypt, None) => true,
        (KmsOperation::GenerateDataKey, None) | (KmsOperation::Decrypt, Some(_)) => false,
    };
    let is_envelope = encrypted_key.len() == cms::ENCRYPTED_KEY
        && iv.len() == cms::BLOCK
        && cms::is_ciphertext(ciphertext);
    if !is_key_id {
        Err(Failure::malformed("KeyId is not of its form"))
    } else if !is_blob {
        Err(Failure::malformed("CiphertextBlob is not of its form"))
    } else if !is_envelope {
        Err(Failure::malformed(
            "CiphertextForRecipient is not of its form",
        ))
    } else {
        Ok(())
    }
}

/// Of an answer that is an error.
fn refusal(status: u16, body: &[u8]) -> Failure {
    let comes_again = status == 429 || status >= 500;
    match error(body) {
        Ok((code, words)) if comes_again || PASSING.contains(&code.as_str()) => {
            Failure::new(FailureKind::Unavailable, described(&code, &words))
        }
        Ok((code, words)) => Failure::new(FailureKind::Refused, described(&code, &words)),
        Err(_) if comes_again => {
            Failure::new(FailureKind::Unavailable, format!("HTTP status {status}"))
        }
        Err(failure) => Failure::malformed(format!("HTTP status {status}, {}", failure.message)),
    }
}

fn described(code: &str, words: &str) -> String {
    if words.is_empty() {
        code.to_owned()
    } else {
        format!("{code}: {words}")
    }
}

/// Code and words of an error.
fn error(body: &[u8]) -> Result<(String, String), Failure> {
    let mut members = members(body)?;
    let code = text(&mut members, "__type")?;
    // It may stand behind the name of its service.
    let code = code.rsplit('#').next().unwrap_or_default().to_owned();
    if code.is_empty() || !code.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Failure::malformed("__type is not of its form"));
    }
    let words = ["message", "Message"].map(|name| text(&mut members, name).unwrap_or_default());
    Ok((
        code,
        words
            .into_iter()
            .find(|words| !words.is_empty())
            .unwrap_or_default(),
    ))
}

fn base64(members: &mut BTreeMap<String, Value>, name: &str) -> Result<Vec<u8>, Failure> {
    let text = text(members, name)?;
    let decoded = BASE64.decode(text.as_bytes());
    decoded.map_err(|_| Failure::malformed(format!("{name} is no base64")))
}

fn text(members: &mut BTreeMap<String, Value>, name: &str) -> Result<String, Failure> {
    match members.remove(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Failure::malformed(format!("{name} is no text"))),
        None => Err(Failure::malformed(format!("without {name}"))),
    }
}

fn members(body: &[u8]) -> Result<BTreeMap<String, Value>, Failure> {
    let members = serde_json::from_slice::<Members>(body);
    members
        .map(|members| members.0)
        .map_err(|error| Failure::malformed(format!("no JSON object: {error}")))
}

/// The members of a JSON object, each once. AWS adds new ones, so any name is taken.
struct Members(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;

        impl<'de> Visitor<'de> for Once {
            type Value = Members;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a member comes twice"));
                    }
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Once)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use KmsOperation::{Decrypt, GenerateDataKey};
    use proptest::prelude::*;

    fn call() -> KmsCall {
        KmsCall {
            time: 1_790_000_000,
            host: "kms.eu-central-1.amazonaws.com".into(),
            operation: GenerateDataKey,
            amz_date: "20260921T132640Z".into(),
            authorization: "AWS4-HMAC-SHA256 Credential=AKIA/20260921, Signature=00".into(),
            security_token: None,
            body: b"{\"KeyId\":\"x\"}".to_vec(),
            deadline_ms: 1000,
        }
    }

    /// A call with one thing changed.
    fn with(change: impl FnOnce(&mut KmsCall)) -> KmsCall {
        let mut call = call();
        change(&mut call);
        call
    }

    fn envelope() -> Vec<u8> {
        cms::tests::message(&cms::tests::Shape::default())
    }

    fn good(operation: KmsOperation) -> Vec<(&'static str, Value)> {
        let mut members = vec![
            ("KeyId", "arn:aws:kms:eu-central-1:1:key/2".into()),
            ("CiphertextForRecipient", BASE64.encode(&envelope()).into()),
        ];
        if operation == GenerateDataKey {
            members.push(("CiphertextBlob", BASE64.encode(&[7; 184]).into()));
        }
        members
    }

    fn json(members: &[(&str, Value)]) -> Vec<u8> {
        let members: Vec<_> = members
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        format!("{{{}}}", members.join(",")).into_bytes()
    }

    /// The good answer, but for one member.
    fn kind_with(operation: KmsOperation, name: &'static str, value: Value) -> Option<FailureKind> {
        let mut members = good(operation);
        members.retain(|member| member.0 != name);
        members.push((name, value));
        kind(operation, 200, &json(&members))
    }

    fn kind(operation: KmsOperation, status: u16, body: &[u8]) -> Option<FailureKind> {
        let failure = parse(operation, status, body).err()?;
        assert!(failure.message.len() <= 256 && failure.message.chars().all(is_printable));
        Some(failure.kind)
    }

    #[test]
    fn a_request_is_these_bytes() {
        let with_token = with(|call| call.security_token = Some("token==".into()));
        let expected = "POST / HTTP/1.1\r\n\
            Host: kms.eu-central-1.amazonaws.com\r\n\
            Content-Type: application/x-amz-json-1.1\r\n\
            X-Amz-Target: TrentService.GenerateDataKey\r\n\
            X-Amz-Date: 20260921T132640Z\r\n\
            Authorization: AWS4-HMAC-SHA256 Credential=AKIA/20260921, Signature=00\r\n\
            X-Amz-Security-Token: token==\r\n\
            Content-Length: 13\r\nConnection: close\r\n\r\n{\"KeyId\":\"x\"}";
        assert_eq!(request(&with_token).unwrap(), expected.as_bytes());
        let without = expected.replace("X-Amz-Security-Token: token==\r\n", "");
        assert_eq!(request(&call()).unwrap(), without.as_bytes());
        let decrypt = with(|call| call.operation = Decrypt);
        let decrypt = String::from_utf8(request(&decrypt).unwrap()).unwrap();
        assert!(decrypt.contains("X-Amz-Target: TrentService.Decrypt\r\n"));
    }

    #[test]
    fn no_value_of_a_call_can_add_a_header() {
        for bad in [
            "", " a", "a ", "a\r\nb", "a\nb", "a\rb", "a\0b", "a\tb", "\u{e9}", "a\u{7f}",
        ] {
            for call in [
                with(|call| call.authorization = bad.into()),
                with(|call| call.security_token = Some(bad.into())),
                with(|call| call.amz_date = bad.into()),
                with(|call| call.host = bad.into()),
            ] {
                let failure = request(&call).unwrap_err();
                assert_eq!(failure.kind, FailureKind::Malformed, "{bad:?}");
            }
        }
    }

    #[test]
    fn values_of_a_call_have_lengths_and_forms() {
        type Set = fn(&mut KmsCall, usize);
        let lengths: [(usize, Set); 4] = [
            (2048, |call, n| call.authorization = "a".repeat(n)),
            (8192, |call, n| call.security_token = Some("a".repeat(n))),
            (255, |call, n| call.host = "a".repeat(n)),
            (32 * 1024, |call, n| call.body = vec![0; n]),
        ];
        for (most, set) in lengths {
            assert!(request(&with(|call| set(call, most))).is_ok(), "{most}");
            assert!(
                request(&with(|call| set(call, most + 1))).is_err(),
                "{most}"
            );
        }
        for host in ["A.com", "a b", "a/b", "a:443", "a_b", "a@b"] {
            assert!(request(&with(|call| call.host = host.into())).is_err());
        }
        for date in [
            "20260921T132640",
            "20260921T132640ZZ",
            "20260921t132640Z",
            "2026092TT132640Z",
            "20260921T132640z",
            "2026-921T132640Z",
        ] {
            assert!(request(&with(|call| call.amz_date = date.into())).is_err());
        }
    }

    #[test]
    fn good_answers_are_taken() {
        let answer = parse(GenerateDataKey, 200, &json(&good(GenerateDataKey))).unwrap();
        assert_eq!(answer.key_id, "arn:aws:kms:eu-central-1:1:key/2");
        assert_eq!(answer.ciphertext_blob, Some(vec![7; 184]));
        assert_eq!(answer.envelope.encrypted_key.len(), 256);
        let answer = parse(Decrypt, 200, &json(&good(Decrypt))).unwrap();
        assert_eq!(answer.ciphertext_blob, None);
    }

    #[test]
    fn new_members_are_ignored_and_repeated_ones_are_not() {
        for value in [Value::Null, 1.5.into(), serde_json::json!({"a": [1, {}]})] {
            assert_eq!(kind_with(Decrypt, "KeyMaterialId", value), None);
        }
        for name in ["KeyId", "CiphertextForRecipient", "New"] {
            let mut members = good(Decrypt);
            members.push(("New", "a".into()));
            members.push((name, "a".into()));
            let twice = json(&members);
            assert_eq!(kind(Decrypt, 200, &twice), Some(FailureKind::Malformed));
        }
        // The same name, written otherwise.
        let mut members = good(Decrypt);
        members.push(("\\u004beyId", "a".into()));
        let twice = json(&members);
        assert_eq!(kind(Decrypt, 200, &twice), Some(FailureKind::Malformed));
    }

    #[test]
    fn a_plaintext_is_an_answer_of_its_own_kind() {
        for none in [Value::Null, "".into()] {
            assert_eq!(kind_with(Decrypt, "Plaintext", none), None);
        }
        for some in ["AAAA".into(), " ".into(), 0.into(), false.into()] {
            let kind = kind_with(Decrypt, "Plaintext", some);
            assert_eq!(kind, Some(FailureKind::Plaintext));
        }
        // Who does not know of recipients leaves theirs out.
        let body = br#"{"KeyId":"a","Plaintext":"AAAA","CiphertextBlob":"AAAA"}"#;
        let kind = kind(GenerateDataKey, 200, body);
        assert_eq!(kind, Some(FailureKind::Plaintext));
    }

    #[test]
    fn members_have_types_lengths_and_forms() {
        let malformed = Some(FailureKind::Malformed);
        for value in [
            Value::Null,
            1.into(),
            "".into(),
            "a b".into(),
            "\u{e9}".into(),
        ] {
            assert_eq!(kind_with(Decrypt, "KeyId", value), malformed);
        }
        assert_eq!(kind_with(Decrypt, "KeyId", "a".repeat(2048).into()), None);
        assert_eq!(
            kind_with(Decrypt, "KeyId", "a".repeat(2049).into()),
            malformed
        );

        let blob = |length| BASE64.encode(&vec![1; length]).into();
        assert_eq!(
            kind_with(GenerateDataKey, "CiphertextBlob", blob(6144)),
            None
        );
        for value in [
            blob(6145),
            "".into(),
            "AA".into(),
            "AAB=".into(),
            Value::Null,
            1.into(),
        ] {
            let kind = kind_with(GenerateDataKey, "CiphertextBlob", value);
            assert_eq!(kind, malformed);
        }
        assert_eq!(kind_with(Decrypt, "CiphertextBlob", blob(16)), malformed);
        let without = json(&good(Decrypt));
        assert_eq!(kind(GenerateDataKey, 200, &without), malformed);

        for value in [blob(493), "".into(), Value::Null] {
            let kind = kind_with(Decrypt, "CiphertextForRecipient", value);
            assert_eq!(kind, malformed);
        }
        for body in [
            &b""[..],
            b"[]",
            b"null",
            b"{} {}",
            b"\xff",
            b"{\"KeyId\":\"a\"}",
        ] {
            assert_eq!(kind(Decrypt, 200, body), malformed);
        }
    }

    #[test]
    fn a_good_answer_that_is_cut_is_malformed() {
        let body = json(&good(GenerateDataKey));
        for cut in 0..body.len() {
            let kind = kind(GenerateDataKey, 200, &body[..cut]);
            assert_eq!(kind, Some(FailureKind::Malformed), "cut at {cut}");
        }
    }

    fn failure(status: u16, body: &str) -> (FailureKind, String) {
        let failure = parse(Decrypt, status, body.as_bytes()).unwrap_err();
        (failure.kind, failure.message)
    }

    #[test]
    fn a_refusal_begins_with_its_code() {
        for body in [
            r#"{"__type":"AccessDeniedException","Message":"no"}"#,
            r#"{"__type":"AccessDeniedException","message":"no"}"#,
            r#"{"__type":"com.amazonaws.kms#AccessDeniedException","message":"no","x":[]}"#,
        ] {
            let expected = (FailureKind::Refused, "AccessDeniedException: no".into());
            assert_eq!(failure(400, body), expected);
        }
        let expected = (FailureKind::Refused, "NotFoundException".into());
        assert_eq!(failure(499, r#"{"__type":"NotFoundException"}"#), expected);
        let evil =
            r#"{"__type":"A","message":"\u001b[31m\r\n"#.to_owned() + &"x".repeat(999) + "\"}";
        let (kind, message) = failure(400, &evil);
        assert_eq!((kind, message.len()), (FailureKind::Refused, 256));
        assert!(message.starts_with("A: ?[31m??xx"));
    }

    #[test]
    fn what_passes_is_unavailable() {
        for code in PASSING {
            let (kind, message) = failure(400, &format!(r#"{{"__type":"a#{code}"}}"#));
            assert_eq!((kind, message.as_str()), (FailureKind::Unavailable, code));
        }
        for status in [429, 500, 503, 599] {
            for body in ["", "<html>", r#"{"__type":"AccessDeniedException"}"#] {
                assert_eq!(failure(status, body).0, FailureKind::Unavailable);
            }
        }
        assert_eq!(failure(503, "<html>").1, "HTTP status 503");
    }

    #[test]
    fn errors_without_a_code_are_malformed() {
        for body in [
            "",
            "{}",
            "<html>",
            r#"{"__type":1}"#,
            r#"{"__type":""}"#,
            r#"{"__type":"a#"}"#,
            r#"{"__type":"a b"}"#,
            r#"{"__type":"a","__type":"b"}"#,
        ] {
            assert_eq!(failure(403, body).0, FailureKind::Malformed, "{body}");
        }
    }

    #[test]
    fn other_statuses_are_malformed() {
        let good = String::from_utf8(json(&good(Decrypt))).unwrap();
        for status in [0, 100, 101, 199, 201, 204, 206, 301, 304, 399, 600, 999] {
            for body in [&good, r#"{"__type":"AccessDeniedException"}"#] {
                assert_eq!(failure(status, body).0, FailureKind::Malformed, "{status}");
            }
        }
    }

    proptest! {
        #[test]
        fn garbage_does_not_panic(status: u16, body: Vec<u8>, text in "\\PC{0,64}") {
            let _ = parse(Decrypt, status, &body);
            let text = serde_json::to_string(&text).unwrap();
            for name in ["KeyId", "__type", "CiphertextForRecipient"] {
                let _ = parse(Decrypt, 200, format!("{{\"{name}\":{text}}}").as_bytes());
                let _ = kind(Decrypt, 400, format!("{{\"{name}\":{text}}}").as_bytes());
            }
        }

        #[test]
        fn a_flipped_bit_does_not_panic(at in 0_usize..4000) {
            let mut body = json(&good(GenerateDataKey));
            let at = at % (body.len() * 8);
            body[at / 8] ^= 1 << (at % 8);
            let _ = parse(GenerateDataKey, 200, &body);
        }
    }
}
