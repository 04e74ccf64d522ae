//! What stands between the transport and the core: a request goes in, and what comes of it leaves
//! only once it is recorded.

use identity::{BootId, PublicKey};
use protocol::{Answer, Request};
use record::Decision;

use crate::Error;
use crate::keys::UncheckedSignature;

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
    answer: Result<Unreleased<Answer>, Error>,
    decision: Option<Decision>,
}

/// What was made, perhaps with signatures that nobody has checked. Only [`release`] opens it.
pub(crate) struct Unreleased<T> {
    value: T,
    unchecked: Vec<UncheckedSignature>,
}

impl<T> Unreleased<T> {
    pub(crate) fn new(value: T, unchecked: Vec<UncheckedSignature>) -> Self {
        Self { value, unchecked }
    }

    pub(crate) fn map<U>(self, with: impl FnOnce(T) -> U) -> Unreleased<U> {
        Unreleased {
            value: with(self.value),
            unchecked: self.unchecked,
        }
    }

    /// Checks by itself, as a batch of one would be.
    pub(crate) fn checked(self) -> Result<T, Error> {
        self.unchecked
            .iter()
            .try_for_each(UncheckedSignature::check)?;
        Ok(self.value)
    }
}

/// What no key signed, or whose signatures were checked where they were made.
impl From<Answer> for Unreleased<Answer> {
    fn from(answer: Answer) -> Self {
        Self::new(answer, Vec::new())
    }
}

impl<T> std::fmt::Debug for Unreleased<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unreleased")
            .field("unchecked", &self.unchecked.len())
            .finish()
    }
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
    pub(crate) fn new(
        answer: Result<Unreleased<Answer>, Error>,
        decision: Option<Decision>,
    ) -> Self {
        Self { answer, decision }
    }

    /// Nobody asked, and so nobody is answered: only the record learns of it.
    pub(crate) fn noted(decision: Decision) -> Self {
        Self {
            answer: Err(Error::Busy),
            decision: Some(decision),
        }
    }

    /// A refusal of which the record learns nothing.
    pub(crate) fn refused(error: Error) -> Self {
        Self {
            answer: Err(error),
            decision: None,
        }
    }
}

/// Opens a batch. `seal` gives decisions their lines in the record, one for each, in their order;
/// `check` checks all signatures, those of the record among them; then `publish` gives the lines to
/// all who ask for them. After either of the first two has failed nothing leaves.
pub(crate) fn release<S>(
    batch: Vec<Outcome>,
    seal: impl FnOnce(Vec<Decision>) -> Result<Unreleased<S>, Error>,
    check: impl FnOnce(&[UncheckedSignature]) -> Result<(), Error>,
    publish: impl FnOnce(S) -> Vec<Vec<u8>>,
) -> Vec<Released> {
    let mut unchecked = Vec::new();
    let mut decisions = Vec::new();
    let mut opened = Vec::with_capacity(batch.len());
    for Outcome { answer, decision } in batch {
        let recorded = decision.is_some();
        decisions.extend(decision);
        let answer = answer.map(|answer| {
            unchecked.extend(answer.unchecked);
            answer.value
        });
        opened.push((answer, recorded));
    }
    let lines = seal(decisions).and_then(|sealed| {
        unchecked.extend(sealed.unchecked);
        check(&unchecked)?;
        Ok(publish(sealed.value))
    });
    match lines {
        Ok(lines) => {
            let mut events = lines.into_iter();
            let open = |(answer, recorded)| Released {
                answer,
                event: if recorded { events.next() } else { None },
            };
            opened.into_iter().map(open).collect()
        }
        Err(error) => {
            let refused = |_| Released {
                answer: Err(error.clone()),
                event: None,
            };
            opened.into_iter().map(refused).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::Records;

    use super::*;
    use crate::audit::Trail;
    use crate::keys::check_all;

    fn answer(next: u64) -> Answer {
        Answer::Records(Records {
            lines: Vec::new(),
            next,
        })
    }

    fn decision() -> Option<Decision> {
        Some(Trail::new(identity::Digest([0; 48]), "token.sign", "default").compose(None))
    }

    #[test]
    fn each_answer_leaves_with_its_own_event_and_after_a_failure_none_leaves() {
        let batch = || {
            vec![
                Outcome::new(Ok(answer(1).into()), decision()),
                Outcome::new(Ok(answer(2).into()), None),
                Outcome::refused(Error::Busy),
                Outcome::new(Err(Error::Halted), decision()),
            ]
        };
        let seal = |decisions: Vec<Decision>| {
            assert_eq!(decisions.len(), 2);
            let lines = vec![b"one".to_vec(), b"two".to_vec()];
            Ok(Unreleased::new(lines, Vec::new()))
        };
        let released = |answer, event: Option<&str>| Released {
            answer,
            event: event.map(|event| event.into()),
        };
        assert_eq!(
            release(batch(), seal, |_| Ok(()), |lines| lines),
            [
                released(Ok(answer(1)), Some("one")),
                released(Ok(answer(2)), None),
                released(Err(Error::Busy), None),
                released(Err(Error::Halted), Some("two")),
            ]
        );
        let unpublished = |_| panic!("nothing is published of what was not good");
        let unsealed = |_| Err(Error::SelfCheckFailed);
        let unchecked = |_: &[_]| panic!("there is nothing to check");
        for failed in [
            release(batch(), unsealed, unchecked, unpublished),
            release(batch(), seal, |_| Err(Error::SelfCheckFailed), unpublished),
        ] {
            assert_eq!(failed.len(), 4);
            let nothing = |released: &Released| {
                released.answer == Err(Error::SelfCheckFailed) && released.event.is_none()
            };
            assert!(failed.iter().all(nothing));
        }
    }

    /// Of two answers and the line of the record, each in turn: one signature that is not good, and
    /// nothing of the three leaves.
    #[test]
    fn a_faulty_signature_of_an_answer_or_of_the_record_lets_nothing_leave() {
        let none = |_: &mut [u8]| panic!("one of them needs no weights");
        let weights = |out: &mut [u8]| crate::Entropy::fill(&crate::OsEntropy, out);
        for faulty in [None, Some(0), Some(1), Some(2)] {
            let signed = |n: usize| {
                let good = UncheckedSignature::good(n);
                vec![if faulty == Some(n) {
                    good.damaged()
                } else {
                    good
                }]
            };
            let batch = vec![
                Outcome::new(Ok(Unreleased::new(answer(1), signed(0))), None),
                Outcome::new(Ok(Unreleased::new(answer(2), signed(1))), decision()),
            ];
            let mut published = false;
            let released = release(
                batch,
                |_| Ok(Unreleased::new(vec![b"line".to_vec()], signed(2))),
                |all| {
                    assert_eq!(all.len(), 3);
                    check_all(&all[..1], none).and(check_all(all, weights))
                },
                |lines| {
                    published = true;
                    lines
                },
            );
            let left = released
                .iter()
                .filter(|one| one.answer.is_ok() || one.event.is_some());
            let wanted = if faulty.is_none() { 2 } else { 0 };
            assert_eq!((left.count(), published), (wanted, faulty.is_none()));
        }
    }

    #[test]
    fn what_is_not_released_is_not_shown() {
        let answer = Unreleased::from(answer(7));
        assert_eq!(format!("{answer:?}"), "Unreleased { unchecked: 0 }");
    }
}
