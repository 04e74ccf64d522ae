//! What the host has of a credential: nothing, in its memory and in the bytes between.

use std::fs::File;
use std::os::unix::fs::FileExt;

use broker::Needles;
use harness::services::{PLACEHOLDER, SECRET, With};
use harness::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::ingress::{HTTPS_PROXY, Proxied};
use super::setting::Setting;
use super::sockets;
use super::upstream::{Upstream, answer};

/// Whether one of these, in any of the forms in which answers are looked through, stands in what a process has written
/// in its memory.
fn has_in_memory(pid: u32, needles: &Needles) -> bool {
    const CHUNK: usize = 4 << 20;
    const OVERLAP: u64 = 4096;
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut chunk = vec![0; CHUNK];
    for line in maps.lines() {
        let mut words = line.split(' ');
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        let (from, to) = range.split_once('-').unwrap();
        let at = |hex| u64::from_str_radix(hex, 16).unwrap();
        let (mut from, to) = (at(from), at(to));
        while rights.starts_with("rw") && from < to {
            let most = CHUNK.min(usize::try_from(to - from).unwrap());
            // Some pages are nobody's to read.
            let Ok(read) = memory.read_at(&mut chunk[..most], from) else {
                break;
            };
            if needles.stand_in(&chunk[..read]) {
                return true;
            }
            let read = read as u64;
            from += if from + read >= to {
                read
            } else {
                read.saturating_sub(OVERLAP).max(1)
            };
        }
    }
    false
}

#[test]
fn neither_the_memory_of_the_sidecar_nor_what_passes_it_has_the_credential() {
    let proxied = Proxied::of(sockets::start());
    let setting = &proxied.setting;
    let (sidecar, enclave) = (setting.running.sidecar.pid(), setting.running.enclave.pid());
    let trace = setting.running.folder().join("trace");
    let calls = "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,sendmmsg";
    let file = trace.to_str().unwrap();
    let arguments = ["-s", "1000000", "-o", file, "-e", calls];
    let Some(mut strace) = harness::strace(sidecar, &arguments) else {
        return harness::skipped("strace is not installed");
    };
    // It is put once more, used by every way in, and shown by the service in vain.
    setting.put_well("crew", SECRET);
    let bearer = format!("authorization: Bearer {PLACEHOLDER}\r\n");
    assert!(
        setting
            .ask_tcp("GET /api/page", &bearer, b"")
            .contains("a page")
    );
    let through = proxied.curl(&["https://api.example/v1/page"]);
    assert!(through.stdout.ends_with(b"a page"));
    let told = setting.talk("/socket", &json!({"say": ["hello", "leak"]}));
    assert_eq!(told["closed"], json!([1008, "credential_reflected"]));
    setting.events("credential.close", 3);
    let needles = Needles::new(&[SECRET]);
    assert!(!has_in_memory(sidecar, &needles));
    kill_process(
        Pid::from_raw(strace.id().cast_signed()).unwrap(),
        Signal::INT,
    )
    .unwrap();
    strace.wait().unwrap();
    let heard = std::fs::read(&trace).unwrap();
    assert!(!needles.stand_in(&heard));
    // Whoever looks so finds what is there.
    assert!(Needles::new(&[PLACEHOLDER]).stand_in(&heard));
    assert!(has_in_memory(
        sidecar,
        &Needles::new(&["agentkeys-proxy.sock"])
    ));
    assert!(has_in_memory(std::process::id(), &needles));
    // And where it should be, it is: in the process that asks the service, which is the enclave's.
    let children = format!("/proc/{enclave}/task/{enclave}/children");
    wait_for(|| {
        let children = std::fs::read_to_string(&children).unwrap();
        let mut children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        children.any(|child| has_in_memory(child, &needles))
    });
}

#[test]
fn no_process_of_a_service_has_the_credential_of_another_and_ingress_has_none() {
    let upstream = Upstream::start(|_, tls| answer(tls, 200, "", b"a page"));
    let bundle = format!(
        "{HTTPS_PROXY}[[services]]\nname = \"other\"\nupstream = \"https://api.example/other\"\nroots = ['''{}''']\n\
         inject = {{ header = \"x-api-key\" }}\n\
         rules = [{{ name = \"read\", methods = [\"GET\"], paths = [\"/models\"], identities = [\"crew\"] }}]\n",
        upstream.root
    );
    let addresses = format!("other = \"{}\", ", upstream.address);
    let with = With {
        bundle: &bundle,
        addresses: &addresses,
        ..With::default()
    };
    let setting = Setting::with(upstream, &with);
    let another = "another-credential-5d41402abc4b";
    setting.put_well("crew", SECRET);
    let put = setting.put_for("other", "crew", another, &[]);
    assert!(put.status.success(), "{put:?}");
    let proxied = Proxied::of(setting);
    let setting = &proxied.setting;
    for path in ["/api/models", "/other/models"] {
        assert_eq!(setting.ask(&format!("GET {path}"), "", b"").status, 200);
    }
    for path in ["v1/models", "other/models"] {
        let through = proxied.curl(&[&format!("https://api.example/{path}")]);
        assert!(through.stdout.ends_with(b"a page"));
    }
    let seen = setting.upstream.seen();
    assert_eq!(seen[1].header("x-api-key"), Some(another));
    let enclave = setting.running.enclave.pid();
    let children = std::fs::read_to_string(format!("/proc/{enclave}/task/{enclave}/children"));
    let children: Vec<u32> = children
        .unwrap()
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect();
    // The egress process, ingress, and one for each service.
    assert!(children.len() >= 4, "{children:?}");
    let (first, second) = (Needles::new(&[SECRET]), Needles::new(&[another]));
    let has = |pid: &u32| (has_in_memory(*pid, &first), has_in_memory(*pid, &second));
    let each: Vec<(bool, bool)> = children.iter().map(has).collect();
    let count = |wanted| each.iter().filter(|has| **has == wanted).count();
    let others = children.len() - 2;
    let [one, other, neither, both] = [(true, false), (false, true), (false, false), (true, true)];
    assert_eq!(
        [count(one), count(other), count(neither), count(both)],
        [1, 1, others, 0],
        "{each:?}"
    );
}
