//! Heads of HTTP/2 that are none, frame by frame: what is answered, and what reaches the agent.

use super::*;

/// A header as a literal that is not indexed (RFC 7541 section 6.2.2), of at most 126 bytes each.
pub(super) fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// A frame (RFC 9113 section 4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(super) const HEADERS: u8 = 1;
pub(super) const DATA: u8 = 0;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// What comes back for stream 1: a status, or that it was reset, or the connection.
#[derive(Debug, PartialEq)]
enum Came {
    Status(u16),
    Reset,
    Gone,
}

/// Sends a head, and a body if there is one.
fn ask(gateway: &Gateway, headers: &[(&str, &str)], body: Option<&[u8]>) -> Came {
    let mut stream = TcpStream::connect(&gateway.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let block: Vec<u8> = headers
        .iter()
        .flat_map(|(name, value)| literal(name, value))
        .collect();
    let end = if body.is_none() { END_STREAM } else { 0 };
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[]));
    sent.extend(frame(HEADERS, END_HEADERS | end, 1, &block));
    if let Some(body) = body {
        sent.extend(frame(DATA, END_STREAM, 1, body));
    }
    stream.write_all(&sent).unwrap();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return Came::Gone;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).unwrap();
        match head[3] {
            HEADERS => return Came::Status(status(&payload)),
            3 => return Came::Reset,
            7 => return Came::Gone,
            _ => {}
        }
    }
}

/// The first header of an answer: indexed (RFC 7541 appendix A, 8 to 14), or a literal of that name.
fn status(block: &[u8]) -> u16 {
    match block[0] {
        indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        // With incremental indexing; the value is three digits, in Huffman's code or as they are.
        0x48 if block[1] == 3 => std::str::from_utf8(&block[2..5]).unwrap().parse().unwrap(),
        0x48 => huffman(&block[2..2 + usize::from(block[1] & 0x7f)]),
        other => panic!("{other:#x}"),
    }
}

/// Digits in Huffman's code (RFC 7541 appendix B).
fn huffman(bytes: &[u8]) -> u16 {
    const SHORT: [(u32, u32, char); 10] = [
        (0x0, 5, '0'),
        (0x1, 5, '1'),
        (0x2, 5, '2'),
        (0x19, 6, '3'),
        (0x1a, 6, '4'),
        (0x1b, 6, '5'),
        (0x1c, 6, '6'),
        (0x1d, 6, '7'),
        (0x1e, 6, '8'),
        (0x1f, 6, '9'),
    ];
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut rest, mut text) = (bits.as_str(), String::new());
    while let Some((_, length, digit)) = SHORT.into_iter().find(|(code, length, _)| {
        let length = *length as usize;
        rest.len() >= length && u32::from_str_radix(&rest[..length], 2) == Ok(*code)
    }) {
        text.push(digit);
        rest = &rest[length as usize..];
    }
    text.parse().unwrap()
}

