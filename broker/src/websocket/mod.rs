//! WebSockets (RFC 6455): the handshake, and what passes each way behind it.
//!
//! Everything is taken apart into frames and written anew. No extension is agreed on, so that the texts can be looked
//! through as they stand.

mod frames;
mod ways;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use data_encoding::BASE64;

use crate::{Error, Header};

pub use self::ways::{FromAgent, FromService, Gone, closing};

/// What stands behind the key in what is hashed (section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a request asks for a WebSocket, by its headers; names in lower case.
pub fn asks_for_websocket<'h>(headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> bool {
    let is_it = |word: &[u8]| word.trim_ascii().eq_ignore_ascii_case(b"websocket");
    headers
        .into_iter()
        .any(|(name, value)| name == "upgrade" && value.split(|byte| *byte == b',').any(is_it))
}

/// An agent's handshake.
#[derive(Debug)]
pub struct Handshake {
    /// What the service answers to its key.
    accept: String,
    protocols: Vec<Vec<u8>>,
}

impl Handshake {
    /// Of the headers of a request (section 4.2.1).
    pub fn of(headers: &[Header]) -> Result<Self, Error> {
        let wrong = |why| Err(Error::WebsocketInvalid(why));
        if only(headers, "sec-websocket-version") != Some(b"13") {
            return wrong("Sec-WebSocket-Version is not 13");
        }
        let key = only(headers, "sec-websocket-key");
        let is_key = |key: &&[u8]| BASE64.decode(key).is_ok_and(|key| key.len() == 16);
        let Some(key) = key.filter(is_key) else {
            return wrong("Sec-WebSocket-Key is no key");
        };
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
        let protocols = headers
            .iter()
            .filter(|header| header.name == "sec-websocket-protocol")
            .flat_map(|header| header.value.split(|byte| *byte == b','))
            .map(|protocol| protocol.trim_ascii().to_vec());
        Ok(Self {
            accept: BASE64.encode(hash.as_ref()),
            protocols: protocols.collect(),
        })
    }

    /// Whether a service that switches protocols has agreed to just this (section 4.1, what the client
    /// validates).
    pub fn is_answered(&self, headers: &[Header]) -> bool {
        let upgrade = only(headers, "upgrade").unwrap_or_default();
        let protocol = only(headers, "sec-websocket-protocol");
        let is_named = |name: &str| headers.iter().any(|header| header.name == name);
        let offered = |chosen: &[u8]| self.protocols.iter().any(|own| own == chosen);
        upgrade.eq_ignore_ascii_case(b"websocket")
            && only(headers, "sec-websocket-accept") == Some(self.accept.as_bytes())
            && !is_named("sec-websocket-extensions")
            && match protocol {
                None => !is_named("sec-websocket-protocol"),
                Some(chosen) => offered(chosen),
            }
    }
}

/// The value of a header that is given once.
fn only<'h>(headers: &'h [Header], name: &str) -> Option<&'h [u8]> {
    let mut all = headers.iter().filter(|header| header.name == name);
    match (all.next(), all.next()) {
        (Some(one), None) => Some(&one.value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&str, &str)]) -> Vec<Header> {
        let header = |(name, value): &(&str, &str)| Header::new(name, value.as_bytes());
        all.iter().map(header).collect()
    }

    /// The key and its answer of RFC 6455 section 1.3.
    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    const ACCEPT: (&str, &str) = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    const VERSION: (&str, &str) = ("sec-websocket-version", "13");
    const UPGRADE: (&str, &str) = ("upgrade", "WebSocket");

    #[test]
    fn a_websocket_is_asked_for_by_name() {
        for (value, asks) in [
            ("websocket", true),
            ("h2c, WebSocket", true),
            ("websockets", false),
            ("h2c", false),
            ("", false),
        ] {
            assert_eq!(asks_for_websocket([("upgrade", value.as_bytes())]), asks);
        }
        assert!(!asks_for_websocket([("connection", &b"websocket"[..])]));
    }

    #[test]
    fn a_handshake_is_whole_or_none() {
        assert!(Handshake::of(&headers(&[KEY, VERSION])).is_ok());
        for bad in [
            vec![KEY],
            vec![VERSION],
            vec![KEY, VERSION, VERSION],
            vec![KEY, KEY, VERSION],
            vec![KEY, ("sec-websocket-version", "12")],
            vec![("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ"), VERSION],
            vec![("sec-websocket-key", "dGhl"), VERSION],
        ] {
            assert!(Handshake::of(&headers(&bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_service_agrees_to_what_was_asked_and_to_nothing_else() {
        let offer = ("sec-websocket-protocol", "chat, superchat");
        let asked = Handshake::of(&headers(&[KEY, VERSION, offer])).unwrap();
        let chosen = |name| ("sec-websocket-protocol", name);
        for good in [
            vec![UPGRADE, ACCEPT],
            vec![UPGRADE, ACCEPT, chosen("superchat")],
        ] {
            assert!(asked.is_answered(&headers(&good)), "{good:?}");
        }
        for bad in [
            vec![UPGRADE],
            vec![ACCEPT],
            vec![("upgrade", "h2c"), ACCEPT],
            vec![
                UPGRADE,
                ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOO="),
            ],
            vec![UPGRADE, ACCEPT, ACCEPT],
            vec![UPGRADE, ACCEPT, chosen("other")],
            vec![UPGRADE, ACCEPT, chosen("chat"), chosen("chat")],
            vec![
                UPGRADE,
                ACCEPT,
                ("sec-websocket-extensions", "permessage-deflate"),
            ],
        ] {
            assert!(!asked.is_answered(&headers(&bad)), "{bad:?}");
        }
    }
}
