//! What a body is, and how it is looked through.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use inspect::{Framing, Kinds, Purpose, Stream};

use crate::headers::only;
use crate::room::{Full, Peer, Room, Rooms};

/// So many bytes are unpacked at once.
const DECODED_AT_ONCE: usize = 32 << 10;

/// What a body is, by its Content-Type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A JSON text.
    Json,
    /// Names and values, as a form of HTML has them.
    Form,
    /// Text, or events.
    Stream(Framing),
}

/// How its bytes are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// They are as they are.
    Identity,
    /// RFC 1952.
    Gzip,
}

/// Why a body cannot be looked through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is of a kind that is not known, or has no kind.
    #[error("{0}")]
    Kind(&'static str),
    /// It is longer than so many bytes.
    #[error("the body is longer than {0} bytes")]
    TooLong(usize),
    /// There is no memory for it.
    #[error("there is no memory for this at the moment")]
    NoRoom,
    /// It is not what it says.
    #[error("the body is not gzip")]
    NotGzip,
    /// It is not what it says.
    #[error(transparent)]
    Inspect(#[from] inspect::Error),
}

/// What was found in a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which kinds.
    pub kinds: Kinds,
    /// The body without them, if something is to be masked.
    pub masked: Option<Vec<u8>>,
}

impl Content {
    /// What these headers say of a body.
    pub fn of(headers: &HeaderMap) -> Result<Self, Unreadable> {
        let text = media_type(headers).ok_or(Unreadable::Kind("a body needs one Content-Type"))?;
        let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
        let is_utf8 = parameters.split(';').all(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim().trim_matches('"');
            !name.trim().eq_ignore_ascii_case("charset")
                || value.eq_ignore_ascii_case("utf-8")
                || value.eq_ignore_ascii_case("us-ascii")
        });
        if !is_utf8 {
            return Err(Unreadable::Kind("a text must be in UTF-8"));
        }
        let essence = essence.trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => Ok(Self::Json),
            "application/x-www-form-urlencoded" => Ok(Self::Form),
            "text/event-stream" => Ok(Self::Stream(Framing::Events)),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines" => Ok(Self::Stream(Framing::Lines)),
            other if other.ends_with("+json") => Ok(Self::Json),
            other if other.starts_with("text/") => Ok(Self::Stream(Framing::Text)),
            _ => Err(Unreadable::Kind(
                "this Content-Type cannot be looked through",
            )),
        }
    }

    /// Looks through a body that is whole.
    pub fn look(self, body: &[u8], purpose: Purpose) -> Result<Found, Unreadable> {
        match self {
            Self::Json => {
                let found = inspect::json(body, purpose)?;
                let masked = found.is_masked().then(|| found.mask(body));
                Ok(Found {
                    kinds: found.kinds(),
                    masked,
                })
            }
            Self::Stream(Framing::Text) => {
                let text = std::str::from_utf8(body).map_err(|_| inspect::Error::NotUtf8)?;
                // Some readers take it for JSON, whatever it says it is.
                let json = text.trim_start_matches('\u{feff}');
                if json.trim_start().starts_with(['{', '[', '"'])
                    && let Ok(found) = inspect::json(json.as_bytes(), purpose)
                {
                    let masked = found.is_masked().then(|| found.mask(json.as_bytes()));
                    return Ok(Found {
                        kinds: found.kinds(),
                        masked,
                    });
                }
                Ok(with_json_in_lines(text, purpose))
            }
            Self::Stream(framing) => {
                let all = inspect::Kind::ALL.into_iter().collect();
                let masked = match purpose {
                    Purpose::Mask(kinds) => kinds,
                    _ => all,
                };
                let mut stream = Stream::new(framing, all, masked, body.len());
                let mut out = Vec::new();
                stream.push(body, &mut out)?;
                stream.finish(&mut out)?;
                Ok(Found {
                    kinds: stream.kinds(),
                    masked: (out != body).then_some(out),
                })
            }
            Self::Form => form(body, purpose),
        }
    }
}

/// Looks through a text of which lines may be JSON, with a word before it: several texts in one message,
/// or those of Socket.IO. What stands there is looked for in both readings.
fn with_json_in_lines(text: &str, purpose: Purpose) -> Found {
    let (mut kinds, mut all) = (Kinds::default(), String::with_capacity(text.len()));
    for line in text.split_inclusive('\n') {
        let begin = line.find(['{', '[']).filter(|_| line.contains('\\'));
        let found = begin.and_then(|begin| {
            let found = inspect::json(&line.as_bytes()[begin..], purpose).ok()?;
            let masked = found.mask(&line.as_bytes()[begin..]);
            kinds = kinds.union(found.kinds());
            Some((begin, String::from_utf8(masked).ok()?))
        });
        match found {
            Some((begin, masked)) => {
                all.push_str(&line[..begin]);
                all.push_str(&masked);
            }
            None => all.push_str(line),
        }
    }
    let (masked, of_text) = inspect::mask_text(&all, purpose);
    Found {
        kinds: kinds.union(of_text),
        masked: (masked != text).then(|| masked.into_bytes()),
    }
}

/// The one Content-Type that there is.
pub fn media_type(headers: &HeaderMap) -> Option<&str> {
    only(headers, CONTENT_TYPE.as_str()).and_then(|value| value.to_str().ok())
}

