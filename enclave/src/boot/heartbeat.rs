//! nitro-cli waits for a sign of life: a byte to its port 9000, and the same byte back.

use std::io::{Read, Write};
use std::time::Duration;

use vsock::{VsockAddr, VsockStream};

const PORT: u32 = 9000;
const BEAT: u8 = 0xb7;
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);

/// Best effort: nothing waits for it, and what comes back decides nothing.
pub(super) fn beat(parent: u32) {
    let Ok(mut stream) = VsockStream::connect(&VsockAddr::new(parent, PORT)) else {
        return;
    };
    let timed = stream
        .set_read_timeout(Some(HEARTBEAT_TIMEOUT))
        .and_then(|()| stream.set_write_timeout(Some(HEARTBEAT_TIMEOUT)));
    if timed.and_then(|()| stream.write_all(&[BEAT])).is_ok() {
        let _ = stream.read(&mut [0; 1]);
    }
}
