//! Credentials of others: put by the operator, used by callers that never see them.

use broker::websocket::Handshake;
use broker::{
    Body, CallKey, Envelope, Epoch, EpochOrder, Epochs, Header, Lease, MAX_PRICED, Minting, Omni,
    Order, RequestHead, ShownBody, Signing, Target, Tokens, actions, body_of, check_field,
    check_unpriced, forwarded, header_digest, inject, unplaced,
};
use identity::json::MAX_SAFE_INTEGER;
use identity::{ApprovalId, Caller, Digest, Intent, SKEW_SECONDS, UnixSeconds, cbor, sha256};
use policy::{Annex, ApprovalRule, IdentityPolicy, Limit, Price, Service, ServiceRule};
use policy_engine::{
    AcceptedRequest, CREDENTIAL_ACTION, Denied, ServiceInput, Taken, accept_request,
};
use protocol::{
    Answer, CredentialEpochs, KeptCredential, OpenCredential, OpenSealed, OpenedSealed,
    PendingApproval, Requester, SealedCredential, ServiceRequest, Ticket,
};
use upstream::{Call, CountedCall, MintingSecret, PlacedField, Secret, SecretKey};
use zeroize::Zeroizing;

use crate::Error;
use crate::audit::Trail;
use crate::credentials::{Credentials, Reserved, call_id, operator_key, revoked_until};
use crate::env::Env;
use crate::stores::approvals::Approvals;
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
    let sealed = credentials.seal(&order, service, nonce(env)?)?;
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
    let credentials = credentials(env)?;
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
    let (provisioned, credentials) = (env.provisioned, credentials(env)?);
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
    let (provisioned, credentials) = (env.provisioned, credentials(env)?);
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
    check_revoked(env, policy, service, envelope.version)?;
    let which = (
        policy.name.as_str(),
        service.name.as_str(),
        envelope.version,
    );
    credentials.check_lease(&provisioned.bundle, env.now()?.latest, which)?;
    let sealed = credentials.rewrap(&envelope, &policy.name, service, nonce(env)?)?;
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
    credentials(env)?
        .take_lease(bundle, lease)
        .map(Answer::Leased)
}

/// Which keys K3 there are.
pub(crate) fn epochs(env: &Env<'_>) -> Result<Answer, Error> {
    credentials(env)?.epochs().map(told)
}

/// These keys K3 open credentials from now on.
pub(crate) fn set_epochs(env: &Env<'_>, epochs: Vec<Epoch>) -> Result<Answer, Error> {
    credentials(env)?.set_epochs(epochs).map(told)
}

fn told(Epochs { lowest, current }: Epochs) -> Answer {
    Answer::Epochs(CredentialEpochs { lowest, current })
}

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
    let entrance = credentials(env)?.entrance()?;
    trail.caller(&Caller::Asserted(open.requester.caller.clone()));
    let request = entrance.key.open_request(&open.sealed)?;
    let request = cbor::from_slice(&request).map_err(protocol::Error::from)?;
    let key = Zeroizing::new(random(env)?);
    let (requester, envelope) = (&open.requester, &open.envelope);
    let ticket = match decide(env, requester, request, envelope, Some(&key), trail)? {
        Decided::Open(ticket) => ticket,
        Decided::Waits(waiting) => return Ok(Answer::PendingApproval(waiting)),
    };
    let answer = CallKey {
        key,
        call: call_id(ticket),
    };
    let sealed = entrance.key.seal_answer(&open.sealed, &answer, nonce(env)?);
    Ok(Answer::OpenedSealed(OpenedSealed { ticket, sealed }))
}

/// 32 random bytes.
fn random(env: &Env<'_>) -> Result<[u8; 32], Error> {
    let halves: [[u8; 16]; 2] = [env.random()?, env.random()?];
    let mut all = [0; 32];
    all.copy_from_slice(halves.as_flattened());
    Ok(all)
}

