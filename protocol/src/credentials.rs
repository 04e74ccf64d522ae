//! Messages about credentials, and what passes over the lines that are lent to the process of a
//! service.
//!
//! A line begins with one byte that says what it is ([`LineKind`]), and a [`Ticket`]. A line to
//! the service then carries TLS. A line for calls carries [`CallFrame`](crate::CallFrame)s, one call after the other: to
//! the process `Ticket` (of each call after the first), `Data`, `End`; from it `LineWanted`, `Head`, `Data`, `End`, or
//! `Failed`, which is the last one of its line. Of a WebSocket `Data` are its bytes, both ways behind a `Head` of 101, and the
//! caller's side has no `End`: its call is the last one of its line.
//!
//! Where the agent's TLS ends in the enclave, its ingress process has two lines of each agent, with the same number in place of
//! a ticket: one of the agent's bytes, and one for calls that carries `Ask`, `Data` and `End` from the process, and `Told`, `Head`, `Data`, `End`
//! and `Failed` to it. But for `Ask` and `Told` the parent passes these on as they are, between that line and one of the service's process.

use std::fmt;

use identity::Digest;
use minicbor::{Decode, Encode};

use crate::requester::Requester;

/// What lets one call be made, once: random, and known to nobody before its decision is recorded. It is
/// shown on the line for calls, and on each line that the call wants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Ticket(#[cbor(with = "minicbor::bytes")] pub [u8; 16]);

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(..)")
    }
}

/// One request to a service, to be made with a credential. The enclave parses and checks all of it
/// again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct OpenCredential {
    /// Whose credential, for whom.
    #[n(0)]
    pub requester: Requester,
    /// The credential as it is kept.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub envelope: Vec<u8>,
    /// What is asked.
    #[n(2)]
    pub request: ServiceRequest,
}

/// What an agent asks of a service, but for the body.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ServiceRequest {
    /// Name of the service.
    #[n(0)]
    pub service: String,
    /// Its method.
    #[n(1)]
    pub method: String,
    /// Path and query, behind the service's own.
    #[n(2)]
    pub target: String,
    /// Names and values of its headers, as they came.
    #[n(3)]
    pub headers: Vec<(String, minicbor::bytes::ByteVec)>,
    /// How long its body is, in bytes, if that is known before.
    #[n(4)]
    pub length: Option<u64>,
    /// SHA-256 of its body, where a signature or an approver needs it.
    #[n(5)]
    pub body: Option<Digest<32>>,
    /// The body itself, if it is text and short, for an approver to see.
    #[n(6)]
    pub text: Option<String>,
    /// What its body asks of a model, where that is counted. Whoever sends the body holds it against that.
    #[n(7)]
    pub counted: Option<CountedBody>,
    /// Whether a WebSocket is asked for.
    #[n(8)]
    pub websocket: bool,
}

/// What a body asks of a model.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct CountedBody {
    /// Which model.
    #[n(0)]
    pub model: String,
    /// Tokens of the prompt, at most.
    #[n(1)]
    pub input: u64,
    /// Tokens of the answers, at most.
    #[n(2)]
    pub output: u64,
}

/// The same, as the ingress process asks it: what is asked passes the parent unread.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct OpenSealed {
    /// Whose credential, for whom.
    #[n(0)]
    pub requester: Requester,
    /// The credential as it is kept.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub envelope: Vec<u8>,
    /// A [`ServiceRequest`], sealed.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub sealed: Vec<u8>,
}

/// What lets a call of the ingress process be made.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct OpenedSealed {
    /// For the lines of the call; its frames are sealed under a key that goes with it.
    #[n(0)]
    pub ticket: Ticket,
    /// That key, sealed for the ingress process.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub sealed: Vec<u8>,
}

