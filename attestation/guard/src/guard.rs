//! Tokens and evidence in, admitted callers out.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use attestation::{AttestedSigner, Evidence, Expectations, Refusal, Verifier, unverified_nonce};
use data_encoding::HEXLOWER;
use identity::token::{Claims, unverified_key};
use identity::{Did, UnixSeconds, did};

use crate::challenge::{Challenge, Challenges};
use crate::known::{Holder, Known, KnownKeys};
use crate::replay::ReplayCache;
use crate::{Admitted, Error, Purpose, Requirements};

/// The time of the verifier.
pub type Clock = Box<dyn Fn() -> UnixSeconds + Send + Sync>;
/// 32 random bytes.
pub type Random = Box<dyn Fn() -> Result<[u8; 32], Error> + Send + Sync>;

/// What evidence showed.
pub(crate) struct Learned {
    pub(crate) signer: AttestedSigner,
    pub(crate) until: UnixSeconds,
    /// When the first evidence of its key was shown.
    pub(crate) met: Instant,
}

/// Decides who may call. It knows nothing of HTTP; [`RequireToken`](crate::RequireToken) puts it in
/// front of a service.
pub struct Guard {
    requirements: Requirements,
    clock: Clock,
    random: Random,
    /// The latest time that the clock has shown. What has expired stays so, even if the clock is
    /// set back. A clock that once jumped ahead therefore refuses everything until it is there
    /// again, or until a restart.
    latest: AtomicI64,
    challenges: Mutex<Challenges>,
    keys: RwLock<KnownKeys>,
    used: Mutex<ReplayCache>,
}

impl Guard {
    /// With the clock and the randomness of the operating system.
    pub fn new(requirements: Requirements) -> Result<Self, Error> {
        Self::with(requirements, Box::new(system_time), Box::new(os_random))
    }

    /// With another clock and other randomness.
    pub fn with(requirements: Requirements, clock: Clock, random: Random) -> Result<Self, Error> {
        requirements.check()?;
        Ok(Self {
            clock,
            random,
            latest: AtomicI64::new(i64::MIN),
            challenges: Mutex::default(),
            keys: RwLock::new(KnownKeys::new(
                requirements.max_keys,
                requirements.max_keys_of_one,
            )),
            used: Mutex::new(ReplayCache::new(
                requirements.max_tokens,
                requirements.max_tokens_of_one,
            )),
            requirements,
        })
    }

    /// Accepts a token once: it was signed by a key that is known, for this service, now, and was
    /// not used before. A token that a token exchange issued is refused; [`Guard::admit_for`]
    /// accepts one where that is wanted.
    pub fn admit(&self, token: &str) -> Result<Admitted, Error> {
        self.admit_for(token, &Purpose::default())
    }

    /// The same, for a call that wants more of its token, or less. What is refused for that is not
    /// used up.
    pub fn admit_for(&self, token: &str, purpose: &Purpose) -> Result<Admitted, Error> {
        let now = self.now();
        let claimed = unverified_key(token).map_err(|error| Error::Token(error.into()))?;
        let known = self
            .keys
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(claimed, now);
        let Some(known) = known else {
            return Err(Error::EvidenceRequired {
                challenge: self.challenge()?,
            });
        };
        let claims = known
            .signer
            .verify_token(token, now, Some(&self.requirements.audience))
            .map_err(Error::Token)?;
        let end = self.check_times(&claims, known.since, now)?;
        self.requirements
            .policy
            .check_issuer(&claims.iss)
            .map_err(|_| Error::IssuerNotAccepted(claims.iss.to_string()))?;
        purpose.check(&claims)?;
        self.use_once(&claims, &known, end)?;
        Ok(Admitted::new(claims, known))
    }

    /// Asks for the time again, once no other call can make the cache forget: a token that has
    /// expired since may be forgotten.
    fn use_once(&self, claims: &Claims, known: &Known, end: UnixSeconds) -> Result<(), Error> {
        let mut used = locked(&self.used);
        let now = self.now();
        if now >= end {
            let expired = identity::Error::Expired {
                what: "token",
                until: UnixSeconds(claims.exp),
                at: now,
            };
            return Err(Error::Token(expired.into()));
        }
        used.use_once(&known.holder, (&claims.iss, claims.jti), end, now)
    }

