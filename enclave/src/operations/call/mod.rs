//! Calls of a service, with a credential that the caller never sees.
//!
//! ```text
//! Asked: the one form ──> Permitted: a rule owns it ──> its credential opens ──> it is approved, or waits ──> begun: a ticket
//! ```

mod approval;
mod asked;
mod count;

use broker::{CallKey, Envelope, header_digest};
use identity::json::MAX_SAFE_INTEGER;
use identity::{ApprovalId, Caller, Digest, cbor, sha256};
use policy::{ApprovalRule, IdentityPolicy, Service, ServiceRule};
use policy_engine::{AcceptedRequest, Reservation, ServiceInput, accept_request};
use protocol::{
    Answer, OpenCredential, OpenSealed, OpenedSealed, PendingApproval, Requester, ServiceRequest,
    Ticket,
};
use upstream::SecretKey;
use zeroize::Zeroizing;

use self::approval::Wanted;
use self::asked::{Asked, Whose};
use self::count::{Counted, count};
use crate::Error;
use crate::audit::Trail;
use crate::clock::Bounds;
use crate::credentials::{Reserved, call_id};
use crate::env::Env;
use crate::sync::lock;

/// The key under which the frames of a call are sealed, if they are.
type FramesKey = Zeroizing<[u8; 32]>;

/// Decides about one request to a service, and lets it be made.
pub(crate) fn open(
    env: &Env<'_>,
    open: OpenCredential,
    trail: &mut Trail,
) -> Result<Answer, Error> {
    let OpenCredential {
        requester,
        envelope,
        request,
    } = open;
    Ok(
        match decide(env, &requester, request, &envelope, None, trail)? {
            Decided::Open(ticket) => Answer::Opened(ticket),
            Decided::Waits(waiting) => Answer::PendingApproval(waiting),
        },
    )
}

/// The same for a request that came through the ingress process: the frames of its call are sealed under a
/// key that only that process and the service's have.
pub(crate) fn open_sealed(
    env: &Env<'_>,
    open: &OpenSealed,
    trail: &mut Trail,
) -> Result<Answer, Error> {
    let entrance = env.credentials()?.entrance()?;
    trail.caller(&Caller::Asserted(open.requester.caller.clone()));
    let request = entrance.key.open_request(&open.sealed)?;
    let request = cbor::from_slice(&request).map_err(protocol::Error::from)?;
    let key = env.key()?;
    let (requester, envelope) = (&open.requester, &open.envelope);
    let ticket = match decide(env, requester, request, envelope, Some(&key), trail)? {
        Decided::Open(ticket) => ticket,
        Decided::Waits(waiting) => return Ok(Answer::PendingApproval(waiting)),
    };
    let answer = CallKey {
        key,
        call: call_id(ticket),
    };
    let sealed = entrance
        .key
        .seal_answer(&open.sealed, &answer, env.nonce()?);
    Ok(Answer::OpenedSealed(OpenedSealed { ticket, sealed }))
}

/// What was decided about a request.
enum Decided {
    /// It may be made, by whom shows this.
    Open(Ticket),
    /// Somebody must approve it.
    Waits(PendingApproval),
}

fn decide(
    env: &Env<'_>,
    requester: &Requester,
    request: ServiceRequest,
    envelope: &[u8],
    key: Option<&FramesKey>,
    trail: &mut Trail,
) -> Result<Decided, Error> {
    let permitted = Permitted::of(env, requester, request, trail)?;
    let opened = permitted.open(env, envelope)?;
    let given = match permitted.under.approval {
        None => None,
        Some(approval) => match permitted.look(env, approval, key.is_some(), trail)? {
            Looked::Given(given) => Some(given),
            Looked::Waits(waiting) => return Ok(Decided::Waits(waiting)),
        },
    };
    permitted
        .begin(env, &opened, given, key, trail)
        .map(Decided::Open)
}

/// A request that a rule lets be made.
struct Permitted<'e> {
    under: Standing<'e>,
    request: ServiceRequest,
    asked: Asked,
}

