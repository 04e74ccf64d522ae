//! The system calls that are left, each with its reason. Any other kills the process, and with PID
//! 1 the machine.

use std::collections::BTreeMap;

use libc::{
    AF_VSOCK, CLONE_FILES, CLONE_FS, CLONE_SIGHAND, CLONE_THREAD, CLONE_VM, F_GETFD, PR_SET_NAME,
    PR_SET_VMA, PROT_EXEC, SYS_accept4, SYS_brk, SYS_clock_gettime, SYS_clock_nanosleep, SYS_clone,
    SYS_clone3, SYS_close, SYS_connect, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_wait, SYS_exit,
    SYS_exit_group, SYS_fcntl, SYS_futex, SYS_getpid, SYS_getrandom, SYS_getsockopt, SYS_gettid,
    SYS_ioctl, SYS_madvise, SYS_mmap, SYS_mprotect, SYS_mremap, SYS_munmap, SYS_openat, SYS_poll,
    SYS_ppoll, SYS_prctl, SYS_read, SYS_recvfrom, SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction,
    SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigtimedwait, SYS_sched_getaffinity,
    SYS_sched_yield, SYS_sendto, SYS_set_robust_list, SYS_setsockopt, SYS_shutdown,
    SYS_sigaltstack, SYS_socket, SYS_sysinfo, SYS_wait4, SYS_write, SYS_writev,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::machine::forbid_dumps;
use crate::{BootClock, BootTime, Error};

/// A system call on the list.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// Its number on x86-64.
    pub number: i64,
    /// What it is needed for.
    pub reason: &'static str,
    only: Only,
}

/// Which calls of it.
#[derive(Debug, Clone, Copy)]
enum Only {
    Any,
    /// The argument of this index has this value.
    Is(u8, u64),
    /// The argument of this index has none of these bits.
    Without(u8, u64),
    /// The argument of this index has all of these bits.
    With(u8, u64),
}

const fn any(number: i64, reason: &'static str) -> Allowed {
    Allowed {
        number,
        reason,
        only: Only::Any,
    }
}

/// Whether a handle waits (ioctl_list(2)).
const FIONBIO: u64 = libc::FIONBIO;
/// `_IOWR(0x0A, 0, struct nsm_raw)`, linux/nsm.h.
const NSM_IOCTL_RAW: u64 = 0xc020_0a00;
/// Of a thread; without them it would be a process.
const THREAD: i32 = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;

/// Everything that the enclave still does.
pub const ALLOWED: &[Allowed] = &[
    any(SYS_read, "connections; the mock's channel"),
    any(SYS_write, "connections; the console"),
    any(SYS_writev, "the console, in parts"),
    any(SYS_recvfrom, "connections"),
    any(SYS_sendto, "connections"),
    any(SYS_accept4, "the window"),
    any(SYS_shutdown, "a connection that has misbehaved"),
    any(SYS_setsockopt, "timeouts of a connection"),
    any(SYS_getsockopt, "whether the last words can be said"),
    any(SYS_close, "connections"),
    any(SYS_fcntl, "a second handle of a connection, for its writer"),
    Allowed {
        number: SYS_socket,
        reason: "heartbeat and last words, over vsock only",
        only: Only::Is(0, AF_VSOCK as u64),
    },
    any(SYS_connect, "heartbeat and last words"),
    any(SYS_poll, "waiting for the last words to be heard"),
    any(SYS_ppoll, "waiting for the last words to be heard"),
    Allowed {
        number: SYS_ioctl,
        reason: "the NSM, and no other device",
        only: Only::Is(1, NSM_IOCTL_RAW),
    },
    any(SYS_getrandom, "keys, challenges, ids"),
    any(
        SYS_clock_gettime,
        "CLOCK_BOOTTIME and deadlines, where the vDSO cannot",
    ),
    any(
        SYS_clock_nanosleep,
        "the clock thread; a pause when nothing can be accepted",
    ),
    any(SYS_futex, "locks and channels between threads"),
    Allowed {
        number: SYS_mmap,
        reason: "memory, never executable",
        only: Only::Without(2, PROT_EXEC as u64),
    },
    Allowed {
        number: SYS_mprotect,
        reason: "memory and thread stacks, never executable",
        only: Only::Without(2, PROT_EXEC as u64),
    },
    any(SYS_munmap, "memory"),
    any(SYS_mremap, "memory that grows"),
    any(
        SYS_madvise,
        "memory given back; stacks of threads that ended",
    ),
    any(SYS_brk, "memory"),
    Allowed {
        number: SYS_clone,
        reason: "threads, never processes",
        only: Only::With(0, THREAD as u64),
    },
    any(SYS_set_robust_list, "the start of a thread"),
    any(SYS_rseq, "the start of a thread"),
    any(
        SYS_sigaltstack,
        "the start of a thread: the stack on which an overflow is told",
    ),
    any(
        SYS_sched_getaffinity,
        "the start of a thread: the C library asks for its stack",
    ),
    any(SYS_gettid, "the start of a thread"),
    any(SYS_getpid, "a panic, as the C library ends the process"),
    Allowed {
        number: SYS_prctl,
        reason: "the name of a thread",
        only: Only::Is(0, PR_SET_NAME as u64),
    },
    Allowed {
        number: SYS_prctl,
        reason: "the name of a thread's memory, in newer C libraries",
        only: Only::Is(0, PR_SET_VMA as u64),
    },
    any(
        SYS_rt_sigaction,
        "the first thread: the C library's own signal",
    ),
    any(SYS_rt_sigprocmask, "the start of a thread"),
    any(SYS_rt_sigtimedwait, "the signals thread"),
    any(SYS_rt_sigreturn, "the end of a signal handler"),
    any(SYS_wait4, "reaping"),
    any(SYS_sched_yield, "a lock under contention"),
    any(SYS_restart_syscall, "a sleep that was interrupted"),
    any(SYS_sysinfo, "how much memory is in use, for the console"),
    any(SYS_exit, "the end of a thread"),
    any(SYS_exit_group, "the end"),
];

