//! What can be seen of the peer of a Unix socket, in an order that leaves no gap between looking
//! and believing.
//!
//! The kernel's snapshot of connect(2) comes first: uid, gid, pidfd. Everything under `/proc` comes
//! after it, and is believed only if the process still lives when all has been read.
//! docs/callers.md says what each attribute is worth.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use identity::Digest;
use identity::caller::ObservedCaller;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags, openat, readlinkat, statat};
use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, capabilities};
use sha2::{Digest as _, Sha256};
use tokio::net::UnixStream;
use tracing::debug;
use uds::UnixStreamExt;

use crate::turned_away::TurnedAway;

/// Larger executables are not measured.
const MAX_EXECUTABLE: u64 = 512 << 20;
/// Digests that are kept.
const MAX_CACHED: usize = 256;
/// Bytes of a security label.
const MAX_LABEL: usize = 255;
/// Files under `/proc` that are read here are short.
const MAX_PROC: u64 = 64 * 1024;
/// All but a process's mounts, of which a machine with many containers has thousands.
const MAX_MOUNTS: u64 = 8 << 20;

/// Looks at peers, and remembers executables that could not have changed.
#[derive(Debug, Default)]
pub struct Inspector<L = KernelLabels> {
    digests: Mutex<BTreeMap<Version, Digest<32>>>,
    labels: L,
}

/// A version of a file's content: device, inode, change time, size.
type Version = (u64, u64, i64, i64, u64);

/// The process that connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connected {
    /// As this process sees it.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

impl Connected {
    /// SO_PEERCRED: the process that called connect(2), with its effective ids of that moment.
    pub fn of(stream: &UnixStream) -> Result<Self, TurnedAway> {
        let peer = stream.peer_cred().map_err(|_| TurnedAway::CallerUnknown)?;
        Self::seen(peer.pid(), peer.uid(), peer.gid()).ok_or(TurnedAway::CallerUnknown)
    }

    /// The overflow ids stand for "cannot be named here"; a pid of 0 is one that cannot be seen from
    /// here.
    fn seen(pid: Option<i32>, uid: u32, gid: u32) -> Option<Self> {
        let pid = pid.filter(|pid| *pid > 0)?;
        (![uid, gid].contains(&OVERFLOW_ID)).then_some(Self { pid, uid, gid })
    }
}