/// By whom and under which rule a request is made.
struct Standing<'e> {
    place: usize,
    service: &'e Service,
    rule: &'e ServiceRule,
    /// Who must approve it, if somebody must.
    approval: Option<&'e ApprovalRule>,
    policy: &'e IdentityPolicy,
    caller: Caller,
    /// What it takes of limits, where its rule counts that.
    counted: Option<Counted>,
    now: Bounds,
}

/// A credential that is good now.
struct Opened {
    version: u64,
    secret: Zeroizing<Vec<u8>>,
}

/// An approval that is there.
struct Given {
    approval: ApprovalId,
    /// Digest of what was approved.
    request: Digest<32>,
}

/// Whether a request is approved.
enum Looked {
    Given(Given),
    Waits(PendingApproval),
}

impl<'e> Permitted<'e> {
    fn of(
        env: &Env<'e>,
        requester: &Requester,
        request: ServiceRequest,
        trail: &mut Trail,
    ) -> Result<Self, Error> {
        let caller = Caller::Asserted(requester.caller.clone());
        trail.caller(&caller);
        env.credentials()?;
        let provisioned = env.provisioned;
        let service = provisioned.bundle.service(&request.service);
        let (place, service) = service.ok_or(Error::UnknownService)?;
        let asked = Asked::parse(service, &request, trail)?;
        env.check_annex()?;
        let identity = provisioned.find_user(requester, env.annex(), service)?;
        trail.identity(&*identity.card()?);
        trail.digest(asked.head(service, &request).digest());
        let now = env.now()?;
        let AcceptedRequest { rule, approval } = accept_request(
            &provisioned.bundle,
            provisioned.rego.as_ref(),
            (service, &identity.policy),
            env.annex(),
            &caller,
            ServiceInput {
                method: &request.method,
                path: asked.target.rule_path(),
                resource: asked.target.resource(),
                actions: &asked.actions,
                websocket: request.websocket,
            },
        )?;
        trail.rule(&rule.name);
        let under = Standing {
            counted: count(env, (service, rule), &request, &asked)?,
            place,
            service,
            rule,
            approval,
            policy: &identity.policy,
            caller,
            now,
        };
        Ok(Self {
            under,
            request,
            asked,
        })
    }

    /// Opens its credential, if that is neither revoked nor without a lease nor older than one that is known.
    fn open(&self, env: &Env<'_>, envelope: &[u8]) -> Result<Opened, Error> {
        let credentials = env.credentials()?;
        let (service, policy) = (self.under.service, self.under.policy);
        let identity = &policy.name;
        let envelope = Envelope::parse(envelope)?;
        let version = envelope.version;
        env.check_revoked(policy, service, version)?;
        self.under.check_lease(env, version)?;
        let secret = credentials.open(&envelope, identity, service)?;
        credentials.see(identity, &service.name, version)?;
        Ok(Opened { version, secret })
    }

    /// Looks for the approval that it needs; if there is none, it waits for one from now on.
    fn look(
        &self,
        env: &Env<'_>,
        approval: &ApprovalRule,
        by_ingress: bool,
        trail: &mut Trail,
    ) -> Result<Looked, Error> {
        let Standing {
            service, policy, ..
        } = self.under;
        let shown = self
            .asked
            .to_approve(service, &self.request, &policy.name, by_ingress)?;
        let wanted = self.under.wanted(sha256(shown.as_bytes()));
        trail.digest(wanted.request);
        let Some((given, by)) = wanted.given(env, approval) else {
            let waiting = wanted.wait(env, approval, shown)?;
            trail.pending();
            return Ok(Looked::Waits(waiting));
        };
        trail.approved(&by);
        Ok(Looked::Given(Given {
            approval: given,
            request: wanted.request,
        }))
    }

    /// What the record learns of the call before it is made.
    fn noted(&self, ticket: Ticket, version: u64, by_ingress: bool) -> record::Credential {
        let counted = self.under.counted.as_ref();
        let (most, taken) = (
            counted.map(|counted| counted.most),
            counted.map(Counted::taken),
        );
        let priced = counted.and_then(|counted| counted.price.as_ref());
        record::Credential {
            call: Some(call_id(ticket)),
            cost: priced
                .and(taken)
                .map(|taken| taken.cost.min(MAX_SAFE_INTEGER)),
            tokens_in: most.map(|most| most.input),
            tokens_out: most.map(|most| most.output),
            headers: Some(header_digest(&self.asked.headers)),
            ingress: by_ingress.then_some(true),
            length: self.request.length,
            method: Some(self.request.method.clone()),
            service: self.under.service.name.clone(),
            version: Some(version),
            websocket: self.request.websocket.then_some(true),
            ..record::Credential::default()
        }
    }

