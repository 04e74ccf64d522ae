//! What one request sees of its enclave.

use std::sync::Arc;

use identity::{AnnexId, BootId, Caller, Tee};
use policy::Annex;
use policy_engine::Denied;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::clock::Bounds;
use crate::credentials::{Credentials, revoked_until};
use crate::nsm::PeerVerifier;
use crate::provisioned::Provisioned;
use crate::{Entropy, Error};

/// One time and one annex for the whole of a request, whatever happens meanwhile.
pub(crate) struct Env<'e> {
    /// The time when it began, if it is known.
    now: Result<Bounds, Error>,
    annex: Option<Arc<(Annex, AnnexId)>>,
    pub(crate) boot_id: BootId,
    pub(crate) tee: Tee,
    entropy: &'e dyn Entropy,
    pub(crate) verify_peer: &'e PeerVerifier,
    pub(crate) provisioned: &'e Provisioned,
}

impl<'e> Env<'e> {
    /// Takes the annex that is in force; `now` was read a moment ago.
    pub(crate) fn new(
        provisioned: &'e Provisioned,
        now: Result<Bounds, Error>,
        boot_id: BootId,
        tee: Tee,
        entropy: &'e dyn Entropy,
        verify_peer: &'e PeerVerifier,
    ) -> Self {
        Self {
            now,
            annex: provisioned.annex(),
            boot_id,
            tee,
            entropy,
            verify_peer,
            provisioned,
        }
    }

    /// The time when the request began.
    pub(crate) fn now(&self) -> Result<Bounds, Error> {
        self.now.clone()
    }

    /// What the annex says.
    pub(crate) fn annex(&self) -> Option<&Annex> {
        self.annex.as_ref().map(|annex| &annex.0)
    }

    /// Which annex that is.
    pub(crate) fn annex_id(&self) -> Option<AnnexId> {
        self.annex.as_ref().map(|annex| annex.1)
    }

    /// Whether the annex revokes this name or id.
    pub(crate) fn is_revoked(&self, is: impl Fn(&str) -> bool) -> bool {
        self.annex()
            .is_some_and(|annex| annex.revoked.iter().any(|entry| is(entry)))
    }

    /// Refuses if another annex is in force than the one that this request sees: what the operator
    /// revoked meanwhile is not signed any more.
    pub(crate) fn check_current(&self) -> Result<(), Error> {
        if self.provisioned.annex_id() == self.annex_id() {
            Ok(())
        } else {
            Err(Error::AnnexReplacedMeanwhile)
        }
    }

    /// Refuses to decide without the annex that the bundle wants: what it revokes would be good.
    pub(crate) fn check_annex(&self) -> Result<(), Error> {
        match (self.provisioned.bundle.annex_version, self.annex_id()) {
            (Some(lowest), None) => Err(Error::AnnexRequired(lowest)),
            _ => Ok(()),
        }
    }

    /// Refuses callers that may not use this identity at all.
    pub(crate) fn admit(
        &self,
        policy: &policy::IdentityPolicy,
        caller: &Caller,
    ) -> Result<(), Error> {
        if policy_engine::admits(policy, self.annex(), caller) {
            Ok(())
        } else {
            Err(Denied::CallerNotAllowed.into())
        }
    }

    /// What there is of credentials, if the bundle names services.
    pub(crate) fn credentials(&self) -> Result<&'e Credentials, Error> {
        let credentials = self.provisioned.credentials.as_ref();
        credentials.ok_or(Error::UnknownService)
    }

    /// Refuses what the operator revoked: the agent, all its credentials, or this version of this one.
    /// Which version it is that is shown, is known for sure once it has been opened.
    pub(crate) fn check_revoked(
        &self,
        policy: &policy::IdentityPolicy,
        service: &policy::Service,
        version: u64,
    ) -> Result<(), Error> {
        let until = |annex: &Annex| revoked_until(&annex.revoked, &policy.name, &service.name);
        match self.annex().and_then(until) {
            Some(last) if version <= last => Err(Denied::CredentialRevoked.into()),
            _ => Ok(()),
        }
    }

    /// 16 random bytes.
    pub(crate) fn random(&self) -> Result<[u8; 16], Error> {
        let mut bytes = [0; 16];
        self.entropy.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// A nonce of AES-GCM.
    pub(crate) fn nonce(&self) -> Result<[u8; 12], Error> {
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&self.random()?[..12]);
        Ok(nonce)
    }

    /// 32 random bytes, of a key.
    pub(crate) fn key(&self) -> Result<Zeroizing<[u8; 32]>, Error> {
        let mut key = Zeroizing::new([0; 32]);
        self.entropy.fill(&mut key[..16])?;
        self.entropy.fill(&mut key[16..])?;
        Ok(key)
    }

    /// A random UUID (RFC 9562 section 5.4).
    pub(crate) fn uuid(&self) -> Result<Uuid, Error> {
        Ok(uuid::Builder::from_random_bytes(self.random()?).into_uuid())
    }
}
