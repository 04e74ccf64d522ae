//! What stands between the transport and the core: a request goes in, and what comes of it leaves
//! only once it is recorded.

use identity::{BootId, PublicKey};
use protocol::{Answer, Request};
use record::Decision;

use crate::Error;

/// What the transport serves.
pub trait Service: Send + Sync + 'static {
    /// Random for each boot.
    fn boot_id(&self) -> BootId;

    /// Random bytes, for one connection to sign.
    fn challenge(&self) -> Result<[u8; 32], Error>;

    /// The key that connections must prove, once there is a policy.
    fn proxy_key(&self) -> Option<&PublicKey>;

    /// Does what is asked over a connection that proved `proxy_key`.
    fn handle(&self, request: Request, proxy_key: &PublicKey) -> Outcome;

    /// Records what was decided, with one signature for all, and lets it leave; after a failure
    /// nothing of it does.
    fn release(&self, batch: Vec<Outcome>) -> Vec<Released>;
}

/// What came of a request, and what of it the record takes. It must not leave before its decision
/// is recorded, and cannot: [`release`] alone opens it.
#[derive(Debug)]
pub struct Outcome {
    answer: Result<Answer, Error>,
    decision: Option<Decision>,
}

/// What came of a request, free to leave with its event.
#[derive(Debug, PartialEq, Eq)]
pub struct Released {
    /// The answer, or why there is none.
    pub answer: Result<Answer, Error>,
    /// The event of the record, a line without its end, if anything was decided.
    pub event: Option<Vec<u8>>,
}

impl Outcome {
    /// An answer, or why there is none, and what was decided, if anything was.
    pub(crate) fn new(answer: Result<Answer, Error>, decision: Option<Decision>) -> Self {
        Self { answer, decision }
    }

    /// A refusal of which the record learns nothing.
    pub(crate) fn refused(error: Error) -> Self {
        Self {
            answer: Err(error),
            decision: None,
        }
    }
}

/// Opens a batch. `seal` gives decisions their lines in the record, one for each, in their order.
pub(crate) fn release(
    mut batch: Vec<Outcome>,
    seal: impl FnOnce(Vec<Decision>) -> Result<Vec<Vec<u8>>, Error>,
) -> Vec<Released> {
    let recorded: Vec<bool> = batch
        .iter()
        .map(|outcome| outcome.decision.is_some())
        .collect();
    let decisions = batch
        .iter_mut()
        .filter_map(|outcome| outcome.decision.take())
        .collect();
    let mut events = match seal(decisions) {
        Ok(lines) => lines.into_iter(),
        Err(error) => {
            return batch
                .iter()
                .map(|_| Released {
                    answer: Err(error.clone()),
                    event: None,
                })
                .collect();
        }
    };
    let open = |(outcome, recorded): (Outcome, bool)| Released {
        answer: outcome.answer,
        event: if recorded { events.next() } else { None },
    };
    batch.into_iter().zip(recorded).map(open).collect()
}

#[cfg(test)]
mod tests {
    use protocol::Records;

    use super::*;
    use crate::audit::Trail;

    fn answer(next: u64) -> Result<Answer, Error> {
        Ok(Answer::Records(Records {
            lines: Vec::new(),
            next,
        }))
    }

    fn decision() -> Option<Decision> {
        Some(Trail::new(identity::Digest([0; 48]), "token.sign", "default").compose(None))
    }

    #[test]
    fn each_answer_leaves_with_its_own_event_and_after_a_failure_none_leaves() {
        let batch = || {
            vec![
                Outcome::new(answer(1), decision()),
                Outcome::new(answer(2), None),
                Outcome::refused(Error::Busy),
                Outcome::new(Err(Error::Halted), decision()),
            ]
        };
        let lines = |decisions: Vec<Decision>| {
            assert_eq!(decisions.len(), 2);
            Ok(vec![b"one".to_vec(), b"two".to_vec()])
        };
        let released = |answer, event: Option<&str>| Released {
            answer,
            event: event.map(|event| event.into()),
        };
        assert_eq!(
            release(batch(), lines),
            [
                released(answer(1), Some("one")),
                released(answer(2), None),
                released(Err(Error::Busy), None),
                released(Err(Error::Halted), Some("two")),
            ]
        );
        let failed = release(batch(), |_| Err(Error::SelfCheckFailed));
        assert_eq!(failed.len(), 4);
        assert!(
            failed
                .iter()
                .all(|released| released.answer == Err(Error::SelfCheckFailed)
                    && released.event.is_none())
        );
    }
}
