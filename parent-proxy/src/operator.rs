//! What an operator does: look at an enclave and order the birth of a state, or put a credential; write a key policy.
//! The command line does it, and whoever plays an operator.

use attestation::{Expectations, Measurements, MockRoot, Subject, Verdict, Verifier};
use broker::{EpochOrder, Epochs, Omni};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use identity::{BootId, Signer, UnixSeconds};
use pem_rfc7468::LineEnding;
use policy::Bundle;
use serde_json::{Value, json};
use state::{Order, Pair, birth_data};

use crate::client::ClientError;
use crate::{Client, KeyFile};

/// Why an operator's part was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// A file or an argument is wrong.
    #[error("{0}")]
    Usage(String),
    /// What was looked at is not what it should be.
    #[error("{0}")]
    Refused(String),
    /// The sidecar did not do it.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// An order to give birth to a state, once the enclave was looked at.
pub struct BirthOrder<'a> {
    /// The operator's key for the state.
    pub key: &'a KeyFile,
    /// The bundle that the enclave must have.
    pub bundle: &'a Bundle,
    /// The image that it must be.
    pub image: &'a Measurements,
    /// The root of the mock that it may be.
    pub mock_root: Option<MockRoot>,
    /// The time, in seconds since 1970.
    pub now: i64,
    /// For how long the order may be obeyed, in seconds.
    pub valid_seconds: i64,
}

impl BirthOrder<'_> {
    /// Asks for a document, looks at it, signs, and sends the order: gives how the state is then.
    pub async fn send(&self, client: &Client) -> Result<Value, OperatorError> {
        let usage = |why: &str| OperatorError::Usage(why.to_owned());
        let state = self
            .bundle
            .state
            .as_ref()
            .ok_or_else(|| usage("the bundle has no [state]"))?;
        if self.key.public_key() != self.bundle.state_operator() {
            return Err(usage(
                "the key is not the operator's of the bundle's [state]",
            ));
        }
        let waiting = parse(&client.call("/state", None).await?)?;
        if let Some(known) = waiting["state"].as_str() {
            return Err(OperatorError::Refused(format!(
                "there is a state already: {known}"
            )));
        }
        let boot_id = BootId::from_hex(waiting["boot_id"].as_str().unwrap_or_default())
            .map_err(|_| OperatorError::Refused("the sidecar names no boot".into()))?;
        let nonce = nonce();
        let asked = json!({"nonce": HEXLOWER.encode(&nonce)});
        let document = client.call("/state/document", Some(&asked)).await?;
        self.look(&document, boot_id, &nonce)?;
        let order = Order::new(
            &state.name,
            boot_id,
            pair_of(self.image, self.bundle),
            UnixSeconds(self.now.saturating_add(self.valid_seconds)),
        );
        let signed = order
            .sign(self.key)
            .map_err(|error| OperatorError::Usage(error.to_string()))?;
        let body = json!({"order": BASE64URL_NOPAD.encode(&signed)});
        parse(&client.call("/state/birth", Some(&body)).await?)
    }

    /// The document must also be of the boot that the order will name.
    fn look(&self, document: &[u8], boot_id: BootId, nonce: &[u8]) -> Result<(), OperatorError> {
        let refused = |why: String| OperatorError::Refused(format!("no order was signed: {why}"));
        let desk = Desk {
            image: self.image,
            bundle: self.bundle,
            mock_root: self.mock_root.as_ref(),
            now: self.now,
        };
        let verdict = desk.judge(document, nonce).map_err(refused)?;
        let expected = birth_data(boot_id, &self.bundle.digest().digest()).to_string();
        if verdict.user_data.as_deref() == Some(&expected) {
            return Ok(());
        }
        Err(refused(
            "the document is not of the boot that the sidecar names".into(),
        ))
    }
}

/// What an operator expects of an enclave before anything is signed for it.
struct Desk<'a> {
    image: &'a Measurements,
    bundle: &'a Bundle,
    mock_root: Option<&'a MockRoot>,
    now: i64,
}

