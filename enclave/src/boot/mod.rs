//! From power-on to the window, as PID 1 of an enclave image.
//!
//! In this order, and any failure ends the machine with a typed reason: the egress process, the ingress process and those of
//! services, which are to hold nothing of what follows; the NSM's device alone in a
//! tightened `/dev`; its randomness in the kernel's pool; no way for libraries to the console; no
//! core dumps, memory locked; signals; the port; no privileges; no system calls but those on the
//! list. Only then does anything from outside come in: the enclave attests to itself, and serves.

mod child;
mod egress;
mod exit;
mod heartbeat;
mod ingress;
mod lockdown;
mod machine;
mod seccomp;
mod server;
mod services;
mod signals;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use policy::MAX_SERVICES;
use protocol::{EGRESS_PORT, INGRESS_PORT, SERVICE_PORT, WINDOW_PORT};
use vsock::{VMADDR_CID_ANY, VsockListener};

pub use egress::{EgressProcess, Pipes};
pub use exit::Exit;
pub use ingress::{be_ingress, start_ingress};
pub use lockdown::{
    EGRESS_USER, INGRESS_USER, NOBODY, SERVICE_USER, confine, confine_egress, confine_service,
    drop_privileges,
};
pub use machine::{lock_memory, part_from_console, tighten_device};
pub use seccomp::{ABSENT, ALLOWED, Allowed, EGRESS, SERVICE};
pub use services::{ServiceProcess, be_service};
pub use signals::reap;

use crate::transport::Parent;
use crate::{
    BootTime, CLOCK_INTERVAL, Enclave, Error, FromService, LentLines, Listener, Machine, Nsm,
    OsEntropy, serve,
};

/// Where the program is in an image, and what it is started with to be the egress process.
const PROGRAM: &str = "/init";
const EGRESS_ARGUMENT: &str = "egress";
/// The same, to be the ingress process.
const INGRESS_ARGUMENT: &str = "ingress";
/// The same, to be the process of the service of a place in the bundle.
const SERVICE_ARGUMENT: &str = "service";

/// What an image is started as.
#[derive(Debug, Clone, Copy)]
pub struct Image {
    /// Its name, on the console.
    pub name: &'static str,
    /// Who may come to the window.
    pub parent: Parent,
    /// The context ids of those who may be there to hear why the enclave ends; all are told.
    pub notified: &'static [u32],
}

/// Whether this process is PID 1: the only one of its machine, or of its container.
pub fn is_pid_1() -> bool {
    std::process::id() == 1
}

