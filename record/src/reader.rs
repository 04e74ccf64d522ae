//! Follows a record line by line.

use data_encoding::BASE64URL_NOPAD;
use identity::cose::{self, Purpose};
use identity::{BootId, Digest, PublicKey, SKEW_SECONDS, UnixSeconds, cbor, json};
use serde::Deserialize;

use crate::event::{End, Event};
use crate::signature::{Head, InclusionProof};
use crate::{Error, tree};

/// A line is never longer: 64 KiB.
pub const MAX_LINE: usize = 64 * 1024;

/// Follows a record line by line.
#[derive(Debug)]
pub struct Reader {
    keys: Vec<PublicKey>,
    boots: Vec<Boot>,
    verified: Option<(Vec<u8>, Head)>,
}

/// What was read of one boot.
#[derive(Debug, Clone)]
pub struct Boot {
    /// Its id.
    pub id: BootId,
    /// Sequence number of the first event that was read; what came before it is not known.
    pub first: u64,
    /// Sequence number of the last one.
    pub last: u64,
    /// What its first event says came before it: its sidecar's claim.
    pub before: Option<End>,
    key: PublicKey,
    leaf: Digest<32>,
    /// The latest time of its events.
    latest: Option<UnixSeconds>,
}

impl Reader {
    /// Reads what any of these keys signed; each boot has one of its own.
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self {
            keys,
            boots: Vec::new(),
            verified: None,
        }
    }

    /// The boots that were read, in the order of the record.
    pub fn boots(&self) -> &[Boot] {
        &self.boots
    }

    /// Keys that signed nothing of what was read: their boots are missing.
    pub fn unused_keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.keys
            .iter()
            .filter(|key| !self.boots.iter().any(|boot| boot.key == **key))
    }

    /// Verifies the next line: its form, its signature over every member, and that it follows the
    /// one before.
    pub fn next(&mut self, line: &[u8]) -> Result<Event, Error> {
        let (event, leaf, key) = self.event(line)?;
        let earlier = self.boots.iter().position(|boot| boot.id == event.boot_id);
        let current = self.boots.len().checked_sub(1);
        let before = event.decision.before;
        if event.sequence > 0 && before.is_some() {
            return Err(Error::Invalid(
                "only the first event of a boot says what came before it",
            ));
        }
        match earlier {
            Some(index) if Some(index) == current => {
                self.boots[index].follow(&event, leaf, &key)?
            }
            Some(_) => return Err(Error::Invalid("an event of a boot that had ended")),
            None if self.boots.iter().any(|boot| boot.key == key) => {
                return Err(Error::Invalid("a key signed for two boots"));
            }
            None if event.sequence == 0 && event.previous != Digest([0; 32]) => {
                return Err(Error::Invalid(
                    "the first event of a boot follows another one",
                ));
            }
            None if event.sequence > 0 && current.is_some() => {
                return Err(Error::Gap {
                    from: 0,
                    to: event.sequence - 1,
                });
            }
            None => {
                if let Some(last) = self.boots.last() {
                    last.is_followed_by(&event)?;
                }
                let (first, last, latest) =
                    (event.sequence, event.sequence, event.decision.timestamp);
                self.boots.push(Boot {
                    id: event.boot_id,
                    first,
                    last,
                    before,
                    key,
                    leaf,
                    latest,
                });
            }
        }
        Ok(event)
    }

    fn event(&mut self, line: &[u8]) -> Result<(Event, Digest<32>, PublicKey), Error> {
        if line.len() > MAX_LINE {
            return Err(Error::Invalid("a line of more than 64 KiB"));
        }
        let value = json::parse(line)?;
        if json::canonical(&value)? != line {
            return Err(Error::Invalid("a line is not in its canonical form"));
        }
        let serde_json::Value::Object(mut object) = value else {
            return Err(Error::Invalid("a line is not an object"));
        };
        let Some(serde_json::Value::String(signature)) = object.remove("signature") else {
            return Err(Error::Invalid("a line has no signature"));
        };
        let text = json::canonical(&object)?;
        let event: Event = serde_json::from_value(object.into())
            .map_err(|error| identity::Error::JsonShape(error.to_string()))?;
        if json::canonical(&event)? != text {
            return Err(Error::Invalid("a line holds a member that no event has"));
        }
        let proof = BASE64URL_NOPAD
            .decode(signature.as_bytes())
            .map_err(|_| identity::Error::Base64("a record's signature"))?;
        let proof: InclusionProof = cbor::from_slice(&proof)?;
        let (head, key) = self.head(&proof.head)?;
        let path: Vec<Digest<32>> = proof.path.iter().map(|hash| Digest(**hash)).collect();
        let leaf = tree::leaf(&text);
        let index = event.sequence.checked_sub(head.first);
        let root = index.and_then(|index| tree::root_of(leaf, index, head.size, &path));
        if head.boot_id != event.boot_id || root != Some(Digest(head.root)) {
            return Err(identity::Error::SignatureInvalid.into());
        }
        Ok((event, leaf, key))
    }

    /// The events of one batch have one signature, which is verified once.
    fn head(&mut self, bytes: &[u8]) -> Result<(Head, PublicKey), Error> {
        if let Some((known, head)) = &self.verified
            && known == bytes
            && let Some(boot) = self.boots.last().filter(|boot| boot.id == head.boot_id)
        {
            return Ok((head.clone(), boot.key.clone()));
        }
        let verified = |key: &PublicKey| {
            cose::verify(Purpose::RECORD, bytes, key)
                .ok()
                .map(|head| (head, key.clone()))
        };
        let (head, key) = self
            .keys
            .iter()
            .find_map(verified)
            .ok_or(identity::Error::SignatureInvalid)?;
        let head: Head = cbor::from_slice(head)?;
        self.verified = Some((bytes.to_vec(), head.clone()));
        Ok((head, key))
    }
}

