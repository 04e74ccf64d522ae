use std::process::Command;

use harness::program;
use serde_json::Value;

#[test]
fn the_demonstration_holds_and_leaves_nothing_behind() {
    let folder = harness::private_folder();
    let output = Command::new(program("anchorhold-dev"))
        .args(["demo", "--json"])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        report["steps"]
            .as_array()
            .unwrap()
            .iter()
            .all(|step| step["ok"] == true)
    );
    let attacks = report["attacks"].as_array().unwrap();
    assert_eq!(attacks.len(), 16);
    assert!(
        attacks
            .iter()
            .all(|attack| attack["expected_code"] == attack["actual_code"])
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_interrupted_demonstration_leaves_nothing_behind_either() {
    let folder = harness::private_folder();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut command = Command::new(program("anchorhold-dev"));
        command.arg("demo").env("TMPDIR", folder.path());
        let mut demo = qemu_dev::Child::start("demo", command, None).unwrap();
        harness::wait_for(|| std::fs::read_dir(folder.path()).unwrap().count() > 0);
        demo.signal(signal);
        harness::wait_for(|| std::fs::read_dir(folder.path()).unwrap().count() == 0);
        demo.stop().unwrap();
    }
}

#[test]
fn the_demonstration_explains_itself() {
    let output = Command::new(program("anchorhold-dev"))
        .arg("demo")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for phrase in [
        "MOCK mode",
        "An identity was born inside",
        "offline",
        "document past its leaf",
        "Everything held.",
    ] {
        assert!(text.contains(phrase), "{phrase}");
    }
}