/// The certificate authority under which agents meet an enclave, once that was looked at.
pub struct FetchAuthority<'a> {
    /// The bundle that the enclave must have.
    pub bundle: &'a Bundle,
    /// The image that it must be.
    pub image: &'a Measurements,
    /// The root of the mock that it may be.
    pub mock_root: Option<MockRoot>,
    /// The time, in seconds since 1970.
    pub now: i64,
}

impl FetchAuthority<'_> {
    /// Asks for the authority and for a document that attests it, and looks at that: gives the certificate,
    /// PEM.
    pub async fn send(&self, client: &Client) -> Result<String, OperatorError> {
        let refused = |why: &str| OperatorError::Refused(format!("not its authority: {why}"));
        let nonce = nonce();
        let asked = json!({"nonce": HEXLOWER.encode(&nonce)});
        let told = parse(&client.call("/ca", Some(&asked)).await?)?;
        let document = told["document"].as_str().unwrap_or_default();
        let document = BASE64URL_NOPAD.decode(document.as_bytes());
        let document = document.map_err(|_| refused("there is no document"))?;
        let desk = Desk {
            image: self.image,
            bundle: self.bundle,
            mock_root: self.mock_root.as_ref(),
            now: self.now,
        };
        let verdict = desk.judge(&document, &nonce).map_err(|why| refused(&why))?;
        let certificate = told["certificate"].as_str().unwrap_or_default();
        let der = pem_rfc7468::decode_vec(certificate.as_bytes());
        let (label, der) = der.map_err(|_| refused("there is no certificate"))?;
        let policy = self.bundle.digest().digest();
        let expected = broker::authority_data(&policy, &der).to_string();
        if label != "CERTIFICATE" || verdict.user_data.as_deref() != Some(&expected) {
            return Err(refused("the document attests another certificate"));
        }
        // What was attested, and no line beside it.
        pem_rfc7468::encode_string("CERTIFICATE", LineEnding::LF, &der)
            .map_err(|_| refused("there is no certificate"))
    }
}

impl Desk<'_> {
    /// The key to which credentials are sealed, which a document must attest.
    async fn sealing_key(&self, client: &Client, undone: &str) -> Result<Vec<u8>, OperatorError> {
        let refused = |why: String| OperatorError::Refused(format!("{undone}: {why}"));
        let nonce = nonce();
        let asked = json!({"nonce": HEXLOWER.encode(&nonce)});
        let document = client
            .call("/credentials/sealing-key", Some(&asked))
            .await?;
        let verdict = self.judge(&document, &nonce).map_err(refused)?;
        let key = verdict.public_key.unwrap_or_default();
        let key = HEXLOWER.decode(key.as_bytes()).unwrap_or_default();
        let expected = broker::sealing_data(&self.bundle.digest().digest(), &key).to_string();
        if verdict.user_data.as_deref() == Some(&expected) {
            return Ok(key);
        }
        Err(refused("the document names no key for credentials".into()))
    }

    /// The document must be new, of this image and under this bundle.
    fn judge(&self, document: &[u8], nonce: &[u8]) -> Result<Verdict, String> {
        let verifier = Verifier {
            expectations: Expectations {
                nonce: Some(nonce.to_vec()),
                measurements: vec![self.image.clone()],
                policies: vec![self.bundle.digest()],
                max_age_seconds: Some(300),
                ..Expectations::default()
            },
            allow_mock: self.mock_root.cloned(),
            ..Verifier::at(UnixSeconds(self.now))
        };
        verifier
            .judge(Subject::Document(document))
            .map_err(|refusal| format!("{}: {refusal}", refusal.code()))
    }
}

/// An order to keep a credential, once the enclave was looked at.
pub struct PutCredential<'a> {
    /// The key that the bundle names as operator_key.
    pub key: &'a KeyFile,
    /// The bundle that the enclave must have.
    pub bundle: &'a Bundle,
    /// The image that it must be.
    pub image: &'a Measurements,
    /// The root of the mock that it may be.
    pub mock_root: Option<MockRoot>,
    /// The time, in seconds since 1970.
    pub now: i64,
    /// The identity that will use it.
    pub identity: &'a str,
    /// The service that it is for.
    pub service: &'a str,
    /// Above that of every one before it.
    pub version: u64,
    /// The credential.
    pub secret: &'a [u8],
}

