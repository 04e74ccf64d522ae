//! The labelled set: texts with something sensitive in them, and realistic ones without, made by rules
//! that know nothing of the recognisers. `cargo test -p anchorhold-inspect --test labelled --
//! --nocapture` prints what was found of each kind.
//!
//! It says how often what is written as people and programs write it is found. It does not say what
//! somebody can hide who wants to.

#![expect(clippy::print_stdout, reason = "what was found is for reading")]

use std::collections::BTreeMap;
use std::fmt::Write;

use inspect::{Kind, Kinds, Purpose, json, text};

/// A generator of numbers (SplitMix64), the same ones each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("less than a usize")
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    fn of(&mut self, letters: &str, length: usize) -> String {
        let letters = letters.as_bytes();
        (0..length)
            .map(|_| char::from(*self.one(letters)))
            .collect()
    }

    fn digits(&mut self, length: usize) -> String {
        self.of("0123456789", length)
    }
}

const ALPHANUMERIC: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
const HEX: &str = "0123456789abcdef";

/// With the check digit of ISO/IEC 7812-1 at its end.
fn checked(mut digits: String) -> String {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(at, digit)| {
            let digit = u32::from(digit - b'0');
            let counted = if at % 2 == 0 { digit * 2 } else { digit };
            if counted > 9 { counted - 9 } else { counted }
        })
        .sum();
    let _ = write!(digits, "{}", (10 - sum % 10) % 10);
    digits
}

fn card(random: &mut Random) -> String {
    let (begin, length) = *random.one(&[
        ("4", 16),
        ("51", 16),
        ("55", 16),
        ("2221", 16),
        ("2720", 16),
        ("34", 15),
        ("37", 15),
        ("6011", 16),
        ("65", 16),
        ("3528", 16),
        ("3589", 16),
        ("36", 14),
        ("305", 14),
        ("62", 16),
    ]);
    let rest = random.digits(length - begin.len() - 1);
    let number = checked(format!("{begin}{rest}"));
    let groups: &[usize] = match length {
        15 => &[4, 6, 5],
        14 => &[4, 6, 4],
        _ => &[4, 4, 4, 4],
    };
    let separator = *random.one(&["", " ", "-", "\u{a0}", "."]);
    let (mut parts, mut at) = (Vec::new(), 0);
    for group in groups {
        parts.push(&number[at..at + group]);
        at += group;
    }
    parts.join(separator)
}

fn iban(random: &mut Random) -> String {
    // Lengths and forms of the IBAN registry (SWIFT): country, bank's letters, digits.
    let (country, letters, digits) = *random.one(&[
        ("DE", 0, 18),
        ("FR", 0, 23),
        ("GB", 4, 14),
        ("NL", 4, 10),
        ("ES", 0, 20),
        ("CH", 0, 17),
        ("AT", 0, 16),
        ("BE", 0, 12),
        ("PL", 0, 24),
        ("IE", 4, 14),
    ]);
    let bank = random.of("ABCDEFGHIJKLMNOPQRSTUVWXYZ", letters);
    let account = format!("{bank}{}", random.digits(digits));
    // ISO 7064, mod 97-10.
    let moved = format!("{account}{country}00");
    let rest = moved.chars().fold(0_u32, |rest, char| {
        let value = char.to_digit(36).expect("a digit or a letter");
        if value > 9 {
            (rest * 100 + value) % 97
        } else {
            (rest * 10 + value) % 97
        }
    });
    let whole = format!("{country}{:02}{account}", 98 - rest);
    if random.below(2) == 0 {
        return whole;
    }
    let groups: Vec<&str> = (0..whole.len())
        .step_by(4)
        .map(|at| &whole[at..whole.len().min(at + 4)])
        .collect();
    groups.join(" ")
}

fn email(random: &mut Random) -> String {
    let (first, last) = (random.of(LOWER, 5), random.of(LOWER, 7));
    let local = match random.below(3) {
        0 => format!("{first}.{last}"),
        1 => format!("{first}+{last}"),
        _ => format!("{first}{}", random.digits(2)),
    };
    let host = *random.one(&[
        "mail.example",
        "example.com",
        "dept.example.co.uk",
        "x-y.example.org",
    ]);
    format!("{local}@{host}")
}