impl Boot {
    fn follow(&mut self, event: &Event, leaf: Digest<32>, key: &PublicKey) -> Result<(), Error> {
        if event.sequence <= self.last {
            return Err(Error::Invalid("an event stands twice, or out of its order"));
        }
        if event.sequence > self.last + 1 {
            return Err(Error::Gap {
                from: self.last + 1,
                to: event.sequence - 1,
            });
        }
        if event.previous != self.leaf || *key != self.key {
            return Err(Error::Invalid("an event does not follow the one before it"));
        }
        (self.last, self.leaf) = (event.sequence, leaf);
        self.latest = self.latest.max(event.decision.timestamp);
        Ok(())
    }

    /// Whether this first event of another boot says that it follows what was read of this one, and
    /// is not of an earlier time.
    fn is_followed_by(&self, event: &Event) -> Result<(), Error> {
        let end = End {
            boot_id: self.id,
            last: self.last,
            leaf: self.leaf,
        };
        if event.decision.before != Some(end) {
            return Err(Error::Invalid(
                "the first event of a boot says that something else came before it: a boot, or the end of one, is missing or stands elsewhere",
            ));
        }
        match (self.latest, event.decision.timestamp) {
            (Some(latest), Some(begin)) if begin.plus(SKEW_SECONDS) < latest => Err(
                Error::Invalid("a boot began before the one before it ended"),
            ),
            _ => Ok(()),
        }
    }
}

/// Which boot and place an event claims, before anything is verified: to sort lines, never to
/// trust.
pub fn unverified_place(line: &[u8]) -> Result<(BootId, u64), Error> {
    #[derive(Deserialize)]
    struct Position {
        boot_id: BootId,
        sequence: u64,
    }
    let position: Position = serde_json::from_slice(line)
        .map_err(|error| identity::Error::JsonShape(error.to_string()))?;
    Ok((position.boot_id, position.sequence))
}

/// The end of a record whose last line this is. Nothing is verified: it is what a sidecar claims.
pub fn unverified_end(line: &[u8]) -> Result<End, Error> {
    let (boot_id, last) = unverified_place(line)?;
    let serde_json::Value::Object(mut object) = json::parse(line)? else {
        return Err(Error::Invalid("a line is not an object"));
    };
    object.remove("signature");
    Ok(End {
        boot_id,
        last,
        leaf: tree::leaf(&json::canonical(&object)?),
    })
}
