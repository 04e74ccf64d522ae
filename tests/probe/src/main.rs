//! A program that does what the enclave must not.
//!
//! `anchorhold-probe call N` makes system call N within the enclave's filter; `argument NAME` one
//! on the list with an argument that is not (`egress-call` and `egress-argument` within that of the
//! egress process, `service-call` and `service-argument` within that of the process of a service); `thread` starts a thread; `memory` locks memory and
//! `privileges` drops privileges, and both show what is left; `console` parts from the console, and
//! writes where it was. As PID 1 of an image it panics; with `probe=panic` on the kernel's command
//! line it does so after the boot, within the filter, and with `probe=execve` it tries to start a
//! program there.

use enclave::boot::{self, Image};
use enclave::{Nsm, NsmError, Parent};

const IMAGE: Image = Image {
    name: "anchorhold-probe",
    parent: Parent {
        cid: 2,
        ports_below: u32::MAX,
    },
    notified: &[2],
};

/// Within the filter of the egress process, or of that of a service.
fn confine(process: &str) {
    let confined = match process.starts_with("egress") {
        true => boot::confine_egress(),
        false => boot::confine_service(),
    };
    confined.expect("the filter");
}

fn main() {
    if boot::is_pid_1() {
        let what = std::env::var("probe").unwrap_or_default();
        boot::run(&IMAGE, || {
            if what.is_empty() {
                panic!("a probe panics on purpose")
            } else {
                Ok(Runaway { what })
            }
        });
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        // What its PID 1 starts first.
        ["egress"] | ["ingress"] | ["service", _] => drop(boot::elsewhere(&IMAGE, "")),
        [process @ ("egress-call" | "service-call"), number] => {
            let number = number.parse().expect("a number");
            confine(process);
            call(number, [0; 6]);
        }
        [process @ ("egress-argument" | "service-argument"), name] => {
            confine(process);
            match *name {
                "mmap-exec" => call(
                    libc::SYS_mmap,
                    [
                        0,
                        4096,
                        i64::from(libc::PROT_READ | libc::PROT_EXEC),
                        0x22,
                        -1,
                        0,
                    ],
                ),
                "mprotect-exec" => call(
                    libc::SYS_mprotect,
                    [0, 4096, i64::from(libc::PROT_EXEC), 0, 0, 0],
                ),
                "ioctl" => call(libc::SYS_ioctl, [1, 0x5401, 0, 0, 0, 0]),
                "fcntl-dup" => call(
                    libc::SYS_fcntl,
                    [0, i64::from(libc::F_DUPFD_CLOEXEC), 0, 0, 0, 0],
                ),
                other => panic!("{other}"),
            }
        }
        ["call", number] => {
            let number = number.parse().expect("a number");
            boot::confine().expect("the filter");
            call(number, [0; 6]);
        }
        ["argument", name] => {
            boot::confine().expect("the filter");
            match *name {
                "socket-inet" => call(libc::SYS_socket, [i64::from(libc::AF_INET), 1, 0, 0, 0, 0]),
                "socket-unix" => call(libc::SYS_socket, [i64::from(libc::AF_UNIX), 1, 0, 0, 0, 0]),
                "open" => {
                    let path = c"/etc/passwd".as_ptr() as i64;
                    call(
                        libc::SYS_openat,
                        [i64::from(libc::AT_FDCWD), path, 0, 0, 0, 0],
                    );
                }
                "ioctl" => call(libc::SYS_ioctl, [1, 0x5401, 0, 0, 0, 0]),
                "mmap-exec" => call(
                    libc::SYS_mmap,
                    [
                        0,
                        4096,
                        i64::from(libc::PROT_READ | libc::PROT_EXEC),
                        0x22,
                        -1,
                        0,
                    ],
                ),
                "mprotect-exec" => call(
                    libc::SYS_mprotect,
                    [0, 4096, i64::from(libc::PROT_EXEC), 0, 0, 0],
                ),
                "fork" => call(libc::SYS_clone, [i64::from(libc::SIGCHLD), 0, 0, 0, 0, 0]),
                "prctl" => call(
                    libc::SYS_prctl,
                    [i64::from(libc::PR_SET_DUMPABLE), 1, 0, 0, 0, 0],
                ),
                other => panic!("{other}"),
            }
        }
        ["thread"] => {
            boot::confine().expect("the filter");
            assert_eq!(std::thread::spawn(|| 7).join().expect("a thread"), 7);
        }
        ["memory"] => {
            boot::lock_memory().expect("root locks memory");
            let status = std::fs::read_to_string("/proc/self/status").expect("status");
            let limits = std::fs::read_to_string("/proc/self/limits").expect("limits");
            // SAFETY: it takes and gives no memory.
            let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE) };
            let shown = status.lines().filter(|line| line.starts_with("VmLck:"));
            let core = limits
                .lines()
                .filter(|line| line.starts_with("Max core file size"));
            println!(
                "{}\ndumpable: {dumpable}",
                shown.chain(core).collect::<Vec<_>>().join("\n")
            );
        }
        ["console"] => {
            // As a library would, and as the enclave does.
            boot::part_from_console().expect("/dev/null");
            println!("lost");
            eprintln!("lost");
            boot::Exit::new("probe", &[]).say("kept");
            print!("lost");
            eprint!("lost");
        }
        ["privileges"] => {
            boot::drop_privileges(boot::NOBODY).expect("root drops privileges");
            // SAFETY: it takes and gives no memory.
            let again = unsafe { libc::setuid(0) };
            let text = std::fs::read_to_string("/proc/thread-self/status").expect("status");
            let shown = text.lines().filter(|line| {
                ["Uid:", "Gid:", "Groups:", "CapEff:", "CapPrm:"]
                    .iter()
                    .any(|name| line.starts_with(name))
            });
            println!(
                "{}\nsetuid(0): {again}",
                shown.collect::<Vec<_>>().join("\n")
            );
        }
        _ => panic!("call N, argument NAME, thread, memory, console or privileges"),
    }
}

