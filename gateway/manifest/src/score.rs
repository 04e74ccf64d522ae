//! Trust scores, from 0 (none) to 10.

use crate::{Manifest, Retention, Reversible, TrustLevel};

impl Manifest {
    /// The score of the reference architecture: of the trust level 10, 7, 5, 2 or 0; what can be
    /// undone +2; ephemeral retention +1, permanent or forever -1; people who see the data -2; data
    /// that trains models -1.
    pub fn trust_score(&self) -> u8 {
        let base = match self.trust_level {
            TrustLevel::VerifiedPartner => 10,
            TrustLevel::Trusted => 7,
            TrustLevel::Standard => 5,
            TrustLevel::Unknown => 2,
            TrustLevel::Untrusted => 0,
        };
        let reversibility = if self.is_reversible() { 2 } else { 0 };
        let retention = match self.privacy.retention {
            Retention::Ephemeral => 1,
            Retention::Temporary => 0,
            Retention::Permanent | Retention::Forever => -1,
        };
        let human = if self.privacy.human_in_loop { -2 } else { 0 };
        let training = if self.privacy.training_consent { -1 } else { 0 };
        clamped(base + reversibility + retention + human + training)
    }

    /// The score of the Python SDK: 5; of the trust level +3, +2, 0, -2 or -5; idempotent +1; what can
    /// be undone +1; ephemeral retention +2, permanent or forever -2; no people who see the data +1.
    pub fn python_trust_score(&self) -> u8 {
        let level = match self.trust_level {
            TrustLevel::VerifiedPartner => 3,
            TrustLevel::Trusted => 2,
            TrustLevel::Standard => 0,
            TrustLevel::Unknown => -2,
            TrustLevel::Untrusted => -5,
        };
        let retention = match self.privacy.retention {
            Retention::Ephemeral => 2,
            Retention::Temporary => 0,
            Retention::Permanent | Retention::Forever => -2,
        };
        let idempotent = i8::from(self.capabilities.idempotency);
        let reversible = i8::from(self.is_reversible());
        let unseen = i8::from(!self.privacy.human_in_loop);
        clamped(5 + level + retention + idempotent + reversible + unseen)
    }

    /// Of what the Python SDK warns: its score below 5; what cannot be undone; what is not idempotent;
    /// data that is kept for good, or that people see.
    pub fn python_warnings(&self) -> Vec<String> {
        let score = self.python_trust_score();
        let all = [
            (
                score < 5,
                format!("the agent's trust score is {score} of 10"),
            ),
            (
                !self.is_reversible(),
                "what the agent does cannot be undone".into(),
            ),
            (
                !self.capabilities.idempotency,
                "a request that comes twice may be done twice".into(),
            ),
            (
                self.keeps_for_good(),
                "the agent keeps data for good".into(),
            ),
            (self.privacy.human_in_loop, "people may see the data".into()),
        ];
        all.into_iter()
            .filter_map(|(holds, warning)| holds.then_some(warning))
            .collect()
    }

    /// Whether the Python SDK quarantines what is overridden: at a score below 3, where nothing can be
    /// undone and data is kept for good, or where the agent is untrusted.
    pub fn python_quarantines(&self) -> bool {
        self.python_trust_score() < 3
            || !self.is_reversible() && self.keeps_for_good()
            || self.trust_level == TrustLevel::Untrusted
    }

    fn keeps_for_good(&self) -> bool {
        matches!(
            self.privacy.retention,
            Retention::Permanent | Retention::Forever
        )
    }

    fn is_reversible(&self) -> bool {
        self.reversibility.level != Reversible::None
    }
}

fn clamped(score: i8) -> u8 {
    score.clamp(0, 10).unsigned_abs()
}
