//! What must be true before a state is opened, decided on what is public of it, before KMS is
//! asked. Each refusal may be mended and tried again.
//!
//! Everything hangs on the operator's key in the measured bundle, and on nothing that KMS or its
//! line says: the operator's certificate names the state; the order of a birth names image, bundle
//! and boot, and a document of the secure module shows what was born there. The state's id fixes the
//! state key, and that key vouches for each seal.

use identity::{Algorithm, Digest, PublicKey, UnixSeconds, sha256};

use crate::{
    Authority, Certificate, Error, GenesisRecord, Header, MAX_IDENTITIES, Order, Pair, Terms,
};

/// What this image under this bundle wants to open.
#[derive(Debug, Clone)]
pub struct Offer<'b> {
    /// Name of the state in the bundle.
    pub name: &'b str,
    /// The operator's key for the state in the bundle.
    pub operator: &'b PublicKey,
    /// What the bundle says of keeping it.
    pub terms: &'b Terms,
    /// This image, under this bundle.
    pub pair: Pair,
    /// PCR16 of this boot, which the bundle fixes.
    pub pcr16: Digest<48>,
    /// The identities of the bundle.
    pub identities: Vec<Wanted<'b>>,
}

/// What a document of the secure module attests, once it is verified to the module's own root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// PCR0, PCR1 and PCR2: the image.
    pub image: [Digest<48>; 3],
    /// PCR16: the bundle.
    pub pcr16: Digest<48>,
    /// What the enclave had it say.
    pub user_data: Option<Vec<u8>>,
}

/// An identity of a bundle.
#[derive(Debug, Clone)]
pub struct Wanted<'b> {
    /// Its name.
    pub name: &'b str,
    /// Its environment.
    pub environment: &'b str,
    /// `did:key`, or a whole did:web.
    pub did: &'b str,
    /// Of its key.
    pub algorithm: Algorithm,
}

/// A state that may be opened, as far as can be seen before it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The operator's word that counts from now on.
    pub authority: Authority,
    /// What the operator agreed to last.
    pub terms: Terms,
    /// The epoch once it is open.
    pub epoch: u64,
    /// Names of identities that are born now.
    pub births: Vec<String>,
}

impl Admitted {
    /// Whether it must be sealed anew before anything is signed.
    pub fn must_seal(&self, header: &Header) -> bool {
        self.epoch != header.epoch || !self.births.is_empty()
    }
}

/// The operator's word: what was taken already, or a later certificate.
enum Word {
    Order(Order),
    Certificate(Certificate),
}

