//! What the kernel says of a process.

use std::fs;

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
