//! Bodies that are signed for an agent, or that somebody may have to approve: here whole before anything is
//! asked.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use broker::counted;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use identity::{Digest, sha256};
use policy::Priced;
use protocol::CountedBody;
use tokio::time::{Instant, timeout_at};

use crate::refusal::{Refusal, Refused};

/// A longer one is passed on without its digest, of which the rules then know nothing.
const MAX_WHOLE: usize = 2 * 1024 * 1024;
/// What an approver is shown of a body; of a longer one its digest.
const MAX_SHOWN: usize = 8 * 1024;
const WITHIN: Duration = Duration::from_secs(60);
/// Bodies that are longer than this are kept in memory one of so many at a time.
const MAX_SHORT: usize = 64 * 1024;
const MAX_LONG: usize = 8;
const MAX_OF_ONE: usize = 2;

/// How many each caller has.
static LONG: Mutex<BTreeMap<u64, usize>> = Mutex::new(BTreeMap::new());

/// A place for a long body, until it is dropped.
struct Place(u64);

impl Place {
    /// One more of this caller's; none if it has as many as it may, or if all have.
    fn take(caller: u64) -> Option<Self> {
        let mut all = LONG.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = all.values().sum();
        let own = all.get(&caller).copied().unwrap_or_default();
        if own >= MAX_OF_ONE || total >= MAX_LONG {
            return None;
        }
        all.insert(caller, own + 1);
        Some(Self(caller))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = LONG.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&self.0) {
            *own -= 1;
            if *own == 0 {
                all.remove(&self.0);
            }
        }
    }
}

/// What is known of a body, and what of it came already.
#[derive(Default)]
pub(crate) struct Whole {
    pub(crate) begun: Bytes,
    pub(crate) digest: Option<Digest<32>>,
    /// The body itself, if it is text and short.
    pub(crate) text: Option<String>,
    /// What it asks of a model, where that is counted.
    pub(crate) counted: Option<CountedBody>,
    /// Until it has been sent.
    place: Option<Place>,
}

impl Whole {
    /// Whether it has one of the places for long ones.
    pub(crate) fn is_long(&self) -> bool {
        self.place.is_some()
    }

    /// Takes a body, as far as it is one that can be kept.
    pub(crate) async fn take(
        body: &mut Incoming,
        priced: Option<&Priced>,
        caller: u64,
    ) -> Result<Self, Refused> {
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
                place = Some(Place::take(caller).ok_or(Refusal::ServiceBusy)?);
            }
            if came.len() > MAX_WHOLE {
                break false;
            }
        };
        let (mut begun, mut asks) = (came.freeze(), None);
        if let Some(priced) = priced {
            let (asked, mended) =
                counted(priced, &begun).map_err(|error| Refusal::BodyNotPriced.because(&error))?;
            begun = mended.map_or(begun, Bytes::from);
            asks = Some(CountedBody {
                model: asked.model,
                input: asked.most.input,
                output: asked.most.output,
            });
        }
        let text = Some(&begun).filter(|bytes| is_whole && bytes.len() <= MAX_SHOWN);
        Ok(Self {
            digest: is_whole.then(|| sha256(&begun)),
            text: text.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok()),
            begun,
            counted: asks,
            place,
        })
    }
}
