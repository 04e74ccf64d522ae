//! A request in the one form in which it is judged, shown to approvers, recorded and sent.

use broker::websocket::Handshake;
use broker::{
    Body, Header, Minting, Omni, RequestHead, ShownBody, Signing, Target, actions, body_of,
    check_field, forwarded, inject, unplaced,
};
use identity::json::MAX_SAFE_INTEGER;
use identity::{Intent, UnixSeconds};
use policy::{Service, ServiceRule};
use policy_engine::{CREDENTIAL_ACTION, Denied};
use protocol::{ServiceRequest, Ticket};
use upstream::{Call, CountedCall, MintingSecret, PlacedField, Secret, SecretKey};
use zeroize::Zeroizing;

use crate::Error;
use crate::audit::Trail;

/// Whose call it is.
pub(super) struct Whose {
    pub(super) ticket: Ticket,
    pub(super) actor: Omni,
    pub(super) version: u64,
    pub(super) key: Option<SecretKey>,
    /// With what it gets a token, if it does.
    pub(super) minting: Option<Minting>,
}

/// A request in the one form.
pub(super) struct Asked {
    pub(super) target: Target,
    pub(super) headers: Vec<Header>,
    /// What it does beyond what method and path say.
    pub(super) actions: Vec<String>,
    /// What its body is, where a signature says so.
    body: Option<Body>,
}

impl Asked {
    pub(super) fn parse(
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
    pub(super) fn call(
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
    pub(super) fn to_approve(
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

    pub(super) fn head<'a>(
        &'a self,
        service: &'a Service,
        request: &'a ServiceRequest,
    ) -> RequestHead<'a> {
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
