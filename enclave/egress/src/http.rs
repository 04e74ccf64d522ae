//! One HTTP/1.1 answer (RFC 9112): a status, one Content-Length, and so many bytes.

use std::io::{self, Read};

use crate::wire::{Failure, FailureKind};

/// The longest head, in bytes.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// The longest body, in bytes.
const MAX_BODY: usize = 64 * 1024;
const CHUNK: usize = 8 * 1024;

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Three digits.
    pub(crate) status: u16,
    /// At most 64 KiB.
    pub(crate) body: Vec<u8>,
}

/// What a head says.
struct Head {
    status: u16,
    /// Of the head itself.
    length: usize,
    /// Of the body.
    body: usize,
}

/// Reads one answer. Bytes that came together with its end and are not of it are an error.
pub(crate) fn read(from: &mut impl Read) -> Result<Reply, Failure> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(head) = head(&bytes)? {
            break head;
        }
        more(from, &mut bytes)?;
    };
    let end = head.length + head.body;
    while bytes.len() < end {
        more(from, &mut bytes)?;
    }
    if bytes.len() > end {
        return Err(Failure::malformed("bytes after the answer"));
    }
    Ok(Reply {
        status: head.status,
        body: bytes.split_off(head.length),
    })
}

/// Reads what there is, at least one byte.
fn more(from: &mut impl Read, bytes: &mut Vec<u8>) -> Result<(), Failure> {
    let mut chunk = [0; CHUNK];
    match from.read(&mut chunk) {
        Ok(0) => Err(Failure::new(FailureKind::Broken, "the answer was cut off")),
        Ok(read) => {
            bytes.extend_from_slice(&chunk[..read]);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        Err(error) => Err(Failure::of_line(&error)),
    }
}

/// The head, if it is whole.
fn head(bytes: &[u8]) -> Result<Option<Head>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let limited = &bytes[..bytes.len().min(MAX_HEAD)];
    let parsed = response.parse(limited);
    let parsed = parsed.map_err(|error| Failure::malformed(format!("no HTTP/1.1: {error}")))?;
    let httparse::Status::Complete(length) = parsed else {
        return if bytes.len() < MAX_HEAD {
            Ok(None)
        } else {
            Err(Failure::malformed("an HTTP head of more than 16 KiB"))
        };
    };
    if response.version != Some(1) {
        return Err(Failure::malformed("not HTTP/1.1"));
    }
    let status = response.code.unwrap_or_default();
    let body = body_length(response.headers)?;
    Ok(Some(Head {
        status,
        length,
        body,
    }))
}

fn body_length(headers: &[httparse::Header<'_>]) -> Result<usize, Failure> {
    let named = |name: &'static str| {
        headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
    };
    if named("transfer-encoding").next().is_some() {
        return Err(Failure::malformed("a Transfer-Encoding"));
    }
    let mut lengths = named("content-length");
    match (lengths.next(), lengths.next()) {
        (Some(only), None) => digits(only.value)
            .filter(|length| *length <= MAX_BODY)
            .ok_or_else(|| Failure::malformed("no Content-Length of at most 64 KiB")),
        (None, _) => Err(Failure::malformed("no Content-Length")),
        (Some(_), Some(_)) => Err(Failure::malformed("more than one Content-Length")),
    }
}

/// A number of digits alone: no sign, no space, no list.
fn digits(value: &[u8]) -> Option<usize> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello";

    /// Gives so many bytes at a time.
    struct Chunks<'b>(&'b [u8], usize);

    impl Read for Chunks<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let (now, later) = self.0.split_at(self.0.len().min(self.1).min(into.len()));
            into[..now.len()].copy_from_slice(now);
            self.0 = later;
            Ok(now.len())
        }
    }

    fn kind(bytes: &[u8]) -> Option<FailureKind> {
        read(&mut Chunks(bytes, 4096))
            .err()
            .map(|failure| failure.kind)
    }

    #[test]
    fn an_answer_is_read_however_it_arrives() {
        for size in [1, 2, 7, 4096] {
            let reply = read(&mut Chunks(GOOD, size)).unwrap();
            assert_eq!((reply.status, &reply.body[..]), (200, &b"hello"[..]));
        }
        let empty = b"HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n";
        let reply = read(&mut Chunks(empty, 4096)).unwrap();
        assert_eq!((reply.status, reply.body.len()), (500, 0));
    }

    #[test]
    fn an_answer_that_is_cut_at_any_byte_is_broken() {
        for cut in 0..GOOD.len() {
            assert_eq!(
                kind(&GOOD[..cut]),
                Some(FailureKind::Broken),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn bytes_after_the_answer_are_malformed() {
        let more = [GOOD, b"!"].concat();
        assert_eq!(kind(&more), Some(FailureKind::Malformed));
    }

    #[test]
    fn one_content_length_of_digits_and_no_transfer_encoding() {
        for headers in [
            "",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\ncontent-length: 6\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: \r\n",
            "Content-Length: 65537\r\n",
            "Content-Length: 99999999999999999999999\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: identity\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\n folded: x\r\n",
        ] {
            let bytes = format!("HTTP/1.1 200 OK\r\n{headers}\r\nhello");
            assert_eq!(
                kind(bytes.as_bytes()),
                Some(FailureKind::Malformed),
                "{headers}"
            );
        }
    }

    #[test]
    fn heads_have_limits() {
        let with = |headers: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{headers}\r\n");
        assert_eq!(kind(with(&"a: b\r\n".repeat(63)).as_bytes()), None);
        let many = with(&"a: b\r\n".repeat(64));
        assert_eq!(kind(many.as_bytes()), Some(FailureKind::Malformed));

        let rest = MAX_HEAD - with("a: \r\n").len();
        let long = |length| with(&format!("a: {}\r\n", "x".repeat(length)));
        assert_eq!(kind(long(rest).as_bytes()), None);
        assert_eq!(
            kind(long(rest + 1).as_bytes()),
            Some(FailureKind::Malformed)
        );
        // Nor if its end comes in the same read as its limit.
        let together = long(rest + 1);
        let failure = read(&mut Chunks(together.as_bytes(), 5000)).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Malformed);
        // Without an end it is not waited for.
        let endless = "HTTP/1.1 200 OK\r\na: ".to_owned() + &"x".repeat(MAX_HEAD);
        assert_eq!(kind(endless.as_bytes()), Some(FailureKind::Malformed));
    }

    #[test]
    fn a_body_of_64_kib_is_read() {
        let body = vec![b'x'; MAX_BODY];
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MAX_BODY}\r\n\r\n");
        let bytes = [head.as_bytes(), &body].concat();
        assert_eq!(
            read(&mut Chunks(&bytes, 4096)).unwrap().body.len(),
            MAX_BODY
        );
    }

    #[test]
    fn other_protocols_are_malformed() {
        for bytes in [
            &b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"[..],
            b"HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"ICY 200 OK\r\n\r\n",
            b"\x15\x03\x01\x00\x02",
            b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
        ] {
            assert_eq!(kind(bytes), Some(FailureKind::Malformed));
        }
    }

    proptest::proptest! {
        #[test]
        fn garbage_does_not_panic(bytes: Vec<u8>, size in 1_usize..64) {
            let _ = read(&mut Chunks(&bytes, size));
            let _ = read(&mut Chunks(&[b"HTTP/1.1 200 ", &bytes[..]].concat(), size));
        }
    }
}