impl PutCredential<'_> {
    /// Asks for a document, looks at it, seals the credential to the key that it names, signs, and
    /// sends the order: gives what is kept.
    pub async fn send(&self, client: &Client) -> Result<Value, OperatorError> {
        let usage = |why: &str| OperatorError::Usage(why.to_owned());
        if *self.key.public_key() != self.bundle.operator_key.0 {
            return Err(usage("the key is not the bundle's operator_key"));
        }
        if self.bundle.service(self.service).is_none()
            || self.bundle.identity(self.identity).is_none()
        {
            return Err(usage("the bundle has no such service, or no such identity"));
        }
        broker::check_secret(self.secret).map_err(|error| usage(&error.to_string()))?;
        let desk = Desk {
            image: self.image,
            bundle: self.bundle,
            mock_root: self.mock_root.as_ref(),
            now: self.now,
        };
        let key = desk.sealing_key(client, "nothing was sealed").await?;
        let operator = Omni::of_operator(&self.bundle.operator_key.0);
        let place = (operator, operator.child(self.identity), self.service);
        let order = broker::Order::sign(place, self.version, self.secret, &key, self.key)
            .map_err(|error| usage(&error.to_string()))?;
        let body = json!({"order": BASE64URL_NOPAD.encode(&order)});
        parse(&client.call("/credentials", Some(&body)).await?)
    }
}

/// An order about the keys that open credentials, once the enclave was looked at.
pub struct SetEpochs<'a> {
    /// The key that the bundle names as operator_key.
    pub key: &'a KeyFile,
    /// The bundle that the enclave must have.
    pub bundle: &'a Bundle,
    /// The image that it must be.
    pub image: &'a Measurements,
    /// The root of the mock that it may be.
    pub mock_root: Option<MockRoot>,
    /// The time, in seconds since 1970.
    pub now: i64,
}

impl SetEpochs<'_> {
    /// Orders one key more, under which credentials are sealed from then on: gives which there are.
    pub async fn rotate(&self, client: &Client) -> Result<Value, OperatorError> {
        let (now, _) = kept(client).await?;
        let next = now.current.checked_add(1);
        let next = next.ok_or_else(|| OperatorError::Refused("no epoch is left".into()))?;
        let next = Epochs {
            current: next,
            ..now
        };
        self.send(client, [now, next]).await
    }

    /// Orders an end to all keys but the one that seals, unless something kept is sealed under another
    /// one: gives which there are.
    pub async fn retire(&self, client: &Client) -> Result<Value, OperatorError> {
        let (now, credentials) = kept(client).await?;
        let older = |epoch: &Option<u32>| epoch.is_none_or(|epoch| epoch < now.current);
        if let Some((name, epoch)) = credentials.iter().find(|(_, epoch)| older(epoch)) {
            let how = epoch.map_or("cannot be read".to_owned(), |epoch| {
                format!("is sealed under epoch {epoch}")
            });
            return Err(OperatorError::Refused(format!(
                "{name} {how}, and would be lost: run `anchorhold credential rewrap` first, under the bundle that has it; or move it away"
            )));
        }
        let next = Epochs {
            lowest: now.current,
            ..now
        };
        self.send(client, [now, next]).await
    }

    async fn send(&self, client: &Client, change: [Epochs; 2]) -> Result<Value, OperatorError> {
        let usage = |why: String| OperatorError::Usage(why);
        if *self.key.public_key() != self.bundle.operator_key.0 {
            return Err(usage("the key is not the bundle's operator_key".into()));
        }
        let desk = Desk {
            image: self.image,
            bundle: self.bundle,
            mock_root: self.mock_root.as_ref(),
            now: self.now,
        };
        let key = desk.sealing_key(client, "no order was signed").await?;
        let operator = Omni::of_operator(&self.bundle.operator_key.0);
        let order = EpochOrder::sign(operator, &key, change, self.key)
            .map_err(|error| usage(error.to_string()))?;
        let body = json!({"order": BASE64URL_NOPAD.encode(&order)});
        parse(&client.call("/credentials/epochs", Some(&body)).await?)
    }
}

