//! Bodies that are looked at whole, or in which a credential is put: nothing of a call leaves before all of its body has come.

use std::time::Duration;

use broker::{Asked, MAX_PLACED, MAX_PRICED};
use bytes::{Bytes, BytesMut};
use identity::sha256;
use protocol::{CallKind, CountedBody};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::body::Piece;
use crate::frames::FramesFrom;
use crate::wire::{Call, CountedCall, Ending};

/// Such bodies at a time: 2 MiB each, and once more where a credential is put in.
static PLACES: Semaphore = Semaphore::const_new(16);
/// For a place among them.
const PLACE_WITHIN: Duration = Duration::from_secs(10);
/// For all of a body.
const COME_WITHIN: Duration = Duration::from_secs(60);
const _: () = assert!(MAX_PLACED == MAX_PRICED);

/// All of a body.
pub(crate) struct Whole {
    /// As it is sent.
    pub(crate) piece: Piece,
    /// How long that is.
    pub(crate) length: u64,
}

/// Bytes whose place is given back when nobody holds them any more.
struct InPlace<B>(
    B,
    #[expect(dead_code, reason = "it is held")] SemaphorePermit<'static>,
);

impl<B: AsRef<[u8]>> AsRef<[u8]> for InPlace<B> {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

/// Whether the body of a call is such a one.
pub(crate) fn is_wanted(call: &Call) -> bool {
    call.counted.is_some() || (call.field.is_some() && !call.websocket)
}

/// Takes all of the body of a call, if it is what was decided on.
pub(crate) async fn gather(
    from: &mut FramesFrom,
    first: Option<(CallKind, Bytes)>,
    call: &Call,
) -> Result<Whole, Ending> {
    let place = timeout(PLACE_WITHIN, PLACES.acquire()).await;
    let place = place.ok().and_then(Result::ok).ok_or(Ending::ServiceBusy)?;
    let came = timeout(COME_WITHIN, all(from, first)).await;
    let came = came.unwrap_or(Err(Ending::Aborted))?;
    if call
        .length
        .is_some_and(|length| length != came.len() as u64)
    {
        return Err(Ending::Aborted);
    }
    let is_other = |wanted| wanted != sha256(&came);
    let asks_other = |counted: &CountedCall| !asks(counted, &came);
    if call.body.is_some_and(is_other) || call.counted.as_ref().is_some_and(asks_other) {
        return Err(Ending::BodyMismatch);
    }
    let Some(field) = &call.field else {
        return Ok(Whole {
            length: came.len() as u64,
            piece: Piece::Data(Bytes::from_owner(InPlace(came, place))),
        });
    };
    let placed = field.to_field().place_in_body(&came);
    let placed = placed.map_err(|_| Ending::PlaceholderMisplaced)?;
    Ok(Whole {
        length: placed.len() as u64,
        piece: Piece::Placed {
            sent: Bytes::from_owner(InPlace(placed, place)),
            came,
        },
    })
}

async fn all(from: &mut FramesFrom, mut first: Option<(CallKind, Bytes)>) -> Result<Bytes, Ending> {
    let mut came = BytesMut::new();
    loop {
        let frame = match first.take() {
            Some(frame) => Some(frame),
            None => from.frame().await,
        };
        match frame.ok_or(Ending::Aborted)? {
            (CallKind::Data, bytes) => {
                came.extend_from_slice(&bytes);
                if came.len() > MAX_PLACED {
                    return Err(Ending::BodyMismatch);
                }
            }
            (CallKind::End, _) => return Ok(came.freeze()),
            _ => return Err(Ending::Aborted),
        }
    }
}

/// Whether a body asks what was decided on.
fn asks(counted: &CountedCall, body: &[u8]) -> bool {
    let asked = counted.form().map(|form| Asked::read(form, body));
    let Some(Ok(asked)) = asked else {
        return false;
    };
    let asked = CountedBody {
        model: asked.model,
        input: asked.most.input,
        output: asked.most.output,
    };
    asked == counted.body
}
