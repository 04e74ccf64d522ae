//! The development enclave: the very enclave library, with the mock NSM where hardware would be.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use enclave::boot::{EgressProcess, Pipes, ServiceProcess, be_ingress, be_service, start_ingress};
use enclave::{
    BootClock, BootTime, CLOCK_INTERVAL, Enclave, FromService, Ingress, LentLines, Listener,
    Machine, Nsm, OsEntropy, serve,
};

use crate::nsm::{Encoding, MockNsm};
use crate::{Error, State};

/// What a development enclave is started with.
#[derive(Debug, Clone)]
pub struct DevEnclave {
    /// The state directory with the mock's root.
    pub state: PathBuf,
    /// The Unix socket to listen on.
    pub listen: PathBuf,
    /// The mock hypervisor's time at the start, in milliseconds since 1970; the host's if not
    /// given. From then on CLOCK_BOOTTIME counts, whatever the host's clock does.
    pub nsm_time_ms: Option<u64>,
    /// A program that is the process of the first service in place of this one: for tests of what such a
    /// process can do that somebody owns.
    pub liar: Option<PathBuf>,
}

impl DevEnclave {
    /// Runs until the process is killed.
    pub fn run(&self) -> Result<(), Error> {
        std::panic::set_hook(Box::new(|panic| {
            say(&format!("powering off: {panic}"));
            std::process::exit(70);
        }));
        let state = State::open(&self.state)?;
        let egress = self.start_egress()?;
        let services = self.start_services(&state)?;
        let ingress = self.start_ingress(&state)?;
        let nsm = self.nsm(&state)?;
        let listener = Listener::Unix(self.bind().map_err(io)?);
        // The same system calls as in an image, so that whatever is tested here is tested within
        // them.
        enclave::boot::confine()?;
        let kms = egress.talk(nsm.tls_roots(), power_off)?;
        let (tell, said) = FromService::channel();
        let services = services.into_iter().enumerate();
        let couriers = services.map(|(place, service)| service.talk(place, &tell));
        let couriers = couriers.collect::<Result<_, _>>()?;
        let machine = Machine {
            nsm,
            boot_clock: Box::new(BootTime),
            entropy: Box::new(OsEntropy),
            kms: Box::new(kms),
            couriers,
            ingress,
            power_off: Box::new(power_off),
        };
        let enclave = Arc::new(Enclave::boot(machine)?);
        enclave.attest_to_itself()?;
        let preparing = Arc::clone(&enclave);
        std::thread::Builder::new()
            .name("prepare".into())
            .spawn(move || preparing.prepare())
            .map_err(io)?;
        let hearing = Arc::clone(&enclave);
        std::thread::Builder::new()
            .name("services".into())
            .spawn(move || hearing.hear(&said))
            .map_err(io)?;
        let ticking = Arc::clone(&enclave);
        let tick = move || {
            loop {
                std::thread::sleep(CLOCK_INTERVAL);
                if let Err(error) = ticking.refresh_clock() {
                    say(&format!("clock: {error}"));
                }
            }
        };
        std::thread::Builder::new()
            .name("clock".into())
            .spawn(tick)
            .map_err(io)?;
        serve(&enclave, &listener).map_err(io)
    }

    /// The egress process: this program once more, as in an image.
    fn start_egress(&self) -> Result<EgressProcess, Error> {
        let program = std::env::current_exe().map_err(io)?;
        let listen = self
            .listen
            .to_str()
            .ok_or_else(|| Error::State(format!("{}: not UTF-8", self.listen.display())))?;
        Ok(EgressProcess::start(
            &program,
            &["egress", "--listen", &format!("{listen}.egress")],
        )?)
    }

