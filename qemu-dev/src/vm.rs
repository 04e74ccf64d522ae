//! A virtual machine that boots an enclave image: QEMU, the vsock device beside it, the mock NSM
//! behind it.

use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dev_guest::wire::MOCK_NSM_PORT;
use eif::Image;
use protocol::{Endpoint, WINDOW_PORT};
use rustix::process::Signal;

use crate::nsm::MockNsm;
use crate::{Child, Error, Program, host};

/// How the image is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum VmMachine {
    /// Any QEMU: kernel, command line and ramdisks are taken out of the image; the mock NSM alone
    /// stands for the NSM
    Microvm,
    /// A QEMU built with libcbor: it reads the image itself and has a /dev/nsm; only signatures
    /// come from the mock
    NitroEnclave,
}

impl VmMachine {
    fn name(self) -> &'static str {
        match self {
            Self::Microvm => "microvm",
            Self::NitroEnclave => "nitro-enclave",
        }
    }
}

/// What the machine is made of.
pub(crate) struct Setup<'a> {
    pub(crate) program: &'a Program,
    pub(crate) qemu: PathBuf,
    pub(crate) vhost: PathBuf,
    pub(crate) machine: VmMachine,
    pub(crate) memory_mib: u32,
    /// Private to this run: sockets and the parts of the image.
    pub(crate) folder: &'a Path,
    pub(crate) image: &'a [u8],
    pub(crate) nsm: MockNsm,
}

/// A running machine; it ends with this value.
pub(crate) struct Vm {
    qemu: Child,
    vhost: Child,
    sockets: [PathBuf; 4],
}

/// Where the window of a machine in `folder` is.
pub(crate) fn endpoint(folder: &Path) -> Endpoint {
    Endpoint::HybridVsock {
        path: folder.join("v.sock"),
        port: WINDOW_PORT,
    }
}

const VHOST_TIMEOUT: Duration = Duration::from_secs(10);
/// What may be on its way from the machine on one connection, in bytes. Linux sends more than 32 KiB in
/// several pieces of memory, and vhost-device-vsock 0.3.0 drops such a packet without a word: the
/// connection would wait for ever.
const TX_BUFFER: usize = 24 * 1024;
/// Lines of the console that wait for a reader; more are dropped.
const CONSOLE_LINES: usize = 1024;
const MAX_LINE: u64 = 1024;

