//! API keys, tokens and private keys: by their issuers' prefixes, and by entropy beside a key word.

use std::ops::Range;
use std::sync::LazyLock;

use data_encoding::BASE64URL_NOPAD;

use crate::run::run_back;
use crate::words::Words;

/// What follows a prefix.
#[derive(Clone, Copy)]
enum Rest {
    /// So many characters of the set, and no more.
    Exactly(usize, Set),
    /// So many or more.
    AtLeast(usize, Set),
    /// Parts of these lengths, with dots between.
    Parts(usize, usize),
    /// The header and the payload of a JWT, and its signature.
    Jwt,
    /// A private key in PEM, to its end.
    Pem,
}

#[derive(Clone, Copy)]
enum Set {
    /// `[A-Z0-9]`
    Upper,
    /// `[A-Za-z0-9]`
    Alphanumeric,
    /// `[A-Za-z0-9_-]`
    Url,
    /// `[A-Za-z0-9+/=]`
    Base64,
}

impl Set {
    fn contains(self, byte: u8) -> bool {
        match self {
            Self::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Self::Alphanumeric => byte.is_ascii_alphanumeric(),
            Self::Url => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'),
            Self::Base64 => byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='),
        }
    }
}

/// How a key in PEM begins and ends (RFC 7468 section 2), and where its label ends at the latest.
const PEM: &[u8] = b"-----BEGIN ";
const PRIVATE_KEY: &[u8] = b"PRIVATE KEY-----";
pub(crate) const PEM_END: &[u8] = b"-----END ";
const PEM_LABEL: usize = 40;

/// A longer word is no key.
const MAX_WORD: usize = 8192;

/// As issuers document them.
const PREFIXES: [(&str, Rest); 32] = [
    ("AKIA", Rest::Exactly(16, Set::Upper)), // AWS
    ("ASIA", Rest::Exactly(16, Set::Upper)),
    ("ABIA", Rest::Exactly(16, Set::Upper)),
    ("ACCA", Rest::Exactly(16, Set::Upper)),
    ("ghp_", Rest::AtLeast(36, Set::Alphanumeric)), // GitHub
    ("gho_", Rest::AtLeast(36, Set::Alphanumeric)),
    ("ghu_", Rest::AtLeast(36, Set::Alphanumeric)),
    ("ghs_", Rest::AtLeast(36, Set::Alphanumeric)),
    ("ghr_", Rest::AtLeast(36, Set::Alphanumeric)),
    ("github_pat_", Rest::AtLeast(70, Set::Url)),
    ("glpat-", Rest::AtLeast(20, Set::Url)), // GitLab
    ("xoxa-", Rest::AtLeast(10, Set::Url)),  // Slack
    ("xoxb-", Rest::AtLeast(10, Set::Url)),
    ("xoxo-", Rest::AtLeast(10, Set::Url)),
    ("xoxp-", Rest::AtLeast(10, Set::Url)),
    ("xoxr-", Rest::AtLeast(10, Set::Url)),
    ("xoxs-", Rest::AtLeast(10, Set::Url)),
    ("sk-", Rest::AtLeast(32, Set::Url)), // OpenAI, Anthropic, OpenRouter
    ("sk_live_", Rest::AtLeast(16, Set::Alphanumeric)), // Stripe
    ("sk_test_", Rest::AtLeast(16, Set::Alphanumeric)),
    ("rk_live_", Rest::AtLeast(16, Set::Alphanumeric)),
    ("whsec_", Rest::AtLeast(32, Set::Base64)),
    ("SG.", Rest::Parts(22, 43)), // SendGrid
    ("npm_", Rest::Exactly(36, Set::Alphanumeric)),
    ("pypi-AgEI", Rest::AtLeast(50, Set::Url)),
    ("AccountKey=", Rest::AtLeast(86, Set::Base64)), // Azure Storage
    ("AIza", Rest::Exactly(35, Set::Url)),           // Google
    ("ya29.", Rest::AtLeast(20, Set::Url)),
    ("hf_", Rest::Exactly(34, Set::Alphanumeric)), // Hugging Face
    ("dop_v1_", Rest::Exactly(64, Set::Alphanumeric)), // DigitalOcean
    ("shpat_", Rest::Exactly(32, Set::Alphanumeric)), // Shopify
    ("eyJ", Rest::Jwt),
];

static BEGIN: LazyLock<memchr::memmem::Finder<'static>> =
    LazyLock::new(|| memchr::memmem::Finder::new(PEM));

