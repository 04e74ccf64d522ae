//! Looks through a JSON text, token by token.

use std::ops::Range;

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD};
use jiter::{Jiter, JiterError, Peek};

use crate::card::{self, luhn};
use crate::text::{Cleaned, clean};
use crate::words::Words;
use crate::{Error, Kind, Kinds, MAX_DEPTH, Purpose, secret};

/// Strings that hold JSON are looked through so many times: arguments of a tool call, within a
/// message.
const NESTED: u8 = 2;
/// Shorter ones hold nothing: `a@b.cd` has six bytes.
const SHORTEST: usize = 6;
/// A number of fewer digits is no phone number either.
const FEWEST_DIGITS: usize = 7;
/// So many bytes of base64 are decoded.
const MAX_BASE64: usize = 64 * 1024;
/// Digits of one element of an array that are joined with those of the next one.
const SHORT: usize = 6;

/// What was found in a JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspection {
    kinds: Kinds,
    /// Tokens, in their order, and what stands for them when they are masked.
    edits: Vec<(Range<usize>, String)>,
}

impl Inspection {
    /// Which kinds.
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// The text in which they were found, without them: each token that held one is written anew,
    /// every other byte stays.
    pub fn mask(&self, text: &[u8]) -> Vec<u8> {
        let mut masked = Vec::with_capacity(text.len());
        let mut at = 0;
        for (range, token) in &self.edits {
            masked.extend_from_slice(&text[at..range.start]);
            masked.extend_from_slice(token.as_bytes());
            at = range.end;
        }
        masked.extend_from_slice(&text[at..]);
        masked
    }

    /// Whether something is masked.
    pub fn is_masked(&self) -> bool {
        !self.edits.is_empty()
    }

    /// The tokens that are masked, and what stands for each.
    pub(crate) fn into_edits(self) -> Vec<(Range<usize>, String)> {
        self.edits
    }

    fn add(&mut self, range: Range<usize>, cleaned: &Cleaned) {
        self.kinds = self.kinds.union(cleaned.kinds);
        if let Some(text) = &cleaned.text {
            self.edits.push((range, quote(text)));
        }
    }
}

/// Looks through a JSON text (RFC 8259), in which members may have one name twice: a reader takes
/// one of them or the other.
pub fn json(text: &[u8], purpose: Purpose) -> Result<Inspection, Error> {
    nested(text, purpose, NESTED)
}

/// A text as a token of JSON.
pub(crate) fn quote(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}

fn nested(text: &[u8], purpose: Purpose, nested: u8) -> Result<Inspection, Error> {
    let mut walk = Walk {
        text,
        jiter: Jiter::new(text),
        look: Look { purpose, nested },
        levels: Vec::new(),
        out: Inspection::default(),
    };
    walk.all()?;
    Ok(walk.out)
}

/// An array or an object that is not at its end.
enum Level {
    Array {
        words: Words,
        siblings: Siblings,
        /// The first element, which was seen with the bracket.
        first: Option<Peek>,
    },
    Object {
        words: Words,
        /// Of the first member, whose name was read with the bracket.
        first: Option<Words>,
    },
}

struct Walk<'j> {
    text: &'j [u8],
    jiter: Jiter<'j>,
    look: Look,
    levels: Vec<Level>,
    out: Inspection,
}

