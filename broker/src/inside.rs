//! What processes of one enclave say to each other by way of the parent, which passes it on and cannot
//! read it.
//!
//! ```text
//! ingress ── request, under the ingress key ──> parent ──> keys: opens it, decides
//!         <── key of the call, under the ingress key ──────
//! ingress <── frames of the call, under its key ──> parent <──> the process of the service
//! ```
//!
//! All of it is AES-256-GCM. A request has a random nonce, its answer is bound to it; frames are numbered, each
//! way by itself, so that none can be left out, repeated or brought in another order.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use identity::{Digest, sha256};
use zeroize::Zeroizing;

use crate::Error;

const REQUEST: &[u8] = b"anchorhold/ingress-request/v1";
const ANSWER: &[u8] = b"anchorhold/ingress-answer/v1";
const TAG: usize = 16;

/// What the ingress process and the one with the keys share: random for each boot.
pub struct IngressKey(LessSafeKey);

/// What a call has that comes through the ingress process.
pub struct CallKey {
    /// For its frames.
    pub key: Zeroizing<[u8; 32]>,
    /// By which the record knows it.
    pub call: Digest<32>,
}

/// The frames of a call that go one way.
pub struct FrameKey {
    key: LessSafeKey,
    way: Way,
    next: u64,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the ingress process to that of a service.
    There = 1,
    /// From that of a service to the ingress process.
    Back = 2,
}

impl IngressKey {
    /// Of 32 random bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(aes(key))
    }

    /// Seals a request. `nonce` is random, and used once.
    pub fn seal_request(&self, request: &[u8], nonce: [u8; NONCE_LEN]) -> Vec<u8> {
        seal(&self.0, nonce, REQUEST, request)
    }

    /// Opens a request.
    pub fn open_request(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        open(&self.0, sealed, REQUEST).ok_or(Error::IngressUnopened)
    }

    /// Seals the answer to a sealed request. `nonce` is random, and used once.
    pub fn seal_answer(&self, request: &[u8], answer: &CallKey, nonce: [u8; NONCE_LEN]) -> Vec<u8> {
        let text = Zeroizing::new([&answer.key[..], &answer.call.0].concat());
        seal(&self.0, nonce, &answer_to(request), &text)
    }

    /// Opens the answer to a sealed request: one to another request does not.
    pub fn open_answer(&self, request: &[u8], sealed: &[u8]) -> Result<CallKey, Error> {
        let text = open(&self.0, sealed, &answer_to(request)).ok_or(Error::IngressUnopened)?;
        let (key, call) = text.split_at_checked(32).ok_or(Error::IngressUnopened)?;
        let call = call.try_into().map_err(|_| Error::IngressUnopened)?;
        let mut answer = CallKey {
            key: Zeroizing::new([0; 32]),
            call: Digest(call),
        };
        answer.key.copy_from_slice(key);
        Ok(answer)
    }
}

fn answer_to(request: &[u8]) -> Vec<u8> {
    [ANSWER, &sha256(request).0].concat()
}

impl FrameKey {
    /// How many bytes longer a sealed frame is.
    pub const OVERHEAD: usize = TAG;

    /// For the frames that go one way.
    pub fn new(key: &[u8; 32], way: Way) -> Self {
        Self {
            key: aes(key),
            way,
            next: 0,
        }
    }

    /// Seals the next frame, of this kind, where it stands; gives what is put behind it.
    pub fn seal(&mut self, kind: u8, bytes: &mut [u8]) -> [u8; TAG] {
        let nonce = self.nonce();
        let sealed = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from([kind]), bytes);
        let mut tag = [0; TAG];
        tag.copy_from_slice(sealed.expect("a frame is short").as_ref());
        tag
    }

    /// Opens the next frame, of this kind; nothing opens behind one that was not good.
    pub fn open(&mut self, kind: u8, mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        let nonce = self.nonce();
        let length = self
            .key
            .open_in_place(nonce, Aad::from([kind]), &mut sealed)
            .ok()?
            .len();
        sealed.truncate(length);
        Some(sealed)
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[0] = self.way as u8;
        nonce[4..].copy_from_slice(&self.next.to_be_bytes());
        self.next += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

fn aes(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes"))
}

fn seal(key: &LessSafeKey, nonce: [u8; NONCE_LEN], aad: &[u8], text: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(NONCE_LEN + text.len() + TAG);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(text);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), &mut sealed[NONCE_LEN..]);
    sealed.extend_from_slice(tag.expect("a message is short").as_ref());
    sealed
}

fn open(key: &LessSafeKey, sealed: &[u8], aad: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, rest) = sealed.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut text = Zeroizing::new(rest.to_vec());
    let opened = key.open_in_place(nonce, Aad::from(aad), &mut text);
    let length = opened.ok()?.len();
    text.truncate(length);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> CallKey {
        CallKey {
            key: Zeroizing::new([3; 32]),
            call: Digest([4; 32]),
        }
    }

    #[test]
    fn an_answer_opens_for_its_own_request_only() {
        let key = IngressKey::new(&[1; 32]);
        let first = key.seal_request(b"one", [1; 12]);
        let second = key.seal_request(b"one", [2; 12]);
        assert_eq!(**key.open_request(&first).unwrap(), *b"one");
        let sealed = key.seal_answer(&first, &answer(), [3; 12]);
        let opened = key.open_answer(&first, &sealed).unwrap();
        assert_eq!((*opened.key, opened.call.0), ([3; 32], [4; 32]));
        assert!(key.open_answer(&second, &sealed).is_err());
        // An answer is no request, nor the other way round.
        assert!(key.open_request(&sealed).is_err());
        assert!(key.open_answer(&first, &second).is_err());
        assert!(IngressKey::new(&[2; 32]).open_request(&first).is_err());
        for at in 0..first.len() {
            let mut other = first.clone();
            other[at] ^= 1;
            assert!(key.open_request(&other).is_err(), "{at}");
            assert!(key.open_request(&first[..at]).is_err(), "{at}");
        }
    }

    /// What opens of sealed frames, each of kind 2, that come in this order to one who reads this way.
    fn opened(order: &[usize], way: Way, kind: u8) -> usize {
        let mut seal = FrameKey::new(&[5; 32], Way::There);
        let frames: Vec<Vec<u8>> = (0..4)
            .map(|n| {
                let mut frame = vec![n; 3];
                let tag = seal.seal(2, &mut frame);
                [&frame[..], &tag].concat()
            })
            .collect();
        let mut open = FrameKey::new(&[5; 32], way);
        let mut good = order.iter().map(|n| open.open(kind, frames[*n].clone()));
        good.by_ref().take_while(Option::is_some).count()
    }

    #[test]
    fn frames_open_in_their_order_their_way_and_as_what_they_are() {
        assert_eq!(opened(&[0, 1, 2, 3], Way::There, 2), 4);
        assert_eq!(opened(&[0, 2], Way::There, 2), 1);
        assert_eq!(opened(&[0, 0], Way::There, 2), 1);
        assert_eq!(opened(&[1], Way::There, 2), 0);
        assert_eq!(opened(&[0], Way::Back, 2), 0);
        assert_eq!(opened(&[0], Way::There, 3), 0);
    }
}