/// Everything that the egress process still does: no sockets but those that come to its listener, no
/// devices, no threads.
pub const EGRESS: &[Allowed] = &[
    any(SYS_read, "the pipe; lines"),
    any(SYS_write, "the pipe; lines; the console"),
    any(SYS_writev, "lines, in parts"),
    any(SYS_recvfrom, "lines"),
    any(SYS_sendto, "lines"),
    any(SYS_accept4, "lines that are lent"),
    any(SYS_setsockopt, "the time that a line has"),
    any(SYS_close, "lines"),
    Allowed {
        number: SYS_fcntl,
        reason: "a build with debug assertions: whether a handle is open before it is closed",
        only: Only::Is(1, F_GETFD as u64),
    },
    any(SYS_poll, "waiting for a line"),
    any(SYS_ppoll, "waiting for a line"),
    any(SYS_getrandom, "TLS"),
    any(SYS_clock_gettime, "deadlines, where the vDSO cannot"),
    any(SYS_futex, "locks of libraries"),
    Allowed {
        number: SYS_mmap,
        reason: "memory, never executable",
        only: Only::Without(2, PROT_EXEC as u64),
    },
    Allowed {
        number: SYS_mprotect,
        reason: "memory, never executable",
        only: Only::Without(2, PROT_EXEC as u64),
    },
    any(SYS_munmap, "memory"),
    any(SYS_mremap, "memory that grows"),
    any(SYS_madvise, "memory given back"),
    any(SYS_brk, "memory"),
    any(SYS_sigaltstack, "the end of the first thread"),
    any(
        SYS_rt_sigprocmask,
        "a panic, as the C library ends the process",
    ),
    any(SYS_gettid, "a panic, as the C library ends the process"),
    any(SYS_getpid, "a panic, as the C library ends the process"),
    any(SYS_rt_sigreturn, "the end of a signal handler"),
    any(SYS_restart_syscall, "a wait that was interrupted"),
    any(SYS_exit_group, "the end"),
];

