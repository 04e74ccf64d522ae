#![no_main]

//! Bytes as a text and as events that come in two parts, cut where the first byte says. What is
//! written of the parts is what is written of the whole; what is no error at once is none in parts.

use inspect::{Error, Framing, Kind, Kinds, Stream};
use libfuzzer_sys::fuzz_target;

fn written(framing: Framing, masked: Kinds, parts: &[&[u8]]) -> Result<(Vec<u8>, Kinds), Error> {
    let all = Kind::ALL.into_iter().collect();
    let mut stream = Stream::new(framing, all, masked, 1 << 20);
    let mut out = Vec::new();
    for part in parts {
        stream.push(part, &mut out)?;
    }
    stream.finish(&mut out)?;
    Ok((out, stream.kinds()))
}

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let all: Kinds = Kind::ALL.into_iter().collect();
    let (begin, end) = data.split_at(usize::from(*first).min(data.len()));
    for framing in [Framing::Text, Framing::Lines, Framing::Events] {
        // Without masks every byte stays.
        if let Ok((out, kinds)) = written(framing, Kinds::default(), &[data]) {
            assert_eq!(out, data);
            let parts = written(framing, Kinds::default(), &[begin, end]).expect("as the whole");
            assert_eq!(parts, (out, kinds));
        }
        let whole = written(framing, all, &[data]);
        let parts = written(framing, all, &[begin, end]);
        assert_eq!(whole.is_ok(), parts.is_ok());
        if let (Ok((_, whole)), Ok((_, parts))) = (whole, parts) {
            assert_eq!(whole, parts);
        }
    }
});