/// The shortest key that is known.
pub(crate) const SHORTEST: usize = 15;

/// Finds them.
pub(crate) fn find(text: &[u8], words: Words, is_bare: bool, found: &mut Vec<Range<usize>>) {
    for begun in BEGIN.find_iter(text) {
        // One is looked at once.
        let after = found.last().map_or(0, |known| known.end);
        let rest = &text[begun + PEM.len()..];
        if begun >= after
            && let Some(length) = matches(Rest::Pem, rest)
        {
            found.push(begun..begun + PEM.len() + length);
        }
    }
    let keys = std::mem::take(found);
    let mut next = keys.iter().peekable();
    let mut at = 0;
    // From behind: a window that is not all of one word holds no key at its begin.
    while let Some(window) = text.get(at..at + SHORTEST) {
        if let Some(end) = window.iter().rposition(|byte| !is_word(*byte)) {
            at += end + 1;
            continue;
        }
        let length = text[at..].iter().take_while(|byte| is_word(**byte)).count();
        let word = at..at + length;
        at += length + 1;
        while next.next_if(|known| known.end <= word.start).is_some() {}
        if next.peek().is_none_or(|known| known.start >= word.end) {
            in_word(text, word, words, is_bare, found);
        }
    }
    found.extend(keys);
}

/// Finds those in one word: by their prefixes, or that it is random.
fn in_word(
    text: &[u8],
    word: Range<usize>,
    words: Words,
    is_bare: bool,
    found: &mut Vec<Range<usize>>,
) {
    let before = found.len();
    let mut at = word.start;
    while at < word.end {
        // In the middle of a name it is none.
        let starts_name = at == 0 || !Set::Url.contains(text[at - 1]);
        let known = PREFIXES.iter().filter(|_| starts_name);
        let key = known.into_iter().find_map(|(prefix, rest)| {
            let rest_of_text = text[at..].strip_prefix(prefix.as_bytes())?;
            Some(prefix.len() + matches(*rest, rest_of_text)?)
        });
        if let Some(length) = key {
            found.push(at..at + length);
        }
        at += key.unwrap_or(1);
    }
    if found.len() > before || word.len() < RANDOM_LENGTH {
        return;
    }
    let is_named = words.secret && (is_bare || words.before(text, word.start).secret);
    if (is_named || Words::default().before(text, word.start).secret)
        && is_random(&text[word.clone()])
    {
        found.push(word);
    }
}

/// How long what follows the prefix is, if it is what follows it.
fn matches(rest: Rest, text: &[u8]) -> Option<usize> {
    let run = |set: Set, text: &[u8]| text.iter().take_while(|byte| set.contains(**byte)).count();
    match rest {
        Rest::Exactly(length, set) => (run(set, text) == length).then_some(length),
        Rest::AtLeast(length, set) => Some(run(set, text)).filter(|found| *found >= length),
        Rest::Parts(first, second) => {
            let is_first = run(Set::Url, text) == first && text.get(first) == Some(&b'.');
            let is_second = is_first && run(Set::Url, &text[first + 1..]) == second;
            is_second.then_some(first + 1 + second)
        }
        Rest::Jwt => jwt(text),
        Rest::Pem => {
            let line = &text[..text.len().min(PEM_LABEL)];
            memchr::memmem::find(line, PRIVATE_KEY)?;
            let end = memchr::memmem::find(text, PEM_END);
            Some(end.unwrap_or(text.len()))
        }
    }
}

/// What follows `eyJ`, if three parts stand there of which the first says an algorithm.
fn jwt(text: &[u8]) -> Option<usize> {
    let part = |text: &[u8]| {
        text.iter()
            .take_while(|byte| Set::Url.contains(**byte))
            .count()
    };
    let header = part(text);
    let payload = part(text.get(header + 1..).filter(|_| text[header] == b'.')?);
    let dot = header + 1 + payload;
    let signature = part(text.get(dot + 1..).filter(|_| text[dot] == b'.')?);
    let encoded = [b"eyJ", &text[..header]].concat();
    let decoded = BASE64URL_NOPAD.decode(&encoded).ok()?;
    memchr::memmem::find(&decoded, b"\"alg\"")?;
    (payload > 0).then_some(dot + 1 + signature)
}

/// At least so many characters of one word.
const RANDOM_LENGTH: usize = 20;