impl Offer<'_> {
    /// Decides whether this state may be opened here, by the operator's word: the order of the
    /// birth, or a certificate, as it was signed. `birth` verifies the document of the birth; it is
    /// asked where the word does not name the state.
    pub fn admit(
        &self,
        header: &Header,
        record: &GenesisRecord,
        signed: &[u8],
        birth: impl FnOnce() -> Result<Attested, Error>,
        now: UnixSeconds,
    ) -> Result<Admitted, Error> {
        self.check_state(header, record)?;
        let (word, authority) = self.word(header, signed)?;
        let epoch = authority.version;
        let (terms, births) = match &word {
            Word::Order(order) => {
                if self.operator.to_spki() != record.operator {
                    return Err(Error::StateOperatorMismatch);
                }
                order.require_reopening(record, &self.pair)?;
                self.require_birth(record, &birth()?)?;
                (
                    &header.terms,
                    self.births(header, |name| {
                        Err(Error::IdentityNotCertified(name.to_owned()))
                    })?,
                )
            }
            Word::Certificate(certificate) => {
                certificate.require_state(header)?;
                certificate.require_time(now)?;
                certificate.require_pair(&self.pair)?;
                if header.epoch < certificate.lowest_epoch {
                    return Err(Error::StateEpochTooLow {
                        found: header.epoch,
                        lowest: certificate.lowest_epoch,
                    });
                }
                let names = self.identities.iter().map(|wanted| wanted.name);
                names
                    .clone()
                    .try_for_each(|name| certificate.require_identity(name))?;
                (&certificate.terms, self.births(header, |_| Ok(()))?)
            }
        };
        terms.accept(self.terms)?;
        if births.len() + header.identities.len() > MAX_IDENTITIES {
            return Err(Error::TooManyIdentities);
        }
        Ok(Admitted {
            authority,
            terms: terms.clone(),
            epoch,
            births,
        })
    }

    fn check_state(&self, header: &Header, record: &GenesisRecord) -> Result<(), Error> {
        let id = record.id();
        if header.state != id {
            return Err(Error::SealedStateMismatch {
                found: header.state.to_string(),
                expected: id.to_string(),
            });
        }
        if header.name != self.name || record.name != self.name {
            return Err(Error::StateNameMismatch {
                found: header.name.clone(),
                expected: self.name.to_owned(),
            });
        }
        if header.authority.version == 1 && header.authority.operator != record.operator {
            return Err(Error::StateOperatorMismatch);
        }
        Ok(())
    }

    /// What the operator says, and whose word counts afterwards. It is the word of the operator that
    /// the bundle names: what the header says of another one proves nothing.
    fn word(&self, header: &Header, signed: &[u8]) -> Result<(Word, Authority), Error> {
        let (known, digest) = (&header.authority, sha256(signed));
        let ours = || Certificate::verify(signed, self.operator);
        if digest == known.digest {
            let word = if known.version == 1 {
                Order::verify(signed, self.operator)
                    .map(Word::Order)
                    .map_err(|_| Error::StateOperatorMismatch)?
            } else {
                // Whom it names successor has signed nothing yet.
                ours()
                    .map(Word::Certificate)
                    .map_err(|_| Error::StateOperatorMismatch)?
            };
            return Ok((word, known.clone()));
        }
        if self.operator.to_spki() != known.operator {
            return Err(Error::StateOperatorMismatch);
        }
        let certificate = ours()?;
        check_version(&certificate, known)?;
        let operator = certificate.successor.clone();
        let authority = Authority {
            operator: operator.unwrap_or_else(|| known.operator.clone()),
            version: certificate.version,
            digest,
        };
        Ok((Word::Certificate(certificate), authority))
    }

    /// That this record was born in this image under this bundle, as the secure module shows.
    fn require_birth(&self, record: &GenesisRecord, birth: &Attested) -> Result<(), Error> {
        let wrong = |why: &str| Err(Error::GenesisDocumentInvalid(why.to_owned()));
        if record.policy != self.pair.policy {
            return wrong("the record is of a birth under another bundle");
        }
        if birth.user_data.as_deref() != Some(record.id().as_bytes()) {
            return wrong("it attests another record");
        }
        if birth.image != [self.pair.pcr0, self.pair.pcr1, self.pair.pcr2] {
            return wrong("it is of another image");
        }
        if birth.pcr16 != self.pcr16 {
            return wrong("it is of an image under another bundle");
        }
        Ok(())
    }

    /// The names that the state has not. What it has must be the same; `may` says whether another
    /// may be born.
    fn births(
        &self,
        header: &Header,
        may: impl Fn(&str) -> Result<(), Error>,
    ) -> Result<Vec<String>, Error> {
        let mut births = Vec::new();
        for wanted in &self.identities {
            let Some(known) = header.identity(wanted.name) else {
                may(wanted.name)?;
                births.push(wanted.name.to_owned());
                continue;
            };
            let changed = |what| Error::IdentityChanged {
                name: wanted.name.to_owned(),
                what,
            };
            if known.environment != wanted.environment {
                return Err(changed("environment"));
            }
            let is_key = known.did.starts_with("did:key:");
            if (wanted.did == "did:key") != is_key || !(is_key || known.did == wanted.did) {
                return Err(changed("DID"));
            }
            let key = known.key().map_err(Error::SealedStateMalformed)?;
            if key.algorithm() != wanted.algorithm {
                return Err(changed("algorithm"));
            }
        }
        Ok(births)
    }
}

fn check_version(certificate: &Certificate, known: &Authority) -> Result<(), Error> {
    match certificate.version.cmp(&known.version) {
        std::cmp::Ordering::Greater => Ok(()),
        std::cmp::Ordering::Equal => Err(Error::StateCertificateForked(known.version)),
        std::cmp::Ordering::Less => Err(Error::StateCertificateOutdated {
            found: certificate.version,
            known: known.version,
        }),
    }
}

impl Certificate {
    fn require_state(&self, header: &Header) -> Result<(), Error> {
        if self.state == header.state && self.name == header.name {
            Ok(())
        } else {
            Err(Error::StateCertificateInvalid("of another state".into()))
        }
    }
}

impl Order {
    /// The state that it gave birth to may be opened by the same image under the same bundle.
    fn require_reopening(&self, record: &GenesisRecord, pair: &Pair) -> Result<(), Error> {
        if self.boot_id != record.boot_id {
            return Err(Error::GenesisOrderInvalid("for another boot".into()));
        }
        if self.pair == *pair {
            Ok(())
        } else {
            Err(pair.not_certified())
        }
    }
}

/// The word of a birth, as the first header has it.
pub fn first_authority(operator: &PublicKey, order: &[u8]) -> Authority {
    Authority {
        operator: operator.to_spki(),
        version: 1,
        digest: sha256(order),
    }
}