    /// Processes for services: as many as the bundle of the state directory names; an image has
    /// sixteen.
    fn start_services(&self, state: &State) -> Result<Vec<ServiceProcess>, Error> {
        let program = std::env::current_exe().map_err(io)?;
        let (_, _, bundle) = state.verifier_files()?;
        let listen = |place| format!("{}.service-{place}", self.listen.display());
        let arguments = |place| vec!["service".into(), "--listen".into(), listen(place)];
        let count = bundle.services.len();
        let Some(liar) = self.liar.as_ref().filter(|_| count > 0) else {
            return Ok(ServiceProcess::start(&program, count, arguments)?);
        };
        say("the process of the first service is a liar");
        let mut all = ServiceProcess::start(liar, 1, arguments)?;
        let others = ServiceProcess::start(&program, count - 1, |place| arguments(place + 1))?;
        all.extend(others);
        Ok(all)
    }

    /// The ingress process, if the bundle of the state directory has agents come through one; an image has
    /// one in any case.
    fn start_ingress(&self, state: &State) -> Result<Option<Box<dyn Ingress>>, Error> {
        let (_, _, bundle) = state.verifier_files()?;
        if bundle.https_proxy.is_none() {
            return Ok(None);
        }
        let program = std::env::current_exe().map_err(io)?;
        let listen = format!("{}.ingress", self.listen.display());
        let client = start_ingress(&program, &["ingress", "--listen", &listen])?;
        Ok(Some(Box::new(client)))
    }

    fn nsm(&self, state: &State) -> Result<MockNsm, Error> {
        let (_, measurements, _) = state.verifier_files()?;
        let measured = [measurements.pcr0, measurements.pcr1, measurements.pcr2];
        Ok(MockNsm::new(
            state.authority()?,
            &measured,
            host_clock(self.nsm_time_ms, BootTime),
            Encoding::Indefinite,
        )?
        .trusting(state.tls_roots()?))
    }

    fn bind(&self) -> io::Result<UnixListener> {
        bind(&self.listen)
    }
}

/// What is told to whoever looks, when the enclave ends.
fn power_off(error: &enclave::Error) {
    say(&format!("powering off: {}: {error}", error.code()));
    std::process::exit(70);
}

/// The egress process of a development enclave: lines are lent at a Unix socket.
#[derive(Debug, Clone)]
pub struct DevEgress {
    /// The Unix socket to listen on.
    pub listen: PathBuf,
}

impl DevEgress {
    /// Runs until the enclave's process ends.
    pub fn run(&self) -> Result<(), Error> {
        let pipes = Pipes::take()?;
        let lines = LentLines::new(Listener::Unix(bind(&self.listen).map_err(io)?)).map_err(io)?;
        Ok(pipes.serve(lines)?)
    }
}

/// The process of a service of a development enclave: lines are lent at a Unix socket.
#[derive(Debug, Clone)]
pub struct DevService {
    /// The Unix socket to listen on.
    pub listen: PathBuf,
}

impl DevService {
    /// Runs until the enclave's process ends.
    pub fn run(&self) -> Result<(), Error> {
        let listen = |runtime: &_| upstream::Lines::unix(runtime, bind(&self.listen)?);
        Ok(be_service(listen, || Ok(()))?)
    }
}

/// The ingress process of a development enclave: agents' lines come to a Unix socket.
#[derive(Debug, Clone)]
pub struct DevIngress {
    /// The Unix socket to listen on.
    pub listen: PathBuf,
}

impl DevIngress {
    /// Runs until the enclave's process ends.
    pub fn run(&self) -> Result<(), Error> {
        let listen = |runtime: &_| upstream::Lines::unix(runtime, bind(&self.listen)?);
        Ok(be_ingress(listen, || Ok(()))?)
    }
}

/// Binds in a directory that only this user can enter; a socket left there by a dead enclave is
/// replaced.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn io(source: io::Error) -> Error {
    Error::Io {
        what: "development enclave".into(),
        source,
    }
}

/// The mock hypervisor's clock: it starts at this time, or at the host's, and counts with `boot`.
pub(crate) fn host_clock(start_ms: Option<u64>, boot: impl BootClock) -> crate::nsm::Clock {
    let start = Duration::from_millis(start_ms.unwrap_or_else(|| crate::state::now() * 1000));
    let booted = boot.now();
    Box::new(move || {
        let now = start + boot.now().saturating_sub(booted);
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
    })
}

fn say(text: &str) {
    let _ = writeln!(io::stderr(), "mock enclave: {text}");
}
