//! What comes from a service.

use std::time::Duration;

use bytes::Bytes;
use protocol::CallKind;
use tokio::time::timeout;
use upstream::FramesFrom;

/// For the next piece of an answer: the process of a service gives up after ten minutes.
const SILENCE: Duration = Duration::from_secs(630);

/// The next frame of a call that is under way; none if the line ends.
pub(crate) async fn next(from: &mut FramesFrom) -> Option<(CallKind, Bytes)> {
    timeout(SILENCE, from.frame()).await.ok().flatten()
}
