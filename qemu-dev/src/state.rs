//! A state directory: the mock's root, the host's keys, a development policy. Never an identity's
//! key.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use attestation::{Measurements, MockRoot};
use der::{DecodePem, Encode};
use identity::Signer;
use parent_proxy::KeyFile;
use policy::Bundle;
use protocol::Endpoint;
use x509_cert::Certificate;

use crate::authority::Authority;
use crate::nsm::os_random;
use crate::{Error, measure_program};

/// A state directory, complete.
#[derive(Debug, Clone)]
pub struct State {
    folder: PathBuf,
}

impl State {
    /// Opens a directory, and writes whatever is missing in it. What is there stays, so that a
    /// policy can be edited; only the measurements are always those of this very program.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let measured = measure_program().map_err(io(Path::new("this program's own file")))?;
        Self::open_measured(folder, &measured)
    }

    /// As [`State::open`], for an image with these measurements.
    pub fn open_measured(folder: &Path, measured: &Measurements) -> Result<Self, Error> {
        fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(folder)
            .map_err(io(folder))?;
        let folder = fs::canonicalize(folder).map_err(io(folder))?;
        let metadata = fs::metadata(&folder).map_err(io(&folder))?;
        if metadata.mode() & 0o077 != 0 || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(Error::State(format!(
                "{} is open to others, or not ours: name a directory of its own, of mode 0700",
                folder.display()
            )));
        }
        let state = Self { folder };
        state.fill(measured)?;
        Ok(state)
    }

    fn fill(&self, measured: &Measurements) -> Result<(), Error> {
        if !self.root().exists() {
            let authority = Authority::new(now(), &mut os_random);
            write(&self.root_key(), &authority.key_pem())?;
            write(&self.root(), &authority.certificate_pem())?;
        }
        for key in [self.proxy_key(), self.operator_key()] {
            if !key.exists() {
                KeyFile::create(&key).map_err(|error| Error::State(error.to_string()))?;
            }
        }
        if !self.policy().exists() {
            write(
                &self.policy(),
                &self.development_policy(&[("agent", "did:key", "EdDSA")])?,
            )?;
        }
        fs::write(self.measurements(), measured.to_json() + "\n").map_err(io(&self.measurements()))
    }

    /// A bundle that lets this very user sign anything, and rotate, with these identities: name,
    /// DID, algorithm.
    pub fn development_policy(&self, identities: &[(&str, &str, &str)]) -> Result<String, Error> {
        let public = |file: &Path| match KeyFile::read(file) {
            Ok(key) => Ok(key.public_key().to_multikey()),
            Err(error) => Err(Error::State(error.to_string())),
        };
        let uid = rustix::process::geteuid().as_raw();
        let mut text = format!(
            "# For development: this user may sign anything and rotate. A production enclave refuses this file.\n\
             version = 1\nmode = \"development\"\nproxy_key = \"{}\"\noperator_key = \"{}\"\n",
            public(&self.proxy_key())?,
            public(&self.operator_key())?
        );
        for (name, did, algorithm) in identities {
            text.push_str(&format!(
                "\n[[identities]]\nname = \"{name}\"\nenvironment = \"development\"\ndid = \"{did}\"\nalgorithm = \"{algorithm}\"\n\
                 max_validity_seconds = 3600\ncallers = {{ uids = [{uid}] }}\nrotation_callers = {{ uids = [{uid}] }}\n\n\
                 [[identities.rules]]\nname = \"anything\"\nactions = [\"*\"]\ntargets = [\"*\"]\nresources = [\"*\"]\n"
            ));
        }
        Ok(text)
    }

    /// A bundle for a gateway of this user's: it may seal what it records, sign its manifest, and have
    /// overrides signed that this approver has approved.
    pub fn gateway_policy(&self, approver: &str) -> Result<String, Error> {
        let uid = rustix::process::geteuid().as_raw();
        let head = self.development_policy(&[])?;
        Ok(format!(
            "{head}\n[[approvers]]\nname = \"alice\"\nkey = \"{approver}\"\n\n\
             [[identities]]\nname = \"gateway\"\nenvironment = \"development\"\ndid = \"did:key\"\nalgorithm = \"EdDSA\"\n\
             max_validity_seconds = 3600\ncallers = {{ uids = [{uid}] }}\n\n\
             [[identities.rules]]\nname = \"seals\"\nactions = [\"iatp.seal\", \"iatp.manifest\"]\ntargets = [\"*\"]\nresources = [\"\"]\n\n\
             [[identities.rules]]\nname = \"overrides\"\nactions = [\"iatp.override\"]\ntargets = [\"*\"]\nresources = [\"\"]\n\
             approval = {{ by = [\"alice\"], seconds = 600 }}\n"
        ))
    }

    /// Keeps others from running on this directory, as long as the value lives.
    pub fn lock(&self) -> Result<fs::File, Error> {
        let file = self.folder.join("lock");
        let opened = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&file)
            .map_err(io(&file))?;
        let locked = rustix::fs::flock(
            &opened,
            rustix::fs::FlockOperation::NonBlockingLockExclusive,
        );
        locked.map_err(|_| {
            Error::State(format!(
                "{}: another `up` or `qemu` runs on this directory",
                self.folder.display()
            ))
        })?;
        Ok(opened)
    }

    /// Replaces the policy.
    pub fn set_policy(&self, toml: &str) -> Result<(), Error> {
        fs::write(self.policy(), toml).map_err(io(&self.policy()))
    }

    /// The directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Certificate of the mock's root, PEM: what `--root` takes.
    pub fn root(&self) -> PathBuf {
        self.folder.join("mock-root.pem")
    }

    fn root_key(&self) -> PathBuf {
        self.folder.join("mock-root.key")
    }

    /// The proxy's key.
    pub fn proxy_key(&self) -> PathBuf {
        self.folder.join("proxy.key")
    }

    /// The operator's key.
    pub fn operator_key(&self) -> PathBuf {
        self.folder.join("operator.key")
    }

    /// The policy bundle, TOML.
    pub fn policy(&self) -> PathBuf {
        self.folder.join("policy.toml")
    }

    /// The measurements of the mock image: those of this program.
    pub fn measurements(&self) -> PathBuf {
        self.folder.join("measurements.json")
    }

    /// The enclave's socket.
    pub fn enclave_socket(&self) -> PathBuf {
        self.folder.join("enclave.sock")
    }

    /// The decision record's folder.
    pub fn record(&self) -> PathBuf {
        self.folder.join("record")
    }

    /// The mock of AWS, beside the mock's other files.
    pub fn aws(&self) -> PathBuf {
        self.folder.join("aws")
    }

    /// Whom the mock enclave's TLS trusts: the mock of AWS, if there is one here; otherwise nobody
    /// but the mock's own root.
    pub(crate) fn tls_roots(&self) -> Result<Vec<egress::Anchor>, Error> {
        let (aws, own) = (self.aws().join("mock-aws-root.pem"), self.root());
        let file = if aws.exists() { aws } else { own };
        let pem = fs::read(&file).map_err(io(&file))?;
        let wrong =
            |error: &dyn std::fmt::Display| Error::State(format!("{}: {error}", file.display()));
        let certificate = Certificate::from_pem(&pem).map_err(|error| wrong(&error))?;
        let der = certificate.to_der().map_err(|error| wrong(&error))?;
        Ok(vec![egress::anchor(&der).map_err(|error| wrong(&error))?])
    }

    /// Reads the mock's root with its key.
    pub fn authority(&self) -> Result<Authority, Error> {
        let read = |file: PathBuf| fs::read_to_string(&file).map_err(io(&file));
        Authority::from_pem(&read(self.root_key())?, &read(self.root())?)
    }

    /// Reads what a verifier is given: root, measurements, policy.
    pub fn verifier_files(&self) -> Result<(MockRoot, Measurements, Bundle), Error> {
        let read = |file: &Path| fs::read(file).map_err(io(file));
        let named = |file: &Path, error: &dyn std::fmt::Display| {
            Error::State(format!("{}: {error}", file.display()))
        };
        let (root, measurements, policy) = (self.root(), self.measurements(), self.policy());
        Ok((
            MockRoot::from_pem(&read(&root)?).map_err(|error| named(&root, &error))?,
            Measurements::parse(&read(&measurements)?)
                .map_err(|error| named(&measurements, &error))?,
            Bundle::from_either(&read(&policy)?).map_err(|error| named(&policy, &error))?,
        ))
    }

    /// The sidecar's configuration.
    pub fn sidecar_config(&self) -> PathBuf {
        self.folder.join("sidecar.toml")
    }

    /// Writes a configuration of the sidecar that listens on `socket`, with more lines of TOML if
    /// wanted; gives its file.
    pub fn write_sidecar_config(&self, socket: &Path, more: &str) -> Result<PathBuf, Error> {
        self.write_sidecar_config_for(&Endpoint::Unix(self.enclave_socket()), socket, more)
    }

    /// As [`State::write_sidecar_config`], for an enclave elsewhere.
    pub fn write_sidecar_config_for(
        &self,
        enclave: &Endpoint,
        socket: &Path,
        more: &str,
    ) -> Result<PathBuf, Error> {
        let file = self.sidecar_config();
        self.write_config(&file, enclave, socket, more)?;
        Ok(file)
    }

    /// Writes a configuration of the sidecar for an enclave elsewhere, beside the one of `up`; gives
    /// its file.
    pub fn write_qemu_config(&self, enclave: &Endpoint, socket: &Path) -> Result<PathBuf, Error> {
        let file = self.folder.join("sidecar-qemu.toml");
        self.write_config(&file, enclave, socket, "")?;
        Ok(file)
    }

    fn write_config(
        &self,
        file: &Path,
        enclave: &Endpoint,
        socket: &Path,
        more: &str,
    ) -> Result<(), Error> {
        let text = format!(
            "enclave = \"{enclave}\"\nbundle = \"policy.toml\"\nproxy_key = \"proxy.key\"\nsocket = \"{}\"\nrecord = \"record\"\n{more}",
            socket.display()
        );
        fs::write(file, text).map_err(io(file))
    }
}

/// A temporary folder that only this user can enter; removed when dropped.
pub(crate) fn private_folder() -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("anchorhold-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir()
}

/// The host's clock: it dates the mock's root, and starts the mock hypervisor's clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the mock plays the hypervisor, whose clock this is"
)]
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

fn write(file: &Path, text: &str) -> Result<(), Error> {
    let opened = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    opened
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .map_err(io(file))
}

fn io(file: &Path) -> impl Fn(std::io::Error) -> Error + use<> {
    let what = file.display().to_string();
    move |source| Error::Io {
        what: what.clone(),
        source,
    }
}
