//! Strings end here: what comes out is well-formed, and nothing else is known of it.

use identity::{ApprovalId, Digest, Format, Intent, Payload, request};
use protocol::{Exchange, PresentedProof, Requester, Sign};

use crate::Error;
use crate::audit::Trail;
use crate::stages::authenticate::Request;

/// Base64url makes four bytes of three, and the rest of a token is far below 8 KiB, so this fits
/// through the window.
const MAX_PAYLOAD: usize = 32 * 1024;
const MAX_AUDIENCE: usize = 1024;

/// What is presented to ask for somebody else; nothing of it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Presented {
    /// Nothing: the agent asks for itself.
    None,
    /// A token of the agent's own, by which it acts for somebody.
    Token(String),
    /// A JSON array of grants, root first.
    Grants(String),
}

impl Presented {
    fn of(text: Option<String>) -> Self {
        match text {
            None => Self::None,
            Some(text) if text.starts_with('[') => Self::Grants(text),
            Some(text) => Self::Token(text),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Token(text) | Self::Grants(text) => Some(text),
        }
    }
}

/// A request for a signature.
#[derive(Debug)]
pub(crate) struct SignRequest {
    pub(crate) requester: Requester,
    pub(crate) format: Format,
    pub(crate) intent: Intent,
    pub(crate) payload: Payload,
    pub(crate) audience: Option<String>,
    /// Positive.
    pub(crate) validity_seconds: Option<u32>,
    pub(crate) proof: Option<PresentedProof>,
    pub(crate) presented: Presented,
    pub(crate) approval: Option<ApprovalId>,
}

impl SignRequest {
    /// Reads a request as it came through the window.
    pub(crate) fn parse(sign: Sign, trail: &mut Trail) -> Result<Self, Error> {
        let delegatee = sign
            .delegatee
            .as_deref()
            .map(identity::Did::parse)
            .transpose()?;
        let intent = Intent::new(sign.action, sign.target, sign.resource)?.granted_to(delegatee);
        trail.intent(&intent);
        if sign.payload.len() > MAX_PAYLOAD {
            return Err(Error::PayloadTooLarge);
        }
        let payload = Payload::parse(sign.payload.as_bytes())?;
        check_audience(sign.audience.as_deref())?;
        if sign.validity_seconds == Some(0) {
            return Err(Error::ValidityInvalid);
        }
        Ok(Self {
            requester: sign.requester,
            format: sign.format,
            intent,
            payload,
            audience: sign.audience,
            validity_seconds: sign.validity_seconds,
            proof: sign.proof,
            presented: Presented::of(sign.delegation),
            approval: sign.approval,
        })
    }

    /// In the form that is hashed, for the identity of this name.
    pub(crate) fn in_form<'a>(&'a self, identity: &'a str) -> request::Request<'a> {
        request::Request {
            audience: self.audience.as_deref(),
            delegation: self.presented.text(),
            format: self.format.as_str(),
            identity,
            intent: &self.intent,
            payload: &self.payload,
            validity_seconds: self.validity_seconds,
        }
    }
}

impl Request for SignRequest {
    fn requester(&self) -> &Requester {
        &self.requester
    }

    fn proof(&self) -> Option<&PresentedProof> {
        self.proof.as_ref()
    }

    fn digest(&self, identity: &str) -> Result<Digest<32>, Error> {
        Ok(self.in_form(identity).digest()?)
    }
}

/// A request for a token by which an agent acts for somebody (RFC 8693 section 2.1).
#[derive(Debug)]
pub(crate) struct ExchangeRequest {
    pub(crate) requester: Requester,
    pub(crate) subject_token: String,
    pub(crate) scope: Option<String>,
    pub(crate) resource: Option<String>,
    pub(crate) audience: Option<String>,
    pub(crate) proof: Option<PresentedProof>,
}

impl ExchangeRequest {
    /// Reads a request as it came through the window.
    pub(crate) fn parse(exchange: Exchange) -> Result<Self, Error> {
        check_audience(exchange.audience.as_deref())?;
        let Exchange {
            requester,
            subject_token,
            scope,
            resource,
            audience,
            proof,
        } = exchange;
        Ok(Self {
            requester,
            subject_token,
            scope,
            resource,
            audience,
            proof,
        })
    }
}