#[test]
fn a_head_of_http2_that_is_none_does_not_reach_the_agent() {
    let agent = Agent::start(OK);
    let gateway = Gateway::trusted(&agent);
    let head = |changes: &[(&'static str, Option<&'static str>)],
                more: &[(&'static str, &'static str)]| {
        let usual = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/proxy/a"),
            (":authority", "a"),
        ];
        let changed = usual.into_iter().filter_map(|(name, value)| {
            match changes.iter().find(|(changed, _)| *changed == name) {
                Some((_, value)) => value.map(|value| (name, value)),
                None => Some((name, value)),
            }
        });
        let mut head: Vec<(&str, &str)> = changed.collect();
        head.extend(more);
        head
    };
    let json = ("content-type", "application/json");
    // One that is good: what the table asks would get through otherwise.
    assert_eq!(
        ask(&gateway, &head(&[], &[json]), Some(b"{}")),
        Came::Status(200)
    );
    assert_eq!(agent.seen().len(), 1);
    let card = b"4532015112830366 GET /admin HTTP/1.1\r\n\r\n";
    for (what, headers, body, came) in [
        (
            "no method",
            head(&[(":method", None)], &[]),
            None,
            Came::Reset,
        ),
        ("no path", head(&[(":path", None)], &[]), None, Came::Reset),
        (
            "an empty path",
            head(&[(":path", Some(""))], &[]),
            None,
            Came::Reset,
        ),
        (
            "no scheme",
            head(&[(":scheme", None)], &[]),
            None,
            Came::Reset,
        ),
        (
            "no authority",
            head(&[(":authority", None)], &[]),
            None,
            Came::Status(400),
        ),
        (
            "another host",
            head(&[], &[("host", "b")]),
            None,
            Came::Status(400),
        ),
        (
            "a user in the authority",
            head(&[(":authority", Some("a@b"))], &[]),
            None,
            Came::Status(400),
        ),
        (
            "two methods",
            head(&[], &[(":method", "GET")]),
            None,
            Came::Reset,
        ),
        (
            "two paths",
            head(&[], &[(":path", "/proxy/b")]),
            None,
            Came::Reset,
        ),
        (
            "a pseudo-header behind others",
            head(&[(":path", None)], &[("x", "y"), (":path", "/proxy/a")]),
            None,
            Came::Reset,
        ),
        (
            "an unknown pseudo-header",
            head(&[], &[(":user", "root")]),
            None,
            Came::Reset,
        ),
        (
            "one of an answer",
            head(&[], &[(":status", "200")]),
            None,
            Came::Reset,
        ),
        (
            "capital letters",
            head(&[], &[("X-Mine", "1")]),
            None,
            Came::Reset,
        ),
        (
            "Connection",
            head(&[], &[("connection", "x-agent-caller")]),
            None,
            Came::Reset,
        ),
        (
            "Transfer-Encoding",
            head(&[], &[json, ("transfer-encoding", "chunked")]),
            Some(&b"0\r\n\r\n"[..]),
            Came::Reset,
        ),
        (
            "Upgrade",
            head(&[], &[("upgrade", "websocket")]),
            None,
            Came::Reset,
        ),
        (
            "another TE",
            head(&[], &[("te", "gzip")]),
            None,
            Came::Reset,
        ),
        (
            "a line within a value",
            head(&[], &[("x-mine", "1\r\nx-agent-caller: root")]),
            None,
            Came::Reset,
        ),
        (
            "a line within the path",
            head(&[(":path", Some("/proxy/a HTTP/1.1\r\nx: y"))], &[]),
            None,
            Came::Reset,
        ),
        (
            "a line within the method",
            head(&[(":method", Some("GET /b HTTP/1.1\r\nx:"))], &[]),
            None,
            Came::Reset,
        ),
        (
            "a colon within a name",
            head(&[], &[("x:y", "1")]),
            None,
            Came::Reset,
        ),
        (
            "a longer body than it says",
            head(&[], &[json, ("content-length", "2")]),
            Some(&b"{}GET /b"[..]),
            Came::Reset,
        ),
        (
            "a shorter body than it says",
            head(&[], &[json, ("content-length", "9")]),
            Some(&b"{}"[..]),
            Came::Reset,
        ),
        (
            "two lengths",
            head(
                &[],
                &[json, ("content-length", "2"), ("content-length", "3")],
            ),
            Some(&b"{}"[..]),
            Came::Reset,
        ),
        (
            "a request within a body",
            head(&[], &[json]),
            Some(&card[..]),
            Came::Status(400),
        ),
        (
            "CONNECT",
            head(
                &[
                    (":method", Some("CONNECT")),
                    (":scheme", None),
                    (":path", None),
                ],
                &[],
            ),
            None,
            Came::Status(404),
        ),
        (
            "a WebSocket of HTTP/2",
            head(
                &[(":method", Some("CONNECT"))],
                &[(":protocol", "websocket")],
            ),
            None,
            Came::Reset,
        ),
        (
            "a path of dots",
            head(&[(":path", Some("/proxy/../admin"))], &[]),
            None,
            Came::Status(400),
        ),
        (
            "a whole URL as path",
            head(&[(":path", Some("http://b/proxy/a"))], &[]),
            None,
            Came::Reset,
        ),
        (
            "the asterisk",
            head(&[(":path", Some("*")), (":method", Some("OPTIONS"))], &[]),
            None,
            Came::Status(404),
        ),
    ] {
        let answered = ask(&gateway, &headers, body);
        let is_refused = answered == came || came == Came::Reset && answered == Came::Gone;
        assert!(is_refused, "{what}: {answered:?}");
        assert_eq!(agent.seen().len(), 1, "{what}: {:?}", agent.seen());
    }
    // A preface that comes in parts is one, too.
    let mut stream = TcpStream::connect(&gateway.address).unwrap();
    for part in ["P", "RI * HTTP/2.0\r\n", "\r\nSM\r\n\r\n"] {
        stream.write_all(part.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    stream.write_all(&frame(4, 0, 0, &[])).unwrap();
    let mut first = [0; 9];
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.read_exact(&mut first).unwrap();
    assert_eq!(first[3], 4, "settings");
    // The gateway is still there.
    assert_eq!(
        ask(&gateway, &head(&[], &[json]), Some(b"{}")),
        Came::Status(200)
    );
}
