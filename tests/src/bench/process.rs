//! Processes, and what the kernel says of them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// CPU time of a process and all its threads, living and ended, in seconds (proc_pid_stat(5),
/// fields 14 and 15).
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a living process");
    let after_name = stat.rsplit_once(") ").expect("a name in parentheses").1;
    let ticks: f64 = after_name
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}

/// Resident memory in KiB.
pub(crate) fn resident_kib(pid: u32) -> u64 {
    kib(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// As [`resident_kib`], but pages that several processes share are divided among them (proc(5)).
pub(crate) fn proportional_kib(pid: u32) -> u64 {
    kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn kib(file: &str, name: &str) -> u64 {
    let status = fs::read_to_string(file).expect("a living process");
    let line = status
        .lines()
        .find(|line| line.starts_with(name))
        .expect("a line of this name");
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .expect("a number")
}

/// A process, and what its first thread has started.
pub(crate) fn family(own: u32) -> Vec<u32> {
    let children = format!("/proc/{own}/task/{own}/children");
    let children = fs::read_to_string(children).unwrap_or_default();
    let children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    children.chain([own]).collect()
}

/// A process that ends with what started it.
pub(crate) struct Peer {
    pub(crate) process: Child,
    pub(crate) port: u16,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // What it has started ends with it, if it is asked to.
        if let Some(pid) = rustix::process::Pid::from_raw(self.process.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.process.wait();
    }
}

impl Peer {
    /// It, and what it has started.
    pub(crate) fn processes(&self) -> Vec<u32> {
        family(self.process.id())
    }

    pub(crate) fn cpu(&self) -> f64 {
        self.processes().into_iter().map(cpu_seconds).sum()
    }
}

/// A part of this program in a process of its own, which says its port.
pub(crate) fn itself(arguments: &[&str]) -> Peer {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    let mut process = command
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("itself");
    let mut line = String::new();
    let mut out = BufReader::new(process.stdout.take().expect("a pipe"));
    out.read_line(&mut line).expect("a port");
    let port = line.trim().parse().expect("a port");
    Peer { process, port }
}
