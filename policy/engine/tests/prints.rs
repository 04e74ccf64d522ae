//! What a module prints goes nowhere. Regorus writes it to standard error, and panics where that is
//! full; the enclave's console may be full, and a panic ends the enclave. Each test starts this
//! program again as a child, to be alone in a process.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::process::{Command, Output, Stdio};

use common::{ask, bundle};
use policy::Bundle;
use policy_engine::Rego;
use regorus::utils::limits::{LimitError, check_global_memory_limit, set_global_memory_limit};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// It prints while it is loaded, and before every decision; with `fails`, the decision is an error.
const MODULE: &str = r#"package a
default allow = false
texts := [input.payload.text | some n in input.payload.times]
allow if {
    print("asked", input.action, "by", input.caller, "with", texts)
    input.payload.good == true
}
require_approval := "perhaps" if {
    print("asked", input.payload)
    input.payload.fails == true
}
"#;

/// Set in a child.
const CHILD: &str = "ANCHORHOLD_TEST_OF_PRINTS";

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs one test of this program as a child.
fn child(test: &str, stderr: Stdio) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    format!(
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    )
}

/// A pipe that does not block, as the enclave's console.
fn console() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    fcntl_setfl(&writer, fcntl_getfl(&writer).unwrap() | OFlags::NONBLOCK).unwrap();
    (reader, writer)
}

/// Fills the pipe; gives how many bytes it took.
fn fill(writer: &mut PipeWriter) -> usize {
    let mut taken = 0;
    for size in [4096, 1] {
        while let Ok(written) = writer.write(&vec![b'x'; size]) {
            taken += written;
        }
    }
    taken
}

/// What the module decides: `None` if it allows. On a busy machine its time may be over first, so
/// it is asked until it was not.
fn decide(bundle: &Bundle, rego: &Rego, payload: &str) -> Option<&'static str> {
    let ask = || ask(bundle, rego, payload).err().map(|denied| denied.code());
    (0..1000)
        .map(|_| ask())
        .find(|code| *code != Some("policy_timeout"))
        .expect("its time was over a thousand times")
}

#[test]
fn a_module_that_prints_writes_nothing_and_decides_while_the_console_is_full() {
    if is_child() {
        let bundle = bundle(MODULE);
        let rego = Rego::load(&bundle).unwrap().unwrap();
        for _ in 0..3 {
            assert_eq!(decide(&bundle, &rego, "{\"good\":true}"), None);
            assert_eq!(decide(&bundle, &rego, "{}"), Some("policy_denied"));
            // Afterwards another copy of the engine decides.
            assert_eq!(
                decide(&bundle, &rego, "{\"fails\":true}"),
                Some("policy_failed")
            );
        }
        return;
    }
    for full in [true, false] {
        let (mut reader, mut writer) = console();
        let taken = if full { fill(&mut writer) } else { 0 };
        let output = child(
            "a_module_that_prints_writes_nothing_and_decides_while_the_console_is_full",
            Stdio::from(writer),
        );
        assert!(
            output.status.success() && text(&output).contains("1 passed"),
            "full: {full}; {}",
            text(&output)
        );
        let mut written = Vec::new();
        reader.read_to_end(&mut written).unwrap();
        assert_eq!(
            written.len(),
            taken,
            "{}",
            String::from_utf8_lossy(&written[taken..])
        );
    }
}

#[test]
fn what_was_printed_is_forgotten_with_each_decision() {
    if is_child() {
        let bundle = bundle(MODULE);
        let rego = Rego::load(&bundle).unwrap().unwrap();
        // Some 100 KiB are printed for each.
        let payload = |more: &str| {
            format!(
                "{{\"text\":\"{}\",\"times\":[{}]{more}}}",
                "y".repeat(4000),
                vec!["1"; 25].join(",")
            )
        };
        let (good, fails) = (payload(",\"good\":true"), payload(",\"fails\":true"));
        assert_eq!(decide(&bundle, &rego, &good), None);
        let before = used();
        let nothing_more = || {
            assert!(
                used() < before + (1 << 20),
                "{} bytes more are in use",
                used() - before
            )
        };
        for _ in 0..100 {
            assert_eq!(decide(&bundle, &rego, &good), None);
            nothing_more();
        }
        for _ in 0..100 {
            assert_eq!(decide(&bundle, &rego, &payload("")), Some("policy_denied"));
            nothing_more();
        }
        for _ in 0..100 {
            assert_eq!(decide(&bundle, &rego, &fails), Some("policy_failed"));
            nothing_more();
        }
        return;
    }
    let output = child(
        "what_was_printed_is_forgotten_with_each_decision",
        Stdio::null(),
    );
    assert!(
        output.status.success() && text(&output).contains("1 passed"),
        "{}",
        text(&output)
    );
}

/// Bytes in use by this process.
fn used() -> u64 {
    set_global_memory_limit(Some(0));
    match check_global_memory_limit() {
        Err(LimitError::MemoryLimitExceeded { usage, .. }) => usage,
        other => panic!("{other:?}"),
    }
}