/// Where the Linux security module (LSM) names a caller: on its socket, and in its process.
pub trait Labels {
    /// What it says of the one who connected, as bytes; nothing if there is no such module.
    fn of_peer(&self, stream: BorrowedFd<'_>) -> Option<Vec<u8>>;

    /// What it says of a process now. `folder` is the process' directory of `/proc`.
    fn of_process(&self, folder: BorrowedFd<'_>) -> Option<Vec<u8>>;
}

/// The module of the running kernel.
#[derive(Debug, Default)]
pub struct KernelLabels;

impl Labels for KernelLabels {
    /// SO_PEERSEC. Where no module answers, some kernels say that all of the buffer was filled, and
    /// leave it as it was: zeros.
    fn of_peer(&self, stream: BorrowedFd<'_>) -> Option<Vec<u8>> {
        let stream = std::os::unix::net::UnixStream::from(stream.try_clone_to_owned().ok()?);
        let mut label = vec![0; MAX_LABEL];
        let length = stream.initial_peer_selinux_context(&mut label).ok()?;
        label.get(..length).map(<[u8]>::to_vec)
    }

    fn of_process(&self, folder: BorrowedFd<'_>) -> Option<Vec<u8>> {
        read_at(folder, "attr/current", MAX_PROC)
    }
}

/// The label of a caller: what the module says of its socket, if it says the same of its process. A
/// socket can be made under one label and used under another.
fn label(of_peer: Option<Vec<u8>>, of_process: Option<Vec<u8>>) -> Option<String> {
    let (of_peer, of_process) = (of_peer?, of_process?);
    let label = label_text(&of_peer)?;
    (label_text(&of_process) == Some(label)).then(|| label.to_owned())
}

/// A label without the ends that modules put behind it: the end of a C string, of a line. One that
/// is empty, too long or no plain text is none.
fn label_text(bytes: &[u8]) -> Option<&str> {
    let label = std::str::from_utf8(bytes)
        .ok()?
        .trim_end_matches(['\0', '\n']);
    let plain = (1..=MAX_LABEL).contains(&label.len()) && !label.chars().any(char::is_control);
    plain.then_some(label)
}

/// User and group id that stand for "cannot be named here" (user_namespaces(7)).
const OVERFLOW_ID: u32 = 65534;

impl<L: Labels> Inspector<L> {
    /// Sees what there is to see. `measure`: whether the executable matters to anybody. What cannot
    /// be seen is left out; a process that is gone is turned away.
    pub fn see(
        &self,
        stream: &impl AsFd,
        peer: Connected,
        socket: Option<&str>,
        measure: bool,
    ) -> Result<ObservedCaller, TurnedAway> {
        let mut seen = ObservedCaller {
            socket: socket.map(str::to_owned),
            ..ObservedCaller::ids(peer.uid, peer.gid)
        };
        // Without a pidfd (before Linux 6.5) nothing under /proc is certain to be of this process.
        let Ok(pidfd) = getsockopt(stream, sockopt::PeerPidfd) else {
            return Ok(seen);
        };
        let process = Process::open(peer.pid);
        if let Ok(process) = &process {
            (seen.unit, seen.pod, seen.container) = process.cgroup();
            seen.label = label(
                self.labels.of_peer(stream.as_fd()),
                self.labels.of_process(process.folder.as_fd()),
            );
            if measure {
                seen.executable = self.executable(process, peer);
            }
        }
        // Its number cannot have been given to another process while this one was alive.
        if lives(pidfd.as_fd()) {
            Ok(seen)
        } else {
            Err(TurnedAway::CallerGone)
        }
    }

    /// The digest of what the process runs, if that says anything: not of an interpreter, not of a
    /// file that the caller could write, not of one whose file system may show other bytes than it
    /// runs, not if it is traced, not from another user namespace, where what a process seems to
    /// run is its own choice.
    fn executable(&self, process: &Process, peer: Connected) -> Option<Digest<32>> {
        let why = match self.measured(process, peer) {
            Ok(digest) => return Some(digest),
            Err(why) => why,
        };
        debug!(
            pid = peer.pid,
            why, "the caller's executable was not measured"
        );
        None
    }

    fn measured(&self, process: &Process, peer: Connected) -> Result<Digest<32>, &'static str> {
        if !process.is_in_our_user_namespace() {
            return Err("another user namespace, or one that cannot be seen");
        }
        if process.is_traced() {
            return Err("traced");
        }
        let path = readlinkat(&process.folder, "exe", Vec::new())
            .map_err(|_| "its path cannot be seen")?;
        if is_interpreter(path.to_bytes()) {
            return Err("an interpreter: pin uid, unit, container or socket instead");
        }
        let running = process.running().ok_or("it cannot be looked at")?;
        let kind = process
            .file_system(running.mount)
            .ok_or("its file system is none that the caller's own view has")?;
        if !is_local(&kind) {
            return Err("its file system may show other bytes than it runs");
        }
        let mut file = running.open().map_err(|_| "it cannot be opened")?;
        let metadata = file.metadata().map_err(|_| "it cannot be looked at")?;
        if !metadata.is_file() || metadata.len() > MAX_EXECUTABLE {
            return Err("no file, or too large a one");
        }
        let foreign = peer.uid != 0 && metadata.uid() == peer.uid;
        if foreign || metadata.mode() & 0o022 != 0 {
            return Err("the caller could write to it");
        }
        let version = (
            metadata.dev(),
            metadata.ino(),
            metadata.ctime(),
            metadata.ctime_nsec(),
            metadata.len(),
        );
        // Only root could change it, and not without a new change time.
        let guarded = metadata.uid() == 0;
        let known = if guarded {
            self.digests().get(&version).copied()
        } else {
            None
        };
        let digest = match known {
            Some(digest) => digest,
            None => sha256_of(&mut file, metadata.len())?,
        };
        let again = process.running().ok_or("it is gone")?;
        if (again.mount, again.inode) != (running.mount, running.inode) {
            return Err("it changed while it was read");
        }
        if guarded {
            let mut digests = self.digests();
            if digests.len() >= MAX_CACHED {
                digests.clear();
            }
            digests.insert(version, digest);
        }
        Ok(digest)
    }

    fn digests(&self) -> std::sync::MutexGuard<'_, BTreeMap<Version, Digest<32>>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a process runs, by mount and inode. The kernel alone is asked for them: a file system may
/// be a program of the caller's, which answers what it likes, or never.
struct Running {
    file: OwnedFd,
    mount: u64,
    inode: u64,
}

impl Running {
    fn open(&self) -> std::io::Result<File> {
        File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// A directory of `/proc`, which stays that of one process even when its number is given away.
struct Process {
    folder: OwnedFd,
}

impl Process {
    fn open(pid: i32) -> rustix::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty())?;
        Ok(Self { folder })
    }

    fn read(&self, name: &str) -> Option<String> {
        self.read_up_to(name, MAX_PROC)
    }

    fn read_up_to(&self, name: &str, most: u64) -> Option<String> {
        String::from_utf8(read_at(self.folder.as_fd(), name, most)?).ok()
    }

    fn running(&self) -> Option<Running> {
        let file = openat(
            &self.folder,
            "exe",
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .ok()?;
        let info =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
        let number = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        Some(Running {
            file,
            mount: number("mnt_id:")?,
            inode: number("ino:")?,
        })
    }

    /// The type of a mount that the process has in its own view. A mount of another one is none:
    /// within a user namespace anybody may mount.
    fn file_system(&self, mount: u64) -> Option<String> {
        file_system_of(&self.read_up_to("mountinfo", MAX_MOUNTS)?, mount)
    }

    fn is_in_our_user_namespace(&self) -> bool {
        let theirs = statat(&self.folder, "ns/user", AtFlags::empty());
        let ours = rustix::fs::stat("/proc/self/ns/user");
        matches!((theirs, ours), (Ok(theirs), Ok(ours)) if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino))
    }

    fn is_traced(&self) -> bool {
        let status = self.read("status").unwrap_or_default();
        status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"))
            .is_none_or(|tracer| tracer.trim() != "0")
    }

    /// systemd unit, pod uid, container id.
    fn cgroup(&self) -> (Option<String>, Option<String>, Option<String>) {
        self.read("cgroup")
            .map(|text| of_cgroup(&text))
            .unwrap_or_default()
    }
}

/// A short file of `/proc`.
fn read_at(folder: BorrowedFd<'_>, name: &str, most: u64) -> Option<Vec<u8>> {
    // To read, which is no flag.
    let opened = openat(folder, name, OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    File::from(opened).take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn lives(pidfd: BorrowedFd<'_>) -> bool {
    // A pidfd becomes readable when its process ends (pidfd_open(2)).
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    matches!(
        poll(
            &mut fds,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0
            })
        ),
        Ok(0)
    )
}

/// SHA-256 of a file that has `length` bytes and no more: what an annex names an executable by.
pub fn sha256_of(file: &mut File, length: u64) -> Result<Digest<32>, &'static str> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 256 * 1024];
    let mut left = length + 1;
    loop {
        // Of what is longer, one byte more; then nothing.
        let read = file
            .by_ref()
            .take(left)
            .read(&mut chunk)
            .map_err(|_| "it cannot be read")?;
        if read == 0 {
            break;
        }
        hash.update(&chunk[..read]);
        left -= read as u64;
    }
    if left == 1 {
        Ok(Digest(hash.finalize().into()))
    } else {
        Err("its size changed while it was read")
    }
}

/// The type of a mount in the lines of `/proc/<pid>/mountinfo` (proc_pid_mountinfo(5)). White space
/// within a field is escaped there.
fn file_system_of(mounts: &str, mount: u64) -> Option<String> {
    let mount = mount.to_string();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').next() == Some(&mount))?;
    // Six fields, some optional ones, a hyphen, the type.
    line.split(' ')
        .skip(6)
        .skip_while(|field| *field != "-")
        .nth(1)
        .map(str::to_owned)
}

/// Whether the bytes of such a file system are the kernel's affair, and so are the same for anybody who
/// runs or reads them. Whatever is not listed is not: FUSE and virtiofs ask a program for them each
/// time, network file systems a server, and what comes next is unknown.
fn is_local(kind: &str) -> bool {
    const KINDS: [&str; 16] = [
        "ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "f2fs", "zfs", "jfs", "tmpfs", "ramfs",
        "rootfs", "overlay", "squashfs", "erofs", "iso9660",
    ];
    KINDS.contains(&kind)
}

/// Unit, pod and container of the lines of `/proc/<pid>/cgroup` (cgroups(7)). The outermost unit
/// counts: what lies below it can be named by programs that run in it. Lines that contradict each other
/// say nothing.
fn of_cgroup(text: &str) -> (Option<String>, Option<String>, Option<String>) {
    let paths: Vec<&str> = text
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .filter(|path| *path != "/")
        .collect();
    let unit = agreed(paths.iter().filter_map(|path| unit(path)));
    let pod = agreed(
        paths
            .iter()
            .flat_map(|path| of_the_system(path).filter_map(pod_uid)),
    );
    let container = agreed(
        paths
            .iter()
            .flat_map(|path| of_the_system(path).filter_map(container_id)),
    );
    (unit, pod, container)
}

/// The parts of a path down to the outermost unit. What lies below a unit, or below `user.slice`,
/// is named by programs that run there: any user may make folders in what systemd delegated to it.
fn of_the_system(path: &str) -> impl Iterator<Item = &str> {
    let mut ended = path
        .split('/')
        .any(|part| part == ".." || part == "user.slice");
    path.split('/').take_while(move |part| {
        let goes_on = !ended;
        ended |= is_unit(part);
        goes_on
    })
}

fn is_unit(part: &str) -> bool {
    part.ends_with(".service") || part.ends_with(".scope")
}

fn agreed(mut found: impl Iterator<Item = String>) -> Option<String> {
    let first = found.next()?;
    if found.all(|other| other == first) {
        Some(first)
    } else {
        None
    }
}

fn unit(path: &str) -> Option<String> {
    if path.split('/').any(|part| part == "..") {
        return None;
    }
    path.split('/')
        .find(|part| is_unit(part))
        .filter(|part| part.len() <= 255)
        .map(str::to_owned)
}

/// `pod` and a UUID, with `_` for `-` where systemd made the cgroup.
fn pod_uid(part: &str) -> Option<String> {
    let from = part.rfind("pod")? + 3;
    let uid = part.get(from..from + 36)?.replace('_', "-");
    let end = part.get(from + 36..)?;
    let whole = end.is_empty() || end.starts_with('.');
    let shaped = uid.bytes().enumerate().all(|(at, b)| match at {
        8 | 13 | 18 | 23 => b == b'-',
        _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
    });
    (whole && shaped).then_some(uid)
}

/// 64 hex digits, alone or after a runtime's name and before `.scope`.
fn container_id(part: &str) -> Option<String> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let id = part.get(part.len().checked_sub(64)?..)?;
    let before = &part[..part.len() - 64];
    let bounded = before.is_empty() || before.ends_with('-') || before.ends_with(':');
    let hex = id
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (bounded && hex).then(|| id.to_owned())
}