fn nonce(env: &Env<'_>) -> Result<[u8; 12], Error> {
    let mut nonce = [0; 12];
    nonce.copy_from_slice(&env.random()?[..12]);
    Ok(nonce)
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
    key: Option<&Zeroizing<[u8; 32]>>,
    trail: &mut Trail,
) -> Result<Decided, Error> {
    let caller = Caller::Asserted(requester.caller.clone());
    trail.caller(&caller);
    let (provisioned, credentials) = (env.provisioned, credentials(env)?);
    let service = provisioned.bundle.service(&request.service);
    let (place, service) = service.ok_or(Error::UnknownService)?;
    let asked = Asked::parse(service, &request, trail)?;
    env.check_annex()?;
    let identity = provisioned.find_user(requester, env.annex(), service)?;
    let (policy, card) = (&identity.policy, identity.card()?);
    trail.identity(&card);
    trail.digest(asked.head(service, &request).digest());
    let now = env.now()?;
    let AcceptedRequest { rule, approval } = accept_request(
        &provisioned.bundle,
        provisioned.rego.as_ref(),
        (service, policy),
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
    let counted = count(env, (service, rule), &request, &asked)?;
    let envelope = Envelope::parse(envelope)?;
    check_revoked(env, policy, service, envelope.version)?;
    let which = (
        policy.name.as_str(),
        service.name.as_str(),
        envelope.version,
    );
    credentials.check_lease(&provisioned.bundle, now.latest, which)?;
    let secret = credentials.open(&envelope, &policy.name, service)?;
    credentials.see(&policy.name, &service.name, envelope.version)?;
    let wanted = match approval {
        None => None,
        Some(approval) => {
            let shown = asked.to_approve(service, &request, &policy.name, key.is_some())?;
            let wanted = Wanted {
                identity: &policy.name,
                caller: &caller,
                request: sha256(shown.as_bytes()),
                now: now.latest,
            };
            trail.digest(wanted.request);
            let Some((given, by)) = wanted.given(env, approval) else {
                let waiting = wanted.wait(env, approval, shown)?;
                trail.pending();
                return Ok(Decided::Waits(waiting));
            };
            trail.approved(&by);
            Some((wanted, given))
        }
    };
    let ticket = Ticket(env.random()?);
    let most = counted.as_ref().map(|counted| counted.most);
    let taken = counted.as_ref().map(Counted::taken).unwrap_or_default();
    let priced = counted.as_ref().and_then(|counted| counted.price.as_ref());
    trail.credential(record::Credential {
        call: Some(call_id(ticket)),
        cost: priced.map(|_| taken.cost.min(MAX_SAFE_INTEGER)),
        tokens_in: most.map(|most| most.input),
        tokens_out: most.map(|most| most.output),
        headers: Some(header_digest(&asked.headers)),
        ingress: key.map(|_| true),
        length: request.length,
        method: Some(request.method.clone()),
        service: service.name.clone(),
        version: Some(envelope.version),
        websocket: request.websocket.then_some(true),
        ..record::Credential::default()
    });
    let end = trail.follow("credential.close", env.annex_id());
    let whose = Whose {
        ticket,
        actor: credentials.actor(&policy.name),
        version: envelope.version,
        key: key.map(|key| SecretKey(key.clone())),
        minting: credentials.minting(
            service,
            (&policy.name, envelope.version),
            &secret,
            now.earliest,
        )?,
    };
    let call = asked.call((service, rule), request, now.earliest, &secret, whose)?;
    let mut usage = lock(credentials.service(place)?.usage(&policy.name)?);
    let reservation = usage.reserve_request(now.earliest, (rule, service.budget), taken)?;
    // What is not settled at the end of the call is settled now.
    let (reserved, settled) = match counted {
        None => (None, Some(reservation)),
        Some(counted) => {
            let reserved = Reserved {
                identity: policy.name.clone(),
                rule: rule.clone(),
                reservation,
                price: counted.price,
                most: counted.most,
            };
            (Some(Box::new(reserved)), None)
        }
    };
    // Nobody else uses this approval meanwhile. Lock order: usage, approvals.
    let mut approvals = lock(&env.provisioned.approvals);
    let good = wanted.as_ref().map_or(Ok(()), |(wanted, given)| {
        let looked = approvals.look(*given, wanted.caller, wanted.request, wanted.now);
        // Not spent for what would be given up.
        looked.and_then(|_| env.check_current())
    });
    let begun = match good {
        Err(error) => Err((error, reserved)),
        Ok(()) => credentials.begin(place, call, end, reserved),
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
    spent.inspect_err(|_| credentials.give_up(ticket))?;
    // An annex of now tells the process only of calls that it knows: this one may have come behind it.
    env.check_current()
        .and_then(|()| credentials.check_lease(&provisioned.bundle, now.latest, which))
        .inspect_err(|_| credentials.give_up(ticket))?;
    Ok(Decided::Open(ticket))
}

/// What a request to a model takes at most.
struct Counted {
    most: Tokens,
    price: Option<Price>,
}

impl Counted {
    fn taken(&self) -> Taken {
        let cost = self.price.as_ref().map(|price| self.most.cost(price));
        Taken {
            cost: cost.unwrap_or_default(),
            tokens: self.most.sum(),
        }
    }
}

/// What a request takes at most, where its rule counts that.
fn count(
    env: &Env<'_>,
    (service, rule): (&Service, &ServiceRule),
    request: &ServiceRequest,
    parsed: &Asked,
) -> Result<Option<Counted>, Error> {
    let Some(priced) = &rule.priced else {
        return Ok(None);
    };
    check_unpriced(&parsed.target, &parsed.headers)?;
    let wrong = |why: &str| Error::from(broker::Error::BodyNotPriced(why.to_owned()));
    let asked = request.counted.as_ref();
    let asked = asked.ok_or_else(|| wrong("nothing is said of what it asks"))?;
    // A prompt is as long as its body.
    let length = request.length.filter(|length| *length <= MAX_PRICED as u64);
    if length.map(Tokens::prompt) != Some(asked.input) {
        return Err(wrong(
            "its length is not known, too long, or another than what is said of it",
        ));
    }
    if asked.output > priced.max_tokens {
        let why = format!(
            "answers of {} tokens at most are allowed",
            priced.max_tokens
        );
        return Err(wrong(&why));
    }
    let price = env
        .annex()
        .and_then(|annex| annex.price(&service.name, &asked.model));
    if price.is_none() && rule.limits.iter().any(Limit::is_cost) {
        return Err(Denied::ModelNotPriced {
            service: service.name.clone(),
            model: asked.model.clone(),
        }
        .into());
    }
    Ok(Some(Counted {
        most: Tokens {
            input: asked.input,
            output: asked.output,
        },
        price: price.cloned(),
    }))
}

/// A request that somebody must approve.
struct Wanted<'a> {
    identity: &'a str,
    caller: &'a Caller,
    request: Digest<32>,
    now: UnixSeconds,
}

impl Wanted<'_> {
    /// The approval that it has, and who gave it.
    fn given(
        &self,
        env: &Env<'_>,
        approval: &ApprovalRule,
    ) -> Option<(ApprovalId, record::Approval)> {
        let approvals = lock(&env.provisioned.approvals);
        let given = approvals.approved(self.caller, self.request, self.now);
        // Another rule may want others since then.
        given.filter(|(_, by)| approval.by.contains(&by.name))
    }

    fn spend(&self, approvals: &mut Approvals, given: ApprovalId) -> Result<(), Error> {
        approvals
            .spend(given, self.caller, self.request, self.now)
            .map(|_| ())
    }

    /// Who asks for the same again finds the one that waits already.
    fn wait(
        &self,
        env: &Env<'_>,
        approval: &ApprovalRule,
        shown: String,
    ) -> Result<PendingApproval, Error> {
        let waiting = PendingApproval {
            id: ApprovalId::new(env.random()?),
            boot_id: env.boot_id,
            request: self.request.0,
            expires_at: self.now.0 + i64::from(approval.seconds),
            approved: false,
            canonical: shown,
            by: approval.by.clone(),
        };
        lock(&env.provisioned.approvals).wait(self.identity, self.caller, waiting, self.now)
    }
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

/// Whose call it is.
struct Whose {
    ticket: Ticket,
    actor: Omni,
    version: u64,
    key: Option<SecretKey>,
    /// With what it gets a token, if it does.
    minting: Option<Minting>,
}

/// A request in the one form.
struct Asked {
    target: Target,
    headers: Vec<Header>,
    /// What it does beyond what method and path say.
    actions: Vec<String>,
    /// What its body is, where a signature says so.
    body: Option<Body>,
}

impl Asked {
    fn parse(
        service: &Service,
        request: &ServiceRequest,
        trail: &mut Trail,
    ) -> Result<Self, Error> {
        let target = Target::new(&service.upstream, &request.target)?;
        check_length(&request.method, request.length)?;
        let intent = Intent::new(
            CREDENTIAL_ACTION.into(),
            service.name.clone(),
            target.resource().into(),
        )?;
        trail.intent(&intent);
        let came: Vec<Header> = request
            .headers
            .iter()
            .map(|(name, value)| Header::new(name, value))
            .collect();
        let headers = forwarded(&came, &service.inject)?;
        if request.websocket {
            Handshake::of(&headers)?;
        }
        check_field(&service.inject, &headers, request.length)?;
        let (mut body, mut all) = (request.body.map(Body::Digest), Vec::new());
        if let Some(sigv4) = &service.inject.sigv4 {
            body = Some(body_of(&came, request.body)?);
            all = actions(sigv4, &request.method, &target, &headers)?;
        }
        Ok(Self {
            headers,
            target,
            actions: all,
            body,
        })
    }

    /// What is sent, with the credential in its place.
    fn call(
        self,
        (service, rule): (&Service, &ServiceRule),
        request: ServiceRequest,
        time: UnixSeconds,
        secret: &[u8],
        whose: Whose,
    ) -> Result<Call, Error> {
        let signing = self
            .body
            .filter(|_| service.inject.sigv4.is_some())
            .map(|body| Signing {
                method: &request.method,
                authority: service.upstream.authority(),
                headers: &self.headers,
                body,
                time,
            });
        let minting = whose.minting;
        let placed = match &minting {
            None => inject(&service.inject, &self.target, signing, secret)?,
            Some(minting) => unplaced(&self.target, minting),
        };
        let headers = placed.headers.into_iter();
        Ok(Call {
            ticket: whose.ticket,
            time: time.0,
            actor: *whose.actor.as_bytes(),
            version: whose.version,
            method: request.method,
            target: Secret(Zeroizing::new(placed.target.as_bytes().to_vec())),
            headers: self.headers,
            length: request.length,
            placed: headers.map(|(name, value)| (name, Secret(value))).collect(),
            field: placed.field.map(|field| PlacedField {
                name: field.name,
                value: Secret(field.value),
            }),
            websocket: request.websocket,
            minting: minting.as_ref().map(MintingSecret::new),
            secrets: placed.secrets.into_iter().map(Secret).collect(),
            body: match self.body {
                Some(Body::Digest(digest)) => Some(digest),
                _ => None,
            },
            key: whose.key,
            counted: rule
                .priced
                .as_ref()
                .zip(request.counted)
                .map(|(priced, body)| CountedCall {
                    form: priced.form.place(),
                    body,
                }),
        })
    }

    /// What an approver is shown: nobody approves a body of which nothing is known.
    fn to_approve(
        &self,
        service: &Service,
        request: &ServiceRequest,
        identity: &str,
        by_ingress: bool,
    ) -> Result<String, Error> {
        if request.websocket {
            return Err(Denied::ServiceRequestNotAllowed {
                service: service.name.clone(),
                why: "is for a WebSocket, of which an approver could not see what is still to come",
            }
            .into());
        }
        let differs = |text: &String| {
            request
                .length
                .is_some_and(|length| length != text.len() as u64)
        };
        let body = match self.body {
            _ if request.text.as_ref().is_some_and(differs) => None,
            Some(Body::Digest(digest)) => ShownBody::new(digest, request.text.as_deref()),
            _ => None,
        };
        let body = body.ok_or_else(|| Denied::ServiceRequestNotAllowed {
            service: service.name.clone(),
            why: "goes without a digest of its body, which an approver needs",
        })?;
        Ok(self
            .head(service, request)
            .to_approve(identity, body, by_ingress)?)
    }

    fn head<'a>(&'a self, service: &'a Service, request: &'a ServiceRequest) -> RequestHead<'a> {
        RequestHead {
            service: &service.name,
            method: &request.method,
            target: &self.target,
            headers: &self.headers,
            length: request.length,
        }
    }
}

/// Refuses bodies that some services would take for the beginning of the next request (RFC 9110
/// sections 9.3.1, 9.3.2 and 9.3.7), and lengths that no record has a form for.
fn check_length(method: &str, length: Option<u64>) -> Result<(), Error> {
    let wrong = |why| Err(broker::Error::HeaderInvalid("content-length".into(), why).into());
    if length.is_some_and(|length| length > MAX_SAFE_INTEGER) {
        return wrong("it is beyond 2^53-1");
    }
    if ["GET", "HEAD", "OPTIONS"].contains(&method) && length != Some(0) {
        return wrong("a request of this method has no body here");
    }
    Ok(())
}

/// Refuses what the operator revoked: the agent, all its credentials, or this version of this one.
/// Which version it is that is shown, is known for sure once it has been opened.
fn check_revoked(
    env: &Env<'_>,
    policy: &IdentityPolicy,
    service: &Service,
    version: u64,
) -> Result<(), Error> {
    let until = |annex: &Annex| revoked_until(&annex.revoked, &policy.name, &service.name);
    if env
        .annex()
        .and_then(until)
        .is_some_and(|last| version <= last)
    {
        return Err(Denied::CredentialRevoked.into());
    }
    Ok(())
}
