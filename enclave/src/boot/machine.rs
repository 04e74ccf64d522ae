//! What the machine must be like before there is a key: devices, randomness, memory.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::stdio::{dup2_stderr, dup2_stdout};

use crate::Error;

const HWRNG: &str = "/sys/class/misc/hw_random/rng_current";

/// `/dev` and `/sys`, for as long as something in them is opened. Nothing stays mounted.
pub(super) struct Mounts;

impl Mounts {
    pub(super) fn mount() -> Result<Self, Error> {
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        let mounted = Self;
        mount("devtmpfs", "/dev", "devtmpfs", flags, None).map_err(failed("mounting /dev"))?;
        mount(
            "sysfs",
            "/sys",
            "sysfs",
            flags | MountFlags::NODEV | MountFlags::RDONLY,
            None,
        )
        .map_err(failed("mounting /sys"))?;
        Ok(mounted)
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for place in ["/sys", "/dev"] {
            // What is still open in there stays open; nothing new can be opened.
            let _ = unmount(place, UnmountFlags::DETACH);
        }
    }
}

/// Takes a device away from everybody but root: the kernel makes `/dev/nsm` with mode 0666.
pub fn tighten_device(device: &str) -> Result<(), Error> {
    fs::set_permissions(device, Permissions::from_mode(0o600)).map_err(|error| Error::Boot {
        step: "tightening the NSM's device",
        why: error.to_string(),
    })
}

/// The kernel's pool is seeded, and fed by the NSM's generator if there is one.
pub(super) fn check_randomness(hwrng: Option<&str>) -> Result<(), Error> {
    if let Some(expected) = hwrng {
        let current = fs::read_to_string(Path::new(HWRNG)).unwrap_or_default();
        if current.trim() != expected {
            return Err(Error::HwrngUnexpected(current.trim().to_owned()));
        }
    }
    match getrandom(&mut [0_u8; 32][..], GetRandomFlags::NONBLOCK) {
        Ok(32) => Ok(()),
        _ => Err(Error::PoolNotSeeded),
    }
}

/// No core dumps, no tracing, and every page stays where it is from the first touch on.
pub fn lock_memory() -> Result<(), Error> {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    setrlimit(Resource::Memlock, unlimited)
        .map_err(failed("lifting the limit of locked memory"))?;
    forbid_dumps()?;
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .map_err(failed("locking memory"))
}

pub(super) fn forbid_dumps() -> Result<(), Error> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).map_err(failed("forbidding core dumps"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("forbidding core dumps"))
}

/// A console that nobody reads must not hold up the enclave: what it does not take is lost.
pub(super) fn quiet_console() {
    let stderr = std::io::stderr();
    if let Ok(flags) = fcntl_getfl(&stderr) {
        let _ = fcntl_setfl(&stderr, flags | OFlags::NONBLOCK);
    }
}

/// The console, once standard error is another file.
static CONSOLE: OnceLock<File> = OnceLock::new();

/// The console keeps a descriptor of its own, for [`console`]; standard output and standard error
/// go nowhere. Libraries write there with `eprintln!`, which panics where a full console takes
/// nothing.
pub fn part_from_console() -> Result<(), Error> {
    let io = |error: std::io::Error| Error::Boot {
        step: "parting from the console",
        why: error.to_string(),
    };
    let console = std::io::stderr().as_fd().try_clone_to_owned().map_err(io)?;
    let nowhere = File::options().write(true).open("/dev/null").map_err(io)?;
    dup2_stdout(&nowhere).map_err(failed("parting from the console"))?;
    dup2_stderr(&nowhere).map_err(failed("parting from the console"))?;
    CONSOLE.get_or_init(|| File::from(console));
    Ok(())
}

/// Writes to the console, if it takes it.
pub(super) fn console(text: &str) {
    let _ = match CONSOLE.get() {
        Some(mut console) => console.write_all(text.as_bytes()),
        None => std::io::stderr().write_all(text.as_bytes()),
    };
}

/// How much memory is in use, for the console.
pub(super) fn memory() -> String {
    let info = rustix::system::sysinfo();
    let unit = u64::from(info.mem_unit);
    let mib = |amount: u64| amount * unit / (1 << 20);
    let (total, free) = (mib(info.totalram), mib(info.freeram));
    format!("memory: {} of {total} MiB in use", total - free)
}

pub(super) fn failed(step: &'static str) -> impl Fn(Errno) -> Error {
    move |why| Error::Boot {
        step,
        why: why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_device_is_taken_away_from_everybody_but_root() {
        let file = std::env::temp_dir().join(format!("anchorhold-device-{}", std::process::id()));
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
        tighten_device(file.to_str().unwrap()).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        fs::remove_file(&file).unwrap();
        assert_eq!(
            tighten_device(file.to_str().unwrap()).unwrap_err().code(),
            "boot"
        );
    }

    #[test]
    fn randomness_that_is_not_the_nsms_makes_no_key() {
        assert!(
            !Path::new("/dev/nsm").exists(),
            "these tests run on ordinary machines"
        );
        assert!(matches!(
            check_randomness(Some("nsm-hwrng")),
            Err(Error::HwrngUnexpected(_))
        ));
        assert_eq!(check_randomness(None), Ok(()));
    }
}