    /// Has the call made: takes of the limits what it takes, and the approval, or none of both.
    fn begin(
        self,
        env: &Env<'_>,
        opened: &Opened,
        given: Option<Given>,
        key: Option<&FramesKey>,
        trail: &mut Trail,
    ) -> Result<Ticket, Error> {
        let credentials = env.credentials()?;
        let ticket = Ticket(env.random()?);
        trail.credential(self.noted(ticket, opened.version, key.is_some()));
        let end = trail.follow("credential.close", env.annex_id());
        let Self {
            under,
            request,
            asked,
        } = self;
        let (service, rule, identity) = (under.service, under.rule, &under.policy.name);
        let whose = Whose {
            ticket,
            actor: credentials.actor(identity),
            version: opened.version,
            key: key.map(|key| SecretKey(key.clone())),
            minting: credentials.minting(
                service,
                (identity, opened.version),
                &opened.secret,
                under.now.earliest,
            )?,
        };
        let call = asked.call(
            (service, rule),
            request,
            under.now.earliest,
            &opened.secret,
            whose,
        )?;
        let taken = under.counted.as_ref().map(Counted::taken);
        let mut usage = lock(credentials.service(under.place)?.usage(identity)?);
        let reservation = usage.reserve_request(
            under.now.earliest,
            (rule, service.budget),
            taken.unwrap_or_default(),
        )?;
        let (reserved, settled) = under.reserved(reservation);
        // Nobody else uses this approval meanwhile. Lock order: usage, approvals.
        let mut approvals = lock(&env.provisioned.approvals);
        let wanted = given.map(|given| (under.wanted(given.request), given.approval));
        let good = wanted.as_ref().map_or(Ok(()), |(wanted, given)| {
            // Not spent for what would be given up.
            wanted
                .look(&mut approvals, *given)
                .and_then(|()| env.check_current())
        });
        let begun = match good {
            Err(error) => Err((error, reserved)),
            Ok(()) => credentials.begin(under.place, call, end, reserved),
        };
        let spent = match (&begun, &wanted) {
            (Ok(()), Some((wanted, given))) => wanted.spend(&mut approvals, *given),
            _ => Ok(()),
        };
        drop(approvals);
        if let Err((error, reserved)) = begun {
            let reservation = reserved.map(|reserved| reserved.reservation).or(settled);
            reservation.into_iter().for_each(|one| usage.release(one));
            return Err(error);
        }
        settled.into_iter().for_each(|one| usage.settle(one));
        drop(usage);
        // An annex of now tells the process only of calls that it knows: this one may have come behind it.
        spent
            .and_then(|()| env.check_current())
            .and_then(|()| under.check_lease(env, opened.version))
            .inspect_err(|_| credentials.give_up(ticket))?;
        Ok(ticket)
    }
}

impl Standing<'_> {
    fn check_lease(&self, env: &Env<'_>, version: u64) -> Result<(), Error> {
        let which = (&*self.policy.name, &*self.service.name, version);
        env.credentials()?
            .check_lease(&env.provisioned.bundle, self.now.latest, which)
    }

    fn wanted(&self, request: Digest<32>) -> Wanted<'_> {
        Wanted {
            identity: &self.policy.name,
            caller: &self.caller,
            request,
            now: self.now.latest,
        }
    }

    /// What is settled at the end of the call; or else now.
    fn reserved(&self, reservation: Reservation) -> (Option<Box<Reserved>>, Option<Reservation>) {
        let Some(counted) = &self.counted else {
            return (None, Some(reservation));
        };
        let reserved = Reserved {
            identity: self.policy.name.clone(),
            rule: self.rule.clone(),
            reservation,
            price: counted.price.clone(),
            most: counted.most,
        };
        (Some(Box::new(reserved)), None)
    }
}
