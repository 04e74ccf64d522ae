use zeroize::Zeroizing;

use super::*;

const SECRET: &[u8] = b"sk-live-0123456789abcdef";
const MASK: [u8; 4] = [1, 2, 3, 4];
const TEXT: OpCode = OpCode::Data(Data::Text);
const BINARY: OpCode = OpCode::Data(Data::Binary);
const MORE: OpCode = OpCode::Data(Data::Continue);
const PING: OpCode = OpCode::Control(Control::Ping);
const CLOSE: OpCode = OpCode::Control(Control::Close);

/// What is read: opcodes and payloads.
type Read = Vec<(OpCode, Vec<u8>)>;
/// Opcode, whether it is final, and payload.
type Frame<'b> = (OpCode, bool, &'b [u8]);

fn bytes(frames: &[Frame<'_>], mask: Option<[u8; 4]>) -> BytesMut {
    let mut out = BytesMut::new();
    for (opcode, is_final, payload) in frames {
        write(*opcode, *is_final, mask, payload, &mut out);
    }
    out
}

/// What is read of frames that are written: each message whole, and each control frame.
fn read(bytes: &[u8], masked: bool) -> Read {
    let mut frames = Frames::new(masked);
    frames.push(bytes);
    let (mut all, mut message) = (Vec::new(), Vec::new());
    while let Some(part) = frames.next_part().unwrap() {
        match part {
            Part::Control(control, bytes) => all.push((OpCode::Control(control), bytes.to_vec())),
            Part::Piece(piece) => {
                message.extend_from_slice(&piece.bytes);
                if piece.ends {
                    all.push((OpCode::Data(piece.kind), std::mem::take(&mut message)));
                }
            }
        }
    }
    assert!(message.is_empty());
    all
}

/// What an agent says, in pieces of so many bytes, as it gets to the service; and what was seen of it.
fn sent(field: Option<Field>, said: &[u8], cut: usize) -> Result<(Read, Vec<u8>), Gone> {
    let mut way = FromAgent::new(field);
    let (mut out, mut seen) = (BytesMut::new(), Vec::new());
    for piece in said.chunks(cut) {
        way.push(
            piece,
            &mut out,
            || MASK,
            |bytes| seen.extend_from_slice(bytes),
        )?;
    }
    Ok((read(&out, true), seen))
}

fn back(mode: Scrub, said: &[u8], cut: usize) -> Result<Read, Gone> {
    let needles = Needles::new(&[SECRET]);
    let mut way = FromService::new(&needles, mode);
    let mut out = BytesMut::new();
    for piece in said.chunks(cut) {
        way.push(piece, &mut out, |_| {})?;
    }
    Ok(read(&out, false))
}

fn field() -> Field {
    Field {
        name: "/d/token".into(),
        value: Zeroizing::new(SECRET.to_vec()),
    }
}

#[test]
fn messages_pass_both_ways_as_they_are_however_they_are_cut() {
    let long = vec![7; 100_000];
    let frames: &[Frame<'_>] = &[
        (TEXT, true, b"hello"),
        (TEXT, true, b""),
        (BINARY, false, b"a"),
        (PING, true, b"?"),
        (MORE, false, b""),
        (MORE, true, b"b"),
        (BINARY, true, &long),
        (CLOSE, true, b"\x03\xe8bye"),
        (TEXT, true, b"behind the end"),
    ];
    let wanted = [
        (TEXT, b"hello".to_vec()),
        (TEXT, Vec::new()),
        (PING, b"?".to_vec()),
        (BINARY, b"ab".to_vec()),
        (BINARY, long.clone()),
        (CLOSE, b"\x03\xe8bye".to_vec()),
    ];
    for cut in [1, 2, 3, 7, 1000, 64 * 1024, 1 << 20] {
        let (there, seen) = sent(None, &bytes(frames, Some([9, 8, 7, 6])), cut).unwrap();
        assert_eq!(there, wanted);
        assert_eq!(seen, [b"helloab", &long[..]].concat());
        assert_eq!(
            back(Scrub::Refuse, &bytes(frames, None), cut).unwrap(),
            wanted
        );
    }
}

#[test]
fn a_credential_is_put_into_the_first_text_that_has_its_place_and_into_no_other() {
    let identify = br#"{"op":2,"d":{"token":"x"}}"#;
    let placed = [&br#"{"op":2,"d":{"token":""#[..], SECRET, br#""}}"#].concat();
    let (first, second) = identify.split_at(9);
    let frames: &[Frame<'_>] = &[
        (TEXT, true, b"{\"op\":1,\"d\":251}"),
        (BINARY, true, identify),
        (TEXT, false, first),
        (PING, true, b"?"),
        (MORE, true, second),
        (TEXT, true, identify),
    ];
    let wanted = [
        (TEXT, b"{\"op\":1,\"d\":251}".to_vec()),
        (BINARY, identify.to_vec()),
        (PING, b"?".to_vec()),
        (TEXT, placed),
        (TEXT, identify.to_vec()),
    ];
    for cut in [1, 5, 1000] {
        let (there, seen) = sent(Some(field()), &bytes(frames, Some(MASK)), cut).unwrap();
        assert_eq!(there, wanted);
        // Of what the agent said, and not of the credential.
        assert!(!seen.windows(SECRET.len()).any(|window| window == SECRET));
    }
    for bad in [
        &br#"{"d":{"token":"x"},"d":{"token":"y"}}"#[..],
        &[b' '; 64 * 1024 + 1],
    ] {
        let said = bytes(&[(TEXT, true, bad)], Some(MASK));
        let gone = sent(Some(field()), &said, 4096);
        assert!(matches!(gone, Err(Gone::Misplaced(_))));
    }
}

#[test]
fn a_credential_does_not_come_back_in_a_message_or_in_what_controls_one() {
    let (first, second) = SECRET.split_at(10);
    let texts: [&[Frame<'_>]; 3] = [
        &[(TEXT, true, &[b"your token: ", SECRET].concat())],
        &[
            (BINARY, false, first),
            (PING, true, b""),
            (MORE, true, second),
        ],
        &[(TEXT, false, b""), (MORE, false, SECRET), (MORE, true, b"")],
    ];
    for frames in texts {
        for cut in [1, 11, 1000] {
            let said = bytes(frames, None);
            assert_eq!(back(Scrub::Refuse, &said, cut), Err(Gone::Reflected));
            let masked = back(Scrub::Replace, &said, cut).unwrap();
            let whole = masked.iter().flat_map(|(_, bytes)| bytes.clone());
            let whole: Vec<u8> = whole.collect();
            assert!(whole.ends_with(&[b'*'; 24]) && !whole.windows(4).any(|four| four == b"live"));
        }
    }
    let close = [b"\x03\xf0no such ", SECRET].concat();
    for (opcode, payload, left) in [(PING, SECRET, &b""[..]), (CLOSE, &close, b"\x03\xf0")] {
        let said = bytes(&[(opcode, true, payload)], None);
        assert_eq!(back(Scrub::Refuse, &said, 1000), Err(Gone::Reflected));
        let wanted = Ok(vec![(opcode, left.to_vec())]);
        assert_eq!(back(Scrub::Replace, &said, 1000), wanted);
    }
}

#[test]
fn only_a_word_waits_and_not_beyond_its_message() {
    let needles = Needles::new(&[SECRET]);
    let mut way = FromService::new(&needles, Scrub::Refuse);
    let mut said = |frames: &[Frame<'_>]| {
        let mut out = BytesMut::new();
        way.push(&bytes(frames, None), &mut out, |_| {}).unwrap();
        out
    };
    assert_eq!(
        said(&[(TEXT, false, b"x any")]),
        bytes(&[(TEXT, false, b"x ")], None)
    );
    assert_eq!(
        said(&[(MORE, true, b"")]),
        bytes(&[(MORE, true, b"any")], None)
    );
    assert!(said(&[(TEXT, false, b"word")]).is_empty());
    assert_eq!(
        said(&[(MORE, true, b"s")]),
        bytes(&[(TEXT, true, b"words")], None)
    );
}

#[test]
fn how_a_message_is_cut_tells_nothing_of_a_credential() {
    let needles = Needles::new(&[SECRET]);
    let lengths = |guess: &[u8]| {
        // A long frame, whose first piece ends with what somebody tries.
        let mut payload = vec![b'~'; 80_000];
        let end = super::super::frames::MAX_PIECE;
        payload[end - guess.len()..end].copy_from_slice(guess);
        let mut way = FromService::new(&needles, Scrub::Refuse);
        let (mut out, mut lengths) = (BytesMut::new(), Vec::new());
        let said = bytes(&[(TEXT, true, &payload)], None);
        way.push(&said, &mut out, |piece| lengths.push(piece.len()))
            .unwrap();
        lengths
    };
    let wrong = lengths(b"");
    assert!(wrong.len() > 2);
    for guessed in 1..SECRET.len() {
        assert_eq!(lengths(&SECRET[..guessed]), wrong, "{guessed}");
    }
}

#[test]
fn what_was_good_goes_before_an_error_and_what_goes_is_counted() {
    let good = bytes(&[(TEXT, true, b"delete x")], Some(MASK));
    let bad = bytes(&[(MORE, true, b"y")], Some(MASK));
    let mut way = FromAgent::new(None);
    let (mut out, mut seen) = (BytesMut::new(), Vec::new());
    let gone = way.push(
        &[&good[..], &bad].concat(),
        &mut out,
        || MASK,
        |bytes| seen.extend_from_slice(bytes),
    );
    assert_eq!(gone, Err(Gone::Malformed));
    assert_eq!((&out[..], &seen[..]), (&good[..], &b"delete x"[..]));
    // What has no place does not go, and is not counted.
    let twice = br#"{"d":{"token":"x"},"d":{"token":"y"}}"#;
    let mut way = FromAgent::new(Some(field()));
    let (mut out, mut count) = (BytesMut::new(), 0);
    let said = bytes(&[(TEXT, true, twice)], Some(MASK));
    let gone = way.push(&said, &mut out, || MASK, |bytes| count += bytes.len());
    assert!(matches!(gone, Err(Gone::Misplaced(_))));
    assert_eq!((out.len(), count), (0, 0));
    assert!(way.is_unplaced());
}

#[test]
fn what_is_no_frame_of_its_side_passes_nothing() {
    let masked = |frames: &[Frame<'_>]| bytes(frames, Some(MASK)).to_vec();
    let plain = |frames: &[Frame<'_>]| bytes(frames, None).to_vec();
    let long = [0; 126];
    let bad: [&[Frame<'_>]; 5] = [
        &[(MORE, true, b"x")],
        &[(TEXT, false, b"x"), (TEXT, true, b"y")],
        &[(TEXT, true, b"x"), (MORE, true, b"y")],
        &[(PING, false, b"x")],
        &[(PING, true, &long)],
    ];
    for frames in bad {
        assert_eq!(sent(None, &masked(frames), 1), Err(Gone::Malformed));
        assert_eq!(back(Scrub::Refuse, &plain(frames), 1), Err(Gone::Malformed));
    }
    let text: &[Frame<'_>] = &[(TEXT, true, b"x")];
    assert_eq!(sent(None, &plain(text), 9), Err(Gone::Malformed));
    assert_eq!(back(Scrub::Refuse, &masked(text), 9), Err(Gone::Malformed));
    // Bits that an extension would use, opcodes of nobody, and a length that is none.
    for (at, bit) in [(0, 0x40), (0, 0x20), (0, 0x10), (0, 0x02), (0, 0x04)] {
        let mut odd = plain(text);
        odd[at] |= bit;
        assert_eq!(back(Scrub::Refuse, &odd, 9), Err(Gone::Malformed));
    }
    let endless = [&[0x81, 127][..], &[0xff; 8]].concat();
    assert_eq!(back(Scrub::Refuse, &endless, 9), Err(Gone::Malformed));
}

#[test]
fn memory_is_that_of_a_piece_however_long_a_frame_is() {
    let needles = Needles::new(&[SECRET]);
    let mut way = FromService::new(&needles, Scrub::Refuse);
    // The head of a frame of 2^40 bytes, and the first of them.
    let head = [&[0x82, 127][..], &(1_u64 << 40).to_be_bytes()].concat();
    way.push(&head, &mut BytesMut::new(), |_| {}).unwrap();
    let mut passed = 0;
    for _ in 0..1000 {
        let mut out = BytesMut::new();
        way.push(&[1; 10_000], &mut out, |bytes| passed += bytes.len())
            .unwrap();
        assert!(way.frames.held() <= 2 * super::super::frames::MAX_PIECE);
    }
    assert!(passed > 9_900_000);
}
