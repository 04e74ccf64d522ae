//! What the operator may change while an enclave runs.

use identity::AnnexId;
use identity::caller::ObservedCaller;
use identity::cose::{self, Purpose};
use identity::grants::Status;
use identity::status::StatusList;
use identity::{Digest, PublicKey, Signer, json, sha256};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::Issuer;
use crate::Price;
use crate::names::check_name;

/// What changes often, signed by the operator key that the bundle names: a COSE_Sign1 for
/// [`Purpose::ANNEX`] over RFC 8785 JSON.
///
/// It widens nothing that the bundle does not leave to it: callers by the names that the bundle
/// admits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annex {
    /// Rises; within a boot the enclave takes none that is lower than the last one.
    pub version: u32,
    /// Asserted callers by what the parent must have seen of them. Several of one name: any of
    /// them.
    #[serde(default)]
    pub callers: Vec<AssertedCaller>,
    /// Issuers outside whose tokens identities may take up, as far as the bundle lets each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<Issuer>,
    /// What is not believed any more: the `jti` of a token or the SHA-256 of what was signed of it,
    /// the first 64 characters of its signature, an issuer, a subject, an actor, `agent:<name>`, or
    /// `credential:<identity>/<service>`, which [`RevokedCredential`] reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<String>,
    /// Bitstring Status Lists of other issuers, as the operator has fetched and checked them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub status_lists: Vec<ListedStatus>,
    /// What models cost. A request to one that is not here is refused where money is counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prices: Vec<Price>,
}

/// A credential of a service that is not used any more, as an annex names it:
/// `credential:<identity>/<service>`, or `credential:<identity>/<service>@<version>` for that version
/// and those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevokedCredential<'a> {
    /// Whose it is.
    pub identity: &'a str,
    /// For which service.
    pub service: &'a str,
    /// The last version that is not used any more.
    pub last: u64,
}

impl<'a> RevokedCredential<'a> {
    /// What stands before it.
    pub const PREFIX: &'static str = "credential:";

    /// Reads an entry; none, if it is of another kind or malformed.
    pub fn parse(entry: &'a str) -> Option<Self> {
        let (identity, rest) = entry.strip_prefix(Self::PREFIX)?.split_once('/')?;
        let (service, last) = match rest.split_once('@') {
            None => (rest, u64::MAX),
            Some((service, version)) => {
                let digits = version.bytes().all(|b| b.is_ascii_digit());
                (service, version.parse().ok().filter(|_| digits)?)
            }
        };
        Some(Self {
            identity,
            service,
            last,
        })
    }
}

/// A Bitstring Status List.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedStatus {
    /// Its credential, as `statusListCredential` names it.
    pub id: String,
    /// `credentialSubject.encodedList` of that credential.
    pub encoded: String,
}

/// A caller by what the parent must have seen: everything that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssertedCaller {
    /// The name that the bundle admits.
    pub name: String,
    /// Effective user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Effective group id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// SHA-256 of the executable: any of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub executables: Vec<Digest<32>>,
    /// systemd unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Uid of the Kubernetes pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// 64 hex digits of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Security label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Name of the socket in the sidecar's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
}

fn malformed(why: impl Into<String>) -> Error {
    Error::AnnexMalformed(why.into())
}