/// What the ingress process asks, by way of the parent.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct InsideRequest {
    /// Name of the service.
    #[n(0)]
    pub service: String,
    /// A [`ServiceRequest`], sealed.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub sealed: Vec<u8>,
    /// Whether it is for a WebSocket, which a parent that stops does not wait for.
    #[n(2)]
    pub websocket: bool,
    /// Whether its body is in one of the few places for long ones, so that it is not to be held.
    #[n(3)]
    pub long: bool,
}

/// What the parent tells the ingress process.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Told {
    /// The call may be made: its key, sealed.
    #[n(0)]
    Opened(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// There is no call, or none any more.
    #[n(1)]
    Refused(#[n(0)] Refused),
}

/// A refusal, as the agent will read it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Refused {
    /// From 400 to 599.
    #[n(0)]
    pub status: u16,
    /// Names in lower case, and values.
    #[n(1)]
    pub headers: Vec<(String, minicbor::bytes::ByteVec)>,
    /// The body.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub body: Vec<u8>,
}

/// The authority under which the ingress process has its certificate, and what attests it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct AttestedAuthority {
    /// DER.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub certificate: Vec<u8>,
    /// A document whose `public_key` is its SubjectPublicKeyInfo.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub document: Vec<u8>,
}

/// A credential as it is kept outside.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SealedCredential {
    /// Of which actor: 32 bytes.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub actor: [u8; 32],
    /// For which service.
    #[n(1)]
    pub service: String,
    /// The envelope; its version stands in it.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub envelope: Vec<u8>,
}

/// A credential as it is kept outside, and where it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct KeptCredential {
    /// Name of the identity that uses it.
    #[n(0)]
    pub identity: String,
    /// For which service.
    #[n(1)]
    pub service: String,
    /// The envelope.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub envelope: Vec<u8>,
}

/// The keys K3 that an enclave has: all from one number to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct CredentialEpochs {
    /// What is sealed under a key below it opens no more.
    #[n(0)]
    pub lowest: u32,
    /// The one that seals.
    #[n(1)]
    pub current: u32,
}

/// What a line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineKind {
    /// Requests of agents and their answers.
    Calls,
    /// A connection to the service.
    Upstream,
    /// A connection of an agent, to the ingress process.
    Agent,
}

impl LineKind {
    /// How many bytes a line begins with.
    pub const BYTES: usize = 17;

    /// What a line of this kind begins with.
    pub fn opening(self, ticket: Ticket) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = match self {
            Self::Calls => 1,
            Self::Upstream => 2,
            Self::Agent => 3,
        };
        bytes[1..].copy_from_slice(&ticket.0);
        bytes
    }

    /// What a line is that begins so; none if it is no line.
    pub fn of(opening: [u8; Self::BYTES]) -> Option<(Self, Ticket)> {
        let kind = match opening[0] {
            1 => Self::Calls,
            2 => Self::Upstream,
            3 => Self::Agent,
            _ => return None,
        };
        let mut ticket = [0; 16];
        ticket.copy_from_slice(&opening[1..]);
        Some((kind, Ticket(ticket)))
    }
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct FramedHead {
    /// Three digits.
    #[n(0)]
    pub status: u16,
    /// Names in lower case, and values.
    #[n(1)]
    pub headers: Vec<(String, minicbor::bytes::ByteVec)>,
}

/// Why a call has no answer, or none any more.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Failed {
    /// A stable snake_case name.
    #[n(0)]
    pub code: String,
    /// For people: printable ASCII.
    #[n(1)]
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_not_shown() {
        assert_eq!(format!("{:?}", Ticket([7; 16])), "Ticket(..)");
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        let ticket = Ticket([7; 16]);
        for kind in [LineKind::Calls, LineKind::Upstream, LineKind::Agent] {
            assert_eq!(LineKind::of(kind.opening(ticket)), Some((kind, ticket)));
        }
        for other in [0, 4, 255] {
            let mut opening = LineKind::Calls.opening(ticket);
            opening[0] = other;
            assert_eq!(LineKind::of(opening), None);
        }
    }
}