    /// When nobody accepts the token any longer.
    fn check_times(
        &self,
        claims: &Claims,
        since: UnixSeconds,
        now: UnixSeconds,
    ) -> Result<UnixSeconds, Error> {
        let Requirements {
            skew_seconds: skew,
            max_lifetime_seconds: most,
            ..
        } = self.requirements;
        let (what, at) = ("token", now);
        let refuse = |error: identity::Error| Err(Error::Token(error.into()));
        let end = UnixSeconds(claims.exp).plus(skew);
        if now.plus(skew).0 < claims.nbf.max(claims.iat) {
            let from = claims.begins();
            return refuse(identity::Error::NotYetValid { what, from, at });
        }
        if now >= end {
            let until = UnixSeconds(claims.exp);
            return refuse(identity::Error::Expired { what, until, at });
        }
        let seconds = claims.exp.saturating_sub(claims.iat);
        if seconds > most {
            return Err(Error::LifetimeTooLong { seconds, most });
        }
        // Both times are of the enclave's clock, so no clock of ours can make an old token young.
        if UnixSeconds(claims.iat) <= since {
            return Err(Error::IssuedBeforeEvidence);
        }
        Ok(end)
    }

    /// The challenge that evidence has to answer now, hex.
    pub fn challenge(&self) -> Result<String, Error> {
        let challenge = locked(&self.challenges).current(self.now(), &self.random)?;
        Ok(HEXLOWER.encode(&challenge))
    }

    /// Whether evidence claims to answer one of our challenges. Cheap, so that copies of others'
    /// evidence cost nothing.
    pub fn answers(&self, evidence: &[u8]) -> Result<(), Error> {
        self.answered(evidence).map(|_| ())
    }

    /// Judges evidence, and remembers the key if it is accepted: until when is the answer.
    ///
    /// Tokens must be younger than the first evidence, to the second: after it, wait for one.
    pub fn learn(&self, evidence: &[u8]) -> Result<(AttestedSigner, UnixSeconds), Error> {
        let learned = self.learn_of(evidence)?;
        Ok((learned.signer, learned.until))
    }

    pub(crate) fn learn_of(&self, evidence: &[u8]) -> Result<Learned, Error> {
        let nonce = self.answered(evidence)?;
        let now = self.now();
        let known = self.judge(evidence, &nonce, now).map_err(Error::Evidence)?;
        let (signer, until) = (known.signer.clone(), known.until);
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let met = keys.insert(known, now)?;
        Ok(Learned { signer, until, met })
    }

    /// The challenge that evidence claims to answer.
    fn answered(&self, evidence: &[u8]) -> Result<Challenge, Error> {
        let evidence = Evidence::parse(evidence).map_err(Error::EvidenceForm)?;
        let claimed = unverified_nonce(evidence.document()).map_err(Error::EvidenceForm)?;
        let challenge = self.challenge()?;
        let (challenges, now) = (locked(&self.challenges), self.now());
        let answered = challenges
            .accepted(now)
            .find(|given| claimed.as_deref() == Some(given));
        answered.ok_or(Error::ChallengeStale { challenge })
    }

    fn judge(
        &self,
        evidence: &[u8],
        nonce: &Challenge,
        now: UnixSeconds,
    ) -> Result<Known, Refusal> {
        let required = &self.requirements;
        let claimed = Evidence::parse(evidence).ok();
        let described = |document: &&did::Document| {
            claimed
                .as_ref()
                .is_some_and(|evidence| evidence.key().did == document.did().as_str())
        };
        let verifier = Verifier {
            expectations: Expectations {
                nonce: Some(nonce.to_vec()),
                audience: Some(required.audience.clone()),
                did_document: required.did_documents.iter().find(described).cloned(),
                appraisal: Some(required.policy.clone()),
                ..Expectations::default()
            },
            allow_mock: required.mock_root.clone(),
            issuers: Some(Arc::clone(&required.issuers)),
            ..Verifier::at(now)
        };
        let (verdict, signer) = verifier.judge_evidence(evidence)?;
        let until = now.plus(required.evidence_seconds).min(signer.until());
        Ok(Known {
            holder: Holder::of(&signer),
            since: verdict.timestamp,
            until,
            signer,
            verdict,
            met: Instant::now(),
        })
    }

    /// Forgets the keys of an identity, so that it must answer a new challenge: after it was
    /// rotated. Whom the requirements accept can come back; to deny somebody, make another guard.
    pub fn forget(&self, did: &Did) {
        locked(&self.challenges).forget();
        self.keys
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .forget(did);
    }

    fn now(&self) -> UnixSeconds {
        let reading = (self.clock)();
        UnixSeconds(
            self.latest
                .fetch_max(reading.0, Ordering::Relaxed)
                .max(reading.0),
        )
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "a verifier's clock")]
fn system_time() -> UnixSeconds {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    UnixSeconds(since.as_secs().cast_signed())
}

fn os_random() -> Result<[u8; 32], Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| Error::NoRandomness)?;
    Ok(bytes)
}