/// Which keys there are, and under which each credential is sealed, as the sidecar says. The enclave
/// holds the order against what is so.
async fn kept(client: &Client) -> Result<(Epochs, Vec<(String, Option<u32>)>), OperatorError> {
    let kept = parse(&client.call("/credentials", None).await?)?;
    let odd = || OperatorError::Refused("the sidecar lists credentials in another way".into());
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    let epochs = Epochs {
        lowest: number(&kept["epochs"]["lowest"]).ok_or_else(odd)?,
        current: number(&kept["epochs"]["current"]).ok_or_else(odd)?,
    };
    if epochs.lowest > epochs.current {
        return Err(odd());
    }
    let mut all = Vec::new();
    for list in ["credentials", "unreadable", "others"] {
        for one in kept[list].as_array().ok_or_else(odd)? {
            let name = match one["object"].as_str() {
                Some(object) => object.to_owned(),
                None => format!(
                    "the credential {}/{}",
                    one["identity"].as_str().ok_or_else(odd)?,
                    one["service"].as_str().ok_or_else(odd)?
                ),
            };
            all.push((name, number(&one["epoch"])));
        }
    }
    Ok((epochs, all))
}

/// An image under a bundle.
pub fn pair_of(image: &Measurements, bundle: &Bundle) -> Pair {
    Pair {
        pcr0: image.pcr0,
        pcr1: image.pcr1,
        pcr2: image.pcr2,
        policy: bundle.digest().digest(),
    }
}

/// The policy of the KMS key that keeps a state: only enclaves of these images, each under its
/// bundle, can have what the key wraps, asked for by `role`; `admin` administers the key.
///
/// One statement for each pair: values of one condition stand for any of them, and an image may not
/// come under the bundle of another.
pub fn key_policy(
    pairs: &[(Measurements, Bundle)],
    role: &str,
    admin: &str,
) -> Result<Value, OperatorError> {
    let mut statements = vec![administration(admin)];
    let mut key = None;
    for (index, (image, bundle)) in pairs.iter().enumerate() {
        let state = bundle
            .state
            .as_ref()
            .ok_or_else(|| OperatorError::Usage("a bundle has no [state]".into()))?;
        if *key.get_or_insert(&state.kms_key) != &state.kms_key {
            return Err(OperatorError::Usage(
                "the bundles name several KMS keys; a policy is one key's".into(),
            ));
        }
        statements.push(json!({
            "Sid": format!("EnclaveOfPair{}", index + 1),
            "Effect": "Allow",
            "Principal": {"AWS": role},
            "Action": ["kms:GenerateDataKey", "kms:Decrypt"],
            "Resource": "*",
            "Condition": {"StringEqualsIgnoreCase": {
                "kms:RecipientAttestation:PCR0": image.pcr0,
                "kms:RecipientAttestation:PCR1": image.pcr1,
                "kms:RecipientAttestation:PCR2": image.pcr2,
                "kms:RecipientAttestation:PCR16": bundle.digest().pcr16(),
                "kms:EncryptionContext:anchorhold": "sealed/v1",
            }},
        }));
    }
    Ok(json!({"Version": "2012-10-17", "Id": "anchorhold-state", "Statement": statements}))
}

/// Nothing that makes or opens ciphertexts.
fn administration(admin: &str) -> Value {
    json!({
        "Sid": "Administration",
        "Effect": "Allow",
        "Principal": {"AWS": admin},
        "Action": [
            "kms:DescribeKey",
            "kms:GetKeyPolicy",
            "kms:PutKeyPolicy",
            "kms:EnableKey",
            "kms:DisableKey",
            "kms:ScheduleKeyDeletion",
            "kms:CancelKeyDeletion",
        ],
        "Resource": "*",
    })
}

fn parse(bytes: &[u8]) -> Result<Value, OperatorError> {
    identity::json::parse(bytes)
        .map_err(|error| OperatorError::Refused(format!("the sidecar's answer: {error}")))
}

fn nonce() -> [u8; 32] {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).expect("the operating system's randomness");
    nonce
}