/// Whether a program runs whatever its arguments name, so that its own digest says nothing of what
/// it does.
pub fn is_interpreter(path: &[u8]) -> bool {
    const NAMES: [&str; 31] = [
        "python", "pypy", "node", "nodejs", "deno", "bun", "bash", "sh", "dash", "ash", "zsh",
        "ksh", "fish", "busybox", "toybox", "perl", "ruby", "php", "lua", "java", "dotnet", "mono",
        "tclsh", "wish", "guile", "Rscript", "erl", "beam.smp", "julia", "env", "ld",
    ];
    let name = Path::new(std::str::from_utf8(path).unwrap_or_default())
        .file_name()
        .and_then(|name| name.to_str());
    let name = name.unwrap_or_default().trim_end_matches(" (deleted)");
    // Versions and architectures: python3.11, lua5.4, qemu-x86_64, ld-linux-x86-64.so.2.
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    NAMES.contains(&stem)
        || NAMES.contains(&name)
        || name.starts_with("qemu-")
        || name.starts_with("ld-")
        || name.starts_with("ld.so")
}

/// Whether the process can look at callers of other users: CAP_SYS_PTRACE (capabilities(7)), or it
/// is root.
pub fn sees_other_users() -> bool {
    capabilities(None).map_or(geteuid().is_root(), |sets| {
        sets.effective.contains(CapabilitySet::SYS_PTRACE)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    use rustix::fs::fcntl_getfl;
    use rustix::io::{FdFlags, fcntl_getfd};
    use rustix::process::{PidfdFlags, pidfd_open};
    use rustix::thread::set_capabilities;

    use super::*;

    #[test]
    fn cgroups_of_systemd_kubernetes_and_docker_are_understood() {
        let id = "0123456789abcdef".repeat(4);
        let uid = "3a1e6a4c-9d5e-4b7a-8c2f-0d1e2f3a4b5c";
        let under = uid.replace('-', "_");
        let some = |text: &str| Some(text.to_owned());
        for (text, expected) in [
            (
                "0::/system.slice/crew.service\n".to_owned(),
                (some("crew.service"), None, None),
            ),
            (
                "0::/system.slice/crew.service/inner.service\n".to_owned(),
                (some("crew.service"), None, None),
            ),
            // What a user's own manager calls its units is that user's choice.
            (
                "0::/user.slice/user-7.slice/user@7.service/app.slice/crew.service\n".to_owned(),
                (some("user@7.service"), None, None),
            ),
            // So is what it calls its folders.
            (
                format!("0::/user.slice/user-7.slice/user@7.service/app.slice/{id}\n"),
                (some("user@7.service"), None, None),
            ),
            (
                format!("0::/system.slice/crew.service/pod{uid}/{id}\n"),
                (some("crew.service"), None, None),
            ),
            (
                format!("0::/user.slice/pod{uid}/{id}\n"),
                (None, None, None),
            ),
            (
                format!("0::/system.slice/docker-{id}.scope/pod{uid}\n"),
                (some(&format!("docker-{id}.scope")), None, some(&id)),
            ),
            (
                "0::/user.slice/user-7.slice/session-1.scope\n".to_owned(),
                (some("session-1.scope"), None, None),
            ),
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{id}.scope\n"
                ),
                (
                    some(&format!("cri-containerd-{id}.scope")),
                    some(uid),
                    some(&id),
                ),
            ),
            (
                format!("0::/kubepods/besteffort/pod{uid}/{id}\n"),
                (None, some(uid), some(&id)),
            ),
            (
                format!("12:cpu:/docker/{id}\n11:memory:/docker/{id}\n0::/\n"),
                (None, None, some(&id)),
            ),
            // Two that contradict each other.
            (
                format!(
                    "12:cpu:/docker/{id}\n11:memory:/docker/{}\n",
                    "f".repeat(64)
                ),
                (None, None, None),
            ),
            (
                format!("0::/kubepods/pod{uid}/pod{}/{id}\n", uid.replace('3', "4")),
                (None, None, some(&id)),
            ),
            (
                "0::/../../system.slice/crew.service\n".to_owned(),
                (None, None, None),
            ),
            ("0::/\n".to_owned(), (None, None, None)),
            (String::new(), (None, None, None)),
            (format!("0::/x{id}\n"), (None, None, None)),
            (format!("0::/pod{uid}x\n"), (None, None, None)),
            (
                format!("0::/pod{}\n", uid.to_uppercase()),
                (None, None, None),
            ),
        ] {
            assert_eq!(of_cgroup(&text), expected, "{text}");
        }
    }

    /// A security module that says this of the socket and of the process.
    struct Says(Option<Vec<u8>>, Option<Vec<u8>>);

    impl Labels for Says {
        fn of_peer(&self, _: BorrowedFd<'_>) -> Option<Vec<u8>> {
            self.0.clone()
        }

        fn of_process(&self, _: BorrowedFd<'_>) -> Option<Vec<u8>> {
            self.1.clone()
        }
    }

    #[test]
    fn a_label_is_what_the_security_module_says_of_socket_and_process() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Connected {
            pid: std::process::id().cast_signed(),
            uid: geteuid().as_raw(),
            gid: 0,
        };
        let seen = |of_peer: Option<&[u8]>, of_process: Option<&[u8]>| {
            let labels = Says(of_peer.map(<[u8]>::to_vec), of_process.map(<[u8]>::to_vec));
            Inspector {
                digests: Mutex::default(),
                labels,
            }
            .see(&ours, peer, None, false)
            .unwrap()
            .label
        };
        let longest = "x".repeat(MAX_LABEL);
        for (of_peer, of_process, label) in [
            // As SELinux, AppArmor and Smack write them.
            (
                "system_u:system_r:crew_t:s0\0",
                "system_u:system_r:crew_t:s0\0",
                "system_u:system_r:crew_t:s0",
            ),
            ("crew (enforce)", "crew (enforce)\n", "crew (enforce)"),
            ("crew\0", "crew", "crew"),
            ("crew", "crew\n\0", "crew"),
            ("équipe", "équipe", "équipe"),
            (&longest, &longest, &longest),
            (&format!("{longest}\0"), &format!("{longest}\n"), &longest),
        ] {
            assert_eq!(
                seen(Some(of_peer.as_bytes()), Some(of_process.as_bytes())).as_deref(),
                Some(label)
            );
        }
        for (of_peer, of_process) in [
            ("crew", "other"),
            ("other", "crew"),
            ("crew", "crew (enforce)"),
            ("crew", "Crew"),
            ("crew", " crew"),
            ("crew", "crew\0other"),
            ("crew", ""),
            ("", "crew"),
        ] {
            assert_eq!(
                seen(Some(of_peer.as_bytes()), Some(of_process.as_bytes())),
                None,
                "{of_peer:?} {of_process:?}"
            );
        }
        // Both agree, on what is no label.
        let too_long = [b'x'; MAX_LABEL + 1];
        for none in [
            &b""[..],
            b"\0",
            b"\n",
            &[0; MAX_LABEL],
            b"cr\xffew",
            b"crew\xc3",
            b"cr\0ew",
            b"cr\new",
            b"cr\x1bew",
            b"crew\x7f",
            &too_long,
        ] {
            assert_eq!(seen(Some(none), Some(none)), None, "{none:?}");
        }
        for (of_peer, of_process) in [
            (None, None),
            (Some(&b"crew"[..]), None),
            (None, Some(&b"crew"[..])),
        ] {
            assert_eq!(seen(of_peer, of_process), None);
        }
    }

    #[test]
    fn only_file_systems_whose_bytes_no_program_and_no_server_decides_are_local() {
        for kind in [
            "ext4", "xfs", "btrfs", "tmpfs", "overlay", "squashfs", "erofs", "zfs",
        ] {
            assert!(is_local(kind), "{kind}");
        }
        for kind in [
            "fuse",
            "fuse.bindfs",
            "fuse.ext4",
            "fuseblk",
            "virtiofs",
            "nfs",
            "nfs4",
            "cifs",
            "smb3",
            "9p",
            "ceph",
            "afs",
            "",
            "next",
        ] {
            assert!(!is_local(kind), "{kind}");
        }
    }

    #[test]
    fn the_type_of_a_mount_is_read_as_the_kernel_writes_it() {
        let mounts = "21 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw\n\
                      212 21 0:44 / /mnt/-\\040ext4 rw,nosuid - fuse.-\\040ext4 21 rw\n\
                      30 21 0:5 / /dev rw - tmpfs none rw\n";
        let of = |mount| file_system_of(mounts, mount);
        assert_eq!(
            (of(21).as_deref(), of(30).as_deref()),
            (Some("ext4"), Some("tmpfs"))
        );
        assert_eq!(of(212).as_deref(), Some("fuse.-\\040ext4"));
        assert_eq!(
            (of(1), of(2), file_system_of("5 1 0:5 / /x rw", 5)),
            (None, None, None)
        );
        // What this test itself runs is on a mount that it sees.
        let own = Process::open(std::process::id().cast_signed()).unwrap();
        let running = own.running().unwrap();
        assert!(own.file_system(running.mount).is_some());
        assert_eq!(
            running.inode,
            running.open().unwrap().metadata().unwrap().ino()
        );
    }

    #[test]
    fn a_label_is_read_from_socket_and_process_and_there_is_none_without_a_security_module() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let of_peer =
            |stream: &std::os::unix::net::UnixStream| KernelLabels.of_peer(stream.as_fd());
        assert_eq!(of_peer(&ours), of_peer(&theirs));
        let text = |said: Option<Vec<u8>>| said.as_deref().and_then(label_text).map(str::to_owned);
        // Before Linux 6.17 AppArmor has a label for each process, and says none of a peer.
        let own = text(std::fs::read("/proc/self/attr/current").ok());
        assert!(
            text(of_peer(&ours)).is_none_or(|label| Some(&label) == own.as_ref()),
            "{:?} is not {own:?}",
            of_peer(&ours)
        );
        assert_eq!(
            KernelLabels.of_peer(File::open("/proc/self/status").unwrap().as_fd()),
            None,
            "no socket"
        );

        // A directory in the place of a process' own, so that there is a label to read on every
        // machine.
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(folder.path()).unwrap();
        assert_eq!(KernelLabels.of_process(opened.as_fd()), None);
        std::fs::create_dir(folder.path().join("attr")).unwrap();
        std::fs::write(folder.path().join("attr/current"), b"cr\xffew\0").unwrap();
        assert_eq!(
            KernelLabels.of_process(opened.as_fd()).as_deref(),
            Some(&b"cr\xffew\0"[..])
        );
    }

    #[test]
    fn interpreters_are_known_by_whatever_version() {
        for name in [
            "/usr/bin/python3.11",
            "/bin/sh",
            "/usr/bin/node",
            "busybox",
            "/lib64/ld-linux-x86-64.so.2",
            "/usr/bin/perl5.36 (deleted)",
            "/usr/bin/qemu-x86_64",
            "/x/java",
            "lua5.4",
            "/usr/bin/env",
        ] {
            assert!(is_interpreter(name.as_bytes()), "{name}");
        }
        for name in [
            "/usr/bin/agent",
            "/opt/shell",
            "/usr/bin/pythonic",
            "/usr/bin/anchorhold",
            "",
        ] {
            assert!(!is_interpreter(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_peer_has_a_pid_a_user_and_a_group_that_can_be_named_here() {
        let seen = Connected {
            pid: 1,
            uid: 2,
            gid: 3,
        };
        assert_eq!(Connected::seen(Some(1), 2, 3), Some(seen));
        for (pid, uid, gid) in [
            (None, 2, 3),
            (Some(0), 2, 3),
            (Some(-1), 2, 3),
            (Some(1), OVERFLOW_ID, 3),
            (Some(1), 2, OVERFLOW_ID),
        ] {
            assert_eq!(Connected::seen(pid, uid, gid), None, "{pid:?} {uid} {gid}");
        }
    }

    #[tokio::test]
    async fn a_peer_is_whom_the_kernel_names() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Connected::of(&ours).unwrap();
        let pid = std::process::id().cast_signed();
        assert_eq!((peer.pid, peer.uid), (pid, geteuid().as_raw()));
    }

    /// A process that waits in a file of ours: no interpreter, and not root's.
    struct Agent {
        running: Started,
        path: PathBuf,
        _folder: tempfile::TempDir,
    }

    impl Agent {
        fn start(name: &str, change: impl FnOnce(&Path)) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            std::fs::copy("/usr/bin/sleep", &path).unwrap();
            change(&path);
            Self {
                running: waiting(&path),
                path,
                _folder: folder,
            }
        }

        fn measured(&self, uid: u32) -> Result<Digest<32>, &'static str> {
            let inspector = Inspector::<KernelLabels>::default();
            measured(&inspector, &self.running.process(), uid)
        }
    }

    /// A process that is ended when this is.
    struct Started(Child);

    impl Started {
        fn pid(&self) -> i32 {
            self.0.id().cast_signed()
        }

        fn process(&self) -> Process {
            Process::open(self.pid()).unwrap()
        }
    }

    impl Drop for Started {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A process that waits for a minute, or until it is ended.
    fn waiting(path: &Path) -> Started {
        let mut command = Command::new(path);
        let mut start = || command.arg("60").stdin(Stdio::null()).spawn().map(Started);
        // Another test may have forked while this file was open for writing.
        (0..100)
            .find_map(|_| {
                let child = start().ok();
                if child.is_none() {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                child
            })
            .expect("it starts")
    }

    fn measured(
        inspector: &Inspector<KernelLabels>,
        process: &Process,
        uid: u32,
    ) -> Result<Digest<32>, &'static str> {
        let peer = Connected {
            pid: 1,
            uid,
            gid: 1,
        };
        inspector.measured(process, peer)
    }

    fn mode(mode: u32) -> impl FnOnce(&Path) {
        move |path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    /// A user who is neither root nor ourselves.
    fn stranger() -> u32 {
        geteuid().as_raw() + 7
    }

    #[test]
    fn what_a_caller_runs_is_measured_if_nobody_else_could_change_it() {
        let agent = Agent::start("agent", mode(0o755));
        let mut file = File::open(&agent.path).unwrap();
        let length = file.metadata().unwrap().len();
        let digest = sha256_of(&mut file, length).unwrap();
        assert_eq!(
            digest,
            identity::sha256(&std::fs::read(&agent.path).unwrap())
        );
        for uid in [0, stranger()] {
            assert_eq!(agent.measured(uid), Ok(digest));
        }
        let writable = Err("the caller could write to it");
        for bits in [0o775, 0o757] {
            assert_eq!(Agent::start("agent", mode(bits)).measured(0), writable);
        }
        // Of the caller itself. Only root gives files away.
        let (owner, own) = (stranger(), geteuid());
        let owner = if own.is_root() { owner } else { own.as_raw() };
        let owned = Agent::start("agent", |path| {
            mode(0o755)(path);
            std::os::unix::fs::chown(path, Some(owner), None).unwrap();
        });
        assert_eq!(owned.measured(owner), writable);
        assert_eq!(owned.measured(owner + 1), Ok(digest));

        let too_large = Agent::start("agent", |path| {
            let file = File::options().write(true).open(path).unwrap();
            file.set_len(MAX_EXECUTABLE + 1).unwrap();
            mode(0o755)(path);
        });
        assert_eq!(too_large.measured(0), Err("no file, or too large a one"));
        let interpreter = Agent::start("python3.11", mode(0o755));
        assert!(interpreter.measured(0).unwrap_err().contains("interpreter"));
    }

    #[test]
    fn a_caller_is_measured_where_that_was_asked_for() {
        let agent = Agent::start("agent", mode(0o755));
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = Connected {
            pid: agent.running.pid(),
            uid: 0,
            gid: 0,
        };
        let see = |measure| {
            let inspector = Inspector::<KernelLabels>::default();
            let seen = inspector.see(&ours, peer, Some("a"), measure).unwrap();
            assert_eq!(seen.socket.as_deref(), Some("a"));
            seen.executable
        };
        assert_eq!(see(true), Some(agent.measured(0).unwrap()));
        assert_eq!(see(false), None);
    }

    #[test]
    fn a_digest_is_remembered_of_what_only_root_could_change() {
        let [tail, sleep] = ["/usr/bin/tail", "/usr/bin/sleep"].map(Path::new);
        let inspector = Inspector::<KernelLabels>::default();
        let mut follows = Command::new(tail);
        follows.args(["-f", "/dev/null"]).stdin(Stdio::null());
        let follows = Started(follows.spawn().unwrap());
        let waits = waiting(sleep);
        let processes = [follows.process(), waits.process()];
        let both = processes
            .each_ref()
            .map(|process| measured(&inspector, process, 0).unwrap());
        let read = [tail, sleep].map(|path| identity::sha256(&std::fs::read(path).unwrap()));
        assert_eq!(both, read);
        assert_eq!(inspector.digests().len(), 2);
        // It is not read again.
        let other = Digest([7; 32]);
        inspector
            .digests()
            .values_mut()
            .for_each(|digest| *digest = other);
        assert_eq!(measured(&inspector, &processes[0], 0), Ok(other));
        // There is an end of what is remembered.
        let known = inspector.digests().len();
        for number in known..MAX_CACHED {
            let version = (0, number as u64, 0, 0, 0);
            inspector.digests().insert(version, other);
        }
        assert_eq!(measured(&inspector, &processes[1], 0), Ok(other));
        assert_eq!(inspector.digests().len(), 1);
    }

    #[test]
    fn a_digest_is_not_remembered_of_what_its_owner_could_change() {
        if !geteuid().is_root() {
            // Not eprintln: the test runner would swallow it.
            let why = "SKIPPED: only root gives a file to somebody else\n";
            std::io::Write::write_all(&mut std::io::stderr(), why.as_bytes()).unwrap();
            return;
        }
        let owner = stranger();
        let agent = Agent::start("agent", |path| {
            mode(0o755)(path);
            std::os::unix::fs::chown(path, Some(owner), None).unwrap();
        });
        let inspector = Inspector::<KernelLabels>::default();
        measured(&inspector, &agent.running.process(), 0).unwrap();
        assert!(inspector.digests().is_empty());
    }

    /// A directory in the place of a process' own, with these files.
    fn pretended(files: &[(&str, &str)]) -> (Process, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let process = Process {
            folder: File::open(folder.path()).unwrap().into(),
        };
        (process, folder)
    }

    #[test]
    fn a_process_says_by_whom_it_is_traced_where_it_is_and_of_which_unit() {
        for (status, is_traced) in [
            ("Name:\tx\nTracerPid:\t0\nUid:\t0\n", false),
            ("Name:\tx\nTracerPid:\t17\nUid:\t0\n", true),
            ("Name:\tx\n", true),
            // Within what is read of it.
            (
                &format!("{}TracerPid:\t0\n", "Filler:\n".repeat(5000)),
                false,
            ),
        ] {
            let (process, _folder) = pretended(&[("status", status)]);
            assert_eq!(process.is_traced(), is_traced, "{status}");
        }
        let (process, _folder) = pretended(&[
            ("ns/user", ""),
            ("cgroup", "0::/system.slice/crew.service\n"),
            ("mountinfo", "21 1 254:0 / / rw - ext4 /dev/vda rw\n"),
        ]);
        assert!(process.is_traced(), "nobody says that it is not");
        assert!(!process.is_in_our_user_namespace());
        assert_eq!(process.cgroup(), (Some("crew.service".into()), None, None));
        assert_eq!(process.file_system(21).as_deref(), Some("ext4"));
        let own = Process::open(std::process::id().cast_signed()).unwrap();
        assert!(own.is_in_our_user_namespace());
    }

    #[test]
    fn no_child_inherits_what_is_opened_of_a_process() {
        let own = Process::open(std::process::id().cast_signed()).unwrap();
        let running = own.running().unwrap().file;
        for opened in [&own.folder, &running] {
            assert!(fcntl_getfd(opened).unwrap().contains(FdFlags::CLOEXEC));
            assert!(fcntl_getfl(opened).unwrap().contains(OFlags::PATH));
        }
    }

    #[test]
    fn a_process_lives_until_it_ends() {
        let waits = waiting(Path::new("/usr/bin/sleep"));
        let pid = rustix::process::Pid::from_child(&waits.0);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert!(lives(pidfd.as_fd()));
        drop(waits);
        assert!(!lives(pidfd.as_fd()));
    }

    #[test]
    fn a_file_is_digested_if_it_is_as_long_as_was_said() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..600_000_u32).flat_map(u32::to_be_bytes).collect();
        let length = bytes.len() as u64;
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        for (said, is_it) in [
            (length, true),
            (length - 1, false),
            (length + 1, false),
            (0, false),
        ] {
            std::io::Seek::rewind(&mut file).unwrap();
            let digest = sha256_of(&mut file, said).ok();
            assert_eq!(digest, is_it.then(|| identity::sha256(&bytes)), "{said}");
        }
    }

    #[test]
    fn who_may_trace_sees_other_users() {
        let mut sets = capabilities(None).unwrap();
        let may = sets.effective.contains(CapabilitySet::SYS_PTRACE);
        assert_eq!(sees_other_users(), may);
        // In this thread alone.
        sets.effective.remove(CapabilitySet::SYS_PTRACE);
        set_capabilities(None, sets).unwrap();
        assert!(!sees_other_users());
    }
}