impl Walk<'_> {
    fn all(&mut self) -> Result<(), Error> {
        let first = self.jiter.peek().map_err(not_json)?;
        self.value(first, Words::default())?;
        while let Some(level) = self.levels.pop() {
            self.step(level)?;
        }
        self.jiter.finish().map_err(not_json)
    }

    /// The next element or member of the innermost level, or its end.
    fn step(&mut self, level: Level) -> Result<(), Error> {
        match level {
            Level::Array {
                words,
                siblings,
                first,
            } => {
                let next = match first {
                    Some(first) => Some(first),
                    None => self.jiter.array_step().map_err(not_json)?,
                };
                match next {
                    Some(next) => self.element(next, words, siblings),
                    None => {
                        siblings.end(&mut self.out, self.look.purpose);
                        Ok(())
                    }
                }
            }
            Level::Object { words, first } => {
                let of_name = match first {
                    Some(first) => Some(first),
                    None => self.name(words)?,
                };
                let Some(of_name) = of_name else {
                    return Ok(());
                };
                self.levels.push(Level::Object { words, first: None });
                let next = self.jiter.peek().map_err(not_json)?;
                self.value(next, of_name)
            }
        }
    }

    fn element(&mut self, next: Peek, words: Words, mut siblings: Siblings) -> Result<(), Error> {
        let is_container = matches!(next, Peek::Array | Peek::Object);
        let begins = self.jiter.current_index();
        if !is_container {
            self.value(next, words)?;
        }
        siblings.add(self.text, begins..self.jiter.current_index());
        self.levels.push(Level::Array {
            words,
            siblings,
            first: None,
        });
        if is_container {
            self.value(next, words)?;
        }
        Ok(())
    }

    /// The name of the next member, as far as it says something of the value.
    fn name(&mut self, words: Words) -> Result<Option<Words>, Error> {
        let begins = self.jiter.current_index();
        let key = self.jiter.next_key().map_err(not_json)?;
        let key = key.map(|key| self.look.key(key, words));
        Ok(self.named(begins, key))
    }

    fn named(&mut self, begins: usize, key: Option<(Words, Cleaned)>) -> Option<Words> {
        let (words, cleaned) = key?;
        if !cleaned.kinds.is_empty() {
            let ends = self.jiter.current_index();
            self.out.add(quoted(self.text, begins..ends), &cleaned);
        }
        Some(words)
    }

    /// Looks at a value, or goes one level down.
    fn value(&mut self, peek: Peek, words: Words) -> Result<(), Error> {
        let begins = self.jiter.current_index();
        let cleaned = match peek {
            Peek::String => {
                let text = self.jiter.known_str().map_err(not_json)?;
                self.look.string(text, words)
            }
            Peek::Array | Peek::Object => return self.enter(peek, words),
            Peek::True | Peek::False => {
                self.jiter.known_bool(peek).map_err(not_json)?;
                Cleaned::default()
            }
            Peek::Null => {
                self.jiter.known_null().map_err(not_json)?;
                Cleaned::default()
            }
            number => {
                let text = self.jiter.known_number_bytes(number).map_err(not_json)?;
                self.look.number(text, words)
            }
        };
        if !cleaned.kinds.is_empty() {
            self.out.add(begins..self.jiter.current_index(), &cleaned);
        }
        Ok(())
    }

    fn enter(&mut self, peek: Peek, words: Words) -> Result<(), Error> {
        if self.levels.len() >= MAX_DEPTH {
            return Err(Error::TooDeep);
        }
        if peek == Peek::Array {
            if let Some(first) = self.jiter.known_array().map_err(not_json)? {
                self.levels.push(Level::Array {
                    words,
                    siblings: Siblings::default(),
                    first: Some(first),
                });
            }
            return Ok(());
        }
        let begins = self.jiter.current_index() + 1;
        let key = self.jiter.known_object().map_err(not_json)?;
        let key = key.map(|key| self.look.key(key, words));
        if let Some(first) = self.named(begins, key) {
            let first = Some(first);
            self.levels.push(Level::Object { words, first });
        }
        Ok(())
    }
}

/// How tokens are looked at.
#[derive(Clone, Copy)]
struct Look {
    purpose: Purpose,
    nested: u8,
}

impl Look {
    /// What the name of a member says of its value; and what was found in itself.
    fn key(self, key: &str, within: Words) -> (Words, Cleaned) {
        let words = Words::of_name(key, within);
        (words, self.string(key, Words::default()))
    }

    fn string(self, text: &str, words: Words) -> Cleaned {
        // Nothing that is found in so few bytes is without a digit or an `@`.
        let is_part = |byte: u8| byte.is_ascii_digit() || byte == b'@' || byte >= 0x80;
        let is_short = text.len() < secret::SHORTEST && !text.bytes().any(is_part);
        if text.len() < SHORTEST || is_short {
            return Cleaned::default();
        }
        if let Some(inner) = self.json_in(text) {
            return inner;
        }
        // A string may be both: what looks like a secret may be base64 of something else.
        let cleaned = clean(text, words, true, self.purpose);
        match self.base64_in(text, words) {
            Some(encoded) => Cleaned {
                kinds: cleaned.kinds.union(encoded.kinds),
                text: encoded.text.or(cleaned.text),
            },
            None => cleaned,
        }
    }

