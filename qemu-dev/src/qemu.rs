//! `anchorhold-dev qemu`: boots a development image without hardware, and plays its hypervisor.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use attestation::Measurements;
use enclave::BootTime;
use futures_util::StreamExt;
use identity::Digest;
use identity::Pcr;
use parent_proxy::cli::default_socket;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use crate::dev_enclave::host_clock;
use crate::nsm::{Encoding, MockNsm};
use crate::state::private_folder;
use crate::vm::{self, Setup, Vm, VmMachine};
use crate::{Error, Program, State};

/// What `qemu` is started with.
#[derive(Debug, Clone)]
pub struct Qemu {
    /// A development image.
    pub image: PathBuf,
    /// The state directory; a temporary one if not given.
    pub state: Option<PathBuf>,
    /// How it is booted.
    pub machine: VmMachine,
    /// The QEMU to use.
    pub qemu: PathBuf,
    /// The machine's memory.
    pub memory_mib: u32,
}

/// Boots the image; runs until it ends or a signal comes.
pub async fn qemu(options: &Qemu) -> Result<(), Error> {
    let mut told = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(io)?;
    tokio::select! {
        ended = run(options) => ended,
        _ = told.next() => Ok(()),
    }
}

async fn run(options: &Qemu) -> Result<(), Error> {
    // The very bytes that are measured here are those that boot.
    let image = eif::read_file(&options.image)?;
    let description = eif::describe(&image)?;
    let measured = Measurements::parse(description.as_bytes())?;
    let qemu = find(&options.qemu, "apt-get install qemu-system-x86")?;
    let vhost = find(
        Path::new("vhost-device-vsock"),
        "cargo install vhost-device-vsock --version 0.3.0 --locked",
    )?;
    vm::check_machine(&qemu, options.machine)?;
    let temporary = private_folder().map_err(io)?;
    let state = State::open_measured(
        options.state.as_deref().unwrap_or(temporary.path()),
        &measured,
    )?;
    let _lock = state.lock()?;
    let socket = default_socket().unwrap_or_else(|_| state.folder().join("sidecar.sock"));
    let config = state.write_qemu_config(&vm::endpoint(state.folder()), &socket)?;
    let nsm = MockNsm::new(
        state.authority()?,
        &registers(&measured),
        host_clock(None, BootTime),
        Encoding::Indefinite,
    )?
    .trusting(state.tls_roots()?);
    let program = Program::this()?;
    let setup = Setup {
        program: &program,
        qemu,
        vhost,
        machine: options.machine,
        memory_mib: options.memory_mib,
        folder: state.folder(),
        image: &image,
        nsm,
    };
    let mut vm = Vm::start(setup)?;
    std::io::stdout()
        .write_all(next_steps(&state, &config).as_bytes())
        .map_err(io)?;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Some((what, status)) = vm.ended() {
            // What it said last may still be on its way to the console.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let log = std::fs::read_to_string(state.folder().join("qemu.log")).unwrap_or_default();
            return Err(Error::Process(format!(
                "the machine has ended: {what}, {status}\n{}",
                log.trim_end()
            )));
        }
    }
}

/// PCR0 to 2, and 8 if the image is signed; zeros between, as a hypervisor without instance and
/// role shows.
fn registers(measured: &Measurements) -> Vec<Pcr> {
    let mut pcrs = vec![Digest([0; 48]); 9];
    pcrs[..3].copy_from_slice(&[measured.pcr0, measured.pcr1, measured.pcr2]);
    pcrs[8] = measured.pcr8.unwrap_or(Digest([0; 48]));
    pcrs
}

/// A command on the path, or a file.
fn find(command: &Path, install: &str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(std::env::home_dir().map(|home| home.join(".cargo/bin")));
    let named = command.components().count() > 1;
    let found = if named {
        Some(command.to_owned())
    } else {
        places
            .into_iter()
            .map(|folder| folder.join(command))
            .find(|file| file.is_file())
    };
    match found.filter(|file| file.is_file()) {
        Some(file) => Ok(file),
        None => Err(Error::State(format!(
            "{} is missing; {install}",
            command.display()
        ))),
    }
}

fn io(source: std::io::Error) -> Error {
    Error::Io {
        what: "qemu".into(),
        source,
    }
}

fn next_steps(state: &State, config: &Path) -> String {
    let (endpoint, folder, config) = (
        vm::endpoint(state.folder()),
        state.folder().display(),
        config.display(),
    );
    format!(
        "Booting, with a MOCK NSM: no hardware protects these keys, and they end with this machine (Ctrl-C).\n  \
         endpoint      {endpoint}\n  files         {folder}\n\n\
         The sidecar for it, in another terminal:\n\n  anchorhold serve --config {config}\n\n\
         What it signs verifies with --measurements {folder}/measurements.json --bundle {folder}/policy.toml\n  \
         --allow-mock --root {folder}/mock-root.pem\n\n"
    )
}
