//! A virtual machine that boots an image, and a sidecar for it.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use protocol::{Endpoint, WINDOW_PORT};
use qemu_dev::{Program, State};
use rustix::process::{Pid, Signal, kill_process};

use crate::{get, private_folder, program, wait_for, wait_or_say};

/// An image that `tests/run` has built: `signer-dev.eif` or `signer.eif`.
pub fn image(name: &str) -> PathBuf {
    let target = program("anchorhold-eif");
    let file = target
        .ancestors()
        .nth(2)
        .expect("target/release/anchorhold-eif")
        .join("images")
        .join(name);
    assert!(
        file.is_file(),
        "{} is not built; run tests/run",
        file.display()
    );
    file
}

/// A QEMU with the machine `nitro-enclave`: the one that `ANCHORHOLD_QEMU` names, or the installed
/// one.
pub fn nitro_qemu() -> Option<String> {
    let named = std::env::var("ANCHORHOLD_QEMU").unwrap_or_else(|_| "qemu-system-x86_64".into());
    let output = Command::new(&named).args(["-M", "help"]).output().ok()?;
    String::from_utf8_lossy(&output.stdout)
        .contains("nitro-enclave")
        .then_some(named)
}

/// So many tests have machines at a time: each of their instructions is emulated, and what waits for them gives up some time.
const TURNS: usize = 2;
static TAKEN: Mutex<usize> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();
thread_local! {
    /// Of the test that runs in this thread, while it has a machine.
    static OWN: RefCell<Weak<Turn>> = const { RefCell::new(Weak::new()) };
}

/// That a test may have machines, however many.
struct Turn;

