//! The operations of KMS.

use std::collections::BTreeMap;

use attestation::MockRoot;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use data_encoding::{BASE64, HEXLOWER};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::credentials::ADMIN;
use super::fault::{Fault, Handle};
use super::policy::{ACCOUNT, Call, Decision, Policy};
use super::recipient::{RawRecipient, Recipient};
use super::store::{Key, Store};
use super::{Refusal, cms};
use crate::nsm::os_random;

const SYMMETRIC: &str = "SYMMETRIC_DEFAULT";
/// The policy of a key that was made without one, as AWS has it.
pub(super) const DEFAULT_POLICY: &str = r#"{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {
      "AWS" : "arn:aws:iam::000000000000:root"
    },
    "Action" : "kms:*",
    "Resource" : "*"
  } ]
}"#;

type Context = BTreeMap<String, String>;

/// Answers the calls of one caller at one time.
pub(super) struct Service<'a> {
    pub(super) store: &'a Store,
    pub(super) nsm_root: &'a MockRoot,
    /// Milliseconds since 1970.
    pub(super) now_ms: u64,
    /// ARN of the caller's role.
    pub(super) caller: &'a str,
    pub(super) handle: &'a Handle,
    /// The fault of this answer.
    pub(super) fault: Option<Fault>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct CreateKey {
    policy: Option<String>,
    description: Option<String>,
    bypass_policy_lockout_safety_check: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct OneKey {
    key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct GetKeyPolicy {
    key_id: String,
    policy_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct PutKeyPolicy {
    key_id: String,
    policy_name: Option<String>,
    policy: String,
    bypass_policy_lockout_safety_check: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct GenerateDataKey {
    key_id: String,
    key_spec: Option<String>,
    number_of_bytes: Option<u32>,
    #[serde(default)]
    encryption_context: Context,
    recipient: Option<RawRecipient>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Encrypt {
    key_id: String,
    plaintext: String,
    #[serde(default)]
    encryption_context: Context,
    encryption_algorithm: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Decrypt {
    ciphertext_blob: String,
    key_id: Option<String>,
    #[serde(default)]
    encryption_context: Context,
    encryption_algorithm: Option<String>,
    recipient: Option<RawRecipient>,
}

impl Service<'_> {
    /// Answers a call; `None` is an answer without a body.
    pub(super) fn call(&self, operation: &str, body: &[u8]) -> Result<Option<Value>, Refusal> {
        match operation {
            "CreateKey" => self.create_key(read(body)?).map(Some),
            "DescribeKey" => self.describe_key(&read(body)?).map(Some),
            "GetKeyPolicy" => self.get_key_policy(&read(body)?).map(Some),
            "PutKeyPolicy" => self.put_key_policy(read(body)?).map(|()| None),
            "ListGrants" => self.list_grants(&read(body)?).map(Some),
            "GenerateDataKey" => self.generate_data_key(&read(body)?).map(Some),
            "Encrypt" => self.encrypt(&read(body)?).map(Some),
            "Decrypt" => self.decrypt(&read(body)?).map(Some),
            _ => Err(Refusal::new(
                "UnknownOperationException",
                "this mock has no such operation",
            )),
        }
    }

    fn create_key(&self, asked: CreateKey) -> Result<Value, Refusal> {
        if self.caller != ADMIN {
            let message = format!(
                "User: {} is not authorized to perform: kms:CreateKey",
                self.caller
            );
            return Err(Refusal::new("AccessDeniedException", message));
        }
        let policy = asked.policy.unwrap_or_else(|| DEFAULT_POLICY.into());
        self.check_lockout(&policy, asked.bypass_policy_lockout_safety_check)?;
        let description = asked.description.unwrap_or_default();
        let key = self.store.create(&policy, &description, self.now_ms / 1000);
        Ok(json!({"KeyMetadata": metadata(&key.map_err(Refusal::internal)?)}))
    }

    /// The caller must be able to change the policy that it gives, as AWS has it.
    fn check_lockout(&self, policy: &str, bypass: Option<bool>) -> Result<(), Refusal> {
        let policy = Policy::parse(policy)?;
        let (pcrs, context) = Default::default();
        let later = Call {
            principal: self.caller,
            action: "kms:PutKeyPolicy",
            pcrs: &pcrs,
            context: &context,
            bypass: Some(false),
        };
        if bypass == Some(true) || policy.decide(&later) == Decision::Allowed {
            return Ok(());
        }
        Err(Refusal::new(
            "MalformedPolicyDocumentException",
            "The new key policy will not allow you to update the key policy in the future.",
        ))
    }

    fn describe_key(&self, asked: &OneKey) -> Result<Value, Refusal> {
        let key = self.allowed(&asked.key_id, "kms:DescribeKey", None)?;
        Ok(json!({"KeyMetadata": metadata(&key)}))
    }

    fn get_key_policy(&self, asked: &GetKeyPolicy) -> Result<Value, Refusal> {
        is_default(asked.policy_name.as_deref())?;
        let key = self.allowed(&asked.key_id, "kms:GetKeyPolicy", None)?;
        Ok(json!({"Policy": key.policy, "PolicyName": "default"}))
    }

    fn put_key_policy(&self, asked: PutKeyPolicy) -> Result<(), Refusal> {
        is_default(asked.policy_name.as_deref())?;
        let bypass = asked.bypass_policy_lockout_safety_check;
        let mut key = self.allowed(
            &asked.key_id,
            "kms:PutKeyPolicy",
            Some(bypass == Some(true)),
        )?;
        self.check_lockout(&asked.policy, bypass)?;
        key.policy = asked.policy;
        self.store.save(&key).map_err(Refusal::internal)
    }

    fn list_grants(&self, asked: &OneKey) -> Result<Value, Refusal> {
        self.allowed(&asked.key_id, "kms:ListGrants", None)?;
        Ok(json!({"Grants": [], "Truncated": false}))
    }

    fn generate_data_key(&self, asked: &GenerateDataKey) -> Result<Value, Refusal> {
        let length = match (asked.key_spec.as_deref(), asked.number_of_bytes) {
            (Some("AES_256"), None) => 32,
            (Some("AES_128"), None) => 16,
            (None, Some(bytes @ 1..=1024)) => bytes as usize,
            _ => {
                return Err(Refusal::validation(
                    "either KeySpec AES_256 or AES_128, or NumberOfBytes from 1 to 1024",
                ));
            }
        };
        let recipient = self.recipient(asked.recipient.as_ref())?;
        let key = self.store.find(&asked.key_id)?;
        let context = &asked.encryption_context;
        self.authorize(
            &key,
            "kms:GenerateDataKey",
            context,
            recipient.as_ref(),
            None,
        )?;
        let mut secret = vec![0; length];
        os_random(&mut secret);
        let blob = key.seal(&secret, &canonical(context)?)?;
        let mut answer = self.delivered(&key, secret, recipient.as_ref())?;
        answer["CiphertextBlob"] = BASE64.encode(&blob).into();
        Ok(answer)
    }

    fn encrypt(&self, asked: &Encrypt) -> Result<Value, Refusal> {
        is_symmetric(asked.encryption_algorithm.as_deref())?;
        let plaintext = blob("Plaintext", &asked.plaintext, 4096)?;
        let key = self.store.find(&asked.key_id)?;
        let context = &asked.encryption_context;
        self.authorize(&key, "kms:Encrypt", context, None, None)?;
        let blob = key.seal(&plaintext, &canonical(context)?)?;
        Ok(json!({
            "CiphertextBlob": BASE64.encode(&blob),
            "EncryptionAlgorithm": SYMMETRIC,
            "KeyId": key.arn,
        }))
    }

    fn decrypt(&self, asked: &Decrypt) -> Result<Value, Refusal> {
        is_symmetric(asked.encryption_algorithm.as_deref())?;
        let ciphertext = blob("CiphertextBlob", &asked.ciphertext_blob, 6144)?;
        let recipient = self.recipient(asked.recipient.as_ref())?;
        let key = self.store.key_of(&ciphertext)?;
        if let Some(named) = &asked.key_id
            && self.store.find(named)?.arn != key.arn
        {
            let message = "the ciphertext was made with another key than KeyId";
            return Err(Refusal::new("IncorrectKeyException", message));
        }
        let context = &asked.encryption_context;
        self.authorize(&key, "kms:Decrypt", context, recipient.as_ref(), None)?;
        let secret = key.open(&ciphertext, &canonical(context)?)?;
        let mut answer = self.delivered(&key, secret, recipient.as_ref())?;
        answer["EncryptionAlgorithm"] = SYMMETRIC.into();
        Ok(answer)
    }

    fn recipient(&self, raw: Option<&RawRecipient>) -> Result<Option<Recipient>, Refusal> {
        raw.map(|raw| raw.verify(self.nsm_root, self.now_ms))
            .transpose()
    }

    fn allowed(&self, arn: &str, action: &str, bypass: Option<bool>) -> Result<Key, Refusal> {
        let key = self.store.find(arn)?;
        self.authorize(&key, action, &Context::new(), None, bypass)?;
        Ok(key)
    }

    fn authorize(
        &self,
        key: &Key,
        action: &str,
        context: &Context,
        recipient: Option<&Recipient>,
        bypass: Option<bool>,
    ) -> Result<(), Refusal> {
        let policy = Policy::parse(&key.policy).map_err(Refusal::internal)?;
        let none = BTreeMap::new();
        let call = Call {
            principal: self.caller,
            action,
            pcrs: recipient.map_or(&none, |recipient| &recipient.pcrs),
            context,
            bypass,
        };
        let why = match policy.decide(&call) {
            Decision::Allowed => return Ok(()),
            Decision::NotAllowed => "because no resource-based policy allows the action",
            Decision::Denied => "with an explicit deny in a resource-based policy",
        };
        let (caller, arn) = (self.caller, &key.arn);
        let message = format!(
            "User: {caller} is not authorized to perform: {action} on resource: {arn} {why}"
        );
        Err(Refusal::new("AccessDeniedException", message))
    }

    /// The secret: in clear to who showed no document, otherwise for the document's key alone.
    fn delivered(
        &self,
        key: &Key,
        secret: Vec<u8>,
        recipient: Option<&Recipient>,
    ) -> Result<Value, Refusal> {
        let mut answer = json!({"KeyId": key.arn, "KeyMaterialId": material_id(key)});
        let Some(recipient) = recipient else {
            answer["Plaintext"] = BASE64.encode(&secret).into();
            return Ok(answer);
        };
        match self.fault {
            Some(Fault::Plaintext) => answer["Plaintext"] = BASE64.encode(&secret).into(),
            Some(Fault::EmptyPlaintext) => answer["Plaintext"] = "".into(),
            Some(Fault::NullPlaintext) => answer["Plaintext"] = Value::Null,
            Some(Fault::OtherKeyId) => {
                answer["KeyId"] = key
                    .arn
                    .replace(&key.id.to_string(), &uuid::Uuid::nil().to_string())
                    .into();
            }
            _ => {}
        }
        if self.fault != Some(Fault::NoCiphertext) {
            let message = self.message(secret, recipient)?;
            answer["CiphertextForRecipient"] = BASE64.encode(&message).into();
        }
        Ok(answer)
    }

    fn message(&self, mut secret: Vec<u8>, recipient: &Recipient) -> Result<Vec<u8>, Refusal> {
        let mut public_key = recipient.public_key.clone();
        let mut recipients = 1;
        match self.fault {
            Some(Fault::OtherSecret) => os_random(&mut secret),
            Some(Fault::SecretLength(length)) => secret.resize(length, 0),
            Some(Fault::TwoRecipients) => recipients = 2,
            Some(Fault::NoRecipients) => recipients = 0,
            Some(Fault::OtherRecipient) => public_key = stranger()?,
            _ => {}
        }
        let shape = self.handle.next_shape();
        let mut message =
            cms::envelop(&secret, &public_key, recipients, shape).map_err(Refusal::internal)?;
        match self.fault {
            Some(Fault::ShortMessage(missing)) => {
                message.truncate(message.len().saturating_sub(missing))
            }
            Some(Fault::LongMessage) => message.push(0),
            _ => {}
        }
        Ok(message)
    }
}

/// A public key that nobody asked for.
fn stranger() -> Result<Vec<u8>, Refusal> {
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).map_err(Refusal::internal)?;
    let der = key.public_key().as_der().map_err(Refusal::internal)?;
    Ok(der.as_ref().to_vec())
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    identity::json::parse_as(body)
        .map_err(|error| Refusal::new("SerializationException", error.to_string()))
}

fn blob(name: &str, text: &str, longest: usize) -> Result<Vec<u8>, Refusal> {
    let bytes = BASE64.decode(text.as_bytes());
    let bytes = bytes
        .map_err(|_| Refusal::new("SerializationException", format!("{name} is not base64")))?;
    if bytes.is_empty() || bytes.len() > longest {
        return Err(Refusal::validation(format!(
            "{name} has 1 to {longest} bytes"
        )));
    }
    Ok(bytes)
}

fn is_symmetric(algorithm: Option<&str>) -> Result<(), Refusal> {
    match algorithm {
        None | Some(SYMMETRIC) => Ok(()),
        Some(_) => Err(Refusal::validation(
            "EncryptionAlgorithm is not SYMMETRIC_DEFAULT",
        )),
    }
}

fn is_default(policy: Option<&str>) -> Result<(), Refusal> {
    match policy {
        None | Some("default") => Ok(()),
        Some(_) => Err(Refusal::new(
            "NotFoundException",
            "the only policy is \"default\"",
        )),
    }
}

/// The bytes of a context that a ciphertext is bound to: each name and value behind its length.
fn canonical(context: &Context) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    for text in context.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend((text.len() as u64).to_be_bytes());
        bytes.extend(text.as_bytes());
    }
    if bytes.len() > 8192 {
        return Err(Refusal::validation("EncryptionContext is too long"));
    }
    Ok(bytes)
}

/// What AWS tells since 2025; here it says nothing about the material.
fn material_id(key: &Key) -> String {
    HEXLOWER.encode(&identity::sha256(key.arn.as_bytes()).0)
}

fn metadata(key: &Key) -> Value {
    json!({
        "AWSAccountId": ACCOUNT,
        "Arn": key.arn,
        "CreationDate": key.created,
        "CurrentKeyMaterialId": material_id(key),
        "CustomerMasterKeySpec": SYMMETRIC,
        "Description": key.description,
        "Enabled": true,
        "EncryptionAlgorithms": [SYMMETRIC],
        "KeyId": key.id,
        "KeyManager": "CUSTOMER",
        "KeySpec": SYMMETRIC,
        "KeyState": "Enabled",
        "KeyUsage": "ENCRYPT_DECRYPT",
        "MultiRegion": false,
        "Origin": "AWS_KMS",
    })
}
