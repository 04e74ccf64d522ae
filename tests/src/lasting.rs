//! An enclave whose keys last, a sidecar that keeps its state, and a mock of AWS within the test,
//! which steers it.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parent_proxy::{Client, Target};
use protocol::{Endpoint, WINDOW_PORT};
use qemu_dev::aws::{Handle, MockAws};
use qemu_dev::{Child, DurableState, Program, State};
use serde_json::{Value, json};

use crate::http::{get, post};
use crate::tap::Tap;
use crate::{private_folder, program, wait_for};

/// All three, each in its own process but for the mock of AWS.
pub struct Lasting {
    /// The sidecar's process.
    pub sidecar: Child,
    /// The enclave's process.
    pub enclave: Child,
    /// Keys and files.
    pub state: State,
    /// What keeps the keys.
    pub durable: DurableState,
    /// The sidecar's socket.
    pub socket: PathBuf,
    /// Steers the mock of AWS.
    pub aws: Handle,
    tap: Option<Tap>,
    /// The program that is the enclave.
    image: PathBuf,
    enclave_arguments: Vec<String>,
    aws_ahead: Arc<AtomicI64>,
    folder: tempfile::TempDir,
    _served: tokio::runtime::Runtime,
}

impl Lasting {
    /// One identity, did:key and EdDSA, born and open.
    pub fn start() -> Self {
        let lasting = Self::unborn(&[("agent", "did:key", "EdDSA")]);
        lasting.birth();
        lasting.wait_until_ready();
        lasting
    }

    /// These identities: name, DID, algorithm; nothing is born yet.
    pub fn unborn(identities: &[(&str, &str, &str)]) -> Self {
        let policy = |state: &State| state.development_policy(identities).expect("a policy");
        Self::unborn_in(private_folder(), policy, "", false)
    }

    /// One identity that is not born yet, and a [`Tap`] between sidecar and enclave.
    pub fn tapped() -> Self {
        let identities = [("agent", "did:key", "EdDSA")];
        let policy = |state: &State| state.development_policy(&identities).expect("a policy");
        Self::unborn_in(private_folder(), policy, "", true)
    }

    /// With this policy, to which the state is added, and more lines of sidecar configuration; born and
    /// open.
    pub fn prepared(policy: impl FnOnce(&State) -> String, config: &str) -> Self {
        let lasting = Self::unborn_in(private_folder(), policy, config, false);
        lasting.birth();
        lasting.wait_until_ready();
        lasting
    }

    fn unborn_in(
        folder: tempfile::TempDir,
        policy: impl FnOnce(&State) -> String,
        config: &str,
        is_tapped: bool,
    ) -> Self {
        let state = State::open(folder.path()).expect("a state directory");
        state.set_policy(&policy(&state)).expect("a policy file");
        let durable = DurableState::prepare(&state).expect("a mock of AWS and a key of it");
        let aws_ahead = Arc::new(AtomicI64::new(0));
        let (served, aws) = serve_aws(&state, &durable, Arc::clone(&aws_ahead));
        let log = folder.path().join("log");
        let image = program("anchorhold-dev");
        let enclave = Program::at(&image)
            .start_listening_enclave(&state, Some(&log), &[])
            .expect("an enclave");
        // The enclave has written down what its own program measures: the key policy names that.
        DurableState::prepare(&state).expect("a key policy");
        let socket = folder.path().join("run").join("sidecar.sock");
        let tap = is_tapped.then(|| {
            let endpoint = Endpoint::Unix(state.enclave_socket());
            Tap::start(folder.path(), move |port| {
                match (&endpoint, endpoint.egress()) {
                    (Endpoint::Unix(window), _) if port == WINDOW_PORT => {
                        UnixStream::connect(window)
                    }
                    (_, Endpoint::Unix(egress)) => UnixStream::connect(egress),
                    _ => Err(std::io::ErrorKind::Unsupported.into()),
                }
            })
        });
        let window = tap.as_ref().map(|tap| tap.window().to_owned());
        let endpoint = Endpoint::Unix(window.unwrap_or_else(|| state.enclave_socket()));
        // Keys stand before tables.
        let (keys, tables) = config.split_at(config.find('[').unwrap_or(config.len()));
        let lines = format!("{keys}{}{tables}", durable.sidecar_lines());
        let config = state
            .write_sidecar_config_for(&endpoint, &socket, &lines)
            .expect("a configuration");
        let sidecar = Program::at(&image)
            .start_sidecar(&config, Some(&log), &[])
            .expect("a sidecar");
        let lasting = Self {
            sidecar,
            enclave,
            state,
            durable,
            socket,
            aws,
            tap,
            image,
            enclave_arguments: Vec::new(),
            aws_ahead,
            folder,
            _served: served,
        };
        wait_for(|| lasting.socket.exists() && lasting.phase().is_some());
        lasting
    }

    /// What stands between sidecar and enclave.
    ///
    /// # Panics
    /// If nothing does: only [`Lasting::tapped`] puts it there.
    pub fn tap(&self) -> &Tap {
        self.tap.as_ref().expect("a tap")
    }

    /// As the operator: orders the birth.
    pub fn birth(&self) -> Value {
        self.try_birth().expect("a birth").expect("there was none")
    }

