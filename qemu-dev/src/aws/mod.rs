//! A strict mock of AWS KMS over TLS, for tests and laptops. It says in every answer that it is no
//! AWS, and no credentials, certificate or key of it is worth anything elsewhere.
//!
//! ```text
//! server (TLS, HTTP) ──> sigv4: who calls ──> kms ──> policy: may it? ── recipient: the document
//!                                              |
//!                                           store: keys     cms: the answer to a document
//! ```
//!
//! No emulator does this: the others ignore `Recipient` and give the plaintext. What is made here is
//! therefore held against others: AWS's own signer, OpenSSL, and messages of the real KMS.
//!
//! It differs from AWS where AWS is lenient or larger: members, elements and operators that it does
//! not know are refused, keys are named by ARN alone, the account's root in a key policy means every
//! principal of the account, and only the role `anchorhold-admin` makes keys.

mod alone;
mod cms;
mod credentials;
mod fault;
mod kms;
mod line;
mod policy;
mod recipient;
mod refusal;
mod server;
mod sigv4;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use attestation::MockRoot;
use tokio::net::TcpListener;

pub use self::alone::Aws;
pub use self::cms::Shape;
pub use self::credentials::{ADMIN, SIDECAR};
pub use self::fault::{Fault, Handle};
pub use self::policy::{ACCOUNT, Call, Decision, Policy};
pub use self::refusal::Refusal;
use crate::Error;
use crate::files;
pub use crate::tls::Certificate;
use crate::tls::{Authority, Names};

const NAMES: Names = Names {
    root: "CN=Anchorhold MOCK AWS root,OU=this is no AWS,O=Anchorhold,C=US",
    server: "CN=Anchorhold MOCK AWS server,OU=this is no AWS,O=Anchorhold,C=US",
};

/// The region that is nobody's.
pub const DEFAULT_REGION: &str = "mock-local-1";

/// The mock's clock: milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A mock of AWS KMS: its keys, its credentials and its certification authority, all in one folder.
pub struct MockAws {
    folder: PathBuf,
    region: String,
    store: store::Store,
    authority: Authority,
    credentials: Vec<credentials::Credentials>,
    handle: Handle,
}

impl MockAws {
    /// Opens a folder, and makes what is missing in it.
    pub fn open(folder: &Path, region: &str) -> Result<Self, Error> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=32).contains(&region.len()) || !region.bytes().all(plain) {
            return Err(Error::State(format!("{region:?} is no name of a region")));
        }
        files::make_folder(folder)?;
        let _lock = files::lock(folder)?;
        Ok(Self {
            store: store::Store::open(folder, region)?,
            authority: Authority::open(&folder.join("mock-aws-root.pem"), NAMES)?,
            credentials: credentials::open(&folder.join("credentials"))?,
            handle: Handle::default(),
            folder: folder.into(),
            region: region.into(),
        })
    }

    /// Makes a key with this policy, which must be one that the mock understands; gives its ARN.
    /// Whether anybody can change the policy later is not asked: that is `CreateKey`'s affair.
    pub fn create_key(&self, policy: &str) -> Result<String, Error> {
        Policy::parse(policy).map_err(refused)?;
        let key = self.store.create(policy, "", crate::state::now())?;
        Ok(key.arn)
    }

    /// Replaces the policy of a key, whatever the old one says: the hand of who owns the mock, which
    /// no caller of AWS has.
    pub fn put_key_policy(&self, arn: &str, policy: &str) -> Result<(), Error> {
        Policy::parse(policy).map_err(refused)?;
        let mut key = self.store.find(arn).map_err(refused)?;
        key.policy = policy.into();
        self.store.save(&key)
    }

    /// The certificate that clients must trust, in PEM.
    pub fn root_pem(&self) -> String {
        self.authority.pem()
    }

    /// The certificate that clients must trust, in DER.
    pub fn root_der(&self) -> &[u8] {
        self.authority.der()
    }

    /// The file of [`MockAws::root_pem`].
    pub fn root_file(&self) -> PathBuf {
        self.folder.join("mock-aws-root.pem")
    }

    /// The file of credentials, as AWS's tools read it: `[default]` is [`SIDECAR`], `[admin]` is
    /// [`ADMIN`].
    pub fn credentials_file(&self) -> PathBuf {
        self.folder.join("credentials")
    }

    /// The name that its certificate is for; `localhost` is good as well.
    pub fn host(&self) -> String {
        format!("kms.{}.amazonaws.com", self.region)
    }

    /// What a test steers it with.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until the future is dropped. The listener must be on a loopback address; documents are
    /// verified to `nsm_root`; whatever has a time is judged by `clock`.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        nsm_root: MockRoot,
        clock: Clock,
    ) -> Result<(), Error> {
        let shared = Arc::new((self, nsm_root, clock));
        server::accept(listener, shared, |(mock, nsm_root, clock)| server::Server {
            region: &mock.region,
            store: &mock.store,
            authority: &mock.authority,
            credentials: &mock.credentials,
            handle: &mock.handle,
            nsm_root,
            clock,
        })
        .await
    }
}

fn refused(refusal: Refusal) -> Error {
    let Refusal { kind, message } = refusal;
    Error::State(format!("mock AWS: {kind}: {message}"))
}
