use super::*;

fn kinds(body: &str) -> Vec<Kind> {
    json(body.as_bytes(), Purpose::Decide)
        .unwrap()
        .kinds()
        .iter()
        .collect()
}

fn masked(body: &str, purpose: Purpose) -> String {
    let found = json(body.as_bytes(), purpose).unwrap();
    String::from_utf8(found.mask(body.as_bytes())).unwrap()
}

const CARD: &[Kind] = &[Kind::CreditCard];

/// Every place and spelling of a card number that a reader of the JSON would see.
#[test]
fn a_card_number_is_found_in_any_place_and_spelling() {
    for body in [
        r#""4532015112830366""#,
        "4532015112830366",
        r#"{"card": "4532015112830366"}"#,
        r#"{"q": "4532-0151-1283-0366"}"#,
        r#"{"q": "4532 0151 1283 0366"}"#,
        r#"{"q": "4532.0151.1283.0366"}"#,
        r#"{"q": "4532  0151  1283  0366"}"#,
        r#"{"q": "4532\u00a00151\u00a01283\u00a00366"}"#,
        r#"{"q": "4532\u200b0151\u200b1283\u200b0366"}"#,
        r#"{"q": "\u0034532015112830366"}"#,
        r#"{"q": "４５３２０１５１１２８３０３６６"}"#,
        r#"{"q": "٤٥٣٢٠١٥١١٢٨٣٠٣٦٦"}"#,
        r#"{"q": "4532–0151–1283–0366"}"#,
        r#"{"q": "4 5 3 2 0 1 5 1 1 2 8 3 0 3 6 6"}"#,
        r#"{"q": "3782 822463 10005"}"#,
        r#"{"q": "378282246310005"}"#,
        r#"{"q": "6205500000000000004"}"#,
        r#"{"q": "pay xx4532015112830366yy now"}"#,
        r#"{"q": "4532 0151 1283 0366 12/27 123"}"#,
        r#"{"q": "on 2026-11-24 4532 0151 1283 0366"}"#,
        r#"{"4532015112830366": true}"#,
        r#"{"a": {"b": [[{"4532-0151-1283-0366": null}]]}}"#,
        r#"{"n": 4532015112830366}"#,
        r#"{"n": 4532015112830366.0}"#,
        r#"{"n": 4.532015112830366e15}"#,
        r#"{"n": 45320151128303660E-1}"#,
        r#"{"n": -4532015112830366}"#,
        r#"[4532, 151, 1283, 366, "4532015112830366"]"#,
        r#"["4532", "0151", "1283", "0366"]"#,
        "[4,5,3,2,0,1,5,1,1,2,8,3,0,3,6,6]",
        r#"{"arguments": "{\"n\": \"\\u0034532015112830366\"}"}"#,
        r#"{"m": "{\"a\": \"{\\\"n\\\": 4532015112830366}\"}"}"#,
        r#"{"blob": "cGF5IHdpdGggNDUzMi0wMTUxLTEyODMtMDM2Ng=="}"#,
        r#"{"card": {"number": "6759649826438453"}}"#,
        r#"{"order_id": "the card 4532015112830366"}"#,
        r#"{"a": 1, "a": "4532015112830366"}"#,
    ] {
        assert_eq!(kinds(body), CARD, "{body}");
        let masked = masked(body, Purpose::Decide);
        assert!(masked.contains("[CREDIT_CARD_REDACTED]"), "{masked}");
        assert_eq!(kinds(&masked), [], "{masked}");
    }
}

