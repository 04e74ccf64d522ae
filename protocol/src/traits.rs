//! What holds of a request whatever it says.

use crate::{OpenCredential, OpenSealed, Request, Requester};

/// What holds of a request of some kind, whatever it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits<'r> {
    /// Where the enclave works on it.
    pub lane: Lane,
    /// The type of the event that its decision makes in the record; none where nothing is decided.
    pub event: Option<&'static str>,
    /// Whether it is answered to a connection that proved any key, and not only to that of the
    /// policy's proxy key.
    pub before_policy: bool,
    /// Who asks, and for which identity, where that matters.
    pub requester: Option<&'r Requester>,
}

/// Where the enclave works on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// In the thread of its connection: it never waits for the NSM. An enclave that does not answer
    /// in time hangs.
    Connection,
    /// One after the other, with others that ask the NSM for a document.
    Evidence,
    /// One after the other, with others that need the NSM, of the operator or for a new key. A flood of challenges
    /// does not hold them up.
    Control,
}

impl Request {
    /// What holds of it. A new kind of request says all of this here, or does not compile.
    pub fn traits(&self) -> Traits<'_> {
        let plain = Traits {
            lane: Lane::Connection,
            event: None,
            before_policy: false,
            requester: None,
        };
        match self {
            Self::Status => Traits {
                before_policy: true,
                ..plain
            },
            // The record begins with it; the event of the boot is fetched apart.
            Self::Provision { .. } => Traits {
                lane: Lane::Control,
                before_policy: true,
                ..plain
            },
            Self::Sign(sign) => Traits {
                event: Some("token.sign"),
                requester: Some(&sign.requester),
                ..plain
            },
            Self::Attest { requester, .. } => Traits {
                lane: Lane::Evidence,
                event: Some("key.attest"),
                requester: Some(requester),
                ..plain
            },
            Self::Describe(of) => Traits {
                requester: Some(of),
                ..plain
            },
            Self::Rotate(rotate) => Traits {
                lane: Lane::Control,
                event: Some("key.rotate"),
                requester: Some(&rotate.requester),
                ..plain
            },
            Self::Annex { .. } => Traits {
                event: Some("annex.load"),
                ..plain
            },
            Self::Records { .. } => plain,
            Self::Exchange(exchange) => Traits {
                event: Some("token.exchange"),
                requester: Some(&exchange.requester),
                ..plain
            },
            Self::GetApproval { .. } | Self::Overview { .. } => plain,
            Self::Approve { .. } => Traits {
                event: Some("approval.grant"),
                ..plain
            },
            // There is no record yet where a state is born or opened; the boot's event says what came
            // of it.
            Self::BirthDocument { .. } | Self::Birth { .. } | Self::OpenState | Self::AskKms(_) => {
                Traits {
                    lane: Lane::Control,
                    ..plain
                }
            }
            // One after the other, as what it waits for.
            Self::PutPiece(_) | Self::GetPiece { .. } | Self::Stored => Traits {
                lane: Lane::Control,
                ..plain
            },
            Self::State => plain,
            Self::SealingKey { .. } | Self::Authority { .. } => Traits {
                lane: Lane::Evidence,
                ..plain
            },
            Self::PutCredential { .. } => Traits {
                event: Some("credential.put"),
                ..plain
            },
            // It says nothing that a use of it would not.
            Self::Epochs | Self::CredentialKept(_) => plain,
            // It grants nothing, and comes every few minutes; a refusal for want of one is recorded.
            Self::Lease { .. } => plain,
            // It decides nothing: what is left was decided by the policy.
            Self::KeepBudgets => Traits {
                lane: Lane::Control,
                ..plain
            },
            // A new key needs the NSM, and a state a seal.
            Self::SetEpochs { .. } => Traits {
                lane: Lane::Control,
                event: Some("credential.epochs"),
                ..plain
            },
            Self::RewrapCredential(_) => Traits {
                event: Some("credential.rewrap"),
                ..plain
            },
            Self::CloseCredential { .. } => Traits {
                event: Some("credential.close"),
                ..plain
            },
            Self::OpenCredential(OpenCredential { requester, .. })
            | Self::OpenSealed(OpenSealed { requester, .. }) => Traits {
                event: Some("credential.open"),
                requester: Some(requester),
                ..plain
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use identity::ApprovalId;
    use identity::caller::ObservedCaller;

    use super::*;
    use crate::Rotate;

    #[test]
    fn what_holds_of_each_kind_of_request() {
        let of = Requester {
            caller: ObservedCaller::ids(1, 2),
            identity: Some("agent".into()),
        };
        let sign = crate::Sign {
            requester: of.clone(),
            format: identity::Format::VouchJwt,
            action: String::new(),
            target: String::new(),
            resource: String::new(),
            payload: String::new(),
            audience: None,
            validity_seconds: None,
            proof: None,
            delegation: None,
            approval: None,
            delegatee: None,
        };
        let exchange = crate::Exchange {
            requester: of.clone(),
            subject_token: String::new(),
            scope: None,
            resource: None,
            audience: None,
            proof: None,
        };
        let asked = |request: &Request| {
            let traits = request.traits();
            let identity = traits.requester.and_then(|of| of.identity.clone());
            (
                traits.lane,
                traits.event,
                traits.before_policy,
                identity.is_some(),
            )
        };
        let connection = Lane::Connection;
        for (request, wanted) in [
            (Request::Status, (connection, None, true, false)),
            (
                Request::Provision {
                    bundle: Vec::new(),
                    before: None,
                },
                (Lane::Control, None, true, false),
            ),
            (
                Request::Attest {
                    requester: of.clone(),
                    nonce: Vec::new(),
                },
                (Lane::Evidence, Some("key.attest"), false, true),
            ),
            (
                Request::Sign(sign),
                (connection, Some("token.sign"), false, true),
            ),
            (
                Request::Exchange(exchange),
                (connection, Some("token.exchange"), false, true),
            ),
            (
                Request::Describe(of.clone()),
                (connection, None, false, true),
            ),
            (
                Request::Rotate(Rotate {
                    requester: of.clone(),
                    order: None,
                    proof: None,
                }),
                (Lane::Control, Some("key.rotate"), false, true),
            ),
            (
                Request::Annex { signed: Vec::new() },
                (connection, Some("annex.load"), false, false),
            ),
            (
                Request::Records { from: 0 },
                (connection, None, false, false),
            ),
            (
                Request::GetApproval {
                    id: ApprovalId::new([0; 16]),
                },
                (connection, None, false, false),
            ),
            (
                Request::Overview {
                    caller: ObservedCaller::ids(1, 2),
                    all: true,
                },
                (connection, None, false, false),
            ),
            (
                Request::Approve { jws: String::new() },
                (connection, Some("approval.grant"), false, false),
            ),
        ] {
            assert_eq!(asked(&request), wanted, "{request:?}");
        }
    }

    #[test]
    fn what_holds_of_requests_about_states_and_credentials() {
        let of = Requester {
            caller: ObservedCaller::ids(1, 2),
            identity: Some("agent".into()),
        };
        let open = OpenSealed {
            requester: of,
            envelope: Vec::new(),
            sealed: Vec::new(),
        };
        let kept = crate::KeptCredential {
            service: "s".into(),
            identity: "agent".into(),
            envelope: Vec::new(),
        };
        let piece = crate::Piece {
            part: crate::Part::Sealed,
            offset: 0,
            bytes: Vec::new(),
            total: 0,
        };
        let signed = crate::KmsSigned {
            number: 0,
            authorization: String::new(),
            security_token: None,
        };
        let bytes = Vec::new;
        let (connection, evidence, control) = (Lane::Connection, Lane::Evidence, Lane::Control);
        for (request, lane, event) in [
            (Request::State, connection, None),
            (Request::BirthDocument { nonce: bytes() }, control, None),
            (Request::Birth { order: bytes() }, control, None),
            (Request::OpenState, control, None),
            (Request::AskKms(signed), control, None),
            (Request::PutPiece(piece.clone()), control, None),
            (
                Request::GetPiece {
                    part: piece.part,
                    offset: 0,
                },
                control,
                None,
            ),
            (Request::Stored, control, None),
            (Request::SealingKey { nonce: bytes() }, evidence, None),
            (Request::Authority { nonce: bytes() }, evidence, None),
            (
                Request::PutCredential { order: bytes() },
                connection,
                Some("credential.put"),
            ),
            (Request::Epochs, connection, None),
            (Request::CredentialKept(kept.clone()), connection, None),
            (Request::Lease { signed: bytes() }, connection, None),
            (Request::KeepBudgets, control, None),
            (
                Request::SetEpochs { order: bytes() },
                control,
                Some("credential.epochs"),
            ),
            (
                Request::RewrapCredential(kept),
                connection,
                Some("credential.rewrap"),
            ),
            (
                Request::CloseCredential {
                    ticket: crate::Ticket([0; 16]),
                },
                connection,
                Some("credential.close"),
            ),
            (
                Request::OpenSealed(open.clone()),
                connection,
                Some("credential.open"),
            ),
        ] {
            let wanted = Traits {
                lane,
                event,
                before_policy: false,
                requester: matches!(request, Request::OpenSealed(_)).then_some(&open.requester),
            };
            assert_eq!(request.traits(), wanted);
        }
    }
}
