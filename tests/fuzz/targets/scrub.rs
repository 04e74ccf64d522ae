#![no_main]

//! Bytes as an answer, a credential in it in some form, and pieces in which it comes. It is always found;
//! where it is masked, all else stays as it is; and an answer without it passes byte by byte.

use broker::{Needles, Scrubber};
use libfuzzer_sys::fuzz_target;
use policy::Scrub;

const SECRET: &[u8] = b"sk-live-\"9b2f/6c+1e<0d>8a&4f";

fn passed(needles: &Needles, mode: Scrub, text: &[u8], cut: usize) -> Option<Vec<u8>> {
    let mut scrubber = Scrubber::new(needles, mode);
    let mut out = Vec::new();
    for piece in text.chunks(cut) {
        out.extend(scrubber.push(piece.to_vec().into()).ok()?);
    }
    out.extend(scrubber.finish());
    Some(out)
}

fn forms(before: &[u8], after: &[u8], kind: u8) -> Vec<u8> {
    let around = [before, SECRET, after].concat();
    match kind % 6 {
        0 => data_encoding::BASE64.encode(&around).into_bytes(),
        1 => data_encoding::BASE64URL_NOPAD.encode(&around).into_bytes(),
        2 => data_encoding::HEXUPPER.encode(&around).into_bytes(),
        3 => url::form_urlencoded::byte_serialize(&around)
            .collect::<String>()
            .into_bytes(),
        4 => serde_json::to_vec(&String::from_utf8_lossy(&around)).expect("a string"),
        _ => around,
    }
}

fuzz_target!(|data: &[u8]| {
    let [kind, cut, at, rest @ ..] = data else {
        return;
    };
    let needles = Needles::new(&[SECRET]);
    let cut = usize::from(*cut) + 1;
    let (before, after) = rest.split_at(usize::from(*at).min(rest.len()));
    let text = forms(before, after, *kind);
    assert_eq!(passed(&needles, Scrub::Refuse, &text, cut), None);
    let masked = passed(&needles, Scrub::Replace, &text, cut).expect("masked");
    assert_eq!(masked.len(), text.len());
    assert!(!needles.stand_in(&masked));
    if !needles.stand_in(rest) {
        assert_eq!(
            passed(&needles, Scrub::Refuse, rest, cut).as_deref(),
            Some(rest)
        );
    }
});
