//! What passes over the two pipes between the process that holds the keys and this one: frames of
//! deterministic CBOR ([`protocol::write_frame`]).

use broker::{Field, Header, Minting};
use identity::Digest;
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Decoder, Encode, Encoder};
use policy::{Form, TokenSource};
use protocol::{CountedBody, Ticket};
use zeroize::Zeroizing;

/// To the process of a service.
#[derive(Encode, Decode)]
pub enum Ask {
    /// The first one, once: which service it is for.
    #[n(0)]
    Begin(#[n(0)] Setup),
    /// A call that may be made.
    #[n(1)]
    Call(#[n(0)] Box<Call>),
    /// A credential is not used any more: calls with it end, and what was opened with it is closed.
    #[n(2)]
    Revoke(#[n(0)] Revoked),
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Setup {
    /// The name that its certificate must have.
    #[n(0)]
    pub host: String,
    /// `Host`.
    #[n(1)]
    pub authority: String,
    /// DER of the roots that are trusted; Mozilla's if there are none.
    #[n(2)]
    pub roots: Vec<ByteVec>,
    /// SHA-256 of SubjectPublicKeyInfos, of which the verified path must have one, if there are any.
    #[n(3)]
    pub pins: Vec<ByteVec>,
    /// Whether a credential that comes back is replaced, and the answer not cut off.
    #[n(4)]
    pub replace: bool,
    /// Where its credentials get tokens, if that is what is put in their place.
    #[n(5)]
    pub token: Option<TokenSetup>,
}

/// Where credentials get tokens, and where these are put.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct TokenSetup {
    /// JSON of a [`policy::TokenSource`].
    #[n(0)]
    pub source: String,
    /// The header in which a token stands.
    #[n(1)]
    pub header: String,
    /// What stands there: `{}` is the token.
    #[n(2)]
    pub format: String,
}

/// A credential that is not used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Revoked {
    /// Whose.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub actor: [u8; 32],
    /// The last version that is not used any more.
    #[n(1)]
    pub last: u64,
}

impl Revoked {
    /// Whether this version of an actor's credential is meant.
    pub fn is(&self, actor: &[u8; 32], version: u64) -> bool {
        self.actor == *actor && version <= self.last
    }
}

/// A call that may be made once, by whom shows its ticket.
#[derive(Encode, Decode)]
#[cbor(array)]
pub struct Call {
    /// Shown on the line.
    #[n(0)]
    pub ticket: Ticket,
    /// The enclave's time, in seconds since 1970: certificates are held against it.
    #[n(1)]
    pub time: i64,
    /// Whose credential: connections are shared by calls of one credential only.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub actor: [u8; 32],
    /// Its version.
    #[n(3)]
    pub version: u64,
    /// `GET`, and so on.
    #[n(4)]
    pub method: String,
    /// Path and query; the credential may stand in them.
    #[n(5)]
    pub target: Secret,
    /// The headers that are sent, but for `Host`, the credential, and what frames the message.
    #[n(6)]
    pub headers: Vec<Header>,
    /// How long the body is, if that is known before.
    #[n(7)]
    pub length: Option<u64>,
    /// The headers in which the credential stands, or that it signs, and their values.
    #[n(8)]
    pub placed: Vec<(String, Secret)>,
    /// What must not come back.
    #[n(9)]
    pub secrets: Vec<Secret>,
    /// SHA-256 that the body must have, where it was signed: else it does not get there whole.
    #[n(10)]
    pub body: Option<Digest<32>>,
    /// Under which its frames are sealed, if they are to pass the parent unread.
    #[n(11)]
    pub key: Option<SecretKey>,
    /// What its body may ask of a model, where that is counted: else nothing of it is sent.
    #[n(12)]
    pub counted: Option<CountedCall>,
    /// Where the credential stands in its body, or in a message.
    #[n(13)]
    pub field: Option<PlacedField>,
    /// Whether it is for a WebSocket.
    #[n(14)]
    pub websocket: bool,
    /// With what a token is asked for, if one is put in the credential's place.
    #[n(15)]
    pub minting: Option<MintingSecret>,
}

/// With what a token is asked for ([`broker::Minting`]).
#[derive(Encode, Decode)]
#[cbor(array)]
pub struct MintingSecret {
    /// What is shown.
    #[n(0)]
    pub shown: Secret,
    /// The client's secret, where another thing is shown.
    #[n(1)]
    pub client_secret: Option<Secret>,
}

impl MintingSecret {
    /// Of what shall get tokens.
    pub fn new(minting: &Minting) -> Self {
        let secret = |text: &Zeroizing<String>| Secret(Zeroizing::new(text.as_bytes().to_vec()));
        Self {
            shown: secret(&minting.shown),
            client_secret: minting.client_secret.as_ref().map(secret),
        }
    }

    /// None, if it is no text.
    pub(crate) fn to_minting(&self, source: &TokenSource) -> Option<Minting> {
        let text = |secret: &Secret| {
            let text = str::from_utf8(secret.as_ref()).ok()?;
            Some(Zeroizing::new(text.to_owned()))
        };
        let client_secret = match &self.client_secret {
            None => None,
            Some(secret) => Some(text(secret)?),
        };
        Some(Minting::of(source, text(&self.shown)?, client_secret))
    }
}

/// Where in a body or a message a credential stands ([`broker::Field`]).
#[derive(Encode, Decode)]
#[cbor(array)]
pub struct PlacedField {
    /// A JSON Pointer, or the name of a field of a form.
    #[n(0)]
    pub name: String,
    /// What is put there.
    #[n(1)]
    pub value: Secret,
}

impl PlacedField {
    pub(crate) fn to_field(&self) -> Field {
        Field {
            name: self.name.clone(),
            value: self.value.0.clone(),
        }
    }
}

/// What a body may ask of a model.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct CountedCall {
    /// The form of the body, by its place in [`Form::ALL`].
    #[n(0)]
    pub form: u8,
    /// What it asks.
    #[n(1)]
    pub body: CountedBody,
}

impl CountedCall {
    /// The form of the body.
    pub fn form(&self) -> Option<Form> {
        Form::ALL.get(usize::from(self.form)).copied()
    }
}

/// Bytes that are wiped when they are dropped.
pub struct Secret(pub Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Secret {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl<C> Encode<C> for Secret {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Secret {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Ok(Self(Zeroizing::new(decoder.bytes()?.to_vec())))
    }
}

/// 32 bytes that are wiped when they are dropped.
pub struct SecretKey(pub Zeroizing<[u8; 32]>);

impl<C> Encode<C> for SecretKey {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.bytes(&*self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for SecretKey {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let bytes = <&[u8; 32]>::try_from(decoder.bytes()?);
        let bytes = bytes.map_err(|_| minicbor::decode::Error::message("a key of 32 bytes"))?;
        Ok(Self(Zeroizing::new(*bytes)))
    }
}

/// From the process of a service.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// The first one, once.
    #[n(0)]
    Ready,
    /// A call came to an end. Each call does, once.
    #[n(1)]
    Ended(#[n(0)] Ended),
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Ended {
    /// Which call.
    #[n(0)]
    pub ticket: Ticket,
    /// How.
    #[n(1)]
    pub ending: Ending,
    /// Status of the answer, if there was one.
    #[n(2)]
    pub status: Option<u16>,
    /// Bytes of the body that were sent; without the credential, where it has its place there.
    #[n(3)]
    pub sent: u64,
    /// SHA-256 of them.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub sent_digest: [u8; 32],
    /// Bytes of the answer's body that were passed on.
    #[n(5)]
    pub received: u64,
    /// SHA-256 of them.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub received_digest: [u8; 32],
    /// SHA-256 of the SubjectPublicKeyInfo that the service showed.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub spki: Option<[u8; 32]>,
    /// Tokens of prompt and answer that the service says were used.
    #[n(8)]
    pub tokens: Option<[u64; 2]>,
    /// Whether a token was asked for with the credential, for this call.
    #[n(9)]
    pub minted: bool,
}

/// In which way a call ended.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, strum::IntoStaticStr, strum::EnumIter,
)]
#[strum(serialize_all = "snake_case")]
#[cbor(index_only)]
pub enum Ending {
    /// The answer was passed on whole.
    #[n(0)]
    Complete,
    /// Nobody showed its ticket in time; nothing was sent.
    #[n(1)]
    Unclaimed,
    /// The caller went away, or did not send what it had announced.
    #[n(2)]
    Aborted,
    /// This process has no room for it; nothing was sent.
    #[n(3)]
    ServiceBusy,
    /// No line to the service was lent; nothing was sent.
    #[n(4)]
    ServiceUnreachable,
    /// Who answered is not the service: its certificate is not good. Nothing was sent.
    #[n(5)]
    ServiceUntrusted,
    /// The service broke the connection off, or did not answer in time.
    #[n(6)]
    ServiceFailed,
    /// The service answered what is no answer.
    #[n(7)]
    ServiceMalformed,
    /// The credential stood in the answer, which was cut off there.
    #[n(8)]
    CredentialReflected,
    /// The answer came encoded, though that was not asked for: nothing in it can be found.
    #[n(9)]
    ServiceEncoded,
    /// The credential was revoked meanwhile.
    #[n(10)]
    CredentialRevoked,
    /// The body was not the one that was signed or approved; its end was not sent.
    #[n(11)]
    BodyMismatch,
    /// The credential has no place in the body or message, or more than one.
    #[n(12)]
    PlaceholderMisplaced,
    /// No token was given for the credential; nothing was sent to the service.
    #[n(13)]
    TokenRefused,
}

impl Ending {
    /// Whether it was a decision here, and no failure.
    pub(crate) fn is_refusal(self) -> bool {
        use Ending::{CredentialReflected, CredentialRevoked, PlaceholderMisplaced};
        [CredentialReflected, CredentialRevoked, PlaceholderMisplaced].contains(&self)
    }

    /// Its stable name.
    pub fn code(self) -> &'static str {
        self.into()
    }
}
