//! Running processes of a test: enclave, sidecar, their state.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use attestation::{Expectations, Measurements, MockRoot, Verifier};
use identity::UnixSeconds;
use policy::{Bundle, PolicyDigest};
use qemu_dev::{Child, Program, State};

use crate::http::get;

/// A program of this workspace, built beside the tests.
///
/// # Panics
/// If it was not built: `tests/run` builds all programs first.
pub fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("this test has a path");
    let folder = this.ancestors().find(|folder| folder.join(name).is_file());
    folder
        .unwrap_or_else(|| {
            panic!("{name} is not built; run tests/run, or cargo build --release --workspace")
        })
        .join(name)
}

/// Copies a program so that it can be started at once. Another process copies it: what this one had
/// open for writing, the child of another test could still have open, and the kernel would refuse
/// to start it (`ETXTBSY`, execve(2)).
///
/// # Panics
/// If it cannot be copied.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg(from).arg(to).status();
    assert!(copied.expect("cp").success(), "{}", to.display());
}

/// Writes a script that can be started at once.
///
/// # Panics
/// If it cannot be written.
pub fn write_script(to: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let draft = to.with_extension("draft");
    std::fs::write(&draft, text).expect("a file");
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    copy_program(&draft, to);
    std::fs::remove_file(draft).expect("the draft goes");
}

/// A development enclave and a sidecar, each a process, in a temporary folder. Both end with this
/// value.
pub struct Running {
    /// The sidecar's process.
    pub sidecar: Child,
    /// The enclave's process.
    pub enclave: Child,
    /// Keys and files.
    pub state: State,
    /// The sidecar's socket.
    pub socket: PathBuf,
    folder: tempfile::TempDir,
}

impl Running {
    /// One identity, did:key and EdDSA, that this user may use for anything.
    pub fn start() -> Self {
        Self::with(&[("agent", "did:key", "EdDSA")])
    }

    /// The same, without limits of each caller.
    pub fn unlimited() -> Self {
        let policy = |state: &State| {
            state
                .development_policy(&[("agent", "did:key", "EdDSA")])
                .expect("a policy")
        };
        Self::prepared(
            policy,
            "[limits]\nrequests_per_second = 0\nconnections = 2000\n",
            &[],
        )
    }

    /// These identities: name, DID, algorithm.
    pub fn with(identities: &[(&str, &str, &str)]) -> Self {
        Self::prepared(
            |state| state.development_policy(identities).expect("a policy"),
            "",
            &[],
        )
    }

    /// A policy of one's own, more lines of sidecar configuration, more arguments for the enclave.
    pub fn prepared(
        policy: impl FnOnce(&State) -> String,
        config: &str,
        enclave_arguments: &[&str],
    ) -> Self {
        let folder = private_folder();
        let state = State::open(folder.path()).expect("a state directory");
        state.set_policy(&policy(&state)).expect("a policy file");
        Self::start_in(folder, state, config, enclave_arguments)
    }

    fn start_in(
        folder: tempfile::TempDir,
        state: State,
        config: &str,
        enclave_arguments: &[&str],
    ) -> Self {
        let program = Program::at(&program("anchorhold-dev"));
        let log = folder.path().join("log");
        let enclave = program
            .start_listening_enclave(&state, Some(&log), enclave_arguments)
            .expect("an enclave");
        let socket = folder.path().join("run").join("sidecar.sock");
        let config = state
            .write_sidecar_config(&socket, config)
            .expect("a configuration");
        let sidecar = program
            .start_sidecar(&config, Some(&log), &[])
            .expect("a sidecar");
        let running = Self {
            sidecar,
            enclave,
            state,
            socket,
            folder,
        };
        running.wait_until_ready();
        running
    }

    /// Waits until a signature could be made.
    pub fn wait_until_ready(&self) {
        wait_for(|| {
            self.socket.exists()
                && get(&self.socket, "/ready").is_ok_and(|answer| answer.status == 200)
        });
    }

    /// Kills the enclave and starts another boot of it.
    pub fn reboot_enclave(&mut self) {
        self.enclave.kill().expect("the enclave can be killed");
        self.start_enclave();
    }

    /// Kills the sidecar, as a crash would.
    pub fn kill_sidecar(&mut self) {
        self.sidecar.kill().expect("the sidecar can be killed");
    }

    /// Starts a sidecar where one was killed, and waits for it.
    pub fn start_sidecar(&mut self) {
        let program = Program::at(&program("anchorhold-dev"));
        let config = self.state.folder().join("sidecar.toml");
        self.sidecar = program
            .start_sidecar(&config, Some(&self.log_file()), &[])
            .expect("a sidecar");
        self.wait_until_ready();
    }

    /// Starts an enclave where one was killed.
    pub fn start_enclave(&mut self) {
        let program = Program::at(&program("anchorhold-dev"));
        self.enclave = program
            .start_enclave(&self.state, Some(&self.log_file()), &[])
            .expect("an enclave");
    }

    /// The logs of both processes.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// The temporary folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a verifier is given.
    pub fn verifier(&self) -> VerifierFiles {
        let (root, measurements, bundle) = self.state.verifier_files().expect("a verifier's files");
        VerifierFiles {
            root,
            measurements: [measurements],
            policies: [bundle.digest()],
            bundle,
        }
    }
}

/// What a verifier holds who expects everything.
pub struct VerifierFiles {
    /// Root of the mock.
    pub root: MockRoot,
    /// The image.
    pub measurements: [Measurements; 1],
    /// The policy's digest.
    pub policies: [PolicyDigest; 1],
    /// The policy.
    pub bundle: Bundle,
}

impl VerifierFiles {
    /// What is expected of an answer to this challenge.
    pub fn expectations(&self, nonce: &[u8]) -> Expectations {
        Expectations {
            nonce: Some(nonce.to_vec()),
            measurements: self.measurements.to_vec(),
            policies: self.policies.to_vec(),
            ..Expectations::default()
        }
    }

    /// Who expects all of it, at the host's time.
    pub fn expecting(&self, nonce: &[u8]) -> Verifier {
        let (expectations, allow_mock) = (self.expectations(nonce), Some(self.root.clone()));
        Verifier {
            expectations,
            allow_mock,
            ..Verifier::at(now())
        }
    }
}

/// The host's time, as a verifier's clock.
#[expect(clippy::disallowed_methods, reason = "a verifier's clock")]
pub fn now() -> UnixSeconds {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    UnixSeconds(since.as_secs().cast_signed())
}

/// A temporary folder that only this user can enter.
pub fn private_folder() -> tempfile::TempDir {
    let permissions = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o700);
    tempfile::Builder::new()
        .prefix("anchorhold-test-")
        .permissions(permissions)
        .tempdir()
        .expect("a temporary folder")
}

/// Waits at most two minutes: four machines may be booting at once, each of which has every instruction
/// emulated.
///
/// # Panics
/// When they are over.
pub fn wait_for(condition: impl Fn() -> bool) {
    wait_or_say(condition, String::new);
}

/// The same, and says this when they are over.
///
/// # Panics
/// Then.
pub fn wait_or_say(condition: impl Fn() -> bool, says: impl Fn() -> String) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !condition() {
        let is_over = Instant::now() >= deadline;
        assert!(!is_over, "waited for two minutes in vain\n{}", says());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The most memory that a process had so far, in kB.
pub fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or_default()
}
