//! Bodies that are signed for an agent, or that somebody may have to approve: here whole before anything is
//! asked.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use identity::{Digest, sha256};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::refusal::Refusal;

/// A longer one is passed on without its digest, of which the rules then know nothing.
const MAX_WHOLE: usize = 1024 * 1024;
/// What an approver is shown of a body; of a longer one its digest.
const MAX_SHOWN: usize = 8 * 1024;
const WITHIN: Duration = Duration::from_secs(60);
/// Bodies that are longer than this are kept in memory one of so many at a time.
const MAX_SHORT: usize = 64 * 1024;
const MAX_LONG: usize = 16;

static LONG: Semaphore = Semaphore::const_new(MAX_LONG);

/// What is known of a body, and what of it came already.
#[derive(Default)]
pub(crate) struct Whole {
    pub(crate) begun: Bytes,
    pub(crate) digest: Option<Digest<32>>,
    /// The body itself, if it is text and short.
    pub(crate) text: Option<String>,
    /// Until it has been sent.
    _place: Option<SemaphorePermit<'static>>,
}

impl Whole {
    /// Takes a body, as far as it is one that can be kept.
    pub(crate) async fn take(body: &mut Incoming) -> Result<Self, Refusal> {
        let until = Instant::now() + WITHIN;
        let (mut came, mut place) = (BytesMut::new(), None);
        let is_whole = loop {
            let next = timeout_at(until, body.frame()).await;
            let Some(frame) = next.map_err(|_| Refusal::BodyBroken)? else {
                break true;
            };
            let frame = frame.map_err(|_| Refusal::BodyBroken)?;
            if let Ok(bytes) = frame.into_data() {
                came.extend_from_slice(&bytes);
            }
            if came.len() > MAX_SHORT && place.is_none() {
                let waited = timeout_at(until, LONG.acquire()).await;
                let got = waited.ok().and_then(Result::ok);
                place = Some(got.ok_or(Refusal::BodyBroken)?);
            }
            if came.len() > MAX_WHOLE {
                break false;
            }
        };
        let begun = came.freeze();
        let text = Some(&begun).filter(|bytes| is_whole && bytes.len() <= MAX_SHOWN);
        Ok(Self {
            digest: is_whole.then(|| sha256(&begun)),
            text: text.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok()),
            begun,
            _place: place,
        })
    }
}
