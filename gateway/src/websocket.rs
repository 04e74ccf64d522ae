//! WebSockets: the handshake (RFC 6455 section 4), towards the caller and towards the agent.
//!
//! Nothing passes before the agent has answered 101. Extensions are not agreed on with either side, so
//! that a message can be looked through as it stands.

use data_encoding::BASE64;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Version};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::answer::Refusal;
use crate::headers::only;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADES: HeaderValue = HeaderValue::from_static("upgrade");
/// The one version that there is (section 4.1).
const THIRTEEN: HeaderValue = HeaderValue::from_static("13");

/// A caller that wants a WebSocket.
#[derive(Debug)]
pub struct Offer {
    /// What the caller is answered for its key.
    accept: HeaderValue,
    /// What the agent is asked with.
    key: String,
    protocols: Vec<String>,
    /// The caller's connection, once it was answered.
    pub upgrade: OnUpgrade,
}

impl Offer {
    /// What a request offers; none if it asks for nothing of the sort. What else it asks for is left as
    /// it is, and refused later.
    pub fn take<B: hyper::body::Body>(request: &mut Request<B>) -> Result<Option<Self>, Refusal> {
        let asks = only(request.headers(), UPGRADE.as_str());
        if !asks.is_some_and(|asks| asks.as_bytes().eq_ignore_ascii_case(b"websocket")) {
            return Ok(None);
        }
        let has_body = !request.body().is_end_stream()
            || request.headers().contains_key(TRANSFER_ENCODING)
            || request.headers().contains_key(CONTENT_LENGTH);
        if request.version() != Version::HTTP_11 || request.method() != Method::GET || has_body {
            let why = "a WebSocket is asked for by GET, without a body";
            return Err(Refusal::Malformed(why));
        }
        let headers = request.headers();
        if !names(headers, CONNECTION.as_str()).any(|name| name.eq_ignore_ascii_case("upgrade")) {
            return Err(Refusal::Malformed("Connection does not say upgrade"));
        }
        if only(headers, SEC_WEBSOCKET_VERSION.as_str()) != Some(&THIRTEEN) {
            return Err(Refusal::WebSocketVersion);
        }
        let key = only(headers, SEC_WEBSOCKET_KEY.as_str());
        let is_key = |key: &&HeaderValue| {
            BASE64
                .decode(key.as_bytes())
                .is_ok_and(|key| key.len() == 16)
        };
        let Some(key) = key.filter(is_key) else {
            return Err(Refusal::Malformed("Sec-WebSocket-Key is no key"));
        };
        let accept = accepted(key.as_bytes());
        let protocols = names(headers, SEC_WEBSOCKET_PROTOCOL.as_str()).map(str::to_owned);
        let protocols = protocols.collect();
        let upgrade = hyper::upgrade::on(&mut *request);
        for name in [
            UPGRADE,
            SEC_WEBSOCKET_KEY,
            SEC_WEBSOCKET_VERSION,
            SEC_WEBSOCKET_EXTENSIONS,
        ] {
            request.headers_mut().remove(name);
        }
        Ok(Some(Self {
            accept,
            key: generate_key(),
            protocols,
            upgrade,
        }))
    }

    /// Asks the agent for the same.
    pub fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, UPGRADES);
        headers.insert(UPGRADE, WEBSOCKET);
        headers.insert(SEC_WEBSOCKET_VERSION, THIRTEEN);
        if let Ok(key) = HeaderValue::try_from(&self.key) {
            headers.insert(SEC_WEBSOCKET_KEY, key);
        }
    }

    /// Whether the agent, which switches protocols, has agreed to just that (section 4.1, what the client validates).
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let broken = |why: &str| Err(Refusal::BackendBroken(why.into()));
        let upgrade = only(headers, UPGRADE.as_str());
        if !upgrade.is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"websocket"))
            || !names(headers, CONNECTION.as_str()).any(|it| it.eq_ignore_ascii_case("upgrade"))
        {
            return broken("it switched to another protocol than WebSocket");
        }
        let accept = only(headers, SEC_WEBSOCKET_ACCEPT.as_str());
        if accept != Some(&accepted(self.key.as_bytes())) {
            return broken("its Sec-WebSocket-Accept is another one's");
        }
        if headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
            return broken("it chose an extension, and none was offered");
        }
        let mut chosen = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let is_offered = |chosen: &HeaderValue| {
            let chosen = chosen.as_bytes();
            self.protocols.iter().any(|it| it.as_bytes() == chosen)
        };
        if !chosen.next().is_none_or(is_offered) || chosen.next().is_some() {
            return broken("it chose a subprotocol that was not offered");
        }
        Ok(())
    }

    /// Answers the caller, in the head of the agent's own answer.
    pub fn answer(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, UPGRADES);
        headers.insert(UPGRADE, WEBSOCKET);
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept.clone());
    }
}

fn accepted(key: &[u8]) -> HeaderValue {
    HeaderValue::try_from(derive_accept_key(key)).expect("base64 is ASCII")
}

/// Of a header that is a list.
fn names<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim)
}
