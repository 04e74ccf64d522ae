//! Alone in its process: the limit is for all that a process allocates.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{ask, bundle};
use policy_engine::{Denied, Rego};

/// Nearly 16 MiB of what the caller sends, twice.
const LARGE: &str = r#"package large
default allow = false
first := replace(input.payload.x, "a", concat("", [input.payload.y, "1"]))
second := replace(input.payload.x, "a", concat("", [input.payload.y, "2"]))
allow if { count(first) + count(second) == 1 }
"#;

/// As many times a mebibyte as the payload has members, kept at once; then yes.
const MEBIBYTES: &str = r#"package mebibytes
pieces := [replace(input.payload.x, "a", concat("", [input.payload.y, n])) | some n in input.payload.each]
allow if count(pieces) == count(input.payload.each)
"#;

/// As many times the same, printed.
const PRINTED: &str = r#"package printed
piece := replace(input.payload.x, "a", concat("", [input.payload.y, "0"]))
allow if count([n | some n in input.payload.each; print(piece, n)]) == count(input.payload.each)
"#;

fn mebibytes(number: usize) -> String {
    let each: Vec<String> = (10..10 + number).map(|n| format!("\"{n}\"")).collect();
    // 1000 times 1048 bytes.
    format!(
        "{{\"x\":\"{}\",\"y\":\"{}\",\"each\":[{}]}}",
        "a".repeat(1000),
        "b".repeat(1046),
        each.join(",")
    )
}

/// Asks until it was not the time that was over, which it may be on a busy machine.
fn decide(module: &str, payload: &str) -> Result<(), Denied> {
    let bundle = bundle(module);
    let rego = Rego::load(&bundle).unwrap().unwrap();
    let ask = || ask(&bundle, &rego, payload);
    let of_time = |decided: &Result<(), Denied>| matches!(decided, Err(Denied::PolicyTimeout(why)) if why.contains("time limit"));
    (0..1000)
        .map(|_| ask())
        .find(|decided| !of_time(decided))
        .expect("its time was over a thousand times")
}

fn is_of_memory(decided: &Result<(), Denied>) -> bool {
    matches!(decided, Err(Denied::PolicyTimeout(why)) if why.contains("exceeded memory limit"))
}

#[test]
fn rego_has_sixteen_mebibytes() {
    for module in [MEBIBYTES, PRINTED] {
        assert_eq!(decide(module, &mebibytes(12)), Ok(()), "{module}");
        let denied = decide(module, &mebibytes(24));
        assert!(is_of_memory(&denied), "{module}: {denied:?}");
        assert_eq!(
            decide(module, &mebibytes(12)),
            Ok(()),
            "what was taken is given back; {module}"
        );
    }
    // And of large pieces.
    let large = format!(
        "{{\"x\":\"{}\",\"y\":\"{}\"}}",
        "a".repeat(3500),
        "b".repeat(4400)
    );
    let denied = decide(LARGE, &large);
    assert!(is_of_memory(&denied), "{denied:?}");
    assert_eq!(
        decide(LARGE, "{\"x\":\"a\",\"y\":\"b\"}"),
        Err(Denied::PolicyDenied("data.large".into()))
    );
}