#[test]
fn numbers_that_are_no_cards_are_left_alone() {
    for body in [
        r#"{"card": "1234-5678-9012-3456"}"#,
        r#"{"card": "4532-0151-1283-0367"}"#,
        r#"{"order_id": 4532015112830366}"#,
        r#"{"orderId": "4532015112830366"}"#,
        r#"{"n": 6759649826438453}"#,
        r#"{"t": 1763942400000000000}"#,
        r#"{"pi": 3.4532015112830366}"#,
        r#"{"sha": "aa4532015112830366aaaaaaaaaaaaaaaaaa"}"#,
        r#"{"q": "4532-0151.1283 0366"}"#,
        r#"{"v": "1.4532015112830366.2"}"#,
        r#"[4532, 151, 1283, 366, null]"#,
        r#"{"list": "1 2 3 4 5 6 7 8 9 10 11 12 13 14"}"#,
        r#"{"n": 4532015112830366.5}"#,
        r#"{"n": 4532015112830366e40}"#,
        r#"{"n": 4532015112830366e-400}"#,
        r#"{"uuid": "4532f151-1283-4366-8453-201511283036"}"#,
    ] {
        assert_eq!(kinds(body), [], "{body}");
    }
}

#[test]
fn the_other_kinds_are_found_and_what_looks_like_them_is_not() {
    for (body, kind) in [
        (r#"{"q": "my ssn is 123-45-6789."}"#, Kind::Ssn),
        (r#"{"q": "912-45-6789"}"#, Kind::Ssn),
        (r#"{"q": "123‑45‑6789"}"#, Kind::Ssn),
        (r#"{"ssn": 123456789}"#, Kind::Ssn),
        (r#"{"social_security": "123 45 6789"}"#, Kind::Ssn),
        (r#"{"to": "Ann <ann.lee+x@mail.example.com>"}"#, Kind::Email),
        (r#"{"to": "jörg@müller.example"}"#, Kind::Email),
        (r#"{"q": "DE89 3704 0044 0532 0130 00 thanks"}"#, Kind::Iban),
        (r#"{"q": "pay to gb82west12345698765432"}"#, Kind::Iban),
        (r#"{"q": "call +1 (212) 555-0123"}"#, Kind::Phone),
        (r#"{"phone": "212-555-0123"}"#, Kind::Phone),
        (r#"{"k": "AKIAABCDEFGHIJKLMNOP"}"#, Kind::ApiKey),
        (
            r#"{"client_secret": "q7Zt2Lw9Xc4Vb8Nm1Kd6Rf3H"}"#,
            Kind::ApiKey,
        ),
    ] {
        assert_eq!(kinds(body), [kind], "{body}");
        assert_eq!(kinds(&masked(body, Purpose::Decide)), [], "{body}");
    }
    for body in [
        r#"{"n": 123456789}"#,
        r#"{"isbn": "978-12-3456-789-7"}"#,
        r#"{"q": "693-09.4444"}"#,
        r#"{"ssn": "000456789"}"#,
        r#"{"q": "user@localhost and a@b"}"#,
        r#"{"q": "DE89 3704 0044 0532 0130 01"}"#,
        r#"{"q": "a+12125550123"}"#,
        r#"{"q": "212-555-0123"}"#,
        r#"{"next_page_token": "q7Zt2Lw9Xc4Vb8Nm1Kd6Rf3H"}"#,
        r#"{"id": "q7Zt2Lw9Xc4Vb8Nm1Kd6Rf3H"}"#,
        "null",
        "true",
        "[]",
        "{}",
        r#""""#,
    ] {
        assert_eq!(kinds(body), [], "{body}");
    }
}

#[test]
fn masking_changes_the_tokens_in_which_something_was_found_and_no_other_byte() {
    let body = "{ \"a\" : 1.50e+3,\t\"card\":4532015112830366 , \"b\":\"\\u00e9 x 123-45-6789\",\"k@l.example\": [] }\n";
    assert_eq!(
        masked(body, Purpose::Decide),
        "{ \"a\" : 1.50e+3,\t\"card\":\"[CREDIT_CARD_REDACTED]\" , \"b\":\"é x [SSN_REDACTED]\",\"[EMAIL_REDACTED]\": [] }\n"
    );
}

#[test]
fn of_two_that_overlap_nothing_is_left() {
    let (text, kinds) = mask_text("+1 (852) 555-012card@b.example", Purpose::Decide);
    assert_eq!(text, "[PHONE_REDACTED][EMAIL_REDACTED]");
    assert!(kinds.contains(Kind::Phone) && kinds.contains(Kind::Email));
}

/// What is one thing to one look is no cover for another.
#[test]
fn a_card_number_that_is_something_else_as_well_is_a_card_number() {
    for body in [
        r#"{"to": "4532015112830366@b.example"}"#,
        r#"{"to": "12-4532 0151 1283 0366 and a@b.example"}"#,
        r#"{"phone": "378282246310005"}"#,
        r#"{"q": "+378282246310005"}"#,
        r#"{"password": "cGF5IHdpdGggNDUzMi0wMTUxLTEyODMtMDM2Ng"}"#,
        r#"{"n": 4532015112830366.00000000000000000000000000000000000000000000000000000000000000000000}"#,
        r#"{"n": 0.000000000000000000000000000000000000000000000000000000000000000004532015112830366e81}"#,
    ] {
        assert!(kinds(body).contains(&Kind::CreditCard), "{body}");
        assert_eq!(kinds(&masked(body, Purpose::Decide)), [], "{body}");
    }
    assert!(kinds(r#"{"phone": "123-45-6789"}"#).contains(&Kind::Ssn));
    let (_, found) = mask_text("4532015112830366@b.example", Purpose::Decide);
    assert!(found.contains(Kind::CreditCard) && found.contains(Kind::Email));
}

/// Two megabytes each, made to be looked at again and again: this ends, or takes an hour.
#[test]
fn no_text_takes_much_longer_than_its_length() {
    for (part, after) in [
        ("AKIAABCDEFGHIJKLMNOP ", ""),
        ("4532015112830366a", ""),
        ("12-4532 ", "a@b.example"),
        ("eyJhbGciOiJFZERTQSJ9.", ""),
        ("1", ""),
        ("+1 ", ""),
    ] {
        let text = part.repeat(2_000_000 / part.len()) + after;
        let _ = mask_text(&text, Purpose::Log);
    }
}

#[test]
fn a_log_masks_what_only_looks_like_a_card_number() {
    let body = r#"{"q": "4532-1234-5678-9010 and 1234-5678-9012-3456"}"#;
    assert_eq!(kinds(body), []);
    assert_eq!(
        masked(body, Purpose::Log),
        r#"{"q": "[CREDIT_CARD_REDACTED] and [CREDIT_CARD_REDACTED]"}"#
    );
}

#[test]
fn what_is_no_json_is_an_error() {
    let deep = |depth| "[".repeat(depth) + &"]".repeat(depth);
    assert!(json(deep(MAX_DEPTH).as_bytes(), Purpose::Decide).is_ok());
    assert_eq!(
        json(deep(MAX_DEPTH + 1).as_bytes(), Purpose::Decide),
        Err(Error::TooDeep)
    );
    assert_eq!(
        json("[".repeat(1_000_000).as_bytes(), Purpose::Decide),
        Err(Error::TooDeep)
    );
    for bad in [
        &b""[..],
        b"{",
        b"[1,]",
        b"{\"a\"}",
        b"nul",
        b"1 2",
        b"\"\\ud800\"",
        b"\"\xff\"",
        b"\"a",
        b"{\"a\":NaN}",
        b"01",
    ] {
        assert!(
            matches!(json(bad, Purpose::Decide), Err(Error::NotJson { .. })),
            "{}",
            String::from_utf8_lossy(bad)
        );
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            ".{0,12}".prop_map(Into::into),
            "[0-9 @.+a-zA-Z-]{0,40}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map(".{0,8}", inner, 0..4)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        /// Any bytes at all: an error, or a result.
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,80}") {
            let _ = json(&bytes, Purpose::Decide);
            let _ = super::super::text(&text, Purpose::Log);
        }

        /// What is masked is JSON, of the same shape, in which nothing is found any more.
        #[test]
        fn what_is_masked_is_clean_json(value in value()) {
            let body = value.to_string();
            for purpose in [Purpose::Decide, Purpose::Log] {
                let found = json(body.as_bytes(), purpose).unwrap();
                let masked = found.mask(body.as_bytes());
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&masked).is_ok());
                let again = json(&masked, purpose).unwrap();
                prop_assert!(again.kinds().is_empty(), "{} {}", body, String::from_utf8_lossy(&masked));
                if found.kinds().is_empty() {
                    prop_assert_eq!(&masked, body.as_bytes());
                }
            }
        }

        /// A card number of four groups is found wherever it is put and however it is escaped.
        #[test]
        fn a_card_is_found_in_any_text(before in r"[^0-9\pC]{0,20}", after in r"[^0-9\pC]{0,20}", escaped in any::<bool>()) {
            let text = format!("{before} 4532-0151-1283-0366 {after}");
            let mut body = serde_json::json!([{"t": text}]).to_string();
            if escaped {
                body = body.replace('4', "\\u0034");
            }
            let found = json(body.as_bytes(), Purpose::Decide).unwrap();
            prop_assert!(found.kinds().contains(Kind::CreditCard), "{body}");
        }
    }
}

fn of(kinds: &[Kind]) -> Kinds {
    kinds.iter().copied().collect()
}

/// What is written of parts, and what was found.
fn streamed<T: AsRef<[u8]>>(framing: Framing, kinds: &[Kind], parts: &[T]) -> (String, Kinds) {
    let mut stream = Stream::new(framing, of(kinds), of(kinds), 100_000);
    let mut out = Vec::new();
    for part in parts {
        stream.push(part.as_ref(), &mut out).unwrap();
    }
    stream.finish(&mut out).unwrap();
    (String::from_utf8(out).unwrap(), stream.kinds())
}

const TEXT: &str = "Pay 4532 0151 1283 0366 or ４５３２-0151-1283-0366, write to Åsa@home.example.org. \
                    My SSN is 123-45-6789; DE89 3704 0044 0532 0130 00, call +49 30 1234567! Order 4532015112830366abcdef0123456789abcdef: \
                    password: q7Zt2Lw9Xc4Vb8Nm1Kd6Rf3H, AKIAABCDEFGHIJKLMNOP. 1.50 in 2024 is 12 345.";

#[test]
fn a_text_in_any_two_parts_is_masked_as_a_whole() {
    let (wanted, kinds) = mask_text(TEXT, Purpose::Decide);
    assert_eq!(kinds, of(&Kind::ALL));
    for at in 0..=TEXT.len() {
        let (first, second) = TEXT.as_bytes().split_at(at);
        let (masked, found) = streamed(Framing::Text, &Kind::ALL, &[first, second]);
        assert_eq!((masked.as_str(), found), (wanted.as_str(), kinds), "{at}");
    }
    let bytes: Vec<[u8; 1]> = TEXT.bytes().map(|byte| [byte]).collect();
    assert_eq!(streamed(Framing::Text, &Kind::ALL, &bytes).0, wanted);
    // What may be read as JSON is meant after its escapes.
    let json = r#" {"a": "\u0034532015112830366"}"#;
    let masked = r#" {"a": "[CREDIT_CARD_REDACTED]"}"#;
    assert_eq!(
        streamed(Framing::Text, CARD, &[&json[..9], &json[9..]]).0,
        masked
    );
    // Only what is wanted.
    let (masked, found) = streamed(Framing::Text, &[Kind::Ssn], &bytes);
    assert_eq!(masked, TEXT.replace("123-45-6789", "[SSN_REDACTED]"));
    assert_eq!(found, of(&[Kind::Ssn]));
}

#[test]
fn what_stands_beside_a_mask_is_masked_too() {
    // Maestro numbers count only where no more digits stand beside them.
    let text = "6759 6498 2643 8453 4532015112830366";
    let wanted = "[CREDIT_CARD_REDACTED] [CREDIT_CARD_REDACTED]";
    assert_eq!(mask_text(text, Purpose::Decide).0, wanted);
    for at in 0..text.len() {
        let (first, second) = text.split_at(at);
        let (masked, _) = streamed(Framing::Text, &Kind::ALL, &[first, second]);
        assert_eq!(masked, wanted, "{at}");
    }
}

#[test]
fn nothing_of_a_private_key_passes_however_long_it_is() {
    let line = "MHcCAQEEIIrYSSNQFaA2Hwf1duRSxKtLYX5CB04fSeQ6tF1aY9KL\n".repeat(230);
    let key = format!("a -----BEGIN EC PRIVATE KEY-----\n{line}-----END EC PRIVATE KEY-----\nb");
    for width in [10, 100, 5000] {
        let parts: Vec<&str> = (0..key.len())
            .step_by(width)
            .map(|at| &key[at..key.len().min(at + width)])
            .collect();
        for (framing, parts) in [
            (
                Framing::Text,
                parts
                    .iter()
                    .map(|part| (*part).to_owned())
                    .collect::<Vec<_>>(),
            ),
            (Framing::Events, events("openai", &parts)),
        ] {
            let (masked, found) = streamed(framing, &[Kind::ApiKey], &parts);
            assert_eq!(found, of(&[Kind::ApiKey]));
            assert!(
                masked.contains("[API_KEY_REDACTED]")
                    && (framing == Framing::Events
                        || masked.ends_with("]-----END EC PRIVATE KEY-----\nb")),
                "{width}"
            );
            assert!(
                !masked.contains("MHcC") && !masked.contains("tF1aY"),
                "{width} {framing:?}"
            );
        }
    }
}

/// What a caller or an agent can make long is not looked at again and again.
#[test]
fn no_event_takes_much_longer_than_its_length() {
    let time = |body: &str| {
        let begun = std::time::Instant::now();
        let mut stream = Stream::new(Framing::Lines, of(&Kind::ALL), of(&Kind::ALL), body.len());
        let _ = stream.push(body.as_bytes(), &mut Vec::new());
        let _ = stream.finish(&mut Vec::new());
        begun.elapsed().as_secs_f64()
    };
    let cards = |count: usize| "4532015112830366 ".repeat(count);
    let many = |count: usize| {
        format!(
            "{{\"choices\":[{}]}}",
            vec![r#"{"text":"a"}"#; count].join(",")
        )
    };
    type Form = Box<dyn Fn(usize) -> String>;
    let forms: [(&str, Form); 6] = [
        (
            "masks in arguments",
            Box::new(move |count| {
                format!(
                    r#"{{"choices":[{{"delta":{{"function_call":{{"arguments":"{}"}}}}}}]}}"#,
                    cards(count)
                )
            }),
        ),
        ("pieces in one event", Box::new(many)),
        (
            "events of many texts",
            Box::new(|count| {
                (0..count)
                    .map(|at| format!("{{\"index\":{},\"delta\":\"4532 \"}}\n", at % 200))
                    .collect()
            }),
        ),
        (
            "ends",
            Box::new(|count| "{\"delta\":\"4532 \",\"done\":true}\n".repeat(count)),
        ),
        (
            "addresses one in another",
            Box::new(|count| "a@b.cd".repeat(count)),
        ),
        (
            "long marks",
            Box::new(|count| {
                format!(
                    "{{\"choices\":[{}],\"index\":\"{}\"}}",
                    vec![r#"{"text":"a"}"#; 200].join(","),
                    "A".repeat(count * 20)
                )
            }),
        ),
    ];
    for (what, form) in forms {
        let (short, long) = (time(&form(500)), time(&form(8000)));
        // Sixteen times as long; a loop within a loop would take 256 times as long.
        assert!(long < short * 100.0 + 0.05, "{what}: {short} {long}");
    }
}

/// The events of each protocol, for the pieces of a text.
fn events(protocol: &str, pieces: &[&str]) -> Vec<String> {
    let event = |text: &str| match protocol {
        "openai" => {
            serde_json::json!({"id": "c", "choices": [{"index": 0, "delta": {"content": text}}]})
        }
        "responses" => {
            serde_json::json!({"type": "response.output_text.delta", "item_id": "m", "delta": text})
        }
        "anthropic" => {
            serde_json::json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": text}})
        }
        _ => {
            serde_json::json!({"jsonrpc": "2.0", "id": 1, "result": {"artifact": {"artifactId": "a", "parts": [{"kind": "text", "text": text}]}, "append": true}})
        }
    };
    pieces
        .iter()
        .map(|piece| format!("event: x\ndata: {}\n\n", event(piece)))
        .collect()
}

#[test]
fn a_text_that_is_spread_over_events_is_read_as_one() {
    for protocol in ["openai", "responses", "anthropic", "a2a"] {
        for pieces in [
            &["pay 4532 0151 1283 0366, and"][..],
            &["pay 4532", " 0151", " 1283", " 0366, and"],
            &["pay 4", "5", "32-0151-1283-036", "6, and"],
            &["pay ４５３２ 01", "51 1283 0366", ", ", "and"],
        ] {
            let sent = events(protocol, pieces);
            let (masked, found) = streamed(Framing::Events, &[Kind::CreditCard], &sent);
            assert_eq!(found, of(CARD), "{protocol} {pieces:?}");
            assert_eq!(
                masked.matches("[CREDIT_CARD_REDACTED]").count(),
                1,
                "{masked}"
            );
            let digit = |char: char| char.is_numeric() && char != '1' && char != '2' && char != '0';
            assert!(!masked.replace("\"2.0\"", "").contains(digit), "{masked}");
            assert_eq!(masked.matches("\n\n").count(), sent.len());
            assert!(
                masked.contains("pay ") && masked.contains("and"),
                "{masked}"
            );
            // Byte by byte, and with other ends of lines, it is the same.
            for ends in ["\n", "\r\n"] {
                let bytes: Vec<[u8; 1]> = sent
                    .concat()
                    .replace('\n', ends)
                    .bytes()
                    .map(|b| [b])
                    .collect();
                let again = streamed(Framing::Events, &[Kind::CreditCard], &bytes);
                assert_eq!(again.0.replace(ends, "\n"), masked, "{protocol}");
            }
        }
        // What holds nothing is the same bytes.
        let sent = events(protocol, &["in 2024 ", "there were 4532", " of them", ""]).concat();
        assert_eq!(streamed(Framing::Events, &Kind::ALL, &[&sent]).0, sent);
    }
}

#[test]
fn only_what_may_become_something_is_held_back() {
    let sent = events("openai", &["pay", " 4532", " 0151", " euros", " now"]);
    let mut stream = Stream::new(Framing::Events, of(CARD), of(CARD), 1000);
    let mut seen = Vec::new();
    for event in &sent {
        let mut out = Vec::new();
        stream.push(event.as_bytes(), &mut out).unwrap();
        seen.push(String::from_utf8(out).unwrap());
    }
    let late = sent[1..4].concat();
    assert_eq!(seen, [sent[0].as_str(), "", "", &late, &sent[4]]);
    // The end of its text lets it go, while the stream goes on; that of another text does not.
    for (end, is_held) in [
        (
            r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
            false,
        ),
        (
            r#"{"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}"#,
            true,
        ),
        ("[DONE]", false),
    ] {
        let mut stream = Stream::new(Framing::Events, of(CARD), of(CARD), 1000);
        let mut out = Vec::new();
        stream.push(sent[1].as_bytes(), &mut out).unwrap();
        assert!(out.is_empty());
        stream
            .push(format!("data: {end}\n\n").as_bytes(), &mut out)
            .unwrap();
        assert_eq!(out.is_empty(), is_held, "{end}");
    }
}

#[test]
fn texts_of_one_stream_do_not_mix() {
    let event = |index: u8, text: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":{index},\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
        )
    };
    let sent = [
        event(0, "4532 0151 "),
        event(1, "1111 "),
        event(0, "1283 0366"),
        event(1, "2222"),
    ];
    let (masked, found) = streamed(Framing::Events, CARD, &sent);
    assert_eq!(found, of(CARD));
    let wanted = [
        event(0, "[CREDIT_CARD_REDACTED]"),
        event(1, "1111 "),
        event(0, ""),
        event(1, "2222"),
    ];
    assert_eq!(masked, wanted.concat());
}

#[test]
fn the_arguments_of_a_call_are_masked_as_json() {
    let event = |text: &str| {
        let delta = serde_json::json!({"type": "input_json_delta", "partial_json": text});
        let event = serde_json::json!({"type": "content_block_delta", "index": 1, "delta": delta});
        format!("data: {event}\n\n")
    };
    for (pieces, wanted) in [
        (
            &["{\"n\": 45320151", "12830366, \"a\": 1}"][..],
            r#"{"n": "[CREDIT_CARD_REDACTED]", "a": 1}"#,
        ),
        (
            &["{\"n\": \"45320151", "12830366\"}"],
            r#"{"n": "[CREDIT_CARD_REDACTED]"}"#,
        ),
        (
            &["{\"n\": \"\\", "u0034532015112830366\"}"],
            r#"{"n": "[CREDIT_CARD_REDACTED]"}"#,
        ),
    ] {
        let sent: Vec<String> = pieces.iter().map(|piece| event(piece)).collect();
        let (masked, _) = streamed(Framing::Events, CARD, &sent);
        let data = masked
            .lines()
            .filter_map(|line| line.strip_prefix("data: "));
        let arguments: String = data
            .map(|data| {
                serde_json::from_str::<serde_json::Value>(data).unwrap()["delta"]["partial_json"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(arguments, wanted);
    }
}

#[test]
fn what_is_around_the_data_and_what_is_no_json_is_looked_through() {
    for (sent, wanted) in [
        (": 4532-0151-1283-0366\n\n", ": [CREDIT_CARD_REDACTED]\n\n"),
        (
            "id: 4532-0151-1283-0366\ndata: 1\n\n",
            "id: [CREDIT_CARD_REDACTED]\ndata: 1\n\n",
        ),
        (
            "data: 4532-0151\n\ndata: -1283-0366\n\n",
            "data: [CREDIT_CARD_REDACTED]\n\ndata: \n\n",
        ),
        (
            "data: {\"n\":\ndata: 4532015112830366}\n\n",
            "data: {\"n\":\ndata: \"[CREDIT_CARD_REDACTED]\"}\n\n",
        ),
        (
            "data: {\"a\": 1}\r\rdata: 4532-0151-1283-0366\r\r",
            "data: {\"a\": 1}\r\rdata: [CREDIT_CARD_REDACTED]\r\r",
        ),
        (
            "\n\n\u{feff}data:4532-0151-1283-0366",
            "\n\ndata: [CREDIT_CARD_REDACTED]",
        ),
        (
            "DATA : 4532-0151-1283-0366\n\n",
            "data: [CREDIT_CARD_REDACTED]\n\n",
        ),
    ] {
        assert_eq!(streamed(Framing::Events, CARD, &[sent]).0, wanted, "{sent}");
    }
    let lines = "{\"a\": 1}\r\n\n{\"card\": 4532015112830366}\nplain 4532-0151-1283-0366";
    let wanted =
        "{\"a\": 1}\r\n\n{\"card\": \"[CREDIT_CARD_REDACTED]\"}\nplain [CREDIT_CARD_REDACTED]";
    assert_eq!(streamed(Framing::Lines, CARD, &[lines]).0, wanted);
}

#[test]
fn a_part_that_cannot_be_looked_through_is_an_error() {
    let pushed = |framing, part: &[u8]| {
        let mut stream = Stream::new(framing, of(CARD), of(CARD), 100);
        let mut out = Vec::new();
        let pushed = stream.push(part, &mut out);
        (pushed.and_then(|()| stream.finish(&mut out)), out)
    };
    for (framing, part) in [
        (Framing::Text, &b"a\xff"[..]),
        (Framing::Text, b"a\xc3"),
        (Framing::Events, b"data: \xff\n\n"),
        (Framing::Events, b"data: {\"a\"\n\n"),
        (Framing::Lines, b"{\"a\": \"\\ud800\"}\n"),
        (Framing::Lines, "\u{feff}{\"a\": \"\\u0034\"}\n".as_bytes()),
        (Framing::Lines, &[b'a'; 101]),
        (Framing::Events, &[b'a'; 101]),
    ] {
        let (result, _) = pushed(framing, part);
        assert!(result.is_err(), "{framing:?} {part:?}");
    }
    assert!(pushed(Framing::Events, b"data: [DONE]\n\n").0.is_ok());
}

proptest::proptest! {
    /// However a text is cut, as much is found as in the whole; and what is written holds it no more.
    #[test]
    fn cuts_hide_nothing(
        parts in proptest::collection::vec("(4532|0151|1283|0366|123-45-6789|a@b\\.cd|[ -.@+x0-9]|é|\u{200b}|４){0,6}", 1..6)
    ) {
        let text = parts.concat();
        let whole = mask_text(&text, Purpose::Decide).1;
        let kinds = [Kind::CreditCard, Kind::Ssn, Kind::Email];
        let (masked, found) = streamed(Framing::Text, &kinds, &parts);
        proptest::prop_assert_eq!(whole.intersection(of(&kinds)), found);
        let (events, found) = streamed(Framing::Events, &kinds, &events("openai", &parts.iter().map(String::as_str).collect::<Vec<_>>()));
        // Each piece is looked at by itself, too.
        proptest::prop_assert_eq!(whole.intersection(of(&kinds)), whole.intersection(found), "{}", events);
        let again = mask_text(&masked, Purpose::Decide).1;
        proptest::prop_assert!(again.intersection(of(&[Kind::CreditCard, Kind::Ssn])).is_empty(), "{}", masked);
    }
}

/// Whether a group of digits is one of a UUID's, or a fraction's, or what a token is called, is known when
/// it is looked at, wherever a stream is cut.
#[test]
fn what_stands_around_a_number_is_known_in_a_stream_as_well() {
    let all: Kinds = Kind::ALL.into_iter().collect();
    let cards: Kinds = [Kind::CreditCard].into_iter().collect();
    let kinds = |watched: Kinds, parts: &[&str]| {
        let mut stream = Stream::new(Framing::Text, watched, watched, 1 << 20);
        let mut out = Vec::new();
        parts
            .iter()
            .for_each(|part| stream.push(part.as_bytes(), &mut out).unwrap());
        stream.finish(&mut out).unwrap();
        (stream.kinds(), out)
    };
    for (text, is_clean) in [
        ("it is 1afd5789-4121-4962-a1a8-22024546d9d4, so", true),
        ("it is 1afd5789-4121-4962-a1a8-22024546d9d4f, so", false),
        ("at 52.38822481388521 north", true),
        (
            "page_token: blgBhTv1tFNjvwdpbXyRA6wqCs4mXnRXZeo0uSVD, so",
            true,
        ),
        (
            "the token: blgBhTv1tFNjvwdpbXyRA6wqCs4mXnRXZeo0uSVD, so",
            false,
        ),
        ("order 125-3876793-6532134 is 1afd", true),
    ] {
        assert_eq!(kinds(all, &[text]).0.is_empty(), is_clean, "{text}");
        for watched in [all, cards] {
            let whole = kinds(watched, &[text]);
            for cut in 0..text.len() {
                let parts = kinds(watched, &[&text[..cut], &text[cut..]]);
                assert_eq!(parts, whole, "{text} at {cut}");
            }
        }
    }
}
