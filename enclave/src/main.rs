//! `anchorhold-enclave`: the program of the production image. It knows `/dev/nsm` and the AWS root, and nothing else.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use enclave::{BootTime, CLOCK_INTERVAL, Enclave, Error, Listener, Machine, NitroNsm, OsEntropy, serve};
use vsock::{VMADDR_CID_ANY, VsockListener};

/// Hold agents' signing keys inside a Nitro enclave.
///
/// Runs inside the enclave. It listens on a vsock port for the proxy (`anchorhold serve`), takes one policy bundle per boot,
/// commits to it in PCR16, and signs what that policy allows. Keys are ephemeral: they live as long as this process.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The vsock port to listen on
    #[arg(long, default_value_t = 5005)]
    port: u32,
    /// The parent's context id; nobody else is let in
    #[arg(long, default_value_t = 3)]
    parent_cid: u32,
}

/// sysexits(3): our own fault, or the machine's.
const EX_SOFTWARE: u8 = 70;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&why);
            ExitCode::from(EX_SOFTWARE)
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    // A thread that panicked would leave the others running without it.
    std::panic::set_hook(Box::new(|panic| {
        say(&format!("powering off: {panic}"));
        std::process::exit(i32::from(EX_SOFTWARE));
    }));
    let nsm = NitroNsm::open().map_err(|error| format!("/dev/nsm: {error}; this program runs inside a Nitro enclave"))?;
    let machine = Machine { nsm, boot_clock: Box::new(BootTime), entropy: Box::new(OsEntropy), power_off: Box::new(power_off) };
    let enclave = Arc::new(Enclave::boot(machine).map_err(|error| error.to_string())?);
    let clock = Arc::clone(&enclave);
    let ticking = move || {
        loop {
            std::thread::sleep(CLOCK_INTERVAL);
            if let Err(error) = clock.refresh_clock() {
                say(&format!("clock: {error}"));
            }
        }
    };
    std::thread::Builder::new().name("clock".into()).spawn(ticking).map_err(|error| error.to_string())?;
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, args.port).map_err(|error| error.to_string())?;
    serve(&enclave, &Listener::Vsock { listener, parent_cid: args.parent_cid }).map_err(|error| error.to_string())
}

/// The end of the process is the end of the enclave.
fn power_off(error: &Error) {
    say(&format!("powering off: {}: {error}", error.code()));
    std::process::exit(i32::from(EX_SOFTWARE));
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "anchorhold-enclave: {text}");
}
