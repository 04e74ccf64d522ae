//! Frames on a line for calls, sealed where the parent must not read them.

use std::io;

use broker::FrameKey;
use bytes::{Bytes, BytesMut};
use protocol::{CallFrame, CallFrames, CallKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::lines::Line;

/// What comes over a line.
pub struct FramesFrom {
    line: ReadHalf<Line>,
    frames: CallFrames,
    key: Option<FrameKey>,
}

/// What goes over a line: frames that follow each other go together.
pub struct FramesTo {
    line: WriteHalf<Line>,
    waiting: BytesMut,
    key: Option<FrameKey>,
}

/// Both ways of a line.
pub fn frames(line: Line) -> (FramesFrom, FramesTo) {
    let (from, to) = tokio::io::split(line);
    let from = FramesFrom {
        line: from,
        frames: CallFrames::default(),
        key: None,
    };
    let to = FramesTo {
        line: to,
        waiting: BytesMut::new(),
        key: None,
    };
    (from, to)
}

/// What is the caller's business and the service's, and not the parent's. Why there is no answer is told to
/// the parent, which tells the caller.
fn is_sealed(kind: CallKind) -> bool {
    matches!(kind, CallKind::Data | CallKind::End | CallKind::Head)
}

impl FramesFrom {
    /// From here on frames of a call are sealed under this key, or not any more.
    pub fn unseal(&mut self, key: Option<FrameKey>) {
        self.key = key;
    }

    /// The next frame; none if the line ends, or makes no sense.
    pub async fn frame(&mut self) -> Option<(CallKind, Bytes)> {
        loop {
            if let Some((kind, bytes)) = self.frames.next_frame().ok()? {
                return match &mut self.key {
                    Some(key) if is_sealed(kind) => {
                        let opened = key.open(kind as u8, bytes.into())?;
                        Some((kind, opened.into()))
                    }
                    _ => Some((kind, bytes)),
                };
            }
            self.more().await.ok()?;
        }
    }

    /// Waits until the line has ended. Once something has come behind the frames that were taken, nobody looks.
    pub(crate) async fn gone(&mut self) {
        if self.more().await.is_ok() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until something has come behind the frames that were taken.
    pub async fn more(&mut self) -> io::Result<()> {
        match self.line.read_buf(self.frames.room()).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl FramesTo {
    /// From here on frames of a call are sealed under this key, or not any more.
    pub fn seal(&mut self, key: Option<FrameKey>) {
        self.key = key;
    }

    /// How many bytes a frame may have.
    pub fn most(&self) -> usize {
        match self.key {
            Some(_) => CallFrame::MAX_BYTES - FrameKey::OVERHEAD,
            None => CallFrame::MAX_BYTES,
        }
    }

    /// How many bytes wait to go.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A frame that goes with what follows.
    ///
    /// # Panics
    /// If it has more bytes than it may.
    pub fn put(&mut self, kind: CallKind, bytes: &[u8]) {
        match &mut self.key {
            Some(key) if is_sealed(kind) => {
                let mut sealed = Vec::with_capacity(bytes.len() + FrameKey::OVERHEAD);
                sealed.extend_from_slice(bytes);
                let tag = key.seal(kind as u8, &mut sealed);
                sealed.extend_from_slice(&tag);
                CallFrame::write(kind, &sealed, &mut self.waiting);
            }
            _ => CallFrame::write(kind, bytes, &mut self.waiting),
        }
    }

    /// A frame that goes now, and all before it.
    pub async fn write(&mut self, kind: CallKind, bytes: &[u8]) -> io::Result<()> {
        self.put(kind, bytes);
        self.flush().await
    }

    /// Whoever stops to wait for this leaves no half of a frame behind: what is left goes first later.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.line.write_all_buf(&mut self.waiting).await
    }
}