impl Vm {
    /// Starts everything. Of what stands in `folder` from a run that was killed, nothing is used.
    pub(crate) fn start(setup: Setup<'_>) -> Result<Self, Error> {
        let at = |name: &str| setup.folder.join(name);
        let sockets = [
            at("vhost.sock"),
            at("v.sock"),
            at(&format!("v.sock_{MOCK_NSM_PORT}")),
            at("image.eif"),
        ];
        remove(&sockets);
        serve_nsm(&sockets[2], setup.nsm)?;
        let mut command = Command::new(&setup.vhost);
        command.arg("--vm").arg(format!(
            "guest-cid=4,socket={},uds-path={},tx-buffer-size={TX_BUFFER}",
            sockets[0].display(),
            sockets[1].display()
        ));
        let log = at("vhost.log");
        let mut vhost = Child::start(
            "vhost-device-vsock",
            setup.program.ending_with_this(&command),
            Some(&log),
        )?;
        let deadline = Instant::now() + VHOST_TIMEOUT;
        while !sockets[0].exists() {
            if let Some(status) = vhost.ended() {
                return Err(Error::Process(format!(
                    "vhost-device-vsock ended ({status}); see {}",
                    log.display()
                )));
            }
            if Instant::now() > deadline {
                return Err(Error::Process("vhost-device-vsock does not listen".into()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut command = Command::new(&setup.qemu);
        add_arguments(
            &mut command,
            setup.machine,
            setup.memory_mib,
            setup.folder,
            setup.image,
        )?;
        let mut qemu = Child::start_with(
            "QEMU",
            setup.program.ending_with_this(&command),
            console_input(),
            Stdio::piped(),
            Stdio::from(fs::File::create(at("qemu.log")).map_err(io(&at("qemu.log")))?),
        )?;
        if let Some(console) = qemu.take_stdout() {
            show(console);
        }
        Ok(Self {
            qemu,
            vhost,
            sockets,
        })
    }

    /// Whether one of the processes has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<(&'static str, std::process::ExitStatus)> {
        let qemu = self.qemu.ended().map(|status| ("QEMU", status));
        qemu.or_else(|| {
            self.vhost
                .ended()
                .map(|status| ("vhost-device-vsock", status))
        })
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.qemu.signal(Signal::KILL);
        let _ = self.qemu.kill();
        let _ = self.vhost.kill();
        remove(&self.sockets);
    }
}

fn remove(files: &[PathBuf]) {
    for file in files {
        let _ = fs::remove_file(file);
    }
}

fn add_arguments(
    command: &mut Command,
    machine: VmMachine,
    memory: u32,
    folder: &Path,
    image: &[u8],
) -> Result<(), Error> {
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.join(name);
        fs::write(&file, bytes).map_err(io(&file)).map(|()| file)
    };
    let vhost = format!(
        "socket,id=vsock,path={}",
        folder.join("vhost.sock").display()
    );
    command.args([
        "-cpu",
        "max",
        "-m",
        &format!("{memory}M"),
        "-display",
        "none",
        "-monitor",
        "none",
        "-serial",
        "stdio",
    ]);
    command.args(["-nodefaults", "-no-reboot", "-chardev", &vhost]);
    match machine {
        VmMachine::Microvm => {
            let image = Image::parse(image)?;
            let cmdline = image.parts()?.cmdline.to_owned();
            let options =
                "microvm,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on,accel=tcg,memory-backend=mem";
            command
                .args(["-M", options])
                .arg("-kernel")
                .arg(write("kernel", image.kernel)?);
            command
                .arg("-initrd")
                .arg(write("ramdisk", &image.ramdisks.concat())?)
                .arg("-append")
                .arg(cmdline);
            command.args([
                "-object",
                &format!("memory-backend-memfd,id=mem,size={memory}M,share=on"),
            ]);
            command.args(["-device", "vhost-user-vsock-device,chardev=vsock"]);
        }
        VmMachine::NitroEnclave => {
            command
                .args(["-M", "nitro-enclave,vsock=vsock,id=anchorhold,accel=tcg"])
                .arg("-kernel")
                .arg(write("image.eif", image)?);
        }
    }
    // Firmware of Debian's packages, for a QEMU that was built elsewhere.
    for folder in ["/usr/share/qemu", "/usr/share/seabios"] {
        if Path::new(folder).is_dir() {
            command.args(["-L", folder]);
        }
    }
    Ok(())
}

/// Whether this QEMU knows the machine; [`Error::State`] says what to do if not.
pub(crate) fn check_machine(qemu: &Path, machine: VmMachine) -> Result<(), Error> {
    let output = Command::new(qemu)
        .args(["-M", "help"])
        .output()
        .map_err(io(qemu))?;
    let known = String::from_utf8_lossy(&output.stdout);
    if known
        .lines()
        .any(|line| line.split_whitespace().next() == Some(machine.name()))
    {
        return Ok(());
    }
    Err(Error::State(format!(
        "{} has no machine named {}; QEMU has it from 9.2 on, if it was built with libcbor (Debian's is not)",
        qemu.display(),
        machine.name()
    )))
}

/// The console's input: what this program is given, but a terminal stays with its user.
fn console_input() -> Stdio {
    if std::io::stdin().is_terminal() {
        Stdio::null()
    } else {
        Stdio::inherit()
    }
}

/// Shows the console, line by line, on standard output. A terminal that does not read it does not hold up
/// the machine; what the console says cannot command a terminal.
fn show(console: impl Read + Send + 'static) {
    let (lines, waiting) = sync_channel::<String>(CONSOLE_LINES);
    std::thread::spawn(move || read_lines(BufReader::new(console), &lines));
    std::thread::spawn(move || {
        for line in waiting {
            if writeln!(std::io::stdout(), "enclave | {line}").is_err() {
                return;
            }
        }
    });
}

fn read_lines(mut console: impl BufRead, lines: &SyncSender<String>) {
    let mut line = Vec::new();
    while console
        .by_ref()
        .take(MAX_LINE)
        .read_until(b'\n', &mut line)
        .is_ok_and(|read| read > 0)
    {
        let text = String::from_utf8_lossy(&line);
        let printable: String = text
            .trim_end()
            .chars()
            .map(|c| if c.is_control() { '.' } else { c })
            .collect();
        let _ = lines.try_send(printable);
        line.clear();
    }
}

/// Plays the hypervisor's NSM for one boot.
fn serve_nsm(socket: &Path, nsm: MockNsm) -> Result<(), Error> {
    let listener = UnixListener::bind(socket).map_err(io(socket))?;
    let nsm = Arc::new(Mutex::new(nsm));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (nsm, mut stream) = (Arc::clone(&nsm), stream);
            // The end of the guest is the end of its channel, and nobody's concern.
            std::thread::spawn(move || host::answer(&mut stream, &nsm));
        }
    });
    Ok(())
}

fn io(file: &Path) -> impl Fn(std::io::Error) -> Error + use<> {
    let what = file.display().to_string();
    move |source| Error::Io {
        what: what.clone(),
        source,
    }
}