impl Encoding {
    /// What these headers say.
    pub fn of(headers: &HeaderMap) -> Result<Self, Unreadable> {
        let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
        let first = encodings
            .next()
            .map(|value| value.as_bytes().to_ascii_lowercase());
        match (first.as_deref(), encodings.next()) {
            (None | Some(b"identity"), None) => Ok(Self::Identity),
            (Some(b"gzip" | b"x-gzip"), None) => Ok(Self::Gzip),
            _ => Err(Unreadable::Kind(
                "a body with this Content-Encoding cannot be looked through",
            )),
        }
    }

    /// A body as its reader sees it, of at most `max` bytes. What comes out of it takes room before it
    /// is there.
    pub async fn decode(
        self,
        body: Bytes,
        max: usize,
        rooms: &Rooms,
        peer: Peer,
        room: &mut Room,
    ) -> Result<Bytes, Unreadable> {
        if self == Self::Identity || body.is_empty() {
            return Ok(body);
        }
        let mut decoder = MultiGzDecoder::new(&*body);
        let (mut decoded, mut part) = (BytesMut::new(), vec![0; DECODED_AT_ONCE]);
        loop {
            let read = decoder.read(&mut part).map_err(|_| Unreadable::NotGzip)?;
            if read == 0 {
                return Ok(decoded.freeze());
            }
            if decoded.len() + read > max {
                return Err(Unreadable::TooLong(max));
            }
            let taken = rooms.grow(room, peer, read).await;
            taken.map_err(|Full| Unreadable::NoRoom)?;
            decoded.extend_from_slice(&part[..read]);
        }
    }
}

/// Names and values of a form or a query, decoded.
pub fn form(text: &[u8], purpose: Purpose) -> Result<Found, Unreadable> {
    let mut kinds = Kinds::default();
    let mut is_masked = false;
    let mut masked = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(text) {
        // As a member of JSON is: its name says what its value may be.
        let pair = serde_json::json!({ &*name: value }).to_string();
        let found = inspect::json(pair.as_bytes(), purpose)?;
        kinds = kinds.union(found.kinds());
        is_masked |= found.is_masked();
        let members: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&found.mask(pair.as_bytes())).unwrap_or_default();
        for (name, value) in members {
            masked.append_pair(&name, value.as_str().unwrap_or_default());
        }
    }
    Ok(Found {
        kinds,
        masked: is_masked.then(|| masked.finish().into_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_hide_nothing_in_lines_that_are_json() {
        let text = Content::Stream(Framing::Text);
        for (body, masked) in [
            (
                "{}\n{\"card\":\"\\u0034532-0151-1283-0366\"}\n",
                "{}\n{\"card\":\"[CREDIT_CARD_REDACTED]\"}\n",
            ),
            (
                "42[\"pay\",{\"card\":\"\\u0034532-0151-1283-0366\"}]",
                "42[\"pay\",{\"card\":\"[CREDIT_CARD_REDACTED]\"}]",
            ),
            (
                "a\\b {no json, 4532-0151-1283-0366",
                "a\\b {no json, [CREDIT_CARD_REDACTED]",
            ),
        ] {
            let found = text.look(body.as_bytes(), Purpose::Decide).unwrap();
            assert!(found.kinds.contains(inspect::Kind::CreditCard), "{body}");
            assert_eq!(String::from_utf8(found.masked.unwrap()).unwrap(), masked);
        }
        let plain = "a [word] with \\ in it\n";
        let found = text.look(plain.as_bytes(), Purpose::Decide).unwrap();
        assert_eq!((found.kinds, found.masked), (Kinds::default(), None));
    }

    #[tokio::test]
    async fn what_is_compressed_is_decoded_up_to_a_limit() {
        use std::io::Write;
        let gzip = |data: &[u8]| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        };
        let rooms = Rooms::new(1 << 20);
        let peer = Peer::of([127, 0, 0, 1].into());
        let decode = async |body: Vec<u8>, max: usize| {
            let mut room = Room::default();
            let decoded = Encoding::Gzip
                .decode(body.into(), max, &rooms, peer, &mut room)
                .await;
            (decoded, room.taken())
        };
        let text = gzip(b"{\"a\": 1}");
        assert_eq!(
            decode(text.clone(), 1000).await,
            (Ok(Bytes::from_static(b"{\"a\": 1}")), 8)
        );
        // Several members are one text.
        let several = [gzip(b"{\"a\":"), gzip(b"1}")].concat();
        assert_eq!(decode(several, 1000).await.0.unwrap(), &b"{\"a\":1}"[..]);
        let long = gzip(&[b'a'; 1001]);
        assert_eq!(decode(long, 1000).await.0, Err(Unreadable::TooLong(1000)));
        // A bomb is not unpacked: no more room is taken than there may be.
        let (refused, taken) = decode(gzip(&vec![0; 50_000_000]), 100_000).await;
        assert_eq!(refused, Err(Unreadable::TooLong(100_000)));
        assert!(taken <= 100_000);
        for bad in [
            &b"{}"[..],
            &text[..text.len() - 1],
            &[text.as_slice(), b"{}"].concat(),
        ] {
            assert_eq!(decode(bad.to_vec(), 1000).await.0, Err(Unreadable::NotGzip));
        }
    }
}