/// Where the word at the end of a text begins, which may be a key when more follows; or a private key
/// that did not end.
pub(crate) fn open(text: &[u8]) -> usize {
    let word = run_back(text, text.len(), MAX_WORD, is_word);
    let begun = memchr::memmem::rfind(text, PEM);
    let is_open = |begun: &usize| {
        let rest = &text[begun + PEM.len()..];
        let label = &rest[..rest.len().min(PEM_LABEL)];
        match memchr::memmem::find(label, PRIVATE_KEY) {
            Some(_) => memchr::memmem::find(rest, PEM_END).is_none(),
            None => rest.len() < PEM_LABEL,
        }
    };
    begun.filter(is_open).map_or(word, |begun| begun.min(word))
}

/// Whether a text ends within a private key.
pub(crate) fn is_in_key(text: &[u8]) -> bool {
    memchr::memmem::rfind(text, PEM).is_some_and(|begun| {
        let rest = &text[begun + PEM.len()..];
        let label = &rest[..rest.len().min(PEM_LABEL)];
        memchr::memmem::find(label, PRIVATE_KEY).is_some()
            && memchr::memmem::find(rest, PEM_END).is_none()
    })
}

/// What a word of random characters consists of.
fn is_word(byte: u8) -> bool {
    IN_WORDS[usize::from(byte)]
}

const IN_WORDS: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'+' | b'/' | b'=' | b'_' | b'-' | b'~' | b'.');
        byte += 1;
    }
    table
};

/// More entropy than text has: 3 bits for each of 32 or more hexadecimal digits, 4 for each other
/// character, both letters and digits among them.
fn is_random(word: &[u8]) -> bool {
    let is_hex = word.iter().all(u8::is_ascii_hexdigit);
    let has_digit = word.iter().any(u8::is_ascii_digit);
    let has_letter = word.iter().any(u8::is_ascii_alphabetic);
    if !has_digit || !has_letter {
        return false;
    }
    if is_hex {
        word.len() >= 32 && entropy(word) > 3.0
    } else {
        entropy(word) > 4.0
    }
}

/// Shannon's, in bits for each byte.
fn entropy(word: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in word {
        counts[usize::from(*byte)] += 1;
    }
    let total = word.len() as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / total;
            -share * share.log2()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<&str> {
        let mut found = Vec::new();
        find(text.as_bytes(), Words::default(), false, &mut found);
        found.into_iter().map(|range| &text[range]).collect()
    }

    /// None of these is a key of anybody: their letters count up.
    #[test]
    fn keys_are_known_by_their_prefixes() {
        let run = |length: usize| -> String {
            ('a'..='z').chain('0'..='9').cycle().take(length).collect()
        };
        for key in [
            "AKIAABCDEFGHIJKLMNOP".to_owned(),
            format!("ghp_{}", run(36)),
            format!("github_pat_{}", run(82)),
            format!("glpat-{}", run(20)),
            format!("xoxb-{}", run(24)),
            format!("sk-proj-{}", run(48)),
            format!("sk-ant-api03-{}", run(80)),
            format!("sk_live_{}", run(24)),
            format!("SG.{}.{}", run(22), run(43)),
            format!("npm_{}", run(36)),
            format!("AIza{}", run(35)),
            "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl".to_owned(),
        ] {
            assert_eq!(found(&format!("use {key}, please")), [key.as_str()]);
            // Not in the middle of a word, nor with one character less where the length is known.
            assert!(found(&format!("x{key}")).is_empty(), "{key}");
        }
        let pem = "-----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----";
        assert_eq!(found(pem).len(), 1);
        assert!(found("-----BEGIN CERTIFICATE-----\nMHc\n-----END CERTIFICATE-----").is_empty());
    }

    #[test]
    fn what_only_begins_so_is_none() {
        for text in [
            "AKIAABCDEFGHIJKLMNO",
            "AKIAABCDEFGHIJKLMNOPQ",
            "sk-learn and sk-image",
            "npm_config_registry",
            "eyJust.a.word",
            "SG.1.2",
        ] {
            assert!(found(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn random_words_are_secrets_beside_a_word_that_says_so() {
        let random = "q7Zt2Lw9Xc4Vb8Nm1Kd6Rf3H";
        assert_eq!(found(&format!("password: {random}")), [random]);
        assert!(found(&format!("commit {random}")).is_empty());
        assert!(found("token: aaaaaaaaaaaaaaaaaaaaaaaaaaaa1").is_empty());
        assert!(found("password: correcthorsebatterystaple").is_empty());
    }
}