fn call(number: i64, a: [i64; 6]) {
    // SAFETY: none: whatever it does, it does to this process, which exists for nothing else.
    let result = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    println!("{result}");
}

/// What faulty or hostile code inside the enclave would do.
struct Runaway {
    what: String,
}

impl Nsm for Runaway {
    const TEE: identity::Tee = identity::Tee::Mock;

    fn attest(
        &mut self,
        _: Option<&[u8]>,
        _: Option<&[u8]>,
        _: Option<&[u8]>,
    ) -> Result<Vec<u8>, NsmError> {
        if self.what == "panic" {
            // An option that takes a privilege, by a call that is on the list: what the kernel says
            // shows who we are.
            let size: libc::c_int = 4096;
            // SAFETY: it makes a socket, and takes no memory.
            let socket = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0) };
            // SAFETY: the option's value is an int that outlives the call.
            let set = unsafe {
                libc::setsockopt(
                    socket,
                    libc::SOL_SOCKET,
                    libc::SO_RCVBUFFORCE,
                    (&raw const size).cast(),
                    4,
                )
            };
            let why = std::io::Error::last_os_error().raw_os_error();
            panic!(
                "on purpose, as nobody: {}",
                set == -1 && why == Some(libc::EPERM)
            );
        }
        let started = std::process::Command::new("/init").status();
        // A panic is what still comes to the console.
        panic!("started a program: {started:?}")
    }

    fn extend_pcr(&mut self, _: u16, _: &[u8]) -> Result<identity::Pcr, NsmError> {
        Err(NsmError::Nonsense)
    }

    fn lock_pcrs(&mut self, _: u16) -> Result<(), NsmError> {
        Err(NsmError::Nonsense)
    }

    fn random(&mut self, _: &mut [u8]) -> Result<(), NsmError> {
        Err(NsmError::Nonsense)
    }

    fn hwrng(&self) -> Option<&'static str> {
        None
    }

    fn verify_own(&self, _: &[u8]) -> Result<attestation::Document, attestation::Error> {
        Err(attestation::Error::DebugMode)
    }

    fn peers(&self) -> enclave::PeerVerifier {
        Box::new(|_, _| Err(attestation::Error::NotDebugMode))
    }
}