fn ssn(random: &mut Random) -> String {
    let (area, group, serial) = (
        random.below(898) + 1,
        random.below(99) + 1,
        random.below(9999) + 1,
    );
    format!("{area:03}-{group:02}-{serial:04}")
}

fn phone(random: &mut Random) -> String {
    match random.below(3) {
        0 => format!("+49 30 {}", random.digits(8)),
        1 => format!("+1 (212) 5{}-{}", random.digits(2), random.digits(4)),
        _ => format!("+44 20 7{} {}", random.digits(3), random.digits(4)),
    }
}

fn key(random: &mut Random) -> String {
    match random.below(9) {
        0 => format!("AKIA{}", random.of(UPPER, 16)),
        1 => format!("ghp_{}", random.of(ALPHANUMERIC, 36)),
        2 => format!("sk-proj-{}", random.of(ALPHANUMERIC, 48)),
        3 => format!("sk-ant-api03-{}", random.of(ALPHANUMERIC, 80)),
        4 => format!("xoxb-{}-{}", random.digits(11), random.of(ALPHANUMERIC, 24)),
        5 => format!("sk_live_{}", random.of(ALPHANUMERIC, 24)),
        6 => format!("glpat-{}", random.of(ALPHANUMERIC, 20)),
        7 => format!("AIza{}", random.of(ALPHANUMERIC, 35)),
        _ => format!("npm_{}", random.of(ALPHANUMERIC, 36)),
    }
}

/// Around a value, as requests of agents have it.
fn within(random: &mut Random, name: &str, value: &str) -> String {
    let quoted = serde_json::to_string(value).expect("a string");
    match random.below(7) {
        0 => format!("{{\"{name}\": {quoted}}}"),
        1 => format!("{{\"task\": \"pay\", \"with\": {{\"{name}\": {quoted}, \"n\": 2}}}}"),
        2 => format!(
            "[{{\"role\": \"user\", \"content\": \"please use {value} for this, thanks\"}}]"
        ),
        3 => format!("{{\"note\": \"it is {value}.\"}}"),
        4 => format!("Hello, my {name} is {value}, call it done"),
        5 => format!(
            "{{\"arguments\": {}}}",
            serde_json::to_string(&format!("{{\"{name}\": {quoted}}}")).expect("a string")
        ),
        _ => format!("line one\n{name}: {value}\nline three"),
    }
}

fn kinds(content: &str) -> Kinds {
    match json(content.as_bytes(), Purpose::Decide) {
        Ok(found) => found.kinds(),
        Err(_) => text(content, Purpose::Decide)
            .iter()
            .map(|found| found.kind)
            .collect(),
    }
}

const OF_EACH: usize = 2000;

type Maker = fn(&mut Random) -> String;

#[test]
fn of_what_is_sensitive_ninety_nine_of_a_hundred_are_found() {
    let mut random = Random(1);
    let sensitive: [(Kind, &str, Maker); 6] = [
        (Kind::CreditCard, "card", card),
        (Kind::Ssn, "ssn", ssn),
        (Kind::Email, "email", email),
        (Kind::Iban, "account", iban),
        (Kind::Phone, "phone", phone),
        (Kind::ApiKey, "api_key", key),
    ];
    let mut all = 0;
    for (kind, name, make) in sensitive {
        let mut missed = Vec::new();
        for _ in 0..OF_EACH {
            let value = make(&mut random);
            let content = within(&mut random, name, &value);
            if !kinds(&content).contains(kind) {
                missed.push(content);
            }
        }
        let found = OF_EACH - missed.len();
        println!(
            "{}: {found} of {OF_EACH} found; missed: {:?}",
            kind.name(),
            missed.first()
        );
        assert!(
            found * 100 >= OF_EACH * 99,
            "{}: {found} of {OF_EACH}, {missed:#?}",
            kind.name()
        );
        all += found;
    }
    println!("all: {all} of {}", OF_EACH * 6);
}