impl Annex {
    /// Reads what people write. Unknown keys are errors.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        let annex: Self = toml::from_str(text).map_err(|error| malformed(error.to_string()))?;
        annex.check()?;
        Ok(annex)
    }

    /// Signs it with the operator's key.
    pub fn sign<S: Signer>(&self, operator: &S) -> Result<Vec<u8>, S::Error> {
        cose::sign(Purpose::ANNEX, &json::canonical(self)?, operator)
    }

    /// Verifies the operator's signature, and reads the canonical form and nothing else.
    pub fn verify(signed: &[u8], operator: &PublicKey) -> Result<Self, Error> {
        let canonical = cose::verify(Purpose::ANNEX, signed, operator)?;
        let annex: Self =
            json::parse_as(canonical).map_err(|error| malformed(error.to_string()))?;
        annex.check()?;
        if json::canonical(&annex)? == canonical {
            Ok(annex)
        } else {
            Err(malformed("not in canonical form"))
        }
    }

    /// The canonical bytes within a signed annex; nothing is verified.
    pub fn unverified_canonical(signed: &[u8]) -> Result<&[u8], Error> {
        Ok(cose::unverified_payload(signed)?)
    }

    /// Version and digest, as records name it.
    pub fn id(&self) -> Result<AnnexId, Error> {
        Ok(AnnexId {
            digest: sha256(&json::canonical(self)?),
            version: self.version,
        })
    }

    /// Whether a caller of this name is what the parent saw.
    pub fn describes(&self, name: &str, seen: &ObservedCaller) -> bool {
        self.callers
            .iter()
            .any(|caller| caller.name == name && caller.is(seen))
    }

    /// What a model of a service costs.
    pub fn price(&self, service: &str, model: &str) -> Option<&Price> {
        let mut prices = self.prices.iter();
        prices.find(|price| price.service == service && price.model == model)
    }

    fn check_prices(&self) -> Result<(), Error> {
        for (index, price) in self.prices.iter().enumerate() {
            let wrong = |why: &str| malformed(format!("price of {:?}: {why}", price.model));
            price.check().map_err(|why| wrong(&why))?;
            let twin = |other: &Price| other.service == price.service && other.model == price.model;
            if self.prices[..index].iter().any(twin) {
                return Err(wrong("given twice"));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        if self.version == 0 {
            return Err(malformed("the version of an annex is 1 or more"));
        }
        self.check_prices()?;
        for caller in &self.callers {
            caller
                .check()
                .map_err(|why| malformed(format!("caller {:?}: {why}", caller.name)))?;
        }
        for (index, issuer) in self.issuers.iter().enumerate() {
            issuer
                .check()
                .map_err(|why| malformed(format!("issuer {:?}: {why}", issuer.name)))?;
            if self.issuers[..index]
                .iter()
                .any(|other| other.name == issuer.name || other.iss == issuer.iss)
            {
                return Err(malformed(format!(
                    "issuer {:?}: another one has this name or iss",
                    issuer.name
                )));
            }
        }
        for (index, list) in self.status_lists.iter().enumerate() {
            StatusList::decode(&list.encoded)
                .map_err(|error| malformed(format!("status list {:?}: {error}", list.id)))?;
            if self.status_lists[..index]
                .iter()
                .any(|other| other.id == list.id)
            {
                return Err(malformed(format!("status list {:?}: given twice", list.id)));
            }
        }
        Ok(())
    }

    /// Whether this entry of a status list is set; `None` if the list is not here.
    pub fn status(&self, status: &Status) -> Option<Result<bool, identity::Error>> {
        let list = self
            .status_lists
            .iter()
            .find(|list| list.id == status.list)?;
        Some(StatusList::decode(&list.encoded).and_then(|list| list.is_set(status.index)))
    }
}

impl AssertedCaller {
    fn is(&self, seen: &ObservedCaller) -> bool {
        fn holds<T: PartialEq>(wanted: &Option<T>, seen: &Option<T>) -> bool {
            wanted.is_none() || wanted == seen
        }
        holds(&self.uid, &seen.uid)
            && holds(&self.gid, &seen.gid)
            && holds(&self.unit, &seen.unit)
            && holds(&self.pod, &seen.pod)
            && holds(&self.container, &seen.container)
            && holds(&self.label, &seen.label)
            && holds(&self.socket, &seen.socket)
            && (self.executables.is_empty()
                || seen
                    .executable
                    .is_some_and(|seen| self.executables.contains(&seen)))
    }

    fn check(&self) -> Result<(), String> {
        check_name(&self.name)?;
        if [self.uid, self.gid].contains(&Some(65534)) {
            return Err("65534 is nobody in particular and cannot be a caller".into());
        }
        let anchors = [
            &self.unit,
            &self.pod,
            &self.container,
            &self.label,
            &self.socket,
        ];
        if self.uid.is_none() && self.gid.is_none() && anchors.iter().all(|anchor| anchor.is_none())
        {
            return Err("an executable alone says little: a user who may run it may also steer it. Give uid, gid, unit, pod, \
                        container, label or socket too"
                .into());
        }
        if anchors
            .into_iter()
            .flatten()
            .any(|text| text.is_empty() || text.chars().any(char::is_control))
        {
            return Err("a text is empty or holds control characters".into());
        }
        Ok(())
    }
}
