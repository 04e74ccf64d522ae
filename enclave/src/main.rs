//! `anchorhold-enclave`: the program of the production image. It knows `/dev/nsm` and the AWS root,
//! and nothing else.

use std::process::ExitCode;

use enclave::boot::{self, Image};
use enclave::{NitroNsm, Parent};

/// On Nitro the parent has context id 3. Where the host is another hypervisor's, at 2, this image
/// will not serve; it says so there.
const IMAGE: Image = Image {
    name: "anchorhold-enclave",
    parent: Parent {
        cid: 3,
        ports_below: 1024,
    },
    notified: &[3, 2],
};

const ABOUT: &str = "anchorhold-enclave holds agents' signing keys. It runs as PID 1 of an AWS Nitro enclave image and nowhere \
    else; it takes no arguments.\nBuild the image with: anchorhold-eif build -o signer.eif\n";

fn main() -> ExitCode {
    if !boot::is_pid_1() {
        return boot::elsewhere(&IMAGE, ABOUT);
    }
    boot::run(&IMAGE, || Ok(NitroNsm::open()?))
}
