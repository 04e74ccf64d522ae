//! The commands that talk to a running sidecar.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use identity::request::{CallerProof, EXCHANGE, Exchange, MAX_PROOF_SECONDS, Request, Rotation};
use identity::succession::Order;
use identity::{BootId, Digest, Intent, Payload};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{Failure, in_path};
use crate::config::default_socket;
use crate::{Client, Error, KeyFile, Target};
use enclave_client::files::read_bounded;

/// Where the sidecar is.
#[derive(Debug, Args)]
pub(super) struct Connection {
    /// The sidecar: unix:///path or http://127.0.0.1:PORT [default: the default socket]
    #[arg(long, env = "ANCHORHOLD_ENDPOINT_SOCKET", value_name = "URI")]
    endpoint: Option<Target>,
    /// The file with this caller's token, for localhost
    #[arg(long, env = "ANCHORHOLD_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// Name of the identity; may be left out if you may use only one
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(super) struct Sign {
    /// What is to be done
    #[arg(long)]
    action: String,
    /// What it is done to
    #[arg(long, default_value = "")]
    target: String,
    /// Where
    #[arg(long, default_value = "")]
    resource: String,
    /// A JSON object; `-` reads it from standard input
    #[arg(long, value_name = "JSON")]
    payload: String,
    /// To whom it is granted: a DID. Then a grant is signed; needs --format vouch-credential
    #[arg(long, value_name = "DID")]
    delegatee: Option<String>,
    /// For whom it is made
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,
    /// vouch-jwt, vouch-credential or envelope
    #[arg(long, default_value = "vouch-jwt")]
    format: String,
    /// Validity in seconds
    #[arg(long, value_name = "N")]
    validity_seconds: Option<u32>,
    /// Ask on somebody's behalf: a token from `anchorhold exchange`, or a JSON array of grants,
    /// root first
    #[arg(long, value_name = "FILE")]
    delegation: Option<PathBuf>,
    /// Id of the approval that this very request waited for
    #[arg(long, value_name = "ID")]
    approval: Option<String>,
    /// This caller's own key: signs the request, so that the enclave itself knows who asks. The
    /// policy must name it. Needs --identity
    #[arg(long, value_name = "FILE", requires = "identity")]
    caller_key: Option<PathBuf>,
    /// Print the whole answer as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    named: Named,
}

#[derive(Debug, Args)]
pub(super) struct ExchangeToken {
    /// The token of the one who delegates; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    subject_token: PathBuf,
    /// Words, each of the subject token's scope [default: all that the policy allows]
    #[arg(long, value_name = "WORDS")]
    scope: Option<String>,
    /// What the new token is limited to [default: what the subject token is limited to]
    #[arg(long, value_name = "URI")]
    resource: Option<String>,
    /// For whom it is made
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,
    /// This caller's own key: signs the request, so that the enclave itself knows who asks. The
    /// policy must name it. Needs --identity
    #[arg(long, value_name = "FILE", requires = "identity")]
    caller_key: Option<PathBuf>,
    /// Print the whole answer as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    named: Named,
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    /// The operator's key; signs the order that a caller without permission of its own needs. Needs
    /// --identity
    #[arg(long, value_name = "FILE")]
    operator_key: Option<PathBuf>,
    /// This caller's own key: signs the request, so that the enclave itself knows who asks. The
    /// policy must let it rotate. Needs --identity
    #[arg(
        long,
        value_name = "FILE",
        requires = "identity",
        conflicts_with = "operator_key"
    )]
    caller_key: Option<PathBuf>,
    #[command(flatten)]
    named: Named,
}

#[derive(Debug, Args)]
pub(super) struct Attest {
    /// The verifier's challenge, 16 to 64 bytes
    #[arg(long, value_name = "HEX")]
    nonce: String,
    /// Where to write the evidence file; an older one is replaced
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    named: Named,
}

impl Connection {
    fn target(&self) -> Result<Target, Error> {
        self.endpoint
            .clone()
            .map_or_else(|| default_socket().map(Target::Unix), Ok)
    }

    pub(super) fn uri(&self) -> Result<String, Error> {
        Ok(self.target()?.to_string())
    }

    /// This caller's token, if its file is named.
    pub(super) fn token(&self) -> Result<Option<Zeroizing<String>>, Error> {
        let read = |file: &PathBuf| -> Result<_, Error> {
            let bytes = Zeroizing::new(read_bounded(file)?);
            Ok(Zeroizing::new(
                String::from_utf8_lossy(&bytes).trim().to_owned(),
            ))
        };
        self.token_file.as_ref().map(read).transpose()
    }

