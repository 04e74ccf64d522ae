//! Credentials of others: put by the operator, used by callers that never see them.

use broker::{Envelope, Header, Order, RequestHead, Target, forwarded, header_digest, inject};
use identity::{Caller, Intent};
use policy::{IdentityPolicy, Service};
use policy_engine::{CREDENTIAL_ACTION, Denied, ServiceInput, accept_request};
use protocol::{Answer, OpenCredential, OpenedCredential, SealedCredential, Ticket};
use upstream::{Call, Secret};
use zeroize::Zeroizing;

use crate::Error;
use crate::audit::Trail;
use crate::credentials::{Credentials, call_id, is_revoked, operator_key};
use crate::env::Env;
use crate::sync::lock;

/// Makes an envelope of what the operator orders to be kept.
pub(crate) fn put(env: &Env<'_>, signed: &[u8], trail: &mut Trail) -> Result<Answer, Error> {
    let (provisioned, credentials) = (env.provisioned, credentials(env)?);
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
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&env.random()?[..12]);
    let sealed = credentials.seal(&order, nonce)?;
    credentials.see(&policy.name, &service.name, order.version)?;
    Ok(Answer::Credential(SealedCredential {
        actor: *order.actor.as_bytes(),
        service: order.service,
        version: sealed.version,
        envelope: sealed.as_bytes().to_vec(),
    }))
}

/// Decides about one request to a service, and lets it be made.
pub(crate) fn open(
    env: &Env<'_>,
    open: OpenCredential,
    trail: &mut Trail,
) -> Result<Answer, Error> {
    let caller = Caller::Asserted(open.requester.caller.clone());
    trail.caller(&caller);
    let (provisioned, credentials) = (env.provisioned, credentials(env)?);
    let service = provisioned.bundle.service(&open.service);
    let (place, service) = service.ok_or(Error::UnknownService)?;
    let asked = Asked::parse(service, &open, trail)?;
    env.check_annex()?;
    let identity = provisioned.find_user(&open.requester, env.annex(), service)?;
    let (policy, card) = (&identity.policy, identity.card()?);
    trail.identity(&card);
    trail.digest(asked.head(service, &open).digest());
    let now = env.now()?;
    let rule = accept_request(
        &provisioned.bundle,
        provisioned.rego.as_ref(),
        (service, policy),
        env.annex(),
        &caller,
        ServiceInput {
            method: &open.method,
            path: asked.target.rule_path(),
            resource: asked.target.resource(),
        },
    )?;
    trail.rule(&rule.name);
    check_revoked(env, policy, service)?;
    let envelope = Envelope::parse(&open.envelope)?;
    let secret = credentials.open(&envelope, &policy.name, &service.name)?;
    credentials.see(&policy.name, &service.name, envelope.version)?;
    let placed = inject(&service.inject, &asked.target, &secret)?;
    let ticket = Ticket(env.random()?);
    let credential = record::Credential {
        call: Some(call_id(ticket)),
        headers: Some(header_digest(&asked.headers)),
        length: open.length,
        method: Some(open.method.clone()),
        service: service.name.clone(),
        version: Some(envelope.version),
        ..record::Credential::default()
    };
    trail.credential(credential);
    let end = trail.follow("credential.close", env.annex_id());
    let call = Call {
        ticket,
        time: now.earliest.0,
        actor: *credentials.actor(&policy.name).as_bytes(),
        version: envelope.version,
        method: open.method,
        target: Secret(Zeroizing::new(placed.target.as_bytes().to_vec())),
        headers: asked.headers,
        length: open.length,
        header: placed.header.map(|(name, value)| (name, Secret(value))),
        secrets: placed.secrets.into_iter().map(Secret).collect(),
    };
    let mut usage = lock(credentials.service(place)?.usage(&policy.name)?);
    let reservation = usage.reserve_request(now.earliest, rule)?;
    match credentials.begin(place, call, end) {
        Ok(()) => usage.settle(reservation),
        Err(error) => {
            usage.release(reservation);
            return Err(error);
        }
    }
    drop(usage);
    // An annex of now tells the process only of calls that it knows: this one may have come behind it.
    env.check_current()
        .inspect_err(|_| credentials.give_up(ticket))?;
    Ok(Answer::Opened(OpenedCredential {
        ticket,
        identity: policy.name.clone(),
        rule: rule.name.clone(),
    }))
}

fn credentials<'e>(env: &Env<'e>) -> Result<&'e Credentials, Error> {
    env.provisioned
        .credentials
        .as_ref()
        .ok_or(Error::UnknownService)
}

fn may_use(service: &Service, policy: &IdentityPolicy) -> bool {
    let mut rules = service.rules.iter();
    rules.any(|rule| rule.identities.contains(&policy.name))
}

/// A request in the one form.
struct Asked {
    target: Target,
    headers: Vec<Header>,
}

impl Asked {
    fn parse(service: &Service, open: &OpenCredential, trail: &mut Trail) -> Result<Self, Error> {
        let target = Target::new(&service.upstream, &open.target)?;
        let intent = Intent::new(
            CREDENTIAL_ACTION.into(),
            service.name.clone(),
            target.resource().into(),
        )?;
        trail.intent(&intent);
        let came: Vec<Header> = open
            .headers
            .iter()
            .map(|(name, value)| Header::new(name, value))
            .collect();
        let placed = service.inject.header.as_deref().unwrap_or("authorization");
        Ok(Self {
            headers: forwarded(&came, placed)?,
            target,
        })
    }

    fn head<'a>(&'a self, service: &'a Service, open: &'a OpenCredential) -> RequestHead<'a> {
        RequestHead {
            service: &service.name,
            method: &open.method,
            target: &self.target,
            headers: &self.headers,
            length: open.length,
        }
    }
}

/// Refuses what the operator revoked: the agent, all its credentials, or this one.
fn check_revoked(env: &Env<'_>, policy: &IdentityPolicy, service: &Service) -> Result<(), Error> {
    let revoked = |annex| is_revoked(annex, &policy.name, &service.name);
    if env.annex().is_some_and(revoked) {
        return Err(Denied::CredentialRevoked.into());
    }
    Ok(())
}
