//! Messages about credentials, and what passes over the lines that are lent to the process of a
//! service.
//!
//! A line begins with one byte that says what it is ([`LineKind`]), and a [`Ticket`]. A line to
//! the service then carries TLS. A line for calls carries [`CallFrame`]s, one call after the other: to
//! the process `Ticket` (of each call after the first), `Data`, `End`; from it `LineWanted`, `Head`, `Data`, `End`, or
//! `Failed`, which is the last one of its line.

use std::fmt;

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
    /// Name of the service.
    #[n(1)]
    pub service: String,
    /// Its method.
    #[n(2)]
    pub method: String,
    /// Path and query, behind the service's name.
    #[n(3)]
    pub target: String,
    /// Names and values of its headers, as they came.
    #[n(4)]
    pub headers: Vec<(String, minicbor::bytes::ByteVec)>,
    /// How long its body is, in bytes, if that is known before.
    #[n(5)]
    pub length: Option<u64>,
    /// The credential as it is kept.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub envelope: Vec<u8>,
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

/// What a line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineKind {
    /// Requests of agents and their answers.
    Calls,
    /// A connection to the service.
    Upstream,
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
        };
        bytes[1..].copy_from_slice(&ticket.0);
        bytes
    }

    /// What a line is that begins so; none if it is no line.
    pub fn of(opening: [u8; Self::BYTES]) -> Option<(Self, Ticket)> {
        let kind = match opening[0] {
            1 => Self::Calls,
            2 => Self::Upstream,
            _ => return None,
        };
        let mut ticket = [0; 16];
        ticket.copy_from_slice(&opening[1..]);
        Some((kind, Ticket(ticket)))
    }
}

/// What a frame on a line for calls is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CallKind {
    /// A call begins: its ticket.
    Ticket = 1,
    /// A piece of a body.
    Data = 2,
    /// The end of a body.
    End = 3,
    /// A line to the service is wanted for this call.
    LineWanted = 4,
    /// The head of the answer: a [`FramedHead`].
    Head = 5,
    /// No answer, or none any more: [`Failed`].
    Failed = 6,
}

/// The head of a frame on a line for calls: its kind, and the length of what follows, big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallFrame {
    /// What it is.
    pub kind: CallKind,
    /// How many bytes follow; at most 64 KiB.
    pub length: usize,
}

impl CallFrame {
    /// How many bytes the head of a frame has.
    pub const HEAD: usize = 5;
    /// How many may follow: the head of an answer, or a piece of a body.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// A frame with these bytes, whole. What is too long for one is an error of the sender.
    ///
    /// # Panics
    /// If there are more than 64 KiB.
    pub fn write(kind: CallKind, bytes: &[u8], out: &mut Vec<u8>) {
        assert!(
            bytes.len() <= Self::MAX_BYTES,
            "a frame of {} bytes",
            bytes.len()
        );
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        out.push(kind as u8);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(bytes);
    }

    /// Reads the head of a frame; none if it is none.
    pub fn read(head: [u8; Self::HEAD]) -> Option<Self> {
        use CallKind::{Data, End, Failed, Head, LineWanted, Ticket};
        let kinds = [Ticket, Data, End, LineWanted, Head, Failed];
        let kind = kinds.into_iter().find(|kind| *kind as u8 == head[0])?;
        let mut length = [0; 4];
        length.copy_from_slice(&head[1..]);
        let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
        (length <= Self::MAX_BYTES).then_some(Self { kind, length })
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
    fn lines_and_frames_are_read_as_they_were_written() {
        let ticket = Ticket([7; 16]);
        for kind in [LineKind::Calls, LineKind::Upstream] {
            assert_eq!(LineKind::of(kind.opening(ticket)), Some((kind, ticket)));
        }
        for other in [0, 3, 255] {
            let mut opening = LineKind::Calls.opening(ticket);
            opening[0] = other;
            assert_eq!(LineKind::of(opening), None);
        }
        let mut out = Vec::new();
        CallFrame::write(CallKind::Data, b"hello", &mut out);
        let head = CallFrame::read(*out.first_chunk().unwrap());
        let wanted = CallFrame {
            kind: CallKind::Data,
            length: 5,
        };
        assert_eq!((head, &out[5..]), (Some(wanted), &b"hello"[..]));
        for (kind, length) in [(0, 5_u32), (7, 5), (2, 65537), (2, u32::MAX)] {
            let mut head = [kind, 0, 0, 0, 0];
            head[1..].copy_from_slice(&length.to_be_bytes());
            assert_eq!(CallFrame::read(head), None);
        }
    }
}