/// Everything that the process of a service still does: the same, many lines at a time.
pub const SERVICE: &[Allowed] = &[
    any(SYS_read, "the pipe; lines"),
    any(SYS_write, "the pipe; lines; the console"),
    any(SYS_writev, "lines, in parts"),
    any(SYS_recvfrom, "lines"),
    any(SYS_sendto, "lines"),
    any(SYS_accept4, "lines that are lent"),
    any(SYS_shutdown, "the end of a line"),
    any(SYS_close, "lines"),
    any(SYS_epoll_ctl, "which lines are waited for"),
    any(SYS_epoll_wait, "waiting for them"),
    any(SYS_epoll_pwait, "waiting for them"),
    Allowed {
        number: SYS_fcntl,
        reason: "a build with debug assertions: whether a handle is open before it is closed",
        only: Only::Is(1, F_GETFD as u64),
    },
    Allowed {
        number: SYS_ioctl,
        reason: "a line over vsock, not to wait for it; no device",
        only: Only::Is(1, FIONBIO),
    },
    any(SYS_getrandom, "TLS"),
    any(SYS_clock_gettime, "deadlines, where the vDSO cannot"),
    any(SYS_futex, "locks of libraries"),
    Allowed {
        number: SYS_mmap,
        reason: "memory, never executable",
        only: Only::Without(2, PROT_EXEC as u64),
    },
    Allowed {
        number: SYS_mprotect,
        reason: "memory, never executable",
        only: Only::Without(2, PROT_EXEC as u64),
    },
    any(SYS_munmap, "memory"),
    any(SYS_mremap, "memory that grows"),
    any(SYS_madvise, "memory given back"),
    any(SYS_brk, "memory"),
    any(SYS_sigaltstack, "the end of the first thread"),
    any(
        SYS_rt_sigprocmask,
        "a panic, as the C library ends the process",
    ),
    any(SYS_gettid, "a panic, as the C library ends the process"),
    any(SYS_getpid, "a panic, as the C library ends the process"),
    any(SYS_rt_sigreturn, "the end of a signal handler"),
    any(SYS_restart_syscall, "a wait that was interrupted"),
    any(SYS_exit_group, "the end"),
];

/// What the C library tries and can do without. Answered with ENOSYS, as by a kernel that does not
/// know them: nothing is done, and the process lives.
pub const ABSENT: &[Allowed] = &[
    any(
        SYS_clone3,
        "instead comes clone, whose flags a filter can see",
    ),
    any(
        SYS_openat,
        "the allocator asks /proc how it may give memory back; there are no files",
    ),
];

/// No core dumps, no new privileges, and no system call that is not on `allowed`, for all threads,
/// for good.
pub(super) fn confine_to(allowed: &[Allowed]) -> Result<(), Error> {
    // Changing the user has made the process dumpable or not as the kernel sees fit; so once more.
    forbid_dumps()?;
    // The first look at a clock finds the vDSO, and the first of aws-lc's randomness looks for a
    // device, by means that are gone afterwards.
    let _ = BootTime.now();
    aws_lc_rs::rand::fill(&mut [0]).map_err(|_| Error::NoRandomness)?;
    enter(allowed)
}

/// Puts the filters on all threads. `no_new_privs` goes with it.
fn enter(allowed: &[Allowed]) -> Result<(), Error> {
    let failed = |error: seccompiler::Error| Error::Boot {
        step: "entering seccomp",
        why: error.to_string(),
    };
    for filter in filters(allowed).map_err(|error| failed(error.into()))? {
        apply_filter_all_threads(&filter).map_err(failed)?;
    }
    Ok(())
}

/// Two, of which the stricter answer counts: the first takes away what is [`ABSENT`]; the second is
/// the list.
fn filters(allowed: &[Allowed]) -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let errno = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let absent = ABSENT
        .iter()
        .map(|call| (call.number, Vec::new()))
        .collect();
    let mut listed: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for allowed in allowed.iter().chain(ABSENT) {
        // A call without rules is allowed whatever its arguments.
        listed
            .entry(allowed.number)
            .or_default()
            .extend(allowed.only.rule()?);
    }
    let first = SeccompFilter::new(absent, SeccompAction::Allow, errno, TargetArch::x86_64)?;
    let second = SeccompFilter::new(
        listed,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    Ok([first.try_into()?, second.try_into()?])
}

impl Only {
    fn rule(self) -> Result<Option<SeccompRule>, seccompiler::BackendError> {
        let (index, op, value) = match self {
            Self::Any => return Ok(None),
            Self::Is(index, value) => (index, Op::Eq, value),
            Self::Without(index, bits) => (index, Op::MaskedEq(bits), 0),
            Self::With(index, bits) => (index, Op::MaskedEq(bits), bits),
        };
        SeccompRule::new(vec![SeccompCondition::new(
            index,
            Length::Dword,
            op,
            value,
        )?])
        .map(Some)
    }
}