    /// What is found in a string that is JSON; none if it is not.
    fn json_in(self, text: &str) -> Option<Cleaned> {
        let is_container = text.trim_start().starts_with(['{', '[', '"']);
        if !is_container || self.nested == 0 {
            return None;
        }
        let found = nested(text.as_bytes(), self.purpose, self.nested - 1).ok()?;
        let mask = || String::from_utf8_lossy(&found.mask(text.as_bytes())).into_owned();
        Some(Cleaned {
            kinds: found.kinds,
            text: (!found.edits.is_empty()).then(mask),
        })
    }

    fn base64_in(self, text: &str, words: Words) -> Option<Cleaned> {
        let is_likely = (16..=MAX_BASE64).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+/-_=".contains(&byte));
        if !is_likely {
            return None;
        }
        let decoded = [BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD]
            .into_iter()
            .find_map(|encoding| encoding.decode(text.as_bytes()).ok())?;
        let decoded = String::from_utf8(decoded).ok()?;
        let kinds = clean(&decoded, words, true, self.purpose).kinds;
        // What is masked is the whole string.
        let first = kinds.iter().find(|kind| self.purpose.masks(*kind));
        Some(Cleaned {
            kinds,
            text: first.map(|kind| kind.mask().to_owned()),
        })
    }

    fn number(self, text: &[u8], words: Words) -> Cleaned {
        match integer(text).filter(|_| text.len() >= FEWEST_DIGITS) {
            Some(digits) => clean(&digits, words, true, self.purpose),
            None => Cleaned::default(),
        }
    }
}

/// The digits of a JSON number that is an integer, whatever its exponent; none if it is no integer, or
/// longer than a number of a card.
fn integer(number: &[u8]) -> Option<String> {
    let number = std::str::from_utf8(number).ok()?;
    let number = number.strip_prefix('-').unwrap_or(number);
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent: i32 = exponent.parse().ok()?;
    // Zeros at either end are a matter of spelling.
    let written = [whole, fraction].concat();
    let significant = written.trim_end_matches('0');
    let zeros = i32::try_from(written.len() - significant.len()).ok()?;
    // The integer is the significant digits and so many zeros.
    let follow = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let follow = usize::try_from(follow.checked_add(zeros)?).ok()?;
    let mut digits = significant.trim_start_matches('0').to_owned();
    if digits.len().checked_add(follow)? > 19 {
        return None;
    }
    digits.extend(std::iter::repeat_n('0', follow));
    Some(digits)
}

/// Elements of an array, as long as each is a few digits.
#[derive(Default)]
struct Siblings {
    digits: Vec<u8>,
    tokens: Vec<Range<usize>>,
    has_others: bool,
}

impl Siblings {
    /// Takes an element: an array or an object has no token.
    fn add(&mut self, text: &[u8], token: Range<usize>) {
        if self.has_others {
            return;
        }
        let bytes = &text[token.clone()];
        let inner = bytes
            .strip_prefix(b"\"")
            .and_then(|rest| rest.strip_suffix(b"\""))
            .unwrap_or(bytes);
        let is_short = (1..=SHORT).contains(&inner.len()) && inner.iter().all(u8::is_ascii_digit);
        if is_short && self.digits.len() + inner.len() <= 19 {
            self.digits.extend_from_slice(inner);
            self.tokens.push(token);
        } else {
            self.has_others = true;
        }
    }

    /// The array is at its end: its digits may be those of a card.
    fn end(self, out: &mut Inspection, purpose: Purpose) {
        let is_card = !self.has_others
            && self.tokens.len() > 1
            && card::range(&self.digits) == Some(card::Range::Narrow)
            && luhn(&self.digits);
        if is_card {
            let mut kinds = Kinds::default();
            kinds.insert(Kind::CreditCard);
            let text = purpose.masks(Kind::CreditCard);
            let text = text.then(|| Kind::CreditCard.mask().to_owned());
            let cleaned = Cleaned { kinds, text };
            self.tokens
                .into_iter()
                .for_each(|token| out.add(token, &cleaned));
        }
    }
}

/// From the first to the last quotation mark of what was read with a name.
fn quoted(text: &[u8], read: Range<usize>) -> Range<usize> {
    let bytes = &text[read.clone()];
    let first = memchr::memchr(b'"', bytes).unwrap_or_default();
    let last = memchr::memrchr(b'"', bytes).map_or(bytes.len(), |at| at + 1);
    read.start + first..read.start + last
}

#[expect(clippy::needless_pass_by_value, reason = "the form map_err wants")]
fn not_json(error: JiterError) -> Error {
    Error::NotJson {
        at: error.index,
        what: error.error_type.to_string(),
    }
}