impl Request for ExchangeRequest {
    fn requester(&self) -> &Requester {
        &self.requester
    }

    fn proof(&self) -> Option<&PresentedProof> {
        self.proof.as_ref()
    }

    fn digest(&self, identity: &str) -> Result<Digest<32>, Error> {
        let form = request::Exchange {
            audience: self.audience.as_deref(),
            identity,
            resource: self.resource.as_deref(),
            scope: self.scope.as_deref(),
            subject_token: &self.subject_token,
        };
        Ok(form.digest()?)
    }
}

fn check_audience(audience: Option<&str>) -> Result<(), Error> {
    let good = |text: &str| {
        !text.is_empty() && text.len() <= MAX_AUDIENCE && !text.chars().any(char::is_control)
    };
    if audience.is_none_or(good) {
        Ok(())
    } else {
        Err(Error::AudienceInvalid)
    }
}

#[cfg(test)]
mod tests {
    use identity::caller::ObservedCaller;

    use super::*;

    fn wire() -> Sign {
        Sign {
            requester: Requester {
                caller: ObservedCaller::ids(1, 1),
                identity: None,
            },
            format: Format::VouchJwt,
            action: "transfer".into(),
            target: "account".into(),
            resource: "https://bank.example/".into(),
            payload: "{}".into(),
            audience: None,
            validity_seconds: None,
            proof: None,
            delegation: None,
            approval: None,
            delegatee: None,
        }
    }

    fn parse(sign: Sign) -> Result<SignRequest, &'static str> {
        SignRequest::parse(
            sign,
            &mut Trail::new(Digest([0; 48]), "token.sign", "default"),
        )
        .map_err(|error| error.code())
    }

    #[test]
    fn what_is_not_well_formed_ends_here() {
        assert!(parse(wire()).is_ok());
        let longest = format!("{{\"a\":\"{}\"}}", "x".repeat(32_768 - 8));
        for (sign, wanted) in [
            (
                Sign {
                    payload: longest.clone(),
                    ..wire()
                },
                None,
            ),
            (
                Sign {
                    payload: longest + " ",
                    ..wire()
                },
                Some("payload_too_large"),
            ),
            (
                Sign {
                    payload: "[]".into(),
                    ..wire()
                },
                Some("json_shape"),
            ),
            (
                Sign {
                    action: String::new(),
                    ..wire()
                },
                Some("intent_invalid"),
            ),
            (
                Sign {
                    audience: Some(String::new()),
                    ..wire()
                },
                Some("audience_invalid"),
            ),
            (
                Sign {
                    audience: Some("x".repeat(MAX_AUDIENCE)),
                    ..wire()
                },
                None,
            ),
            (
                Sign {
                    audience: Some("x".repeat(MAX_AUDIENCE + 1)),
                    ..wire()
                },
                Some("audience_invalid"),
            ),
            (
                Sign {
                    audience: Some("a\nb".into()),
                    ..wire()
                },
                Some("audience_invalid"),
            ),
            (
                Sign {
                    validity_seconds: Some(0),
                    ..wire()
                },
                Some("validity_invalid"),
            ),
            (
                Sign {
                    validity_seconds: Some(1),
                    ..wire()
                },
                None,
            ),
            (
                Sign {
                    delegatee: Some("nobody".into()),
                    ..wire()
                },
                Some("did_invalid"),
            ),
        ] {
            assert_eq!(parse(sign.clone()).err(), wanted, "{:?}", sign.audience);
        }
    }

    #[test]
    fn grants_are_an_array_and_everything_else_is_a_token() {
        let presented = |text: &str| {
            parse(Sign {
                delegation: Some(text.into()),
                ..wire()
            })
            .unwrap()
            .presented
        };
        assert_eq!(parse(wire()).unwrap().presented, Presented::None);
        assert_eq!(presented("[{}]"), Presented::Grants("[{}]".into()));
        assert_eq!(presented("ey.x.y"), Presented::Token("ey.x.y".into()));
        assert_eq!(presented(""), Presented::Token(String::new()));
    }
}