    pub(super) fn client(&self) -> Result<Client, Error> {
        Ok(Client::new(self.target()?, self.token()?))
    }
}

impl Named {
    pub(super) async fn describe(&self) -> Result<Value, Failure> {
        let path = match &self.identity {
            None => "/identity".to_owned(),
            Some(name) => format!("/identity?identity={}", in_path("--identity", name)?),
        };
        answer(&self.connection.client()?.call(&path, None).await?)
    }

    /// A request body that names the identity, where one was given.
    fn body(&self) -> Map<String, Value> {
        self.identity
            .iter()
            .map(|name| ("identity".to_owned(), json!(name)))
            .collect()
    }
}

impl Named {
    /// This caller's signature over a request for the identity of this name, for its key and its
    /// boot of now, by this host's clock.
    async fn proof(
        &self,
        key: &KeyFile,
        digest: impl FnOnce(&str) -> Result<Digest<32>, identity::Error>,
    ) -> Result<String, Failure> {
        let now = self.describe().await?;
        let odd = || {
            Failure::Usage("the sidecar described its identity in another way than expected".into())
        };
        let name = now["name"].as_str().ok_or_else(odd)?;
        if self.identity.as_ref().is_some_and(|wanted| wanted != name) {
            return Err(Failure::Usage(
                "the sidecar described another identity than the one asked for".into(),
            ));
        }
        let wrong = |error: identity::Error| Failure::Usage(error.to_string());
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|_| Failure::Usage("the operating system gave no randomness".into()))?;
        let proof = CallerProof {
            boot_id: BootId::from_hex(now["boot_id"].as_str().ok_or_else(odd)?).map_err(wrong)?,
            exp: in_seconds(MAX_PROOF_SECONDS / 2),
            jti: uuid::Builder::from_random_bytes(random).into_uuid(),
            key_version: now["key_version"]
                .as_u64()
                .and_then(|n| n.try_into().ok())
                .ok_or_else(odd)?,
            request: digest(name).map_err(wrong)?,
        };
        proof.sign(key).map_err(wrong)
    }
}

impl Sign {
    pub(super) async fn send(&self) -> Result<Value, Failure> {
        let mut text = self.payload.clone();
        if text == "-" {
            text.clear();
            std::io::stdin().take(1 << 20).read_to_string(&mut text)?;
        }
        let payload = identity::json::parse(text.as_bytes())
            .map_err(|error| Failure::Usage(format!("--payload: {error}")))?;
        let mut body = self.named.body();
        body.insert("payload".into(), payload);
        let mut intent =
            json!({"action": self.action, "target": self.target, "resource": self.resource});
        if let Some(delegatee) = &self.delegatee {
            intent["delegatee"] = json!(delegatee);
        }
        body.insert("intent".into(), intent);
        body.insert("format".into(), json!(self.format));
        if let Some(audience) = &self.audience {
            body.insert("audience".into(), json!(audience));
        }
        if let Some(seconds) = self.validity_seconds {
            body.insert("validity_seconds".into(), json!(seconds));
        }
        if let Some(file) = &self.delegation {
            body.insert("delegation".into(), read_delegation(file)?);
        }
        if let Some(id) = &self.approval {
            body.insert("approval".into(), json!(id));
        }
        if let Some(file) = &self.caller_key {
            let jws = self
                .named
                .proof(&KeyFile::read(file)?, |name| self.digest(name, &body))
                .await?;
            body.insert("proof".into(), json!({ "jws": jws }));
        }
        answer(
            &self
                .named
                .connection
                .client()?
                .call("/sign", Some(&Value::Object(body)))
                .await?,
        )
    }

    /// Where it asks.
    pub(super) fn endpoint(&self) -> Result<String, Error> {
        self.named.connection.uri()
    }

    /// The digest of the request, for the identity of this name.
    fn digest(&self, name: &str, body: &Map<String, Value>) -> Result<Digest<32>, identity::Error> {
        let delegatee = self
            .delegatee
            .as_deref()
            .map(identity::Did::parse)
            .transpose()?;
        let intent = Intent::new(
            self.action.clone(),
            self.target.clone(),
            self.resource.clone(),
        )?
        .granted_to(delegatee);
        let payload = Payload::parse(body["payload"].to_string().as_bytes())?;
        let delegation = body
            .get("delegation")
            .map(crate::api::presented)
            .transpose()?;
        let request = Request {
            audience: self.audience.as_deref(),
            delegation: delegation.as_deref(),
            format: &self.format,
            identity: name,
            intent: &intent,
            payload: &payload,
            validity_seconds: self.validity_seconds,
        };
        request.digest()
    }
}