impl Turn {
    fn take() -> Arc<Self> {
        OWN.with_borrow_mut(|own| {
            own.upgrade().unwrap_or_else(|| {
                let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
                let taken = GIVEN_BACK.wait_while(taken, |taken| *taken >= TURNS);
                *taken.unwrap_or_else(PoisonError::into_inner) += 1;
                let turn = Arc::new(Self);
                *own = Arc::downgrade(&turn);
                turn
            })
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        GIVEN_BACK.notify_one();
    }
}

/// `anchorhold-dev qemu` on an image, in a state directory of its own.
pub struct Machine {
    process: Child,
    console: Arc<Mutex<String>>,
    folder: Arc<tempfile::TempDir>,
    image: PathBuf,
    _turn: Arc<Turn>,
}

impl Machine {
    /// Boots it; gives back control when the endpoint was printed.
    pub fn boot(image: &Path) -> Self {
        Self::boot_with(image, Arc::new(private_folder()), &[])
    }

    /// With more arguments, in this folder.
    pub fn boot_with(image: &Path, folder: Arc<tempfile::TempDir>, more: &[&str]) -> Self {
        let turn = Turn::take();
        let mut process = command(image, folder.path())
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("anchorhold-dev");
        let console = Arc::new(Mutex::new(String::new()));
        let streams: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(process.stdout.take().expect("piped")),
            Box::new(process.stderr.take().expect("piped")),
        ];
        for stream in streams {
            let console = Arc::clone(&console);
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let mut console = console.lock().unwrap_or_else(PoisonError::into_inner);
                    console.push_str(&line);
                    console.push('\n');
                }
            });
        }
        let machine = Self {
            process,
            console,
            folder,
            image: image.to_owned(),
            _turn: turn,
        };
        wait_for(|| {
            machine.console().contains("--allow-mock")
                || machine.console().contains("anchorhold-dev: ")
        });
        machine
    }

    /// Kills everything, as a power failure does, and boots the same image again on the same keys
    /// of the host.
    pub fn reboot(self) -> Self {
        let (folder, image) = (Arc::clone(&self.folder), self.image.clone());
        // Nobody else has it meanwhile.
        let _turn = Turn::take();
        self.stop(Signal::KILL);
        // What the killed one started dies with it, in its own time; it holds the directory's lock
        // no longer.
        Self::boot_with(&image, folder, &[])
    }

    /// All that it has printed.
    pub fn console(&self) -> String {
        self.console
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits for a line.
    pub fn wait_for_line(&self, part: &str) {
        wait_for(|| self.console().contains(part) || self.console().contains("has ended"));
        assert!(self.console().contains(part), "{}", self.console());
    }

    /// Sends a signal and waits.
    pub fn stop(mut self, signal: Signal) -> ExitStatus {
        kill_process(
            Pid::from_raw(self.process.id().cast_signed()).expect("a pid"),
            signal,
        )
        .expect("it runs");
        self.process.wait().expect("it ends")
    }

    /// The process that holds the machine.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits for it to end by itself; its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.process.wait().expect("it ends").code()
    }

    /// Keys and files.
    pub fn state(&self) -> State {
        // What was measured is in the state directory already.
        let measured =
            std::fs::read(self.folder.path().join("measurements.json")).expect("measurements");
        State::open_measured(
            self.folder.path(),
            &attestation::Measurements::parse(&measured).expect("measurements"),
        )
        .expect("a state directory")
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The socket at which the hypervisor connects to ports of the guest.
    pub fn vsock(&self) -> PathBuf {
        self.folder.path().join("v.sock")
    }

    /// Opens a port of the guest, as any process of the host may.
    pub fn connect(&self, port: u32) -> std::io::Result<UnixStream> {
        connect(&self.vsock(), port)
    }

    /// A sidecar for it.
    pub fn sidecar(&self) -> Sidecar {
        self.sidecar_with("")
    }

    /// The same, with more lines of configuration.
    pub fn sidecar_with(&self, more: &str) -> Sidecar {
        let endpoint = Endpoint::HybridVsock {
            path: self.vsock(),
            port: WINDOW_PORT,
        };
        self.sidecar_at(&endpoint, more)
    }

    /// The same, which finds the machine's window elsewhere.
    pub fn sidecar_at(&self, endpoint: &Endpoint, more: &str) -> Sidecar {
        let socket = self.folder.path().join("run").join("sidecar.sock");
        let config = self
            .state()
            .write_sidecar_config_for(endpoint, &socket, more)
            .expect("a configuration");
        let log = self.folder.path().join("log");
        let process = Program::at(&program("anchorhold-dev"))
            .start_sidecar(&config, Some(&log), &[])
            .expect("a sidecar");
        Sidecar {
            process,
            socket,
            log,
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The command that boots `image` with its state in `folder`.
pub fn command(image: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program("anchorhold-dev"));
    // Which QEMU, a test says; what the environment names is for one test alone.
    command
        .env_remove("ANCHORHOLD_QEMU")
        .arg("qemu")
        .arg(image)
        .arg("--state")
        .arg(folder);
    command
}

/// Listens at a port of the host for what the guest sends there.
pub fn listen(folder: &Path, port: u32) -> UnixListener {
    UnixListener::bind(folder.join(format!("v.sock_{port}"))).expect("a socket")
}

/// Hybrid vsock: `CONNECT <port>`, answered by `OK <number>`.
pub fn connect(socket: &Path, port: u32) -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        std::io::Read::read_exact(&mut stream, &mut byte)?;
        answer.push(byte[0]);
    }
    if answer.starts_with(b"OK ") {
        Ok(stream)
    } else {
        Err(std::io::Error::other("not connected"))
    }
}

/// A sidecar whose enclave is a machine.
pub struct Sidecar {
    /// Its process.
    pub process: qemu_dev::Child,
    /// Where it listens.
    pub socket: PathBuf,
    log: PathBuf,
}

impl Sidecar {
    /// Waits until a signature could be made; how long that took.
    pub fn wait_until_ready(&self) -> Duration {
        let begun = Instant::now();
        let is_ready = || {
            self.socket.exists()
                && get(&self.socket, "/ready").is_ok_and(|answer| answer.status == 200)
        };
        wait_or_say(is_ready, || self.log());
        begun.elapsed()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}
