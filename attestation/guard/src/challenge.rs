//! Challenges of the service, which evidence must answer.

use identity::UnixSeconds;

use crate::Error;

/// A challenge is given out for so long, and accepted for as long again.
pub const CHALLENGE_SECONDS: i64 = 60;

pub(crate) type Challenge = [u8; 32];

/// The challenge of this minute and that of the last. All callers share them: a challenge says
/// *since when*, not *for whom*, so there is nothing to remember for anybody, and nothing that a
/// flood of callers could fill.
#[derive(Debug, Default)]
pub(crate) struct Challenges {
    current: Option<(UnixSeconds, Challenge)>,
    last: Option<(UnixSeconds, Challenge)>,
}

impl Challenges {
    /// The challenge to give out at `now`.
    pub(crate) fn current(
        &mut self,
        now: UnixSeconds,
        random: impl FnOnce() -> Result<Challenge, Error>,
    ) -> Result<Challenge, Error> {
        if let Some((_, given)) = self
            .current
            .filter(|(begun, _)| now < begun.plus(CHALLENGE_SECONDS))
        {
            return Ok(given);
        }
        let fresh = random()?;
        self.last = self.current;
        self.current = Some((now, fresh));
        Ok(fresh)
    }

    /// Those that evidence may answer at `now`.
    pub(crate) fn accepted(&self, now: UnixSeconds) -> impl Iterator<Item = Challenge> {
        let young =
            move |(begun, _): &(UnixSeconds, Challenge)| now < begun.plus(2 * CHALLENGE_SECONDS);
        self.current
            .into_iter()
            .chain(self.last)
            .filter(young)
            .map(|(_, challenge)| challenge)
    }

    /// Nothing that was given out is accepted any longer.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_given_for_a_minute_and_accepted_for_two() {
        let mut challenges = Challenges::default();
        let mut next = 0;
        let mut at = |seconds| {
            let given = challenges.current(UnixSeconds(seconds), || {
                next += 1;
                Ok([next; 32])
            });
            (
                given.unwrap()[0],
                challenges
                    .accepted(UnixSeconds(seconds))
                    .map(|challenge| challenge[0])
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(at(1000), (1, vec![1]));
        assert_eq!(at(1059), (1, vec![1]));
        assert_eq!(at(1060), (2, vec![2, 1]));
        assert_eq!(at(1119), (2, vec![2, 1]));
        assert_eq!(at(1120), (3, vec![3, 2]));
        // Two minutes after it was first given out, it is over, no matter who asked in between or did
        // not.
        assert_eq!(at(1179), (3, vec![3, 2]));
        assert_eq!(at(1240), (4, vec![4]));
        assert_eq!(at(1359), (5, vec![5, 4]));
        assert_eq!(at(1360), (5, vec![5]));
    }

    #[test]
    fn without_randomness_there_is_no_challenge() {
        let mut challenges = Challenges::default();
        assert_eq!(
            challenges.current(UnixSeconds(1), || Err(Error::NoRandomness)),
            Err(Error::NoRandomness)
        );
        assert_eq!(challenges.accepted(UnixSeconds(1)).count(), 0);
    }
}
