#![no_main]

//! Bytes as they come through the window, whole and in pieces; each frame as everything that could
//! stand in it.

use identity::cbor;
use libfuzzer_sys::fuzz_target;
use minicbor::{Decode, Encode};
use protocol::{
    ChannelProof, ExitReason, FrameBuffer, Hello, RequestFrame, ResponseFrame, Welcome, write_frame,
};

fuzz_target!(|data: &[u8]| {
    let whole = frames(data, data.len().max(1));
    assert_eq!(whole, frames(data, 7));
    for frame in &whole {
        one_encoding::<RequestFrame>(frame);
        one_encoding::<ResponseFrame>(frame);
        one_encoding::<Welcome>(frame);
        one_encoding::<ExitReason>(frame);
        if let (Ok(hello), Ok(proof)) = (Hello::decode(frame), ChannelProof::decode(frame)) {
            let _ = proof.verify(&hello);
        }
    }
});

/// The whole frames, as they come out of pieces of this size.
fn frames(data: &[u8], size: usize) -> Vec<Vec<u8>> {
    let mut buffer = FrameBuffer::default();
    let mut frames = Vec::new();
    for piece in data.chunks(size) {
        buffer.push(piece);
        loop {
            match buffer.next_frame() {
                Ok(Some(frame)) => frames.push(frame.to_vec()),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}

fn one_encoding<T: for<'b> Decode<'b, ()> + Encode<()>>(frame: &[u8]) {
    if let Ok(message) = cbor::from_slice::<T>(frame) {
        let mut written = Vec::new();
        write_frame(&message, &mut written).expect("it came in a frame");
        assert_eq!(&written[4..], frame);
    }
}