    /// The same, which may be refused.
    pub fn try_birth(&self) -> Result<Option<Value>, qemu_dev::Error> {
        let client = Client::new(Target::Unix(self.socket.clone()), None);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(self.durable.birth_if_needed(&client))
    }

    /// As the operator: certifies the enclave's program under the bundle that lies there, if they
    /// are not certified.
    pub fn certify(&self) -> bool {
        self.durable.certify_if_needed().expect("a certificate")
    }

    /// Waits until a signature could be made.
    pub fn wait_until_ready(&self) {
        wait_for(|| self.is_ready());
    }

    /// Whether a signature could be made.
    pub fn is_ready(&self) -> bool {
        self.socket.exists() && get(&self.socket, "/ready").is_ok_and(|answer| answer.status == 200)
    }

    /// How far the state has come, as the sidecar says.
    pub fn phase(&self) -> Option<String> {
        let answer = get(&self.socket, "/state").ok()?;
        let phase = (answer.status == 200).then(|| answer.json()["phase"].clone())?;
        phase.as_str().map(str::to_owned)
    }

    /// `GET /state`.
    pub fn status(&self) -> Value {
        get(&self.socket, "/state").expect("an answer").json()
    }

    /// Waits until the state was refused with this code.
    pub fn wait_for_refusal(&self, code: &str) {
        wait_for(|| {
            get(&self.socket, "/state").is_ok_and(|answer| {
                answer.status == 200 && answer.json()["refused"]["code"] == code
            })
        });
    }

    /// `GET /identity`.
    pub fn identity(&self) -> Value {
        get(&self.socket, "/identity").expect("an answer").json()
    }

    /// A token.
    pub fn sign(&self) -> String {
        let body = json!({"payload": {}, "intent": "a"});
        let answer = post(&self.socket, "/sign", &body).expect("an answer");
        let token = answer.json()["vouch_token"].clone();
        token
            .as_str()
            .unwrap_or_else(|| panic!("{}", answer.code()))
            .to_owned()
    }

    /// Evidence for this challenge.
    pub fn evidence(&self, nonce: &[u8]) -> Vec<u8> {
        let body = json!({"nonce": data_encoding::HEXLOWER.encode(nonce)});
        let answer = post(&self.socket, "/attestation", &body).expect("an answer");
        assert_eq!(answer.status, 200);
        answer.body
    }

    /// The code with which a signature is refused now.
    pub fn refusal(&self) -> String {
        let body = json!({"payload": {}, "intent": "a"});
        post(&self.socket, "/sign", &body)
            .expect("an answer")
            .code()
    }

    /// The next boot is of this program.
    pub fn set_image(&mut self, image: &Path) {
        self.image = image.to_owned();
    }

    /// The next boot has these arguments.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.enclave_arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
    }

    /// The clock of the mock of AWS goes so many seconds ahead of the host's.
    pub fn aws_ahead(&self, seconds: i64) {
        self.aws_ahead.store(seconds, Ordering::SeqCst);
    }

    /// Kills the enclave, as a power cut would, and boots again.
    pub fn reboot(&mut self) {
        self.enclave.kill().expect("the enclave can be killed");
        let arguments: Vec<&str> = self.enclave_arguments.iter().map(String::as_str).collect();
        self.enclave = Program::at(&self.image)
            .start_listening_enclave(
                &self.state,
                Some(&self.folder.path().join("log")),
                &arguments,
            )
            .expect("an enclave");
    }

    /// Kills the sidecar, as a crash would, and starts it again.
    pub fn restart_sidecar(&mut self) {
        self.sidecar.kill().expect("the sidecar can be killed");
        self.start_sidecar();
        wait_for(|| self.socket.exists() && self.phase().is_some());
    }

    /// Starts a sidecar where one was killed.
    pub fn start_sidecar(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        self.sidecar = Program::at(&program("anchorhold-dev"))
            .start_sidecar(
                &self.state.sidecar_config(),
                Some(&self.folder.path().join("log")),
                &[],
            )
            .expect("a sidecar");
    }

    /// Both anew: whatever lies in the folder is what they begin with.
    pub fn restart(&mut self) {
        self.sidecar.kill().expect("the sidecar can be killed");
        self.reboot();
        self.restart_sidecar();
    }

    /// The logs of both processes.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A part of the state that is kept.
    pub fn part(&self, name: &str) -> PathBuf {
        self.durable.folder().join(name)
    }

    /// The temporary folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Serves the mock of AWS of a state directory until the runtime is dropped; its clock goes so many
/// seconds ahead.
pub fn serve_aws(
    state: &State,
    durable: &DurableState,
    ahead: Arc<AtomicI64>,
) -> (tokio::runtime::Runtime, Handle) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let aws = MockAws::open(&state.aws(), qemu_dev::aws::DEFAULT_REGION).expect("a mock of AWS");
    let handle = aws.handle();
    let root = durable.mock_root().expect("a root");
    let address = durable.address();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind(address))
        .expect("a port");
    let clock: qemu_dev::aws::Clock = Arc::new(move || {
        let seconds = crate::now().0 + ahead.load(Ordering::SeqCst);
        u64::try_from(seconds).unwrap_or_default() * 1000
    });
    runtime.spawn(async move {
        let _ = Arc::new(aws).serve(listener, root, clock).await;
    });
    (runtime, handle)
}