/// What requests are full of, and is nobody's secret.
fn harmless(random: &mut Random) -> (&'static str, String) {
    let time = 1_760_000_000 + random.below(60_000_000);
    match random.below(24) {
        0 => (
            "id",
            format!(
                "{}-{}-4{}-a{}-{}",
                random.of(HEX, 8),
                random.of(HEX, 4),
                random.of(HEX, 3),
                random.of(HEX, 3),
                random.of(HEX, 12)
            ),
        ),
        1 => ("sha256", random.of(HEX, 64)),
        2 => ("commit", random.of(HEX, 40)),
        3 => ("etag", random.of(HEX, 32)),
        4 => ("timestamp", time.to_string()),
        5 => ("timestamp_ms", format!("{time}{}", random.digits(3))),
        6 => ("timestamp_ns", format!("{time}{}", random.digits(9))),
        7 => ("message_id", format!("13{}", random.digits(17))), // a snowflake of these years
        8 => ("order_id", random.digits(10)),
        9 => (
            "order",
            format!(
                "1{:02}-{}-{}",
                random.below(99),
                random.digits(7),
                random.digits(7)
            ),
        ),
        10 => ("tracking", format!("1Z{}", random.of(UPPER, 16))),
        11 => ("transaction_id", random.digits(16)),
        12 => ("ean", format!("40{}", random.digits(11))),
        13 => ("imei", checked(format!("35{}", random.digits(12)))),
        14 => (
            "version",
            format!(
                "{}.{}.{}",
                random.below(20),
                random.below(99),
                random.below(2000)
            ),
        ),
        15 => (
            "price",
            format!("{}.{}", random.digits(4), random.digits(2)),
        ),
        16 => ("latitude", format!("52.{}", random.digits(14))),
        17 => (
            "ip",
            format!(
                "10.{}.{}.{}",
                random.below(256),
                random.below(256),
                random.below(256)
            ),
        ),
        18 => ("page_token", random.of(ALPHANUMERIC, 40)),
        19 => (
            "mac",
            (0..6)
                .map(|_| random.of(HEX, 2))
                .collect::<Vec<_>>()
                .join(":"),
        ),
        20 => (
            "date",
            format!(
                "2026-{:02}-{:02}T{:02}:{:02}:00Z",
                random.below(12) + 1,
                random.below(28) + 1,
                random.below(24),
                random.below(60)
            ),
        ),
        21 => (
            "isbn",
            format!("978-3-16-{}-{}", random.digits(6), random.digits(1)),
        ),
        22 => (
            "image",
            format!("data:image/png;base64,{}", random.of(ALPHANUMERIC, 200)),
        ),
        _ => (
            "url",
            format!(
                "https://example.org/{}/{}?v={}",
                random.of(LOWER, 6),
                random.digits(8),
                random.digits(3)
            ),
        ),
    }
}

#[test]
fn of_realistic_ids_one_of_a_thousand_at_most_is_taken_for_something() {
    let mut random = Random(2);
    let count = 40_000;
    let mut alarms = Vec::new();
    for _ in 0..count {
        let (name, value) = harmless(&mut random);
        let content = within(&mut random, name, &value);
        let found = kinds(&content);
        if !found.is_empty() {
            alarms.push((
                name,
                found.iter().map(Kind::name).collect::<Vec<_>>(),
                content,
            ));
        }
    }
    println!("{} of {count} taken for something", alarms.len());
    let mut by_kind = BTreeMap::new();
    for (name, found, content) in &alarms {
        by_kind
            .entry((name, found))
            .or_insert_with(Vec::new)
            .push(content);
    }
    for ((name, found), contents) in by_kind {
        println!(
            "  {name} as {found:?}: {}, such as {}",
            contents.len(),
            contents[0]
        );
    }
    assert!(alarms.len() * 1000 <= count, "{} of {count}", alarms.len());
}
