//! PID 1 of a development image. For everything else there is `anchorhold-dev`.

use std::process::ExitCode;

fn main() -> ExitCode {
    if enclave::boot::is_pid_1() {
        dev_guest::boot();
    }
    let about = "anchorhold-dev-enclave runs as PID 1 of a development image (MOCK), and takes no arguments.\n\
        Build the image with: anchorhold-eif build --dev -o signer-dev.eif\nBoot it with: anchorhold-dev qemu signer-dev.eif\n";
    dev_guest::elsewhere(about)
}
