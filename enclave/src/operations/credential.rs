//! Credentials of others: the operator puts them, has the keys changed that open them, and leases their use. Calls that use them:
//! [`super::call`].

use broker::{Envelope, Epoch, EpochOrder, Epochs, Lease, Order};
use identity::SKEW_SECONDS;
use policy::{IdentityPolicy, Service};
use protocol::{Answer, CredentialEpochs, KeptCredential, SealedCredential};
use zeroize::Zeroizing;

use crate::Error;
use crate::audit::Trail;
use crate::credentials::operator_key;
use crate::env::Env;

/// Makes an envelope of what the operator orders to be kept.
pub(crate) fn put(env: &Env<'_>, signed: &[u8], trail: &mut Trail) -> Result<Answer, Error> {
    let (provisioned, credentials) = (env.provisioned, env.credentials()?);
    let order = Order::verify(signed, operator_key(&provisioned.bundle))?;
    let wrong = |why| Error::from(broker::Error::CredentialOrderInvalid(why));
    if order.operator != *credentials.operator() {
        return Err(wrong("of another operator"));
    }
    let (_, service) = provisioned
        .bundle
        .service(&order.service)
        .ok_or(Error::UnknownService)?;
    let is_actor = |policy: &&IdentityPolicy| credentials.actor(&policy.name) == order.actor;
    let identities = &provisioned.bundle.identities;
    let policy = identities.iter().find(is_actor);
    let policy = policy.ok_or_else(|| wrong("for no identity of this bundle"))?;
    if !may_use(service, policy) {
        return Err(wrong("no rule of the service lets this identity use it"));
    }
    trail.identity(&*provisioned.identity(&policy.name)?.card()?);
    trail.credential(record::Credential {
        service: service.name.clone(),
        version: Some(order.version),
        ..record::Credential::default()
    });
    let sealed = credentials.seal(&order, service, env.nonce()?)?;
    credentials.order(&policy.name, &service.name, order.version)?;
    Ok(Answer::Credential(SealedCredential {
        actor: *order.actor.as_bytes(),
        service: order.service,
        envelope: sealed.as_bytes().to_vec(),
    }))
}

/// The keys K3 that the operator orders there to be; `new_key` makes the one that is not there yet.
pub(crate) fn next_epochs(
    env: &Env<'_>,
    signed: &[u8],
    new_key: impl FnOnce() -> Result<Zeroizing<[u8; 32]>, Error>,
    trail: &mut Trail,
) -> Result<Vec<Epoch>, Error> {
    let credentials = env.credentials()?;
    let operator = operator_key(&env.provisioned.bundle);
    let order = EpochOrder::verify(signed, operator, &credentials.sealing_key()?)?;
    let Epochs { lowest, current } = order.next;
    trail.action("credential_epochs");
    trail.resource(&format!("k3:{lowest}-{current}"));
    // Who told the operator of others lied to it.
    if credentials.epochs()? != order.now {
        let why = "there are other epochs than it says";
        return Err(broker::Error::EpochOrderInvalid(why).into());
    }
    credentials.next_epochs(order.next, new_key)
}

/// A credential that was put is kept: from now on no older one is used. Nothing is opened: it is the one that was sealed
/// here, or it does not count before it is used.
pub(crate) fn kept(env: &Env<'_>, kept: &KeptCredential) -> Result<Answer, Error> {
    let (provisioned, credentials) = (env.provisioned, env.credentials()?);
    let (_, service) = provisioned
        .bundle
        .service(&kept.service)
        .ok_or(Error::UnknownService)?;
    let identity = provisioned.identity(&kept.identity)?;
    let envelope = Envelope::parse(&kept.envelope)?;
    credentials.keep(&identity.policy.name, &service.name, envelope.version)?;
    Ok(Answer::Kept)
}

/// Makes the envelope of a credential anew, under the key K3 of now. Its version stays, and so does
/// whatever was decided about that.
pub(crate) fn rewrap(
    env: &Env<'_>,
    kept: &KeptCredential,
    trail: &mut Trail,
) -> Result<Answer, Error> {
    let (provisioned, credentials) = (env.provisioned, env.credentials()?);
    let service = provisioned.bundle.service(&kept.service);
    let (_, service) = service.ok_or(Error::UnknownService)?;
    let identity = provisioned.identity(&kept.identity)?;
    let policy = &identity.policy;
    trail.identity(&*identity.card()?);
    let envelope = Envelope::parse(&kept.envelope)?;
    trail.credential(record::Credential {
        service: service.name.clone(),
        version: Some(envelope.version),
        ..record::Credential::default()
    });
    env.check_annex()?;
    env.check_revoked(policy, service, envelope.version)?;
    let which = (
        policy.name.as_str(),
        service.name.as_str(),
        envelope.version,
    );
    credentials.check_lease(&provisioned.bundle, env.now()?.latest, which)?;
    let sealed = credentials.rewrap(&envelope, &policy.name, service, env.nonce()?)?;
    // Only one that opened is remembered.
    credentials.see(&policy.name, &service.name, envelope.version)?;
    Ok(Answer::Credential(SealedCredential {
        actor: *credentials.actor(&policy.name).as_bytes(),
        service: service.name.clone(),
        envelope: sealed.as_bytes().to_vec(),
    }))
}

/// Takes a lease; gives when it ends.
pub(crate) fn lease(env: &Env<'_>, signed: &[u8]) -> Result<Answer, Error> {
    let bundle = &env.provisioned.bundle;
    let wanted = bundle.lease.as_ref().ok_or(Error::LeaseNotWanted)?;
    env.check_annex()?;
    let annex = env.annex_id().map(|annex| annex.digest);
    let lease = Lease::verify(signed, &wanted.key.0, env.boot_id, annex)?;
    let now = env.now()?;
    // Who signs has another clock.
    if lease.not_after > now.earliest.0 + i64::from(wanted.seconds) + SKEW_SECONDS {
        return Err(broker::Error::LeaseInvalid("it lasts longer than the bundle lets one").into());
    }
    if lease.not_after <= now.latest.0 {
        return Err(broker::Error::LeaseInvalid("it is over").into());
    }
    env.credentials()?
        .take_lease(bundle, lease)
        .map(Answer::Leased)
}

/// Which keys K3 there are.
pub(crate) fn epochs(env: &Env<'_>) -> Result<Answer, Error> {
    env.credentials()?.epochs().map(told)
}

/// These keys K3 open credentials from now on.
pub(crate) fn set_epochs(env: &Env<'_>, epochs: Vec<Epoch>) -> Result<Answer, Error> {
    env.credentials()?.set_epochs(epochs).map(told)
}

fn told(Epochs { lowest, current }: Epochs) -> Answer {
    Answer::Epochs(CredentialEpochs { lowest, current })
}

fn may_use(service: &Service, policy: &IdentityPolicy) -> bool {
    let mut rules = service.rules.iter();
    rules.any(|rule| rule.identities.contains(&policy.name))
}