/// A token, or grants.
fn read_delegation(file: &Path) -> Result<Value, Failure> {
    let text = read_token(file)?;
    if text.starts_with('[') {
        return identity::json::parse(text.as_bytes())
            .map_err(|error| Failure::Usage(format!("--delegation: {error}")));
    }
    Ok(text.into())
}

fn read_token(file: &Path) -> Result<String, Failure> {
    let bytes = if file == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().take(1 << 20).read_to_end(&mut bytes)?;
        bytes
    } else {
        read_bounded(file)?
    };
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

impl ExchangeToken {
    pub(super) async fn send(&self) -> Result<Value, Failure> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        let subject_token = read_token(&self.subject_token)?;
        form.append_pair("grant_type", EXCHANGE);
        form.append_pair("subject_token_type", crate::api::JWT);
        form.append_pair("subject_token", &subject_token);
        let optional = [
            ("scope", &self.scope),
            ("resource", &self.resource),
            ("audience", &self.audience),
            ("identity", &self.named.identity),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        if let Some(file) = &self.caller_key {
            let digest = |identity: &str| {
                let exchange = Exchange {
                    audience: self.audience.as_deref(),
                    identity,
                    resource: self.resource.as_deref(),
                    scope: self.scope.as_deref(),
                    subject_token: &subject_token,
                };
                exchange.digest()
            };
            form.append_pair(
                "actor_token",
                &self.named.proof(&KeyFile::read(file)?, digest).await?,
            );
            form.append_pair("actor_token_type", crate::api::JWT);
        }
        answer(
            &self
                .named
                .connection
                .client()?
                .post_form("/token", form.finish())
                .await?,
        )
    }
}

impl Rotate {
    pub(super) async fn send(&self) -> Result<Value, Failure> {
        let mut body = self.named.body();
        if let Some(file) = &self.operator_key {
            let order = self.order(&KeyFile::read(file)?).await?;
            body.insert("order".into(), json!(BASE64URL_NOPAD.encode(&order)));
        }
        if let Some(file) = &self.caller_key {
            let digest = |identity: &str| Rotation { identity }.digest();
            let jws = self.named.proof(&KeyFile::read(file)?, digest).await?;
            body.insert("proof".into(), json!({ "jws": jws }));
        }
        answer(
            &self
                .named
                .connection
                .client()?
                .call("/rotate", Some(&Value::Object(body)))
                .await?,
        )
    }

    /// An order for the key of now, good for five minutes by this host's clock.
    pub(super) async fn order(&self, operator: &KeyFile) -> Result<Vec<u8>, Failure> {
        let Some(wanted) = &self.named.identity else {
            return Err(Failure::Usage(
                "--operator-key needs --identity: the sidecar shall not choose what you sign for"
                    .into(),
            ));
        };
        let now = self.named.describe().await?;
        if now["name"] != wanted.as_str() {
            return Err(Failure::Usage(
                "the sidecar described another identity than the one asked for".into(),
            ));
        }
        let odd = || {
            Failure::Usage("the sidecar described its identity in another way than expected".into())
        };
        let boot_id = now["boot_id"]
            .as_str()
            .and_then(|hex| BootId::from_hex(hex).ok());
        let order = Order {
            identity: now["name"].as_str().ok_or_else(odd)?.to_owned(),
            boot_id: boot_id.ok_or_else(odd)?,
            version: now["key_version"]
                .as_u64()
                .and_then(|n| n.try_into().ok())
                .ok_or_else(odd)?,
            not_after: in_seconds(300),
        };
        order
            .sign(operator)
            .map_err(|error| Failure::Usage(error.to_string()))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the signer's own clock, for something that shall not live long"
)]
pub(super) fn in_seconds(seconds: i64) -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs())
        .unwrap_or(i64::MAX)
        .saturating_add(seconds)
}

impl Attest {
    pub(super) async fn fetch(&self) -> Result<(), Failure> {
        HEXLOWER_PERMISSIVE
            .decode(self.nonce.as_bytes())
            .map_err(|_| Failure::Usage("--nonce is not hex".into()))?;
        let mut body = self.named.body();
        body.insert("nonce".into(), json!(self.nonce));
        let evidence = self
            .named
            .connection
            .client()?
            .call("/attestation", Some(&Value::Object(body)))
            .await?;
        let written = std::fs::write(&self.output, evidence);
        Ok(written.map_err(|source| enclave_client::Error::File {
            file: self.output.clone(),
            source,
        })?)
    }
}

pub(super) fn answer(bytes: &[u8]) -> Result<Value, Failure> {
    identity::json::parse(bytes)
        .map_err(|error| Failure::Usage(format!("the sidecar's answer: {error}")))
}