/// What a program that is PID 1 and nothing else says to whoever starts it otherwise: help, if that
/// was asked for.
pub fn about(text: &str) -> ExitCode {
    let asked = |argument: &OsString| argument == "--help" || argument == "-h";
    if std::env::args_os().skip(1).any(|argument| asked(&argument)) {
        let _ = std::io::stdout().write_all(text.as_bytes());
        return ExitCode::SUCCESS;
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
    // sysexits(3): wrong usage.
    ExitCode::from(64)
}

/// Boots as PID 1 and serves until the machine ends; never comes back.
pub fn run<N: Nsm>(image: &Image, open: impl FnOnce() -> Result<N, Error>) -> ! {
    let exit = Exit::new(image.name, image.notified);
    std::panic::set_hook(Box::new(move |panic| {
        exit.end("panicked", &panic.to_string())
    }));
    machine::quiet_console();
    match boot(image, exit, open) {
        Ok(()) => exit.end("window_failed", "the window is good for nothing any more"),
        Err(error) => exit.end(error.reason(), &error.to_string()),
    }
}

fn boot<N: Nsm>(
    image: &Image,
    exit: Exit,
    open: impl FnOnce() -> Result<N, Error>,
) -> Result<(), Error> {
    let (nsm, egress, ingress, services) = {
        let _mounted = machine::Mounts::mount()?;
        let egress = EgressProcess::start(Path::new(PROGRAM), &[EGRESS_ARGUMENT])?;
        let services = ServiceProcess::start(Path::new(PROGRAM), MAX_SERVICES, |place| {
            vec![SERVICE_ARGUMENT.into(), place.to_string()]
        })?;
        let ingress = start_ingress(Path::new(PROGRAM), &[INGRESS_ARGUMENT])?;
        exit.say("the egress process, the ingress process and those of services are confined");
        let nsm = open()?;
        machine::check_randomness(nsm.hwrng())?;
        part_from_console()?;
        (nsm, egress, ingress, services)
    };
    lock_memory()?;
    signals::block()?;
    let window = |error: std::io::Error| Error::Boot {
        step: "listening on the window's port",
        why: error.to_string(),
    };
    let listener =
        VsockListener::bind_with_cid_port(VMADDR_CID_ANY, WINDOW_PORT).map_err(window)?;
    drop_privileges(NOBODY)?;
    confine()?;
    // From here on, bytes of others are read.
    let thread = |error: std::io::Error| Error::Boot {
        step: "starting a thread",
        why: error.to_string(),
    };
    spawn("signals", move || signals::watch(exit)).map_err(thread)?;
    let parent = image.parent.cid;
    spawn("heartbeat", move || heartbeat::beat(parent)).map_err(thread)?;
    let power_off = move |error: &Error| exit.end(error.reason(), &error.to_string());
    let kms = egress.talk(nsm.tls_roots(), power_off)?;
    let (say, said) = FromService::channel();
    let talk = |(place, service): (usize, ServiceProcess)| service.talk(place, &say);
    let couriers = services.into_iter().enumerate().map(talk);
    let couriers = couriers.collect::<Result<_, _>>()?;
    let machine = Machine {
        nsm,
        boot_clock: Box::new(BootTime),
        entropy: Box::new(OsEntropy),
        kms: Box::new(kms),
        couriers,
        ingress: Some(Box::new(ingress)),
        power_off: Box::new(power_off),
    };
    let enclave = Arc::new(Enclave::boot(machine)?);
    enclave.attest_to_itself()?;
    let preparing = Arc::clone(&enclave);
    spawn("prepare", move || preparing.prepare()).map_err(thread)?;
    let hearing = Arc::clone(&enclave);
    spawn("services", move || hearing.hear(&said)).map_err(thread)?;
    let clock = Arc::clone(&enclave);
    spawn("clock", move || tick(&clock, exit)).map_err(thread)?;
    exit.say(&format!(
        "serving on vsock port {WINDOW_PORT}; {}",
        machine::memory()
    ));
    serve(
        &enclave,
        &Listener::Vsock {
            listener,
            parent: image.parent,
        },
    )
    .map_err(window)
}

/// What the same program is beside PID 1.
#[derive(Debug, Clone, Copy)]
enum Process {
    Egress,
    Ingress,
    /// Of the service of this place in the bundle.
    Service(u32),
}

impl Process {
    fn of(arguments: &[OsString]) -> Option<Self> {
        match arguments {
            [argument] if argument == EGRESS_ARGUMENT => Some(Self::Egress),
            [argument] if argument == INGRESS_ARGUMENT => Some(Self::Ingress),
            [argument, place] if argument == SERVICE_ARGUMENT => {
                Some(Self::Service(place.to_str()?.parse().ok()?))
            }
            _ => None,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Egress => "egress".into(),
            Self::Ingress => "ingress".into(),
            Self::Service(place) => format!("service {place}"),
        }
    }
}

/// What PID 1 does if it is started as anything else: one of its other processes, if it is asked to be
/// that; otherwise it says what it is.
pub fn elsewhere(image: &Image, about_text: &str) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some(process) = Process::of(&arguments) else {
        return about(about_text);
    };
    let exit = Exit::new(image.name, &[]);
    std::panic::set_hook(Box::new(move |panic| {
        exit.end("panicked", &format!("{}: {panic}", process.name()))
    }));
    let done = match process {
        Process::Egress => be_egress(image),
        Process::Ingress => be_ingress_of(image),
        Process::Service(place) => be_service_of(image, place),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit.end(error.reason(), &format!("{}: {error}", process.name())),
    }
}

/// The egress process of an image: it ends when the other one has.
fn be_egress(image: &Image) -> Result<(), Error> {
    let pipes = Pipes::take()?;
    let port = |error: std::io::Error| Error::Boot {
        step: "listening on the port for lines",
        why: error.to_string(),
    };
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, EGRESS_PORT).map_err(port)?;
    let lines = LentLines::new(Listener::Vsock {
        listener,
        parent: image.parent,
    })
    .map_err(port)?;
    drop_privileges(EGRESS_USER)?;
    pipes.serve(lines)
}

/// The process of a service of an image: it ends when the one with the keys has.
fn be_service_of(image: &Image, place: u32) -> Result<(), Error> {
    let Parent { cid, ports_below } = image.parent;
    let port = SERVICE_PORT.saturating_add(place);
    be_service(
        |runtime| upstream::Lines::vsock(runtime, port, cid, ports_below),
        || drop_privileges(SERVICE_USER.saturating_add(place)),
    )
}

/// The ingress process of an image: it ends when the one with the keys has.
fn be_ingress_of(image: &Image) -> Result<(), Error> {
    let Parent { cid, ports_below } = image.parent;
    be_ingress(
        |runtime| upstream::Lines::vsock(runtime, INGRESS_PORT, cid, ports_below),
        || drop_privileges(INGRESS_USER),
    )
}

fn tick<N: Nsm>(enclave: &Enclave<N>, exit: Exit) {
    loop {
        thread::sleep(CLOCK_INTERVAL);
        if let Err(error) = enclave.refresh_clock() {
            exit.say(&format!("clock: {error}"));
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(|_| ())
}
