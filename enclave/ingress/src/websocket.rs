//! A WebSocket of an agent: its bytes pass as they are. The process of the service reads them.

use std::future::pending;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use protocol::CallKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink, split};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;
use upstream::{FramesFrom, FramesTo};

use crate::heard::next;

const BUFFER: usize = 32 * 1024;
/// For an agent to read what was said last.
const LINGER: Duration = Duration::from_secs(2);

/// Passes bytes both ways until one side ends. The lines are nobody's behind that.
pub(crate) async fn pass(
    upgrading: OnUpgrade,
    mut from: OwnedMutexGuard<FramesFrom>,
    mut to: OwnedMutexGuard<FramesTo>,
) {
    let Ok(agent) = upgrading.await else {
        return;
    };
    let (mut heard, mut told) = split(TokioIo::new(agent));
    let there = async {
        let mut said = BytesMut::new();
        loop {
            said.reserve(BUFFER.min(to.most()));
            match heard.read_buf(&mut said).await {
                Ok(read) if read > 0 => {}
                _ => return,
            }
            for piece in said.chunks(to.most()) {
                if to.write(CallKind::Data, piece).await.is_err() {
                    // Nobody takes it any more: what is answered counts.
                    return pending().await;
                }
            }
            said.clear();
        }
    };
    let back = async {
        while let Some((CallKind::Data, bytes)) = next(&mut from).await {
            let mut bytes: Bytes = bytes;
            if told.write_all_buf(&mut bytes).await.is_err() || told.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => return,
        () = back => {}
    }
    // An agent that is still speaking would lose what it has not read, if it were not heard out.
    let _ = told.shutdown().await;
    let _ = timeout(LINGER, copy(&mut heard, &mut sink())).await;
}
